//! What a data directory holds beside the journal: keys, certificates, the switch of deliveries, policies.
//!
//! Small files that are replaced by renames now and then. They are looked at, copied, and looked at again until nothing
//! changed in between, so that a key and the record that makes it count are from the same moment.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use spool::segment::{FileKind, JOURNAL_DIR, file_kind};

use super::{FileEntry, REPORT, SPOOL, UNFINISHED, private_file, sync_dir, unreadable, unwritable};
use crate::admin::ask::AskError;

/// Most files beside the journal.
const FILES_MAX: usize = 100_000;
/// Deepest directory.
const DEPTH_MAX: usize = 16;
/// How often a directory that changes under the copy is begun again.
const PASSES_MAX: usize = 10;
/// Bytes copied at once.
const PIECE_BYTES: usize = 256 * 1024;

/// One file or directory, and what tells whether it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: String,
    is_dir: bool,
    bytes: u64,
    stamp: (u64, i64, i64, i64, i64),
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    found: Vec<Found>,
    left_out: Vec<String>,
}

impl Listed {
    pub(super) fn bytes(&self) -> u64 {
        self.found.iter().map(|found| found.bytes).sum()
    }
}

/// What was copied.
pub(super) struct Copied {
    pub(super) files: Vec<FileEntry>,
    pub(super) left_out: Vec<String>,
}

/// Everything but journal, index, sockets and locks, directories before what is in them.
pub(super) fn list(data_dir: &Path) -> io::Result<Listed> {
    let mut listed = Listed::default();
    walk(data_dir, "", 0, &mut listed)?;
    Ok(listed)
}

fn walk(data_dir: &Path, below: &str, depth: usize, listed: &mut Listed) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("{below} is more than {DEPTH_MAX} directories deep")));
    }
    let mut entries = fs::read_dir(data_dir.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(last) = entry.file_name().into_string() else {
            listed.left_out.push(format!("{}: its name is no text", entry.path().display()));
            continue;
        };
        let name = if below.is_empty() { last } else { format!("{below}/{last}") };
        if is_ours_to_leave(&name) {
            continue;
        }
        let path = entry.path();
        let is_link = entry.file_type()?.is_symlink();
        let facts = match fs::metadata(&path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_link => {
                listed.left_out.push(format!("{name}: a link that leads nowhere"));
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
        };
        if facts.is_dir() && is_link && name != SPOOL {
            listed.left_out.push(format!("{name}: a link to another directory"));
        } else if facts.is_dir() {
            listed.found.push(found(&name, &facts));
            walk(data_dir, &name, depth + 1, listed)?;
        } else if facts.is_file() {
            listed.found.push(found(&name, &facts));
        } else if !is_socket(&facts) {
            listed.left_out.push(format!("{name}: neither a file nor a directory"));
        }
        if listed.found.len() > FILES_MAX {
            return Err(io::Error::other(format!(
                "there are more than {FILES_MAX} files beside the journal"
            )));
        }
    }
    Ok(())
}

/// The plan of the ledger has the journal; the index is rebuilt; a lock means nothing in a copy.
fn is_ours_to_leave(name: &str) -> bool {
    if name == REPORT || name == UNFINISHED {
        return true;
    }
    let Some(in_spool) = name.strip_prefix(SPOOL).and_then(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    let is_segment = in_spool
        .strip_prefix(JOURNAL_DIR)
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|file| matches!(file_kind(file), FileKind::Segment(_) | FileKind::Spare(_)));
    let is_index = in_spool == "index" || in_spool.starts_with("index.");
    is_segment || is_index || matches!(in_spool, "LOCK" | "FORMAT" | "FORMAT.new")
}

fn is_socket(facts: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    facts.file_type().is_socket()
}

fn found(name: &str, facts: &Metadata) -> Found {
    // The times of directories change with what is none of ours in them.
    let (is_dir, bytes) = (facts.is_dir(), if facts.is_dir() { 0 } else { facts.len() });
    let stamp = if is_dir {
        (facts.ino(), 0, 0, 0, 0)
    } else {
        (facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec())
    };
    Found { name: name.to_owned(), is_dir, bytes, stamp }
}

/// Copies `listed` to `dir`, and again as long as it changes meanwhile.
pub(super) fn copy(
    data_dir: &Path,
    dir: &Path,
    mut listed: Listed,
    tell: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, AskError> {
    for _ in 0..PASSES_MAX {
        let mut files = Vec::new();
        let mut vanished = false;
        for one in &listed.found {
            let (from, to) = (data_dir.join(&one.name), place(dir, &one.name));
            if one.is_dir {
                make_dir(&to).map_err(|error| unwritable(&to, &error))?;
                continue;
            }
            let file = match File::open(&from) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    vanished = true;
                    break;
                }
                Err(error) => return Err(unreadable(&from, &error)),
            };
            files.push(copy_file(&file, &from, &to, &one.name, tell)?);
        }
        let again = list(data_dir).map_err(|error| unreadable(data_dir, &error))?;
        if !vanished && again == listed {
            for one in listed.found.iter().filter(|one| one.is_dir) {
                let made = place(dir, &one.name);
                sync_dir(&made).map_err(|error| unwritable(&made, &error))?;
            }
            return Ok(Copied { files, left_out: listed.left_out });
        }
        remove(dir, &listed).map_err(|error| unwritable(dir, &error))?;
        listed = again;
    }
    Err(AskError::Conflict(format!(
        "no backup was made: files beside the journal in {} changed each of {PASSES_MAX} times that they were copied",
        data_dir.display()
    )))
}

