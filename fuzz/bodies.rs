//! What each fuzz target does with its bytes, and what must hold: no panic, and a property that the code promises.
//!
//! Compiled twice: for the fuzzer, and into the test suite, which replays the corpus.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64;
use spool::disk::Disk;
use spool::disk::sim::SimDisk;
use spool::ids::{ItemId, LaneId, WallMs};
use spool::index::memory::MemoryIndex;
use spool::segment;
use spool::types::Filter;
use spool::{Options, Spool};
use waystation::identity::key::SecretKey;
use waystation::mail::relay_keys::TrustedKeys;
use waystation::mail::signed::batch;
use waystation::mail::smtp::receiver::{Answer, Output, Question, Receiver, Settings};
use waystation::mail::smtp::sender::answer::AnswerParser;
use waystation::mail::verdict::inspector::Inspector;
use waystation::mail::{attestation, custody};
use waystation::proxy::{Parsed, parse};
use waystation::tunnel::Dialect;
use waystation::tunnel::control::{CONTROL_BYTES_MAX, ToGateway, ToRelay};
use waystation::tunnel::frame::Frame;
use waystation::tunnel::signed::Signed;

/// Names our host in every target.
const HOST: &str = "mx.our.example";

/// Octets of an SMTP client. The first byte chooses in how large pieces they come. Every reply is whole, a body that
/// begins ends by being persisted or abandoned, and after the close nothing is said.
pub fn smtp_receiver(data: &[u8]) {
    let Some((&step, input)) = data.split_first() else { return };
    let settings = Settings::new(HOST, &["our.example".to_owned()]);
    // Time passes only while the machine waits.
    #[allow(clippy::disallowed_methods, reason = "any instant will do as the start")]
    let now = Instant::now() + Duration::from_secs(60);
    let mut receiver = Receiver::new(Arc::new(settings), step & 0x80 != 0, now);
    receiver.tick(now + Duration::from_secs(1));
    let mut world = Smtp { now, open: false, closed: false, ids: 0 };
    world.drain(&mut receiver);
    for piece in input.chunks(usize::from(step & 0x7f) + 1) {
        let mut rest = piece;
        while !rest.is_empty() && !receiver.is_closed() {
            let taken = receiver.receive(rest, world.now);
            rest = &rest[taken..];
            let busy = world.drain(&mut receiver);
            if taken == 0 && !busy {
                // It makes a bad client wait.
                let until = receiver.deadline().filter(|until| *until > world.now);
                world.now = until.expect("it neither took an octet, nor did anything, nor waits");
                receiver.tick(world.now);
                world.drain(&mut receiver);
            }
        }
    }
    receiver.hang_up();
    world.drain(&mut receiver);
    assert!(world.closed && !world.open, "a body is left over");
}

struct Smtp {
    now: Instant,
    open: bool,
    closed: bool,
    ids: u8,
}

impl Smtp {
    /// Performs what the machine wants; whether there was something.
    fn drain(&mut self, receiver: &mut Receiver) -> bool {
        let mut busy = false;
        while let Some(output) = receiver.poll() {
            busy = true;
            assert!(!self.closed, "{output:?} after the close");
            self.perform(output, receiver);
        }
        busy
    }

