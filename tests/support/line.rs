//! A gateway's line to a relay, written against the protocol alone: it submits, and writes down what it is told.
//!
//! What was heard outlives the connection: several lines of one gateway, one after the other, share a [`Log`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use waystation::identity::key::SecretKey;
use waystation::tunnel::Dialect;
use waystation::tunnel::frame::{Frame, StartBody};

/// Longest wait for a login.
const LOGIN_PATIENCE: Duration = Duration::from_secs(20);
/// Body bytes of one frame, as the original gateway cuts them.
const CHUNK: usize = 64 * 1024;

/// How a gateway behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// An unmodified gateway: tunnel 1.
    One,
    /// Tunnel 2, and every result is acked.
    Two,
    /// Tunnel 2, and no result is ever acked.
    TwoWithoutAcks,
    /// Tunnel 2, and every mail is refused for good, in the words of a server behind it.
    Refusing,
}

/// Those words.
pub(crate) const REFUSAL: &str = "550 5.1.1 <eve.secret@home.test> has moved";

/// A text message of the relay.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Which line of this log heard it, from 1.
    pub(crate) line: usize,
    /// Its exact bytes.
    pub(crate) text: String,
    pub(crate) value: Value,
}

/// What a gateway has heard over all its lines.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    lines: usize,
    told: Vec<Told>,
    /// Whole inbound mails.
    mails: Vec<Vec<u8>>,
    /// Close codes and reasons.
    closed: Vec<(u16, String)>,
}

impl Log {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().expect("no panic inside")
    }

    fn of_type(&self, kind: &str) -> Vec<Told> {
        self.heard().told.iter().filter(|told| told.value["type"] == kind).cloned().collect()
    }

    /// Every result, oldest first, with repeats.
    pub(crate) fn results(&self) -> Vec<Told> {
        self.of_type("relay_delivery_result")
    }

    /// Every result of one stream.
    pub(crate) fn results_of(&self, stream: &str) -> Vec<Told> {
        self.results().into_iter().filter(|told| told.value["streamId"] == stream).collect()
    }

    /// The word of the one result of a stream; panics when it was told two different ones.
    pub(crate) fn status(&self, stream: &str) -> Option<String> {
        let all = self.results_of(stream);
        let first = all.first()?;
        for other in &all {
            assert_eq!(other.value["status"], first.value["status"], "two results for {stream}");
        }
        first.value["status"].as_str().map(str::to_owned)
    }

    /// The error text of a stream's result.
    pub(crate) fn error(&self, stream: &str) -> Option<String> {
        self.results_of(stream).first()?.value["error"].as_str().map(str::to_owned)
    }

    /// The submission ids told for a stream, oldest first, with repeats.
    pub(crate) fn accepted(&self, stream: &str) -> Vec<String> {
        let of =
            self.of_type("outbound_accepted").into_iter().filter(|told| told.value["streamId"] == stream);
        of.filter_map(|told| told.value["submissionId"].as_str().map(str::to_owned)).collect()
    }

    /// Every text message, oldest first.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.heard().told.clone()
    }

    /// Whole inbound mails: bounces, here.
    pub(crate) fn mails(&self) -> Vec<Vec<u8>> {
        self.heard().mails.clone()
    }

    /// Close codes and reasons so far.
    pub(crate) fn closed(&self) -> Vec<(u16, String)> {
        self.heard().closed.clone()
    }
}

/// One connection, logged in; it ends when dropped, as a line that drops.
pub(crate) struct Line {
    say: mpsc::UnboundedSender<Message>,
    tasks: [JoinHandle<()>; 2],
    pub(crate) auth_ok: Value,
}

impl Line {
    /// Connects and proves the key.
    ///
    /// # Errors
    /// What went wrong, in words: the relay may be down, and a storm tries again.
    pub(crate) async fn open(
        relay: SocketAddr,
        key: &SecretKey,
        manner: Manner,
        log: &Log,
    ) -> Result<Self, String> {
        let login = login(relay, key, manner);
        let (socket, auth_ok) = tokio::time::timeout(LOGIN_PATIENCE, login)
            .await
            .map_err(|_| "no login in time".to_owned())??;
        let number = {
            let mut heard = log.heard();
            heard.lines += 1;
            heard.lines
        };
        let (mut sink, mut stream) = socket.split();
        let (say, mut to_say) = mpsc::unbounded_channel::<Message>();
        let writer = tokio::spawn(async move {
            while let Some(message) = to_say.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        });
        let (answers, log) = (say.clone(), log.clone());
        let reader = tokio::spawn(async move {
            let mut mail: Option<Mail> = None;
            while let Some(Ok(message)) = stream.next().await {
                for answer in hear(&log, number, manner, message, &mut mail) {
                    let _ = answers.send(answer);
                }
            }
        });
        Ok(Self { say, tasks: [writer, reader], auth_ok })
    }

    /// Whether the relay has not ended it.
    pub(crate) fn is_open(&self) -> bool {
        !self.tasks[1].is_finished() && !self.tasks[0].is_finished()
    }

    /// One whole submission.
    pub(crate) fn submit(&self, stream: &str, mail_from: &str, rcpt_to: &str, message: &[u8]) {
        self.start(stream, mail_from, rcpt_to);
        for chunk in message.chunks(CHUNK) {
            self.chunk(stream, chunk);
        }
        self.end(stream);
    }

