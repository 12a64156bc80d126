//! One partition as readers see it, and what stands about it on disk.

use super::writer::Queue;
use crate::log::frame;
use crate::log::{LogError, Position, Read, Record, Topic};
use crate::state::database::{Access, Database, Engine, Extra};
use rocksdb::{ColumnFamily, ReadOptions};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::watch;

/// The log's column families: one per topic in the order of [`Topic::ALL`], then its own.
const TOPICS: [&str; 6] = ["log.events", "log.company-numbers", "log.call-verdicts", "log.account-states", "log.open-calls", "log.dead-letters"];
/// What the log knows about itself: position, starts, how far the cleaner is.
const META: &str = "log.meta";
/// Topic and key → the newest offset that the cleaner has seen.
const KEYS: &str = "log.keys";
/// Topic, time and offset of tombstones that the cleaner has seen → their keys.
const TOMBSTONES: &str = "log.tombstones";

/// The key of the committed [`Position`] in [`META`].
pub(super) const POSITION: &[u8] = b"position";
const IDENTITY: &[u8] = b"partition";

/// Behind by more records than this, reading runs into files: then larger pieces are read ahead.
const FAR_BEHIND: i64 = 10_000;

/// The data behind a mutex stays whole when a thread panics while holding it: each holder changes it in one step.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes a worker.
#[derive(Default)]
pub(super) struct Signal {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Signal {
    pub(super) fn ring(&self) {
        *locked(&self.rung) = true;
        self.bell.notify_one();
    }

    pub(super) fn clear(&self) {
        *locked(&self.rung) = false;
    }

