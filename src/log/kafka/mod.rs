//! The log on Apache Kafka.
//!
//! A worker ([`KafkaLog`]) is a member of the consumer group with a transactional producer of its own: outputs and the input's position, with the
//! [`super::Position`] as its metadata, are one transaction; the state is written after it, with the position in it. So a state may be behind what
//! is committed, never ahead of it. [`KafkaAppender`] is the ingress's end, [`KafkaReader`] sees what is committed.
//!
//! Values are framed as [`KafkaSettings::framing`] says, which is known here alone.

mod appender;
mod client;
mod cluster;
mod copier;
mod framing;
mod native;
mod offsets;
mod points;
mod reader;
mod rebalances;
mod records;
mod settings;
mod topics;
mod transaction;
mod worker;

#[cfg(test)]
mod tests;

pub use appender::KafkaAppender;
pub use client::Admin;
pub use cluster::{enter, reach};
pub use copier::{Copied, Copier, Done, has_members};
pub use framing::{Framed, Framing};
pub use offsets::remove_group;
pub use reader::KafkaReader;
pub use settings::{FIXED, KafkaSettings};
pub use topics::{Described, Finding, TopicSettings, create, create_some, describe, describe_by, findings, names, remove};
pub use worker::KafkaLog;

use super::{LogError, Topic};
use client::{REQUEST, Told, failed};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A cluster with our topics: makes the ends of the log.
pub struct Kafka {
    settings: KafkaSettings,
    partitions: u32,
    /// What workers announce.
    holder: Option<String>,
    reader: KafkaReader,
    appender: KafkaAppender,
}

impl Kafka {
    /// Connects, and looks how many partitions there are. Waits for the network: not for threads of an async runtime.
    ///
    /// # Errors
    /// For settings that can't be, a cluster or a framing's registry that can't be reached, and topics that are missing or differ in their number of
    /// partitions.
    pub fn connect(settings: KafkaSettings) -> Result<Self, LogError> {
        // What is wrong with the way to it is known there alone.
        cluster::reach(&settings)?;
        let partitions = count_partitions(&settings)?;
        Self::with(settings, partitions)
    }

    /// As [`Kafka::connect`], for who knows how many partitions the topics have, or are to have.
    ///
    /// # Errors
    /// For settings that can't be, and a framing's registry that can't be reached or refuses.
    pub fn with(mut settings: KafkaSettings, partitions: u32) -> Result<Self, LogError> {
        settings.check()?;
        settings.framing.prepare(&Topic::ALL.map(|topic| settings.topic(topic)))?;
        let reader = KafkaReader::new(&settings, partitions)?;
        let appender = KafkaAppender::new(&settings, partitions)?;
        Ok(Self { settings, partitions, holder: None, reader, appender })
    }

    /// Lets the workers say with what they commit that they are reached at `address`, a base URL without spaces.
    #[must_use]
    pub fn announcing(self, address: Option<String>) -> Self {
        Self { holder: address, ..self }
    }

    /// How many partitions each topic has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The cluster's own id. Waits for the network.
    ///
    /// # Errors
    /// If it doesn't say.
    pub fn cluster_id(&self) -> Result<String, LogError> {
        let unknown =
            || LogError::Kafka { operation: format!("asking {} for its cluster's id", self.settings.brokers), why: "it doesn't say".into() };
        self.reader.cluster_id()?.ok_or_else(unknown)
    }

    /// A worker: joins the group, and is assigned partitions while it polls. `member` is its static id, by which it gets its partitions back when it
    /// restarts; no two workers may have the same. Waits for the network.
    ///
    /// # Errors
    /// If the cluster refuses it, or can't be reached.
    pub fn worker(&self, member: Option<&str>) -> Result<KafkaLog, LogError> {
        KafkaLog::join(&self.settings, member, self.holder.clone(), self.reader.clone(), self.appender.clone())
    }

    /// The ingress's end.
    #[must_use]
    pub fn appender(&self) -> KafkaAppender {
        self.appender.clone()
    }

    /// A view for who serves readers.
    #[must_use]
    pub fn reader(&self) -> KafkaReader {
        self.reader.clone()
    }
}

fn count_partitions(settings: &KafkaSettings) -> Result<u32, LogError> {
    let client: BaseConsumer<Told> = settings.asking().create_with_context(Told).map_err(failed("making a client"))?;
    let looking = |name: &str| format!("looking for the topic {name} at {}", settings.brokers);
    let mut counted = None;
    for topic in Topic::ALL {
        let name = settings.topic(topic);
        let wrong = |why: String| LogError::Kafka { operation: looking(&name), why };
        let metadata = client.fetch_metadata(Some(&name), REQUEST).map_err(|error| wrong(client::words(&error)))?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        if let Some(error) = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from)
            && error != RDKafkaErrorCode::UnknownTopicOrPartition
        {
            return Err(failed(looking(&name))(KafkaError::MetadataFetch(error)));
        }
        let count = found.map_or(0, |found| u32::try_from(found.partitions().len()).unwrap_or(u32::MAX));
        if count == 0 {
            let why = "it isn't there: is --topic-prefix right? `callsieve topics create` makes the topics".into();
            return Err(LogError::Refused { operation: looking(&name), why });
        }
        if counted.is_some_and(|known| known != count) {
            return Err(wrong(format!("it has {count} partitions, the topics before it {}; all must have as many", counted.unwrap_or_default())));
        }
        counted = Some(count);
    }
    Ok(counted.unwrap_or_default())
}
