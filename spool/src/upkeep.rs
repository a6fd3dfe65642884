//! What a spool does by itself: expiry, retention, looking at free space. In small steps, between commits.
//!
//! A sweep walks lane after lane, and in each from its oldest entry on. Items lie in the order of their
//! acceptance, so it leaves a lane at the first entry that is too young for anything to be due behind it. One from the
//! future, of a clock that has been put back since, says nothing about those behind it.

use crate::entry::{self, Entry};
use crate::error::SpoolError;
use crate::ids::{LaneId, Lsn, Seq, WallMs};
use crate::index::Tree;
use crate::lease::state_ref;
use crate::life::{self, Event};
use crate::mailboxes::is_outbox;
use crate::record::{ItemRecord, Kind, Record, STATE_RETIRED, StateRecord};
use crate::spool::{Options, Spool};
use crate::types::State;

/// Blocks looked into by one step.
const BLOCKS_PER_STEP: usize = 32;
/// Lanes looked at by one step.
const LANES_PER_STEP: usize = 64;
/// Twins looked at by one step.
const TWINS_PER_STEP: usize = 64;

/// Where the sweep stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    lane: Option<LaneId>,
    /// Where to go on inside the lane after `lane`; `None`: at its start.
    inside: Option<Seq>,
    oldest: Option<WallMs>,
    twin: Vec<u8>,
    pub(crate) invitation: Vec<u8>,
}

/// What one step of upkeep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Items that nobody fetched in time.
    pub expired: Vec<(LaneId, Seq)>,
    /// Items whose retention is over.
    pub retired: u64,
    /// The sweep has seen every lane and begins anew.
    pub round_done: bool,
}

