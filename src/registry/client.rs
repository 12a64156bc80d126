//! Asking the registry. Every question waits on its thread, which is none of an async runtime's: there are a few at the start, and one for each
//! schema that was never seen before.

use super::COMPATIBILITY;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where a worker waits for it, and its other partitions with it.
const SHORT_PATIENCE: Duration = Duration::from_secs(3);
/// The largest answer that is read: a schema is some kilobytes.
const MOST_BYTES: usize = 4 << 20;
/// Error codes of Confluent's interface: no such subject, no such version, no such schema, no such setting.
const MISSING: [u64; 4] = [40401, 40402, 40403, 40408];

/// A registry, and who asks it.
#[derive(Clone, PartialEq, Eq)]
pub struct Registry {
    /// Without the user.
    url: Url,
    auth: Option<(String, String)>,
}

/// Why the registry didn't do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It can't be reached, or answers as no registry does; that passes.
    #[error("{0}")]
    Away(String),
    /// It has no such thing, and says so.
    #[error("{0}")]
    Missing(String),
    /// It refuses: the status, and its words.
    #[error("it refuses with status {0}: {1}")]
    Refused(u16, String),
}

/// A schema as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Registered {
    /// Its id, by which values name it.
    pub id: u32,
    /// Its number within the subject.
    #[serde(default)]
    pub version: u32,
    /// Its JSON.
    #[serde(default)]
    pub schema: String,
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err("it begins neither with http:// nor with https://".to_owned());
        }
        let user = (!url.username().is_empty()).then(|| (unescaped(url.username()), unescaped(url.password().unwrap_or_default())));
        // Refused by URLs without a host alone, and this one has one.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self { url, auth: user })
    }
}

fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let escaped =
            (*byte == b'%').then(|| text.get(text.len() - after.len()..)?.get(..2)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.as_str().fmt(f)
    }
}

impl Registry {
    /// The same, asked by `user:password`.
    #[must_use]
    pub fn as_user(self, auth: &str) -> Self {
        let (user, password) = auth.split_once(':').unwrap_or((auth, ""));
        Self { auth: Some((user.to_owned(), password.to_owned())), ..self }
    }

    /// The JSON of the schema with an id.
    ///
    /// # Errors
    /// If the registry is away or refuses, or has none with that id.
    pub fn schema(&self, id: u32) -> Result<String, RegistryError> {
        let answer = self.ask_with(Method::GET, &["schemas", "ids", &id.to_string()], None, None, SHORT_PATIENCE)?;
        // Avro is what it is where nothing else is said.
        match answer["schemaType"].as_str() {
            None | Some("AVRO") => {}
            Some(other) => return Ok(json!({ "it is no Avro schema, but": other }).to_string()),
        }
        answer["schema"].as_str().map(str::to_owned).ok_or_else(|| RegistryError::Away("its answer has no schema".to_owned()))
    }

    /// A schema's id under a subject, where it stands there already.
    ///
    /// # Errors
    /// [`RegistryError::Missing`] where it doesn't; any other if the registry is away or refuses.
    pub fn find(&self, subject: &str, schema: &str) -> Result<Registered, RegistryError> {
        read(self.ask(Method::POST, &["subjects", subject], Some(&json!({ "schema": schema })))?)
    }

    /// Adds a schema to a subject, and gives its id.
    ///
    /// # Errors
    /// If the registry is away, or refuses it.
    pub fn register(&self, subject: &str, schema: &str) -> Result<Registered, RegistryError> {
        read(self.ask(Method::POST, &["subjects", subject, "versions"], Some(&json!({ "schema": schema })))?)
    }

    /// Every version of a subject, the oldest first; none where there is no such subject.
    ///
    /// # Errors
    /// If the registry is away or refuses, or a version goes meanwhile.
    pub fn versions(&self, subject: &str) -> Result<Vec<Registered>, RegistryError> {
        let numbers: Vec<u32> = match self.ask(Method::GET, &["subjects", subject, "versions"], None) {
            Err(RegistryError::Missing(_)) => Vec::new(),
            answer => read(answer?)?,
        };
        numbers.iter().map(|number| read(self.ask(Method::GET, &["subjects", subject, "versions", &number.to_string()], None)?)).collect()
    }

