//! Gateways of a load: they log in, take what comes, ack it, and know which message was which.
//!
//! They speak the tunnel's own frames and store nothing: what is measured is the relay.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::server::key;
use super::smtp;
use crate::tunnel::Dialect;
use crate::tunnel::control::{CONTROL_BYTES_MAX, DeliveryResultAck, ToGateway, ToRelay};
use crate::tunnel::frame::{Frame, StartBody};

/// Longest wait for one answer of a login.
const LOGIN_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes a socket reads at once: much where much comes, little where there are very many.
const READ_BYTES: usize = 128 * 1024;
const READ_BYTES_OF_MANY: usize = 4 * 1024;
/// From so many gateways on they are very many.
const MANY: u32 = 1000;
/// Bytes of acks that may wait for each other.
const ACK_BYTES: usize = 8 * 1024;
/// Gateways behind one address of loopback: fewer than there are ports.
const PER_ADDRESS: u32 = 20_000;

/// One logged in.
pub(super) struct Gateway {
    socket: WebSocketStream<TcpStream>,
    dialect: Dialect,
    /// The stream that is coming in.
    item: Option<String>,
    /// Its first bytes, [`Gateway::keeps`] of them.
    head: Vec<u8>,
    keeps: usize,
}

/// A message that came whole and was not acked yet.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// Number of the message, if it is one of [`smtp::send`].
    pub(super) number: Option<u64>,
    /// All its bytes, the relay's own head too, from a gateway that [keeps](Gateway::keep_messages) messages.
    pub(super) message: Vec<u8>,
    /// Its item, in tunnel 2.
    pub(super) item: Option<String>,
}

/// Bytes of a message that are kept until its number is known.
const HEAD_BYTES: usize = 2048;

impl Gateway {
    /// Logs gateway `n` in; from an address of its own when there are very many.
    pub(super) async fn login(relay: SocketAddr, n: u32, dialect: Dialect) -> anyhow::Result<Self> {
        let features = if dialect == Dialect::Two { r#","features":["ack","batch"]"# } else { "" };
        Self::login_with(relay, n, dialect, features).await
    }

    /// Logs gateway `n` in for a session that only submits.
    pub(super) async fn login_to_submit(relay: SocketAddr, n: u32) -> anyhow::Result<Self> {
        let more = r#","sessionRole":"outbound","features":["ack","results"]"#;
        Self::login_with(relay, n, Dialect::Two, more).await
    }

    /// `more` is added to the request.
    async fn login_with(relay: SocketAddr, n: u32, dialect: Dialect, more: &str) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if n >= PER_ADDRESS {
            let last = u8::try_from(1 + n / PER_ADDRESS).context("too many gateways for loopback")?;
            socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
        }
        let stream = socket.connect(relay).await?;
        stream.set_nodelay(true)?;
        let read_bytes = if n < MANY { READ_BYTES } else { READ_BYTES_OF_MANY };
        let config = WebSocketConfig::default().read_buffer_size(read_bytes).write_buffer_size(ACK_BYTES);
        let url = format!("ws://{relay}/ws");
        let dialed = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
        let (socket, _) = dialed.context("the tunnel does not open")?;
        let mut this = Self { socket, dialect, item: None, head: Vec::new(), keeps: HEAD_BYTES };
        let key = key(n);
        let text = key.key_text();
        let request = format!(r#"{{"type":"auth_challenge_request","publicKeyBase32":"{text}"{more}}}"#);
        this.socket.send(Message::text(request)).await?;
        let challenge = this.said().await?;
        let word = |name: &str| challenge[name].as_str().with_context(|| format!("no {name}: {challenge}"));
        let signature = BASE64.encode(&key.sign(word("challengeText")?.as_bytes()));
        let answer = format!(
            r#"{{"type":"auth_challenge_response","publicKeyBase32":"{text}","challengeId":"{}","signatureBase64":"{signature}"}}"#,
            word("challengeId")?
        );
        this.socket.send(Message::text(answer)).await?;
        let answer = this.said().await?;
        anyhow::ensure!(answer["type"] == "auth_ok", "no login: {answer}");
        Ok(this)
    }

    async fn said(&mut self) -> anyhow::Result<Value> {
        loop {
            let next = tokio::time::timeout(LOGIN_PATIENCE, self.socket.next()).await;
            match next.context("the relay is silent")?.context("the relay hung up")?? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Binary(_)
                | Message::Ping(_)
                | Message::Pong(_)
                | Message::Close(_)
                | Message::Frame(_) => {}
            }
        }
    }

