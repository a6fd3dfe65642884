//! Is the spool what the model says? After a stop, after decay, and when everything is fetched.

use super::*;

/// What came of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything is as it was, and nothing was found.
    Harmless,
    /// It was found, by the start or by `verify`; everything that does not need those bytes is as it was.
    Found,
    /// The start said no.
    Refused,
}

/// How many committed items are not what they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Harm {
    /// Not there.
    pub(crate) lost: u64,
    /// There with other bytes, or not readable.
    pub(crate) corrupt: u64,
    /// Acked for good, and offered again; or listed twice.
    pub(crate) double: u64,
}

impl World {
    /// Lets one bit decay, starts, and compares: all is as it was, or the damage is reported and everything
    /// else is as it was.
    pub(crate) fn decay(
        &mut self,
        choose: impl FnOnce(&[String]) -> String,
        place: impl FnOnce(&[u8]) -> usize,
        bit: u8,
        fate: IndexFate,
    ) -> Result<(), Broken> {
        let rest = self.rest()?;
        let name = choose(&rest.disk.files());
        let offset = place(&rest.disk.contents(&name).unwrap_or_default());
        let disk = rest.disk.kill();
        disk.flip(&name, offset as u64, bit);
        let index = MemoryIndex::new();
        if fate != IndexFate::Lost {
            index.restore(rest.index.as_ref().clone());
        }
        let judged = Self::after(&rest, disk, index).judge(&rest.reach(&name, offset));
        judged.map(drop).map_err(|why| format!("{name} {offset} bit {bit}: {why}"))
    }

    /// Stops in good order; what that left.
    pub(crate) fn rest(&mut self) -> Result<Cut, Broken> {
        self.commit()?;
        let now = self.now;
        if let Some(spool) = &mut self.spool {
            spool.close(now).map_err(|error| error.to_string())?;
        }
        self.spool = None;
        self.pull_plug(Stop::Clean);
        Ok(self.here())
    }

    /// Starts on a disk of which something may be damaged, verifies it, and compares.
    ///
    /// * `reach` – what the damage may have taken.
    pub(crate) fn judge(&mut self, reach: &Reach) -> Result<Verdict, Broken> {
        let opened = Spool::open(self.shared_disk(), self.shared_index(), self.options.clone(), self.now);
        let (spool, recovery) = match opened {
            Ok(opened) => opened,
            // A damaged format file or version number: said, not guessed.
            Err(SpoolError::Foreign { .. } | SpoolError::NewerFormat { .. }) => return Ok(Verdict::Refused),
            Err(error) => return Err(format!("does not open: {error}")),
        };
        let plan = spool.verify_plan();
        let mut found = recovery.damaged.len() + recovery.foreign.len();
        for number in plan.segments().collect::<Vec<_>>() {
            found += plan.check_segment(number).map_err(|error| error.to_string())?.damaged.len();
        }
        self.spool = Some(spool);
        match self.matches(self.committed()) {
            Ok(()) if found == 0 => Ok(Verdict::Harmless),
            Ok(()) => Ok(Verdict::Found),
            Err(why) if found == 0 => Err(format!("unnoticed: {why}")),
            Err(_) => self.neighbours_live(reach).map(|()| Verdict::Found),
        }
    }

    /// With one damaged record, every item that does not need it is shown as it was, and no other bytes are served
    /// in the place of those that are damaged.
    fn neighbours_live(&self, reach: &Reach) -> Result<(), Broken> {
        let mut harmed = Vec::new();
        for (id, item) in &self.committed().items {
            let shown = self.spool.as_ref().ok_or("no process")?.item(*id);
            match shown {
                Ok(Some(info)) if self.same_item(&info, item).is_ok() => {}
                Ok(Some(info)) => {
                    ensure!(info.id == *id && info.chain == item.chain, "{id} is another item now");
                    ensure!(!self.served_wrong(&info, item), "{id} is served with other bytes");
                    harmed.push(*id);
                }
                Ok(None) if self.over(item) => {}
                Ok(None) | Err(SpoolError::Corrupt { .. }) => harmed.push(*id),
                Err(error) => return Err(error.to_string()),
            }
        }
        let beyond: Vec<_> = harmed.iter().filter(|id| !reach.has(**id)).collect();
        ensure!(beyond.is_empty(), "harms {beyond:?}, which do not need it: {reach:?}");
        Ok(())
    }

    /// Whoever fetches it gets something else than was accepted.
    fn served_wrong(&self, info: &ItemInfo, item: &Item) -> bool {
        let head = info.head == item.head && info.meta == item.meta && info.tag == item.tag;
        !head || info.sha256 != item.sha256 || self.body_of(info).is_ok_and(|body| body != *item.body)
    }

