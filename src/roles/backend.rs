//! The log that a service runs on, embedded or on Kafka: opening it, and the threads of the processor that work on it.

use super::held::Held;
use super::holders::Holders;
use super::partition::PartitionError;
use super::processor::Worker;
use super::service::{RunArgs, log_dir};
use super::standby::{Copies, Standby};
use crate::event::Millis;
use crate::log::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
use crate::log::kafka::{self, Admin, Kafka, KafkaSettings};
use crate::log::spool::{Spool, SpoolOptions};
use crate::log::{Appender, Clock, Log, LogError, Reader, now};
use crate::state::database::{Database, DatabaseError, DatabaseOptions, Engine};
use anyhow::{Context, bail};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a partition's state is waited for, at a time, that a reader, or the worker before, is about to close.
const CLOSING: Duration = Duration::from_secs(1);
/// A turn of a worker that takes so long never ends. The group has given its partitions to others by then (`max.poll.interval.ms`, 5 minutes).
const LONGEST_TURN: Duration = Duration::from_secs(600);
/// How often it is looked at how long they take.
const WATCH_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What the name of a state that was set aside has after the partition's number, before the time.
const ASIDE: &str = ".corrupt-";
/// How long a worker waits before it tries again to join.
const JOIN_AGAIN: Duration = Duration::from_secs(1);
/// How often a corrupt state is tried to be set aside, and how much longer is waited before it each time.
const MOST_TRIES: u32 = 5;
const SET_ASIDE_AGAIN: Duration = Duration::from_millis(200);

/// A log that is open.
pub(super) struct Backend {
    kept: Kept,
    partitions: u32,
}

enum Kept {
    Embedded(EmbeddedLog),
    Kafka(Box<OnKafka>),
}

struct OnKafka {
    kafka: Kafka,
    /// Each worker's static member id; as many as there are workers.
    members: Vec<Option<String>>,
    states: States,
    standbys: Standbys,
    _aside: Aside,
}

/// Lets go of the client that the start asked the cluster with, for which the start doesn't wait.
struct Aside(Option<JoinHandle<()>>);

