//! Fetches the policy file of a domain over HTTPS (RFC 8461 section 3.3).
//!
//! Promises: the certificate must be valid for `mta-sts.` and the domain's name; redirects are not followed; the body is
//! plain text of at most 64 KB; all of it ends within [`FetchSettings::timeout`] once it has begun; no more than
//! [`FETCHES_MAX`] run at once; an address inside this machine or its private networks is not asked unless the operator allowed it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::addresses::{self, Limits, Looked};
use super::answer::RouteError;
use super::dns::{Dns, Eyes};
use super::mta_sts::{self, POLICY_BYTES_MAX, Policy, PolicyError};

/// Most fetches at once.
pub const FETCHES_MAX: usize = 64;
/// How long a fetch waits for its turn, so that slow policy hosts cannot talk others out of their policies.
const TURN_PATIENCE: Duration = Duration::from_secs(120);
/// How long one address has to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where policies are fetched.
#[derive(Clone, Debug)]
pub struct FetchSettings {
    /// Port of policy hosts: 443.
    pub port: u16,
    /// Authorities to trust beside the public ones.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Loopback and private addresses may be asked.
    pub allow_private_targets: bool,
    /// For one whole fetch.
    pub timeout: Duration,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            port: 443,
            extra_roots: Vec::new(),
            allow_private_targets: false,
            timeout: Duration::from_secs(30),
        }
    }
}

/// There is no policy to be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The policy host has no address, or none that may be asked.
    #[error("the policy host cannot be found: {0}")]
    NotFound(#[from] RouteError),
    /// No address took a connection, or the connection broke.
    #[error("the policy host cannot be reached: {0}")]
    Io(#[from] std::io::Error),
    /// The policy host's name cannot stand in a certificate.
    #[error("{0} is no name for TLS")]
    Name(String),
    /// It did not speak HTTP, or its answer was too long.
    #[error("the policy host's answer cannot be read: {0}")]
    Http(String),
    /// It said something else than 200; redirects are not followed.
    #[error("the policy host said {0}")]
    Status(StatusCode),
    /// The body is not `text/plain`.
    #[error("the policy is not text/plain")]
    ContentType,
    /// The file is no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It took too long.
    #[error("the policy host was too slow")]
    Timeout,
}

/// Cheap handle; clones share the limit.
#[derive(Clone)]
pub struct Fetcher {
    port: u16,
    allow_private_targets: bool,
    timeout: Duration,
    tls: TlsConnector,
    gate: Arc<Semaphore>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Trusts the Mozilla roots built into the binary and the extra ones.
    ///
    /// # Errors
    /// [`rustls::Error`] for an extra root that is no certificate.
    pub fn new(settings: &FetchSettings) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for certificate in &settings.extra_roots {
            roots.add(certificate.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            port: settings.port,
            allow_private_targets: settings.allow_private_targets,
            timeout: settings.timeout,
            tls: TlsConnector::from(Arc::new(config)),
            gate: Arc::new(Semaphore::new(FETCHES_MAX)),
        })
    }

    /// The policy that `domain` (A-labels, lower case) publishes now.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, dns: &Dns, domain: &str) -> Result<Policy, FetchError> {
        let host = format!("mta-sts.{domain}");
        let turn = tokio::time::timeout(TURN_PATIENCE, self.gate.acquire()).await;
        let _turn = turn.map_err(|_| FetchError::Timeout)?;
        let work = async {
            let body = self.get(&host, self.connect(dns, &host).await?).await?;
            Ok(mta_sts::parse(&body)?)
        };
        tokio::time::timeout(self.timeout, work).await.map_err(|_| FetchError::Timeout)?
    }

    async fn connect(&self, dns: &Dns, host: &str) -> Result<TcpStream, FetchError> {
        let (v4, v6) = join(dns.v4(Eyes::Plain, host), dns.v6(Eyes::Plain, host)).await;
        let looked = [Looked { host: host.to_owned(), preference: 0, v4, v6 }];
        let limits = Limits { private: self.allow_private_targets, is_own: &|_| false };
        let reachable = addresses::reachable(host, &looked, &limits)?;
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for address in reachable.hosts.iter().flat_map(|host| &host.addresses) {
            let connecting = TcpStream::connect(SocketAddr::new(*address, self.port));
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last.into())
    }

    async fn get(&self, host: &str, stream: TcpStream) -> Result<Bytes, FetchError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Name(host.to_owned()))?;
        let stream = self.tls.connect(name, stream).await?;
        let broken = |error: &dyn std::fmt::Display| FetchError::Http(error.to_string());
        let request = Request::get("/.well-known/mta-sts.txt")
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("waystation/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "text/plain")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if !kind.is_some_and(is_plain_text) {
                return Err(FetchError::ContentType);
            }
            let body = Limited::new(response.into_body(), POLICY_BYTES_MAX).collect().await;
            Ok(body.map_err(|error| broken(&error))?.to_bytes())
        };
        // The connection lives as long as this request: dropped by the timeout, it takes the request with it.
        tokio::pin!(answer);
        tokio::pin!(connection);
        let mut line_open = true;
        loop {
            tokio::select! {
                done = &mut answer => return done,
                _ = &mut connection, if line_open => line_open = false,
            }
        }
    }
}

/// `text/plain`, with or without parameters.
fn is_plain_text(value: &str) -> bool {
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/plain"))
}
