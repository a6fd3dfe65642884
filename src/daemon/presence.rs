//! What the operator's door sees of the tunnel.

use std::fmt;
use std::sync::Arc;

use spool::ids::WallMs;

use crate::admin::presence::{Presence, Session};
use crate::identity::key::KeyText;
use crate::tunnel::ws::Tunnel;

/// The tunnel's registry.
pub(super) struct Connected(pub(super) Arc<Tunnel>);

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connected")
    }
}

impl Presence for Connected {
    fn sessions(&self) -> usize {
        self.0.sessions()
    }

    fn connected(&self, name: &str) -> bool {
        KeyText::from_peer(name).is_ok_and(|key| self.0.is_connected(&key))
    }

    fn last_seen(&self, name: &str) -> Option<WallMs> {
        KeyText::from_peer(name).ok().and_then(|key| self.0.last_heard(&key))
    }

    fn page(&self, after: Option<KeyText>, limit: usize) -> (Vec<Session>, Option<KeyText>) {
        let (page, next) = self.0.page(after.as_ref(), limit);
        let sessions = page.into_iter().map(|view| Session {
            lane: view.key.to_string(),
            tunnel: view.tunnel,
            role: view.role.word(),
            client: view.client,
            connected_at: view.since,
            connected_seconds: view.seconds,
            in_flight_items: view.in_flight_items,
            in_flight_bytes: view.in_flight_bytes,
            acked: view.acked,
        });
        (sessions.collect(), next)
    }

    fn revoke(&self, name: &str) {
        if let Ok(key) = KeyText::from_peer(name) {
            self.0.revoke(&key);
        }
    }
}
