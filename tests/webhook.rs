//! Notifications through the running service's ports: what is answered, what is kept, and what comes of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use axum::http::StatusCode;
use callsieve::log::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
use callsieve::log::system_clock;
use callsieve::log::{Record, Topic};
use callsieve::roles::service::log_dir;
use callsieve::simulate::{Company, HOUR_MS, Notification, SimulatedCall};
use callsieve::state::database::{DatabaseOptions, Engine, Family};
use common::{Running, Sent, Stream, TOKEN, account, company, escaped, get, now, synchronise, until};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

async fn post(base: &str, account: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
    let address = format!("{base}/webhooks/ringcentral/{account}");
    reqwest::Client::new().post(address).header("verification-token", TOKEN).body(body).send().await.unwrap()
}

fn envelope(notification: &Notification, account: &str) -> String {
    notification.document("1423e408-e25c-4421-8dd1-5f754e2f5648", account).unwrap().to_string()
}

/// Calls of one session each, with what is true of it.
fn single_calls(company: &Company) -> Vec<SimulatedCall> {
    company.hours(now() - 3 * HOUR_MS, 2, 40).into_iter().filter(|call| call.sessions.len() == 1).collect()
}

/// Looks into a data directory that no service uses.
fn dead_letters(data_dir: &Path) -> Vec<Record> {
    let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
    let log = EmbeddedLog::open(&log_dir(data_dir), &Engine::new(&DatabaseOptions::default()), &options).unwrap();
    log.reader().read(Topic::DeadLetters, 0, 0, 1_000).unwrap().records
}

fn header<'a>(record: &'a Record, name: &str) -> &'a str {
    record.headers.iter().find(|(n, _)| n == name).map(|(_, value)| std::str::from_utf8(value).unwrap()).unwrap()
}

async fn problem(answer: reqwest::Response, status: StatusCode) -> Value {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["status"], status.as_u16());
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    problem
}

#[tokio::test]
async fn a_handshake_is_echoed_at_any_time_and_with_any_body_that_is_no_event() {
    let directory = tempfile::tempdir().unwrap();
    let service = Running::start(directory.path(), &[]);
    for body in ["", "{}"] {
        let address = format!("{}/webhooks/ringcentral/1", service.base);
        let answer = reqwest::Client::new().post(address).header("validation-token", "7f1c").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["validation-token"], "7f1c");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let size: usize = answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        assert!(size + 19 <= 1_024, "{size}");
        assert_eq!(answer.bytes().await.unwrap(), "");
    }
    let address = format!("{}/webhooks/ringcentral/1", service.base);
    let long = reqwest::Client::new().post(address).header("validation-token", "x".repeat(900)).send().await.unwrap();
    problem(long, StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn a_notification_that_carries_a_validation_token_is_not_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let company = company(1);
    let (service, account) = (Running::start(directory.path(), &[]), account(&company).to_string());
    service.ready().await;
    let call = single_calls(&company).remove(0);
    let address = format!("{}/webhooks/ringcentral/{account}", service.base);
    let request = || reqwest::Client::new().post(&address).header("validation-token", "7f1c").body(envelope(&call.notifications[0], &account));
    problem(request().send().await.unwrap(), StatusCode::UNAUTHORIZED).await;
    let answer = request().header("verification-token", TOKEN).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["validation-token"]), (200, &"7f1c".parse().unwrap()));
    let url = format!("{}/api/v1/accounts/{account}/calls/{}", service.base, escaped(&call.truth.sessions[0].session));
    until("the call is known", async || get(&url).await.0 == 200).await;
    let (_, known) = get(&url).await;
    assert_eq!((&known["verdict"], &known["pending"]["waits_for"]), (&Value::Null, &json!("END")), "{known}");
}

