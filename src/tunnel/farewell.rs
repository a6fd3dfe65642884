//! PURE: how sessions are sent away when the relay stops: when to come back, and how long what is in flight may take.
//!
//! Promise: the more gateways there are, the further apart they come back, so that a relay which has just started is not
//! met by all of them in the same moment.

use std::time::Duration;

/// Gateways that may come back in one second; each costs a signature check and a commit.
const LOGINS_PER_SECOND: u32 = 2000;
/// Longest time over which they are spread.
const SPREAD_MAX: Duration = Duration::from_secs(30);

/// The terms of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Gateways are told to come back after this, at the earliest.
    pub reconnect_after: Duration,
    /// What is in flight may take so long to be acked.
    pub settle: Duration,
}

impl Farewell {
    /// What one of `sessions` gateways is told to wait; `random` is any uniformly random number.
    #[must_use]
    pub fn hint(self, sessions: usize, random: u64) -> Duration {
        let crowd = Duration::from_secs(1) / LOGINS_PER_SECOND;
        let crowd = crowd.saturating_mul(u32::try_from(sessions).unwrap_or(u32::MAX));
        let spread = crowd.max(self.reconnect_after / 2).min(SPREAD_MAX.max(self.reconnect_after / 2));
        let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        self.reconnect_after + Duration::from_millis(random % (spread_ms.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(farewell: Farewell, sessions: usize) -> u128 {
        (0..60_000).map(|random| farewell.hint(sessions, random).as_millis()).max().unwrap_or_default()
    }

    #[test]
    fn few_come_back_soon_and_many_are_spread() {
        let farewell =
            Farewell { reconnect_after: Duration::from_millis(200), settle: Duration::from_secs(1) };
        assert_eq!(farewell.hint(1, 0), Duration::from_millis(200));
        assert_eq!(longest(farewell, 1), 300);
        assert_eq!(longest(farewell, 10_000), 200 + 5000);
        assert_eq!(longest(farewell, usize::MAX), 200 + 30_000);
    }
}
