//! What a worker's view of the state shows must not depend on what of it is in memory.

use super::Store;
use super::bulk::Limits;
use super::database::{Database, DatabaseOptions, Engine, Family};
use super::keys::read_due_work;
use super::tables::verdicts_by_end;
use crate::event::*;
use crate::judge::{At, Output, View, step};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rocksdb::ReadOptions;
use std::sync::Arc;

const T0: Millis = 1_700_000_000_000;
const SESSIONS: u32 = 60;
const NUMBERS: u32 = 40;

/// A store in a folder of its own, and what the steps on it have published.
struct Subject {
    store: Store,
    published: Vec<Output>,
    _folder: tempfile::TempDir,
}

impl Subject {
    fn new(most_cached: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(&DatabaseOptions { cache_bytes: 1 << 20, write_buffer_bytes: 4 << 20, ..DatabaseOptions::default() });
        let database = Database::open(folder.path(), &engine, &[]).unwrap();
        Self { store: Store::open(Arc::new(database)).unwrap().caching(most_cached), published: Vec::new(), _folder: folder }
    }

    fn step(&mut self, at: At, event: &Event) {
        self.published.extend(step(&mut self.store, at, event).unwrap().outputs);
    }

    fn write(&mut self) {
        let batch = self.store.take_batch().unwrap();
        self.store.database().write(batch).unwrap();
    }
}

fn leg(id: &str, from: &str, to: &str, status: &str) -> Leg {
    let side = |number: &str| Endpoint { number: Some(number.into()), ..Endpoint::default() };
    Leg {
        leg_id: LegId::parse(id).unwrap(),
        direction: Direction::Inbound,
        extension_id: None,
        from: side(from),
        to: side(to),
        status: Some(status.into()),
        reason: None,
        leg_type: None,
        peer_session_id: None,
        recorded: false,
    }
}

/// What a notification says of one leg.
fn said(account: &AccountId, session: &str, at: Millis, leg: Leg) -> Event {
    Event::CallLegs(CallLegs { legs: [leg].into(), ..CallLegs::without_legs(account.as_str(), session, at) })
}

/// A call that is over.
fn over(account: &AccountId, session: &str, at: Millis) -> Event {
    said(account, session, at, leg("p-1", "+14155550142", "+12055550101", "Disconnected"))
}

#[test]
fn a_walk_by_end_passes_over_a_bounded_number_of_other_accounts_calls() {
    let [mine, other, busy, nobody] = ["5", "4", "6", "7"].map(|id| AccountId::parse(id).unwrap());
    let mut subject = Subject::new(usize::MAX);
    let mut offset = 0;
    let mut step = |event: &Event, time: Millis| {
        subject.step(At { offset, time }, event);
        offset += 1;
    };
    for account in [&mine, &other, &busy] {
        let completed = SnapshotCompleted { account_id: account.clone(), sync_id: "1".into(), completed_at: T0, numbers_seen: 0 };
        step(&Event::SnapshotCompleted(completed), T0);
    }
    // Each millisecond has a call of an account on either side of mine in the index; every fiftieth some of mine.
    for n in 0..200 {
        let at = T0 + n;
        step(&over(&other, &format!("s-{n}"), at), at);
        step(&over(&busy, &format!("s-{n}"), at), at);
        for call in if n % 50 == 10 { &["a", "b", "c"][..] } else { &[] } {
            step(&over(&mine, &format!("s-{n}-{call}"), at), at);
        }
    }
    for n in 1..400 {
        let at = T0 + n * 1_000;
        step(&Event::Tick(Tick { at }), at);
    }
    subject.write();

    let database = subject.store.database();
    let (mut found, mut pages) = (Vec::new(), 0);
    let first = SessionId::parse(" ").unwrap();
    let mut before = None;
    loop {
        let gave_up = verdicts_by_end(database, &mine, before.map(|at| (at, &first)), 20, |call| {
            found.push(call.session_id.to_string());
            true
        });
        pages += 1;
        let Some(at) = gave_up.unwrap() else { break };
        before = Some(at + 1);
    }
    let all = [160, 110, 60, 10].into_iter().flat_map(|n| ["c", "b", "a"].map(|call| format!("s-{n}-{call}")));
    assert_eq!(found, all.collect::<Vec<_>>());
    assert_eq!(pages, 400 / 20, "each passes over 20");
    assert_eq!(verdicts_by_end(database, &nobody, None, 20, |_| panic!("it has none")).unwrap(), None, "who has no calls is told so at once");
}

fn account() -> AccountId {
    AccountId::parse("809646016").unwrap()
}

