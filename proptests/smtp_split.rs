//! The SMTP session sees octets, not packets; and it says `250` for what is stored, nothing else.

use std::sync::Arc;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use spool::ids::{ItemId, LaneId, WallMs};
use waystation::clock;
use waystation::mail::smtp::content::{Content, TEXT_LINE_BYTES_MAX};
use waystation::mail::smtp::data::DataReceiver;
use waystation::mail::smtp::receiver::{Acceptance, Answer, Output, Question, Receiver, Settings};

/// Few cases by default; seeds of failures are kept apart from the ledger's.
pub(crate) fn config() -> Config {
    let persistence = FileFailurePersistence::Direct("proptests/regressions/smtp.txt");
    Config { failure_persistence: Some(Box::new(persistence)), ..crate::cases(256) }
}

/// Size limit of the sessions here; small, so that it is reached.
const MESSAGE_BYTES_MAX: u64 = 200;

/// A session with all its surroundings, and everything that came out of it.
#[derive(Debug)]
struct World {
    receiver: Receiver,
    now: Instant,
    wire: Vec<u8>,
    body: Option<Vec<u8>>,
    stored: Vec<(Acceptance, Vec<u8>)>,
    /// Fate of each message: stored or not; cycled.
    fates: Vec<bool>,
    /// `250 ... queued` replies seen.
    promised: usize,
}

impl World {
    fn new(fates: Vec<bool>) -> Self {
        let settings = Settings {
            message_bytes_max: MESSAGE_BYTES_MAX,
            recipients_max: 3,
            ..Settings::new("mx.our.example", &["our.example".to_owned()])
        };
        let now = clock::monotonic();
        let receiver = Receiver::new(Arc::new(settings), false, now);
        let mut world =
            Self { receiver, now, wire: Vec::new(), body: None, stored: Vec::new(), fates, promised: 0 };
        world.perform();
        world
    }

    fn perform(&mut self) {
        while let Some(output) = self.receiver.poll() {
            match output {
                Output::Write { reply, .. } => {
                    if reply.text().starts_with("OK queued as") {
                        self.promised += 1;
                        assert!(self.promised <= self.stored.len(), "250 before its commit");
                    }
                    reply.encode(&mut self.wire);
                }
                Output::Ask(Question::Offence) => {
                    self.receiver.answer(Answer::Offences { own: 0, around: 0 }, self.now)
                }
                Output::Ask(Question::Transaction(_)) => self.receiver.answer(Answer::Begin, self.now),
                Output::Ask(Question::Recipient(path)) => {
                    let known = path.key().starts_with('h');
                    let answer = if known {
                        Answer::Lane { lane: LaneId(1), name: "h".into() }
                    } else {
                        Answer::Unknown
                    };
                    self.receiver.answer(answer, self.now);
                }
                Output::Begin { .. } => assert!(self.body.replace(Vec::new()).is_none()),
                Output::Body(bytes) => {
                    let body = self.body.as_mut().expect("a body has begun");
                    body.extend_from_slice(&bytes);
                    assert!(body.len() as u64 <= MESSAGE_BYTES_MAX);
                }
                Output::Abandon => assert!(self.body.take().is_some()),
                Output::Persist(acceptance) => self.store(*acceptance),
                Output::StartTls => panic!("there is no certificate"),
                Output::Close => assert!(self.receiver.is_closed()),
            }
        }
        assert!(self.promised == self.stored.len(), "stored and not said");
    }

    fn store(&mut self, acceptance: Acceptance) {
        let (body, ticket) = (self.body.take().expect("a body"), acceptance.ticket);
        self.fates.rotate_left(1);
        if self.fates.last().copied().unwrap_or(true) {
            self.stored.push((acceptance, body));
            let id = ItemId::new(WallMs(1), [self.stored.len() as u8; 10]);
            self.receiver.persisted(ticket, id, self.now);
        } else {
            self.receiver.store_failed(ticket, Answer::Failed, self.now);
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let used = self.receiver.receive(&bytes[at..], self.now);
            self.perform();
            assert!(used > 0, "stuck although nothing is asked or stored");
            at += used;
        }
    }

    /// Feeds `bytes` in pieces whose sizes are `cuts`, over and over.
    fn feed_cut(&mut self, bytes: &[u8], cuts: &[usize]) {
        let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
        while !rest.is_empty() {
            let n = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
            self.feed(&rest[..n]);
            rest = &rest[n..];
        }
    }
}

/// Octets where line ends and dots are likely.
fn critical(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        3 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        1 => Just(b"\n".to_vec()),
        2 => Just(b".".to_vec()),
        2 => Just(b"a".to_vec()),
        1 => Just(b"\0".to_vec()),
        1 => Just(b"\x80".to_vec()),
        1 => Just(b": ".to_vec()),
    ];
    vec(octet, len).prop_map(|parts| parts.concat())
}

/// Lines that are fine, many of them with dots in front.
fn clean() -> impl Strategy<Value = Vec<u8>> {
    vec("[.]{0,3}[a:]{0,5}", 0..12).prop_map(|lines| {
        lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"]).flatten().copied().collect()
    })
}

