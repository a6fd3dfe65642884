//! The Maildir destination.
//!
//! Promise: when [`Maildir::deliver`] says `Stored`, the whole message is in `new/` under its final name, and
//! both the bytes and the name are on stable storage. No reader ever sees a part of a message. The order is the
//! one of the Maildir convention: write in `tmp/`, sync the file, rename into `new/`, sync `new/`.
//!
//! The name carries the item id (`SECONDS.QSEQ-WITEM.HOST`), so the directory itself remembers what was delivered:
//! after a crash between the rename and our own memory's sync, [`Maildir::stored_ids`] finds the message in `new/` or in
//! `cur/` (where mail programs move it, keeping the name and adding flags after a colon).
//!
//! Policy on failure: a file whose sync failed is given up, never synced again (the kernel may have dropped the dirty
//! pages, and the second sync would lie); the relay is asked to send the message once more. Everything else
//! (no space, permissions, directory gone) makes the destination unavailable until it works again.
//!
//! It does not: create folders other than the three, count quotas, or delete anything in `new/` and `cur/`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};
use spool::ids::ItemId;

use crate::crashpoint;
use crate::gateway::destination::{Letter, Outcome};

/// Most ids reported from the files present; older ones are older than any replay we answer from memory.
pub const STORED_IDS_MAX: usize = 100_000;

/// A Maildir that exists and has its three folders.
#[derive(Debug)]
pub struct Maildir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tmp: PathBuf,
    new: PathBuf,
    cur: PathBuf,
    host: String,
    /// A rename was not known to be stable: the next deliveries look into `cur/` first.
    doubtful: AtomicBool,
}

impl Maildir {
    /// Opens the Maildir at `path`, making it and its folders (mode 0700) where they are missing.
    ///
    /// `host` goes into file names; bytes that may not stand there are replaced as the convention says.
    ///
    /// # Errors
    /// What the file system said, with the path in the text.
    pub fn open(path: &Path, host: &str) -> io::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            let folder = path.join(folder);
            make_dir(&folder).map_err(|error| named(&folder, &error))?;
        }
        sync_dir(path).map_err(|error| named(path, &error))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).map_err(|error| named(parent, &error))?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                tmp: path.join("tmp"),
                new: path.join("new"),
                cur: path.join("cur"),
                host: host_part(host),
                doubtful: AtomicBool::new(false),
            }),
        })
    }

    /// The folder in which messages are written first; a file from here is renamed, one from elsewhere is copied.
    #[must_use]
    pub fn tmp(&self) -> &Path {
        &self.inner.tmp
    }

    /// Puts the message into `new/`; see the module's promise.
    pub async fn deliver(&self, letter: &Letter) -> Outcome {
        let inner = Arc::clone(&self.inner);
        let letter = letter.clone();
        match tokio::task::spawn_blocking(move || inner.deliver(&letter)).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::unavailable(format!("delivery task ended: {error}")),
        }
    }

    /// Ids of the items whose files are in `new/` or `cur/`, after making those directories stable; oldest first,
    /// at most [`STORED_IDS_MAX`], newest kept. A folder that cannot be read counts as empty.
    pub async fn stored_ids(&self) -> Vec<String> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.stored_ids()).await.unwrap_or_default()
    }
}

impl Inner {
    fn deliver(&self, letter: &Letter) -> Outcome {
        let name = file_name(letter, &self.host);
        if self.doubtful.load(Ordering::Acquire) && self.is_in_cur(&name) {
            let _ = fs::remove_file(&letter.path);
            return match sync_dir(&self.cur) {
                Ok(()) => Outcome::Stored,
                Err(error) => Outcome::unavailable(named(&self.cur, &error).to_string()),
            };
        }
        let staged = match self.staged(letter, &name) {
            Ok(staged) => staged,
            Err(error) => return Outcome::unavailable(format!("cannot copy into the Maildir: {error}")),
        };
        crashpoint::reach("gateway.maildir.before_file_sync");
        if let Err(error) = File::open(&staged).and_then(|file| file.sync_all()) {
            let _ = fs::remove_file(&staged);
            return Outcome::later(format!("cannot sync {}: {error}", staged.display()));
        }
        crashpoint::reach("gateway.maildir.before_rename");
        let target = self.new.join(&name);
        // An own earlier try may have left the same name: the same message, so replacing it is no loss.
        if let Err(error) = fs::rename(&staged, &target) {
            return Outcome::unavailable(format!("cannot rename into {}: {error}", target.display()));
        }
        crashpoint::reach("gateway.maildir.after_rename");
        if let Err(error) = sync_dir(&self.new) {
            self.doubtful.store(true, Ordering::Release);
            return Outcome::later(format!("cannot sync {}: {error}", self.new.display()));
        }
        Outcome::Stored
    }

