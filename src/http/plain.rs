//! What a listener without TLS answers to strangers when there is one with TLS beside it.
//!
//! Promises: liveness, readiness and validations of an ACME server are answered; everything else is sent to HTTPS, or refused where
//! a redirect would not be followed (gateways) or would come too late (a token that was sent in the clear already).

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tower::ServiceExt as _;

use super::{AdminDoor, json_response};

/// Paths that are answered: validations, and what the relay says about itself (RFC 8615).
const WELL_KNOWN: &str = "/.well-known/";
/// Port that needs no mention in an `https` URL.
const HTTPS_PORT: u16 = 443;

struct Plain {
    inner: Router,
    /// Host and, if needed, port.
    authority: String,
}

/// `router` for a listener without TLS that strangers reach.
///
/// * `host` – name in the certificate.
/// * `port` – where HTTPS is.
pub fn plain(router: Router, host: &str, port: u16) -> Router {
    let authority = if port == HTTPS_PORT { host.to_owned() } else { format!("{host}:{port}") };
    Router::new().fallback(answer).with_state(Arc::new(Plain { inner: router, authority }))
}

async fn answer(State(plain): State<Arc<Plain>>, request: Request) -> Response {
    let path = request.uri().path();
    // The admin door refuses what comes in the clear by itself.
    if matches!(path, "/health" | "/ready") || path.starts_with(WELL_KNOWN) || AdminDoor::has(path) {
        let Ok(response) = plain.inner.clone().oneshot(request).await;
        return response;
    }
    let authority = &plain.authority;
    if path == "/ws" {
        let url = format!("wss://{authority}/ws");
        return json_response(StatusCode::FORBIDDEN, &json!({ "error": "tls_required", "url": url }));
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let location = [(header::LOCATION, format!("https://{authority}{target}"))];
    (StatusCode::PERMANENT_REDIRECT, location).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    async fn ask(port: u16, target: &str) -> (u16, String, String) {
        let inner = Router::new().fallback(|| async { "inner" });
        let request = Request::get(target).body(Body::empty()).unwrap();
        let response = plain(inner, "mx.our.example", port).oneshot(request).await.unwrap();
        let location =
            response.headers().get("location").map_or("", |value| value.to_str().unwrap()).to_owned();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        (status, location, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn strangers_are_sent_to_https() {
        for answered in
            ["/health", "/ready", "/.well-known/acme-challenge/x", "/.well-known/waystation", "/admin/spool"]
        {
            assert_eq!(ask(443, answered).await, (200, String::new(), "inner".to_owned()), "{answered}");
        }
        assert_eq!(ask(443, "/metrics?a=b").await.1, "https://mx.our.example/metrics?a=b");
        assert_eq!(ask(8443, "/").await, (308, "https://mx.our.example:8443/".to_owned(), String::new()));
        let (status, location, body) = ask(443, "/ws").await;
        assert_eq!((status, location.as_str()), (403, ""));
        assert_eq!(body, r#"{"error":"tls_required","url":"wss://mx.our.example/ws"}"#);
    }
}
