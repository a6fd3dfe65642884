//! A relay that signs what it hands over, and lies where a scenario wants it to: real WebSocket, real frames, real keys.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use data_encoding::HEXLOWER;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spool::accept::chain_step;
use spool::ids::{ItemId, Seq};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use waystation::clock;
use waystation::identity::key::SecretKey;
use waystation::mail::attestation::{self, Details, Statement, signals};
use waystation::mail::custody::{Kind, Receipt};
use waystation::mail::relay_keys::key_base64;
use waystation::mail::verdict::{Dkim, Dmarc, Spf, Verdicts, Word};
use waystation::tunnel::frame::{Frame, StartBody};
use waystation::tunnel::signed::{RelayKey, RelayKeyStatus};

/// What the relay puts in front of each message.
pub(crate) const TRACE: &str = "Received: from a by relay.test;\r\n\tMon, 9 Mar 2026 00:00:00 +0000\r\n";

/// One item before it is signed; a scenario may change any of it.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) statement: Statement,
    pub(crate) receipt: Receipt,
    pub(crate) start: StartBody,
    pub(crate) body: Vec<u8>,
}

/// Changes an item: before it is signed, or after.
pub(crate) type Lie = Box<dyn Fn(&mut Item) + Send>;

struct Planned {
    body: Vec<u8>,
    before: Option<Lie>,
    after: Option<Lie>,
    id: ItemId,
    seq: u64,
    acked: bool,
    /// The chain's value before it, once it was offered.
    chain_before: Option<[u8; 32]>,
}

struct State {
    key: SecretKey,
    key_id: String,
    announced: Vec<RelayKey>,
    items: Vec<Planned>,
    chain: [u8; 32],
}

#[derive(Clone)]
pub(crate) struct SigningRelay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

type Socket = WebSocketStream<TcpStream>;

