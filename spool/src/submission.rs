//! Submissions: items of an outbox, each with one destination and exactly one result.
//!
//! Promises: a submission is visible only when it is stable; its result is written once; one that is armed is never
//! due again unless a verdict says that it was not taken; a start finds what was armed without a verdict and makes it
//! indeterminate. The same key never makes two submissions, as long as the first is remembered.
//!
//! Queues are ordered by destination, then by due time, so that the service can look at one destination without
//! touching the others. Notes are the service's words, opaque here.
//!
//! Failure policy: a request that the state does not allow is an error and changes nothing.

mod look;
mod queue;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::entry::{self, ATTEMPTS_MAX, Entry, Outbound};
use crate::error::{AcceptError, RequestError, SpoolError};
use crate::ids::{ItemId, LaneId, Lsn, Seq, WallMs};
use crate::index::Tree;
use crate::journal::Class;
use crate::lease::{Bell, state_ref};
use crate::life::{self, Event};
use crate::mailboxes::owner_name;
use crate::record::{self, Kind, OutboundRecord, Record, StepRecord};
use crate::spool::Spool;
use crate::types::{NewMessage, State, Target, Transition};

pub use look::{DestinationQueue, QUEUE_PAGE, QueueCursor};
pub(crate) use queue::Queued;
pub use values::{NewSubmission, Settlement, Submission, Submitted};

/// Longest note of one step, bytes; longer ones are cut.
pub const NOTE_BYTES_MAX: usize = 4096;
/// Longest name of a destination, bytes.
pub const DESTINATION_BYTES_MAX: usize = 255;
/// Note of a submission that a stop caught while it was armed.
pub const INTERRUPTED: &str = "the relay stopped after the final dot and before an answer";
/// Note of the step that says that the gateway has the result.
pub const TOLD: &str = "its gateway has the result";

/// Rung with the mailbox whose submission got its result. Must not block.
pub type ResultsBell = Arc<dyn Fn(LaneId) + Send + Sync>;

/// Who wants to know what a commit brought.
#[derive(Default)]
pub(crate) struct Bells {
    outbound: Option<Bell>,
    results: Option<ResultsBell>,
    due: bool,
    settled: BTreeSet<LaneId>,
    /// Keys of this batch, whose records cannot be read back yet.
    staged: HashMap<[u8; 32], (ItemId, [u8; 32])>,
}

impl fmt::Debug for Bells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bells")
            .field("due", &self.due)
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}

impl Bells {
    /// Something can be tried, now or later.
    fn something_is_due(&mut self) {
        self.due = true;
    }

    /// What was staged is stable.
    pub(crate) fn ring(&mut self) {
        self.staged.clear();
        if std::mem::take(&mut self.due)
            && let Some(bell) = &self.outbound
        {
            bell();
        }
        for mailbox in std::mem::take(&mut self.settled) {
            if let Some(bell) = &self.results {
                bell(mailbox);
            }
        }
    }
}

impl Spool {
    /// Whom to wake after a commit that made a submission due.
    pub fn set_outbound_bell(&mut self, bell: Bell) {
        self.bells.outbound = Some(bell);
    }

    /// Whom to wake after a commit that gave a submission its result.
    pub fn set_results_bell(&mut self, bell: ResultsBell) {
        self.bells.results = Some(bell);
    }

