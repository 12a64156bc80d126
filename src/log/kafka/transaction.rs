//! A worker's producer: one transaction at a time, with outputs and input positions, and a definite answer at the end of each.

use super::appender::with;
use super::client::{REQUEST, Told, failed, number, words};
use super::settings::KafkaSettings;
use crate::log::{Commit, Committed, LogError, OutputEnds, Topic};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer that Kafka doesn't give is asked for. Then the producer is given up; its successor finds out what became of the transaction.
const PATIENCE: Duration = Duration::from_secs(60);

/// Notes where outputs came to stand.
struct Sending {
    /// The topics' full names, by [`Topic::index`].
    names: [String; Topic::ALL.len()],
    /// After the last record of the transaction under way, by topic and partition.
    ends: Mutex<BTreeMap<(Topic, u32), i64>>,
}

impl ClientContext for Sending {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Told.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Told.error(error, reason);
    }
}

impl ProducerContext for Sending {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                let topic = Topic::ALL.into_iter().find(|topic| self.names[topic.index()] == message.topic());
                if let (Some(topic), Ok(partition)) = (topic, u32::try_from(message.partition())) {
                    let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
                    let end = ends.entry((topic, partition)).or_default();
                    *end = (*end).max(message.offset() + 1);
                }
            }
            // The transaction fails with it, and says so when it is to be committed.
            Err((error, _)) => tracing::debug!("an output wasn't delivered: {error}"),
        }
    }
}

/// See the module.
pub(super) struct Transactions {
    settings: KafkaSettings,
    id: String,
    /// Where the committer answers.
    holder: Option<String>,
    /// `None` until it is needed, and after it was fenced or gave no answer.
    producer: Option<BaseProducer<Sending>>,
}

/// How a transaction failed, before it is known what became of it.
enum Failure {
    /// It can be aborted, and must be.
    Abort(String),
    /// Its producer is of no use any more.
    GiveUp(String),
}

impl Failure {
    fn of(error: &KafkaError) -> Self {
        match error {
            KafkaError::Transaction(error) if error.is_fatal() => Self::GiveUp(error.string()),
            other => Self::Abort(words(other)),
        }
    }
}

impl Transactions {
    pub(super) fn new(settings: &KafkaSettings, id: String, holder: Option<String>) -> Self {
        Self { settings: settings.clone(), id, holder, producer: None }
    }

    /// A producer whose predecessor's transactions have all ended, one way or the other.
    pub(super) fn ready(&mut self) -> Result<(), LogError> {
        if self.producer.is_some() {
            return Ok(());
        }
        let context = Sending { names: Topic::ALL.map(|topic| self.settings.topic(topic)), ends: Mutex::default() };
        let producer: BaseProducer<Sending> =
            self.settings.transactional(&self.id).create_with_context(context).map_err(failed("making a producer"))?;
        insist(|| producer.init_transactions(REQUEST)).map_err(failed("taking up the transactions of this worker's predecessor"))?;
        self.producer = Some(producer);
        Ok(())
    }

    pub(super) fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    /// Publishes all outputs and positions, or nothing. `ends` is where the outputs of each partition end, and moves on with what is committed. After
    /// an error the worker begins again from what is committed, which is definite once [`Transactions::ready`] has returned.
    pub(super) fn commit(&mut self, commits: &[Commit], ends: &mut BTreeMap<u32, OutputEnds>, group: &ConsumerGroupMetadata) -> Result<(), LogError> {
        self.ready()?;
        let Some(producer) = self.producer.as_ref() else { return Err(LogError::Closed) };
        let why = match publish(producer, commits, ends, self.holder.as_ref(), group) {
            Ok(moved) => {
                ends.extend(moved);
                return Ok(());
            }
            Err(Failure::Abort(why)) => {
                if let Err(error) = abort(producer) {
                    tracing::info!("a transaction that could not be aborted ({}) is left to the next producer", words(&error));
                    self.producer = None;
                }
                why
            }
            Err(Failure::GiveUp(why)) => {
                self.producer = None;
                why
            }
        };
        Err(LogError::Aborted { why })
    }
}

