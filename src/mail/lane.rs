//! Driver: what the relay does with one gateway's lane.
//!
//! The tunnel moves offers and acks and knows no mail; here an item becomes an [`Offer`] (stream id, start body)
//! and an ack becomes a durable change. One batch of changes and the next lease are one request to the ledger,
//! so that many acks share one commit.
//!
//! Promises: an offer's stream id is the same each time the item is offered; an item whose metadata cannot be
//! read is set aside and does not block its lane; the session's leases end with the [`Lane`] value.
//!
//! Failure policy: when the ledger fails or the session was replaced the lane is lost, which ends the tunnel
//! session; the ledger offers everything unacked again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::future::BoxFuture;
use spool::error::{RequestError, SpoolError};
use spool::ids::{ItemId, LaneId, Seq, SessionId, WallMs};
use spool::types::{AckOutcome, ItemInfo, Leased, Room};
use spool::{ReplayFrom, Spool};
use uuid::Uuid;

use super::admission::{self, Admission};
use super::envelope::Envelope;
use super::outbound::intake::{Submissions, Submitter};
use super::signer::{Batched, Signer};
use crate::clock;
use crate::crashpoint;
use crate::current::Current;
use crate::identity::challenge::AuthCode;
use crate::identity::invite::Code;
use crate::identity::key::KeyText;
use crate::observe::Metrics;
use crate::spooler::Spooler;
use crate::tunnel::Dialect;
use crate::tunnel::control::{ReplayRequest, SessionRole};
use crate::tunnel::frame::{STREAM_ID_BYTES_MAX, StartBody};
use crate::tunnel::session::{
    Batch, Change, Flight, Offer, OutboundPiece, OutboundWord, PieceError, Settled, Window,
};
use crate::tunnel::signed::RelayKey;
use crate::tunnel::ws::{Admitted, Bell, Lane, LaneLost, Opening, Service, ServiceError, StillHere};

/// Items signed for without giving way to other tasks of the same thread: well below a millisecond of work.
const SIGNED_AT_ONCE: usize = 8;

/// Who gets a lane, and what a gateway is told of the relay.
#[derive(Debug)]
struct Welcome {
    admission: Admission,
    domains: Vec<String>,
}

/// The lanes of the mail service.
#[derive(Debug)]
pub struct Lanes {
    spooler: Spooler,
    welcome: Current<Welcome>,
    submissions: Arc<Submissions>,
    metrics: Arc<Metrics>,
    signer: Option<Arc<Signer>>,
}

impl Lanes {
    /// The service that [`crate::tunnel::ws::Tunnel`] is put in front of; `domains` are the relay's. Without a `signer`
    /// nothing is attested.
    #[must_use]
    pub fn new(
        spooler: Spooler,
        admission: Admission,
        domains: Vec<String>,
        submissions: Arc<Submissions>,
        metrics: Arc<Metrics>,
        signer: Option<Arc<Signer>>,
    ) -> Arc<Self> {
        let welcome = Current::new(Welcome { admission, domains });
        Arc::new(Self { spooler, welcome, submissions, metrics, signer })
    }

    /// Another admission and other domains, for logins from now on.
    pub fn replace(&self, admission: Admission, domains: Vec<String>) {
        self.welcome.set(Welcome { admission, domains });
    }
}

impl Service for Lanes {
    fn relay_keys(&self) -> Vec<RelayKey> {
        self.signer.as_ref().map(|signer| signer.announcement(clock::wall())).unwrap_or_default()
    }

