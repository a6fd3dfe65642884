//! Who has a lane: registration, aliases, quotas, revocation.
//!
//! A mailbox record is always whole, so the newest one of a lane is all that is needed of it.

use crate::entry;
use crate::error::{RequestError, SpoolError};
use crate::ids::{LaneId, Seq, WallMs};
use crate::lane::Lane;
use crate::record::{Kind, MailboxRecord, Record, SendingRecord};
use crate::spool::Spool;
use crate::types::{LaneStats, Mailbox, MailboxChange, State};

/// Longest name or alias, bytes.
pub const NAME_BYTES_MAX: usize = 320;
/// Most aliases of one mailbox.
pub const ALIASES_MAX: usize = 1000;

/// First character of an outbox's name; no mailbox or alias has it.
const OUTBOX_MARK: char = '>';

/// Is this lane the outbox of a mailbox?
#[must_use]
pub fn is_outbox(name: &str) -> bool {
    name.starts_with(OUTBOX_MARK)
}

/// Name of the mailbox whose outbox is called `name`; of any other lane its own name.
#[must_use]
pub fn owner_name(name: &str) -> &str {
    name.strip_prefix(OUTBOX_MARK).unwrap_or(name)
}

impl Spool {
    /// The lane of mailbox `name`, made if there is none.
    ///
    /// # Errors
    /// [`RequestError::NameTaken`] when `name` is an alias, empty, too long, or an outbox's.
    pub fn register(&mut self, name: &str, now: WallMs) -> Result<LaneId, RequestError> {
        check_name(name)?;
        self.register_lane(name, now)
    }

    /// The outbox of a mailbox, made if there is none.
    pub(crate) fn register_outbox(&mut self, mailbox: LaneId, now: WallMs) -> Result<LaneId, RequestError> {
        let unknown = || RequestError::UnknownMailbox(mailbox.0.to_string());
        let lane = self.tail.lane(mailbox)?.filter(|lane| lane.defined != 0).ok_or_else(unknown)?;
        if is_outbox(&lane.name) {
            return Err(unknown());
        }
        self.register_lane(&format!("{OUTBOX_MARK}{}", lane.name), now)
    }