impl Aside {
    fn dropping(admin: Admin) -> anyhow::Result<Self> {
        let thread = std::thread::Builder::new().name("aside".into()).spawn(move || drop(admin));
        Ok(Self(Some(thread.context("starting a thread")?)))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Nothing depends on how it ended.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

/// Copies of what other instances hold.
struct Standbys {
    count: usize,
    /// This instance's address.
    own: String,
    copies: Copies,
}

/// Where the partitions' states are, of a process whose log is elsewhere. One process has them at a time.
pub(super) struct States {
    dir: PathBuf,
    engine: Engine,
    /// Locked as long as it is open.
    _lock: File,
}

impl Backend {
    /// Opens the data directory, and reaches the brokers where there are any. Waits for disk and network.
    ///
    /// # Errors
    /// For a data directory that can't be used or belongs to something else, brokers that can't be reached, and topics that are missing or wrong.
    pub fn open(args: &RunArgs, clock: &Clock) -> anyhow::Result<Self> {
        match &args.brokers {
            None => Self::embedded(args, clock),
            Some(brokers) => Self::on_kafka(args, brokers),
        }
    }

    fn embedded(args: &RunArgs, clock: &Clock) -> anyhow::Result<Self> {
        let (log, partitions) = open_embedded(&args.data_dir, args.partitions, clock)?;
        Ok(Self { kept: Kept::Embedded(log), partitions })
    }

    fn on_kafka(args: &RunArgs, brokers: &str) -> anyhow::Result<Self> {
        let mut settings = KafkaSettings {
            brokers: brokers.to_owned(),
            topic_prefix: args.topic_prefix.clone(),
            group: KafkaSettings::group_of(&args.topic_prefix),
            passed: args.kafka.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect(),
            framing: args.registry.framing(),
            ..KafkaSettings::default()
        }
        .judged_by(args.group.clone());
        let admin = kafka::enter(&mut settings, args.allow_old_brokers)?;
        let partitions = check_topics(&admin, &settings)?;
        let aside = Aside::dropping(admin)?;
        let kafka = Kafka::with(settings.clone(), partitions)?.announcing(args.advertise.clone());
        if args.workers > 0 {
            kafka.check_number()?;
        }
        let cluster = kafka.cluster_id()?;
        // The state is a fold of this log and of no other.
        let of = format!("cluster {cluster}, topics {}*, group {}, {partitions} partitions", settings.topic_prefix, settings.group);
        let states = States::open(args.data_dir.join("state"), Some(of.as_str()).filter(|_| args.workers > 0))?;
        let own = args.advertise.clone().unwrap_or_default();
        let standbys = Standbys { count: args.standbys as usize, own, copies: Copies::default() };
        let members = (0..args.workers).map(|number| args.instance.as_ref().map(|instance| format!("{instance}-{number}"))).collect();
        Ok(Self { kept: Kept::Kafka(Box::new(OnKafka { kafka, members, states, standbys, _aside: aside })), partitions })
    }

    /// Whether opening failed only because Kafka is away.
    pub fn is_away(error: &anyhow::Error) -> bool {
        matches!(error.downcast_ref(), Some(LogError::Kafka { .. }))
    }

    /// How many partitions the log has.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The ingress's end.
    pub fn appender(&self) -> Arc<dyn Appender> {
        match &self.kept {
            Kept::Embedded(log) => Arc::new(log.appender()),
            Kept::Kafka(on) => Arc::new(on.kafka.appender()),
        }
    }

    /// A view of what is committed.
    pub fn reader(&self) -> Arc<dyn Reader> {
        match &self.kept {
            Kept::Embedded(log) => log.reader(),
            Kept::Kafka(on) => Arc::new(on.kafka.reader()),
        }
    }

    /// Who holds which partition; `None` where nobody else can.
    pub fn holders(&self, own: Option<String>) -> Option<Holders> {
        match &self.kept {
            Kept::Embedded(_) => None,
            Kept::Kafka(on) => Some(Holders::new(on.kafka.reader(), own)),
        }
    }

    /// Tidies up: a bounded piece of work. Returns whether there is more. (Kafka does that itself.)
    ///
    /// # Errors
    /// As [`EmbeddedLog::maintain`].
    pub fn maintain(&self, now: Millis) -> Result<bool, LogError> {
        match &self.kept {
            Kept::Embedded(log) => log.maintain(now).map(|done| done.more),
            Kept::Kafka(_) => Ok(false),
        }
    }

    /// The state of a partition, for the worker that has it.
    fn database(&self, partition: u32) -> Result<Arc<Database>, PartitionError> {
        match &self.kept {
            Kept::Embedded(log) => Ok(log.database(partition)?),
            Kept::Kafka(on) => {
                on.standbys.copies.let_go(partition);
                on.states.database(partition)
            }
        }
    }

    /// Keeps copies of what other instances hold, until `stop`; returns at once where none are wanted.
    fn stand_by(&self, held: &Held, stop: &AtomicBool) {
        let Kept::Kafka(on) = &self.kept else { return };
        let Standbys { count, own, copies } = &on.standbys;
        // What no worker here can take over is of no use.
        if *count > 0 && !on.members.is_empty() {
            let reader = on.kafka.reader();
            let holders = Holders::new(reader.clone(), Some(own.clone()));
            let database = |partition| on.states.database(partition);
            Standby { copies, reader: &reader, holders: &holders, held, count: *count, own, database: &database, stop }.run();
        }
    }

    /// Works until `stop`.
    fn work(self: &Arc<Self>, number: usize, held: &Arc<Held>, turns: &Turns, stop: &AtomicBool) -> anyhow::Result<()> {
        match &self.kept {
            Kept::Embedded(log) => {
                let all: Vec<u32> = (0..self.partitions).collect();
                self.drive(log.worker(&all)?, number, held, turns, stop)
            }
            Kept::Kafka(on) => {
                let member = on.members[number].as_deref();
                while !stop.load(Ordering::Acquire) {
                    match on.kafka.worker(member) {
                        // Brokers that are away come back; one that refuses us goes on to.
                        Err(error) if error.passes_by_itself() => {
                            tracing::warn!(%error, "joining the group again");
                        }
                        joined => return self.drive(joined?, number, held, turns, stop),
                    }
                    std::thread::sleep(JOIN_AGAIN);
                }
                Ok(())
            }
        }
    }

    fn drive<L: Log>(self: &Arc<Self>, log: L, number: usize, held: &Arc<Held>, turns: &Turns, stop: &AtomicBool) -> anyhow::Result<()> {
        let (databases, told) = (self.clone(), held.clone());
        let report = move |partition, holding| told.tell(number, partition, holding);
        let mut worker = Worker::new(log, now, move |partition| databases.database(partition), report);
        // Partitions that were corrupt the last time, and how often some of them still were.
        let (mut known, mut tries): (Vec<u32>, u32) = (Vec::new(), 0);
        loop {
            let goes_on = |_: &mut Worker<L>| {
                turns.begin();
                !stop.load(Ordering::Acquire)
            };
            match (worker.run_while(goes_on), &self.kept) {
                (Err(error), Kept::Kafka(on)) => {
                    let corrupt = on.states.corrupt(&worker.log().assigned());
                    tries = if corrupt.iter().any(|partition| known.contains(partition)) { tries + 1 } else { 0 };
                    // Where one can't be set aside, another instance does better.
                    if corrupt.is_empty() || tries >= MOST_TRIES {
                        return Err(error.into());
                    }
                    tracing::error!(%error, "going on from what is committed, with the corrupt state set aside");
                    known = corrupt;
                    turns.begin();
                    worker.begin_again();
                    std::thread::sleep(SET_ASIDE_AGAIN * tries);
                }
                (done, _) => return Ok(done?),
            }
        }
    }
}

/// When a worker's turn began, if one is under way.
#[derive(Default)]
struct Turns(Mutex<Option<Instant>>);

impl Turns {
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn began(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads of the processor.
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
    turns: Vec<Arc<Turns>>,
    stop: Arc<AtomicBool>,
    failures: mpsc::UnboundedReceiver<String>,
    /// Without any threads, too, there is no end of failures that might come.
    _failing: mpsc::UnboundedSender<String>,
}

impl Workers {
    /// Starts the threads that own the partitions. The end of one, before it was told to, is a failure of the service.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(backend: &Arc<Backend>, held: &Arc<Held>) -> anyhow::Result<Self> {
        let (sender, failures) = mpsc::unbounded_channel();
        let mut workers = Self { threads: Vec::new(), turns: Vec::new(), stop: Arc::default(), failures, _failing: sender.clone() };
        let count = if let Kept::Kafka(on) = &backend.kept { on.members.len() } else { 1 };
        for number in 0..count {
            let (backend, held, stop, failed) = (backend.clone(), held.clone(), workers.stop.clone(), sender.clone());
            let turns = Arc::<Turns>::default();
            workers.turns.push(turns.clone());
            let work = move || {
                // Nothing of what the closure uses is looked at after a panic, but for the channel that tells of it.
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| backend.work(number, &held, &turns, &stop)));
                // Only now: closing the client is a call that may never return, too.
                turns.end();
                held.stopped();
                // Nobody listens any more where the service didn't start.
                let _ = match result {
                    Ok(Ok(())) if stop.load(Ordering::Acquire) => Ok(()),
                    Ok(Ok(())) => failed.send("it ended".to_owned()),
                    Ok(Err(error)) => failed.send(format!("{error:#}")),
                    Err(panic) => failed.send(format!("it panicked: {}", words_of(panic.as_ref()))),
                };
            };
            let thread = std::thread::Builder::new().name(format!("processor-{number}")).spawn(work).context("starting the processor")?;
            workers.threads.push(thread);
        }
        let (backend, held, stop) = (backend.clone(), held.clone(), workers.stop.clone());
        let keep_copies = move || {
            if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| backend.stand_by(&held, &stop))) {
                let _ = sender.send(format!("the keeper of copies panicked: {}", words_of(panic.as_ref())));
            }
        };
        let standby = std::thread::Builder::new().name("standby".to_owned()).spawn(keep_copies);
        workers.threads.push(standby.context("starting the keeper of copies")?);
        Ok(workers)
    }

    /// Waits for one to fail, and says why. Cancelled, it has changed nothing.
    ///
    /// Kafka's client has calls that may never return. Nothing can end a thread that is in one, or take from it
    /// what it has open; so then the process ends, as by a crash, and begins anew where somebody starts it again.
    pub async fn failure(&mut self) -> String {
        let mut before: Vec<Option<Instant>> = Vec::new();
        loop {
            tokio::select! {
                failure = self.failures.recv() => return failure.unwrap_or_else(|| "it ended".to_owned()),
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
            let began: Vec<Option<Instant>> = self.turns.iter().map(|turns| turns.began()).collect();
            if hung(&before, &began).is_some() {
                give_up();
            }
            // After a process was stopped for long, its workers have a moment to go on.
            before = began.into_iter().map(|began| began.filter(|began| began.elapsed() >= LONGEST_TURN)).collect();
        }
    }

    /// Lets them finish their batches, and waits for that on this thread.
    ///
    /// # Errors
    /// Why one failed, if one did.
    pub fn stop(mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        let begun = Instant::now();
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if begun.elapsed() >= LONGEST_TURN {
                give_up();
            }
            std::thread::sleep(LOOK_EVERY);
        }
        for thread in self.threads {
            // It catches its panics, and tells of them.
            let _ = thread.join();
        }
        self.failures.try_recv().map_or(Ok(()), Err)
    }
}

