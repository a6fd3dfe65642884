//! A ledger that is read while it is at work: what moved, went or changed meanwhile is no damage.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use spool::accept::ChunkBuilder;
use spool::disk::sim::SimDisk;
use spool::ids::{ItemId, WallMs};
use spool::index::memory::MemoryIndex;
use spool::submission::{NewSubmission, Settlement, Submitted};
use spool::types::{NewMessage, Room, Target, Verb};
use spool::{Effort, Options};

use super::*;

const NOW: WallMs = WallMs(1_800_000_000_000);
/// The retention of what was acked is over.
const LATER: WallMs = WallMs(NOW.0 + 8 * 86_400_000);
const BODY_BYTES: usize = 3000;

/// A ledger that does something between two questions: it is told their number.
struct Busy {
    spool: RefCell<Spool>,
    looks: Cell<u32>,
    between: fn(&mut Spool, u32),
}

impl Busy {
    fn new(spool: Spool, between: fn(&mut Spool, u32)) -> Self {
        Self { spool: RefCell::new(spool), looks: Cell::new(0), between }
    }
}

impl Look for Busy {
    fn look<T: Send + 'static>(&self, f: impl FnOnce(&Spool) -> T + Send + 'static) -> Result<T, SpoolError> {
        let answer = f(&self.spool.borrow());
        self.looks.set(self.looks.get() + 1);
        (self.between)(&mut self.spool.borrow_mut(), self.looks.get());
        Ok(answer)
    }
}

fn open() -> Spool {
    let options = Options {
        segment_bytes: 64 * 1024,
        min_free_bytes: 0,
        lane_items_max: 1 << 30,
        seed: 7,
        ..Options::default()
    };
    Spool::open(Arc::new(SimDisk::new()), Arc::new(MemoryIndex::new()), options, NOW).unwrap().0
}

/// Ids of one time would share one bucket of the index.
fn id(n: u32) -> ItemId {
    let mut rest = [0; 10];
    rest[..4].copy_from_slice(&n.to_be_bytes());
    ItemId::new(NOW.plus(u64::from(n) * 7), rest)
}

fn message(spool: &mut Spool, n: u32, body: &[u8], targets: Vec<Target>) -> NewMessage {
    if !body.is_empty() {
        let mut builder = ChunkBuilder::new(id(n), spool.reader().seed());
        builder.take(body);
        spool.stage_chunk(id(n), builder.finish()).unwrap();
    }
    NewMessage {
        body: id(n),
        body_bytes: body.len() as u64,
        sha256: Sha256::digest(body).into(),
        head: Vec::new(),
        meta: Vec::new(),
        fingerprint: None,
        targets,
    }
}

fn put(spool: &mut Spool, lane: LaneId, n: u32, body: &[u8]) {
    let targets = vec![Target { lane, id: id(n), tag: Vec::new() }];
    let message = message(spool, n, body, targets);
    spool.accept(message, NOW).unwrap();
}

fn checkpoint(spool: &mut Spool, now: WallMs) {
    if let Some(job) = spool.begin_checkpoint(now).unwrap() {
        let result = job.run();
        spool.end_checkpoint(&job, result).unwrap();
    }
}

/// What a spool does by itself, until there is no more of it.
fn upkeep(spool: &mut Spool, now: WallMs) {
    checkpoint(spool, now);
    for _ in 0..50 {
        spool.maintain(now).unwrap();
        spool.commit(now).unwrap();
        while spool.compact_step(1 << 20, Effort::AtRest, now).unwrap() {
            spool.commit(now).unwrap();
        }
        spool.commit(now).unwrap();
        checkpoint(spool, now);
    }
}