    fn perform(&mut self, output: Output, receiver: &mut Receiver) {
        if let Output::Write { reply, .. } = &output {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            assert!(bytes.ends_with(b"\r\n") && bytes.len() <= 4096, "{reply:?}");
            let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
            assert!(lines.into_iter().all(|line| line.len() <= 512 && line.ends_with(b"\r")), "{reply:?}");
        } else if let Output::Ask(question) = output {
            self.ids = self.ids.wrapping_add(1);
            let answer = match (question, self.ids % 7) {
                (Question::Transaction(_), 6) => Answer::Busy,
                (Question::Transaction(_), _) => Answer::Begin,
                (Question::Offence, n) => Answer::Offences { own: u32::from(n), around: 1 },
                (Question::Recipient(_), 5) => Answer::Unknown,
                (Question::Recipient(_), _) => Answer::Lane { lane: LaneId(1), name: "lane".to_owned() },
            };
            receiver.answer(answer, self.now);
        } else if let Output::Begin { recipients } = output {
            assert!(!self.open && recipients > 0, "a body inside a body, or for nobody");
            self.open = true;
        } else if let Output::Body(bytes) = output {
            assert!(self.open && !bytes.is_empty(), "octets of no body");
        } else if matches!(output, Output::Abandon) {
            assert!(self.open, "no body to abandon");
            self.open = false;
        } else if let Output::Persist(acceptance) = output {
            assert!(self.open && !acceptance.recipients.is_empty(), "nothing to persist");
            self.open = false;
            receiver.persisted(acceptance.ticket, ItemId([self.ids; 16]), self.now);
        } else if matches!(output, Output::Close) {
            self.closed = true;
        } else {
            receiver.hang_up(); // STARTTLS: the octets of a handshake are rustls's
        }
    }
}

/// Octets of an SMTP server. The same answers whatever the pieces; none is longer than what came.
pub fn smtp_answer(data: &[u8]) {
    let Some((&step, input)) = data.split_first() else { return };
    let whole = answers(input, input.len().max(1));
    let pieces = answers(input, usize::from(step) + 1);
    assert_eq!(whole, pieces, "pieces make a difference");
}

fn answers(input: &[u8], step: usize) -> Vec<String> {
    let (mut parser, mut said) = (AnswerParser::default(), Vec::new());
    for piece in input.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (used, answer) = parser.push(rest);
            rest = &rest[used..];
            match answer {
                Ok(Some(answer)) => {
                    said.push(format!("{answer:?} {:?} {}", answer.enhanced(), answer.text()))
                }
                Ok(None) => assert!(rest.is_empty() || used > 0, "it takes nothing and says nothing"),
                Err(error) => {
                    said.push(error.to_string());
                    return said;
                }
            }
        }
    }
    said
}

/// One binary message of the tunnel. What decodes is encoded to something that decodes to the same.
pub fn tunnel_frame(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    for dialect in [Dialect::One, Dialect::Two] {
        if let Ok(frame) = Frame::decode(&message, dialect)
            && let Ok(again) = frame.encode()
        {
            assert_eq!(Frame::decode(&again, dialect).as_ref(), Ok(&frame));
        }
    }
}

/// One text message of the tunnel, either way. What is read and known is written and read as the same.
pub fn tunnel_control(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(said) = ToRelay::parse(&text, CONTROL_BYTES_MAX)
        && !matches!(said, ToRelay::Unknown(_))
    {
        assert_eq!(ToRelay::parse(&said.to_text(), usize::MAX), Ok(said));
    }
    if let Ok(said) = ToGateway::parse(&text, CONTROL_BYTES_MAX)
        && !matches!(said, ToGateway::Unknown(_))
    {
        assert_eq!(ToGateway::parse(&said.to_text(), usize::MAX), Ok(said));
    }
}

/// The contents of a segment file. A spool that opens on it lists what it has, checks it, and takes a message.
pub fn journal_recovery(data: &[u8]) {
    const NOW: WallMs = WallMs(1_790_000_000_000);
    let disk = SimDisk::new();
    let made = disk.create_dir(segment::JOURNAL_DIR).and_then(|()| disk.create(&segment::file_name(1)));
    let written = made.and_then(|file| file.write_all_at(&mut [IoSlice::new(data)], 0));
    written.expect("the medium is well");
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
    let index = Arc::new(MemoryIndex::new());
    let Ok((mut spool, _)) = Spool::open(Arc::new(disk), index, options, NOW) else { return };
    for mailbox in spool.mailboxes(None, 100).unwrap_or_default() {
        let _ = spool.verify_lane(mailbox.lane);
    }
    for item in spool.list(&Filter::default(), None, 100).map(|(items, _)| items).unwrap_or_default() {
        let _ = (spool.timeline(item.id), spool.reader().check_body(&item));
    }
    let _ = spool.invitations();
    if spool.register("fuzz", NOW).is_ok() {
        spool.commit(NOW).expect("the medium is well");
        assert!(spool.mailbox("fuzz").is_ok_and(|mailbox| mailbox.is_some()), "what was made is there");
    }
}

