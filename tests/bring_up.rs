//! What a copy of the state must still know after a lost disk or from an old copy, with no call log that would heal what it forgot.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use callsieve::event::{
    AccountId, CallLegs, CallSource, CallVerdict, Direction, Endpoint, Event, Leg, LegId, Media, Millis, NumberKind, NumberQuery, NumbersObserved,
    ObservedNumber, SessionId, SnapshotCompleted, Verdict, decode, encode_event,
};
use callsieve::log::embedded::{EmbeddedLog, EmbeddedOptions, EmbeddedWorker, Retention};
use callsieve::log::{Appender, Input, Reader, Topic};
use callsieve::roles::held::Holding;
use callsieve::roles::partition::Partition;
use callsieve::roles::processor::Worker;
use callsieve::state::database::{Database, DatabaseOptions, Engine, Family};
use common::copy::{Row, copy_state, replace_state};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ACCOUNT: &str = "809646016";
const ALICE: &str = "+12055550101";
const BOB: &str = "+12055550102";
/// The company's too, but listed late.
const CAROL: &str = "+12055550103";
const CUSTOMER: &str = "+14155550123";
const T0: Millis = 1_700_000_000_000;
const S: Millis = 1_000;
const MIN: Millis = 60 * S;
const H: Millis = 60 * MIN;
const D: Millis = 24 * H;
/// Far more than any backlog here takes.
const MOST_TURNS: usize = 10_000;

thread_local! {
    static NOW: Cell<Millis> = const { Cell::new(T0) };
}

fn now() -> Millis {
    NOW.with(Cell::get)
}

struct Company {
    folder: tempfile::TempDir,
    engine: Engine,
    clock: Arc<AtomicI64>,
    running: Option<(EmbeddedLog, Worker<EmbeddedWorker>)>,
    /// What was said of how far bringing up was, the last time.
    progress: Arc<Mutex<Vec<(u64, u64)>>>,
}

impl Company {
    /// A company that lists Alice and Bob; its gate is closed still.
    fn gated() -> Self {
        NOW.with(|now| now.set(T0));
        let engine = Engine::new(&DatabaseOptions { cache_bytes: 8 << 20, write_buffer_bytes: 16 << 20, background_jobs: 1, write_ahead_log: true });
        let mut company =
            Self { folder: tempfile::tempdir().unwrap(), engine, clock: Arc::new(AtomicI64::new(T0)), running: None, progress: Arc::default() };
        company.start();
        company.numbers(&[ALICE, BOB]);
        company
    }

    fn new() -> Self {
        let mut company = Self::gated();
        company.complete();
        company
    }

