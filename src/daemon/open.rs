//! One listening TCP socket.
//!
//! Promise: each configured address gets a socket of its own, also `[::]` beside `0.0.0.0` on one port, which the system
//! would refuse, because `[::]` alone takes IPv4 too. Alone it still does.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

/// Listens on `address`; `all` are the addresses of its list.
pub(super) fn open(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of before to be forgotten.
    socket.set_reuse_address(true)?;
    if is_own_family_only(address, all) {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// `[::]:25` when `0.0.0.0:25` is there, too.
fn is_own_family_only(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let any_v4 = |other: &SocketAddr| other.is_ipv4() && other.ip().is_unspecified();
    address.is_ipv6()
        && address.ip().is_unspecified()
        && all.iter().any(|other| any_v4(other) && other.port() == address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_wildcards_of_one_port_are_listened_on() {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = probe.local_addr().expect("address").port();
        drop(probe);
        for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"]] {
            let all = order.map(|host| format!("{host}:{port}").parse().expect("address"));
            let opened: Vec<_> = all.iter().map(|address| open(*address, &all)).collect();
            if opened.iter().any(|one| one.as_ref().is_err_and(|e| e.raw_os_error() == Some(97))) {
                eprintln!("SKIPPED: no IPv6 here");
                return;
            }
            assert!(opened.iter().all(Result::is_ok), "{opened:?}");
        }
    }

    #[test]
    fn a_wildcard_alone_takes_both_families() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("address");
        assert!(!is_own_family_only(at("[::]:25"), &[at("[::]:25")]));
        assert!(!is_own_family_only(at("[::]:25"), &[at("0.0.0.0:26"), at("127.0.0.1:25")]));
        assert!(is_own_family_only(at("[::]:25"), &[at("[::]:25"), at("0.0.0.0:25")]));
        assert!(!is_own_family_only(at("[2001:db8::1]:25"), &[at("0.0.0.0:25")]));
    }
}
