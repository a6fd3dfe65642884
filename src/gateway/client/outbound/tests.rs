//! The outbound half against a relay made of a map, over a line that breaks anywhere; virtual time only.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::gateway::client::{LanePosition, Settings};
use crate::identity::key::SecretKey;
use crate::tunnel::control::{
    AuthChallenge, AuthOk, CONTROL_BYTES_MAX, Credit, Feature, Features, SessionRole, ToGateway,
};

const HOST: &str = "relay.example.org";
const ID: &str = "7b0b3ba6-2c3f-4e0a-9a51-6a3a4c1c8a52";
const NONCE: &str = "0f2c1f0e-9d56-4b7c-8f0e-1b2c3d4e5f60";

fn settings() -> Settings {
    Settings {
        key: SecretKey::from_seed(&[1; 32]),
        relay_host: HOST.to_owned(),
        allow_tunnel_1: true,
        credit: Credit { items: 4, bytes: 1 << 20, item_bytes_max: Some(1000) },
        handshake_timeout: Duration::from_secs(10),
        heartbeat_every: Duration::from_secs(30),
        silence_max: Duration::from_secs(90),
        submits: true,
        invite: None,
    }
}

fn open(features: &[Feature], now: Instant) -> ClientSession {
    let mut session = ClientSession::new(settings(), LanePosition::default(), now);
    let key = settings().key.key_text().to_string();
    let host = if features.is_empty() { String::new() } else { format!(":{HOST}") };
    let challenge = ToGateway::AuthChallenge(AuthChallenge {
        public_key_base32: key.clone(),
        challenge_id: ID.to_owned(),
        challenge_text: format!("relay-auth:{ID}:{NONCE}{host}"),
        expires_at: "2026-01-01T00:00:00.000Z".to_owned(),
    });
    let ok = ToGateway::AuthOk(AuthOk {
        aliases: Vec::new(),
        domains: Vec::new(),
        public_key_base32: key.clone(),
        email_local_part: key,
        session_role: SessionRole::Inbound,
        replaced_socket_id: None,
        features: Features::of(features),
        credit: None,
        ..AuthOk::default()
    });
    session.handle_text(&challenge.to_text(), now);
    session.handle_text(&ok.to_text(), now);
    assert!(session.is_open());
    drain(&mut session);
    session
}

fn open_two(now: Instant) -> ClientSession {
    open(&[Feature::Ack, Feature::Results], now)
}

fn now() -> Instant {
    crate::clock::monotonic()
}

fn drain(session: &mut ClientSession) -> Vec<Output> {
    std::iter::from_fn(|| session.poll()).collect()
}

/// A message of these pieces.
fn submission(stream: &str, pieces: &[&[u8]]) -> Submission {
    let bytes = pieces.concat();
    Submission {
        stream: stream.to_owned(),
        mail_from: "me@example.net".to_owned(),
        rcpt_to: "you@example.org".to_owned(),
        size_bytes: bytes.len() as u64,
        sha256: Sha256::digest(&bytes).into(),
        pieces: pieces.len(),
    }
}

fn frames(outputs: &[Output]) -> Vec<Frame> {
    let binary = |output: &Output| {
        let Output::Binary(bytes) = output else { return None };
        Some(Frame::decode(bytes, Dialect::Two).unwrap())
    };
    outputs.iter().filter_map(binary).collect()
}

fn news(session: &mut ClientSession) -> Vec<Submitted> {
    let news = |output| if let Output::Submitted(news) = output { Some(news) } else { None };
    drain(session).into_iter().filter_map(news).collect()
}

fn result(stream: &str, status: &str, result_id: Option<&str>) -> ToGateway {
    ToGateway::RelayDeliveryResult(RelayDeliveryResult {
        stream_id: stream.to_owned(),
        status: status.to_owned(),
        message_id: None,
        error: Some("550 5.1.1\r\nno".to_owned()),
        result_id: result_id.map(str::to_owned),
    })
}

