//! `callsieve topics`: makes, checks and shows the topics on Kafka, and moves them to another number of partitions.

use crate::log::kafka::{self, Described, KafkaSettings, TopicSettings};
use crate::log::{LogError, Topic};
use crate::registry::RegistryArgs;
use crate::roles::repartition::{Ended, Repartition, Told};
use anyhow::bail;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What to do with the topics
#[derive(Debug, clap::Args)]
pub struct TopicsArgs {
    #[command(subcommand)]
    action: Action,
}

/// How Kafka is reached
#[derive(Debug, clap::Args)]
pub(super) struct KafkaArgs {
    /// Kafka's bootstrap servers, host:port, with commas between them
    #[arg(long, env = "CALLSIEVE_BROKERS")]
    brokers: String,
    #[command(flatten)]
    named: NamedArgs,
}

/// Names on Kafka, and what its clients are told
#[derive(Debug, clap::Args)]
pub(super) struct NamedArgs {
    /// The TOML file of `callsieve run`, of which how Kafka is reached is taken; flags and environment come before it
    #[arg(long, env = "CALLSIEVE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the name of every topic begins with
    #[arg(long, env = "CALLSIEVE_TOPIC_PREFIX", default_value = "callsieve.")]
    topic_prefix: String,
    /// A setting of librdkafka's, for TLS, SASL and the like; may be given several times, in the environment one a line
    #[arg(long = "kafka", env = "CALLSIEVE_KAFKA", value_name = "NAME=VALUE", value_parser = KafkaSettings::named, hide_env_values = true)]
    passed: Vec<BTreeMap<String, String>>,
    /// The schema registry of what stands on Kafka
    #[command(flatten)]
    registry: RegistryArgs,
}

impl KafkaArgs {
    pub(super) fn settings(self) -> KafkaSettings {
        self.named.settings(self.brokers)
    }
}

impl NamedArgs {
    pub(super) fn settings(self, brokers: String) -> KafkaSettings {
        let Self { topic_prefix, passed, registry, .. } = self;
        let passed = passed.into_iter().flatten().collect();
        let group = KafkaSettings::group_of(&topic_prefix);
        KafkaSettings { brokers, topic_prefix, group, passed, framing: registry.framing(), ..KafkaSettings::default() }
    }
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make the topics that are not there
    Create(CreateArgs),
    /// Say what is wrong with the topics, and what to change; exits with 1 if anything is
    Check(KafkaArgs),
    /// Show the topics as they are
    Describe(KafkaArgs),
    /// Copy everything to new topics with another number of partitions, also what still comes in, until interrupted; interrupted, start it again and
    /// it goes on
    Repartition(RepartitionArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Partitions of each topic: at most so many workers share the work. Changing it later moves everything
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=256))]
    partitions: u32,
    /// Copies that Kafka keeps of each topic [default: as the cluster does by itself]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=15))]
    replication: Option<u32>,
    /// Copies that must have a record before it is acknowledged [default: as the cluster does by itself]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=15))]
    min_insync_replicas: Option<u32>,
    /// Days after which records of the input, and dead letters, are dropped
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    retention_days: u32,
    /// End well, with a warning, where Kafka can't be reached: for an init container, since the service waits for Kafka by itself
    #[arg(long)]
    if_reachable: bool,
}

#[derive(Debug, clap::Args)]
struct RepartitionArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// The consumer group that has judged them; none of its instances may have a worker meanwhile (`run --workers 0`) [default: the topic prefix without the dot at its end]
    #[arg(long, env = "CALLSIEVE_GROUP")]
    group: Option<String>,
    /// Partitions of each new topic
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    partitions: u32,
    /// What the name of every new topic begins with
    #[arg(long, value_name = "PREFIX")]
    to_prefix: String,
    /// The consumer group that is to judge them [default: the new prefix without the dot at its end]
    #[arg(long, value_name = "GROUP")]
    to_group: Option<String>,
    /// Copy although brokers are older than Kafka 4.0, as `callsieve run` does by that
    #[arg(long, env = "CALLSIEVE_ALLOW_OLD_BROKERS")]
    allow_old_brokers: bool,
    /// End when everything is copied that is there, instead of following the old topics
    #[arg(long)]
    once: bool,
}

