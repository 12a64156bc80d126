//! The HTTP interface: what is served where, to whom, and how the state is shown. `deploy/openapi.yaml` describes it.

use super::forward::{self, ListedAccount};
use super::held::{Holding, Readiness};
use super::problem::{Problem, as_problems};
use super::shared::{Shared, blocking, is_secret};
use super::stream::{self, parse_place};
use super::{documents, ingress, instruments};
use crate::event::json::{AccountJson, NumberJson, OpenCallJson, Rfc3339, SettingsJson, VerdictJson};
use crate::event::{
    AccountId, AccountSettings, CallVerdict, CompanyNumber, Disposition, Event, Media, Millis, NumberKind, NumberQuery, SessionId, Verdict,
    encode_event,
};
use crate::judge::number::Country;
use crate::judge::{IDLE_LIMIT, OpenRow, settle};
use crate::log::{Headers, Input};
use crate::state::tables;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use compact_str::CompactString;
use serde::de::DeserializeOwned;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use serde_json::value::to_raw_value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tower_http::timeout::TimeoutLayer;

/// A whole request, its body included, comes in and is answered within so long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the metrics wait for what the log says.
const LAG_TIMEOUT: Duration = Duration::from_secs(3);
/// Where the API stands.
pub(super) const API: &str = "/api/v1";
const DEFAULT_PAGE: usize = 100;
const MOST_PER_PAGE: usize = 1_000;
/// Rows that one request looks at, and rows of other accounts that it passes over: what little fits gives short pages rather than slow ones.
const MOST_LOOKS: usize = 20_000;
const SETTINGS_LIMIT: usize = 256 << 10;
/// Values in one list of the settings.
const MOST_VALUES: usize = 10_000;

/// Everything that is served.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    // What needs the account's state is answered by who has it; the others need the log alone.
    let of_state = Router::new()
        .route("/accounts/{account}/calls", get(calls))
        .route("/accounts/{account}/calls/{session}", get(call))
        .route("/accounts/{account}/numbers", get(numbers))
        .route("/accounts/{account}/documents", post(documents::receive).layer(DefaultBodyLimit::max(documents::LIMIT)))
        .route_layer(middleware::from_fn_with_state(shared.clone(), forward::pass_on));
    let api = Router::new()
        .route("/accounts", get(accounts))
        .route("/accounts/{account}/verdicts/stream", get(verdicts))
        .route("/accounts/{account}/settings", put(settings).layer(DefaultBodyLimit::max(SETTINGS_LIMIT)))
        .merge(of_state)
        .route_layer(middleware::from_fn_with_state(shared.clone(), authorise));
    Router::new()
        .nest(API, api)
        .route("/webhooks/ringcentral/{account}", post(ingress::receive).with_state(shared.ingress.clone()))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route_layer(middleware::from_fn(instruments::measure))
        .layer(time_limit())
        .layer(middleware::from_fn(as_problems))
        .with_state(shared)
}

/// How long a whole request may take.
pub(super) fn time_limit() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT)
}

// ---- who may ask ----

/// With a token: whoever has it. Without: whoever reaches the loopback address by its own name. (A page in the operator's browser
/// could reach it by a name that resolves to it.)
async fn authorise(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Result<Response, Problem> {
    let headers = request.headers();
    match &shared.api_token {
        Some(secret) => {
            let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
            if !given.is_some_and(|given| is_secret(given, secret)) {
                let problem = Problem::new(StatusCode::UNAUTHORIZED, "this needs the header Authorization: Bearer with the API token");
                return Err(problem.header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
            }
        }
        None if !is_loopback_host(headers) => {
            return Err(Problem::new(StatusCode::FORBIDDEN, "without an API token only requests to a loopback address are answered"));
        }
        None => {}
    }
    Ok(next.run(request).await)
}

fn is_loopback_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

// ---- what is asked for ----

/// The account of the path.
pub(super) struct OfAccount(pub(super) AccountId);

/// The account and the session of the path.
struct OfSession(AccountId, SessionId);

/// Query parameters.
pub(super) struct Wanted<T>(pub(super) T);

fn account_of(text: &str) -> Result<AccountId, Problem> {
    AccountId::parse(text).map_err(|error| Problem::bad_request(error.to_string()))
}

impl<S: Send + Sync> FromRequestParts<S> for OfAccount {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(account) = path.map_err(|error| Problem::bad_request(error.body_text()))?;
        account_of(&account).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfSession {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<(String, String)>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path((account, session)) = path.map_err(|error| Problem::bad_request(error.body_text()))?;
        let session = SessionId::parse(&session).map_err(|error| Problem::bad_request(error.to_string()))?;
        Ok(Self(account_of(&account)?, session))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Wanted<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query.map(|Query(wanted)| Self(wanted)).map_err(|error| Problem::bad_request(error.body_text()))
    }
}

fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if (1..=MOST_PER_PAGE).contains(&limit) { Ok(limit) } else { Err(Problem::bad_request(format!("limit is from 1 to {MOST_PER_PAGE}"))) }
}

fn time_of(name: &str, text: Option<&str>) -> Result<Option<Millis>, Problem> {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
    text.map(parse).transpose().map_err(|_| Problem::bad_request(format!("{name} is an RFC 3339 time such as 2026-01-31T09:30:00Z")))
}

/// Where the next page begins, opaque to who asks.
#[derive(Serialize, Deserialize)]
struct CallsCursor(Millis, SessionId);

fn write_cursor(place: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(place).unwrap_or_default())
}

