//! What the handlers of the HTTP interface share.

use super::problem::Problem;
use super::rate::Rates;
use crate::event::AccountId;
use crate::log::Topic;
use crate::log::embedded::{Clock, EmbeddedAppender, EmbeddedReader};
use crate::log::{Reader, partition_of};
use crate::state::database::Database;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// How far the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its partitions are being brought up.
    BringingUp {
        /// Records read.
        done: u64,
        /// Records that there are to read, as far as is known.
        total: u64,
    },
    /// It steps what comes.
    Ready,
    /// It has ended.
    Stopped,
}

/// See the module.
pub struct Shared {
    pub(super) appender: EmbeddedAppender,
    pub(super) reader: EmbeddedReader,
    /// One per partition.
    pub(super) databases: Vec<Arc<Database>>,
    pub(super) clock: Clock,
    pub(super) readiness: watch::Receiver<Readiness>,
    /// True when the service is to end: what would go on for ever ends then.
    pub(super) stop: watch::Receiver<bool>,
    pub(super) verification_token: Option<String>,
    pub(super) api_token: Option<String>,
    pub(super) body_limit: usize,
    pub(super) rates: Rates,
    pub(super) metrics: PrometheusHandle,
}

impl Shared {
    pub(super) fn partition(&self, account: &AccountId) -> u32 {
        partition_of(account.as_str(), u32::try_from(self.databases.len()).unwrap_or(u32::MAX))
    }

    /// The state of the account's partition.
    pub(super) fn database(&self, account: &AccountId) -> Arc<Database> {
        self.databases[self.partition(account) as usize].clone()
    }

    /// An answer from state that is behind would be wrong, so there is none.
    pub(super) fn ready(&self) -> Result<(), Problem> {
        let unavailable = |detail: &str| Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1);
        match *self.readiness.borrow() {
            Readiness::Ready => Ok(()),
            Readiness::Stopped => Err(unavailable("the service is stopping")),
            Readiness::BringingUp { done, total } => {
                Err(unavailable("the state is being brought up from the log").with("records_done", json!(done)).with("records_total", json!(total)))
            }
        }
    }

    /// Records of the input that no commit contains yet, per partition.
    pub(super) fn lag(&self) -> Vec<i64> {
        let lag_of = |(id, database): (u32, &Arc<Database>)| {
            let end = self.reader.end(Topic::Events, id).unwrap_or(0);
            let start = self.reader.start(Topic::Events, id).unwrap_or(0);
            end - super::bring_up::stored_position(database).ok().flatten().map_or(start, |position| position.next)
        };
        (0..).zip(&self.databases).map(lag_of).collect()
    }
}

/// Compares secrets in a time that tells nothing about where they differ.
pub(super) fn is_secret(given: &[u8], secret: &str) -> bool {
    given.ct_eq(secret.as_bytes()).into()
}

/// Runs what waits for the disk where that holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Problem::unavailable(&error)))
}