    fn admit(&self, key: KeyText, invite: Option<Code>) -> BoxFuture<'_, Result<Admitted, ServiceError>> {
        Box::pin(async move {
            let (welcome, now) = (self.welcome.get(), clock::wall());
            let mode = welcome.admission;
            let invite = invite.map(|code| code.sha256());
            let asked = self.spooler.call(move |spool| admission::admit(spool, key, invite, mode, now));
            let (entrance, aliases) = asked.await.map_err(|error| admission::unavailable(&error))??;
            admission::tell(entrance, key);
            Ok(Admitted { aliases, domains: welcome.domains.clone() })
        })
    }

    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<Arc<dyn Lane>, ServiceError>> {
        Box::pin(async move {
            let Opening { id, key, dialect, batches, .. } = opening;
            let (role, bell) = (opening.role, Arc::clone(&opening.bell));
            let still_here = Arc::clone(&opening.still_here);
            let opened = self.spooler.call(move |spool| open(spool, key, role, bell, &still_here)).await;
            let (lane, session) = opened.map_err(|error| admission::unavailable(&error))??;
            let submitter = self.submissions.enter(&opening, lane);
            let Some(session) = session else { return Ok(Arc::new(SendingLane(submitter)) as Arc<dyn Lane>) };
            let lane = GatewayLane {
                spooler: self.spooler.clone(),
                metrics: Arc::clone(&self.metrics),
                signer: self.signer.clone(),
                id,
                key,
                dialect,
                batches,
                lane,
                session,
                submitter,
                carried: Mutex::default(),
            };
            Ok(Arc::new(lane) as Arc<dyn Lane>)
        })
    }
}

/// On the ledger's thread. A session that only sends takes the lane from nobody.
fn open(
    spool: &mut Spool,
    key: KeyText,
    role: SessionRole,
    bell: Bell,
    still_here: &StillHere,
) -> Result<(LaneId, Option<SessionId>), ServiceError> {
    if !still_here() {
        return Err(ServiceError::Unavailable);
    }
    let mailbox = spool.mailbox(key.as_str()).map_err(|error| admission::unavailable(&error))?;
    let Some(mailbox) = mailbox.filter(|mailbox| !mailbox.revoked) else {
        return Err(ServiceError::Refused(AuthCode::Revoked));
    };
    let session = match role {
        SessionRole::Inbound => {
            Some(spool.open_session(mailbox.lane, bell).map_err(|_| ServiceError::Unavailable)?)
        }
        SessionRole::Outbound => None,
    };
    Ok((mailbox.lane, session))
}

/// One session's lane.
struct GatewayLane {
    spooler: Spooler,
    metrics: Arc<Metrics>,
    signer: Option<Arc<Signer>>,
    /// The tunnel's name of the session; logs carry it.
    id: Uuid,
    key: KeyText,
    dialect: Dialect,
    /// The gateway takes statements that share a signature.
    batches: bool,
    lane: LaneId,
    /// The ledger's name of the session.
    session: SessionId,
    submitter: Arc<Submitter>,
    /// What is lent to the session now; bounded by its window.
    carried: Mutex<HashMap<ItemId, Arc<ItemInfo>>>,
}

impl Drop for GatewayLane {
    fn drop(&mut self) {
        self.spooler.close_session(self.session);
    }
}

