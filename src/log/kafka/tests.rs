//! The contract on a real broker, and what is Kafka's own. `make kafka-test` starts a broker and runs them; CALLSIEVE_TEST_BROKERS says where it is.

use super::*;
use crate::log::contract::{self, Subject, append, commit, output, position, texts};
use crate::log::{Appender, Log, OutputEnds, Reader};
use crate::state::database::{Database, DatabaseOptions, Engine};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Topics and a group of their own on the test's broker.
struct OnKafka {
    kafka: Kafka,
    databases: Vec<Arc<Database>>,
    dir: Arc<TempDir>,
}

fn settings() -> KafkaSettings {
    let brokers = std::env::var("CALLSIEVE_TEST_BROKERS").expect("CALLSIEVE_TEST_BROKERS isn't set: run these tests by make kafka-test");
    let name = format!("test-{:016x}", rand::random::<u64>());
    KafkaSettings { brokers, topic_prefix: format!("{name}."), group: name, ..KafkaSettings::default() }
}

fn open(dir: &Arc<TempDir>, settings: KafkaSettings) -> OnKafka {
    let kafka = Kafka::connect(settings).unwrap();
    let engine = Engine::new(&DatabaseOptions { cache_bytes: 8 << 20, write_buffer_bytes: 16 << 20, ..DatabaseOptions::default() });
    let database = |partition: u32| Arc::new(Database::open(&dir.path().join(partition.to_string()), &engine, &[]).unwrap());
    let databases = (0..kafka.partitions()).map(database).collect();
    OnKafka { kafka, databases, dir: dir.clone() }
}

impl OnKafka {
    fn joined(&self, member: Option<&str>) -> KafkaLog {
        let mut worker = self.kafka.worker(member).unwrap();
        let all: Vec<u32> = (0..self.kafka.partitions()).collect();
        until("the worker has all partitions", || {
            assert!(worker.poll(1, Duration::from_millis(50)).unwrap().is_empty(), "something was polled before all was assigned");
            worker.assigned() == all
        });
        worker
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
    }
}

impl Subject for OnKafka {
    fn fresh(partitions: u32) -> Self {
        let settings = settings();
        create(&settings, &TopicSettings { partitions, ..TopicSettings::default() }).unwrap();
        open(&Arc::new(tempfile::tempdir().unwrap()), settings)
    }

    fn restarted(self) -> Self {
        let Self { kafka, databases, dir } = self;
        let settings = kafka.settings.clone();
        drop((kafka, databases));
        open(&dir, settings)
    }

    fn worker(&self) -> Box<dyn Log> {
        Box::new(self.joined(None))
    }

    fn appender(&self) -> Arc<dyn Appender> {
        Arc::new(self.kafka.appender())
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.kafka.reader())
    }

    fn database(&self, partition: u32) -> Arc<Database> {
        self.databases[partition as usize].clone()
    }
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_keeps_the_contract() {
    contract::all::<OnKafka>();
}

/// A worker that leaves the group when it isn't polled for so long, as one does that is paused for longer than its session.
fn impatient(protocol: &str) -> KafkaSettings {
    let mut settings = settings();
    settings.passed.insert("group.protocol".into(), protocol.into());
    settings.passed.insert("max.poll.interval.ms".into(), "6000".into());
    if protocol == "classic" {
        settings.passed.insert("session.timeout.ms".into(), "6000".into());
    }
    settings
}

fn with(settings: KafkaSettings, partitions: u32) -> OnKafka {
    create(&settings, &TopicSettings { partitions, ..TopicSettings::default() }).unwrap();
    open(&Arc::new(tempfile::tempdir().unwrap()), settings)
}

/// The same, of a group by this protocol.
fn by(protocol: &str, partitions: u32) -> OnKafka {
    with(KafkaSettings { passed: [("group.protocol".into(), protocol.into())].into(), ..settings() }, partitions)
}

fn poll(worker: &mut KafkaLog, count: usize) -> Vec<crate::log::Record> {
    let mut records = Vec::new();
    until("records come", || {
        records.extend(worker.poll(count, Duration::from_millis(50)).unwrap().into_iter().flat_map(|batch| batch.records));
        records.len() >= count
    });
    records
}

