//! The processor's worker: poll a batch, step every record, commit outputs with the position and the state.
//!
//! While a full batch is being committed, records of other partitions are polled and stepped; those of the partitions that are being committed wait,
//! since their state may not be written yet.

use super::bring_up::{OUTPUTS, write_first_output, write_position};
use super::bring_ups::BringUps;
use super::held::Holding;
use super::partition::{MOST_PUBLISHED, MOST_PUBLISHED_BYTES, Partition, PartitionError, bytes_of};
use crate::event::{Event, Millis, Tick, encode_event};
use crate::log::letter::EVENTS;
use crate::log::{Commit, Committed, Log, LogError, MAX_READ_BYTES, Record, Topic};
use crate::state::database::Database;
use rocksdb::WriteBatch;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// As many batches may be held that can't be stepped yet: Kafka's client gives long runs of one partition.
const HELD: usize = 4;
/// How long a poll waits, and so how late a deadline is noticed on an idle partition.
const WAIT: Duration = Duration::from_millis(100);
/// The same while partitions are brought up: how late it is noticed that one is.
const SHORT_WAIT: Duration = Duration::from_millis(5);
/// Deadlines bring at most one tick in so much time.
const TICK_EVERY: Millis = 1_000;
/// A partition whose broker didn't answer gets no tick for so many times as long as that took, within bounds: a worker has little of its time for
/// that.
const REST: u32 = 10;
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// An answer that takes so long, and is none, is the last that is waited for in a turn.
const SLOW: Duration = Duration::from_millis(100);
/// How often the ends of the output topics are noted.
const LOOK_UP_EVERY: Millis = 5_000;

/// How long a worker whose log failed waits before it goes on: twice as long each time, up to a bound.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where a partition's state is.
pub type DatabaseOf = Arc<dyn Fn(u32) -> Result<Arc<Database>, PartitionError> + Send + Sync>;
/// Told what becomes of each partition.
pub type Report = Arc<dyn Fn(u32, Holding) + Send + Sync>;

/// A worker: steps the partitions of a log that are assigned to it.
pub struct Worker<L: Log> {
    log: L,
    partitions: BTreeMap<u32, Partition>,
    /// Records that were polled and aren't stepped yet.
    polled: BTreeMap<u32, VecDeque<Record>>,
    /// Partitions whose commit is under way.
    under_way: BTreeSet<u32>,
    /// Which of them was stepped last.
    stepped_last: u32,
    /// [`Log::batch`], but for tests.
    batch: usize,
    bring_ups: BringUps,
    clock: fn() -> Millis,
    report: Report,
    /// When the last tick was appended, and its offset.
    ticked_at: BTreeMap<u32, (Millis, i64)>,
    /// Partitions whose broker didn't answer when they were to get a tick, and until when they get none.
    resting: BTreeMap<u32, Instant>,
    looked_up_at: Millis,
    /// What the commit under way is of.
    handed_over: Counts,
}

/// What is counted once it is committed.
#[derive(Default)]
struct Counts {
    records: u64,
    verdicts: u64,
    dead_letters: u64,
}

impl<L: Log> Worker<L> {
    /// A worker that brings the partitions up which the log assigns to it, each in the database that `database` gives, while it works on those that
    /// are up.
    pub fn new(
        log: L,
        clock: fn() -> Millis,
        database: impl Fn(u32) -> Result<Arc<Database>, PartitionError> + Send + Sync + 'static,
        report: impl Fn(u32, Holding) + Send + Sync + 'static,
    ) -> Self {
        let report: Report = Arc::new(report);
        Self {
            bring_ups: BringUps::new(log.reader(), Arc::new(database), report.clone()),
            batch: log.batch(),
            log,
            partitions: BTreeMap::new(),
            polled: BTreeMap::new(),
            under_way: BTreeSet::new(),
            stepped_last: u32::MAX,
            clock,
            report,
            ticked_at: BTreeMap::new(),
            resting: BTreeMap::new(),
            looked_up_at: Millis::MIN,
            handed_over: Counts::default(),
        }
    }

