//! Rows of a copy that began empty, on their way to files of its database: in key order, past the write buffers, and without a look for what can't be there.

use super::database::Family;
use foldhash::fast::FixedState;
use foldhash::{HashSet, HashSetExt};
use std::hash::BuildHasher;

/// Bounds of what is taken in in bulk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// So many keys are remembered at most.
    pub(super) keys: usize,
    /// So often rows are written before the files are merged: each time makes a file in every family.
    pub(super) most_pieces: usize,
    /// So many files in a family RocksDB merges by itself, and writing doesn't wait for that.
    pub(super) few_pieces: usize,
}

impl Default for Limits {
    /// The keys of some 5 million calls, in 84 MB.
    fn default() -> Self {
        Self { keys: 14_000_000, most_pieces: 150, few_pieces: 16 }
    }
}

/// Where a row's key and value stand among the bytes.
struct Row {
    start: usize,
    value: usize,
    end: usize,
}

/// Rows that aren't written yet, and which keys the database has with them.
pub(super) struct Bulk {
    rows: [Vec<Row>; Family::ALL.len()],
    bytes: Vec<u8>,
    /// Hashes of keys. Two keys may share one (of a million one in a few thousand does); then one is looked for in vain.
    known: HashSet<u32>,
    /// The same of the verdicts among the rows.
    waiting: HashSet<u32>,
    /// How often rows were written since the files were merged.
    pieces: usize,
    limits: Limits,
}

impl Bulk {
    /// Of an empty database.
    pub(super) fn new(limits: Limits) -> Self {
        Self { rows: Default::default(), bytes: Vec::new(), known: HashSet::new(), waiting: HashSet::new(), pieces: 0, limits }
    }

    /// Whether the database surely lacks a key.
    pub(super) fn lacks(&self, family: Family, key: &[u8]) -> bool {
        !self.known.contains(&hash(family, key))
    }

    /// Whether a verdict may be among the rows that aren't written yet.
    pub(super) fn is_waiting(&self, key: &[u8]) -> bool {
        self.waiting.contains(&hash(Family::Judged, key))
    }

    /// Notes a key that is written in another way.
    pub(super) fn note(&mut self, family: Family, key: &[u8]) {
        self.known.insert(hash(family, key));
    }

    /// Whether there are no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it has no more room for keys: then what the database lacks can't be told any more.
    pub(super) fn is_full(&self) -> bool {
        self.known.len() >= self.limits.keys
    }

    /// Whether there are more files than RocksDB should merge by itself.
    pub(super) fn has_many_files(&self) -> bool {
        self.pieces > self.limits.few_pieces
    }

    /// Whether the files are to be merged before there are more; if so, that counts as done.
    pub(super) fn is_to_be_merged(&mut self) -> bool {
        let is_due = self.pieces >= self.limits.most_pieces;
        if is_due {
            self.pieces = 0;
        }
        is_due
    }

    /// Adds a row. Of one key there may be several before they are taken; the last counts.
    pub(super) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        if family == Family::Judged {
            self.waiting.insert(hash(family, key));
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.rows[family as usize].push(Row { start, value: middle, end: self.bytes.len() });
    }

    /// Gives the rows of a family in key order, each key once.
    pub(super) fn sorted(&mut self, family: Family) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = &self.bytes;
        let key = |row: &Row| &bytes[row.start..row.value];
        let rows = &mut self.rows[family as usize];
        rows.sort_by(|a, b| key(a).cmp(key(b)));
        rows.dedup_by(|later, earlier| {
            let is_same = key(later) == key(earlier);
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        rows.iter().map(|row| (&bytes[row.start..row.value], &bytes[row.value..row.end]))
    }

    /// Forgets the rows; their keys stay known.
    pub(super) fn clear(&mut self) {
        self.rows.iter_mut().for_each(Vec::clear);
        self.bytes.clear();
        self.waiting.clear();
        self.pieces += 1;
    }
}

fn hash(family: Family, key: &[u8]) -> u32 {
    // The upper half of a hash is the better one.
    (FixedState::default().hash_one((family, key)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_key_order_and_the_last_of_a_key_counts() {
        let mut bulk = Bulk::new(Limits::default());
        for (key, value) in [("b", "1"), ("a", "2"), ("b", "3"), ("", "4"), ("b", "5")] {
            bulk.put(Family::Judged, key.as_bytes(), value.as_bytes());
        }
        bulk.put(Family::Links, b"b", b"6");
        let rows = |bulk: &mut Bulk, family| -> Vec<String> {
            bulk.sorted(family).map(|(key, value)| String::from_utf8_lossy(&[key, b"=", value].concat()).into_owned()).collect()
        };
        assert_eq!(rows(&mut bulk, Family::Judged), ["=4", "a=2", "b=5"]);
        assert_eq!(rows(&mut bulk, Family::Links), ["b=6"]);
        bulk.clear();
        assert_eq!(rows(&mut bulk, Family::Judged), [""; 0]);
    }

    #[test]
    fn what_is_noted_is_not_lacking() {
        let mut bulk = Bulk::new(Limits::default());
        bulk.note(Family::Judged, b"a");
        let lacks = [(Family::Judged, &b"a"[..]), (Family::Links, b"a"), (Family::Judged, b"b")].map(|(family, key)| bulk.lacks(family, key));
        assert_eq!(lacks, [false, true, true]);
    }
}
