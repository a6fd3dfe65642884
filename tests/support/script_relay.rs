//! A relay that does with submissions what a scenario says: real WebSocket, real frames, and a disk made of a map.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use waystation::tunnel::Dialect;
use waystation::tunnel::frame::Frame;

/// Largest message that [`Manner::RefusesLarge`] takes.
const SMALL_BYTES_MAX: usize = 16 * 1024;

/// How it treats submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes the feature `results`, and accepts.
    Accepts,
    /// Takes the feature, stores, and loses its voice before it has said so.
    Mute,
    /// Takes the feature, and cannot store anything now.
    Refuses,
    /// Takes the feature, and breaks off what is larger than [`SMALL_BYTES_MAX`].
    RefusesLarge,
    /// Knows no features, as the first relays.
    Forgets,
}

/// One submission as it was stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) mail_from: String,
    pub(crate) rcpt_to: String,
    pub(crate) bytes: Vec<u8>,
    /// Its result and the words for it.
    pub(crate) result: Option<(String, String)>,
    /// The gateway has the result.
    pub(crate) acked: bool,
    /// How often it arrived completely.
    pub(crate) times: usize,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) stored: BTreeMap<String, Stored>,
    /// Streams begun, in order.
    pub(crate) starts: Vec<String>,
    pub(crate) sessions: usize,
    /// Texts that came after the login.
    pub(crate) texts: Vec<String>,
}

#[derive(Clone)]
enum Word {
    /// This submission has its result now.
    Result(String),
    /// Hang up.
    Kick,
}

#[derive(Clone)]
pub(crate) struct ScriptRelay {
    address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
    manner: Arc<Mutex<Manner>>,
    words: broadcast::Sender<Word>,
}

type Socket = WebSocketStream<TcpStream>;

