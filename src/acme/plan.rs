//! PURE: when to ask the ACME server for a certificate.
//!
//! Promises: the first one at once; the next when a third of the lifetime is left, a little earlier by chance, so that relays
//! that started together do not renew together; after an order in vain again and again, with pauses that double up to a limit. In vain
//! was one that failed, and one that gave a certificate which is due at once.
//! A start tries once, whatever failed before it: a person may have repaired something. Starts that follow one another closely are
//! no way around the pauses, though ([`TRIES_LATELY_MAX`]).
//! Time and chance are passed in; a clock that is set changes nothing but the wait: what was planned under one that was ahead is
//! not believed for years.

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
/// After so many orders in vain within an hour a start waits as if it had not been one: Let's Encrypt allows five.
pub const TRIES_LATELY_MAX: usize = 3;
/// That hour.
const LATELY_MS: u64 = 3600 * 1000;
/// An end of validity that is nearer is worth a warning, milliseconds: two weeks, as for certificates from files.
const SOON_MS: u64 = 14 * 24 * 3600 * 1000;
/// But never while this part of the lifetime is left: those that live for days only are renewed later than that.
const SOON_PART: u64 = 4;
/// After so many orders that gave nothing for the kept key another is made. An hour of tries: what is wrong with the server
/// for a moment must not cost the TLSA records of the key, and a renewal has weeks.
const KEY_TRIES: u32 = 6;

/// How long to wait after orders in vain.
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
    /// When the certificate is to be renewed; 0: there is none that counts.
    renewal: WallMs,
    /// No order before then, however due it is.
    rests_until: WallMs,
    failures: u32,
    vain: u32,
    /// Orders that gave nothing for the kept key, since the start or the last certificate.
    key_failures: u32,
}

impl Plan {
    /// A plan for what is there at the start.
    ///
    /// * `held` – validity of the certificate that is there and has all wanted names; `None`: there is none.
    /// * `tried` – when orders in vain were begun before the start, since the last one that was not.
    /// * `chance` – drawn evenly from all values.
    #[must_use]
    pub fn new(held: Option<Validity>, tried: &[WallMs], pauses: Pauses, now: WallMs, chance: u64) -> Self {
        let renewal = held.map_or(WallMs(0), |held| renewal(held, chance));
        // A time to come is of a clock that was ahead.
        let tried: Vec<WallMs> = tried.iter().copied().filter(|at| *at <= now).collect();
        let vain = u32::try_from(tried.len()).unwrap_or(u32::MAX);
        let mut plan = Self { pauses, renewal, rests_until: WallMs(0), failures: 0, vain, key_failures: 0 };
        let lately = tried.iter().filter(|at| now.since(**at) < LATELY_MS).count();
        if lately >= TRIES_LATELY_MAX {
            plan.rest(tried.into_iter().max().unwrap_or(now), chance);
        }
        plan
    }

    /// When the next order is due; `now` when it is due already.
    #[must_use]
    pub fn due(&self, now: WallMs) -> WallMs {
        now.plus(millis(self.wait(now)))
    }

    /// How long to wait for it; zero: now.
    #[must_use]
    pub fn wait(&self, now: WallMs) -> Duration {
        let most = millis(self.pauses.most);
        let rest = self.rests_until.since(now);
        // No pause is that long: the clock was ahead when it began.
        let rest = if rest > most.saturating_add(most / PAUSE_SPREAD) { 0 } else { rest };
        Duration::from_millis(self.renewal.since(now).max(rest))
    }

    /// Orders that failed since the start, or since the last one that did not.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Orders in vain since the last one that was not, those before the start included.
    #[must_use]
    pub fn vain(&self) -> u32 {
        self.vain
    }

    /// Whether the next order is for the key of the certificate before.
    #[must_use]
    pub fn keeps_key(&self) -> bool {
        self.key_failures < KEY_TRIES
    }

    /// An order failed after all names were proved, and may have failed for its kept key; to be told beside [`Self::failed`].
    pub fn key_failed(&mut self) {
        self.key_failures = self.key_failures.saturating_add(1);
    }

