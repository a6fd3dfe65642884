//! PURE: what the index knows about itself, so that a damaged or half-written one is noticed.
//!
//! The engine checks single pages but may lose whole ones without a word. So the state record counts all
//! its pairs and carries the sum of a hash of each; opening adds them up again. Changes of one apply are
//! preceded by their old values, so that an apply cut off half-way is rolled back to the last state record.

use super::lanes::Stamp;
use crate::index::Tree;

/// Bytes of an encoded [`StateRecord`].
const STATE_BYTES: usize = 70;
/// First byte of an encoded [`StateRecord`].
const VERSION: u8 = 2;
/// Bytes of an [`Undo`] before its key: tree, whether there was a value, lengths of key and value.
const UNDO_HEAD_BYTES: usize = 10;
/// Bytes of a frame before its entries: apply, length, checksum.
const FRAME_HEAD_BYTES: usize = 16;

/// Sum over pairs, whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    /// Number of pairs.
    pub(super) count: u64,
    /// Bytes of keys and values.
    pub(super) bytes: u64,
    sum: u64,
}

impl Digest {
    pub(super) fn add(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_add(hash(tree, key, value));
    }

    pub(super) fn take(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_sub(hash(tree, key, value));
    }
}

/// A checksum of one pair, spread over 64 bits: it has to notice accidents, not attackers.
fn hash(tree: Tree, key: &[u8], value: &[u8]) -> u64 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), value);
    let mut z = (u64::from(crc) << 32) ^ (value.len() as u64) ^ ((key.len() as u64) << 20) ^ number(tree);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn number(tree: Tree) -> u64 {
    Tree::ALL.iter().position(|other| *other == tree).map_or(0, |at| at as u64)
}

/// What is true after the last apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateRecord {
    /// Number of applies so far; undo entries of `round + 1` belong to one that was cut off.
    pub(super) round: u64,
    /// Up to which lsn the journal was applied.
    pub(super) applied: Option<u64>,
    /// Sum over all pairs of the engine.
    pub(super) digest: Digest,
    /// Where the lanes are.
    pub(super) lanes: Stamp,
}

impl StateRecord {
    pub(super) fn encode(&self) -> [u8; STATE_BYTES] {
        let mut out = [0; STATE_BYTES];
        out[0] = VERSION;
        out[1] = u8::from(self.applied.is_some());
        let (digest, lanes) = (self.digest, self.lanes);
        let words = [
            self.round,
            self.applied.unwrap_or(0),
            digest.count,
            digest.bytes,
            digest.sum,
            lanes.number,
            lanes.end,
            u64::from(lanes.sum),
        ];
        for (at, word) in words.iter().enumerate() {
            out[2 + 8 * at..10 + 8 * at].copy_from_slice(&word.to_be_bytes());
        }
        let crc = crc32c::crc32c(&out[..STATE_BYTES - 4]);
        out[STATE_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// `None` when the bytes are no state record, `Some(None)` when they are one of another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Option<Self>> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if *crc != crc32c::crc32c(body).to_be_bytes() {
            return None;
        }
        if *body.first()? != VERSION {
            return Some(None);
        }
        let body: &[u8; STATE_BYTES - 4] = body.try_into().ok()?;
        if body[1] > 1 {
            return None;
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&body[2 + 8 * at..10 + 8 * at]);
            u64::from_be_bytes(word)
        };
        let sum = u32::try_from(word(7)).ok()?;
        Some(Some(Self {
            round: word(0),
            applied: (body[1] == 1).then(|| word(1)),
            digest: Digest { count: word(2), bytes: word(3), sum: word(4) },
            lanes: Stamp { number: word(5), end: word(6), sum },
        }))
    }
}

/// What one key led to before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undo {
    pub(super) tree: Tree,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

impl Undo {
    /// Adds to `out` that `key` led to `value`.
    pub(super) fn append(out: &mut Vec<u8>, tree: Tree, key: &[u8], value: Option<&[u8]>) {
        out.extend([number(tree) as u8, u8::from(value.is_some())]);
        out.extend((key.len() as u32).to_be_bytes());
        out.extend((value.map_or(0, <[u8]>::len) as u32).to_be_bytes());
        out.extend(key);
        out.extend(value.unwrap_or_default());
    }

