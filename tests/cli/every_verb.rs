//! Every verb in every situation: the relay runs, it does not, and the spool is damaged, with and without a relay on it.
//!
//! A word that is missing here is missing for somebody who looks for a message at night.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use spool::accept::ChunkBuilder;
use spool::ids::{ItemId, LaneId, WallMs};
use spool::submission::Settlement;
use spool::types::{MailboxChange, NewMessage, Room, Target, Verb};
use waystation::clock;
use waystation::mail::envelope::Meta;

use super::outgoing::{Outbox, tried};
use super::{json_lines, key, on};
use crate::support::process::{RelayProcess, run_text, waystation};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// Enough for several pieces.
const LARGE: usize = 150_000;
const HOME: &str = "home@mail.localhost";

/// Items and submissions in every state that lasts.
#[derive(Clone, Debug)]
pub(super) struct Every {
    pub(super) ready: String,
    pub(super) large: String,
    pub(super) held: String,
    pub(super) parked: String,
    pub(super) acked: String,
    pub(super) expired: String,
    pub(super) quarantined: String,
    pub(super) purged: String,
    pub(super) out_ready: String,
    pub(super) out_sent: String,
    pub(super) out_failed: String,
    pub(super) out_indeterminate: String,
    /// Where the first piece of `large` and the record of `ready` lie in the first segment.
    chunk_at: u64,
    record_at: u64,
}

/// A body of `len` bytes with lines that only quoting can carry.
fn letter(n: u8, len: usize) -> Vec<u8> {
    let mut text =
        format!("Subject: letter {n}\r\n\r\nFrom the start\r\n>From further on\r\n.\r\n").into_bytes();
    while text.len() < len {
        text.extend_from_slice(format!("line {} of letter {n}\r\n", text.len()).as_bytes());
    }
    text
}

fn put(outbox: &mut Outbox, lane: LaneId, n: u8, len: usize, at: WallMs) -> ItemId {
    let spool = &mut outbox.spool;
    let id = ItemId::new(at, [100 + n; 10]);
    let text = letter(n, len);
    let mut builder = ChunkBuilder::new(id, spool.reader().seed());
    let mut rest = &text[..];
    while !rest.is_empty() {
        let taken = builder.take(rest);
        rest = &rest[taken..];
        spool.stage_chunk(id, builder.finish()).expect("staged");
    }
    let meta = Meta { mail_from: "stranger@far.example".into(), ..Meta::default() };
    let message = NewMessage {
        body: id,
        body_bytes: text.len() as u64,
        sha256: <sha2::Sha256 as sha2::Digest>::digest(&text).into(),
        head: format!("Received: number {n}\r\n").into_bytes(),
        meta: meta.encode(),
        fingerprint: None,
        targets: vec![Target { lane, id, tag: HOME.as_bytes().to_vec() }],
    };
    spool.accept(message, at).expect("accepted");
    spool.commit(at).expect("commits");
    id
}