fn read_cursor<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, Problem> {
    let read = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    text.map(|text| read(text).ok_or_else(|| Problem::bad_request("cursor is none that this service gave"))).transpose()
}

// ---- accounts ----

/// All accounts, those of other instances included; one that was asked by another tells its own.
async fn accounts(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let is_asked_by_another = forward::is_forwarded(&parts.headers);
    let held = shared.held.up();
    let mut elsewhere: BTreeSet<u32> = (0..shared.partitions).filter(|partition| held.iter().all(|(up, _)| up != partition)).collect();
    if is_asked_by_another
        || shared.others.is_none()
        || elsewhere.iter().any(|partition| matches!(shared.held.partition(*partition), Holding::BringingUp { .. }))
    {
        shared.ready()?;
        elsewhere.clear();
    }
    let others = forward::accounts(&shared, &parts, elsewhere).await?;
    blocking(move || {
        let mut all = others;
        for (_, database) in held {
            for row in tables::accounts(&database).map_err(|error| Problem::unavailable(&error))? {
                let shown = to_raw_value(&AccountJson(&row)).map_err(|error| Problem::unavailable(&error))?;
                all.push(ListedAccount::new(row.account_id.to_string(), shown));
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(answer(&Page { name: "accounts", items: &all, shown: ListedAccount::shown, next: None }))
    })
    .await
}

/// Settings as they are put; what is left out is as for an account that never set anything.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SettingsBody {
    filter_internal: bool,
    country: CompactString,
    trust_extension_id: bool,
    recorded_extensions: Option<Vec<CompactString>>,
    queries: Vec<CompactString>,
    include_federated: bool,
    excluded_usage_types: Vec<CompactString>,
}

impl Default for SettingsBody {
    fn default() -> Self {
        Self {
            filter_internal: false,
            country: CompactString::const_new("US"),
            trust_extension_id: false,
            recorded_extensions: None,
            queries: Vec::new(),
            include_federated: true,
            excluded_usage_types: Vec::new(),
        }
    }
}

impl SettingsBody {
    fn checked(&self, account_id: AccountId, updated_at: Millis) -> Result<AccountSettings, Problem> {
        let wrong = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        if Country::parse(&self.country).is_none() {
            return Err(wrong(format!("country {:?} is no ISO 3166-1 alpha-2 code with a numbering plan", self.country)));
        }
        let lists =
            [("recorded_extensions", self.recorded_extensions.as_deref().unwrap_or_default()), ("excluded_usage_types", &self.excluded_usage_types)];
        for (name, values) in lists {
            if values.len() > MOST_VALUES || values.iter().any(|value| value.is_empty() || value.len() > 64 || value.chars().any(char::is_control)) {
                return Err(wrong(format!("{name} holds at most {MOST_VALUES} texts of 1 to 64 bytes")));
            }
        }
        let query = |symbol: &CompactString| query_of(symbol).ok_or_else(|| wrong(format!("there is no query {symbol:?}")));
        Ok(AccountSettings {
            account_id,
            filter_internal: self.filter_internal,
            country: self.country.to_ascii_uppercase(),
            trust_extension_id: self.trust_extension_id,
            recorded_extensions: self.recorded_extensions.clone(),
            queries: self.queries.iter().map(query).collect::<Result<_, _>>()?,
            include_federated: self.include_federated,
            excluded_usage_types: self.excluded_usage_types.clone(),
            updated_at,
        })
    }
}

/// The query of that symbol; `None` for one that this version doesn't know.
fn query_of(symbol: &str) -> Option<NumberQuery> {
    serde_json::from_value(json!(symbol)).ok().filter(|query: &NumberQuery| *query != NumberQuery::Unknown)
}

async fn settings(
    State(shared): State<Arc<Shared>>,
    OfAccount(account): OfAccount,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let given: SettingsBody = serde_json::from_slice(&body).map_err(|error| Problem::bad_request(format!("the settings can't be read: {error}")))?;
    let settings = given.checked(account.clone(), (shared.clock)())?;
    let shown = answer(&SettingsJson(&settings));
    let value = encode_event(&Event::AccountSettings(settings));
    let input = Input { account: account.to_string(), value, headers: Headers::new() };
    shared.appender.append(input).await.map_err(|error| Problem::of_log(&error))?;
    Ok(shown)
}

// ---- calls ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallsWanted {
    verdict: Option<String>,
    disposition: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn calls(State(shared): State<Arc<Shared>>, OfAccount(account): OfAccount, Wanted(wanted): Wanted<CallsWanted>) -> Result<Response, Problem> {
    let verdict = match wanted.verdict.as_deref() {
        None => None,
        Some("INTERNAL") => Some(Verdict::Internal),
        Some("EXTERNAL") => Some(Verdict::External),
        Some(_) => return Err(Problem::bad_request("verdict is INTERNAL or EXTERNAL")),
    };
    let disposition = match wanted.disposition.as_deref() {
        None => None,
        Some("INGEST") => Some(Disposition::Ingest),
        Some("DISREGARD") => Some(Disposition::Disregard),
        Some(_) => return Err(Problem::bad_request("disposition is INGEST or DISREGARD")),
    };
    let from = time_of("from", wanted.from.as_deref())?.unwrap_or(Millis::MIN);
    let to = time_of("to", wanted.to.as_deref())?.unwrap_or(Millis::MAX);
    let limit = page_size(wanted.limit)?;
    let cursor: Option<CallsCursor> = read_cursor(wanted.cursor.as_deref())?;
    let database = shared.database(&account)?;
    let is_wanted = move |call: &CallVerdict| {
        (from..to).contains(&call.ended_at)
            && verdict.is_none_or(|verdict| verdict == call.verdict)
            && disposition.is_none_or(|disposition| disposition == call.disposition)
    };
    blocking(move || {
        // What ends at `to` stands after the first session there is of that time.
        let first = SessionId::parse(" ").map_err(|error| Problem::unavailable(&error))?;
        let before = match &cursor {
            Some(CallsCursor(at, session)) => Some((*at, session)),
            None => (to < Millis::MAX).then_some((to, &first)),
        };
        let (mut found, mut looked_at, mut next) = (Vec::new(), 0, None);
        let mut take = |call: CallVerdict| {
            if call.ended_at < from {
                next = None;
                return false;
            }
            looked_at += 1;
            let place = CallsCursor(call.ended_at, call.session_id.clone());
            if is_wanted(&call) {
                if found.len() == limit {
                    return false;
                }
                found.push(call);
            }
            next = Some(place);
            looked_at < MOST_LOOKS
        };
        let mut came_to_its_end = true;
        let gave_up = tables::verdicts_by_end(&database, &account, before, MOST_LOOKS, |call| {
            came_to_its_end = take(call);
            came_to_its_end
        })
        .map_err(|error| Problem::unavailable(&error))?;
        let next = match gave_up {
            Some(at) => (at >= from).then(|| CallsCursor(at.saturating_add(1), first.clone())),
            // The walk came to its own end: there is no next page.
            None if came_to_its_end => None,
            None => next,
        };
        let next = next.as_ref().map(write_cursor);
        Ok(answer(&Page { name: "calls", items: &found, shown: |verdict| VerdictJson { verdict, evidence: false }, next }))
    })
    .await
}

/// What a call that is not (or not newly) judged waits for.
fn waits_for(row: &OpenRow, gate_is_open: bool) -> &'static str {
    if row.record.call.media == Media::Fax {
        return "NOTHING";
    }
    match row.record.over_since {
        // Over by the idle limit, it has no time of its end.
        None if row.gated && row.deadline > row.record.touched_at + IDLE_LIMIT => "SNAPSHOT",
        None => "END",
        Some(_) if !gate_is_open => "SNAPSHOT",
        // It was looked at when it had settled.
        Some(since) if row.deadline > since + settle(&row.record.call) => "CONVERSATION",
        Some(_) => "SETTLING",
    }
}

