//! `callsieve run --brokers` as processes on a real Kafka: whatever happens to them, what they acknowledged is judged, and each verdict is there
//! once. `make kafka-test` starts the broker.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use callsieve::event::{AccountId, AccountSettings, Event, Verdict, encode_event};
use callsieve::log::kafka::{Kafka, KafkaSettings, TopicSettings, create, create_some};
use callsieve::log::{Appender, Headers, Input, LogError, Reader, Topic, partition_of};
use callsieve::simulate::Company;
use cluster::{Cluster, named, newest, shared_brokers};
use common::clock::Clock;
use common::{PATIENCE, Running, TOKEN, account, apart, append_numbers, calls, company, escaped, get, now, until};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PARTITIONS: u32 = 4;
const SEED: u64 = 9;
/// Longer than a member's session and a transaction may last without a sign of life.
const AWAY: Duration = Duration::from_secs(13);

/// A member that is killed is found out by its session, and the classic protocol's can be short.
const QUICKLY_MISSED: [&str; 6] = ["--kafka", "group.protocol=classic", "--kafka", "session.timeout.ms=6000", "--kafka", "heartbeat.interval.ms=500"];

/// Whether the snapshots of all companies are complete, as an instance shows them.
async fn all_is_stepped(base: &str, companies: &[Company]) -> bool {
    let accounts = get(&format!("{base}/api/v1/accounts")).await.1;
    accounts["accounts"].as_array().is_some_and(|list| list.iter().filter(|a| a["snapshot_completed_at"].is_string()).count() == companies.len())
}

async fn with_topics(settings: &KafkaSettings) -> Arc<Kafka> {
    let settings = settings.clone();
    apart(move || {
        create(&settings, &TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() }).unwrap();
        Arc::new(Kafka::connect(settings).unwrap())
    })
    .await
}

