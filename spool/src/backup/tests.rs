//! Copies on the simulated disk: what they hold, and what may not happen while one is made.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{BackupError, BackupPlan, CopiedFile, PIN_MS};
use crate::accept::ChunkBuilder;
use crate::disk::sim::{Fault, SimDisk};
use crate::ids::{ItemId, LaneId, WallMs};
use crate::index::memory::MemoryIndex;
use crate::types::{Filter, NewMessage, Room, State, Target};
use crate::{Effort, Options, Spool};

const NOW: WallMs = WallMs(1_800_000_000_000);
const LATER: WallMs = WallMs(NOW.0 + 8 * 86_400_000);

fn open(disk: &SimDisk) -> Spool {
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, seed: 7, ..Options::default() };
    Spool::open(Arc::new(disk.clone()), Arc::new(MemoryIndex::new()), options, NOW).unwrap().0
}

fn id(n: u8) -> ItemId {
    ItemId::new(NOW, [n; 10])
}

fn put(spool: &mut Spool, lane: LaneId, n: u8) {
    let body = [n; 3000];
    let mut builder = ChunkBuilder::new(id(n), spool.reader().seed());
    builder.take(&body);
    spool.stage_chunk(id(n), builder.finish()).unwrap();
    let message = NewMessage {
        body: id(n),
        body_bytes: body.len() as u64,
        sha256: Sha256::digest(body).into(),
        head: Vec::new(),
        meta: vec![n],
        fingerprint: None,
        targets: vec![Target { lane, id: id(n), tag: vec![n] }],
    };
    spool.accept(message, NOW).unwrap();
    spool.commit(NOW).unwrap();
}

/// Acks everything, lets its retention pass, and walks and checkpoints as often as it takes.
fn tidy(spool: &mut Spool, lane: LaneId) {
    let session = spool.open_session(lane, Arc::new(|| ())).unwrap();
    spool.commit(NOW).unwrap();
    loop {
        let lent = spool.lease(session, Room { items: 100, bytes: 1 << 30 }, NOW).unwrap().items;
        if lent.is_empty() {
            break;
        }
        for item in lent {
            spool.ack(session, item.id, NOW).unwrap();
        }
        spool.commit(NOW).unwrap();
    }
    checkpoint(spool, LATER);
    for _ in 0..50 {
        spool.maintain(LATER).unwrap();
        spool.commit(LATER).unwrap();
        while spool.compact_step(1 << 20, Effort::AtRest, LATER).unwrap() {
            spool.commit(LATER).unwrap();
        }
        spool.commit(LATER).unwrap();
        checkpoint(spool, LATER);
    }
}

fn checkpoint(spool: &mut Spool, now: WallMs) {
    if let Some(job) = spool.begin_checkpoint(now).unwrap() {
        let result = job.run();
        spool.end_checkpoint(&job, result).unwrap();
    }
}

fn filled(disk: &SimDisk) -> (Spool, LaneId) {
    let mut spool = open(disk);
    let lane = spool.register("a", NOW).unwrap();
    for n in 1..=100 {
        put(&mut spool, lane, n);
    }
    (spool, lane)
}

/// Ready items of a copy, all of whose records and bodies are as they were written; `None`: some are not.
fn whole(disk: &SimDisk) -> Option<usize> {
    let spool = open(disk);
    let ready = Filter { states: vec![State::Ready], ..Filter::default() };
    let (items, _) = spool.list(&ready, None, 1000).unwrap();
    let bodies = items.iter().all(|item| spool.reader().check_body(item).is_ok());
    let plan = spool.verify_plan();
    let records = plan.segments().all(|number| plan.check_segment(number).unwrap().damaged.is_empty());
    (bodies && records).then_some(items.len())
}

fn copy(plan: &BackupPlan, to: &SimDisk) -> Vec<CopiedFile> {
    plan.copy(to, |_| Ok(())).unwrap()
}

