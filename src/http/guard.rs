//! Who may use the admin API over HTTP. Values in, a verdict out; the only state is who guessed wrong lately.
//!
//! Checks, in order: the request is encrypted or came to a loopback address; it is meant for this host (a name that somebody's
//! DNS points here is not, which ends DNS rebinding); no page of another site made it (CSRF); its address has not guessed too
//! often; it carries the token. Compared are SHA-256 values, in constant time; the token itself is not kept.
//! Failure policy: refuse, and say which of these it was. Bounded memory: when [`ADDRESSES_MAX`] addresses are known to guess,
//! further ones share one count, which the right token passes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Uri, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Fewest characters of a token: 32 of base64 hold 192 bits.
pub const TOKEN_CHARS_MIN: usize = 32;
/// Most characters of a token.
pub const TOKEN_CHARS_MAX: usize = 512;
/// Fewest different characters; 32 drawn by chance from 16 have nearly always more.
const TOKEN_KINDS_MIN: usize = 8;
/// Wrong tokens of one address within the deny window, before it is refused for as long.
pub const FAILURES_MAX: u32 = 5;
/// Most addresses whose wrong tokens are counted apart.
pub const ADDRESSES_MAX: usize = 4096;

/// What it takes to be the operator over HTTP: the SHA-256 of a token.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// The text is no token that could not be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must hold one line of {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters that nobody can guess, without blanks"
)]
pub struct WeakToken;

impl Token {
    /// The token in a file's text; blanks around it do not count.
    ///
    /// # Errors
    /// [`WeakToken`].
    pub fn from_text(text: &str) -> Result<Self, WeakToken> {
        let token = text.trim();
        let mut kinds = [false; 128];
        for octet in token.bytes() {
            let kind = kinds.get_mut(usize::from(octet)).filter(|_| octet.is_ascii_graphic());
            *kind.ok_or(WeakToken)? = true;
        }
        let long = (TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&token.len());
        let varied = kinds.iter().filter(|seen| **seen).count() >= TOKEN_KINDS_MIN;
        if long && varied { Ok(Self(Sha256::digest(token).into())) } else { Err(WeakToken) }
    }

    fn is(&self, presented: &[u8]) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.0.ct_eq(&presented).into()
    }
}

/// How a request came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Line {
    /// Inside TLS that ends here.
    pub encrypted: bool,
    /// At a loopback address.
    pub loopback: bool,
}

/// Why a request does not go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Anybody on its way could read the token.
    Plain,
    /// It is meant for another host.
    Host,
    /// A page of another site made it.
    Origin,
    /// Its address guessed too often; it may try again after so long.
    Limited(Duration),
    /// No token.
    Missing,
    /// A wrong token.
    Wrong,
}

/// A guard that several doors share, so that guesses at one count at all of them.
pub type SharedGuard = Arc<Mutex<Guard>>;

/// Judges requests.
#[derive(Debug)]
pub struct Guard {
    token: Token,
    generation: u64,
    hosts: Vec<String>,
    /// `None`: guesses are not counted.
    deny_window: Option<Duration>,
    failures: HashMap<IpAddr, Failures>,
    crowd: Failures,
}

/// Whose guesses were too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    /// Of all addresses for which there is no room.
    Crowd,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    /// When the count is forgotten, or the block ends.
    until: Option<Instant>,
}

impl Failures {
    fn forget(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            *self = Self::default();
        }
    }
}

impl Guard {
    /// * `hosts` – names of this relay; addresses and `localhost` are known.
    /// * `deny_window` – how long wrong tokens are remembered, and an address that gave too many is refused.
    #[must_use]
    pub fn new(token: Token, hosts: &[String], deny_window: Option<Duration>) -> Self {
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self {
            token,
            generation: 0,
            hosts,
            deny_window,
            failures: HashMap::new(),
            crowd: Failures::default(),
        }
    }

    /// Another token from now on; who guessed wrong stays known.
    pub fn replace(&mut self, token: Token, deny_window: Option<Duration>) {
        if !bool::from(self.token.0.ct_eq(&token.0)) {
            self.generation += 1;
        }
        self.token = token;
        self.deny_window = deny_window;
    }

