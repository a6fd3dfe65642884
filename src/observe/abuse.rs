//! Numbers of what was kept out, and a brake for the log lines that strangers can cause.
//!
//! Promises: labels come from this file or from the operator's configuration, never from a stranger; a flood of
//! refusals costs a bounded number of lines per minute, and the log says how many more there were (U6).
//!
//! Failure policy: a line that is not written is counted, and nothing waits for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Lines about refusals per [`LINES_PERIOD`]; a busy relay's own mistakes fit in.
const LINES_MAX: u32 = 600;
/// See [`LINES_MAX`].
const LINES_PERIOD: Duration = Duration::from_secs(60);

/// Which limit kept somebody out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limited {
    /// All SMTP connections were taken.
    ConnectionsTotal,
    /// Too many SMTP connections of one address or prefix at a time.
    ConnectionsPlace,
    /// Too many new SMTP connections of one address or prefix per minute.
    ConnectionRate,
    /// The address was inside its deny window.
    Denied,
    /// Too many messages of one address or prefix per minute.
    MessageRate,
    /// Too many unknown recipients.
    Harvest,
    /// Spoke before the greeting.
    EarlyTalker,
    /// Spoke another protocol.
    ForeignProtocol,
    /// A session that was silent, too slow, or brought nothing.
    Session,
    /// A sender whose domain takes no mail.
    NullMx,
    /// Too many connections without a proof on the tunnel, of one address or in all.
    TunnelStrangers,
    /// Too many tunnel logins of one address or prefix per minute.
    TunnelLogins,
    /// A connection that did not prove in time who it is.
    TunnelTimeout,
    /// Too many HTTP connections of one address.
    HttpPlace,
}

impl Limited {
    const ALL: [Self; 14] = [
        Self::ConnectionsTotal,
        Self::ConnectionsPlace,
        Self::ConnectionRate,
        Self::Denied,
        Self::MessageRate,
        Self::Harvest,
        Self::EarlyTalker,
        Self::ForeignProtocol,
        Self::Session,
        Self::NullMx,
        Self::TunnelStrangers,
        Self::TunnelLogins,
        Self::TunnelTimeout,
        Self::HttpPlace,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::ConnectionsTotal => "connections_total",
            Self::ConnectionsPlace => "connections_per_place",
            Self::ConnectionRate => "connection_rate",
            Self::Denied => "denied",
            Self::MessageRate => "message_rate",
            Self::Harvest => "unknown_recipients",
            Self::EarlyTalker => "early_talker",
            Self::ForeignProtocol => "foreign_protocol",
            Self::Session => "session",
            Self::NullMx => "null_mx",
            Self::TunnelStrangers => "tunnel_strangers",
            Self::TunnelLogins => "tunnel_login_rate",
            Self::TunnelTimeout => "tunnel_handshake_timeout",
            Self::HttpPlace => "http_per_place",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabel {
    zone: String,
}

/// The families.
#[derive(Clone, Debug, Default)]
pub struct AbuseFamilies {
    limited: Family<LimitLabel, Counter>,
    listed: Family<ZoneLabel, Counter>,
    /// Answers that waited in the tarpit.
    pub tarpitted: Counter,
    /// Sessions in the tarpit now.
    pub held: Gauge,
    /// Addresses that are denied now, or were lately.
    pub denied_places: Gauge,
    /// Log lines about refusals that were not written.
    pub lines_dropped: Counter,
}

impl AbuseFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "abuse_refused",
            "Connections, logins, sessions and messages kept out, by the limit they hit",
            self.limited.clone(),
        );
        r.register("abuse_dnsbl_hits", "Clients found on a block list, by zone", self.listed.clone());
        r.register(
            "abuse_tarpitted",
            "Answers about unknown recipients that were held back",
            self.tarpitted.clone(),
        );
        r.register("abuse_tarpit_sessions", "SMTP sessions held in the tarpit now", self.held.clone());
        r.register(
            "abuse_denied_places",
            "Addresses (IPv6: /64) inside a deny window, or so lately that the next one is longer",
            self.denied_places.clone(),
        );
        r.register(
            "abuse_log_lines_dropped",
            "Log lines about refusals that were left out because there were too many",
            self.lines_dropped.clone(),
        );
        for limit in Limited::ALL {
            drop(self.limited.get_or_create(&LimitLabel { limit: limit.word() }));
        }
    }

    /// Counts one refusal.
    pub fn limited(&self, limit: Limited) {
        self.limited.get_or_create(&LimitLabel { limit: limit.word() }).inc();
    }

    /// Counts one client that `zone` lists; zones are the operator's, so they are few.
    pub fn listed(&self, zone: &str) {
        self.listed.get_or_create(&ZoneLabel { zone: zone.to_owned() }).inc();
    }
}

/// Lets `LINES_MAX` log lines through per `LINES_PERIOD`.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    since: Option<Instant>,
    lines: u32,
    dropped: u64,
}

impl Throttle {
    /// Whether a line may be written now. When a new period begins after lines were left out, one line says how many.
    pub fn allows(&self, abuse: &AbuseFamilies, now: Instant) -> bool {
        let (allowed, dropped) = self.take(now);
        if dropped > 0 {
            tracing::warn!(
                event = "relay.abuse.lines_dropped",
                lines = dropped,
                "too many refusals to log each: {dropped} lines were left out"
            );
        }
        if !allowed {
            abuse.lines_dropped.inc();
        }
        allowed
    }

    /// Whether one more is allowed, and how many were not, when that period is over.
    fn take(&self, now: Instant) -> (bool, u64) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = 0;
        if used.since.is_none_or(|since| now.saturating_duration_since(since) >= LINES_PERIOD) {
            dropped = used.dropped;
            *used = Used { since: Some(now), ..Used::default() };
        }
        let allowed = used.lines < LINES_MAX;
        if allowed {
            used.lines += 1;
        } else {
            used.dropped += 1;
        }
        (allowed, dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_costs_a_bounded_number_of_lines_and_is_summed_up() {
        let (throttle, now) = (Throttle::default(), crate::clock::monotonic());
        let written = (0..5000).filter(|_| throttle.take(now).0).count();
        assert_eq!(written, LINES_MAX as usize); // U6
        assert_eq!(throttle.take(now + LINES_PERIOD), (true, 4400));
        assert_eq!(throttle.take(now + LINES_PERIOD), (true, 0));
    }
}