    /// Waits until it is rung; false when `until` came first.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut rung = locked(&self.rung);
        while !*rung {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            rung = self.bell.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// One partition of all topics.
pub(super) struct Partition {
    pub(super) number: u32,
    pub(super) database: Arc<Database>,
    /// What the writer is to do.
    pub(super) queue: Queue,
    /// As committed last.
    pub(super) committed: Mutex<Option<Position>>,
    /// Taken while someone cleans.
    pub(super) cleaning: AtomicBool,
    /// The first offset that is kept, by topic.
    starts: [AtomicI64; 6],
    /// The next offset, by topic. Only the writer moves it, when what is before it can be read.
    ends: [watch::Sender<i64>; 6],
    /// The largest timestamp at opening; the writer goes on from there.
    pub(super) last_timestamp: i64,
    /// The worker's, while there is one.
    worker: Mutex<Weak<Signal>>,
}

impl Partition {
    pub(super) fn open(dir: &Path, engine: &Engine, number: u32, count: u32) -> Result<Self, LogError> {
        let extra: Vec<Extra> = TOPICS
            .into_iter()
            .map(|name| Extra { name, access: Access::Log })
            .chain([Extra { name: META, access: Access::Points }, Extra { name: KEYS, access: Access::Points }])
            .chain([Extra { name: TOMBSTONES, access: Access::Ranges }])
            .collect();
        let database = Arc::new(Database::open(&dir.join(number.to_string()), engine, &extra)?);
        if !database.has_write_ahead_log() {
            return Err(LogError::NoWriteAheadLog { path: database.path().to_path_buf() });
        }
        identify(&database, number, count)?;

        let mut partition = Self {
            number,
            database,
            queue: Queue::default(),
            committed: Mutex::default(),
            cleaning: AtomicBool::new(false),
            starts: Default::default(),
            ends: std::array::from_fn(|_| watch::Sender::new(0)),
            last_timestamp: 0,
            worker: Mutex::default(),
        };
        for topic in Topic::ALL {
            let start = partition.meta_number(&start_key(topic))?.unwrap_or(0);
            partition.starts[topic.index()] = AtomicI64::new(start);
            // The cleaner never removes the last record of a compacted topic, and a start is never before what it removed, so this is the next
            // offset.
            let last = partition.last(topic)?;
            partition.publish_end(topic, last.as_ref().map_or(start, |(offset, _)| start.max(offset + 1)));
            partition.last_timestamp = partition.last_timestamp.max(last.map_or(0, |(_, timestamp)| timestamp));
        }
        partition.committed = Mutex::new(partition.stored_position()?);
        Ok(partition)
    }

    fn stored_position(&self) -> Result<Option<Position>, LogError> {
        let Some(bytes) = self.database.get(self.meta(), POSITION)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        text.parse().map(Some).map_err(|e| self.corrupt("the committed position", &e))
    }

    /// Offset and timestamp of a topic's last record.
    fn last(&self, topic: Topic) -> Result<Option<(i64, i64)>, LogError> {
        let mut iterator = self.database.iterate(self.topic(topic), ReadOptions::default());
        iterator.seek_to_last();
        let Some((key, bytes)) = iterator.item() else {
            self.database.finished(&iterator)?;
            return Ok(None);
        };
        let offset = self.offset(topic, key)?;
        let head = frame::decode_head(bytes).map_err(|why| self.corrupt_record(topic, offset, why))?;
        Ok(Some((offset, head.timestamp)))
    }

    /// The column family of a topic.
    pub(super) fn topic(&self, topic: Topic) -> &ColumnFamily {
        self.family(TOPICS[topic.index()])
    }

    pub(super) fn meta(&self) -> &ColumnFamily {
        self.family(META)
    }

    pub(super) fn keys(&self) -> &ColumnFamily {
        self.family(KEYS)
    }

    pub(super) fn tombstones(&self) -> &ColumnFamily {
        self.family(TOMBSTONES)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.database.extra(name).expect("opening a partition names every family of the log")
    }

    /// A number in [`META`].
    pub(super) fn meta_number(&self, key: &[u8]) -> Result<Option<i64>, LogError> {
        let Some(bytes) = self.database.get(self.meta(), key)? else { return Ok(None) };
        let number = bytes.as_ref().try_into().map(i64::from_be_bytes);
        number.map(Some).map_err(|e| self.corrupt(&format!("entry {}", String::from_utf8_lossy(key)), &e))
    }

    pub(super) fn corrupt(&self, what: &str, why: &dyn std::fmt::Display) -> LogError {
        LogError::Corrupt { partition: self.number, what: format!("{what} in {}", self.database.path().display()), why: why.to_string() }
    }

    pub(super) fn corrupt_record(&self, topic: Topic, offset: i64, why: &str) -> LogError {
        self.corrupt(&format!("{topic} offset {offset}"), &why)
    }

    /// The offset that a key in a topic's family is.
    pub(super) fn offset(&self, topic: Topic, key: &[u8]) -> Result<i64, LogError> {
        key.try_into().map(i64::from_be_bytes).map_err(|_| self.corrupt(&format!("a key of {topic}"), &"it isn't 8 bytes"))
    }

    pub(super) fn start(&self, topic: Topic) -> i64 {
        self.starts[topic.index()].load(Ordering::Acquire)
    }

    pub(super) fn set_start(&self, topic: Topic, start: i64) {
        self.starts[topic.index()].store(start, Ordering::Release);
    }

    pub(super) fn end(&self, topic: Topic) -> i64 {
        *self.ends[topic.index()].borrow()
    }

    pub(super) fn subscribe_end(&self, topic: Topic) -> watch::Receiver<i64> {
        self.ends[topic.index()].subscribe()
    }

    /// Shows readers what has been written.
    pub(super) fn publish_end(&self, topic: Topic, end: i64) {
        let moved = self.ends[topic.index()].send_if_modified(|old| std::mem::replace(old, end) != end);
        if moved && topic == Topic::Events {
            // Rung within the lock: outside it, the handle borrowed here would make a worker that has just gone look alive.
            let held = locked(&self.worker);
            if let Some(worker) = held.upgrade() {
                worker.ring();
            }
        }
    }

    /// Makes `worker` the one whom input wakes; false if there is another.
    pub(super) fn take(&self, worker: &Arc<Signal>) -> bool {
        let mut held = locked(&self.worker);
        if held.strong_count() > 0 {
            return false;
        }
        *held = Arc::downgrade(worker);
        true
    }

    fn out_of_range(&self, topic: Topic, asked: i64) -> LogError {
        LogError::OutOfRange { topic, partition: self.number, asked, start: self.start(topic), end: self.end(topic) }
    }

    /// Whether reading can begin there.
    pub(super) fn check(&self, topic: Topic, from: i64) -> Result<(), LogError> {
        if from < self.start(topic) || from > self.end(topic) { Err(self.out_of_range(topic, from)) } else { Ok(()) }
    }

    /// See [`crate::log::Reader::read`].
    pub(super) fn read(&self, topic: Topic, from: i64, max: usize, max_bytes: usize) -> Result<Read, LogError> {
        self.check(topic, from)?;
        let end = self.end(topic);
        if from == end || max == 0 {
            return Ok(Read { records: Vec::new(), next: from });
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end.to_be_bytes());
        if end - from > FAR_BEHIND {
            options.set_readahead_size(1 << 20);
            // Read once; it would only drive out of the cache what the state needs.
            options.fill_cache(false);
        }
        let mut iterator = self.database.iterate(self.topic(topic), options);
        iterator.seek(from.to_be_bytes());
        let mut records: Vec<Record> = Vec::with_capacity(max.min(usize::try_from(end - from).unwrap_or(max)).min(4096));
        let mut bytes_read = 0;
        while let Some((key, bytes)) = iterator.item() {
            let offset = self.offset(topic, key)?;
            records.push(frame::decode(offset, bytes).map_err(|why| self.corrupt_record(topic, offset, why))?);
            bytes_read += bytes.len();
            if records.len() >= max || bytes_read >= max_bytes {
                break;
            }
            iterator.next();
        }
        self.database.finished(&iterator)?;
        // Retention may have passed between the check and the read.
        if !topic.is_compacted() && records.first().is_none_or(|r| r.offset != from) {
            return Err(self.out_of_range(topic, from));
        }
        let more = iterator.valid();
        let next = if more { records.last().map_or(end, |r| r.offset + 1) } else { end };
        Ok(Read { records, next })
    }

    /// A record of a topic without holes.
    pub(super) fn timestamp_at(&self, topic: Topic, offset: i64) -> Result<i64, LogError> {
        let bytes = self.database.get(self.topic(topic), &offset.to_be_bytes())?;
        let bytes = bytes.ok_or_else(|| self.corrupt_record(topic, offset, "it is missing"))?;
        let head = frame::decode_head(&bytes).map_err(|why| self.corrupt_record(topic, offset, why))?;
        Ok(head.timestamp)
    }
}

/// The key of a topic's start in [`META`].
pub(super) fn start_key(topic: Topic) -> Vec<u8> {
    format!("start/{topic}").into_bytes()
}

/// A partition's data is of use only under its own number, and only while accounts are spread over the same number of partitions.
fn identify(database: &Database, number: u32, count: u32) -> Result<(), LogError> {
    let expected = format!("{number} of {count}");
    let meta = database.extra(META).expect("opening a partition names every family of the log");
    match database.get(meta, IDENTITY)? {
        Some(found) if found.as_ref() == expected.as_bytes() => Ok(()),
        Some(found) => {
            Err(LogError::WrongPartition { path: database.path().to_path_buf(), found: String::from_utf8_lossy(&found).into_owned(), expected })
        }
        None => {
            let mut batch = rocksdb::WriteBatch::default();
            batch.put_cf(meta, IDENTITY, expected.as_bytes());
            Ok(database.write_synced(batch)?)
        }
    }
}
