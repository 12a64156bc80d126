//! Copying to topics of another prefix, and how far that is. Outputs are copied exactly once: a transaction holds the copies, and how far the
//! originals are copied by then. Input is not written in transactions: their markers take offsets, and who reads the log would take those for records
//! still to come.

use super::appender::with;
use super::client::{REQUEST, Told, failed, number, words};
use super::offsets::remove_group;
use super::settings::KafkaSettings;
use super::transaction::Transactions;
use crate::log::{Headers, LogError, Topic};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is asked for that the brokers can't give yet.
const PATIENCE: Duration = Duration::from_secs(30);

/// A copy, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The topic.
    pub topic: Topic,
    /// Its partition there.
    pub partition: u32,
    /// See [`crate::log::Record`].
    pub key: Vec<u8>,
    /// See [`crate::log::Record`].
    pub value: Option<Vec<u8>>,
    /// See [`Headers`].
    pub headers: Headers,
    /// The original's time in milliseconds since 1970, which a topic with `CreateTime` keeps.
    pub timestamp: i64,
}

/// How far a partition of an original topic is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: u32,
    /// The offset of what is copied next.
    pub next: i64,
    /// What is to be known with it.
    pub note: String,
}

/// Notes the first copy that could not be appended.
#[derive(Default)]
struct Appended {
    failure: Mutex<Option<String>>,
}

impl ClientContext for Appended {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Told.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Told.error(error, reason);
    }
}

impl ProducerContext for Appended {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| words(error));
        }
    }
}

/// See the module.
pub struct Copier {
    from: KafkaSettings,
    to: KafkaSettings,
    transactions: Transactions,
    producer: BaseProducer<Appended>,
    /// Of the group that nobody joins, and whose offsets say how far the originals are copied.
    group: BaseConsumer<Told>,
    /// What they say. Kafka forgets each of them a week after it was committed last, so all are committed whenever one is.
    done: BTreeMap<(Topic, u32), Done>,
}

impl Copier {
    /// Waits for the network, and ends what a copier of the same target was about: that one can copy nothing from now on. `partitions` are those of
    /// the originals.
    ///
    /// # Errors
    /// If the cluster can't be reached, or refuses.
    pub fn new(from: &KafkaSettings, to: &KafkaSettings, partitions: u32) -> Result<Self, LogError> {
        let mut to = to.clone();
        to.framing.prepare(&Topic::ALL.map(|topic| to.topic(topic)))?;
        let name = Self::group_of(&to);
        let mut transactions = Transactions::new(&to, name.clone());
        transactions.ready()?;
        let group = KafkaSettings { group: name, ..to.clone() }.reader(true).create_with_context(Told).map_err(failed("making a client"))?;
        let producer = to.producer().create_with_context(Appended::default()).map_err(failed("making a producer"))?;
        let done = known(&group, from, partitions)?;
        Ok(Self { from: from.clone(), to, transactions, producer, group, done })
    }

    /// The group whose offsets say how far the originals are copied to these topics.
    #[must_use]
    pub fn group_of(to: &KafkaSettings) -> String {
        format!("{}repartition", to.topic_prefix)
    }

    /// How far a partition is copied; `None` if it wasn't begun, or if that is forgotten.
    #[must_use]
    pub fn done(&self, topic: Topic, partition: u32) -> Option<&Done> {
        self.done.get(&(topic, partition))
    }

