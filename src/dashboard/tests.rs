//! The dashboard in front of an API that answers from a table.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use serde_json::json;

use super::*;
use crate::http::guard::{Guard, Token};

const TOKEN: &str = "k3Jx0pQ9zWv7Lr2TnYb5Ud8Sg1Hf4Ma6cE";
const ID: &str = "06h4k2v0c8q1r5t7u9v3s6d0ag";
const LOOPBACK: Line = Line { encrypted: false, loopback: true };
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn api() -> Router {
    let item = || async {
        Json(
            json!({ "id": ID, "direction": "in", "state": "ready", "lane": "k", "mail_from": "a@x", "rcpt_to": "b@y" }),
        )
    };
    let no = || async { (StatusCode::CONFLICT, Json(json!({ "message": "it is held already" }))) };
    Router::new()
        .route("/admin/spool/items", get(|| async { Json(json!({ "items": [], "next": null })) }))
        .route(&format!("/admin/spool/items/{ID}"), get(item))
        .route(&format!("/admin/spool/items/{ID}/raw"), get(|| async { "Subject: hello\r\n\r\nbody" }))
        .route(&format!("/admin/spool/items/{ID}/hold"), post(no))
        .route(&format!("/admin/spool/items/{ID}/purge"), post(|| async { Json(json!({})) }))
        .route("/admin/events", get(|| async { "event: relay.item.acked\ndata: {\"secret\":1}\n\n" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, Json(json!({ "message": "no such thing" }))) })
}

fn dashboard(access: Access) -> Arc<Dashboard> {
    let hosts = ["relay.example".to_owned()];
    let guard = Guard::new(Token::from_text(TOKEN).unwrap(), &hosts, Some(Duration::from_secs(300)));
    let settings = Settings {
        hostname: "relay.example".into(),
        access,
        trusted_proxies: Vec::new(),
        random: rand::random,
    };
    Dashboard::new(settings, api(), Arc::new(Mutex::new(guard)), Arc::new(Metrics::new()))
}

