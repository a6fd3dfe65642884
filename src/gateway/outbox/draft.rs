//! A local message on its way into the outbox: one body per recipient, one commit for all.
//!
//! Promises: memory is one chunk per recipient; [`Draft::commit`] answers after the commit. Dropping a draft leaves
//! nothing. Each recipient's submission carries its place in the message, so that a start finds a commit which a crash
//! has torn.
//!
//! Failure policy: what cannot be stored is refused as a whole.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use spool::Spool;
use spool::error::AcceptError;
use spool::ids::{ItemId, LaneId, WallMs};
use spool::submission::{NewSubmission, Submitted};

use super::ledger::cancel;
use super::{Outbox, QUEUE};
use crate::spooler::{BodyWriter, SealedBody};
use crate::{clock, crashpoint};

/// How long a stream id is remembered by the ledger. It is random, so nobody uses it twice.
const KEY_MS: u64 = 30 * 86_400_000;

/// A message was not taken; nothing of it is in the outbox.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// There is no room for it now.
    #[error("the outbox is full: {0}")]
    Full(AcceptError),
    /// The outbox cannot be written.
    #[error("the outbox cannot take mail: {0}")]
    Broken(AcceptError),
    /// As many recipients were announced as are named now, or none.
    #[error("a message needs recipients")]
    Recipients,
}

impl From<AcceptError> for DraftError {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::NoSpace | AcceptError::OverQuota => Self::Full(error),
            AcceptError::NoBody | AcceptError::UnknownLane | AcceptError::Revoked | AcceptError::Spool(_) => {
                Self::Broken(error)
            }
        }
    }
}

/// What is kept with each submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memo {
    /// Envelope sender.
    pub(super) mail_from: String,
    /// The message that it is one recipient's part of: the id of the first part.
    pub(super) message: String,
    /// Which part, from 1.
    pub(super) part: u32,
    /// Of how many.
    pub(super) parts: u32,
}

impl Memo {
    pub(super) fn read(meta: &[u8]) -> Option<Self> {
        serde_json::from_slice(meta).ok()
    }
}

/// A message being written.
#[derive(Debug)]
pub struct Draft {
    outbox: Outbox,
    bodies: Vec<BodyWriter>,
}

impl Draft {
    pub(super) fn new(outbox: Outbox, recipients: usize) -> Self {
        let bodies = (0..recipients).map(|_| outbox.spooler().body()).collect();
        Self { outbox, bodies }
    }

    /// Adds bytes; waits while the disk is behind.
    ///
    /// # Errors
    /// [`DraftError`]; the draft is of no use any more.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), DraftError> {
        for body in &mut self.bodies {
            body.write(bytes).await?;
        }
        Ok(())
    }

    /// Puts the message into the outbox for all `recipients`, as many as were announced, or for none; answers the
    /// submissions' ids in their order, when they are on stable storage.
    ///
    /// # Errors
    /// [`DraftError`].
    pub async fn commit(self, mail_from: &str, recipients: &[String]) -> Result<Vec<ItemId>, DraftError> {
        let outbox = self.outbox.clone();
        let parts = self.parts(mail_from, recipients)?;
        let (mailbox, now) = (outbox.mailbox(), clock::wall());
        crashpoint::reach("gateway.outbox.before_commit");
        let stored = outbox.spooler().call(move |spool| store(spool, mailbox, parts, now)).await;
        let ids = stored.map_err(AcceptError::Spool)??;
        crashpoint::reach("gateway.outbox.after_commit");
        for (id, rcpt_to) in ids.iter().zip(recipients) {
            tracing::info!(event = "gateway.submission.queued", submission.id = %id, to = masked(rcpt_to), "queued {id}");
        }
        Ok(ids)
    }

    fn parts(self, mail_from: &str, recipients: &[String]) -> Result<Vec<Part>, DraftError> {
        let bodies = self.bodies;
        if recipients.is_empty() || recipients.len() != bodies.len() {
            return Err(DraftError::Recipients);
        }
        let message = bodies.first().map(|body| body.id().to_string()).unwrap_or_default();
        let parts = u32::try_from(bodies.len()).map_err(|_| DraftError::Recipients)?;
        let part = |((part, body), rcpt_to): ((u32, BodyWriter), &String)| {
            let memo = Memo { mail_from: mail_from.to_owned(), message: message.clone(), part, parts };
            Part { body: body.seal(), rcpt_to: rcpt_to.clone(), memo }
        };
        Ok((1..).zip(bodies).zip(recipients).map(part).collect())
    }

    /// For tests: what a crash leaves of a commit when only the first `kept` records reach the disk.
    #[cfg(test)]
    pub(super) async fn commit_torn(
        self,
        mail_from: &str,
        recipients: &[String],
        kept: usize,
    ) -> Vec<ItemId> {
        let outbox = self.outbox.clone();
        let mut parts = self.parts(mail_from, recipients).unwrap();
        parts.truncate(kept);
        let (mailbox, now) = (outbox.mailbox(), clock::wall());
        outbox.spooler().call(move |spool| store(spool, mailbox, parts, now)).await.unwrap().unwrap()
    }
}

/// One recipient's part of a message.
struct Part {
    body: SealedBody,
    rcpt_to: String,
    memo: Memo,
}

/// On the ledger's thread: all parts, or none.
fn store(
    spool: &mut Spool,
    mailbox: LaneId,
    parts: Vec<Part>,
    now: WallMs,
) -> Result<Vec<ItemId>, AcceptError> {
    let mut ids = Vec::with_capacity(parts.len());
    let mut failed = None;
    for part in parts {
        if failed.is_some() {
            part.body.abandon(spool);
            continue;
        }
        match store_part(spool, mailbox, part, now) {
            Ok(id) => ids.push(id),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => {
            cancel(spool, &ids, now)?;
            Err(error)
        }
        None => Ok(ids),
    }
}

fn store_part(spool: &mut Spool, mailbox: LaneId, part: Part, now: WallMs) -> Result<ItemId, AcceptError> {
    let Part { body, rcpt_to, memo } = part;
    let key = key(&body.id().to_string());
    let meta = serde_json::to_vec(&memo).unwrap_or_default();
    let new = NewSubmission {
        message: body.message(spool, Vec::new(), meta)?,
        mailbox,
        tag: rcpt_to.into_bytes(),
        key,
        key_until: now.plus(KEY_MS),
        twin: None,
        destination: QUEUE.to_owned(),
        due: now,
        settled: None,
    };
    match spool.submit(new, now)? {
        Submitted::New(id) | Submitted::Known(id) => Ok(id),
        Submitted::Conflict(_) | Submitted::Twin(_) => Err(AcceptError::NoBody),
    }
}

fn key(stream: &str) -> [u8; 32] {
    Sha256::new().chain_update(b"waystation-outbox-1\0").chain_update(stream).finalize().into()
}

/// An address as logs may show it.
pub(super) fn masked(address: &str) -> String {
    crate::mail::address::Mailbox::parse(address, true)
        .map_or_else(|_| "?".to_owned(), |mailbox| mailbox.to_string())
}
