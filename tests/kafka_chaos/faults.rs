//! The faults, each from its beginning to its end. Afterwards everything that should run has been started.

use crate::cluster::asked;
use crate::common::{apart, until};
use crate::proxy::Network;
use crate::service::Service;
use crate::{BROKERS, PARTITIONS, World};
use callsieve::event::{Event, Tick, encode_event};
use callsieve::log::{Reader, Topic};
use callsieve::state::database::{Database, DatabaseOptions, Engine, Family};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longer than a member's session and a transaction may last without a sign of life.
const AWAY: Duration = Duration::from_secs(13);
/// Longer than the session of a broker.
const BROKER_AWAY: Duration = Duration::from_secs(8);
/// How long a point is waited for at which a processor is to die.
const COMES_BY: Duration = Duration::from_secs(25);
/// How long a service may be without its share after a member has died.
const MISSED: Duration = Duration::from_secs(20);
/// How long a write to the state doesn't return.
const STALL: Duration = Duration::from_secs(8);
const NO_SPACE: &str = "no space left";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// kill -9 of a processor.
    Killed,
    /// A processor dies at a step of its loop (src/log/kafka/points.rs).
    KilledAt(&'static str),
    /// Told to stop, and started again.
    Terminated,
    /// Stopped for longer than its membership and its transaction last.
    Away,
    /// Killed, and its states are gone when it comes back. (The spool stays: what is in it was acknowledged, and is nowhere else.)
    DiskLost,
    /// They are gone while it runs.
    DiskLostWhileRunning,
    DiskFull,
    CorruptFile,
    CorruptManifest,
    PositionMissing,
    PositionTruncated,
    /// A write to the state takes long, while a third process joins and leaves.
    StalledWrite,
    /// kill -9 leaves the locks; another process on the same directory is refused.
    LockLeft,
    /// Another process with the same static id.
    IdClaimedTwice,
    ClockForward,
    ClockBack,
    BrokerKilled,
    BrokerAway,
    TransactionCoordinatorKilled,
    GroupCoordinatorKilled,
    /// A processor dies while the markers of its transaction are being written, which one broker doesn't do.
    MarkersPending,
    Cut,
    Silent,
    Slow,
    /// What was not read is dropped (of no meaning for any call), while nobody runs.
    Retention,
}

pub const KINDS: [Kind; 33] = [
    Kind::Killed,
    Kind::KilledAt("begun"),
    Kind::KilledAt("commit"),
    Kind::KilledAt("produce"),
    Kind::KilledAt("produced"),
    Kind::KilledAt("offsets-sent"),
    Kind::KilledAt("committed"),
    Kind::KilledAt("apply"),
    Kind::KilledAt("applied-one"),
    Kind::KilledAt("applied"),
    Kind::Terminated,
    Kind::Away,
    Kind::DiskLost,
    Kind::DiskLostWhileRunning,
    Kind::DiskFull,
    Kind::CorruptFile,
    Kind::CorruptManifest,
    Kind::PositionMissing,
    Kind::PositionTruncated,
    Kind::StalledWrite,
    Kind::LockLeft,
    Kind::IdClaimedTwice,
    Kind::ClockForward,
    Kind::ClockBack,
    Kind::BrokerKilled,
    Kind::BrokerAway,
    Kind::TransactionCoordinatorKilled,
    Kind::GroupCoordinatorKilled,
    Kind::MarkersPending,
    Kind::Cut,
    Kind::Silent,
    Kind::Slow,
    Kind::Killed,
];

/// Those that may come together, one of each.
pub const TAKES_SERVICE: [Kind; 8] = [
    Kind::Killed,
    Kind::KilledAt("commit"),
    Kind::KilledAt("produced"),
    Kind::KilledAt("committed"),
    Kind::KilledAt("apply"),
    Kind::Away,
    Kind::Cut,
    Kind::Slow,
];
pub const TAKES_BROKER: [Kind; 3] = [Kind::BrokerKilled, Kind::BrokerAway, Kind::TransactionCoordinatorKilled];

