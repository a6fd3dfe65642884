//! The index as the ledger sees it: what changed since the last checkpoint in memory, the rest in the engine.
//!
//! Three layers, newest first: `live` (since the checkpoint in progress or the last one), `frozen` (being
//! written by a checkpoint), the [`Index`]. A value found in an upper layer is whole; layers are never merged
//! per key. Memory is bounded by the ledger, which starts a checkpoint when [`Tail::entries`] passes its limit.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::entry;
use crate::error::SpoolError;
use crate::ids::{LaneId, Lsn, Seq};
use crate::index::{Change, Index, Tree};
use crate::life;
use crate::record::SendingRecord;
use crate::types::{STATES, State};

/// Least pairs that one page of a scan asks of the index.
const SCAN_PAGE: usize = 64;
/// Unchanged lanes that are kept: some more than sessions are between a recipient and the end of its message.
const KEPT_MAX: usize = 256;

type Layer = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// State of a lane, as kept in the lane tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) created_ms: u64,
    pub(crate) revoked: bool,
    pub(crate) quota_items: Option<u64>,
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) sending: SendingRecord,
    /// The seq the next item gets; 0 stands for 1 in a lane that recovery has only heard of.
    pub(crate) next_seq: u64,
    /// Below and at this seq nothing waits.
    pub(crate) cursor: u64,
    /// No entry exists below this seq.
    pub(crate) first_seq: u64,
    pub(crate) chain: [u8; 32],
    /// Newest record that carries `next_seq` and `chain`.
    pub(crate) anchor: u64,
    /// Newest mailbox record; 0: none seen.
    pub(crate) defined: u64,
    pub(crate) items: [u64; STATES],
    pub(crate) bytes: [u64; STATES],
}

impl Lane {
    pub(crate) fn count(&mut self, state: State, bytes: u32) {
        let n = entry::state_code(state) as usize - 1;
        self.items[n] += 1;
        self.bytes[n] += u64::from(bytes);
    }

    pub(crate) fn uncount(&mut self, state: State, bytes: u32) {
        let n = entry::state_code(state) as usize - 1;
        self.items[n] = self.items[n].saturating_sub(1);
        self.bytes[n] = self.bytes[n].saturating_sub(u64::from(bytes));
    }

    /// Items and bytes that somebody still waits for.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for state in [State::Ready, State::Held, State::Armed] {
            debug_assert!(life::waits(state));
            let n = entry::state_code(state) as usize - 1;
            sum = (sum.0 + self.items[n], sum.1 + self.bytes[n]);
        }
        sum
    }
}

/// Version of what the index holds, lanes and packed blocks alike, on the first octet of each lane; an index of another
/// one is emptied and rebuilt.
const INDEX_VERSION: u8 = 5;

fn encode_lane(lane: &Lane) -> Result<Vec<u8>, SpoolError> {
    let mut out = vec![INDEX_VERSION];
    bincode::encode_into_std_write(lane, &mut out, bincode::config::standard())
        .map_err(|error| SpoolError::Index(format!("lane does not encode: {error}")))?;
    Ok(out)
}

fn decode_lane(bytes: &[u8]) -> Result<Lane, SpoolError> {
    match bytes.split_first() {
        Some((&INDEX_VERSION, rest)) => bincode::decode_from_slice(rest, bincode::config::standard())
            .map(|(lane, _)| lane)
            .map_err(|error| SpoolError::Index(format!("lane does not decode: {error}"))),
        _ => Err(SpoolError::Index("lane of an unknown version".to_owned())),
    }
}

/// The items of one lane by state, as far as its entries were looked at. What changes there afterwards is counted as it
/// happens, so that a long lane can be counted in steps while it is in use.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Tells it from the ones before.
    pub(crate) number: u64,
    lane: LaneId,
    /// Entries below are counted; 0: nobody counts.
    pub(crate) below: Seq,
    pub(crate) items: [u64; STATES],
}

