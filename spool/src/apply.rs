//! What each record does to the tail: the one place for live operation, compaction and recovery alike.
//!
//! Every function is idempotent (a record that is not newer than what the entry knows is skipped) and total
//! (an item of a lane whose own record comes later makes a placeholder). Rebuilding from whatever segments are
//! left, in lsn order, therefore ends in the same state as having lived through it.

use crate::entry::{self, BLOCK_ITEMS, Entry};
use crate::error::SpoolError;
use crate::ids::{ItemId, LaneId, Lsn, Seq, WallMs};
use crate::index::Tree;
use crate::life;
use crate::mailboxes::is_outbox;
use crate::record::{
    self, ItemRecord, Kind, MailboxRecord, Record, STATE_RETIRED, StateRecord, TargetRecord, TwinRecord,
};
use crate::spool::Spool;
use crate::submission::Queued;
use crate::types::State;

/// Bytes that the first read of an item record asks for; most are smaller.
pub(crate) const ITEM_GUESS_BYTES: usize = 1024;

impl Spool {
    pub(crate) fn apply(&mut self, lsn: Lsn, record: &Record) -> Result<(), SpoolError> {
        match record {
            Record::Batch(_) | Record::BodyChunk { .. } => Ok(()),
            Record::Item(item) => self.apply_item(lsn, item),
            Record::State(state) => self.apply_state(lsn, state),
            Record::Mailbox(mailbox) => self.apply_mailbox(lsn, mailbox),
            Record::Twin(twin) => self.apply_twin(lsn, twin),
            Record::Step(step) => self.apply_step(lsn, step),
            Record::Invitation(invitation) => self.apply_invitation(lsn, invitation),
        }
    }

    pub(crate) fn apply_item(&mut self, lsn: Lsn, item: &ItemRecord) -> Result<(), SpoolError> {
        if item.is_shared() {
            // A record may speak of some of the items only, when the others have one of their own.
            let mut places = self.tail.get(Tree::Shared, &item.body)?.unwrap_or_default();
            for target in &item.targets {
                let mut place = [0; 12];
                place[..4].copy_from_slice(&target.lane.to_be_bytes());
                place[4..].copy_from_slice(&target.seq.to_be_bytes());
                if !places.chunks_exact(12).any(|known| known == place) {
                    places.extend_from_slice(&place);
                }
            }
            self.tail.put(Tree::Shared, &item.body, places);
        }
        for target in &item.targets {
            self.apply_target(lsn, item, target)?;
        }
        Ok(())
    }

    fn apply_target(&mut self, lsn: Lsn, item: &ItemRecord, target: &TargetRecord) -> Result<(), SpoolError> {
        let (lane_id, seq) = (LaneId(target.lane), Seq(target.seq));
        // There is none at and above the next seq; asking would read a block once more than writing it does.
        let is_new = seq.0 >= self.tail.lane_mut(lane_id)?.next_seq;
        let old = if is_new { None } else { self.tail.entry(lane_id, seq)? };
        if old.is_some_and(|old| old.item_lsn >= lsn) {
            return Ok(());
        }
        let (state, changed_ms) = target
            .history
            .last()
            .and_then(|last| Some((State::from_word(&last.state)?, last.at_ms)))
            .unwrap_or((State::Ready, item.accepted_ms));
        let new = Entry {
            state,
            size_bytes: u32::try_from(item.size_bytes()).unwrap_or(u32::MAX),
            overhead_bytes: u16::try_from(item.overhead_bytes()).unwrap_or(u16::MAX),
            first_segment: if target.first_segment == 0 { lsn.segment() } else { target.first_segment },
            item_lsn: lsn,
            state_lsn: lsn,
            accepted_at: WallMs(item.accepted_ms),
            changed_at: WallMs(changed_ms),
            outbound: item
                .outbound
                .as_ref()
                .filter(|outbound| outbound.lane == target.lane)
                .map(|outbound| entry::Outbound { attempts: outbound.attempts, told: outbound.told }),
        };
        self.replace_entry(lane_id, seq, old, new)?;
        self.tail.put_place(ItemId(target.id), lane_id, seq)?;
        if let (Some(outbound), true) = (&item.outbound, new.outbound.is_some()) {
            let queued = Queued {
                due: WallMs(outbound.due_ms),
                id: ItemId(target.id),
                destination: outbound.destination.clone(),
            };
            self.queue(lane_id, seq, &new, queued)?;
        }
        self.next_lane = self.next_lane.max(target.lane.saturating_add(1));
        let lane = self.tail.lane_mut(lane_id)?;
        if seq.0 + 1 >= lane.next_seq {
            lane.next_seq = seq.0 + 1;
            lane.chain = target.chain;
            lane.anchor = lsn.0;
        }
        if lane.first_seq == 0 || seq.0 < lane.first_seq {
            lane.first_seq = seq.0;
        }
        self.move_cursor(lane_id, seq, state)
    }

