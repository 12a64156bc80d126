//! What the clients have in common: where their words go, and how their errors are told.

use super::settings::KafkaSettings;
use crate::log::LogError;
use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::time::Duration;

/// How long a request to Kafka may take before it counts as failed.
pub(super) const REQUEST: Duration = Duration::from_secs(10);
/// How long a broker that is there takes to answer at most.
pub(super) const AT_ONCE: Duration = Duration::from_secs(2);

/// Tells what librdkafka says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told;

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // Passed settings go to all clients, also to those that have no use for them.
            _ if facility == "CONFWARN" && message.contains("property and will be ignored by this") => tracing::debug!(facility, "kafka: {message}"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(facility, "kafka: {message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(facility, "kafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // What concerns a request comes back with it; this is about connections, which are tried again.
        tracing::debug!("kafka: {error}: {reason}");
    }
}

impl ConsumerContext for Told {}

/// A client for what is asked of the cluster itself. It takes up to 100 ms to be dropped: so long its own thread doesn't look whether it is to end.
pub struct Admin(AdminClient<Told>);

impl Admin {
    /// Makes the client; it connects when it is asked for something.
    ///
    /// # Errors
    /// For settings that the client refuses.
    pub fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        settings.client().create_with_context(Told).map(Self).map_err(failed("making a client"))
    }

    pub(super) fn client(&self) -> &AdminClient<Told> {
        &self.0
    }
}

/// An error of Kafka's, with what was tried.
pub(super) fn failed(operation: impl Into<String>) -> impl FnOnce(KafkaError) -> LogError {
    let operation = operation.into();
    move |error| {
        let why = words(&error);
        if is_refusal(&error) { LogError::Refused { operation, why } } else { LogError::Kafka { operation, why } }
    }
}

/// Whether trying again will end in the same way until somebody changes something.
pub(super) fn is_refusal(error: &KafkaError) -> bool {
    let code = match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => return true,
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    };
    matches!(
        code,
        Some(
            RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
        )
    )
}

/// The client's words, without its type's name, and without a setting's value, which may be a password.
pub(super) fn words(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, what, name, _) => format!("{what} ({name})"),
        KafkaError::Transaction(error) => error.string(),
        other => other.to_string(),
    }
}

/// A partition as Kafka numbers it.
pub(super) fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}
