//! The lane tree, in a file of its own beside the engine's: new values are written at its end, and memory knows where the
//! last one of each lane is.
//!
//! Why: every message changes its lane. With more lanes than the engine's cache has pages for, that is a page to find and a
//! page to write for each message; here it is one read and one append, and nothing has to be taken back.
//!
//! Promises: what [`LaneFile::stamp`] said counts, and nothing else: [`LaneFile::open`] cuts off what an apply that did not
//! come to its end has left, and refuses a file that is not octet for octet the one the stamp was taken of. Memory is some 16
//! octets for each lane, and 40 more while a copy is made. No lock is held over what a writer does on the disk.
//!
//! On failure: whoever appends gives the index up; a value that does not read back as it was written is damage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::Trouble;
use super::place::sync_dir;
use super::slots::{Slot, Slots};
use crate::index::{Change, Pair};

/// What the file's name begins with; its number follows.
const NAME: &str = "lanes-";
/// Octets of a record before its value: checksum, number of the lane, length of the value.
const HEAD_BYTES: usize = 12;
/// Length of a value that says: removed.
const REMOVED: u32 = u32::MAX;
/// Octets of a key: the number of a lane.
const KEY_BYTES: usize = 4;
/// Octets that are written at once.
const WRITE_BYTES: usize = 256 * 1024;
/// The file may take this much more than three times what counts of it, octets, before it is written anew.
const BLOAT_BYTES: u64 = if cfg!(test) { 256 * 1024 } else { 16 * 1024 * 1024 };
/// See [`BLOAT_BYTES`].
const BLOAT_FACTOR: u64 = 3;

/// How much of which file counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Number of the file.
    pub(super) number: u64,
    /// Its octets.
    pub(super) end: u64,
    /// Checksum over the checksums of its records.
    pub(super) sum: u32,
}

impl Stamp {
    fn pass(&mut self, record: &[u8]) {
        self.end += record.len() as u64;
        self.sum = crc32c::crc32c_append(self.sum, record.get(..4).unwrap_or_default());
    }
}

/// Number of the lane that a key names.
fn lane_of(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_be_bytes)
}

/// The first lane whose key is not less than these octets.
fn least(key: &[u8]) -> u64 {
    let mut lane = [0; KEY_BYTES];
    let len = key.len().min(KEY_BYTES);
    lane[..len].copy_from_slice(&key[..len]);
    u64::from(u32::from_be_bytes(lane)) + u64::from(key.len() > KEY_BYTES)
}

#[derive(Debug)]
struct Now {
    file: Arc<File>,
    stamp: Stamp,
    slots: Slots,
    /// Octets of the records that `slots` names.
    live_bytes: u64,
}

impl Now {
    fn new(file: File, number: u64) -> Self {
        let stamp = Stamp { number, ..Stamp::default() };
        Self { file: Arc::new(file), stamp, slots: Slots::default(), live_bytes: 0 }
    }

    fn set(&mut self, lane: u32, slot: Option<Slot>) {
        let old = self.slots.set(lane, slot);
        self.live_bytes += slot.map_or(0, |slot| u64::from(slot.len));
        self.live_bytes -= old.map_or(0, |old| u64::from(old.len));
    }
}

#[derive(Debug)]
pub(super) struct LaneFile {
    dir: PathBuf,
    now: RwLock<Now>,
}

