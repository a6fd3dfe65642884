//! A right to become a mailbox, once: made by an operator, redeemed by whoever knows its code.
//!
//! The spool keeps the code's SHA-256 only. Promises: after the commit an invitation is redeemed by one lane or by
//! none; the mailbox has the aliases and limits of the invitation, or there is no mailbox; the same name may redeem
//! the same code again and gets the same answer, because it may not have heard the first one.
//!
//! The mailbox is written before the end of its invitation. A power cut between the two leaves a mailbox nobody was
//! told of, and a code that is still good.

use crate::error::{RequestError, SpoolError};
use crate::ids::{LaneId, Lsn, WallMs};
use crate::index::Tree;
use crate::mailboxes::{ALIASES_MAX, check_name, mailbox_record};
use crate::record::{self, InvitationRecord, Kind, Record, SendingRecord};
use crate::spool::Spool;

/// Longest label, bytes.
pub const LABEL_BYTES_MAX: usize = 200;
/// Most invitations that are remembered.
pub const INVITATIONS_MAX: usize = 10_000;
/// How long an invitation is remembered after it has ended, milliseconds: 30 days.
pub const KEEP_MS: u64 = 30 * 24 * 3600 * 1000;
/// Invitations looked at by one step of upkeep.
const PER_STEP: usize = 64;
/// Bytes of the lsn before a record in the index.
const LSN_BYTES: usize = 8;

/// What an invitation says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invitation {
    /// SHA-256 of the code; names the invitation.
    pub code_sha256: [u8; 32],
    /// Whom it is for, in the operator's words.
    pub label: String,
    /// Aliases of the mailbox that it becomes.
    pub aliases: Vec<String>,
    /// Most ready and held items; `None`: the default of the configuration.
    pub quota_items: Option<u64>,
    /// Most ready and held bytes; `None`: the default of the configuration.
    pub quota_bytes: Option<u64>,
    /// Most submissions per hour; `None`: the default of the configuration.
    pub submissions_per_hour: Option<u32>,
    /// Most recipients elsewhere per day; `None`: the default of the configuration.
    pub recipients_per_day: Option<u32>,
    /// When it was made.
    pub created_at: WallMs,
    /// Until when it may be redeemed.
    pub until: WallMs,
    /// How it ended, and when.
    pub ended: Option<(WallMs, Ending)>,
}

/// How an invitation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It became this mailbox.
    Redeemed(LaneId),
    /// The operator took it back.
    Withdrawn,
}

/// An invitation cannot be made, withdrawn or redeemed.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// No such code.
    #[error("no such invitation")]
    Unknown,
    /// There is one with that code.
    #[error("there is an invitation with that code")]
    Exists,
    /// Its time is over.
    #[error("the invitation has expired")]
    Expired,
    /// It was redeemed by somebody else, or withdrawn.
    #[error("the invitation was used or withdrawn")]
    Ended,
    /// There are too many, or this one says too much.
    #[error("too many invitations, or too long a label")]
    TooMany,
    /// A name is taken, or the spool failed.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl From<SpoolError> for InvitationError {
    fn from(error: SpoolError) -> Self {
        Self::Request(RequestError::Spool(error))
    }
}

impl Spool {
    /// Makes an invitation.
    ///
    /// # Errors
    /// [`RequestError::NameTaken`] when an alias is taken or promised to another open invitation,
    /// [`InvitationError::Exists`], [`InvitationError::TooMany`].
    pub fn invite(&mut self, new: &Invitation, now: WallMs) -> Result<(), InvitationError> {
        let all = self.invitations()?;
        if all.len() >= INVITATIONS_MAX
            || new.label.len() > LABEL_BYTES_MAX
            || new.aliases.len() > ALIASES_MAX
        {
            return Err(InvitationError::TooMany);
        }
        if all.iter().any(|known| known.code_sha256 == new.code_sha256) {
            return Err(InvitationError::Exists);
        }
        let promised = |alias: &String| {
            let open = all.iter().filter(|known| known.ended.is_none() && known.until > now);
            open.into_iter().any(|known| known.aliases.contains(alias))
        };
        for alias in &new.aliases {
            check_name(alias)?;
            if promised(alias) || self.lane_by_name(alias)?.is_some() {
                return Err(RequestError::NameTaken(alias.clone()).into());
            }
        }
        Ok(self.write_invitation(&Invitation { ended: None, created_at: now, ..new.clone() })?)
    }

