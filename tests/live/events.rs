//! `GET /admin/events`: what happens, as it happens, to as many as may look on, until the relay stops.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use waystation::admin::events::ONLOOKERS_MAX;

use super::{ask, connect, home, mailbox};
use crate::support::post::send;
use crate::support::process::{RelayProcess, run_text};
use crate::support::until;

const LETTER: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

/// Somebody who looks on.
pub(super) struct Onlooker<S>(BufReader<S>);

impl<S: std::io::Read + std::io::Write> Onlooker<S> {
    /// Asks, and waits until the relay tells it everything.
    fn ask(mut stream: S, target: &str, fields: &str) -> Self {
        write!(stream, "GET /admin/events{target} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n")
            .expect("asked");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        Self(reader)
    }

    /// The next event and its object; `None` at the end of the stream.
    fn next(&mut self) -> Option<(String, Value)> {
        let until = waystation::clock::monotonic() + super::PATIENCE;
        let mut name = String::new();
        loop {
            assert!(waystation::clock::monotonic() < until, "no event in time");
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("a line") == 0 {
                return None;
            }
            if let Some(event) = line.strip_prefix("event: ") {
                event.trim_end().clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).expect("one object")));
            }
        }
    }

    /// Events until one of that name; the last is that one.
    fn until(&mut self, last: &str) -> Vec<(String, Value)> {
        let mut seen: Vec<(String, Value)> = Vec::new();
        loop {
            let Some((name, data)) = self.next() else { panic!("the stream ended before {last}: {seen:?}") };
            let is_last = name == last;
            seen.push((name, data));
            if is_last {
                return seen;
            }
        }
    }
}

impl Onlooker<UnixStream> {
    pub(super) fn of(data_dir: &Path, target: &str) -> Self {
        Self::ask(connect(data_dir), target, "")
    }
}

