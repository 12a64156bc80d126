//! How fast one partition turns legs into verdicts, and builds a lost state anew from them: `make bench ARGS="--bench step"`. Prints a line per figure, and
//! ends with 1 if the limit is missed.
//!
//! The input is some hours of simulated companies whose calls overlap as in life, made before the clock starts: a record for
//! each telephony notification, which speaks of one leg. What is measured is what the processor does with a polled batch on its one thread:
//! decode, step, encode the outputs, and write the changed state to RocksDB in one batch. The log is left out; it has a benchmark of its own.
//!
//! Times are the thread's own on the processor, as Linux counts them (elsewhere those of the clock): the limit is about one core, and not about what
//! else the machine does. The clock's are printed beside them. RocksDB's threads, which write its buffers out, are not in them.
//!
//! `CALLSIEVE_STEP_ROUNDS` (5) is how often the input is worked through, each time from an empty state; the best round counts.
//! `CALLSIEVE_STEP_ONLY=1` measures the whole alone, for a profiler.

use anyhow::Context;
use callsieve::event::{AccountId, Event, Millis, SnapshotCompleted, Tick, decode_facts, encode_event};
use callsieve::judge::number::Country;
use callsieve::log::{Came, Committed, LogError, Output, OutputEnds, Position, Read, Reader, Record, Topic};
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::roles::bring_up::{Copy, Watch};
use callsieve::roles::partition::Partition;
use callsieve::simulate::{AccountLists, Company, CompanyConfig};
use callsieve::state::Store;
use callsieve::state::database::{Database, DatabaseOptions, Engine};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Legs a second on one core.
const LIMIT: f64 = 400_000.0;
/// Records of one batch, as the processor polls them.
const BATCH: usize = 5_000;
/// Companies on the partition.
const COMPANIES: u64 = 8;
const HOURS: u32 = 8;
const CALLS_PER_HOUR: u32 = 600;
const DAY: Millis = 86_400_000;

/// What the partition is given, in order: first the companies' numbers, then their calls.
struct Prepared {
    snapshot: Vec<Record>,
    legs: Vec<Record>,
    bytes: usize,
}

fn record(offset: usize, timestamp: Millis, account: &AccountId, event: &Event) -> anyhow::Result<Record> {
    let (offset, key) = (i64::try_from(offset)?, account.as_str().as_bytes().to_vec());
    Ok(Record { offset, timestamp, key: key.into(), value: Some(encode_event(event).into()), headers: Vec::new(), came: Came::AsItIs })
}

fn prepare() -> anyhow::Result<Prepared> {
    let config = CompanyConfig { users: 120, ..CompanyConfig::default() };
    let start = config.start + 10 * DAY;
    let mut snapshot: Vec<Record> = Vec::new();
    let mut arriving: Vec<(Millis, AccountId, Event)> = Vec::new();
    for seed in 1..=COMPANIES {
        let company = Company::generate(seed, &config);
        let account = AccountId::parse(&company.account_id.to_string())?;
        let asked = |received_at, history| Asked { account: Some(&account), received_at: Some(received_at), country: Country::DEFAULT, history };
        for document in (AccountLists { company: &company, base: "https://platform.example", at: start }).all() {
            for event in read_document(&serde_json::to_vec(&document)?, &asked(start, true)).context("a list")?.events {
                snapshot.push(record(snapshot.len(), start, &account, &event)?);
            }
        }
        let completed = SnapshotCompleted { account_id: account.clone(), sync_id: "1".into(), completed_at: start, numbers_seen: 0 };
        snapshot.push(record(snapshot.len(), start, &account, &Event::SnapshotCompleted(completed))?);
        for notification in company.hours(start, HOURS, CALLS_PER_HOUR).iter().flat_map(|call| &call.notifications) {
            let mut json = String::new();
            notification.write_for("sub-1", "101", &mut json);
            let read = read_document(json.as_bytes(), &asked(notification.due, false)).context("a notification")?;
            arriving.extend(read.events.into_iter().map(|event| (notification.due, account.clone(), event)));
        }
    }
    arriving.sort_by_key(|(due, _, _)| *due);
    anyhow::ensure!(arriving.iter().all(|(_, _, event)| matches!(event, Event::CallLegs(facts) if facts.legs.len() == 1)), "an event is not one leg");
    let legs = (snapshot.len()..).zip(&arriving).map(|(offset, (due, account, event))| record(offset, *due, account, event));
    let legs = legs.collect::<anyhow::Result<Vec<_>>>()?;
    let bytes = legs.iter().map(|leg| leg.value.as_deref().map_or(0, <[u8]>::len)).sum();
    Ok(Prepared { snapshot, legs, bytes })
}

/// Time on the processor, and time by the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Took {
    core: Duration,
    clock: Duration,
}

struct Since {
    core: Option<Duration>,
    clock: Instant,
}

impl Since {
    fn now() -> Self {
        Self { core: on_core(), clock: Instant::now() }
    }

    fn took(&self) -> Took {
        let clock = self.clock.elapsed();
        Took { core: on_core().zip(self.core).map_or(clock, |(now, then)| now.saturating_sub(then)), clock }
    }
}

