//! How items get out: sessions, leases, acks, nacks.
//!
//! A lease is a promise to try, not a handover: only an ack ends an item's waiting. Leases live in memory and
//! end with their session, when a newer session of the lane takes over, or at restart; the item is then offered
//! again. Items are lent in seq order; those whose record is not stable yet are not lent.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::entry::{self, Entry};
use crate::error::{RequestError, SpoolError};
use crate::ids::{ItemId, LaneId, Seq, SessionId, WallMs};
use crate::life::{self, Event};
use crate::mailboxes::is_outbox;
use crate::record::{Kind, Record, StateRecord, StateRef};
use crate::spool::Spool;
use crate::types::{AckOutcome, ItemInfo, Leased, NackOutcome, Room, State};

/// How often a gateway could not take an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusals {
    /// So often, since the relay started.
    pub count: u8,
    /// So often, and it is held.
    pub most: u8,
    /// When it is offered again to the session of now.
    pub retry_at: Option<WallMs>,
}

/// Most nacked items a session may have waiting for their time.
pub const DEFERRED_MAX: usize = 4096;
/// Longest time that an item can be put off, milliseconds: a day.
pub const DEFER_MS_MAX: u64 = 86_400_000;
/// Items whose nacks are counted across sessions.
const NACKS_COUNTED_MAX: usize = 65_536;
/// Blocks looked into for one request; the rest is found by the next one.
const BLOCKS_PER_LEASE_MAX: usize = 64;

/// Rung on the ledger's thread when a session's lane may have something to fetch. Must not block.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

pub(crate) struct LaneSession {
    pub(crate) lane: LaneId,
    pub(crate) bell: Bell,
    /// Seqs below have been lent in this session, or did not wait.
    pub(crate) scan_from: Seq,
    pub(crate) leased: HashMap<ItemId, Seq>,
    pub(crate) deferred: BTreeMap<Seq, WallMs>,
}

impl fmt::Debug for LaneSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneSession")
            .field("lane", &self.lane)
            .field("scan_from", &self.scan_from)
            .field("leased", &self.leased.len())
            .field("deferred", &self.deferred.len())
            .finish_non_exhaustive()
    }
}

/// Whether an item that was put off until `at` is to be offered. A time farther ahead than any can be put off was set by a
/// clock that has been put back since.
fn is_due(at: WallMs, now: WallMs) -> bool {
    at <= now || at.since(now) > DEFER_MS_MAX
}

impl Spool {
    /// Opens a session on `lane`. An older session of the lane ends, and its leases with it.
    ///
    /// # Errors
    /// [`RequestError::UnknownMailbox`] when there is no such lane.
    pub fn open_session(&mut self, lane: LaneId, bell: Bell) -> Result<SessionId, RequestError> {
        self.healthy()?;
        let known = self.tail.lane(lane)?.filter(|known| !is_outbox(&known.name));
        let known = known.ok_or_else(|| RequestError::UnknownMailbox(lane.0.to_string()))?;
        if let Some(old) = self.session_of.get(&lane).copied() {
            self.close_session(old);
        }
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let session = LaneSession {
            lane,
            bell,
            scan_from: Seq(known.cursor + 1),
            leased: HashMap::new(),
            deferred: BTreeMap::new(),
        };
        self.sessions.insert(id, session);
        self.session_of.insert(lane, id);
        self.rings.insert(lane);
        Ok(id)
    }

