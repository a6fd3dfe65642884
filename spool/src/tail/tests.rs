//! The layers against a plain map, and what a message to a lane that is not in memory reads.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::entry::{BLOCK_ITEMS, Entry};
use crate::ids::WallMs;
use crate::index::Change;
use crate::index::counting::Counting;
use crate::index::memory::MemoryIndex;
use crate::types::State;

const LANES: u32 = 3;

type Entries = (BlockAt, Vec<(Seq, Entry)>);

#[derive(Clone, Debug)]
enum Op {
    /// So many items come into a lane.
    Add(u32, u64),
    /// Its mailbox's record says that the next seq is further on.
    Skip(u32, u64),
    /// The item at this place of all changes its state.
    Change(usize),
    /// It is retired.
    Remove(usize),
    Freeze,
    /// The checkpoint ends, well or not.
    Thaw,
    Refreeze,
    /// Everything is looked at from here on, in steps of so many blocks.
    Look(u32, u64, usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let lane = 0..LANES;
    let op = prop_oneof![
        4 => (lane.clone(), 1..50u64).prop_map(|(lane, n)| Op::Add(lane, n)),
        1 => (lane.clone(), 1..200u64).prop_map(|(lane, n)| Op::Skip(lane, n)),
        3 => any::<usize>().prop_map(Op::Change),
        3 => any::<usize>().prop_map(Op::Remove),
        2 => Just(Op::Freeze),
        2 => Just(Op::Thaw),
        1 => Just(Op::Refreeze),
        3 => (0..=LANES, 0..6u64, 1..5usize).prop_map(|(lane, number, step)| Op::Look(lane, number, step)),
    ];
    prop::collection::vec(op, 1..60)
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<(LaneId, Seq), Entry>,
    next: BTreeMap<LaneId, u64>,
    made: u64,
}

impl Model {
    fn entry(&mut self) -> Entry {
        self.made += 1;
        Entry {
            state: if self.made.is_multiple_of(2) { State::Ready } else { State::Held },
            size_bytes: self.made as u32,
            overhead_bytes: 5,
            first_segment: 1,
            item_lsn: Lsn(self.made),
            state_lsn: Lsn(self.made + 1),
            accepted_at: WallMs(1000 + self.made),
            changed_at: WallMs(2000 + self.made),
            outbound: None,
        }
    }

    fn at(&self, n: usize) -> Option<(LaneId, Seq)> {
        let len = self.entries.len();
        self.entries.keys().nth(n.checked_rem(len)?).copied()
    }

