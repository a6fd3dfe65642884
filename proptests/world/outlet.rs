//! What gateways fetch and answer, and what operators do to single items.

use spool::lease::DEFER_MS_MAX;
use spool::types::NackOutcome;

use super::*;

impl World {
    pub(super) fn pick_session(&self, n: u8) -> Option<(u32, SessionId)> {
        let lane = self.last().lane_of(&lane_name(n))?;
        self.sessions.get(&lane).map(|session| (lane, session.id))
    }

    pub(super) fn open_session(&mut self, n: u8) -> Result<(), Broken> {
        let Some(lane) = self.last().lane_of(&lane_name(n)) else { return Ok(()) };
        self.open_lane(lane).map(|_| ())
    }

    pub(super) fn open_lane(&mut self, lane: u32) -> Result<bool, Broken> {
        let Some(answer) = self.request(|spool| spool.open_session(LaneId(lane), Arc::new(|| {})))? else {
            return Ok(false);
        };
        let id = answer.map_err(|error| error.to_string())?;
        let session = Session { id, leased: BTreeMap::new(), deferred: BTreeMap::new() };
        self.sessions.insert(lane, session);
        Ok(true)
    }

    /// The lane of gateway `n`, with a session; `None` when there is no such lane, or the process died.
    pub(super) fn connected(&mut self, n: u8) -> Result<Option<u32>, Broken> {
        if self.pick_session(n).is_none() {
            self.open_session(n)?;
        }
        Ok(self.pick_session(n).map(|(lane, _)| lane))
    }

    pub(super) fn serve(&mut self, n: u8, items: u8) -> Result<(), Broken> {
        let Some(lane) = self.connected(n)? else { return Ok(()) };
        let room = Room { items: u32::from(items), bytes: 1 << 40 };
        for _ in 0..self.lease(lane, room)?.map_or(0, |ids| ids.len()) {
            self.answer(n, 0, Answer::Ack)?;
        }
        self.commit().map(|_| ())
    }

    /// Fetches once; `None` when the process died.
    pub(super) fn lease(&mut self, lane: u32, room: Room) -> Result<Option<Vec<ItemId>>, Broken> {
        let Some(session) = self.sessions.get(&lane) else { return Ok(None) };
        let (id, now) = (session.id, self.now);
        let idle = session.leased.is_empty();
        let Some(answer) = self.request(|spool| spool.lease(id, room, now))? else { return Ok(None) };
        let leased = answer.map_err(|error| error.to_string())?;
        ensure!(leased.items.len() <= room.items as usize, "more items than room");
        let bytes: u64 = leased.items.iter().map(|item| item.size_bytes).sum();
        ensure!(bytes <= room.bytes || (idle && leased.items.len() == 1), "more bytes than room");
        let mut ids = Vec::new();
        let mut before = Seq(0);
        for item in leased.items {
            ensure!(item.seq > before, "seq {} after {before}", item.seq);
            before = item.seq;
            self.may_be_lent(lane, &item)?;
            self.log.push(format!("lent {}", item.id));
            if let Some(session) = self.sessions.get_mut(&lane) {
                ensure!(session.leased.insert(item.seq, item.id).is_none(), "{} lent twice", item.id);
                // Farther ahead than anything can be put off: a clock said so that has been put back since.
                let early = |at: &WallMs| *at > now && at.since(now) <= DEFER_MS_MAX;
                let early = session.deferred.remove(&item.seq).filter(early);
                ensure!(early.is_none(), "{} lent before its time", item.id);
            }
            ids.push(item.id);
        }
        Ok(Some(ids))
    }

