//! "Where is my mail?", asked of submissions: with and without a running relay.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use spool::accept::ChunkBuilder;
use spool::disk::real::RealDisk;
use spool::ids::{ItemId, LaneId, WallMs};
use spool::index::sled::SledIndex;
use spool::submission::{NewSubmission, Settlement, Submitted};
use spool::types::NewMessage;
use spool::{Options, Spool};
use waystation::clock;
use waystation::identity::key::SecretKey;
use waystation::mail::envelope::OutboundMeta;
use waystation::mail::outbound::values::{Attempt, Note};

use super::every_verb::{flip, segment};
use super::{json_lines, key, on};
use crate::support::line::{Line, Log, Manner};
use crate::support::process::{RelayProcess, run_text};
use crate::support::until;

const LETTER: &[u8] = b"From: anna@mail.localhost\r\nSubject: out\r\n\r\nhello\r\n";
const HOUR: u64 = 3_600_000;

/// A spool directory that nobody else has open, to put submissions into as intake and delivery would.
pub(super) struct Outbox {
    pub(super) spool: Spool,
    pub(super) mailbox: LaneId,
    count: u8,
}

impl Outbox {
    pub(super) fn open(data_dir: &Path) -> Self {
        let root = data_dir.join("spool");
        std::fs::create_dir_all(&root).expect("directory");
        let index = Arc::new(SledIndex::open(&root.join("index")).expect("index"));
        let options = Options { min_free_bytes: 0, seed: 7, ..Options::default() };
        let disk = Arc::new(RealDisk::new(root));
        let (mut spool, _) = Spool::open(disk, index, options, clock::wall()).expect("opens");
        let mailbox = spool.register(&key(), clock::wall()).expect("registers");
        Self { spool, mailbox, count: 0 }
    }

    /// One more, due at `due`.
    pub(super) fn submit(&mut self, to: &str, due: WallMs) -> ItemId {
        self.submit_begun(clock::wall(), to, due)
    }

    /// The same of one that began to come in at `begun`, which dates its id.
    fn submit_begun(&mut self, begun: WallMs, to: &str, due: WallMs) -> ItemId {
        let now = clock::wall();
        self.count += 1;
        let id = ItemId::new(begun, [self.count; 10]);
        let mut chunk = ChunkBuilder::new(id, self.spool.reader().seed());
        chunk.take(LETTER);
        self.spool.stage_chunk(id, chunk.finish()).expect("staged");
        let meta = OutboundMeta {
            mail_from: "anna@mail.localhost".into(),
            stream: format!("stream-{}", self.count),
            results: true,
            ..OutboundMeta::default()
        };
        let new = NewSubmission {
            message: NewMessage {
                body: id,
                body_bytes: LETTER.len() as u64,
                sha256: <sha2::Sha256 as sha2::Digest>::digest(LETTER).into(),
                head: b"Received: by mail.localhost\r\n".to_vec(),
                meta: meta.encode(),
                fingerprint: None,
                targets: Vec::new(),
            },
            mailbox: self.mailbox,
            tag: to.as_bytes().to_vec(),
            key: [self.count; 32],
            key_until: now.plus(HOUR),
            twin: None,
            destination: to.rsplit_once('@').expect("address").1.to_owned(),
            due,
            settled: None,
        };
        assert_eq!(self.spool.submit(new, now), Ok(Submitted::New(id)));
        self.spool.commit(now).expect("commits");
        id
    }

    pub(super) fn defer(&mut self, id: ItemId, due: WallMs) {
        self.spool
            .defer(id, due, &tried(450, "4.2.1 try again later").to_reason(), clock::wall())
            .expect("defers");
        self.spool.commit(clock::wall()).expect("commits");
    }

    pub(super) fn arm(&mut self, id: ItemId) {
        let note = Note::line("handed to mx.far.example [192.0.2.1:25]").to_reason();
        self.spool.arm(id, &note, clock::wall()).expect("arms");
        self.spool.commit(clock::wall()).expect("commits");
    }

    pub(super) fn settle(&mut self, id: ItemId, to: Settlement, note: &Note) {
        self.spool.settle(id, to, &note.to_reason(), clock::wall()).expect("settles");
        self.spool.commit(clock::wall()).expect("commits");
    }