    pub(crate) fn replace_entry(
        &mut self,
        lane: LaneId,
        seq: Seq,
        old: Option<Entry>,
        new: Entry,
    ) -> Result<(), SpoolError> {
        if let Some(old) = old {
            self.forget(lane, &old)?;
        }
        let code = entry::state_code(new.state) as usize - 1;
        self.items[code] += 1;
        self.bytes[code] += u64::from(new.size_bytes);
        self.submissions[code] += u64::from(new.outbound.is_some());
        self.add_live(&new);
        self.tail.lane_mut(lane)?.count(new.state, new.size_bytes);
        self.tail.put_entry(lane, seq, new)
    }

    fn forget(&mut self, lane: LaneId, old: &Entry) -> Result<(), SpoolError> {
        let code = entry::state_code(old.state) as usize - 1;
        self.items[code] = self.items[code].saturating_sub(1);
        self.bytes[code] = self.bytes[code].saturating_sub(u64::from(old.size_bytes));
        self.submissions[code] = self.submissions[code].saturating_sub(u64::from(old.outbound.is_some()));
        self.sub_live(old);
        self.tail.lane_mut(lane)?.uncount(old.state, old.size_bytes);
        Ok(())
    }

    pub(crate) fn apply_state(&mut self, lsn: Lsn, record: &StateRecord) -> Result<(), SpoolError> {
        for item in &record.items {
            let (lane, seq) = (LaneId(item.lane), Seq(item.seq));
            let Some(old) = self.tail.entry(lane, seq)? else { continue };
            if old.state_lsn >= lsn {
                continue;
            }
            if record.to == STATE_RETIRED {
                if old.item_lsn.0 <= item.item_lsn {
                    let item = self.read_item(old.item_lsn).ok();
                    self.retire(lane, seq, old, item.as_ref())?;
                }
                continue;
            }
            let Some(state) = entry::state_from_code(record.to) else { continue };
            let new = Entry { state, state_lsn: lsn, changed_at: WallMs(record.at_ms), ..old };
            self.replace_entry(lane, seq, Some(old), new)?;
            self.move_cursor(lane, seq, state)?;
        }
        Ok(())
    }

    /// Keeps "nothing waits at or below the cursor" true after `seq` entered `state`.
    pub(crate) fn move_cursor(&mut self, lane_id: LaneId, seq: Seq, state: State) -> Result<(), SpoolError> {
        let lane = self.tail.lane_mut(lane_id)?;
        if life::waits(state) {
            lane.cursor = lane.cursor.min(seq.0 - 1);
            return Ok(());
        }
        if lane.cursor + 1 != seq.0 {
            return Ok(());
        }
        self.settle_cursor(lane_id)
    }

