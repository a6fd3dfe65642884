//! Submissions on their way to the relay: several streams at a time, one piece of one message in hand.
//!
//! 1. [`ClientSession::submit`] begins a stream under the submission's own id, which never changes.
//! 2. [`ClientSession::pull`] asks for one piece, in turn for each open stream, so that a small message does not
//!    wait behind a large one; [`ClientSession::piece`] brings it. No more than one is outstanding, ever.
//! 3. Behind the last piece [`Output::Seal`] makes the driver note that the next octets complete the message;
//!    [`ClientSession::sealed`] lets them go.
//! 4. The answer is `outbound_accepted`, a result, an `smtp_abort` (not now) or silence.
//!
//! With a relay that took the feature `results` the stream id is an idempotency key: whatever is unanswered when a
//! session ends may be sent again. Any other relay forgets ids; there [`Output::Seal`] says that the completed stream
//! cannot be repeated, and no text is ever sent to it.
//!
//! Bounded: [`STREAMS_OPEN_MAX`] streams being sent, [`UNANSWERED_MAX`] that nobody has answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::{ClientSession, End, Notice, Output, Phase, Submission, Submitted};
use crate::gateway::destination::one_line;
use crate::tunnel::Dialect;
use crate::tunnel::control::{DeliveryResultAck, OutboundAccepted, RelayDeliveryResult, ToRelay};
use crate::tunnel::frame::{Frame, StartBody};

/// Streams being sent at one time.
pub const STREAMS_OPEN_MAX: usize = 4;
/// Streams that are being sent or wait for their first answer; a relay takes sixteen.
pub const UNANSWERED_MAX: usize = 12;
/// How long a relay with `results` may take to answer a complete stream before it is offered again.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// How long any other relay is waited for before its silence is an answer (mail-tunnel protocol, section 7.4).
pub const LEGACY_PATIENCE: Duration = Duration::from_secs(20);

/// The outbound half of a session.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// The relay took the feature `results`.
    pub(super) results: bool,
    /// The relay is about to go: nothing new is begun.
    pub(super) draining: bool,
    /// Streams with pieces to send or to be sealed; the front one is next.
    sending: VecDeque<Sending>,
    /// The stream a piece of which was asked for and has not come.
    reading: Option<String>,
    /// Complete streams without an answer, oldest first.
    awaiting: VecDeque<Awaiting>,
}

#[derive(Debug)]
struct Sending {
    submission: Submission,
    /// The next piece to ask for.
    next: usize,
    sealing: bool,
}

#[derive(Debug)]
struct Awaiting {
    stream: String,
    since: Instant,
}

/// A piece of a submission that the machine wants: number `n`, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The submission's stream.
    pub stream: String,
    /// Which piece.
    pub n: usize,
}

impl Outbound {
    fn patience(&self) -> Duration {
        if self.results { ANSWER_PATIENCE } else { LEGACY_PATIENCE }
    }

    /// When a wait for an answer ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.awaiting.front().map(|oldest| oldest.since + self.patience())
    }

    fn sending(&mut self, stream: &str) -> Option<&mut Sending> {
        self.sending.iter_mut().find(|sending| sending.submission.stream == stream)
    }

    /// Takes a stream out of everything; true if it was still being sent.
    fn forget(&mut self, stream: &str) -> bool {
        let before = self.sending.len();
        self.sending.retain(|sending| sending.submission.stream != stream);
        self.awaiting.retain(|awaiting| awaiting.stream != stream);
        self.sending.len() < before
    }

    fn knows(&self, stream: &str) -> bool {
        self.sending.iter().any(|sending| sending.submission.stream == stream)
            || self.awaiting.iter().any(|awaiting| awaiting.stream == stream)
    }
}

impl ClientSession {
    /// How many more submissions [`ClientSession::submit`] takes now.
    #[must_use]
    pub fn submission_room(&self) -> usize {
        if !self.is_open() || !self.settings.submits || self.outbound.draining {
            return 0;
        }
        let unanswered = self.outbound.sending.len() + self.outbound.awaiting.len();
        let open = STREAMS_OPEN_MAX.saturating_sub(self.outbound.sending.len());
        open.min(UNANSWERED_MAX.saturating_sub(unanswered))
    }

    /// Begins to send a submission. Does nothing without room, or when it is under way already.
    pub fn submit(&mut self, submission: Submission) {
        if self.submission_room() == 0 || self.outbound.knows(&submission.stream) {
            return;
        }
        let mut start = StartBody {
            mail_from: submission.mail_from.clone(),
            rcpt_to: submission.rcpt_to.clone(),
            ..StartBody::default()
        };
        if self.acks() {
            start.size = Some(submission.size_bytes);
            start.sha256 = Some(HEXLOWER.encode(&submission.sha256));
        }
        let stream = submission.stream.clone();
        if !self.frame(&Frame::Start { stream: stream.clone(), start }) {
            return self.outputs.push_back(Output::Submitted(Submitted::Unsendable { stream }));
        }
        let sealing = submission.pieces == 0;
        self.outbound.sending.push_back(Sending { submission, next: 0, sealing });
        if sealing {
            self.seal(stream);
        }
    }

