//! A service whose values on Kafka have a schema registry's wire format, with a real broker and a real registry. `make kafka-test` starts both.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/calls.rs"]
mod calls;
#[path = "common/cluster.rs"]
mod cluster;
mod common;

use calls::{Calls, PARTITIONS, arguments, connected, topics};
use callsieve::event::{AccountId, AccountSettings, Event, HEADER, Record as Kind, Tick, encode_event};
use callsieve::log::kafka::{Framed, Kafka, KafkaReader, KafkaSettings, TopicSettings, create};
use callsieve::log::{Came, LogError, Reader, Record, Topic, partition_of};
use callsieve::registry::{Registry, WireFormat, subject};
use cluster::environment;
use common::{Running, apart, get, now, until};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn framed(settings: &KafkaSettings, registry: &str) -> KafkaSettings {
    KafkaSettings { framing: Framed::by(Arc::new(WireFormat::new(registry.parse().unwrap()))), ..settings.clone() }
}

/// All that is committed on a topic, as it stands there.
fn raw(reader: &KafkaReader, topic: Topic) -> Vec<Record> {
    let mut all = Vec::new();
    for partition in 0..PARTITIONS {
        let (mut next, end) = (0, reader.end(topic, partition).unwrap());
        while next < end {
            let read = reader.read(topic, partition, next, 10_000).unwrap();
            all.extend(read.records);
            next = read.next;
        }
    }
    all
}

/// Appends bytes as somebody would who is not callsieve.
fn produce(settings: &KafkaSettings, topic: Topic, account: &str, key: &str, value: &[u8]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &settings.brokers).create().unwrap();
    let partition = partition_of(account, PARTITIONS).try_into().unwrap();
    producer.send(BaseRecord::to(&settings.topic(topic)).partition(partition).key(key).payload(value)).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    assert_eq!(producer.in_flight_count(), 0);
}

fn wire(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), datum].concat()
}

/// A record's schema as a newer version may have it: with a text more.
fn newer(kind: Kind) -> String {
    let mut schema: Value = serde_json::from_str(kind.schema_json()).unwrap();
    schema["fields"].as_array_mut().unwrap().push(json!({ "name": "of_the_future", "type": "string", "default": "" }));
    schema.to_string()
}

