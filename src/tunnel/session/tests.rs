//! Two ends in virtual time: the relay's session and a scripted gateway, with a lane made of a list.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::*;
use crate::identity::key::SecretKey;
use crate::tunnel::frame::{CHUNK_BYTES_MAX, HEADER_BYTES, STREAM_ID_BYTES_MAX, StartBody};

const PIECE: usize = 64 * 1024;

/// One lane: items in order, each with what became of it.
#[derive(Default)]
struct Lane {
    items: Vec<Stored>,
    asked: usize,
    /// Batches are not answered while this is set.
    frozen: bool,
    waiting: Vec<Batch>,
}

struct Stored {
    offer: Offer,
    body: Bytes,
    leased: bool,
    fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Ready,
    Acked,
    Nacked,
    Held(String),
    Damaged(String),
}

impl Lane {
    fn with(sizes: &[usize]) -> Self {
        let mut lane = Self::default();
        for &size in sizes {
            lane.put(size);
        }
        lane
    }

    fn put(&mut self, size: usize) {
        let n = self.items.len() as u64 + 1;
        let item = ItemId::new(WallMs(n), [n as u8; 10]);
        let body: Bytes = (0..size).map(|i| (i as u64 * 31 + n) as u8).collect::<Vec<_>>().into();
        let head = Bytes::from(format!("Received: {n}\r\n"));
        let start = StartBody {
            mail_from: "a@b.example".into(),
            rcpt_to: "c@d.example".into(),
            item_id: Some(item.to_string()),
            ..StartBody::default()
        };
        let offer = Offer {
            item,
            seq: spool::ids::Seq(n),
            stream: format!("{item}:c@d.example"),
            start,
            size_bytes: (head.len() + body.len()) as u64,
            head,
            pieces: size.div_ceil(PIECE),
            sha256: [n as u8; 32],
        };
        self.items.push(Stored { offer, body, leased: false, fate: Fate::Ready });
    }

    fn carry_out(&mut self, batch: &Batch) -> Settled {
        self.asked += 1;
        let mut settled = Settled::default();
        for change in &batch.changes {
            match change {
                Change::Ack(flight) => self.fate(flight.item, Fate::Acked),
                Change::Nack { item, .. } => self.fate(*item, Fate::Nacked),
                Change::Reject { item, reason } => self.fate(*item, Fate::Held(reason.clone())),
                Change::Damaged { item, problem } => self.fate(*item, Fate::Damaged(problem.clone())),
                Change::Replay(_) => {
                    let mut back = 0;
                    for stored in self.items.iter_mut().filter(|stored| stored.fate == Fate::Acked) {
                        (stored.fate, stored.leased) = (Fate::Ready, false);
                        back += 1;
                    }
                    settled.replayed = Some(back);
                }
            }
        }
        if let Some(room) = batch.lease {
            let mut bytes = room.bytes;
            let mut in_flight = self.items.iter().any(|s| s.leased && s.fate == Fate::Ready);
            for stored in self.items.iter_mut().filter(|s| !s.leased && s.fate == Fate::Ready) {
                let size = stored.offer.size_bytes;
                if settled.offers.len() as u32 == room.items || (in_flight && size > bytes) {
                    break;
                }
                (stored.leased, in_flight, bytes) = (true, true, bytes.saturating_sub(size));
                settled.offers.push(stored.offer.clone());
            }
        }
        settled
    }

    fn fate(&mut self, item: ItemId, fate: Fate) {
        let stored = self.items.iter_mut().find(|stored| stored.offer.item == item).unwrap();
        assert!(stored.leased, "only what was handed out may change");
        stored.fate = fate;
    }

    fn fates(&self) -> Vec<Fate> {
        self.items.iter().map(|stored| stored.fate.clone()).collect()
    }

    fn id(&self, at: usize) -> String {
        self.items[at].offer.item.to_string()
    }

