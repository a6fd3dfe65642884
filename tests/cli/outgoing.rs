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
use waystation::mail::envelope::Meta;
use waystation::mail::outbound::values::{Attempt, Note};

use super::{json_lines, key, on};
use crate::support::process::{RelayProcess, run_text};

const LETTER: &[u8] = b"From: anna@mail.localhost\r\nSubject: out\r\n\r\nhello\r\n";
const HOUR: u64 = 3_600_000;

/// A spool directory that nobody else has open, to put submissions into as intake and delivery would.
struct Outbox {
    spool: Spool,
    mailbox: LaneId,
    count: u8,
}

impl Outbox {
    fn open(data_dir: &Path) -> Self {
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
    fn submit(&mut self, to: &str, due: WallMs) -> ItemId {
        let now = clock::wall();
        self.count += 1;
        let id = ItemId::new(now, [self.count; 10]);
        let mut chunk = ChunkBuilder::new(id, self.spool.reader().seed());
        chunk.take(LETTER);
        self.spool.stage_chunk(id, chunk.finish()).expect("staged");
        let meta = Meta { mail_from: "anna@mail.localhost".into(), ..Meta::default() };
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

    fn defer(&mut self, id: ItemId, due: WallMs) {
        self.spool
            .defer(id, due, &tried(450, "4.2.1 try again later").to_reason(), clock::wall())
            .expect("defers");
        self.spool.commit(clock::wall()).expect("commits");
    }

    fn arm(&mut self, id: ItemId) {
        let note = Note::line("handed to mx.far.example [192.0.2.1:25]").to_reason();
        self.spool.arm(id, &note, clock::wall()).expect("arms");
        self.spool.commit(clock::wall()).expect("commits");
    }

    fn settle(&mut self, id: ItemId, to: Settlement, note: &Note) {
        self.spool.settle(id, to, &note.to_reason(), clock::wall()).expect("settles");
        self.spool.commit(clock::wall()).expect("commits");
    }

    fn tell(&mut self, id: ItemId) {
        assert_eq!(self.spool.tell(id, clock::wall()), Ok(true));
        self.spool.commit(clock::wall()).expect("commits");
    }
}

fn tried(code: u16, text: &str) -> Note {
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
