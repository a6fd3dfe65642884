//! The relay's side of one authenticated session (sans I/O).
//!
//! 1. `auth_ok` goes out.
//! 2. An inbound session leases what fits its window, and sends one stream after the other.
//! 3. Tunnel 1: each `smtp_end` is followed by a ping with the item's id; its pong is the ack. Tunnel 2: the
//!    gateway says `item_ack` or `item_nack`. Both free the window at once; the lane learns it in batches, so
//!    that many acks share one commit.
//! 4. Streams of the gateway go to the lane piece by piece, and the lane's words about them go back: in tunnel 2 each
//!    result until it is acked; in tunnel 1 a result is followed by a ping, and its pong is the ack.
//! 5. Pings find dead peers, and a gateway of tunnel 2 that lives but leaves an item unanswered is sent away: the
//!    next session is offered the item again. A newer login, a stop of the relay, or a broken rule end the session.
//!
//! The driver feeds [`Session::handle`], performs everything from [`Session::poll`] in order, takes
//! [`Session::pull`] whenever the socket has room, and wakes the machine at [`Session::deadline`].
//!
//! Promises: total; an ack counts only for an item that was sent completely in this session and not acked
//! yet, so nothing a gateway says can remove another item. Outputs that wait are bounded: by the window, by
//! [`PENDING_MAX`], and by the driver reading no further while [`Session::is_full`].
//!
//! Does not know mail, and durably keeps nothing.
//!
//! Failure policy: a peer that breaks the protocol is told the code and closed with 4401; when the lane's
//! storage fails, the session ends with 1013 and everything unacked is offered to the next one. However the relay ends
//! a session of tunnel 1, streams that are not whole by then are told as failed.

mod alive;
mod heard;
mod outbound;
#[cfg(test)]
mod tests;
mod values;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spool::ids::{ItemId, WallMs};

use super::Dialect;
use super::control::{
    AuthError, AuthOk, Credit, Drain, Feature, Features, RelayKeys, ReplayAccepted, SessionRole, ToGateway,
};
use super::frame::Frame;
use super::handshake::Proof;
use super::inflow::Inflow;
pub use super::outflow::{Flight, Offer, Window};
use super::outflow::{Next, Outflow};
use crate::identity::challenge::AuthCode;
pub use values::{
    ACK_PATIENCE, Batch, Change, Eviction, Input, Note, OutboundPiece, OutboundWord, Outgoing, Output,
    PieceError, ResultStatus, Settings, Settled, Welcome,
};

/// Features of tunnel 2 that this relay has.
const SUPPORTED: [Feature; 5] =
    [Feature::Ack, Feature::Results, Feature::Credit, Feature::Replay, Feature::Batch];
/// Most changes that wait for the lane; a replay request beyond it is dropped.
pub const PENDING_MAX: usize = 1024;
/// Most messages waiting for the socket before the driver stops reading.
const OUT_MESSAGES_MAX: usize = 64;
/// A session that stops taking part has this long to finish what is in flight.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest reason of a refusal that is kept, bytes.
const REASON_BYTES_MAX: usize = 256;
/// Ignored messages of one session that are worth a note.
const NOTES_MAX: u32 = 8;
/// A body that could not be read now is offered again after this.
const UNREADABLE_RETRY_MS: u64 = 60_000;
/// Longest time that a nack may ask for, milliseconds: a day.
const RETRY_AFTER_MS_MAX: u64 = 86_400_000;

/// The machine.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    dialect: Dialect,
    features: Features,
    inbound: bool,
    item_bytes_max: Option<u64>,
    outflow: Outflow,
    inflow: Inflow,
    out: VecDeque<Output>,
    changes: Vec<Change>,
    asking: bool,
    leasing: bool,
    lane_lost: bool,
    /// The lane may have more than it gave.
    more: bool,
    retry: Option<Instant>,
    replay_waits: bool,
    life: Instant,
    /// A stream's message was handed out since the socket was last empty.
    pulled: bool,
    pong: Instant,
    pinged: Instant,
    phase: Phase,
    notes: u32,
    acked: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Draining { until: Instant },
    Closed,
}

