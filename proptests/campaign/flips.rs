//! Decay: every byte of the journal gets a wrong bit, and its end gets bytes that nobody wrote.
//!
//! A flip is harmless, or found by the start or by `verify`; it is never served, and what the flipped record did not speak
//! of is as it was, with the index and without it. What lies behind the last record (zeros, noise, copies of real records,
//! a shorter file) changes nothing at all. Controls: damage with a checksum that is right, so that only the comparison of
//! what is served can see it; and the loss of a whole segment, told as one wrong byte.

use spool::disk::sim::{SimDisk, SplitMix64};
use spool::index::memory::MemoryIndex;
use spool::record::{self, HEADER_BYTES, Kind};
use spool::segment::SEGMENT_HEADER_BYTES;

use crate::dice::{draw, small};
use crate::r#gen::{self, IndexFate, Step, Stop};
use crate::rounds::{Campaign, Tally, Violation};
use crate::world::{Cut, Reach, Verdict, World, records, segment_number};

/// Bytes in use of a file, each of which is flipped.
pub(crate) const WHOLE_BYTES_MAX: usize = 12_288;
/// Bytes flipped of a file with more.
pub(crate) const SAMPLES: usize = 512;
/// Ends of the journal that are tried.
const TAILS: u64 = 64;
/// Longest stretch of bytes from nowhere.
const TAIL_BYTES_MAX: u64 = 3000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Flips {
    pub(crate) whole_bytes_max: usize,
    pub(crate) samples: usize,
    pub(crate) all_bits: bool,
}

impl Default for Flips {
    fn default() -> Self {
        Self { whole_bytes_max: WHOLE_BYTES_MAX, samples: SAMPLES, all_bits: false }
    }
}

impl Campaign for Flips {
    fn name(&self) -> &'static str {
        "flips"
    }

    fn command(&self) -> String {
        let all = if self.all_bits { " --all-bits" } else { "" };
        format!("flips --whole-bytes {} --samples {}{all}", self.whole_bytes_max, self.samples)
    }

    fn story(&self, seed: u64, steps: usize) -> Vec<Step> {
        let story = draw(seed, &r#gen::calm(steps));
        if seed.is_multiple_of(4) { story } else { small(story) }
    }

    fn play(&self, seed: u64, steps: &[Step], tally: &mut Tally) -> Result<(), Violation> {
        let mut random = SplitMix64::new(seed);
        let mut world = World::new(seed)?;
        world.run(steps)?;
        torn_ends(&mut world, &mut random, tally)?;
        let cut = at_rest(&mut world)?;
        tally.operations += world.operations();
        tally.committed += cut.committed().items.len() as u64;
        for name in cut.disk.files() {
            let bytes = cut.disk.contents(&name).unwrap_or_default();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
            let whole = used <= self.whole_bytes_max;
            for n in 0..if whole { used } else { self.samples } {
                let offset = if whole { n } else { random.below(used as u64) as usize };
                let bit = random.below(8) as u8;
                for bit in if self.all_bits { 0..8 } else { bit..bit + 1 } {
                    flip(&cut, &name, offset, bit, tally)?;
                }
            }
        }
        Ok(())
    }

    fn broken(&self) -> &'static str {
        "a wrong byte in a body under a checksum that is right, and a wrong byte that takes the rest of its segment along"
    }

    /// Fails when both are noticed.
    fn play_broken(&self, seed: u64, steps: &[Step]) -> Result<(), Violation> {
        let mut world = World::new(seed)?;
        world.run(steps)?;
        let cut = at_rest(&mut world)?;
        let forged = |name: &String| {
            let disk = cut.disk.kill();
            forge(&disk, name);
            judge(&cut, disk, false, &Reach::Everything, &format!("forgery in {name}")).err()
        };
        let emptied = |name: &String| {
            let disk = cut.disk.kill();
            let first = empty(&disk, name)?;
            judge(&cut, disk, true, &cut.reach(name, first), &format!("{name} from byte {first}")).err()
        };
        let names = cut.disk.files();
        match (names.iter().find_map(forged), names.iter().find_map(emptied)) {
            (Some(violation), Some(_)) => Err(violation),
            (Some(_), None) | (None, Some(_)) | (None, None) => Ok(()),
        }
    }
}

