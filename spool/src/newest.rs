//! Listing the newest first, over all lanes or in some of them, without walking what is older.
//!
//! Over all lanes the tree `item` is read backwards: its keys are the times of ids, so it is the order already. That was chosen
//! over a merge of the lanes (a heap of a thousand lanes costs a thousand blocks before the first answer) and over a ring of the
//! newest in memory (a second truth, which a start has to rebuild). In given lanes the blocks are walked down from the last
//! seq and merged by time of acceptance, because most of the tree would be of other lanes.
//!
//! Promises: one call looks at no more than [`LOOKS_MAX`] entries or [`BLOCKS_MAX`] blocks, however large the spool is; a page says
//! where to go on, also when nothing of it matched. An item whose record is damaged is listed with what the index knows.
//! Does not: order by acceptance over all lanes. An id is as old as the first octet of its body, so a message that took a minute
//! to come in stands a minute further down.
//! Failure policy: an unreadable index is an error, an unreadable record is not.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::entry::{self, Entry};
use crate::error::SpoolError;
use crate::ids::{ItemId, LaneId, Seq, WallMs};
use crate::index::Tree;
use crate::inspect::{LIST_MAX, matches};
use crate::spool::Spool;
use crate::types::{Filter, ItemInfo, Page, STATES, State};

/// Entries that one call of [`Spool::newest`] looks at.
pub const LOOKS_MAX: usize = 4096;
/// Blocks of lanes that one call reads.
pub const BLOCKS_MAX: usize = 512;
/// Blocks kept during one call, 2.8 KiB each.
const BLOCKS_KEPT_MAX: usize = 256;
/// Buckets of ids read at once.
const BUCKETS_PER_SCAN: usize = 64;
/// How far the time of an id may be from its acceptance, milliseconds: a body that comes in for long, a clock that was set.
const SLACK_MS: u64 = 3_600_000;

/// Where a listing of the newest begins, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whence {
    /// In all lanes, before this id; `None`: at the newest.
    Everywhere(Option<ItemId>),
    /// In these lanes, in each before this seq.
    Lanes(Vec<Page>),
}

impl Whence {
    /// The newest of these lanes.
    #[must_use]
    pub fn top_of(lanes: &[LaneId]) -> Self {
        Self::Lanes(lanes.iter().map(|lane| Page { lane: *lane, seq: Seq(u64::MAX) }).collect())
    }

    /// The place behind an item that was found from here.
    pub fn pass(&mut self, item: &ItemInfo) {
        match self {
            Self::Everywhere(before) => *before = Some(item.id),
            Self::Lanes(lanes) => {
                if let Some(page) = lanes.iter_mut().find(|page| page.lane == item.lane) {
                    page.seq = item.seq;
                }
            }
        }
    }
}

/// What one call may still do, and what it found.
struct Walk<'a> {
    filter: &'a Filter,
    limit: usize,
    found: Vec<ItemInfo>,
    looks: usize,
    /// Entries in the wanted states and direction that are left; `None`: nobody knows.
    left: Option<u64>,
}

impl Walk<'_> {
    /// Takes note of an entry that was looked at; `None`: its place is empty.
    fn looked_at(&mut self, entry: Option<&Entry>) {
        self.looks += 1;
        let Filter { states, outbound, .. } = self.filter;
        let is_counted = |entry: &Entry| {
            (states.is_empty() || states.contains(&entry.state))
                && outbound.is_none_or(|outbound| entry.outbound.is_some() == outbound)
        };
        if entry.is_some_and(is_counted) {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
    }

    /// Nothing that is left can match.
    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// The page is full, or enough was looked at.
    fn is_full(&self) -> bool {
        self.found.len() >= self.limit || self.looks >= LOOKS_MAX
    }

    fn is_too_old(&self, entry: &Entry) -> bool {
        self.filter.since.is_some_and(|since| entry.accepted_at.0.saturating_add(SLACK_MS) < since.0)
    }
}

