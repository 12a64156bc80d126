//! The embedded log against its limits: `make bench ARGS="--bench log"`. Prints a line per figure, and ends with 1 if a limit is missed.
//!
//! Latencies and times to open are no matter of a mean, so this measures by itself. The directory is made where `TMPDIR` says; a sync on a tmpfs
//! proves nothing.

use callsieve::log::embedded::{EmbeddedAppender, EmbeddedLog, EmbeddedOptions, Retention};
use callsieve::log::system_clock;
use callsieve::log::{Appender, Commit, Input, Log, Output, Position, Topic};
use callsieve::state::database::{DatabaseOptions, Engine, Family};
use rocksdb::WriteBatch;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A notification of one leg, as Avro, has about so many bytes.
const EVENT_BYTES: usize = 300;
/// A judged call has about so many.
const CALL_BYTES: usize = 1_000;

fn open(dir: &Path) -> anyhow::Result<EmbeddedLog> {
    let engine = Engine::new(&DatabaseOptions::default());
    Ok(EmbeddedLog::open(dir, &engine, &EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() })?)
}

fn input(n: usize) -> Input {
    let value = (0..EVENT_BYTES).map(|i| ((n * 31 + i * 7) % 251) as u8).collect();
    Input { account: (n % 50).to_string(), value, headers: Vec::new() }
}

fn report(what: &str, figure: f64, unit: &str, limit: f64, at_least: bool) -> bool {
    let met = if at_least { figure >= limit } else { figure <= limit };
    let (relation, mark) = (if at_least { "at least" } else { "at most" }, if met { "ok" } else { "MISSED" });
    println!("{what:<60} {figure:>12.1} {unit:<12} ({relation} {limit} {unit}) {mark}");
    met
}

/// Appends of single records by many tasks at once; returns records a second.
async fn throughput(appender: EmbeddedAppender, records: usize) -> anyhow::Result<f64> {
    const TASKS: usize = 512;
    let began = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let appender = appender.clone();
            tokio::spawn(async move {
                for n in 0..records / TASKS {
                    appender.append(input(task + n * TASKS)).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok((records / TASKS * TASKS) as f64 / began.elapsed().as_secs_f64())
}

/// Appends at a steady rate, whether or not earlier ones were answered; returns the 99th percentile of the answers' latency in milliseconds.
async fn latency(appender: EmbeddedAppender, per_second: usize, seconds: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut tasks = Vec::new();
    for n in 0..per_second * seconds {
        let due = began + Duration::from_secs_f64(n as f64 / per_second as f64);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let appender = appender.clone();
        tasks.push(tokio::spawn(async move {
            appender.append(input(n)).await?;
            anyhow::Ok(due.elapsed())
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.push(task.await??);
    }
    latencies.sort_unstable();
    Ok(latencies[latencies.len() * 99 / 100].as_secs_f64() * 1e3)
}

/// Works through the input as the processor does: a verdict and a row of state for every fourth record. Ends when `done` says so of the next offset;
/// returns records a second.
fn work(log: &EmbeddedLog, done: impl Fn(i64) -> bool) -> anyhow::Result<f64> {
    let mut worker = log.worker(&[0])?;
    let database = log.database(0)?;
    let began = Instant::now();
    let first = worker.reader().committed(0)?.map_or(0, |committed| committed.position.next);
    let mut next = first;
    while !done(next) {
        for batch in worker.poll(2_000, Duration::from_millis(100))? {
            let mut state = WriteBatch::default();
            let mut outputs = Vec::new();
            for record in batch.records.iter().step_by(4) {
                let key = format!("{}/s-{}", String::from_utf8_lossy(&record.key), record.offset);
                state.put_cf(database.family(Family::Judged), &key, vec![7; CALL_BYTES]);
                outputs.push(Output { topic: Topic::CallVerdicts, key: key.into_bytes(), value: Some(vec![7; CALL_BYTES]), headers: Vec::new() });
            }
            next = batch.records.last().map_or(next, |r| r.offset + 1);
            let position = Position { next, partition_time: 0, low_water: next, low_water_time: 0 };
            worker.commit(vec![Commit { partition: 0, position, outputs, state, database: database.clone() }])?;
        }
    }
    Ok((next - first) as f64 / began.elapsed().as_secs_f64())
}

/// Keys that come in no order, as sessions do.
fn call_key(n: usize) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

/// Fills the state with judged calls, closes, and returns the seconds that opening takes.
fn opening(dir: &Path, calls: usize) -> anyhow::Result<f64> {
    let log = open(dir)?;
    let database = log.database(0)?;
    for from in (0..calls).step_by(1_000) {
        let mut batch = WriteBatch::default();
        for n in from..from + 1_000 {
            let value: Vec<u8> = (0..CALL_BYTES).map(|i| ((n * 131 + i * i) % 251) as u8).collect();
            batch.put_cf(database.family(Family::Judged), call_key(n), value);
        }
        database.write(batch)?;
    }
    drop(database);
    drop(log);
    // Closing writes nothing out, so what is left to replay is what a kill would leave.
    let replayed: u64 = std::fs::read_dir(dir.join("0"))?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "log"))
        .map(|entry| entry.metadata().map_or(0, |m| m.len()))
        .sum();
    let began = Instant::now();
    let log = open(dir)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("(opening replayed {} MB of write-ahead log)", replayed / 1_000_000);
    let database = log.database(0)?;
    for n in (0..calls).step_by(calls / 100) {
        anyhow::ensure!(database.get(database.family(Family::Judged), &call_key(n))?.is_some(), "call {n} is missing");
    }
    Ok(seconds)
}

fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut met = true;

    let log = open(&dir.path().join("ingress"))?;
    let rate = runtime.block_on(throughput(log.appender(), 200_000))?;
    met &= report("appends of single records, 512 at once", rate, "records/s", 20_000.0, true);
    let end = log.reader().end(Topic::Events, 0)?;
    met &= report("poll and commit, a verdict for every fourth record", work(&log, |next| next >= end)?, "records/s", 100_000.0, true);
    let stop = AtomicBool::new(false);
    let p99 = std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(&log, |_| stop.load(Ordering::Relaxed)));
        let p99 = runtime.block_on(latency(log.appender(), 10_000, 5));
        stop.store(true, Ordering::Relaxed);
        worker.join().map_err(|_| anyhow::anyhow!("the worker panicked"))??;
        p99
    })?;
    met &= report("p99 of an append at 10,000 a second, with a worker behind it", p99, "ms", 20.0, false);
    drop(log);

    let millis = 1e3 * opening(&dir.path().join("state"), 1_000_000)?;
    met &= report("opening with 1,000,000 judged calls of 1 kB", millis, "ms", 1_000.0, false);

    dir.close()?;
    anyhow::ensure!(met, "a limit was missed");
    Ok(())
}
