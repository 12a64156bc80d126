//! The whole on a real Kafka, as a user runs it: `make bench-kafka`. One broker on the same machine, 12 partitions, Avro in and out, exactly once. Prints
//! a line per figure, beside the ceiling of the same run and beside what the same job on Kafka Streams 4.3.1 did on such a machine.
//!
//! The parts, of which `CALLSIEVE_BENCH` names some (all): `throughput`, `latency`, `restore`. `CALLSIEVE_BENCH_ROUNDS` (8) are the rounds of 368,280 legs for
//! the throughput, `CALLSIEVE_BENCH_RATE` the legs a second that the latencies are shares of (measured), `CALLSIEVE_BENCH_CALLS` (400,000 and 4,000,000)
//! the judged calls that are restored.

#[path = "ceiling.rs"]
mod ceiling;
#[path = "input.rs"]
mod input;
#[path = "service.rs"]
mod service;

use anyhow::Context;
use callsieve::event::{AccountId, CallVerdict, Event, SessionId, Tick, decode, encode, encode_event};
use callsieve::log::kafka::{Kafka, KafkaSettings};
use callsieve::log::{Commit, Log, Position, Reader, Topic, partition_of};
use callsieve::state::database::{Database, DatabaseOptions, Engine};
use input::{Ingress, PARTITIONS, Prepared, fresh};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use service::{Progress, Service, Usage, broker};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Kafka Streams 4.3.1 with the same job on two such cores (tuned, exactly once, 12 partitions).
const STREAMS_LEGS: [f64; 2] = [77_000.0, 74_000.0];
const STREAMS_LATENCY: &str = "Kafka Streams at 5,000 legs/s: p50 81 ms, p99 149 ms";
const STREAMS_RESTART: &str = "Kafka Streams with 400,000 calls: 4.8 s; after kill -9 the first verdict after 4.9 s, every partition's after 20 s";
const STREAMS_RESTORE: &str = "Kafka Streams with 400,000 calls: 6.2 s from a lost disk";

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() -> anyhow::Result<()> {
    let brokers = std::env::var("CALLSIEVE_TEST_BROKERS").context("CALLSIEVE_TEST_BROKERS isn't set: run this by make bench-kafka")?;
    let wanted = std::env::var("CALLSIEVE_BENCH").unwrap_or_default();
    let wants = |part: &str| wanted.is_empty() || wanted.split(',').any(|name| name == part);
    let prepared = Prepared::new()?;
    let mut rate = setting("CALLSIEVE_BENCH_RATE").unwrap_or(0.0);
    if wants("throughput") {
        rate = f64::max(rate, throughput(&brokers, &prepared)?);
    }
    if wants("latency") {
        anyhow::ensure!(rate > 0.0, "CALLSIEVE_BENCH_RATE is needed where the throughput isn't measured");
        for share in [0.1, 0.5, 0.9] {
            latency(&brokers, &prepared, rate * share, &format!("{:.0} % of the throughput", share * 100.0))?;
        }
        latency(&brokers, &prepared, 5_000.0, STREAMS_LATENCY)?;
    }
    if wants("restore") {
        let calls = setting("CALLSIEVE_BENCH_CALLS").map_or_else(|| vec![400_000, 4_000_000], |calls| vec![calls]);
        for calls in calls {
            restore(&brokers, &prepared, calls)?;
        }
    }
    Ok(())
}

// ---- throughput ----

fn fill(settings: &KafkaSettings, prepared: &Prepared, rounds: u32) -> anyhow::Result<i64> {
    let ingress = Ingress::new(settings, 20)?;
    let mut records = 0;
    for round in 0..rounds {
        let mut append = |at, event: Event| {
            records += 1;
            ingress.append(at, &event)
        };
        prepared.numbers_of(round, &mut append)?;
        prepared.legs_of(round, &mut append)?;
    }
    ingress.flush()?;
    Ok(records)
}

