//! A deterministic disk in memory, for tests of this crate and of the workspace: power cuts, killed
//! processes, failing operations, full media, decay.
//!
//! It promises to forget: what was not synced may be gone after [`SimDisk::crash`], whole, torn at any
//! 512-byte sector, or out of order; a name is stable only after [`Disk::sync_dir`] of its directory, however
//! often the file itself was synced. Within what POSIX and a drive with a volatile cache allow, it is as nasty
//! as the seed says. It does not model sectors that come back as garbage nobody wrote (use
//! [`SimDisk::flip`]), nor drives that lie about a flush (use [`SimDisk::ignore_syncs`]).
//!
//! Every operation has a number, counted from 0 over the life of the disk, and a plan may fail it or
//! everything from it on. Same calls, same plan, same seeds: same bytes, same trace. A failed write
//! leaves a prefix of itself behind; a failed sync leaves its writes in doubt for ever, as Linux does.
//!
//! A power cut is drawn by a seed ([`SimDisk::crash`]) or spelled out ([`SimDisk::choices`]), and the disk can keep
//! a copy of itself for each operation that changes it ([`SimDisk::start_recording`]), so that a test may look at
//! every moment and at every outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DirEntry, DirLock, Disk, DiskFile};

mod choices;
mod file;
mod image;
mod random;
#[cfg(test)]
mod tests;

use file::SimFile;
use image::Image;
use random::Chance;
pub use random::SplitMix64;

/// Capacity of a disk that was given none, bytes.
const CAPACITY_DEFAULT: u64 = 1 << 40;

/// What a planned failure looks like to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The medium failed (`EIO`).
    Io,
    /// The medium is full (`ENOSPC`).
    Full,
    /// A write or sync says that it worked, and did not: what a program that ignores an error makes of it. Other
    /// operations work. Only for negative controls.
    Silent,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Io | Self::Silent => io::Error::other("simulated input/output error"),
            Self::Full => io::Error::new(io::ErrorKind::StorageFull, "simulated full disk"),
        }
    }
}

type Node = Arc<Mutex<Image>>;
type Names = BTreeMap<String, Node>;

/// One unsynced change of names: each pair is a name and what it leads to afterwards.
#[derive(Clone, Debug)]
struct NameChange {
    entries: Vec<(String, Option<Node>)>,
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        for (name, node) in &self.entries {
            match node {
                Some(node) => names.insert(name.clone(), Arc::clone(node)),
                None => names.remove(name),
            };
        }
    }
}

#[derive(Debug)]
struct State {
    dirs: BTreeSet<String>,
    live: Names,
    stable: Names,
    pending: Vec<NameChange>,
    ops: u64,
    faults: BTreeMap<u64, Fault>,
    freeze_at: Option<u64>,
    trace: Option<Vec<String>>,
    recording: Option<Vec<(u64, SimDisk)>>,
    capacity: u64,
    syncs_ignored: bool,
    /// The operation under way says yes and does nothing.
    silent: bool,
    /// Files of which a write or a sync failed.
    failed: BTreeSet<String>,
    written: u64,
    syncs: u64,
    lock: Arc<AtomicBool>,
}

