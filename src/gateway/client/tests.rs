//! The machine against a scripted relay; virtual time only.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use spool::ids::ItemId;

use super::stream::chain_step;
use super::*;
use crate::identity::key::SecretKey;
use crate::tunnel::control::{AuthError, Credit, Drain};
use crate::tunnel::frame::START_BYTES_MAX;

const HOST: &str = "relay.example.org";
const ID: &str = "7b0b3ba6-2c3f-4e0a-9a51-6a3a4c1c8a52";
const NONCE: &str = "0f2c1f0e-9d56-4b7c-8f0e-1b2c3d4e5f60";

fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn settings() -> Settings {
    Settings {
        key: key(),
        relay_host: HOST.to_owned(),
        allow_tunnel_1: false,
        credit: Credit { items: 4, bytes: 1 << 20, item_bytes_max: Some(1000) },
        handshake_timeout: Duration::from_secs(10),
        heartbeat_every: Duration::from_secs(30),
        silence_max: Duration::from_secs(90),
        submits: true,
        invite: None,
    }
}

/// One session and its clock.
struct Home {
    session: ClientSession,
    now: Instant,
}

impl Home {
    fn new(settings: Settings) -> Self {
        Self::at(settings, LanePosition::default())
    }

    fn at(settings: Settings, position: LanePosition) -> Self {
        let now = crate::clock::monotonic();
        Self { session: ClientSession::new(settings, position, now), now }
    }

    /// Logged in with tunnel 2.
    fn open() -> Self {
        let mut home = Self::new(settings());
        home.log_in(&format!("relay-auth:{ID}:{NONCE}:{HOST}"), &[Feature::Ack, Feature::Replay]);
        let ready = home.drain().pop();
        assert_eq!(
            ready,
            Some(Output::Ready {
                dialect: Dialect::Two,
                replaced: false,
                relay_keys: Vec::new(),
                aliases: Vec::new(),
                domains: Vec::new()
            })
        );
        home
    }

    fn open_legacy() -> Self {
        let mut home = Self::new(Settings { allow_tunnel_1: true, ..settings() });
        home.log_in(&format!("relay-auth:{ID}:{NONCE}"), &[]);
        let ready = home.drain().pop();
        assert_eq!(
            ready,
            Some(Output::Ready {
                dialect: Dialect::One,
                replaced: false,
                relay_keys: Vec::new(),
                aliases: Vec::new(),
                domains: Vec::new()
            })
        );
        home
    }

    fn log_in(&mut self, challenge_text: &str, features: &[Feature]) {
        self.challenge(challenge_text);
        self.auth_ok(features);
    }

    fn challenge(&mut self, text: &str) {
        self.text(&ToGateway::AuthChallenge(AuthChallenge {
            public_key_base32: key().key_text().to_string(),
            challenge_id: ID.to_owned(),
            challenge_text: text.to_owned(),
            expires_at: "2026-01-01T00:00:00.000Z".to_owned(),
        }));
    }

    fn auth_ok(&mut self, features: &[Feature]) {
        self.text(&ToGateway::AuthOk(AuthOk {
            aliases: Vec::new(),
            domains: Vec::new(),
            public_key_base32: key().key_text().to_string(),
            email_local_part: key().key_text().to_string(),
            session_role: SessionRole::Inbound,
            replaced_socket_id: None,
            features: Features::of(features),
            credit: None,
            ..AuthOk::default()
        }));
    }

    fn text(&mut self, message: &ToGateway) {
        self.session.handle_text(&message.to_text(), self.now);
    }