impl Spool {
    /// Items that match `filter`, newest first, at most `limit`, and where to go on; `None` at the end. A page may be empty and
    /// still not the last. `filter.lane` is not looked at: `whence` says where.
    ///
    /// # Errors
    /// [`SpoolError::Index`], [`SpoolError::Io`].
    pub fn newest(
        &self,
        filter: &Filter,
        whence: &Whence,
        limit: usize,
    ) -> Result<(Vec<ItemInfo>, Option<Whence>), SpoolError> {
        let limit = limit.clamp(1, LIST_MAX);
        let left = self.left(filter, whence)?;
        let mut walk = Walk { filter, limit, found: Vec::new(), looks: 0, left };
        if left == Some(0) {
            return Ok((Vec::new(), None));
        }
        let next = match whence {
            Whence::Everywhere(before) => {
                self.walk_ids(&mut walk, *before)?.map(|id| Whence::Everywhere(Some(id)))
            }
            Whence::Lanes(lanes) => self.walk_lanes(&mut walk, lanes)?.map(Whence::Lanes),
        };
        Ok((walk.found, next))
    }

    /// How many entries in the wanted states and direction there are, as the counters say; known only at the top.
    fn left(&self, filter: &Filter, whence: &Whence) -> Result<Option<u64>, SpoolError> {
        let wanted = |items: &[u64; STATES]| -> u64 {
            let counted = State::ALL.iter().zip(items);
            counted
                .filter(|(state, _)| filter.states.is_empty() || filter.states.contains(state))
                .map(|(_, n)| n)
                .sum()
        };
        match whence {
            Whence::Everywhere(None) => {
                let (all, out) = (wanted(&self.items), wanted(&self.submissions));
                Ok(Some(match filter.outbound {
                    None => all,
                    Some(true) => out,
                    Some(false) => all.saturating_sub(out),
                }))
            }
            // A lane is an outbox or it is none: with another direction nothing of it counts, and its end is the end.
            Whence::Lanes(lanes) if lanes.iter().all(|page| page.seq.0 == u64::MAX) => {
                let mut sum = 0;
                for page in lanes {
                    sum += self.tail.lane(page.lane)?.map_or(0, |lane| wanted(&lane.items));
                }
                Ok(Some(sum))
            }
            Whence::Everywhere(Some(_)) | Whence::Lanes(_) => Ok(None),
        }
    }

    /// Walks the tree of ids down from `before`; answers the last id looked at, or `None` at the end.
    fn walk_ids(&self, walk: &mut Walk<'_>, before: Option<ItemId>) -> Result<Option<ItemId>, SpoolError> {
        let bucket_of = |ms: u64| entry::bucket_key(ItemId::new(WallMs(ms), [0; 10])).to_vec();
        let from =
            walk.filter.since.map_or_else(Vec::new, |since| bucket_of(since.0.saturating_sub(SLACK_MS)));
        // One that was accepted before `until` has an id of before it, or the clock was set.
        let until = walk.filter.until.map(|until| bucket_of(until.0.saturating_add(SLACK_MS)));
        let mut to = match (before, until) {
            (Some(id), until) => {
                let behind = [entry::bucket_key(id).as_slice(), b"\0"].concat();
                Some(until.map_or(behind.clone(), |until| until.min(behind)))
            }
            (None, until) => until,
        };
        let mut blocks = Blocks::default();
        loop {
            let page = self.tail.scan_back(Tree::Item, &from, to.as_deref(), BUCKETS_PER_SCAN)?;
            for (_, bucket) in &page {
                let mut places: Vec<_> = entry::bucket_entries(bucket).collect();
                places.retain(|(id, ..)| before.is_none_or(|before| *id < before));
                places.sort_unstable_by_key(|(id, ..)| Reverse(*id));
                for (id, lane, seq) in places {
                    let entry = blocks.entry(self, lane, seq)?;
                    if let Some(entry) = &entry {
                        self.take(walk, Some(id), lane, seq, entry)?;
                    }
                    walk.looked_at(entry.as_ref());
                    if walk.is_done() {
                        return Ok(None);
                    }
                    if walk.is_full() {
                        return Ok(Some(id));
                    }
                }
            }
            match page.last() {
                Some((lowest, _)) if page.len() == BUCKETS_PER_SCAN => to = Some(lowest.clone()),
                Some(_) | None => return Ok(None),
            }
        }
    }

