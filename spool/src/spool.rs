//! The ledger itself: one value that owns journal, tail and sessions, and is driven by one thread.
//!
//! Methods *stage*: they check, append records to the batch and apply them to the tail. Nothing a method
//! answered may be told to anybody before [`Spool::commit`] returned `Ok`; that is the whole contract of the
//! crate, and `engine.rs` keeps it for everybody. Live operation and recovery go through the same `apply`
//! functions, so what a restart reads is what was meant.
//!
//! After a failed commit the spool is poisoned: everything is refused until a restart has read the medium.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::backup::Pin;
use crate::compact::Compaction;
use crate::disk::{DirLock, Disk};
use crate::entry;
use crate::error::{AcceptError, SpoolError};
use crate::ids::{BootEpoch, ItemId, LaneId, Lsn, SessionId, WallMs};
use crate::index::{Index, Tree};
use crate::journal::{Journal, JournalCounters};
use crate::lease::LaneSession;
use crate::life;
use crate::reader::JournalReader;
use crate::record::StepRecord;
use crate::recover;
use crate::spare::SpareJob;
use crate::submission::Bells;
use crate::tail::{CheckpointJob, Tail};
use crate::types::{BodyId, ChunkRef, STATES, SegmentInfo, SpoolStats};
use crate::upkeep::Sweep;

/// Bodies that may be streamed at the same time.
pub const OPEN_BODIES_MAX: usize = 65_536;

/// How a spool is run. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of one journal segment, 64 KiB to 1 GiB.
    pub segment_bytes: u32,
    /// How long acked, expired and purged items can still be shown and replayed.
    pub retain_ms: u64,
    /// How long a ready item waits for its gateway.
    pub expire_ms: u64,
    /// How long the result of a submission is kept, told or not.
    pub retain_results_ms: u64,
    /// Free space below which intake is refused.
    pub min_free_bytes: u64,
    /// Most ready and held items of a lane without a quota of its own.
    pub lane_items_max: u64,
    /// Most ready and held bytes of a lane without a quota of its own.
    pub lane_bytes_max: u64,
    /// Bytes of changes in the tail that start a checkpoint.
    pub checkpoint_bytes: usize,
    /// Age of the oldest change that starts a checkpoint.
    pub checkpoint_ms: u64,
    /// Sealed segments with less than this share of live bytes are compacted, percent.
    pub compact_below_percent: u8,
    /// Nacks after which an item is parked (held).
    pub nacks_max: u8,
    /// How long a start remembers messages whose senders a crash may have left without an answer.
    pub unheard_keep_ms: u64,
    /// Random bits for a new spool's checksum seed.
    pub seed: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            retain_ms: 7 * 86_400_000,
            expire_ms: 30 * 86_400_000,
            retain_results_ms: 30 * 86_400_000,
            min_free_bytes: 1 << 30,
            lane_items_max: 100_000,
            lane_bytes_max: 10 << 30,
            checkpoint_bytes: 16 * 1024 * 1024,
            checkpoint_ms: 30_000,
            compact_below_percent: 50,
            nacks_max: 5,
            unheard_keep_ms: 48 * 3_600_000,
            seed: 0,
        }
    }
}