/// A worker that is in the same turn still as when it was too late already.
fn hung(late_before: &[Option<Instant>], now: &[Option<Instant>]) -> Option<usize> {
    late_before.iter().zip(now).position(|(before, now)| before.is_some() && before == now)
}

/// Ends the process at once: a thread that hangs can't be waited for, nor what waits for it.
fn give_up() -> ! {
    tracing::error!(seconds = LONGEST_TURN.as_secs(), "a worker hangs in a call that doesn't return: the process ends, to be started again");
    std::process::abort()
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

// ---- on Kafka ----

/// Refuses topics that are missing or lose something; tells what else is worth knowing of them. Returns how many partitions they have.
pub(super) fn check_topics(admin: &Admin, settings: &KafkaSettings) -> anyhow::Result<u32> {
    let described = kafka::describe_by(admin, settings).with_context(|| format!("reaching Kafka at {}", settings.brokers))?;
    let (wrong, warnings): (Vec<_>, Vec<_>) = kafka::findings(&described).into_iter().partition(|finding| finding.is_wrong);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !wrong.is_empty() {
        let list: Vec<String> = wrong.iter().map(|finding| format!("  {}: {}", finding.name, finding.what)).collect();
        bail!(
            "the topics at {} are not as they must be:\n{}\n`callsieve topics create` makes those that are missing, `callsieve topics check` looks again",
            settings.brokers,
            list.join("\n")
        );
    }
    let events = described.first().context("there are no topics")?;
    Ok(u32::try_from(events.partitions)?)
}

impl States {
    /// Takes a folder for this process alone, and for one log alone, which `of` names; `None` for who has no states, and only takes webhooks in.
    ///
    /// # Errors
    /// If it can't be made, read or written, another process uses it, or it is another log's.
    pub fn open(dir: PathBuf, of: Option<&str>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let path = dir.join("lock");
        let lock = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => bail!("{}: another process uses it; give this one a --data-dir of its own", dir.display()),
            Err(std::fs::TryLockError::Error(error)) => return Err(error).with_context(|| format!("locking {}", path.display())),
        }
        if let Some(of) = of {
            let path = dir.join("of");
            match std::fs::read_to_string(&path) {
                Ok(found) if found.trim() == of => {}
                Ok(found) => bail!(
                    "{} is the state of {}, not of {of}; give another --data-dir, or the --topic-prefix and --group that it is of",
                    dir.display(),
                    found.trim()
                ),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    write_whole(&path, &format!("{of}\n")).with_context(|| format!("writing {}", path.display()))?;
                }
                Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
            }
        }
        // The topics are the log: what a crash takes away is read again from them.
        let engine = Engine::new(&DatabaseOptions { write_ahead_log: false, ..DatabaseOptions::default() });
        Ok(Self { dir, engine, _lock: lock })
    }

    /// Opens a partition's state. The worker that had it before closes it before the group gives the partition on, but a reader may still be at it,
    /// and a worker that was away too long doesn't know yet that it has lost it. One that is corrupt is set aside, and is built anew from the topics.
    ///
    /// # Errors
    /// If it is still open elsewhere after a while, can't be opened for another reason, or can't be set aside.
    pub fn database(&self, partition: u32) -> Result<Arc<Database>, PartitionError> {
        let until = Instant::now() + CLOSING;
        let path = self.dir.join(partition.to_string());
        let mut is_anew = false;
        loop {
            match Database::open(&path, &self.engine, &[]) {
                Err(DatabaseError::Locked { .. }) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
                Err(DatabaseError::Corrupt { .. }) if !is_anew => {
                    self.set_aside(partition).map_err(LogError::from)?;
                    is_anew = true;
                }
                // Found corrupt while it was open; now nobody has it open any more.
                Ok(found) if Database::is_marked_corrupt(&path) && !is_anew => {
                    drop(found);
                    self.set_aside(partition).map_err(LogError::from)?;
                    is_anew = true;
                }
                opened => return Ok(Arc::new(opened.map_err(LogError::from)?)),
            }
        }
    }

    /// Moves a partition's corrupt state away, for who wants to know what happened to it. The last one of the partition's is kept.
    fn set_aside(&self, partition: u32) -> Result<(), DatabaseError> {
        let path = self.dir.join(partition.to_string());
        let failed =
            |error: std::io::Error| DatabaseError::Directory { path: path.clone(), why: format!("setting the corrupt state aside: {error}") };
        let begins = format!("{partition}{ASIDE}");
        for entry in std::fs::read_dir(&self.dir).map_err(failed)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&begins) {
                std::fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        let aside = self.dir.join(format!("{begins}{}", now()));
        std::fs::rename(&path, &aside).map_err(failed)?;
        metrics::counter!("callsieve_corrupt_states_total").increment(1);
        tracing::error!(
            partition,
            aside = %aside.display(),
            "the state on disk is corrupt: it is set aside, and is built anew from the topics. Look after the disk; the folder may be deleted"
        );
        Ok(())
    }

    /// Those of the partitions whose state was found corrupt while it was open, and isn't set aside yet.
    fn corrupt(&self, partitions: &[u32]) -> Vec<u32> {
        partitions.iter().copied().filter(|partition| Database::is_marked_corrupt(&self.dir.join(partition.to_string()))).collect()
    }
}

