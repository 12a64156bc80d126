//! The webhook's address: takes notifications in, and answers 200 when they are durable.
//!
//! RingCentral does not send again, and gives an address up that fails for ten minutes (ringcentral.md A). So whatever can't be
//! read gets its 200 as well, and is kept as a dead letter; only the log's failing, a limit or a wrong token is an error.

use super::problem::Problem;
use super::rate::Rates;
use super::shared::is_secret;
use crate::event::{AccountId, encode_event};
use crate::judge::number::Country;
use crate::log::Clock;
use crate::log::letter::{RECEIVED_AT, SOURCE, WEBHOOK, cause_header, cut};
use crate::log::{Appender, Headers, Input, LogError};
use crate::ringcentral::documents::{Asked, read_document};
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::sync::Arc;
use std::time::Instant;

const VALIDATION_TOKEN: HeaderName = HeaderName::from_static("validation-token");
const VERIFICATION_TOKEN: HeaderName = HeaderName::from_static("verification-token");
/// The echo and the other headers must stay within 1,024 bytes; those others take less than 200.
const MOST_ECHOED: usize = 800;

/// What the webhook's address needs: nothing of the state.
pub(super) struct Ingress {
    /// Its end of the log. On Kafka the spool stands before it.
    pub(super) appender: Arc<dyn Appender>,
    pub(super) clock: Clock,
    pub(super) verification_token: Option<String>,
    pub(super) body_limit: usize,
    pub(super) rates: Rates,
}

/// `POST /webhooks/ringcentral/{account}`.
pub(super) async fn receive(
    State(ingress): State<Arc<Ingress>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Path(account) = path.map_err(|error| Problem::bad_request(error.body_text()))?;
    let account = AccountId::parse(&account).map_err(|error| Problem::not_found(error.to_string()))?;
    let echo = headers.get(VALIDATION_TOKEN);
    if let Some(echo) = echo {
        // Any time, and without the token: RingCentral may ask before it has one. What is an event goes on below.
        let body = read_body(body, ingress.body_limit).await?;
        if !is_event(&body) {
            return accepted(Some(echo));
        }
        return take(&ingress, &account, &headers, body).await;
    }
    admit(&ingress, &account, &headers)?;
    let body = read_body(body, ingress.body_limit).await?;
    store(&ingress, &account, &body).await?;
    accepted(None)
}

/// An event that carries a `Validation-Token`: older notifications do.
async fn take(ingress: &Ingress, account: &AccountId, headers: &HeaderMap, body: Bytes) -> Result<Response, Problem> {
    admit(ingress, account, headers)?;
    store(ingress, account, &body).await?;
    accepted(headers.get(VALIDATION_TOKEN))
}

/// 200 without a body. The content type is wanted all the same (ringcentral.md A, SUB-525).
fn accepted(echo: Option<&HeaderValue>) -> Result<Response, Problem> {
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(echo) = echo {
        if echo.len() > MOST_ECHOED {
            return Err(Problem::bad_request(format!("a Validation-Token has at most {MOST_ECHOED} bytes")));
        }
        response.headers_mut().insert(VALIDATION_TOKEN, echo.clone());
    }
    Ok(response)
}

/// Looks at the token and the rate, before the body is read.
fn admit(ingress: &Ingress, account: &AccountId, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(secret) = &ingress.verification_token
        && !headers.get(VERIFICATION_TOKEN).is_some_and(|given| is_secret(given.as_bytes(), secret))
    {
        count("unauthorized");
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "the Verification-Token is missing or wrong"));
    }
    ingress.rates.take(account, Instant::now()).map_err(|wait| {
        count("limited");
        let seconds = wait.as_secs().saturating_add(1);
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "more notifications than this account may send").retry_after(seconds)
    })
}

async fn read_body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let mut parts = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| Problem::bad_request("the body broke off"))?;
        if whole.len() + part.len() > limit {
            count("too_large");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a notification has at most {limit} bytes")));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.into())
}

/// What tells an event from a handshake.
#[derive(Deserialize)]
struct Envelope {
    event: Option<IgnoredAny>,
    uuid: Option<IgnoredAny>,
    pn_apns: Option<IgnoredAny>,
}

