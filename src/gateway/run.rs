//! `gateway run`: a [`Client`] on one side, a destination on the other, an outbox between local programs and the
//! relay, and a socket that says how it goes.
//!
//! Policy: as in `destination.rs`. An unavailable destination keeps its message here and is asked again with growing
//! delays; meanwhile the relay's credit runs out and the mail waits at the relay. With a relay of tunnel 1, which has
//! forgotten what it sent, `later` is treated the same, and a refused message is kept in `data_dir/refused/`.
//!
//! On stop no new delivery begins; those under way get [`STOP_PATIENCE`], and what they stored is acked; the others stay at
//! the relay undecided. The outbox is closed last.

mod deliveries;
mod heart;
mod setup;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::gateway::bounces::Bounces;
use crate::gateway::config::Config;
use crate::gateway::dial::DialError;
use crate::gateway::outbox::{self, Keeper, Outbox, OutboxError};
use crate::gateway::socket::{self, Desk, Report};
use crate::gateway::submission::{self, Own};
use crate::gateway::{Client, ClientError, Options, Status};
use crate::identity::key::KeyText;
use crate::identity::keyfile::{self, KeyFileError};
use crate::secrets::SecretError;
use crate::systemd::Manager;
use deliveries::Deliveries;
use heart::Heart;

/// How long deliveries under way may take after a stop.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long the service manager is asked to wait for the outbox to open.
const START_MAX: Duration = Duration::from_secs(3600);
/// Name of the outbox's directory inside the data directory.
const OUTBOX_NAME: &str = "outbox";
/// How long to wait for another process (`gateway send`) to leave the outbox.
const OUTBOX_PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether it has.
const OUTBOX_EVERY: Duration = Duration::from_millis(50);

/// Why a gateway could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The webhook's token.
    #[error("webhook.bearer_token_file: {0}")]
    Token(#[from] SecretError),
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The outbox could not be written.
    #[error("the outbox failed; look at the disk, then start the gateway again")]
    Poisoned,
    /// The submission server's address.
    #[error("cannot listen on {address} for local mail: {source}; `submission.listen` names another address")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The destination's URL or trust.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration names no destination.
    #[error("no destination is configured")]
    NoDestination,
}

/// The settings of a configuration's outbox.
#[must_use]
pub fn outbox_settings(config: &Config, key: &KeyText) -> outbox::Settings {
    outbox::Settings {
        dir: config.data_dir.join(OUTBOX_NAME),
        key: key.to_string(),
        retain: Duration::from_secs(config.outbox.retain_results_seconds),
        expire_after: Duration::from_secs(config.outbox.expire_after_seconds),
        min_free_bytes: config.outbox.min_free_bytes,
    }
}

/// The addresses of a configuration's gateway.
#[must_use]
pub fn own(config: &Config, key: &KeyText) -> Own {
    Own::new(&key.address(&config.mail_domain), &config.aliases)
}

/// Opens an outbox; waits a little while another process has it.
///
/// # Errors
/// [`OutboxError`].
pub async fn open_outbox(
    settings: &outbox::Settings,
    patience: Duration,
) -> Result<(Outbox, Keeper), OutboxError> {
    let until = clock::monotonic() + patience;
    loop {
        let settings = settings.clone();
        let dir = settings.dir.clone();
        let opened = tokio::task::spawn_blocking(move || outbox::open(settings)).await;
        match opened.unwrap_or(Err(OutboxError::InUse(dir))) {
            Err(OutboxError::InUse(_)) if clock::monotonic() < until => {
                tokio::time::sleep(OUTBOX_EVERY).await
            }
            other => return other,
        }
    }
}