    fn new_session(&mut self) {
        self.items.iter_mut().for_each(|stored| stored.leased = false);
        self.waiting.clear();
    }
}

/// What the scripted gateway does by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// An unmodified gateway: answers pings.
    Legacy,
    /// Answers pings and acks what it got.
    Acks,
    /// Answers pings, acks nothing.
    Silent,
    /// Reads, and says nothing at all.
    Frozen,
}

struct World {
    session: Session,
    lane: Lane,
    habit: Habit,
    now: Instant,
    /// The socket takes nothing while this is set.
    blocked: bool,
    damaged: Option<PieceError>,
    streams: HashMap<String, Vec<u8>>,
    done: Vec<(String, Vec<u8>)>,
    open: Option<String>,
    said: Vec<Value>,
    notes: Vec<Note>,
    aborted: Vec<String>,
    pings: usize,
    closed: Option<(u16, &'static str)>,
    wire_bytes_max: usize,
}

fn proof(features: &[Feature], credit: Option<Credit>) -> Proof {
    Proof {
        key: SecretKey::from_seed(&[1; 32]).key_text(),
        role: SessionRole::Inbound,
        features: Features::of(features),
        credit,
    }
}

fn credit(items: u32, bytes: u64, item_bytes_max: Option<u64>) -> Option<Credit> {
    Some(Credit { items, bytes, item_bytes_max })
}

const TWO: [Feature; 4] = [Feature::Ack, Feature::Results, Feature::Credit, Feature::Replay];

impl World {
    fn new(proof: &Proof, lane: Lane, habit: Habit) -> Self {
        let now = crate::clock::monotonic();
        let session = Session::new(proof, None, Settings::default(), now);
        let mut world = Self {
            session,
            lane,
            habit,
            now,
            blocked: false,
            damaged: None,
            streams: HashMap::new(),
            done: Vec::new(),
            open: None,
            said: Vec::new(),
            notes: Vec::new(),
            aborted: Vec::new(),
            pings: 0,
            closed: None,
            wire_bytes_max: 0,
        };
        world.run();
        world
    }

    fn legacy(lane: Lane) -> Self {
        Self::new(&proof(&[], None), lane, Habit::Legacy)
    }

    fn two(lane: Lane, habit: Habit) -> Self {
        Self::new(&proof(&TWO, None), lane, habit)
    }

    fn give(&mut self, input: Input) {
        let wall = WallMs(1_000);
        self.session.handle(input, self.now, wall);
    }

    fn tell(&mut self, message: &str) {
        self.give(Input::Text(message.to_owned()));
        self.run();
    }

    fn ack(&mut self, id: &str) {
        self.tell(&format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored"}}"#));
    }

    /// Lets time pass until `after` from now, waking the machine at its deadlines.
    fn pass(&mut self, after: Duration) {
        let end = self.now + after;
        while let Some(at) = self.session.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.give(Input::Tick);
            self.run();
        }
        self.now = end;
    }

