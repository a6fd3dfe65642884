//! The ledger on a simulated disk: short stories, each one promise. The random ones are in `proptests/`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::accept::ChunkBuilder;
use crate::disk::sim::{Fault, SimDisk};
use crate::error::{AcceptError, RequestError, SpoolError};
use crate::ids::{ItemId, LaneId, Lsn, Seq, SessionId, WallMs};
use crate::index::memory::MemoryIndex;
use crate::index::{Change, Index as _, Tree};
use crate::invitations::Invitation;
use crate::lease::DEFER_MS_MAX;
use crate::types::{AckOutcome, Filter, MailboxChange, NackOutcome, NewMessage, Room, State, Target, Verb};
use crate::{Effort, Options, ReplayFrom, Replayed, Spool};

pub(crate) const NOW: WallMs = WallMs(1_800_000_000_000);
const ROOM: Room = Room { items: 100, bytes: 1 << 30 };

pub(crate) fn options() -> Options {
    Options { segment_bytes: 64 * 1024, min_free_bytes: 0, seed: 7, ..Options::default() }
}

pub(crate) fn open(disk: &SimDisk, index: &Arc<MemoryIndex>) -> Spool {
    Spool::open(Arc::new(disk.clone()), index.clone(), options(), NOW).unwrap().0
}

pub(crate) fn id(n: u8) -> ItemId {
    ItemId::new(NOW, [n; 10])
}

pub(crate) fn put(spool: &mut Spool, n: u8, lanes: &[LaneId], body: &[u8]) -> Result<Vec<Seq>, AcceptError> {
    let mut builder = ChunkBuilder::new(id(n), spool.reader().seed());
    let mut rest = body;
    while !rest.is_empty() {
        let taken = builder.take(rest);
        rest = &rest[taken..];
        let chunk = builder.finish();
        spool.stage_chunk(id(n), chunk)?;
    }
    let targets = lanes
        .iter()
        .enumerate()
        .map(|(k, lane)| Target { lane: *lane, id: id(n + k as u8), tag: vec![n] })
        .collect();
    let message = NewMessage {
        body: id(n),
        body_bytes: body.len() as u64,
        sha256: Sha256::digest(body).into(),
        head: b"Received: x\r\n".to_vec(),
        meta: vec![1, 2, 3],
        fingerprint: Some([n; 32]),
        targets,
    };
    let seqs = spool.accept(message, NOW)?;
    spool.commit(NOW)?;
    Ok(seqs)
}

pub(crate) fn session(spool: &mut Spool, lane: LaneId) -> SessionId {
    let session = spool.open_session(lane, Arc::new(|| ())).unwrap();
    spool.commit(NOW).unwrap();
    session
}

pub(crate) fn lent(spool: &mut Spool, session: SessionId) -> Vec<u64> {
    spool.lease(session, ROOM, NOW).unwrap().items.iter().map(|item| item.seq.0).collect()
}

fn body_of(spool: &Spool, n: u8) -> Vec<u8> {
    let item = spool.item(id(n)).unwrap().unwrap();
    let reader = spool.reader();
    (0..item.chunks.len()).flat_map(|n| reader.chunk(&item, n).unwrap()).collect()
}

#[test]
fn accepted_item_is_lent_acked_and_not_lent_again() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    assert_eq!(put(&mut spool, 1, &[lane], b"one").unwrap(), [Seq(1)]);
    assert_eq!(put(&mut spool, 2, &[lane], &vec![9; 200_000]).unwrap(), [Seq(2)]);
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s), [1, 2]);
    assert_eq!(body_of(&spool, 2), vec![9; 200_000]);
    assert_eq!(spool.ack(s, id(2), NOW), Ok(AckOutcome::Acked));
    assert_eq!(spool.ack(s, id(2), NOW), Ok(AckOutcome::Already));
    assert_eq!(spool.ack(s, id(77), NOW), Ok(AckOutcome::Ignored));
    spool.commit(NOW).unwrap();
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s), [1], "unacked comes again, acked does not");
}

