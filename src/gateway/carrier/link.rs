//! The socket to the relay: dialling, reading, writing, leaving, and why it can be lost.
//!
//! Promises: reads while a write is blocked, so that two ends which both write cannot wait for each other for ever; no
//! message waits longer than [`SEND_TIMEOUT`] for the relay to take one, no goodbye longer than [`CLOSE_TIMEOUT`]; larger
//! messages than the gateway takes are not read.
//!
//! Failure policy: nothing is tried again here; what fails is a [`Lost`], and the carrier comes back with a new socket.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Ws, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::clock;
use crate::gateway::client::ClientSession;
use crate::gateway::destination::one_line;
use crate::gateway::dial::{self, Endpoint, Stream, Trust};

/// How long one write to the relay may stall before the connection counts as dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a WebSocket message beside the message it carries: frame header, stream id, attestation.
const MESSAGE_SLACK_BYTES: usize = 64 * 1024;

/// Messages waiting to be sent above which nothing is read: what the relay says makes us answer, and it has to take that.
const QUEUE_MESSAGES_MAX: usize = 64;

type Socket = WebSocketStream<Box<dyn Stream>>;
type SocketError = tokio_tungstenite::tungstenite::Error;

/// A WebSocket to the relay, and what waits to be sent.
pub(super) struct Line {
    socket: Socket,
    queue: VecDeque<Ws>,
    /// Something was given to the socket and may not have left.
    unflushed: bool,
    /// Since when the relay takes nothing of what waits; `None` when nothing waits.
    waiting_since: Option<Instant>,
}

/// What a line reports.
pub(super) enum Happened {
    /// The next message, its end, or its error.
    Heard(Option<Result<Ws, SocketError>>),
    /// All that waited has left.
    Flushed,
    /// It cannot be written any more.
    Broken(SocketError),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Dial(#[from] dial::DialError),
    #[error("{0}")]
    Socket(Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the relay closed the connection ({code} {reason})")]
    Closed { code: u16, reason: String },
    #[error("the connection ended without a goodbye")]
    Ended,
    #[error("the relay did not take a message for {} s", SEND_TIMEOUT.as_secs())]
    Stalled,
    #[error("the handshake took too long")]
    Handshake,
    #[error("left the relay: {0}")]
    Left(String),
    #[error("cannot receive into {}: {source}", path.display())]
    Staging { path: PathBuf, source: std::io::Error },
}

impl From<tokio_tungstenite::tungstenite::Error> for Lost {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

/// Dials and makes a WebSocket of it.
pub(super) async fn connect(
    endpoint: &Endpoint,
    trust: &Trust,
    message_bytes_max: usize,
) -> Result<Line, Lost> {
    let stream = dial::open(endpoint, trust).await?;
    let bytes_max = message_bytes_max.saturating_add(MESSAGE_SLACK_BYTES);
    let config = WebSocketConfig::default().max_message_size(Some(bytes_max)).max_frame_size(Some(bytes_max));
    let request = endpoint.url.as_str().into_client_request()?;
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
    Ok(Line { socket, queue: VecDeque::new(), unflushed: false, waiting_since: None })
}

impl Line {
    /// Queues a message.
    pub(super) fn send(&mut self, message: Ws) {
        self.waiting_since.get_or_insert_with(clock::monotonic);
        self.queue.push_back(message);
    }

    /// Nothing waits: the next piece of a message may come.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting_since.is_none()
    }

    /// When the relay has taken nothing for too long.
    pub(super) fn stalled_at(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + SEND_TIMEOUT)
    }

    /// The next thing that happens; without `read` only what concerns writing. Cancelling it loses nothing.
    pub(super) fn next(&mut self, read: bool) -> impl Future<Output = Happened> {
        poll_fn(move |cx| self.poll(cx, read))
    }

    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Happened> {
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Happened::Flushed),
            Poll::Ready(Err(error)) => return Poll::Ready(Happened::Broken(error)),
            Poll::Pending => {}
        }
        if !read || self.queue.len() >= QUEUE_MESSAGES_MAX {
            return Poll::Pending; // what wakes us then is the writing, or the caller
        }
        self.socket.poll_next_unpin(cx).map(Happened::Heard)
    }

    /// Ready when the last of what waited has just left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        while !self.queue.is_empty() {
            std::task::ready!(self.socket.poll_ready_unpin(cx))?;
            if let Some(message) = self.queue.pop_front() {
                self.socket.start_send_unpin(message)?;
                self.unflushed = true;
                self.waiting_since = Some(clock::monotonic());
            }
        }
        if !self.unflushed {
            return Poll::Pending;
        }
        std::task::ready!(self.socket.poll_flush_unpin(cx))?;
        self.unflushed = false;
        self.waiting_since = None;
        Poll::Ready(Ok(()))
    }

    /// Says what waits and goodbye, for a bounded time; whether it is heard does not matter.
    pub(super) async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let goodbye = async {
            for message in std::mem::take(&mut self.queue) {
                self.socket.feed(message).await?;
            }
            self.socket.close(Some(frame)).await
        };
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }
}

/// Gives one message from the socket to the session.
pub(super) fn hear(
    message: Option<Result<Ws, SocketError>>,
    session: &mut ClientSession,
) -> Result<(), Lost> {
    let now = clock::monotonic();
    match message {
        None => return Err(Lost::Ended),
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(Ws::Text(text))) => session.handle_text(&text, now),
        Some(Ok(Ws::Binary(bytes))) => session.handle_binary(&bytes, now),
        Some(Ok(Ws::Ping(_) | Ws::Pong(_) | Ws::Frame(_))) => session.handle_alive(now),
        Some(Ok(Ws::Close(frame))) => {
            let (code, reason) =
                frame.map_or((1005, String::new()), |frame| (frame.code.into(), one_line(&frame.reason)));
            return Err(Lost::Closed { code, reason });
        }
    }
    Ok(())
}