#[tokio::test]
async fn what_is_not_judged_yet_says_what_it_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let service = Running::start(directory.path(), &[]);
    service.ready().await;
    let says = async |session: &str, status: Value| {
        let party = json!({"id": format!("p-{session}"), "direction": "Outbound", "from": {"phoneNumber": "+16505550177", "extensionId": "11"},
            "to": {"phoneNumber": "+16505550178"}, "status": status});
        let body = json!({"sequence": 2, "telephonySessionId": session, "eventTime": "2026-03-04T05:06:07.100Z", "parties": [party]});
        let document = json!({"uuid": "1", "event": "/restapi/v1.0/account/7/telephony/sessions", "timestamp": "2026-03-04T05:06:07.123Z",
            "subscriptionId": "a", "ownerId": "11", "body": body});
        assert_eq!(post(&service.base, "7", document.to_string()).await.status(), 200);
    };
    let waits_for = async |session: &str, expected: &str| {
        let url = format!("{}/api/v1/accounts/7/calls/{session}", service.base);
        until(expected, async || get(&url).await.1["pending"]["waits_for"] == expected).await;
    };
    says("s-alone", json!({"code": "Answered"})).await;
    waits_for("s-alone", "END").await;
    says("s-alone", json!({"code": "Disconnected"})).await;
    waits_for("s-alone", "SNAPSHOT").await;
    let documents = format!("{}/api/v1/accounts/7/documents?complete=true", service.base);
    let number = json!({"records": [{"phoneNumber": "+16505550177", "usageType": "DirectNumber"}]}).to_string();
    let posted = reqwest::Client::new().post(documents).header("content-type", "application/json").body(number).send().await.unwrap();
    assert_eq!(posted.status(), 200);
    until("it is judged", async || get(&format!("{}/api/v1/accounts/7/calls/s-alone", service.base)).await.1["verdict"].is_object()).await;
    // The rest of its conversation goes on.
    says("s-other", json!({"code": "Answered"})).await;
    says(
        "s-gone",
        json!({"code": "Gone", "reason": "AttendedTransfer", "peerId": {"sessionId": "1", "telephonySessionId": "s-other", "partyId": "p-s-other"}}),
    )
    .await;
    waits_for("s-gone", "SETTLING").await;
    waits_for("s-gone", "CONVERSATION").await;
}

#[tokio::test]
async fn without_the_right_token_nothing_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let service = Running::start(directory.path(), &[]);
    for token in [None, Some("wrong"), Some(""), Some("a-secre"), Some("a-secret-")] {
        let mut request = reqwest::Client::new().post(format!("{}/webhooks/ringcentral/1", service.base)).body("{\"event\":\"/x\"}");
        if let Some(token) = token {
            request = request.header("verification-token", token);
        }
        problem(request.send().await.unwrap(), StatusCode::UNAUTHORIZED).await;
    }
    let metrics = reqwest::get(format!("{}/metrics", service.base)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("callsieve_notifications_total{result=\"unauthorized\"} 5"), "{metrics}");
    assert_eq!(service.terminate(), Some(0));
    assert!(dead_letters(directory.path()).is_empty());
}

#[tokio::test]
async fn limits_refuse_and_say_when_to_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let service = Running::start(directory.path(), &["--body-limit", "1000", "--rate-limit", "1"]);
    problem(post(&service.base, "1", "x".repeat(1_001)).await, StatusCode::PAYLOAD_TOO_LARGE).await;
    let mut limited = 0;
    // Half a minute of a slow machine's time lets fewer than these through.
    for _ in 0..40 {
        let answer = post(&service.base, "2", "{}").await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
            problem(answer, StatusCode::TOO_MANY_REQUESTS).await;
            limited += 1;
        }
    }
    assert!(limited >= 5, "{limited} of 40 were limited, at 1 a second and 2 at once");
    assert_eq!(post(&service.base, "3", "{}").await.status(), 200, "another account has its own limit");
    problem(post(&service.base, "an%20account", "{}").await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_acknowledged_and_kept_with_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    let company = company(2);
    let (service, account) = (Running::start(directory.path(), &[]), account(&company).to_string());
    let foreign = envelope(&single_calls(&company)[0].notifications[0], &account);
    let (large, cut) = (format!("[\"{}", "x".repeat((1 << 20) - 2)), (1 << 20) - (16 << 10));
    for (account, body) in
        [("7", "no json"), ("7", "{\"uuid\":\"1\",\"event\":\"/restapi/v1.0/account/7/telephony/sessions\"}"), ("7", &*foreign), ("7", &*large)]
    {
        let answer = post(&service.base, account, body.to_owned()).await;
        assert_eq!(answer.status(), 200, "{}", &body[..body.len().min(100)]);
    }
    // Not about anything that matters here: nothing to keep.
    let presence = json!({ "uuid": "2", "event": "/restapi/v1.0/account/7/extension/8/presence", "timestamp": "2026-01-05T08:00:00Z", "body": {} });
    assert_eq!(post(&service.base, "7", presence.to_string()).await.status(), 200);
    let metrics = reqwest::get(format!("{}/metrics", service.base)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("callsieve_dead_letters_total{source=\"webhook\"} 4"), "{metrics}");
    assert_eq!(service.terminate(), Some(0));

    let letters = dead_letters(directory.path());
    assert_eq!(letters.len(), 4);
    assert_eq!(letters[0].value.as_deref(), Some(b"no json".as_slice()));
    assert!(header(&letters[0], "callsieve.cause").starts_with("not JSON"), "{}", header(&letters[0], "callsieve.cause"));
    assert_eq!(header(&letters[2], "callsieve.cause"), format!("it is about account {account}, and came to the address of account 7"));
    assert_eq!(letters[2].value.as_deref(), Some(foreign.as_bytes()));
    assert_eq!(letters[3].value.as_deref().map(<[u8]>::len), Some(cut));
    assert_eq!(header(&letters[3], "callsieve.cut_from"), (1 << 20).to_string());
}