impl Tally {
    fn none() -> Self {
        Self { number: 0, lane: LaneId(0), below: Seq(0), items: [0; STATES] }
    }

    fn has(&self, lane: LaneId, seq: Seq) -> bool {
        self.lane == lane && seq < self.below
    }

    pub(crate) fn add(&mut self, entry: &entry::Entry) {
        self.items[entry::state_code(entry.state) as usize - 1] += 1;
    }

    fn take(&mut self, entry: &entry::Entry) {
        let n = &mut self.items[entry::state_code(entry.state) as usize - 1];
        *n = n.saturating_sub(1);
    }
}

/// A frozen tail on its way into the index.
#[derive(Clone, Debug)]
pub struct CheckpointJob {
    index: Arc<dyn Index>,
    changes: Arc<Vec<Change>>,
    applied: Lsn,
}

impl CheckpointJob {
    /// Writes it. May run on any thread, beside the ledger.
    ///
    /// # Errors
    /// [`SpoolError::Index`]; the ledger must hear of it by `end_checkpoint`.
    pub fn run(&self) -> Result<(), SpoolError> {
        self.index.apply(&self.changes, self.applied)
    }

    /// Writes it without a promise, while the index is built anew: see [`Index::fill`].
    pub(crate) fn fill(&self) -> Result<(), SpoolError> {
        self.index.fill(&self.changes)
    }

    /// Up to which lsn the index knows the journal afterwards.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.applied
    }
}

#[derive(Debug)]
pub(crate) struct Tail {
    index: Arc<dyn Index>,
    live: [Layer; Tree::ALL.len()],
    frozen: Option<Arc<[Layer; Tree::ALL.len()]>>,
    /// Changed since the last freeze.
    lanes: BTreeMap<LaneId, Lane>,
    /// Read lately, unchanged, none of `lanes`: one is looked at several times before it changes.
    kept: RefCell<HashMap<LaneId, Lane>>,
    /// One lane at a time is counted.
    tally: RefCell<Tally>,
    bytes: usize,
}

/// A value as the index keeps it.
fn packed(tree: Tree, value: &[u8]) -> Vec<u8> {
    if tree == Tree::Block { entry::pack(value) } else { value.to_vec() }
}

/// A value of the index as it is in memory.
fn unpacked(tree: Tree, value: Vec<u8>) -> Result<Vec<u8>, SpoolError> {
    if tree != Tree::Block {
        return Ok(value);
    }
    entry::unpack(&value).ok_or_else(|| SpoolError::Index("block does not decode".to_owned()))
}

fn layer(tree: Tree) -> usize {
    tree as usize
}

impl Tail {
    pub(crate) fn new(index: Arc<dyn Index>) -> Self {
        Self {
            index,
            live: Default::default(),
            frozen: None,
            lanes: BTreeMap::new(),
            kept: RefCell::default(),
            tally: RefCell::new(Tally::none()),
            bytes: 0,
        }
    }

    pub(crate) fn index(&self) -> &Arc<dyn Index> {
        &self.index
    }

    /// Entries in memory.
    pub(crate) fn entries(&self) -> usize {
        let count = |layers: &[Layer; Tree::ALL.len()]| layers.iter().map(Layer::len).sum::<usize>();
        count(&self.live) + self.lanes.len() + self.frozen.as_deref().map_or(0, count)
    }