    pub(crate) fn start(&self, stream: &str, mail_from: &str, rcpt_to: &str) {
        let (mail_from, rcpt_to) = (mail_from.to_owned(), rcpt_to.to_owned());
        let start = StartBody { mail_from, rcpt_to, ..StartBody::default() };
        self.frame(&Frame::Start { stream: stream.to_owned(), start });
    }

    pub(crate) fn chunk(&self, stream: &str, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.frame(&Frame::Chunk { stream: stream.to_owned(), bytes });
    }

    pub(crate) fn end(&self, stream: &str) {
        self.frame(&Frame::End { stream: stream.to_owned() });
    }

    /// Any frame.
    pub(crate) fn frame(&self, frame: &Frame) {
        self.say(Message::Binary(frame.encode().expect("a frame")));
    }

    /// Any text.
    pub(crate) fn tell(&self, value: &Value) {
        self.say(Message::text(value.to_string()));
    }

    /// Says that a result was noted.
    pub(crate) fn ack_result(&self, result_id: &str) {
        self.tell(&json!({ "type": "delivery_result_ack", "resultId": result_id }));
    }

    fn say(&self, message: Message) {
        // A line that is gone takes everything and carries nothing, as a real one.
        let _ = self.say.send(message);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// An inbound mail that is still coming.
struct Mail {
    stream: String,
    item: Option<String>,
    bytes: Vec<u8>,
}

/// Writes a message down; returns what is to be answered.
fn hear(log: &Log, line: usize, manner: Manner, message: Message, mail: &mut Option<Mail>) -> Vec<Message> {
    match message {
        Message::Text(text) => {
            let text = text.to_string();
            let value: Value = serde_json::from_str(&text).expect("the relay says JSON");
            let result = value["resultId"].as_str().filter(|_| manner == Manner::Two).map(str::to_owned);
            log.heard().told.push(Told { line, text, value });
            let ack =
                |id| Message::text(json!({ "type": "delivery_result_ack", "resultId": id }).to_string());
            result.map(ack).into_iter().collect()
        }
        Message::Binary(bytes) => match Frame::decode(&bytes, Dialect::Two).expect("a frame") {
            Frame::Start { stream, start } => {
                *mail = Some(Mail { stream, item: start.item_id, bytes: Vec::new() });
                Vec::new()
            }
            Frame::Chunk { stream, bytes } => {
                if let Some(mail) = mail.as_mut().filter(|mail| mail.stream == stream) {
                    mail.bytes.extend_from_slice(&bytes);
                }
                Vec::new()
            }
            Frame::End { stream } => {
                let Some(whole) = mail.take().filter(|mail| mail.stream == stream) else { return Vec::new() };
                log.heard().mails.push(whole.bytes);
                let ack = |id| match manner {
                    Manner::Refusing => {
                        json!({ "type": "item_ack", "itemId": id, "status": "rejected", "reason": REFUSAL })
                    }
                    Manner::One | Manner::Two | Manner::TwoWithoutAcks => {
                        json!({ "type": "item_ack", "itemId": id, "status": "stored" })
                    }
                };
                whole.item.map(|id| Message::text(ack(id).to_string())).into_iter().collect()
            }
            Frame::Abort { .. } => {
                *mail = None;
                Vec::new()
            }
        },
        Message::Close(frame) => {
            let told = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
            log.heard().closed.push(told);
            Vec::new()
        }
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Vec::new(),
    }
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn login(relay: SocketAddr, key: &SecretKey, manner: Manner) -> Result<(Socket, Value), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(relay).await.map_err(|e| words(&e))?;
    stream.set_nodelay(true).map_err(|e| words(&e))?;
    let request = Request::builder()
        .uri(format!("ws://{relay}/ws"))
        .header("Host", relay.to_string())
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .expect("a request");
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.map_err(|e| words(&e))?;
    let text = key.key_text().to_string();
    let mut request = json!({ "type": "auth_challenge_request", "publicKeyBase32": text });
    if manner != Manner::One {
        request["features"] = json!(["ack", "results", "credit", "replay"]);
    }
    socket.send(Message::text(request.to_string())).await.map_err(|e| words(&e))?;
    let challenge = next_text(&mut socket).await?;
    let to_sign = challenge["challengeText"].as_str().ok_or_else(|| challenge.to_string())?;
    let response = json!({
        "type": "auth_challenge_response",
        "publicKeyBase32": text,
        "challengeId": challenge["challengeId"],
        "signatureBase64": BASE64.encode(&key.sign(to_sign.as_bytes())),
    });
    socket.send(Message::text(response.to_string())).await.map_err(|e| words(&e))?;
    let answer = next_text(&mut socket).await?;
    if answer["type"] == "auth_ok" { Ok((socket, answer)) } else { Err(answer.to_string()) }
}

async fn next_text(socket: &mut Socket) -> Result<Value, String> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|error| error.to_string());
            }
            Some(Ok(Message::Close(frame))) => return Err(format!("closed: {frame:?}")),
            Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the relay hung up".to_owned()),
        }
    }
}
