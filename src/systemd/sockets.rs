//! Driver: takes the sockets that were opened for us out of the environment.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use socket2::SockRef;

/// Most sockets that are taken.
pub const SOCKETS_MAX: usize = 64;
/// Where their names are told, with colons between.
const NAMES: &str = "LISTEN_FDNAMES";

/// A socket that listens already.
#[derive(Debug)]
pub struct Socket {
    /// `FileDescriptorName=`; what systemd calls it when nobody named it is a name like any other.
    pub name: String,
    /// It.
    pub listener: Listener,
}

/// The kinds that we serve.
#[derive(Debug)]
pub enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        match listener {
            Listener::Tcp(listener) => listener.into(),
            Listener::Unix(listener) => listener.into(),
        }
    }
}

/// The same with a number as low as can be: a hand-over gives high ones, and they cost memory.
fn low(listener: Listener) -> io::Result<Listener> {
    match listener {
        Listener::Tcp(listener) => listener.try_clone().map(Listener::Tcp),
        Listener::Unix(listener) => listener.try_clone().map(Listener::Unix),
    }
}

/// A descriptor was handed to us that nothing here can serve.
#[derive(Debug, thiserror::Error)]
pub enum ForeignSocket {
    /// It is no stream socket of TCP or the file system.
    #[error("socket {number} (`{name}`) that was handed to us cannot be served: {error}")]
    Kind {
        /// The how manyth it is, from 1.
        number: usize,
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// It is a connection.
    #[error(
        "socket {number} (`{name}`) that was handed to us does not listen; the socket unit needs `Accept=no`"
    )]
    Connected {
        /// The how manyth it is, from 1.
        number: usize,
        /// Its name.
        name: String,
    },
    /// There are too many.
    #[error("{0} sockets were handed to us, at most {SOCKETS_MAX} are taken")]
    Many(usize),
}

/// The sockets that were opened for this process; none when it was started without.
///
/// Takes them out of the environment, so that no child process believes that they are its own. To be called once, before
/// there are other threads.
///
/// # Errors
/// [`ForeignSocket`].
pub fn sockets() -> Result<Vec<Socket>, ForeignSocket> {
    let names = std::env::var(NAMES).unwrap_or_default();
    let mut names = names.split(':');
    let mut given = ListenFd::from_env();
    let count = given.len();
    if count > SOCKETS_MAX {
        return Err(ForeignSocket::Many(count));
    }
    let mut sockets = Vec::with_capacity(count);
    for index in 0..count {
        let name = names.next().unwrap_or_default().to_owned();
        let number = index + 1;
        let tcp = given.take_tcp_listener(index);
        let taken = match tcp {
            Ok(listener) => Ok(listener.map(Listener::Tcp)),
            Err(_) => given.take_unix_listener(index).map(|listener| listener.map(Listener::Unix)),
        };
        let listener = match taken.and_then(|taken| taken.map(low).transpose()) {
            Ok(Some(listener)) => listener,
            Ok(None) => continue,
            Err(error) => return Err(ForeignSocket::Kind { number, name, error }),
        };
        let listens = match &listener {
            Listener::Tcp(listener) => SockRef::from(listener).is_listener(),
            Listener::Unix(listener) => SockRef::from(listener).is_listener(),
        };
        match listens {
            Ok(true) => sockets.push(Socket { name, listener }),
            Ok(false) => return Err(ForeignSocket::Connected { number, name }),
            Err(error) => return Err(ForeignSocket::Kind { number, name, error }),
        }
    }
    Ok(sockets)
}
