//! A spool on a simulated disk, the model beside it, and everything that may happen to them.
//!
//! The world stages steps and commits them as the engine thread would. For each staged record it keeps the
//! model as it is after it, so that after a crash the spool must be *exactly* one of those moments: all that was
//! committed, then a prefix of what was under way, whole records only.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use spool::accept::{ChunkBuilder, chain_step};
use spool::disk::sim::{Fault, SimDisk, SplitMix64};
use spool::error::{AcceptError, RequestError, SpoolError};
use spool::ids::{ItemId, LaneId, Seq, SessionId, WallMs};
use spool::index::memory::{MemoryIndex, MemorySnapshot};
use spool::types::{AckOutcome, Filter, ItemInfo, MailboxChange, NewMessage, Room, State, Target, Verb};
use spool::{Effort, Options, ReplayFrom, Spool};

use crate::r#gen::{Answer, IndexFate, MailboxStep, Step, Stop, Trouble};
use crate::model::{Item, Lane, Model, after_verb};

/// Older states of the index that are kept, to come back after a stop.
const SNAPSHOTS_MAX: usize = 6;
/// Bytes of one piece of a body in these worlds; small, so that bodies have several.
const PIECE_BYTES: usize = 5_000;
const SEGMENT_BYTES: u32 = 64 * 1024;
const RETAIN_MS: u64 = 25_000;
const EXPIRE_MS: u64 = 70_000;
const LANE_ITEMS_MAX: u64 = 40;
const NACKS_MAX: u8 = 3;
const CAPACITY_BYTES: u64 = 1 << 40;
const START_MS: u64 = 1_790_000_000_000;

/// What went wrong with a promise.
pub(crate) type Broken = String;

macro_rules! ensure {
    ($condition:expr, $($why:tt)*) => {
        if !$condition { return Err(format!($($why)*)); }
    };
}

mod compare;
mod cuts;
mod intake;
mod invitations;
mod outbox;
mod outlet;
mod reach;
mod upkeep;

pub(crate) use compare::{Harm, Verdict};
pub(crate) use cuts::Cut;
pub(crate) use reach::{Reach, records, segment_number};

/// How one call of the spool went, seen from the world.
enum Called<T> {
    Fine(T),
    /// The medium failed, as planned: this process is over.
    Died,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    leased: BTreeMap<Seq, ItemId>,
    deferred: BTreeMap<Seq, WallMs>,
}

#[derive(Debug)]
struct Body {
    id: ItemId,
    builder: ChunkBuilder,
    bytes: Vec<u8>,
    broken: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    spool: Option<Spool>,
    disk: SimDisk,
    index: MemoryIndex,
    snapshots: Vec<Arc<MemorySnapshot>>,
    /// First: what is committed. Then the model after each record under way.
    stages: Vec<Arc<Model>>,
    /// Keeps every moment of the disk, when it is asked to.
    recorder: Option<cuts::Recorder>,
    sessions: BTreeMap<u32, Session>,
    bodies: BTreeMap<u8, Body>,
    nacks: BTreeMap<ItemId, u8>,
    random: SplitMix64,
    now: WallMs,
    latest: WallMs,
    /// The medium may fail: errors end the process instead of the test.
    armed: bool,
    /// The process stands still; somebody else decides how it ends.
    halting: bool,
    /// Each operation of the medium is described.
    traced: bool,
    options: Options,
    /// Operations of the processes before this one.
    past_ops: u64,
    epoch: u32,
    /// What was lent and acked, in order, for comparing two runs.
    pub(crate) log: Vec<String>,
}

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        retain_ms: RETAIN_MS,
        expire_ms: EXPIRE_MS,
        retain_results_ms: RETAIN_MS,
        min_free_bytes: 0,
        lane_items_max: LANE_ITEMS_MAX,
        checkpoint_bytes: 1 << 20,
        nacks_max: NACKS_MAX,
        seed: World::CHECKSUM_SEED,
        ..Options::default()
    }
}

fn lane_name(n: u8) -> String {
    format!("gateway-{n}")
}

fn alias(n: u8) -> String {
    // The first ones collide with names of mailboxes.
    if n < 2 { lane_name(n) } else { format!("alias-{n}@example.org") }
}

impl World {
    /// What checksums of these spools begin with.
    pub(crate) const CHECKSUM_SEED: u32 = 0x5eed;

    /// An empty spool; `seed` decides ids and bytes.
    pub(crate) fn new(seed: u64) -> Result<Self, Broken> {
        Self::on(SimDisk::new(), seed)
    }

    /// The same, and its disk describes each operation.
    pub(crate) fn traced(seed: u64) -> Result<Self, Broken> {
        let disk = SimDisk::new();
        disk.start_trace();
        let mut world = Self::on(disk, seed)?;
        world.traced = true;
        Ok(world)
    }

