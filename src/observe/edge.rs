//! Numbers of what stands in front of the relay: proxies, the admin API over HTTP, and the ACME client.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Why a connection was closed that must begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyRefusal {
    /// It comes from no trusted proxy.
    Untrusted,
    /// It has no header, or a bad one.
    Invalid,
    /// The header did not come in time.
    Timeout,
    /// Too many wait for theirs.
    Busy,
    /// It ended before.
    Ended,
}

impl ProxyRefusal {
    const ALL: [Self; 5] = [Self::Untrusted, Self::Invalid, Self::Timeout, Self::Busy, Self::Ended];

    fn word(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Invalid => "invalid",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Ended => "ended",
        }
    }
}

/// What became of a request to the admin API over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdminHttp {
    /// It went through.
    Allowed,
    /// The token was missing or wrong.
    Unauthorized,
    /// The address tried too often.
    Limited,
    /// It came in the clear, from another site, or for another host.
    Forbidden,
}

impl AdminHttp {
    const ALL: [Self; 4] = [Self::Allowed, Self::Unauthorized, Self::Limited, Self::Forbidden];

    fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Unauthorized => "unauthorized",
            Self::Limited => "rate_limited",
            Self::Forbidden => "forbidden",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProxyLabels {
    listener: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The families.
#[derive(Clone, Debug, Default)]
pub struct EdgeFamilies {
    proxy_refused: Family<ProxyLabels, Counter>,
    admin_http: Family<OutcomeLabel, Counter>,
    acme_orders: Family<OutcomeLabel, Counter>,
    acme_next: Gauge<f64, AtomicU64>,
}

impl EdgeFamilies {
    /// Registers all of them.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "proxy_refused",
            "Connections closed because they had no PROXY header that counts, by listener and reason",
            self.proxy_refused.clone(),
        );
        registry.register(
            "admin_http_requests",
            "Requests to the admin API over HTTP by outcome of the checks in front of it",
            self.admin_http.clone(),
        );
        registry.register(
            "acme_orders",
            "Attempts to get a certificate from the ACME server by outcome",
            self.acme_orders.clone(),
        );
        registry.register_with_unit(
            "acme_next_attempt_timestamp",
            "When the ACME server is asked next, Unix time; 0: ACME is off",
            Unit::Seconds,
            self.acme_next.clone(),
        );
        for listener in ["smtp", "http"] {
            for reason in ProxyRefusal::ALL.map(ProxyRefusal::word) {
                drop(self.proxy_refused.get_or_create(&ProxyLabels { listener, reason }));
            }
        }
        for outcome in AdminHttp::ALL.map(AdminHttp::word) {
            drop(self.admin_http.get_or_create(&OutcomeLabel { outcome }));
        }
        for outcome in ["installed", "failed"] {
            drop(self.acme_orders.get_or_create(&OutcomeLabel { outcome }));
        }
    }

    /// A connection was closed for want of a PROXY header.
    pub fn proxy_refused(&self, listener: &'static str, reason: ProxyRefusal) {
        self.proxy_refused.get_or_create(&ProxyLabels { listener, reason: reason.word() }).inc();
    }

    /// A request came to the admin API over HTTP.
    pub fn admin_http(&self, outcome: AdminHttp) {
        self.admin_http.get_or_create(&OutcomeLabel { outcome: outcome.word() }).inc();
    }

    /// An order ended.
    pub fn acme_order(&self, installed: bool) {
        let outcome = if installed { "installed" } else { "failed" };
        self.acme_orders.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// The next order is planned for then, Unix milliseconds.
    pub fn acme_next(&self, at_ms: u64) {
        #[expect(clippy::cast_precision_loss, reason = "whole seconds fit")]
        self.acme_next.set((at_ms / 1000) as f64);
    }
}