impl Session {
    /// A session for `proof`. `auth_ok`, with `welcome` in it, is its first output.
    #[must_use]
    pub fn new(proof: &Proof, welcome: Welcome, settings: Settings, now: Instant) -> Self {
        let (dialect, features) = agreed(proof);
        let credit = proof.credit.filter(|_| features.has(Feature::Credit));
        let window = match dialect {
            Dialect::One => Window { items: settings.legacy_items_max.max(1), bytes: settings.window.bytes },
            Dialect::Two => Window {
                items: credit.map_or(u32::MAX, |c| c.items).min(settings.window.items).max(1),
                bytes: credit.map_or(u64::MAX, |c| c.bytes).min(settings.window.bytes),
            },
        };
        let item_bytes_max = credit.and_then(|credit| credit.item_bytes_max);
        let replaced = welcome.replaced;
        let told = if dialect == Dialect::Two { welcome } else { Welcome::default() };
        let mut session = Self {
            settings,
            dialect,
            features,
            inbound: proof.role == SessionRole::Inbound,
            item_bytes_max,
            outflow: Outflow::new(dialect, window),
            inflow: Inflow::default(),
            out: VecDeque::new(),
            changes: Vec::new(),
            asking: false,
            leasing: false,
            lane_lost: false,
            more: true,
            retry: None,
            replay_waits: false,
            life: now,
            pulled: false,
            pong: now,
            pinged: now,
            phase: Phase::Open,
            notes: 0,
            acked: 0,
        };
        session.say(&ToGateway::AuthOk(AuthOk {
            public_key_base32: proof.key.to_string(),
            email_local_part: proof.key.to_string(),
            session_role: proof.role,
            replaced_socket_id: replaced.map(|id| id.to_string()),
            features,
            aliases: told.aliases,
            domains: told.domains,
            credit: (dialect == Dialect::Two).then_some(Credit {
                items: window.items,
                bytes: window.bytes,
                item_bytes_max,
            }),
            relay_keys: told.relay_keys,
        }));
        session.inflow.look();
        session.ask();
        session.hand_over();
        session
    }

    /// Which protocol it speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Items being written or not acked yet, and their bytes.
    #[must_use]
    pub fn under_way(&self) -> (u32, u64) {
        self.outflow.under_way()
    }

    /// Items that its gateway acked.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether its gateway takes statements that share a signature.
    #[must_use]
    pub fn takes_batches(&self) -> bool {
        self.features.has(Feature::Batch)
    }

    /// Whether its gateway acks results.
    #[must_use]
    pub fn acks_results(&self) -> bool {
        self.features.has(Feature::Results)
    }

    /// Something happened at `now`.
    pub fn handle(&mut self, input: Input, now: Instant, wall: WallMs) {
        if self.phase == Phase::Closed {
            // What was acked before the end still counts; the lane has to learn it.
            match input {
                Input::Settled(_) => self.asking = false,
                Input::LaneLost => self.lane_lost = true,
                Input::Text(_)
                | Input::Binary(_)
                | Input::Ping
                | Input::Pong(_)
                | Input::Progress
                | Input::Bell
                | Input::Results
                | Input::Keys(_)
                | Input::Words(_)
                | Input::Piece { .. }
                | Input::Evict(_)
                | Input::Drain { .. }
                | Input::Gone
                | Input::Tick => {}
            }
            return self.ask();
        }
        match input {
            Input::Text(text) => {
                self.life = now;
                self.text(&text);
            }
            Input::Binary(message) => {
                self.life = now;
                self.binary(&message, now);
            }
            Input::Ping => self.life = now,
            Input::Pong(payload) => {
                self.life = now;
                self.pong = now;
                self.pong(&payload);
            }
            // Only a stream's bytes: our own pings vanish into the kernel of a line that is dead.
            Input::Progress => {
                if std::mem::take(&mut self.pulled) {
                    self.life = now;
                }
            }
            Input::Bell => self.more = true,
            Input::Results => self.inflow.look(),
            Input::Keys(keys) if self.dialect == Dialect::Two => {
                self.say(&ToGateway::RelayKeys(RelayKeys { keys }));
            }
            Input::Keys(_) => {}
            Input::Words(words) => self.words(words),
            Input::Settled(settled) => self.settled(settled, now, wall),
            Input::LaneLost => {
                self.lane_lost = true;
                self.close(1013, "try_again_later");
            }
            Input::Gone => {
                self.phase = Phase::Closed;
            }
            Input::Piece { item, n, bytes } => self.piece(item, n, bytes),
            Input::Evict(Eviction::Replaced) => self.close(4400, "replaced_by_new_session"),
            Input::Evict(Eviction::Revoked) => self.refuse(AuthCode::Revoked),
            Input::Drain { reconnect_after_ms, settle } => self.drain(reconnect_after_ms, settle, now),
            Input::Tick => {}
        }
        self.time(now);
        self.ask();
        self.hand_over();
        self.finish_drain(now);
    }

