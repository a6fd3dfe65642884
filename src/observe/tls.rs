//! TLS of our own listeners, in numbers.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Who shook hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsListener {
    /// SMTP, after STARTTLS.
    Smtp,
    /// HTTPS.
    Https,
}

impl TlsListener {
    const ALL: [Self; 2] = [Self::Smtp, Self::Https];

    /// The word in metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Https => "https",
        }
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl TlsVersion {
    const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    /// The word in metrics, logs and trace fields.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::V1_2 => "TLSv1.2",
            Self::V1_3 => "TLSv1.3",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionLabels {
    listener: &'static str,
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

/// In place of a version.
const NO_TLS: &str = "none";

/// The families.
#[derive(Clone, Debug, Default)]
pub struct TlsFamilies {
    sessions: Family<SessionLabels, Counter>,
    failures: Family<ListenerLabel, Counter>,
    messages: Family<VersionLabel, Counter>,
    expiry: Gauge<f64, AtomicU64>,
}

impl TlsFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "tls_sessions",
            "TLS handshakes that succeeded, by listener and version",
            self.sessions.clone(),
        );
        r.register(
            "tls_handshake_failures",
            "TLS handshakes that failed or took too long, by listener",
            self.failures.clone(),
        );
        r.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "When the certificate that is served runs out, seconds since 1970; 0 when none is served",
            Unit::Seconds,
            self.expiry.clone(),
        );
        r.register(
            "inbound_tls",
            "Messages answered 250, by the version of TLS that they came in",
            self.messages.clone(),
        );
        for version in [NO_TLS].into_iter().chain(TlsVersion::ALL.map(TlsVersion::word)) {
            drop(self.messages.get_or_create(&VersionLabel { version }));
        }
        for listener in TlsListener::ALL.map(TlsListener::word) {
            drop(self.failures.get_or_create(&ListenerLabel { listener }));
            for version in TlsVersion::ALL.map(TlsVersion::word) {
                drop(self.sessions.get_or_create(&SessionLabels { listener, version }));
            }
        }
    }

    /// Counts one session.
    pub fn session(&self, listener: TlsListener, version: TlsVersion) {
        let labels = SessionLabels { listener: listener.word(), version: version.word() };
        self.sessions.get_or_create(&labels).inc();
    }

    /// Counts one message that was taken; `protection` as logs have it: version and cipher suite, empty without TLS.
    pub fn message(&self, protection: &str) {
        let spoken = |version: &TlsVersion| protection.starts_with(version.word());
        let version = TlsVersion::ALL.into_iter().find(spoken).map_or(NO_TLS, TlsVersion::word);
        self.messages.get_or_create(&VersionLabel { version }).inc();
    }

    /// Counts one handshake that came to nothing.
    pub fn failure(&self, listener: TlsListener) {
        self.failures.get_or_create(&ListenerLabel { listener: listener.word() }).inc();
    }

    /// Remembers the end of validity, milliseconds since 1970.
    #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit 53 bits")]
    pub fn set_expiry(&self, not_after_ms: u64) {
        self.expiry.set((not_after_ms / 1000) as f64);
    }
}

#[cfg(test)]
mod tests {
    use crate::observe::{Metrics, TlsListener, TlsVersion};

    #[test]
    fn families_have_the_names_of_the_contract() {
        let metrics = Metrics::new();
        metrics.tls.session(TlsListener::Smtp, TlsVersion::V1_3);
        metrics.tls.failure(TlsListener::Https);
        metrics.tls.set_expiry(1_800_000_000_123);
        metrics.tls.message("TLSv1.3 TLS_AES_256_GCM_SHA384");
        metrics.tls.message("");
        let text = metrics.text();
        for line in [
            "waystation_tls_sessions_total{listener=\"smtp\",version=\"TLSv1.3\"} 1",
            "waystation_tls_handshake_failures_total{listener=\"https\"} 1",
            "waystation_inbound_tls_total{version=\"TLSv1.3\"} 1",
            "waystation_inbound_tls_total{version=\"none\"} 1",
            "waystation_tls_certificate_expiry_timestamp_seconds 1800000000.0",
        ] {
            assert!(text.lines().any(|l| l == line), "missing {line} in\n{text}");
        }
    }
}
