//! Items on their way to a gateway: window, and the frames of one stream after the other (sans I/O).
//!
//! `offered -> written frame by frame -> in flight -> acked`; a lane's order is kept, streams are never
//! interleaved, and what is in flight never exceeds the window in items or, except for a single large item,
//! in bytes. Offers may wait here for their turn, so that the ledger's latency is not in the way.
//!
//! Promises: holds one piece of one body at a time; empty when nothing is on its way.
//!
//! Does not know time, sockets or what a stream carries.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use spool::ids::{ItemId, Seq};

use super::Dialect;
use super::frame::{Frame, StartBody};

/// Body bytes in one frame to a gateway. Well below what a gateway takes, because each session's socket
/// keeps a buffer as large as the largest message it ever wrote.
pub(super) const FRAME_BODY_BYTES: usize = 4 * 1024;
/// Offers kept ready to be written, at first; more are leased when half of them are gone.
const READY_ITEMS: u32 = 32;
/// The same for a gateway that takes them faster than they are made, at most.
const READY_ITEMS_MAX: u32 = 256;

/// One item that may be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its id.
    pub item: ItemId,
    /// Its position in the lane.
    pub seq: Seq,
    /// Stream id: unique per item, and the same each time the item is offered.
    pub stream: String,
    /// The stream's start.
    pub start: StartBody,
    /// Bytes sent before the body.
    pub head: Bytes,
    /// Pieces of the body, to be read one at a time.
    pub pieces: usize,
    /// Bytes of head and body.
    pub size_bytes: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
}

/// An item that was sent completely and not acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Its id.
    pub item: ItemId,
    /// Bytes of head and body.
    pub size_bytes: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
    /// When its end was handed to the socket.
    pub sent_at: Instant,
}

/// How much may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Items.
    pub items: u32,
    /// Bytes of head and body.
    pub bytes: u64,
}

/// What comes next on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send this frame.
    Frame(Frame),
    /// Send this frame; with it the item is in flight.
    Last(Frame, ItemId),
    /// Fetch this piece of the item's body first.
    Read(ItemId, usize),
    /// Nothing, until an offer or a piece comes.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Outflow {
    dialect: Dialect,
    window: Window,
    waiting: VecDeque<Offer>,
    writing: Option<Box<Writing>>,
    flying: Vec<Flight>,
    /// Acked by a gateway that would not know them again: what the lane has not been told yet, and what it has been and is
    /// not stable yet. They fill the window like those in flight.
    landed: Load,
    settling: Load,
    /// How many offers are to be kept ready; between [`READY_ITEMS`] and [`READY_ITEMS_MAX`].
    ready: u32,
    /// The last lease brought about all that it asked for.
    leased_full: bool,
}

/// Items, and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    items: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Writing {
    offer: Offer,
    started: bool,
    /// What is left of the head or of the last piece.
    held: Bytes,
    /// The next piece to fetch.
    piece: usize,
    asked: bool,
    chunks: u64,
}

impl Outflow {
    pub(super) fn new(dialect: Dialect, window: Window) -> Self {
        Self {
            dialect,
            window,
            waiting: VecDeque::new(),
            writing: None,
            flying: Vec::new(),
            landed: Load::default(),
            settling: Load::default(),
            ready: READY_ITEMS,
            leased_full: false,
        }
    }

    /// Whether an item of `size_bytes` may be begun: it fits the window, or goes alone.
    fn fits(&self, size_bytes: u64) -> bool {
        let landed = self.landed.bytes.saturating_add(self.settling.bytes);
        let bytes = self.flying.iter().map(|flight| flight.size_bytes).fold(landed, u64::saturating_add);
        let items = self.flying.len() + self.landed.items + self.settling.items;
        items == 0
            || (items < self.window.items as usize && bytes.saturating_add(size_bytes) <= self.window.bytes)
    }

    /// How many offers to lease, once half of what is kept ready is gone. They wait ahead of the window: what was not sent
    /// costs no duplicate when the line drops.
    pub(super) fn short_of(&self) -> Option<u32> {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        Some(self.ready.saturating_sub(waiting)).filter(|items| *items >= self.ready / 2)
    }

    /// A lease has brought `items`. A gateway that takes one full lease before the next has come gets more made ready from
    /// then on; one for which there is nothing, as at first.
    pub(super) fn leased(&mut self, items: usize) {
        let full = items >= self.ready as usize / 2;
        if items == 0 {
            self.ready = READY_ITEMS;
        } else if full && self.leased_full && self.waiting.is_empty() {
            self.ready = (self.ready * 2).min(READY_ITEMS_MAX);
        }
        self.leased_full = full;
    }

    /// Nothing is being written or in flight.
    pub(super) fn is_settled(&self) -> bool {
        self.writing.is_none() && self.flying.is_empty()
    }

