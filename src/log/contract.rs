//! What every log keeps to, written once against the interface. An implementation's tests call [`all`] with a [`Subject`] of their own.

use super::{Appender, Commit, Headers, Input, Log, LogError, Output, OutputEnds, Place, Position, Reader, Record, Topic, partition_of};
use crate::state::database::{Database, Family};
use rocksdb::WriteBatch;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A log under test, with what is around it.
pub(super) trait Subject: Sized {
    /// An empty one.
    fn fresh(partitions: u32) -> Self;
    /// Ends it, without committing anything, and opens what is left behind.
    fn restarted(self) -> Self;
    /// A worker for all partitions.
    fn worker(&self) -> Box<dyn Log>;
    fn appender(&self) -> Arc<dyn Appender>;
    fn reader(&self) -> Arc<dyn Reader>;
    /// Where the state of a partition is.
    fn database(&self, partition: u32) -> Arc<Database>;
}

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(10);

pub(super) fn now<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(super) fn input(account: &str, value: &str) -> Input {
    Input { account: account.to_owned(), value: value.as_bytes().to_vec(), headers: vec![("trace".to_owned(), vec![0, 1])] }
}

pub(super) fn append(subject: &impl Subject, account: &str, value: &str) -> Place {
    now(subject.appender().append(input(account, value))).unwrap()
}

pub(super) fn output(topic: Topic, key: &str, value: Option<&str>) -> Output {
    Output { topic, key: key.as_bytes().to_vec(), value: value.map(|v| v.as_bytes().to_vec()), headers: Headers::new() }
}

pub(super) fn position(next: i64) -> Position {
    Position { next, partition_time: 5, low_water: next, low_water_time: 5 }
}

/// A commit whose state is one key, so that a test can see whether it is there.
pub(super) fn commit(subject: &impl Subject, partition: u32, position: Position, outputs: Vec<Output>) -> Commit {
    let database = subject.database(partition);
    let mut state = WriteBatch::default();
    state.put_cf(database.family(Family::Meta), b"seen", position.next.to_be_bytes());
    Commit { partition, position, outputs, state, database }
}

fn state(subject: &impl Subject, partition: u32) -> Option<i64> {
    let database = subject.database(partition);
    let value = database.get(database.family(Family::Meta), b"seen").unwrap();
    value.map(|v| i64::from_be_bytes(v.as_ref().try_into().unwrap()))
}

pub(super) fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| r.value.as_ref().map_or("-".to_owned(), |v| String::from_utf8(v.to_vec()).unwrap())).collect()
}

fn position_of(worker: &dyn Log, partition: u32) -> Option<Position> {
    worker.reader().committed(partition).unwrap().map(|committed| committed.position)
}

/// Lets the next poll begin there.
fn again(worker: &mut dyn Log, partition: u32, next: i64) {
    worker.pause(partition).unwrap();
    worker.resume(partition, next, OutputEnds::default()).unwrap();
}

/// Polls until `count` records of a partition have come, or nothing more comes.
fn poll(worker: &mut dyn Log, partition: u32, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    let until = Instant::now() + LONG;
    while records.len() < count && Instant::now() < until {
        for batch in worker.poll(count, SHORT).unwrap() {
            if batch.partition == partition {
                records.extend(batch.records);
            }
        }
    }
    records
}

/// An account of the partition.
pub(super) fn account(partition: u32, partitions: u32) -> String {
    (1..).map(|n| n.to_string()).find(|a| partition_of(a, partitions) == partition).unwrap()
}

pub(super) fn all<S: Subject>() {
    input_comes_back_in_order_in_its_accounts_partition::<S>();
    many_at_once_keep_their_order_and_get_their_places::<S>();
    a_poll_takes_no_more_than_asked_and_goes_on_there::<S>();
    a_poll_waits_for_input_and_no_longer_than_told::<S>();
    what_was_not_committed_comes_again::<S>();
    a_commit_is_outputs_position_and_state::<S>();
    input_is_polled_while_a_commit_is_under_way::<S>();
    a_refused_commit_leaves_nothing::<S>();
    a_worker_goes_back_and_forth::<S>();
    a_paused_partition_is_left_out_until_it_is_resumed::<S>();
    what_is_committed_is_known_to_all_readers::<S>();
    a_read_gives_a_range_and_where_to_go_on::<S>();
    an_end_that_is_seen_can_be_read::<S>();
    a_tick_is_input::<S>();
    dead_letters_come_from_both_ends::<S>();
    a_message_too_large_is_refused::<S>();
    what_is_not_there_is_an_error::<S>();
}

