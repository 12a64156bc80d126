//! Requests that concern partitions of other instances: passed on to the one that holds them, once.

use super::api::API;
use super::held::Holding;
use super::holders::Holders;
use super::problem::Problem;
use super::shared::{Shared, blocking};
use crate::event::AccountId;
use crate::log::{Committed, LogError, partition_of};
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header, request};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Marks a request that was passed on: it isn't passed on again.
const FORWARDED: HeaderName = HeaderName::from_static("callsieve-forwarded");
/// How long a connection to another instance may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long its answer may take; below what a whole request may.
const ANSWER: Duration = Duration::from_secs(15);
/// Headers that are passed on with a request.
const PASSED: [HeaderName; 3] = [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT];

/// The other instances.
pub(super) struct Others {
    holders: Holders,
    http: reqwest::Client,
}

impl Others {
    pub fn new(holders: Holders, http: reqwest::Client) -> Self {
        Self { holders, http }
    }

    /// How far each partition is committed, by partition. Asks Kafka, so it is for where blocking is allowed.
    ///
    /// # Errors
    /// As [`Holders::committed`].
    pub fn committed(&self) -> Result<Vec<Option<Committed>>, LogError> {
        self.holders.committed()
    }

    /// What they are asked with. It reads the system's certificates, which takes a while.
    ///
    /// # Errors
    /// If the system's TLS can't be set up.
    pub fn client() -> reqwest::Result<reqwest::Client> {
        // Addresses are the operator's, so a proxy of the environment has no business here.
        reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).timeout(ANSWER).redirect(reqwest::redirect::Policy::none()).build()
    }

    /// Where a partition is held, if that is elsewhere. A Kafka that gives no answer leaves it open.
    fn holder(&self, partition: u32) -> Option<String> {
        let all = self.holders.all().map_err(|error| tracing::debug!("looking for a partition's holder: {error}")).ok()?;
        all.get(partition as usize).cloned().flatten().filter(|address| !self.holders.is_own(address))
    }

    async fn send(&self, address: &str, parts: &request::Parts, body: axum::body::Bytes) -> Result<Response, Problem> {
        // Without the API's own prefix, as routes below it see it.
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers: HeaderMap = PASSED.iter().filter_map(|name| Some((name.clone(), parts.headers.get(name)?.clone()))).collect();
        headers.insert(FORWARDED, header::HeaderValue::from_static("1"));
        let request = self.http.request(parts.method.clone(), format!("{address}{API}{path}")).headers(headers).body(body);
        match request.send().await {
            Ok(answer) => Ok(axum::http::Response::<reqwest::Body>::from(answer).map(Body::new)),
            Err(error) => {
                self.holders.forget();
                tracing::warn!(%error, holder = address, "an instance that holds a partition can't be reached");
                let (status, what) = if error.is_timeout() && !error.is_connect() {
                    (StatusCode::GATEWAY_TIMEOUT, "gave no answer")
                } else {
                    (StatusCode::BAD_GATEWAY, "can't be reached")
                };
                Err(Problem::new(status, format!("the instance that holds the account {what}; if it is gone, another takes its place"))
                    .retry_after(1))
            }
        }
    }
}

/// Whether another instance has passed the request on.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED)
}

/// Lets the instance answer that holds the account of the path. Where none is known, the request stays here, and is answered with 421.
pub(super) async fn pass_on(State(shared): State<Arc<Shared>>, params: RawPathParams, request: Request, next: Next) -> Result<Response, Problem> {
    let account = params.iter().find(|(name, _)| *name == "account").and_then(|(_, account)| AccountId::parse(account).ok());
    let (Some(others), Some(account)) = (shared.others.clone(), account) else { return Ok(next.run(request).await) };
    let partition = shared.partition(&account);
    if is_forwarded(request.headers()) || !matches!(shared.held.partition(partition), Holding::Closed) {
        return Ok(next.run(request).await);
    }
    let asked = others.clone();
    let Some(address) = blocking(move || Ok(asked.holder(partition))).await? else { return Ok(next.run(request).await) };
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, super::documents::LIMIT).await;
    let body = body.map_err(|_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or was cut off"))?;
    others.send(&address, &parts, body).await
}

/// An account as its holder shows it.
pub(super) struct ListedAccount {
    pub id: String,
    shown: Box<RawValue>,
}

impl ListedAccount {
    pub fn new(id: String, shown: Box<RawValue>) -> Self {
        Self { id, shown }
    }

    pub fn shown(&self) -> &RawValue {
        &self.shown
    }
}

/// What is read of a holder's list.
#[derive(Deserialize)]
struct List {
    accounts: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Named {
    account_id: String,
}

/// The accounts that the holders of these partitions list.
pub(super) async fn accounts(shared: &Shared, parts: &request::Parts, partitions: BTreeSet<u32>) -> Result<Vec<ListedAccount>, Problem> {
    let unknown = |partition: u32| {
        let detail = format!("nobody holds partition {partition} at the moment, so its accounts can't be listed");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with("partition", json!(partition)).retry_after(1)
    };
    let Some(first) = partitions.first() else { return Ok(Vec::new()) };
    let others = shared.others.clone().ok_or_else(|| unknown(*first))?;
    let (asked, wanted) = (others.clone(), partitions.clone());
    let mut at: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for (partition, holder) in
        blocking(move || Ok(wanted.into_iter().map(|partition| (partition, asked.holder(partition))).collect::<Vec<_>>())).await?
    {
        at.entry(holder.ok_or_else(|| unknown(partition))?).or_default().insert(partition);
    }
    let others = &others;
    let answers = at.iter().map(|(address, of)| async move {
        let answer = others.send(address, parts, axum::body::Bytes::new()).await?;
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), super::documents::LIMIT).await.unwrap_or_default();
        let Ok(list) = serde_json::from_slice::<List>(&body) else {
            tracing::warn!(holder = address, %status, "an instance doesn't list its accounts");
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "an instance that holds accounts doesn't list them at the moment").retry_after(1));
        };
        let named = list.accounts.into_iter().filter_map(|shown| {
            let Named { account_id: id } = serde_json::from_str(shown.get()).ok()?;
            Some(ListedAccount { id, shown })
        });
        // One that moves meanwhile may be listed twice; who was asked for it counts.
        Ok(named.filter(|account| of.contains(&partition_of(&account.id, shared.partitions))).collect::<Vec<_>>())
    });
    Ok(futures_util::future::try_join_all(answers).await?.into_iter().flatten().collect())
}
