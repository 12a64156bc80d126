//! The whole on a real Kafka, as a user runs it: `make bench-kafka`. One broker on the same machine, 12 partitions, Avro in and out, exactly once.
//! Prints a line per figure, beside the ceiling of the same run and beside what the same job on Kafka Streams 4.3.1 did on such a machine.
//!
//! The parts, of which `CALLSIEVE_BENCH` names some (all): `throughput`, `latency`, `restore`. `CALLSIEVE_BENCH_ROUNDS` (8) are the rounds of 368,280
//! legs for the throughput, `CALLSIEVE_BENCH_RATE` the legs a second that the latencies are shares of (measured), `CALLSIEVE_BENCH_CALLS` (400,000
//! and 4,000,000) the judged calls that are restored.

#[path = "ceiling.rs"]
mod ceiling;
#[path = "input.rs"]
mod input;
#[path = "service.rs"]
mod service;

use anyhow::Context;
use callsieve::event::{AccountId, CallVerdict, Event, SessionId, Tick, decode, encode, encode_event};
use callsieve::log::kafka::{Kafka, KafkaSettings, remove};
use callsieve::log::{Commit, Log, Position, Reader, Topic, each_record, partition_of};
use callsieve::state::database::{Database, DatabaseOptions, Engine};
use input::{Ingress, PARTITIONS, Prepared, Sent, fresh};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use service::{Progress, Service, Usage, broker, compiled};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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
    if wants("throughput") || wants("latency") {
        warm_up(&brokers, &prepared)?;
    }
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
    let mut ingress = Ingress::new(settings, 20)?;
    let mut records = 0;
    for round in 0..rounds {
        let mut append = |record: &Sent<'_>| {
            records += 1;
            ingress.append(record)
        };
        prepared.numbers_of(round, &mut append)?;
        prepared.legs_of(round, &mut append)?;
    }
    ingress.flush()?;
    Ok(records)
}

/// Lets the broker work until its compiler rests: one that has just started takes a quarter of a core for compiling itself, and goes on with that for
/// minutes. That is neither ours nor the ceiling's.
fn warm_up(brokers: &str, prepared: &Prepared) -> anyhow::Result<()> {
    const AT_REST: f64 = 0.03;
    const MOST_ROUNDS: u32 = 16;
    for round in 1..=MOST_ROUNDS {
        let (begun, before) = (Instant::now(), compiled());
        let settings = fresh(brokers, "warm-up")?;
        process(&settings, prepared, 8, 2)?;
        let used = |(thread, used): (String, Duration)| used - before.get(&thread).copied().unwrap_or_default();
        let compiling: Duration = compiled().into_iter().map(used).sum();
        let share = compiling.as_secs_f64() / begun.elapsed().as_secs_f64();
        remove(&settings)?;
        eprintln!("warming up, round {round}: the broker's compiler takes {:.0} % of a core", share * 100.0);
        if share <= AT_REST {
            break;
        }
    }
    Ok(())
}

fn throughput(brokers: &str, prepared: &Prepared) -> anyhow::Result<f64> {
    let rounds = setting("CALLSIEVE_BENCH_ROUNDS").unwrap_or(8);
    let mut of_one = 0.0;
    for workers in [1, 2] {
        let settings = fresh(brokers, "throughput")?;
        let done = process(&settings, prepared, rounds, workers)?;
        let ceiling = ceiling::run(&settings, done.records, workers, done.records as f64 / done.published.max(1) as f64)?;
        println!(
            "{workers} worker(s): {:.0} legs/s, {:.0} % of the ceiling of {ceiling:.0} (goal 60 %), {:.1} times Kafka Streams' {:.0}; {} records, {} verdicts of {} bytes",
            done.rate,
            100.0 * done.rate / ceiling,
            done.rate / STREAMS_LEGS[workers as usize - 1],
            STREAMS_LEGS[workers as usize - 1],
            done.records,
            done.published,
            done.bytes / done.published,
        );
        println!(
            "  {:.2} us of CPU a leg, and {:.2} us of the broker's; {:.0} MB of memory at most",
            done.micros,
            done.of_broker,
            done.memory as f64 / 1e6
        );
        if workers == 1 {
            of_one = done.rate;
        }
    }
    // The latencies are of one worker, too.
    Ok(of_one)
}

