//! Partitions on their way up: each on a thread of its own, so that those that are up go on meanwhile.

use super::bring_up::{Watch, bring_up};
use super::held::Holding;
use super::partition::{Partition, PartitionError};
use super::processor::{DatabaseOf, Report};
use crate::log::{Committed, LogError, Reader};
use crate::state::database::DatabaseError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Partitions that are brought up at once. Each takes a chunk of records and what they change, some tens of megabytes; where the copy is
/// empty, hashes of its keys are added, up to 120 MB.
const AT_ONCE: usize = 4;
/// How long a partition that could not be brought up waits for its next try: twice as long each time, up to a bound.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A partition that is up, and what is committed of it.
type Brought = (Partition, Option<Committed>);

/// See the module. A partition that it is told of is brought up until that is done or cancelled, whatever passes in between.
pub(super) struct BringUps {
    reader: Arc<dyn Reader>,
    database: DatabaseOf,
    report: Report,
    waiting: BTreeMap<u32, Waiting>,
    under_way: BTreeMap<u32, UnderWay>,
}

struct Waiting {
    until: Instant,
    /// If it fails then, too.
    pause: Duration,
}

struct UnderWay {
    cancelled: Arc<AtomicBool>,
    thread: JoinHandle<Result<Option<Brought>, PartitionError>>,
    pause: Duration,
}

impl BringUps {
    pub fn new(reader: Arc<dyn Reader>, database: DatabaseOf, report: Report) -> Self {
        Self { reader, database, report, waiting: BTreeMap::new(), under_way: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    pub fn contains(&self, partition: u32) -> bool {
        self.waiting.contains_key(&partition) || self.under_way.contains_key(&partition)
    }

    /// Brings a partition up as soon as there is room for it.
    pub fn add(&mut self, partition: u32) {
        (self.report)(partition, Holding::BringingUp { done: 0, total: 0 });
        self.waiting.insert(partition, Waiting { until: Instant::now(), pause: PAUSE });
    }

    /// Starts what there is room for, and returns those that are up by now.
    ///
    /// # Errors
    /// Why one can't be brought up, if that doesn't pass.
    pub fn turn(&mut self) -> Result<Vec<Brought>, PartitionError> {
        let ended: Vec<u32> = self.under_way.iter().filter(|(_, one)| one.thread.is_finished()).map(|(partition, _)| *partition).collect();
        let mut up = Vec::new();
        for partition in ended {
            let Some(UnderWay { thread, pause, .. }) = self.under_way.remove(&partition) else { continue };
            match thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(brought) => up.extend(brought),
                // Also where retention has gone on meanwhile: the next time it begins where the log does then. And where another worker of this
                // process, which doesn't know yet that it has lost the partition, still has its state.
                Err(PartitionError::Log(error))
                    if error.is_passing() || matches!(error, LogError::OutOfRange { .. } | LogError::Database(DatabaseError::Locked { .. })) =>
                {
                    tracing::warn!(partition, %error, "bringing up again");
                    self.waiting.insert(partition, Waiting { until: Instant::now() + pause, pause: (2 * pause).min(LONGEST_PAUSE) });
                }
                Err(error) => return Err(error),
            }
        }
        let now = Instant::now();
        let room = AT_ONCE.saturating_sub(self.under_way.len());
        // Those first that have waited longest: what fails again and again must not keep the others from their turn.
        let mut next: Vec<(Instant, u32)> = self.waiting.iter().map(|(partition, waiting)| (waiting.until, *partition)).collect();
        next.retain(|(until, _)| *until <= now);
        next.sort_unstable();
        for (_, partition) in next.into_iter().take(room) {
            let Some(Waiting { pause, .. }) = self.waiting.remove(&partition) else { continue };
            self.start(partition, pause)?;
        }
        Ok(up)
    }

    fn start(&mut self, partition: u32, pause: Duration) -> Result<(), PartitionError> {
        let (reader, database, report) = (self.reader.clone(), self.database.clone(), self.report.clone());
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = cancelled.clone();
        let work = move || {
            let progress = |done, total| report(partition, Holding::BringingUp { done, total });
            let is_cancelled = || flag.load(Ordering::Acquire);
            let watch = Watch { is_cancelled: &is_cancelled, progress: &progress, by: "worker" };
            bring_up(&*reader, partition, database(partition)?, &watch)
        };
        let thread = std::thread::Builder::new().name(format!("bring-up-{partition}")).spawn(work);
        let thread = thread.map_err(|error| LogError::Thread { partition, why: error.to_string() })?;
        self.under_way.insert(partition, UnderWay { cancelled, thread, pause });
        Ok(())
    }

    /// Cuts off those that `is_wanted` no more, and waits until their databases are closed.
    pub fn cancel(&mut self, is_wanted: impl Fn(u32) -> bool) {
        self.waiting.retain(|partition, _| {
            let keeps = is_wanted(*partition);
            if !keeps {
                (self.report)(*partition, Holding::Closed);
            }
            keeps
        });
        let cut: Vec<u32> = self.under_way.keys().copied().filter(|partition| !is_wanted(*partition)).collect();
        // All are told before one is waited for.
        cut.iter().filter_map(|partition| self.under_way.get(partition)).for_each(|one| one.cancelled.store(true, Ordering::Release));
        for partition in cut {
            if let Some(one) = self.under_way.remove(&partition) {
                // What it failed by concerns nobody any more.
                let _ = one.thread.join();
            }
            (self.report)(partition, Holding::Closed);
        }
    }
}

impl Drop for BringUps {
    fn drop(&mut self) {
        self.cancel(|_| false);
    }
}
