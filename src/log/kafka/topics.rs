//! Making the topics.

use super::client::{REQUEST, Told, failed};
use super::settings::KafkaSettings;
use crate::log::{LogError, Reader, Topic};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use std::time::{Duration, Instant};

/// What messages may be large: the input's with what Kafka adds to it, the output's with more legs than came in one message.
const MESSAGE_BYTES: &str = "2097152";
const DAY_MS: i64 = 86_400_000;
/// How long topics that were made may take until they are served.
const SERVED: Duration = Duration::from_secs(60);

/// How topics are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// How many partitions each has; the same for all, since a partition of one belongs to the same accounts as that of another.
    pub partitions: u32,
    /// How many copies Kafka keeps; `None` as the cluster does by itself.
    pub replication: Option<u32>,
    /// Days after which records of the input, and dead letters, are dropped.
    pub retention_days: u32,
    /// Settings of single topics over those that they get otherwise, by Kafka's own names.
    pub over: Vec<(Topic, String, String)>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { partitions: 12, replication: None, retention_days: 30, over: Vec::new() }
    }
}

impl TopicSettings {
    /// A topic's settings, by Kafka's own names.
    #[must_use]
    pub fn of(&self, topic: Topic) -> Vec<(String, String)> {
        let mut settings = vec![("max.message.bytes".to_owned(), MESSAGE_BYTES.to_owned())];
        if topic.is_compacted() {
            settings.push(("cleanup.policy".into(), "compact".into()));
        } else {
            settings.push(("cleanup.policy".into(), "delete".into()));
            settings.push(("retention.ms".into(), (i64::from(self.retention_days) * DAY_MS).to_string()));
        }
        if topic == Topic::Events {
            // The partition's time is the broker's, so that there is one clock.
            settings.push(("message.timestamp.type".into(), "LogAppendTime".into()));
        }
        for (_, name, value) in self.over.iter().filter(|(of, ..)| *of == topic) {
            settings.retain(|(known, _)| known != name);
            settings.push((name.clone(), value.clone()));
        }
        settings
    }
}

/// Makes the topics that aren't there, and waits until all are served: a producer that sends sooner may have its second message accepted where its first
/// was refused. Not for threads of an async runtime.
///
/// # Errors
/// If Kafka refuses a topic, or doesn't serve it in time.
pub fn create(settings: &KafkaSettings, topics: &TopicSettings) -> Result<(), LogError> {
    let admin: AdminClient<Told> = settings.client().create_with_context(Told).map_err(failed("making a client"))?;
    let names = Topic::ALL.map(|topic| settings.topic(topic));
    let configured = Topic::ALL.map(|topic| topics.of(topic));
    // -1 is Kafka's way of saying "as the cluster does".
    let copies = topics.replication.map_or(-1, |copies| i32::try_from(copies).unwrap_or(i32::MAX));
    let wanted: Vec<NewTopic<'_>> = names
        .iter()
        .zip(&configured)
        .map(|(name, configured)| {
            let topic = NewTopic::new(name, i32::try_from(topics.partitions).unwrap_or(i32::MAX), TopicReplication::Fixed(copies));
            configured.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| LogError::Kafka { operation: "making the topics".into(), why: error.to_string() })?;
    let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
    for answer in runtime.block_on(admin.create_topics(&wanted, &options)).map_err(failed("making the topics"))? {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(LogError::Kafka { operation: format!("making the topic {name}"), why: code.to_string() }),
        }
    }
    served(settings, topics.partitions)
}

fn served(settings: &KafkaSettings, partitions: u32) -> Result<(), LogError> {
    let reader = super::reader::KafkaReader::new(settings, partitions)?;
    let until = Instant::now() + SERVED;
    for topic in Topic::ALL {
        for partition in 0..partitions {
            while let Err(error) = reader.end(topic, partition) {
                if Instant::now() >= until {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Ok(())
}
