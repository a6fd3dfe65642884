//! What a data directory holds beside the journal: keys, certificates, the switch of deliveries, policies.
//!
//! Small files that are replaced by renames now and then. They are looked at, copied, and looked at again, and what changed is
//! copied again until nothing changed in between, so that a key and the record that makes it count are from the same moment.
//! Not so what is only learned of other servers ([`is_learned`]): deliveries write it all the time. It is copied as it lies; its
//! readers step over a line or a policy that is cut off, and learn it again.
//!
//! A directory that is none of ours and that we may not read is left out, and the copy says so: so is a `lost+found` anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use spool::segment::{FileKind, JOURNAL_DIR, file_kind};

use super::{FileEntry, REPORT, SPOOL, UNFINISHED, private_file, sync_dir, unreadable, unwritable};
use crate::admin::ask::AskError;
use crate::mail::outbound::route::{levels, policies};
use crate::mail::signer::store;

/// Most files beside the journal.
const FILES_MAX: usize = 100_000;
/// Deepest directory.
const DEPTH_MAX: usize = 16;
/// How often what changes under the copy is copied again.
const PASSES_MAX: usize = 10;
/// Bytes copied at once.
const PIECE_BYTES: usize = 256 * 1024;
/// What a file system makes for itself at its top; the data directory and each directory in it may be such a top.
const FILE_SYSTEMS: &str = "lost+found";
/// Directories that the relay makes; the certificates' is named by the daemon.
const OURS: [&str; 4] = [SPOOL, store::DIRECTORY, policies::DIR_NAME, "acme"];

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

    /// What must be from one moment, by name.
    fn firm(&self) -> BTreeMap<&str, &Found> {
        let firm = self.found.iter().filter(|one| !is_learned(&one.name));
        firm.map(|one| (one.name.as_str(), one)).collect()
    }
}

/// What was copied.
pub(super) struct Copied {
    pub(super) files: Vec<FileEntry>,
    pub(super) left_out: Vec<String>,
}

/// Everything but journal, index, sockets and locks, directories before what is in them.
pub(super) fn list(data_dir: &Path) -> Result<Listed, AskError> {
    let mut listed = Listed::default();
    let entries = entries(data_dir).map_err(|error| unreadable(data_dir, &error))?;
    walk("", 0, entries, &mut listed)?;
    Ok(listed)
}

