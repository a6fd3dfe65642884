//! PURE: the fixed-size index entry of an item, blocks of entries, and the ordered keys of every tree.
//!
//! Sixty-four entries share one key, so that a lane of a million items is sixteen thousand keys, a scan is a
//! queue, and changing a state is a write of a few bytes in place.

use crate::ids::{ItemId, LaneId, Lsn, Seq, WallMs};
use crate::types::State;

mod packed;

pub(crate) use packed::{pack, unpacked};

/// Items in one block.
pub const BLOCK_ITEMS: u64 = 64;
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 44;
/// Bytes of one id in a bucket of the item tree.
const BUCKET_ENTRY_BYTES: usize = 28;

/// Number of a state in entries and records.
#[must_use]
pub fn state_code(state: State) -> u8 {
    match state {
        State::Ready => 1,
        State::Acked => 2,
        State::Expired => 3,
        State::Held => 4,
        State::Quarantined => 5,
        State::Purged => 6,
        State::Armed => 7,
        State::Sent => 8,
        State::Failed => 9,
        State::Indeterminate => 10,
    }
}

/// The state with this number.
#[must_use]
pub fn state_from_code(code: u8) -> Option<State> {
    Some(match code {
        1 => State::Ready,
        2 => State::Acked,
        3 => State::Expired,
        4 => State::Held,
        5 => State::Quarantined,
        6 => State::Purged,
        7 => State::Armed,
        8 => State::Sent,
        9 => State::Failed,
        10 => State::Indeterminate,
        _ => return None,
    })
}

/// What the index knows of a submission beside what it knows of every item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Attempts made so far; stays at [`ATTEMPTS_MAX`].
    pub attempts: u8,
    /// Its gateway has the result.
    pub told: bool,
}

/// Attempts that are counted.
pub const ATTEMPTS_MAX: u8 = 63;
const OUTBOUND_BIT: u8 = 0x80;
const TOLD_BIT: u8 = 0x40;

/// What the index knows of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its state.
    pub state: State,
    /// Bytes of head and body.
    pub size_bytes: u32,
    /// Bytes of journal it takes beside `size_bytes`, near enough.
    pub overhead_bytes: u16,
    /// Segment of its first record.
    pub first_segment: u32,
    /// Its newest item record.
    pub item_lsn: Lsn,
    /// The record that put it into `state`.
    pub state_lsn: Lsn,
    /// When it was accepted.
    pub accepted_at: WallMs,
    /// When it entered `state`.
    pub changed_at: WallMs,
    /// Set for submissions.
    pub outbound: Option<Outbound>,
}

impl Entry {
    fn encode(self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[0] = state_code(self.state);
        if let Some(outbound) = self.outbound {
            let told = if outbound.told { TOLD_BIT } else { 0 };
            out[1] = OUTBOUND_BIT | told | outbound.attempts.min(ATTEMPTS_MAX);
        }
        out[2..4].copy_from_slice(&self.overhead_bytes.to_le_bytes());
        out[4..8].copy_from_slice(&self.size_bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.first_segment.to_le_bytes());
        out[12..20].copy_from_slice(&self.item_lsn.0.to_le_bytes());
        out[20..28].copy_from_slice(&self.state_lsn.0.to_le_bytes());
        out[28..36].copy_from_slice(&self.accepted_at.0.to_le_bytes());
        out[36..44].copy_from_slice(&self.changed_at.0.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            state: state_from_code(*bytes.first()?)?,
            overhead_bytes: u16::from_le_bytes(bytes.get(2..4)?.try_into().ok()?),
            size_bytes: u32_at(4)?,
            first_segment: u32_at(8)?,
            item_lsn: Lsn(u64_at(12)?),
            state_lsn: Lsn(u64_at(20)?),
            accepted_at: WallMs(u64_at(28)?),
            changed_at: WallMs(u64_at(36)?),
            outbound: outbound_of(*bytes.get(1)?),
        })
    }
}

fn outbound_of(flags: u8) -> Option<Outbound> {
    (flags & OUTBOUND_BIT != 0)
        .then_some(Outbound { attempts: flags & ATTEMPTS_MAX, told: flags & TOLD_BIT != 0 })
}

/// Number of the block that holds `seq`.
#[must_use]
pub fn block_of(seq: Seq) -> u64 {
    seq.0 / BLOCK_ITEMS
}

/// First seq of a block.
#[must_use]
pub fn block_start(block: u64) -> Seq {
    Seq(block * BLOCK_ITEMS)
}