/// The simulated disk. Clones share it; [`SimDisk::crash`] and [`SimDisk::kill`] give a separate one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = hold(&self.state);
        f.debug_struct("SimDisk").field("ops", &state.ops).field("files", &state.live.len()).finish()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// A test that panicked while holding the lock has failed already: its data is as good as any.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// An empty disk with room for a terabyte, no faults planned, no trace kept.
    #[must_use]
    pub fn new() -> Self {
        Self::with(BTreeSet::new(), Names::new(), Names::new(), Vec::new(), CAPACITY_DEFAULT)
    }

    fn with(
        dirs: BTreeSet<String>,
        live: Names,
        stable: Names,
        pending: Vec<NameChange>,
        capacity: u64,
    ) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                dirs,
                live,
                stable,
                pending,
                ops: 0,
                faults: BTreeMap::new(),
                freeze_at: None,
                trace: None,
                recording: None,
                capacity,
                syncs_ignored: false,
                silent: false,
                failed: BTreeSet::new(),
                written: 0,
                syncs: 0,
                lock: Arc::new(AtomicBool::new(false)),
            })),
        }
    }

    /// What a power cut at this moment may leave behind, chosen by `seed`. This disk goes on unharmed.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let state = hold(&self.state);
        let mut random = SplitMix64::new(seed);
        let mut names = state.stable.clone();
        let chance = Chance::draw(&mut random);
        let cut = random.below(state.pending.len() as u64 + 1) as usize;
        for (at, change) in state.pending.iter().enumerate() {
            let kept = match chance {
                Chance::Nothing => false,
                Chance::All => true,
                Chance::Prefix => at < cut,
                Chance::Each => random.below(2) == 0,
            };
            if kept {
                change.apply(&mut names);
            }
        }
        let names: Names = names
            .into_iter()
            .map(|(name, node)| (name, Arc::new(Mutex::new(hold(&node).after_power_cut(&mut random)))))
            .collect();
        let disk = Self::with(state.dirs.clone(), names.clone(), names, Vec::new(), state.capacity);
        hold(&disk.state).syncs_ignored = state.syncs_ignored;
        disk
    }

    /// What the death of the process at this moment leaves behind: all that was written, still unsynced.
    #[must_use]
    pub fn kill(&self) -> Self {
        hold(&self.state).copy()
    }

    /// Operation `op` fails with `fault`; later ones do not.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        hold(&self.state).faults.insert(op, fault);
    }

    /// Operation `op` and all after it fail: the process stands still, [`SimDisk::crash`] or
    /// [`SimDisk::kill`] is next.
    pub fn freeze_at(&self, op: u64) {
        hold(&self.state).freeze_at = Some(op);
    }

    /// Forgets every planned fault and freeze.
    pub fn clear_plan(&self) {
        let mut state = hold(&self.state);
        state.faults.clear();
        state.freeze_at = None;
    }

    /// Operations so far; the number of the next one.
    #[must_use]
    pub fn ops(&self) -> u64 {
        hold(&self.state).ops
    }

    /// Bytes handed to writes so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        hold(&self.state).written
    }

    /// File syncs that succeeded so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        hold(&self.state).syncs
    }

    /// Begins to describe every operation, see [`SimDisk::take_trace`].
    pub fn start_trace(&self) {
        hold(&self.state).trace.get_or_insert_with(Vec::new);
    }

    /// The descriptions since the last call; empty when no trace is kept.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        hold(&self.state).trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Begins to keep a copy of the disk as it is before each operation that changes it, see
    /// [`SimDisk::take_recording`].
    pub fn start_recording(&self) {
        hold(&self.state).recording.get_or_insert_with(Vec::new);
    }

    /// Numbers of the operations since the last call that changed something, each with the disk before it.
    #[must_use]
    pub fn take_recording(&self) -> Vec<(u64, Self)> {
        hold(&self.state).recording.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Files of which a write or a sync has failed.
    #[must_use]
    pub fn failed_files(&self) -> BTreeSet<String> {
        hold(&self.state).failed.clone()
    }

    /// Bytes that the files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let state = hold(&self.state);
        state.capacity - state.free()
    }

    /// Room for `bytes` in all from now on, counted by the lengths of files.
    pub fn set_capacity(&self, bytes: u64) {
        hold(&self.state).capacity = bytes;
    }

    /// A medium that lies: syncs say yes and do nothing. The negative control of every power-cut test.
    pub fn ignore_syncs(&self) {
        hold(&self.state).syncs_ignored = true;
    }

    /// Flips bit `bit` of byte `offset`, as decay at rest would; false when there is no such byte.
    pub fn flip(&self, file: &str, offset: u64, bit: u8) -> bool {
        hold(&self.state).live.get(file).is_some_and(|node| hold(node).flip(offset, bit))
    }

    /// Names of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        hold(&self.state).live.keys().cloned().collect()
    }

    /// Writes over a file, as decay or a stranger at rest would; the file grows if need be. False when there is none.
    pub fn overwrite(&self, file: &str, offset: u64, bytes: &[u8]) -> bool {
        hold(&self.state).live.get(file).is_some_and(|node| {
            hold(node).overwrite(bytes, offset);
            true
        })
    }

    /// Bytes of a file as a reader sees them now; counts as no operation.
    #[must_use]
    pub fn contents(&self, file: &str) -> Option<Vec<u8>> {
        hold(&self.state).live.get(file).map(|node| hold(node).live().to_vec())
    }

    /// Counts one operation that changes something, and finds out whether it may happen.
    fn change(&self, describe: impl FnOnce() -> String) -> (MutexGuard<'_, State>, io::Result<()>) {
        let mut state = hold(&self.state);
        if state.recording.is_some() {
            let (op, copy) = (state.ops, state.copy());
            state.recording.get_or_insert_with(Vec::new).push((op, copy));
        }
        drop(state);
        self.op(describe)
    }

    /// Counts one operation, and finds out whether it may happen.
    fn op(&self, describe: impl FnOnce() -> String) -> (MutexGuard<'_, State>, io::Result<()>) {
        let mut state = hold(&self.state);
        let op = state.ops;
        state.ops += 1;
        state.silent = state.faults.get(&op) == Some(&Fault::Silent);
        let verdict = if state.freeze_at.is_some_and(|freeze| op >= freeze) {
            Err(io::Error::other("simulated disk is frozen"))
        } else {
            let fault = state.faults.get(&op).filter(|fault| **fault != Fault::Silent);
            fault.map_or(Ok(()), |fault| Err(fault.error()))
        };
        if let Some(trace) = &mut state.trace {
            let mark = if verdict.is_ok() { "" } else { " failed" };
            trace.push(format!("{op} {}{mark}", describe()));
        }
        (state, verdict)
    }
}

