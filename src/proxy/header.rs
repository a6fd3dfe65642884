//! PURE: one PROXY protocol header, version 1 or 2, out of the first octets of a connection.
//!
//! Source: the PROXY protocol's specification, "Versions 1 & 2", as HAProxy publishes it. Promises: octets behind the header are
//! not looked at; what more octets cannot repair is [`Parsed::Invalid`] at once; TLVs are skipped, not read.
//! Failure policy: no guess. Whatever is not exactly a header is none.

use core::net::{IpAddr, SocketAddr}; // addresses only, no sockets

use ppp::{v1, v2};

/// Longest header of version 1, octets, its CRLF included (specification, section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is taken, octets: 232 is the longest without TLVs, and no proxy needs more for those.
/// The format allows 65551.
pub const V2_BYTES_MAX: usize = 4096;
/// Octets of version 2 before the part whose length they tell.
const V2_FIXED_BYTES: usize = 16;
/// How version 1 begins.
const V1_PREFIX: &[u8] = b"PROXY ";
/// How version 1 begins when the proxy does not tell who is connected.
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN";
/// Octet 13 of version 2: version 2, command LOCAL.
const V2_LOCAL: u8 = 0x20;

/// What the first octets of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header so far; more octets are needed.
    Incomplete,
    /// A header.
    Header {
        /// Its octets.
        len: usize,
        /// Who connected to the proxy; `None`: the proxy speaks for itself (LOCAL), or does not tell (UNKNOWN).
        source: Option<SocketAddr>,
    },
    /// No header, or one that is too long.
    Invalid,
}

/// Reads the header at the start of `octets`.
#[must_use]
pub fn parse(octets: &[u8]) -> Parsed {
    if begins_like(octets, V1_PREFIX) {
        version_1(octets)
    } else if begins_like(octets, v2::PROTOCOL_PREFIX) {
        version_2(octets)
    } else {
        Parsed::Invalid
    }
}

/// One is the beginning of the other.
fn begins_like(octets: &[u8], prefix: &[u8]) -> bool {
    let both = octets.len().min(prefix.len());
    octets.get(..both) == prefix.get(..both)
}

fn version_1(octets: &[u8]) -> Parsed {
    let line = octets.get(..V1_BYTES_MAX).unwrap_or(octets);
    let Some(end) = line.iter().position(|octet| *octet == b'\n') else {
        return if octets.len() < V1_BYTES_MAX { Parsed::Incomplete } else { Parsed::Invalid };
    };
    let (Some(line), len) = (line.get(..=end), end + 1) else { return Parsed::Invalid };
    let Some(words) = line.strip_suffix(b"\r\n") else { return Parsed::Invalid };
    if let Some(rest) = words.strip_prefix(V1_UNKNOWN) {
        // What follows is to be ignored, if it is a word of its own.
        let ends = rest.is_empty() || rest.starts_with(b" ");
        return if ends { Parsed::Header { len, source: None } } else { Parsed::Invalid };
    }
    let source = match v1::Header::try_from(line) {
        Ok(header) => match header.addresses {
            v1::Addresses::Tcp4(tcp) => SocketAddr::new(IpAddr::V4(tcp.source_address), tcp.source_port),
            v1::Addresses::Tcp6(tcp) => SocketAddr::new(IpAddr::V6(tcp.source_address), tcp.source_port),
            v1::Addresses::Unknown => return Parsed::Invalid, // was seen above
        },
        Err(_) => return Parsed::Invalid,
    };
    Parsed::Header { len, source: Some(source) }
}

