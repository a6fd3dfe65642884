//! PURE: a block of entries as the index keeps it, without what neighbours have in common.
//!
//! Entries of a block were accepted one after the other, and most of them are still in their first state: a third of the
//! bytes says the same. In memory blocks stay as they are, so that a change is a write of a few bytes in place.

use bincode::config;

use super::{BLOCK_ITEMS, ENTRY_BYTES, Entry};
use crate::error::SpoolError;
use crate::ids::{Lsn, WallMs};

/// Stands for a slot without an entry; states begin at 1.
const NOTHING: u8 = 0;

/// One entry behind its state and flags: overhead, size, segment of its item record (less the one of the entry before) and
/// the offset there, first segment (less the item record's), segment and offset of the state record (less the item
/// record's), time of acceptance (less the one before) and of the last change (less the acceptance).
type Fields = (u16, u32, i64, u32, i64, i64, i64, i64, i64);

fn lsn(segment: i64, offset: i64) -> Option<Lsn> {
    Some(Lsn::at(u32::try_from(segment).ok()?, u32::try_from(offset).ok()?))
}

/// What the next entry is told relative to.
#[derive(Clone, Copy, Default)]
struct Before {
    segment: u32,
    accepted: u64,
}

impl Before {
    fn fields(&mut self, entry: &Entry) -> Fields {
        let (segment, offset) = (entry.item_lsn.segment(), entry.item_lsn.offset());
        let less = |a: u32, b: u32| i64::from(a) - i64::from(b);
        let fields = (
            entry.overhead_bytes,
            entry.size_bytes,
            less(segment, self.segment),
            offset,
            less(entry.first_segment, segment),
            less(entry.state_lsn.segment(), segment),
            less(entry.state_lsn.offset(), offset),
            entry.accepted_at.0.wrapping_sub(self.accepted) as i64,
            entry.changed_at.0.wrapping_sub(entry.accepted_at.0) as i64,
        );
        *self = Self { segment, accepted: entry.accepted_at.0 };
        fields
    }

    fn entry(&mut self, state: u8, flags: u8, fields: Fields) -> Option<Entry> {
        let (
            overhead_bytes,
            size_bytes,
            segment,
            offset,
            first,
            state_segment,
            state_offset,
            accepted,
            changed,
        ) = fields;
        let segment = i64::from(self.segment).checked_add(segment)?;
        let accepted = self.accepted.wrapping_add(accepted as u64);
        *self = Self { segment: u32::try_from(segment).ok()?, accepted };
        Some(Entry {
            state: super::state_from_code(state)?,
            size_bytes,
            overhead_bytes,
            first_segment: u32::try_from(segment.checked_add(first)?).ok()?,
            item_lsn: lsn(segment, i64::from(offset))?,
            state_lsn: lsn(
                segment.checked_add(state_segment)?,
                i64::from(offset).checked_add(state_offset)?,
            )?,
            accepted_at: WallMs(accepted),
            changed_at: WallMs(accepted.wrapping_add(changed as u64)),
            outbound: super::outbound_of(flags),
        })
    }
}

/// The bytes of a block for the index.
#[must_use]
pub(crate) fn pack(block: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len() / 2);
    let mut before = Before::default();
    for slot in block.chunks_exact(ENTRY_BYTES) {
        let Some(entry) = Entry::decode(slot) else {
            out.push(NOTHING);
            continue;
        };
        out.extend_from_slice(&slot[..2]);
        // Writing to a vector does not fail.
        let _ = bincode::encode_into_std_write(before.fields(&entry), &mut out, config::standard());
    }
    out
}

/// The block that was packed.
///
/// # Errors
/// [`SpoolError::Index`]: the bytes are none.
pub(crate) fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, SpoolError> {
    unpack(bytes).ok_or_else(|| SpoolError::Index("block does not decode".to_owned()))
}

