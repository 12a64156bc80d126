//! Metrics: where they are gathered, and what is counted of every request.

use super::ingress::RESULTS;
use crate::log::letter::{EVENTS, SPOOL, WEBHOOK};
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Instant;

/// Seconds: from a group commit on a fast disk to what RingCentral no longer waits for.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 3.0];

/// Where the process's metrics are gathered. There is one such place in a process, however many services it runs.
pub(super) fn recorder() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS)?.build_recorder();
    let handle = HANDLE.get_or_init(|| recorder.handle()).clone();
    // Refused where somebody has set one before: then the metrics are theirs to show.
    let _ = metrics::set_global_recorder(recorder);
    describe();
    begin();
    Ok(handle)
}

fn describe() {
    metrics::describe_counter!("callsieve_records_total", "Records of the input that were stepped");
    metrics::describe_counter!("callsieve_verdicts_total", "Revisions of verdicts that were published");
    metrics::describe_counter!("callsieve_dead_letters_total", "Input that could not be read, by where that was noticed");
    metrics::describe_counter!(
        "callsieve_schema_registry_failures_total",
        "Questions to the schema registry that got no answer; partitions wait for it"
    );
    metrics::describe_counter!("callsieve_notifications_total", "Webhook notifications, by what became of them");
    metrics::describe_counter!("callsieve_http_requests_total", "Requests, by route and status");
    metrics::describe_histogram!("callsieve_http_request_seconds", metrics::Unit::Seconds, "Time to the head of the answer, by route");
    metrics::describe_gauge!("callsieve_spool_entries", "Entries in the spool, which Kafka has not acknowledged yet");
    metrics::describe_gauge!("callsieve_spool_bytes", "Bytes of entries in the spool");
    metrics::describe_counter!("callsieve_spooled_total", "Entries that went to the spool, because Kafka gave no answer");
    metrics::describe_counter!("callsieve_spool_forwarded_total", "Entries of the spool that Kafka acknowledged");
    metrics::describe_gauge!("callsieve_ready", "1 when the state of all partitions that this process holds is brought up");
    metrics::describe_gauge!("callsieve_partitions", "Partitions that this process has, and whose state is brought up");
    metrics::describe_gauge!("callsieve_bring_up_partitions", "Partitions that this process has, and whose state is being brought up");
    metrics::describe_gauge!("callsieve_bring_up_records", "Records that are left to read until the state is brought up, as far as is known");
    metrics::describe_counter!("callsieve_events_dropped_total", "Offsets of the input that retention dropped before they were read");
    metrics::describe_counter!("callsieve_corrupt_states_total", "States of partitions that were corrupt on disk, and were set aside");
    metrics::describe_gauge!(
        "callsieve_bring_up_seconds",
        metrics::Unit::Seconds,
        "How long that will take at the speed so far; 0 where it isn't known"
    );
    metrics::describe_gauge!("callsieve_standby_copies", "Partitions of other instances whose copy here was up to date when it was last looked at");
    metrics::describe_counter!("callsieve_brought_up_records_total", "Records that were read to bring states up, by for whom: worker or standby");
    metrics::describe_gauge!(
        "callsieve_lag_records",
        "Records of the input that are not stepped yet, by partition, also while it is brought up; 0 for those that another process has"
    );
}

/// What happens seldom is there from the start, so that its first occurrence is an increase.
fn begin() {
    for source in [WEBHOOK, EVENTS, SPOOL] {
        metrics::counter!("callsieve_dead_letters_total", "source" => source).increment(0);
    }
    for result in RESULTS {
        metrics::counter!("callsieve_notifications_total", "result" => result).increment(0);
    }
    metrics::counter!("callsieve_events_dropped_total").increment(0);
    metrics::counter!("callsieve_corrupt_states_total").increment(0);
    metrics::counter!("callsieve_schema_registry_failures_total").increment(0);
}

/// Counts and times a request under its route, so that addresses with ids make no series of their own.
pub(super) async fn measure(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = route.map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
    let begun = Instant::now();
    let response = next.run(request).await;
    metrics::histogram!("callsieve_http_request_seconds", "route" => route.clone()).record(begun.elapsed().as_secs_f64());
    metrics::counter!("callsieve_http_requests_total", "route" => route, "status" => response.status().as_u16().to_string()).increment(1);
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The names of our series in a text.
    fn series(text: &str) -> BTreeSet<&str> {
        let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let names = text.match_indices("callsieve_").map(|(at, _)| &text[at..at + text[at..].find(|c| !is_of_name(c)).unwrap_or(text.len() - at)]);
        names.map(|name| name.trim_end_matches("_bucket")).collect()
    }

    #[test]
    fn alerts_and_dashboard_ask_for_series_that_there_are() {
        let described = series(include_str!("instruments.rs"));
        for asking in [include_str!("../../deploy/observe/alerts.yaml"), include_str!("../../deploy/observe/grafana/dashboards/callsieve.json")] {
            let asked = series(asking);
            assert!(asked.len() > 5 && asked.is_subset(&described), "{:?}", asked.difference(&described));
        }
        let alerts: serde_yaml_ng::Value = serde_yaml_ng::from_str(include_str!("../../deploy/observe/alerts.yaml")).unwrap();
        let rules = alerts["groups"][0]["rules"].as_sequence().unwrap();
        let told = include_str!("../../docs/operations.md");
        for rule in rules {
            let name = rule["alert"].as_str().unwrap();
            assert!(rule["expr"].is_string() && rule["annotations"]["summary"].is_string() && told.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
