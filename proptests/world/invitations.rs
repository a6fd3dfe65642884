//! Invitations: made, withdrawn, redeemed.

use spool::invitations::{Ending, Invitation, InvitationError, KEEP_MS};

use super::*;
use crate::model::Invited;

impl World {
    pub(super) fn invite(&mut self, number: u8, name: u8, ttl_ms: u32) -> Result<(), Broken> {
        let (now, alias, until) = (self.now, alias(name), self.now.plus(u64::from(ttl_ms)));
        let aliases = vec![alias.clone()];
        let doubtful =
            |n: &u8, known: &Invited| (*n == number || known.alias == alias) && self.forgotten(known);
        if self.last().invitations.iter().any(|(n, known)| doubtful(n, known)) {
            return Ok(());
        }
        let new = Invitation { code_sha256: [number; 32], aliases, until, ..Invitation::default() };
        let Some(answer) = self.invitation_request(|spool| spool.invite(&new, now))? else { return Ok(()) };
        let model = self.last();
        let promised = |known: &Invited| known.alias == alias && known.ended.is_none() && known.until > now;
        let taken = model.lane_of(&alias).is_some() || model.invitations.values().any(promised);
        let free = !model.invitations.contains_key(&number) && !taken;
        ensure!(answer.is_ok() == free, "invitation {number} for {alias}: {answer:?}");
        if answer.is_ok() {
            let invited = Invited { alias, until, ended: None };
            self.stage(|model| drop(model.invitations.insert(number, invited)));
        }
        Ok(())
    }

    /// It ended so long ago that it may be gone, or back in a rebuilt index.
    fn forgotten(&self, known: &Invited) -> bool {
        let over = known.ended.map_or(known.until, |(at, _)| at.max(known.until));
        over.plus(KEEP_MS) <= self.latest
    }

    pub(super) fn withdraw(&mut self, number: u8) -> Result<(), Broken> {
        if self.last().invitations.get(&number).is_some_and(|known| self.forgotten(known)) {
            return Ok(());
        }
        let now = self.now;
        let Some(answer) = self.invitation_request(|spool| spool.withdraw(&[number; 32], now))? else {
            return Ok(());
        };
        let open = self.last().invitations.get(&number).is_some_and(|known| known.ended.is_none());
        ensure!(answer.is_ok() == open, "withdrawal of {number}: {answer:?}");
        if answer.is_ok() {
            self.stage(|model| end(model, number, (now, Ending::Withdrawn)));
        }
        Ok(())
    }

    pub(super) fn redeem(&mut self, number: u8, name: &str) -> Result<(), Broken> {
        if self.last().invitations.get(&number).is_some_and(|known| self.forgotten(known)) {
            return Ok(());
        }
        let now = self.now;
        let Some(answer) = self.invitation_request(|spool| spool.redeem(&[number; 32], name, now))? else {
            return Ok(());
        };
        let model = self.last();
        let mine = model.lane_of(name);
        let own_name = mine.is_none_or(|lane| model.lanes[&lane].name == name);
        let known = model.invitations.get(&number).cloned();
        let again = matches!(known.as_ref().and_then(|known| known.ended),
            Some((_, Ending::Redeemed(lane))) if Some(lane.0) == mine);
        let good = known.as_ref().is_some_and(|known| {
            let owner = model.lane_of(&known.alias);
            known.ended.is_none() && known.until > now && own_name && (owner.is_none() || owner == mine)
        });
        ensure!(answer.is_ok() == (again || good), "{name} redeems {number} ({known:?}): {answer:?}");
        let (Ok(lane), Some(known), true) = (answer, known, good) else { return Ok(()) };
        let state =
            mine.and_then(|lane| model.lanes.get(&lane).cloned()).unwrap_or_else(|| Lane::new(name, now));
        self.stage(|model| {
            model.lanes.entry(lane.0).or_insert(state).aliases.insert(known.alias);
        });
        self.stage(|model| end(model, number, (now, Ending::Redeemed(lane))));
        Ok(())
    }

    /// Asks the spool; `None` when it died of it.
    fn invitation_request<T>(
        &mut self,
        ask: impl FnOnce(&mut Spool) -> Result<T, InvitationError>,
    ) -> Result<Option<Result<T, InvitationError>>, Broken> {
        let Some(spool) = &mut self.spool else { return Ok(None) };
        match ask(spool) {
            Err(InvitationError::Request(RequestError::Spool(error))) => {
                self.died::<()>(&error).map(|_| None)
            }
            answer => Ok(Some(answer)),
        }
    }

    pub(super) fn same_invitations(&self, model: &Model) -> Result<(), Broken> {
        let spool = self.spool.as_ref().ok_or("no process")?;
        let found = spool.invitations().map_err(|error| error.to_string())?;
        let unknown = found.iter().filter(|seen| !model.invitations.contains_key(&seen.code_sha256[0]));
        ensure!(unknown.count() == 0, "invitations from nowhere");
        for (number, known) in &model.invitations {
            let seen = found.iter().find(|seen| seen.code_sha256 == [*number; 32]);
            if seen.is_none() && self.forgotten(known) {
                continue;
            }
            let seen = seen.ok_or_else(|| format!("invitation {number} is gone"))?;
            let same = seen.aliases == [known.alias.clone()] && seen.until == known.until;
            ensure!(same && seen.ended == known.ended, "invitation {number} is {seen:?}, not {known:?}");
        }
        Ok(())
    }
}

fn end(model: &mut Model, number: u8, ending: (WallMs, Ending)) {
    if let Some(known) = model.invitations.get_mut(&number) {
        known.ended = Some(ending);
    }
}