fn input_comes_back_in_order_in_its_accounts_partition<S: Subject>() {
    let subject = S::fresh(3);
    for n in 0..30 {
        let account = format!("{}", 800 + n % 7);
        assert_eq!(append(&subject, &account, &n.to_string()).partition, partition_of(&account, 3));
    }
    let mut worker = subject.worker();
    assert_eq!(worker.assigned(), [0, 1, 2]);
    let mut seen = 0;
    for partition in 0..3 {
        again(&mut *worker, partition, 0);
    }
    while seen < 30 {
        for batch in worker.poll(100, LONG).unwrap() {
            assert!(batch.records.is_sorted_by(|a, b| a.offset < b.offset && a.timestamp <= b.timestamp));
            let numbers: Vec<u32> = texts(&batch.records).iter().map(|t| t.parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "{numbers:?}");
            for record in &batch.records {
                assert_eq!(partition_of(std::str::from_utf8(&record.key).unwrap(), 3), batch.partition);
                assert_eq!(record.headers, [("trace".to_owned(), vec![0, 1])]);
            }
            seen += batch.records.len();
        }
    }
    assert!(worker.poll(100, SHORT).unwrap().is_empty());
}

fn many_at_once_keep_their_order_and_get_their_places<S: Subject>() {
    let subject = S::fresh(2);
    let inputs: Vec<Input> = (0..10_000).map(|n| input(&(n % 13).to_string(), &n.to_string())).collect();
    let places = now(subject.appender().append_all(inputs.clone())).unwrap();
    assert_eq!(places.len(), inputs.len());
    let reader = subject.reader();
    for partition in 0..2 {
        let mut expected = inputs.iter().zip(&places).filter(|(_, place)| place.partition == partition);
        let mut from = 0;
        while from < reader.end(Topic::Events, partition).unwrap() {
            let read = reader.read(Topic::Events, partition, from, 10_000).unwrap();
            for record in read.records {
                let (input, place) = expected.next().unwrap();
                assert_eq!(
                    (place.offset, &input.value[..], input.account.as_bytes()),
                    (record.offset, record.value.as_deref().unwrap(), &record.key[..])
                );
            }
            from = read.next;
        }
        assert!(expected.next().is_none());
    }
    assert_eq!(now(subject.appender().append_all(Vec::new())).unwrap(), []);
}

fn a_poll_takes_no_more_than_asked_and_goes_on_there<S: Subject>() {
    let subject = S::fresh(1);
    for n in 0..5 {
        append(&subject, "1", &n.to_string());
    }
    let mut worker = subject.worker();
    for expected in [&["0", "1"][..], &["2", "3"], &["4"]] {
        let batches = worker.poll(2, LONG).unwrap();
        assert_eq!(texts(&batches[0].records), expected);
    }
}

fn a_poll_waits_for_input_and_no_longer_than_told<S: Subject>() {
    let subject = S::fresh(1);
    let mut worker = subject.worker();
    let began = Instant::now();
    assert!(worker.poll(10, SHORT).unwrap().is_empty());
    assert!(began.elapsed() >= SHORT);

    let appender = subject.appender();
    let later = std::thread::spawn(move || {
        std::thread::sleep(SHORT);
        now(appender.append(input("1", "late"))).unwrap();
    });
    let began = Instant::now();
    assert_eq!(texts(&worker.poll(10, LONG).unwrap()[0].records), ["late"]);
    assert!(began.elapsed() < LONG / 2, "it wasn't woken");
    later.join().unwrap();
}

fn what_was_not_committed_comes_again<S: Subject>() {
    let mut subject = S::fresh(1);
    for n in 0..4 {
        append(&subject, "1", &n.to_string());
    }
    let mut worker = subject.worker();
    assert_eq!(poll(&mut *worker, 0, 4).len(), 4);
    worker.commit(vec![commit(&subject, 0, position(2), vec![])]).unwrap();
    drop(worker);
    assert_eq!(texts(&poll(&mut *subject.worker(), 0, 2)), ["2", "3"]);

    subject = subject.restarted();
    let mut worker = subject.worker();
    assert_eq!(position_of(&*worker, 0), Some(position(2)));
    assert_eq!(texts(&poll(&mut *worker, 0, 2)), ["2", "3"]);
    // Offsets go on where they were.
    assert_eq!(append(&subject, "1", "4").offset, worker.end(0).unwrap() - 1);
    assert_eq!(texts(&poll(&mut *worker, 0, 1)), ["4"]);
}