    /// The message as a file in `tmp/`: the letter's own file, or a copy if that lies elsewhere.
    fn staged(&self, letter: &Letter, name: &str) -> io::Result<PathBuf> {
        if letter.path.parent() == Some(self.tmp.as_path()) {
            return Ok(letter.path.clone());
        }
        let copy = self.tmp.join(name);
        fs::copy(&letter.path, &copy)?;
        Ok(copy)
    }

    fn is_in_cur(&self, name: &str) -> bool {
        entries(&self.cur).any(|entry| entry.split(':').next() == Some(name))
    }

    fn stored_ids(&self) -> Vec<String> {
        // What an own earlier life renamed without living to sync must not be called stored on its word alone.
        if sync_dir(&self.new).is_err() || sync_dir(&self.cur).is_err() {
            return Vec::new();
        }
        let mut names: Vec<String> = entries(&self.new).chain(entries(&self.cur)).collect();
        names.sort_unstable();
        let surplus = names.len().saturating_sub(STORED_IDS_MAX);
        names.iter().skip(surplus).filter_map(|name| id_in(name)).map(str::to_owned).collect()
    }
}

/// `SECONDS.QSEQ-WITEM.HOST`: sorts by time of acceptance, then by position in the lane.
fn file_name(letter: &Letter, host: &str) -> String {
    let seconds = match letter.item_id.parse::<ItemId>() {
        Ok(id) => id.time().0 / 1000,
        Err(_) => modified_seconds(&letter.path),
    };
    format!("{seconds}.Q{:012}-W{}.{host}", letter.seq, name_id(&letter.item_id))
}

/// A delivered file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Where.
    pub path: PathBuf,
    /// The item id as it stands in the name ([`name_id`]).
    pub id: String,
    /// Position in the lane; 0 for a report on mail out.
    pub seq: u64,
}

/// The files of ours in the Maildir at `path`, oldest first; a folder that cannot be read counts as empty.
#[must_use]
pub fn files(path: &Path) -> Vec<Delivered> {
    let mut found = Vec::new();
    for folder in ["new", "cur"] {
        let folder = path.join(folder);
        for name in entries(&folder) {
            if let Some((seq, id)) = parts(&name) {
                found.push(Delivered { path: folder.join(&name), id: id.to_owned(), seq });
            }
        }
    }
    found.sort_by_key(|file| file.seq);
    found
}

/// The item id in a form that can stand in a file name: itself where it is plain, else a hash of it.
#[must_use]
pub fn name_id(item_id: &str) -> String {
    let plain = (1..=64).contains(&item_id.len()) && item_id.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain {
        return item_id.to_owned();
    }
    let hash = Sha256::digest(item_id.as_bytes());
    format!("x{}", data_encoding::HEXLOWER.encode(&hash[..16]))
}

/// The id in a file name of ours.
fn id_in(name: &str) -> Option<&str> {
    parts(name).map(|(_, id)| id)
}

/// Position and id in a file name of ours.
fn parts(name: &str) -> Option<(u64, &str)> {
    let rest = name.split_once(".Q")?.1;
    let (seq, rest) = rest.split_once("-W")?;
    let id = rest.split_once('.')?.0;
    let seq = if seq.bytes().all(|b| b.is_ascii_digit()) { seq.parse().ok()? } else { return None };
    (!id.is_empty()).then_some((seq, id))
}