#[test]
fn an_index_of_another_version_is_built_anew_from_the_journal() {
    for older in [false, true] {
        let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
        let mut spool = open(&disk, &index);
        let lane = spool.register("a", NOW).unwrap();
        put(&mut spool, 1, &[lane], b"one").unwrap();
        for n in 2..=crate::entry::BLOCK_ITEMS as u8 {
            put(&mut spool, n, &[lane], b"more").unwrap();
        }
        spool.close(NOW).unwrap();
        drop(spool);
        if older {
            // Its blocks are of another kind, too: were they read, they would say nothing, or something else.
            let changes: Vec<_> = [Tree::Lane, Tree::Block]
                .into_iter()
                .flat_map(|tree| {
                    let pairs = index.scan(tree, &[], None, 9).unwrap();
                    pairs.into_iter().map(move |(key, mut value)| {
                        value[0] = value[0].wrapping_sub(1);
                        Change { tree, key: key.into(), value: Some(value.into()) }
                    })
                })
                .collect();
            assert_eq!(changes.len(), 2);
            index.apply(&changes, index.applied().unwrap().unwrap()).unwrap();
        }
        let (spool, recovery) = Spool::open(Arc::new(disk.clone()), index.clone(), options(), NOW).unwrap();
        assert_eq!(recovery.rebuilt_index, older);
        assert_eq!(body_of(&spool, 1), b"one");
    }
}

#[test]
fn restart_with_and_without_index_gives_the_same_lane() {
    for (checkpoint, keep_index) in [(true, true), (false, true), (true, false), (false, false)] {
        let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
        let mut spool = open(&disk, &index);
        let (a, b) = (spool.register("a", NOW).unwrap(), spool.register("b", NOW).unwrap());
        spool.change_mailbox("a", MailboxChange::AddAlias("home@x".to_owned())).unwrap();
        put(&mut spool, 1, &[a], b"one").unwrap();
        put(&mut spool, 10, &[a, b], b"both").unwrap();
        put(&mut spool, 20, &[a], b"held").unwrap();
        let s = session(&mut spool, a);
        assert_eq!(lent(&mut spool, s), [1, 2, 3]);
        spool.ack(s, id(1), NOW).unwrap();
        spool.apply_verb(id(20), Verb::Hold, "look", NOW).unwrap();
        spool.commit(NOW).unwrap();
        let before = spool.mailbox("home@x").unwrap().unwrap();
        if checkpoint {
            spool.close(NOW).unwrap();
        }
        drop(spool);
        let index = if keep_index { index } else { Arc::new(MemoryIndex::new()) };
        let mut spool = open(&disk.kill(), &index);
        assert_eq!(spool.mailbox("a").unwrap().unwrap(), before, "{checkpoint} {keep_index}");
        assert_eq!(spool.verify_lane(a).unwrap(), None);
        assert_eq!(spool.item(id(20)).unwrap().unwrap().state, State::Held);
        let reasons: Vec<_> =
            spool.timeline(id(20)).unwrap().into_iter().map(|t| (t.state, t.reason)).collect();
        assert_eq!(
            reasons,
            [("ready".to_owned(), "accepted".to_owned()), ("held".to_owned(), "look".to_owned())]
        );
        let s = session(&mut spool, a);
        assert_eq!(lent(&mut spool, s), [2]);
        assert_eq!(put(&mut spool, 30, &[a], b"next").unwrap(), [Seq(4)]);
    }
}