/// Runs until `stop`, or until the memory of delivered items or the outbox fails; `manager` hears how it goes.
///
/// # Errors
/// [`RunError`] when it cannot start, or what ended it.
pub async fn run(config: Config, manager: Manager, stop: CancellationToken) -> Result<(), RunError> {
    let started = clock::wall();
    let key = keyfile::load(&config.key_file)?;
    let key_text = key.key_text();
    let destination = Arc::new(setup::destination(&config)?);
    let stored_ids = destination.stored_ids().await;
    let lock = Client::lock(&config.data_dir)?;
    let settings = outbox_settings(&config, &key_text);
    let (outbox, keeper) = manager.patiently(open_outbox(&settings, OUTBOX_PATIENCE), START_MAX).await?;
    let options = Options {
        relay_name: Some(config.relay_name.clone()).filter(|name| !name.is_empty()),
        staging_dir: destination.staging().map(Path::to_owned),
        extra_ca_file: Some(config.extra_ca_file.clone()).filter(|path| !path.as_os_str().is_empty()),
        allow_tunnel_1: config.allow_tunnel_1,
        unacked_items_max: config.unacked_items_max,
        unacked_bytes_max: config.unacked_bytes_max,
        message_bytes_max: config.max_message_bytes,
        reconnect_base_delay_ms: config.reconnect_base_delay_ms,
        reconnect_max_delay_ms: config.reconnect_max_delay_ms,
        handshake_timeout: Duration::from_secs(config.handshake_timeout_seconds),
        heartbeat_every: Duration::from_secs(config.heartbeat_interval_seconds),
        silence_max: Duration::from_secs(config.idle_timeout_seconds),
        delivered_before: stored_ids.clone(),
        outbox: Some(outbox.clone()),
        relay_keys: config.pins(),
        ..Options::new(config.relay_url.clone(), key, config.data_dir.clone())
    };
    let own = own(&config, &key_text);
    let local = listen(&config).await?;
    let mut client = Client::connect_locked(options, lock).await?;
    let listener = socket::listen(&config.status_socket)
        .map_err(|source| RunError::Io { path: config.status_socket.clone(), source })?;
    let report = Report {
        relay_url: config.relay_url.clone(),
        key: key_text.to_string(),
        address: own.address().to_owned(),
        destination: destination.kind().to_owned(),
        submission: local
            .as_ref()
            .and_then(|local| local.local_addr().ok())
            .map(|address| address.to_string())
            .unwrap_or_default(),
        pid: Some(std::process::id()),
        started_ms: started.0,
        status: Status::default(),
        outbox: outbox::Counts::default(),
        submissions: Vec::new(),
    };
    tracing::info!(
        event = "gateway.started",
        key = %key_text,
        destination = destination.kind(),
        submission = report.submission,
        "gateway of {} connects to {}",
        report.key,
        report.relay_url
    );
    let desk = Desk {
        report,
        board: client.board(),
        outbox: outbox.clone(),
        own: own.clone(),
        message_bytes_max: config.submission.max_message_bytes,
        recipients_max: config.submission.max_recipients,
    };
    let telling = tokio::spawn(socket::serve(listener, desk));
    manager.ready().await;
    let heart = Heart::new(client.board());
    tokio::spawn(Arc::clone(&heart).run(outbox.clone(), stop.clone()));
    tokio::spawn(manager.clone().keep(heart, stop.clone()));
    let taking = local.map(|local| take_local(&config, local, outbox.clone(), own.clone(), &stop));
    let hostname = setup::host_name();
    let bounces = Bounces::new(outbox, Arc::clone(&destination), own.address(), &hostname, stored_ids);
    let bouncing = tokio::spawn(bounces.run(stop.clone()));
    let refused_dir = config.data_dir.join("refused");
    let mut deliveries = Deliveries::new(destination, client.board(), refused_dir, stop.clone());
    let poisoned = keeper.poisoned.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = poisoned.cancelled() => {
                stop.cancel();
                break;
            }
            message = client.next(), if deliveries.has_room() => match message {
                Some(message) => deliveries.begin(message),
                None => break,
            },
            () = deliveries.one_done() => {}
        }
    }
    stop.cancel();
    manager.stopping().await;
    let ending = async {
        deliveries.finish(STOP_PATIENCE).await;
        if let Some(taking) = taking {
            let _ = taking.await;
        }
        let _ = bouncing.await;
        telling.abort();
        let _ = std::fs::remove_file(&config.status_socket);
        let closed = client.close().await;
        keeper.close().await;
        closed
    };
    let closed = manager.patiently(ending, STOP_PATIENCE * 3).await;
    if poisoned.is_cancelled() {
        return Err(RunError::Poisoned);
    }
    closed?;
    tracing::info!(event = "gateway.stopped", "gateway stopped");
    Ok(())
}

/// The submission server's listener, if there is to be one.
async fn listen(config: &Config) -> Result<Option<TcpListener>, RunError> {
    let address = &config.submission.listen;
    if address.is_empty() {
        return Ok(None);
    }
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { address: address.clone(), source })?;
    Ok(Some(listener))
}

fn take_local(
    config: &Config,
    listener: TcpListener,
    outbox: Outbox,
    own: Own,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let settings = submission::Settings {
        hostname: setup::host_name(),
        message_bytes_max: config.submission.max_message_bytes,
        recipients_max: config.submission.max_recipients,
    };
    tokio::spawn(submission::run(listener, settings, outbox, own, stop.clone()))
}
