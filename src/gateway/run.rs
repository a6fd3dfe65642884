//! `gateway run`: a [`Client`] on one side, a [`Destination`] on the other, and a socket that says how it goes.
//!
//! Policy: as in `destination.rs`. An unavailable destination keeps its message here and is asked again with growing
//! delays; meanwhile the relay's credit runs out and the mail waits at the relay. With a relay of tunnel 1, which has
//! forgotten what it sent, `later` is treated the same, and a refused message is kept in `data_dir/refused/`.
//!
//! On stop no new delivery begins; those under way get [`STOP_PATIENCE`], and what they stored is acked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spool::ids::WallMs;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::gateway::command::Command;
use crate::gateway::config::Config;
use crate::gateway::destination::{Destination, Outcome, later_delay, unavailable_delay};
use crate::gateway::dial::{DialError, Endpoint, Trust};
use crate::gateway::handle::StatusBoard;
use crate::gateway::lmtp::{Address, Lmtp};
use crate::gateway::maildir::Maildir;
use crate::gateway::webhook::Webhook;
use crate::gateway::{Client, ClientError, Message, Options, Status, staging};
use crate::identity::keyfile::{self, KeyFileError};

/// How long deliveries under way may take after a stop.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Most items whose refusals are counted; beyond it counting starts anew.
const COUNTED_MAX: usize = 10_000;
/// Longest report read from a status socket, bytes.
const REPORT_BYTES_MAX: u64 = 64 * 1024;
/// Longest bearer token read from its file, bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// Why a gateway could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
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

/// What `gateway status` shows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// The relay's URL.
    pub relay_url: String,
    /// Key text.
    pub key: String,
    /// Mail address.
    pub address: String,
    /// Kind of destination.
    pub destination: String,
    /// When the process started, milliseconds since 1970 UTC.
    pub started_ms: u64,
    /// The connection and the counts.
    #[serde(flatten)]
    pub status: Status,
}

/// Runs until `stop`, or until the memory of delivered items fails.
///
/// # Errors
/// [`RunError`] when it cannot start, or what ended it.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let started = clock::wall();
    let key = keyfile::load(&config.key_file)?;
    if keyfile::is_exposed(&config.key_file)? {
        tracing::warn!(
            event = "gateway.key_exposed",
            "{} can be read by others; chmod 600 it",
            config.key_file.display()
        );
    }
    let key_text = key.key_text();
    let destination = Arc::new(destination(&config)?);
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
        delivered_before: destination.stored_ids().await,
        ..Options::new(config.relay_url.clone(), key, config.data_dir.clone())
    };
    let mut client = Client::connect(options).await?;
    let listener = listen(&config.status_socket)?;
    let report = Report {
        relay_url: config.relay_url.clone(),
        key: key_text.to_string(),
        address: key_text.address(&config.mail_domain),
        destination: destination.kind().to_owned(),
        started_ms: started.0,
        status: Status::default(),
    };
    tracing::info!(
        event = "gateway.started",
        key = %key_text,
        destination = destination.kind(),
        "gateway of {} connects to {}",
        report.key,
        report.relay_url
    );
    let telling = tokio::spawn(tell(listener, report, client.board()));
    let refused_dir = config.data_dir.join("refused");
    let mut deliveries = Deliveries::new(destination, client.board(), refused_dir, stop.clone());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            message = client.next(), if deliveries.has_room() => match message {
                Some(message) => deliveries.begin(message),
                None => break,
            },
            () = deliveries.one_done() => {}
        }
    }
    deliveries.finish().await;
    telling.abort();
    let _ = std::fs::remove_file(&config.status_socket);
    client.close().await?;
    tracing::info!(event = "gateway.stopped", "gateway stopped");
    Ok(())
}

fn destination(config: &Config) -> Result<Destination, RunError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RunError::Io { path, source }
    };
    if let Some(table) = &config.maildir {
        let maildir = Maildir::open(&table.path, &host_name()).map_err(io(&table.path))?;
        return Ok(Destination::Maildir(maildir));
    }
    if let Some(table) = &config.lmtp {
        let address = match table.address.strip_prefix("unix:") {
            Some(path) => Address::Unix(PathBuf::from(path)),
            None => Address::Tcp(table.address.clone()),
        };
        let recipient = Some(table.recipient.clone()).filter(|recipient| !recipient.is_empty());
        let timeout = Duration::from_secs(table.timeout_seconds);
        return Ok(Destination::Lmtp(Lmtp::new(address, host_name(), recipient, timeout)));
    }
    if let Some(table) = &config.command {
        let command = Command::new(table.argv.clone(), Duration::from_secs(table.timeout_seconds));
        return command.map(Destination::Command).ok_or(RunError::NoDestination);
    }
    if let Some(table) = &config.webhook {
        let token = if table.bearer_token_file.as_os_str().is_empty() {
            None
        } else {
            let text =
                std::fs::read_to_string(&table.bearer_token_file).map_err(io(&table.bearer_token_file))?;
            let token: String = text.trim().chars().take(TOKEN_BYTES_MAX).collect();
            Some(token)
        };
        let extra = Some(config.extra_ca_file.as_path()).filter(|path| !path.as_os_str().is_empty());
        let webhook = Webhook::new(
            Endpoint::http(&table.url)?,
            Trust::new(extra)?,
            token,
            Duration::from_secs(table.timeout_seconds),
        );
        return Ok(Destination::Webhook(webhook));
    }
    Err(RunError::NoDestination)
}

