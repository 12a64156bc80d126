//! `callsieve replay` on a real Kafka: the past judged anew, whatever happens to who does it, and what differs brought over exactly once.
//! `make kafka-test` starts the broker.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use callsieve::event::{
    AccountId, AccountSettings, CallLegs, CallSource, CallVerdict, Direction, Disposition, Endpoint, Event, Leg, LegId, Media, NumberKind,
    NumberQuery, NumbersObserved, ObservedNumber, Rejudge, RevisionCause, SessionId, SnapshotCompleted, Verdict, encode_event,
};
use callsieve::judge::RULES;
use callsieve::log::kafka::{Kafka, KafkaSettings, TopicSettings, create, create_some, names};
use callsieve::log::{Appender, Headers, Input, Position, Reader, Topic};
use callsieve::roles::replay::{Part, Progress, Replay};
use cluster::{PATIENCE, named, newest, shared_brokers, until};
use common::{Running, now};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 2;
/// The account whose settings change, and one whose don't. They are in different partitions.
const CHANGED: &str = "809646016";
const UNCHANGED: &str = "809646021";
const ALICE: &str = "+12055550101";
const BOB: &str = "+12055550102";
const CUSTOMER: &str = "+14155550123";
/// In no list, but it comes with an extension id.
const GAP: &str = "+12055550109";

fn id(account: &str) -> AccountId {
    AccountId::parse(account).unwrap()
}

fn sid(session: &str) -> SessionId {
    SessionId::parse(session).unwrap()
}

/// A call's one leg, from Alice.
fn call(account: &str, session: &str, leg: &str, to: &str, status: &str) -> Event {
    let number =
        |text: &str, extension: Option<&str>| Endpoint { number: Some(text.into()), extension_id: extension.map(Into::into), extension_number: None };
    let leg = Leg {
        leg_id: LegId::parse(leg).unwrap(),
        direction: Direction::Outbound,
        extension_id: None,
        from: number(ALICE, None),
        to: number(to, (to == GAP).then_some("7009")),
        status: Some(status.into()),
        reason: None,
        leg_type: None,
        peer_session_id: None,
        recorded: false,
    };
    Event::CallLegs(CallLegs {
        account_id: id(account),
        session_id: sid(session),
        legacy_session_id: None,
        source: CallSource::Webhook,
        sequence: None,
        occurred_at: now(),
        received_at: now(),
        origin: None,
        media: Media::Voice,
        is_final: false,
        ended_at: None,
        legs: [leg].into(),
    })
}

fn settings(account: &str, change: impl FnOnce(&mut AccountSettings)) -> Event {
    let mut settings = AccountSettings { updated_at: now(), ..AccountSettings::defaults(id(account)) };
    change(&mut settings);
    Event::AccountSettings(settings)
}

/// A company's log, its live processor's data, and a replay.
struct Replayed {
    live: KafkaSettings,
    kafka: Kafka,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Replayed {
    fn new() -> Self {
        let live = named(&shared_brokers());
        create(&live, &TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() }).unwrap();
        let kafka = Kafka::connect(live.clone()).unwrap();
        let replayed = Self { live, kafka, runtime: tokio::runtime::Runtime::new().unwrap(), folder: tempfile::tempdir().unwrap() };
        for account in [CHANGED, UNCHANGED] {
            let observed = |number: &&str| ObservedNumber {
                number: (*number).into(),
                kind: NumberKind::Phone,
                extension_id: None,
                usage_type: None,
                contact_account_id: None,
            };
            let numbers = [ALICE, BOB].iter().map(observed).collect();
            let query = NumberQuery::PhoneNumbers;
            replayed.append([
                Event::NumbersObserved(NumbersObserved { account_id: id(account), query, observed_at: now(), sync_id: None, numbers }),
                Event::SnapshotCompleted(SnapshotCompleted { account_id: id(account), sync_id: "test".into(), completed_at: now(), numbers_seen: 2 }),
            ]);
        }
        replayed
    }

    fn append(&self, events: impl IntoIterator<Item = Event>) {
        let input = |event: Event| Input { account: event.account_id().unwrap().to_string(), value: encode_event(&event), headers: Headers::new() };
        self.runtime.block_on(self.kafka.appender().append_all(events.into_iter().map(input).collect())).unwrap();
    }

    fn arguments(&self) -> [&str; 6] {
        self.arguments_of(&self.live.group)
    }