    /// An order gave a certificate.
    pub fn installed(&mut self, validity: Validity, now: WallMs, chance: u64) {
        (self.failures, self.key_failures) = (0, 0);
        self.renewal = renewal(validity, chance);
        if self.renewal.since(now) > millis(self.pauses.first) {
            (self.vain, self.rests_until) = (0, WallMs(0));
        } else {
            // A server that gives certificates which are due at once, or a clock of ours that is ahead, must not make a loop.
            self.in_vain(now, chance);
        }
    }

    /// An order failed.
    pub fn failed(&mut self, now: WallMs, chance: u64) {
        self.failures = self.failures.saturating_add(1);
        self.in_vain(now, chance);
    }

    fn in_vain(&mut self, now: WallMs, chance: u64) {
        self.vain = self.vain.saturating_add(1);
        self.rest(now, chance);
    }

    /// A pause as long as so many orders in vain ask for.
    fn rest(&mut self, since: WallMs, chance: u64) {
        let doubled = 1_u64.checked_shl(self.vain.saturating_sub(1)).unwrap_or(u64::MAX);
        let pause = millis(self.pauses.first).saturating_mul(doubled).min(millis(self.pauses.most));
        self.rests_until = since.plus(pause).plus(part(pause / PAUSE_SPREAD, chance));
    }
}

/// Whether a certificate is so near its end that its renewal does not work, by all we know.
#[must_use]
pub fn ends_soon(held: Validity, now: WallMs) -> bool {
    let left = held.to.since(now);
    left == 0 || left < SOON_MS.min(held.to.since(held.from) / SOON_PART)
}