/// This machine's name, for LHLO and Maildir names.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// Messages on their way into the destination.
struct Deliveries {
    destination: Arc<Destination>,
    board: StatusBoard,
    refused_dir: PathBuf,
    stop: CancellationToken,
    running: JoinSet<(String, bool)>,
    /// How often items were answered `later`.
    tries: HashMap<String, u32>,
}

impl Deliveries {
    fn new(
        destination: Arc<Destination>,
        board: StatusBoard,
        refused_dir: PathBuf,
        stop: CancellationToken,
    ) -> Self {
        Self { destination, board, refused_dir, stop, running: JoinSet::new(), tries: HashMap::new() }
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.destination.parallel()
    }

    fn begin(&mut self, message: Message) {
        let tries = self.tries.get(message.item_id()).copied().unwrap_or_default();
        self.running.spawn(deliver(
            Arc::clone(&self.destination),
            self.board.clone(),
            self.refused_dir.clone(),
            self.stop.clone(),
            message,
            tries,
        ));
    }

    /// Waits for the end of one delivery; for ever if none is under way.
    async fn one_done(&mut self) {
        match self.running.join_next().await {
            Some(Ok((item_id, later))) => {
                if !later {
                    self.tries.remove(&item_id);
                } else {
                    if self.tries.len() >= COUNTED_MAX {
                        self.tries.clear();
                    }
                    *self.tries.entry(item_id).or_default() += 1;
                }
            }
            Some(Err(error)) => {
                tracing::error!(event = "gateway.delivery_failed", error = %error, "a delivery ended by a bug");
            }
            None => std::future::pending().await,
        }
    }

    async fn finish(mut self) {
        let all = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_PATIENCE, all).await;
    }
}

/// Delivers one message and decides it; returns its id and whether it was answered `later`.
async fn deliver(
    destination: Arc<Destination>,
    board: StatusBoard,
    refused_dir: PathBuf,
    stop: CancellationToken,
    message: Message,
    later_tries: u32,
) -> (String, bool) {
    let item_id = message.item_id().to_owned();
    let began = clock::monotonic();
    let mut tries = 0;
    loop {
        let outcome = destination.deliver(message.letter()).await;
        let (reason, delay) = match outcome {
            Outcome::Stored => {
                let duration_ms = u64::try_from((clock::monotonic() - began).as_millis()).unwrap_or(u64::MAX);
                tracing::info!(
                    event = "gateway.item.stored",
                    item.id = item_id,
                    seq = message.seq(),
                    size_bytes = message.size_bytes(),
                    duration_ms,
                    "stored item {item_id}"
                );
                message.ack();
                return (item_id, false);
            }
            Outcome::Refused { reason } => {
                tracing::error!(
                    event = "gateway.item.refused",
                    item.id = item_id,
                    reason,
                    "destination refuses item {item_id}"
                );
                board.update(|status| status.note(format!("item {item_id}: {reason}"), clock::wall()));
                if !message.kept_by_relay() {
                    keep_refused(&refused_dir, &message);
                }
                message.reject(&reason);
                return (item_id, false);
            }
            Outcome::Later { reason, retry_after } if message.kept_by_relay() => {
                let delay = later_delay(later_tries, retry_after);
                tracing::warn!(
                    event = "gateway.item.returned",
                    item.id = item_id,
                    reason,
                    retry_seconds = delay.as_secs(),
                    "item {item_id} goes back to the relay for now"
                );
                board.update(|status| status.note(format!("item {item_id}: {reason}"), clock::wall()));
                message.nack(delay);
                return (item_id, true);
            }
            Outcome::Later { reason, retry_after } | Outcome::Unavailable { reason, retry_after } => {
                (reason, unavailable_delay(tries, retry_after))
            }
        };
        if tries == 0 {
            tracing::warn!(
                event = "gateway.destination.unavailable",
                reason,
                "destination cannot take mail: {reason}"
            );
        }
        board.update(|status| status.note(reason, clock::wall()));
        tries = tries.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => {
                message.leave();
                return (item_id, false);
            }
        }
    }
}