/// Whatever was asked before: what leads nowhere may lead somewhere tomorrow, and somewhere else the day after.
#[test]
fn a_name_leads_where_the_last_change_says() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let leads = |spool: &Spool, lane| {
        for _ in 0..2 {
            let found = spool.room_by_name("home@x").unwrap();
            assert_eq!(found, lane, "asked twice, as the second recipient of a message would");
        }
    };
    let alias = || "home@x".to_owned();
    leads(&spool, None);
    let (a, b) = (spool.register("a", NOW).unwrap(), spool.register("b", NOW).unwrap());
    leads(&spool, None);
    spool.change_mailbox("a", MailboxChange::AddAlias(alias())).unwrap();
    leads(&spool, Some((a, "a".to_owned())));
    spool.change_mailbox("a", MailboxChange::RemoveAlias(alias())).unwrap();
    leads(&spool, None);
    spool.change_mailbox("b", MailboxChange::AddAlias(alias())).unwrap();
    leads(&spool, Some((b, "b".to_owned())));
    spool.close(NOW).unwrap();
    drop(spool);
    let mut spool = open(&disk.kill(), &index);
    leads(&spool, Some((b, "b".to_owned())));
    spool.change_mailbox("b", MailboxChange::RemoveAlias(alias())).unwrap();
    leads(&spool, None);
}

/// The journal is read once, and a kill right after the start does not make the next one read it again.
#[test]
fn index_that_was_built_anew_counts_at_once() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let a = spool.register("a", NOW).unwrap();
    for n in 1..100 {
        put(&mut spool, n, &[a], b"one of many").unwrap();
    }
    drop(spool);
    let (disk, index) = (disk.kill(), Arc::new(MemoryIndex::new()));
    let often = Options { checkpoint_bytes: 1024, ..options() };
    let open =
        |disk: &SimDisk| Spool::open(Arc::new(disk.clone()), index.clone(), often.clone(), NOW).unwrap();
    let (spool, recovery) = open(&disk);
    assert!(recovery.rebuilt_index);
    drop(spool);
    let (mut spool, recovery) = open(&disk.kill());
    assert_eq!((recovery.rebuilt_index, recovery.records), (false, 0));
    let s = session(&mut spool, a);
    assert_eq!(lent(&mut spool, s).len(), 99);
}

#[test]
fn uncommitted_body_is_absent_after_a_crash() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    spool.register("a", NOW).unwrap();
    let mut builder = ChunkBuilder::new(id(1), spool.reader().seed());
    builder.take(b"half a mess");
    let chunk = builder.finish();
    spool.stage_chunk(id(1), chunk).unwrap();
    spool.commit(NOW).unwrap();
    drop(spool);
    let spool = open(&disk.kill(), &index);
    assert_eq!(spool.list(&Filter::default(), None, 10).unwrap().0, []);
    assert_eq!(spool.item(id(1)).unwrap(), None);
}

#[test]
fn quota_revocation_and_floor_refuse_and_leave_nothing() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let (a, b) = (spool.register("a", NOW).unwrap(), spool.register("b", NOW).unwrap());
    spool.change_mailbox("a", MailboxChange::Quota { items: Some(1), bytes: None }).unwrap();
    put(&mut spool, 1, &[a], b"fits").unwrap();
    assert_eq!(put(&mut spool, 2, &[b, a], b"does not"), Err(AcceptError::OverQuota), "K7 all or nothing");
    assert_eq!(spool.room(a), Err(AcceptError::OverQuota));
    assert_eq!(spool.room(b), Ok(()));
    spool.change_mailbox("a", MailboxChange::Quota { items: None, bytes: Some(20) }).unwrap();
    put(&mut spool, 5, &[b, a], b"more than is left, and nobody else has to wait for that").unwrap(); // H7
    assert_eq!(spool.room(a), Err(AcceptError::OverQuota));
    assert_eq!(put(&mut spool, 6, &[a], b""), Err(AcceptError::OverQuota));
    spool.change_mailbox("b", MailboxChange::Revoke).unwrap();
    assert_eq!(put(&mut spool, 3, &[b], b"x"), Err(AcceptError::Revoked));
    assert_eq!(put(&mut spool, 4, &[LaneId(99)], b"x"), Err(AcceptError::UnknownLane));
    assert_eq!(spool.list(&Filter::default(), None, 10).unwrap().0.len(), 3);
}

