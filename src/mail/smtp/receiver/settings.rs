//! What an operator can choose about sessions, and the arithmetic of patience.

use std::time::{Duration, Instant};

use crate::mail::address;

/// Limits and names of SMTP sessions. All sessions of a process share one value; clone it freely.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name in banner, replies and trace fields.
    pub hostname: String,
    /// Domains we accept mail for, as [`address::domain_key`] gives them.
    pub domains: Vec<String>,
    /// Take mail for every domain: a submission server (RFC 6409), whose clients are trusted by where they are.
    pub any_domain: bool,
    /// Largest message, octets with CRLF (RFC 1870).
    pub message_bytes_max: u64,
    /// Most recipients of one message; at least 100 (RFC 5321 §4.5.3.1.8).
    pub recipients_max: usize,
    /// Most transactions in one session.
    pub messages_max: u32,
    /// Mistakes answered before the session ends.
    pub errors_max: u32,
    /// Commands without progress (NOOP, RSET, VRFY, ...) before the session ends.
    pub idle_commands_max: u32,
    /// Unknown recipients answered before the session ends.
    pub unknown_recipients_max: u32,
    /// Pause before the banner; whoever speaks in it is refused. Zero: none.
    pub greet_delay: Duration,
    /// Longest wait for a complete command, not prolonged by its octets (RFC 5321 §4.5.3.2.7: 5 min).
    pub command_timeout: Duration,
    /// Longest silence inside a body (RFC 5321 §4.5.3.2.5: 3 min).
    pub body_timeout: Duration,
    /// Longest time for one body, however lively.
    pub message_timeout: Duration,
    /// Slowest body, octets per second, after a start of `command_timeout`; 0: any.
    pub body_rate_min: u64,
    /// Longest wait and longest silence while many sessions are open.
    pub loaded_timeout: Duration,
}

impl Settings {
    /// The defaults for a relay of this name and these domains. Domains that are none are left out: the
    /// configuration has refused them before.
    #[must_use]
    pub fn new(hostname: &str, domains: &[String]) -> Self {
        Self {
            hostname: hostname.to_owned(),
            domains: domains.iter().filter_map(|domain| address::domain_key(domain).ok()).collect(),
            any_domain: false,
            message_bytes_max: 26_214_400,
            recipients_max: 100,
            messages_max: 1000,
            errors_max: 20,
            idle_commands_max: 100,
            unknown_recipients_max: 20,
            greet_delay: Duration::ZERO,
            command_timeout: Duration::from_secs(300),
            body_timeout: Duration::from_secs(180),
            message_timeout: Duration::from_secs(6 * 3600),
            body_rate_min: 500,
            loaded_timeout: Duration::from_secs(10),
        }
    }

    /// All waits multiplied by `factor`, so that a test can watch them pass. Rates stay.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            greet_delay: self.greet_delay.mul_f64(factor),
            command_timeout: self.command_timeout.mul_f64(factor),
            body_timeout: self.body_timeout.mul_f64(factor),
            message_timeout: self.message_timeout.mul_f64(factor),
            loaded_timeout: self.loaded_timeout.mul_f64(factor),
            ..self
        }
    }

    /// How long to wait for a command.
    pub(super) fn command_patience(&self, loaded: bool) -> Duration {
        if loaded { self.loaded_timeout.min(self.command_timeout) } else { self.command_timeout }
    }

    /// When a body that began at `since`, had its latest octet at `last` and `bytes` in all is given up.
    pub(super) fn body_deadline(&self, since: Instant, last: Instant, bytes: u64, loaded: bool) -> Instant {
        let silence = if loaded { self.loaded_timeout.min(self.body_timeout) } else { self.body_timeout };
        let earned = bytes.checked_div(self.body_rate_min).map_or(self.message_timeout, Duration::from_secs);
        let whole = self.message_timeout.min(self.command_timeout.saturating_add(earned));
        (last + silence).min(since + whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn slow_but_honest_bodies_live_and_trickles_die() {
        let settings = Settings::new("mx", &[]);
        let start = Instant::now();
        let second = Duration::from_secs(1);
        // R9: 1 KB/s for 10 000 s.
        for n in 0..10_000_u32 {
            let last = start + second * n;
            assert!(settings.body_deadline(start, last, u64::from(n) * 1000, false) > last + second);
        }
        // One octet per second is cut after the start.
        let last = start + second * 400;
        assert!(settings.body_deadline(start, last, 400, false) < last);
        // R10
        assert_eq!(settings.body_deadline(start, start, 0, true), start + second * 10);
        assert_eq!(settings.command_patience(true), second * 10);
    }
}
