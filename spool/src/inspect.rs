//! Looking at items, and what an operator may do to them. Reads are paged; nothing here walks a whole spool in
//! one call. A record that cannot be read is a value in the answer, never the end of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::disk::{Disk, DiskFile};
use crate::entry::{self, Entry};
use crate::error::{RequestError, SpoolError};
use crate::ids::{ItemId, LaneId, Lsn, Seq, WallMs};
use crate::index::memory::MemoryIndex;
use crate::life::{self, Event};
use crate::reader::JournalReader;
use crate::record::{CHUNK_PREFIX_BYTES, Kind, Record, StateRecord};
use crate::recover::{self, Mode};
use crate::scan::{Found, Scanner};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::spool::{Options, Recovery, Spool};
use crate::types::{ChunkRef, Filter, ItemInfo, Page, State, Transition, Verb};

/// Most items in one answer of [`Spool::list`].
pub const LIST_MAX: usize = 1000;
/// Blocks looked into by one call of [`Spool::replay`]: at most 4096 items in one state record.
const REPLAY_BLOCKS_MAX: usize = 64;
/// Blocks looked into by one call of [`Spool::list`].
const LIST_BLOCKS_MAX: usize = 512;
/// Most blocks that it fetches at once.
const LIST_BLOCKS_AT_ONCE: usize = 64;

/// How long before and after its acceptance an item's id may be dated, as far as anybody looks, milliseconds.
const BODY_MS_MAX: u64 = 3_600_000;
/// Pages of ids that are looked through for one that no record tells.
const ID_PAGES_MAX: usize = 64;

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayFrom {
    /// At this position.
    Seq(Seq),
    /// At the first item accepted at or after this time.
    Since(WallMs),
}

/// What one call of [`Spool::replay`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Items offered again.
    pub items: u64,
    /// Where to go on; `None`: that was all.
    pub go_on: Option<Seq>,
}

/// A comparison of a lane's counters that was begun; see [`Spool::verify_lane_part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanePart(u64);

/// How far such a comparison came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneChecked {
    /// There are more blocks to look into.
    GoOn(LanePart),
    /// What does not agree, in words; `None`: everything does.
    Done(Option<String>),
}

impl Spool {
    /// Opens the spool for looking only: takes the lock, reads the whole journal into memory, changes nothing.
    /// Every attempt to change something is answered with [`SpoolError::Poisoned`].
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_read_only(
        disk: Arc<dyn Disk>,
        options: Options,
        now: WallMs,
    ) -> Result<(Self, Recovery), SpoolError> {
        recover::open_as(disk, Arc::new(MemoryIndex::new()), options, now, Mode::ReadOnly)
    }

    /// One item, or `None` when there never was one or its retention is over.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] when its record is damaged.
    pub fn item(&self, id: ItemId) -> Result<Option<ItemInfo>, SpoolError> {
        match self.find(id)? {
            Some((_, _, entry)) if entry.item_lsn >= self.journal.durable() => Ok(None),
            Some((lane, seq, entry)) => self.info(lane, seq, &entry).map(Some),
            None => Ok(None),
        }
    }

    /// What happened to an item, oldest first; empty when it is unknown.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] when its record is damaged.
    pub fn timeline(&self, id: ItemId) -> Result<Vec<Transition>, SpoolError> {
        let Some((lane, seq, entry)) = self.find(id)? else { return Ok(Vec::new()) };
        let item = self.read_item(entry.item_lsn)?;
        match item.targets.iter().find(|target| target.lane == lane.0 && target.seq == seq.0) {
            Some(target) => self.history(&entry, target),
            None => Ok(Vec::new()),
        }
    }

