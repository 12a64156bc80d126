//! The records that come to a member of the group. While its worker steps a full batch, a thread beside it takes what comes next out of the client,
//! which is a tenth of a worker's time otherwise.

use super::native::{Fetched, Queue};
use super::rebalances::Rebalances;
use crate::log::{LogError, MAX_READ_BYTES};
use rdkafka::consumer::BaseConsumer;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// See the module.
pub(super) struct Records {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    topic: String,
    coming: Mutex<Coming>,
    /// How many records the thread may take yet. It is set to 0 before the lock is asked for, so nobody waits for longer than one turn of the thread.
    room: AtomicUsize,
    is_over: AtomicBool,
}

struct Coming {
    queue: Queue<Rebalances>,
    /// What the thread has taken, with its partition, in the order in which it came, as many together as came at once: none of these is empty.
    taken: VecDeque<Vec<(i32, Fetched)>>,
    /// Of what it has taken since it was let go ahead.
    bytes: usize,
}

impl Records {
    /// Those of a topic that come to a member, beside what concerns the group.
    pub(super) fn of(consumer: Arc<BaseConsumer<Rebalances>>, topic: &str) -> Result<Self, LogError> {
        let coming = Mutex::new(Coming { queue: Queue::beside(consumer), taken: VecDeque::new(), bytes: 0 });
        let shared = Arc::new(Shared { topic: topic.to_owned(), coming, room: AtomicUsize::new(0), is_over: AtomicBool::new(false) });
        let its_own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("records".into())
            .spawn(move || its_own.take_ahead())
            .map_err(|error| LogError::Kafka { operation: "starting a worker's thread".into(), why: error.to_string() })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What comes of a partition comes here once it is assigned, which has to be afterwards. What was taken of it before is forgotten.
    pub(super) fn lead_here(&self, partition: i32) {
        let mut coming = self.shared.own();
        coming.drop_of(partition);
        coming.queue.lead_here(&self.shared.topic, partition);
    }

    /// At most `max`, with their partitions. Where none were taken ahead, waits for `wait` until there are as many.
    pub(super) fn take(&self, max: usize, wait: Duration) -> Vec<(i32, Fetched)> {
        let Coming { queue, taken, .. } = &mut *self.shared.own();
        let Some(mut first) = taken.pop_front() else { return queue.take(&self.shared.topic, None, max, wait) };
        let max = max.max(1);
        if first.len() > max {
            taken.push_front(first.split_off(max));
        }
        first
    }

    /// Lets the thread take at most so many of what is there, until the next call of any of these. What it has taken before comes first.
    pub(super) fn go_ahead(&self, most: usize) {
        let mut coming = self.shared.own();
        if let (true, Some(thread)) = (coming.taken.is_empty(), &self.thread) {
            coming.bytes = 0;
            self.shared.room.store(most, Ordering::Release);
            thread.thread().unpark();
        }
    }

    /// How many wait to be taken.
    #[cfg(test)]
    pub(super) fn taken_ahead(&self) -> usize {
        // Not by `own`: the thread is to go on.
        self.shared.coming.lock().unwrap_or_else(PoisonError::into_inner).taken.iter().map(Vec::len).sum()
    }

    /// Forgets what was taken of a partition that goes on at another place, or with another member.
    pub(super) fn drop_of(&self, partition: i32) {
        self.shared.own().drop_of(partition);
    }
}

impl Coming {
    fn drop_of(&mut self, partition: i32) {
        self.taken.retain_mut(|together| {
            together.retain(|(of, _)| *of != partition);
            !together.is_empty()
        });
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.room.store(0, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The lock, with the thread at rest.
    ///
    /// # Panics
    /// If the thread has: records may be lost that it had taken, and nothing may be read beyond a gap.
    fn own(&self) -> MutexGuard<'_, Coming> {
        self.room.store(0, Ordering::Release);
        self.coming.lock().expect("the thread that takes records panicked")
    }

    fn take_ahead(&self) {
        while !self.is_over.load(Ordering::Acquire) {
            if self.room.load(Ordering::Acquire) == 0 {
                std::thread::park();
                continue;
            }
            let Coming { queue, taken, bytes } = &mut *self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody may have asked for the lock meanwhile.
            let room = self.room.load(Ordering::Acquire);
            if room == 0 {
                continue;
            }
            let new = queue.take(&self.topic, None, room, Duration::ZERO);
            let (is_drained, count) = (new.is_empty(), new.len());
            *bytes += new.iter().map(bytes_of).sum::<usize>();
            if !is_drained {
                taken.push_back(new);
            }
            let left = if is_drained || *bytes >= MAX_READ_BYTES { 0 } else { room.saturating_sub(count) };
            // Unless it is 0 by now.
            self.room.fetch_min(left, Ordering::AcqRel);
        }
    }
}

fn bytes_of((_, fetched): &(i32, Fetched)) -> usize {
    if let Fetched::Record(record) = fetched { record.bytes() } else { 0 }
}
