//! Reading topics: their ends, ranges of them, and their growth.
//!
//! A range is read by a consumer that assigns the partition to itself. Only committed records come; offsets of transaction markers and aborted
//! records are passed silently, so where a read got to is learned from the event that says at which offset the end was reached.

use super::client::{AT_ONCE, REQUEST, Told, failed, number};
use super::native::{Fetched, Queue};
use super::settings::KafkaSettings;
use crate::log::{Committed, LogError, MAX_READ_BYTES, Read, Topic};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Consumers that are kept for further reads at least: as many as partitions where those are more, since each may be brought up by somebody.
const CURSORS: usize = 8;
const MOST_CURSORS: usize = 16;
/// How long a read waits for a transaction under way. A worker that died with one is found out after the transaction's timeout.
const TRANSACTION: Duration = Duration::from_secs(60);
/// How long a cursor waits for its batch to be full: also where all that there is has come.
const FULL: Duration = Duration::from_millis(2);
/// How often the end of a transaction under way is looked for, and the growth of topics that somebody follows.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const FOLLOW_EVERY: Duration = Duration::from_millis(20);

type Client = BaseConsumer<Told>;

/// What is read of a partition.
#[derive(Clone, Copy)]
struct Wanted {
    topic: Topic,
    partition: u32,
    /// Records before this offset, which is there.
    end: i64,
    /// So many of them at most.
    max: usize,
    /// How long is waited for them, and for a transaction under way.
    patience: Duration,
}

/// See [`super::Kafka::reader`].
#[derive(Clone)]
pub struct KafkaReader {
    shared: Arc<Shared>,
}

