//! Both real machines in virtual time: the home end of this module, the relay's handshake and session, a line that breaks.
//!
//! Goal: whatever message the line breaks after, in either direction, every item of the lane reaches the destination
//! once, in order, and ends acked. Method: break it after message n for every n of a whole conversation.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use spool::ids::{ItemId, Seq, WallMs};
use uuid::Uuid;

use super::stream::chain_step;
use super::*;
use crate::identity::challenge::Fresh;
use crate::identity::key::SecretKey;
use crate::tunnel::control::Credit;
use crate::tunnel::handshake::{Door, Handshake, Proof, Step};
use crate::tunnel::session::{self as relay, Batch, Change, Outgoing, Settled, Window};

const HOST: &str = "relay.example.org";
const ITEMS: u64 = 5;
const WALL: WallMs = WallMs(1_000);

/// The relay's ledger of one lane: what a restart of everything else leaves.
struct Lane {
    items: Vec<Entry>,
}

struct Entry {
    offer: relay::Offer,
    body: Bytes,
    leased: bool,
    acked: bool,
}

impl Lane {
    fn new() -> Self {
        let mut chain = [0; 32];
        let items = (1..=ITEMS)
            .map(|seq| {
                let id = ItemId::new(WallMs(seq), [3; 10]);
                let body = Bytes::from(
                    format!("Subject: {seq}\r\n\r\n").repeat(usize::try_from(seq * 700).unwrap()),
                );
                let head = Bytes::from(format!("Received: {seq}\r\n"));
                let sha256: [u8; 32] = Sha256::digest(&body).into();
                chain = chain_step(&chain, seq, id, &Sha256::digest(&head).into(), &sha256);
                let size_bytes = (head.len() + body.len()) as u64;
                let start = StartBody {
                    mail_from: "a@example.org".to_owned(),
                    rcpt_to: "b@example.org".to_owned(),
                    item_id: Some(id.to_string()),
                    seq: Some(seq),
                    chain: Some(HEXLOWER.encode(&chain)),
                    size: Some(size_bytes),
                    trace_bytes: Some(head.len() as u64),
                    sha256: Some(HEXLOWER.encode(&sha256)),
                    ..StartBody::default()
                };
                let offer = relay::Offer {
                    item: id,
                    seq: Seq(seq),
                    stream: format!("{id}:b@example.org"),
                    start,
                    head,
                    pieces: 1,
                    size_bytes,
                    sha256,
                };
                Entry { offer, body, leased: false, acked: false }
            })
            .collect();
        Self { items }
    }

    fn carry_out(&mut self, batch: &Batch) -> Settled {
        let mut settled = Settled::default();
        for change in &batch.changes {
            match change {
                Change::Ack(flight) => self.entry(flight.item).acked = true,
                Change::Nack { item, .. } => self.entry(*item).leased = false,
                Change::Postpone { .. }
                | Change::Reject { .. }
                | Change::Damaged { .. }
                | Change::Replay(_) => panic!("not in this test: {change:?}"),
            }
        }
        if let Some(Window { items, .. }) = batch.lease {
            let free = self.items.iter_mut().filter(|entry| !entry.leased && !entry.acked);
            for entry in free.take(usize::try_from(items).unwrap()) {
                entry.leased = true;
                settled.offers.push(entry.offer.clone());
            }
        }
        settled
    }

    fn entry(&mut self, item: ItemId) -> &mut Entry {
        self.items.iter_mut().find(|entry| entry.offer.item == item).unwrap()
    }
}

/// What survives at home: the destination, and the memory of what it has.
#[derive(Default)]
struct Home {
    delivered: Vec<(String, Vec<u8>)>,
    position: LanePosition,
}

impl Home {
    fn knows(&self, item_id: &str) -> bool {
        self.delivered.iter().any(|(id, _)| id == item_id)
    }
}

enum RelayEnd {
    Proving(Box<Handshake>),
    Open(Box<relay::Session>),
}