struct CallJson<'a> {
    account: &'a AccountId,
    session: &'a SessionId,
    verdict: Option<&'a CallVerdict>,
    pending: Option<(&'a OpenRow, &'static str)>,
}

impl Serialize for CallJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("account_id", self.account.as_str())?;
        map.serialize_entry("session_id", self.session.as_str())?;
        map.serialize_entry("verdict", &self.verdict.map(|verdict| VerdictJson { verdict, evidence: true }))?;
        map.serialize_entry("pending", &self.pending.map(|(row, waits_for)| PendingJson { row, waits_for }))?;
        map.end()
    }
}

struct PendingJson<'a> {
    row: &'a OpenRow,
    waits_for: &'static str,
}

impl Serialize for PendingJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("waits_for", self.waits_for)?;
        map.serialize_entry("looked_at_again", &Some(self.row.deadline).filter(|at| *at != Millis::MAX).map(Rfc3339))?;
        map.serialize_entry("known", &OpenCallJson(&self.row.record))?;
        map.end()
    }
}

async fn call(State(shared): State<Arc<Shared>>, OfSession(account, session): OfSession) -> Result<Response, Problem> {
    let database = shared.database(&account)?;
    blocking(move || {
        let failed = |error: tables::TableError| Problem::unavailable(&error);
        // The open row first: a verdict that comes in between replaces it.
        let open = tables::open_call(&database, &account, &session).map_err(failed)?;
        let verdict = tables::verdict(&database, &account, &session).map_err(failed)?;
        if open.is_none() && verdict.is_none() {
            return Err(Problem::not_found(format!("account {account} has no call {session}")));
        }
        let gate_is_open = tables::account(&database, &account).map_err(failed)?.is_some_and(|row| row.snapshot_completed_at.is_some());
        let pending = open.as_ref().map(|row| (row, waits_for(row, gate_is_open)));
        Ok(answer(&CallJson { account: &account, session: &session, verdict: verdict.as_ref(), pending }))
    })
    .await
}

