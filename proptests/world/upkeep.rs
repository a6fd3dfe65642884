//! What a spool does by itself, and how it is stopped and started.

use spool::backup::BackupPlan;

use super::*;

impl World {
    pub(super) fn commit(&mut self) -> Result<bool, Broken> {
        let now = self.now;
        match self.call(|spool| spool.commit(now))? {
            Called::Fine(()) => {
                if let Some(name) = self.failed_segment() {
                    return Err(format!("committed after a failed write or sync of {name}"));
                }
                self.settle_at(self.stages.len() - 1);
                Ok(true)
            }
            Called::Died => Ok(false),
        }
    }

    pub(super) fn maintain(&mut self) -> Result<(), Broken> {
        let now = self.now;
        let Called::Fine(done) = self.call(|spool| spool.maintain(now))? else { return Ok(()) };
        for (lane, seq) in done.expired {
            let found = self.last().items.iter().find(|(_, item)| item.lane == lane.0 && item.seq == seq);
            let Some((id, item)) = found.map(|(id, item)| (*id, item.clone())) else {
                return Err(format!("{lane:?} {seq} expired but never was"));
            };
            let due = now.since(item.accepted_at) >= EXPIRE_MS && item.state == State::Ready;
            ensure!(due, "{id} expired too early or while {:?}", item.state);
            self.enter(id, State::Expired);
        }
        Ok(())
    }

    /// One step, committed at once: until then a moved item cannot be looked at. True while there is work.
    pub(super) fn compact(&mut self, budget: u32, effort: Effort) -> Result<bool, Broken> {
        let now = self.now;
        match self.call(|spool| spool.compact_step(budget, effort, now))? {
            Called::Fine(more) => Ok(self.commit()? && more),
            Called::Died => Ok(false),
        }
    }

    pub(super) fn checkpoint(&mut self) -> Result<(), Broken> {
        if !self.commit()? {
            return Ok(());
        }
        let now = self.now;
        let Called::Fine(job) = self.call(|spool| spool.begin_checkpoint(now))? else { return Ok(()) };
        let Some(job) = job else { return Err("no checkpoint although nothing is staged".to_owned()) };
        let result = job.run();
        if self.snapshots.len() == SNAPSHOTS_MAX {
            self.snapshots.remove(0);
        }
        let snapshot = Arc::new(self.index.snapshot());
        self.notice_index(Some(&snapshot));
        self.snapshots.push(snapshot);
        match self.call(|spool| spool.end_checkpoint(&job, result))? {
            Called::Fine(()) if !self.armed => {
                compare::bodies_are_whole(self.spool.as_ref().ok_or("no process")?)
            }
            Called::Fine(()) | Called::Died => Ok(()),
        }
    }

    /// Begins a copy of what is stable, and answers it with the disk as the death of the process would leave it now.
    pub(crate) fn begin_backup(&mut self) -> Result<(BackupPlan, SimDisk), Broken> {
        ensure!(self.commit()?, "commit failed on a good medium");
        let now = self.now;
        let spool = self.spool.as_mut().ok_or("no process")?;
        let plan = spool.begin_backup(now).map_err(|error| error.to_string())?;
        Ok((plan, self.disk.kill()))
    }

    /// The copier lives; false when the process has ended, or the clock ran away.
    pub(crate) fn renew_backup(&mut self, pin: u64) -> bool {
        let now = self.now;
        self.spool.as_mut().is_some_and(|spool| spool.renew_backup(pin, now).is_ok())
    }

    /// What a start on `disk` without an index finds, and every body of it is read.
    pub(crate) fn facts_on(&self, disk: &SimDisk) -> Result<Vec<String>, Broken> {
        let index = Arc::new(MemoryIndex::new());
        let opened = Spool::open(Arc::new(disk.clone()), index, self.options.clone(), self.now);
        let (spool, recovery) = opened.map_err(|error| format!("does not open: {error}"))?;
        ensure!(recovery.damaged.is_empty(), "damage in a copy: {:?}", recovery.damaged);
        compare::bodies_are_whole(&spool)?;
        compare::facts_of(&spool)
    }