#[test]
fn nacked_item_waits_for_its_time_and_is_parked_at_last() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    put(&mut spool, 1, &[lane], b"poison").unwrap();
    put(&mut spool, 2, &[lane], b"fine").unwrap();
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s), [1, 2]);
    for round in 1..=5 {
        let told = spool.nack(s, id(1), 1000, NOW).unwrap();
        let parked = NackOutcome::Parked("refused 5 times by the gateway".to_owned());
        assert_eq!(told, if round < 5 { NackOutcome::PutOff } else { parked });
        spool.commit(NOW).unwrap();
        let leased = spool.lease(s, ROOM, NOW).unwrap();
        assert_eq!(leased.items, []);
        let due = spool.lease(s, ROOM, NOW.plus(1000)).unwrap();
        if round < 5 {
            assert_eq!(leased.retry_at, Some(NOW.plus(1000)));
            assert_eq!(due.items.len(), 1);
        } else {
            assert_eq!(due.items.len(), 0, "X12: parked, visible, the rest flows");
        }
    }
    assert_eq!(spool.item(id(1)).unwrap().unwrap().state, State::Held);
    assert_eq!(spool.nack(s, id(1), 1000, NOW), Ok(NackOutcome::Ignored), "it is not lent any more");
    assert_eq!(spool.ack(s, id(2), NOW), Ok(AckOutcome::Acked));
}

#[test]
fn an_item_that_the_relay_could_not_read_is_put_off_as_often_as_it_takes() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    put(&mut spool, 1, &[lane], b"on a bad sector").unwrap();
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s), [1]);
    for round in 0..20 {
        let now = NOW.plus(1000 * round);
        spool.put_off(s, id(1), 1000, now).unwrap();
        let leased = spool.lease(s, ROOM, now).unwrap();
        assert_eq!((leased.items, leased.retry_at), (vec![], Some(now.plus(1000))));
        assert_eq!(spool.lease(s, ROOM, now.plus(1000)).unwrap().items.len(), 1, "round {round}");
    }
    let item = spool.item(id(1)).unwrap().unwrap();
    assert_eq!((item.state, spool.refusals(&item)), (State::Ready, None), "no refusal of its gateway");
    let told = spool.nack(s, id(1), 1000, NOW).unwrap();
    assert_eq!(told, NackOutcome::PutOff, "the first refusal");
}

#[test]
fn an_item_put_off_by_a_clock_that_ran_ahead_is_offered_once_it_is_right() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    put(&mut spool, 1, &[lane], b"later").unwrap();
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s), [1]);
    spool.nack(s, id(1), u64::MAX, NOW).unwrap();
    assert_eq!(spool.lease(s, ROOM, NOW).unwrap().retry_at, Some(NOW.plus(DEFER_MS_MAX)));
    assert_eq!(spool.lease(s, ROOM, NOW.plus(DEFER_MS_MAX)).unwrap().items.len(), 1);
    spool.nack(s, id(1), 1000, NOW.plus(365 * DEFER_MS_MAX)).unwrap();
    spool.commit(NOW).unwrap();
    assert_eq!(lent(&mut spool, s), [1]);
}

#[test]
fn what_lies_behind_an_item_that_was_just_held_goes_on_after_the_commit() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    for n in 1..=3 {
        put(&mut spool, n, &[lane], b"x").unwrap();
    }
    let rung = Arc::new(AtomicUsize::new(0));
    let bell = Arc::clone(&rung);
    let ring = move || {
        bell.fetch_add(1, Ordering::Relaxed);
    };
    let s = spool.open_session(lane, Arc::new(ring)).unwrap();
    spool.commit(NOW).unwrap();
    assert_eq!(spool.lease(s, Room { items: 1, ..ROOM }, NOW).unwrap().items.len(), 1);
    assert_eq!(spool.ack(s, id(1), NOW), Ok(AckOutcome::Acked));
    spool.apply_verb(id(2), Verb::Hold, "", NOW).unwrap();
    assert_eq!(lent(&mut spool, s), Vec::<u64>::new());
    let before = rung.load(Ordering::Relaxed);
    spool.commit(NOW).unwrap();
    assert!(rung.load(Ordering::Relaxed) > before, "nobody would ask again");
    assert_eq!(lent(&mut spool, s), [3]);
}

