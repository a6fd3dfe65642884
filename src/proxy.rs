//! Who is really connected when a proxy stands in front: the PROXY protocol, and `X-Forwarded-For`.
//!
//! Promises: a header is taken from trusted networks only, whole, once, as the very first octets of a connection, and not one
//! octet behind it is read; it costs at most [`header::V2_BYTES_MAX`] octets, [`PATIENCE`] and one of [`WAITING_MAX`] places.
//! Does not: read TLVs, speak to the client, or decide about limits.
//! Failure policy: a connection without the header it must have is closed without a word. It is counted, and logged at
//! most once in [`LOG_EVERY`], because whoever can open connections could fill a disk with lines.

mod forwarded;
pub mod header;
mod request;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use forwarded::client_address;
pub use header::{Parsed, parse};
pub use request::client_of;

use crate::clock;
use crate::observe::{Metrics, ProxyRefusal};

/// How long a connection may take for its whole header. Proxies send it with their first packet; the specification asks for
/// three seconds at least, for one that was lost.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Most connections of one gate that have not sent their whole header.
pub const WAITING_MAX: usize = 512;
/// Most health checks of one gate under way at a time.
pub const CHECKS_MAX: usize = 64;
/// One log line of refused connections in so long; it says how many there were.
pub const LOG_EVERY: Duration = Duration::from_secs(10);

/// A connection has no header that counts.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It comes from an address that may not say who else it is.
    #[error("not from a trusted proxy")]
    Untrusted,
    /// Its first octets are no header, or too many.
    #[error("no PROXY header, or one that is too long")]
    Invalid,
    /// It did not send its header in time.
    #[error("no whole PROXY header in time")]
    Timeout,
    /// Too many others have not sent theirs.
    #[error("too many connections without their PROXY header")]
    Busy,
    /// It ended before.
    #[error("ended before the end of its PROXY header: {0}")]
    Ended(#[from] io::Error),
}

impl ProxyError {
    fn counted(&self) -> ProxyRefusal {
        match self {
            Self::Untrusted => ProxyRefusal::Untrusted,
            Self::Invalid => ProxyRefusal::Invalid,
            Self::Timeout => ProxyRefusal::Timeout,
            Self::Busy => ProxyRefusal::Busy,
            Self::Ended(_) => ProxyRefusal::Ended,
        }
    }
}

/// Reads the header, and nothing behind it. `None`: the proxy speaks for itself.
///
/// # Errors
/// [`ProxyError::Invalid`], [`ProxyError::Timeout`] after `patience`, or [`ProxyError::Ended`]; the connection is of no
/// use then.
pub async fn read_header(
    stream: &mut TcpStream,
    patience: Duration,
) -> Result<Option<SocketAddr>, ProxyError> {
    tokio::time::timeout(patience, read_patiently(stream)).await.unwrap_or(Err(ProxyError::Timeout))
}

async fn read_patiently(stream: &mut TcpStream) -> Result<Option<SocketAddr>, ProxyError> {
    let mut octets = vec![0; header::V2_BYTES_MAX];
    let mut read = 0;
    loop {
        // Looked at first: what follows the header belongs to the client.
        let rest = octets.get_mut(read..).ok_or(ProxyError::Invalid)?;
        let seen = read + stream.peek(rest).await?;
        if seen == read {
            return Err(ProxyError::Ended(io::ErrorKind::UnexpectedEof.into()));
        }
        let parsed = header::parse(octets.get(..seen).unwrap_or_default());
        let upto = match parsed {
            Parsed::Invalid => return Err(ProxyError::Invalid),
            Parsed::Incomplete => seen,
            Parsed::Header { len, .. } => len,
        };
        stream.read_exact(octets.get_mut(read..upto).ok_or(ProxyError::Invalid)?).await?;
        if let Parsed::Header { source, .. } = parsed {
            return Ok(source);
        }
        read = upto;
    }
}

/// What happens to connections from addresses that are no trusted proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// They are closed: everything comes through a proxy.
    Refused,
    /// They are clients that came directly; a header of theirs is a client's nonsense.
    Served,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A client, by its own address.
    Client(SocketAddr),
    /// The proxy itself, looking whether we are well.
    Check(SocketAddr),
}

/// Stands behind the accept loop of a listener that is behind a proxy.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    trusted: Vec<IpNet>,
    strangers: Strangers,
    patience: Duration,
    waiting: Semaphore,
    /// Places of health checks, which no rate per address may keep out.
    pub checks: Arc<Semaphore>,
    told: Mutex<Told>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    unsaid: u64,
}

