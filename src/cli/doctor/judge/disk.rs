//! PURE: directories, file systems, and what a disk's speed says about it.

use std::path::Path;

use super::super::super::screen;
use super::super::finding::Finding;

/// Below this median a sync cannot have reached a disk, microseconds: even fast flash with a capacitor takes longer.
const SYNC_IMPOSSIBLE_US: u64 = 50;
/// Above this a sync holds up mail, microseconds.
const SYNC_SLOW_US: u64 = 200_000;
/// File systems that live on another machine, and may lose or reorder what was synced.
const NETWORK: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.rclone",
    "afs",
    "virtiofs",
    "vboxsf",
];
/// File systems in memory.
const MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// Part of the inodes that should be free, as a divisor.
const INODES_FREE_PART: u64 = 50;

/// What is known of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// It is a directory.
    pub(crate) is_dir: bool,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Number of its owner.
    pub(crate) owner: u32,
    /// Number of whoever asks.
    pub(crate) me: u32,
}

/// A directory for secrets and mail; `None`: there is none.
pub(crate) fn directory(check: &str, path: &Path, place: Option<Place>) -> Finding {
    let at = path.display();
    let Some(place) = place else {
        return Finding::open(check, format!("{at} is not there yet; the first start makes it"));
    };
    if !place.is_dir {
        return Finding::bad(check, format!("{at} is no directory"), "name another one");
    }
    if place.mode & 0o077 != 0 {
        let found = format!("{at}, mode {:04o}", place.mode & 0o7777);
        let advice = format!("other accounts of this machine can look in: chmod 700 {at}");
        return Finding::bad(check, found, advice);
    }
    if place.mode & 0o700 != 0o700 {
        let found = format!("{at}, mode {:04o}", place.mode & 0o7777);
        return Finding::bad(check, found, format!("its owner cannot use it: chmod 700 {at}"));
    }
    // Root looks after everybody.
    if place.me != 0 && place.owner != place.me {
        let found = format!("{at} belongs to account {}, and this is {}", place.owner, place.me);
        return Finding::bad(check, found, "ask as the account that the service runs as");
    }
    Finding::good(check, format!("{at}, mode {:04o}, owner {}", place.mode & 0o7777, place.owner))
}

/// Something in the data directory, or in the spool that it links to, that belongs to another account than the data directory,
/// which is the one that the service runs as. `path` is which of the two.
pub(crate) fn stranger(path: &Path, owner: u32, stranger: &Path, its_owner: u32) -> Finding {
    let found = format!("{} belongs to account {its_owner}, not {owner}", stranger.display());
    let advice = format!(
        "the service may not be able to use it, and then does not start: chown -R -h {owner} {}",
        path.display()
    );
    Finding::bad("owners", found, advice)
}

/// Where a path lies: mount point and kind, from `/proc/self/mountinfo`.
pub(crate) fn mount_of(mountinfo: &str, path: &Path) -> Option<(String, String)> {
    let mount = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let point = unescape(front.split(' ').nth(4)?);
        let kind = back.split(' ').next()?.to_owned();
        path.starts_with(&point).then_some((point, kind))
    };
    // Later mounts hide earlier ones at the same place.
    mountinfo
        .lines()
        .filter_map(mount)
        .enumerate()
        .max_by_key(|(n, (point, _))| (point.len(), *n))
        .map(|(_, m)| m)
}

/// Blanks and backslashes stand as octal numbers in there.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

/// The kind of the file system.
pub(crate) fn file_system(kind: &str) -> Finding {
    if MEMORY.contains(&kind) {
        return Finding::warn(
            "file system",
            format!("{kind}, in memory"),
            "all mail is gone after a restart of the machine: use a disk, unless this is a test",
        );
    }
    if NETWORK.contains(&kind) || kind.starts_with("fuse.") {
        return Finding::warn(
            "file system",
            format!("{kind}, on another machine"),
            "what was synced there may be lost when the other side fails: use a local disk",
        );
    }
    if kind == "overlay" {
        return Finding::warn(
            "file system",
            "overlay, the layer of a container",
            "mail is gone with the container: mount a volume at the data directory",
        );
    }
    Finding::good("file system", kind)
}

/// Free space and inodes against the floor.
pub(crate) fn space(free_bytes: u64, floor_bytes: u64, inodes: Option<(u64, u64)>) -> Finding {
    let free = screen::bytes(free_bytes);
    let floor = screen::bytes(floor_bytes);
    let advice = "make room, or lower spool.min_free_bytes; below the floor senders get 452";
    if free_bytes < floor_bytes {
        return Finding::bad("free space", format!("{free}, below the floor of {floor}"), advice);
    }
    if let Some((free_inodes, all)) = inodes.filter(|(_, all)| *all > 0) {
        if free_inodes == 0 {
            return Finding::bad(
                "free space",
                format!("{free}, and no inode"),
                "remove small files, or make a file system with more inodes",
            );
        }
        if free_inodes < all / INODES_FREE_PART {
            let found = format!("{free}, and {free_inodes} of {all} inodes");
            return Finding::warn(
                "free space",
                found,
                "remove small files: without inodes no segment can be made",
            );
        }
    }
    if free_bytes / 2 < floor_bytes {
        return Finding::warn("free space", format!("{free}, near the floor of {floor}"), advice);
    }
    Finding::good("free space", format!("{free}, floor {floor}"))
}

/// Median and 99th percentile.
pub(crate) fn percentiles(latencies_us: &[u64]) -> Option<(u64, u64)> {
    let mut sorted = latencies_us.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get((sorted.len().saturating_sub(1) * percent).div_ceil(100)).copied();
    Some((at(50)?, at(99)?))
}

/// What small synced writes took.
pub(crate) fn sync(latencies_us: &[u64], kind: Option<&str>) -> Finding {
    let Some((p50, p99)) = percentiles(latencies_us) else {
        return Finding::open("disk sync", "not measured");
    };
    let found = format!("p50 {}, p99 {} over {} writes", time(p50), time(p99), latencies_us.len());
    if kind.is_some_and(|kind| MEMORY.contains(&kind)) {
        return Finding::open("disk sync", format!("{found}, in memory"));
    }
    if p50 < SYNC_IMPOSSIBLE_US {
        return Finding::warn(
            "disk sync",
            found,
            "no disk is that fast: it answers before data is stable (a volatile cache, a virtual disk with cache=unsafe), so a power cut can lose mail that was acknowledged",
        );
    }
    if p50 > SYNC_SLOW_US {
        return Finding::warn(
            "disk sync",
            found,
            "every commit waits that long: use a faster disk, or find out what else uses this one",
        );
    }
    Finding::good("disk sync", found)
}

fn time(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}
