//! What gateways submit, what becomes of it, and what they are told.

use spool::submission::{NewSubmission, Settlement, Submitted};

use super::*;
use crate::r#gen::{OutStep, Submit};
use crate::model::Out;

/// Keys are remembered for longer than any of these stories lasts.
const KEY_MS: u64 = 1 << 40;

impl World {
    pub(super) fn submit(&mut self, submit: &Submit) -> Result<(), Broken> {
        let Submit { slot, lane, destination, key, settled, local } = submit;
        if !self.bodies.contains_key(slot) {
            self.stream(*slot, 200)?;
        }
        let Some(body) = self.bodies.remove(slot) else { return Ok(()) };
        let mailbox = self.last().lane_of(&lane_name(*lane)).unwrap_or(999);
        let (now, id) = (self.now, body.id);
        let local = local.and_then(|n| {
            let lane = self.last().lane_of(&lane_name(n))?;
            Some(Target { lane: LaneId(lane), id: self.random_id(), tag: vec![n] })
        });
        let settled = match (&local, settled) {
            (Some(_), _) => Some(Settlement::Sent),
            (None, true) => Some(Settlement::Failed),
            (None, false) => None,
        };
        let new = NewSubmission {
            message: NewMessage {
                body: id,
                body_bytes: body.bytes.len() as u64,
                sha256: Sha256::digest(&body.bytes).into(),
                head: b"head".to_vec(),
                meta: vec![2],
                fingerprint: None,
                targets: local.clone().into_iter().collect(),
            },
            mailbox: LaneId(mailbox),
            tag: vec![b'd', *destination],
            key: std::array::from_fn(|n| if n == 0 { *key } else { 0xee }),
            key_until: now.plus(KEY_MS),
            twin: None,
            destination: destination_name(*destination),
            due: now.plus(u64::from(*destination) * 1000),
            settled: settled.map(|to| (to, "at once".to_owned())),
        };
        let asked = new.clone();
        let Some(spool) = &mut self.spool else { return Ok(()) };
        let answer = spool.submit(new, now);
        if answer.is_err() {
            // The outbox may have been made for it.
            self.outbox_of(mailbox)?;
        }
        match (answer, self.known(&asked)) {
            (Err(AcceptError::Spool(error)), _) => return self.died::<()>(&error).map(|_| ()),
            (Err(AcceptError::NoSpace), _) => ensure!(self.armed, "no space on an empty medium"),
            (Err(AcceptError::NoBody), _) => ensure!(body.broken, "the body is there"),
            (Err(_), (known, over)) if (known.is_none() || over) && self.refuses(&asked) => {}
            (Ok(Submitted::New(new)), (known, over)) => {
                ensure!(new == id && (known.is_none() || over), "{key} is known");
                ensure!(!self.refuses(&asked), "accepted although there is no room");
                self.outbox_of(mailbox)?;
                return self.submitted(&asked, body.bytes, settled);
            }
            (Ok(answer), (Some(known), _)) => ensure!(answer == known, "{answer:?} instead of {known:?}"),
            (answer, known) => return Err(format!("{answer:?}, expected {known:?}")),
        }
        Ok(())
    }

    /// What was submitted under the same key, and whether its retention is over.
    fn known(&self, new: &NewSubmission) -> (Option<Submitted>, bool) {
        let Some(id) = self.last().keys.get(&new.key[0]) else { return (None, false) };
        let Some(item) = self.last().items.get(id) else { return (None, false) };
        let same = item.sha256 == new.message.sha256 && item.tag == new.tag;
        let known = if same { Submitted::Known(*id) } else { Submitted::Conflict(*id) };
        (Some(known), self.over(item))
    }

    fn refuses(&self, new: &NewSubmission) -> bool {
        let Some(lane) = self.last().lanes.get(&new.mailbox.0) else { return true };
        let outbox = self.last().lane_of(&format!(">{}", lane.name));
        let full = outbox.is_some_and(|outbox| self.last().waiting(outbox).0 >= LANE_ITEMS_MAX);
        lane.revoked || full || self.verdict(&new.message).is_some()
    }

