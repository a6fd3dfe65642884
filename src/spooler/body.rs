//! A body on its way into the journal, and what becomes of it.
//!
//! Promise: at most one piece of a body is held here. Policy on failure: a body whose end does not come, because its
//! writer was dropped or refused, is abandoned, and its pieces become garbage.

use std::fmt;

use sha2::{Digest, Sha256};
use spool::Spool;
use spool::accept::{Chunk, ChunkBuilder};
use spool::error::{AcceptError, SpoolError};
use spool::ids::{ItemId, LaneId, Seq, WallMs};
use spool::submission::{NewSubmission, Settlement, Submitted};
use spool::types::{CHUNK_BYTES_MAX, NewMessage, Target};
use tokio::sync::oneshot;

use super::Spooler;

#[cfg(test)]
mod tests;

/// What a commit answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Ids of the items, in the order of the targets; the first is [`BodyWriter::id`].
    pub ids: Vec<ItemId>,
    /// SHA-256 of the body without the head.
    pub sha256: [u8; 32],
    /// Bytes of head and body.
    pub size_bytes: u64,
}

/// Streams one body into the journal, holding at most one chunk of it. Dropping it abandons the body.
pub struct BodyWriter {
    spooler: Spooler,
    id: ItemId,
    builder: ChunkBuilder,
    sha256: Sha256,
    bytes: u64,
    fingerprint: Option<[u8; 32]>,
    /// The ledger has pieces of it.
    staged: bool,
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter").field("id", &self.id).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl BodyWriter {
    pub(super) fn new(spooler: Spooler, id: ItemId) -> Self {
        let builder = ChunkBuilder::new(id, spooler.reader.seed());
        Self { spooler, id, builder, sha256: Sha256::new(), bytes: 0, fingerprint: None, staged: false }
    }

    /// Id of the body, and of the item in the first lane it will go to.
    #[must_use]
    pub fn id(&self) -> ItemId {
        self.id
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Nothing written so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// SHA-256 of what was written so far.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256.clone().finalize().into()
    }

    /// Says what a repeat of this message would look like, for a start after a crash that comes before our answer.
    pub fn set_fingerprint(&mut self, fingerprint: [u8; 32]) {
        self.fingerprint = Some(fingerprint);
    }

    /// Adds bytes; waits while too much waits for the disk.
    ///
    /// # Errors
    /// [`AcceptError`]; the body is abandoned then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), AcceptError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.builder.take(rest);
            self.sha256.update(&rest[..taken]);
            self.bytes += taken as u64;
            rest = &rest[taken..];
            if self.builder.is_full() {
                self.flush_chunk().await?;
            }
        }
        Ok(())
    }

    async fn flush_chunk(&mut self) -> Result<(), AcceptError> {
        let len = self.builder.len().min(CHUNK_BYTES_MAX) as u32;
        let permit = self
            .spooler
            .chunk_bytes
            .clone()
            .acquire_many_owned(len)
            .await
            .map_err(|_| AcceptError::Spool(SpoolError::Closed))?;
        let chunk = self.builder.finish();
        let body = self.id;
        self.staged = true;
        // Wait until the ledger has taken it, not until it is stable: the commit covers it.
        let (answer, wait) = oneshot::channel();
        self.spooler
            .handle
            .stage(Box::new(move |spool| {
                let _ = answer.send(spool.stage_chunk(body, chunk));
                Box::new(move |_| drop(permit))
            }))
            .map_err(AcceptError::Spool)?;
        wait.await.map_err(|_| AcceptError::Spool(SpoolError::Closed))?
    }

    /// Makes the body visible in all of its lanes, or in none, and answers when that is stable.
    ///
    /// * `head`: bytes to hand out before the body; `meta`: opaque service metadata.
    /// * `targets`: lane and tag of each, 1..=[`spool::types::TARGETS_MAX`].
    ///
    /// # Errors
    /// [`AcceptError`]; nothing is visible then, except after [`AcceptError::Spool`]: then nobody knows before
    /// the next start, and the caller must not say that it was accepted.
    pub async fn commit(
        self,
        head: Vec<u8>,
        meta: Vec<u8>,
        targets: Vec<(LaneId, Vec<u8>)>,
        now: WallMs,
    ) -> Result<Accepted, AcceptError> {
        let (spooler, body) = (self.spooler.clone(), self.seal());
        let accepted = spooler.call(move |spool| body.accept(spool, head, meta, targets, now));
        accepted.await.map_err(AcceptError::Spool)?
    }

    /// Hands the message to `f` on the ledger's thread, which accepts it, or abandons its body, and may write more
    /// in the same commit. Answers when that is stable.
    ///
    /// # Errors
    /// As [`BodyWriter::commit`].
    pub async fn commit_by<T: Send + 'static>(
        self,
        head: Vec<u8>,
        meta: Vec<u8>,
        targets: Vec<(LaneId, Vec<u8>)>,
        f: impl FnOnce(&mut Spool, NewMessage) -> Result<T, AcceptError> + Send + 'static,
    ) -> Result<T, AcceptError> {
        let (spooler, body) = (self.spooler.clone(), self.seal());
        spooler
            .call(move |spool| {
                let message = body.addressed(spool, head, meta, targets)?;
                f(spool, message)
            })
            .await
            .map_err(AcceptError::Spool)?
    }
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Which it is.
    pub submitted: Submitted,
    /// Its place in the outbox and the chain up to it, when it is new.
    pub place: Option<(Seq, [u8; 32])>,
    /// Items that came into lanes here with the same commit, and the names of those.
    pub items: Vec<(ItemId, String)>,
}

