//! Two ends in virtual time: the relay's session and a scripted gateway, with a lane made of a list.

use super::*;

pub(super) const PIECE: usize = 64 * 1024;

/// One lane: items in order, each with what became of it.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) items: Vec<Stored>,
    pub(super) asked: usize,
    /// Batches are not answered while this is set.
    pub(super) frozen: bool,
    pub(super) waiting: Vec<Batch>,
}

pub(super) struct Stored {
    pub(super) offer: Offer,
    pub(super) body: Bytes,
    pub(super) leased: bool,
    pub(super) fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Ready,
    Acked,
    Nacked,
    Postponed,
    Held(String),
    Damaged(String),
}

impl Lane {
    pub(super) fn with(sizes: &[usize]) -> Self {
        let mut lane = Self::default();
        for &size in sizes {
            lane.put(size);
        }
        lane
    }

    pub(super) fn put(&mut self, size: usize) {
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

    pub(super) fn carry_out(&mut self, batch: &Batch) -> Settled {
        self.asked += 1;
        let mut settled = Settled::default();
        for change in &batch.changes {
            match change {
                Change::Ack(flight) => self.fate(flight.item, Fate::Acked),
                Change::Nack { item, .. } => self.fate(*item, Fate::Nacked),
                Change::Postpone { item, .. } => self.fate(*item, Fate::Postponed),
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

    pub(super) fn fate(&mut self, item: ItemId, fate: Fate) {
        let stored = self.items.iter_mut().find(|stored| stored.offer.item == item).unwrap();
        assert!(stored.leased, "only what was handed out may change");
        stored.fate = fate;
    }

    pub(super) fn fates(&self) -> Vec<Fate> {
        self.items.iter().map(|stored| stored.fate.clone()).collect()
    }

    pub(super) fn id(&self, at: usize) -> String {
        self.items[at].offer.item.to_string()
    }

    pub(super) fn new_session(&mut self) {
        self.items.iter_mut().for_each(|stored| stored.leased = false);
        self.waiting.clear();
    }
}

/// What the scripted gateway does by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// An unmodified gateway: answers pings.
    Legacy,
    /// Answers pings and acks what it got.
    Acks,
    /// Answers pings, acks nothing.
    Silent,
    /// Reads, and says nothing at all.
    Frozen,
}

pub(super) struct World {
    pub(super) session: Session,
    pub(super) lane: Lane,
    pub(super) habit: Habit,
    pub(super) now: Instant,
    /// The socket takes nothing while this is set.
    pub(super) blocked: bool,
    pub(super) damaged: Option<PieceError>,
    pub(super) streams: HashMap<String, Vec<u8>>,
    pub(super) done: Vec<(String, Vec<u8>)>,
    pub(super) open: Option<String>,
    pub(super) said: Vec<Value>,
    pub(super) notes: Vec<Note>,
    pub(super) aborted: Vec<String>,
    pub(super) pings: usize,
    pub(super) closed: Option<(u16, &'static str)>,
    pub(super) wire_bytes_max: usize,
    /// What the lane was handed.
    pub(super) pieces: Vec<OutboundPiece>,
    /// What it answers, one list for each piece from now on; then nothing.
    pub(super) words: VecDeque<Vec<OutboundWord>>,
    /// It does not answer.
    pub(super) busy: bool,
}

pub(super) fn proof(features: &[Feature], credit: Option<Credit>) -> Proof {
    Proof {
        invite: None,
        key: SecretKey::from_seed(&[1; 32]).key_text(),
        role: SessionRole::Inbound,
        features: Features::of(features),
        credit,
    }
}

pub(super) fn credit(items: u32, bytes: u64, item_bytes_max: Option<u64>) -> Option<Credit> {
    Some(Credit { items, bytes, item_bytes_max })
}

pub(super) const TWO: [Feature; 4] = [Feature::Ack, Feature::Results, Feature::Credit, Feature::Replay];

impl World {
    pub(super) fn new(proof: &Proof, lane: Lane, habit: Habit) -> Self {
        let now = crate::clock::monotonic();
        let session = Session::new(proof, Welcome::default(), Settings::default(), now);
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
            pieces: Vec::new(),
            words: VecDeque::new(),
            busy: false,
        };
        world.run();
        world
    }

    pub(super) fn legacy(lane: Lane) -> Self {
        Self::new(&proof(&[], None), lane, Habit::Legacy)
    }

    pub(super) fn two(lane: Lane, habit: Habit) -> Self {
        Self::new(&proof(&TWO, None), lane, habit)
    }

    pub(super) fn give(&mut self, input: Input) {
        let wall = WallMs(1_000);
        self.session.handle(input, self.now, wall);
    }

    pub(super) fn frame(&mut self, frame: &Frame) {
        self.give(Input::Binary(frame.encode().unwrap()));
        self.run();
    }

    pub(super) fn tell(&mut self, message: &str) {
        self.give(Input::Text(message.to_owned()));
        self.run();
    }

    pub(super) fn ack(&mut self, id: &str) {
        self.tell(&format!(r#"{{"type":"item_ack","itemId":"{id}","status":"stored"}}"#));
    }

    /// Lets time pass until `after` from now, waking the machine at its deadlines.
    pub(super) fn pass(&mut self, after: Duration) {
        let end = self.now + after;
        while let Some(at) = self.session.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.give(Input::Tick);
            self.run();
        }
        self.now = end;
    }

    /// Performs outputs until nothing happens any more.
    pub(super) fn run(&mut self) {
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

    pub(super) fn perform(&mut self, output: Output) {
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
            Output::Outbound(piece) => {
                self.pieces.push(piece);
                if !self.busy {
                    let words = self.words.pop_front().unwrap_or_default();
                    self.give(Input::Words(words));
                }
            }
            Output::Note(note) => self.notes.push(note),
            Output::Close(code, reason) => {
                assert_eq!(self.closed, None, "closed twice");
                self.closed = Some((code, reason));
            }
        }
    }

    /// The gateway's reader.
    pub(super) fn receive(&mut self, message: Outgoing) {
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

    pub(super) fn whole(&self, at: usize) -> Vec<u8> {
        let stored = &self.lane.items[at];
        [stored.offer.head.as_ref(), stored.body.as_ref()].concat()
    }

    pub(super) fn last_said(&self) -> &str {
        self.said.last().unwrap()["type"].as_str().unwrap()
    }
}
