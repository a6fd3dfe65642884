//! The library surface: a [`Client`] that hands out [`Message`]s, and stays connected by itself.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use waystation::gateway::{Client, Options};
//! use waystation::identity::keyfile;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let key = keyfile::load(Path::new("passport.key"))?;
//! let options = Options::new("wss://relay.example.org/ws", key, "gateway-data");
//! let mut client = Client::connect(options).await?;
//! while let Some(message) = client.next().await {
//!     match tokio::fs::copy(message.path(), format!("inbox/{}", message.item_id())).await {
//!         Ok(_) => message.ack(),                             // the relay forgets it
//!         Err(_) => message.nack(Duration::from_secs(60)),    // the relay offers it again
//!     }
//! }
//! client.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Promises: a message is handed out whole and undamaged, at most once per life of the process as long as it is not
//! nacked, and not again after an ack, also across restarts (the ids of the newest 100 000 are remembered on disk
//! before the ack leaves). A message neither acked nor nacked stays at the relay.
//!
//! Policy on failure: a relay that cannot be reached or drops us is tried again for ever, with growing delays;
//! [`Client::status`] tells. A memory that cannot be written ends the client: [`Client::next`] gives `None` and
//! [`Client::close`] the reason.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spool::error::SpoolError;
use spool::ids::WallMs;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::gateway::carrier::{self, Carrier, Decision, Kit};
use crate::gateway::checked::Checked;
use crate::gateway::client::Verdict;
use crate::gateway::destination::{Letter, one_line};
use crate::gateway::dial::{DialError, Endpoint, Trust};
use crate::gateway::keyring::{Keyring, Pin};
use crate::gateway::memory::{Memory, MemoryError};
use crate::gateway::outbox::Outbox;
use crate::gateway::receipts::Entry;
use crate::gateway::{backoff, staging};
use crate::identity::key::SecretKey;
use crate::mail::relay_keys::PinError;
use crate::tunnel::control::Credit;

/// Delay asked of the relay for a message that was dropped without a decision.
const UNDECIDED_RETRY: Duration = Duration::from_secs(60);
/// Name of the lock file that keeps a second process off the data directory.
const LOCK_NAME: &str = "gateway.lock";

/// How to reach a relay, as whom, and how much to take from it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `ws://` or `wss://` URL of the relay's tunnel, path included (usually `/ws`).
    pub relay_url: String,
    /// The name the relay has for itself, where it is not the host in the URL; its challenges must carry it.
    pub relay_name: Option<String>,
    /// The gateway's key.
    pub key: SecretKey,
    /// Directory for the memory of delivered items, the lock and (by default) messages being received; made if
    /// missing. One per key.
    pub data_dir: PathBuf,
    /// Directory in which messages are received; `None`: `data_dir/staging`. Must exist if given.
    pub staging_dir: Option<PathBuf>,
    /// PEM file with certificates to trust besides the built-in ones.
    pub extra_ca_file: Option<PathBuf>,
    /// Whether a relay that speaks tunnel 1 only is good enough. It cannot be acked, and its challenges can be passed
    /// on by a hostile relay.
    pub allow_tunnel_1: bool,
    /// Most items in flight.
    pub unacked_items_max: u32,
    /// Most bytes in flight.
    pub unacked_bytes_max: u64,
    /// Largest message taken; larger ones stay at the relay, on hold.
    pub message_bytes_max: u64,
    /// First delay before a new connection, milliseconds.
    pub reconnect_base_delay_ms: u64,
    /// Longest delay before a new connection, milliseconds.
    pub reconnect_max_delay_ms: u64,
    /// From the start of a connection to the end of the login.
    pub handshake_timeout: Duration,
    /// Distance of our pings.
    pub heartbeat_every: Duration,
    /// Silence after which the relay counts as gone.
    pub silence_max: Duration,
    /// Ids of items delivered before that the memory may not know (a destination that can be asked).
    pub delivered_before: Vec<String>,
    /// Where submissions come from; `None`: only mail comes in.
    pub outbox: Option<Outbox>,
    /// The relay's keys; none: nothing it says is verified.
    pub relay_keys: Vec<Pin>,
}

impl Options {
    /// Defaults for everything but the relay, the key and the data directory.
    #[must_use]
    pub fn new(relay_url: impl Into<String>, key: SecretKey, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            relay_url: relay_url.into(),
            relay_name: None,
            key,
            data_dir: data_dir.into(),
            staging_dir: None,
            extra_ca_file: None,
            allow_tunnel_1: false,
            unacked_items_max: 64,
            unacked_bytes_max: 16 * 1024 * 1024,
            message_bytes_max: 100 * 1024 * 1024,
            reconnect_base_delay_ms: backoff::BASE_MS,
            reconnect_max_delay_ms: backoff::MAX_MS,
            handshake_timeout: Duration::from_secs(30),
            heartbeat_every: Duration::from_secs(30),
            silence_max: Duration::from_secs(90),
            delivered_before: Vec::new(),
            outbox: None,
            relay_keys: Vec::new(),
        }
    }

    pub(crate) fn credit(&self) -> Credit {
        Credit {
            items: self.unacked_items_max.max(1),
            bytes: self.unacked_bytes_max.max(1),
            item_bytes_max: Some(self.message_bytes_max),
        }
    }
}

