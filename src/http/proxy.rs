//! PURE: whose address a request comes from when a proxy stands in between.

use core::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Most addresses of one `X-Forwarded-For` that are looked at.
const HOPS_MAX: usize = 32;

/// The real client's address, put into the extensions of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp(pub IpAddr);

/// The last address of the way that is not one of our trusted proxies.
///
/// `X-Forwarded-For` counts only when the peer itself is trusted; it is read from the right, where our
/// proxies wrote, so that a client cannot choose its address by sending the field itself.
#[must_use]
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    let mut client = peer.to_canonical();
    let hops = headers
        .get_all("x-forwarded-for")
        .iter()
        .rev()
        .flat_map(|value| value.to_str().unwrap_or("").rsplit(',').map(str::trim).collect::<Vec<_>>());
    for hop in hops.take(HOPS_MAX) {
        if !is_trusted(&client) {
            break;
        }
        let Some(ip) = address(hop) else { break };
        client = ip.to_canonical();
    }
    client
}

/// An address with or without brackets and port, as proxies write them.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<core::net::SocketAddr>().ok().map(|a| a.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().expect("header"));
        }
        let trusted: Vec<IpNet> =
            ["127.0.0.1/32", "10.0.0.0/8"].iter().map(|n| n.parse().expect("net")).collect();
        client_ip(peer.parse().expect("ip"), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_peers_may_name_another_client() {
        assert_eq!(ip("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(ip("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(ip("127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn the_way_is_read_from_the_right() {
        assert_eq!(ip("127.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(ip("127.0.0.1", &["1.1.1.1", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(ip("127.0.0.1", &["nonsense"]), "127.0.0.1");
        assert_eq!(ip("127.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(ip("::ffff:127.0.0.1", &["198.51.100.1:5000"]), "198.51.100.1");
    }
}
