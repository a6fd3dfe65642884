//! The disk of the operating system: a directory tree below one root.
//!
//! Promises: names cannot leave the root (every part is checked, the last one is never followed as a
//! symbolic link), files are created 0600 and directories 0700, a sync is a real `fdatasync`, a synced
//! directory a real `fsync` of it. Does not: retry, buffer, or cache. On failure: the error is handed up as
//! it is; after a failed write or sync nothing is known about the bytes, and the journal poisons itself.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{DirEntry, DirLock, Disk, DiskFile};

/// Name of the lock file in the root.
const LOCK_NAME: &str = "LOCK";
/// Most slices one `pwritev` takes (Linux `UIO_MAXIOV`).
const SLICES_MAX: usize = 1024;
/// Owner may read and write, nobody else anything.
const FILE_MODE: u32 = 0o600;
/// Owner may enter and list, nobody else anything.
const DIR_MODE: u32 = 0o700;

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The tree below `root`. Touches nothing: `root` is made by [`Disk::lock`] or [`Disk::create_dir`].
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory all names are relative to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file; refuses whatever is not a plain relative name.
    fn file(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() {
            return Err(bad_name(name));
        }
        self.dir(name)
    }

    /// The path of a directory; the empty name is the root itself.
    fn dir(&self, name: &str) -> io::Result<PathBuf> {
        let mut path = self.root.clone();
        if name.is_empty() {
            return Ok(path);
        }
        for part in name.split('/') {
            if part.is_empty() || part == "." || part == ".." || part.contains('\0') {
                return Err(bad_name(name));
            }
            path.push(part);
        }
        Ok(path)
    }

    /// Makes the root, and makes its own name stable when it is new.
    fn create_root(&self) -> io::Result<()> {
        if self.root.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(&self.root)?;
        match self.root.parent() {
            Some(parent) if parent != Path::new("") => sync_path(parent),
            Some(_) => sync_path(Path::new(".")),
            None => Ok(()),
        }
    }
}

fn bad_name(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a plain relative name"))
}