/// Stopped in good order, with the records of the story in sealed segments.
fn at_rest(world: &mut World) -> Result<Cut, Violation> {
    world.run(&[Step::Restart { how: Stop::Clean, index: IndexFate::Kept, trouble: None }])?;
    Ok(world.rest()?)
}

fn flip(cut: &Cut, name: &str, offset: usize, bit: u8, tally: &mut Tally) -> Result<(), Violation> {
    tally.cuts += 1;
    for lost in [false, true] {
        let disk = cut.disk.kill();
        disk.flip(name, offset as u64, bit);
        let place = format!("{name}, byte {offset}, bit {bit}, index lost: {lost}");
        let verdict = judge(cut, disk, lost, &cut.reach(name, offset), &place)?;
        tally.images += 1;
        match verdict {
            Verdict::Harmless => tally.harmless += 1,
            Verdict::Found | Verdict::Refused => tally.found += 1,
        }
    }
    Ok(())
}

fn judge(cut: &Cut, disk: SimDisk, lost: bool, reach: &Reach, place: &str) -> Result<Verdict, Violation> {
    let index = MemoryIndex::new();
    if !lost {
        index.restore(cut.index.as_ref().clone());
    }
    let mut world = World::after(cut, disk, index);
    world.judge(reach).map_err(|why| Violation::in_world(place, &why, &world))
}

/// Bytes behind the last record after a kill: the next start must not take them for anything.
fn torn_ends(world: &mut World, random: &mut SplitMix64, tally: &mut Tally) -> Result<(), Violation> {
    world.run(&[Step::Commit])?;
    let cut = world.here();
    let Some((name, end)) = world.end_of_journal()? else { return Ok(()) };
    let bytes = cut.disk.contents(&name).unwrap_or_default();
    for n in 0..TAILS {
        let disk = cut.disk.kill();
        let length = 1 + random.below(TAIL_BYTES_MAX) as usize;
        let tail: Vec<u8> = match n % 4 {
            0 => (0..length).map(|_| random.next() as u8).collect(),
            1 => vec![0; length],
            // What was written before, once more: lengths and checksums are right, the place is not.
            2 => bytes[end.saturating_sub(length)..end].to_vec(),
            // The beginning of the next batch, as far as a cut may have let it get, of another life of the file.
            _ => bytes[SEGMENT_HEADER_BYTES as usize..end].iter().copied().take(length).collect(),
        };
        disk.overwrite(&name, end as u64, &tail);
        let index = MemoryIndex::new();
        if n % 8 < 4 {
            index.restore(cut.index.as_ref().clone());
        }
        let mut after = World::after(&cut, disk, index);
        tally.cuts += 1;
        tally.images += 1;
        after.open().map_err(|why| {
            let place = format!("{length} bytes, kind {}, behind byte {end} of {name}", n % 4);
            Violation::in_world(&place, &why, &after)
        })?;
        tally.harmless += 1;
    }
    Ok(())
}

/// Changes the last byte of each body in this segment and makes the checksum right again.
fn forge(disk: &SimDisk, name: &str) {
    let Some(number) = segment_number(name) else { return };
    let bytes = disk.contents(name).unwrap_or_default();
    for (range, kind, payload) in records(number, &bytes) {
        let Some(head) =
            bytes.get(range.start..range.start + HEADER_BYTES).and_then(|head| head.try_into().ok())
        else {
            return;
        };
        if kind == Kind::BodyChunk && payload.len() > 64 {
            let mut payload = payload.to_vec();
            if let Some(last) = payload.last_mut() {
                *last ^= 1;
            }
            let crc = record::seal(record::payload_crc(World::CHECKSUM_SEED, &payload), head);
            payload.extend(crc.to_le_bytes());
            disk.overwrite(name, (range.start + HEADER_BYTES) as u64, &payload);
        }
    }
}

/// Makes zeros of all records of this segment; where the first of them was.
fn empty(disk: &SimDisk, name: &str) -> Option<usize> {
    let bytes = disk.contents(name).unwrap_or_default();
    let (first, ..) = records(segment_number(name)?, &bytes).next()?;
    disk.overwrite(name, first.start as u64, &vec![0; bytes.len() - first.start]);
    Some(first.start)
}
