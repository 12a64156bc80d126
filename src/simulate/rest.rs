//! The simulated RingCentral's REST side: OAuth, the lists, the call log, session look-ups and subscriptions, with rate
//! limits and error bodies (ringcentral.md A, C, D, E).
//!
//! Two clocks: the simulated one says what time it is in the company (which numbers are listed, which calls have ended);
//! lifetimes of tokens and subscriptions and the rate limits' windows go by the real one, since clients count in real
//! seconds. With [`Clock::Manual`] both are the time that was set.

use super::call_log;
use super::calls::LogRecord;
use super::company::Company;
use super::deliver::{Delivered, Deliveries};
use super::lists::{AccountLists, Page};
use super::notify::Faults;
use super::time::{self, Rfc3339};
use super::{HOUR_MS, SimulatedCall};
use crate::event::Millis;
use anyhow::Context;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::Digest;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What time it is in the company.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clock {
    /// It was `origin` when the server started, and goes on `speed` times as fast as real time. Webhooks are delivered as they fall due.
    Running {
        /// Milliseconds since 1970 UTC.
        origin: Millis,
        /// 1 is real time.
        speed: f64,
    },
    /// It stands still but for [`Server::advance_to`], which delivers the webhooks that fall due.
    Manual {
        /// Milliseconds since 1970 UTC.
        origin: Millis,
    },
}

/// What a client must present.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The app's client id.
    pub client_id: String,
    /// The app's secret.
    pub client_secret: String,
    /// The JWT that is accepted as an assertion.
    pub jwt: String,
}

impl Default for Credentials {
    /// `simulated-client`, `simulated-secret`, `simulated-jwt`.
    fn default() -> Self {
        Self { client_id: "simulated-client".into(), client_secret: "simulated-secret".into(), jwt: "simulated-jwt".into() }
    }
}

/// Requests that are allowed per window, for each of the vendor's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Group Light.
    pub light: u32,
    /// Group Medium.
    pub medium: u32,
    /// Group Heavy.
    pub heavy: u32,
    /// Group Auth.
    pub auth: u32,
    /// Length of the sliding window, and of the penalty, in seconds.
    pub window_seconds: u32,
}

impl Default for RateLimits {
    /// The vendor's: 50, 40, 10, 5 in 60 s.
    fn default() -> Self {
        Self { light: 50, medium: 40, heavy: 10, auth: 5, window_seconds: 60 }
    }
}

/// How to serve a company.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What time it is.
    pub clock: Clock,
    /// Calls that begin in each hour.
    pub calls_per_hour: u32,
    /// How far the call log goes back before the clock's origin, in hours.
    pub history_hours: u32,
    /// What clients must present.
    pub credentials: Credentials,
    /// Rate limits; `None` for none.
    pub limits: Option<RateLimits>,
    /// What happens to notifications on the way.
    pub faults: Faults,
}

impl Default for ServerConfig {
    /// A free port of 127.0.0.1, a manual clock at 2026-01-06T08:00Z, 60 calls an hour, a day of history, the vendor's limits, no faults.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            clock: Clock::Manual { origin: 1_767_686_400_000 },
            calls_per_hour: 60,
            history_hours: 24,
            credentials: Credentials::default(),
            limits: Some(RateLimits::default()),
            faults: Faults::NONE,
        }
    }
}

/// Takes a lock whose holder can't leave it half-changed: each change below is one assignment or insertion.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Tokens {
    session: String,
    access: String,
    access_until: Millis,
    refresh: String,
    refresh_until: Millis,
    /// A refresh token that was used: it works a little longer, for clients that did not get the answer.
    previous: Option<(String, Millis)>,
}

struct Code {
    code: String,
    redirect_uri: String,
    challenge: Option<String>,
    until: Millis,
}

/// A webhook subscription.
#[derive(Clone)]
pub(super) struct Subscription {
    pub id: String,
    pub filters: Vec<String>,
    disabled: Vec<String>,
    pub address: String,
    pub verification_token: Option<String>,
    created: Millis,
    expires_in: i64,
    expires: Millis,
    pub failing_since: Option<Millis>,
    pub blacklisted: Option<(Millis, String)>,
}

impl Subscription {
    /// Are notifications sent to it at that time?
    pub fn is_active(&self, now: Millis) -> bool {
        self.blacklisted.is_none() && now < self.expires
    }
}

#[derive(Default)]
struct Window {
    requests: VecDeque<Millis>,
    penalty_until: Option<Millis>,
}

/// What a server's parts share.
pub(super) struct Shared {
    pub company: Arc<Company>,
    pub config: ServerConfig,
    pub base: String,
    pub origin: Millis,
    manual: AtomicI64,
    started: Instant,
    pub http: reqwest::Client,
    rng: Mutex<ChaCha8Rng>,
    tokens: Mutex<Vec<Tokens>>,
    codes: Mutex<Vec<Code>>,
    pub subscriptions: Mutex<BTreeMap<String, Subscription>>,
    windows: Mutex<HashMap<&'static str, Window>>,
    /// How many records begin in an hour that is over, so that later pages need not make the earlier ones again.
    pub counts: Mutex<HashMap<i64, usize>>,
    /// Requests that are to fail: what their paths end with, the status, and how often yet.
    failing: Mutex<Vec<(String, StatusCode, u32)>>,
    /// The records of the hours made last.
    recent: Mutex<VecDeque<(i64, Arc<Vec<LogRecord>>)>>,
}

impl Shared {
    /// The time in the company.
    pub fn now(&self) -> Millis {
        match self.config.clock {
            Clock::Running { origin, speed } => origin + (self.started.elapsed().as_secs_f64() * 1_000.0 * speed) as Millis,
            Clock::Manual { .. } => self.manual.load(Ordering::Acquire),
        }
    }

