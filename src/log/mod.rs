//! The ordered log: what every implementation offers, and the little they share.
//!
//! Two ends and a view. A [`Log`] is a worker's end: it polls input and commits outputs, position and state together. An
//! [`Appender`] is the ingress's end. A [`Reader`] sees topics as they stand. The log knows keys and bytes; it knows no
//! call and no Avro. [`embedded`] keeps it in RocksDB on one machine, [`kafka`] on Apache Kafka; [`spool`] stands
//! before Kafka while that is away.

mod clock;
mod committed;
pub mod embedded;
mod frame;
pub mod kafka;
pub mod letter;
mod position;
pub mod spool;

#[cfg(test)]
mod contract;

pub use clock::{Clock, now, system_clock};
pub use committed::{Committed, OutputEnds};
pub use position::{Position, PositionError};

use crate::state::database::{Database, DatabaseError};
use bytes::Bytes;
use rocksdb::WriteBatch;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The largest message that [`Appender`] takes, key, value and headers together: the default of Kafka's `message.max.bytes`.
pub const MAX_INPUT_BYTES: usize = 1 << 20;
/// One [`Reader::read`] or [`Log::poll`] stops after the record that brings it to so many bytes, however many records were asked for.
pub const MAX_READ_BYTES: usize = 8 << 20;

/// A topic. All have the same number of partitions, and a partition of one belongs to the same accounts as that of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// The input: all that the processor may learn, in order.
    Events,
    /// The snapshots of company numbers.
    CompanyNumbers,
    /// The newest verdict of each call.
    CallVerdicts,
    /// Settings and gate of each account.
    AccountStates,
    /// Facts that have waited for their verdict.
    OpenCalls,
    /// What couldn't be read, as it came.
    DeadLetters,
}

impl Topic {
    /// All of them; the place in this list is [`Topic::index`].
    pub const ALL: [Self; 6] = [Self::Events, Self::CompanyNumbers, Self::CallVerdicts, Self::AccountStates, Self::OpenCalls, Self::DeadLetters];

    /// Its name without the prefix (`callsieve.`) that a deployment gives to all topics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::CompanyNumbers => "company-numbers",
            Self::CallVerdicts => "call-verdicts",
            Self::AccountStates => "account-states",
            Self::OpenCalls => "open-calls",
            Self::DeadLetters => "dead-letters",
        }
    }

    /// Whether it keeps the newest record of each key for ever, and may drop older ones; else records are dropped by age.
    #[must_use]
    pub const fn is_compacted(self) -> bool {
        matches!(self, Self::CompanyNumbers | Self::CallVerdicts | Self::AccountStates | Self::OpenCalls)
    }

    /// 0 to 5, stable on disk.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Names and values beside a record's value: the causes of dead letters, where a copied event came from, what others added. In order; a name may come
/// twice.
pub type Headers = Vec<(String, Vec<u8>)>;

/// A record as it stands on a topic. What was read with it may share its memory: who keeps a key or a value for long copies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition. Grows; compaction and transactions leave holes.
    pub offset: i64,
    /// When it was appended, in milliseconds since 1970. Never smaller than that of the record before it.
    pub timestamp: i64,
    /// What it is about; empty when it has none.
    pub key: Bytes,
    /// What it says; `None` is a tombstone: the key is gone.
    pub value: Option<Bytes>,
    /// See [`Headers`].
    pub headers: Headers,
    /// How the value came.
    pub came: Came,
}

/// How a record's value stands on the log, where that is not as it is given here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Came {
    /// As it is given.
    #[default]
    AsItIs,
    /// With the first bytes in place of so many of those that it has here.
    Framed([u8; 5], usize),
    /// As these bytes.
    Otherwise(Bytes),
    /// As it is given, and in a framing that should have been taken off; why it was not.
    Unreadable(String),
}

impl Record {
    /// Bytes of key and value, as [`MAX_READ_BYTES`] counts them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// The value, as it stands on the log.
    #[must_use]
    pub fn value_as_it_came(&self) -> Option<Bytes> {
        match (&self.came, &self.value) {
            (Came::Framed(front, instead_of), Some(value)) => Some([front, value.get(*instead_of..).unwrap_or_default()].concat().into()),
            (Came::Otherwise(bytes), _) => Some(bytes.clone()),
            (_, value) => value.clone(),
        }
    }
}

