//! SANS-IO: the home end of one tunnel connection. Never touches a socket, a file or a clock.
//!
//! 1. On connecting it offers tunnel 2 (`auth_challenge_request` with features and credit).
//! 2. It signs the challenge only after looking at it: a tunnel-2 text must name the relay host that was dialled
//!    (X1), a tunnel-1 text must have exactly the reference's form (X3), and is signed only where the
//!    settings allow tunnel 1, because such a text can be passed on by a hostile relay.
//! 3. `auth_ok` counts only after a proof was sent. Then streams come in; each is counted and hashed as it passes.
//! 4. A complete, undamaged stream is handed out as one item. What became of it comes back by
//!    [`ClientSession::verdict`] and leaves as `item_ack` or `item_nack`; nothing else acks anything. A stream that does
//!    not match its announced size or hash is sent back, never handed out.
//! 5. Submissions leave by streams of their own; see `outbound`.
//! 6. Both ends ping; silence beyond the limit is a dead relay.
//!
//! With a relay of tunnel 1 no text is sent after `auth_ok`: it would hang up, and there is nothing to ack with. An item is then whatever arrived between `smtp_start` and `smtp_end`.
//!
//! Bounded: open streams, the start of each, items waiting for a verdict, and message size; a relay that exceeds its credit twofold has
//! broken the protocol and is left.

mod outbound;
#[cfg(test)]
mod pair;
mod stream;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64;

use crate::gateway::proof;
use crate::tunnel::Dialect;
use crate::tunnel::control::{
    AckStatus, AuthChallenge, AuthChallengeRequest, AuthChallengeResponse, AuthOk, CONTROL_BYTES_MAX,
    Feature, Features, ItemAck, ItemNack, ReplayRequest, SessionRole, ToGateway, ToRelay,
};
use crate::tunnel::frame::{Frame, FrameError, StartBody};
use outbound::Outbound;
pub use outbound::{ANSWER_PATIENCE, LEGACY_PATIENCE, STREAMS_OPEN_MAX, UNANSWERED_MAX, Wanted};
use stream::{Done, Stream, Want};
pub use values::{
    End, LanePosition, Notice, Offer, Output, Received, Settings, Submission, Submitted, Verdict,
};

/// Close code for "handshake not finished in time" and "relay is silent" (tunnel section 2.5).
pub const CLOSE_TIMEOUT: u16 = 4408;
/// Close code of an orderly stop.
pub const CLOSE_NORMAL: u16 = 1000;
/// Close code for a relay that breaks the protocol.
pub const CLOSE_PROTOCOL: u16 = 4401;
/// Open streams and undecided items allowed beyond the credit, as a factor: a relay may count slightly differently.
const CREDIT_SLACK: usize = 2;
/// Open streams allowed from a relay of tunnel 1, which knows no credit.
const LEGACY_STREAMS_MAX: usize = 256;

#[derive(Debug)]
enum Phase {
    /// Asked for a challenge.
    Asked { until: Instant },
    /// Sent the proof.
    Proved { until: Instant },
    /// Logged in.
    Open { dialect: Dialect, replay: bool, next_ping: Instant, last_heard: Instant },
    /// Said goodbye.
    Closed,
}

/// One connection's protocol state.
#[derive(Debug)]
pub struct ClientSession {
    settings: Settings,
    phase: Phase,
    position: LanePosition,
    streams: HashMap<String, Stream>,
    /// Complete items without a verdict, with the hash that goes into the ack.
    awaiting: HashMap<String, String>,
    outbound: Outbound,
    outputs: VecDeque<Output>,
}

impl ClientSession {
    /// A session on a connection that was just opened. `position` is what earlier sessions have seen.
    #[must_use]
    pub fn new(settings: Settings, position: LanePosition, now: Instant) -> Self {
        let mut features = vec![Feature::Ack, Feature::Credit, Feature::Replay, Feature::Batch];
        features.extend(settings.submits.then_some(Feature::Results));
        let request = ToRelay::AuthChallengeRequest(AuthChallengeRequest {
            public_key_base32: settings.key.key_text().to_string(),
            session_role: Some(SessionRole::Inbound),
            features: Features::of(&features),
            credit: Some(settings.credit),
        });
        let phase = Phase::Asked { until: now + settings.handshake_timeout };
        Self {
            settings,
            phase,
            position,
            streams: HashMap::new(),
            awaiting: HashMap::new(),
            outbound: Outbound::default(),
            outputs: VecDeque::from([Output::Text(request.to_text())]),
        }
    }

