//! For tests: an index in memory that counts what is read of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::memory::MemoryIndex;
use super::{Change, Index, Pair, Tree};
use crate::error::SpoolError;
use crate::ids::Lsn;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    inner: MemoryIndex,
    gets: AtomicUsize,
    pairs: AtomicUsize,
    trees: Mutex<Vec<Tree>>,
}

impl Counting {
    pub(crate) fn reset(&self) {
        self.gets.store(0, Ordering::Relaxed);
        self.pairs.store(0, Ordering::Relaxed);
        self.trees.lock().unwrap().clear();
    }

    pub(crate) fn pairs(&self) -> usize {
        self.pairs.load(Ordering::Relaxed)
    }

    fn read(&self, pairs: Vec<Pair>) -> Vec<Pair> {
        self.pairs.fetch_add(pairs.len(), Ordering::Relaxed);
        pairs
    }

    pub(crate) fn blocks(&self) -> usize {
        self.trees.lock().unwrap().iter().filter(|tree| **tree == Tree::Block).count()
    }

    pub(crate) fn all(&self) -> usize {
        self.gets.load(Ordering::Relaxed) + self.pairs.load(Ordering::Relaxed)
    }
}

impl Index for Counting {
    fn applied(&self) -> Result<Option<Lsn>, SpoolError> {
        self.inner.applied()
    }
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.trees.lock().unwrap().push(tree);
        self.inner.get(tree, key)
    }
    fn scan(
        &self,
        tree: Tree,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, SpoolError> {
        self.inner.scan(tree, from, to, limit).map(|pairs| self.read(pairs))
    }
    fn scan_back(
        &self,
        tree: Tree,
        from: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, SpoolError> {
        self.inner.scan_back(tree, from, before, limit).map(|pairs| self.read(pairs))
    }
    fn apply(&self, changes: &[Change<'_>], applied: Lsn) -> Result<(), SpoolError> {
        self.inner.apply(changes, applied)
    }
    fn fill(&self, changes: &[Change<'_>]) -> Result<(), SpoolError> {
        self.inner.fill(changes)
    }
    fn size_bytes(&self) -> Result<u64, SpoolError> {
        self.inner.size_bytes()
    }
    fn clear(&self) -> Result<(), SpoolError> {
        self.inner.clear()
    }
}
