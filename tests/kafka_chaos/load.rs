//! Simulated companies whose notifications are posted to the services until one acknowledges each.

use crate::common::{TOKEN, account, calls, company, completed, numbers};
use callsieve::event::{CallVerdict, Event};
use callsieve::log::Appender;
use callsieve::roles::sync::append;
use callsieve::simulate::Company;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Between two notifications of a company.
const PACE: Duration = Duration::from_millis(60);
const CALLS_PER_HOUR: u32 = 30;

struct Watched {
    company: Company,
    account: String,
    truth: BTreeMap<String, bool>,
    documents: Vec<Value>,
    acknowledged: AtomicUsize,
}

impl Watched {
    fn new(seed: u64) -> Self {
        let company = company(seed);
        let account = account(&company).to_string();
        let (truth, documents) = calls(&company, CALLS_PER_HOUR);
        Self { company, account, truth, documents, acknowledged: AtomicUsize::new(0) }
    }

    async fn send(&self, bases: &[Arc<Mutex<String>>], shares: usize, mut allowed: watch::Receiver<usize>) {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(3)).build().unwrap();
        for (n, document) in self.documents.iter().enumerate() {
            allowed.wait_for(|allowed| n * shares / self.documents.len() < *allowed).await.unwrap();
            let body = document.to_string();
            for attempt in 0.. {
                let address = format!("{}/webhooks/ringcentral/{}", bases[(n + attempt) % bases.len()].lock().unwrap(), self.account);
                match http.post(address).header("verification-token", TOKEN).body(body.clone()).send().await {
                    Ok(answer) if answer.status() == 200 => break,
                    Ok(answer) => assert!(answer.status().is_server_error(), "{}", answer.status()),
                    Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.acknowledged.fetch_add(1, Ordering::AcqRel);
            if *allowed.borrow() <= shares {
                tokio::time::sleep(PACE).await;
            }
        }
    }
}

/// Whether a number becomes known only when verdicts have been made without it.
fn is_late(number: &str) -> bool {
    number.ends_with(['0', '1', '2'])
}

/// What a company's lists say of some numbers.
fn observed(company: &Company, is_wanted: impl Fn(&str) -> bool) -> Vec<Event> {
    let mut events = numbers(company);
    for event in &mut events {
        if let Event::NumbersObserved(page) = event {
            page.numbers.retain(|number| is_wanted(&number.number));
        }
    }
    events
}

/// The companies of a round. Their notifications come in shares, one for each fault and a last one.
pub struct Load {
    companies: Vec<Arc<Watched>>,
    shares: usize,
    allowed: watch::Sender<usize>,
}

impl Load {
    pub fn new(seed: u64, companies: u64, faults: usize) -> Self {
        let companies = (seed..seed + companies).map(|seed| Arc::new(Watched::new(seed))).collect();
        Self { companies, shares: faults + 1, allowed: watch::Sender::new(0) }
    }

    /// Appends the companies' numbers as if they were all, though some are missing: verdicts on calls with those are to be corrected.
    pub async fn append_numbers(&self, appender: &dyn Appender) {
        for Watched { company, .. } in self.companies.iter().map(Arc::as_ref) {
            let events = [observed(company, |number| !is_late(number)), vec![completed(company)]].concat();
            append(appender, &account(company), &events).await.unwrap();
        }
    }

    /// Appends those that were missing.
    pub async fn append_late_numbers(&self, appender: &dyn Appender) {
        for Watched { company, .. } in self.companies.iter().map(Arc::as_ref) {
            append(appender, &account(company), &observed(company, is_late)).await.unwrap();
        }
    }

    pub fn send(&self, bases: &[Arc<Mutex<String>>]) -> Vec<JoinHandle<()>> {
        let send = |watched: &Arc<Watched>| {
            let (watched, bases, shares, allowed) = (watched.clone(), bases.to_vec(), self.shares, self.allowed.subscribe());
            tokio::spawn(async move { watched.send(&bases, shares, allowed).await })
        };
        self.companies.iter().map(send).collect()
    }

    /// Lets so many shares out, in all.
    pub fn allow(&self, shares: usize) {
        self.allowed.send_replace(shares);
    }

    /// Whether some company has had so much of a share acknowledged.
    pub fn is_sent(&self, share: usize, part: f64) -> bool {
        let goal = (share as f64 + part) / self.shares as f64;
        self.companies.iter().any(|watched| watched.acknowledged.load(Ordering::Acquire) as f64 >= watched.documents.len() as f64 * goal)
    }

    pub fn truth(&self) -> BTreeMap<String, bool> {
        self.companies.iter().flat_map(|watched| watched.truth.clone()).collect()
    }

    pub fn notifications(&self) -> usize {
        self.companies.iter().map(|watched| watched.documents.len()).sum()
    }

    /// What was acknowledged and is not in the evidence, to the last leg.
    pub fn missing(&self, verdicts: &BTreeMap<String, CallVerdict>) -> Option<String> {
        for watched in &self.companies {
            let mut legs: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
            for body in watched.documents.iter().map(|document| &document["body"]) {
                if let (Some(session), Some(parties)) = (body["telephonySessionId"].as_str(), body["parties"].as_array()) {
                    let of = legs.entry(format!("{}/{session}", watched.account)).or_default();
                    of.extend(parties.iter().filter_map(|party| party["id"].as_str()));
                }
            }
            for (key, verdict) in verdicts.iter().filter(|(key, _)| watched.truth.contains_key(*key)) {
                let kept: BTreeSet<&str> = verdict.call.legs.iter().map(|leg| leg.leg_id.as_str()).collect();
                let sent = legs.remove(key).unwrap_or_default();
                let sequences = &verdict.call.missing_sequences;
                if !sent.is_subset(&kept) || !sequences.is_empty() {
                    return Some(format!(
                        "{key}: the legs {sent:?} were acknowledged, {kept:?} are kept; the sequence numbers {sequences:?} are missing"
                    ));
                }
            }
        }
        None
    }
}