    /// The time that clients count in.
    pub fn wall(&self) -> Millis {
        match self.config.clock {
            Clock::Running { .. } => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis),
            Clock::Manual { .. } => self.manual.load(Ordering::Acquire),
        }
    }

    pub fn lists(&self) -> AccountLists<'_> {
        AccountLists { company: &self.company, base: &self.base, at: self.now() }
    }

    pub fn calls_of_hour(&self, index: i64) -> Vec<SimulatedCall> {
        self.company.hours(index * HOUR_MS, 1, self.config.calls_per_hour)
    }

    pub fn history_from(&self) -> Millis {
        self.origin - i64::from(self.config.history_hours) * HOUR_MS
    }

    pub fn records_made_in(&self, index: i64) -> Arc<Vec<LogRecord>> {
        if let Some((_, known)) = lock(&self.recent).iter().find(|(hour, _)| *hour == index) {
            return Arc::clone(known);
        }
        let made: Arc<Vec<LogRecord>> = Arc::new(self.calls_of_hour(index).into_iter().flat_map(|c| c.call_log_records).collect());
        let mut recent = lock(&self.recent);
        if recent.len() >= 16 {
            recent.pop_front();
        }
        recent.push_back((index, Arc::clone(&made)));
        made
    }

    /// The records that begin in an hour, newest first: a call's later sessions may begin in the hour after its own.
    pub fn records_of_hour(&self, index: i64) -> Vec<LogRecord> {
        let now = self.now();
        let begins = (index * HOUR_MS).max(self.history_from())..(index + 1) * HOUR_MS;
        let mut out: Vec<LogRecord> = [index - 1, index]
            .into_iter()
            .flat_map(|hour| {
                self.records_made_in(hour).iter().filter(|r| begins.contains(&r.started()) && r.available_at <= now).cloned().collect::<Vec<_>>()
            })
            .collect();
        out.sort_by(|a, b| b.started().cmp(&a.started()).then_with(|| a.id.cmp(&b.id)));
        out
    }

    fn random_text(&self, length: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789";
        let mut rng = lock(&self.rng);
        (0..length).map(|_| LETTERS[rng.random_range(0..LETTERS.len())] as char).collect()
    }

    fn random_uuid(&self) -> String {
        let mut rng = lock(&self.rng);
        let (a, b) = (rng.random::<u64>(), rng.random::<u64>());
        format!("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 52, b & 0xffff_ffff_ffff)
    }
}

/// An answer, before its headers.
pub(super) struct Reply {
    status: StatusCode,
    body: Option<Value>,
    headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Some(body), headers: Vec::new() }
    }

    fn empty(status: StatusCode) -> Self {
        Self { status, body: None, headers: Vec::new() }
    }

    /// The vendor's error body, with the code and message repeated at its top level (ringcentral.md E).
    fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let body = json!({ "errorCode": code, "message": message, "errors": [{ "errorCode": code, "message": message }] });
        Self { status, body: Some(body), headers: Vec::new() }
    }

    pub fn bad_parameter(name: &str, value: &str) -> Self {
        let message = format!("Parameter [{name}] value is invalid");
        let body = json!({
            "errorCode": "CMN-101",
            "message": message,
            "errors": [{ "errorCode": "CMN-101", "message": message, "parameterName": name, "parameterValue": value }],
        });
        Self { status: StatusCode::BAD_REQUEST, body: Some(body), headers: Vec::new() }
    }

    pub fn not_found(parameter: &str) -> Self {
        let message = format!("Resource for parameter [{parameter}] is not found");
        let body = json!({
            "errorCode": "CMN-102",
            "message": message,
            "errors": [{ "errorCode": "CMN-102", "message": message, "parameterName": parameter }],
        });
        Self { status: StatusCode::NOT_FOUND, body: Some(body), headers: Vec::new() }
    }

    /// A failure that was asked for: the user lacks a permission, or the platform fails (ringcentral.md E).
    fn failure(status: StatusCode, path: &str) -> Self {
        if status == StatusCode::FORBIDDEN {
            let permission = if path.contains("/call-log") || path.contains("/active-calls") {
                "FullCompanyCallLog"
            } else if path.ends_with("/phone-number") || path.ends_with("/phone-numbers") {
                "ReadCompanyPhoneNumbers"
            } else {
                "ReadExtensions"
            };
            let message = format!("In order to call this API endpoint, user needs to have [{permission}] permission for requested resource.");
            let body = json!({
                "errorCode": "CMN-408",
                "message": message,
                "errors": [{ "errorCode": "CMN-408", "message": message, "permissionName": permission }],
            });
            return Self { status, body: Some(body), headers: Vec::new() };
        }
        let mut reply = Self::error(status, "CMN-203", "Internal Server Error");
        if status == StatusCode::SERVICE_UNAVAILABLE {
            reply = Self::error(status, "CMN-201", "Service Temporary Unavailable");
            reply.headers.push(("retry-after", "1".to_owned()));
        }
        reply
    }

    fn oauth_error(status: StatusCode, error: &str, code: &str, description: &str) -> Self {
        let body = json!({ "error": error, "error_description": description, "errors": [{ "errorCode": code, "message": description }] });
        Self { status, body: Some(body), headers: Vec::new() }
    }

    fn into_response(self) -> Response {
        let text = self.body.map(|body| body.to_string());
        let mut response = Response::new(text.as_ref().map_or_else(Body::empty, |text| Body::from(text.clone())));
        *response.status_mut() = self.status;
        if text.is_some() {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// Query or form parameters, the last of equal names counting.
pub(super) struct Parameters(HashMap<String, String>);

impl Parameters {
    fn parse(text: &str) -> Self {
        // A URL's query is read as a form is.
        let pairs = reqwest::Url::parse(&format!("http://x/?{text}"));
        Self(pairs.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |value| value.eq_ignore_ascii_case("true"))
    }

    /// `page` and `perPage`; more per page than the most is the most (ringcentral.md C).
    ///
    /// # Errors
    /// If one isn't what it may be; with the answer that says so.
    pub fn page(&self, default: usize, most: usize) -> Result<Page, Reply> {
        let number = |name: &str, default: usize| match self.get(name) {
            None => Ok(default),
            Some("max" | "all") if name == "perPage" => Ok(most),
            Some(text) => text.parse().ok().filter(|n| *n >= 1).ok_or_else(|| Reply::bad_parameter(name, text)),
        };
        Ok(Page { page: number("page", 1)?, per_page: number("perPage", default)?.min(most) })
    }

    /// A time; `None` if there is none.
    ///
    /// # Errors
    /// If it is no time; with the answer that says so.
    pub fn time(&self, name: &str) -> Result<Option<Millis>, Reply> {
        self.get(name).map(|text| time::parse(text).ok_or_else(|| Reply::bad_parameter(name, text))).transpose()
    }
}

#[derive(Clone, Copy)]
enum Group {
    Light,
    Medium,
    Heavy,
    Auth,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Medium => "medium",
            Self::Heavy => "heavy",
            Self::Auth => "auth",
        }
    }
}

