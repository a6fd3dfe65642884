//! Files in which messages are received. Each stream has at most [`PIECE_BYTES`] in memory; the rest is in its file.
//!
//! Names begin with `.ws-KEY-` (the first characters of the gateway's key), so that what a killed process left behind is
//! recognised and removed at the next start, and nobody else's files are touched, also in a Maildir's `tmp/` that several
//! programs share. Nothing is synced here: a message counts only when its destination says so.
//!
//! Policy on failure: a file that was not written to its end is removed at once, also on a full disk; nobody tries again
//! with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::gateway::head::Filter;
use crate::gateway::receipts::Kept;
use crate::identity::key::KeyText;

/// How much of a stream is gathered before it is written, bytes.
pub const PIECE_BYTES: usize = 64 * 1024;

/// A directory of messages being received.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    prefix: String,
    next: u64,
}

/// One message being received. Dropped before [`Draft::finish`], its file is removed.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    gathered: Vec<u8>,
    file: Option<File>,
    bytes: u64,
    filter: Filter,
    /// Nobody else owns the file yet.
    ours: bool,
}

/// One message, received. Dropped before [`Staged::into_path`], its file is removed.
#[derive(Debug)]
pub struct Staged {
    /// Its file; empty when it was given away.
    path: PathBuf,
    /// Bytes in it.
    pub size_bytes: u64,
    /// Forged copies of our field were taken out.
    pub altered: bool,
}

impl Staging {
    /// Uses `dir`, after removing what an earlier life of the same gateway left in it.
    ///
    /// # Errors
    /// What the file system said.
    pub fn open(dir: &Path, key: KeyText) -> io::Result<Self> {
        let prefix = format!(".ws-{}-", &key.as_str()[..16]);
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir: dir.to_owned(), prefix, next: 0 })
    }

    /// Begins a message with our own field, `top`. No file is made before there are bytes to write.
    pub fn draft(&mut self, top: Vec<u8>) -> Draft {
        self.next += 1;
        let path = self.dir.join(format!("{}{}", self.prefix, self.next));
        let bytes = top.len() as u64;
        Draft { path, gathered: top, file: None, bytes, filter: Filter::default(), ours: true }
    }
}

impl Draft {
    /// Adds bytes, without forged copies of our field; writes when enough are gathered.
    ///
    /// # Errors
    /// What the file system said; the draft is of no use afterwards.
    pub async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.gathered.len();
        self.filter.take(bytes, &mut self.gathered);
        self.bytes += (self.gathered.len() - before) as u64;
        if self.gathered.len() >= PIECE_BYTES { self.write().await } else { Ok(()) }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn finish(mut self) -> io::Result<Staged> {
        let before = self.gathered.len();
        self.filter.finish(&mut self.gathered);
        self.bytes += (self.gathered.len() - before) as u64;
        self.write().await?;
        self.ours = false;
        Ok(Staged { path: self.path.clone(), size_bytes: self.bytes, altered: self.filter.removed() })
    }

