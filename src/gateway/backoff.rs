//! How long to wait before the next try to reach the relay. Pure: randomness comes in.
//!
//! Attempt n waits between half and all of `min(base * 2^(n-1), max)`. The jitter keeps thousands of gateways
//! that lost the same relay at the same moment from coming back at the same moment; the lower half is kept so
//! that a single one still backs off. Only a session that stayed up for a while resets the count: a relay that
//! accepts and drops at once (two gateways with one key throwing each other out, tunnel spec section 4) must
//! not be hit at full speed for ever.
//!
//! A relay that restarts says when to come back. That is no failure: it is believed, and the count stays as it is. Only a
//! session that was sent away at once counts as failed, for the same reason as above.

use std::time::Duration;

/// First delay, milliseconds.
pub const BASE_MS: u64 = 500;
/// Longest delay, milliseconds.
pub const MAX_MS: u64 = 16_000;
/// Longest wait a relay may ask for before it stops, so that it cannot send us away for ever.
pub const WISH_MAX: Duration = Duration::from_secs(600);
/// A session that lived at least this long counts as stable and resets the count.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

/// A session that was sent away after this long was worth the relay's word.
pub const SENT_AWAY_AFTER: Duration = Duration::from_secs(1);

/// Counts failures in a row and turns them into delays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base_ms: u64,
    max_ms: u64,
    failures: u32,
}

impl Backoff {
    /// Delays from `base_ms` doubling up to `max_ms`; a base of 0 counts as 1, a maximum below the base as the base.
    #[must_use]
    pub fn new(base_ms: u64, max_ms: u64) -> Self {
        let base_ms = base_ms.max(1);
        Self { base_ms, max_ms: max_ms.max(base_ms), failures: 0 }
    }

    /// A try failed, or a session ended after `lived`; `random` is any uniformly random number.
    ///
    /// Returns how long to wait before the next try.
    pub fn failed(&mut self, lived: Duration, random: u64) -> Duration {
        if lived >= STABLE_AFTER {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let full = self.base_ms.saturating_mul(1_u64 << (self.failures - 1).min(32)).min(self.max_ms);
        let least = full.div_ceil(2);
        Duration::from_millis(least + random % (full - least + 1))
    }

    /// The relay ended a session after `lived`, and said when to come back: `wish`, at most [`WISH_MAX`].
    ///
    /// Returns how long to wait before the next try.
    pub fn sent_away(&mut self, wish: Duration, lived: Duration, random: u64) -> Duration {
        let wish = wish.min(WISH_MAX);
        if lived < SENT_AWAY_AFTER {
            return self.failed(lived, random).max(wish);
        }
        if lived >= STABLE_AFTER {
            self.failures = 0;
        }
        wish
    }

    /// Failures in a row so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(BASE_MS, MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::default();
        let longest: Vec<u128> = (0..8).map(|_| most(&mut backoff)).collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 16_000, 16_000, 16_000]);
    }

    /// The longest delay the jitter allows for the next failure.
    fn most(backoff: &mut Backoff) -> u128 {
        let before = backoff.clone();
        let longest = (0..=16_000).map(|r| before.clone().failed(Duration::ZERO, r).as_millis()).max();
        backoff.failed(Duration::ZERO, 0);
        longest.unwrap_or_default()
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        for random in [0, 1, 249, 250, 251, u64::MAX] {
            let delay = Backoff::default().failed(Duration::ZERO, random).as_millis();
            assert!((250..=500).contains(&delay), "{random}: {delay}");
        }
    }

    #[test]
    fn only_a_stable_session_resets_the_count() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed(Duration::ZERO, 0);
        }
        backoff.failed(STABLE_AFTER - Duration::from_millis(1), 0);
        assert_eq!(backoff.failures(), 6);
        backoff.failed(STABLE_AFTER, 0);
        assert_eq!(backoff.failures(), 1);
    }

    #[test]
    fn a_relay_that_restarts_is_no_failure() {
        let wish = Duration::from_millis(250);
        let mut backoff = Backoff::default();
        backoff.failed(Duration::ZERO, 0);
        assert_eq!(backoff.sent_away(wish, SENT_AWAY_AFTER, 7), wish);
        assert_eq!(backoff.failures(), 1);
        assert_eq!(backoff.sent_away(wish, STABLE_AFTER, 7), wish);
        assert_eq!(backoff.failures(), 0);
        assert_eq!(backoff.sent_away(Duration::MAX, STABLE_AFTER, 7), WISH_MAX);
    }

    #[test]
    fn a_relay_that_sends_everybody_away_at_once_is_left_alone_longer_and_longer() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> =
            (0..4).map(|_| backoff.sent_away(Duration::ZERO, Duration::ZERO, 0).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000]);
        assert_eq!(backoff.sent_away(Duration::from_secs(9), Duration::ZERO, 0), Duration::from_secs(9));
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let mut backoff = Backoff::new(u64::MAX, 0);
        for _ in 0..100 {
            backoff.failed(Duration::ZERO, u64::MAX);
        }
        assert_eq!(Backoff::new(0, 0).failed(Duration::ZERO, 9), Duration::from_millis(1));
    }
}
