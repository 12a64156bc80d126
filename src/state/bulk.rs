//! Rows of a copy that began empty, on their way to files of its database: in key order, past the write buffers, and without a look for what can't be
//! there.

use super::database::Family;
use foldhash::fast::FixedState;
use foldhash::{HashSet, HashSetExt};
use std::hash::BuildHasher;

/// Room for the rows that are written at once, of `BULK_BYTES` of verdicts (`roles/bring_up.rs`): growing to it by doubling is a tenth of the time.
/// Memory that isn't used isn't taken.
const ROOM: usize = 24 << 20;

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
        Self { rows: Default::default(), bytes: Vec::with_capacity(ROOM), known: HashSet::new(), waiting: HashSet::new(), pieces: 0, limits }
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

    /// Whether the files are to be merged before there are more.
    pub(super) fn is_to_be_merged(&self) -> bool {
        self.pieces >= self.limits.most_pieces
    }

    /// The files are merged: they are counted anew.
    pub(super) fn merged(&mut self) {
        self.pieces = 0;
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

    /// The rows of a family in key order, each key once.
    pub(super) fn sorted(&self, family: Family) -> impl Iterator<Item = (&[u8], &[u8])> {
        let rows = &self.rows[family as usize];
        let key = |row: &Row| &self.bytes[row.start..row.value];
        // Keys lie far apart in memory, and begin alike: most are told apart by what comes after that, beside one another.
        let common =
            rows.first().map_or(0, |first| rows.iter().fold(first.value - first.start, |common, row| alike(&key(first)[..common], key(row))));
        let mut order: Vec<(u128, usize)> = rows.iter().map(|row| first_bytes(&key(row)[common..])).zip(0..).collect();
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(&rows[a.1]).cmp(key(&rows[b.1]))).then(a.1.cmp(&b.1)));
        order.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0 && key(&rows[later.1]) == key(&rows[earlier.1]);
            if is_same {
                *earlier = *later;
            }
            is_same
        });
        order.into_iter().map(move |(_, place)| (key(&rows[place]), &self.bytes[rows[place].value..rows[place].end]))
    }

    /// Forgets the rows; their keys stay known.
    pub(super) fn clear(&mut self) {
        self.rows.iter_mut().for_each(Vec::clear);
        self.bytes.clear();
        self.waiting.clear();
        self.pieces += 1;
    }
}

/// How many bytes two keys begin with alike.
fn alike(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The first bytes of a key, so that they sort as it does, or are equal.
fn first_bytes(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let some = key.len().min(16);
    bytes[..some].copy_from_slice(&key[..some]);
    u128::from_be_bytes(bytes)
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
        let long = |end: &str| format!("they begin alike, for more than sixteen bytes{end}");
        let ends = ["", "b", "a and then for more than sixteen bytes: 2", "a and then for more than sixteen bytes: 1", "\0", "b"];
        for (end, value) in ends.into_iter().zip(["1", "2", "3", "4", "5", "6"]) {
            bulk.put(Family::Waiting, long(end).as_bytes(), value.as_bytes());
        }
        let found: Vec<(String, &[u8])> =
            bulk.sorted(Family::Waiting).map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), value)).collect();
        let mut expected = vec![(long(ends[0]), &b"1"[..]), (long(ends[4]), b"5"), (long(ends[3]), b"4"), (long(ends[2]), b"3"), (long("b"), b"6")];
        assert_eq!(found, expected);
        expected.sort();
        assert_eq!(found, expected);
        for (key, value) in [("b", "1"), ("a", "2"), ("b", "3"), ("", "4"), ("b", "5")] {
            bulk.put(Family::Judged, key.as_bytes(), value.as_bytes());
        }
        bulk.put(Family::Links, b"b", b"6");
        let rows = |bulk: &Bulk, family| -> Vec<String> {
            bulk.sorted(family).map(|(key, value)| String::from_utf8_lossy(&[key, b"=", value].concat()).into_owned()).collect()
        };
        assert_eq!(rows(&bulk, Family::Judged), ["=4", "a=2", "b=5"]);
        assert_eq!(rows(&bulk, Family::Links), ["b=6"]);
        bulk.clear();
        assert_eq!(rows(&bulk, Family::Judged), [""; 0]);
    }

    #[test]
    fn what_is_noted_is_not_lacking() {
        let mut bulk = Bulk::new(Limits::default());
        bulk.note(Family::Judged, b"a");
        let lacks = [(Family::Judged, &b"a"[..]), (Family::Links, b"a"), (Family::Judged, b"b")].map(|(family, key)| bulk.lacks(family, key));
        assert_eq!(lacks, [false, true, true]);
    }
}