    /// Performs outputs until nothing happens any more.
    fn run(&mut self) {
        loop {
            if let Some(output) = self.session.poll() {
                self.perform(output);
            } else if self.blocked {
                return;
            } else if let Some(message) = self.session.pull(self.now) {
                self.receive(message);
            } else if let Some(output) = self.session.poll() {
                self.perform(output);
            } else {
                return;
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send(message) => self.receive(message),
            Output::Lane(batch) if self.lane.frozen => self.lane.waiting.push(batch),
            Output::Lane(batch) => {
                let settled = self.lane.carry_out(&batch);
                self.give(Input::Settled(settled));
            }
            Output::Read { item, n } => {
                let stored = self.lane.items.iter().find(|s| s.offer.item == item).unwrap();
                let piece = stored.body.slice(n * PIECE..stored.body.len().min((n + 1) * PIECE));
                let bytes = self.damaged.take().map_or(Ok(piece), Err);
                self.give(Input::Piece { item, n, bytes });
            }
            Output::Note(note) => self.notes.push(note),
            Output::Close(code, reason) => {
                assert_eq!(self.closed, None, "closed twice");
                self.closed = Some((code, reason));
            }
        }
    }

    /// The gateway's reader.
    fn receive(&mut self, message: Outgoing) {
        assert_eq!(self.closed, None, "something was sent after the close");
        match message {
            Outgoing::Text(text) => self.said.push(serde_json::from_str(&text).unwrap()),
            Outgoing::Ping(payload) => {
                self.pings += 1;
                if self.habit != Habit::Frozen {
                    self.give(Input::Pong(payload));
                }
            }
            Outgoing::Binary(bytes) => {
                self.wire_bytes_max = self.wire_bytes_max.max(bytes.len());
                match Frame::decode(&bytes, Dialect::Two).unwrap() {
                    Frame::Start { stream, .. } => {
                        assert_eq!(self.open.replace(stream.clone()), None, "streams are interleaved");
                        self.streams.insert(stream, Vec::new());
                    }
                    Frame::Chunk { stream, bytes } => {
                        self.streams.get_mut(&stream).unwrap().extend_from_slice(&bytes);
                    }
                    Frame::End { stream } => {
                        assert_eq!(self.open.take().as_ref(), Some(&stream));
                        let body = self.streams.remove(&stream).unwrap();
                        let id = stream.split(':').next().unwrap().to_owned();
                        self.done.push((stream, body));
                        if self.habit == Habit::Acks {
                            let text = format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored"}}"#);
                            self.give(Input::Text(text));
                        }
                    }
                    Frame::Abort { stream, .. } => {
                        self.open = None;
                        self.streams.remove(&stream);
                        self.aborted.push(stream);
                    }
                }
            }
        }
    }

    fn whole(&self, at: usize) -> Vec<u8> {
        let stored = &self.lane.items[at];
        [stored.offer.head.as_ref(), stored.body.as_ref()].concat()
    }

    fn last_said(&self) -> &str {
        self.said.last().unwrap()["type"].as_str().unwrap()
    }
}

#[test]
fn auth_ok_is_the_first_word_and_names_what_was_agreed() {
    let legacy = World::legacy(Lane::default());
    let key = SecretKey::from_seed(&[1; 32]).key_text();
    let text = format!(
        r#"{{"type":"auth_ok","publicKeyBase32":"{key}","emailLocalPart":"{key}","sessionRole":"inbound","replacedSocketId":null}}"#
    );
    assert_eq!(legacy.said, [serde_json::from_str::<Value>(&text).unwrap()]);
    let two = World::new(&proof(&TWO, credit(5, 9_000, None)), Lane::default(), Habit::Acks);
    assert_eq!(two.said[0]["features"], serde_json::json!(["ack", "credit", "replay"]));
    assert_eq!(two.said[0]["credit"], serde_json::json!({"items": 5, "bytes": 9000}));
}

#[test]
fn a_legacy_gateway_gets_everything_in_order_and_its_pongs_are_the_acks() {
    let mut world = World::legacy(Lane::with(&[10, 0, 200_000, 64 * 1024, 1]));
    let got: Vec<_> = world.done.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(got, (0..5).map(|at| world.whole(at)).collect::<Vec<_>>());
    assert_eq!(world.pings, 5);
    assert_eq!(world.lane.fates(), vec![Fate::Acked; 5]);
    assert!(world.wire_bytes_max <= HEADER_BYTES + STREAM_ID_BYTES_MAX + CHUNK_BYTES_MAX);
    let asked = world.lane.asked;
    world.pass(Duration::from_secs(300));
    assert_eq!(world.lane.asked, asked, "a dry lane is not asked again");
    world.lane.put(3);
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.done.len(), 6);
}

#[test]
fn a_legacy_window_closes_after_four_unanswered_streams() {
    // X9
    let world = World::new(&proof(&[], None), Lane::with(&[10; 9]), Habit::Frozen);
    assert_eq!(world.done.len(), 4);
    assert_eq!(world.lane.fates(), vec![Fate::Ready; 9]);
}

#[test]
fn what_was_not_acked_comes_again_under_the_same_stream_id() {
    let mut first = World::new(&proof(&[], None), Lane::with(&[10, 20]), Habit::Frozen);
    first.give(Input::Gone);
    assert!(first.session.is_done());
    let mut lane = std::mem::take(&mut first.lane);
    lane.new_session();
    let second = World::legacy(lane);
    assert_eq!(second.done, first.done);
    assert_eq!(second.lane.fates(), vec![Fate::Acked; 2]);
}

#[test]
fn a_peer_that_answers_no_ping_is_found_dead() {
    // X6
    let mut world = World::new(&proof(&[], None), Lane::with(&[10]), Habit::Frozen);
    world.pass(Duration::from_secs(119));
    assert_eq!(world.closed, None);
    assert_eq!(world.pings, 1 + 3);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.closed, Some((4408, "heartbeat_timeout")));
    assert_eq!(world.notes, [Note::PeerDead]);
    assert_eq!(world.lane.fates(), [Fate::Ready]);
}

