//! How often a client may try to log in.
//!
//! One token bucket per address: full at first, refilled evenly, also while blocked. An empty bucket blocks
//! the address for a while; attempts during the block are refused and do not prolong it. One more bucket, [`WIDE_FACTOR`]
//! times as large, for the place around it: when that is empty the client has to come back, and is not blocked for what its
//! neighbours did.
//!
//! Promises: exact integer arithmetic, bounded memory ([`ADDRESSES_MAX`] of each kind). IPv6 clients count by their /64,
//! which is what one subscriber has, and by their /48, which is what one site has; IPv4 clients by address and /24.
//!
//! Failure policy: when too many addresses are known, unknown ones share one bucket.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr}; // addresses only, no sockets
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most addresses remembered, and most places around them.
pub const ADDRESSES_MAX: usize = 50_000;
/// A wide place may do this many times what one address may, as on the SMTP side.
pub const WIDE_FACTOR: u32 = 4;
/// Cost of one attempt; a bucket earns `per_minute` of these units per millisecond.
const ATTEMPT: u64 = 60_000;
/// Not more often than this all buckets are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The buckets.
#[derive(Debug)]
pub struct Rates {
    deny_window: Duration,
    narrow: Table,
    wide: Table,
}

/// Buckets of one size.
#[derive(Debug)]
struct Table {
    per_minute: u64,
    buckets: HashMap<IpAddr, Bucket>,
    crowd: Option<Bucket>,
    swept_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    units: u64,
    updated_at: Instant,
    blocked_until: Option<Instant>,
}

impl Rates {
    /// `per_minute` attempts at once and per minute; then nothing for `deny_window`.
    #[must_use]
    pub fn new(per_minute: u32, deny_window: Duration) -> Self {
        let per_minute = per_minute.max(1);
        Self {
            deny_window,
            narrow: Table::new(per_minute),
            wide: Table::new(per_minute.saturating_mul(WIDE_FACTOR)),
        }
    }

    /// Takes one token for `client`, of its own bucket and of the one that it shares.
    ///
    /// # Errors
    /// How long it has to wait at least.
    pub fn take(&mut self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let deny_window = self.deny_window;
        let shared_per_minute = self.wide.per_minute;
        let own = self.narrow.bucket(prefix(client), now);
        if let Some(until) = own.blocked_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        if own.units < ATTEMPT {
            own.blocked_until = Some(now + deny_window);
            return Err(deny_window);
        }
        let shared = self.wide.bucket(site(client), now);
        if shared.units < ATTEMPT {
            return Err(Duration::from_millis((ATTEMPT - shared.units).div_ceil(shared_per_minute)));
        }
        own.units -= ATTEMPT;
        shared.units -= ATTEMPT;
        own.blocked_until = None;
        Ok(())
    }
}

impl Table {
    fn new(per_minute: u32) -> Self {
        Self { per_minute: u64::from(per_minute), buckets: HashMap::new(), crowd: None, swept_at: None }
    }

    /// The bucket of `place`, with what it has earned until `now`.
    fn bucket(&mut self, place: IpAddr, now: Instant) -> &mut Bucket {
        let per_minute = self.per_minute;
        let new = Bucket { units: per_minute * ATTEMPT, updated_at: now, blocked_until: None };
        let bucket = if self.buckets.contains_key(&place) || self.has_room(now) {
            self.buckets.entry(place).or_insert(new)
        } else {
            self.crowd.get_or_insert(new)
        };
        bucket.refill(per_minute, now);
        bucket
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let due = self.swept_at.is_none_or(|at| now.duration_since(at) >= SWEEP_INTERVAL);
        if self.buckets.len() >= ADDRESSES_MAX && due {
            self.swept_at = Some(now);
            let per_minute = self.per_minute;
            // A bucket that is full and not blocked is what a new address gets anyway.
            self.buckets.retain(|_, bucket| {
                bucket.refill(per_minute, now);
                bucket.units < per_minute * ATTEMPT || bucket.blocked_until.is_some_and(|until| until > now)
            });
        }
        self.buckets.len() < ADDRESSES_MAX
    }
}

