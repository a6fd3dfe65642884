//! What an operator can choose about sessions, and the arithmetic of patience.
//!
//! Promises: every wait has an end; waits shrink as the house fills ([`Load`]), so that those who only hold a
//! place lose it first. Failure policy: nothing can fail.

use std::time::{Duration, Instant};

use crate::mail::address;

/// Longest hold of one answer in the tarpit. Clients wait five minutes for it (RFC 5321 §4.5.3.2.3).
pub const TARPIT_DELAY_MAX: Duration = Duration::from_secs(30);
/// Unknown recipients of a session, or lately of its corner of the network, that are answered at once.
const TARPIT_FROM: u32 = 2;
/// An address may ask for this many times the unknown recipients that one session may.
pub(super) const OFFENCES_FACTOR: u32 = 5;
/// At full load a body has to be this many times as fast.
const LOADED_RATE_FACTOR: u64 = 16;
/// At full load a session without a message gets this many times the patience for one command.
const LOADED_FRUITLESS_FACTOR: u32 = 6;

/// How full the house is: nothing below half of its places, everything when the last one is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load(u32);

impl Load {
    /// Steps from nothing to everything. Few, so that most connections that come and go change none.
    pub const STEPS: u32 = 32;

    /// The load when `open` of `max` places are taken.
    #[must_use]
    pub fn of(open: usize, max: usize) -> Self {
        let half = max / 2;
        let steps = Self::STEPS as usize;
        let taken = open.saturating_sub(half).saturating_mul(steps) / (max - half).max(1);
        Self(u32::try_from(taken.min(steps)).unwrap_or(Self::STEPS))
    }

    /// What is left of the patience `full`: at full load `least`, or `full` if that is less.
    #[must_use]
    pub fn patience(self, full: Duration, least: Duration) -> Duration {
        full - full.saturating_sub(least) * self.0 / Self::STEPS
    }

    /// The slowest rate that is borne.
    fn rate(self, least: u64) -> u64 {
        let more = least.saturating_mul(LOADED_RATE_FACTOR - 1).saturating_mul(u64::from(self.0));
        least.saturating_add(more / u64::from(Self::STEPS))
    }
}

