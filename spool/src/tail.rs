//! The index as the ledger sees it: what changed since the last checkpoint in memory, the rest in the engine.
//!
//! Three layers, newest first: `live` (since the checkpoint in progress or the last one), `frozen` (being
//! written by a checkpoint), the [`Index`]. A value found in an upper layer is whole; layers are never merged
//! per key. Memory is bounded by the ledger, which starts a checkpoint when [`Tail::bytes`] passes its limit.
//!
//! Blocks are in `live` as they are, and in `frozen`, which is `live` put aside. In the index the open block of a lane is part of
//! the lane's value, and so it is in what is taken from below ([`Kept`]). Who changes a block has its lane in
//! [`Tail::lane_mut`] before.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::entry;
use crate::error::SpoolError;
use crate::ids::{LaneId, Lsn, Seq};
use crate::index::{Index, Tree};
use crate::lane::{Kept, Lane};
use crate::names::Names;

mod frozen;
mod tally;
#[cfg(test)]
mod tests;

pub use frozen::CheckpointJob;
use frozen::Frozen;
pub(crate) use tally::Tally;

/// Least pairs that one page of a scan asks of the index.
const SCAN_PAGE: usize = 64;
/// Unchanged lanes that are kept: some more than sessions are between a recipient and the end of its message.
const KEPT_MAX: usize = 256;

/// What a change in place adds to a value, bytes, roughly.
const CHANGE_BYTES: usize = 48;

/// A key; those of blocks and buckets need no memory of their own, and are compared where they are.
type Key = SmallVec<[u8; 16]>;
type Layer = BTreeMap<Key, Option<Vec<u8>>>;
/// One for each tree; that of [`Tree::Lane`] is empty, because lanes are kept as they are.
type Layers = [Layer; Tree::ALL.len()];
/// A lane and the number of one of its blocks.
pub(crate) type BlockAt = (LaneId, u64);
/// Where a block is, and its bytes.
pub(crate) type Block = (BlockAt, Vec<u8>);

#[derive(Debug)]
pub(crate) struct Tail {
    index: Arc<dyn Index>,
    live: Layers,
    frozen: Option<Arc<Frozen>>,
    /// Changed since the last freeze, with the open blocks of the layers below.
    lanes: BTreeMap<LaneId, Box<Kept>>,
    /// Read lately, unchanged, none of `lanes`: one is looked at several times before it changes.
    kept: RefCell<HashMap<LaneId, Box<Kept>>>,
    /// What [`Tree::Name`] says of some.
    names: RefCell<Names>,
    /// One lane at a time is counted.
    tally: RefCell<Tally>,
    bytes: usize,
}

/// A block, wherever it was found.
enum Found {
    Own(Vec<u8>),
    Open(Box<Kept>),
}

impl Found {
    fn block(self) -> Result<Vec<u8>, SpoolError> {
        match self {
            Self::Own(block) => Ok(block),
            Self::Open(kept) => kept.block(),
        }
    }
}

/// A value of the index as it is in memory.
fn unpacked(tree: Tree, value: Vec<u8>) -> Result<Vec<u8>, SpoolError> {
    if tree == Tree::Block { entry::unpacked(&value) } else { Ok(value) }
}

fn layer(tree: Tree) -> usize {
    tree as usize
}

fn entries_of(layers: &Layers) -> usize {
    layers.iter().map(Layer::len).sum()
}

impl Tail {
    pub(crate) fn new(index: Arc<dyn Index>) -> Self {
        Self {
            index,
            live: Default::default(),
            frozen: None,
            lanes: BTreeMap::new(),
            kept: RefCell::default(),
            names: RefCell::default(),
            tally: RefCell::new(Tally::none()),
            bytes: 0,
        }
    }

    pub(crate) fn index(&self) -> &Arc<dyn Index> {
        &self.index
    }

    /// Entries in memory.
    pub(crate) fn entries(&self) -> usize {
        entries_of(&self.live) + self.lanes.len() + self.frozen.as_deref().map_or(0, Frozen::len)
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
        if let Some(value) = self.frozen.as_ref().and_then(|frozen| frozen.layers[layer(tree)].get(key)) {
            return Ok(value.clone());
        }
        if let Some((lane, number)) = entry::block_of_key(key).filter(|_| tree == Tree::Block) {
            let open = self.look(lane, |kept| {
                kept.keeps(number).then(|| kept.number().map(|_| kept.block()).transpose())
            })?;
            if let Some(open) = open.flatten() {
                return open;
            }
        }
        self.index.get(tree, key)?.map(|value| unpacked(tree, value)).transpose()
    }

    pub(crate) fn put(&mut self, tree: Tree, key: &[u8], value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.live[layer(tree)].insert(key.into(), Some(value));
    }

