//! Readers and writers that nobody here wrote agree with callsieve: Confluent's Python client with its Avro deserializer (the examples of README.md,
//! as they stand there), kcat, and the partitioner of Kafka's Java client. `make kafka-test` starts a broker and a registry, and gets them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/calls.rs"]
mod calls;
#[path = "common/cluster.rs"]
mod cluster;
mod common;

use calls::{Calls, PARTITIONS, arguments, connected, topics};
use callsieve::event::CallVerdict;
use callsieve::log::kafka::{Framed, KafkaReader, KafkaSettings};
use callsieve::log::{Reader, Topic, partition_of};
use callsieve::registry::WireFormat;
use cluster::environment;
use common::{Running, apart, until};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A Python with Confluent's client.
fn python() -> PathBuf {
    let made = Command::new(project().join("tests/foreign/python")).stderr(Stdio::inherit()).output().unwrap();
    assert!(made.status.success(), "there is no Python with Confluent's client");
    String::from_utf8(made.stdout).unwrap().trim().into()
}

/// The example of README.md that uses these words, with the addresses of the test in place of its own.
fn example(words: &str, settings: &KafkaSettings, registry: &str) -> String {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let mut examples = readme.split("```python\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut example = examples.find(|example| example.contains(words)).unwrap().to_owned();
    let group = format!("{}-python", settings.group);
    let topic = settings.topic(Topic::CallVerdicts);
    for (theirs, ours) in
        [("kafka-1:9092", settings.brokers.as_str()), ("http://registry:8081", registry), ("importer", &group), ("callsieve.call-verdicts", &topic)]
    {
        example = example.replace(theirs, ours);
    }
    example
}

/// Runs a program until it has written so many lines.
async fn lines_of(python: &Path, program: String, count: usize) -> BTreeSet<String> {
    let mut child =
        Command::new(python).args(["-c", &program]).current_dir(project()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let read = apart(move || lines.take(count).map(Result::unwrap).collect::<Vec<_>>());
    let read = tokio::time::timeout(common::PATIENCE, read).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let read = read.expect("the example prints what there is");
    assert_eq!(read.len(), count, "the example ended before: {read:?}");
    read.into_iter().collect()
}

/// What stands on the topic, one line a revision, as the examples print it.
fn lines(reader: &KafkaReader) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for_each(reader, |_, record| {
        let verdict: CallVerdict = callsieve::event::decode(record.value.as_ref().unwrap()).unwrap();
        let text = |value: serde_json::Value| value.as_str().unwrap().to_owned();
        let (verdict_text, disposition) = (text(json!(verdict.verdict)), text(json!(verdict.disposition)));
        lines.insert(format!("{} {} {} {verdict_text} {disposition}", verdict.account_id, verdict.session_id, verdict.revision));
    });
    lines
}

fn for_each(reader: &KafkaReader, mut take: impl FnMut(u32, &callsieve::log::Record)) {
    for partition in 0..PARTITIONS {
        let (mut next, end) = (0, reader.end(Topic::CallVerdicts, partition).unwrap());
        while next < end {
            let read = reader.read(Topic::CallVerdicts, partition, next, 10_000).unwrap();
            read.records.iter().for_each(|record| take(partition, record));
            next = read.next;
        }
    }
}

/// A transaction that comes to nothing: who reads what is committed never sees it.
fn abort_something(settings: &KafkaSettings) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &settings.brokers).set("transactional.id", &settings.group).create().unwrap();
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience).unwrap();
    producer.begin_transaction().unwrap();
    let topic = settings.topic(Topic::CallVerdicts);
    for partition in 0..PARTITIONS {
        let record = BaseRecord::to(&topic).partition(partition.try_into().unwrap()).key("never/committed").payload("x");
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(patience).unwrap();
    producer.abort_transaction(patience).unwrap();
}

