//! Why the spool said no, one type per reader of the answer.

use crate::ids::{ItemId, Lsn};

/// The spool, not the caller, has a problem. `Clone`, because one failed commit answers many waiters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// An operation of the medium failed.
    #[error("{operation} of {name} failed: {message}")]
    Io {
        /// What was tried (`write`, `sync`, `rename`, ...).
        operation: &'static str,
        /// The file, relative to the spool directory.
        name: String,
        /// The system's words.
        message: String,
    },
    /// The index engine failed.
    #[error("index failed: {0}")]
    Index(String),
    /// A record does not carry what it should.
    #[error("record at {lsn} is damaged: {problem}")]
    Corrupt {
        /// Where.
        lsn: Lsn,
        /// What is wrong with it.
        problem: String,
    },
    /// An earlier write or sync failed; only a restart helps.
    #[error("spool is poisoned: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// Another process owns the directory.
    #[error("another process has this spool directory open")]
    Locked,
    /// The directory was written by a newer version of this program.
    #[error(
        "spool format {found} is newer than {supported}, the newest this version reads; upgrade waystation"
    )]
    NewerFormat {
        /// Version found on disk.
        found: u32,
        /// Newest version understood.
        supported: u32,
    },
    /// The directory holds something that is not a spool.
    #[error("{name} is not a spool file: {problem}")]
    Foreign {
        /// The file, relative to the spool directory.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The thread that owns the spool has ended.
    #[error("spool is closed")]
    Closed,
}

impl SpoolError {
    /// An I/O error with its circumstances.
    pub(crate) fn io(operation: &'static str, name: &str, error: &std::io::Error) -> Self {
        Self::Io { operation, name: name.to_owned(), message: error.to_string() }
    }
}

/// A message was not taken. Nothing of it is or becomes visible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// No lane of that name.
    #[error("no such lane")]
    UnknownLane,
    /// The lane's owner was revoked.
    #[error("lane is revoked")]
    Revoked,
    /// The lane holds as many items or bytes as it may.
    #[error("lane is over its quota")]
    OverQuota,
    /// Free space is below the floor; acks and results still go through.
    #[error("storage is below its free-space floor")]
    NoSpace,
    /// The body was abandoned, never begun, or belongs to an earlier process.
    #[error("body is not open")]
    NoBody,
    /// The spool itself failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// A request about existing items or lanes could not be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such item (never was, or reaped after its retention).
    #[error("no item {0}")]
    UnknownItem(ItemId),
    /// No lane or mailbox of that name.
    #[error("no mailbox {0}")]
    UnknownMailbox(String),
    /// The name is taken by another mailbox or alias.
    #[error("{0} already names another mailbox")]
    NameTaken(String),
    /// The item's state does not allow this.
    #[error("{id} is {state}, cannot {verb}")]
    WrongState {
        /// Which item.
        id: ItemId,
        /// Its state.
        state: &'static str,
        /// What was asked.
        verb: &'static str,
    },
    /// The session was closed or replaced.
    #[error("session is closed")]
    NoSession,
    /// The spool itself failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}
