//! What is no longer kept: old input by age, superseded records of compacted topics.
//!
//! A compacted topic is cleaned in one pass that follows its end at a distance, the lag. At each record, the cleaner's index tells where the key
//! stood before: that older record goes, and the index moves on. So commits pay nothing for compaction, a superseded record stays for the lag at
//! least after it was superseded, and every record is looked at once. Tombstones are put aside with their time, and go later themselves.

use super::partition::{Partition, start_key};
use crate::log::frame;
use crate::log::{LogError, Topic};
use rocksdb::{ReadOptions, WriteBatch};
use std::collections::HashMap;
use std::ops::AddAssign;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Input and dead letters, by age. Input is kept longer where the committed low-water mark says that its facts are in no published record yet,
    /// and all of it while nothing is committed. Dropped in steps of a 64th of this time, so that storage sees few and large removals.
    pub events: Duration,
    /// How long a record of a compacted topic stays after a newer one with its key: time for who reads along to see both.
    pub compaction_lag: Duration,
    /// How long a tombstone stays: who is away for longer misses it, and reads the topic anew.
    pub tombstones: Duration,
}

impl Default for Retention {
    /// 30 days, one hour, 24 hours.
    fn default() -> Self {
        Self { events: Duration::from_secs(30 * 86_400), compaction_lag: Duration::from_secs(3_600), tombstones: Duration::from_secs(86_400) }
    }
}

/// What a call of `maintain` has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Records dropped.
    pub removed: u64,
    /// Whether its bound was reached before the work was done.
    pub more: bool,
}

impl AddAssign for Maintained {
    fn add_assign(&mut self, other: Self) {
        self.removed += other.removed;
        self.more |= other.more;
    }
}

/// Records that one call looks at in a topic: some tens of milliseconds.
const MAX_RECORDS: usize = 10_000;
/// Bytes that one call reads of a topic: verdicts can be large.
const MAX_BYTES: usize = 32 << 20;

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn maintain(partition: &Partition, retention: &Retention, now: i64) -> Result<Maintained, LogError> {
    if partition.cleaning.swap(true, Ordering::Acquire) {
        return Ok(Maintained::default());
    }
    let done = clean(partition, retention, now);
    partition.cleaning.store(false, Ordering::Release);
    done
}

fn clean(partition: &Partition, retention: &Retention, now: i64) -> Result<Maintained, LogError> {
    let mut done = Maintained::default();
    for topic in Topic::ALL {
        if topic.is_compacted() {
            done += supersede(partition, topic, now.saturating_sub(millis(retention.compaction_lag)))?;
            done += bury(partition, topic, now.saturating_sub(millis(retention.tombstones)))?;
        } else {
            done += expire(partition, topic, now, millis(retention.events))?;
        }
    }
    Ok(done)
}

/// Drops what is older than `age`, in one range.
fn expire(partition: &Partition, topic: Topic, now: i64, age: i64) -> Result<Maintained, LogError> {
    let start = partition.start(topic);
    let mut bound = partition.end(topic);
    if topic == Topic::Events {
        // Never past what a copy needs to be brought up, nor past what isn't read yet.
        let committed = *super::partition::locked(&partition.committed);
        bound = committed.map_or(start, |p| p.low_water.min(p.next).min(bound));
    }
    if start >= bound || partition.timestamp_at(topic, start)? > now.saturating_sub(age).saturating_sub(age / 64) {
        return Ok(Maintained::default());
    }
    // Offsets are dense and timestamps never go back: the first record to keep is found by halving.
    let (mut old, mut kept) = (start, bound);
    while kept - old > 1 {
        let middle = old + (kept - old) / 2;
        if partition.timestamp_at(topic, middle)? <= now.saturating_sub(age) {
            old = middle;
        } else {
            kept = middle;
        }
    }
    drop_before(partition, topic, kept)?;
    Ok(Maintained { removed: u64::try_from(kept - start).unwrap_or(0), more: false })
}

/// Makes `kept` the first offset of a topic that isn't compacted, between its start and its end.
pub(super) fn drop_before(partition: &Partition, topic: Topic, kept: i64) -> Result<(), LogError> {
    let family = partition.topic(topic);
    let mut batch = WriteBatch::default();
    batch.put_cf(partition.meta(), start_key(topic), kept.to_be_bytes());
    // From the very first offset, so that one removal covers those before it.
    batch.delete_range_cf(family, 0_i64.to_be_bytes(), kept.to_be_bytes());
    // Readers learn the new start first: one that is under way then finds its records missing, and says so.
    partition.set_start(topic, kept);
    // Synced, and with it the commit that allows this: files that are gone don't come back, so a power cut must not bring back an older position.
    partition.database.write_synced(batch)?;
    // Whole files go at once; the rest of the range goes as RocksDB compacts.
    let (first, last) = (0_i64.to_be_bytes(), (kept - 1).to_be_bytes());
    partition.database.raw().delete_file_in_range_cf(family, first, last).map_err(|e| partition.database.error("dropping old records in", e))?;
    Ok(())
}

fn cleaned_key(topic: Topic) -> Vec<u8> {
    format!("cleaned/{topic}").into_bytes()
}

fn index_key(topic: Topic, key: &[u8]) -> Vec<u8> {
    [&[topic.index() as u8], key].concat()
}

