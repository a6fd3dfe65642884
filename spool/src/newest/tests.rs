//! Listings of the newest, with the reads of the index counted.

use std::sync::Arc;

use super::*;
use crate::Options;
use crate::disk::sim::SimDisk;
use crate::index::counting::Counting;
use crate::types::{NewMessage, Verb};

const NOW: WallMs = WallMs(1_800_000_000_000);

struct World {
    spool: Spool,
    index: Arc<Counting>,
    lanes: Vec<LaneId>,
}

fn at(n: u64) -> WallMs {
    WallMs(NOW.0 + n * 7)
}

fn id(n: u64) -> ItemId {
    let mut rest = [0; 10];
    rest[..8].copy_from_slice(&n.to_be_bytes());
    ItemId::new(at(n), rest)
}

impl World {
    fn new(lanes: usize) -> Self {
        let index = Arc::new(Counting::default());
        let options = Options { min_free_bytes: 0, lane_items_max: 1 << 30, seed: 7, ..Options::default() };
        let disk = Arc::new(SimDisk::new());
        let (mut spool, _) = Spool::open(disk, index.clone(), options, NOW).unwrap();
        let lanes = (0..lanes).map(|n| spool.register(&format!("lane{n}"), NOW).unwrap()).collect();
        spool.commit(NOW).unwrap();
        Self { spool, index, lanes }
    }

    /// Item `n` into lane `n` modulo their number.
    fn put(&mut self, n: u64) {
        let lane = self.lanes[n as usize % self.lanes.len()];
        let message = NewMessage::empty(lane, id(n));
        self.spool.accept(message, at(n)).unwrap();
    }

    /// So many of them, on the index and not only in the tail.
    fn filled(lanes: usize, items: u64) -> Self {
        let mut world = Self::new(lanes);
        for n in 0..items {
            world.put(n);
            if n % 1000 == 999 {
                world.spool.commit(at(n)).unwrap();
            }
        }
        world.checkpoint();
        world.index.reset();
        world
    }

    fn checkpoint(&mut self) {
        self.spool.commit(NOW).unwrap();
        let job = self.spool.begin_checkpoint(NOW).unwrap().unwrap();
        job.run().unwrap();
        self.spool.end_checkpoint(&job, Ok(())).unwrap();
    }

    /// All of it, page by page.
    fn walk(&self, filter: &Filter, whence: Whence, limit: usize) -> Vec<ItemId> {
        let (mut out, mut at) = (Vec::new(), Some(whence));
        while let Some(whence) = at {
            let (page, next) = self.spool.newest(filter, &whence, limit).unwrap();
            assert!(page.len() <= limit);
            out.extend(page.iter().map(|item| item.id));
            at = next;
        }
        out
    }
}

fn down(range: std::ops::Range<u64>) -> Vec<ItemId> {
    range.rev().map(id).collect()
}

#[test]
fn first_page_of_many_reads_a_few_blocks() {
    for lanes in [1, 200] {
        let world = World::filled(lanes, 20_000);
        let (page, next) = world.spool.newest(&Filter::default(), &Whence::Everywhere(None), 50).unwrap();
        assert_eq!(
            page.iter().map(|item| item.id).collect::<Vec<_>>(),
            down(19_950..20_000),
            "{lanes} lanes"
        );
        assert_eq!(next, Some(Whence::Everywhere(Some(id(19_950)))));
        // One block for each lane on the page, its lane twice at most, and one scan of buckets.
        let expected = if lanes == 1 { 2 } else { 50 };
        assert!(world.index.blocks() <= expected, "{} blocks, {lanes} lanes", world.index.blocks());
        assert!(world.index.all() <= 50 * 3 + BUCKETS_PER_SCAN, "{} reads, {lanes} lanes", world.index.all());

        world.index.reset();
        let top = Whence::top_of(&world.lanes[..1]);
        let (page, _) = world.spool.newest(&Filter::default(), &top, 50).unwrap();
        assert_eq!(page.len(), 50);
        assert!(world.index.blocks() <= 2, "{} blocks", world.index.blocks());
    }
}