/// What a worker publishes with a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where to; any but [`Topic::Events`].
    pub topic: Topic,
    /// What it is about.
    pub key: Vec<u8>,
    /// What it says; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// See [`Headers`].
    pub headers: Headers,
}

/// What is to be appended from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The account that it is about: its key, and by [`partition_of`] its partition.
    pub account: String,
    /// What it says.
    pub value: Vec<u8>,
    /// See [`Headers`].
    pub headers: Headers,
}

/// Where a record came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The offset in it.
    pub offset: i64,
}

/// `partition/offset`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('/').and_then(|(partition, offset)| Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? }));
        parsed.filter(|place| place.offset >= 0).ok_or_else(|| format!("{text:?} isn't PARTITION/OFFSET, such as 3/1234"))
    }
}

/// Input of one partition, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The partition.
    pub partition: u32,
    /// At least one record; each offset is larger than the one before it.
    pub records: Vec<Record>,
}

/// Part of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What is there; offsets that compaction removed are skipped.
    pub records: Vec<Record>,
    /// Where to read on. Equal to the end, when all was read.
    pub next: i64,
}

/// What a partition's worker has done, to be made lasting at once.
pub struct Commit {
    /// The partition.
    pub partition: u32,
    /// How far the input is read, with all that the outputs and the state contain.
    pub position: Position,
    /// What is published, in order.
    pub outputs: Vec<Output>,
    /// What changes in the state, made with the handles of `database`.
    pub state: WriteBatch,
    /// Where the state is. For the embedded log, this is the log's own database of that partition.
    pub database: Arc<Database>,
}

/// Why the log didn't do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The disk has a say.
    #[error("log: {0}")]
    Database(#[from] DatabaseError),
    /// A stored record, or what is stored about the log, makes no sense.
    #[error("log: partition {partition}: {what} is corrupt: {why}")]
    Corrupt {
        /// The partition.
        partition: u32,
        /// Which record or entry.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing at that offset (any more): retention has passed it, or it was never written.
    #[error("log: {topic} partition {partition} has the offsets {start} to {end}, not {asked}")]
    OutOfRange {
        /// The topic.
        topic: Topic,
        /// The partition.
        partition: u32,
        /// The offset that was asked for.
        asked: i64,
        /// The first offset that is kept.
        start: i64,
        /// The offset that the next record will get.
        end: i64,
    },
    /// There is no such partition.
    #[error("log: there is no partition {partition}, only 0 to {}", partitions.saturating_sub(1))]
    NoSuchPartition {
        /// The partition.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// The partition isn't this worker's.
    #[error("log: partition {partition} isn't assigned to this worker")]
    NotAssigned {
        /// The partition.
        partition: u32,
    },
    /// The partition has another worker.
    #[error("log: partition {partition} already has a worker in this process")]
    Taken {
        /// The partition.
        partition: u32,
    },
    /// The directory was made for another number of partitions, or another of them.
    #[error(
        "log: {} holds partition {found}, and partition {expected} was expected; the number of partitions can't be changed: open it with its own, or begin anew in another directory",
        path.display()
    )]
    WrongPartition {
        /// The database's directory.
        path: std::path::PathBuf,
        /// What it holds ("3 of 8").
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A log was to be kept in a database that forgets what it acknowledges.
    #[error("log: {} was opened without a write-ahead log, which the embedded log needs", path.display())]
    NoWriteAheadLog {
        /// The database's directory.
        path: std::path::PathBuf,
    },
    /// The message is larger than the topic takes.
    #[error(
        "log: a message of {bytes} bytes for {topic}; at most {most} are taken, fewer where the topic's max.message.bytes is smaller (`callsieve topics check` says what it must be)"
    )]
    TooLarge {
        /// The topic.
        topic: Topic,
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// A commit doesn't fit the log: its database isn't the partition's, or it writes to the input.
    #[error("log: a commit to partition {partition} that {why}")]
    WrongCommit {
        /// The partition.
        partition: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The log is being closed.
    #[error("log: it is closed")]
    Closed,
    /// A transaction came to nothing, or may have: what is committed says which. The worker drops what it has in memory, and goes on from there.
    #[error("log: a transaction was aborted: {why}")]
    Aborted {
        /// The client's words.
        why: String,
    },
    /// Another worker has taken this one's place.
    #[error(
        "log: another worker took the place of {member}: two have the same member id, or this one was away for too long. Give each process an --instance of its own; if this is the only one of its name, start it again: {why}"
    )]
    Fenced {
        /// Its member id.
        member: String,
        /// The client's words.
        why: String,
    },
    /// Kafka didn't do what it was asked.
    #[error("log: {operation}: {why}")]
    Kafka {
        /// What was tried.
        operation: String,
        /// The client's words.
        why: String,
    },
    /// Kafka or its client refuses, and goes on refusing until something is changed: a setting, a password, a right.
    #[error("log: {operation}: {why}")]
    Refused {
        /// What was tried.
        operation: String,
        /// The client's words.
        why: String,
    },
    /// Kafka is away, or what came while it was away is still on its way to it; who can send again does that later.
    #[error("log: Kafka is away, or just back: {entries} entries in the spool come first")]
    Away {
        /// How many entries the spool holds.
        entries: u64,
    },
    /// Kafka is away, and the spool takes no more.
    #[error("log: the spool {} is full: it holds {bytes} of {most} bytes, and Kafka is away", path.display())]
    SpoolFull {
        /// The spool's directory.
        path: std::path::PathBuf,
        /// What it holds.
        bytes: u64,
        /// What it may hold.
        most: u64,
    },
    /// The system gives no thread.
    #[error("log: no thread for partition {partition}: {why}")]
    Thread {
        /// The partition.
        partition: u32,
        /// The system's words.
        why: String,
    },
}