    /// Items by lane and seq: those that match `filter`, after `after`, at most `limit`. The page says where to
    /// go on, `None` at the end; a page may be empty and still not the last. An item whose record is damaged is
    /// listed with what the index knows: its envelope and hash are empty, and its id reads as zeros when not even
    /// that is known.
    ///
    /// # Errors
    /// [`SpoolError::Index`], [`SpoolError::Io`].
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<Page>,
        limit: usize,
    ) -> Result<(Vec<ItemInfo>, Option<Page>), SpoolError> {
        let limit = limit.min(LIST_MAX);
        let mut out = Vec::new();
        let mut at = after.unwrap_or(Page { lane: filter.lane.unwrap_or(LaneId(0)), seq: Seq(0) });
        let end = filter.lane.map(|lane| LaneId(lane.0.saturating_add(1)));
        let durable = self.journal.durable();
        // Whoever wants one item gets it from one block; whoever finds nothing in the first blocks gets on faster.
        let (mut looked, mut wanted) = (0, limit / entry::BLOCK_ITEMS as usize + 1);
        while looked < LIST_BLOCKS_MAX {
            wanted = wanted.min(LIST_BLOCKS_AT_ONCE).min(LIST_BLOCKS_MAX - looked);
            let from = (at.lane, entry::block_of(at.seq.next()));
            let (page, next) = self.tail.blocks(from, end, wanted)?;
            looked += wanted;
            wanted *= 2;
            for ((lane, number), block) in page {
                for (seq, entry) in entry::entries(number, &block) {
                    if (lane, seq) <= (at.lane, at.seq) || entry.item_lsn >= durable {
                        continue;
                    }
                    if out.len() == limit {
                        return Ok((out, Some(at)));
                    }
                    at = Page { lane, seq };
                    if matches(filter, &entry) {
                        out.push(match self.info(lane, seq, &entry) {
                            Ok(info) => info,
                            Err(SpoolError::Corrupt { .. }) => self.unreadable(lane, seq, &entry)?,
                            Err(error) => return Err(error),
                        });
                    }
                }
            }
            let Some((lane, number)) = next else { return Ok((out, None)) };
            at = Page { lane, seq: Seq(entry::block_start(number).0.saturating_sub(1)) };
        }
        Ok((out, Some(at)))
    }

    /// What is known of an item whose record cannot be read.
    pub(crate) fn unreadable(&self, lane: LaneId, seq: Seq, entry: &Entry) -> Result<ItemInfo, SpoolError> {
        Ok(ItemInfo {
            id: self.id_at(lane, seq, entry.accepted_at)?.unwrap_or(ItemId([0; 16])),
            lane,
            lane_name: self.owner_of(lane)?,
            seq,
            state: entry.state,
            leased: false,
            size_bytes: u64::from(entry.size_bytes),
            accepted_at: entry.accepted_at,
            changed_at: entry.changed_at,
            sha256: [0; 32],
            chain: [0; 32],
            meta: Vec::new(),
            tag: Vec::new(),
            head: Vec::new(),
            chunks: Vec::new(),
            outbound: entry.outbound,
        })
    }

    /// The id of the item at a place, found without its record: ids are dated when their message begins to come in.
    fn id_at(&self, lane: LaneId, seq: Seq, accepted_at: WallMs) -> Result<Option<ItemId>, SpoolError> {
        let begun = WallMs(accepted_at.0.saturating_sub(BODY_MS_MAX));
        let key = |at: WallMs| entry::bucket_key(ItemId::new(at, [0; 10]));
        let end = key(accepted_at.plus(BODY_MS_MAX));
        let mut from = key(begun).to_vec();
        for _ in 0..ID_PAGES_MAX {
            let page = self.tail.scan(crate::index::Tree::Item, &from, Some(&end), LIST_MAX)?;
            for (_, bucket) in &page {
                let found = entry::bucket_entries(bucket).find(|(_, at, n)| (*at, *n) == (lane, seq));
                if let Some((id, _, _)) = found {
                    return Ok(Some(id));
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == LIST_MAX => {
                    from.clone_from(last);
                    from.push(0);
                }
                Some(_) | None => break,
            }
        }
        Ok(None)
    }

    /// Does to an item what an operator asked. Stage only: commit afterwards.
    ///
    /// # Errors
    /// [`RequestError::UnknownItem`], [`RequestError::WrongState`], [`RequestError::Spool`].
    pub fn apply_verb(
        &mut self,
        id: ItemId,
        verb: Verb,
        reason: &str,
        now: WallMs,
    ) -> Result<(), RequestError> {
        let (lane, seq, entry) = self.find(id)?.ok_or(RequestError::UnknownItem(id))?;
        let event = match verb {
            Verb::Hold => Event::Hold,
            Verb::Release => Event::Release,
            Verb::Replay => Event::Replay,
            Verb::Purge => Event::Purge,
        };
        if !life::waits(entry.state) && !self.is_retained(&entry, now) {
            return Err(RequestError::UnknownItem(id)); // only the sweep has not come by yet
        }
        // A submission's one result must be told before anything of it goes: cancel it instead.
        let owed = event == Event::Purge && entry.outbound.is_some_and(|outbound| !outbound.told);
        if owed || life::step(entry.state, event).is_none() {
            let (state, verb) = (entry.state.word(), event.verb());
            return Err(RequestError::WrongState { id, state, verb });
        }
        self.change_state(lane, seq, &entry, event, reason, now)?;
        Ok(())
    }

    /// Is the retention of a finished item not over yet? After it the entry may be there still (or, in a rebuilt index,
    /// again), until the sweep comes by.
    fn is_retained(&self, entry: &Entry, now: WallMs) -> bool {
        now.since(entry.changed_at) < self.retention_ms(entry)
    }

    /// How long an entry that nobody waits for stays.
    pub(crate) fn retention_ms(&self, entry: &Entry) -> u64 {
        if entry.outbound.is_some() { self.options.retain_results_ms } else { self.options.retain_ms }
    }

    /// Offers acked items of a lane again, within retention: a bounded part of them. Ask again with
    /// [`Replayed::go_on`] until it is `None`; others get their turn in between.
    ///
    /// * `at`: where to go on; `None` to begin.
    ///
    /// # Errors
    /// [`RequestError::Spool`].
    pub fn replay(
        &mut self,
        id: LaneId,
        from: ReplayFrom,
        at: Option<Seq>,
        now: WallMs,
    ) -> Result<Replayed, RequestError> {
        let mut done = Replayed::default();
        let Some(lane) = self.tail.lane(id)? else { return Ok(done) };
        let (first, since) = match from {
            ReplayFrom::Seq(seq) => (seq.0, WallMs(0)),
            ReplayFrom::Since(since) => (1, since),
        };
        let mut seq = Seq(at.map_or(first, |at| at.0).max(lane.first_seq).max(1));
        let mut refs = Vec::new();
        for _ in 0..REPLAY_BLOCKS_MAX {
            if seq.0 >= lane.next_seq {
                break;
            }
            let number = entry::block_of(seq);
            let block = self.tail.block(id, number)?;
            let wanted = |entry: &Entry| {
                entry.state == State::Acked && entry.accepted_at >= since && self.is_retained(entry, now)
            };
            for (at, entry) in entry::entries(number, &block).filter(|(at, e)| *at >= seq && wanted(e)) {
                refs.push(crate::lease::state_ref(id, at, &entry));
            }
            seq = Self::next_block_start(seq);
        }
        done.items = refs.len() as u64;
        done.go_on = (seq.0 < lane.next_seq).then_some(seq);
        if let Some(first) = refs.first() {
            let first = Seq(first.seq);
            self.stage_replay(refs, now)?;
            self.rewind(id, first);
        }
        Ok(done)
    }

    fn stage_replay(&mut self, items: Vec<crate::record::StateRef>, now: WallMs) -> Result<(), SpoolError> {
        let record = StateRecord {
            to: entry::state_code(State::Ready),
            at_ms: now.0,
            reason: "replay asked for".to_owned(),
            items,
        };
        self.append_upkeep(Kind::State, &Record::State(record))
    }

    /// What `verify` needs to read the journal beside the running ledger.
    #[must_use]
    pub fn verify_plan(&self) -> VerifyPlan {
        let durable = self.journal.durable();
        let segments = self
            .journal
            .segments()
            .iter()
            .map(|(number, segment)| {
                let end = if *number == durable.segment() { durable.offset() } else { segment.end };
                (*number, (segment.file.clone(), end))
            })
            .collect();
        VerifyPlan { segments, seed: self.journal.seed() }
    }

    /// Compares the lane counters with the entries; answers what does not agree, in words. Looks into every block of the lane:
    /// whoever is not alone takes [`Spool::verify_lane_part`].
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn verify_lane(&self, id: LaneId) -> Result<Option<String>, SpoolError> {
        let mut part = None;
        loop {
            let mut blocks = usize::MAX;
            match self.verify_lane_part(id, part, &mut blocks)? {
                LaneChecked::GoOn(next) => part = Some(next),
                LaneChecked::Done(problem) => return Ok(problem),
            }
        }
    }

    /// The same in parts, for a ledger in use. What changes between two parts is counted as it happens, and is no disagreement.
    /// One lane at a time: whoever begins another takes the count of the first one away, which begins anew at its next part.
    ///
    /// * `part`: where the part before ended; `None` to begin.
    /// * `blocks`: how many blocks may be looked into; those that were are taken off.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn verify_lane_part(
        &self,
        id: LaneId,
        part: Option<LanePart>,
        blocks: &mut usize,
    ) -> Result<LaneChecked, SpoolError> {
        let Some(lane) = self.tail.lane(id)? else { return Ok(LaneChecked::Done(None)) };
        let mut tally = self.tail.tally(id, part.map(|part| part.0));
        let mut seq = tally.below.max(Seq(lane.first_seq.max(1)));
        while seq.0 < lane.next_seq {
            if *blocks == 0 {
                return Ok(LaneChecked::GoOn(LanePart(tally.number)));
            }
            *blocks -= 1;
            let number = entry::block_of(seq);
            for (at, entry) in entry::entries(number, &self.tail.block(id, number)?) {
                tally.add(&entry);
                if life::waits(entry.state) && at.0 <= lane.cursor {
                    tally.below = Seq(0);
                    let problem = format!("seq {at} waits below the cursor {}", lane.cursor);
                    return Ok(LaneChecked::Done(Some(problem)));
                }
            }
            seq = Self::next_block_start(seq);
            tally.below = seq;
        }
        tally.below = Seq(0);
        let (found, counted) = (tally.items, lane.items);
        let problem = (found != counted).then(|| format!("{found:?} items found, {counted:?} counted"));
        Ok(LaneChecked::Done(problem))
    }
}

