//! Every response body of the simulated RingCentral against the vendor's OpenAPI document.
//!
//! The document is not ours to copy: `$CALLSIEVE_OPENAPI` is the file with it, and where that is set `make test` runs these too.
//!
//! Where the document contradicts what was captured (ringcentral.md), bodies follow the document:
//! - It writes directory pages of at most 1,000 (`EnumeratedPagingModel`); the vendor's text allows 2,000.
//! - Its call-log party has `phoneNumber` as free text, which captures show in several forms; both fit.
//! - A look-up's `peerId.sessionId` holds a telephony session id in captures; the document has it as a text, so both fit.
//! - It requires `session_id` in a token answer, which older samples lack.
//! - Its `site.id` of an extension has the format `uri`, its own example and all captures are plain ids. Formats are not
//!   asserted here but `date-time`, so plain ids are sent.

// The lint's exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used)]

use callsieve::simulate::{Company, CompanyConfig, RateLimits, Server, ServerConfig, serve};
use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

fn document() -> Value {
    let path = std::env::var_os("CALLSIEVE_OPENAPI").expect("CALLSIEVE_OPENAPI isn't set: the file with the vendor's OpenAPI document");
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// OpenAPI 3.0's own words in those of JSON Schema: `nullable`, and a boolean `exclusiveMinimum` or `-Maximum`; words that it
/// has beside `$ref` (none that binds) and `discriminator`, `example`, `xml` say nothing about validity.
fn translated(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(translated).collect(),
        Value::Object(fields) => {
            let mut out = Map::new();
            for (name, value) in fields {
                match name.as_str() {
                    "nullable" | "discriminator" | "example" | "xml" | "externalDocs" => {}
                    // A property may have any name, also one of the words above.
                    "properties" => {
                        let properties = value.as_object().unwrap().iter().map(|(name, schema)| (name.clone(), translated(schema))).collect();
                        out.insert(name.clone(), Value::Object(properties));
                    }
                    "enum" | "required" | "default" => {
                        out.insert(name.clone(), value.clone());
                    }
                    _ => {
                        out.insert(name.clone(), translated(value));
                    }
                }
            }
            if fields.get("nullable") == Some(&json!(true)) {
                return json!({ "anyOf": [Value::Object(out), { "type": "null" }] });
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}

fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| references(item, out)),
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/components/schemas/")) {
                out.push(name.to_owned());
            }
            fields.values().for_each(|value| references(value, out));
        }
        _ => {}
    }
}

struct Vendor(Value);

impl Vendor {
    /// The validator of a response, made of the schemas that it needs and no more: the document has thousands.
    fn response(&self, method: &str, path: &str, status: &str) -> Validator {
        let mut response = &self.0["paths"][path][method]["responses"][status];
        if let Some(name) = response["$ref"].as_str().and_then(|r| r.strip_prefix("#/components/responses/")) {
            response = &self.0["components"]["responses"][name];
        }
        let content = response["content"].as_object().unwrap_or_else(|| panic!("{method} {path} has no {status} body"));
        let schema = &content.iter().find(|(kind, _)| kind.starts_with("application/json")).unwrap().1["schema"];
        let mut schemas = Map::new();
        let mut wanted = Vec::new();
        references(schema, &mut wanted);
        while let Some(name) = wanted.pop() {
            if !schemas.contains_key(&name) {
                let found = &self.0["components"]["schemas"][&name];
                assert!(found.is_object(), "schema {name}");
                references(found, &mut wanted);
                schemas.insert(name, translated(found));
            }
        }
        let whole = json!({ "allOf": [translated(schema)], "components": { "schemas": schemas } });
        // Draft 4 is what OpenAPI 3.0 builds on.
        jsonschema::options().with_draft(Draft::Draft4).should_validate_formats(true).with_format("uri", |_: &str| true).build(&whole).unwrap()
    }
}

struct Client<'a> {
    vendor: &'a Vendor,
    server: &'a Server,
    token: String,
    checked: BTreeSet<String>,
}