    async fn write(&mut self) -> io::Result<()> {
        let path = self.path.clone();
        let file = self.file.take();
        let gathered = std::mem::take(&mut self.gathered);
        let (file, written) = blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => create(&path)?,
            };
            let written = file.write_all(&gathered);
            Ok((file, written))
        })
        .await?;
        // Also when the write failed: dropping the draft removes the file.
        self.file = Some(file);
        written
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.ours && self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Staged {
    /// Gives the file away: whoever gets it owns it.
    pub fn into_path(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }

    /// Puts another field in the place of the first `old` bytes.
    ///
    /// # Errors
    /// What the file system said; the file is as it was.
    pub async fn retop(&mut self, old: usize, top: Vec<u8>) -> io::Result<()> {
        let path = self.path.clone();
        let size_bytes = self.size_bytes - old as u64 + top.len() as u64;
        blocking(move || {
            let beside = PathBuf::from(format!("{}-top", path.display()));
            let mut from = File::open(&path)?;
            from.seek(SeekFrom::Start(old as u64))?;
            let mut to = create(&beside)?;
            let replaced = to
                .write_all(&top)
                .and_then(|()| io::copy(&mut from, &mut to))
                .and_then(|_| fs::rename(&beside, &path));
            if replaced.is_err() {
                let _ = fs::remove_file(&beside);
            }
            replaced
        })
        .await?;
        self.size_bytes = size_bytes;
        Ok(())
    }

    /// What is in the file behind its first `top` bytes.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn kept(&self, top: usize) -> io::Result<Kept> {
        let path = self.path.clone();
        blocking(move || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(top as u64))?;
            let mut hash = Sha256::new();
            let mut piece = vec![0; PIECE_BYTES];
            let mut size = 0;
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    n => {
                        hash.update(&piece[..n]);
                        size += n as u64;
                    }
                }
            }
            Ok(Kept { size, sha256: HEXLOWER.encode(&hash.finalize()) })
        })
        .await
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes a directory only its owner can enter, with its parents.
///
/// # Errors
/// What the file system said.
pub fn make_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key::SecretKey;

    fn open(dir: &Path, seed: u8) -> Staging {
        Staging::open(dir, SecretKey::from_seed(&[seed; 32]).key_text()).unwrap()
    }

    fn count(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn a_finished_draft_is_a_file_with_all_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut staging = open(dir.path(), 1);
        let mut draft = staging.draft(Vec::new());
        let piece = vec![7; PIECE_BYTES / 2 + 1];
        for _ in 0..5 {
            draft.append(&piece).await.unwrap();
            assert!(draft.gathered.len() < PIECE_BYTES);
        }
        let staged = draft.finish().await.unwrap();
        assert_eq!((staged.size_bytes, staged.altered), (5 * piece.len() as u64, false));
        assert_eq!(fs::metadata(&staged.path).unwrap().len(), staged.size_bytes);
        let empty = staging.draft(Vec::new()).finish().await.unwrap();
        assert_eq!((fs::metadata(&empty.path).unwrap().len(), empty.size_bytes), (0, 0));
    }

    #[tokio::test]
    async fn our_field_is_on_top_alone_and_can_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut staging = open(dir.path(), 1);
        let mut draft = staging.draft(b"Waystation-Attestation: ok\r\n".to_vec());
        draft.append(b"Subject: x\r\nWaystation-Attestation: forged\r\n\r\nbo").await.unwrap();
        draft.append(b"dy").await.unwrap();
        let mut staged = draft.finish().await.unwrap();
        assert!(staged.altered);
        let kept = staged.kept(28).await.unwrap();
        assert_eq!(kept.sha256, HEXLOWER.encode(&Sha256::digest(b"Subject: x\r\n\r\nbody")));
        staged.retop(28, b"Waystation-Attestation: expired\r\n".to_vec()).await.unwrap();
        let bytes = fs::read(&staged.path).unwrap();
        assert_eq!(bytes, b"Waystation-Attestation: expired\r\nSubject: x\r\n\r\nbody");
        assert_eq!((staged.size_bytes, kept.size), (bytes.len() as u64, bytes.len() as u64 - 33));
        assert_eq!(count(dir.path()), 1);
    }

    #[tokio::test]
    async fn dropped_drafts_and_leftovers_go_away_and_foreign_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut staging = open(dir.path(), 1);
        let mut draft = staging.draft(Vec::new());
        draft.append(&vec![0; PIECE_BYTES]).await.unwrap();
        assert_eq!(count(dir.path()), 1);
        drop(draft);
        assert_eq!(count(dir.path()), 0);
        assert!(staging.draft(Vec::new()).finish().await.unwrap().into_path().exists());
        fs::write(dir.path().join("foreign"), b"x").unwrap();
        open(dir.path(), 2);
        assert_eq!(count(dir.path()), 2);
        open(dir.path(), 1);
        assert_eq!(count(dir.path()), 1);
    }

    #[tokio::test]
    async fn a_write_that_fails_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut staging = open(dir.path(), 1);
        let mut draft = staging.draft(Vec::new());
        draft.append(&vec![0; PIECE_BYTES]).await.unwrap();
        // As on a full disk: the file is there and takes nothing.
        draft.file = Some(File::open(&draft.path).unwrap());
        assert!(draft.append(&vec![0; PIECE_BYTES]).await.is_err());
        drop(draft);
        assert_eq!(count(dir.path()), 0);
        let mut draft = staging.draft(Vec::new());
        draft.append(&vec![0; PIECE_BYTES]).await.unwrap();
        draft.append(b"the rest, which is not written before the end").await.unwrap();
        draft.file = Some(File::open(&draft.path).unwrap());
        assert!(draft.finish().await.is_err());
        assert_eq!(count(dir.path()), 0);
    }

    #[tokio::test]
    async fn what_was_received_and_not_taken_over_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut staging = open(dir.path(), 1);
        let mut staged = staging.draft(b"Waystation-Attestation: ok\r\n".to_vec()).finish().await.unwrap();
        // The file beside it is begun before this turns out to be unreadable.
        fs::remove_file(&staged.path).unwrap();
        fs::create_dir(&staged.path).unwrap();
        assert!(staged.retop(28, b"Waystation-Attestation: no\r\n".to_vec()).await.is_err());
        fs::remove_dir(&staged.path).unwrap();
        assert_eq!((count(dir.path()), staged.size_bytes), (0, 28));
        let staged = staging.draft(b"x".to_vec()).finish().await.unwrap();
        assert_eq!(count(dir.path()), 1);
        drop(staged);
        assert_eq!(count(dir.path()), 0);
    }
}