/// Opens the spool that stands before Kafka. Waits for the disk.
pub(super) fn open_spool(args: &RunArgs) -> anyhow::Result<Spool> {
    let dir = args.data_dir.join("spool");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let options = SpoolOptions { dir, bytes: args.spool_bytes, patience: SpoolOptions::PATIENCE };
    Spool::open(options).with_context(|| format!("opening the spool in {}", args.data_dir.display()))
}

// ---- embedded ----

/// Opens the log of a data directory, and says how many partitions it has.
pub(super) fn open_embedded(data_dir: &Path, partitions: Option<u32>, clock: &Clock) -> anyhow::Result<(EmbeddedLog, u32)> {
    let dir = log_dir(data_dir);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let partitions = settle_partitions(data_dir, partitions)?;
    let options = EmbeddedOptions { partitions, retention: Retention::default(), clock: clock.clone() };
    let log =
        EmbeddedLog::open(&dir, &Engine::new(&DatabaseOptions::default()), &options).with_context(|| format!("opening {}", data_dir.display()))?;
    Ok((log, partitions))
}

/// How many partitions there are: as when the directory was first used, which a file beside the log remembers. It is written before
/// the log is made, since a log that is cut off while it is made has fewer folders than partitions.
fn settle_partitions(data_dir: &Path, wanted: Option<u32>) -> anyhow::Result<u32> {
    let path = data_dir.join("partitions");
    let found = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().parse::<u32>().ok().filter(|count| *count > 0).with_context(|| format!("{} holds no number", path.display()))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(partitions_in(&log_dir(data_dir))).filter(|count| *count > 0),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let count = found.or(wanted).unwrap_or(1);
    if wanted.is_some_and(|wanted| wanted != count) {
        bail!("{} has {count} partitions, which can't be changed: leave --partitions out, or begin anew with another --data-dir", data_dir.display());
    }
    write_whole(&path, &format!("{count}\n")).with_context(|| format!("writing {}", path.display()))?;
    Ok(count)
}

