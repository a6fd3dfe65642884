//! Driver: the admin API below `/admin`, behind the `Guard`.
//!
//! Promises: nothing below `/admin` is reached without the token; every answer is marked as not for caches; there are no CORS
//! fields, so no page of another site can read one; the log has the route of a change, never the names in its path. Does not:
//! know what the requests mean.
//! Failure policy: refusals are JSON with one sentence; wrong tokens are logged, at most [`FAILURES_MAX`](super::guard::FAILURES_MAX)
//! times per address and deny window.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use ipnet::IpNet;
use serde_json::json;
use tower::ServiceExt as _;

use super::guard::{Denied, Line, SharedGuard, Token};
use crate::clock;
use crate::observe::{AdminHttp, Metrics};
use crate::proxy::client_of;

/// Whose request it is, for the log line behind the router.
#[derive(Clone, Copy)]
struct Asker(IpAddr);

/// The admin API as the public listener serves it.
#[derive(Debug)]
pub struct AdminDoor {
    router: Router,
    guard: SharedGuard,
    trusted_proxies: Vec<IpNet>,
    metrics: Arc<Metrics>,
}

impl AdminDoor {
    /// * `router` – routes below `/admin`.
    /// * `trusted_proxies` – whose `X-Forwarded-For` counts when wrong tokens are counted.
    #[must_use]
    pub fn new(
        router: Router,
        guard: SharedGuard,
        trusted_proxies: Vec<IpNet>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { router: router.layer(middleware::from_fn(note)), guard, trusted_proxies, metrics })
    }

    /// Another token, and another memory for wrong ones, from now on.
    pub fn replace(&self, token: Token, deny_window: Option<Duration>) {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).replace(token, deny_window);
    }

    /// Whether a path is below `/admin`.
    pub(super) fn has(path: &str) -> bool {
        path == "/admin" || path.starts_with("/admin/")
    }

    pub(super) async fn answer(&self, mut request: Request) -> Response {
        let client = self.client(&request);
        let line = request.extensions().get::<Line>().copied().unwrap_or_default();
        let checked = {
            let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
            guard.check(line, client, request.uri(), request.headers(), clock::monotonic())
        };
        let mut response = match checked {
            Ok(()) => {
                self.metrics.edge.admin_http(AdminHttp::Allowed);
                request.extensions_mut().insert(Asker(client));
                let Ok(response) = self.router.clone().oneshot(request).await;
                response
            }
            Err(denied) => self.refuse(client, denied),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    fn client(&self, request: &Request) -> IpAddr {
        client_of(request, &self.trusted_proxies)
    }

    fn refuse(&self, client: IpAddr, denied: Denied) -> Response {
        let forbidden = (StatusCode::FORBIDDEN, "forbidden", AdminHttp::Forbidden);
        let unauthorized = (StatusCode::UNAUTHORIZED, "unauthorized", AdminHttp::Unauthorized);
        let ((status, word, counted), message) = match denied {
            Denied::Plain => (
                forbidden,
                "the admin API is served over HTTPS and on loopback addresses only: anybody on the way could read the token",
            ),
            Denied::Host => (forbidden, "the Host field names neither this relay nor an address"),
            Denied::Origin => (forbidden, "pages of other sites may not use the admin API"),
            Denied::Limited(_) => (
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", AdminHttp::Limited),
                "too many wrong tokens from this address",
            ),
            Denied::Missing => (unauthorized, "send the token as `Authorization: Bearer TOKEN`"),
            Denied::Wrong => (unauthorized, "this is not the token"),
        };
        self.metrics.edge.admin_http(counted);
        if denied == Denied::Wrong {
            tracing::warn!(
                event = "relay.admin.http.unauthorized", client.ip = %client,
                "wrong token for the admin API over HTTP"
            );
        } else {
            tracing::debug!(event = "relay.admin.http.refused", client.ip = %client, reason = message, "refused");
        }
        let mut response = (status, axum::Json(json!({ "error": word, "message": message }))).into_response();
        match denied {
            Denied::Missing | Denied::Wrong => {
                let scheme = HeaderValue::from_static("Bearer realm=\"waystation\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            Denied::Limited(wait) => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
            }
            Denied::Plain | Denied::Host | Denied::Origin => {}
        }
        response
    }
}

/// Says which change is asked for: the route that it matched, not its path, which names a mailbox by its address.
async fn note(request: Request, next: Next) -> Response {
    let asker = request.extensions().get::<Asker>();
    if let (Some(Asker(client)), Some(route)) = (asker, request.extensions().get::<MatchedPath>())
        && request.method() != Method::GET
    {
        tracing::info!(
            event = "relay.admin.http.changed", client.ip = %client, method = %request.method(),
            route = route.as_str(), "change asked for over HTTP"
        );
    }
    next.run(request).await
}