fn encode(out: &mut Vec<u8>, lane: u32, value: Option<&[u8]>) {
    let begin = out.len();
    out.extend([0; 4]);
    out.extend(lane.to_be_bytes());
    out.extend(value.map_or(REMOVED, |value| value.len() as u32).to_be_bytes());
    out.extend(value.unwrap_or_default());
    let crc = crc32c::crc32c(&out[begin + 4..]);
    out[begin..begin + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Octets of the record that begins with `head`.
fn record_bytes(head: [u8; HEAD_BYTES]) -> u64 {
    let [.., v0, v1, v2, v3] = head;
    let len = u32::from_be_bytes([v0, v1, v2, v3]);
    HEAD_BYTES as u64 + if len == REMOVED { 0 } else { u64::from(len) }
}

/// The lane of a whole record, and whether it has a value; `None`: it is not what was written.
fn decode(record: &[u8]) -> Option<(u32, bool)> {
    let head = record.first_chunk::<HEAD_BYTES>()?;
    let whole = record_bytes(*head) == record.len() as u64;
    let [c0, c1, c2, c3, l0, l1, l2, l3, length @ ..] = *head;
    let holds = [c0, c1, c2, c3] == crc32c::crc32c(&record[4..]).to_be_bytes();
    let lane = u32::from_be_bytes([l0, l1, l2, l3]);
    (whole && holds).then_some((lane, length != REMOVED.to_be_bytes()))
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{NAME}{number}"))
}

fn made(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn damaged() -> Trouble {
    Trouble::Damaged("file of lanes does not add up".to_owned())
}

impl LaneFile {
    /// An empty one.
    pub(super) fn create(dir: &Path) -> Result<Self, Trouble> {
        let now = Now::new(made(&path_of(dir, 0))?, 0);
        Ok(Self { dir: dir.to_owned(), now: RwLock::new(now) })
    }

    /// The one that was there when `stamp` was taken.
    pub(super) fn open(dir: &Path, stamp: Stamp) -> Result<Self, Trouble> {
        let file = OpenOptions::new().read(true).write(true).open(path_of(dir, stamp.number))?;
        let mut now = Now::new(file, stamp.number);
        let file = Arc::clone(&now.file);
        let mut reader = BufReader::with_capacity(WRITE_BYTES, file.take(stamp.end));
        let mut record = Vec::new();
        while now.stamp.end < stamp.end {
            let mut head = [0; HEAD_BYTES];
            reader.read_exact(&mut head)?;
            let (at, len) = (now.stamp.end, record_bytes(head));
            if len > stamp.end - at {
                return Err(damaged());
            }
            record.clear();
            record.extend(head);
            (&mut reader).take(len - HEAD_BYTES as u64).read_to_end(&mut record)?;
            let (lane, has_value) = decode(&record).ok_or_else(damaged)?;
            now.set(lane, has_value.then_some(Slot { at, len: len as u32 }));
            now.stamp.pass(&record);
        }
        if now.stamp != stamp {
            return Err(damaged());
        }
        now.file.set_len(stamp.end)?;
        let lanes = Self { dir: dir.to_owned(), now: RwLock::new(now) };
        lanes.sweep();
        Ok(lanes)
    }

    fn now(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, what: impl FnOnce(&mut Now)) {
        what(&mut self.now.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What counts once this is in the state record, and [`LaneFile::sync`] has returned before.
    pub(super) fn stamp(&self) -> Stamp {
        self.now().stamp
    }

    /// Octets that a copy would take.
    pub(super) fn live_bytes(&self) -> u64 {
        self.now().live_bytes
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(lane) = lane_of(key) else { return Ok(None) };
        let (file, slot) = {
            let now = self.now();
            let Some(slot) = now.slots.get(lane) else { return Ok(None) };
            (Arc::clone(&now.file), slot)
        };
        Ok(Some(read(&file, lane, slot)?))
    }

    /// At most `limit` pairs with `from <= key < to`, in order, or backwards.
    pub(super) fn pairs(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        back: bool,
    ) -> Result<Vec<Pair>, Trouble> {
        let lanes = least(from)..to.map_or(u64::MAX, least);
        let (file, found): (_, Vec<_>) = {
            let now = self.now();
            let range = now.slots.range(lanes);
            let found = if back { range.rev().take(limit).collect() } else { range.take(limit).collect() };
            (Arc::clone(&now.file), found)
        };
        let pair = |(lane, slot): (u32, Slot)| Ok((lane.to_be_bytes().to_vec(), read(&file, lane, slot)?));
        found.into_iter().map(pair).collect()
    }

    /// Writes `changes` behind what is there, and lets readers see them. One at a time may do so.
    pub(super) fn append<'a>(&self, changes: impl Iterator<Item = &'a Change<'a>>) -> Result<(), Trouble> {
        let mut changes = changes.peekable();
        while changes.peek().is_some() {
            let (file, mut stamp) = {
                let now = self.now();
                (Arc::clone(&now.file), now.stamp)
            };
            let (begin, mut bytes, mut slots) = (stamp.end, Vec::with_capacity(WRITE_BYTES), Vec::new());
            while let Some(change) = changes.next_if(|_| bytes.len() < WRITE_BYTES) {
                let lane =
                    lane_of(&change.key).ok_or_else(|| Trouble::Damaged("no key of a lane".to_owned()))?;
                let at = bytes.len();
                encode(&mut bytes, lane, change.value.as_deref());
                let slot = Slot { at: stamp.end, len: (bytes.len() - at) as u32 };
                slots.push((lane, change.value.as_ref().map(|_| slot)));
                stamp.pass(&bytes[at..]);
            }
            file.write_all_at(&bytes, begin)?;
            self.change(|now| {
                slots.into_iter().for_each(|(lane, slot)| now.set(lane, slot));
                now.stamp = stamp;
            });
        }
        Ok(())
    }

    /// The file takes more than its share; where there is room, a copy should be made.
    pub(super) fn is_bloated(&self) -> bool {
        let now = self.now();
        now.stamp.end > BLOAT_BYTES.saturating_add(now.live_bytes.saturating_mul(BLOAT_FACTOR))
    }

    /// Goes on in a file of what counts; the one of before stays until [`LaneFile::sweep`].
    pub(super) fn rewrite(&self) -> Result<(), Trouble> {
        let copy = self.copied(&self.dir, self.stamp().number + 1)?;
        sync_dir(&self.dir)?;
        self.change(|now| *now = copy);
        Ok(())
    }

    /// What counts, in a new file at `dir`.
    pub(super) fn copy_to(&self, dir: &Path) -> Result<Self, Trouble> {
        Ok(Self { dir: dir.to_owned(), now: RwLock::new(self.copied(dir, 0)?) })
    }

    fn copied(&self, dir: &Path, number: u64) -> Result<Now, Trouble> {
        let (file, mut slots): (_, Vec<_>) = {
            let now = self.now();
            (Arc::clone(&now.file), now.slots.range(0..u64::MAX).collect())
        };
        // As they lie in the file, so that it is read from its beginning to its end.
        slots.sort_unstable_by_key(|(_, slot)| slot.at);
        let mut copy = Now::new(made(&path_of(dir, number))?, number);
        let mut bytes = Vec::with_capacity(WRITE_BYTES);
        for (lane, slot) in slots {
            let at = bytes.len();
            encode(&mut bytes, lane, Some(&read(&file, lane, slot)?));
            copy.set(lane, Some(Slot { at: copy.stamp.end, len: slot.len }));
            copy.stamp.pass(&bytes[at..]);
            if bytes.len() >= WRITE_BYTES {
                copy.file.write_all_at(&bytes, copy.stamp.end - bytes.len() as u64)?;
                bytes.clear();
            }
        }
        copy.file.write_all_at(&bytes, copy.stamp.end - bytes.len() as u64)?;
        copy.file.sync_all()?;
        Ok(copy)
    }

    /// What was written so far is stable when this returns.
    pub(super) fn sync(&self) -> io::Result<()> {
        let file = Arc::clone(&self.now().file);
        file.sync_data()
    }

    /// Removes every file but the one that counts; what resists is tried again at the next start.
    pub(super) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let keep = path_of(&self.dir, self.stamp().number);
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(NAME) && path != keep {
                // Only space is at stake.
                fs::remove_file(&path).ok();
            }
        }
    }
}

fn read(file: &File, lane: u32, slot: Slot) -> Result<Vec<u8>, Trouble> {
    let mut record = vec![0; slot.len as usize];
    file.read_exact_at(&mut record, slot.at)?;
    if decode(&record) != Some((lane, true)) {
        return Err(damaged());
    }
    record.drain(..HEAD_BYTES);
    Ok(record)
}

#[cfg(test)]
mod tests;