/// What a start found and did, for one log line and one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// This start's number.
    pub epoch: BootEpoch,
    /// Records replayed.
    pub records: u64,
    /// Bytes of journal read.
    pub bytes: u64,
    /// The index was missing or useless, and all of the journal was read.
    pub rebuilt_index: bool,
    /// Bytes cut from the end of the last segment: a batch that never was stable.
    pub torn_bytes: u64,
    /// Damaged stretches inside the journal, left where they are.
    pub damaged: Vec<(Lsn, u32)>,
    /// Messages accepted so shortly before the last stop that their senders may not have been told.
    pub unheard: u64,
    /// Submissions that the last stop caught after their last octets may have left: indeterminate now.
    pub interrupted: Vec<ItemId>,
    /// Names in the journal directory that are not ours, and the format file when it had to be written again.
    pub foreign: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct OpenBody {
    pub(crate) chunks: Vec<ChunkRef>,
    pub(crate) bytes: u64,
    pub(crate) first_segment: Option<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Spool {
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) journal: Journal,
    pub(crate) tail: Tail,
    pub(crate) epoch: BootEpoch,
    pub(crate) open_bodies: HashMap<BodyId, OpenBody>,
    /// Live bytes by segment of the item record.
    pub(crate) live: BTreeMap<u32, u64>,
    pub(crate) items: [u64; STATES],
    pub(crate) bytes: [u64; STATES],
    /// Of `items`, those in outboxes.
    pub(crate) submissions: [u64; STATES],
    pub(crate) lane_count: u64,
    pub(crate) next_lane: u32,
    pub(crate) sessions: HashMap<SessionId, LaneSession>,
    pub(crate) session_of: HashMap<LaneId, SessionId>,
    pub(crate) next_session: u64,
    pub(crate) nacks: HashMap<ItemId, u8>,
    pub(crate) rings: BTreeSet<LaneId>,
    pub(crate) bells: Bells,
    /// Steps of this batch, which cannot be read back before the commit: the story must have them, because the
    /// item may be written again, and its result asked for, in the same batch.
    pub(crate) staged_steps: HashMap<Lsn, StepRecord>,
    pub(crate) sweep: Sweep,
    pub(crate) oldest_ready: Option<WallMs>,
    pub(crate) compaction: Option<Compaction>,
    /// Only segments below this one are walked, so that a pass of compaction ends.
    pub(crate) compact_until: Option<u32>,
    /// Bytes that became garbage since the last pass.
    pub(crate) freed_bytes: u64,
    /// Segments went; what is set aside for new ones may be too much now.
    pub(crate) trim_wanted: bool,
    /// Nothing in these is needed any more, once a checkpoint has been made.
    pub(crate) emptied: BTreeSet<u32>,
    pub(crate) removable: BTreeSet<u32>,
    pub(crate) checkpoint_at: WallMs,
    /// Held while the journal is copied: no segment goes.
    pub(crate) backup: Option<Pin>,
    pub(crate) backups_begun: u64,
    pub(crate) free_bytes: u64,
    pub(crate) damaged: u64,
    /// Damage met by compaction; such segments stay as evidence.
    pub(crate) damaged_segments: BTreeSet<u32>,
    // Last, so that the directory is given up after everything else.
    pub(crate) _lock: Box<dyn DirLock>,
}

impl Spool {
    /// Opens or creates the spool on `disk`, recovering whatever an earlier process left.
    ///
    /// Afterwards every lease of an earlier process is void and every item that was accepted before is there.
    ///
    /// # Errors
    /// [`SpoolError::Locked`], [`SpoolError::NewerFormat`], [`SpoolError::Foreign`], [`SpoolError::Io`],
    /// [`SpoolError::Index`] when even an emptied index does not work.
    pub fn open(
        disk: Arc<dyn Disk>,
        index: Arc<dyn Index>,
        options: Options,
        now: WallMs,
    ) -> Result<(Self, Recovery), SpoolError> {
        recover::open(disk, index, options, now)
    }

    /// Could [`Spool::open`] own and read this directory? To be asked before the index is opened, so that
    /// nothing at all is touched when it could not.
    ///
    /// # Errors
    /// [`SpoolError::Locked`], [`SpoolError::NewerFormat`], [`SpoolError::Foreign`], [`SpoolError::Io`].
    pub fn may_open(disk: &Arc<dyn Disk>) -> Result<(), SpoolError> {
        recover::may_open(disk)
    }

    /// Whether this release reads what is on `disk`, asked without the lock: somebody else may have the spool open. An
    /// empty directory is fine.
    ///
    /// # Errors
    /// [`SpoolError::NewerFormat`], [`SpoolError::Foreign`], [`SpoolError::Io`].
    pub fn may_take_over(disk: &dyn Disk) -> Result<(), SpoolError> {
        recover::may_take_over(disk)
    }

    /// Writes and syncs everything staged, then rings the sessions that have something to fetch.
    ///
    /// # Errors
    /// [`SpoolError`]: nothing staged may be told to anybody, and the spool is poisoned.
    pub fn commit(&mut self, now: WallMs) -> Result<(), SpoolError> {
        self.journal.set_now(now);
        self.journal.flush()?;
        self.staged_steps.clear();
        for lane in std::mem::take(&mut self.rings) {
            if let Some(session) = self.session_of.get(&lane).and_then(|id| self.sessions.get(id)) {
                (session.bell)();
            }
        }
        self.bells.ring();
        Ok(())
    }

    /// Somebody is to be woken by the next commit.
    pub(crate) fn has_rings(&self) -> bool {
        !self.rings.is_empty()
    }

    /// Other terms for what is kept, and how much may be taken; everything else stays. Nothing is written.
    pub fn set_terms(&mut self, terms: &Options) {
        let own = &mut self.options;
        own.retain_ms = terms.retain_ms;
        own.retain_results_ms = terms.retain_results_ms;
        own.expire_ms = terms.expire_ms;
        own.min_free_bytes = terms.min_free_bytes;
        own.lane_items_max = terms.lane_items_max;
        own.lane_bytes_max = terms.lane_bytes_max;
    }