    pub(crate) fn remove(&mut self, tree: Tree, key: &[u8]) {
        self.bytes += key.len();
        self.live[layer(tree)].insert(key.into(), None);
    }

    /// Removes a key and leaves no trace of it in memory when no other layer has it.
    pub(crate) fn remove_clean(&mut self, tree: Tree, key: &[u8]) -> Result<(), SpoolError> {
        let frozen = self.frozen.as_ref().is_some_and(|frozen| frozen.layers[layer(tree)].contains_key(key));
        if frozen || self.index.get(tree, key)?.is_some() {
            self.remove(tree, key);
        } else {
            self.live[layer(tree)].remove(key);
        }
        Ok(())
    }

    /// The bytes of one key, to be changed in place; empty when there are none.
    fn value_mut(&mut self, tree: Tree, key: &[u8]) -> Result<&mut Vec<u8>, SpoolError> {
        let known = self.live[layer(tree)].contains_key(key);
        let below = if known { None } else { self.get(tree, key)? };
        self.bytes +=
            if known { CHANGE_BYTES } else { key.len() + below.as_ref().map_or(CHANGE_BYTES, Vec::len) };
        Ok(self.live[layer(tree)].entry(key.into()).or_insert(below).get_or_insert_default())
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
            let mut layers: Vec<_> = [Some(&self.live), self.frozen.as_deref().map(|frozen| &frozen.layers)]
                .into_iter()
                .flatten()
                .map(|layers| {
                    layers[layer(tree)]
                        .range::<[u8], _>((Bound::Included(from.as_slice()), Bound::Unbounded))
                        .peekable()
                })
                .collect();
            let mut page = page.into_iter().peekable();
            loop {
                let key = layers.iter_mut().filter_map(|layer| Some(layer.peek()?.0.as_slice())).min();
                let of_index = page.peek().map(|(key, _)| key.as_slice());
                let Some(key) = key.into_iter().chain(of_index).min().filter(|key| inside(key)) else {
                    break;
                };
                let key = key.to_vec();
                let mut value = None;
                for layer in layers.iter_mut().rev() {
                    if let Some((_, newer)) = layer.next_if(|(known, _)| known.as_slice() == key) {
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
            let mut layers: Vec<_> = [Some(&self.live), self.frozen.as_deref().map(|frozen| &frozen.layers)]
                .into_iter()
                .flatten()
                .map(|layers| layers[layer(tree)].range::<[u8], _>(range).rev().peekable())
                .collect();
            let mut page = page.into_iter().peekable();
            loop {
                let key = layers.iter_mut().filter_map(|layer| Some(layer.peek()?.0.as_slice())).max();
                let of_index = page.peek().map(|(key, _)| key.as_slice());
                let Some(key) = key.into_iter().chain(of_index).max().map(<[u8]>::to_vec) else { break };
                let mut value = None;
                for layer in layers.iter_mut().rev() {
                    if let Some((_, newer)) = layer.next_if(|(known, _)| known.as_slice() == key) {
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

    /// The lane that a name leads to.
    pub(crate) fn name(&self, name: &str) -> Result<Option<LaneId>, SpoolError> {
        let name = name.as_bytes();
        let known = self.names.borrow().get(name);
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.get(Tree::Name, name)?.as_deref().and_then(entry::lane_of_key);
        self.names.borrow_mut().set(name, found);
        Ok(found)
    }

    pub(crate) fn put_name(&mut self, name: &str, lane: LaneId) {
        self.names.get_mut().set(name.as_bytes(), Some(lane));
        self.put(Tree::Name, name.as_bytes(), entry::lane_key(lane));
    }

    pub(crate) fn remove_name(&mut self, name: &str) {
        self.names.get_mut().set(name.as_bytes(), None);
        self.remove(Tree::Name, name.as_bytes());
    }

    pub(crate) fn lane(&self, id: LaneId) -> Result<Option<Lane>, SpoolError> {
        self.of_lane(id, Lane::clone)
    }

    /// What `take` takes of a lane.
    pub(crate) fn of_lane<T>(
        &self,
        id: LaneId,
        take: impl FnOnce(&Lane) -> T,
    ) -> Result<Option<T>, SpoolError> {
        self.look(id, |kept| take(&kept.lane))
    }

    /// Cursor, first seq and next seq of a lane.
    pub(crate) fn bounds(&self, id: LaneId) -> Result<Option<(u64, u64, u64)>, SpoolError> {
        self.of_lane(id, |lane| (lane.cursor, lane.first_seq, lane.next_seq))
    }

    /// What `take` takes of the lane and its open block; `None` when nobody has heard of the lane.
    fn look<T>(&self, id: LaneId, take: impl FnOnce(&Kept) -> T) -> Result<Option<T>, SpoolError> {
        let mut kept = self.kept.borrow_mut();
        if let Some(lane) = self.lanes.get(&id).or_else(|| kept.get(&id)) {
            return Ok(Some(take(lane)));
        }
        let Some(lane) = self.below(id)? else { return Ok(None) };
        let taken = take(&lane);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(id, lane);
        Ok(Some(taken))
    }

    /// The lane with its open block, as the layers below have it.
    fn below(&self, id: LaneId) -> Result<Option<Box<Kept>>, SpoolError> {
        if let Some(kept) = self.frozen.as_ref().and_then(|frozen| frozen.kept(id)) {
            return Ok(Some(Box::new(kept)));
        }
        let bytes = self.index.get(Tree::Lane, &entry::lane_key(id))?;
        bytes.as_deref().map(|bytes| Kept::decode(bytes).map(Box::new)).transpose()
    }

    /// The lane, to be changed; made as a placeholder when nobody has heard of it.
    pub(crate) fn lane_mut(&mut self, id: LaneId) -> Result<&mut Lane, SpoolError> {
        if !self.lanes.contains_key(&id) {
            let kept = self.kept.get_mut().remove(&id);
            let kept = kept.map_or_else(|| self.below(id), |kept| Ok(Some(kept)))?.unwrap_or_default();
            self.bytes += 256 + kept.packed_bytes();
            self.lanes.insert(id, kept);
        }
        Ok(&mut self.lanes.entry(id).or_default().lane)
    }

    /// Lanes after `after`, ascending.
    pub(crate) fn lanes(
        &self,
        after: Option<LaneId>,
        limit: usize,
    ) -> Result<Vec<(LaneId, Lane)>, SpoolError> {
        let start = after.map_or(Some(0), |lane| lane.0.checked_add(1));
        let Some(start) = start else { return Ok(Vec::new()) };
        let found = self.kept_from(LaneId(start), None, limit)?;
        Ok(found.into_iter().map(|(id, kept)| (id, kept.lane)).collect())
    }

    /// Lanes from `from` on and below `end`, ascending, with the open blocks of the layers below.
    fn kept_from(
        &self,
        from: LaneId,
        end: Option<LaneId>,
        limit: usize,
    ) -> Result<Vec<(LaneId, Kept)>, SpoolError> {
        let mut out: BTreeMap<LaneId, Kept> = BTreeMap::new();
        let end_key = end.map(entry::lane_key);
        for (key, value) in self.index.scan(Tree::Lane, &entry::lane_key(from), end_key.as_deref(), limit)? {
            if let Some(id) = entry::lane_of_key(&key) {
                out.insert(id, Kept::decode(&value)?);
            }
        }
        let is_before_end = |id: &LaneId| end.is_none_or(|end| *id < end);
        if let Some(frozen) = &self.frozen {
            let ids = frozen.lanes.range(from..).map(|(id, _)| *id).take_while(is_before_end).take(limit);
            out.extend(ids.filter_map(|id| Some((id, frozen.kept(id)?))));
        }
        let changed = self.lanes.range(from..).take_while(|(id, _)| is_before_end(id));
        out.extend(changed.take(limit).map(|(id, kept)| (*id, Kept::clone(kept))));
        Ok(out.into_iter().take(limit).collect())
    }

    /// Some blocks from block `from` on and below lane `end`, ascending, at most `limit`, and where to go on; `None`: that
    /// is all. Lanes without items are steps, too: there may be no block and yet more to come.
    pub(crate) fn blocks(
        &self,
        from: BlockAt,
        end: Option<LaneId>,
        limit: usize,
    ) -> Result<(Vec<Block>, Option<BlockAt>), SpoolError> {
        let lanes_max = limit.max(SCAN_PAGE);
        let lanes = self.kept_from(from.0, end, lanes_max)?;
        // Blocks of other lanes than these come with the next page.
        let lanes_end = lanes
            .last()
            .filter(|_| lanes.len() == lanes_max)
            .and_then(|(id, _)| id.0.checked_add(1))
            .map(LaneId);
        let end_key = lanes_end.or(end).map(entry::lane_key);
        let own = self.scan(Tree::Block, &entry::block_key(from.0, from.1), end_key.as_deref(), limit)?;
        let own_last =
            own.last().filter(|_| own.len() == limit).and_then(|(key, _)| entry::block_of_key(key));
        let mut page: BTreeMap<BlockAt, Found> = own
            .into_iter()
            .filter_map(|(key, block)| Some((entry::block_of_key(&key)?, Found::Own(block))))
            .collect();
        for (id, kept) in lanes {
            let Some(number) = kept.number() else { continue };
            let changed = self.live[layer(Tree::Block)].contains_key(entry::block_key(id, number).as_slice());
            if (id, number) >= from && !changed {
                page.insert((id, number), Found::Open(Box::new(kept)));
            }
        }
        let more = page.len() > limit;
        let mut out = Vec::new();
        for (at, found) in
            page.into_iter().take_while(|(at, _)| own_last.is_none_or(|last| *at <= last)).take(limit)
        {
            out.push((at, found.block()?));
        }
        let next = match out.last() {
            Some(((lane, number), _)) if more || own_last.is_some() => Some((*lane, number + 1)),
            _ => lanes_end.map(|lane| (lane, 0)),
        };
        Ok((out, next))
    }

    /// Bytes of one block of entries; empty when there is none.
    pub(crate) fn block(&self, lane: LaneId, block: u64) -> Result<Vec<u8>, SpoolError> {
        Ok(self.get(Tree::Block, &entry::block_key(lane, block))?.unwrap_or_default())
    }

    pub(crate) fn entry(&self, lane: LaneId, seq: Seq) -> Result<Option<entry::Entry>, SpoolError> {
        let key = entry::block_key(lane, entry::block_of(seq));
        match self.live[layer(Tree::Block)].get(key.as_slice()) {
            Some(Some(block)) => Ok(entry::get(block, seq)),
            Some(None) => Ok(None),
            None => Ok(self.get(Tree::Block, &key)?.and_then(|block| entry::get(&block, seq))),
        }
    }

    /// The block of `seq`, to be changed.
    fn block_mut(&mut self, lane: LaneId, seq: Seq) -> Result<&mut Vec<u8>, SpoolError> {
        let number = entry::block_of(seq);
        let key = entry::block_key(lane, number);
        if !self.live[layer(Tree::Block)].contains_key(key.as_slice()) {
            self.lane_mut(lane)?;
            let below = self.get(Tree::Block, &key)?.unwrap_or_default();
            self.put(Tree::Block, &key, below);
            if let Some(kept) = self.lanes.get_mut(&lane) {
                kept.give_up(number);
            }
        }
        self.bytes += CHANGE_BYTES;
        Ok(self.live[layer(Tree::Block)].entry(Key::from_slice(&key)).or_default().get_or_insert_default())
    }

    pub(crate) fn put_entry(
        &mut self,
        lane: LaneId,
        seq: Seq,
        value: entry::Entry,
    ) -> Result<(), SpoolError> {
        let counted = self.tally.get_mut().has(lane, seq);
        let block = self.block_mut(lane, seq)?;
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
        let block = self.block_mut(lane, seq)?;
        let old = if counted { entry::get(block, seq) } else { None };
        if entry::remove(block, seq) {
            self.remove(Tree::Block, &entry::block_key(lane, entry::block_of(seq)));
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
        entry::bucket_put(self.value_mut(Tree::Item, &entry::bucket_key(id))?, id, lane, seq);
        Ok(())
    }

    pub(crate) fn remove_place(&mut self, id: crate::ids::ItemId) -> Result<(), SpoolError> {
        let key = entry::bucket_key(id);
        if entry::bucket_remove(self.value_mut(Tree::Item, &key)?, id) {
            self.remove(Tree::Item, &key);
        }
        Ok(())
    }

    /// Freezes what changed, to be written up to `applied`. There must be none in progress.
    pub(crate) fn freeze(&mut self, applied: Lsn) -> Result<CheckpointJob, SpoolError> {
        let blocks = &self.live[layer(Tree::Block)];
        let mut left = Vec::new();
        for (id, kept) in &self.lanes {
            let number = kept.number().filter(|number| *number != kept.lane.open_block());
            let key = number.map(|number| entry::block_key(*id, number));
            if let Some(key) = key.filter(|key| !blocks.contains_key(key.as_slice())) {
                left.push((Key::from_slice(&key), Some(kept.block()?)));
            }
        }
        // From here on nothing fails: what was changed is all in there, or all still here.
        self.live[layer(Tree::Block)].extend(left);
        let frozen = Arc::new(Frozen {
            layers: std::mem::take(&mut self.live),
            lanes: std::mem::take(&mut self.lanes),
        });
        self.bytes = 0;
        self.frozen = Some(Arc::clone(&frozen));
        Ok(CheckpointJob { index: self.index.clone(), frozen, applied })
    }

    /// The frozen layer is in the index now.
    pub(crate) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Puts the frozen layer under the live one again.
    pub(crate) fn refreeze(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        let Frozen { layers, lanes } = Arc::unwrap_or_clone(frozen);
        for (live, frozen) in self.live.iter_mut().zip(layers) {
            for (key, value) in frozen {
                live.entry(key).or_insert(value);
            }
        }
        for (id, kept) in lanes {
            self.kept.get_mut().remove(&id);
            self.lanes.entry(id).or_insert(kept);
        }
    }

    pub(crate) fn checkpoint_in_progress(&self) -> bool {
        self.frozen.is_some()
    }
}
