//! What operators do to the process, in numbers: reloads and hand-overs.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Whether it came to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operated {
    /// Done.
    Done,
    /// Refused, and everything is as it was.
    Refused,
}

impl Operated {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The families.
#[derive(Clone, Debug, Default)]
pub struct OperateFamilies {
    reloads: Family<OutcomeLabel, Counter>,
    reloaded_at: Gauge<f64, AtomicU64>,
    handovers: Family<OutcomeLabel, Counter>,
    gap: Gauge<f64, AtomicU64>,
}

impl OperateFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        for outcome in [Operated::Done, Operated::Refused] {
            let label = OutcomeLabel { outcome: outcome.word() };
            drop(self.reloads.get_or_create(&label));
            drop(self.handovers.get_or_create(&label));
        }
        r.register("config_reloads", "Reloads of the configuration by outcome", self.reloads.clone());
        r.register_with_unit(
            "config_loaded_timestamp",
            "When the configuration that holds was read, seconds since 1970",
            Unit::Seconds,
            self.reloaded_at.clone(),
        );
        r.register(
            "handovers",
            "Hand-over restarts: done ones since this process was started by somebody else, refused ones since the latest of them",
            self.handovers.clone(),
        );
        r.register_with_unit(
            "handover_gap",
            "Time without gateways in the latest hand-over; 0 when there was none",
            Unit::Seconds,
            self.gap.clone(),
        );
    }

    /// A configuration was read, at the start or later; milliseconds since 1970.
    #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit 53 bits")]
    pub fn loaded(&self, now_ms: u64) {
        self.reloaded_at.set(now_ms as f64 / 1000.0);
    }

    /// Counts one reload.
    pub fn reload(&self, outcome: Operated) {
        self.reloads.get_or_create(&OutcomeLabel { outcome: outcome.word() }).inc();
    }

    /// Counts one hand-over that did not begin.
    pub fn handover_refused(&self) {
        self.handovers.get_or_create(&OutcomeLabel { outcome: Operated::Refused.word() }).inc();
    }

    /// This process took over: the `count`th time in its life, after `gap_ms` without gateways.
    #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit 53 bits")]
    pub fn took_over(&self, count: u64, gap_ms: u64) {
        self.handovers.get_or_create(&OutcomeLabel { outcome: Operated::Done.word() }).inc_by(count);
        self.gap.set(gap_ms as f64 / 1000.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn families_have_the_names_of_the_contract() {
        let metrics = Metrics::new();
        metrics.operate.loaded(1_800_000_000_500);
        metrics.operate.reload(Operated::Done);
        metrics.operate.took_over(3, 250);
        let text = metrics.text();
        for line in [
            "waystation_config_reloads_total{outcome=\"done\"} 1",
            "waystation_config_reloads_total{outcome=\"refused\"} 0",
            "waystation_config_loaded_timestamp_seconds 1800000000.5",
            "waystation_handovers_total{outcome=\"done\"} 3",
            "waystation_handovers_total{outcome=\"refused\"} 0",
            "waystation_handover_gap_seconds 0.25",
        ] {
            assert!(text.lines().any(|l| l == line), "missing {line} in\n{text}");
        }
    }
}
