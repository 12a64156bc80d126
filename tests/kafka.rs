//! Workers on a real Kafka: whatever happens to them, a read_committed reader finds the truth, and each revision once. `make kafka-test`
//! starts the broker.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/cluster.rs"]
mod cluster;

use callsieve::event::{AccountId, Event, Millis, SnapshotCompleted, Tick, Verdict, decode_event, encode_event};
use callsieve::judge::number::Country;
use callsieve::log::kafka::{Kafka, KafkaLog, KafkaReader, KafkaSettings, TopicSettings, create, remove_group};
use callsieve::log::{Committed, Log, LogError, Read, Reader, Topic, now, partition_of};
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::roles::bring_up::{Watch, bring_up};
use callsieve::roles::partition::PartitionError;
use callsieve::roles::processor::Worker;
use callsieve::simulate::{AccountLists, Company, CompanyConfig, Faults, Notification, SimulatedCall, disturb};
use callsieve::state::database::{Database, DatabaseOptions, Engine};
use cluster::{Cluster, PATIENCE, named, newest, shared_brokers, until};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PARTITIONS: u32 = 4;
const MINUTE: Millis = 60_000;
const HOUR: Millis = 60 * MINUTE;

/// Topics and a group of a test's own, on the broker that all tests share.
fn settings() -> KafkaSettings {
    made(&shared_brokers())
}

fn made(brokers: &str) -> KafkaSettings {
    let settings = named(brokers);
    // The simulated companies' time is in their records.
    let set = |name: &str, value: &str| (Topic::Events, name.to_owned(), value.to_owned());
    let dated = vec![set("message.timestamp.type", "CreateTime"), set("message.timestamp.after.max.ms", &(100 * HOUR).to_string())];
    create(&settings, &TopicSettings { partitions: PARTITIONS, over: dated, ..TopicSettings::default() }).unwrap();
    settings
}

/// A company, its calls, and what arrives of them.
struct Watched {
    company: Company,
    account: AccountId,
    calls: Vec<SimulatedCall>,
    arriving: Vec<Notification>,
}

impl Watched {
    /// A company of which nothing changes, so that its lists say all. Its notifications come twice and out of order, but all come; and none so late
    /// that the workers' own clocks would have ended its call for want of news, after which the end of a leg is none.
    fn new(seed: u64) -> Self {
        let begins = (now() - 8 * HOUR).div_euclid(HOUR) * HOUR;
        let config = CompanyConfig { users: 12, start: begins - HOUR, changes_per_week: 0, ..CompanyConfig::default() };
        let company = Company::generate(seed, &config);
        let calls = company.hours(begins, 4, 30);
        let faults = Faults { loss: 0.0, duplication: 0.1, reorder: 0.15, max_delay_ms: 40_000 };
        let notifications = calls.iter().flat_map(|call| call.notifications.iter().cloned()).collect();
        let mut arriving = disturb(notifications, &faults, &mut ChaCha8Rng::seed_from_u64(seed));
        arriving.sort_by_key(|notification| notification.due);
        Self { account: AccountId::parse(&company.account_id_text).unwrap(), company, calls, arriving }
    }

    fn read(&self, json: &[u8], at: Millis) -> Vec<Event> {
        let asked = Asked { account: Some(&self.account), received_at: Some(at), country: Country::DEFAULT, history: false };
        read_document(json, &asked).expect("the simulated RingCentral sends what RingCentral sends").events.into_vec()
    }
}

/// A record that wasn't appended is no fault of the worker's, so the test ends there, if it isn't ending for another reason.
struct Delivered;

impl rdkafka::ClientContext for Delivered {}

impl rdkafka::producer::ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && !std::thread::panicking()
        {
            panic!("a record was not appended: {error}");
        }
    }
}

/// Appends with record times of its own.
struct Ingress {
    producer: BaseProducer<Delivered>,
    events: String,
}

