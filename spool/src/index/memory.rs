//! An index of maps in memory, for tests of this crate and of the workspace.
//!
//! It keeps the one promise of [`Index`] and survives nothing by itself: [`MemoryIndex::snapshot`] and
//! [`MemoryIndex::restore`] let a test put back any older state, or none, as a lost or stale index would be.
//! Clones share the maps.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Change, Index, Pair, Tree};
use crate::error::SpoolError;
use crate::ids::Lsn;

/// Everything a [`MemoryIndex`] held at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySnapshot {
    trees: BTreeMap<Tree, BTreeMap<Vec<u8>, Vec<u8>>>,
    applied: Option<Lsn>,
}

#[derive(Debug, Default)]
struct State {
    now: MemorySnapshot,
    applies: u64,
    fail_at: Option<u64>,
}

impl State {
    fn take(&mut self, changes: &[Change<'_>]) {
        for change in changes {
            let map = self.now.trees.entry(change.tree).or_default();
            match &change.value {
                Some(value) => map.insert(change.key.to_vec(), value.to_vec()),
                None => map.remove(change.key.as_ref()),
            };
        }
    }

    /// The pairs with `from <= key < to`.
    fn range<'a>(
        &'a self,
        tree: Tree,
        from: &'a [u8],
        to: Option<&'a [u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)> {
        let range = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let map = self.now.trees.get(&tree).filter(|_| to.is_none_or(|to| from < to));
        map.into_iter().flat_map(move |map| map.range::<[u8], _>(range))
    }
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> Pair {
    (key.clone(), value.clone())
}

/// The maps.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndex {
    state: Arc<Mutex<State>>,
}

impl MemoryIndex {
    /// An index that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An index that holds what `snapshot` held, independent of the one it was taken from.
    #[must_use]
    pub fn from_snapshot(snapshot: MemorySnapshot) -> Self {
        let index = Self::new();
        index.restore(snapshot);
        index
    }

    /// A copy of everything.
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        self.hold().now.clone()
    }

    /// Puts back what was held once.
    pub fn restore(&self, snapshot: MemorySnapshot) {
        self.hold().now = snapshot;
    }

    /// Calls of [`Index::apply`] so far.
    #[must_use]
    pub fn applies(&self) -> u64 {
        self.hold().applies
    }

    /// Call number `apply` of [`Index::apply`], counted from 0, and all later ones fail and change nothing.
    pub fn fail_at(&self, apply: u64) {
        self.hold().fail_at = Some(apply);
    }

    fn hold(&self) -> MutexGuard<'_, State> {
        // No code panics while holding it; if a test does, it has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for MemoryIndex {
    fn applied(&self) -> Result<Option<Lsn>, SpoolError> {
        Ok(self.hold().now.applied)
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        Ok(self.hold().now.trees.get(&tree).and_then(|map| map.get(key)).cloned())
    }

    fn scan(
        &self,
        tree: Tree,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, SpoolError> {
        Ok(self.hold().range(tree, from, to).take(limit).map(owned).collect())
    }

    fn scan_back(
        &self,
        tree: Tree,
        from: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, SpoolError> {
        Ok(self.hold().range(tree, from, before).rev().take(limit).map(owned).collect())
    }

    fn apply(&self, changes: &[Change<'_>], applied: Lsn) -> Result<(), SpoolError> {
        let mut state = self.hold();
        let call = state.applies;
        state.applies += 1;
        if state.fail_at.is_some_and(|fail| call >= fail) {
            return Err(SpoolError::Index("simulated failure".to_owned()));
        }
        state.take(changes);
        state.now.applied = Some(applied);
        Ok(())
    }

    fn fill(&self, changes: &[Change<'_>]) -> Result<(), SpoolError> {
        let mut state = self.hold();
        debug_assert!(state.now.applied.is_none(), "it was emptied");
        state.take(changes);
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, SpoolError> {
        let state = self.hold();
        let pairs = state.now.trees.values().flatten();
        Ok(pairs.map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }

    fn clear(&self) -> Result<(), SpoolError> {
        self.hold().now = MemorySnapshot::default();
        Ok(())
    }
}