fn accepted(stream: &str) -> ToGateway {
    ToGateway::OutboundAccepted(OutboundAccepted {
        stream_id: stream.to_owned(),
        submission_id: "at-relay".to_owned(),
        receipt: None,
    })
}

#[test]
fn a_submission_travels_in_pieces_and_is_completed_only_when_that_was_noted() {
    let at = now();
    let mut session = open_two(at);
    session.submit(submission("s", &[b"one", b"two"]));
    let sent = frames(&drain(&mut session));
    let [Frame::Start { stream, start }] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((stream.as_str(), start.rcpt_to.as_str(), start.size), ("s", "you@example.org", Some(6)));
    assert!(start.sha256.is_some() && start.item_id.is_none());
    for (n, piece) in [&b"one"[..], b"two"].into_iter().enumerate() {
        assert_eq!(session.pull(), Some(Wanted { stream: "s".to_owned(), n }));
        assert_eq!(session.pull(), None, "one piece at a time");
        session.piece("s", Bytes::copy_from_slice(piece));
    }
    assert_eq!(session.pull(), None);
    let outputs = drain(&mut session);
    assert_eq!(outputs.last(), Some(&Output::Seal { stream: "s".to_owned(), repeatable: true }));
    assert!(!frames(&outputs).iter().any(|frame| matches!(frame, Frame::End { .. })));
    session.sealed("s", at);
    assert_eq!(frames(&drain(&mut session)), [Frame::End { stream: "s".to_owned() }]);
    session.handle_text(&accepted("s").to_text(), at);
    let told =
        Submitted::Accepted { stream: "s".to_owned(), submission_id: "at-relay".to_owned(), receipt: None };
    assert_eq!(news(&mut session), [told]);
    session.handle_text(&result("s", "failed", Some("r")).to_text(), at);
    let told = Submitted::Ended {
        stream: "s".to_owned(),
        end: End::Failed,
        text: "550 5.1.1 no".to_owned(),
        result_id: "r".to_owned(),
    };
    assert_eq!(news(&mut session), [told], "one line, whatever the relay said");
    session.result_noted("r");
    let ack = ToRelay::DeliveryResultAck(DeliveryResultAck { result_id: "r".to_owned() });
    assert_eq!(drain(&mut session), [Output::Text(ack.to_text())]);
}

#[test]
fn large_and_small_messages_take_turns_and_the_window_is_bounded() {
    let at = now();
    let mut session = open_two(at);
    for n in 0..20 {
        session.submit(submission(&n.to_string(), &[b"a", b"b"]));
    }
    assert_eq!(frames(&drain(&mut session)).len(), STREAMS_OPEN_MAX);
    let mut order = Vec::new();
    while let Some(Wanted { stream, n }) = session.pull() {
        session.piece(&stream, Bytes::from_static(b"x"));
        order.push((stream, n));
    }
    let order: Vec<(&str, usize)> = order.iter().map(|(stream, n)| (stream.as_str(), *n)).collect();
    assert_eq!(order, [("0", 0), ("1", 0), ("2", 0), ("3", 0), ("0", 1), ("1", 1), ("2", 1), ("3", 1)]);
    // Complete ones make room, up to the unanswered ones that a relay takes.
    for n in 0..100 {
        session.sealed(&n.to_string(), at);
        session.submit(submission(&format!("x{n}"), &[]));
        session.sealed(&format!("x{n}"), at);
    }
    assert_eq!(session.submission_room(), 0);
    let ends = frames(&drain(&mut session)).iter().filter(|f| matches!(f, Frame::End { .. })).count();
    assert_eq!(ends, UNANSWERED_MAX);
    session.handle_text(&accepted("0").to_text(), at);
    assert_eq!(session.submission_room(), 1);
}

