//! `callsieve topics repartition` on a real Kafka: to another number of partitions while notifications keep coming; nothing that was acknowledged is
//! lost, and revisions go on where they were. `make kafka-test` starts the broker.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use callsieve::event::{AccountId, AccountRemoved, CallVerdict, Event, SnapshotCompleted, Verdict};
use callsieve::judge::number::Country;
use callsieve::log::kafka::{Kafka, KafkaSettings, TopicSettings, create, remove, remove_group};
use callsieve::log::{Appender, Reader, Topic, partition_of};
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::roles::sync;
use callsieve::simulate::Company;
use cluster::{named, newest, shared_brokers};
use common::{PATIENCE, Running, TOKEN, account, apart, append_numbers, calls, company, get, now, until};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BEFORE: u32 = 3;
const AFTER: u32 = 5;
/// An account with one call, whose other end turns out to be the company's after the move.
const SINGLE: &str = "700100200";

/// Names of a test's own, and others that begin with them.
fn from_and_to() -> (KafkaSettings, KafkaSettings) {
    let from = named(&shared_brokers());
    let name = format!("{}-{AFTER}", from.group);
    let to = KafkaSettings { topic_prefix: format!("{name}."), group: name, ..from.clone() };
    (from, to)
}

fn start(dir: &tempfile::TempDir, settings: &KafkaSettings, more: &[&str]) -> Running {
    let on = ["--brokers", &settings.brokers, "--topic-prefix", &settings.topic_prefix, "--group", &settings.group];
    Running::start(dir.path(), &[&on, more].concat())
}

/// The command as a process.
struct Repartition {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Repartition {
    fn start(from: &KafkaSettings, to: &KafkaSettings, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_callsieve"))
            .args(["topics", "repartition", "--brokers", &from.brokers, "--topic-prefix", &from.topic_prefix, "--group", &from.group])
            .args(["--to-prefix", &to.topic_prefix, "--partitions", &AFTER.to_string()])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    /// Waits until it says that instances may start.
    fn ready(mut self) -> Self {
        let mut line = String::new();
        while !line.starts_with("ready: ") {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it ended: {:?}", self.child.wait());
        }
        self
    }

    /// Its exit code, and what it said until then.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }

    fn interrupted(self) -> (Option<i32>, String) {
        // The child is not waited for yet, so its id is its own.
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        self.ended()
    }
}

/// A company, the truth about its calls, and the notifications of them in the order in which they come.
struct Watched {
    company: Company,
    account: String,
    truth: BTreeMap<String, bool>,
    bodies: Vec<String>,
}

impl Watched {
    fn new(seed: u64) -> Self {
        let company = company(seed);
        let account = account(&company).to_string();
        let (truth, documents) = calls(&company, 40);
        let bodies = documents.iter().map(serde_json::Value::to_string).collect();
        Self { company, account, truth, bodies }
    }

    /// A part of the notifications, in quarters.
    fn quarters(&self, of: Range<usize>) -> &[String] {
        &self.bodies[self.bodies.len() * of.start / 4..self.bodies.len() * of.end / 4]
    }
}

/// Posts a part of every company's notifications; all are acknowledged when it returns.
async fn send(companies: &[Arc<Watched>], quarters: Range<usize>, base: &str) {
    let sending: Vec<_> = companies
        .iter()
        .map(|watched| {
            let (watched, quarters, base) = (watched.clone(), quarters.clone(), base.to_owned());
            tokio::spawn(async move {
                let http = reqwest::Client::new();
                for body in watched.quarters(quarters) {
                    let address = format!("{base}/webhooks/ringcentral/{}", watched.account);
                    let answer = http.post(address).header("verification-token", TOKEN).body(body.clone()).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                }
            })
        })
        .collect();
    for sending in sending {
        sending.await.unwrap();
    }
}

async fn append(appender: &dyn Appender, documents: &[&str], completes: bool) {
    let account = AccountId::parse(SINGLE).unwrap();
    let asked = Asked { account: Some(&account), received_at: Some(now()), country: Country::DEFAULT, history: false };
    for document in documents {
        sync::append(appender, &account, &read_document(document.as_bytes(), &asked).unwrap().events).await.unwrap();
    }
    if completes {
        let completed = SnapshotCompleted { account_id: account.clone(), sync_id: "test".into(), completed_at: now(), numbers_seen: 0 };
        sync::append(appender, &account, [&Event::SnapshotCompleted(completed)]).await.unwrap();
    }
}

const HEAD_OFFICE: &str = r#"{"records":[{"id":1,"phoneNumber":"+16505550190","usageType":"MainCompanyNumber"}]}"#;
const BRANCH: &str = r#"{"records":[{"id":2,"phoneNumber":"+16505550191","usageType":"CompanyNumber"}]}"#;

fn call_to_branch(session: &str) -> String {
    let at = jiff::Timestamp::from_millisecond(now()).unwrap();
    format!(
        r#"{{"uuid":"1","event":"/restapi/v1.0/account/{SINGLE}/telephony/sessions","timestamp":"{at}","body":{{"sequence":2,"sessionId":"5",
        "telephonySessionId":"{session}","eventTime":"{at}","accountId":"{SINGLE}","parties":[{{"id":"p-1","extensionId":"7001","direction":"Outbound",
        "from":{{"phoneNumber":"+16505550190"}},"to":{{"phoneNumber":"+16505550191"}},"status":{{"code":"Disconnected"}}}}]}}}}"#
    )
}

