//! PURE: when to ask the ACME server for a certificate.
//!
//! Promises: the first one at once; the next when a third of the lifetime is left, a little earlier by chance, so that relays
//! that started together do not renew together; after a failure again and again, with pauses that double up to a limit.
//! Time and chance are passed in; a clock that is set changes nothing but the wait.

use std::time::Duration;

use spool::ids::WallMs;

/// Pauses after failures: five tries in the first hour, which is what Let's Encrypt allows for one name.
pub const PAUSES: Pauses = Pauses { first: Duration::from_secs(120), most: Duration::from_secs(6 * 3600) };
/// The renewal is due when this part of the lifetime is left.
const LEFT: u64 = 3;
/// And up to this part of the lifetime earlier, by chance.
const SPREAD: u64 = 30;
/// A pause gets longer by up to this part of it, by chance.
const PAUSE_SPREAD: u64 = 10;

/// How long to wait after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// After the first; each further one doubles it.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub from: WallMs,
    /// To.
    pub to: WallMs,
}

/// Knows when the next order is due.
#[derive(Debug)]
pub struct Plan {
    pauses: Pauses,
    failures: u32,
    due: WallMs,
}

impl Plan {
    /// A plan for what is there at the start.
    ///
    /// * `held` – validity of the certificate that is there and has all wanted names; `None`: there is none.
    /// * `chance` – drawn evenly from all values.
    #[must_use]
    pub fn new(held: Option<Validity>, pauses: Pauses, now: WallMs, chance: u64) -> Self {
        let due = held.map_or(now, |held| renewal(held, chance));
        Self { pauses, failures: 0, due }
    }

    /// When the next order is due.
    #[must_use]
    pub fn due(&self) -> WallMs {
        self.due
    }

    /// How long to wait for it; zero: now.
    #[must_use]
    pub fn wait(&self, now: WallMs) -> Duration {
        Duration::from_millis(self.due.0.saturating_sub(now.0))
    }

    /// Orders that failed since the last one that did not.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// An order gave a certificate.
    pub fn installed(&mut self, validity: Validity, now: WallMs, chance: u64) {
        self.failures = 0;
        // A server that gives certificates which are due at once would be asked without end.
        let soonest = now.0.saturating_add(millis(self.pauses.first));
        self.due = WallMs(renewal(validity, chance).0.max(soonest));
    }

    /// An order failed.
    pub fn failed(&mut self, now: WallMs, chance: u64) {
        let doubled = 1_u64.checked_shl(self.failures).unwrap_or(u64::MAX);
        let pause = millis(self.pauses.first).saturating_mul(doubled).min(millis(self.pauses.most));
        self.failures = self.failures.saturating_add(1);
        self.due = WallMs(now.0.saturating_add(pause).saturating_add(part(pause / PAUSE_SPREAD, chance)));
    }
}

fn renewal(held: Validity, chance: u64) -> WallMs {
    let lifetime = held.to.0.saturating_sub(held.from.0);
    let before_end = lifetime / LEFT + part(lifetime / SPREAD, chance);
    WallMs(held.to.0.saturating_sub(before_end))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An even part of `whole`: 0 for the least chance, all of it for the greatest.
fn part(whole: u64, chance: u64) -> u64 {
    let scaled = u128::from(whole) * u128::from(chance) / u128::from(u64::MAX);
    u64::try_from(scaled).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const NOW: WallMs = WallMs(1_000 * DAY);

    fn days(from: u64, to: u64) -> Validity {
        Validity { from: WallMs(from * DAY), to: WallMs(to * DAY) }
    }

    #[test]
    fn without_a_certificate_the_order_is_due_at_once() {
        let plan = Plan::new(None, PAUSES, NOW, 7);
        assert_eq!((plan.due(), plan.wait(NOW)), (NOW, Duration::ZERO));
    }

    #[test]
    fn a_third_of_the_lifetime_is_left_at_the_renewal() {
        let held = days(990, 1080);
        assert_eq!(Plan::new(Some(held), PAUSES, NOW, 0).due(), WallMs(1050 * DAY));
        assert_eq!(Plan::new(Some(held), PAUSES, NOW, u64::MAX).due(), WallMs(1047 * DAY));
        let short = Plan::new(Some(days(999, 1005)), PAUSES, NOW, 0);
        assert_eq!(short.wait(NOW), Duration::from_secs(3 * 86_400));
    }

    #[test]
    fn a_certificate_that_ran_out_is_renewed_at_once() {
        let plan = Plan::new(Some(days(900, 990)), PAUSES, NOW, 0);
        assert_eq!(plan.wait(NOW), Duration::ZERO);
        let odd = Plan::new(Some(days(1100, 900)), PAUSES, NOW, u64::MAX);
        assert_eq!(odd.wait(NOW), Duration::ZERO);
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_success_forgets_them() {
        let mut plan = Plan::new(None, PAUSES, NOW, 0);
        let mut minutes = Vec::new();
        for _ in 0..10 {
            plan.failed(NOW, 0);
            minutes.push(plan.wait(NOW).as_secs() / 60);
        }
        assert_eq!(minutes, [2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
        for _ in 0..100 {
            plan.failed(NOW, u64::MAX);
            assert!(plan.wait(NOW) <= Duration::from_secs(6 * 3600 * 11 / 10));
        }
        plan.installed(days(1000, 1090), NOW, 0);
        assert_eq!((plan.failures(), plan.due()), (0, WallMs(1060 * DAY)));
        plan.failed(NOW, 0);
        assert_eq!(plan.wait(NOW), Duration::from_secs(120));
    }

    #[test]
    fn a_certificate_that_is_due_at_once_does_not_make_a_loop() {
        let mut plan = Plan::new(None, PAUSES, NOW, 0);
        plan.installed(days(900, 950), NOW, 0);
        assert_eq!(plan.wait(NOW), PAUSES.first);
    }
}
