//! What one measurement gives: named figures, latencies, and what was counted over time.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Longest latency that is told apart, microseconds: ten minutes.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// One number with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) value: f64,
}

/// What a figure counts; decides how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A rate: more is better.
    PerSecond,
    /// A time in seconds.
    Seconds,
    /// CPU seconds for a thousand messages.
    CpuPerThousand,
    /// Bytes.
    Bytes,
    /// A time in milliseconds.
    Milliseconds,
    /// A plain number.
    Count,
}

impl Unit {
    /// With as many digits as help.
    pub(super) fn print(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::Count => format!("{value:.0}"),
            Self::Seconds => format!("{value:.2}"),
            Self::CpuPerThousand => format!("{value:.3}"),
            Self::Milliseconds => format!("{value:.2}"),
            Self::Bytes if value < 0.0 => format!("{value:.0} B"),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked, and rounded"
            )]
            Self::Bytes => crate::cli::screen::bytes(value as u64),
        }
    }
}

/// Latencies of one kind, in a histogram with three significant digits.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    pub(super) name: &'static str,
    histogram: Histogram<u64>,
}

impl Latency {
    pub(super) fn new(name: &'static str) -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS);
        Self { name, histogram: histogram.expect("the bounds are constant and valid") }
    }

    pub(super) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(us.max(1));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
    }

    pub(super) fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// Milliseconds at a quantile, 0.0 to 1.0.
    pub(super) fn at(&self, quantile: f64) -> f64 {
        millis(self.histogram.value_at_quantile(quantile))
    }

    /// Milliseconds on average.
    pub(super) fn mean(&self) -> f64 {
        self.histogram.mean() / 1000.0
    }

    /// Quantile and milliseconds, towards the far end in ever smaller steps: what is drawn.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let steps = self.histogram.iter_quantiles(5);
        steps.map(|step| (step.quantile(), millis(step.value_iterated_to()))).collect()
    }

    fn json(&self) -> Value {
        let buckets: Vec<Value> = self
            .histogram
            .iter_recorded()
            .map(|bucket| json!([bucket.value_iterated_to(), bucket.count_at_value()]))
            .collect();
        json!({
            "count": self.len(),
            "p50_ms": self.at(0.5),
            "p90_ms": self.at(0.9),
            "p99_ms": self.at(0.99),
            "p999_ms": self.at(0.999),
            "max_ms": self.at(1.0),
            "histogram_us": buckets,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "ten minutes of microseconds fit")]
fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// What was counted over time: seconds since the start, value.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// All that one side gave in one turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) figures: Vec<Figure>,
    pub(super) latencies: Vec<Latency>,
    pub(super) series: Vec<Series>,
}

impl Outcome {
    pub(super) fn figure(&mut self, name: &'static str, unit: Unit, value: f64) {
        self.figures.push(Figure { name, unit, value });
    }

    /// The quantiles of a latency become figures, and the whole of it is kept.
    pub(super) fn latency(&mut self, latency: Latency, quantiles: &[(&'static str, f64)]) {
        for (name, quantile) in quantiles {
            self.figure(name, Unit::Milliseconds, latency.at(*quantile));
        }
        self.latencies.push(latency);
    }

    pub(super) fn get(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    pub(super) fn json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        for figure in &self.figures {
            object.insert(figure.name.to_owned(), json!(figure.value));
        }
        for latency in &self.latencies {
            object.insert(format!("{}_latency", latency.name), latency.json());
        }
        for series in &self.series {
            object.insert(format!("{}_over_time", series.name), json!(series.points));
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_keeps_three_digits_and_what_is_too_long_counts_as_the_longest() {
        let mut latency = Latency::new("dot");
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        assert!((latency.at(0.5) - 50.0).abs() < 0.1, "{}", latency.at(0.5));
        assert!((latency.at(0.99) - 99.0).abs() < 0.1);
        latency.record(Duration::from_secs(100_000));
        assert!((latency.at(1.0) / 600_000.0 - 1.0).abs() < 0.001);
        assert_eq!(latency.len(), 101);
        assert!(latency.curve().windows(2).all(|two| two[0].0 <= two[1].0 && two[0].1 <= two[1].1));
    }

    #[test]
    fn figures_are_found_by_name_and_in_the_json() {
        let mut outcome = Outcome::default();
        outcome.figure("messages_per_second", Unit::PerSecond, 12.5);
        let mut latency = Latency::new("dot");
        latency.record(Duration::from_millis(2));
        outcome.latency(latency, &[("dot_p50_ms", 0.5)]);
        assert_eq!(outcome.get("messages_per_second"), Some(12.5));
        let object = outcome.json();
        assert_eq!(object["dot_latency"]["count"], 1);
        assert!(object["dot_p50_ms"].as_f64().is_some_and(|ms| (ms - 2.0).abs() < 0.01));
    }
}