    /// Whether anything is known to be copied.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        !self.done.is_empty()
    }

    /// Says once more how far everything is copied, so that it isn't forgotten.
    ///
    /// # Errors
    /// As [`Copier::copy`].
    pub fn keep(&mut self) -> Result<(), LogError> {
        self.copy(Vec::new(), &[])
    }

    /// Forgets how far anything is copied: the copies are gone. Not for threads of an async runtime.
    ///
    /// # Errors
    /// If the cluster can't be reached, or refuses.
    pub fn forget(&mut self) -> Result<(), LogError> {
        let group = Self::group_of(&self.to);
        if !remove_group(&KafkaSettings { group: group.clone(), ..self.to.clone() })? {
            let why = "it has members, though it is a copy's own; stop them".into();
            return Err(LogError::Refused { operation: format!("deleting the group {group}"), why });
        }
        self.done.clear();
        Ok(())
    }

    /// Appends copies of input, in this order within each partition, and waits until all of them are durable. A copier that fails is of no more use.
    ///
    /// # Errors
    /// If one could not be appended; some may be there.
    pub fn append(&mut self, copies: &[Copied]) -> Result<(), LogError> {
        let why = |why: String| LogError::Kafka { operation: "copying".into(), why };
        let until = Instant::now() + PATIENCE;
        for copied in copies {
            let name = self.to.topic(copied.topic);
            let record = BaseRecord::to(&name).partition(number(copied.partition)).timestamp(copied.timestamp);
            let value = copied.value.as_ref().map(|value| self.to.framing.written(copied.topic, value));
            let mut record = with(record, &copied.key, value.as_deref(), &copied.headers);
            while let Err((error, back)) = self.producer.send(record) {
                if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) || Instant::now() >= until {
                    return Err(why(words(&error)));
                }
                record = back;
                self.producer.poll(Duration::from_millis(1));
            }
        }
        // Each comes to an end, within the client's own time for a message.
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(10));
        }
        let failure = self.producer.context().failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failure.map_or(Ok(()), |failure| Err(why(failure)))
    }

    /// Appends copies of outputs and says how far their originals are copied with them: all or nothing.
    ///
    /// # Errors
    /// If it came to nothing, or may have: another copier's [`Copier::done`] says which.
    pub fn copy(&mut self, copies: Vec<Copied>, done: &[Done]) -> Result<(), LogError> {
        self.done.extend(done.iter().map(|done| ((done.topic, done.partition), done.clone())));
        let mut offsets = TopicPartitionList::with_capacity(self.done.len());
        for done in self.done.values() {
            let mut element = offsets.add_partition(&self.from.topic(done.topic), number(done.partition));
            element.set_offset(Offset::Offset(done.next)).map_err(failed("copying"))?;
            element.set_metadata(&done.note);
        }
        let group = self.group.group_metadata().ok_or(LogError::Closed)?;
        self.transactions.copy(copies, offsets, Arc::new(group))
    }
}

/// How far each partition of the originals is copied that was begun.
fn known(group: &BaseConsumer<Told>, from: &KafkaSettings, partitions: u32) -> Result<BTreeMap<(Topic, u32), Done>, LogError> {
    let names = Topic::ALL.map(|topic| from.topic(topic));
    let until = Instant::now() + PATIENCE;
    loop {
        let mut asked = TopicPartitionList::new();
        for name in &names {
            for partition in 0..partitions {
                asked.add_partition(name, number(partition));
            }
        }
        let answer = group.committed_offsets(asked, REQUEST).and_then(|list| {
            list.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)?;
            Ok(list)
        });
        match answer {
            Ok(list) => {
                let mut known = BTreeMap::new();
                for element in list.elements() {
                    let topic = Topic::ALL.into_iter().find(|topic| names[topic.index()] == element.topic());
                    let (Offset::Offset(next), Some(topic), Ok(partition)) = (element.offset(), topic, u32::try_from(element.partition())) else {
                        continue;
                    };
                    known.insert((topic, partition), Done { topic, partition, next, note: element.metadata().to_owned() });
                }
                return Ok(known);
            }
            Err(error) if Instant::now() >= until => return Err(failed(format!("asking how far {}* is copied", from.topic_prefix))(error)),
            // What was under way isn't stable yet.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Whether the group of `settings` has members, dead ones included that the brokers have not missed yet. It is asked by an offset that means nothing,
/// of the first partition of the topic: none but members may set one while there are any. (What clients can be told of a group's members depends on
/// its protocol.)
///
/// # Errors
/// If the cluster can't be reached.
pub fn has_members(settings: &KafkaSettings, topic: &str) -> Result<bool, LogError> {
    let client: BaseConsumer<Told> = settings.reader(true).create_with_context(Told).map_err(failed("making a client"))?;
    let operation = format!("asking whether the group {} has members", settings.group);
    let until = Instant::now() + PATIENCE;
    loop {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(0)).map_err(failed(operation.clone()))?;
        match client.commit(&list, CommitMode::Sync) {
            Ok(()) => return Ok(false),
            Err(KafkaError::ConsumerCommit(
                RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::IllegalGeneration | RDKafkaErrorCode::RebalanceInProgress,
            )) => return Ok(true),
            Err(error) if Instant::now() >= until => return Err(failed(operation)(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