impl Ingress {
    fn new(settings: &KafkaSettings) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .create_with_context(Delivered)
            .unwrap();
        Self { producer, events: settings.topic(Topic::Events) }
    }

    fn append(&self, partition: u32, key: &str, at: Millis, event: &Event) {
        let value = encode_event(event);
        let record = BaseRecord::to(&self.events).partition(partition.try_into().unwrap()).key(key).payload(&value).timestamp(at);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    fn of_account(&self, account: &AccountId, at: Millis, events: &[Event]) {
        for event in events {
            self.append(partition_of(account.as_str(), PARTITIONS), account.as_str(), at, event);
        }
    }

    /// Numbers and gate of a company.
    fn synchronise(&self, watched: &Watched) {
        let at = watched.arriving[0].due - MINUTE;
        for list in (AccountLists { company: &watched.company, base: "https://platform.example", at }).all() {
            self.of_account(&watched.account, at, &watched.read(list.to_string().as_bytes(), at));
        }
        let completed = SnapshotCompleted { account_id: watched.account.clone(), sync_id: "1".into(), completed_at: at, numbers_seen: 0 };
        self.of_account(&watched.account, at, &[Event::SnapshotCompleted(completed)]);
    }

    fn notify(&self, watched: &Watched, part: std::ops::Range<usize>) {
        for notification in &watched.arriving[part] {
            let mut json = String::new();
            notification.write_for("sub-1", "101", &mut json);
            self.of_account(&watched.account, notification.due, &watched.read(json.as_bytes(), notification.due));
        }
    }

    /// Lets the settle times of everything so far expire.
    fn pass(&self, at: Millis) {
        for partition in 0..PARTITIONS {
            self.append(partition, "", at, &Event::Tick(Tick { at }));
        }
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }
}

/// Opens databases below a folder, as one machine with its disk does.
fn databases(folder: PathBuf) -> impl Fn(u32) -> Result<Arc<Database>, PartitionError> + Send + Sync + 'static {
    let options = DatabaseOptions { cache_bytes: 8 << 20, write_buffer_bytes: 16 << 20, background_jobs: 1, write_ahead_log: false };
    let engine = Engine::new(&options);
    move |partition| {
        let opened = Database::open(&folder.join(partition.to_string()), &engine, &[]);
        Ok(Arc::new(opened.map_err(callsieve::log::LogError::from)?))
    }
}

/// Batches are small, so that some are stepped while others are being committed.
const BATCH: usize = 50;

fn worker(settings: &KafkaSettings, folder: &Path) -> Worker<KafkaLog> {
    let log = Kafka::connect(settings.clone()).unwrap().worker(None).unwrap();
    Worker::open(log, now, databases(folder.to_owned()), |_, _| {}).unwrap().in_batches_of(BATCH)
}

/// A worker on a thread of its own, until it is stopped.
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), PartitionError>>,
}

impl Running {
    fn start(settings: &KafkaSettings, folder: &Path) -> Self {
        Self::resume(worker(settings, folder))
    }

    fn resume(mut worker: Worker<KafkaLog>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        Self { stop, thread: std::thread::spawn(move || worker.run(&told)) }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap().unwrap();
    }
}

/// What differs from the truth: none once everything is judged.
fn differences(reader: &KafkaReader, companies: &[Watched]) -> Vec<String> {
    let verdicts = newest(reader, PARTITIONS);
    let mut differences = Vec::new();
    let mut known = BTreeSet::new();
    for watched in companies {
        for truth in watched.calls.iter().flat_map(|call| &call.truth.sessions) {
            let key = format!("{}/{}", watched.account, truth.session);
            let expected = if truth.external { Verdict::External } else { Verdict::Internal };
            match verdicts.get(&key) {
                Some(verdict) if verdict.verdict == expected => {}
                Some(verdict) => differences.push(format!("{key} is {:?}", verdict.verdict)),
                None => differences.push(format!("{key} has no verdict")),
            }
            known.insert(key);
        }
    }
    let strange = verdicts.iter().filter(|(key, verdict)| !known.contains(*key) && verdict.superseded_by.is_none());
    differences.extend(strange.map(|(key, _)| format!("{key} is no call")));
    differences
}

