//! PURE: the last hour in steps of ten seconds, for whoever draws charts without a Prometheus.
//!
//! Promises: a fixed number of steps, whatever happens; made of the same exposition that `/metrics` answers, so that charts
//! here and elsewhere agree. Steps are cut by the wall clock at multiples of [`STEP_MS`].
//!
//! Where nothing is known there is nothing: steps before the start and steps that nobody saw (the machine slept, the clock
//! was set forward) are empty, and what was counted meanwhile is told in the step that ends such a gap. A clock that was
//! set back lengthens the step under way. A counter that went down began again at zero.

use std::collections::VecDeque;

use spool::ids::WallMs;

/// Length of a step, milliseconds.
pub const STEP_MS: u64 = 10_000;
/// Steps that are kept: one hour.
pub const LENGTH: usize = 360;
/// Steps of the last minute.
const MINUTE: usize = 6;
/// Most buckets of a histogram that are read.
const BUCKETS_MAX: usize = 64;

/// What is counted: names of series, and the families that they are the sum of.
const COUNTERS: [(&str, &str, &str); 8] = [
    ("accepted", "waystation_inbound_accepted_total", ""),
    ("refused", "waystation_inbound_refused_total", ""),
    ("acked", "waystation_items_acked_total", ""),
    ("replayed", "waystation_items_replayed_total", ""),
    ("attempts", "waystation_outbound_attempts_total", ""),
    ("sent", "waystation_outbound_results_total", "result=\"sent\""),
    ("failed", "waystation_outbound_results_total", "result=\"failed\""),
    ("indeterminate", "waystation_outbound_results_total", "result=\"indeterminate\""),
];
/// What is looked at when a step ends. The first one is what waits for gateways.
const GAUGES: [(&str, &str, &str); 2] =
    [("ready", "waystation_spool_items", "state=\"ready\""), ("sessions", "waystation_tunnel_sessions", "")];
/// What the spool counts as ready and no gateway is to fetch: taken off the gauge `ready`.
const OUTGOING: (&str, &str) = ("waystation_outbound_queue", "state=\"ready\"");
const COMMIT_BUCKET: &str = "waystation_spool_commit_seconds_bucket";
const BATCH_SUM: &str = "waystation_spool_commit_batch_records_sum";
const BATCH_COUNT: &str = "waystation_spool_commit_batch_records_count";

/// The numbers of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    counters: [u64; COUNTERS.len()],
    gauges: [u64; GAUGES.len()],
    /// Upper bounds in seconds, the last one infinite, and how many commits took no longer.
    commits: Vec<(f64, u64)>,
    batch_records: u64,
    batches: u64,
}

impl Reading {
    /// Reads an exposition as [`super::Metrics::text`] writes it.
    #[must_use]
    pub fn of(exposition: &str) -> Self {
        let mut reading = Self::default();
        let mut outgoing = 0;
        for line in exposition.lines().filter(|line| !line.starts_with('#')) {
            let Some((head, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = head.split_once('{').unwrap_or((head, ""));
            for (n, (_, family, label)) in COUNTERS.iter().enumerate() {
                if name == *family && labels.contains(label) {
                    reading.counters[n] = reading.counters[n].saturating_add(whole(value));
                }
            }
            for (n, (_, family, label)) in GAUGES.iter().enumerate() {
                if name == *family && labels.contains(label) {
                    reading.gauges[n] = whole(value);
                }
            }
            if name == OUTGOING.0 && labels.contains(OUTGOING.1) {
                outgoing = whole(value);
            }
            match name {
                COMMIT_BUCKET if reading.commits.len() < BUCKETS_MAX => {
                    reading.commits.extend(bound(labels).map(|bound| (bound, whole(value))));
                }
                BATCH_SUM => reading.batch_records = whole(value),
                BATCH_COUNT => reading.batches = whole(value),
                _ => {}
            }
        }
        if let Some(ready) = reading.gauges.first_mut() {
            *ready = ready.saturating_sub(outgoing);
        }
        reading
    }

    /// The time within which `share` of all commits so far ended, milliseconds, as far as buckets tell; `None` before the
    /// first.
    #[must_use]
    pub fn commit_ms(&self, share: f64) -> Option<f64> {
        let bounds: Vec<f64> = self.commits.iter().map(|(bound, _)| *bound).collect();
        quantile_ms(&bounds, &self.since(&Self::default()).commits, share)
    }

    /// What was counted between `earlier` and this.
    fn since(&self, earlier: &Self) -> Step {
        let mut counted = [0; COUNTERS.len()];
        for (n, count) in counted.iter_mut().enumerate() {
            *count = grown(earlier.counters[n], self.counters[n]);
        }
        let before = |n: usize| earlier.commits.get(n).map_or(0, |(_, count)| *count);
        let cumulative: Vec<u64> =
            self.commits.iter().enumerate().map(|(n, (_, count))| grown(before(n), *count)).collect();
        let below = |n: usize| n.checked_sub(1).map_or(0, |n| cumulative[n]);
        Step {
            counted,
            gauges: self.gauges,
            commits: cumulative.iter().enumerate().map(|(n, count)| count.saturating_sub(below(n))).collect(),
            batch_records: grown(earlier.batch_records, self.batch_records),
            batches: grown(earlier.batches, self.batches),
        }
    }
}

/// By how much a counter grew; one that went down began again.
fn grown(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, and sums of counts")]
fn whole(value: &str) -> u64 {
    value.parse::<u64>().ok().or_else(|| value.parse::<f64>().ok().map(|float| float as u64)).unwrap_or(0)
}

/// The upper bound in a bucket's labels.
fn bound(labels: &str) -> Option<f64> {
    let (_, rest) = labels.split_once("le=\"")?;
    let (text, _) = rest.split_once('"')?;
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
}

/// What happened in one step.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    counted: [u64; COUNTERS.len()],
    gauges: [u64; GAUGES.len()],
    /// Commits per bucket.
    commits: Vec<u64>,
    batch_records: u64,
    batches: u64,
}

/// The last steps. See the module.
#[derive(Clone, Debug)]
pub struct History {
    /// Always [`LENGTH`] of them, the oldest first.
    steps: VecDeque<Option<Step>>,
    /// Number of the step under way: wall time in steps.
    at: u64,
    last: Reading,
    /// Upper bounds of the commit latencies, seconds.
    bounds: Vec<f64>,
}

/// Commits of the last minute. The latencies are interpolated within the buckets of a histogram, as Prometheus does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Commits {
    /// How many.
    pub count: u64,
    /// Half of them took no longer, milliseconds.
    pub p50_ms: Option<f64>,
    /// All but one in a hundred took no longer, milliseconds.
    pub p99_ms: Option<f64>,
    /// Records that one made stable, on average.
    pub batch_mean: Option<f64>,
}

/// The history as plain values.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// When the last of the steps ended.
    pub until: WallMs,
    /// Series by name, each [`LENGTH`] long, the oldest first: counts per step, then gauges at the end of the step.
    pub series: Vec<(&'static str, Vec<Option<u64>>)>,
    /// All but one in a hundred commits of a step took no longer, milliseconds.
    pub commit_p99_ms: Vec<Option<f64>>,
    /// The last minute of commits.
    pub commits: Commits,
}

impl History {
    /// An empty history of a relay that starts at `now`, with all counters at zero.
    #[must_use]
    pub fn new(now: WallMs) -> Self {
        let steps = std::iter::repeat_with(|| None).take(LENGTH).collect();
        Self { steps, at: now.0 / STEP_MS, last: Reading::default(), bounds: Vec::new() }
    }