#[test]
fn replay_offers_acked_items_again_in_order() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    for n in 1..=5 {
        put(&mut spool, n, &[lane], b"x").unwrap();
    }
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s).len(), 5);
    for n in 1..=5 {
        spool.ack(s, id(n), NOW).unwrap();
    }
    spool.commit(NOW).unwrap();
    assert_eq!(
        spool.replay(lane, ReplayFrom::Seq(Seq(3)), None, NOW),
        Ok(Replayed { items: 3, go_on: None })
    );
    spool.commit(NOW).unwrap();
    assert_eq!(lent(&mut spool, s), [3, 4, 5]);
}

#[test]
fn newer_session_takes_over_and_the_older_one_is_told() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    put(&mut spool, 1, &[lane], b"x").unwrap();
    let old = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, old), [1]);
    let rings = Arc::new(AtomicUsize::new(0));
    let bell = rings.clone();
    let new = spool
        .open_session(
            lane,
            Arc::new(move || {
                bell.fetch_add(1, Ordering::SeqCst);
            }),
        )
        .unwrap();
    assert_eq!(spool.lease(old, ROOM, NOW), Err(RequestError::NoSession));
    spool.commit(NOW).unwrap();
    assert_eq!(rings.load(Ordering::SeqCst), 1, "a fresh session is rung once for what waits");
    assert_eq!(lent(&mut spool, new), [1]);
    put(&mut spool, 2, &[lane], b"y").unwrap();
    assert_eq!(rings.load(Ordering::SeqCst), 2);
}

/// What a spool does by itself, until there is no more of it.
fn upkeep(spool: &mut Spool, now: WallMs) {
    for _ in 0..50 {
        spool.maintain(now).unwrap();
        spool.commit(now).unwrap();
        while spool.compact_step(1 << 20, Effort::Busy, now).unwrap() {
            spool.commit(now).unwrap();
        }
        spool.commit(now).unwrap();
        if let Some(job) = spool.begin_checkpoint(now).unwrap() {
            let result = job.run();
            spool.end_checkpoint(&job, result).unwrap();
        }
    }
}

#[test]
fn expiry_retention_and_compaction_give_space_back_and_keep_what_lives() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let (a, b) = (spool.register("a", NOW).unwrap(), spool.register("b", NOW).unwrap());
    let later = NOW.plus(8 * 86_400_000);
    let invitation = |code, until| Invitation { code_sha256: [code; 32], until, ..Invitation::default() };
    spool.invite(&invitation(1, later.plus(1)), NOW).unwrap();
    spool.invite(&invitation(2, NOW), NOW).unwrap();
    spool.withdraw(&[2; 32], NOW).unwrap();
    put(&mut spool, 1, &[a, b], &[1; 3000]).unwrap();
    let s = session(&mut spool, a);
    for n in 10..210_u8 {
        put(&mut spool, n, &[a], &[n; 3000]).unwrap();
        lent(&mut spool, s);
        spool.ack(s, id(n), NOW).unwrap();
    }
    spool.commit(NOW).unwrap();
    let segments_before = spool.segment_numbers().len();
    assert!(segments_before > 8, "{segments_before}");
    upkeep(&mut spool, later);
    let segments = spool.segment_numbers().len();
    assert!(segments <= 3, "{segments} of {segments_before} left");
    for keep_index in [true, false] {
        let index = if keep_index { index.clone() } else { Arc::new(MemoryIndex::new()) };
        drop(spool);
        spool = open(&disk.kill(), &index);
        // Retired items may be seen again as acked when the index is rebuilt, until the next sweep.
        let ready = Filter { states: vec![State::Ready], ..Filter::default() };
        assert_eq!(spool.list(&ready, None, 100).unwrap().0.len(), 2, "index {keep_index}");
        assert_eq!(body_of(&spool, 1), [1; 3000]);
        let mut open: Vec<_> = spool.invitations().unwrap().iter().map(|i| i.ended.is_none()).collect();
        open.sort_unstable();
        assert_eq!(open, [false, true], "invitations are not lost with their segments");
        assert_eq!(spool.verify_lane(a).unwrap(), None);
        let mailbox = spool.mailbox("a").unwrap().unwrap();
        assert_eq!(mailbox.stats.next_seq, Seq(202), "a seq is never reused");
        let s = session(&mut spool, a);
        assert_eq!(lent(&mut spool, s), [1]);
    }
}

