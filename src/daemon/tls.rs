//! Wiring of TLS: where the certificate comes from, and which listeners show it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Tls};
use crate::http::{self, Door};
use crate::observe::{Metrics, TlsListener};
use crate::tls::Store;
use crate::tls::files::{Files, FilesError, LOOK_EVERY, Watch};
use crate::tls::handshake::Handshakes;

/// TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The files of the configuration.
    #[error("no certificate: {0}")]
    Files(#[from] FilesError),
    /// No randomness.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// TLS of this relay. With files there is a certificate from the start on; with ACME `store` is empty until one was got.
#[derive(Clone, Debug)]
pub struct Served {
    /// What is shown; install into it, and the next handshake sees it.
    pub store: Arc<Store>,
    /// `None`: no files.
    watch: Option<Watch>,
    smtp: Handshakes,
    https: Handshakes,
}

impl Served {
    /// `None` when the configuration has no `[tls]`.
    pub(super) fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Self>, TlsError> {
        let Some(tls) = &config.tls else { return Ok(None) };
        let store = Store::new();
        let watch = match tls {
            Tls::Files { cert, key } => {
                let files = Files { cert: cert.clone(), key: key.clone() };
                let watch = Watch::start(files, Arc::clone(&store), Arc::clone(metrics), LOOK_EVERY)?;
                if store.installed().is_some_and(|installed| !installed.covers(&config.hostname)) {
                    tracing::warn!(
                        event = "relay.tls.other_name",
                        hostname = config.hostname,
                        "the certificate is not for `hostname` ({}): gateways and senders that verify will not \
                         connect; get one with that name in it",
                        config.hostname
                    );
                }
                Some(watch)
            }
            Tls::Acme(_) => None,
        };
        let smtp = Handshakes::new(&store, TlsListener::Smtp, Arc::clone(metrics))?;
        let https = Handshakes::new(&store, TlsListener::Https, Arc::clone(metrics))?;
        Ok(Some(Self { store, watch, smtp, https }))
    }

    /// What SMTP shakes hands with.
    pub(super) fn smtp(&self) -> Handshakes {
        self.smtp.clone()
    }

    /// The door of HTTPS, beside the one of HTTP: the same places behind both.
    pub(super) fn door(&self, plain: &Door) -> Door {
        Door { tls: Some(self.https.clone()), ..plain.clone() }
    }

    /// Looks at these files now, if files are what is served.
    pub(super) fn follow(&self, files: Files) {
        if let Some(watch) = &self.watch {
            watch.follow(files);
        }
    }

    /// Keeps the certificate in step with its files.
    pub(super) fn watch(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        if let Some(watch) = self.watch.clone() {
            tasks.spawn(watch.run(stop.clone()));
        }
    }
}

/// What a listener without TLS answers: everything, unless strangers reach it and HTTPS is beside it.
///
/// * `plain` – where this one listens; another one beside it may answer otherwise.
/// * `https` – where HTTPS is.
pub(super) fn plain_router(
    router: &Router,
    config: &Config,
    plain: SocketAddr,
    https: Option<SocketAddr>,
) -> Router {
    match https {
        Some(https) if !plain.ip().is_loopback() => {
            http::plain(router.clone(), &config.hostname, https.port())
        }
        Some(_) | None => router.clone(),
    }
}