/// Fills the data directory of a relay that does not run.
pub(super) fn fill(data_dir: &Path) -> Every {
    let mut outbox = Outbox::open(data_dir);
    let (now, lane) = (clock::wall(), outbox.mailbox);
    outbox.spool.change_mailbox(&key(), MailboxChange::AddAlias(HOME.to_owned())).expect("alias");
    let expired = put(&mut outbox, lane, 1, 0, WallMs(now.0 - 40 * DAY));
    outbox.spool.maintain(now).expect("expires");
    let ready = put(&mut outbox, lane, 2, 0, now);
    let large = put(&mut outbox, lane, 3, LARGE, now);
    let held = put(&mut outbox, lane, 4, 0, now);
    let parked = put(&mut outbox, lane, 5, 0, now);
    let acked = put(&mut outbox, lane, 6, 0, now);
    let quarantined = put(&mut outbox, lane, 7, 0, now);
    let purged = put(&mut outbox, lane, 8, 0, now);
    let spool = &mut outbox.spool;
    let session = spool.open_session(lane, Arc::new(|| ())).expect("session");
    spool.commit(now).expect("commits");
    spool.lease(session, Room { items: 100, bytes: 1 << 30 }, now).expect("lends");
    spool.ack(session, acked, now).expect("acks");
    spool.reject(session, parked, "mailbox full", now).expect("rejects");
    spool.close_session(session);
    spool.apply_verb(held, Verb::Hold, "by an operator: asked by the owner", now).expect("holds");
    spool.quarantine(quarantined, "its checksum is wrong", now).expect("quarantines");
    spool.apply_verb(purged, Verb::Purge, "by an operator: asked by the sender", now).expect("purges");
    spool.commit(now).expect("commits");
    let later = now.plus(4 * HOUR);
    let out_ready = outbox.submit("bob@far.example", later);
    let out_sent = outbox.submit("dora@far.example", now);
    outbox.arm(out_sent);
    outbox.settle(out_sent, Settlement::Sent, &tried(250, "2.0.0 queued as 77"));
    outbox.tell(out_sent);
    let out_failed = outbox.submit("nobody@near.example", now);
    outbox.settle(out_failed, Settlement::Failed, &tried(550, "5.1.1 no such user"));
    let out_indeterminate = outbox.submit("emil@far.example", now);
    outbox.arm(out_indeterminate);
    outbox.settle(out_indeterminate, Settlement::Indeterminate, &tried(0, "4.4.2 the line broke"));
    let chunk = outbox.spool.item(large).expect("readable").expect("there").chunks[0].lsn;
    outbox.spool.close(now).expect("closes");
    let segment = fs::read(segment(data_dir, 1)).expect("segment");
    // The pieces of the body carry it too, and come before.
    let record = segment.windows(16).rposition(|bytes| bytes == ready.0).expect("its record");
    let text = |id: ItemId| id.to_string();
    Every {
        ready: text(ready),
        large: text(large),
        held: text(held),
        parked: text(parked),
        acked: text(acked),
        expired: text(expired),
        quarantined: text(quarantined),
        purged: text(purged),
        out_ready: text(out_ready),
        out_sent: text(out_sent),
        out_failed: text(out_failed),
        out_indeterminate: text(out_indeterminate),
        chunk_at: (chunk & 0xffff_ffff) + 1000,
        record_at: record as u64,
    }
}

pub(super) fn segment(data_dir: &Path, number: u32) -> std::path::PathBuf {
    data_dir.join(format!("spool/journal/{number:016}.wsj"))
}

pub(super) fn flip(file: &Path, at: u64) {
    let mut bytes = fs::read(file).expect("segment");
    bytes[usize::try_from(at).expect("small")] ^= 0x10;
    fs::write(file, bytes).expect("written");
}

/// Runs one command; whatever it is, it does not panic and says one thing at most about what went wrong.
fn ask(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let (code, out, err) = run_text(&on(dir, args));
    assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{args:?}: {err}");
    assert!(err.matches("error:").count() <= 1, "{args:?}: {err}");
    assert!(matches!(code, 0 | 1 | 2 | 3 | 75), "{args:?}: {code} {err}");
    (code, out, err)
}

/// Asks, and looks for the essential words in both streams.
fn says(dir: &Path, args: &[&str], code: i32, words: &[&str]) -> String {
    let (found, out, err) = ask(dir, args);
    assert_eq!(found, code, "{args:?}: {out}{err}");
    // Paragraphs are broken into lines.
    let both = format!("{out}\n{err}").split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(both.contains(word), "{args:?} says nothing of {word:?}: {out}{err}");
    }
    out
}

fn listed(dir: &Path, selection: &[&str]) -> Vec<String> {
    let (_, out, _) = ask(dir, &[&["spool", "ls", "--json"], selection].concat());
    json_lines(&out).iter().map(|item| item["id"].as_str().unwrap_or("").to_owned()).collect()
}