    /// The outbox appears in the model when it is in the spool.
    fn outbox_of(&mut self, mailbox: u32) -> Result<(), Broken> {
        let Some(name) = self.last().lanes.get(&mailbox).map(|lane| format!(">{}", lane.name)) else {
            return Ok(());
        };
        if self.last().lane_of(&name).is_some() {
            return Ok(());
        }
        let spool = self.spool.as_ref().ok_or("no process")?;
        if let Some(id) = spool.outbox(LaneId(mailbox)).map_err(|error| error.to_string())? {
            let lane = Lane::new(&name, self.now);
            self.stage(|model| drop(model.lanes.insert(id.0, lane)));
        }
        Ok(())
    }

    fn submitted(
        &mut self,
        new: &NewSubmission,
        body: Vec<u8>,
        settled: Option<Settlement>,
    ) -> Result<(), Broken> {
        let (body, mut model) = (Arc::new(body), self.last().clone());
        let head_sha256: [u8; 32] = Sha256::digest(&new.message.head).into();
        let owner = model.lanes.get(&new.mailbox.0).ok_or("no mailbox")?.name.clone();
        let outbox = model.lane_of(&format!(">{owner}")).ok_or("no outbox")?;
        let own = Target { lane: LaneId(outbox), id: new.message.body, tag: new.tag.clone() };
        for target in std::iter::once(&own).chain(&new.message.targets) {
            let lane = model.lanes.get_mut(&target.lane.0).ok_or("no lane")?;
            let seq = Seq(lane.next_seq);
            lane.next_seq += 1;
            lane.chain = chain_step(&lane.chain, seq, target.id, &head_sha256, &new.message.sha256);
            let chain = lane.chain;
            let is_own = target.id == own.id;
            let item = Item {
                lane: target.lane.0,
                seq,
                state: settled.filter(|_| is_own).map_or(State::Ready, Settlement::state),
                accepted_at: self.now,
                changed_at: self.now,
                sha256: new.message.sha256,
                chain,
                head: new.message.head.clone(),
                meta: new.message.meta.clone(),
                tag: target.tag.clone(),
                body: Arc::clone(&body),
                out: is_own.then(|| Out {
                    destination: new.destination.clone(),
                    due: new.due,
                    attempts: 0,
                    told: false,
                }),
            };
            model.items.insert(target.id, item);
        }
        model.keys.insert(new.key[0], own.id);
        // The keys come first: a torn batch may keep them alone, and nobody can see that.
        self.stage_model(model);
        Ok(())
    }

    pub(super) fn out_step(&mut self, pick: u8, what: &OutStep) -> Result<(), Broken> {
        let out: Vec<ItemId> =
            self.last().items.iter().filter(|(_, item)| item.out.is_some()).map(|(id, _)| *id).collect();
        let Some(n) = usize::from(pick).checked_rem(out.len()) else { return Ok(()) };
        let (id, now) = (out[n], self.now);
        let Some(item) = self.last().items.get(&id).cloned() else { return Ok(()) };
        if self.over(&item) {
            return Ok(());
        }
        let Some(mut after) = item.out.clone() else { return Ok(()) };
        let asked = what.clone();
        let answer = self.request(|spool| match asked {
            OutStep::Arm => spool.arm(id, "armed", now),
            OutStep::Defer(ms) => spool.defer(id, now.plus(u64::from(ms)), "later", now),
            OutStep::Postpone(ms) => spool.postpone(id, now.plus(u64::from(ms)), "busy", now),
            OutStep::Send => spool.settle(id, Settlement::Sent, "250", now),
            OutStep::Fail => spool.settle(id, Settlement::Failed, "550", now),
            OutStep::Doubt => spool.settle(id, Settlement::Indeterminate, "lost", now),
            OutStep::Tell => spool.tell(id, now).map(drop),
        })?;
        let Some(answer) = answer else { return Ok(()) };
        let was_told = after.told;
        let state = match (what, item.state) {
            (OutStep::Arm, State::Ready) => Some(State::Armed),
            (OutStep::Defer(ms), State::Ready | State::Armed) => {
                (after.due, after.attempts) = (now.plus(u64::from(*ms)), after.attempts + 1);
                Some(State::Ready)
            }
            (OutStep::Postpone(ms), State::Ready) => {
                after.due = now.plus(u64::from(*ms));
                Some(State::Ready)
            }
            (OutStep::Send, State::Armed) => Some(State::Sent),
            (OutStep::Doubt, State::Armed) => Some(State::Indeterminate),
            (OutStep::Fail, State::Armed | State::Ready | State::Held) => Some(State::Failed),
            (OutStep::Tell, state @ (State::Sent | State::Failed | State::Indeterminate)) => {
                after.told = true;
                Some(state)
            }
            _ => None,
        };
        let verdict = matches!(what, OutStep::Send | OutStep::Fail | OutStep::Doubt);
        if verdict && item.state == State::Armed {
            after.attempts += 1;
        }
        after.attempts = after.attempts.min(u32::from(spool::entry::ATTEMPTS_MAX));
        match (answer, state) {
            (Ok(()), Some(state)) if !(what == &OutStep::Tell && was_told) => self.stage(|model| {
                if let Some(item) = model.items.get_mut(&id) {
                    (item.state, item.changed_at, item.out) = (state, now, Some(after));
                }
            }),
            (Ok(()), Some(_)) | (Err(RequestError::WrongState { .. }), None) => {}
            (answer, expected) => {
                return Err(format!(
                    "{what:?} of {id} ({:?}): {answer:?}, expected {expected:?}",
                    item.state
                ));
            }
        }
        Ok(())
    }