// ---- numbers ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NumbersWanted {
    kind: Option<String>,
    query: Option<String>,
    extension_id: Option<String>,
    prefix: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn numbers(
    State(shared): State<Arc<Shared>>,
    OfAccount(account): OfAccount,
    Wanted(wanted): Wanted<NumbersWanted>,
) -> Result<Response, Problem> {
    let kind = match wanted.kind.as_deref() {
        None => None,
        Some("PHONE") => Some(NumberKind::Phone),
        Some("EXTENSION") => Some(NumberKind::Extension),
        Some(_) => return Err(Problem::bad_request("kind is PHONE or EXTENSION")),
    };
    let query = match wanted.query.as_deref() {
        None => None,
        Some(symbol) => Some(query_of(symbol).ok_or_else(|| Problem::bad_request("query is no symbol of a number query, such as DIRECTORY"))?),
    };
    let limit = page_size(wanted.limit)?;
    let mut after: Option<String> = read_cursor(wanted.cursor.as_deref())?;
    let database = shared.database(&account)?;
    let is_wanted = move |row: &CompanyNumber| {
        kind.is_none_or(|kind| kind == row.kind)
            && query.is_none_or(|query| row.queries.contains(&query))
            && wanted.extension_id.as_ref().is_none_or(|id| row.extension_id.as_deref() == Some(id))
            && wanted.prefix.as_ref().is_none_or(|prefix| row.number.starts_with(prefix.as_str()))
    };
    blocking(move || {
        let (mut found, mut looked_at) = (Vec::new(), 0);
        let next = 'pages: loop {
            let rows = tables::numbers(&database, &account, after.as_deref(), MOST_PER_PAGE).map_err(|error| Problem::unavailable(&error))?;
            let is_last = rows.len() < MOST_PER_PAGE;
            looked_at += rows.len();
            for row in rows {
                if is_wanted(&row) {
                    if found.len() == limit {
                        break 'pages after;
                    }
                    after = Some(row.number.to_string());
                    found.push(row);
                } else {
                    after = Some(row.number.to_string());
                }
            }
            if is_last {
                break None;
            }
            if looked_at >= MOST_LOOKS {
                break after;
            }
        };
        Ok(answer(&Page { name: "numbers", items: &found, shown: NumberJson, next: next.as_ref().map(write_cursor) }))
    })
    .await
}