fn throughput(brokers: &str, prepared: &Prepared) -> anyhow::Result<f64> {
    let rounds = setting("CALLSIEVE_BENCH_ROUNDS").unwrap_or(8);
    let mut best = 0.0;
    for workers in [1, 2] {
        let settings = fresh(brokers, "throughput")?;
        let records = fill(&settings, prepared, rounds)?;
        let dir = tempfile::tempdir()?;
        let mut service = Service::start(&settings, &dir.path().join("data"), workers)?;
        service.ready()?;
        let broker_before = broker().map(Usage::of).transpose()?;
        let before = service.usage()?;
        let (first, took) = Progress::new(&settings)?.until(records)?;
        let after = service.usage()?;
        let broker_after = broker().map(Usage::of).transpose()?;
        let legs = (records - first) as f64;
        let rate = legs / took.as_secs_f64();
        let micros = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / records as f64;
        let of_broker = broker_before.zip(broker_after).map_or(0.0, |(before, after)| micros(before.core, after.core));

        let (published, bytes) = check(&settings, prepared, rounds)?;
        service.kill()?;
        let every = (records as usize / published).max(1);
        let ceiling = ceiling::run(&settings, records, workers, every, bytes / published)?;
        println!(
            "{workers} worker(s): {rate:.0} legs/s, {:.0} % of the ceiling of {ceiling:.0} (goal 60 %), {:.1} times Kafka Streams' {:.0}; {records} records, {published} verdicts of {} bytes",
            100.0 * rate / ceiling,
            rate / STREAMS_LEGS[workers as usize - 1],
            STREAMS_LEGS[workers as usize - 1],
            bytes / published,
        );
        println!(
            "  {:.2} us of CPU a leg, and {of_broker:.2} us of the broker's; {:.0} MB of memory at most",
            micros(before.core, after.core),
            after.memory as f64 / 1e6
        );
        best = f64::max(best, rate);
    }
    Ok(best)
}

/// Lets the last deadlines pass, and holds all verdicts against the truth. Returns how many there are, and their bytes.
fn check(settings: &KafkaSettings, prepared: &Prepared, rounds: u32) -> anyhow::Result<(usize, usize)> {
    let ingress = Ingress::new(settings, 1)?;
    let at = prepared.end(rounds);
    for partition in 0..i32::try_from(PARTITIONS)? {
        ingress.append_to(partition, "", at, &encode_event(&Event::Tick(Tick { at })))?;
    }
    ingress.flush()?;
    let truth = prepared.truth(rounds)?;
    let reader = Kafka::connect(settings.clone())?.reader();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (mut newest, mut count, mut bytes) = (BTreeMap::new(), 0, 0);
        each_verdict(&reader, |key, value| {
            let verdict: CallVerdict = decode(value)?;
            if verdict.superseded_by.is_none() {
                newest.insert(String::from_utf8(key.to_vec())?, verdict.verdict);
            }
            (count, bytes) = (count + 1, bytes + value.len());
            Ok(())
        })?;
        let wrong = truth.iter().filter(|(key, verdict)| newest.get(*key) != Some(verdict)).count();
        if wrong == 0 && newest.len() == truth.len() {
            return Ok((count, bytes));
        }
        anyhow::ensure!(Instant::now() < until, "{wrong} of {} calls have a wrong verdict or none; {} have one", truth.len(), newest.len());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn each_verdict(reader: &impl Reader, mut take: impl FnMut(&[u8], &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for partition in 0..PARTITIONS {
        let (mut next, end) = (0, reader.end(Topic::CallVerdicts, partition)?);
        while next < end {
            let read = reader.read(Topic::CallVerdicts, partition, next, 10_000)?;
            for record in &read.records {
                take(&record.key, record.value.as_deref().unwrap_or_default())?;
            }
            next = read.next;
        }
    }
    Ok(())
}

// ---- latency ----

fn latency(brokers: &str, prepared: &Prepared, rate: f64, what: &str) -> anyhow::Result<()> {
    const WARM_UP: Duration = Duration::from_secs(5);
    const MEASURED: Duration = Duration::from_secs(20);
    let settings = fresh(brokers, "latency")?;
    let ingress = Ingress::new(&settings, 0)?;
    let legs = (rate * (WARM_UP + MEASURED).as_secs_f64()) as usize;
    let rounds = u32::try_from(legs / prepared.legs() + 1)?;
    for round in 0..rounds {
        // All at the beginning: a partition's time doesn't go back, and would stand still until the legs have reached it.
        prepared.numbers_of(round, |_, event| ingress.append(prepared.start(), &event))?;
    }
    ingress.flush()?;
    let dir = tempfile::tempdir()?;
    let mut service = Service::start(&settings, &dir.path().join("data"), 2)?;
    service.ready()?;
    let stop = AtomicBool::new(false);
    let (seen, begun) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&settings, &stop));
        let begun = Instant::now();
        let mut sent = 0;
        'sending: for round in 0..rounds {
            let mut ended = false;
            prepared.legs_of(round, |at, event| {
                if ended || sent >= legs {
                    ended = true;
                    return Ok(());
                }
                let due = begun + Duration::from_secs_f64(sent as f64 / rate);
                let early = due.saturating_duration_since(Instant::now());
                if early > Duration::from_micros(300) {
                    std::thread::sleep(early);
                }
                sent += 1;
                ingress.append(at, &event)
            })?;
            if ended {
                break 'sending;
            }
        }
        ingress.flush()?;
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Release);
        let seen = watching.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        anyhow::Ok((seen, begun))
    })?;
    let mut latencies: Vec<Duration> = seen
        .iter()
        .filter_map(|(partition, position, at)| {
            let sent = ingress.sent_at().of(*partition, *position)?;
            (sent >= begun + WARM_UP).then(|| at.saturating_duration_since(sent))
        })
        .collect();
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies.get(latencies.len() * percent / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
    println!(
        "{rate:.0} legs/s ({what}): from the deciding record to the committed verdict p50 {:.1} ms, p99 {:.1} ms of {} verdicts",
        percentile(50),
        percentile(99),
        latencies.len()
    );
    service.kill()
}