#[test]
fn an_answer_before_the_end_saves_the_rest() {
    let at = now();
    let mut session = open_two(at);
    session.submit(submission("s", &[b"one", b"two"]));
    session.pull().unwrap();
    session.handle_text(&accepted("s").to_text(), at);
    let aborts = frames(&drain(&mut session));
    assert!(matches!(&aborts[..], [Frame::Start { .. }, Frame::Abort { stream, .. }] if stream == "s"));
    session.piece("s", Bytes::from_static(b"late"));
    session.sealed("s", at);
    assert_eq!(drain(&mut session), []);
    assert_eq!(session.pull(), None);
}

#[test]
fn an_abort_of_the_relay_and_its_silence_mean_later() {
    let at = now();
    let mut session = open_two(at);
    session.submit(submission("s", &[b"one"]));
    drain(&mut session);
    let abort = Frame::Abort { stream: "s".to_owned(), reason: "disk full".to_owned() };
    session.handle_binary(&abort.encode().unwrap(), at);
    let later = Submitted::Later { stream: "s".to_owned(), reason: "disk full".to_owned() };
    assert_eq!(news(&mut session), [later]);
    session.submit(submission("t", &[]));
    session.sealed("t", at);
    drain(&mut session);
    session.handle_alive(at + ANSWER_PATIENCE);
    session.handle_timeout(at + ANSWER_PATIENCE);
    assert!(matches!(&news(&mut session)[..], [Submitted::Later { stream, .. }] if stream == "t"));
    assert_eq!(session.submission_room(), STREAMS_OPEN_MAX);
}

#[test]
fn a_relay_without_results_gets_no_text_and_its_silence_is_an_answer() {
    for features in [&[][..], &[Feature::Ack]] {
        let at = now();
        let mut session = open(features, at);
        session.submit(submission("s", &[b"x"]));
        session.pull().unwrap();
        session.piece("s", Bytes::from_static(b"x"));
        let outputs = drain(&mut session);
        assert_eq!(outputs.last(), Some(&Output::Seal { stream: "s".to_owned(), repeatable: false }));
        session.sealed("s", at);
        drain(&mut session);
        assert_eq!(session.deadline(), Some(at + LEGACY_PATIENCE));
        session.handle_timeout(at + LEGACY_PATIENCE);
        assert_eq!(news(&mut session), [Submitted::Silent { stream: "s".to_owned() }]);
        // A late result still counts.
        session.handle_text(&result("s", "sent", Some("r")).to_text(), at);
        assert!(matches!(&news(&mut session)[..], [Submitted::Ended { end: End::Sent, .. }]));
        session.result_noted("r");
        assert_eq!(drain(&mut session), []);
        // What only a relay with results may say.
        session.handle_text(&accepted("s").to_text(), at);
        assert_eq!(news(&mut session), []);
    }
}

#[test]
fn nothing_new_is_begun_when_the_relay_is_about_to_go() {
    let at = now();
    let mut session = open_two(at);
    session.handle_text(
        &ToGateway::Drain(crate::tunnel::control::Drain { reconnect_after_ms: 5 }).to_text(),
        at,
    );
    assert_eq!(session.submission_room(), 0);
    session.submit(submission("s", &[]));
    assert!(frames(&drain(&mut session)).is_empty());
}

/// What the relay keeps on its disk.
#[derive(Default)]
struct Relay {
    stored: HashMap<String, Vec<u8>>,
    results: HashMap<String, End>,
    acked: HashSet<String>,
    /// Streams being received, gone with the connection.
    open: HashMap<String, Vec<u8>>,
    started: Vec<String>,
}

/// What the home keeps on its disk.
struct Home {
    messages: HashMap<String, Vec<Vec<u8>>>,
    accepted: HashSet<String>,
    ended: HashMap<String, End>,
    noted: usize,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// The home sends what it has to say, one piece of it.
    Send,
    /// The relay takes one message off the line.
    Take,
    /// The home takes one message off the line.
    Hear,
    /// The relay finishes a delivery.
    Settle(u8),
    /// The line breaks.
    Break,
    /// The relay says that it cannot now.
    Refuse,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => Just(Op::Send),
        8 => Just(Op::Take),
        8 => Just(Op::Hear),
        3 => any::<u8>().prop_map(Op::Settle),
        1 => Just(Op::Break),
        1 => Just(Op::Refuse),
    ];
    prop::collection::vec(op, 0..300)
}

