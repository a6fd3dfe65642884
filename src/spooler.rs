//! The async handle to the spool: services await what the ledger's thread answers.
//!
//! Promise: [`Spooler::call`] and [`BodyWriter::commit`] return after the group commit, so whatever they answer
//! is stable. What they do not do: retry. An error is final for its request; a poisoned spool answers everybody
//! with the same error until the process is restarted.
//!
//! Bounds: at most [`CALLS_MAX`] requests and [`CHUNK_BYTES_WAITING_MAX`] bytes of bodies wait for the ledger;
//! whoever comes later waits in line here, without holding a thread.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use spool::engine::Handle;
use spool::error::{AcceptError, SpoolError};
use spool::ids::{ItemId, WallMs};
use spool::reader::JournalReader;
use spool::types::ItemInfo;
use spool::{Bell, Spool};
use tokio::sync::{Semaphore, oneshot};

pub use body::{Accepted, BodyWriter, Made, Outgoing, SealedBody};

mod body;

/// Requests that may be on their way to the ledger; below the engine's own queue, so that sending never blocks.
pub const CALLS_MAX: usize = 4096;
/// Bytes of bodies that may wait to be written.
pub const CHUNK_BYTES_WAITING_MAX: usize = 32 * 1024 * 1024;

/// Reaches the spool from async code. Cheap to clone.
#[derive(Clone)]
pub struct Spooler {
    handle: Handle,
    reader: JournalReader,
    calls: Arc<Semaphore>,
    chunk_bytes: Arc<Semaphore>,
    clock: fn() -> WallMs,
}

impl fmt::Debug for Spooler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spooler")
    }
}

impl Spooler {
    /// Wraps the engine's handle. `reader` is the spool's, taken before it went to its thread; `clock` dates ids.
    #[must_use]
    pub fn new(handle: Handle, reader: JournalReader, clock: fn() -> WallMs) -> Self {
        Self {
            handle,
            reader,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            chunk_bytes: Arc::new(Semaphore::new(CHUNK_BYTES_WAITING_MAX)),
            clock,
        }
    }

    /// Runs `f` on the ledger's thread and answers after the commit: what it staged is stable.
    ///
    /// # Errors
    /// [`SpoolError`] of the commit; [`SpoolError::Closed`] when the spool has been stopped.
    pub async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<T, SpoolError> {
        let permit = self.calls.clone().acquire_owned().await.map_err(|_| SpoolError::Closed)?;
        let (answer, wait) = oneshot::channel();
        self.handle.call(Box::new(move |spool| {
            let value = f(spool);
            Box::new(move |outcome| {
                drop(permit);
                let _ = answer.send(outcome.map(|()| value));
            })
        }))?;
        wait.await.map_err(|_| SpoolError::Closed)?
    }

    /// Runs `f` on the ledger's thread and answers at once, although others of the same batch wait for their commit: for
    /// what speaks of nothing but what is stable already, such as a lease, or whose answer is no promise, such as an ack.
    /// What it stages is stable some milliseconds later, as [`Stable`] tells.
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the spool has been stopped.
    pub async fn prompt<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<(T, Option<Stable>), SpoolError> {
        let permit = self.calls.clone().acquire_owned().await.map_err(|_| SpoolError::Closed)?;
        let (answer, wait) = oneshot::channel();
        self.handle.prompt(Box::new(move |spool| {
            let before = spool.staged_bytes();
            let value = f(spool);
            if spool.staged_bytes() == before {
                let _ = answer.send((value, None));
                return None;
            }
            let (tell, stable) = oneshot::channel();
            let _ = answer.send((value, Some(Stable(stable))));
            Some(Box::new(move |outcome| {
                drop(permit);
                let _ = tell.send(outcome);
            }))
        }))?;
        wait.await.map_err(|_| SpoolError::Closed)
    }

    /// Runs `f` on the ledger's thread and answers at once. It may see what is not stable yet: for questions
    /// whose answer is no promise.
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the spool has been stopped.
    pub async fn query<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Spool) -> T + Send + 'static,
    ) -> Result<T, SpoolError> {
        self.prompt(move |spool| f(spool)).await.map(|(value, _)| value)
    }

    /// Whether mail is taken, as far as storage goes; asks nobody and waits for nothing.
    ///
    /// # Errors
    /// [`AcceptError::NoSpace`], [`AcceptError::Spool`] when the spool has failed or was stopped.
    pub fn accepts(&self) -> Result<(), AcceptError> {
        self.handle.accepts()
    }

    /// Asks for something that nobody waits for, if the ledger has room for it; for clean-up in destructors.
    fn call_unanswered(&self, f: impl FnOnce(&mut Spool) + Send + 'static) {
        let _ = self.handle.try_call(Box::new(move |spool| {
            f(spool);
            Box::new(|_| ())
        }));
    }

    /// Ends a session without waiting for it; for destructors.
    pub fn close_session(&self, session: spool::ids::SessionId) {
        self.call_unanswered(move |spool| spool.close_session(session));
    }

    /// Begins a body under a new id.
    #[must_use]
    pub fn body(&self) -> BodyWriter {
        let id = ItemId::new((self.clock)(), rand::random());
        BodyWriter::new(self.clone(), id)
    }

    /// Piece `n` of an item's body, at most [`spool::types::CHUNK_BYTES_MAX`] bytes, checked.
    ///
    /// A piece that compaction has moved in the meantime is found again by asking for the item once more.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] when it is damaged or the item is gone, [`SpoolError::Io`].
    pub async fn read_chunk(&self, item: &ItemInfo, n: usize) -> Result<Bytes, SpoolError> {
        match self.read_chunk_once(item, n).await {
            Err(SpoolError::Corrupt { lsn, problem }) => {
                let id = item.id;
                match self.query(move |spool| spool.item(id)).await?? {
                    Some(again) if again.chunks != item.chunks => self.read_chunk_once(&again, n).await,
                    Some(_) | None => Err(SpoolError::Corrupt { lsn, problem }),
                }
            }
            other => other,
        }
    }

    async fn read_chunk_once(&self, item: &ItemInfo, n: usize) -> Result<Bytes, SpoolError> {
        let reader = self.reader.clone();
        match item.chunks.get(n).copied() {
            Some(chunk) => match reader.piece_at_once(chunk) {
                // What came in a moment ago is in memory, and another thread would cost more than the reading.
                Some(piece) => Ok(Bytes::from(piece)),
                None => tokio::task::spawn_blocking(move || reader.piece(chunk).map(Bytes::from))
                    .await
                    .map_err(|_| SpoolError::Closed)?,
            },
            None => reader.chunk(item, n).map(Bytes::from),
        }
    }

    /// Reads bodies from threads that may block.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        self.reader.clone()
    }
}

/// When what a [`Spooler::prompt`] staged is stable.
#[derive(Debug)]
pub struct Stable(oneshot::Receiver<Result<(), SpoolError>>);

impl Stable {
    /// Waits for the commit.
    ///
    /// # Errors
    /// [`SpoolError`] of the commit; [`SpoolError::Closed`] when the spool has been stopped before it.
    pub async fn wait(self) -> Result<(), SpoolError> {
        self.0.await.map_err(|_| SpoolError::Closed)?
    }
}

/// A bell that wakes one waiting task; the wake-up is kept when it comes first.
#[must_use]
pub fn bell(notify: &Arc<tokio::sync::Notify>) -> Bell {
    let notify = notify.clone();
    Arc::new(move || notify.notify_one())
}