async fn verdicts(kafka: &Arc<Kafka>, partitions: u32) -> BTreeMap<String, CallVerdict> {
    let reader = kafka.reader();
    apart(move || newest(&reader, partitions)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_the_topics_get_other_partitions_while_notifications_keep_coming() {
    let (from, to) = from_and_to();
    let (of, topics) = (from.clone(), TopicSettings { partitions: BEFORE, ..TopicSettings::default() });
    let old = apart(move || {
        create(&of, &topics).unwrap();
        Arc::new(Kafka::connect(of).unwrap())
    })
    .await;
    let companies: Vec<Arc<Watched>> = (61..=66).map(|seed| Arc::new(Watched::new(seed))).collect();
    let moves = companies.iter().filter(|w| partition_of(&w.account, BEFORE) != partition_of(&w.account, AFTER)).count();
    assert!(moves > 0, "some accounts change their partition");
    for watched in &companies {
        append_numbers(&old.appender(), &watched.company).await;
    }
    append(&old.appender(), &[HEAD_OFFICE, &call_to_branch("s-1")], true).await;
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());

    let service = start(&dirs[0], &from, &[]);
    send(&companies, 0..2, &service.base).await;
    let single = format!("{SINGLE}/s-1");
    until("the first calls are judged", async || {
        let verdicts = verdicts(&old, BEFORE).await;
        verdicts.len() > 10 && verdicts.contains_key(&single)
    })
    .await;
    let (code, said) = apart({
        let (from, to) = (from.clone(), to.clone());
        move || Repartition::start(&from, &to, &[]).ended()
    })
    .await;
    assert!(code == Some(1) && said.contains("has members") && said.contains("--workers 0"), "{said}");
    assert_eq!(service.terminate(), Some(0));
    // A group that has judged nothing of it, by a mistake.
    let (code, said) = apart({
        let (from, to) = (KafkaSettings { group: format!("{}-other", from.group), ..from.clone() }, to.clone());
        move || Repartition::start(&from, &to, &["--once"]).ended()
    })
    .await;
    assert!(code == Some(1) && said.contains(&format!("{}-other has no position", from.group)) && said.contains("--group"), "{said}");

    // From here on webhooks are only taken in, also while the copy is made, is killed, and is made on.
    let ingress = start(&dirs[1], &from, &["--workers", "0"]);
    ingress.ready().await;
    let (watched, base) = (companies.clone(), ingress.base.clone());
    let sending = tokio::spawn(async move { send(&watched, 2..3, &base).await });
    let mut killed = Repartition::start(&from, &to, &[]);
    let of = to.clone();
    let new = apart(move || Arc::new(Kafka::with(of, AFTER).unwrap())).await;
    until("some verdicts are copied", async || {
        let reader = new.reader();
        apart(move || (0..AFTER).any(|partition| reader.end(Topic::CallVerdicts, partition).is_ok_and(|end| end > 0))).await
    })
    .await;
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let following = apart({
        let (from, to) = (from.clone(), to.clone());
        move || Repartition::start(&from, &to, &[]).ready()
    })
    .await;
    sending.await.unwrap();

    // The old and the new take webhooks in side by side.
    let service = start(&dirs[2], &to, &["--workers", "2"]);
    let half = companies.len() / 2;
    tokio::join!(send(&companies[..half], 3..4, &ingress.base), send(&companies[half..], 3..4, &service.base));
    append(&new.appender(), &[BRANCH], false).await;
    assert_eq!(ingress.terminate(), Some(0));
    let (code, said) = apart(move || following.interrupted()).await;
    assert!(code == Some(0) && said.contains("everything is copied"), "{said}");
    let ends = async || {
        let reader = old.reader();
        apart(move || (0..BEFORE).map(|partition| reader.end(Topic::Events, partition).unwrap()).collect::<Vec<_>>()).await
    };
    let before = ends().await;
    let (code, said) = apart({
        let (from, to) = (from.clone(), to.clone());
        move || Repartition::start(&from, &to, &["--once"]).ended()
    })
    .await;
    assert_eq!((code, ends().await), (Some(0), before), "{said}");
    assert!(said.contains(", 0 events by this run"), "{said}");

    let mut truth: BTreeMap<String, bool> = companies.iter().flat_map(|watched| watched.truth.clone()).collect();
    truth.insert(single.clone(), false);
    let was = verdicts(&old, BEFORE).await;
    let begun = Instant::now();
    let found = loop {
        // No revision is missing, and none is there twice: that of the old topics are among them.
        let found = verdicts(&new, AFTER).await;
        let differ: Vec<_> =
            truth.iter().filter(|(key, external)| found.get(*key).map(|v| v.verdict == Verdict::External) != Some(**external)).take(5).collect();
        if differ.is_empty() && found.len() == truth.len() {
            break found;
        }
        assert!(begun.elapsed() < PATIENCE, "{} verdicts of {} calls, {differ:?} differ", found.len(), truth.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(was.iter().all(|(key, verdict)| found[key].revision >= verdict.revision));
    assert_eq!((was[&single].revision, found[&single].revision), (1, 2), "a revision on top of one that was copied");
    assert_eq!(found[&single].snapshot_size, 2, "the numbers from before count");
    let is_new = |key: &String| !was.contains_key(key);
    assert!(found.iter().filter(|(key, _)| is_new(key)).count() > 10, "calls were judged after the move");
    assert!(found.values().all(|verdict| verdict.snapshot_complete));
    assert_eq!(service.terminate(), Some(0));
}

/// Topics of a test's own, the names of those that they are to be copied to, and the cluster's end of the first.
async fn topics() -> (KafkaSettings, KafkaSettings, Kafka) {
    let (from, to) = from_and_to();
    let of = from.clone();
    let old = apart(move || {
        create(&of, &TopicSettings { partitions: BEFORE, ..TopicSettings::default() }).unwrap();
        Kafka::connect(of).unwrap()
    });
    let old = old.await;
    (from, to, old)
}

/// What the log still holds of an account from before its removal stays gone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_what_was_removed_is_not_brought_along() {
    let (from, to, old) = topics().await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let service = start(&dirs[0], &from, &[]);
    let appender = old.appender();
    append(&appender, &[HEAD_OFFICE, &call_to_branch("s-1")], true).await;
    let of_call = |base: &str, session: &str| format!("{base}/api/v1/accounts/{SINGLE}/calls/{session}");
    let is_judged = async |base: &str, session: &str| get(&of_call(base, session)).await.1["verdict"]["revision"] == 1;
    until("the first call is judged", async || is_judged(&service.base, "s-1").await).await;
    let account_id = AccountId::parse(SINGLE).unwrap();
    let removed = Event::AccountRemoved(AccountRemoved { account_id: account_id.clone(), removed_at: now() });
    sync::append(&appender, &account_id, [&removed]).await.unwrap();
    append(&appender, &[HEAD_OFFICE, &call_to_branch("s-2")], true).await;
    until("the second call is judged", async || is_judged(&service.base, "s-2").await).await;
    assert_eq!(get(&of_call(&service.base, "s-1")).await.0, 404);
    assert_eq!(service.terminate(), Some(0));

    // Begun anew, after its topics were deleted.
    for is_deleted in [false, true] {
        let (code, said) = apart({
            let (from, to) = (from.clone(), to.clone());
            move || {
                if is_deleted {
                    remove(&to).unwrap();
                    assert!(remove_group(&to).unwrap());
                }
                Repartition::start(&from, &to, &["--once"]).ended()
            }
        })
        .await;
        assert_eq!(code, Some(0), "{said}");
    }
    let service = start(&dirs[1], &to, &[]);
    until("the second call's verdict is there", async || is_judged(&service.base, "s-2").await).await;
    assert_eq!(get(&of_call(&service.base, "s-1")).await.0, 404);
    service.ready().await;
    let (_, accounts) = get(&format!("{}/api/v1/accounts", service.base)).await;
    assert_eq!(accounts["accounts"][0]["numbers"], 1, "{accounts}");
    assert_eq!(service.terminate(), Some(0));
}

/// From then on the old group's verdicts are nobody's, and how far the log is copied outlasts a week without runs and without records.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_once_the_copy_is_ready_it_is_never_to_be_begun_anew() {
    let (from, to, old) = topics().await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let revision = async |base: &str, session: &str| {
        let of_call = format!("{base}/api/v1/accounts/{SINGLE}/calls/{session}");
        get(&of_call).await.1["verdict"]["revision"].as_i64()
    };
    let run = async |more: &'static [&'static str]| {
        let (from, to) = (from.clone(), to.clone());
        apart(move || Repartition::start(&from, &to, more)).await
    };
    let service = start(&dirs[0], &from, &[]);
    append(&old.appender(), &[HEAD_OFFICE, &call_to_branch("s-1")], true).await;
    until("the first call is judged", async || revision(&service.base, "s-1").await == Some(1)).await;
    assert_eq!(service.terminate(), Some(0));
    let following = run(&[]).await;
    let following = apart(move || following.ready()).await;
    // As if Kafka had forgotten how far each partition is, of which only one goes on.
    let forget = async || {
        let marks = KafkaSettings { group: format!("{}repartition", to.topic_prefix), ..to.clone() };
        assert!(apart(move || remove_group(&marks).unwrap()).await);
    };
    forget().await;

    // An old instance with workers. The second call has the first one's legacy id, which links them.
    let service = start(&dirs[0], &from, &[]);
    append(&old.appender(), &[&call_to_branch("s-2")], false).await;
    until("the old group judges a call", async || revision(&service.base, "s-2").await == Some(1)).await;
    assert_eq!(service.terminate(), Some(0));
    let (code, said) = apart(move || following.interrupted()).await;
    assert!(code == Some(0) && said.contains("has gone on") && said.contains("everything is copied"), "{said}");
    // What is taken in after it has ended.
    append(&old.appender(), &[HEAD_OFFICE], false).await;
    for left in [1, 0] {
        let once = run(&["--once"]).await;
        let (code, said) = apart(move || once.ended()).await;
        assert!(code == Some(0) && said.contains(&format!(", {left} events by this run")), "{said}");
    }
    let service = start(&dirs[1], &to, &[]);
    let revisions = async || (revision(&service.base, "s-1").await, revision(&service.base, "s-2").await);
    until("both are judged on the new topics", async || revisions().await == (Some(2), Some(1))).await;
    assert_eq!(service.terminate(), Some(0));

    // Where nothing is known any more.
    forget().await;
    let once = run(&["--once"]).await;
    let (code, said) = apart(move || once.ended()).await;
    assert!(code == Some(1) && said.contains("Leave them as they are") && !said.contains("elete"), "{said}");
}

