//! The thread that owns a [`Spool`], and the handle by which others reach it.
//!
//! A request is a closure run on that thread. Requests that wait together share one commit: all are run,
//! what they staged is written and synced once, then every answer is given. An answer is therefore never
//! given before what it speaks of is stable. When the commit fails every answer of the batch is
//! [`SpoolError`], and so is every later one. Who needs no such promise is answered at once ([`Handle::prompt`]); what
//! he staged waits for company, at most [`COMPANY_MAX`], and he may hear of the commit, too.
//!
//! Whether mail is taken at all can be asked without a request ([`Handle::accepts`]): the thread says so after each
//! batch and each look at upkeep, and for good when it ends.
//!
//! The queue is bounded ([`QUEUE_MAX`]): a caller that may not block bounds its own requests below that.
//! Checkpoints and the preparing of spare segments run on a second thread, so that neither delays a commit.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::compact::Effort;
use crate::error::{AcceptError, SpoolError};
use crate::ids::WallMs;
use crate::index::Index;
use crate::spare::SpareJob;
use crate::spool::Spool;
use crate::tail::CheckpointJob;

#[cfg(test)]
mod tests;

/// Requests that may wait.
pub const QUEUE_MAX: usize = 8192;
/// Requests that share one commit at most.
pub const BATCH_REQUESTS_MAX: usize = 512;
/// Bytes that may be staged before they are written although nobody waits for them: pieces of bodies whose end is
/// still to come. Large enough that a sync costs little beside the bytes, small beside what memory may hold.
pub const STAGED_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// How long what a [`Prompt`] staged may wait for somebody who needs a commit: a sync for one ack costs as much as one for
/// many and a message.
pub const COMPANY_MAX: Duration = Duration::from_millis(10);
/// Pause between two looks at what upkeep there is to do.
const TICK: Duration = Duration::from_millis(200);
/// Bytes of a segment that one step of compaction reads.
const COMPACT_STEP_BYTES: u32 = 4 * 1024 * 1024;

/// What to do with the outcome of the commit.
pub type Answer = Box<dyn FnOnce(Result<(), SpoolError>) + Send>;
/// A request that may stage something.
pub type Call = Box<dyn FnOnce(&mut Spool) -> Answer + Send>;
/// A request that is answered at once, because it promises nothing about what it stages, or stages nothing. When it
/// staged something it says what to do after the commit.
pub type Prompt = Box<dyn FnOnce(&mut Spool) -> Option<Answer> + Send>;
/// A request that only reads; answered at once.
pub type Query = Box<dyn FnOnce(&Spool) + Send>;
/// Wall clock, handed in.
pub type Clock = Arc<dyn Fn() -> WallMs + Send + Sync>;

enum Request {
    Call(Call),
    Stage(Call),
    Prompt(Prompt),
    CheckpointDone(Box<CheckpointJob>, Result<(), SpoolError>),
    SpareDone(Result<u32, SpoolError>),
    TidyDone,
    Stop,
}

enum Chore {
    Checkpoint(Box<CheckpointJob>),
    Spare(SpareJob),
    Tidy(Arc<dyn Index>),
}

/// What the engine tells its owner, on its own thread. Must not block.
pub trait Observer: Send + 'static {
    /// A batch was made stable (`requests` answers are about to be given), in `micros` microseconds.
    fn committed(&mut self, requests: usize, bytes: u64, micros: u64);
    /// A step of upkeep did something.
    fn upkeep(&mut self, spool: &Spool, upkeep: &crate::upkeep::Upkeep);
    /// Segments went.
    fn segments_removed(&mut self, numbers: &[u32]);
    /// The spool is poisoned; said once.
    fn poisoned(&mut self, error: &SpoolError);
    /// Microseconds of a monotonic clock, for [`Observer::committed`].
    fn micros(&mut self) -> u64;
}

/// An observer that looks away.
#[derive(Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn committed(&mut self, _: usize, _: u64, _: u64) {}
    fn upkeep(&mut self, _: &Spool, _: &crate::upkeep::Upkeep) {}
    fn segments_removed(&mut self, _: &[u32]) {}
    fn poisoned(&mut self, _: &SpoolError) {}
    fn micros(&mut self) -> u64 {
        0
    }
}

/// What the thread last said of [`Spool::accepts`].
#[derive(Debug)]
struct Gate(Mutex<Result<(), AcceptError>>);

