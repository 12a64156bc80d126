//! A client of RingCentral's REST interface: signs in, keeps to the rate limits, and walks lists page by page.
//!
//! It gives pages as they came; [`super::documents`] reads them. What it reads itself is what it needs to go on: tokens, paging, ids.

use bytes::Bytes;
use rand::Rng;
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use std::time::Duration;
use tokio::sync::Mutex;

/// A request is tried so often before its error is given up to.
const MOST_TRIES: u32 = 6;
/// The first pause after a fault; each further one is twice as long, and up to half longer by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest time that a server may make us wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// How long to wait where too many were sent and nothing says for how long: each further one would begin the penalty anew (ringcentral.md E).
const PENALTY: Duration = Duration::from_secs(60);
/// An answer takes no longer.
const TIMEOUT: Duration = Duration::from_secs(30);
const JWT_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Where RingCentral is, and who asks.
#[derive(Clone)]
pub struct Access {
    /// Base of its addresses, such as `https://platform.ringcentral.com`.
    pub base: String,
    /// The app's client id.
    pub client_id: String,
    /// The app's secret.
    pub client_secret: String,
    /// The user's JWT.
    pub jwt: String,
}

/// Why a request had no answer of use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing came back.
    #[error("{path}: no answer from RingCentral: {source}")]
    Network {
        /// What was asked for.
        path: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// An error came back.
    #[error("{path}: RingCentral answers {status}: {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The status.
        status: StatusCode,
        /// RingCentral's words, or the beginning of the body.
        message: String,
    },
    /// Something else came back than should.
    #[error("{path}: RingCentral's answer can't be read: {reason}")]
    Unreadable {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A client of one user.
pub struct Client {
    http: reqwest::Client,
    access: Access,
    token: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

/// What tells whether a list goes on.
#[derive(Deserialize)]
struct Listed {
    records: Vec<IgnoredAny>,
    navigation: Option<Navigation>,
    paging: Option<Paging>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Navigation {
    next_page: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paging {
    total_pages: Option<u64>,
}

impl Listed {
    /// Some lists say whether there is a next page, some how many there are, some neither: then a short page is the last.
    fn goes_on(&self, page: usize, per_page: usize) -> bool {
        if self.records.is_empty() {
            return false;
        }
        if let Some(navigation) = &self.navigation {
            return navigation.next_page.is_some();
        }
        match self.paging.as_ref().and_then(|paging| paging.total_pages) {
            Some(pages) => (page as u64) < pages,
            None => self.records.len() >= per_page,
        }
    }
}

/// Something with an id, a number or a text.
#[derive(Deserialize)]
struct WithId {
    id: serde_json::Value,
}

impl WithId {
    fn text(&self) -> Option<String> {
        match &self.id {
            serde_json::Value::String(id) => Some(id.clone()),
            serde_json::Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct WithIds {
    records: Vec<WithId>,
}

impl Client {
    /// A client that signs in when it first asks for something.
    ///
    /// # Errors
    /// If the system's TLS can't be set up.
    pub fn new(access: Access) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
        let http = http.map_err(|source| ClientError::Network { path: access.base.clone(), source })?;
        Ok(Self { http, access, token: Mutex::new(None) })
    }

    /// One document.
    ///
    /// # Errors
    /// If RingCentral gives no answer after several tries, refuses, or doesn't let us sign in.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Bytes, ClientError> {
        let url = format!("{}{path}", self.access.base);
        self.signed_in(path, || self.http.request(Method::GET, &url).query(query)).await
    }

    /// The pages of a list, one after another, each given to `take` as it comes.
    ///
    /// # Errors
    /// As [`Client::get`], also if a page is no list, and what `take` says.
    pub async fn pages<E: From<ClientError>>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        per_page: usize,
        mut take: impl AsyncFnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = per_page.to_string();
        for page in 1.. {
            let number = page.to_string();
            let mut asked = query.to_vec();
            asked.extend([("page", number.as_str()), ("perPage", size.as_str())]);
            let body = self.get(path, &asked).await?;
            let listed: Listed = read(path, &body)?;
            take(body).await?;
            if !listed.goes_on(page, per_page) {
                break;
            }
        }
        Ok(())
    }

    /// The id that a document has.
    ///
    /// # Errors
    /// If it is no JSON with an id that is a number or a text.
    pub fn id_of(path: &str, document: &[u8]) -> Result<String, ClientError> {
        let id = read::<WithId>(path, document)?.text();
        id.ok_or_else(|| ClientError::Unreadable { path: path.to_owned(), reason: "its id is neither a number nor a text".to_owned() })
    }

    /// The ids of a list's records.
    ///
    /// # Errors
    /// If it is no list of records. One whose id says nothing is left out.
    pub fn ids_in(path: &str, list: &[u8]) -> Result<Vec<String>, ClientError> {
        Ok(read::<WithIds>(path, list)?.records.iter().filter_map(WithId::text).collect())
    }

    /// Subscribes an address to notifications about an account's calls and directory.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn subscribe(&self, address: &str, verification_token: &str) -> Result<(), ClientError> {
        let account = "/restapi/v1.0/account/~";
        let wish = json!({
            "eventFilters": [
                format!("{account}/telephony/sessions"),
                format!("{account}/directory/entries"),
                format!("{account}/extension"),
                format!("{account}/phone-number"),
            ],
            "deliveryMode": { "transportType": "WebHook", "address": address, "verificationToken": verification_token },
            "expiresIn": 604_800,
        });
        let path = "/restapi/v1.0/subscription";
        let url = format!("{}{path}", self.access.base);
        self.signed_in(path, || self.http.post(&url).json(&wish)).await.map(drop)
    }

    /// Sends a request with the access token, and with a new one where that has run out.
    async fn signed_in(&self, path: &str, request: impl Fn() -> RequestBuilder) -> Result<Bytes, ClientError> {
        let token = self.token(None).await?;
        match self.send(path, || request().bearer_auth(&token)).await {
            Err(ClientError::Refused { status: StatusCode::UNAUTHORIZED, .. }) => {
                let token = self.token(Some(&token)).await?;
                self.send(path, || request().bearer_auth(&token)).await
            }
            done => done,
        }
    }

    /// The access token; a new one if there is none, or only the refused one.
    async fn token(&self, refused: Option<&str>) -> Result<String, ClientError> {
        // Held while signing in, so that many requests sign in once.
        let mut held = self.token.lock().await;
        if let Some(token) = held.as_deref()
            && refused != Some(token)
        {
            return Ok(token.to_owned());
        }
        let path = "/restapi/oauth/token";
        let url = format!("{}{path}", self.access.base);
        let form = [("grant_type", JWT_GRANT), ("assertion", self.access.jwt.as_str())];
        let sign_in = || self.http.post(&url).basic_auth(&self.access.client_id, Some(&self.access.client_secret)).form(&form);
        let body = self.send(path, sign_in).await?;
        let token: Token = read(path, &body)?;
        Ok(held.insert(token.access_token).clone())
    }

    /// Sends until there is an answer that waiting doesn't change.
    async fn send(&self, path: &str, request: impl Fn() -> RequestBuilder) -> Result<Bytes, ClientError> {
        let mut pause = FIRST_PAUSE;
        for tries in 1.. {
            let error = match self.once(path, request()).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            let Some(asked) = error.pause.filter(|_| tries < MOST_TRIES) else { return Err(error.error) };
            let wait = asked.unwrap_or_else(|| pause.mul_f64(rand::rng().random_range(1.0..1.5)));
            tracing::warn!(path, milliseconds = wait.as_millis() as u64, error = %error.error, "asking RingCentral again");
            tokio::time::sleep(wait.min(LONGEST_PAUSE)).await;
            pause = pause.saturating_mul(2);
        }
        unreachable!("the last try returns")
    }

    async fn once(&self, path: &str, request: RequestBuilder) -> Result<Bytes, Failure> {
        let network = |source| Failure { error: ClientError::Network { path: path.to_owned(), source }, pause: Some(None) };
        let answer = request.send().await.map_err(network)?;
        let status = answer.status();
        let asked = answer.headers().get(header::RETRY_AFTER).and_then(|seconds| seconds.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let body = answer.bytes().await.map_err(network)?;
        if status.is_success() {
            return Ok(body);
        }
        let is_limited = status == StatusCode::TOO_MANY_REQUESTS;
        let again = is_limited || status.is_server_error();
        let asked = asked.or(is_limited.then_some(PENALTY));
        let error = ClientError::Refused { path: path.to_owned(), status, message: words_of(&body) };
        Err(Failure { error, pause: again.then_some(asked) })
    }
}

/// An error, and whether to try again: after the time that the server gave, or after one of our own.
struct Failure {
    error: ClientError,
    pause: Option<Option<Duration>>,
}

fn read<'a, T: Deserialize<'a>>(path: &str, body: &'a [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|e| ClientError::Unreadable { path: path.to_owned(), reason: e.to_string() })
}

fn words_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        message: Option<String>,
        error_description: Option<String>,
    }
    let said = serde_json::from_slice::<Said>(body).ok().and_then(|said| said.message.or(said.error_description));
    said.unwrap_or_else(|| String::from_utf8_lossy(body).chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_as_it_says_or_while_its_pages_are_full() {
        for (list, page, goes_on) in [
            (r#"{"records":[1,2],"navigation":{"nextPage":{"uri":"x"}}}"#, 1, true),
            (r#"{"records":[1,2],"navigation":{"firstPage":{"uri":"x"}}}"#, 1, false),
            (r#"{"records":[1,2],"paging":{"totalPages":2}}"#, 1, true),
            (r#"{"records":[1,2],"paging":{"totalPages":2}}"#, 2, false),
            (r#"{"records":[1,2],"paging":{}}"#, 1, true),
            (r#"{"records":[1]}"#, 1, false),
            (r#"{"records":[],"navigation":{"nextPage":{"uri":"x"}}}"#, 1, false),
        ] {
            assert_eq!(serde_json::from_str::<Listed>(list).unwrap().goes_on(page, 2), goes_on, "{list}");
        }
    }

    #[test]
    fn ids_are_numbers_or_texts() {
        assert_eq!(Client::id_of("/", br#"{"id":37439510}"#).unwrap(), "37439510");
        assert_eq!(Client::ids_in("/", br#"{"records":[{"id":"1"},{"id":2},{"id":null}]}"#).unwrap(), ["1", "2"]);
    }
}