/// Counts a request; an exceeded window begins a penalty, which every request during it begins anew.
fn admit(shared: &Shared, group: Group) -> Result<Vec<(&'static str, String)>, Reply> {
    let Some(limits) = shared.config.limits else { return Ok(Vec::new()) };
    let limit = match group {
        Group::Light => limits.light,
        Group::Medium => limits.medium,
        Group::Heavy => limits.heavy,
        Group::Auth => limits.auth,
    };
    let now = shared.wall();
    let length = i64::from(limits.window_seconds) * 1_000;
    let mut windows = lock(&shared.windows);
    let window = windows.entry(group.name()).or_default();
    while window.requests.front().is_some_and(|at| *at <= now - length) {
        window.requests.pop_front();
    }
    let headers = |remaining: u32| {
        vec![
            ("x-rate-limit-group", group.name().to_owned()),
            ("x-rate-limit-limit", limit.to_string()),
            ("x-rate-limit-remaining", remaining.to_string()),
            ("x-rate-limit-window", limits.window_seconds.to_string()),
        ]
    };
    let punished = window.penalty_until.is_some_and(|until| now < until);
    if punished || window.requests.len() >= limit as usize {
        window.penalty_until = Some(now + length);
        let mut reply = Reply::error(StatusCode::TOO_MANY_REQUESTS, "CMN-301", "Request rate exceeded");
        reply.headers = headers(0);
        reply.headers.push(("retry-after", limits.window_seconds.to_string()));
        return Err(reply);
    }
    window.penalty_until = None;
    window.requests.push_back(now);
    Ok(headers(limit - window.requests.len() as u32))
}

fn authorise(shared: &Shared, headers: &HeaderMap) -> Result<(), Reply> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    let refused = |code: &str, message: &str| Err(Reply::error(StatusCode::UNAUTHORIZED, code, message));
    let Some(bearer) = bearer else { return refused("OAU-149", "Unparsable access token") };
    let now = shared.wall();
    match lock(&shared.tokens).iter().find(|t| t.access == bearer) {
        None => refused("OAU-213", "Token not found"),
        Some(tokens) if tokens.access_until <= now => refused("OAU-128", "Access token expired"),
        Some(_) => Ok(()),
    }
}

fn issue(shared: &Shared, session: String) -> (Tokens, Value) {
    let now = shared.wall();
    let (access, refresh) = (shared.random_text(48), shared.random_text(48));
    let body = json!({
        "access_token": access,
        "token_type": "bearer",
        "expires_in": 3_600,
        "refresh_token": refresh,
        "refresh_token_expires_in": 604_800,
        "scope": "ReadAccounts ReadCallLog CallControl SubscriptionWebhook",
        "owner_id": shared.company.extensions[0].id_text,
        "endpoint_id": session,
        "session_id": session,
    });
    let tokens = Tokens { session, access, access_until: now + 3_600_000, refresh, refresh_until: now + 604_800_000, previous: None };
    (tokens, body)
}

fn is_client(shared: &Shared, headers: &HeaderMap, form: &Parameters) -> bool {
    let credentials = &shared.config.credentials;
    let basic = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Basic "));
    match basic {
        Some(basic) => {
            let expected = format!("{}:{}", credentials.client_id, credentials.client_secret);
            base64::engine::general_purpose::STANDARD.decode(basic.trim()).is_ok_and(|given| given == expected.as_bytes())
        }
        // A public client has no secret, and proves itself by PKCE.
        None => form.get("client_id") == Some(credentials.client_id.as_str()) && form.get("grant_type") != Some(JWT_GRANT),
    }
}

