//! Wiring: the one module that knows every service. It decides nothing.
//!
//! [`start`] opens the spool, binds every listener and starts the services; [`Daemon::ended`] waits for the end
//! and closes in order: no new mail, sessions drained, last checkpoint, directory given up.
//!
//! Failure policy: whatever is missing at the start is a typed error before anything was accepted. A spool that
//! is poisoned ends the daemon with an error; recovery is the next start.

mod abuse;
mod acme;
pub mod custody;
mod edge;
pub mod ledger;
mod open;
mod outbound;
mod presence;
mod readiness;
pub mod records;
mod resolver;
pub mod tls;
mod verify;
mod vitals;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spool::error::SpoolError;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::api::{self, Admin};
use crate::admin::ask::Terms;
use crate::admin::events::ONLOOKERS_MAX;
use crate::config::{AdmissionMode, Config};
use crate::http::{self, Guests};
use crate::mail::admission::Admission;
use crate::mail::intake;
use crate::mail::lane::Lanes;
use crate::mail::limits::Limits;
use crate::mail::outbound::delivery::standing::Standing;
use crate::mail::outbound::delivery::switch::Switch;
use crate::mail::outbound::intake::{self as outbound_intake, Submissions};
use crate::mail::signer::store::StoreError;
use crate::mail::smtp::receiver;
use crate::observe::{Live, Metrics};
use crate::tunnel::session::{self, Window};
use crate::tunnel::ws::{self, RateSettings, Tunnel};
use ledger::{Ledger, LedgerError};
use resolver::Resolver;
use vitals::{Pulse, Senses};

/// How long messages under way may take to finish after a stop.
pub const DRAIN_SMTP: Duration = Duration::from_secs(20);
/// How long everything together may take after a stop, before what is left is dropped.
pub const DRAIN_ALL: Duration = Duration::from_secs(30);
/// What gateways are told to wait before they come back.
const RECONNECT_AFTER: Duration = Duration::from_secs(2);

/// The relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Data directory or spool.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} for {what}: {error}; `{key}` in the configuration names another address"
    )]
    Listen {
        /// `HTTP` or `SMTP`.
        what: &'static str,
        /// The key that names the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's words.
        error: io::Error,
    },
    /// The admin socket cannot be made.
    #[error("cannot make the admin socket {socket}: {error}")]
    Admin {
        /// Its path.
        socket: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Deliveries cannot be set up.
    #[error(transparent)]
    Outbound(#[from] outbound::SetupError),
    /// A secret cannot be used.
    #[error("`{key}` in the configuration: {error}")]
    Secret {
        /// The key that names the file.
        key: &'static str,
        /// Why.
        error: crate::secrets::SecretError,
    },
    /// The admin token could be guessed.
    #[error(
        "`admin.http_token_file` in the configuration: {file} is no token: {error}; make one with \
         `(umask 077; waystation keys token > {file})`"
    )]
    WeakToken {
        /// The file.
        file: String,
        /// What it must be.
        error: http::guard::WeakToken,
    },
    /// The signing keys cannot be used.
    #[error("{0}; `attestation.enabled = false` starts the relay without a signature")]
    Attestation(#[from] StoreError),
}

impl StartError {
    /// What is configured is wrong, and another start would find it so again.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Tls(_) | Self::Secret { .. } | Self::WeakToken { .. } => true,
            Self::Ledger(_)
            | Self::Listen { .. }
            | Self::Admin { .. }
            | Self::Outbound(_)
            | Self::Attestation(_) => false,
        }
    }
}

/// The relay ended and should not have.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// A commit failed; nothing was accepted since.
    #[error("the spool failed and the relay stopped; look at the disk, then start it again")]
    Poisoned,
    /// The last words could not be written; the next start recovers.
    #[error("the spool did not close cleanly: {0}")]
    Close(SpoolError),
}

/// A running relay.
#[derive(Debug)]
pub struct Daemon {
    /// Where HTTP and tunnel listen.
    pub http: SocketAddr,
    /// Where HTTPS listens.
    pub https: Option<SocketAddr>,
    /// TLS of the listeners.
    pub tls: Option<tls::Served>,
    /// Where SMTP listens.
    pub smtp: Vec<SocketAddr>,
    /// Where the admin socket is.
    pub admin_socket: PathBuf,
    /// The relay's metrics.
    pub metrics: Arc<Metrics>,
    /// Pauses deliveries.
    pub switch: Arc<Switch>,
    /// Tells which destinations are left alone.
    pub standing: Arc<Standing>,
    ledger: Ledger,
    tasks: TaskTracker,
    stop: CancellationToken,
    poisoned: CancellationToken,
}

