//! How spans reach the collector: one HTTP/1.1 request each time, in the clear or inside TLS.
//!
//! The exporter calls from a thread of its own, outside of any runtime, and waits; so each request brings a small runtime
//! along, and nothing of the relay's own runtime is used or needed, not even at the end when it is gone.
//!
//! Failure policy: no retries; the exporter drops what was not sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer that is read; a collector says little.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The way to one collector.
#[derive(Clone)]
pub(super) struct Collector {
    timeout: Duration,
    tls: TlsConnector,
    /// It did not take the last spans; the log knows.
    failing: Arc<AtomicBool>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Collector")
    }
}

impl Collector {
    /// * `timeout` – for one whole request.
    pub(super) fn new(timeout: Duration) -> Result<Self, rustls::Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { timeout, tls: TlsConnector::from(Arc::new(config)), failing: Arc::default() })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sent = runtime.block_on(async { tokio::time::timeout(self.timeout, self.post(request)).await });
        sent.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let encrypted = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if encrypted {
            let name = ServerName::try_from(host)?;
            exchange(self.tls.connect(name, stream).await?, &uri, request).await
        } else {
            exchange(stream, &uri, request).await
        }
    }

    /// Says once when it begins to fail, and once when it has ended.
    fn note(&self, problem: Option<String>) {
        let failing = problem.is_some();
        if self.failing.swap(failing, Ordering::Relaxed) == failing {
            return;
        }
        match problem {
            Some(problem) => tracing::warn!(
                event = "relay.traces.failed",
                reason = problem,
                "the collector of traces does not take them, they are lost: {problem}"
            ),
            None => tracing::info!(event = "relay.traces.resumed", "the collector takes traces again"),
        }
    }
}

async fn exchange<S>(stream: S, uri: &Uri, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority)?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    *request.uri_mut() = uri.path().parse()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Lives as long as the runtime of this request, at most.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = self.send(request);
            self.note(match &answer {
                Ok(response) if response.status().is_success() => None,
                Ok(response) => Some(format!("it answered {}", response.status())),
                Err(error) => Some(error.to_string()),
            });
            answer
        })
    }
}
