//! What deliveries know of destinations that are left alone, and of what is tried now, for whoever explains why a
//! submission waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use spool::ids::{ItemId, WallMs};

/// Most destinations that are told about; those beyond it wait all the same.
const KEPT_MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Standing {
    alone: Mutex<BTreeMap<String, WallMs>>,
    under_way: Mutex<BTreeSet<ItemId>>,
}

impl Standing {
    /// When a destination that did not answer is tried again; `None` when nothing is known against it.
    #[must_use]
    pub fn left_alone_until(&self, destination: &str, now: WallMs) -> Option<WallMs> {
        self.lock().get(destination).copied().filter(|until| *until > now)
    }

    /// Destinations that did not answer and when each is tried again, by name, at most `limit`; and how many there are.
    #[must_use]
    pub fn all_left_alone(&self, now: WallMs, limit: usize) -> (Vec<(String, WallMs)>, usize) {
        let alone = self.lock();
        let waiting = || alone.iter().filter(|(_, until)| **until > now);
        let named = waiting().take(limit).map(|(name, until)| (name.clone(), *until));
        (named.collect(), waiting().count())
    }

    /// Submissions that are attempted now; no more than deliveries run at a time.
    #[must_use]
    pub fn under_way(&self) -> BTreeSet<ItemId> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that an attempt begins, or that it is over.
    pub(super) fn attempting(&self, id: ItemId, begins: bool) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if begins {
            under_way.insert(id);
        } else {
            under_way.remove(&id);
        }
    }

    /// Notes until when a destination is left alone, or that it is not.
    pub(super) fn note(&self, destination: &str, until: Option<WallMs>, now: WallMs) {
        let mut alone = self.lock();
        match until {
            None => {
                alone.remove(destination);
            }
            Some(until) => {
                if alone.len() >= KEPT_MAX {
                    alone.retain(|_, until| *until > now);
                }
                if alone.len() < KEPT_MAX {
                    alone.insert(destination.to_owned(), until);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, WallMs>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_not_told() {
        let standing = Standing::default();
        standing.note("d.example", Some(WallMs(10)), WallMs(1));
        assert_eq!(standing.left_alone_until("d.example", WallMs(9)), Some(WallMs(10)));
        assert_eq!(standing.left_alone_until("d.example", WallMs(10)), None);
        standing.note("d.example", None, WallMs(2));
        assert_eq!(standing.left_alone_until("d.example", WallMs(3)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let standing = Standing::default();
        for n in 0..KEPT_MAX + 5 {
            standing.note(&format!("d{n}"), Some(WallMs(10)), WallMs(1));
        }
        assert_eq!(standing.lock().len(), KEPT_MAX);
        standing.note("late", Some(WallMs(20)), WallMs(11));
        assert_eq!(standing.lock().len(), 1);
    }
}