    fn start(&mut self) {
        let clock = self.clock.clone();
        let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: Arc::new(move || clock.load(Ordering::SeqCst)) };
        let log = EmbeddedLog::open(self.folder.path(), &self.engine, &options).unwrap();
        let database = log.database(0).unwrap();
        self.progress.lock().unwrap().clear();
        let progress = self.progress.clone();
        let report = move |_, holding| {
            // Without records it only says that it begins.
            if let Holding::BringingUp { done, total: total @ 1.. } = holding {
                progress.lock().unwrap().push((done, total));
            }
        };
        let worker = Worker::open(log.worker(&[0]).unwrap(), now, move |_| Ok(database.clone()), report).unwrap();
        self.running = Some((log, worker));
    }

    fn append(&self, events: impl IntoIterator<Item = Event>) {
        let input = |event: Event| Input { account: ACCOUNT.into(), value: encode_event(&event), headers: Vec::new() };
        let appender = self.running.as_ref().unwrap().0.appender();
        let appended = appender.append_all(events.into_iter().map(input).collect());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(appended).unwrap();
    }

    fn numbers(&mut self, numbers: &[&str]) {
        let observed = |n: &&str| ObservedNumber {
            number: (*n).into(),
            kind: NumberKind::Phone,
            extension_id: None,
            usage_type: None,
            contact_account_id: None,
        };
        let numbers = numbers.iter().map(observed).collect();
        let event = NumbersObserved { account_id: account(), query: NumberQuery::PhoneNumbers, observed_at: now(), sync_id: None, numbers };
        self.append([Event::NumbersObserved(event)]);
    }

    fn complete(&mut self) {
        let completed = SnapshotCompleted { account_id: account(), sync_id: "1".into(), completed_at: now(), numbers_seen: 0 };
        self.append([Event::SnapshotCompleted(completed)]);
    }

    /// One turn of the worker: a batch is stepped and committed.
    fn turn(&mut self) -> usize {
        self.running.as_mut().unwrap().1.turn(Duration::ZERO).unwrap()
    }

    fn work(&mut self) {
        let rests = (0..MOST_TURNS).any(|_| self.turn() == 0 && !self.running.as_ref().unwrap().1.partitions().any(Partition::has_due_work));
        assert!(rests, "the worker comes to no rest in {MOST_TURNS} turns, at {}", now());
    }

    fn pass(&mut self, time: Millis, step: Millis) {
        let until = now() + time;
        while now() < until {
            NOW.with(|now| now.set((now.get() + step).min(until)));
            self.clock.store(now(), Ordering::SeqCst);
            self.work();
        }
    }

    /// Other calls, one a minute: with them the low-water mark moves on.
    fn others(&mut self, time: Millis) {
        for n in 0..time / MIN {
            self.append([said(&format!("s-other-{n}"), "p-1", ALICE, BOB, "Disconnected")]);
            self.pass(MIN, MIN);
        }
    }

    fn database(&self) -> Arc<Database> {
        self.running.as_ref().unwrap().0.database(0).unwrap()
    }

    fn copy(&self) -> Vec<Row> {
        copy_state(&self.database())
    }

    /// The process ends; when it starts again its state is what `copy` holds.
    fn restart_with(&mut self, copy: &[Row]) {
        let database = self.database();
        self.running = None;
        replace_state(&database, copy);
        drop(database);
        self.start();
    }

    /// What `call-verdicts` has been told, in order: sessions with their verdicts, or that those are gone.
    fn published(&self) -> Vec<(String, Option<CallVerdict>)> {
        let reader = self.running.as_ref().unwrap().0.reader();
        let (mut next, end) = (0, reader.end(Topic::CallVerdicts, 0).unwrap());
        let mut published = Vec::new();
        while next < end {
            let read = reader.read(Topic::CallVerdicts, 0, next, 10_000).unwrap();
            assert!(read.next > next, "reading goes on at {next}");
            let session = |key: &[u8]| std::str::from_utf8(key).unwrap().split_once('/').unwrap().1.to_owned();
            published.extend(read.records.iter().map(|record| (session(&record.key), record.value.as_deref().map(|value| decode(value).unwrap()))));
            next = read.next;
        }
        published
    }

    fn newest(&self) -> BTreeMap<String, CallVerdict> {
        let newest: BTreeMap<String, Option<CallVerdict>> = self.published().into_iter().collect();
        newest.into_iter().filter_map(|(session, verdict)| Some((session, verdict?))).collect()
    }

    #[track_caller]
    fn verdict(&self, session: &str) -> (Verdict, i32) {
        let newest = self.newest();
        let verdict = newest.get(session).expect("the session has its verdict");
        (verdict.verdict, verdict.revision)
    }
}

fn account() -> AccountId {
    AccountId::parse(ACCOUNT).unwrap()
}

fn said(session: &str, leg: &str, from: &str, to: &str, status: &str) -> Event {
    let side = |number: &str| Endpoint { number: Some(number.into()), ..Endpoint::default() };
    let leg = Leg {
        leg_id: LegId::parse(leg).unwrap(),
        direction: Direction::Inbound,
        extension_id: None,
        from: side(from),
        to: side(to),
        status: Some(status.into()),
        reason: None,
        leg_type: None,
        peer_session_id: None,
        recorded: false,
    };
    Event::CallLegs(CallLegs {
        account_id: account(),
        session_id: SessionId::parse(session).unwrap(),
        legacy_session_id: None,
        source: CallSource::Webhook,
        sequence: None,
        occurred_at: now(),
        received_at: now(),
        origin: None,
        media: Media::Voice,
        is_final: false,
        ended_at: None,
        legs: [leg].into(),
    })
}

/// A customer was heard of, then the disk was lost, then the rest of the call came.
fn customer_then_lost_disk_then_end(waits: Millis) {
    let mut company = Company::new();
    company.append([said("s-1", "p-1", CUSTOMER, ALICE, "Disconnected"), said("s-1", "p-2", ALICE, BOB, "Answered")]);
    company.work();
    company.others(waits);
    company.restart_with(&[]);
    company.append([said("s-1", "p-2", ALICE, BOB, "Disconnected")]);
    company.work();
    company.pass(MIN, S);
    assert_eq!(company.verdict("s-1"), (Verdict::External, 1));
}

#[test]
fn facts_that_are_published_nowhere_come_from_the_log() {
    customer_then_lost_disk_then_end(MIN);
}

