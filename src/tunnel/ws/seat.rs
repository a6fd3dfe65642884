//! Who is here: a connection is counted at the door until it has proved itself, and then has the place of its key.
//!
//! Promise: both are given back however a connection ends.

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::super::control::SessionRole;
use super::super::handshake::Proof;
use super::super::service::ServiceError;
use super::super::session::{self, Eviction};
use super::super::tally::Tally;
use super::super::wake::Wake;
use super::{Tunnel, lock, tunnel_number};
use crate::clock;
use crate::identity::challenge::AuthCode;
use crate::identity::key::KeyText;
use crate::identity::registry::Entry;

impl Tunnel {
    /// Takes the key's place, after the wait that a fight over it costs.
    pub(super) async fn enter(
        self: &Arc<Self>,
        proof: &Proof,
        id: Uuid,
        client: IpAddr,
    ) -> Result<(Seat, Option<Uuid>), ServiceError> {
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
                    return Ok((seat, replaced));
                }
                Entry::Wait { wait, quick } => {
                    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(
                        event = "relay.ws.key_fought_over", lane = %proof.key, session.id = %id,
                        replacements = quick, wait_ms,
                        "two gateways use this key and push each other out"
                    );
                    tokio::select! {
                        () = tokio::time::sleep(wait) => waited = true,
                        () = self.stop.cancelled() => return Err(ServiceError::Unavailable),
                    }
                }
                Entry::Full => return Err(ServiceError::Refused(AuthCode::RateLimited)),
            }
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
