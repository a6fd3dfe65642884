//! Driver: the admin socket itself: made, and accepted on.
//!
//! Promises: a socket that somebody listens on is never taken away from him; one that a killed daemon left is replaced.
//! Failure policy: what cannot be found out is refused; a failed accept is counted, told once, and tried again.

use std::future::IntoFuture as _;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::observe::ListenerWatch;

/// How long requests under way may take after a stop: somebody who asked and does not read must not hold it up.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of file descriptors), so that the loop does not burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes the socket, only for its owner, replacing one that nobody listens on.
///
/// # Errors
/// As [`is_left_over`], and when the path cannot be used.
pub fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if is_left_over(socket)? {
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    // The directory is 0700 already; this holds for sockets elsewhere.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether a socket lies there that nobody listens on any more; false: there is none.
///
/// The data directory's lock does not say so: the path may be named in two configurations.
///
/// # Errors
/// [`ErrorKind::AddrInUse`] when somebody listens there; others when it is no socket, or nobody can say.
pub fn is_left_over(socket: &Path) -> std::io::Result<bool> {
    match std::fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(Error::other("there is something else with that name")),
        Err(_) => return Ok(false),
    }
    let caller = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Somebody whose queue is full listens, too, and is not waited for.
    caller.set_nonblocking(true)?;
    match caller.connect(&SockAddr::unix(socket)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => {
            let sentence = "another process listens there; stop it, or name another path with admin.socket";
            Err(Error::new(ErrorKind::AddrInUse, sentence))
        }
    }
}

/// Serves the socket until `stop`; requests under way may finish, within `DRAIN_MAX`.
pub async fn serve(listener: UnixListener, watch: ListenerWatch, router: Router, stop: CancellationToken) {
    let door = Door { listener, watch, failing: false };
    let served = axum::serve(door, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        served = served.into_future() => if let Err(error) = served {
            tracing::error!(event = "relay.admin.failed", %error, "admin socket failed");
        },
        () = too_late => {}
    }
}

/// The listener as axum sees it: axum would keep failures to itself.
struct Door {
    listener: UnixListener,
    watch: ListenerWatch,
    failing: bool,
}

impl Listener for Door {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.failing = false;
                    self.watch.accepted();
                    return accepted;
                }
                Err(error) => {
                    self.watch.failed(clock::monotonic());
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(event = "relay.admin.accept_failed", %error, "cannot accept connections, trying on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        assert!(!is_left_over(&path).unwrap(), "nothing is there");
        let first = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).await.is_ok(), "it is still there");
        drop(first);
        assert!(is_left_over(&path).unwrap());
        drop(bind(&path).unwrap());
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
}
