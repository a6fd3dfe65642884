//! What goes into an outbox and what is known of it, as plain values.

use crate::ids::{ItemId, LaneId, WallMs};
use crate::life::Event;
use crate::types::{ItemInfo, NewMessage, State};

/// How a submission ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The next hop said that it took it.
    Sent,
    /// Nobody took it.
    Failed,
    /// Nobody can know.
    Indeterminate,
}

impl Settlement {
    pub(super) fn event(self) -> Event {
        match self {
            Self::Sent => Event::Send,
            Self::Failed => Event::Fail,
            Self::Indeterminate => Event::Doubt,
        }
    }

    /// The state it leads to.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Self::Sent => State::Sent,
            Self::Failed => State::Failed,
            Self::Indeterminate => State::Indeterminate,
        }
    }
}

/// A payload whose body was streamed before, to be sent to one forward-path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubmission {
    /// As for items, but: the submission takes the body's id, and `targets` are what becomes items of lanes here in the
    /// same record, with ids of their own. `fingerprint` is compared when `key` comes again.
    pub message: NewMessage,
    /// Whose outbox.
    pub mailbox: LaneId,
    /// The forward-path as given.
    pub tag: Vec<u8>,
    /// What the gateway calls it, hashed with who it is: the same key is the same submission.
    pub key: [u8; 32],
    /// How long `key` is remembered.
    pub key_until: WallMs,
    /// What a repeat under another key would look like, and until when it counts as one.
    pub twin: Option<([u8; 32], WallMs)>,
    /// Name of the queue to wait in, at most [`super::DESTINATION_BYTES_MAX`] bytes without controls.
    pub destination: String,
    /// Not to be tried before.
    pub due: WallMs,
    /// The result and its note, when it is known already.
    pub settled: Option<(Settlement, String)>,
}

/// What became of a [`NewSubmission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is new.
    New(ItemId),
    /// The same key and content was submitted before.
    Known(ItemId),
    /// The same key was submitted before with other content; nothing happened.
    Conflict(ItemId),
    /// It repeats this one under another key; nothing new was stored.
    Twin(ItemId),
}

/// Everything about one submission but its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// As an item of its outbox.
    pub info: ItemInfo,
    /// Whose it is.
    pub mailbox: LaneId,
    /// Name of its mailbox.
    pub mailbox_name: String,
    /// Queue it waits, or waited, in.
    pub destination: String,
    /// Not to be tried before; meaningless once it has its result.
    pub due: WallMs,
    /// Attempts made so far; not counted beyond [`crate::entry::ATTEMPTS_MAX`].
    pub attempts: u32,
    /// Its gateway has the result.
    pub told: bool,
}