impl Lane for GatewayLane {
    fn settle(self: Arc<Self>, batch: Batch) -> BoxFuture<'static, Result<Settled, LaneLost>> {
        Box::pin(async move {
            let (lane, session, now) = (self.lane, self.session, clock::wall());
            let acks = batch.changes.iter().any(|change| matches!(change, Change::Ack(_)));
            if acks {
                crashpoint::reach("lane.before_ack");
            }
            let answer = self.spooler.call(move |spool| carry_out(spool, lane, session, batch, now)).await;
            if acks {
                crashpoint::reach("lane.after_ack");
            }
            let mut done = self.or_lost(answer)?;
            // A long replay is asked for in parts, so that other lanes get their turn in between.
            while let Some((from, at)) = done.replay_on.take() {
                let answer = self.spooler.call(move |spool| spool.replay(lane, from, Some(at), now)).await;
                let part = self.or_lost(answer)?;
                done.replayed = Some(done.replayed.unwrap_or(0) + part.items);
                done.replay_on = part.go_on.map(|at| (from, at));
            }
            Ok(self.note(done, now).await)
        })
    }

    fn read(self: Arc<Self>, item: ItemId, n: usize) -> BoxFuture<'static, Result<Bytes, PieceError>> {
        Box::pin(async move {
            crashpoint::reach("lane.before_read");
            let Some(info) = self.with_carried(|carried| carried.get(&item).cloned()) else {
                return Err(PieceError::Unreadable("not leased".to_owned()));
            };
            self.spooler.read_chunk(&info, n).await.map_err(|error| {
                tracing::error!(event = "relay.item.unreadable", item.id = %item, lane = %self.key, %error,
                    "a stored body cannot be read");
                match error {
                    SpoolError::Corrupt { .. } => PieceError::Damaged(error.to_string()),
                    SpoolError::Io { .. }
                    | SpoolError::Index(_)
                    | SpoolError::Poisoned { .. }
                    | SpoolError::Locked
                    | SpoolError::NewerFormat { .. }
                    | SpoolError::Foreign { .. }
                    | SpoolError::Closed => PieceError::Unreadable(error.to_string()),
                }
            })
        })
    }

    fn outbound(
        self: Arc<Self>,
        piece: OutboundPiece,
    ) -> BoxFuture<'static, Result<Vec<OutboundWord>, LaneLost>> {
        Arc::clone(&self.submitter).take(piece)
    }
}

/// What a session that only sends has of its lane.
struct SendingLane(Arc<Submitter>);

impl Lane for SendingLane {
    fn settle(self: Arc<Self>, _batch: Batch) -> BoxFuture<'static, Result<Settled, LaneLost>> {
        Box::pin(async { Err(LaneLost) })
    }

    fn read(self: Arc<Self>, _item: ItemId, _n: usize) -> BoxFuture<'static, Result<Bytes, PieceError>> {
        Box::pin(async { Err(PieceError::Unreadable("not leased".to_owned())) })
    }

    fn outbound(
        self: Arc<Self>,
        piece: OutboundPiece,
    ) -> BoxFuture<'static, Result<Vec<OutboundWord>, LaneLost>> {
        Arc::clone(&self.0).take(piece)
    }
}

/// What a batch did.
struct Done {
    /// The changes that took effect.
    changes: Vec<Change>,
    leased: Leased,
    replayed: Option<u64>,
    /// The replay is not done: where to go on.
    replay_on: Option<(ReplayFrom, Seq)>,
}

/// On the ledger's thread: changes in order, then the lease.
fn carry_out(
    spool: &mut Spool,
    lane: LaneId,
    session: SessionId,
    batch: Batch,
    now: WallMs,
) -> Result<Done, RequestError> {
    let mut done = Done {
        changes: Vec::with_capacity(batch.changes.len()),
        leased: Leased::default(),
        replayed: None,
        replay_on: None,
    };
    for change in batch.changes {
        let effect = match &change {
            Change::Ack(flight) => {
                spool.ack(session, flight.item, now).map(|outcome| outcome == AckOutcome::Acked)
            }
            Change::Nack { item, retry_after_ms } => {
                spool.nack(session, *item, *retry_after_ms, now).map(|()| true)
            }
            Change::Reject { item, reason } => spool.reject(session, *item, reason, now).map(|()| true),
            Change::Damaged { item, problem } => spool
                .quarantine(*item, problem, now)
                .and_then(|()| spool.unlease(session, *item))
                .map(|()| true),
            Change::Replay(request) => match replay_start(*request) {
                Some(from) => spool.replay(lane, from, None, now).map(|part| {
                    done.replayed = Some(part.items);
                    done.replay_on = part.go_on.map(|at| (from, at));
                    true
                }),
                None => Ok(false),
            },
        };
        match effect {
            Ok(true) => done.changes.push(change),
            Ok(false)
            | Err(
                RequestError::UnknownItem(_)
                | RequestError::UnknownMailbox(_)
                | RequestError::NameTaken(_)
                | RequestError::WrongState { .. },
            ) => {}
            Err(error @ (RequestError::NoSession | RequestError::Spool(_))) => return Err(error),
        }
    }
    if let Some(Window { items, bytes }) = batch.lease {
        done.leased = spool.lease(session, Room { items, bytes }, now)?;
    }
    Ok(done)
}