const JWT_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn token(shared: &Shared, headers: &HeaderMap, body: &str) -> Reply {
    let form = Parameters::parse(body);
    if !is_client(shared, headers, &form) {
        return Reply::oauth_error(StatusCode::BAD_REQUEST, "invalid_client", "OAU-153", "Invalid client credentials");
    }
    let invalid = |code: &str, description: &str| Reply::oauth_error(StatusCode::BAD_REQUEST, "invalid_grant", code, description);
    let now = shared.wall();
    match form.get("grant_type") {
        Some(JWT_GRANT) => {
            if form.get("assertion") != Some(shared.config.credentials.jwt.as_str()) {
                return invalid("OAU-251", "JWT is not valid");
            }
        }
        Some("authorization_code") => {
            let mut codes = lock(&shared.codes);
            let Some(at) = codes.iter().position(|c| Some(c.code.as_str()) == form.get("code")) else {
                return invalid("OAU-108", "Authorization code is not valid");
            };
            // A code works once, also when the rest of the request is wrong.
            let code = codes.swap_remove(at);
            if code.until <= now || form.get("redirect_uri") != Some(code.redirect_uri.as_str()) {
                return invalid("OAU-108", "Authorization code is not valid");
            }
            let proof =
                form.get("code_verifier").map(|v| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(v.as_bytes())));
            if code.challenge.is_some() && code.challenge != proof {
                return invalid("OAU-109", "Code verifier is not valid");
            }
        }
        Some("refresh_token") => return refresh(shared, form.get("refresh_token").unwrap_or_default()),
        _ => return Reply::oauth_error(StatusCode::BAD_REQUEST, "unsupported_grant_type", "OAU-250", "Unsupported grant type"),
    }
    let (tokens, body) = issue(shared, shared.random_text(24));
    let mut all = lock(&shared.tokens);
    // About five sessions per user and app (ringcentral.md E): the oldest ends.
    if all.len() >= 5 {
        all.remove(0);
    }
    all.push(tokens);
    Reply::ok(body)
}

fn refresh(shared: &Shared, given: &str) -> Reply {
    let now = shared.wall();
    let session = {
        let all = lock(&shared.tokens);
        let known = all
            .iter()
            .find(|t| (t.refresh == given && now < t.refresh_until) || t.previous.as_ref().is_some_and(|(old, until)| old == given && now < *until));
        known.map(|t| t.session.clone())
    };
    let Some(session) = session else { return Reply::oauth_error(StatusCode::BAD_REQUEST, "invalid_grant", "OAU-210", "Refresh token is not valid") };
    let (mut tokens, body) = issue(shared, session);
    // The old access token dies at once; the old refresh token works for ten seconds more.
    tokens.previous = Some((given.to_owned(), now + 10_000));
    if let Some(old) = lock(&shared.tokens).iter_mut().find(|t| t.session == tokens.session) {
        *old = tokens;
    }
    Reply::ok(body)
}

fn revoke(shared: &Shared, headers: &HeaderMap, body: &str) -> Reply {
    let form = Parameters::parse(body);
    if !is_client(shared, headers, &form) {
        return Reply::oauth_error(StatusCode::BAD_REQUEST, "invalid_client", "OAU-153", "Invalid client credentials");
    }
    let given = form.get("token").unwrap_or_default();
    lock(&shared.tokens).retain(|t| t.access != given && t.refresh != given);
    Reply::empty(StatusCode::OK)
}

/// The consent page, whose user consents at once.
fn authorize(shared: &Shared, query: &Parameters) -> Reply {
    if query.get("client_id") != Some(shared.config.credentials.client_id.as_str()) || query.get("response_type") != Some("code") {
        return Reply::oauth_error(StatusCode::BAD_REQUEST, "invalid_request", "OAU-109", "Client id or response type is not valid");
    }
    let challenge = query.get("code_challenge").map(str::to_owned);
    if challenge.is_some() && query.get("code_challenge_method") != Some("S256") {
        return Reply::bad_parameter("code_challenge_method", query.get("code_challenge_method").unwrap_or_default());
    }
    let redirect_uri = query.get("redirect_uri").unwrap_or_default();
    let Ok(mut target) = reqwest::Url::parse(redirect_uri) else { return Reply::bad_parameter("redirect_uri", redirect_uri) };
    let code = shared.random_text(40);
    target.query_pairs_mut().append_pair("code", &code).append_pair("expires_in", "60");
    if let Some(state) = query.get("state") {
        target.query_pairs_mut().append_pair("state", state);
    }
    let mut codes = lock(&shared.codes);
    codes.retain(|c| c.until > shared.wall());
    codes.push(Code { code, redirect_uri: redirect_uri.to_owned(), challenge, until: shared.wall() + 60_000 });
    let mut reply = Reply::empty(StatusCode::FOUND);
    reply.headers.push(("location", target.into()));
    reply
}

/// Takes one of the failures that were asked for.
fn failing(shared: &Shared, path: &str) -> Option<StatusCode> {
    let mut failing = lock(&shared.failing);
    let at = failing.iter().position(|(end, ..)| path.ends_with(end.as_str()))?;
    let (_, status, times) = &mut failing[at];
    let status = *status;
    *times -= 1;
    if *times == 0 {
        failing.swap_remove(at);
    }
    Some(status)
}

fn search_directory(shared: &Shared, query: &Parameters, body: &[u8]) -> Result<Reply, Reply> {
    let wanted: Value = serde_json::from_slice(body).map_err(|_| Reply::error(StatusCode::BAD_REQUEST, "ADG-112", "Request body is invalid."))?;
    let number = |name: &str| match &wanted[name] {
        Value::Null => Ok(None),
        given => given.as_u64().filter(|n| *n >= 1).map(|n| Some(n as usize)).ok_or_else(|| Reply::bad_parameter(name, &given.to_string())),
    };
    let page = Page { page: number("page")?.unwrap_or(1), per_page: number("perPage")?.unwrap_or(1_000).min(1_000) };
    Ok(Reply::ok(shared.lists().search_directory(&wanted, query.flag("accessibleSitesOnly", true), page)))
}