    /// Ends a session; what it had leased is offered to the next one.
    pub fn close_session(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id)
            && self.session_of.get(&session.lane) == Some(&id)
        {
            self.session_of.remove(&session.lane);
        }
    }

    /// Lends the oldest ready items of the session's lane, within `room`.
    ///
    /// Answers strictly growing seqs; gaps are items in flight, held or done. The first item may exceed
    /// `room.bytes` when nothing else is in flight. A damaged item is quarantined and the others are lent.
    ///
    /// # Errors
    /// [`RequestError::NoSession`] after the session ended, [`RequestError::Spool`].
    pub fn lease(&mut self, id: SessionId, room: Room, now: WallMs) -> Result<Leased, RequestError> {
        self.healthy()?;
        let mut out = Leased::default();
        let mut room = room;
        let session = self.sessions.get_mut(&id).ok_or(RequestError::NoSession)?;
        let lane = session.lane;
        let due: Vec<Seq> =
            session.deferred.iter().filter(|(_, at)| is_due(**at, now)).map(|(seq, _)| *seq).collect();
        for seq in due {
            if !self.lend(id, lane, seq, &mut room, &mut out)? {
                break;
            }
            if let Some(session) = self.sessions.get_mut(&id) {
                session.deferred.remove(&seq);
            }
        }
        self.lend_new(id, lane, &mut room, &mut out)?;
        if let Some(session) = self.sessions.get(&id) {
            out.retry_at = session.deferred.values().min().copied();
        }
        out.items.sort_by_key(|item| item.seq);
        Ok(out)
    }

    fn lend_new(
        &mut self,
        id: SessionId,
        lane_id: LaneId,
        room: &mut Room,
        out: &mut Leased,
    ) -> Result<(), RequestError> {
        let Some(lane) = self.tail.lane(lane_id)? else { return Ok(()) };
        let from = self.sessions.get(&id).map_or(Seq(1), |session| session.scan_from);
        let mut seq = Seq(from.0.max(lane.cursor + 1).max(lane.first_seq));
        let durable = self.journal.durable();
        'blocks: for looked in 0.. {
            if looked == BLOCKS_PER_LEASE_MAX {
                self.rings.insert(lane_id); // come again: there is more to look through
                break;
            }
            if seq.0 >= lane.next_seq || room.items == 0 {
                break;
            }
            let number = entry::block_of(seq);
            let block = self.tail.block(lane_id, number)?;
            let end = Self::next_block_start(seq).0.min(lane.next_seq);
            while seq.0 < end {
                if let Some(entry) = entry::get(&block, seq) {
                    if entry.state_lsn >= durable || entry.item_lsn >= durable {
                        // Not stable yet. The commit rings, also where the change itself would not: what is behind an
                        // item that an operator just held has to go on.
                        self.rings.insert(lane_id);
                        break 'blocks;
                    }
                    if self.is_free(id, seq, &entry) && !self.lend(id, lane_id, seq, room, out)? {
                        break 'blocks;
                    }
                }
                seq = seq.next();
            }
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.scan_from = seq;
        }
        Ok(())
    }

    fn is_free(&self, id: SessionId, seq: Seq, entry: &Entry) -> bool {
        entry.state == State::Ready
            && self.sessions.get(&id).is_some_and(|session| {
                !session.deferred.contains_key(&seq) && !session.leased.values().any(|leased| *leased == seq)
            })
    }

    /// Lends one item if there is room; false when there is none.
    fn lend(
        &mut self,
        id: SessionId,
        lane: LaneId,
        seq: Seq,
        room: &mut Room,
        out: &mut Leased,
    ) -> Result<bool, RequestError> {
        let Some(entry) = self.tail.entry(lane, seq)?.filter(|entry| entry.state == State::Ready) else {
            return Ok(true);
        };
        let durable = self.journal.durable();
        if entry.state_lsn >= durable || entry.item_lsn >= durable {
            return Ok(false); // not stable yet; the commit rings again
        }
        let alone = out.items.is_empty() && self.sessions.get(&id).is_some_and(|s| s.leased.is_empty());
        if room.items == 0 || (u64::from(entry.size_bytes) > room.bytes && !alone) {
            return Ok(false);
        }
        let info = match self.info(lane, seq, &entry) {
            Ok(info) => info,
            Err(SpoolError::Corrupt { problem, .. }) => {
                self.change_state(lane, seq, &entry, Event::Damage, &problem, entry.changed_at)?;
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        room.items -= 1;
        room.bytes = room.bytes.saturating_sub(info.size_bytes);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.leased.insert(info.id, seq);
        }
        out.items.push(ItemInfo { leased: true, ..info });
        Ok(true)
    }

    /// The gateway has stored the item. An ack for anything this session does not hold changes nothing.
    ///
    /// # Errors
    /// [`RequestError::NoSession`], [`RequestError::Spool`].
    pub fn ack(&mut self, session: SessionId, id: ItemId, now: WallMs) -> Result<AckOutcome, RequestError> {
        let Some((lane, seq)) = self.take_lease(session, id)? else {
            let lane = self.sessions.get(&session).map(|session| session.lane);
            let known = self.find(id)?.filter(|(at, _, _)| Some(*at) == lane);
            return Ok(match known {
                Some((_, _, entry)) if entry.state == State::Acked => AckOutcome::Already,
                Some(_) | None => AckOutcome::Ignored,
            });
        };
        self.nacks.remove(&id);
        match self.tail.entry(lane, seq)? {
            Some(entry) if life::step(entry.state, Event::Ack).is_some() => {
                self.change_state(lane, seq, &entry, Event::Ack, "", now)?;
                Ok(AckOutcome::Acked)
            }
            Some(_) | None => Ok(AckOutcome::Ignored), // held or purged while it was in flight
        }
    }

    /// The gateway cannot take the item now: offered again after `retry_after_ms`, and parked (held) when this
    /// has happened too often.
    ///
    /// # Errors
    /// [`RequestError::NoSession`], [`RequestError::Spool`].
    pub fn nack(
        &mut self,
        session: SessionId,
        id: ItemId,
        retry_after_ms: u64,
        now: WallMs,
    ) -> Result<NackOutcome, RequestError> {
        let Some((lane, seq)) = self.take_lease(session, id)? else { return Ok(NackOutcome::Ignored) };
        let count = self.nacks.get(&id).copied().unwrap_or(0).saturating_add(1);
        if count >= self.options.nacks_max {
            self.nacks.remove(&id);
            let reason = format!("refused {count} times by the gateway");
            let parked = self.hold_leased(lane, seq, &reason, now)?;
            return Ok(if parked { NackOutcome::Parked(reason) } else { NackOutcome::Ignored });
        }
        if self.nacks.len() < NACKS_COUNTED_MAX || self.nacks.contains_key(&id) {
            self.nacks.insert(id, count);
        }
        self.defer_in(session, seq, retry_after_ms, now);
        Ok(NackOutcome::PutOff)
    }

    /// The relay cannot hand the item out now: offered again after `retry_after_ms`. It is no refusal of its gateway, and
    /// is not counted as one.
    ///
    /// # Errors
    /// [`RequestError::NoSession`].
    pub fn put_off(
        &mut self,
        session: SessionId,
        id: ItemId,
        retry_after_ms: u64,
        now: WallMs,
    ) -> Result<(), RequestError> {
        if let Some((_, seq)) = self.take_lease(session, id)? {
            self.defer_in(session, seq, retry_after_ms, now);
        }
        Ok(())
    }

    /// What does not fit among those that wait for their time is offered again to the next session.
    fn defer_in(&mut self, session: SessionId, seq: Seq, retry_after_ms: u64, now: WallMs) {
        if let Some(session) = self.sessions.get_mut(&session)
            && session.deferred.len() < DEFERRED_MAX
        {
            session.deferred.insert(seq, now.plus(retry_after_ms.min(DEFER_MS_MAX)));
        }
    }

    /// How its gateway took an item so far; `None` when it never refused it, or the relay does not remember.
    #[must_use]
    pub fn refusals(&self, item: &ItemInfo) -> Option<Refusals> {
        let count = self.nacks.get(&item.id).copied()?;
        let session = self.session_of.get(&item.lane).and_then(|id| self.sessions.get(id));
        let retry_at = session.and_then(|session| session.deferred.get(&item.seq).copied());
        Some(Refusals { count, most: self.options.nacks_max, retry_at })
    }

    /// The gateway will never take the item: held, with its reason, for the operator to see.
    ///
    /// # Errors
    /// [`RequestError::NoSession`], [`RequestError::Spool`].
    pub fn reject(
        &mut self,
        session: SessionId,
        id: ItemId,
        reason: &str,
        now: WallMs,
    ) -> Result<(), RequestError> {
        match self.take_lease(session, id)? {
            Some((lane, seq)) => {
                self.nacks.remove(&id);
                let reason = format!("rejected by the gateway: {}", clip(reason));
                self.hold_leased(lane, seq, &reason, now).map(|_| ())
            }
            None => Ok(()),
        }
    }

    /// False when it does not wait any more, and nothing changed.
    fn hold_leased(
        &mut self,
        lane: LaneId,
        seq: Seq,
        reason: &str,
        now: WallMs,
    ) -> Result<bool, RequestError> {
        match self.tail.entry(lane, seq)?.filter(|entry| entry.state == State::Ready) {
            Some(entry) => {
                self.change_state(lane, seq, &entry, Event::Hold, reason, now)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Gives one lease back without a word from the gateway; the item is offered again.
    ///
    /// # Errors
    /// [`RequestError::NoSession`].
    pub fn unlease(&mut self, session: SessionId, id: ItemId) -> Result<(), RequestError> {
        if let Some((lane, seq)) = self.take_lease(session, id)? {
            self.rewind(lane, seq);
        }
        Ok(())
    }

    /// The body of a leased item cannot be read: quarantined.
    ///
    /// # Errors
    /// [`RequestError::Spool`].
    pub fn quarantine(&mut self, id: ItemId, problem: &str, now: WallMs) -> Result<(), RequestError> {
        let Some((lane, seq, entry)) = self.find(id)? else { return Err(RequestError::UnknownItem(id)) };
        if life::step(entry.state, Event::Damage).is_some() {
            self.damaged += 1;
            self.change_state(lane, seq, &entry, Event::Damage, problem, now)?;
        }
        Ok(())
    }

    fn take_lease(&mut self, session: SessionId, id: ItemId) -> Result<Option<(LaneId, Seq)>, RequestError> {
        let session = self.sessions.get_mut(&session).ok_or(RequestError::NoSession)?;
        Ok(session.leased.remove(&id).map(|seq| (session.lane, seq)))
    }

    /// Lets the lane's session look at `seq` again, and wakes it.
    pub(crate) fn rewind(&mut self, lane: LaneId, seq: Seq) {
        if let Some(session) = self.session_of.get(&lane).and_then(|id| self.sessions.get_mut(id)) {
            session.scan_from = session.scan_from.min(seq);
        }
        self.rings.insert(lane);
    }

    /// Journals and applies one transition that [`life::step`] allows.
    pub(crate) fn change_state(
        &mut self,
        lane: LaneId,
        seq: Seq,
        entry: &Entry,
        event: Event,
        reason: &str,
        now: WallMs,
    ) -> Result<(), SpoolError> {
        let Some(to) = life::step(entry.state, event) else { return Ok(()) };
        if let Some(outbound) = entry.outbound {
            // Whoever lets a submission go wants it to be tried now.
            let due = (to == State::Ready).then_some(now);
            return self.append_step(lane, seq, entry, to, outbound, due, &clip(reason), now);
        }
        let record = StateRecord {
            to: entry::state_code(to),
            at_ms: now.0,
            reason: clip(reason),
            items: vec![state_ref(lane, seq, entry)],
        };
        self.append_upkeep(Kind::State, &Record::State(record))?;
        if to == State::Ready {
            self.rewind(lane, seq);
        }
        Ok(())
    }

    pub(crate) fn find(&self, id: ItemId) -> Result<Option<(LaneId, Seq, Entry)>, SpoolError> {
        let Some((lane, seq)) = self.tail.place(id)? else { return Ok(None) };
        Ok(self.tail.entry(lane, seq)?.map(|entry| (lane, seq, entry)))
    }

    /// Everything about one item, from its record.
    pub(crate) fn info(&self, lane: LaneId, seq: Seq, entry: &Entry) -> Result<ItemInfo, SpoolError> {
        let item = self.read_item(entry.item_lsn)?;
        let corrupt =
            |problem: &str| SpoolError::Corrupt { lsn: entry.item_lsn, problem: problem.to_owned() };
        let target = item
            .targets
            .into_iter()
            .find(|target| target.lane == lane.0 && target.seq == seq.0)
            .ok_or_else(|| corrupt("it does not speak of this item"))?;
        let id = ItemId(target.id);
        let session = self.session_of.get(&lane).and_then(|id| self.sessions.get(id));
        Ok(ItemInfo {
            id,
            lane,
            lane_name: self.owner_of(lane)?,
            seq,
            state: entry.state,
            leased: session.is_some_and(|session| session.leased.contains_key(&id)),
            size_bytes: item.head.len() as u64 + item.body_bytes,
            accepted_at: entry.accepted_at,
            changed_at: entry.changed_at,
            sha256: item.sha256,
            chain: target.chain,
            meta: item.meta,
            tag: target.tag,
            head: item.head,
            chunks: item.chunks,
            outbound: entry.outbound,
        })
    }
}

/// What a state record needs to say of one item.
pub(crate) fn state_ref(lane: LaneId, seq: Seq, entry: &Entry) -> StateRef {
    StateRef {
        lane: lane.0,
        seq: seq.0,
        item_lsn: entry.item_lsn.0,
        first_segment: entry.first_segment,
        previous_lsn: entry.state_lsn.0,
    }
}

/// A reason that fits one line of a listing.
pub(crate) fn clip(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