struct World {
    relay: Relay,
    home: Home,
    session: ClientSession,
    under_way: HashSet<String>,
    to_relay: VecDeque<Output>,
    to_home: VecDeque<ToGateway>,
    aborts: VecDeque<Frame>,
    now: Instant,
}

impl World {
    fn new(messages: usize) -> Self {
        let now = now();
        let messages = (0..messages)
            .map(|n| (format!("stream-{n}"), (0..n % 4).map(|piece| vec![n as u8; piece * 7 + 1]).collect()))
            .collect();
        Self {
            relay: Relay::default(),
            home: Home { messages, accepted: HashSet::new(), ended: HashMap::new(), noted: 0 },
            session: open_two(now),
            under_way: HashSet::new(),
            to_relay: VecDeque::new(),
            to_home: VecDeque::new(),
            aborts: VecDeque::new(),
            now,
        }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Send => self.send(),
            Op::Take => self.take(),
            Op::Hear => self.hear(),
            Op::Settle(n) => {
                let mut open: Vec<&String> =
                    self.relay.stored.keys().filter(|id| !self.relay.results.contains_key(*id)).collect();
                open.sort();
                if let Some(id) = open.get(usize::from(n) % open.len().max(1)).map(|id| (*id).clone()) {
                    let end = [End::Sent, End::Failed, End::Indeterminate][usize::from(n) % 3];
                    self.relay.results.insert(id.clone(), end);
                    self.tell(&id);
                }
            }
            Op::Break => {
                self.session = open_two(self.now);
                self.under_way.clear();
                self.to_relay.clear();
                self.to_home.clear();
                self.aborts.clear();
                self.relay.open.clear();
                let untold: Vec<String> =
                    self.relay.results.keys().filter(|id| !self.relay.acked.contains(*id)).cloned().collect();
                untold.iter().for_each(|id| self.tell(id));
            }
            Op::Refuse => {
                if let Some(id) = self.relay.open.keys().next().cloned() {
                    self.relay.open.remove(&id);
                    self.aborts.push_back(Frame::Abort { stream: id, reason: "not now".to_owned() });
                }
            }
        }
    }

    fn tell(&mut self, id: &str) {
        let word = match self.relay.results[id] {
            End::Sent => "sent",
            End::Failed => "failed",
            End::Indeterminate => "indeterminate",
        };
        self.to_home.push_back(result(id, word, Some(&format!("result of {id}"))));
    }

    fn send(&mut self) {
        let room = self.session.submission_room();
        let mut due: Vec<String> = self.home.messages.keys().cloned().collect();
        due.retain(|id| {
            !self.under_way.contains(id)
                && !self.home.accepted.contains(id)
                && !self.home.ended.contains_key(id)
        });
        due.sort();
        for id in due.into_iter().take(room) {
            let pieces: Vec<&[u8]> = self.home.messages[&id].iter().map(Vec::as_slice).collect();
            self.under_way.insert(id.clone());
            self.session.submit(submission(&id, &pieces));
        }
        if let Some(Wanted { stream, n }) = self.session.pull() {
            let piece = Bytes::from(self.home.messages[&stream][n].clone());
            self.session.piece(&stream, piece);
        }
        self.outputs();
    }

    fn outputs(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Seal { stream, repeatable } => {
                    assert!(repeatable);
                    self.session.sealed(&stream, self.now);
                }
                Output::Submitted(Submitted::Accepted { stream, .. }) => {
                    self.under_way.remove(&stream);
                    self.home.accepted.insert(stream);
                }
                Output::Submitted(Submitted::Ended { stream, end, result_id, .. }) => {
                    self.under_way.remove(&stream);
                    if self.home.ended.insert(stream.clone(), end).is_none() {
                        self.home.noted += 1;
                    }
                    assert_eq!(self.home.ended[&stream], end, "a result never changes");
                    self.session.result_noted(&result_id);
                }
                Output::Submitted(Submitted::Later { stream, .. }) => {
                    self.under_way.remove(&stream);
                }
                Output::Text(_) | Output::Binary(_) => self.to_relay.push_back(output),
                Output::Ping => {}
                Output::Ready { .. }
                | Output::RelayKeys(_)
                | Output::Begin { .. }
                | Output::Append { .. }
                | Output::Complete { .. }
                | Output::Abandon { .. }
                | Output::Notice(_)
                | Output::Submitted(Submitted::Silent { .. } | Submitted::Unsendable { .. })
                | Output::Close { .. } => panic!("{output:?}"),
            }
        }
    }

    fn take(&mut self) {
        match self.to_relay.pop_front() {
            Some(Output::Text(text)) => {
                let Ok(ToRelay::DeliveryResultAck(ack)) = ToRelay::parse(&text, CONTROL_BYTES_MAX) else {
                    panic!("{text}")
                };
                let id = ack.result_id.strip_prefix("result of ").unwrap().to_owned();
                assert!(self.home.ended.contains_key(&id), "noted before it is acked");
                self.relay.acked.insert(id);
            }
            Some(Output::Binary(bytes)) => match Frame::decode(&bytes, Dialect::Two).unwrap() {
                Frame::Start { stream, .. } => {
                    self.relay.started.push(stream.clone());
                    if self.relay.stored.contains_key(&stream) {
                        // Known: it says so at once, and what follows of it is ignored.
                        self.to_home.push_back(accepted(&stream));
                    } else {
                        self.relay.open.insert(stream, Vec::new());
                    }
                }
                Frame::Chunk { stream, bytes } => {
                    if let Some(open) = self.relay.open.get_mut(&stream) {
                        open.extend_from_slice(&bytes);
                    }
                }
                Frame::End { stream } => {
                    if let Some(bytes) = self.relay.open.remove(&stream) {
                        assert_eq!(bytes, self.home.messages[&stream].concat(), "whole and undamaged");
                        assert!(self.relay.stored.insert(stream.clone(), bytes).is_none());
                        self.to_home.push_back(accepted(&stream));
                    }
                }
                Frame::Abort { stream, .. } => {
                    self.relay.open.remove(&stream);
                }
            },
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }

    fn hear(&mut self) {
        if let Some(abort) = self.aborts.pop_front() {
            self.session.handle_binary(&abort.encode().unwrap(), self.now);
        } else if let Some(message) = self.to_home.pop_front() {
            self.session.handle_text(&message.to_text(), self.now);
        }
        self.outputs();
    }
}

proptest! {
    /// Q20, Q22: whatever breaks when, each submission is at the relay once, under one id, and its one result is
    /// noted once at home.
    #[test]
    fn every_submission_is_handed_over_once_and_has_one_result(messages in 1..12_usize, ops in ops()) {
        let mut world = World::new(messages);
        for op in ops {
            world.perform(op);
        }
        // From here on the line holds, and time is enough.
        for round in 0..400_u32 {
            for op in [Op::Send, Op::Take, Op::Hear, Op::Settle(round as u8)] {
                world.perform(op);
            }
        }
        let ids: HashSet<String> = world.home.messages.keys().cloned().collect();
        prop_assert_eq!(&world.relay.stored.keys().cloned().collect::<HashSet<_>>(), &ids);
        prop_assert_eq!(&world.relay.acked, &ids);
        prop_assert_eq!(&world.home.ended, &world.relay.results);
        prop_assert_eq!(world.home.noted, messages);
        prop_assert!(world.relay.started.iter().all(|id| ids.contains(id)));
    }
}
