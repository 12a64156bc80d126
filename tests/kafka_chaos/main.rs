//! Services on three brokers, and one fault after another: what they acknowledged is judged, as it truly was, and each revision is there once.
//! `make chaos` runs a hundred faults and more, `make kafka-test` a few.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod load;
mod proxy;
mod report;
mod service;

use callsieve::event::{CallVerdict, decode};
use callsieve::log::kafka::{Kafka, KafkaSettings, TopicSettings, create};
use callsieve::log::{Reader, Topic};
use cluster::{Cluster, asked, newest};
use common::{PATIENCE, apart, until};
use faults::{KINDS, Kind, TAKES_BROKER, TAKES_SERVICE};
use load::Load;
use proxy::Ways;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use report::Report;
use service::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

const PARTITIONS: u32 = 4;
const BROKERS: usize = 3;
/// After which a service that holds nothing, while all is done, is not waited for.
const IDLE: Duration = Duration::from_secs(30);
/// Faults after which everything sent so far is judged, and looked at.
const ROUND: usize = 12;
/// Of a run by `make chaos`, without other wishes.
const FAULTS: usize = 100;
const SEED: u64 = 1;

/// By which protocol the group is one: even seeds have the classic one with cooperative-sticky assignment, the others that of KIP-848.
pub fn is_classic(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

/// Everything that faults happen to.
struct World {
    cluster: Arc<Cluster>,
    /// Of the tests' own clients, whose way to the brokers is always well.
    settings: KafkaSettings,
    kafka: Arc<Kafka>,
    client: Arc<BaseConsumer>,
    ways: [Ways; 2],
    /// Two that serve all the time; the last ones come and go.
    services: [Mutex<Service>; 2],
    third: Mutex<Service>,
    intruder: Mutex<Service>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut ways = [Ways::new(BROKERS).await, Ways::new(BROKERS).await];
        let ports: Vec<Vec<u16>> = ways.iter().map(|ways| ways.ports.clone()).collect();
        let cluster = Arc::new(apart(move || Cluster::through(BROKERS as u32, &ports)).await);
        for (ways, brokers) in ways.iter_mut().zip(&cluster.behind) {
            ways.lead_to(brokers);
        }
        let name = format!("chaos-{seed}");
        let settings = KafkaSettings { brokers: cluster.brokers.clone(), topic_prefix: format!("{name}."), group: name, ..KafkaSettings::default() };
        let of = settings.clone();
        let kafka = apart(move || {
            create(&of, &TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() }).unwrap();
            Arc::new(Kafka::connect(of).unwrap())
        })
        .await;
        let client = ClientConfig::new().set("bootstrap.servers", &settings.brokers).set("group.id", &settings.group).create().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let logs = logs();
        let _ = std::fs::remove_dir_all(&logs);
        std::fs::create_dir_all(&logs).unwrap();
        let protocol: &[&str] = if is_classic(seed) { &["--kafka", "group.protocol=classic", "--kafka", "session.timeout.ms=6000"] } else { &[] };
        let service = |name: &'static str, ways: &Ways, more: &[&str], batch| {
            let mut arguments = vec!["--brokers".to_owned(), ways.brokers()];
            let own = ["--topic-prefix", &settings.topic_prefix, "--group", &settings.group];
            arguments.extend(own.iter().chain(protocol).chain(more).map(|argument| (*argument).to_owned()));
            Mutex::new(Service::new(name, folder.path(), logs.join(name), arguments, batch))
        };
        // One is a static member with two workers, whose commits are often full ones; the other is a new member each time.
        let (fixed, few) = (["--workers", "2", "--instance", "a"], Some(100));
        let services = [service("a", &ways[0], &fixed, few), service("b", &ways[1], &[], None)];
        let (third, intruder) = (service("c", &ways[1], &[], None), service("intruder", &ways[1], &fixed, few));
        Self { cluster, settings, kafka, client: Arc::new(client), ways, services, third, intruder, _folder: folder }
    }

    async fn broker(&self, command: &'static str, number: usize) {
        let cluster = self.cluster.clone();
        apart(move || cluster.broker(command, number)).await;
    }

    /// The broker that leads a partition, by its number; `None` while there is none.
    async fn leader(&self, topic: &str, partition: i32) -> Option<usize> {
        let (client, topic) = (self.client.clone(), topic.to_owned());
        let found = apart(move || client.fetch_metadata(Some(&topic), Duration::from_secs(20))).await.ok()?;
        let partition = found.topics().first()?.partitions().iter().find(|found| found.id() == partition)?;
        usize::try_from(partition.leader()).ok()
    }

    /// Lets certain brokers have a partition, the first one as its leader by preference.
    async fn reassign(&self, topic: &str, partition: i32, brokers: &[usize]) {
        let mut plan = tempfile::NamedTempFile::new().unwrap();
        write!(plan, r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":{partition},"replicas":{brokers:?}}}]}}"#).unwrap();
        let addresses = self.settings.brokers.clone();
        let (code, said) = apart(move || {
            let project = Path::new(env!("CARGO_MANIFEST_DIR"));
            let mut tool = Command::new(project.join("tests/kafka/cluster"));
            tool.args(["tool", "org.apache.kafka.tools.reassign.ReassignPartitionsCommand", "--bootstrap-server", &addresses, "--execute"]);
            let done = tool.arg("--reassignment-json-file").arg(plan.path()).output().unwrap();
            (done.status.code(), format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)))
        })
        .await;
        assert_eq!(code, Some(0), "{said}");
        until("the brokers have what they are to have", async || {
            let (client, topic) = (self.client.clone(), topic.to_owned());
            let found = apart(move || client.fetch_metadata(Some(&topic), Duration::from_secs(20))).await;
            let of = |ids: &[i32]| ids.iter().filter_map(|id| usize::try_from(*id).ok()).collect::<BTreeSet<usize>>();
            found.is_ok_and(|found| {
                let mut partitions = found.topics().iter().flat_map(|topic| topic.partitions());
                let wanted: BTreeSet<usize> = brokers.iter().copied().collect();
                partitions.any(|found| found.id() == partition && of(found.replicas()) == wanted && of(found.isr()) == wanted)
            })
        })
        .await;
    }

    /// Whether every partition has all its brokers.
    async fn is_in_sync(&self) -> bool {
        let client = self.client.clone();
        let found = apart(move || client.fetch_metadata(None, Duration::from_secs(20))).await;
        found.is_ok_and(|found| {
            found.brokers().len() == BROKERS
                && found.topics().iter().flat_map(|topic| topic.partitions()).all(|p| p.leader() >= 0 && p.isr().len() == p.replicas().len())
        })
    }

    /// Waits until the brokers are in sync, and both services run and have what they hold up to date. Returns how many the group left without
    /// partitions, while all that there is to do is done by the others.
    async fn settle(&self, after: &str) -> usize {
        let mut idle = 0;
        until(&format!("after {after}: brokers are in sync"), async || self.is_in_sync().await).await;
        for service in &self.services {
            let mut service = service.lock().await;
            let begun = Instant::now();
            let mut is_idle = false;
            until(&format!("after {after}: {} is ready", service.name), async || {
                assert!(!service.has_ended(), "after {after}, {} ended by itself: {:#?}", service.name, service.errors());
                is_idle = begun.elapsed() > IDLE && service.holds_nothing().await && self.is_all_committed().await;
                is_idle || service.is_ready().await
            })
            .await;
            idle += usize::from(is_idle);
        }
        idle
    }

    /// Whether everything that was appended is committed.
    async fn is_all_committed(&self) -> bool {
        let (client, reader, events) = (self.client.clone(), self.kafka.reader(), self.settings.topic(Topic::Events));
        apart(move || {
            let mut asked = rdkafka::TopicPartitionList::new();
            asked.add_partition_range(&events, 0, i32::try_from(PARTITIONS).unwrap() - 1);
            let Ok(found) = client.committed_offsets(asked, Duration::from_secs(10)) else { return false };
            let positions: Vec<i64> = found.elements().iter().map(|element| element.offset().to_raw().unwrap_or(0).max(0)).collect();
            (0..PARTITIONS).zip(positions).all(|(partition, position)| reader.end(Topic::Events, partition).is_ok_and(|end| position >= end))
        })
        .await
    }

    /// Waits until the newest verdicts are the truth; then looks at what they were made of, and at each revision's being there once.
    async fn true_in_the_end(&self, loads: &[Load]) -> usize {
        let mut truth = BTreeMap::new();
        loads.iter().for_each(|load| truth.extend(load.truth()));
        let begun = Instant::now();
        let found = loop {
            let reader = self.kafka.reader();
            let found = apart(move || newest(&reader, PARTITIONS)).await;
            let verdicts: BTreeMap<&String, bool> = found.iter().map(|(key, v)| (key, v.verdict == callsieve::event::Verdict::External)).collect();
            let differ: Vec<_> = truth.iter().filter(|(key, external)| verdicts.get(key) != Some(*external)).collect();
            let strange: Vec<_> = verdicts.keys().filter(|key| !truth.contains_key(**key)).collect();
            // What is in a spool comes later.
            let missing = loads.iter().find_map(|load| load.missing(&found));
            if differ.is_empty() && strange.is_empty() && missing.is_none() {
                break found;
            }
            let few = (&differ[..differ.len().min(5)], &strange[..strange.len().min(5)]);
            assert!(
                begun.elapsed() < PATIENCE,
                "{} verdicts of {} calls; {} differ, {} are no calls: {few:?}; {missing:?}",
                found.len(),
                truth.len(),
                differ.len(),
                strange.len()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        // As a client sees them that isn't ours.
        let (brokers, verdicts) = (self.settings.brokers.clone(), self.settings.topic(Topic::CallVerdicts));
        let seen = apart(move || read_committed(&brokers, &verdicts)).await;
        let expected = found.iter().flat_map(|(key, verdict)| (1..=verdict.revision).map(move |revision| (key.clone(), revision)));
        assert!(seen.iter().cloned().eq(expected), "each revision once, and no other: {seen:?}");
        for partition in 0..PARTITIONS {
            let reader = self.kafka.reader();
            assert_eq!(apart(move || asked(|| reader.end(Topic::DeadLetters, partition))).await, 0, "dead letters");
        }
        found.values().map(|verdict| usize::try_from(verdict.revision).unwrap()).sum()
    }
}

/// Keys and revisions of all verdicts, sorted, as librdkafka's own consumer reads what is committed.
fn read_committed(brokers: &str, topic: &str) -> Vec<(String, i32)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "another").set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.set("enable.auto.commit", "false").create().unwrap();
    let mut all = rdkafka::TopicPartitionList::new();
    all.add_partition_range(topic, 0, i32::try_from(PARTITIONS).unwrap() - 1);
    all.set_all_offsets(rdkafka::Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let (mut ended, mut seen, begun) = (std::collections::BTreeSet::new(), Vec::new(), Instant::now());
    while ended.len() < PARTITIONS as usize {
        assert!(begun.elapsed() < PATIENCE, "partitions {ended:?} alone were read to their ends");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let verdict: CallVerdict = decode(message.payload().expect("nothing is forgotten")).unwrap();
                seen.push((String::from_utf8(message.key().unwrap().to_vec()).unwrap(), verdict.revision));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            // Connections come and go.
            Some(Err(_)) | None => {}
        }
    }
    seen.sort();
    seen
}

