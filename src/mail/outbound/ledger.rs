//! What delivery asks of the spool, in one place.
//!
//! Everything that writes answers after the commit, so that what it says is stable. Policy: a spool that fails is the
//! caller's end of work ([`SpoolError`]); a record that somebody else changed meanwhile is an answer
//! ([`Written::Withdrawn`]), not an error.

use spool::error::{AcceptError, RequestError, SpoolError};
use spool::ids::{ItemId, WallMs};
use spool::submission::{Settlement, Submission};

use super::submission::Verdict;
use super::values::Note;
use crate::spooler::Spooler;

/// Destinations that one question pages in.
pub const DESTINATIONS_PAGE: usize = 256;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is stable.
    Stable,
    /// The record is not in a state for it: held, cancelled, settled, or gone. Nothing was written.
    Withdrawn,
}

/// The spool, as delivery sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    spooler: Spooler,
}

impl Ledger {
    /// Over this spool.
    #[must_use]
    pub fn new(spooler: Spooler) -> Self {
        Self { spooler }
    }

    /// The spool itself, for bodies.
    #[must_use]
    pub fn spooler(&self) -> &Spooler {
        &self.spooler
    }

    /// Rings `bell` after every commit that made a submission due.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn ring(&self, bell: spool::Bell) -> Result<(), SpoolError> {
        self.spooler.call(move |spool| spool.set_outbound_bell(bell)).await
    }

    /// Destinations after `after` with the time their first submission is due, at most [`DESTINATIONS_PAGE`].
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn destinations(&self, after: Option<String>) -> Result<Vec<(String, WallMs)>, SpoolError> {
        self.spooler.query(move |spool| spool.destinations(after.as_deref(), DESTINATIONS_PAGE)).await?
    }

    /// The first `limit` submissions of a destination by due time, whether they are due or not.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn waiting(
        &self,
        destination: &str,
        limit: usize,
    ) -> Result<Vec<(ItemId, WallMs)>, SpoolError> {
        let destination = destination.to_owned();
        let ever = WallMs(u64::MAX - 1);
        self.spooler.query(move |spool| spool.due(&destination, ever, limit)).await?
    }

    /// One submission, and whether its mailbox is revoked; `None` when it is gone.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn submission(&self, id: ItemId) -> Result<Option<(Submission, bool)>, SpoolError> {
        let look = move |spool: &spool::Spool| {
            let found = spool.submission(id)?;
            Ok(found.map(|found| {
                let is_revoked = matches!(spool.room(found.mailbox), Err(AcceptError::Revoked));
                (found, is_revoked)
            }))
        };
        self.spooler.query(look).await?
    }

    /// The text of the last note of a submission; empty when no step says anything.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn last_reason(&self, id: ItemId) -> Result<String, SpoolError> {
        let timeline = self.spooler.query(move |spool| spool.timeline(id)).await??;
        let notes = timeline.iter().rev().map(|step| Note::from_reason(&step.reason));
        Ok(notes.map(|note| note.text).find(|text| !text.is_empty()).unwrap_or_default())
    }

    /// Makes stable that the octets which complete the message are about to leave (Q0).
    ///
    /// # Errors
    /// [`SpoolError`]: nothing may leave.
    pub async fn arm(&self, id: ItemId, note: &Note, now: WallMs) -> Result<Written, SpoolError> {
        let note = note.to_reason();
        written(self.spooler.call(move |spool| spool.arm(id, &note, now)).await?)
    }

    /// Again at `due`, one attempt more.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn defer(
        &self,
        id: ItemId,
        due: WallMs,
        note: &Note,
        now: WallMs,
    ) -> Result<Written, SpoolError> {
        let note = note.to_reason();
        written(self.spooler.call(move |spool| spool.defer(id, due, &note, now)).await?)
    }

    /// Again at `due`; nothing was attempted.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn postpone(
        &self,
        id: ItemId,
        due: WallMs,
        note: &Note,
        now: WallMs,
    ) -> Result<Written, SpoolError> {
        let note = note.to_reason();
        written(self.spooler.call(move |spool| spool.postpone(id, due, &note, now)).await?)
    }

    /// The one result.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub async fn settle(
        &self,
        id: ItemId,
        verdict: Verdict,
        note: &Note,
        now: WallMs,
    ) -> Result<Written, SpoolError> {
        let note = note.to_reason();
        let to = match verdict {
            Verdict::Sent => Settlement::Sent,
            Verdict::Failed => Settlement::Failed,
            Verdict::Indeterminate => Settlement::Indeterminate,
        };
        written(self.spooler.call(move |spool| spool.settle(id, to, &note, now)).await?)
    }

    /// Why the spool cannot carry deliveries now; `None` when it can. Free space below the floor is no reason: what is
    /// stored may leave, so that a spool that is full of outgoing mail empties.
    ///
    /// # Errors
    /// [`SpoolError::Closed`].
    pub async fn unfit(&self) -> Result<Option<String>, SpoolError> {
        let carries = self.spooler.query(spool::Spool::carries).await?;
        Ok(carries.err().map(|error| error.to_string()))
    }
}

fn written(answer: Result<(), RequestError>) -> Result<Written, SpoolError> {
    match answer {
        Ok(()) => Ok(Written::Stable),
        Err(RequestError::Spool(error)) => Err(error),
        Err(
            RequestError::WrongState { .. }
            | RequestError::UnknownItem(_)
            | RequestError::UnknownMailbox(_)
            | RequestError::NameTaken(_)
            | RequestError::NoSession,
        ) => Ok(Written::Withdrawn),
    }
}