    /// Grows when there is another token: what the one before opened is closed then.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Judges the head of a request.
    ///
    /// # Errors
    /// [`Denied`]; a wrong token is counted.
    pub fn check(
        &mut self,
        line: Line,
        client: IpAddr,
        uri: &Uri,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<(), Denied> {
        self.arrives(line, uri, headers)?;
        self.present(client, bearer(headers), now)
    }

    /// Judges how a request came, and not who made it.
    ///
    /// # Errors
    /// [`Denied::Plain`], [`Denied::Host`], [`Denied::Origin`].
    pub fn arrives(&self, line: Line, uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
        if !line.encrypted && !line.loopback {
            return Err(Denied::Plain);
        }
        let host = self.host(uri, headers).ok_or(Denied::Host)?;
        if self.same_site(host, headers) { Ok(()) } else { Err(Denied::Origin) }
    }

    /// Judges a token that was given in another way than by a header field.
    ///
    /// # Errors
    /// [`Denied::Missing`], [`Denied::Limited`], [`Denied::Wrong`]; a wrong token is counted.
    pub fn present(&mut self, client: IpAddr, token: Option<&[u8]>, now: Instant) -> Result<(), Denied> {
        let blocked = self.blocked(client, now);
        if let Some((Whose::Own, wait)) = blocked {
            return Err(Denied::Limited(wait));
        }
        match (token, blocked) {
            (None, _) => Err(Denied::Missing),
            // Strangers who guess from everywhere must not keep the operator out.
            (Some(presented), _) if self.token.is(presented) => Ok(()),
            (Some(_), Some((_, wait))) => Err(Denied::Limited(wait)),
            (Some(_), None) => {
                self.failed(client, now);
                Err(Denied::Wrong)
            }
        }
    }

    /// The host the request is meant for, if that is us.
    fn host<'a>(&self, uri: &Uri, headers: &'a HeaderMap) -> Option<&'a str> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, None) = (hosts.next()?.to_str().ok()?, hosts.next()) else { return None };
        let agrees = uri.authority().is_none_or(|named| named.as_str().eq_ignore_ascii_case(host));
        (agrees && self.is_ours(name_of(host))).then_some(host)
    }

    fn is_ours(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
        name == "localhost" || self.hosts.contains(&name) || bare.parse::<IpAddr>().is_ok()
    }

    /// Browsers say where a request comes from; programs say nothing.
    fn same_site(&self, host: &str, headers: &HeaderMap) -> bool {
        let fetched = headers.get_all("sec-fetch-site").iter();
        if !fetched.map(|site| site.as_bytes()).all(|site| site == b"same-origin" || site == b"none") {
            return false;
        }
        headers.get_all(header::ORIGIN).iter().all(|origin| {
            let Some((scheme, authority)) = origin.to_str().ok().and_then(|text| text.split_once("://"))
            else {
                return false;
            };
            let ours = self.hosts.iter().any(|host| authority.eq_ignore_ascii_case(host));
            authority.eq_ignore_ascii_case(host) || (scheme == "https" && ours)
        })
    }

    fn blocked(&mut self, client: IpAddr, now: Instant) -> Option<(Whose, Duration)> {
        self.deny_window?;
        let (whose, failures) = match self.failures.get_mut(&place(client)) {
            Some(own) => (Whose::Own, own),
            None => (Whose::Crowd, &mut self.crowd),
        };
        failures.forget(now);
        let until = failures.until.filter(|_| failures.count >= FAILURES_MAX)?;
        Some((whose, until.saturating_duration_since(now)))
    }

    fn failed(&mut self, client: IpAddr, now: Instant) {
        let Some(window) = self.deny_window else { return };
        if self.failures.len() >= ADDRESSES_MAX {
            self.failures.retain(|_, failures| failures.until.is_some_and(|until| until > now));
        }
        let room = self.failures.len() < ADDRESSES_MAX;
        let place = place(client);
        let failures = if room || self.failures.contains_key(&place) {
            self.failures.entry(place).or_default()
        } else {
            &mut self.crowd
        };
        failures.count = failures.count.saturating_add(1);
        failures.until = Some(now + window);
    }
}

