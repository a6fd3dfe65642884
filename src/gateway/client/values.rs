//! What goes into a client session and what comes out of it, as plain values.

use std::time::Duration;

use bytes::Bytes;

use crate::gateway::proof;
use crate::identity::invite::Code;
use crate::identity::key::SecretKey;
use crate::tunnel::Dialect;
use crate::tunnel::control::Credit;
use crate::tunnel::signed::{RelayKey, Signed};

/// What a session needs to know; the same for all sessions of one gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's key.
    pub key: SecretKey,
    /// The name that the relay's challenge must carry: its host as dialled, unless it is known by another.
    pub relay_host: String,
    /// Whether a relay of tunnel 1 is good enough.
    pub allow_tunnel_1: bool,
    /// How much may be in flight, and the largest message taken.
    pub credit: Credit,
    /// From connecting to `auth_ok`.
    pub handshake_timeout: Duration,
    /// Distance of our pings.
    pub heartbeat_every: Duration,
    /// Silence after which the relay counts as gone; more than `heartbeat_every`.
    pub silence_max: Duration,
    /// Whether submissions are handed over too.
    pub submits: bool,
    /// The code of an invitation to redeem; one login only.
    pub invite: Option<Code>,
}

/// What the gateway decided about one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On stable storage here.
    Stored,
    /// Not now.
    Later {
        /// Do not offer it again before.
        retry_after: Duration,
    },
    /// Never; the relay holds it.
    Refused {
        /// Why, one line.
        reason: String,
    },
}

/// An item as announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The relay's name for it; empty in tunnel 1.
    pub item_id: String,
    /// Position in the lane; 0 in tunnel 1.
    pub seq: u64,
    /// Envelope sender; empty for the null reverse-path.
    pub mail_from: String,
    /// The one envelope recipient.
    pub rcpt_to: String,
    /// Bytes to come, if announced.
    pub size_bytes: Option<u64>,
    /// The relay's statement about the sender.
    pub attestation: Option<Signed>,
    /// The relay's receipt for it.
    pub receipt: Option<Signed>,
    /// The lane's chain after it, if told.
    pub chain: Option<[u8; 32]>,
    /// The body to come, if announced.
    pub announced: Option<Received>,
}

/// The body of an item: what follows the trace fields of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the trace fields; `None` while they have not come.
    pub head_sha256: Option<[u8; 32]>,
}

/// A submission to hand over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The stream's id: the same whenever this submission is handed over.
    pub stream: String,
    /// Envelope sender; empty for the null reverse-path.
    pub mail_from: String,
    /// The one envelope recipient.
    pub rcpt_to: String,
    /// Bytes of the message.
    pub size_bytes: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// In how many pieces they come, each at most [`crate::tunnel::frame::CHUNK_BYTES_MAX`] bytes.
    pub pieces: usize,
}

/// How a submission ended at the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The next hop has it.
    Sent,
    /// Nobody has it, and nobody will be asked again.
    Failed,
    /// Nobody can know.
    Indeterminate,
}

/// What the relay said, or did not say, to a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is on the relay's stable storage.
    Accepted {
        /// The submission's stream.
        stream: String,
        /// Its name at the relay.
        submission_id: String,
        /// The relay's receipt for it.
        receipt: Option<Signed>,
    },
    /// It ended. The driver notes that durably, then calls `ClientSession::result_noted`.
    Ended {
        /// The submission's stream; perhaps one of an earlier session.
        stream: String,
        /// How.
        end: End,
        /// The relay's words, one line; may be empty.
        text: String,
        /// Names the result in its ack; empty when the relay wants none.
        result_id: String,
    },
    /// Not now; it may be handed over again.
    Later {
        /// The submission's stream.
        stream: String,
        /// Why, one line.
        reason: String,
    },
    /// A relay that forgets ids has it and says nothing; a result may still come.
    Silent {
        /// The submission's stream.
        stream: String,
    },
    /// Its envelope does not fit the protocol; nothing was sent.
    Unsendable {
        /// The submission's stream.
        stream: String,
    },
}

/// What the driver shall do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "outputs live one at a time and only for a moment")]
pub enum Output {
    /// Send a text message.
    Text(String),
    /// Send a binary message.
    Binary(Bytes),
    /// Note durably that the next octets complete this submission's message, then call `ClientSession::sealed`.
    Seal {
        /// The submission's stream.
        stream: String,
        /// The relay knows it again by its stream id; if not, it must never be handed over a second time.
        repeatable: bool,
    },
    /// News of a submission.
    Submitted(Submitted),
    /// Send a WebSocket ping.
    Ping,
    /// The session is up.
    Ready {
        /// Which protocol.
        dialect: Dialect,
        /// An older session of this key was pushed out.
        replaced: bool,
        /// The keys the relay signs with, as it says.
        relay_keys: Vec<RelayKey>,
        /// Addresses of the mailbox beside the key's own.
        aliases: Vec<String>,
        /// Domains of the relay.
        domains: Vec<String>,
    },
    /// The relay signs with other keys than it said at the login.
    RelayKeys(Vec<RelayKey>),
    /// A stream begins; nothing of it is to be kept if the driver answers by `ClientSession::discard`.
    Begin {
        /// Its id within this session.
        stream: String,
        /// What it carries.
        offer: Offer,
    },
    /// More bytes of it.
    Append {
        /// The stream.
        stream: String,
        /// The bytes.
        bytes: Bytes,
    },
    /// All of it arrived undamaged. The driver owes a `ClientSession::verdict` on the item in tunnel 2.
    Complete {
        /// The stream.
        stream: String,
        /// Its body.
        received: Received,
    },
    /// It will not be completed, or was damaged: throw away what was kept.
    Abandon {
        /// The stream.
        stream: String,
    },
    /// Worth a log line.
    Notice(Notice),
    /// Close the connection; nothing follows.
    Close {
        /// WebSocket close code.
        code: u16,
        /// Reason text.
        reason: &'static str,
    },
}

/// Things that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The relay refused us; its code.
    AuthRefused(String),
    /// The challenge was not signed.
    ProofRefused(proof::Refusal),
    /// The relay speaks tunnel 1 only and the settings do not allow that.
    TunnelOneRefused,
    /// Positions between were not offered: held, expired or removed at the relay, or offered before.
    Gap {
        /// The next position expected.
        expected: u64,
        /// The position offered.
        got: u64,
    },
    /// The lane's chain does not fit the item before it: history was changed at the relay.
    ChainBroken {
        /// Position of the item.
        seq: u64,
    },
    /// A stream did not match its announcement, and was sent back.
    Damaged {
        /// The relay's name for the item; empty in tunnel 1.
        item_id: String,
        /// What did not match.
        problem: &'static str,
    },
    /// The relay gave a stream up.
    Aborted {
        /// Its words.
        reason: String,
    },
    /// The relay is about to end the session and asks to come back later.
    Drain {
        /// Not before.
        reconnect_after: Duration,
    },
    /// A replay request was carried out.
    ReplayAccepted {
        /// Items that will be offered again.
        items: u64,
    },
    /// A message that makes no sense; a relay of this kind is left when it happens before the login is done.
    Garbage(String),
    /// The relay broke the rules of the tunnel and is left.
    Violation(&'static str),
}

/// Position and chain of the newest item seen on the lane; outlives sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LanePosition {
    /// Highest position seen; 0 for none.
    pub seq: u64,
    /// The chain after it, if known.
    pub chain: Option<[u8; 32]>,
}
