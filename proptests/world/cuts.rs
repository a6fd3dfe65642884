//! Every moment of a story: the disk before each of its changes, and what a start from there may show.
//!
//! The disk keeps copies of itself, the world notes what was promised when. A copy belongs to the promises that stood
//! when its operation began; what the same step staged later may be under way already, so it may be seen, too.

use super::*;

/// The disk at one moment of a story, with all that is needed to start from it.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// Number of the operation that was about to begin, in the life of its disk.
    pub(crate) op: u64,
    pub(crate) disk: SimDisk,
    /// First: what must be there. Then what may be.
    stages: Vec<Arc<Model>>,
    pub(crate) index: Arc<MemorySnapshot>,
    /// The index after earlier checkpoints.
    pub(crate) older: Vec<Arc<MemorySnapshot>>,
    now: WallMs,
    latest: WallMs,
    epoch: u32,
    options: Options,
}

impl Cut {
    /// What must be there.
    pub(crate) fn committed(&self) -> &Model {
        &self.stages[0]
    }
}

/// What was promised from an operation on.
#[derive(Debug)]
struct Moment {
    op: u64,
    stages: Vec<Arc<Model>>,
    index: Arc<MemorySnapshot>,
    older: Vec<Arc<MemorySnapshot>>,
    epoch: u32,
}

/// Moments of the step under way, and cuts of all that are over.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    moments: Vec<Moment>,
    cuts: Vec<Cut>,
    index: Arc<MemorySnapshot>,
}

impl World {
    /// An empty spool whose every moment is kept, from before its first start on.
    pub(crate) fn recorded(seed: u64) -> Result<Self, Broken> {
        let mut world = Self::asleep(SimDisk::new(), seed);
        world.recorder = Some(Recorder::default());
        world.keep_recording();
        world.open()?;
        world.gather();
        Ok(world)
    }

    /// From now on the medium says that it syncs, and does not.
    pub(crate) fn lie(&self) {
        self.disk.ignore_syncs();
    }

    /// An empty spool with other terms.
    pub(crate) fn with_options(seed: u64, change: impl FnOnce(&mut Options)) -> Result<Self, Broken> {
        let mut world = Self::asleep(SimDisk::new(), seed);
        change(&mut world.options);
        world.open()?;
        Ok(world)
    }

    /// No process was ever started on this disk.
    pub(crate) fn unborn(disk: SimDisk) -> Self {
        Self::asleep(disk, 0)
    }

    /// The segment that is being written, and where its last stable record ends.
    pub(crate) fn end_of_journal(&self) -> Result<Option<(String, usize)>, Broken> {
        let plan = self.spool.as_ref().ok_or("no process")?.verify_plan();
        let Some(last) = plan.segments().last() else { return Ok(None) };
        let check = plan.check_segment(last).map_err(|error| error.to_string())?;
        Ok(Some((spool::segment::file_name(last), check.bytes as usize)))
    }

    /// The cuts since the last call.
    pub(crate) fn take_cuts(&mut self) -> Vec<Cut> {
        self.recorder.as_mut().map(|recorder| std::mem::take(&mut recorder.cuts)).unwrap_or_default()
    }

    /// The end of the process now: everything written is there, and nothing more.
    pub(crate) fn here(&self) -> Cut {
        Cut {
            op: self.disk.ops(),
            disk: self.disk.kill(),
            stages: self.stages.clone(),
            index: Arc::new(self.index.snapshot()),
            older: self.snapshots.clone(),
            now: self.now,
            latest: self.latest,
            epoch: self.epoch,
            options: self.options.clone(),
        }
    }

    /// A world in which `disk` is what the moment left, before its next start.
    pub(crate) fn after(cut: &Cut, disk: SimDisk, index: MemoryIndex) -> Self {
        Self {
            index,
            stages: cut.stages.clone(),
            now: cut.now,
            latest: cut.latest,
            epoch: cut.epoch,
            options: cut.options.clone(),
            ..Self::asleep(disk, cut.op)
        }
    }

    /// Promises may have changed: they stand from the next operation on.
    pub(super) fn notice(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        recorder.moments.push(Moment {
            op: self.disk.ops(),
            stages: self.stages.clone(),
            index: Arc::clone(&recorder.index),
            older: self.snapshots.clone(),
            epoch: self.epoch,
        });
    }

    /// The index is another one now.
    pub(super) fn notice_index(&mut self, index: Option<&Arc<MemorySnapshot>>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.index = index.map_or_else(|| Arc::new(self.index.snapshot()), Arc::clone);
        }
        self.notice();
    }

    pub(super) fn keep_recording(&mut self) {
        if self.recorder.is_some() {
            self.disk.start_recording();
            self.notice();
        }
    }

    /// Makes cuts of what the disk has recorded.
    pub(super) fn gather(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        let moments = std::mem::take(&mut recorder.moments);
        for (op, disk) in self.disk.take_recording() {
            let n = moments.iter().rposition(|moment| moment.op <= op).unwrap_or(0);
            let Some(moment) = moments.get(n) else { continue };
            let mut stages = moment.stages.clone();
            for model in moments[n + 1..].iter().flat_map(|later| &later.stages) {
                if !stages.iter().any(|known| Arc::ptr_eq(known, model)) {
                    stages.push(Arc::clone(model));
                }
            }
            recorder.cuts.push(Cut {
                op,
                disk,
                stages,
                index: Arc::clone(&moment.index),
                older: moment.older.clone(),
                now: self.now,
                latest: self.latest,
                epoch: moment.epoch,
                options: self.options.clone(),
            });
        }
    }
}