    /// Makes a streamed body a submission, and in the same record an item of every lane in `message.targets`.
    ///
    /// Stable, and to be told, after [`Spool::commit`].
    ///
    /// # Errors
    /// [`AcceptError`]; the body is abandoned then.
    pub fn submit(&mut self, new: NewSubmission, now: WallMs) -> Result<Submitted, AcceptError> {
        let (key, same) = (new.key, identity(&new.message, &new.tag));
        if let Some(known) = self.known_as(&new, &same, now)? {
            self.abandon_body(new.message.body);
            return Ok(known);
        }
        let outbox = match self.register_outbox(new.mailbox, now) {
            Ok(lane) => lane,
            Err(RequestError::Spool(error)) => return Err(self.give_up(new.message.body, error.into())),
            Err(
                RequestError::UnknownMailbox(_)
                | RequestError::UnknownItem(_)
                | RequestError::NameTaken(_)
                | RequestError::WrongState { .. }
                | RequestError::NoSession,
            ) => return Err(self.give_up(new.message.body, AcceptError::UnknownLane)),
        };
        let revoked = self.tail.lane(new.mailbox)?.is_some_and(|lane| lane.revoked);
        if revoked {
            return Err(self.give_up(new.message.body, AcceptError::Revoked));
        }
        let named = !new.destination.is_empty()
            && new.destination.len() <= DESTINATION_BYTES_MAX
            && !new.destination.chars().any(char::is_control);
        if !named {
            return Err(self.give_up(new.message.body, AcceptError::NoBody));
        }
        let (id, mut message) = (new.message.body, new.message);
        message.targets.insert(0, Target { lane: outbox, id, tag: new.tag });
        let mut item = self.item_record(message, now)?;
        item.outbound = Some(OutboundRecord {
            lane: outbox.0,
            destination: new.destination,
            due_ms: new.due.0,
            attempts: 0,
            told: false,
        });
        if let (Some((to, note)), Some(target)) = (&new.settled, item.targets.first_mut()) {
            let state = to.state().word().to_owned();
            target.history.push(Transition { state, at_ms: now.0, reason: clip_note(note) });
        }
        // First the keys, then the submission: a torn batch may keep a key without a submission, which means
        // nothing, but never a submission that its key does not lead to.
        let twins = std::iter::once((key, new.key_until)).chain(new.twin);
        for (fingerprint, until) in twins {
            self.remember_twin(fingerprint, id, until)?;
        }
        self.append_item(&item)?;
        if new.settled.is_some() {
            self.ring_results(outbox)?;
        }
        self.bells.staged.insert(key, (id, same));
        Ok(Submitted::New(id))
    }

    fn give_up(&mut self, body: ItemId, error: AcceptError) -> AcceptError {
        self.abandon_body(body);
        error
    }

    /// The submission that `new` would repeat.
    fn known_as(
        &self,
        new: &NewSubmission,
        same: &[u8; 32],
        now: WallMs,
    ) -> Result<Option<Submitted>, SpoolError> {
        let answer = |id, known: &[u8; 32]| {
            if known == same { Submitted::Known(id) } else { Submitted::Conflict(id) }
        };
        if let Some((id, known)) = self.bells.staged.get(&new.key) {
            return Ok(Some(answer(*id, known)));
        }
        if let Some(id) = self.submission_by_key(&new.key, now)? {
            let Some((lane, seq, entry)) = self.find(id)? else { return Ok(None) };
            let item = self.read_item(entry.item_lsn)?;
            let tag = item.targets.iter().find(|t| t.lane == lane.0 && t.seq == seq.0).map(|t| &t.tag);
            let known = tag.map(|tag| hash(&item.sha256, item.fingerprint.as_ref(), tag)).unwrap_or_default();
            return Ok(Some(answer(id, &known)));
        }
        match &new.twin {
            Some((fingerprint, _)) => Ok(self.submission_by_key(fingerprint, now)?.map(Submitted::Twin)),
            None => Ok(None),
        }
    }

