//! A relay whose lane is a list in this process: the real tunnel on a real socket, and a ledger that a scenario can see
//! and change (what was acked, what is offered again).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use spool::ids::{ItemId, Seq, WallMs};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waystation::identity::invite::Code;
use waystation::identity::key::KeyText;
use waystation::observe::Metrics;
use waystation::tunnel::frame::StartBody;
use waystation::tunnel::session::{Batch, Change, Offer, OutboundPiece, OutboundWord, PieceError, Settled};
use waystation::tunnel::ws::{
    Admitted, Answered, Bell, Lane, LaneLost, Opening, Service, ServiceError, Settings, Tunnel,
};

/// Body bytes of one piece.
const PIECE: usize = 64 * 1024;

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Ready,
    Acked,
    Held(String),
}

/// One item.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) offer: Offer,
    pub(crate) body: Bytes,
    pub(crate) fate: Fate,
    /// The delays that nacks asked for, milliseconds.
    pub(crate) nacks: Vec<u64>,
    pub(crate) times_leased: usize,
    leased_by: Option<u64>,
}

impl Entry {
    /// What a gateway is to store.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.offer.head[..], &self.body[..]].concat()
    }
}

#[derive(Default)]
struct Ledger {
    items: Vec<Entry>,
    chain: [u8; 32],
    sessions: u64,
    bell: Option<Bell>,
}

impl Ledger {
    fn entry(&mut self, id: ItemId) -> &mut Entry {
        let found = self.items.iter_mut().find(|entry| entry.offer.item == id);
        found.expect("only items of the lane are named")
    }
}

/// The service behind the tunnel; one lane for whoever comes.
#[derive(Clone, Default)]
struct OneLane(Arc<Mutex<Ledger>>);

impl OneLane {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().expect("no test panics inside")
    }

    fn ring(&self) {
        let bell = self.ledger().bell.clone();
        if let Some(bell) = bell {
            bell();
        }
    }
}

impl Service for OneLane {
    fn admit(&self, _key: KeyText, _invite: Option<Code>) -> BoxFuture<'_, Result<Admitted, ServiceError>> {
        Box::pin(async { Ok(Admitted::default()) })
    }

    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<Arc<dyn Lane>, ServiceError>> {
        let mut ledger = self.ledger();
        ledger.sessions += 1;
        ledger.bell = Some(opening.bell);
        ledger.items.iter_mut().for_each(|entry| entry.leased_by = None);
        let session = Session { lane: self.clone(), number: ledger.sessions };
        Box::pin(async move { Ok(Arc::new(session) as Arc<dyn Lane>) })
    }
}

struct Session {
    lane: OneLane,
    number: u64,
}

impl Lane for Session {
    fn settle(self: Arc<Self>, batch: Batch) -> BoxFuture<'static, Result<Answered, LaneLost>> {
        Box::pin(async move {
            let mut settled = Settled::default();
            let mut again = false;
            {
                let mut ledger = self.lane.ledger();
                for change in batch.changes {
                    match change {
                        Change::Ack(flight) => ledger.entry(flight.item).fate = Fate::Acked,
                        Change::Nack { item, retry_after_ms } => {
                            // Offered again at once: a scenario does not want to wait for what was asked.
                            let entry = ledger.entry(item);
                            entry.nacks.push(retry_after_ms);
                            entry.leased_by = None;
                            again = true;
                        }
                        Change::Postpone { item, .. } => ledger.entry(item).leased_by = None,
                        Change::Reject { item, reason } => ledger.entry(item).fate = Fate::Held(reason),
                        Change::Damaged { item, problem } => ledger.entry(item).fate = Fate::Held(problem),
                        Change::Replay(_) => {}
                    }
                }
                if let Some(room) = batch.lease {
                    let limit = usize::try_from(room.items).expect("small");
                    let free = |entry: &&mut Entry| entry.fate == Fate::Ready && entry.leased_by.is_none();
                    for entry in ledger.items.iter_mut().filter(free).take(limit) {
                        entry.leased_by = Some(self.number);
                        entry.times_leased += 1;
                        settled.offers.push(entry.offer.clone());
                    }
                }
            }
            if again {
                self.lane.ring();
            }
            Ok(settled.into())
        })
    }

    fn read(self: Arc<Self>, item: ItemId, n: usize) -> BoxFuture<'static, Result<Bytes, PieceError>> {
        let ledger = self.lane.ledger();
        let entry = ledger.items.iter().find(|entry| entry.offer.item == item).expect("leased before");
        let piece = entry.body.slice(n * PIECE..entry.body.len().min((n + 1) * PIECE));
        Box::pin(async move { Ok(piece) })
    }

    fn outbound(
        self: Arc<Self>,
        _piece: OutboundPiece,
    ) -> BoxFuture<'static, Result<Vec<OutboundWord>, LaneLost>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// A running relay of one lane.
