//! How many HTTP connections one client address may have that are no tunnel: slow heads, probes, idle keep-alive.
//!
//! Descriptors are shared by all listeners, so one address must not use them up here. A connection stops counting
//! when it ends or is upgraded; the tunnel has limits of its own for what comes then. Trusted proxies are not counted:
//! they bring the connections of others.
//!
//! Promises: memory is bounded by the number of connections; an IPv6 client counts by its /64.
//! Failure policy: one too many is closed without a word, and counted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::observe::{Limited, Metrics};

/// Most connections of one address that are no tunnel.
pub const GUESTS_PER_ADDRESS_MAX: u32 = 256;

/// The connections of all listeners.
#[derive(Debug)]
pub struct Guests {
    trusted: Vec<IpNet>,
    metrics: Arc<Metrics>,
    open: Mutex<HashMap<IpAddr, u32>>,
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
        let place = place(client);
        let mut open = self.open();
        let count = open.entry(place).or_default();
        if *count >= GUESTS_PER_ADDRESS_MAX {
            self.metrics.abuse.limited(Limited::HttpPlace);
            return None;
        }
        *count += 1;
        Some(Guest(Some((Arc::clone(self), place))))
    }

    /// The counters stay true when a holder panics: each change is one statement.
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection that is counted.
#[derive(Debug)]
pub(super) struct Guest(Option<(Arc<Guests>, IpAddr)>);

impl Drop for Guest {
    fn drop(&mut self) {
        let Some((guests, place)) = self.0.take() else { return };
        let mut open = guests.open();
        if let Some(count) = open.get_mut(&place) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&place);
            }
        }
    }
}

fn place(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
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
}