async fn read_by_others(seed: u64, registry: Option<String>, words: &str) {
    let settings = topics().await;
    let framing = registry.as_ref().map_or_else(Framed::default, |url| Framed::by(Arc::new(WireFormat::new(url.parse().unwrap()))));
    let kafka = connected(&KafkaSettings { framing, ..settings.clone() }).await;
    let calls = Calls::of_a_company(seed, &kafka).await;
    let folder = tempfile::tempdir().unwrap();
    let more: Vec<&str> = registry.iter().flat_map(|url| ["--schema-registry", url]).collect();
    let service = Running::start(folder.path(), &arguments(&settings, &more));
    let aborting = settings.clone();
    apart(move || abort_something(&aborting)).await;
    calls.notify(&service.base, 0.0..1.0).await;
    calls.judged(&kafka.reader()).await;
    assert_eq!(service.terminate(), Some(0));

    let reader = kafka.reader();
    let (ours, placed) = apart(move || {
        let mut placed = BTreeSet::new();
        for_each(&reader, |partition, record| {
            let key = String::from_utf8(record.key.to_vec()).unwrap();
            placed.insert(format!("{partition} {} {key} {}", record.offset, record.value_as_it_came().unwrap().len()));
        });
        (lines(&reader), placed)
    })
    .await;
    assert!(ours.len() >= calls.truth.len());
    let (python, program) = (apart(python).await, example(words, &settings, registry.as_deref().unwrap_or_default()));
    assert_eq!(lines_of(&python, program, ours.len()).await, ours, "Confluent's client");

    let kcat = Command::new("kcat")
        .args(["-C", "-q", "-e", "-b", &settings.brokers, "-t", &settings.topic(Topic::CallVerdicts), "-o", "beginning"])
        .args(["-X", "isolation.level=read_committed", "-f", "%p %o %k %S\n"])
        .output()
        .unwrap();
    assert!(kcat.status.success(), "{}", String::from_utf8_lossy(&kcat.stderr));
    let theirs: BTreeSet<String> = String::from_utf8(kcat.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(theirs, placed, "kcat");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_confluents_client_and_kcat_read_verdicts_with_a_registry() {
    read_by_others(71, Some(environment("CALLSIEVE_TEST_REGISTRY")), "AvroDeserializer").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_confluents_client_and_kcat_read_verdicts_without_a_registry() {
    read_by_others(72, None, "fastavro").await;
}

/// Records that Kafka's own producer is given without a partition come to stand where callsieve would put them.
#[tokio::test]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_the_java_client_puts_an_account_where_we_do() {
    let settings = topics().await;
    let mut keys: Vec<String> = (0..200_u64).map(|n| (809_646_016 + n * 7_919).to_string()).collect();
    keys.extend(["1", "12", "123", "~", "a-little-bit-long-string", "Ünïcode ✓ 电话", "legacy:404861234016"].map(str::to_owned));
    keys.push("9".repeat(64));
    let text: String = keys.iter().map(|key| format!("{key}|x\n")).collect();
    let events = settings.topic(Topic::Events);
    let mut producer = Command::new(project().join("tests/kafka/cluster"))
        .args(["tool", "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", &settings.brokers, "--topic", &events])
        .args(["--reader-property", "parse.key=true", "--reader-property", "key.separator=|"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    producer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(apart(move || producer.wait().unwrap()).await.success());
    let kafka = connected(&settings).await;
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    until("all records are there", async || {
        let reader = kafka.reader();
        found = apart(move || {
            let of =
                |partition| reader.read(Topic::Events, partition, 0, 10_000).unwrap().records.into_iter().map(move |record| (record.key, partition));
            (0..PARTITIONS).flat_map(of).map(|(key, partition)| (String::from_utf8(key.to_vec()).unwrap(), partition)).collect()
        })
        .await;
        found.len() == keys.len()
    })
    .await;
    let expected: BTreeMap<String, u32> = keys.iter().map(|key| (key.clone(), partition_of(key, PARTITIONS))).collect();
    assert_eq!(found, expected);
}