impl State {
    /// Another disk in the same state, with nothing planned.
    fn copy(&self) -> SimDisk {
        let mut copies: Vec<(Node, Node)> = Vec::new();
        let mut copy = |node: &Node| -> Node {
            if let Some((_, new)) = copies.iter().find(|(old, _)| Arc::ptr_eq(old, node)) {
                return Arc::clone(new);
            }
            let new = Arc::new(Mutex::new(hold(node).clone()));
            copies.push((Arc::clone(node), Arc::clone(&new)));
            new
        };
        let live = self.live.iter().map(|(name, node)| (name.clone(), copy(node))).collect();
        let stable = self.stable.iter().map(|(name, node)| (name.clone(), copy(node))).collect();
        let mut pending = self.pending.clone();
        for (_, node) in pending.iter_mut().flat_map(|change| &mut change.entries) {
            if let Some(node) = node {
                *node = copy(node);
            }
        }
        let disk = SimDisk::with(self.dirs.clone(), live, stable, pending, self.capacity);
        hold(&disk.state).syncs_ignored = self.syncs_ignored;
        disk
    }

    /// The freeze came with an earlier operation: nothing happens at all any more.
    fn stands_still(&self) -> bool {
        self.freeze_at.is_some_and(|freeze| self.ops > freeze + 1)
    }

    fn free(&self) -> u64 {
        let used = self.live.values().map(|node| hold(node).len()).sum();
        self.capacity.saturating_sub(used)
    }

    /// Refuses growth of a file from `old` to `new` bytes when the medium has no room for it.
    fn grow(&self, old: u64, new: u64) -> io::Result<()> {
        if new.saturating_sub(old) > self.free() { Err(Fault::Full.error()) } else { Ok(()) }
    }

    fn change_names(&mut self, entries: Vec<(String, Option<Node>)>) {
        let change = NameChange { entries };
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn require_parent(&self, name: &str) -> io::Result<()> {
        let parent = parent_of(name);
        if parent.is_empty() || self.dirs.contains(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

/// The directory of a name; empty for one in the root.
fn parent_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[derive(Debug)]
struct SimLock(Arc<AtomicBool>);

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn DirLock>> {
        let (state, verdict) = self.op(|| "lock".to_owned());
        verdict?;
        if state.lock.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock(Arc::clone(&state.lock))))
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let (mut state, verdict) = self.change(|| format!("create_dir {dir}"));
        verdict?;
        let mut name = dir;
        while !name.is_empty() {
            state.dirs.insert(name.to_owned());
            name = parent_of(name);
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let (state, verdict) = self.op(|| format!("list {dir}"));
        verdict?;
        if !dir.is_empty() && !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |(name, node): (&String, &Node)| DirEntry {
            name: name.rsplit('/').next().unwrap_or_default().to_owned(),
            len: hold(node).len(),
        };
        Ok(state.live.iter().filter(|(name, _)| parent_of(name) == dir).map(entry).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, verdict) = self.change(|| format!("create {name}"));
        verdict?;
        state.require_parent(name)?;
        if state.live.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = Node::default();
        state.change_names(vec![(name.to_owned(), Some(Arc::clone(&node)))]);
        Ok(Arc::new(SimFile { disk: self.clone(), name: name.to_owned(), writable: true, node }))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let (state, verdict) = self.op(|| format!("open {name}"));
        verdict?;
        let node = state.live.get(name).ok_or(io::ErrorKind::NotFound)?;
        let node = Arc::clone(node);
        Ok(Arc::new(SimFile { disk: self.clone(), name: name.to_owned(), writable: write, node }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, verdict) = self.change(|| format!("rename {from} {to}"));
        verdict?;
        state.require_parent(to)?;
        let node = state.live.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        state.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(node))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, verdict) = self.change(|| format!("remove {name}"));
        verdict?;
        if !state.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let (mut state, verdict) = self.change(|| format!("sync_dir {dir}"));
        verdict?;
        if state.syncs_ignored || state.silent {
            return Ok(());
        }
        // A rename between directories ties them together: earlier changes of both become stable with it.
        let mut dirs = BTreeSet::from([dir.to_owned()]);
        let mut stay = Vec::new();
        let mut go = Vec::new();
        for change in std::mem::take(&mut state.pending).into_iter().rev() {
            let touched: BTreeSet<_> = change.entries.iter().map(|(n, _)| parent_of(n).to_owned()).collect();
            if dirs.is_disjoint(&touched) {
                stay.push(change);
            } else {
                dirs.extend(touched);
                go.push(change);
            }
        }
        state.pending = stay.into_iter().rev().collect();
        for change in go.into_iter().rev() {
            change.apply(&mut state.stable);
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let (state, verdict) = self.op(|| "free_bytes".to_owned());
        verdict?;
        Ok(state.free())
    }
}
