//! The seam between the tunnel and the service behind it: whom to admit, and one lane per session.
//!
//! A lane is also where a session's own streams go, as pieces; its words about them come back.
//!
//! The tunnel calls [`Service`] and [`Lane`] and knows nothing of what they carry; the service knows nothing of sockets
//! and frames.
//!
//! Failure policy: a service that cannot answer now says [`ServiceError::Unavailable`], and a lane that has ended
//! [`LaneLost`]; both end the session, and its gateway comes back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use spool::ids::ItemId;
use uuid::Uuid;

use super::Dialect;
use super::control::SessionRole;
use super::session::{Batch, OutboundPiece, OutboundWord, PieceError, Settled};
use super::signed::RelayKey;
use crate::identity::challenge::AuthCode;
use crate::identity::invite::Code;
use crate::identity::key::KeyText;

/// Why the service lets nobody in, or has no lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceError {
    /// The key is right and the answer is no.
    Refused(AuthCode),
    /// Storage does not answer; another time perhaps.
    Unavailable,
}

/// What a gateway of tunnel 2 is told at its login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Addresses of its mailbox beside the key's own.
    pub aliases: Vec<String>,
    /// Domains of the relay, the first is that of the key's own address.
    pub domains: Vec<String>,
}

/// Rung when a lane may have something.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// Whether the session that opens a lane still holds its key. To be asked in the step that opens it, so that of
/// two logins at the same time the older cannot take the lane from the newer.
pub type StillHere = Arc<dyn Fn() -> bool + Send + Sync>;

/// A session that wants its lane.
pub struct Opening {
    /// The session's id; what the service logs about the session is to carry it.
    pub id: Uuid,
    /// Whose lane.
    pub key: KeyText,
    /// What the session speaks.
    pub dialect: Dialect,
    /// What it is for. One that only sends gets no items: [`Lane::settle`] is not called.
    pub role: SessionRole,
    /// It acks results; if not, it hears of them for a short while and forgets.
    pub results: bool,
    /// It takes statements that share a signature.
    pub batches: bool,
    /// How to wake it for items.
    pub bell: Bell,
    /// How to wake it for results.
    pub results_bell: Bell,
    /// Whether it still holds its key.
    pub still_here: StillHere,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// What stands behind the tunnel.
pub trait Service: Send + Sync + 'static {
    /// Registers `key`, or refuses it. Called after the proof. `invite` is the invitation that the peer wants
    /// to redeem.
    fn admit(&self, key: KeyText, invite: Option<Code>) -> BoxFuture<'_, Result<Admitted, ServiceError>>;

    /// Keys with which the service signs what it hands out, as a gateway of tunnel 2 is told at its login.
    fn relay_keys(&self) -> Vec<RelayKey> {
        Vec::new()
    }

    /// Opens the lane of an admitted key for one session, if that is still there; an older session of it is void
    /// from then on.
    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<Arc<dyn Lane>, ServiceError>>;
}

/// The lane has ended, or its storage has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLost;

/// What a batch came to.
pub struct Answered {
    /// For the session.
    pub settled: Settled,
    /// What is left to be done when the changes are stable, if they were not yet. To be polled to its end.
    pub rest: Option<BoxFuture<'static, ()>>,
}

impl From<Settled> for Answered {
    fn from(settled: Settled) -> Self {
        Self { settled, rest: None }
    }
}

/// One session's view of its lane. Dropping it gives back what was leased.
pub trait Lane: Send + Sync + 'static {
    /// Carries out changes in order, durably, then leases. Changes of which nobody is told may become durable a little
    /// later than that.
    fn settle(self: Arc<Self>, batch: Batch) -> BoxFuture<'static, Result<Answered, LaneLost>>;

    /// Fetches one piece of a leased item's body.
    fn read(self: Arc<Self>, item: ItemId, n: usize) -> BoxFuture<'static, Result<Bytes, PieceError>>;

    /// Takes one piece of what the gateway submits, and answers what is to be said now. What it answers with
    /// [`OutboundWord::Accepted`] is stable.
    fn outbound(
        self: Arc<Self>,
        piece: OutboundPiece,
    ) -> BoxFuture<'static, Result<Vec<OutboundWord>, LaneLost>>;
}
