//! Bringing a copy of a partition's state up to the committed position: after a crash, from an old copy, from nothing. One way
//! for all (design §2): what is published comes from the output topics, then the facts of the log that may not be contained there.

use super::partition::{Partition, PartitionError, partition_time, unreadable};
use crate::event::{AccountId, Decoded, SessionId, decode, decode_event};
use crate::judge::{At, recall};
use crate::log::{Log, LogError, Position, Reader, Record, Topic};
use crate::state::Store;
use crate::state::database::{Database, Family};
use rocksdb::WriteBatch;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long records that must be there are waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Records that are read at once.
const CHUNK: usize = 10_000;
const POSITION: &[u8] = b"position";

/// The order matters: with accounts and numbers known, a verdict that the snapshot has overtaken shows as due.
const OUTPUTS: [Topic; 4] = [Topic::AccountStates, Topic::CompanyNumbers, Topic::CallVerdicts, Topic::OpenCalls];

/// How far bringing up is: records read, and records that there were to read in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Opens a partition's state, and brings it up to the committed position where it is behind.
pub fn bring_up<L: Log>(log: &mut L, partition: u32, database: Arc<Database>, progress: Progress<'_>) -> Result<Partition, PartitionError> {
    let committed = log.committed(partition)?;
    let copy = stored_position(&database)?;
    let mut store = Store::open(database)?;
    let start = log.start(Topic::Events, partition)?;
    let Some(committed) = committed else {
        return Ok(Partition::new(partition, store, Position { next: start, partition_time: i64::MIN, low_water: start, low_water_time: i64::MIN }));
    };
    if committed.next < start {
        tracing::error!(
            partition,
            committed = committed.next,
            start,
            "retention has passed the committed position: events were dropped before they were read"
        );
    }
    let position = Position { next: committed.next.max(start), ..committed };
    if copy.is_some_and(|copy| copy.next == committed.next) {
        return Ok(Partition::new(partition, store, position));
    }
    tracing::info!(partition, copy = copy.map_or(-1, |copy| copy.next), committed = committed.next, "bringing the state up");

    // Up to where everything stands that is committed; what is committed later contains later events.
    let mut parts = Vec::new();
    for topic in OUTPUTS {
        parts.push((topic, first_output(&store, topic)?.max(log.start(topic, partition)?), log.published(topic, partition)?));
    }
    // Events before the low-water mark are contained in what is published; those before the copy's position in the copy.
    let from = copy.map_or(0, |copy| copy.next).max(committed.low_water).max(start);
    let total: i64 = parts.iter().map(|(_, from, end)| end - from).sum::<i64>() + (committed.next - from).max(0);
    let mut done: i64 = 0;
    let mut report = |records: i64| {
        done += records;
        progress(u64::try_from(done).unwrap_or(0), u64::try_from(total).unwrap_or(0));
    };

    for (topic, from, end) in &parts {
        each(log, *topic, partition, *from, *end, |store_now, record| restore(store_now, *topic, record), &mut store, &mut report)?;
    }
    // Each event has the time that it had, also where a record's own is earlier.
    let mut time = copy.filter(|copy| copy.next > committed.low_water).map_or(committed.low_water_time, |copy| copy.partition_time);
    let recall_one = |store: &mut Store, record: &Record| {
        time = partition_time(time, record);
        // What cannot be read went to the dead letters when it was stepped.
        if let Some(Ok(event)) = record.value.as_deref().map(decode_event) {
            recall(store, At { offset: record.offset, time }, &event)?;
        }
        Ok(())
    };
    each(log, Topic::Events, partition, from, committed.next, recall_one, &mut store, &mut report)?;

    let mut batch = store.take_batch();
    write_position(store.database(), &mut batch, committed);
    for (topic, _, end) in parts {
        write_first_output(store.database(), &mut batch, topic, end);
    }
    store.database().write(batch).map_err(crate::state::TableError::from)?;
    Ok(Partition::new(partition, store, position))
}

#[allow(clippy::too_many_arguments, reason = "one loop for five topics")]
fn each<R: Reader>(
    log: &R,
    topic: Topic,
    partition: u32,
    from: i64,
    end: i64,
    mut take: impl FnMut(&mut Store, &Record) -> Result<(), PartitionError>,
    store: &mut Store,
    report: &mut impl FnMut(i64),
) -> Result<(), PartitionError> {
    let mut next = from;
    let mut read_on = Instant::now();
    while next < end {
        let read = log.read(topic, partition, next, CHUNK)?;
        if read.next > next {
            read_on = Instant::now();
        } else if read_on.elapsed() < PATIENCE {
            // What is committed is there, so who was asked is behind: a broker that was away.
            std::thread::sleep(LOOK_EVERY);
        } else {
            let why = format!("it has records up to {end}, and is shown up to {next} for {} s", PATIENCE.as_secs());
            return Err(LogError::Kafka { operation: format!("bringing up partition {partition} from {topic}"), why }.into());
        }
        for record in read.records.iter().filter(|record| record.offset < end) {
            take(store, record)?;
        }
        report(read.next.min(end) - next);
        next = read.next;
        // Rows are written as they come, the position last: a copy that is cut off here is one that is behind, as before.
        let batch = store.take_batch();
        store.database().write(batch).map_err(crate::state::TableError::from)?;
        store.shrink();
    }
    Ok(())
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
        Topic::CallVerdicts => store.restore_verdict(&account, &session()?, value(record).map_err(wrong)?)?,
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

/// The output topics that a copy is brought up from.
#[must_use]
pub fn output_topics() -> [Topic; 4] {
    OUTPUTS
}