fn arguments<'a>(settings: &'a KafkaSettings, more: &[&'a str]) -> Vec<&'a str> {
    [&["--brokers", &settings.brokers, "--topic-prefix", &settings.topic_prefix, "--group", &settings.group], more].concat()
}

/// A company, its calls, and the notifications of them in the order in which they come.
struct Watched {
    company: Company,
    account: String,
    truth: BTreeMap<String, bool>,
    documents: Vec<Value>,
    /// So many may be sent.
    allowed: watch::Sender<usize>,
    acknowledged: AtomicUsize,
}

impl Watched {
    fn new(seed: u64, calls_per_hour: u32) -> Self {
        let company = company(seed);
        let account = account(&company).to_string();
        let (truth, documents) = calls(&company, calls_per_hour);
        Self { company, account, truth, documents, allowed: watch::Sender::new(usize::MAX), acknowledged: AtomicUsize::new(0) }
    }

    /// Lets a share be sent, in all.
    fn allow(&self, share: f64) {
        self.allowed.send_replace((self.documents.len() as f64 * share).ceil() as usize);
    }

    fn is_sent(&self, share: f64) -> bool {
        self.acknowledged.load(Ordering::Acquire) >= (self.documents.len() as f64 * share) as usize
    }

    /// Posts every notification until an instance has acknowledged it.
    async fn send(&self, bases: &Mutex<Vec<String>>) {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
        let mut allowed = self.allowed.subscribe();
        for (n, document) in self.documents.iter().enumerate() {
            allowed.wait_for(|allowed| n < *allowed).await.unwrap();
            let body = document.to_string();
            for attempt in 0.. {
                let base = {
                    let bases = bases.lock().unwrap();
                    bases[(n + attempt) % bases.len()].clone()
                };
                let address = format!("{base}/webhooks/ringcentral/{}", self.account);
                match http.post(address).header("verification-token", TOKEN).body(body.clone()).send().await {
                    Ok(answer) if answer.status() == 200 => break,
                    Ok(answer) => assert!(answer.status().is_server_error(), "{}", answer.status()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            self.acknowledged.fetch_add(1, Ordering::AcqRel);
        }
    }
}

async fn true_in_the_end(kafka: &Arc<Kafka>, companies: &[Arc<Watched>]) {
    let truth: BTreeMap<String, bool> = companies.iter().flat_map(|w| w.truth.clone()).collect();
    let begun = Instant::now();
    loop {
        let reader = kafka.reader();
        let found = apart(move || newest(&reader, PARTITIONS)).await;
        let found: BTreeMap<String, bool> = found.into_iter().map(|(key, v)| (key, v.verdict == Verdict::External)).collect();
        if found == truth {
            return;
        }
        let differ: Vec<_> = truth.iter().filter(|(key, external)| found.get(*key) != Some(*external)).take(5).collect();
        let strange: Vec<_> = found.keys().filter(|key| !truth.contains_key(*key)).take(5).collect();
        assert!(begun.elapsed() < PATIENCE, "{} verdicts of {} calls; {differ:?} differ, {strange:?} are no calls", found.len(), truth.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The answer of all instances, which is the same whoever holds the account.
async fn ask(bases: &[String], path: &str) -> Value {
    let mut found = None;
    until(&format!("every instance answers {path}"), async || {
        let mut answers = Vec::new();
        for base in bases {
            answers.push(get(&format!("{base}{path}")).await);
        }
        let are_the_same = answers.iter().all(|answer| answer.0 == 200 && answer == &answers[0]);
        found = answers.pop().filter(|_| are_the_same).map(|(_, body)| body);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// What an instance's metrics say of a series.
async fn metric(base: &str, series: &str) -> u64 {
    let text = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok()).unwrap_or(0.0) as u64
}

/// Records on company-numbers.
async fn numbers_on_topic(kafka: &Kafka) -> u64 {
    let reader = kafka.reader();
    let numbers = move |partition| reader.read(Topic::CompanyNumbers, partition, 0, 100_000).unwrap().records.len() as u64;
    apart(move || (0..PARTITIONS).map(numbers).sum()).await
}

/// An instance with copies of what another holds takes it over without reading it all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_standby_takes_over_without_a_rebuild() {
    let settings = named(&shared_brokers());
    let kafka = with_topics(&settings).await;
    let companies: Vec<Company> = (61..=70).map(company).collect();
    for company in &companies {
        append_numbers(&kafka.appender(), company).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let more = [&QUICKLY_MISSED[..], &["--standbys", "1"]].concat();
    let start = |name: &str| Running::start(&folder.path().join(name), &arguments(&settings, &more));
    let one = start("one");
    until("all is stepped", async || all_is_stepped(&one.base, &companies).await).await;
    // From now on nothing more is committed, and the second begins with an empty disk: half of it becomes its own, half a copy.
    let two = start("two");
    two.ready().await;
    until("each keeps copies of what the other holds", async || {
        let copies = [metric(&one.base, "callsieve_standby_copies ").await, metric(&two.base, "callsieve_standby_copies ").await];
        copies == [2, 2]
    })
    .await;
    let (by_worker, by_standby) = ("callsieve_brought_up_records_total{by=\"worker\"}", "callsieve_brought_up_records_total{by=\"standby\"}");
    let all = numbers_on_topic(&kafka).await;
    assert!(metric(&two.base, by_standby).await * 10 > all, "its copies were read");
    let before = metric(&two.base, by_worker).await;
    one.kill();
    until("it has taken over", async || {
        let (status, list) = get(&format!("{}/api/v1/accounts", two.base)).await;
        status == 200 && list["accounts"].as_array().is_some_and(|list| list.len() == companies.len())
    })
    .await;
    let read = metric(&two.base, by_worker).await - before;
    assert!(read * 20 < all, "{read} records were read to take over, of {all} numbers alone");
    for account in companies.iter().map(account) {
        assert_eq!(get(&format!("{}/api/v1/accounts/{account}/numbers", two.base)).await.0, 200);
    }
    assert_eq!(two.terminate(), Some(0));
}

/// After a kill the state on disk is as it was when it was last written out, and what has come since is read, not all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_kill_leaves_the_state_and_what_is_missing_alone_is_read() {
    let settings = named(&shared_brokers());
    let kafka = with_topics(&settings).await;
    let companies: Vec<Company> = (71..=80).map(company).collect();
    let (early, late) = companies.split_at(9);
    let folder = tempfile::tempdir().unwrap();
    let more = [&QUICKLY_MISSED[..], &["--instance", "one"]].concat();
    let start = || Running::start(folder.path(), &arguments(&settings, &more));
    let one = start();
    for company in early {
        append_numbers(&kafka.appender(), company).await;
    }
    until("the early ones are stepped", async || all_is_stepped(&one.base, early).await).await;
    // Write buffers become files when it stops.
    assert_eq!(one.terminate(), Some(0));
    let two = start();
    append_numbers(&kafka.appender(), &late[0]).await;
    until("the late one is stepped", async || all_is_stepped(&two.base, &companies).await).await;
    two.kill();
    let three = start();
    three.ready().await;
    until("all is as it was", async || all_is_stepped(&three.base, &companies).await).await;
    let read = metric(&three.base, "callsieve_brought_up_records_total{by=\"worker\"}").await;
    let all = numbers_on_topic(&kafka).await;
    assert!(read > 0 && read * 3 < all, "{read} records were read, of {all} numbers alone");
    assert_eq!(metric(&three.base, "callsieve_corrupt_states_total ").await, 0);
    assert_eq!(three.terminate(), Some(0));
}

/// A block of the disk that can't be read takes the state with it, as one that is read wrong does, and not the process.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_state_that_the_disk_does_not_give_is_built_anew() {
    let settings = named(&shared_brokers());
    let kafka = with_topics(&settings).await;
    let companies: Vec<Company> = (91..=96).map(company).collect();
    let append = async || {
        for company in &companies {
            append_numbers(&kafka.appender(), company).await;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let one = Running::start(folder.path(), &arguments(&settings, &QUICKLY_MISSED));
    append().await;
    until("all is stepped", async || all_is_stepped(&one.base, &companies).await).await;
    // Write buffers become files when it stops.
    assert_eq!(one.terminate(), Some(0));
    let two = Running::start_on_bad_disk(folder.path(), &arguments(&settings, &QUICKLY_MISSED));
    two.ready().await;
    let bad = partition_of(account(&companies[0]).as_str(), kafka.partitions());
    std::fs::write(folder.path().join("state").join(bad.to_string()).join("UNREADABLE"), "").unwrap();
    append().await;
    until("one is built anew", async || metric(&two.base, "callsieve_corrupt_states_total ").await == 1).await;
    two.ready().await;
    until("all is as it was", async || all_is_stepped(&two.base, &companies).await).await;
    assert_eq!(metric(&two.base, "callsieve_corrupt_states_total ").await, 1);
    assert_eq!(two.terminate(), Some(0));
}

/// A member whose clock is set back keeps its place, also while nothing comes that would wake its client.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_clock_that_is_set_back_costs_no_membership() {
    let settings = named(&shared_brokers());
    let kafka = with_topics(&settings).await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::new(folder.path().join("clock"));
    let one = Running::start_by(&clock, &folder.path().join("one"), &arguments(&settings, &QUICKLY_MISSED));
    let two = Running::start(&folder.path().join("two"), &arguments(&settings, &QUICKLY_MISSED));
    let held = async || [metric(&one.base, "callsieve_partitions ").await, metric(&two.base, "callsieve_partitions ").await];
    until("each has half of the partitions", async || held().await == [2, 2]).await;
    // By more than this test would wait.
    clock.set(-3_600);
    tokio::time::sleep(AWAY).await;
    assert_eq!(held().await, [2, 2], "after {AWAY:?} by a clock that is an hour behind");
    let companies: Vec<Company> = (85..=88).map(company).collect();
    for company in &companies {
        append_numbers(&kafka.appender(), company).await;
    }
    until("both work on", async || all_is_stepped(&one.base, &companies).await && all_is_stepped(&two.base, &companies).await).await;
    assert_eq!((one.terminate(), two.terminate()), (Some(0), Some(0)));
}

/// Where brokers don't have the group protocol of KIP-848, services share the partitions by the classic one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts a broker: make kafka-test"]
async fn kafka_services_share_partitions_by_the_classic_protocol_where_there_is_no_other() {
    let cluster = apart(Cluster::classic).await;
    let settings = named(&cluster.brokers);
    let kafka = with_topics(&settings).await;
    let companies: Vec<Company> = (81..=84).map(company).collect();
    for company in &companies {
        append_numbers(&kafka.appender(), company).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str| Running::start(&folder.path().join(name), &arguments(&settings, &[]));
    let services = [start("one"), start("two")];
    until("each has half of the partitions", async || {
        let held = [metric(&services[0].base, "callsieve_partitions ").await, metric(&services[1].base, "callsieve_partitions ").await];
        held == [2, 2]
    })
    .await;
    for service in &services {
        until("all is stepped", async || all_is_stepped(&service.base, &companies).await).await;
    }
    for service in services {
        assert_eq!(service.terminate(), Some(0));
    }
    apart(move || drop(cluster)).await;
}

/// Whichever instance is asked, the answer is that of the one that holds the account; also after it was killed and another took its place.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_any_instance_answers_for_every_account() {
    let settings = named(&shared_brokers());
    let kafka = with_topics(&settings).await;
    let companies: Vec<Company> = (61..=70).map(company).collect();
    let partitions: BTreeSet<u32> = companies.iter().map(|company| partition_of(account(company).as_str(), PARTITIONS)).collect();
    assert_eq!(partitions.len() as u32, PARTITIONS, "each partition has an account");
    for company in &companies {
        append_numbers(&kafka.appender(), company).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str| Running::start(&folder.path().join(name), &arguments(&settings, &QUICKLY_MISSED));
    let (one, two) = (start("one"), start("two"));
    one.ready().await;
    two.ready().await;
    let bases = [one.base.clone(), two.base.clone()];

    let lists = async |bases: &[String]| {
        let mut all: Vec<String> = companies.iter().map(|company| account(company).to_string()).collect();
        all.sort();
        let listed = ask(bases, "/api/v1/accounts").await;
        let listed: Vec<String> = listed["accounts"].as_array().unwrap().iter().map(|a| a["account_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(listed, all);
        for account in &all {
            let numbers = ask(bases, &format!("/api/v1/accounts/{account}/numbers?limit=1000")).await;
            assert!(numbers["numbers"].as_array().unwrap().len() > 5, "{numbers}");
        }
    };
    until("all is stepped", async || all_is_stepped(&bases[0], &companies).await).await;
    lists(&bases).await;
    // Not twice: one that is asked by another says that it hasn't got it. And what is held elsewhere can be changed from here.
    let http = reqwest::Client::new();
    let mut elsewhere = 0;
    for account in companies.iter().map(account) {
        for base in &bases {
            let path = format!("{base}/api/v1/accounts/{account}");
            let forwarded = http.get(format!("{path}/calls")).header("callsieve-forwarded", "1").send().await.unwrap().status();
            assert!(forwarded == 200 || forwarded == 421, "{forwarded}");
            elsewhere += u32::from(forwarded == 421);
            let documents = r#"{"records": [{"id": 1, "phoneNumber": "+12055550101", "usageType": "DirectNumber"}]}"#;
            let posted = http.post(format!("{path}/documents")).header("content-type", "application/json").body(documents).send().await.unwrap();
            assert_eq!(posted.status(), 200);
            assert_eq!(get(&format!("{path}/calls/s-none")).await.0, 404);
            assert_eq!(get(&format!("{path}/calls?limit=0")).await.0, 400);
        }
    }
    assert_eq!(elsewhere as usize, companies.len(), "each is held by one of the two");

    one.kill();
    let left = &bases[1..];
    // Until the group finds out, the one that is left says that the other can't be reached.
    let mut gone = 0;
    for account in companies.iter().map(account) {
        let (status, _) = get(&format!("{}/api/v1/accounts/{account}/calls", left[0])).await;
        assert!([200, 502, 503].contains(&status), "{status}");
        gone += u32::from(status != 200);
    }
    assert!(gone > 0, "accounts were held by the one that was killed");
    lists(left).await;
    assert_eq!(two.terminate(), Some(0));
}

/// Two instances under load: killed, killed with their disk, paused for longer than their membership, told to stop, each at a random moment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_what_services_acknowledged_is_judged_whatever_happens_to_them() {
    let settings = named(&shared_brokers());
    let kafka = with_topics(&settings).await;
    let companies: Vec<Arc<Watched>> = (41..=45).map(|seed| Arc::new(Watched::new(seed, 60))).collect();
    for watched in &companies {
        append_numbers(&kafka.appender(), &watched.company).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let dirs = [folder.path().join("a"), folder.path().join("b")];
    // One is a static member with two workers, the other a new member each time.
    let start = |n: usize| {
        let more: &[&str] = if n == 0 { &["--workers", "2", "--instance", "a"] } else { &[] };
        Running::start(&dirs[n], &arguments(&settings, more))
    };
    let mut services = [start(0), start(1)].map(Some);
    let base_of = |service: &Option<Running>| service.as_ref().unwrap().base.clone();
    let bases = Arc::new(Mutex::new(services.iter().map(base_of).collect::<Vec<_>>()));
    let sending: Vec<_> = companies
        .iter()
        .map(|watched| {
            watched.allow(0.0);
            let (watched, bases) = (watched.clone(), bases.clone());
            tokio::spawn(async move { watched.send(&bases).await })
        })
        .collect();

    let seed = std::env::var("CALLSIEVE_TEST_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    println!("seed {seed}, {} notifications", companies.iter().map(|watched| watched.documents.len()).sum::<usize>());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let begun = Instant::now();
    let faults = ["kill", "pause", "lose", "kill", "terminate", "kill", "pause", "lose"];
    for (round, fault) in faults.into_iter().enumerate() {
        // The load lasts for all faults: nobody sends beyond the next share before it.
        let share = |n: usize| n as f64 / (faults.len() + 2) as f64;
        companies.iter().for_each(|watched| watched.allow(share(round + 2)));
        let share = share(round + 1);
        until("a share is taken in", async || companies.iter().any(|watched| watched.is_sent(share))).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
        assert!(sending.iter().any(|sending| !sending.is_finished()), "{fault} in round {round} comes too late to be under load");
        let n = rng.random_range(0..2);
        let service = services[n].take().unwrap();
        println!("after {:.1?}: {fault} {n}", begun.elapsed());
        match fault {
            "pause" => {
                service.signal("-STOP");
                tokio::time::sleep(AWAY).await;
                service.signal("-CONT");
                services[n] = Some(service);
                continue;
            }
            "terminate" => assert_eq!(service.terminate(), Some(0)),
            _ => service.kill(),
        }
        if fault == "lose" {
            // All that can be had again; what is in the spool was acknowledged, and is nowhere else.
            std::fs::remove_dir_all(dirs[n].join("state")).unwrap();
        }
        services[n] = Some(start(n));
        bases.lock().unwrap()[n] = base_of(&services[n]);
    }
    companies.iter().for_each(|watched| watched.allow(1.0));
    for sending in sending {
        tokio::time::timeout(PATIENCE, sending).await.expect("everything is acknowledged").unwrap();
    }
    true_in_the_end(&kafka, &companies).await;

    // The same over HTTP, where all that was said of the legs is in the evidence.
    let bases = bases.lock().unwrap().clone();
    for base in &bases {
        until("both are ready", async || get(&format!("{base}/readyz")).await.0 == 200).await;
    }
    for watched in &companies {
        let mut legs: BTreeMap<&str, BTreeSet<&str>> = watched.truth.keys().map(|key| (key.split_once('/').unwrap().1, BTreeSet::new())).collect();
        for body in watched.documents.iter().map(|document| &document["body"]) {
            if let (Some(session), Some(parties)) = (body["telephonySessionId"].as_str(), body["parties"].as_array()) {
                legs.entry(session).or_default().extend(parties.iter().filter_map(|party| party["id"].as_str()));
            }
        }
        for (session, sent) in legs {
            let call = ask(&bases, &format!("/api/v1/accounts/{}/calls/{}", watched.account, escaped(session))).await;
            assert!(call["pending"].is_null(), "{call}");
            let evidence = &call["verdict"]["call"];
            let kept: BTreeSet<&str> = evidence["legs"].as_array().unwrap().iter().filter_map(|leg| leg["leg_id"].as_str()).collect();
            assert!(sent.is_subset(&kept), "{session}: {sent:?} were acknowledged, {kept:?} are kept");
            assert_eq!(evidence["missing_sequences"], serde_json::json!([]), "{session}");
        }
    }
    for base in &bases {
        let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        for line in ["callsieve_ready 1", "callsieve_lag_records{partition=\"3\"} 0"] {
            assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
        }
    }
    for service in services {
        assert_eq!(service.unwrap().terminate(), Some(0));
    }
    true_in_the_end(&kafka, &companies).await;
}

/// The only broker dies and comes back. Meanwhile notifications are taken in, also by a service that is killed and started while there is no Kafka;
/// afterwards everything goes on by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_service_outlives_its_broker() {
    let cluster = Arc::new(apart(|| Cluster::start(1)).await);
    let settings = named(&cluster.brokers);
    let kafka = with_topics(&settings).await;
    let watched = Arc::new(Watched::new(51, 10));
    append_numbers(&kafka.appender(), &watched.company).await;
    let folder = tempfile::tempdir().unwrap();
    let service = Running::start(folder.path(), &arguments(&settings, &[]));
    service.ready().await;
    // So that the kill comes into no transaction: the only broker's own recovery isn't what this is about.
    until("the numbers are taken in", async || all_is_stepped(&service.base, std::slice::from_ref(&watched.company)).await).await;
    let broker = cluster.clone();
    apart(move || broker.broker("kill", 1)).await;

    let http = reqwest::Client::new();
    let post = async |base: &str, n: usize| {
        let address = format!("{base}/webhooks/ringcentral/{}", watched.account);
        let body = watched.documents[n].to_string();
        http.post(address).header("verification-token", TOKEN).body(body).send().await.unwrap().status().as_u16()
    };
    let metric = async |base: &str, name: &str| {
        let text = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok()).unwrap_or(0)
    };
    let half = watched.documents.len() / 2;
    for n in 0..half {
        assert_eq!(post(&service.base, n).await, 200, "notification {n}");
    }
    // What can't be read is acknowledged, too, so it is kept.
    let address = format!("{}/webhooks/ringcentral/{}", service.base, watched.account);
    let unreadable = http.post(address).header("verification-token", TOKEN).body("no json").send().await.unwrap();
    assert_eq!(unreadable.status(), 200);
    let kept = half + 1;
    assert_eq!(metric(&service.base, "callsieve_spool_entries ").await, kept);
    assert_eq!(get(&format!("{}/healthz", service.base)).await.0, 200);
    // Who can send again is told to.
    let address = format!("{}/api/v1/accounts/{}/settings", service.base, watched.account);
    let refused = http.put(address).body("{}").send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));

    service.kill();
    let service = Running::start(folder.path(), &arguments(&settings, &[]));
    assert_eq!(metric(&service.base, "callsieve_spool_entries ").await, kept);
    let (last, base) = (watched.documents.len() - 10, service.base.clone());
    for n in half..last {
        assert_eq!(post(&base, n).await, 200, "notification {n}");
    }
    until("it says why it is not ready", async || {
        let (status, body) = get(&format!("{base}/readyz")).await;
        status == 503 && body["detail"].as_str().is_some_and(|detail| detail.contains("what is needed is not there yet"))
    })
    .await;
    let broker = cluster.clone();
    apart(move || broker.broker("start", 1)).await;
    until("the spool is passed on", async || metric(&base, "callsieve_spool_entries ").await == 0).await;
    for n in last..watched.documents.len() {
        assert_eq!(post(&base, n).await, 200, "notification {n}");
    }
    assert_eq!(metric(&base, "callsieve_spool_forwarded_total ").await, last + 1);
    service.ready().await;
    let (reader, partition) = (kafka.reader(), partition_of(&watched.account, PARTITIONS));
    let letters = apart(move || reader.read(Topic::DeadLetters, partition, 0, 10).unwrap().records).await;
    assert_eq!(letters.iter().map(|letter| letter.value.as_deref()).collect::<Vec<_>>(), [Some(&b"no json"[..])]);
    true_in_the_end(&kafka, &[watched]).await;
    assert_eq!(service.terminate(), Some(0));
}

/// Which partitions have a broker as the leader of a topic.
fn led_by(brokers: &str, topic: &str, broker: i32) -> BTreeSet<u32> {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(20)).unwrap();
    let partitions = metadata.topics()[0].partitions().iter().filter(|partition| partition.leader() == broker);
    partitions.map(|partition| u32::try_from(partition.id()).unwrap()).collect()
}

/// A broker dies that alone has some partitions, and the service starts while it is away: the other partitions are stepped meanwhile, those when it
/// is back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts three brokers: make kafka-test"]
async fn kafka_partitions_without_a_leader_hold_up_no_others() {
    const PARTITIONS: u32 = 6;
    const DYING: usize = 3;
    let cluster = Arc::new(apart(|| Cluster::start(3)).await);
    let settings = named(&cluster.brokers);
    let of = settings.clone();
    let kafka = apart(move || {
        let alone = TopicSettings { partitions: PARTITIONS, replication: Some(1), min_insync_replicas: Some(1), ..TopicSettings::default() };
        create_some(&of, &alone, &[Topic::Events]).unwrap();
        create(&of, &TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() }).unwrap();
        Arc::new(Kafka::connect(of).unwrap())
    })
    .await;
    let (brokers, events) = (cluster.brokers.clone(), settings.topic(Topic::Events));
    let dying = apart(move || led_by(&brokers, &events, DYING as i32)).await;
    assert!((1..PARTITIONS as usize).contains(&dying.len()), "{dying:?}");
    let account_of = |partition| (1_u64..).map(|n| n.to_string()).find(|account| partition_of(account, PARTITIONS) == partition).unwrap();
    let append = async |partitions: &[u32]| {
        for partition in partitions {
            let account = account_of(*partition);
            let settings = AccountSettings { updated_at: now(), ..AccountSettings::defaults(AccountId::parse(&account).unwrap()) };
            let input = Input { account, value: encode_event(&Event::AccountSettings(settings)), headers: Headers::new() };
            // A broker that has just come back doesn't lead its partitions yet.
            until("it is appended", async || kafka.appender().append(input.clone()).await.is_ok()).await;
        }
    };
    // Whether the partitions are stepped up to their ends.
    let stepped = async |partitions: &[u32]| {
        let (kafka, partitions) = (kafka.clone(), partitions.to_vec());
        let is_stepped = move || -> Result<bool, LogError> {
            let positions = kafka.positions()?;
            let next = |partition: u32| positions[partition as usize].map_or(0, |position| position.next);
            partitions.iter().try_fold(true, |all, partition| Ok(all && next(*partition) >= kafka.reader().end(Topic::Events, *partition)?))
        };
        apart(is_stepped).await.unwrap_or(false)
    };
    let all: Vec<u32> = (0..PARTITIONS).collect();
    let others: Vec<u32> = all.iter().copied().filter(|partition| !dying.contains(partition)).collect();

    let folder = tempfile::tempdir().unwrap();
    let service = Running::start(folder.path(), &arguments(&settings, &QUICKLY_MISSED));
    append(&all).await;
    until("all are stepped", async || stepped(&all).await).await;
    service.kill();
    let broker = cluster.clone();
    apart(move || broker.broker("kill", DYING)).await;
    let service = Running::start(folder.path(), &arguments(&settings, &QUICKLY_MISSED));
    append(&others).await;
    until("the others are stepped", async || stepped(&others).await).await;
    // And they go on.
    for _ in 0..3 {
        append(&others).await;
        until("the others are stepped again", async || stepped(&others).await).await;
    }
    let broker = cluster.clone();
    apart(move || broker.broker("start", DYING)).await;
    let gone: Vec<u32> = dying.into_iter().collect();
    append(&gone).await;
    until("all are stepped again", async || stepped(&all).await).await;
    service.ready().await;
    assert_eq!(service.terminate(), Some(0));
}

#[tokio::test]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_service_refuses_what_does_not_fit_and_says_what_to_change() {
    let settings = named(&shared_brokers());
    let folder = tempfile::tempdir().unwrap();
    let refused = |settings: &KafkaSettings, dir: &Path, more: &[&str]| {
        let arguments = arguments(settings, more);
        let refused = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve"))
            .args(["run", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .args(arguments)
            .output()
            .unwrap();
        assert_ne!(refused.status.code(), Some(0));
        String::from_utf8(refused.stderr).unwrap()
    };
    let says = |said: &str, parts: &[&str]| parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
    let a = folder.path().join("a");
    says(&refused(&settings, &a, &[]), &["callsieve topics create", &settings.topic(Topic::CallVerdicts)]);
    let wrong = named(&settings.brokers);
    let policy = (Topic::CallVerdicts, "cleanup.policy".to_owned(), "delete".to_owned());
    let (topics, of) = (TopicSettings { partitions: 1, over: vec![policy], ..TopicSettings::default() }, wrong.clone());
    apart(move || create(&of, &topics).unwrap()).await;
    says(&refused(&wrong, &a, &[]), &[&wrong.topic(Topic::CallVerdicts), "cleanup.policy is delete", "set it to compact"]);

    // A Kafka that is away is waited for (tests/spool.rs); one that refuses is not.
    says(&refused(&settings, &a, &["--kafka", "no.such.setting=1"]), &["no.such.setting"]);
    says(&refused(&settings, &a, &["--kafka", "isolation.level=read_uncommitted"]), &["is set by callsieve itself"]);
    says(&refused(&settings, &a, &["--partitions", "3"]), &["--partitions", "--brokers"]);

    with_topics(&settings).await;
    // Longer than a transaction may be open, which no producer can be made with: seen when the worker joins.
    says(&refused(&settings, &a, &["--kafka", "message.timeout.ms=30000"]), &["message.timeout.ms"]);
    let several = TopicSettings { partitions: PARTITIONS + 1, ..TopicSettings::default() };
    let of = settings.clone();
    let error = apart(move || create(&of, &several).unwrap_err().to_string()).await;
    says(&error, &["it is there, with 4", "repartition"]);
    let service = Running::start(&a, &arguments(&settings, &["--kafka", "client.id=somebody"]));
    service.ready().await;
    says(&refused(&settings, &a, &[]), &["--data-dir"]);
    assert_eq!(service.terminate(), Some(0));
    let other = KafkaSettings { group: "other".into(), ..settings.clone() };
    says(&refused(&other, &a, &[]), &["is the state of", "--data-dir"]);
}

/// Gives the user of the secure addresses what docs/operations.md says that it needs, for topics, groups and transactions of these names.
fn give_rights(settings: &KafkaSettings) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let operations = std::fs::read_to_string(project.join("docs/operations.md")).unwrap();
    let commands: Vec<&str> = operations.lines().filter_map(|line| line.trim_start().strip_prefix("kafka-acls.sh ")).collect();
    assert_eq!(commands.len(), 4);
    let started = commands.into_iter().map(|command| {
        let arguments = command.split(' ').map(|word| match word {
            "kafka-1:9092" => shared_brokers(),
            "callsieve" => settings.group.clone(),
            word => word.to_owned(),
        });
        let mut tool = std::process::Command::new(project.join("tests/kafka/cluster"));
        tool.args(["tool", "org.apache.kafka.tools.AclCommand"]).args(arguments).stdout(std::process::Stdio::null()).spawn().unwrap()
    });
    for mut command in started.collect::<Vec<_>>() {
        assert!(command.wait().unwrap().success());
    }
}

/// TLS, a password by SCRAM, and no rights but those that docs/operations.md lists: for `topics`, `replay` and `dead-letters` as for the service;
/// what refuses them ends it.
#[tokio::test]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_a_service_goes_by_tls_and_password_with_the_rights_that_are_documented() {
    let cluster = std::path::PathBuf::from(std::env::var("CALLSIEVE_TEST_CLUSTER").unwrap());
    let brokers = std::fs::read_to_string(cluster.join("secure")).expect("tests/kafka/run --secure");
    let settings = KafkaSettings { brokers: brokers.trim().to_owned(), ..named("") };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callsieve.toml");
    let certificate = cluster.join("ca.pem");
    let kafka = "[kafka]\n\"security.protocol\" = \"sasl_ssl\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"callsieve\"";
    let own = format!("brokers = {:?}\ntopic-prefix = {:?}\ngroup = {:?}", settings.brokers, settings.topic_prefix, settings.group);
    std::fs::write(&file, format!("{own}\n{kafka}\n\"ssl.ca.location\" = {certificate:?}\n\"sasl.password\" = \"secret\"\n")).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let said = |arguments: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve")).args(arguments).args(config).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let succeeds = |arguments: &[&str]| {
        let (code, words) = said(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {words}");
        words
    };
    let (code, words) = said(&["topics", "create", "--partitions", "4"]);
    assert!(code == Some(1) && words.to_lowercase().contains("authorization failed"), "{words}");
    give_rights(&settings);
    succeeds(&["topics", "create", "--partitions", "4"]);
    succeeds(&["topics", "check"]);

    let data = folder.path().join("data");
    let refused = ["run", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
    let (code, words) = said(&[&refused[..], &["--kafka", "sasl.password=wrong"]].concat());
    assert!(code == Some(1) && words.to_lowercase().contains("authentication failed"), "{words}");
    let others = [&refused[..], &["--kafka", "ssl.ca.location=/etc/ssl/certs/ca-certificates.crt"]].concat();
    let (code, words) = said(&others);
    assert!(code == Some(1) && words.contains("certificate verify failed"), "{words}");

    let service = Running::start(&data, &config);
    service.ready().await;
    let watched = Arc::new(Watched::new(52, 1));
    let (group, plain) = (settings.group.clone(), KafkaSettings { brokers: shared_brokers(), ..settings });
    let kafka = apart(move || Arc::new(Kafka::connect(plain).unwrap())).await;
    append_numbers(&kafka.appender(), &watched.company).await;
    watched.send(&Mutex::new(vec![service.base.clone()])).await;
    let account = watched.account.clone();
    true_in_the_end(&kafka, &[watched]).await;
    let unreadable = reqwest::Client::new().post(format!("{}/webhooks/ringcentral/{}", service.base, account)).header("verification-token", TOKEN);
    assert_eq!(unreadable.body("no json").send().await.unwrap().status(), 200);
    let of_replay = folder.path().join("replay");
    let of_replay = ["--data-dir", of_replay.to_str().unwrap()];
    succeeds(&[&["replay", "start", "again"], &of_replay[..]].concat());
    assert!(succeeds(&["replay", "status"]).contains("again"));
    succeeds(&["replay", "diff", "again"]);
    succeeds(&["replay", "promote", "again"]);
    succeeds(&[&["replay", "drop", "again"], &of_replay[..]].concat());
    assert_eq!(service.terminate(), Some(0));
    assert!(succeeds(&["dead-letters", "list"]).contains("not JSON"));
    let (code, words) = said(&["dead-letters", "retry", "--all"]);
    assert!(code == Some(1) && words.contains("not JSON"), "{words}");
    let moved = format!("{group}-moved.");
    succeeds(&["topics", "repartition", "--partitions", "5", "--to-prefix", &moved, "--once"]);
    assert!(succeeds(&["topics", "describe", "--topic-prefix", &moved]).contains("5 partitions"));
}
