//! Driver: the addresses of this machine.
//!
//! Read from Linux' `/proc`; which one mail leaves from is learned by connecting a UDP socket, which sends nothing.
//! Failure policy: what cannot be read is not known, and never an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::ADDRESSES_MAX;

/// Every address of every interface.
#[must_use]
pub fn local() -> Vec<IpAddr> {
    let trie = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut all = v4_of(&trie);
    all.extend(v6_of(&v6));
    all.truncate(4 * ADDRESSES_MAX);
    all
}

/// Addresses in `fib_trie`: a line with the address, then `/32 host LOCAL`.
fn v4_of(trie: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in trie.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.map(IpAddr::V4).filter(|address| !found.contains(address)));
        }
    }
    found
}

/// Addresses in `if_inet6`: 32 hexadecimal digits at the start of each line.
fn v6_of(lines: &str) -> Vec<IpAddr> {
    let address = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    lines.lines().filter_map(address).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).collect()
}

/// Where packets to the public internet leave from, at most one address of each family.
#[must_use]
pub fn leaving() -> Vec<IpAddr> {
    // Addresses of documentation: the route to them is the default route, and nothing is sent.
    let far = [
        ("0.0.0.0:0", SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 25))),
        ("[::]:0", SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 25))),
    ];
    let leaving = far.iter().filter_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    leaving.filter(|address| !address.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n        |-- 127.0.0.1\n           /32 host LOCAL\n        |-- 203.0.113.25\n           /32 host LOCAL\n        |-- 203.0.113.255\n           /32 link BROADCAST\nLocal:\n        |-- 203.0.113.25\n           /32 host LOCAL\n";
        assert_eq!(v4_of(trie), ["127.0.0.1".parse::<IpAddr>().unwrap(), "203.0.113.25".parse().unwrap()]);
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000025 02 40 00 80     eth0\nnonsense\n";
        assert_eq!(v6_of(v6), ["::1".parse::<IpAddr>().unwrap(), "2001:db8::25".parse().unwrap()]);
        assert!(local().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "this machine has a loopback address");
    }
}
