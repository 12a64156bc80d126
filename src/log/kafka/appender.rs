//! Appending from outside: idempotent, durable on all replicas in sync before it is answered.

use super::client::{Told, number, words};
use super::settings::KafkaSettings;
use crate::log::{Appender, Appending, Headers, Input, LogError, MAX_INPUT_BYTES, Place, Topic, partition_of};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

type Answer = Result<i64, KafkaError>;

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
    producer: Arc<ThreadedProducer<Answers>>,
    settings: Arc<KafkaSettings>,
    partitions: u32,
}

/// While the client's buffer is full: how often it is tried again.
const ROOM: Duration = Duration::from_millis(2);

/// A record on its way.
pub(super) struct Sent {
    topic: Topic,
    bytes: usize,
    answered: oneshot::Receiver<Answer>,
}

impl KafkaAppender {
    pub(super) fn new(settings: &KafkaSettings, partitions: u32) -> Result<Self, LogError> {
        let producer = settings.producer().create_with_context(Answers).map_err(super::client::failed("making a producer"))?;
        Ok(Self { producer: Arc::new(producer), settings: Arc::new(settings.clone()), partitions })
    }

    /// Hands a record to the client, which keeps the order within a partition; `None` while there is no room.
    pub(super) fn send(&self, topic: Topic, partition: u32, key: &[u8], value: &[u8], headers: &Headers) -> Result<Option<Sent>, LogError> {
        let bytes = key.len() + value.len() + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if bytes > MAX_INPUT_BYTES {
            return Err(LogError::TooLarge { topic, bytes, most: MAX_INPUT_BYTES });
        }
        let name = self.settings.topic(topic);
        let value = self.settings.framing.written(topic, value);
        let (answer, answered) = oneshot::channel();
        let record: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(&name, Box::new(answer)).partition(number(partition)).payload(value.as_ref());
        match self.producer.send(with(record, key, headers)) {
            Ok(()) => Ok(Some(Sent { topic, bytes, answered })),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(None),
            Err((error, _)) => Err(refused(topic, bytes, &error)),
        }
    }

    async fn sent(&self, topic: Topic, input: &Input) -> Result<(u32, Sent), LogError> {
        let partition = partition_of(&input.account, self.partitions);
        loop {
            if let Some(sent) = self.send(topic, partition, input.account.as_bytes(), &input.value, &input.headers)? {
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

/// Adds key and headers; an empty key is none.
pub(super) fn with<'a, D>(mut record: BaseRecord<'a, [u8], [u8], D>, key: &'a [u8], headers: &Headers) -> BaseRecord<'a, [u8], [u8], D>
where
    D: rdkafka::util::IntoOpaque,
{
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
