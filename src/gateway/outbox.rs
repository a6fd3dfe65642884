//! The outbox at home: local mail that is on stable storage before anybody is told yes, and what became of it.
//!
//! A spool of its own (the relay's crate) with one submission per recipient. The submission's id is the id of its
//! stream, on every connection, so that the relay knows it again.
//!
//! | shown as | in the spool |
//! |---|---|
//! | `queued` | ready: waits for the relay, or for its answer |
//! | `accepted` | ready, due at [`ACCEPTED_DUE`]: the relay has it on stable storage and owes a result |
//! | `indeterminate`, pending | armed: handed to a relay that forgets ids, no result yet |
//! | `sent`, `failed`, `indeterminate` | settled, once |
//!
//! Promises: a message for several recipients is in the outbox for all of them or for none, also after a crash in the
//! middle of the commit. What was completely handed over to a relay with ids stays repeatable; only what a relay
//! without ids may have is armed, and a stop makes that indeterminate. A result is stable before the relay hears that
//! we have it.
//!
//! Failure policy: a spool that cannot write refuses everything, and the gateway ends; the next start recovers.

mod draft;
mod ledger;
mod story;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use spool::error::SpoolError;
use spool::ids::{ItemId, LaneId, WallMs};
use spool::types::ItemInfo;
use tokio::sync::Notify;

use crate::clock;
use crate::gateway::client::{End, Submission};
use crate::gateway::receipts::Kept;
use crate::mail::outbound::prepare::canonical::Canonical;
use crate::spooler::Spooler;
pub use draft::{Draft, DraftError};
pub use ledger::{Keeper, open};
pub use story::{Counts, Entry, Event, State, Story};

/// The one queue of an outbox.
const QUEUE: &str = "relay";
/// When something is due that waits for nothing but its result: the end of the year 9999.
pub const ACCEPTED_DUE: WallMs = WallMs(253_402_300_799_000);
/// Longest time for which a submission is put off that has cost the line nothing, milliseconds: five minutes.
pub const PUT_OFF_MS_MAX: u64 = 5 * 60 * 1000;
/// Most queued submissions looked at in one step.
const LOOK_MAX: usize = 1000;

/// How an outbox is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of its spool; made if missing.
    pub dir: PathBuf,
    /// Whose submissions these are: the key text.
    pub key: String,
    /// How long results are kept.
    pub retain: Duration,
    /// How long a submission waits for the relay before it fails.
    pub expire_after: Duration,
    /// Free space below which nothing is taken, bytes.
    pub min_free_bytes: u64,
}

/// Why there is no outbox.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Its directory cannot be made.
    #[error("{}: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process works with it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Its spool does not open, or failed.
    #[error("outbox in {}: {error}", dir.display())]
    Spool {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: SpoolError,
    },
}

/// Handle to an open outbox. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    spooler: Spooler,
    mailbox: LaneId,
    settings: Arc<Settings>,
    due: Arc<Notify>,
    ended: Arc<Notify>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("dir", &self.settings.dir).finish_non_exhaustive()
    }
}

/// A submission that may be handed over now.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) id: ItemId,
    pub(crate) info: Arc<ItemInfo>,
    pub(crate) submission: Submission,
    /// It was handed over completely before; the relay may have it.
    pub(crate) handed: bool,
}

/// What waits for the relay.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) due: Vec<Due>,
    /// There is more that is due.
    pub(crate) more: bool,
    /// When the next one becomes due.
    pub(crate) next: Option<WallMs>,
}

/// What was noted of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is the submission's result.
    New,
    /// It had one already; this one changed nothing.
    Late,
    /// No such submission here.
    Unknown,
}

impl Outbox {
    /// Begins a message for these recipients. Nothing of it is visible before [`Draft::commit`].
    #[must_use]
    pub fn draft(&self, recipients: usize) -> Draft {
        Draft::new(self.clone(), recipients)
    }

    /// The spool behind it.
    pub(crate) fn spooler(&self) -> &Spooler {
        &self.spooler
    }

    /// Whose outbox it is.
    pub(crate) fn mailbox(&self) -> LaneId {
        self.mailbox
    }

    /// How it is run.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Waits until something may have become due.
    pub(crate) async fn rung(&self) {
        self.due.notified().await;
    }

    /// Waits until a submission may have got its result.
    pub(crate) async fn result_rung(&self) {
        self.ended.notified().await;
    }

    /// What may be handed over now, at most `limit`, leaving out what is under way or not to be tried yet.
    pub(crate) async fn look(&self, not_now: HashSet<ItemId>, limit: usize) -> Result<Look, SpoolError> {
        let now = clock::wall();
        self.spooler.query(move |spool| ledger::look(spool, &not_now, limit, now)).await?
    }

    /// Piece `n` of a message.
    pub(crate) async fn piece(&self, info: &ItemInfo, n: usize) -> Result<Bytes, SpoolError> {
        self.spooler.read_chunk(info, n).await
    }

