//! `callsieve dead-letters`: what the service could not take in is found, and given back once. On the embedded log, and on Kafka (`make kafka-test`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use callsieve::event::{AccountId, Event, NumberKind, NumberQuery, NumbersObserved, ObservedNumber, encode_event};
use callsieve::log::kafka::{Kafka, KafkaSettings, TopicSettings, create};
use callsieve::log::{Appender, Headers, Input, Reader, Topic, partition_of};
use cluster::{named, shared_brokers};
use common::{Running, TOKEN, until};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const ACCOUNT: &str = "700100200";

/// Runs the command, and gives its exit code and what it printed.
fn dead_letters(arguments: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_callsieve")).arg("dead-letters").args(arguments).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap() + &said)
}

async fn post(service: &Running, body: &str) {
    let address = format!("{}/webhooks/ringcentral/{ACCOUNT}", service.base);
    let answer = reqwest::Client::new().post(address).header("verification-token", TOKEN).body(body.to_owned()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// A notification of the account.
fn notification(session: &str) -> String {
    format!(
        r#"{{"uuid":"1","event":"/restapi/v1.0/account/{ACCOUNT}/telephony/sessions","timestamp":"2026-01-05T08:00:00Z",
        "body":{{"sequence":2,"sessionId":"5","telephonySessionId":"{session}","accountId":"{ACCOUNT}","parties":[{{"id":"p-1","status":{{"code":"Setup"}}}}]}}}}"#
    )
}

/// A letter as an earlier version would have buried it, for a reason that is none any more.
fn buried(body: &str) -> Input {
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let headers =
        vec![header("callsieve.cause", "no known kind"), header("callsieve.source", "webhook"), header("callsieve.received_at", "1767600000123")];
    Input { account: ACCOUNT.into(), value: body.as_bytes().to_vec(), headers }
}

#[tokio::test]
async fn letters_of_the_embedded_log_are_shown_and_given_back_while_the_service_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let (code, said) = dead_letters(&["list", "--data-dir", dir]);
    assert!(code == Some(1) && said.contains("has no log"), "{said}");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is made there");

    let service = Running::start(folder.path(), &[]);
    post(&service, "this is no JSON").await;
    let (code, said) = dead_letters(&["list", "--data-dir", dir]);
    assert!(code == Some(1) && said.contains("while no service runs"), "{said}");
    assert_eq!(service.terminate(), Some(0));

    let (code, said) = dead_letters(&["list", "--data-dir", dir]);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("0/0 ") && said.contains(&format!(" {ACCOUNT}  webhook not JSON")) && said.lines().count() == 1, "{said}");
    assert_eq!(dead_letters(&["list", "--data-dir", dir, "--account", "1"]), (Some(0), "there are no such letters\n".to_owned()));
    let (code, said) = dead_letters(&["show", "0/0", "--data-dir", dir]);
    assert!(code == Some(0) && said.ends_with("body       15 bytes\nthis is no JSON\n"), "{said}");
    let (code, said) = dead_letters(&["retry", "--all", "--data-dir", dir]);
    assert!(code == Some(1) && said.starts_with("0/0 stays: not JSON") && said.ends_with("0 given back, 1 stay\n"), "{said}");
    for wrong in [&["show", "0"][..], &["retry"], &["retry", "0/0", "--all"], &["retry", "0/0", "--account", "7"]] {
        assert_eq!(dead_letters(&[wrong, &["--data-dir", dir]].concat()).0, Some(2), "{wrong:?}");
    }
    assert_eq!(dead_letters(&["show", "0/7", "--data-dir", dir]).0, Some(1));
}

async fn settings() -> KafkaSettings {
    let settings = named(&shared_brokers());
    let of = settings.clone();
    tokio::task::spawn_blocking(move || create(&of, &TopicSettings { partitions: 3, ..TopicSettings::default() }).unwrap()).await.unwrap();
    settings
}

