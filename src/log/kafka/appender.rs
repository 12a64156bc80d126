//! Appending from outside: idempotent, durable on all replicas in sync before it is answered.

use super::client::{Told, number, words};
use super::settings::KafkaSettings;
use crate::log::{Appender, Appending, Headers, Input, LogError, MAX_INPUT_BYTES, Place, Topic, partition_of};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::oneshot;

type Answer = Result<i64, KafkaError>;
type Producer = Arc<ThreadedProducer<Answers>>;

/// Gives each delivery's outcome to who waits for it.
struct Answers;

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Told.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Told.error(error, reason);
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = Box<oneshot::Sender<Answer>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        // Who doesn't wait any more doesn't want to know.
        let _ = answer.send(match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        });
    }
}

/// See [`super::Kafka::appender`].
#[derive(Clone)]
pub struct KafkaAppender {
    /// Replaced when it has failed for good.
    producer: Arc<RwLock<Producer>>,
    settings: Arc<KafkaSettings>,
    partitions: u32,
}

/// While the client's buffer is full: how often it is tried again.
const ROOM: Duration = Duration::from_millis(2);

/// Records that are on their way at once.
const UNDER_WAY: usize = 10_000;

/// A record on its way.
pub(super) struct Sent {
    topic: Topic,
    bytes: usize,
    answered: oneshot::Receiver<Answer>,
}

impl KafkaAppender {
    pub(super) fn new(settings: &KafkaSettings, partitions: u32) -> Result<Self, LogError> {
        let producer = Arc::new(RwLock::new(producer(settings)?));
        Ok(Self { producer, settings: Arc::new(settings.clone()), partitions })
    }

    fn producer(&self) -> Producer {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in the place of a producer that failed for good: it would refuse everything from now on.
    fn replace(&self, failed: &Producer) -> Result<(), LogError> {
        let mut current = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current, failed) {
            return Ok(());
        }
        let why = failed.client().fatal_error().map_or_else(String::new, |(_, why)| why);
        tracing::warn!(why, "the producer failed for good; another takes its place");
        let old = std::mem::replace(&mut *current, producer(&self.settings)?);
        drop(current);
        // Its end waits for what is on its way, which must not hold up an async runtime.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(old));
        }
        Ok(())
    }

    /// Hands a record to the client, which keeps the order within a partition; `None` while there is no room.
    pub(super) fn send(&self, topic: Topic, partition: u32, key: &[u8], value: Option<&[u8]>, headers: &Headers) -> Result<Option<Sent>, LogError> {
        let bytes = fitting(topic, key, value, headers)?;
        let name = self.settings.topic(topic);
        let value = value.map(|value| self.settings.framing.written(topic, value));
        loop {
            let (answer, answered) = oneshot::channel();
            let record = BaseRecord::with_opaque_to(&name, Box::new(answer)).partition(number(partition));
            let producer = self.producer();
            match producer.send(with(record, key, value.as_deref(), headers)) {
                Ok(()) => return Ok(Some(Sent { topic, bytes, answered })),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return Ok(None),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), _)) => self.replace(&producer)?,
                Err((error, _)) => return Err(refused(topic, bytes, &error)),
            }
        }
    }

    /// Appends to a partition of a topic what belongs there, in this order (without a value, that the key is gone), and returns where it ends when
    /// all of it is durable; `None` for nothing. Waits on this thread, which is none of an async runtime's.
    ///
    /// # Errors
    /// If it could not be appended; some may be there.
    pub fn put(&self, topic: Topic, partition: u32, records: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<Option<i64>, LogError> {
        let (mut under_way, mut end) = (VecDeque::new(), None);
        for (key, value) in records {
            let sent = loop {
                if let Some(sent) = self.send(topic, partition, &key, value.as_deref(), &Headers::new())? {
                    break sent;
                }
                std::thread::sleep(ROOM);
            };
            under_way.push_back(sent);
            if under_way.len() >= UNDER_WAY {
                end = under_way.pop_front().map(Sent::blocking_offset).transpose()?;
            }
        }
        for sent in under_way {
            end = Some(sent.blocking_offset()?);
        }
        Ok(end.map(|offset| offset + 1))
    }

    async fn sent(&self, topic: Topic, input: &Input) -> Result<(u32, Sent), LogError> {
        let partition = partition_of(&input.account, self.partitions);
        loop {
            if let Some(sent) = self.send(topic, partition, input.account.as_bytes(), Some(&input.value), &input.headers)? {
                return Ok((partition, sent));
            }
            tokio::time::sleep(ROOM).await;
        }
    }

    async fn append_one(&self, topic: Topic, input: Input) -> Result<Place, LogError> {
        let (partition, sent) = self.sent(topic, &input).await?;
        Ok(Place { partition, offset: sent.offset().await? })
    }

    async fn append_many(&self, inputs: Vec<Input>) -> Result<Vec<Place>, LogError> {
        // All of them or none.
        for input in &inputs {
            fitting(Topic::Events, input.account.as_bytes(), Some(&input.value), &input.headers)?;
        }
        let mut under_way = Vec::with_capacity(inputs.len());
        for input in &inputs {
            under_way.push(self.sent(Topic::Events, input).await?);
        }
        let mut places = Vec::with_capacity(under_way.len());
        for (partition, sent) in under_way {
            places.push(Place { partition, offset: sent.offset().await? });
        }
        Ok(places)
    }
}

