//! Making the topics, and looking whether they are as they should be.

use super::client::{Admin, REQUEST, failed};
use super::settings::KafkaSettings;
use crate::log::{LogError, Reader, Topic};
use rdkafka::admin::{AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How large messages may be: the input's with what Kafka adds to it, the output's with more legs than came in one message.
const MESSAGE_BYTES: &str = "2097152";
/// What a topic must take at least: the largest input, and what Kafka adds to it.
const LEAST_MESSAGE_BYTES: i64 = crate::log::MAX_INPUT_BYTES as i64 + 4_096;
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
    /// How many of them must have a record before it is acknowledged; `None` as the cluster does by itself.
    pub min_insync_replicas: Option<u32>,
    /// Days after which records of the input, and dead letters, are dropped.
    pub retention_days: u32,
    /// Settings of single topics over those that they get otherwise, by Kafka's own names.
    pub over: Vec<(Topic, String, String)>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { partitions: 12, replication: None, min_insync_replicas: None, retention_days: 30, over: Vec::new() }
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
        if let Some(replicas) = self.min_insync_replicas {
            settings.push(("min.insync.replicas".into(), replicas.to_string()));
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

/// Makes the topics that aren't there, and waits until all are served: a producer that sends sooner may have its second message accepted where its
/// first was refused. Returns how many were made. Not for threads of an async runtime.
///
/// # Errors
/// If Kafka refuses a topic, or doesn't serve it in time.
pub fn create(settings: &KafkaSettings, topics: &TopicSettings) -> Result<usize, LogError> {
    create_some(settings, topics, &Topic::ALL)
}

/// The same of these topics alone.
///
/// # Errors
/// As [`create`].
pub fn create_some(settings: &KafkaSettings, topics: &TopicSettings, some: &[Topic]) -> Result<usize, LogError> {
    let admin = Admin::new(settings)?;
    let names: Vec<String> = some.iter().map(|topic| settings.topic(*topic)).collect();
    let configured: Vec<Vec<(String, String)>> = some.iter().map(|topic| topics.of(*topic)).collect();
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
    let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
    let mut made = 0;
    for answer in answered(admin.client().create_topics(&wanted, &options))?.map_err(failed("making the topics"))? {
        match answer {
            Ok(_) => made += 1,
            Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => {
                let operation = format!("making the topic {name} with {} partitions", topics.partitions);
                let found = partitions_of(&admin, &name, &operation)?;
                if found != topics.partitions as usize {
                    let why = format!("it is there, with {found}; `callsieve topics repartition` moves to another number");
                    return Err(LogError::Refused { operation, why });
                }
            }
            Err((name, code)) => return Err(failed(format!("making the topic {name}"))(KafkaError::AdminOp(code))),
        }
    }
    served(settings, topics.partitions, some)?;
    Ok(made)
}

/// How many partitions a topic has that is there. The broker that is asked may not know of it yet.
fn partitions_of(admin: &Admin, name: &str, operation: &str) -> Result<usize, LogError> {
    let until = Instant::now() + SERVED;
    loop {
        let metadata = admin.client().inner().fetch_metadata(Some(name), REQUEST).map_err(failed(operation))?;
        let found = metadata.topics().first().map_or(0, |found| found.partitions().len());
        if found > 0 || Instant::now() >= until {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits on this thread.
pub(super) fn answered<T>(asked: impl Future<Output = T>) -> Result<T, LogError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| LogError::Kafka { operation: "asking the cluster".into(), why: error.to_string() })?.block_on(asked))
}

fn served(settings: &KafkaSettings, partitions: u32, topics: &[Topic]) -> Result<(), LogError> {
    let reader = super::reader::KafkaReader::new(settings, partitions)?;
    let until = Instant::now() + SERVED;
    for topic in topics {
        for partition in 0..partitions {
            while let Err(error) = reader.end(*topic, partition) {
                if Instant::now() >= until {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Ok(())
}

/// The names of the cluster's topics that begin with `prefix`, sorted.
///
/// # Errors
/// If the cluster can't be reached.
pub fn names(settings: &KafkaSettings, prefix: &str) -> Result<Vec<String>, LogError> {
    // What is wrong with the way to it is known there alone.
    super::reach(settings)?;
    names_by(&Admin::new(settings)?, prefix)
}

fn names_by(admin: &Admin, prefix: &str) -> Result<Vec<String>, LogError> {
    let metadata = admin.client().inner().fetch_metadata(None, REQUEST).map_err(failed("listing the topics"))?;
    let mut names: Vec<String> = metadata.topics().iter().map(|topic| topic.name().to_owned()).filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    Ok(names)
}

/// Deletes those of the topics that are there, with all they hold, and waits until they are gone. Not for threads of an async runtime.
///
/// # Errors
/// If Kafka refuses, or doesn't get rid of them in time.
pub fn remove(settings: &KafkaSettings) -> Result<(), LogError> {
    let admin = Admin::new(settings)?;
    let all = Topic::ALL.map(|topic| settings.topic(topic));
    let there =
        || -> Result<Vec<String>, LogError> { Ok(names_by(&admin, &settings.topic_prefix)?.into_iter().filter(|name| all.contains(name)).collect()) };
    let doomed = there()?;
    if doomed.is_empty() {
        return Ok(());
    }
    let doomed: Vec<&str> = doomed.iter().map(String::as_str).collect();
    let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
    for answer in answered(admin.client().delete_topics(&doomed, &options))?.map_err(failed("deleting topics"))? {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((name, code)) => return Err(failed(format!("deleting the topic {name}"))(KafkaError::AdminOp(code))),
        }
    }
    let until = Instant::now() + SERVED;
    while !there()?.is_empty() {
        if Instant::now() >= until {
            let why = format!("they are still there after {} s", SERVED.as_secs());
            return Err(LogError::Kafka { operation: format!("deleting the topics {}*", settings.topic_prefix), why });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Which it is.
    pub topic: Topic,
    /// Its full name.
    pub name: String,
    /// How many partitions it has; 0 where there is no such topic.
    pub partitions: usize,
    /// How many copies Kafka keeps of it, in the partition with the fewest.
    pub replicas: usize,
    /// Its settings in force, by Kafka's own names.
    pub settings: BTreeMap<String, String>,
}

/// Looks at the topics. Not for threads of an async runtime.
///
/// # Errors
/// If the cluster can't be reached, or doesn't let us look.
pub fn describe(settings: &KafkaSettings) -> Result<Vec<Described>, LogError> {
    describe_by(&Admin::new(settings)?, settings)
}

/// As [`describe`], by a client that is there.
///
/// # Errors
/// As there.
pub fn describe_by(admin: &Admin, settings: &KafkaSettings) -> Result<Vec<Described>, LogError> {
    let mut described = Vec::new();
    for topic in Topic::ALL {
        let name = settings.topic(topic);
        let operation = format!("looking at the topic {name}");
        let metadata = admin.client().inner().fetch_metadata(Some(&name), REQUEST).map_err(failed(operation.clone()))?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        // A topic that has an error of another kind is there, and can't be looked at for now, or not by us.
        let found = match found.and_then(rdkafka::metadata::MetadataTopic::error).map(RDKafkaErrorCode::from) {
            None => found,
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => None,
            Some(code) => return Err(failed(operation)(KafkaError::MetadataFetch(code))),
        };
        let partitions = found.map_or(0, |found| found.partitions().len());
        let replicas = found.and_then(|found| found.partitions().iter().map(|partition| partition.replicas().len()).min()).unwrap_or(0);
        described.push(Described { topic, name, partitions, replicas, settings: BTreeMap::new() });
    }
    let there: Vec<ResourceSpecifier<'_>> =
        described.iter().filter(|topic| topic.partitions > 0).map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let mut answers = BTreeMap::new();
    if !there.is_empty() {
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        for answer in answered(admin.client().describe_configs(&there, &options))?.map_err(failed("reading the topics' settings"))? {
            let resource = answer.map_err(|code| failed("reading the topics' settings")(KafkaError::AdminOp(code)))?;
            if let OwnedResourceSpecifier::Topic(name) = resource.specifier {
                let entries = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                answers.insert(name, entries.collect::<BTreeMap<String, String>>());
            }
        }
    }
    for topic in &mut described {
        topic.settings = answers.remove(&topic.name).unwrap_or_default();
    }
    Ok(described)
}

/// What isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The topic's full name.
    pub name: String,
    /// Whether it loses or breaks something; else it is worth knowing.
    pub is_wrong: bool,
    /// What it is, and what to change.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", if self.is_wrong { "wrong" } else { "warning" }, self.name, self.what)
    }
}

/// What isn't as it should be with topics as they are.
#[must_use]
pub fn findings(described: &[Described]) -> Vec<Finding> {
    let partitions = described.first().map_or(0, |events| events.partitions);
    described.iter().flat_map(|topic| findings_of(topic, partitions)).collect()
}

fn findings_of(topic: &Described, partitions: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |is_wrong, what: String| findings.push(Finding { name: topic.name.clone(), is_wrong, what });
    if topic.partitions == 0 {
        found(true, "there is no such topic; make it with `callsieve topics create`".into());
        return findings;
    }
    let setting = |name: &str| topic.settings.get(name).map_or("", String::as_str);
    let number = |name: &str| setting(name).parse::<i64>().ok();
    if topic.partitions != partitions {
        found(
            true,
            format!(
                "it has {} partitions, and the input {partitions}; all topics must have as many. If it is empty, delete it, and make it with `callsieve topics create \
                 --partitions {partitions}`; `callsieve topics repartition` moves to another number",
                topic.partitions
            ),
        );
    }
    let policy = if topic.topic.is_compacted() { "compact" } else { "delete" };
    if setting("cleanup.policy") != policy {
        found(true, format!("cleanup.policy is {}, and loses records that are needed; set it to {policy}", setting("cleanup.policy")));
    }
    if number("max.message.bytes").is_some_and(|bytes| bytes < LEAST_MESSAGE_BYTES) {
        found(true, format!("max.message.bytes is {}, and large records would be refused; set it to {MESSAGE_BYTES}", setting("max.message.bytes")));
    }
    if topic.topic == Topic::Events {
        if number("retention.ms").is_some_and(|time| (0..DAY_MS).contains(&time)) {
            found(
                true,
                format!("retention.ms is {}: events would be dropped within a day, read or not; set it to {}", setting("retention.ms"), 30 * DAY_MS),
            );
        }
        if number("retention.bytes").is_some_and(|bytes| bytes >= 0) {
            found(
                false,
                format!("retention.bytes is {}: events may be dropped before they are read, however young; set it to -1", setting("retention.bytes")),
            );
        }
        if setting("message.timestamp.type") != "LogAppendTime" {
            found(
                false,
                "message.timestamp.type is CreateTime: whoever appends sets the time that deadlines go by; LogAppendTime has one clock".into(),
            );
        }
    }
    if let Some(least) = number("min.insync.replicas") {
        let replicas = i64::try_from(topic.replicas).unwrap_or(i64::MAX);
        if least > replicas {
            found(true, format!("min.insync.replicas is {least} with {replicas} replicas: nothing can be written; set it lower, or add replicas"));
        } else if replicas < 3 || least < 2 {
            found(
                false,
                format!("{replicas} replicas with min.insync.replicas {least}: what was acknowledged may be lost with one disk; have 3 and 2"),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(topic: Topic) -> Described {
        let mut settings: BTreeMap<String, String> = TopicSettings::default().of(topic).into_iter().collect();
        settings.insert("min.insync.replicas".into(), "2".into());
        Described { topic, name: format!("callsieve.{topic}"), partitions: 12, replicas: 3, settings }
    }

    #[test]
    fn topics_as_we_make_them_are_right() {
        assert_eq!(findings(&Topic::ALL.map(described)), []);
    }

    #[test]
    fn what_is_wrong_with_a_topic_is_said() {
        for (topic, name, value, is_wrong) in [
            (Topic::CallVerdicts, "cleanup.policy", "delete", true),
            (Topic::CompanyNumbers, "cleanup.policy", "compact,delete", true),
            (Topic::Events, "cleanup.policy", "compact", true),
            (Topic::Events, "retention.ms", "3600000", true),
            (Topic::Events, "retention.bytes", "1000000000", false),
            (Topic::OpenCalls, "max.message.bytes", "1048588", true),
            (Topic::CallVerdicts, "min.insync.replicas", "4", true),
            (Topic::CallVerdicts, "min.insync.replicas", "1", false),
            (Topic::Events, "message.timestamp.type", "CreateTime", false),
        ] {
            let mut all = Topic::ALL.map(described);
            all[topic.index()].settings.insert(name.into(), value.into());
            let found = findings(&all);
            assert_eq!(
                found.iter().map(|f| (f.name.as_str(), f.is_wrong)).collect::<Vec<_>>(),
                [(all[topic.index()].name.as_str(), is_wrong)],
                "{name}"
            );
            assert!(found[0].what.contains(name), "{}", found[0]);
        }
    }

    #[test]
    fn a_missing_topic_and_one_of_another_size_are_wrong() {
        let mut all = Topic::ALL.map(described);
        all[2].partitions = 0;
        all[3].partitions = 6;
        let found = findings(&all);
        assert_eq!(found.iter().map(|f| f.is_wrong).collect::<Vec<_>>(), [true, true]);
        assert!(found[0].what.contains("topics create") && found[1].what.contains("6 partitions"));
    }
}