    /// Every invitation that is remembered, in no order.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn invitations(&self) -> Result<Vec<Invitation>, SpoolError> {
        let pairs = self.tail.scan(Tree::Invitation, &[], None, INVITATIONS_MAX)?;
        Ok(pairs.iter().filter_map(|(_, value)| stored(value).map(|(_, known)| known)).collect())
    }

    /// Takes an invitation back.
    ///
    /// # Errors
    /// [`InvitationError::Unknown`], [`InvitationError::Ended`].
    pub fn withdraw(&mut self, code_sha256: &[u8; 32], now: WallMs) -> Result<(), InvitationError> {
        let known = self.invitation(code_sha256)?.ok_or(InvitationError::Unknown)?;
        if known.ended.is_some() {
            return Err(InvitationError::Ended);
        }
        Ok(self.write_invitation(&Invitation { ended: Some((now, Ending::Withdrawn)), ..known })?)
    }

    /// The mailbox `name`, made if there is none, gets the aliases and limits of the invitation, which ends.
    ///
    /// # Errors
    /// [`InvitationError`]; nothing has changed then.
    pub fn redeem(
        &mut self,
        code_sha256: &[u8; 32],
        name: &str,
        now: WallMs,
    ) -> Result<LaneId, InvitationError> {
        let known = self.invitation(code_sha256)?.ok_or(InvitationError::Unknown)?;
        let mine = self.lane_by_name(name)?;
        match known.ended {
            Some((_, Ending::Redeemed(lane))) if mine == Some(lane) => return Ok(lane),
            Some(_) => return Err(InvitationError::Ended),
            None if known.until <= now => return Err(InvitationError::Expired),
            None => {}
        }
        for alias in &known.aliases {
            if self.lane_by_name(alias)?.is_some_and(|owner| Some(owner) != mine) {
                return Err(RequestError::NameTaken(alias.clone()).into());
            }
        }
        let mut record = match mine {
            Some(id) => {
                let lane = self.tail.lane(id)?.filter(|lane| lane.name == name);
                mailbox_record(id, &lane.ok_or_else(|| RequestError::NameTaken(name.to_owned()))?)
            }
            None => {
                check_name(name)?;
                self.new_mailbox(name, now)
            }
        };
        if record.aliases.len() + known.aliases.len() > ALIASES_MAX {
            return Err(InvitationError::TooMany);
        }
        let id = LaneId(record.lane);
        record.aliases.extend(known.aliases.iter().cloned());
        record.aliases.sort();
        record.aliases.dedup();
        record.quota_items = known.quota_items.or(record.quota_items);
        record.quota_bytes = known.quota_bytes.or(record.quota_bytes);
        record.sending = SendingRecord {
            per_hour: known.submissions_per_hour.or(record.sending.per_hour),
            recipients_per_day: known.recipients_per_day.or(record.sending.recipients_per_day),
        };
        self.append_upkeep(Kind::Mailbox, &Record::Mailbox(record))?;
        self.write_invitation(&Invitation { ended: Some((now, Ending::Redeemed(id))), ..known })?;
        Ok(id)
    }

    fn invitation(&self, code_sha256: &[u8; 32]) -> Result<Option<Invitation>, SpoolError> {
        let value = self.tail.get(Tree::Invitation, code_sha256)?;
        Ok(value.as_deref().and_then(stored).map(|(_, known)| known))
    }

    fn write_invitation(&mut self, invitation: &Invitation) -> Result<(), SpoolError> {
        self.append_upkeep(Kind::Invitation, &Record::Invitation(invitation.to_record()))
    }

    pub(crate) fn apply_invitation(&mut self, lsn: Lsn, record: &InvitationRecord) -> Result<(), SpoolError> {
        let mut value = lsn.0.to_be_bytes().to_vec();
        let payload = record::encode(Kind::Invitation, record);
        value.extend(payload.map_err(|error| SpoolError::Corrupt { lsn, problem: error.to_string() })?);
        self.tail.put(Tree::Invitation, &record.code_sha256, value);
        Ok(())
    }

    /// Writes an invitation again when the segment of its newest record is about to go.
    pub(crate) fn keep_invitation(
        &mut self,
        lsn: Lsn,
        record: InvitationRecord,
        now: WallMs,
    ) -> Result<(), SpoolError> {
        let known = self.tail.get(Tree::Invitation, &record.code_sha256)?;
        let newest = known
            .as_deref()
            .and_then(stored)
            .is_some_and(|(at, known)| at == lsn && known.remembered_until() > now);
        if newest { self.append_upkeep(Kind::Invitation, &Record::Invitation(record)) } else { Ok(()) }
    }

    /// Forgets what ended long ago, a few at a time.
    pub(crate) fn sweep_invitations(&mut self, now: WallMs) -> Result<(), SpoolError> {
        let from = std::mem::take(&mut self.sweep.invitation);
        let page = self.tail.scan(Tree::Invitation, &from, None, PER_STEP)?;
        if let Some((key, _)) = page.last().filter(|_| page.len() == PER_STEP) {
            self.sweep.invitation.clone_from(key);
            self.sweep.invitation.push(0);
        }
        for (key, value) in page {
            if stored(&value).is_none_or(|(_, known)| known.remembered_until() <= now) {
                self.tail.remove(Tree::Invitation, &key);
            }
        }
        Ok(())
    }
}