/// What the log and the verdicts say of a call, by the key that a difference begins with.
fn evidence(reader: &KafkaReader, difference: &str) -> String {
    let key = difference.split(' ').next().unwrap();
    let (account, session) = key.split_once('/').unwrap();
    let partition = partition_of(account, PARTITIONS);
    let mut said = vec![format!("{difference}, in partition {partition}")];
    let (mut next, end) = (reader.start(Topic::Events, partition).unwrap(), reader.end(Topic::Events, partition).unwrap());
    while next < end {
        let read = reader.read(Topic::Events, partition, next, 10_000).unwrap();
        for record in read.records {
            if let Ok(Event::CallLegs(legs)) = decode_event(record.value.as_deref().unwrap())
                && legs.session_id.as_str() == session
            {
                said.push(format!("  event {} at {}: {legs:?}", record.offset, record.timestamp));
            }
        }
        next = read.next;
    }
    said.push(format!("  {:?}", newest(reader, PARTITIONS).get(key)));
    said.join("\n")
}

fn true_in_the_end(reader: &KafkaReader, companies: &[Watched]) {
    let begun = Instant::now();
    loop {
        let differences = differences(reader, companies);
        if differences.is_empty() {
            break;
        }
        if begun.elapsed() >= PATIENCE {
            let evidence: Vec<String> = differences.iter().take(3).map(|difference| evidence(reader, difference)).collect();
            panic!("{} differences: {:#?}\n{}", differences.len(), &differences[..differences.len().min(10)], evidence.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for partition in 0..PARTITIONS {
        assert_eq!(reader.end(Topic::DeadLetters, partition).unwrap(), 0, "dead letters");
    }
}

/// Lets a worker poll something that it doesn't step.
fn polls_alone(worker: &mut Worker<KafkaLog>, ingress: &Ingress) {
    until("a worker polls something", || {
        let assigned = worker.log().assigned();
        if worker.partitions().any(|partition| assigned.contains(&partition.id)) {
            // Whichever partition it has, something comes.
            ingress.pass(now());
            return worker.log().poll(1_000, Duration::from_millis(100)).is_ok_and(|batches| !batches.is_empty());
        }
        worker.turn(Duration::from_millis(20)).unwrap_or_else(|error| {
            assert!(matches!(&error, PartitionError::Log(error) if error.is_passing()), "{error}");
            worker.begin_again();
            0
        });
        false
    });
}

/// Two workers; one is stopped and another, with nothing on its disk, takes over; one dies with what it polled; one is away for longer than its
/// membership lasts, and comes back.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_newest_verdicts_are_true_whatever_happens_to_workers() {
    let settings = settings();
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let ingress = Ingress::new(&settings);
    let companies: Vec<Watched> = (1..=6).map(Watched::new).collect();
    assert!(companies.iter().map(|c| partition_of(c.account.as_str(), PARTITIONS)).collect::<BTreeSet<_>>().len() > 2);
    // A quarter of each company's notifications after another.
    let quarter = |n: usize| {
        for watched in &companies {
            let all = watched.arriving.len();
            ingress.notify(watched, all * n / 4..all * (n + 1) / 4);
        }
        ingress.producer.flush(Duration::from_secs(10)).unwrap();
    };
    companies.iter().for_each(|watched| ingress.synchronise(watched));

    // One that is polled by hand, and loses its membership when it isn't.
    let away = KafkaSettings { passed: [("max.poll.interval.ms".to_owned(), "6000".to_owned())].into(), ..settings.clone() };
    let mut paused = worker(&away, &folder.path().join("paused"));
    let first = Running::start(&settings, &folder.path().join("first"));
    quarter(0);
    until("the worker that will be paused takes part", || {
        paused.turn(Duration::from_millis(50)).unwrap();
        paused.partitions().next().is_some_and(|partition| partition.position().next > 0)
    });
    quarter(1);
    // Polled, and never committed by it.
    polls_alone(&mut paused, &ingress);
    let seen = newest(&reader, PARTITIONS).len();
    until("the others take its partitions over", || newest(&reader, PARTITIONS).len() > seen && all_is_committed(&settings, &reader));

    // Another with an empty disk comes, the first goes, and comes back to its old disk.
    let second = Running::start(&settings, &folder.path().join("second"));
    quarter(2);
    first.stop();
    let resumed = Running::resume(paused);
    // One that is never heard of again, with what it polled.
    let mut dying = worker(&away, &folder.path().join("dying"));
    quarter(3);
    polls_alone(&mut dying, &ingress);
    std::mem::forget(dying);
    let first = Running::start(&settings, &folder.path().join("first"));
    ingress.pass(now() + 50 * MINUTE);
    true_in_the_end(&reader, &companies);
    for running in [first, second, resumed] {
        running.stop();
    }
    true_in_the_end(&reader, &companies);
}

/// Whoever appends to the log may do so in a transaction, whose marker is then the last that there is: time passes behind it, too.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_time_passes_behind_the_marker_of_a_transaction() {
    let settings = settings();
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let producer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("transactional.id", &settings.group)
        .create_with_context(Delivered)
        .unwrap();
    let ingress = Ingress { producer, events: settings.topic(Topic::Events) };
    let watched = Watched::new(8);
    ingress.producer.init_transactions(Duration::from_secs(30)).unwrap();
    ingress.producer.begin_transaction().unwrap();
    ingress.synchronise(&watched);
    let call = &watched.calls[0];
    for notification in &call.notifications {
        let mut json = String::new();
        notification.write_for("sub-1", "101", &mut json);
        let at = now();
        ingress.of_account(&watched.account, at, &watched.read(json.as_bytes(), at));
    }
    ingress.producer.commit_transaction(Duration::from_secs(30)).unwrap();
    let running = Running::start(&settings, folder.path());
    until("the call is judged", || newest(&reader, PARTITIONS).len() == call.truth.sessions.len());
    running.stop();
}

/// Whether everything that was appended is committed, by whomever.
fn all_is_committed(settings: &KafkaSettings, reader: &KafkaReader) -> bool {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &settings.brokers).set("group.id", &settings.group).create().unwrap();
    let mut asked = rdkafka::TopicPartitionList::new();
    asked.add_partition_range(&settings.topic(Topic::Events), 0, i32::try_from(PARTITIONS).unwrap() - 1);
    let Ok(found) = client.committed_offsets(asked, Duration::from_secs(10)) else { return false };
    let positions: Vec<i64> = found.elements().iter().map(|element| element.offset().to_raw().unwrap_or(0).max(0)).collect();
    (0..PARTITIONS).zip(positions).all(|(partition, position)| position >= reader.end(Topic::Events, partition).unwrap())
}

