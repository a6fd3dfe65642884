//! Submissions through their life, across restarts, and what must be refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::accept::ChunkBuilder;
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::index::Index;
use crate::index::memory::MemoryIndex;
use crate::spool::{Options, Recovery};
use crate::types::{Filter, Verb};

const NOW: WallMs = WallMs(1_000_000);

fn options() -> Options {
    Options { segment_bytes: 64 * 1024, min_free_bytes: 0, retain_results_ms: 50_000, ..Options::default() }
}

fn open(disk: &Arc<SimDisk>) -> (Spool, Recovery) {
    let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
    let disk: Arc<dyn Disk> = disk.clone();
    Spool::open(disk, index, options(), NOW).unwrap()
}

struct Post {
    disk: Arc<SimDisk>,
    spool: Spool,
    mailbox: LaneId,
    ids: u8,
}

impl Post {
    fn new() -> Self {
        let disk = Arc::new(SimDisk::new());
        let (mut spool, _) = open(&disk);
        let mailbox = spool.register("home", NOW).unwrap();
        Self { disk, spool, mailbox, ids: 0 }
    }

    fn id(&mut self) -> ItemId {
        self.ids += 1;
        ItemId::new(NOW, [self.ids; 10])
    }

    fn new_submission(&mut self, key: u8, destination: &str, body: &[u8]) -> NewSubmission {
        let id = self.id();
        let mut chunk = ChunkBuilder::new(id, self.spool.reader().seed());
        chunk.take(body);
        self.spool.stage_chunk(id, chunk.finish()).unwrap();
        NewSubmission {
            message: NewMessage {
                body: id,
                body_bytes: body.len() as u64,
                sha256: <sha2::Sha256 as sha2::Digest>::digest(body).into(),
                head: b"Received: x\r\n".to_vec(),
                meta: vec![7],
                fingerprint: None,
                targets: Vec::new(),
            },
            mailbox: self.mailbox,
            tag: b"bob@dest.example".to_vec(),
            key: [key; 32],
            key_until: NOW.plus(1_000_000),
            twin: None,
            destination: destination.to_owned(),
            due: NOW,
            settled: None,
        }
    }

    fn submit(&mut self, key: u8, destination: &str) -> ItemId {
        let new = self.new_submission(key, destination, b"From: a\r\n\r\nhello");
        let Submitted::New(id) = self.spool.submit(new, NOW).unwrap() else { panic!("not new") };
        self.spool.commit(NOW).unwrap();
        id
    }

    fn state(&self, id: ItemId) -> State {
        self.spool.submission(id).unwrap().unwrap().info.state
    }

    /// Kills the process and starts again, without an index.
    fn restart(mut self) -> (Self, Recovery) {
        drop(self.spool);
        let (spool, recovery) = open(&self.disk);
        self.spool = spool;
        (self, recovery)
    }
}