#[test]
fn retired_item_whose_body_went_stays_away_when_the_index_is_built_anew() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let (a, b) = (spool.register("a", NOW).unwrap(), spool.register("b", NOW).unwrap());
    // Two pieces, and the first one fills a segment of its own. What stays keeps the segment of the item's record.
    put(&mut spool, 1, &[a, b], &[1; 70_000]).unwrap();
    put(&mut spool, 10, &[a], &[10; 30_000]).unwrap();
    let chunks = spool.item(id(1)).unwrap().unwrap().chunks;
    let segments: Vec<_> = chunks.iter().map(|chunk| Lsn(chunk.lsn).segment()).collect();
    assert!(matches!(segments[..], [first, last] if first < last), "{segments:?}");
    for (lane, n) in [(a, 1), (b, 2)] {
        let s = session(&mut spool, lane);
        lent(&mut spool, s);
        assert_eq!(spool.ack(s, id(n), NOW), Ok(AckOutcome::Acked));
    }
    spool.commit(NOW).unwrap();
    upkeep(&mut spool, NOW.plus(8 * 86_400_000));
    let left = spool.segment_numbers();
    assert!(!left.contains(&segments[0]) && left.contains(&segments[1]), "{left:?} of {segments:?}");
    drop(spool);
    // Whoever keeps items for longer now must not be promised what is gone.
    let (disk, options) = (Arc::new(disk.kill()), Options { retain_ms: u64::MAX, ..options() });
    let mut spool = Spool::open(disk, Arc::new(MemoryIndex::new()), options, NOW).unwrap().0;
    let listed = spool.list(&Filter::default(), None, 10).unwrap().0;
    for item in &listed {
        assert_eq!(spool.reader().check_body(item), Ok(()), "{:?}", item.state);
    }
    assert_eq!(listed.iter().map(|item| item.id).collect::<Vec<_>>(), [id(10)]);
    assert_eq!(spool.replay(a, ReplayFrom::Seq(Seq(1)), None, NOW).map(|done| done.items), Ok(0));
}

#[test]
fn item_that_is_retired_by_a_record_waits_for_space_and_holds_up_nobody() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    put(&mut spool, 1, &[lane], &[1; 70_000]).unwrap();
    put(&mut spool, 2, &[lane], b"in one segment").unwrap();
    put(&mut spool, 3, &[lane], b"waits").unwrap();
    let s = session(&mut spool, lane);
    lent(&mut spool, s);
    for n in [1, 2] {
        spool.ack(s, id(n), NOW).unwrap();
    }
    spool.commit(NOW).unwrap();
    disk.set_capacity(0);
    // Records of the same size, until the reserve has none of it left.
    let mut verbs = [Verb::Hold, Verb::Release].into_iter().cycle();
    let full = verbs.find_map(|verb| spool.apply_verb(id(3), verb, "", NOW).err());
    assert!(matches!(full, Some(RequestError::Spool(SpoolError::Io { .. }))), "{full:?}");
    spool.commit(NOW).unwrap();
    let later = NOW.plus(8 * 86_400_000);
    assert_eq!(spool.maintain(later).map(|done| done.retired), Ok(1));
    let left = spool.list(&Filter::default(), None, 10).unwrap().0;
    assert_eq!(left.iter().map(|item| item.id).collect::<Vec<_>>(), [id(1), id(3)]);
    disk.set_capacity(100 * 1024 * 1024);
    assert_eq!(spool.maintain(later).map(|done| done.retired), Ok(1));
    assert_eq!(spool.commit(later), Ok(()));
}