    pub(super) fn spare(&mut self) -> Result<(), Broken> {
        let Some(spool) = &mut self.spool else { return Ok(()) };
        let Some(job) = spool.spare_job() else { return Ok(()) };
        match job.run() {
            Ok(number) => spool.adopt_spare(number),
            Err(error) => ensure!(self.armed, "spare: {error}"),
        }
        Ok(())
    }

    pub(super) fn restart(&mut self, how: Stop, fate: IndexFate, trouble: Option<u16>) -> Result<(), Broken> {
        if how == Stop::Clean && self.spool.is_some() {
            if !self.commit()? {
                return Ok(());
            }
            let now = self.now;
            if let Called::Died = self.call(|spool| spool.close(now))? {
                return Ok(());
            }
        }
        self.spool = None;
        self.pull_plug(how);
        match fate {
            IndexFate::Kept => {}
            IndexFate::Lost => self.index = MemoryIndex::new(),
            IndexFate::Older(n) => {
                if let Some(n) = usize::from(n).checked_rem(self.snapshots.len()) {
                    self.index = MemoryIndex::from_snapshot(self.snapshots[n].as_ref().clone());
                }
            }
        }
        if let Some(after) = trouble {
            self.disk.freeze_at(u64::from(after));
            self.start_in_vain(u64::from(after), how)?;
        }
        self.open()
    }

    /// Starts on a medium with something planned at operation `op`, and ends as `how` says; false when the start
    /// did not get that far.
    pub(crate) fn start_in_vain(&mut self, op: u64, how: Stop) -> Result<bool, Broken> {
        self.armed = true;
        let opened = Spool::open(self.shared_disk(), self.shared_index(), self.options.clone(), self.now);
        let reached = self.disk.ops() > op;
        ensure!(opened.is_ok() || reached, "start failed before anything was wrong");
        drop(opened);
        self.pull_plug(how);
        Ok(reached)
    }

    pub(super) fn pull_plug(&mut self, how: Stop) {
        self.gather();
        self.past_ops += self.disk.ops();
        self.disk = match how {
            Stop::Clean | Stop::Kill => self.disk.kill(),
            Stop::Power(seed) => self.disk.crash(seed),
        };
        if self.traced {
            self.disk.start_trace();
        }
        self.disk.set_capacity(CAPACITY_BYTES); // whoever starts it again has made room
        self.keep_recording();
        self.armed = false;
        self.sessions.clear();
        self.bodies.clear();
        self.nacks.clear();
    }

    pub(super) fn shared_disk(&self) -> Arc<SimDisk> {
        Arc::new(self.disk.clone())
    }

    pub(super) fn shared_index(&self) -> Arc<MemoryIndex> {
        Arc::new(self.index.clone())
    }

    pub(crate) fn open(&mut self) -> Result<(), Broken> {
        self.notice_index(None);
        let opened = Spool::open(self.shared_disk(), self.shared_index(), self.options.clone(), self.now);
        let (spool, recovery) = opened.map_err(|error| format!("does not open: {error}"))?;
        ensure!(recovery.damaged.is_empty(), "damage after a crash: {:?}", recovery.damaged);
        ensure!(recovery.epoch.0 > self.epoch, "epoch {:?} after {}", recovery.epoch, self.epoch);
        self.epoch = recovery.epoch.0;
        self.spool = Some(spool);
        self.doubt_armed();
        self.notice_index(None);
        let mut why = String::new();
        for (n, model) in self.stages.iter().enumerate().rev() {
            match self.matches(model) {
                Ok(()) => {
                    self.settle_at(n);
                    return Ok(());
                }
                Err(problem) => why = format!("{why}\n  stage {n}: {problem}"),
            }
        }
        Err(format!("the spool is none of {} possible moments:{why}", self.stages.len()))
    }
}
