//! Whether our listeners accept connections: every accept loop holds a [`Watch`], and `/ready` looks at all of them.
//!
//! A loop that ends, by a return or by a panic, drops its watch, and that is noticed. A loop whose `accept` fails goes on;
//! when it has done nothing else for [`FAILING_AFTER`] the listener counts as down until the failures stop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Failures for so long, and nothing else, make a listener count as down.
const FAILING_AFTER: Duration = Duration::from_secs(10);
/// Failures so far apart are not of one series; loops try again much sooner.
const SERIES_GAP: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    listener: &'static str,
}

/// How one listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It accepts.
    Up,
    /// Its `accept` fails, and has for a while.
    Failing,
    /// Its loop has ended.
    Ended,
}

/// A series of failures: its first and its last.
#[derive(Debug, Default)]
struct Series(Option<(Instant, Instant)>);

impl Series {
    fn failed(&mut self, now: Instant) {
        let goes_on = |last: Instant| now.saturating_duration_since(last) <= SERIES_GAP;
        self.0 = match self.0 {
            Some((first, last)) if goes_on(last) => Some((first, now)),
            Some(_) | None => Some((now, now)),
        };
    }

    /// Nobody may come for hours, so the end of failures shows only in their absence.
    fn is_long(&self, now: Instant) -> bool {
        self.0.is_some_and(|(first, last)| {
            now.saturating_duration_since(last) <= SERIES_GAP
                && now.saturating_duration_since(first) >= FAILING_AFTER
        })
    }
}

#[derive(Debug, Default)]
struct State {
    series: Series,
    ended: bool,
}

type Known = Arc<Mutex<Vec<(&'static str, Arc<Mutex<State>>)>>>;

/// The families, and the listeners behind them.
#[derive(Clone, Debug, Default)]
pub struct ListenerFamilies {
    up: Family<Label, Gauge>,
    failures: Family<Label, Counter>,
    known: Known,
}

impl ListenerFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("listener_up", "1 while all listeners of that kind accept connections", self.up.clone());
        r.register(
            "listener_accept_failures",
            "Connections that could not be accepted, by listener; mostly for want of file descriptors",
            self.failures.clone(),
        );
    }

    /// One more listener; the watch belongs into its loop.
    #[must_use]
    pub fn watch(&self, listener: &'static str) -> Watch {
        let state = Arc::new(Mutex::new(State::default()));
        lock(&self.known).push((listener, Arc::clone(&state)));
        self.up.get_or_create(&Label { listener }).set(1);
        let failures = self.failures.get_or_create_owned(&Label { listener });
        Watch { state, failures }
    }

    /// How all of them are, in the order in which they were opened.
    #[must_use]
    pub fn standings(&self, now: Instant) -> Vec<(&'static str, Standing)> {
        let found: Vec<_> = lock(&self.known)
            .iter()
            .map(|(listener, state)| {
                let state = lock(state);
                let standing = match (state.ended, state.series.is_long(now)) {
                    (true, _) => Standing::Ended,
                    (false, true) => Standing::Failing,
                    (false, false) => Standing::Up,
                };
                (*listener, standing)
            })
            .collect();
        for (listener, _) in &found {
            let up = found.iter().filter(|(name, _)| name == listener).all(|(_, s)| *s == Standing::Up);
            self.up.get_or_create(&Label { listener }).set(i64::from(up));
        }
        found
    }
}

/// What an accept loop tells. Dropped: the loop has ended.
#[derive(Debug)]
pub struct Watch {
    state: Arc<Mutex<State>>,
    failures: Counter,
}

impl Watch {
    /// `accept` gave a connection.
    pub fn accepted(&self) {
        lock(&self.state).series = Series::default();
    }

    /// `accept` failed.
    pub fn failed(&self, now: Instant) {
        self.failures.inc();
        lock(&self.state).series.failed(now);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn a_listener_is_down_after_failing_for_a_while_and_up_once_it_stops_failing() {
        let (families, start) = (ListenerFamilies::default(), crate::clock::monotonic());
        let watch = families.watch("smtp");
        let mut now = start;
        while now < start + FAILING_AFTER {
            watch.failed(now);
            assert_eq!(families.standings(now), [("smtp", Standing::Up)]);
            now += STEP;
        }
        watch.failed(now);
        assert_eq!(families.standings(now), [("smtp", Standing::Failing)]);
        assert_eq!(families.standings(now + SERIES_GAP + STEP), [("smtp", Standing::Up)]);
        watch.failed(now + 2 * SERIES_GAP);
        assert_eq!(families.standings(now + 2 * SERIES_GAP), [("smtp", Standing::Up)], "a new series");
    }

    #[test]
    fn one_accepted_connection_ends_a_series() {
        let (families, start) = (ListenerFamilies::default(), crate::clock::monotonic());
        let watch = families.watch("http");
        watch.failed(start);
        watch.accepted();
        watch.failed(start + SERIES_GAP);
        watch.failed(start + 2 * SERIES_GAP);
        assert_eq!(families.standings(start + 2 * SERIES_GAP), [("http", Standing::Up)]);
    }

    #[test]
    fn a_loop_that_ends_is_noticed_even_beside_a_healthy_one() {
        let metrics = crate::observe::Metrics::new();
        let (first, _second) = (metrics.listeners.watch("smtp"), metrics.listeners.watch("smtp"));
        drop(first);
        let standings = metrics.listeners.standings(crate::clock::monotonic());
        assert_eq!(standings, [("smtp", Standing::Ended), ("smtp", Standing::Up)]);
        assert!(metrics.text().contains("waystation_listener_up{listener=\"smtp\"} 0"));
    }
}