#[test]
fn second_process_is_refused() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let _spool = open(&disk, &index);
    let second = Spool::open(Arc::new(disk.clone()), index, options(), NOW);
    assert_eq!(second.err(), Some(SpoolError::Locked), "W11");
}

/// An empty message that can be told from others.
fn distinct(lane: LaneId, n: u16) -> NewMessage {
    let mut name = [0; 32];
    name[..2].copy_from_slice(&n.to_be_bytes());
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    NewMessage {
        body: ItemId(id),
        body_bytes: 0,
        sha256: Sha256::digest(b"").into(),
        head: Vec::new(),
        meta: Vec::new(),
        fingerprint: Some(name),
        targets: vec![Target { lane, id: ItemId(id), tag: Vec::new() }],
    }
}

#[test]
fn message_accepted_just_before_a_crash_is_a_twin_afterwards() {
    for checkpoint in [false, true] {
        let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
        let mut spool = open(&disk, &index);
        let lane = spool.register("a", NOW).unwrap();
        let later = NOW.plus(60_000);
        let newest = 1 + crate::unheard::ALWAYS as u16;
        for n in 1..=newest {
            let now = if n == 1 { NOW } else { later };
            spool.accept(distinct(lane, n), now).unwrap();
            spool.commit(now).unwrap();
        }
        if checkpoint {
            let job = spool.begin_checkpoint(later).unwrap().unwrap();
            let result = job.run();
            spool.end_checkpoint(&job, result).unwrap();
        }
        drop(spool);
        for _ in 0..2 {
            let spool = open(&disk.kill(), &index);
            let twin = |n: u16| spool.twin(&distinct(lane, n).fingerprint.unwrap(), later).unwrap();
            assert_eq!(twin(newest), Some(distinct(lane, newest).body), "Q30 over a crash, {checkpoint}");
            assert_eq!(twin(1), None, "that sender has heard us");
        }
    }
}

#[test]
fn clock_that_jumps_before_a_crash_hides_no_twin() {
    const DAY_MS: u64 = 86_400_000;
    for (accepted, after) in [(NOW, NOW.plus(3 * DAY_MS)), (NOW.plus(3 * DAY_MS), NOW)] {
        let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
        let mut spool = open(&disk, &index);
        let lane = spool.register("a", accepted).unwrap();
        for (n, now) in [(1, accepted), (2, after)] {
            spool.accept(distinct(lane, n), now).unwrap();
            spool.commit(now).unwrap();
        }
        drop(spool);
        let spool = Spool::open(Arc::new(disk.kill()), index, options(), after).unwrap().0;
        for n in [1, 2] {
            let message = distinct(lane, n);
            assert_eq!(spool.twin(&message.fingerprint.unwrap(), after), Ok(Some(message.body)));
        }
    }
}

#[test]
fn twin_is_remembered_across_a_restart_and_forgotten_in_time() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    spool.remember_twin([5; 32], id(1), NOW.plus(1000)).unwrap();
    spool.commit(NOW).unwrap();
    drop(spool);
    let spool = open(&disk.kill(), &index);
    assert_eq!(spool.twin(&[5; 32], NOW), Ok(Some(id(1))));
    assert_eq!(spool.twin(&[5; 32], NOW.plus(1000)), Ok(None));
    assert_eq!(spool.twin(&[6; 32], NOW), Ok(None));
}