    /// The piece to bring next by [`ClientSession::piece`]; `None` while one is on its way, or nothing is to be sent.
    pub fn pull(&mut self) -> Option<Wanted> {
        if self.outbound.reading.is_some() || !self.is_open() {
            return None;
        }
        let at = self.outbound.sending.iter().position(|sending| !sending.sealing)?;
        let mut sending = self.outbound.sending.remove(at)?;
        let wanted = Wanted { stream: sending.submission.stream.clone(), n: sending.next };
        sending.next += 1;
        self.outbound.sending.push_back(sending);
        self.outbound.reading = Some(wanted.stream.clone());
        Some(wanted)
    }

    /// A piece that was asked for. One of a stream that has been answered meanwhile is dropped.
    pub fn piece(&mut self, stream: &str, bytes: Bytes) {
        self.outbound.reading = None;
        let Some(sending) = self.outbound.sending(stream) else { return };
        sending.sealing = sending.next >= sending.submission.pieces;
        let last = sending.sealing;
        if !self.frame(&Frame::Chunk { stream: stream.to_owned(), bytes }) {
            return self.withdraw(stream, "unsendable");
        }
        if last {
            self.seal(stream.to_owned());
        }
    }

    /// A piece cannot be had, or the submission is not to be sent any more: the relay is told to forget it.
    pub fn withdraw(&mut self, stream: &str, reason: &str) {
        self.outbound.reading.take_if(|reading| reading == stream);
        if self.outbound.forget(stream) {
            self.abort(stream, reason);
        }
    }

    /// What [`Output::Seal`] asked for is on stable storage: the message may be completed.
    pub fn sealed(&mut self, stream: &str, now: Instant) {
        if self.outbound.sending(stream).is_none() || !self.is_open() {
            return;
        }
        self.outbound.forget(stream);
        self.frame(&Frame::End { stream: stream.to_owned() });
        self.outbound.awaiting.push_back(Awaiting { stream: stream.to_owned(), since: now });
    }

    /// A result is on stable storage here: the relay need not repeat it.
    pub fn result_noted(&mut self, result_id: &str) {
        if self.outbound.results && self.is_open() && !result_id.is_empty() {
            let ack = ToRelay::DeliveryResultAck(DeliveryResultAck { result_id: result_id.to_owned() });
            self.outputs.push_back(Output::Text(ack.to_text()));
        }
    }

    pub(super) fn outbound_accepted(&mut self, accepted: OutboundAccepted) {
        let OutboundAccepted { stream_id: stream, submission_id, receipt } = accepted;
        if !self.outbound.results {
            return self.notice(Notice::Garbage("outbound_accepted without the feature".to_owned()));
        }
        self.answered(&stream);
        let submission_id = one_line(&submission_id);
        self.outputs.push_back(Output::Submitted(Submitted::Accepted { stream, submission_id, receipt }));
    }

    pub(super) fn delivery_result(&mut self, result: RelayDeliveryResult) {
        let end = match result.status.as_str() {
            "sent" => End::Sent,
            "failed" => End::Failed,
            "indeterminate" => End::Indeterminate,
            _ => return self.notice(Notice::Garbage("a result that is none of the three".to_owned())),
        };
        self.answered(&result.stream_id);
        let text = result.error.or(result.message_id).unwrap_or_default();
        self.outputs.push_back(Output::Submitted(Submitted::Ended {
            stream: result.stream_id,
            end,
            text: one_line(&text),
            result_id: result.result_id.unwrap_or_default(),
        }));
    }

    /// `smtp_abort` of one of our streams: the relay cannot take it now. False when it is none of ours.
    pub(super) fn not_now(&mut self, stream: &str, reason: &str) -> bool {
        if !self.outbound.knows(stream) {
            return false;
        }
        self.outbound.forget(stream);
        let (stream, reason) = (stream.to_owned(), one_line(reason));
        self.outputs.push_back(Output::Submitted(Submitted::Later { stream, reason }));
        true
    }

    /// Time has passed: who waits too long for an answer waits no more.
    pub(super) fn outbound_timeout(&mut self, now: Instant) {
        while self.outbound.deadline().is_some_and(|at| now >= at) {
            let Some(Awaiting { stream, .. }) = self.outbound.awaiting.pop_front() else { return };
            let silent = if self.outbound.results {
                Submitted::Later { stream, reason: "the relay does not answer".to_owned() }
            } else {
                Submitted::Silent { stream }
            };
            self.outputs.push_back(Output::Submitted(silent));
        }
    }

    fn answered(&mut self, stream: &str) {
        if self.outbound.forget(stream) {
            // It knew before it had seen everything: the rest need not travel.
            self.abort(stream, "answered");
        }
    }

    fn seal(&mut self, stream: String) {
        self.outputs.push_back(Output::Seal { stream, repeatable: self.outbound.results });
    }

    fn abort(&mut self, stream: &str, reason: &str) {
        if matches!(self.phase, Phase::Open { dialect: Dialect::Two, .. }) {
            self.frame(&Frame::Abort { stream: stream.to_owned(), reason: reason.to_owned() });
        }
    }

    fn frame(&mut self, frame: &Frame) -> bool {
        let bytes = frame.encode();
        let sendable = bytes.is_ok();
        self.outputs.extend(bytes.ok().map(Output::Binary));
        sendable
    }
}

#[cfg(test)]
mod tests;
