//! The contract, and what is the embedded log's own: durability, retention, compaction, identity.

use super::*;
use crate::log::contract::{self, Subject, account, append, commit, input, now, output, position, texts};
use crate::log::system_clock;
use crate::state::database::{DatabaseError, DatabaseOptions};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use tempfile::TempDir;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// A log in a directory of its own, with a clock that tests set.
struct Embedded {
    log: EmbeddedLog,
    partitions: u32,
    clock: Arc<AtomicI64>,
    dir: Arc<TempDir>,
}

fn open(dir: &Path, partitions: u32, clock: &Arc<AtomicI64>) -> Result<EmbeddedLog, LogError> {
    let engine = Engine::new(&DatabaseOptions { cache_bytes: 8 << 20, write_buffer_bytes: 16 << 20, ..DatabaseOptions::default() });
    let clock = clock.clone();
    let options = EmbeddedOptions { partitions, retention: Retention::default(), clock: Arc::new(move || clock.load(Ordering::SeqCst)) };
    EmbeddedLog::open(dir, &engine, &options)
}

impl Embedded {
    fn at(&self, time: i64) {
        self.clock.store(time, Ordering::SeqCst);
    }

    /// Until there is no more to do.
    fn maintain(&self, time: i64) -> u64 {
        let mut removed = 0;
        loop {
            let done = self.log.maintain(time).unwrap();
            removed += done.removed;
            if !done.more {
                return removed;
            }
        }
    }

    fn publish(&self, outputs: Vec<crate::log::Output>) {
        self.worker().commit(vec![commit(self, 0, position(0), outputs)]).unwrap();
    }

    fn all(&self, topic: Topic) -> Vec<crate::log::Record> {
        self.reader().read(topic, 0, self.reader().start(topic, 0).unwrap(), usize::MAX).unwrap().records
    }
}

impl Subject for Embedded {
    fn fresh(partitions: u32) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let clock = Arc::new(AtomicI64::new(1_000));
        Self { log: open(dir.path(), partitions, &clock).unwrap(), partitions, clock, dir }
    }

    fn restarted(self) -> Self {
        let Self { log, partitions, clock, dir } = self;
        drop(log);
        Self { log: open(dir.path(), partitions, &clock).unwrap(), partitions, clock, dir }
    }

    fn worker(&self) -> Box<dyn Log> {
        Box::new(self.log.worker(&(0..self.partitions).collect::<Vec<u32>>()).unwrap())
    }

    fn appender(&self) -> Arc<dyn Appender> {
        Arc::new(self.log.appender())
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.log.reader()
    }

    fn database(&self, partition: u32) -> Arc<Database> {
        self.log.database(partition).unwrap()
    }
}

#[test]
fn it_keeps_the_contract() {
    contract::all::<Embedded>();
}

#[test]
fn time_never_goes_back_within_a_partition() {
    let mut subject = Embedded::fresh(1);
    for time in [5_000, 3_000, 6_000] {
        subject.at(time);
        append(&subject, "1", "x");
    }
    subject.at(1);
    subject = subject.restarted();
    append(&subject, "1", "x");
    assert_eq!(subject.all(Topic::Events).iter().map(|r| r.timestamp).collect::<Vec<_>>(), [5_000, 5_000, 6_000, 6_000]);
}

#[test]
fn a_partition_has_one_worker_at_a_time() {
    let subject = Embedded::fresh(2);
    let first = subject.log.worker(&[0]).unwrap();
    assert!(matches!(subject.log.worker(&[1, 0]), Err(LogError::Taken { partition: 0 })));
    assert!(subject.log.worker(&[1]).is_ok(), "what a refused worker had taken is free again");
    drop(first);
    assert!(subject.log.worker(&[0, 1, 1]).is_ok());
}

#[test]
fn a_commit_with_another_partitions_database_is_refused() {
    let subject = Embedded::fresh(2);
    let wrong = Commit { database: subject.database(1), ..commit(&subject, 0, position(0), vec![]) };
    assert!(matches!(subject.worker().commit(vec![wrong]), Err(LogError::WrongCommit { partition: 0, .. })));
}

#[test]
fn a_busy_partition_does_not_starve_the_others() {
    let subject = Embedded::fresh(2);
    for _ in 0..20 {
        append(&subject, &account(0, 2), "busy");
    }
    append(&subject, &account(1, 2), "quiet");
    let mut worker = subject.worker();
    let partitions: Vec<u32> = (0..2).map(|_| worker.poll(5, Duration::ZERO).unwrap()[0].partition).collect();
    assert!(partitions.contains(&1), "{partitions:?}");
}

