//! `callsieve schemas`: shows the schemas of the topics, registers them, and checks that they are compatible with what they said before.

use crate::event::Record;
use crate::registry::{RegistryArgs, check, placed, subject};
use anyhow::{Context, bail};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to do with the schemas
#[derive(Debug, clap::Args)]
pub struct SchemasArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say which field is not compatible with what the schemas said before; exits with 1 if one isn't. Every version must read every other
    /// (FULL_TRANSITIVE)
    Check(CheckArgs),
    /// Register every schema for its topic, with the compatibility FULL_TRANSITIVE
    Register(PlaceArgs),
    /// List the records with their topics, or show one's schema
    Show {
        /// The record, such as CallVerdict
        name: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// The TOML file of `callsieve run`, of which the registry and the topics' prefix are taken; flags and environment come before it
    #[arg(long, env = "CALLSIEVE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// What the name of every topic begins with
    #[arg(long, env = "CALLSIEVE_TOPIC_PREFIX", default_value = "callsieve.")]
    topic_prefix: String,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Check against the schemas in the .avsc files of a folder
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If the registry can't be reached or refuses, or files can't be read.
pub fn main(args: SchemasArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match args.action {
        Action::Check(args) => checked(&args, &mut out),
        Action::Register(args) => {
            let registry = args.registry.registry().context("--schema-registry (CALLSIEVE_SCHEMA_REGISTRY) is needed: where to register them")?;
            for (topic, record) in placed() {
                let subject = subject(&format!("{}{topic}", args.topic_prefix), record);
                let registered = registry.ensure(&subject, record.schema_json()).with_context(|| format!("registering {subject} at {registry}"))?;
                writeln!(out, "{subject}: id {}", registered.id)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Show { name: None } => {
            for (topic, record) in placed() {
                writeln!(out, "{:<18} {topic}", record.name())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Show { name: Some(name) } => {
            let found = Record::ALL.into_iter().find(|record| record.name().eq_ignore_ascii_case(&name) || record.full_name() == name);
            let Some(record) = found else { bail!("there is no record {name}; `callsieve schemas show` lists them") };
            write!(out, "{}", record.schema_json())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn checked(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut wrong = check::against_earlier();
    let mut with = vec!["earlier versions".to_owned()];
    if let Some(dir) = &args.against {
        let (more, compared) = check::against_files(dir).map_err(anyhow::Error::msg)?;
        if compared == 0 {
            bail!("{} has no schema of callsieve's records", dir.display());
        }
        wrong.extend(more);
        with.push(format!("{compared} schemas in {}", dir.display()));
    }
    if let Some(registry) = args.place.registry.registry() {
        let (more, compared) = check::against_registry(&registry, &args.place.topic_prefix).map_err(anyhow::Error::msg)?;
        wrong.extend(more);
        with.push(format!("{compared} versions at {registry}"));
    }
    for finding in &wrong {
        writeln!(out, "{finding}")?;
    }
    if !wrong.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "compatible with {}", with.join(", "))?;
    Ok(ExitCode::SUCCESS)
}
