//! Numbers of the dashboard: who came in, and what was changed through it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What can be changed through the dashboard.
const VERBS: [&str; 9] =
    ["hold", "release", "replay", "replay_lane", "retry", "cancel", "purge", "pause", "resume"];
/// What became of a change.
const MADE: &str = "made";
const REFUSED: &str = "refused";

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Login {
    /// The token was right.
    Accepted,
    /// It was missing or wrong.
    Refused,
    /// The address had tried too often.
    Limited,
}

impl Login {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Limited];

    fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Limited => "rate_limited",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    verb: &'static str,
    outcome: &'static str,
}

/// The families.
#[derive(Clone, Debug, Default)]
pub struct DashboardFamilies {
    logins: Family<OutcomeLabel, Counter>,
    changes: Family<ChangeLabels, Counter>,
}

impl DashboardFamilies {
    /// Registers all of them.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("dashboard_logins", "Logins to the dashboard by outcome", self.logins.clone());
        registry.register(
            "dashboard_changes",
            "Changes asked for through the dashboard by verb and whether they were made",
            self.changes.clone(),
        );
        for outcome in Login::ALL.map(Login::word) {
            drop(self.logins.get_or_create(&OutcomeLabel { outcome }));
        }
        for verb in VERBS {
            for outcome in [MADE, REFUSED] {
                drop(self.changes.get_or_create(&ChangeLabels { verb, outcome }));
            }
        }
    }

    /// Somebody gave a token.
    pub fn login(&self, outcome: Login) {
        self.logins.get_or_create(&OutcomeLabel { outcome: outcome.word() }).inc();
    }

    /// Somebody confirmed a change.
    ///
    /// * `verb` – one of `VERBS`, never a word of a request.
    pub fn change(&self, verb: &'static str, made: bool) {
        // A word of its own would be a series that is not there before the first change, and that docs/metrics.md does not know.
        debug_assert!(VERBS.contains(&verb), "{verb}");
        let outcome = if made { MADE } else { REFUSED };
        self.changes.get_or_create(&ChangeLabels { verb, outcome }).inc();
    }
}
