//! Bringing a copy of a partition's state up to the committed position: after a crash, from an old copy, from nothing. One way
//! for all (design §2): what is published comes from the output topics, then the facts of the log that may not be contained there.

use super::partition::{Partition, PartitionError, partition_time, unreadable};
use crate::event::{AccountId, Decoded, Event, Facts, SessionId, decode, decode_event, decode_facts, decode_gist};
use crate::judge::{At, recall};
use crate::log::{Committed, LogError, Position, Read, Reader, Record, Topic, misplaced};
use crate::state::Store;
use crate::state::database::{Database, Family};
use foldhash::{HashSet, HashSetExt};
use rocksdb::WriteBatch;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long records that must be there are waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a position isn't believed that can't be the last: longer than a broker takes to learn what has happened while it was away.
const OUTDATED: Duration = Duration::from_secs(20);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Records that are read and written at once: few enough that what they become stays in the processor's caches.
const CHUNK: usize = 1_000;
/// Bytes of verdicts that are written at once where a copy is built from nothing: each time makes some files.
const BULK_BYTES: usize = 16 << 20;
const POSITION: &[u8] = b"position";

/// The output topics that a copy is brought up from. The order matters: with accounts and numbers known, a verdict that the snapshot has overtaken
/// shows as due.
pub(super) const OUTPUTS: [Topic; 4] = [Topic::AccountStates, Topic::CompanyNumbers, Topic::CallVerdicts, Topic::OpenCalls];

/// Who brings a copy up: what is told how far that is, and what cuts it off.
pub struct Watch<'a> {
    /// Cuts it off when it is true; looked at between chunks, and while files are merged.
    pub is_cancelled: &'a dyn Fn() -> bool,
    /// Told records read, and records that there are to read in all.
    pub progress: &'a dyn Fn(u64, u64),
    /// For whom, in the metrics: `worker` or `standby`.
    pub by: &'static str,
}

/// A copy of a partition's state: its rows, and the position that they contain.
pub struct Copy {
    partition: u32,
    store: Store,
    position: Option<Position>,
}

impl Copy {
    /// Opens what is there.
    ///
    /// # Errors
    /// If the disk can't be read, or a row isn't what it should be.
    pub fn open(partition: u32, database: Arc<Database>) -> Result<Self, PartitionError> {
        Ok(Self { partition, position: stored_position(&database)?, store: Store::open(database)? })
    }