    /// Items being written or not acked yet, and their bytes.
    pub(super) fn under_way(&self) -> (u32, u64) {
        let flying = self.flying.iter().map(|flight| flight.size_bytes);
        let writing = self.writing.iter().map(|writing| writing.offer.size_bytes);
        flying.chain(writing).fold((0, 0), |(items, bytes), size| (items + 1, bytes.saturating_add(size)))
    }

    pub(super) fn offer(&mut self, offer: Offer) {
        self.waiting.push_back(offer);
    }

    /// Forgets what was not begun.
    pub(super) fn stop(&mut self) {
        self.waiting = VecDeque::new();
    }

    /// Removes the next offer if it is larger than `bytes_max` and not begun.
    pub(super) fn take_waiting_above(&mut self, bytes_max: u64) -> Option<Offer> {
        let large = self.writing.is_none() && self.waiting.front()?.size_bytes > bytes_max;
        if large { self.waiting.pop_front() } else { None }
    }

    /// The item in flight for the longest.
    pub(super) fn oldest(&self) -> Option<&Flight> {
        self.flying.first()
    }

    pub(super) fn flight(&self, item: ItemId) -> Option<&Flight> {
        self.flying.iter().find(|flight| flight.item == item)
    }

    /// The gateway has decided about an item in flight.
    pub(super) fn land(&mut self, item: ItemId) -> Option<Flight> {
        let at = self.flying.iter().position(|flight| flight.item == item)?;
        let flight = self.flying.remove(at);
        if self.flying.is_empty() {
            self.flying = Vec::new();
        }
        Some(flight)
    }

    /// The same, by a gateway that takes it for another message when it comes again: it keeps its place in the window until
    /// the ack is stable.
    pub(super) fn land_for_good(&mut self, item: ItemId) -> Option<Flight> {
        let flight = self.land(item)?;
        self.landed.items += 1;
        self.landed.bytes = self.landed.bytes.saturating_add(flight.size_bytes);
        Some(flight)
    }

    /// The lane is being told of all that has landed.
    pub(super) fn settle(&mut self) {
        self.settling = std::mem::take(&mut self.landed);
    }

    /// What the lane was told is stable.
    pub(super) fn settled(&mut self) {
        self.settling = Load::default();
    }

    /// Gives up the item that is being written, if it is this one; the frame tells a tunnel-2 gateway.
    pub(super) fn abort(&mut self, item: ItemId, reason: &str) -> Option<(ItemId, Option<Frame>)> {
        let writing = self.writing.take_if(|writing| writing.offer.item == item)?;
        let frame = (self.dialect == Dialect::Two && writing.started)
            .then(|| Frame::Abort { stream: writing.offer.stream.clone(), reason: reason.to_owned() });
        Some((item, frame))
    }

    /// A piece came; pieces of other items or out of turn are dropped.
    pub(super) fn piece(&mut self, item: ItemId, n: usize, bytes: Bytes) {
        if let Some(writing) = &mut self.writing
            && writing.offer.item == item
            && writing.asked
            && writing.piece == n
        {
            writing.asked = false;
            writing.piece += 1;
            writing.held = bytes;
        }
    }

    /// What to put on the wire now.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.writing.is_none() {
            let begin = self.waiting.front().is_some_and(|offer| self.fits(offer.size_bytes));
            let Some(offer) = self.waiting.pop_front_if(|_| begin) else { return Next::Nothing };
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
            }
            let held = offer.head.clone();
            self.writing =
                Some(Box::new(Writing { offer, started: false, held, piece: 0, asked: false, chunks: 0 }));
        }
        let Some(writing) = &mut self.writing else { return Next::Nothing };
        let stream = || writing.offer.stream.clone();
        if !writing.started {
            let frame = Frame::Start { stream: stream(), start: std::mem::take(&mut writing.offer.start) };
            writing.started = true;
            return Next::Frame(frame);
        }
        // An empty mail is one empty chunk, as the reference writes it.
        let done = writing.piece >= writing.offer.pieces;
        if !writing.held.is_empty() || (done && writing.chunks == 0) {
            let bytes = writing.held.split_to(writing.held.len().min(FRAME_BODY_BYTES));
            writing.chunks += 1;
            return Next::Frame(Frame::Chunk { stream: writing.offer.stream.clone(), bytes });
        }
        if !done {
            if writing.asked {
                return Next::Nothing;
            }
            writing.asked = true;
            return Next::Read(writing.offer.item, writing.piece);
        }
        let frame = Frame::End { stream: stream() };
        let Offer { item, size_bytes, sha256, .. } = writing.offer;
        self.flying.push(Flight { item, size_bytes, sha256, sent_at: now });
        self.writing = None;
        Next::Last(frame, item)
    }
}
