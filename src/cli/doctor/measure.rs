//! Driver: measures this machine: directories, space, the disk's speed, the clock.
//!
//! Promises: one small file is written into the data directory and removed again; every measurement is bounded.
//! Failure policy: what cannot be measured is a finding that says so.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::finding::Finding;
use super::judge::{self, disk};
use crate::clock;
use crate::mail::signed::time_text;

/// Small synced writes that are timed.
const SYNCS: usize = 50;
/// When the measurement of a slow disk ends early.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one such write: a small commit.
const SYNC_BYTES: usize = 4096;
/// Files of a directory whose times are looked at.
const FILES_MAX: usize = 2000;
/// Files and directories whose owners are looked at, and the deepest of them.
const OWNERS_MAX: usize = 50_000;
const OWNERS_DEPTH_MAX: usize = 16;
/// How long a helper program of the system may take.
const HELPER_PATIENCE: Duration = Duration::from_secs(3);

/// What is known of a directory.
pub(crate) fn place(path: &Path) -> Option<disk::Place> {
    let meta = fs::metadata(path).ok()?;
    let me = rustix::process::geteuid().as_raw();
    Some(disk::Place { is_dir: meta.is_dir(), mode: meta.mode(), owner: meta.uid(), me })
}

/// The directory, its file system, its free space and its disk.
pub(crate) fn directory(check: &str, path: &Path, floor_bytes: Option<u64>) -> Vec<Finding> {
    let found = place(path);
    let mut findings = vec![disk::directory(check, path, found)];
    if let Some(place) = found.filter(|place| place.is_dir && place.owner != 0) {
        // A link is not followed, neither here nor by `chown -R`: each directory is looked at, and named, by itself.
        let strangers = std::iter::once(path.to_owned()).chain(linked_spool(path)).filter_map(|dir| {
            let (stranger, its_owner) = stranger(&dir, place.owner)?;
            Some(disk::stranger(&dir, place.owner, &stranger, its_owner))
        });
        findings.extend(strangers);
    }
    // What is not there yet will lie where its parent lies.
    let there = path.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("."));
    let whole = fs::canonicalize(there).unwrap_or_else(|_| there.to_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let kind = disk::mount_of(&mounts, &whole).map(|(_, kind)| kind);
    findings.push(match &kind {
        Some(kind) => disk::file_system(kind),
        None => Finding::open("file system", "its kind is not known"),
    });
    if let Some(floor) = floor_bytes {
        findings.push(match rustix::fs::statvfs(&whole) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                disk::space(free, floor, Some((stat.f_favail, stat.f_files)))
            }
            Err(error) => Finding::open("free space", format!("not known: {error}")),
        });
    }
    if found.is_some_and(|place| place.is_dir) {
        findings.push(sync(path, kind.as_deref()));
    }
    findings
}

/// Where the spool of this directory is, if it is a link to elsewhere.
fn linked_spool(dir: &Path) -> Option<PathBuf> {
    let spool = dir.join("spool");
    if spool.is_symlink() { fs::canonicalize(spool).ok() } else { None }
}

/// A directory, or the first thing below it, that belongs to another account, as far as this one may look. Root can use all of
/// it, so only the service would notice.
fn stranger(dir: &Path, owner: u32) -> Option<(PathBuf, u32)> {
    let itself = fs::metadata(dir).ok().filter(|facts| facts.uid() != owner);
    if let Some(facts) = itself {
        return Some((dir.to_owned(), facts.uid()));
    }
    let (mut dirs, mut left) = (vec![(dir.to_owned(), 0)], OWNERS_MAX);
    while let Some((dir, depth)) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            left = left.checked_sub(1)?;
            let Ok(facts) = entry.metadata() else { continue };
            // A link is used whoever it belongs to, and `lost+found` is the file system's.
            if facts.is_symlink() || entry.file_name() == "lost+found" {
                continue;
            }
            if facts.uid() != owner {
                return Some((entry.path(), facts.uid()));
            }
            if facts.is_dir() && depth < OWNERS_DEPTH_MAX {
                dirs.push((entry.path(), depth + 1));
            }
        }
    }
    None
}

/// Times small synced writes.
pub(crate) fn sync(dir: &Path, kind: Option<&str>) -> Finding {
    let path = dir.join(format!(".doctor-{}.tmp", std::process::id()));
    let measured = timed_syncs(&path);
    // Ours, made by the measurement.
    let _ = fs::remove_file(&path);
    match measured {
        Ok(latencies) => disk::sync(&latencies, kind),
        Err(error) => {
            let found = format!("{} cannot be written: {error}", dir.display());
            Finding::bad("disk sync", found, "the service must be able to write there")
        }
    }
}

fn timed_syncs(path: &Path) -> std::io::Result<Vec<u64>> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let started = clock::monotonic();
    let mut latencies = Vec::with_capacity(SYNCS);
    while latencies.len() < SYNCS && clock::monotonic().duration_since(started) < SYNC_PATIENCE {
        file.write_all(&[0x2e; SYNC_BYTES])?;
        let before = clock::monotonic();
        file.sync_data()?;
        let took = clock::monotonic().duration_since(before);
        latencies.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latencies)
}

/// The limit that a service started by this account would get.
pub(crate) fn open_files() -> Finding {
    use rustix::process::{Resource, getrlimit};
    judge::open_files(getrlimit(Resource::Nofile).maximum)
}

/// The clock, against the newest of the files below `dirs` and the system's time service.
pub(crate) async fn clock(dirs: &[PathBuf]) -> Finding {
    let now = clock::wall();
    let newest = dirs.iter().filter_map(|dir| newest(dir)).max();
    judge::clock(now.0, newest, synchronised().await, &time_text(now))
}

/// When the newest file of a directory was written, milliseconds.
fn newest(dir: &Path) -> Option<u64> {
    let times = fs::read_dir(dir).ok()?.take(FILES_MAX).filter_map(|entry| {
        let meta = entry.ok()?.metadata().ok()?;
        u64::try_from(meta.mtime()).ok()?.checked_mul(1000)
    });
    times.max()
}

/// What systemd knows of the time service; `None` where there is no systemd.
async fn synchronised() -> Option<bool> {
    let mut command = Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true);
    let output = tokio::time::timeout(HELPER_PATIENCE, command.output()).await.ok()?.ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}