fn a_commit_is_outputs_position_and_state<S: Subject>() {
    let mut subject = S::fresh(2);
    let mut worker = subject.worker();
    assert_eq!(position_of(&*worker, 0), None);
    let outputs = vec![
        output(Topic::CallVerdicts, "1/s-1", Some("external")),
        output(Topic::OpenCalls, "1/s-1", None),
        output(Topic::CallVerdicts, "1/s-2", Some("internal")),
        output(Topic::AccountStates, "1", Some("")),
    ];
    let at = Position { next: 0, partition_time: 77, low_water: 0, low_water_time: 76 };
    worker.commit(vec![commit(&subject, 0, at, outputs), commit(&subject, 1, position(0), vec![])]).unwrap();
    everything_is_before_what_is_published(&*worker, 2);
    worker.commit(vec![commit(&subject, 0, at, vec![output(Topic::CallVerdicts, "1/s-3", Some("internal"))])]).unwrap();
    everything_is_before_what_is_published(&*worker, 3);
    drop(worker);
    for round in 0..2 {
        let reader = subject.reader();
        let verdicts = reader.read(Topic::CallVerdicts, 0, 0, 10).unwrap();
        assert_eq!(texts(&verdicts.records), ["external", "internal", "internal"]);
        assert_eq!(verdicts.records[1].key, b"1/s-2".as_slice());
        assert_eq!(verdicts.next, reader.end(Topic::CallVerdicts, 0).unwrap());
        assert_eq!(texts(&reader.read(Topic::OpenCalls, 0, 0, 10).unwrap().records), ["-"]);
        assert_eq!(reader.read(Topic::AccountStates, 0, 0, 10).unwrap().records[0].value.as_deref(), Some([].as_slice()));
        assert!(reader.read(Topic::CallVerdicts, 1, 0, 10).unwrap().records.is_empty());
        let worker = subject.worker();
        assert_eq!((position_of(&*worker, 0), position_of(&*worker, 1)), (Some(at), Some(position(0))));
        assert_eq!((state(&subject, 0), state(&subject, 1)), (Some(0), Some(0)));
        everything_is_before_what_is_published(&*worker, 3);
        drop(worker);
        drop(reader);
        if round == 0 {
            subject = subject.restarted();
        }
    }
}

/// Of the topics of partition 0, with so many verdicts.
fn everything_is_before_what_is_published(worker: &dyn Log, verdicts: usize) {
    for (topic, count) in [(Topic::CallVerdicts, verdicts), (Topic::OpenCalls, 1), (Topic::AccountStates, 1), (Topic::CompanyNumbers, 0)] {
        let published = worker.published(topic, 0).unwrap();
        let before = worker.reader().read(topic, 0, 0, 10).unwrap().records.iter().filter(|record| record.offset < published).count();
        assert_eq!(before, count, "{topic} up to {published}");
        assert!(published <= worker.reader().end(topic, 0).unwrap(), "{topic} is said to go on up to {published}");
    }
}

fn input_is_polled_while_a_commit_is_under_way<S: Subject>() {
    let subject = S::fresh(2);
    let mut worker = subject.worker();
    worker.conclude().unwrap();
    for partition in [0, 1] {
        append(&subject, &account(partition, 2), "x");
    }
    assert_eq!(texts(&poll(&mut *worker, 0, 1)), ["x"]);
    worker.hand_over(vec![commit(&subject, 0, position(1), vec![output(Topic::CallVerdicts, "1/s-1", Some("external"))])]).unwrap();
    append(&subject, &account(0, 2), "y");
    assert_eq!(texts(&poll(&mut *worker, 0, 1)), ["y"]);
    // Handing over another waits for the first.
    worker.hand_over(vec![commit(&subject, 1, position(1), vec![])]).unwrap();
    assert_eq!((position_of(&*worker, 0), state(&subject, 0)), (Some(position(1)), Some(1)));
    worker.conclude().unwrap();
    assert_eq!((position_of(&*worker, 1), state(&subject, 1)), (Some(position(1)), Some(1)));
    assert_eq!(texts(&worker.reader().read(Topic::CallVerdicts, 0, 0, 10).unwrap().records), ["external"]);
}