/// Sends all notifications of some calls, some of them twice.
async fn send(base: &str, account: &str, calls: &[SimulatedCall]) {
    for (n, notification) in calls.iter().flat_map(|call| &call.notifications).enumerate() {
        for _ in 0..1 + usize::from(n % 3 == 0) {
            assert_eq!(post(base, account, envelope(notification, account)).await.status(), 200);
        }
    }
}

async fn take(stream: &mut Stream, count: usize) -> Vec<Sent> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(stream.next(PATIENCE).await.unwrap_or_else(|| panic!("{} of {count} verdicts came", taken.len())));
    }
    taken
}

#[tokio::test]
async fn an_ended_call_gets_one_verdict_that_all_can_see_and_that_stays() {
    let directory = tempfile::tempdir().unwrap();
    let company = company(3);
    synchronise(directory.path(), &company).await;
    let account = account(&company).to_string();
    let calls: Vec<_> = single_calls(&company).into_iter().take(12).collect();
    let (first, second) = calls.split_at(6);
    let service = Running::start(directory.path(), &[]);
    service.ready().await;
    let stream_url = |base: &str| format!("{base}/api/v1/accounts/{account}/verdicts/stream");

    // A client that has had nothing yet knows where it began.
    let mut quiet = reqwest::get(stream_url(&service.base)).await.unwrap();
    let begun = String::from_utf8(quiet.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    let begun = begun.lines().find_map(|line| line.strip_prefix("id: ")).unwrap_or_else(|| panic!("{begun}")).to_owned();

    // Live.
    let mut live = Stream::open(&stream_url(&service.base), None).await;
    send(&service.base, &account, first).await;
    let seen = take(&mut live, 6).await;
    for sent in &seen {
        let session = sent.data["session_id"].as_str().unwrap();
        let truth = first.iter().flat_map(|call| &call.truth.sessions).find(|s| s.session == session).unwrap();
        assert_eq!(sent.data["verdict"], if truth.external { "EXTERNAL" } else { "INTERNAL" }, "{session}");
        assert_eq!((&sent.data["revision"], &sent.data["disposition"]), (&json!(1), &json!("INGEST")), "the filter is off");
        let (status, call) = get(&format!("{}/api/v1/accounts/{account}/calls/{}", service.base, escaped(session))).await;
        assert_eq!(status, 200);
        assert_eq!(call["verdict"]["endpoints"], sent.data["endpoints"]);
        assert!(!call["verdict"]["call"]["legs"].as_array().unwrap().is_empty());
    }

    // Paged, newest end first, and filtered.
    let base = format!("{}/api/v1/accounts/{account}/calls", service.base);
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = get(&format!("{base}?limit=4{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        listed.extend(page["calls"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(listed.len(), 6);
    assert!(listed.windows(2).all(|pair| pair[0]["ended_at"].as_str() >= pair[1]["ended_at"].as_str()));
    let external = listed.iter().filter(|call| call["verdict"] == "EXTERNAL").count();
    assert_eq!(get(&format!("{base}?verdict=EXTERNAL")).await.1["calls"].as_array().unwrap().len(), external);
    let (newest, oldest) = (listed[0]["ended_at"].as_str().unwrap(), listed[5]["ended_at"].as_str().unwrap());
    let until_newest = get(&format!("{base}?to={newest}")).await.1;
    assert!(until_newest["calls"].as_array().unwrap().iter().all(|call| call["ended_at"].as_str() < Some(newest)));
    assert_eq!(get(&format!("{base}?from={oldest}")).await.1["calls"].as_array().unwrap().len(), 6);

    // Settings hold from then on.
    let settings = format!("{}/api/v1/accounts/{account}/settings", service.base);
    let put = reqwest::Client::new().put(settings).body(r#"{"filter_internal":true}"#).send().await.unwrap();
    assert_eq!(put.status(), 200);

    // A graceful stop ends the stream, and exits with 0; what comes next goes on where that one ended.
    let stopping = tokio::task::spawn_blocking(move || service.terminate());
    assert_eq!(live.next(PATIENCE).await, None);
    assert_eq!(stopping.await.unwrap(), Some(0));
    let service = Running::start(directory.path(), &[]);
    service.ready().await;
    assert_eq!(get(&format!("{}/api/v1/accounts/{account}/calls?limit=4", service.base)).await.1["calls"], json!(listed[..4]));
    send(&service.base, &account, second).await;
    let mut resumed = Stream::open(&stream_url(&service.base), Some(&seen[2].id)).await;
    let after = take(&mut resumed, 9).await;
    assert_eq!(after[..3], seen[3..]);
    for sent in &after[3..] {
        let disposition = if sent.data["verdict"] == "EXTERNAL" { "INGEST" } else { "DISREGARD" };
        assert_eq!(sent.data["disposition"], disposition);
    }
    let mut whole = Stream::open(&format!("{}?from=start", stream_url(&service.base)), None).await;
    assert_eq!(take(&mut whole, 12).await, [&seen[..3], &after].concat());
    let mut resumed = Stream::open(&stream_url(&service.base), Some(&begun)).await;
    assert_eq!(take(&mut resumed, 12).await, [&seen[..3], &after].concat());
    assert_eq!(whole.next(Duration::from_millis(300)).await, None, "twelve calls have twelve verdicts");

    // A place that this log never had.
    let lost = reqwest::Client::new().get(stream_url(&service.base)).header("last-event-id", "0:99999999").send().await.unwrap();
    problem(lost, StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn the_api_needs_its_token_and_without_one_a_loopback_address() {
    let directory = tempfile::tempdir().unwrap();
    let service = Running::start(directory.path(), &["--api-token", "another-secret"]);
    let url = format!("{}/api/v1/accounts", service.base);
    for token in [None, Some("wrong")] {
        let mut request = reqwest::Client::new().get(&url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        problem(request.send().await.unwrap(), StatusCode::UNAUTHORIZED).await;
    }
    service.ready().await;
    assert_eq!(reqwest::Client::new().get(&url).bearer_auth("another-secret").send().await.unwrap().status(), 200);
    assert_eq!(service.terminate(), Some(0));

    let service = Running::start(directory.path(), &[]);
    let url = format!("{}/api/v1/accounts", service.base);
    problem(reqwest::Client::new().get(url).header("host", "rebound.example.com").send().await.unwrap(), StatusCode::FORBIDDEN).await;

    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve"))
        .args(["run", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--api-token"), "{refused:?}");
}

#[tokio::test]
async fn a_data_directory_has_one_service_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let service = Running::start(directory.path(), &["--partitions", "3"]);
    let second = |more: &[&str]| {
        let arguments = ["run", "--listen", "127.0.0.1:0", "--data-dir"];
        std::process::Command::new(env!("CARGO_BIN_EXE_callsieve")).args(arguments).arg(directory.path()).args(more).output().unwrap()
    };
    let refused = second(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(directory.path().to_str().unwrap()), "{refused:?}");
    assert_eq!(service.terminate(), Some(0));
    let refused = second(&["--partitions", "4"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--partitions"), "{refused:?}");
    let service = Running::start(directory.path(), &[]);
    service.ready().await;
    let metrics = reqwest::get(format!("{}/metrics", service.base)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("callsieve_lag_records{partition=\"2\"} 0"), "{metrics}");
}

#[tokio::test]
async fn a_service_that_cannot_go_on_exits_with_1_and_says_why() {
    let used = || {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
        std::fs::create_dir_all(log_dir(directory.path())).unwrap();
        let log = EmbeddedLog::open(&log_dir(directory.path()), &Engine::new(&DatabaseOptions::default()), &options).unwrap();
        (directory, log)
    };
    // A place where no directory can be made.
    let taken = tempfile::tempdir().unwrap();
    std::fs::write(log_dir(taken.path()), "").unwrap();
    fails(taken.path(), "making ").await;
    // A database that cannot be opened.
    let (torn, log) = used();
    drop(log);
    std::fs::write(file_named(&log_dir(torn.path()), "CURRENT").unwrap(), "no manifest\n").unwrap();
    fails(torn.path(), "opening ").await;
    // One that can, and has a row that makes no sense: the worker's thread notices, not the one that started it.
    let (corrupt, log) = used();
    let database = log.database(0).unwrap();
    let mut batch = rocksdb::WriteBatch::default();
    batch.put_cf(database.family(Family::Open), b"no key", b"no row");
    database.write(batch).unwrap();
    drop((database, log));
    fails(corrupt.path(), "the processor stopped: ").await;
}

/// Runs the service on a directory until it ends by itself, as it must.
async fn fails(data_dir: &Path, why: &str) {
    let mut service = std::process::Command::new(env!("CARGO_BIN_EXE_callsieve"))
        .args(["run", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut status = None;
    until(&format!("the service ends with \"{why}\""), async || {
        status = service.try_wait().unwrap();
        status.is_some()
    })
    .await;
    let said = std::io::read_to_string(service.stderr.take().unwrap()).unwrap();
    assert_eq!(status.unwrap().code(), Some(1), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.starts_with(&format!("callsieve: {why}"))), "{said}");
}

fn file_named(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| match path.is_dir() {
        true => file_named(&path, name),
        false => (path.file_name()? == name).then_some(path),
    })
}

#[tokio::test]
async fn a_verdict_that_is_withdrawn_is_told_as_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let company = company(6);
    synchronise(directory.path(), &company).await;
    let account = account(&company).to_string();
    let service = Running::start(directory.path(), &[]);
    service.ready().await;
    let mut live = Stream::open(&format!("{}/api/v1/accounts/{account}/verdicts/stream", service.base), None).await;
    let call = single_calls(&company).remove(0);
    send(&service.base, &account, std::slice::from_ref(&call)).await;
    let verdict = live.next(PATIENCE).await.unwrap();
    let session = call.truth.sessions[0].session.as_str();
    assert_eq!((verdict.event.as_str(), verdict.data["session_id"].as_str()), ("verdict", Some(session)));
    // The call log shows that it was a fax.
    let fax = json!({
        "uri": format!("https://platform.example.com/restapi/v1.0/account/{account}/call-log/1?view=Simple"), "id": "1",
        "telephonySessionId": session, "startTime": "2026-01-05T07:00:00.000Z", "duration": 60, "type": "Fax", "direction": "Inbound",
        "action": "Phone Call", "result": "Received", "from": {"phoneNumber": "+14155550123"}, "to": {"phoneNumber": "+14155550124"}
    });
    let documents = format!("{}/api/v1/accounts/{account}/documents", service.base);
    let posted = reqwest::Client::new().post(documents).header("content-type", "application/json").body(fax.to_string()).send().await.unwrap();
    assert_eq!(posted.status(), 200, "{}", posted.text().await.unwrap());
    let gone = live.next(PATIENCE).await.unwrap();
    assert_eq!((gone.event.as_str(), gone.data), ("forgotten", json!({ "account_id": account, "session_id": session })));
    assert_eq!(get(&format!("{}/api/v1/accounts/{account}/calls/{}", service.base, escaped(session))).await.1["verdict"], Value::Null);
    // Whoever comes back hears of it.
    let mut resumed = Stream::open(&format!("{}/api/v1/accounts/{account}/verdicts/stream", service.base), Some(&verdict.id)).await;
    assert_eq!(resumed.next(PATIENCE).await.unwrap().id, gone.id);
}

#[tokio::test]
async fn the_simulated_company_is_synchronised_and_its_calls_are_judged() {
    let directory = tempfile::tempdir().unwrap();
    let service = Running::start(directory.path(), &["--simulate", "5", "--simulate-speed", "240"]);
    let accounts = format!("{}/api/v1/accounts", service.base);
    until("the snapshot is complete", async || !get(&accounts).await.1["accounts"][0]["snapshot_completed_at"].is_null()).await;
    let account = get(&accounts).await.1["accounts"][0]["account_id"].as_str().unwrap().to_owned();
    let began = callsieve::event::json::rfc3339(now()).to_string();
    let newer = format!("{accounts}/{account}/calls?from={began}&limit=1");
    until("a live call is judged", async || get(&newer).await.1["calls"].as_array().is_some_and(|calls| !calls.is_empty())).await;
    let (_, numbers) = get(&format!("{accounts}/{account}/numbers?kind=PHONE&query=FORWARDING_NUMBERS&limit=1000")).await;
    let numbers = numbers["numbers"].as_array().unwrap();
    assert!(!numbers.is_empty() && numbers.iter().all(|n| n["number"].as_str().unwrap().starts_with('+')), "{numbers:?}");
    assert_eq!(service.terminate(), Some(0));

    // A second run goes on where the company was.
    let service = Running::start(directory.path(), &["--simulate", "5", "--simulate-speed", "240"]);
    service.ready().await;
    let mut live = Stream::open(&format!("{}/api/v1/accounts/{account}/verdicts/stream", service.base), None).await;
    let sent = live.next(PATIENCE).await.unwrap();
    assert_eq!(sent.data["revision"], 1, "{}", sent.data);
    assert_eq!(service.terminate(), Some(0));
}