/// Names of the events that name this id, in order.
fn life(events: &[(String, Value)], id: &str) -> Vec<String> {
    let about = |data: &Value| data["item.id"] == id || data["submission.id"] == id;
    events.iter().filter(|(_, data)| about(data)).map(|(name, _)| name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_life_is_told_once_with_id_and_lane() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let home = home(&relay);
    let key = mailbox(dir.path(), &home);
    let address = format!("{key}@mail.localhost");
    let mut onlooker = Onlooker::of(dir.path(), "");
    let post = || send(relay.smtp, &address, LETTER).expect("accepted");
    let (fetched, purged) = (post(), post());
    let data_dir = dir.path().to_str().expect("text");
    for args in [&["hold", fetched.as_str()][..], &["release", &fetched], &["purge", &purged, "--yes"]] {
        let (code, _, error) = run_text(&[&["spool"], args, &["--data-dir", data_dir]].concat());
        assert_eq!(code, 0, "{error}");
    }
    let running = home.start(None);
    let mut events = onlooker.until("relay.item.acked");
    assert_eq!(
        life(&events, &fetched),
        [
            "relay.ingress.accepted",
            "relay.item.held",
            "relay.item.released",
            "relay.item.offered",
            "relay.item.acked"
        ]
    );
    assert_eq!(life(&events, &purged), ["relay.ingress.accepted", "relay.item.purged"]);

    // From one mailbox to itself: a submission that ends at once, and an item in the same commit.
    until("the gateway takes mail", || home.status().is_some()).await;
    let sent = home.send(&[&address], "Subject: to myself\n\nhello\n");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    events = onlooker.until("relay.outbound.told");
    let submission = events.last().expect("told").1["submission.id"].as_str().expect("an id").to_owned();
    // The item may have been acked before the result was.
    let is_acked = |(name, _): &(String, Value)| name == "relay.item.acked";
    if !events.iter().any(is_acked) {
        events.extend(onlooker.until("relay.item.acked"));
    }
    let local = events.iter().find(|(name, _)| name == "relay.ingress.accepted").expect("an item");
    assert_eq!(local.1["submission.id"], submission.as_str());
    let item = local.1["item.id"].as_str().expect("an id").to_owned();
    // Who took it and who hands it over are two; either may tell first.
    let mut steps = life(&events, &item);
    assert_eq!(steps.pop().as_deref(), Some("relay.item.acked"));
    steps.sort();
    assert_eq!(steps, ["relay.ingress.accepted", "relay.item.offered"]);
    let mut steps = life(&events, &submission);
    steps.retain(|name| name.starts_with("relay.outbound."));
    assert_eq!(steps, ["relay.outbound.accepted", "relay.outbound.sent", "relay.outbound.told"]);
    for (name, data) in &events {
        if data["item.id"].is_string() || data["submission.id"].is_string() {
            assert_eq!(data["lane"], key.as_str(), "{name}: {data}");
        }
        assert_eq!(data["event"], name.as_str());
        assert!(
            data["time"].as_str().is_some_and(|time| time.ends_with('Z')) && data["message"].is_string(),
            "{data}"
        );
    }
    running.stop().await;
    assert_eq!(relay.terminate(), 0);
    while onlooker.next().is_some() {}
}

#[test]
fn filters_name_an_item_a_lane_and_a_beginning() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let homes = [(); 2].map(|()| home(&relay));
    let [here, there] = [0, 1].map(|n| mailbox(dir.path(), &homes[n]));
    let (code, _, error) = run_text(&[
        "mailbox",
        "alias",
        "me@mail.localhost",
        &here,
        "--data-dir",
        dir.path().to_str().expect("text"),
    ]);
    assert_eq!(code, 0, "{error}");
    let mut by_lane = Onlooker::of(dir.path(), "?lane=me@mail.localhost");
    let mut by_name = Onlooker::of(dir.path(), "?event=relay.item.");
    let other = send(relay.smtp, &format!("{there}@mail.localhost"), LETTER).expect("accepted");
    let mine = send(relay.smtp, &format!("{here}@mail.localhost"), LETTER).expect("accepted");
    let mut by_item = Onlooker::of(dir.path(), &format!("?item={other}"));
    for id in [&mine, &other] {
        let (status, _, body) = ask(dir.path(), &format!("POST /admin/spool/items/{id}/hold"), "{}");
        assert_eq!(status, 200, "{body}");
    }
    let first = by_lane.next().expect("an event");
    assert_eq!(
        (first.0.as_str(), &first.1["item.id"]),
        ("relay.ingress.accepted", &Value::from(mine.as_str()))
    );
    assert_eq!(by_name.next().expect("an event").1["item.id"], mine.as_str());
    let held = by_item.next().expect("an event");
    assert_eq!((held.0.as_str(), &held.1["item.id"]), ("relay.item.held", &Value::from(other.as_str())));
    for (target, expected) in
        [("?item=short", 400), ("?lane=nobody@mail.localhost", 404), ("?color=red", 400)]
    {
        let (status, head, body) = ask(dir.path(), &format!("GET /admin/events{target}"), "");
        assert!(status == expected && body.contains("\"message\""), "{target}: {head}\n{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_look_on_and_a_stop_waits_for_none_of_them() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let mut onlookers: Vec<_> = (0..ONLOOKERS_MAX).map(|_| Onlooker::of(dir.path(), "")).collect();
    let (status, head, body) = ask(dir.path(), "GET /admin/events", "");
    assert!(status == 503 && body.contains("\"busy\""), "{head}\n{body}");
    onlookers.pop();
    until("the place of one that left is free", || {
        let mut socket = connect(dir.path());
        write!(socket, "GET /admin/events HTTP/1.1\r\nhost: x\r\n\r\n").expect("asked");
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).expect("a line");
        line.starts_with("HTTP/1.1 200")
    })
    .await;
    // None of them reads while the relay stops.
    assert_eq!(relay.terminate(), 0);
    for onlooker in &mut onlookers {
        while onlooker.next().is_some() {}
    }
}

#[test]
fn over_http_they_are_told_to_whoever_has_the_token() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("admin.token");
    let (code, _, error) = run_text(&["keys", "token", "--file", file.to_str().expect("path")]);
    assert_eq!(code, 0, "{error}");
    let token = std::fs::read_to_string(&file).expect("token");
    let data = dir.path().join("data");
    let relay = RelayProcess::start_with(
        &data,
        &[("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", file.to_str().expect("path"))],
    );
    let mut without = TcpStream::connect(relay.http).expect("connects");
    write!(without, "GET /admin/events HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("asked");
    let mut refusal = String::new();
    BufReader::new(without).read_line(&mut refusal).expect("a line");
    assert!(refusal.starts_with("HTTP/1.1 401"), "{refusal}");
    let with = TcpStream::connect(relay.http).expect("connects");
    let mut onlooker = Onlooker::ask(with, "", &format!("authorization: Bearer {}\r\n", token.trim()));
    let (status, _, body) = ask(&data, "POST /admin/delivery/pause", r#"{"reason":"moving"}"#);
    assert_eq!(status, 200, "{body}");
    let told = onlooker.until("relay.outbound.paused");
    assert_eq!(told.last().expect("told").1["reason"], "moving");
    assert_eq!(told.last().expect("told").1["level"], "warn");
    assert_eq!(relay.terminate(), 0);
    while onlooker.next().is_some() {}
}