    fn blocks(&self, from: BlockAt, end: Option<LaneId>) -> Vec<Entries> {
        let mut out: BTreeMap<BlockAt, Vec<(Seq, Entry)>> = BTreeMap::new();
        for ((lane, seq), entry) in &self.entries {
            let at = (*lane, entry::block_of(*seq));
            if at >= from && end.is_none_or(|end| *lane < end) {
                out.entry(at).or_default().push((*seq, *entry));
            }
        }
        out.into_iter().collect()
    }
}

/// Everything from `from` on, in steps.
fn walk(tail: &Tail, mut from: BlockAt, end: Option<LaneId>, step: usize) -> Vec<Entries> {
    let mut out = Vec::new();
    loop {
        let (page, next) = tail.blocks(from, end, step).unwrap();
        assert!(page.len() <= step);
        for ((lane, number), block) in page {
            assert!((lane, number) >= from && next.is_none_or(|next| (lane, number) < next));
            out.push(((lane, number), entry::entries(number, &block).collect()));
        }
        let Some(next) = next else { return out };
        assert!(next > from);
        from = next;
    }
}

fn agrees(tail: &Tail, model: &Model, from: BlockAt, step: usize) {
    assert_eq!(walk(tail, from, None, step), model.blocks(from, None));
    let end = Some(LaneId(from.0.0 + 1));
    assert_eq!(walk(tail, from, end, step), model.blocks(from, end));
    for ((lane, seq), entry) in &model.entries {
        assert_eq!(tail.entry(*lane, *seq).unwrap().as_ref(), Some(entry), "{lane:?} {seq:?}");
    }
    for (lane, next) in &model.next {
        assert_eq!(tail.entry(*lane, Seq(*next)).unwrap(), None);
        assert_eq!(tail.lane(*lane).unwrap().map(|lane| lane.next_seq), Some(*next));
    }
    let lanes: Vec<_> =
        tail.lanes(None, 99).unwrap().into_iter().map(|(id, lane)| (id, lane.next_seq)).collect();
    assert_eq!(lanes, model.next.clone().into_iter().collect::<Vec<_>>());
}

fn run(ops: Vec<Op>) {
    let index = Arc::new(MemoryIndex::new());
    let (mut tail, mut model) = (Tail::new(index.clone()), Model::default());
    let (mut job, mut applied) = (None, 0);
    for op in ops {
        match op {
            Op::Add(lane, n) => {
                for _ in 0..n {
                    let (lane, entry) = (LaneId(lane), model.entry());
                    let next = model.next.entry(lane).or_insert(1);
                    tail.put_entry(lane, Seq(*next), entry).unwrap();
                    model.entries.insert((lane, Seq(*next)), entry);
                    *next += 1;
                    tail.lane_mut(lane).unwrap().next_seq = *next;
                }
            }
            Op::Skip(lane, n) => {
                let next = model.next.entry(LaneId(lane)).or_insert(1);
                *next += n;
                tail.lane_mut(LaneId(lane)).unwrap().next_seq = *next;
            }
            Op::Change(n) => {
                let Some((lane, seq)) = model.at(n) else { continue };
                let entry = model.entry();
                tail.put_entry(lane, seq, entry).unwrap();
                model.entries.insert((lane, seq), entry);
            }
            Op::Remove(n) => {
                let Some((lane, seq)) = model.at(n) else { continue };
                tail.remove_entry(lane, seq).unwrap();
                model.entries.remove(&(lane, seq));
            }
            Op::Freeze => {
                if job.is_none() {
                    applied += 1;
                    job = Some(tail.freeze(Lsn(applied)).unwrap());
                }
            }
            Op::Thaw => {
                if let Some(job) = job.take() {
                    job.run().unwrap();
                    tail.thaw();
                }
            }
            Op::Refreeze => {
                if job.take().is_some() {
                    tail.refreeze();
                }
            }
            Op::Look(lane, number, step) => agrees(&tail, &model, (LaneId(lane), number), step),
        }
    }
    agrees(&tail, &model, (LaneId(0), 0), 2);
    if job.take().is_some() {
        tail.refreeze();
    }
    let job = tail.freeze(Lsn(applied + 1)).unwrap();
    agrees(&tail, &model, (LaneId(0), 0), 3);
    job.run().unwrap();
    tail.thaw();
    agrees(&tail, &model, (LaneId(0), 0), 1);
    agrees(&Tail::new(index.clone()), &model, (LaneId(0), 0), 4);
    // What is full lies by itself, what is open does not.
    let full = model
        .blocks((LaneId(0), 0), None)
        .into_iter()
        .filter(|((lane, number), _)| *number != entry::block_of(Seq(model.next[lane])));
    assert_eq!(index.scan(Tree::Block, &[], None, usize::MAX).unwrap().len(), full.count());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn layers_with_open_blocks_are_a_map(ops in ops()) {
        run(ops);
    }
}

#[test]
fn lane_and_open_block_are_one_read_and_one_write() {
    let index = Arc::new(Counting::default());
    let (mut tail, mut model) = (Tail::new(index.clone()), Model::default());
    let mut put = |tail: &mut Tail, seq: u64| {
        tail.lane(LaneId(7)).unwrap();
        tail.put_entry(LaneId(7), Seq(seq), model.entry()).unwrap();
        tail.lane_mut(LaneId(7)).unwrap().next_seq = seq + 1;
    };
    for seq in 1..BLOCK_ITEMS {
        put(&mut tail, seq);
        let job = tail.freeze(Lsn(seq)).unwrap();
        let expected = if seq + 1 == BLOCK_ITEMS { 2 } else { 1 };
        assert_eq!(job.changes(), expected, "after {seq}");
        job.run().unwrap();
        tail.thaw();
        index.reset();
        tail = Tail::new(index.clone());
        tail.lane(LaneId(7)).unwrap();
        tail.entry(LaneId(7), Seq(seq)).unwrap().unwrap();
        let expected = if seq + 1 == BLOCK_ITEMS { 2 } else { 1 };
        assert_eq!(index.all(), expected, "after {seq}");
    }
}

#[test]
fn a_freeze_that_fails_loses_nothing() {
    let index = Arc::new(MemoryIndex::new());
    let (mut tail, mut model) = (Tail::new(index.clone()), Model::default());
    let put = |tail: &mut Tail, model: &mut Model, lane: u32, seq: u64| {
        let (lane, entry) = (LaneId(lane), model.entry());
        tail.put_entry(lane, Seq(seq), entry).unwrap();
        tail.lane_mut(lane).unwrap().next_seq = seq + 1;
        model.entries.insert((lane, Seq(seq)), entry);
        model.next.insert(lane, seq + 1);
    };
    for lane in 1..4 {
        put(&mut tail, &mut model, lane, 1);
    }
    tail.freeze(Lsn(1)).unwrap().run().unwrap();
    tail.thaw();
    // The second lane's block is damaged, and it has to leave its place.
    let whole = index.get(Tree::Lane, &entry::lane_key(LaneId(2))).unwrap().unwrap();
    let write = |value: &[u8]| {
        let change =
            Change { tree: Tree::Lane, key: entry::lane_key(LaneId(2)).into(), value: Some(value.into()) };
        index.apply(&[change], Lsn(1)).unwrap();
    };
    write(&whole[..whole.len() - 1]);
    for lane in [1, 3] {
        put(&mut tail, &mut model, lane, 2);
    }
    tail.lane_mut(LaneId(2)).unwrap().next_seq = 200;
    assert!(matches!(tail.freeze(Lsn(2)), Err(SpoolError::Index(_))));
    assert!(!tail.checkpoint_in_progress());
    for lane in [1, 3] {
        let expected = model.entries.get(&(LaneId(lane), Seq(2))).copied();
        assert_eq!(tail.entry(LaneId(lane), Seq(2)).unwrap(), expected);
        assert_eq!(tail.lane(LaneId(lane)).unwrap().unwrap().next_seq, 3);
    }
    assert_eq!(tail.lane(LaneId(2)).unwrap().unwrap().next_seq, 200);
}
