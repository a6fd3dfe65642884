//! What can be wrong with a running relay, in one list: `/ready`, the log and `waystation_condition` use the same words.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Whether mail can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `/ready` answers 503.
    NotReady,
    /// `/ready` answers 200 and warns.
    Warning,
}

impl Effect {
    fn word(self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The first look was not made yet.
    Starting,
    /// It stops; sessions finish what is under way.
    Stopping,
    /// The spool did not answer in time.
    SpoolSilent,
    /// A commit failed; nothing is accepted until a restart.
    SpoolPoisoned,
    /// The spool cannot be written for another reason.
    SpoolFailed,
    /// Free space is below `spool.min_free_bytes`.
    NoSpace,
    /// A listener for mail or for gateways ended, or cannot accept connections.
    ListenerDown,
    /// Several questions in a row got no answer from any name server.
    ResolverSilent,
    /// The admin socket ended.
    AdminDown,
    /// The certificate that is served has run out.
    CertificateExpired,
    /// TLS is configured, and there is no certificate yet.
    NoCertificate,
    /// Nothing is handed to other mail servers.
    DeliveriesPaused,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Starting,
        Self::Stopping,
        Self::SpoolSilent,
        Self::SpoolPoisoned,
        Self::SpoolFailed,
        Self::NoSpace,
        Self::ListenerDown,
        Self::ResolverSilent,
        Self::AdminDown,
        Self::CertificateExpired,
        Self::NoCertificate,
        Self::DeliveriesPaused,
    ];

    /// The word in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::SpoolSilent => "spool_silent",
            Self::SpoolPoisoned => "spool_poisoned",
            Self::SpoolFailed => "spool_failed",
            Self::NoSpace => "no_space",
            Self::ListenerDown => "listener_down",
            Self::ResolverSilent => "resolver_silent",
            Self::AdminDown => "admin_down",
            Self::CertificateExpired => "certificate_expired",
            Self::NoCertificate => "no_certificate",
            Self::DeliveriesPaused => "deliveries_paused",
        }
    }

    /// What it means for mail.
    #[must_use]
    pub fn effect(self) -> Effect {
        match self {
            Self::Starting
            | Self::Stopping
            | Self::SpoolSilent
            | Self::SpoolPoisoned
            | Self::SpoolFailed
            | Self::NoSpace
            | Self::ListenerDown
            | Self::ResolverSilent => Effect::NotReady,
            Self::AdminDown | Self::CertificateExpired | Self::NoCertificate | Self::DeliveriesPaused => {
                Effect::Warning
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    condition: &'static str,
    effect: &'static str,
}

/// The families.
#[derive(Clone, Debug, Default)]
pub struct ConditionFamilies {
    active: Family<Labels, Gauge>,
    unanswered: Gauge,
}

impl ConditionFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "condition",
            "1 while this is so; effect says whether /ready answers 503 for it or only warns",
            self.active.clone(),
        );
        r.register(
            "dns_unanswered_probes",
            "Questions in a row that no name server answered; three make the relay not ready",
            self.unanswered.clone(),
        );
        self.set(&[]);
    }

    /// These are so now, and no others.
    pub fn set(&self, active: &[Condition]) {
        for condition in Condition::ALL {
            let labels = Labels { condition: condition.word(), effect: condition.effect().word() };
            self.active.get_or_create(&labels).set(i64::from(active.contains(&condition)));
        }
    }

    /// So many questions in a row were not answered.
    pub fn set_unanswered(&self, probes: u32) {
        self.unanswered.set(i64::from(probes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_is_published_once_and_only_what_is_so_is_one() {
        let metrics = crate::observe::Metrics::new();
        metrics.conditions.set(&[Condition::NoSpace]);
        let text = metrics.text();
        let lines: Vec<_> = text.lines().filter(|l| l.starts_with("waystation_condition{")).collect();
        assert_eq!(lines.len(), Condition::ALL.len());
        let on: Vec<_> = lines.iter().filter(|l| l.ends_with(" 1")).collect();
        assert_eq!(on, [&r#"waystation_condition{condition="no_space",effect="not_ready"} 1"#]);
    }
}
