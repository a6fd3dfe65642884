//! Answers and the header fields on them.
//!
//! Promise: whatever is answered, the browser is told to run and load nothing but our own files, to let no other page frame or
//! read it, and to guess no type.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use maud::Markup;

use super::assets::Assets;
use super::route::{Route, escape};

/// What a page may do.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";
/// What a message may do: nothing, should a browser show it after all.
const SEALED: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox";
/// Fields of every answer. With `no-referrer` browsers would hide from us, too, that a form is ours.
const FIELDS: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

fn guarded(mut response: Response, policy: &'static str, cache: &'static str) -> Response {
    let headers = response.headers_mut();
    for (name, value) in FIELDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

/// A page.
pub(super) fn page(status: StatusCode, markup: Markup) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    guarded((status, kind, markup.into_string()).into_response(), POLICY, "no-store")
}

/// A place of ours to go to, by a new request without a body.
pub(super) fn go_to(path: &str) -> Response {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    guarded((StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(), POLICY, "no-store")
}

/// The login, and back to where somebody wanted to go.
pub(super) fn to_login(route: &Route, wanted: &Uri) -> Response {
    let target = wanted.path_and_query().map_or("/", |target| target.as_str());
    if route.is_page() && target != "/" {
        go_to(&format!("/login?to={}", escape(target)))
    } else {
        go_to("/login")
    }
}

/// For what a page asks by itself.
pub(super) fn unauthorized() -> Response {
    guarded((StatusCode::UNAUTHORIZED, "log in").into_response(), POLICY, "no-store")
}

/// There is no place for more.
pub(super) fn unavailable() -> Response {
    guarded((StatusCode::SERVICE_UNAVAILABLE, "too many pages listen").into_response(), POLICY, "no-store")
}

/// There is none.
pub(super) fn not_found() -> Response {
    let body =
        (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], r#"{"error":"not_found"}"#);
    guarded(body.into_response(), POLICY, "no-store")
}

/// A file of ours; its name changes with its contents.
pub(super) fn asset(assets: &Assets, name: &str) -> Response {
    let Some(asset) = assets.find(name) else { return not_found() };
    let response = ([(header::CONTENT_TYPE, asset.kind)], asset.text).into_response();
    guarded(response, POLICY, "public, max-age=31536000, immutable")
}

/// A message to be saved, as it came.
pub(super) fn message(id: &str, body: Body) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("message/rfc822"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{id}.eml\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    guarded((headers, body).into_response(), SEALED, "no-store")
}

/// A stream of events.
pub(super) fn events(body: Body) -> Response {
    let response = ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response();
    guarded(response, POLICY, "no-store")
}
