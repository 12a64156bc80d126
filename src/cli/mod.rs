//! The command line: one variant per command, each with its arguments and its one function.

pub mod classify;
pub mod schemas;
pub mod topics;

use crate::roles::service::{self, RunArgs};
use crate::simulate::{self, SimulateArgs};
use clap::Parser;
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
    /// Make, check or show the topics on Kafka
    Topics(topics::TopicsArgs),
    /// Show, register or check the schemas of the topics' records
    Schemas(schemas::SchemasArgs),
}

/// Runs the command that the arguments name. Exits with 0, with 1 after an error, and with 2 for wrong usage; `classify` has one more.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Classify(args) => return classify::main(&args),
        Command::Run(args) => service::main(*args).map(|()| ExitCode::SUCCESS),
        Command::Simulate(args) => simulated(args).map(|()| ExitCode::SUCCESS),
        Command::Topics(args) => topics::main(args),
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

fn simulated(args: SimulateArgs) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(simulate::run(args))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