    /// Goes on to what is committed, where the copy is behind that. Returns whether it got there. Cut off, or after an error, it is of no use until
    /// it is opened again: then it is a copy that is behind, as before, and what it has read of the output topics isn't read again.
    ///
    /// # Errors
    /// If the topics can't be read, a record of theirs can't be restored, or the disk can't be read or written.
    pub fn bring_up(&mut self, reader: &dyn Reader, committed: &Committed, watch: &Watch<'_>) -> Result<bool, PartitionError> {
        let (partition, copy, position) = (self.partition, self.position, committed.position);
        if copy.is_some_and(|copy| copy.next >= position.next) {
            return Ok(true);
        }
        if copy.is_none() && !self.store.merge_leftovers(watch.is_cancelled)? {
            return Ok(false);
        }
        let start = reader.start(Topic::Events, partition)?;
        let begun = Instant::now();
        // Up to where everything stands that is committed; what is committed later contains later events.
        let mut parts = Vec::new();
        for topic in OUTPUTS {
            let end = committed.ends.get(topic).map_or_else(|| reader.end(topic, partition), Ok)?;
            parts.push((topic, first_output(&self.store, topic)?.max(reader.start(topic, partition)?), end));
        }
        // Events before the low-water mark are contained in what is published; those before the copy's position in the copy.
        let lacks_from = copy.map_or(0, |copy| copy.next).max(position.low_water);
        let from = lacks_from.max(start);
        if lacks_from < from {
            tracing::warn!(
                partition,
                low_water = position.low_water,
                start,
                "retention has passed the low-water mark: of calls that were under way when the position was committed facts may be missing. The input's retention.ms \
                 should be longer than calls last and the service is away"
            );
        }
        let total: i64 = parts.iter().map(|(_, from, end)| (end - from).max(0)).sum::<i64>() + (position.next - from).max(0);
        let mut reading = Reading { reader, partition, watch, done: 0, total };
        for (topic, from, end) in parts {
            let noted = |database: &Database, batch: &mut WriteBatch, next| write_first_output(database, batch, topic, next);
            let is_begun = copy.is_none() && topic == Topic::CallVerdicts;
            if is_begun {
                self.store.begin_bulk()?;
            }
            let is_read = reading.each(topic, from..end, &mut self.store, |store, record| restore(store, topic, record), noted)?;
            if !is_read || (is_begun && !self.store.end_bulk(watch.is_cancelled)?) {
                return Ok(false);
            }
        }
        // Each event has the time that it had, also where a record's own is earlier.
        let of = reader.partitions();
        let mut time = copy.filter(|copy| copy.next > position.low_water).map_or(position.low_water_time, |copy| copy.partition_time);
        let recall_one = |store: &mut Store, record: &Record| {
            time = partition_time(time, record);
            // What cannot be read, or belongs to another partition, went to the dead letters when it was stepped.
            let Some(value) = record.value.as_deref() else { return Ok(()) };
            let at = At { offset: record.offset, time };
            let mut recall_facts = |facts: &Facts<'_>| match misplaced(facts.account_id.as_str(), partition, of) {
                None => recall(store, at, facts),
                Some(_) => Ok(()),
            };
            match decode_facts(value) {
                Some(Ok(facts)) => recall_facts(&facts)?,
                Some(Err(_)) => {}
                None => {
                    if let Ok(Event::CallLegs(legs)) = decode_event(value) {
                        recall_facts(&legs.facts())?;
                    }
                }
            }
            Ok(())
        };
        if !reading.each(Topic::Events, from..position.next, &mut self.store, recall_one, |_, _, _| {})? {
            return Ok(false);
        }
        self.store.write_restored(|database, batch| write_position(database, batch, position))?;
        self.position = Some(position);
        tracing::debug!(partition, by = watch.by, records = reading.done, milliseconds = begun.elapsed().as_millis() as u64, "a copy has come up");
        Ok(true)
    }
}

/// Opens a partition's state, and brings it up to the committed position where it is behind. Returns it with what is committed; `None` if it was cut
/// off.
///
/// # Errors
/// As [`Copy::open`] and [`Copy::bring_up`], and if what is committed contradicts what is published or what the copy contains.
pub fn bring_up(
    reader: &dyn Reader,
    partition: u32,
    database: Arc<Database>,
    watch: &Watch<'_>,
) -> Result<Option<(Partition, Option<Committed>)>, PartitionError> {
    let mut copy = Copy::open(partition, database)?;
    let Some(committed) = last_committed(reader, partition, &copy, watch)? else { return Ok(None) };
    let start = reader.start(Topic::Events, partition)?;
    let Some(committed) = committed else {
        let position = Position { next: start, partition_time: i64::MIN, low_water: start, low_water_time: i64::MIN };
        return Ok(Some((Partition::new(partition, reader.partitions(), copy.store, position), None)));
    };
    let behind = copy.position.map_or(-1, |copy| copy.next);
    if behind != committed.position.next {
        tracing::info!(partition, copy = behind, committed = committed.position.next, "bringing the state up");
    }
    if !copy.bring_up(reader, &committed, watch)? {
        return Ok(None);
    }
    // Retention may have passed it.
    let position = Position { next: committed.position.next.max(start), ..committed.position };
    Ok(Some((Partition::new(partition, reader.partitions(), copy.store, position), Some(committed))))
}

