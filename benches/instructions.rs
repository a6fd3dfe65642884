//! How many instructions the hot paths take, counted by callgrind: a check that noise does not move.
//!
//! `cargo bench --bench instructions [-- --write]`: runs each path under `valgrind --tool=callgrind` twice, with few and
//! with many operations, and takes the difference, so that starting up is not counted. Compares with
//! `benches/instructions.txt` and fails when a path takes more than [`MORE_PERCENT`] above what is written there;
//! `--write` writes it anew. The numbers belong to one compiler and to the processor that valgrind plays; they say
//! nothing about time.
//!
//! No disk, socket or clock is in the paths: the ledger stands on the simulated disk and the index in memory.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed measurement")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spool::accept::ChunkBuilder;
use spool::disk::sim::SimDisk;
use spool::ids::{ItemId, LaneId, SessionId, WallMs};
use spool::index::memory::MemoryIndex;
use spool::types::{ItemInfo, NewMessage, Room, State, Target};
use spool::{Options, Spool};
use waystation::identity::key::SecretKey;
use waystation::mail::attestation;
use waystation::mail::custody::Receipt;
use waystation::mail::envelope::{Envelope, Meta};
use waystation::mail::signer;
use waystation::mail::smtp::receiver::{Answer, Output, Question, Receiver, Settings};
use waystation::tunnel::Dialect;
use waystation::tunnel::frame::{Frame, StartBody};

/// Operations of the two runs.
const FEW: u64 = 20;
const MANY: u64 = 220;
/// How much more than what is written a path may take.
const MORE_PERCENT: f64 = 3.0;
/// Bytes of the messages.
const MESSAGE_BYTES: usize = 4096;
const NOW: WallMs = WallMs(1_790_000_000_000);
const WRITTEN: &str = "benches/instructions.txt";