fn a_refused_commit_leaves_nothing<S: Subject>() {
    let subject = S::fresh(1);
    let mut worker = subject.worker();
    let outputs = vec![output(Topic::CallVerdicts, "1/s", Some("x")), output(Topic::Events, "1", Some("not an output"))];
    assert!(matches!(worker.commit(vec![commit(&subject, 0, position(0), outputs)]), Err(LogError::WrongCommit { .. })));
    assert_eq!(position_of(&*worker, 0), None);
    assert_eq!(worker.reader().end(Topic::CallVerdicts, 0).unwrap(), 0);
    assert_eq!(state(&subject, 0), None);
}

fn a_worker_goes_back_and_forth<S: Subject>() {
    let subject = S::fresh(1);
    let places: Vec<Place> = (0..4).map(|n| append(&subject, "1", &n.to_string())).collect();
    let mut worker = subject.worker();
    assert_eq!(poll(&mut *worker, 0, 4).len(), 4);
    again(&mut *worker, 0, places[1].offset);
    assert_eq!(texts(&poll(&mut *worker, 0, 3)), ["1", "2", "3"]);
    again(&mut *worker, 0, places[3].offset);
    assert_eq!(texts(&poll(&mut *worker, 0, 1)), ["3"]);
    assert!(matches!(worker.pause(7), Err(LogError::NotAssigned { partition: 7 })));
}

fn a_paused_partition_is_left_out_until_it_is_resumed<S: Subject>() {
    let subject = S::fresh(2);
    let accounts = [account(0, 2), account(1, 2)];
    let mut places = Vec::new();
    for n in 0..4 {
        places.push(append(&subject, &accounts[0], &n.to_string()));
        append(&subject, &accounts[1], &n.to_string());
    }
    let mut worker = subject.worker();
    let more = |worker: &mut dyn Log, value: &str| {
        append(&subject, &accounts[0], value);
        append(&subject, &accounts[1], value);
        // The other one goes on, also when the paused one's turn comes.
        let until = Instant::now() + LONG;
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != value) && Instant::now() < until {
            for batch in worker.poll(10, SHORT).unwrap() {
                assert_eq!(batch.partition, 1, "{:?} of a paused partition", texts(&batch.records));
                seen.extend(texts(&batch.records));
            }
        }
        assert_eq!(seen.last().map(String::as_str), Some(value));
        assert!(worker.poll(10, SHORT).unwrap().is_empty());
    };
    // Before anything was polled of it.
    worker.pause(0).unwrap();
    assert_eq!(worker.assigned(), [0, 1]);
    more(&mut *worker, "4");
    worker.resume(0, places[1].offset, OutputEnds::default()).unwrap();
    assert_eq!(texts(&poll(&mut *worker, 0, 4)), ["1", "2", "3", "4"]);
    // And while it is polled, with some of it fetched already.
    again(&mut *worker, 0, places[2].offset);
    assert_eq!(texts(&poll(&mut *worker, 0, 1)), ["2"]);
    worker.pause(0).unwrap();
    more(&mut *worker, "5");
    worker.resume(0, places[3].offset, OutputEnds::default()).unwrap();
    assert_eq!(texts(&poll(&mut *worker, 0, 3)), ["3", "4", "5"]);
    assert!(matches!(worker.pause(7), Err(LogError::NotAssigned { partition: 7 })));
    assert!(matches!(worker.resume(7, 0, OutputEnds::default()), Err(LogError::NotAssigned { partition: 7 })));
}

fn what_is_committed_is_known_to_all_readers<S: Subject>() {
    let subject = S::fresh(2);
    let next = append(&subject, &account(0, 2), "x").offset + 1;
    let mut worker = subject.worker();
    assert_eq!(poll(&mut *worker, 0, 1).len(), 1);
    worker.commit(vec![commit(&subject, 0, position(next), vec![output(Topic::CallVerdicts, "1/s", Some("y"))])]).unwrap();
    worker.settle().unwrap();
    for reader in [subject.reader(), worker.reader()] {
        let committed = reader.committed(0).unwrap().unwrap();
        assert_eq!(committed.position, position(next));
        let end = committed.ends.get(Topic::CallVerdicts).unwrap();
        assert!((1..=reader.end(Topic::CallVerdicts, 0).unwrap()).contains(&end), "{end}");
        assert_eq!(reader.committed(1).unwrap(), None);
    }
}