/// What a start is given beside its configuration; the default is for a relay inside another program.
#[derive(Debug, Default)]
pub struct Given {
    /// Where the log's events are told as they happen.
    pub live: Live,
}

/// Starts a relay; it stops when `stop` is cancelled.
///
/// # Errors
/// [`StartError`]; nothing runs then, and nothing was accepted.
pub async fn start(config: &Config, given: Given, stop: CancellationToken) -> Result<Daemon, StartError> {
    let Given { live } = given;
    let guard = edge::admin_guard(config)?;
    let metrics = Arc::new(Metrics::new());
    metrics.set_min_free(config.spool.min_free_bytes);
    let served = tls::Served::open(config, &metrics)?;
    let poisoned = CancellationToken::new();
    let ledger = {
        let (settings, metrics, poisoned) = (config.clone(), Arc::clone(&metrics), poisoned.clone());
        // Recovery reads files for as long as it takes; a panic in there is a bug that may end the start.
        let opened = tokio::task::spawn_blocking(move || ledger::open(&settings, metrics, poisoned)).await;
        opened.unwrap_or_else(|_| {
            Err(LedgerError::Spool { dir: config.data_dir.clone(), error: SpoolError::Closed })
        })?
    };
    ledger.log_recovery();
    let signer = custody::open(config, &metrics).await?;
    let http_listener = listen("HTTP", "http.listen", config.http.listen, &[])?;
    let https_listener = match config.http.tls_listen {
        Some(address) => Some(listen("HTTPS", "http.tls_listen", address, &[])?),
        None => None,
    };
    let mut smtp_listeners = Vec::new();
    if config.smtp.enabled {
        for address in &config.smtp.listen {
            smtp_listeners.push(listen("SMTP", "smtp.listen", *address, &config.smtp.listen)?);
        }
    }
    let admin_listener = api::bind(&config.admin_socket)
        .map_err(|error| StartError::Admin { socket: config.admin_socket.clone(), error })?;
    let http = local(&http_listener, config.http.listen);
    let https =
        https_listener.as_ref().zip(config.http.tls_listen).map(|(l, configured)| local(l, configured));
    let smtp: Vec<_> =
        smtp_listeners.iter().zip(&config.smtp.listen).map(|(l, configured)| local(l, *configured)).collect();

    let tasks = TaskTracker::new();
    let admission = match config.admission.mode {
        AdmissionMode::Open => Admission::Open,
        AdmissionMode::Allowlist => Admission::AllowList,
    };
    let submissions = Submissions::new(
        submission_settings(config),
        ledger.spooler.clone(),
        Arc::clone(&metrics),
        signer.clone(),
    );
    tasks.spawn(Arc::clone(&submissions).run(stop.clone()));
    let service = Lanes::new(
        ledger.spooler.clone(),
        admission,
        config.domains.clone(),
        submissions,
        Arc::clone(&metrics),
        signer.clone(),
    );
    let tunnel =
        Tunnel::new(tunnel_settings(config), service, Arc::clone(&metrics), stop.clone(), tasks.clone());
    if let Some(signer) = &signer {
        tasks.spawn(custody::watch(Arc::clone(signer), Arc::clone(&tunnel), stop.clone()));
    }

    let switch = Arc::new(Switch::open(&config.data_dir));
    let standing = Arc::new(Standing::default());
    let deliveries = outbound::deps(config, &smtp, &ledger.spooler, &switch, &standing, &metrics)?;

    let resolver = Resolver::new(config, &metrics);
    let probe_every = Duration::from_secs(config.delivery.dns_probe_seconds);
    tasks.spawn(Arc::clone(&resolver).run(deliveries.router.dns().clone(), probe_every, stop.clone()));
    let pulse = Pulse::new(Arc::clone(&tunnel), Arc::clone(&metrics));
    let senses = Senses {
        spooler: ledger.spooler.clone(),
        resolver,
        switch: Arc::clone(&switch),
        certificates: served.as_ref().map(|served| Arc::clone(&served.store)),
    };
    tasks.spawn(Arc::clone(&pulse).run(senses, stop.clone()));

    let deps = intake::Deps {
        spooler: ledger.spooler.clone(),
        metrics: Arc::clone(&metrics),
        limits: Arc::new(Limits::new(abuse::limits(config))),
        screen: abuse::screen(config, deliveries.router.dns(), &metrics),
        verifier: verify::verifier(config, &deliveries.router, &metrics),
    };
    let intake = intake::Settings {
        gate: edge::smtp_gate(config, &metrics),
        tls: served.as_ref().map(tls::Served::smtp),
        ..intake_settings(config)
    };
    tasks.spawn(intake::run(smtp_listeners, intake, deps, stop.clone()));

    tasks.spawn(outbound::run(outbound::settings(config), deliveries, stop.clone()));

    let admin = Arc::new(Admin {
        spooler: ledger.spooler.clone(),
        handle: ledger.engine.handle(),
        presence: Arc::new(presence::Connected(Arc::clone(&tunnel))),
        condition: pulse.clone(),
        metrics: Arc::clone(&metrics),
        switch: Arc::clone(&switch),
        standing: Arc::clone(&standing),
        terms: terms(config),
        signer: signer.clone(),
        records: records::desk(config, served.as_ref().map(|served| Arc::clone(&served.store))),
        live,
        onlookers: Arc::new(Semaphore::new(ONLOOKERS_MAX)),
        stop: stop.clone(),
        verifying: Semaphore::new(1),
    });
    let admin = api::router(admin);
    let admin_door = guard.map(|guard| edge::admin_door(config, guard, &admin, &metrics));
    let acme = match &served {
        Some(served) => acme::prepare(config, &served.store, &metrics)?,
        None => None,
    };
    let challenges = acme.as_ref().map(|acme| Arc::clone(&acme.challenges));
    let about = Some(custody::about(config, signer));
    let extras = http::Extras { admin: admin_door, about, challenges, sts: records::sts_policy(config) };
    let watch = metrics.listeners.watch(readiness::ADMIN);
    let answering = api::serve(admin_listener, admin, stop.clone());
    tasks.spawn(async move {
        answering.await;
        drop(watch);
    });

    let shown = config.metrics_enabled.then(|| Arc::clone(&metrics));
    let router = http::router(pulse, shown, tunnel.router(), extras);
    let door = http::Door {
        gate: edge::http_gate(config, &metrics),
        guests: Some(Guests::new(&config.http.trusted_proxies, &metrics)),
        metrics: Some(Arc::clone(&metrics)),
        ..http::Door::default()
    };
    let plain = tls::plain_router(&router, config, http, https);
    if let Some(served) = &served {
        served.watch(&tasks, &stop);
        if let Some(listener) = https_listener {
            let door = served.door(&door);
            tasks.spawn(http::serve(listener, door, router, stop.clone(), tasks.clone()));
        }
    }
    tasks.spawn(http::serve(http_listener, door, plain, stop.clone(), tasks.clone()));
    if let Some(acme) = acme {
        // The listeners that validations come to are there now.
        tasks.spawn(acme.client.run(stop.clone()));
    }

    tracing::info!(
        event = "relay.started",
        version = env!("CARGO_PKG_VERSION"),
        http = %http,
        https = https.map(tracing::field::display),
        smtp = ?smtp,
        data_dir = %config.data_dir.display(),
        "relay started"
    );
    Ok(Daemon {
        http,
        https,
        tls: served,
        smtp,
        admin_socket: config.admin_socket.clone(),
        metrics,
        switch,
        standing,
        ledger,
        tasks,
        stop,
        poisoned,
    })
}