    pub(super) fn tell(&mut self, id: ItemId) {
        assert_eq!(self.spool.tell(id, clock::wall()), Ok(true));
        self.spool.commit(clock::wall()).expect("commits");
    }
}

pub(super) fn tried(code: u16, text: &str) -> Note {
    let attempt = Attempt {
        host: "mx.far.example".into(),
        address: "192.0.2.1:25".into(),
        tls: "unverified TLSv1.3".into(),
        stage: "rcpt".into(),
        code: Some(code),
        enhanced_code: text.split(' ').next().unwrap_or("").into(),
        text: text.into(),
        started_ms: clock::wall().0,
        duration_ms: 120,
    };
    Note { attempts: vec![attempt], ..Note::line(format!("mx.far.example answered {code} {text}")) }
}

/// One submission in every state.
struct Every {
    fresh: ItemId,
    waits: ItemId,
    armed: ItemId,
    sent: ItemId,
    failed: ItemId,
}

fn every(dir: &Path) -> Every {
    let mut outbox = Outbox::open(dir);
    let later = clock::wall().plus(HOUR);
    let fresh = outbox.submit("bob@far.example", later);
    let waits = outbox.submit("carl@far.example", clock::wall());
    outbox.defer(waits, later);
    let sent = outbox.submit("dora@far.example", clock::wall());
    outbox.arm(sent);
    outbox.settle(sent, Settlement::Sent, &tried(250, "2.0.0 queued as 77"));
    outbox.tell(sent);
    let failed = outbox.submit("nobody@near.example", clock::wall());
    outbox.settle(failed, Settlement::Failed, &tried(550, "5.1.1 no such user"));
    let armed = outbox.submit("emil@far.example", clock::wall());
    outbox.arm(armed);
    Every { fresh, waits, armed, sent, failed }
}

fn states(out: &str) -> Vec<(String, String)> {
    let word = |item: &Value, name: &str| item[name].as_str().unwrap_or("").to_owned();
    json_lines(out).iter().map(|item| (word(item, "id"), word(item, "state"))).collect()
}

