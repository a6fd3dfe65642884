//! The sockets that the relay listens on: handed to us, or opened here, and kept so that a hand-over can pass them on.

use std::net::SocketAddr;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, UnixListener};

use super::StartError;
use super::places::{self, Kind, Place, Wanted};
use crate::admin::api;
use crate::config::Config;
use crate::systemd::{Listener, Socket};

/// Most connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Everything that listens.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) smtp: Vec<TcpListener>,
    pub(super) http: Vec<TcpListener>,
    pub(super) https: Vec<TcpListener>,
    pub(super) admin: UnixListener,
    /// The same sockets again, for as long as nobody may be refused.
    pub(super) kept: Vec<Socket>,
}

impl Listeners {
    /// Places what was handed to us and opens what is missing.
    pub(super) async fn open(config: &Config, handed: Vec<Socket>) -> Result<Self, StartError> {
        let wanted = Wanted {
            smtp: if config.smtp.enabled { config.smtp.listen.clone() } else { Vec::new() },
            http: config.http.listen,
            https: config.http.tls_listen,
            tls: config.tls.is_some(),
            admin: config.admin_socket.clone(),
        };
        let configured: Vec<SocketAddr> =
            wanted.smtp.iter().copied().chain([wanted.http]).chain(wanted.https).collect();
        let described: Vec<_> =
            handed.iter().map(|socket| (socket.name.clone(), place(&socket.listener))).collect();
        let plan = places::plan(&described, &wanted)?;
        let admin = |error| StartError::Admin { socket: config.admin_socket.clone(), error };
        let mut found = Found::default();
        for ((socket, (_, at)), placed) in handed.into_iter().zip(&described).zip(&plan.sockets) {
            let Some((kind, own)) = *placed else {
                tracing::info!(event = "relay.socket.closed", name = socket.name, at = %at,
                    "a socket of before is not configured any more");
                continue;
            };
            found.keep(kind, own, socket.listener).map_err(|error| match (kind, at) {
                (Kind::Smtp | Kind::Http | Kind::Https, Place::Tcp(address)) => {
                    refused(kind, *address, error)
                }
                (_, Place::Unix(_)) | (Kind::Admin, Place::Tcp(_)) => admin(error),
            })?;
        }
        for (kind, address) in plan.to_open {
            let opened = bind(address, &configured).and_then(|l| found.keep(kind, true, Listener::Tcp(l)));
            opened.map_err(|error| refused(kind, address, error))?;
        }
        if !plan.has_admin {
            let opened = api::bind(&config.admin_socket)
                .and_then(UnixListener::into_std)
                .and_then(|l| found.keep(Kind::Admin, true, Listener::Unix(l)));
            opened.map_err(admin)?;
        }
        let Found { smtp, http, https, admin: Some(listener), kept } = found else {
            return Err(admin(std::io::Error::other("it was not handed over")));
        };
        Ok(Self { smtp, http, https, admin: listener, kept })
    }
}

#[derive(Debug, Default)]
struct Found {
    smtp: Vec<TcpListener>,
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
    admin: Option<UnixListener>,
    kept: Vec<Socket>,
}

impl Found {
    /// One for serving, one for keeping.
    fn keep(&mut self, kind: Kind, own: bool, listener: Listener) -> std::io::Result<()> {
        match &listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let serving = TcpListener::from_std(listener.try_clone()?)?;
                match kind {
                    Kind::Smtp => self.smtp.push(serving),
                    Kind::Https => self.https.push(serving),
                    Kind::Http | Kind::Admin => self.http.push(serving),
                }
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                self.admin = Some(UnixListener::from_std(listener.try_clone()?)?);
            }
        }
        let name = if own { kind.own_word() } else { kind.word() };
        self.kept.push(Socket { name: name.to_owned(), listener });
        Ok(())
    }
}

/// Opens a listener. `[::]` is both families, whatever the system's habit is, unless an IPv4 address has the same port in the
/// configuration: then it is IPv6 alone, and stands beside that one.
fn bind(address: SocketAddr, configured: &[SocketAddr]) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        let has_port = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
        socket.set_only_v6(configured.iter().any(has_port))?;
    }
    // Connections of the process before may still be closing.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn place(listener: &Listener) -> Place {
    match listener {
        Listener::Tcp(listener) => {
            Place::Tcp(listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0))))
        }
        Listener::Unix(listener) => {
            let path = listener.local_addr().ok().and_then(|at| at.as_pathname().map(PathBuf::from));
            Place::Unix(path.unwrap_or_default())
        }
    }
}

fn refused(kind: Kind, address: SocketAddr, error: std::io::Error) -> StartError {
    let (what, key) = match kind {
        Kind::Smtp => ("SMTP", "smtp.listen"),
        Kind::Https => ("HTTPS", "http.tls_listen"),
        Kind::Http | Kind::Admin => ("HTTP", "http.listen"),
    };
    StartError::Listen { what, key, address, error }
}

/// Where listeners listen.
pub(super) fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_both_families_has_one_port() {
        let v4 = bind(SocketAddr::from(([0, 0, 0, 0], 0)), &[]).unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = SocketAddr::from(([0u16; 8], port));
        match bind(v6, &[v4.local_addr().unwrap(), v6]) {
            Ok(listener) => assert_eq!(listener.local_addr().unwrap(), v6),
            // A machine without IPv6 has nothing to share.
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
        drop(v4);
        if let Ok(both) = bind(SocketAddr::from(([0u16; 8], 0)), &[]) {
            let port = both.local_addr().unwrap().port();
            assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "alone it takes both");
        }
    }
}