fn renewal(held: Validity, chance: u64) -> WallMs {
    let lifetime = held.to.since(held.from);
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
    const MINUTE: u64 = 60_000;

    fn days(from: u64, to: u64) -> Validity {
        Validity { from: WallMs(from * DAY), to: WallMs(to * DAY) }
    }

    #[test]
    fn without_a_certificate_the_order_is_due_at_once() {
        let plan = Plan::new(None, &[], PAUSES, NOW, 7);
        assert_eq!((plan.due(NOW), plan.wait(NOW)), (NOW, Duration::ZERO));
    }

    #[test]
    fn a_third_of_the_lifetime_is_left_at_the_renewal() {
        let held = days(990, 1080);
        assert_eq!(Plan::new(Some(held), &[], PAUSES, NOW, 0).due(NOW), WallMs(1050 * DAY));
        assert_eq!(Plan::new(Some(held), &[], PAUSES, NOW, u64::MAX).due(NOW), WallMs(1047 * DAY));
        let short = Plan::new(Some(days(999, 1005)), &[], PAUSES, NOW, 0);
        assert_eq!(short.wait(NOW), Duration::from_secs(3 * 86_400));
    }

    #[test]
    fn a_certificate_that_ran_out_is_renewed_at_once() {
        let plan = Plan::new(Some(days(900, 990)), &[], PAUSES, NOW, 0);
        assert_eq!(plan.wait(NOW), Duration::ZERO);
        let odd = Plan::new(Some(days(1100, 900)), &[], PAUSES, NOW, u64::MAX);
        assert_eq!(odd.wait(NOW), Duration::ZERO);
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_success_forgets_them() {
        let mut plan = Plan::new(None, &[], PAUSES, NOW, 0);
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
        assert_eq!((plan.failures(), plan.vain(), plan.due(NOW)), (0, 0, WallMs(1060 * DAY)));
        let renewal = WallMs(1060 * DAY);
        plan.failed(renewal, 0);
        assert_eq!(plan.wait(renewal), Duration::from_secs(120));
    }

    #[test]
    fn a_key_that_gets_no_certificate_is_given_up_after_a_while() {
        let mut plan = Plan::new(None, &[], PAUSES, NOW, 0);
        for _ in 0..20 {
            plan.failed(NOW, 0);
        }
        assert!(plan.keeps_key(), "a server that cannot be reached says nothing about the key");
        let before = (0..100).take_while(|_| {
            plan.key_failed();
            plan.keeps_key()
        });
        assert_eq!(before.count(), 5);
        plan.installed(days(1000, 1090), NOW, 0);
        assert!(plan.keeps_key(), "the new one is kept from then on");
    }

    #[test]
    fn certificates_that_are_due_at_once_do_not_make_a_loop() {
        let mut plan = Plan::new(None, &[], PAUSES, NOW, 0);
        let mut minutes = Vec::new();
        for _ in 0..10 {
            plan.installed(days(900, 950), NOW, 0);
            minutes.push(plan.wait(NOW).as_secs() / 60);
        }
        assert_eq!(minutes, [2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
        assert_eq!((plan.failures(), plan.vain()), (0, 10));
    }

    #[test]
    fn a_pause_of_a_clock_that_was_ahead_is_over_when_it_is_set_right() {
        let ahead = NOW.plus(5 * 365 * DAY);
        let mut plan = Plan::new(None, &[], PAUSES, ahead, 0);
        plan.failed(ahead, u64::MAX);
        assert_eq!(plan.wait(NOW), Duration::ZERO, "the order is due, as it was");
        // What is good for two months more looked as if it had run out.
        let held = days(990, 1080);
        let mut plan = Plan::new(Some(held), &[], PAUSES, ahead, 0);
        assert_eq!(plan.wait(ahead), Duration::ZERO);
        plan.failed(ahead, u64::MAX);
        plan.installed(held, ahead, u64::MAX);
        assert!(plan.wait(ahead) > Duration::ZERO, "not at once again");
        assert_eq!(plan.due(NOW), WallMs(1047 * DAY), "and when it is due is what the certificate says");
        // A little ahead is a pause as any other.
        plan.failed(WallMs(1050 * DAY).plus(MINUTE), 0);
        assert!(plan.wait(WallMs(1050 * DAY)) > Duration::from_secs(60));
    }

    #[test]
    fn a_start_tries_at_once_but_not_start_after_start() {
        let ago = |minutes: &[u64]| minutes.iter().map(|m| WallMs(NOW.0 - m * MINUTE)).collect::<Vec<_>>();
        let wait = |tried: &[WallMs]| Plan::new(None, tried, PAUSES, NOW, 0).wait(NOW).as_secs() / 60;
        assert_eq!(wait(&ago(&[9, 1])), 0);
        assert_eq!(wait(&ago(&[9, 5, 1])), 7, "eight minutes after the third");
        assert_eq!(wait(&ago(&[59, 44, 30, 15, 3])), 29);
        assert_eq!(wait(&ago(&[60, 5, 1])), 0, "two in the last hour");
        assert_eq!(wait(&ago(&[700, 600, 500, 400, 300, 10])), 0, "one in the last hour");
        assert_eq!(wait(&[NOW.plus(1), NOW.plus(DAY), NOW.plus(5 * DAY)]), 0, "times to come are none");
        // The pauses go on where they were.
        let mut plan = Plan::new(None, &ago(&[700, 600, 500]), PAUSES, NOW, 0);
        plan.failed(NOW, 0);
        assert_eq!((plan.wait(NOW), plan.failures(), plan.vain()), (Duration::from_secs(16 * 60), 1, 4));
        // Nobody waits for what is not due, and what is there is not ordered sooner for it.
        let held = Plan::new(Some(days(990, 1080)), &ago(&[3, 2, 1]), PAUSES, NOW, 0);
        assert_eq!(held.due(NOW), WallMs(1050 * DAY));
    }

    #[test]
    fn an_end_is_near_when_the_renewal_should_have_worked_for_long() {
        let near = |held: Validity| ends_soon(held, NOW);
        assert!(!near(days(924, 1014)) && near(days(923, 1013)), "fourteen days of ninety");
        assert!(near(days(900, 990)) && near(days(910, 1000)), "over");
        assert!(!near(days(997, 1003)) && near(days(995, 1001)), "a quarter of six days");
        assert!(near(days(1100, 900)));
    }
}