impl Kind {
    pub fn name(self) -> String {
        match self {
            Self::Killed => "processor: kill -9",
            Self::KilledAt(point) => return format!("processor: dies at `{point}`"),
            Self::Terminated => "processor: stopped and started",
            Self::Away => "processor: paused for 13 s",
            Self::DiskLost => "disk: lost with a kill -9",
            Self::DiskLostWhileRunning => "disk: lost under the running processor",
            Self::DiskFull => "disk: full",
            Self::CorruptFile => "disk: table files with flipped bytes",
            Self::CorruptManifest => "disk: a manifest with flipped bytes",
            Self::PositionMissing => "disk: no position",
            Self::PositionTruncated => "disk: a truncated position",
            Self::StalledWrite => "disk: a write takes 8 s during a rebalance",
            Self::LockLeft => "disk: a lock left behind, a second process",
            Self::IdClaimedTwice => "processor: two with one static id",
            Self::ClockForward => "clock: set forward, then back",
            Self::ClockBack => "clock: set back, then forward",
            Self::BrokerKilled => "broker: kill -9",
            Self::BrokerAway => "broker: paused for 8 s",
            Self::TransactionCoordinatorKilled => "broker: kill -9 of the transaction coordinator",
            Self::GroupCoordinatorKilled => "broker: kill -9 of the group coordinator",
            Self::MarkersPending => "takeover while markers of the dead worker's transaction are being written",
            Self::Cut => "network: cut for 12 s",
            Self::Silent => "network: silent for 12 s",
            Self::Slow => "network: 0.3 s slower each way",
            Self::Retention => "retention passes the committed offsets",
        }
        .to_owned()
    }
}

/// Whether the fault came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    About,
    /// No state was on disk, no transaction came by.
    ToNothing,
    /// This system has no means for it.
    NotHere,
}

/// The partition of three by which Kafka finds the coordinator of a group or of a transactional id: that of Java's hash, without its sign.
fn coordinated_by(name: &str) -> i32 {
    let hash = name.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % 3
}

#[test]
#[ignore = "runs with the others: make kafka-test"]
fn kafka_coordinators_are_found_as_kafka_finds_them() {
    // Hashes above 0, below 0, and the one that has no absolute value.
    for (name, partition) in [("chaos-1", 2), ("chaos-20-a-1", 0), ("chaos-20-a-0", 1), ("polygenelubricants", 0)] {
        assert_eq!(coordinated_by(name), partition, "{name}");
    }
}

fn started(service: &mut Service) {
    service.start(None).unwrap_or_else(|said| panic!("{} does not start: {said}", service.name));
}

