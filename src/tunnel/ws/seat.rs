//! Who is here: a connection is counted at the door until it has proved itself, and then has the place of its key.
//!
//! Promises: both are given back however a connection ends; a newcomer that has to wait for the place of its key and
//! goes away meanwhile pushes nobody out.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;

use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::super::control::SessionRole;
use super::super::handshake::Proof;
use super::super::service::ServiceError;
use super::super::session::{self, Eviction};
use super::super::tally::Tally;
use super::super::wake::Wake;
use super::super::wire::{Happened, Wire};
use super::{Tunnel, lock, tunnel_number};
use crate::clock;
use crate::identity::challenge::AuthCode;
use crate::identity::key::KeyText;
use crate::identity::registry::Entry;

impl Tunnel {
    /// Takes the key's place, after the wait that a fight over it costs. `None`: the peer has gone while it waited.
    pub(super) async fn enter(
        self: &Arc<Self>,
        wire: &mut Wire,
        proof: &Proof,
        id: Uuid,
        client: IpAddr,
    ) -> Result<Option<(Seat, Option<Uuid>)>, ServiceError> {
        let tunnel = tunnel_number(session::dialect_of(proof));
        let tally = Tally::new(client, proof.role, tunnel, clock::wall(), clock::monotonic());
        let reach = Reach { wake: Arc::default(), tally: Arc::new(tally) };
        let mut waited = false;
        loop {
            let entry = {
                let mut registry = lock(&self.registry);
                match proof.role {
                    SessionRole::Inbound => {
                        registry.enter(proof.key, id, reach.clone(), waited, clock::monotonic())
                    }
                    SessionRole::Outbound => registry.enter_sender(proof.key, id, reach.clone()),
                }
            };
            match entry {
                Entry::Entered { replaced } => {
                    self.metrics.tunnel_sessions.inc();
                    let replaced = replaced.map(|(older, other)| {
                        other.wake.evict(Eviction::Replaced);
                        self.metrics.tunnel_replaced.inc();
                        older
                    });
                    let seat = Seat { tunnel: Arc::clone(self), key: proof.key, role: proof.role, id, reach };
                    return Ok(Some((seat, replaced)));
                }
                Entry::Wait { wait, quick } => {
                    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(
                        event = "relay.ws.key_fought_over", lane = %proof.key, session.id = %id,
                        replacements = quick, wait_ms,
                        "two gateways use this key and push each other out"
                    );
                    tokio::select! {
                        biased; // who has gone pushes nobody out, not even in the moment in which the wait is over
                        gone = gone(wire) => {
                            tracing::debug!(lane = %proof.key, session.id = %id, "the newcomer waits no more");
                            return gone.map(|()| None);
                        }
                        () = self.stop.cancelled() => return Err(ServiceError::Unavailable),
                        () = tokio::time::sleep(wait) => waited = true,
                    }
                }
                Entry::Full => return Err(ServiceError::Refused(AuthCode::RateLimited)),
            }
        }
    }
}

/// Waits until the peer has gone.
///
/// # Errors
/// It speaks before it was let in: nothing is kept of what it says, and so nothing is read on as if that had been heard.
async fn gone(wire: &mut Wire) -> Result<(), ServiceError> {
    loop {
        match poll_fn(|cx| wire.poll(cx, true)).await {
            Happened::Message(Message::Close(_)) | Happened::Ended => return Ok(()),
            Happened::Broken(code) => {
                wire.close(code, "");
                return Ok(());
            }
            Happened::Message(Message::Text(_) | Message::Binary(_)) => {
                return Err(ServiceError::Refused(AuthCode::InvalidMessage));
            }
            Happened::Message(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))
            | Happened::Flushed => {}
        }
    }
}

/// How others reach a session, and what they see of it.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub(super) wake: Arc<Wake>,
    pub(super) tally: Arc<Tally>,
}

/// A session's place in the registry, given back when dropped.
pub(super) struct Seat {
    tunnel: Arc<Tunnel>,
    key: KeyText,
    role: SessionRole,
    id: Uuid,
    pub(super) reach: Reach,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.tunnel.metrics.tunnel_sessions.dec();
        lock(&self.tunnel.departed).note(self.key, self.reach.tally.last_heard());
        let mut registry = lock(&self.tunnel.registry);
        match self.role {
            SessionRole::Inbound => registry.leave(&self.key, self.id),
            SessionRole::Outbound => registry.leave_sender(&self.key, self.id),
        }
    }
}

/// A connection without a proof, counted at the door until dropped.
pub(super) struct Stranger(Arc<Tunnel>, IpAddr);

impl Stranger {
    pub(super) fn enter(tunnel: &Arc<Tunnel>, client: IpAddr) -> Option<Self> {
        lock(&tunnel.door).enter(client).then(|| Self(Arc::clone(tunnel), client))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        lock(&self.0.door).left(self.1);
    }
}