    /// The outbox of a mailbox, if it has ever submitted something.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn outbox(&self, mailbox: LaneId) -> Result<Option<LaneId>, SpoolError> {
        match self.tail.lane(mailbox)? {
            Some(lane) => self.lane_by_name(&format!("{OUTBOX_MARK}{}", lane.name)),
            None => Ok(None),
        }
    }

    /// The newest position of a lane and the chain's value there, also when they are not stable yet: for whoever has just
    /// put something in and says so after the commit. `None`: nothing ever was in it.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn end_of(&self, lane: LaneId) -> Result<Option<(Seq, [u8; 32])>, SpoolError> {
        let lane = self.tail.lane(lane)?;
        Ok(lane.filter(|lane| lane.next_seq > 1).map(|lane| (Seq(lane.next_seq - 1), lane.chain)))
    }

    fn register_lane(&mut self, name: &str, now: WallMs) -> Result<LaneId, RequestError> {
        if let Some(id) = self.lane_by_name(name)? {
            let known = self.tail.lane(id)?.is_some_and(|lane| lane.name == name);
            return if known { Ok(id) } else { Err(RequestError::NameTaken(name.to_owned())) };
        }
        let record = self.new_mailbox(name, now);
        let lane = LaneId(record.lane);
        self.append_upkeep(Kind::Mailbox, &Record::Mailbox(record))?;
        Ok(lane)
    }

    /// The record that makes a lane of that name.
    pub(crate) fn new_mailbox(&self, name: &str, now: WallMs) -> MailboxRecord {
        MailboxRecord {
            lane: self.next_lane,
            name: name.to_owned(),
            aliases: Vec::new(),
            created_ms: now.0,
            revoked: false,
            quota_items: None,
            quota_bytes: None,
            sending: SendingRecord::default(),
            next_seq: 1,
            chain: [0; 32],
        }
    }

    /// Changes the mailbox called `name` (or an alias of it).
    ///
    /// # Errors
    /// [`RequestError::UnknownMailbox`], [`RequestError::NameTaken`].
    pub fn change_mailbox(&mut self, name: &str, change: MailboxChange) -> Result<(), RequestError> {
        let (id, lane) = match self.lane_by_name(name)? {
            Some(id) => (id, self.tail.lane(id)?.unwrap_or_default()),
            None => return Err(RequestError::UnknownMailbox(name.to_owned())),
        };
        let mut record = mailbox_record(id, &lane);
        match change {
            MailboxChange::Revoke => record.revoked = true,
            MailboxChange::Allow => record.revoked = false,
            MailboxChange::AddAlias(alias) => {
                check_name(&alias)?;
                match self.lane_by_name(&alias)? {
                    Some(owner) if owner == id => return Ok(()),
                    Some(_) => return Err(RequestError::NameTaken(alias)),
                    None if record.aliases.len() >= ALIASES_MAX => {
                        return Err(RequestError::NameTaken(alias));
                    }
                    None => record.aliases.push(alias),
                }
                record.aliases.sort();
            }
            MailboxChange::RemoveAlias(alias) => {
                let before = record.aliases.len();
                record.aliases.retain(|known| *known != alias);
                if record.aliases.len() == before {
                    return Err(RequestError::UnknownMailbox(alias));
                }
            }
            MailboxChange::Quota { items, bytes } => {
                record.quota_items = items;
                record.quota_bytes = bytes;
            }
            MailboxChange::Sending { per_hour, recipients_per_day } => {
                record.sending = SendingRecord { per_hour, recipients_per_day };
            }
        }
        self.append_upkeep(Kind::Mailbox, &Record::Mailbox(record))?;
        Ok(())
    }

    /// Writes the lane's record again, because the segment of the newest one is about to go.
    pub(crate) fn rewrite_mailbox(&mut self, id: LaneId) -> Result<(), SpoolError> {
        match self.tail.lane(id)? {
            Some(lane) if lane.defined != 0 => {
                self.append_upkeep(Kind::Mailbox, &Record::Mailbox(mailbox_record(id, &lane)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The mailbox called `name`, or that has it as an alias.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn mailbox(&self, name: &str) -> Result<Option<Mailbox>, SpoolError> {
        let Some(id) = self.lane_by_name(name)? else { return Ok(None) };
        match self.tail.lane(id)? {
            Some(lane) => self.mailbox_of(id, lane).map(Some),
            None => Ok(None),
        }
    }

    /// The mailbox of a lane.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn mailbox_of_lane(&self, id: LaneId) -> Result<Option<Mailbox>, SpoolError> {
        match self.tail.lane(id)?.filter(|lane| lane.defined != 0) {
            Some(lane) => self.mailbox_of(id, lane).map(Some),
            None => Ok(None),
        }
    }

    /// At most `limit` mailboxes after lane `after`, by lane number.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn mailboxes(&self, after: Option<LaneId>, limit: usize) -> Result<Vec<Mailbox>, SpoolError> {
        let (mut out, mut after) = (Vec::new(), after);
        loop {
            let lanes = self.tail.lanes(after, limit)?;
            let (last, full) = (lanes.last().map(|(id, _)| *id), lanes.len() == limit);
            for (id, lane) in lanes {
                if lane.defined != 0 && !is_outbox(&lane.name) {
                    out.push(self.mailbox_of(id, lane)?);
                    if out.len() == limit {
                        return Ok(out);
                    }
                }
            }
            if !full {
                return Ok(out);
            }
            after = last;
        }
    }

    fn mailbox_of(&self, id: LaneId, lane: Lane) -> Result<Mailbox, SpoolError> {
        let oldest_ready = self.oldest_ready_of(id, &lane)?;
        Ok(Mailbox {
            lane: id,
            name: lane.name,
            aliases: lane.aliases,
            created_at: WallMs(lane.created_ms),
            revoked: lane.revoked,
            quota_items: lane.quota_items,
            quota_bytes: lane.quota_bytes,
            submissions_per_hour: lane.sending.per_hour,
            recipients_per_day: lane.sending.recipients_per_day,
            stats: LaneStats {
                items: lane.items,
                bytes: lane.bytes,
                next_seq: Seq(lane.next_seq.max(1)),
                cursor: Seq(lane.cursor),
                oldest_ready,
            },
        })
    }

    /// When the first ready item behind the cursor was accepted; looks into a bounded number of blocks, so a
    /// lane that begins with thousands of held items may answer `None`.
    pub(crate) fn oldest_ready_of(&self, id: LaneId, lane: &Lane) -> Result<Option<WallMs>, SpoolError> {
        const BLOCKS_MAX: usize = 16;
        let mut seq = Seq((lane.cursor + 1).max(lane.first_seq));
        for _ in 0..BLOCKS_MAX {
            if seq.0 >= lane.next_seq {
                break;
            }
            let number = entry::block_of(seq);
            let block = self.tail.block(id, number)?;
            let ready = entry::entries(number, &block)
                .find(|(at, entry)| *at >= seq && entry.state == State::Ready)
                .map(|(_, entry)| entry.accepted_at);
            if ready.is_some() {
                return Ok(ready);
            }
            seq = Self::next_block_start(seq);
        }
        Ok(None)
    }

    /// Name of the mailbox that a lane belongs to; empty when nobody has heard of it.
    pub(crate) fn owner_of(&self, id: LaneId) -> Result<String, SpoolError> {
        Ok(self.tail.lane(id)?.map(|lane| owner_name(&lane.name).to_owned()).unwrap_or_default())
    }

    pub(crate) fn lane_by_name(&self, name: &str) -> Result<Option<LaneId>, SpoolError> {
        self.tail.name(name)
    }
}

pub(crate) fn mailbox_record(id: LaneId, lane: &Lane) -> MailboxRecord {
    MailboxRecord {
        lane: id.0,
        name: lane.name.clone(),
        aliases: lane.aliases.clone(),
        created_ms: lane.created_ms,
        revoked: lane.revoked,
        quota_items: lane.quota_items,
        quota_bytes: lane.quota_bytes,
        sending: lane.sending,
        next_seq: lane.next_seq.max(1),
        chain: lane.chain,
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), RequestError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || is_outbox(name) {
        return Err(RequestError::NameTaken(name.chars().take(64).collect()));
    }
    Ok(())
}
