//! A worker's producer: one transaction at a time, with outputs and input positions, and a definite answer at the end of each commit. What that changes
//! in the state is written here too, while the worker steps what comes next.
//!
//! It has a thread of its own, since a call of librdkafka's may never return: where a coordinator that it knew is gone, sending offsets waits for it
//! beyond its time limit (librdkafka issues 5456 and 5511). Who waits for an answer gives the thread up then, with its producer, and the next
//! producer with the same transactional id ends what it had begun.

use super::appender::with;
use super::client::{REQUEST, Told, is_refusal, number, words};
use super::copier::Copied;
use super::framing::Framed;
use super::native;
use super::points::reached;
use super::settings::KafkaSettings;
use crate::log::{Committed, LogError, Output, OutputEnds, Topic};
use crate::state::database::{Database, DatabaseError};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};
use rocksdb::WriteBatch;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an answer that Kafka doesn't give is asked for. Then the producer is given up; its successor finds out what became of the transaction,
/// which its coordinator ends after [`super::settings::TRANSACTION_TIMEOUT_MS`].
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the producer's thread is waited for until it writes the states, where its calls keep to their limits far longer than it takes.
const ANSWER: Duration = Duration::from_secs(45);
/// How long one call of it may take, which is to return after [`REQUEST`].
const LONGEST_CALL: Duration = Duration::from_secs(15);
/// How often it is looked whether one takes longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a producer waits to be let in, at first and at most, before it is called again. Where its predecessor's transaction has to end first, it
/// asks again after half a second by itself, but at once when it is called.
const AGAIN: Duration = Duration::from_millis(20);
const LONGEST_AGAIN: Duration = Duration::from_secs(1);
/// How long a transaction stays open that was begun ahead, and that nothing is committed in: far less than brokers let one be open.
const AHEAD: Duration = Duration::from_secs(1);
/// How often delivery reports are taken.
const REPORTS: Duration = Duration::from_micros(250);

/// Notes where outputs came to stand.
struct Sending {
    /// The topics' full names, by [`Topic::index`].
    names: [String; Topic::ALL.len()],
    framing: Framed,
    /// After the last record of the transaction under way, by topic and partition.
    ends: Mutex<BTreeMap<(Topic, u32), i64>>,
    /// An output of it was delivered, but nobody knows where.
    is_lost: AtomicBool,
    called: Called,
}

/// Since when a call of the client's is under way that may never return, if one is.
type Called = Arc<Mutex<Option<Instant>>>;

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
            Ok(message) if message.offset() < 0 => self.is_lost.store(true, Ordering::Release),
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
    /// `None` until it is needed, and after an abort or a fence, or where it gave no answer.
    producing: Option<Producing>,
}

/// What a transaction changes in the states of partitions, to be written after it.
pub(super) type States = Vec<(Arc<Database>, WriteBatch)>;

/// What a partition's commit publishes.
pub(super) struct Publication {
    pub(super) partition: u32,
    /// With where its outputs ended before.
    pub(super) committed: Committed,
    pub(super) outputs: Vec<Output>,
}

/// What the producer's thread is to do. Each but the first is answered.
enum Task {
    /// Begin the transaction of the next commit.
    Begin,
    /// Publish outputs and positions of a worker.
    Commit(Vec<Publication>),
    /// Publish copies, and how far their originals are copied with them.
    Copy(Vec<Copied>, TopicPartitionList),
}

/// Where outputs end now, by partition.
type Ends = BTreeMap<u32, OutputEnds>;

/// The thread of a producer.
struct Producing {
    /// `None` once it is to end.
    tasks: Option<SyncSender<(Task, Arc<ConsumerGroupMetadata>)>>,
    /// It was told to begin a transaction, and nothing since.
    is_told_to_begin: bool,
    /// First that it is ready, then one for each commit or copy.
    answers: Mutex<Receiver<Result<Ends, Failure>>>,
    /// What is written if the answer that is waited for is good. Who takes it decides: the thread, which then writes it and answers, or who gives the
    /// thread up, after which it writes nothing.
    states: Arc<Mutex<Option<States>>>,
    called: Called,
    thread: Option<JoinHandle<()>>,
}

