//! What a checkpoint writes: everything that was live when it was begun, left as it was.
//!
//! Freezing moves, and does hardly any work for what it moves: lanes are encoded and blocks packed by the thread that writes
//! them, since the ledger has mail to take meanwhile. Readers of the layers above get a lane from here as the index is going to have it,
//! with its open block: once the checkpoint has been made, it is that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Layers, layer};
use crate::entry;
use crate::error::SpoolError;
use crate::ids::{LaneId, Lsn};
use crate::index::{Change, Index, Tree};
use crate::lane::Kept;

#[derive(Clone, Debug, Default)]
pub(super) struct Frozen {
    pub(super) layers: Layers,
    /// With their open blocks, unless those are in `layers`. A block of theirs that is not open any more is in there.
    pub(super) lanes: BTreeMap<LaneId, Box<Kept>>,
}

impl Frozen {
    pub(super) fn len(&self) -> usize {
        super::entries_of(&self.layers) + self.lanes.len()
    }

    /// The open block of a lane, packed, if it was changed.
    fn changed(&self, id: LaneId, kept: &Kept) -> Option<Vec<u8>> {
        let key = entry::block_key(id, kept.lane.open_block());
        let block = self.layers[layer(Tree::Block)].get(key.as_slice());
        block.map(|block| block.as_deref().map_or_else(Vec::new, entry::pack))
    }

    /// A lane as it is going to be found in the index.
    pub(super) fn kept(&self, id: LaneId) -> Option<Kept> {
        self.lanes.get(&id).map(|kept| kept.settled(self.changed(id, kept)))
    }

    /// Is this the key of an open block, which goes where its lane goes?
    fn is_open(&self, key: &[u8]) -> bool {
        entry::block_of_key(key).is_some_and(|(lane, number)| {
            self.lanes.get(&lane).is_some_and(|kept| kept.lane.open_block() == number)
        })
    }

    fn changes(&self) -> Result<Vec<Change<'_>>, SpoolError> {
        let mut out = Vec::with_capacity(self.len());
        for (id, kept) in &self.lanes {
            let value = kept.encode(self.changed(*id, kept).as_deref())?;
            out.push(Change {
                tree: Tree::Lane,
                key: entry::lane_key(*id).into(),
                value: Some(value.into()),
            });
        }
        for tree in Tree::ALL {
            let pairs = self.layers[layer(tree)].iter();
            let pairs = pairs.filter(|(key, _)| tree != Tree::Block || !self.is_open(key));
            out.extend(pairs.map(|(key, value)| {
                let value = value.as_deref().map(|value| packed(tree, value));
                Change { tree, key: key.as_slice().into(), value }
            }));
        }
        Ok(out)
    }
}

/// A value as the index keeps it.
fn packed(tree: Tree, value: &[u8]) -> Cow<'_, [u8]> {
    if tree == Tree::Block { entry::pack(value).into() } else { value.into() }
}

/// A frozen tail on its way into the index.
#[derive(Clone, Debug)]
pub struct CheckpointJob {
    pub(super) index: Arc<dyn Index>,
    pub(super) frozen: Arc<Frozen>,
    pub(super) applied: Lsn,
}

impl CheckpointJob {
    /// Writes it. May run on any thread, beside the ledger.
    ///
    /// # Errors
    /// [`SpoolError::Index`]; the ledger must hear of it by `end_checkpoint`.
    pub fn run(&self) -> Result<(), SpoolError> {
        self.index.apply(&self.frozen.changes()?, self.applied)
    }

    /// Writes it without a promise, while the index is built anew: see [`Index::fill`].
    pub(crate) fn fill(&self) -> Result<(), SpoolError> {
        self.index.fill(&self.frozen.changes()?)
    }

    /// Up to which lsn the index knows the journal afterwards.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// How many pairs of the index it changes.
    #[cfg(test)]
    pub(super) fn changes(&self) -> usize {
        self.frozen.changes().unwrap().len()
    }
}