// ---- stream ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamWanted {
    from: Option<String>,
    #[serde(default)]
    evidence: bool,
}

async fn verdicts(
    State(shared): State<Arc<Shared>>,
    OfAccount(account): OfAccount,
    Wanted(wanted): Wanted<StreamWanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let from = match (last, wanted.from.as_deref()) {
        (Some(id), _) => {
            let place = parse_place(id).ok_or_else(|| Problem::bad_request("Last-Event-ID is partition:offset, as the stream's events have it"))?;
            stream::From::After(place)
        }
        (None, Some("start")) => stream::From::Start,
        (None, None | Some("end")) => stream::From::End,
        (None, Some(_)) => return Err(Problem::bad_request("from is start or end")),
    };
    blocking(move || stream::follow(&shared, &account, from, wanted.evidence)).await
}

// ---- the service itself ----

async fn healthz() -> Response {
    answer(&json!({ "status": "alive" }))
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    shared.ready()?;
    Ok(answer(&json!({ "status": "ready" })))
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let (readiness, asked) = (shared.held.now(), shared.clone());
    metrics::gauge!("callsieve_ready").set(f64::from(u8::from(readiness == Readiness::Ready)));
    metrics::gauge!("callsieve_partitions").set(shared.held.up().len() as f64);
    metrics::gauge!("callsieve_bring_up_partitions").set(shared.held.bringing_up() as f64);
    let left = if let Readiness::BringingUp { done, total } = readiness { total.saturating_sub(done) } else { 0 };
    metrics::gauge!("callsieve_bring_up_records").set(left as f64);
    metrics::gauge!("callsieve_bring_up_seconds").set(shared.held.seconds_left().unwrap_or(0) as f64);
    let show = |partition: u32, records: i64| metrics::gauge!("callsieve_lag_records", "partition" => partition.to_string()).set(records as f64);
    // Kafka may be away; the other metrics are not.
    let _ = tokio::time::timeout(LAG_TIMEOUT, tokio::task::spawn_blocking(move || asked.tell_lag(show))).await;
    shared.metrics.run_upkeep();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render()).into_response())
}

// ---- answers ----

/// Items under their name, and where the next ones begin.
struct Page<'a, T, F> {
    name: &'static str,
    items: &'a [T],
    shown: F,
    next: Option<String>,
}

impl<'a, T, J: Serialize, F: Fn(&'a T) -> J> Serialize for Page<'a, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.name, &Items(self.items, &self.shown))?;
        map.serialize_entry("next_cursor", &self.next)?;
        map.end()
    }
}

struct Items<'a, 'f, T, F>(&'a [T], &'f F);

impl<'a, T, J: Serialize, F: Fn(&'a T) -> J> Serialize for Items<'a, '_, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(self.0.len()))?;
        for item in self.0 {
            sequence.serialize_element(&(self.1)(item))?;
        }
        sequence.end()
    }
}