pub(crate) fn matches(filter: &Filter, entry: &Entry) -> bool {
    (filter.states.is_empty() || filter.states.contains(&entry.state))
        && filter.since.is_none_or(|since| entry.accepted_at >= since)
        && filter.until.is_none_or(|until| entry.accepted_at < until)
        && filter.outbound.is_none_or(|outbound| entry.outbound.is_some() == outbound)
}

/// The journal as it was at one moment, to be read from any thread.
#[derive(Debug)]
pub struct VerifyPlan {
    segments: BTreeMap<u32, (Arc<dyn DiskFile>, u32)>,
    seed: u32,
}

/// What reading one segment gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentCheck {
    /// Whole records.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Stretches that are no records.
    pub damaged: Vec<(Lsn, u32)>,
}

impl VerifyPlan {
    /// Bytes to read in all.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.segments.values().map(|(_, end)| u64::from(*end)).sum()
    }

    /// Segment numbers, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments.keys().copied()
    }

    /// Reads every record of one segment and checks it.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn check_segment(&self, number: u32) -> Result<SegmentCheck, SpoolError> {
        let mut check = SegmentCheck::default();
        let Some((file, end)) = self.segments.get(&number) else { return Ok(check) };
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        let read = file.read_exact_at(&mut header, 0);
        if read.is_err() || SegmentHeader::decode(&header, number).is_err() {
            check.damaged.push((Lsn::at(number, 0), SEGMENT_HEADER_BYTES));
        }
        let mut scanner = Scanner::new(file.clone(), number, self.seed, 0, *end);
        loop {
            match scanner.next()? {
                None => break,
                Some(Found::Damaged { lsn, bytes }) => check.damaged.push((lsn, bytes)),
                Some(Found::Record { lsn, kind, payload }) => {
                    check.records += 1;
                    let readable =
                        Kind::from_u8(kind).is_some_and(|kind| crate::record::decode(kind, payload).is_ok());
                    if !readable {
                        check.damaged.push((lsn, payload.len() as u32));
                    }
                }
            }
        }
        let at = scanner.at().offset();
        check.bytes = u64::from(at);
        if at < *end {
            check.damaged.push((scanner.at(), end - at));
        }
        Ok(check)
    }
}

