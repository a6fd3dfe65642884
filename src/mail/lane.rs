//! Driver: what the relay does with one gateway's lane.
//!
//! The tunnel moves offers and acks and knows no mail; here an item becomes an [`crate::tunnel::session::Offer`] (stream id, start body)
//! and an ack becomes a durable change. One batch of changes and the next lease are one request to the ledger,
//! so that many acks share one commit. Acks of tunnel 2 do not wait for it: they make room for the next lease at once.
//!
//! Promises: an offer's stream id is the same each time the item is offered; an item whose metadata cannot be
//! read is set aside and does not block its lane; the session's leases end with the [`Lane`] value.
//!
//! Failure policy: when the ledger fails or the session was replaced the lane is lost, which ends the tunnel
//! session; the ledger offers everything unacked again.

mod lent;
mod offers;
mod telling;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use spool::error::{RequestError, SpoolError};
use spool::ids::{ItemId, LaneId, Seq, SessionId, WallMs};
use spool::types::{AckOutcome, ItemInfo, Leased, NackOutcome, Room};
use spool::{ReplayFrom, Spool};
use uuid::Uuid;

use self::lent::{Lent, Loan};
use self::offers::Manner;
use super::admission::{self, Admission};
use super::outbound::intake::{Submissions, Submitter};
use super::signer::Signer;
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
use crate::tunnel::session::{Batch, Change, OutboundPiece, OutboundWord, PieceError, Settled, Window};
use crate::tunnel::signed::RelayKey;
use crate::tunnel::ws::{
    Admitted, Answered, Bell, Lane, LaneLost, Opening, Service, ServiceError, StillHere,
};

/// When a session that got fewer loans than it wanted asks again, milliseconds.
const LOANS_RETRY_MS: u64 = 1000;

/// Who gets a lane, and what a gateway is told of the relay.
#[derive(Debug)]
struct Welcome {
    admission: Admission,
    domains: Vec<String>,
}

impl Welcome {
    /// The relay's domain, when it has no other.
    fn sole_domain(&self) -> Option<Arc<str>> {
        match self.domains.as_slice() {
            [sole] => Some(sole.as_str().into()),
            [] | [_, _, ..] => None,
        }
    }
}

/// The lanes of the mail service.
#[derive(Debug)]
pub struct Lanes {
    spooler: Spooler,
    welcome: Arc<Current<Welcome>>,
    submissions: Arc<Submissions>,
    metrics: Arc<Metrics>,
    signer: Option<Arc<Signer>>,
    lent: Arc<Lent>,
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
        let welcome = Arc::new(Current::new(Welcome { admission, domains }));
        let lent = Arc::new(Lent::default());
        Arc::new(Self { spooler, welcome, submissions, metrics, signer, lent })
    }

    /// Another admission and other domains, for logins and offers from now on.
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
            Ok(admission::told(aliases, &welcome.domains))
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
                welcome: Arc::clone(&self.welcome),
                lane,
                session,
                submitter,
                lent: Arc::clone(&self.lent),
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
    /// Whether what leaves together may share a signature.
    batches: bool,
    welcome: Arc<Current<Welcome>>,
    lane: LaneId,
    /// The ledger's name of the session.
    session: SessionId,
    submitter: Arc<Submitter>,
    lent: Arc<Lent>,
    /// What is lent to the session now; bounded by its window.
    carried: Mutex<HashMap<ItemId, Carried>>,
}

struct Carried {
    info: Arc<ItemInfo>,
    _loan: Loan,
}

impl Drop for GatewayLane {
    fn drop(&mut self) {
        self.spooler.close_session(self.session);
    }
}