/// Writes a small file so that it is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let next = path.with_extension("new");
    let mut file = std::fs::File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}

/// How many folders the log has: one per partition, named by its number.
fn partitions_in(dir: &Path) -> u32 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.max().map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_one_processs_and_one_logs() {
        let dir = tempfile::tempdir().unwrap();
        let open = |of: &str| States::open(dir.path().to_owned(), Some(of));
        let states = open("a").unwrap();
        assert!(open("a").err().unwrap().to_string().contains("--data-dir"));
        drop(states);
        assert!(open("b").err().unwrap().to_string().contains("is the state of a, not of b"));
        open("a").unwrap();
    }

    #[test]
    fn a_corrupt_state_is_set_aside_and_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let states = States::open(dir.path().to_owned(), Some("a")).unwrap();
        let aside = || {
            let entries = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
            entries.filter(|name| name.starts_with("3.corrupt-")).collect::<Vec<_>>()
        };
        let write = || {
            let database = states.database(3).unwrap();
            let mut batch = rocksdb::WriteBatch::default();
            let meta = database.family(crate::state::database::Family::Meta);
            let is_empty = database.get(meta, b"k").unwrap().is_none();
            batch.put_cf(meta, b"k", vec![7; 10_000]);
            database.write(batch).unwrap();
            is_empty
        };
        // A table's first block is read late, its end when it is opened.
        let damage = |extension: &str, bytes_from_the_start: usize| {
            for entry in std::fs::read_dir(dir.path().join("3")).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                if name.ends_with(extension) || name.starts_with(extension) {
                    let mut bytes = std::fs::read(entry.path()).unwrap();
                    bytes.iter_mut().take(bytes_from_the_start).for_each(|byte| *byte ^= 0x55);
                    std::fs::write(entry.path(), bytes).unwrap();
                }
            }
        };
        assert_eq!((write(), write()), (true, false));
        let mut set_aside = Vec::new();
        for (file, length) in [("MANIFEST", usize::MAX), (".sst", usize::MAX), (".sst", 64)] {
            damage(file, length);
            // What opening doesn't see is seen by who reads; its mark is seen the next time.
            if let Ok(database) = states.database(3)
                && database.get(database.family(crate::state::database::Family::Meta), b"k").is_err()
            {
                assert_eq!(states.corrupt(&[0, 3]), [3]);
            }
            assert!(write(), "{file}: it begins anew");
            assert!(states.corrupt(&[3]).is_empty() && !write());
            assert_eq!(aside().len(), 1, "{file}");
            set_aside.extend(aside());
        }
        set_aside.dedup();
        assert_eq!(set_aside.len(), 3, "the last one is kept");
    }

    #[test]
    fn a_worker_that_doesnt_come_back_is_seen_at_the_second_look() {
        let (long_ago, just_now) = (Instant::now(), Instant::now() + Duration::from_millis(1));
        for (late_before, now, hangs) in [
            (vec![], vec![Some(long_ago)], None),
            (vec![None, Some(long_ago)], vec![Some(just_now), Some(long_ago)], Some(1)),
            (vec![Some(long_ago)], vec![Some(just_now)], None),
            (vec![None], vec![Some(long_ago)], None),
            (vec![None], vec![None], None),
        ] {
            assert_eq!(hung(&late_before, &now), hangs, "{late_before:?} {now:?}");
        }
    }

    #[test]
    fn a_state_is_waited_for_until_its_last_reader_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let states = States::open(dir.path().to_owned(), Some("a")).unwrap();
        let reading = states.database(3).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| states.database(3).map(drop));
            std::thread::sleep(Duration::from_millis(100));
            assert!(!next.is_finished());
            drop(reading);
            next.join().unwrap().unwrap();
        });
    }
}
