//! Is anybody there: pings, and what happens when time passes without an answer (sans I/O).

use std::time::Instant;

use bytes::Bytes;

use super::super::Dialect;
use super::super::control::{Drain, ToGateway};
use super::outbound::NO_REST;
use super::{Note, Outgoing, Output, Phase, Session};

/// Payload of a ping that asks only whether somebody is there.
const HEARTBEAT: &[u8] = b"waystation";
/// A gateway that does not answer for an item is told to come back after this, milliseconds.
const ACK_TIMEOUT_RETRY_MS: u64 = 1_000;

impl Session {
    /// Pings, and finds out whether anybody is still there.
    pub(super) fn time(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        if now >= self.dead_at() {
            self.out.push_back(Output::Note(Note::PeerDead));
            return self.close(4408, "heartbeat_timeout");
        }
        if self.unanswered_at().is_some_and(|at| now >= at) {
            return self.ack_timeout();
        }
        if now >= self.pinged + self.settings.heartbeat_interval {
            self.pinged = now;
            self.out.push_back(Output::Send(Outgoing::Ping(Bytes::from_static(HEARTBEAT))));
        }
        if self.retry.is_some_and(|at| now >= at) {
            self.retry = None;
            self.more = true;
        }
        while let Some(stream) = self.inflow.take_silent(now) {
            self.note(Note::StreamSilent(stream.clone()));
            self.not_now(stream, NO_REST, "the stream stood still");
        }
    }

    /// A peer is dead when neither a message came nor the socket moved for the whole timeout, and one that
    /// owes the pong that is its ack, when no pong came.
    pub(super) fn dead_at(&self) -> Instant {
        let mut at = self.life + self.settings.idle_timeout;
        if self.dialect == Dialect::One
            && let Some(oldest) = self.outflow.oldest()
        {
            at = at.min(oldest.sent_at.max(self.pong) + self.settings.idle_timeout);
        }
        at
    }

    /// When the oldest item in flight has waited too long for its ack. A pong is an ack in tunnel 1, and late
    /// ones are a matter of [`Self::dead_at`].
    pub(super) fn unanswered_at(&self) -> Option<Instant> {
        let oldest = self.outflow.oldest().filter(|_| self.dialect == Dialect::Two)?;
        Some(oldest.sent_at + self.settings.ack_patience)
    }

    /// Without an end of this session its leases would last as long as the gateway answers pings.
    fn ack_timeout(&mut self) {
        let Some(oldest) = self.outflow.oldest().map(|flight| flight.item) else { return };
        self.out.push_back(Output::Note(Note::AckTimeout(oldest)));
        if self.phase == Phase::Open {
            self.say(&ToGateway::Drain(Drain { reconnect_after_ms: ACK_TIMEOUT_RETRY_MS }));
        }
        self.close(1013, "ack_timeout");
    }
}
