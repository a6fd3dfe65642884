//! Numbers of what the relay signs.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignedKind {
    /// What is known about a sender, once for each offer.
    Attestation,
    /// What was taken, each time it is said.
    Receipt,
}

impl SignedKind {
    fn word(self) -> &'static str {
        match self {
            Self::Attestation => "attestation",
            Self::Receipt => "receipt",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Families of attestation and custody.
#[derive(Clone, Debug, Default)]
pub struct CustodyFamilies {
    signed: Family<KindLabel, Counter>,
    keys: Gauge,
}

impl CustodyFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("signed", "Statements signed for gateways, by kind", self.signed.clone());
        r.register(
            "signing_keys",
            "Signing keys that there ever were; 0 while nothing is signed",
            self.keys.clone(),
        );
        for kind in [SignedKind::Attestation, SignedKind::Receipt] {
            drop(self.signed.get_or_create(&KindLabel { kind: kind.word() }));
        }
    }

    /// One statement was signed.
    pub fn signed(&self, kind: SignedKind) {
        self.signed.get_or_create(&KindLabel { kind: kind.word() }).inc();
    }

    /// Statements of this kind signed so far.
    #[must_use]
    pub fn count(&self, kind: SignedKind) -> u64 {
        self.signed.get_or_create(&KindLabel { kind: kind.word() }).get()
    }

    /// There are so many keys.
    pub fn set_keys(&self, keys: usize) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }
}
