//! What makes the journal's contents findable: ordered trees of bytes, written at checkpoints.
//!
//! An index is a cache. It may be deleted, lost or damaged at any time; [`Index::applied`] says up to which
//! lsn it knows the journal, and everything after that is replayed at start. The only promise it must keep:
//! when it claims `applied = x`, exactly the changes up to `x` are in it, also after a power cut. Changes of one apply
//! belong together: a lane without the block that its next seq left, in the same apply, has lost it.

use std::borrow::Cow;
use std::fmt::Debug;

use crate::error::SpoolError;
use crate::ids::Lsn;

#[cfg(test)]
pub(crate) mod counting;
pub mod memory;
pub mod sled;

/// The trees of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tree {
    /// Lane number to the lane's state and the block of item entries that its next item goes to.
    Lane,
    /// Lane number and block number to a block of item entries that the next seq has left.
    Block,
    /// Time bucket to the ids accepted in it.
    Item,
    /// Mailbox or alias name to lane number.
    Name,
    /// Body id to the items that share it, when they are more than one.
    Shared,
    /// Twin fingerprint to item id and expiry.
    Twin,
    /// Segment number to live bytes.
    Segment,
    /// Place of a submission without a result to its destination, id and when it is due.
    Queue,
    /// Destination, due time and place to id: submissions that wait for an attempt.
    Due,
    /// Places of submissions that are armed.
    Armed,
    /// Places of submissions whose gateway has not been told the result.
    Untold,
    /// SHA-256 of an invitation's code to the lsn of its record, and the record.
    Invitation,
}

impl Tree {
    /// Every tree, in the order of their names on disk.
    pub const ALL: [Self; 12] = [
        Self::Lane,
        Self::Block,
        Self::Item,
        Self::Name,
        Self::Shared,
        Self::Twin,
        Self::Segment,
        Self::Queue,
        Self::Due,
        Self::Armed,
        Self::Untold,
        Self::Invitation,
    ];

    /// Name of the tree on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Block => "block",
            Self::Item => "item",
            Self::Name => "name",
            Self::Shared => "shared",
            Self::Twin => "twin",
            Self::Segment => "segment",
            Self::Queue => "queue",
            Self::Due => "due",
            Self::Armed => "armed",
            Self::Untold => "untold",
            Self::Invitation => "invitation",
        }
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// One change of one key; `value` of `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Where.
    pub tree: Tree,
    /// Which key.
    pub key: Cow<'a, [u8]>,
    /// The new value, or `None` to remove the key.
    pub value: Option<Cow<'a, [u8]>>,
}

/// Ordered trees that survive a stop. All methods may be called from several threads.
pub trait Index: Debug + Send + Sync + 'static {
    /// Up to which lsn (exclusive) the journal has been applied; `None` for a new or emptied index.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails.
    fn applied(&self) -> Result<Option<Lsn>, SpoolError>;

    /// The value of one key.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails.
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError>;

    /// At most `limit` pairs with `from <= key < to` (`to` of `None`: to the end), ascending.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails.
    fn scan(&self, tree: Tree, from: &[u8], to: Option<&[u8]>, limit: usize)
    -> Result<Vec<Pair>, SpoolError>;

    /// At most `limit` pairs with `from <= key < before` (`before` of `None`: from the end), descending.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails.
    fn scan_back(
        &self,
        tree: Tree,
        from: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, SpoolError>;

    /// Applies `changes`, makes them stable, and only then moves [`Index::applied`] to `applied`.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails; the caller then poisons the spool.
    fn apply(&self, changes: &[Change<'_>], applied: Lsn) -> Result<(), SpoolError>;

    /// Applies `changes` while the journal is read from its beginning into an index that was emptied.
    ///
    /// Cheaper than [`Index::apply`], because it promises nothing: [`Index::applied`] stays `None` until the next apply,
    /// which makes all of it stable. A stop before that leaves an empty index.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails; the caller then gives up.
    fn fill(&self, changes: &[Change<'_>]) -> Result<(), SpoolError>;

    /// Bytes on the medium, for `spool stats` and the decision to rebuild.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails.
    fn size_bytes(&self) -> Result<u64, SpoolError>;

    /// Gives space back that it holds without need; called when nothing else is going on, beside the ledger.
    ///
    /// # Errors
    /// [`SpoolError::Index`]; it then goes on as it was.
    fn tidy(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    /// Forgets everything; [`Index::applied`] is `None` afterwards.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the engine fails.
    fn clear(&self) -> Result<(), SpoolError>;
}