    /// The submission that was made under this key, or that a repeat with this fingerprint would repeat.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn submission_by_key(&self, key: &[u8; 32], now: WallMs) -> Result<Option<ItemId>, SpoolError> {
        let Some(id) = self.twin(key, now)? else { return Ok(None) };
        Ok(self.find(id)?.filter(|(_, _, entry)| entry.outbound.is_some()).map(|_| id))
    }

    /// One submission; `None` when there is none of that id, or it is not stable yet.
    ///
    /// Its state may not be stable yet: ask by [`crate::engine::Handle::call`] when the answer is to be told.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] when its record is damaged.
    pub fn submission(&self, id: ItemId) -> Result<Option<Submission>, SpoolError> {
        let Some((lane, seq, entry)) = self.find(id)? else { return Ok(None) };
        let Some(outbound) = entry.outbound.filter(|_| entry.item_lsn < self.journal.durable()) else {
            return Ok(None);
        };
        let info = self.info(lane, seq, &entry)?;
        let mailbox_name = info.lane_name.clone();
        let mailbox = self.lane_by_name(&mailbox_name)?.unwrap_or(lane);
        let (destination, due) = match self.queued(lane, seq)? {
            Some(queued) => (queued.destination, queued.due),
            None => {
                let recorded = self.read_item(entry.item_lsn)?.outbound;
                recorded.map_or_else(Default::default, |r| (r.destination, WallMs(r.due_ms)))
            }
        };
        let attempts = u32::from(outbound.attempts);
        Ok(Some(Submission { info, mailbox, mailbox_name, destination, due, attempts, told: outbound.told }))
    }

    /// The octets that complete the submission are about to leave. After the commit, and not before, they may.
    ///
    /// # Errors
    /// [`RequestError::WrongState`] when it was held or cancelled meanwhile: nothing may leave then.
    /// [`RequestError::Spool`] also while [`Spool::carries`] says that there is no room for the result.
    pub fn arm(&mut self, id: ItemId, note: &str, now: WallMs) -> Result<(), RequestError> {
        self.step(id, Event::Arm, None, note, now)
    }

    /// It was tried and is to be tried again.
    ///
    /// # Errors
    /// [`RequestError::WrongState`], [`RequestError::UnknownItem`], [`RequestError::Spool`].
    pub fn defer(&mut self, id: ItemId, due: WallMs, note: &str, now: WallMs) -> Result<(), RequestError> {
        self.step(id, Event::Defer, Some((due, 1)), note, now)
    }

    /// It was not tried, and is to wait longer.
    ///
    /// # Errors
    /// As [`Spool::defer`]; also when it is armed.
    pub fn postpone(&mut self, id: ItemId, due: WallMs, note: &str, now: WallMs) -> Result<(), RequestError> {
        let armed = self.find(id)?.is_some_and(|(_, _, entry)| entry.state == State::Armed);
        if armed {
            let (state, verb) = (State::Armed.word(), "postpone");
            return Err(RequestError::WrongState { id, state, verb });
        }
        self.step(id, Event::Defer, Some((due, 0)), note, now)
    }

    /// It was armed, and the octets that complete it did not leave after all: ready again, nothing was attempted.
    ///
    /// # Errors
    /// As [`Spool::defer`]; also when it is not armed.
    pub fn disarm(&mut self, id: ItemId, due: WallMs, note: &str, now: WallMs) -> Result<(), RequestError> {
        let (_, _, entry, _) = self.find_submission(id)?;
        if entry.state != State::Armed {
            return Err(RequestError::WrongState { id, state: entry.state.word(), verb: "disarm" });
        }
        self.step(id, Event::Defer, Some((due, 0)), note, now)
    }

    /// Gives it its one result.
    ///
    /// # Errors
    /// [`RequestError::WrongState`] when it has one, or was never armed and is not to fail.
    pub fn settle(
        &mut self,
        id: ItemId,
        to: Settlement,
        note: &str,
        now: WallMs,
    ) -> Result<(), RequestError> {
        self.step(id, to.event(), None, note, now)
    }

    fn step(
        &mut self,
        id: ItemId,
        event: Event,
        wait: Option<(WallMs, u8)>,
        note: &str,
        now: WallMs,
    ) -> Result<(), RequestError> {
        self.healthy()?;
        let (lane, seq, entry, outbound) = self.find_submission(id)?;
        let Some(to) = life::step(entry.state, event) else {
            return Err(RequestError::WrongState { id, state: entry.state.word(), verb: event.verb() });
        };
        let verdict = matches!(event, Event::Send | Event::Doubt)
            || (event == Event::Fail && entry.state == State::Armed);
        let attempts = if verdict { 1 } else { wait.map_or(0, |(_, attempts)| attempts) };
        let attempts = outbound.attempts.saturating_add(attempts).min(ATTEMPTS_MAX);
        let outbound = Outbound { attempts, ..outbound };
        self.append_step(lane, seq, &entry, to, outbound, wait.map(|(due, _)| due), note, now)?;
        if life::is_result(to) {
            self.ring_results(lane)?;
        }
        Ok(())
    }

    /// Journals and applies where a submission stands from now on; every change of one is such a record, because only
    /// the newest is kept. `due` of `None` leaves that as it was.
    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    pub(crate) fn append_step(
        &mut self,
        lane: LaneId,
        seq: Seq,
        entry: &Entry,
        to: State,
        Outbound { attempts, told }: Outbound,
        due: Option<WallMs>,
        note: &str,
        now: WallMs,
    ) -> Result<(), SpoolError> {
        let due = match due {
            Some(due) => due,
            None => self.queued(lane, seq)?.map_or(now, |queued| queued.due),
        };
        let (note, item) = (clip_note(note), state_ref(lane, seq, entry));
        let (to, at_ms, due_ms) = (entry::state_code(to), now.0, due.0);
        // A verdict must follow, and its room is not to be used up by what waits for one.
        let begins = to == entry::state_code(State::Armed) && entry.state != State::Armed;
        let class = if begins { Class::Begin } else { Class::Upkeep };
        self.stage_step(class, lane, seq, StepRecord { to, at_ms, note, due_ms, attempts, told, item })
    }

    pub(crate) fn stage_step(
        &mut self,
        class: Class,
        lane: LaneId,
        seq: Seq,
        step: StepRecord,
    ) -> Result<(), SpoolError> {
        self.append_as(class, Kind::Step, &Record::Step(step.clone()))?;
        if let Some(entry) = self.tail.entry(lane, seq)? {
            self.staged_steps.insert(entry.state_lsn, step);
        }
        Ok(())
    }

    fn ring_results(&mut self, outbox: LaneId) -> Result<(), SpoolError> {
        let owner = self.tail.lane(outbox)?.map(|lane| lane.name);
        if let Some(mailbox) = owner.and_then(|name| self.lane_by_name(owner_name(&name)).transpose()) {
            self.bells.settled.insert(mailbox?);
        }
        Ok(())
    }

    /// Its gateway has the result. False when that was known.
    ///
    /// # Errors
    /// [`RequestError::WrongState`] when it has none yet.
    pub fn tell(&mut self, id: ItemId, now: WallMs) -> Result<bool, RequestError> {
        let (lane, seq, entry, outbound) = self.find_submission(id)?;
        if !life::is_result(entry.state) {
            return Err(RequestError::WrongState { id, state: entry.state.word(), verb: "tell" });
        }
        if outbound.told {
            return Ok(false);
        }
        let outbound = Outbound { told: true, ..outbound };
        self.append_step(lane, seq, &entry, entry.state, outbound, None, TOLD, now)?;
        Ok(true)
    }

    /// Makes indeterminate what the process before left armed; answers which.
    pub(crate) fn doubt_armed(&mut self, now: WallMs) -> Result<Vec<ItemId>, SpoolError> {
        const PAGE: usize = 1024;
        let mut doubted = Vec::new();
        loop {
            let page = self.tail.scan(Tree::Armed, &[], None, PAGE)?;
            for (key, value) in &page {
                let Ok(id) = <[u8; 16]>::try_from(value.as_slice()) else {
                    self.tail.remove(Tree::Armed, key);
                    continue;
                };
                match self.settle(ItemId(id), Settlement::Indeterminate, INTERRUPTED, now) {
                    Ok(()) => doubted.push(ItemId(id)),
                    Err(RequestError::Spool(error)) => return Err(error),
                    // Whatever it is, it is not armed: the key was in the way of nothing.
                    Err(
                        RequestError::UnknownItem(_)
                        | RequestError::UnknownMailbox(_)
                        | RequestError::NameTaken(_)
                        | RequestError::WrongState { .. }
                        | RequestError::NoSession,
                    ) => self.tail.remove(Tree::Armed, key),
                }
            }
            if page.is_empty() {
                break;
            }
        }
        if !doubted.is_empty() {
            self.commit(now)?;
        }
        Ok(doubted)
    }

    /// Adds words to a submission that has its result; the result, and what its gateway is told, stay as they are.
    ///
    /// # Errors
    /// [`RequestError::WrongState`] when it has none yet.
    pub fn remark(&mut self, id: ItemId, note: &str, now: WallMs) -> Result<(), RequestError> {
        let (lane, seq, entry, outbound) = self.find_submission(id)?;
        if !life::is_result(entry.state) {
            return Err(RequestError::WrongState { id, state: entry.state.word(), verb: "remark on" });
        }
        let step = StepRecord {
            to: entry::state_code(entry.state),
            at_ms: now.0,
            note: clip_note(note),
            due_ms: 0,
            attempts: outbound.attempts,
            told: outbound.told,
            item: state_ref(lane, seq, &entry),
        };
        self.append_upkeep(Kind::Step, &Record::Step(step))?;
        Ok(())
    }

    fn find_submission(&self, id: ItemId) -> Result<(LaneId, Seq, Entry, Outbound), RequestError> {
        match self.find(id)? {
            Some((lane, seq, entry)) => match entry.outbound {
                Some(outbound) => Ok((lane, seq, entry, outbound)),
                None => Err(RequestError::UnknownItem(id)),
            },
            None => Err(RequestError::UnknownItem(id)),
        }
    }

    pub(crate) fn apply_step(&mut self, lsn: Lsn, record: &StepRecord) -> Result<(), SpoolError> {
        let (lane, seq) = (LaneId(record.item.lane), Seq(record.item.seq));
        let Some(old) = self.tail.entry(lane, seq)?.filter(|old| old.state_lsn < lsn) else { return Ok(()) };
        let Some(state) = entry::state_from_code(record.to) else { return Ok(()) };
        let new = Entry {
            state,
            state_lsn: lsn,
            changed_at: WallMs(record.at_ms),
            outbound: Some(Outbound { attempts: record.attempts, told: record.told }),
            ..old
        };
        self.replace_entry(lane, seq, Some(old), new)?;
        self.requeue(lane, seq, &new, Some(WallMs(record.due_ms)))?;
        if life::is_result(state) && !life::is_result(old.state) && !life::keeps_body(state) {
            self.freed_bytes += u64::from(new.size_bytes);
        }
        self.move_cursor(lane, seq, state)
    }

    /// The step record at `lsn`.
    pub(crate) fn read_step(&self, lsn: Lsn) -> Result<StepRecord, SpoolError> {
        let payload = self.journal.reader().read(lsn, Kind::Step, crate::apply::ITEM_GUESS_BYTES)?;
        match record::decode(Kind::Step, &payload) {
            Ok(Record::Step(step)) => Ok(step),
            Ok(_) => Err(SpoolError::Corrupt { lsn, problem: "it is of another kind".to_owned() }),
            Err(error) => Err(SpoolError::Corrupt { lsn, problem: error.to_string() }),
        }
    }
}

/// What must be equal for two submissions to be the same: the fingerprint, or without one the body; and the tag.
fn identity(message: &NewMessage, tag: &[u8]) -> [u8; 32] {
    hash(&message.sha256, message.fingerprint.as_ref(), tag)
}

fn hash(sha256: &[u8; 32], fingerprint: Option<&[u8; 32]>, tag: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mut all = Sha256::new_with_prefix([u8::from(fingerprint.is_some())]);
    all.update(fingerprint.unwrap_or(sha256));
    all.update(tag);
    all.finalize().into()
}

/// A note that fits its record.
fn clip_note(note: &str) -> String {
    let end = note.floor_char_boundary(NOTE_BYTES_MAX.min(note.len()));
    note[..end].to_owned()
}