#[test]
fn submissions_are_listed_and_selected_like_items() {
    let dir = tempfile::tempdir().expect("directory");
    let every = every(dir.path());
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    let ids = |args: &[&str]| {
        let (_, out, err) = ask(&[&["spool", "ls", "--json"], args].concat());
        assert!(err.is_empty(), "{err}");
        states(&out).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    let text = |id: ItemId| id.to_string();
    assert_eq!(ids(&["--direction", "out"]).len(), 5);
    assert_eq!(ids(&[]).len(), 5);
    assert_eq!(ids(&["--direction", "in"]).len(), 0);
    assert_eq!(ids(&["--result", "sent"]), [text(every.sent)]);
    assert_eq!(ids(&["--result", "sent,failed"]), [text(every.sent), text(every.failed)]);
    assert_eq!(ids(&["--state", "ready"]), [text(every.fresh), text(every.waits)]);
    assert_eq!(ids(&["--state", "armed"]), [text(every.armed)]);
    assert_eq!(ids(&["--to", "@near.example"]), [text(every.failed)]);
    assert_eq!(ids(&["--from", "ANNA@", "--to", "carl"]), [text(every.waits)]);
    assert_eq!(ids(&["--lane", &key(), "--since", "2h"]).len(), 5);
    assert_eq!(ids(&["--until", "2h"]).len(), 0);
    for wrong in [["--direction", "up"], ["--result", "acked"], ["--state", "lost"]] {
        assert_eq!(ask(&[&["spool", "ls"][..], &wrong].concat()).0, 2, "{wrong:?}");
    }

    let (_, out, _) = ask(&["spool", "ls", "--json", "--to", "carl"]);
    let item = &json_lines(&out)[0];
    assert_eq!(
        (&item["direction"], &item["result"], &item["told"]),
        (&"out".into(), &Value::Null, &false.into())
    );
    assert_eq!(
        (item["attempts_made"].as_u64(), item["destination"].as_str()),
        (Some(1), Some("far.example"))
    );
    assert!(item["due_seconds"].as_u64().is_some_and(|s| (3500..=3600).contains(&s)), "{item}");
    assert!(item["due_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{item}");
    let attempt = &item["attempts"][0];
    assert_eq!((attempt["host"].as_str(), attempt["code"].as_u64()), (Some("mx.far.example"), Some(450)));
    for name in ["address", "tls", "enhanced_code", "text", "started_at"] {
        assert!(attempt[name].is_string(), "{name} is missing in {attempt}");
    }
    assert_eq!(attempt["duration_ms"], 120);

    let (_, table, _) = ask(&["spool", "ls", "--direction", "out"]);
    assert!(table.lines().next().is_some_and(|h| h.contains("DIR") && h.contains("NEXT")), "{table}");
    let line =
        |id: ItemId| table.lines().find(|l| l.starts_with(&id.to_string())).expect("a line").to_owned();
    assert!(line(every.fresh).contains("in 59m"), "{table}");
    assert!(line(every.armed).contains("verdict"), "{table}");
    assert!(line(every.failed).contains("tell"), "{table}");
    assert!(!line(every.sent).contains("tell"), "{table}");
}

#[test]
fn show_tells_every_attempt_and_explain_says_what_happens_next() {
    let dir = tempfile::tempdir().expect("directory");
    let every = every(dir.path());
    let ask = |verb: &str, id: ItemId| {
        let (code, out, err) = run_text(&on(dir.path(), &["spool", verb, &id.to_string()]));
        assert_eq!(code, 0, "{err}");
        out.replace('\n', " ")
    };
    let page = ask("show", every.waits);
    for words in
        ["mx.far.example [192.0.2.1:25]", "unverified TLSv1.3", "450", "4.2.1 try again later", "120 ms"]
    {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    assert!(ask("show", every.sent).contains("told"));
    assert!(ask("explain", every.fresh).contains("not tried yet"));
    assert!(ask("explain", every.waits).contains("tried once"));
    assert!(ask("explain", every.armed).contains("the next start makes it indeterminate"));
    assert!(ask("explain", every.sent).contains("2.0.0 queued as 77"));
    assert!(ask("explain", every.failed).contains("5.1.1 no such user"));

    // R1: what was armed when the relay stopped is indeterminate at the next start, and stays so.
    let relay = RelayProcess::start(dir.path());
    let text = ask("explain", every.armed);
    assert!(text.contains("never sent again") && text.contains("--i-know-it-may-duplicate"), "{text}");
    let (_, out, _) = run_text(&on(dir.path(), &["spool", "ls", "--result", "indeterminate", "--json"]));
    assert_eq!(states(&out), [(every.armed.to_string(), "indeterminate".to_owned())]);
    let (code, raw, _) = run_text(&on(dir.path(), &["spool", "show", &every.failed.to_string(), "--raw"]));
    assert_eq!(code, 0);
    assert!(raw.as_bytes().ends_with(LETTER), "{raw}");
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn an_operator_holds_releases_and_cancels_what_was_not_handed_over() {
    let dir = tempfile::tempdir().expect("directory");
    let every = every(dir.path());
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    let verb = |verb: &str, id: ItemId| ask(&["spool", verb, &id.to_string(), "--offline"]);

    // Without a relay the armed one is still armed on disk; owning the directory is a start, which settles it (R1).
    assert_eq!(ask(&["spool", "hold", &every.fresh.to_string()]).0, 75, "changes need a relay, or --offline");
    let (code, out, err) = verb("hold", every.fresh);
    assert_eq!((code, out.contains("is held")), (0, true), "{err}");
    assert_eq!(verb("hold", every.fresh).0, 1, "held already");
    let (code, _, err) = verb("retry", every.fresh);
    assert!(code == 1 && err.contains("spool release"), "{err}");
    let (code, out, err) = verb("release", every.fresh);
    assert!(code == 0 && out.contains("due now"), "{out}{err}");
    let (code, out, _) =
        ask(&["spool", "cancel", "--to", "carl@", "--reason", "a mistake", "--yes", "--offline"]);
    assert!(code == 0 && out.contains("is failed"), "{out}");
    let (_, out, _) = ask(&["spool", "explain", &every.waits.to_string()]);
    let text = out.replace('\n', " ");
    assert!(text.contains("cancelled by the operator: a mistake (5.7.0)"), "{text}");
    for (id, words) in [(every.waits, "has its one result"), (every.armed, "has its one result")] {
        let (code, _, err) = verb("cancel", id);
        assert!(code == 1 && err.contains(words), "{err}");
    }
    let purge = |id: ItemId| ask(&["spool", "purge", &id.to_string(), "--yes", "--offline"]);
    assert_eq!(purge(every.sent).0, 0, "its gateway has the result");
    let (code, _, err) = purge(every.failed);
    assert!(code == 1 && err.contains("has not been told yet"), "{err}");
    assert_eq!(ask(&["spool", "cancel", "--offline"]).0, 2, "neither ids nor a selection");
    assert_eq!(ask(&["spool", "hold", "--to", "@far.example", "--offline"]).0, 2, "nobody there to ask");
    assert_eq!(ask(&["spool", "cancel", "--to", "nowhere", "--yes", "--offline"]).0, 3);

    let (code, out, _) = ask(&["spool", "verify"]);
    assert!(code == 0 && out.contains("1 outboxes"), "{out}");
    let (_, out, _) = ask(&["spool", "stats", "--json"]);
    let stats = &json_lines(&out)[0];
    assert_eq!(stats["submissions"]["ready"], 1);
    assert_eq!((&stats["submissions"]["failed"], &stats["outgoing"]["untold"]), (&2.into(), &3.into()));
    assert_eq!(stats["outgoing"]["destinations"][0]["destination"], "far.example");
    let (_, out, _) = ask(&["mailbox", "show", &key(), "--json"]);
    let outgoing = &json_lines(&out)[0]["outgoing"];
    assert_eq!((&outgoing["queued"], &outgoing["last_hour"]), (&1.into(), &5.into()));
}

#[test]
fn an_armed_submission_is_left_to_its_verdict() {
    let dir = tempfile::tempdir().expect("directory");
    let every = every(dir.path());
    let (code, out, _) = run_text(&on(dir.path(), &["spool", "ls", "--state", "armed"]));
    assert!(code == 0 && out.contains(&every.armed.to_string()), "{out}");
    let (_, out, _) = run_text(&on(dir.path(), &["spool", "show", &every.armed.to_string()]));
    assert!(out.contains("armed") && out.contains("handed to mx.far.example"), "{out}");
}

#[test]
fn a_pause_lasts_over_a_restart_and_is_told_wherever_somebody_asks() {
    let dir = tempfile::tempdir().expect("directory");
    let every = every(dir.path());
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    assert_eq!(ask(&["delivery", "pause"]).0, 75);
    assert_eq!(ask(&["delivery", "pause", "--reason", "new host", "--offline"]).0, 0);
    let relay = RelayProcess::start(dir.path());
    let (code, out, _) = ask(&["delivery", "status"]);
    assert!(code == 0 && out.contains("paused by an operator: new host"), "{out}");
    let (_, out, _) = ask(&["spool", "explain", &every.waits.to_string()]);
    assert!(out.replace('\n', " ").contains("deliveries are paused by an operator: new host"), "{out}");
    assert_eq!(ask(&["delivery", "resume"]).0, 0);
    let (code, _, err) = ask(&["delivery", "resume"]);
    assert!(code == 1 && err.contains("not paused"), "{err}");
    let (_, out, _) = ask(&["delivery", "status", "--json"]);
    let status = &json_lines(&out)[0];
    assert_eq!((&status["paused"], &status["attempts_under_way"]), (&false.into(), &0.into()));
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn an_indeterminate_one_is_sent_again_only_by_somebody_who_says_that_a_duplicate_is_harmless() {
    let dir = tempfile::tempdir().expect("directory");
    let every = every(dir.path());
    let ask = |args: &[&str]| run_text(&on(dir.path(), args));
    let resend = |id: ItemId, more: &[&str]| {
        ask(&[&["spool", "resend", &id.to_string(), "--offline", "--json"], more].concat())
    };
    // Q22: never by itself, and never without the explicit word.
    let (code, out, err) = resend(every.armed, &[]);
    assert!(code == 2 && out.is_empty() && err.contains("second copy"), "{out}{err}");
    let sure = "--i-know-it-may-duplicate";
    for (id, words) in [(every.sent, "was sent"), (every.waits, "has no result yet")] {
        let (code, _, err) = resend(id, &[sure]);
        assert!(code == 1 && err.contains(words), "{err}");
    }
    let (code, out, err) = resend(every.armed, &[sure, "--reason", "it never came"]);
    assert_eq!(code, 0, "{err}");
    let answer = &json_lines(&out)[0];
    let new = answer["id"].as_str().expect("id").to_owned();
    assert_eq!(answer["again"], every.armed.to_string());
    let (code, _, err) = resend(every.armed, &[sure]);
    assert!(code == 1 && err.contains(&new), "{err}");

    let text = |id: &str| ask(&["spool", "explain", id]).1.replace('\n', " ");
    let (old_text, new_text) = (text(&every.armed.to_string()), text(&new));
    assert!(old_text.contains("became indeterminate") && old_text.contains(&new), "{old_text}");
    assert!(new_text.contains("not tried yet") && new_text.contains(&every.armed.to_string()), "{new_text}");
    let raw = |id: &str| ask(&["spool", "show", id, "--raw"]).1;
    assert_eq!(raw(&every.armed.to_string()), raw(&new));
    let (_, out, _) = ask(&["spool", "ls", "--direction", "out", "--to", "emil@", "--json"]);
    let wanted = [(every.armed.to_string(), "indeterminate".to_owned()), (new, "ready".to_owned())];
    assert_eq!(states(&out), wanted);
    assert!(ask(&["spool", "verify"]).1.starts_with("everything is whole"));
}

#[test]
fn what_a_stolen_key_has_submitted_can_be_held_with_its_revocation() {
    // U5
    let dir = tempfile::tempdir().expect("directory");
    let every = every(dir.path());
    let revoke = ["mailbox", "revoke", &key(), "--hold-outgoing", "--offline", "--json"];
    let (code, out, err) = run_text(&on(dir.path(), &revoke));
    assert_eq!(code, 0, "{err}");
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&shown["revoked"], &shown["held_now"]), (&true.into(), &2.into()), "{out}");
    let (_, out, _) =
        run_text(&on(dir.path(), &["spool", "ls", "--direction", "out", "--state", "held", "--json"]));
    let held: Vec<_> =
        json_lines(&out).iter().map(|line| line["id"].as_str().expect("id").to_owned()).collect();
    assert!(held.contains(&every.fresh.to_string()) && held.contains(&every.waits.to_string()), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_the_session_and_holds_the_others_when_one_submission_cannot_be_read() {
    // U5
    let dir = tempfile::tempdir().expect("directory");
    let mut outbox = Outbox::open(dir.path());
    let (now, later) = (clock::wall(), clock::wall().plus(4 * HOUR));
    // Its id is so much older than its acceptance that nobody finds it without its record.
    let damaged = outbox.submit_begun(WallMs(now.0 - 2 * HOUR), "bob@far.example", later);
    let others = [outbox.submit("carl@far.example", later), outbox.submit("dora@far.example", later)];
    outbox.spool.close(now).expect("closes");
    drop(outbox);
    let file = segment(dir.path(), 1);
    let bytes = std::fs::read(&file).expect("segment");
    let record = bytes.windows(16).rposition(|window| window == damaged.0).expect("its record");
    flip(&file, record as u64);

    let relay = RelayProcess::start(dir.path());
    let log = Log::default();
    let secret = SecretKey::from_seed(&[7; 32]);
    let line = Line::open(relay.http, &secret, Manner::Two, &log).await.expect("logged in");
    let revoke = ["mailbox", "revoke", &key(), "--hold-outgoing"];
    let (code, out, err) = run_text(&on(dir.path(), &[&revoke[..], &["--json"]].concat()));
    assert_eq!(code, 0, "{err}");
    let shown = &json_lines(&out)[0];
    assert_eq!((&shown["held_now"], &shown["not_held_now"]), (&2.into(), &1.into()), "{out}");
    until("the session is over", || !line.is_open()).await;
    let (_, out, _) =
        run_text(&on(dir.path(), &["spool", "ls", "--direction", "out", "--state", "held", "--json"]));
    assert_eq!(states(&out), others.map(|id| (id.to_string(), "held".to_owned())));
    let (code, out, err) = run_text(&on(dir.path(), &revoke));
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("not held 1 that cannot be read") && out.contains("waystation spool verify"),
        "{out}"
    );
    let (_, lines) = relay.terminate_with_log();
    assert!(lines.iter().any(|line| line.contains("\"relay.outbound.not_held\"")), "{lines:#?}");
}
