//! Simulated companies with loss, duplicates, reordering, crashes and lost disks, compared with the truth that is known by
//! construction. `CALLSIEVE_SIMULATION_HOURS` company hours (a few by default), from `CALLSIEVE_SIMULATION_SEED` on; a failure
//! names the seed, and that seed alone fails again.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use callsieve::event::{AccountId, CallVerdict, Event, Millis, SnapshotCompleted, Verdict, decode, encode_event};
use callsieve::judge::number::Country;
use callsieve::log::embedded::{EmbeddedLog, EmbeddedOptions, EmbeddedWorker, Retention};
use callsieve::log::{Appender, Input, Log, Topic};
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::roles::processor::Worker;
use callsieve::simulate::{AccountLists, Company, CompanyConfig, Faults, disturb};
use callsieve::state::database::{DatabaseOptions, Engine};
use common::copy::{Row, copy_state, replace_state};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
const DAY: Millis = 24 * HOUR;
/// Hours that one company is watched for.
const HOURS_EACH: u32 = 6;
const CALLS_PER_HOUR: u32 = 25;
/// Far more than any backlog here takes.
const MOST_TURNS: usize = 10_000;

thread_local! {
    static NOW: Cell<Millis> = const { Cell::new(0) };
}

fn now() -> Millis {
    NOW.with(Cell::get)
}

/// One process's run over the partition's folder, until it crashes.
struct Running {
    log: EmbeddedLog,
    worker: Worker<EmbeddedWorker>,
}

struct Simulation<'a> {
    folder: &'a Path,
    engine: &'a Engine,
    clock: Arc<AtomicI64>,
    account: AccountId,
    running: Option<Running>,
    rng: ChaCha8Rng,
    old_copy: Option<Vec<Row>>,
    faults: BTreeMap<&'static str, u32>,
}

impl<'a> Simulation<'a> {
    fn start(&mut self) {
        let clock = self.clock.clone();
        let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: Arc::new(move || clock.load(Ordering::SeqCst)) };
        let log = EmbeddedLog::open(self.folder, self.engine, &options).expect("the log opens");
        let worker = log.worker(&[0]).expect("the partition is free");
        let database = log.database(0).expect("there is a partition");
        let worker = Worker::open(worker, now, move |_| Ok(database.clone()), |_, _| {}).expect("the copy is brought up");
        self.running = Some(Running { log, worker });
    }

    fn set_time(&mut self, at: Millis) {
        self.clock.fetch_max(at, Ordering::SeqCst);
        NOW.with(|now| now.set(now.get().max(at)));
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it runs")
    }

    fn append(&mut self, events: impl IntoIterator<Item = Event>) {
        let inputs: Vec<Input> =
            events.into_iter().map(|event| Input { account: self.account.to_string(), value: encode_event(&event), headers: Vec::new() }).collect();
        let appender = self.running().log.appender();
        futures_executor(appender.append_all(inputs)).expect("it is durable");
    }

    fn document(&mut self, json: &[u8], history: bool) {
        let account = self.account.clone();
        let asked = Asked { account: Some(&account), received_at: Some(now()), country: Country::DEFAULT, history };
        let document = read_document(json, &asked).expect("the simulated RingCentral sends what RingCentral sends");
        assert!(document.unreadable.is_empty());
        self.append(document.events);
    }

    /// Works until nothing is left to do at this time.
    fn work(&mut self) {
        for _ in 0..MOST_TURNS {
            let running = self.running();
            let stepped = running.worker.turn(Duration::ZERO).expect("the worker turns");
            let is_due = running.worker.partitions().any(callsieve::roles::partition::Partition::has_due_work);
            if stepped == 0
                && !is_due
                && running.log.reader().end(Topic::Events, 0).unwrap() <= running.worker.partitions().next().unwrap().position().next
            {
                return;
            }
        }
        panic!("the worker comes to no rest in {MOST_TURNS} turns, at {}", now());
    }

    /// Time passes in steps, so that ticks let deadlines expire.
    fn pass(&mut self, time: Millis, step: Millis) {
        let until = now() + time;
        while now() < until {
            self.set_time((now() + step).min(until));
            self.work();
        }
    }

    /// What may happen to a process and its disk at any moment.
    fn trouble(&mut self) {
        let kind = self.rng.random_range(0..6);
        if kind == 0 {
            // Between poll and apply: what was polled is neither committed nor applied.
            let polled = self.running().worker.log().poll(50, Duration::ZERO).expect("it polls");
            drop(polled);
        }
        let database = self.running().log.database(0).unwrap();
        if kind == 1 || self.old_copy.is_none() {
            self.old_copy = Some(copy_state(&database));
        }
        self.running = None;
        match kind {
            2 | 3 => replace_state(&database, &[]),
            4 => replace_state(&database, self.old_copy.as_deref().unwrap_or_default()),
            _ => {}
        }
        drop(database);
        let name = ["crash between poll and apply", "crash", "lost disk", "lost disk", "old copy", "crash"][kind];
        *self.faults.entry(name).or_default() += 1;
        self.start();
    }
}