fn number(n: u32) -> String {
    format!("+120555501{n:02}")
}

/// A leg between two of the numbers, or one of them becoming known.
fn event(rng: &mut ChaCha8Rng, at: Millis) -> Event {
    if rng.random_ratio(1, 20) {
        let number = ObservedNumber {
            number: number(rng.random_range(0..NUMBERS)).into(),
            kind: NumberKind::Phone,
            extension_id: None,
            usage_type: None,
            contact_account_id: None,
        };
        let numbers = vec![number];
        return Event::NumbersObserved(NumbersObserved {
            account_id: account(),
            query: NumberQuery::PhoneNumbers,
            observed_at: at,
            sync_id: None,
            numbers,
        });
    }
    let session = |n: u32| SessionId::parse(&format!("s-{n}")).unwrap();
    let id = format!("p-{}", rng.random_range(0..3));
    let (from, to) = (number(rng.random_range(0..NUMBERS)), number(rng.random_range(0..NUMBERS)));
    let mut leg = leg(&id, &from, &to, if rng.random_ratio(1, 2) { "Answered" } else { "Disconnected" });
    leg.peer_session_id = rng.random_ratio(1, 10).then(|| session(rng.random_range(0..SESSIONS)).to_string().into());
    // Some go by a legacy id, which two sessions share; some by nothing else.
    let of = rng.random_range(0..SESSIONS);
    let legacy = rng.random_ratio(1, 5).then(|| (of / 2).to_string());
    let name = legacy.as_deref().filter(|_| rng.random_ratio(1, 4)).map_or_else(|| session(of), |legacy| SessionId::legacy(legacy).unwrap());
    Event::CallLegs(CallLegs {
        legs: [leg].into(),
        legacy_session_id: legacy.map(Into::into),
        ..CallLegs::without_legs(account().as_str(), name.as_str(), at)
    })
}

#[test]
fn a_store_with_more_rows_than_it_may_keep_in_memory_publishes_and_writes_the_same() {
    for seed in 0..2 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut roomy, mut tight) = (Subject::new(usize::MAX), Subject::new(4));
        let completed = Event::SnapshotCompleted(SnapshotCompleted { account_id: account(), sync_id: "1".into(), completed_at: T0, numbers_seen: 0 });
        let mut time = T0;
        for offset in 0..1_000 {
            time += rng.random_range(0..4_000);
            let event = if offset == 20 { completed.clone() } else { event(&mut rng, time) };
            let writes = rng.random_ratio(1, 3);
            for subject in [&mut roomy, &mut tight] {
                subject.step(At { offset, time }, &event);
                if writes {
                    subject.write();
                }
            }
        }
        assert!(roomy.published.iter().filter(|output| matches!(output, Output::Verdict(_))).count() > 100, "seed {seed}");
        assert_eq!(roomy.published.len(), tight.published.len(), "seed {seed}");
        let differs = roomy.published.iter().zip(&tight.published).position(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        [&mut roomy, &mut tight].into_iter().for_each(Subject::write);
        assert_eq!(rows(&roomy.store), rows(&tight.store), "seed {seed}");
    }
}

/// All rows of what is derived from verdicts, and the verdicts.
fn rows(store: &Store) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let database = store.database();
    let mut found = Vec::new();
    for family in [Family::Judged, Family::Waiting, Family::Links, Family::Retention, Family::Due] {
        let mut rows = database.iterate(database.family(family), ReadOptions::default());
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            found.push((family.name(), key.to_vec(), value.to_vec()));
            rows.next();
        }
        database.finished(&rows).unwrap();
    }
    found
}

fn restore_verdict(store: &mut Store, output: &Output) {
    match output {
        Output::Verdict(verdict) if store.is_new(&verdict.account_id, &verdict.session_id) => {
            let bytes = encode(verdict.as_ref());
            store.restore_new(&verdict.account_id, &verdict.session_id, decode_gist(&bytes).unwrap(), &bytes).unwrap();
        }
        Output::Verdict(verdict) => {
            let bytes = encode(verdict.as_ref());
            store.restore_verdict(&verdict.account_id, &verdict.session_id, Some((CallVerdict::clone(verdict), &bytes))).unwrap();
        }
        Output::VerdictGone(account, session) => store.restore_verdict(account, session, None).unwrap(),
        _ => {}
    }
}