fn modified_seconds(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

fn entries(folder: &Path) -> impl Iterator<Item = String> {
    let read = fs::read_dir(folder).ok();
    read.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

fn host_part(host: &str) -> String {
    let host: String = host.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    let host = host.replace('/', "\\057").replace(':', "\\072");
    if host.is_empty() { "localhost".to_owned() } else { host }
}

fn make_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(maildir: &Maildir, id: &str, seq: u64, bytes: &[u8]) -> Letter {
        let sample = Letter::sample(maildir.tmp().join(format!("staged-{id}")), bytes);
        Letter { item_id: id.to_owned(), seq, ..sample }
    }

    fn id(ms: u64) -> String {
        ItemId::new(spool::ids::WallMs(ms), [1; 10]).to_string()
    }

    #[tokio::test]
    async fn delivered_file_is_byte_for_byte_and_nothing_stays_in_tmp() {
        let dir = tempfile::tempdir().unwrap();
        let maildir = Maildir::open(&dir.path().join("Mail"), "home/one:x").unwrap();
        let bytes = b"Received: x\r\n\r\nbody\0\xff\n";
        let letter = letter(&maildir, &id(1_700_000_000_000), 7, bytes);
        assert_eq!(maildir.deliver(&letter).await, Outcome::Stored);
        let names: Vec<String> = entries(&maildir.inner.new).collect();
        assert_eq!(
            names,
            [format!("1700000000.Q000000000007-W{}.home\\057one\\072x", id(1_700_000_000_000))]
        );
        assert_eq!(fs::read(maildir.inner.new.join(&names[0])).unwrap(), bytes);
        assert_eq!(entries(maildir.tmp()).count(), 0);
    }

    #[tokio::test]
    async fn ids_are_found_in_new_and_in_cur_with_flags() {
        let dir = tempfile::tempdir().unwrap();
        let maildir = Maildir::open(dir.path(), "h").unwrap();
        for (seq, ms) in [(1, 1000), (2, 2000)] {
            assert_eq!(maildir.deliver(&letter(&maildir, &id(ms), seq, b"x")).await, Outcome::Stored);
        }
        let first = file_name(&letter(&maildir, &id(1000), 1, b"x"), "h");
        fs::rename(dir.path().join("new").join(&first), dir.path().join("cur").join(format!("{first}:2,S")))
            .unwrap();
        fs::write(dir.path().join("new/1234.foreign.host"), b"x").unwrap();
        let mut ids = maildir.stored_ids().await;
        ids.sort();
        assert_eq!(ids, [id(1000), id(2000)]);
    }

    #[tokio::test]
    async fn the_same_item_twice_is_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let maildir = Maildir::open(dir.path(), "h").unwrap();
        for _ in 0..2 {
            assert_eq!(maildir.deliver(&letter(&maildir, &id(5), 1, b"x")).await, Outcome::Stored);
        }
        assert_eq!(entries(&maildir.inner.new).count(), 1);
        // After a directory sync that failed, a mail program may have moved it already.
        let name = entries(&maildir.inner.new).next().unwrap();
        fs::rename(maildir.inner.new.join(&name), maildir.inner.cur.join(format!("{name}:2,"))).unwrap();
        maildir.inner.doubtful.store(true, Ordering::Release);
        assert_eq!(maildir.deliver(&letter(&maildir, &id(5), 1, b"x")).await, Outcome::Stored);
        assert_eq!(entries(&maildir.inner.new).count(), 0);
    }

    #[tokio::test]
    async fn a_file_from_elsewhere_is_copied_in() {
        let dir = tempfile::tempdir().unwrap();
        let maildir = Maildir::open(&dir.path().join("m"), "h").unwrap();
        let mut letter = letter(&maildir, "id", 1, b"abc");
        let outside = dir.path().join("outside");
        fs::rename(&letter.path, &outside).unwrap();
        letter.path = outside;
        assert_eq!(maildir.deliver(&letter).await, Outcome::Stored);
        assert_eq!(entries(&maildir.inner.new).count(), 1);
    }

    #[tokio::test]
    async fn a_missing_folder_makes_it_unavailable_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let maildir = Maildir::open(dir.path(), "h").unwrap();
        let letter = letter(&maildir, "id", 1, b"abc");
        fs::remove_dir(dir.path().join("new")).unwrap();
        assert!(matches!(maildir.deliver(&letter).await, Outcome::Unavailable { .. }));
        fs::create_dir(dir.path().join("new")).unwrap();
        assert_eq!(maildir.deliver(&letter).await, Outcome::Stored);
    }

    #[test]
    fn foreign_ids_cannot_leave_the_folder() {
        let name = name_id("../../etc/passwd");
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
        assert_eq!(name_id("abc123"), "abc123");
        assert_eq!(id_in("1.Q1-Wabc.h:2,S"), Some("abc"));
        assert_eq!(id_in("1.M1P2.h"), None);
    }
}