#[test]
fn a_peer_that_talks_but_refuses_the_pong_it_owes_is_cut_off() {
    let mut world = World::new(&proof(&[], None), Lane::with(&[10]), Habit::Frozen);
    let ignored = Frame::End { stream: "x".into() }.encode().unwrap();
    for _ in 0..12 {
        world.pass(Duration::from_secs(10));
        world.give(Input::Binary(ignored.clone()));
        world.run();
    }
    assert_eq!(world.closed, Some((4408, "heartbeat_timeout")));
}

#[test]
fn an_idle_peer_that_answers_lives_for_ever() {
    let mut world = World::legacy(Lane::default());
    world.pass(Duration::from_secs(86_400));
    assert_eq!(world.closed, None);
    assert_eq!(world.pings, 86_400 / 30);
}

#[test]
fn a_slow_reader_lives_while_a_stream_moves_and_a_dead_line_does_not() {
    let mut world = World::new(&proof(&[], None), Lane::default(), Habit::Frozen);
    world.blocked = true;
    world.lane.put(1 << 20);
    world.give(Input::Bell);
    world.run();
    for _ in 0..100 {
        world.pass(Duration::from_secs(60));
        let message = loop {
            match world.session.pull(world.now) {
                Some(message) => break message,
                None => world.run(), // fetches the next piece
            }
        };
        world.receive(message);
        world.give(Input::Progress);
        world.run();
    }
    assert_eq!(world.closed, None);
    // From here on only pings leave.
    for _ in 0..3 {
        world.pass(Duration::from_secs(60));
        world.give(Input::Progress);
        world.run();
    }
    assert_eq!(world.closed, Some((4408, "heartbeat_timeout")));
}

#[test]
fn acks_of_tunnel_2_may_come_in_any_order() {
    let mut world = World::two(Lane::with(&[10; 3]), Habit::Silent);
    assert_eq!((world.done.len(), world.pings), (3, 0));
    let ids: Vec<_> = (0..3).map(|at| world.lane.id(at)).collect();
    world.ack(&ids[2]);
    world.ack(&ids[0]);
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Ready, Fate::Acked]);
}