/// Why a client could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The relay URL or the extra trust anchors are unusable.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The pinned keys contradict one another.
    #[error("relay_keys: {0}")]
    Keys(#[from] PinError),
    /// The memory of delivered items is unusable.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The outbox cannot be written or read any more.
    #[error("the outbox failed: {0}")]
    Outbox(#[from] SpoolError),
    /// A directory or the lock file is unusable.
    #[error("{}: {source}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process works with this data directory.
    #[error("{} is in use by another gateway process", .0.display())]
    InUse(PathBuf),
    /// The client's task ended by itself, which it should not.
    #[error("the gateway's task ended unexpectedly: {0}")]
    Task(String),
}

/// Where a client stands; a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// Logged in since, milliseconds since 1970 UTC; `None` while not.
    pub connected_since_ms: Option<u64>,
    /// Tunnel protocol of the session: 1 or 2; `None` while not connected.
    pub tunnel: Option<u8>,
    /// When the next connection is tried, milliseconds since 1970 UTC; `None` while connected or connecting.
    pub next_retry_ms: Option<u64>,
    /// Failures in a row so far.
    pub failures: u32,
    /// Items acked as stored, in this process's life.
    pub stored: u64,
    /// Items refused for good, in this process's life.
    pub refused: u64,
    /// Items sent back for later, in this process's life.
    pub returned: u64,
    /// Of the stored ones, items whose attestation and receipt were true.
    #[serde(default)]
    pub verified: u64,
    /// Of the stored ones, the others.
    #[serde(default)]
    pub unverified: u64,
    /// The relay keys that are believed: name and fingerprint.
    #[serde(default)]
    pub relay_keys: Vec<String>,
    /// Items offered again that had been delivered before, in this process's life.
    pub repeats: u64,
    /// Items received and not decided yet.
    pub in_hand: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When that was, milliseconds since 1970 UTC.
    pub last_error_ms: Option<u64>,
}

impl Status {
    /// Notes what went wrong.
    pub(crate) fn note(&mut self, error: impl Into<String>, now: WallMs) {
        self.last_error = Some(error.into());
        self.last_error_ms = Some(now.0);
    }
}

/// A status that is written by the carrier and read by anybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusBoard(Arc<Mutex<Status>>);

impl StatusBoard {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn read(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A gateway's connection to its relay, kept up in the background; a stream of messages.
#[derive(Debug)]
pub struct Client {
    messages: mpsc::Receiver<Message>,
    board: StatusBoard,
    /// Dropping the client stops it.
    stop: DropGuard,
    task: JoinHandle<Result<(), ClientError>>,
    /// Held for its lock.
    _lock: std::fs::File,
}

impl Client {
    /// Checks the options, opens the memory and starts connecting; does not wait for the relay.
    ///
    /// # Errors
    /// [`ClientError`] when the options cannot work at all.
    pub async fn connect(options: Options) -> Result<Self, ClientError> {
        let lock = Self::lock(&options.data_dir)?;
        Self::connect_locked(options, lock).await
    }

    /// Makes the data directory if it is missing, and keeps other processes off it.
    pub(crate) fn lock(data_dir: &Path) -> Result<std::fs::File, ClientError> {
        staging::make_dir(data_dir)
            .map_err(|source| ClientError::Directory { path: data_dir.to_owned(), source })?;
        lock(&data_dir.join(LOCK_NAME))
    }

    pub(crate) async fn connect_locked(options: Options, lock: std::fs::File) -> Result<Self, ClientError> {
        let endpoint = Endpoint::relay(&options.relay_url)?;
        let trust = Trust::new(options.extra_ca_file.as_deref())?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ClientError::Directory { path, source }
        };
        let data_dir = options.data_dir.clone();
        let staging_dir = match &options.staging_dir {
            Some(dir) => dir.clone(),
            None => {
                let dir = data_dir.join("staging");
                staging::make_dir(&dir).map_err(failed(&dir))?;
                dir
            }
        };
        let memory = Memory::open(&data_dir, &options.delivered_before)?;
        let staging =
            staging::Staging::open(&staging_dir, options.key.key_text()).map_err(failed(&staging_dir))?;
        let keyring = Keyring::open(&data_dir, &options.relay_keys)?;
        let board = StatusBoard::default();
        board.update(|status| status.relay_keys = keyring.shown());
        let stop = CancellationToken::new();
        let (hand_out, messages) = mpsc::channel(carrier::in_hand_max(&options));
        let kit = Kit { options, endpoint, trust, memory, keyring, staging, board: board.clone(), hand_out };
        let carrier = Carrier::new(kit);
        let task = tokio::spawn(carrier.run(stop.clone()));
        Ok(Self { messages, board, stop: stop.drop_guard(), task, _lock: lock })
    }

    /// The next message; waits as long as it takes. `None` when the client has ended: [`Client::close`] says why.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }

    /// Where it stands now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.board.read()
    }

