//! The log in RocksDB, on one machine.
//!
//! Each partition is one [`Database`] that holds the topics and the state, so a commit is one write batch. One thread per partition writes: it alone
//! gives offsets and timestamps, and syncs all appends that have come in meanwhile at once. Readers read RocksDB themselves, up to the end that the
//! writer has published; what is new is still in RocksDB's own write buffer, so no second copy is kept in memory.
//!
//! Appends are synced before they are answered. Commits are not: outputs and state are a function of the synced input, and the write-ahead log keeps
//! the order of writing. So a power cut can take away only the last commits, and stepping the same input again makes the same records at the same
//! offsets, dated anew; a reader that has seen them sees nothing else afterwards. (Dead letters may change places with those of the ingress.)
//!
//! Not here: several machines, transactions over partitions (they have nothing in common), and any clock but the one given.

mod cleaner;
mod partition;
mod writer;

pub use cleaner::{Maintained, Retention};

use super::frame::Frame;
use super::{
    Appender, Appending, Batch, Clock, Commit, Committed, Input, Log, LogError, MAX_INPUT_BYTES, MAX_READ_BYTES, OutputEnds, Place, Position, Read,
    Reader, Record, Topic, partition_of,
};
use crate::state::database::{Database, Engine};
use partition::{Partition, Signal, locked};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use writer::{Answer, Append, Publish, Request};

/// What an embedded log is made with.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// How many partitions. Fixed when the directory is first used.
    pub partitions: u32,
    /// How long records are kept.
    pub retention: Retention,
    /// Dates the records.
    pub clock: Clock,
}

/// The log of one process: owns the writing threads. Dropping it answers what is under way, then closes; workers, appenders and readers that are
/// still around get [`LogError::Closed`] where they would append, and keep the databases open.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

struct Shared {
    partitions: Vec<Arc<Partition>>,
    retention: Retention,
}

impl Shared {
    fn partition(&self, partition: u32) -> Result<&Arc<Partition>, LogError> {
        self.partitions.get(partition as usize).ok_or(LogError::NoSuchPartition { partition, partitions: self.partitions() })
    }
}

impl EmbeddedLog {
    /// Opens the log in `dir`, one directory (`0`, `1`, …) per partition, and starts its threads. An `engine`
    /// without a write-ahead log is refused.
    ///
    /// # Errors
    /// If the engine has no write-ahead log, a partition's directory can't be used, holds another one or is corrupt, and if the system gives no thread.
    pub fn open(dir: &Path, engine: &Engine, options: &EmbeddedOptions) -> Result<Self, LogError> {
        let count = options.partitions.max(1);
        let partitions = open_all(dir, engine, count)?;
        let shared = Arc::new(Shared { partitions, retention: options.retention.clone() });
        // Built before the threads start, so that those already running are stopped and joined if a later one can't be had.
        let mut log = Self { shared, writers: Vec::new() };
        for partition in &log.shared.partitions {
            let (of_thread, clock) = (partition.clone(), options.clock.clone());
            let writer = std::thread::Builder::new()
                .name(format!("log-{}", partition.number))
                .spawn(move || writer::run(&of_thread, &clock))
                .map_err(|e| LogError::Thread { partition: partition.number, why: e.to_string() })?;
            log.writers.push(writer);
        }
        Ok(log)
    }

    /// The database of a partition, for its state.
    ///
    /// # Errors
    /// If there is no such partition.
    pub fn database(&self, partition: u32) -> Result<Arc<Database>, LogError> {
        Ok(self.shared.partition(partition)?.database.clone())
    }

    /// A worker for these partitions. A partition has one worker at a time; it is free again when that one is dropped.
    ///
    /// # Errors
    /// If there is no such partition, or it has another worker.
    pub fn worker(&self, partitions: &[u32]) -> Result<EmbeddedWorker, LogError> {
        let signal = Arc::new(Signal::default());
        let mut worker = EmbeddedWorker { shared: self.shared.clone(), signal, owned: Vec::new(), turn: 0 };
        for &number in partitions {
            let partition = self.shared.partition(number)?;
            if worker.owned.iter().any(|o| o.partition.number == number) {
                continue;
            }
            if !partition.take(&worker.signal) {
                return Err(LogError::Taken { partition: number });
            }
            let next = locked(&partition.committed).map_or_else(|| partition.start(Topic::Events), |p: Position| p.next);
            worker.owned.push(Owned { partition: partition.clone(), next, is_paused: false });
        }
        Ok(worker)
    }