fn sync_path(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The exclusive lock; given up when the file is closed, also by the death of the process.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl DirLock for RealLock {}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Box<dyn DirLock>> {
        self.create_root()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.root.join(LOCK_NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "the directory is locked by another process"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.dir(dir)?;
        self.create_root()?;
        let mut path = self.root.clone();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            let parent = path.clone();
            path.push(part);
            match DirBuilder::new().mode(DIR_MODE).create(&path) {
                Ok(()) => sync_path(&parent)?,
                // It may have been made just before a crash: its name is not known to be stable yet.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
                    sync_path(&parent)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.dir(dir)?)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // A name that is not UTF-8 is none of ours, and could not be handed back to us.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                entries.push(DirEntry { name, len: metadata.len() });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(self.file(name)?)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.file(name)?)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.file(from)?, self.file(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name)?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_path(&self.dir(dir)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// One open file of the real file system.
#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn write_all_at(&self, mut bufs: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // Drops empty slices in front; a call of which nothing is left would otherwise look like a full disk.
        IoSlice::advance_slices(&mut bufs, 0);
        while !bufs.is_empty() {
            let head = &bufs[..bufs.len().min(SLICES_MAX)];
            match rustix::io::pwritev(&self.file, head, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset = offset.saturating_add(written as u64);
                    IoSlice::advance_slices(&mut bufs, written);
                }
                // Nothing was written: a signal came first.
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> bool {
        let wanted = buf.len();
        // A file system that cannot say (EOPNOTSUPP) is one that may have to wait.
        rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT)
            == Ok(wanted)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // The file system cannot reserve (NFSv3, some FUSE): the length is all we can give, and
                // a full disk shows at the zero filling instead.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    return if self.len()? < len { self.set_len(len) } else { Ok(()) };
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("spool"));
        disk.create_dir("journal").unwrap();
        (dir, disk)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_and_directories_belong_to_the_owner_alone() {
        let (_dir, disk) = disk();
        disk.create("journal/a").unwrap();
        let _lock = disk.lock().unwrap();
        assert_eq!(mode(disk.root()), 0o700);
        assert_eq!(mode(&disk.root().join("journal")), 0o700);
        assert_eq!(mode(&disk.root().join("journal/a")), 0o600);
        assert_eq!(mode(&disk.root().join("LOCK")), 0o600);
    }

    #[test]
    fn what_is_in_memory_is_read_at_once_and_what_is_not_there_is_not() {
        let (_dir, disk) = disk();
        let file = disk.create("journal/a").unwrap();
        file.write_all_at(&mut [IoSlice::new(b"twelve bytes")], 0).unwrap();
        let mut read = [0; 5];
        // A memory file system may refuse to say; then it must say no, not something else.
        if file.read_at_once(&mut read, 7) {
            assert_eq!(&read, b"bytes");
        }
        assert!(!file.read_at_once(&mut read, 8), "it is shorter");
    }

    #[test]
    fn vectored_writes_land_whole_and_in_order() {
        let (_dir, disk) = disk();
        let file = disk.create("journal/a").unwrap();
        // More slices than one system call takes, with empty ones between them.
        let pieces: Vec<Vec<u8>> = (0..3000u32).map(|n| vec![n as u8; (n % 7) as usize]).collect();
        let expected: Vec<u8> = pieces.concat();
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        file.write_all_at(&mut slices, 5).unwrap();
        file.sync().unwrap();
        let mut read = vec![0; expected.len()];
        file.read_exact_at(&mut read, 5).unwrap();
        assert_eq!(read, expected);
        assert_eq!(file.len().unwrap(), 5 + expected.len() as u64);
        file.write_all_at(&mut [IoSlice::new(&[])], 0).unwrap();
        file.write_all_at(&mut [], 0).unwrap();
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let (_dir, disk) = disk();
        let file = disk.create("journal/a").unwrap();
        file.set_len(10).unwrap();
        let error = file.read_exact_at(&mut [0; 4], 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn allocated_space_reads_as_zeros_and_keeps_what_is_there() {
        let (_dir, disk) = disk();
        let file = disk.create("journal/a").unwrap();
        file.write_all_at(&mut [IoSlice::new(b"kept")], 0).unwrap();
        file.allocate(8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        let mut read = [1; 8];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"kept\0\0\0\0");
        file.allocate(100).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let (_dir, disk) = disk();
        let lock = disk.lock().unwrap();
        let other = RealDisk::new(disk.root().to_owned());
        assert_eq!(other.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        other.lock().unwrap();
    }

    #[test]
    fn names_cannot_leave_the_root() {
        let (_dir, disk) = disk();
        for name in ["", "/etc/x", "../x", "journal/../x", "journal//x", "./x", "journal/", "a\0b"] {
            assert_eq!(disk.create(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
            assert_eq!(disk.open(name, false).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(disk.remove(name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(disk.rename("journal/a", name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(disk.create_dir("../x").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(disk.list("..").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        std::os::unix::fs::symlink("/etc/passwd", disk.root().join("journal/link")).unwrap();
        disk.open("journal/link", false).unwrap_err();
    }

    #[test]
    fn create_list_rename_and_remove_agree() {
        let (_dir, disk) = disk();
        disk.create("journal/b").unwrap().set_len(3).unwrap();
        disk.create("journal/a").unwrap();
        disk.create_dir("journal/sub/deep").unwrap();
        assert_eq!(disk.create("journal/a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let entry = |name: &str, len| DirEntry { name: name.to_owned(), len };
        assert_eq!(disk.list("journal").unwrap(), [entry("a", 0), entry("b", 3)]);
        disk.rename("journal/b", "journal/a").unwrap();
        disk.sync_dir("journal").unwrap();
        assert_eq!(disk.list("journal").unwrap(), [entry("a", 3)]);
        disk.remove("journal/a").unwrap();
        assert_eq!(disk.list("journal").unwrap(), []);
        assert_eq!(disk.open("journal/a", true).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.list("nowhere").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(disk.free_bytes().unwrap() > 0);
    }
}
