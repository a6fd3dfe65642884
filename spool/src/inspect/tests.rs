//! Listings, with the reads of the index counted, and lanes that are counted while they change.

use super::*;
use crate::disk::sim::SimDisk;
use crate::index::counting::Counting;
use crate::types::{NewMessage, Room};

const NOW: WallMs = WallMs(1_800_000_000_000);
/// The retention of what was acked is over.
const LATER: WallMs = WallMs(NOW.0 + 8 * 86_400_000);

struct World {
    spool: Spool,
    index: Arc<Counting>,
    lanes: Vec<LaneId>,
}

/// Ids of one time would share one bucket.
fn id(n: u64) -> ItemId {
    let mut rest = [0; 10];
    rest[..8].copy_from_slice(&n.to_be_bytes());
    ItemId::new(NOW.plus(n * 7), rest)
}

impl World {
    fn new(lanes: usize) -> Self {
        let index = Arc::new(Counting::default());
        let options = Options { min_free_bytes: 0, lane_items_max: 1 << 30, seed: 7, ..Options::default() };
        let (mut spool, _) = Spool::open(Arc::new(SimDisk::new()), index.clone(), options, NOW).unwrap();
        let lanes = (0..lanes).map(|n| spool.register(&format!("lane{n}"), NOW).unwrap()).collect();
        spool.commit(NOW).unwrap();
        Self { spool, index, lanes }
    }

    /// Items with these numbers, into lane after lane in turn.
    fn put(&mut self, numbers: std::ops::Range<u64>) {
        for n in numbers {
            let lane = self.lanes[n as usize % self.lanes.len()];
            let message = NewMessage::empty(lane, id(n));
            self.spool.accept(message, NOW).unwrap();
            if n % 1000 == 999 {
                self.spool.commit(NOW).unwrap();
            }
        }
        self.spool.commit(NOW).unwrap();
    }

    fn checkpoint(&mut self) {
        let job = self.spool.begin_checkpoint(NOW).unwrap().unwrap();
        job.run().unwrap();
        self.spool.end_checkpoint(&job, Ok(())).unwrap();
    }

    /// All of it, page by page, and the pages.
    fn walk(&self, filter: &Filter, limit: usize) -> (Vec<ItemId>, usize) {
        let (mut out, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let (page, next) = self.spool.list(filter, after, limit).unwrap();
            assert!(page.len() <= limit);
            out.extend(page.iter().map(|item| item.id));
            pages += 1;
            after = next;
            if after.is_none() {
                return (out, pages);
            }
        }
    }
}

#[test]
fn a_list_that_finds_nothing_reads_each_block_about_once_and_says_where_to_go_on() {
    let mut world = World::new(1);
    let blocks = LIST_BLOCKS_MAX + 100;
    world.put(0..blocks as u64 * entry::BLOCK_ITEMS);
    world.checkpoint();
    let held = Filter { states: vec![State::Held], ..Filter::default() };
    for limit in [1, 100, LIST_MAX] {
        let before = world.index.pairs();
        let (page, next) = world.spool.list(&held, None, limit).unwrap();
        assert!(page.is_empty() && next.is_some(), "{next:?}");
        // The first steps are small and read as much as a large one.
        let read = world.index.pairs() - before;
        assert!(read <= LIST_BLOCKS_MAX + 8 * LIST_BLOCKS_AT_ONCE, "{read} pairs, limit {limit}");
        assert!(next.is_some_and(|at| at.seq.0 >= (LIST_BLOCKS_MAX as u64 - 1) * entry::BLOCK_ITEMS));
    }
    assert_eq!(world.walk(&held, 100), (vec![], 2));
}

