//! Reading much of the engine without keeping it in memory.
//!
//! The engine notes each access to a page in one of 256 queues, and looks whether its cache is too large only when 64 wait in
//! one of them. So a scan may bring 16 384 pages into memory that nobody has counted; with the blocks of a full spool
//! on them that is half a gigabyte, whatever the cache is allowed to have. Reading pages that are in memory anyway
//! fills the queues, and the pages of before go.
//!
//! Promise: what a scan leaves in memory is about [`SEEN_BYTES_MAX`] beside the cache.

use std::collections::VecDeque;

use super::{Engine, Trouble};
use crate::index::Tree;

/// Bytes of pairs read before the pages of before are let go.
const SEEN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A page has at least this many pairs.
const PAGE_PAIRS_MIN: usize = 8;
/// Pages that are remembered: some of each queue.
const KEYS_MAX: usize = 2048;
/// Accesses that fill all queues of the engine: queues, and places in each.
const ACCESSES: usize = 256 * 64;

/// Which pages were read lately.
#[derive(Default)]
pub(super) struct Seen {
    /// One key of each, the newest [`KEYS_MAX`].
    keys: VecDeque<(Tree, Vec<u8>)>,
    pairs: usize,
    bytes: usize,
}

impl Seen {
    /// Takes note of a pair that was read.
    pub(super) fn note(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        if self.pairs.is_multiple_of(PAGE_PAIRS_MIN) {
            self.keys.truncate(KEYS_MAX - 1);
            self.keys.push_front((tree, key.to_vec()));
        }
        self.pairs += 1;
        self.bytes += key.len() + value.len();
    }

    /// Pages and bytes.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.keys.len(), self.bytes)
    }

    /// Lets the engine count, when it is time.
    pub(super) fn let_go(&mut self, engine: &Engine) -> Result<(), Trouble> {
        if self.bytes < SEEN_BYTES_MAX {
            return Ok(());
        }
        for _ in 0..ACCESSES.div_ceil(self.keys.len()) {
            for (tree, key) in &self.keys {
                engine.tree(*tree)?.get(key)?;
            }
        }
        *self = Self::default();
        Ok(())
    }
}

impl Engine {
    /// Gives every pair but the lanes to `take`, tree by tree, in order.
    pub(super) fn each(
        &self,
        mut take: impl FnMut(Tree, &[u8], &[u8]) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let mut seen = Seen::default();
        for (tree, pairs) in &self.trees {
            for entry in pairs {
                let (key, value) = entry?;
                take(*tree, &key, &value)?;
                seen.note(*tree, &key, &value);
                seen.let_go(self)?;
            }
        }
        Ok(())
    }
}
