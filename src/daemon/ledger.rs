//! Opens the spool of a data directory and starts its thread.
//!
//! Used by the daemon, by `--offline` commands and by the demo. What the thread tells (`Told`) becomes
//! metrics and log lines here; a poisoned spool cancels `poisoned`, and the owner ends the process.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spool::disk::Disk;
use spool::disk::real::RealDisk;
use spool::engine::{Engine, Observer};
use spool::error::SpoolError;
use spool::ids::{ItemId, LaneId, Seq};
use spool::index::sled::SledIndex;
use spool::types::{Filter, Page, State};
use spool::upkeep::Upkeep;
use spool::{Options, Recovery, Spool};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::observe::Metrics;
use crate::spooler::Spooler;

/// Longest data directory path that still leaves room for a Unix socket's name (108 bytes with its end).
pub const SOCKET_PATH_MAX: usize = 107;

/// How long the process after a hand-over waits for the directory.
pub(super) const HANDED_OVER: Duration = Duration::from_secs(10);
/// Time between two tries.
const AGAIN: Duration = Duration::from_millis(20);

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be made or entered.
    #[error("data directory {dir}: {error}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// Another process owns it.
    #[error(
        "data directory {dir} is in use: another waystation runs on it. Stop that one, or name another with --data-dir"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The spool in it does not open.
    #[error("spool in {dir}: {error}")]
    Spool {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: SpoolError,
    },
    /// The admin socket's path does not fit.
    #[error(
        "admin socket path {socket} is longer than {SOCKET_PATH_MAX} bytes; set admin.socket to a shorter one"
    )]
    LongSocket {
        /// The path.
        socket: PathBuf,
    },
}

/// A running spool.
#[derive(Debug)]
pub struct Ledger {
    /// Its thread. Stop it last.
    pub engine: Engine,
    /// The async handle.
    pub spooler: Spooler,
    /// What the start found.
    pub recovery: Recovery,
    /// Submissions that the last stop left in doubt, and their lanes.
    pub interrupted: Vec<(ItemId, String)>,
    /// How long the start took, milliseconds.
    pub recovery_ms: u64,
    /// Why the index that was found was not used, and where it is kept.
    pub set_aside: Option<String>,
}

impl Ledger {
    /// One line that says what the start found.
    pub fn log_recovery(&self) {
        let r = &self.recovery;
        tracing::info!(
            event = "relay.spool.recovered",
            epoch = r.epoch.0,
            records = r.records,
            size_bytes = r.bytes,
            torn_bytes = r.torn_bytes,
            unheard = r.unheard,
            rebuilt_index = r.rebuilt_index,
            duration_ms = self.recovery_ms,
            "spool is open"
        );
        if let Some(reason) = &self.set_aside {
            tracing::warn!(
                event = "relay.spool.index_set_aside",
                reason,
                "the spool's index was damaged and built anew from the journal: {reason}"
            );
        }
        for (id, lane) in &self.interrupted {
            tracing::warn!(
                event = "relay.outbound.indeterminate", submission.id = %id, lane,
                "submission {id} may have been taken or not: the relay ended before the answer came"
            );
        }
        if !r.damaged.is_empty() {
            tracing::error!(
                event = "relay.spool.damaged",
                stretches = r.damaged.len(),
                "the journal has damaged stretches; `waystation spool verify` lists them"
            );
        }
        if !r.foreign.is_empty() {
            tracing::warn!(
                event = "relay.spool.foreign",
                names = r.foreign.join(", "),
                "files in the journal directory that are not ours; they are left alone"
            );
        }
    }
}

/// Where the spool of a data directory lies.
#[must_use]
pub fn spool_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("spool")
}

/// The spool's options that a configuration asks for.
#[must_use]
pub fn options(config: &Config) -> Options {
    Options {
        retain_ms: config.spool.retain_acked_seconds.saturating_mul(1000),
        retain_results_ms: config.spool.retain_results_seconds.saturating_mul(1000),
        expire_ms: config.spool.expire_undelivered_seconds.saturating_mul(1000),
        min_free_bytes: config.spool.min_free_bytes,
        lane_items_max: config.admission.mailbox_items_max,
        lane_bytes_max: config.admission.mailbox_bytes_max,
        seed: rand::random(),
        ..Options::default()
    }
}

