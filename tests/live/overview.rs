//! `GET /admin/overview` and `GET /admin/sessions`: numbers of a real relay with a real gateway.

use serde_json::{Value, json};

use super::{ask, get, home, mailbox};
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn mail_and_gateways_are_seen_at_a_glance_and_in_the_last_hour() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let home = home(&relay);
    let key = mailbox(dir.path(), &home);
    let show = || {
        let data_dir = dir.path().to_str().expect("text");
        let (code, out, error) = run_text(&["mailbox", "show", &key, "--json", "--data-dir", data_dir]);
        assert_eq!(code, 0, "{error}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    send(relay.smtp, &format!("{key}@mail.localhost"), b"Subject: x\r\n\r\nx\r\n").expect("accepted");

    let before = get(dir.path(), "/overview");
    assert_eq!(
        (&before["items"]["ready"], &before["sessions"], &before["mailboxes"]),
        (&json!(1), &json!(0), &json!(2)),
        "two: this one and the operator's"
    );
    assert_eq!((&before["hostname"], &before["domains"]), (&json!("localhost"), &json!(["mail.localhost"])));
    assert!(before["uptime_seconds"].is_u64() && before["started_at"].is_string());
    assert!(before["free_bytes"].as_u64() > Some(0));
    until("the oldest is known", || get(dir.path(), "/overview")["oldest_ready_seconds"].is_u64()).await;
    assert_eq!(get(dir.path(), "/sessions"), json!({ "sessions": [], "next": null }));
    let seen = show();
    assert_eq!((&seen["connected"], &seen["last_seen_at"]), (&json!(false), &Value::Null));

    let running = home.start(None);
    until("the gateway has the item", || get(dir.path(), "/overview")["items"]["acked"] == 1).await;
    until("its session says so", || get(dir.path(), "/sessions")["sessions"][0]["acked"] == 1).await;
    let page = get(dir.path(), "/sessions?limit=5");
    let session = &page["sessions"][0];
    assert_eq!((&session["lane"], &session["tunnel"]), (&json!(key), &json!(2)));
    assert_eq!((&session["role"], &session["client"]), (&json!("inbound"), &json!("127.0.0.1")));
    assert_eq!((&session["in_flight_items"], &session["in_flight_bytes"]), (&json!(0), &json!(0)));
    assert!(session["connected_at"].is_string() && session["connected_seconds"].is_u64(), "{session}");
    assert_eq!(page["next"], Value::Null);
    assert_eq!(get(dir.path(), &format!("/sessions?after={key}"))["sessions"], json!([]));
    let seen = show();
    assert!(seen["connected"] == true && seen["last_seen_at"].is_string(), "{seen}");
    assert_eq!(get(dir.path(), "/overview")["sessions"], 1);

    running.stop().await;
    until("the session is gone", || get(dir.path(), "/overview")["sessions"] == 0).await;
    let seen = show();
    assert!(seen["connected"] == false && seen["last_seen_at"].is_string(), "{seen}");

    // A step is ten seconds; then what happened is history.
    let series = |name: &str| get(dir.path(), "/overview")["history"]["series"][name].clone();
    let sum = |name: &str| series(name).as_array().expect(name).iter().filter_map(Value::as_u64).sum::<u64>();
    until("the step is over", || sum("accepted") == 1 && sum("acked") == 1).await;
    let after = get(dir.path(), "/overview");
    assert_eq!((&after["ready"], &after["problems"]), (&json!(true), &json!([])));
    assert_eq!((&after["warnings"], &after["certificate_not_after"]), (&json!([]), &Value::Null));
    assert!(after["commit"]["count"].as_u64() > Some(0) && after["commit"]["p99_ms"].as_f64() > Some(0.0));
    assert_eq!(after["history"]["series"]["accepted"].as_array().map(Vec::len), Some(360));
    assert_eq!(after["history"]["series"]["accepted"][0], Value::Null, "before the start");

    for (target, expected) in [("/sessions?after=nobody", 400), ("/sessions?limit=x", 400), ("/nothing", 404)]
    {
        let (status, head, body) = ask(dir.path(), &format!("GET /admin{target}"), "");
        assert!(status == expected && body.contains("\"message\""), "{target}: {head}\n{body}");
    }
    let (status, _, body) = ask(dir.path(), "POST /admin/overview", "{}");
    assert!(status == 405 && body.contains("method_not_allowed"), "{status} {body}");
    let (status, _, body) = ask(dir.path(), "POST /admin/mailboxes", &"x".repeat(70_000));
    assert!(status == 413 && body.contains("too_large"), "{status} {body}");
    assert_eq!(relay.terminate(), 0);
}