fn entries(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

fn walk(below: &str, depth: usize, found_here: Vec<DirEntry>, listed: &mut Listed) -> Result<(), AskError> {
    let too_much = |what: String| AskError::Conflict(format!("no backup was made: {what}"));
    if depth > DEPTH_MAX {
        return Err(too_much(format!("{below} is more than {DEPTH_MAX} directories deep")));
    }
    for entry in found_here {
        let path = entry.path();
        let Ok(last) = entry.file_name().into_string() else {
            listed.left_out.push(format!("{}: its name is no text", path.display()));
            continue;
        };
        let name = if below.is_empty() { last } else { format!("{below}/{last}") };
        if is_ours_to_leave(&name) {
            continue;
        }
        let is_link = entry.file_type().map_err(|error| unreadable(&path, &error))?.is_symlink();
        let facts = match fs::metadata(&path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_link => {
                listed.left_out.push(format!("{name}: a link that leads nowhere"));
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if depth > 0 && is_closed_to_us(&name, &error) => {
                listed.left_out.push(format!("{name}: it cannot be read: {error}"));
                continue;
            }
            Err(error) => return Err(unreadable(&path, &error)),
        };
        if facts.is_dir() && is_link && name != SPOOL {
            listed.left_out.push(format!("{name}: a link to another directory"));
        } else if facts.is_dir() {
            match entries(&path) {
                Ok(inside) => {
                    listed.found.push(found(&name, &facts));
                    walk(&name, depth + 1, inside, listed)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if is_closed_to_us(&name, &error) => {
                    listed.left_out.push(format!("{name}: it cannot be read: {error}"));
                }
                Err(error) => return Err(unreadable(&path, &error)),
            }
        } else if facts.is_file() {
            listed.found.push(found(&name, &facts));
        } else if !is_socket(&facts) {
            listed.left_out.push(format!("{name}: neither a file nor a directory"));
        }
        if listed.found.len() > FILES_MAX {
            return Err(too_much(format!("there are more than {FILES_MAX} files beside the journal")));
        }
    }
    Ok(())
}

/// A directory that the relay did not make, or what lies in it, and that its user may not look into.
fn is_closed_to_us(name: &str, error: &io::Error) -> bool {
    let is_file_systems = name.rsplit('/').next() == Some(FILE_SYSTEMS);
    error.kind() == io::ErrorKind::PermissionDenied && (is_file_systems || !OURS.contains(&top(name)))
}

/// The first part of a name.
fn top(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// What is only known of other servers: policies, and the TLS that they spoke. It is learned again, and no two files of it
/// belong together.
fn is_learned(name: &str) -> bool {
    let log = Path::new(levels::FILE_NAME);
    top(name) == policies::DIR_NAME || Path::new(name) == log || Path::new(name) == log.with_extension("new")
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

/// Copies `listed` to `dir`, and again what changes meanwhile.
pub(super) fn copy(
    data_dir: &Path,
    dir: &Path,
    mut listed: Listed,
    tell: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, AskError> {
    let mut copies = Copies { data_dir, dir, made: BTreeMap::new(), has_unsynced: false };
    let mut restless = String::new();
    for _ in 0..PASSES_MAX {
        copies.remove_all_but(&listed)?;
        for one in &listed.found {
            copies.take(one, tell)?;
        }
        let again = list(data_dir)?;
        // Nothing changed between the last look but one and this: then, all of it was as it was copied.
        match copies.changed(&listed, &again).map(str::to_owned) {
            Some(name) => restless = name,
            None => return copies.finish(listed),
        }
        listed = again;
    }
    Err(AskError::Conflict(format!(
        "no backup was made: {} changed each of {PASSES_MAX} times that it was copied",
        data_dir.join(restless).display()
    )))
}

/// What lies in the copy so far.
struct Copies<'a> {
    data_dir: &'a Path,
    dir: &'a Path,
    /// Files by name: what they were when they were copied.
    made: BTreeMap<String, (Found, FileEntry)>,
    /// Some files were not synced one by one.
    has_unsynced: bool,
}

impl Copies<'_> {
    /// Copies one, unless it is there as it is now.
    fn take(&mut self, one: &Found, tell: &mut dyn FnMut(u64) -> bool) -> Result<(), AskError> {
        let (from, to) = (self.data_dir.join(&one.name), place(self.dir, &one.name));
        if one.is_dir {
            if self.made.contains_key(&one.name) {
                self.remove(&one.name)?;
            }
            return make_dir(&to).map_err(|error| unwritable(&to, &error));
        }
        let learned = is_learned(&one.name);
        if self.made.get(&one.name).is_some_and(|(known, _)| learned || known == one) {
            return Ok(());
        }
        let file = match File::open(&from) {
            Ok(file) => file,
            // Gone since it was listed: whatever must fit together is looked at again then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.remove(&one.name),
            Err(error) => return Err(unreadable(&from, &error)),
        };
        let (copy, entry) = copy_file(&file, &from, &to, &one.name, tell)?;
        if learned {
            // There may be thousands of these: one sync for all of them.
            self.has_unsynced = true;
        } else {
            copy.sync_all().map_err(|error| unwritable(&to, &error))?;
        }
        self.made.insert(one.name.clone(), (one.clone(), entry));
        Ok(())
    }

    /// The first of what must be from one moment that is not, between these two looks.
    fn changed<'a>(&self, before: &'a Listed, after: &'a Listed) -> Option<&'a str> {
        let (before, after) = (before.firm(), after.firm());
        let is_steady = |name: &str, one: &Found| {
            after.get(name) == Some(&one) && (one.is_dir || self.made.contains_key(name))
        };
        let other = before.iter().find(|(name, one)| !is_steady(name, one)).map(|(name, _)| *name);
        other.or_else(|| after.keys().find(|name| !before.contains_key(**name)).copied())
    }

    /// Takes away what is gone in the data directory; its directories stay.
    fn remove_all_but(&mut self, listed: &Listed) -> Result<(), AskError> {
        let there: BTreeSet<&str> = listed.found.iter().map(|one| one.name.as_str()).collect();
        let gone = self.made.keys().filter(|name| !there.contains(name.as_str()) && !is_learned(name));
        let gone: Vec<String> = gone.cloned().collect();
        gone.iter().try_for_each(|name| self.remove(name))
    }

    fn remove(&mut self, name: &str) -> Result<(), AskError> {
        self.made.remove(name);
        let path = place(self.dir, name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(&path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes all of it stable.
    fn finish(self, listed: Listed) -> Result<Copied, AskError> {
        for one in listed.found.iter().filter(|one| one.is_dir) {
            let made = place(self.dir, &one.name);
            sync_dir(&made).map_err(|error| unwritable(&made, &error))?;
        }
        if self.has_unsynced {
            let synced =
                File::open(self.dir).and_then(|dir| rustix::fs::syncfs(dir).map_err(io::Error::from));
            synced.map_err(|error| unwritable(self.dir, &error))?;
        }
        let files = self.made.into_values().map(|(_, entry)| entry).collect();
        Ok(Copied { files, left_out: listed.left_out })
    }
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

/// Copies as much as there is when it begins: who appends meanwhile must not make it last.
fn copy_file(
    file: &File,
    from: &Path,
    to: &Path,
    name: &str,
    tell: &mut dyn FnMut(u64) -> bool,
) -> Result<(File, FileEntry), AskError> {
    let written = |error: &io::Error| unwritable(to, error);
    let len = file.metadata().map_err(|error| unreadable(from, &error))?.len();
    let mut file = file.take(len);
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
    let sha256 = data_encoding::HEXLOWER.encode(&sha256.finalize());
    Ok((copy, FileEntry { name: name.to_owned(), bytes, sha256 }))
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
    fn what_is_learned_of_other_servers_may_change_all_the_time() {
        let (data, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = data.path().join(levels::FILE_NAME);
        fs::create_dir(data.path().join("mta-sts")).unwrap();
        for name in ["attestation.key", "mta-sts/a.json", "mta-sts/b.json", "mta-sts/c.json"] {
            fs::write(data.path().join(name), name).unwrap();
        }
        fs::write(&log, "the first line\n").unwrap();
        let mut told = 0;
        let copied = copy(data.path(), target.path(), list(data.path()).unwrap(), &mut |_| {
            told += 1;
            // Deliveries go on: a line more, a policy more, a policy less.
            let mut log = fs::OpenOptions::new().append(true).open(&log).unwrap();
            log.write_all(b"and another\n").unwrap();
            fs::write(data.path().join(format!("mta-sts/new-{told}.json")), "new").unwrap();
            let _ = fs::remove_file(data.path().join("mta-sts/b.json"));
            true
        })
        .unwrap();
        let names: Vec<_> = copied.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["attestation.key", "mta-sts/a.json", "mta-sts/c.json", levels::FILE_NAME]);
        assert_eq!(told, names.len(), "each once");
        for file in &copied.files {
            let bytes = fs::read(target.path().join(&file.name)).unwrap();
            let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
            assert_eq!((bytes.len() as u64, &sha256), (file.bytes, &file.sha256), "{}", file.name);
        }
    }

    #[test]
    fn only_what_changed_is_copied_again_and_what_never_rests_is_named() {
        let (data, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["a.key", "restless", "z.key"] {
            fs::write(data.path().join(name), "key").unwrap();
        }
        let mut told = 0;
        let failed = copy(data.path(), target.path(), list(data.path()).unwrap(), &mut |_| {
            told += 1;
            fs::write(data.path().join("restless"), "x".repeat(told)).unwrap();
            true
        });
        let Err(AskError::Conflict(why)) = failed else { panic!("it never rests") };
        assert!(why.contains("/restless changed each of 10 times"), "{why}");
        assert_eq!(told, 3 + (PASSES_MAX - 1), "the two that rest were copied once");
    }

    #[test]
    fn a_directory_of_others_that_is_closed_is_left_out_and_one_of_ours_is_an_error_that_names_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let (data, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let close = |name: &str| {
            let dir = data.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o000)).unwrap();
        };
        fs::write(data.path().join("attestation.key"), "key").unwrap();
        // The spool may be a file system of its own.
        fs::create_dir(data.path().join("spool")).unwrap();
        close("spool/lost+found");
        close("lost+found");
        if fs::read_dir(data.path().join("lost+found")).is_ok() {
            // As another account: `tests/cli/backup.rs`.
            eprintln!("SKIPPED: root may look into every directory");
            return;
        }
        let copied = copy(data.path(), target.path(), list(data.path()).unwrap(), &mut |_| true).unwrap();
        for (n, name) in ["lost+found", "spool/lost+found"].into_iter().enumerate() {
            assert!(copied.left_out[n].starts_with(&format!("{name}: it cannot be read")));
        }
        assert_eq!(copied.left_out.len(), 2);
        assert_eq!(copied.files.len(), 1);
        close("attestation");
        let Err(AskError::Conflict(why)) = list(data.path()) else { panic!("keys are not left out") };
        assert!(why.contains("/attestation cannot be read"), "{why}");
        for name in ["lost+found", "spool/lost+found", "attestation"] {
            // So that the directory can be removed.
            fs::set_permissions(data.path().join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
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