pub(crate) struct ListRelay {
    pub(crate) address: SocketAddr,
    lane: OneLane,
    tunnel: Arc<Tunnel>,
    stop: CancellationToken,
}

impl ListRelay {
    /// Listens on a free port of loopback.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let lane = OneLane::default();
        let stop = CancellationToken::new();
        let settings = Settings { host: "localhost".to_owned(), rates: None, ..Settings::default() };
        let tunnel = Tunnel::new(
            settings,
            Arc::new(lane.clone()),
            Arc::new(Metrics::new()),
            stop.clone(),
            TaskTracker::new(),
        );
        let service = tunnel.router().into_make_service_with_connect_info::<SocketAddr>();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, service) => served.expect("served"),
                () = stopped.cancelled() => {}
            }
        });
        Self { address, lane, tunnel, stop }
    }

    /// The URL for gateways.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// Adds an item with this body at the end of the lane.
    pub(crate) fn put(&self, body: impl Into<Bytes>) {
        let body = body.into();
        {
            let mut ledger = self.lane.ledger();
            let seq = ledger.items.len() as u64 + 1;
            let mut random = [0; 10];
            random[2..].copy_from_slice(&seq.to_be_bytes());
            let item = ItemId::new(WallMs(1_790_000_000_000), random);
            let head = Bytes::from(format!("Received: by test relay; item {seq}\r\n"));
            let sha256: [u8; 32] = Sha256::digest(&body).into();
            ledger.chain = Sha256::new()
                .chain_update(b"waystation-lane-1\0")
                .chain_update(ledger.chain)
                .chain_update(seq.to_be_bytes())
                .chain_update(item.0)
                .chain_update(Sha256::digest(&head))
                .chain_update(sha256)
                .finalize()
                .into();
            let size_bytes = (head.len() + body.len()) as u64;
            let start = StartBody {
                mail_from: "sender@example.org".to_owned(),
                rcpt_to: "home@example.net".to_owned(),
                item_id: Some(item.to_string()),
                seq: Some(seq),
                chain: Some(HEXLOWER.encode(&ledger.chain)),
                size: Some(size_bytes),
                trace_bytes: Some(head.len() as u64),
                sha256: Some(HEXLOWER.encode(&sha256)),
                ..StartBody::default()
            };
            let offer = Offer {
                item,
                seq: Seq(seq),
                stream: format!("{item}:home@example.net"),
                start,
                pieces: body.len().div_ceil(PIECE),
                head,
                size_bytes,
                sha256,
            };
            ledger.items.push(Entry {
                offer,
                body,
                fate: Fate::Ready,
                nacks: Vec::new(),
                times_leased: 0,
                leased_by: None,
            });
        }
        self.lane.ring();
    }

    /// Looks at the items.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.lane.ledger().items)
    }

    /// Forgets all acks: every item is offered again, as after a replay, or when acks were lost.
    pub(crate) fn forget_acks(&self) {
        for entry in &mut self.lane.ledger().items {
            entry.fate = Fate::Ready;
            entry.leased_by = None;
        }
        self.lane.ring();
    }

    /// Waits until every item is acked.
    pub(crate) async fn all_acked(&self) {
        self.wait("every item is acked", |items| items.iter().all(|entry| entry.fate == Fate::Acked)).await;
    }

    /// Waits until the items look like that.
    pub(crate) async fn wait(&self, what: &str, mut is: impl FnMut(&[Entry]) -> bool) {
        super::until(what, || self.look(&mut is)).await;
    }

    /// Gateways connected.
    pub(crate) fn sessions(&self) -> usize {
        self.tunnel.sessions()
    }

    /// Bytes each item is to be stored with, by item id.
    pub(crate) fn wanted(&self) -> HashMap<String, Vec<u8>> {
        self.look(|items| items.iter().map(|e| (e.offer.item.to_string(), e.bytes())).collect())
    }
}

impl Drop for ListRelay {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
