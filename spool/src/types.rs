//! What goes into the spool and what comes out of it, as plain values.

use crate::ids::{ItemId, LaneId, Seq, WallMs};

/// Largest piece of a body in one record, bytes.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Most lanes one message may go to.
pub const TARGETS_MAX: usize = 1000;
/// Largest head (trace fields put before the body), bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Largest service metadata of one message, and largest tag of one target, bytes.
pub const META_BYTES_MAX: usize = 64 * 1024;

/// Name of a body while it is being streamed; equal to the id of the first item made of it.
pub type BodyId = ItemId;

/// One place a message goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The lane.
    pub lane: LaneId,
    /// The id the item will have there. The first target's id is the body's id.
    pub id: ItemId,
    /// What the service needs to know of this target alone (for mail: the forward-path as given).
    pub tag: Vec<u8>,
}

/// A message whose body was streamed before, ready to become visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// The streamed body.
    pub body: BodyId,
    /// Bytes of the body; checked against what was streamed.
    pub body_bytes: u64,
    /// SHA-256 of the body, without `head`.
    pub sha256: [u8; 32],
    /// Bytes to hand out before the body (trace fields), at most [`HEAD_BYTES_MAX`].
    pub head: Vec<u8>,
    /// What the service wants to remember, opaque here (for mail: envelope and session facts).
    pub meta: Vec<u8>,
    /// What a repeat of this message would look like. A start after a crash remembers it as a twin when the
    /// message was accepted so shortly before that its sender may not have been told.
    pub fingerprint: Option<[u8; 32]>,
    /// 1..=[`TARGETS_MAX`] targets, all or none.
    pub targets: Vec<Target>,
}

#[cfg(test)]
impl NewMessage {
    /// One without a body, for one lane.
    pub(crate) fn empty(lane: LaneId, id: ItemId) -> Self {
        let targets = vec![Target { lane, id, tag: Vec::new() }];
        Self {
            body: id,
            body_bytes: 0,
            sha256: [0; 32],
            head: Vec::new(),
            meta: Vec::new(),
            fingerprint: None,
            targets,
        }
    }
}

/// Where one piece of a body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ChunkRef {
    /// Lsn of the chunk's record.
    pub lsn: u64,
    /// Bytes in it.
    pub len: u32,
}

/// State of an item (design: life of an item).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Waits to be handed out. (`leased` is a ready item lent to a session; it is not on disk.)
    Ready,
    /// The gateway has it; kept for replay until the retention is over.
    Acked,
    /// Nobody fetched it in time; kept until the retention is over.
    Expired,
    /// Kept back by an operator, or parked because the gateway refused it too often.
    Held,
    /// Its bytes are damaged; listed, never handed out.
    Quarantined,
    /// Removed by an operator; the tombstone stays until the retention is over.
    Purged,
    /// A submission whose last octets may have left: only a verdict of the next hop ends this.
    Armed,
    /// A submission that the next hop, or a lane here, has taken.
    Sent,
    /// A submission that nobody took, and nobody will be asked again to.
    Failed,
    /// A submission of which nobody can know whether it was taken; never sent again.
    Indeterminate,
}

/// How many states there are, the length of counter arrays.
pub const STATES: usize = State::ALL.len();

impl State {
    /// All states, in the order of counter arrays.
    pub const ALL: [Self; 10] = [
        Self::Ready,
        Self::Acked,
        Self::Expired,
        Self::Held,
        Self::Quarantined,
        Self::Purged,
        Self::Armed,
        Self::Sent,
        Self::Failed,
        Self::Indeterminate,
    ];

    /// The state a word of [`State::word`] stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// The word used in CLI, logs, metrics and docs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Acked => "acked",
            Self::Expired => "expired",
            Self::Held => "held",
            Self::Quarantined => "quarantined",
            Self::Purged => "purged",
            Self::Armed => "armed",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// One durable transition in the life of an item.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Transition {
    /// Word of the state entered ([`State::word`]; the first one is `ready`).
    pub state: String,
    /// When, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// Why, in one line; empty when the state says it all.
    pub reason: String,
}

/// Everything known about one item, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemInfo {
    /// Its name.
    pub id: ItemId,
    /// Its lane; of a submission the outbox.
    pub lane: LaneId,
    /// Name of the mailbox it belongs to.
    pub lane_name: String,
    /// Its position.
    pub seq: Seq,
    /// Its state on disk.
    pub state: State,
    /// Lent to a session right now.
    pub leased: bool,
    /// Bytes handed to a gateway: head and body.
    pub size_bytes: u64,
    /// When it was accepted.
    pub accepted_at: WallMs,
    /// When it entered `state`.
    pub changed_at: WallMs,
    /// SHA-256 of the body without the head.
    pub sha256: [u8; 32],
    /// Value of the lane's chain after this item.
    pub chain: [u8; 32],
    /// The message's service metadata.
    pub meta: Vec<u8>,
    /// The target's tag.
    pub tag: Vec<u8>,
    /// Bytes to hand out before the body.
    pub head: Vec<u8>,
    /// The body's pieces, in order.
    pub chunks: Vec<ChunkRef>,
    /// Set for submissions.
    pub outbound: Option<crate::entry::Outbound>,
}