    /// Moves the cursor to where something waits, or to the end.
    pub(crate) fn settle_cursor(&mut self, lane_id: LaneId) -> Result<(), SpoolError> {
        let Some((cursor, first, end)) = self.tail.bounds(lane_id)? else { return Ok(()) };
        let mut at = (cursor + 1).max(first);
        // Walk over what no longer waits, a block at a time, so that long stretches of reaped items are cheap.
        'blocks: while at < end {
            let number = entry::block_of(Seq(at));
            let block = self.tail.block(lane_id, number)?;
            let stop = entry::block_start(number + 1).0.min(end);
            while at < stop {
                if entry::get(&block, Seq(at)).is_some_and(|entry| life::waits(entry.state)) {
                    break 'blocks;
                }
                at += 1;
            }
        }
        if cursor != at - 1 {
            self.tail.lane_mut(lane_id)?.cursor = at - 1;
        }
        Ok(())
    }

    /// Removes every trace of an item but its records, which the retention has passed by. `item`: its record, if that
    /// can be read.
    pub(crate) fn retire(
        &mut self,
        lane: LaneId,
        seq: Seq,
        old: Entry,
        item: Option<&ItemRecord>,
    ) -> Result<(), SpoolError> {
        self.freed_bytes += u64::from(old.size_bytes) + u64::from(old.overhead_bytes);
        self.forget(lane, &old)?;
        self.tail.remove_entry(lane, seq)?;
        if old.outbound.is_some() {
            self.unqueue(lane, seq)?;
        }
        // Without its record the id stays in its bucket and leads to nothing, which is what retired means.
        if let Some(item) = item {
            if let Some(target) = item.targets.iter().find(|t| t.lane == lane.0 && t.seq == seq.0) {
                self.tail.remove_place(ItemId(target.id))?;
            }
            // A record that was moved may be what is left of a shared one.
            let moved = item.targets.iter().any(|target| target.first_segment != 0);
            if (item.is_shared() || moved) && self.shared_places(ItemId(item.body))?.is_empty() {
                self.tail.remove(Tree::Shared, &item.body);
            }
        }
        let lane = self.tail.lane_mut(lane)?;
        if lane.first_seq == seq.0 {
            lane.first_seq += 1;
        }
        Ok(())
    }

    /// Items that still share this body, when it went to more than one lane.
    pub(crate) fn shared_places(&self, body: ItemId) -> Result<Vec<(LaneId, Seq)>, SpoolError> {
        let mut out = Vec::new();
        for place in self.tail.get(Tree::Shared, &body.0)?.unwrap_or_default().chunks_exact(12) {
            let lane = LaneId(u32::from_be_bytes([place[0], place[1], place[2], place[3]]));
            let mut seq = [0; 8];
            seq.copy_from_slice(&place[4..]);
            let seq = Seq(u64::from_be_bytes(seq));
            if self.tail.entry(lane, seq)?.is_some() {
                out.push((lane, seq));
            }
        }
        Ok(out)
    }

    fn apply_mailbox(&mut self, lsn: Lsn, record: &MailboxRecord) -> Result<(), SpoolError> {
        let id = LaneId(record.lane);
        self.next_lane = self.next_lane.max(record.lane.saturating_add(1));
        let known = self.tail.lane(id)?.is_some_and(|lane| lane.defined != 0);
        if !known && !is_outbox(&record.name) {
            self.lane_count += 1;
        }
        let lane = self.tail.lane_mut(id)?;
        if lane.defined > lsn.0 {
            return Ok(());
        }
        let gone: Vec<String> =
            lane.aliases.iter().filter(|alias| !record.aliases.contains(alias)).cloned().collect();
        lane.name.clone_from(&record.name);
        lane.aliases.clone_from(&record.aliases);
        lane.created_ms = record.created_ms;
        lane.revoked = record.revoked;
        lane.quota_items = record.quota_items;
        lane.quota_bytes = record.quota_bytes;
        lane.sending = record.sending;
        lane.defined = lsn.0;
        if record.next_seq >= lane.next_seq {
            lane.next_seq = record.next_seq;
            lane.chain = record.chain;
            lane.anchor = lsn.0;
        }
        for alias in gone {
            // It may lead to another mailbox by now, when this record is a copy made by compaction.
            if self.lane_by_name(&alias)? == Some(id) {
                self.tail.remove_name(&alias);
            }
        }
        for name in std::iter::once(&record.name).chain(&record.aliases) {
            self.tail.put_name(name, id);
        }
        Ok(())
    }

    fn apply_twin(&mut self, lsn: Lsn, record: &TwinRecord) -> Result<(), SpoolError> {
        let mut value = record.id.to_vec();
        value.extend_from_slice(&record.until_ms.to_be_bytes());
        value.extend_from_slice(&lsn.0.to_be_bytes());
        self.tail.put(Tree::Twin, &record.fingerprint, value);
        Ok(())
    }

    /// The item record at `lsn`.
    pub(crate) fn read_item(&self, lsn: Lsn) -> Result<ItemRecord, SpoolError> {
        let payload = self.journal.reader().read(lsn, Kind::Item, ITEM_GUESS_BYTES)?;
        match record::decode(Kind::Item, &payload) {
            Ok(Record::Item(item)) => Ok(item),
            Ok(_) => Err(SpoolError::Corrupt { lsn, problem: "it is of another kind".to_owned() }),
            Err(error) => Err(SpoolError::Corrupt { lsn, problem: error.to_string() }),
        }
    }

    /// What happened by the record at `lsn`, and to which items.
    pub(crate) fn read_change(&self, lsn: Lsn) -> Result<StateRecord, SpoolError> {
        match self.read_state(lsn) {
            Ok(state) => Ok(state),
            Err(SpoolError::Corrupt { .. }) => self.read_step(lsn).map(StateRecord::from),
            Err(error) => Err(error),
        }
    }

    fn read_state(&self, lsn: Lsn) -> Result<StateRecord, SpoolError> {
        let payload = self.journal.reader().read(lsn, Kind::State, ITEM_GUESS_BYTES)?;
        match record::decode(Kind::State, &payload) {
            Ok(Record::State(state)) => Ok(state),
            Ok(_) => Err(SpoolError::Corrupt { lsn, problem: "it is of another kind".to_owned() }),
            Err(error) => Err(SpoolError::Corrupt { lsn, problem: error.to_string() }),
        }
    }

    /// First seq of the block after the one `seq` is in.
    pub(crate) fn next_block_start(seq: Seq) -> Seq {
        Seq((seq.0 / BLOCK_ITEMS + 1) * BLOCK_ITEMS)
    }
}
