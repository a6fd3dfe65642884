//! Clients that read nothing, that read slowly, and that have nothing to read.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::*;
use crate::clock;
use crate::http::{Door, serve};
use crate::observe::{Metrics, TlsListener};
use crate::tls::Store;
use crate::tls::handshake::Handshakes;

/// As in earnest, with less patience.
const QUICK: Pace = Pace { bytes: UPTAKE_BYTES_MIN, time: Duration::from_secs(1) };
/// More than the buffers of both ends hold together.
const LARGE: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "relay.example";

/// A listener; ends when dropped.
struct Served {
    address: SocketAddr,
    connections: TaskTracker,
    _stop: DropGuard,
}

impl Served {
    async fn start(tls: Option<Handshakes>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let door = Door { tls, pace: QUICK, ..Door::default() };
        tokio::spawn(serve(listener, door, router(), stop.clone(), connections.clone()));
        Self { address, connections, _stop: stop.drop_guard() }
    }

    async fn ask(&self, path: &str, fields: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// Waits until the connection that was just made has ended.
    async fn over(&self) {
        let over = async {
            while self.connections.is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
            while !self.connections.is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, over).await.expect("the connection ends");
    }
}

fn router() -> Router {
    let late = || async {
        sleep(QUICK.time * 2).await;
        "late"
    };
    let drip = || async {
        let drops = stream::unfold(0, |n| async move {
            sleep(QUICK.time * 2).await;
            (n < 2).then_some((Ok::<_, Infallible>(Bytes::from_static(b"drop")), n + 1))
        });
        Body::from_stream(drops)
    };
    Router::new()
        .route("/large", get(|| async { vec![b'x'; LARGE] }))
        .route("/late", get(late))
        .route("/drip", get(drip))
        .route("/up", any(up))
}

/// Speaks another protocol from then on, in which the relay says much at once.
async fn up(mut request: Request) -> Response {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().unwrap();
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(&vec![b'x'; LARGE]).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let fields = [("connection", "upgrade"), ("upgrade", "other")];
    (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_is_cut() {
    for fields in ["", "Connection: close\r\n"] {
        let served = Served::start(None).await;
        let client = served.ask("/large", fields).await;
        served.over().await;
        drop(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_inside_tls_is_cut_too() {
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
    let store = Store::new();
    store.install(chain.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let tls = Handshakes::new(&store, TlsListener::Https, Arc::new(Metrics::new())).unwrap();
    let served = Served::start(Some(tls)).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(served.address).await.unwrap();
    let mut client = connector.connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap();
    client.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    client.flush().await.unwrap();
    served.over().await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_gets_everything() {
    let served = Served::start(None).await;
    let mut client = served.ask("/large", "Connection: close\r\n").await;
    let (begun, mut bytes, mut buffer) = (clock::monotonic(), 0, vec![0; 64 * 1024]);
    loop {
        let read = timeout(PATIENCE, client.read(&mut buffer)).await.expect("more in time").unwrap();
        if read == 0 {
            break;
        }
        bytes += read;
        sleep(Duration::from_millis(10)).await;
    }
    assert!(bytes > LARGE, "{bytes}");
    assert!(clock::monotonic() - begun > QUICK.time * 2, "it was looked at more than once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_of_ours_is_no_fault_of_the_client() {
    let served = Served::start(None).await;
    let read = async |path: &str| {
        let mut client = served.ask(path, "Connection: close\r\n").await;
        let mut answer = String::new();
        timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("an end").unwrap();
        answer
    };
    let (late, drops) = tokio::join!(read("/late"), read("/drip"));
    assert!(late.ends_with("\r\n\r\nlate"), "{late}");
    assert!(drops.matches("drop").count() == 2 && drops.ends_with("0\r\n\r\n"), "{drops}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_is_let_go() {
    let served = Served::start(None).await;
    let mut client = served.ask("/up", "Connection: upgrade\r\nUpgrade: other\r\n").await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, client.read_u8()).await.expect("a head").unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    sleep(QUICK.time * 3).await;
    let mut said = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut said)).await.expect("an end").unwrap();
    assert_eq!(said.len(), LARGE);
}
