//! Mail out of a home: from local programs into the outbox, to a scripted relay, and what comes back.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use crate::support::home::{Home, Running};
use crate::support::script_relay::{Manner, ScriptRelay};
use crate::support::until;

const TEXT: &str = "Subject: hello\n\nline one\n.dotted\n";
const CANONICAL_END: &str = "Subject: hello\r\n\r\nline one\r\n.dotted\r\n";

fn sent_ids(home: &Home, args: &[&str]) -> Vec<String> {
    let sent = home.send(args, TEXT);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    ids_in(sent.stdout)
}

fn ids_in(told: Vec<u8>) -> Vec<String> {
    let told = String::from_utf8(told).unwrap();
    let lines = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| line["id"].as_str().unwrap().to_owned()).collect()
}

fn state(home: &Home, id: &str) -> String {
    home.submission(id)
        .map_or_else(|| "unknown".to_owned(), |story| story["state"].as_str().unwrap().to_owned())
}

/// Reports in the Maildir, by the submission's id.
fn reports(home: &Home) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> =
        home.maildir().into_iter().map(|(id, bytes)| (id, String::from_utf8(bytes).unwrap())).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sent_message_is_accepted_then_sent_and_the_answer_is_kept() {
    let relay = ScriptRelay::start(Manner::Accepts).await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    until("it listens", || home.status().is_some()).await;
    let ids = sent_ids(&home, &["-F", "Me", "you@example.org", "YOU@EXAMPLE.ORG", "too@example.org"]);
    assert_eq!(ids.len(), 2, "each recipient once");
    relay.wait("both are stored", |ledger| ledger.stored.len() == 2).await;
    let (mail_from, bytes) = {
        let stored = relay.ledger().stored[&ids[0]].clone();
        assert_eq!(stored.rcpt_to, "you@example.org");
        (stored.mail_from, String::from_utf8(stored.bytes).unwrap())
    };
    assert_eq!(bytes, format!("From: \"Me\" <{mail_from}>\r\n{CANONICAL_END}"));
    until("accepted", || ids.iter().all(|id| state(&home, id) == "accepted")).await;
    assert_eq!(home.submission(&ids[0]).unwrap()["relay_id"], format!("at-relay-{}", ids[0]));
    relay.settle(&ids[0], "sent", "250 2.0.0 ok");
    relay.settle(&ids[1], "indeterminate", "lost after the dot");
    relay.wait("acked", |ledger| ledger.stored.values().all(|stored| stored.acked)).await;
    until("a report is there", || reports(&home).len() == 1).await;
    let (id, report) = reports(&home).remove(0);
    assert_eq!(id, ids[1]);
    assert!(report.contains("Action: delayed") && report.contains("lost after the dot"), "{report}");
    let status = home.status().unwrap();
    assert_eq!((&status["outbox"]["sent"], &status["outbox"]["indeterminate"]), (&1.into(), &1.into()));
    assert_eq!(status["submissions"][1]["state"], "sent");
    running.stop().await;
    // Also with nobody at home.
    assert_eq!(state(&home, &ids[0]), "sent");
    let story = home.submission(&ids[0]).unwrap();
    let states: Vec<&str> =
        story["events"].as_array().unwrap().iter().map(|event| event["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["queued", "queued", "accepted", "sent"]);
    assert_eq!(story["events"][0]["text"], "");
    assert_eq!(relay.ledger().starts.len(), 2, "nothing was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_for_a_gateway_that_does_not_run_waits_in_the_outbox() {
    let relay = ScriptRelay::start(Manner::Accepts).await;
    let home = Home::new(&relay.url());
    let text =
        "To: a@example.org\nCc: B <b@example.org>\nBcc: c@example.org\nSubject: x\n\nfoo\n.\nnot this\n";
    let sent = home.send(&["-t", "-om"], text);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let ids: Vec<String> = ids_in(sent.stdout);
    assert!(ids.iter().all(|id| state(&home, id) == "queued"));
    let running = home.start(None);
    relay.wait("all are stored", |ledger| ledger.stored.len() == 3).await;
    for stored in relay.ledger().stored.values() {
        let text = String::from_utf8(stored.bytes.clone()).unwrap();
        assert!(text.ends_with("\r\n\r\nfoo\r\n") && !text.contains("Bcc"), "{text}");
    }
    until("accepted", || ids.iter().all(|id| state(&home, id) == "accepted")).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_at_once_with_the_right_code() {
    let relay = ScriptRelay::start(Manner::Accepts).await;
    let home = Home::new(&relay.url());
    for (args, text, code, word) in [
        (&["-f", "you@example.org", "a@b.example"][..], TEXT, 1, "not an address of this gateway"),
        (&["a@b.example"], "From: you@example.org\n\nx\n", 1, "From <you@example.org>"),
        (&["root"], TEXT, 2, "has no domain"),
        (&[], TEXT, 2, "no recipients"),
        (&["-bs"], TEXT, 2, "-bs"),
        (&["a@b.example"], "Subject: x\n\na\rb\n", 1, "carriage return"),
    ] {
        let sent = home.send(args, text);
        let told = String::from_utf8_lossy(&sent.stderr).into_owned();
        assert_eq!(sent.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(word), "{told}");
    }
    assert!(home.submission("06FQ3Z7K0G2S5Y8V1B4N7D0H3M").is_none());
}

/// A conversation with the submission port: what was said and the last line of each answer.
struct Talk {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Talk {
    fn with(running_on: &str) -> Self {
        let stream = TcpStream::connect(running_on).unwrap();
        let mut talk = Self { lines: BufReader::new(stream.try_clone().unwrap()), stream };
        assert!(talk.hear().starts_with("220"));
        talk
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            if line.is_empty() || line.as_bytes()[3] != b'-' {
                return line;
            }
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.stream.write_all(line.as_bytes()).unwrap();
        self.stream.write_all(b"\r\n").unwrap();
        self.hear()
    }
}

async fn port_of(home: &Home) -> (String, String) {
    let mut told = None;
    until("it listens", || {
        told = home.status();
        told.is_some()
    })
    .await;
    let told = told.unwrap();
    (told["submission"].as_str().unwrap().to_owned(), told["address"].as_str().unwrap().to_owned())
}

fn with_port(relay: &ScriptRelay) -> Home {
    Home::with(&relay.url(), "[submission]\nlisten = \"127.0.0.1:0\"\n[maildir]\npath = \"Maildir\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_submission_port_takes_mail_of_its_own_for_everybody() {
    let relay = ScriptRelay::start(Manner::Accepts).await;
    let home = with_port(&relay);
    let running = home.start(None);
    let (port, me) = port_of(&home).await;
    let mut talk = Talk::with(&port);
    assert!(talk.say("EHLO program").starts_with("250"));
    let refused = talk.say("MAIL FROM:<you@example.org>");
    assert!(refused.starts_with(&format!("550 5.7.1 Not your address: send as <{me}>")), "{refused}");
    assert!(talk.say(&format!("MAIL FROM:<{me}>")).starts_with("250"));
    assert!(talk.say("RCPT TO:<postmaster>").starts_with("550"));
    for rcpt in ["a@example.org", "b@example.com", "c@[192.0.2.1]"] {
        assert!(talk.say(&format!("RCPT TO:<{rcpt}>")).starts_with("250"));
    }
    assert!(talk.say("DATA").starts_with("354"));
    let said = talk.say(&format!("From: {me}\r\nSubject: x\r\n\r\n..dot\r\n."));
    let id = said.trim().strip_prefix("250 2.0.0 OK queued as ").expect("taken").to_owned();
    relay.wait("all are stored", |ledger| ledger.stored.len() == 3).await;
    assert_eq!(relay.stream_to("a@example.org"), Some(id));
    for stored in relay.ledger().stored.values() {
        assert_eq!(stored.bytes, format!("From: {me}\r\nSubject: x\r\n\r\n.dot\r\n").into_bytes());
    }
    let failed = relay.stream_to("b@example.com").unwrap();
    relay.settle(&failed, "failed", "550 5.1.1 no such user");
    until("a report is there", || reports(&home).len() == 1).await;
    let (of, report) = reports(&home).remove(0);
    assert_eq!(of, failed);
    for line in ["Action: failed", "Status: 5.1.1", "Final-Recipient: rfc822; b@example.com", "Subject: x"] {
        assert!(report.contains(line), "{line}: {report}");
    }
    running.stop().await;
}

/// Waits for the end of a process that was to die, or gives it reasons to until it has.
async fn died(doomed: &mut Running, point: &str) {
    let mut status = None;
    until(&format!("it died at {point}"), || {
        status = doomed.has_ended();
        status.is_some()
    })
    .await;
    assert!(!status.unwrap().success(), "{point}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_each_submission_is_handed_over_once_and_reported_once() {
    // Q22, W9
    for point in [
        "gateway.submission.sealed",
        "gateway.submission.before_result_ack",
        "gateway.bounce.before_delivery",
        "gateway.bounce.delivered",
    ] {
        let relay = ScriptRelay::start(Manner::Accepts).await;
        let home = Home::new(&relay.url());
        let ids = sent_ids(&home, &["good@example.org", "bad@example.org"]);
        let mut doomed = home.start(Some(point));
        if point != "gateway.submission.sealed" {
            relay.wait("stored", |ledger| ledger.stored.len() == 2).await;
            relay.settle(&ids[0], "sent", "");
            relay.settle(&ids[1], "failed", "550 5.1.1 no");
        }
        died(&mut doomed, point).await;
        let running = home.start(None);
        relay.wait("stored", |ledger| ledger.stored.len() == 2).await;
        if point == "gateway.submission.sealed" {
            relay.settle(&ids[0], "sent", "");
            relay.settle(&ids[1], "failed", "550 5.1.1 no");
        }
        relay.wait("acked", |ledger| ledger.stored.values().all(|stored| stored.acked)).await;
        until("a report is there", || reports(&home).len() == 1).await;
        until("it listens", || home.status().is_some()).await;
        running.stop().await;
        assert_eq!((state(&home, &ids[0]), state(&home, &ids[1])), ("sent".to_owned(), "failed".to_owned()));
        assert_eq!(reports(&home).len(), 1, "{point}");
        assert!(relay.ledger().starts.iter().all(|stream| ids.contains(stream)), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_commit_the_message_is_there_for_all_or_for_nobody() {
    for (point, stored) in [("gateway.outbox.before_commit", 0), ("gateway.outbox.after_commit", 2)] {
        let relay = ScriptRelay::start(Manner::Accepts).await;
        let home = with_port(&relay);
        let mut doomed = home.start(Some(point));
        let (port, me) = port_of(&home).await;
        let mut talk = Talk::with(&port);
        for line in
            ["EHLO x", &format!("MAIL FROM:<{me}>"), "RCPT TO:<a@example.org>", "RCPT TO:<b@example.org>"]
        {
            assert!(talk.say(line).starts_with("250"));
        }
        assert!(talk.say("DATA").starts_with("354"));
        assert_eq!(talk.say("Subject: x\r\n\r\nx\r\n."), "", "no answer");
        died(&mut doomed, point).await;
        let running = home.start(None);
        until("it runs", || home.status().is_some()).await;
        let counts = home.status().unwrap()["outbox"].clone();
        let all: u64 = counts.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(all, stored, "{point}: {counts}");
        if stored > 0 {
            relay.wait("handed over", |ledger| ledger.stored.len() == 2).await;
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_at_random_hands_over_each_submission_under_one_id() {
    let relay = ScriptRelay::start(Manner::Accepts).await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    until("it listens", || home.status().is_some()).await;
    let mut ids = Vec::new();
    let large = format!("Subject: large\n\n{}", "0123456789012345678901234567890123456789\n".repeat(10_000));
    for round in 0..8 {
        let to = format!("r{round}@example.org");
        ids.extend(sent_ids(&home, &[&to]));
        assert!(home.send(&[&format!("large{round}@example.org")], &large).status.success());
        relay.kick();
        if round == 4 {
            relay.behave(Manner::Mute);
        }
    }
    relay.wait("some are stored by a relay without a voice", |ledger| !ledger.stored.is_empty()).await;
    relay.behave(Manner::Accepts);
    relay.kick();
    relay.wait("all are stored", |ledger| ledger.stored.len() == 16).await;
    until("all are accepted", || {
        home.status()
            .is_some_and(|status| status["outbox"]["accepted"] == 16 && status["outbox"]["queued"] == 0)
    })
    .await;
    for stream in relay.ledger().stored.keys() {
        let _ = stream.parse::<spool::ids::ItemId>().expect("its submission's id");
    }
    for id in &ids {
        relay.settle(id, "sent", "");
    }
    relay.wait("acked", |ledger| ids.iter().all(|id| ledger.stored[id].acked)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_cannot_now_gets_the_message_later() {
    let relay = ScriptRelay::start(Manner::Refuses).await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    until("it listens", || home.status().is_some()).await;
    let ids = sent_ids(&home, &["you@example.org"]);
    until("it waits, and says why", || {
        home.submission(&ids[0])
            .is_some_and(|story| story["text"] == "disk full" && story["state"] == "queued")
    })
    .await;
    relay.behave(Manner::Accepts);
    relay.wait("stored", |ledger| ledger.stored.len() == 1).await;
    until("accepted", || state(&home, &ids[0]) == "accepted").await;
    running.stop().await;
}

/// Goal: hours of a full disk end for all messages when they end for one. Method: two are refused until they are to wait for ten
/// seconds; one that comes afterwards is taken, and brings them forward.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_takes_one_message_again_gets_those_it_put_off() {
    let relay = ScriptRelay::start(Manner::Refuses).await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    until("it listens", || home.status().is_some()).await;
    let put_off = sent_ids(&home, &["a@example.org", "b@example.org"]);
    until("both wait for ten seconds", || home.log().matches("retry_seconds=10").count() == 2).await;
    relay.behave(Manner::Accepts);
    let new = sent_ids(&home, &["c@example.org"]);
    relay.wait("stored", |ledger| ledger.stored.len() == 3).await;
    until("accepted", || [&put_off, &new].into_iter().flatten().all(|id| state(&home, id) == "accepted"))
        .await;
    for id in &put_off {
        let hastened =
            |line: &str| line.contains("gateway.submission.hastened") && line.contains(id.as_str());
        assert!(home.log().lines().any(hastened), "{id} waited for its time");
    }
    running.stop().await;
}

/// Goal: what the relay breaks off again and again does not eat the line because other messages are taken. Method: small ones
/// are taken one after the other while a large one waits; it is tried in its own time only, and taken at last.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_that_is_broken_off_waits_for_its_own_time() {
    let relay = ScriptRelay::start(Manner::RefusesLarge).await;
    let home = Home::new(&relay.url());
    let running = home.start(None);
    until("it listens", || home.status().is_some()).await;
    let text = format!("Subject: large\n\n{}", "0123456789012345678901234567890123456789\n".repeat(10_000));
    assert!(home.send(&["large@example.org"], &text).status.success());
    until("it waits for ten seconds", || home.log().contains("retry_seconds=10")).await;
    let large = relay.ledger().starts[0].clone();
    for n in 0..5 {
        let small = sent_ids(&home, &[&format!("small{n}@example.org")]);
        until("accepted", || state(&home, &small[0]) == "accepted").await;
    }
    assert!(!home.log().contains("gateway.submission.hastened"), "{}", home.log());
    relay.behave(Manner::Accepts);
    until("accepted", || state(&home, &large) == "accepted").await;
    assert_eq!(relay.ledger().stored[&large].times, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_without_ids_may_have_is_never_handed_over_twice() {
    // X4
    let relay = ScriptRelay::start(Manner::Forgets).await;
    let home = Home::with(&relay.url(), "allow_tunnel_1 = true\n[maildir]\npath = \"Maildir\"\n");
    let running = home.start(None);
    until("it listens", || home.status().is_some()).await;
    let ids = sent_ids(&home, &["a@example.org", "b@example.org", "c@example.org"]);
    relay.wait("all are there", |ledger| ledger.stored.len() == 3).await;
    relay.settle(&ids[0], "sent", "");
    until("sent", || state(&home, &ids[0]) == "sent").await;
    let open = home.submission(&ids[1]).unwrap();
    assert_eq!((&open["state"], &open["pending"]), (&"indeterminate".into(), &true.into()));
    // A later connection may still bring the answer.
    relay.kick();
    until("connected again", || relay.ledger().sessions > 1).await;
    relay.settle(&ids[1], "failed", "550 no");
    until("failed", || state(&home, &ids[1]) == "failed").await;
    running.kill();
    let running = home.start(None);
    until("the other one is in doubt for good", || {
        home.submission(&ids[2]).is_some_and(|story| story["pending"] == false)
    })
    .await;
    assert_eq!(state(&home, &ids[2]), "indeterminate");
    until("two reports", || reports(&home).len() == 2).await;
    until("it listens", || home.status().is_some()).await;
    running.stop().await;
    let ledger = relay.ledger();
    assert_eq!(ledger.starts.len(), 3, "nothing was sent twice");
    assert_eq!(ledger.texts, [""; 0], "no text goes to such a relay");
}

#[tokio::test(flavor = "multi_thread")]
async fn invoked_as_sendmail_it_is_sendmail() {
    let relay = ScriptRelay::start(Manner::Accepts).await;
    let home = Home::new(&relay.url());
    let link = home.path().join("sendmail");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_waystation"), &link).unwrap();
    fs::write(home.path().join("message"), TEXT).unwrap();
    let sent = std::process::Command::new(&link)
        .args(["-oi", "-oem", "you@example.org"])
        .env("WAYSTATION_CONFIG", home.config())
        .stdin(fs::File::open(home.path().join("message")).unwrap())
        .output()
        .unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let running = home.start(None);
    relay.wait("stored", |ledger| ledger.stored.len() == 1).await;
    running.stop().await;
}

/// A directory and everything below it.
fn with_all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    if fs::symlink_metadata(dir).unwrap().is_dir() {
        for entry in fs::read_dir(dir).unwrap() {
            all.extend(with_all_below(&entry.unwrap().path()));
        }
    }
    all
}

#[test]
fn what_root_sends_from_a_stopped_gateway_leaves_nothing_that_belongs_to_root() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can leave what belongs to root");
        return;
    }
    let home = Home::new("ws://127.0.0.1:9/ws");
    sent_ids(&home, &["first@example.org"]);
    for path in with_all_below(home.path()) {
        lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let of_root = || {
        let all = with_all_below(&home.path().join("state")).into_iter();
        all.filter(|path| fs::symlink_metadata(path).unwrap().uid() == 0).collect::<Vec<_>>()
    };
    // Each opens the outbox, and a journal that is opened goes on in a new file.
    let ids = sent_ids(&home, &["second@example.org"]);
    assert_eq!(of_root(), Vec::<PathBuf>::new());
    assert_eq!(state(&home, &ids[0]), "queued");
    assert_eq!(of_root(), Vec::<PathBuf>::new());
}
