//! Which lanes names lead to, and which lead nowhere, as far as they were asked for lately.
//!
//! Each recipient of each message is a name or two to look up, and names change once in a lifetime. So what the index answered
//! is remembered, and every change goes through here. A name is known by 128 bits of two keyed hashes, whose keys nobody outside
//! this process knows: two names that share them are not found by trying.
//!
//! Promise: at most 60 octets for each name at rest, and [`NAMES_MAX`] names of either kind; beyond that the kind begins anew. So whoever
//! asks for names that nobody has makes nobody else's be forgotten.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use crate::ids::LaneId;

/// Names that are remembered because they lead to a lane, and names because they do not.
pub(crate) const NAMES_MAX: usize = 1 << 18;

type Hash = [u64; 2];

#[derive(Debug, Default)]
pub(crate) struct Names {
    keys: [RandomState; 2],
    known: HashMap<Hash, LaneId>,
    absent: HashSet<Hash>,
}

impl Names {
    fn hash(&self, name: &[u8]) -> Hash {
        self.keys.each_ref().map(|key| key.hash_one(name))
    }

    /// The lane, `Some(None)` for a name that nobody has; `None`: not remembered.
    pub(crate) fn get(&self, name: &[u8]) -> Option<Option<LaneId>> {
        let hash = self.hash(name);
        self.known.get(&hash).map(|lane| Some(*lane)).or_else(|| self.absent.contains(&hash).then_some(None))
    }

    /// From now on `name` leads to `lane`, or to none.
    pub(crate) fn set(&mut self, name: &[u8], lane: Option<LaneId>) {
        let hash = self.hash(name);
        match lane {
            Some(lane) => {
                self.absent.remove(&hash);
                if self.known.len() >= NAMES_MAX && !self.known.contains_key(&hash) {
                    self.known = HashMap::new();
                }
                self.known.insert(hash, lane);
            }
            None => {
                self.known.remove(&hash);
                if self.absent.len() >= NAMES_MAX && !self.absent.contains(&hash) {
                    self.absent = HashSet::new();
                }
                self.absent.insert(hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_word_counts_and_too_many_of_one_kind_leave_the_other() {
        let mut names = Names::default();
        names.set(b"a@x", Some(LaneId(1)));
        names.set(b"b@x", Some(LaneId(2)));
        names.set(b"a@x", Some(LaneId(3)));
        names.set(b"b@x", None);
        names.set(b"c@x", None);
        names.set(b"c@x", Some(LaneId(4)));
        let said = [b"a@x", b"b@x", b"c@x", b"d@x"].map(|name| names.get(name));
        assert_eq!(said, [Some(Some(LaneId(3))), Some(None), Some(Some(LaneId(4))), None]);
        for n in 0..NAMES_MAX as u32 {
            names.set(&n.to_be_bytes(), None);
            assert!(names.absent.len() <= NAMES_MAX);
        }
        assert_eq!((names.get(b"a@x"), names.get(b"b@x")), (Some(Some(LaneId(3))), None));
        for n in 0..NAMES_MAX as u32 {
            names.set(&n.to_be_bytes(), Some(LaneId(n)));
            assert!(names.known.len() <= NAMES_MAX);
        }
        assert_eq!(names.get(b"a@x"), None);
        let last = NAMES_MAX as u32 - 1;
        assert_eq!(names.get(&last.to_be_bytes()), Some(Some(LaneId(last))));
    }
}