impl Producing {
    fn start(settings: &KafkaSettings, id: &str) -> Result<Self, LogError> {
        // Room for a beginning and what comes next, so that nobody waits to hand something over.
        let (tasks, taken) = sync_channel(2);
        let (told, answers) = sync_channel(1);
        let states = Arc::new(Mutex::new(Some(States::new())));
        let called = Called::default();
        let (settings, id, its_states) = (settings.clone(), id.to_owned(), states.clone());
        let context = Sending {
            names: Topic::ALL.map(|topic| settings.topic(topic)),
            framing: settings.framing.clone(),
            ends: Mutex::default(),
            is_lost: AtomicBool::new(false),
            called: called.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("transactions".into())
            .spawn(move || produce(&settings, context, &id, &taken, &its_states, &told))
            .map_err(|error| LogError::Kafka { operation: "starting a producer".into(), why: error.to_string() })?;
        Ok(Self { tasks: Some(tasks), is_told_to_begin: false, answers: Mutex::new(answers), states, called, thread: Some(thread) })
    }

    /// False if the thread has ended.
    fn hand_over(&mut self, task: Task, group: Arc<ConsumerGroupMetadata>, states: States) -> bool {
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = Some(states);
        self.is_told_to_begin = false;
        self.tasks.as_ref().is_some_and(|tasks| tasks.send((task, group)).is_ok())
    }

    /// Whether it is of no use any more.
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn begin(&mut self, group: Arc<ConsumerGroupMetadata>) {
        self.is_told_to_begin = true;
        let _ = self.tasks.as_ref().map(|tasks| tasks.send((Task::Begin, group)));
    }

    /// Waits for the answer, for so long until the states are being written, and not for a call that doesn't return.
    fn answer(&mut self, patience: Duration) -> Result<Ends, Failure> {
        let answers = self.answers.get_mut().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        loop {
            match answers.recv_timeout(LOOK_EVERY.min(patience.saturating_sub(begun.elapsed()))) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if begun.elapsed() < patience && !hangs(&self.called) => {}
                Err(RecvTimeoutError::Timeout) if self.states.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() => {
                    // It may hang for ever.
                    self.thread = None;
                    let why = if begun.elapsed() < patience { "a call of Kafka's client doesn't return" } else { "no answer" };
                    return Err(Failure::GiveUp(format!("{why} within {} s", begun.elapsed().as_secs())));
                }
                // The answer is on its way, or the thread is gone.
                Err(_) => return answers.recv().unwrap_or_else(|_| Err(Failure::GiveUp("its thread is gone".into()))),
            }
        }
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        self.tasks = None;
        // A beginning may hang for ever, and comes to nothing now.
        if !self.is_told_to_begin {
            // A panic of it was told by its not answering.
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}

/// Makes the producer, and publishes what comes, until nothing comes any more or the producer is of no use.
fn produce(
    settings: &KafkaSettings,
    context: Sending,
    id: &str,
    tasks: &Receiver<(Task, Arc<ConsumerGroupMetadata>)>,
    states: &Mutex<Option<States>>,
    answers: &SyncSender<Result<Ends, Failure>>,
) {
    let made: Result<BaseProducer<Sending>, KafkaError> = settings.transactional(id).create_with_context(context);
    let ready = made.and_then(|producer| let_in(&producer).map(|()| producer));
    let (producer, mut answer) = match ready {
        Ok(producer) => (Some(producer), Ok(Ends::new())),
        Err(error) if is_refusal(&error) => (None, Err(Failure::Refused(words(&error)))),
        Err(error) => (None, Err(Failure::GiveUp(words(&error)))),
    };
    // A transaction has begun that nothing is committed in yet.
    let mut has_begun = false;
    loop {
        let is_over = matches!(answer, Err(Failure::GiveUp(_) | Failure::Refused(_)));
        if !give(answer, states, answers) || is_over {
            return;
        }
        let Some(producer) = &producer else { return };
        answer = loop {
            let task = if has_begun { tasks.recv_timeout(AHEAD) } else { tasks.recv().map_err(RecvTimeoutError::from) };
            let done = match task {
                Ok((Task::Commit(publications), group)) => {
                    let begun = if std::mem::take(&mut has_begun) { Ok(()) } else { begin_commit(producer, &group) };
                    break begun.and_then(|()| publish(producer, publications, &group));
                }
                Ok((Task::Copy(copies, done), group)) => break copy(producer, &copies, &done, &group).map(|()| Ends::new()),
                Ok((Task::Begin, group)) => begin_commit(producer, &group).map(|()| true),
                Err(RecvTimeoutError::Timeout) => commit(producer).map(|()| false),
                // One that has begun is ended by its successor, or by its coordinator.
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match done {
                Ok(begun) => has_begun = begun,
                Err(failure) => {
                    // Nothing is lost with it: what is committed next has another producer.
                    if matches!(failure, Failure::Abort(_)) {
                        let _ = abort(producer);
                    }
                    tracing::debug!(id, "a transaction that nothing was committed in failed: {}", failure.why());
                    return;
                }
            }
            if has_begun {
                reached("begun");
            }
        };
        if let Err(Failure::Abort(why)) = answer {
            // What it sent may still be on its way, and the brokers would take it for a part of this producer's next transaction: its successor has
            // another epoch.
            answer = Err(Failure::GiveUp(match abort(producer) {
                Ok(()) => why,
                Err(error) => format!("{why}, and it could not be aborted: {}", words(&error)),
            }));
        }
    }
}

/// Gives an answer, and writes the states before if it is good. False: nobody waits for it, since it took too long, and nothing is written.
fn give(answer: Result<Ends, Failure>, states: &Mutex<Option<States>>, answers: &SyncSender<Result<Ends, Failure>>) -> bool {
    let answer = {
        // Held while they are written.
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(states) = states.take() else { return false };
        answer.and_then(|ends| write(states).map(|()| ends))
    };
    answers.send(answer).is_ok()
}

/// Writes what is committed.
fn write(states: States) -> Result<(), Failure> {
    if states.is_empty() {
        return Ok(());
    }
    reached("apply");
    for (database, state) in states {
        database.write(state).map_err(Failure::State)?;
        reached("applied-one");
    }
    reached("applied");
    Ok(())
}

/// How a transaction failed, before it is known what became of it.
enum Failure {
    /// It can be aborted, and must be; then its producer is of no use any more, either.
    Abort(String),
    /// Its producer is of no use any more.
    GiveUp(String),
    /// No producer can be had until somebody changes something.
    Refused(String),
    /// It is committed, and a state couldn't be written.
    State(DatabaseError),
}

impl Failure {
    fn why(self) -> String {
        match self {
            Self::Abort(why) | Self::GiveUp(why) | Self::Refused(why) => why,
            Self::State(error) => error.to_string(),
        }
    }

    fn of(error: &KafkaError) -> Self {
        match error {
            KafkaError::Transaction(error) if error.is_fatal() => Self::GiveUp(error.string()),
            other => Self::Abort(words(other)),
        }
    }
}

impl Transactions {
    pub(super) fn new(settings: &KafkaSettings, id: String) -> Self {
        Self { settings: settings.clone(), id, producing: None }
    }

    /// A producer whose predecessor's transactions have all ended, one way or the other.
    pub(super) fn ready(&mut self) -> Result<(), LogError> {
        if self.has_no_producer() {
            self.producing = None;
            let mut producing = Producing::start(&self.settings, &self.id)?;
            let operation = format!("making the producer of the transactions {}", self.id);
            producing.answer(ANSWER).map_err(|failure| match failure {
                Failure::Refused(why) => LogError::Refused { operation, why },
                other => LogError::Kafka { operation, why: other.why() },
            })?;
            self.producing = Some(producing);
        }
        Ok(())
    }

    /// Whether [`Transactions::ready`] has to make one.
    pub(super) fn has_no_producer(&self) -> bool {
        self.producing.as_ref().is_none_or(Producing::has_ended)
    }

    /// Lets the transaction of the next commit begin, unless that was told before, while what goes into it is got ready. Where that fails, the commit
    /// begins one with another producer. `group` is asked where it is needed.
    pub(super) fn begin(&mut self, group: impl FnOnce() -> Option<ConsumerGroupMetadata>) {
        if let Some(producing) = self.producing.as_mut().filter(|producing| !producing.is_told_to_begin)
            && let Some(group) = group()
        {
            producing.begin(Arc::new(group));
        }
    }

    /// Begins to publish all outputs and positions, and to write the states then, or nothing; [`Transactions::concluded`] says what became of it.
    pub(super) fn commit(&mut self, publications: Vec<Publication>, states: States, group: Arc<ConsumerGroupMetadata>) -> Result<(), LogError> {
        self.hand_over(Task::Commit(publications), states, group)
    }

    /// Appends copies, and says how far the group has copied, or nothing. After an error, what is committed says which, as for
    /// [`Transactions::commit`].
    pub(super) fn copy(&mut self, copies: Vec<Copied>, done: TopicPartitionList, group: Arc<ConsumerGroupMetadata>) -> Result<(), LogError> {
        self.hand_over(Task::Copy(copies, done), States::new(), group)?;
        self.concluded().map(|_| ())
    }

    fn hand_over(&mut self, task: Task, states: States, group: Arc<ConsumerGroupMetadata>) -> Result<(), LogError> {
        self.ready()?;
        if self.producing.as_mut().is_some_and(|producing| producing.hand_over(task, group, states)) {
            return Ok(());
        }
        self.producing = None;
        Err(LogError::Aborted { why: "its producer is gone".into() })
    }

    /// Waits until the transaction that was handed over last has ended, and its states are written; returns where the outputs end now. After an error the
    /// worker begins again from what is committed, which is definite once [`Transactions::ready`] has returned.
    pub(super) fn concluded(&mut self) -> Result<Ends, LogError> {
        let Some(producing) = &mut self.producing else { return Err(LogError::Closed) };
        producing.answer(ANSWER).map_err(|failure| {
            if matches!(failure, Failure::GiveUp(_)) {
                self.producing = None;
            }
            match failure {
                Failure::State(error) => LogError::Database(error),
                other => LogError::Aborted { why: other.why() },
            }
        })
    }
}

/// Publishes in the transaction that has begun, and commits it.
fn publish(producer: &BaseProducer<Sending>, publications: Vec<Publication>, group: &ConsumerGroupMetadata) -> Result<Ends, Failure> {
    let Sending { names, framing, ends: delivered, is_lost, .. } = &**producer.context();
    delivered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    reached("produce");
    for publication in &publications {
        for topic in Topic::ALL {
            let outputs = publication.outputs.iter().filter(|output| output.topic == topic).collect::<Vec<_>>();
            hand_over(producer, framing, &names[topic.index()], publication.partition, &outputs)?;
        }
    }
    // Where they came to stand is part of what is committed.
    deliver(producer)?;
    if is_lost.load(Ordering::Acquire) {
        return Err(Failure::Abort("an output was delivered, and the broker doesn't say where".into()));
    }
    reached("produced");
    let mut moved = Ends::new();
    let mut positions = TopicPartitionList::with_capacity(publications.len());
    for Publication { partition, mut committed, .. } in publications {
        for ((topic, of), end) in delivered.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if *of == partition {
                committed.ends.set(*topic, *end);
            }
        }
        let mut element = positions.add_partition(&names[Topic::Events.index()], number(partition));
        element.set_offset(Offset::Offset(committed.position.next)).map_err(|error| Failure::of(&error))?;
        element.set_metadata(committed.to_string());
        moved.insert(partition, committed.ends);
    }
    end(producer, &positions, group)?;
    Ok(moved)
}

/// Gives the outputs that go to a partition of a topic to the producer.
fn hand_over(producer: &BaseProducer<Sending>, framing: &Framed, name: &str, partition: u32, outputs: &[&Output]) -> Result<(), Failure> {
    let values: Vec<Option<Cow<'_, [u8]>>> =
        outputs.iter().map(|output| output.value.as_ref().map(|value| framing.written(output.topic, value))).collect();
    // With headers each goes by itself.
    let are_plain = !outputs.is_empty() && outputs.iter().all(|output| output.headers.is_empty());
    let mut left: Vec<usize> = (0..outputs.len()).collect();
    if let (true, Ok(name)) = (are_plain, CString::new(name)) {
        let records: Vec<(&[u8], Option<&[u8]>)> = outputs.iter().zip(&values).map(|(output, value)| (&*output.key, value.as_deref())).collect();
        let refused = native::produce(producer, &name, number(partition), &records);
        if let Some((_, code)) = refused.iter().find(|(_, code)| *code != RDKafkaErrorCode::QueueFull) {
            return Err(Failure::Abort(code.to_string()));
        }
        left = refused.into_iter().map(|(place, _)| place).collect();
    }
    for place in left {
        let record = BaseRecord::to(name).partition(number(partition));
        send(producer, with(record, &outputs[place].key, values[place].as_deref(), &outputs[place].headers))?;
    }
    Ok(())
}

fn copy(producer: &BaseProducer<Sending>, copies: &[Copied], done: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Failure> {
    let Sending { names, framing, .. } = &**producer.context();
    begin(producer, done, group)?;
    for copied in copies {
        let record = BaseRecord::to(&names[copied.topic.index()]).partition(number(copied.partition)).timestamp(copied.timestamp);
        let value = copied.value.as_ref().map(|value| framing.written(copied.topic, value));
        send(producer, with(record, &copied.key, value.as_deref(), &copied.headers))?;
    }
    deliver(producer)?;
    end(producer, done, group)
}

/// Begins a worker's transaction, with an offset that nobody asks for, since nothing is known of it until the transaction ends, whatever becomes of
/// who began it.
fn begin_commit(producer: &BaseProducer<Sending>, group: &ConsumerGroupMetadata) -> Result<(), Failure> {
    let mut unasked = TopicPartitionList::with_capacity(1);
    let name = &producer.context().names[Topic::DeadLetters.index()];
    unasked.add_partition_offset(name, 0, Offset::Offset(0)).map_err(|error| Failure::of(&error))?;
    begin(producer, &unasked, group)
}

/// Begins a transaction with offsets: while the markers of the one before are being written, the client asks for those again after 2 ms, then a
/// little later each time, but for a partition to write to only after 20.
fn begin(producer: &BaseProducer<Sending>, offsets: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Failure> {
    producer.begin_transaction().map_err(|error| Failure::GiveUp(words(&error)))?;
    send_offsets(producer, offsets, group)
}

fn send_offsets(producer: &BaseProducer<Sending>, offsets: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Failure> {
    insist(producer, || producer.send_offsets_to_transaction(offsets, group, REQUEST)).map_err(|error| Failure::of(&error))
}

/// Waits until all that was sent is delivered, or has failed.
fn deliver(producer: &BaseProducer<Sending>) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    while producer.in_flight_count() > 0 {
        if Instant::now() >= until {
            return Err(Failure::Abort(format!("outputs could not be delivered within {} s", PATIENCE.as_secs())));
        }
        take_reports(producer);
    }
    Ok(())
}

fn end(producer: &BaseProducer<Sending>, positions: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Failure> {
    send_offsets(producer, positions, group)?;
    reached("offsets-sent");
    commit(producer)?;
    reached("committed");
    Ok(())
}

/// From here on the outcome may be unknown; only Kafka's own answer ends that.
fn commit(producer: &BaseProducer<Sending>) -> Result<(), Failure> {
    insist(producer, || producer.commit_transaction(REQUEST)).map_err(|error| match error {
        KafkaError::Transaction(error) if error.txn_requires_abort() => Failure::Abort(error.string()),
        other => Failure::GiveUp(words(&other)),
    })
}

/// Aborting waits until every output was reported as delivered or dropped, and reports are only seen by polling.
fn abort(producer: &BaseProducer<Sending>) -> Result<(), KafkaError> {
    producer.purge(PurgeConfig::default().queue());
    let until = Instant::now() + REQUEST;
    while producer.in_flight_count() > 0 && Instant::now() < until {
        take_reports(producer);
    }
    insist(producer, || {
        producer.poll(Duration::ZERO);
        producer.abort_transaction(REQUEST)
    })
}

/// Takes the delivery reports that have come, and waits a little for others. (The client's own poll lasts for all of the time that it is given, also
/// when the last report has come, and spins in the last millisecond.)
fn take_reports(producer: &BaseProducer<Sending>) {
    std::thread::sleep(REPORTS);
    producer.poll(Duration::ZERO);
}

fn send<'a>(producer: &BaseProducer<Sending>, mut record: BaseRecord<'a, [u8], [u8]>) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < until => {
                record = back;
                take_reports(producer);
            }
            Err((error, _)) => return Err(Failure::Abort(words(&error))),
        }
    }
}

/// Lets a producer take its place: who had its name before can commit nothing from then on.
fn let_in(producer: &BaseProducer<Sending>) -> Result<(), KafkaError> {
    let mut wait = AGAIN;
    insist(producer, || {
        let answer = producer.init_transactions(wait);
        wait = (2 * wait).min(LONGEST_AGAIN);
        answer
    })
}

/// Calls again what may be called again, until it has an answer or patience is at its end.
fn insist(producer: &BaseProducer<Sending>, mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let until = Instant::now() + PATIENCE;
    let called = |since| *producer.context().called.lock().unwrap_or_else(PoisonError::into_inner) = since;
    loop {
        called(Some(Instant::now()));
        let answer = call();
        called(None);
        match answer {
            Err(KafkaError::Transaction(error)) if is_repeatable(&error) && Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Err(KafkaError::Flush(_)) if Instant::now() < until => {}
            answer => return answer,
        }
    }
}

fn hangs(called: &Called) -> bool {
    called.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() >= LONGEST_CALL)
}