/// What the service made of the rounds.
struct Processed {
    records: i64,
    published: usize,
    bytes: usize,
    /// Records a second.
    rate: f64,
    /// CPU a record, in microseconds: the service's, and the broker's.
    micros: f64,
    of_broker: f64,
    memory: u64,
}

/// Lets the service process so many rounds, from start to end, and checks every verdict.
fn process(settings: &KafkaSettings, prepared: &Prepared, rounds: u32, workers: u32) -> anyhow::Result<Processed> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    // Each worker has its share before there is anything to do, and gets it back by its name: the rebalance is no part of it.
    let mut service = Service::start(settings, &data, workers)?;
    service.ready()?;
    let progress = Progress::new(settings)?;
    progress.shared(workers)?;
    service.kill()?;
    let records = fill(settings, prepared, rounds)?;
    let mut service = Service::start(settings, &data, workers)?;
    service.ready()?;
    let broker_before = broker().map(Usage::of).transpose()?;
    let before = service.usage()?;
    let (first, took) = progress.until(records)?;
    let after = service.usage()?;
    let broker_after = broker().map(Usage::of).transpose()?;
    progress.shared(workers)?;
    let micros = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / records as f64;
    let (published, bytes) = check(settings, prepared, rounds)?;
    service.kill()?;
    Ok(Processed {
        records,
        published,
        bytes,
        rate: (records - first) as f64 / took.as_secs_f64(),
        micros: micros(before.core, after.core),
        of_broker: broker_before.zip(broker_after).map_or(0.0, |(before, after)| micros(before.core, after.core)),
        memory: after.memory,
    })
}

/// Lets the last deadlines pass, and holds all verdicts against the truth. Returns how many there are, and their bytes.
fn check(settings: &KafkaSettings, prepared: &Prepared, rounds: u32) -> anyhow::Result<(usize, usize)> {
    let mut ingress = Ingress::new(settings, 1)?;
    let at = prepared.end(rounds);
    for partition in 0..i32::try_from(PARTITIONS)? {
        ingress.append(&Sent { partition, key: "", at, value: &encode_event(&Event::Tick(Tick { at })) })?;
    }
    ingress.flush()?;
    let truth = prepared.truth(rounds);
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
        each_record(reader, Topic::CallVerdicts, partition, |record| take(&record.key, record.value.as_deref().unwrap_or_default()))?;
    }
    Ok(())
}

// ---- latency ----

/// As Kafka's own client gathers records by itself.
const LINGER_MS: u32 = 5;

fn latency(brokers: &str, prepared: &Prepared, rate: f64, what: &str) -> anyhow::Result<()> {
    const WARM_UP: Duration = Duration::from_secs(10);
    const MEASURED: Duration = Duration::from_secs(20);
    let settings = fresh(brokers, "latency")?;
    let mut ingress = Ingress::new(&settings, LINGER_MS)?;
    let legs = (rate * (WARM_UP + MEASURED).as_secs_f64()) as usize;
    let numbers = send_numbers(&mut ingress, prepared, legs)?;
    let dir = tempfile::tempdir()?;
    let mut service = Service::start(&settings, &dir.path().join("data"), 1)?;
    service.ready()?;
    let before = (service.usage()?, Usage::of(std::process::id())?);
    let stop = AtomicBool::new(false);
    let (seen, begun, achieved) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&settings, Offset::Beginning, &stop));
        let begun = Instant::now();
        let sent = send(&mut ingress, prepared, rate, legs, &stop);
        let achieved = legs as f64 / begun.elapsed().as_secs_f64();
        // However late the last ones are, they count.
        let committed = sent.and_then(|()| Progress::new(&settings)?.until(numbers + i64::try_from(legs)?).map(drop));
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Release);
        committed?;
        anyhow::Ok((watching.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??, begun, achieved))
    })?;
    let (after, lasted) = ((service.usage()?, Usage::of(std::process::id())?), begun.elapsed());
    let mut latencies = Vec::new();
    each_decided(&settings, &ingress, &seen, |_, sent, at| {
        if sent >= begun + WARM_UP {
            latencies.push(at.saturating_duration_since(sent));
        }
    })?;
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies.get(latencies.len() * percent / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
    println!(
        "{achieved:.0} legs/s of {rate:.0} ({what}): from the deciding record to the committed verdict p50 {:.1} ms, p99 {:.1} ms of {} verdicts; {:.1} s of CPU, and {:.1} s of the sender's and reader's, in {:.0} s",
        percentile(50),
        percentile(99),
        latencies.len(),
        (after.0.core - before.0.core).as_secs_f64(),
        (after.1.core - before.1.core).as_secs_f64(),
        lasted.as_secs_f64()
    );
    service.kill()
}

