//! Nothing that came in the clear is answered inside TLS, however it is cut; and nothing said before has an effect.

use std::sync::Arc;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use spool::ids::LaneId;
use waystation::clock;
use waystation::mail::smtp::receiver::{Answer, Output, Question, Receiver, Settings};

/// A session that can shake hands.
struct World {
    receiver: Receiver,
    now: Instant,
    wire: Vec<u8>,
    shaking: bool,
    stored: usize,
}

impl World {
    fn new() -> Self {
        let now = clock::monotonic();
        let settings = Settings::new("mx.our.example", &["our.example".to_owned()]);
        let mut receiver = Receiver::new(Arc::new(settings), false, now);
        receiver.set_tls_ready(true);
        let mut world = Self { receiver, now, wire: Vec::new(), shaking: false, stored: 0 };
        world.feed(b"EHLO client.example\r\n", &[100]);
        world
    }

    fn perform(&mut self) {
        while let Some(output) = self.receiver.poll() {
            match output {
                Output::Write { reply, .. } => reply.encode(&mut self.wire),
                Output::Ask(Question::Transaction(_)) => self.receiver.answer(Answer::Begin, self.now),
                Output::Ask(Question::Recipient(_)) => {
                    let answer = Answer::Lane { lane: LaneId(1), name: "h".into() };
                    self.receiver.answer(answer, self.now);
                }
                Output::Ask(Question::Offence) => {
                    self.receiver.answer(Answer::Offences { own: 0, around: 0 }, self.now)
                }
                Output::StartTls => {
                    assert!(!std::mem::replace(&mut self.shaking, true), "one handshake");
                }
                Output::Persist(_) => self.stored += 1,
                Output::Begin { .. } | Output::Body(_) | Output::Abandon | Output::Close => {}
            }
        }
    }

    /// Feeds `bytes` in pieces whose sizes are `cuts`, over and over.
    fn feed(&mut self, bytes: &[u8], cuts: &[usize]) {
        let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
        while !rest.is_empty() {
            let n = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
            let (mut piece, after) = rest.split_at(n);
            while !piece.is_empty() && self.stored == 0 {
                let used = self.receiver.receive(piece, self.now);
                self.perform();
                piece = &piece[used..];
            }
            rest = after;
        }
    }

    fn said(&self, since: usize) -> String {
        String::from_utf8_lossy(&self.wire[since..]).into_owned()
    }
}

/// What a session may have been through before.
fn before() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just("MAIL FROM:<a@b.example>\r\n"),
        Just("MAIL FROM:<a@b.example>\r\nRCPT TO:<h@our.example>\r\n"),
        Just("MAIL FROM:<a@b.example>\r\nRCPT TO:<h@our.example>\r\nBDAT 2\r\nhi"),
        Just("NOOP\r\n"),
    ]
}

/// What somebody on the wire may put in.
fn injected() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(b"RSET\r\n".to_vec()),
        Just(b"NOOP\r\n".to_vec()),
        Just(b"EHLO evil.example\r\n".to_vec()),
        Just(b"MAIL FROM:<evil@b.example>\r\n".to_vec()),
        Just(b"STARTTLS\r\n".to_vec()),
        Just(b"QUIT\r\n".to_vec()),
        vec(any::<u8>(), 1..20),
    ];
    vec(word, 1..4).prop_map(|words| words.concat())
}

/// What is said inside TLS.
fn inside() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("RCPT TO:<h@our.example>\r\n"),
        Just("DATA\r\n"),
        Just("BDAT 2 LAST\r\nhi"),
        Just("MAIL FROM:<a@b.example>\r\n"),
        Just("STARTTLS\r\n"),
        Just("RSET\r\n"),
        Just("EHLO client.example\r\n"),
    ];
    vec(word, 1..6).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #![proptest_config(crate::smtp_split::config())]

    // J3
    #[test]
    fn injected_plaintext_is_never_answered(
        before in before(), injected in injected(), cuts in vec(1_usize..40, 1..20),
    ) {
        let mut world = World::new();
        world.feed(before.as_bytes(), &cuts);
        let since = world.wire.len();
        world.feed(&[b"STARTTLS\r\n".as_slice(), &injected].concat(), &cuts);
        let said = world.said(since);
        prop_assert!(said.starts_with("220 2.0.0 ") || said.starts_with("554 5.5.0 "), "{}", said);
        prop_assert_eq!(said.matches("\r\n").count(), 1, "{}", said);
        prop_assert_eq!(world.shaking, said.starts_with("220"));
        prop_assert!(world.receiver.is_closed() && world.stored == 0);
        // Even a handshake that was done meanwhile opens nothing.
        world.receiver.tls_established("TLSv1.3 X".to_owned(), world.now);
        world.feed(b"EHLO client.example\r\n", &[100]);
        prop_assert_eq!(world.said(since), said);
    }

    // J1
    #[test]
    fn the_past_has_no_effect_inside(
        before in before(), inside in inside(), cuts in vec(1_usize..40, 1..20),
    ) {
        let run = |before: &str, cuts: &[usize]| {
            let mut world = World::new();
            world.feed(before.as_bytes(), cuts);
            world.feed(b"STARTTLS\r\n", cuts);
            assert!(world.shaking && !world.receiver.wants_input());
            world.receiver.tls_established("TLSv1.3 X".to_owned(), world.now);
            let since = world.wire.len();
            // One octet at a time: nothing then overtakes a reply it had to wait for.
            world.feed(&inside, &[1]);
            (world.said(since), world.stored)
        };
        let (fresh, used) = (run("", &[100]), run(before, &cuts));
        prop_assert!(!fresh.0.contains("STARTTLS"), "{}", fresh.0);
        prop_assert_eq!(fresh, used);
    }
}