impl Daemon {
    /// The running spool's handle.
    #[must_use]
    pub fn spooler(&self) -> crate::spooler::Spooler {
        self.ledger.spooler.clone()
    }

    /// How long opening the spool took, milliseconds.
    #[must_use]
    pub fn recovery_ms(&self) -> u64 {
        self.ledger.recovery_ms
    }

    /// Waits for `stop` or for trouble, then ends everything in order.
    ///
    /// # Errors
    /// [`EndError`] when it was trouble.
    pub async fn ended(self) -> Result<(), EndError> {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.poisoned.cancelled() => self.stop.cancel(),
        }
        tracing::info!(event = "relay.stopping", "stopping: sessions finish what is under way");
        self.tasks.close();
        if tokio::time::timeout(DRAIN_ALL, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                event = "relay.drain_timeout",
                left = self.tasks.len(),
                "some sessions were cut off"
            );
        }
        let poisoned = self.poisoned.is_cancelled();
        let engine = self.ledger.engine;
        let closed =
            tokio::task::spawn_blocking(move || engine.stop()).await.unwrap_or(Err(SpoolError::Closed));
        // The next start would replace it; a tidy directory tells an operator that nothing runs.
        let _ = std::fs::remove_file(&self.admin_socket);
        if poisoned {
            return Err(EndError::Poisoned);
        }
        closed.map_err(EndError::Close)?;
        tracing::info!(event = "relay.stopped", "relay stopped");
        Ok(())
    }
}