impl Client<'_> {
    /// Asks, and checks the body against the vendor's schema for the status that is expected.
    async fn check(&mut self, method: &str, path: &str, address: &str, body: Option<Value>, status: u16) -> Value {
        let method_name: reqwest::Method = method.to_uppercase().parse().unwrap();
        let mut request = reqwest::Client::new().request(method_name, format!("{}{address}", self.server.base_url())).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {address}");
        let text = answer.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {address}: {error}: {text}"));
        let validator = self.vendor.response(method, path, &status.to_string());
        let errors: Vec<String> = validator.iter_errors(&body).take(5).map(|error| format!("{}: {error}", error.instance_path)).collect();
        assert!(errors.is_empty(), "{method} {address} {status}: {errors:#?}");
        self.checked.insert(format!("{method} {path} {status}"));
        body
    }
}

#[tokio::test]
#[ignore = "needs the vendor's OpenAPI document: CALLSIEVE_OPENAPI=FILE cargo test --test simulate_openapi -- --ignored"]
async fn every_response_body_is_as_the_vendor_describes_it() {
    let vendor = Vendor(document());
    let company = Arc::new(Company::generate(4, &CompanyConfig { changes_per_week: 100, ..CompanyConfig::default() }));
    let server = serve(Arc::clone(&company), ServerConfig { limits: None, calls_per_hour: 400, ..ServerConfig::default() }).await.unwrap();

    let token = |form: Vec<(&'static str, &'static str)>| {
        let request = reqwest::Client::new().post(format!("{}/restapi/oauth/token", server.base_url()));
        async move { request.basic_auth("simulated-client", Some("simulated-secret")).form(&form).send().await.unwrap().json::<Value>().await.unwrap() }
    };
    let signed_in = token(vec![("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", "simulated-jwt")]).await;
    let refused = token(vec![("grant_type", "refresh_token"), ("refresh_token", "none")]).await;
    for (body, status) in [(&signed_in, "200"), (&refused, "400")] {
        let errors: Vec<String> = vendor.response("post", "/restapi/oauth/token", status).iter_errors(body).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{status}: {errors:#?}");
    }
    let mut client =
        Client { vendor: &vendor, server: &server, token: signed_in["access_token"].as_str().unwrap().to_owned(), checked: BTreeSet::new() };

    let account = "/restapi/v1.0/account/{accountId}";
    client.check("get", account, "/restapi/v1.0/account/~", None, 200).await;
    let (list, address) = (format!("{account}/extension"), "/restapi/v1.0/account/~/extension");
    let extensions = client.check("get", &list, address, None, 200).await;
    client.check("get", &list, &format!("{address}?page=2&perPage=10"), None, 200).await;
    client.check("get", &list, &format!("{address}?page=99"), None, 200).await;
    let directory = format!("{account}/directory/entries");
    client.check("get", &directory, "/restapi/v1.0/account/~/directory/entries", None, 200).await;
    client.check("get", &directory, "/restapi/v1.0/account/~/directory/entries?showFederated=false", None, 200).await;
    client.check("get", &format!("{account}/directory/federation"), "/restapi/v1.0/account/~/directory/federation", None, 200).await;
    let search = format!("{account}/directory/entries/search");
    for (wanted, is_any) in
        [(json!({ "searchString": "1", "searchFields": ["phoneNumber"], "perPage": 10 }), true), (json!({ "searchString": "§" }), false)]
    {
        let found = client.check("post", &search, "/restapi/v1.0/account/~/directory/entries/search", Some(wanted), 200).await;
        assert_eq!(found["records"].as_array().is_some_and(|records| !records.is_empty()), is_any);
    }
    client.check("get", &format!("{account}/phone-number"), "/restapi/v1.0/account/~/phone-number", None, 200).await;
    client.check("get", "/restapi/v2/accounts/{accountId}/phone-numbers", "/restapi/v2/accounts/~/phone-numbers", None, 200).await;
    client.check("get", "/restapi/v2/accounts/{accountId}/phone-numbers", "/restapi/v2/accounts/12/phone-numbers", None, 404).await;
    client.check("get", "/restapi/v2/accounts/{accountId}/phone-numbers", "/restapi/v2/accounts/~/phone-numbers?page=x", None, 400).await;
    for extension in extensions["records"].as_array().unwrap() {
        let one = format!("{account}/extension/{{extensionId}}");
        let address = format!("/restapi/v1.0/account/~/extension/{}", extension["id"]);
        client.check("get", &one, &address, None, 200).await;
        client.check("get", &format!("{one}/phone-number"), &format!("{address}/phone-number"), None, 200).await;
        client.check("get", &format!("{one}/forwarding-number"), &format!("{address}/forwarding-number"), None, 200).await;
        client.check("get", &format!("{one}/device"), &format!("{address}/device"), None, 200).await;
    }
    client
        .check(
            "get",
            &format!("{account}/extension/{{extensionId}}/forwarding-number"),
            "/restapi/v1.0/account/~/extension/1/forwarding-number",
            None,
            404,
        )
        .await;

    let log = format!("{account}/call-log");
    for query in ["?perPage=1000", "?view=Detailed&perPage=1000", "?view=Detailed&page=3&perPage=1000&dateFrom=2026-01-05T20:00:00Z"] {
        let page = client.check("get", &log, &format!("/restapi/v1.0/account/~/call-log{query}"), None, 200).await;
        assert_eq!(page["records"].as_array().unwrap().len(), 1_000);
    }
    client.check("get", &log, "/restapi/v1.0/account/~/call-log?dateFrom=yesterday", None, 400).await;
    calls(&mut client, &extensions).await;

    let path = format!("{account}/telephony/sessions/{{telephonySessionId}}");
    server.advance_to(server.now() + 30 * 60_000).await;
    let now = server.now();
    let calls = company.hours(now - 1_800_000, 1, 400);
    let going_on = calls.iter().flat_map(|c| &c.sessions).filter(|s| s.started + 1_000 < now && now < s.ended);
    for session in going_on.take(20) {
        client.check("get", &path, &format!("/restapi/v1.0/account/~/telephony/sessions/{}", session.telephony_session_id), None, 200).await;
    }
    client.check("get", &path, "/restapi/v1.0/account/~/telephony/sessions/s-none", None, 404).await;

    subscriptions(&mut client).await;
    assert!(client.checked.len() >= 20, "{:#?}", client.checked);
    println!("checked: {:#?}", client.checked);
    server.stop().await;
}

/// Single records, an extension's, the calls that go on, and failures that were asked for.
async fn calls(client: &mut Client<'_>, extensions: &Value) {
    let (account, address) = ("/restapi/v1.0/account/{accountId}", "/restapi/v1.0/account/~");
    let page = client.check("get", &format!("{account}/call-log"), &format!("{address}/call-log"), None, 200).await;
    let (one, id) = (format!("{account}/call-log/{{callRecordId}}"), page["records"][0]["id"].as_str().unwrap());
    client.check("get", &one, &format!("{address}/call-log/{id}"), None, 200).await;
    client.check("get", &one, &format!("{address}/call-log/{id}?view=Detailed"), None, 200).await;
    client.check("get", &one, &format!("{address}/call-log/{id}?view=Full"), None, 400).await;
    client.check("get", &one, &format!("{address}/call-log/none"), None, 404).await;
    for view in ["Simple", "Detailed"] {
        let active = client.check("get", &format!("{account}/active-calls"), &format!("{address}/active-calls?view={view}"), None, 200).await;
        assert!(active["records"].as_array().unwrap().iter().any(|record| record["result"] == "In Progress"));
    }
    for extension in extensions["records"].as_array().unwrap().iter().take(5) {
        let (of, address) = (format!("{account}/extension/{{extensionId}}"), format!("{address}/extension/{}", extension["id"]));
        let page = client.check("get", &format!("{of}/call-log"), &format!("{address}/call-log?view=Detailed"), None, 200).await;
        client.check("get", &format!("{of}/active-calls"), &format!("{address}/active-calls"), None, 200).await;
        if let Some(id) = page["records"][0]["id"].as_str() {
            client.check("get", &format!("{of}/call-log/{{callRecordId}}"), &format!("{address}/call-log/{id}"), None, 200).await;
        }
    }
    for status in [403, 500, 503] {
        client.server.fail("/call-log", axum::http::StatusCode::from_u16(status).unwrap(), 1);
        client.check("get", &format!("{account}/call-log"), &format!("{address}/call-log"), None, status).await;
    }
}

async fn subscriptions(client: &mut Client<'_>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let echo = |headers: axum::http::HeaderMap| async move {
        let token = headers.get("validation-token").cloned();
        (token.map(|token| [("validation-token", token)]), axum::Json(json!({})))
    };
    let router = axum::Router::new().route("/", axum::routing::post(echo));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let (all, one) = ("/restapi/v1.0/subscription", "/restapi/v1.0/subscription/{subscriptionId}");
    let wish = json!({
        "eventFilters": ["/restapi/v1.0/account/~/telephony/sessions", "/restapi/v1.0/nothing"],
        "deliveryMode": { "transportType": "WebHook", "address": address },
    });
    let made = client.check("post", all, all, Some(wish.clone()), 200).await;
    client.check("post", all, all, Some(json!({ "eventFilters": [] })), 400).await;
    client.check("get", all, all, None, 200).await;
    let address = format!("{all}/{}", made["id"].as_str().unwrap());
    client.check("get", one, &address, None, 200).await;
    client.check("put", one, &address, Some(wish.clone()), 200).await;
    client.check("post", &format!("{one}/renew"), &format!("{address}/renew"), Some(json!({})), 200).await;
    client.check("post", &format!("{one}/renew"), &format!("{all}/none/renew"), Some(json!({})), 404).await;
    for _ in 0..29 {
        client.check("post", all, all, Some(wish.clone()), 200).await;
    }
    client.check("post", all, all, Some(wish), 403).await;
}