    /// Counts what a start would find wrong with items, when something is: against the moment that is nearest.
    pub(crate) fn audit(&self) -> Harm {
        let here = self.here();
        let mut again = Self::after(&here, here.disk.kill(), self.index.clone());
        let lost = Harm { lost: self.committed().items.len() as u64, ..Harm::default() };
        let Ok((spool, _)) =
            Spool::open(again.shared_disk(), again.shared_index(), again.options.clone(), again.now)
        else {
            return lost;
        };
        again.spool = Some(spool);
        let harms = again.stages.iter().map(|model| again.harm(model));
        harms.min_by_key(|harm| harm.lost + harm.corrupt + harm.double).unwrap_or(lost)
    }

    fn harm(&self, model: &Model) -> Harm {
        let mut harm = Harm::default();
        let Some(spool) = &self.spool else { return harm };
        for (id, item) in &model.items {
            match spool.item(*id) {
                Ok(None) if self.over(item) => {}
                Ok(None) => harm.lost += 1,
                Err(_) => harm.corrupt += 1,
                Ok(Some(info)) => {
                    let kept = spool::life::keeps_body(info.state) && !self.over(item);
                    let unreadable = kept && self.body_of(&info).is_err();
                    harm.corrupt += u64::from(unreadable || self.served_wrong(&info, item));
                    harm.double += u64::from(item.state == State::Acked && info.state == State::Ready);
                }
            }
        }
        let listed = listed_in(spool).unwrap_or_default();
        let ids: std::collections::BTreeSet<_> = listed.iter().map(|info| info.id).collect();
        harm.double += (listed.len() - ids.len()) as u64;
        harm
    }

    /// What the spool shows now, as far as [`World::restart`] compares it.
    pub(crate) fn facts(&self) -> Result<Vec<String>, Broken> {
        facts_of(self.spool.as_ref().ok_or("no process")?)
    }

    /// The retention of an item is over, so that it may be gone.
    pub(super) fn over(&self, item: &Item) -> bool {
        !item.waits() && self.latest.since(item.changed_at) >= RETAIN_MS
    }

    pub(super) fn shown(&self, id: ItemId) -> Result<Option<ItemInfo>, Broken> {
        let spool = self.spool.as_ref().ok_or("no process")?;
        spool.item(id).map_err(|error| format!("{id}: {error}"))
    }

    pub(super) fn listed(&self) -> Result<Vec<ItemInfo>, Broken> {
        listed_in(self.spool.as_ref().ok_or("no process")?)
    }

    /// Is the spool exactly this?
    pub(super) fn matches(&self, model: &Model) -> Result<(), Broken> {
        let spool = self.spool.as_ref().ok_or("no process")?;
        let mailboxes = spool.mailboxes(None, 100).map_err(|error| error.to_string())?;
        let outboxes =
            || model.lanes.iter().filter(|(_, lane)| lane.name.starts_with('>')).map(|(id, _)| *id);
        let boxes = model.lanes.len() - outboxes().count();
        ensure!(mailboxes.len() == boxes, "{} lanes of {boxes}", mailboxes.len());
        let outboxes = outboxes().map(|id| {
            let outbox = spool.mailbox_of_lane(LaneId(id)).map_err(|error| error.to_string())?;
            outbox.ok_or_else(|| format!("outbox {id} is gone"))
        });
        for mailbox in mailboxes.into_iter().map(Ok).chain(outboxes) {
            let mailbox = mailbox?;
            let (id, name) = (mailbox.lane.0, &mailbox.name);
            let lane = model.lanes.get(&id).ok_or_else(|| format!("lane {id} from nowhere"))?;
            ensure!(*name == lane.name && mailbox.created_at == lane.created_at, "lane {id} is {name}");
            ensure!(mailbox.aliases.iter().eq(&lane.aliases), "{name} has aliases {:?}", mailbox.aliases);
            ensure!(mailbox.revoked == lane.revoked, "{name} revoked: {}", mailbox.revoked);
            ensure!(mailbox.quota_items == lane.quota_items, "{name} quota {:?}", mailbox.quota_items);
            let per_hour = mailbox.submissions_per_hour;
            ensure!(per_hour == lane.per_hour, "{name} may submit {per_hour:?}");
            ensure!(mailbox.stats.next_seq.0 == lane.next_seq, "{name} next {}", mailbox.stats.next_seq);
            let cursor = model.cursor(id);
            ensure!(mailbox.stats.cursor == cursor, "{name} cursor {} not {cursor}", mailbox.stats.cursor);
            let (items, bytes) = model.waiting(id);
            let n = |state: State| state as usize;
            let stats = mailbox.stats;
            let sum = |of: &[u64]| of[n(State::Ready)] + of[n(State::Held)] + of[n(State::Armed)];
            let seen = sum(&stats.items);
            ensure!(seen == items, "{name} counts {seen} waiting items of {items}");
            let seen = sum(&stats.bytes);
            ensure!(seen == bytes, "{name} counts {seen} waiting bytes of {bytes}");
        }
        for (id, item) in &model.items {
            match self.shown(*id)? {
                Some(info) => self.same_item(&info, item)?,
                None => ensure!(self.over(item), "{id} ({:?}, seq {}) is gone", item.state, item.seq),
            }
        }
        for info in self.listed()? {
            ensure!(model.items.contains_key(&info.id), "{} from nowhere", info.id);
        }
        self.same_queues(model)?;
        self.same_invitations(model)?;
        for (number, (id, until)) in &model.twins {
            let found = spool.twin(&[*number; 32], self.now).map_err(|error| error.to_string())?;
            let lives = *until > self.now;
            // Outlived once, it cannot be told from the one before it, and either may show when the clock goes back.
            let outlived = *until <= self.latest;
            ensure!(
                found == lives.then_some(*id) || outlived,
                "twin {number}: {found:?}, not {id} until {until:?} at {:?}",
                self.now
            );
        }
        Ok(())
    }