    /// Takes the first entry off `bytes`; `None` when there is none.
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<UNDO_HEAD_BYTES>()?;
        let tree = *Tree::ALL.get(usize::from(head[0]))?;
        let len =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (key, rest) = rest.split_at_checked(len(2))?;
        let (value, rest) = rest.split_at_checked(len(6))?;
        *bytes = rest;
        Some(Self { tree, key: key.to_vec(), value: (head[1] == 1).then(|| value.to_vec()) })
    }
}

/// Entries of one apply, so that they are found whole or not at all.
pub(super) fn frame(round: u64, undos: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEAD_BYTES + undos.len());
    out.extend(round.to_be_bytes());
    out.extend((undos.len() as u32).to_be_bytes());
    out.extend(frame_crc(round, undos).to_be_bytes());
    out.extend(undos);
    out
}

fn frame_crc(round: u64, undos: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&round.to_be_bytes()), undos)
}

/// Entries of the apply `round` in `bytes`, up to the first frame that is not whole or belongs to another apply.
pub(super) fn frames(round: u64, mut bytes: &[u8]) -> Vec<Undo> {
    let mut out = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() {
        let [.., l0, l1, l2, l3, c0, c1, c2, c3] = *head;
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let Some((mut undos, rest)) = rest.split_at_checked(len) else { break };
        let crc = u32::from_be_bytes([c0, c1, c2, c3]);
        if head[..8] != round.to_be_bytes() || crc != frame_crc(round, undos) {
            break;
        }
        out.extend(std::iter::from_fn(|| Undo::take(&mut undos)));
        bytes = rest;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_record_decodes_what_was_encoded_and_refuses_every_flipped_bit() {
        let mut digest = Digest::default();
        digest.add(Tree::Block, b"key", b"value");
        for applied in [None, Some(77)] {
            let lanes = Stamp { number: 3, end: 1 << 40, sum: u32::MAX };
            let state = StateRecord { round: 9, applied, digest, lanes };
            let bytes = state.encode();
            assert_eq!(StateRecord::decode(&bytes), Some(Some(state)));
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes;
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(StateRecord::decode(&bytes), None);
            }
        }
        assert_eq!(StateRecord::decode(&[]), None);
    }

    #[test]
    fn frames_give_back_what_was_framed_up_to_the_first_that_is_not_whole() {
        let undo = |n: u8, value| Undo { tree: Tree::Segment, key: vec![n; 9], value };
        let groups = [
            vec![undo(1, None), undo(2, Some(Vec::new()))],
            vec![undo(3, Some(vec![1, 2, 3]))],
            vec![undo(4, Some(vec![7; 300])), undo(4, None)],
        ];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for group in &groups {
            let mut undos = Vec::new();
            for undo in group {
                Undo::append(&mut undos, undo.tree, &undo.key, undo.value.as_deref());
            }
            bytes.extend(frame(7, &undos));
            ends.push(bytes.len());
        }
        assert_eq!(frames(7, &bytes), groups.concat());
        assert_eq!(frames(8, &bytes), []);
        for cut in 0..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(frames(7, &bytes[..cut]), groups[..whole].concat(), "cut at {cut}");
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0x10;
            assert_eq!(frames(7, &flipped), groups[..whole].concat(), "flipped at {cut}");
        }
    }

    #[test]
    fn digest_forgets_order_but_not_place_or_value() {
        let sum = |pairs: &[(Tree, &[u8], &[u8])]| {
            let mut digest = Digest::default();
            pairs.iter().for_each(|(tree, key, value)| digest.add(*tree, key, value));
            digest
        };
        let (a, b) = ((Tree::Lane, &b"a"[..], &b"1"[..]), (Tree::Name, &b"b"[..], &b"2"[..]));
        assert_eq!(sum(&[a, b]), sum(&[b, a]));
        assert_ne!(sum(&[a]), sum(&[(Tree::Name, b"a", b"1")]));
        assert_ne!(sum(&[a]), sum(&[(Tree::Lane, b"a1", b"")]));
        let mut less = sum(&[a, b]);
        less.take(b.0, b.1, b.2);
        assert_eq!(less, sum(&[a]));
    }
}
