//! Gives space back: walks a sealed segment, writes again what is still needed, and marks the rest for removal.
//!
//! A segment may go when (1) every record in it is dead or has a newer copy, (2) a checkpoint taken after that
//! is stable, and (3) the journal says that older indexes are useless. The rules for what is needed are written
//! so that *any* set of surviving segments, replayed in order without an index, gives the same state
//! (`DESIGN.md`, "Reclaim"):
//!
//! * item record: needed while an entry points at it; its chunks go with it, wherever they lie;
//! * state or step record: needed while it is the newest of its entry; and, as a tombstone, after its entry was retired,
//!   as long as a segment survives that may hold a copy of the item, which would otherwise rise again;
//! * older step record of a submission: goes into the history of its item, which is written again for that;
//! * mailbox record: needed while it is the newest of its lane, or the lane's position rests on this segment;
//! * twin: needed until it ends.
//!
//! A segment with damage in it is never removed: it is evidence, and `verify` lists it.

use std::collections::BTreeSet;

use crate::entry;
use crate::error::SpoolError;
use crate::ids::{ItemId, LaneId, Lsn, Seq, WallMs};
use crate::index::Tree;
use crate::journal::{AppendError, Class};
use crate::lease::state_ref;
use crate::life;
use crate::record::{
    self, ItemRecord, Kind, Record, STATE_RETIRED, StateRecord, StateRef, StepRecord, TargetRecord,
    TwinRecord,
};
use crate::scan::{Found, Scanner};
use crate::spool::Spool;
use crate::types::{ChunkRef, State, Transition};

/// Transitions a moved item takes along.
const HISTORY_MAX: usize = 16;
/// The same for a submission, whose attempts are its story.
const OUTBOUND_HISTORY_MAX: usize = 64;

/// At rest, segments with less than this share of live bytes are walked, percent.
const AT_REST_BELOW_PERCENT: u8 = 95;

/// At rest, garbage below this is not worth a pass, bytes.
const AT_REST_WORTH_BYTES: u64 = 1024 * 1024;

/// How eagerly to give space back.
///
/// A pass walks the segments that were there when it began and then ends; the next one begins when enough has
/// become garbage since. So estimates of what is live may be off without compaction ever chasing its own tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Beside traffic: only what is mostly dead ([`crate::Options::compact_below_percent`]).
    Busy,
    /// Nobody waits: until garbage is a small part of what is stored.
    AtRest,
}

/// A walk through one segment.
#[derive(Debug)]
pub(crate) struct Compaction {
    segment: u32,
    scanner: Scanner,
    damaged: bool,
}