/// What a worker with a lost disk rebuilds, and what a worker with an old one takes in, is what the group committed.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_lost_disk_is_rebuilt() {
    let settings = settings();
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let ingress = Ingress::new(&settings);
    let companies: Vec<Watched> = (11..=13).map(Watched::new).collect();
    for watched in &companies {
        ingress.synchronise(watched);
        ingress.notify(watched, 0..watched.arriving.len() / 2);
    }
    let running = Running::start(&settings, &folder.path().join("old"));
    ingress.pass(now());
    until("half of it is committed", || all_is_committed(&settings, &reader));
    running.stop();
    let running = Running::start(&settings, &folder.path().join("new"));
    for watched in &companies {
        ingress.notify(watched, watched.arriving.len() / 2..watched.arriving.len());
    }
    ingress.pass(now() + 10 * MINUTE);
    until("all of it is committed", || all_is_committed(&settings, &reader));
    running.stop();
    let running = Running::start(&settings, &folder.path().join("old"));
    ingress.pass(now() + 50 * MINUTE);
    true_in_the_end(&reader, &companies);
    running.stop();
    // A group that has committed nothing would publish it all once more.
    let stranger = KafkaSettings { group: format!("{}-stranger", settings.group), ..settings };
    let refused = Running::start(&stranger, &folder.path().join("stranger"));
    until("a stranger is refused", || refused.thread.is_finished());
    assert!(matches!(refused.thread.join().unwrap(), Err(PartitionError::NoPosition { .. })));
}

/// What a coordinator says that was away and doesn't know yet that another has taken its place.
struct Outdated {
    of: KafkaReader,
    committed: Option<Committed>,
    /// So often it is asked before it knows.
    left: AtomicUsize,
}

impl Reader for Outdated {
    fn partitions(&self) -> u32 {
        self.of.partitions()
    }

    fn start(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.of.start(topic, partition)
    }

    fn end(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.of.end(topic, partition)
    }

    fn read(&self, topic: Topic, partition: u32, from: i64, max: usize) -> Result<Read, LogError> {
        self.of.read(topic, partition, from, max)
    }