/// What an hour of calls has published, faxes among them.
fn lived(rng: &mut ChaCha8Rng) -> Subject {
    let mut live = Subject::new(usize::MAX);
    let completed = Event::SnapshotCompleted(SnapshotCompleted { account_id: account(), sync_id: "1".into(), completed_at: T0, numbers_seen: 0 });
    let mut time = T0;
    for offset in 0..1_000 {
        time += rng.random_range(0..4_000);
        // A fax is no call: its verdict is taken back.
        let event = match event(rng, time) {
            _ if offset == 20 => completed.clone(),
            Event::CallLegs(legs) if rng.random_ratio(1, 40) => Event::CallLegs(CallLegs { media: Media::Fax, ..legs }),
            event => event,
        };
        live.step(At { offset, time }, &event);
    }
    live
}

#[test]
fn verdicts_that_are_restored_in_bulk_make_the_same_rows_as_one_by_one() {
    let few_keys = Limits { keys: 40, ..Limits::default() };
    let few_files = Limits { most_pieces: 3, few_pieces: 1, ..Limits::default() };
    for (seed, limits) in (0..).zip([Limits::default(), Limits::default(), few_keys, few_files]) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let live = lived(&mut rng);
        let count = |is: fn(&Output) -> bool| live.published.iter().filter(|output| is(output)).count();
        let (verdicts, gone) = (count(|output| matches!(output, Output::Verdict(_))), count(|output| matches!(output, Output::VerdictGone(..))));
        assert!(verdicts > 100 && gone > 0, "seed {seed}: {verdicts} verdicts, {gone} taken back");

        let (mut bulk, mut plain) = (Subject::new(usize::MAX), Subject::new(usize::MAX));
        bulk.store = bulk.store.in_bulk_within(limits);
        bulk.store.begin_bulk().unwrap();
        assert!(bulk.store.is_in_bulk() && !plain.store.is_in_bulk());
        for store in [&mut bulk.store, &mut plain.store] {
            for output in &live.published {
                match output {
                    Output::Account(state) => store.restore_account(AccountState::clone(state)).unwrap(),
                    // Not all, so that some of what waits goes on waiting, and some is overtaken.
                    Output::Number(row) if row.number.ends_with(['0', '1', '2']) => {
                        store.restore_number(&row.account_id, &row.number, Some(CompanyNumber::clone(row))).unwrap();
                    }
                    _ => {}
                }
            }
        }
        for output in &live.published {
            restore_verdict(&mut bulk.store, output);
            restore_verdict(&mut plain.store, output);
            if rng.random_ratio(1, 10) {
                bulk.store.write_restored(|_, _| {}).unwrap();
                assert!(bulk.store.tend_bulk(&|| false).unwrap());
            }
        }
        assert_eq!(bulk.store.is_in_bulk(), limits.keys > 40, "seed {seed}");
        for store in [&mut bulk.store, &mut plain.store] {
            store.write_restored(|_, _| {}).unwrap();
            assert!(store.end_bulk(&|| false).unwrap());
        }
        let (bulk_rows, plain_rows) = (rows(&bulk.store), rows(&plain.store));
        assert_eq!(bulk_rows.iter().find(|row| !plain_rows.contains(row)), None, "seed {seed}");
        assert_eq!(plain_rows.iter().find(|row| !bulk_rows.contains(row)), None, "seed {seed}");
        assert!(bulk.store.has_due_work(), "seed {seed}");

        // A crash may keep files that were made in bulk, and lose what stood in the write buffers.
        let database = bulk.store.database().clone();
        let mut lost = rocksdb::WriteBatch::default();
        for (_, key, _) in bulk_rows.iter().filter(|(family, key, _)| *family == "due" && read_due_work(key).is_some()) {
            lost.delete_cf(database.family(Family::Due), key);
        }
        database.write(lost).unwrap();
        let mut again = Store::open(database).unwrap();
        assert!(!again.has_due_work());
        again.begin_bulk().unwrap();
        assert!(!again.is_in_bulk(), "it isn't empty any more");
        live.published.iter().for_each(|output| restore_verdict(&mut again, output));
        again.write_restored(|_, _| {}).unwrap();
        let (again_rows, is_due) = (rows(&again), |row: &&(&str, Vec<u8>, Vec<u8>)| row.0 == "due");
        assert!(again_rows.iter().filter(|row| !is_due(row)).eq(plain_rows.iter().filter(|row| !is_due(row))), "seed {seed}");
        assert!(again.has_due_work(), "seed {seed}");
    }
}