    /// Queues and results are those of the model.
    pub(super) fn same_queues(&self, model: &Model) -> Result<(), Broken> {
        let spool = self.spool.as_ref().ok_or("no process")?;
        let why = |error: SpoolError| error.to_string();
        let mut waiting: BTreeMap<String, Vec<(WallMs, u32, Seq, ItemId)>> = BTreeMap::new();
        let mut untold: BTreeMap<u32, Vec<(Seq, ItemId)>> = BTreeMap::new();
        for (id, item) in &model.items {
            let Some(out) = &item.out else { continue };
            if item.state == State::Ready {
                let queue = waiting.entry(out.destination.clone()).or_default();
                queue.push((out.due, item.lane, item.seq, *id));
            }
            // What the retention has passed by may be gone, or back in a rebuilt index.
            if spool::life::is_result(item.state) && !out.told && !self.over(item) {
                untold.entry(item.lane).or_default().push((item.seq, *id));
            }
        }
        let names: Vec<String> = waiting.keys().cloned().collect();
        let found: Vec<String> =
            spool.destinations(None, 100).map_err(why)?.into_iter().map(|(name, _)| name).collect();
        ensure!(found == names, "queues {found:?}, not {names:?}");
        for (name, mut queue) in waiting {
            queue.sort();
            let found = spool.due(&name, WallMs(u64::MAX - 1), 1000).map_err(why)?;
            let expected: Vec<_> = queue.iter().map(|(due, _, _, id)| (*id, *due)).collect();
            ensure!(found == expected, "{name} holds {found:?}, not {expected:?}");
        }
        for (mailbox, lane) in model.lanes.iter().filter(|(_, lane)| !lane.name.starts_with('>')) {
            let outbox = model.lane_of(&format!(">{}", lane.name));
            let mut expected = outbox.and_then(|outbox| untold.remove(&outbox)).unwrap_or_default();
            expected.sort();
            let found = spool.untold(LaneId(*mailbox), None, 1000).map_err(why)?;
            let over = |id: &ItemId| model.items.get(id).is_none_or(|item| self.over(item));
            let found: Vec<ItemId> = found.into_iter().filter(|id| !over(id)).collect();
            let expected: Vec<ItemId> = expected.into_iter().map(|(_, id)| id).collect();
            ensure!(found == expected, "{} is to be told {found:?}, not {expected:?}", lane.name);
        }
        Ok(())
    }

    /// What a start makes of submissions that the stop caught armed.
    pub(super) fn doubt_armed(&mut self) {
        let now = self.now;
        let armed = |item: &Item| item.state == State::Armed;
        for model in self.stages.iter_mut().filter(|model| model.items.values().any(armed)) {
            for item in Arc::make_mut(model).items.values_mut().filter(|item| armed(item)) {
                (item.state, item.changed_at) = (State::Indeterminate, now);
                if let Some(out) = &mut item.out {
                    out.attempts = (out.attempts + 1).min(u32::from(spool::entry::ATTEMPTS_MAX));
                }
            }
        }
    }
}

fn destination_name(n: u8) -> String {
    // One is the beginning of another.
    ["a.example", "a.example.org", "b.example"][usize::from(n % 3)].to_owned()
}