impl Bucket {
    fn refill(&mut self, per_minute: u64, now: Instant) {
        let passed = u64::try_from(now.duration_since(self.updated_at).as_millis()).unwrap_or(u64::MAX);
        self.units = self.units.saturating_add(passed.saturating_mul(per_minute)).min(per_minute * ATTEMPT);
        self.updated_at += Duration::from_millis(passed);
    }
}

/// What one subscriber has: an IPv4 address, an IPv6 /64.
pub(super) fn prefix(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// What one site may have: an IPv4 /24, an IPv6 /48.
pub(super) fn site(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        crate::clock::monotonic()
    }

    #[test]
    fn the_bucket_agrees_with_the_reference() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/mail-tunnel.json")).unwrap();
        let vector = &vectors["rate_limit"];
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let mut rates = Rates::new(
            number(&vector["per_minute"]) as u32,
            Duration::from_millis(number(&vector["deny_window_ms"])),
        );
        let (client, start) = ("192.0.2.1".parse().unwrap(), start());
        for step in vector["sequence"].as_array().unwrap() {
            let got = rates.take(client, start + Duration::from_millis(number(&step["at_ms"])));
            assert_eq!(got.is_ok(), step["allowed"].as_bool().unwrap(), "{step}");
            let wait = got.err().unwrap_or_default();
            assert_eq!(wait.as_millis() as u64, number(&step["retryAfterMs"]), "{step}");
        }
    }

    #[test]
    fn addresses_do_not_share_a_bucket_but_a_subscriber_does() {
        let (mut rates, now) = (Rates::new(1, Duration::from_secs(1)), start());
        let mut takes = |address: &str| rates.take(address.parse().unwrap(), now).is_ok();
        assert!(takes("192.0.2.1"));
        assert!(takes("192.0.2.2"));
        assert!(!takes("::ffff:192.0.2.1"));
        assert!(takes("2001:db8::1"));
        assert!(!takes("2001:db8::2"));
        assert!(takes("2001:db8:0:1::2"));
    }

    #[test]
    fn a_site_has_four_times_as_much_and_then_its_clients_come_back_unblocked() {
        for (clients, other) in [
            (["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"], "192.0.3.1"),
            (
                ["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1", "2001:db8:0:4::1"],
                "2001:db8:1::1",
            ),
        ] {
            let (mut rates, now) = (Rates::new(2, Duration::from_secs(300)), start());
            let clients = clients.map(|client| client.parse::<IpAddr>().unwrap());
            for client in &clients[..4] {
                assert!(rates.take(*client, now).is_ok() && rates.take(*client, now).is_ok());
            }
            assert_eq!(rates.take(clients[4], now), Err(Duration::from_millis(7_500)), "eight a minute");
            assert!(rates.take(other.parse().unwrap(), now).is_ok(), "another site");
            let later = now + Duration::from_millis(7_500);
            assert_eq!(rates.take(clients[4], later), Ok(()), "not denied for its neighbours");
            assert!(rates.take(clients[0], later).is_err());
        }
    }

    #[test]
    fn memory_is_bounded_and_strangers_then_share() {
        let (mut rates, now) = (Rates::new(2, Duration::from_secs(1)), start());
        for n in 0..ADDRESSES_MAX as u32 {
            // Each in a /24 of its own.
            assert!(rates.take(IpAddr::V4((0x0a00_0000 + (n << 8)).into()), now).is_ok());
        }
        let stranger = |n: u32| IpAddr::V4((0x0b00_0000 + n).into());
        assert!(rates.take(stranger(1), now).is_ok());
        assert!(rates.take(stranger(2), now).is_ok());
        assert!(rates.take(stranger(3), now).is_err());
        assert_eq!((rates.narrow.buckets.len(), rates.wide.buckets.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
        let later = now + Duration::from_secs(120);
        assert!(rates.take(stranger(3), later).is_ok());
        assert_eq!(
            (rates.narrow.buckets.len(), rates.wide.buckets.len()),
            (1, 1),
            "full buckets are forgotten"
        );
    }
}