fn request(
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &str,
    line: Line,
    peer: &str,
) -> Request {
    let mut request = axum::http::Request::builder().method(method).uri(target);
    if !fields.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost:8080");
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    request.extensions_mut().insert(line);
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4242)));
    request
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(
    dashboard: &Arc<Dashboard>,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Answer {
    let response =
        Arc::clone(dashboard).answer(request(method, target, fields, body, LOOPBACK, "127.0.0.1")).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

/// Logs in; answers the cookie and the form token.
async fn come_in(dashboard: &Arc<Dashboard>) -> (String, String) {
    let answer = ask(dashboard, "POST", "/login", &[FORM], &format!("token={TOKEN}&to=/items")).await;
    assert_eq!((answer.status, answer.field("location")), (303, "/items"));
    let cookie = answer.field("set-cookie").split(';').next().unwrap().to_owned();
    let page = ask(dashboard, "GET", "/items", &[("cookie", &cookie)], "").await;
    let token = page.body.split("name=\"form_token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    (cookie, token.to_owned())
}

#[tokio::test]
async fn nothing_is_shown_or_changed_without_a_login() {
    let dashboard = dashboard(Access::Configured); // D1
    for target in [
        "/",
        "/lanes",
        "/lanes/k",
        "/items",
        "/dns",
        &format!("/items/{ID}"),
        &format!("/items/{ID}/raw"),
        &format!("/items/{ID}/hold"),
    ] {
        let answer =
            ask(&dashboard, "GET", target, &[("cookie", "waystation=guess; __Host-waystation=")], "").await;
        assert_eq!((answer.status, answer.body.as_str()), (303, ""), "{target}");
        assert!(answer.field("location").starts_with("/login"), "{target}");
    }
    for target in [&format!("/items/{ID}/purge"), "/deliveries/pause", "/logout"] {
        assert_eq!(ask(&dashboard, "POST", target, &[FORM], "form_token=").await.status, 303, "{target}");
    }
    assert_eq!(ask(&dashboard, "GET", "/live", &[], "").await.status, 401);
    assert_eq!(ask(&dashboard, "GET", "/items", &[("x-refresh", "1")], "").await.status, 401);
}

#[tokio::test]
async fn the_right_token_makes_a_session_and_wrong_ones_are_few() {
    let dashboard = dashboard(Access::Configured); // D2
    let (cookie, _) = come_in(&dashboard).await;
    assert_eq!(ask(&dashboard, "GET", "/items", &[("cookie", &cookie)], "").await.status, 200);
    let again = ask(&dashboard, "GET", "/login?to=//evil.example", &[("cookie", &cookie)], "").await;
    assert_eq!((again.status, again.field("location")), (303, "/"));
    for n in 0..5 {
        let wrong = ask(&dashboard, "POST", "/login", &[FORM], "token=guess").await;
        assert_eq!(wrong.status, 403, "{n}");
        assert!(wrong.body.contains("This is not the token") && wrong.field("set-cookie").is_empty());
    }
    let limited = ask(&dashboard, "POST", "/login", &[FORM], &format!("token={TOKEN}")).await;
    assert_eq!(limited.status, 429, "the right one comes too late");
    assert_eq!(
        ask(&dashboard, "GET", "/items", &[("cookie", &cookie)], "").await.status,
        200,
        "who is in stays in"
    );
}

#[tokio::test]
async fn a_new_token_ends_the_sessions_of_the_old_one() {
    let dashboard = dashboard(Access::Configured);
    let (cookie, _) = come_in(&dashboard).await;
    let replace = |text: &str| {
        let mut guard = dashboard.guard.lock().unwrap();
        guard.replace(Token::from_text(text).unwrap(), None);
    };
    replace(TOKEN);
    assert_eq!(
        ask(&dashboard, "GET", "/items", &[("cookie", &cookie)], "").await.status,
        200,
        "the same one"
    );
    replace("another0pQ9zWv7Lr2TnYb5Ud8Sg1Hf4Ma6cE");
    assert_eq!(ask(&dashboard, "GET", "/items", &[("cookie", &cookie)], "").await.status, 303);
    assert_eq!(ask(&dashboard, "POST", "/login", &[FORM], &format!("token={TOKEN}")).await.status, 403);
}

#[tokio::test]
async fn the_cookie_is_secure_when_the_browser_came_by_https() {
    let dashboard = dashboard(Access::Configured);
    let body = format!("token={TOKEN}");
    let plain = ask(&dashboard, "POST", "/login", &[FORM], &body).await;
    assert!(plain.field("set-cookie").starts_with("waystation="));
    let fields = [FORM, ("host", "relay.example"), ("origin", "https://relay.example")];
    let proxied = ask(&dashboard, "POST", "/login", &fields, &body).await;
    let cookie = proxied.field("set-cookie");
    assert!(cookie.starts_with("__Host-") && cookie.contains("; Secure"), "{cookie}");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
}

#[tokio::test]
async fn a_change_needs_the_sessions_own_form() {
    let dashboard = dashboard(Access::Configured); // D3
    let (cookie, token) = come_in(&dashboard).await;
    let (_, other) = come_in(&dashboard).await;
    let target = format!("/items/{ID}/purge");
    let cookie = ("cookie", cookie.as_str());
    let good = format!("form_token={token}&reason=");
    for (what, fields, body, expected) in [
        ("all is well", vec![FORM, cookie], good.as_str(), 303),
        (
            "own page",
            vec![FORM, cookie, ("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")],
            &good,
            303,
        ),
        ("no token", vec![FORM, cookie], "reason=", 403),
        ("another session's token", vec![FORM, cookie], &format!("form_token={other}"), 403),
        ("no form", vec![cookie, ("content-type", "text/plain")], &good, 403),
        ("json", vec![cookie, ("content-type", "application/json")], "{}", 403),
        ("another site", vec![FORM, cookie, ("origin", "https://evil.example")], &good, 403),
        ("another port", vec![FORM, cookie, ("origin", "http://localhost:3000")], &good, 403),
        ("a sandbox", vec![FORM, cookie, ("origin", "null")], &good, 403),
        ("same site only", vec![FORM, cookie, ("sec-fetch-site", "same-site")], &good, 403),
        ("a rebound name", vec![FORM, cookie, ("host", "evil.example")], &good, 403),
        ("too large", vec![FORM, cookie], &format!("{good}{}", "x".repeat(20_000)), 403),
    ] {
        assert_eq!(ask(&dashboard, "POST", &target, &fields, body).await.status, expected, "{what}");
    }
}

#[tokio::test]
async fn a_change_that_is_refused_says_why() {
    let dashboard = dashboard(Access::Configured);
    let (cookie, token) = come_in(&dashboard).await;
    let body = format!("form_token={token}&reason=because");
    let refused =
        ask(&dashboard, "POST", &format!("/items/{ID}/hold"), &[FORM, ("cookie", &cookie)], &body).await;
    assert_eq!(refused.status, 409);
    assert!(
        refused.body.contains("it is held already") && refused.body.contains("value=\"because\""),
        "{}",
        refused.body
    );
    let metrics = dashboard.metrics.text();
    assert!(
        metrics.contains(r#"waystation_dashboard_changes_total{verb="hold",outcome="refused"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"waystation_dashboard_logins_total{outcome="accepted"} 1"#), "{metrics}");
}

#[tokio::test]
async fn each_change_is_counted_under_a_word_that_is_there_from_the_start() {
    let dashboard = dashboard(Access::Configured);
    let (cookie, token) = come_in(&dashboard).await;
    let series = || dashboard.metrics.text().matches("waystation_dashboard_changes_total{").count();
    let before = series();
    let items = route::Verb::ALL.map(|verb| format!("/items/{ID}/{}", verb.word()));
    let others = ["/lanes/k/replay", "/deliveries/pause", "/deliveries/resume"].map(str::to_owned);
    let body = format!("form_token={token}&reason=because&since={}", view::items::SPANS[0].0);
    for target in items.iter().chain(&others) {
        ask(&dashboard, "POST", target, &[FORM, ("cookie", &cookie)], &body).await;
    }
    assert_eq!(series(), before);
    let text = dashboard.metrics.text();
    let lines = text.lines().filter(|line| line.starts_with("waystation_dashboard_changes_total{"));
    let counted = lines.filter(|line| line.ends_with(" 1")).count();
    assert_eq!(counted, before / 2, "each once, made or refused: {text}");
}

#[tokio::test]
async fn a_logout_ends_the_session_everywhere() {
    let dashboard = dashboard(Access::Configured);
    let (cookie, token) = come_in(&dashboard).await;
    let out =
        ask(&dashboard, "POST", "/logout", &[FORM, ("cookie", &cookie)], &format!("form_token={token}"))
            .await;
    assert_eq!((out.status, out.field("location")), (303, "/login"));
    assert!(
        out.headers.get_all("set-cookie").iter().all(|field| field.to_str().unwrap().contains("Max-Age=0"))
    );
    assert_eq!(ask(&dashboard, "GET", "/items", &[("cookie", &cookie)], "").await.status, 303);
}

#[tokio::test]
async fn every_answer_tells_the_browser_to_run_nothing_else() {
    let dashboard = dashboard(Access::Configured); // D4
    let (cookie, _) = come_in(&dashboard).await;
    let script = dashboard.assets.script().to_owned();
    for target in [
        "/",
        "/items",
        "/login",
        &format!("/items/{ID}"),
        &format!("/items/{ID}/raw"),
        &script,
        "/assets/none",
        "/lanes/none",
        "/live",
    ] {
        let answer = ask(&dashboard, "GET", target, &[("cookie", &cookie)], "").await;
        let policy = answer.field("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{target}: {policy}"
        );
        assert!(policy.contains("base-uri 'none'") && !policy.contains("unsafe"), "{target}: {policy}");
        assert_eq!(answer.field("x-content-type-options"), "nosniff", "{target}");
        assert_eq!(answer.field("referrer-policy"), "same-origin", "{target}");
        let kept = answer.field("cache-control");
        assert_eq!(kept.contains("immutable"), target == script, "{target}: {kept}");
        assert!(kept == "no-store" || target == script, "{target}: {kept}");
    }
}

#[tokio::test]
async fn a_message_is_a_file_and_never_a_page() {
    let dashboard = dashboard(Access::Configured); // D5
    let (cookie, _) = come_in(&dashboard).await;
    let raw = ask(&dashboard, "GET", &format!("/items/{ID}/raw"), &[("cookie", &cookie)], "").await;
    assert_eq!((raw.status, raw.field("content-type")), (200, "message/rfc822"));
    assert_eq!(raw.field("content-disposition"), format!("attachment; filename=\"{ID}.eml\""));
    assert!(raw.field("content-security-policy").ends_with("sandbox"));
    assert_eq!(raw.body, "Subject: hello\r\n\r\nbody");
    let page = ask(&dashboard, "GET", &format!("/items/{ID}"), &[("cookie", &cookie)], "").await;
    assert!(page.body.contains("hello") && !page.body.contains("body\r\n"), "the header only");
}

#[tokio::test]
async fn live_pages_hear_that_something_happened_and_not_what() {
    let dashboard = dashboard(Access::Configured);
    let (cookie, _) = come_in(&dashboard).await;
    let live = ask(&dashboard, "GET", "/live", &[("cookie", &cookie)], "").await;
    assert_eq!((live.status, live.field("content-type")), (200, "text/event-stream"));
    assert_eq!(live.body, "event: change\ndata: 1\n\n");
    assert_eq!(dashboard.lives.available_permits(), LIVES_MAX, "it was given back");
}

#[tokio::test]
async fn without_a_configured_token_only_this_machine_is_served_and_directly() {
    let dashboard = dashboard(Access::Local { file: "/data/dashboard.token".into() }); // D6
    let far = Line { encrypted: true, loopback: false };
    for (what, fields, line, peer, expected) in [
        ("directly", vec![], LOOPBACK, "127.0.0.1", true),
        ("by IPv6", vec![("host", "[::1]:8080")], LOOPBACK, "::1", true),
        ("through a proxy", vec![("x-forwarded-for", "192.0.2.1")], LOOPBACK, "127.0.0.1", false),
        ("through another proxy", vec![("via", "1.1 x")], LOOPBACK, "127.0.0.1", false),
        ("under the relay's name", vec![("host", "relay.example")], LOOPBACK, "127.0.0.1", false),
        ("under a rebound name", vec![("host", "evil.example")], LOOPBACK, "127.0.0.1", false),
        ("by PROXY header", vec![], LOOPBACK, "192.0.2.1", false),
        ("from elsewhere", vec![], far, "192.0.2.1", false),
        ("from here at a public listener", vec![], far, "127.0.0.1", false),
    ] {
        assert_eq!(dashboard.has(&request("GET", "/", &fields, "", line, peer)), expected, "{what}");
    }
    assert!(!dashboard.has(&request("HEAD", "/", &[], "", LOOPBACK, "127.0.0.1")));
    assert!(!dashboard.has(&request("GET", "/health", &[], "", LOOPBACK, "127.0.0.1")));
    let login = ask(&dashboard, "GET", "/login", &[], "").await;
    assert!(login.body.contains("/data/dashboard.token"), "{}", login.body);
    assert_eq!(ask(&dashboard, "GET", "/", &[], "").await.status, 303, "here, too, there is a login");
}

#[tokio::test]
async fn in_the_clear_from_elsewhere_there_is_nothing_to_see() {
    let dashboard = dashboard(Access::Configured);
    let request = request("GET", "/login", &[("host", "relay.example")], "", Line::default(), "192.0.2.1");
    let response = Arc::clone(&dashboard).answer(request).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let link = ask(&dashboard, "GET", "/items", &[("sec-fetch-site", "cross-site")], "").await;
    assert!(link.status == 403 && link.body.contains("href=\"/items\""), "{}", link.body);
}