    /// The same on a medium whose syncs do nothing.
    pub(crate) fn on_lying_medium(seed: u64) -> Result<Self, Broken> {
        let disk = SimDisk::new();
        disk.ignore_syncs();
        Self::on(disk, seed)
    }

    pub(crate) fn on(disk: SimDisk, seed: u64) -> Result<Self, Broken> {
        let mut world = Self::asleep(disk, seed);
        world.open()?;
        Ok(world)
    }

    /// An empty disk, and no process yet.
    fn asleep(disk: SimDisk, seed: u64) -> Self {
        Self {
            spool: None,
            disk,
            index: MemoryIndex::new(),
            snapshots: Vec::new(),
            stages: vec![Arc::default()],
            recorder: None,
            sessions: BTreeMap::new(),
            bodies: BTreeMap::new(),
            nacks: BTreeMap::new(),
            random: SplitMix64::new(seed),
            now: WallMs(START_MS),
            latest: WallMs(START_MS),
            armed: false,
            halting: false,
            traced: false,
            options: options(),
            past_ops: 0,
            epoch: 0,
            log: Vec::new(),
        }
    }

    /// Runs all steps.
    pub(crate) fn run(&mut self, steps: &[Step]) -> Result<(), Broken> {
        for (n, step) in steps.iter().enumerate() {
            self.notice();
            self.step(step).map_err(|why| format!("step {n} {step:?}: {why}"))?;
            self.gather();
        }
        Ok(())
    }

    /// Runs steps on a medium that is about to stop; what the spool answers then does not matter.
    pub(crate) fn run_until_dead(&mut self, steps: &[Step]) {
        self.halting = true;
        self.run(steps).ok();
        self.halting = false;
    }

    /// Ends in good order, starts once more, compares everything, and fetches all there is to fetch.
    pub(crate) fn settle(&mut self) -> Result<(), Broken> {
        self.disarm();
        if !self.commit()? {
            return Err("commit failed on a good medium".to_owned());
        }
        self.restart(Stop::Clean, IndexFate::Kept, None)?;
        self.drain()
    }

    /// The disk as it is now.
    pub(crate) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Operations of all processes on their media.
    pub(crate) fn operations(&self) -> u64 {
        self.past_ops + self.disk.ops()
    }

    /// What is known to be committed.
    pub(crate) fn committed(&self) -> &Model {
        &self.stages[0]
    }

    fn last(&self) -> &Model {
        self.stages.last().unwrap_or(&self.stages[0])
    }

    /// Moment `n` of those possible is what is committed from now on.
    fn settle_at(&mut self, n: usize) {
        let now = self.stages.swap_remove(n);
        let acked = |model: &Model, id| model.items.get(id).is_some_and(|item| item.state == State::Acked);
        for id in now.items.keys().filter(|id| acked(&now, id) && (n == 0 || !acked(&self.stages[0], id))) {
            self.log.push(format!("acked for good {id}"));
        }
        self.stages = vec![now];
        self.notice();
    }

    fn stage(&mut self, change: impl FnOnce(&mut Model)) {
        let mut model = self.last().clone();
        change(&mut model);
        self.stage_model(model);
    }

    fn stage_model(&mut self, model: Model) {
        self.stages.push(Arc::new(model));
        self.notice();
    }

