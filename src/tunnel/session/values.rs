//! What goes into a session and what comes out of it, as plain values.

use std::time::Duration;

use bytes::Bytes;
use spool::ids::{ItemId, WallMs};
use uuid::Uuid;

use crate::tunnel::control::ReplayRequest;
use crate::tunnel::frame::{FrameError, StartBody};
use crate::tunnel::outflow::{Flight, Offer, Window};
use crate::tunnel::signed::{RelayKey, Signed};

/// How long a gateway of tunnel 2 may leave an item without an answer.
pub const ACK_PATIENCE: Duration = Duration::from_secs(600);

/// How sessions behave.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time between pings.
    pub heartbeat_interval: Duration,
    /// A peer that shows no life for this long is gone.
    pub idle_timeout: Duration,
    /// Tunnel 2: an item without ack or nack for this long since its end was sent ends the session.
    pub ack_patience: Duration,
    /// Window of tunnel 2.
    pub window: Window,
    /// Most items in flight to a tunnel-1 gateway; bytes as above.
    pub legacy_items_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            ack_patience: ACK_PATIENCE,
            window: Window { items: 64, bytes: 16 * 1024 * 1024 },
            legacy_items_max: 4,
        }
    }
}

/// What `auth_ok` says beside what was agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// The session that was pushed out.
    pub replaced: Option<Uuid>,
    /// Keys with which the relay signs; said in tunnel 2 only.
    pub relay_keys: Vec<RelayKey>,
    /// Addresses of the mailbox beside the key's own; said in tunnel 2 only.
    pub aliases: Vec<String>,
    /// Domains of the relay; said in tunnel 2 only.
    pub domains: Vec<String>,
}

/// A message for the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping.
    Ping(Bytes),
}

/// Something the lane has to write down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The gateway has it.
    Ack(Flight),
    /// The gateway cannot take it now.
    Nack {
        /// Which item.
        item: ItemId,
        /// Not before this long from now, milliseconds.
        retry_after_ms: u64,
    },
    /// We cannot read it now: no refusal of the gateway.
    Postpone {
        /// Which item.
        item: ItemId,
        /// Not before this long from now, milliseconds.
        retry_after_ms: u64,
    },
    /// Its body is damaged; nobody is to get it.
    Damaged {
        /// Which item.
        item: ItemId,
        /// What is wrong, one line.
        problem: String,
    },
    /// The gateway will never take it; it is to be held.
    Reject {
        /// Which item.
        item: ItemId,
        /// Why, one line.
        reason: String,
    },
    /// Offer acked items again.
    Replay(ReplayRequest),
}

/// One request to the lane: changes in order, then a lease. One is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What to write down first.
    pub changes: Vec<Change>,
    /// What could be sent then.
    pub lease: Option<Window>,
}

/// The answer to a [`Batch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// New offers in lane order, at most what the lease asked for.
    pub offers: Vec<Offer>,
    /// Nothing more now, but something becomes due then.
    pub retry_at: Option<WallMs>,
    /// Items that a replay brought back.
    pub replayed: Option<u64>,
}

/// A piece of what a gateway submits, or its word on results. One is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundPiece {
    /// A stream begins; what was collected under its id is thrown away.
    Start {
        /// The gateway's name for it.
        stream: String,
        /// Its envelope.
        start: Box<StartBody>,
    },
    /// The next bytes.
    Chunk {
        /// Of this stream.
        stream: String,
        /// At least one frame's worth.
        bytes: Bytes,
    },
    /// That was all of it: now it counts.
    End {
        /// Of this stream.
        stream: String,
    },
    /// The rest of it will never come.
    Abort {
        /// Which stream.
        stream: String,
    },
    /// It is longer than any stream may be; no more of it comes.
    TooLarge {
        /// Which stream.
        stream: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// What is there to tell?
    Results {
        /// The gateway has these results, in the words in which it was told; to be written down first.
        told: Vec<String>,
    },
}

/// How a submission ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultStatus {
    /// The next hop took it.
    Sent,
    /// Nobody took it.
    Failed,
    /// Nobody can know.
    Indeterminate,
}

impl ResultStatus {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// What the lane has to say about submissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundWord {
    /// It is stable.
    Accepted {
        /// The gateway's name for it.
        stream: String,
        /// Ours.
        submission: String,
        /// Our receipt for it.
        receipt: Option<Signed>,
    },
    /// It ended.
    Result {
        /// The gateway's name for it.
        stream: String,
        /// How.
        status: ResultStatus,
        /// With `Sent`: the message's identifier, if it has one.
        message_id: Option<String>,
        /// Otherwise: why.
        error: Option<String>,
        /// To be said again until the gateway has noted it under this name; `None`: said once.
        result: Option<String>,
    },
    /// It cannot be taken now; another time perhaps. No more of the stream is wanted.
    NotNow {
        /// The gateway's name for it.
        stream: String,
        /// Why, one line.
        reason: String,
    },
}

/// Why a session ends before its peer wants it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// A newer login of the same key.
    Replaced,
    /// The key was revoked.
    Revoked,
}

/// Why a body's piece could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceError {
    /// Its bytes are damaged; it is never handed out.
    Damaged(String),
    /// Another time perhaps.
    Unreadable(String),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A text message came.
    Text(String),
    /// A binary message came.
    Binary(Bytes),
    /// A ping came; the socket layer answers it.
    Ping,
    /// A pong came.
    Pong(Bytes),
    /// The socket took all that it was given.
    Progress,
    /// The lane may have something.
    Bell,
    /// The batch was carried out.
    Settled(Settled),
    /// The batch was not carried out; the session is of no use any more.
    LaneLost,
    /// A piece was fetched.
    Piece {
        /// Of this item.
        item: ItemId,
        /// Which piece.
        n: usize,
        /// Its bytes.
        bytes: Result<Bytes, PieceError>,
    },
    /// There may be results to tell.
    Results,
    /// The relay signs with other keys than before.
    Keys(Vec<RelayKey>),
    /// The lane has done what [`Output::Outbound`] asked for.
    Words(Vec<OutboundWord>),
    /// The peer closed, or the connection is lost.
    Gone,
    /// The session has to make room.
    Evict(Eviction),
    /// The relay is about to stop.
    Drain {
        /// When it should be back, milliseconds.
        reconnect_after_ms: u64,
        /// How long what is in flight may take; never longer than [`super::DRAIN_TIME_MAX`].
        settle: Duration,
    },
    /// Nothing but time.
    Tick,
}

/// Something worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// An ack or nack that belongs to nothing in flight.
    AckIgnored(String),
    /// A chunk or end of a stream that was not started.
    StreamIgnored(String),
    /// Half a stream, and then nothing for too long.
    StreamSilent(String),
    /// A stream for which there was no room.
    StreamRefused(String),
    /// A peer said something that is no frame.
    BadFrame(FrameError),
    /// The peer fell silent.
    PeerDead,
    /// The peer lives, and has not answered for this item in time.
    AckTimeout(ItemId),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Put this on the wire.
    Send(Outgoing),
    /// Ask the lane.
    Lane(Batch),
    /// Fetch a piece of a body.
    Read {
        /// Of this item.
        item: ItemId,
        /// Which piece.
        n: usize,
    },
    /// Hand this to the lane.
    Outbound(OutboundPiece),
    /// Log it.
    Note(Note),
    /// Close with this code and reason; nothing is sent after it.
    Close(u16, &'static str),
}
