//! What the journal asks of the medium, as a trait, so that a test can be the disk.
//!
//! Names are relative to the spool directory and use `/`. Nothing here retries: an error of a write or a
//! sync is final for the process that saw it (`SAFETY.md`).

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;

pub mod real;
pub mod sim;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Last part of the name.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// Held while this process owns the directory; dropping it gives the directory up.
pub trait DirLock: Debug + Send + Sync {}

/// A directory tree on some medium.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Takes the exclusive lock of the whole directory.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process holds it.
    fn lock(&self) -> io::Result<Box<dyn DirLock>>;

    /// Creates directory `dir` (and its parents) if it is missing, and makes the new names stable.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// The files of directory `dir`, sorted by name.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>>;

    /// Creates an empty file that must not exist yet, readable and writable by the owner alone.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or whatever the medium says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading, and for writing if `write`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or whatever the medium says.
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames, replacing `to`. Stable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Whatever the medium says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Stable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Whatever the medium says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in `dir` stable (fsync of the directory).
    ///
    /// # Errors
    /// Whatever the medium says.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Bytes that an unprivileged writer could still store.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn free_bytes(&self) -> io::Result<u64>;
}

#[expect(clippy::len_without_is_empty, reason = "a file is not a collection")]
/// One open file. All positions are bytes from its start; methods may be called from several threads.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bufs`, one after the other, starting at `offset`. May advance the slices.
    ///
    /// # Errors
    /// Whatever the medium says; how much was written is then unknown.
    fn write_all_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file is shorter.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `buf` from `offset` if that needs no waiting for the medium; `false` when it would, or may: then `buf` holds
    /// anything. For callers that must not block.
    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> bool {
        let _ = (buf, offset);
        false
    }

    /// Reserves space for `len` bytes from the start and makes the file at least that long; what was never
    /// written reads as zeros.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when the space is not there.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts or extends the file to `len` bytes.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn len(&self) -> io::Result<u64>;

    /// Makes contents and length stable (`fdatasync`). Never call again after it failed.
    ///
    /// # Errors
    /// Whatever the medium says; the contents are then unknown.
    fn sync(&self) -> io::Result<()>;
}
