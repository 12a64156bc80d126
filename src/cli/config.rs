//! The configuration file: TOML that stands for options of the command line.
//!
//! Its names are those of `callsieve run`'s options, with `-` or `_`; the table `[kafka]` has librdkafka's settings. What is set neither by a flag
//! nor in the environment is taken from it, by putting it before the flags as if it had been given there: so each option is defined, checked and
//! explained in one place. Of librdkafka's settings each stands for itself: flags change some of the environment's, and those some of the file's.

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The option that names the file.
const CONFIG: &str = "config";
/// The option whose values are a table of names and values.
const KAFKA: &str = "kafka";

/// The arguments, with what their configuration file adds to them, if they name one. `run` is the name of the command whose options are the file's.
///
/// # Errors
/// For a file that can't be read, is no TOML, or has names that there are not.
pub fn with_file(command: &Command, run: &str, mut arguments: Vec<OsString>) -> anyhow::Result<(Vec<OsString>, Option<PathBuf>)> {
    // What is wrong with them is said when they are parsed with what the file adds.
    let Ok(given) = command.clone().ignore_errors(true).try_get_matches_from(&arguments) else { return Ok((arguments, None)) };
    let (mut leaf, mut found, mut depth) = (command, &given, 0);
    while let Some((name, matches)) = found.subcommand() {
        let Some(sub) = leaf.find_subcommand(name) else { break };
        (leaf, found, depth) = (sub, matches, depth + 1);
    }
    let path = path_of(found);
    let mut added = match &path {
        None => Vec::new(),
        Some(path) => {
            let run = command.find_subcommand(run).context("there is such a command")?;
            let table = read(path)?;
            options(run, leaf, found, table).with_context(|| format!("the configuration file {}", path.display()))?
        }
    };
    added.extend(passed_by_environment(leaf));
    arguments.splice(1 + depth..1 + depth, added);
    Ok((arguments, path))
}

fn path_of(found: &ArgMatches) -> Option<PathBuf> {
    found.try_get_one::<PathBuf>(CONFIG).ok().flatten().cloned()
}

fn read(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the configuration file {}", path.display()))?;
    text.parse().map_err(|error: toml::de::Error| {
        // Without the line itself, which may hold a secret.
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        anyhow::anyhow!("the configuration file {}, line {line}: {}", path.display(), error.message())
    })
}

/// The options that a file adds to a command.
fn options(run: &Command, leaf: &Command, found: &ArgMatches, table: Table) -> anyhow::Result<Vec<OsString>> {
    let mut added = Vec::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        let Some(option) = named(run, &name) else {
            let names: Vec<&str> = run.get_arguments().filter_map(Arg::get_long).filter(|name| ![CONFIG, "help"].contains(name)).collect();
            bail!("there is no {key}; there are {}, and the table [kafka]", names.join(", "));
        };
        // Other commands take what means the same there.
        let Some(option) = leaf.get_arguments().find(|arg| arg.get_long() == Some(&name) && arg.get_env() == option.get_env()) else { continue };
        let source = found.value_source(option.get_id().as_str());
        let is_given = matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable));
        match value {
            Value::Table(settings) if name == KAFKA => {
                flatten("", settings, &mut |setting, value| added.push(format!("--{name}={setting}={value}").into()))?;
            }
            _ if name == KAFKA => bail!("{key} is a table: [kafka], and below it lines such as \"security.protocol\" = \"ssl\""),
            _ if is_given => {}
            Value::Boolean(false) => {}
            Value::Boolean(true) if !option.get_action().takes_values() || option.get_num_args().is_some_and(|count| count.min_values() == 0) => {
                added.push(format!("--{name}").into());
            }
            value if matches!(option.get_action(), ArgAction::SetTrue) => bail!("{key} is true or false, not {}", value.type_str()),
            value => {
                let text = text_of(&value).with_context(|| format!("{key} is a text or a number, not {}", value.type_str()))?;
                added.push(format!("--{name}={text}").into());
            }
        }
    }
    Ok(added)
}

/// What the environment says of librdkafka's settings, as a flag: by itself it would count only where there is no other.
fn passed_by_environment(leaf: &Command) -> Option<OsString> {
    let text = leaf.get_arguments().find(|arg| arg.get_long() == Some(KAFKA))?.get_env().and_then(std::env::var_os)?;
    let mut option = OsString::from(format!("--{KAFKA}="));
    option.push(text);
    Some(option)
}

fn named<'a>(run: &'a Command, name: &str) -> Option<&'a Arg> {
    run.get_arguments().find(|arg| arg.get_long() == Some(name) && name != CONFIG)
}

/// Names with dots, as librdkafka has them, are tables within tables where nobody puts them in quotes.
fn flatten(prefix: &str, table: Table, found: &mut impl FnMut(String, String)) -> anyhow::Result<()> {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            Value::Table(table) => flatten(&format!("{name}."), table, found)?,
            value => {
                let text = text_of(&value).with_context(|| format!("kafka: {name} is a text or a number, not {}", value.type_str()))?;
                found(name, text);
            }
        }
    }
    Ok(())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(is) => Some(is.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
