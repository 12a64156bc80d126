//! Partitions that are brought up hold up no others, and are let go of at once when they are revoked or the worker stops.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use callsieve::event::{AccountId, AccountSettings, Event, encode_event};
use callsieve::judge::number::Country;
use callsieve::log::embedded::{EmbeddedLog, EmbeddedOptions, EmbeddedWorker, Retention};
use callsieve::log::system_clock;
use callsieve::log::{Appender, Batch, Commit, Committed, Input, Log, LogError, OutputEnds, Read, Reader, Topic, partition_of};
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::roles::held::Holding;
use callsieve::roles::processor::Worker;
use callsieve::simulate::HOUR_MS;
use callsieve::state::database::{DatabaseOptions, Engine};
use common::copy::replace_state;
use common::now;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const RECORDS: usize = 30;

/// What the test does to the log.
#[derive(Default)]
struct Faults {
    /// Reads of partition 0 give no record while this is true; each is counted.
    held_up: AtomicBool,
    reads: AtomicUsize,
    /// So many of its next reads fail, in a way that passes.
    fail: AtomicUsize,
    is_revoked: AtomicBool,
    /// The first partition can't be taken up again: the worker joins anew, and another gets it.
    is_lost: AtomicBool,
    /// Nobody says where the first partition ends: it has no leader.
    is_silent: AtomicBool,
    asked: AtomicUsize,
    polled: Mutex<BTreeSet<u32>>,
}

#[derive(Clone)]
struct DisturbedReader {
    of: Arc<dyn Reader>,
    faults: Arc<Faults>,
}

impl Reader for DisturbedReader {
    fn partitions(&self) -> u32 {
        self.of.partitions()
    }

    fn start(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.of.start(topic, partition)
    }

    fn end(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        // As a broker does that was away: it shows nothing, and says that there is no more.
        let is_behind = partition == 0 && self.faults.held_up.load(Ordering::SeqCst);
        if is_behind { self.of.start(topic, partition) } else { self.of.end(topic, partition) }
    }

    fn read(&self, topic: Topic, partition: u32, from: i64, _: usize) -> Result<Read, LogError> {
        if partition != 0 {
            return self.of.read(topic, partition, from, 3);
        }
        self.faults.reads.fetch_add(1, Ordering::SeqCst);
        if self.faults.fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(LogError::Kafka { operation: "reading".into(), why: "the broker is away".into() });
        }
        let shown = if self.faults.held_up.load(Ordering::SeqCst) { 0 } else { 3 };
        self.of.read(topic, partition, from, shown)
    }

    fn subscribe_end(&self, topic: Topic, partition: u32) -> Result<watch::Receiver<i64>, LogError> {
        self.of.subscribe_end(topic, partition)
    }

    fn committed(&self, partition: u32) -> Result<Option<Committed>, LogError> {
        self.of.committed(partition)
    }
}

struct DisturbedLog {
    of: EmbeddedWorker,
    reader: DisturbedReader,
}

impl Log for DisturbedLog {
    fn assigned(&self) -> Vec<u32> {
        let is_revoked = self.reader.faults.is_revoked.load(Ordering::SeqCst);
        self.of.assigned().into_iter().filter(|partition| !is_revoked || *partition != 0).collect()
    }

    fn poll(&mut self, max_records: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        let batches = self.of.poll(max_records, wait)?;
        self.reader.faults.polled.lock().unwrap().extend(batches.iter().map(|batch| batch.partition));
        Ok(batches)
    }

    fn batch(&self) -> usize {
        self.of.batch()
    }

    fn hand_over(&mut self, commits: Vec<Commit>) -> Result<(), LogError> {
        self.of.hand_over(commits)
    }

    fn conclude(&mut self) -> Result<(), LogError> {
        self.of.conclude()
    }

    fn settle(&mut self) -> Result<(), LogError> {
        self.of.settle()
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.reader.clone())
    }

    fn published(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.of.published(topic, partition)
    }

    fn end(&self, partition: u32) -> Result<i64, LogError> {
        if partition == 0 && self.reader.faults.is_silent.load(Ordering::SeqCst) {
            self.reader.faults.asked.fetch_add(1, Ordering::SeqCst);
            return Err(LogError::Kafka { operation: "asking".into(), why: "it has no leader".into() });
        }
        self.of.end(partition)
    }

    fn pause(&mut self, partition: u32) -> Result<(), LogError> {
        self.of.pause(partition)
    }

    fn resume(&mut self, partition: u32, next: i64, ends: OutputEnds) -> Result<(), LogError> {
        if partition == 0 && self.reader.faults.is_lost.load(Ordering::SeqCst) {
            self.reader.faults.is_revoked.store(true, Ordering::SeqCst);
            return Err(LogError::Aborted { why: "it joins anew".into() });
        }
        self.of.resume(partition, next, ends)
    }

    fn append(&mut self, partition: u32, key: &[u8], value: &[u8]) -> Result<i64, LogError> {
        self.of.append(partition, key, value)
    }
}