/// Makes the data directory when it is missing, opens the spool in it, and starts its thread.
///
/// * `poisoned` – cancelled when a commit fails.
///
/// # Errors
/// [`LedgerError`]; nothing was changed, but perhaps an empty directory made.
pub fn open(
    config: &Config,
    metrics: Arc<Metrics>,
    poisoned: CancellationToken,
) -> Result<Ledger, LedgerError> {
    let dir = &config.data_dir;
    let refused = |error| LedgerError::Directory { dir: dir.clone(), error };
    if config.admin_socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(LedgerError::LongSocket { socket: config.admin_socket.clone() });
    }
    private_dir(dir).map_err(refused)?;
    let root = spool_dir(dir);
    private_dir(&root).map_err(refused)?;
    let wrong = |error| wrong(dir, error);
    let started = clock::monotonic();
    let disk = Arc::new(RealDisk::new(root.clone()));
    let (spool, recovery, set_aside) = open_spool(disk, &root, options(config)).map_err(wrong)?;
    let lane_of = |id: ItemId| spool.item(id).ok().flatten().map(|info| info.lane_name).unwrap_or_default();
    let interrupted = recovery.interrupted.iter().map(|id| (*id, lane_of(*id))).collect();
    // Results like any other, only that nobody was there to tell them when they came about.
    let now = clock::wall();
    for id in &recovery.interrupted {
        metrics.outbound_settled(State::Indeterminate.word(), now.since(id.time()));
    }
    let recovery_ms = elapsed_ms(started);
    metrics.set_recovery_ms(recovery_ms);
    let reader = spool.reader();
    let told = Told { metrics, poisoned, started: clock::monotonic() };
    let engine = Engine::start(spool, Arc::new(clock::wall), told).map_err(wrong)?;
    let spooler = Spooler::new(engine.handle(), reader, clock::wall);
    Ok(Ledger { engine, spooler, recovery, interrupted, recovery_ms, set_aside })
}

/// The same; waits for `patience` while another process, like a command on the stopped relay, has the directory.
///
/// # Errors
/// As [`open`].
pub(super) fn open_patiently(
    config: &Config,
    metrics: &Arc<Metrics>,
    poisoned: &CancellationToken,
    patience: Duration,
) -> Result<Ledger, LedgerError> {
    let until = clock::monotonic() + patience;
    loop {
        match open(config, Arc::clone(metrics), poisoned.clone()) {
            Err(LedgerError::InUse { .. }) if clock::monotonic() < until => std::thread::sleep(AGAIN),
            other => return other,
        }
    }
}

/// Whether this release reads the spool of the data directory, whoever has it open.
///
/// # Errors
/// [`LedgerError::Spool`].
pub(super) fn may_take_over(config: &Config) -> Result<(), LedgerError> {
    let dir = &config.data_dir;
    let root = spool_dir(dir);
    if !root.is_dir() {
        return Ok(());
    }
    Spool::may_take_over(&RealDisk::new(root)).map_err(|error| LedgerError::Spool { dir: dir.clone(), error })
}

