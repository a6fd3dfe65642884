//! Certificates from an ACME server (RFC 8555), got and renewed while the relay runs.
//!
//! Promises: a certificate on disk is served at once, and a restart orders nothing that is not due ([`plan`]); a new one is
//! stable on disk, with its key, before it is forgotten where it came from; validations are answered for as long as they run; orders
//! in vain are remembered over a restart, which would use up what the server allows otherwise.
//! Does not: listen (the HTTP and HTTPS listeners do), or judge certificates (`tls` does).
//! Failure policy: an order that fails is a log line with the server's words, a number, and another try later. It never ends
//! the relay: mail goes on without TLS, or with the certificate that is there, and with a warning when that one is near its end.

mod answers;
mod disk;
mod order;
pub mod plan;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spool::ids::WallMs;
use tokio_util::sync::CancellationToken;

pub use answers::Answers;
use disk::Place;
pub use order::{OrderError, PATIENCE};
use plan::{Pauses, Plan, Validity};

use crate::clock;
use crate::observe::Metrics;
use crate::secrets::SecretError;
use crate::tls::files::rfc3339;
use crate::tls::{CertError, Installed, Pair, Store};

/// Longest sleep before the clock is looked at again: it may have been set, or the machine have slept.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Time between two warnings that the certificate runs out, milliseconds: a day.
const WARN_EVERY_MS: u64 = 24 * 3600 * 1000;

/// The certificate on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Its file cannot be read, or others can.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What is in it is wrong; the relay orders another.
    #[error(transparent)]
    Content(#[from] CertError),
}

/// The certificate got before from that server, as it lies in `dir`; `None`: there is none. Changes nothing.
///
/// # Errors
/// [`KeptError`].
pub fn kept(dir: &Path, directory_url: &str) -> Result<Option<Pair>, KeptError> {
    match Place::of(dir, directory_url).certificate()? {
        Some(pair) => Ok(Some(pair?)),
        None => Ok(None),
    }
}

/// How names are proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A file over plain HTTP (RFC 8555 section 8.3).
    Http01,
    /// A certificate over TLS (RFC 8737).
    TlsAlpn01,
}

impl Proof {
    /// The word of the protocol.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// Which certificate is wanted, and from whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where account and certificate are kept.
    pub dir: PathBuf,
    /// URL of the server's directory.
    pub directory_url: String,
    /// Mail address for its notices.
    pub contact: Option<String>,
    /// Names in the certificate, lower-case A-labels, not empty.
    pub names: Vec<String>,
    /// How they are proved.
    pub proof: Proof,
    /// Authority of the server itself, PEM; the first certificate counts. `None`: the public ones.
    pub ca_file: Option<PathBuf>,
    /// Waits after failures.
    pub pauses: Pauses,
}

/// Gets and renews one certificate.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    place: Place,
    store: Arc<Store>,
    answers: Arc<Answers>,
    metrics: Arc<Metrics>,
    plan: Plan,
    /// When orders in vain were begun.
    tries: Vec<WallMs>,
}

impl Client {
    /// Serves the certificate that is on disk, if there is one, and plans the next order.
    ///
    /// # Errors
    /// [`SecretError`] when the directory cannot be used, or others can read the key in it.
    pub fn start(
        settings: Settings,
        store: Arc<Store>,
        answers: Arc<Answers>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SecretError> {
        let place = Place::of(&settings.dir, &settings.directory_url);
        place.make()?;
        let held = match place.certificate()? {
            Some(Ok(pair)) => Some(store.serve(pair)),
            Some(Err(error)) => {
                let file = place.certificate_file();
                tracing::error!(
                    event = "relay.acme.damaged", file = %file.display(), %error,
                    "the certificate kept in {} cannot be used, ordering another", file.display()
                );
                None
            }
            None => None,
        };
        if let Some(held) = &held {
            metrics.tls.set_expiry(held.not_after.0);
            tracing::info!(
                event = "relay.acme.loaded",
                names = held.names.join(","),
                not_after = rfc3339(held.not_after.0),
                "serving the certificate got before"
            );
        }
        // With another list of names it is served meanwhile, and a new one is due.
        let fits = held.filter(|held| settings.names.iter().all(|name| held.covers(name)));
        let (now, tries) = (clock::wall(), place.tries());
        let plan = Plan::new(fits.as_ref().map(validity), &tries, settings.pauses, now, rand::random());
        if plan.vain() > 0 && !plan.wait(now).is_zero() {
            let (wait_seconds, file) = (plan.wait(now).as_secs(), place.tries_file());
            tracing::info!(
                event = "relay.acme.resting", tries = plan.vain(), wait_seconds, file = %file.display(),
                "the last orders of a certificate were in vain; the next try is in {wait_seconds} s, or after a start without {}",
                file.display()
            );
        }
        Ok(Self { settings, place, store, answers, metrics, plan, tries })
    }

    /// Orders whenever one is due, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut warned = None;
        loop {
            let now = clock::wall();
            self.metrics.edge.acme_next(self.plan.due(now).0);
            let wait = self.plan.wait(now);
            if !wait.is_zero() {
                self.warn_of_the_end(&mut warned, now);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(wait.min(LOOK_EVERY)) => continue,
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.order() => {}
            }
        }
    }

