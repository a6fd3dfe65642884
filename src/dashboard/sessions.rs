//! PURE: who is logged in.
//!
//! Promises: a session ends [`IDLE`] after its last page and [`WHOLE`] after its login, whatever happens; at most [`SESSIONS_MAX`] of
//! them are remembered, and one more ends the one that was used longest ago. Kept are hashes: what is in memory here is no cookie.
//! Does not: survive a restart; know time or chance, which are handed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Most sessions: an operator has a few browsers.
pub(super) const SESSIONS_MAX: usize = 64;
/// A session that opens no page for so long ends.
pub(super) const IDLE: Duration = Duration::from_secs(2 * 3600);
/// No session lasts longer.
pub(super) const WHOLE: Duration = Duration::from_secs(12 * 3600);
/// Random octets of a session's name, and of its form token.
pub const RANDOM_BYTES: usize = 32;

/// Random octets for a new session.
pub(super) type Random = [u8; RANDOM_BYTES];

/// What a request must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// Goes into every form, so that no page of another site can fill one in.
    pub(super) form_token: String,
}

#[derive(Debug)]
struct Known {
    form_token: String,
    since: Instant,
    used: Instant,
}

impl Known {
    fn lives(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IDLE && now.saturating_duration_since(self.since) < WHOLE
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: HashMap<[u8; 32], Known>,
    generation: u64,
}

/// What a lookup counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A person does something.
    Person,
    /// A page keeps itself fresh: that alone keeps no session alive.
    Refresh,
}

impl Sessions {
    /// Ends all of them when the token is another one than before.
    ///
    /// * `generation` – grows with the token.
    pub(super) fn belong_to(&mut self, generation: u64) {
        if std::mem::replace(&mut self.generation, generation) != generation {
            self.known.clear();
        }
    }

    /// A new one; answers the text for the cookie.
    pub(super) fn begin(&mut self, name: Random, form_token: Random, now: Instant) -> String {
        self.known.retain(|_, known| known.lives(now));
        if self.known.len() >= SESSIONS_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| *key)
        {
            self.known.remove(&oldest);
        }
        let cookie = BASE64URL_NOPAD.encode(&name);
        let known = Known { form_token: BASE64URL_NOPAD.encode(&form_token), since: now, used: now };
        self.known.insert(key(&cookie), known);
        cookie
    }

    /// The session of a cookie, if it lives.
    pub(super) fn find(&mut self, cookie: &str, what: Use, now: Instant) -> Option<Session> {
        let known = self.known.get_mut(&key(cookie)).filter(|known| known.lives(now))?;
        if what == Use::Person {
            known.used = now;
        }
        Some(Session { form_token: known.form_token.clone() })
    }

    /// Ends one.
    pub(super) fn end(&mut self, cookie: &str) {
        self.known.remove(&key(cookie));
    }
}

impl Session {
    /// Whether a form carries this session's token.
    pub(super) fn sent(&self, form_token: &str) -> bool {
        self.form_token.as_bytes().ct_eq(form_token.as_bytes()).into()
    }
}

fn key(cookie: &str) -> [u8; 32] {
    Sha256::digest(cookie.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        crate::clock::monotonic()
    }

    #[test]
    fn a_session_ends_when_idle_and_when_old() {
        let (mut sessions, now) = (Sessions::default(), start());
        let cookie = sessions.begin([1; 32], [2; 32], now);
        let second = Duration::from_secs(1);
        assert!(sessions.find(&cookie, Use::Refresh, now + IDLE - second).is_some());
        assert!(sessions.find(&cookie, Use::Person, now + IDLE).is_none(), "a refresh is no use");
        let mut at = now;
        while at < now + WHOLE - IDLE {
            at += IDLE - second;
            assert!(sessions.find(&cookie, Use::Person, at).is_some());
        }
        assert!(sessions.find(&cookie, Use::Person, now + WHOLE).is_none(), "however busy");
    }

    #[test]
    fn sessions_are_bounded_and_the_one_used_longest_ago_goes() {
        let (mut sessions, now) = (Sessions::default(), start());
        let at = |n: usize| now + Duration::from_secs(n as u64);
        let cookies: Vec<_> =
            (0..SESSIONS_MAX).map(|n| sessions.begin([n as u8; 32], [0; 32], at(n))).collect();
        assert!(sessions.find(&cookies[0], Use::Person, at(100)).is_some());
        sessions.begin([200; 32], [0; 32], at(101));
        assert_eq!(sessions.known.len(), SESSIONS_MAX);
        assert!(sessions.find(&cookies[0], Use::Person, at(102)).is_some());
        assert!(sessions.find(&cookies[1], Use::Person, at(102)).is_none());
    }

    #[test]
    fn another_token_ends_what_the_one_before_opened() {
        let (mut sessions, now) = (Sessions::default(), start());
        let cookie = sessions.begin([1; 32], [2; 32], now);
        sessions.belong_to(0);
        assert!(sessions.find(&cookie, Use::Person, now).is_some());
        sessions.belong_to(1);
        assert!(sessions.find(&cookie, Use::Person, now).is_none());
    }

    #[test]
    fn only_its_own_cookie_and_form_token_open_a_session() {
        let (mut sessions, now) = (Sessions::default(), start());
        let cookie = sessions.begin([1; 32], [2; 32], now);
        let session = sessions.find(&cookie, Use::Person, now).expect("it lives");
        assert!(session.sent(&BASE64URL_NOPAD.encode(&[2; 32])));
        for wrong in ["", "x", &BASE64URL_NOPAD.encode(&[3; 32])] {
            assert!(!session.sent(wrong), "{wrong}");
        }
        assert!(sessions.find("", Use::Person, now).is_none());
        assert!(!format!("{sessions:?}").contains(&cookie), "a memory dump has no cookie");
        sessions.end(&cookie);
        assert!(sessions.find(&cookie, Use::Person, now).is_none());
    }
}