struct Shared {
    settings: KafkaSettings,
    partitions: u32,
    /// Sees what is written.
    written: Client,
    /// Sees what is committed.
    committed: Client,
    idle: Mutex<Vec<Cursor>>,
    followed: Mutex<BTreeMap<(Topic, u32), watch::Sender<i64>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept under these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KafkaReader {
    pub(super) fn new(settings: &KafkaSettings, partitions: u32) -> Result<Self, LogError> {
        let client = |committed| settings.reader(committed).create_with_context(Told).map_err(failed("making a consumer"));
        let shared = Shared {
            settings: settings.clone(),
            partitions,
            written: client(false)?,
            committed: client(true)?,
            idle: Mutex::default(),
            followed: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is committed of each partition, by partition, without waiting for commits under way.
    ///
    /// # Errors
    /// If Kafka gives no answer.
    pub fn committed_so_far(&self) -> Result<Vec<Option<Committed>>, LogError> {
        let all: Vec<u32> = (0..self.shared.partitions).collect();
        committed(&self.shared.written, &self.shared.settings.topic(Topic::Events), &all, REQUEST)
    }

    pub(super) fn cluster_id(&self) -> Result<Option<String>, LogError> {
        let client = self.shared.written.client();
        // The id comes with the metadata, which a client that nobody has asked for anything may ask for a second later.
        client.fetch_metadata(Some(&self.shared.settings.topic(Topic::Events)), REQUEST).map_err(failed("asking for the cluster's id"))?;
        Ok(client.fetch_cluster_id(REQUEST))
    }

    fn check(&self, partition: u32) -> Result<(), LogError> {
        let partitions = self.shared.partitions;
        if partition < partitions { Ok(()) } else { Err(LogError::NoSuchPartition { partition, partitions }) }
    }

    /// Refuses an offset that isn't between the start of what is kept and the end; tells both.
    pub(super) fn check_offset(&self, topic: Topic, partition: u32, asked: i64) -> Result<(i64, i64), LogError> {
        let (start, end) = self.shared.ends(&self.shared.written, topic, partition, REQUEST)?;
        // A compacted topic's start moves past what newer records have replaced.
        let first = if topic.is_compacted() { 0 } else { start };
        if asked < first || asked > end {
            return Err(LogError::OutOfRange { topic, partition, asked, start, end });
        }
        Ok((start, end))
    }

    /// As [`Reader::has_record`], for who can do without the answer where a broker doesn't give it soon.
    pub(super) fn has_record_within(&self, topic: Topic, partition: u32, from: i64, wait: Duration) -> Result<bool, LogError> {
        let (_, stable) = self.shared.ends(&self.shared.committed, topic, partition, wait)?;
        // Where the end is further on, it may be by markers alone.
        Ok(from < stable && !self.read_up_to(from, Wanted { topic, partition, end: stable, max: 1, patience: wait }, None)?.records.is_empty())
    }

    /// Where a partition starts and ends, for who can do without the answer where a broker doesn't give it soon.
    pub(super) fn ends_within(&self, topic: Topic, partition: u32, wait: Duration) -> Result<(i64, i64), LogError> {
        self.shared.ends(&self.shared.written, topic, partition, wait)
    }

    /// Committed records from an offset that is there; by the cursor that stands there, if there is one.
    fn read_up_to(&self, from: i64, wanted: Wanted, mut cursor: Option<Cursor>) -> Result<Read, LogError> {
        let Wanted { topic, partition, end, max, patience } = wanted;
        let mut read = Read { records: Vec::new(), next: from };
        if read.next == end || max == 0 {
            return Ok(read);
        }
        let until = Instant::now() + patience;
        let mut stable = cursor.as_ref().map_or(0, |cursor| cursor.stable);
        while read.records.is_empty() && read.next < end {
            // A fetch from beyond the stable end would wait for it to move on.
            if stable <= read.next {
                stable = self.shared.ends(&self.shared.committed, topic, partition, patience.min(REQUEST))?.1;
            }
            if stable <= read.next {
                if Instant::now() >= until {
                    let why = format!("a transaction that is under way at offset {} has not ended within {} s", read.next, patience.as_secs());
                    return Err(LogError::Kafka { operation: format!("reading {topic} partition {partition}"), why });
                }
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            let mut used = match cursor.take() {
                Some(cursor) => cursor,
                None => self.cursor(topic, partition, read.next)?,
            };
            // A cursor that failed is dropped here, and what it had fetched with it.
            used.read(&self.shared.settings, Wanted { end: stable.min(end), ..wanted }, &mut read)?;
            used.stable = stable;
            cursor = Some(used);
        }
        if let Some(mut cursor) = cursor {
            if read.next >= end {
                cursor.rest()?;
            }
            self.give_back(cursor);
        }
        Ok(read)
    }

    /// Keeps a cursor for further reads, and drops one where there are too many: one at rest, else the one that was given back first, which may have
    /// been left where it stands.
    fn give_back(&self, cursor: Cursor) {
        let mut idle = locked(&self.shared.idle);
        let one_too_many = idle.len() >= (self.shared.partitions as usize).clamp(CURSORS, MOST_CURSORS);
        let dropped = one_too_many.then(|| idle.iter().position(|cursor| cursor.place.is_none()).unwrap_or(0)).map(|at| idle.remove(at));
        idle.push(cursor);
        drop(idle);
        // Without the lock: its thread takes up to 100 ms to end.
        drop(dropped);
    }

    /// Why a position isn't told: of one that has to wait for a transaction the client says only that no answer came in time.
    fn held_back(&self, partition: u32, error: LogError) -> LogError {
        let events = self.shared.settings.topic(Topic::Events);
        let asked = |client| committed(client, &events, &[partition], AT_ONCE).is_ok();
        // The brokers answer, and not to who asks for what is stable: also not after that.
        if !asked(&self.shared.written) || asked(&self.shared.committed) {
            return error;
        }
        let why = format!("a transaction that has not ended within {} s holds the position of partition {partition}", REQUEST.as_secs());
        LogError::Kafka { operation: "asking what is committed".into(), why }
    }

    /// The cursor that stands there, if it is known that more is committed.
    fn standing(&self, topic: Topic, partition: u32, from: i64) -> Option<Cursor> {
        let mut idle = locked(&self.shared.idle);
        let at = idle.iter().position(|cursor| cursor.place == Some((topic, partition, from)) && cursor.stable > from)?;
        Some(idle.remove(at))
    }

    fn cursor(&self, topic: Topic, partition: u32, from: i64) -> Result<Cursor, LogError> {
        let mut idle = locked(&self.shared.idle);
        // One that stands elsewhere has fetched what somebody is about to ask for.
        let at = idle
            .iter()
            .position(|cursor| cursor.place == Some((topic, partition, from)))
            .or_else(|| idle.iter().position(|cursor| cursor.place.is_none()));
        if let Some(at) = at {
            return Ok(idle.remove(at));
        }
        drop(idle);
        Cursor::new(&self.shared.settings)
    }
}

impl Shared {
    /// Where a partition starts and ends, as a client sees it, within `wait`.
    fn ends(&self, client: &Client, topic: Topic, partition: u32, wait: Duration) -> Result<(i64, i64), LogError> {
        if partition >= self.partitions {
            return Err(LogError::NoSuchPartition { partition, partitions: self.partitions });
        }
        let name = self.settings.topic(topic);
        client.client().fetch_watermarks(&name, number(partition), wait).map_err(|error| {
            // By itself the client goes on asking a leader that is gone until what it knows of the topic is too old.
            if let Err(error) = client.client().fetch_metadata(Some(&name), AT_ONCE) {
                tracing::debug!("looking for the leaders of {name}: {error}");
            }
            failed(format!("asking where {name} partition {partition} ends"))(error)
        })
    }
}

/// What Kafka says of committed offsets, in the order of the partitions.
fn committed(client: &Client, events: &str, partitions: &[u32], wait: Duration) -> Result<Vec<Option<Committed>>, LogError> {
    let asking = || "asking what is committed";
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition_offset(events, number(*partition), Offset::Invalid).map_err(failed(asking()))?;
    }
    let list = client.committed_offsets(asked, wait).map_err(failed(asking()))?;
    let of = |partition: &u32| {
        let Some(element) = list.find_partition(events, number(*partition)) else { return Ok(None) };
        element.error().map_err(failed(format!("asking what is committed of partition {partition}")))?;
        let Offset::Offset(offset) = element.offset() else { return Ok(None) };
        let corrupt = |why: String| LogError::Corrupt { partition: *partition, what: "the committed position".into(), why };
        let foreign = |why: String| {
            let remedy = "commit it anew as it was, text included, or start with topics and a group of its own (--topic-prefix, --group)";
            corrupt(format!("{why}. Something else committed it (offsets that were reset?): {remedy}"))
        };
        let committed: Committed = element.metadata().parse().map_err(foreign)?;
        if committed.position.next != offset {
            return Err(corrupt(format!("its offset is {offset}, but its text says {}", committed.position.next)));
        }
        Ok(Some(committed))
    };
    partitions.iter().map(of).collect()
}

impl crate::log::Reader for KafkaReader {
    fn partitions(&self) -> u32 {
        self.shared.partitions
    }

    fn committed(&self, partition: u32) -> Result<Option<Committed>, LogError> {
        self.check(partition)?;
        let events = self.shared.settings.topic(Topic::Events);
        let until = Instant::now() + REQUEST;
        loop {
            // Offsets of a transaction under way aren't stable yet.
            match committed(&self.shared.committed, &events, &[partition], REQUEST) {
                Err(error @ LogError::Kafka { .. }) if Instant::now() < until => {
                    tracing::debug!("{error}");
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(error @ LogError::Kafka { .. }) => return Err(self.held_back(partition, error)),
                answer => return answer.map(|mut all| all.pop().flatten()),
            }
        }
    }

    fn start(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        Ok(self.shared.ends(&self.shared.written, topic, partition, REQUEST)?.0)
    }

    fn end(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        Ok(self.shared.ends(&self.shared.written, topic, partition, REQUEST)?.1)
    }

    fn has_record(&self, topic: Topic, partition: u32, from: i64) -> Result<bool, LogError> {
        self.has_record_within(topic, partition, from, REQUEST)
    }

    fn read(&self, topic: Topic, partition: u32, from: i64, max: usize) -> Result<Read, LogError> {
        self.check(partition)?;
        // Who reads on doesn't ask the brokers for the ends with every piece.
        if let Some(cursor) = self.standing(topic, partition, from) {
            return self.read_up_to(from, Wanted { topic, partition, end: cursor.stable, max, patience: TRANSACTION }, Some(cursor));
        }
        let (start, end) = self.check_offset(topic, partition, from)?;
        self.read_up_to(from.max(start), Wanted { topic, partition, end, max, patience: TRANSACTION }, None)
    }

    fn subscribe_end(&self, topic: Topic, partition: u32) -> Result<watch::Receiver<i64>, LogError> {
        let end = self.shared.ends(&self.shared.committed, topic, partition, REQUEST)?.1;
        let mut followed = locked(&self.shared.followed);
        let starts = followed.is_empty();
        let sender = followed.entry((topic, partition)).or_insert_with(|| watch::Sender::new(end));
        // What others see of it may be a moment old, or more where a broker is silent.
        sender.send_if_modified(|known| std::mem::replace(known, end.max(*known)) < end);
        let receiver = sender.subscribe();
        if starts {
            let shared = Arc::downgrade(&self.shared);
            let thread = std::thread::Builder::new().name("kafka-ends".into()).spawn(move || follow(&shared));
            if let Err(error) = thread {
                followed.clear();
                return Err(LogError::Thread { partition, why: error.to_string() });
            }
        }
        Ok(receiver)
    }
}

/// Looks how far followed partitions are committed, until nobody follows one, or the reader is gone.
fn follow(reader: &Weak<Shared>) {
    while let Some(shared) = reader.upgrade() {
        let partitions: Vec<(Topic, u32)> = {
            let mut followed = locked(&shared.followed);
            followed.retain(|_, sender| sender.receiver_count() > 0);
            if followed.is_empty() {
                return;
            }
            followed.keys().copied().collect()
        };
        for (topic, partition) in partitions {
            match shared.ends(&shared.committed, topic, partition, AT_ONCE) {
                Ok((_, end)) => {
                    if let Some(sender) = locked(&shared.followed).get(&(topic, partition)) {
                        sender.send_if_modified(|known| std::mem::replace(known, (*known).max(end)) < end);
                    }
                }
                Err(error) => tracing::debug!("{error}"),
            }
        }
        drop(shared);
        std::thread::sleep(FOLLOW_EVERY);
    }
}

/// A consumer somewhere in a partition.
struct Cursor {
    queue: Queue<Told>,
    /// Topic, partition, and the offset of what it gives next; `None` when it reads nothing.
    place: Option<(Topic, u32, i64)>,
    /// Before this offset everything was committed there when it was last looked.
    stable: i64,
    /// Topics whose leaders were looked for.
    known: BTreeSet<Topic>,
}

impl Cursor {
    fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        let consumer: Client = settings.reader(true).create_with_context(Told).map_err(failed("making a consumer"))?;
        let no_queue = || LogError::Kafka { operation: "making a consumer".into(), why: "it has no queue".into() };
        Ok(Self { queue: Queue::of(Arc::new(consumer)).ok_or_else(no_queue)?, place: None, stable: 0, known: BTreeSet::new() })
    }

    /// Adds records to `read`, up to an end that is committed.
    fn read(&mut self, settings: &KafkaSettings, wanted: Wanted, read: &mut Read) -> Result<(), LogError> {
        let Wanted { topic, partition, end, max, patience } = wanted;
        let name = settings.topic(topic);
        let operation = || format!("reading {name} partition {partition}");
        if self.place != Some((topic, partition, read.next)) {
            self.place = None;
            let mut one = TopicPartitionList::new();
            one.add_partition_offset(&name, number(partition), Offset::Offset(read.next)).map_err(failed(operation()))?;
            if self.known.insert(topic) {
                // By itself a client looks for the leader of a topic that is new to it once a second.
                self.queue.consumer().fetch_metadata(Some(&name), patience.min(REQUEST)).map_err(failed(operation()))?;
            }
            self.queue.consumer().assign(&one).map_err(failed(operation()))?;
        }
        let until = Instant::now() + patience;
        let mut bytes = 0;
        while read.next < end && read.records.len() < max && bytes < MAX_READ_BYTES {
            let mut fetched = self.queue.take(&name, Some(number(partition)), max - read.records.len(), FULL);
            if fetched.is_empty() && Instant::now() >= until {
                self.place = None;
                return Err(LogError::Kafka { operation: operation(), why: format!("nothing came within {} s", patience.as_secs()) });
            }
            for (_, fetched) in fetched.drain(..) {
                match fetched {
                    // A record behind what was read already is a leftover of an earlier place.
                    Fetched::Record(mut record) if record.offset >= read.next => {
                        settings.framing.read(topic, &mut record)?;
                        read.next = record.offset + 1;
                        bytes += record.bytes();
                        read.records.push(record);
                    }
                    Fetched::Record(_) => {}
                    Fetched::End(offset) => read.next = read.next.max(offset),
                    Fetched::Failed(code) => {
                        if is_final(code) {
                            self.place = None;
                            return Err(LogError::Kafka { operation: operation(), why: code.to_string() });
                        }
                        // Connections come and go; the client tries again.
                        tracing::debug!("{}: {code}", operation());
                    }
                }
            }
        }
        self.place = Some((topic, partition, read.next));
        Ok(())
    }

    /// Stops fetching: nobody is known to read on.
    fn rest(&mut self) -> Result<(), LogError> {
        self.place = None;
        self.queue.consumer().unassign().map_err(failed("ending a read"))
    }
}

/// Whether trying again would not help.
fn is_final(code: rdkafka::error::RDKafkaErrorCode) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::AutoOffsetReset
            | Code::OffsetOutOfRange
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::Fatal
    )
}
