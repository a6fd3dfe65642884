//! Who is refused for a while, and for how long. Pure: time is handed in.
//!
//! The first window is the operator's; each further one of the same place is twice as long, up to
//! [`WINDOW_MAX`]. A place that stayed away for as long as its last window starts anew, and so does one that has brought
//! a message since: what is one address, or one /64, may be thousands of senders.
//!
//! Promises: at most [`PLACES_MAX`] places are remembered. Failure policy: when all of those are denied now, one
//! more goes unpunished; the other limits still hold for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::PLACES_MAX;
use super::place::Place;

/// Longest window: a day.
pub const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug)]
struct Denial {
    until: Instant,
    window: Duration,
}

impl Denial {
    fn is_forgotten(&self, now: Instant) -> bool {
        now >= self.until + self.window
    }
}

/// The places.
#[derive(Debug)]
pub(super) struct Denials {
    first: Duration,
    places: HashMap<Place, Denial>,
}

impl Denials {
    /// Nobody yet; a first offence costs `first`.
    pub(super) fn new(first: Duration) -> Self {
        Self { first, places: HashMap::new() }
    }

    /// A first offence costs `first` from now on.
    pub(super) fn set_window(&mut self, first: Duration) {
        self.first = first;
    }

    /// True while `place` is inside its window.
    pub(super) fn holds(&self, place: Place, now: Instant) -> bool {
        self.places.get(&place).is_some_and(|denial| now < denial.until)
    }

    /// Opens a window for `place`; one that is open is not prolonged. True when it was opened now.
    pub(super) fn deny(&mut self, place: Place, now: Instant) -> bool {
        let known = self.places.get(&place).copied().filter(|denial| !denial.is_forgotten(now));
        if known.is_some_and(|denial| now < denial.until) {
            return false;
        }
        if known.is_none() && self.places.len() >= PLACES_MAX {
            self.tidy(now);
            if self.places.len() >= PLACES_MAX {
                return false;
            }
        }
        let window = known.map_or(self.first, |denial| denial.window.saturating_mul(2)).min(WINDOW_MAX);
        self.places.insert(place, Denial { until: now + window, window });
        true
    }

    /// Forgets the past windows of `place`, unless it is inside one.
    pub(super) fn forgive(&mut self, place: Place, now: Instant) {
        if !self.holds(place, now) {
            self.places.remove(&place);
        }
    }

    /// Places remembered.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Forgets those who stayed away long enough.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.places.retain(|_, denial| !denial.is_forgotten(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u32) -> Place {
        Place::V4(n.to_be_bytes())
    }

    #[test]
    fn each_window_is_twice_the_one_before_up_to_a_day() {
        let minute = Duration::from_secs(60);
        let (mut denials, mut now) = (Denials::new(5 * minute), crate::clock::monotonic());
        let mut windows = Vec::new();
        for _ in 0..12 {
            assert!(denials.deny(place(1), now), "a window opens");
            let began = now;
            while denials.holds(place(1), now) {
                assert!(!denials.deny(place(1), now)); // knocking prolongs nothing
                now += minute;
            }
            windows.push((now - began).as_secs() / 60);
        }
        assert_eq!(windows, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440]);
        now += WINDOW_MAX;
        denials.deny(place(1), now);
        assert!(!denials.holds(place(1), now + 5 * minute), "a day of peace and it starts anew");
    }

    #[test]
    fn who_brings_mail_after_a_window_starts_anew() {
        let (mut denials, now) = (Denials::new(Duration::from_secs(300)), crate::clock::monotonic());
        let mut at = now;
        for _ in 0..10 {
            denials.deny(place(1), at);
            denials.forgive(place(1), at); // a message that was under way
            assert!(denials.holds(place(1), at + Duration::from_secs(299)));
            at += Duration::from_secs(300);
            assert!(!denials.holds(place(1), at), "no window is longer than the first");
            denials.forgive(place(1), at);
        }
        assert_eq!(denials.len(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut denials, now) = (Denials::new(Duration::from_secs(1)), crate::clock::monotonic());
        let opened = (0..PLACES_MAX as u32 + 10).filter(|n| denials.deny(place(*n), now)).count();
        assert_eq!((opened, denials.len()), (PLACES_MAX, PLACES_MAX), "the others go unpunished");
        denials.deny(place(u32::MAX), now + Duration::from_secs(2));
        assert_eq!(denials.len(), 1);
    }
}