/// What [`BodyWriter::submit`] needs to know beside the body; the fields are those of
/// [`spool::submission::NewSubmission`].
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Bytes to send before the body.
    pub head: Vec<u8>,
    /// Opaque service metadata.
    pub meta: Vec<u8>,
    /// Lane and tag of each item that it becomes here at the same time.
    pub items: Vec<(LaneId, Vec<u8>)>,
    /// Whose outbox.
    pub mailbox: LaneId,
    /// The forward-path as given.
    pub tag: Vec<u8>,
    /// The same key is the same submission.
    pub key: [u8; 32],
    /// How long the key is remembered.
    pub key_until: WallMs,
    /// What a repeat under another key would look like, and how long it counts as one.
    pub twin: Option<([u8; 32], WallMs)>,
    /// Queue to wait in.
    pub destination: String,
    /// Not to be tried before.
    pub due: WallMs,
    /// The result and its note, when it is known already.
    pub settled: Option<(Settlement, String)>,
}

impl BodyWriter {
    /// Makes the body a submission, and answers when that is stable; with its place in the outbox and the chain's value
    /// there when it is a new one. What [`BodyWriter::set_fingerprint`] said is compared when the same key comes again.
    ///
    /// # Errors
    /// As [`BodyWriter::commit`].
    pub async fn submit(self, out: Outgoing, now: WallMs) -> Result<Made, AcceptError> {
        let targets = out.items.into_iter().map(|(lane, tag)| {
            let id = ItemId::new(self.id.time(), rand::random());
            Target { lane, id, tag }
        });
        let targets: Vec<Target> = targets.collect();
        let (spooler, body) = (self.spooler.clone(), self.seal());
        spooler
            .call(move |spool| {
                let new = NewSubmission {
                    message: NewMessage { targets, ..body.message(spool, out.head, out.meta)? },
                    mailbox: out.mailbox,
                    tag: out.tag,
                    key: out.key,
                    key_until: out.key_until,
                    twin: out.twin,
                    destination: out.destination,
                    due: out.due,
                    settled: out.settled,
                };
                let mailbox = new.mailbox;
                let here: Vec<_> =
                    new.message.targets.iter().map(|target| (target.id, target.lane)).collect();
                let submitted = spool.submit(new, now)?;
                let mut made = Made { submitted, place: None, items: Vec::new() };
                match submitted {
                    Submitted::New(_) => {
                        let place = spool.outbox(mailbox)?.map(|outbox| spool.end_of(outbox)).transpose()?;
                        made.place = place.flatten();
                        for (id, lane) in here {
                            let name = spool.mailbox_of_lane(lane)?.map(|mailbox| mailbox.name);
                            made.items.push((id, name.unwrap_or_default()));
                        }
                    }
                    Submitted::Known(_) | Submitted::Conflict(_) | Submitted::Twin(_) => {}
                }
                Ok(made)
            })
            .await
            .map_err(AcceptError::Spool)?
    }
}