    pub(super) fn same_item(&self, info: &ItemInfo, item: &Item) -> Result<(), Broken> {
        let id = info.id;
        ensure!(
            info.lane.0 == item.lane && info.seq == item.seq,
            "{id} moved to {:?} {}",
            info.lane,
            info.seq
        );
        ensure!(info.state == item.state, "{id} is {:?}, not {:?}", info.state, item.state);
        ensure!(info.accepted_at == item.accepted_at, "{id} accepted {:?}", info.accepted_at);
        ensure!(info.changed_at == item.changed_at, "{id} changed {:?}", info.changed_at);
        ensure!(info.chain == item.chain && info.sha256 == item.sha256, "{id} has another chain or hash");
        ensure!(info.tag == item.tag && info.meta == item.meta && info.head == item.head, "{id} lost meta");
        ensure!(info.size_bytes == item.size(), "{id} has {} bytes of {}", info.size_bytes, item.size());
        ensure!(info.outbound.is_some() == item.out.is_some(), "{id} changed its direction");
        if let (Some(seen), Some(out)) = (info.outbound, &item.out) {
            let same = u32::from(seen.attempts) == out.attempts && seen.told == out.told;
            ensure!(same, "{id} is {seen:?}, not {out:?}");
        }
        if !spool::life::keeps_body(item.state) {
            return Ok(());
        }
        match self.body_of(info) {
            Ok(body) => ensure!(body == *item.body, "{id} has another body"),
            Err(SpoolError::Io { .. }) if self.armed => {}
            Err(error) => return Err(format!("body of {id} ({:?}): {error}", item.state)),
        }
        Ok(())
    }

    /// A new session of each lane gets exactly what waits, in order.
    pub(crate) fn drain(&mut self) -> Result<(), Broken> {
        let of_gateways = self.last().lanes.iter().filter(|(_, lane)| !lane.name.starts_with('>'));
        let lanes: Vec<u32> = of_gateways.map(|(id, _)| *id).collect();
        for lane in lanes {
            ensure!(self.open_lane(lane)?, "no session");
            let expected: Vec<ItemId> = self
                .committed()
                .of_lane(lane)
                .into_iter()
                .filter(|(_, item)| item.state == State::Ready)
                .map(|(id, _)| id)
                .collect();
            let mut got = Vec::new();
            loop {
                let page = self.lease(lane, Room { items: 3, bytes: 1 << 40 })?.unwrap_or_default();
                if page.is_empty() {
                    break;
                }
                got.extend(page);
            }
            ensure!(got == expected, "lane {lane} offers {got:?}, not {expected:?}");
        }
        Ok(())
    }
}

/// What does not depend on the moment.
pub(super) fn facts_of(spool: &Spool) -> Result<Vec<String>, Broken> {
    let mut facts = Vec::new();
    for mailbox in spool.mailboxes(None, 100).map_err(|e| e.to_string())? {
        let (lane, name, stats) = (mailbox.lane, &mailbox.name, mailbox.stats);
        facts.push(format!("{lane:?} {name} {:?} {:?} {:?}", mailbox.aliases, stats.next_seq, stats.cursor));
    }
    for info in listed_in(spool)? {
        let timeline = spool.timeline(info.id).map_err(|e| e.to_string())?;
        let ItemInfo { id, lane, seq, state, chain, .. } = &info;
        facts.push(format!("{id} {lane:?} {seq} {state:?} {chain:02x?} {timeline:?}"));
    }
    Ok(facts)
}

/// Whatever compaction took: what is listed has its body, unless its state gave it up.
pub(super) fn bodies_are_whole(spool: &Spool) -> Result<(), Broken> {
    for item in listed_in(spool)?.iter().filter(|item| spool::life::keeps_body(item.state)) {
        let why = |error| format!("body of {} ({:?}): {error}", item.id, item.state);
        spool.reader().check_body(item).map_err(why)?;
    }
    Ok(())
}

pub(super) fn listed_in(spool: &Spool) -> Result<Vec<ItemInfo>, Broken> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (page, next) =
            spool.list(&Filter::default(), after, 7).map_err(|error| format!("list: {error}"))?;
        all.extend(page);
        match next {
            Some(page) => after = Some(page),
            None => return Ok(all),
        }
    }
}