#[test]
fn lanes_without_items_are_walked_in_bounded_steps() {
    let mut world = World::new(3000);
    world.put(2999..3000); // goes to the last one
    world.checkpoint();
    for limit in [1, 100, LIST_MAX] {
        let before = world.index.pairs();
        let (page, next) = world.spool.list(&Filter::default(), None, limit).unwrap();
        assert!(page.is_empty() && next.is_some(), "{next:?}");
        let read = world.index.pairs() - before;
        assert!(read <= 2 * (LIST_BLOCKS_MAX + 8 * LIST_BLOCKS_AT_ONCE), "{read} pairs, limit {limit}");
        assert_eq!(world.walk(&Filter::default(), limit).0, [id(2999)]);
    }
}

#[test]
fn pages_of_any_size_give_each_item_once_from_tail_and_index() {
    let mut world = World::new(3);
    world.put(0..900);
    world.checkpoint();
    world.put(900..1200);
    // Frozen: a checkpoint is under way.
    let _job = world.spool.begin_checkpoint(NOW).unwrap().unwrap();
    world.put(1200..1500);
    let by_lane = |lane: u64| (0..1500).filter(move |n| n % 3 == lane).map(id);
    let all: Vec<_> = (0..3).flat_map(by_lane).collect();
    let second: Vec<_> = by_lane(1).collect();
    for limit in [1, 7, 64, 65, LIST_MAX] {
        assert_eq!(world.walk(&Filter::default(), limit).0, all, "limit {limit}");
        let filter = Filter { lane: Some(world.lanes[1]), ..Filter::default() };
        assert_eq!(world.walk(&filter, limit).0, second, "limit {limit}");
    }
}

/// Goal: a lane is compared in small parts while it is in use, and only a counter that is wrong is told.
/// Method: one block at a time; between two of them items on both sides change, go, and come.
#[test]
fn what_changes_while_a_lane_is_counted_in_parts_is_no_disagreement() {
    let mut world = World::new(2);
    world.put(0..1280);
    world.checkpoint();
    let lane = world.lanes[0];
    let session = world.spool.open_session(lane, Arc::new(|| ())).unwrap();
    world.spool.commit(NOW).unwrap();
    let lent = world.spool.lease(session, Room { items: 1000, bytes: 1 << 30 }, NOW).unwrap().items;
    assert_eq!(lent.len(), 640);
    let (mut part, mut parts) = (None, 0);
    let problem = loop {
        let mut blocks = 1;
        match world.spool.verify_lane_part(lane, part, &mut blocks).unwrap() {
            LaneChecked::Done(problem) => break problem,
            LaneChecked::GoOn(next) => part = Some(next),
        }
        assert_eq!(blocks, 0, "as much as was allowed");
        for at in [parts, 20 + parts, 639 - parts, 500 + parts] {
            world.spool.ack(session, lent[at].id, NOW).unwrap();
        }
        world.spool.apply_verb(lent[300 + parts].id, Verb::Hold, "", NOW).unwrap();
        let new = 1280 + 2 * parts as u64;
        world.put(new..new + 1);
        if parts == 5 {
            let retired = world.spool.maintain(LATER).unwrap().retired;
            assert!(retired > 10, "{retired}");
        }
        world.spool.commit(NOW).unwrap();
        parts += 1;
        assert!(parts < 20, "it ends");
    };
    assert_eq!(problem, None);
    assert!(parts >= 10, "{parts} parts");
    assert_eq!(world.spool.verify_lane(lane), Ok(None));

    // Somebody else counts in between: the first one begins anew, and is right.
    let mut blocks = 3;
    let LaneChecked::GoOn(first) = world.spool.verify_lane_part(lane, None, &mut blocks).unwrap() else {
        panic!("there are more blocks");
    };
    assert_eq!(world.spool.verify_lane(world.lanes[1]), Ok(None));
    let mut blocks = usize::MAX;
    let again = world.spool.verify_lane_part(lane, Some(first), &mut blocks);
    assert_eq!(again, Ok(LaneChecked::Done(None)));

    world.spool.tail.lane_mut(lane).unwrap().items[0] += 1;
    let told = world.spool.verify_lane(lane).unwrap();
    assert!(told.as_deref().is_some_and(|problem| problem.contains("items found")), "{told:?}");
}