    /// The ingress's end.
    #[must_use]
    pub fn appender(&self) -> EmbeddedAppender {
        EmbeddedAppender { shared: self.shared.clone() }
    }

    /// A view for who serves readers.
    #[must_use]
    pub fn reader(&self) -> Arc<dyn Reader> {
        self.shared.clone()
    }

    /// Drops what the [`Retention`] doesn't keep: a bounded piece of work per call, to be called every minute or so, and again at once while
    /// [`Maintained::more`] says so. `now` is the time in milliseconds. A second call during one does nothing.
    ///
    /// # Errors
    /// If the disk can't be read or written, or what is on it is corrupt.
    pub fn maintain(&self, now: i64) -> Result<Maintained, LogError> {
        let mut done = Maintained::default();
        for partition in &self.shared.partitions {
            done += cleaner::maintain(partition, &self.shared.retention, now)?;
        }
        Ok(done)
    }

    /// Drops the records before `kept` of a topic that isn't compacted, whatever their age: lastingly, once this returns. For who passes records on
    /// elsewhere; not for a log with workers.
    ///
    /// # Errors
    /// If there is no such partition, `kept` isn't between the topic's start and its end, or the disk can't be written.
    pub fn drop_before(&self, topic: Topic, partition: u32, kept: i64) -> Result<(), LogError> {
        let partition = self.shared.partition(partition)?;
        partition.check(topic, kept)?;
        cleaner::drop_before(partition, topic, kept)
    }
}

/// Opens the partitions all at once: each replays its own write-ahead log.
fn open_all(dir: &Path, engine: &Engine, count: u32) -> Result<Vec<Arc<Partition>>, LogError> {
    let failed = |partition, why: String| LogError::Thread { partition, why };
    std::thread::scope(|scope| {
        let opening = (0..count).map(|number| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || Partition::open(dir, engine, number, count).map(Arc::new));
            thread.map(|t| (number, t)).map_err(|e| failed(number, e.to_string()))
        });
        // Collected first, so that all have begun before one is waited for.
        let opening = opening.collect::<Result<Vec<_>, LogError>>()?;
        let opened = opening.into_iter().map(|(number, thread)| thread.join().unwrap_or_else(|_| Err(failed(number, "it panicked".to_owned()))));
        opened.collect()
    })
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        for partition in &self.shared.partitions {
            partition.queue.close();
        }
        for writer in self.writers.drain(..) {
            // A writer that panicked has said so itself, and has nothing left to write.
            let _ = writer.join();
        }
    }
}

impl Reader for Shared {
    fn partitions(&self) -> u32 {
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    fn start(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        Ok(self.partition(partition)?.start(topic))
    }

    fn end(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        Ok(self.partition(partition)?.end(topic))
    }

    fn read(&self, topic: Topic, partition: u32, from: i64, max: usize) -> Result<Read, LogError> {
        self.partition(partition)?.read(topic, from, max, MAX_READ_BYTES)
    }

    fn subscribe_end(&self, topic: Topic, partition: u32) -> Result<watch::Receiver<i64>, LogError> {
        Ok(self.partition(partition)?.subscribe_end(topic))
    }

    fn committed(&self, partition: u32) -> Result<Option<Committed>, LogError> {
        let partition = self.partition(partition)?;
        let position = *locked(&partition.committed);
        // After the position: they may be further on, but not further back.
        let mut ends = OutputEnds::default();
        Topic::ALL.into_iter().for_each(|topic| ends.set(topic, partition.end(topic)));
        Ok(position.map(|position| Committed { position, ends, partitions: self.partitions(), holder: None }))
    }
}

/// See [`EmbeddedLog::worker`].
pub struct EmbeddedWorker {
    shared: Arc<Shared>,
    /// Rung by the writers of its partitions when there is input.
    signal: Arc<Signal>,
    owned: Vec<Owned>,
    /// Which partition is asked first: each in turn, so that a busy one doesn't starve the others.
    turn: usize,
}

struct Owned {
    partition: Arc<Partition>,
    /// The next input offset to poll.
    next: i64,
    is_paused: bool,
}

impl EmbeddedWorker {
    fn owned(&mut self, partition: u32) -> Result<&mut Owned, LogError> {
        self.owned.iter_mut().find(|o| o.partition.number == partition).ok_or(LogError::NotAssigned { partition })
    }