#[test]
fn a_gateway_that_lives_but_never_acks_is_sent_away() {
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Silent);
    world.pass(ACK_PATIENCE / 2);
    let ids: Vec<_> = (0..2).map(|at| world.lane.id(at)).collect();
    world.ack(&ids[0]);
    world.lane.put(10);
    world.give(Input::Bell);
    world.run();
    assert_eq!((world.done.len(), world.closed), (3, None));
    world.pass(ACK_PATIENCE / 2 - Duration::from_millis(1));
    assert_eq!(world.closed, None, "it still has time");
    world.pass(Duration::from_millis(1));
    assert_eq!((world.closed, world.last_said()), (Some((1013, "ack_timeout")), "drain"));
    assert_eq!(world.notes, [Note::AckTimeout(ids[1].parse().unwrap())]);
    assert!(world.session.is_done());

    let mut lane = world.lane;
    lane.new_session();
    let world = World::two(lane, Habit::Acks);
    assert_eq!(world.lane.fates(), vec![Fate::Acked; 3], "the next session is offered them again");
}

#[test]
fn who_answers_for_each_item_in_time_is_never_sent_away() {
    let mut world = World::two(Lane::default(), Habit::Silent);
    for n in 0..5 {
        world.lane.put(10);
        world.give(Input::Bell);
        world.run();
        world.pass(ACK_PATIENCE - Duration::from_secs(1));
        let id = world.lane.id(n);
        world.ack(&id);
    }
    world.pass(3 * ACK_PATIENCE);
    assert_eq!(world.closed, None);
}

#[test]
fn credit_limits_items_and_bytes_in_flight() {
    // X9
    let mut world = World::new(&proof(&TWO, credit(3, 1 << 30, None)), Lane::with(&[10; 9]), Habit::Silent);
    assert_eq!(world.done.len(), 3);
    let id = world.lane.id(1);
    world.ack(&id);
    assert_eq!(world.done.len(), 4);

    let mut world =
        World::new(&proof(&TWO, credit(64, 1_000, None)), Lane::with(&[5_000, 400, 400, 400]), Habit::Silent);
    assert_eq!(world.done.len(), 1, "an item larger than the window goes alone");
    let id = world.lane.id(0);
    world.ack(&id);
    assert_eq!(world.done.len(), 3);
}

