//! PURE: from the address records of hosts to the addresses worth a connection.
//!
//! Promises: both families are tried within one attempt (O11); no more than [`ADDRESSES_PER_HOST_MAX`] of one host
//! (O10; [`ADDRESSES_MAX`] in all is for the caller, who knows which hosts may be used); nothing that lies inside this machine or its private networks unless the
//! operator allowed it, so that a stranger's MX record cannot point mail at the operator's own services; never this
//! relay itself (L7). "No address" is final only when every look-up gave a certain answer (O3).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::answer::{Answer, RouteError};

/// Most addresses of one host.
pub const ADDRESSES_PER_HOST_MAX: usize = 5;
/// Most addresses of one attempt, counted when it is known which hosts may be used.
pub const ADDRESSES_MAX: usize = 20;

/// What the DNS said about the addresses of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The host, A-labels, lower case.
    pub host: String,
    /// Its preference.
    pub preference: u16,
    /// A records.
    pub v4: Answer<IpAddr>,
    /// AAAA records.
    pub v6: Answer<IpAddr>,
}

impl Looked {
    /// True when DNSSEC vouches for every address that was found.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        let mut found = [&self.v4, &self.v6].into_iter().filter_map(Answer::found).peekable();
        found.peek().is_some() && found.all(|found| found.secure)
    }

    /// Why one of the look-ups says nothing for now, if one does not.
    fn temporary(&self) -> Option<&str> {
        self.v4.temporary().or_else(|| self.v6.temporary())
    }

    /// The name that owns the addresses, when an alias led to another than the host's.
    #[must_use]
    pub fn alias(&self) -> Option<&str> {
        let found = self.v4.found().or_else(|| self.v6.found())?;
        (found.owner != self.host).then_some(found.owner.as_str())
    }
}

/// Which addresses may not be connected to.
pub struct Limits<'a> {
    /// Loopback, private and reserved addresses are allowed.
    pub private: bool,
    /// Whether this relay itself listens there.
    pub is_own: &'a (dyn Fn(IpAddr) -> bool + Sync),
}

/// A host with the addresses to try, in order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachable {
    /// The host.
    pub host: String,
    /// IPv6 and IPv4 in turn.
    pub addresses: Vec<IpAddr>,
}

/// The hosts that can be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// In the given order; at least one.
    pub hosts: Vec<Reachable>,
    /// Another host is missing only because the DNS does not say now where it is.
    pub left_out: bool,
}

/// The addresses to try, host by host in the given order, which must be by preference.
///
/// # Errors
/// [`RouteError`] when none is left: temporary when a look-up failed, 5.4.6 when only this relay was left, else
/// 5.4.4 with the reason.
pub fn reachable(domain: &str, hosts: &[Looked], limits: &Limits<'_>) -> Result<Reach, RouteError> {
    let is_own = |address: &IpAddr| (limits.is_own)(*address);
    let ours = hosts.iter().filter(|host| addresses(host).iter().any(is_own));
    let ours = ours.map(|host| host.preference).min();
    let (mut kept, mut left_out) = (Vec::new(), false);
    let mut refused: Option<(&str, IpAddr)> = None;
    for host in hosts.iter().filter(|host| ours.is_none_or(|ours| host.preference < ours)) {
        let mut usable = Vec::new();
        for address in addresses(host) {
            if limits.private || is_public(address) {
                usable.push(address);
            } else {
                refused.get_or_insert((&host.host, address));
            }
        }
        usable.truncate(ADDRESSES_PER_HOST_MAX);
        if usable.is_empty() {
            left_out |= host.temporary().is_some();
        } else {
            kept.push(Reachable { host: host.host.clone(), addresses: usable });
        }
    }
    if !kept.is_empty() {
        return Ok(Reach { hosts: kept, left_out });
    }
    let failed = |host: &Looked| {
        let why = host.temporary()?;
        Some(RouteError::dns(&host.host, why))
    };
    if let Some(error) = hosts.iter().find_map(failed) {
        return Err(error);
    }
    if let Some((host, address)) = refused {
        let text = format!("{host} has only addresses that are not on the public internet ({address})");
        return Err(RouteError::unroutable(text));
    }
    if ours.is_some() {
        return Err(RouteError::looped(domain));
    }
    let text = match hosts {
        [only] => format!("{} has no address", only.host),
        [] | [_, ..] => format!("none of the mail servers of {domain} has an address"),
    };
    Err(RouteError::unroutable(text))
}

/// IPv6 and IPv4 in turn, IPv6 first, each once.
fn addresses(host: &Looked) -> Vec<IpAddr> {
    let list =
        |answer: &Answer<IpAddr>| answer.found().map(|found| found.records.clone()).unwrap_or_default();
    let (v6, v4) = (list(&host.v6), list(&host.v4));
    let mut all = Vec::new();
    for at in 0..v6.len().max(v4.len()) {
        for address in [v6.get(at), v4.get(at)].into_iter().flatten() {
            if !all.contains(address) {
                all.push(*address);
            }
        }
    }
    all
}

/// True for an address that a stranger's mail server can have (RFC 6890 and the registries it points to).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0 // "this network", the unspecified address among it
        || (a == 100 && (64..128).contains(&b)) // carrier-grade NAT, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || (a == 198 && (b == 18 || b == 19)) // benchmarks
        || a >= 224; // multicast, reserved, broadcast
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // An IPv4 address in another coat counts as what it is.
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] => is_public_v4(embedded(hi, lo)), // NAT64, RFC 6052
        [0x2002, hi, lo, ..] => is_public_v4(embedded(hi, lo)),               // 6to4, RFC 3056
        [0x2001, 0x0db8, ..] => false,                                        // documentation
        [0x2001, second, ..] if second < 0x0200 => false,                     // protocol assignments, Teredo
        [0x3fff, second, ..] if second < 0x1000 => false,                     // documentation, RFC 9637
        // Global unicast is 2000::/3; outside lie loopback, unspecified, local, link-local and multicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