/// Two partitions; the state of the first is lost, and can't be brought up as long as the log is held up.
struct Company {
    // Dropped in this order.
    worker: Worker<DisturbedLog>,
    log: EmbeddedLog,
    faults: Arc<Faults>,
    told: Arc<Mutex<BTreeMap<u32, Holding>>>,
    _folder: tempfile::TempDir,
}

/// Accounts of a partition.
fn accounts(partition: u32) -> Vec<String> {
    (1..).map(|n| n.to_string()).filter(|account| partition_of(account, 2) == partition).take(RECORDS).collect()
}

fn append(log: &EmbeddedLog, partition: u32) {
    let event = |account: &String| {
        let settings = AccountSettings { updated_at: now(), ..AccountSettings::defaults(AccountId::parse(account).unwrap()) };
        Input { account: account.clone(), value: encode_event(&Event::AccountSettings(settings)), headers: Vec::new() }
    };
    let appended = log.appender();
    let appended = appended.append_all(accounts(partition).iter().map(event).collect());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(appended).unwrap();
}

impl Company {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("callsieve-meanwhile").tempdir_in(common::shared_memory()).unwrap();
        let engine = Engine::new(&DatabaseOptions { cache_bytes: 8 << 20, write_buffer_bytes: 16 << 20, ..DatabaseOptions::default() });
        let options = EmbeddedOptions { partitions: 2, retention: Retention::default(), clock: system_clock() };
        let log = EmbeddedLog::open(folder.path(), &engine, &options).unwrap();
        let databases = [log.database(0).unwrap(), log.database(1).unwrap()];
        let of = databases.clone();
        let mut first = Worker::open(log.worker(&[0, 1]).unwrap(), now, move |partition| Ok(of[partition as usize].clone()), |_, _| {}).unwrap();
        append(&log, 0);
        while first.turn(Duration::ZERO).unwrap() > 0 {}
        drop(first);
        replace_state(&databases[0], &[]);

        let faults = Arc::new(Faults { held_up: AtomicBool::new(true), ..Faults::default() });
        let told: Arc<Mutex<BTreeMap<u32, Holding>>> = Arc::default();
        let reader = DisturbedReader { of: log.reader(), faults: faults.clone() };
        let disturbed = DisturbedLog { of: log.worker(&[0, 1]).unwrap(), reader };
        let telling = told.clone();
        let report = move |partition, holding| drop(telling.lock().unwrap().insert(partition, holding));
        let worker = Worker::new(disturbed, now, move |partition| Ok(databases[partition as usize].clone()), report);
        Self { worker, log, faults, told, _folder: folder }
    }

    fn turn_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
            self.worker.turn(Duration::from_millis(1)).unwrap();
        }
    }

    fn holding(&self, partition: u32) -> Option<Holding> {
        self.told.lock().unwrap().get(&partition).cloned()
    }

    fn is_up(&self, partition: u32) -> bool {
        matches!(self.holding(partition), Some(Holding::Up(_)))
    }

    fn position(&self, partition: u32) -> i64 {
        self.log.reader().committed(partition).unwrap().map_or(0, |committed| committed.position.next)
    }

    /// The other partition is up and works, while the first one is being read.
    fn works_meanwhile(&mut self) {
        append(&self.log, 0);
        append(&self.log, 1);
        self.turn_until("the other partition works", |company| {
            company.position(1) == RECORDS as i64 && company.faults.reads.load(Ordering::SeqCst) > 3
        });
        assert!(matches!(self.holding(0), Some(Holding::BringingUp { .. })), "{:?}", self.holding(0));
        assert_eq!(self.position(0), RECORDS as i64, "nothing of the first is stepped");
        assert!(!self.faults.polled.lock().unwrap().contains(&0), "nor polled");
    }
}

#[test]
fn a_partition_that_is_brought_up_holds_up_no_others_and_joins_when_it_is_up() {
    let mut company = Company::new();
    company.works_meanwhile();
    company.faults.held_up.store(false, Ordering::SeqCst);
    company.turn_until("the first works, too", |company| company.is_up(0) && company.position(0) == 2 * RECORDS as i64);
    assert_eq!(company.worker.partitions().count(), 2);
}

