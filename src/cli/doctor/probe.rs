//! Driver: who listens where, and what answers.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use time::PrimitiveDateTime;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::judge::net::{Bound, Holder, is_in_the_way, listening};

/// Processes that are looked at for the holder of a port.
const PROCESSES_MAX: usize = 5000;
/// Open files of one process that are looked at.
const FILES_MAX: usize = 5000;
/// How long an answer over HTTP may take, the connection included.
pub(crate) const HTTP_PATIENCE: Duration = Duration::from_secs(10);
/// Largest body that is read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Tries to listen, and looks for who is in the way.
pub(crate) fn bound(address: SocketAddr) -> Bound {
    match TcpListener::bind(address) {
        Ok(_) => Bound::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let tables =
                ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
            let all = tables.iter().flat_map(|table| listening(table));
            let sockets: Vec<_> = all.filter(|one| is_in_the_way(one.address, address)).collect();
            let inodes: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
            Bound::Taken { holders: holders(&inodes), uid: sockets.first().map(|socket| socket.uid) }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Bound::Forbidden,
        Err(error) => Bound::Impossible(error.to_string()),
    }
}

/// Programs that hold one of the sockets, as far as this account may see them.
fn holders(inodes: &HashSet<u64>) -> Vec<Holder> {
    let mut found = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten().take(PROCESSES_MAX) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files.flatten().take(FILES_MAX).any(|file| {
            let Ok(target) = fs::read_link(file.path()) else { return false };
            let text = target.to_string_lossy();
            let inode = text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode| inodes.contains(&inode))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(Holder { name: name.trim().to_owned(), pid });
        }
    }
    found
}

/// Where to connect to reach one's own listener.
pub(crate) fn own(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `Date`, milliseconds since 1970.
    pub(crate) date_ms: Option<u64>,
    pub(crate) body: Bytes,
}

/// Asks a listener of this machine.
pub(crate) async fn get(address: SocketAddr, target: &str, upgrade: bool) -> Result<Answer, String> {
    let asking = async {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        get_over(stream, &address.to_string(), target, upgrade).await
    };
    tokio::time::timeout(HTTP_PATIENCE, asking).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Asks over a connection. `upgrade`: as a WebSocket client that forgot its key, so that nobody is logged in.
pub(crate) async fn get_over<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    host: &str,
    target: &str,
    upgrade: bool,
) -> Result<Answer, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let mut request = Request::get(target)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("waystation-doctor/", env!("CARGO_PKG_VERSION")));
    request = if upgrade {
        request.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "websocket")
    } else {
        request.header(header::CONNECTION, "close")
    };
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let date = response.headers().get(header::DATE).and_then(|value| value.to_str().ok());
        let date_ms = date.and_then(date_ms);
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| failed(&error))?.to_bytes();
        Ok(Answer { status, date_ms, body })
    };
    // The connection lives as long as this request.
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        _ = &mut connection => answer.await,
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
fn date_ms(text: &str) -> Option<u64> {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
    u64::try_from(at.unix_timestamp()).ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_answers_are_read() {
        assert_eq!(date_ms("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(date_ms("yesterday"), None);
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let Bound::Taken { holders, uid } = bound(address) else { panic!("it is taken") };
        let me = std::process::id();
        assert!(holders.iter().any(|holder| holder.pid == me), "{holders:?}");
        assert_eq!(uid, Some(rustix::process::geteuid().as_raw()));
        drop(listener);
        assert_eq!(bound(address), Bound::Free);
        assert!(matches!(bound("192.0.2.1:0".parse().unwrap()), Bound::Impossible(_)));
    }
}