impl BodyWriter {
    /// Ends the body, so that what is left of it can be done on the ledger's thread together with other things.
    #[must_use]
    pub fn seal(mut self) -> SealedBody {
        let last = (!self.builder.is_empty()).then(|| self.builder.finish());
        let sha256 = self.sha256();
        let staged = std::mem::take(&mut self.staged).then(|| Staged(self.spooler.clone(), Some(self.id)));
        SealedBody { id: self.id, last, bytes: self.bytes, sha256, fingerprint: self.fingerprint, staged }
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if self.staged {
            let body = self.id;
            self.spooler.call_unanswered(move |spool| spool.abandon_body(body));
        }
    }
}

/// Pieces that the ledger has of a body whose end never comes to it are abandoned.
#[derive(Debug)]
struct Staged(Spooler, Option<ItemId>);

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(body) = self.1 {
            self.0.call_unanswered(move |spool| spool.abandon_body(body));
        }
    }
}

/// A body that is complete but for its last piece, which waits for the ledger's thread. Dropping it abandons the body.
#[derive(Debug)]
pub struct SealedBody {
    id: ItemId,
    last: Option<Chunk>,
    bytes: u64,
    sha256: [u8; 32],
    fingerprint: Option<[u8; 32]>,
    staged: Option<Staged>,
}

impl SealedBody {
    /// Id of the body.
    #[must_use]
    pub fn id(&self) -> ItemId {
        self.id
    }

    /// On the ledger's thread: the message made of it, without targets.
    ///
    /// # Errors
    /// [`AcceptError`]; the body is abandoned then.
    pub fn message(
        mut self,
        spool: &mut Spool,
        head: Vec<u8>,
        meta: Vec<u8>,
    ) -> Result<NewMessage, AcceptError> {
        self.at_the_ledger();
        if let Some(last) = self.last {
            spool.stage_chunk(self.id, last)?;
        }
        Ok(NewMessage {
            body: self.id,
            body_bytes: self.bytes,
            sha256: self.sha256,
            head,
            meta,
            fingerprint: self.fingerprint,
            targets: Vec::new(),
        })
    }

    /// On the ledger's thread: the message made of it for each lane with its tag. The item in the first has the id of the
    /// body.
    ///
    /// # Errors
    /// [`AcceptError`]; the body is abandoned then.
    pub fn addressed(
        self,
        spool: &mut Spool,
        head: Vec<u8>,
        meta: Vec<u8>,
        targets: Vec<(LaneId, Vec<u8>)>,
    ) -> Result<NewMessage, AcceptError> {
        let id = self.id;
        let ids =
            std::iter::once(id).chain(std::iter::repeat_with(|| ItemId::new(id.time(), rand::random())));
        let targets =
            targets.into_iter().zip(ids).map(|((lane, tag), id)| Target { lane, id, tag }).collect();
        Ok(NewMessage { targets, ..self.message(spool, head, meta)? })
    }

    /// On the ledger's thread: makes it visible in each lane, or in none.
    ///
    /// # Errors
    /// [`AcceptError`]; the body is abandoned then.
    pub fn accept(
        self,
        spool: &mut Spool,
        head: Vec<u8>,
        meta: Vec<u8>,
        targets: Vec<(LaneId, Vec<u8>)>,
        now: WallMs,
    ) -> Result<Accepted, AcceptError> {
        let (size_bytes, sha256) = (head.len() as u64 + self.bytes, self.sha256);
        let message = self.addressed(spool, head, meta, targets)?;
        let ids = message.targets.iter().map(|target| target.id).collect();
        spool.accept(message, now)?;
        Ok(Accepted { ids, sha256, size_bytes })
    }

    /// On the ledger's thread: nothing becomes of it.
    pub fn abandon(mut self, spool: &mut Spool) {
        self.at_the_ledger();
        spool.abandon_body(self.id);
    }

    /// From here on the ledger decides what becomes of the pieces.
    fn at_the_ledger(&mut self) {
        if let Some(staged) = &mut self.staged {
            staged.1 = None;
        }
    }
}
