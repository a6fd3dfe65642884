//! The table of requests and answers of the protocol (vectors `http`), and ours beside it.

use std::sync::Mutex;

use axum::routing::any;
use http_body_util::BodyExt as _;

use super::*;

struct Fake(Mutex<Vec<String>>);

/// What [`Fake`] warns of.
const WARNING: &str = "deliveries are paused";

impl Vitals for Fake {
    fn connections(&self) -> u64 {
        3
    }
    fn uptime_seconds(&self) -> u64 {
        42
    }
    fn problems(&self) -> Vec<String> {
        self.0.lock().expect("lock").clone()
    }
    fn warnings(&self) -> Vec<String> {
        vec![WARNING.to_owned()]
    }
}

fn app(problems: &[&str], with_metrics: bool) -> Router {
    let vitals = Fake(Mutex::new(problems.iter().map(|p| (*p).to_owned()).collect()));
    let metrics = with_metrics.then(|| Arc::new(Metrics::new()));
    let tunnel = Router::new().route("/ws", any(|| async { "tunnel" }));
    router(Arc::new(vitals), metrics, tunnel, Extras::default())
}

async fn ask(app: Router, method: &str, target: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let mut request = axum::http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.oneshot(request.body(Body::empty()).expect("request")).await.expect("answer");
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map_or("", |v| v.to_str().expect("text")).to_owned();
    let body = response.into_body().collect().await.expect("body").to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).expect("text"))
}

struct Said;

impl About for Said {
    fn object(&self) -> Value {
        json!({ "hostname": "relay.example" })
    }
}

#[tokio::test]
async fn what_anybody_may_know_is_said_at_one_exact_target() {
    let about = || {
        let extras = Extras { about: Some(Arc::new(Said)), ..Extras::default() };
        router(Arc::new(Fake(Mutex::default())), None, Router::new(), extras)
    };
    let (status, kind, body) = ask(about(), "GET", "/.well-known/waystation", &[]).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    assert_eq!(body, r#"{"hostname":"relay.example"}"#);
    let request = axum::http::Request::get("/.well-known/waystation").body(Body::empty()).expect("request");
    let response = about().oneshot(request).await.expect("answer");
    assert_eq!(response.headers()["cache-control"], "max-age=300");
    for (method, target) in [("GET", "/.well-known/waystation?x"), ("POST", "/.well-known/waystation")] {
        assert_eq!(ask(about(), method, target, &[]).await.0, 404, "{method} {target}");
    }
    assert_eq!(ask(app(&[], false), "GET", "/.well-known/waystation", &[]).await.0, 404, "nothing to say");
}

#[tokio::test]
async fn unknown_requests_get_the_protocols_404() {
    for (method, target) in [
        ("POST", "/health"),
        ("GET", "/health?x=1"),
        ("GET", "/"),
        ("GET", "/admin/spool/stats"),
        ("DELETE", "/metrics"),
        ("HEAD", "/health"),
    ] {
        let (status, kind, body) = ask(app(&[], true), method, target, &[]).await;
        assert_eq!((status, kind.as_str()), (404, "application/json"), "{method} {target}");
        let expected = if method == "HEAD" { "" } else { r#"{"error":"not_found"}"# };
        assert_eq!(body, expected, "{method} {target}");
    }
}

#[tokio::test]
async fn health_says_that_the_process_lives() {
    let (status, kind, body) = ask(app(&["disk full"], true), "GET", "/health", &[]).await;
    let body: Value = serde_json::from_str(&body).expect("json");
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    assert_eq!(
        (&body["status"], &body["connections"], &body["uptime"]),
        (&json!("ok"), &json!(3), &json!(42))
    );
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn ready_gives_reasons_when_it_is_not() {
    let (status, _, body) = ask(app(&[], true), "GET", "/ready", &[]).await;
    let body: Value = serde_json::from_str(&body).expect("json");
    assert_eq!((status, body), (200, json!({ "status": "ready", "warnings": [WARNING] })));
    let (status, _, body) = ask(app(&["spool is poisoned"], true), "GET", "/ready", &[]).await;
    let body: Value = serde_json::from_str(&body).expect("json");
    let expected = json!({ "status": "not_ready", "reasons": ["spool is poisoned"], "warnings": [WARNING] });
    assert_eq!((status, body), (503, expected));
}

#[tokio::test]
async fn metrics_speak_text_and_json_and_can_be_off() {
    let (status, kind, body) = ask(app(&[], true), "GET", "/metrics", &[]).await;
    assert_eq!(status, 200);
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(body.contains("\nwaystation_ready 1\n") && !body.contains("# EOF"), "{body}");
    let accept =
        [("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")];
    let (_, kind, body) = ask(app(&[], true), "GET", "/metrics", &accept).await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(body.contains("\nwaystation_ready 1\n") && body.ends_with("# EOF\n"), "{body}");
    let (_, kind, body) = ask(app(&[], true), "GET", "/metrics", &[("accept", "application/json")]).await;
    assert_eq!(kind, "application/json");
    assert!(serde_json::from_str::<Value>(&body).expect("json")["waystation_ready"].is_object());
    assert_eq!(ask(app(&[], false), "GET", "/metrics", &[]).await.0, 404);
}

#[tokio::test]
async fn requests_for_the_tunnel_reach_it_and_no_others_do() {
    assert_eq!(ask(app(&[], true), "GET", "/ws", &[]).await.2, "tunnel");
    assert_eq!(ask(app(&[], true), "POST", "/ws?x=1", &[]).await.2, "tunnel");
    assert_eq!(ask(app(&[], true), "GET", "/ws/", &[]).await.0, 404);
}