/// Returns where the outputs of the commits' partitions end now.
fn publish(
    producer: &BaseProducer<Sending>,
    commits: &[Commit],
    ends: &BTreeMap<u32, OutputEnds>,
    holder: Option<&String>,
    group: &ConsumerGroupMetadata,
) -> Result<BTreeMap<u32, OutputEnds>, Failure> {
    let failure = |error: KafkaError| Failure::of(&error);
    let Sending { names, ends: delivered } = &**producer.context();
    delivered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    producer.begin_transaction().map_err(|error| Failure::GiveUp(words(&error)))?;
    for commit in commits {
        for output in &commit.outputs {
            let mut record = BaseRecord::to(&names[output.topic.index()]).partition(number(commit.partition));
            if let Some(value) = &output.value {
                record = record.payload(value.as_slice());
            }
            send(producer, with(record, &output.key, &output.headers))?;
        }
    }
    // Where they came to stand is part of what is committed.
    let until = Instant::now() + PATIENCE;
    while producer.in_flight_count() > 0 {
        if Instant::now() >= until {
            return Err(Failure::Abort(format!("outputs could not be delivered within {} s", PATIENCE.as_secs())));
        }
        producer.poll(Duration::from_millis(100));
    }
    let mut moved = BTreeMap::new();
    let mut positions = TopicPartitionList::with_capacity(commits.len());
    {
        let delivered = delivered.lock().unwrap_or_else(PoisonError::into_inner);
        for commit in commits {
            let mut ends = ends.get(&commit.partition).copied().unwrap_or_default();
            for (topic, end) in delivered.iter().filter(|((_, partition), _)| *partition == commit.partition).map(|((topic, _), end)| (topic, end)) {
                ends.set(*topic, *end);
            }
            let mut position = positions.add_partition(&names[Topic::Events.index()], number(commit.partition));
            position.set_offset(Offset::Offset(commit.position.next)).map_err(failure)?;
            position.set_metadata(Committed { position: commit.position, ends, holder: holder.cloned() }.to_string());
            moved.insert(commit.partition, ends);
        }
    }
    insist(|| producer.send_offsets_to_transaction(&positions, group, REQUEST)).map_err(failure)?;
    // From here on the outcome may be unknown; only Kafka's own answer ends that.
    insist(|| producer.commit_transaction(REQUEST)).map_err(|error| match error {
        KafkaError::Transaction(error) if error.txn_requires_abort() => Failure::Abort(error.string()),
        other => Failure::GiveUp(words(&other)),
    })?;
    Ok(moved)
}

/// Aborting waits until every output was reported as delivered or dropped, and reports are only seen by polling.
fn abort(producer: &BaseProducer<Sending>) -> Result<(), KafkaError> {
    producer.purge(PurgeConfig::default().queue());
    let until = Instant::now() + REQUEST;
    while producer.in_flight_count() > 0 && Instant::now() < until {
        producer.poll(Duration::from_millis(5));
    }
    insist(|| {
        producer.poll(Duration::ZERO);
        producer.abort_transaction(REQUEST)
    })
}

fn send<'a>(producer: &BaseProducer<Sending>, mut record: BaseRecord<'a, [u8], [u8]>) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < until => {
                record = back;
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(Failure::Abort(words(&error))),
        }
    }
}

/// Calls again what may be called again, until it has an answer or patience is at its end.
fn insist(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if is_repeatable(&error) && Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Err(KafkaError::Flush(_)) if Instant::now() < until => {}
            answer => return answer,
        }
    }
}

fn is_repeatable(error: &RDKafkaError) -> bool {
    error.is_retriable() && !error.is_fatal() && !error.txn_requires_abort()
}