/// What every situation in which nothing is damaged has in common.
fn questions(dir: &Path, every: &Every) {
    let e = every;
    for (selection, ids) in [
        (&["--state", "ready", "--direction", "in"][..], vec![&e.ready, &e.large]),
        (&["--state", "held"], vec![&e.held, &e.parked]),
        (&["--state", "acked,expired"], vec![&e.expired, &e.acked]),
        (&["--state", "quarantined"], vec![&e.quarantined]),
        (&["--state", "purged"], vec![&e.purged]),
        (&["--result", "sent,failed"], vec![&e.out_sent, &e.out_failed]),
        (&["--result", "indeterminate"], vec![&e.out_indeterminate]),
        (&["--direction", "out", "--to", "bob@"], vec![&e.out_ready]),
        (&["--from", "STRANGER@", "--until", "1d"], vec![&e.expired]),
        (&["--lane", HOME, "--direction", "in", "--since", "1h", "--state", "acked"], vec![&e.acked]),
        (&["--id", &e.held], vec![&e.held]),
        (&["--id", &e.out_sent, "--id", &e.ready], vec![&e.ready, &e.out_sent]),
    ] {
        assert_eq!(listed(dir, selection), ids.into_iter().cloned().collect::<Vec<_>>(), "{selection:?}");
    }
    says(dir, &["spool", "ls", "--lane", "nobody@mail.localhost"], 3, &["no mailbox"]);
    says(dir, &["spool", "ls", "--id", "00000000000000000000000000"], 3, &["no item"]);
    says(
        dir,
        &["spool", "show", &e.held],
        0,
        &["held", "by an operator: asked by the owner", "stranger@far.example"],
    );
    says(dir, &["spool", "show", &e.purged], 0, &["purged", "by an operator: asked by the sender"]);
    says(dir, &["spool", "show", &e.out_failed], 0, &["failed", "550", "its gateway was not told yet"]);
    says(dir, &["spool", "show", &e.large, "--raw"], 0, &["letter 3"]);
    says(dir, &["spool", "show", &e.purged, "--raw"], 3, &["are gone: an operator removed them"]);
    says(dir, &["spool", "show", "00000000000000000000000000"], 3, &["no item"]);
    explanations(dir, e);
    says(dir, &["spool", "stats"], 0, &["quarantined 1", "held 2", "home@mail.localhost", "####"]);
    says(dir, &["spool", "verify"], 0, &["everything is whole"]);
    says(dir, &["mailbox", "ls"], 0, &["home@mail.localhost"]);
    says(dir, &["mailbox", "show", HOME], 0, &[&key()]);
    says(dir, &["mailbox", "show", "nobody@mail.localhost"], 3, &["no mailbox"]);
    assert!(matches!(ask(dir, &["mailbox", "invitations"]).0, 0 | 3));
}

fn explanations(dir: &Path, e: &Every) {
    for (id, words) in [
        (&e.ready, &["it is sent when", "connects", "expires at"][..]),
        (&e.held, &["An operator holds it since", "because: asked by the owner.", "spool release"]),
        (&e.parked, &["Its gateway rejected it for good", "and said: mailbox full.", "spool release"]),
        (&e.acked, &["Its gateway confirmed it", "spool replay"]),
        (&e.expired, &["No gateway fetched it in time", "spool replay", "spool export"]),
        (&e.quarantined, &["bytes are damaged, because: its checksum is wrong", "spool verify"]),
        (&e.purged, &["An operator removed it at", "because: asked by the sender."]),
        (&e.out_ready, &["It was not tried yet", "first attempt is due in", "it fails"]),
        (&e.out_sent, &["took it at", "250", "Its gateway has the result"]),
        (&e.out_failed, &["It failed at", "5.1.1", "it is told"]),
        (&e.out_indeterminate, &["Nobody can know whether it was taken", "--i-know-it-may-duplicate"]),
    ] {
        let text = says(dir, &["spool", "explain", id], 0, words);
        assert!(text.trim_end().ends_with('.') && !text.contains(".."), "{text}");
    }
    says(dir, &["spool", "explain", "00000000000000000000000000"], 3, &["no item"]);
}