    /// From now on arrivals come with all their bytes.
    pub(super) fn keep_messages(&mut self) {
        self.keeps = usize::MAX;
    }

    /// The next message that is whole; `None` when the connection has ended. Pings are answered on the way.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Arrival>> {
        loop {
            // Acks leave together, before it waits.
            let next = match self.socket.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.socket.flush().await?;
                    self.socket.next().await
                }
            };
            let Some(message) = next else { return Ok(None) };
            match message? {
                Message::Binary(bytes) => {
                    if let Some(arrival) = self.frame(&bytes)? {
                        return Ok(Some(arrival));
                    }
                }
                Message::Close(_) => return Ok(None),
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    fn frame(&mut self, bytes: &Bytes) -> anyhow::Result<Option<Arrival>> {
        match Frame::decode(bytes, self.dialect)? {
            Frame::Start { start, .. } => {
                self.item = start.item_id;
                self.head.clear();
            }
            Frame::Chunk { bytes: body, .. } => {
                let room = self.keeps.saturating_sub(self.head.len());
                self.head.extend_from_slice(&body[..room.min(body.len())]);
            }
            Frame::End { .. } => {
                let number = smtp::number(&self.head);
                let message =
                    if self.keeps == HEAD_BYTES { Vec::new() } else { std::mem::take(&mut self.head) };
                return Ok(Some(Arrival { number, message, item: self.item.take() }));
            }
            Frame::Abort { .. } => self.item = None,
        }
        Ok(None)
    }

    /// Says that it is stored, at the latest before it waits for the next. In tunnel 1 the pong that the socket sends by itself says so.
    pub(super) async fn ack(&mut self, arrival: &Arrival) -> anyhow::Result<()> {
        if let Some(item) = &arrival.item {
            let ack = format!(r#"{{"type":"item_ack","itemId":"{item}","status":"stored"}}"#);
            self.socket.feed(Message::text(ack)).await?;
        }
        Ok(())
    }

    /// Submits one message.
    pub(super) async fn submit(
        &mut self,
        stream: &str,
        mail_from: &str,
        rcpt_to: &str,
        message: Vec<u8>,
    ) -> anyhow::Result<()> {
        let (mail_from, rcpt_to) = (mail_from.to_owned(), rcpt_to.to_owned());
        let start = StartBody { mail_from, rcpt_to, ..StartBody::default() };
        let stream = stream.to_owned();
        for frame in [
            Frame::Start { stream: stream.clone(), start },
            Frame::Chunk { stream: stream.clone(), bytes: Bytes::from(message) },
            Frame::End { stream },
        ] {
            self.socket.send(Message::Binary(frame.encode()?)).await?;
        }
        Ok(())
    }

    /// What the relay says next, in words; `None` when the connection has ended.
    pub(super) async fn heard(&mut self) -> anyhow::Result<Option<ToGateway>> {
        loop {
            let Some(message) = self.socket.next().await else { return Ok(None) };
            match message? {
                Message::Text(text) => return Ok(Some(ToGateway::parse(&text, CONTROL_BYTES_MAX)?)),
                Message::Close(_) => return Ok(None),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Says that a result has been noted.
    pub(super) async fn noted(&mut self, result_id: String) -> anyhow::Result<()> {
        let ack = ToRelay::DeliveryResultAck(DeliveryResultAck { result_id });
        Ok(self.socket.send(Message::text(ack.to_text())).await?)
    }

    /// Hangs up as a gateway does that is shut down.
    pub(super) async fn close(mut self) {
        // The relay may be gone already; nothing depends on a polite end.
        let _ = self.socket.close(None).await;
    }
}
