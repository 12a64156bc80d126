//! The log as a replay sees it: the facts about calls, and time, up to the end of what is judged anew.
//!
//! Everything else that the log says is in the seed as it stands today: settings, numbers, gates, removals. Taken in once more, an old setting would
//! hold for what is decided after it, and the replay would say what live said. So such an event is a [`Tick`] here: its time passes. So is all beyond
//! the end, and there time stands still: it only lets work go on that is due.

use super::Part;
use crate::event::{Event, Record as Written, Tick, encode_event, record_of};
use crate::log::{Batch, Came, Commit, Committed, Log, LogError, OutputEnds, Read, Reader, Record, Topic, now};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How it sees each partition.
#[derive(Debug, Default)]
pub struct View {
    /// What is judged anew, by partition.
    pub parts: Vec<Part>,
    /// Accounts (their keys) that were removed, and the offset of that: their legs up to there are nobody's.
    pub removed: BTreeMap<Vec<u8>, i64>,
}

impl View {
    /// A record of the input as the replay is to step it.
    fn seen(&self, partition: u32, mut record: Record) -> Record {
        let Some(part) = self.parts.get(partition as usize) else { return record };
        if record.offset + 1 >= part.end {
            // The last one takes the partition's time to where it was; those beyond leave it there.
            record.timestamp = part.time;
        }
        let is_erased = || self.removed.get(&*record.key).is_some_and(|removed| record.offset <= *removed);
        let is_taken_in = match record.value.as_deref().map(record_of) {
            _ if record.offset >= part.end => false,
            Some(Ok(Written::CallLegs)) => !is_erased(),
            Some(Ok(
                Written::DirectoryChanged
                | Written::NumbersObserved
                | Written::SnapshotCompleted
                | Written::AccountSettings
                | Written::AccountRemoved
                | Written::Rejudge
                | Written::Tick,
            )) => false,
            // The dead letters are the replay's own.
            _ => true,
        };
        if !is_taken_in {
            record.value = Some(encode_event(&Event::Tick(Tick { at: record.timestamp })).into());
            record.came = Came::AsItIs;
        }
        record
    }
}

/// No more records than so many a second.
#[derive(Debug)]
pub struct Pace {
    rate: Option<NonZeroU32>,
    /// When what was taken before is paid for.
    due: Instant,
}

impl Pace {
    /// So many a second; `None`: as many as there are.
    #[must_use]
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// How many may be taken now, at most `most`. Waits for about a tenth of a second, or for one record.
    pub fn allowed(&self, most: usize) -> usize {
        let Some(rate) = self.rate else { return most };
        std::thread::sleep(self.due.saturating_duration_since(Instant::now()));
        most.min((rate.get() / 10).max(1) as usize)
    }

    /// So many were taken.
    pub fn took(&mut self, records: usize) {
        if let Some(rate) = self.rate {
            self.due = self.due.max(Instant::now()) + Duration::from_secs_f64(records as f64 / f64::from(rate.get()));
        }
    }
}

/// See the module.
pub struct Past<L> {
    log: L,
    view: Arc<View>,
    reader: Arc<dyn Reader>,
    pace: Pace,
    /// Partitions of which nothing more is wanted.
    done: BTreeSet<u32>,
}

impl<L: Log> Past<L> {
    /// A worker's end of the log, seen so.
    pub fn new(log: L, view: Arc<View>, pace: Pace) -> Self {
        let reader = Arc::new(PastReader { reader: log.reader(), view: view.clone() });
        Self { log, view, reader, pace, done: BTreeSet::new() }
    }

    /// What of this partition comes from now on is left out, and isn't fetched any more.
    ///
    /// # Errors
    /// As [`Log::pause`].
    pub fn finish(&mut self, partition: u32) -> Result<(), LogError> {
        // One that isn't assigned yet is left out once it is resumed.
        if self.done.insert(partition) && self.log.assigned().contains(&partition) {
            self.log.pause(partition)?;
        }
        Ok(())
    }
}

impl<L: Log> Log for Past<L> {
    fn assigned(&self) -> Vec<u32> {
        self.log.assigned()
    }

    fn poll(&mut self, max_records: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        let most = self.pace.allowed(max_records);
        let mut batches = self.log.poll(most, wait)?;
        batches.retain(|batch| !self.done.contains(&batch.partition));
        self.pace.took(batches.iter().map(|batch| batch.records.len()).sum());
        for batch in &mut batches {
            let records = std::mem::take(&mut batch.records);
            batch.records = records.into_iter().map(|record| self.view.seen(batch.partition, record)).collect();
        }
        Ok(batches)
    }

    fn batch(&self) -> usize {
        self.log.batch()
    }

    fn hand_over(&mut self, commits: Vec<Commit>) -> Result<(), LogError> {
        self.log.hand_over(commits)
    }

    fn conclude(&mut self) -> Result<(), LogError> {
        self.log.conclude()
    }

    fn settle(&mut self) -> Result<(), LogError> {
        self.log.settle()
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.reader.clone()
    }

    fn published(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.log.published(topic, partition)
    }

    fn end(&self, partition: u32) -> Result<i64, LogError> {
        self.log.end(partition)
    }

