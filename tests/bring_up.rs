//! What a copy of the state must still know after a lost disk or from an old copy, with no call log that would heal what it forgot.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use callsieve::event::{
    AccountId, AccountRemoved, AccountSettings, CallLegs, CallSource, CallVerdict, Direction, Endpoint, Event, Leg, LegId, Media, Millis, NumberKind,
    NumberQuery, NumbersObserved, ObservedNumber, Rejudge, SessionId, SnapshotCompleted, Verdict, decode, encode_event,
};
use callsieve::log::embedded::{EmbeddedLog, EmbeddedOptions, EmbeddedWorker, Retention};
use callsieve::log::{Appender, Input, Topic, partition_of};
use callsieve::roles::held::Holding;
use callsieve::roles::partition::Partition;
use callsieve::roles::processor::Worker;
use callsieve::state::database::{Database, DatabaseOptions, Engine, Family};
use common::copy::{Row, copy_state, replace_state};
use compact_str::CompactString;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
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
    /// How many the log has; all of the company's is in the first.
    partitions: u32,
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
        Self::in_first_of(1)
    }

    fn in_first_of(partitions: u32) -> Self {
        assert_eq!(partition_of(ACCOUNT, partitions), 0);
        NOW.with(|now| now.set(T0));
        let engine = Engine::new(&DatabaseOptions { cache_bytes: 8 << 20, write_buffer_bytes: 16 << 20, background_jobs: 1, write_ahead_log: true });
        let folder = tempfile::Builder::new().prefix("callsieve-bring-up").tempdir_in(common::shared_memory()).unwrap();
        let mut company = Self { partitions, folder, engine, clock: Arc::new(AtomicI64::new(T0)), running: None, progress: Arc::default() };
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
        let options =
            EmbeddedOptions { partitions: self.partitions, retention: Retention::default(), clock: Arc::new(move || clock.load(Ordering::SeqCst)) };
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
        self.numbers_of_kind(numbers, NumberKind::Phone);
    }

    fn numbers_of_kind(&mut self, numbers: &[&str], kind: NumberKind) {
        let observed = |n: &&str| ObservedNumber { number: (*n).into(), kind, extension_id: None, usage_type: None, contact_account_id: None };
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
    Event::CallLegs(facts(session, leg, from, to, status))
}

