//! The public HTTP listener: health, readiness, metrics, and the door to the tunnel.
//!
//! Promises: a bounded number of connections; a client that does not send its request in time is cut; every
//! unknown request gets 404 `{"error":"not_found"}`, whatever it carries. Does not: TLS (a proxy does), admin
//! requests (the admin socket takes them), or anything about mail.
//! Failure policy: trouble of one connection ends that connection; trouble of the listener ends the daemon.

mod serve;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub use serve::{CONNECTIONS_MAX, ConnectionPlace, Door, serve};

use crate::observe::Metrics;

/// OpenMetrics 1.0, as Prometheus scrapes it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `/health` and `/ready` look at. The daemon implements it.
pub trait Vitals: Send + Sync + 'static {
    /// Authenticated gateways connected now.
    fn connections(&self) -> u64;
    /// Seconds since the start.
    fn uptime_seconds(&self) -> u64;
    /// Why mail cannot be taken now, in a few bland words each; empty when it can.
    fn problems(&self) -> Vec<String>;
}

/// What the routes share.
struct Shared {
    vitals: Arc<dyn Vitals>,
    /// `None` when metrics are off.
    metrics: Option<Arc<Metrics>>,
    /// The tunnel, with its own state inside.
    tunnel: Router,
}

/// Everything the public listener answers.
///
/// * `metrics` – `None` turns `/metrics` off.
/// * `tunnel` – answers every request for `/ws`, in the protocol's words when it is no upgrade.
pub fn router(vitals: Arc<dyn Vitals>, metrics: Option<Arc<Metrics>>, tunnel: Router) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(Shared { vitals, metrics, tunnel }))
}

/// One exact match on method and target, as gateways and probes of the protocol know it: a query string
/// makes another target.
async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path() == "/ws" {
        let Ok(response) = shared.tunnel.clone().oneshot(request).await;
        return response;
    }
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str()).to_owned();
    match (request.method(), target.as_str()) {
        (&Method::GET, "/health") => health(shared.vitals.as_ref()),
        (&Method::GET, "/ready") => ready(&shared),
        (&Method::GET, "/metrics") => metrics(&shared, request.headers()),
        _ => not_found(),
    }
}

fn health(vitals: &dyn Vitals) -> Response {
    json_response(
        StatusCode::OK,
        &json!({
            "status": "ok",
            "connections": vitals.connections(),
            "uptime": vitals.uptime_seconds(),
            "version": env!("CARGO_PKG_VERSION"),
        }),
    )
}

fn ready(shared: &Shared) -> Response {
    let problems = shared.vitals.problems();
    if let Some(metrics) = &shared.metrics {
        metrics.set_ready(problems.is_empty());
    }
    if problems.is_empty() {
        json_response(StatusCode::OK, &json!({ "status": "ready" }))
    } else {
        json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not_ready", "reasons": problems }))
    }
}

fn metrics(shared: &Shared, headers: &HeaderMap) -> Response {
    let Some(metrics) = &shared.metrics else { return not_found() };
    metrics.set_ready(shared.vitals.problems().is_empty());
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    if accept.contains("application/json") {
        json_response(StatusCode::OK, &metrics.json())
    } else {
        ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.text()).into_response()
    }
}

fn not_found() -> Response {
    json_response(StatusCode::NOT_FOUND, &json!({ "error": "not_found" }))
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(value.to_string())).into_response()
}

#[cfg(test)]
mod tests;