/// An item lent to one session.
pub type Lease = ItemInfo;

/// How much a session can take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Items.
    pub items: u32,
    /// Bytes of head and body; the first item may exceed them when nothing else is in flight.
    pub bytes: u64,
}

/// What a request for leases gave.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Leased {
    /// Strictly growing `seq`; possibly empty.
    pub items: Vec<Lease>,
    /// Nothing more now, but an item that was nacked becomes due then.
    pub retry_at: Option<WallMs>,
}

/// What an ack did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    /// The item moved from ready to acked.
    Acked,
    /// It had been acked before.
    Already,
    /// It is not in this session's lane, or never was handed out by it: nothing happened.
    Ignored,
}

/// What a nack did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NackOutcome {
    /// The item is offered again when its time has come.
    PutOff,
    /// It has come back too often and is held, for this reason, until an operator lets it go.
    Parked(String),
    /// This session does not hold it, or it was held or removed meanwhile: nothing happened.
    Ignored,
}

/// A lane's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Items by state, in the order of [`State`].
    pub items: [u64; STATES],
    /// Bytes by state, in the order of [`State`].
    pub bytes: [u64; STATES],
    /// The seq the next item gets.
    pub next_seq: Seq,
    /// Highest seq below which nothing is ready or held.
    pub cursor: Seq,
    /// When the oldest ready item was accepted.
    pub oldest_ready: Option<WallMs>,
}

/// Who a lane belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Its lane.
    pub lane: LaneId,
    /// Its name (for mail: the key text).
    pub name: String,
    /// Other names that lead to it, sorted.
    pub aliases: Vec<String>,
    /// When it was registered.
    pub created_at: WallMs,
    /// Set when it may no longer receive or connect.
    pub revoked: bool,
    /// Most ready and held items; `None`: the default of the configuration.
    pub quota_items: Option<u64>,
    /// Most ready and held bytes; `None`: the default of the configuration.
    pub quota_bytes: Option<u64>,
    /// Most submissions per hour; `None`: the default of the configuration.
    pub submissions_per_hour: Option<u32>,
    /// Most recipients elsewhere per day; `None`: the default of the configuration.
    pub recipients_per_day: Option<u32>,
    /// Its counters.
    pub stats: LaneStats,
}

/// One change of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailboxChange {
    /// It may no longer receive or connect; what it holds stays.
    Revoke,
    /// It may again.
    Allow,
    /// Another name leads to it.
    AddAlias(String),
    /// That name no longer does.
    RemoveAlias(String),
    /// Own limits; `None` goes back to the default.
    Quota {
        /// Most ready and held items.
        items: Option<u64>,
        /// Most ready and held bytes.
        bytes: Option<u64>,
    },
    /// Own limits of what it submits; `None` goes back to the default.
    Sending {
        /// Most submissions per hour.
        per_hour: Option<u32>,
        /// Most recipients elsewhere per day.
        recipients_per_day: Option<u32>,
    },
}

/// What an operator may do to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// ready -> held
    Hold,
    /// held -> ready
    Release,
    /// acked | expired -> ready
    Replay,
    /// any but purged -> purged
    Purge,
}

/// Which items a listing wants; empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this lane.
    pub lane: Option<LaneId>,
    /// Only these states; empty: all.
    pub states: Vec<State>,
    /// Accepted at or after.
    pub since: Option<WallMs>,
    /// Accepted before.
    pub until: Option<WallMs>,
    /// Only submissions, or only items on their way to a gateway.
    pub outbound: Option<bool>,
}

/// Where a listing goes on: after this item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Lane of the last item seen.
    pub lane: LaneId,
    /// Its seq.
    pub seq: Seq,
}

/// One journal segment, for `spool stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u32,
    /// Bytes of records in it.
    pub used_bytes: u64,
    /// Bytes that live messages still need, by the place of their item record.
    pub live_bytes: u64,
    /// New records go here.
    pub active: bool,
}

/// The whole spool in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Items by state, in the order of [`State`], over all lanes.
    pub items: [u64; STATES],
    /// Bytes by state, in the order of [`State`], over all lanes.
    pub bytes: [u64; STATES],
    /// Of `items`, those that are submissions.
    pub submissions: [u64; STATES],
    /// Items lent to sessions now.
    pub leased: u64,
    /// When the oldest ready item that is no submission was accepted, as the last sweep over all lanes found it. No lane of a
    /// mailbox is left out, whether or not a gateway ever fetches from it.
    pub oldest_ready: Option<WallMs>,
    /// Lanes registered.
    pub lanes: u64,
    /// Segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Bytes of the index on the medium.
    pub index_bytes: u64,
    /// Bytes free on the medium when last looked.
    pub free_bytes: u64,
    /// Entries in the in-memory tail.
    pub tail_entries: u64,
    /// Damaged stretches found so far.
    pub quarantined_records: u64,
}