fn listen(
    what: &'static str,
    key: &'static str,
    address: SocketAddr,
    all: &[SocketAddr],
) -> Result<TcpListener, StartError> {
    open::open(address, all).map_err(|error| StartError::Listen { what, key, address, error })
}

/// The address really listened on: port 0 means any.
fn local(listener: &TcpListener, configured: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(configured)
}

fn tunnel_settings(config: &Config) -> ws::Settings {
    let (t, l) = (&config.tunnel, &config.limits);
    ws::Settings {
        host: config.hostname.clone(),
        challenge_ttl: Duration::from_secs(t.challenge_ttl_seconds),
        rates: l.enabled.then(|| RateSettings {
            per_minute: l.ws_auth_attempts_per_minute_per_ip,
            deny_window: Duration::from_secs(l.deny_window_seconds),
        }),
        trusted_proxies: config.http.trusted_proxies.clone(),
        session: session::Settings {
            heartbeat_interval: Duration::from_secs(t.heartbeat_interval_seconds),
            idle_timeout: Duration::from_secs(t.idle_timeout_seconds),
            ack_patience: session::ACK_PATIENCE,
            window: Window { items: t.unacked_items_max, bytes: t.unacked_bytes_max },
            legacy_items_max: t.legacy_unacked_items_max,
        },
        reconnect_after: RECONNECT_AFTER,
    }
}

/// What answers to an operator need to know of the configuration.
#[must_use]
pub fn terms(config: &Config) -> Terms {
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    let l = &config.limits;
    Terms {
        hostname: config.hostname.clone(),
        domains: config.domains.clone(),
        retain_acked_ms: ms(config.spool.retain_acked_seconds),
        expire_ms: ms(config.spool.expire_undelivered_seconds),
        retain_results_ms: ms(config.spool.retain_results_seconds),
        outbound_expire_ms: ms(config.delivery.expire_after_seconds),
        outbound_per_hour: l.enabled.then_some(l.outbound_messages_per_hour_per_mailbox),
        outbound_recipients_per_day: l.enabled.then_some(l.outbound_recipients_per_day_per_mailbox),
    }
}

fn submission_settings(config: &Config) -> outbound_intake::Settings {
    let limits = &config.limits;
    outbound_intake::Settings {
        postmaster: config.postmaster.clone().unwrap_or_default(),
        message_bytes_max: config.smtp.max_message_bytes,
        limited: limits.enabled,
        messages_per_hour: limits.outbound_messages_per_hour_per_mailbox,
        recipients_per_day: limits.outbound_recipients_per_day_per_mailbox,
        resubmission_window_ms: config.delivery.resubmission_window_seconds.saturating_mul(1000),
        remember_ms: config
            .spool
            .retain_results_seconds
            .saturating_add(config.delivery.expire_after_seconds)
            .saturating_mul(1000),
        ..outbound_intake::Settings::new(&config.hostname, &config.domains)
    }
}

fn intake_settings(config: &Config) -> intake::Settings {
    let smtp = &config.smtp;
    let session = receiver::Settings {
        message_bytes_max: smtp.max_message_bytes,
        recipients_max: smtp.max_recipients,
        command_timeout: Duration::from_secs(smtp.command_timeout_seconds),
        require_tls: smtp.require_tls,
        unknown_recipient_delay: abuse::unknown_recipient_delay(config),
        greet_delay: Duration::from_millis(smtp.greet_delay_ms),
        ..receiver::Settings::new(&config.hostname, &config.domains)
    };
    intake::Settings {
        postmaster: config.postmaster.clone().unwrap_or_default(),
        normalize_networks: smtp.normalize_networks.clone(),
        greeted_at_once: config.http.trusted_proxies.clone(),
        drain_timeout: DRAIN_SMTP,
        ..intake::Settings::new(session)
    }
}
