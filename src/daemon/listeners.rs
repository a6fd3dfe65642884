//! The sockets that the relay listens on: handed to us, or opened here, and kept so that a hand-over can pass them on.
//!
//! A socket that was handed to us keeps its name, so that the next process, and the one after, place it as we did.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, UnixListener};

use super::places::{self, Kind, Place, Unplaced, Wanted};
use super::{StartError, probe};
use crate::admin::api::socket as admin_socket;
use crate::config::Config;
use crate::systemd::{Listener, SOCKETS_MAX, Socket};

/// Most connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Everything that listens.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) smtp: Vec<TcpListener>,
    pub(super) http: Vec<TcpListener>,
    pub(super) https: Vec<TcpListener>,
    pub(super) admin: UnixListener,
    /// The file of the admin socket, when it is ours and no service manager's.
    pub(super) admin_file: Option<FileId>,
    /// The same sockets again, for as long as nobody may be refused.
    pub(super) kept: Vec<Socket>,
}

/// Which file a name led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    file: (u64, u64),
    /// Numbers of removed files are given again.
    made: (i64, i64),
}

impl FileId {
    /// Of what lies there now; `None`: nothing.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some(Self { file: (meta.dev(), meta.ino()), made: (meta.mtime(), meta.mtime_nsec()) })
    }
}

impl Listeners {
    /// Places what was handed to us and opens what is missing.
    pub(super) async fn open(config: &Config, handed: Vec<Socket>) -> Result<Self, StartError> {
        let wanted = wanted(config);
        let configured = addresses_of(&wanted);
        let described = describe(&handed);
        let plan = places::plan(&described, &wanted)?;
        let admin = |error| StartError::Admin { socket: config.admin_socket.clone(), error };
        let mut found = Found::default();
        for ((socket, (_, at)), placed) in handed.into_iter().zip(&described).zip(&plan.sockets) {
            let Some((kind, own)) = *placed else {
                tracing::info!(event = "relay.socket.closed", name = socket.name, at = %at,
                    "a socket of before is not configured any more");
                continue;
            };
            let name = if own { kind.own_word().to_owned() } else { socket.name };
            found.keep(kind, name, socket.listener).map_err(|error| match (kind, at) {
                (Kind::Smtp | Kind::Http | Kind::Https, Place::Tcp(address)) => {
                    refused(kind, *address, error)
                }
                (_, Place::Unix(_)) | (Kind::Admin, Place::Tcp(_)) => admin(error),
            })?;
        }
        for (kind, address) in plan.to_open {
            let own = kind.own_word().to_owned();
            let opened = bind(address, &configured).and_then(|l| found.keep(kind, own, Listener::Tcp(l)));
            opened.map_err(|error| refused(kind, address, error))?;
        }
        if !plan.has_admin {
            let own = Kind::Admin.own_word().to_owned();
            let opened = admin_socket::bind(&config.admin_socket)
                .and_then(UnixListener::into_std)
                .and_then(|l| found.keep(Kind::Admin, own, Listener::Unix(l)));
            opened.map_err(admin)?;
        }
        let Found { smtp, http, https, admin: Some(listener), kept } = found else {
            return Err(admin(std::io::Error::other("it was not handed over")));
        };
        let ours = kept.iter().any(|socket| socket.name == Kind::Admin.own_word());
        let admin_file = FileId::of(&config.admin_socket).filter(|_| ours);
        Ok(Self { smtp, http, https, admin: listener, admin_file, kept })
    }
}

/// What the configuration wants to listen on.
fn wanted(config: &Config) -> Wanted {
    Wanted {
        smtp: if config.smtp.enabled { config.smtp.listen.clone() } else { Vec::new() },
        http: config.http.listen,
        https: config.http.tls_listen,
        tls: config.tls.is_some(),
        admin: config.admin_socket.clone(),
    }
}

fn addresses_of(wanted: &Wanted) -> Vec<SocketAddr> {
    wanted.smtp.iter().copied().chain([wanted.http]).chain(wanted.https).collect()
}

/// Names and places.
pub(super) fn describe(sockets: &[Socket]) -> Vec<(String, Place)> {
    sockets.iter().map(|socket| (socket.name.clone(), place(&socket.listener))).collect()
}

