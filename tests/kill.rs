//! kill -9 of the running service at any moment: what it acknowledged is there, and no verdict is lost or doubled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use callsieve::simulate::HOUR_MS;
use common::{Running, Stream, TOKEN, account, company, escaped, get, now, synchronise, until};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const KILLS: usize = 20;
const SEED: u64 = 8;

/// Sends what is left, in order, until the connection breaks. What was not acknowledged stays for the next time.
async fn send(base: &str, account: &str, bodies: &[String], acknowledged: &AtomicUsize) {
    let http = reqwest::Client::new();
    let address = format!("{base}/webhooks/ringcentral/{account}");
    while let Some(body) = bodies.get(acknowledged.load(Ordering::Acquire)) {
        let answer = http.post(&address).header("verification-token", TOKEN).body(body.clone()).send().await;
        match answer {
            Ok(answer) => {
                assert_eq!(answer.status(), 200);
                acknowledged.fetch_add(1, Ordering::AcqRel);
            }
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_and_every_verdict_comes_once() {
    let directory = tempfile::tempdir().unwrap();
    let company = company(SEED);
    synchronise(directory.path(), &company).await;
    let account = account(&company).to_string();
    let calls = company.hours(now() - 3 * HOUR_MS, 2, 150);
    let truth: BTreeMap<String, bool> = calls.iter().flat_map(|call| &call.truth.sessions).map(|s| (s.session.clone(), s.external)).collect();
    let mut notifications: Vec<_> = calls.into_iter().flat_map(|call| call.notifications).collect();
    notifications.sort_by_key(|notification| notification.due);
    let envelope = |n: &callsieve::simulate::Notification| n.document("1423e408-e25c-4421-8dd1-5f754e2f5648", &account).unwrap();
    let documents: Vec<_> = notifications.iter().map(envelope).collect();
    let bodies: Arc<Vec<String>> = Arc::new(documents.iter().map(ToString::to_string).collect());
    let acknowledged = Arc::new(AtomicUsize::new(0));

    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut under_load = 0;
    for kill in 0..KILLS {
        let service = Running::start(directory.path(), &[]);
        let (base, of, bodies_now, count) = (service.base.clone(), account.clone(), bodies.clone(), acknowledged.clone());
        let sending = tokio::spawn(async move { send(&base, &of, &bodies_now, &count).await });
        // Each life may take in its share, so that the load lasts for all of them; then it is killed at any moment.
        let share = bodies.len() * (kill + 1) / (KILLS + 1);
        until("the service takes its share in", async || acknowledged.load(Ordering::Acquire) >= share).await;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..300_000))).await;
        under_load += usize::from(!sending.is_finished());
        service.kill();
        sending.await.unwrap();
    }
    println!("seed {SEED}: {under_load} of {KILLS} kills under load, {} notifications, {} sessions", bodies.len(), truth.len());
    assert!(under_load > KILLS / 2, "only {under_load} kills hit a busy service");

    let service = Running::start(directory.path(), &[]);
    service.ready().await;
    send(&service.base, &account, &bodies, &acknowledged).await;
    assert_eq!(acknowledged.load(Ordering::Acquire), bodies.len());
    let calls_url = format!("{}/api/v1/accounts/{account}/calls", service.base);

    // Every session is judged, and what was said of its legs is in the evidence.
    for session in truth.keys() {
        let url = format!("{calls_url}/{}", escaped(session));
        until(&format!("{session} is judged"), async || {
            let (status, call) = get(&url).await;
            status == 200 && !call["verdict"].is_null() && call["pending"].is_null()
        })
        .await;
    }
    let mut legs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for body in documents.iter().map(|document| &document["body"]) {
        if let (Some(session), Some(parties)) = (body["telephonySessionId"].as_str(), body["parties"].as_array()) {
            legs.entry(session).or_default().extend(parties.iter().filter_map(|party| party["id"].as_str()));
        }
    }
    for (session, sent) in &legs {
        let (_, call) = get(&format!("{calls_url}/{}", escaped(session))).await;
        let kept = call["verdict"]["call"]["legs"].as_array().unwrap();
        let kept: BTreeSet<&str> = kept.iter().filter_map(|leg| leg["leg_id"].as_str()).collect();
        assert!(sent.is_subset(&kept), "{session}: {sent:?} were acknowledged, {kept:?} are kept");
        assert!(call["verdict"]["call"]["missing_sequences"].as_array().unwrap().is_empty(), "{session}");
    }

    // Every revision came once, in order, and the newest is the truth.
    let mut stream = Stream::open(&format!("{}/api/v1/accounts/{account}/verdicts/stream?from=start", service.base), None).await;
    let mut newest: BTreeMap<String, (i64, bool)> = BTreeMap::new();
    while let Some(sent) = stream.next(Duration::from_secs(2)).await {
        assert_eq!(sent.event, "verdict");
        let session = sent.data["session_id"].as_str().unwrap().to_owned();
        let revision = sent.data["revision"].as_i64().unwrap();
        let before = newest.insert(session.clone(), (revision, sent.data["verdict"] == "EXTERNAL")).map_or(0, |(revision, _)| revision);
        assert_eq!(revision, before + 1, "{session}");
    }
    let judged: BTreeMap<String, bool> = newest.into_iter().map(|(session, (_, external))| (session, external)).collect();
    assert_eq!(judged, truth);
    assert_eq!(service.terminate(), Some(0));
}