fn directory(shared: &Shared, query: &Parameters, headers: &HeaderMap) -> Result<Reply, Reply> {
    // The vendor's text allows 2,000 per page here, its schema 1,000: the schema is what clients are generated from.
    let body = shared.lists().directory(query.flag("showFederated", true), query.flag("accessibleSitesOnly", true), query.page(1_000, 1_000)?);
    let tag = format!("\"{:x}\"", sha2::Sha256::digest(body.to_string().as_bytes()));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|given| given.as_bytes() == tag.as_bytes()) {
        return Ok(Reply::empty(StatusCode::NOT_MODIFIED));
    }
    let mut reply = Reply::ok(body);
    reply.headers.push(("etag", tag));
    Ok(reply)
}

/// When the session began that an id names.
pub(super) fn began_in(id: &str) -> Option<Millis> {
    id.split('z').nth(1).and_then(|hex| i64::from_str_radix(hex, 16).ok())
}

/// A session that goes on; one that has ended or never was is not found.
fn session(shared: &Shared, id: &str) -> Reply {
    let now = shared.now();
    // Its call began at most an hour before.
    let began = began_in(id).filter(|began| *began <= now && *began >= now - 24 * HOUR_MS);
    let Some(began) = began else { return Reply::not_found("telephonySessionId") };
    let hour = began.div_euclid(HOUR_MS);
    for call in [hour, hour - 1].into_iter().flat_map(|hour| shared.calls_of_hour(hour)) {
        let Some(found) = call.sessions.iter().find(|s| s.telephony_session_id == id) else { continue };
        if found.ended <= now {
            break;
        }
        let mut parties: Vec<Value> = Vec::new();
        for notification in call.notifications.iter().filter(|n| n.timestamp <= now) {
            let Ok(mut body) = serde_json::from_str::<Value>(&notification.body) else { continue };
            if body["telephonySessionId"] != id {
                continue;
            }
            let party = rest_party(body["parties"][0].take());
            match parties.iter_mut().find(|known| known["id"] == party["id"]) {
                Some(known) => *known = party,
                None => parties.push(party),
            }
        }
        return Reply::ok(
            json!({ "id": id, "origin": { "type": found.origin }, "parties": parties, "creationTime": Rfc3339(found.started).to_string() }),
        );
    }
    Reply::not_found("telephonySessionId")
}

/// What look-ups show differently from events: owner and attributes, and the peer's telephony session id in its `sessionId` (ringcentral.md B2).
fn rest_party(mut party: Value) -> Value {
    let owner = json!({ "accountId": party["accountId"], "extensionId": party["extensionId"] });
    if !party["extensionId"].is_null() {
        party["owner"] = owner;
    }
    if let Some(fields) = party.as_object_mut() {
        if let Some(queue_call) = fields.remove("queueCall") {
            fields.insert("attributes".into(), json!({ "queueCall": queue_call }));
        }
        fields.remove("uiCallInfo");
        fields.remove("missedCall");
    }
    let peer = &mut party["status"]["peerId"];
    if let Some(fields) = peer.as_object_mut() {
        if let Some(id) = fields.remove("telephonySessionId") {
            fields.insert("sessionId".into(), id);
        }
    } else if let Some(status) = party["status"].as_object_mut() {
        status.remove("peerId");
    }
    party
}

fn subscription_document(shared: &Shared, s: &Subscription) -> Value {
    let now = shared.wall();
    let mut out = json!({
        "uri": format!("{}/restapi/v1.0/subscription/{}", shared.base, s.id),
        "id": s.id,
        "eventFilters": s.filters,
        "creationTime": Rfc3339(s.created).to_string(),
        "expirationTime": Rfc3339(s.expires).to_string(),
        "expiresIn": ((s.expires - now) / 1_000).max(1),
        "status": if s.blacklisted.is_some() { "Blacklisted" } else { "Active" },
        "deliveryMode": { "transportType": "WebHook", "encryption": false, "address": s.address },
    });
    if !s.disabled.is_empty() {
        let disabled: Vec<_> =
            s.disabled.iter().map(|filter| json!({ "filter": filter, "reason": "SUB-514", "message": "Event filter is not available" })).collect();
        out["disabledFilters"] = disabled.into();
    }
    if let Some((at, reason)) = &s.blacklisted {
        out["blacklistedData"] = json!({ "blacklistedAt": Rfc3339(*at).to_string(), "reason": reason });
    }
    out
}

const LONGEST_SUBSCRIPTION_SECONDS: i64 = 315_360_000;
const DEFAULT_SUBSCRIPTION_SECONDS: i64 = 604_800;

fn expires_in(body: &Value) -> Result<i64, Reply> {
    match &body["expiresIn"] {
        Value::Null => Ok(DEFAULT_SUBSCRIPTION_SECONDS),
        given => {
            let seconds = given.as_i64().filter(|s| *s >= 1).ok_or_else(|| Reply::bad_parameter("expiresIn", &given.to_string()))?;
            Ok(seconds.min(LONGEST_SUBSCRIPTION_SECONDS))
        }
    }
}

