//! A company whose calls a service on Kafka judges, and the truth about them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test file uses a part")]

use crate::cluster::{named, newest, shared_brokers};
use crate::common::{TOKEN, account, apart, append_numbers, calls, company, until};
use callsieve::event::{CallVerdict, Verdict};
use callsieve::log::kafka::{Kafka, KafkaReader, KafkaSettings, TopicSettings, create};
use callsieve::simulate::Company;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const PARTITIONS: u32 = 4;
/// Topics and a group of a test's own, on the broker that all tests share.
pub async fn topics() -> KafkaSettings {
    let settings = named(&shared_brokers());
    let made = settings.clone();
    apart(move || create(&made, &TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() }).unwrap()).await;
    settings
}

pub async fn connected(settings: &KafkaSettings) -> Arc<Kafka> {
    let settings = settings.clone();
    apart(move || Arc::new(Kafka::connect(settings).unwrap())).await
}

pub fn arguments<'a>(settings: &'a KafkaSettings, more: &[&'a str]) -> Vec<&'a str> {
    [&["--brokers", &settings.brokers, "--topic-prefix", &settings.topic_prefix, "--group", &settings.group], more].concat()
}

/// A company with its numbers on the log already, and its calls.
pub struct Calls {
    pub company: Company,
    pub account: String,
    /// Of each `account/session`, whether its call is external.
    pub truth: BTreeMap<String, bool>,
    documents: Vec<Value>,
}

impl Calls {
    pub async fn of_a_company(seed: u64, kafka: &Kafka) -> Self {
        let company = company(seed);
        let account = account(&company).to_string();
        append_numbers(&kafka.appender(), &company).await;
        let (truth, documents) = calls(&company, 15);
        Self { company, account, truth, documents }
    }

    /// Posts a part of the notifications, each until the service has acknowledged it.
    pub async fn notify(&self, base: &str, part: std::ops::Range<f64>) {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        let place = |share: f64| (self.documents.len() as f64 * share) as usize;
        for document in &self.documents[place(part.start)..place(part.end)] {
            let address = format!("{base}/webhooks/ringcentral/{}", self.account);
            let post = || http.post(&address).header("verification-token", TOKEN).body(document.to_string()).send();
            until("a notification is acknowledged", async || post().await.is_ok_and(|answer| answer.status() == 200)).await;
        }
    }

    /// Waits until the newest verdicts are the truth, and gives them.
    pub async fn judged(&self, reader: &KafkaReader) -> BTreeMap<String, CallVerdict> {
        let mut found = BTreeMap::new();
        until("the verdicts are true", async || {
            let reader = reader.clone();
            found = apart(move || newest(&reader, PARTITIONS)).await;
            found.retain(|key, _| key.starts_with(&format!("{}/", self.account)));
            found.len() == self.truth.len() && found.iter().all(|(key, v)| self.truth.get(key) == Some(&(v.verdict == Verdict::External)))
        })
        .await;
        found
    }
}
