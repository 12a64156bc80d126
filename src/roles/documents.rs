//! An operator's documents: lists of numbers and call logs that were read elsewhere, for an account that callsieve isn't connected to.

use super::api::{OfAccount, Wanted};
use super::problem::Problem;
use super::shared::{Shared, blocking};
use crate::event::{AccountId, Event, Millis, SnapshotCompleted, encode_event};
use crate::judge::number::Country;
use crate::log::{Headers, Input, LogError};
use crate::ringcentral::documents::{Asked, read_document};
use crate::state::tables;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// The largest request.
pub(super) const LIMIT: usize = 64 << 20;

/// What goes with the documents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DocumentsWanted {
    /// The company's own numbers of finished call-log records join the snapshot (design R4).
    #[serde(default = "yes")]
    history: bool,
    /// With these the snapshot is complete: the account's calls get their verdicts.
    #[serde(default)]
    complete: bool,
}

fn yes() -> bool {
    true
}

/// Takes in a JSON document, or JSON Lines; all of it or, with an unreadable part, nothing.
pub(super) async fn receive(
    State(shared): State<Arc<Shared>>,
    OfAccount(account): OfAccount,
    Wanted(wanted): Wanted<DocumentsWanted>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    // A page in the operator's browser can send other types unasked; for these the browser asks first, and is not allowed.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).and_then(|kind| kind.split(';').next()).map(str::trim);
    if !matches!(kind, Some("application/json" | "application/x-ndjson")) {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "documents are application/json, or application/x-ndjson for JSON Lines"));
    }
    let body = body.map_err(|error| {
        let is_large = error.status() == StatusCode::PAYLOAD_TOO_LARGE;
        let large = || format!("one request has at most {} MiB of documents: send them in several, and complete=true with the last", LIMIT >> 20);
        Problem::new(error.status(), if is_large { large() } else { error.body_text() })
    })?;
    let received_at = (shared.clock)();
    let (known, of) = (shared.clone(), account.clone());
    let mut events = blocking(move || read(&known, &of, &body, received_at, wanted.history)).await?;
    let numbers = events.iter().map(|event| if let Event::NumbersObserved(observed) = event { observed.numbers.len() } else { 0 }).sum::<usize>();
    if wanted.complete {
        events.push(Event::SnapshotCompleted(SnapshotCompleted {
            account_id: account.clone(),
            sync_id: format!("documents-{received_at}").into(),
            completed_at: received_at,
            numbers_seen: i64::try_from(numbers).unwrap_or(i64::MAX),
        }));
    }
    let input = |event| Input { account: account.to_string(), value: encode_event(event), headers: Headers::new() };
    shared.appender.append_all(events.iter().map(input).collect()).await.map_err(|error| refused(&error))?;
    Ok(axum::Json(json!({ "events": events.len(), "numbers": numbers, "complete": wanted.complete })).into_response())
}

/// The events of a body, or why one of its documents can't be taken in.
fn read(shared: &Shared, account: &AccountId, body: &[u8], received_at: Millis, history: bool) -> Result<Vec<Event>, Problem> {
    // The country to read numbers with stands in the state.
    let database = shared.database(account)?;
    let known = tables::account(&database, account).map_err(|error| Problem::unavailable(&error))?;
    let country = known.and_then(|known| Country::parse(&known.settings?.country)).unwrap_or(Country::DEFAULT);
    let asked = Asked { account: Some(account), received_at: Some(received_at), country, history };

    let mut events = Vec::new();
    let lines = serde_json::Deserializer::from_slice(body).into_iter::<&serde_json::value::RawValue>();
    for (n, document) in lines.enumerate() {
        let unreadable = |reason: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("document {}: {reason}", n + 1));
        let document = document.map_err(|error| unreadable(error.to_string()))?;
        let read = read_document(document.get().as_bytes(), &asked).map_err(|error| unreadable(error.to_string()))?;
        if let Some(reason) = read.unreadable.first() {
            return Err(unreadable(reason.to_string()));
        }
        if let Some(other) = read.events.iter().filter_map(Event::account_id).find(|other| *other != account) {
            return Err(unreadable(format!("it is of account {other}, not of {account}")));
        }
        events.extend(read.events);
    }
    Ok(events)
}

fn refused(error: &LogError) -> Problem {
    match error {
        LogError::TooLarge { bytes, most, .. } => {
            let detail = format!("a record comes to an event of {bytes} bytes, and the log takes at most {most}; nothing was taken in");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        error => Problem::of_log(error),
    }
}