/// What is committed, asked for again while it can't be the last that was: a coordinator that was away may not know yet that another has taken its
/// place, and what is published after its position would be published again. `None` if it was cut off. Where nothing was committed nothing can have
/// been published.
fn last_committed(reader: &dyn Reader, partition: u32, copy: &Copy, watch: &Watch<'_>) -> Result<Option<Option<Committed>>, PartitionError> {
    let until = Instant::now() + OUTDATED;
    while !(watch.is_cancelled)() {
        let (committed, is_over) = (reader.committed(partition)?, Instant::now() >= until);
        let next = committed.as_ref().map_or(-1, |committed| committed.position.next);
        let is_published = match committed.as_ref().map(|committed| committed.ends.get(Topic::CallVerdicts)) {
            None => published_on(reader, partition)?.is_some(),
            // Where the verdicts end that were committed with it, a marker stands.
            Some(end) => end.map_or(Ok(false), |end| reader.has_record(Topic::CallVerdicts, partition, end + 1))?,
        };
        if is_over && is_published && committed.is_none() {
            // Who published what is there would be contradicted.
            return Err(PartitionError::NoPosition { partition });
        }
        if let Some(copied) = copy.position.filter(|copied| copied.next > next) {
            if is_over {
                let operation = format!("asking what is committed of partition {partition}");
                let dir = copy.store.database().path().display();
                let said = if committed.is_some() { format!("offset {next}") } else { "nothing".to_owned() };
                let why = format!(
                    "it is said to be {said}, and the state on disk is at {}. If a transaction was aborted by hand, or the group was set back: stop, delete {dir}, \
                     and start, and it is built anew from the topics",
                    copied.next
                );
                return Err(LogError::Kafka { operation, why }.into());
            }
        } else {
            if !is_published {
                return Ok(Some(committed));
            }
            if is_over {
                tracing::warn!(
                    partition,
                    committed = next,
                    "somebody else has written to call-verdicts: there are records behind those that were committed"
                );
                return Ok(Some(committed));
            }
        }
        tracing::debug!(partition, committed = next, "it isn't the last that was committed");
        std::thread::sleep(ASK_AGAIN);
    }
    Ok(None)
}

/// The first of the topics that a copy is brought up from on which something is published, if there is one.
pub(super) fn published_on(reader: &dyn Reader, partition: u32) -> Result<Option<Topic>, LogError> {
    for topic in OUTPUTS {
        if reader.has_record(topic, partition, reader.start(topic, partition)?)? {
            return Ok(Some(topic));
        }
    }
    Ok(None)
}

struct Reading<'a> {
    reader: &'a dyn Reader,
    partition: u32,
    watch: &'a Watch<'a>,
    done: i64,
    total: i64,
}