/// Where a file of the data directory goes.
fn place(dir: &Path, name: &str) -> PathBuf {
    match name.strip_prefix(SPOOL) {
        Some("") => dir.join(UNFINISHED),
        Some(rest) if rest.starts_with('/') => dir.join(UNFINISHED).join(&rest[1..]),
        Some(_) | None => dir.join(name),
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

fn copy_file(
    mut file: &File,
    from: &Path,
    to: &Path,
    name: &str,
    tell: &mut dyn FnMut(u64) -> bool,
) -> Result<FileEntry, AskError> {
    let written = |error: &io::Error| unwritable(to, error);
    let mut copy = private_file(to).map_err(|error| written(&error))?;
    let (mut piece, mut sha256, mut bytes) = (vec![0; PIECE_BYTES], Sha256::new(), 0);
    loop {
        let len = file.read(&mut piece).map_err(|error| unreadable(from, &error))?;
        if len == 0 {
            break;
        }
        copy.write_all(&piece[..len]).map_err(|error| written(&error))?;
        sha256.update(&piece[..len]);
        bytes += len as u64;
        if !tell(len as u64) {
            return Err(super::failed(&spool::backup::BackupError::Stopped));
        }
    }
    copy.sync_all().map_err(|error| written(&error))?;
    Ok(FileEntry { name: name.to_owned(), bytes, sha256: data_encoding::HEXLOWER.encode(&sha256.finalize()) })
}

/// Takes the files of a pass away again; directories stay.
fn remove(dir: &Path, listed: &Listed) -> io::Result<()> {
    for one in listed.found.iter().filter(|one| !one.is_dir) {
        match fs::remove_file(place(dir, &one.name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_sockets_locks_and_the_journal_are_left_to_others() {
        for name in [
            "BACKUP.json",
            "spool.incomplete",
            "spool/LOCK",
            "spool/FORMAT",
            "spool/index",
            "spool/index.damaged-1",
            "spool/journal/0000000000000001.wsj",
            "spool/journal/0000000000000001.spare",
        ] {
            assert!(is_ours_to_leave(name), "{name}");
        }
        for name in [
            "attestation.key",
            "spool",
            "spool/journal",
            "spool/journal/notes.txt",
            "spoolers/index",
            "acme/LOCK",
        ] {
            assert!(!is_ours_to_leave(name), "{name}");
        }
    }

    #[test]
    fn a_directory_that_changes_while_it_is_copied_is_copied_again() {
        let (data, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(data.path().join("keys")).unwrap();
        fs::write(data.path().join("keys/a"), "first").unwrap();
        fs::write(data.path().join("keys/b"), "first").unwrap();
        let listed = list(data.path()).unwrap();
        let mut changed = false;
        let copied = copy(data.path(), target.path(), listed, &mut |_| {
            // A rotation between the two: the old pair or the new one, never one of each.
            if !std::mem::replace(&mut changed, true) {
                fs::remove_file(data.path().join("keys/a")).unwrap();
                fs::write(data.path().join("keys/b"), "second").unwrap();
                fs::write(data.path().join("keys/c"), "second").unwrap();
            }
            true
        })
        .unwrap();
        let names: Vec<_> = copied.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["keys/b", "keys/c"]);
        assert!(!target.path().join("keys/a").exists());
        assert_eq!(fs::read_to_string(target.path().join("keys/b")).unwrap(), "second");
    }

    #[test]
    fn links_to_files_are_copied_as_files_and_others_are_told() {
        let (data, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("key"), "secret").unwrap();
        let link = std::os::unix::fs::symlink::<PathBuf, PathBuf>;
        link(elsewhere.path().join("key"), data.path().join("attestation.key")).unwrap();
        link(elsewhere.path().to_owned(), data.path().join("more")).unwrap();
        link("nowhere".into(), data.path().join("lost")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(data.path().join("admin.sock")).unwrap();
        let copied = copy(data.path(), target.path(), list(data.path()).unwrap(), &mut |_| true).unwrap();
        assert_eq!(copied.left_out, ["lost: a link that leads nowhere", "more: a link to another directory"]);
        let copy = target.path().join("attestation.key");
        assert!(fs::symlink_metadata(&copy).unwrap().is_file());
        assert_eq!(fs::symlink_metadata(&copy).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(copy).unwrap(), "secret");
        assert_eq!(copied.files.len(), 1);
    }
}
