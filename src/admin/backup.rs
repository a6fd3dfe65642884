//! A consistent copy of the data directory, made while the relay runs or when it does not.
//!
//! Promises: the copy is a data directory that `serve --data-dir` opens; everything that was answered before the copy began
//! is in it. It has the journal, the signing keys, and all else but the index (which is rebuilt), sockets and locks.
//! Files are 0600, directories 0700, all of it is synced, and [`REPORT`] is renamed into place last. Until then the journal
//! lies under [`UNFINISHED`], where no relay looks for it: a copy that was cut off cannot be taken for a small spool.
//! Does not: copy what the configuration names outside of the data directory; remove a copy that failed.
//! Failure policy: any error ends the copy with one sentence; the relay goes on as if it had not been asked.

mod check;
mod others;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spool::Spool;
use spool::backup::{BackupError, BackupPlan};
use spool::disk::Disk as _;
use spool::disk::real::RealDisk;
use spool::engine::Handle;
use spool::error::SpoolError;

use super::ask::AskError;
use super::jobs::Tell;
use super::words::{rfc3339, size};
pub use check::check;

/// Says that a copy is finished, and what is in it.
pub const REPORT: &str = "BACKUP.json";
/// Where the spool lies until the copy is finished.
pub const UNFINISHED: &str = "spool.incomplete";
/// Where the spool lies in a data directory.
const SPOOL: &str = "spool";
/// Version of the report.
const REPORT_VERSION: u32 = 1;
/// How often the ledger hears that the copier lives.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Free space that a copy leaves besides.
const HEADROOM_BYTES: u64 = 16 * 1024 * 1024;

/// Where the ledger is reached from a thread that may block.
pub trait Origin {
    /// Runs `f` where the ledger is.
    ///
    /// # Errors
    /// When the spool is gone.
    fn ask<T: Send + 'static>(
        &mut self,
        f: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<T, SpoolError>;
}

impl Origin for Handle {
    fn ask<T: Send + 'static>(
        &mut self,
        f: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<T, SpoolError> {
        self.run(f)
    }
}

impl Origin for Spool {
    fn ask<T: Send + 'static>(
        &mut self,
        f: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<T, SpoolError> {
        Ok(f(self))
    }
}

/// The report of a finished copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    version: u32,
    waystation: String,
    made_at: String,
    epoch: u32,
    lsn: String,
    bytes: u64,
    files: Vec<FileEntry>,
    /// What was not copied, and why.
    left_out: Vec<String>,
}

/// One file of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileEntry {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The ledger's promise that nothing goes; given back however this ends.
struct Pinned<'a, O: Origin> {
    origin: &'a mut O,
    plan: BackupPlan,
    renewed: Instant,
    held: bool,
}

impl<'a, O: Origin> Pinned<'a, O> {
    fn begin(origin: &'a mut O) -> Result<Self, AskError> {
        let begun = origin.ask(|spool| spool.begin_backup(crate::clock::wall()))?;
        Ok(Self {
            plan: begun.map_err(|error| failed(&error))?,
            origin,
            renewed: crate::clock::monotonic(),
            held: true,
        })
    }

    fn end(mut self) -> Result<(), BackupError> {
        self.held = false;
        let pin = self.plan.pin;
        self.origin.ask(move |spool| spool.end_backup(pin, crate::clock::wall()))?
    }
}

impl<O: Origin> Drop for Pinned<'_, O> {
    fn drop(&mut self) {
        if self.held {
            let pin = self.plan.pin;
            // It ends by itself if this does not reach the ledger.
            let _ = self.origin.ask(move |spool| spool.end_backup(pin, crate::clock::wall()));
        }
    }
}

