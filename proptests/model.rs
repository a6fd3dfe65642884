//! What must hold, as plain maps: a ledger that never crashes and forgets nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spool::ids::{ItemId, Seq, WallMs};
use spool::invitations::Ending;
use spool::types::{MailboxChange, State};

/// One item as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) lane: u32,
    pub(crate) seq: Seq,
    pub(crate) state: State,
    pub(crate) accepted_at: WallMs,
    pub(crate) changed_at: WallMs,
    pub(crate) sha256: [u8; 32],
    pub(crate) chain: [u8; 32],
    pub(crate) head: Vec<u8>,
    pub(crate) meta: Vec<u8>,
    pub(crate) tag: Vec<u8>,
    pub(crate) body: Arc<Vec<u8>>,
    /// Set for submissions.
    pub(crate) out: Option<Out>,
}

/// What a submission has beside what every item has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) destination: String,
    pub(crate) due: WallMs,
    pub(crate) attempts: u32,
    pub(crate) told: bool,
}

impl Item {
    pub(crate) fn size(&self) -> u64 {
        (self.head.len() + self.body.len()) as u64
    }

    pub(crate) fn waits(&self) -> bool {
        matches!(self.state, State::Ready | State::Held | State::Armed)
    }
}

/// One lane and its owner as they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) aliases: BTreeSet<String>,
    pub(crate) created_at: WallMs,
    pub(crate) revoked: bool,
    pub(crate) quota_items: Option<u64>,
    pub(crate) per_hour: Option<u32>,
    pub(crate) next_seq: u64,
    pub(crate) chain: [u8; 32],
}

impl Lane {
    /// One that was just made.
    pub(crate) fn new(name: &str, created_at: WallMs) -> Self {
        Self {
            name: name.to_owned(),
            aliases: BTreeSet::new(),
            created_at,
            revoked: false,
            quota_items: None,
            per_hour: None,
            next_seq: 1,
            chain: [0; 32],
        }
    }
}

/// An invitation as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invited {
    pub(crate) alias: String,
    pub(crate) until: WallMs,
    pub(crate) ended: Option<(WallMs, Ending)>,
}

/// The whole ledger at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) lanes: BTreeMap<u32, Lane>,
    pub(crate) items: BTreeMap<ItemId, Item>,
    pub(crate) twins: BTreeMap<u8, (ItemId, WallMs)>,
    pub(crate) invitations: BTreeMap<u8, Invited>,
    /// Newest submission of each key.
    pub(crate) keys: BTreeMap<u8, ItemId>,
}

impl Model {
    pub(crate) fn lane_of(&self, name: &str) -> Option<u32> {
        self.lanes
            .iter()
            .find(|(_, lane)| lane.name == name || lane.aliases.contains(name))
            .map(|(id, _)| *id)
    }

    /// Items of a lane in the order of their seq.
    pub(crate) fn of_lane(&self, lane: u32) -> Vec<(ItemId, &Item)> {
        let mut items: Vec<_> =
            self.items.iter().filter(|(_, item)| item.lane == lane).map(|(id, item)| (*id, item)).collect();
        items.sort_by_key(|(_, item)| item.seq);
        items
    }

    /// Highest seq below which nothing waits.
    pub(crate) fn cursor(&self, lane: u32) -> Seq {
        let first = self.of_lane(lane).into_iter().find(|(_, item)| item.waits());
        let next = self.lanes.get(&lane).map_or(1, |lane| lane.next_seq);
        Seq(first.map_or(next, |(_, item)| item.seq.0) - 1)
    }

    /// Items and bytes that wait in a lane.
    pub(crate) fn waiting(&self, lane: u32) -> (u64, u64) {
        let of_lane = self.of_lane(lane);
        let waiting = of_lane.iter().filter(|(_, item)| item.waits());
        waiting.fold((0, 0), |(items, bytes), (_, item)| (items + 1, bytes + item.size()))
    }

    /// What becomes of a mailbox; `Err` when the name is taken or unknown.
    pub(crate) fn change(&mut self, lane: u32, change: &MailboxChange) -> Result<(), ()> {
        let owner = match change {
            MailboxChange::AddAlias(alias) => self.lane_of(alias),
            MailboxChange::Revoke
            | MailboxChange::Allow
            | MailboxChange::RemoveAlias(_)
            | MailboxChange::Sending { .. }
            | MailboxChange::Quota { .. } => None,
        };
        let Some(state) = self.lanes.get_mut(&lane) else { return Err(()) };
        match change {
            MailboxChange::Revoke => state.revoked = true,
            MailboxChange::Allow => state.revoked = false,
            MailboxChange::AddAlias(_) if owner == Some(lane) => {}
            MailboxChange::AddAlias(_) if owner.is_some() => return Err(()),
            MailboxChange::AddAlias(alias) => {
                state.aliases.insert(alias.clone());
            }
            MailboxChange::RemoveAlias(alias) => {
                if !state.aliases.remove(alias) {
                    return Err(());
                }
            }
            MailboxChange::Sending { per_hour, .. } => state.per_hour = *per_hour,
            MailboxChange::Quota { items, .. } => state.quota_items = *items,
        }
        Ok(())
    }
}

/// What happens to a state by an operator's verb; `None`: refused.
pub(crate) fn after_verb(state: State, verb: spool::types::Verb) -> Option<State> {
    use spool::types::Verb;
    match (verb, state) {
        (Verb::Hold, State::Ready) => Some(State::Held),
        (Verb::Release, State::Held) => Some(State::Ready),
        (Verb::Replay, State::Acked | State::Expired) => Some(State::Ready),
        (Verb::Purge, State::Purged) => None,
        (Verb::Purge, _) => Some(State::Purged),
        (Verb::Hold | Verb::Release | Verb::Replay, _) => None,
    }
}
