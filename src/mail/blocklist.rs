//! DNS block lists (RFC 5782): what to ask for, and what an answer means. Pure.
//!
//! Promises: only an answer inside 127.0.0.0/8 can be a listing, because everything else is somebody's wildcard or a
//! parked domain; answers that lists use to say "you may not ask" never count against a client.
//!
//! Failure policy: what is not certainly a listing is none.

use core::net::{IpAddr, Ipv4Addr}; // addresses only, no sockets
use std::fmt::Write as _;

/// Longest text of a list that we pass on, octets.
const TEXT_BYTES_MAX: usize = 200;

/// A client that a list names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The list.
    pub zone: String,
    /// What it says about the client, printable ASCII; empty when it says nothing, or not soon enough.
    pub text: String,
}

/// The name under which `zone` knows `client`: reversed octets of IPv4 (RFC 5782 §2.1), reversed nibbles of IPv6
/// (§2.4).
#[must_use]
pub fn question(client: IpAddr, zone: &str) -> String {
    let mut name = String::new();
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.octets().iter().rev().for_each(|octet| {
            let _ = write!(name, "{octet}.");
        }),
        IpAddr::V6(v6) => v6.octets().iter().rev().for_each(|octet| {
            let _ = write!(name, "{:x}.{:x}.", octet & 15, octet >> 4);
        }),
    }
    name + zone
}

/// Whether lists are asked about `client` at all: not about this machine, nor private networks, which no list knows.
/// The other addresses of 127.0.0.0/8 are asked about: RFC 5782 §5 has its test entry there.
#[must_use]
pub fn concerns(client: IpAddr) -> bool {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            v4 != Ipv4Addr::LOCALHOST && !v4.is_private() && !v4.is_link_local() && !v4.is_unspecified()
        }
        IpAddr::V6(v6) => {
            !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unique_local() && !v6.is_unicast_link_local()
        }
    }
}

/// Whether an answer says "listed".
///
/// 127.0.0.1 is never listed (RFC 5782 §5), and some lists answer it to those who ask too much; 127.255.255.0/24 is
/// what public lists answer to open resolvers and mistyped zones.
#[must_use]
pub fn is_listing(answer: Ipv4Addr) -> bool {
    answer.is_loopback() && answer != Ipv4Addr::LOCALHOST && answer.octets()[..3] != [127, 255, 255]
}

/// A list's text, fit for a reply and a log line.
#[must_use]
pub fn text(raw: &[u8]) -> String {
    let printable = |&b: &u8| if matches!(b, 0x20..=0x7e) { char::from(b) } else { '?' };
    raw.iter().take(TEXT_BYTES_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_asked_for_backwards() {
        assert_eq!(question(ip("192.0.2.99"), "bl.example"), "99.2.0.192.bl.example");
        assert_eq!(question(ip("::ffff:192.0.2.99"), "bl.example"), "99.2.0.192.bl.example");
        assert_eq!(
            question(ip("2001:db8:1:2:3:4:567:89ab"), "ugly.example.com"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ugly.example.com"
        ); // RFC 5782 §2.4
    }

    #[test]
    fn only_certain_answers_are_listings() {
        let listing = |text: &str| is_listing(text.parse().unwrap());
        assert!(listing("127.0.0.2") && listing("127.0.0.11") && listing("127.0.1.255"));
        for no in ["127.0.0.1", "127.255.255.254", "127.255.255.252", "192.0.2.1", "10.0.0.2", "0.0.0.0"] {
            assert!(!listing(no), "{no}");
        }
    }

    #[test]
    fn our_own_networks_are_not_asked_about() {
        for own in ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "169.254.1.1", "fd00::1", "fe80::1"] {
            assert!(!concerns(ip(own)), "{own}");
        }
        assert!(concerns(ip("127.0.0.2")) && concerns(ip("192.0.2.1")) && concerns(ip("2001:db8::1")));
    }

    #[test]
    fn texts_of_lists_are_short_and_printable() {
        assert_eq!(
            text(b"see https://bl.example/?ip=1\r\n250 OK\x1b"),
            "see https://bl.example/?ip=1??250 OK?"
        );
        assert_eq!(text(&[b'x'; 4000]).len(), TEXT_BYTES_MAX);
    }
}