/// One connection.
struct Pair {
    client: ClientSession,
    relay: RelayEnd,
    door: Door,
    drafts: HashMap<String, (Offer, Vec<u8>)>,
    /// On its way from the relay.
    line: VecDeque<Outgoing>,
    now: Instant,
    /// Messages that the line still carries, both ways counted.
    left: usize,
    carried: usize,
}

impl Pair {
    /// Talks until the line breaks or nobody has anything more to say; true if it held.
    fn talk(lane: &mut Lane, home: &mut Home, left: usize) -> (bool, usize) {
        let now = crate::clock::monotonic();
        let settings = Settings {
            key: SecretKey::from_seed(&[1; 32]),
            relay_host: HOST.to_owned(),
            allow_tunnel_1: false,
            credit: Credit { items: 2, bytes: 1 << 20, item_bytes_max: Some(1 << 20) },
            handshake_timeout: Duration::from_secs(10),
            heartbeat_every: Duration::from_secs(30),
            silence_max: Duration::from_secs(90),
            submits: false,
            invite: None,
        };
        lane.items.iter_mut().for_each(|entry| entry.leased = false);
        let handshake = Handshake::new(Uuid::from_u128(1), "192.0.2.1".parse().unwrap(), now);
        let mut pair = Self {
            client: ClientSession::new(settings, home.position, now),
            relay: RelayEnd::Proving(Box::new(handshake)),
            door: Door::new(HOST.to_owned(), Duration::from_secs(60), None),
            drafts: HashMap::new(),
            line: VecDeque::new(),
            now,
            left,
            carried: 0,
        };
        let held = pair.run(lane, home);
        home.position = pair.client.position();
        (held.is_some(), pair.carried)
    }

    /// `None` when the line broke.
    fn run(&mut self, lane: &mut Lane, home: &mut Home) -> Option<()> {
        loop {
            // The home end drains its machine after every message, as its driver does.
            let said = self.home_speaks(home)?;
            let answered = match self.line.pop_front() {
                Some(message) => {
                    self.carry()?;
                    self.carry_to_home(&message);
                    true
                }
                None => self.relay_speaks(lane),
            };
            if !said && !answered {
                return Some(());
            }
        }
    }

    fn carry(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        self.carried += 1;
        Some(())
    }

    fn home_speaks(&mut self, home: &mut Home) -> Option<bool> {
        let mut spoke = false;
        while let Some(output) = self.client.poll() {
            spoke = true;
            match output {
                Output::Text(text) => {
                    self.carry()?;
                    self.carry_to_relay(text);
                }
                Output::Begin { stream, offer } => {
                    if home.knows(&offer.item_id) {
                        self.client.discard(&stream, Verdict::Stored);
                    } else {
                        self.drafts.insert(stream, (offer, Vec::new()));
                    }
                }
                Output::Append { stream, bytes } => {
                    self.drafts.get_mut(&stream).unwrap().1.extend_from_slice(&bytes);
                }
                Output::Complete { stream, .. } => {
                    let (offer, bytes) = self.drafts.remove(&stream).unwrap();
                    home.delivered.push((offer.item_id.clone(), bytes));
                    self.client.verdict(&offer.item_id, Verdict::Stored);
                }
                Output::Ready { dialect, .. } => assert_eq!(dialect, Dialect::Two),
                Output::Ping
                | Output::RelayKeys(_)
                | Output::Abandon { .. }
                | Output::Notice(_)
                | Output::Binary(_)
                | Output::Seal { .. }
                | Output::Submitted(_)
                | Output::Close { .. } => {
                    panic!("{output:?}")
                }
            }
        }
        Some(spoke)
    }

    fn carry_to_home(&mut self, message: &Outgoing) {
        match message {
            Outgoing::Text(text) => self.client.handle_text(text, self.now),
            Outgoing::Binary(bytes) => self.client.handle_binary(bytes, self.now),
            Outgoing::Ping(_) => self.client.handle_alive(self.now),
        }
    }