    fn arguments_of<'a>(&'a self, group: &'a str) -> [&'a str; 6] {
        ["--brokers", &self.live.brokers, "--topic-prefix", &self.live.topic_prefix, "--group", group]
    }

    fn run_live(&self) -> Running {
        Running::start(&self.folder.path().join("live"), &self.arguments())
    }

    /// `callsieve replay …`
    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.live.group, arguments)
    }

    fn command_of(&self, group: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callsieve"));
        command.arg("replay").args(arguments).args(self.arguments_of(group)).env("RUST_LOG", "info");
        if ["start", "drop"].contains(&arguments[0]) {
            command.arg("--data-dir").arg(self.data_dir());
        }
        command
    }

    fn data_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("replays")
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints; it must succeed.
    fn told(&self, arguments: &[&str]) -> String {
        let done = self.ask(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// What it says when it refuses.
    fn refused(&self, arguments: &[&str]) -> String {
        self.refused_of(&self.live.group, arguments)
    }

    fn refused_of(&self, group: &str, arguments: &[&str]) -> String {
        let done = self.command_of(group, arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&done.stdout));
        String::from_utf8(done.stderr).unwrap()
    }

    fn start(&self, more: &[&str]) -> Child {
        let quiet = Stdio::null;
        self.command(&[&["start", "r"], more].concat()).stdout(quiet()).stderr(quiet()).spawn().unwrap()
    }

    fn progress(&self) -> Option<Progress> {
        Replay::named("r", self.live.clone()).unwrap().progress().unwrap()
    }

    fn newest(&self) -> BTreeMap<String, CallVerdict> {
        newest(&self.kafka.reader(), PARTITIONS)
    }

    fn own(&self) -> Kafka {
        Kafka::connect(KafkaSettings { topic_prefix: format!("{}replay-r.", self.live.topic_prefix), ..self.live.clone() }).unwrap()
    }

    /// The calls that differ, by their key, and the counts.
    fn diff(&self, more: &[&str]) -> (BTreeMap<String, Value>, Value) {
        let said = self.told(&[&["diff", "r", "--json"], more].concat());
        let mut lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let counts = lines.pop().unwrap()["counts"].clone();
        let key = |line: &Value| format!("{}/{}", line["account_id"].as_str().unwrap(), line["session_id"].as_str().unwrap());
        (lines.iter().map(|line| (key(line), line.clone())).collect(), counts)
    }

    /// Waits until the live processor has stepped everything that is there.
    fn caught_up(&self) {
        let end = |partition| self.kafka.reader().end(Topic::Events, partition).unwrap();
        until("the live processor has caught up", || {
            let positions = self.kafka.positions().unwrap();
            (0..).zip(positions).all(|(partition, position)| position.is_some_and(|position| position.next >= end(partition)))
        });
    }

    /// Retention has taken everything from the input.
    fn forget_events(&self) {
        let config = ClientConfig::new().set("bootstrap.servers", &self.live.brokers).clone();
        let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
        let mut offsets = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            offsets.add_partition_offset(&self.live.topic(Topic::Events), partition as i32, Offset::End).unwrap();
        }
        let done = self.runtime.block_on(admin.delete_records(&offsets, &AdminOptions::new())).unwrap();
        done.elements().iter().for_each(|element| element.error().unwrap());
        for partition in 0..PARTITIONS {
            assert!(self.kafka.reader().start(Topic::Events, partition).unwrap() > 0);
        }
    }
}

/// How it ends; one that doesn't is killed.
fn ended(mut child: Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status,
            None if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
            None => {
                kill(child);
                panic!("it doesn't end within {PATIENCE:?}");
            }
        }
    }
}

/// Its exit code, and what it said.
fn interrupted(mut child: Child) -> (Option<i32>, String) {
    // The child is not waited for yet, so its id is its own.
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (ended(child).code(), said)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Calls to Bob, to a customer and to the gap of the lists, in turn.
fn callee(n: usize) -> &'static str {
    [BOB, CUSTOMER, GAP][n % 3]
}

fn counts(told: &Value) -> BTreeMap<&str, u64> {
    told.as_object().unwrap().iter().map(|(kind, count)| (kind.as_str(), count.as_u64().unwrap())).filter(|(_, count)| *count > 0).collect()
}

