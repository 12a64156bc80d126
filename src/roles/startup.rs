//! What is served before Kafka was reached: webhooks are taken in, and the rest says why it has to wait.

use super::ingress::{self, Ingress};
use super::instruments;
use super::problem::{Problem, as_problems};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use tower::ServiceExt;

/// Serves little, and from a certain moment on everything, on the same connections.
pub(super) struct Front {
    everything: Arc<OnceLock<Router>>,
    why: watch::Sender<String>,
    served: Router,
}

impl Front {
    pub fn new(ingress: Arc<Ingress>, metrics: PrometheusHandle) -> Self {
        let everything: Arc<OnceLock<Router>> = Arc::default();
        let why = watch::Sender::new("Kafka is being reached".to_owned());
        let little = little(ingress, metrics, why.subscribe());
        let chosen = everything.clone();
        let served = Router::new().fallback(any(move |request: Request| {
            let router = chosen.get().unwrap_or(&little).clone();
            async move { router.oneshot(request).await.unwrap_or_else(|never: Infallible| match never {}) }
        }));
        Self { everything, why, served }
    }

    /// What goes to the server.
    pub fn router(&self) -> Router {
        self.served.clone()
    }

    /// What whoever has to wait is told.
    pub fn tell(&self, why: String) {
        self.why.send_replace(why);
    }

    /// From now on everything is served.
    pub fn open(&self, everything: Router) {
        // Opened once.
        let _ = self.everything.set(everything);
    }
}

fn little(ingress: Arc<Ingress>, metrics: PrometheusHandle, why: watch::Receiver<String>) -> Router {
    let not_yet = any(wait).with_state(why);
    let metrics = get(move || async move {
        metrics::gauge!("callsieve_ready").set(0.0);
        metrics.run_upkeep();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
    });
    Router::new()
        .route("/webhooks/ringcentral/{account}", post(ingress::receive).with_state(ingress))
        .route("/healthz", get(async || axum::Json(json!({ "status": "alive" }))))
        .route("/metrics", metrics)
        .route("/readyz", not_yet.clone())
        .route_layer(middleware::from_fn(instruments::measure))
        .fallback(not_yet)
        .layer(super::api::time_limit())
        .layer(middleware::from_fn(as_problems))
}

async fn wait(State(why): State<watch::Receiver<String>>) -> Response {
    let detail = format!("{}; until then only webhooks are taken in", *why.borrow());
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5).into_response()
}
