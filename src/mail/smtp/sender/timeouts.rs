//! How long a client waits, phase by phase (RFC 5321 §4.5.3.2).
//!
//! Promise: every wait for a peer has one of these; each runs from the moment something is asked to the end of the
//! complete answer, so that single octets do not prolong it (P17).

use core::time::Duration;

/// All waits. The defaults are what RFC 5321 demands; shorter ones are for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect (R8).
    pub connect: Duration,
    /// The first reply (R1).
    pub greeting: Duration,
    /// `EHLO`, `HELO`, `RSET`: RFC 5321 names no value; as for `MAIL`.
    pub ehlo: Duration,
    /// `STARTTLS` until its reply, and the handshake after it.
    pub starttls: Duration,
    /// `MAIL` (R2).
    pub mail: Duration,
    /// Each `RCPT` (R3).
    pub rcpt: Duration,
    /// `DATA` until 354 (R4), and a `BDAT` that is not the last.
    pub data: Duration,
    /// Each write of a block of the message (R5).
    pub block: Duration,
    /// The final dot, or `BDAT LAST`, until its reply (R6). Giving up earlier makes duplicates (RFC 1047).
    pub dot: Duration,
    /// `QUIT`: its answer decides nothing (P18).
    pub quit: Duration,
    /// One message from its first command until it is armed, whatever the peer does (P17).
    pub transaction: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(30),
            greeting: seconds(300),
            ehlo: seconds(300),
            starttls: seconds(120),
            mail: seconds(300),
            rcpt: seconds(300),
            data: seconds(120),
            block: seconds(180),
            dot: seconds(600),
            quit: seconds(5),
            transaction: seconds(3600),
        }
    }
}

impl Timeouts {
    /// The defaults times `factor`; a factor that is no positive number counts as 1.
    #[must_use]
    pub fn scaled(factor: f64) -> Self {
        let factor = if factor.is_finite() && factor > 0.0 { factor.min(1000.0) } else { 1.0 };
        let Self { connect, greeting, ehlo, starttls, mail, rcpt, data, block, dot, quit, transaction } =
            Self::default();
        let scale = |duration: Duration| duration.mul_f64(factor);
        Self {
            connect: scale(connect),
            greeting: scale(greeting),
            ehlo: scale(ehlo),
            starttls: scale(starttls),
            mail: scale(mail),
            rcpt: scale(rcpt),
            data: scale(data),
            block: scale(block),
            dot: scale(dot),
            quit: scale(quit),
            transaction: scale(transaction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_what_rfc_5321_demands() {
        let t = Timeouts::default();
        let minutes = [t.greeting, t.mail, t.rcpt, t.data, t.block, t.dot].map(|d| d.as_secs() / 60);
        assert_eq!(minutes, [5, 5, 5, 2, 3, 10]); // R1-R6
        assert_eq!(t.connect.as_secs(), 30); // R8
        assert_eq!(Timeouts::scaled(0.01).dot, Duration::from_secs(6));
        assert_eq!(Timeouts::scaled(f64::NAN), Timeouts::default());
    }
}
