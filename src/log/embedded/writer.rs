//! The thread that writes a partition.
//!
//! It takes all that has come in while it wrote, writes the appends among it as one batch, syncs once, answers them all. The slower the disk, the
//! larger the groups: throughput doesn't hang on the time of a sync, only the answer's latency does.

use super::partition::{POSITION, Partition, locked};
use crate::log::frame::Frame;
use crate::log::{Clock, LogError, Position, Topic};
use rocksdb::WriteBatch;
use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Records under way in one partition. Beyond them, who appends waits: that is the bound of the queue, and of its memory.
const ROOM: usize = 8192;
/// What one sync covers at most.
const GROUP_BYTES: usize = 4 << 20;

/// How many of these frames are appended in one request: so many as a group takes, at least one.
pub(super) fn piece(frames: &[Frame]) -> usize {
    let mut bytes = 0;
    let fitting = frames.iter().take(ROOM / 2).take_while(|frame| {
        bytes += frame.len();
        bytes <= GROUP_BYTES
    });
    fitting.count().clamp(1, frames.len().max(1))
}

/// Who waits for an append.
pub(super) enum Answer {
    /// A task.
    Task(oneshot::Sender<Result<i64, LogError>>),
    /// A thread.
    Thread(SyncSender<Result<i64, LogError>>),
}

impl Answer {
    fn give(self, result: Result<i64, LogError>) {
        // Who has stopped waiting needs no answer.
        match self {
            Self::Task(sender) => drop(sender.send(result)),
            Self::Thread(sender) => drop(sender.send(result)),
        }
    }
}

/// Records to append next to each other, synced.
pub(super) struct Append {
    pub(super) topic: Topic,
    pub(super) frames: Vec<Frame>,
    pub(super) answer: Answer,
    /// Its room in the queue, given back when it is answered. A worker's own appends need none: there is one at a time.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// A commit.
pub(super) struct Publish {
    pub(super) position: Position,
    pub(super) outputs: Vec<(Topic, Frame)>,
    pub(super) state: WriteBatch,
    pub(super) answer: SyncSender<Result<(), LogError>>,
}

/// Something to write.
pub(super) enum Request {
    Append(Append),
    Publish(Publish),
}

/// What waits for the writer.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), bell: Condvar::new(), room: Arc::new(Semaphore::new(ROOM)) }
    }
}

impl Queue {
    /// Waits for room for so many records.
    pub(super) async fn room(&self, records: usize) -> Result<OwnedSemaphorePermit, LogError> {
        let records = u32::try_from(records.min(ROOM)).unwrap_or(u32::MAX);
        self.room.clone().acquire_many_owned(records).await.map_err(|_| LogError::Closed)
    }

    pub(super) fn push(&self, request: Request) -> Result<(), LogError> {
        let mut waiting = locked(&self.waiting);
        if waiting.closed {
            return Err(LogError::Closed);
        }
        waiting.requests.push_back(request);
        drop(waiting);
        self.bell.notify_one();
        Ok(())
    }

    /// Takes no more; what is in it is still written.
    pub(super) fn close(&self) {
        locked(&self.waiting).closed = true;
        self.room.close();
        self.bell.notify_all();
    }

    /// All that waits, at least one; `None` when closed and empty.
    fn take(&self) -> Option<VecDeque<Request>> {
        let mut waiting = locked(&self.waiting);
        while waiting.requests.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut waiting.requests))
    }
}

/// Closes the queue when the writer ends, in whatever way, so that nobody waits for an answer that never comes.
struct Closing<'a>(&'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
        locked(&self.0.waiting).requests.clear();
    }
}

/// The thread's life: until the queue is closed and empty.
pub(super) fn run(partition: &Partition, clock: &Clock) {
    let _closing = Closing(&partition.queue);
    let mut writer = Writer { partition, clock, last_timestamp: partition.last_timestamp };
    while let Some(requests) = partition.queue.take() {
        let mut group = Group::default();
        for request in requests {
            match request {
                Request::Append(append) => {
                    writer.add(&mut group, append);
                    if group.batch.size_in_bytes() >= GROUP_BYTES {
                        writer.sync(std::mem::take(&mut group));
                    }
                }
                Request::Publish(publish) => {
                    writer.sync(std::mem::take(&mut group));
                    writer.publish(publish);
                }
            }
        }
        writer.sync(group);
    }
}

/// Appends that become durable together.
#[derive(Default)]
struct Group {
    batch: WriteBatch,
    /// How many records each topic gets.
    grown: [i64; 6],
    answers: Vec<(Answer, i64, Option<OwnedSemaphorePermit>)>,
}

struct Writer<'a> {
    partition: &'a Partition,
    clock: &'a Clock,
    last_timestamp: i64,
}

impl Writer<'_> {
    fn now(&mut self) -> i64 {
        self.last_timestamp = self.last_timestamp.max((self.clock)());
        self.last_timestamp
    }

    fn add(&mut self, group: &mut Group, append: Append) {
        let now = self.now();
        let family = self.partition.topic(append.topic);
        let grown = &mut group.grown[append.topic.index()];
        let first = self.partition.end(append.topic) + *grown;
        for mut frame in append.frames {
            let offset = self.partition.end(append.topic) + *grown;
            group.batch.put_cf(family, offset.to_be_bytes(), frame.dated(now));
            *grown += 1;
        }
        group.answers.push((append.answer, first, append.room));
    }

    /// Writes a group, then shows it, then answers. What failed has taken no offset.
    fn sync(&mut self, group: Group) {
        if group.answers.is_empty() {
            return;
        }
        let written = self.partition.database.write_synced(group.batch).map_err(LogError::from);
        if written.is_ok() {
            self.show(&group.grown);
        }
        for (answer, first, room) in group.answers {
            drop(room);
            answer.give(written.clone().map(|()| first));
        }
    }

    fn show(&self, grown: &[i64; 6]) {
        for topic in Topic::ALL {
            let grown = grown[topic.index()];
            if grown > 0 {
                self.partition.publish_end(topic, self.partition.end(topic) + grown);
            }
        }
    }

    /// One batch: outputs, position, state. Not synced; the module's opening says why.
    fn publish(&mut self, publish: Publish) {
        let now = self.now();
        let mut batch = publish.state;
        let mut grown = [0; 6];
        for (topic, mut frame) in publish.outputs {
            let offset = self.partition.end(topic) + grown[topic.index()];
            batch.put_cf(self.partition.topic(topic), offset.to_be_bytes(), frame.dated(now));
            grown[topic.index()] += 1;
        }
        batch.put_cf(self.partition.meta(), POSITION, publish.position.to_string());
        let written = self.partition.database.write(batch).map_err(LogError::from);
        if written.is_ok() {
            *locked(&self.partition.committed) = Some(publish.position);
            self.show(&grown);
        }
        // Who has stopped waiting needs no answer.
        drop(publish.answer.send(written));
    }
}