impl Spool {
    /// One step of compaction: reads about `budget_bytes` of a segment that is mostly dead, and stages what must
    /// be written again. True while there is work. Commit afterwards.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn compact_step(
        &mut self,
        budget_bytes: u32,
        effort: Effort,
        now: WallMs,
    ) -> Result<bool, SpoolError> {
        self.healthy()?;
        if self.has_staged() {
            return Ok(true); // what was accepted in this very batch cannot be read back yet
        }
        let mut compaction = match self.compaction.take() {
            Some(compaction) => compaction,
            None => match self.choose_segment(effort)? {
                Some(compaction) => compaction,
                None => {
                    self.compact_until = None;
                    return Ok(false);
                }
            },
        };
        if self.first_open_segment().is_some_and(|open| open <= compaction.segment) {
            return Ok(false); // a slow body still streams; begin again when it is done
        }
        let start = compaction.scanner.at().offset();
        loop {
            // Copy what the record says before looking at anything else: the scanner owns the bytes.
            let step = match compaction.scanner.next()? {
                None => None,
                Some(Found::Damaged { .. }) => {
                    compaction.damaged = true;
                    continue;
                }
                Some(Found::Record { lsn, kind, payload }) => Some((lsn, kind, read_kept(kind, payload))),
            };
            match step {
                None => {
                    self.finish_segment(&compaction);
                    return Ok(true);
                }
                Some((lsn, _, Ok(Some(record)))) => {
                    self.keep_if_needed(compaction.segment, lsn, record, now)?
                }
                Some((_, _, Ok(None))) => {}
                Some((_, _, Err(()))) => compaction.damaged = true,
            }
            if compaction.scanner.at().offset() - start >= budget_bytes {
                self.compaction = Some(compaction);
                return Ok(true);
            }
        }
    }

    fn finish_segment(&mut self, compaction: &Compaction) {
        if compaction.damaged {
            self.damaged_segments.insert(compaction.segment);
        } else {
            self.emptied.insert(compaction.segment);
        }
    }

    fn first_open_segment(&self) -> Option<u32> {
        self.open_bodies.values().filter_map(|open| open.first_segment).min()
    }

    /// Bytes of records in all segments.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.journal.segments().values().map(|segment| u64::from(segment.end)).sum()
    }

    fn choose_segment(&mut self, effort: Effort) -> Result<Option<Compaction>, SpoolError> {
        let (below_percent, worth_bytes) = match effort {
            Effort::Busy => (self.options.compact_below_percent, u64::from(self.options.segment_bytes) / 2),
            Effort::AtRest => {
                let floor = AT_REST_WORTH_BYTES.min(u64::from(self.options.segment_bytes) / 2);
                (AT_REST_BELOW_PERCENT, (self.used_bytes() / 20).max(floor))
            }
        };
        if self.compact_until.is_none() {
            if self.freed_bytes == 0 || self.freed_bytes < worth_bytes {
                return Ok(None);
            }
            self.freed_bytes = 0;
            if effort == Effort::AtRest {
                self.seal_active_if_dead(below_percent)?;
            }
            self.compact_until = Some(self.journal.active());
        }
        let Some(active) = self.compact_until else { return Ok(None) };
        let open = self.first_open_segment().unwrap_or(active);
        let chosen = self
            .journal
            .segments()
            .iter()
            .filter(|(number, _)| {
                **number < active
                    && **number < open
                    && !self.emptied.contains(number)
                    && !self.removable.contains(number)
                    && !self.damaged_segments.contains(number)
            })
            .map(|(number, segment)| (*number, segment, self.live_percent(*number, segment.end)))
            .filter(|(_, _, percent)| *percent < u64::from(below_percent))
            .min_by_key(|(number, _, percent)| (*percent, *number));
        let live_bytes = chosen.map(|(number, ..)| self.live.get(&number).copied().unwrap_or(0));
        if live_bytes.is_some_and(|bytes| !self.journal.takes_moves(bytes)) {
            // What is kept for acks and results on a full disk is not for moving. Others have no less to move.
            self.compact_until = None;
            self.freed_bytes = worth_bytes.max(1);
            return Ok(None);
        }
        Ok(chosen.map(|(number, segment, _)| {
            let scanner = Scanner::new(segment.file.clone(), number, self.journal.seed(), 0, segment.end);
            Compaction { segment: number, scanner, damaged: false }
        }))
    }

    fn live_percent(&self, number: u32, end: u32) -> u64 {
        self.live.get(&number).copied().unwrap_or(0) * 100 / u64::from(end.max(1))
    }

    /// Only sealed segments are walked: at rest, one that is mostly garbage is sealed for it.
    fn seal_active_if_dead(&mut self, below_percent: u8) -> Result<(), SpoolError> {
        let active = self.journal.active();
        let end = self.journal.segments().get(&active).map_or(0, |segment| segment.end);
        let used = u64::from(end) * 20 > self.used_bytes();
        if !used || self.live_percent(active, end) >= u64::from(below_percent) {
            return Ok(());
        }
        match self.journal.rotate() {
            Ok(()) | Err(AppendError::NoSpace) => Ok(()),
            Err(AppendError::Spool(error)) => Err(error),
        }
    }

    fn keep_if_needed(
        &mut self,
        segment: u32,
        lsn: Lsn,
        record: Record,
        now: WallMs,
    ) -> Result<(), SpoolError> {
        match record {
            Record::Batch(_) => Ok(()),
            Record::BodyChunk { body, .. } => {
                for item_lsn in self.items_of_body(body)? {
                    self.move_message(segment, item_lsn, Some(lsn))?;
                }
                Ok(())
            }
            Record::Item(item) => {
                let mut needed = false;
                let mut retired = Vec::new();
                for target in &item.targets {
                    self.keep_anchor(segment, LaneId(target.lane))?;
                    match self.tail.entry(LaneId(target.lane), Seq(target.seq))? {
                        Some(entry) => needed |= entry.item_lsn == lsn,
                        // A copy says which state the item was in. Without it an older one would speak again.
                        None if target.first_segment != 0 => retired.push(StateRef {
                            lane: target.lane,
                            seq: target.seq,
                            item_lsn: lsn.0,
                            first_segment: target.first_segment,
                            previous_lsn: lsn.0,
                        }),
                        None => {}
                    }
                }
                self.keep_tombstones(segment, retired, now.0)?;
                if needed { self.move_message(segment, lsn, None) } else { Ok(()) }
            }
            Record::State(state) => self.keep_states(segment, lsn, &state),
            Record::Step(step) => self.keep_step(segment, lsn, step),
            Record::Mailbox(mailbox) => {
                let lane = LaneId(mailbox.lane);
                let newest = self.tail.lane(lane)?.is_some_and(|lane| lane.defined == lsn.0);
                if newest { self.rewrite_mailbox(lane) } else { self.keep_anchor(segment, lane) }
            }
            Record::Twin(twin) => self.keep_twin(lsn, twin, now),
            Record::Invitation(invitation) => self.keep_invitation(lsn, invitation, now),
        }
    }

    /// Writes the lane's record again when its position rests on a record of this segment.
    fn keep_anchor(&mut self, segment: u32, lane: LaneId) -> Result<(), SpoolError> {
        let rests_here = self.tail.lane(lane)?.is_some_and(|lane| {
            lane.defined != 0
                && (Lsn(lane.anchor).segment() == segment || Lsn(lane.defined).segment() == segment)
        });
        if rests_here { self.rewrite_mailbox(lane) } else { Ok(()) }
    }

    fn keep_twin(&mut self, lsn: Lsn, twin: TwinRecord, now: WallMs) -> Result<(), SpoolError> {
        let known = self.tail.get(Tree::Twin, &twin.fingerprint)?;
        let newest = known
            .as_deref()
            .and_then(crate::accept::twin_fields)
            .is_some_and(|(_, until, at)| at == lsn.0 && until > now);
        if newest { self.append_upkeep(Kind::Twin, &Record::Twin(twin)) } else { Ok(()) }
    }

    /// The item records that need this body: one, or several when parts of a message were moved at different
    /// times (an item that a rebuilt index shows again after its retention has the old one).
    fn items_of_body(&self, body: ItemId) -> Result<BTreeSet<Lsn>, SpoolError> {
        let mut places = self.shared_places(body)?;
        places.extend(self.tail.place(body)?);
        let mut records = BTreeSet::new();
        for (lane, seq) in places {
            if let Some(entry) = self.tail.entry(lane, seq)?.filter(|entry| life::keeps_body(entry.state)) {
                records.insert(entry.item_lsn);
            }
        }
        Ok(records)
    }

    /// Writes a message again: its chunks that lie in `segment`, and a new item record for the targets that
    /// still exist. `only_for`: nothing to do unless this chunk is one of its own.
    fn move_message(&mut self, segment: u32, lsn: Lsn, only_for: Option<Lsn>) -> Result<(), SpoolError> {
        let item = match self.read_item(lsn) {
            Ok(item) => item,
            // Staged a moment ago by this very step: all of its chunks have been moved with it.
            Err(_) if lsn >= self.journal.durable() => return Ok(()),
            Err(SpoolError::Corrupt { .. }) => return Ok(()), // found again, and quarantined, when it is lent
            Err(error) => return Err(error),
        };
        if only_for.is_some_and(|chunk| !item.chunks.iter().any(|known| known.lsn == chunk.0)) {
            return Ok(());
        }
        let mut targets = Vec::with_capacity(item.targets.len());
        let mut wanted = false;
        let mut outbound = None;
        for target in &item.targets {
            let (lane, seq) = (LaneId(target.lane), Seq(target.seq));
            if let Some(entry) = self.tail.entry(lane, seq)?.filter(|entry| entry.item_lsn == lsn) {
                wanted |= life::keeps_body(entry.state);
                if entry.outbound.is_some() {
                    outbound = self.outbound_record(lane, seq, &entry, item.outbound.as_ref())?;
                }
                let mut history = self.history(&entry, target)?;
                let skip = history.len().saturating_sub(history_max(&entry));
                history.drain(..skip);
                targets.push(TargetRecord { first_segment: entry.first_segment, history, ..target.clone() });
            }
        }
        let chunks = if wanted { self.move_chunks(segment, &item)? } else { Some(Vec::new()) };
        let Some(chunks) = chunks else { return Ok(()) };
        let moved = ItemRecord { targets, chunks, outbound, ..item };
        if moved.targets.is_empty() {
            return Ok(());
        }
        self.append_upkeep(Kind::Item, &Record::Item(moved))
    }

    /// Copies the chunks in `segment`; `None` when one is damaged, which leaves the message where it is.
    fn move_chunks(&mut self, segment: u32, item: &ItemRecord) -> Result<Option<Vec<ChunkRef>>, SpoolError> {
        let reader = self.journal.reader();
        let mut copies = Vec::new();
        for chunk in &item.chunks {
            if Lsn(chunk.lsn).segment() == segment {
                let guess = chunk.len as usize + record::CHUNK_PREFIX_BYTES;
                match reader.read(Lsn(chunk.lsn), Kind::BodyChunk, guess) {
                    Ok(payload) => copies.push(Some(payload)),
                    Err(SpoolError::Corrupt { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                }
            } else {
                copies.push(None);
            }
        }
        let mut out = Vec::with_capacity(copies.len());
        for (chunk, copy) in item.chunks.iter().zip(copies) {
            out.push(match copy {
                None => *chunk,
                Some(payload) => {
                    let lsn = self.journal.append(Kind::BodyChunk, payload, None, Class::Upkeep)?;
                    ChunkRef { lsn: lsn.0, len: chunk.len }
                }
            });
        }
        Ok(Some(out))
    }

    fn keep_states(&mut self, segment: u32, lsn: Lsn, record: &StateRecord) -> Result<(), SpoolError> {
        let mut live: Vec<StateRef> = Vec::new();
        let mut retired: Vec<StateRef> = Vec::new();
        for item in &record.items {
            let (lane, seq) = (LaneId(item.lane), Seq(item.seq));
            match self.tail.entry(lane, seq)? {
                Some(entry) if entry.state_lsn == lsn => {
                    live.push(StateRef { previous_lsn: item.previous_lsn, ..state_ref(lane, seq, &entry) });
                }
                Some(_) => {}
                None => retired.push(*item),
            }
        }
        if !live.is_empty() {
            let again = StateRecord { items: live, ..record.clone() };
            self.append_upkeep(Kind::State, &Record::State(again))?;
        }
        self.keep_tombstones(segment, retired, record.at_ms)
    }

    fn keep_step(&mut self, segment: u32, lsn: Lsn, record: StepRecord) -> Result<(), SpoolError> {
        let (lane, seq) = (LaneId(record.item.lane), Seq(record.item.seq));
        match self.tail.entry(lane, seq)? {
            Some(entry) if entry.state_lsn == lsn => {
                let item =
                    StateRef { previous_lsn: record.item.previous_lsn, ..state_ref(lane, seq, &entry) };
                self.stage_step(Class::Upkeep, lane, seq, StepRecord { item, ..record })
            }
            // An older step is part of the story, which the item takes along when it is written again.
            Some(entry) if entry.outbound.is_some() && entry.item_lsn < lsn => {
                self.move_message(segment, entry.item_lsn, None)
            }
            Some(_) => Ok(()),
            None => self.keep_tombstones(segment, vec![record.item], record.at_ms),
        }
    }

    /// Says again that these items are gone, as far as a segment survives that may hold a copy of them.
    fn keep_tombstones(
        &mut self,
        segment: u32,
        mut items: Vec<StateRef>,
        at_ms: u64,
    ) -> Result<(), SpoolError> {
        let survivors: BTreeSet<u32> = self.journal.segments().keys().copied().collect();
        items.retain(|item| {
            let last = Lsn(item.item_lsn).segment();
            let copies = item.first_segment.min(last)..=last;
            survivors.range(copies).any(|survivor| *survivor != segment)
        });
        if items.is_empty() {
            return Ok(());
        }
        let tombstone = StateRecord { to: STATE_RETIRED, at_ms, reason: String::new(), items };
        self.append_upkeep(Kind::State, &Record::State(tombstone))
    }

    /// What happened to an item, oldest first, as far as the journal still tells.
    pub(crate) fn history(
        &self,
        entry: &entry::Entry,
        target: &TargetRecord,
    ) -> Result<Vec<Transition>, SpoolError> {
        let mut newest_first = Vec::new();
        let mut at = entry.state_lsn;
        while at != entry.item_lsn && at > entry.item_lsn && newest_first.len() < history_max(entry) {
            let state = match self.staged_steps.get(&at) {
                Some(step) => step.clone().into(),
                None if at >= self.journal.durable() => break,
                None => match self.read_change(at) {
                    Ok(state) => state,
                    Err(_) => break,
                },
            };
            let word = entry::state_from_code(state.to).map_or("retired", State::word);
            newest_first.push(Transition {
                state: word.to_owned(),
                at_ms: state.at_ms,
                reason: state.reason.clone(),
            });
            let previous = state.items.iter().find(|item| item.lane == target.lane && item.seq == target.seq);
            at = previous.map_or(entry.item_lsn, |item| Lsn(item.previous_lsn));
        }
        // A state that cannot be read any more is still the state.
        if newest_first.is_empty() && entry.state_lsn != entry.item_lsn {
            newest_first.push(Transition {
                state: entry.state.word().to_owned(),
                at_ms: entry.changed_at.0,
                reason: String::new(),
            });
        }
        let mut history = target.history.clone();
        if history.is_empty() {
            history.push(Transition {
                state: State::Ready.word().to_owned(),
                at_ms: entry.accepted_at.0,
                reason: "accepted".to_owned(),
            });
        }
        history.extend(newest_first.into_iter().rev());
        Ok(history)
    }
}

/// Transitions that are told and taken along.
fn history_max(entry: &entry::Entry) -> usize {
    if entry.outbound.is_some() { OUTBOUND_HISTORY_MAX } else { HISTORY_MAX }
}

/// The record, if its kind can need keeping; bodies are named by their prefix alone.
fn read_kept(kind: u8, payload: &[u8]) -> Result<Option<Record>, ()> {
    match Kind::from_u8(kind) {
        None => Err(()),
        Some(Kind::Batch) => Ok(None),
        Some(kind) => record::decode(kind, payload).map(Some).map_err(|_| ()),
    }
}