/// What a client may send in one go: nothing follows what must be waited for.
fn group() -> impl Strategy<Value = Vec<u8>> {
    let line = |text: &'static str| Just(text.as_bytes().to_vec());
    let transaction = || {
        prop_oneof![
            Just("MAIL FROM:<a@b.example>\r\nRCPT TO:<home@our.example>\r\n".as_bytes().to_vec()),
            Just(
                "MAIL FROM:<>\r\nRCPT TO:<home@our.example>\r\nRCPT TO:<x@our.example>\r\n"
                    .as_bytes()
                    .to_vec()
            ),
        ]
    };
    prop_oneof![
        2 => line("EHLO client.example\r\n"),
        1 => line("RSET\r\n"),
        1 => line("RCPT TO:<h2@our.example>\r\n"),
        1 => line("DATA\r\n"),
        4 => transaction().prop_map(|text| [text, b"DATA\r\n".to_vec()].concat()),
        4 => clean().prop_map(|body| [body, b".\r\n".to_vec()].concat()),
        4 => critical(0..60).prop_map(|body| [body, b"\r\n.\r\n".to_vec()].concat()),
        3 => (transaction(), critical(0..40), critical(0..40)).prop_map(|(text, a, b)| {
            let first = format!("BDAT {}\r\n", a.len()).into_bytes();
            let last = format!("BDAT {} LAST\r\n", b.len()).into_bytes();
            [text, first, a, last, b].concat()
        }),
        1 => critical(0..10),
        1 => line("NOOP\nRCPT TO:<home@our.example>\r\n"),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn receiver_is_indifferent_to_how_bytes_are_split(
        groups in vec(group(), 1..12),
        cuts in vec(1_usize..40, 1..20),
        fates in vec(any::<bool>(), 1..4),
    ) {
        let (mut whole, mut cut, mut single) =
            (World::new(fates.clone()), World::new(fates.clone()), World::new(fates));
        let hello = b"EHLO client.example\r\n".to_vec();
        for group in std::iter::once(&hello).chain(&groups) {
            // A group that ends in DATA may still be the inside of a body: then the next one is body too,
            // and what looks like a violation there is none. Where the whole is refused for overtaking a
            // reply, the pieces are not: that is the one allowed difference, so stop before it.
            let before = whole.wire.len();
            whole.feed(group);
            if String::from_utf8_lossy(&whole.wire[before..]).contains("554 5.5.0") {
                return Ok(());
            }
            cut.feed_cut(group, &cuts);
            single.feed_cut(group, &[1]);
            for other in [&cut, &single] {
                prop_assert_eq!(String::from_utf8_lossy(&whole.wire), String::from_utf8_lossy(&other.wire));
                prop_assert_eq!(&whole.stored, &other.stored);
            }
        }
    }

    #[test]
    fn no_reply_precedes_its_commit(groups in vec(group(), 1..20), fates in vec(any::<bool>(), 1..4)) {
        let mut world = World::new(fates); // the world checks at every reply
        world.feed(b"EHLO client.example\r\n");
        for group in &groups {
            world.feed(group);
        }
        for (acceptance, body) in &world.stored {
            prop_assert!(!acceptance.recipients.is_empty());
            prop_assert!(is_canonical(body), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn any_octets_at_all_are_survived(bytes in vec(any::<u8>(), 0..4000), cuts in vec(1_usize..300, 1..5)) {
        let mut world = World::new(vec![true]);
        world.feed_cut(&bytes, &cuts);
        prop_assert!(world.stored.is_empty());
    }

    // D6
    #[test]
    fn unstuffing_inverts_stuffing_and_refuses_the_rest(text in critical(0..200), cuts in vec(1_usize..20, 1..10)) {
        let sent = [stuff(&text), b".\r\n".to_vec(), b"NOOP\r\n".to_vec()].concat();
        let (mut data, mut content, mut out) =
            (DataReceiver::new(false), Content::new(1 << 20, false, "mx"), Vec::new());
        let (mut rest, mut sizes) = (&sent[..], cuts.iter().cycle());
        while !rest.is_empty() && !data.has_ended() {
            let n = sizes.next().copied().unwrap_or(1).min(rest.len());
            let used = data.push(&rest[..n], |bytes| content.push(bytes, &mut out));
            rest = &rest[used..];
        }
        let verdict = content.finish(&mut out);
        if text.is_empty() || text.ends_with(b"\r\n") {
            prop_assert!(data.has_ended());
            if is_canonical(&text) {
                prop_assert_eq!(verdict, Ok(()));
                prop_assert_eq!(&out, &text);
                prop_assert_eq!(rest, &b"NOOP\r\n"[..]);
            } else {
                prop_assert!(verdict.is_err());
            }
        } else {
            // Without a line end before it the dot ends nothing.
            prop_assert!(!data.has_ended());
        }
    }
}

/// CR LF line ends only, no NUL, no over-long line.
fn is_canonical(text: &[u8]) -> bool {
    let lines = text.split(|&b| b == b'\n');
    let count = lines.clone().count();
    !text.contains(&0)
        && lines.enumerate().all(|(n, line)| {
            let inner = if n + 1 < count { line.strip_suffix(b"\r") } else { Some(line) };
            inner.is_some_and(|inner| !inner.contains(&b'\r') && inner.len() <= TEXT_LINE_BYTES_MAX)
        })
}

/// RFC 5321 §4.5.2, the sender's half: a dot more at each line that begins with one.
fn stuff(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut starts_line = true;
    for (n, &byte) in text.iter().enumerate() {
        if starts_line && byte == b'.' {
            out.push(b'.');
        }
        out.push(byte);
        starts_line = byte == b'\n' && n > 0 && text[n - 1] == b'\r';
    }
    out
}
