//! The public HTTP listeners: health, readiness, metrics, the doors to the tunnel, to pages for people and, with a token, to the
//! admin API.
//!
//! Promises: a bounded number of connections; a client that does not send its request in time, or does not take its answer, is cut;
//! every unknown request gets 404 `{"error":"not_found"}`, whatever it carries. Does not: know what admin requests or pages
//! mean, or anything about mail.
//! Failure policy: trouble of one connection ends that connection; trouble of the listener ends the daemon.

pub mod admin;
mod exposition;
pub mod guard;
mod guests;
mod plain;
mod serve;
mod uptake;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub use admin::AdminDoor;
pub use guests::{GUESTS_PER_ADDRESS_MAX, Guests};
pub use plain::plain;
pub use serve::{CONNECTIONS_MAX, ConnectionPlace, DESCRIPTORS_RESERVED, Door, Places, serve};
pub use uptake::{Pace, UPTAKE_BYTES_MIN, UPTAKE_TIME};

use crate::current::Current;
use crate::observe::Metrics;
use exposition::Exposition;

/// Where a relay says who it is, and with which keys it signs.
const ABOUT: &str = "/.well-known/waystation";
/// Where senders find the MTA-STS policy (RFC 8461 section 3.2).
const STS_POLICY: &str = "/.well-known/mta-sts.txt";
/// How long the answer there may be kept, seconds: far shorter than any overlap of keys.
const ABOUT_CACHE: &str = "max-age=300";
/// Path before the token of an http-01 validation.
const CHALLENGE: &str = "/.well-known/acme-challenge/";

/// What `/health` and `/ready` look at. The daemon implements it.
pub trait Vitals: Send + Sync + 'static {
    /// Authenticated gateways connected now.
    fn connections(&self) -> u64;
    /// Seconds since the start.
    fn uptime_seconds(&self) -> u64;
    /// Why mail cannot be taken now, in a few bland words each; empty when it can.
    fn problems(&self) -> Vec<String>;
    /// What is not as it should be although mail can be taken, in a few bland words each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What the routes share.
struct Shared {
    vitals: Arc<dyn Vitals>,
    /// `None` when metrics are off.
    metrics: Option<Arc<Metrics>>,
    /// The tunnel, with its own state inside.
    tunnel: Router,
    extras: Extras,
}

/// Answers to http-01 validations of an ACME server (RFC 8555 section 8.3).
pub trait Challenges: Send + Sync + 'static {
    /// The key authorization of a token that is being validated now.
    fn answer(&self, token: &str) -> Option<String>;
}

/// What `/.well-known/waystation` says. The daemon implements it.
pub trait About: Send + Sync + 'static {
    /// A JSON object; how it is now.
    fn object(&self) -> Value;
}

/// Pages for people. The dashboard implements it.
pub trait Pages: Send + Sync + 'static {
    /// Whether a request is for one of them, as it came and from where; others get the protocol's 404.
    fn has(&self, request: &Request) -> bool;
    /// Answers one.
    fn answer(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response>;
}

/// An MTA-STS policy (RFC 8461).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsPolicy {
    /// Names of policy hosts, lower case.
    pub hosts: Vec<String>,
    /// The policy.
    pub text: String,
}

/// What a listener answers when it is configured.
#[derive(Clone, Default)]
pub struct Extras {
    /// The MTA-STS policy, if there is one now.
    pub sts: Arc<Current<Option<StsPolicy>>>,
    /// The admin API; `None`: not over HTTP.
    pub admin: Option<Arc<AdminDoor>>,
    /// Pages for people; `None`: there are none.
    pub pages: Option<Arc<dyn Pages>>,
    /// What anybody may know of the relay; `None`: nothing is said.
    pub about: Option<Arc<dyn About>>,
    /// Validations; `None`: there are none.
    pub challenges: Option<Arc<dyn Challenges>>,
}

