//! PURE: counting a long lane in steps, while it is in use.

use crate::entry;
use crate::ids::{LaneId, Seq};
use crate::types::STATES;

/// The items of one lane by state, as far as its entries were looked at. What changes there afterwards is counted as it
/// happens, so that a long lane can be counted in steps while it is in use.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Tells it from the ones before.
    pub(crate) number: u64,
    pub(super) lane: LaneId,
    /// Entries below are counted; 0: nobody counts.
    pub(crate) below: Seq,
    pub(crate) items: [u64; STATES],
}

impl Tally {
    pub(super) fn none() -> Self {
        Self { number: 0, lane: LaneId(0), below: Seq(0), items: [0; STATES] }
    }

    pub(super) fn has(&self, lane: LaneId, seq: Seq) -> bool {
        self.lane == lane && seq < self.below
    }

    pub(crate) fn add(&mut self, entry: &entry::Entry) {
        self.items[entry::state_code(entry.state) as usize - 1] += 1;
    }

    pub(super) fn take(&mut self, entry: &entry::Entry) {
        let n = &mut self.items[entry::state_code(entry.state) as usize - 1];
        *n = n.saturating_sub(1);
    }
}