#[test]
fn acks_that_belong_to_nothing_in_flight_change_nothing() {
    // X7
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Silent);
    let first = world.lane.id(0);
    world.ack("not an id");
    world.ack(&ItemId::new(WallMs(77), [9; 10]).to_string());
    assert_eq!(world.lane.fates(), [Fate::Ready, Fate::Ready]);
    world.ack(&first);
    world.ack(&first);
    world.tell(&format!(r#"{{"type":"item_ack","itemId":"{first}","status":"rejected"}}"#));
    world.tell(&format!(r#"{{"type":"item_nack","itemId":"{first}","retryAfterMs":1}}"#));
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Ready]);
    assert_eq!(world.closed, None);
    assert_eq!(world.notes.len(), 5);
}

#[test]
fn an_ack_before_the_last_chunk_does_not_count() {
    // X7
    let mut world = World::two(Lane::default(), Habit::Silent);
    world.blocked = true;
    world.lane.put(100);
    world.give(Input::Bell);
    world.run();
    world.blocked = false;
    let start = world.session.pull(world.now).unwrap();
    world.receive(start);
    let id = world.lane.id(0);
    world.give(Input::Text(format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored"}}"#)));
    world.run();
    assert_eq!(world.done.len(), 1);
    assert_eq!(world.lane.fates(), [Fate::Ready]);
    assert_eq!(world.notes.len(), 1);
}

#[test]
fn an_ack_with_another_hash_offers_the_item_again() {
    // X7
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    let id = world.lane.id(0);
    let ack =
        |hash: &str| format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored","sha256":"{hash}"}}"#);
    world.tell(&ack(&"00".repeat(32)));
    assert_eq!(world.lane.fates(), [Fate::Nacked]);
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    world.tell(&ack(&"01".repeat(32)));
    assert_eq!(world.lane.fates(), [Fate::Acked]);
}

#[test]
fn an_item_above_the_gateways_limit_is_held_and_the_next_ones_flow() {
    // X11
    let lane = Lane::with(&[10, 5_000, 10]);
    let world = World::new(&proof(&TWO, credit(64, 1 << 20, Some(1_000))), lane, Habit::Acks);
    assert_eq!(world.done.len(), 2);
    let fates = world.lane.fates();
    assert_eq!((&fates[0], &fates[2]), (&Fate::Acked, &Fate::Acked));
    assert!(matches!(&fates[1], Fate::Held(reason) if reason.contains("1000")), "{fates:?}");
}

#[test]
fn nacks_and_rejections_reach_the_lane() {
    // X12
    let mut world = World::two(Lane::with(&[10, 10, 10]), Habit::Silent);
    let ids: Vec<_> = (0..3).map(|at| world.lane.id(at)).collect();
    world.tell(&format!(r#"{{"type":"item_nack","itemId":"{}","retryAfterMs":5000}}"#, ids[0]));
    world.tell(&format!(
        r#"{{"type":"item_ack","itemId":"{}","status":"rejected","reason":"no\nsuch persona"}}"#,
        ids[1]
    ));
    assert_eq!(world.lane.fates(), [Fate::Nacked, Fate::Held("no such persona".into()), Fate::Ready]);
}

#[test]
fn a_nack_in_the_middle_of_a_stream_stops_it() {
    let mut world = World::two(Lane::default(), Habit::Silent);
    world.blocked = true;
    world.lane.put(1 << 20);
    world.lane.put(5);
    world.give(Input::Bell);
    world.run();
    for _ in 0..4 {
        if let Some(message) = world.session.pull(world.now) {
            world.receive(message);
        }
        world.run();
    }
    assert!(world.streams.values().any(|body| body.len() > 100));
    world.blocked = false;
    let id = world.lane.id(0);
    world.tell(&format!(r#"{{"type":"item_nack","itemId":"{id}","retryAfterMs":5000}}"#));
    assert_eq!(world.aborted, [world.lane.items[0].offer.stream.clone()]);
    assert_eq!(world.lane.fates(), [Fate::Nacked, Fate::Ready]);
    assert_eq!(world.done.len(), 1, "the next item flows");
}

#[test]
fn a_damaged_body_is_set_aside_and_one_that_cannot_be_read_waits() {
    for (error, fate) in [
        (PieceError::Damaged("crc".into()), Fate::Damaged("crc".into())),
        (PieceError::Unreadable("EIO".into()), Fate::Nacked),
    ] {
        for features in [&TWO[..], &[]] {
            let mut world = World::new(&proof(features, None), Lane::default(), Habit::Legacy);
            world.damaged = Some(error.clone());
            world.lane.put(10);
            world.give(Input::Bell);
            world.run();
            assert_eq!(world.lane.fates()[0], fate);
            assert!(world.done.is_empty(), "half a mail was ended");
            assert_eq!(world.aborted.len(), usize::from(!features.is_empty()));
        }
    }
}

#[test]
fn transcripts_after_the_login_agree_with_the_reference() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/mail-tunnel.json")).unwrap();
    let mut played = 0;
    for transcript in vectors["websocket_transcripts"].as_array().unwrap() {
        if transcript["precondition"] != "authenticated" {
            continue;
        }
        let mut world = World::legacy(Lane::default());
        for step in transcript["steps"].as_array().unwrap() {
            if let Some(hex) = step["binary_hex"].as_str() {
                let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
                world.give(Input::Binary(bytes.into()));
                world.run();
            } else if step["from"] == "client" {
                world.tell(&step["text_json"].to_string());
            } else if let Some(code) = step["close_code"].as_u64() {
                let reason = step["close_reason"].as_str().unwrap();
                assert_eq!(world.closed.map(|(c, r)| (u64::from(c), r)), Some((code, reason)));
            } else if step["nothing"].as_bool() == Some(true) {
                assert_eq!((world.closed, world.said.len()), (None, 1));
                assert_eq!(world.notes.len(), 1);
            } else {
                assert_eq!(world.said.last(), Some(&step["text_json"]), "{}", transcript["name"]);
            }
        }
        played += 1;
    }
    assert_eq!(played, 7);
}

#[test]
fn broken_control_messages_end_a_tunnel_2_session() {
    for text in
        ["{x", "null", r#"{"type":"item_ack"}"#, r#"{"type":"auth_challenge_request","publicKeyBase32":"k"}"#]
    {
        let mut world = World::two(Lane::default(), Habit::Acks);
        world.tell(text);
        assert_eq!(world.closed, Some((4401, "invalid_message")), "{text}");
        assert_eq!(world.last_said(), "auth_error");
    }
    let mut world = World::two(Lane::default(), Habit::Acks);
    world.tell(r#"{"type":"something_of_tunnel_3"}"#);
    assert_eq!(world.closed, None);
}

#[test]
fn a_replay_request_brings_acked_items_back_once_each() {
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Acks);
    assert_eq!(world.done.len(), 2);
    world.tell(r#"{"type":"replay_request","fromSeq":1}"#);
    assert_eq!(world.done.len(), 4);
    assert_eq!(world.last_said(), "replay_accepted");
    assert_eq!(world.said.last().unwrap()["items"], 2);
    assert_eq!(world.done[0], world.done[2]);
    // Tunnel 1 has no such message, and without position it asks for nothing.
    world.tell(r#"{"type":"replay_request"}"#);
    assert_eq!(world.done.len(), 4);
}

#[test]
fn acks_that_come_while_the_lane_is_busy_share_the_next_batch() {
    let mut world = World::two(Lane::default(), Habit::Acks);
    for _ in 0..40 {
        world.lane.put(10);
    }
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.lane.fates(), vec![Fate::Acked; 40]);
    world.lane.frozen = true;
    for _ in 0..3 {
        world.lane.put(10);
    }
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.lane.waiting.len(), 1);
    let settled = world.lane.carry_out(&world.lane.waiting[0].clone());
    world.give(Input::Settled(settled));
    world.run();
    // Three acks came: the first, or none, went alone; the rest wait together for the answer.
    assert_eq!(world.lane.waiting.len(), 2);
    world.give(Input::Settled(Settled::default()));
    world.run();
    let acks: BTreeMap<_, _> =
        world.lane.waiting[1..].iter().flat_map(|b| &b.changes).map(|c| (format!("{c:?}"), 1)).collect();
    assert_eq!(acks.len(), 3);
    assert!(world.lane.waiting.len() <= 3);
}

#[test]
fn acks_before_the_end_still_reach_the_lane() {
    let mut world = World::two(Lane::with(&[10, 10]), Habit::Silent);
    world.lane.frozen = true;
    let ids: Vec<_> = (0..2).map(|at| world.lane.id(at)).collect();
    world.ack(&ids[0]);
    world.ack(&ids[1]);
    world.give(Input::Gone);
    assert!(!world.session.is_done());
    world.lane.frozen = false;
    let batch = world.lane.waiting[0].clone();
    let settled = world.lane.carry_out(&batch);
    world.give(Input::Settled(settled));
    world.run();
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Acked]);
    assert!(world.session.is_done());
}

#[test]
fn a_blocked_socket_bounds_what_waits() {
    // X9
    let mut world = World::two(Lane::default(), Habit::Silent);
    world.blocked = true;
    for _ in 0..1_000 {
        world.lane.put(100);
        world.give(Input::Bell);
        world.run();
    }
    let leased = world.lane.items.iter().filter(|stored| stored.leased).count();
    assert!(leased <= 64, "{leased} leased");
    assert_eq!(world.done.len(), 0);
}

#[test]
fn a_newer_login_closes_the_session() {
    let mut world = World::legacy(Lane::default());
    world.give(Input::Evict(Eviction::Replaced));
    world.run();
    assert_eq!(world.closed, Some((4400, "replaced_by_new_session")));
    assert!(world.session.is_done());
    let mut world = World::legacy(Lane::default());
    world.give(Input::Evict(Eviction::Revoked));
    world.run();
    assert_eq!(world.closed, Some((4401, "revoked")));
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_starts_nothing() {
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    world.give(Input::Drain { reconnect_after_ms: 1_500 });
    world.lane.put(10);
    world.give(Input::Bell);
    world.run();
    assert_eq!(world.last_said(), "drain");
    assert_eq!((world.done.len(), world.closed), (1, None));
    let id = world.lane.id(0);
    world.ack(&id);
    assert_eq!(world.closed, Some((1012, "relay_restarts")));
    assert_eq!(world.lane.fates(), [Fate::Acked, Fate::Ready]);

    let mut stuck = World::new(&proof(&[], None), Lane::with(&[10]), Habit::Frozen);
    stuck.give(Input::Drain { reconnect_after_ms: 0 });
    stuck.run();
    stuck.pass(DRAIN_TIME_MAX);
    assert_eq!(stuck.closed, Some((1012, "relay_restarts")));
    assert_eq!(stuck.said.len(), 1, "tunnel 1 knows no drain message");
}

#[test]
fn a_lost_lane_ends_the_session() {
    let mut world = World::two(Lane::with(&[10]), Habit::Silent);
    world.give(Input::LaneLost);
    world.run();
    assert_eq!(world.closed, Some((1013, "try_again_later")));
    assert!(world.session.is_done());
}

#[test]
fn an_outbound_role_session_never_gets_items_and_its_mail_is_answered() {
    let mut outbound = proof(&[], None);
    outbound.role = SessionRole::Outbound;
    let mut world = World::new(&outbound, Lane::with(&[10]), Habit::Legacy);
    assert_eq!(world.lane.asked, 0);
    let start = StartBody { mail_from: "a@b".into(), rcpt_to: "c@d".into(), ..StartBody::default() };
    for frame in [Frame::Start { stream: "s".into(), start }, Frame::End { stream: "s".into() }] {
        world.give(Input::Binary(frame.encode().unwrap()));
    }
    world.run();
    let answer = world.said.last().unwrap();
    assert_eq!((&answer["type"], &answer["streamId"]), (&"relay_delivery_result".into(), &"s".into()));
    assert_eq!(answer["error"], "this relay does not send mail yet");
}

#[test]
fn any_input_in_any_state_is_answered_without_panic() {
    // X8: a little generator of nonsense, the same every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..300 {
        let features: &[Feature] = if round % 2 == 0 { &TWO } else { &[] };
        let mut world = World::new(&proof(features, None), Lane::with(&[10, 70_000]), Habit::Silent);
        for _ in 0..40 {
            let id = world.lane.id(draw(2) as usize);
            let input = match draw(12) {
                0 => Input::Text(format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored"}}"#)),
                1 => Input::Text(format!(r#"{{"type":"item_nack","itemId":"{id}"}}"#)),
                2 => Input::Text(r#"{"type":"replay_request","fromSeq":0}"#.into()),
                3 => Input::Pong(id.into()),
                4 => Input::Bell,
                5 => Input::Progress,
                6 => Input::Drain { reconnect_after_ms: 1 },
                7 => Input::Piece {
                    item: id.parse().unwrap(),
                    n: draw(3) as usize,
                    bytes: Ok(Bytes::from_static(b"stray")),
                },
                8 => Input::Binary((0..draw(12)).map(|_| draw(256) as u8).collect::<Vec<_>>().into()),
                9 if draw(20) == 0 => Input::Evict(Eviction::Replaced),
                10 if draw(20) == 0 => Input::Gone,
                _ => Input::Tick,
            };
            if world.closed.is_some() {
                world.session.handle(input, world.now, WallMs(0));
                continue;
            }
            world.give(input);
            world.run();
            world.pass(Duration::from_secs(draw(20)));
        }
    }
}