fn embedded(hi: u16, lo: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(hi) << 16 | u32::from(lo))
}

#[cfg(test)]
mod tests {
    use super::super::answer::Found;
    use super::*;

    fn found(addresses: &[&str]) -> Answer<IpAddr> {
        let records = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Answer::Found(Found { records, secure: false, owner: "h.x".into() })
    }

    fn host(preference: u16, v4: Answer<IpAddr>, v6: Answer<IpAddr>) -> Looked {
        Looked { host: format!("h{preference}.x"), preference, v4, v6 }
    }

    fn tried(hosts: &[Looked], private: bool) -> Result<Vec<String>, (&'static str, bool)> {
        let own: IpAddr = "203.0.114.1".parse().unwrap();
        let limits = Limits { private, is_own: &|address| address == own };
        match reachable("d.example", hosts, &limits) {
            Ok(reach) => {
                Ok(reach.hosts.iter().flat_map(|host| &host.addresses).map(IpAddr::to_string).collect())
            }
            Err(RouteError::Temporary { enhanced, .. }) => Err((enhanced, true)),
            Err(RouteError::Permanent { enhanced, .. }) => Err((enhanced, false)),
        }
    }

    #[test]
    fn both_families_are_tried_in_turn() {
        let both = host(1, found(&["8.0.0.1", "8.0.0.2"]), found(&["2600::1", "2600::2"])); // O11
        assert_eq!(tried(&[both], false).unwrap(), ["2600::1", "8.0.0.1", "2600::2", "8.0.0.2"]);
        let broken_v6 = host(1, found(&["8.0.0.1"]), Answer::Temporary("timeout".into()));
        assert_eq!(tried(&[broken_v6], false).unwrap(), ["8.0.0.1"]);
    }

    #[test]
    fn no_address_is_final_only_when_it_is_certain() {
        let none = || host(1, Answer::NoRecords, Answer::NxDomain);
        let failed = host(2, Answer::NxDomain, Answer::Temporary("SERVFAIL".into()));
        assert_eq!(tried(&[none()], false), Err(("5.4.4", false))); // O3
        assert_eq!(tried(&[none(), failed], false), Err(("4.4.3", true)));
    }

    #[test]
    fn hosts_that_the_dns_is_silent_about_are_left_out_for_now_only() {
        let limits = Limits { private: false, is_own: &|address| address == IpAddr::from([203, 0, 114, 1]) };
        let left_out = |hosts: &[Looked]| reachable("d.example", hosts, &limits).unwrap().left_out;
        let there = |preference| host(preference, found(&["8.0.0.1"]), Answer::NoRecords);
        let silent = |preference| host(preference, Answer::NoRecords, Answer::Temporary("SERVFAIL".into()));
        let without = host(7, Answer::NxDomain, Answer::NxDomain);
        assert!(left_out(&[silent(1), there(2)]) && left_out(&[there(1), silent(2)])); // P2
        assert!(!left_out(&[there(1), without]), "it has none for certain");
        let one_family = host(1, found(&["8.0.0.1"]), Answer::Temporary("timeout".into()));
        assert!(!left_out(&[one_family]), "it can be asked");
        let ours = host(5, found(&["203.0.114.1"]), Answer::NoRecords);
        assert!(!left_out(&[there(1), ours, silent(9)]), "it is never asked"); // L7
    }

    #[test]
    fn addresses_are_capped_per_host_and_in_all() {
        let ten: Vec<String> = (1..=10).map(|n| format!("8.0.0.{n}")).collect();
        let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
        let hosts: Vec<Looked> = (0..40).map(|n| host(n, found(&ten), found(&["2600::1"]))).collect(); // O10
        let all = tried(&hosts, false).unwrap();
        assert_eq!(all.len(), 40 * ADDRESSES_PER_HOST_MAX);
        assert_eq!(all[..6], ["2600::1", "8.0.0.1", "8.0.0.2", "8.0.0.3", "8.0.0.4", "2600::1"]);
    }

    #[test]
    fn private_targets_are_refused_unless_allowed() {
        let mixed = [host(1, found(&["127.0.0.1", "8.0.0.1"]), Answer::NoRecords)];
        assert_eq!(tried(&mixed, false).unwrap(), ["8.0.0.1"]);
        assert_eq!(tried(&mixed, true).unwrap(), ["127.0.0.1", "8.0.0.1"]);
        let inside = [host(1, found(&["10.0.0.1"]), found(&["::1"]))];
        assert_eq!(tried(&inside, false), Err(("5.4.4", false)));
        let or_not = host(2, Answer::Temporary("timeout".into()), Answer::NoRecords);
        assert_eq!(tried(&[inside[0].clone(), or_not], false), Err(("4.4.3", true)));
    }

    #[test]
    fn our_own_address_ends_the_list() {
        let ours = || host(5, found(&["203.0.114.1"]), Answer::NoRecords);
        let better = host(1, found(&["8.0.0.1"]), Answer::NoRecords);
        let equal = host(5, found(&["8.0.0.5"]), Answer::NoRecords);
        let worse = host(9, found(&["8.0.0.9"]), Answer::NoRecords);
        assert_eq!(tried(&[better, equal.clone(), ours(), worse.clone()], false).unwrap(), ["8.0.0.1"]); // L7
        assert_eq!(tried(&[ours(), equal, worse], false), Err(("5.4.6", false)));
    }

    #[test]
    fn special_addresses_are_not_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.1.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "203.0.114.1",
            "2600::1",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