    fn carry_to_relay(&mut self, text: String) {
        match &mut self.relay {
            RelayEnd::Open(session) => session.handle(relay::Input::Text(text), self.now, WALL),
            RelayEnd::Proving(handshake) => {
                let fresh = Fresh { id: Uuid::from_u128(7), nonce: Uuid::from_u128(8) };
                match handshake.hear(text.as_bytes(), fresh, &mut self.door, self.now, WALL) {
                    Step::Say(message) => self.client.handle_text(&message.to_text(), self.now),
                    Step::Proved(proof) => self.relay = RelayEnd::Open(Box::new(self.open(&proof))),
                    Step::Refuse(code) => panic!("{code:?}"),
                }
            }
        }
    }

    fn open(&self, proof: &Proof) -> relay::Session {
        relay::Session::new(proof, relay::Welcome::default(), relay::Settings::default(), self.now)
    }

    fn relay_speaks(&mut self, lane: &mut Lane) -> bool {
        let now = self.now;
        let RelayEnd::Open(session) = &mut self.relay else { return false };
        let mut out = Vec::new();
        let mut spoke = false;
        loop {
            if let Some(output) = session.poll() {
                spoke = true;
                match output {
                    relay::Output::Send(message) => out.push(message),
                    relay::Output::Lane(batch) => {
                        let settled = lane.carry_out(&batch);
                        session.handle(relay::Input::Settled(settled), now, WALL);
                    }
                    relay::Output::Read { item, n } => {
                        let bytes = Ok(lane.entry(item).body.clone());
                        session.handle(relay::Input::Piece { item, n, bytes }, now, WALL);
                    }
                    relay::Output::Outbound(_) => {
                        session.handle(relay::Input::Words(Vec::new()), now, WALL);
                    }
                    relay::Output::Note(_) | relay::Output::Close(..) => panic!("{output:?}"),
                }
            } else if let Some(message) = session.pull(now) {
                spoke = true;
                out.push(message);
            } else {
                break;
            }
        }
        self.line.extend(out);
        spoke
    }
}

fn check(lane: &Lane, home: &Home) {
    assert!(lane.items.iter().all(|entry| entry.acked));
    let want: Vec<(String, Vec<u8>)> = lane
        .items
        .iter()
        .map(|entry| (entry.offer.item.to_string(), [&entry.offer.head[..], &entry.body[..]].concat()))
        .collect();
    assert!(home.delivered == want, "not once, in order and byte for byte");
}

#[test]
fn a_lane_drains_in_order_over_a_line_that_holds() {
    let (mut lane, mut home) = (Lane::new(), Home::default());
    let (held, _) = Pair::talk(&mut lane, &mut home, usize::MAX);
    assert!(held);
    check(&lane, &home);
    assert_eq!(home.position.seq, ITEMS);
}

#[test]
fn a_line_that_breaks_anywhere_neither_loses_nor_doubles() {
    // W9, X5
    let (_, whole) = Pair::talk(&mut Lane::new(), &mut Home::default(), usize::MAX);
    for first in 0..=whole {
        for second in [0, first / 2, whole] {
            let (mut lane, mut home) = (Lane::new(), Home::default());
            Pair::talk(&mut lane, &mut home, first);
            Pair::talk(&mut lane, &mut home, second);
            let (held, _) = Pair::talk(&mut lane, &mut home, usize::MAX);
            assert!(held);
            check(&lane, &home);
        }
    }
}

#[test]
fn a_home_that_forgets_its_undecided_items_gets_them_again() {
    // X5: the process dies with items received and not decided; the next life starts from its memory.
    let (mut lane, mut home) = (Lane::new(), Home::default());
    Pair::talk(&mut lane, &mut home, 20);
    home.position = LanePosition::default();
    let (held, _) = Pair::talk(&mut lane, &mut home, usize::MAX);
    assert!(held);
    check(&lane, &home);
}