/// Where the index says a key stands.
fn indexed(partition: &Partition, index_key: &[u8]) -> Result<Option<i64>, LogError> {
    let Some(bytes) = partition.database.get(partition.keys(), index_key)? else { return Ok(None) };
    bytes.as_ref().try_into().map(|b| Some(i64::from_be_bytes(b))).map_err(|e| partition.corrupt("the compaction index", &e))
}

/// Takes the pass on, up to records of `until`, and drops what they supersede.
fn supersede(partition: &Partition, topic: Topic, until: i64) -> Result<Maintained, LogError> {
    let from = partition.meta_number(&cleaned_key(topic))?.unwrap_or(0);
    let end = partition.end(topic);
    if from >= end {
        return Ok(Maintained::default());
    }
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(end.to_be_bytes());
    options.fill_cache(false);
    let family = partition.topic(topic);
    let mut iterator = partition.database.iterate(family, options);
    iterator.seek(from.to_be_bytes());

    let mut batch = WriteBatch::default();
    // What this batch puts into the index, which it can't read there yet.
    let mut moved: HashMap<Vec<u8>, i64> = HashMap::new();
    let (mut next, mut seen, mut bytes_seen, mut removed) = (from, 0, 0, 0);
    while let Some((key, bytes)) = iterator.item() {
        let offset = partition.offset(topic, key)?;
        let head = frame::decode_head(bytes).map_err(|why| partition.corrupt_record(topic, offset, why))?;
        if head.timestamp > until || seen >= MAX_RECORDS || bytes_seen >= MAX_BYTES {
            break;
        }
        let index_key = index_key(topic, head.key);
        let before = match moved.get(&index_key) {
            Some(offset) => Some(*offset),
            None => indexed(partition, &index_key)?,
        };
        if let Some(before) = before {
            batch.delete_cf(family, before.to_be_bytes());
            removed += 1;
        }
        if head.tombstone {
            batch.put_cf(partition.tombstones(), tombstone_key(topic, head.timestamp, offset), head.key);
        }
        moved.insert(index_key, offset);
        next = offset + 1;
        seen += 1;
        bytes_seen += bytes.len();
        iterator.next();
    }
    partition.database.finished(&iterator)?;
    if seen == 0 {
        return Ok(Maintained::default());
    }
    for (index_key, offset) in moved {
        batch.put_cf(partition.keys(), index_key, offset.to_be_bytes());
    }
    batch.put_cf(partition.meta(), cleaned_key(topic), next.to_be_bytes());
    partition.database.write(batch)?;
    Ok(Maintained { removed, more: seen >= MAX_RECORDS || bytes_seen >= MAX_BYTES })
}

/// Topic, time, offset: in the order in which tombstones go. The time's sign is turned so that bytes sort as numbers do.
fn tombstone_key(topic: Topic, timestamp: i64, offset: i64) -> [u8; 17] {
    let mut key = [topic.index() as u8; 17];
    key[1..9].copy_from_slice(&(timestamp.cast_unsigned() ^ (1 << 63)).to_be_bytes());
    key[9..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// Drops the tombstones of `until` and before.
fn bury(partition: &Partition, topic: Topic, until: i64) -> Result<Maintained, LogError> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(tombstone_key(topic, i64::MIN, 0));
    options.set_iterate_upper_bound(tombstone_key(topic, until, i64::MAX));
    let mut iterator = partition.database.iterate(partition.tombstones(), options);
    iterator.seek_to_first();

    let end = partition.end(topic);
    let mut batch = WriteBatch::default();
    let (mut seen, mut removed) = (0, 0);
    while let Some((queued, key)) = iterator.item() {
        let offset = queued.get(9..).unwrap_or_default().try_into().map(i64::from_be_bytes);
        let offset = offset.map_err(|e| partition.corrupt("the list of tombstones", &e))?;
        // The last record tells the next offset when the log is opened again, so it stays until another comes.
        if offset + 1 >= end || seen >= MAX_RECORDS {
            break;
        }
        // If the key came back, the tombstone itself was superseded, and is gone.
        let index_key = index_key(topic, key);
        if indexed(partition, &index_key)? == Some(offset) {
            batch.delete_cf(partition.topic(topic), offset.to_be_bytes());
            batch.delete_cf(partition.keys(), index_key);
            removed += 1;
        }
        batch.delete_cf(partition.tombstones(), queued);
        seen += 1;
        iterator.next();
    }
    partition.database.finished(&iterator)?;
    if seen > 0 {
        partition.database.write(batch)?;
    }
    Ok(Maintained { removed, more: seen >= MAX_RECORDS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_sort_by_topic_then_time_then_offset() {
        let keys: Vec<[u8; 17]> = [
            (Topic::CompanyNumbers, i64::MIN, 9),
            (Topic::CompanyNumbers, -1, 3),
            (Topic::CompanyNumbers, 0, 2),
            (Topic::CompanyNumbers, 0, 300),
            (Topic::CompanyNumbers, i64::MAX, 0),
            (Topic::CallVerdicts, -5, 0),
        ]
        .into_iter()
        .map(|(topic, timestamp, offset)| tombstone_key(topic, timestamp, offset))
        .collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }
}