impl JournalReader {
    /// Piece `n` of an item's body.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] when it is damaged, or was moved by compaction since the item was looked up.
    pub fn chunk(&self, item: &ItemInfo, n: usize) -> Result<Vec<u8>, SpoolError> {
        let missing = || SpoolError::Corrupt { lsn: Lsn(0), problem: format!("no chunk {n}") };
        self.piece(item.chunks.get(n).copied().ok_or_else(missing)?)
    }

    /// The bytes of one piece of a body.
    ///
    /// # Errors
    /// As [`JournalReader::chunk`].
    pub fn piece(&self, chunk: ChunkRef) -> Result<Vec<u8>, SpoolError> {
        let lsn = Lsn(chunk.lsn);
        let len = chunk.len as usize + CHUNK_PREFIX_BYTES;
        let mut payload = self.read(lsn, Kind::BodyChunk, len)?;
        if payload.len() != len {
            return Err(SpoolError::Corrupt { lsn, problem: "it has another length".to_owned() });
        }
        payload.drain(..CHUNK_PREFIX_BYTES);
        Ok(payload)
    }

    /// [`JournalReader::piece`] when that needs no waiting for the medium; `None` says nothing but that it may.
    #[must_use]
    pub fn piece_at_once(&self, chunk: ChunkRef) -> Option<Vec<u8>> {
        let len = chunk.len as usize + CHUNK_PREFIX_BYTES;
        let mut payload = self.read_at_once(Lsn(chunk.lsn), Kind::BodyChunk, len)?;
        payload.drain(..CHUNK_PREFIX_BYTES);
        Some(payload)
    }

    /// Reads an item's whole body, a chunk at a time, and compares its hash.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`], [`SpoolError::Io`].
    pub fn check_body(&self, item: &ItemInfo) -> Result<(), SpoolError> {
        let mut sha256 = Sha256::new();
        for n in 0..item.chunks.len() {
            sha256.update(self.chunk(item, n)?);
        }
        if <[u8; 32]>::from(sha256.finalize()) == item.sha256 {
            Ok(())
        } else {
            let lsn = item.chunks.first().map_or(Lsn(0), |chunk| Lsn(chunk.lsn));
            Err(SpoolError::Corrupt { lsn, problem: format!("body of {} has another hash", item.id) })
        }
    }
}

#[cfg(test)]
mod tests;
