//! The queues of submissions: by destination and due time, those that are armed, those whose result is not told.
//!
//! Every change of a submission takes it out of all of them and puts it where its state says that it belongs, so
//! that replaying the journal in order ends with the same queues.

use crate::entry::{self, Entry, Outbound};
use crate::error::SpoolError;
use crate::ids::{ItemId, LaneId, Seq, WallMs};
use crate::index::Tree;
use crate::life;
use crate::record::OutboundRecord;
use crate::spool::Spool;
use crate::types::State;

/// What the index keeps of a submission that has no result yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) due: WallMs,
    pub(crate) id: ItemId,
    pub(crate) destination: String,
}

impl Queued {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.due.0.to_be_bytes().to_vec();
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(self.destination.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            due: WallMs(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?)),
            id: ItemId(bytes.get(8..24)?.try_into().ok()?),
            destination: String::from_utf8(bytes.get(24..)?.to_vec()).ok()?,
        })
    }
}

impl Spool {
    /// Names of queues in which something waits for an attempt, ascending, after `after`, each with the time when
    /// its first submission is due.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn destinations(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, WallMs)>, SpoolError> {
        let mut out = Vec::new();
        // Names hold no control characters, so this is less than every longer name and more than every due time.
        let behind = |name: &str| [name.as_bytes(), b"\x01"].concat();
        let mut from = after.map(behind).unwrap_or_default();
        while out.len() < limit {
            let page = self.tail.scan(Tree::Due, &from, None, 1)?;
            let Some((name, due)) = page.first().and_then(|(key, _)| {
                let (name, due, _, _) = entry::due_of_key(key)?;
                Some((std::str::from_utf8(name).ok()?.to_owned(), due))
            }) else {
                break;
            };
            from = behind(&name);
            out.push((name, due));
        }
        Ok(out)
    }

    /// Submissions of one queue that are due at `upto` or before, by due time.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn due(
        &self,
        destination: &str,
        upto: WallMs,
        limit: usize,
    ) -> Result<Vec<(ItemId, WallMs)>, SpoolError> {
        let name = destination.as_bytes();
        let (from, to) = (entry::due_start(name, WallMs(0)), entry::due_start(name, upto.plus(1)));
        let mut out = Vec::new();
        for (key, value) in self.tail.scan(Tree::Due, &from, Some(&to), limit)? {
            let Some((_, due, lane, seq)) = entry::due_of_key(&key) else { continue };
            let stable = self.tail.entry(lane, seq)?.is_some_and(|entry| {
                entry.state_lsn < self.journal.durable() && entry.item_lsn < self.journal.durable()
            });
            if let (true, Ok(id)) = (stable, <[u8; 16]>::try_from(value)) {
                out.push((ItemId(id), due));
            }
        }
        Ok(out)
    }

    /// Submissions of a mailbox whose results are stable and have not been told, after `after`, oldest first.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn untold(
        &self,
        mailbox: LaneId,
        after: Option<ItemId>,
        limit: usize,
    ) -> Result<Vec<ItemId>, SpoolError> {
        let Some(outbox) = self.outbox(mailbox)? else { return Ok(Vec::new()) };
        let after = after.map(|id| self.tail.place(id)).transpose()?.flatten();
        let first = after.filter(|(lane, _)| *lane == outbox).map_or(Seq(0), |(_, seq)| seq.next());
        let (from, to) =
            (entry::place_key(outbox, first), entry::lane_key(LaneId(outbox.0.saturating_add(1))));
        let mut out = Vec::new();
        for (key, value) in self.tail.scan(Tree::Untold, &from, Some(&to), limit)? {
            let Some((lane, seq)) = entry::block_of_key(&key) else { continue };
            let durable = self.journal.durable();
            let stable = self
                .tail
                .entry(lane, Seq(seq))?
                .is_some_and(|e| e.state_lsn < durable && e.item_lsn < durable);
            if let (true, Ok(id)) = (stable, <[u8; 16]>::try_from(value)) {
                out.push(ItemId(id));
            }
        }
        Ok(out)
    }

    /// At most `limit` mailboxes with results that have not been told, in the order of their outboxes, and the outbox to
    /// go on behind, if there may be more.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn untold_mailboxes(
        &self,
        behind: Option<LaneId>,
        limit: usize,
    ) -> Result<(Vec<LaneId>, Option<LaneId>), SpoolError> {
        let (mut out, mut behind) = (Vec::new(), behind);
        while out.len() < limit {
            let from = behind.map_or_else(Vec::new, |lane| entry::lane_key(LaneId(lane.0.saturating_add(1))));
            let found = self.tail.scan(Tree::Untold, &from, None, 1)?;
            let outbox =
                found.first().and_then(|(key, _)| entry::block_of_key(key)).map(|(outbox, _)| outbox);
            // Twice the same: there is no lane behind it.
            let Some(outbox) = outbox.filter(|outbox| Some(*outbox) != behind) else {
                return Ok((out, None));
            };
            out.extend(self.lane_by_name(&self.owner_of(outbox)?)?);
            behind = Some(outbox);
        }
        Ok((out, behind))
    }

    /// What an item record must say of a submission when it is written again.
    pub(crate) fn outbound_record(
        &self,
        lane: LaneId,
        seq: Seq,
        entry: &Entry,
        recorded: Option<&OutboundRecord>,
    ) -> Result<Option<OutboundRecord>, SpoolError> {
        let Some(Outbound { attempts, told }) = entry.outbound else { return Ok(None) };
        let (destination, due_ms) = match self.queued(lane, seq)? {
            Some(queued) => (queued.destination, queued.due.0),
            None => recorded.map_or_else(Default::default, |r| (r.destination.clone(), r.due_ms)),
        };
        Ok(Some(OutboundRecord { lane: lane.0, destination, due_ms, attempts, told }))
    }

    pub(super) fn queued(&self, lane: LaneId, seq: Seq) -> Result<Option<Queued>, SpoolError> {
        let value = self.tail.get(Tree::Queue, &entry::place_key(lane, seq))?;
        Ok(value.as_deref().and_then(Queued::decode))
    }

    /// Puts a submission where its state says that it belongs; `due` of `None` leaves that as it was.
    pub(crate) fn requeue(
        &mut self,
        lane: LaneId,
        seq: Seq,
        entry: &Entry,
        due: Option<WallMs>,
    ) -> Result<(), SpoolError> {
        let queued = match self.queued(lane, seq)? {
            Some(queued) => Queued { due: due.unwrap_or(queued.due), ..queued },
            // Only the gateway's ack, or a purge, comes after a result.
            None => return self.unqueue_told(lane, seq, entry),
        };
        self.queue(lane, seq, entry, queued)
    }

    /// Takes it out of everything and puts it where it belongs.
    pub(crate) fn queue(
        &mut self,
        lane: LaneId,
        seq: Seq,
        entry: &Entry,
        queued: Queued,
    ) -> Result<(), SpoolError> {
        self.unqueue(lane, seq)?;
        let (place, id) = (entry::place_key(lane, seq), queued.id.0.to_vec());
        let told = entry.outbound.is_some_and(|outbound| outbound.told);
        match entry.state {
            State::Ready => {
                let due = entry::due_key(queued.destination.as_bytes(), queued.due, lane, seq);
                self.tail.put(Tree::Due, &due, id);
                self.bells.something_is_due();
            }
            State::Armed => self.tail.put(Tree::Armed, &place, id),
            State::Sent | State::Failed | State::Indeterminate if !told => {
                self.tail.put(Tree::Untold, &place, id);
            }
            State::Sent | State::Failed | State::Indeterminate | State::Held => {}
            State::Acked | State::Expired | State::Quarantined | State::Purged => {}
        }
        if life::waits(entry.state) {
            self.tail.put(Tree::Queue, &place, queued.encode());
        }
        Ok(())
    }

    fn unqueue_told(&mut self, lane: LaneId, seq: Seq, entry: &Entry) -> Result<(), SpoolError> {
        let told = entry.outbound.is_some_and(|outbound| outbound.told);
        if told || !life::is_result(entry.state) {
            self.tail.remove_clean(Tree::Untold, &entry::place_key(lane, seq))?;
        }
        Ok(())
    }

    /// Takes it out of every queue it may be in.
    pub(crate) fn unqueue(&mut self, lane: LaneId, seq: Seq) -> Result<(), SpoolError> {
        let place = entry::place_key(lane, seq);
        if let Some(queued) = self.queued(lane, seq)? {
            let due = entry::due_key(queued.destination.as_bytes(), queued.due, lane, seq);
            self.tail.remove_clean(Tree::Due, &due)?;
            self.tail.remove_clean(Tree::Armed, &place)?;
            self.tail.remove_clean(Tree::Queue, &place)
        } else {
            self.tail.remove_clean(Tree::Untold, &place)
        }
    }
}