fn a_read_gives_a_range_and_where_to_go_on<S: Subject>() {
    let subject = S::fresh(1);
    let places: Vec<Place> = (0..5).map(|n| append(&subject, "1", &n.to_string())).collect();
    let reader = subject.reader();
    assert_eq!(reader.start(Topic::Events, 0).unwrap(), places[0].offset);
    let end = reader.end(Topic::Events, 0).unwrap();
    let first = reader.read(Topic::Events, 0, places[1].offset, 2).unwrap();
    assert_eq!((texts(&first.records), first.next), (vec!["1".to_owned(), "2".to_owned()], places[3].offset));
    let rest = reader.read(Topic::Events, 0, first.next, 100).unwrap();
    assert_eq!((texts(&rest.records), rest.next), (vec!["3".to_owned(), "4".to_owned()], end));
    assert_eq!(reader.read(Topic::Events, 0, end, 100).unwrap().records, []);
    assert!(matches!(reader.read(Topic::Events, 0, end + 1, 100), Err(LogError::OutOfRange { .. })));
    assert!(matches!(reader.read(Topic::Events, 0, -1, 100), Err(LogError::OutOfRange { .. })));
}

fn an_end_that_is_seen_can_be_read<S: Subject>() {
    let subject = S::fresh(1);
    let reader = subject.reader();
    let mut ends = reader.subscribe_end(Topic::CallVerdicts, 0).unwrap();
    let follower = std::thread::spawn(move || {
        let (mut from, mut seen) = (0, Vec::new());
        while seen.len() < 200 {
            let end = *ends.borrow_and_update();
            while from < end {
                let read = reader.read(Topic::CallVerdicts, 0, from, 7).unwrap();
                assert!(read.next > from, "what was shown isn't there");
                seen.extend(texts(&read.records));
                from = read.next;
            }
            if seen.len() < 200 {
                now(async { tokio::time::timeout(LONG, ends.changed()).await }).unwrap().unwrap();
            }
        }
        seen
    });
    let mut worker = subject.worker();
    for n in 0..100 {
        let outputs = [0, 1].map(|i| output(Topic::CallVerdicts, "1/s", Some(&(2 * n + i).to_string()))).to_vec();
        worker.commit(vec![commit(&subject, 0, position(0), outputs)]).unwrap();
    }
    assert_eq!(follower.join().unwrap(), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

fn a_tick_is_input<S: Subject>() {
    let subject = S::fresh(1);
    let mut worker = subject.worker();
    append(&subject, "1", "before");
    let offset = worker.append(0, b"", b"tick").unwrap();
    let records = poll(&mut *worker, 0, 2);
    assert_eq!(texts(&records), ["before", "tick"]);
    assert_eq!((records[1].offset, &records[1].key[..]), (offset, &b""[..]));
    assert!(matches!(worker.append(7, b"", b"tick"), Err(LogError::NotAssigned { .. })));
}

fn dead_letters_come_from_both_ends<S: Subject>() {
    let subject = S::fresh(1);
    now(subject.appender().append_dead_letter(input("1", "from the ingress"))).unwrap();
    let mut worker = subject.worker();
    worker.commit(vec![commit(&subject, 0, position(0), vec![output(Topic::DeadLetters, "1", Some("from the processor"))])]).unwrap();
    now(subject.appender().append_dead_letter(input("1", "again"))).unwrap();
    let letters = worker.reader().read(Topic::DeadLetters, 0, 0, 10).unwrap();
    assert_eq!(texts(&letters.records), ["from the ingress", "from the processor", "again"]);
    assert!(worker.poll(10, SHORT).unwrap().is_empty(), "a dead letter is no input");
}

fn a_message_too_large_is_refused<S: Subject>() {
    let subject = S::fresh(1);
    let large = Input { account: "1".to_owned(), value: vec![0; super::MAX_INPUT_BYTES], headers: Headers::new() };
    assert!(matches!(now(subject.appender().append(large.clone())), Err(LogError::TooLarge { .. })));
    let mixed = vec![input("1", "small"), large];
    assert!(matches!(now(subject.appender().append_all(mixed)), Err(LogError::TooLarge { .. })), "all of them or none");
    assert_eq!(subject.reader().end(Topic::Events, 0).unwrap(), 0);
}

fn what_is_not_there_is_an_error<S: Subject>() {
    let subject = S::fresh(2);
    let reader = subject.reader();
    assert!(matches!(reader.end(Topic::Events, 2), Err(LogError::NoSuchPartition { partition: 2, partitions: 2 })));
    assert!(reader.subscribe_end(Topic::Events, 2).is_err());
    assert!(subject.worker().reader().committed(2).is_err());
}
