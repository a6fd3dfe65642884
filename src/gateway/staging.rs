//! Files in which messages are received. Each stream has at most [`PIECE_BYTES`] in memory; the rest is in its file.
//!
//! Names begin with `.ws-KEY-` (the first characters of the gateway's key), so that what a killed process left behind is
//! recognised and removed at the next start, and nobody else's files are touched, also in a Maildir's `tmp/` that several
//! programs share. Nothing is synced here: a message counts only when its destination says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    /// Nobody else owns the file yet.
    ours: bool,
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

    /// Begins a message. No file is made before there are bytes to write.
    pub fn draft(&mut self) -> Draft {
        self.next += 1;
        let path = self.dir.join(format!("{}{}", self.prefix, self.next));
        Draft { path, gathered: Vec::new(), file: None, bytes: 0, ours: true }
    }
}

impl Draft {
    /// Adds bytes; writes when enough are gathered.
    ///
    /// # Errors
    /// What the file system said; the draft is of no use afterwards.
    pub async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        if self.gathered.len() >= PIECE_BYTES { self.write().await } else { Ok(()) }
    }

    /// Writes what is left. Returns the file's path and size; whoever gets it owns the file.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn finish(mut self) -> io::Result<(PathBuf, u64)> {
        self.write().await?;
        self.ours = false;
        Ok((self.path.clone(), self.bytes))
    }

    async fn write(&mut self) -> io::Result<()> {
        let path = self.path.clone();
        let file = self.file.take();
        let gathered = std::mem::take(&mut self.gathered);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => create(&path)?,
            };
            file.write_all(&gathered)?;
            Ok::<_, io::Error>(file)
        });
        self.file = Some(written.await.map_err(io::Error::other)??);
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.ours && self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
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
        let mut draft = staging.draft();
        let piece = vec![7; PIECE_BYTES / 2 + 1];
        for _ in 0..5 {
            draft.append(&piece).await.unwrap();
            assert!(draft.gathered.len() < PIECE_BYTES);
        }
        let (path, bytes) = draft.finish().await.unwrap();
        assert_eq!(bytes, 5 * piece.len() as u64);
        assert_eq!(fs::metadata(path).unwrap().len(), bytes);
        let (path, bytes) = staging.draft().finish().await.unwrap();
        assert_eq!((fs::metadata(path).unwrap().len(), bytes), (0, 0));
    }

    #[tokio::test]
    async fn dropped_drafts_and_leftovers_go_away_and_foreign_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut staging = open(dir.path(), 1);
        let mut draft = staging.draft();
        draft.append(&vec![0; PIECE_BYTES]).await.unwrap();
        assert_eq!(count(dir.path()), 1);
        drop(draft);
        assert_eq!(count(dir.path()), 0);
        staging.draft().finish().await.unwrap();
        fs::write(dir.path().join("foreign"), b"x").unwrap();
        open(dir.path(), 2);
        assert_eq!(count(dir.path()), 2);
        open(dir.path(), 1);
        assert_eq!(count(dir.path()), 1);
    }
}