#[tokio::test]
#[ignore = "needs the vendor's OpenAPI document: CALLSIEVE_OPENAPI=FILE cargo test --test simulate_openapi -- --ignored"]
async fn a_refusal_for_too_many_requests_is_as_the_vendor_describes_it() {
    let vendor = Vendor(document());
    let limits = RateLimits { heavy: 0, ..RateLimits::default() };
    let company = Arc::new(Company::generate(4, &CompanyConfig::default()));
    let server = serve(company, ServerConfig { limits: Some(limits), ..ServerConfig::default() }).await.unwrap();
    let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", "simulated-jwt")];
    let request = reqwest::Client::new().post(format!("{}/restapi/oauth/token", server.base_url()));
    let body: Value = request.basic_auth("simulated-client", Some("simulated-secret")).form(&form).send().await.unwrap().json().await.unwrap();
    let token = body["access_token"].as_str().unwrap().to_owned();
    let mut client = Client { vendor: &vendor, server: &server, token, checked: BTreeSet::new() };
    client.check("get", "/restapi/v2/accounts/{accountId}/phone-numbers", "/restapi/v2/accounts/~/phone-numbers", None, 429).await;
}

#[test]
fn the_translation_keeps_what_binds() {
    let schema = json!({ "type": "object", "required": ["a"], "properties": { "a": { "type": "string", "nullable": true }, "example": { "type": "integer" } } });
    let validator = jsonschema::options().with_draft(Draft::Draft4).build(&translated(&schema)).unwrap();
    assert!(validator.is_valid(&json!({ "a": null, "example": 1 })));
    assert!(!validator.is_valid(&json!({ "a": 1 })));
    assert!(!validator.is_valid(&json!({})));
    assert!(!validator.is_valid(&json!({ "a": "x", "example": "y" })), "a property may be named like a word of OpenAPI");
}
