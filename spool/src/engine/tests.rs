//! What is answered when, and what is stable then.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use super::{Answer, Engine, Observer, Unobserved};
use crate::disk::sim::SimDisk;
use crate::error::{AcceptError, SpoolError};
use crate::ids::WallMs;
use crate::index::memory::MemoryIndex;
use crate::spool::{Options, Spool};

struct Tells(SyncSender<SpoolError>);

impl Observer for Tells {
    fn committed(&mut self, _: usize, _: u64, _: u64) {}
    fn upkeep(&mut self, _: &Spool, _: &crate::upkeep::Upkeep) {}
    fn segments_removed(&mut self, _: &[u32]) {}
    fn poisoned(&mut self, error: &SpoolError) {
        let _ = self.0.try_send(error.clone());
    }
    fn micros(&mut self) -> u64 {
        0
    }
}

#[test]
fn what_speaks_of_stable_things_is_answered_before_the_commit_that_others_wait_for() {
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
    let index = Arc::new(MemoryIndex::new());
    let (spool, _) = Spool::open(Arc::new(SimDisk::new()), index, options, WallMs(1)).unwrap();
    let engine = Engine::start(spool, Arc::new(|| WallMs(1)), Unobserved).unwrap();
    let (tell, told) = sync_channel(2);
    let (go, wait) = sync_channel::<()>(1);
    let (called, prompted) = (tell.clone(), tell);
    let call = move |spool: &mut Spool| -> Answer {
        wait.recv().unwrap();
        spool.register("a", WallMs(1)).unwrap();
        Box::new(move |outcome| called.send(outcome.is_ok().then_some("call")).unwrap())
    };
    engine.handle().call(Box::new(call)).unwrap();
    let prompt = move |_: &mut Spool| {
        prompted.send(Some("prompt")).unwrap();
        None
    };
    engine.handle().prompt(Box::new(prompt)).unwrap();
    go.send(()).unwrap();
    assert_eq!([told.recv().unwrap(), told.recv().unwrap()], [Some("prompt"), Some("call")]);
}

/// Tells how many requests each commit had.
struct Counts(SyncSender<usize>);

impl Observer for Counts {
    fn committed(&mut self, requests: usize, _: u64, _: u64) {
        let _ = self.0.send(requests);
    }
    fn upkeep(&mut self, _: &Spool, _: &crate::upkeep::Upkeep) {}
    fn segments_removed(&mut self, _: &[u32]) {}
    fn poisoned(&mut self, _: &SpoolError) {}
    fn micros(&mut self) -> u64 {
        0
    }
}

#[test]
fn what_was_staged_without_waiting_is_stable_soon_and_shares_a_commit_with_whoever_needs_one() {
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
    let (disk, index) = (SimDisk::new(), Arc::new(MemoryIndex::new()));
    let (spool, _) = Spool::open(Arc::new(disk.clone()), index, options.clone(), WallMs(1)).unwrap();
    let (tell, told) = sync_channel(8);
    let engine = Engine::start(spool, Arc::new(|| WallMs(1)), Counts(tell)).unwrap();
    let (handle, patience) = (engine.handle(), Duration::from_secs(10));
    let register = |name: &'static str| {
        Box::new(move |spool: &mut Spool| {
            spool.register(name, WallMs(1)).unwrap();
            let answer: Answer = Box::new(|outcome| outcome.unwrap());
            Some(answer)
        })
    };
    handle.prompt(register("alone")).unwrap();
    assert_eq!(told.recv_timeout(patience), Ok(1));
    let (go, wait) = sync_channel::<()>(1);
    handle.query(Box::new(move |_| wait.recv().unwrap())).unwrap();
    handle.prompt(register("first")).unwrap();
    handle.prompt(register("second")).unwrap();
    let call = |spool: &mut Spool| -> Answer {
        spool.register("third", WallMs(1)).unwrap();
        Box::new(|outcome| outcome.unwrap())
    };
    handle.call(Box::new(call)).unwrap();
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(patience), Ok(3));
    let (spool, _) =
        Spool::open(Arc::new(disk.kill()), Arc::new(MemoryIndex::new()), options, WallMs(1)).unwrap();
    for name in ["alone", "first", "second", "third"] {
        assert!(spool.mailbox(name).unwrap().is_some(), "{name}");
    }
}

#[test]
fn mail_is_taken_until_the_thread_has_ended() {
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
    let index = Arc::new(MemoryIndex::new());
    let disk = SimDisk::new();
    let (spool, _) = Spool::open(Arc::new(disk), index, options, WallMs(1)).unwrap();
    let engine = Engine::start(spool, Arc::new(|| WallMs(1)), Unobserved).unwrap();
    let handle = engine.handle();
    assert_eq!(handle.accepts(), Ok(()));
    let fuller = Options { min_free_bytes: u64::MAX, ..Options::default() };
    handle.run(move |spool| spool.set_terms(&fuller)).unwrap();
    assert_eq!(handle.accepts(), Err(AcceptError::NoSpace), "as soon as the change is answered");
    engine.stop().unwrap();
    assert_eq!(handle.accepts(), Err(AcceptError::Spool(SpoolError::Closed)));
}

#[test]
fn panic_on_the_ledgers_thread_is_told_and_answers_nobody() {
    let (tell, told) = sync_channel(1);
    let options = Options { segment_bytes: 64 * 1024, min_free_bytes: 0, ..Options::default() };
    let index = Arc::new(MemoryIndex::new());
    let (spool, _) = Spool::open(Arc::new(SimDisk::new()), index, options, WallMs(1)).unwrap();
    let engine = Engine::start(spool, Arc::new(|| WallMs(1)), Tells(tell)).unwrap();
    let answer = engine.handle().run(|_: &mut Spool| panic!("a bug"));
    assert_eq!(answer, Err::<(), _>(SpoolError::Closed));
    let error = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(matches!(error, SpoolError::Poisoned { .. }), "{error:?}");
}
