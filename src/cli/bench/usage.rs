//! What a server costs: CPU time and memory of its processes, from `/proc`, and what its disk writes, from `/sys`.
//!
//! Bytes written are those of the whole block device, with the file system's own, because daemons that come and go
//! take their counters with them. So they are right on a machine that does nothing else.

use std::fs;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::figures::{Outcome, Unit};
use crate::clock;

/// Length of a tick in `/proc/PID/stat`: USER_HZ is 100 on every Linux there is.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process and of all that descend from it, ended ones too.
pub(super) fn of_tree(root: u32) -> Duration {
    TICK * family(root).iter().map(|(_, ticks)| ticks).sum()
}

/// A process and all that descend from it, with their ticks.
fn family(root: u32) -> Vec<(u32, u32)> {
    let mut parents = Vec::new();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ends meanwhile is counted by its parent.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((parent, ticks)) = fields(&stat) {
            parents.push((pid, parent, ticks));
        }
    }
    let mut family: Vec<(u32, u32)> =
        parents.iter().filter(|(pid, ..)| *pid == root).map(|(pid, _, ticks)| (*pid, *ticks)).collect();
    let mut at = 0;
    while let Some(&(pid, _)) = family.get(at) {
        at += 1;
        let children = parents.iter().filter(|(_, parent, _)| *parent == pid);
        family.extend(children.map(|(pid, _, ticks)| (*pid, *ticks)));
    }
    family
}

/// Memory of a process and of all that descend from it, bytes; what they share is counted once (proportional set size).
pub(super) fn memory_of_tree(root: u32) -> u64 {
    family(root).iter().map(|(pid, _)| memory_of_process(*pid)).sum()
}

fn memory_of_process(pid: u32) -> u64 {
    // The load is this program, too: half of what both have of it would be said to be in nobody's memory.
    if let (Ok(program), Ok(ours)) =
        (fs::read_link(format!("/proc/{pid}/exe")), fs::read_link("/proc/self/exe"))
        && program == ours
        && let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps"))
    {
        return memory_alone(&text, &program);
    }
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return 0 };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// What `smaps` says in all, proportional, but the pages of `program` as if nobody else ran it (proc_pid_smaps(5)).
fn memory_alone(smaps: &str, program: &Path) -> u64 {
    let (mut kib, mut wanted) = (0, "Pss:");
    for line in smaps.lines() {
        let mut fields = line.split_whitespace();
        match (fields.next(), fields.next()) {
            (Some(name), Some(value)) if name.ends_with(':') => {
                if name == wanted {
                    kib += value.parse::<u64>().unwrap_or_default();
                }
            }
            // A mapping: range, rights, offset, device, inode, path.
            _ => {
                let path = fields.nth(3).map(Path::new);
                wanted = if path == Some(program) { "Rss:" } else { "Pss:" };
            }
        }
    }
    kib * 1024
}

/// Open descriptors of a process.
pub(super) fn descriptors_of_process(pid: u32) -> u64 {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    u64::try_from(entries.count()).unwrap_or(u64::MAX)
}

/// What files in a directory and below it take of the disk, bytes.
pub(super) fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.st_blocks() * 512,
        // It went meanwhile.
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// The block device below a directory.
#[derive(Clone, Debug)]
pub(super) struct Device {
    directory: PathBuf,
    stat: PathBuf,
}

impl Device {
    /// `None`: it has no block device of its own (a memory file system), or `/sys` does not show it.
    pub(super) fn below(directory: &Path) -> Option<Self> {
        let number = fs::metadata(directory).ok()?.st_dev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        stat.is_file().then(|| Self { directory: directory.to_owned(), stat })
    }

    /// Bytes written since the machine started; what is still in memory is written first.
    pub(super) fn written(&self) -> u64 {
        if let Ok(directory) = fs::File::open(&self.directory) {
            // A failure leaves more for the next reading; there is no other way to ask.
            let _ = rustix::fs::syncfs(directory);
        }
        let text = fs::read_to_string(&self.stat).unwrap_or_default();
        let sectors = text.split_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok());
        sectors.unwrap_or_default() * 512
    }
}

