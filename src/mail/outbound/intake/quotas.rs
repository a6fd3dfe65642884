//! How much one mailbox may submit: messages in an hour, recipients outside this relay in a day.
//!
//! Each limit is a bucket that fills evenly, so that a mailbox which used it up gets the next place after a little
//! while and not at midnight. A mailbox may have limits of its own, zero included. Promise: bounded by the mailboxes
//! that were active lately ([`Quotas::tidy`]). Kept in memory: a restart forgives.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use spool::ids::LaneId;

use crate::current::Current;
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
    /// A limit of the mailbox's own is zero.
    #[error("the operator of the relay has closed this mailbox for sending")]
    Closed,
    /// Automatic mail between two mailboxes.
    #[error("two mailboxes here answer each other automatically; the exchange is stopped")]
    Automatic,
}

impl Over {
    /// RFC 3463 status.
    pub(super) fn enhanced_code(self) -> &'static str {
        match self {
            Self::Messages | Self::Recipients => "4.7.1",
            Self::Closed => "5.7.1",
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

/// Limits of one mailbox's own; `None`: those of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Messages in an hour.
    pub(super) per_hour: Option<u32>,
    /// Recipients elsewhere in a day.
    pub(super) recipients_per_day: Option<u32>,
}

type Single<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The buckets of a mailbox with limits of its own.
#[derive(Debug)]
struct OwnBuckets<C: Clock> {
    own: Own,
    messages: Option<Single<C>>,
    recipients: Option<Single<C>>,
    used: C::Instant,
}

type Keyed<K, C> = RateLimiter<K, HashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// How much a mailbox without limits of its own may submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Whether the two hold.
    pub(super) enabled: bool,
    /// Messages in an hour.
    pub(super) per_hour: u32,
    /// Recipients elsewhere in a day.
    pub(super) recipients_per_day: u32,
}

/// An allowance, and who used how much of it.
#[derive(Debug)]
struct Common<C: Clock> {
    allowed: Allowance,
    messages: Arc<Keyed<LaneId, C>>,
    recipients: Arc<Keyed<LaneId, C>>,
}

/// The limits of all mailboxes.
#[derive(Debug)]
pub(super) struct Quotas<C: Clock = Monotonic> {
    common: Current<Common<C>>,
    automatic: Keyed<(LaneId, LaneId), C>,
    refusals: Keyed<LaneId, C>,
    own: Mutex<HashMap<LaneId, OwnBuckets<C>>>,
    clock: C,
}

impl<C: Clock + Clone> Quotas<C> {
    pub(super) fn new(allowed: Allowance, clock: &C) -> Self {
        let keyed = |quota| Arc::new(RateLimiter::hashmap_with_clock(quota, clock.clone()));
        Self {
            common: Current::new(Common {
                allowed,
                messages: keyed(per_hour(allowed.per_hour)),
                recipients: keyed(per_day(allowed.recipients_per_day)),
            }),
            automatic: RateLimiter::hashmap_with_clock(per_hour(AUTOMATIC_PER_HOUR), clock.clone()),
            refusals: RateLimiter::hashmap_with_clock(per_hour(REFUSALS_PER_HOUR), clock.clone()),
            own: Mutex::default(),
            clock: clock.clone(),
        }
    }

    /// Another allowance from now on; a bucket whose size changes is full again.
    pub(super) fn replace(&self, allowed: Allowance) {
        let before = self.common.get();
        let keyed = |quota| Arc::new(RateLimiter::hashmap_with_clock(quota, self.clock.clone()));
        let messages = if before.allowed.per_hour == allowed.per_hour {
            Arc::clone(&before.messages)
        } else {
            keyed(per_hour(allowed.per_hour))
        };
        let recipients = if before.allowed.recipients_per_day == allowed.recipients_per_day {
            Arc::clone(&before.recipients)
        } else {
            keyed(per_day(allowed.recipients_per_day))
        };
        self.common.set(Common { allowed, messages, recipients });
    }

