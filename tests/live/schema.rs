//! The OpenAPI document, and whether the relay keeps to it: judged by a validator that is not ours.

use serde_json::{Value, json};
use waystation::admin::api::routes;

use super::{ask, home, mailbox};
use crate::support::judges::{peer, python, run, script};
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text};
use crate::support::until;

/// Answers with streams, bytes and documents in them.
const NO_OBJECTS: [&str; 3] = ["/admin/events", "/admin/spool/items/{id}/raw", "/admin/openapi.json"];

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_valid_and_every_answer_is_as_it_says() {
    let Some(peer) = peer("openapi") else {
        eprintln!("SKIPPED: openapi-spec-validator is not in target/peers; tests/run puts it there");
        return;
    };
    let Some(python) = python("json") else { return };
    let dir = tempfile::tempdir().expect("directory");
    let beside = tempfile::tempdir().expect("directory");
    let copy = beside.path().join("copy");
    // Nobody listens at the smarthost, so that what goes there is tried and waits.
    let relay = RelayProcess::start_with(
        dir.path(),
        &[
            ("WAYSTATION_DELIVERY__SMARTHOST", "127.0.0.1:9"),
            ("WAYSTATION_DELIVERY__ALLOW_PRIVATE_TARGETS", "true"),
        ],
    );
    let home = home(&relay);
    let key = mailbox(dir.path(), &home);
    let address = format!("{key}@mail.localhost");
    let running = home.start(None);
    let item = send(relay.smtp, &address, b"Subject: x\r\n\r\nx\r\n").expect("accepted");
    until("the gateway takes mail", || home.status().is_some()).await;
    let sent = home.send(&["far@far.invalid", &address], "Subject: out\n\nhello\n");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let data_dir = dir.path().to_str().expect("text").to_owned();
    let outgoing = || {
        let (_, out, _) = run_text(&["spool", "ls", "--direction", "out", "--json", "--data-dir", &data_dir]);
        out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>()
    };
    until("both submissions are there", || outgoing().len() == 2).await;
    let waiting = || outgoing().into_iter().find(|s| s["state"] == "ready" && s["attempts_made"] != 0);
    until("one was tried", || waiting().is_some()).await;
    let submission = waiting().expect("one waits")["id"].as_str().expect("id").to_owned();

    let mut answers = Vec::new();
    let mut judge = |method: &str, path: &str, target: &str, body: &Value| {
        let line = format!("{} {target}", method.to_ascii_uppercase());
        let (status, head, body) = ask(dir.path(), &line, &body.to_string());
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{target}: {head}\n{body}"));
        answers.push(json!({ "method": method, "path": path, "status": status, "body": body }));
        status
    };
    // Every question, of something that is there and of something that is not.
    let questions = routes::all().into_iter().filter(|route| route.method == "get");
    for route in questions.filter(|route| !NO_OBJECTS.contains(&route.path)) {
        for id in [&item, &submission] {
            let target = route.path.replace("{id}", id).replace("{name}", &key);
            assert_eq!(judge("get", route.path, &target, &json!({})), 200, "{target}");
        }
        if route.path.contains('{') {
            let target = route.path.replace("{id}", "06h4k2v0c8q1r5t7u9v3s6d0ag").replace("{name}", "nobody");
            assert_eq!(judge("get", route.path, &target, &json!({})), 404, "{target}");
        }
    }
    judge("get", "/admin/spool/items", "/admin/spool/items?attempts=true&direction=out", &json!({}));
    // Changes, those that are made and those that are refused.
    let items = "/admin/spool/items/{id}";
    for (verb, id, status) in [
        ("hold", &submission, 200),
        ("retry", &submission, 409),
        ("release", &submission, 200),
        ("cancel", &submission, 200),
        ("replay", &item, 200),
        ("replay", &submission, 400),
        ("purge", &item, 200),
        ("resend", &submission, 400),
    ] {
        let path = format!("{items}/{verb}");
        assert_eq!(
            judge("post", &path, &path.replace("{id}", id), &json!({ "reason": "why" })),
            status,
            "{verb}"
        );
    }
    let path = format!("{items}/resend");
    assert_eq!(
        judge("post", &path, &path.replace("{id}", &submission), &json!({ "i_know_it_may_duplicate": true })),
        200
    );
    let mailbox = "/admin/mailboxes/{name}";
    for (verb, body, status) in [
        ("alias", json!({ "address": "me@mail.localhost" }), 200),
        ("alias", json!({ "address": "me@elsewhere.example" }), 400),
        ("quota", json!({ "items": 5 }), 200),
        ("allow", json!({}), 200),
        ("revoke", json!({ "hold_outgoing": true }), 200),
    ] {
        let path = format!("{mailbox}/{verb}");
        assert_eq!(judge("post", &path, &path.replace("{name}", &key), &body), status, "{verb}");
    }
    for (path, body, status) in [
        ("/admin/mailboxes", json!({ "key": "short" }), 400),
        ("/admin/invitations", json!({ "label": "aunt" }), 200),
        ("/admin/spool/replay", json!({ "lane": key, "from_seq": 1 }), 200),
        ("/admin/spool/replay", json!({ "lane": key }), 400),
        ("/admin/delivery/pause", json!({ "reason": "moving" }), 200),
        ("/admin/delivery/resume", json!({}), 200),
        ("/admin/delivery/resume", json!({}), 409),
        ("/admin/attestation/rotate", json!({}), 200),
        ("/admin/spool/verify", json!({}), 200),
        ("/admin/backup", json!({ "dir": copy }), 200),
        ("/admin/backup", json!({ "dir": "here" }), 400),
        ("/admin/reload", json!({}), 200),
    ] {
        assert_eq!(judge("post", path, path, &body), status, "{path}");
    }
    let (status, _, document) = ask(dir.path(), "GET /admin/openapi.json", "");
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let asked = json!({ "document": document, "answers": answers });
    let verdict =
        run(python, &[&script("openapi.py"), &peer], asked.to_string().as_bytes()).expect("a verdict");
    assert_eq!(String::from_utf8_lossy(&verdict), "");
    drop(running);
    assert_eq!(relay.terminate(), 0);
}