/// What sessions may finish when the process goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// Commands are taken until then.
    pub until: Instant,
    /// A session that has not sent a message yet may begin its first.
    pub newcomers: bool,
}

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
    /// Tarpit: from the third unknown recipient on each answer waits this much longer than the one before, up to
    /// [`TARPIT_DELAY_MAX`]. Zero: none, and nobody is asked what a client did in other sessions.
    pub unknown_recipient_delay: Duration,
    /// No transaction without TLS (RFC 3207 §4). Not for servers that an MX record names.
    pub require_tls: bool,
    /// Pause before the banner; whoever speaks in it is refused. Zero: none.
    pub greet_delay: Duration,
    /// Longest wait for a complete command, not prolonged by its octets (RFC 5321 §4.5.3.2.7: 5 min).
    pub command_timeout: Duration,
    /// Longest TLS handshake.
    pub handshake_timeout: Duration,
    /// Longest silence inside a body (RFC 5321 §4.5.3.2.5: 3 min).
    pub body_timeout: Duration,
    /// Longest time for one body, however lively.
    pub message_timeout: Duration,
    /// Slowest body, octets per second, after a start of `command_timeout`; 0: any.
    pub body_rate_min: u64,
    /// Longest time without a message that was taken; a session that never completes one ends then.
    pub fruitless_timeout: Duration,
    /// Longest wait and longest silence when all places are taken; see [`Load`].
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
            unknown_recipient_delay: Duration::ZERO,
            require_tls: false,
            greet_delay: Duration::ZERO,
            command_timeout: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(180),
            message_timeout: Duration::from_secs(6 * 3600),
            body_rate_min: 500,
            fruitless_timeout: Duration::from_secs(1800),
            loaded_timeout: Duration::from_secs(10),
        }
    }

    /// All waits multiplied by `factor`, so that a test can watch them pass. Rates stay.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            unknown_recipient_delay: self.unknown_recipient_delay.mul_f64(factor),
            greet_delay: self.greet_delay.mul_f64(factor),
            command_timeout: self.command_timeout.mul_f64(factor),
            handshake_timeout: self.handshake_timeout.mul_f64(factor),
            body_timeout: self.body_timeout.mul_f64(factor),
            message_timeout: self.message_timeout.mul_f64(factor),
            fruitless_timeout: self.fruitless_timeout.mul_f64(factor),
            loaded_timeout: self.loaded_timeout.mul_f64(factor),
            ..self
        }
    }

    /// How long to wait for a command, or for a client to read its answer.
    #[must_use]
    pub fn command_patience(&self, load: Load) -> Duration {
        load.patience(self.command_timeout, self.loaded_timeout)
    }

    /// How long a session may go without a message that was taken.
    pub(super) fn fruitless_patience(&self, load: Load) -> Duration {
        load.patience(self.fruitless_timeout, self.loaded_timeout.saturating_mul(LOADED_FRUITLESS_FACTOR))
    }

    /// How long the answer to the `count`th unknown recipient waits.
    pub(super) fn tarpit(&self, count: u32) -> Duration {
        self.unknown_recipient_delay.saturating_mul(count.saturating_sub(TARPIT_FROM)).min(TARPIT_DELAY_MAX)
    }

    /// How long to wait for a handshake.
    pub(super) fn handshake_patience(&self, load: Load) -> Duration {
        load.patience(self.handshake_timeout, self.loaded_timeout)
    }

    /// When a body that began at `since`, had its latest octet at `last` and `bytes` in all is given up.
    pub(super) fn body_deadline(&self, since: Instant, last: Instant, bytes: u64, load: Load) -> Instant {
        let silence = load.patience(self.body_timeout, self.loaded_timeout);
        (last + silence).min(self.body_end(since, bytes, load))
    }

    /// The same, however lively the body is.
    pub(super) fn body_end(&self, since: Instant, bytes: u64, load: Load) -> Instant {
        let rate = load.rate(self.body_rate_min);
        let earned = bytes.checked_div(rate).map_or(self.message_timeout, Duration::from_secs);
        since + self.message_timeout.min(self.command_timeout.saturating_add(earned))
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
            assert!(
                settings.body_deadline(start, last, u64::from(n) * 1000, Load::default()) > last + second
            );
        }
        // One octet per second is cut after the start.
        let last = start + second * 400;
        assert!(settings.body_deadline(start, last, 400, Load::default()) < last);
        // R10
        let full = Load::of(1000, 1000);
        assert_eq!(settings.body_deadline(start, start, 0, full), start + second * 10);
        assert_eq!(settings.command_patience(full), second * 10);
        // Whoever trickles just fast enough on a quiet day is too slow when all places are taken.
        let last = start + second * 1000;
        assert!(settings.body_deadline(start, last, 600_000, Load::default()) > last);
        assert!(settings.body_deadline(start, last, 600_000, full) < last);
        assert!(settings.body_deadline(start, last, 8_000_000, full) > last);
    }

    #[test]
    fn patience_shrinks_with_load_and_never_grows() {
        let settings = Settings::new("mx", &[]);
        let at = |open| settings.command_patience(Load::of(open, 1000)).as_secs();
        assert_eq!([0, 500, 750, 1000, 2000].map(at), [300, 300, 155, 10, 10]); // R10
        assert!((0..1000).all(|open| at(open + 1) <= at(open)));
        let whole = |open| settings.fruitless_patience(Load::of(open, 1000)).as_secs();
        assert_eq!([0, 1000].map(whole), [1800, 60]);
        assert_eq!(Load::of(1, 1), Load(Load::STEPS));
        assert_eq!(Load::of(0, 0), Load(0));
        let short = Duration::from_millis(100);
        assert_eq!(Load::of(9, 9).patience(short, settings.loaded_timeout), short);
    }

    #[test]
    fn answers_about_unknown_recipients_get_later_and_later() {
        let second = Duration::from_secs(1);
        let settings = Settings { unknown_recipient_delay: second, ..Settings::new("mx", &[]) };
        assert_eq!([1, 2, 3, 4, 20, 99].map(|n| settings.tarpit(n).as_secs()), [0, 0, 1, 2, 18, 30]); // K9
        assert_eq!(Settings::new("mx", &[]).tarpit(99), Duration::ZERO);
    }
}