fn replay_start(request: ReplayRequest) -> Option<ReplayFrom> {
    let seq = request.from_seq.map(|seq| ReplayFrom::Seq(Seq(seq)));
    seq.or_else(|| request.since_ms.map(|since| ReplayFrom::Since(WallMs(since))))
}

impl GatewayLane {
    fn or_lost<T>(&self, answer: Result<Result<T, RequestError>, SpoolError>) -> Result<T, LaneLost> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::debug!(lane = %self.key, %error, "lane is lost");
                Err(LaneLost)
            }
            Err(error) => {
                tracing::warn!(event = "relay.spool.unavailable", lane = %self.key, %error, "lane is lost");
                Err(LaneLost)
            }
        }
    }

    fn with_carried<T>(&self, f: impl FnOnce(&mut HashMap<ItemId, Arc<ItemInfo>>) -> T) -> T {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let value = f(&mut carried);
        if carried.is_empty() && carried.capacity() > 0 {
            *carried = HashMap::new(); // an idle lane keeps no memory of busy times
        }
        value
    }

    fn tunnel(&self) -> u8 {
        match self.dialect {
            Dialect::One => 1,
            Dialect::Two => 2,
        }
    }

    /// Logs and counts what happened, and makes offers of what was leased.
    async fn note(&self, done: Done, now: WallMs) -> Settled {
        let session = self.id;
        for change in &done.changes {
            let Change::Ack(Flight { item, size_bytes, .. }) = change else {
                self.note_refusal(change);
                continue;
            };
            let info = self.with_carried(|carried| carried.remove(item));
            let wait_ms = info.map_or(0, |info| now.since(info.accepted_at));
            self.metrics.acked(self.tunnel(), wait_ms);
            tracing::info!(
                event = "relay.item.acked", item.id = %item, lane = %self.key, session.id = %session,
                size_bytes, duration_ms = wait_ms, "gateway has item `{item}`"
            );
        }
        if let Some(items) = done.replayed {
            self.metrics.replayed(items);
            tracing::info!(
                event = "relay.item.replayed", lane = %self.key, session.id = %session, items,
                "gateway asked for acked items again"
            );
        }
        let mut offers = Vec::with_capacity(done.leased.items.len());
        for (info, made) in self.offers(done.leased.items, now).await {
            match made {
                Ok(offer) => {
                    self.metrics.offered(self.tunnel());
                    tracing::info!(
                        event = "relay.item.offered", item.id = %info.id, lane = %self.key, session.id = %session,
                        seq = info.seq.0, size_bytes = info.size_bytes, "item `{}` goes to the gateway", info.id
                    );
                    offers.push(offer);
                    self.with_carried(|carried| carried.insert(info.id, Arc::new(info)));
                }
                Err(problem) => self.set_aside(info.id, problem, now).await,
            }
        }
        Settled { offers, retry_at: done.leased.retry_at, replayed: done.replayed }
    }

    /// An offer of each item, in order. Signing is most of the work of a replay: a few at a time go to tasks of their own,
    /// so that all cores sign, and none is held for long.
    async fn offers(&self, items: Vec<ItemInfo>, now: WallMs) -> Vec<Offered> {
        let (dialect, batches) = (self.dialect, self.batches);
        if self.signer.is_none() || items.len() <= SIGNED_AT_ONCE {
            return offers(items, dialect, self.signer.as_deref(), batches, now);
        }
        let (mut tasks, mut items) = (Vec::new(), items.into_iter());
        loop {
            let some: Vec<ItemInfo> = items.by_ref().take(SIGNED_AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            let signer = self.signer.clone();
            tasks.push(tokio::spawn(async move { offers(some, dialect, signer.as_deref(), batches, now) }));
        }
        let mut all = Vec::new();
        for task in tasks {
            match task.await {
                Ok(some) => all.extend(some),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends, and the session with it: what was not offered stays leased to nobody.
                Err(_) => break,
            }
        }
        all
    }

    fn note_refusal(&self, change: &Change) {
        let session = self.id;
        match change {
            Change::Ack(_) | Change::Replay(_) => {}
            Change::Nack { item, retry_after_ms } => {
                self.with_carried(|carried| carried.remove(item));
                self.metrics.items_nacked.inc();
                tracing::info!(
                    event = "relay.item.nacked", item.id = %item, lane = %self.key, session.id = %session,
                    retry_after_ms, "item `{item}` goes later"
                );
            }
            Change::Reject { item, reason } => {
                self.with_carried(|carried| carried.remove(item));
                self.metrics.items_rejected.inc();
                tracing::warn!(
                    event = "relay.item.held", item.id = %item, lane = %self.key, session.id = %session, reason,
                    "gateway refuses item `{item}`; it is held"
                );
            }
            Change::Damaged { item, problem } => {
                self.with_carried(|carried| carried.remove(item));
                tracing::error!(
                    event = "relay.item.quarantined", item.id = %item, lane = %self.key, session.id = %session,
                    problem, "a damaged item is set aside"
                );
            }
        }
    }

    /// An item that cannot be offered does not block those behind it.
    async fn set_aside(&self, item: ItemId, problem: String, now: WallMs) {
        tracing::error!(
            event = "relay.item.quarantined", item.id = %item, lane = %self.key, session.id = %self.id, problem,
            "an item's envelope cannot be read; it is set aside"
        );
        let session = self.session;
        let set_aside = self.spooler.call(move |spool| {
            spool.quarantine(item, &problem, now).and_then(|()| spool.unlease(session, item))
        });
        match set_aside.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(event = "relay.item.not_quarantined", item.id = %item, %error, "still offered");
            }
            Err(error) => {
                tracing::warn!(event = "relay.item.not_quarantined", item.id = %item, %error, "still offered");
            }
        }
    }
}