/// Copies `data_dir` to `dir`, which must be empty or not there. Blocks for as long as it takes.
///
/// * `tell`: bytes copied and bytes to copy.
///
/// # Errors
/// [`AskError::Bad`] when `dir` cannot be used, [`AskError::Conflict`] when something failed.
pub fn make(
    origin: &mut impl Origin,
    data_dir: &Path,
    dir: &Path,
    tell: Tell<'_>,
) -> Result<Value, AskError> {
    let made_at = crate::clock::wall();
    let started = crate::clock::monotonic();
    let dir = &target(data_dir, dir)?;
    let mut pinned = Pinned::begin(origin)?;
    let others = others::list(data_dir)?;
    let total = pinned.plan.total_bytes().saturating_add(others.bytes());
    create(dir)?;
    has_room(data_dir, dir, total, pinned.plan.min_free_bytes)?;
    let (epoch, lsn) = (pinned.plan.epoch.0, pinned.plan.lsn);
    tracing::info!(event = "relay.backup.started", dir = %dir.display(), size_bytes = total, "backup to {} begins", dir.display());
    let mut files = journal(&mut pinned, dir, &mut |done| tell(done, total))?;
    pinned.end().map_err(|error| failed(&error))?;
    let mut done = files.iter().map(|file| file.bytes).sum::<u64>();
    let copied = others::copy(data_dir, dir, others, &mut |bytes| {
        done = done.saturating_add(bytes);
        tell(done.min(total), total)
    })?;
    files.extend(copied.files);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let report = Report {
        version: REPORT_VERSION,
        waystation: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: rfc3339(made_at),
        epoch,
        lsn: lsn.to_string(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        left_out: copied.left_out,
    };
    finish(dir, &report).map_err(|error| unwritable(dir, &error))?;
    let took = crate::clock::monotonic().duration_since(started);
    tracing::info!(
        event = "relay.backup.made",
        dir = %dir.display(),
        size_bytes = report.bytes,
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "backup in {} is finished", dir.display()
    );
    Ok(json!({
        "dir": dir, "made_at": report.made_at, "epoch": epoch, "lsn": report.lsn, "files": report.files.len(),
        "bytes": report.bytes, "left_out": report.left_out,
    }))
}

/// The journal, into its place for the time being.
fn journal<O: Origin>(
    pinned: &mut Pinned<'_, O>,
    dir: &Path,
    tell: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<FileEntry>, AskError> {
    let disk = RealDisk::new(dir.join(UNFINISHED));
    let Pinned { origin, plan, renewed, .. } = pinned;
    let copied = plan.copy(&disk, |done| {
        if !tell(done) {
            return Err(BackupError::Stopped);
        }
        let now = crate::clock::monotonic();
        if now.duration_since(*renewed) >= RENEW_EVERY {
            *renewed = now;
            let pin = plan.pin;
            origin.ask(move |spool| spool.renew_backup(pin, crate::clock::wall()))??;
        }
        Ok(())
    });
    let copied = copied.map_err(|error| failed(&error))?;
    Ok(copied
        .into_iter()
        .map(|file| FileEntry {
            name: format!("{SPOOL}/{}", file.name),
            bytes: file.bytes,
            sha256: data_encoding::HEXLOWER.encode(&file.sha256),
        })
        .collect())
}

/// The journal becomes the spool of a data directory, and the report says so.
fn finish(dir: &Path, report: &Report) -> io::Result<()> {
    fs::rename(dir.join(UNFINISHED), dir.join(SPOOL))?;
    sync_dir(dir)?;
    let beside = dir.join("BACKUP.json.new");
    let mut file = private_file(&beside)?;
    serde_json::to_writer_pretty(&mut file, report)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(REPORT))?;
    sync_dir(dir)
}

/// The directory of the copy, by its one true name.
fn target(data_dir: &Path, dir: &Path) -> Result<PathBuf, AskError> {
    let shown = dir.display();
    if !dir.is_absolute() || dir.components().any(|part| part == Component::ParentDir) {
        return Err(AskError::Bad(format!("{shown} is no absolute path without `..`")));
    }
    let real =
        real_path(dir).map_err(|error| AskError::Bad(format!("{shown} cannot be looked at: {error}")))?;
    // The spool may be a link to another file system.
    for ours in [data_dir.to_owned(), data_dir.join(SPOOL)] {
        let ours = fs::canonicalize(&ours).unwrap_or(ours);
        if real.starts_with(&ours) {
            return Err(AskError::Bad(format!(
                "{shown} lies inside of {}, which is copied; name a directory outside of it",
                ours.display()
            )));
        }
    }
    match fs::read_dir(&real).map(|mut entries| entries.next().is_none()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(real),
        Err(error) => Err(AskError::Bad(format!("{shown} cannot be used: {error}"))),
        Ok(true) => Ok(real),
        Ok(false) if real.join(REPORT).exists() => {
            Err(AskError::Bad(format!("{shown} has a backup already; name another directory")))
        }
        Ok(false) if real.join(UNFINISHED).exists() => Err(AskError::Bad(format!(
            "{shown} has a backup that was cut off; remove it, or name another directory"
        ))),
        Ok(false) => {
            Err(AskError::Bad(format!("{shown} is not empty; a backup needs a directory of its own")))
        }
    }
}

/// Follows what is there; what is not there yet is kept as it is written.
fn real_path(dir: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut at = dir;
    loop {
        match fs::canonicalize(at) {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Err(error) };
                missing.push(name.to_owned());
                at = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

fn create(dir: &Path) -> Result<(), AskError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    let private = made.and_then(|()| {
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir, owner_only)?;
        match dir.parent() {
            Some(parent) => sync_dir(parent),
            None => Ok(()),
        }
    });
    private.map_err(|error| unwritable(dir, &error))
}

fn has_room(data_dir: &Path, dir: &Path, total: u64, floor: u64) -> Result<(), AskError> {
    let free = RealDisk::new(dir.to_owned()).free_bytes().map_err(|error| unwritable(dir, &error))?;
    let device =
        |path: &Path| fs::metadata(path.join(SPOOL)).or_else(|_| fs::metadata(path)).map(|m| m.dev()).ok();
    // A copy beside the original must not stop the relay from taking mail.
    let (kept, why) = if device(data_dir) == device(dir) {
        (floor.max(HEADROOM_BYTES), ", of which the relay itself needs some")
    } else {
        (HEADROOM_BYTES, "")
    };
    if free >= total.saturating_add(kept) {
        return Ok(());
    }
    Err(AskError::Conflict(format!(
        "the copy needs {}, and {} has {} free{why}; nothing was copied",
        size(total.saturating_add(kept)),
        dir.display(),
        size(free)
    )))
}

fn failed(error: &BackupError) -> AskError {
    match error {
        BackupError::Spool(SpoolError::Closed) => AskError::Conflict(
            "the relay stopped while it made the backup; begin again in another directory".to_owned(),
        ),
        BackupError::Busy => AskError::Conflict(error.to_string()),
        BackupError::Lost | BackupError::Stopped | BackupError::Target { .. } | BackupError::Spool(_) => {
            AskError::Conflict(format!("no backup was made: {error}"))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> AskError {
    AskError::Conflict(format!("no backup was made: {} cannot be read: {error}", path.display()))
}

fn unwritable(dir: &Path, error: &io::Error) -> AskError {
    let forbidden =
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    let advice = if forbidden {
        "; a running relay writes the copy itself, so its user must be allowed to, and its unit too (ReadWritePaths=)"
    } else {
        ""
    };
    AskError::Conflict(format!("no backup was made: {} cannot be written: {error}{advice}", dir.display()))
}

/// A new file that only its owner may read.
fn private_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
