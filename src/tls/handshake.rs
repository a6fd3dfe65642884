//! Driver: one handshake, within a time, and what came of it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Store, https_acceptor, smtp_acceptor};
use crate::observe::{Metrics, TlsListener, TlsVersion};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client was too slow.
    #[error("it took longer than {} s", .0.as_secs())]
    Slow(Duration),
    /// The client went away, spoke no TLS, or nothing could be agreed on.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

/// What protects a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Version.
    pub version: TlsVersion,
    /// Cipher suite in the words of IANA.
    pub cipher: String,
}

impl Info {
    /// `TLSv1.3 TLS_AES_256_GCM_SHA384`: two words, as trace fields and logs have them.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {}", self.version.word(), self.cipher)
    }
}

/// What a listener needs to shake hands. Cheap to clone.
#[derive(Clone)]
pub struct Handshakes {
    acceptor: TlsAcceptor,
    store: Arc<Store>,
    listener: TlsListener,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Handshakes {
    /// With the rules of this listener.
    ///
    /// # Errors
    /// As [`smtp_acceptor`] and [`https_acceptor`].
    pub fn new(
        store: &Arc<Store>,
        listener: TlsListener,
        metrics: Arc<Metrics>,
    ) -> Result<Self, rustls::Error> {
        let acceptor = match listener {
            TlsListener::Smtp => smtp_acceptor(store)?,
            TlsListener::Https => https_acceptor(store)?,
        };
        Ok(Self { acceptor, store: Arc::clone(store), listener, metrics })
    }

    /// True when there is a certificate to show.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.store.ready()
    }
    /// Shakes hands with a client that has just connected, or was just told to begin. Counts the outcome.
    ///
    /// * `patience` – for the handshake as a whole, however lively the client is.
    ///
    /// # Errors
    /// [`HandshakeError`]; the stream is gone.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        patience: Duration,
    ) -> Result<(TlsStream<S>, Info), HandshakeError> {
        let shaken = match timeout(patience, self.acceptor.accept(stream)).await {
            Ok(shaken) => shaken.map_err(HandshakeError::Failed),
            Err(_) => Err(HandshakeError::Slow(patience)),
        };
        match shaken {
            Ok(stream) => {
                let info = info(stream.get_ref().1);
                self.metrics.tls.session(self.listener, info.version);
                Ok((stream, info))
            }
            Err(error) => {
                self.metrics.tls.failure(self.listener);
                Err(error)
            }
        }
    }
}

fn info(connection: &rustls::ServerConnection) -> Info {
    // There is no third version in our configuration.
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => TlsVersion::V1_2,
        Some(_) | None => TlsVersion::V1_3,
    };
    let suite = connection.negotiated_cipher_suite();
    let cipher = suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite()));
    // rustls calls the suites of TLS 1.3 by its own prefix, to tell them from those of 1.2.
    Info { version, cipher: cipher.replacen("TLS13_", "TLS_", 1) }
}