    /// Whether the registry would take a schema, by the compatibility that the subject has there; if not, its words.
    ///
    /// # Errors
    /// If the registry is away, or refuses to tell.
    pub fn would_refuse(&self, subject: &str, schema: &str) -> Result<Option<Vec<String>>, RegistryError> {
        let path = ["compatibility", "subjects", subject, "versions"];
        let answer = match self.ask_with(Method::POST, &path, Some("verbose=true"), Some(&json!({ "schema": schema })), PATIENCE) {
            Err(RegistryError::Missing(_)) => return Ok(None),
            answer => answer?,
        };
        match answer["is_compatible"].as_bool() {
            Some(true) => Ok(None),
            Some(false) => {
                let words = answer["messages"].as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned));
                Ok(Some(words.collect()))
            }
            None => Err(RegistryError::Away("its answer doesn't say whether the schema is compatible".to_owned())),
        }
    }

    /// The compatibility that a subject has for itself.
    ///
    /// # Errors
    /// If the registry is away, or refuses to tell.
    pub fn compatibility(&self, subject: &str) -> Result<Option<String>, RegistryError> {
        match self.ask(Method::GET, &["config", subject], None) {
            Ok(answer) => Ok(answer["compatibilityLevel"].as_str().map(str::to_owned)),
            Err(RegistryError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a subject the compatibility that ours have.
    ///
    /// # Errors
    /// If the registry is away or refuses, or knows no such subject.
    pub fn set_compatibility(&self, subject: &str) -> Result<(), RegistryError> {
        self.ask(Method::PUT, &["config", subject], Some(&json!({ "compatibility": COMPATIBILITY }))).map(|_| ())
    }

    /// Sees to it that a subject has the schema and the compatibility, and gives the schema's id. What is there already takes no right to change
    /// anything.
    ///
    /// # Errors
    /// If the registry is away, or refuses anything but to set the compatibility.
    pub fn ensure(&self, subject: &str, schema: &str) -> Result<Registered, RegistryError> {
        let registered = match self.find(subject, schema) {
            Err(RegistryError::Missing(_)) => {
                // Before the first schema, so that it holds for that; some registries know no settings of a subject that has none yet, and get them
                // below.
                let _ = self.set_compatibility(subject);
                self.register(subject, schema)?
            }
            found => found?,
        };
        if self.compatibility(subject)?.as_deref() != Some(COMPATIBILITY) {
            match self.set_compatibility(subject) {
                Err(error @ RegistryError::Away(_)) => return Err(error),
                Err(refused) => tracing::warn!(subject, "the compatibility {COMPATIBILITY} can't be set in the schema registry: {refused}"),
                Ok(()) => {}
            }
        }
        Ok(registered)
    }

    fn ask(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Value, RegistryError> {
        self.ask_with(method, path, None, body, PATIENCE)
    }

    fn ask_with(&self, method: Method, path: &[&str], query: Option<&str>, body: Option<&Value>, patience: Duration) -> Result<Value, RegistryError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(query);
        let away = |error: &dyn std::error::Error| RegistryError::Away(words(error));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| away(&error))?;
        runtime.block_on(async {
            // Made anew for each question: its connections would belong to a runtime that is gone.
            let client = reqwest::Client::builder().timeout(patience).build().map_err(|error| away(&error))?;
            let mut request = client.request(method, url).header("accept", "application/vnd.schemaregistry.v1+json, application/json");
            if let Some((user, password)) = &self.auth {
                request = request.basic_auth(user, Some(password));
            }
            if let Some(body) = body {
                request = request.json(body).header("content-type", "application/vnd.schemaregistry.v1+json");
            }
            let mut answer = request.send().await.map_err(|error| away(&error.without_url()))?;
            let (status, mut bytes) = (answer.status(), Vec::new());
            while let Some(part) = answer.chunk().await.map_err(|error| away(&error.without_url()))? {
                if bytes.len() + part.len() > MOST_BYTES {
                    return Err(RegistryError::Away(format!("its answer is larger than {MOST_BYTES} bytes")));
                }
                bytes.extend_from_slice(&part);
            }
            told(status, &bytes)
        })
    }
}

/// What an answer means.
fn told(status: StatusCode, body: &[u8]) -> Result<Value, RegistryError> {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    if status.is_success() {
        return value.ok_or_else(|| RegistryError::Away("its answer is no JSON".to_owned()));
    }
    let said = value.as_ref().and_then(|value| value["message"].as_str()).map_or_else(|| status.to_string(), str::to_owned);
    let code = value.as_ref().and_then(|value| value["error_code"].as_u64());
    match status {
        StatusCode::NOT_FOUND if code.is_some_and(|code| MISSING.contains(&code)) => Err(RegistryError::Missing(said)),
        // Of no registry: what stands before it, or a wrong address.
        StatusCode::NOT_FOUND => Err(RegistryError::Away(format!("it answers as no registry does: {said}"))),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(RegistryError::Away(said)),
        status if status.is_client_error() => Err(RegistryError::Refused(status.as_u16(), said)),
        _ => Err(RegistryError::Away(said)),
    }
}

fn read<T: for<'a> Deserialize<'a>>(answer: Value) -> Result<T, RegistryError> {
    serde_json::from_value(answer).map_err(|error| RegistryError::Away(format!("its answer can't be read: {error}")))
}

/// An error with its causes, the innermost last.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_named_by_its_url_and_its_password_is_never_shown() {
        let registry: Registry = "https://me:a%2Fb%25@registry.example:8443/apis/v7/?x=1".parse().unwrap();
        assert_eq!(registry.auth, Some(("me".to_owned(), "a/b%".to_owned())));
        for shown in [registry.to_string(), format!("{registry:?}")] {
            assert_eq!(shown.trim_matches('"'), "https://registry.example:8443/apis/v7/");
        }
        assert_eq!(registry.as_user("you:p:q").auth, Some(("you".to_owned(), "p:q".to_owned())));
        for bad in ["", "registry:8081", "ftp://x", "kafka"] {
            assert!(bad.parse::<Registry>().is_err(), "{bad}");
        }
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz%41é"), "%zzAé");
    }

    #[test]
    fn only_a_registrys_own_words_say_that_something_is_missing() {
        let tell = |status: u16, body: &str| told(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert_eq!(tell(200, r#"{"id":7}"#), Ok(json!({ "id": 7 })));
        assert_eq!(tell(404, r#"{"error_code":40403,"message":"no"}"#), Err(RegistryError::Missing("no".into())));
        assert_eq!(tell(409, r#"{"error_code":409,"message":"no"}"#), Err(RegistryError::Refused(409, "no".into())));
        for (status, body) in
            [(404, "<html>"), (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#), (200, "<html>"), (503, ""), (429, "{}")]
        {
            assert!(matches!(tell(status, body), Err(RegistryError::Away(_))), "{status} {body}");
        }
    }

    #[test]
    fn a_registry_that_is_not_there_is_away() {
        let registry: Registry = "http://127.0.0.1:1".parse().unwrap();
        assert!(matches!(registry.schema(1), Err(RegistryError::Away(why)) if why.contains("refused")));
    }
}