    /// Counts one message of `mailbox`, whose own limits come before the others.
    ///
    /// # Errors
    /// [`Over`].
    pub(super) fn take(&self, mailbox: LaneId, own: Own, way: Way) -> Result<(), Over> {
        // A loop is stopped whatever the operator thinks of quotas.
        if let Way::Inside { to, automatic: true } = way
            && self.automatic.check_key(&(mailbox, to)).is_err()
        {
            return Err(Over::Automatic);
        }
        let outside = way == Way::Outside;
        if own != Own::default() {
            self.take_own(mailbox, own, outside)?;
        }
        let (messages, recipients) = (own.per_hour.is_none(), own.recipients_per_day.is_none());
        let common = self.common.get();
        let enabled = common.allowed.enabled;
        if enabled && messages && common.messages.check_key(&mailbox).is_err() {
            return Err(Over::Messages);
        }
        if enabled && recipients && outside && common.recipients.check_key(&mailbox).is_err() {
            return Err(Over::Recipients);
        }
        Ok(())
    }

    fn take_own(&self, mailbox: LaneId, own: Own, outside: bool) -> Result<(), Over> {
        if own.per_hour == Some(0) || (outside && own.recipients_per_day == Some(0)) {
            return Err(Over::Closed);
        }
        let now = self.clock.now();
        let mut all = self.own();
        let fresh = || OwnBuckets {
            own,
            messages: own.per_hour.map(|n| RateLimiter::direct_with_clock(per_hour(n), self.clock.clone())),
            recipients: own
                .recipients_per_day
                .map(|n| RateLimiter::direct_with_clock(per_day(n), self.clock.clone())),
            used: now,
        };
        let buckets = all.entry(mailbox).or_insert_with(fresh);
        if buckets.own != own {
            *buckets = fresh();
        }
        buckets.used = now;
        if buckets.messages.as_ref().is_some_and(|bucket| bucket.check().is_err()) {
            return Err(Over::Messages);
        }
        if outside && buckets.recipients.as_ref().is_some_and(|bucket| bucket.check().is_err()) {
            return Err(Over::Recipients);
        }
        Ok(())
    }

    /// The map stays whole when a holder panics.
    fn own(&self) -> MutexGuard<'_, HashMap<LaneId, OwnBuckets<C>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more refusal of `mailbox` is kept.
    pub(super) fn may_record(&self, mailbox: LaneId) -> bool {
        self.refusals.check_key(&mailbox).is_ok()
    }

    /// Forgets who has been quiet. Call it now and then.
    pub(super) fn tidy(&self) {
        let common = self.common.get();
        common.messages.retain_recent();
        common.recipients.retain_recent();
        self.automatic.retain_recent();
        self.refusals.retain_recent();
        let now = self.clock.now();
        // After a day both buckets are full again, as new ones are.
        self.own().retain(|_, buckets| now.duration_since(buckets.used) < DAY.into());
    }
}

fn per_hour(n: u32) -> Quota {
    Quota::per_hour(NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN))
}