    /// The same, with the partitions up that the log has assigned by now. For who drives the worker by hand.
    ///
    /// # Errors
    /// If the log fails, or a partition can't be brought up.
    pub fn open(
        log: L,
        clock: fn() -> Millis,
        database: impl Fn(u32) -> Result<Arc<Database>, PartitionError> + Send + Sync + 'static,
        report: impl Fn(u32, Holding) + Send + Sync + 'static,
    ) -> Result<Self, PartitionError> {
        let mut worker = Self::new(log, clock, database, report);
        worker.follow()?;
        while !worker.bring_ups.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            worker.follow()?;
        }
        Ok(worker)
    }

    /// The same, with batches of at most so many records. For tests of what happens while a full one is being committed.
    #[must_use]
    pub fn in_batches_of(mut self, records: usize) -> Self {
        self.batch = records.max(1);
        self
    }

    /// Works until `stop`. What is stepped is committed before it returns. What of the log passes by itself (a transaction that came to nothing, a
    /// broker that is away) is waited for; then it goes on from what is committed.
    ///
    /// # Errors
    /// If the log fails in a way that doesn't pass, or a partition's state can't be read, written or brought up.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<(), PartitionError> {
        self.run_while(|_| !stop.load(Ordering::Acquire))
    }

    /// The same, as long as `goes_on`, which is asked before each turn.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub fn run_while(&mut self, mut goes_on: impl FnMut(&mut Self) -> bool) -> Result<(), PartitionError> {
        let mut pause = PAUSE;
        loop {
            let goes_on = goes_on(self);
            let done = if goes_on { self.turn(WAIT).map(drop) } else { self.conclude() };
            match done {
                Err(PartitionError::Log(error)) if error.is_passing() => {
                    tracing::warn!(%error, "going on from what is committed");
                    self.begin_again();
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                done => {
                    done?;
                    pause = PAUSE;
                }
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Closes what isn't assigned any more: another worker gets it with the next poll, and must find it closed.
    fn close_revoked(&mut self) {
        let assigned = self.log.assigned();
        let report = &self.report;
        self.partitions.retain(|id, _| {
            let is_kept = assigned.contains(id);
            if !is_kept {
                report(*id, Holding::Closed);
            }
            is_kept
        });
        self.polled.retain(|id, _| assigned.contains(id));
        self.bring_ups.cancel(|id| assigned.contains(&id));
    }

    /// Lets what is assigned and isn't open be brought up, and takes up what is, before anything is polled from it.
    fn follow(&mut self) -> Result<(), PartitionError> {
        self.close_revoked();
        let mut new = self.log.assigned();
        new.retain(|id| !self.partitions.contains_key(id) && !self.bring_ups.contains(*id));
        // All of them first, so that nobody takes the first for the whole.
        new.iter().for_each(|id| (self.report)(*id, Holding::BringingUp { done: 0, total: 0 }));
        if !new.is_empty() {
            self.conclude()?;
            self.log.settle()?;
        }
        for id in new {
            self.log.pause(id)?;
            self.bring_ups.add(id);
        }
        let mut announcements = Vec::new();
        let mut brought = self.bring_ups.turn()?.into_iter();
        while let Some((partition, committed)) = brought.next() {
            let id = partition.id;
            let taken_up = self.take_up(partition, committed);
            if taken_up.is_err() {
                // Nobody else knows of them any more; those that it still has are told of anew.
                brought.map(|(partition, _)| partition.id).chain([id]).for_each(|id| (self.report)(id, Holding::Closed));
                return taken_up.map(drop);
            }
            announcements.extend(taken_up?);
        }
        if !announcements.is_empty() {
            self.conclude()?;
            self.log.commit(announcements)?;
        }
        Ok(())
    }

    /// Goes on with a partition that is up. Returns a commit where it has to be announced who has it now, or that events are missed.
    fn take_up(&mut self, partition: Partition, committed: Option<Committed>) -> Result<Option<Commit>, PartitionError> {
        let (id, position) = (partition.id, partition.position());
        let missed = committed.as_ref().map_or(0, |committed| position.next - committed.position.next);
        let (ends, holder) = committed.map(|committed| (committed.ends, committed.holder)).unwrap_or_default();
        // What came before it was to be fetched may leave a gap before what comes now.
        self.polled.remove(&id);
        self.log.resume(id, position.next, ends)?;
        let database = partition.store.database().clone();
        let is_announced = self.log.announces().is_none_or(|own| holder.as_deref() == Some(own));
        if missed > 0 {
            metrics::counter!("callsieve_events_dropped_total").increment(missed.unsigned_abs());
            tracing::error!(
                partition = id,
                committed = position.next - missed,
                start = position.next,
                "retention has passed the committed position: events were dropped before they were read. Set the input's retention.ms higher, and hand over the \
                 call log of that time, whose verdicts are missing"
            );
        }
        let announcement = (!is_announced || missed > 0).then(|| {
            let mut state = WriteBatch::default();
            write_position(&database, &mut state, position);
            Commit { partition: id, position, outputs: Vec::new(), state, database: database.clone() }
        });
        self.partitions.insert(id, partition);
        (self.report)(id, Holding::Up(database));
        Ok(announcement)
    }

    /// One turn of the loop. Returns how many records it stepped.
    ///
    /// # Errors
    /// As [`Worker::run`], and also for what of the log passes.
    pub fn turn(&mut self, wait: Duration) -> Result<usize, PartitionError> {
        self.follow()?;
        let assigned = self.log.assigned();
        let is_full = self.poll(wait)?;
        let is_rebalanced = self.log.assigned() != assigned;
        if is_rebalanced {
            // Before the group is answered, by the next poll, all of it is committed.
            self.conclude()?;
        }
        self.close_revoked();
        let looks_up = has_passed((self.clock)(), self.looked_up_at, LOOK_UP_EVERY);
        let (commits, stepped) = self.step(looks_up)?;
        self.conclude()?;
        let of: BTreeSet<u32> = commits.iter().map(|commit| commit.partition).collect();
        if !commits.is_empty() {
            if looks_up {
                self.looked_up_at = (self.clock)();
            }
            self.under_way.clone_from(&of);
            let counts = Counts::of(stepped, &commits);
            self.log.hand_over(commits)?;
            self.handed_over = counts;
            // Where there may be nothing else to do, it is waited for at once.
            if !is_full || is_rebalanced {
                self.conclude()?;
            }
        }
        self.tick(&of)?;
        Ok(stepped)
    }

    /// Polls until a batch can be stepped, which is of other partitions than those whose commit is under way, or nothing more is there, or as much is
    /// held as may be. Waits only where nothing else is to be done. Says whether there may be more.
    fn poll(&mut self, wait: Duration) -> Result<bool, PartitionError> {
        let assigned = self.log.assigned();
        let goes_on = |(id, partition): (&u32, &Partition)| partition.has_due_work() && !self.rests(*id);
        let is_idle = self.polled.is_empty() && self.under_way.is_empty() && !self.partitions.iter().any(goes_on);
        let wait = if self.bring_ups.is_empty() { wait } else { wait.min(SHORT_WAIT) };
        let mut wait = if is_idle { wait } else { Duration::ZERO };
        loop {
            let (mut ready, mut held, mut bytes) = (0, 0, 0);
            for (id, records) in &self.polled {
                held += records.len();
                bytes += records.iter().map(Record::bytes).sum::<usize>();
                ready += if self.under_way.contains(id) { 0 } else { records.len() };
            }
            if ready >= self.batch || held >= HELD * self.batch || bytes >= HELD * MAX_READ_BYTES {
                return Ok(true);
            }
            let room = self.batch - ready;
            let (mut new, mut new_bytes) = (0, 0);
            for batch in self.log.poll(room, std::mem::take(&mut wait))? {
                new += batch.records.len();
                new_bytes += batch.records.iter().map(Record::bytes).sum::<usize>();
                self.polled.entry(batch.partition).or_default().extend(batch.records);
            }
            // The next poll answers the group, before which there is something to do.
            if (new < room && new_bytes < MAX_READ_BYTES) || self.log.assigned() != assigned {
                return Ok(false);
            }
        }
    }

    /// Steps a batch of what was polled of partitions whose commit isn't under way. Returns what is to be committed, and how many records it is of.
    fn step(&mut self, mut looks_up: bool) -> Result<(Vec<Commit>, usize), PartitionError> {
        let mut commits = Vec::with_capacity(self.polled.len());
        let (mut stepped, mut published_records, mut published_bytes) = (0, 0, 0);
        // Each in turn, so that none is left behind.
        let (before, after): (Vec<u32>, Vec<u32>) =
            self.polled.keys().filter(|id| !self.under_way.contains(id)).partition(|id| **id <= self.stepped_last);
        for id in after.into_iter().chain(before) {
            if stepped >= self.batch || published_records >= MOST_PUBLISHED || published_bytes >= MOST_PUBLISHED_BYTES {
                break;
            }
            let Some(mut records) = self.polled.remove(&id) else { continue };
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            let mut outputs = Vec::new();
            // Of the commits before this one, so the copy contains all that is before these ends.
            let ends = if looks_up { published(&self.log, id)? } else { None };
            // A broker that is away is asked once in a turn.
            looks_up &= ends.is_some();
            let taken = partition.step(records.iter().take(self.batch - stepped), &mut outputs)?;
            stepped += taken;
            self.stepped_last = id;
            self.resting.remove(&id);
            (published_records, published_bytes) = (published_records + outputs.len(), published_bytes + bytes_of(&outputs));
            // What a commit has no room for is stepped after it.
            records.drain(..taken);
            if !records.is_empty() {
                self.polled.insert(id, records);
            }
            let database = partition.store.database().clone();
            let mut state = partition.store.take_batch()?;
            write_position(&database, &mut state, partition.position());
            for (topic, end) in ends.into_iter().flatten() {
                write_first_output(&database, &mut state, topic, end);
            }
            commits.push(Commit { partition: id, position: partition.position(), outputs, state, database });
        }
        Ok((commits, stepped))
    }

    /// Waits for the commit that is under way, if one is.
    fn conclude(&mut self) -> Result<(), PartitionError> {
        self.under_way.clear();
        let counts = std::mem::take(&mut self.handed_over);
        self.log.conclude()?;
        counts.tell();
        Ok(())
    }

    /// Lets time pass where nothing else does: a partition with due work, or with a deadline that the clock has passed. `stepped` are those that this
    /// turn had records of.
    fn tick(&mut self, stepped: &BTreeSet<u32>) -> Result<(), PartitionError> {
        let now = (self.clock)();
        // Those last that gave no answer: they must not keep the others from theirs.
        let (silent, others): (Vec<u32>, Vec<u32>) = self.partitions.keys().partition(|id| self.resting.contains_key(id));
        for id in others.iter().chain(&silent) {
            let Some(partition) = self.partitions.get(id) else { continue };
            let (last, offset) = self.ticked_at.get(id).copied().unwrap_or((Millis::MIN, -1));
            let is_overdue = has_passed(now, last, TICK_EVERY);
            let is_wanted = partition.has_due_work() || (partition.is_due(now) && is_overdue);
            // What was polled moves time on, or brings its work about.
            if !is_wanted || self.polled.contains_key(id) {
                continue;
            }
            if self.rests(*id) {
                continue;
            }
            let asked = Instant::now();
            let next = partition.position().next;
            let is_marker = is_overdue && offset < next && !stepped.contains(id);
            // Asked last: it may be a question to a broker.
            let Some(ticked) = passing(self.log.end(*id).and_then(|end| {
                // What is left before the end may be no record: where somebody has appended in a transaction, its marker is the last that there is.
                if end > next && !is_marker {
                    return Ok(None);
                }
                self.log.append(*id, b"", &encode_event(&Event::Tick(Tick { at: now }))).map(Some)
            }))?
            else {
                let took = asked.elapsed();
                self.resting.insert(*id, Instant::now() + (REST * took).clamp(SHORTEST_REST, LONGEST_REST));
                if took >= SLOW {
                    break;
                }
                continue;
            };
            self.resting.remove(id);
            self.ticked_at.extend(ticked.map(|offset| (*id, (now, offset))));
        }
        Ok(())
    }

    /// Whether a partition gets no tick, since its broker didn't answer.
    fn rests(&self, partition: u32) -> bool {
        self.resting.get(&partition).is_some_and(|until| Instant::now() < *until)
    }

    /// The partitions that are up, with all that is stepped.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.values()
    }

    /// Whether what is stepped of a partition is still being committed.
    pub fn is_being_committed(&self, partition: u32) -> bool {
        self.under_way.contains(&partition)
    }

    /// The log, for who drives the worker by hand.
    pub fn log(&mut self) -> &mut L {
        &mut self.log
    }
}

impl<L: Log> Worker<L> {
    /// Drops what is in memory: each partition is brought up anew by the next turn. For after an error of the log. Those that are being brought up go
    /// on: what they read was committed before.
    pub fn begin_again(&mut self) {
        // What became of it will show.
        if let Err(error) = self.conclude() {
            tracing::debug!(%error, "dropping what is in memory");
        }
        self.polled.clear();
        self.resting.clear();
        // Told first: readers come to none that is about to be closed.
        self.partitions.keys().for_each(|id| (self.report)(*id, Holding::Closed));
        self.partitions.clear();
    }
}

impl<L: Log> Drop for Worker<L> {
    /// The partitions are closed before the log lets go of them.
    fn drop(&mut self) {
        self.begin_again();
        self.bring_ups.cancel(|_| false);
    }
}

/// Whether so much time has passed since then by a clock that may have been set back meanwhile.
fn has_passed(now: Millis, since: Millis, time: Millis) -> bool {
    now < since || now >= since.saturating_add(time)
}

/// Before which offsets of the output topics everything is that was published so far; `None` while the log doesn't answer: those noted before still
/// hold.
fn published<L: Log>(log: &L, partition: u32) -> Result<Option<Vec<(Topic, i64)>>, LogError> {
    passing(OUTPUTS.into_iter().map(|topic| Ok((topic, log.published(topic, partition)?))).collect())
}

/// `None` for a failure of the log that passes by itself, where the worker can do without the answer.
fn passing<T>(answer: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match answer {
        Err(error) if error.is_passing() => {
            tracing::debug!("{error}");
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

impl Counts {
    fn of(records: usize, commits: &[Commit]) -> Self {
        let outputs = || commits.iter().flat_map(|commit| &commit.outputs);
        Self {
            records: records as u64,
            verdicts: outputs().filter(|output| output.topic == Topic::CallVerdicts && output.value.is_some()).count() as u64,
            dead_letters: outputs().filter(|output| output.topic == Topic::DeadLetters).count() as u64,
        }
    }

    fn tell(&self) {
        metrics::counter!("callsieve_records_total").increment(self.records);
        metrics::counter!("callsieve_verdicts_total").increment(self.verdicts);
        metrics::counter!("callsieve_dead_letters_total", "source" => EVENTS).increment(self.dead_letters);
    }
}
