//! PURE: where the value of each lane is, by the number of the lane.
//!
//! Lanes are numbered from one on without gaps, so a table of 256 has few places for nothing, and finding one is a step or
//! two, however many there are. A number out of line, which only damage could make up, costs one table.

use std::collections::BTreeMap;
use std::ops::Range;

/// Places of one table.
const TABLE: usize = 256;

/// Where a record is: its first octet, and how many there are; none is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) at: u64,
    pub(super) len: u32,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By the upper bits of the number; a slot without octets says that there is none.
    tables: BTreeMap<u32, Box<[Slot; TABLE]>>,
}

fn place(lane: u32) -> (u32, usize) {
    (lane / TABLE as u32, lane as usize % TABLE)
}

fn there(slot: Slot) -> Option<Slot> {
    (slot.len > 0).then_some(slot)
}

impl Slots {
    pub(super) fn get(&self, lane: u32) -> Option<Slot> {
        let (table, at) = place(lane);
        self.tables.get(&table).and_then(|table| there(table[at]))
    }

    /// Answers what was there before.
    pub(super) fn set(&mut self, lane: u32, slot: Option<Slot>) -> Option<Slot> {
        let (table, at) = place(lane);
        let table = self.tables.entry(table).or_insert_with(|| Box::new([Slot::default(); TABLE]));
        there(std::mem::replace(&mut table[at], slot.unwrap_or_default()))
    }

    /// Those of lanes in `lanes`, in order.
    pub(super) fn range(&self, lanes: Range<u64>) -> impl DoubleEndedIterator<Item = (u32, Slot)> {
        let table_of = |lane: u64| u32::try_from(lane / TABLE as u64).unwrap_or(u32::MAX);
        let first = table_of(lanes.start);
        let last = table_of(lanes.end.saturating_sub(1)).max(first);
        let all = self.tables.range(first..=last).flat_map(|(table, slots)| {
            let lane = move |at| table * TABLE as u32 + at as u32;
            slots.iter().enumerate().filter_map(move |(at, slot)| Some((lane(at), there(*slot)?)))
        });
        all.filter(move |(lane, _)| lanes.contains(&u64::from(*lane)))
    }
}
