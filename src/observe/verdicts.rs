//! Numbers about the checks of senders.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the duration of all checks of one message, seconds.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What is checked.
const METHODS: [&str; 4] = ["spf", "dkim", "dmarc", "arc"];
/// What they find (RFC 8601 section 2.7).
const WORDS: [&str; 8] = ["none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    result: &'static str,
}

/// What was found out about senders.
#[derive(Clone, Debug)]
pub struct VerdictFamilies {
    results: Family<Labels, Counter>,
    seconds: Histogram,
    timeouts: Counter,
}

impl Default for VerdictFamilies {
    fn default() -> Self {
        Self { results: Family::default(), seconds: Histogram::new(BUCKETS), timeouts: Counter::default() }
    }
}

impl VerdictFamilies {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "verify_results",
            "Results of the checks of incoming mail, by method and by the word in Authentication-Results",
            self.results.clone(),
        );
        registry.register_with_unit(
            "verify",
            "Time that all checks of one message took",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "verify_timeouts",
            "Messages whose checks had to end before all answers of DNS were there",
            self.timeouts.clone(),
        );
        for method in METHODS {
            for result in WORDS {
                drop(self.results.get_or_create(&Labels { method, result }));
            }
        }
    }

    /// One result.
    pub fn found(&self, method: &'static str, result: &'static str) {
        self.results.get_or_create(&Labels { method, result }).inc();
    }

    /// All checks of one message are done.
    pub fn judged(&self, seconds: f64) {
        self.seconds.observe(seconds);
    }

    /// The checks of one message ran out of time.
    pub fn timed_out(&self) {
        self.timeouts.inc();
    }
}
