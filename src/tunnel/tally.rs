//! What a session's task tells others: who it is, how much is on its way, and when its gateway last said something.
//!
//! Promises: the task writes plain atomics and waits for nobody; whoever reads sees a moment of each number, not one of
//! all. Gateways that left are remembered in bounded memory, the latest of them, and only while the relay runs.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use spool::ids::WallMs;

use super::control::SessionRole;
use crate::identity::key::KeyText;

/// Gateways that left and are remembered, at least; at most twice as many.
const REMEMBERED: usize = 50_000;

/// One session, as others see it.
#[derive(Debug)]
pub(super) struct Tally {
    client: IpAddr,
    role: SessionRole,
    tunnel: u8,
    since: WallMs,
    started: Instant,
    items: AtomicU32,
    bytes: AtomicU64,
    acked: AtomicU64,
    heard: AtomicU64,
}

/// A session at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Whose it is.
    pub key: KeyText,
    /// Where its gateway connects from, as far as trusted proxies tell.
    pub client: IpAddr,
    /// What it is for.
    pub role: SessionRole,
    /// Version of its protocol.
    pub tunnel: u8,
    /// When it came.
    pub since: WallMs,
    /// Seconds since then.
    pub seconds: u64,
    /// Items being written or not acked yet.
    pub in_flight_items: u32,
    /// Bytes of those.
    pub in_flight_bytes: u64,
    /// Items that its gateway acked.
    pub acked: u64,
}

impl Tally {
    pub(super) fn new(
        client: IpAddr,
        role: SessionRole,
        tunnel: u8,
        since: WallMs,
        started: Instant,
    ) -> Self {
        Self {
            client,
            role,
            tunnel,
            since,
            started,
            items: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            heard: AtomicU64::new(since.0),
        }
    }

    /// The gateway said something.
    pub(super) fn heard(&self, now: WallMs) {
        self.heard.store(now.0, Ordering::Relaxed);
    }

    /// This much is on its way, and so much was acked.
    pub(super) fn carries(&self, (items, bytes): (u32, u64), acked: u64) {
        self.items.store(items, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.acked.store(acked, Ordering::Relaxed);
    }

    /// When the gateway last said something.
    pub(super) fn last_heard(&self) -> WallMs {
        WallMs(self.heard.load(Ordering::Relaxed))
    }

    pub(super) fn view(&self, key: KeyText, now: Instant) -> SessionView {
        SessionView {
            key,
            client: self.client,
            role: self.role,
            tunnel: self.tunnel,
            since: self.since,
            seconds: now.saturating_duration_since(self.started).as_secs(),
            in_flight_items: self.items.load(Ordering::Relaxed),
            in_flight_bytes: self.bytes.load(Ordering::Relaxed),
            acked: self.acked.load(Ordering::Relaxed),
        }
    }
}

/// When gateways that left last said something.
#[derive(Debug)]
pub(super) struct Departed<K> {
    newer: HashMap<K, WallMs>,
    older: HashMap<K, WallMs>,
}

impl<K> Default for Departed<K> {
    fn default() -> Self {
        Self { newer: HashMap::new(), older: HashMap::new() }
    }
}

impl<K: Eq + Hash> Departed<K> {
    pub(super) fn note(&mut self, key: K, heard: WallMs) {
        if self.newer.len() >= REMEMBERED && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, heard);
    }

    pub(super) fn last_heard(&self, key: &K) -> Option<WallMs> {
        self.newer.get(key).or_else(|| self.older.get(key)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_departures_are_remembered_in_bounded_memory() {
        let mut departed = Departed::default();
        for n in 0..(3 * REMEMBERED) as u64 {
            departed.note(n, WallMs(n));
        }
        assert!(departed.newer.len() + departed.older.len() <= 2 * REMEMBERED);
        let last = (3 * REMEMBERED - 1) as u64;
        assert_eq!(departed.last_heard(&last), Some(WallMs(last)));
        assert_eq!(departed.last_heard(&0), None);
        departed.note(last, WallMs(7));
        assert_eq!(departed.last_heard(&last), Some(WallMs(7)), "the newest counts");
    }
}