impl LogError {
    /// Whether the worker may go on, once it has dropped what it has in memory and begun again from what is committed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Aborted { .. } | Self::Kafka { .. } | Self::Refused { .. } | Self::NotAssigned { .. } => true,
            // What is asked for was there: the broker that answered was away, and is behind.
            Self::OutOfRange { asked, end, .. } => asked > end,
            _ => false,
        }
    }

    /// The same, but for what goes on until somebody changes something: whether waiting alone may help.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        self.is_passing() && !matches!(self, Self::Refused { .. })
    }
}

/// A view of the topics as they stand, committed records only. For who brings a copy up, and who serves readers. Its methods may wait for the disk or
/// the network: an async task calls them where blocking is allowed.
pub trait Reader: Send + Sync {
    /// How many partitions each topic has.
    fn partitions(&self) -> u32;

    /// The first offset that is kept.
    ///
    /// # Errors
    /// If there is no such partition, or Kafka gives no answer.
    fn start(&self, topic: Topic, partition: u32) -> Result<i64, LogError>;

    /// The offset after the last record that readers see: the high watermark.
    ///
    /// # Errors
    /// As [`Reader::start`].
    fn end(&self, topic: Topic, partition: u32) -> Result<i64, LogError>;

    /// Records from `from` up to the end, at most `max` of them and about [`MAX_READ_BYTES`]. Doesn't wait for new ones; where all that is there
    /// belongs to a transaction under way, it waits until that has ended. On a topic that isn't compacted, an offset that retention has passed is
    /// [`LogError::OutOfRange`]: nothing is left out silently. On any topic, so is one beyond the end.
    ///
    /// # Errors
    /// If there is no such partition or no such offset, what is there can't be read, or a transaction doesn't end in time.
    fn read(&self, topic: Topic, partition: u32, from: i64, max: usize) -> Result<Read, LogError>;

    /// Whether a record is there, at this offset or behind it. Doesn't wait for transactions under way.
    ///
    /// # Errors
    /// As [`Reader::read`].
    fn has_record(&self, topic: Topic, partition: u32, from: i64) -> Result<bool, LogError> {
        Ok(from < self.end(topic, partition)? && !self.read(topic, partition, from, 1)?.records.is_empty())
    }

    /// The end as it grows, for who waits for new records. What it shows can be read.
    ///
    /// # Errors
    /// As [`Reader::start`], and if the system gives no thread.
    fn subscribe_end(&self, topic: Topic, partition: u32) -> Result<watch::Receiver<i64>, LogError>;

