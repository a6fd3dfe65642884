//! PURE: which addresses did not answer a short while ago, so that not every message dials them again.
//!
//! Many domains share one host: what one message learned spares the others the wait. One prober at a time finds
//! out whether the host is back. Kept in memory only; a start knows nothing and learns by trying.

use core::net::SocketAddr;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Retry;
use crate::mail::outbound::values::Endpoint;

/// Most addresses remembered; beyond it those whose wait is over go first, then new ones are not remembered.
const HOSTS_MAX: usize = 10_000;
/// Longest time an address is left alone.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(1800);
/// While somebody probes, nobody else does; a prober that does not report in this time is not waited for.
const PROBE_PATIENCE: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug)]
struct Dead {
    until: Instant,
    failures: u32,
}

/// What of a route is worth a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// In the order they came.
    pub endpoints: Vec<Endpoint>,
    /// When the first of the others is.
    pub back: Option<Instant>,
    /// There is a host that has no address among them.
    pub left_out: bool,
}

/// See the module.
#[derive(Debug)]
pub struct DeadHosts {
    retry: Retry,
    hosts: HashMap<SocketAddr, Dead>,
}

impl DeadHosts {
    /// Nothing is known.
    #[must_use]
    pub fn new(retry: Retry) -> Self {
        Self { retry, hosts: HashMap::new() }
    }

    /// Other waits, for what falls silent from now on.
    pub fn set_retry(&mut self, retry: Retry) {
        self.retry = retry;
    }

    /// `None`: dial it (and report how it went). Otherwise: leave it alone until then.
    pub fn ask(&mut self, address: SocketAddr, now: Instant) -> Option<Instant> {
        let dead = self.hosts.get_mut(&address)?;
        if now < dead.until {
            return Some(dead.until);
        }
        dead.until = now + PROBE_PATIENCE;
        None
    }

    /// The endpoints to dial now, and what is known of the others.
    pub fn alive(&mut self, endpoints: Vec<Endpoint>, now: Instant) -> Alive {
        let mut back: Option<Instant> = None;
        let mut alive = Vec::with_capacity(endpoints.len());
        let mut silent = Vec::new();
        for endpoint in endpoints {
            match self.ask(endpoint.address, now) {
                None => alive.push(endpoint),
                Some(until) => {
                    back = Some(back.map_or(until, |first| first.min(until)));
                    silent.push(endpoint.host);
                }
            }
        }
        let left_out = silent.iter().any(|host| alive.iter().all(|endpoint| endpoint.host != *host));
        Alive { endpoints: alive, back, left_out }
    }

    /// It took the connection.
    pub fn answered(&mut self, address: SocketAddr) {
        self.hosts.remove(&address);
    }

    /// It did not take a connection.
    pub fn silent(&mut self, address: SocketAddr, now: Instant) {
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&address) {
            self.hosts.retain(|_, dead| now < dead.until);
            if self.hosts.len() >= HOSTS_MAX {
                return;
            }
        }
        let dead = self.hosts.entry(address).or_insert(Dead { until: now, failures: 0 });
        let wait = Duration::from_millis(self.retry.wait_ms(dead.failures, false, 0)).min(LEFT_ALONE_MAX);
        *dead = Dead { until: now + wait, failures: dead.failures.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock;
    use crate::mail::outbound::values::TlsDemand;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    #[test]
    fn one_prober_at_a_time_finds_out_whether_it_is_back() {
        let retry = Retry { waits_ms: Arc::from([1_000, 4_000]), greylist_ms: 0 };
        let (mut hosts, start) = (DeadHosts::new(retry), clock::monotonic());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(hosts.ask(address(1), start), None);
        hosts.silent(address(1), start);
        assert_eq!(hosts.ask(address(1), after(10)), Some(after(1_000)));
        assert_eq!(hosts.ask(address(2), after(10)), None, "others are not concerned");
        assert_eq!(hosts.ask(address(1), after(1_000)), None, "the prober");
        assert!(hosts.ask(address(1), after(1_001)).is_some(), "nobody beside the prober");
        hosts.silent(address(1), after(2_000));
        assert_eq!(hosts.ask(address(1), after(2_001)), Some(after(6_000)), "waits grow");
        assert_eq!(hosts.ask(address(1), after(6_000)), None);
        hosts.answered(address(1));
        assert_eq!(hosts.ask(address(1), after(6_001)), None);
        assert_eq!(hosts.ask(address(1), after(6_002)), None, "everybody again");
    }

    #[test]
    fn a_host_is_left_out_when_none_of_its_addresses_is_dialled() {
        let place = |host: &str, n| Endpoint {
            host: host.to_owned(),
            address: address(n),
            tls: TlsDemand::Opportunistic { cleartext: true },
        };
        let (mut hosts, now) = (DeadHosts::new(Retry::default()), clock::monotonic());
        let back = Some(now + Duration::from_secs(60));
        hosts.silent(address(1), now);
        let got = hosts.alive(vec![place("a", 1), place("a", 2), place("b", 3)], now);
        assert_eq!(got, Alive { endpoints: vec![place("a", 2), place("b", 3)], back, left_out: false });
        let got = hosts.alive(vec![place("a", 1), place("b", 3)], now);
        assert_eq!(got, Alive { endpoints: vec![place("b", 3)], back, left_out: true });
        let got = hosts.alive(vec![place("b", 3)], now);
        assert_eq!(got, Alive { endpoints: vec![place("b", 3)], back: None, left_out: false });
    }

    #[test]
    fn memory_is_bounded() {
        let (mut hosts, now) = (DeadHosts::new(Retry::default()), clock::monotonic());
        for n in 0..20_000_u32 {
            let [_, a, b, c] = n.to_be_bytes();
            hosts.silent(SocketAddr::from(([10, a, b, c], 25)), now);
        }
        assert_eq!(hosts.hosts.len(), HOSTS_MAX);
    }
}