/// Each verdict as a read_committed reader sees it: partition, offset of the record that decided it, and when it was seen.
fn watch(settings: &KafkaSettings, stop: &AtomicBool) -> anyhow::Result<Vec<(i32, i64, Instant)>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("socket.nagle.disable", "true")
        .set("group.id", "nobody")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..i32::try_from(PARTITIONS)? {
        all.add_partition_offset(&settings.topic(Topic::CallVerdicts), partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut seen = Vec::new();
    while !stop.load(Ordering::Acquire) {
        // Connections come and go.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
        let at = Instant::now();
        if let Some(value) = message.payload() {
            let verdict: CallVerdict = decode(value)?;
            seen.push((message.partition(), verdict.position, at));
        }
    }
    Ok(seen)
}

// ---- restore and restart ----

fn restore(brokers: &str, prepared: &Prepared, calls: usize) -> anyhow::Result<()> {
    let settings = fresh(brokers, "restore")?;
    // Verdicts as they are, of one round; then as many others like them as are wanted.
    let sample = fresh(brokers, "sample")?;
    let records = fill(&sample, prepared, 1)?;
    let dir = tempfile::tempdir()?;
    let mut service = Service::start(&sample, &dir.path().join("sample"), 1)?;
    service.ready()?;
    Progress::new(&sample)?.until(records)?;
    service.kill()?;
    let mut verdicts = Vec::new();
    each_verdict(&Kafka::connect(sample)?.reader(), |_, value| {
        verdicts.push(decode::<CallVerdict>(value)?);
        Ok(())
    })?;
    let bytes = publish(&settings, &verdicts, calls)?;
    commit_start(&settings, dir.path())?;

    let data = dir.path().join("data");
    let mut service = Service::start(&settings, &data, 1)?;
    let took = service.ready()?;
    let usage = service.usage()?;
    println!(
        "{calls} judged calls from a lost disk: ready after {:.2} s: {:.0} records/s, {:.0} MB/s (goal 500,000 records/s); {:.2} us of CPU a record; {:.0} MB of memory at most. {STREAMS_RESTORE}",
        took.as_secs_f64(),
        calls as f64 / took.as_secs_f64(),
        bytes as f64 / took.as_secs_f64() / 1e6,
        usage.core.as_secs_f64() * 1e6 / calls as f64,
        usage.memory as f64 / 1e6
    );
    // Some load, so that the kill comes in the middle of something.
    let ingress = Ingress::new(&settings, 1)?;
    let mut left = 50_000;
    prepared.numbers_of(1, |at, event| ingress.append(at, &event))?;
    prepared.legs_of(1, |at, event| {
        left -= 1;
        if left > 0 { ingress.append(at, &event) } else { Ok(()) }
    })?;
    std::thread::sleep(Duration::from_millis(300));
    service.kill()?;
    let mut size = 0;
    for entry in walk(&data)? {
        size += entry.metadata()?.len();
    }
    let begun = Instant::now();
    let mut service = Service::start(&settings, &data, 1)?;
    service.ready()?;
    println!(
        "{calls} judged calls, {:.2} GB on disk, killed under load: ready again after {:.2} s (goal 2 s); {:.0} MB of memory at most. {STREAMS_RESTART}",
        size as f64 / 1e9,
        begun.elapsed().as_secs_f64(),
        service.usage()?.memory as f64 / 1e6
    );
    service.kill()
}

fn walk(dir: &Path) -> anyhow::Result<Vec<std::fs::DirEntry>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(walk(&entry.path())?);
        } else {
            files.push(entry);
        }
    }
    Ok(files)
}