/// A configuration file, of the relay in both formats and of a gateway. What is wrong is said in words.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for name in ["waystation.toml", "config.json"] {
        let sources = waystation::config::Sources { file: Some((name, &text)), env: &[], flags: &[] };
        if let Err(errors) = waystation::config::Config::load(&sources) {
            assert!(!errors.0.is_empty() && errors.to_string().starts_with(name), "{errors}");
        }
    }
    if let Err(error) = waystation::gateway::config::Config::parse(&text, Path::new("gateway.toml")) {
        assert!(!error.problem.is_empty(), "{error}");
    }
}

/// A signed statement: key id, payload, signature, one on each line, and a path if there is a fourth. Nothing verifies but what the key has signed.
pub fn attestation(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(4, '\n').map(str::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let (key_id, payload_base64, signature_base64) = (line(), line(), line());
    let signed = Signed { key_id, payload_base64, signature_base64, batch_path: lines.next() };
    let mut keys = TrustedKeys::default();
    let key = SecretKey::from_seed(&[1; 32]);
    keys.pin("fuzz", key.key_text()).expect("one key");
    let own = |domain: &[u8]| {
        // Signatures of Ed25519 are deterministic: there is one for these bytes.
        let payload = BASE64.decode(signed.payload_base64.as_bytes()).unwrap_or_default();
        let text = match &signed.batch_path {
            None => [domain, &payload].concat(),
            Some(path) => {
                let way = BASE64.decode(path.as_bytes()).unwrap_or_default();
                let Some(root) = batch::root(batch::leaf(domain, &payload), &way) else { return false };
                batch::text(&root)
            }
        };
        signed.signature_base64 == BASE64.encode(&key.sign(&text))
    };
    if attestation::verify(Some(&signed), "s", "a@b", "c@d", &keys, WallMs(0)).is_ok() {
        assert!(own(b""), "an attestation that nobody made");
    }
    if custody::verify(&signed, &keys).is_ok() {
        assert!(own(b"waystation-custody-1\n"), "a receipt that nobody made");
    }
}

/// The first octets of a connection from a proxy. A header is not longer than what came, and nothing shorter is one.
pub fn proxy_header(data: &[u8]) {
    if let Parsed::Header { len, .. } = parse(data) {
        assert!(len > 0 && len <= data.len());
        assert_eq!(parse(&data[..len]), parse(data), "what follows changes nothing");
        assert_eq!(parse(&data[..len - 1]), Parsed::Incomplete, "a part is no header");
    }
}

/// A message on its way in. What is kept is the same whatever the pieces, is a part of what came, and what is left of
/// `Authentication-Results` does not speak in our name: a second pass takes nothing.
pub fn authentication_results(data: &[u8]) {
    let Some((&step, input)) = data.split_first() else { return };
    let whole = kept(input, input.len().max(1));
    assert_eq!(whole, kept(input, usize::from(step) + 1), "pieces make a difference");
    assert!(whole.len() <= input.len());
    assert_eq!(kept(&whole, 7), whole, "a second pass takes something");
}

fn kept(input: &[u8], step: usize) -> Vec<u8> {
    let (mut inspector, mut out) = (Inspector::new(HOST, true), Vec::new());
    for piece in input.chunks(step) {
        inspector.push(piece, &mut out);
    }
    let _ = inspector.finish(&mut out);
    out
}