    /// What to do next; to be drained after every call.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`ClientSession::handle_timeout`] wants to be called at the latest; `None` when closed.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asked { until } | Phase::Proved { until } => Some(until),
            Phase::Open { next_ping, last_heard, .. } => {
                let alive = next_ping.min(last_heard + self.settings.silence_max);
                Some(self.outbound.deadline().map_or(alive, |answer| answer.min(alive)))
            }
            Phase::Closed => None,
        }
    }

    /// Newest position seen, for the next session.
    #[must_use]
    pub fn position(&self) -> LanePosition {
        self.position
    }

    /// Whether the login is done and the session not over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Whether items can be acked.
    #[must_use]
    pub fn acks(&self) -> bool {
        matches!(self.phase, Phase::Open { dialect: Dialect::Two, .. })
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Asked { until } | Phase::Proved { until } => {
                if now >= *until {
                    self.close(CLOSE_TIMEOUT, "heartbeat_timeout");
                }
            }
            Phase::Open { next_ping, last_heard, .. } => {
                if now.saturating_duration_since(*last_heard) >= self.settings.silence_max {
                    self.close(CLOSE_TIMEOUT, "heartbeat_timeout");
                } else if now >= *next_ping {
                    *next_ping = now + self.settings.heartbeat_every;
                    self.outputs.push_back(Output::Ping);
                }
                self.outbound_timeout(now);
            }
            Phase::Closed => {}
        }
    }

    /// A ping or pong came in: the relay lives.
    pub fn handle_alive(&mut self, now: Instant) {
        if let Phase::Open { last_heard, .. } = &mut self.phase {
            *last_heard = now;
        }
    }

    /// A text message came in.
    pub fn handle_text(&mut self, text: &str, now: Instant) {
        self.handle_alive(now);
        let message = match ToGateway::parse(text, CONTROL_BYTES_MAX) {
            Ok(message) => message,
            Err(error) => return self.garbage(error.to_string()),
        };
        match (&self.phase, message) {
            (Phase::Closed, _) => {}
            (Phase::Asked { until }, ToGateway::AuthChallenge(challenge)) => {
                let until = *until;
                self.prove(&challenge, until);
            }
            (Phase::Proved { .. }, ToGateway::AuthOk(ok)) => self.open(&ok, now),
            (_, ToGateway::AuthError(error)) => {
                // A close of the relay follows; waiting for it would cost a round trip for nothing.
                self.notice(Notice::AuthRefused(crate::gateway::destination::one_line(&error.code)));
                self.close(CLOSE_NORMAL, "auth_error");
            }
            (Phase::Open { .. }, ToGateway::Drain(drain)) => {
                let reconnect_after = Duration::from_millis(drain.reconnect_after_ms);
                self.outbound.draining = true;
                self.notice(Notice::Drain { reconnect_after });
            }
            (Phase::Open { .. }, ToGateway::RelayKeys(announced)) => {
                self.outputs.push_back(Output::RelayKeys(announced.keys));
            }
            (Phase::Open { .. }, ToGateway::ReplayAccepted(replay)) => {
                self.notice(Notice::ReplayAccepted { items: replay.items });
            }
            (Phase::Open { .. }, ToGateway::OutboundAccepted(accepted)) if self.settings.submits => {
                self.outbound_accepted(accepted);
            }
            (Phase::Open { .. }, ToGateway::RelayDeliveryResult(result)) if self.settings.submits => {
                self.delivery_result(result);
            }
            // What belongs to nobody's submissions, and to later protocols.
            (
                _,
                ToGateway::RelayDeliveryResult(_) | ToGateway::OutboundAccepted(_) | ToGateway::Unknown(_),
            ) => {}
            (Phase::Asked { .. }, ToGateway::AuthOk(_)) => {
                self.notice(Notice::Violation("auth_ok without a proof"));
                self.close(CLOSE_PROTOCOL, "invalid_message");
            }
            (Phase::Proved { .. } | Phase::Open { .. }, ToGateway::AuthChallenge(_)) => {
                self.notice(Notice::Violation("a second challenge"));
                self.close(CLOSE_PROTOCOL, "invalid_message");
            }
            (Phase::Open { .. }, ToGateway::AuthOk(_)) => self.garbage("a second auth_ok".to_owned()),
            (
                Phase::Asked { .. } | Phase::Proved { .. },
                ToGateway::Drain(_) | ToGateway::ReplayAccepted(_) | ToGateway::RelayKeys(_),
            ) => {
                self.garbage("a session message before auth_ok".to_owned());
            }
        }
    }

    /// A binary message came in.
    pub fn handle_binary(&mut self, message: &Bytes, now: Instant) {
        self.handle_alive(now);
        let Phase::Open { dialect, .. } = self.phase else { return };
        match Frame::decode(message, dialect) {
            Ok(Frame::Start { stream, start }) => self.start(stream, start),
            Ok(Frame::Chunk { stream, bytes }) => self.chunk(stream, bytes),
            Ok(Frame::End { stream }) => self.end(&stream),
            Ok(Frame::Abort { stream, reason }) => {
                if self.not_now(&stream, &reason) {
                    return;
                }
                if self.streams.remove(&stream).is_some() {
                    self.notice(Notice::Aborted { reason: crate::gateway::destination::one_line(&reason) });
                    self.outputs.push_back(Output::Abandon { stream });
                }
            }
            // What is read of a start stays in memory until the stream ends, and many may be open.
            Err(FrameError::StartLength(_)) => {
                self.notice(Notice::Violation("smtp_start of excessive length"));
                self.close(CLOSE_PROTOCOL, "invalid_tunnel_frame");
            }
            Err(error) => self.garbage(error.to_string()),
        }
    }

    /// The driver does not want the bytes of an open stream; `verdict` is sent when it has ended.
    pub fn discard(&mut self, stream: &str, verdict: Verdict) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.want = Want::Discard(verdict);
        }
    }

    /// What became of an item. Sent only if the item was completely received in this session and not decided yet.
    pub fn verdict(&mut self, item_id: &str, verdict: Verdict) {
        let Some(sha256) = self.awaiting.remove(item_id) else { return };
        if !self.acks() {
            return;
        }
        let item_id = item_id.to_owned();
        let ack = |status, reason, sha256| {
            ToRelay::ItemAck(ItemAck { item_id: item_id.clone(), status, reason, sha256 })
        };
        let message = match verdict {
            Verdict::Stored => ack(AckStatus::Stored, None, Some(sha256)),
            Verdict::Refused { reason } => ack(AckStatus::Rejected, Some(reason), None),
            Verdict::Later { retry_after } => {
                let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
                ToRelay::ItemNack(ItemNack { item_id: item_id.clone(), retry_after_ms })
            }
        };
        self.outputs.push_back(Output::Text(message.to_text()));
    }

    /// Asks for acked items again. Does nothing (and says so) when the relay cannot do that.
    pub fn request_replay(&mut self, request: ReplayRequest) -> bool {
        let can = matches!(self.phase, Phase::Open { dialect: Dialect::Two, replay: true, .. });
        if can {
            self.outputs.push_back(Output::Text(ToRelay::ReplayRequest(request).to_text()));
        }
        can
    }

    /// Ends the session in an orderly way.
    pub fn stop(&mut self) {
        self.close(CLOSE_NORMAL, "client_stopped");
    }

    fn prove(&mut self, challenge: &AuthChallenge, until: Instant) {
        let key_text = self.settings.key.key_text();
        let dialect = match proof::check(challenge, &key_text, &self.settings.relay_host) {
            Ok(dialect) => dialect,
            Err(refusal) => {
                self.notice(Notice::ProofRefused(refusal));
                return self.close(CLOSE_PROTOCOL, "invalid_challenge");
            }
        };
        if dialect == Dialect::One && !self.settings.allow_tunnel_1 {
            self.notice(Notice::TunnelOneRefused);
            return self.close(CLOSE_NORMAL, "tunnel_1_refused");
        }
        let signature = self.settings.key.sign(challenge.challenge_text.as_bytes());
        let response = ToRelay::AuthChallengeResponse(AuthChallengeResponse {
            // Only a relay of tunnel 2 knows what to do with it.
            invite: self.settings.invite.clone().filter(|_| dialect == Dialect::Two),
            public_key_base32: key_text.to_string(),
            challenge_id: challenge.challenge_id.clone(),
            signature_base64: BASE64.encode(&signature),
            session_role: Some(SessionRole::Inbound),
        });
        self.outputs.push_back(Output::Text(response.to_text()));
        self.phase = Phase::Proved { until };
    }

    fn open(&mut self, ok: &AuthOk, now: Instant) {
        let dialect = if ok.features.has(Feature::Ack) { Dialect::Two } else { Dialect::One };
        self.outbound.results =
            self.settings.submits && dialect == Dialect::Two && ok.features.has(Feature::Results);
        if dialect == Dialect::One && !self.settings.allow_tunnel_1 {
            self.notice(Notice::TunnelOneRefused);
            return self.close(CLOSE_NORMAL, "tunnel_1_refused");
        }
        self.phase = Phase::Open {
            dialect,
            replay: ok.features.has(Feature::Replay),
            next_ping: now + self.settings.heartbeat_every,
            last_heard: now,
        };
        let replaced = ok.replaced_socket_id.is_some();
        self.outputs.push_back(Output::Ready {
            dialect,
            replaced,
            relay_keys: ok.relay_keys.clone(),
            aliases: ok.aliases.clone(),
            domains: ok.domains.clone(),
        });
    }

    fn start(&mut self, id: String, start: StartBody) {
        if self.streams.remove(&id).is_some() {
            self.outputs.push_back(Output::Abandon { stream: id.clone() });
        }
        let items_max = match usize::try_from(self.settings.credit.items) {
            Ok(items) if self.acks() => items.saturating_mul(CREDIT_SLACK),
            Ok(_) | Err(_) => LEGACY_STREAMS_MAX,
        };
        if self.streams.len() + self.awaiting.len() >= items_max {
            self.notice(Notice::Violation("more items in flight than the credit allows"));
            return self.close(CLOSE_PROTOCOL, "credit_exceeded");
        }
        if self.acks() && start.item_id.as_deref().unwrap_or_default().is_empty() {
            self.notice(Notice::Violation("smtp_start without itemId"));
            return self.close(CLOSE_PROTOCOL, "invalid_tunnel_frame");
        }
        if let Some(seq) = start.seq {
            let expected = self.position.seq.saturating_add(1);
            if self.position.seq != 0 && seq > expected {
                self.notice(Notice::Gap { expected, got: seq });
            }
        }
        let mut want = Want::Keep;
        let item_bytes_max = self.settings.credit.item_bytes_max.unwrap_or(u64::MAX);
        if start.size.is_some_and(|size| size > item_bytes_max) {
            want = Want::Discard(too_large(item_bytes_max));
        } else {
            self.outputs.push_back(Output::Begin {
                stream: id.clone(),
                offer: Offer {
                    item_id: start.item_id.clone().unwrap_or_default(),
                    seq: start.seq.unwrap_or_default(),
                    mail_from: start.mail_from.clone(),
                    rcpt_to: start.rcpt_to.clone(),
                    size_bytes: start.size,
                    attestation: start.auth_attestation.clone(),
                    receipt: start.receipt.clone(),
                    chain: stream::read_hash(start.chain.as_deref()),
                    announced: announced(&start),
                },
            });
        }
        self.streams.insert(id, Stream::new(start, want));
    }

    fn chunk(&mut self, id: String, bytes: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.take(&bytes);
        let limit = self.settings.credit.item_bytes_max.unwrap_or(u64::MAX);
        if stream.bytes > limit.min(stream.start.size.unwrap_or(u64::MAX))
            && matches!(stream.want, Want::Keep)
        {
            // Too long for us, or longer than announced: whatever follows is not kept; the end decides.
            stream.want = Want::Discard(too_large(limit));
            self.outputs.push_back(Output::Abandon { stream: id });
            return;
        }
        if matches!(stream.want, Want::Keep) && !bytes.is_empty() {
            self.outputs.push_back(Output::Append { stream: id, bytes });
        }
    }

    fn end(&mut self, id: &str) {
        let Some(stream) = self.streams.remove(id) else { return };
        let item_id = stream.start.item_id.clone().unwrap_or_default();
        let kept = matches!(stream.want, Want::Keep);
        let done = match stream.finish() {
            Ok(done) => done,
            Err(problem) => {
                self.notice(Notice::Damaged { item_id: item_id.clone(), problem });
                if kept {
                    self.outputs.push_back(Output::Abandon { stream: id.to_owned() });
                }
                self.awaiting.insert(item_id.clone(), String::new());
                return self.verdict(&item_id, Verdict::Later { retry_after: Duration::ZERO });
            }
        };
        self.advance(&item_id, &done);
        let received = done.received();
        if self.acks() {
            self.awaiting.insert(item_id.clone(), done.sha256);
        }
        match done.want {
            Want::Keep => {
                self.outputs.push_back(Output::Complete { stream: id.to_owned(), received });
            }
            Want::Discard(verdict) => self.verdict(&item_id, verdict),
        }
    }

    /// Moves the lane position on and compares chains.
    fn advance(&mut self, item_id: &str, done: &Done) {
        let Some(seq) = done.seq else { return };
        if seq <= self.position.seq {
            return;
        }
        if seq == self.position.seq + 1 && !done.continues(self.position.chain, item_id) {
            self.notice(Notice::ChainBroken { seq });
        }
        self.position = LanePosition { seq, chain: done.chain };
    }

    fn garbage(&mut self, problem: String) {
        self.notice(Notice::Garbage(problem));
        if !self.is_open() {
            self.close(CLOSE_PROTOCOL, "invalid_message");
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }

    fn close(&mut self, code: u16, reason: &'static str) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            self.outputs.push_back(Output::Close { code, reason });
        }
    }
}

/// The body that a start body announces, if it does.
fn announced(start: &StartBody) -> Option<Received> {
    let size = start.size?.checked_sub(start.trace_bytes.unwrap_or(0))?;
    Some(Received { sha256: stream::read_hash(start.sha256.as_deref())?, size, head_sha256: None })
}

fn too_large(limit: u64) -> Verdict {
    Verdict::Refused { reason: format!("larger than the gateway's limit of {limit} bytes") }
}
