//! `deploy/openapi.yaml` against the running service: what it promises is answered, and what is answered is promised.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use callsieve::simulate::HOUR_MS;
use common::{Running, Stream, TOKEN, account, company, escaped, get, now, synchronise, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// The document.
struct Promised(Value);

impl Promised {
    fn read() -> Self {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/openapi.yaml")).unwrap();
        Self(serde_yaml_ng::from_str(&text).unwrap())
    }

    fn at<'a>(&'a self, mut value: &'a Value) -> &'a Value {
        while let Some(reference) = value["$ref"].as_str() {
            value = self.0.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} is not there"));
        }
        value
    }

    /// Method and path of each operation.
    fn operations(&self) -> BTreeSet<(String, String)> {
        let of_path = |(path, item): (&String, &Value)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters").cloned().collect::<Vec<_>>();
            methods.into_iter().map(|method| (method, path.clone())).collect::<Vec<_>>()
        };
        self.0["paths"].as_object().unwrap().iter().flat_map(of_path).collect()
    }

    fn check_schema(&self, schema: &Value, value: &Value, what: &str) {
        let mut root = schema.clone();
        root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        root["components"] = self.0["components"].clone();
        let validator = jsonschema::options().should_validate_formats(true).build(&root).unwrap();
        let errors: Vec<String> = validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path)).collect();
        assert!(errors.is_empty(), "{what}: {errors:#?}\n{value}");
    }

    /// Checks an answer of the operation: its status, its media type, its body.
    fn check(&self, method: &str, path: &str, status: u16, media_type: &str, body: &str) {
        let what = format!("{method} {path} answers {status}");
        let responses = &self.0["paths"][path][method]["responses"];
        let response = self.at(responses.get(status.to_string()).unwrap_or(&responses["default"]));
        let Some(content) = response.get("content") else {
            assert_eq!(body, "", "{what}");
            return;
        };
        let schema = &content.get(media_type).unwrap_or_else(|| panic!("{what}, which has no {media_type}: {body}"))["schema"];
        if media_type.ends_with("json") {
            self.check_schema(schema, &serde_json::from_str(body).unwrap(), &what);
        }
    }
}