/// Every verb that changes something, with `extra` after it.
fn changes(dir: &Path, e: &Every, extra: &[&str]) {
    let does = |args: &[&str], code: i32, words: &[&str]| says(dir, &[args, extra].concat(), code, words);
    // So that nobody tries what is due meanwhile.
    does(&["delivery", "pause", "--reason", "moving"], 0, &["moving"]);
    does(&["spool", "hold", &e.ready, "--reason", "a look"], 0, &["is held"]);
    does(&["spool", "hold", &e.ready], 1, &["cannot hold"]);
    does(&["spool", "release", "--id", &e.ready], 0, &["is ready"]);
    does(
        &["spool", "hold", "--lane", HOME, "--direction", "in", "--since", "1h", "--yes"],
        0,
        &[&e.ready, &e.large],
    );
    does(
        &["spool", "release", "--state", "held", "--from", "stranger@", "--yes"],
        0,
        &[&e.ready, &e.held, &e.parked],
    );
    does(&["spool", "release", "--state", "held", "--yes"], 3, &["nothing matches"]);
    does(&["spool", "hold", "--to", "bob@", "--yes"], 0, &[&e.out_ready]);
    does(&["spool", "retry", &e.out_ready], 1, &["is held"]);
    does(&["spool", "cancel", &e.out_ready, "--reason", "a mistake"], 0, &["is failed"]);
    does(&["spool", "retry", &e.ready], 2, &["is for submissions"]);
    does(&["spool", "resend", &e.out_sent], 1, &["was sent"]);
    does(&["spool", "replay", "--lane", HOME, "--since", "2h", "--yes"], 0, &["1 item offered again"]);
    does(&["spool", "replay", "--lane", HOME, "--from-seq", "1"], 2, &["--yes"]);
    does(&["spool", "purge", &e.acked], 2, &["--yes"]);
    does(&["spool", "purge", "--result", "sent", "--yes"], 0, &[&e.out_sent]);
    does(&["spool", "purge", &e.out_failed, "--yes"], 1, &["has not been told yet"]);
    does(&["spool", "purge", "--state", "quarantined", "--yes", "--reason", "seen"], 0, &[&e.quarantined]);
    does(&["spool", "replay", &e.expired, "--reason", "home was away"], 0, &["is ready"]);
    does(&["spool", "replay", &e.ready], 1, &["cannot replay"]);
    does(&["spool", "replay", &e.out_sent, &e.ready], 1, &["cannot replay"]);
    does(&["spool", "purge", "--id", &e.expired, "--yes"], 0, &["is purged"]);
    does(&["spool", "purge", &e.expired, "--yes"], 1, &["cannot purge"]);
    does(&["mailbox", "quota", HOME, "--items", "500"], 0, &[]);
    does(&["mailbox", "alias", "more@mail.localhost", HOME], 0, &[]);
    does(&["mailbox", "revoke", HOME], 0, &[]);
    says(dir, &["spool", "explain", &e.ready], 0, &["Its mailbox is revoked", "mailbox allow"]);
    does(&["mailbox", "add", &key()], 1, &["is revoked", "mailbox allow"]);
    does(&["mailbox", "allow", HOME], 0, &[]);
    does(&["mailbox", "invite", "--label", "aunt"], 0, &[]);
    says(dir, &["delivery", "status"], 0, &["moving"]);
    does(&["delivery", "resume"], 0, &[]);
    does(&["delivery", "resume"], 1, &["not paused"]);
    says(dir, &["spool", "verify"], 0, &["everything is whole"]);
}

