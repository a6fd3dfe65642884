//! How many items all sessions together have on loan: made ready, under way, or waiting for their ack.
//!
//! A signed offer takes some kilobytes. One session has few of them; ten thousand gateways that take what they get and
//! never ack would have gigabytes.
//!
//! Promises: no more than [`LENT_MAX`] items are on loan, and beyond that no session has more than [`OWN_MIN`], so that
//! each gateway goes on, however others behave.
//!
//! Policy on failure: a session that gets less than it asked for asks again with its next ack, or after a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most items on loan over all sessions: thirty-two sessions at their fastest.
const LENT_MAX: usize = 8192;
/// What a session may have whatever the others have.
const OWN_MIN: usize = 4;

/// Items on loan, over all sessions.
#[derive(Debug, Default)]
pub(super) struct Lent {
    total: AtomicUsize,
}

/// One item on loan; given back when dropped.
#[derive(Debug)]
pub(super) struct Loan(Arc<Lent>);

impl Lent {
    /// At most `wanted` loans for a session that has `own` already.
    pub(super) fn lend(self: &Arc<Self>, wanted: usize, own: usize) -> Vec<Loan> {
        let granted = |total: usize| {
            let free = LENT_MAX.saturating_sub(total);
            wanted.min(free.max(OWN_MIN.saturating_sub(own)))
        };
        let raised = |total: usize| Some(total + granted(total));
        let before = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raised);
        let granted = granted(before.unwrap_or_else(|total| total));
        std::iter::repeat_with(|| Loan(Arc::clone(self))).take(granted).collect()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.0.total.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_have_a_limit_and_each_has_a_little_beyond_it() {
        let (lent, mut held) = (Arc::new(Lent::default()), Vec::new());
        while held.len() < LENT_MAX {
            held.extend(lent.lend(256, 256));
        }
        assert_eq!(held.len(), LENT_MAX);
        assert!(lent.lend(32, OWN_MIN).is_empty());
        let own = lent.lend(32, 1);
        assert_eq!(own.len(), OWN_MIN - 1);
        assert_eq!(lent.lend(2, 0).len(), 2, "no more than was asked for");
        drop(own);
        held.truncate(LENT_MAX - 10);
        assert_eq!(lent.lend(32, 40).len(), 10);
        drop(held);
        assert_eq!(lent.total.load(Ordering::Relaxed), 0, "all came back");
    }
}