/// Last resort for a message that nobody else has.
fn keep_refused(dir: &Path, message: &Message) {
    let kept = staging::make_dir(dir)
        .and_then(|()| std::fs::copy(message.path(), dir.join(format!("{}.eml", message.item_id()))))
        .map(|_| ());
    if let Err(error) = kept {
        tracing::error!(event = "gateway.item.lost", item.id = message.item_id(), error = %error, "cannot keep a refused message");
    }
}

fn listen(path: &Path) -> Result<UnixListener, RunError> {
    // The data directory's lock is ours, so a socket that is there is a dead one's.
    let _ = std::fs::remove_file(path);
    let io = |source| RunError::Io { path: path.to_owned(), source };
    let listener = UnixListener::bind(path).map_err(io)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(io)?;
    Ok(listener)
}

/// Answers everybody who connects with one line of JSON.
async fn tell(listener: UnixListener, report: Report, board: StatusBoard) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let report = Report { status: board.read(), ..report.clone() };
        let mut line = serde_json::to_vec(&report).unwrap_or_default();
        line.push(b'\n');
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&line)).await;
    }
}

/// Asks a running gateway how it goes.
///
/// # Errors
/// What the system said: not found or refused when none runs, invalid data when the answer makes no sense.
pub async fn ask(socket: &Path) -> std::io::Result<Report> {
    use tokio::io::AsyncReadExt;
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    let mut line = Vec::new();
    let mut limited = (&mut stream).take(REPORT_BYTES_MAX);
    tokio::time::timeout(Duration::from_secs(5), limited.read_to_end(&mut line)).await??;
    serde_json::from_slice(&line).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

impl Report {
    /// Lines for a person; `now` for the ages in them.
    #[must_use]
    pub fn to_text(&self, now: WallMs) -> String {
        let status = &self.status;
        let age = |ms: u64| format!("{} s", now.since(WallMs(ms)) / 1000);
        let connection = match (status.connected_since_ms, status.next_retry_ms) {
            (Some(since), _) => {
                format!("connected for {} (tunnel {})", age(since), status.tunnel.unwrap_or(0))
            }
            (None, Some(retry)) => {
                format!("not connected, next try in {} s", retry.saturating_sub(now.0).div_ceil(1000))
            }
            (None, None) => "connecting".to_owned(),
        };
        let error = match (&status.last_error, status.last_error_ms) {
            (Some(error), Some(at)) => format!("{error} ({} ago)", age(at)),
            _ => "none".to_owned(),
        };
        let rows = [
            ("relay", self.relay_url.clone()),
            ("connection", connection),
            ("key", self.key.clone()),
            ("address", self.address.clone()),
            ("destination", self.destination.clone()),
            ("stored", status.stored.to_string()),
            ("refused", status.refused.to_string()),
            ("returned", status.returned.to_string()),
            ("repeats", status.repeats.to_string()),
            ("in hand", status.in_hand.to_string()),
            ("last error", error),
            ("running for", age(self.started_ms)),
        ];
        rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            relay_url: "wss://relay.example.org/ws".to_owned(),
            key: "k".to_owned(),
            address: "k@mail.example.org".to_owned(),
            destination: "maildir".to_owned(),
            started_ms: 1000,
            status: Status::default(),
        }
    }

    #[test]
    fn the_report_reads_well_in_every_state() {
        let mut report = report();
        let now = WallMs(61_000);
        assert!(report.to_text(now).contains("connection   connecting\n"));
        report.status.next_retry_ms = Some(62_500);
        report.status.note("no route", WallMs(51_000));
        let text = report.to_text(now);
        assert!(text.contains("not connected, next try in 2 s\n") && text.contains("no route (10 s ago)"));
        report.status.connected_since_ms = Some(31_000);
        report.status.tunnel = Some(2);
        assert!(report.to_text(now).contains("connected for 30 s (tunnel 2)"));
        assert!(report.to_text(now).contains("running for  60 s\n"));
    }

    #[tokio::test]
    async fn the_status_socket_tells_the_board() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = listen(&path).unwrap();
        let board = StatusBoard::default();
        board.update(|status| status.stored = 7);
        let telling = tokio::spawn(tell(listener, report(), board));
        let told = ask(&path).await.unwrap();
        assert_eq!(told.status.stored, 7);
        assert_eq!(told.key, "k");
        telling.abort();
        let _ = telling.await;
        assert!(ask(&path).await.is_err());
        // A dead process's socket is no obstacle.
        listen(&path).unwrap();
    }
}