/// The numbers of the accounts that so many legs are of; returns how many records. All at the beginning of their time: a partition's time doesn't go
/// back, and would stand still until the legs have reached it.
fn send_numbers(ingress: &mut Ingress, prepared: &Prepared, legs: usize) -> anyhow::Result<i64> {
    let mut sent = 0;
    for round in 0..u32::try_from(legs / prepared.legs() + 1)? {
        prepared.numbers_of(round, |record| {
            sent += 1;
            ingress.append(&Sent { at: prepared.start(), ..*record })
        })?;
    }
    ingress.flush()?;
    Ok(sent)
}

/// Sends legs at a rate, until so many are sent or it is told to stop.
fn send(ingress: &mut Ingress, prepared: &Prepared, rate: f64, legs: usize, stop: &AtomicBool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut sent = 0;
    for round in 0.. {
        let mut is_over = false;
        prepared.legs_of(round, |record| {
            is_over |= sent >= legs || stop.load(Ordering::Relaxed);
            if is_over {
                return Ok(());
            }
            let due = begun + Duration::from_secs_f64(sent as f64 / rate);
            let early = due.saturating_duration_since(Instant::now());
            if early > Duration::from_micros(300) {
                std::thread::sleep(early);
            }
            sent += 1;
            ingress.append_due(record, due)
        })?;
        if is_over {
            break;
        }
    }
    ingress.flush()
}

/// When a read_committed reader saw the verdict at an offset, in their order, by partition.
type Seen = [Vec<(i64, Instant)>; PARTITIONS as usize];

