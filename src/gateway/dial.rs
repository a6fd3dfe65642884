//! Opens byte streams: plain TCP or TLS over TCP, to a relay (`ws`, `wss`) or a webhook (`http`, `https`).
//!
//! TLS trusts the Mozilla roots built into the binary, and the certificates of one extra file if the
//! configuration names one (a relay with a private CA). There is no switch to trust everything.
//!
//! Every address of a name is tried in the order the resolver gives, each with its own share of patience. TCP
//! keepalive is on, so that even a peer of whom we expect nothing is noticed when it is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Silence after which TCP keepalive begins, and the distance of its probes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URL is none, or of a scheme that is not spoken here.
    #[error("{url:?} is not a usable URL: {problem}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file with extra trust anchors cannot be used.
    #[error("{}: {problem}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No address of the name answered; the last answer.
    #[error("cannot connect to {host}:{port}: {source}")]
    Connect {
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
        /// What the system said last.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with {host} failed: {source}")]
    Tls {
        /// Name or address.
        host: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// A URL taken apart: what to connect to, and what to ask for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL as given.
    pub url: String,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host name, lower-case, or address; IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Host and port as they stand in the URL (value of the `Host` field).
    pub authority: String,
    /// Path and query, at least `/`.
    pub target: String,
}

impl Endpoint {
    /// A relay's `ws://` or `wss://` URL.
    ///
    /// # Errors
    /// [`DialError::Url`].
    pub fn relay(url: &str) -> Result<Self, DialError> {
        Self::parse(url, "ws", "wss", "it must begin with ws:// or wss://")
    }

    /// An `http://` or `https://` URL.
    ///
    /// # Errors
    /// [`DialError::Url`].
    pub fn http(url: &str) -> Result<Self, DialError> {
        Self::parse(url, "http", "https", "it must begin with http:// or https://")
    }

    fn parse(url: &str, plain: &str, secure: &str, schemes: &'static str) -> Result<Self, DialError> {
        let wrong = |problem| DialError::Url { url: url.to_owned(), problem };
        let parsed: hyper::Uri = url.trim().parse().map_err(|_| wrong("it cannot be parsed"))?;
        let scheme = parsed.scheme_str().unwrap_or_default();
        let tls = scheme.eq_ignore_ascii_case(secure);
        if !tls && !scheme.eq_ignore_ascii_case(plain) {
            return Err(wrong(schemes));
        }
        let authority = parsed.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("names and passwords do not belong into it"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        Ok(Self {
            url: url.trim().to_owned(),
            tls,
            host,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_ascii_lowercase(),
            target: parsed.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        })
    }
}

/// A connected stream, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Whom TLS trusts; cheap to clone.
#[derive(Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    /// The built-in roots, and the certificates of `extra` (PEM) if given.
    ///
    /// # Errors
    /// [`DialError::Trust`] when the file cannot be read, or holds no usable certificate.
    pub fn new(extra: Option<&Path>) -> Result<Self, DialError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = extra {
            let wrong = |problem: String| DialError::Trust { path: path.to_owned(), problem };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
            let mut found = 0;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
                found += 1;
            }
            if found == 0 {
                return Err(wrong("no certificate in it".to_owned()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| DialError::Trust { path: PathBuf::new(), problem: error.to_string() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }
}

/// Connects, with TLS if the endpoint asks for it.
///
/// # Errors
/// [`DialError::Connect`] or [`DialError::Tls`].
pub async fn open(endpoint: &Endpoint, trust: &Trust) -> Result<Box<dyn Stream>, DialError> {
    let tcp = connect(endpoint).await.map_err(|source| DialError::Connect {
        host: endpoint.host.clone(),
        port: endpoint.port,
        source,
    })?;
    if !endpoint.tls {
        return Ok(Box::new(tcp));
    }
    let failed = |source| DialError::Tls { host: endpoint.host.clone(), source };
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let connector = TlsConnector::from(Arc::clone(&trust.config));
    match timeout(TLS_TIMEOUT, connector.connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let look_up = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    let addresses = timeout(CONNECT_TIMEOUT, look_up).await??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.take(ADDRESSES_MAX) {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let relay = Endpoint::relay("wss://Relay.Example.ORG/ws").unwrap();
        assert_eq!((relay.host.as_str(), relay.port, relay.tls), ("relay.example.org", 443, true));
        assert_eq!((relay.authority.as_str(), relay.target.as_str()), ("relay.example.org", "/ws"));
        let local = Endpoint::relay("ws://[::1]:8080").unwrap();
        assert_eq!((local.host.as_str(), local.port, local.target.as_str()), ("::1", 8080, "/"));
        assert_eq!(Endpoint::http("http://h/a?b=c").unwrap().target, "/a?b=c");
    }

    #[test]
    fn unusable_urls_are_refused() {
        for url in ["", "not a url", "http://x/ws", "ws://", "wss://user:pass@host/ws", "ws:///ws"] {
            assert!(matches!(Endpoint::relay(url), Err(DialError::Url { .. })), "{url:?}");
        }
        assert!(Endpoint::http("ws://x/").is_err());
    }

    #[test]
    fn trust_needs_a_certificate_in_the_extra_file() {
        assert!(Trust::new(None).is_ok());
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("ca.pem");
        std::fs::write(&empty, "nothing").unwrap();
        assert!(matches!(Trust::new(Some(&empty)), Err(DialError::Trust { .. })));
        assert!(matches!(Trust::new(Some(&dir.path().join("none"))), Err(DialError::Trust { .. })));
    }
}