#[test]
fn a_copy_holds_all_that_was_stable_and_nothing_that_came_later() {
    let disk = SimDisk::new();
    let (mut spool, lane) = filled(&disk);
    let plan = spool.begin_backup(NOW).unwrap();
    put(&mut spool, lane, 101);
    let target = SimDisk::new();
    let files = copy(&plan, &target);
    put(&mut spool, lane, 102);
    spool.end_backup(plan.pin, NOW).unwrap();
    for file in &files {
        let bytes = target.contents(&file.name).unwrap();
        let facts = (bytes.len() as u64, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(facts, (file.bytes, file.sha256), "{}", file.name);
    }
    assert_eq!(
        files.iter().map(|file| file.bytes).sum::<u64>() - plan.total_bytes(),
        33,
        "and the format file"
    );
    // Synced to the last byte: a power cut takes nothing of it.
    for seed in 0..20 {
        assert_eq!(whole(&target.crash(seed)), Some(100));
    }
}

/// Copies while everything is acked, compacted, removed and used again; answers what the copy holds.
fn copied_while_all_goes(pinned: bool) -> Option<usize> {
    let disk = SimDisk::new();
    let (mut spool, lane) = filled(&disk);
    let before = spool.segment_numbers();
    assert!(before.len() > 4, "{before:?}");
    // The clock of the pin is that of the retention, so that it is not given up.
    let plan = spool.begin_backup(LATER).unwrap();
    if !pinned {
        spool.end_backup(plan.pin, LATER).unwrap();
    }
    let target = SimDisk::new();
    let mut began = false;
    plan.copy(&target, |_| {
        if !std::mem::replace(&mut began, true) {
            tidy(&mut spool, lane);
            (101..=200).for_each(|n| put(&mut spool, lane, n));
        }
        Ok(())
    })
    .unwrap();
    if pinned {
        spool.end_backup(plan.pin, LATER).unwrap();
    }
    tidy(&mut spool, lane);
    assert!(spool.segment_numbers().iter().all(|number| !before.contains(number)), "all go in the end");
    whole(&target)
}

#[test]
fn no_segment_goes_or_is_used_again_while_it_is_copied_and_all_do_afterwards() {
    assert_eq!(copied_while_all_goes(true), Some(100));
    assert_ne!(copied_while_all_goes(false), Some(100), "without the pin the story would prove nothing");
}

#[test]
fn pinned_segments_stay_through_checkpoints() {
    let disk = SimDisk::new();
    let (mut spool, lane) = filled(&disk);
    let before = spool.segment_numbers();
    // The clock of this pin is that of the retention, so that it is not given up.
    let plan = spool.begin_backup(LATER).unwrap();
    let renewed = |spool: &mut Spool| spool.renew_backup(plan.pin, LATER);
    tidy(&mut spool, lane);
    assert_eq!(renewed(&mut spool), Ok(()));
    let kept: Vec<u32> = spool.segment_numbers().into_iter().filter(|n| before.contains(n)).collect();
    assert_eq!(kept, before);
    spool.end_backup(plan.pin, LATER).unwrap();
    checkpoint(&mut spool, LATER);
    assert!(!spool.segment_numbers().contains(&before[0]), "the next checkpoint lets them go");
}

#[test]
fn one_copy_at_a_time_and_a_dead_copier_gives_way() {
    let disk = SimDisk::new();
    let (mut spool, _) = filled(&disk);
    let dead = spool.begin_backup(NOW).unwrap();
    assert_eq!(spool.begin_backup(NOW.plus(PIN_MS)).err(), Some(BackupError::Busy));
    let now = NOW.plus(PIN_MS + 1);
    spool.maintain(now).unwrap();
    assert_eq!(spool.renew_backup(dead.pin, now), Err(BackupError::Lost));
    let alive = spool.begin_backup(now).unwrap();
    assert_eq!(spool.end_backup(dead.pin, now), Err(BackupError::Lost));
    assert_eq!(spool.renew_backup(alive.pin, now.plus(PIN_MS)), Ok(()));
    assert_eq!(spool.end_backup(alive.pin, now.plus(2 * PIN_MS)), Ok(()));
}

#[test]
fn a_clock_that_is_set_back_does_not_make_a_pin_last() {
    let disk = SimDisk::new();
    let (mut spool, _) = filled(&disk);
    let dead = spool.begin_backup(LATER).unwrap();
    spool.maintain(NOW).unwrap();
    spool.maintain(NOW.plus(PIN_MS + 1)).unwrap();
    assert_eq!(spool.renew_backup(dead.pin, NOW.plus(PIN_MS + 1)), Err(BackupError::Lost));
}

#[test]
fn a_target_that_fails_is_named_and_the_original_goes_on() {
    let disk = SimDisk::new();
    let (mut spool, lane) = filled(&disk);
    let plan = spool.begin_backup(NOW).unwrap();
    let ops = {
        let target = SimDisk::new();
        copy(&plan, &target);
        target.ops()
    };
    for op in 0..ops {
        let target = SimDisk::new();
        target.fail_at(op, Fault::Io);
        // The format file is removed before it is made, which may fail without harm only when there is none.
        if let Err(error) = plan.copy(&target, |_| Ok(())) {
            assert!(matches!(error, BackupError::Target { .. }), "{op}: {error:?}");
        }
    }
    assert_eq!(plan.copy(&SimDisk::new(), |_| Err(BackupError::Stopped)).err(), Some(BackupError::Stopped));
    spool.end_backup(plan.pin, NOW).unwrap();
    put(&mut spool, lane, 103);
}

#[test]
fn a_stopped_spool_is_copied_as_it_lies() {
    let disk = SimDisk::new();
    drop(filled(&disk));
    let stopped = disk.kill();
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
    let (mut spool, _) = Spool::open_read_only(Arc::new(stopped), options, NOW).unwrap();
    let plan = spool.begin_backup(NOW).unwrap();
    let target = SimDisk::new();
    copy(&plan, &target);
    spool.end_backup(plan.pin, NOW).unwrap();
    assert_eq!(whole(&target), Some(100));
}