impl Spool {
    /// One bounded step of expiry and retention. Stage only: commit afterwards.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn maintain(&mut self, now: WallMs) -> Result<Upkeep, SpoolError> {
        self.healthy()?;
        self.look_at_free_space();
        self.look_at_pin(now);
        let mut done = Upkeep::default();
        self.sweep_twins(now)?;
        self.sweep_invitations(now)?;
        let mut blocks = BLOCKS_PER_STEP;
        let page = self.tail.lanes(self.sweep.lane, LANES_PER_STEP)?;
        for (id, _) in &page {
            if !self.sweep_lane(*id, now, &mut blocks, &mut done)? {
                return Ok(done);
            }
            self.sweep.lane = Some(*id);
            self.sweep.inside = None;
        }
        if page.len() < LANES_PER_STEP {
            self.oldest_ready = self.sweep.oldest.take();
            self.sweep.lane = None;
            done.round_done = true;
        }
        Ok(done)
    }

    /// Asks the medium how much is free.
    pub(crate) fn look_at_free_space(&mut self) {
        // A medium that cannot say is treated as full enough to refuse intake: better late than lost.
        self.free_bytes = self.disk.free_bytes().unwrap_or(0);
    }

    /// True when the lane is done, false when the step's blocks are used up.
    fn sweep_lane(
        &mut self,
        id: LaneId,
        now: WallMs,
        blocks: &mut usize,
        done: &mut Upkeep,
    ) -> Result<bool, SpoolError> {
        let Some(lane) = self.tail.lane(id)? else { return Ok(true) };
        let Options { retain_ms, expire_ms, retain_results_ms, .. } = self.options;
        let youngest = if is_outbox(&lane.name) { retain_results_ms } else { retain_ms.min(expire_ms) };
        let first = lane.first_seq.max(1);
        let mut seq = self.sweep.inside.unwrap_or(Seq(first)).max(Seq(first));
        // What waits to leave waits for no gateway.
        if self.sweep.inside.is_none() && !is_outbox(&lane.name) {
            let oldest = self.oldest_ready_of(id, &lane)?;
            self.sweep.oldest = match (self.sweep.oldest, oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let mut nothing_below = seq.0 == first;
        while seq.0 < lane.next_seq {
            if *blocks == 0 {
                self.sweep.inside = Some(seq);
                return Ok(false);
            }
            *blocks -= 1;
            let number = entry::block_of(seq);
            let block = self.tail.block(id, number)?;
            let mut too_young = false;
            for (at, entry) in entry::entries(number, &block).filter(|(at, _)| *at >= seq) {
                if entry.accepted_at <= now && now.since(entry.accepted_at) < youngest {
                    too_young = true;
                    break;
                }
                nothing_below &= self.sweep_entry(id, at, &entry, now, done)?;
            }
            if too_young {
                return Ok(true);
            }
            seq = Self::next_block_start(seq);
            if nothing_below {
                let lane = self.tail.lane_mut(id)?;
                lane.first_seq = lane.first_seq.max(seq.0.min(lane.next_seq));
            }
        }
        Ok(true)
    }

    /// True when the entry is gone.
    fn sweep_entry(
        &mut self,
        lane: LaneId,
        seq: Seq,
        entry: &Entry,
        now: WallMs,
        done: &mut Upkeep,
    ) -> Result<bool, SpoolError> {
        if life::waits(entry.state) {
            // Who releases or replays an old item wants it delivered: its time begins anew.
            let due = entry.state == State::Ready
                && entry.outbound.is_none()
                && now.since(entry.accepted_at.max(entry.changed_at)) >= self.options.expire_ms;
            if due && !self.is_leased(lane, seq) {
                match self.change_state(lane, seq, entry, Event::Expire, "nobody fetched it in time", now) {
                    Ok(()) => done.expired.push((lane, seq)),
                    Err(error) => self.unless_full(error)?,
                }
            }
            return Ok(false);
        }
        if now.since(entry.changed_at) < self.retention_ms(entry) || entry.state_lsn >= self.journal.durable()
        {
            return Ok(false);
        }
        let item = self.read_item(entry.item_lsn).ok();
        if item.as_ref().is_some_and(|item| must_tell_retired(entry, item)) {
            let record = StateRecord {
                to: STATE_RETIRED,
                at_ms: now.0,
                reason: String::new(),
                items: vec![state_ref(lane, seq, entry)],
            };
            match self.append_upkeep(Kind::State, &Record::State(record)) {
                Ok(()) => {}
                Err(error) => {
                    self.unless_full(error)?;
                    return Ok(false);
                }
            }
        } else {
            self.retire(lane, seq, *entry, item.as_ref())?;
        }
        done.retired += 1;
        Ok(true)
    }

    /// No space for a record: what it is about stays as it is until there is some, and the others get their turn.
    fn unless_full(&self, error: SpoolError) -> Result<(), SpoolError> {
        let full = matches!(error, SpoolError::Io { .. }) && self.healthy().is_ok();
        if full { Ok(()) } else { Err(error) }
    }

    fn is_leased(&self, lane: LaneId, seq: Seq) -> bool {
        self.session_of
            .get(&lane)
            .and_then(|id| self.sessions.get(id))
            .is_some_and(|session| session.leased.values().any(|leased| *leased == seq))
    }

    fn sweep_twins(&mut self, now: WallMs) -> Result<(), SpoolError> {
        let page = self.tail.scan(Tree::Twin, &self.sweep.twin, None, TWINS_PER_STEP)?;
        self.sweep.twin = match page.last() {
            Some((key, _)) if page.len() == TWINS_PER_STEP => {
                let mut next = key.clone();
                next.push(0);
                next
            }
            Some(_) | None => Vec::new(),
        };
        for (key, value) in page {
            if crate::accept::twin_fields(&value).is_none_or(|(_, until, _)| until <= now) {
                self.tail.remove(Tree::Twin, &key);
            }
        }
        Ok(())
    }
}

/// A segment with a part of the body may go while the item's record stays; a rebuilt index must not show such an item
/// again. Where the body was given up before, the record of that says enough.
fn must_tell_retired(entry: &Entry, item: &ItemRecord) -> bool {
    let home = entry.item_lsn.segment();
    life::keeps_body(entry.state) && item.chunks.iter().any(|chunk| Lsn(chunk.lsn).segment() != home)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::ids::ItemId;
    use crate::index::memory::MemoryIndex;
    use crate::tests::{NOW, id, lent, open, options, put, session};
    use crate::types::Verb;

    fn filled() -> (Spool, LaneId) {
        let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
        let mut spool = open(&disk, &index);
        let lane = spool.register("a", NOW).unwrap();
        put(&mut spool, 1, &[lane], b"one").unwrap();
        (spool, lane)
    }

    fn sweep(spool: &mut Spool, now: WallMs) {
        while !spool.maintain(now).unwrap().round_done {}
        spool.commit(now).unwrap();
    }

    fn state(spool: &Spool, id: ItemId) -> Option<State> {
        spool.item(id).unwrap().map(|item| item.state)
    }

    #[test]
    fn what_an_operator_brings_back_has_all_its_time_again() {
        let (mut spool, lane) = filled();
        let late = NOW.plus(options().expire_ms);
        sweep(&mut spool, late);
        assert_eq!(state(&spool, id(1)), Some(State::Expired));
        spool.apply_verb(id(1), Verb::Replay, "", late.plus(1)).unwrap();
        spool.commit(late.plus(1)).unwrap();
        sweep(&mut spool, late.plus(options().expire_ms));
        assert_eq!(state(&spool, id(1)), Some(State::Ready));
        let session = session(&mut spool, lane);
        assert_eq!(lent(&mut spool, session), [1]);
        spool.close_session(session);
        sweep(&mut spool, late.plus(1 + options().expire_ms));
        assert_eq!(state(&spool, id(1)), Some(State::Expired));
    }

    #[test]
    fn an_item_from_the_future_holds_up_nobody_behind_it() {
        let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
        let mut spool = open(&disk, &index);
        let lane = spool.register("a", NOW).unwrap();
        put(&mut spool, 1, &[lane], b"one").unwrap();
        put(&mut spool, 2, &[lane], b"two").unwrap();
        // As if the first had been accepted by a clock a year ahead.
        let mut entry = spool.tail.entry(lane, Seq(1)).unwrap().unwrap();
        entry.accepted_at = NOW.plus(365 * 86_400_000);
        spool.tail.put_entry(lane, Seq(1), entry).unwrap();
        sweep(&mut spool, NOW.plus(options().expire_ms));
        assert_eq!((state(&spool, id(1)), state(&spool, id(2))), (Some(State::Ready), Some(State::Expired)));
    }
}