    fn frame(&mut self, frame: Frame) {
        self.session.handle_binary(&frame.encode().unwrap(), self.now);
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.session.poll()).collect()
    }

    fn start(&mut self, item: &Item) {
        self.frame(Frame::Start { stream: item.id.clone(), start: item.start() });
    }

    fn chunk(&mut self, item: &Item, bytes: &[u8]) {
        self.frame(Frame::Chunk { stream: item.id.clone(), bytes: Bytes::copy_from_slice(bytes) });
    }

    fn end(&mut self, item: &Item) {
        self.frame(Frame::End { stream: item.id.clone() });
    }

    fn send(&mut self, item: &Item) {
        self.start(item);
        self.chunk(item, &item.bytes());
        self.end(item);
    }

    fn notices(&mut self) -> Vec<Notice> {
        self.drain()
            .into_iter()
            .filter_map(|output| if let Output::Notice(notice) = output { Some(notice) } else { None })
            .collect()
    }

    /// The texts sent since the last drain, decoded.
    fn said(&mut self) -> Vec<ToRelay> {
        self.drain()
            .into_iter()
            .filter_map(|output| {
                let Output::Text(text) = output else { return None };
                ToRelay::parse(&text, CONTROL_BYTES_MAX).ok()
            })
            .collect()
    }
}

/// An item of a lane with its chain.
#[derive(Clone)]
struct Item {
    id: String,
    seq: u64,
    head: &'static [u8],
    body: &'static [u8],
    chain: [u8; 32],
}

impl Item {
    fn after(before: [u8; 32], seq: u64, body: &'static [u8]) -> Self {
        let id = ItemId::new(spool::ids::WallMs(seq), [7; 10]);
        let head = b"Received: here\r\n";
        let chain = chain_step(&before, seq, id, &Sha256::digest(head).into(), &Sha256::digest(body).into());
        Self { id: id.to_string(), seq, head, body, chain }
    }

    fn first() -> Self {
        Self::after([0; 32], 1, b"Subject: x\r\n\r\nhello\r\n")
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head, self.body].concat()
    }

    fn start(&self) -> StartBody {
        StartBody {
            mail_from: "a@example.org".to_owned(),
            rcpt_to: "b@example.org".to_owned(),
            auth_attestation: None,
            item_id: Some(self.id.clone()),
            seq: Some(self.seq),
            chain: Some(HEXLOWER.encode(&self.chain)),
            size: Some(self.bytes().len() as u64),
            trace_bytes: Some(self.head.len() as u64),
            sha256: Some(HEXLOWER.encode(&Sha256::digest(self.body))),
            receipt: None,
        }
    }

    fn acked(&self) -> ToRelay {
        ToRelay::ItemAck(ItemAck {
            item_id: self.id.clone(),
            status: AckStatus::Stored,
            reason: None,
            sha256: Some(HEXLOWER.encode(&Sha256::digest(self.body))),
        })
    }
}

#[test]
fn login_offers_tunnel_2_and_signs_the_named_challenge() {
    let mut home = Home::new(settings());
    let [ToRelay::AuthChallengeRequest(request)] = &home.said()[..] else { panic!() };
    assert!(request.features.has(Feature::Ack) && request.features.has(Feature::Credit));
    assert_eq!(request.credit, Some(settings().credit));
    let text = format!("relay-auth:{ID}:{NONCE}:{HOST}");
    home.challenge(&text);
    let [ToRelay::AuthChallengeResponse(response)] = &home.said()[..] else { panic!() };
    assert_eq!(response.challenge_id, ID);
    let signature = BASE64.decode(response.signature_base64.as_bytes()).unwrap();
    assert!(key().key_text().verifies(text.as_bytes(), &signature));
    assert!(!home.session.is_open());
    home.auth_ok(&[Feature::Ack]);
    assert!(home.session.acks());
}

#[test]
fn foreign_and_shapeless_challenges_end_the_session_unsigned() {
    // X1, X3
    for text in [&format!("relay-auth:{ID}:{NONCE}:evil.example"), "sign this please"] {
        let mut home = Home::new(settings());
        home.drain();
        home.challenge(text);
        let outputs = home.drain();
        assert!(outputs.iter().all(|output| !matches!(output, Output::Text(_))), "{outputs:?}");
        assert!(matches!(outputs.last(), Some(Output::Close { code: CLOSE_PROTOCOL, .. })));
        assert_eq!(home.session.deadline(), None);
    }
}

