//! The simulated RingCentral through its ports: sign-in, limits, paging, and webhooks with everything that may go wrong.

// The lint's exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used)]

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use callsieve::event::Event;
use callsieve::judge::number::Country;
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::simulate::{Clock, Company, CompanyConfig, Faults, HOUR_MS, LogRecord, RateLimits, Server, ServerConfig, serve};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MINUTE: i64 = 60_000;

fn company() -> Arc<Company> {
    Arc::new(Company::generate(21, &CompanyConfig { changes_per_week: 100, ..CompanyConfig::default() }))
}

async fn server(config: ServerConfig) -> Server {
    serve(company(), config).await.unwrap()
}

fn unlimited() -> ServerConfig {
    ServerConfig { limits: None, ..ServerConfig::default() }
}

async fn token(server: &Server, form: &[(&str, &str)]) -> (StatusCode, Value) {
    let request = reqwest::Client::new().post(format!("{}/restapi/oauth/token", server.base_url()));
    let answer = request.basic_auth("simulated-client", Some("simulated-secret")).form(form).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

const JWT: [(&str, &str); 2] = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", "simulated-jwt")];

/// A signed-in client.
struct Client {
    base: String,
    token: String,
}

impl Client {
    async fn of(server: &Server) -> Self {
        let (status, body) = token(server, &JWT).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        Self { base: server.base_url().to_owned(), token: body["access_token"].as_str().unwrap().to_owned() }
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, Value) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let answer = reqwest::Client::new().get(url).bearer_auth(&self.token).send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        (status, headers, answer.json().await.unwrap_or(Value::Null))
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let answer = reqwest::Client::new().post(format!("{}{path}", self.base)).bearer_auth(&self.token).json(body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }
}

/// A webhook address: what came, and whether it is out of order.
#[derive(Default)]
struct Hook {
    events: Mutex<Vec<(HeaderMap, Value)>>,
    broken: Mutex<bool>,
}

async fn hook(State(hook): State<Arc<Hook>>, headers: HeaderMap, body: String) -> (StatusCode, HeaderMap) {
    let mut answer = HeaderMap::new();
    answer.insert("content-type", "application/json".parse().unwrap());
    if let Some(echo) = headers.get("validation-token") {
        answer.insert("validation-token", echo.clone());
        return (StatusCode::OK, answer);
    }
    if *hook.broken.lock().unwrap() {
        return (StatusCode::NOT_FOUND, answer);
    }
    hook.events.lock().unwrap().push((headers, serde_json::from_str(&body).unwrap()));
    (StatusCode::OK, answer)
}

async fn listening() -> (Arc<Hook>, String) {
    let state = Arc::new(Hook::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/hook", axum::routing::post(hook)).with_state(Arc::clone(&state));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (state, address)
}

fn wish(address: &str) -> Value {
    json!({
        "eventFilters": ["/restapi/v1.0/account/~/telephony/sessions", "/restapi/v1.0/account/~/directory/entries", "/restapi/v1.0/account/~/nonsense"],
        "deliveryMode": { "transportType": "WebHook", "address": address, "verificationToken": "secret" },
    })
}

#[tokio::test]
async fn a_subscriber_gets_every_notification_once_in_order_with_its_token() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    let (hook, address) = listening().await;
    let (status, subscription) = client.post("/restapi/v1.0/subscription", &wish(&address)).await;
    assert_eq!(status, StatusCode::OK, "{subscription}");
    let company = company();
    assert_eq!(subscription["disabledFilters"][0]["filter"], format!("/restapi/v1.0/account/{}/nonsense", company.account_id));
    let start = server.now();
    let end = start + 150 * MINUTE;
    let delivered = server.advance_to(end).await;

    let mut expected: Vec<_> = company.hours(start - HOUR_MS, 4, 60).into_iter().flat_map(|c| c.notifications).collect();
    expected.extend(company.directory_notifications(start - HOUR_MS, end).into_iter().filter(|n| n.event.ends_with("/entries")));
    expected.retain(|n| (start..=end).contains(&n.due));
    expected.sort_by_key(|n| n.due);
    let events = hook.events.lock().unwrap();
    assert_eq!(delivered.accepted, events.len() as u64);
    let got: Vec<&str> = events.iter().map(|(_, e)| e["uuid"].as_str().unwrap()).collect();
    assert_eq!(got, expected.iter().map(|n| n.uuid.as_str()).collect::<Vec<_>>());
    for (headers, event) in events.iter() {
        assert_eq!(headers["verification-token"], "secret");
        assert_eq!(event["subscriptionId"], subscription["id"]);
    }
}

#[tokio::test]
async fn notifications_are_lost_doubled_and_overtaken_as_asked() {
    let faults = Faults { loss: 0.2, duplication: 0.2, reorder: 0.2, max_delay_ms: 5_000 };
    let server = server(ServerConfig { faults, ..unlimited() }).await;
    let client = Client::of(&server).await;
    let (hook, address) = listening().await;
    client.post("/restapi/v1.0/subscription", &wish(&address)).await;
    server.advance_to(server.now() + 60 * MINUTE).await;
    let events = hook.events.lock().unwrap();
    let mut ids: Vec<&str> = events.iter().map(|(_, e)| e["uuid"].as_str().unwrap()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert!(all > ids.len() * 11 / 10, "{all} deliveries of {} notifications", ids.len());
    let times: Vec<&str> = events.iter().map(|(_, e)| e["timestamp"].as_str().unwrap()).collect();
    assert!(!times.is_sorted());
}

#[tokio::test]
async fn an_address_that_fails_for_ten_minutes_is_blacklisted() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    let (hook, address) = listening().await;
    let (_, subscription) = client.post("/restapi/v1.0/subscription", &wish(&address)).await;
    let path = format!("/restapi/v1.0/subscription/{}", subscription["id"].as_str().unwrap());
    *hook.broken.lock().unwrap() = true;
    let start = server.now();
    for minute in 1..=9 {
        server.advance_to(start + minute * MINUTE).await;
    }
    assert_eq!(client.get(&path).await.2["status"], "Active");
    for minute in 10..=25 {
        server.advance_to(start + minute * MINUTE).await;
    }
    let (_, _, body) = client.get(&path).await;
    assert_eq!(body["status"], "Blacklisted");
    assert_eq!(body["blacklistedData"]["reason"], "Webhook responses with code: [404], reason: [Not Found]");
    *hook.broken.lock().unwrap() = false;
    assert_eq!(server.advance_to(start + 40 * MINUTE).await.accepted, 0, "nothing is sent any more");
}

#[tokio::test]
async fn an_address_that_does_not_shake_hands_is_refused() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    let nobody = format!("http://{}/x", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let stranger = format!("{}/restapi/v1.0/account/~", server.base_url());
    for (address, code) in [(nobody.as_str(), "SUB-523"), (stranger.as_str(), "SUB-522"), ("no address", "CMN-101")] {
        let (status, body) = client.post("/restapi/v1.0/subscription", &wish(address)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(body["errorCode"], code, "{address}");
    }
}

#[tokio::test]
async fn subscriptions_are_renewed_changed_deleted_and_expire() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    let (_hook, address) = listening().await;
    let mut wish = wish(&address);
    wish["expiresIn"] = 600.into();
    let (_, subscription) = client.post("/restapi/v1.0/subscription", &wish).await;
    assert_eq!(subscription["expiresIn"], 600);
    let path = format!("/restapi/v1.0/subscription/{}", subscription["id"].as_str().unwrap());
    server.advance_to(server.now() + 9 * MINUTE).await;
    let (status, renewed) = client.post(&format!("{path}/renew"), &json!({})).await;
    assert_eq!((status, &renewed["expiresIn"]), (StatusCode::OK, &json!(600)));
    let put = reqwest::Client::new().put(format!("{}{path}", client.base)).bearer_auth(&client.token);
    let change = json!({ "eventFilters": ["/restapi/v1.0/account/~/extension"], "expiresIn": 1_200 });
    let changed: Value = put.json(&change).send().await.unwrap().json().await.unwrap();
    assert_eq!((changed["eventFilters"].as_array().unwrap().len(), &changed["expiresIn"]), (1, &json!(1_200)));
    server.advance_to(server.now() + 19 * MINUTE).await;
    assert_eq!(client.get("/restapi/v1.0/subscription").await.2["records"].as_array().unwrap().len(), 1);
    server.advance_to(server.now() + 2 * MINUTE).await;
    assert_eq!(client.get("/restapi/v1.0/subscription").await.2["records"], json!([]));
    let (_, again) = client.post("/restapi/v1.0/subscription", &wish).await;
    let path = format!("{}/restapi/v1.0/subscription/{}", client.base, again["id"].as_str().unwrap());
    let delete = || reqwest::Client::new().delete(&path).bearer_auth(&client.token).send();
    assert_eq!(delete().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(delete().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn each_group_has_its_window_and_a_request_during_the_penalty_begins_it_anew() {
    let limits = RateLimits { heavy: 3, window_seconds: 60, ..RateLimits::default() };
    let server = server(ServerConfig { limits: Some(limits), ..ServerConfig::default() }).await;
    let client = Client::of(&server).await;
    let heavy = "/restapi/v1.0/account/~/phone-number";
    for left in [2, 1, 0] {
        let (status, headers, _) = client.get(heavy).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["x-rate-limit-group"], "heavy");
        assert_eq!(headers["x-rate-limit-remaining"], left.to_string());
    }
    let (status, headers, body) = client.get(heavy).await;
    assert_eq!((status, &body["errorCode"]), (StatusCode::TOO_MANY_REQUESTS, &json!("CMN-301")));
    assert_eq!(headers["retry-after"], "60");
    assert_eq!(client.get("/restapi/v1.0/account/~").await.0, StatusCode::OK, "another group");
    server.advance_to(server.now() + 40_000).await;
    assert_eq!(client.get(heavy).await.0, StatusCode::TOO_MANY_REQUESTS);
    server.advance_to(server.now() + 40_000).await;
    assert_eq!(client.get(heavy).await.0, StatusCode::TOO_MANY_REQUESTS, "the request before began the penalty anew");
    server.advance_to(server.now() + 61_000).await;
    assert_eq!(client.get(heavy).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refresh_token_is_used_once_and_ends_the_old_access_token() {
    let server = server(unlimited()).await;
    let (_, first) = token(&server, &JWT).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", first["refresh_token"].as_str().unwrap())];
    let (status, second) = token(&server, &form).await;
    assert_eq!(status, StatusCode::OK);
    let with = |body: &Value| Client { base: server.base_url().into(), token: body["access_token"].as_str().unwrap().into() };
    assert_eq!(with(&first).get("/restapi/v1.0/account/~").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(with(&second).get("/restapi/v1.0/account/~").await.0, StatusCode::OK);
    server.advance_to(server.now() + 11_000).await;
    let (status, body) = token(&server, &form).await;
    assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
    server.advance_to(server.now() + HOUR_MS).await;
    let (status, _, body) = with(&second).get("/restapi/v1.0/account/~").await;
    assert_eq!((status, &body["errorCode"]), (StatusCode::UNAUTHORIZED, &json!("OAU-128")));
}

#[tokio::test]
async fn an_authorization_code_needs_its_verifier_and_works_once() {
    let server = server(unlimited()).await;
    // The pair of RFC 7636, appendix B.
    let (verifier, challenge) = ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    let authorize = format!(
        "{}/restapi/oauth/authorize?response_type=code&client_id=simulated-client&redirect_uri=http%3A%2F%2Fme%2Fcb&state=a%26b\
         &code_challenge={challenge}&code_challenge_method=S256",
        server.base_url()
    );
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for (given, expected) in [("wrong", StatusCode::BAD_REQUEST), (verifier, StatusCode::OK)] {
        let answer = browser.get(&authorize).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FOUND);
        let target = reqwest::Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap();
        let pairs: HashMap<_, _> = target.query_pairs().into_owned().collect();
        assert_eq!(pairs["state"], "a&b");
        let form =
            [("grant_type", "authorization_code"), ("code", pairs["code"].as_str()), ("redirect_uri", "http://me/cb"), ("code_verifier", given)];
        assert_eq!(token(&server, &form).await.0, expected);
        assert_eq!(token(&server, &form).await.0, StatusCode::BAD_REQUEST, "a code works once");
    }
}

#[tokio::test]
async fn pages_of_the_call_log_join_to_every_record_that_there_is_by_now() {
    let server = server(ServerConfig { history_hours: 30, ..unlimited() }).await;
    let client = Client::of(&server).await;
    let now = server.now();
    let mut next = Some("/restapi/v1.0/account/~/call-log?view=Detailed&perPage=700&dateFrom=2026-01-01".to_owned());
    let mut got = Vec::new();
    while let Some(path) = next {
        let (status, _, body) = client.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let records = body["records"].as_array().unwrap();
        got.extend(records.iter().map(|r| (r["startTime"].as_str().unwrap().to_owned(), r["id"].as_str().unwrap().to_owned())));
        next = body["navigation"]["nextPage"]["uri"].as_str().map(str::to_owned);
    }
    assert!(got.windows(2).all(|pair| pair[0].0 >= pair[1].0), "newest first");
    let mut got: Vec<String> = got.into_iter().map(|(_, id)| id).collect();
    let records = company().hours(now - 31 * HOUR_MS, 32, 60).into_iter().flat_map(|c| c.call_log_records);
    let mut expected: Vec<String> = records.filter(|r| r.available_at <= now && r.started() >= now - 30 * HOUR_MS).map(|r| r.id).collect();
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    assert!(expected.len() > 1_800);
    assert_eq!(client.get("/restapi/v1.0/account/~/call-log?page=0").await.2["errors"][0]["parameterName"], "page");
    let (_, _, of_one) = client.get("/restapi/v1.0/account/~/call-log?direction=Outbound&perPage=5").await;
    assert!(of_one["records"].as_array().unwrap().iter().all(|r| r["direction"] == "Outbound" && r["legs"].is_null()));
}

#[tokio::test]
async fn a_record_shows_some_time_after_the_end_with_its_start_cut_to_seconds() {
    let server = server(ServerConfig { history_hours: 0, ..unlimited() }).await;
    let client = Client::of(&server).await;
    let calls = company().hours(server.now(), 1, 60);
    let mut records = calls.into_iter().flat_map(|c| c.call_log_records);
    let record = records.find(|r| r.extension_id.is_some() && r.legs[0].started % 1_000 != 0 && r.legs.len() == 1).unwrap();
    let (all, one) = ("/restapi/v1.0/account/~", format!("/call-log/{}?view=Detailed", record.id));
    server.advance_to(record.available_at - 1).await;
    assert_eq!(client.get(&format!("{all}{one}")).await.0, StatusCode::NOT_FOUND);
    server.advance_to(record.available_at).await;
    let (status, _, body) = client.get(&format!("{all}{one}")).await;
    assert_eq!((status, &body["id"]), (StatusCode::OK, &json!(record.id)));
    assert!(body["startTime"].as_str().unwrap().ends_with(".000Z") && body["legs"][0]["startTime"].as_str().unwrap().ends_with(".000Z"), "{body}");
    assert_eq!(body["durationMs"], record.legs[0].ended - record.legs[0].started);
    // It is in the log of its extension, and not in those of others.
    let mut of = Vec::new();
    for extension in client.get(&format!("{all}/extension?perPage=1000")).await.2["records"].as_array().unwrap() {
        let extension = extension["id"].as_u64().unwrap();
        let (_, _, list) = client.get(&format!("{all}/extension/{extension}/call-log?perPage=1000")).await;
        if list["records"].as_array().unwrap().iter().any(|r| r["id"] == json!(record.id)) {
            assert_eq!(client.get(&format!("{all}/extension/{extension}{one}")).await.0, StatusCode::OK);
            of.push(Some(extension));
        }
    }
    assert_eq!(of, [record.extension_id]);
}

#[tokio::test]
async fn a_call_that_goes_on_is_active_and_in_progress_and_stays_a_little_after_its_end() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    let calls = company().hours(server.now(), 1, 60);
    // A queue's agent answers an outside call: it shows as a call to the agent while it goes on.
    let queued = |r: &LogRecord| r.legs[0].direction == "Inbound" && r.legs.len() > 2 && r.legs[0].ended - r.legs[1].started > 60_000;
    let record = calls.into_iter().flat_map(|c| c.call_log_records).find(queued).unwrap();
    let ended = record.legs.iter().map(|leg| leg.ended).max().unwrap();
    let shown = async || {
        let (_, _, list) = client.get("/restapi/v1.0/account/~/active-calls?view=Detailed&perPage=1000").await;
        list["records"].as_array().unwrap().iter().find(|r| r["id"] == json!(record.id)).cloned()
    };
    server.advance_to(record.legs[0].started).await;
    assert_eq!(shown().await, None, "it is told of later");
    server.advance_to(record.legs[0].ended - 1_000).await;
    let active = shown().await.unwrap();
    assert_eq!((&active["result"], &active["direction"]), (&json!("In Progress"), &json!("Outbound")));
    let asked = Asked { account: None, received_at: None, country: Country::DEFAULT, history: true };
    let read = read_document(active.to_string().as_bytes(), &asked).unwrap();
    let [Event::CallLegs(facts)] = &read.events[..] else { panic!("one event") };
    assert!(!facts.is_final && facts.legs.is_empty(), "nothing of it is to be trusted yet");
    server.advance_to(ended + 30_000).await;
    assert_eq!(shown().await.unwrap()["direction"], "Inbound");
    server.advance_to(ended + 130_000).await;
    assert_eq!(shown().await, None);
}

#[tokio::test]
async fn the_next_requests_fail_as_asked() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    server.fail("/call-log", StatusCode::FORBIDDEN, 1);
    server.fail("/extension", StatusCode::SERVICE_UNAVAILABLE, 2);
    let (all, log) = ("/restapi/v1.0/account/~/extension", "/restapi/v1.0/account/~/call-log");
    let (status, _, body) = client.get(log).await;
    assert_eq!((status, &body["errors"][0]["errorCode"]), (StatusCode::FORBIDDEN, &json!("CMN-408")));
    assert_eq!(body["errors"][0]["permissionName"], "FullCompanyCallLog");
    for _ in 0..2 {
        let (status, headers, _) = client.get(all).await;
        assert_eq!((status, headers["retry-after"].as_bytes()), (StatusCode::SERVICE_UNAVAILABLE, &b"1"[..]));
    }
    assert_eq!((client.get(all).await.0, client.get(log).await.0), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test]
async fn a_session_is_found_until_it_ends() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    let calls = company().hours(server.now(), 1, 60);
    let session = &calls.iter().find(|c| c.sessions.len() == 2).unwrap().sessions[1];
    let path = format!("/restapi/v1.0/account/~/telephony/sessions/{}", session.telephony_session_id);
    assert_eq!(client.get(&path).await.0, StatusCode::NOT_FOUND, "not begun");
    server.advance_to(session.ended - 500).await;
    let (status, _, body) = client.get(&path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(!body["parties"].as_array().unwrap().is_empty());
    server.advance_to(session.ended + 1).await;
    let (status, _, body) = client.get(&path).await;
    assert_eq!((status, &body["errors"][0]["errorCode"]), (StatusCode::NOT_FOUND, &json!("CMN-102")));
}

#[tokio::test]
async fn nothing_is_answered_without_a_token_nor_for_another_account() {
    let server = server(unlimited()).await;
    let stranger = Client { base: server.base_url().into(), token: "x".into() };
    assert_eq!(stranger.get("/restapi/v1.0/account/~").await.0, StatusCode::UNAUTHORIZED);
    let client = Client::of(&server).await;
    assert_eq!(client.get("/restapi/v1.0/account/12").await.0, StatusCode::NOT_FOUND);
    assert_eq!(client.get("/nowhere").await.0, StatusCode::NOT_FOUND);
    let (status, body) = token(&server, &[("grant_type", "password")]).await;
    assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &json!("unsupported_grant_type")));
}

#[tokio::test]
async fn a_number_that_comes_is_announced_and_listed_at_its_time() {
    let server = server(ServerConfig { calls_per_hour: 0, ..unlimited() }).await;
    let client = Client::of(&server).await;
    let (hook, address) = listening().await;
    client.post("/restapi/v1.0/subscription", &wish(&address)).await;
    let company = company();
    let comes = company.numbers.iter().find(|n| n.listed_from > server.now() + HOUR_MS && n.holdings[0].extension.is_some()).unwrap();
    assert!(comes.holdings[0].from < comes.listed_from, "it is in use before");
    let listed = async || {
        // Hours have passed: an access token lasts one.
        let (_, _, list) = Client::of(&server).await.get("/restapi/v1.0/account/~/phone-number?perPage=1000").await;
        list["records"].as_array().unwrap().iter().any(|n| n["phoneNumber"] == comes.number.as_str())
    };
    let announced = || hook.events.lock().unwrap().iter().any(|(_, event)| event.to_string().contains(&comes.number));
    server.advance_to(comes.listed_from - 1).await;
    assert!(!listed().await && !announced());
    server.advance_to(comes.listed_from + 2_000).await;
    assert!(listed().await && announced());
}

#[tokio::test]
async fn an_unchanged_directory_is_not_sent_again() {
    let server = server(unlimited()).await;
    let client = Client::of(&server).await;
    let path = "/restapi/v1.0/account/~/directory/entries";
    let (_, headers, all) = client.get(path).await;
    let again = reqwest::Client::new().get(format!("{}{path}", client.base)).bearer_auth(&client.token);
    assert_eq!(again.header("if-none-match", &headers["etag"]).send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let (_, _, own) = client.get(&format!("{path}?showFederated=false")).await;
    let count = |list: &Value| list["records"].as_array().unwrap().len();
    assert_eq!(count(&all) - count(&own), 3, "the federated account's contacts");
}

#[tokio::test]
async fn a_running_clock_delivers_by_itself() {
    let clock = Clock::Running { origin: 1_767_686_400_000, speed: 600.0 };
    let server = server(ServerConfig { clock, ..unlimited() }).await;
    let client = Client::of(&server).await;
    let (hook, address) = listening().await;
    client.post("/restapi/v1.0/subscription", &wish(&address)).await;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if hook.events.lock().unwrap().len() > 20 {
            break;
        }
    }
    assert!(hook.events.lock().unwrap().len() > 20);
    let counted = server.delivered();
    assert!(counted.accepted > 0 && counted.failed == 0);
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.unwrap();
}
