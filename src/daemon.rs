//! Wiring: the one module that knows every service. It decides nothing.
//!
//! [`start`] opens the spool, takes or opens every listener and starts the services; [`Daemon::ended`] waits for the end
//! and closes in order (`ending`); [`Reloader`] takes changed settings in meanwhile.
//!
//! Failure policy: whatever is missing at the start is a typed error before anything was accepted. A spool that
//! is poisoned ends the daemon with an error; recovery is the next start.

mod abuse;
mod acme;
pub mod custody;
mod edge;
mod ending;
pub mod ledger;
mod listeners;
mod outbound;
mod places;
mod presence;
mod probe;
mod readiness;
pub mod records;
mod reload;
mod resolver;
mod settings;
pub mod tls;
mod verify;
mod vitals;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use spool::error::SpoolError;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::api::{self, Admin};
use crate::admin::control::Control;
use crate::admin::events::ONLOOKERS_MAX;
use crate::admin::jobs::Jobs;
use crate::config::Config;
use crate::current::Current;
use crate::http::{self, Guests};
use crate::mail::intake::{self, Intake};
use crate::mail::lane::Lanes;
use crate::mail::limits::Limits;
use crate::mail::outbound::delivery::standing::Standing;
use crate::mail::outbound::delivery::switch::Switch;
use crate::mail::outbound::intake::Submissions;
use crate::mail::signer::store::StoreError;
use crate::observe::{Live, Metrics};
use crate::systemd::{Life, Socket};
use crate::tunnel::ws::Tunnel;
pub use ending::{DRAIN_ALL, DRAIN_SMTP, Ended, HAND_OVER_DELIVERIES, HAND_OVER_SMTP, HandOver};
use ending::{Parts, Steps};
use ledger::{Ledger, LedgerError};
use listeners::Listeners;
pub use outbound::may_sign;
pub use places::Unplaced;
pub use probe::probe;
pub use reload::{Prepared, Reloader};
use resolver::Resolver;
pub use settings::terms;
use vitals::{Pulse, Senses};

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
    /// A socket that was handed to us has no place.
    #[error(transparent)]
    Socket(#[from] Unplaced),
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
    /// The dashboard's own token could be guessed.
    #[error("{file} is no token: {error}; remove it, and the next start makes one")]
    DashboardToken {
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
            Self::Tls(_)
            | Self::Secret { .. }
            | Self::WeakToken { .. }
            | Self::DashboardToken { .. }
            | Self::Socket(_) => true,
            Self::Outbound(error) => error.is_configuration(),
            Self::Attestation(error) => error.is_configuration(),
            Self::Ledger(error) => match error {
                LedgerError::LongSocket { .. } => true,
                LedgerError::Directory { .. } | LedgerError::InUse { .. } | LedgerError::Spool { .. } => {
                    false
                }
            },
            Self::Listen { .. } | Self::Admin { .. } => false,
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
    /// Takes a changed configuration in.
    pub reloader: Arc<Reloader>,
    ledger: Ledger,
    pulse: Arc<Pulse>,
    tunnel: Arc<Tunnel>,
    parts: Parts,
    tasks: TaskTracker,
    stop: CancellationToken,
    poisoned: CancellationToken,
}

/// What a start is given beside its configuration; the default is for a relay inside another program.
#[derive(Debug, Default)]
pub struct Given {
    /// Where the log's events are told as they happen.
    pub live: Live,
    /// Sockets that listen already.
    pub sockets: Vec<Socket>,
    /// Takes orders for the process; `None`: nobody does.
    pub control: Option<Control>,
    /// The process before us has just left: somebody else may be quicker at the data directory, and is waited for.
    pub handed_over: bool,
}

/// Starts a relay; it stops when `stop` is cancelled.
///
/// # Errors
/// [`StartError`]; nothing runs then, and nothing was accepted.
pub async fn start(config: &Config, given: Given, stop: CancellationToken) -> Result<Daemon, StartError> {
    let Given { live, sockets, control, handed_over } = given;
    let guard = edge::admin_guard(config)?;
    let metrics = Arc::new(Metrics::new());
    metrics.set_min_free(config.spool.min_free_bytes);
    let served = tls::Served::open(config, &metrics)?;
    let poisoned = CancellationToken::new();
    let ledger = {
        let (settings, metrics, poisoned) = (config.clone(), Arc::clone(&metrics), poisoned.clone());
        let patience = if handed_over { ledger::HANDED_OVER } else { Duration::ZERO };
        // Recovery reads files for as long as it takes; a panic in there is a bug that may end the start.
        let opened = tokio::task::spawn_blocking(move || {
            ledger::open_patiently(&settings, &metrics, &poisoned, patience)
        })
        .await;
        opened.unwrap_or_else(|_| {
            Err(LedgerError::Spool { dir: config.data_dir.clone(), error: SpoolError::Closed })
        })?
    };
    ledger.log_recovery();
    let signer = custody::open(config, &metrics).await?;
    let listeners = Listeners::open(config, sockets).await?;
    let http = listeners::addresses(&listeners.http).first().copied().unwrap_or(config.http.listen);
    let https = listeners::addresses(&listeners.https).first().copied();
    let smtp = listeners::addresses(&listeners.smtp);

    let tasks = TaskTracker::new();
    let steps = Steps::default();
    let rest = steps.rest.clone();
    let submissions = Submissions::new(
        settings::submission_settings(config),
        ledger.spooler.clone(),
        Arc::clone(&metrics),
        signer.clone(),
    );
    let lanes = Lanes::new(
        ledger.spooler.clone(),
        settings::admission(config),
        config.domains.clone(),
        Arc::clone(&submissions),
        Arc::clone(&metrics),
        signer.clone(),
    );
    let service = Arc::clone(&lanes);
    let tunnel = Tunnel::new(
        settings::tunnel_settings(config),
        service,
        Arc::clone(&metrics),
        rest.clone(),
        tasks.clone(),
    );
    let switch = Arc::new(Switch::open(&config.data_dir));
    let standing = Arc::new(Standing::default());
    let deliveries = outbound::deps(config, &smtp, &ledger.spooler, &switch, &standing, &metrics)?;
    let resolver = Resolver::new(config, &metrics);
    let pulse = Pulse::new(Arc::clone(&tunnel), Arc::clone(&metrics));
    let admin = Arc::new(Admin {
        spooler: ledger.spooler.clone(),
        handle: ledger.engine.handle(),
        presence: Arc::new(presence::Connected(Arc::clone(&tunnel))),
        condition: pulse.clone(),
        metrics: Arc::clone(&metrics),
        switch: Arc::clone(&switch),
        standing: Arc::clone(&standing),
        terms: Current::new(terms(config)),
        signer: signer.clone(),
        records: records::desk(config, served.as_ref().map(|served| Arc::clone(&served.store))),
        live,
        onlookers: Arc::new(Semaphore::new(ONLOOKERS_MAX)),
        stop: rest.clone(),
        control,
        jobs: Jobs::new(config.data_dir.clone(), rest.clone()),
    });
    let admin_router = api::router(Arc::clone(&admin));
    let face = edge::dashboard(
        config,
        &listeners::addresses(&listeners.http),
        guard.as_ref(),
        &admin_router,
        &metrics,
    )?;
    let acme = match &served {
        Some(served) => acme::prepare(config, &served.store, &metrics)?,
        None => None,
    };

    // Nothing below can fail: who was served for a moment by a start that ends with an error would have been misled.
    tasks.spawn(Arc::clone(&submissions).run(rest.clone()));
    if let Some(signer) = &signer {
        tasks.spawn(custody::watch(Arc::clone(signer), Arc::clone(&tunnel), rest.clone()));
    }
    tasks.spawn(Arc::clone(&resolver).run(deliveries.router.dns().clone(), rest.clone()));
    let senses = Senses {
        spooler: ledger.spooler.clone(),
        resolver: Arc::clone(&resolver),
        switch: Arc::clone(&switch),
        certificates: served.as_ref().map(|served| Arc::clone(&served.store)),
    };
    tasks.spawn(Arc::clone(&pulse).run(senses, rest.clone()));

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
        ..settings::intake_settings(config)
    };
    let intake = Intake::new(intake, deps, steps.smtp.clone());
    let smtp_task = tasks.spawn(intake.clone().run(listeners.smtp));

    let router = deliveries.router.clone();
    let plan = outbound::plan(config, &deliveries);
    let deliveries = tasks.spawn(outbound::run(Arc::clone(&plan), deliveries, steps.deliveries.clone()));

    let (pages, own_guard) = face.map_or((None, None), |face| (Some(face.pages), face.own));
    let admin_door = guard.map(|guard| edge::admin_door(config, guard, &admin_router, &metrics));
    let about = custody::About::new(config, signer);
    let described: Arc<dyn http::About> = Arc::clone(&about) as _;
    let sts = Arc::new(Current::new(records::sts_policy(config)));
    let extras = http::Extras {
        admin: admin_door.clone(),
        pages: pages.map(|pages| pages as Arc<dyn http::Pages>),
        about: Some(described),
        challenges: acme.as_ref().map(|acme| Arc::clone(&acme.challenges)),
        sts: Arc::clone(&sts),
    };
    let watch = metrics.listeners.watch(readiness::ADMIN);
    tasks.spawn(api::socket::serve(listeners.admin, watch, admin_router, rest.clone()));

    let shown = config.metrics_enabled.then(|| Arc::clone(&metrics));
    let pages = http::router(Arc::clone(&pulse) as _, shown, tunnel.router(), extras);
    let door = http::Door {
        gate: edge::http_gate(config, &metrics),
        guests: Some(Guests::new(&config.http.trusted_proxies, &metrics)),
        places: http::Places::beside(config.smtp.max_connections),
        metrics: Some(Arc::clone(&metrics)),
        ..http::Door::default()
    };
    if let Some(served) = &served {
        served.watch(&tasks, &rest);
        for listener in listeners.https {
            let door = served.door(&door);
            tasks.spawn(http::serve(listener, door, pages.clone(), rest.clone(), tasks.clone()));
        }
    }
    for listener in listeners.http {
        let at = listener.local_addr().unwrap_or(config.http.listen);
        let plain = tls::plain_router(&pages, config, at, https);
        tasks.spawn(http::serve(listener, door.clone(), plain, rest.clone(), tasks.clone()));
    }
    if let Some(acme) = acme {
        // The listeners that validations come to are there now.
        tasks.spawn(acme.client.run(rest.clone()));
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
    let reloader = Reloader {
        intake: intake.clone(),
        tunnel: Arc::clone(&tunnel),
        lanes,
        submissions,
        plan,
        router,
        smtp: smtp.clone(),
        spooler: ledger.spooler.clone(),
        admin,
        door: admin_door,
        own_guard,
        tls: served.clone(),
        about,
        sts,
        metrics: Arc::clone(&metrics),
        resolver,
        secrets: Mutex::new(reload::hashes(config)),
    };
    let parts = Parts {
        steps,
        intake,
        smtp: smtp_task,
        deliveries,
        hand_over: HandOver::new(&listeners.kept, &config.data_dir),
        sockets: listeners.kept,
        admin_file: listeners.admin_file,
    };
    Ok(Daemon {
        http,
        https,
        tls: served,
        smtp,
        admin_socket: config.admin_socket.clone(),
        metrics,
        switch,
        standing,
        reloader: Arc::new(reloader),
        ledger,
        pulse,
        tunnel,
        parts,
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

    /// What a watchdog looks at.
    #[must_use]
    pub fn life(&self) -> Arc<dyn Life> {
        Arc::clone(&self.pulse) as _
    }

    /// How long opening the spool took, milliseconds.
    #[must_use]
    pub fn recovery_ms(&self) -> u64 {
        self.ledger.recovery_ms
    }
}

/// Where the token of the dashboard is, if that is to be seen at this address.
#[must_use]
pub fn dashboard_token(config: &Config, http: SocketAddr) -> Option<PathBuf> {
    let own = || http.ip().is_loopback().then(|| edge::dashboard_token_file(config));
    config.admin_http_token_file.clone().or_else(own)
}
