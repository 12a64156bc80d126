//! `callsieve run --brokers` before Kafka was ever there: what it takes in, what it says, and where that ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Running, TOKEN, get};
use reqwest::{Client, Response};

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

async fn post(base: &str, body: &str) -> Response {
    let address = format!("{base}/webhooks/ringcentral/700100200");
    Client::new().post(address).header("verification-token", TOKEN).body(body.to_owned()).send().await.unwrap()
}

/// A notification of that many bytes, of random letters so that it stays as large.
fn notification(call: usize) -> String {
    let session = format!("s-{call}-{:0200x}", rand::random::<u128>());
    format!(
        r#"{{"uuid":"1","event":"/restapi/v1.0/account/700100200/telephony/sessions","timestamp":"2026-01-05T08:00:00Z","body":{{"sequence":2,
        "sessionId":"{call}","telephonySessionId":"{session}","accountId":"700100200","parties":[{{"id":"p-1","status":{{"code":"Setup"}}}}]}}}}"#
    )
}

#[tokio::test]
async fn a_service_that_never_saw_kafka_takes_notifications_in_until_its_spool_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--brokers", NOBODY, "--spool-bytes", "4000"];
    let service = Running::start(folder.path(), &arguments);
    let base = service.base.clone();

    assert_eq!(get(&format!("{base}/healthz")).await.0, 200);
    common::until("it says why it is not ready", async || {
        let (status, body) = get(&format!("{base}/readyz")).await;
        assert_eq!(status, 503, "{body}");
        let detail = body["detail"].as_str().unwrap();
        detail.contains(NOBODY) && detail.contains("Connection refused")
    })
    .await;
    let api = reqwest::get(format!("{base}/api/v1/accounts")).await.unwrap();
    assert_eq!((api.status().as_u16(), api.headers().contains_key("retry-after")), (503, true));

    let echo = Client::new().post(format!("{base}/webhooks/ringcentral/700100200")).header("validation-token", "7").send().await.unwrap();
    assert_eq!((echo.status().as_u16(), &echo.headers()["validation-token"]), (200, &"7".parse().unwrap()));
    assert_eq!(post(&base, "no JSON").await.status(), 200, "it is kept as a dead letter");
    let mut taken = 0;
    let refused = loop {
        let answer = post(&base, &notification(taken)).await;
        if answer.status() != 200 {
            break answer;
        }
        taken += 1;
    };
    assert!((1..20).contains(&taken), "{taken}");
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));

    let held = |metrics: &str| metrics.lines().find_map(|line| line.strip_prefix("callsieve_spool_entries ")).map(str::to_owned);
    let metrics = async |base: &str| reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    let found = metrics(&base).await;
    assert_eq!(held(&found), Some((taken + 1).to_string()), "{found}");
    assert!(found.contains("callsieve_ready 0"));

    // The next one finds all of it, and is as full.
    service.kill();
    let service = Running::start(folder.path(), &arguments);
    assert_eq!(held(&metrics(&service.base).await), Some((taken + 1).to_string()));
    assert_eq!(post(&service.base, &notification(99)).await.status(), 503);
    assert_eq!(service.terminate(), Some(0), "it stops while it waits");
}
