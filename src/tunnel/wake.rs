//! What others may tell a session's task: look at your lane, or make room.
//!
//! Promises: ringing never blocks and is never lost; many rings before the task looks are one.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

use super::session::Eviction;

const BELL: u8 = 1;
const REPLACED: u8 = 2;
const REVOKED: u8 = 4;
const RESULTS: u8 = 8;
const KEYS: u8 = 16;

#[derive(Debug, Default)]
pub(super) struct Wake {
    flags: AtomicU8,
    notify: Notify,
}

/// What was told since the task looked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) bell: bool,
    pub(super) results: bool,
    pub(super) keys: bool,
    pub(super) evict: Option<Eviction>,
}

impl Wake {
    /// The lane may have something.
    pub(super) fn ring(&self) {
        self.tell(BELL);
    }

    /// There may be results to tell.
    pub(super) fn ring_results(&self) {
        self.tell(RESULTS);
    }

    /// The keys with which the relay signs are others now.
    pub(super) fn ring_keys(&self) {
        self.tell(KEYS);
    }

    /// Another session, or an operator, wants this one gone.
    pub(super) fn evict(&self, eviction: Eviction) {
        self.tell(match eviction {
            Eviction::Replaced => REPLACED,
            Eviction::Revoked => REVOKED,
        });
    }

    fn tell(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// Whether the session has been told to make room, and has not taken it yet.
    pub(super) fn is_evicted(&self) -> bool {
        self.flags.load(Ordering::Acquire) & (REPLACED | REVOKED) != 0
    }

    /// What was told and not taken yet.
    pub(super) fn take(&self) -> Told {
        let flags = self.flags.swap(0, Ordering::AcqRel);
        let evict = match flags {
            _ if flags & REVOKED != 0 => Some(Eviction::Revoked),
            _ if flags & REPLACED != 0 => Some(Eviction::Replaced),
            _ => None,
        };
        Told { bell: flags & BELL != 0, results: flags & RESULTS != 0, keys: flags & KEYS != 0, evict }
    }

    /// Waits until something is told.
    pub(super) async fn told(&self) -> Told {
        self.notify.notified().await;
        self.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_told_before_the_wait_is_not_lost() {
        let wake = Wake::default();
        wake.ring();
        wake.ring();
        wake.evict(Eviction::Replaced);
        assert!(wake.is_evicted());
        assert_eq!(
            wake.told().await,
            Told { bell: true, results: false, keys: false, evict: Some(Eviction::Replaced) }
        );
        assert_eq!(wake.take(), Told { bell: false, results: false, keys: false, evict: None });
        wake.ring_results();
        assert_eq!(wake.take(), Told { bell: false, results: true, keys: false, evict: None });
    }
}
