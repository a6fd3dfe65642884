//! What the gateway submits: pieces to the lane, the lane's words back.
//!
//! Promises: a gateway without the feature `results` hears `sent` and `failed` only, and a ping behind each, whose pong
//! proves that it read the word; one with it hears every result under its name until it acks.
//!
//! Failure policy: what the lane cannot take now is told as `smtp_abort` in tunnel 2. Tunnel 1 has no word for that, and
//! its gateway takes silence for success: it hears `failed`, also of what the end of a session cuts off. It may send the
//! whole mail again then, and the lane knows what of it it has already.

use super::{Note, OutboundWord, Outgoing, Output, Phase, ResultStatus, Session};
use crate::tunnel::Dialect;
use crate::tunnel::control::{Feature, OutboundAccepted, RelayDeliveryResult, ToGateway};
use crate::tunnel::frame::Frame;

/// What a ping behind a result begins with; its name follows.
const RESULT_PING: &str = "result ";
/// What a gateway is told that opens too many streams.
const TOO_MANY: &str = "too many open streams";
/// In front of what a gateway of tunnel 1 is told (RFC 3463): there is no room, the rest did not come, the session ends.
const NO_ROOM: &str = "4.3.1";
pub(super) const NO_REST: &str = "4.4.2";
const NO_SESSION: &str = "4.3.2";

/// The result that a pong speaks of.
pub(super) fn result_of_pong(text: &str) -> Option<&str> {
    text.strip_prefix(RESULT_PING)
}

impl Session {
    /// Gives the lane its next piece.
    pub(super) fn hand_over(&mut self) {
        if self.lane_lost || self.phase == Phase::Closed {
            return;
        }
        if let Some(piece) = self.inflow.next() {
            self.out.push_back(Output::Outbound(piece));
        }
    }

    pub(super) fn words(&mut self, words: Vec<OutboundWord>) {
        self.inflow.done();
        for word in words {
            match word {
                OutboundWord::Accepted { stream, submission, receipt }
                    if self.features.has(Feature::Results) =>
                {
                    self.say(&ToGateway::OutboundAccepted(OutboundAccepted {
                        stream_id: stream,
                        submission_id: submission,
                        receipt,
                    }));
                }
                OutboundWord::Accepted { .. } => {}
                OutboundWord::Result { stream, status, message_id, error, result } => {
                    let said = RelayDeliveryResult {
                        stream_id: stream,
                        status: status.word().to_owned(),
                        message_id,
                        error,
                        result_id: result,
                    };
                    self.result(status, said);
                }
                OutboundWord::NotNow { stream, reason } => {
                    self.inflow.give_up(&stream);
                    self.not_now(stream, NO_ROOM, &reason);
                }
            }
        }
    }

    fn result(&mut self, status: ResultStatus, mut said: RelayDeliveryResult) {
        if self.features.has(Feature::Results) {
            return self.say(&ToGateway::RelayDeliveryResult(said));
        }
        if status == ResultStatus::Indeterminate {
            return;
        }
        let result = said.result_id.take();
        self.say(&ToGateway::RelayDeliveryResult(said));
        if let Some(result) = result {
            let ping = format!("{RESULT_PING}{result}").into_bytes();
            self.out.push_back(Output::Send(Outgoing::Ping(ping.into())));
        }
    }

    /// A stream beyond the limit.
    pub(super) fn too_many(&mut self, stream: String) {
        self.note(Note::StreamRefused(stream.clone()));
        match self.dialect {
            Dialect::Two => self.abort(stream, TOO_MANY),
            Dialect::One => self.fail(stream, TOO_MANY.to_owned()),
        }
    }

    /// A stream of which nothing is kept; `code` says to tunnel 1 of what kind the reason is.
    pub(super) fn not_now(&mut self, stream: String, code: &str, reason: &str) {
        match self.dialect {
            Dialect::Two => self.abort(stream, reason),
            Dialect::One => self.fail(stream, format!("{code} {}", super::one_line(reason))),
        }
    }

    /// The session ends: half a stream is nothing. A gateway of tunnel 2 knows that and has a name to send it again by.
    pub(super) fn fail_half(&mut self, reason: &str) {
        if self.dialect == Dialect::One {
            let why = reason.replace('_', " ");
            for stream in self.inflow.take_half() {
                self.not_now(stream, NO_SESSION, &format!("not all of the mail was here: {why}"));
            }
        }
    }

    fn abort(&mut self, stream: String, reason: &str) {
        self.send_abort(Some(Frame::Abort { stream, reason: super::one_line(reason) }));
    }

    /// Tunnel 1 is told once, without a name: there is nothing that could be told again.
    fn fail(&mut self, stream: String, error: String) {
        self.say(&ToGateway::RelayDeliveryResult(RelayDeliveryResult {
            stream_id: stream,
            status: ResultStatus::Failed.word().to_owned(),
            message_id: None,
            error: Some(error),
            result_id: None,
        }));
    }
}