/// How long this thread has been on a core: the first figure of its `schedstat`, in nanoseconds.
fn on_core() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// What one round through the input took and left.
struct Round {
    whole: Took,
    batches: Vec<Took>,
    verdicts: usize,
    published_bytes: usize,
    state_bytes: u64,
    rows: usize,
}

/// What becomes of the changed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// It is encoded, and dropped: what memory has forgotten of links isn't known then.
    Not,
    /// It is written as on Kafka, where the topics are the log.
    WithoutLog,
    /// It is written as on the embedded log.
    WithLog,
}

/// Works through the input. What is published goes to `take`, whose time counts.
fn work(prepared: &Prepared, dir: &Path, writes: Writes, mut take: impl FnMut(Vec<Output>)) -> anyhow::Result<Round> {
    let engine = Engine::new(&DatabaseOptions { write_ahead_log: writes != Writes::WithoutLog, ..DatabaseOptions::default() });
    let database = Arc::new(Database::open(dir, &engine, &[])?);
    let mut partition =
        Partition::new(0, 1, Store::open(database.clone())?, Position { next: 0, partition_time: 0, low_water: 0, low_water_time: 0 });
    let mut published = Vec::new();
    for records in prepared.snapshot.chunks(BATCH) {
        partition.step(records, &mut published)?;
        database.write(partition.store.take_batch()?)?;
    }
    anyhow::ensure!(published.iter().all(|output| output.topic != Topic::DeadLetters), "a list is a dead letter");

    let mut round = Round { whole: Took::default(), batches: Vec::new(), verdicts: 0, published_bytes: 0, state_bytes: 0, rows: 0 };
    take(published);
    let began = Since::now();
    for records in prepared.legs.chunks(BATCH) {
        let batch_began = Since::now();
        let mut published = Vec::new();
        partition.step(records, &mut published)?;
        let state = partition.store.take_batch()?;
        round.rows += state.len();
        if writes != Writes::Not {
            database.write(state)?;
        }
        round.batches.push(batch_began.took());
        round.verdicts += published.iter().filter(|output| output.topic == Topic::CallVerdicts).count();
        round.published_bytes += published.iter().filter_map(|output| output.value.as_ref()).map(Vec::len).sum::<usize>();
        anyhow::ensure!(published.iter().all(|output| output.topic != Topic::DeadLetters), "a leg is a dead letter");
        take(published);
    }
    round.whole = began.took();

    // Time goes on until the last call is judged: a fast run that leaves calls lying would prove nothing.
    let end = prepared.legs.last().context("no legs")?;
    let mut published = Vec::new();
    for n in 1..=20 {
        let at = end.timestamp + n * DAY;
        let tick = Event::Tick(Tick { at });
        partition.step(
            &[Record {
                offset: end.offset + n,
                timestamp: at,
                key: bytes::Bytes::new(),
                value: Some(encode_event(&tick).into()),
                headers: Vec::new(),
                came: Came::AsItIs,
            }],
            &mut published,
        )?;
    }
    anyhow::ensure!(partition.store.next_deadline().is_none(), "a call is left open");
    round.verdicts += published.iter().filter(|output| output.topic == Topic::CallVerdicts).count();
    take(published);
    database.write(partition.store.take_batch()?)?;
    for entry in std::fs::read_dir(dir)? {
        round.state_bytes += entry?.metadata()?.len();
    }
    Ok(round)
}

fn decode_only(prepared: &Prepared) -> anyhow::Result<Took> {
    let began = Since::now();
    for record in &prepared.legs {
        std::hint::black_box(decode_facts(record.value.as_deref().context("no value")?).context("no facts")??);
    }
    Ok(began.took())
}

/// What a round has published, in memory, as who builds a state anew reads it.
#[derive(Default)]
struct Topics([Vec<Record>; Topic::ALL.len()]);

impl Topics {
    fn append(&mut self, published: Vec<Output>) {
        for output in published {
            let records = &mut self.0[output.topic.index()];
            let (offset, timestamp) = (i64::try_from(records.len()).unwrap_or(i64::MAX), 0);
            let (key, value) = (output.key.into(), output.value.map(Into::into));
            records.push(Record { offset, timestamp, key, value, headers: output.headers, came: Came::AsItIs });
        }
    }
}

impl Reader for Topics {
    fn partitions(&self) -> u32 {
        1
    }

    fn start(&self, _: Topic, _: u32) -> Result<i64, LogError> {
        Ok(0)
    }

    fn end(&self, topic: Topic, _: u32) -> Result<i64, LogError> {
        Ok(i64::try_from(self.0[topic.index()].len()).unwrap_or(i64::MAX))
    }

    fn read(&self, topic: Topic, _: u32, from: i64, max: usize) -> Result<Read, LogError> {
        let rest = self.0[topic.index()].iter().skip(usize::try_from(from).unwrap_or(0));
        let records: Vec<Record> = rest.take(max).cloned().collect();
        Ok(Read { next: records.last().map_or(from, |record| record.offset + 1), records })
    }

