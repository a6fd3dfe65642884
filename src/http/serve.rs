//! Driver: accepts connections, within limits, in the clear or inside TLS, and lets hyper speak HTTP/1.1 on them.
//!
//! `axum::serve` has neither a connection limit nor a time limit for request heads; both are here. How long an answer may wait for
//! its reader is in [`super::uptake`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::guard::Line;
use super::guests::Guests;
use super::uptake::{Pace, Reins, Uptake};
use crate::clock;
use crate::observe::Metrics;
use crate::proxy::{Arrival, Gate};
use crate::tls::ALPN_ACME;
use crate::tls::handshake::Handshakes;

/// Most connections at a time; tunnels count for as long as they live. [`Places`] may be fewer.
pub const CONNECTIONS_MAX: usize = 200_000;
/// Descriptors that no HTTP connection may take: those of the ledger's files, deliveries, name servers and the admin socket. A ledger
/// that cannot open its next file takes no more mail until the relay is started again.
pub const DESCRIPTORS_RESERVED: usize = 512;
/// This part of the descriptors is for HTTP however few there are: a relay that no gateway reaches is none.
const LEAST_PART: usize = 4;
/// How long a client may take for its request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one request head; an upgrade request has a few hundred.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a request under way may take after a stop.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of file descriptors), so that the loop does not burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection passes before HTTP is spoken on it.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Connections from trusted proxies begin with a PROXY header; `None`: none does.
    pub gate: Option<Arc<Gate>>,
    /// Counts connections that are no tunnel; `None`: nobody does.
    pub guests: Option<Arc<Guests>>,
    /// HTTPS; `None`: in the clear.
    pub tls: Option<Handshakes>,
    /// Listeners that share these share one limit.
    pub places: Places,
    /// How fast a client has to take its answers.
    pub pace: Pace,
    /// Where it is told whether connections are accepted; `None`: nowhere.
    pub metrics: Option<Arc<Metrics>>,
}

/// Places of connections: [`CONNECTIONS_MAX`], or as many as there are descriptors for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self::beside(0)
    }
}

impl Places {
    /// What this process may have now, beside so many connections of SMTP.
    #[must_use]
    pub fn beside(smtp_connections: usize) -> Self {
        use rustix::process::{Resource, getrlimit};
        let descriptors = getrlimit(Resource::Nofile).current;
        Self(Arc::new(Semaphore::new(room(descriptors, smtp_connections))))
    }
}

/// How many connections fit; `descriptors`: `None` is no limit.
fn room(descriptors: Option<u64>, smtp_connections: usize) -> usize {
    let Some(descriptors) = descriptors else { return CONNECTIONS_MAX };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let left = descriptors.saturating_sub(smtp_connections).saturating_sub(DESCRIPTORS_RESERVED);
    left.max(descriptors / LEAST_PART).clamp(1, CONNECTIONS_MAX)
}

/// Serves `router` on `listener` until `stop`; open requests may finish, tunnels end by their own rules.
///
/// Connections run on `tasks`, which the caller waits for.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let line = Line { encrypted: door.tls.is_some(), loopback };
    let watch =
        door.metrics.as_ref().map(|m| m.listeners.watch(if line.encrypted { "https" } else { "http" }));
    let mut failing = false;
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return,
            // Never closed, so the error branch cannot happen; if it did, ending is right.
            place = Arc::clone(&door.places.0).acquire_owned() => match place { Ok(p) => p, Err(_) => return },
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((mut socket, mut peer)) => {
                failing = false;
                if let Some(watch) = &watch {
                    watch.accepted();
                }
                // Frames of the tunnel are small; waiting for more of them only adds delay.
                let _ = socket.set_nodelay(true);
                let router = router.clone();
                let (gate, guests, tls) = (door.gate.clone(), door.guests.clone(), door.tls.clone());
                let (stop, pace) = (stop.clone(), door.pace);
                tasks.spawn(async move {
                    if let Some(gate) = gate {
                        peer = tokio::select! {
                            () = stop.cancelled() => return,
                            passed = gate.pass(&mut socket, peer) => match passed {
                                Ok(Arrival::Client(address) | Arrival::Check(address)) => address,
                                Err(_) => return, // counted and logged
                            },
                        };
                    }
                    let guest = guests.map(|guests| guests.enter(peer.ip()));
                    if matches!(guest, Some(None)) {
                        return; // counted
                    }
                    let from = (peer, line);
                    let (socket, reins) = Uptake::of(socket, pace);
                    let Some(tls) = tls else {
                        return connection(socket, from, router, stop, place, reins).await;
                    };
                    let shaken = tokio::select! {
                        () = stop.cancelled() => return,
                        shaken = tls.accept(socket, HANDSHAKE_TIMEOUT) => shaken,
                    };
                    match shaken {
                        // The handshake was all there is to a validation (RFC 8737 section 3).
                        Ok((stream, _)) if stream.get_ref().1.alpn_protocol() == Some(ALPN_ACME) => {}
                        Ok((stream, _)) => connection(stream, from, router, stop, place, reins).await,
                        Err(error) => tracing::debug!(
                            event = "relay.tls.handshake_failed", listener = "https", client.ip = %peer.ip(),
                            reason = %error, "TLS handshake failed: {error}"
                        ),
                    }
                });
            }
            Err(error) => {
                if let Some(watch) = &watch {
                    watch.failed(clock::monotonic());
                }
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(event = "relay.http.accept_failed", %error, "cannot accept connections, trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    (peer, line): (SocketAddr, Line),
    router: Router,
    stop: CancellationToken,
    place: tokio::sync::OwnedSemaphorePermit,
    reins: Reins,
) {
    // An upgraded connection outlives this function; the handler keeps the place as long as it needs it.
    let place = Arc::new(place);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(line);
        request.extensions_mut().insert(ConnectionPlace(Arc::clone(&place)));
        router.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Somebody who asked and does not read must not hold up a stop.
            match tokio::time::timeout(DRAIN_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    // What still lives was upgraded.
    reins.let_go();
    if let Err(error) = ended {
        tracing::debug!(event = "relay.http.connection_failed", %error, "connection ended with an error");
    }
}

/// The right to one of the [`Places`]; whoever upgrades the connection keeps it.
#[derive(Clone, Debug)]
pub struct ConnectionPlace(
    #[expect(dead_code, reason = "held, not read")] Arc<tokio::sync::OwnedSemaphorePermit>,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_leave_descriptors_to_mail_and_the_ledger() {
        for (descriptors, smtp_connections, places) in [
            (None, 1000, CONNECTIONS_MAX),
            (Some(u64::MAX), 1000, CONNECTIONS_MAX),
            (Some(262_144), 1000, CONNECTIONS_MAX), // as our unit has it
            (Some(200_000), 1000, 200_000 - 1000 - DESCRIPTORS_RESERVED),
            (Some(4096), 1000, 4096 - 1000 - DESCRIPTORS_RESERVED),
            (Some(4096), 100_000, 1024),
            (Some(1024), 1000, 256),
            (Some(0), 0, 1),
        ] {
            assert_eq!(room(descriptors, smtp_connections), places, "{descriptors:?} {smtp_connections}");
        }
    }
}