impl ScriptRelay {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let relay = Self {
            address: listener.local_addr().expect("bound"),
            ledger: Arc::default(),
            manner: Arc::new(Mutex::new(manner)),
            words: broadcast::channel(1024).0,
        };
        let serving = relay.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let relay = serving.clone();
                tokio::spawn(async move {
                    if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
                        relay.serve(socket).await;
                    }
                });
            }
        });
        relay
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().expect("no panic inside") = manner;
    }

    fn manner(&self) -> Manner {
        *self.manner.lock().expect("no panic inside")
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic inside")
    }

    /// The stream of the submission to this recipient.
    pub(crate) fn stream_to(&self, rcpt_to: &str) -> Option<String> {
        let ledger = self.ledger();
        ledger.stored.iter().find(|(_, stored)| stored.rcpt_to == rcpt_to).map(|(stream, _)| stream.clone())
    }

    /// Gives a stored submission its result.
    pub(crate) fn settle(&self, stream: &str, status: &str, text: &str) {
        let mut ledger = self.ledger();
        let stored = ledger.stored.get_mut(stream).expect("stored before");
        stored.result = Some((status.to_owned(), text.to_owned()));
        drop(ledger);
        let _ = self.words.send(Word::Result(stream.to_owned()));
    }

    /// Hangs up on everybody.
    pub(crate) fn kick(&self) {
        let _ = self.words.send(Word::Kick);
    }

    /// Waits until the ledger looks like that.
    pub(crate) async fn wait(&self, what: &str, mut is: impl FnMut(&Ledger) -> bool) {
        super::until(what, || is(&self.ledger())).await;
    }

    async fn serve(&self, mut socket: Socket) {
        let mut words = self.words.subscribe();
        let Some(forgets) = self.log_in(&mut socket).await else { return };
        let untold: Vec<String> = {
            let mut ledger = self.ledger();
            ledger.sessions += 1;
            let untold = |stored: &Stored| stored.result.is_some() && !stored.acked;
            ledger
                .stored
                .iter()
                .filter(|(_, stored)| untold(stored))
                .map(|(stream, _)| stream.clone())
                .collect()
        };
        for stream in untold {
            self.tell(&mut socket, &stream, forgets).await;
        }
        let mut open: BTreeMap<String, Stored> = BTreeMap::new();
        loop {
            tokio::select! {
                word = words.recv() => match word {
                    Ok(Word::Result(stream)) => self.tell(&mut socket, &stream, forgets).await,
                    Ok(Word::Kick) | Err(_) => return,
                },
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        let frame = Frame::decode(&bytes, Dialect::Two).expect("a gateway sends frames");
                        self.hear(&mut socket, &mut open, frame, forgets).await;
                    }
                    Some(Ok(Message::Text(text))) => self.note(&text),
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                },
            }
        }
    }

    /// Answers whether the session is one without features; `None` when it did not come about.
    async fn log_in(&self, socket: &mut Socket) -> Option<bool> {
        let (id, nonce) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let request = hear_json(socket).await?;
        let offered: Vec<String> = serde_json::from_value(request["features"].clone()).unwrap_or_default();
        assert!(offered.iter().any(|word| word == "results"), "{request}");
        let forgets = self.manner() == Manner::Forgets;
        let host = if forgets { String::new() } else { format!(":{}", self.address.ip()) };
        let key = &request["publicKeyBase32"];
        let challenge = json!({
            "type": "auth_challenge", "publicKeyBase32": key, "challengeId": id.to_string(),
            "challengeText": format!("relay-auth:{id}:{nonce}{host}"), "expiresAt": "2099-01-01T00:00:00.000Z",
        });
        say(socket, &challenge).await;
        hear_json(socket).await?;
        let mut ok = json!({
            "type": "auth_ok", "publicKeyBase32": key, "emailLocalPart": key, "sessionRole": "inbound",
            "replacedSocketId": null,
        });
        if !forgets {
            ok["features"] = json!(["ack", "results", "credit", "replay"]);
        }
        say(socket, &ok).await;
        Some(forgets)
    }

    async fn hear(
        &self,
        socket: &mut Socket,
        open: &mut BTreeMap<String, Stored>,
        frame: Frame,
        forgets: bool,
    ) {
        match frame {
            Frame::Start { stream, start } => {
                self.ledger().starts.push(stream.clone());
                let known = !forgets && self.ledger().stored.contains_key(&stream);
                if self.manner() == Manner::Refuses {
                    abort(socket, stream, "disk full").await;
                } else if known && self.manner() != Manner::Mute {
                    self.accept(socket, &stream).await;
                    self.tell(socket, &stream, forgets).await;
                } else {
                    let (mail_from, rcpt_to) = (start.mail_from, start.rcpt_to);
                    open.insert(stream, Stored { mail_from, rcpt_to, ..Stored::default() });
                }
            }
            Frame::Chunk { stream, bytes } => {
                if let Some(stored) = open.get_mut(&stream) {
                    stored.bytes.extend_from_slice(&bytes);
                    if self.manner() == Manner::RefusesLarge && stored.bytes.len() > SMALL_BYTES_MAX {
                        open.remove(&stream);
                        abort(socket, stream, "the stream stood still").await;
                    }
                }
            }
            Frame::End { stream } => {
                let Some(new) = open.remove(&stream) else { return };
                {
                    let mut ledger = self.ledger();
                    let stored = ledger.stored.entry(stream.clone()).or_insert_with(|| new.clone());
                    assert_eq!(stored.bytes, new.bytes, "the same id is the same message");
                    stored.times += 1;
                }
                if !forgets && self.manner() != Manner::Mute {
                    self.accept(socket, &stream).await;
                }
            }
            Frame::Abort { stream, .. } => {
                open.remove(&stream);
            }
        }
    }

    async fn accept(&self, socket: &mut Socket, stream: &str) {
        let accepted = json!({ "type": "outbound_accepted", "streamId": stream, "submissionId": format!("at-relay-{stream}") });
        say(socket, &accepted).await;
    }

    async fn tell(&self, socket: &mut Socket, stream: &str, forgets: bool) {
        let Some((status, text)) = self.ledger().stored.get(stream).and_then(|stored| stored.result.clone())
        else {
            return;
        };
        let mut result =
            json!({ "type": "relay_delivery_result", "streamId": stream, "status": status, "error": text });
        if !forgets {
            result["resultId"] = json!(format!("result-of-{stream}"));
        }
        say(socket, &result).await;
    }

    fn note(&self, text: &str) {
        let mut ledger = self.ledger();
        ledger.texts.push(text.to_owned());
        let value: Value = serde_json::from_str(text).expect("JSON");
        if value["type"] == "delivery_result_ack" {
            let stream =
                value["resultId"].as_str().and_then(|id| id.strip_prefix("result-of-")).expect("an id");
            ledger.stored.get_mut(stream).expect("a result we told").acked = true;
        }
    }
}

async fn say(socket: &mut Socket, value: &Value) {
    // A gateway that has gone is not told; the next session is.
    let _ = socket.send(Message::text(value.to_string())).await;
}

async fn abort(socket: &mut Socket, stream: String, reason: &str) {
    let abort = Frame::Abort { stream, reason: reason.to_owned() };
    let _ = socket.send(Message::Binary(abort.encode().expect("short"))).await;
}

async fn hear_json(socket: &mut Socket) -> Option<Value> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).ok(),
        _ => None,
    }
}