impl Gate {
    fn state(&self) -> Result<(), AcceptError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: Result<(), AcceptError>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Reaches the ledger's thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: SyncSender<Request>,
    gate: Arc<Gate>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// Runs `call`; blocks while the queue is full.
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the thread has ended.
    pub fn call(&self, call: Call) -> Result<(), SpoolError> {
        self.requests.send(Request::Call(call)).map_err(|_| SpoolError::Closed)
    }

    /// Runs `call` as [`Handle::call`] does, but its answer may wait for a commit that somebody else needs, for
    /// [`STAGED_BYTES_MAX`], or for the next tick. For pieces of a body, which mean nothing before its end.
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the thread has ended.
    pub fn stage(&self, call: Call) -> Result<(), SpoolError> {
        self.requests.send(Request::Stage(call)).map_err(|_| SpoolError::Closed)
    }

    /// Runs `prompt`; blocks while the queue is full. If it has an [`Answer`] to give, there is a commit within
    /// [`COMPANY_MAX`].
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the thread has ended.
    pub fn prompt(&self, prompt: Prompt) -> Result<(), SpoolError> {
        self.requests.send(Request::Prompt(prompt)).map_err(|_| SpoolError::Closed)
    }

    /// [`Spool::accepts`] as it was after the last batch; asks nobody and waits for nothing.
    ///
    /// # Errors
    /// [`AcceptError::NoSpace`], [`AcceptError::Spool`] when the spool is poisoned or its thread has ended.
    pub fn accepts(&self) -> Result<(), AcceptError> {
        self.gate.state()
    }

    /// Runs `query`; blocks while the queue is full.
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the thread has ended.
    pub fn query(&self, query: Query) -> Result<(), SpoolError> {
        self.prompt(Box::new(move |spool| {
            query(spool);
            None
        }))
    }

    /// Runs `call` if the queue has room; `Ok(false)` and `call` is dropped when it has none.
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the thread has ended.
    pub fn try_call(&self, call: Call) -> Result<bool, SpoolError> {
        match self.requests.try_send(Request::Call(call)) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => Err(SpoolError::Closed),
        }
    }

    /// Runs `f` on the ledger's thread and waits until what it staged is stable. For callers that may block.
    ///
    /// # Errors
    /// [`SpoolError`] of the commit, or [`SpoolError::Closed`].
    pub fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (answer, wait) = sync_channel(1);
        self.call(Box::new(move |spool| {
            let value = f(spool);
            Box::new(move |outcome| {
                let _ = answer.send(outcome.map(|()| value));
            })
        }))?;
        wait.recv().map_err(|_| SpoolError::Closed)?
    }
}

/// The running engine; dropping it stops the thread after what waits has been answered.
#[derive(Debug)]
pub struct Engine {
    handle: Handle,
    thread: Option<JoinHandle<Result<(), SpoolError>>>,
}

impl Engine {
    /// Gives `spool` a thread of its own.
    ///
    /// # Errors
    /// [`SpoolError::Io`] when the system has no thread to give.
    pub fn start(spool: Spool, clock: Clock, observer: impl Observer) -> Result<Self, SpoolError> {
        let (requests, queue) = sync_channel(QUEUE_MAX);
        let (chores, chore_queue) = sync_channel(3);
        let gate = Arc::new(Gate(Mutex::new(spool.accepts())));
        let io = |error: std::io::Error| SpoolError::io("start", "thread", &error);
        let back = requests.clone();
        let helper = std::thread::Builder::new()
            .name("spool-helper".to_owned())
            .spawn(move || run_chores(&chore_queue, &back))
            .map_err(io)?;
        let ledger = Ledger {
            spool,
            clock,
            observer,
            chores: Some(chores),
            helper: Some(helper),
            spare_asked: false,
            tidy_asked: false,
            told_poison: false,
            held: Vec::new(),
            patient_since: None,
            gate: Arc::clone(&gate),
        };
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || ledger.run(&queue))
            .map_err(io)?;
        Ok(Self { handle: Handle { requests, gate }, thread: Some(thread) })
    }

    /// Another handle.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers what waits, makes a last checkpoint and ends the thread.
    ///
    /// # Errors
    /// [`SpoolError`] when the last words could not be written.
    pub fn stop(mut self) -> Result<(), SpoolError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), SpoolError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let _ = self.handle.requests.send(Request::Stop);
        thread.join().map_err(|_| SpoolError::Closed)?
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn run_chores(queue: &Receiver<Chore>, back: &SyncSender<Request>) {
    while let Ok(chore) = queue.recv() {
        let done = match chore {
            Chore::Checkpoint(job) => {
                // A panic that ended this thread would be heard by nobody, and no checkpoint be made again.
                let result = catch_unwind(AssertUnwindSafe(|| job.run()));
                let panicked = |_| Err(SpoolError::Index("writing a checkpoint panicked".to_owned()));
                Request::CheckpointDone(job, result.unwrap_or_else(panicked))
            }
            Chore::Spare(job) => Request::SpareDone(job.run()),
            Chore::Tidy(index) => {
                // Space is a convenience; an index that fails says so at its next use.
                let _ = index.tidy();
                Request::TidyDone
            }
        };
        if back.send(done).is_err() {
            return;
        }
    }
}