#[test]
fn the_number_of_partitions_is_fixed() {
    let Embedded { log, dir, clock, .. } = Embedded::fresh(2);
    drop(log);
    let error = open(dir.path(), 3, &clock).err().unwrap();
    assert!(matches!(&error, LogError::WrongPartition { found, .. } if found == "0 of 2"), "{error}");
}

#[test]
fn a_database_that_forgets_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(&DatabaseOptions { write_ahead_log: false, ..DatabaseOptions::default() });
    let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
    assert!(matches!(EmbeddedLog::open(dir.path(), &engine, &options), Err(LogError::NoWriteAheadLog { .. })));
}

#[test]
fn a_second_opener_is_refused() {
    let subject = Embedded::fresh(1);
    let error = open(subject.dir.path(), 1, &subject.clock).err().unwrap();
    assert!(matches!(error, LogError::Database(DatabaseError::Locked { .. })), "{error}");
}

#[test]
fn after_closing_appends_are_refused_and_reads_go_on() {
    let subject = Embedded::fresh(1);
    append(&subject, "1", "x");
    let (appender, reader, mut worker) = (subject.appender(), subject.reader(), subject.worker());
    drop(subject.log);
    assert!(matches!(now(appender.append(input("1", "y"))), Err(LogError::Closed)));
    assert!(matches!(worker.append(0, b"", b"tick"), Err(LogError::Closed)));
    assert_eq!(reader.read(Topic::Events, 0, 0, 10).unwrap().records.len(), 1);
}

#[test]
fn old_input_goes_but_never_past_the_low_water_mark() {
    let mut subject = Embedded::fresh(1);
    for day in 0..10 {
        subject.at(day * DAY);
        append(&subject, "1", &day.to_string());
    }
    // Nothing is committed: nothing goes.
    assert_eq!(subject.maintain(100 * DAY), 0);
    let at = Position { next: 9, partition_time: 8 * DAY, low_water: 4, low_water_time: 0 };
    subject.worker().commit(vec![commit(&subject, 0, at, vec![])]).unwrap();
    // By age only the first three days.
    assert_eq!(subject.maintain(32 * DAY + DAY), 4);
    assert_eq!(texts(&subject.all(Topic::Events)), ["4", "5", "6", "7", "8", "9"]);
    assert_eq!(subject.maintain(100 * DAY), 0);
    let at = Position { low_water: 8, ..at };
    subject.worker().commit(vec![commit(&subject, 0, at, vec![])]).unwrap();
    assert_eq!(subject.maintain(36 * DAY + HOUR), 3, "by age");
    assert_eq!(subject.maintain(100 * DAY), 1, "by the low-water mark");
    for _ in 0..2 {
        assert_eq!(subject.reader().start(Topic::Events, 0).unwrap(), 8);
        assert_eq!(texts(&subject.all(Topic::Events)), ["8", "9"]);
        assert!(matches!(subject.reader().read(Topic::Events, 0, 7, 10), Err(LogError::OutOfRange { start: 8, .. })));
        assert!(subject.worker().resume(0, 7, OutputEnds::default()).is_err());
        subject = subject.restarted();
    }
}