fn start(dir: &Path, settings: &KafkaSettings) -> Running {
    Running::start(dir, &["--brokers", &settings.brokers, "--topic-prefix", &settings.topic_prefix, "--group", &settings.group])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: make kafka-test"]
async fn kafka_letters_are_given_back_beside_a_running_service_and_once() {
    let settings = settings().await;
    let of = settings.clone();
    let kafka = tokio::task::spawn_blocking(move || Kafka::connect(of).unwrap()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service = start(folder.path(), &settings);
    let appender = kafka.appender();
    let event = appender.append(Input { account: ACCOUNT.into(), value: b"\xc3\x01broken".to_vec(), headers: Headers::new() }).await.unwrap();
    // As by a writer with another partitioner.
    let elsewhere = (1..).map(|id: u32| id.to_string()).find(|id| partition_of(id, 3) != event.partition).unwrap();
    let account_id = AccountId::parse(ACCOUNT).unwrap();
    let number =
        ObservedNumber { number: "+12055550101".into(), kind: NumberKind::Phone, extension_id: None, usage_type: None, contact_account_id: None };
    let observed_at = 1_767_600_000_000;
    let numbers = NumbersObserved { account_id, query: NumberQuery::PhoneNumbers, observed_at, sync_id: None, numbers: [number].into() };
    let misplaced = Input { account: elsewhere, value: encode_event(&Event::NumbersObserved(numbers)), headers: Headers::new() };
    let misplaced = appender.append(misplaced).await.unwrap();
    let letter = appender.append_dead_letter(buried(&notification("s-1"))).await.unwrap();
    let run = |arguments: &[&str]| {
        let on = ["--brokers", &settings.brokers, "--topic-prefix", &settings.topic_prefix];
        let arguments: Vec<String> = arguments.iter().chain(&on).map(|argument| (*argument).to_owned()).collect();
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            tokio::task::block_in_place(|| dead_letters(&arguments))
        }
    };
    until("the processor has buried what it cannot read", async || run(&["list", "--json"]).await.1.lines().count() == 3).await;
    let letters: Vec<Value> = run(&["list", "--json"]).await.1.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |place: callsieve::log::Place| letters.iter().find(|letter| letter["event"] == place.to_string()).unwrap();
    assert!(of(misplaced)["cause"].as_str().unwrap().contains(&format!("belongs to partition {}", event.partition)), "{}", of(misplaced));
    let numbers = format!("{}/api/v1/accounts/{ACCOUNT}/numbers", service.base);
    let is_known = async || common::get(&numbers).await.1.to_string().contains("+12055550101");
    assert!(!is_known().await, "nothing is taken in where it doesn't belong");
    let of_event = of(event);
    assert_eq!((of_event["source"].as_str(), of_event["key"].as_str()), (Some("events"), Some(ACCOUNT)));
    let (code, said) = run(&["show", of_event["place"].as_str().unwrap(), "--json"]).await;
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &shown["body_hex"]), (Some(0), &Value::from("c30162726f6b656e")));

    let (code, said) = run(&["retry", "--all"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("{letter} given back: 1 event\n")) && said.ends_with("2 given back, 1 stay\n"), "{said}");
    until("the number is known where it belongs", is_known).await;
    let session = format!("{}/api/v1/accounts/{ACCOUNT}/calls/s-1", service.base);
    until("the call is known", async || common::get(&session).await.0 == 200).await;
    let (reader, partition) = (kafka.reader(), event.partition);
    let end = tokio::task::spawn_blocking(move || reader.end(Topic::Events, partition).unwrap()).await.unwrap();
    let (code, said) = run(&["retry", "--all"]).await;
    assert!(code == Some(1) && said.ends_with("0 given back, 1 stay\n"), "{said}");
    let reader = kafka.reader();
    let after = tokio::task::spawn_blocking(move || reader.end(Topic::Events, partition).unwrap()).await.unwrap();
    assert_eq!(after, end, "nothing is given back twice");
    let (code, said) = run(&["list", "--retried"]).await;
    assert!(code == Some(0) && said.contains("(given back) no known kind"), "{said}");
    assert_eq!(run(&["retry", &letter.to_string()]).await.0, Some(0), "by its name it is, though");
    assert_eq!(service.terminate(), Some(0));
}