    /// What there is now.
    fn take(&mut self, max_records: usize) -> Result<Vec<Batch>, LogError> {
        let (mut left, mut left_bytes) = (max_records, MAX_READ_BYTES);
        let mut batches = Vec::new();
        self.turn = self.turn.wrapping_add(1);
        for i in 0..self.owned.len() {
            let at = (self.turn + i) % self.owned.len();
            let owned = &mut self.owned[at];
            if left == 0 || left_bytes == 0 || owned.is_paused || owned.next >= owned.partition.end(Topic::Events) {
                continue;
            }
            let read = owned.partition.read(Topic::Events, owned.next, left, left_bytes)?;
            owned.next = read.next;
            if read.records.is_empty() {
                continue;
            }
            left -= read.records.len().min(left);
            left_bytes = left_bytes.saturating_sub(read.records.iter().map(Record::bytes).sum());
            batches.push(Batch { partition: owned.partition.number, records: read.records });
        }
        Ok(batches)
    }
}

/// Bounds a poll's wait, so that the end of it can be reckoned.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

impl Log for EmbeddedWorker {
    fn assigned(&self) -> Vec<u32> {
        self.owned.iter().map(|o| o.partition.number).collect()
    }

    fn poll(&mut self, max_records: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            // Before looking: what comes after the look rings again.
            self.signal.clear();
            let batches = self.take(max_records.max(1))?;
            if !batches.is_empty() || !self.signal.wait(until) {
                return Ok(batches);
            }
        }
    }

    fn batch(&self) -> usize {
        // Who appends waits for it.
        5_000
    }

    fn hand_over(&mut self, commits: Vec<Commit>) -> Result<(), LogError> {
        let mut answers = Vec::with_capacity(commits.len());
        for commit in &commits {
            let owned = self.owned(commit.partition)?;
            if !Arc::ptr_eq(&commit.database, &owned.partition.database) {
                return Err(LogError::WrongCommit { partition: commit.partition, why: "comes with the database of another partition" });
            }
            if commit.outputs.iter().any(|o| o.topic == Topic::Events) {
                return Err(LogError::WrongCommit { partition: commit.partition, why: "writes to the input" });
            }
        }
        for commit in commits {
            let owned = self.owned(commit.partition)?;
            let outputs = commit.outputs.iter().map(|o| (o.topic, Frame::new(&o.key, o.value.as_deref(), &o.headers))).collect();
            let (answer, answered) = std::sync::mpsc::sync_channel(1);
            owned.partition.queue.push(Request::Publish(Publish { position: commit.position, outputs, state: commit.state, answer }))?;
            answers.push(answered);
        }
        // All are waited for, so that after an error nothing is still under way.
        let results: Vec<Result<(), LogError>> = answers.into_iter().map(|a| a.recv().unwrap_or(Err(LogError::Closed))).collect();
        results.into_iter().collect()
    }

    fn conclude(&mut self) -> Result<(), LogError> {
        // A commit has its answer when it is handed over.
        Ok(())
    }

    fn settle(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.shared.clone()
    }

    fn published(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.shared.end(topic, partition)
    }

    fn end(&self, partition: u32) -> Result<i64, LogError> {
        self.shared.end(Topic::Events, partition)
    }

    fn pause(&mut self, partition: u32) -> Result<(), LogError> {
        self.owned(partition)?.is_paused = true;
        Ok(())
    }

    fn resume(&mut self, partition: u32, next: i64, _: OutputEnds) -> Result<(), LogError> {
        let owned = self.owned(partition)?;
        owned.partition.check(Topic::Events, next)?;
        (owned.next, owned.is_paused) = (next, false);
        Ok(())
    }