#[test]
fn tunnel_1_needs_permission() {
    let mut home = Home::new(settings());
    home.drain();
    home.challenge(&format!("relay-auth:{ID}:{NONCE}"));
    assert_eq!(home.notices(), [Notice::TunnelOneRefused]);
    // A relay that names itself and then forgets the features.
    let mut home = Home::new(settings());
    home.log_in(&format!("relay-auth:{ID}:{NONCE}:{HOST}"), &[]);
    assert_eq!(home.notices(), [Notice::TunnelOneRefused]);
    assert!(!home.session.is_open());
}

#[test]
fn auth_ok_without_a_proof_is_not_believed() {
    let mut home = Home::new(settings());
    home.auth_ok(&[Feature::Ack]);
    assert!(!home.session.is_open());
    assert_eq!(home.notices(), [Notice::Violation("auth_ok without a proof")]);
}

#[test]
fn auth_error_is_reported_and_ends_the_session() {
    let mut home = Home::new(settings());
    home.text(&ToGateway::AuthError(AuthError { code: "rate_limited".to_owned() }));
    assert_eq!(home.notices(), [Notice::AuthRefused("rate_limited".to_owned())]);
    assert_eq!(home.session.deadline(), None);
}

#[test]
fn an_item_is_handed_out_and_acked_only_on_a_verdict() {
    let mut home = Home::open();
    let item = Item::first();
    home.send(&item);
    let outputs = home.drain();
    let [Output::Begin { offer, .. }, Output::Append { bytes, .. }, Output::Complete { stream, .. }] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((offer.item_id.as_str(), offer.seq), (item.id.as_str(), 1));
    assert_eq!((&bytes[..], stream), (&item.bytes()[..], &item.id));
    home.session.verdict(&item.id, Verdict::Stored);
    assert_eq!(home.said(), [item.acked()]);
    // X7: twice, and for an item never seen, nothing leaves.
    home.session.verdict(&item.id, Verdict::Stored);
    home.session.verdict("other", Verdict::Stored);
    assert_eq!(home.said(), []);
}

#[test]
fn verdicts_become_nacks_and_rejections() {
    let mut home = Home::open();
    let item = Item::first();
    home.send(&item);
    home.drain();
    home.session.verdict(&item.id, Verdict::Later { retry_after: Duration::from_secs(7) });
    let nack = ToRelay::ItemNack(ItemNack { item_id: item.id.clone(), retry_after_ms: 7000 });
    assert_eq!(home.said(), [nack]);
    home.send(&item);
    home.drain();
    home.session.verdict(&item.id, Verdict::Refused { reason: "no".to_owned() });
    let [ToRelay::ItemAck(ack)] = &home.said()[..] else { panic!() };
    assert_eq!((ack.status, ack.reason.as_deref()), (AckStatus::Rejected, Some("no")));
}

#[test]
fn a_relay_whose_start_is_too_long_is_left() {
    // It would stay in memory while the stream is open, and many may be open.
    let mut home = Home::open();
    let item = Item::first();
    home.frame(Frame::Start {
        stream: item.id.clone(),
        start: StartBody { mail_from: "a".repeat(START_BYTES_MAX), ..item.start() },
    });
    assert_eq!(home.notices(), [Notice::Violation("smtp_start of excessive length")]);
    assert!(!home.session.is_open());
}

#[test]
fn a_known_item_is_swallowed_and_acked_at_its_end() {
    let mut home = Home::open();
    let item = Item::first();
    home.start(&item);
    assert!(matches!(home.drain()[..], [Output::Begin { .. }]));
    home.session.discard(&item.id, Verdict::Stored);
    home.chunk(&item, &item.bytes());
    assert_eq!(home.drain(), []);
    home.end(&item);
    assert_eq!(home.said(), [item.acked()]);
}