    /// Only what is stable and ready is lent, and it is what was accepted.
    pub(super) fn may_be_lent(&mut self, lane: u32, info: &ItemInfo) -> Result<(), Broken> {
        let id = info.id;
        let item = self.last().items.get(&id).ok_or_else(|| format!("{id} was never accepted"))?;
        ensure!(item.lane == lane, "{id} belongs to another lane");
        ensure!(item.state == State::Ready, "{id} was lent while {:?}", item.state);
        self.same_item(info, item)?;
        // A full segment is synced before the commit, so it may be lent before it; but not before the sync. So
        // every moment before the one in which it became ready is over, whatever happens next.
        let ready = |model: &Arc<Model>| model.items.get(&id).is_some_and(|item| item.state == State::Ready);
        let since = self.stages.iter().rposition(|model| !ready(model)).map_or(0, |n| n + 1);
        self.stages.drain(..since);
        self.notice();
        Ok(())
    }

    pub(super) fn body_of(&self, info: &ItemInfo) -> Result<Vec<u8>, SpoolError> {
        let spool = self.spool.as_ref().ok_or(SpoolError::Closed)?;
        let mut body = Vec::new();
        for n in 0..info.chunks.len() {
            body.extend(spool.reader().chunk(info, n)?);
        }
        Ok(body)
    }