fn slot(seq: Seq) -> usize {
    (seq.0 % BLOCK_ITEMS) as usize * ENTRY_BYTES
}

/// The entry of `seq` in the bytes of its block.
#[must_use]
pub fn get(block: &[u8], seq: Seq) -> Option<Entry> {
    Entry::decode(block.get(slot(seq)..slot(seq) + ENTRY_BYTES)?)
}

/// Puts an entry into the bytes of its block.
pub fn put(block: &mut Vec<u8>, seq: Seq, entry: Entry) {
    let at = slot(seq);
    if block.len() < at + ENTRY_BYTES {
        block.resize(at + ENTRY_BYTES, 0);
    }
    block[at..at + ENTRY_BYTES].copy_from_slice(&entry.encode());
}

/// Takes an entry out; true when the block is empty afterwards.
pub fn remove(block: &mut [u8], seq: Seq) -> bool {
    let at = slot(seq);
    if let Some(bytes) = block.get_mut(at..at + ENTRY_BYTES) {
        bytes.fill(0);
    }
    block.chunks(ENTRY_BYTES).all(|bytes| bytes[0] == 0)
}

/// All entries of a block, ascending.
pub fn entries(block: u64, bytes: &[u8]) -> impl Iterator<Item = (Seq, Entry)> + '_ {
    bytes
        .chunks(ENTRY_BYTES)
        .enumerate()
        .filter_map(move |(n, bytes)| Some((Seq(block_start(block).0 + n as u64), Entry::decode(bytes)?)))
}

/// Key of a lane.
#[must_use]
pub fn lane_key(lane: LaneId) -> Vec<u8> {
    lane.0.to_be_bytes().to_vec()
}

/// The lane a key of the lane tree names.
#[must_use]
pub fn lane_of_key(key: &[u8]) -> Option<LaneId> {
    Some(LaneId(u32::from_be_bytes(key.try_into().ok()?)))
}

/// Key of a block.
#[must_use]
pub fn block_key(lane: LaneId, block: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&lane.0.to_be_bytes());
    key[4..].copy_from_slice(&block.to_be_bytes());
    key
}

/// Lane and block of a key of the block tree.
#[must_use]
pub fn block_of_key(key: &[u8]) -> Option<(LaneId, u64)> {
    let lane = LaneId(u32::from_be_bytes(key.get(..4)?.try_into().ok()?));
    Some((lane, u64::from_be_bytes(key.get(4..12)?.try_into().ok()?)))
}

/// Key of one item's place: lane and seq.
#[must_use]
pub fn place_key(lane: LaneId, seq: Seq) -> [u8; 12] {
    block_key(lane, seq.0)
}

/// Key of a submission in the queue of its destination: ordered by name, then by when it is due.
#[must_use]
pub fn due_key(destination: &[u8], due: WallMs, lane: LaneId, seq: Seq) -> Vec<u8> {
    let mut key = due_start(destination, due);
    key.extend_from_slice(&place_key(lane, seq));
    key
}

/// Least key of a destination's submissions due at `due` or later.
#[must_use]
pub fn due_start(destination: &[u8], due: WallMs) -> Vec<u8> {
    let mut key = destination.to_vec();
    key.push(0);
    key.extend_from_slice(&due.0.to_be_bytes());
    key
}

/// Destination, due time, lane and seq of a key of [`due_key`].
#[must_use]
pub fn due_of_key(key: &[u8]) -> Option<(&[u8], WallMs, LaneId, Seq)> {
    let (destination, rest) = key.split_at_checked(key.len().checked_sub(21)?)?;
    let due = u64::from_be_bytes(rest.get(1..9)?.try_into().ok()?);
    let (lane, seq) = block_of_key(&rest[9..])?;
    Some((destination, WallMs(due), lane, Seq(seq)))
}

/// Key of the bucket that holds an id: four milliseconds share one.
#[must_use]
pub fn bucket_key(id: ItemId) -> [u8; 6] {
    let [_, _, key @ ..] = (id.time().0 >> 2).to_be_bytes();
    key
}

/// Where a bucket says an id is.
#[must_use]
pub fn bucket_get(bucket: &[u8], id: ItemId) -> Option<(LaneId, Seq)> {
    let entry = bucket.chunks_exact(BUCKET_ENTRY_BYTES).find(|entry| entry[..16] == id.0)?;
    let lane = u32::from_be_bytes(entry[16..20].try_into().ok()?);
    let seq = u64::from_be_bytes(entry[20..28].try_into().ok()?);
    Some((LaneId(lane), Seq(seq)))
}