/// Expands `~` and tells the filters that there are from those that there are not.
fn event_filters(shared: &Shared, body: &Value) -> Result<(Vec<String>, Vec<String>), Reply> {
    let given: Option<Vec<&str>> = body["eventFilters"].as_array().map(|filters| filters.iter().filter_map(Value::as_str).collect());
    let given = given.filter(|filters| !filters.is_empty()).ok_or_else(|| Reply::bad_parameter("eventFilters", ""))?;
    let expanded = given.into_iter().map(|filter| {
        let filter = filter.replace("/account/~", &format!("/account/{}", shared.company.account_id));
        filter.replace("/extension/~", &format!("/extension/{}", shared.company.extensions[0].id))
    });
    let known = |filter: &str| {
        let path = filter.split('?').next().unwrap_or(filter);
        let ours = path.starts_with(&format!("/restapi/v1.0/account/{}/", shared.company.account_id));
        let last_two = path.rsplitn(3, '/').take(2).collect::<Vec<_>>();
        ours && (path.ends_with("/telephony/sessions")
            || path.ends_with("/directory/entries")
            || path.ends_with("/extension")
            || last_two[1..] == ["extension"]
            || path.ends_with("/phone-number"))
    };
    let (filters, disabled): (Vec<String>, Vec<String>) = expanded.partition(|filter| known(filter));
    if filters.is_empty() {
        return Err(Reply::error(StatusCode::BAD_REQUEST, "SUB-505", "None of the event filters is available"));
    }
    Ok((filters, disabled))
}

/// Asks the address whether it wants the notifications (ringcentral.md A, handshake).
async fn handshake(shared: &Shared, address: &str) -> Result<(), Reply> {
    let token = shared.random_uuid();
    let refused = |code: &str, why: String| Reply::error(StatusCode::BAD_REQUEST, code, why);
    let request =
        shared.http.post(address).header("validation-token", &token).header(header::CONTENT_TYPE, "application/json").timeout(Duration::from_secs(3));
    let answer = request.send().await.map_err(|error| refused("SUB-523", format!("Webhook is not reachable: {error}")))?;
    let headers = answer.headers().clone();
    if answer.status() != StatusCode::OK {
        return Err(refused("SUB-522", format!("Webhook responds with incorrect HTTP status: {}", answer.status().as_u16())));
    }
    if headers.get("validation-token").is_none_or(|echo| echo.as_bytes() != token.as_bytes()) {
        return Err(refused("SUB-525", "Webhook does not echo the Validation-Token header".into()));
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| !kind.as_bytes().starts_with(b"application/json")) {
        return Err(refused("SUB-525", "Webhook response has no Content-Type: application/json".into()));
    }
    let body = answer.bytes().await.map_err(|error| refused("SUB-523", format!("Webhook response breaks off: {error}")))?;
    let size: usize = body.len() + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    if size > 1_024 {
        return Err(refused("SUB-525", format!("Webhook response has {size} bytes, more than 1024")));
    }
    Ok(())
}

async fn subscribe(shared: &Shared, body: &[u8]) -> Result<Reply, Reply> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Reply::error(StatusCode::BAD_REQUEST, "CMN-103", "Request body is no JSON"))?;
    let (filters, disabled) = event_filters(shared, &body)?;
    let seconds = expires_in(&body)?;
    let mode = &body["deliveryMode"];
    if mode["transportType"] != "WebHook" {
        return Err(Reply::bad_parameter("deliveryMode.transportType", mode["transportType"].as_str().unwrap_or_default()));
    }
    let address = mode["address"].as_str().unwrap_or_default();
    if reqwest::Url::parse(address).is_err() {
        return Err(Reply::bad_parameter("deliveryMode.address", address));
    }
    if lock(&shared.subscriptions).len() >= 30 {
        return Err(Reply::error(StatusCode::FORBIDDEN, "SUB-505", "Subscriptions limit exceeded"));
    }
    handshake(shared, address).await?;
    let now = shared.wall();
    let subscription = Subscription {
        id: shared.random_uuid(),
        filters,
        disabled,
        address: address.to_owned(),
        verification_token: mode["verificationToken"].as_str().map(str::to_owned),
        created: now,
        expires_in: seconds,
        expires: now + seconds * 1_000,
        failing_since: None,
        blacklisted: None,
    };
    let document = subscription_document(shared, &subscription);
    lock(&shared.subscriptions).insert(subscription.id.clone(), subscription);
    Ok(Reply::ok(document))
}

/// Reads, renews, changes or deletes one subscription.
fn on_subscription(shared: &Shared, id: &str, action: &str, body: &[u8]) -> Result<Reply, Reply> {
    let body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).map_err(|_| Reply::error(StatusCode::BAD_REQUEST, "CMN-103", "Request body is no JSON"))?
    };
    let changed_filters = if action == "change" && !body["eventFilters"].is_null() { Some(event_filters(shared, &body)?) } else { None };
    let now = shared.wall();
    let mut all = lock(&shared.subscriptions);
    all.retain(|_, s| s.expires > now);
    if action == "delete" {
        return all.remove(id).map(|_| Reply::empty(StatusCode::NO_CONTENT)).ok_or_else(|| Reply::not_found("subscriptionId"));
    }
    let subscription = all.get_mut(id).ok_or_else(|| Reply::not_found("subscriptionId"))?;
    if action != "read" {
        // A renewal keeps the lifetime, a change without one takes the default (ringcentral.md A, renewal).
        let seconds = if action == "renew" && body["expiresIn"].is_null() { subscription.expires_in } else { expires_in(&body)? };
        subscription.expires_in = seconds;
        subscription.expires = now + seconds * 1_000;
        if let Some((filters, disabled)) = changed_filters {
            subscription.filters = filters;
            subscription.disabled = disabled;
        }
    }
    Ok(Reply::ok(subscription_document(shared, subscription)))
}