/// An item, and what is offered of it; or why it cannot be.
type Offered = (ItemInfo, Result<Offer, String>);

/// Offers of some items, signed: one by one, or together where the gateway takes that.
fn offers(
    items: Vec<ItemInfo>,
    dialect: Dialect,
    signer: Option<&Signer>,
    batches: bool,
    now: WallMs,
) -> Vec<Offered> {
    let mut offers = Vec::with_capacity(items.len());
    let mut batch = Batched::new(now);
    for info in items {
        let made = Envelope::decode(&info.meta).map_err(|error| error.to_string()).map(|envelope| {
            let mut offer = offer(&info, &envelope, dialect);
            if let Some(signer) = signer {
                if batches && dialect == Dialect::Two {
                    batch.add(signer, &info, &envelope, &offer.stream, &offer.start.rcpt_to);
                } else {
                    let start = &mut offer.start;
                    start.auth_attestation =
                        Some(signer.attest(&info, &envelope, &offer.stream, &start.rcpt_to, now));
                    start.receipt = (dialect == Dialect::Two).then(|| signer.receipt(&info, &envelope, now));
                }
            }
            offer
        });
        offers.push((info, made));
    }
    if let Some(signer) = signer {
        let mut signed = batch.sign(signer).into_iter();
        for (_, made) in &mut offers {
            if let (true, Ok(offer)) = (batches && dialect == Dialect::Two, made) {
                offer.start.auth_attestation = signed.next();
                offer.start.receipt = signed.next();
            }
        }
    }
    offers
}