/// Watches a server from one moment to another.
#[derive(Debug)]
pub(super) struct Watch {
    root: u32,
    started: std::time::Instant,
    cpu: Duration,
    device: Option<(Device, u64)>,
    peak: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    sampler: Option<std::thread::JoinHandle<()>>,
}

/// Time between two looks at memory.
const MEMORY_EVERY: Duration = Duration::from_millis(250);

impl Watch {
    /// `root`: the first process of the server. `directory`: on the disk it writes to.
    pub(super) fn start(root: u32, directory: &Path) -> Self {
        let device = Device::below(directory).map(|device| {
            let written = device.written();
            (device, written)
        });
        let (peak, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (most, stop) = (Arc::clone(&peak), Arc::clone(&over));
        let sampler = std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                most.fetch_max(memory_of_tree(root), Ordering::Relaxed);
                std::thread::park_timeout(MEMORY_EVERY);
            }
        });
        let (cpu, started) = (of_tree(root), clock::monotonic());
        Self { root, started, cpu, device, peak, over, sampler: Some(sampler) }
    }

    pub(super) fn elapsed(&self) -> Duration {
        clock::monotonic().duration_since(self.started)
    }

    /// Most memory so far, bytes.
    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Adds what it cost to `outcome`, for `messages` messages in `wall`.
    pub(super) fn finish(mut self, wall: Duration, messages: u64, outcome: &mut Outcome) {
        let cpu = of_tree(self.root).saturating_sub(self.cpu);
        self.peak.fetch_max(memory_of_tree(self.root), Ordering::Relaxed);
        let count = super::count(messages.max(1));
        outcome.figure("messages_per_second", Unit::PerSecond, count / wall.as_secs_f64());
        outcome.figure("cpu_seconds_per_1000", Unit::CpuPerThousand, cpu.as_secs_f64() * 1000.0 / count);
        if let Some((device, before)) = self.device.take() {
            let written = super::count(device.written().saturating_sub(before));
            outcome.figure("bytes_written_per_message", Unit::Bytes, written / count);
        }
        outcome.figure("peak_memory_bytes", Unit::Bytes, super::count(self.peak()));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(sampler) = self.sampler.take() {
            sampler.thread().unpark();
            let _ = sampler.join();
        }
    }
}

/// Parent and ticks (user, system, and both of children) of one `stat` line (proc(5)).
fn fields(stat: &str) -> Option<(u32, u32)> {
    // The command's name is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u32>().ok()).sum::<Option<u32>>()?;
    Some((fields.get(1)?.parse().ok()?, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_counts_whole_and_what_others_share_in_part() {
        let smaps = "55d0-55d9 r-xp 00001000 fe:00 77 /usr/bin/way\nRss:    80 kB\nPss:    40 kB\nPss_Dirty:  9 kB\n\
                     7f00-7f09 r-xp 00000000 fe:00 78 /usr/lib/libc.so.6\nRss:    70 kB\nPss:    5 kB\n\
                     7f10-7f19 rw-p 00000000 00:00 0\nRss:    30 kB\nPss:    30 kB\nVmFlags: rd wr\n\
                     7f20-7f29 rw-p 00000000 00:00 0 [heap]\nRss:    3 kB\nPss:    2 kB\n";
        assert_eq!(memory_alone(smaps, Path::new("/usr/bin/way")), (80 + 5 + 30 + 2) * 1024);
        assert_eq!(memory_alone(smaps, Path::new("/usr/bin/other")), (40 + 5 + 30 + 2) * 1024);
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let line = "7 (a ) b) S 5 7 7 0 -1 4194304 100 0 0 0 11 22 3 4 20 0 1 0 1 1 1";
        assert_eq!(fields(line), Some((5, 40)));
        assert_eq!(fields("7 (x"), None);
    }
}
