//! How many HTTP connections one client may have that are no tunnel: slow heads, probes, idle keep-alive.
//!
//! Descriptors are shared by all listeners, so one address must not use them up here. A connection stops counting
//! when it ends or is upgraded; the tunnel has limits of its own for what comes then. Trusted proxies are not counted:
//! they bring the connections of others.
//!
//! Promises: memory is bounded by the number of connections; an IPv4 client counts by its address and its /24, an IPv6 client by
//! its /64 and its /48, as for SMTP: nobody counts anew by drawing another address of his own network.
//! Failure policy: one too many is closed without a word, and counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::observe::{Limited, Metrics};

/// Most connections of one address that are no tunnel.
pub const GUESTS_PER_ADDRESS_MAX: u32 = 256;
/// The network around it may have this many times as many; the same as for SMTP.
const NETWORK_FACTOR: u32 = 4;
/// What a narrow place and what a wide place may have.
const MOST: [u32; 2] = [GUESTS_PER_ADDRESS_MAX, NETWORK_FACTOR * GUESTS_PER_ADDRESS_MAX];

/// The connections of all listeners.
#[derive(Debug)]
pub struct Guests {
    trusted: Vec<IpNet>,
    metrics: Arc<Metrics>,
    open: Mutex<HashMap<IpNet, u32>>,
}

impl Guests {
    /// None yet; connections from `trusted` are not counted.
    #[must_use]
    pub fn new(trusted: &[IpNet], metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { trusted: trusted.to_vec(), metrics: Arc::clone(metrics), open: Mutex::default() })
    }

    /// Lets one more connection in, until the [`Guest`] is dropped; `None`: there are too many.
    pub(super) fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Guest> {
        let client = client.to_canonical();
        if self.trusted.iter().any(|network| network.contains(&client)) {
            return Some(Guest(None));
        }
        let places = places(client);
        let mut open = self.open();
        let is_full = |(place, most): (&IpNet, u32)| open.get(place).is_some_and(|count| *count >= most);
        if places.iter().zip(MOST).any(is_full) {
            self.metrics.abuse.limited(Limited::HttpPlace);
            return None;
        }
        for place in places {
            *open.entry(place).or_default() += 1;
        }
        Some(Guest(Some((Arc::clone(self), places))))
    }

    /// The counters stay true when a holder panics: no change of them can.
    fn open(&self) -> MutexGuard<'_, HashMap<IpNet, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection that is counted.
#[derive(Debug)]
pub(super) struct Guest(Option<(Arc<Guests>, [IpNet; 2])>);

impl Drop for Guest {
    fn drop(&mut self) {
        let Some((guests, places)) = self.0.take() else { return };
        let mut open = guests.open();
        for place in places {
            if let Some(count) = open.get_mut(&place) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    open.remove(&place);
                }
            }
        }
    }
}

/// Where a client sits: narrow, then wide.
fn places(client: IpAddr) -> [IpNet; 2] {
    let lengths = match client {
        IpAddr::V4(_) => [32, 24],
        IpAddr::V6(_) => [64, 48],
    };
    // No length is longer than an address.
    lengths.map(|length| IpNet::new(client, length).map_or(IpNet::from(client), |network| network.trunc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_capped_and_others_and_proxies_are_not() {
        let guests = Guests::new(&["127.0.0.1/32".parse().unwrap()], &Arc::new(Metrics::new()));
        let enter = |text: &str| guests.enter(text.parse().unwrap());
        let mut inside: Vec<_> = (0..GUESTS_PER_ADDRESS_MAX).map(|_| enter("2001:db8::1").unwrap()).collect();
        assert!(enter("2001:db8::2").is_none(), "the same /64"); // X4
        assert!(enter("2001:db8:0:1::1").is_some());
        assert!((0..2 * GUESTS_PER_ADDRESS_MAX).map(|_| enter("127.0.0.1")).all(|guest| guest.is_some()));
        inside.pop();
        assert!(enter("2001:db8::2").is_some());
        drop(inside);
        assert!(guests.open().is_empty());
    }

    #[test]
    fn a_network_is_capped_however_many_addresses_it_has() {
        let guests = Guests::new(&[], &Arc::new(Metrics::new()));
        let enter = |text: &str| guests.enter(text.parse().unwrap());
        for (subnets, fifth, elsewhere) in [
            (
                ["2001:db8:7:1::1", "2001:db8:7:2::1", "2001:db8:7:3::1", "2001:db8:7:4::1"],
                "2001:db8:7:5::1",
                "2001:db8:8::1",
            ),
            (["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3", "192.0.2.4"], "192.0.2.5", "192.0.3.1"),
        ] {
            let all = |from| std::iter::repeat_n(from, GUESTS_PER_ADDRESS_MAX as usize);
            let mut inside: Vec<_> =
                subnets.into_iter().flat_map(all).map(|from| enter(from).expect(from)).collect();
            assert!(enter(fifth).is_none(), "{fifth}");
            assert!(enter(elsewhere).is_some(), "{elsewhere}");
            inside.pop();
            assert!(enter(fifth).is_some(), "one has left the network of {fifth}");
        }
        assert!(guests.open().is_empty());
    }
}