/// A side is a number, or `number/extension id` with either part left out.
fn facts(session: &str, leg: &str, from: &str, to: &str, status: &str) -> CallLegs {
    let text = |text: &str| Some(CompactString::new(text)).filter(|text| !text.is_empty());
    let side = |side: &str| {
        let (number, extension_id) = side.split_once('/').unwrap_or((side, ""));
        Endpoint { number: text(number), extension_id: text(extension_id), extension_number: None }
    };
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
    CallLegs {
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
    }
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
fn facts_of_an_account_of_another_partition_are_never_taken_in() {
    let partitions = (2..).find(|partitions| partition_of(ACCOUNT, *partitions) == 0).unwrap();
    let stranger = (1..).map(|id: u32| id.to_string()).find(|account| partition_of(account, partitions) != 0).unwrap();
    let mut company = Company::in_first_of(partitions);
    company.complete();
    // While a call is open, what came after it is read again.
    let misplaced = CallLegs { account_id: AccountId::parse(&stranger).unwrap(), ..facts("s-2", "p-1", CUSTOMER, ALICE, "Disconnected") };
    company.append([said("s-1", "p-1", CUSTOMER, ALICE, "Answered"), Event::CallLegs(misplaced)]);
    company.work();
    let letters = company.running.as_ref().unwrap().0.reader().read(Topic::DeadLetters, 0, 0, 9).unwrap().records;
    let cause = String::from_utf8(letters[0].headers[0].1.clone()).unwrap();
    assert!(
        letters.len() == 1 && cause.contains(&format!("account {stranger} belongs to partition {}", partition_of(&stranger, partitions))),
        "{cause}"
    );
    company.restart_with(&[]);
    company.append([said("s-1", "p-1", CUSTOMER, ALICE, "Disconnected")]);
    // For so long an account's snapshot is waited for.
    company.pass(60 * H, H);
    assert_eq!(company.published().iter().map(|(session, _)| session.as_str()).collect::<Vec<_>>(), ["s-1"]);
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
fn a_clock_that_was_set_forward_and_back_keeps_no_call_waiting() {
    let mut company = Company::new();
    company.append([said("s-1", "p-1", ALICE, BOB, "Disconnected")]);
    company.work();
    // The worker's own; the log's goes on as before.
    NOW.with(|now| now.set(T0 + 2 * H));
    company.work();
    assert_eq!(company.newest().len(), 0);
    NOW.with(|now| now.set(T0));
    company.pass(10 * MIN, S);
    assert_eq!(company.verdict("s-1"), (Verdict::Internal, 1));
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

#[test]
fn a_record_from_after_a_removal_is_of_no_session_from_before_it() {
    let mut company = Company::new();
    let known_by = |legacy: &str| Some(CompactString::from(legacy));
    company.append([Event::CallLegs(CallLegs { legacy_session_id: known_by("9"), ..facts("s-1", "p-1", ALICE, BOB, "Answered") })]);
    company.work();
    // It goes to open-calls, so that a copy from nothing gets to know it.
    company.pass(11 * MIN, MIN);
    company.append([Event::AccountRemoved(AccountRemoved { account_id: account(), removed_at: now() })]);
    let record = CallLegs { source: CallSource::CallLog, is_final: true, ended_at: Some(now()), ..facts("legacy:9", "log:1:0", ALICE, BOB, "") };
    company.append([Event::CallLegs(record)]);
    company.complete();
    company.work();
    company.pass(MIN, S);
    for restarts in 0..2 {
        assert_eq!(company.newest().into_keys().collect::<Vec<_>>(), ["legacy:9"], "after {restarts} restarts");
        company.restart_with(&[]);
        company.pass(2 * D, H);
    }
}

#[test]
fn a_copy_from_nothing_that_finds_a_fax_judges_no_call_anew_that_was_judged_without_it() {
    let mut company = Company::new();
    company.append([Event::CallLegs(CallLegs { media: Media::Fax, ..facts("s-1", "p-1", ALICE, BOB, "Answered") })]);
    let mut linked = facts("s-2", "p-1", ALICE, BOB, "Disconnected");
    linked.legs[0].peer_session_id = Some("s-1".into());
    company.append([Event::CallLegs(linked)]);
    company.work();
    // The fax goes to open-calls.
    company.pass(11 * MIN, MIN);
    let settings = AccountSettings { filter_internal: true, ..AccountSettings::defaults(account()) };
    company.append([Event::AccountSettings(settings)]);
    company.work();
    company.restart_with(&[]);
    company.append([said("s-3", "p-1", ALICE, BOB, "Disconnected")]);
    company.work();
    company.pass(MIN, S);
    assert_eq!((company.verdict("s-2").1, company.verdict("s-3").1), (1, 1));
}

// ---- any history, cut anywhere ----

/// What a restarted process finds on its disk.
#[derive(Debug, Clone, Copy)]
enum Disk {
    Empty,
    /// As it was when a copy was last taken; empty before the first.
    OlderCopy,
    Current,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    filter_internal: bool,
    trust_extension_id: bool,
    /// One value in a history: by it a judged call takes a participant in or not, and a copy that is brought up knows the newest settings alone.
    records_all: bool,
}

impl Settings {
    fn event(self) -> Event {
        let Self { filter_internal, trust_extension_id, records_all } = self;
        let recorded_extensions = (!records_all).then(Vec::new);
        Event::AccountSettings(AccountSettings { filter_internal, trust_extension_id, recorded_extensions, ..AccountSettings::defaults(account()) })
    }
}

#[derive(Debug, Clone)]
enum Happens {
    Said(Saying),
    Number(&'static str, NumberKind),
    Settings(Settings),
    SnapshotCompleted,
    /// Settings follow at once.
    AccountRemoved(Settings),
    Rejudge(&'static str, i32),
    /// Time, in which the worker works. Without any, what was appended is left to it.
    Passes(Millis),
    CopyTaken,
    Restarted(Disk),
}

/// What is said of one leg.
#[derive(Clone)]
struct Saying {
    session: &'static str,
    leg: &'static str,
    from: &'static str,
    to: &'static str,
    status: &'static str,
    sequence: Option<i64>,
    peer: Option<&'static str>,
    legacy: Option<&'static str>,
    source: CallSource,
    media: Media,
}

/// One line, so that a failure shows the shortest history at a glance.
impl std::fmt::Debug for Saying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { session, leg, from, to, status, sequence, peer, legacy, source, media } = self;
        write!(f, "{session} {source:?} {media:?} seq {sequence:?} legacy {legacy:?} [{leg} {from} -> {to} {status} peer {peer:?}]")
    }
}

impl Saying {
    fn event(&self) -> Event {
        let mut facts = CallLegs {
            sequence: self.sequence,
            legacy_session_id: self.legacy.map(CompactString::from),
            source: self.source,
            media: self.media,
            ..facts(self.session, self.leg, self.from, self.to, self.status)
        };
        facts.legs[0].peer_session_id = self.peer.map(CompactString::from);
        if self.source != CallSource::Webhook || self.session.starts_with("legacy:") {
            facts.is_final = true;
            facts.ended_at = Some(now());
        }
        Event::CallLegs(facts)
    }
}

const SESSIONS: [&str; 4] = ["s-1", "s-2", "s-3", "legacy:9"];

fn arb_saying() -> impl Strategy<Value = Saying> {
    let of = |values: &'static [&'static str]| proptest::sample::select(values);
    let sides = of(&[ALICE, BOB, CAROL, CUSTOMER, "anonymous", "4591", "4591/56", "/57", "conference", "+1415555XXXX", "+12055550101/55", ""]);
    let source = prop_oneof![8 => Just(CallSource::Webhook), 1 => Just(CallSource::CallLog), 1 => Just(CallSource::SessionLookup)];
    let media = prop_oneof![8 => Just(Media::Voice), 1 => Just(Media::Fax)];
    let ids = (of(&SESSIONS), of(&["p-1", "p-2", "p-3"]), of(&["Setup", "Answered", "Disconnected", "Gone"]));
    let links = (prop::option::weighted(0.2, of(&["s-1", "s-2", "s-3", "s-never-seen"])), prop::option::weighted(0.2, Just("9")));
    (ids, sides.clone(), sides, prop::option::of(2..6i64), links, source, media).prop_map(
        |((session, leg, status), from, to, sequence, (peer, legacy), source, media)| {
            // Sessions that share a legacy id are one call: the one that may be a fax shares it with no voice call.
            let may_be_fax = session == "s-3";
            let (legacy, media) = if may_be_fax { (None, media) } else { (legacy, Media::Voice) };
            Saying { session, leg, from, to, status, sequence, peer, legacy, source, media }
        },
    )
}

fn arb_history() -> impl Strategy<Value = Vec<Happens>> {
    any::<bool>().prop_flat_map(|records_all| {
        let number = proptest::sample::select(&[(CAROL, NumberKind::Phone), (CUSTOMER, NumberKind::Phone), ("4591", NumberKind::Extension)][..]);
        let settings = any::<(bool, bool)>().prop_map(move |(filter_internal, trust_extension_id)| Settings {
            filter_internal,
            trust_extension_id,
            records_all,
        });
        let happens = prop_oneof![
            24 => arb_saying().prop_map(Happens::Said),
            2 => number.prop_map(|(number, kind)| Happens::Number(number, kind)),
            1 => settings.clone().prop_map(Happens::Settings),
            2 => Just(Happens::SnapshotCompleted),
            1 => settings.clone().prop_map(Happens::AccountRemoved),
            1 => (proptest::sample::select(&SESSIONS[..]), 1..3).prop_map(|(session, revision)| Happens::Rejudge(session, revision)),
            // A settle time, what leads to open-calls, the idle limit and the longest wait.
            8 => prop_oneof![3 => 0..5 * S, 2 => 0..40 * S, 3 => 0..30 * MIN, 1 => 0..50 * H].prop_map(Happens::Passes),
            3 => Just(Happens::CopyTaken),
            6 => prop_oneof![Just(Disk::Empty), Just(Disk::OlderCopy), Just(Disk::Current)].prop_map(Happens::Restarted),
        ];
        (settings.prop_map(Happens::Settings), prop::collection::vec(happens, 1..40)).prop_map(|(first, rest)| [vec![first], rest].concat())
    })
}

/// Lives through a history, and until nothing is left that time could bring about.
fn live(history: &[Happens], is_interrupted: bool) -> Company {
    let mut company = Company::gated();
    let mut older = Vec::new();
    for happens in history {
        match happens {
            Happens::Said(saying) => company.append([saying.event()]),
            Happens::Number(number, kind) => company.numbers_of_kind(&[number], *kind),
            Happens::Settings(settings) => company.append([settings.event()]),
            Happens::SnapshotCompleted => company.complete(),
            Happens::AccountRemoved(settings) => {
                company.append([Event::AccountRemoved(AccountRemoved { account_id: account(), removed_at: now() }), settings.event()]);
            }
            Happens::Rejudge(session, revision) => {
                let session_id = SessionId::parse(session).unwrap();
                let rejudge = Rejudge { account_id: account(), session_id, expected_revision: *revision, replay_id: "1".into(), rules: None };
                company.append([Event::Rejudge(rejudge)]);
            }
            Happens::Passes(time) => company.pass(*time, (*time / 6).max(S)),
            Happens::CopyTaken if is_interrupted => older = company.copy(),
            Happens::Restarted(disk) if is_interrupted => {
                let rows = match disk {
                    Disk::Empty => Vec::new(),
                    Disk::OlderCopy => older.clone(),
                    Disk::Current => company.copy(),
                };
                company.restart_with(&rows);
            }
            Happens::CopyTaken | Happens::Restarted(_) => {}
        }
    }
    company.complete();
    company.work();
    company.pass(5 * D, 6 * H);
    company
}

/// What a revision is published for, of every call.
fn lasting(company: &Company) -> BTreeMap<String, String> {
    let of = |v: CallVerdict| {
        let judged = (v.verdict, v.disposition, v.snapshot_complete, v.superseded_by, v.linked_sessions, v.recorded_extensions);
        let endpoints: BTreeSet<String> =
            v.endpoints.iter().map(|e| format!("{:?}/{:?} {:?} {:?}", e.number, e.extension_id, e.standing, e.reason)).collect();
        format!("{judged:?} {endpoints:?} {:?} {:?}", v.call.links, v.call.legacy_session_ids)
    };
    company.newest().into_iter().map(|(session, verdict)| (session, of(verdict))).collect()
}

/// Revisions of a session count up from 1, each published once; after a tombstone they begin again.
fn revisions(company: &Company) -> Result<BTreeMap<String, Vec<i32>>, TestCaseError> {
    let mut revisions: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (session, verdict) in company.published() {
        let known = revisions.entry(session.clone()).or_default();
        let Some(verdict) = verdict else {
            known.clear();
            continue;
        };
        known.push(verdict.revision);
        prop_assert_eq!(usize::try_from(verdict.revision).unwrap(), known.len(), "revision of {}", session);
    }
    Ok(revisions)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").map_or(32, |cases| cases.parse().unwrap()), ..ProptestConfig::default() })]

    #[test]
    fn any_history_cut_anywhere_ends_in_the_same_newest_verdicts_and_none_is_lost_or_doubled(history in arb_history()) {
        let mut interrupted = live(&history, true);
        let judged = lasting(&interrupted);
        revisions(&interrupted)?;
        // Time is over: what is published already is all that a copy from nothing has to say.
        let published = interrupted.published().len();
        interrupted.restart_with(&[]);
        interrupted.pass(D, H);
        prop_assert_eq!(interrupted.published().len(), published, "published once more by a copy from nothing");
        let uninterrupted = live(&history, false);
        prop_assert_eq!(judged, lasting(&uninterrupted));
        revisions(&uninterrupted)?;
    }
}