    /// What was committed last of a partition; `None` if nothing ever was. Where a commit is under way, its outcome is waited for.
    ///
    /// # Errors
    /// If there is no such partition, Kafka gives no answer in time, or what is committed is no position.
    fn committed(&self, partition: u32) -> Result<Option<Committed>, LogError>;
}

/// Records that [`each_record`] has in memory.
const CHUNK: usize = 10_000;

/// Gives all that stands in a partition of a topic at this moment, in order.
///
/// # Errors
/// If it can't be read, and what `take` says.
pub fn each_record<E: From<LogError>>(
    reader: &dyn Reader,
    topic: Topic,
    partition: u32,
    mut take: impl FnMut(Record) -> Result<(), E>,
) -> Result<(), E> {
    let (mut next, end) = (reader.start(topic, partition)?, reader.end(topic, partition)?);
    while next < end {
        let read = reader.read(topic, partition, next, CHUNK)?;
        read.records.into_iter().try_for_each(&mut take)?;
        next = read.next;
    }
    Ok(())
}

/// A worker's end of the log: input in, outputs and position out. Its methods block; it is for a thread of its own.
pub trait Log: Send {
    /// The partitions that are this worker's now. Changes only within [`Log::poll`], so what was polled before can always be committed before. One
    /// that is gone after a poll is given to another worker no sooner than with the next poll: until then its state can be closed.
    fn assigned(&self) -> Vec<u32>;

    /// The next input: at most `max_records` over all partitions, in order within each. Blocks until there is some, at most for `wait`; then the
    /// answer is empty. A partition starts at its committed position (without one, at the start of what is kept).
    ///
    /// # Errors
    /// If the input can't be read, partitions can't be taken up or given back, or the worker has lost its place in the group.
    fn poll(&mut self, max_records: usize, wait: Duration) -> Result<Vec<Batch>, LogError>;

    /// Of how many records a commit is at most: what bounds the memory that it takes, and how long others wait for it.
    fn batch(&self) -> usize;

    /// Publishes each partition's outputs and makes its position lasting, all or nothing, with the state at once or right after.
    ///
    /// With several partitions, Kafka does all of them or none, the embedded log each for itself (they have nothing in common). So after an error
    /// the worker drops what it has in memory, calls [`Log::settle`], asks for [`Reader::committed`] and goes on from there.
    ///
    /// # Errors
    /// As [`Log::hand_over`] and [`Log::conclude`].
    fn commit(&mut self, commits: Vec<Commit>) -> Result<(), LogError> {
        self.hand_over(commits)?;
        self.conclude()
    }

    /// Begins [`Log::commit`], which goes on by itself; what was handed over before is concluded first. Until it is concluded, too, each of these
    /// partitions' states may be as before or as after it; nothing of them is stepped, and they aren't handed over again.
    ///
    /// # Errors
    /// If a partition isn't this worker's, or a commit doesn't fit the log, can't be written or came to nothing, also the one before.
    fn hand_over(&mut self, commits: Vec<Commit>) -> Result<(), LogError>;

    /// Waits until what was handed over is committed, if anything was, and its state written.
    ///
    /// # Errors
    /// If it came to nothing, or may have, or it is committed and its state can't be written.
    fn conclude(&mut self) -> Result<(), LogError>;

    /// Decides what an earlier commit of this worker left undecided; afterwards what [`Reader::committed`] says of its partitions is definite.
    ///
    /// # Errors
    /// As [`Log::conclude`], and if Kafka doesn't let the worker's next producer in.
    fn settle(&mut self) -> Result<(), LogError>;

    /// The address by which this worker's commits say who holds their partitions, if they do. A partition that is taken up is then committed once as
    /// it stands.
    fn announces(&self) -> Option<&str> {
        None
    }

    /// A view for other threads.
    fn reader(&self) -> Arc<dyn Reader>;

    /// Where to read an output topic up to, to have everything that was published with the position that the partition was taken up at, or with the
    /// last commit after it. Never further back; it may be further on.
    ///
    /// # Errors
    /// If there is no such partition; on Kafka also if it isn't this worker's, or no answer comes.
    fn published(&self, topic: Topic, partition: u32) -> Result<i64, LogError>;