#[test]
fn a_selection_that_matches_nothing_is_looked_for_in_bounded_steps() {
    let mut world = World::filled(1000, 20_000);
    world.spool.apply_verb(id(3), Verb::Hold, "", at(20_001)).unwrap();
    world.checkpoint();
    world.index.reset();
    let held = Filter { states: vec![State::Held], ..Filter::default() };
    let (page, next) = world.spool.newest(&held, &Whence::Everywhere(None), 50).unwrap();
    assert_eq!(page.len(), 0, "it is far down");
    assert_eq!(next, Some(Whence::Everywhere(Some(id(20_000 - LOOKS_MAX as u64)))));
    assert!(world.index.all() <= 2 * LOOKS_MAX + BUCKETS_PER_SCAN, "{}", world.index.all());
    assert_eq!(world.walk(&held, Whence::Everywhere(None), 50), [id(3)]);

    let out = Filter { outbound: Some(true), ..Filter::default() };
    world.index.reset();
    assert_eq!(world.spool.newest(&out, &Whence::Everywhere(None), 50).unwrap(), (vec![], None));
    assert_eq!(world.index.all(), 0, "no submission, nothing to look for");

    let none = Filter { states: vec![State::Expired], ..Filter::default() };
    world.index.reset();
    assert_eq!(world.spool.newest(&none, &Whence::Everywhere(None), 50).unwrap(), (vec![], None));
    assert_eq!(world.index.all(), 0, "the counters say that there is none");
}

#[test]
fn when_all_that_match_were_found_that_is_the_end() {
    let mut world = World::filled(3, 6000);
    world.spool.apply_verb(id(5990), Verb::Hold, "", at(6001)).unwrap();
    world.spool.commit(at(6001)).unwrap();
    let held = Filter { states: vec![State::Held], ..Filter::default() };
    let (page, next) = world.spool.newest(&held, &Whence::Everywhere(None), 50).unwrap();
    assert_eq!((page.len(), next), (1, None));
    let lanes = Whence::top_of(&world.lanes);
    let (page, next) = world.spool.newest(&held, &lanes, 50).unwrap();
    assert_eq!((page.len(), next), (1, None));
}

#[test]
fn pages_give_each_item_once_from_tail_and_index() {
    let mut world = World::filled(7, 500);
    for n in 500..700 {
        world.put(n);
    }
    world.spool.commit(at(700)).unwrap();
    // Frozen: a checkpoint is under way.
    let _job = world.spool.begin_checkpoint(at(700)).unwrap().unwrap();
    for n in 700..800 {
        world.put(n);
    }
    world.spool.commit(at(800)).unwrap();
    world.put(800);
    assert_eq!(
        world.walk(&Filter::default(), Whence::Everywhere(None), 33),
        down(0..800),
        "800 is not stable"
    );
    let some = &world.lanes[2..4];
    let expected: Vec<_> = (0..800).rev().filter(|n| [2, 3].contains(&(n % 7))).map(id).collect();
    assert_eq!(world.walk(&Filter::default(), Whence::top_of(some), 33), expected);
}

#[test]
fn times_narrow_the_walk_and_are_exact() {
    let world = World::filled(5, 3000);
    let filter = Filter { since: Some(at(1000)), until: Some(at(2000)), ..Filter::default() };
    assert_eq!(world.walk(&filter, Whence::Everywhere(None), 100), down(1000..2000));
    assert_eq!(world.walk(&filter, Whence::top_of(&world.lanes), 100), down(1000..2000));
    let days = 2 * 86_400_000;
    let later = Filter { since: Some(WallMs(NOW.0 + days)), ..Filter::default() };
    world.index.reset();
    assert_eq!(world.walk(&later, Whence::Everywhere(None), 100), []);
    assert!(world.index.all() <= 2, "{}", world.index.all());
    let earlier = Filter { until: Some(WallMs(NOW.0 - days)), ..Filter::default() };
    assert_eq!(world.walk(&earlier, Whence::Everywhere(None), 100), []);
}

#[test]
fn purged_and_moved_items_stay_in_their_place() {
    let mut world = World::filled(2, 10);
    world.spool.apply_verb(id(4), Verb::Purge, "", at(11)).unwrap();
    world.spool.commit(at(11)).unwrap();
    assert_eq!(world.walk(&Filter::default(), Whence::Everywhere(None), 3), down(0..10));
    let ready = Filter { states: vec![State::Ready], ..Filter::default() };
    let without: Vec<_> = down(0..10).into_iter().filter(|found| *found != id(4)).collect();
    assert_eq!(world.walk(&ready, Whence::Everywhere(None), 3), without);
}

#[test]
fn a_reader_who_stops_in_a_page_goes_on_behind_the_item_he_stopped_at() {
    let world = World::filled(3, 300);
    for mut whence in [Whence::Everywhere(None), Whence::top_of(&world.lanes)] {
        let (page, _) = world.spool.newest(&Filter::default(), &whence, 100).unwrap();
        for item in &page[..17] {
            whence.pass(item);
        }
        let rest = world.walk(&Filter::default(), whence, 50);
        assert_eq!(rest, down(0..283));
    }
}