/// One subscriber: an IPv4 address, or an IPv6 /64.
fn place(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Whether a Host field names this machine itself, and no name that others reach.
#[must_use]
pub fn is_local_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = name_of(host);
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host of `host:port`, `[::1]:port`, or `host`.
fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) && !name.is_empty() => name,
        _ => authority,
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1); two such fields are none.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (field, None) = (fields.next()?.as_bytes(), fields.next()) else { return None };
    let (scheme, token) = field.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty() && token.len() <= TOKEN_CHARS_MAX)
        .then_some(token)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::clock;

    const TOKEN: &str = "k3Jx0pQ9zWv7Lr2TnYb5Ud8Sg1Hf4Ma6cE";
    /// What it is, how it came, its fields, the verdict.
    type Row<'a> = (&'a str, Line, &'a [(&'a str, &'a str)], Result<(), Denied>);

    const LOOPBACK: Line = Line { encrypted: false, loopback: true };

    fn guard() -> Guard {
        let hosts = ["relay.example".to_owned()];
        Guard::new(Token::from_text(TOKEN).unwrap(), &hosts, Some(Duration::from_secs(300)))
    }

    fn check(
        guard: &mut Guard,
        line: Line,
        client: &str,
        headers: &[(&str, &str)],
        now: Instant,
    ) -> Result<(), Denied> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        guard.check(line, client.parse().unwrap(), &Uri::from_static("/admin/delivery"), &map, now)
    }

    #[test]
    fn only_text_that_nobody_guesses_is_a_token() {
        assert!(Token::from_text(&format!("{TOKEN}\n")).is_ok());
        assert!(Token::from_text("0123456789abcdef0123456789abcdef").is_ok());
        for weak in ["", "secret", &"a".repeat(40), "abcabcabcabcabcabcabcabcabcabcabcabc", &"x1".repeat(300)]
        {
            assert_eq!(Token::from_text(weak).unwrap_err(), WeakToken, "{weak}");
        }
        assert!(Token::from_text("k3Jx0pQ9zWv7Lr2TnYb5 d8Sg1Hf4Ma6cE").is_err());
        assert!(Token::from_text("k3Jx0pQ9zWv7Lr2TnYb5\nd8Sg1Hf4Ma6cE").is_err());
        assert!(!format!("{:?}", guard()).contains("k3Jx"));
    }

    #[test]
    fn a_request_needs_all_of_it() {
        let now = clock::monotonic(); // U11
        let good = format!("Bearer {TOKEN}");
        let good = good.as_str();
        let (host, auth) = (("host", "localhost:8080"), ("authorization", good));
        let tls = Line { encrypted: true, loopback: false };
        let far = Line::default();
        let basic = ("authorization", "Basic b3BlcmF0b3I6c2VjcmV0");
        let wrong = ("authorization", "Bearer k3Jx0pQ9zWv7Lr2TnYb5Ud8Sg1Hf4Ma6cF");
        let table: &[Row<'_>] = &[
            ("all is well", LOOPBACK, &[host, auth], Ok(())),
            ("by TLS", tls, &[("host", "relay.example"), auth], Ok(())),
            ("by TLS and port", tls, &[("host", "Relay.Example:8443"), auth], Ok(())),
            ("by address", LOOPBACK, &[("host", "[::1]:8080"), auth], Ok(())),
            (
                "in small letters",
                LOOPBACK,
                &[host, ("authorization", &good.replace("Bearer", "bearer"))],
                Ok(()),
            ),
            (
                "own page",
                tls,
                &[("host", "relay.example"), ("origin", "https://relay.example"), auth],
                Ok(()),
            ),
            ("own page, proxy", LOOPBACK, &[host, ("origin", "https://relay.example"), auth], Ok(())),
            ("typed", LOOPBACK, &[host, ("sec-fetch-site", "none"), auth], Ok(())),
            ("in the clear", far, &[host, auth], Err(Denied::Plain)),
            ("no token", LOOPBACK, &[host], Err(Denied::Missing)),
            ("other scheme", LOOPBACK, &[host, basic], Err(Denied::Missing)),
            ("two tokens", LOOPBACK, &[host, auth, auth], Err(Denied::Missing)),
            ("empty token", LOOPBACK, &[host, ("authorization", "Bearer ")], Err(Denied::Missing)),
            ("wrong token", LOOPBACK, &[host, wrong], Err(Denied::Wrong)),
            ("longer token", LOOPBACK, &[host, ("authorization", &format!("{good}x"))], Err(Denied::Wrong)),
            ("no host", LOOPBACK, &[auth], Err(Denied::Host)),
            ("rebound name", LOOPBACK, &[("host", "evil.example:8080"), auth], Err(Denied::Host)),
            ("name below ours", tls, &[("host", "x.relay.example"), auth], Err(Denied::Host)),
            ("two hosts", LOOPBACK, &[host, ("host", "evil.example"), auth], Err(Denied::Host)),
            ("other site", LOOPBACK, &[host, ("origin", "https://evil.example"), auth], Err(Denied::Origin)),
            ("other port", LOOPBACK, &[host, ("origin", "http://localhost:3000"), auth], Err(Denied::Origin)),
            ("a file", LOOPBACK, &[host, ("origin", "null"), auth], Err(Denied::Origin)),
            ("fetched", LOOPBACK, &[host, ("sec-fetch-site", "cross-site"), auth], Err(Denied::Origin)),
        ];
        for (what, line, headers, expected) in table {
            assert_eq!(check(&mut guard(), *line, "192.0.2.1", headers, now), *expected, "{what}");
        }
        let absolute = Uri::from_static("http://evil.example/admin/delivery");
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        let said = guard().check(LOOPBACK, "192.0.2.1".parse().unwrap(), &absolute, &headers, now);
        assert_eq!(said, Err(Denied::Host));
    }

    #[test]
    fn guesses_are_few_and_cost_the_deny_window() {
        let (mut guard, now) = (guard(), clock::monotonic()); // U11
        let host = ("host", "localhost");
        let good = format!("Bearer {TOKEN}");
        for n in 0..FAILURES_MAX {
            let said = check(&mut guard, LOOPBACK, "192.0.2.1", &[host, ("authorization", "Bearer x")], now);
            assert_eq!(said, Err(Denied::Wrong), "{n}");
        }
        let right = [host, ("authorization", good.as_str())];
        let window = Duration::from_secs(300);
        assert_eq!(check(&mut guard, LOOPBACK, "192.0.2.1", &right, now), Err(Denied::Limited(window)));
        assert_eq!(check(&mut guard, LOOPBACK, "192.0.2.2", &right, now), Ok(()), "others are not refused");
        assert_eq!(check(&mut guard, LOOPBACK, "192.0.2.1", &right, now + window), Ok(()));
        for n in 0..FAILURES_MAX {
            let client = format!("2001:db8::{n}");
            let _ = check(&mut guard, LOOPBACK, &client, &[host, ("authorization", "Bearer x")], now);
        }
        assert_eq!(check(&mut guard, LOOPBACK, "2001:db8::ffff", &right, now), Err(Denied::Limited(window)));
    }

    #[test]
    fn memory_of_guesses_is_bounded() {
        let (mut guard, now) = (guard(), clock::monotonic());
        for n in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 100 {
            guard.failed(IpAddr::V4((0x0a00_0000 + n).into()), now);
        }
        assert_eq!(guard.failures.len(), ADDRESSES_MAX);
        assert!(guard.blocked("203.0.113.1".parse().unwrap(), now).is_some(), "newcomers share a count");
        let (host, good) = (("host", "localhost"), format!("Bearer {TOKEN}"));
        let wrong = check(&mut guard, LOOPBACK, "203.0.113.1", &[host, ("authorization", "Bearer x")], now);
        assert!(matches!(wrong, Err(Denied::Limited(_))));
        let right = check(&mut guard, LOOPBACK, "203.0.113.1", &[host, ("authorization", &good)], now);
        assert_eq!(right, Ok(()), "and nobody can use it up for the operator");
        let later = now + Duration::from_secs(301);
        guard.failed("203.0.113.1".parse().unwrap(), later);
        assert_eq!(guard.failures.len(), 1);
    }
}