#[test]
fn every_verb_answers_while_the_relay_runs() {
    let dir = tempfile::tempdir().expect("directory");
    let every = fill(dir.path());
    let relay = RelayProcess::start(dir.path());
    questions(dir.path(), &every);
    says(dir.path(), &["delivery", "status"], 0, &["deliveries run"]);
    says(dir.path(), &["spool", "verify", "--rebuild-index"], 75, &["a relay runs on", "stop it first"]);
    changes(dir.path(), &every, &[]);
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn every_verb_answers_when_the_relay_is_stopped() {
    let dir = tempfile::tempdir().expect("directory");
    let every = fill(dir.path());
    let before = fs::read(segment(dir.path(), 1)).expect("segment");
    questions(dir.path(), &every);
    says(dir.path(), &["delivery", "status"], 0, &["no relay runs"]);
    says(dir.path(), &["spool", "hold", &every.ready], 75, &["no relay listens", "--offline"]);
    assert_eq!(fs::read(segment(dir.path(), 1)).expect("segment"), before, "questions changed something");
    says(dir.path(), &["spool", "verify", "--rebuild-index"], 0, &["everything is whole"]);
    questions(dir.path(), &every);
    changes(dir.path(), &every, &["--offline"]);
}

/// An account that owns nothing on this machine but what a test gives it.
pub(super) const NOBODY: u32 = 65_534;

/// A directory and everything below it.
pub(super) fn with_all_below(dir: &Path) -> Vec<PathBuf> {
    let (mut all, mut at) = (vec![dir.to_owned()], 0);
    while at < all.len() {
        if fs::symlink_metadata(&all[at]).expect("there").is_dir() {
            let inside = fs::read_dir(&all[at]).expect("directory");
            let inside: Vec<_> = inside.map(|entry| entry.expect("entry").path()).collect();
            all.extend(inside);
        }
        at += 1;
    }
    all
}

/// Goal: commands run as root on a stopped relay leave nothing that the service's own account could not open.
/// Method: a directory of another account, looked at after each command; then the relay starts as that account.
#[test]
fn what_root_does_on_a_stopped_relay_leaves_nothing_that_belongs_to_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can leave what belongs to root");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let every = fill(&data);
    for path in with_all_below(dir.path()) {
        lchown(path, Some(NOBODY), Some(NOBODY)).expect("given");
    }
    let of_root = || {
        let all = with_all_below(&data).into_iter();
        all.filter(|path| fs::symlink_metadata(path).expect("there").uid() == 0).collect::<Vec<_>>()
    };
    // A copy that was put in place has no lock: whoever comes first makes it.
    fs::remove_file(data.join("spool/LOCK")).expect("a lock");
    for args in [
        &["spool", "ls"][..],
        &["spool", "verify"],
        &["spool", "verify", "--rebuild-index"],
        &["spool", "hold", &every.ready, "--offline"],
        &["spool", "hold", "00000000000000000000000000", "--offline"],
        &["mailbox", "invite", "--label", "aunt", "--offline"],
        &["delivery", "pause", "--reason", "moving", "--offline"],
        &["backup", copy.to_str().expect("text")],
        &["keys", "dkim", "--domain", "mail.example"],
    ] {
        ask(&data, args);
        assert_eq!(of_root(), Vec::<PathBuf>::new(), "{args:?}");
    }
    assert!(data.join("dkim/dkim-default-rsa.pem").is_file());
    // What an earlier command left is given away by the next, whatever that is.
    fs::create_dir(data.join("attestation")).expect("made");
    fs::write(data.join("attestation/left.key"), "").expect("written");
    ask(&data, &["spool", "stats"]);
    assert_eq!(of_root(), Vec::<PathBuf>::new());
    fs::remove_dir_all(data.join("attestation")).expect("removed");
    let mut service = waystation();
    service.uid(NOBODY).gid(NOBODY);
    let relay = RelayProcess::start_as(service, &data, &[]);
    says(&data, &["delivery", "status"], 0, &["moving"]);
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn an_index_is_built_anew_wherever_an_earlier_try_was_cut_off() {
    let dir = tempfile::tempdir().expect("directory");
    let every = fill(dir.path());
    let spool = dir.path().join("spool");
    let before = listed(dir.path(), &[]);
    let rebuild = || says(dir.path(), &["spool", "verify", "--rebuild-index"], 0, &["everything is whole"]);
    // Cut off before the rename was tried again, before the old one was gone, and after.
    fs::create_dir_all(spool.join("index.removed/g1")).expect("left over");
    rebuild();
    fs::rename(spool.join("index"), spool.join("index.removed")).expect("renamed");
    let relay = RelayProcess::start(dir.path());
    assert_eq!(listed(dir.path(), &[]), before);
    assert_eq!(relay.terminate(), 0);
    rebuild();
    assert!(!spool.join("index.removed").exists() && spool.join("index").exists());
    // An index of rubbish.
    fs::remove_dir_all(spool.join("index")).expect("removed");
    fs::create_dir(spool.join("index")).expect("made");
    fs::write(spool.join("index/CURRENT"), "g7\n").expect("rubbish");
    rebuild();
    assert_eq!(listed(dir.path(), &[]), before);
    says(dir.path(), &["spool", "show", &every.large, "--raw"], 0, &["letter 3"]);
    let missing = dir.path().join("missing");
    says(&missing, &["spool", "verify", "--rebuild-index"], 1, &["there is no spool"]);
    assert!(!missing.exists());
}

/// One way to damage a spool, and what may not be seen of it any more.
struct Damage {
    name: &'static str,
    make: fn(&Path, &Every),
    lost: fn(&Every) -> Vec<String>,
    /// `verify` has something to list.
    seen: bool,
}

const DAMAGES: [Damage; 6] = [
    Damage {
        name: "a byte of a body",
        make: |dir, e| flip(&segment(dir, 1), e.chunk_at),
        lost: |_| Vec::new(),
        seen: true,
    },
    Damage {
        name: "a byte of an item's record",
        make: |dir, e| flip(&segment(dir, 1), e.record_at),
        lost: |e| vec![e.ready.clone()],
        seen: true,
    },
    Damage {
        name: "a byte of a segment's header",
        make: |dir, _| flip(&segment(dir, 1), 3),
        lost: |_| Vec::new(),
        seen: true,
    },
    Damage {
        name: "the header of a segment is gone",
        make: |dir, _| {
            let file = segment(dir, 1);
            let mut bytes = fs::read(&file).expect("segment");
            bytes[..64].fill(0);
            fs::write(&file, bytes).expect("written");
        },
        lost: |_| Vec::new(),
        seen: true,
    },
    Damage {
        name: "the index is gone",
        make: |dir, _| fs::remove_dir_all(dir.join("spool/index")).expect("removed"),
        lost: |_| Vec::new(),
        seen: false,
    },
    Damage {
        name: "the last segment is cut short",
        make: |dir, _| {
            let file = segment(dir, 1);
            let bytes = fs::read(&file).expect("segment");
            // What a record ends with, and the space ahead of use behind it.
            let used = bytes.iter().rposition(|b| *b != 0).expect("bytes");
            fs::write(&file, &bytes[..used - 10]).expect("written");
        },
        lost: |_| Vec::new(),
        seen: false,
    },
];

/// Asks everything of a damaged spool: nobody panics, nobody is silent, and no neighbour is hidden.
fn damaged(dir: &Path, e: &Every, damage: &Damage) {
    let name = damage.name;
    let lost = (damage.lost)(e);
    let found = listed(dir, &[]);
    let expected = [
        &e.ready,
        &e.large,
        &e.held,
        &e.parked,
        &e.acked,
        &e.expired,
        &e.quarantined,
        &e.purged,
        &e.out_ready,
        &e.out_sent,
        &e.out_failed,
        &e.out_indeterminate,
    ];
    for id in expected.into_iter().filter(|id| !lost.contains(id)) {
        assert!(found.contains(id), "{name} hides {id}: {found:?}");
        says(dir, &["spool", "show", id], 0, &[id]);
        says(dir, &["spool", "explain", id], 0, &[id]);
    }
    for id in &lost {
        for verb in ["show", "explain"] {
            let (code, _, err) = ask(dir, &["spool", verb, id]);
            assert!(matches!(code, 1 | 3) && err.contains("damaged"), "{name}: {code} {err}");
        }
    }
    says(dir, &["spool", "show", &e.held, "--raw"], 0, &["letter 4"]);
    let (code, out, err) = ask(dir, &["spool", "verify"]);
    assert_eq!(code, i32::from(damage.seen), "{name}: {out}{err}");
    assert_eq!(out.contains("damaged:"), damage.seen, "{name}: {out}");
    says(dir, &["spool", "stats"], 0, &["quarantined"]);
    says(dir, &["mailbox", "ls"], 0, &["home@mail.localhost"]);
    says(dir, &["delivery", "status"], 0, &[]);
    exported(dir, e, damage);
}

/// What is whole is exported, what is not is in the manifest.
fn exported(dir: &Path, e: &Every, damage: &Damage) {
    let beside = tempfile::tempdir().expect("directory");
    let target = beside.path().join("out");
    let path = target.to_str().expect("text");
    let (code, out, err) = ask(dir, &["spool", "export", path, "--direction", "in"]);
    let body_is_damaged = damage.name == "a byte of a body";
    let manifest = fs::read_to_string(target.join("manifest.jsonl")).expect("a manifest");
    let lines = json_lines(&manifest);
    let of = |id: &str| lines.iter().find(|line| line["id"] == id).cloned().unwrap_or(Value::Null);
    if body_is_damaged {
        assert_eq!(code, 1, "{out}{err}");
        assert!(out.contains("damaged:") && out.contains(&e.large), "{out}");
        let line = of(&e.large);
        assert!(
            line["damaged"] == true && line["missing"].as_str().is_some_and(|w| w.contains("damaged")),
            "{line}"
        );
        says(dir, &["spool", "show", &e.large, "--raw"], 1, &["the bytes of", "are damaged"]);
    } else {
        assert!(of(&e.large)["file"].is_string(), "{manifest}");
    }
    for id in [&e.held, &e.acked, &e.expired] {
        let line = of(id);
        let bytes = fs::read(target.join(line["file"].as_str().expect("exported"))).expect("the file");
        let sha256 = data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(&bytes));
        assert_eq!(line["sha256"], sha256.as_str(), "{line}");
    }
    assert!(of(&e.purged)["missing"].is_string(), "{manifest}");
}