    /// Walks the blocks of lanes down, merged by time of acceptance; answers where each stands, or `None` at the end.
    fn walk_lanes(&self, walk: &mut Walk<'_>, lanes: &[Page]) -> Result<Option<Vec<Page>>, SpoolError> {
        let mut read = 0;
        let mut descents = Vec::new();
        for page in lanes {
            descents.push(Descent::new(self, *page)?);
        }
        loop {
            for descent in &mut descents {
                while descent.entries.is_empty() && !descent.is_over() && read < BLOCKS_MAX {
                    descent.load(self)?;
                    read += 1;
                }
            }
            if descents.iter().any(|descent| descent.entries.is_empty() && !descent.is_over()) {
                return Ok(Some(stands(&descents)));
            }
            let newest = descents.iter_mut().filter(|descent| !descent.entries.is_empty());
            let Some(descent) = newest.max_by_key(|descent| descent.accepted_at()) else { return Ok(None) };
            let Some((seq, entry)) = descent.entries.pop() else { return Ok(None) };
            descent.page.seq = seq;
            let lane = descent.page.lane;
            self.take(walk, None, lane, seq, &entry)?;
            walk.looked_at(Some(&entry));
            if walk.is_done() || walk.is_too_old(&entry) {
                return Ok(None);
            }
            if walk.is_full() {
                return Ok(Some(stands(&descents)));
            }
        }
    }

    /// Puts an entry on the page if it matches and is stable.
    fn take(
        &self,
        walk: &mut Walk<'_>,
        id: Option<ItemId>,
        lane: LaneId,
        seq: Seq,
        entry: &Entry,
    ) -> Result<(), SpoolError> {
        if entry.item_lsn >= self.journal.durable() || !matches(walk.filter, entry) {
            return Ok(());
        }
        walk.found.push(match self.info(lane, seq, entry) {
            Ok(info) => info,
            Err(SpoolError::Corrupt { .. }) => {
                let unreadable = self.unreadable(lane, seq, entry)?;
                ItemInfo { id: id.unwrap_or(unreadable.id), ..unreadable }
            }
            Err(error) => return Err(error),
        });
        Ok(())
    }
}

/// Blocks that were read during one call.
#[derive(Default)]
struct Blocks(HashMap<(LaneId, u64), Vec<u8>>);

impl Blocks {
    fn entry(&mut self, spool: &Spool, lane: LaneId, seq: Seq) -> Result<Option<Entry>, SpoolError> {
        let number = entry::block_of(seq);
        if let Some(block) = self.0.get(&(lane, number)) {
            return Ok(entry::get(block, seq));
        }
        if self.0.len() >= BLOCKS_KEPT_MAX {
            self.0.clear();
        }
        let block = spool.tail.block(lane, number)?;
        let entry = entry::get(&block, seq);
        self.0.insert((lane, number), block);
        Ok(entry)
    }
}

/// One lane, from its end down.
struct Descent {
    /// The last entry taken.
    page: Page,
    /// Entries of the block that was read last, ascending.
    entries: Vec<(Seq, Entry)>,
    /// Blocks below this one were not read.
    below: u64,
    /// The lowest block that can hold something.
    lowest: u64,
}

impl Descent {
    fn new(spool: &Spool, page: Page) -> Result<Self, SpoolError> {
        let lane = spool.tail.lane(page.lane)?.unwrap_or_default();
        let before = page.seq.0.min(lane.next_seq);
        let below = if before == 0 { 0 } else { entry::block_of(Seq(before - 1)) + 1 };
        let lowest = entry::block_of(Seq(lane.first_seq));
        Ok(Self { page: Page { seq: Seq(before), ..page }, entries: Vec::new(), below, lowest })
    }

    fn accepted_at(&self) -> Option<WallMs> {
        self.entries.last().map(|(_, entry)| entry.accepted_at)
    }

    fn is_over(&self) -> bool {
        self.below <= self.lowest
    }

    fn load(&mut self, spool: &Spool) -> Result<(), SpoolError> {
        self.below -= 1;
        let block = spool.tail.block(self.page.lane, self.below)?;
        let before = self.page.seq;
        self.entries = entry::entries(self.below, &block).filter(|(seq, _)| *seq < before).collect();
        // What was looked at and is empty is not looked at again.
        if self.entries.is_empty() {
            self.page.seq = before.min(entry::block_start(self.below));
        }
        Ok(())
    }
}

fn stands(descents: &[Descent]) -> Vec<Page> {
    descents.iter().map(|descent| descent.page).collect()
}

#[cfg(test)]
mod tests;
