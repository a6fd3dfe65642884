//! One simulated file: what is stable, what is only in the page cache, and what a power cut may make of it.
//!
//! The cache is modelled per sector, because that is what a drive writes whole: each unsynced write leaves a
//! new version of every sector it touches, and after a power cut a sector is any one of its versions, or the
//! stable one. Sectors choose independently of one another, so writes may be torn, lost and reordered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    bytes: Arc<[u8]>,
}

/// Contents and length of one file, in both worlds. Bytes are shared by copies until one of them changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    stable: Arc<Vec<u8>>,
    live: Arc<Vec<u8>>,
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
        let live = Arc::make_mut(&mut self.live);
        if end > live.len() {
            live.resize(end, 0);
            self.lengths.push(end as u64);
        }
        live[start..end].copy_from_slice(bytes);
        self.remember(start as u64, end as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let old = self.len();
        if len == old {
            return;
        }
        Arc::make_mut(&mut self.live).resize(len as usize, 0);
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
                bytes: bytes.into(),
            });
        }
    }

    /// A sync that succeeded: all but what an earlier failed sync gave up is stable.
    pub(super) fn sync(&mut self) {
        self.lengths.clear();
        let doubtful = |versions: &Vec<Version>| versions.last().is_some_and(|version| version.doubtful);
        if !self.sectors.values().any(doubtful) {
            self.sectors.clear();
            self.stable = Arc::clone(&self.live);
            return;
        }
        let (stable, live) = (Arc::make_mut(&mut self.stable), &self.live);
        stable.resize(live.len(), 0);
        self.sectors.retain(|&sector, versions| {
            if doubtful(versions) {
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
        if position >= self.live.len() {
            return false;
        }
        Arc::make_mut(&mut self.live)[position] ^= mask;
        if let Some(byte) = Arc::make_mut(&mut self.stable).get_mut(position) {
            *byte ^= mask;
        }
        for version in self.sectors.get_mut(&(offset / SECTOR)).into_iter().flatten() {
            let mut bytes = version.bytes.to_vec();
            bytes[position % SECTOR as usize] ^= mask;
            version.bytes = bytes.into();
        }
        true
    }

    /// Writes over what is there in every world, as decay at rest would.
    pub(super) fn overwrite(&mut self, bytes: &[u8], offset: u64) {
        self.write(bytes, offset);
        self.sectors.clear();
        self.lengths.clear();
        self.stable = Arc::clone(&self.live);
    }

    /// In how many ways the length may go, then each sector that has unsynced versions.
    pub(super) fn choices(&self) -> impl Iterator<Item = u32> + '_ {
        let lengths = self.possible_lengths().len() as u32;
        std::iter::once(lengths).chain(self.sectors.values().map(|versions| versions.len() as u32 + 1))
    }

    fn possible_lengths(&self) -> BTreeSet<u64> {
        self.lengths.iter().copied().chain([self.stable.len() as u64]).collect()
    }

    /// What a power cut makes of this file that decides as `picks` says, in the order of [`Image::choices`]; the
    /// oldest version is 0.
    pub(super) fn after_choices(&self, picks: &mut impl Iterator<Item = u32>) -> Self {
        let pick = picks.next().unwrap_or(0) as usize;
        let length = self.possible_lengths().into_iter().nth(pick).unwrap_or(self.stable.len() as u64);
        let mut kept = self.sectors.iter().map(|(&sector, versions)| {
            let version = picks.next().unwrap_or(0).checked_sub(1);
            (sector, version.and_then(|n| versions.get(n as usize)))
        });
        self.with(length, &mut kept)
    }

    /// The stable bytes with these versions of sectors, cut or extended to `length`.
    fn with(&self, length: u64, kept: &mut dyn Iterator<Item = (u64, Option<&Version>)>) -> Self {
        let mut bytes = Arc::clone(&self.stable);
        let held = (length as usize).max(self.stable.len());
        for (sector, version) in kept {
            let Some(version) = version else { continue };
            let bytes = Arc::make_mut(&mut bytes);
            bytes.resize(held, 0);
            let start = (sector * SECTOR) as usize;
            let end = (start + version.bytes.len()).min(held);
            if start < end {
                bytes[start..end].copy_from_slice(&version.bytes[..end - start]);
            }
        }
        if bytes.len() != length as usize {
            Arc::make_mut(&mut bytes).resize(length as usize, 0);
        }
        Self { stable: Arc::clone(&bytes), live: bytes, ..Self::default() }
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
        let mut kept = self.sectors.iter().map(|(&sector, versions)| {
            let kept = versions.iter().rev().find(|version| {
                let whole = match chance {
                    Chance::Nothing => false,
                    Chance::All => true,
                    Chance::Prefix => version.write <= cut,
                    Chance::Each => SplitMix64::new(salt ^ version.write).below(2) == 0,
                };
                whole && !(torn && random.below(4) == 0)
            });
            (sector, kept)
        });
        self.with(length, &mut kept)
    }
}

/// The bytes of one sector, short at the end of the file, empty beyond it.
fn sector_of(bytes: &[u8], sector: u64) -> &[u8] {
    let start = ((sector * SECTOR) as usize).min(bytes.len());
    let end = (start + SECTOR as usize).min(bytes.len());
    &bytes[start..end]
}