    /// The next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        let next = self.out.pop_front();
        if self.out.is_empty() && self.out.capacity() > 4 {
            self.out = VecDeque::new();
        }
        next
    }

    /// The next message of a stream; to be asked for only when the socket has taken all before it.
    pub fn pull(&mut self, now: Instant) -> Option<Outgoing> {
        if self.phase == Phase::Closed {
            return None;
        }
        let message = self.pull_stream(now);
        self.pulled |= message.is_some();
        message
    }

    fn pull_stream(&mut self, now: Instant) -> Option<Outgoing> {
        loop {
            self.hold_back_too_large();
            match self.outflow.next(now) {
                Next::Frame(frame) => return self.encode(&frame),
                Next::Last(frame, item) => {
                    if self.dialect == Dialect::One {
                        // Messages are read in order, so the pong to this proves that the end was read.
                        self.out.push_back(Output::Send(Outgoing::Ping(item.to_string().into())));
                        self.pinged = now;
                    }
                    self.ask();
                    return self.encode(&frame);
                }
                Next::Read(item, n) => self.out.push_back(Output::Read { item, n }),
                Next::Nothing => {
                    self.ask();
                    return None;
                }
            }
        }
    }

    /// When to wake it with [`Input::Tick`] if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let drained = match self.phase {
            Phase::Closed => return None,
            Phase::Draining { until } => Some(until),
            Phase::Open => None,
        };
        let beat = self.pinged + self.settings.heartbeat_interval;
        [Some(beat), Some(self.dead_at()), self.unanswered_at(), drained, self.retry, self.inflow.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Nothing waits to be performed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether it has ended and the lane knows all that it has to.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let settled = self.lane_lost || (!self.asking && self.changes.is_empty());
        self.phase == Phase::Closed && self.out.is_empty() && settled
    }

    /// Too much waits for the socket: read no further.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.out.len() >= OUT_MESSAGES_MAX || self.changes.len() >= PENDING_MAX || self.inflow.is_full()
    }

    fn settled(&mut self, settled: Settled, now: Instant, wall: WallMs) {
        self.asking = false;
        self.outflow.settled();
        // An empty answer is final until the bell rings or room comes back with an ack.
        self.more |= !settled.offers.is_empty();
        if self.leasing {
            self.outflow.leased(settled.offers.len());
            self.retry = settled.retry_at.map(|at| now + Duration::from_millis(at.since(wall)));
        }
        if let Some(items) = settled.replayed {
            self.replay_waits = false;
            self.more = true;
            self.say(&ToGateway::ReplayAccepted(ReplayAccepted { items }));
        }
        if self.phase == Phase::Open {
            for offer in settled.offers {
                self.outflow.offer(offer);
            }
        }
    }

    fn piece(&mut self, item: ItemId, n: usize, bytes: Result<Bytes, PieceError>) {
        let (change, problem) = match bytes {
            Ok(bytes) => return self.outflow.piece(item, n, bytes),
            Err(PieceError::Damaged(problem)) => {
                (Change::Damaged { item, problem: one_line(&problem) }, problem)
            }
            Err(PieceError::Unreadable(problem)) => {
                (Change::Postpone { item, retry_after_ms: UNREADABLE_RETRY_MS }, problem)
            }
        };
        // A tunnel-1 gateway keeps the half stream until a start of the same id replaces it.
        if let Some((_, frame)) = self.outflow.abort(item, &one_line(&problem)) {
            self.send_abort(frame);
            self.changes.push(change);
        }
    }

    /// A gateway that named its largest item gets no larger one; the lane holds it, the next ones flow (X11).
    fn hold_back_too_large(&mut self) {
        let Some(max) = self.item_bytes_max else { return };
        while let Some(offer) = self.outflow.take_waiting_above(max) {
            let reason = format!("{} bytes are more than the {max} this gateway takes", offer.size_bytes);
            self.changes.push(Change::Reject { item: offer.item, reason });
        }
    }

    fn send_abort(&mut self, frame: Option<Frame>) {
        if let Some(Outgoing::Binary(bytes)) = frame.and_then(|frame| self.encode(&frame)) {
            self.out.push_back(Output::Send(Outgoing::Binary(bytes)));
        }
    }

    fn drain(&mut self, reconnect_after_ms: u64, settle: Duration, now: Instant) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining { until: now + settle.min(DRAIN_TIME_MAX) };
            self.outflow.stop();
            if self.dialect == Dialect::Two {
                self.say(&ToGateway::Drain(Drain { reconnect_after_ms }));
            }
        }
    }

    fn finish_drain(&mut self, now: Instant) {
        let Phase::Draining { until } = self.phase else { return };
        let settled = self.outflow.is_settled() && self.changes.is_empty() && !self.asking;
        // Tunnel 1 has no word that sends a gateway away: it goes on with what it has begun, and may be let finish it.
        let whole = self.dialect == Dialect::Two || !self.inflow.has_open();
        let settled = settled && self.inflow.is_quiet() && whole;
        if settled || now >= until {
            self.close(1012, "relay_restarts");
        }
    }

    /// Hands changes to the lane and leases what there is room for, one batch at a time.
    fn ask(&mut self) {
        if self.asking || self.lane_lost || !self.inbound {
            return;
        }
        self.more |= !self.changes.is_empty();
        let lease = self.outflow.short_of().filter(|_| self.phase == Phase::Open && self.more);
        let lease = lease.map(|items| Window { items, bytes: u64::MAX });
        if lease.is_some() {
            self.more = false;
        }
        if lease.is_some() || !self.changes.is_empty() {
            self.asking = true;
            self.leasing = lease.is_some();
            self.outflow.settle();
            self.out.push_back(Output::Lane(Batch { changes: std::mem::take(&mut self.changes), lease }));
        }
    }

    fn encode(&mut self, frame: &Frame) -> Option<Outgoing> {
        match frame.encode() {
            Ok(bytes) => Some(Outgoing::Binary(bytes)),
            Err(error) => {
                // The service makes stream ids that fit; without a frame the stream cannot go on.
                self.out.push_back(Output::Note(Note::BadFrame(error)));
                self.close(1011, "internal_error");
                None
            }
        }
    }

    fn say(&mut self, message: &ToGateway) {
        self.out.push_back(Output::Send(Outgoing::Text(message.to_text())));
    }

    fn note(&mut self, note: Note) {
        if self.notes < NOTES_MAX {
            self.notes += 1;
            self.out.push_back(Output::Note(note));
        }
    }

    fn refuse(&mut self, code: AuthCode) {
        self.say(&ToGateway::AuthError(AuthError { code: code.word().to_owned() }));
        self.close(code.close_code(), code.word());
    }

    fn close(&mut self, code: u16, reason: &'static str) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.fail_half(reason);
            self.out.push_back(Output::Close(code, reason));
        }
    }
}

/// What a session for `proof` will speak.
fn agreed(proof: &Proof) -> (Dialect, Features) {
    let offered = proof.features.and(Features::of(&SUPPORTED));
    if offered.has(Feature::Ack) { (Dialect::Two, offered) } else { (Dialect::One, Features::NONE) }
}

/// The protocol of a session for `proof`.
#[must_use]
pub fn dialect_of(proof: &Proof) -> Dialect {
    agreed(proof).0
}

/// The first characters of `text` that fit `bytes_max`.
fn clip(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// One line without control characters, clipped.
fn one_line(text: &str) -> String {
    clip(text, REASON_BYTES_MAX).replace(char::is_control, " ")
}
