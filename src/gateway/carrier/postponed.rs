//! When a submission that the relay cannot take now is handed over again.
//!
//! Two waits, and the longer one holds:
//! - The count of refusals: five seconds, doubled each time, [`PUT_OFF_MS_MAX`] at most. An outage ends for all
//!   submissions when it ends for one, so this wait is cut short when the relay takes another message.
//! - The octets that were sent for nothing: on average no more than [`WASTED_BYTES_PER_SECOND`] of the line. A large
//!   message that the relay breaks off again and again for reasons of its own must not eat a metered line, whatever
//!   happens to other messages: this wait is not cut short. The first piece leaves before the relay can say no, so a
//!   message of many pieces costs one each time.
//!
//! Policy on failure: what is remembered here is lost when the process stops, and then a submission is tried early;
//! where there is no room for another, the one whose time comes first is tried early.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use spool::ids::ItemId;

use crate::gateway::outbox::PUT_OFF_MS_MAX;

/// First wait after "not now"; doubles.
const BASE: Duration = Duration::from_secs(5);
/// Octets a second that may be spent on one message without success.
const WASTED_BYTES_PER_SECOND: u64 = 4096;
/// Most submissions whose refusals are counted; beyond it counting starts anew.
const COUNTED_MAX: usize = 10_000;
/// Most submissions that wait for what they have cost.
const COSTLY_MAX: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Postponed {
    /// How often the relay said "not now".
    refusals: HashMap<ItemId, u32>,
    /// Until when those wait that have cost something.
    costly: HashMap<ItemId, Instant>,
}

impl Postponed {
    /// The relay has said "not now" after `sent_bytes` of it were on their way; how long it waits.
    pub(super) fn refused(&mut self, id: ItemId, sent_bytes: u64, now: Instant) -> Duration {
        if self.refusals.len() >= COUNTED_MAX {
            self.refusals.clear();
        }
        let count = self.refusals.entry(id).or_default();
        let doubled = BASE.saturating_mul(1 << (*count).min(16));
        *count += 1;
        let cost = Duration::from_secs(sent_bytes / WASTED_BYTES_PER_SECOND).min(doubled);
        if cost < BASE {
            self.costly.remove(&id);
        } else {
            self.make_room();
            self.costly.insert(id, now + cost);
        }
        cost.max(doubled.min(Duration::from_millis(PUT_OFF_MS_MAX)))
    }

    /// It is refused no more: the relay has it, or it has its result.
    pub(super) fn over(&mut self, id: ItemId) {
        self.refusals.remove(&id);
        self.costly.remove(&id);
    }

    /// Those that are not to be tried now, whatever is true for others.
    pub(super) fn costly(&mut self, now: Instant) -> HashSet<ItemId> {
        self.costly.retain(|_, until| *until > now);
        if self.costly.is_empty() {
            self.costly = HashMap::new(); // a quiet gateway keeps no memory of bad times
        }
        self.costly.keys().copied().collect()
    }

    /// When the next of those may be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        self.costly.values().min().copied()
    }

    fn make_room(&mut self) {
        if self.costly.len() >= COSTLY_MAX
            && let Some(first) = self.costly.iter().min_by_key(|(_, until)| **until).map(|(id, _)| *id)
        {
            self.costly.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use spool::ids::WallMs;

    use super::*;

    const MAX: Duration = Duration::from_millis(PUT_OFF_MS_MAX);

    fn id(n: u64) -> ItemId {
        ItemId::new(WallMs(n), [0; 10])
    }

    #[test]
    fn a_refusal_that_cost_nothing_waits_longer_each_time_up_to_a_limit() {
        let (mut postponed, now) = (Postponed::default(), crate::clock::monotonic());
        let waits: Vec<u64> = (0..9).map(|_| postponed.refused(id(1), 4096, now).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert!(postponed.costly(now).is_empty(), "another message may bring it forward at any time");
        postponed.over(id(1));
        assert_eq!(postponed.refused(id(1), 0, now), BASE);
    }

    #[test]
    fn octets_sent_for_nothing_are_a_small_part_of_the_line_in_the_long_run() {
        let (mut postponed, mut now) = (Postponed::default(), crate::clock::monotonic());
        let (start, size) = (now, 25_000_000);
        let mut sent = 0;
        while now < start + Duration::from_secs(5 * 86_400) {
            sent += size;
            let wait = postponed.refused(id(1), size, now);
            let until = postponed.next().unwrap();
            assert!(until <= now + wait);
            assert!(postponed.costly(until.checked_sub(Duration::from_millis(1)).unwrap()).contains(&id(1)));
            now += wait;
            assert!(postponed.costly(now).is_empty(), "its time has come");
        }
        let first_tries = 12 * size;
        assert!(sent <= (now - start).as_secs() * WASTED_BYTES_PER_SECOND + first_tries, "{sent}");
    }

    #[test]
    fn a_refusal_at_the_first_word_ends_the_wait_for_what_an_earlier_one_has_cost() {
        let (mut postponed, now) = (Postponed::default(), crate::clock::monotonic());
        for _ in 0..12 {
            postponed.refused(id(1), 25_000_000, now);
        }
        assert!(postponed.costly(now).contains(&id(1)));
        assert_eq!(postponed.refused(id(1), 0, now), MAX);
        assert!(postponed.costly(now).is_empty());
    }

    #[test]
    fn where_there_is_no_room_the_one_whose_time_comes_first_is_tried_early() {
        let (mut postponed, now) = (Postponed::default(), crate::clock::monotonic());
        for n in 0..=COSTLY_MAX as u64 {
            postponed.refused(id(n), 1_000_000, now + Duration::from_secs(n));
        }
        let later = now + BASE.checked_sub(Duration::from_millis(1)).unwrap();
        let costly = postponed.costly(later);
        assert_eq!(costly.len(), COSTLY_MAX);
        assert!(!costly.contains(&id(0)) && costly.contains(&id(1)));
    }
}