#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_replay_judges_the_past_anew_and_what_differs_is_brought_over_once() {
    let replayed = Replayed::new();
    assert!(replayed.refused(&["start", "r"]).contains("has committed nothing"));
    assert!(replayed.refused(&["diff", "r"]).contains("there is no replay r"));
    assert!(replayed.refused(&["start", "R.x"]).contains("can't name a replay"));

    // Old calls of which the log has nothing any more, then young ones.
    const CALLS: usize = 240;
    let calls =
        |account: &'static str, age: &'static str| (0..CALLS).map(move |n| call(account, &format!("{age}-{n}"), "a", callee(n), "Disconnected"));
    let service = replayed.run_live();
    for (age, so_far) in [("old", CALLS), ("young", 2 * CALLS)] {
        for account in [CHANGED, UNCHANGED] {
            replayed.append(calls(account, age));
        }
        until("all calls are judged", || replayed.newest().len() == 2 * so_far);
        if age == "old" {
            replayed.caught_up();
            replayed.forget_events();
            // The log knows of settings that hold no more.
            replayed.append([settings(CHANGED, |settings| settings.recorded_extensions = Some(Vec::new()))]);
        }
    }
    // The settings change, and nothing else does. One call goes on.
    replayed.append([
        settings(CHANGED, |settings| (settings.filter_internal, settings.trust_extension_id) = (true, true)),
        call(CHANGED, "open", "a", CUSTOMER, "Answered"),
    ]);
    replayed.caught_up();
    let before = replayed.newest();
    assert!(before.values().all(|verdict| (verdict.revision, verdict.disposition) == (1, Disposition::Ingest)));

    // Killed while it is being made or seeded, then in the middle.
    let child = replayed.start(&["--rate", "100"]);
    until("the replay is begun", || replayed.progress().is_some());
    kill(child);
    assert!(replayed.refused(&["diff", "r"]).contains("has not finished"));
    // So slowly that it lasts longer than what is asked of it meanwhile.
    let child = replayed.start(&["--rate", "40"]);
    let total = replayed.progress().unwrap().total().1;
    until("a part is judged anew", || replayed.progress().unwrap().total().0 > total / 4);
    assert!(replayed.refused(&["drop", "r"]).contains("has a member"));
    let refuses_another_group = |command| {
        let said = replayed.refused_of("another", &[command, "r"]);
        assert!(said.contains(&format!("was begun beside the group {}, not another", replayed.live.group)), "{command}: {said}");
    };
    refuses_another_group("drop");
    kill(child);
    ["status", "diff", "promote", "start"].into_iter().for_each(refuses_another_group);
    let middle = replayed.progress().unwrap();
    assert!(middle.total().0 < total && !middle.is_finished(), "{:?}", middle.total());
    let said = replayed.told(&["status"]);
    assert!(said.contains(&format!("r: not moving, {} of {total} records", middle.total().0)), "{said}");
    assert!(said.contains("partition 1: "), "{said}");
    assert!(replayed.refused(&["promote", "r"]).contains("has not finished"));
    assert!(replayed.start(&[]).wait().unwrap().success());
    assert!(replayed.told(&["status", "r"]).starts_with(&format!("r: finished, {total} of {total} records")));

    // Each call once, by the settings of today, from the log or from its evidence alone.
    let anew = newest(&replayed.own().reader(), PARTITIONS);
    assert_eq!(anew.keys().collect::<BTreeSet<_>>(), before.keys().collect());
    assert!(anew.values().all(|verdict| verdict.revision == 1), "judged once, interrupted or not");
    let (differing, told) = replayed.diff(&[]);
    let third = CALLS as u64 / 3;
    let changed = [("TO_INTERNAL", 2 * third), ("OTHER", 2 * third)];
    let same = 4 * CALLS as u64 - 4 * third;
    assert_eq!(counts(&told), [("SAME", same)].into_iter().chain(changed).collect());
    let expected = ["old", "young"]
        .into_iter()
        .flat_map(|age| (0..CALLS).filter(|n| callee(*n) != CUSTOMER).map(move |n| (format!("{CHANGED}/{age}-{n}"), callee(n) == GAP)));
    let expected: BTreeMap<String, bool> = expected.collect();
    assert_eq!(differing.iter().map(|(key, line)| (key.clone(), line["change"] == "TO_INTERNAL")).collect::<BTreeMap<_, _>>(), expected);
    let gap = &differing[&format!("{CHANGED}/old-2")];
    assert_eq!(
        gap["why"],
        json!([
            {"what": GAP, "live": "NOT_IN_SNAPSHOT", "replay": "TRUSTED_EXTENSION"},
            {"what": "disposition", "live": "INGEST", "replay": "DISREGARD"},
        ])
    );
    assert_eq!((&gap["live"]["revision"], &gap["live"]["verdict"], &gap["replay"]["verdict"]), (&json!(1), &json!("EXTERNAL"), &json!("INTERNAL")));
    let (of_the_other, told) = replayed.diff(&["--account", UNCHANGED]);
    assert_eq!((of_the_other.len(), counts(&told)), (0, [("SAME", 2 * CALLS as u64)].into()));
    let lines = replayed.told(&["diff", "r"]);
    let line =
        format!("{CHANGED} old-2 TO_INTERNAL EXTERNAL -> INTERNAL {GAP}: NOT_IN_SNAPSHOT -> TRUSTED_EXTENSION; disposition: INGEST -> DISREGARD");
    assert!(lines.lines().any(|found| found == line), "{lines}");

    // Other rules would say something else than the replay.
    let own = replayed.own();
    let begun = own.reader().read(Topic::Events, 0, 0, 1).unwrap().records.remove(0);
    let mut other: Value = serde_json::from_slice(begun.value.as_ref().unwrap()).unwrap();
    assert_eq!(other["rules"], json!(RULES));
    other["rules"] = json!("0");
    own.appender().put(Topic::Events, 0, [(begun.key.to_vec(), Some(other.to_string().into_bytes()))]).unwrap();
    let said = replayed.refused(&["promote", "r"]);
    assert!(said.contains(&format!("judges by the rules {RULES}")) && said.contains("by the rules 0: bring the live processor"), "{said}");
    assert!(replayed.refused(&["start", "r"]).contains("was begun with the rules 0"));
    own.appender().put(Topic::Events, 0, [(begun.key.into(), begun.value.map(Into::into))]).unwrap();

    // One call gets a newer revision before the promotion, and another while it goes on.
    replayed.append([call(CHANGED, "young-0", "b", CUSTOMER, "Disconnected")]);
    let newer = format!("{CHANGED}/young-0");
    until("a late leg is judged", || replayed.newest()[&newer].revision == 2);
    let (differing, _) = replayed.diff(&[]);
    assert_eq!(differing[&newer]["change"], "NEWER");
    assert_eq!(service.terminate(), Some(0));
    let overtaken = format!("{CHANGED}/young-3");
    replayed.append([call(CHANGED, "young-3", "b", CUSTOMER, "Disconnected")]);

    // Interrupted, repeated, and repeated again before the live processor has come to any of it.
    let end = || (0..PARTITIONS).map(|partition| replayed.kafka.reader().end(Topic::Events, partition).unwrap()).sum::<i64>();
    let first = end();
    let child = replayed.command(&["promote", "r"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("some are asked for", || end() > first);
    kill(child);
    for _ in 0..2 {
        let said = replayed.told(&["promote", "r", "--account", CHANGED]);
        assert!(said.contains(&format!("{} calls are to be judged again", 4 * third - 1)), "{said}");
    }
    // Who asks for a revision that is no more gets nothing.
    replayed.append([1, 3].map(|expected_revision| {
        let (account_id, session_id) = (id(CHANGED), sid("young-0"));
        Event::Rejudge(Rejudge { account_id, session_id, expected_revision, replay_id: "r".into(), rules: Some(RULES.into()) })
    }));
    let service = replayed.run_live();
    replayed.caught_up();
    until("the call that was overtaken is judged", || replayed.newest()[&overtaken].revision == 2);
    let after = replayed.newest();
    for (key, verdict) in &after {
        let late = [&newer, &overtaken].contains(&key);
        let (revision, cause) = match expected.get(key) {
            _ if late => (2, RevisionCause::LateLeg),
            Some(_) => (2, RevisionCause::Replay),
            None => (1, RevisionCause::CallEnded),
        };
        assert_eq!((verdict.revision, verdict.cause), (revision, cause), "{key}");
        if expected.contains_key(key) && !late {
            assert_eq!((verdict.verdict, verdict.disposition), (Verdict::Internal, Disposition::Disregard), "{key}");
        }
    }
    assert_eq!(after.len(), before.len());
    let (left, told) = replayed.diff(&[]);
    assert_eq!(left.keys().collect::<Vec<_>>(), [&newer, &overtaken]);
    assert_eq!(counts(&told), [("NEWER", 2), ("SAME", 4 * CALLS as u64 - 2)].into());
    assert!(replayed.told(&["promote", "r"]).starts_with("0 calls"));
    assert_eq!(service.terminate(), Some(0));

    dropped(&replayed);
}

/// What is judged then is judged by its evidence, though no record comes any more that would take time to where it was.
#[test]
#[ignore = "needs a broker: make kafka-test"]
fn kafka_a_replay_ends_also_when_retention_has_taken_what_it_was_to_judge() {
    const CALLS: usize = 10;
    let replayed = Replayed::new();
    let service = replayed.run_live();
    for account in [CHANGED, UNCHANGED] {
        replayed.append((0..CALLS).map(|n| call(account, &format!("s-{n}"), "a", callee(n), "Disconnected")));
    }
    until("all calls are judged", || replayed.newest().len() == 2 * CALLS);
    replayed.caught_up();
    assert_eq!(service.terminate(), Some(0));

    let begun = Instant::now();
    let child = replayed.command(&["start", "r", "--rate", "5"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("it is seeded", || replayed.progress().is_some_and(|progress| progress.positions.iter().all(Option::is_some)));
    // Two accounts, their numbers, and their calls.
    assert!(begun.elapsed() > Duration::from_secs(4), "seeded in {:?}, at 5 records a second", begun.elapsed());
    until("a part is judged anew", || replayed.progress().unwrap().total().0 >= 4);
    // Its state is kept, in which nothing is due any more.
    let (code, said) = interrupted(child);
    assert!(code == Some(1) && said.contains("interrupted; `callsieve replay start r` goes on"), "{said}");
    let progress = replayed.progress().unwrap();
    let is_left = |(n, part): (usize, &Part)| progress.positions[n].is_some_and(|position| position.next > part.start && position.next < part.end);
    assert!(progress.begun.parts.iter().enumerate().any(is_left), "{progress:?}");

    replayed.forget_events();
    assert!(ended(replayed.start(&[])).success());
    assert_eq!(counts(&replayed.diff(&[]).1), [("SAME", 2 * CALLS as u64)].into());
}

fn dropped(replayed: &Replayed) {
    assert!(replayed.data_dir().join("replay/r").is_dir());
    replayed.told(&["drop", "r"]);
    assert_eq!(names(&replayed.live, &format!("{}replay-", replayed.live.topic_prefix)).unwrap(), [""; 0]);
    assert_eq!(names(&replayed.live, &replayed.live.topic_prefix).unwrap().len(), 6, "the live topics stay");
    let group = KafkaSettings { group: format!("{}-replay-r", replayed.live.group), ..replayed.live.clone() };
    assert_eq!(Kafka::connect(group).unwrap().positions().unwrap(), [None; PARTITIONS as usize]);
    assert!(!Path::exists(&replayed.data_dir().join("replay/r")));
    assert_eq!(replayed.told(&["status"]), "");
    assert!(replayed.refused(&["status", "r"]).contains("there is no replay r"));
    replayed.told(&["drop", "r"]);

    // The group's positions outlive topics that are deleted by hand.
    let group = KafkaSettings { group: format!("{}-replay-r", replayed.live.group), ..replayed.live.clone() };
    Kafka::connect(group).unwrap().begin(0, Position { next: 0, partition_time: 0, low_water: 0, low_water_time: 0 }, &[]).unwrap();
    assert!(replayed.refused(&["start", "r"]).contains("has positions"));
    replayed.told(&["drop", "r"]);

    // One that was cut off while it was made.
    let half = KafkaSettings { topic_prefix: format!("{}replay-r.", replayed.live.topic_prefix), ..replayed.live.clone() };
    create_some(&half, &TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() }, &[Topic::Events]).unwrap();
    for status in [&["status", "r"][..], &["status"]] {
        assert!(replayed.told(status).starts_with("r: is being made; "));
    }
    replayed.told(&["drop", "r"]);
    assert_eq!(names(&replayed.live, &half.topic_prefix).unwrap(), [""; 0]);
    let topics = TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() };
    create_some(&half, &topics, &[Topic::CallVerdicts, Topic::DeadLetters]).unwrap();
    assert!(replayed.told(&["status"]).starts_with("r: is being made; "));
    assert!(replayed.start(&[]).wait().unwrap().success());
    assert!(replayed.told(&["status", "r"]).starts_with("r: finished"));
}