pub(crate) fn secret(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

pub(crate) fn announced(
    n: u8,
    endorsement: Option<(String, waystation::tunnel::signed::Signed)>,
) -> RelayKey {
    let (endorsed_by, endorsement) = endorsement.unzip();
    RelayKey {
        key_id: format!("relay-{n}"),
        public_key: key_base64(&secret(n).key_text()),
        status: RelayKeyStatus::Current,
        endorsed_by,
        endorsement,
    }
}

impl SigningRelay {
    /// Signs with key number 1.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let state = State {
            key: secret(1),
            key_id: "relay-1".to_owned(),
            announced: vec![announced(1, None)],
            items: Vec::new(),
            chain: [0; 32],
        };
        let relay =
            Self { address: listener.local_addr().expect("bound"), state: Arc::new(Mutex::new(state)) };
        let serving = relay.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let relay = serving.clone();
                tokio::spawn(async move {
                    let mut first = [0; 20];
                    let _ = stream.peek(&mut first).await;
                    if first.starts_with(b"GET /.well-known/") {
                        relay.describe(stream).await;
                    } else if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic inside")
    }

    /// From now on signs with key `n` and announces these keys.
    pub(crate) fn rotate(&self, n: u8, keys: Vec<RelayKey>) {
        let mut state = self.state();
        (state.key, state.key_id, state.announced) = (secret(n), format!("relay-{n}"), keys);
    }

    /// Adds an item; the lies are told before and after the signature.
    pub(crate) fn put(&self, body: &[u8], before: Option<Lie>, after: Option<Lie>) -> ItemId {
        let mut state = self.state();
        let seq = state.items.last().map_or(1, |last| last.seq + 1);
        let id = ItemId::new(clock::wall(), [u8::try_from(seq).expect("few"); 10]);
        state.items.push(Planned {
            body: body.to_vec(),
            before,
            after,
            id,
            seq,
            acked: false,
            chain_before: None,
        });
        id
    }

    /// Leaves out the next `n` positions, as if what was there had been purged.
    pub(crate) fn leave_out(&self, n: u64) {
        let mut state = self.state();
        if let Some(last) = state.items.last_mut() {
            last.seq += n;
        }
    }

    pub(crate) fn all_acked(&self) -> bool {
        self.state().items.iter().all(|item| item.acked)
    }

    async fn describe(&self, mut stream: TcpStream) {
        let keys = self.state().announced.clone();
        let body = json!({
            "hostname": "relay.test", "domains": ["mail.test"], "admission": "open", "version": "0", "keys": keys,
        })
        .to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    async fn serve(&self, mut socket: Socket) {
        let Some(lane) = self.log_in(&mut socket).await else { return };
        let count = self.state().items.len();
        for n in 0..count {
            let Some((stream, item)) = self.make(n, &lane) else { continue };
            let frames = [
                Frame::Start { stream: stream.clone(), start: item.start },
                Frame::Chunk { stream: stream.clone(), bytes: item.body.into() },
                Frame::End { stream },
            ];
            for frame in frames {
                let bytes = frame.encode().expect("short");
                if socket.send(Message::Binary(bytes)).await.is_err() {
                    return;
                }
            }
        }
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).expect("JSON");
            if value["type"] == "item_ack" {
                let mut state = self.state();
                let acked = state.items.iter_mut().find(|item| value["itemId"] == item.id.to_string());
                acked.expect("one of ours").acked = true;
            }
        }
    }

    /// Signs item number `n`; `None` when it is acked.
    fn make(&self, n: usize, lane: &str) -> Option<(String, Item)> {
        let mut state = self.state();
        let planned = &state.items[n];
        if planned.acked {
            return None;
        }
        let (id, seq, body) = (planned.id, planned.seq, planned.body.clone());
        let (sha256, head_sha256): ([u8; 32], [u8; 32]) =
            (Sha256::digest(&body).into(), Sha256::digest(TRACE).into());
        // The same place in the chain each time it is offered.
        let first = planned.chain_before.is_none();
        let before = planned.chain_before.unwrap_or(state.chain);
        let chain = chain_step(&before, Seq(seq), id, &head_sha256, &sha256);
        let stream = format!("{id}:someone@mail.test");
        let now = clock::wall();
        let verdicts = Verdicts {
            spf: Spf { word: Word::Pass, domain: "sender.test".into(), ..Spf::default() },
            dkim: vec![Dkim { word: Word::Fail, domain: "sender.test".into(), ..Dkim::default() }],
            dmarc: Dmarc { word: Word::Pass, domain: "sender.test".into(), ..Dmarc::default() },
            arc: Word::None,
        };
        let mut item = Item {
            statement: Statement {
                stream_id: stream.clone(),
                mail_from: "a@sender.test".into(),
                rcpt_to: "someone@mail.test".into(),
                issued_at: now,
                signals: signals(&verdicts),
                details: Some(Details {
                    relay: "relay.test".into(),
                    item_id: id.to_string(),
                    sha256,
                    size: body.len() as u64,
                    client_ip: "192.0.2.1".into(),
                    helo: "mx.sender.test".into(),
                    tls: "TLSv1.3 TLS_AES_256_GCM_SHA384".into(),
                    verdicts,
                    expires_at: now.plus(3_600_000),
                }),
            },
            receipt: Receipt {
                kind: Kind::Item,
                relay: "relay.test".into(),
                id,
                lane: lane.to_owned(),
                seq: Seq(seq),
                sha256,
                size: body.len() as u64,
                head_sha256,
                chain,
                at: now,
                stream_id: None,
            },
            start: StartBody {
                mail_from: "a@sender.test".into(),
                rcpt_to: "someone@mail.test".into(),
                item_id: Some(id.to_string()),
                seq: Some(seq),
                chain: Some(HEXLOWER.encode(&chain)),
                size: Some((TRACE.len() + body.len()) as u64),
                trace_bytes: Some(TRACE.len() as u64),
                sha256: Some(HEXLOWER.encode(&sha256)),
                ..StartBody::default()
            },
            body: [TRACE.as_bytes(), &body].concat(),
        };
        if let Some(lie) = &state.items[n].before {
            lie(&mut item);
        }
        item.start.auth_attestation = Some(attestation::sign(&item.statement, &state.key_id, &state.key));
        item.start.receipt = Some(item.receipt.sign(&state.key_id, &state.key));
        if let Some(lie) = &state.items[n].after {
            lie(&mut item);
        }
        state.items[n].chain_before = Some(before);
        if first {
            state.chain = chain;
        }
        Some((stream, item))
    }

    /// Answers the key text of whoever logs in.
    async fn log_in(&self, socket: &mut Socket) -> Option<String> {
        let (id, nonce) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let request = hear_json(socket).await?;
        let key = request["publicKeyBase32"].as_str()?.to_owned();
        let challenge = json!({
            "type": "auth_challenge", "publicKeyBase32": key, "challengeId": id.to_string(),
            "challengeText": format!("relay-auth:{id}:{nonce}:127.0.0.1"), "expiresAt": "2099-01-01T00:00:00.000Z",
        });
        say(socket, &challenge).await;
        hear_json(socket).await?;
        let keys = self.state().announced.clone();
        let ok = json!({
            "type": "auth_ok", "publicKeyBase32": key, "emailLocalPart": key, "sessionRole": "inbound",
            "replacedSocketId": null, "features": ["ack", "results", "credit", "replay"], "relayKeys": keys,
        });
        say(socket, &ok).await;
        Some(key)
    }
}

async fn say(socket: &mut Socket, value: &Value) {
    // A gateway that has gone is not told.
    let _ = socket.send(Message::text(value.to_string())).await;
}

async fn hear_json(socket: &mut Socket) -> Option<Value> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).ok(),
        _ => None,
    }
}
