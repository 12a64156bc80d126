//! What the handlers of the HTTP interface share.

use super::forward::Others;
use super::held::{Held, Holding, Readiness};
use super::ingress::Ingress;
use super::problem::Problem;
use crate::event::AccountId;
use crate::log::Clock;
use crate::log::{Appender, Reader, Topic, partition_of};
use crate::state::database::Database;
use axum::http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use std::sync::{Arc, Mutex};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, watch};

/// See the module.
pub struct Shared {
    /// The log's end for who can send again.
    pub(super) appender: Arc<dyn Appender>,
    pub(super) ingress: Arc<Ingress>,
    pub(super) reader: Arc<dyn Reader>,
    /// How many there are, here or elsewhere.
    pub(super) partitions: u32,
    pub(super) held: Arc<Held>,
    /// The other instances, on Kafka.
    pub(super) others: Option<Arc<Others>>,
    pub(super) clock: Clock,
    /// True when the service is to end: what would go on for ever ends then.
    pub(super) stop: watch::Receiver<bool>,
    pub(super) api_token: Option<String>,
    pub(super) metrics: PrometheusHandle,
    pub(super) telling_lag: Mutex<()>,
    /// See [`super::stream::reads`].
    pub(super) stream_reads: Vec<Arc<Semaphore>>,
}

impl Shared {
    pub(super) fn partition(&self, account: &AccountId) -> u32 {
        partition_of(account.as_str(), self.partitions)
    }

    /// The state of the account's partition, where this process has it and it is up to date.
    pub(super) fn database(&self, account: &AccountId) -> Result<Arc<Database>, Problem> {
        let partition = self.partition(account);
        match self.held.partition(partition) {
            Holding::Up(database) => Ok(database),
            Holding::BringingUp { done, total } => Err(self.behind(done, total)),
            Holding::Closed => {
                self.ready()?;
                let detail = format!(
                    "account {account} is in partition {partition}, which this instance doesn't have at the moment, nor does another say that it has"
                );
                Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).with("partition", json!(partition)).retry_after(1))
            }
        }
    }

    /// An answer from state that is behind would be wrong, so there is none.
    pub(super) fn ready(&self) -> Result<(), Problem> {
        match self.held.now() {
            Readiness::Ready => Ok(()),
            Readiness::Stopped => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the service is stopping").retry_after(1)),
            Readiness::BringingUp { done, total } => Err(self.behind(done, total)),
        }
    }

    fn behind(&self, done: u64, total: u64) -> Problem {
        let why = match self.held.bringing_up() {
            0 => "this instance has no partition yet: it is starting, or there are more workers than partitions",
            _ => "the state is being brought up from the log",
        };
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(1);
        let problem = problem.with("records_done", json!(done)).with("records_total", json!(total));
        match self.held.seconds_left() {
            Some(seconds) => problem.with("seconds_left", json!(seconds)),
            None => problem,
        }
    }

    /// Tells how many records of the input no commit contains yet, of each partition of which the log answers that, as it answers; 0 of those that
    /// another process has. While somebody is being told, nobody else is: a log that is away keeps one thread waiting.
    pub(super) fn tell_lag(&self, tell: impl Fn(u32, i64)) {
        let Ok(_alone) = self.telling_lag.try_lock() else { return };
        let mut committed = None;
        for partition in 0..self.partitions {
            let next = match self.held.partition(partition) {
                Holding::Closed => {
                    tell(partition, 0);
                    continue;
                }
                Holding::Up(database) => super::bring_up::stored_position(&database).ok().flatten().map(|position| position.next),
                Holding::BringingUp { .. } => {
                    let asked = || self.others.as_ref().and_then(|others| others.committed().ok());
                    let Some(committed) = committed.get_or_insert_with(asked) else { continue };
                    committed.get(partition as usize).and_then(Option::as_ref).map(|committed| committed.position.next)
                }
            };
            let Ok(end) = self.reader.end(Topic::Events, partition) else { continue };
            if let Some(next) = next.or_else(|| self.reader.start(Topic::Events, partition).ok()) {
                tell(partition, (end - next).max(0));
            }
        }
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