impl Lane for GatewayLane {
    fn settle(self: Arc<Self>, mut batch: Batch) -> BoxFuture<'static, Result<Answered, LaneLost>> {
        Box::pin(async move {
            let (lane, session, now) = (self.lane, self.session, clock::wall());
            let acks = batch.changes.iter().any(|change| matches!(change, Change::Ack(_)));
            if acks {
                crashpoint::reach("lane.before_ack");
            }
            let (loans, wanted) = self.borrow(&mut batch);
            let is_short = loans.len() < wanted;
            let need_not_wait = self.need_not_wait(&batch.changes);
            let work = move |spool: &mut Spool| carry_out(spool, lane, session, batch, now);
            let answer = if need_not_wait {
                self.spooler.prompt(work).await
            } else {
                self.spooler.call(work).await.map(|done| (done, None))
            };
            if acks {
                crashpoint::reach("lane.ack_answered");
            }
            let (mut done, stable) =
                self.or_lost(answer.map(|(done, stable)| done.map(|done| (done, stable))))?;
            let rest = self.note_acks(&done.changes, stable, now);
            // A long replay is asked for in parts, so that other lanes get their turn in between.
            while let Some((from, at)) = done.replay_on.take() {
                let answer = self.spooler.call(move |spool| spool.replay(lane, from, Some(at), now)).await;
                let part = self.or_lost(answer)?;
                done.replayed = Some(done.replayed.unwrap_or(0) + part.items);
                done.replay_on = part.go_on.map(|at| (from, at));
            }
            let mut settled = self.note(done, loans, now).await;
            if is_short {
                let again = now.plus(LOANS_RETRY_MS);
                settled.retry_at = Some(settled.retry_at.map_or(again, |at| at.min(again)));
            }
            Ok(Answered { settled, rest })
        })
    }

    fn read(self: Arc<Self>, item: ItemId, n: usize) -> BoxFuture<'static, Result<Bytes, PieceError>> {
        Box::pin(async move {
            crashpoint::reach("lane.before_read");
            let Some(info) = self.with_carried(|carried| carried.get(&item).map(|one| Arc::clone(&one.info)))
            else {
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
    fn settle(self: Arc<Self>, _batch: Batch) -> BoxFuture<'static, Result<Answered, LaneLost>> {
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
    /// The changes that took effect, but for nacks after which an item is held.
    changes: Vec<Change>,
    /// Items that came back too often, and why they are held.
    parked: Vec<(ItemId, String)>,
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
        parked: Vec::new(),
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
                spool.nack(session, *item, *retry_after_ms, now).map(|outcome| match outcome {
                    NackOutcome::PutOff | NackOutcome::Ignored => true,
                    NackOutcome::Parked(reason) => {
                        done.parked.push((*item, reason));
                        false
                    }
                })
            }
            Change::Postpone { item, retry_after_ms } => {
                spool.put_off(session, *item, *retry_after_ms, now).map(|()| true)
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

    /// Whether a batch is answered before its commit. Only what is stable is lent, so a lease need not wait for the commit
    /// that is being gathered. Nobody is told that an ack has been written down: should the relay be killed before it is,
    /// the gateway knows the item when it comes again. One of tunnel 1 does not, and so its acks wait.
    fn need_not_wait(&self, changes: &[Change]) -> bool {
        match self.dialect {
            Dialect::One => changes.is_empty(),
            Dialect::Two => changes.iter().all(|change| matches!(change, Change::Ack(_))),
        }
    }

    /// Loans for what the session wants to lease, which asks for no more than that from then on; and what it wanted.
    fn borrow(&self, batch: &mut Batch) -> (Vec<Loan>, usize) {
        let Some(lease) = &mut batch.lease else { return (Vec::new(), 0) };
        let wanted = lease.items as usize;
        let own = self.with_carried(|carried| carried.len()).saturating_sub(batch.changes.len());
        let loans = self.lent.lend(wanted, own);
        lease.items = u32::try_from(loans.len()).unwrap_or(u32::MAX);
        (loans, wanted)
    }

    fn with_carried<T>(&self, f: impl FnOnce(&mut HashMap<ItemId, Carried>) -> T) -> T {
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

    /// Made anew each time: a reload may have changed the domains since the session began.
    fn manner(&self) -> Manner {
        let home = self.welcome.get().sole_domain();
        Manner { dialect: self.dialect, batches: self.batches, home }
    }

    /// Logs and counts what happened, and makes offers of what was leased.
    async fn note(&self, done: Done, mut loans: Vec<Loan>, now: WallMs) -> Settled {
        let session = self.id;
        done.changes.iter().for_each(|change| self.note_refusal(change));
        done.parked.iter().for_each(|(item, reason)| self.note_parked(*item, reason));
        if let Some(items) = done.replayed {
            self.metrics.replayed(items);
            tracing::info!(
                event = "relay.item.replayed", lane = %self.key, session.id = %session, items,
                "gateway asked for acked items again"
            );
        }
        let manner = self.manner();
        let mut offers = Vec::with_capacity(done.leased.items.len());
        for (info, made) in offers::made(done.leased.items, &manner, self.signer.as_ref(), now).await {
            match made {
                Ok(offer) => {
                    self.metrics.offered(self.tunnel());
                    tracing::info!(
                        event = "relay.item.offered", item.id = %info.id, lane = %self.key, session.id = %session,
                        seq = info.seq.0, size_bytes = info.size_bytes, "item `{}` goes to the gateway", info.id
                    );
                    offers.push(offer);
                    // There is one for each item that was leased.
                    if let Some(loan) = loans.pop() {
                        let one = Carried { info: Arc::new(info), _loan: loan };
                        self.with_carried(|carried| carried.insert(one.info.id, one));
                    }
                }
                Err(problem) => self.set_aside(info.id, problem, now).await,
            }
        }
        Settled { offers, retry_at: done.leased.retry_at, replayed: done.replayed }
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
