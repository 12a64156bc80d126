//! The command line: one variant per command, each with its arguments and its one function.

pub mod classify;
mod config;
pub mod dead_letters;
pub mod replay;
pub mod schemas;
pub mod topics;

use crate::roles::service::{self, LogFormat, RunArgs};
use crate::simulate::{self, SimulateArgs};
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::process::ExitCode;

/// One explained verdict, internal or external, for each of a company's RingCentral calls
#[derive(Debug, Parser)]
#[command(name = "callsieve", version, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Judge calls offline: RingCentral's documents in, a verdict per call out
    Classify(classify::ClassifyArgs),
    /// Take in notifications, judge calls, and serve the verdicts
    Run(Box<RunArgs>),
    /// Serve a simulated company as RingCentral would, or write its notifications to a file
    Simulate(SimulateArgs),
    /// Make, check or show the topics on Kafka, or move to another number of partitions
    Topics(topics::TopicsArgs),
    /// Show what could not be taken in, and give it back to where it came from
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Judge the past anew on Kafka, show what differs, and bring it over
    Replay(replay::ReplayArgs),
    /// Show, register or check the schemas of the topics' records
    Schemas(schemas::SchemasArgs),
}

/// Runs the command that the arguments name. Exits with 0, with 1 after an error, and with 2 for wrong usage; `classify` has one more.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match arguments(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("callsieve: {error:#}");
            return ExitCode::from(2);
        }
    };
    // Warnings of a command that writes none of its own. The first to be set stays, so those of `run` and `replay start` are set there.
    if matches!(arguments.command, Command::Topics(_) | Command::DeadLetters(_) | Command::Schemas(_)) {
        service::write_diagnostics(LogFormat::Text, "warn");
    }
    let done = match arguments.command {
        Command::Classify(args) => return classify::main(&args),
        Command::Run(args) => service::main(*args).map(|()| ExitCode::SUCCESS),
        Command::Simulate(args) => simulated(args).map(|()| ExitCode::SUCCESS),
        Command::Topics(args) => topics::main(args),
        Command::DeadLetters(args) => dead_letters::main(args),
        Command::Replay(args) => replay::main(args),
        Command::Schemas(args) => schemas::main(args),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            eprintln!("callsieve: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the arguments, together with the configuration file that they may name.
fn arguments(given: Vec<OsString>) -> anyhow::Result<Arguments> {
    let (all, file) = config::with_file(&Arguments::command(), "run", given)?;
    Ok(parse(all).unwrap_or_else(|error| {
        if let (Some(file), true) = (file, error.use_stderr()) {
            eprintln!("with what the configuration file {} sets:", file.display());
        }
        error.exit()
    }))
}

/// Parses the arguments. What is wrong with a value that may hold a secret is told without the value.
fn parse(all: Vec<OsString>) -> Result<Arguments, clap::Error> {
    let parsed = Arguments::command().try_get_matches_from(all).and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed.map_err(|mut error| {
        let mut command = Arguments::command();
        command.build();
        let is_secret = error.get(ContextKind::InvalidArg).is_some_and(|option| has_secrets(&command, &option.to_string()));
        if is_secret && error.get(ContextKind::InvalidValue).is_some() {
            error.insert(ContextKind::InvalidValue, ContextValue::String("***".into()));
        }
        error
    })
}

fn has_secrets(command: &clap::Command, option: &str) -> bool {
    let mut own = command.get_arguments().filter(|arg| arg.is_hide_env_values_set());
    own.any(|arg| arg.to_string() == option) || command.get_subcommands().any(|command| has_secrets(command, option))
}

fn simulated(args: SimulateArgs) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(simulate::run(args))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    fn parsed(text: &str, more: &[&str]) -> Result<Command, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let config = format!("--config={}", file.path().display());
        let given = ["callsieve"].iter().chain(more).map(OsString::from).chain([OsString::from(config)]).collect();
        let (all, _) = config::with_file(&Arguments::command(), "run", given).map_err(|error| format!("{error:#}"))?;
        parse(all).map(|arguments| arguments.command).map_err(|error| error.to_string())
    }

    fn run(text: &str, more: &[&str]) -> RunArgs {
        match parsed(text, &[&["run"], more].concat()) {
            Ok(Command::Run(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_stands_for_options_that_are_not_given() {
        let text = "brokers = 'a:1'\ntopic_prefix = 'x.'\nrate-limit = 7\nallow-old-brokers = true\n[kafka]\n'security.protocol' = 'ssl'\nssl.ca.location = 'ca'\nretries = 3";
        let args = run(text, &["--rate-limit", "9", "--workers", "2", "--kafka", "security.protocol=sasl_ssl"]);
        assert_eq!((args.brokers.as_deref(), args.topic_prefix.as_str(), args.rate_limit, args.workers), (Some("a:1"), "x.", 9, 2));
        assert!(args.allow_old_brokers && args.group.is_none());
        let kafka: std::collections::BTreeMap<String, String> = args.kafka.into_iter().flatten().collect();
        let kafka: Vec<(&str, &str)> = kafka.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(kafka, [("retries", "3"), ("security.protocol", "sasl_ssl"), ("ssl.ca.location", "ca")]);
        assert_eq!((run("simulate = true", &[]).simulate, run("simulate = 7", &[]).simulate), (Some(1), Some(7)));
    }

    #[test]
    fn other_commands_take_what_means_the_same_there() {
        let text = "brokers = 'a:1'\nworkers = 3\npartitions = 5";
        let Ok(Command::Topics(args)) = parsed(text, &["topics", "create"]) else { panic!("it is understood") };
        let shown = format!("{args:?}");
        assert!(shown.contains("a:1") && shown.contains("partitions: 12"), "{shown}");
    }

    #[test]
    fn what_a_file_can_not_say_is_named() {
        for (text, said) in [
            ("topic = 'x'", "there is no topic; there are data-dir, listen,"),
            ("config = 'x'", "there is no config"),
            ("a = [", "line 1"),
            ("brokers = 'a'\nworkers = [1]", "workers is a text or a number, not array"),
            ("kafka = 'x'", "kafka is a table"),
            ("brokers = 'a'\nallow-old-brokers = 'yes'", "allow-old-brokers is true or false"),
            ("brokers = 'a'\nworkers = 257", "--workers"),
            ("workers = 2", "--brokers"),
            ("brokers = 'a'\n[kafka]\nacks = 1", "is set by callsieve itself"),
        ] {
            let error = parsed(text, &["run"]).map(drop).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn what_may_hold_a_secret_is_not_shown() {
        for (options, said) in [
            (["--kafka", "sasl.password=hunter2\nacks=all"], "acks is set by callsieve itself"),
            (["--kafka", "acks=all\nsasl.password=hunter2"], "acks is set by callsieve itself"),
            (["--kafka", "sasl.username=me\nhunter2"], "line 2 isn't NAME=VALUE"),
            (["--schema-registry", "me:hunter2@registry:8081"], "http://"),
        ] {
            let error = parsed("brokers = 'a'", &["run", options[0], options[1]]).map(drop).unwrap_err();
            assert!(error.contains(said) && error.contains(options[0]) && !error.contains("hunter2"), "{error}");
        }
        let error = parsed("", &["run", "--workers", "many"]).map(drop).unwrap_err();
        assert!(error.contains("many"), "what holds none is: {error}");
    }

    #[test]
    fn the_example_in_deploy_is_understood() {
        let text = include_str!("../../deploy/callsieve.toml");
        let args = run(text, &[]);
        assert!(args.brokers.is_some() && !args.kafka.is_empty());
        // What is commented out is understood as well.
        let option = |line: &str| line.strip_prefix("#").filter(|rest| rest.contains(" = ") && !rest.starts_with(' ')).unwrap_or(line).to_owned();
        let all: Vec<String> = text.lines().map(option).collect();
        let args = run(&all.join("\n"), &[]);
        assert!(args.instance.is_some() && args.api_token.is_some());
    }
}