#[test]
fn nothing_is_armed_without_room_for_its_result() {
    let mut post = Post::new(); // U7
    let ids = [1, 2, 3].map(|key| post.submit(key, "a.example"));
    post.spool.arm(ids[0], "mx.a.example", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    post.disk.set_capacity(0);
    assert_eq!(post.spool.carries(), Ok(()), "the active segment has room");
    let words = "busy ".repeat(100);
    while post.spool.carries().is_ok() {
        post.spool.postpone(ids[2], NOW, &words, NOW).unwrap();
        post.spool.commit(NOW).unwrap();
    }
    let full = post.spool.arm(ids[1], &words, NOW);
    assert!(matches!(full, Err(RequestError::Spool(SpoolError::Io { .. }))), "{full:?}");
    assert_eq!(post.state(ids[1]), State::Ready);
    post.spool.settle(ids[0], Settlement::Sent, "250 ok", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    assert_eq!(post.state(ids[0]), State::Sent);
    post.disk.set_capacity(100 * 1024 * 1024);
    assert_eq!(post.spool.carries(), Ok(()));
    post.spool.arm(ids[1], &words, NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    assert_eq!(post.state(ids[1]), State::Armed);
}

#[test]
fn a_submission_waits_under_its_destination_and_ends_once() {
    let mut post = Post::new();
    let (a, b) = (post.submit(1, "a.example"), post.submit(2, "b.example"));
    assert_eq!(
        post.spool.destinations(None, 9).unwrap(),
        [("a.example".to_owned(), NOW), ("b.example".to_owned(), NOW)]
    );
    assert_eq!(post.spool.destinations(Some("a.example"), 9).unwrap(), [("b.example".to_owned(), NOW)]);
    assert_eq!(post.spool.due("a.example", NOW, 9).unwrap(), [(a, NOW)]);
    post.spool.defer(a, NOW.plus(60_000), "450 later", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    assert!(post.spool.due("a.example", NOW, 9).unwrap().is_empty());
    assert_eq!(post.spool.due("a.example", NOW.plus(60_000), 9).unwrap(), [(a, NOW.plus(60_000))]);
    let settle = |spool: &mut Spool, to| spool.settle(a, to, "250 ok", NOW);
    assert!(settle(&mut post.spool, Settlement::Sent).is_err(), "it was never armed");
    post.spool.arm(a, "mx.a.example", NOW).unwrap();
    assert!(post.spool.arm(a, "twice", NOW).is_err());
    assert!(post.spool.postpone(a, NOW, "", NOW).is_err());
    settle(&mut post.spool, Settlement::Sent).unwrap();
    for to in [Settlement::Sent, Settlement::Failed, Settlement::Indeterminate] {
        assert!(settle(&mut post.spool, to).is_err(), "a result is written once");
    }
    post.spool.commit(NOW).unwrap();
    let submission = post.spool.submission(a).unwrap().unwrap();
    assert_eq!((submission.attempts, submission.told, submission.mailbox), (2, false, post.mailbox));
    assert_eq!((&*submission.destination, &*submission.mailbox_name), ("a.example", "home"));
    let story = post.spool.timeline(a).unwrap();
    let words: Vec<_> = story.iter().map(|step| (&*step.state, &*step.reason)).collect();
    let steps =
        [("ready", "accepted"), ("ready", "450 later"), ("armed", "mx.a.example"), ("sent", "250 ok")];
    assert_eq!(words, steps);
    assert_eq!(post.spool.untold(post.mailbox, None, 9).unwrap(), [a]);
    assert_eq!(post.state(b), State::Ready);
}

#[test]
fn the_story_has_the_steps_of_the_batch_under_way() {
    // Q21: a result that is asked for in the batch that makes it has the same words as ever after.
    let mut post = Post::new();
    let id = post.submit(1, "d.example");
    post.spool.arm(id, "mx", NOW).unwrap();
    post.spool.settle(id, Settlement::Indeterminate, "no answer", NOW).unwrap();
    let staged = post.spool.timeline(id).unwrap();
    assert_eq!(staged.last().map(|step| &*step.reason), Some("no answer"));
    post.spool.commit(NOW).unwrap();
    assert_eq!(post.spool.timeline(id).unwrap(), staged);
}

#[test]
fn what_was_armed_is_indeterminate_after_a_stop() {
    // Q0, Q13
    let mut post = Post::new();
    let (a, b) = (post.submit(1, "d.example"), post.submit(2, "d.example"));
    post.spool.arm(a, "", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    post.spool.arm(b, "", NOW).unwrap(); // never stable: nothing of it left
    let (post, recovery) = post.restart();
    assert_eq!(recovery.interrupted, [a]);
    assert_eq!((post.state(a), post.state(b)), (State::Indeterminate, State::Ready));
    assert_eq!(post.spool.due("d.example", NOW, 9).unwrap(), [(b, NOW)]);
    assert_eq!(post.spool.untold(post.mailbox, None, 9).unwrap(), [a]);
    let (post, recovery) = post.restart();
    assert_eq!((recovery.interrupted.len(), post.state(a)), (0, State::Indeterminate));
}

#[test]
fn what_did_not_leave_after_all_is_ready_and_counts_no_attempt() {
    let mut post = Post::new();
    let id = post.submit(1, "d.example");
    assert!(post.spool.disarm(id, NOW, "", NOW).is_err(), "it is not armed");
    post.spool.arm(id, "", NOW).unwrap();
    post.spool.disarm(id, NOW.plus(7), "", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    let (post, recovery) = post.restart();
    assert_eq!((recovery.interrupted.len(), post.state(id)), (0, State::Ready));
    assert_eq!(post.spool.submission(id).unwrap().unwrap().attempts, 0);
    assert_eq!(post.spool.due("d.example", NOW.plus(7), 9).unwrap(), [(id, NOW.plus(7))]);
}

#[test]
fn the_same_key_is_the_same_submission_in_the_same_batch_and_after_a_stop() {
    // Q20
    let mut post = Post::new();
    let first = post.new_submission(1, "d.example", b"one");
    let (again, other) =
        (post.new_submission(1, "d.example", b"one"), post.new_submission(1, "d.example", b"two"));
    let id = first.message.body;
    assert_eq!(post.spool.submit(first, NOW), Ok(Submitted::New(id)));
    assert_eq!(post.spool.submit(again, NOW), Ok(Submitted::Known(id)));
    assert_eq!(post.spool.submit(other, NOW), Ok(Submitted::Conflict(id)));
    post.spool.commit(NOW).unwrap();
    let (mut post, _) = post.restart();
    let again = post.new_submission(1, "d.example", b"one");
    let other = NewSubmission { tag: b"eve@d.example".to_vec(), ..again.clone() };
    assert_eq!(post.spool.submit(other, NOW), Ok(Submitted::Conflict(id)));
    assert_eq!(post.spool.submit(again, NOW), Ok(Submitted::Known(id)));
    assert_eq!(post.spool.due("d.example", NOW, 9).unwrap().len(), 1);
}

#[test]
fn a_repeat_under_another_key_is_a_twin_while_that_lasts() {
    let mut post = Post::new();
    let until = NOW.plus(120_000);
    let twin = Some(([9; 32], until));
    let first = NewSubmission { twin, ..post.new_submission(1, "d.example", b"one") };
    let id = first.message.body;
    assert_eq!(post.spool.submit(first, NOW), Ok(Submitted::New(id)));
    let again = NewSubmission { twin, ..post.new_submission(2, "d.example", b"one, dated anew") };
    assert_eq!(post.spool.submit(again, NOW), Ok(Submitted::Twin(id)));
    let late = NewSubmission { twin, ..post.new_submission(3, "d.example", b"one") };
    assert!(matches!(post.spool.submit(late, until), Ok(Submitted::New(_))));
}

#[test]
fn a_result_is_told_once_and_remembered() {
    // Q21
    let mut post = Post::new();
    let id = post.submit(1, "d.example");
    assert!(post.spool.tell(id, NOW).is_err(), "it has no result yet");
    post.spool.settle(id, Settlement::Failed, "5.1.1", NOW).unwrap();
    assert!(post.spool.untold(post.mailbox, None, 9).unwrap().is_empty(), "not stable yet");
    post.spool.commit(NOW).unwrap();
    assert!(post.spool.apply_verb(id, Verb::Purge, "", NOW).is_err(), "its gateway has not been told");
    assert_eq!(post.spool.tell(id, NOW), Ok(true));
    assert_eq!(post.spool.tell(id, NOW), Ok(false));
    post.spool.commit(NOW).unwrap();
    let (mut post, _) = post.restart();
    assert!(post.spool.untold(post.mailbox, None, 9).unwrap().is_empty());
    assert!(post.spool.submission(id).unwrap().unwrap().told);
    post.spool.apply_verb(id, Verb::Purge, "", NOW).unwrap();
    assert_eq!(post.state(id), State::Purged);
}

#[test]
fn mailboxes_with_untold_results_are_found_among_those_without() {
    let mut post = Post::new();
    let homes: Vec<_> = (0..9).map(|n| post.spool.register(&format!("home{n}"), NOW).unwrap()).collect();
    for (n, home) in homes.iter().enumerate() {
        post.mailbox = *home;
        // More than one result each, and some mailboxes whose submissions have none, or whose gateway has it.
        for key in 0..3 {
            let id = post.submit(10 * n as u8 + key, "d.example");
            if n % 3 > 0 {
                post.spool.settle(id, Settlement::Failed, "", NOW).unwrap();
            }
            if n % 3 == 1 {
                post.spool.tell(id, NOW).unwrap();
            }
        }
    }
    post.spool.commit(NOW).unwrap();
    let (post, _) = post.restart();
    let expected = [homes[2], homes[5], homes[8]];
    assert_eq!(post.spool.untold_mailboxes(None, 9).unwrap(), (expected.to_vec(), None));
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let (page, next) = post.spool.untold_mailboxes(behind, 1).unwrap();
        found.extend(page);
        behind = next;
        if behind.is_none() {
            break;
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn what_waits_to_leave_is_not_the_oldest_that_waits_for_a_gateway() {
    let mut post = Post::new();
    let outgoing = post.submit(1, "a.example");
    let later = NOW.plus(9);
    while !post.spool.maintain(later).unwrap().round_done {}
    let stats = post.spool.stats().unwrap();
    assert_eq!((post.state(outgoing), stats.oldest_ready), (State::Ready, None));
    let work = post.spool.register("work", NOW).unwrap();
    let mut new = post.new_submission(2, "mail.example", b"to a neighbour");
    let item = post.id();
    new.message.targets = vec![Target { lane: work, id: item, tag: b"work@mail.example".to_vec() }];
    new.settled = Some((Settlement::Sent, "delivered here".to_owned()));
    post.spool.submit(new, later).unwrap();
    post.spool.commit(later).unwrap();
    while !post.spool.maintain(later).unwrap().round_done {}
    assert_eq!(post.spool.stats().unwrap().oldest_ready, Some(later));
}

#[test]
fn results_known_at_once_and_local_items_come_in_one_record() {
    let mut post = Post::new();
    let work = post.spool.register("work", NOW).unwrap();
    let mut new = post.new_submission(1, "mail.example", b"to a neighbour");
    let item = post.id();
    new.message.targets = vec![Target { lane: work, id: item, tag: b"work@mail.example".to_vec() }];
    new.settled = Some((Settlement::Sent, "delivered here".to_owned()));
    let Ok(Submitted::New(id)) = post.spool.submit(new, NOW) else { panic!("refused") };
    post.spool.commit(NOW).unwrap();
    let (post, recovery) = post.restart();
    assert_eq!(recovery.interrupted, []);
    assert_eq!(post.state(id), State::Sent);
    assert_eq!(post.spool.timeline(id).unwrap()[0].reason, "delivered here");
    let arrived = post.spool.item(item).unwrap().unwrap();
    assert_eq!((arrived.state, &*arrived.lane_name, arrived.outbound), (State::Ready, "work", None));
    assert!(post.spool.destinations(None, 9).unwrap().is_empty());
    assert_eq!(post.spool.untold(post.mailbox, None, 9).unwrap(), [id]);
    let out = Filter { outbound: Some(true), ..Filter::default() };
    assert_eq!(post.spool.list(&out, None, 9).unwrap().0.len(), 1);
    assert_eq!(post.spool.mailboxes(None, 9).unwrap().len(), 2, "an outbox is no mailbox");
}

#[test]
fn held_ones_are_not_due_and_released_ones_are_due_at_once() {
    // Q18
    let mut post = Post::new();
    let id = post.submit(1, "d.example");
    post.spool.defer(id, NOW.plus(9_999_999), "later", NOW).unwrap();
    post.spool.apply_verb(id, Verb::Hold, "by hand", NOW).unwrap();
    assert!(post.spool.destinations(None, 9).unwrap().is_empty());
    assert!(post.spool.arm(id, "", NOW).is_err());
    post.spool.apply_verb(id, Verb::Release, "", NOW.plus(5)).unwrap();
    post.spool.commit(NOW).unwrap();
    let (mut post, _) = post.restart();
    assert_eq!(post.spool.due("d.example", NOW.plus(5), 9).unwrap(), [(id, NOW.plus(5))]);
    post.spool.apply_verb(id, Verb::Hold, "", NOW).unwrap();
    post.spool.settle(id, Settlement::Failed, "cancelled", NOW).unwrap();
    assert!(post.spool.apply_verb(id, Verb::Release, "", NOW).is_err());
}

#[test]
fn bells_ring_after_the_commit_and_not_before() {
    let mut post = Post::new();
    let (due, settled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (d, s) = (due.clone(), settled.clone());
    post.spool.set_outbound_bell(Arc::new(move || {
        d.fetch_add(1, Ordering::SeqCst);
    }));
    post.spool.set_results_bell(Arc::new(move |lane| {
        s.fetch_add(lane.0 as usize, Ordering::SeqCst);
    }));
    let new = post.new_submission(1, "d.example", b"x");
    let Ok(Submitted::New(id)) = post.spool.submit(new, NOW) else { panic!("refused") };
    assert_eq!(due.load(Ordering::SeqCst), 0);
    post.spool.commit(NOW).unwrap();
    assert_eq!((due.load(Ordering::SeqCst), settled.load(Ordering::SeqCst)), (1, 0));
    post.spool.settle(id, Settlement::Failed, "", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    assert_eq!((due.load(Ordering::SeqCst), settled.load(Ordering::SeqCst)), (1, post.mailbox.0 as usize));
}

#[test]
fn outboxes_cannot_be_registered_or_opened_from_outside() {
    let mut post = Post::new();
    post.submit(1, "d.example");
    assert!(post.spool.register(">home", NOW).is_err());
    let outbox = post.spool.outbox(post.mailbox).unwrap().unwrap();
    assert!(post.spool.open_session(outbox, Arc::new(|| {})).is_err());
    let new = NewSubmission { mailbox: outbox, ..post.new_submission(2, "d.example", b"x") };
    assert!(post.spool.submit(new, NOW).is_err());
}

/// Counters come back from the journal as from the index.
#[test]
fn submissions_are_counted_by_state_across_restarts() {
    for checkpoint in [false, true] {
        let disk = Arc::new(SimDisk::new());
        let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
        let open = || {
            let disk: Arc<dyn Disk> = disk.clone();
            Spool::open(disk, index.clone(), options(), NOW).unwrap().0
        };
        let mut spool = open();
        let mailbox = spool.register("home", NOW).unwrap();
        let mut post = Post { disk: disk.clone(), spool, mailbox, ids: 0 };
        let (failed, _) = (post.submit(1, "a.example"), post.submit(2, "a.example"));
        post.spool.settle(failed, Settlement::Failed, "550 no", NOW).unwrap();
        post.spool.commit(NOW).unwrap();
        let before = post.spool.stats().unwrap().submissions;
        assert_eq!((before[0], before[8]), (1, 1));
        if checkpoint {
            let job = post.spool.begin_checkpoint(NOW).unwrap().unwrap();
            let result = job.run();
            post.spool.end_checkpoint(&job, result).unwrap();
        }
        drop(post.spool);
        assert_eq!(open().stats().unwrap().submissions, before, "{checkpoint}");
    }
}

#[test]
fn queues_are_counted_by_destination_and_agree_with_the_states() {
    let mut post = Post::new();
    let ids: Vec<_> =
        [(1, "a.example"), (2, "b.example"), (3, "b.example"), (4, "c.example"), (5, "c.example")]
            .map(|(key, destination)| post.submit(key, destination))
            .to_vec();
    post.spool.apply_verb(ids[3], Verb::Hold, "", NOW).unwrap();
    post.spool.defer(ids[2], NOW.plus(9), "later", NOW).unwrap();
    post.spool.arm(ids[0], "mx", NOW).unwrap();
    post.spool.settle(ids[0], Settlement::Sent, "250 ok", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    let (queues, next) = post.spool.queues(None).unwrap();
    let seen: Vec<_> = queues.iter().map(|q| (q.destination.as_str(), q.queued, q.due)).collect();
    assert_eq!((seen, next), (vec![("b.example", 2, NOW), ("c.example", 1, NOW)], None));
    let outbox = post.spool.outbox(post.mailbox).unwrap().unwrap();
    assert_eq!(post.spool.untold_count(Some(outbox), 9), Ok(1));
    assert_eq!(post.spool.untold_count(None, 9), Ok(1));
    let all = |spool: &Spool| {
        let (mut problems, mut cursor) = spool.verify_queues(None).unwrap();
        while let Some(at) = cursor {
            let (more, next) = spool.verify_queues(Some(at)).unwrap();
            problems.extend(more);
            cursor = next;
        }
        problems.extend(spool.verify_outbox(outbox, Seq(1)).unwrap().0);
        problems
    };
    assert_eq!(all(&post.spool), Vec::<String>::new());

    // Each kind of disagreement is seen: one missing, one in the wrong queue, one twice.
    let (lane, seq) = post.spool.tail.place(ids[1]).unwrap().unwrap();
    let key = |due: WallMs| entry::due_key(b"b.example", due, lane, seq);
    post.spool.tail.remove(Tree::Due, &key(NOW));
    assert_eq!(all(&post.spool), ["seq 2 is ready and is not in queue due"]);
    post.spool.tail.put(Tree::Due, &key(NOW), ids[1].0.to_vec());
    post.spool.tail.put(Tree::Due, &key(NOW.plus(7)), ids[1].0.to_vec());
    assert_eq!(all(&post.spool).len(), 1);
    post.spool.tail.remove(Tree::Due, &key(NOW.plus(7)));
    post.spool.tail.put(Tree::Armed, &entry::place_key(lane, seq), ids[1].0.to_vec());
    assert_eq!(all(&post.spool).len(), 2, "from both sides");
}

#[test]
fn a_remark_changes_nothing_but_the_story() {
    let mut post = Post::new();
    let id = post.submit(1, "a.example");
    assert!(post.spool.remark(id, "too early", NOW).is_err());
    post.spool.settle(id, Settlement::Failed, "550 no", NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    post.spool.remark(id, "sent again", NOW.plus(1)).unwrap();
    post.spool.commit(NOW).unwrap();
    let check = |post: &Post| {
        let known = post.spool.submission(id).unwrap().unwrap();
        assert_eq!((known.info.state, known.told, known.attempts), (State::Failed, false, 0));
        assert_eq!(post.spool.untold(post.mailbox, None, 9).unwrap(), [id]);
        let notes: Vec<_> = post.spool.timeline(id).unwrap().into_iter().map(|t| t.reason).collect();
        assert_eq!(notes, ["accepted", "550 no", "sent again"]);
    };
    check(&post);
    let (post, _) = post.restart();
    check(&post);
}

#[test]
fn the_story_of_a_submission_outlives_the_segments_it_was_written_in() {
    let mut post = Post::new();
    let id = post.submit(1, "dest.example");
    // It lies among what lives on, and each of its steps in a segment that is otherwise garbage soon.
    for neighbour in 0..3 {
        let new = post.new_submission(200 + neighbour, "far.example", &[1; 20_500]);
        post.spool.submit(new, NOW).unwrap();
        post.spool.commit(NOW).unwrap();
    }
    for n in 0..4_u8 {
        let note = format!("attempt {n}");
        post.spool.defer(id, NOW, &note, NOW).unwrap();
        post.spool.commit(NOW).unwrap();
        for filler in 0..6 {
            let new = post.new_submission(10 + n * 6 + filler, "other.example", &[n; 20_000]);
            let Submitted::New(other) = post.spool.submit(new, NOW).unwrap() else { panic!("not new") };
            post.spool.commit(NOW).unwrap();
            post.spool.arm(other, "mx", NOW).unwrap();
            post.spool.settle(other, Settlement::Sent, "yes", NOW).unwrap();
            post.spool.commit(NOW).unwrap();
        }
    }
    post.spool.arm(id, "mx", NOW).unwrap();
    post.spool.settle(id, Settlement::Sent, "250 ok", NOW).unwrap();
    post.spool.tell(id, NOW).unwrap();
    post.spool.commit(NOW).unwrap();
    let reasons = |post: &Post| -> Vec<String> {
        post.spool.timeline(id).unwrap().into_iter().map(|step| step.reason).collect()
    };
    let whole = reasons(&post);
    assert_eq!(whole.len(), 8, "{whole:?}");
    let segments = post.spool.segment_numbers().len();
    for _ in 0..20 {
        while post.spool.compact_step(1 << 20, crate::Effort::AtRest, NOW).unwrap() {
            post.spool.commit(NOW).unwrap();
        }
        post.spool.commit(NOW).unwrap();
        if let Some(job) = post.spool.begin_checkpoint(NOW).unwrap() {
            let result = job.run();
            post.spool.end_checkpoint(&job, result).unwrap();
        }
    }
    assert!(post.spool.segment_numbers().len() < segments, "nothing was given back");
    assert_eq!(reasons(&post), whole);
    let (post, _) = post.restart();
    assert_eq!(reasons(&post), whole);
}