    /// Says once a day that what is served runs out. Not while an order is due: it may put an end to that.
    fn warn_of_the_end(&self, warned: &mut Option<WallMs>, now: WallMs) {
        let Some(served) = self.store.installed() else { return };
        // Whichever way the clock was set since.
        let lately = warned.is_some_and(|at| at.0.abs_diff(now.0) < WARN_EVERY_MS);
        if lately || !plan::ends_soon(validity(&served), now) {
            return;
        }
        *warned = Some(now);
        let not_after = rfc3339(served.not_after.0);
        tracing::warn!(
            event = "relay.tls.expires_soon",
            not_after,
            next_try = rfc3339(self.plan.due(now).0),
            "the certificate runs out at {not_after}, and the ACME server has given no other; `relay.acme.failed` says why"
        );
    }

    async fn order(&mut self) {
        // Before it begins: one that this process does not survive is one that the server counts, too.
        self.tries.push(clock::wall());
        let surplus = self.tries.len().saturating_sub(disk::TRIES_KEPT);
        self.tries.drain(..surplus);
        self.keep_tries();
        let settings = &self.settings;
        let names = settings.names.join(",");
        tracing::info!(
            event = "relay.acme.ordering",
            directory = settings.directory_url,
            names,
            challenge = settings.proof.word(),
            "ordering a certificate"
        );
        let key = (&self.place, self.plan.keeps_key());
        let got = order::run(settings, key, &self.answers, &self.store).await;
        let installed = match got {
            Ok(got) => self.install(&got),
            Err(error) => Err(error),
        };
        let now = clock::wall();
        self.metrics.edge.acme_order(installed.is_ok());
        match installed {
            Ok(installed) => {
                self.plan.installed(validity(&installed), now, rand::random());
                if self.plan.vain() == 0 {
                    self.tries.clear();
                    self.keep_tries();
                }
                self.metrics.tls.set_expiry(installed.not_after.0);
                tracing::info!(
                    event = "relay.acme.installed",
                    names = installed.names.join(","),
                    not_after = rfc3339(installed.not_after.0),
                    renewal = rfc3339(self.plan.due(now).0),
                    "serving a new certificate"
                );
            }
            Err(error) => {
                if matches!(error, OrderError::NoAccount(_)) {
                    self.place.drop_account();
                }
                if matches!(error, OrderError::KeptKey(_)) {
                    self.plan.key_failed();
                }
                self.plan.failed(now, rand::random());
                let wait_seconds = self.plan.wait(now).as_secs();
                tracing::error!(
                    event = "relay.acme.failed", directory = self.settings.directory_url, names, %error,
                    failures = self.plan.failures(), wait_seconds, served = self.store.ready(),
                    "no certificate from the ACME server: {error}; the next try is in {wait_seconds} s"
                );
            }
        }
    }

    /// What cannot be kept is unknown to the next start, which then tries at once.
    fn keep_tries(&self) {
        if let Err(error) = self.place.keep_tries(&self.tries) {
            tracing::debug!(event = "relay.acme.tries_not_kept", %error, "times of orders are not kept: {error}");
        }
    }

    /// Keeps the pair, and serves it. One that cannot be kept is served all the same: the next start orders again.
    fn install(&self, got: &order::Got) -> Result<Installed, OrderError> {
        let pair = Pair::read(got.chain_pem.as_bytes(), got.key_pem.as_bytes())
            .map_err(|error| OrderError::Server(format!("it gave a certificate of no use: {error}")))?;
        if let Err(error) = self.place.keep_certificate(&got.key_pem, &got.chain_pem) {
            tracing::error!(event = "relay.acme.not_kept", %error, "the new certificate is served, and not kept: {error}");
        }
        Ok(self.store.serve(pair))
    }
}

fn validity(installed: &Installed) -> Validity {
    Validity { from: installed.not_before, to: installed.not_after }
}