#[test]
fn a_merge_can_be_cut_off_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(&DatabaseOptions { write_ahead_log: false, ..DatabaseOptions::default() });
    let open = || Store::open(Arc::new(Database::open(dir.path(), &engine, &[]).unwrap())).unwrap();
    let mut store = open().in_bulk_within(Limits { few_pieces: 1, ..Limits::default() });
    store.begin_bulk().unwrap();
    for output in &lived(&mut ChaCha8Rng::seed_from_u64(1)).published {
        restore_verdict(&mut store, output);
        store.write_restored(|_, _| {}).unwrap();
    }
    let before = rows(&store);
    assert!(before.len() > 100, "{}", before.len());
    assert!(!store.end_bulk(&|| true).unwrap(), "cut off at once");
    assert!(store.database().unmerged_files().unwrap() > 20, "it was merged all the same");
    drop(store);
    let mut again = open();
    assert!(again.merge_leftovers(&|| false).unwrap());
    assert_eq!(again.database().unmerged_files().unwrap(), 0);
    assert!(rows(&again) == before);
    again.begin_bulk().unwrap();
    assert!(!again.is_in_bulk(), "it isn't empty any more");
    let mut state = rocksdb::WriteBatch::default();
    state.put_cf(again.database().family(Family::Meta), b"k", b"v");
    again.database().write(state).unwrap();
    again.database().flush().unwrap();
}

#[test]
fn files_that_cannot_be_merged_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(&DatabaseOptions { write_ahead_log: false, ..DatabaseOptions::default() });
    let mut store = Store::open(Arc::new(Database::open(dir.path(), &engine, &[]).unwrap())).unwrap();
    store.begin_bulk().unwrap();
    for output in &lived(&mut ChaCha8Rng::seed_from_u64(1)).published {
        restore_verdict(&mut store, output);
        store.write_restored(|_, _| {}).unwrap();
    }
    // As with a full disk, RocksDB merges nothing and says nothing.
    store.database().raw().cancel_all_background_work(false);
    let error = store.merge_leftovers(&|| false).unwrap_err().to_string();
    assert!(error.contains("no space left") && error.contains(&dir.path().display().to_string()), "{error}");
}

#[test]
fn links_that_cannot_be_read_are_not_written_over() {
    let mut subject = Subject::new(0);
    let linking = |session: &str| {
        let Event::CallLegs(mut facts) = over(&account(), session, T0) else { panic!("facts of a call") };
        facts.legs[0].peer_session_id = Some("s-9".into());
        Event::CallLegs(facts)
    };
    subject.step(At { offset: 0, time: T0 }, &linking("s-1"));
    subject.write();
    let key = super::keys::linking_to(&account(), &SessionId::parse("s-9").unwrap());
    let database = subject.store.database().clone();
    let links = database.family(Family::Links);
    assert!(database.get(links, &key).unwrap().is_some());
    let mut corrupt = rocksdb::WriteBatch::default();
    corrupt.put_cf(links, &key, [0xff]);
    database.write(corrupt).unwrap();
    subject.step(At { offset: 1, time: T0 }, &linking("s-2"));
    for _ in 0..2 {
        let error = subject.store.take_batch().err().unwrap().to_string();
        assert!(error.contains("links"), "{error}");
    }
}

#[test]
fn a_fax_has_no_verdict_also_where_what_took_it_back_is_gone() {
    let mut live = Subject::new(usize::MAX);
    let completed = Event::SnapshotCompleted(SnapshotCompleted { account_id: account(), sync_id: "1".into(), completed_at: T0, numbers_seen: 0 });
    live.step(At { offset: 0, time: T0 }, &completed);
    let Event::CallLegs(call) = over(&account(), "s-1", T0) else { panic!("facts of a call") };
    live.step(At { offset: 1, time: T0 }, &Event::CallLegs(call.clone()));
    live.step(At { offset: 2, time: T0 + 60_000 }, &Event::Tick(Tick { at: T0 + 60_000 }));
    live.step(At { offset: 3, time: T0 + 60_000 }, &Event::CallLegs(CallLegs { media: Media::Fax, ..call }));

    let mut restored = Subject::new(usize::MAX).store;
    let mut opened = 0;
    for output in &live.published {
        match output {
            Output::Verdict(_) => restore_verdict(&mut restored, output),
            Output::Open(row) => {
                let before = restored.session(&row.record.account_id, &row.record.session_id).unwrap();
                assert!(before.verdict.is_some());
                restored.restore_open(&row.record.account_id, &row.record.session_id, Some(row.record.clone())).unwrap();
                let after = restored.session(&row.record.account_id, &row.record.session_id).unwrap();
                assert!(after.verdict.is_none() && after.open.is_some());
                opened += 1;
            }
            _ => {}
        }
    }
    assert_eq!(opened, 1);
}