/// Gives the partition of each verdict that was seen, when the record was sent that decided it, and when it was seen. They are read once more for
/// that, so that the reader costs as little as it can while the clock runs.
fn each_decided(settings: &KafkaSettings, ingress: &Ingress, seen: &Seen, mut take: impl FnMut(u32, Instant, Instant)) -> anyhow::Result<()> {
    let sent_at = ingress.sent_at()?;
    let reader = Kafka::connect(settings.clone())?.reader();
    for (partition, seen) in (0..).zip(seen) {
        each_record(&reader, Topic::CallVerdicts, partition, |record| {
            let place = seen.binary_search_by_key(&record.offset, |(offset, _)| *offset);
            let Some((value, (_, at))) = record.value.as_deref().zip(place.ok().map(|place| seen[place])) else { return Ok(()) };
            let verdict: CallVerdict = decode(value)?;
            // It contains the records up to its position. The one that decided it may be the next, whose time let it close.
            if let Some(sent) = sent_at.of(partition, verdict.position, verdict.decided_at) {
                take(partition, sent, at);
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// Looks when verdicts become visible.
fn watch(settings: &KafkaSettings, from: Offset, stop: &AtomicBool) -> anyhow::Result<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("socket.nagle.disable", "true")
        .set("group.id", "nobody")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..i32::try_from(PARTITIONS)? {
        all.add_partition_offset(&settings.topic(Topic::CallVerdicts), partition, from)?;
    }
    consumer.assign(&all)?;
    let mut seen = Seen::default();
    while !stop.load(Ordering::Acquire) {
        // Connections come and go.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
        seen[usize::try_from(message.partition())?].push((message.offset(), Instant::now()));
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

    let reading = read_all(&settings)?;
    let data = dir.path().join("data");
    let mut service = Service::start(&settings, &data, 1)?;
    let took = service.ready()?;
    let usage = service.usage()?;
    println!(
        "{calls} judged calls from a lost disk: ready after {:.2} s: {:.0} records/s, {:.0} MB/s (goal 500,000 records/s); {:.2} us of CPU a record; {:.0} MB of memory at most; reading alone does {:.0} records/s. {STREAMS_RESTORE}",
        took.as_secs_f64(),
        calls as f64 / took.as_secs_f64(),
        bytes as f64 / took.as_secs_f64() / 1e6,
        usage.core.as_secs_f64() * 1e6 / calls as f64,
        usage.memory as f64 / 1e6,
        calls as f64 / reading.as_secs_f64()
    );
    service.settled()?;
    let mut ingress = Ingress::new(&settings, LINGER_MS)?;
    let legs = prepared.legs() / 2;
    send_numbers(&mut ingress, prepared, legs)?;
    let stop = AtomicBool::new(false);
    let (seen, killed_at, size, restarted, took) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&settings, Offset::End, &stop));
        let sending = scope.spawn(|| send(&mut ingress, prepared, 5_000.0, legs, &stop));
        // So that the kill comes in the middle of something.
        std::thread::sleep(Duration::from_secs(5));
        let killed_at = Instant::now();
        service.kill()?;
        let mut size = 0;
        for entry in walk(&data)? {
            size += entry.metadata()?.len();
        }
        let begun = Instant::now();
        let mut service = Service::start(&settings, &data, 1)?;
        service.ready()?;
        let took = begun.elapsed();
        std::thread::sleep(Duration::from_secs(5));
        stop.store(true, Ordering::Release);
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        let seen = watching.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        anyhow::Ok((seen, killed_at, size, service, took))
    })?;
    let memory = restarted.usage()?.memory;
    let mut first: BTreeMap<u32, Instant> = BTreeMap::new();
    each_decided(&settings, &ingress, &seen, |partition, sent, at| {
        if sent > killed_at {
            let first = first.entry(partition).or_insert(at);
            *first = at.min(*first);
        }
    })?;
    let since = |at: Option<&Instant>| at.map_or(f64::NAN, |at| (*at - killed_at).as_secs_f64());
    println!(
        "{calls} judged calls, {:.2} GB on disk, killed at 5,000 legs/s: ready again after {:.2} s (goal 2 s), the first verdict {:.2} s after the kill, every partition's ({}) after {:.2} s; {:.0} MB of memory at most. {STREAMS_RESTART}",
        size as f64 / 1e9,
        took.as_secs_f64(),
        since(first.values().min()),
        first.len(),
        since(first.values().max()),
        memory as f64 / 1e6
    );
    restarted.kill()
}

/// How long it takes to read all verdicts, as bytes, four partitions at a time as a restore does: its ceiling.
fn read_all(settings: &KafkaSettings) -> anyhow::Result<Duration> {
    let reader = Kafka::connect(settings.clone())?.reader();
    let begun = Instant::now();
    let next = AtomicU32::new(0);
    let read = || -> anyhow::Result<()> {
        loop {
            let partition = next.fetch_add(1, Ordering::Relaxed);
            if partition >= PARTITIONS {
                return Ok(());
            }
            let (mut next, end) = (0, reader.end(Topic::CallVerdicts, partition)?);
            while next < end {
                next = reader.read(Topic::CallVerdicts, partition, next, 1_000)?.next;
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?)
    })?;
    Ok(begun.elapsed())
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
        // Sessions share their legacy ids and links with few others.
        for legacy in &mut verdict.call.legacy_session_ids {
            *legacy = format!("{legacy}{:05}", n / like.len()).into();
        }
        for link in &mut verdict.call.links {
            *link = SessionId::parse(&format!("{link}z{:x}", n / like.len()))?;
        }
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