#[test]
fn retention_frees_the_files_and_leaves_what_is_young() {
    let mut subject = Embedded::fresh(1);
    let database = subject.database(0);
    let files = |database: &Database| {
        let live = database.raw().live_files().unwrap();
        live.iter().filter(|f| f.column_family_name == "log.events").count()
    };
    let write_out = |database: &Database| {
        let events = database.extra("log.events").unwrap();
        database.raw().flush_cf(events).unwrap();
        database.raw().compact_range_cf(events, None::<&[u8]>, None::<&[u8]>);
    };
    now(subject.appender().append_all((0..500).map(|n| input("1", &n.to_string())).collect())).unwrap();
    write_out(&database);
    assert_eq!(files(&database), 1);
    subject.at(40 * DAY);
    now(subject.appender().append_all((500..600).map(|n| input("1", &n.to_string())).collect())).unwrap();
    subject.worker().commit(vec![commit(&subject, 0, position(600), vec![])]).unwrap();
    assert_eq!(subject.maintain(41 * DAY), 500);
    assert_eq!(files(&database), 0, "the old file is gone, the young records are still in memory");
    write_out(&database);
    drop(database);
    subject = subject.restarted();
    assert_eq!(texts(&subject.all(Topic::Events)), (500..600).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn offsets_go_on_when_retention_has_taken_everything() {
    let mut subject = Embedded::fresh(1);
    for _ in 0..3 {
        append(&subject, "1", "x");
    }
    now(subject.appender().append_dead_letter(input("1", "x"))).unwrap();
    subject.worker().commit(vec![commit(&subject, 0, position(3), vec![])]).unwrap();
    assert_eq!(subject.maintain(100 * DAY), 4);
    subject = subject.restarted();
    assert_eq!(append(&subject, "1", "y").offset, 3);
    assert_eq!(now(subject.appender().append_dead_letter(input("1", "y"))).unwrap().offset, 1);
    assert_eq!(texts(&subject.all(Topic::Events)), ["y"]);
}

#[test]
fn compaction_keeps_the_newest_of_each_key_and_waits_for_the_lag() {
    let subject = Embedded::fresh(1);
    subject.at(0);
    subject.publish(vec![
        output(Topic::CallVerdicts, "a", Some("a1")),
        output(Topic::CallVerdicts, "b", Some("b1")),
        output(Topic::CallVerdicts, "a", Some("a2")),
    ]);
    subject.at(2 * HOUR);
    subject.publish(vec![output(Topic::CallVerdicts, "a", Some("a3")), output(Topic::AccountStates, "a", Some("another topic"))]);
    assert_eq!(subject.maintain(HOUR - 1), 0);
    assert_eq!(subject.maintain(HOUR), 1);
    assert_eq!(texts(&subject.all(Topic::CallVerdicts)), ["b1", "a2", "a3"]);
    assert_eq!(subject.maintain(3 * HOUR - 1), 0);
    assert_eq!(subject.maintain(3 * HOUR), 1);
    assert_eq!(subject.maintain(100 * DAY), 0, "age alone removes nothing");
    assert_eq!(texts(&subject.all(Topic::CallVerdicts)), ["b1", "a3"]);
    assert_eq!(texts(&subject.all(Topic::AccountStates)), ["another topic"]);
}

#[test]
fn a_read_of_a_compacted_topic_skips_what_is_gone() {
    let subject = Embedded::fresh(1);
    for n in 0..100 {
        subject
            .publish(vec![output(Topic::CallVerdicts, "a", Some(&n.to_string())), output(Topic::CallVerdicts, &format!("b{}", n / 50), Some("b"))]);
    }
    assert_eq!(subject.maintain(DAY), 99 + 98);
    let reader = subject.reader();
    let first = reader.read(Topic::CallVerdicts, 0, 0, 1).unwrap();
    assert_eq!((texts(&first.records), first.next), (vec!["b".to_owned()], 100));
    let rest = reader.read(Topic::CallVerdicts, 0, first.next, 10).unwrap();
    assert_eq!((texts(&rest.records), rest.next), (vec!["99".to_owned(), "b".to_owned()], 200));
}

#[test]
fn a_tombstone_stays_for_a_day_and_the_key_may_come_back() {
    let mut subject = Embedded::fresh(1);
    let calls = |keys: &[(&str, Option<&str>)]| keys.iter().map(|(k, v)| output(Topic::OpenCalls, k, *v)).collect::<Vec<_>>();
    subject.at(0);
    subject.publish(calls(&[("gone", Some("1")), ("gone", None), ("back", Some("1")), ("back", None), ("last", None)]));
    assert_eq!(subject.maintain(2 * HOUR), 2);
    subject.at(3 * HOUR);
    subject.publish(calls(&[("back", Some("2")), ("end", None)]));
    subject.maintain(DAY - 1);
    assert_eq!(texts(&subject.all(Topic::OpenCalls)), ["-", "-", "2", "-"], "the one whose key came back is superseded");
    assert_eq!(subject.maintain(DAY), 2);
    // The last record keeps the offsets.
    assert_eq!(subject.maintain(9 * DAY), 0);
    subject = subject.restarted();
    assert_eq!(subject.reader().end(Topic::OpenCalls, 0).unwrap(), 7);
    subject.publish(calls(&[("gone", Some("again"))]));
    assert_eq!(subject.maintain(9 * DAY), 1);
    assert_eq!(texts(&subject.all(Topic::OpenCalls)), ["2", "again"]);
}

#[test]
fn cleaning_in_pieces_and_over_restarts_keeps_what_a_map_keeps() {
    let mut subject = Embedded::fresh(1);
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    // A fixed, mixed order: no randomness is needed to have keys come often, seldom and once.
    for round in 0..40_i64 {
        subject.at(round * HOUR);
        let mut outputs = Vec::new();
        for n in 0..700_i64 {
            let key = (n * n * (round % 7 + 1) % 1_009).to_string();
            let value = (n % 11 != 3).then(|| format!("{round}-{n}"));
            outputs.push(output(Topic::CompanyNumbers, &key, value.as_deref()));
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        subject.publish(outputs);
        if round % 5 == 0 {
            subject.log.maintain(round * HOUR).unwrap();
        }
        if round % 16 == 0 {
            subject = subject.restarted();
        }
    }
    subject.publish(vec![output(Topic::CompanyNumbers, "end", Some("end"))]);
    map.insert("end".to_owned(), "end".to_owned());
    assert!(subject.maintain(10 * DAY) > 0);
    let kept: Vec<(String, String)> = subject
        .all(Topic::CompanyNumbers)
        .into_iter()
        .map(|r| (String::from_utf8(r.key.into()).unwrap(), String::from_utf8(r.value.expect("tombstones are gone").into()).unwrap()))
        .collect();
    assert_eq!(kept.len(), map.len(), "one record per key");
    assert_eq!(kept.into_iter().collect::<BTreeMap<_, _>>(), map);
}

#[test]
fn a_broken_record_is_named() {
    let subject = Embedded::fresh(1);
    append(&subject, "1", "x");
    let database = subject.database(0);
    let mut batch = rocksdb::WriteBatch::default();
    batch.put_cf(database.extra("log.events").unwrap(), 0_i64.to_be_bytes(), b"broken");
    database.write(batch).unwrap();
    let error = subject.reader().read(Topic::Events, 0, 0, 10).unwrap_err().to_string();
    assert!(error.contains("events offset 0") && error.contains(&subject.dir.path().display().to_string()), "{error}");
}

#[test]
fn many_appenders_share_syncs() {
    let subject = Embedded::fresh(1);
    let appender = subject.appender();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let began = Instant::now();
    // More at once than there is room in the queue.
    const APPENDERS: usize = 10_000;
    let mut places: Vec<i64> = runtime.block_on(async {
        let tasks: Vec<_> = (0..APPENDERS)
            .map(|n| {
                let appender = appender.clone();
                tokio::spawn(async move { appender.append(input("1", &n.to_string())).await.unwrap().offset })
            })
            .collect();
        let mut places = Vec::new();
        for task in tasks {
            places.push(task.await.unwrap());
        }
        places
    });
    println!("{APPENDERS} appends in {:?}", began.elapsed());
    places.sort_unstable();
    assert_eq!(places, (0..10_000).collect::<Vec<i64>>());
}

const CHILD_DIR: &str = "CALLSIEVE_TEST_LOG_DIR";

/// Runs in a process of its own, which the test after it kills: appends and commits for ever, and says on standard output what was acknowledged.
#[test]
#[ignore = "the child of killed_at_any_moment_keeps_what_it_acknowledged"]
fn child_that_appends_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let log = open(Path::new(&dir), 1, &Arc::new(AtomicI64::new(0))).unwrap();
    let subject = Embedded { log, partitions: 1, clock: Arc::default(), dir: Arc::new(tempfile::tempdir_in(&dir).unwrap()) };
    let mut worker = subject.worker();
    for n in 0.. {
        let place = append(&subject, "1", &n.to_string());
        println!("acknowledged {}", place.offset);
        if n % 3 == 0 {
            let next = place.offset + 1;
            let outputs = [0, 1].map(|i| output(Topic::CallVerdicts, &format!("1/{next}"), Some(&i.to_string()))).to_vec();
            worker.commit(vec![commit(&subject, 0, position(next), outputs)]).unwrap();
        }
    }
}

#[test]
fn killed_at_any_moment_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut acknowledged, clock) = (-1, Arc::default());
    for round in 0..5_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "log::embedded::tests::child_that_appends_until_killed", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, offset)) = line.rsplit_once("acknowledged ") {
                acknowledged = offset.parse().unwrap();
                seen += 1;
            }
            if seen > 20 + round * 17 {
                break;
            }
        }
        // On Unix this is SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            // A last line may be cut off.
            if let Some(offset) = line.rsplit_once("acknowledged ").and_then(|(_, o)| o.parse::<i64>().ok()) {
                acknowledged = acknowledged.max(offset);
            }
        }
        assert!(seen > 20, "the child didn't run");

        let log = open(dir.path(), 1, &clock).unwrap();
        let events = log.reader().read(Topic::Events, 0, 0, usize::MAX).unwrap();
        assert!(events.next > acknowledged, "{} of {acknowledged} acknowledged", events.next);
        assert!(events.records.iter().map(|r| r.offset).eq(0..events.next));
        // Outputs, position and state agree.
        let verdicts = log.reader().read(Topic::CallVerdicts, 0, 0, usize::MAX).unwrap();
        let committed = log.reader().committed(0).unwrap().unwrap().position;
        let last = verdicts.records.last().unwrap();
        assert_eq!(last.key, format!("1/{}", committed.next).into_bytes());
        assert_eq!(verdicts.records.len() % 2, 0, "half a commit");
        let database = log.database(0).unwrap();
        let state = database.get(database.family(crate::state::database::Family::Meta), b"seen").unwrap().unwrap();
        assert_eq!(state.as_ref(), committed.next.to_be_bytes());
    }
}