    fn random_id(&mut self) -> ItemId {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.random.next().to_be_bytes());
        ItemId::new(self.now, random)
    }

    /// Operation `op` of this process will fail.
    pub(crate) fn fail_at(&mut self, op: u64, fault: Fault) {
        self.armed = true;
        self.disk.fail_at(op, fault);
    }

    /// The medium has room for `bytes` more, until somebody makes room or the process ends.
    pub(crate) fn squeeze(&mut self, bytes: u64) {
        self.armed = true;
        self.disk.set_capacity(self.disk.used_bytes() + bytes);
    }

    /// There is room again; the process goes on.
    pub(crate) fn make_room(&mut self) {
        self.disarm();
        self.disk.set_capacity(CAPACITY_BYTES);
    }

    fn disarm(&mut self) {
        self.armed = false;
        self.disk.clear_plan();
    }

    /// Sorts an error into "as planned" and "a promise is broken".
    fn died<T>(&mut self, error: &SpoolError) -> Result<Called<T>, Broken> {
        ensure!(self.armed, "failed on a good medium: {error}");
        ensure!(!self.halting, "stands still");
        self.is_poisoned(error)?;
        let seed = self.random.next();
        // A process that saw its medium fail exits; sometimes the machine goes with it.
        let stop = if seed.is_multiple_of(3) { Stop::Power(seed) } else { Stop::Kill };
        self.restart(stop, IndexFate::Kept, None)?;
        Ok(Called::Died)
    }

    /// A process that saw a write or a sync fail makes nothing more stable, however often it is asked.
    fn is_poisoned(&mut self, error: &SpoolError) -> Result<(), Broken> {
        let (now, failed) = (self.now, self.failed_segment());
        let (Some(spool), Some(name)) = (&mut self.spool, failed) else { return Ok(()) };
        for _ in 0..2 {
            let again = spool.commit(now);
            ensure!(
                matches!(again, Err(SpoolError::Poisoned { .. })),
                "{error}; then, with {name} in doubt, commit says {again:?}"
            );
        }
        Ok(())
    }

    /// A segment that this process failed to write or to sync.
    fn failed_segment(&self) -> Option<String> {
        self.disk.failed_files().into_iter().find(|name| name.ends_with(".wsj"))
    }

    fn call<T>(
        &mut self,
        what: impl FnOnce(&mut Spool) -> Result<T, SpoolError>,
    ) -> Result<Called<T>, Broken> {
        let spool = self.spool.as_mut().ok_or("no process")?;
        match what(spool) {
            Ok(value) => Ok(Called::Fine(value)),
            Err(error) => self.died(&error),
        }
    }

    /// The answer of a request; `None` when the process died of it.
    fn request<T>(
        &mut self,
        what: impl FnOnce(&mut Spool) -> Result<T, RequestError>,
    ) -> Result<Option<Result<T, RequestError>>, Broken> {
        let spool = self.spool.as_mut().ok_or("no process")?;
        match what(spool) {
            Err(RequestError::Spool(error)) => self.died::<()>(&error).map(|_| None),
            other => Ok(Some(other)),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Broken> {
        match step {
            Step::Register(n) => self.register(&lane_name(*n)),
            Step::Mailbox(n, change) => self.change_mailbox(&lane_name(*n), change),
            Step::Invite { number, alias, ttl_ms } => self.invite(*number, *alias, *ttl_ms),
            Step::Withdraw(number) => self.withdraw(*number),
            Step::Redeem { number, lane } => self.redeem(*number, &lane_name(*lane)),
            Step::Stream { slot, bytes } => self.stream(*slot, *bytes),
            Step::Abandon { slot } => {
                if let (Some(body), Some(spool)) = (self.bodies.remove(slot), &mut self.spool) {
                    spool.abandon_body(body.id);
                }
                Ok(())
            }
            Step::Accept { slot, lanes, head } => self.accept(*slot, lanes, *head),
            Step::Submit(submit) => self.submit(submit),
            Step::Out { pick, what } => self.out_step(*pick, what),
            Step::Twin { number, item, ttl_ms } => self.twin(*number, *item, *ttl_ms),
            Step::Open(n) => self.open_session(*n),
            Step::Close(n) => {
                if let Some((lane, session)) = self.pick_session(*n) {
                    if let Some(spool) = &mut self.spool {
                        spool.close_session(session);
                    }
                    self.sessions.remove(&lane);
                }
                Ok(())
            }
            Step::Lease { lane, items, bytes } => {
                let Some(lane) = self.connected(*lane)? else { return Ok(()) };
                self.lease(lane, Room { items: u32::from(*items), bytes: u64::from(*bytes) }).map(|_| ())
            }
            Step::Serve { lane, items } => self.serve(*lane, *items),
            Step::Answer { lane, pick, answer } => self.answer(*lane, *pick, *answer),
            Step::Replay { lane, from } => self.replay(*lane, *from),
            Step::Verb { pick, verb } => self.verb(*pick, *verb),
            Step::Clock(ms) => {
                self.now = WallMs(self.now.0.saturating_add_signed(*ms));
                self.latest = self.latest.max(self.now);
                Ok(())
            }
            Step::Commit => self.commit().map(|_| ()),
            Step::Maintain => self.maintain(),
            Step::Checkpoint => self.checkpoint(),
            Step::Compact { budget } => self.compact(*budget, Effort::Busy).map(|_| ()),
            Step::Tidy => {
                while self.compact(1 << 20, Effort::AtRest)? {}
                self.checkpoint()
            }
            Step::Spare => self.spare(),
            Step::Trim => self.call(Spool::trim).map(|_| ()),
            Step::Plan { after, what } => {
                let op = self.disk.ops() + u64::from(*after);
                self.armed = true;
                match what {
                    Trouble::Freeze => self.disk.freeze_at(op),
                    Trouble::Io => self.disk.fail_at(op, Fault::Io),
                    Trouble::Full => self.disk.fail_at(op, Fault::Full),
                }
                Ok(())
            }
            Step::Restart { how, index, trouble } => self.restart(*how, *index, *trouble),
        }
    }
}
