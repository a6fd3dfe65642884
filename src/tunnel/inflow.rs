//! Streams that a gateway sends towards us (sans I/O).
//!
//! This release has nowhere to send them, so their bytes are counted and dropped, and each complete stream
//! is answered by a `failed` result that says so.
//!
//! Promises: the reader rules of the protocol (section 5.3), at most [`STREAMS_MAX`] open streams, no body
//! bytes kept.
//!
//! Failure policy: what does not fit is answered `failed` at once; the session goes on.

use super::control::{RelayDeliveryResult, ToGateway};
use super::frame::Frame;

/// Most streams open at a time in one session.
pub(super) const STREAMS_MAX: usize = 16;
/// Most bytes in one stream.
pub(super) const STREAM_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What a sender is told until this relay delivers to the Internet.
const NO_DELIVERY: &str = "this relay does not send mail yet";

/// What a frame led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing to say.
    Noted,
    /// Answer this.
    Answer(ToGateway),
    /// The stream was never started, or was given up before.
    Ignored,
}

/// The streams that are open.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    stream: String,
    bytes: u64,
}

impl Inflow {
    /// One frame of the gateway.
    pub(super) fn hear(&mut self, frame: Frame) -> Heard {
        match frame {
            Frame::Start { stream, .. } => self.start(stream),
            Frame::Chunk { stream, bytes } => {
                let Some(at) = self.find(&stream) else { return Heard::Ignored };
                let open = &mut self.open[at];
                open.bytes = open.bytes.saturating_add(bytes.len() as u64);
                if open.bytes <= STREAM_BYTES_MAX {
                    return Heard::Noted;
                }
                self.forget(at);
                failed(stream, "message is too large")
            }
            Frame::End { stream } => {
                let Some(at) = self.find(&stream) else { return Heard::Ignored };
                self.forget(at);
                failed(stream, NO_DELIVERY)
            }
            Frame::Abort { stream, .. } => {
                let Some(at) = self.find(&stream) else { return Heard::Ignored };
                self.forget(at);
                Heard::Noted
            }
        }
    }

    fn start(&mut self, stream: String) -> Heard {
        // A start for an open id throws away what was collected.
        if let Some(at) = self.find(&stream) {
            self.open[at].bytes = 0;
        } else if self.open.len() >= STREAMS_MAX {
            return failed(stream, "too many open streams");
        } else {
            self.open.push(Open { stream, bytes: 0 });
        }
        Heard::Noted
    }

    fn find(&self, stream: &str) -> Option<usize> {
        self.open.iter().position(|open| open.stream == stream)
    }

    fn forget(&mut self, at: usize) {
        self.open.swap_remove(at);
        if self.open.is_empty() {
            // An idle session keeps no memory of busy times.
            self.open = Vec::new();
        }
    }
}

fn failed(stream: String, error: &str) -> Heard {
    Heard::Answer(ToGateway::RelayDeliveryResult(RelayDeliveryResult {
        stream_id: stream,
        status: "failed".to_owned(),
        message_id: None,
        error: Some(error.to_owned()),
        result_id: None,
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::frame::StartBody;
    use super::*;

    fn start(stream: &str) -> Frame {
        Frame::Start { stream: stream.into(), start: StartBody::default() }
    }

    fn chunk(stream: &str, bytes: usize) -> Frame {
        Frame::Chunk { stream: stream.into(), bytes: vec![0; bytes].into() }
    }

    fn end(stream: &str) -> Frame {
        Frame::End { stream: stream.into() }
    }

    fn error(heard: &Heard) -> &str {
        match heard {
            Heard::Answer(ToGateway::RelayDeliveryResult(result)) => result.error.as_deref().unwrap(),
            other @ (Heard::Answer(_) | Heard::Noted | Heard::Ignored) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_complete_stream_is_answered_honestly() {
        let mut inflow = Inflow::default();
        assert_eq!(inflow.hear(start("s")), Heard::Noted);
        assert_eq!(inflow.hear(chunk("s", 3)), Heard::Noted);
        assert_eq!(error(&inflow.hear(end("s"))), NO_DELIVERY);
        assert_eq!(inflow.hear(end("s")), Heard::Ignored);
    }

    #[test]
    fn what_was_never_started_is_ignored() {
        let mut inflow = Inflow::default();
        assert_eq!(inflow.hear(chunk("s", 1)), Heard::Ignored);
        assert_eq!(inflow.hear(Frame::Abort { stream: "s".into(), reason: String::new() }), Heard::Ignored);
    }

    #[test]
    fn streams_are_bounded_in_number_and_size() {
        let mut inflow = Inflow::default();
        for n in 0..STREAMS_MAX {
            assert_eq!(inflow.hear(start(&n.to_string())), Heard::Noted);
        }
        assert_eq!(error(&inflow.hear(start("one more"))), "too many open streams");
        assert_eq!(inflow.hear(start("0")), Heard::Noted, "an open id starts again");
        let big = Frame::Chunk { stream: "0".into(), bytes: Bytes::from(vec![0; 1 << 20]) };
        for _ in 0..64 {
            assert_eq!(inflow.hear(big.clone()), Heard::Noted);
        }
        assert_eq!(error(&inflow.hear(big.clone())), "message is too large");
        assert_eq!(inflow.hear(big), Heard::Ignored);
    }
}