/// Finds out, in the process that has `sockets`, whether the next one could place them by `config` and open what is missing.
/// Addresses are tried and given up again. Answers where HTTP would listen.
pub(super) fn rehearse(sockets: &[(String, Place)], config: &Config) -> Result<Vec<SocketAddr>, StartError> {
    if sockets.len() > SOCKETS_MAX {
        return Err(Unplaced::Many { count: sockets.len() }.into());
    }
    let wanted = wanted(config);
    let configured = addresses_of(&wanted);
    let plan = places::plan(sockets, &wanted)?;
    let (mut http, mut given_up) = (Vec::new(), Vec::new());
    for ((_, place), placed) in sockets.iter().zip(&plan.sockets) {
        match (place, placed) {
            (Place::Tcp(at), Some((Kind::Http, _))) => http.push(*at),
            (Place::Tcp(at), None) => given_up.push(*at),
            (Place::Tcp(_), Some((Kind::Smtp | Kind::Https | Kind::Admin, _))) | (Place::Unix(_), _) => {}
        }
    }
    // Held until all were tried: they may be in each other's way, too.
    let mut tried = Vec::new();
    for (kind, address) in plan.to_open {
        // What is in the way may be ours, and gone by then.
        let passes = || given_up.iter().any(|at| clash(*at, address));
        match bind(address, &configured) {
            Ok(listener) => tried.push(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && passes() => {}
            Err(error) => return Err(refused(kind, address, error)),
        }
        if kind == Kind::Http {
            http.push(address);
        }
    }
    if !plan.has_admin && !is_ours(sockets, &config.admin_socket) {
        let admin = |error| StartError::Admin { socket: config.admin_socket.clone(), error };
        // The data directory is made, if need be.
        if let Some(dir) = config.admin_socket.parent().filter(|dir| *dir != config.data_dir) {
            probe::writable(dir).map_err(admin)?;
        }
        admin_socket::is_left_over(&config.admin_socket).map_err(admin)?;
    }
    Ok(http)
}

/// Whether two listeners may be in each other's way. Too often yes, because an IPv6 listener may take IPv4, too.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let wide = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (wide || one.ip() == other.ip())
}

/// Whether one of the sockets lies at `path`, whatever it was called when it was made.
fn is_ours(sockets: &[(String, Place)], path: &Path) -> bool {
    let there = FileId::of(path);
    there.is_some()
        && sockets.iter().any(|(_, place)| match place {
            Place::Unix(at) => FileId::of(at) == there,
            Place::Tcp(_) => false,
        })
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
    fn keep(&mut self, kind: Kind, name: String, listener: Listener) -> std::io::Result<()> {
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
        self.kept.push(Socket { name, listener });
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
    use crate::config::Sources;

    #[test]
    fn more_sockets_than_a_hand_over_passes_on_are_told_before() {
        let config = Config::load(&Sources::default()).unwrap();
        let one = ("own-smtp".to_owned(), Place::Tcp("127.0.0.1:25".parse().unwrap()));
        let said = rehearse(&vec![one; SOCKETS_MAX + 1], &config).unwrap_err().to_string();
        assert!(said.contains("65 listening sockets"), "{said}");
    }

    #[test]
    fn an_admin_socket_needs_a_place_unless_a_service_manager_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("none/admin.sock");
        let text = format!(
            "data_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nsocket = \"{}\"\n",
            dir.path().join("data").display(),
            socket.display()
        );
        let config = Config::load(&Sources { file: Some(("x.toml", &text)), ..Sources::default() }).unwrap();
        let said = rehearse(&[], &config).unwrap_err().to_string();
        assert!(said.contains("none/admin.sock"), "{said}");
        assert!(rehearse(&[("admin".to_owned(), Place::Unix(socket))], &config).is_ok());
    }

    #[test]
    fn listeners_clash_by_port_and_address() {
        let clash = |one: &str, other: &str| clash(one.parse().unwrap(), other.parse().unwrap());
        assert!(clash("127.0.0.1:25", "127.0.0.1:25") && clash("127.0.0.1:25", "0.0.0.0:25"));
        assert!(clash("[::]:25", "127.0.0.1:25"));
        assert!(!clash("127.0.0.1:25", "127.0.0.2:25") && !clash("0.0.0.0:25", "0.0.0.0:26"));
    }

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
