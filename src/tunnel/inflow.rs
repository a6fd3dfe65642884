//! Streams that a gateway sends towards us, and what it says about results, as ordered work for the lane (sans I/O).
//!
//! `start -> chunk... -> end | abort`. A frame becomes one [`OutboundPiece`]; one piece is under way at a time, and
//! the session reads no further while one of a stream is ([`Inflow::is_full`]), so that a session holds one frame of
//! its gateway's mail and no more. Acks of results gather meanwhile, and share one commit.
//!
//! Promises: the reader rules of the protocol (section 5.3); at most [`STREAMS_MAX`] open streams of at most
//! [`STREAM_BYTES_MAX`] bytes, each given up after [`STREAM_PATIENCE`] of silence; no body bytes kept but those of
//! the frame in hand; empty when nothing is going on.
//!
//! Does not know what a stream carries.
//!
//! Failure policy: frames of streams that are not open are ignored and noted; the session goes on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::frame::Frame;
use super::session::OutboundPiece;

/// Most streams open at a time in one session.
pub(super) const STREAMS_MAX: usize = 16;
/// Most bytes in one stream.
pub(super) const STREAM_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long a stream may stand still before it is given up.
pub(super) const STREAM_PATIENCE: Duration = Duration::from_secs(300);
/// Most acks of results that wait for the lane; beyond it nothing is read.
const TOLD_MAX: usize = 128;

/// What a frame led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Work for the lane.
    Noted,
    /// The stream was never started, or was given up before.
    Ignored(String),
    /// There is no room for this one.
    TooMany(String),
}

/// The streams that are open, and the work they make.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    open: Vec<Open>,
    waiting: VecDeque<OutboundPiece>,
    told: Vec<String>,
    /// There may be results to tell.
    look: bool,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct Open {
    stream: String,
    bytes: u64,
    touched: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnderWay {
    Stream,
    Results,
}

impl Inflow {
    /// One frame of the gateway.
    pub(super) fn hear(&mut self, frame: Frame, now: Instant) -> Heard {
        let piece = match frame {
            Frame::Start { stream, start } => {
                match self.find(&stream) {
                    Some(at) => self.open[at] = Open { stream: stream.clone(), bytes: 0, touched: now },
                    None if self.open.len() >= STREAMS_MAX => return Heard::TooMany(stream),
                    None => self.open.push(Open { stream: stream.clone(), bytes: 0, touched: now }),
                }
                OutboundPiece::Start { stream, start: Box::new(start) }
            }
            Frame::Chunk { stream, bytes } => {
                let Some(at) = self.find(&stream) else { return Heard::Ignored(stream) };
                let open = &mut self.open[at];
                open.touched = now;
                open.bytes = open.bytes.saturating_add(bytes.len() as u64);
                if open.bytes > STREAM_BYTES_MAX {
                    self.forget(at);
                    OutboundPiece::TooLarge { stream, limit_bytes: STREAM_BYTES_MAX }
                } else {
                    OutboundPiece::Chunk { stream, bytes }
                }
            }
            Frame::End { stream } => {
                let Some(at) = self.find(&stream) else { return Heard::Ignored(stream) };
                self.forget(at);
                OutboundPiece::End { stream }
            }
            Frame::Abort { stream, .. } => {
                let Some(at) = self.find(&stream) else { return Heard::Ignored(stream) };
                self.forget(at);
                OutboundPiece::Abort { stream }
            }
        };
        self.waiting.push_back(piece);
        Heard::Noted
    }

    /// The gateway has noted a result.
    pub(super) fn told(&mut self, result: String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(result);
        }
    }

    /// There may be results to tell.
    pub(super) fn look(&mut self) {
        self.look = true;
    }

    /// The next piece for the lane, when none is under way.
    pub(super) fn next(&mut self) -> Option<OutboundPiece> {
        if self.under_way.is_some() {
            return None;
        }
        if let Some(piece) = self.waiting.pop_front() {
            self.under_way = Some(UnderWay::Stream);
            return Some(piece);
        }
        if self.look || !self.told.is_empty() {
            self.look = false;
            self.under_way = Some(UnderWay::Results);
            return Some(OutboundPiece::Results { told: std::mem::take(&mut self.told) });
        }
        if self.waiting.capacity() > 0 {
            // An idle session keeps no memory of busy times.
            self.waiting = VecDeque::new();
        }
        None
    }

    /// The lane has done its piece.
    pub(super) fn done(&mut self) {
        self.under_way = None;
    }

    /// The lane wants no more of this stream. False when it was not open.
    pub(super) fn give_up(&mut self, stream: &str) -> bool {
        let found = self.find(stream);
        if let Some(at) = found {
            self.forget(at);
        }
        found.is_some()
    }

    /// Gives up what has stood still for too long; one stream at a time, until `None`.
    pub(super) fn take_silent(&mut self, now: Instant) -> Option<String> {
        let at = self.open.iter().position(|open| now >= open.touched + STREAM_PATIENCE)?;
        let stream = self.forget(at);
        self.waiting.push_back(OutboundPiece::Abort { stream: stream.clone() });
        Some(stream)
    }

    /// When [`Inflow::take_silent`] has something to do if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.touched + STREAM_PATIENCE).min()
    }

    /// Read no further.
    pub(super) fn is_full(&self) -> bool {
        !self.waiting.is_empty() || self.under_way == Some(UnderWay::Stream) || self.told.len() >= TOLD_MAX
    }

    /// Nothing is under way, and nothing waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.is_none() && self.waiting.is_empty() && self.told.is_empty()
    }

    /// More of a stream is to come.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Forgets the streams whose end the lane was not given, and names them: nothing of them will be kept.
    pub(super) fn take_half(&mut self) -> Vec<String> {
        let ended = std::mem::take(&mut self.waiting).into_iter().filter_map(|piece| match piece {
            OutboundPiece::End { stream } | OutboundPiece::TooLarge { stream, .. } => Some(stream),
            // A stream that begins or goes on is open, or ends behind this; one that was given up was told so.
            OutboundPiece::Start { .. }
            | OutboundPiece::Chunk { .. }
            | OutboundPiece::Abort { .. }
            | OutboundPiece::Results { .. } => None,
        });
        let open = std::mem::take(&mut self.open).into_iter().map(|open| open.stream);
        ended.chain(open).collect()
    }

    fn find(&self, stream: &str) -> Option<usize> {
        self.open.iter().position(|open| open.stream == stream)
    }

    fn forget(&mut self, at: usize) -> String {
        let stream = self.open.swap_remove(at).stream;
        if self.open.is_empty() {
            self.open = Vec::new();
        }
        stream
    }
}

#[cfg(test)]
mod tests;