#[test]
fn damaged_streams_are_sent_back_and_never_handed_out() {
    for (bytes, problem) in [
        (&b"Received: here\r\nSubject: x\r\n\r\nhellO\r\n"[..], "sha256"),
        (b"Received: here\r\nSubject: x\r\n\r\n", "size"),
    ] {
        let mut home = Home::open();
        let item = Item::first();
        home.start(&item);
        home.chunk(&item, bytes);
        home.end(&item);
        let outputs = home.drain();
        assert!(outputs.contains(&Output::Abandon { stream: item.id.clone() }));
        assert!(!outputs.iter().any(|output| matches!(output, Output::Complete { .. })));
        let notice = Notice::Damaged { item_id: item.id.clone(), problem };
        assert!(outputs.contains(&Output::Notice(notice)), "{outputs:?}");
        assert!(matches!(outputs.last(), Some(Output::Text(text)) if text.contains("item_nack")));
    }
}

#[test]
fn bytes_beyond_the_announced_size_are_not_kept() {
    let mut home = Home::open();
    let item = Item::first();
    home.start(&item);
    home.chunk(&item, &item.bytes());
    home.chunk(&item, b"more");
    assert_eq!(home.drain().last(), Some(&Output::Abandon { stream: item.id.clone() }));
    home.end(&item);
    let said = home.said();
    assert!(matches!(said[..], [ToRelay::ItemNack(_)]), "{said:?}");
}

#[test]
fn an_item_above_the_declared_limit_is_rejected_and_the_next_one_goes_on() {
    // X11
    let mut home = Home::open();
    let big: &'static [u8] = Vec::leak(vec![b'x'; 2000]);
    let item = Item::after([0; 32], 1, big);
    home.send(&item);
    let said = home.said();
    assert!(matches!(&said[..], [ToRelay::ItemAck(ack)] if ack.status == AckStatus::Rejected), "{said:?}");
    home.send(&Item::after(item.chain, 2, b"x"));
    assert!(home.drain().iter().any(|output| matches!(output, Output::Complete { .. })));
}

#[test]
fn gaps_and_changed_history_are_noticed() {
    let mut home = Home::open();
    let first = Item::first();
    home.send(&first);
    assert_eq!(home.notices(), []);
    home.send(&Item::after(first.chain, 2, b"x"));
    assert_eq!(home.notices(), []);
    let forged = Item::after([9; 32], 3, b"y");
    home.send(&forged);
    assert_eq!(home.notices(), [Notice::ChainBroken { seq: 3 }]);
    home.session.verdict(&first.id, Verdict::Stored);
    home.send(&Item::after(forged.chain, 6, b"z"));
    assert_eq!(home.notices(), [Notice::Gap { expected: 4, got: 6 }]);
    // An older one again (replay) is neither.
    home.session.verdict(&forged.id, Verdict::Stored);
    home.send(&first);
    assert_eq!(home.notices(), []);
    assert_eq!(home.session.position().seq, 6);
}

#[test]
fn a_position_of_an_earlier_session_is_continued() {
    let first = Item::first();
    let mut home = Home::at(settings(), LanePosition { seq: 1, chain: Some(first.chain) });
    home.log_in(&format!("relay-auth:{ID}:{NONCE}:{HOST}"), &[Feature::Ack]);
    home.drain();
    home.send(&Item::after([3; 32], 2, b"x"));
    assert_eq!(home.notices(), [Notice::ChainBroken { seq: 2 }]);
}

#[test]
fn aborted_and_restarted_streams_are_abandoned() {
    let mut home = Home::open();
    let item = Item::first();
    home.start(&item);
    home.drain();
    home.start(&item);
    let outputs = home.drain();
    assert!(matches!(&outputs[..], [Output::Abandon { .. }, Output::Begin { .. }]), "{outputs:?}");
    home.frame(Frame::Abort { stream: item.id.clone(), reason: "gone".to_owned() });
    assert!(home.drain().contains(&Output::Abandon { stream: item.id.clone() }));
    home.end(&item);
    assert_eq!(home.drain(), []);
}