fn version_2(octets: &[u8]) -> Parsed {
    let (Some(command), Some([high, low])) = (octets.get(12), octets.get(14..V2_FIXED_BYTES)) else {
        return Parsed::Incomplete;
    };
    let len = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if len > V2_BYTES_MAX {
        return Parsed::Invalid;
    }
    let Some(octets) = octets.get(..len) else { return Parsed::Incomplete };
    if *command == V2_LOCAL {
        // Family and addresses mean nothing then (section 2.2), whatever they are.
        return Parsed::Header { len, source: None };
    }
    let Ok(header) = v2::Header::try_from(octets) else { return Parsed::Invalid };
    let source = match header.addresses {
        v2::Addresses::IPv4(tcp) => Some(SocketAddr::new(IpAddr::V4(tcp.source_address), tcp.source_port)),
        v2::Addresses::IPv6(tcp) => Some(SocketAddr::new(IpAddr::V6(tcp.source_address), tcp.source_port)),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    };
    if source.is_some() && header.protocol != v2::Protocol::Stream {
        return Parsed::Invalid; // datagrams do not come over TCP
    }
    Parsed::Header { len, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut octets = v2::PROTOCOL_PREFIX.to_vec();
        octets.extend([command, family]);
        octets.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        octets.extend(rest);
        octets
    }

    fn header(len: usize, source: &str) -> Parsed {
        Parsed::Header { len, source: Some(source.parse().unwrap()) }
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0, 25];

    #[test]
    fn both_versions_and_families_tell_the_client() {
        // V1
        assert_eq!(
            parse(b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\nEHLO x\r\n"),
            header(44, "192.0.2.7:12345")
        );
        assert_eq!(
            parse(b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 25\r\n"),
            header(45, "[2001:db8::7]:12345")
        );
        let four = v2(0x21, 0x11, &IPV4);
        assert_eq!(parse(&four), header(28, "192.0.2.7:12345"));
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        six[15] = 7;
        six[32..34].copy_from_slice(&12345_u16.to_be_bytes());
        assert_eq!(parse(&v2(0x21, 0x21, &six)), header(52, "[2001:db8::7]:12345"));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_nobody() {
        let none = |len| Parsed::Header { len, source: None }; // V1
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), none(15));
        assert_eq!(parse(b"PROXY UNKNOWN a b c d e f g h\r\nx"), none(31));
        assert_eq!(parse(&v2(0x20, 0, &[])), none(16));
        assert_eq!(parse(&v2(0x20, 0x11, &IPV4)), none(28));
        assert_eq!(parse(&v2(0x20, 0x77, &[1, 2, 3])), none(19));
        assert_eq!(parse(&v2(0x21, 0, &[])), none(16));
        assert_eq!(parse(&v2(0x21, 0x31, &[b'/'; 216])), none(232));
    }

    #[test]
    fn every_beginning_of_a_header_is_incomplete_and_nothing_more() {
        let mut with_tlvs = IPV4.to_vec();
        with_tlvs.extend([3, 0, 4, 1, 2, 3, 4]); // V4: a checksum TLV
        for whole in [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x21, 0x11, &with_tlvs),
        ] {
            for n in 0..whole.len() {
                assert_eq!(parse(&whole[..n]), Parsed::Incomplete, "{n} of {whole:?}");
            }
            let Parsed::Header { len, .. } = parse(&whole) else { panic!("{whole:?}") };
            assert_eq!(len, whole.len());
        }
    }

    #[test]
    fn what_is_no_header_is_known_at_once() {
        for octets in [
            b"E".as_slice(), // V3
            b"EHLO client.example\r\n",
            b"PROXYTCP4",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n",
            b"PROXY TCP4 192.0.2.777 198.51.100.1 12345 25\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 12345 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 123456 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25 more\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 12345 25\r\n",
            b"proxy TCP4 192.0.2.7 198.51.100.1 12345 25\r\n",
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(),
            &v2(0x31, 0x11, &IPV4),
            &v2(0x2f, 0x11, &IPV4),
            &v2(0x21, 0x12, &IPV4),
            &v2(0x21, 0x41, &IPV4),
            &v2(0x21, 0x11, &IPV4[..11]),
            b"\r\n\r\n\0\r\nQUIT\r",
        ] {
            assert_eq!(parse(octets), Parsed::Invalid, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_octets_come() {
        let mut octets = v2::PROTOCOL_PREFIX.to_vec();
        octets.extend([0x21, 0x11, 0xff, 0xff]); // V4
        assert_eq!(parse(&octets), Parsed::Invalid);
        assert_eq!(parse(&v2(0x21, 0x11, &[0; V2_BYTES_MAX - 15])), Parsed::Invalid);
        let longest = v2(0x21, 0x11, &[IPV4.as_slice(), &[0; V2_BYTES_MAX - 28]].concat());
        assert_eq!(parse(&longest), header(V2_BYTES_MAX, "192.0.2.7:12345"));
    }
}