fn subscriptions(shared: &Shared) -> Reply {
    let now = shared.wall();
    let mut all = lock(&shared.subscriptions);
    all.retain(|_, s| s.expires > now);
    let records: Vec<Value> = all.values().map(|s| subscription_document(shared, s)).collect();
    Reply::ok(json!({ "uri": format!("{}/restapi/v1.0/subscription", shared.base), "records": records }))
}

/// The throttling group of a request, or `None` for an address that there is not.
fn group(method: &Method, path: &[&str]) -> Option<Group> {
    let read = method == Method::GET;
    match path {
        ["v1.0", "subscription"] if read => Some(Group::Light),
        ["v1.0", "subscription"] if method == Method::POST => Some(Group::Medium),
        ["v1.0", "subscription", _] if read || method == Method::DELETE => Some(Group::Light),
        ["v1.0", "subscription", _] if method == Method::PUT => Some(Group::Medium),
        ["v1.0", "subscription", _, "renew"] if method == Method::POST => Some(Group::Light),
        ["v1.0", "account", _] if read => Some(Group::Light),
        ["v1.0", "account", _, "extension"] | ["v1.0", "account", _, "directory", "entries" | "federation"] if read => Some(Group::Medium),
        ["v1.0", "account", _, "directory", "entries", "search"] if method == Method::POST => Some(Group::Heavy),
        ["v1.0", "account", _, "extension", _] | ["v1.0", "account", _, "extension", _, "phone-number" | "forwarding-number" | "device"] if read => {
            Some(Group::Light)
        }
        ["v1.0", "account", _, "phone-number"] | ["v2", "accounts", _, "phone-numbers"] if read => Some(Group::Heavy),
        ["v1.0", "account", _, "call-log" | "active-calls"] | ["v1.0", "account", _, "call-log", _] if read => Some(Group::Heavy),
        ["v1.0", "account", _, "extension", _, "call-log" | "active-calls"] | ["v1.0", "account", _, "extension", _, "call-log", _] if read => {
            Some(Group::Heavy)
        }
        ["v1.0", "account", _, "telephony", "sessions", _] if read => Some(Group::Light),
        _ => None,
    }
}

async fn answer(shared: &Shared, method: &Method, path: &[&str], query: &Parameters, headers: &HeaderMap, body: &[u8]) -> Result<Reply, Reply> {
    if let ["v1.0", "account", account, ..] | ["v2", "accounts", account, ..] = path
        && *account != "~"
        && *account != shared.company.account_id_text
    {
        return Err(Reply::not_found("accountId"));
    }
    let lists = shared.lists();
    let extension = |id: &str| {
        let own = if id == "~" { shared.company.extensions[0].id_text.as_str() } else { id };
        lists.find_extension(own).ok_or_else(|| Reply::not_found("extensionId"))
    };
    let extension_id = |id: &str| extension(id).map(|n| shared.company.extensions[n].id);
    match path {
        ["v1.0", "subscription"] if method == Method::POST => subscribe(shared, body).await,
        ["v1.0", "subscription"] => Ok(subscriptions(shared)),
        ["v1.0", "subscription", id] => {
            let action = if method == Method::DELETE {
                "delete"
            } else if method == Method::PUT {
                "change"
            } else {
                "read"
            };
            on_subscription(shared, id, action, body)
        }
        ["v1.0", "subscription", id, "renew"] => on_subscription(shared, id, "renew", body),
        ["v1.0", "account", _] => Ok(Reply::ok(lists.account())),
        ["v1.0", "account", _, "extension"] => Ok(Reply::ok(lists.extensions(query.get("type"), query.page(100, 1_000)?))),
        ["v1.0", "account", _, "extension", id] => Ok(Reply::ok(lists.extension(extension(id)?))),
        ["v1.0", "account", _, "extension", id, "phone-number"] => {
            Ok(Reply::ok(lists.extension_phone_numbers(extension(id)?, query.page(100, 1_000)?)))
        }
        ["v1.0", "account", _, "extension", id, "forwarding-number"] => {
            Ok(Reply::ok(lists.forwarding_numbers(extension(id)?, query.page(100, 1_000)?)))
        }
        ["v1.0", "account", _, "extension", id, "device"] => Ok(Reply::ok(lists.devices(extension(id)?, query.page(100, 1_000)?))),
        ["v1.0", "account", _, "directory", "federation"] => {
            let none = || Reply::error(StatusCode::NOT_FOUND, "ADG-105", "Current account is not linked to any federation.");
            lists.federation().map(Reply::ok).ok_or_else(none)
        }
        ["v1.0", "account", _, "directory", "entries", "search"] => search_directory(shared, query, body),
        ["v1.0", "account", _, "directory", "entries"] => directory(shared, query, headers),
        ["v1.0", "account", _, "phone-number"] => Ok(Reply::ok(lists.phone_numbers_v1(query.get("usageType"), query.page(100, 1_000)?))),
        ["v2", "accounts", _, "phone-numbers"] => Ok(Reply::ok(lists.phone_numbers_v2(query.get("usageType"), query.page(100, 1_000)?))),
        ["v1.0", "account", _, "call-log"] => call_log::list(shared, query, None),
        ["v1.0", "account", _, "call-log", id] => call_log::record(shared, query, id, None),
        ["v1.0", "account", _, "active-calls"] => call_log::active(shared, query, None),
        ["v1.0", "account", _, "extension", id, "call-log"] => call_log::list(shared, query, Some(extension_id(id)?)),
        ["v1.0", "account", _, "extension", id, "call-log", record] => call_log::record(shared, query, record, Some(extension_id(id)?)),
        ["v1.0", "account", _, "extension", id, "active-calls"] => call_log::active(shared, query, Some(extension_id(id)?)),
        ["v1.0", "account", _, "telephony", "sessions", id] => Ok(session(shared, id)),
        _ => Err(Reply::not_found("uri")),
    }
}