#[test]
fn a_relay_that_ignores_the_credit_is_left() {
    // X9
    let mut home = Home::open();
    for seq in 1..=9 {
        home.start(&Item::after([0; 32], seq, b"x"));
    }
    assert!(!home.session.is_open());
}

#[test]
fn garbage_after_the_login_is_reported_and_survived() {
    // X8
    let mut home = Home::open();
    home.session.handle_binary(&Bytes::from_static(b"\x01\x09\x00"), home.now);
    home.session.handle_text("{", home.now);
    home.text(&ToGateway::Unknown("later".to_owned()));
    assert!(home.session.is_open());
    home.drain();
    home.text(&ToGateway::Drain(Drain { reconnect_after_ms: 5 }));
    assert_eq!(home.notices(), [Notice::Drain { reconnect_after: Duration::from_millis(5) }]);
}

#[test]
fn binary_before_the_login_is_ignored() {
    let mut home = Home::new(settings());
    home.drain();
    home.send(&Item::first());
    assert_eq!(home.drain(), []);
}

#[test]
fn a_silent_relay_is_left_and_a_talking_one_is_pinged() {
    // X6
    let mut home = Home::new(settings());
    home.now += Duration::from_secs(10);
    home.session.handle_timeout(home.now);
    assert!(home.drain().contains(&Output::Close { code: CLOSE_TIMEOUT, reason: "heartbeat_timeout" }));

    let mut home = Home::open();
    let start = home.now;
    for _ in 0..2 {
        home.now = home.session.deadline().unwrap();
        home.session.handle_timeout(home.now);
        assert_eq!(home.drain(), [Output::Ping]);
        home.session.handle_alive(home.now);
    }
    assert_eq!(home.now, start + Duration::from_secs(60));
    while home.session.is_open() {
        home.now = home.session.deadline().unwrap();
        home.session.handle_timeout(home.now);
    }
    assert_eq!(home.now, start + Duration::from_secs(150));
}

#[test]
fn an_unmodified_relay_is_never_talked_to_after_the_login() {
    let mut home = Home::open_legacy();
    let legacy = Item::first();
    let plain = StartBody { mail_from: "a@b".to_owned(), rcpt_to: "c@d".to_owned(), ..StartBody::default() };
    home.frame(Frame::Start { stream: "s:1".to_owned(), start: plain });
    home.frame(Frame::Chunk { stream: "s:1".to_owned(), bytes: Bytes::from_static(b"whole mail") });
    home.frame(Frame::End { stream: "s:1".to_owned() });
    let outputs = home.drain();
    assert!(
        matches!(&outputs[..], [Output::Begin { offer, .. }, _, Output::Complete { .. }] if offer.item_id.is_empty())
    );
    home.session.verdict("", Verdict::Stored);
    home.session.verdict(&legacy.id, Verdict::Stored);
    assert!(!home.session.request_replay(ReplayRequest::default()));
    assert_eq!(home.drain(), []);
}

#[test]
fn replay_is_asked_for_only_where_it_exists() {
    let mut home = Home::open();
    let request = ReplayRequest { from_seq: Some(3), since_ms: None };
    assert!(home.session.request_replay(request));
    assert_eq!(home.said(), [ToRelay::ReplayRequest(request)]);
}

#[test]
fn every_state_survives_every_message() {
    let texts = [
        ToGateway::AuthError(AuthError { code: "x".to_owned() }).to_text(),
        ToGateway::Drain(Drain { reconnect_after_ms: 1 }).to_text(),
        r#"{"type":"auth_ok"}"#.to_owned(),
        "nonsense".to_owned(),
    ];
    for opened in [Home::open as fn() -> Home, Home::open_legacy, || Home::new(settings())] {
        for text in &texts {
            let mut home = opened();
            home.session.handle_text(text, home.now);
            home.send(&Item::first());
            home.session.handle_text(text, home.now);
            home.session.stop();
            home.session.handle_timeout(home.now + Duration::from_secs(1000));
            home.drain();
            assert_eq!(home.session.deadline(), None);
        }
    }
}