/// Whether a body says something. One that is no JSON isn't a handshake either: it is kept.
fn is_event(body: &[u8]) -> bool {
    if body.trim_ascii().is_empty() {
        return false;
    }
    serde_json::from_slice::<Envelope>(body).map_or(true, |e| e.event.is_some() || e.uuid.is_some() || e.pn_apns.is_some())
}

/// Appends what the body says, and as a dead letter what it doesn't.
async fn store(ingress: &Ingress, account: &AccountId, body: &[u8]) -> Result<(), Problem> {
    let received_at = (ingress.clock)();
    let (inputs, cause) = read(account, body, received_at);
    if !inputs.is_empty() {
        match ingress.appender.append_all(inputs).await {
            Ok(_) => {}
            Err(error @ LogError::TooLarge { .. }) => return bury(ingress, account, body, received_at, &error.to_string()).await,
            Err(error) => return Err(failed(&error)),
        }
    }
    match cause {
        Some(cause) => bury(ingress, account, body, received_at, &cause).await,
        None => {
            count("accepted");
            Ok(())
        }
    }
}

/// The events of a body as input, and what is wrong with it.
pub(super) fn read(account: &AccountId, body: &[u8], received_at: i64) -> (Vec<Input>, Option<String>) {
    let asked = Asked { account: Some(account), received_at: Some(received_at), country: Country::DEFAULT, history: false };
    let document = match read_document(body, &asked) {
        Ok(document) => document,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    if let Some(other) = document.events.iter().filter_map(|event| event.account_id()).find(|id| *id != account) {
        return (Vec::new(), Some(format!("it is about account {other}, and came to the address of account {account}")));
    }
    let input = |event| Input { account: account.to_string(), value: encode_event(event), headers: Headers::new() };
    (document.events.iter().map(input).collect(), document.unreadable.first().map(ToString::to_string))
}

/// Keeps a body as it came, with its cause beside it.
async fn bury(ingress: &Ingress, account: &AccountId, body: &[u8], received_at: i64, cause: &str) -> Result<(), Problem> {
    let mut headers: Headers = vec![cause_header(cause), (SOURCE.into(), WEBHOOK.into()), (RECEIVED_AT.into(), received_at.to_string().into_bytes())];
    let value = cut(body.to_vec(), &mut headers);
    let letter = Input { account: account.to_string(), value, headers };
    ingress.appender.append_dead_letter(letter).await.map_err(|error| failed(&error))?;
    count("dead_letter");
    metrics::counter!("callsieve_dead_letters_total", "source" => WEBHOOK).increment(1);
    tracing::warn!(%account, cause, "a notification could not be read");
    Ok(())
}

fn failed(error: &LogError) -> Problem {
    count("failed");
    Problem::unavailable(error)
}

/// What may become of a notification, in the metrics.
pub(super) const RESULTS: [&str; 6] = ["accepted", "dead_letter", "unauthorized", "limited", "too_large", "failed"];

fn count(result: &'static str) {
    metrics::counter!("callsieve_notifications_total", "result" => result).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_an_event_is_no_handshake() {
        for (body, event) in [
            ("", false),
            (" \n", false),
            ("{}", false),
            (r#"{"hello":1}"#, false),
            (r#"{"event":"/x"}"#, true),
            (r#"{"uuid":"1"}"#, true),
            (r#"{"pn_apns":{}}"#, true),
            ("no json", true),
            ("[]", true),
        ] {
            assert_eq!(is_event(body.as_bytes()), event, "{body}");
        }
    }

    #[test]
    fn an_address_is_one_accounts() {
        let account = AccountId::parse("37439510").unwrap();
        let body = r#"{"uuid":"1","event":"/restapi/v1.0/account/999/telephony/sessions","timestamp":"2026-01-05T08:00:00Z",
            "body":{"sequence":2,"sessionId":"5","telephonySessionId":"s-1","accountId":"999","parties":[{"id":"p-1","status":{"code":"Setup"}}]}}"#;
        let (inputs, cause) = read(&account, body.as_bytes(), 1);
        assert!(inputs.is_empty());
        assert_eq!(cause.unwrap(), "it is about account 999, and came to the address of account 37439510");
        let (inputs, cause) = read(&AccountId::parse("999").unwrap(), body.as_bytes(), 1);
        assert_eq!((inputs.len(), cause), (1, None));
    }
}