/// What a command of callsieve's prints, which succeeds.
async fn ask(arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve"));
    command.args(arguments);
    let done = apart(move || command.output().unwrap()).await;
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A registry of a test's own, which it may stop.
struct Apicurio {
    dir: tempfile::TempDir,
    port: String,
    url: String,
}

impl Apicurio {
    fn run(dir: &Path, more: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/registry");
        let done = std::process::Command::new(script).arg(more[0]).arg(dir).args(&more[1..]).output().unwrap();
        assert!(done.status.success(), "{more:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Below the ports that the system gives out, and above those of the shared broker.
        let port = (30_000 + u32::from(rand::random::<u16>()) % 2_700).to_string();
        let url = Self::run(dir.path(), &["up", "--port", &port]);
        Self { dir, port, url }
    }

    fn stop(&self) {
        Self::run(self.dir.path(), &["down"]);
    }

    fn start_again(&self) {
        Self::run(self.dir.path(), &["up", "--port", &self.port]);
    }
}

impl Drop for Apicurio {
    fn drop(&mut self) {
        self.stop();
    }
}

/// From the input, of which a part was written without a registry, to the outputs and back again from a lost disk, also where a newer version wrote.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_with_a_registry_verdicts_are_true_and_framed() {
    let (settings, registry) = (topics().await, environment("CALLSIEVE_TEST_REGISTRY"));
    let plain = connected(&settings).await;
    // The numbers are written before there is a registry.
    let calls = Calls::of_a_company(61, &plain).await;
    let folder = tempfile::tempdir().unwrap();
    let with = arguments(&settings, &["--schema-registry", &registry]);
    let service = Running::start(&folder.path().join("a"), &with);
    service.ready().await;
    calls.notify(&service.base, 0.0..0.5).await;
    assert_eq!(service.terminate(), Some(0));
    let service = Running::start(&folder.path().join("a"), &with);
    calls.notify(&service.base, 0.5..1.0).await;
    let kafka = connected(&framed(&settings, &registry)).await;
    let verdicts = calls.judged(&kafka.reader()).await;
    assert_eq!(service.terminate(), Some(0));

    let (reader, of) = (plain.reader(), registry.clone());
    let (events, outputs) = apart(move || (raw(&reader, Topic::Events), raw(&reader, Topic::CallVerdicts))).await;
    let is_wire = |record: &&Record| record.value.as_ref().is_some_and(|value| value[0] == 0);
    let mixed = events.iter().filter(is_wire).count();
    assert!(mixed > 0 && mixed < events.len(), "{mixed} of {}", events.len());
    assert_eq!(outputs.iter().filter(is_wire).count(), outputs.len());
    let prefix = settings.topic_prefix.clone();
    let (id, later, level) = apart(move || {
        let (registry, subject): (Registry, _) = (of.parse().unwrap(), subject(&format!("{prefix}{}", Topic::CallVerdicts), Kind::CallVerdict));
        let id = registry.find(&subject, Kind::CallVerdict.schema_json()).unwrap().id;
        (id, registry.register(&subject, &newer(Kind::CallVerdict)).unwrap().id, registry.compatibility(&subject).unwrap())
    })
    .await;
    assert_eq!(level.as_deref(), Some("FULL_TRANSITIVE"));
    for record in &outputs {
        assert!(std::str::from_utf8(&record.key).unwrap().starts_with(&format!("{}/", calls.account)), "keys are plain text");
        assert_eq!(record.value.as_ref().unwrap()[1..5], id.to_be_bytes());
    }

    // A replay reads the log, and registers nothing for topics of its own.
    let data = folder.path().join("replay");
    let command = async |arguments: &[&str]| ask(&[arguments, &with].concat()).await;
    let dir = ["--data-dir", data.to_str().unwrap()];
    command(&[&["replay", "start", "again"][..], &dir].concat()).await;
    let told = command(&["replay", "diff", "again", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["counts"]["SAME"], json!(calls.truth.len()), "{told}");
    let subjects = reqwest::get(format!("{registry}/subjects")).await.unwrap().json::<Vec<String>>().await.unwrap();
    assert_eq!(subjects.iter().filter(|subject| subject.starts_with(&settings.topic_prefix)).count(), 12);

    // A newer version has written a verdict, with a field that this one doesn't know, and the disk is lost.
    let (key, verdict) = verdicts.last_key_value().unwrap();
    let last = outputs.iter().rfind(|record| record.key == key.as_bytes()).unwrap();
    produce(&settings, Topic::CallVerdicts, &calls.account, key, &[&wire(later, &last.value.as_ref().unwrap()[5..])[..], b"\x06new"].concat());
    let service = Running::start(&folder.path().join("b"), &with);
    service.ready().await;
    let call = format!("{}/api/v1/accounts/{}/calls/{}", service.base, calls.account, common::escaped(verdict.session_id.as_str()));
    let (status, body) = get(&call).await;
    assert_eq!((status, &body["verdict"]["revision"]), (200, &json!(verdict.revision)));
    assert_eq!(service.terminate(), Some(0));
}

/// What others send with schemas of their own: a compatible one is read, as soon as the registry can be asked; one that nobody knows, or that doesn't
/// fit, makes a dead letter. Other partitions go on meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_registry_that_is_away_is_waited_for_and_a_schema_that_it_does_not_know_is_not() {
    let own = apart(Apicurio::start).await;
    let settings = topics().await;
    let registry: Registry = own.url.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service = Running::start(folder.path(), &arguments(&settings, &["--schema-registry", &own.url]));
    service.ready().await;

    let (newer_settings, other) = apart({
        let (registry, prefix) = (registry.clone(), settings.topic_prefix.clone());
        move || {
            let newer =
                registry.register(&subject(&format!("{prefix}{}", Topic::Events), Kind::AccountSettings), &newer(Kind::AccountSettings)).unwrap().id;
            (newer, registry.register("other-value", r#"{"type":"record","name":"other.Tick","fields":[]}"#).unwrap().id)
        }
    })
    .await;
    let own = Arc::new(own);
    let stopped = own.clone();
    apart(move || stopped.stop()).await;

    // Two accounts on different partitions.
    let (waits, goes_on) =
        ("700100200", (1..).map(|n| n.to_string()).find(|a| partition_of(a, PARTITIONS) != partition_of("700100200", PARTITIONS)).unwrap());
    let settings_of = |account: &str, country: &str| {
        let defaults = AccountSettings::defaults(AccountId::parse(account).unwrap());
        encode_event(&Event::AccountSettings(AccountSettings { country: country.into(), updated_at: now(), ..defaults }))
    };
    let written = [&wire(newer_settings, &settings_of(waits, "DE")[HEADER..])[..], b"\x06new"].concat();
    produce(&settings, Topic::Events, waits, waits, &written);
    let strange = [wire(4_000_000, b"\x02"), wire(other, b"")];
    for value in &strange {
        produce(&settings, Topic::Events, waits, waits, value);
    }
    produce(&settings, Topic::Events, waits, waits, &encode_event(&Event::Tick(Tick { at: 1 })));
    produce(&settings, Topic::Events, &goes_on, &goes_on, &settings_of(&goes_on, "FR"));

    let country = async |base: &str, account: &str| {
        let (_, accounts) = get(&format!("{base}/api/v1/accounts")).await;
        let found = accounts["accounts"].as_array().and_then(|all| all.iter().find(|one| one["account_id"] == account).cloned());
        found.map_or(Value::Null, |found| found["settings"]["country"].clone())
    };
    until("the other partition goes on", async || country(&service.base, &goes_on).await == "FR").await;
    let metrics = async || reqwest::get(format!("{}/metrics", service.base)).await.unwrap().text().await.unwrap();
    let waiting = format!("callsieve_lag_records{{partition=\"{}\"}} 4", partition_of(waits, PARTITIONS));
    until("the partition waits, and says so", async || {
        let metrics = metrics().await;
        let failures = metrics.lines().find_map(|line| line.strip_prefix("callsieve_schema_registry_failures_total "));
        metrics.lines().any(|line| line == waiting) && failures.is_some_and(|count| count != "0")
    })
    .await;
    assert_eq!(get(&format!("{}/healthz", service.base)).await.0, 200);
    assert!(country(&service.base, waits).await.is_null());

    let started = own.clone();
    apart(move || started.start_again()).await;
    until("the partition goes on", async || country(&service.base, waits).await == "DE").await;
    let plain = connected(&settings).await;
    let mut letters = Vec::new();
    until("what can't be read is a dead letter", async || {
        let reader = plain.reader();
        letters = apart(move || raw(&reader, Topic::DeadLetters)).await;
        letters.len() >= strange.len()
    })
    .await;
    assert_eq!(letters.iter().map(|letter| letter.value.clone().unwrap()).collect::<Vec<_>>(), strange, "as they came");
    let header = |letter: &Record, name: &str| {
        letter.headers.iter().find(|(found, _)| found == name).map(|(_, value)| String::from_utf8(value.clone()).unwrap()).unwrap_or_default()
    };
    let causes: Vec<String> = letters.iter().map(|letter| header(letter, "callsieve.cause")).collect();
    assert!(causes[0].contains("knows no schema with the id 4000000") && causes[1].contains("other.Tick"), "{causes:?}");
    assert_eq!((header(&letters[0], "callsieve.offset"), header(&letters[1], "callsieve.offset")), ("1".to_owned(), "2".to_owned()));
    assert_eq!(service.terminate(), Some(0));

    // Without a registry such values are dead letters that say what is needed, and can be given back when there is one.
    let written = [&wire(newer_settings, &settings_of(waits, "ES")[HEADER..])[..], b"\x06new"].concat();
    let service = Running::start(folder.path(), &arguments(&settings, &[]));
    produce(&settings, Topic::Events, waits, waits, &written);
    until("it is a dead letter", async || {
        let reader = plain.reader();
        letters = apart(move || raw(&reader, Topic::DeadLetters)).await;
        letters.len() > strange.len()
    })
    .await;
    let last = letters.last().unwrap();
    assert!(header(last, "callsieve.cause").contains("--schema-registry"), "{letters:?}");
    assert_eq!((last.value.as_deref(), &last.came), (Some(&*written), &Came::AsItIs));
    assert_eq!(service.terminate(), Some(0));
    let with = arguments(&settings, &["--schema-registry", &own.url]);
    let service = Running::start(folder.path(), &with);
    let place = format!("{}/{}", partition_of(waits, PARTITIONS), last.offset);
    let place = ["dead-letters", "retry", &place, "--brokers", &settings.brokers, "--topic-prefix", &settings.topic_prefix];
    ask(&[&place[..], &["--schema-registry", &own.url]].concat()).await;
    until("it is read", async || country(&service.base, waits).await == "ES").await;
    assert_eq!(service.terminate(), Some(0));
}

/// What the registry refuses ends the start, and a registry that doesn't answer, too; both say so.
#[tokio::test]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_schemas_are_checked_and_an_incompatible_one_is_refused() {
    let (settings, url) = (topics().await, environment("CALLSIEVE_TEST_REGISTRY"));
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve")).args(arguments).output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let place = ["--schema-registry", &url, "--topic-prefix", &settings.topic_prefix];
    let with = |command: &str| run(&[&["schemas", command][..], &place].concat());
    assert_eq!(with("check").0, Some(0), "nothing is there yet");
    let registered = with("register");
    assert_eq!((registered.0, registered.1.lines().count()), (Some(0), 12), "{registered:?}");
    let checked = with("check");
    assert!(checked.0 == Some(0) && checked.1.contains("12 versions"), "{checked:?}");

    // Somebody else has registered an event that has no place for what we write, and one that we can't read.
    let other = format!("{}other.", settings.topic_prefix);
    let (registry, of) = (url.parse::<Registry>().unwrap(), subject(&format!("{other}{}", Topic::Events), Kind::Tick));
    let before = r#"{"type":"record","name":"callsieve.v1.Tick","fields":[{"name":"at","type":"string"},{"name":"zone","type":"string"}]}"#;
    apart(move || registry.ensure(&of, before).unwrap()).await;
    let (code, out, _) = run(&["schemas", "check", "--schema-registry", &url, "--topic-prefix", &other]);
    assert_eq!(code, Some(1));
    for part in ["Tick.at: string is read as timestamp", "Tick.zone: is not written, and has no default", "version 1"] {
        assert!(out.contains(part), "{part}: {out}");
    }

    let refused = KafkaSettings { topic_prefix: other, ..framed(&settings, &url) };
    let made = refused.clone();
    let error = apart(move || {
        create(&made, &TopicSettings { partitions: 1, ..TopicSettings::default() }).unwrap();
        Kafka::connect(made).err().unwrap()
    })
    .await;
    assert!(!matches!(error, LogError::Kafka { .. }), "it does not pass: {error}");
    assert!(error.to_string().contains("Tick") && error.to_string().contains("409"), "{error}");
    let away = framed(&settings, "http://127.0.0.1:1");
    let error = apart(move || Kafka::connect(away).err().unwrap()).await;
    assert!(error.is_passing() && error.to_string().contains("http://127.0.0.1:1"), "{error}");
    let (code, _, said) = run(&["schemas", "check", "--schema-registry", "http://127.0.0.1:1"]);
    assert!(code == Some(1) && said.contains("127.0.0.1:1"), "{said}");
}