/// Adds an id to its bucket unless it is there.
pub fn bucket_put(bucket: &mut Vec<u8>, id: ItemId, lane: LaneId, seq: Seq) {
    if bucket_get(bucket, id).is_none() {
        bucket.extend_from_slice(&id.0);
        bucket.extend_from_slice(&lane.0.to_be_bytes());
        bucket.extend_from_slice(&seq.0.to_be_bytes());
    }
}

/// Takes an id out of its bucket; true when the bucket is empty afterwards.
pub fn bucket_remove(bucket: &mut Vec<u8>, id: ItemId) -> bool {
    if let Some(n) = bucket.chunks_exact(BUCKET_ENTRY_BYTES).position(|entry| entry[..16] == id.0) {
        bucket.drain(n * BUCKET_ENTRY_BYTES..(n + 1) * BUCKET_ENTRY_BYTES);
    }
    bucket.is_empty()
}

/// Ids of a bucket with their places.
pub fn bucket_entries(bucket: &[u8]) -> impl Iterator<Item = (ItemId, LaneId, Seq)> + '_ {
    bucket.chunks_exact(BUCKET_ENTRY_BYTES).filter_map(|entry| {
        Some((
            ItemId(entry[..16].try_into().ok()?),
            LaneId(u32::from_be_bytes(entry[16..20].try_into().ok()?)),
            Seq(u64::from_be_bytes(entry[20..28].try_into().ok()?)),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry {
            state: State::Held,
            size_bytes: 77,
            overhead_bytes: 501,
            first_segment: 3,
            item_lsn: Lsn(n),
            state_lsn: Lsn(n + 1),
            accepted_at: WallMs(5),
            changed_at: WallMs(6),
            outbound: n.is_multiple_of(20).then_some(Outbound { attempts: 5, told: true }),
        }
    }

    #[test]
    fn block_keeps_each_slot_apart() {
        let mut block = Vec::new();
        put(&mut block, Seq(130), entry(10));
        put(&mut block, Seq(128), entry(20));
        assert_eq!(get(&block, Seq(130)), Some(entry(10)));
        assert_eq!(get(&block, Seq(129)), None);
        assert_eq!(get(&block, Seq(191)), None);
        assert_eq!(entries(2, &block).map(|(seq, _)| seq.0).collect::<Vec<_>>(), [128, 130]);
        assert!(!remove(&mut block, Seq(128)));
        assert!(remove(&mut block, Seq(130)));
    }

    #[test]
    fn bucket_finds_adds_once_and_removes() {
        let (a, b) = (ItemId::new(WallMs(8), [1; 10]), ItemId::new(WallMs(9), [2; 10]));
        assert_eq!(bucket_key(a), bucket_key(b));
        let mut bucket = Vec::new();
        bucket_put(&mut bucket, a, LaneId(1), Seq(2));
        bucket_put(&mut bucket, a, LaneId(1), Seq(2));
        bucket_put(&mut bucket, b, LaneId(3), Seq(4));
        assert_eq!(bucket_entries(&bucket).count(), 2);
        assert_eq!(bucket_get(&bucket, b), Some((LaneId(3), Seq(4))));
        assert!(!bucket_remove(&mut bucket, a));
        assert!(bucket_remove(&mut bucket, b));
    }

    #[test]
    fn due_keys_sort_by_destination_then_time() {
        let key = |name: &str, due| due_key(name.as_bytes(), WallMs(due), LaneId(1), Seq(2));
        assert!(key("a.example", 300) < key("a.example.org", 1), "a longer name is another destination");
        assert!(key("a.example", 255) < key("a.example", 256));
        let one = key("a.example", 7);
        assert_eq!(due_of_key(&one), Some((&b"a.example"[..], WallMs(7), LaneId(1), Seq(2))));
        assert_eq!(due_of_key(&one[..20]), None);
    }

    #[test]
    fn keys_sort_as_the_queue_does() {
        assert!(block_key(LaneId(1), 255) < block_key(LaneId(1), 256));
        assert!(block_key(LaneId(1), u64::MAX) < block_key(LaneId(2), 0));
        assert_eq!(block_of_key(&block_key(LaneId(7), 9)), Some((LaneId(7), 9)));
    }
}