    fn append(&mut self, partition: u32, key: &[u8], value: &[u8]) -> Result<i64, LogError> {
        // Synced like any input, though a Tick can be made again: a Tick that a power cut took away after its outputs were seen would let the same
        // offset hold another record, and other outputs.
        let owned = self.owned(partition)?;
        let frame = input_frame(Topic::Events, key, value, &[])?;
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        owned.partition.queue.push(Request::Append(Append {
            topic: Topic::Events,
            frames: vec![frame],
            answer: Answer::Thread(answer),
            room: None,
        }))?;
        answered.recv().unwrap_or(Err(LogError::Closed))
    }
}

fn input_frame(topic: Topic, key: &[u8], value: &[u8], headers: &[(String, Vec<u8>)]) -> Result<Frame, LogError> {
    let frame = Frame::new(key, Some(value), headers);
    if frame.len() > MAX_INPUT_BYTES {
        return Err(LogError::TooLarge { topic, bytes: frame.len(), most: MAX_INPUT_BYTES });
    }
    Ok(frame)
}

/// See [`EmbeddedLog::appender`].
#[derive(Clone)]
pub struct EmbeddedAppender {
    shared: Arc<Shared>,
}

impl EmbeddedAppender {
    fn partition_of(&self, account: &str) -> Result<&Arc<Partition>, LogError> {
        self.shared.partition(partition_of(account, self.shared.partitions()))
    }

    /// Appends frames next to each other, and tells the offset of the first. Waits while too much is under way.
    async fn send(&self, partition: &Partition, topic: Topic, frames: Vec<Frame>) -> Result<i64, LogError> {
        let room = partition.queue.room(frames.len()).await?;
        let (answer, answered) = oneshot::channel();
        partition.queue.push(Request::Append(Append { topic, frames, answer: Answer::Task(answer), room: Some(room) }))?;
        answered.await.unwrap_or(Err(LogError::Closed))
    }

    async fn send_one(&self, topic: Topic, input: Input) -> Result<Place, LogError> {
        let partition = self.partition_of(&input.account)?;
        let frame = input_frame(topic, input.account.as_bytes(), &input.value, &input.headers)?;
        let offset = self.send(partition, topic, vec![frame]).await?;
        Ok(Place { partition: partition.number, offset })
    }

    async fn send_all(&self, inputs: Vec<Input>) -> Result<Vec<Place>, LogError> {
        let mut places = vec![Place { partition: 0, offset: 0 }; inputs.len()];
        let mut of_partition: Vec<(Vec<usize>, Vec<Frame>)> = self.shared.partitions.iter().map(|_| Default::default()).collect();
        for (index, input) in inputs.into_iter().enumerate() {
            let number = self.partition_of(&input.account)?.number;
            let (indices, frames) = &mut of_partition[number as usize];
            indices.push(index);
            frames.push(input_frame(Topic::Events, input.account.as_bytes(), &input.value, &input.headers)?);
        }
        // One after another: who appends that many has no hurry, and a piece per partition is one sync.
        for (partition, (indices, mut frames)) in self.shared.partitions.iter().zip(of_partition) {
            let mut indices = indices.into_iter();
            while !frames.is_empty() {
                let piece = writer::piece(&frames);
                let rest = frames.split_off(piece);
                let first = self.send(partition, Topic::Events, std::mem::replace(&mut frames, rest)).await?;
                for (index, offset) in indices.by_ref().take(piece).zip(first..) {
                    places[index] = Place { partition: partition.number, offset };
                }
            }
        }
        Ok(places)
    }
}

impl Appender for EmbeddedAppender {
    fn append(&self, input: Input) -> Appending<'_, Place> {
        Box::pin(self.send_one(Topic::Events, input))
    }

    fn append_all(&self, inputs: Vec<Input>) -> Appending<'_, Vec<Place>> {
        Box::pin(self.send_all(inputs))
    }

    fn append_dead_letter(&self, letter: Input) -> Appending<'_, Place> {
        Box::pin(self.send_one(Topic::DeadLetters, letter))
    }
}

#[cfg(test)]
mod tests;