    /// Size and hash of a message in canonical form, which is what a relay keeps. `None`: it has no such form and will be
    /// refused, or cannot be read.
    pub(crate) async fn canonical(&self, due: &Due) -> Option<Kept> {
        // The relay has limits and a name; neither changes the form.
        let mut canonical = Canonical::new(u64::MAX, "");
        let (mut hash, mut size, mut out) = (Sha256::new(), 0, Vec::new());
        for n in 0..due.submission.pieces {
            canonical.feed(&self.piece(&due.info, n).await.ok()?, &mut out).ok()?;
            hash.update(&out);
            size += out.len() as u64;
            out.clear();
        }
        canonical.finish(&mut out).ok()?;
        hash.update(&out);
        Some(Kept { size: size + out.len() as u64, sha256: HEXLOWER.encode(&hash.finalize()) })
    }

    /// The next octets complete the message at the relay. False: it is not to be sent any more.
    ///
    /// `repeatable`: the relay knows it by its id, so that a stop before its answer costs nothing.
    pub(crate) async fn seal(&self, due: &Due, repeatable: bool) -> Result<bool, SpoolError> {
        let (id, handed, now) = (due.id, due.handed, clock::wall());
        self.spooler.call(move |spool| ledger::seal(spool, id, handed, repeatable, now)).await?
    }

    /// It was sealed for a relay that forgets ids, and the octets that complete it did not leave after all.
    pub(crate) async fn unseal(&self, id: ItemId) -> Result<(), SpoolError> {
        let now = clock::wall();
        self.spooler.call(move |spool| ledger::unseal(spool, id, now)).await?
    }

    /// The relay has it on stable storage.
    pub(crate) async fn accepted(&self, id: ItemId, relay_id: String) -> Result<(), SpoolError> {
        let now = clock::wall();
        self.spooler.call(move |spool| ledger::accepted(spool, id, &relay_id, now)).await?
    }

    /// Not now; to be handed over again at `due`.
    pub(crate) async fn later(&self, id: ItemId, due: WallMs, reason: String) -> Result<(), SpoolError> {
        let now = clock::wall();
        self.spooler.call(move |spool| ledger::later(spool, id, due, &reason, now)).await?
    }

    /// The relay takes messages again: one that was put off is due now, if there is any beside `but_not`.
    pub(crate) async fn hasten(&self, but_not: HashSet<ItemId>) -> Result<Option<ItemId>, SpoolError> {
        let now = clock::wall();
        self.spooler.call(move |spool| ledger::hasten(spool, &but_not, now)).await?
    }

    /// Its one result. Stable when this returns.
    pub(crate) async fn end(&self, id: ItemId, end: End, text: String) -> Result<Noted, SpoolError> {
        let now = clock::wall();
        self.spooler.call(move |spool| ledger::end(spool, id, end, &text, now)).await?
    }

    /// Ends what has waited too long: for the relay, or, when `for_results`, for its results.
    pub(crate) async fn expire(&self, for_results: bool) -> Result<usize, SpoolError> {
        let (now, patience) = (clock::wall(), self.settings.expire_after);
        self.spooler.call(move |spool| ledger::expire(spool, patience, for_results, now)).await?
    }

    /// Submissions with a result of which nobody was told, after `after`, oldest first.
    pub(crate) async fn untold(
        &self,
        after: Option<ItemId>,
        limit: usize,
    ) -> Result<Vec<ItemId>, SpoolError> {
        let mailbox = self.mailbox;
        self.spooler.query(move |spool| spool.untold(mailbox, after, limit)).await?
    }

    /// A submission's record, and its story; `None` when it is gone.
    pub(crate) async fn record(&self, id: ItemId) -> Result<Option<(ItemInfo, Story)>, SpoolError> {
        let now = clock::wall();
        self.spooler
            .query(move |spool| {
                let info = spool.submission(id)?.map(|submission| submission.info);
                Ok(info.zip(story::story(spool, id, now)?))
            })
            .await?
    }

    /// Somebody was told of its result.
    pub(crate) async fn told(&self, id: ItemId) -> Result<(), SpoolError> {
        let now = clock::wall();
        self.spooler.call(move |spool| ledger::told(spool, id, now)).await?
    }

    /// How many submissions are in which state.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn counts(&self) -> Result<Counts, SpoolError> {
        self.spooler.query(ledger::counts).await?
    }

    /// Whether its thread answers.
    pub(crate) async fn answers(&self) -> bool {
        self.spooler.query(|_| ()).await.is_ok()
    }

    /// The newest submissions, newest first.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn recent(&self, limit: usize) -> Result<Vec<Entry>, SpoolError> {
        let (mailbox, now) = (self.mailbox, clock::wall());
        self.spooler.query(move |spool| story::recent(spool, mailbox, limit, now)).await?
    }

    /// All that is known of one submission.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn story(&self, id: ItemId) -> Result<Option<Story>, SpoolError> {
        let now = clock::wall();
        self.spooler.query(move |spool| story::story(spool, id, now)).await?
    }
}