/// Everything the public listener answers.
///
/// * `metrics` – `None` turns `/metrics` off.
/// * `tunnel` – answers every request for `/ws`, in the protocol's words when it is no upgrade.
/// * `extras` – what else there is.
pub fn router(
    vitals: Arc<dyn Vitals>,
    metrics: Option<Arc<Metrics>>,
    tunnel: Router,
    extras: Extras,
) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(Shared { vitals, metrics, tunnel, extras }))
}

/// One exact match on method and target, as gateways and probes of the protocol know it: a query string
/// makes another target.
async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path() == "/ws" {
        let Ok(response) = shared.tunnel.clone().oneshot(request).await;
        return response;
    }
    if let Some(admin) = shared.extras.admin.as_ref().filter(|_| AdminDoor::has(request.uri().path())) {
        return admin.answer(request).await;
    }
    if let Some(pages) = shared.extras.pages.as_ref().filter(|pages| pages.has(&request)) {
        return Arc::clone(pages).answer(request).await;
    }
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str()).to_owned();
    match (request.method(), target.as_str()) {
        (&Method::GET, "/health") => health(shared.vitals.as_ref()),
        (&Method::GET, "/ready") => ready(&shared),
        (&Method::GET, "/metrics") => metrics(&shared, request.headers()),
        (&Method::GET, ABOUT) => about(&shared),
        (&Method::GET, STS_POLICY) => sts_policy(&shared, request.headers()),
        (&Method::GET, target) => {
            target.strip_prefix(CHALLENGE).map_or_else(not_found, |token| challenge(&shared, token))
        }
        _ => not_found(),
    }
}

/// A policy belongs to the domain in the name of its host, and to no other.
fn sts_policy(shared: &Shared, headers: &HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    match shared.extras.sts.get().as_ref().as_ref().filter(|sts| sts.hosts.contains(&host)) {
        Some(sts) => ([(header::CONTENT_TYPE, "text/plain")], sts.text.clone()).into_response(),
        None => not_found(),
    }
}

fn about(shared: &Shared) -> Response {
    let Some(about) = &shared.extras.about else { return not_found() };
    let mut response = json_response(StatusCode::OK, &about.object());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(ABOUT_CACHE));
    response
}

/// The key authorization as RFC 8555 section 8.3 wants it; only our own tokens are looked up.
fn challenge(shared: &Shared, token: &str) -> Response {
    let found = shared.extras.challenges.as_ref().and_then(|challenges| challenges.answer(token));
    let Some(authorization) = found else { return not_found() };
    ([(header::CONTENT_TYPE, "application/octet-stream")], authorization).into_response()
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
    let (problems, warnings) = (shared.vitals.problems(), shared.vitals.warnings());
    if let Some(metrics) = &shared.metrics {
        metrics.set_ready(problems.is_empty());
    }
    if problems.is_empty() {
        json_response(StatusCode::OK, &json!({ "status": "ready", "warnings": warnings }))
    } else {
        let answer = json!({ "status": "not_ready", "reasons": problems, "warnings": warnings });
        json_response(StatusCode::SERVICE_UNAVAILABLE, &answer)
    }
}

fn metrics(shared: &Shared, headers: &HeaderMap) -> Response {
    let Some(metrics) = &shared.metrics else { return not_found() };
    metrics.set_ready(shared.vitals.problems().is_empty());
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let wanted = Exposition::wanted(accept);
    let text = match wanted {
        Exposition::Classic => metrics.classic_text(),
        Exposition::OpenMetrics => metrics.text(),
        Exposition::Json => metrics.json().to_string(),
    };
    ([(header::CONTENT_TYPE, wanted.content_type()), (header::VARY, "accept")], text).into_response()
}

fn not_found() -> Response {
    json_response(StatusCode::NOT_FOUND, &json!({ "error": "not_found" }))
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(value.to_string())).into_response()
}

#[cfg(test)]
mod tests;
