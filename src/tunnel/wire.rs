//! One WebSocket with a queue in front of it, polled from one task.
//!
//! Promises: reads while a write is blocked, so that two ends which both write cannot wait for each other
//! for ever, but no further than [`QUEUE_MESSAGES_MAX`] answers ahead; keeps at most [`FLUSH_BYTES`] and one
//! message of ours in the socket's buffer; no compression, no unmasked frames, no message above
//! [`MESSAGE_BYTES_MAX`].
//!
//! Failure policy: the first error ends it; [`Happened::Broken`] names the close code the peer deserves.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Sink, Stream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::gather::{GATHER_BYTES, Gather};
use super::session::Outgoing;

/// Longest message taken from a gateway, bytes. Its own habit is 64 KiB and a header.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Bytes read at a time; allocated for each socket as long as it lives.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Bytes handed to the socket before they are flushed: what leaves in one write.
const FLUSH_BYTES: usize = GATHER_BYTES;
/// Most bytes in the WebSocket's own buffer, which passes everything on at once. The socket answers pings by itself, so a peer that pings and never reads would
/// fill it without this.
const WRITE_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Messages in the queue above which nothing is read: what a peer says makes us answer, and it has to take that.
const QUEUE_MESSAGES_MAX: usize = 64;

/// What a socket reports.
#[derive(Debug)]
pub(super) enum Happened {
    /// A message came.
    Message(Message),
    /// Everything handed over has left our buffers.
    Flushed,
    /// The connection is over.
    Ended,
    /// The peer broke the WebSocket protocol; close with this code.
    Broken(u16),
}

#[derive(Debug)]
pub(super) struct Wire {
    socket: WebSocketStream<Gather<TokioIo<Upgraded>>>,
    queue: VecDeque<Message>,
    /// Bytes handed over since the last flush; `None` when nothing is to be flushed.
    unflushed: Option<usize>,
    over: bool,
}

impl Wire {
    pub(super) async fn new(upgraded: Upgraded) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let stream = Gather::new(TokioIo::new(upgraded));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { socket, queue: VecDeque::new(), unflushed: None, over: false }
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: Outgoing) {
        self.queue.push_back(match message {
            Outgoing::Text(text) => Message::text(text),
            Outgoing::Binary(bytes) => Message::Binary(bytes),
            Outgoing::Ping(payload) => Message::Ping(payload),
        });
    }

    /// Queues a close.
    pub(super) fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.queue.push_back(Message::Close(Some(frame)));
    }

    /// Whether the next message of a stream may be queued: a few small ones gather, so that they leave in one
    /// write, and nothing is queued while the socket is blocked.
    pub(super) fn has_room(&self) -> bool {
        self.unflushed.is_none() && self.queue.iter().map(Message::len).sum::<usize>() < FLUSH_BYTES
    }

    /// The next thing that happens; without `read` only what concerns writing.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Happened> {
        if self.over {
            return Poll::Ready(Happened::Ended);
        }
        match self.poll_write(cx) {
            Poll::Ready(Ok(true)) => return Poll::Ready(Happened::Flushed),
            Poll::Ready(Ok(false)) | Poll::Pending => {}
            Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
        }
        if !read || self.queue.len() >= QUEUE_MESSAGES_MAX {
            return Poll::Pending; // writing wakes us
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => Poll::Ready(Happened::Message(message)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.broken(&error)),
            Poll::Ready(None) => {
                self.over = true;
                Poll::Ready(Happened::Ended)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// `Ok(true)` when the last byte has just left, `Ok(false)` when there was nothing to do.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        let mut worked = false;
        loop {
            let next = self.queue.front().map(Message::len);
            let held = self.unflushed.unwrap_or(0);
            let flush = match next {
                Some(bytes) => self.unflushed.is_some() && held + bytes > FLUSH_BYTES,
                None => self.unflushed.is_some(),
            };
            if flush {
                std::task::ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
                self.unflushed = None;
                worked = true;
            } else if let Some(bytes) = next {
                std::task::ready!(Pin::new(&mut self.socket).poll_ready(cx))?;
                if let Some(message) = self.queue.pop_front() {
                    Pin::new(&mut self.socket).start_send(message)?;
                }
                self.unflushed = Some(held + bytes);
            } else {
                if self.queue.capacity() > 4 {
                    self.queue = VecDeque::new();
                }
                return Poll::Ready(Ok(worked));
            }
        }
    }

    fn broken(&mut self, error: &Error) -> Happened {
        match error {
            Error::Capacity(_) => Happened::Broken(1009),
            Error::Utf8(_) => Happened::Broken(1007),
            Error::Protocol(problem) => {
                tracing::debug!(%problem, "a peer broke the WebSocket protocol");
                Happened::Broken(1002)
            }
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Io(_)
            | Error::Tls(_)
            | Error::WriteBufferFull(_)
            | Error::AttackAttempt
            | Error::Url(_)
            | Error::Http(_)
            | Error::HttpFormat(_) => {
                self.over = true;
                Happened::Ended
            }
        }
    }
}