async fn dispatch(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else {
        return Reply::error(StatusCode::PAYLOAD_TOO_LARGE, "CMN-103", "Request body is too large").into_response();
    };
    respond(&shared, &parts, &body).await.into_response()
}

async fn respond(shared: &Shared, parts: &axum::http::request::Parts, body: &Bytes) -> Reply {
    let query = Parameters::parse(parts.uri.query().unwrap_or_default());
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let Some((&"restapi", path)) = path.split_first() else { return Reply::not_found("uri") };
    if let ["oauth", endpoint] = path {
        let form = std::str::from_utf8(body).unwrap_or_default();
        let limited = admit(shared, Group::Auth);
        let (limits, reply) = match (*endpoint, &parts.method) {
            ("authorize", &Method::GET) => return authorize(shared, &query),
            ("token", &Method::POST) => (limited, token as fn(&Shared, &HeaderMap, &str) -> Reply),
            ("revoke", &Method::POST) => (limited, revoke as fn(&Shared, &HeaderMap, &str) -> Reply),
            _ => return Reply::not_found("uri"),
        };
        let limits = match limits {
            Ok(limits) => limits,
            Err(refused) => return refused,
        };
        let mut reply = reply(shared, &parts.headers, form);
        reply.headers.extend(limits);
        return reply;
    }
    if let Err(refused) = authorise(shared, &parts.headers) {
        return refused;
    }
    let Some(group) = group(&parts.method, path) else { return Reply::not_found("uri") };
    let limits = match admit(shared, group) {
        Ok(limits) => limits,
        Err(refused) => return refused,
    };
    let mut reply = match failing(shared, parts.uri.path()) {
        Some(status) => Reply::failure(status, parts.uri.path()),
        None => answer(shared, &parts.method, path, &query, &parts.headers, body).await.unwrap_or_else(|refused| refused),
    };
    reply.headers.extend(limits);
    reply
}

/// A running server. Dropping it stops nothing: call [`Server::stop`].
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    deliveries: Arc<Deliveries>,
    stop: tokio::sync::watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base of its addresses, such as `http://127.0.0.1:8080`.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.shared.base
    }

    /// The time in the company.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.shared.now()
    }

    /// Moves a manual clock to a time and delivers, in order, what falls due until then. A time in the past, or a running
    /// clock, changes no clock, and delivers what is due. Gives what was delivered.
    pub async fn advance_to(&self, time: Millis) -> Delivered {
        self.shared.manual.fetch_max(time, Ordering::AcqRel);
        self.deliveries.deliver_due(&self.shared).await
    }

    /// Lets the next requests fail whose paths end so: 403 as for a user who lacks the permission, 5xx as when the platform fails.
    pub fn fail(&self, path_end: &str, status: StatusCode, times: u32) {
        if times > 0 {
            lock(&self.shared.failing).push((path_end.to_owned(), status, times));
        }
    }

    /// The counts of all deliveries so far.
    #[must_use]
    pub fn delivered(&self) -> Delivered {
        self.deliveries.total()
    }

    /// Stops listening and delivering, and waits until both have ended.
    pub async fn stop(self) {
        // No receiver means that the tasks have ended by themselves.
        let _ = self.stop.send(true);
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// Serves a company until [`Server::stop`]. Needs a tokio runtime with time and I/O.
///
/// # Errors
/// If the address can't be listened on, or a configured rate or speed is none.
pub async fn serve(company: Arc<Company>, config: ServerConfig) -> anyhow::Result<Server> {
    config.faults.validate().map_err(anyhow::Error::msg)?;
    if let Clock::Running { speed, .. } = config.clock {
        anyhow::ensure!(speed > 0.0 && speed.is_finite(), "a clock's speed is a factor above 0, not {speed}");
    }
    let listener = tokio::net::TcpListener::bind(config.listen).await.with_context(|| format!("listening on {}", config.listen))?;
    let address = listener.local_addr().context("reading the address listened on")?;
    let (Clock::Manual { origin } | Clock::Running { origin, .. }) = config.clock;
    let shared = Arc::new(Shared {
        base: format!("http://{address}"),
        origin,
        manual: AtomicI64::new(origin),
        started: Instant::now(),
        http: reqwest::Client::builder().user_agent("RingCentral-Webhook/8.3").build().context("building the HTTP client")?,
        rng: Mutex::new(ChaCha8Rng::seed_from_u64(company.seed ^ 0x5EED)),
        tokens: Mutex::default(),
        codes: Mutex::default(),
        subscriptions: Mutex::default(),
        windows: Mutex::default(),
        counts: Mutex::default(),
        failing: Mutex::default(),
        recent: Mutex::default(),
        company,
        config,
    });
    let deliveries = Arc::new(Deliveries::new(&shared));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let router = axum::Router::new().fallback(dispatch).with_state(Arc::clone(&shared));
    let mut until = stopped.clone();
    let serving = async move {
        let graceful = axum::serve(listener, router).with_graceful_shutdown(async move {
            let _ = until.wait_for(|stop| *stop).await;
        });
        if let Err(error) = graceful.await {
            tracing::error!(%error, "the simulated RingCentral stopped listening");
        }
    };
    let mut tasks = vec![tokio::spawn(serving)];
    if matches!(shared.config.clock, Clock::Running { .. }) {
        tasks.push(tokio::spawn(super::deliver::run(Arc::clone(&shared), Arc::clone(&deliveries), stopped)));
    }
    Ok(Server { address, shared, deliveries, stop, tasks })
}
