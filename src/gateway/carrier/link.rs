//! The socket to the relay: dialling, reading, writing, leaving, and why it can be lost.
//!
//! Promises: no write takes longer than [`SEND_TIMEOUT`], no goodbye longer than [`CLOSE_TIMEOUT`]; larger messages than
//! the gateway takes are not read.
//!
//! Failure policy: nothing is tried again here; what fails is a [`Lost`], and the carrier comes back with a new socket.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::SinkExt;
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

/// A WebSocket to the relay.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

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
) -> Result<Socket, Lost> {
    let stream = dial::open(endpoint, trust).await?;
    let bytes_max = message_bytes_max.saturating_add(MESSAGE_SLACK_BYTES);
    let config = WebSocketConfig::default().max_message_size(Some(bytes_max)).max_frame_size(Some(bytes_max));
    let request = endpoint.url.as_str().into_client_request()?;
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
    Ok(socket)
}

/// Gives one message from the socket to the session.
pub(super) fn hear(
    message: Option<Result<Ws, tokio_tungstenite::tungstenite::Error>>,
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

/// Queues a message, for a bounded time.
pub(super) async fn feed(socket: &mut Socket, message: Ws) -> Result<(), Lost> {
    timeout(SEND_TIMEOUT, socket.feed(message)).await.map_err(|_| Lost::Stalled)?.map_err(Into::into)
}

/// Sends what is queued, for a bounded time.
pub(super) async fn flush(socket: &mut Socket) -> Result<(), Lost> {
    timeout(SEND_TIMEOUT, socket.flush()).await.map_err(|_| Lost::Stalled)?.map_err(Into::into)
}

/// Says goodbye, for a bounded time; whether it is heard does not matter.
pub(super) async fn close(socket: &mut Socket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
    let _ = timeout(CLOSE_TIMEOUT, socket.close(Some(frame))).await;
}