fn answer(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => Problem::unavailable(&error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
    use crate::log::system_clock;
    use crate::roles::held::Held;
    use crate::roles::rate::Rates;
    use crate::state::database::{DatabaseOptions, Engine};
    use std::future::IntoFuture;
    use tokio::sync::watch;

    #[test]
    fn only_loopback_names_are_answered_without_a_token() {
        for (host, is) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:8080", true),
            ("127.8.8.8", true),
            ("[::1]:8080", true),
            ("example.com", false),
            ("localhost.example.com", false),
            ("10.0.0.1:8080", false),
            ("[2001:db8::1]:80", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            assert_eq!(is_loopback_host(&headers), is, "{host}");
        }
    }

    fn account_in(partition: u32, partitions: u32) -> String {
        (1..).map(|id: u32| id.to_string()).find(|id| crate::log::partition_of(id, partitions) == partition).unwrap()
    }

    #[tokio::test]
    async fn readyz_says_how_far_the_state_is_brought_up() {
        let folder = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
        let log = EmbeddedLog::open(folder.path(), &Engine::new(&DatabaseOptions::default()), &options).unwrap();
        let held = Arc::new(Held::default());
        let (_stop, stopping) = watch::channel(false);
        let ingress = ingress::Ingress {
            appender: Arc::new(log.appender()),
            clock: system_clock(),
            verification_token: None,
            body_limit: 1 << 20,
            rates: Rates::new(1),
        };
        let shared = Shared {
            appender: Arc::new(log.appender()),
            ingress: Arc::new(ingress),
            reader: log.reader(),
            partitions: 4,
            held: held.clone(),
            others: None,
            clock: system_clock(),
            stop: stopping,
            api_token: None,
            metrics: instruments::recorder().unwrap(),
            telling_lag: std::sync::Mutex::default(),
            stream_reads: stream::reads(4),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(axum::serve(listener, router(Arc::new(shared))).into_future());
        // By murmur2 modulo 4: in partition 0, and in another.
        let (here, there) = (account_in(0, 4), account_in(3, 4));
        let tell = |holding| held.tell(0, 0, holding);
        let rows: [(&str, &dyn Fn(), _, _, _, _); 4] = [
            ("nothing is held yet", &|| (), 503, "no partition yet", json!([0, 0]), 503),
            ("it is brought up", &|| tell(Holding::BringingUp { done: 3, total: 10 }), 503, "being brought up", json!([3, 10]), 503),
            ("it is up", &|| tell(Holding::Up(log.database(0).unwrap())), 200, "", json!([null, null]), 421),
            ("it has stopped", &|| held.stopped(), 503, "stopping", json!([null, null]), 503),
        ];
        for (at, happens, status, why, records, elsewhere) in rows {
            happens();
            let answer = reqwest::get(format!("{base}/api/v1/accounts/{there}/calls")).await.unwrap();
            assert_eq!(answer.status(), elsewhere, "of a partition that isn't held, when {at}");
            // Nor is anything told from a state that is behind.
            for path in ["/readyz", "/api/v1/accounts", &format!("/api/v1/accounts/{here}/numbers")] {
                let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
                assert_eq!(answer.status(), status, "{path}, when {at}");
                assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), status == 503, "{path}, when {at}");
                let body: serde_json::Value = answer.json().await.unwrap();
                assert!(body["detail"].as_str().unwrap_or_default().contains(why), "{path}, when {at}: {body}");
                assert_eq!(json!([body["records_done"], body["records_total"]]), records, "{path}, when {at}");
                assert_eq!(body["seconds_left"].is_u64(), at == "it is brought up", "{path}, when {at}: {body}");
            }
            if at == "it is brought up" {
                let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
                let gauge = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
                assert_eq!((gauge("callsieve_ready"), gauge("callsieve_bring_up_records")), (Some(0.0), Some(7.0)), "{metrics}");
                assert!(gauge("callsieve_bring_up_seconds").is_some_and(|seconds| seconds >= 1.0), "{metrics}");
            }
            let documents =
                reqwest::Client::new().post(format!("{base}/api/v1/accounts/{here}/documents")).header("content-type", "application/json");
            let numbers = r#"{"records": [{"id": 1, "phoneNumber": "+12055550101", "usageType": "DirectNumber"}]}"#;
            assert_eq!(documents.body(numbers).send().await.unwrap().status(), status, "the country stands in the state, when {at}");
            assert_eq!(reqwest::get(format!("{base}/healthz")).await.unwrap().status(), 200, "when {at}");
        }
        server.abort();
    }

    #[test]
    fn settings_are_checked() {
        let account = AccountId::parse("1").unwrap();
        let check = |body: &str| serde_json::from_str::<SettingsBody>(body).map_err(|e| e.to_string()).map(|b| b.checked(account.clone(), 7).is_ok());
        for (body, good) in [
            ("{}", Some(true)),
            (r#"{"filter_internal":true,"country":"gb","queries":["DIRECTORY"]}"#, Some(true)),
            (r#"{"country":"XX"}"#, Some(false)),
            (r#"{"queries":["NOPE"]}"#, Some(false)),
            (r#"{"queries":["UNKNOWN"]}"#, Some(false)),
            (r#"{"recorded_extensions":[""]}"#, Some(false)),
            (r#"{"filter":true}"#, None),
            ("[]x", None),
        ] {
            assert_eq!(check(body).ok(), good, "{body}");
        }
        let plain = SettingsBody::default().checked(account.clone(), 0).unwrap();
        assert_eq!(plain, AccountSettings::defaults(account));
    }
}