    pub(super) fn answer(&mut self, n: u8, pick: u8, answer: Answer) -> Result<(), Broken> {
        let Some((lane, session)) = self.pick_session(n) else { return Ok(()) };
        let now = self.now;
        let Some((seq, id)) = self.sessions.get(&lane).and_then(|session| {
            let n = usize::from(pick).checked_rem(session.leased.len())?;
            session.leased.iter().nth(n).map(|(seq, id)| (*seq, *id))
        }) else {
            // An ack of something that is not lent changes nothing.
            let Some((id, item)) = self.pick_item(pick).map(|(id, item)| (id, item.clone())) else {
                return Ok(());
            };
            let Some(outcome) = self.request(|spool| spool.ack(session, id, now))? else { return Ok(()) };
            let outcome = outcome.map_err(|error| error.to_string())?;
            let already = item.lane == lane && item.state == State::Acked && !self.over(&item);
            ensure!(outcome != AckOutcome::Acked, "{id} was not lent");
            ensure!(!already || outcome == AckOutcome::Already, "{id}: {outcome:?}");
            return Ok(());
        };
        if let Some(session) = self.sessions.get_mut(&lane) {
            session.leased.remove(&seq);
        }
        let state = self.last().items.get(&id).map(|item| item.state);
        self.log.push(format!("{answer:?} {id}"));
        match answer {
            Answer::Ack => {
                self.nacks.remove(&id);
                let Some(outcome) = self.request(|spool| spool.ack(session, id, now))? else { return Ok(()) };
                let outcome = outcome.map_err(|error| error.to_string())?;
                let expected =
                    if state == Some(State::Ready) { AckOutcome::Acked } else { AckOutcome::Ignored };
                ensure!(outcome == expected, "ack of {id} ({state:?}): {outcome:?}");
                if outcome == AckOutcome::Acked {
                    self.enter(id, State::Acked);
                }
            }
            Answer::Nack(ms) => {
                let count = self.nacks.entry(id).or_default();
                *count += 1;
                let park = *count >= NACKS_MAX;
                if park {
                    self.nacks.remove(&id);
                }
                let ms = u64::from(ms);
                let Some(done) = self.request(|spool| spool.nack(session, id, ms, now))? else {
                    return Ok(());
                };
                let told = done.map_err(|error| error.to_string())?;
                let parked = park && state == Some(State::Ready);
                ensure!(
                    matches!(told, NackOutcome::Parked(_)) == parked,
                    "nack of {id} ({state:?}): {told:?}"
                );
                if parked {
                    self.enter(id, State::Held);
                } else if !park && let Some(session) = self.sessions.get_mut(&lane) {
                    session.deferred.insert(seq, now.plus(ms));
                }
            }
            Answer::Reject => {
                self.nacks.remove(&id);
                let Some(done) = self.request(|spool| spool.reject(session, id, "no", now))? else {
                    return Ok(());
                };
                done.map_err(|error| error.to_string())?;
                if state == Some(State::Ready) {
                    self.enter(id, State::Held);
                }
            }
            Answer::Unlease => {
                let Some(done) = self.request(|spool| spool.unlease(session, id))? else { return Ok(()) };
                done.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    pub(super) fn enter(&mut self, id: ItemId, state: State) {
        let now = self.now;
        self.stage(|model| {
            if let Some(item) = model.items.get_mut(&id) {
                (item.state, item.changed_at) = (state, now);
                if let Some(out) = item.out.as_mut().filter(|_| state == State::Ready) {
                    out.due = now; // who lets a submission go wants it to be tried
                }
            }
        });
    }

    pub(super) fn replay(&mut self, n: u8, from: u8) -> Result<(), Broken> {
        // With the clock set back an item may be replayed whose retention was over once, and its bytes gone.
        if self.now < self.latest {
            return Ok(());
        }
        let Some(lane) = self.last().lane_of(&lane_name(n)) else { return Ok(()) };
        let (now, from) = (self.now, Seq(u64::from(from)));
        let from_seq = ReplayFrom::Seq(from);
        let Some(answer) = self.request(|spool| spool.replay(LaneId(lane), from_seq, None, now))? else {
            return Ok(());
        };
        let part = answer.map_err(|error| error.to_string())?;
        ensure!(part.go_on.is_none(), "a lane of this size is replayed at once");
        let count = part.items;
        let acked: Vec<_> = self
            .last()
            .of_lane(lane)
            .into_iter()
            .filter(|(_, item)| item.seq >= from && item.state == State::Acked)
            .map(|(id, item)| (id, self.over(item)))
            .collect();
        // Those within retention must be ready now; of the others only those that are still there.
        for (id, _) in acked.iter().filter(|(_, over)| !over) {
            self.enter(*id, State::Ready);
        }
        let mut seen = 0;
        for (id, over) in acked {
            let Called::Fine(info) = self.call(|spool| spool.item(id))? else { return Ok(()) };
            match info {
                Some(info) if info.state == State::Ready => {
                    seen += 1;
                    if over {
                        self.enter(id, State::Ready);
                    }
                }
                Some(info) => ensure!(over, "{id} stays {:?} after a replay", info.state),
                None => ensure!(over, "{id} is gone after a replay"),
            }
        }
        ensure!(count == seen, "{count} replayed, {seen} seen");
        Ok(())
    }

    pub(super) fn verb(&mut self, pick: u8, verb: u8) -> Result<(), Broken> {
        let verb = [Verb::Hold, Verb::Release, Verb::Replay, Verb::Purge][usize::from(verb % 4)];
        let Some((id, item)) = self.pick_item(pick).map(|(id, item)| (id, item.clone())) else {
            return Ok(());
        };
        if self.now < self.latest && self.over(&item) {
            return Ok(());
        }
        let now = self.now;
        let Some(answer) = self.request(|spool| spool.apply_verb(id, verb, "because", now))? else {
            return Ok(());
        };
        // A result that has not been told may not go.
        let owed = verb == Verb::Purge && item.out.as_ref().is_some_and(|out| !out.told);
        let expected = after_verb(item.state, verb).filter(|_| !owed);
        match (answer, expected) {
            (Ok(()), Some(state)) => self.enter(id, state),
            (Err(RequestError::WrongState { .. }), None) => {}
            (Err(RequestError::UnknownItem(_)), _) if self.over(&item) => {}
            (answer, expected) => {
                return Err(format!(
                    "{verb:?} of {id} ({:?}): {answer:?}, expected {expected:?}",
                    item.state
                ));
            }
        }
        Ok(())
    }

    pub(super) fn pick_item(&self, pick: u8) -> Option<(ItemId, &Item)> {
        let items = &self.last().items;
        let n = usize::from(pick).checked_rem(items.len())?;
        items.iter().nth(n).map(|(id, item)| (*id, item))
    }
}
