//! The HTTP side of a WebSocket upgrade: which requests pass, and the words of those that do not.
//!
//! Texts, types and order of the checks are the reference's (mail-tunnel protocol, section 2.2). No extension is
//! ever negotiated; the first offered subprotocol is echoed; `Origin` means nothing to a gateway.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(super) fn no_such_target() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::NOT_FOUND, json, r#"{"error":"not_found"}"#).into_response()
}

fn refuse(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html")], text).into_response()
}

pub(super) fn not_upgradable() -> Response {
    refuse(StatusCode::UPGRADE_REQUIRED, "This connection cannot be upgraded")
}

pub(super) fn busy() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, r#"{"error":"too_many_logins"}"#).into_response()
}

/// The checks of the upgrade request, in the reference's order, and its key.
#[expect(clippy::result_large_err, reason = "made once per connection")]
pub(super) fn upgrade_key(request: &Request) -> Result<String, Response> {
    let headers = request.headers();
    let target = request.uri().path_and_query().map(|target| target.as_str());
    if target != Some("/ws") || !is_upgrade(headers) {
        return Err(no_such_target());
    }
    if request.method() != Method::GET {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "Invalid HTTP method"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).map(str::trim);
    let Some(key) = key.filter(|key| is_websocket_key(key)) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "Missing or invalid Sec-WebSocket-Key header"));
    };
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    if !matches!(version, Some(b"13" | b"8")) {
        let mut refusal = refuse(StatusCode::BAD_REQUEST, "Missing or invalid Sec-WebSocket-Version header");
        refusal.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13, 8"));
        return Err(refusal);
    }
    Ok(key.to_owned())
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// 16 bytes in base64: 22 characters and two `=`.
fn is_websocket_key(key: &str) -> bool {
    key.len() == 24
        && key.ends_with("==")
        && key.bytes().take(22).all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

pub(super) fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    offered.split(',').next().map(str::trim).filter(|name| !name.is_empty())?.parse().ok()
}

/// The answer that turns the connection into a WebSocket.
pub(super) fn switching(key: &str, protocol: Option<HeaderValue>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}