    fn has_record(&self, topic: Topic, partition: u32, from: i64) -> Result<bool, LogError> {
        self.of.has_record(topic, partition, from)
    }

    fn subscribe_end(&self, topic: Topic, partition: u32) -> Result<watch::Receiver<i64>, LogError> {
        self.of.subscribe_end(topic, partition)
    }

    fn committed(&self, partition: u32) -> Result<Option<Committed>, LogError> {
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Ok(self.committed.clone()),
            Err(_) => self.of.committed(partition),
        }
    }
}

/// Who went on from such a position would publish what comes after it once more.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_position_that_is_not_the_last_is_not_believed() {
    let settings = settings();
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let ingress = Ingress::new(&settings);
    let watched = Watched::new(14);
    let partition = partition_of(watched.account.as_str(), PARTITIONS);
    ingress.synchronise(&watched);
    let mut positions = Vec::new();
    let half = watched.arriving.len() / 2;
    for (part, later) in [(0..half, 0), (half..watched.arriving.len(), 10 * MINUTE)] {
        ingress.notify(&watched, part);
        ingress.pass(now() + later);
        let running = Running::start(&settings, &folder.path().join("disk"));
        until("it is committed", || all_is_committed(&settings, &reader));
        running.stop();
        positions.push(reader.committed(partition).unwrap().unwrap());
    }
    assert!(positions[0].ends.get(Topic::CallVerdicts) < positions[1].ends.get(Topic::CallVerdicts));
    let mut outdated = Outdated { of: reader, committed: None, left: AtomicUsize::new(0) };
    let watch = Watch { is_cancelled: &|| false, progress: &|_, _| {}, by: "test" };
    // One from before, and that there is none yet.
    for (committed, disk) in [(Some(positions[0].clone()), "disk"), (Some(positions[0].clone()), "none"), (None, "disk"), (None, "nothing")] {
        outdated.committed = committed;
        outdated.left.store(3, Ordering::SeqCst);
        let database = databases(folder.path().join(disk))(partition).unwrap();
        let (up, _) = bring_up(&outdated, partition, database, &watch).unwrap().unwrap();
        assert_eq!((up.position(), outdated.left.load(Ordering::SeqCst)), (positions[1].position, 0), "{disk}");
    }
    // Who is set back for good has nothing to go on with, as long as its state is ahead.
    for (committed, disk, why) in
        [(Some(positions[0].clone()), "disk", "and the state on disk is at"), (None, "disk", "the group has no position there")]
    {
        outdated.committed = committed;
        outdated.left.store(usize::MAX, Ordering::SeqCst);
        let error = bring_up(&outdated, partition, databases(folder.path().join(disk))(partition).unwrap(), &watch).err().unwrap();
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// Who has no position would go on without what is published: also where that is no verdict yet.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_group_whose_positions_have_expired_is_refused() {
    let settings = settings();
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let ingress = Ingress::new(&settings);
    let watched = Watched::new(21);
    ingress.synchronise(&watched);
    let running = Running::start(&settings, &folder.path().join("disk"));
    until("its numbers are committed", || all_is_committed(&settings, &reader));
    running.stop();
    assert!(newest(&reader, PARTITIONS).is_empty());
    assert!(remove_group(&settings).unwrap());
    for disk in ["disk", "empty"] {
        let refused = Running::start(&settings, &folder.path().join(disk));
        until("it is refused", || refused.thread.is_finished());
        assert!(matches!(refused.thread.join().unwrap(), Err(PartitionError::NoPosition { .. })), "{disk}");
    }
}

/// Records that nobody has read are dropped: with the old disk and without one, the worker goes on with what there is.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_retention_that_passed_the_position_is_survived() {
    let settings = settings();
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let ingress = Ingress::new(&settings);
    let mut companies = Vec::new();
    for (n, (seed, disk)) in (1..).zip([(61, "old"), (62, "old"), (63, "new")]) {
        let running = Running::start(&settings, &folder.path().join(disk));
        let watched = Watched::new(seed);
        ingress.synchronise(&watched);
        ingress.notify(&watched, 0..watched.arriving.len());
        ingress.pass(now() + n * 10 * MINUTE);
        companies.push(watched);
        true_in_the_end(&reader, &companies);
        running.stop();
        // Notifications once more, which nobody is there to read.
        ingress.notify(&companies[0], 0..companies[0].arriving.len());
        ingress.producer.flush(Duration::from_secs(10)).unwrap();
        drop_events(&settings, &reader);
    }
    let running = Running::start(&settings, &folder.path().join("old"));
    ingress.pass(now() + 50 * MINUTE);
    until("it goes on", || all_is_committed(&settings, &reader));
    running.stop();
    true_in_the_end(&reader, &companies);
}

