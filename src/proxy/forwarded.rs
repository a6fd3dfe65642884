//! PURE: who is behind a chain of HTTP proxies.

use core::net::{IpAddr, SocketAddr}; // addresses only, no sockets

use ipnet::IpNet;

/// Most entries of `X-Forwarded-For` looked at, from the nearest one outwards.
const FORWARDED_MAX: usize = 16;

/// The address of the real client.
///
/// `forwarded` holds the values of all `X-Forwarded-For` fields in order. Each trusted hop vouches for the
/// entry on its left and for nothing further: the first address from the right that is not trusted is the
/// client, whatever it wrote before itself.
#[must_use]
pub(super) fn client_address<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[IpNet],
) -> IpAddr {
    let mut nearest = peer.to_canonical();
    let entries = forwarded.rev().flat_map(|value| value.rsplit(|octet| *octet == b','));
    for entry in entries.take(FORWARDED_MAX) {
        if !trusted.iter().any(|net| net.contains(&nearest)) {
            break;
        }
        // An entry that cannot be read hides what is left of it: skipping it would believe a stranger.
        let Some(address) = str::from_utf8(entry).ok().and_then(|entry| read_address(entry.trim())) else {
            break;
        };
        nearest = address;
    }
    nearest
}

/// An address, with or without a port, IPv6 with or without brackets.
fn read_address(entry: &str) -> Option<IpAddr> {
    let bare =
        entry.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(entry, |(inner, _)| inner);
    let address = bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|a| a.ip()));
    address.map(|a: IpAddr| a.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_hops_are_believed() {
        let trusted: Vec<IpNet> = vec!["127.0.0.1/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let client = |peer: &str, forwarded: &[&str]| {
            client_address(peer.parse().unwrap(), forwarded.iter().map(|f| f.as_bytes()), &trusted)
                .to_string()
        };
        assert_eq!(client("192.0.2.9", &["203.0.113.1"]), "192.0.2.9");
        assert_eq!(client("127.0.0.1", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("::ffff:127.0.0.1", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &["198.51.100.7, 203.0.113.1, 10.1.1.1"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &["198.51.100.7", "203.0.113.1:4711"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("127.0.0.1", &["unknown"]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        let octets = [b"203.0.113.1".as_slice(), b"203.0.113.2, \xff, 10.1.1.1"];
        let client = client_address("127.0.0.1".parse().unwrap(), octets.into_iter(), &trusted);
        assert_eq!(client.to_string(), "10.1.1.1", "nothing beyond an entry that cannot be read");
    }
}