/// After whatever was damaged, work goes on: changes are made, and nothing else breaks.
fn moved(dir: &Path, e: &Every) {
    let does = |args: &[&str], code: i32| says(dir, args, code, &[]);
    // So that nobody tries what is due meanwhile.
    does(&["delivery", "pause"], 0);
    does(&["spool", "release", &e.held], 0);
    does(&["spool", "hold", &e.held, "--reason", "again"], 0);
    does(&["spool", "hold", &e.out_ready], 0);
    does(&["spool", "release", &e.out_ready], 0);
    does(&["spool", "cancel", &e.out_ready], 0);
    does(&["spool", "replay", "--lane", HOME, "--since", "2h", "--yes"], 0);
    does(&["spool", "purge", &e.quarantined, &e.large, "--yes"], 0);
    does(&["mailbox", "revoke", HOME], 0);
    does(&["mailbox", "allow", HOME], 0);
    does(&["delivery", "resume"], 0);
}

fn every_verb_on(damage: &Damage) {
    let dir = tempfile::tempdir().expect("directory");
    let every = fill(dir.path());
    (damage.make)(dir.path(), &every);
    damaged(dir.path(), &every, damage);
    let relay = RelayProcess::start(dir.path());
    damaged(dir.path(), &every, damage);
    moved(dir.path(), &every);
    assert_eq!(relay.terminate(), 0);
    moved_offline(dir.path(), &every);
}