/// Removes the index of a data directory that nobody has open; the next [`open`] builds it from the journal.
///
/// Harmless at any moment of it: an index that is not there is built anew, and what is left of a removed one is
/// never looked at.
///
/// # Errors
/// [`LedgerError`], above all when somebody has the directory open.
pub fn remove_index(config: &Config) -> Result<(), LedgerError> {
    let dir = &config.data_dir;
    let root = spool_dir(dir);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.clone()));
    let wrong = |error| wrong(dir, error);
    // A spool that could not be opened afterwards keeps its index.
    Spool::may_open(&disk).map_err(wrong)?;
    let _lock = disk.lock().map_err(|error| {
        let dir = dir.clone();
        if error.kind() == std::io::ErrorKind::WouldBlock {
            LedgerError::InUse { dir }
        } else {
            LedgerError::Directory { dir, error }
        }
    })?;
    let (index, removed) = (root.join("index"), root.join("index.removed"));
    let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let remove = || -> std::io::Result<()> {
        match std::fs::remove_dir_all(&removed) {
            Err(error) if !absent(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        match std::fs::rename(&index, &removed) {
            Err(error) if absent(&error) => return Ok(()),
            other => other?,
        }
        std::fs::File::open(&root)?.sync_all()?;
        std::fs::remove_dir_all(&removed)
    };
    remove().map_err(|error| LedgerError::Directory { dir: root.clone(), error })
}

/// The spool, what its start found, and why its index was set aside, if so.
type Opened = (Spool, Recovery, Option<String>);

fn open_spool(disk: Arc<RealDisk>, root: &Path, options: Options) -> Result<Opened, SpoolError> {
    // Asked first, so that the index of a directory that is not ours to open stays as it is.
    let disk: Arc<dyn Disk> = disk;
    Spool::may_open(&disk)?;
    let index = Arc::new(SledIndex::open(&root.join("index"))?);
    let set_aside = index.set_aside().map(str::to_owned);
    let (spool, recovery) = Spool::open(disk, index, options, clock::wall())?;
    Ok((spool, recovery, set_aside))
}

fn wrong(dir: &Path, error: SpoolError) -> LedgerError {
    let dir = dir.to_owned();
    if error == SpoolError::Locked { LedgerError::InUse { dir } } else { LedgerError::Spool { dir, error } }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(clock::monotonic().duration_since(since).as_millis()).unwrap_or(u64::MAX)
}

/// Makes a directory that only its owner may enter. One that is there and open to others is closed, with a warning: whoever
/// opened it should learn it from us and not from a stranger; one that we may not close is refused.
fn private_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mode = std::fs::metadata(dir)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode & 0o700))?;
        tracing::warn!(
            event = "relay.data_dir.closed", dir = %dir.display(), mode = format!("{:04o}", mode & 0o7777),
            "mail and keys in {} were open to other accounts of this machine; its mode is 0700 now", dir.display()
        );
    }
    Ok(())
}

/// Turns what the spool's thread tells into metrics and log lines.
struct Told {
    metrics: Arc<Metrics>,
    poisoned: CancellationToken,
    started: Instant,
}

impl Observer for Told {
    fn committed(&mut self, requests: usize, _bytes: u64, micros: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a histogram sorts into buckets")]
        let (seconds, requests) = (micros as f64 / 1e6, requests as f64);
        self.metrics.histograms.commit.observe(seconds);
        self.metrics.histograms.batch.observe(requests);
    }

    fn upkeep(&mut self, spool: &Spool, upkeep: &Upkeep) {
        for (lane, seq) in &upkeep.expired {
            self.metrics.items_expired.inc();
            let (id, name) = name_of(spool, *lane, *seq);
            tracing::info!(
                event = "relay.item.expired",
                item.id = id,
                lane = name,
                seq = seq.0,
                "item {id} expired: no gateway fetched it in time"
            );
        }
    }

    fn segments_removed(&mut self, numbers: &[u32]) {
        for number in numbers {
            tracing::info!(
                event = "relay.spool.segment_removed",
                segment = number,
                "journal segment {number} removed: nothing needs it any more"
            );
        }
    }

    fn poisoned(&mut self, error: &SpoolError) {
        tracing::error!(
            event = "relay.spool.poisoned",
            %error,
            "a commit failed: nothing is accepted any more, the relay stops and must be restarted"
        );
        self.poisoned.cancel();
    }

    fn micros(&mut self) -> u64 {
        u64::try_from(clock::monotonic().duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Id and lane name of the item at that place; empty when it cannot be read.
fn name_of(spool: &Spool, lane: LaneId, seq: Seq) -> (String, String) {
    let filter = Filter { lane: Some(lane), ..Filter::default() };
    let before = Page { lane, seq: Seq(seq.0.saturating_sub(1)) };
    let found = spool.list(&filter, Some(before), 1).ok().and_then(|(items, _)| items.into_iter().next());
    found
        .filter(|item| item.seq == seq)
        .map_or_else(|| (String::new(), String::new()), |item| (item.id.to_string(), item.lane_name))
}
