//! A copy of the journal, made beside the running ledger.
//!
//! Promise: a finished copy holds everything that was stable when [`Spool::begin_backup`] answered, and opens as a
//! power cut at that moment would have left the original, with an index that is rebuilt. Segments only grow, and what
//! lies below the stable end of one is never written again; the one thing that could harm a copy is that a segment
//! goes, or its file becomes another. While a backup is *pinned* none does.
//!
//! Failure policy: a pin that nobody renews for [`PIN_MS`] is given up, so that a copier that died cannot make the
//! journal grow for ever. Whoever comes later hears [`BackupError::Lost`], and the copy is worthless. Nothing is
//! retried: a copy that failed is begun again in another directory.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::disk::{Disk, DiskFile};
use crate::error::SpoolError;
use crate::find::{FORMAT_FILE, write_format};
use crate::ids::{BootEpoch, Lsn, WallMs};
use crate::segment::{self, JOURNAL_DIR};
use crate::spool::Spool;

/// How long a pin holds without being renewed, milliseconds.
pub const PIN_MS: u64 = 120_000;
/// Bytes of a segment that are copied at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// There is no copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// One at a time.
    #[error("another backup is being made")]
    Busy,
    /// The pin was given up, so segments may have gone while they were copied.
    #[error("the copy took longer than {} seconds for one step, or the clock was set; it may miss something", PIN_MS / 1000)]
    Lost,
    /// Nobody waits for it any more.
    #[error("the backup was broken off")]
    Stopped,
    /// A file of the copy cannot be written.
    #[error("cannot write {name} of the copy: {message}")]
    Target {
        /// Its name.
        name: String,
        /// What the system said.
        message: String,
    },
    /// The spool itself failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What keeps segments where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    number: u64,
    renewed_at: WallMs,
}

/// What is to be copied, and from when it is. Readable from any thread.
#[derive(Debug)]
pub struct BackupPlan {
    segments: BTreeMap<u32, (Arc<dyn DiskFile>, u32)>,
    seed: u32,
    /// Names the pin to [`Spool::renew_backup`] and [`Spool::end_backup`].
    pub pin: u64,
    /// The start of the relay that wrote last.
    pub epoch: BootEpoch,
    /// Everything below is in the copy.
    pub lsn: Lsn,
    /// Free space below which the original refuses intake.
    pub min_free_bytes: u64,
}

/// One file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedFile {
    /// Its name in the spool directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Hash of its contents.
    pub sha256: [u8; 32],
}

impl Spool {
    /// Pins every segment and says what a copy needs. What was answered before is in it.
    ///
    /// # Errors
    /// [`BackupError::Busy`].
    pub fn begin_backup(&mut self, now: WallMs) -> Result<BackupPlan, BackupError> {
        self.look_at_pin(now);
        if self.backup.is_some() {
            return Err(BackupError::Busy);
        }
        self.backups_begun += 1;
        self.backup = Some(Pin { number: self.backups_begun, renewed_at: now });
        let durable = self.journal.durable();
        let segments = self.journal.segments().iter().map(|(number, segment)| {
            let end = if *number == durable.segment() { durable.offset() } else { segment.end };
            (*number, (segment.file.clone(), end))
        });
        Ok(BackupPlan {
            segments: segments.collect(),
            seed: self.journal.seed(),
            pin: self.backups_begun,
            epoch: self.epoch,
            lsn: durable,
            min_free_bytes: self.options.min_free_bytes,
        })
    }

    /// The copier lives.
    ///
    /// # Errors
    /// [`BackupError::Lost`] when the pin was given up before.
    pub fn renew_backup(&mut self, pin: u64, now: WallMs) -> Result<(), BackupError> {
        self.look_at_pin(now);
        match &mut self.backup {
            Some(held) if held.number == pin => {
                held.renewed_at = now;
                Ok(())
            }
            Some(_) | None => Err(BackupError::Lost),
        }
    }

    /// The copier is done, or gives up: segments may go again.
    ///
    /// # Errors
    /// [`BackupError::Lost`] when the pin was given up before, so that the copy is worth nothing.
    pub fn end_backup(&mut self, pin: u64, now: WallMs) -> Result<(), BackupError> {
        self.renew_backup(pin, now)?;
        self.backup = None;
        Ok(())
    }

    /// Gives up a pin that was not renewed in time.
    pub(crate) fn look_at_pin(&mut self, now: WallMs) {
        if let Some(pin) = &mut self.backup {
            // A clock that was set back must not make it last longer.
            pin.renewed_at = pin.renewed_at.min(now);
            if now.since(pin.renewed_at) > PIN_MS {
                self.backup = None;
            }
        }
    }
}

impl BackupPlan {
    /// Bytes to copy.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.segments.values().map(|(_, end)| u64::from(*end)).sum()
    }

    /// Writes journal and format file to the empty directory `to` and makes them stable.
    ///
    /// * `tell`: is told how many bytes were copied, after each piece; its error ends the copy.
    ///
    /// # Errors
    /// [`BackupError`]; what was written then is of no use.
    pub fn copy(
        &self,
        to: &dyn Disk,
        mut tell: impl FnMut(u64) -> Result<(), BackupError>,
    ) -> Result<Vec<CopiedFile>, BackupError> {
        to.create_dir(JOURNAL_DIR).map_err(|error| target(JOURNAL_DIR, &error))?;
        let (mut files, mut done) = (Vec::new(), 0);
        for (number, (file, end)) in &self.segments {
            let copied = copy_segment(*number, file, *end, to, |bytes| {
                done += bytes;
                tell(done)
            })?;
            files.push(copied);
        }
        to.sync_dir(JOURNAL_DIR).map_err(|error| target(JOURNAL_DIR, &error))?;
        write_format(to, self.seed).map_err(|error| BackupError::Target {
            name: FORMAT_FILE.to_owned(),
            message: error.to_string(),
        })?;
        files.push(hashed(to, FORMAT_FILE)?);
        Ok(files)
    }
}

fn target(name: &str, error: &std::io::Error) -> BackupError {
    BackupError::Target { name: name.to_owned(), message: error.to_string() }
}

fn copy_segment(
    number: u32,
    from: &Arc<dyn DiskFile>,
    end: u32,
    to: &dyn Disk,
    mut tell: impl FnMut(u64) -> Result<(), BackupError>,
) -> Result<CopiedFile, BackupError> {
    let name = segment::file_name(number);
    let file = to.create(&name).map_err(|error| target(&name, &error))?;
    let (mut piece, mut at, mut sha256) = (vec![0; PIECE_BYTES], 0, Sha256::new());
    while at < u64::from(end) {
        let len = PIECE_BYTES.min((u64::from(end) - at) as usize);
        let bytes = &mut piece[..len];
        from.read_exact_at(bytes, at).map_err(|error| SpoolError::io("read", &name, &error))?;
        file.write_all_at(&mut [IoSlice::new(bytes)], at).map_err(|error| target(&name, &error))?;
        sha256.update(&*bytes);
        at += len as u64;
        tell(len as u64)?;
    }
    file.sync().map_err(|error| target(&name, &error))?;
    Ok(CopiedFile { name, bytes: at, sha256: sha256.finalize().into() })
}

/// A small file that was just written.
fn hashed(disk: &dyn Disk, name: &str) -> Result<CopiedFile, BackupError> {
    let read = || -> std::io::Result<Vec<u8>> {
        let file = disk.open(name, false)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| target(name, &error))?;
    let sha256 = Sha256::digest(&bytes).into();
    Ok(CopiedFile { name: name.to_owned(), bytes: bytes.len() as u64, sha256 })
}

#[cfg(test)]
mod tests;