#[test]
fn full_disk_refuses_intake_lets_acks_through_and_recovers_without_restart() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    spool.commit(NOW).unwrap();
    disk.set_capacity(3 * 1024 * 1024);
    let mut accepted = 0;
    let refused = loop {
        match put(&mut spool, accepted + 1, &[lane], &[7; 60_000]) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AcceptError::NoSpace, "H6, U7");
    assert!(accepted > 5, "{accepted}");
    assert_eq!(spool.healthy(), Ok(()), "nothing was written, so nothing is poisoned");
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s).len(), accepted as usize);
    assert_eq!(spool.ack(s, id(1), NOW), Ok(AckOutcome::Acked));
    spool.commit(NOW).unwrap();
    disk.set_capacity(100 * 1024 * 1024);
    assert!(put(&mut spool, 100, &[lane], &[7; 60_000]).is_ok(), "space came back");
    drop(spool);
    let mut spool = open(&disk.kill(), &index);
    let s = session(&mut spool, lane);
    assert_eq!(lent(&mut spool, s).len(), accepted as usize, "all that was accepted but the acked one");
}

#[test]
fn failed_sync_poisons_and_the_restart_has_what_was_answered() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    put(&mut spool, 1, &[lane], b"answered").unwrap();
    disk.fail_at(disk.ops() + 1, Fault::Io); // the write goes through, the sync fails
    let failed = put(&mut spool, 2, &[lane], b"never answered");
    assert!(matches!(failed, Err(AcceptError::Spool(SpoolError::Io { .. }))), "{failed:?}");
    let after = put(&mut spool, 3, &[lane], b"x");
    assert!(matches!(after, Err(AcceptError::Spool(SpoolError::Poisoned { .. }))), "W2: {after:?}");
    drop(spool);
    for seed in 0..20 {
        let index = Arc::new(MemoryIndex::new());
        let mut spool = open(&disk.crash(seed), &index);
        let s = session(&mut spool, lane);
        let seqs = lent(&mut spool, s);
        assert!(seqs == [1] || seqs == [1, 2], "whole or absent: {seqs:?}");
    }
}

#[test]
fn damaged_item_is_stepped_over_and_its_neighbours_are_served() {
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let mut spool = open(&disk, &index);
    let lane = spool.register("a", NOW).unwrap();
    for n in 1..=3 {
        put(&mut spool, n, &[lane], &[n; 100]).unwrap();
    }
    spool.close(NOW).unwrap();
    drop(spool);
    let file = disk.files().into_iter().find(|name| name.ends_with(".wsj")).unwrap();
    let bytes = disk.contents(&file).unwrap();
    let body = bytes.windows(100).position(|w| w == [2; 100]).unwrap();
    // The item record follows its chunk: flip a bit behind it.
    assert!(disk.flip(&file, body as u64 + 100 + 4 + 40, 3));
    for keep_index in [true, false] {
        let index = if keep_index { index.clone() } else { Arc::new(MemoryIndex::new()) };
        let disk = disk.kill();
        let (mut spool, recovery) = Spool::open(Arc::new(disk.clone()), index, options(), NOW).unwrap();
        assert_eq!(recovery.damaged.len(), usize::from(!keep_index), "found when it is read");
        let plan = spool.verify_plan();
        let found: usize = plan.segments().map(|n| plan.check_segment(n).unwrap().damaged.len()).sum();
        assert_eq!(found, 1, "W5: verify finds it");
        let s = session(&mut spool, lane);
        assert_eq!(lent(&mut spool, s), [1, 3]);
        if keep_index {
            spool.commit(NOW).unwrap();
            let mailbox = spool.mailbox("a").unwrap().unwrap();
            assert_eq!(mailbox.stats.items[4], 1, "quarantined, counted");
            let quarantined = Filter { states: vec![State::Quarantined], ..Filter::default() };
            let listed = spool.list(&quarantined, None, 10).unwrap().0;
            assert_eq!(
                listed.iter().map(|item| item.seq.0).collect::<Vec<_>>(),
                [2],
                "never silently skipped"
            );
        }
    }
}