/// Sends a request, checks the answer, and gives its status and body.
async fn ask(promised: &Promised, base: &str, operation: (&str, &str), path: &str, body: Option<&str>) -> (u16, String) {
    let method = Method::from_bytes(operation.0.to_uppercase().as_bytes()).unwrap();
    let mut request = reqwest::Client::new()
        .request(method, format!("{base}{path}"))
        .header("verification-token", TOKEN)
        .header("content-type", "application/json");
    if let Some(body) = body {
        request = request.body(body.to_owned());
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let media_type = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().to_owned();
    let text = if media_type == "text/event-stream" { String::new() } else { answer.text().await.unwrap() };
    promised.check(operation.0, operation.1, status, &media_type, &text);
    (status, text)
}

#[test]
fn every_served_route_is_described_and_every_described_one_served() {
    let source = include_str!("../src/roles/api.rs");
    let mut served = BTreeSet::new();
    assert!(source.contains("const API: &str = \"/api/v1\";"));
    let (api, rest) = source.split_once("Router::new()\n        .nest(API, api)").expect("the API is nested below its prefix");
    for (prefix, part) in [("/api/v1", api), ("", rest)] {
        for route in part.split(".route(").skip(1) {
            let mut words = route.split(['"', ',', '(']).map(str::trim).filter(|word| !word.is_empty());
            let (path, method) = (words.next().unwrap(), words.next().unwrap());
            served.insert((method.to_owned(), format!("{prefix}{path}")));
        }
    }
    assert_eq!(served, Promised::read().operations());
}

#[tokio::test]
async fn what_is_answered_is_as_described() {
    let promised = Promised::read();
    let directory = tempfile::tempdir().unwrap();
    let company = company(4);
    synchronise(directory.path(), &company).await;
    let account = account(&company).to_string();
    let service = Running::start(directory.path(), &[]);
    service.ready().await;
    let base = service.base.clone();

    // Some calls, of which the last one goes on.
    let mut calls = company.hours(now() - 3 * HOUR_MS, 1, 30);
    let last = calls.last_mut().unwrap();
    last.notifications.truncate(1);
    let open = last.truth.sessions[0].session.clone();
    for notification in calls.iter().flat_map(|call| &call.notifications) {
        let body = notification.document("s", &account).unwrap().to_string();
        let path = format!("/webhooks/ringcentral/{account}");
        assert_eq!(ask(&promised, &base, ("post", "/webhooks/ringcentral/{account}"), &path, Some(&body)).await, (200, String::new()));
    }
    let ended = &calls[0].truth.sessions[0].session;
    let api = format!("/api/v1/accounts/{account}");
    let url = format!("{base}{api}/calls/{}", escaped(ended));
    until("a call is judged", async || get(&url).await.1["verdict"].is_object()).await;
    let url = format!("{base}{api}/calls/{}", escaped(&open));
    until("a call goes on", async || get(&url).await.1["pending"].is_object()).await;

    let (ended, open, unknown) = (escaped(ended), escaped(&open), escaped("s-un/kno+wn="));
    let (long, large) = ("x".repeat(257), "x".repeat(300_000));
    let settings = r#"{"filter_internal":true,"recorded_extensions":["1"],"queries":["DIRECTORY"]}"#;
    let stream = "/api/v1/accounts/{account}/verdicts/stream";
    let documents = "/api/v1/accounts/{account}/documents";
    let numbers =
        r#"{"uri":"https://x/restapi/v1.0/account/77/phone-number","records":[{"id":1,"phoneNumber":"+12055550101","usageType":"DirectNumber"}]}"#;
    // More than an event may have: not for later, as a 503 would say.
    let legs: Vec<Value> =
        (0..9_000).map(|n| json!({ "partyId": format!("p-{n:0>200}"), "from": { "phoneNumber": format!("+1205{n:07}") } })).collect();
    let endless = json!({
        "id": "r", "telephonySessionId": "s-1", "startTime": "2026-01-05T08:00:00Z", "direction": "Inbound", "result": "Accepted", "legs": legs,
    })
    .to_string();
    #[allow(clippy::type_complexity, reason = "a table: operation, path, body, status")]
    let rows: Vec<((&str, &str), String, Option<&str>, u16)> = vec![
        (("get", "/healthz"), "/healthz".into(), None, 200),
        (("get", "/readyz"), "/readyz".into(), None, 200),
        (("get", "/metrics"), "/metrics".into(), None, 200),
        (("get", "/api/v1/accounts"), "/api/v1/accounts".into(), None, 200),
        (("get", "/api/v1/accounts/{account}/calls"), format!("{api}/calls"), None, 200),
        (
            ("get", "/api/v1/accounts/{account}/calls"),
            format!("{api}/calls?verdict=EXTERNAL&disposition=INGEST&from=2020-01-01T00:00:00Z&limit=2"),
            None,
            200,
        ),
        (("get", "/api/v1/accounts/{account}/calls"), format!("{api}/calls?verdict=BOTH"), None, 400),
        (("get", "/api/v1/accounts/{account}/calls"), format!("{api}/calls?limit=x"), None, 400),
        (("get", "/api/v1/accounts/{account}/calls"), format!("{api}/calls?limit=1001"), None, 400),
        (("get", "/api/v1/accounts/{account}/calls"), format!("{api}/calls?from=yesterday"), None, 400),
        (("get", "/api/v1/accounts/{account}/calls"), format!("{api}/calls?cursor=%00"), None, 400),
        (("get", "/api/v1/accounts/{account}/calls"), format!("{api}/calls?verdcit=EXTERNAL"), None, 400),
        (("get", "/api/v1/accounts/{account}/calls"), "/api/v1/accounts/a%2Fb/calls".into(), None, 400),
        (("get", "/api/v1/accounts/{account}/calls"), "/api/v1/accounts/%FF/calls".into(), None, 400),
        (("get", "/api/v1/accounts/{account}/calls/{session}"), format!("{api}/calls/{ended}"), None, 200),
        (("get", "/api/v1/accounts/{account}/calls/{session}"), format!("{api}/calls/{open}"), None, 200),
        (("get", "/api/v1/accounts/{account}/calls/{session}"), format!("{api}/calls/{unknown}"), None, 404),
        (("get", "/api/v1/accounts/{account}/calls/{session}"), format!("{api}/calls/%0A"), None, 400),
        (("get", "/api/v1/accounts/{account}/calls/{session}"), format!("{api}/calls/{long}"), None, 400),
        (("get", "/api/v1/accounts/{account}/numbers"), format!("{api}/numbers"), None, 200),
        (("get", "/api/v1/accounts/{account}/numbers"), format!("{api}/numbers?kind=PHONE&query=DIRECTORY&prefix=%2B1&limit=3"), None, 200),
        (("get", "/api/v1/accounts/{account}/numbers"), format!("{api}/numbers?query=NOPE"), None, 400),
        (("get", "/api/v1/accounts/{account}/numbers"), format!("{api}/numbers?kind=NOPE"), None, 400),
        (("get", stream), format!("{api}/verdicts/stream?from=start"), None, 200),
        (("get", stream), format!("{api}/verdicts/stream?from=middle"), None, 400),
        (("put", "/api/v1/accounts/{account}/settings"), format!("{api}/settings"), Some(settings), 200),
        (("put", "/api/v1/accounts/{account}/settings"), format!("{api}/settings"), Some("{}"), 200),
        (("put", "/api/v1/accounts/{account}/settings"), format!("{api}/settings"), Some("{"), 400),
        (("put", "/api/v1/accounts/{account}/settings"), format!("{api}/settings"), Some(r#"{"nope":1}"#), 400),
        (("put", "/api/v1/accounts/{account}/settings"), format!("{api}/settings"), Some(r#"{"country":"XX"}"#), 422),
        (("put", "/api/v1/accounts/{account}/settings"), format!("{api}/settings"), Some(&large), 413),
        (("post", documents), "/api/v1/accounts/77/documents?complete=true".into(), Some(numbers), 200),
        (("post", documents), "/api/v1/accounts/77/documents".into(), Some("{\"records\":"), 422),
        (("post", documents), "/api/v1/accounts/78/documents".into(), Some(numbers), 422),
        (("post", documents), "/api/v1/accounts/77/documents".into(), Some(&endless), 413),
        (("post", documents), "/api/v1/accounts/77/documents?complete=perhaps".into(), Some(numbers), 400),
        (("post", "/webhooks/ringcentral/{account}"), "/webhooks/ringcentral/7".into(), Some("no json"), 200),
        (("post", "/webhooks/ringcentral/{account}"), "/webhooks/ringcentral/a%20b".into(), Some("{}"), 404),
    ];
    let mut asked = BTreeSet::new();
    for (operation, path, body, status) in rows {
        let (got, text) = ask(&promised, &base, operation, &path, body).await;
        assert_eq!(got, status, "{} {path}: {text}", operation.0);
        if status < 300 {
            asked.insert((operation.0.to_owned(), operation.1.to_owned()));
        }
    }
    assert_eq!(asked, promised.operations(), "each operation has answered once at least");

    // An account that only webhooks and documents tell of has its numbers, and they are complete.
    until("the snapshot is complete", async || {
        let accounts = get(&format!("{base}/api/v1/accounts")).await.1;
        let of_77 = accounts["accounts"].as_array().into_iter().flatten().find(|account| account["account_id"] == "77").cloned();
        of_77.is_some_and(|account| account["snapshot_completed_at"].is_string() && account["numbers"] == 1)
    })
    .await;
    // A page in a browser may send text unasked.
    let unasked = reqwest::Client::new().post(format!("{base}/api/v1/accounts/77/documents")).header("content-type", "text/plain").body(numbers);
    assert_eq!(unasked.send().await.unwrap().status(), 415);

    let mut verdicts = Stream::open(&format!("{base}{api}/verdicts/stream?from=start&evidence=true"), None).await;
    let sent = verdicts.next(Duration::from_secs(10)).await.unwrap();
    promised.check_schema(&json!({ "$ref": "#/components/schemas/CallVerdict" }), &sent.data, "the stream");
    assert!(sent.data["call"].is_object());

    // What isn't described is refused in the same way.
    for (method, path, status) in
        [(Method::GET, "/nothing", 404), (Method::DELETE, "/api/v1/accounts", 405), (Method::GET, "/webhooks/ringcentral/1", 405)]
    {
        let answer = reqwest::Client::new().request(method, format!("{base}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        promised.check_schema(&json!({ "$ref": "#/components/schemas/Problem" }), &problem, path);
    }
}