/// Time between two readings of a wall clock, which may have been set back in between.
fn elapsed(earlier: WallMs, later: WallMs) -> Duration {
    Duration::from_millis(later.since(earlier).max(earlier.since(later)))
}

struct Ledger<O: Observer> {
    spool: Spool,
    clock: Clock,
    observer: O,
    chores: Option<SyncSender<Chore>>,
    helper: Option<JoinHandle<()>>,
    spare_asked: bool,
    tidy_asked: bool,
    told_poison: bool,
    /// Answers for what is staged and not yet committed.
    held: Vec<Answer>,
    /// Since when a prompt's answer is among them.
    patient_since: Option<WallMs>,
    gate: Arc<Gate>,
}

/// A panic on the ledger's thread ends the ledger: its owner is told, so that the process ends and recovers.
impl<O: Observer> Drop for Ledger<O> {
    fn drop(&mut self) {
        self.gate.set(Err(AcceptError::Spool(SpoolError::Closed)));
        if std::thread::panicking() && !self.told_poison {
            let reason = "the thread of the spool panicked".to_owned();
            self.observer.poisoned(&SpoolError::Poisoned { reason });
        }
    }
}

impl<O: Observer> Ledger<O> {
    fn run(mut self, queue: &Receiver<Request>) -> Result<(), SpoolError> {
        let mut last_tick = WallMs(0);
        let mut last_request = WallMs(0);
        let mut working = false;
        loop {
            let wait = match (working, self.patient_since) {
                (true, _) => Duration::ZERO,
                (false, None) => TICK,
                (false, Some(_)) => COMPANY_MAX,
            };
            let first = match queue.recv_timeout(wait) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Request::Stop),
            };
            let asked = matches!(first, Some(Request::Call(_) | Request::Stage(_) | Request::Prompt(_)));
            if !self.batch(first, queue) {
                return self.stop(queue);
            }
            let now = (self.clock)();
            if asked {
                last_request = now;
            }
            if working || elapsed(last_tick, now) >= TICK {
                last_tick = now;
                working = self.tick(now, elapsed(last_request, now) >= TICK);
                self.gate.set(self.spool.accepts());
            }
        }
    }

    /// Runs one batch; false when the engine is to stop.
    fn batch(&mut self, first: Option<Request>, queue: &Receiver<Request>) -> bool {
        let started = self.observer.micros();
        let bytes_before = self.spool.counters().bytes_written;
        let mut due = self.patient_since.is_some() && first.is_none();
        let mut go_on = true;
        let mut next = first;
        let mut taken = 0;
        while let Some(request) = next.take() {
            taken += 1;
            match request {
                Request::Call(call) => {
                    due = true;
                    self.held.push(call(&mut self.spool));
                }
                Request::Stage(call) => self.held.push(call(&mut self.spool)),
                Request::Prompt(prompt) => {
                    if let Some(answer) = prompt(&mut self.spool) {
                        self.patient_since.get_or_insert_with(|| (self.clock)());
                        self.held.push(answer);
                    }
                    // A lane whose session is to come again hears of it with the commit.
                    due |= self.spool.has_rings();
                }
                Request::CheckpointDone(job, result) => {
                    due = true;
                    self.checkpoint_done(&job, result);
                }
                Request::SpareDone(result) => {
                    self.spare_asked = false;
                    if let Ok(number) = result {
                        self.spool.adopt_spare(number);
                    }
                }
                Request::TidyDone => self.tidy_asked = false,
                Request::Stop => {
                    due = true;
                    go_on = false;
                    break;
                }
            }
            // Questions count too: a stream of them must not hold up those who wait for a commit.
            if self.held.len() < BATCH_REQUESTS_MAX && taken < BATCH_REQUESTS_MAX {
                next = queue.try_recv().ok();
            } else {
                due = true;
            }
        }
        due |= self.patient_since.is_some_and(|since| elapsed(since, (self.clock)()) >= COMPANY_MAX);
        if due || self.spool.staged_bytes() >= STAGED_BYTES_MAX || self.spool.healthy().is_err() {
            let requests = self.held.len();
            let _ = self.commit();
            let bytes = self.spool.counters().bytes_written - bytes_before;
            let micros = self.observer.micros().saturating_sub(started);
            if requests > 0 {
                self.observer.committed(requests, bytes, micros);
            }
        }
        go_on
    }

    /// Makes everything staged stable and gives every answer that waited for it.
    fn commit(&mut self) -> Result<(), SpoolError> {
        let outcome = self.spool.commit((self.clock)());
        self.patient_since = None;
        self.note(&outcome);
        // Before the answers: who has heard of it finds the gate in the same state.
        self.gate.set(self.spool.accepts());
        for answer in std::mem::take(&mut self.held) {
            answer(outcome.clone());
        }
        outcome
    }

    fn note<T>(&mut self, outcome: &Result<T, SpoolError>) {
        let failed = match outcome {
            Ok(_) => self.spool.healthy().err(),
            Err(error) => Some(error.clone()),
        };
        if let Some(error) = failed
            && self.spool.healthy().is_err()
            && !self.told_poison
        {
            self.told_poison = true;
            self.observer.poisoned(&error);
        }
    }

    fn checkpoint_done(&mut self, job: &CheckpointJob, result: Result<(), SpoolError>) {
        let before: Vec<u32> = self.spool.segment_numbers();
        let outcome = self.spool.end_checkpoint(job, result);
        self.note(&outcome);
        let after = self.spool.segment_numbers();
        let gone: Vec<u32> = before.into_iter().filter(|number| !after.contains(number)).collect();
        if !gone.is_empty() {
            self.observer.segments_removed(&gone);
        }
    }

    /// Upkeep between batches; true when there is more of it.
    fn tick(&mut self, now: WallMs, at_rest: bool) -> bool {
        if self.spool.healthy().is_err() {
            return false;
        }
        let upkeep = self.spool.maintain(now);
        let mut more = false;
        if let Ok(upkeep) = &upkeep {
            more |= upkeep.retired > 0 || !upkeep.expired.is_empty();
            self.observer.upkeep(&self.spool, upkeep);
        }
        self.note(&upkeep);
        if self.commit().is_err() {
            return false;
        }
        let effort = if at_rest { Effort::AtRest } else { Effort::Busy };
        let compacted = self.spool.compact_step(COMPACT_STEP_BYTES, effort, now);
        more |= matches!(compacted, Ok(true));
        self.note(&compacted);
        if self.commit().is_err() {
            return false;
        }
        if at_rest && !more && self.spool.trim_due() {
            let trimmed = self.spool.trim();
            self.note(&trimmed);
            if !self.tidy_asked {
                self.tidy_asked = true;
                self.give(Chore::Tidy(self.spool.index()));
            }
        }
        if self.spool.checkpoint_due(now) {
            let begun = self.spool.begin_checkpoint(now);
            self.note(&begun);
            if let Ok(Some(job)) = begun {
                self.give(Chore::Checkpoint(Box::new(job)));
            }
        }
        if !self.spare_asked
            && !at_rest
            && let Some(job) = self.spool.spare_job()
        {
            self.spare_asked = true;
            self.give(Chore::Spare(job));
        }
        more
    }

    fn give(&mut self, chore: Chore) {
        // Three places, one for each kind, and at most one of each under way: never blocks.
        if let Some(chores) = &self.chores {
            let _ = chores.send(chore);
        }
    }

    fn stop(mut self, queue: &Receiver<Request>) -> Result<(), SpoolError> {
        // Ends the helper. A checkpoint that it still finishes is not taken note of: the last one, made here,
        // covers it. Requests that come too late are dropped, which their callers see as `Closed`.
        self.chores = None;
        if let Some(helper) = self.helper.take() {
            while !helper.is_finished() {
                let _ = queue.recv_timeout(Duration::from_millis(10));
            }
            let _ = helper.join();
        }
        self.spool.abandon_checkpoint();
        let now = (self.clock)();
        self.spool.close(now)
    }
}