/// Goal: a segment that went, and whose file is another one's, is not called damaged.
/// Method: when the journal is about to be read everything in it is acked and forgotten, and its space is used again.
#[test]
fn a_segment_that_went_while_the_journal_was_read_is_no_damage() {
    let mut spool = open();
    let lane = spool.register("home", NOW).unwrap();
    for n in 0..100 {
        put(&mut spool, lane, n, &[7; BODY_BYTES]);
        spool.commit(NOW).unwrap();
    }
    let plan = spool.verify_plan();
    let busy = Busy::new(spool, |_, _| ());
    let mut begun = false;
    let report = verify(&busy, &mut |_, _| {
        if !std::mem::replace(&mut begun, true) {
            let spool = &mut *busy.spool.borrow_mut();
            let session = spool.open_session(lane, Arc::new(|| ())).unwrap();
            spool.commit(NOW).unwrap();
            let lent = spool.lease(session, Room { items: 1000, bytes: 1 << 30 }, NOW).unwrap().items;
            for item in lent {
                spool.ack(session, item.id, NOW).unwrap();
            }
            spool.commit(NOW).unwrap();
            upkeep(spool, LATER);
            for n in 100..300 {
                put(spool, lane, n, &[8; BODY_BYTES]);
                spool.commit(LATER).unwrap();
            }
        }
        true
    })
    .unwrap();
    let there = busy.spool.borrow().segment_numbers();
    let gone: Vec<_> = plan.segments().filter(|number| !there.contains(number)).collect();
    let looks_whole = |number: &u32| plan.check_segment(*number).is_ok_and(|check| check.damaged.is_empty());
    assert!(
        !gone.iter().all(looks_whole),
        "the story would prove nothing: {gone:?} went, {there:?} are there"
    );
    assert_eq!(report["problems"], json!([]), "{report}");
}

/// Goal: a body that was given up after its item was listed is not called damaged.
/// Method: when the first body is about to be read the next hop takes all submissions, and their records are moved without them.
#[test]
fn a_body_that_was_given_up_since_its_item_was_listed_is_no_damage() {
    let mut spool = open();
    let mailbox = spool.register("home", NOW).unwrap();
    for n in 0..60 {
        let message = message(&mut spool, n, &[7; BODY_BYTES], Vec::new());
        let new = NewSubmission {
            message,
            mailbox,
            tag: b"bob@dest.example".to_vec(),
            key: [n as u8; 32],
            key_until: NOW.plus(1),
            twin: None,
            destination: "dest.example".to_owned(),
            due: NOW,
            settled: None,
        };
        assert_eq!(spool.submit(new, NOW), Ok(Submitted::New(id(n))));
        spool.commit(NOW).unwrap();
    }
    let journal_bytes = spool.verify_plan().total_bytes();
    let busy = Busy::new(spool, |_, _| ());
    let mut given_up = false;
    let report = verify(&busy, &mut |done, _| {
        if done > journal_bytes && !std::mem::replace(&mut given_up, true) {
            let spool = &mut *busy.spool.borrow_mut();
            for n in 0..60 {
                spool.arm(id(n), "handed over", NOW).unwrap();
                spool.commit(NOW).unwrap();
                spool.settle(id(n), Settlement::Sent, "250 ok", NOW).unwrap();
                spool.commit(NOW).unwrap();
            }
            upkeep(spool, NOW);
        }
        true
    })
    .unwrap();
    let first = busy.spool.borrow().item(id(0)).unwrap().unwrap();
    assert_eq!((first.state, first.chunks.len()), (State::Sent, 0), "the story would prove nothing");
    assert_eq!(report["bodies"], 60);
    assert_eq!(report["problems"], json!([]), "{report}");
}

#[test]
fn a_long_lane_is_counted_in_several_questions_while_it_is_in_use() {
    let mut spool = open();
    let lane = spool.register("home", NOW).unwrap();
    let items = BLOCKS_MAX as u32 * 64 + 1000;
    for n in 0..items {
        put(&mut spool, lane, n, b"");
        if n % 1000 == 999 {
            spool.commit(NOW).unwrap();
        }
    }
    spool.commit(NOW).unwrap();
    // Between two questions one item changes and one comes, on both sides of where the count stands.
    let busy = Busy::new(spool, |spool, look| {
        spool.apply_verb(id(look), Verb::Hold, "", NOW).unwrap();
        let lane = spool.item(id(0)).unwrap().unwrap().lane;
        put(spool, lane, 1_000_000 + look, b"");
        spool.commit(NOW).unwrap();
    });
    let report = verify(&busy, &mut |_, _| true).unwrap();
    assert_eq!(report["problems"], json!([]), "{report}");
    assert_eq!(report["lanes"], 1);
    // No question looks into more blocks than it may.
    let mailbox = VecDeque::from([(lane, "lane home".to_owned())]);
    let before = busy.looks.get();
    let mut told = Report::default();
    counters(&busy, mailbox, &mut told).unwrap();
    assert_eq!(busy.looks.get() - before, 2);
    assert_eq!(told.problems, Vec::<String>::new());
}