fn futures_executor<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// One company's hours. Panics with what differs from the truth.
fn simulate(seed: u64, engine: &Engine) -> (u32, usize, BTreeMap<&'static str, u32>) {
    let folder = tempfile::Builder::new().prefix("callsieve-simulation").tempdir_in(common::shared_memory()).expect("a folder");
    let config = CompanyConfig { users: 12, days: 20, changes_per_week: 60, ..CompanyConfig::default() };
    let company = Company::generate(seed, &config);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5157);
    let start = config.start + DAY + Millis::from(rng.random_range(0..240)) * HOUR;
    let calls = company.hours(start, HOURS_EACH, CALLS_PER_HOUR);
    let begins = start.div_euclid(HOUR) * HOUR;
    let account = AccountId::parse(&company.account_id.to_string()).unwrap();
    let clock = Arc::new(AtomicI64::new(begins - MINUTE));
    NOW.with(|now| now.set(begins - MINUTE));
    let mut simulation = Simulation { folder: folder.path(), engine, clock, account, running: None, rng, old_copy: None, faults: BTreeMap::new() };
    simulation.start();

    // The gate opens before, during or after the calls.
    let gate_opens = begins + Millis::from(simulation.rng.random_range(-1..i64::from(HOURS_EACH))) * HOUR;
    let mut gate = false;
    let loss = if seed.is_multiple_of(3) { 0.0 } else { 0.05 };
    let faults = Faults { loss, duplication: 0.1, reorder: 0.15, max_delay_ms: 40_000 };
    let mut notifications: Vec<_> = calls.iter().flat_map(|call| call.notifications.iter().cloned()).collect();
    notifications.extend(company.directory_notifications(begins, begins + Millis::from(HOURS_EACH) * HOUR));
    notifications.sort_by_key(|notification| notification.due);
    let mut arriving = disturb(notifications, &faults, &mut simulation.rng);
    arriving.sort_by_key(|notification| notification.due);

    let mut next_lists = begins - MINUTE;
    for (n, notification) in arriving.iter().enumerate() {
        simulation.set_time(notification.due);
        if now() >= next_lists {
            lists(&mut simulation, &company);
            next_lists = now() + 3 * HOUR;
        }
        if !gate && now() >= gate_opens {
            gate = true;
            complete(&mut simulation);
        }
        let mut json = String::new();
        notification.write_for("sub-1", "101", &mut json);
        simulation.document(json.as_bytes(), false);
        if simulation.rng.random_range(0..4) == 0 {
            simulation.work();
        }
        if simulation.rng.random_range(0..arriving.len().max(40) / 20) == 0 && n > 0 {
            simulation.trouble();
        }
    }
    // The call log heals what was lost, and arrives in pieces like everything else.
    simulation.pass(2 * MINUTE, 20 * SECOND);
    if !gate {
        complete(&mut simulation);
    }
    lists(&mut simulation, &company);
    let uri = AccountLists { company: &company, base: "https://platform.example", at: now() }.account_uri();
    for call in &calls {
        for record in &call.call_log_records {
            let json = serde_json::to_vec(&record.document(&uri, true)).unwrap();
            simulation.document(&json, false);
            if simulation.rng.random_range(0..400) == 0 {
                simulation.trouble();
            }
        }
    }
    simulation.pass(2 * MINUTE, 10 * SECOND);
    // Numbers are listed up to two hours after their first call.
    for _ in 0..9 {
        simulation.pass(15 * MINUTE, 5 * MINUTE);
        lists(&mut simulation, &company);
    }
    simulation.pass(4 * DAY, 6 * HOUR);
    simulation.trouble();
    simulation.pass(MINUTE, 10 * SECOND);

    let sessions = check(seed, &mut simulation, &calls);
    (HOURS_EACH, sessions, std::mem::take(&mut simulation.faults))
}