    /// Where a partition's input ends. Asked by who polls all the others too, so it isn't waited for long.
    ///
    /// # Errors
    /// As [`Reader::end`].
    fn end(&self, partition: u32) -> Result<i64, LogError>;

    /// Leaves a partition out of all further polls, until it is resumed or isn't assigned any more.
    ///
    /// # Errors
    /// If the partition isn't this worker's, or Kafka's client refuses.
    fn pause(&mut self, partition: u32) -> Result<(), LogError>;

    /// Takes a paused partition up: the next poll begins at `next`, between the start of what is kept and the end, and `ends` is where the outputs
    /// end that are committed.
    ///
    /// # Errors
    /// If the partition isn't this worker's, or can't go on from there.
    fn resume(&mut self, partition: u32, next: i64, ends: OutputEnds) -> Result<(), LogError>;

    /// Appends to the input of an assigned partition, outside any commit (a `Tick`), and returns its offset when it is durable.
    ///
    /// # Errors
    /// If the partition isn't this worker's, the record is too large, or it could not be appended, though it may be there.
    fn append(&mut self, partition: u32, key: &[u8], value: &[u8]) -> Result<i64, LogError>;
}

/// What an [`Appender`] returns: resolves when the records are durable.
pub type Appending<'a, T> = Pin<Box<dyn Future<Output = Result<T, LogError>> + Send + 'a>>;

/// The ingress's end of the log. An answer means that the record survives a power cut. No answer (an error, or the future was dropped) means that
/// it may or may not be there: to append it again is right, duplicates are harmless.
pub trait Appender: Send + Sync {
    /// Appends to the input.
    fn append(&self, input: Input) -> Appending<'_, Place>;

    /// Appends many to the input; those of one account keep their order. The places are in the order of the inputs. After an error, some may be
    /// there.
    fn append_all(&self, inputs: Vec<Input>) -> Appending<'_, Vec<Place>>;

    /// Appends to the dead letters.
    fn append_dead_letter(&self, letter: Input) -> Appending<'_, Place>;
}

/// The partition of an account: murmur2 of the text, as Kafka's Java client chooses it for a key.
///
/// The key of an output (`account/session`) isn't what decides; all that is about an account stands in the account's partition.
#[must_use]
pub fn partition_of(account: &str, partitions: u32) -> u32 {
    (murmur2(account.as_bytes()) & 0x7fff_ffff) % partitions.max(1)
}

/// What is wrong with a record about `account` in `partition`, if it belongs to another: all that is known of the account is there.
#[must_use]
pub fn misplaced(account: &str, partition: u32, partitions: u32) -> Option<String> {
    let home = partition_of(account, partitions);
    (home != partition).then(|| {
        format!(
            "account {account} belongs to partition {home}, not to {partition}: whoever appends must choose the partition as Kafka's Java client does for the account's id as \
             the key (librdkafka: partitioner=murmur2_random). `callsieve dead-letters retry` moves it there"
        )
    })
}

/// MurmurHash2, 32 bits, with the seed of Kafka's `Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_that_of_kafkas_java_client() {
        // The cases of Kafka's own UtilsTest.
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), u32::from_ne_bytes(i32::to_ne_bytes(hash)), "{text}");
        }
    }

    #[test]
    fn a_partition_is_the_masked_hash_modulo_their_number() {
        for (account, partitions, partition) in
            [("abc", 12, 479_470_107 % 12), ("21", 12, (-973_932_308_i32 & 0x7fff_ffff).cast_unsigned() % 12), ("x", 1, 0), ("x", 0, 0)]
        {
            assert_eq!(partition_of(account, partitions), partition, "{account} of {partitions}");
        }
    }

    #[test]
    fn accounts_spread_over_the_partitions() {
        let mut counts = [0; 8];
        for account in 400_000_000..400_008_000 {
            counts[partition_of(&account.to_string(), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }

    #[test]
    fn topics_have_their_place_and_their_name() {
        for (index, topic) in Topic::ALL.into_iter().enumerate() {
            assert_eq!(topic.index(), index);
        }
        let compacted: Vec<&str> = Topic::ALL.into_iter().filter(|t| t.is_compacted()).map(Topic::name).collect();
        assert_eq!(compacted, ["company-numbers", "call-verdicts", "account-states", "open-calls"]);
    }
}