fn verdicts(subject: &OnKafka) -> Vec<String> {
    let reader = subject.reader();
    let (mut from, end) = (0, reader.end(Topic::CallVerdicts, 0).unwrap());
    let mut seen = Vec::new();
    while from < end {
        let read = reader.read(Topic::CallVerdicts, 0, from, 1).unwrap();
        assert!(read.next > from);
        seen.extend(texts(&read.records));
        from = read.next;
    }
    seen
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_what_is_taken_ahead_comes_next_unless_the_partition_goes_on_elsewhere() {
    let subject = OnKafka::fresh(1);
    let places: Vec<_> = ["a", "b", "c", "d", "e"].map(|value| append(&subject, "1", value)).into_iter().collect();
    let mut worker = subject.joined(None);
    let take_ahead = |worker: &mut KafkaLog, expected: [&str; 2], ahead: usize| {
        assert_eq!(texts(&poll(worker, 2)), expected);
        until("the others are taken ahead", || worker.taken_ahead() == ahead);
    };
    take_ahead(&mut worker, ["a", "b"], 3);
    take_ahead(&mut worker, ["c", "d"], 1);
    // Elsewhere.
    worker.pause(0).unwrap();
    assert_eq!(worker.taken_ahead(), 0);
    worker.resume(0, places[1].offset, OutputEnds::default()).unwrap();
    take_ahead(&mut worker, ["b", "c"], 2);
    worker.resume(0, places[0].offset, OutputEnds::default()).unwrap();
    assert_eq!(texts(&poll(&mut worker, 5)), ["a", "b", "c", "d", "e"]);
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_worker_that_was_away_commits_nothing() {
    for protocol in ["consumer", "classic"] {
        let subject = with(impatient(protocol), 1);
        let places: Vec<_> = ["a", "b"].map(|value| append(&subject, "1", value)).into_iter().collect();
        let next = places[1].offset + 1;
        let mut zombie = subject.joined(None);
        assert_eq!(texts(&poll(&mut zombie, 2)), ["a", "b"]);

        let other = open(&Arc::new(tempfile::tempdir().unwrap()), subject.kafka.settings.clone());
        let mut heir = other.joined(None);
        assert_eq!(texts(&poll(&mut heir, 2)), ["a", "b"], "{protocol}: what was not committed comes again");
        heir.commit(vec![commit(&other, 0, position(next), vec![output(Topic::CallVerdicts, "1/s", Some("by its heir"))])]).unwrap();

        let late = commit(&subject, 0, position(next), vec![output(Topic::CallVerdicts, "1/s", Some("by the zombie"))]);
        let refused = zombie.commit(vec![late]).unwrap_err();
        assert!(refused.is_passing(), "{protocol}: {refused}");
        assert_eq!(verdicts(&subject), ["by its heir"], "{protocol}");
        let database = subject.database(0);
        assert!(database.get(database.family(crate::state::database::Family::Meta), b"seen").unwrap().is_none(), "{protocol}: no state either");
        until("the zombie learns of it", || zombie.poll(1, Duration::from_millis(50)).is_ok() && zombie.assigned().is_empty());
        assert_eq!(heir.reader().committed(0).unwrap().unwrap().position, position(next));
    }
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_partition_is_given_on_only_after_it_was_closed() {
    for protocol in ["consumer", "classic"] {
        let subject = by(protocol, 4);
        let mut first = subject.joined(None);
        let mut second = subject.kafka.worker(None).unwrap();
        let mut taken = Vec::new();
        let mut has_closed = false;
        until("both have two partitions", || {
            for worker in [&mut first, &mut second] {
                let batches = worker.poll(10, Duration::from_millis(20)).unwrap();
                taken.extend(batches.into_iter().map(|batch| batch.partition));
            }
            if !has_closed && first.assigned().len() < 4 {
                // Until the first one polls again it may be closing what it has lost, and the second doesn't get it however long that takes.
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_secs(2) {
                    second.poll(10, Duration::from_millis(20)).unwrap();
                    assert!(second.assigned().is_empty(), "{protocol}: {:?} isn't closed yet", second.assigned());
                }
                has_closed = true;
            }
            assert!(first.assigned().iter().all(|partition| !second.assigned().contains(partition)), "{protocol}");
            assert!(first.assigned().len() >= 2, "{protocol}: kept partitions go on");
            (first.assigned().len(), second.assigned().len()) == (2, 2)
        });
        assert!(has_closed);
        assert!(taken.is_empty());
        let kept = first.assigned();
        drop(second);
        until("the one that is left has all", || first.poll(10, Duration::from_millis(20)).is_ok() && first.assigned().len() == 4);
        assert!(kept.iter().all(|partition| first.assigned().contains(partition)));
    }
}

/// Who takes the place of another is told only by being sent away itself; one of the two ends by that, and says so.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_of_two_workers_with_one_name_one_ends_by_the_classic_protocol() {
    let subject = by("classic", 2);
    let mut workers = vec![subject.joined(Some("one")), subject.kafka.worker(Some("one")).unwrap()];
    let (mut ended, mut joined_anew) = (None, 0);
    until("one ends", || {
        for (n, worker) in workers.iter_mut().enumerate() {
            match worker.poll(10, Duration::from_millis(20)) {
                Err(LogError::Fenced { .. }) => ended = Some(n),
                Err(error) => {
                    assert!(error.is_passing(), "{error}");
                    joined_anew += 1;
                }
                Ok(_) => {}
            }
        }
        ended.is_some()
    });
    assert!(joined_anew >= 2, "so often it may be the brokers' mistake");
    drop(workers.remove(ended.unwrap()));
    until("the other has all", || workers[0].poll(10, Duration::from_millis(20)).is_ok() && workers[0].assigned() == [0, 1]);
}

/// A worker that was held up, and whose position retention has passed meanwhile, goes on where the log begins.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_worker_that_retention_has_overtaken_goes_on() {
    for protocol in ["consumer", "classic"] {
        let subject = by(protocol, 1);
        let mut worker = subject.joined(None);
        for n in 0..3 {
            append(&subject, "1", &n.to_string());
        }
        let mut seen = 0;
        until("they are polled", || {
            seen += worker.poll(10, Duration::from_millis(20)).unwrap().iter().map(|batch| batch.records.len()).sum::<usize>();
            seen == 3
        });
        worker.pause(0).unwrap();
        for n in 3..6 {
            append(&subject, "1", &n.to_string());
        }
        let admin: rdkafka::admin::AdminClient<_> = subject.kafka.settings.asking().create().unwrap();
        let mut before = rdkafka::TopicPartitionList::new();
        before.add_partition_offset(&subject.kafka.settings.topic(Topic::Events), 0, rdkafka::Offset::Offset(5)).unwrap();
        contract::now(admin.delete_records(&before, &rdkafka::admin::AdminOptions::new())).unwrap();
        let mut resumed = worker.resume(0, 3, OutputEnds::default());
        let mut seen = Vec::new();
        until("it goes on", || {
            let polled = std::mem::replace(&mut resumed, Ok(())).and_then(|()| worker.poll(10, Duration::from_millis(20)));
            match polled {
                Ok(batches) => seen.extend(batches.iter().flat_map(|batch| texts(&batch.records))),
                Err(error) => {
                    assert!(error.is_passing(), "{protocol}: {error}");
                    // As the processor does.
                    if worker.assigned() == [0] {
                        let start = subject.kafka.reader().start(Topic::Events, 0).unwrap();
                        worker.pause(0).unwrap();
                        resumed = worker.resume(0, start, OutputEnds::default());
                    }
                }
            }
            !seen.is_empty()
        });
        assert_eq!(seen, ["5"], "{protocol}");
    }
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_what_an_aborted_transaction_wrote_is_passed_over() {
    let subject = OnKafka::fresh(1);
    let reader = subject.kafka.reader();
    let ends = reader.subscribe_end(Topic::CallVerdicts, 0).unwrap();
    let name = subject.kafka.settings.topic(Topic::CallVerdicts);
    let producer: BaseProducer = subject.kafka.settings.transactional("somebody").create().unwrap();
    producer.init_transactions(REQUEST).unwrap();
    let write = |value: &str| {
        producer.begin_transaction().unwrap();
        for _ in 0..3 {
            producer.send(BaseRecord::to(&name).partition(0).key("1/s").payload(value)).unwrap();
        }
        producer.flush(REQUEST).unwrap();
    };
    write("aborted");
    until("it is written", || reader.end(Topic::CallVerdicts, 0).unwrap() == 3);
    assert_eq!(*ends.borrow(), 0, "what is under way isn't shown");
    let waiting = {
        let reader = reader.clone();
        std::thread::spawn(move || reader.read(Topic::CallVerdicts, 0, 0, 10).unwrap())
    };
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "it waits for the transaction to end");
    producer.abort_transaction(REQUEST).unwrap();
    let read = waiting.join().unwrap();
    assert_eq!((texts(&read.records), read.next >= 3), (vec![], true));
    assert_eq!(verdicts(&subject), Vec::<String>::new());

    write("committed");
    producer.commit_transaction(REQUEST).unwrap();
    assert_eq!(verdicts(&subject), ["committed"; 3]);
    until("it is shown", || *ends.borrow() == reader.end(Topic::CallVerdicts, 0).unwrap());
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_position_that_a_transaction_holds_is_told_from_a_broker_that_is_away() {
    let subject = OnKafka::fresh(1);
    let settings = &subject.kafka.settings;
    let producer: BaseProducer = settings.transactional("holder").set("transaction.timeout.ms", "60000").create().unwrap();
    producer.init_transactions(REQUEST).unwrap();
    producer.begin_transaction().unwrap();
    let mut held = rdkafka::TopicPartitionList::new();
    held.add_partition_offset(&settings.topic(Topic::Events), 0, rdkafka::Offset::Offset(0)).unwrap();
    let member: BaseConsumer = settings.reader(true).create().unwrap();
    producer.send_offsets_to_transaction(&held, &member.group_metadata().unwrap(), REQUEST).unwrap();
    let error = subject.kafka.reader().committed(0).unwrap_err();
    assert!(
        error.is_passing() && error.to_string().contains("a transaction that has not ended within 10 s holds the position of partition 0"),
        "{error}"
    );
    producer.abort_transaction(REQUEST).unwrap();
    assert_eq!(subject.kafka.reader().committed(0).unwrap(), None);
}

/// What the group has committed of the first partition of a topic, as the client says it.
fn committed_of(subject: &OnKafka, topic: Topic) -> rdkafka::error::KafkaResult<rdkafka::TopicPartitionList> {
    let client: BaseConsumer = subject.kafka.settings.reader(true).create().unwrap();
    let mut asked = rdkafka::TopicPartitionList::new();
    asked.add_partition(&subject.kafka.settings.topic(topic), 0);
    client.committed_offsets(asked, REQUEST)
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_holds_the_position_beside_its_offset() {
    let subject = OnKafka::fresh(1);
    let next = append(&subject, "1", "x").offset + 1;
    let mut worker = subject.joined(None);
    poll(&mut worker, 1);
    let at = crate::log::Position { next, partition_time: 7, low_water: 0, low_water_time: 0 };
    worker.commit(vec![commit(&subject, 0, at, vec![])]).unwrap();
    let found = committed_of(&subject, Topic::Events).unwrap();
    let found = found.elements();
    assert_eq!(found[0].offset(), rdkafka::Offset::Offset(next));
    assert!(found[0].metadata().starts_with(&at.to_string()), "{}", found[0].metadata());
}

/// What is polled lets a transaction begin, which may come to nothing: the offset that it began with shows when it has ended.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_transaction_that_nothing_is_committed_in_ends_and_the_next_commit_has_another() {
    let subject = OnKafka::fresh(1);
    let next = append(&subject, "1", "x").offset + 1;
    let mut worker = subject.joined(None);
    poll(&mut worker, 1);
    until("the transaction has ended", || {
        // While it is open there is no answer.
        let Ok(found) = committed_of(&subject, Topic::DeadLetters) else { return false };
        found.elements()[0].offset() == rdkafka::Offset::Offset(0)
    });
    assert_eq!(subject.kafka.reader().committed(0).unwrap(), None);
    worker.commit(vec![commit(&subject, 0, position(next), vec![output(Topic::CallVerdicts, "1/s", Some("committed"))])]).unwrap();
    assert_eq!(verdicts(&subject), ["committed"]);
    assert_eq!(subject.kafka.reader().committed(0).unwrap().unwrap().position, position(next));
}

/// Somebody has taken the name of its transactions before it begins one.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_transaction_that_cannot_begin_costs_no_commit() {
    let subject = OnKafka::fresh(1);
    let mut worker = subject.joined(Some("worker-0"));
    let settings = &subject.kafka.settings;
    let usurper: BaseProducer = settings.transactional(&format!("{}-worker-0", settings.group)).create().unwrap();
    usurper.init_transactions(REQUEST).unwrap();
    let next = append(&subject, "1", "x").offset + 1;
    poll(&mut worker, 1);
    until("its producer has ended", || worker.has_no_producer());
    worker.commit(vec![commit(&subject, 0, position(next), vec![output(Topic::CallVerdicts, "1/s", Some("committed"))])]).unwrap();
    assert_eq!(verdicts(&subject), ["committed"]);
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_worker_that_restarts_by_its_name_gets_its_partitions_back() {
    let subject = OnKafka::fresh(4);
    let mut stays = subject.kafka.worker(Some("worker-1")).unwrap();
    let mut restarts = subject.kafka.worker(Some("worker-0")).unwrap();
    until("they share", || {
        [&mut stays, &mut restarts].into_iter().for_each(|worker| drop(worker.poll(1, Duration::from_millis(50)).unwrap()));
        (stays.assigned().len(), restarts.assigned().len()) == (2, 2)
    });
    let (kept, had) = (stays.assigned(), restarts.assigned());
    drop(restarts);
    let is_kept = |stays: &mut KafkaLog| {
        stays.poll(1, Duration::from_millis(50)).unwrap();
        assert_eq!(stays.assigned(), kept, "nothing moves");
    };
    for _ in 0..20 {
        is_kept(&mut stays);
    }
    let mut restarted = subject.kafka.worker(Some("worker-0")).unwrap();
    until("it has its partitions again", || {
        is_kept(&mut stays);
        restarted.poll(1, Duration::from_millis(50)).unwrap();
        !restarted.assigned().is_empty()
    });
    assert_eq!(restarted.assigned(), had);
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_of_two_workers_with_one_name_one_works() {
    let subject = OnKafka::fresh(1);
    let mut first = subject.joined(Some("worker-0"));
    let mut second = subject.kafka.worker(Some("worker-0")).unwrap();
    let mut refused = 0;
    until("the second is refused while the first works", || {
        first.poll(1, Duration::from_millis(50)).unwrap();
        match second.poll(1, Duration::from_millis(50)) {
            Err(error) => {
                assert!(error.is_passing() && error.to_string().contains("instance"), "{error}");
                refused += 1;
            }
            Ok(batches) => assert!(batches.is_empty()),
        }
        assert_eq!((first.assigned().len(), second.assigned().len()), (1, 0));
        refused > 2
    });
    let next = append(&subject, "1", "x").offset + 1;
    let _ = poll(&mut first, 1);
    // The second took up what it believed to be its own transactions; the first finds out, and goes on.
    let mut tries = 0;
    while let Err(error) = first.commit(vec![commit(&subject, 0, position(next), vec![output(Topic::CallVerdicts, "1/s", Some("once"))])]) {
        assert!(error.is_passing(), "{error}");
        tries += 1;
        assert!(tries < 3);
    }
    drop(first);
    until("the second takes its place", || second.poll(1, Duration::from_millis(50)).is_ok() && second.assigned() == [0]);
    assert_eq!(second.reader().committed(0).unwrap().unwrap().position, position(next));
    assert_eq!(verdicts(&subject), ["once"]);
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_missing_topics_are_said() {
    let error = Kafka::connect(settings()).err().unwrap();
    assert!(error.to_string().contains(".events"), "{error}");
    let refused = Kafka::connect(KafkaSettings { passed: [("isolation.level".into(), "x".into())].into(), ..settings() }).err().unwrap();
    assert!(refused.to_string().contains("kafka.isolation.level"), "{refused}");
}