fn lists(simulation: &mut Simulation<'_>, company: &Company) {
    let documents = AccountLists { company, base: "https://platform.example", at: now() }.all();
    for document in documents {
        simulation.document(&serde_json::to_vec(&document).unwrap(), true);
    }
}

fn complete(simulation: &mut Simulation<'_>) {
    let completed = SnapshotCompleted { account_id: simulation.account.clone(), sync_id: "1".into(), completed_at: now(), numbers_seen: 0 };
    simulation.append([Event::SnapshotCompleted(completed)]);
}

/// Every session has its verdict, the newest one is true, and each revision was published once.
fn check(seed: u64, simulation: &mut Simulation<'_>, calls: &[callsieve::simulate::SimulatedCall]) -> usize {
    let reader = simulation.running().log.reader();
    let (mut next, end) = (0, reader.end(Topic::CallVerdicts, 0).unwrap());
    let mut newest: BTreeMap<String, CallVerdict> = BTreeMap::new();
    while next < end {
        let read = reader.read(Topic::CallVerdicts, 0, next, 10_000).unwrap();
        for record in read.records {
            let verdict: CallVerdict = decode(&record.value.expect("nothing is forgotten, no fax is sent")).unwrap();
            let revision = newest.get(verdict.session_id.as_str()).map_or(0, |known| known.revision);
            assert_eq!(verdict.revision, revision + 1, "seed {seed}: revisions of {} at offset {}", verdict.session_id, record.offset);
            newest.insert(verdict.session_id.to_string(), verdict);
        }
        next = read.next;
    }
    assert_eq!(reader.end(Topic::DeadLetters, 0).unwrap(), 0, "seed {seed}: dead letters");
    let mut sessions = 0;
    for call in calls {
        for truth in &call.truth.sessions {
            sessions += 1;
            let verdict = newest.get(&truth.session).unwrap_or_else(|| panic!("seed {seed}: {} ({:?}) has no verdict", truth.session, call.shape));
            let expected = if truth.external { Verdict::External } else { Verdict::Internal };
            assert_eq!(
                verdict.verdict, expected,
                "seed {seed}: {} ({:?}); truth {truth:?}; endpoints {:#?}",
                truth.session, call.shape, verdict.endpoints
            );
            let linked: Vec<String> = verdict.linked_sessions.iter().map(ToString::to_string).collect();
            assert_eq!(linked, truth.linked, "seed {seed}: sessions linked with {} ({:?})", truth.session, call.shape);
        }
    }
    let known: std::collections::BTreeSet<&String> = calls.iter().flat_map(|call| call.truth.sessions.iter().map(|s| &s.session)).collect();
    for (session, verdict) in &newest {
        assert!(known.contains(session) || verdict.superseded_by.is_some(), "seed {seed}: {session} is no call of the company");
    }
    sessions
}

#[test]
fn simulated_companies_get_true_verdicts_whatever_happens() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let hours = setting("CALLSIEVE_SIMULATION_HOURS").unwrap_or(36);
    let first = setting("CALLSIEVE_SIMULATION_SEED").unwrap_or(1);
    let companies = hours.div_ceil(u64::from(HOURS_EACH));
    let engine = Engine::new(&DatabaseOptions { cache_bytes: 8 << 20, write_buffer_bytes: 16 << 20, background_jobs: 1, write_ahead_log: true });
    let (mut watched, mut sessions, mut faults) = (0, 0, BTreeMap::new());
    for seed in first..first + companies {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulate(seed, &engine)));
        let Ok((hours, judged, happened)) = outcome else {
            panic!("seed {seed} fails: CALLSIEVE_SIMULATION_SEED={seed} CALLSIEVE_SIMULATION_HOURS=1")
        };
        watched += hours;
        sessions += judged;
        for (kind, times) in happened {
            *faults.entry(kind).or_insert(0) += times;
        }
    }
    println!("{watched} company hours, {sessions} sessions, all verdicts true and none doubled; faults: {faults:?}");
}
