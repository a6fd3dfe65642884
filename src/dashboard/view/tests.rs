//! Pages made of hostile and of missing values.

use serde_json::json;

use super::*;
use crate::dashboard::head::Head;
use crate::dashboard::route::{Fields, Switch, Verb};

const ID: &str = "06h4k2v0c8q1r5t7u9v3s6d0ag";
/// What a stranger may write wherever he may write.
const EVIL: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{0}";

fn frame(assets: &Assets) -> Frame<'_> {
    Frame {
        hostname: "mx.our.example",
        assets,
        form_token: Some("form-token-of-this-session"),
        now_ms: 1_767_323_045_678,
    }
}

fn evil_item() -> Value {
    json!({
        "id": ID, "direction": "out", "lane": EVIL, "seq": 7, "state": "failed", "size_bytes": 1234,
        "mail_from": EVIL, "rcpt_to": EVIL, "accepted_at": "2026-01-02T03:04:05.678Z", "changed_at": EVIL, "sha256": EVIL,
        "destination": EVIL, "helo": EVIL, "due_at": EVIL, "due_seconds": 3, "attempts_made": 2, "told": false,
        "verdicts": { "spf": EVIL },
        "timeline": [{ "at": EVIL, "state": EVIL, "reason": EVIL,
                       "attempts": [{ "host": EVIL, "address": EVIL, "tls": EVIL, "code": 550, "enhanced_code": EVIL, "text": EVIL,
                                      "stage": EVIL, "started_at": EVIL, "duration_ms": 12 }] }],
    })
}

/// Every page, made of `item` and other values that are hostile.
fn pages(assets: &Assets) -> Vec<String> {
    let (frame, item) = (frame(assets), evil_item());
    let list = json!({ "items": [item, item], "next": EVIL });
    let mailbox = json!({ "lane": EVIL, "aliases": [EVIL, EVIL], "created_at": EVIL, "revoked": true, "connected": true, "last_seen_at": EVIL });
    let numbers = json!({ "uptime_seconds": 5, "version": EVIL, "ready": false, "problems": [EVIL], "warnings": [EVIL],
        "deliveries": { "paused": EVIL, "left_alone": [{ "destination": EVIL, "until": EVIL }] },
        "history": { "step_seconds": 10, "until": EVIL, "series": { "accepted": [1, EVIL, null] } } });
    let records = json!({ "ok": false, "checked_at": EVIL,
        "records": [{ "name": EVIL, "type": EVIL, "want": EVIL, "found": [EVIL], "status": EVIL, "advice": EVIL }] });
    let head = Head::read(format!("Subject: {EVIL}\r\nFrom: {EVIL}\r\n{EVIL}: x\r\n\r\n").as_bytes());
    let fields = Fields::read("q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&state=%22onload=x&lane=%3Cb%3E");
    let seen = overview::Overview { numbers: Some(&numbers), newest: &list, done: Some(EVIL) };
    let lane = lanes::Lane { mailbox: &mailbox, newest: &list, done: Some(EVIL) };
    let found = items::Search { fields: &fields, answer: Ok(&list), mailbox: Some(EVIL) };
    let wrong = items::Search { answer: Err(EVIL), ..found };
    let detail = item::Item { record: &item, explanation: Some(EVIL), head: Some(&head), done: Some(EVIL) };
    let lanes_page = json!({ "mailboxes": [mailbox], "next": 7 });
    [
        overview::overview(&frame, &seen),
        lanes::lanes(&frame, &lanes_page, &fields),
        lanes::lane(&frame, &lane),
        items::items(&frame, &found),
        items::items(&frame, &wrong),
        item::item(&frame, &detail),
        dns::dns(&frame, Some(Ok(&records))),
        dns::dns(&frame, Some(Err(EVIL))),
        dns::dns(&frame, None),
        confirm::item(&frame, &item, Verb::Purge, EVIL, Some(EVIL)),
        confirm::replay(&frame, &mailbox, Some(EVIL)),
        confirm::deliveries(&frame, Switch::Pause, EVIL, Some(EVIL)),
        login::login(&frame, &login::Hint::File(EVIL.to_owned()), EVIL, Some(EVIL)),
        problem(&frame, EVIL, EVIL, ("/", EVIL)),
    ]
    .into_iter()
    .map(Markup::into_string)
    .collect()
}

/// Names of the attributes of a page, by a reading as strict as a browser's: in order, with quotes.
fn tags(page: &str) -> Vec<(String, Vec<String>)> {
    let mut out = Vec::new();
    for piece in page.split('<').skip(1) {
        let tag = piece.split('>').next().unwrap_or("");
        let name = tag.split([' ', '\n']).next().unwrap_or("").to_owned();
        let mut attributes = Vec::new();
        // Quoted values hold no `"`, `<` or `>`: those are escaped.
        for (n, part) in tag[name.len()..].split('"').enumerate() {
            if n % 2 == 0 {
                attributes.extend(part.split_whitespace().map(|word| word.trim_end_matches('=').to_owned()));
            }
        }
        out.push((name, attributes));
    }
    out
}

