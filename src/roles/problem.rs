//! Errors over HTTP: problem documents (RFC 9457, `application/problem+json`), for what fails here and for what the router refuses.

use crate::log::LogError;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// The media type.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem document on its way out. Its type is `about:blank`: the status tells the kind, the detail what to do about it.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem; `detail` is for the person who reads it, and holds nothing secret.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), more: Map::new(), headers: Vec::new() }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says when to come again.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The caller's fault.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// There is no such thing.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The log or the state fails. What they say is for the operator, and goes to the diagnostics; the caller learns that it is for now.
    #[must_use]
    pub fn unavailable(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the log or the state can't be used at the moment; the service's own log says why").retry_after(5)
    }
}

impl Problem {
    /// What could not be appended, for who can send it again.
    #[must_use]
    pub fn of_log(error: &LogError) -> Self {
        match error {
            LogError::Away { .. } => {
                let detail = "Kafka is away, or what came in meanwhile is still on its way to it; nothing was taken in, so send it again later";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
            }
            error => Self::unavailable(error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.more;
        body.insert("type".into(), json!("about:blank"));
        body.insert("title".into(), json!(self.status.canonical_reason().unwrap_or("Error")));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("detail".into(), json!(self.detail));
        let mut response = Response::new(Body::from(Value::Object(body).to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response.headers_mut().extend(self.headers);
        response
    }
}

/// Turns every other error into a problem document: those of the router, of layers, of what axum itself refuses.
pub async fn as_problems(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let detail = match status {
        StatusCode::NOT_FOUND => format!("there is nothing at {}", shortened(&path)),
        StatusCode::METHOD_NOT_ALLOWED => format!("{method} is not served at {}", shortened(&path)),
        StatusCode::REQUEST_TIMEOUT if method == Method::GET => "the request took more than 20 s".to_owned(),
        StatusCode::REQUEST_TIMEOUT => {
            "the request took more than 20 s, its body included: send less at once. What came with it may have been taken in; sending it again does no harm".to_owned()
        }
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too large".to_owned(),
        _ => "the request was refused".to_owned(),
    };
    let allow = response.headers().get(header::ALLOW).cloned();
    let problem = Problem::new(status, detail);
    match allow {
        Some(allow) => problem.header(header::ALLOW, allow),
        None => problem,
    }
    .into_response()
}

fn shortened(path: &str) -> String {
    path.chars().take(200).collect()
}