/// The bytes of a record that isn't too large.
fn fitting(topic: Topic, key: &[u8], value: Option<&[u8]>, headers: &Headers) -> Result<usize, LogError> {
    let bytes = key.len() + value.map_or(0, <[u8]>::len) + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if bytes > MAX_INPUT_BYTES { Err(LogError::TooLarge { topic, bytes, most: MAX_INPUT_BYTES }) } else { Ok(bytes) }
}

fn producer(settings: &KafkaSettings) -> Result<Producer, LogError> {
    settings.producer().create_with_context(Answers).map(Arc::new).map_err(super::client::failed("making a producer"))
}

impl Sent {
    async fn offset(self) -> Result<i64, LogError> {
        let answer = self.answered.await;
        Self::outcome(self.topic, self.bytes, answer)
    }

    /// Waits on this thread, which is none of an async runtime's.
    pub(super) fn blocking_offset(self) -> Result<i64, LogError> {
        let answer = self.answered.blocking_recv();
        Self::outcome(self.topic, self.bytes, answer)
    }

    fn outcome(topic: Topic, bytes: usize, answer: Result<Answer, oneshot::error::RecvError>) -> Result<i64, LogError> {
        answer.map_err(|_| LogError::Closed)?.map_err(|error| refused(topic, bytes, &error))
    }
}

fn refused(topic: Topic, bytes: usize, error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => LogError::TooLarge { topic, bytes, most: MAX_INPUT_BYTES },
        _ => LogError::Kafka { operation: format!("appending to {topic}"), why: words(error) },
    }
}

/// Adds key, value and headers; an empty key is none, and no value says that the key is gone.
pub(super) fn with<'a, D>(
    mut record: BaseRecord<'a, [u8], [u8], D>,
    key: &'a [u8],
    value: Option<&'a [u8]>,
    headers: &Headers,
) -> BaseRecord<'a, [u8], [u8], D>
where
    D: rdkafka::util::IntoOpaque,
{
    if let Some(value) = value {
        record = record.payload(value);
    }
    if !key.is_empty() {
        record = record.key(key);
    }
    if !headers.is_empty() {
        let list = headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(headers.len()), |list, (name, value)| list.insert(Header { key: name, value: Some(value) }));
        record = record.headers(list);
    }
    record
}

impl Appender for KafkaAppender {
    fn append(&self, input: Input) -> Appending<'_, Place> {
        Box::pin(self.append_one(Topic::Events, input))
    }

    fn append_all(&self, inputs: Vec<Input>) -> Appending<'_, Vec<Place>> {
        Box::pin(self.append_many(inputs))
    }

    fn append_dead_letter(&self, letter: Input) -> Appending<'_, Place> {
        Box::pin(self.append_one(Topic::DeadLetters, letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::kafka::native;
    use std::collections::BTreeMap;

    #[tokio::test]
    async fn a_producer_that_failed_for_good_is_replaced() {
        // Nobody listens there, so what can be sent ends with its time.
        let passed = BTreeMap::from([("message.timeout.ms".to_owned(), "100".to_owned())]);
        let settings = KafkaSettings { brokers: "127.0.0.1:1".into(), passed, ..KafkaSettings::default() };
        let appender = KafkaAppender::new(&settings, 1).unwrap();
        let append = async || {
            let input = Input { account: "1".into(), value: b"x".to_vec(), headers: Headers::new() };
            appender.append(input).await.unwrap_err().to_string()
        };
        assert!(append().await.contains("timed out"));
        let failed = appender.producer();
        native::fail_for_good(failed.client());
        let said = append().await;
        assert!(said.contains("timed out"), "{said}");
        assert!(!Arc::ptr_eq(&failed, &appender.producer()));
    }
}