#[test]
fn what_strangers_write_stays_text() {
    let assets = Assets::new();
    for page in pages(&assets) {
        assert!(page.contains("&lt;script&gt;") || !page.contains("alert"), "{page}");
        for (name, attributes) in tags(&page) {
            assert!(name != "img" && !name.eq_ignore_ascii_case("iframe"), "{page}");
            for attribute in attributes {
                assert!(!attribute.starts_with("on") && attribute != "style", "{name} {attribute}: {page}");
            }
        }
        assert_eq!(page.matches("<script").count(), 1, "only our own file");
        assert!(page.contains(&format!(r#"<script src="{}" defer></script>"#, assets.script())));
    }
}

#[test]
fn every_page_has_a_heading_a_language_a_way_past_the_navigation_and_named_tables() {
    let assets = Assets::new();
    for page in pages(&assets) {
        assert_eq!(page.matches("<h1").count(), 1, "{page}");
        assert!(page.contains(r#"<html lang="en">"#) && page.contains(r##"href="#main""##), "{page}");
        assert_eq!(page.matches("<table").count(), page.matches("<caption").count(), "{page}");
        let ids: Vec<_> =
            page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap_or("")).collect();
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(ids.len(), unique.len(), "{ids:?}");
        for label in page.split(" for=\"").skip(1).map(|rest| rest.split('"').next().unwrap_or("")) {
            assert!(ids.contains(&label), "no field {label}: {page}");
        }
    }
}

#[test]
fn every_form_that_changes_carries_the_form_token() {
    let assets = Assets::new();
    for page in pages(&assets) {
        for form in page.split("<form").skip(1) {
            let form = form.split("</form>").next().unwrap_or("");
            let is_login = form.contains("action=\"/login\"");
            let posts = form.contains("method=\"post\"") && !is_login;
            assert_eq!(posts, form.contains("form-token-of-this-session"), "{form}");
        }
    }
}

#[test]
fn only_what_the_state_allows_is_offered() {
    assert_eq!(Verb::for_state("in", "acked"), [Verb::Replay, Verb::Purge]);
    assert_eq!(Verb::for_state("out", "armed"), []);
    assert_eq!(Verb::for_state("in", "purged"), []);
}

#[test]
fn values_of_another_shape_are_pages_too() {
    let assets = Assets::new();
    let (frame, none) = (frame(&assets), Value::Null);
    let seen = overview::Overview { numbers: Some(&none), newest: &none, done: None };
    assert!(overview::overview(&frame, &seen).into_string().contains("Not ready for mail"));
    let seen = overview::Overview { numbers: None, newest: &none, done: None };
    assert!(overview::overview(&frame, &seen).into_string().contains("cannot be read"));
    let detail = item::Item { record: &none, explanation: None, head: None, done: None };
    assert!(item::item(&frame, &detail).into_string().contains("not kept any more"));
}

#[test]
fn a_relay_that_is_ready_says_what_is_not_well() {
    let assets = Assets::new();
    let (frame, none) = (frame(&assets), Value::Null);
    let (expired, paused) = ("the certificate has run out", "deliveries are paused");
    let page = |numbers: Value| {
        let seen = overview::Overview { numbers: Some(&numbers), newest: &none, done: None };
        overview::overview(&frame, &seen).into_string()
    };
    let well = page(json!({ "ready": true, "problems": [], "warnings": [] }));
    assert!(well.contains("health good") && !well.contains("not all is well"), "{well}");
    let warned = page(json!({ "ready": true, "problems": [], "warnings": [expired, paused] }));
    assert!(warned.contains("Ready for mail") && warned.contains("health warn"), "{warned}");
    assert!(warned.contains(expired) && warned.contains(&format!("<li>{paused}</li>")), "{warned}");
    assert!(!warned.contains("health good"), "{warned}");
    let stopped = json!({ "paused": "moving house" });
    let page_of = |warnings: &[&str]| {
        page(json!({ "ready": true, "problems": [], "warnings": warnings, "deliveries": stopped }))
    };
    let only_paused = page_of(&[paused]);
    assert!(only_paused.contains("health good") && only_paused.contains("moving house"), "{only_paused}");
    let both = page_of(&[expired, paused]);
    assert!(both.contains("health warn") && !both.contains(&format!("<li>{paused}</li>")), "{both}");
    let down = page(json!({ "ready": false, "problems": ["spool is poisoned"], "warnings": [expired] }));
    assert!(down.contains("health bad") && down.contains(expired), "{down}");
}

#[test]
fn a_long_story_keeps_its_beginning_and_its_end() {
    let assets = Assets::new();
    let steps: Vec<_> =
        (0..1000).map(|n| json!({ "at": "", "state": "ready", "reason": format!("step {n}.") })).collect();
    let mut record = evil_item();
    record["timeline"] = steps.into();
    let detail = item::Item { record: &record, explanation: None, head: None, done: None };
    let page = item::item(&frame(&assets), &detail).into_string();
    assert!(page.contains("step 0.") && page.contains("step 999.") && !page.contains("step 500."));
    assert!(page.contains("800 steps left out"), "{page}");
}