fn is_repeatable(error: &RDKafkaError) -> bool {
    error.is_retriable() && !error.is_fatal() && !error.txn_requires_abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::database::{DatabaseOptions, Engine, Family};

    /// A commit of one row that waits for its answer.
    struct Waiting {
        producing: Producing,
        /// What its thread answers by; `None` once that is gone.
        told: Option<SyncSender<Result<Ends, Failure>>>,
        states: Arc<Mutex<Option<States>>>,
        database: Arc<Database>,
        _dir: tempfile::TempDir,
    }

    fn waiting() -> Waiting {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(dir.path(), &Engine::new(&DatabaseOptions::default()), &[]).unwrap());
        let mut row = WriteBatch::default();
        row.put_cf(database.family(Family::Meta), b"k", b"v");
        let states = Arc::new(Mutex::new(Some(vec![(database.clone(), row)])));
        let (told, answers) = sync_channel(1);
        let producing = Producing {
            tasks: None,
            is_told_to_begin: false,
            answers: Mutex::new(answers),
            states: states.clone(),
            called: Called::default(),
            thread: None,
        };
        Waiting { producing, told: Some(told), states, database, _dir: dir }
    }

    impl Waiting {
        fn give(&self, answer: Result<Ends, Failure>) -> bool {
            give(answer, &self.states, self.told.as_ref().unwrap())
        }

        fn is_written(&self) -> bool {
            self.database.get(self.database.family(Family::Meta), b"k").unwrap().is_some()
        }
    }

    #[test]
    fn states_are_written_before_a_good_answer_alone() {
        let mut committed = waiting();
        assert!(committed.give(Ok(Ends::new())));
        assert!(committed.is_written());
        assert!(committed.producing.answer(ANSWER).is_ok());

        let mut aborted = waiting();
        assert!(aborted.give(Err(Failure::Abort("it failed".into()))));
        assert!(matches!(aborted.producing.answer(ANSWER), Err(Failure::Abort(_))));
        assert!(!aborted.is_written());
    }

    #[test]
    fn a_thread_that_was_given_up_writes_nothing() {
        let mut late = waiting();
        assert!(matches!(late.producing.answer(Duration::ZERO), Err(Failure::GiveUp(why)) if why.contains("no answer")));
        assert!(!late.give(Ok(Ends::new())));
        assert!(!late.is_written());
    }

    #[test]
    fn a_thread_whose_call_does_not_return_is_given_up_sooner() {
        let mut hanging = waiting();
        *hanging.producing.called.lock().unwrap() = Some(Instant::now().checked_sub(LONGEST_CALL).unwrap());
        assert!(matches!(hanging.producing.answer(ANSWER), Err(Failure::GiveUp(why)) if why.contains("doesn't return")));
        assert!(!hanging.give(Ok(Ends::new())) && !hanging.is_written());
    }

    #[test]
    fn a_thread_that_hangs_while_it_begins_is_not_waited_for() {
        let mut beginning = waiting();
        let (end, hangs) = sync_channel::<()>(0);
        beginning.producing.thread = Some(std::thread::spawn(move || assert!(hangs.recv().is_err(), "nothing is sent")));
        beginning.producing.is_told_to_begin = true;
        let (told, dropped) = sync_channel(1);
        let dropping = std::thread::spawn(move || {
            drop(beginning.producing);
            told.send(()).unwrap();
        });
        dropped.recv_timeout(ANSWER).unwrap();
        dropping.join().unwrap();
        drop(end);
    }

    #[test]
    fn a_thread_that_writes_is_waited_for() {
        let mut slow = waiting();
        // It has begun to write.
        let states = slow.states.lock().unwrap().take();
        let told = slow.told.take().unwrap();
        let answering = std::thread::spawn(move || {
            write(states.unwrap()).map_err(Failure::why).unwrap();
            told.send(Ok(Ends::new())).map_err(drop).unwrap();
        });
        assert!(slow.producing.answer(Duration::ZERO).is_ok());
        assert!(slow.is_written());
        answering.join().unwrap();
    }

    #[test]
    fn a_thread_that_is_gone_is_told() {
        let mut gone = waiting();
        gone.told = None;
        assert!(matches!(gone.producing.answer(ANSWER), Err(Failure::GiveUp(why)) if why.contains("gone")));
    }
}