#[test]
fn facts_that_have_waited_long_come_from_open_calls() {
    // Long before the low-water mark.
    customer_then_lost_disk_then_end(3 * H);
}

#[test]
fn an_open_call_that_nothing_is_heard_of_after_a_lost_disk_gets_its_verdict() {
    let mut company = Company::new();
    company.append([said("s-1", "p-1", CUSTOMER, ALICE, "Answered")]);
    company.work();
    company.pass(H, MIN);
    company.restart_with(&[]);
    company.pass(30 * H, H);
    assert_eq!(company.verdict("s-1"), (Verdict::External, 1));
}

#[test]
fn a_verdict_replaces_the_open_row_of_an_old_copy() {
    let mut company = Company::new();
    company.append([said("s-1", "p-1", ALICE, BOB, "Answered")]);
    company.work();
    let copy = company.copy();
    company.append([said("s-1", "p-2", CUSTOMER, ALICE, "Disconnected"), said("s-1", "p-1", ALICE, BOB, "Disconnected")]);
    company.work();
    company.pass(MIN, S);
    assert_eq!(company.verdict("s-1"), (Verdict::External, 1));
    company.others(H);
    company.restart_with(&copy);
    company.pass(30 * H, H);
    assert_eq!(company.verdict("s-1"), (Verdict::External, 1), "what the verdict contains is judged by");
}

#[test]
fn a_call_that_was_forgotten_is_not_judged_again_from_an_old_copy_that_has_it_open() {
    let mut company = Company::new();
    company.append([said("s-1", "p-1", CUSTOMER, ALICE, "Answered")]);
    company.work();
    let copy = company.copy();
    company.append([said("s-1", "p-1", CUSTOMER, ALICE, "Disconnected")]);
    company.work();
    company.pass(MIN, S);
    // What is forgotten goes with the next record.
    company.pass(402 * D, D);
    company.others(MIN);
    let told = |company: &Company| {
        let of_it = company.published().into_iter().filter(|(session, _)| session == "s-1");
        of_it.map(|(_, verdict)| verdict.map(|v| v.revision)).collect::<Vec<_>>()
    };
    assert_eq!(told(&company), [Some(1), None]);
    company.restart_with(&copy);
    company.pass(2 * D, H);
    company.others(2 * MIN);
    assert_eq!(told(&company), [Some(1), None]);
    assert!(company.copy().iter().all(|(family, ..)| *family != Family::Open), "nothing of it is left");
}

#[test]
fn bringing_up_says_how_many_records_are_read_of_how_many() {
    let mut company = Company::new();
    company.others(H);
    let copy = company.copy();
    company.restart_with(&copy);
    assert_eq!(*company.progress.lock().unwrap(), [], "a copy that is up to date has nothing to read");
    company.restart_with(&[]);
    let progress = company.progress.lock().unwrap();
    let (done, total) = *progress.last().unwrap();
    // 60 verdicts, 2 numbers, and the account at least.
    assert!(done == total && total > 62, "{done} of {total}");
    assert!(progress.is_sorted() && progress.iter().all(|(done, of)| done <= of && *of == total), "{progress:?}");
}

/// More calls than one step publishes of.
const MANY: usize = 1_100;

fn many_calls(company: &Company) {
    company.append((0..MANY).map(|n| said(&format!("s-{n}"), "p-1", CAROL, ALICE, "Disconnected")));
}

#[test]
fn a_number_that_many_calls_wait_for_goes_on_after_a_lost_disk_or_from_an_old_copy() {
    for is_old_copy in [false, true] {
        let mut company = Company::new();
        many_calls(&company);
        company.work();
        company.pass(MIN, 10 * S);
        let copy = if is_old_copy { company.copy() } else { Vec::new() };
        company.numbers(&[CAROL]);
        company.turn();
        let done = company.newest().values().filter(|verdict| verdict.verdict == Verdict::Internal).count();
        assert!(done < MANY, "some of it is left: {done}");
        company.restart_with(&copy);
        company.pass(MIN, 10 * S);
        assert_eq!(company.newest().values().filter(|verdict| verdict.verdict == Verdict::Internal).count(), MANY);
    }
}

#[test]
fn a_gate_that_opens_for_many_calls_goes_on_from_an_old_copy() {
    let mut company = Company::gated();
    many_calls(&company);
    company.work();
    company.pass(MIN, 10 * S);
    let copy = company.copy();
    company.complete();
    company.turn();
    assert!(company.newest().len() < MANY, "some of it is left");
    company.restart_with(&copy);
    company.pass(MIN, 10 * S);
    assert_eq!(company.newest().len(), MANY);
}