    /// Whether a step has ended, so that a reading is wanted.
    #[must_use]
    pub fn is_due(&self, now: WallMs) -> bool {
        now.0 / STEP_MS != self.at
    }

    /// Takes the numbers of `now`; nothing happens before a step's end.
    pub fn feed(&mut self, reading: Reading, now: WallMs) {
        let at = now.0 / STEP_MS;
        let ended = at.saturating_sub(self.at);
        self.at = at;
        if ended == 0 {
            return;
        }
        let unseen = usize::try_from(ended - 1).unwrap_or(LENGTH).min(LENGTH - 1);
        for _ in 0..unseen {
            self.push(None);
        }
        let step = reading.since(&self.last);
        if self.bounds.len() != reading.commits.len() {
            self.bounds = reading.commits.iter().map(|(bound, _)| *bound).collect();
        }
        self.last = reading;
        self.push(Some(step));
    }

    fn push(&mut self, step: Option<Step>) {
        self.steps.pop_front();
        self.steps.push_back(step);
    }

    /// Everything, to be shown.
    #[must_use]
    pub fn view(&self) -> View {
        let all = |of: &dyn Fn(&Step) -> u64| self.steps.iter().map(|s| s.as_ref().map(of)).collect();
        let counted = COUNTERS.iter().enumerate().map(|(n, (name, ..))| (*name, all(&|s| s.counted[n])));
        let gauges = GAUGES.iter().enumerate().map(|(n, (name, ..))| (*name, all(&|s| s.gauges[n])));
        let p99 = |step: &Step| quantile_ms(&self.bounds, &step.commits, 0.99);
        View {
            until: WallMs(self.at * STEP_MS),
            series: counted.chain(gauges).collect(),
            commit_p99_ms: self.steps.iter().map(|step| step.as_ref().and_then(p99)).collect(),
            commits: self.commits(),
        }
    }

    fn commits(&self) -> Commits {
        let mut counts = vec![0_u64; self.bounds.len()];
        let (mut records, mut batches) = (0_u64, 0_u64);
        for step in self.steps.iter().rev().take(MINUTE).flatten() {
            for (sum, count) in counts.iter_mut().zip(&step.commits) {
                *sum = sum.saturating_add(*count);
            }
            records = records.saturating_add(step.batch_records);
            batches = batches.saturating_add(step.batches);
        }
        Commits {
            count: counts.iter().sum(),
            p50_ms: quantile_ms(&self.bounds, &counts, 0.5),
            p99_ms: quantile_ms(&self.bounds, &counts, 0.99),
            batch_mean: (batches > 0).then(|| float(records) / float(batches)),
        }
    }
}

/// The value below which `share` of what was observed lies, as far as buckets tell: spread evenly within its bucket, and in
/// the last, unbounded one, its lower bound.
fn quantile_ms(bounds: &[f64], counts: &[u64], share: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = float(total) * share;
    let (mut below, mut lower) = (0_u64, 0.0);
    for (upper, count) in bounds.iter().zip(counts) {
        if *count > 0 && float(below + count) >= rank {
            let part = (rank - float(below)) / float(*count);
            let value = if upper.is_finite() { lower + (upper - lower) * part } else { lower };
            return Some(value * 1000.0);
        }
        below += count;
        lower = *upper;
    }
    Some(lower * 1000.0)
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
