//! Numbers of mail out.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::{Metrics, WAIT_BUCKETS, seconds, whole};

/// Upper bounds of the time that one attempt takes, seconds: from a server next door to the last of all timeouts.
const ATTEMPT_BUCKETS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];
/// How an attempt can end.
const ATTEMPT_OUTCOMES: [&str; 4] = ["sent", "failed", "indeterminate", "deferred"];
/// What a result can be.
const RESULTS: [&str; 3] = ["sent", "failed", "indeterminate"];
/// How a message can be protected on its way out.
const LEVELS: [&str; 4] = ["none", "unverified", "web_pki", "dane"];

/// Where deliveries go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryClass {
    /// A lane of this relay.
    Local,
    /// The configured smarthost.
    Smarthost,
    /// The recipient's own servers.
    Direct,
}

impl DeliveryClass {
    const ALL: [Self; 3] = [Self::Local, Self::Smarthost, Self::Direct];

    fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Smarthost => "smarthost",
            Self::Direct => "direct",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    class: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    level: &'static str,
}

/// The families.
#[derive(Clone, Debug)]
pub struct OutboundFamilies {
    attempts: Family<AttemptLabels, Counter>,
    attempt: Histogram,
    results: Family<ResultLabel, Counter>,
    delivery: Histogram,
    tls: Family<LevelLabel, Counter>,
    running: Gauge,
    destinations: Gauge,
    dead: Gauge,
    paused: Gauge,
}

impl Default for OutboundFamilies {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            attempt: Histogram::new(ATTEMPT_BUCKETS),
            results: Family::default(),
            delivery: Histogram::new(WAIT_BUCKETS),
            tls: Family::default(),
            running: Gauge::default(),
            destinations: Gauge::default(),
            dead: Gauge::default(),
            paused: Gauge::default(),
        }
    }
}

impl OutboundFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "outbound_attempts",
            "Attempts to deliver a submission, by outcome and by where it goes",
            self.attempts.clone(),
        );
        r.register_with_unit(
            "outbound_attempt",
            "Time of one attempt, over all the hosts that were tried",
            Unit::Seconds,
            self.attempt.clone(),
        );
        r.register("outbound_results", "Results of submissions by kind", self.results.clone());
        r.register("outbound_tls", "Messages offered to a server, by protection", self.tls.clone());
        r.register_with_unit(
            "outbound_delivery",
            "Time from acceptance of a submission to its result",
            Unit::Seconds,
            self.delivery.clone(),
        );
        r.register("outbound_running", "Attempts under way now", self.running.clone());
        r.register(
            "outbound_destinations",
            "Recipient domains with mail waiting, or recently so",
            self.destinations.clone(),
        );
        r.register(
            "outbound_dead_destinations",
            "Recipient domains that are left alone because they did not answer",
            self.dead.clone(),
        );
        r.register("outbound_paused", "1 while deliveries are paused", self.paused.clone());
        self.begin_at_zero();
    }

    fn begin_at_zero(&self) {
        for class in DeliveryClass::ALL {
            for outcome in ATTEMPT_OUTCOMES {
                drop(self.attempts.get_or_create(&AttemptLabels { class: class.word(), outcome }));
            }
        }
        for result in RESULTS {
            drop(self.results.get_or_create(&ResultLabel { result }));
        }
        for level in LEVELS {
            drop(self.tls.get_or_create(&LevelLabel { level }));
        }
    }
}

impl Metrics {
    /// Counts one attempt; `outcome`: `sent`, `failed`, `indeterminate` or `deferred`.
    pub fn outbound_attempted(&self, outcome: &'static str, class: DeliveryClass) {
        self.outbound.attempts.get_or_create(&AttemptLabels { class: class.word(), outcome }).inc();
    }

    /// How long one attempt took, milliseconds.
    pub fn outbound_attempt_took(&self, duration_ms: u64) {
        self.outbound.attempt.observe(seconds(duration_ms));
    }

    /// Counts one result; `latency_ms` since the submission was accepted.
    pub fn outbound_settled(&self, result: &'static str, latency_ms: u64) {
        self.outbound.results.get_or_create(&ResultLabel { result }).inc();
        self.outbound.delivery.observe(seconds(latency_ms));
    }

    /// Counts one message offered to a server; `level`: `none`, `unverified`, `web_pki` or `dane`.
    pub fn outbound_tls(&self, level: &'static str) {
        self.outbound.tls.get_or_create(&LevelLabel { level }).inc();
    }

    /// Copies the state of deliveries: attempts under way, destinations known, those left alone, and the pause.
    pub fn set_outbound(&self, running: usize, destinations: usize, dead: usize, paused: bool) {
        self.outbound.running.set(whole(running as u64));
        self.outbound.destinations.set(whole(destinations as u64));
        self.outbound.dead.set(whole(dead as u64));
        self.outbound.paused.set(i64::from(paused));
    }
}