/// A path: its name, and what does so many operations of it.
type HotPath = (&'static str, fn(u64));

const PATHS: [HotPath; 6] = [
    ("smtp_receiver_message", smtp_receiver_message),
    ("spool_accept", spool_accept),
    ("spool_lease_ack", spool_lease_ack),
    ("tunnel_frames_of_an_item", tunnel_frames_of_an_item),
    ("attestation_and_receipt", attestation_and_receipt),
    ("envelope_decode", envelope_decode),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [path, count] = &arguments[..]
        && let Ok(count) = count.parse()
    {
        let (_, run) = PATHS.iter().find(|(name, _)| name == path).expect("a path");
        run(count);
        return ExitCode::SUCCESS;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(WRITTEN);
    let written: BTreeMap<String, f64> = std::fs::read_to_string(&file)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
        .collect();
    let (mut text, mut more) = (String::new(), false);
    for (name, _) in PATHS {
        let Some(each) = counted(name) else {
            eprintln!("valgrind is not installed, or does not run this program");
            return ExitCode::FAILURE;
        };
        let before = written.get(name).copied();
        let change = before.map(|before| (each / before - 1.0) * 100.0);
        more |= change.is_none_or(|change| change > MORE_PERCENT);
        let change = change.map_or("not written yet".to_owned(), |change| format!("{change:+.1} %"));
        println!("{name:<28} {each:>10.0} instructions  {change}");
        text.push_str(&format!("{name} {each:.0}\n"));
    }
    if arguments.iter().any(|argument| argument == "--write") {
        std::fs::write(&file, text).unwrap();
        return ExitCode::SUCCESS;
    }
    if more { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Instructions of one operation of a path.
fn counted(name: &str) -> Option<f64> {
    let run = |count: u64| -> Option<f64> {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        let output =
            valgrind.arg(std::env::current_exe().ok()?).args([name, &count.to_string()]).output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find_map(|line| line.split_once("Collected :"))?;
        output.status.success().then(|| line.1.trim().parse().ok())?
    };
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let operations = (MANY - FEW) as f64;
    Some((run(MANY)? - run(FEW)?) / operations)
}

/// One message through the SMTP machine, from MAIL to 250.
fn smtp_receiver_message(count: u64) {
    let settings = Settings::new("relay.example", &["mail.example".to_owned()]);
    #[allow(clippy::disallowed_methods, reason = "any instant will do as the start")]
    let now = Instant::now() + Duration::from_secs(60);
    let mut receiver = Receiver::new(Arc::new(settings), false, now);
    receiver.tick(now + Duration::from_secs(1));
    answer(&mut receiver, now);
    feed(&mut receiver, b"EHLO client.example\r\n", now);
    let mut message = b"Subject: x\r\n\r\n".to_vec();
    while message.len() < MESSAGE_BYTES {
        message.extend_from_slice(&[[b'x'; 78].as_slice(), b"\r\n"].concat());
    }
    message.extend_from_slice(b".\r\n");
    for _ in 0..count {
        feed(&mut receiver, b"MAIL FROM:<a@client.example>\r\n", now);
        feed(&mut receiver, b"RCPT TO:<home@mail.example>\r\n", now);
        feed(&mut receiver, b"DATA\r\n", now);
        feed(&mut receiver, &message, now);
    }
}

fn feed(receiver: &mut Receiver, mut bytes: &[u8], now: Instant) {
    while !bytes.is_empty() {
        let taken = receiver.receive(bytes, now);
        bytes = &bytes[taken..];
        let busy = answer(receiver, now);
        assert!(taken > 0 || busy, "the machine stands still");
    }
}

/// Gives the machine what it wants; whether it wanted something.
fn answer(receiver: &mut Receiver, now: Instant) -> bool {
    let mut busy = false;
    while let Some(output) = receiver.poll() {
        busy = true;
        if let Output::Ask(question) = &output {
            let answer = match question {
                Question::Transaction(_) => Answer::Begin,
                Question::Offence => Answer::Offences { own: 0, around: 0 },
                Question::Recipient(_) => Answer::Lane { lane: LaneId(1), name: "lane".to_owned() },
            };
            receiver.answer(answer, now);
        } else if let Output::Persist(acceptance) = &output {
            receiver.persisted(acceptance.ticket, ItemId([7; 16]), now);
        } else if let Output::Write { reply, .. } = &output {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            black_box(bytes);
        }
    }
    busy
}

/// A ledger on the simulated disk, with one lane.
fn ledger() -> (Spool, LaneId) {
    let options =
        Options { segment_bytes: 2 * 1024 * 1024, min_free_bytes: 0, seed: 7, ..Options::default() };
    let index = Arc::new(MemoryIndex::new());
    let (mut spool, _) = Spool::open(Arc::new(SimDisk::new()), index, options, NOW).unwrap();
    let lane = spool.register("lane", NOW).unwrap();
    spool.commit(NOW).unwrap();
    (spool, lane)
}

fn id(n: u64) -> ItemId {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&n.to_be_bytes());
    ItemId::new(NOW, random)
}

fn meta() -> Vec<u8> {
    Meta { mail_from: "a@sender.example".into(), helo: "client.example".into(), ..Meta::default() }.encode()
}

fn accept(spool: &mut Spool, lane: LaneId, n: u64) {
    let id = id(n);
    let mut chunk = ChunkBuilder::new(id, spool.reader().seed());
    chunk.take(&[b'x'; MESSAGE_BYTES]);
    spool.stage_chunk(id, chunk.finish()).unwrap();
    let target = Target { lane, id, tag: b"home@mail.example".to_vec() };
    let message = NewMessage {
        body: id,
        body_bytes: 4096,
        sha256: [3; 32],
        head: b"Received: from client.example by relay.example\r\n".to_vec(),
        meta: meta(),
        fingerprint: None,
        targets: vec![target],
    };
    spool.accept(message, NOW).unwrap();
}

/// One message into the ledger; fifty share a commit, because the simulated disk copies a whole file for each sync.
fn spool_accept(count: u64) {
    let (mut spool, lane) = ledger();
    for n in 0..count {
        accept(&mut spool, lane, n);
        if n % 50 == 49 {
            spool.commit(NOW).unwrap();
        }
    }
    spool.commit(NOW).unwrap();
}

/// One item lent and acked; fifty share a commit.
fn spool_lease_ack(count: u64) {
    let (mut spool, lane) = ledger();
    // All of them are there in both runs, so that only what is lent makes the difference.
    for n in 0..MANY {
        accept(&mut spool, lane, n);
    }
    spool.commit(NOW).unwrap();
    let session: SessionId = spool.open_session(lane, Arc::new(|| ())).unwrap();
    let mut left = count;
    while left > 0 {
        let items = u32::try_from(left.min(50)).unwrap();
        let leased = spool.lease(session, Room { items, bytes: u64::MAX }, NOW).unwrap();
        assert!(!leased.items.is_empty());
        for item in &leased.items {
            spool.ack(session, item.id, NOW).unwrap();
            left -= 1;
        }
        spool.commit(NOW).unwrap();
    }
}

/// Start, two chunks and end, made and read.
fn tunnel_frames_of_an_item(count: u64) {
    let stream = format!("{}:home@mail.example", id(1));
    let start = StartBody {
        mail_from: "a@sender.example".into(),
        rcpt_to: "home@mail.example".into(),
        ..StartBody::default()
    };
    for _ in 0..count {
        let frames = [
            Frame::Start { stream: stream.clone(), start: start.clone() },
            Frame::Chunk { stream: stream.clone(), bytes: Bytes::from_static(&[b'x'; 100]) },
            Frame::Chunk { stream: stream.clone(), bytes: Bytes::from_static(&[b'x'; MESSAGE_BYTES]) },
            Frame::End { stream: stream.clone() },
        ];
        for frame in frames {
            let bytes = frame.encode().unwrap();
            black_box(Frame::decode(&bytes, Dialect::Two).unwrap());
        }
    }
}

/// What is signed for one item of a tunnel-2 gateway.
fn attestation_and_receipt(count: u64) {
    let key = SecretKey::from_seed(&[9; 32]);
    let (info, envelope) = (info(), Envelope::decode(&meta()).unwrap());
    let stream = format!("{}:home@mail.example", info.id);
    for _ in 0..count {
        let statement =
            signer::statement("relay.example", &info, &envelope, &stream, "home@mail.example", NOW);
        black_box(attestation::sign(&statement, "key", &key));
        let receipt: Receipt = signer::receipt("relay.example", &info, &envelope);
        black_box(receipt.sign("key", &key));
    }
}

fn envelope_decode(count: u64) {
    let bytes = meta();
    for _ in 0..count {
        black_box(Envelope::decode(black_box(&bytes)).unwrap());
    }
}

fn info() -> ItemInfo {
    ItemInfo {
        id: id(1),
        lane: LaneId(1),
        lane_name: SecretKey::from_seed(&[5; 32]).key_text().to_string(),
        seq: spool::ids::Seq(7),
        state: State::Ready,
        leased: true,
        size_bytes: 4144,
        accepted_at: NOW,
        changed_at: NOW,
        sha256: [2; 32],
        chain: [3; 32],
        meta: meta(),
        tag: b"home@mail.example".to_vec(),
        head: b"Received: from client.example by relay.example\r\n".to_vec(),
        chunks: Vec::new(),
        outbound: None,
    }
}