/// An item as the tunnel sends it, unsigned. Tunnel 1 gets exactly the fields it knows.
fn offer(info: &ItemInfo, envelope: &Envelope, dialect: Dialect) -> Offer {
    let rcpt_to = String::from_utf8_lossy(&info.tag).into_owned();
    let stream = stream_id(info.id, &rcpt_to);
    let mut start = StartBody { mail_from: envelope.mail_from().to_owned(), rcpt_to, ..StartBody::default() };
    if dialect == Dialect::Two {
        start.item_id = Some(info.id.to_string());
        start.seq = Some(info.seq.0);
        start.chain = Some(HEXLOWER.encode(&info.chain));
        start.size = Some(info.size_bytes);
        start.trace_bytes = Some(info.head.len() as u64);
        start.sha256 = Some(HEXLOWER.encode(&info.sha256));
    }
    Offer {
        item: info.id,
        seq: info.seq,
        stream,
        start,
        head: Bytes::copy_from_slice(&info.head),
        pieces: info.chunks.len(),
        size_bytes: info.size_bytes,
        sha256: info.sha256,
    }
}

/// `<item id>:<recipient>`, or the item id alone when that does not fit a frame.
fn stream_id(item: ItemId, rcpt_to: &str) -> String {
    let both = format!("{item}:{rcpt_to}");
    if both.len() <= STREAM_ID_BYTES_MAX { both } else { item.to_string() }
}

#[cfg(test)]
mod tests {
    use spool::types::State;

    use super::*;
    use crate::mail::envelope::Meta;

    fn info(tag: &[u8], meta: Vec<u8>) -> ItemInfo {
        ItemInfo {
            id: ItemId::new(WallMs(5), [1; 10]),
            lane: LaneId(1),
            lane_name: "lane".into(),
            seq: Seq(7),
            state: State::Ready,
            leased: true,
            size_bytes: 12,
            accepted_at: WallMs(5),
            changed_at: WallMs(5),
            sha256: [2; 32],
            chain: [3; 32],
            meta,
            tag: tag.to_vec(),
            head: b"Received: x\r\n".to_vec(),
            chunks: Vec::new(),
            outbound: None,
        }
    }

    fn meta() -> Vec<u8> {
        Meta { mail_from: "a@b.example".into(), ..Meta::default() }.encode()
    }

    fn one(info: ItemInfo, dialect: Dialect) -> Result<Offer, String> {
        offers(vec![info], dialect, None, false, WallMs(9)).remove(0).1
    }

    #[test]
    fn tunnel_1_sees_only_the_fields_it_knows() {
        let offer = one(info(b"C@d.example", meta()), Dialect::One).unwrap();
        let expected = StartBody {
            mail_from: "a@b.example".into(),
            rcpt_to: "C@d.example".into(),
            ..StartBody::default()
        };
        assert_eq!(offer.start, expected);
    }

    #[test]
    fn tunnel_2_names_the_item_its_place_and_its_hash() {
        let info = info(b"c@d.example", meta());
        let offer = one(info.clone(), Dialect::Two).unwrap();
        assert_eq!(offer.start.item_id, Some(info.id.to_string()));
        assert_eq!(
            (offer.start.seq, offer.start.size, offer.start.trace_bytes),
            (Some(7), Some(12), Some(13))
        );
        assert_eq!(offer.start.sha256, Some("02".repeat(32)));
        assert_eq!(offer.start.chain, Some("03".repeat(32)));
    }

    #[test]
    fn a_stream_id_is_stable_and_always_fits() {
        let id = ItemId::new(WallMs(5), [1; 10]);
        assert_eq!(stream_id(id, "a@b"), format!("{id}:a@b"));
        assert_eq!(stream_id(id, &"x".repeat(228)).len(), 255);
        assert_eq!(stream_id(id, &"x".repeat(229)), id.to_string());
    }

    #[test]
    fn unreadable_metadata_is_no_offer() {
        assert!(one(info(b"c@d", vec![99]), Dialect::One).is_err());
    }
}