impl Gate {
    /// A gate.
    ///
    /// * `name` – `smtp` or `http`, for logs and metrics.
    /// * `trusted` – networks of proxies.
    #[must_use]
    pub fn new(
        name: &'static str,
        trusted: Vec<IpNet>,
        strangers: Strangers,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            trusted,
            strangers,
            patience: PATIENCE,
            waiting: Semaphore::new(WAITING_MAX),
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
            told: Mutex::default(),
            metrics,
        })
    }

    /// Reads what the proxy says about a new connection. Waits, so the accept loop must not.
    ///
    /// # Errors
    /// [`ProxyError`], counted and logged already: close the connection.
    pub async fn pass(&self, stream: &mut TcpStream, peer: SocketAddr) -> Result<Arrival, ProxyError> {
        let passed = self.look(stream, peer).await;
        if let Err(error) = &passed {
            self.note(peer, error);
        }
        passed
    }

    async fn look(&self, stream: &mut TcpStream, peer: SocketAddr) -> Result<Arrival, ProxyError> {
        let peer = canonical(peer);
        if !self.trusted.iter().any(|network| network.contains(&peer.ip())) {
            return match self.strangers {
                Strangers::Refused => Err(ProxyError::Untrusted),
                Strangers::Served => Ok(Arrival::Client(peer)),
            };
        }
        let _place = self.waiting.try_acquire().map_err(|_| ProxyError::Busy)?;
        let source = read_header(stream, self.patience).await?;
        Ok(source.map_or(Arrival::Check(peer), |client| Arrival::Client(canonical(client))))
    }

    fn note(&self, peer: SocketAddr, error: &ProxyError) {
        self.metrics.edge.proxy_refused(self.name, error.counted());
        let now = clock::monotonic();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY) {
            told.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut told.unsaid);
        told.last = Some(now);
        drop(told);
        tracing::warn!(
            event = "relay.proxy.refused", listener = self.name, peer.address = %peer, reason = %error, unsaid,
            "closed a connection that must begin with a PROXY header: {error}"
        );
    }
}

/// IPv4 in IPv6 clothes is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_header_in_pieces_is_read_to_its_last_octet_and_not_beyond() {
        let (mut proxy, mut relay) = pair().await;
        proxy.set_nodelay(true).unwrap();
        let sender = tokio::spawn(async move {
            for octet in b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\nEHLO" {
                proxy.write_all(&[*octet]).await.unwrap();
                tokio::task::yield_now().await;
            }
            proxy
        });
        let source = read_header(&mut relay, PATIENCE).await.unwrap();
        assert_eq!(source, Some("192.0.2.7:12345".parse().unwrap()));
        let mut rest = [0; 4];
        relay.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"EHLO");
        drop(sender.await.unwrap());
    }

    #[tokio::test]
    async fn a_header_that_stalls_or_ends_is_no_header() {
        let (mut proxy, mut relay) = pair().await; // V4
        proxy.write_all(b"PROXY TCP4 192.0").await.unwrap();
        let stalled = read_header(&mut relay, Duration::from_millis(50)).await;
        assert!(matches!(stalled, Err(ProxyError::Timeout)), "{stalled:?}");
        let (mut proxy, mut relay) = pair().await;
        proxy.write_all(b"PROXY TCP4 192.0").await.unwrap();
        drop(proxy);
        let ended = read_header(&mut relay, PATIENCE).await;
        assert!(matches!(ended, Err(ProxyError::Ended(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn strangers_are_never_believed() {
        let trusted: Vec<IpNet> = vec!["192.0.2.0/24".parse().unwrap()]; // V2
        for (strangers, served) in [(Strangers::Refused, false), (Strangers::Served, true)] {
            let gate = Gate::new("test", trusted.clone(), strangers, Arc::new(Metrics::new()));
            let (mut client, mut relay) = pair().await;
            client.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.1 12345 25\r\n").await.unwrap();
            let peer = client.local_addr().unwrap();
            let passed = gate.pass(&mut relay, peer).await;
            assert_eq!(passed.ok(), served.then_some(Arrival::Client(peer)));
        }
    }

    #[tokio::test]
    async fn connections_without_their_header_are_few() {
        let gate = Gate::new(
            "test",
            vec!["127.0.0.0/8".parse().unwrap()],
            Strangers::Refused,
            Arc::new(Metrics::new()),
        );
        let all = u32::try_from(WAITING_MAX).unwrap();
        let taken = gate.waiting.try_acquire_many(all).unwrap();
        let (mut proxy, mut relay) = pair().await;
        proxy.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        let peer = proxy.local_addr().unwrap();
        assert!(matches!(gate.pass(&mut relay, peer).await, Err(ProxyError::Busy)));
        drop(taken);
        assert_eq!(gate.pass(&mut relay, peer).await.unwrap(), Arrival::Check(peer));
    }
}
