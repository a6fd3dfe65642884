//! What root makes in a data directory belongs to the directory's owner.
//!
//! Commands on a stopped relay or gateway may be run by root; the service runs as an account of its own, and could not open what
//! they made: it would not start. So whatever root owns in such a directory is given to the owner of the directory, before
//! a command opens anything there (an earlier one may have left something), and when it is done, also when it failed.
//!
//! Promises: root's files outside of the directory stay root's, even if the owner of the directory puts links there while this
//! walks it. Every step goes from one open directory to the next and follows no link, and what is given away is what was
//! opened: a directory, or a plain file that has no second name. Bounded in depth and number.
//! Does not: give away what belongs to anybody but root, nor cross into another file system (but that of the spool).
//! Failure policy: what cannot be given stays as it is, and standard error says so; the command goes on.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Deepest directory that is looked into.
const DEPTH_MAX: usize = 16;
/// Most files and directories that are looked at.
const ENTRIES_MAX: usize = 1_000_000;
/// How directories are opened.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// To be held beside what is opened in a data directory, and dropped after it.
#[derive(Debug)]
pub(crate) struct Owner {
    data_dir: PathBuf,
    /// `None`: nobody is given anything.
    account: Option<(Uid, Gid)>,
}

impl Owner {
    /// Of this data directory, if we are root and it is somebody else's.
    pub(crate) fn of(data_dir: &Path) -> Self {
        let facts = std::fs::metadata(data_dir).ok();
        let another = facts.filter(|facts| geteuid().is_root() && facts.uid() != Uid::ROOT.as_raw());
        let account = another.map(|facts| (Uid::from_raw(facts.uid()), Gid::from_raw(facts.gid())));
        let owner = Self { data_dir: data_dir.to_owned(), account };
        owner.give();
        owner
    }

    fn give(&self) {
        let Some((uid, gid)) = self.account else { return };
        let mut giving = Giving { uid, gid, left: ENTRIES_MAX, failed: None };
        // The spool may be a link, or another file system.
        for dir in [self.data_dir.clone(), self.data_dir.join("spool")] {
            let Ok(open) = openat(CWD, &dir, DIRECTORY, Mode::empty()) else { continue };
            // Whoever puts a link to a directory of root's in its place gets nothing of that.
            if let Ok(facts) = fstat(&open)
                && facts.st_uid == uid.as_raw()
            {
                giving.walk(&open, &facts, 0);
            }
        }
        if let Some((name, error)) = giving.failed {
            let (dir, account) = (self.data_dir.display(), uid.as_raw());
            eprintln!(
                "{name} in {dir} cannot be given to account {account}, whose service may not start: {error}"
            );
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.give();
    }
}

/// One walk.
struct Giving {
    uid: Uid,
    gid: Gid,
    /// How much may still be looked at.
    left: usize,
    /// The first that could not be given.
    failed: Option<(String, Errno)>,
}

impl Giving {
    fn walk(&mut self, dir: &OwnedFd, above: &Stat, depth: usize) {
        let Ok(entries) = Dir::read_from(dir) else { return };
        for entry in entries {
            let Ok(entry) = entry else { return };
            let name = entry.file_name();
            // The last one is the file system's own, and root's for a reason.
            if [c".", c"..", c"lost+found"].contains(&name) {
                continue;
            }
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            let named = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(there) = openat(dir, name, named, Mode::empty()) else { continue };
            let Ok(facts) = fstat(&there) else { continue };
            if facts.st_dev != above.st_dev {
                continue;
            }
            let kind = FileType::from_raw_mode(facts.st_mode);
            let is_dir = kind == FileType::Directory;
            let is_plain = kind == FileType::RegularFile && facts.st_nlink == 1;
            if facts.st_uid == Uid::ROOT.as_raw() && (is_dir || is_plain) {
                let given = chownat(&there, c"", Some(self.uid), Some(self.gid), AtFlags::EMPTY_PATH);
                if let Err(error) = given {
                    self.failed.get_or_insert_with(|| (name.to_string_lossy().into_owned(), error));
                }
            }
            if is_dir
                && depth < DEPTH_MAX
                && let Ok(inside) = openat(&there, c".", DIRECTORY, Mode::empty())
            {
                self.walk(&inside, &facts, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    /// An account that owns nothing here.
    const NOBODY: u32 = 65_534;

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    /// A data directory of that account with something of root's in it, and a file of root's beside it; `None` without root.
    fn directories() -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can give files away");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (data, outside) = (dir.path().join("data"), dir.path().join("outside"));
        fs::create_dir_all(data.join("spool/journal")).unwrap();
        fs::write(data.join("spool/LOCK"), "").unwrap();
        fs::write(data.join("spool/journal/1"), "").unwrap();
        fs::write(&outside, "root's").unwrap();
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        Some((dir, data, outside))
    }

    #[test]
    fn what_root_made_is_given_to_the_owner_before_and_after() {
        let Some((_dir, data, _)) = directories() else { return };
        let held = Owner::of(&data);
        for name in ["spool", "spool/LOCK", "spool/journal", "spool/journal/1"] {
            assert_eq!(owner(&data.join(name)), NOBODY, "{name}");
        }
        fs::create_dir(data.join("attestation")).unwrap();
        fs::write(data.join("attestation/2.key"), "key").unwrap();
        drop(held);
        for name in ["attestation", "attestation/2.key"] {
            assert_eq!(owner(&data.join(name)), NOBODY, "{name}");
        }
        assert_eq!(fs::metadata(data.join("attestation")).unwrap().gid(), NOBODY);
    }

    #[test]
    fn what_lies_elsewhere_or_belongs_to_others_stays_as_it_is() {
        let Some((dir, data, outside)) = directories() else { return };
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("secret"), "root's").unwrap();
        symlink(&outside, data.join("link")).unwrap();
        symlink(&elsewhere, data.join("directory")).unwrap();
        fs::hard_link(&outside, data.join("second")).unwrap();
        fs::create_dir(data.join("lost+found")).unwrap();
        fs::write(data.join("theirs"), "").unwrap();
        lchown(data.join("theirs"), Some(12_345), None).unwrap();
        drop(Owner::of(&data));
        for path in [&outside, &elsewhere, &elsewhere.join("secret"), &data.join("lost+found")] {
            assert_eq!(owner(path), 0, "{}", path.display());
        }
        assert_eq!(owner(&data.join("theirs")), 12_345);

        // A spool that is a link is gone into when it is the owner's, and only then.
        fs::rename(data.join("spool"), dir.path().join("large")).unwrap();
        symlink(&elsewhere, data.join("spool")).unwrap();
        drop(Owner::of(&data));
        assert_eq!(owner(&elsewhere.join("secret")), 0);
        fs::remove_file(data.join("spool")).unwrap();
        symlink(dir.path().join("large"), data.join("spool")).unwrap();
        fs::write(dir.path().join("large/FORMAT"), "").unwrap();
        drop(Owner::of(&data));
        assert_eq!(owner(&dir.path().join("large/FORMAT")), NOBODY);
    }

    #[test]
    fn a_directory_of_roots_own_is_left_alone() {
        let Some((_dir, data, _)) = directories() else { return };
        chown(&data, Some(0), Some(0)).unwrap();
        drop(Owner::of(&data));
        assert_eq!(owner(&data.join("spool/LOCK")), 0);
    }
}
