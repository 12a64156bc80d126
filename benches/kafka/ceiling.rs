//! What Kafka's client and broker can do at best: records in, records out, exactly once, nothing decoded, nothing kept.

use super::input::{PARTITIONS, fresh};
use callsieve::log::kafka::{Kafka, KafkaSettings};
use callsieve::log::{Reader, Topic};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Records of a transaction, as the processor polls them.
const BATCH: usize = 20_000;

/// Kafka's client was seen to stand still, with two of them on one broker: for some seconds, or for good. A run in which nothing goes on for so long
/// is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many runs may be none.
const RUNS: u32 = 5;

/// Verdicts of the run before that are written again and again: as large as they are, and as hard to compress.
const VALUES: usize = 5_000;

/// Reads the input of `from` with so many workers, and writes one of its verdicts for every `every` records. Returns records a second.
pub fn run(from: &KafkaSettings, records: i64, workers: u32, every: f64) -> anyhow::Result<f64> {
    let mut failed = 0;
    loop {
        match run_once(from, records, workers, every) {
            Err(error) if failed < RUNS => eprintln!("the ceiling is measured again: {error}"),
            done => return done,
        }
        failed += 1;
    }
}

fn run_once(from: &KafkaSettings, records: i64, workers: u32, every: f64) -> anyhow::Result<f64> {
    let to = fresh(&from.brokers, "ceiling")?;
    let read = Kafka::connect(from.clone())?.reader().read(Topic::CallVerdicts, 0, 0, VALUES)?;
    let values: Vec<Vec<u8>> = read.records.into_iter().filter_map(|record| Some(record.value?.to_vec())).collect();
    anyhow::ensure!(!values.is_empty(), "there are no verdicts to write");
    let left = AtomicI64::new(records);
    let begun = std::sync::OnceLock::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|n| {
                scope.spawn({
                    let (to, values, left, begun) = (&to, &values, &left, &begun);
                    move || {
                        let done = work(from, to, n, workers, left, every, values, begun);
                        if done.is_err() {
                            // Or the others would wait for its share.
                            left.store(0, Ordering::Relaxed);
                        }
                        done
                    }
                })
            })
            .collect();
        // Until the last commit: closing the clients is no part of it.
        let ends = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?);
        ends.collect::<anyhow::Result<Vec<Instant>>>()
    })
    .map(|ends| ends.into_iter().max().zip(begun.get().copied()).map_or(Duration::MAX, |(end, begun)| end - begun))
    .map(|took| (records - left.into_inner().max(0)) as f64 / took.as_secs_f64())
}

#[allow(clippy::too_many_arguments, reason = "a thread's share of the run")]
fn work(
    from: &KafkaSettings,
    to: &KafkaSettings,
    number: u32,
    of: u32,
    left: &AtomicI64,
    every: f64,
    values: &[Vec<u8>],
    begun: &std::sync::OnceLock<Instant>,
) -> anyhow::Result<Instant> {
    let (events, verdicts) = (from.topic(Topic::Events), to.topic(Topic::CallVerdicts));
    let client = |more: &[(&str, &str)]| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &from.brokers).set("socket.nagle.disable", "true");
        for (name, value) in more {
            config.set(*name, *value);
        }
        config
    };
    let consumer: BaseConsumer = client(&[
        ("group.id", &to.group),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "earliest"),
        ("fetch.queue.backoff.ms", "10"),
    ])
    .create()?;
    let producer: BaseProducer = client(&[
        ("transactional.id", &format!("{}-{number}", to.group)),
        ("linger.ms", "0"),
        ("queue.buffering.max.messages", "200000"),
        ("compression.type", "lz4"),
    ])
    .create()?;
    producer.init_transactions(Duration::from_secs(60))?;
    // A fixed share: no rebalance is measured.
    let mut share = TopicPartitionList::new();
    for partition in (number..PARTITIONS).step_by(of as usize) {
        share.add_partition_offset(&events, i32::try_from(partition)?, Offset::Beginning)?;
    }
    consumer.assign(&share)?;
    let (mut seen, mut written, mut ended) = (0_u64, 0_usize, Instant::now());
    let mut waited = (i64::MAX, Instant::now());
    while left.load(Ordering::Relaxed) > 0 {
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        let mut polled = 0;
        let mut outputs = Vec::new();
        while polled < BATCH {
            let wait = if polled == 0 { Duration::from_millis(100) } else { Duration::ZERO };
            let Some(message) = consumer.poll(wait).transpose()? else { break };
            // What a worker takes over of a record.
            let record = (message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec), message.timestamp().to_millis());
            next.insert(message.partition(), message.offset() + 1);
            (polled, seen) = (polled + 1, seen + 1);
            if seen as f64 >= (written + 1) as f64 * every {
                written += 1;
                outputs.push((message.partition(), record.0.unwrap_or_default(), &values[written % values.len()]));
            }
        }
        if polled == 0 {
            // Also what the others get on with.
            let rest = left.load(Ordering::Relaxed);
            if rest != waited.0 {
                waited = (rest, Instant::now());
            }
            anyhow::ensure!(waited.1.elapsed() < PATIENCE, "nothing came for {} s, and {rest} records are left", PATIENCE.as_secs());
            continue;
        }
        begun.get_or_init(Instant::now);
        producer.begin_transaction()?;
        for (partition, key, value) in &outputs {
            let mut record = BaseRecord::to(&verdicts).partition(*partition).key(key).payload(*value);
            while let Err((error, back)) = producer.send(record) {
                anyhow::ensure!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
                record = back;
                producer.poll(Duration::from_millis(1));
            }
        }
        let handed_over = Instant::now();
        while producer.in_flight_count() > 0 {
            anyhow::ensure!(
                handed_over.elapsed() < PATIENCE,
                "{} outputs aren't delivered after {} s",
                producer.in_flight_count(),
                PATIENCE.as_secs()
            );
            std::thread::sleep(Duration::from_micros(250));
            producer.poll(Duration::ZERO);
        }
        let mut offsets = TopicPartitionList::with_capacity(PARTITIONS as usize);
        for (partition, offset) in next {
            offsets.add_partition_offset(&events, partition, Offset::Offset(offset))?;
        }
        let group = consumer.group_metadata().ok_or_else(|| anyhow::anyhow!("no group"))?;
        producer.send_offsets_to_transaction(&offsets, &group, Duration::from_secs(30))?;
        producer.commit_transaction(Duration::from_secs(30))?;
        left.fetch_sub(i64::try_from(polled)?, Ordering::Relaxed);
        ended = Instant::now();
    }
    Ok(ended)
}
