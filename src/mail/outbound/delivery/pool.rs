//! Connections that took a message and wait for the next one to the same place (P11).
//!
//! Bounds: at most [`IDLE_MAX`] of them, each for at most [`IDLE_KEEP`]; how many messages one may carry is the
//! connection's own affair.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::connection::Connection;
use super::super::values::Endpoint;

/// Longest time a connection waits; short, because the other side pays for it.
pub(super) const IDLE_KEEP: Duration = Duration::from_secs(5);
/// Most connections that wait.
const IDLE_MAX: usize = 256;

#[derive(Debug)]
struct Idle {
    endpoint: Endpoint,
    connection: Connection,
    since: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
}

impl Pool {
    /// The connection to this place that waited least, if any does; what TLS must be like there has to be the same.
    pub(super) fn take(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut idle = self.lock();
        let at = idle.iter().rposition(|one| one.endpoint == *endpoint)?;
        Some(idle.remove(at).connection)
    }

    /// Keeps a connection; gives one back that has to go for it.
    pub(super) fn put(&self, endpoint: Endpoint, connection: Connection, now: Instant) -> Option<Connection> {
        let mut idle = self.lock();
        idle.push(Idle { endpoint, connection, since: now });
        (idle.len() > IDLE_MAX).then(|| idle.remove(0).connection)
    }

    /// Takes out what has waited long enough, or all of it.
    pub(super) fn sweep(&self, now: Instant, all: bool) -> Vec<Connection> {
        let mut idle = self.lock();
        let old = |one: &mut Idle| all || now.saturating_duration_since(one.since) >= IDLE_KEEP;
        idle.extract_if(.., old).map(|one| one.connection).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
