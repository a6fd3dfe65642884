//! A virtual clock: every moment is an argument.

use super::*;
use crate::observe::{DeliveryClass, Metrics, RefusalStage};

/// A whole number of steps after 1970.
const START: u64 = 1_767_323_040_000;

fn at(ms: u64) -> WallMs {
    WallMs(START + ms)
}

fn counted(accepted: u64) -> Reading {
    let mut reading = Reading::default();
    reading.counters[0] = accepted;
    reading
}

fn series(history: &History, name: &str) -> Vec<Option<u64>> {
    let view = history.view();
    view.series.into_iter().find(|(known, _)| *known == name).expect("series").1
}

/// The last `n` steps of what was accepted.
fn accepted(history: &History, n: usize) -> Vec<Option<u64>> {
    series(history, "accepted").split_off(LENGTH - n)
}

#[test]
fn steps_before_the_start_are_empty_and_the_first_one_counts_from_zero() {
    let mut history = History::new(at(4_000));
    assert!(!history.is_due(at(9_999)));
    history.feed(counted(5), at(9_999));
    assert_eq!(accepted(&history, 2), [None, None], "the step is not over");
    assert!(history.is_due(at(10_000)));
    history.feed(counted(7), at(10_020));
    assert_eq!(accepted(&history, 2), [None, Some(7)]);
    history.feed(counted(7), at(20_900));
    assert_eq!(accepted(&history, 3), [None, Some(7), Some(0)]);
    assert_eq!(history.view().until, at(20_000));
    assert_eq!(series(&history, "accepted").len(), LENGTH);
}

#[test]
fn a_counter_that_went_down_began_again() {
    let mut history = History::new(at(0));
    history.feed(counted(100), at(10_000));
    history.feed(counted(3), at(20_000));
    assert_eq!(accepted(&history, 2), [Some(100), Some(3)]);
}

#[test]
fn steps_that_nobody_saw_are_empty_and_nothing_counted_is_lost() {
    let mut history = History::new(at(0));
    history.feed(counted(1), at(10_000));
    history.feed(counted(9), at(40_000));
    assert_eq!(accepted(&history, 4), [Some(1), None, None, Some(8)]);
    // Half a day of sleep is no more than a whole history.
    history.feed(counted(10), at(12 * 3_600_000));
    let seen = series(&history, "accepted");
    assert_eq!((seen.len(), seen[LENGTH - 1]), (LENGTH, Some(1)));
    assert!(seen[..LENGTH - 1].iter().all(Option::is_none));
}

#[test]
fn a_clock_set_back_lengthens_the_step_and_loses_nothing() {
    let mut history = History::new(at(3_600_000));
    history.feed(counted(1), at(3_610_000));
    history.feed(counted(4), at(5_000));
    assert_eq!(accepted(&history, 2), [None, Some(1)]);
    history.feed(counted(6), at(10_000));
    assert_eq!(accepted(&history, 2), [Some(1), Some(5)]);
    assert_eq!(history.view().until, at(10_000));
}

#[test]
fn the_oldest_step_goes_when_an_hour_is_full() {
    let mut history = History::new(at(0));
    for n in 1..=LENGTH as u64 + 3 {
        history.feed(counted(n * n), at(n * STEP_MS));
    }
    let seen = series(&history, "accepted");
    assert_eq!((seen.len(), seen[0], history.steps.len()), (LENGTH, Some(7), LENGTH));
}

#[test]
fn every_series_comes_from_the_exposition() {
    let metrics = Metrics::new();
    let mut history = History::new(at(0));
    history.feed(Reading::of(&metrics.text()), at(10_000));
    metrics.inbound_accepted.inc();
    metrics.refused(550, RefusalStage::Rcpt);
    metrics.refused(452, RefusalStage::Data);
    metrics.acked(1, 20);
    metrics.acked(2, 20);
    metrics.replayed(3);
    for (outcome, n) in [("sent", 4), ("failed", 5), ("indeterminate", 6)] {
        (0..n).for_each(|_| metrics.outbound_settled(outcome, 1));
    }
    metrics.outbound_attempted("deferred", DeliveryClass::Direct);
    metrics.outbound_attempted("sent", DeliveryClass::Local);
    metrics.tunnel_sessions.set(7);
    // Twelve are ready, and four of them wait to leave.
    let (items, submissions) = ([12, 1, 1, 1, 1, 1, 1, 1, 1, 1], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let stats = spool::types::SpoolStats { items, submissions, ..Default::default() };
    metrics.set_spool(&stats, 0);
    history.feed(Reading::of(&metrics.text()), at(20_000));
    let last: Vec<_> =
        history.view().series.iter().map(|(name, steps)| (*name, steps[LENGTH - 1].expect("seen"))).collect();
    assert_eq!(
        last,
        [
            ("accepted", 1),
            ("refused", 2),
            ("acked", 2),
            ("replayed", 3),
            ("attempts", 2),
            ("sent", 4),
            ("failed", 5),
            ("indeterminate", 6),
            ("ready", 8),
            ("sessions", 7),
        ]
    );
}

#[test]
fn commit_latencies_are_interpolated_and_the_last_minute_forgets() {
    let metrics = Metrics::new();
    let mut history = History::new(at(0));
    assert_eq!(history.view().commits, Commits::default());
    for _ in 0..100 {
        metrics.histograms.commit.observe(0.0015); // between 1 ms and 2.5 ms
        metrics.histograms.batch.observe(3.0);
    }
    history.feed(Reading::of(&metrics.text()), at(10_000));
    let commits = history.view().commits;
    assert_eq!((commits.count, commits.batch_mean), (100, Some(3.0)));
    let (p50, p99) = (commits.p50_ms.expect("p50"), commits.p99_ms.expect("p99"));
    assert!((p50 - 1.75).abs() < 1e-9 && (p99 - 2.485).abs() < 1e-9, "{p50} {p99}");
    assert_eq!(history.view().commit_p99_ms[LENGTH - 1], commits.p99_ms);
    for n in 2..=6 {
        history.feed(Reading::of(&metrics.text()), at(n * STEP_MS));
    }
    assert_eq!(history.view().commits.count, 100);
    history.feed(Reading::of(&metrics.text()), at(7 * STEP_MS));
    assert_eq!(history.view().commits, Commits::default(), "idle: nothing is made up");
    metrics.histograms.commit.observe(3600.0); // beyond every bound
    history.feed(Reading::of(&metrics.text()), at(8 * STEP_MS));
    assert_eq!(history.view().commits.p50_ms, Some(60_000.0), "the lower bound is all that is known");
}
