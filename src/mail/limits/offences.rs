//! How many unknown recipients a corner of the network asked for lately (K9). Pure: time is handed in.
//!
//! One is forgiven every [`FORGIVEN_EVERY`]. A prefix counts all that its addresses did, divided by what it may do
//! more than one address: a harvest spread over a /24 is seen, one bad neighbour hurts little. The two are told apart,
//! for a prefix's count may slow its addresses down and nothing more.
//!
//! Promises: at most [`PLACES_MAX`] places are remembered. Failure policy: when the table is full of recent ones,
//! a newcomer is counted by its own session only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::PLACES_MAX;
use super::place::Place;

/// After this long one unknown recipient is forgiven.
pub const FORGIVEN_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Count {
    number: u32,
    /// Up to when forgiveness was given.
    at: Instant,
}

impl Count {
    fn forgive(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs() / FORGIVEN_EVERY.as_secs();
        let steps = u32::try_from(passed).unwrap_or(u32::MAX);
        self.number = self.number.saturating_sub(steps);
        self.at += FORGIVEN_EVERY.saturating_mul(steps);
    }
}

/// How many unknown recipients were asked for lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// By the address (IPv6: its /64).
    pub own: u32,
    /// By its whole prefix, as the share of one address.
    pub around: u32,
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Offences {
    places: HashMap<Place, Count>,
}

impl Offences {
    /// Counts one for a client that sits at these places; how many it is now, itself included.
    pub(super) fn count(&mut self, places: [Place; 2], now: Instant) -> Lately {
        if self.places.len() + places.len() > PLACES_MAX {
            self.tidy(now);
        }
        let [own, around] = places.map(|place| {
            if !self.places.contains_key(&place) && self.places.len() >= PLACES_MAX {
                return 1;
            }
            let count = self.places.entry(place).or_insert(Count { number: 0, at: now });
            count.forgive(now);
            count.number = count.number.saturating_add(1);
            count.number / place.factor()
        });
        Lately { own, around }
    }

    /// Forgets whom everything is forgiven.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.places.retain(|_, count| {
            count.forgive(now);
            count.number > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_its_prefix_are_counted_and_forgiven() {
        let (mut offences, now) = (Offences::default(), crate::clock::monotonic());
        let at = |n: u8| Place::of(core::net::IpAddr::from([192, 0, 2, n]));
        assert_eq!([1, 2, 3].map(|_| offences.count(at(1), now).own), [1, 2, 3]); // K9
        assert_eq!(offences.count(at(2), now), Lately { own: 1, around: 1 });
        for n in 3..40 {
            offences.count(at(n), now);
        }
        // One each, and yet a harvest; but not this one's.
        assert_eq!(offences.count(at(200), now), Lately { own: 1, around: 42 / 4 });
        assert_eq!(offences.count(at(1), now + FORGIVEN_EVERY * 2), Lately { own: 2, around: 41 / 4 });
        offences.tidy(now + FORGIVEN_EVERY * 60);
        assert_eq!(offences.places.len(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut offences, now) = (Offences::default(), crate::clock::monotonic());
        for n in 0..PLACES_MAX as u32 {
            let [a, b, c, d] = n.to_be_bytes();
            offences.count(Place::of(core::net::IpAddr::from([a, b, c, d])), now);
        }
        assert!(offences.places.len() <= PLACES_MAX);
        assert_eq!(offences.count(Place::of(core::net::IpAddr::from([9, 9, 9, 9])), now).own, 1);
        assert!(offences.places.len() <= PLACES_MAX);
    }
}