/// Drops all events, as retention does.
fn drop_events(settings: &KafkaSettings, reader: &KafkaReader) {
    let admin: rdkafka::admin::AdminClient<_> = ClientConfig::new().set("bootstrap.servers", &settings.brokers).create().unwrap();
    let mut before = rdkafka::TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let end = rdkafka::Offset::Offset(reader.end(Topic::Events, partition).unwrap());
        before.add_partition_offset(&settings.topic(Topic::Events), partition.try_into().unwrap(), end).unwrap();
    }
    let dropped = admin.delete_records(&before, &rdkafka::admin::AdminOptions::new());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(dropped).unwrap();
}

/// The client takes a failure to read a record for the record itself, and would go on behind it after the next rebalance.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_an_event_that_cant_be_read_now_is_not_passed_over() {
    let cluster = Cluster::start(1);
    for protocol in ["consumer", "classic"] {
        let passed = [("group.protocol".to_owned(), protocol.to_owned())].into();
        let settings = KafkaSettings { passed, ..named(&cluster.brokers) };
        create(&settings, &TopicSettings { partitions: 1, ..TopicSettings::default() }).unwrap();
        // What is damaged can't be unpacked.
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &settings.brokers).set("compression.type", "gzip").create().unwrap();
        let events = settings.topic(Topic::Events);
        for _ in 0..3 {
            // Each in a batch of its own. Nobody here looks what they say.
            producer.send(BaseRecord::to(&events).partition(0).key("~").payload(&[0_u8; 1_000])).map_err(|(error, _)| error).unwrap();
            producer.flush(Duration::from_secs(10)).unwrap();
        }
        let segment = cluster.data(1).join(format!("{events}-0")).join("00000000000000000000.log");
        let whole = std::fs::read(&segment).unwrap();
        // After its offset, a batch has its length.
        let length = |at: usize| 12 + u32::from_be_bytes(whole[at + 8..at + 12].try_into().unwrap()) as usize;
        let last_of_second = length(0) + length(length(0)) - 1;
        let write = |byte: u8| {
            let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[byte], last_of_second as u64).unwrap();
        };
        write(!whole[last_of_second]);
        let kafka = Kafka::connect(settings).unwrap();
        let mut worker = kafka.worker(Some("one")).unwrap();
        let mut offsets = Vec::new();
        let mut poll = |offsets: &mut Vec<i64>| {
            let polled = worker.poll(10, Duration::from_millis(100)).unwrap();
            offsets.extend(polled.iter().flat_map(|batch| batch.records.iter().map(|record| record.offset)));
        };
        until("the first is read", || {
            poll(&mut offsets);
            !offsets.is_empty()
        });
        // Members come and go, for whom it gives nothing up.
        for _ in 0..2 {
            let mut another = kafka.worker(None).unwrap();
            for _ in 0..20 {
                poll(&mut offsets);
                assert!(another.poll(10, Duration::ZERO).unwrap().is_empty(), "{protocol}");
            }
        }
        assert_eq!(offsets, [0], "{protocol}");
        write(whole[last_of_second]);
        until("the others are read", || {
            poll(&mut offsets);
            offsets.len() >= 3
        });
        assert_eq!(offsets, [0, 1, 2], "{protocol}");
    }
}