fn unpack(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() * 3);
    let mut before = Before::default();
    while let Some((state, rest)) = bytes.split_first() {
        if out.len() == BLOCK_ITEMS as usize * ENTRY_BYTES {
            return None;
        }
        if *state == NOTHING {
            out.extend_from_slice(&[0; ENTRY_BYTES]);
            bytes = rest;
            continue;
        }
        let (flags, rest) = rest.split_first()?;
        let (fields, len) = bincode::decode_from_slice::<Fields, _>(rest, config::standard()).ok()?;
        out.extend_from_slice(&before.entry(*state, *flags, fields)?.encode());
        bytes = rest.get(len..)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SplitMix64;
    use crate::entry::{Outbound, put, remove, state_from_code};
    use crate::ids::Seq;

    /// An entry of any kind; `wild`: of values that no spool has.
    fn entry(random: &mut SplitMix64, wild: bool) -> Entry {
        let mut below = |most: u64| random.below(most);
        let segment = if wild { below(1 << 32) } else { 7 + below(3) };
        let item_lsn = Lsn::at(segment as u32, below(1 << 32) as u32);
        let accepted = if wild { below(u64::MAX) } else { 1_800_000_000_000 + below(100_000) };
        let same = below(2) == 0;
        Entry {
            state: state_from_code(1 + below(10) as u8).unwrap(),
            size_bytes: below(1 << 32) as u32,
            overhead_bytes: below(1 << 16) as u16,
            first_segment: if wild { below(1 << 32) as u32 } else { segment as u32 - below(3) as u32 },
            item_lsn,
            state_lsn: if same { item_lsn } else { Lsn(below(u64::MAX)) },
            accepted_at: WallMs(accepted),
            changed_at: WallMs(if same { accepted } else { below(u64::MAX) }),
            outbound: (below(3) == 0).then(|| Outbound { attempts: below(64) as u8, told: below(2) == 0 }),
        }
    }

    #[test]
    fn blocks_come_back_byte_for_byte() {
        let mut random = SplitMix64::new(4);
        assert_eq!(unpack(&pack(&[])), Some(Vec::new()));
        for round in 0..2000 {
            let mut block = Vec::new();
            for _ in 0..random.below(90) {
                let seq = Seq(random.below(BLOCK_ITEMS));
                if random.below(5) == 0 {
                    remove(&mut block, seq);
                } else {
                    put(&mut block, seq, entry(&mut random, round % 2 == 0));
                }
            }
            assert_eq!(unpack(&pack(&block)), Some(block));
        }
    }

    #[test]
    fn what_was_accepted_one_after_the_other_takes_less_than_half() {
        let mut block = Vec::new();
        for n in 0..BLOCK_ITEMS {
            let lsn = Lsn::at(9, n as u32 * 5000);
            let entry = Entry {
                state: crate::types::State::Ready,
                size_bytes: 4096,
                overhead_bytes: 400,
                first_segment: 9,
                item_lsn: lsn,
                state_lsn: lsn,
                accepted_at: WallMs(1_800_000_000_000 + n * 1000),
                changed_at: WallMs(1_800_000_000_000 + n * 1000),
                outbound: None,
            };
            put(&mut block, Seq(n), entry);
        }
        assert!(pack(&block).len() * 2 < block.len(), "{}", pack(&block).len());
    }

    #[test]
    fn bytes_that_are_no_block_are_refused_and_nothing_panics() {
        let mut random = SplitMix64::new(5);
        let mut block = Vec::new();
        (0..BLOCK_ITEMS).for_each(|n| put(&mut block, Seq(n), entry(&mut random, false)));
        let packed = pack(&block);
        assert_eq!(unpack(&[packed.as_slice(), &[NOTHING]].concat()), None, "one slot too many");
        assert_eq!(unpack(&[11, 0]), None);
        for _ in 0..3000 {
            let mut bytes = packed[..random.below(packed.len() as u64) as usize].to_vec();
            for _ in 0..random.below(4) {
                if let Some(byte) = bytes.get_mut(random.below(2800) as usize) {
                    *byte = random.next() as u8;
                }
            }
            if let Some(block) = unpack(&bytes) {
                assert_eq!(unpack(&pack(&block)), Some(block));
            }
        }
    }
}