/// Runs the command.
///
/// # Errors
/// If the cluster can't be reached or refuses, or the output can't be written.
pub fn main(args: TopicsArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match args.action {
        Action::Create(args) => {
            let CreateArgs { kafka, partitions, replication, min_insync_replicas, retention_days, if_reachable } = args;
            let wanted = TopicSettings { partitions, replication, min_insync_replicas, retention_days, over: Vec::new() };
            if let (Some(least), Some(replicas)) = (min_insync_replicas, replication)
                && least > replicas
            {
                bail!("--min-insync-replicas {least} with --replication {replicas}: nothing could be written");
            }
            let settings = kafka.settings();
            match kafka::reach(&settings) {
                Err(error @ LogError::Kafka { .. }) if if_reachable => {
                    tracing::warn!("the topics aren't looked at: {error}");
                    return Ok(ExitCode::SUCCESS);
                }
                reached => drop(reached?),
            }
            let made = kafka::create(&settings, &wanted)?;
            eprintln!("{made} topics made, {} were there", Topic::ALL.len() - made);
            Ok(ExitCode::SUCCESS)
        }
        Action::Check(args) => {
            let findings = kafka::findings(&described(&args.settings())?);
            for finding in &findings {
                writeln!(out, "{finding}")?;
            }
            if findings.is_empty() {
                eprintln!("the topics are as they must be");
            }
            Ok(if findings.iter().any(|finding| finding.is_wrong) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Action::Describe(args) => {
            for topic in described(&args.settings())? {
                writeln!(out, "{}: {} partitions, {} replicas", topic.name, topic.partitions, topic.replicas)?;
                for (name, value) in &topic.settings {
                    writeln!(out, "  {name}={value}")?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Repartition(args) => repartition(args),
    }
}

/// The topics as they are, of a cluster that lets us in.
fn described(settings: &KafkaSettings) -> Result<Vec<Described>, LogError> {
    kafka::reach(settings)?;
    kafka::describe(settings)
}

/// Counts as they grow are told so often.
const TELL_EVERY: Duration = Duration::from_secs(5);

fn repartition(args: RepartitionArgs) -> anyhow::Result<ExitCode> {
    let from = args.kafka.settings().judged_by(args.group);
    let group = args.to_group.unwrap_or_else(|| KafkaSettings::group_of(&args.to_prefix));
    let to = KafkaSettings { topic_prefix: args.to_prefix, group, ..from.clone() };
    let old_group = from.group.clone();
    let names = format!("--topic-prefix {} --group {}", to.topic_prefix, to.group);
    let (mut told_at, mut was_ready) = (Instant::now(), false);
    let mut tell = |told: Told| match told {
        Told::Ready if !std::mem::replace(&mut was_ready, true) => {
            eprintln!("ready: start instances with {names}, then stop the old ones; what those still take in is copied meanwhile");
        }
        Told::WentOn => eprintln!(
            "the group {old_group} has gone on judging: what it publishes on the old topics isn't copied, and the new group judges the same calls itself. What its \
             instances take in is copied all the same; stop them, or restart them with --workers 0"
        ),
        Told::Outputs(count) if told_at.elapsed() >= TELL_EVERY => {
            told_at = Instant::now();
            eprintln!("{count} records of the compacted topics are copied");
        }
        Told::Events(count) if told_at.elapsed() >= TELL_EVERY => {
            told_at = Instant::now();
            eprintln!("{count} events are copied");
        }
        _ => {}
    };
    let repartition = Repartition { from, to, partitions: args.partitions, allow_old_brokers: args.allow_old_brokers };
    match repartition.run(args.once, &mut tell)? {
        Ended::Finished(events) => {
            eprintln!("everything is copied that was there, {events} events by this run; as long as old instances take anything in, run this again");
            Ok(ExitCode::SUCCESS)
        }
        Ended::Interrupted => {
            eprintln!("interrupted before the new topics were ready; run this again, and it goes on");
            Ok(ExitCode::FAILURE)
        }
    }
}