/// Through the binary: what `create` makes is right, and what somebody changed is said.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_topics_are_made_and_checked() {
    let KafkaSettings { brokers, topic_prefix: prefix, .. } = named(&shared_brokers());
    let topics = |args: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve"))
            .args(["topics", args[0], "--brokers", &brokers, "--topic-prefix", &prefix])
            .args(&args[1..])
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (status, said, _) = topics(&["check"]);
    assert_eq!((status, said.lines().count()), (Some(1), 6), "{said}");
    assert!(said.contains("topics create"), "{said}");
    for _ in 0..2 {
        assert_eq!(topics(&["create", "--partitions", "3"]).0, Some(0), "making them again does nothing");
    }
    let (status, said, _) = topics(&["check"]);
    assert_eq!(status, Some(0), "{said}");
    let (status, said, _) = topics(&["describe"]);
    assert_eq!(status, Some(0));
    assert!(said.contains(&format!("{prefix}call-verdicts: 3 partitions")) && said.contains("  cleanup.policy=compact"), "{said}");
    let (status, _, why) = topics(&["create", "--replication", "1", "--min-insync-replicas", "2"]);
    assert!(status == Some(1) && why.contains("nothing could be written"), "{why}");
    let (status, _, why) = topics(&["check", "--kafka", "isolation.level=read_uncommitted"]);
    assert_eq!(status, Some(2));
    assert!(why.contains("isolation.level is set by callsieve itself"), "{why}");
}

/// Each broker is killed in turn, and with it the coordinators of group and transactions and the leaders of partitions; one is away and comes back.
#[test]
#[ignore = "starts three brokers: make kafka-test"]
fn kafka_verdicts_stay_true_while_brokers_die() {
    let cluster = Cluster::start(3);
    let settings = made(&cluster.brokers);
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let ingress = Ingress::new(&settings);
    let companies: Vec<Watched> = (21..=24).map(Watched::new).collect();
    companies.iter().for_each(|watched| ingress.synchronise(watched));
    let workers: Vec<Running> = ["one", "two"].map(|name| Running::start(&settings, &folder.path().join(name))).into();
    let pieces = 24;
    for piece in 0..pieces {
        for watched in &companies {
            let all = watched.arriving.len();
            ingress.notify(watched, all * piece / pieces..all * (piece + 1) / pieces);
        }
        match piece {
            3 | 9 | 15 => cluster.broker("kill", piece / 6 + 1),
            6 | 12 | 18 => cluster.broker("start", piece / 6),
            20 => cluster.broker("pause", 1),
            22 => cluster.broker("resume", 1),
            _ => {}
        }
        // Time for transactions before, during and after each of it; longer than a broker's session where one is paused.
        let whole = Instant::now();
        while whole.elapsed() < Duration::from_millis(if piece == 21 { 8_000 } else { 400 }) {
            ingress.producer.poll(Duration::from_millis(20));
        }
    }
    ingress.producer.flush(Duration::from_secs(60)).unwrap();
    ingress.pass(now() + 50 * MINUTE);
    until("all is committed", || all_is_committed(&settings, &reader));
    true_in_the_end(&reader, &companies);
    workers.into_iter().for_each(Running::stop);
}

/// Somebody takes the name of the worker's transactions again and again, so that commits come to nothing while the worker keeps its partitions.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_commit_that_came_to_nothing_is_made_again() {
    let settings = settings();
    let reader = Kafka::connect(settings.clone()).unwrap().reader();
    let folder = tempfile::tempdir().unwrap();
    let ingress = Ingress::new(&settings);
    let companies: Vec<Watched> = (31..=33).map(Watched::new).collect();
    companies.iter().for_each(|watched| ingress.synchronise(watched));
    let log = Kafka::connect(settings.clone()).unwrap().worker(Some("worker-0")).unwrap();
    let running = Running::resume(Worker::open(log, now, databases(folder.path().to_owned()), |_, _| {}).unwrap().in_batches_of(BATCH));
    ingress.producer.flush(Duration::from_secs(10)).unwrap();
    until("the worker works", || all_is_committed(&settings, &reader));
    let pieces = 30;
    for piece in 0..pieces {
        for watched in &companies {
            let all = watched.arriving.len();
            ingress.notify(watched, all * piece / pieces..all * (piece + 1) / pieces);
        }
        let usurper: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            .set("transactional.id", format!("{}-worker-0", settings.group))
            .create()
            .unwrap();
        usurper.init_transactions(Duration::from_secs(10)).unwrap();
        ingress.producer.flush(Duration::from_secs(10)).unwrap();
        until("the worker goes on", || all_is_committed(&settings, &reader));
    }
    ingress.pass(now() + 50 * MINUTE);
    true_in_the_end(&reader, &companies);
    running.stop();
}