impl Invitation {
    fn remembered_until(&self) -> WallMs {
        // Not before it would have run out by itself: an earlier record of it may lie in a segment that stays.
        self.ended.map_or(self.until, |(at, _)| at.max(self.until)).plus(KEEP_MS)
    }

    fn to_record(&self) -> InvitationRecord {
        let ended = self.ended.map(|(at, ending)| match ending {
            Ending::Redeemed(lane) => (at.0, lane.0),
            Ending::Withdrawn => (at.0, 0),
        });
        InvitationRecord {
            code_sha256: self.code_sha256,
            label: self.label.clone(),
            aliases: self.aliases.clone(),
            quota_items: self.quota_items,
            quota_bytes: self.quota_bytes,
            sending: SendingRecord {
                per_hour: self.submissions_per_hour,
                recipients_per_day: self.recipients_per_day,
            },
            created_ms: self.created_at.0,
            until_ms: self.until.0,
            ended,
        }
    }

    fn from_record(record: InvitationRecord) -> Self {
        let ending = |lane| if lane == 0 { Ending::Withdrawn } else { Ending::Redeemed(LaneId(lane)) };
        Self {
            code_sha256: record.code_sha256,
            label: record.label,
            aliases: record.aliases,
            quota_items: record.quota_items,
            quota_bytes: record.quota_bytes,
            submissions_per_hour: record.sending.per_hour,
            recipients_per_day: record.sending.recipients_per_day,
            created_at: WallMs(record.created_ms),
            until: WallMs(record.until_ms),
            ended: record.ended.map(|(at, lane)| (WallMs(at), ending(lane))),
        }
    }
}