#[test]
fn a_failure_that_passes_is_tried_again_and_disturbs_nobody() {
    let mut company = Company::new();
    company.faults.held_up.store(false, Ordering::SeqCst);
    company.turn_until("the other is up", |company| company.is_up(1));
    company.faults.fail.store(3, Ordering::SeqCst);
    company.faults.is_revoked.store(true, Ordering::SeqCst);
    company.turn_until("the first is gone", |company| matches!(company.holding(0), Some(Holding::Closed)));
    replace_state(&company.log.database(0).unwrap(), &[]);
    let before = company.told.clone();
    company.faults.is_revoked.store(false, Ordering::SeqCst);
    company.turn_until("the first is up", |company| {
        assert!(matches!(before.lock().unwrap().get(&1), Some(Holding::Up(_))), "the other stays up");
        company.is_up(0)
    });
    assert_eq!(company.faults.fail.load(Ordering::SeqCst), 0);
}

#[test]
fn a_revoked_partition_is_let_go_of_though_it_is_not_up_yet() {
    let mut company = Company::new();
    company.works_meanwhile();
    let database = company.log.database(0).unwrap();
    // The log's, this one, and one that opens it anew each time.
    let handles = Arc::strong_count(&database);
    company.faults.is_revoked.store(true, Ordering::SeqCst);
    // The group is answered by the poll after the one that told of it.
    company.worker.turn(Duration::ZERO).unwrap();
    assert!(matches!(company.holding(0), Some(Holding::Closed)), "{:?}", company.holding(0));
    assert!(Arc::strong_count(&database) < handles, "nobody has it open");
    assert!(company.is_up(1));
    // And it is brought up when it comes back.
    company.faults.held_up.store(false, Ordering::SeqCst);
    company.faults.is_revoked.store(false, Ordering::SeqCst);
    company.turn_until("it is up", |company| company.is_up(0));
}

#[test]
fn a_partition_that_is_up_and_lost_before_it_is_taken_up_is_nobodys() {
    let mut company = Company::new();
    company.faults.held_up.store(false, Ordering::SeqCst);
    company.faults.is_lost.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    while company.worker.turn(Duration::from_millis(1)).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it comes up");
    }
    company.worker.begin_again();
    assert!(matches!(company.holding(0), Some(Holding::Closed)), "{:?}", company.holding(0));
    company.turn_until("the other is up again", |company| company.is_up(1));
    company.faults.is_lost.store(false, Ordering::SeqCst);
    company.faults.is_revoked.store(false, Ordering::SeqCst);
    company.turn_until("it comes back", |company| company.is_up(0));
}

/// Time passes on the others; and on the silent one, too, when it is heard again.
#[test]
fn a_partition_whose_broker_is_silent_takes_no_ticks_from_the_others() {
    let mut company = Company::new();
    company.faults.held_up.store(false, Ordering::SeqCst);
    company.turn_until("both are up", |company| company.is_up(0) && company.is_up(1));
    company.faults.is_silent.store(true, Ordering::SeqCst);
    for partition in [0, 1] {
        let simulated = (1..).map(common::company).find(|simulated| partition_of(common::account(simulated).as_str(), 2) == partition).unwrap();
        let account = common::account(&simulated);
        let call = simulated.hours(now() - HOUR_MS, 1, 20).remove(0);
        let mut events = vec![common::completed(&simulated)];
        for notification in &call.notifications {
            let mut json = String::new();
            notification.write_for("sub-1", "101", &mut json);
            let asked = Asked { account: Some(&account), received_at: Some(now()), country: Country::DEFAULT, history: false };
            events.extend(read_document(json.as_bytes(), &asked).unwrap().events);
        }
        let input = |event: &Event| Input { account: account.to_string(), value: encode_event(event), headers: Vec::new() };
        let appender = company.log.appender();
        let appended = appender.append_all(events.iter().map(input).collect());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(appended).unwrap();
    }
    // Nothing comes any more, so only a tick can end the calls.
    let verdicts = |company: &Company, partition| company.log.reader().end(Topic::CallVerdicts, partition).unwrap();
    company.turn_until("the other has its verdict", |company| verdicts(company, 1) > 0);
    assert_eq!(verdicts(&company, 0), 0);
    for _ in 0..500 {
        company.worker.turn(Duration::from_millis(1)).unwrap();
    }
    let asked = company.faults.asked.load(Ordering::SeqCst);
    assert!((1..100).contains(&asked), "the worker asks once a second, not with each of its turns: {asked} times");
    company.faults.is_silent.store(false, Ordering::SeqCst);
    company.turn_until("the first has its own", |company| verdicts(company, 0) > 0);
}

#[test]
fn a_worker_that_ends_cuts_off_what_it_brings_up() {
    let mut company = Company::new();
    company.works_meanwhile();
    let Company { worker, faults, told, .. } = company;
    drop(worker);
    assert!(matches!(told.lock().unwrap().get(&0), Some(Holding::Closed)));
    let reads = faults.reads.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(faults.reads.load(Ordering::SeqCst), reads, "nobody reads on");
}