fn moved_offline(dir: &Path, e: &Every) {
    says(dir, &["spool", "release", &e.held, "--offline"], 0, &["is ready"]);
    let (code, out, err) = ask(dir, &["spool", "verify", "--rebuild-index"]);
    assert!(matches!(code, 0 | 1), "{out}{err}");
    assert!(listed(dir, &[]).contains(&e.held));
}

#[test]
fn every_verb_answers_on_a_spool_with_a_damaged_body() {
    every_verb_on(&DAMAGES[0]);
}

#[test]
fn every_verb_answers_on_a_spool_with_a_damaged_record() {
    every_verb_on(&DAMAGES[1]);
}

#[test]
fn every_verb_answers_on_a_spool_with_a_damaged_header() {
    every_verb_on(&DAMAGES[2]);
}

#[test]
fn every_verb_answers_on_a_spool_with_a_lost_header() {
    every_verb_on(&DAMAGES[3]);
}

#[test]
fn every_verb_answers_on_a_spool_without_an_index() {
    every_verb_on(&DAMAGES[4]);
}

#[test]
fn every_verb_answers_on_a_spool_whose_end_is_cut_off() {
    every_verb_on(&DAMAGES[5]);
}

/// A record that rots under a running relay, which knows the item from its index: it can be seen, told, and purged.
#[test]
fn an_item_whose_record_rots_is_listed_by_its_id_and_can_be_purged() {
    let dir = tempfile::tempdir().expect("directory");
    let e = fill(dir.path());
    let relay = RelayProcess::start(dir.path());
    flip(&segment(dir.path(), 1), e.record_at);
    assert!(listed(dir.path(), &[]).contains(&e.ready), "the index knows its id");
    for verb in ["show", "explain"] {
        says(dir.path(), &["spool", verb, &e.ready], 1, &["the record of item", "is damaged", "spool purge"]);
    }
    says(dir.path(), &["spool", "show", &e.ready, "--raw"], 1, &["is damaged"]);
    says(dir.path(), &["spool", "hold", &e.ready], 1, &["is damaged"]);
    let beside = tempfile::tempdir().expect("directory");
    let out = beside.path().join("out");
    says(
        dir.path(),
        &["spool", "export", out.to_str().expect("text")],
        1,
        &["record of this item is damaged"],
    );
    let one = beside.path().join("one");
    let ids = ["--id", &e.ready, "--id", &e.held];
    says(
        dir.path(),
        &[&["spool", "export", one.to_str().expect("text")], &ids[..]].concat(),
        1,
        &["1 message", &e.ready],
    );
    let (code, out, err) = ask(dir.path(), &[&["spool", "ls"], &ids[..]].concat());
    assert!(code == 1 && out.contains(&e.held) && err.contains(&e.ready), "{out}{err}");
    says(dir.path(), &["spool", "purge", &e.ready, "--yes"], 0, &["is purged"]);
    assert!(!listed(dir.path(), &["--state", "ready"]).contains(&e.ready));
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn a_selector_without_a_word_is_refused_and_nothing_is_moved() {
    let dir = tempfile::tempdir().expect("directory");
    let every = fill(dir.path());
    let before = fs::read(segment(dir.path(), 1)).expect("segment");
    let empty: &[&[&str]] = &[
        &["--to", ""],
        &["--from", "\t"],
        &["--lane", ""],
        &["--direction", ""],
        &["--state", ","],
        &["--state", " , "],
        &["--result", ""],
        &["--result="],
        // One that says something does not make up for one that does not.
        &["--state", "acked", "--to", ""],
    ];
    for selection in empty {
        for verb in ["purge", "hold", "release", "cancel", "retry"] {
            let args = [&["spool", verb, "--yes", "--offline"], *selection].concat();
            says(dir.path(), &args, 2, &["it has no word"]);
        }
    }
    assert_eq!(fs::read(segment(dir.path(), 1)).expect("segment"), before, "something was moved");
    assert_eq!(listed(dir.path(), &["--state", "purged"]), [every.purged]);
}

/// Stands between a command and the relay's admin socket, and calls `first` before the first purge passes.
fn between(socket: &Path, relay: &Path, first: impl FnOnce() + Send + 'static) {
    let (listener, relay) = (UnixListener::bind(socket).expect("a socket"), relay.to_owned());
    std::thread::spawn(move || {
        let mut first = Some(first);
        for near in listener.incoming() {
            let mut near = near.expect("a command");
            let mut begin = [0; 4096];
            let n = near.read(&mut begin).expect("its request");
            if n == 0 {
                continue; // it only looked whether somebody listens
            }
            let line = String::from_utf8_lossy(&begin[..n]).lines().next().unwrap_or("").to_owned();
            if line.starts_with("POST ")
                && line.contains("/purge ")
                && let Some(first) = first.take()
            {
                first();
            }
            let mut far = UnixStream::connect(&relay).expect("the relay");
            far.write_all(&begin[..n]).expect("passed on");
            let (mut answer, mut back) = (far.try_clone().expect("clone"), near.try_clone().expect("clone"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answer, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut near, &mut far);
                let _ = far.shutdown(Shutdown::Write);
            });
        }
    });
}

