//! How much one mailbox may submit: messages in an hour, recipients outside this relay in a day.
//!
//! Each limit is a bucket that fills evenly, so that a mailbox which used it up gets the next place after a little
//! while and not at midnight. Promise: bounded by the mailboxes that were active lately ([`Quotas::tidy`]). Kept in
//! memory: a restart forgives.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use spool::ids::LaneId;

use crate::mail::limits::Monotonic;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Automatic mail of one mailbox to another one here, per hour: two programs that answer each other stop at it (L8).
const AUTOMATIC_PER_HOUR: u32 = 30;

/// Refusals of one mailbox that are kept as submissions, per hour; further ones are answered and forgotten, so that
/// nobody can fill the disk with them.
const REFUSALS_PER_HOUR: u32 = 1000;

/// Which limit is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Over {
    /// Messages.
    #[error("this mailbox has sent as many messages as it may in an hour; try again later")]
    Messages,
    /// Recipients.
    #[error("this mailbox has written to as many recipients as it may in a day; try again later")]
    Recipients,
    /// Automatic mail between two mailboxes.
    #[error("two mailboxes here answer each other automatically; the exchange is stopped")]
    Automatic,
}

impl Over {
    /// RFC 3463 status.
    pub(super) fn enhanced_code(self) -> &'static str {
        match self {
            Self::Messages | Self::Recipients => "4.7.1",
            Self::Automatic => "5.4.6",
        }
    }
}

/// Where a message goes, as far as limits care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To another relay.
    Outside,
    /// To a mailbox here.
    Inside {
        /// Which.
        to: LaneId,
        /// A program wrote it in answer to something.
        automatic: bool,
    },
}

type Keyed<K, C> = RateLimiter<K, HashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The limits of all mailboxes.
#[derive(Debug)]
pub(super) struct Quotas<C: Clock = Monotonic> {
    enabled: bool,
    messages: Keyed<LaneId, C>,
    recipients: Keyed<LaneId, C>,
    automatic: Keyed<(LaneId, LaneId), C>,
    refusals: Keyed<LaneId, C>,
}

impl<C: Clock + Clone> Quotas<C> {
    pub(super) fn new(enabled: bool, messages_per_hour: u32, recipients_per_day: u32, clock: &C) -> Self {
        let per_hour = |n| Quota::per_hour(NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN));
        let recipients = NonZeroU32::new(recipients_per_day).unwrap_or(NonZeroU32::MIN);
        let per_day = Quota::with_period(DAY / recipients.get()).map(|quota| quota.allow_burst(recipients));
        Self {
            enabled,
            messages: RateLimiter::hashmap_with_clock(per_hour(messages_per_hour), clock.clone()),
            recipients: RateLimiter::hashmap_with_clock(
                per_day.unwrap_or_else(|| Quota::per_hour(recipients)),
                clock.clone(),
            ),
            automatic: RateLimiter::hashmap_with_clock(per_hour(AUTOMATIC_PER_HOUR), clock.clone()),
            refusals: RateLimiter::hashmap_with_clock(per_hour(REFUSALS_PER_HOUR), clock.clone()),
        }
    }

    /// Counts one message of `mailbox`.
    ///
    /// # Errors
    /// [`Over`].
    pub(super) fn take(&self, mailbox: LaneId, way: Way) -> Result<(), Over> {
        // A loop is stopped whatever the operator thinks of quotas.
        if let Way::Inside { to, automatic: true } = way
            && self.automatic.check_key(&(mailbox, to)).is_err()
        {
            return Err(Over::Automatic);
        }
        if !self.enabled {
            return Ok(());
        }
        if self.messages.check_key(&mailbox).is_err() {
            return Err(Over::Messages);
        }
        if way == Way::Outside && self.recipients.check_key(&mailbox).is_err() {
            return Err(Over::Recipients);
        }
        Ok(())
    }

    /// Whether one more refusal of `mailbox` is kept.
    pub(super) fn may_record(&self, mailbox: LaneId) -> bool {
        self.refusals.check_key(&mailbox).is_ok()
    }

    /// Forgets who has been quiet. Call it now and then.
    pub(super) fn tidy(&self) {
        self.messages.retain_recent();
        self.recipients.retain_recent();
        self.automatic.retain_recent();
        self.refusals.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn each_mailbox_has_its_hour_and_its_day() {
        let clock = FakeRelativeClock::default();
        let quotas = Quotas::new(true, 3, 4, &clock);
        let (one, two) = (LaneId(1), LaneId(2));
        for _ in 0..3 {
            assert_eq!(quotas.take(one, Way::Outside), Ok(()));
        }
        assert_eq!(quotas.take(one, Way::Outside), Err(Over::Messages));
        assert_eq!(quotas.take(two, Way::Outside), Ok(()));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(quotas.take(one, Way::Outside), Ok(()));
        assert_eq!(quotas.take(one, Way::Outside), Err(Over::Recipients));
        let inside = Way::Inside { to: two, automatic: false };
        assert_eq!(quotas.take(one, inside), Ok(()), "mail here is no recipient outside");
        clock.advance(DAY);
        for _ in 0..3 {
            assert_eq!(quotas.take(one, Way::Outside), Ok(()));
        }
        quotas.tidy();
    }

    #[test]
    fn refusals_cannot_fill_the_disk() {
        let clock = FakeRelativeClock::default();
        let quotas = Quotas::new(false, 1, 1, &clock);
        assert!((0..REFUSALS_PER_HOUR).all(|_| quotas.may_record(LaneId(1))));
        assert!(!quotas.may_record(LaneId(1)));
        assert!(quotas.may_record(LaneId(2)));
        clock.advance(Duration::from_secs(60));
        assert!(quotas.may_record(LaneId(1)));
    }

    #[test]
    fn programs_that_answer_each_other_stop_even_without_quotas() {
        let quotas = Quotas::new(false, 1, 1, &FakeRelativeClock::default());
        let way = Way::Inside { to: LaneId(2), automatic: true };
        for _ in 0..AUTOMATIC_PER_HOUR {
            assert_eq!(quotas.take(LaneId(1), way), Ok(()));
        }
        assert_eq!(quotas.take(LaneId(1), way), Err(Over::Automatic)); // L8
        assert_eq!(quotas.take(LaneId(2), Way::Inside { to: LaneId(1), automatic: true }), Ok(()));
        assert_eq!(quotas.take(LaneId(1), Way::Outside), Ok(()));
    }
}