    pub(crate) fn board(&self) -> StatusBoard {
        self.board.clone()
    }

    /// Ends the session in an orderly way. Messages not decided yet stay at the relay.
    ///
    /// # Errors
    /// What ended the client before it was asked to, if something did.
    pub async fn close(self) -> Result<(), ClientError> {
        drop(self.stop);
        self.task.await.unwrap_or_else(|error| Err(ClientError::Task(error.to_string())))
    }
}

fn lock(path: &Path) -> Result<std::fs::File, ClientError> {
    let directory = |source| ClientError::Directory { path: path.to_owned(), source };
    let file =
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(directory)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ClientError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(directory(source)),
    }
}

/// One whole message, in a file, waiting for a decision.
///
/// Exactly one decision is made per message: by [`Message::ack`], [`Message::nack`] or [`Message::reject`]. Dropping it
/// undecided is a nack of one minute. With a relay of tunnel 1 decisions go nowhere: it has forgotten the message.
#[derive(Debug)]
pub struct Message {
    letter: Letter,
    kept_by_relay: bool,
    checked: Box<Checked>,
    entry: Option<Entry>,
    decisions: Option<mpsc::Sender<Decision>>,
}

impl Message {
    pub(crate) fn new(
        letter: Letter,
        kept_by_relay: bool,
        checked: Checked,
        entry: Option<Entry>,
        decisions: mpsc::Sender<Decision>,
    ) -> Self {
        Self { letter, kept_by_relay, checked: Box::new(checked), entry, decisions: Some(decisions) }
    }

    /// The relay's name for it; the same whenever it is offered again. A random one in tunnel 1.
    #[must_use]
    pub fn item_id(&self) -> &str {
        &self.letter.item_id
    }

    /// Position in the lane; 0 in tunnel 1.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.letter.seq
    }

    /// Envelope sender; empty for the null reverse-path.
    #[must_use]
    pub fn mail_from(&self) -> &str {
        &self.letter.mail_from
    }

    /// The one envelope recipient.
    #[must_use]
    pub fn rcpt_to(&self) -> &str {
        &self.letter.rcpt_to
    }

    /// Bytes of the message.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.letter.size_bytes
    }

    /// The file it is in: our field `Waystation-Attestation`, the relay's trace fields, then the message as its sender gave
    /// it, without fields of that name. Not synced. May be renamed
    /// away; what is still there after the decision is removed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.letter.path
    }

    /// What the relay signed about its sender and about having had it, verified with the pinned keys. The first field of
    /// the file says the same.
    #[must_use]
    pub fn checked(&self) -> &Checked {
        &self.checked
    }

    /// Whether the relay keeps it until it is acked (tunnel 2).
    #[must_use]
    pub fn kept_by_relay(&self) -> bool {
        self.kept_by_relay
    }

    pub(crate) fn letter(&self) -> &Letter {
        &self.letter
    }

    /// It is safe here: the relay may forget it. The ack leaves when the memory of it is on stable storage.
    pub fn ack(mut self) {
        self.decide(Verdict::Stored);
    }

    /// Not now: the relay offers it again, not before `retry_after`; after five times it holds it.
    pub fn nack(mut self, retry_after: Duration) {
        self.decide(Verdict::Later { retry_after });
    }

    /// Never: the relay holds it, with `reason`, for its operator.
    pub fn reject(mut self, reason: &str) {
        self.decide(Verdict::Refused { reason: one_line(reason) });
    }

    /// No decision at all, because the process is about to end: the relay offers it to the next session.
    pub(crate) fn leave(mut self) {
        self.decisions = None;
    }

    fn decide(&mut self, verdict: Verdict) {
        if let Some(decisions) = self.decisions.take() {
            let (item_id, seq, path) =
                (self.letter.item_id.clone(), self.letter.seq, self.letter.path.clone());
            // There is room for one decision per message in hand; a closed channel means the client has ended.
            let _ = decisions.try_send(Decision {
                item_id,
                seq,
                path,
                kept_by_relay: self.kept_by_relay,
                verified: self.checked.verdict().is_ok(),
                repeated: false,
                entry: self.entry.take(),
                verdict,
            });
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.decide(Verdict::Later { retry_after: UNDECIDED_RETRY });
    }
}
