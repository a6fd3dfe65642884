//! Where a client sits, as far as limits care. Pure.
//!
//! Promises: an IPv4 client counts the same however its address is written (mapped or not); an IPv6 client
//! cannot count anew by drawing another address of its own /64. Failure policy: nothing can fail.

use core::net::IpAddr; // addresses only, no sockets

/// A prefix may do this many times what one address may.
pub(super) const PREFIX_FACTOR: u32 = 4;

/// Where a client sits, narrow or wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// One address.
    V4([u8; 4]),
    /// Its neighbours.
    V4Net24([u8; 3]),
    /// One customer.
    V6Net64([u8; 8]),
    /// One site.
    V6Net48([u8; 6]),
}

impl Place {
    /// Narrow place, then wide place.
    pub(super) fn of(address: IpAddr) -> [Self; 2] {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                [Self::V4([a, b, c, d]), Self::V4Net24([a, b, c])]
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                [Self::V6Net64([a, b, c, d, e, f, g, h]), Self::V6Net48([a, b, c, d, e, f])]
            }
        }
    }

    /// How many times what a narrow place may.
    pub(super) fn factor(self) -> u32 {
        match self {
            Self::V4(_) | Self::V6Net64(_) => 1,
            Self::V4Net24(_) | Self::V6Net48(_) => PREFIX_FACTOR,
        }
    }
}

/// The network part that stays when a client comes back from its neighbour: /24 or /64.
#[must_use]
pub fn neighbourhood(address: IpAddr) -> Vec<u8> {
    match Place::of(address) {
        [_, Place::V4Net24(net)] => net.to_vec(),
        [Place::V6Net64(net), _] => net.to_vec(),
        [Place::V4(_) | Place::V4Net24(_) | Place::V6Net48(_), _] => Vec::new(), // no such pair
    }
}