impl World {
    pub(crate) async fn bring_about(&self, kind: Kind, rng: &mut ChaCha8Rng) -> Came {
        let mut n = rng.random_range(0..self.services.len());
        let broker = rng.random_range(1..=crate::BROKERS);
        // Nobody would notice it of one that has nothing to do.
        let is_noticed = matches!(kind, Kind::Away | Kind::ClockForward | Kind::ClockBack | Kind::Cut | Kind::Silent | Kind::Slow);
        if is_noticed && self.services[n].lock().await.holds_nothing().await {
            n = 1 - n;
        }
        match kind {
            Kind::Killed => {
                let mut service = self.services[n].lock().await;
                service.kill();
                started(&mut service);
            }
            Kind::KilledAt(point) => return self.killed_at(n, point, rng).await,
            Kind::Terminated => {
                let mut service = self.services[n].lock().await;
                assert_eq!(service.terminate(), Some(0), "{}: {:?}", service.name, service.errors());
                started(&mut service);
            }
            Kind::Away => {
                let service = self.services[n].lock().await;
                service.signal("-STOP");
                tokio::time::sleep(AWAY).await;
                service.signal("-CONT");
            }
            Kind::DiskLost | Kind::DiskLostWhileRunning => {
                let mut service = self.services[n].lock().await;
                if kind == Kind::DiskLostWhileRunning {
                    // It may make files while they are deleted.
                    let _ = std::fs::remove_dir_all(service.states());
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..3_000))).await;
                }
                service.kill();
                let _ = std::fs::remove_dir_all(service.states());
                started(&mut service);
            }
            Kind::DiskFull => return self.disk_full(n, rng).await,
            Kind::CorruptFile | Kind::CorruptManifest => return self.corrupt(n, kind, rng).await,
            Kind::PositionMissing | Kind::PositionTruncated => return self.without_position(n, kind).await,
            Kind::StalledWrite => return self.stalled_write(n, rng).await,
            Kind::LockLeft => {
                let mut service = self.services[n].lock().await;
                service.kill();
                started(&mut service);
                let second = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve"))
                    .args(["run", "--listen", "127.0.0.1:0", "--brokers", &self.settings.brokers, "--topic-prefix", &self.settings.topic_prefix])
                    .args(["--group", &self.settings.group, "--data-dir"])
                    .arg(service.data_dir())
                    .output();
                let said = String::from_utf8(second.unwrap().stderr).unwrap();
                assert!(said.contains("another process") && said.contains("--data-dir"), "{said}");
            }
            Kind::IdClaimedTwice => return self.claimed_twice(rng).await,
            Kind::ClockForward | Kind::ClockBack => self.clock_set(n, kind, rng).await,
            Kind::BrokerKilled => self.broker_killed(broker, rng).await,
            Kind::TransactionCoordinatorKilled => {
                let id = format!("{}-a-{}", self.settings.group, rng.random_range(0..2));
                let Some(leader) = self.leader("__transaction_state", coordinated_by(&id)).await else { return Came::ToNothing };
                self.broker_killed(leader, rng).await;
            }
            Kind::GroupCoordinatorKilled => {
                let Some(leader) = self.leader("__consumer_offsets", coordinated_by(&self.settings.group)).await else { return Came::ToNothing };
                self.broker_killed(leader, rng).await;
            }
            Kind::BrokerAway => {
                self.broker("pause", broker).await;
                tokio::time::sleep(BROKER_AWAY).await;
                self.broker("resume", broker).await;
            }
            Kind::MarkersPending => return self.markers_pending(rng).await,
            Kind::Cut | Kind::Silent | Kind::Slow => {
                let (network, seconds) = match kind {
                    Kind::Cut => (Network::Cut, 12),
                    Kind::Silent => (Network::Silent, 12),
                    _ => (Network::Slow(Duration::from_millis(300)), 10),
                };
                self.ways[n].set(network);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                self.ways[n].set(Network::Well);
            }
            Kind::Retention => self.retention(rng).await,
        }
        Came::About
    }

    /// For longer than a membership lasts without a sign of life: whose clock is wrong works on.
    async fn clock_set(&self, n: usize, kind: Kind, rng: &mut ChaCha8Rng) {
        let service = self.services[n].lock().await;
        // So far back that nobody would see the end of a wait that ends at a time of this clock.
        let (forward, back) = (rng.random_range(20..60), -rng.random_range(3_600..7_200));
        let had_nothing = service.holds_nothing().await;
        for ahead in if kind == Kind::ClockForward { [forward, back] } else { [back, forward] } {
            service.clock.set(ahead);
            tokio::time::sleep(AWAY).await;
            let before = service.committed().await;
            until(&format!("{} works on with a clock that is {ahead} s ahead", service.name), async || {
                self.let_time_pass().await;
                had_nothing || service.committed().await > before
            })
            .await;
        }
        service.clock.set(0);
    }

    async fn broker_killed(&self, broker: usize, rng: &mut ChaCha8Rng) {
        self.broker("kill", broker).await;
        // Mostly it is back before it is missed; now and then others have to lead its partitions for a while.
        let away = if rng.random_ratio(1, 4) { 12_000..25_000 } else { 500..9_000 };
        tokio::time::sleep(Duration::from_millis(rng.random_range(away))).await;
        self.broker("start", broker).await;
    }

    /// Whether there is something to commit is up to the group, so it is tried once more.
    async fn killed_at(&self, n: usize, point: &str, rng: &mut ChaCha8Rng) -> Came {
        match self.killed_once_at(n, point, rng).await {
            Came::ToNothing => self.killed_once_at(n, point, rng).await,
            came => came,
        }
    }

    async fn killed_once_at(&self, n: usize, point: &str, rng: &mut ChaCha8Rng) -> Came {
        let mut service = self.services[n].lock().await;
        service.kill();
        let points = format!("{point}={}*off->panic", rng.random_range(0..6));
        // It may be over before it serves.
        let mut has_ended = service.start(Some(&points)).is_err();
        let begun = Instant::now();
        while !has_ended && begun.elapsed() < COMES_BY {
            // So that there is something to commit, whatever the load is.
            self.let_time_pass().await;
            has_ended = service.ended(Duration::from_millis(200)).await;
        }
        // It says so while it dies, and is read a moment later.
        let has_died = async || service.has_said(&format!("failpoint {point} panic")).is_some();
        if has_ended {
            until(&format!("{} says at which point it died", service.name), has_died).await;
        }
        service.kill();
        started(&mut service);
        if has_ended { Came::About } else { Came::ToNothing }
    }

    async fn disk_full(&self, n: usize, rng: &mut ChaCha8Rng) -> Came {
        let mut service = self.services[n].lock().await;
        if !service.disk.is_own {
            return Came::NotHere;
        }
        service.disk.fill();
        let mut is_met = false;
        if rng.random_bool(0.5) {
            // Full when it starts.
            service.kill();
            if let Err(said) = service.start(None) {
                assert!(said.to_lowercase().contains(NO_SPACE), "{said}");
                is_met = true;
            }
        } else {
            // Full when it takes over what the other one had.
            let other = self.services[1 - n].lock().await;
            other.signal("-STOP");
            tokio::time::sleep(AWAY).await;
            other.signal("-CONT");
        }
        // Its share may be given to it only when the group has missed somebody.
        service.ended(MISSED).await;
        is_met |= service.has_said(NO_SPACE).is_some();
        if service.has_ended() && !is_met {
            until("it says why it has ended", async || service.has_said(NO_SPACE).is_some()).await;
            is_met = true;
        }
        service.disk.free();
        service.kill();
        started(&mut service);
        if is_met { Came::About } else { Came::ToNothing }
    }

    fn files(service: &Service, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let partitions = std::fs::read_dir(service.states()).unwrap().flatten();
        let partitions = partitions.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
        let files = partitions.flat_map(|partition| std::fs::read_dir(partition.path()).unwrap().flatten());
        let mut files: Vec<PathBuf> = files.filter(|file| file.file_name().to_str().is_some_and(&is_wanted)).map(|file| file.path()).collect();
        files.sort();
        files
    }

    async fn corrupt(&self, n: usize, kind: Kind, rng: &mut ChaCha8Rng) -> Came {
        let mut service = self.services[n].lock().await;
        // Buffers are written to files when it stops.
        assert_eq!(service.terminate(), Some(0), "{}: {:?}", service.name, service.errors());
        let files = Self::files(&service, |name| if kind == Kind::CorruptFile { name.ends_with(".sst") } else { name.starts_with("MANIFEST") });
        let some: Vec<&PathBuf> = files.choose_multiple(rng, if kind == Kind::CorruptFile { 8 } else { 1 }).collect();
        for file in &some {
            let mut bytes = std::fs::read(file).unwrap();
            if bytes.is_empty() {
                continue;
            }
            let at = rng.random_range(0..bytes.len());
            let until = (at + 64).min(bytes.len());
            bytes[at..until].iter_mut().for_each(|byte| *byte ^= 0x55);
            std::fs::write(file, bytes).unwrap();
        }
        let came = if some.is_empty() { Came::ToNothing } else { Came::About };
        started(&mut service);
        came
    }

    async fn without_position(&self, n: usize, kind: Kind) -> Came {
        let mut service = self.services[n].lock().await;
        assert_eq!(service.terminate(), Some(0), "{}: {:?}", service.name, service.errors());
        let folders: Vec<PathBuf> = Self::files(&service, |name| name == "CURRENT").into_iter().map(|file| file.parent().unwrap().into()).collect();
        let count = apart(move || {
            let engine = Engine::new(&DatabaseOptions { write_ahead_log: false, ..DatabaseOptions::default() });
            let mut count = 0;
            for folder in folders {
                // One that was made corrupt, and has not been opened since.
                let Ok(database) = Database::open(&folder, &engine, &[]) else { continue };
                let meta = database.family(Family::Meta);
                let Some(position) = database.get(meta, b"position").unwrap().map(|position| position.to_vec()) else { continue };
                let mut batch = rocksdb::WriteBatch::default();
                if kind == Kind::PositionMissing {
                    batch.delete_cf(meta, b"position");
                } else {
                    batch.put_cf(meta, b"position", &position[..position.len() / 2]);
                }
                database.write(batch).unwrap();
                count += 1;
            }
            count
        })
        .await;
        started(&mut service);
        if count > 0 { Came::About } else { Came::ToNothing }
    }

    /// What RocksDB does when it can't keep up, a write that doesn't return, is what the processor sees of a slow disk too.
    async fn stalled_write(&self, n: usize, rng: &mut ChaCha8Rng) -> Came {
        let mut service = self.services[n].lock().await;
        service.kill();
        let points = format!("apply={}*off->1*sleep({})->off", rng.random_range(0..3), STALL.as_millis());
        service.start(Some(&points)).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < COMES_BY && !service.is_ready().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // So that there is something to write, whatever the load is.
        for _ in 0..4 {
            self.let_time_pass().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut third = self.third.lock().await;
        let joins = Instant::now();
        started(&mut third);
        let mut ended = None;
        while joins.elapsed() < COMES_BY && (ended.is_none() || third.has_said("rebalance").is_none()) {
            self.let_time_pass().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            ended = ended.or(service.has_said("held up at apply"));
            assert!(!third.has_ended(), "{:?}", third.errors());
        }
        let is_assigned = third.has_said("rebalance").is_some();
        third.terminate();
        if is_assigned && ended.is_some_and(|ended| joins < ended && ended < joins + STALL) { Came::About } else { Came::ToNothing }
    }

    async fn claimed_twice(&self, rng: &mut ChaCha8Rng) -> Came {
        let mut intruder = self.intruder.lock().await;
        let told = intruder.start(None);
        if told.is_ok() {
            intruder.ended(Duration::from_millis(rng.random_range(3_000..12_000))).await;
        }
        // The client's words for it in both protocols, and ours.
        let words = ["instance.id", "instance id is", "took the place of"];
        let says_so = |service: &Service| words.iter().any(|words| service.has_said(words).is_some());
        let is_refused = told.is_err_and(|said| words.iter().any(|words| said.to_lowercase().contains(words))) || says_so(&intruder);
        intruder.kill();
        // Who of the two is sent away is the group's business; the one that is says the reason.
        let mut service = self.services[0].lock().await;
        let has_ended = service.ended(Duration::from_secs(2)).await;
        if has_ended {
            until("it says why it has ended", async || says_so(&service)).await;
            service.kill();
            started(&mut service);
        }
        if is_refused || has_ended { Came::About } else { Came::ToNothing }
    }

    /// Transactions are made slow between their outputs and their commit, so that most of the time one is under way. Then a broker falls silent that
    /// isn't needed to note that it is committed, but that its markers must reach; the processor dies, and who takes its place is told that the
    /// transaction is being ended still. Where it is when the broker falls silent is chance, so it is tried some times.
    async fn markers_pending(&self, rng: &mut ChaCha8Rng) -> Came {
        let notes = "__transaction_state";
        let partition = coordinated_by(&format!("{}-a-{}", self.settings.group, rng.random_range(0..2)));
        let Some(coordinator) = self.leader(notes, partition).await else { return Came::ToNothing };
        let others: Vec<usize> = (1..=BROKERS).filter(|broker| *broker != coordinator).collect();
        let silent = *others.choose(rng).unwrap();
        let without: Vec<usize> = [coordinator].into_iter().chain(others.iter().copied().filter(|broker| *broker != silent)).collect();
        self.reassign(notes, partition, &without).await;
        let mut came = Came::ToNothing;
        for _ in 0..8 {
            self.markers_pending_once(silent, rng).await;
            let service = self.services[0].lock().await;
            until("who takes the place works", async || service.is_ready().await).await;
            if service.has_said("another concurrent operation on the same transaction was ongoing").is_some() {
                came = Came::About;
                break;
            }
        }
        self.reassign(notes, partition, &[&without[..], &[silent]].concat()).await;
        came
    }

    async fn markers_pending_once(&self, silent: usize, rng: &mut ChaCha8Rng) {
        let mut service = self.services[0].lock().await;
        service.kill();
        service.start(Some("offsets-sent=sleep(500)")).unwrap();
        until("it works with slow transactions", async || service.is_ready().await).await;
        // So that there is something to commit, whatever the load is.
        self.let_time_pass().await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..600))).await;
        self.broker("pause", silent).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(600..1_200))).await;
        service.kill();
        let resume = async {
            tokio::time::sleep(Duration::from_millis(rng.random_range(2_000..9_000))).await;
            self.broker("resume", silent).await;
        };
        let take_over = async {
            // What needs the silent broker at the start is refused; whoever runs it starts it again.
            let mut told = service.start(None);
            while let Err(said) = told {
                assert!(said.contains("ERROR") || said.contains("rror"), "{said}");
                told = service.start(None);
            }
        };
        tokio::join!(resume, take_over);
    }

    /// Nothing that concerns a call is dropped: all are judged, and what comes after them is time alone.
    async fn retention(&self, rng: &mut ChaCha8Rng) {
        until("all is committed", async || self.is_all_committed().await).await;
        for service in &self.services {
            let mut service = service.lock().await;
            if rng.random_bool(0.5) {
                service.kill();
            } else {
                assert_eq!(service.terminate(), Some(0), "{}: {:?}", service.name, service.errors());
            }
        }
        self.let_time_pass().await;
        let (brokers, events, reader) = (self.settings.brokers.clone(), self.settings.topic(Topic::Events), self.kafka.reader());
        let runtime = tokio::runtime::Handle::current();
        apart(move || {
            let mut before = rdkafka::TopicPartitionList::new();
            for partition in 0..PARTITIONS {
                let end = Offset::Offset(asked(|| reader.end(Topic::Events, partition)));
                before.add_partition_offset(&events, partition.try_into().unwrap(), end).unwrap();
            }
            let admin: rdkafka::admin::AdminClient<_> = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
            runtime.block_on(admin.delete_records(&before, &rdkafka::admin::AdminOptions::new())).unwrap();
        })
        .await;
        for service in &self.services {
            started(&mut *service.lock().await);
        }
        until("somebody says that retention has passed the position", async || {
            for service in &self.services {
                if service.lock().await.has_said("retention has passed the committed position").is_some() {
                    return true;
                }
            }
            false
        })
        .await;
        self.let_time_pass().await;
        until("they go on", async || self.is_all_committed().await).await;
    }

    /// Appends a tick to each partition.
    async fn let_time_pass(&self) {
        let (brokers, events) = (self.settings.brokers.clone(), self.settings.topic(Topic::Events));
        apart(move || {
            let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).set("acks", "all").create().unwrap();
            let tick = encode_event(&Event::Tick(Tick { at: crate::common::now() }));
            for partition in 0..PARTITIONS {
                let record = BaseRecord::to(&events).partition(partition.try_into().unwrap()).key("").payload(&tick);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(Duration::from_secs(60)).unwrap();
        })
        .await;
    }
}