fn per_day(n: u32) -> Quota {
    let n = NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let even = Quota::with_period(DAY / n.get()).map(|quota| quota.allow_burst(n));
    even.unwrap_or_else(|| Quota::per_hour(n))
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn allowed(enabled: bool, per_hour: u32, recipients_per_day: u32) -> Allowance {
        Allowance { enabled, per_hour, recipients_per_day }
    }

    #[test]
    fn another_allowance_holds_at_once_and_the_bucket_that_stays_remembers() {
        let quotas = Quotas::new(allowed(true, 1, 1), &FakeRelativeClock::default());
        let mailbox = LaneId(1);
        let take = || quotas.take(mailbox, Own::default(), Way::Outside);
        assert_eq!((take(), take()), (Ok(()), Err(Over::Messages)));
        quotas.replace(allowed(true, 5, 1));
        assert_eq!(take(), Err(Over::Recipients), "of one a day");
        quotas.replace(allowed(false, 5, 1));
        assert_eq!(take(), Ok(()));
    }

    #[test]
    fn each_mailbox_has_its_hour_and_its_day() {
        let clock = FakeRelativeClock::default();
        let quotas = Quotas::new(allowed(true, 3, 4), &clock);
        let (one, two) = (LaneId(1), LaneId(2));
        for _ in 0..3 {
            assert_eq!(quotas.take(one, Own::default(), Way::Outside), Ok(()));
        }
        assert_eq!(quotas.take(one, Own::default(), Way::Outside), Err(Over::Messages));
        assert_eq!(quotas.take(two, Own::default(), Way::Outside), Ok(()));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(quotas.take(one, Own::default(), Way::Outside), Ok(()));
        assert_eq!(quotas.take(one, Own::default(), Way::Outside), Err(Over::Recipients));
        let inside = Way::Inside { to: two, automatic: false };
        assert_eq!(quotas.take(one, Own::default(), inside), Ok(()), "mail here is no recipient outside");
        clock.advance(DAY);
        for _ in 0..3 {
            assert_eq!(quotas.take(one, Own::default(), Way::Outside), Ok(()));
        }
        quotas.tidy();
    }

    #[test]
    fn limits_of_its_own_hold_in_place_of_the_others() {
        let clock = FakeRelativeClock::default();
        let quotas = Quotas::new(allowed(true, 1, 1), &clock);
        let (one, own) = (LaneId(1), |per_hour, recipients_per_day| Own { per_hour, recipients_per_day });
        let more = own(Some(3), Some(2));
        let inside = Way::Inside { to: LaneId(2), automatic: false };
        assert_eq!(quotas.take(one, more, Way::Outside), Ok(()));
        assert_eq!(quotas.take(one, more, Way::Outside), Ok(()));
        assert_eq!(quotas.take(one, more, Way::Outside), Err(Over::Recipients));
        assert_eq!(quotas.take(one, more, inside), Err(Over::Messages));
        // Closed, and opened again, by the operator: the new limits begin anew.
        assert_eq!(quotas.take(one, own(Some(0), None), inside), Err(Over::Closed));
        assert_eq!(quotas.take(one, own(None, Some(0)), Way::Outside), Err(Over::Closed));
        assert_eq!(quotas.take(one, own(None, Some(0)), inside), Ok(()));
        assert_eq!(quotas.take(one, own(Some(1), Some(1)), Way::Outside), Ok(()));
        let off = Quotas::new(allowed(false, 1, 1), &clock);
        assert_eq!(
            off.take(one, own(Some(0), None), inside),
            Err(Over::Closed),
            "an operator's word holds always"
        );
        clock.advance(DAY);
        quotas.tidy();
        assert!(quotas.own().is_empty());
    }

    #[test]
    fn refusals_cannot_fill_the_disk() {
        let clock = FakeRelativeClock::default();
        let quotas = Quotas::new(allowed(false, 1, 1), &clock);
        assert!((0..REFUSALS_PER_HOUR).all(|_| quotas.may_record(LaneId(1))));
        assert!(!quotas.may_record(LaneId(1)));
        assert!(quotas.may_record(LaneId(2)));
        clock.advance(Duration::from_secs(60));
        assert!(quotas.may_record(LaneId(1)));
    }

    #[test]
    fn programs_that_answer_each_other_stop_even_without_quotas() {
        let quotas = Quotas::new(allowed(false, 1, 1), &FakeRelativeClock::default());
        let way = Way::Inside { to: LaneId(2), automatic: true };
        for _ in 0..AUTOMATIC_PER_HOUR {
            assert_eq!(quotas.take(LaneId(1), Own::default(), way), Ok(()));
        }
        assert_eq!(quotas.take(LaneId(1), Own::default(), way), Err(Over::Automatic)); // L8
        assert_eq!(
            quotas.take(LaneId(2), Own::default(), Way::Inside { to: LaneId(1), automatic: true }),
            Ok(())
        );
        assert_eq!(quotas.take(LaneId(1), Own::default(), Way::Outside), Ok(()));
    }
}