/// Reads a value of the tree.
fn stored(value: &[u8]) -> Option<(Lsn, Invitation)> {
    let (lsn, payload) = value.split_first_chunk::<LSN_BYTES>()?;
    match record::decode(Kind::Invitation, payload).ok()? {
        Record::Invitation(record) => Some((Lsn(u64::from_be_bytes(*lsn)), Invitation::from_record(record))),
        Record::Batch(_)
        | Record::BodyChunk { .. }
        | Record::Item(_)
        | Record::State(_)
        | Record::Mailbox(_)
        | Record::Twin(_)
        | Record::Step(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::SimDisk;
    use crate::index::Index;
    use crate::index::memory::MemoryIndex;
    use crate::spool::Options;
    use crate::types::Mailbox;

    const NOW: WallMs = WallMs(1_000_000);
    const CODE: [u8; 32] = [9; 32];

    fn open(disk: &Arc<SimDisk>) -> Spool {
        let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
        let disk: Arc<dyn Disk> = disk.clone();
        let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
        Spool::open(disk, index, options, NOW).unwrap().0
    }

    fn aunt() -> Invitation {
        Invitation {
            code_sha256: CODE,
            label: "aunt".into(),
            aliases: vec!["aunt@home.example".into()],
            quota_items: Some(7),
            submissions_per_hour: Some(3),
            until: NOW.plus(1000),
            ..Invitation::default()
        }
    }

    fn invited() -> (Arc<SimDisk>, Spool) {
        let disk = Arc::new(SimDisk::new());
        let mut spool = open(&disk);
        spool.invite(&aunt(), NOW).unwrap();
        spool.commit(NOW).unwrap();
        (disk, spool)
    }

    fn mailbox(spool: &Spool, name: &str) -> Option<Mailbox> {
        spool.mailbox(name).unwrap()
    }

    #[test]
    fn a_code_becomes_one_mailbox_with_what_was_promised() {
        let (disk, mut spool) = invited();
        let lane = spool.redeem(&CODE, "key", NOW).unwrap();
        spool.commit(NOW).unwrap();
        let mut after_kill = open(&Arc::new(disk.kill()));
        for spool in [&mut spool, &mut after_kill] {
            let made = mailbox(spool, "aunt@home.example").unwrap();
            assert_eq!((made.lane, made.name.as_str()), (lane, "key"));
            assert_eq!((made.quota_items, made.submissions_per_hour), (Some(7), Some(3)));
            // The answer may have been lost: the same name asks again. Anybody else is late.
            assert_eq!(spool.redeem(&CODE, "key", NOW).unwrap(), lane);
            assert!(matches!(spool.redeem(&CODE, "thief", NOW), Err(InvitationError::Ended)));
            assert_eq!(mailbox(spool, "thief"), None);
            let listed = spool.invitations().unwrap();
            assert_eq!(listed[0].ended, Some((NOW, Ending::Redeemed(lane))));
        }
    }

    #[test]
    fn what_is_not_good_changes_nothing() {
        let (_, mut spool) = invited();
        assert!(matches!(spool.redeem(&[1; 32], "key", NOW), Err(InvitationError::Unknown)));
        assert!(matches!(spool.redeem(&CODE, "key", NOW.plus(1000)), Err(InvitationError::Expired)));
        spool.withdraw(&CODE, NOW).unwrap();
        assert!(matches!(spool.redeem(&CODE, "key", NOW), Err(InvitationError::Ended)));
        assert!(matches!(spool.withdraw(&CODE, NOW), Err(InvitationError::Ended)));
        assert_eq!(mailbox(&spool, "key"), None);
    }

    #[test]
    fn an_alias_is_promised_once() {
        let (_, mut spool) = invited();
        let second = Invitation { code_sha256: [8; 32], ..aunt() };
        let taken = |result| matches!(result, Err(InvitationError::Request(RequestError::NameTaken(_))));
        assert!(taken(spool.invite(&second, NOW)));
        assert!(spool.invite(&second, NOW.plus(1000)).is_ok(), "the first one has expired");
        spool.register("aunt@home.example", NOW).unwrap();
        assert!(taken(spool.redeem(&[8; 32], "key", NOW).map(|_| ())));
        assert_eq!(mailbox(&spool, "key"), None);
    }

    #[test]
    fn a_mailbox_that_exists_keeps_what_the_invitation_does_not_say() {
        let (_, mut spool) = invited();
        spool.register("key", NOW).unwrap();
        let bytes = Some(5);
        let change = crate::types::MailboxChange::Quota { items: Some(1), bytes };
        spool.change_mailbox("key", change).unwrap();
        spool.redeem(&CODE, "key", NOW).unwrap();
        let made = mailbox(&spool, "key").unwrap();
        assert_eq!((made.quota_items, made.quota_bytes), (Some(7), bytes));
    }

    #[test]
    fn what_ended_long_ago_is_forgotten() {
        let (_, mut spool) = invited();
        let last = NOW.plus(1000 + KEEP_MS);
        spool.maintain(WallMs(last.0 - 1)).unwrap();
        assert_eq!(spool.invitations().unwrap().len(), 1);
        spool.maintain(last).unwrap();
        assert_eq!(spool.invitations().unwrap(), []);
    }

    #[test]
    fn what_was_withdrawn_is_remembered_for_as_long_as_it_could_have_been_used() {
        let (_, mut spool) = invited();
        let far =
            Invitation { code_sha256: [8; 32], aliases: Vec::new(), until: NOW.plus(3 * KEEP_MS), ..aunt() };
        spool.invite(&far, NOW).unwrap();
        spool.withdraw(&[8; 32], NOW).unwrap();
        spool.maintain(NOW.plus(4 * KEEP_MS - 1)).unwrap();
        assert_eq!(spool.invitations().unwrap().len(), 1);
        spool.maintain(NOW.plus(4 * KEEP_MS)).unwrap();
        assert_eq!(spool.invitations().unwrap(), []);
    }
}
