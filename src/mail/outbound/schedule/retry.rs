//! PURE: when to come back after an attempt that did not help.

use std::sync::Arc;

use spool::ids::WallMs;

/// Parts of a thousand that a wait may grow by, so that what failed together does not come back together.
const SPREAD_PERMILLE: u64 = 100;
/// No wait that has another reason than the schedule is longer: dead sites, revoked mailboxes, unreadable records.
pub(super) const OTHER_WAITS_MS_MAX: u64 = 1_800_000;

/// The waits between attempts, milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// After the first attempt, the second, and so on; the last repeats. Empty counts as one minute.
    pub waits_ms: Arc<[u64]>,
    /// At least so long after a host asked to come back later at RCPT (P16).
    pub greylist_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { waits_ms: Arc::from([60_000]), greylist_ms: 60_000 }
    }
}

impl Retry {
    /// How long to wait, milliseconds, once `attempts` attempts came before the one that just ended.
    ///
    /// * `jitter_permille` – chance, 0..=999; waits grow by up to a tenth and never shrink.
    #[must_use]
    pub fn wait_ms(&self, attempts: u32, greylisted: bool, jitter_permille: u32) -> u64 {
        let last = self.waits_ms.len().saturating_sub(1);
        let at = usize::try_from(attempts).unwrap_or(last).min(last);
        let wait = self.waits_ms.get(at).copied().unwrap_or(60_000);
        let wait = if greylisted { wait.max(self.greylist_ms) } else { wait };
        let spread = wait.saturating_mul(SPREAD_PERMILLE) / 1000;
        wait.saturating_add(spread.saturating_mul(u64::from(jitter_permille.min(999))) / 1000)
    }

    /// When a submission that was put off until `due` is to be attempted. A time farther ahead than anything waits was set
    /// by a clock that has been put back since, or by a longer schedule than today's: now (P19).
    #[must_use]
    pub fn believed(&self, due: WallMs, now: WallMs) -> WallMs {
        let longest = self.waits_ms.iter().copied().fold(self.greylist_ms.max(OTHER_WAITS_MS_MAX), u64::max);
        let spread = longest.saturating_mul(SPREAD_PERMILLE) / 1000;
        if due.since(now) > longest.saturating_add(spread) { now } else { due }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_schedule_and_the_last_repeats() {
        let retry = Retry { waits_ms: Arc::from([1_000, 5_000, 9_000]), greylist_ms: 60_000 };
        let waits: Vec<_> = (0..5).map(|n| retry.wait_ms(n, false, 0)).collect();
        assert_eq!(waits, [1_000, 5_000, 9_000, 9_000, 9_000]);
        assert_eq!(retry.wait_ms(u32::MAX, false, 0), 9_000);
    }

    #[test]
    fn chance_only_lengthens_and_by_a_tenth_at_most() {
        let retry = Retry::default();
        for jitter in [0, 1, 500, 999, 5_000] {
            let wait = retry.wait_ms(0, false, jitter);
            assert!((60_000..=66_000).contains(&wait), "{jitter}: {wait}");
        }
        assert_ne!(retry.wait_ms(0, false, 900), retry.wait_ms(0, false, 100));
    }

    /// P16: not before a minute, whatever the schedule says.
    #[test]
    fn greylisting_hosts_are_left_alone_for_a_minute() {
        let retry = Retry { waits_ms: Arc::from([1_000]), greylist_ms: 60_000 };
        assert_eq!(retry.wait_ms(0, true, 0), 60_000);
        assert!(retry.wait_ms(0, true, 999) >= 60_000);
    }

    #[test]
    fn a_time_that_no_wait_reaches_is_now() {
        // P19
        let retry = Retry { waits_ms: Arc::from([1_000, 7_200_000, 60_000]), greylist_ms: 60_000 };
        let now = WallMs(1_000_000_000);
        let farthest = now.plus(7_200_000 + 720_000);
        assert_eq!(retry.believed(farthest, now), farthest);
        assert_eq!(retry.believed(farthest.plus(1), now), now, "the clock was ahead when this was written");
        assert_eq!(retry.believed(WallMs(5), now), WallMs(5));
        let quick = Retry { waits_ms: Arc::from([1_000]), greylist_ms: 0 };
        let left_alone = now.plus(OTHER_WAITS_MS_MAX);
        assert_eq!(quick.believed(left_alone, now), left_alone);
    }
}
