//! A schema registry with Confluent's interface: the schemas of our topics there, and its framing of values.
//!
//! Every record has one subject per topic that it stands on, by TopicRecordNameStrategy. [`client`] asks the registry, [`framing`] puts its wire
//! format on and off where values come from Kafka and go there, [`check`] looks whether schemas are compatible with what was said before.

pub mod check;
mod client;
mod framing;

pub use client::{Registered, Registry, RegistryError};
pub use framing::WireFormat;

use crate::event::Record;
use crate::log::Topic;
use crate::log::kafka::Framed;
use std::sync::Arc;

/// The compatibility that our subjects have: every version reads every other.
pub const COMPATIBILITY: &str = "FULL_TRANSITIVE";

/// Where the schema registry is, if there is one
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RegistryArgs {
    /// A schema registry with Confluent's interface, http(s)://[user:password@]host[/path]: values on Kafka get its wire format
    #[arg(long, env = "CALLSIEVE_SCHEMA_REGISTRY", value_name = "URL", hide_env_values = true)]
    pub schema_registry: Option<Registry>,
    /// Who asks the registry, user:password, where the URL doesn't say
    #[arg(long, env = "CALLSIEVE_SCHEMA_REGISTRY_AUTH", value_name = "USER:PASSWORD", hide_env_values = true)]
    pub schema_registry_auth: Option<String>,
}

impl RegistryArgs {
    /// The registry; `None` without one.
    #[must_use]
    pub fn registry(&self) -> Option<Registry> {
        let registry = self.schema_registry.clone()?;
        Some(match &self.schema_registry_auth {
            Some(auth) => registry.as_user(auth),
            None => registry,
        })
    }

    /// How values stand on Kafka.
    #[must_use]
    pub fn framing(&self) -> Framed {
        self.registry().map_or_else(Framed::default, |registry| Framed::by(Arc::new(WireFormat::new(registry))))
    }
}

/// What stands where: each record, and its topic.
#[must_use]
pub fn placed() -> Vec<(Topic, Record)> {
    let topic = |record| match record {
        Record::CompanyNumber => Topic::CompanyNumbers,
        Record::CallVerdict => Topic::CallVerdicts,
        Record::AccountState => Topic::AccountStates,
        Record::OpenCall => Topic::OpenCalls,
        Record::CallLegs
        | Record::DirectoryChanged
        | Record::NumbersObserved
        | Record::SnapshotCompleted
        | Record::AccountSettings
        | Record::AccountRemoved
        | Record::Rejudge
        | Record::Tick => Topic::Events,
    };
    Record::ALL.into_iter().map(|record| (topic(record), record)).collect()
}

/// The subject of a record on a topic, which is given by its full name.
#[must_use]
pub fn subject(topic: &str, record: Record) -> String {
    format!("{topic}-{}", record.full_name())
}