/// Goal: what has come back since it was selected is not purged as delivered. Method: somebody replays it when the command has
/// made its selection and its first purge is on the way.
#[test]
fn what_came_back_since_it_was_selected_is_left_alone() {
    let dir = tempfile::tempdir().expect("directory");
    let every = fill(dir.path());
    let relay = RelayProcess::start(dir.path());
    let beside = tempfile::tempdir().expect("directory");
    let socket = beside.path().join("between.sock");
    let (data_dir, acked) = (dir.path().to_owned(), every.acked.clone());
    between(&socket, &dir.path().join("admin.sock"), move || {
        says(&data_dir, &["spool", "replay", &acked], 0, &["is ready"]);
    });
    let purge = waystation()
        .args(on(dir.path(), &["spool", "purge", "--state", "acked,expired", "--yes"]))
        .env("WAYSTATION_ADMIN__SOCKET", &socket)
        .output()
        .expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&purge.stdout), String::from_utf8_lossy(&purge.stderr));
    assert_eq!(purge.status.code(), Some(1), "{out}{err}");
    assert!(out.contains(&format!("{} is purged", every.expired)) && !out.contains(&every.acked), "{out}");
    let left = format!("{} was acked when it was selected and is ready now", every.acked);
    assert!(err.contains(&left) && err.contains("1 of 2 left alone"), "{err}");
    assert!(listed(dir.path(), &["--state", "ready"]).contains(&every.acked), "it waits for its gateway");
    // Named, it goes in whatever state it is.
    says(dir.path(), &["spool", "purge", &every.acked, "--yes"], 0, &["is purged"]);
    assert_eq!(relay.terminate(), 0);
}