    /// Rough bytes of changes since the last checkpoint was begun.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.live.iter().all(Layer::is_empty)
    }

    pub(crate) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        if let Some(value) = self.live[layer(tree)].get(key) {
            return Ok(value.clone());
        }
        if let Some(value) = self.frozen.as_ref().and_then(|frozen| frozen[layer(tree)].get(key)) {
            return Ok(value.clone());
        }
        self.index.get(tree, key)?.map(|value| unpacked(tree, value)).transpose()
    }

    pub(crate) fn put(&mut self, tree: Tree, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.live[layer(tree)].insert(key, Some(value));
    }

    pub(crate) fn remove(&mut self, tree: Tree, key: Vec<u8>) {
        self.bytes += key.len();
        self.live[layer(tree)].insert(key, None);
    }

    /// Removes a key and leaves no trace of it in memory when no other layer has it.
    pub(crate) fn remove_clean(&mut self, tree: Tree, key: Vec<u8>) -> Result<(), SpoolError> {
        let frozen = self.frozen.as_ref().is_some_and(|frozen| frozen[layer(tree)].contains_key(&key));
        if frozen || self.index.get(tree, &key)?.is_some() {
            self.remove(tree, key);
        } else {
            self.live[layer(tree)].remove(&key);
        }
        Ok(())
    }

    /// The bytes of one key, to be changed in place; empty when there are none.
    fn value_mut(&mut self, tree: Tree, key: Vec<u8>) -> Result<&mut Vec<u8>, SpoolError> {
        let known = self.live[layer(tree)].contains_key(&key);
        let below = if known { None } else { self.get(tree, &key)? };
        self.bytes += if known { 48 } else { key.len() + below.as_ref().map_or(48, Vec::len) };
        Ok(self.live[layer(tree)].entry(key).or_insert(below).get_or_insert_default())
    }

    /// At most `limit` pairs from `from` on, ascending, over all layers.
    pub(crate) fn scan(
        &self,
        tree: Tree,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<crate::index::Pair>, SpoolError> {
        let mut from = from.to_vec();
        let mut out = Vec::new();
        loop {
            // A page of the index may hold nothing but what is removed since the last checkpoint.
            let wanted = limit.max(SCAN_PAGE);
            let page = self.index.scan(tree, &from, to, wanted)?;
            let last = if page.len() < wanted { None } else { page.last().map(|(key, _)| key.clone()) };
            let inside =
                |key: &[u8]| to.is_none_or(|to| key < to) && last.as_deref().is_none_or(|last| key <= last);
            // Newest first: the same key in an older layer says what was.
            let mut layers: Vec<_> = [Some(&self.live), self.frozen.as_deref()]
                .into_iter()
                .flatten()
                .map(|layers| layers[layer(tree)].range(from.clone()..).peekable())
                .collect();
            let mut page = page.into_iter().peekable();
            loop {
                let key = layers.iter_mut().filter_map(|layer| layer.peek().map(|(key, _)| *key)).min();
                let of_index = page.peek().map(|(key, _)| key);
                let Some(key) = key.into_iter().chain(of_index).min().filter(|key| inside(key)).cloned()
                else {
                    break;
                };
                let mut value = None;
                for layer in layers.iter_mut().rev() {
                    if let Some((_, newer)) = layer.next_if(|(known, _)| **known == key) {
                        value = Some(newer.clone());
                    }
                }
                let below = page.next_if(|(known, _)| *known == key).map(|(_, value)| value);
                let value = match value {
                    Some(value) => value,
                    None => below.map(|value| unpacked(tree, value)).transpose()?,
                };
                if let Some(value) = value {
                    out.push((key, value));
                    if out.len() == limit {
                        return Ok(out);
                    }
                }
            }
            let Some(last) = last else { return Ok(out) };
            from = last;
            from.push(0);
        }
    }

    /// At most `limit` pairs with `from <= key < before`, descending, over all layers.
    pub(crate) fn scan_back(
        &self,
        tree: Tree,
        from: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<crate::index::Pair>, SpoolError> {
        let mut before = before.map(<[u8]>::to_vec);
        let mut out = Vec::new();
        while before.as_deref().is_none_or(|before| from < before) {
            let wanted = limit.max(SCAN_PAGE);
            let page = self.index.scan_back(tree, from, before.as_deref(), wanted)?;
            let last = if page.len() < wanted { None } else { page.last().map(|(key, _)| key.clone()) };
            let least = Bound::Included(last.as_deref().unwrap_or(from));
            let range = (least, before.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
            // Newest first: the same key in an older layer says what was.
            let mut layers: Vec<_> = [Some(&self.live), self.frozen.as_deref()]
                .into_iter()
                .flatten()
                .map(|layers| layers[layer(tree)].range::<[u8], _>(range).rev().peekable())
                .collect();
            let mut page = page.into_iter().peekable();
            loop {
                let key = layers.iter_mut().filter_map(|layer| layer.peek().map(|(key, _)| *key)).max();
                let Some(key) = key.into_iter().chain(page.peek().map(|(key, _)| key)).max().cloned() else {
                    break;
                };
                let mut value = None;
                for layer in layers.iter_mut().rev() {
                    if let Some((_, newer)) = layer.next_if(|(known, _)| **known == key) {
                        value = Some(newer.clone());
                    }
                }
                let below = page.next_if(|(known, _)| *known == key).map(|(_, value)| value);
                let value = match value {
                    Some(value) => value,
                    None => below.map(|value| unpacked(tree, value)).transpose()?,
                };
                if let Some(value) = value {
                    out.push((key, value));
                    if out.len() == limit {
                        return Ok(out);
                    }
                }
            }
            let Some(last) = last else { break };
            before = Some(last);
        }
        Ok(out)
    }

    pub(crate) fn lane(&self, id: LaneId) -> Result<Option<Lane>, SpoolError> {
        let mut kept = self.kept.borrow_mut();
        if let Some(lane) = self.lanes.get(&id).or_else(|| kept.get(&id)) {
            return Ok(Some(lane.clone()));
        }
        let Some(bytes) = self.get(Tree::Lane, &entry::lane_key(id))? else { return Ok(None) };
        let lane = decode_lane(&bytes)?;
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(id, lane.clone());
        Ok(Some(lane))
    }

    /// The lane, to be changed; made as a placeholder when nobody has heard of it.
    pub(crate) fn lane_mut(&mut self, id: LaneId) -> Result<&mut Lane, SpoolError> {
        if !self.lanes.contains_key(&id) {
            let lane = self.lane(id)?.unwrap_or_default();
            self.kept.get_mut().remove(&id);
            self.bytes += 256;
            self.lanes.insert(id, lane);
        }
        Ok(self.lanes.entry(id).or_default())
    }

    /// Lanes after `after`, ascending.
    pub(crate) fn lanes(
        &self,
        after: Option<LaneId>,
        limit: usize,
    ) -> Result<Vec<(LaneId, Lane)>, SpoolError> {
        let start = after.map_or(0, |lane| lane.0.saturating_add(1));
        let begins = |id: &LaneId| id.0 >= start && after.is_none_or(|after| *id > after);
        let mut out: BTreeMap<LaneId, Lane> = BTreeMap::new();
        for (key, value) in self.scan(Tree::Lane, &start.to_be_bytes(), None, limit)? {
            if let Some(id) = entry::lane_of_key(&key).filter(begins) {
                out.insert(id, decode_lane(&value)?);
            }
        }
        let changed = self.lanes.range(LaneId(start)..).filter(|(id, _)| begins(id)).take(limit);
        out.extend(changed.map(|(id, lane)| (*id, lane.clone())));
        Ok(out.into_iter().take(limit).collect())
    }

    /// Bytes of one block of entries; empty when there is none.
    pub(crate) fn block(&self, lane: LaneId, block: u64) -> Result<Vec<u8>, SpoolError> {
        Ok(self.get(Tree::Block, &entry::block_key(lane, block))?.unwrap_or_default())
    }

    pub(crate) fn entry(&self, lane: LaneId, seq: Seq) -> Result<Option<entry::Entry>, SpoolError> {
        let key = entry::block_key(lane, entry::block_of(seq));
        match self.live[layer(Tree::Block)].get(&key) {
            Some(Some(block)) => Ok(entry::get(block, seq)),
            Some(None) => Ok(None),
            None => Ok(self.get(Tree::Block, &key)?.and_then(|block| entry::get(&block, seq))),
        }
    }

    pub(crate) fn put_entry(
        &mut self,
        lane: LaneId,
        seq: Seq,
        value: entry::Entry,
    ) -> Result<(), SpoolError> {
        let counted = self.tally.get_mut().has(lane, seq);
        let block = self.value_mut(Tree::Block, entry::block_key(lane, entry::block_of(seq)))?;
        let old = if counted { entry::get(block, seq) } else { None };
        entry::put(block, seq, value);
        if counted {
            let tally = self.tally.get_mut();
            if let Some(old) = &old {
                tally.take(old);
            }
            tally.add(&value);
        }
        Ok(())
    }

    pub(crate) fn remove_entry(&mut self, lane: LaneId, seq: Seq) -> Result<(), SpoolError> {
        let counted = self.tally.get_mut().has(lane, seq);
        let key = entry::block_key(lane, entry::block_of(seq));
        let block = self.value_mut(Tree::Block, key.clone())?;
        let old = if counted { entry::get(block, seq) } else { None };
        if entry::remove(block, seq) {
            self.remove(Tree::Block, key);
        }
        if let Some(old) = &old {
            self.tally.get_mut().take(old);
        }
        Ok(())
    }

    /// The count of `lane`'s entries that has this number, or a new one, which takes its place.
    pub(crate) fn tally(&self, lane: LaneId, number: Option<u64>) -> RefMut<'_, Tally> {
        let mut tally = self.tally.borrow_mut();
        if tally.lane != lane || number != Some(tally.number) {
            *tally = Tally { number: tally.number + 1, lane, ..Tally::none() };
        }
        tally
    }

    /// Where the item of this id is, or was.
    pub(crate) fn place(&self, id: crate::ids::ItemId) -> Result<Option<(LaneId, Seq)>, SpoolError> {
        Ok(self.get(Tree::Item, &entry::bucket_key(id))?.and_then(|bucket| entry::bucket_get(&bucket, id)))
    }

    pub(crate) fn put_place(
        &mut self,
        id: crate::ids::ItemId,
        lane: LaneId,
        seq: Seq,
    ) -> Result<(), SpoolError> {
        entry::bucket_put(self.value_mut(Tree::Item, entry::bucket_key(id))?, id, lane, seq);
        Ok(())
    }

    pub(crate) fn remove_place(&mut self, id: crate::ids::ItemId) -> Result<(), SpoolError> {
        let key = entry::bucket_key(id);
        if entry::bucket_remove(self.value_mut(Tree::Item, key.clone())?, id) {
            self.remove(Tree::Item, key);
        }
        Ok(())
    }

    /// Freezes what changed, to be written up to `applied`. There must be none in progress.
    pub(crate) fn freeze(&mut self, applied: Lsn) -> Result<CheckpointJob, SpoolError> {
        for (id, lane) in std::mem::take(&mut self.lanes) {
            self.live[layer(Tree::Lane)].insert(entry::lane_key(id), Some(encode_lane(&lane)?));
        }
        let frozen = Arc::new(std::mem::take(&mut self.live));
        self.bytes = 0;
        let changes = Tree::ALL
            .into_iter()
            .flat_map(|tree| {
                frozen[layer(tree)].iter().map(move |(key, value)| Change {
                    tree,
                    key: key.clone(),
                    value: value.as_deref().map(|value| packed(tree, value)),
                })
            })
            .collect();
        self.frozen = Some(frozen);
        Ok(CheckpointJob { index: self.index.clone(), changes: Arc::new(changes), applied })
    }

    /// The frozen layer is in the index now.
    pub(crate) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Puts the frozen layer under the live one again.
    pub(crate) fn refreeze(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        for (live, frozen) in self.live.iter_mut().zip(frozen.iter()) {
            for (key, value) in frozen {
                live.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }

    pub(crate) fn checkpoint_in_progress(&self) -> bool {
        self.frozen.is_some()
    }
}