/// By which every account would be judged where nothing is known of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_number_that_was_changed_in_place_is_refused_and_the_accounts_are_moved() {
    let (from, to, old) = topics().await;
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let revision = async |base: &str, session: &str| {
        let of_call = format!("{base}/api/v1/accounts/{SINGLE}/calls/{session}");
        get(&of_call).await.1["verdict"]["revision"].as_i64()
    };
    let service = start(&dirs[0], &from, &[]);
    append(&old.appender(), &[HEAD_OFFICE, &call_to_branch("s-1")], true).await;
    until("the first call is judged", async || revision(&service.base, "s-1").await == Some(1)).await;
    assert_eq!(service.terminate(), Some(0));

    let more = (BEFORE + 1..).find(|more| partition_of(SINGLE, *more) != partition_of(SINGLE, BEFORE)).unwrap();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &from.brokers).create().unwrap();
    let names = Topic::ALL.map(|topic| from.topic(topic));
    let grown = names.each_ref().map(|name| NewPartitions::new(name, more as usize));
    let done = admin.create_partitions(&grown, &AdminOptions::new()).await.unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    let connected = async || {
        let of = from.clone();
        apart(move || Kafka::connect(of).ok().filter(|kafka| kafka.partitions() == more)).await
    };
    until("the brokers know of the change", async || connected().await.is_some()).await;
    let changed = connected().await.unwrap();
    append(&changed.appender(), &[&call_to_branch("s-2")], false).await;
    for dir in &dirs[..2] {
        let arguments = ["run", "--listen", "127.0.0.1:0", "--brokers", &from.brokers, "--topic-prefix", &from.topic_prefix, "--group", &from.group];
        let refused = Command::new(env!("CARGO_BIN_EXE_callsieve")).args(arguments).arg("--data-dir").arg(dir.path()).output().unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        let parts = [format!("it has judged {BEFORE} partitions"), format!("have {more}"), "callsieve topics repartition".to_owned()];
        assert!(refused.status.code() == Some(1) && parts.iter().all(|part| said.contains(part)), "{said}");
    }

    // Webhooks are taken in all the same.
    let ingress = start(&dirs[0], &from, &["--workers", "0"]);
    ingress.ready().await;
    assert_eq!(ingress.terminate(), Some(0));
    let once = Repartition::start(&from, &to, &["--once"]);
    let (code, said) = apart(move || once.ended()).await;
    assert_eq!(code, Some(0), "{said}");
    let service = start(&dirs[2], &to, &[]);
    // They are linked by their legacy id, so the first may have been judged again.
    until("both are judged on the new topics", async || {
        revision(&service.base, "s-1").await.is_some() && revision(&service.base, "s-2").await == Some(1)
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
}