    fn pause(&mut self, partition: u32) -> Result<(), LogError> {
        self.log.pause(partition)
    }

    fn resume(&mut self, partition: u32, next: i64, ends: OutputEnds) -> Result<(), LogError> {
        self.log.resume(partition, next, ends)?;
        if self.done.contains(&partition) { self.log.pause(partition) } else { Ok(()) }
    }

    fn append(&mut self, partition: u32, key: &[u8], _: &[u8]) -> Result<i64, LogError> {
        // Only ticks are appended, and the live processor gets them too: with the time that it is.
        self.log.append(partition, key, &encode_event(&Event::Tick(Tick { at: now() })))
    }
}

/// The topics, with the input seen so.
struct PastReader {
    reader: Arc<dyn Reader>,
    view: Arc<View>,
}

impl Reader for PastReader {
    fn partitions(&self) -> u32 {
        self.reader.partitions()
    }

    fn start(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.reader.start(topic, partition)
    }

    fn end(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.reader.end(topic, partition)
    }

    fn read(&self, topic: Topic, partition: u32, from: i64, max: usize) -> Result<Read, LogError> {
        let mut read = self.reader.read(topic, partition, from, max)?;
        if topic == Topic::Events {
            read.records = read.records.into_iter().map(|record| self.view.seen(partition, record)).collect();
        }
        Ok(read)
    }

    fn has_record(&self, topic: Topic, partition: u32, from: i64) -> Result<bool, LogError> {
        self.reader.has_record(topic, partition, from)
    }

    fn subscribe_end(&self, topic: Topic, partition: u32) -> Result<watch::Receiver<i64>, LogError> {
        self.reader.subscribe_end(topic, partition)
    }

    fn committed(&self, partition: u32) -> Result<Option<Committed>, LogError> {
        self.reader.committed(partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AccountId, AccountRemoved, AccountSettings, CallLegs, decode_event};
    use crate::log::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
    use crate::log::system_clock;
    use crate::log::{Appender, Input};
    use crate::state::database::{DatabaseOptions, Engine};

    fn legs() -> Event {
        Event::CallLegs(CallLegs::without_legs("1", "s", 1))
    }

    #[test]
    fn a_replay_sees_the_facts_about_calls_and_time_up_to_its_end() {
        let view = View { parts: vec![Part { start: 0, end: 20, time: 900 }], removed: [(b"1".to_vec(), 5)].into() };
        let removal = Event::AccountRemoved(AccountRemoved { account_id: AccountId::parse("1").unwrap(), removed_at: 1 });
        let settings = Event::AccountSettings(AccountSettings::defaults(AccountId::parse("1").unwrap()));
        let is_leg = |record: &Record| matches!(record.value.as_deref().map(decode_event), Some(Ok(Event::CallLegs(_))));
        let rows = [
            (4, b"2", encode_event(&legs()), true, 4),
            (5, b"1", encode_event(&legs()), false, 5),
            (6, b"1", encode_event(&legs()), true, 6),
            (7, b"1", encode_event(&removal), false, 7),
            (8, b"1", encode_event(&settings), false, 8),
            (19, b"1", encode_event(&legs()), true, 900),
            (20, b"1", encode_event(&legs()), false, 900),
            (21, b"1", b"garbage".to_vec(), false, 900),
        ];
        for (offset, key, value, expected, time) in rows {
            let record =
                Record { offset, timestamp: offset, key: key.to_vec().into(), value: Some(value.into()), headers: Vec::new(), came: Came::AsItIs };
            let seen = view.seen(0, record);
            assert_eq!((is_leg(&seen), seen.timestamp), (expected, time), "offset {offset}");
            assert_eq!(matches!(decode_event(seen.value.as_deref().unwrap()), Ok(Event::Tick(_))), !expected, "offset {offset}");
        }
        let garbage = Record {
            offset: 8,
            timestamp: 8,
            key: b"1".as_slice().into(),
            value: Some(b"garbage".as_slice().into()),
            headers: Vec::new(),
            came: Came::AsItIs,
        };
        assert_eq!(view.seen(0, garbage.clone()), garbage, "for the dead letters");
    }

    #[test]
    fn a_finished_partition_takes_nothing_of_the_pace_also_when_it_is_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
        let log = EmbeddedLog::open(dir.path(), &Engine::new(&DatabaseOptions::default()), &options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let input = |_| Input { account: "1".into(), value: encode_event(&legs()), headers: Vec::new() };
        runtime.block_on(log.appender().append_all((0..3).map(input).collect())).unwrap();
        let mut past = Past::new(log.worker(&[0]).unwrap(), Arc::default(), Pace::new(NonZeroU32::new(1)));
        assert_eq!(past.poll(10, Duration::ZERO).unwrap()[0].records.len(), 1);
        past.finish(0).unwrap();
        assert_eq!(past.poll(10, Duration::ZERO).unwrap(), [], "once the first record is paid for");
        past.resume(0, 1, OutputEnds::default()).unwrap();
        assert_eq!(past.poll(10, Duration::ZERO).unwrap(), []);
        assert_eq!(past.log.poll(10, Duration::ZERO).unwrap(), [], "it isn't fetched");
        assert!(past.pace.due <= Instant::now(), "nothing is to be paid for");
    }
}
