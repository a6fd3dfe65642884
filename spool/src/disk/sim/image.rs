//! One simulated file: what is stable, what is only in the page cache, and what a power cut may make of it.
//!
//! The cache is modelled per sector, because that is what a drive writes whole: each unsynced write leaves a
//! new version of every sector it touches, and after a power cut a sector is any one of its versions, or the
//! stable one. Sectors choose independently of one another, so writes may be torn, lost and reordered.

use std::collections::BTreeMap;

use super::random::{Chance, SplitMix64};

/// What a drive writes whole or not at all, bytes.
pub(super) const SECTOR: u64 = 512;

/// One unsynced state of a sector.
#[derive(Clone, Debug)]
struct Version {
    /// Which write made it; writes are kept or lost as a whole before sectors are torn.
    write: u64,
    /// A sync of it failed: later syncs do not store it, as Linux marks such pages clean.
    doubtful: bool,
    bytes: Vec<u8>,
}

/// Contents and length of one file, in both worlds.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    stable: Vec<u8>,
    live: Vec<u8>,
    /// Unsynced versions by sector number, oldest first.
    sectors: BTreeMap<u64, Vec<Version>>,
    /// Lengths since the last sync, oldest first.
    lengths: Vec<u64>,
    writes: u64,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.live.len() as u64
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match start.checked_add(buf.len()).and_then(|end| self.live.get(start..end)) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let start = offset as usize;
        let end = start + bytes.len();
        if end > self.live.len() {
            self.live.resize(end, 0);
            self.lengths.push(end as u64);
        }
        self.live[start..end].copy_from_slice(bytes);
        self.remember(start as u64, end as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let old = self.len();
        if len == old {
            return;
        }
        self.live.resize(len as usize, 0);
        self.lengths.push(len);
        if len < old {
            // What was cut off reads as zeros when the file grows again.
            self.remember(len, old);
        }
    }

    /// Adds the present bytes of the sectors of `start..end` as a new version.
    fn remember(&mut self, start: u64, end: u64) {
        self.writes += 1;
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            let mut bytes = sector_of(&self.live, sector).to_vec();
            bytes.resize(SECTOR as usize, 0);
            self.sectors.entry(sector).or_default().push(Version {
                write: self.writes,
                doubtful: false,
                bytes,
            });
        }
    }

    /// A sync that succeeded: all but what an earlier failed sync gave up is stable.
    pub(super) fn sync(&mut self) {
        self.stable.resize(self.live.len(), 0);
        self.lengths.clear();
        let (stable, live) = (&mut self.stable, &self.live);
        self.sectors.retain(|&sector, versions| {
            if versions.last().is_some_and(|version| version.doubtful) {
                return true;
            }
            let from = sector_of(live, sector);
            let start = (sector * SECTOR) as usize;
            if let Some(to) = stable.get_mut(start..start + from.len()) {
                to.copy_from_slice(from);
            }
            false
        });
    }

    /// A sync that failed: whatever was in flight may be stored or not, and nobody will try again.
    pub(super) fn fail_sync(&mut self) {
        self.sectors.values_mut().flatten().for_each(|version| version.doubtful = true);
    }

    /// Changes one bit in every world, as decay at rest would.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let mask = 1u8 << (bit % 8);
        let position = offset as usize;
        let Some(byte) = self.live.get_mut(position) else { return false };
        *byte ^= mask;
        if let Some(byte) = self.stable.get_mut(position) {
            *byte ^= mask;
        }
        for version in self.sectors.get_mut(&(offset / SECTOR)).into_iter().flatten() {
            if let Some(byte) = version.bytes.get_mut(position % SECTOR as usize) {
                *byte ^= mask;
            }
        }
        true
    }

    /// What this file may be after the power went.
    pub(super) fn after_power_cut(&self, random: &mut SplitMix64) -> Self {
        let mut lengths = vec![self.stable.len() as u64];
        lengths.extend(&self.lengths);
        let chance = Chance::draw(random);
        let length = match chance {
            Chance::Nothing => lengths[0],
            Chance::All => self.len(),
            Chance::Prefix | Chance::Each => lengths[random.below(lengths.len() as u64) as usize],
        };
        // Writes are kept or lost first, then half of the cuts tear what was kept sector by sector.
        let cut = random.below(self.writes + 1);
        let salt = random.next();
        let torn = chance != Chance::All && random.below(2) == 0;
        let mut bytes = self.stable.clone();
        bytes.resize((length as usize).max(self.stable.len()), 0);
        for (&sector, versions) in &self.sectors {
            let kept = versions.iter().rev().find(|version| {
                let whole = match chance {
                    Chance::Nothing => false,
                    Chance::All => true,
                    Chance::Prefix => version.write <= cut,
                    Chance::Each => SplitMix64::new(salt ^ version.write).below(2) == 0,
                };
                whole && !(torn && random.below(4) == 0)
            });
            if let Some(version) = kept {
                let start = (sector * SECTOR) as usize;
                let end = (start + version.bytes.len()).min(bytes.len());
                if start < end {
                    bytes[start..end].copy_from_slice(&version.bytes[..end - start]);
                }
            }
        }
        bytes.resize(length as usize, 0);
        Self { stable: bytes.clone(), live: bytes, ..Self::default() }
    }
}

/// The bytes of one sector, short at the end of the file, empty beyond it.
fn sector_of(bytes: &[u8], sector: u64) -> &[u8] {
    let start = ((sector * SECTOR) as usize).min(bytes.len());
    let end = (start + SECTOR as usize).min(bytes.len());
    &bytes[start..end]
}