    fn subscribe_end(&self, topic: Topic, partition: u32) -> Result<tokio::sync::watch::Receiver<i64>, LogError> {
        Ok(tokio::sync::watch::channel(self.end(topic, partition)?).1)
    }

    fn committed(&self, _: u32) -> Result<Option<Committed>, LogError> {
        Ok(None)
    }
}

/// Builds the state of a round anew.
fn restore(topics: &Topics, dir: &Path) -> anyhow::Result<Took> {
    let engine = Engine::new(&DatabaseOptions { write_ahead_log: false, ..DatabaseOptions::default() });
    let mut copy = Copy::open(0, Arc::new(Database::open(dir, &engine, &[])?))?;
    let position = Position { next: 1, partition_time: 0, low_water: 1, low_water_time: 0 };
    let committed = Committed { position, ends: OutputEnds::default(), partitions: 1, holder: None };
    let began = Since::now();
    let is_up = copy.bring_up(topics, &committed, &Watch { is_cancelled: &|| false, progress: &|_, _| {}, by: "benchmark" })?;
    anyhow::ensure!(is_up, "it was cut off");
    Ok(began.took())
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

fn main() -> anyhow::Result<ExitCode> {
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let rounds = setting("CALLSIEVE_STEP_ROUNDS").unwrap_or(5).max(1);
    let whole_alone = setting("CALLSIEVE_STEP_ONLY").is_some_and(|only| only > 0);
    let prepared = prepare()?;
    let dir = tempfile::tempdir()?;
    let legs = prepared.legs.len();
    println!(
        "{legs} legs of {COMPANIES} companies in {HOURS} h, {} bytes each, after {} records of numbers",
        prepared.bytes / legs,
        prepared.snapshot.len()
    );

    let rate = |took: Duration| legs as f64 / took.as_secs_f64();
    let line = |what: &str, took: Took| {
        let micros = took.core.as_secs_f64() * 1e6 / legs as f64;
        let megabytes = prepared.bytes as f64 / took.core.as_secs_f64() / 1e6;
        println!(
            "{what:<45} {:>8.0} legs/s {megabytes:>6.1} MB/s {micros:>6.3} us/leg   (by the clock {:>8.0} legs/s)",
            rate(took.core),
            rate(took.clock)
        );
    };
    let of_rounds = |writes: Writes| -> anyhow::Result<Vec<Round>> {
        let mut done = Vec::new();
        for n in 0..rounds {
            done.push(work(&prepared, &dir.path().join(format!("{writes:?}{n}")), writes, drop)?);
        }
        done.sort_by_key(|round| round.whole);
        Ok(done)
    };
    if !whole_alone {
        let decodes = (0..rounds).map(|_| decode_only(&prepared)).collect::<anyhow::Result<Vec<_>>>()?;
        line("decode only", decodes.into_iter().min().unwrap_or_default());
        line("decode, step, encode, without writing", of_rounds(Writes::Not)?[0].whole);
        line("the same, written to RocksDB without its log", of_rounds(Writes::WithoutLog)?[0].whole);
    }
    let done = of_rounds(Writes::WithLog)?;
    let best = &done[0];
    line("the same, written with its write-ahead log", best.whole);
    line("the same, median round", done[done.len() / 2].whole);
    let figures = |name: &str, of: fn(&Took) -> Duration| {
        let mut batches: Vec<Duration> = done.iter().flat_map(|round| round.batches.iter().map(of)).collect();
        batches.sort_unstable();
        println!("a batch of {BATCH}, all rounds, {name}: p50 {:.1} ms, p99 {:.1} ms", percentile(&batches, 50), percentile(&batches, 99));
    };
    figures("on the core", |took| took.core);
    figures("by the clock", |took| took.clock);
    println!(
        "{} verdicts, {} rows written, {:.1} MB published in time, {:.1} MB on disk (write-ahead log included)",
        best.verdicts,
        best.rows,
        best.published_bytes as f64 / 1e6,
        best.state_bytes as f64 / 1e6
    );
    if !whole_alone {
        let mut topics = Topics::default();
        work(&prepared, &dir.path().join("published"), Writes::WithoutLog, |published| topics.append(published))?;
        let restores = (0..rounds).map(|n| restore(&topics, &dir.path().join(format!("restored{n}")))).collect::<anyhow::Result<Vec<_>>>()?;
        let took = restores.into_iter().min().unwrap_or_default();
        let records = topics.0.iter().map(Vec::len).sum::<usize>() as f64;
        println!(
            "built anew from what was published: {:.0} records/s, {:.2} us each   (by the clock {:.0} records/s)",
            records / took.core.as_secs_f64(),
            took.core.as_secs_f64() * 1e6 / records,
            records / took.clock.as_secs_f64()
        );
    }
    dir.close()?;
    let reached = rate(best.whole.core);
    println!("{reached:.0} legs/s, limit {LIMIT:.0}: {}", if reached >= LIMIT { "ok" } else { "MISSED" });
    Ok(if reached >= LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