/// What the services said, kept after the run.
fn logs() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos")
}

/// The order of faults: every kind once before any comes again.
fn deck(count: usize, rng: &mut ChaCha8Rng) -> Vec<Kind> {
    let mut deck = Vec::new();
    while deck.len() < count {
        let mut kinds = KINDS.to_vec();
        kinds.shuffle(rng);
        deck.extend(kinds);
    }
    deck.truncate(count);
    deck
}

/// Ends with the deck, or when `enough` faults have come about, of every kind that was tried one; some come to nothing. `twice` says how often a
/// broker's fault comes with a processor's.
async fn run(seed: u64, deck: &[Kind], enough: usize, twice: f64) -> Report {
    let begun = Instant::now();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::new(seed).await;
    for service in &world.services {
        service.lock().await.start(None).unwrap();
    }
    world.settle("the start").await;
    let mut report = Report::new(seed);
    let mut loads: Vec<Load> = Vec::new();
    for (round, faults) in deck.chunks(ROUND).enumerate() {
        let never = report.never();
        if report.faults() >= enough && !deck[round * ROUND..].iter().any(|kind| never.contains(&kind.name().as_str())) {
            break;
        }
        let companies = if deck.len() > ROUND { 4 } else { 3 };
        let load = Load::new(seed * 10_000 + round as u64 * 10, companies, faults.len());
        load.append_numbers(&world.kafka.appender()).await;
        let mut bases = Vec::new();
        for service in &world.services {
            bases.push(service.lock().await.base());
        }
        let sending = load.send(&bases);
        let mut is_late = true;
        for (n, kind) in faults.iter().enumerate() {
            // Then only what came to nothing so far is tried again.
            if report.faults() >= enough && !report.never().contains(&kind.name().as_str()) {
                continue;
            }
            // One that comes with a commit needs some.
            load.allow(if matches!(kind, Kind::KilledAt(_)) { n + 2 } else { n + 1 });
            // At any moment of the share that is on its way.
            let share = rng.random_range(0.1..0.7);
            until("a share is taken in", async || load.is_sent(n, share)).await;
            if n == faults.len() / 2 {
                load.append_late_numbers(&world.kafka.appender()).await;
                is_late = false;
            }
            // Now and then a broker's fault and a processor's at once.
            let second = (TAKES_SERVICE.contains(kind) && rng.random_bool(twice)).then(|| *TAKES_BROKER.choose(&mut rng).unwrap());
            let (mut of_first, mut of_second) = (ChaCha8Rng::from_rng(&mut rng), ChaCha8Rng::from_rng(&mut rng));
            let name = second.map_or_else(|| kind.name(), |second| format!("{}, {}", kind.name(), second.name()));
            println!("{:5.0} s: {:3}: {name}", begun.elapsed().as_secs_f64(), report.faults() + 1);
            let both = async {
                match second {
                    Some(second) => world.bring_about(second, &mut of_second).await,
                    None => faults::Came::About,
                }
            };
            let (came, second_came) = tokio::join!(world.bring_about(*kind, &mut of_first), both);
            let ended = Instant::now();
            report.idle += world.settle(&name).await;
            report.note(kind.name(), came, ended.elapsed());
            if let Some(second) = second {
                report.note(second.name(), second_came, ended.elapsed());
                report.twice += usize::from(came == faults::Came::About && second_came == faults::Came::About);
            }
        }
        if is_late {
            load.append_late_numbers(&world.kafka.appender()).await;
        }
        load.allow(usize::MAX);
        for sender in sending {
            tokio::time::timeout(PATIENCE, sender).await.expect("everything is acknowledged").unwrap();
        }
        loads.push(load);
        let revisions = world.true_in_the_end(&loads).await;
        report.counted(&loads, revisions);
        println!("{:5.0} s: {} calls, {revisions} revisions: true", begun.elapsed().as_secs_f64(), report.calls);
        let kind = Kind::Retention;
        println!("{:5.0} s: {:3}: {}", begun.elapsed().as_secs_f64(), report.faults() + 1, kind.name());
        let came = world.bring_about(kind, &mut rng).await;
        let ended = Instant::now();
        report.idle += world.settle(&kind.name()).await;
        report.note(kind.name(), came, ended.elapsed());
    }
    let revisions = world.true_in_the_end(&loads).await;
    report.counted(&loads, revisions);
    report.idle += world.settle("all faults").await;
    for service in &world.services {
        let mut service = service.lock().await;
        assert_eq!(service.terminate(), Some(0), "{}: {:?}", service.name, service.errors());
    }
    assert_eq!(world.true_in_the_end(&loads).await, revisions, "revisions after the end");
    assert!(revisions > report.calls, "{revisions} revisions of {} calls: no verdict was corrected", report.calls);
    report.ended(begun.elapsed(), &logs());
    report
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

/// A few faults, each of another sort, by both group protocols.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts three brokers: make kafka-test"]
async fn kafka_chaos_in_short() {
    let seed = number("CALLSIEVE_CHAOS_SEED").unwrap_or(SEED);
    for (seed, deck) in
        [(seed, [Kind::KilledAt("committed"), Kind::CorruptFile, Kind::Cut]), (seed + 1, [Kind::MarkersPending, Kind::DiskLost, Kind::Killed])]
    {
        let report = run(seed, &deck, usize::MAX, 0.0).await;
        println!("{report}");
        assert_eq!(report.never(), [""; 0], "faults that never came about");
    }
}

/// As many as are asked for, of all kinds.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour: make chaos"]
async fn chaos_of_many_faults() {
    let seed = number("CALLSIEVE_CHAOS_SEED").unwrap_or(SEED);
    let count = number("CALLSIEVE_CHAOS_FAULTS").map_or(FAULTS, |count| count.try_into().unwrap());
    let deck = deck(2 * count, &mut ChaCha8Rng::seed_from_u64(seed));
    let report = run(seed, &deck, count, 0.3).await;
    println!("{report}");
    assert!(report.faults() >= count, "{} faults of {count} came about", report.faults());
    if count >= 100 {
        assert_eq!(report.never(), [""; 0], "kinds of faults that never came about");
        let page = if is_classic(seed) { "docs/chaos-classic.md" } else { "docs/chaos.md" };
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(page), report.page(count)).unwrap();
    }
}