    /// How it is run.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The index, for what may be done to it beside the ledger.
    #[must_use]
    pub fn index(&self) -> Arc<dyn Index> {
        self.tail.index().clone()
    }

    /// Numbers of the segments on disk, oldest first.
    #[must_use]
    pub fn segment_numbers(&self) -> Vec<u32> {
        self.journal.segments().keys().copied().collect()
    }

    /// Bytes that [`Spool::commit`] would write.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.journal.position().0.saturating_sub(self.journal.durable().0)
    }

    /// Is there anything that [`Spool::commit`] would write?
    #[must_use]
    pub fn has_staged(&self) -> bool {
        self.journal.position() != self.journal.durable()
    }

    /// # Errors
    /// [`SpoolError::Poisoned`] after a failed commit.
    pub fn healthy(&self) -> Result<(), SpoolError> {
        self.journal.healthy()
    }

    /// Would new work be taken at all?
    ///
    /// # Errors
    /// [`AcceptError::NoSpace`] below the floor, [`AcceptError::Spool`] when poisoned.
    pub fn accepts(&self) -> Result<(), AcceptError> {
        self.healthy()?;
        if self.free_bytes < self.options.min_free_bytes { Err(AcceptError::NoSpace) } else { Ok(()) }
    }

    /// Would [`Spool::arm`] be taken? It is while free space is below the floor: results are what the reserve is for.
    ///
    /// # Errors
    /// [`SpoolError`] when the spool is poisoned, or when what is left is kept for the results of what is armed.
    pub fn carries(&self) -> Result<(), SpoolError> {
        Ok(self.journal.carries()?)
    }

    /// Reads bodies, from any thread.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        self.journal.reader()
    }

    /// Number of this start.
    #[must_use]
    pub fn epoch(&self) -> BootEpoch {
        self.epoch
    }

    /// What the journal did so far.
    #[must_use]
    pub fn counters(&self) -> JournalCounters {
        self.journal.counters()
    }

    /// The whole spool in numbers.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn stats(&self) -> Result<SpoolStats, SpoolError> {
        let active = self.journal.active();
        let segments = self
            .journal
            .segments()
            .iter()
            .map(|(number, segment)| SegmentInfo {
                number: *number,
                used_bytes: u64::from(segment.end),
                live_bytes: self.live.get(number).copied().unwrap_or(0),
                active: *number == active,
            })
            .collect();
        Ok(SpoolStats {
            items: self.items,
            bytes: self.bytes,
            submissions: self.submissions,
            leased: self.sessions.values().map(|session| session.leased.len() as u64).sum(),
            oldest_ready: self.oldest_ready,
            lanes: self.lane_count,
            segments,
            index_bytes: self.tail.index().size_bytes()?,
            free_bytes: self.free_bytes,
            tail_entries: self.tail.entries() as u64,
            quarantined_records: self.damaged,
        })
    }

    /// Should a checkpoint be begun now?
    #[must_use]
    pub fn checkpoint_due(&self, now: WallMs) -> bool {
        !self.tail.checkpoint_in_progress()
            && !self.has_staged()
            && self.journal.healthy().is_ok()
            && (self.tail.bytes() >= self.options.checkpoint_bytes
                || (now.since(self.checkpoint_at).max(self.checkpoint_at.since(now))
                    >= self.options.checkpoint_ms
                    && (!self.tail.is_empty() || !self.emptied.is_empty())))
    }

    /// Freezes the tail. Run the job (anywhere), then say how it went to [`Spool::end_checkpoint`].
    /// `None` while one is in progress or something is staged.
    ///
    /// # Errors
    /// [`SpoolError::Index`] when the index does not decode, which poisons the spool; [`SpoolError::Poisoned`].
    pub fn begin_checkpoint(&mut self, now: WallMs) -> Result<Option<CheckpointJob>, SpoolError> {
        self.healthy()?;
        if self.tail.checkpoint_in_progress() || self.has_staged() {
            return Ok(None);
        }
        self.checkpoint_at = now;
        self.removable.append(&mut self.emptied);
        self.put_live();
        let frozen = self.tail.freeze(self.journal.durable());
        if let Err(error) = &frozen {
            // It would be refused again and again, while memory fills up.
            self.journal.poison_with(&error.to_string());
        }
        frozen.map(Some)
    }

    /// Takes note of a finished checkpoint and removes the segments that nothing needs any more.
    ///
    /// # Errors
    /// [`SpoolError`]; a failed index poisons the spool, because nobody knows what it holds.
    pub fn end_checkpoint(
        &mut self,
        job: &CheckpointJob,
        result: Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        if let Err(error) = result {
            self.journal.poison_with(&error.to_string());
            return Err(error);
        }
        self.tail.thaw();
        if self.backup.is_some() {
            // A later checkpoint, which covers this one, is as good a reason to let them go.
            self.emptied.append(&mut self.removable);
        }
        let removable = std::mem::take(&mut self.removable);
        if removable.is_empty() {
            return Ok(());
        }
        // An older copy of the index would miss what went with these segments: say so before they go.
        self.journal.set_floor(job.applied());
        if let Err(error) = self.journal.confirm() {
            // Nothing went: the next checkpoint tries again.
            self.emptied.extend(removable);
            return Err(error.into());
        }
        let recycle = self.free_bytes > self.options.min_free_bytes.saturating_mul(2);
        self.trim_wanted = true;
        for segment in removable {
            self.live.remove(&segment);
            self.tail.remove(Tree::Segment, &segment.to_be_bytes());
            if let Err(error) = self.journal.remove_segment(segment, recycle) {
                // It may be there again after the next start, and what we write from here on counts on its being gone.
                self.journal.poison_with(&error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes back a checkpoint whose outcome nobody will tell, so that another one can be made.
    ///
    /// The frozen changes are put under the live ones again; writing them twice does no harm.
    pub fn abandon_checkpoint(&mut self) {
        self.tail.refreeze();
        self.emptied.append(&mut self.removable);
    }

    /// A job that prepares space for the next segment, when there is none. Tell [`Spool::adopt_spare`].
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        if self.free_bytes < self.options.min_free_bytes.saturating_add(u64::from(self.options.segment_bytes))
        {
            return None;
        }
        self.journal.spare_job()
    }

    /// Takes over a spare that a [`SpareJob`] has finished.
    pub fn adopt_spare(&mut self, number: u32) {
        self.journal.adopt_spare(number);
    }

    /// Segments went since the last trim, none is about to go, and what is set aside is more than a tenth of
    /// what is stored.
    #[must_use]
    pub fn trim_due(&self) -> bool {
        self.trim_wanted
            && self.emptied.is_empty()
            && self.removable.is_empty()
            && u64::from(self.options.segment_bytes) > self.used_bytes() / 10
    }

    /// Gives unused space back to the file system: the spare, and what is set aside in the active segment.
    /// For a spool at rest; it costs the next writer some speed.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn trim(&mut self) -> Result<(), SpoolError> {
        self.trim_wanted = false;
        self.journal.drop_spares()?;
        self.journal.trim_active()
    }

    /// The last words of a clean stop: a checkpoint, and a record that says all before it was stable.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing is lost then either, the next start just reads more.
    pub fn close(&mut self, now: WallMs) -> Result<(), SpoolError> {
        self.commit(now)?;
        if let Some(job) = self.begin_checkpoint(now)? {
            let result = job.run();
            self.end_checkpoint(&job, result)?;
        }
        self.journal.confirm()?;
        Ok(())
    }

    /// Puts the segments' live bytes where the next checkpoint takes them along.
    pub(crate) fn put_live(&mut self) {
        for (segment, live) in &self.live {
            let (key, value) = (segment.to_be_bytes().to_vec(), live.to_be_bytes().to_vec());
            self.tail.put(Tree::Segment, &key, value);
        }
    }

    pub(crate) fn add_live(&mut self, entry: &entry::Entry) {
        let (item, state) = live_cost(entry);
        *self.live.entry(entry.item_lsn.segment()).or_default() += item;
        *self.live.entry(entry.state_lsn.segment()).or_default() += state;
    }

    pub(crate) fn sub_live(&mut self, entry: &entry::Entry) {
        let (item, state) = live_cost(entry);
        for (lsn, cost) in [(entry.item_lsn, item), (entry.state_lsn, state)] {
            if let Some(live) = self.live.get_mut(&lsn.segment()) {
                *live = live.saturating_sub(cost);
            }
        }
    }
}

/// Bytes of journal an entry keeps alive at its item record and at its state record, near enough to choose
/// segments by.
fn live_cost(entry: &entry::Entry) -> (u64, u64) {
    const STATE_RECORD_BYTES: u64 = 80;
    let body = if life::keeps_body(entry.state) { u64::from(entry.size_bytes) } else { 0 };
    let state = if entry.state_lsn == entry.item_lsn { 0 } else { STATE_RECORD_BYTES };
    (body + u64::from(entry.overhead_bytes), state)
}