impl Reading<'_> {
    /// Takes in a range of a topic; `noted` adds to what is written that everything before an offset is in it. Returns false if it was cut off.
    fn each(
        &mut self,
        topic: Topic,
        range: Range<i64>,
        store: &mut Store,
        mut take: impl FnMut(&mut Store, &Record) -> Result<(), PartitionError>,
        noted: impl Fn(&Database, &mut WriteBatch, i64),
    ) -> Result<bool, PartitionError> {
        let end = range.end;
        let mut next = range.start;
        while next < end {
            let most = if topic == Topic::CallVerdicts && store.is_in_bulk() { BULK_BYTES } else { 0 };
            let mut records: Vec<Record> = Vec::new();
            let mut bytes = 0;
            while next < end && (records.is_empty() || bytes < most) {
                let Some(read) = self.read_on(topic, next, end)? else { return Ok(false) };
                let reached = read.next.min(end);
                self.done += reached - next;
                (self.watch.progress)(u64::try_from(self.done).unwrap_or(0), u64::try_from(self.total).unwrap_or(0));
                next = read.next;
                bytes += read.records.iter().map(size).sum::<usize>();
                records.extend(read.records.into_iter().filter(|record| record.offset < end));
            }
            metrics::counter!("callsieve_brought_up_records_total", "by" => self.watch.by).increment(records.len() as u64);
            for record in newest(topic, &records) {
                take(store, record)?;
            }
            // Rows are written as they come, the position last: a copy that is cut off here is one that is behind, as before.
            store.write_restored(|database, batch| noted(database, batch, next.min(end)))?;
            if !store.tend_bulk(self.watch.is_cancelled)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next records, which must be there: waits for a broker that doesn't show them yet. `None` if it was cut off.
    fn read_on(&self, topic: Topic, next: i64, end: i64) -> Result<Option<Read>, PartitionError> {
        let partition = self.partition;
        let until = Instant::now() + PATIENCE;
        while !(self.watch.is_cancelled)() {
            let read = self.reader.read(topic, partition, next, CHUNK)?;
            if read.next > next {
                return Ok(Some(read));
            }
            if Instant::now() >= until {
                let why = format!("it has records up to {end}, and is shown up to {next} for {} s", PATIENCE.as_secs());
                return Err(LogError::Kafka { operation: format!("bringing up partition {partition} from {topic}"), why }.into());
            }
            // What is committed is there, so who was asked is behind: a broker that was away.
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(None)
    }
}

/// What a record takes in memory, tombstones as well.
fn size(record: &Record) -> usize {
    size_of::<Record>() + record.bytes()
}

/// Of a compacted topic the newest record of each key, else all.
fn newest(topic: Topic, records: &[Record]) -> Vec<&Record> {
    if !topic.is_compacted() {
        return records.iter().collect();
    }
    let mut keys: HashSet<&[u8]> = HashSet::with_capacity(records.len());
    let mut newest: Vec<&Record> = records.iter().rev().filter(|record| keys.insert(&record.key)).collect();
    newest.reverse();
    newest
}

/// Applies what an output topic says of its key.
fn restore(store: &mut Store, topic: Topic, record: &Record) -> Result<(), PartitionError> {
    let wrong = |why: String| PartitionError::Restore { topic, offset: record.offset, why };
    let key = std::str::from_utf8(&record.key).map_err(|e| wrong(e.to_string()))?;
    let (account, name) = key.split_once('/').unwrap_or((key, ""));
    let account = AccountId::parse(account).map_err(|e| wrong(e.to_string()))?;
    let session = || SessionId::parse(name).map_err(|e| wrong(e.to_string()));
    match topic {
        Topic::AccountStates => {
            if let Some(state) = value(record).map_err(wrong)? {
                store.restore_account(state)?;
            }
        }
        Topic::CompanyNumbers => store.restore_number(&account, name, value(record).map_err(wrong)?)?,
        Topic::CallVerdicts => {
            let session = session()?;
            match record.value.as_deref() {
                Some(verdict) if store.is_new(&account, &session) => {
                    let gist = decode_gist(verdict).map_err(|error| wrong(unreadable(record, &error)))?;
                    store.restore_new(&account, &session, gist, verdict)?;
                }
                verdict => store.restore_verdict(&account, &session, value(record).map_err(wrong)?.zip(verdict))?,
            }
        }
        Topic::OpenCalls => store.restore_open(&account, &session()?, value(record).map_err(wrong)?)?,
        Topic::Events | Topic::DeadLetters => {}
    }
    Ok(())
}

fn value<T: Decoded>(record: &Record) -> Result<Option<T>, String> {
    record.value.as_deref().map(decode).transpose().map_err(|error| unreadable(record, &error))
}

/// The position that the copy's rows contain; `None` for a copy without any.
pub(super) fn stored_position(database: &Database) -> Result<Option<Position>, PartitionError> {
    let bytes = database.get(database.family(Family::Meta), POSITION).map_err(crate::state::TableError::from)?;
    // One that cannot be read says nothing: the copy is brought up as if from nothing, over the rows that it has.
    Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()))
}

/// Adds the position to a batch whose rows contain it.
pub fn write_position(database: &Database, batch: &mut WriteBatch, position: Position) {
    batch.put_cf(database.family(Family::Meta), POSITION, position.to_string());
}

/// Notes that the copy contains every record of the topic before `offset`. It may contain more.
pub fn write_first_output(database: &Database, batch: &mut WriteBatch, topic: Topic, offset: i64) {
    batch.put_cf(database.family(Family::Meta), topic.name(), offset.to_string());
}

fn first_output(store: &Store, topic: Topic) -> Result<i64, PartitionError> {
    let database = store.database();
    let bytes = database.get(database.family(Family::Meta), topic.name().as_bytes()).map_err(crate::state::TableError::from)?;
    Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()).unwrap_or(0))
}