/// Verdicts on so many calls, each of a session of its own, as a worker would have published them.
fn publish(settings: &KafkaSettings, like: &[CallVerdict], calls: usize) -> anyhow::Result<usize> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("socket.nagle.disable", "true")
        .set("linger.ms", "20")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "200000")
        .set("compression.type", "lz4")
        .set("enable.idempotence", "true")
        .create()?;
    let topic = settings.topic(Topic::CallVerdicts);
    let accounts: Vec<AccountId> = (0..500).map(|n| AccountId::parse(&format!("80964{n:04}"))).collect::<Result<_, _>>()?;
    let mut bytes = 0;
    for n in 0..calls {
        let mut verdict = like[n % like.len()].clone();
        verdict.account_id = accounts[n % accounts.len()].clone();
        verdict.session_id = SessionId::parse(&format!("s-a0d1{:016x}z{n:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))?;
        verdict.position = 0;
        let (key, value) = (format!("{}/{}", verdict.account_id, verdict.session_id), encode(&verdict));
        bytes += key.len() + value.len();
        let partition = i32::try_from(partition_of(verdict.account_id.as_str(), PARTITIONS))?;
        let mut record = BaseRecord::to(&topic).partition(partition).key(&key).payload(&value);
        while let Err((error, back)) = producer.send(record) {
            anyhow::ensure!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            record = back;
            producer.poll(Duration::from_millis(5));
        }
        if n % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(300))?;
    Ok(bytes)
}

/// Commits a position in each partition, so that there is something to bring a copy up to.
fn commit_start(settings: &KafkaSettings, dir: &Path) -> anyhow::Result<()> {
    let kafka = Kafka::connect(settings.clone())?;
    let mut worker = kafka.worker(None)?;
    let until = Instant::now() + Duration::from_secs(60);
    while worker.assigned().len() < PARTITIONS as usize {
        anyhow::ensure!(Instant::now() < until, "the partitions are not assigned");
        worker.poll(1, Duration::from_millis(100))?;
    }
    let database = Arc::new(Database::open(&dir.join("nothing"), &Engine::new(&DatabaseOptions::default()), &[])?);
    let start = Position { next: 0, partition_time: 0, low_water: 0, low_water_time: 0 };
    let commit =
        |partition| Commit { partition, position: start, outputs: Vec::new(), state: rocksdb::WriteBatch::default(), database: database.clone() };
    worker.commit((0..PARTITIONS).map(commit).collect())?;
    Ok(())
}
