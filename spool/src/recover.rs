//! How a spool starts: find the journal, trust the index as far as it goes, read the rest.
//!
//! * A torn tail is allowed only at the end of the last segment: bytes after which no batch was begun. They
//!   belong to a batch that never was stable, so nobody was told about it; they are cut.
//! * Damage anywhere else is reported and stepped over; its neighbours are read.
//! * An index that is missing, claims more than the journal holds, or is older than segments that are gone is
//!   emptied and rebuilt from everything there is.
//! * What is read in the last segment may lie in the page cache only: its process was killed before the sync, or
//!   saw the sync fail, after which the kernel calls the pages clean. The last batch is therefore written again
//!   and the segment synced before anything is built on it.
//! * Whatever ends this function with an error has changed nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::{DirLock, Disk, DiskFile};
use crate::error::SpoolError;
use crate::find::{FORMAT_FILE, FormatFile, find_segments, read_format, write_format};
use crate::ids::{BootEpoch, LaneId, Lsn, WallMs};
use crate::index::{Index, Tree};
use crate::journal::{Journal, Segment};
use crate::mailboxes::is_outbox;
use crate::record::{self, Kind, Record};
use crate::scan::{Found, Scanner};
use crate::segment::{self, JOURNAL_DIR, SEGMENT_HEADER_BYTES};
use crate::spool::{Options, Recovery, Spool};
use crate::tail::Tail;
use crate::types::STATES;
use crate::unheard::Unheard;

/// Lanes read at once when counters are summed up.
const LANES_PAGE: usize = 1024;

/// Whether the opener may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The daemon: begins a segment.
    ReadWrite,
    /// An inspection: changes nothing on the medium.
    ReadOnly,
}

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    index: Arc<dyn Index>,
    options: Options,
    now: WallMs,
) -> Result<(Spool, Recovery), SpoolError> {
    open_as(disk, index, options, now, Mode::ReadWrite)
}

/// See [`Spool::may_open`].
pub(crate) fn may_open(disk: &Arc<dyn Disk>) -> Result<(), SpoolError> {
    let lock = take_lock(disk)?;
    let format = read_format(disk.as_ref())?;
    let found = find_segments(disk, &format, Mode::ReadOnly);
    drop(lock);
    found.map(|_| ())
}

pub(crate) fn may_take_over(disk: &dyn Disk) -> Result<(), SpoolError> {
    read_format(disk).map(|_| ())
}

fn take_lock(disk: &Arc<dyn Disk>) -> Result<Box<dyn DirLock>, SpoolError> {
    disk.lock().map_err(|error| {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            SpoolError::Locked
        } else {
            SpoolError::io("lock", "LOCK", &error)
        }
    })
}

pub(crate) fn open_as(
    disk: Arc<dyn Disk>,
    index: Arc<dyn Index>,
    options: Options,
    now: WallMs,
    mode: Mode,
) -> Result<(Spool, Recovery), SpoolError> {
    let lock = take_lock(&disk)?;
    if mode == Mode::ReadWrite {
        disk.create_dir(JOURNAL_DIR).map_err(|error| SpoolError::io("create", JOURNAL_DIR, &error))?;
    }
    let format = read_format(disk.as_ref())?;
    let mut found = find_segments(&disk, &format, mode)?;
    let seed = match (found.seed, &format) {
        (Some(seed), _) => seed,
        (None, FormatFile::Missing) => options.seed,
        (None, FormatFile::Seed(seed)) => *seed,
        (None, FormatFile::Damaged(problem)) => {
            return Err(SpoolError::Foreign { name: FORMAT_FILE.to_owned(), problem: problem.clone() });
        }
    };
    if format != FormatFile::Seed(seed) {
        if format != FormatFile::Missing {
            found.foreign.push(FORMAT_FILE.to_owned());
        }
        if mode == Mode::ReadWrite {
            write_format(disk.as_ref(), seed)?;
        }
    }
    let epoch = BootEpoch(found.epoch + 1);
    let last = found.segments.keys().next_back().copied();
    let journal = Journal::found(
        disk.clone(),
        options.segment_bytes.clamp(64 * 1024, 1 << 30),
        seed,
        found.segments,
        found.spares,
    );
    let mut spool = Spool {
        options,
        disk,
        journal,
        tail: Tail::new(index),
        epoch,
        open_bodies: Default::default(),
        live: BTreeMap::new(),
        items: [0; STATES],
        bytes: [0; STATES],
        submissions: [0; STATES],
        lane_count: 0,
        next_lane: 1,
        sessions: Default::default(),
        session_of: Default::default(),
        next_session: 1,
        nacks: Default::default(),
        rings: Default::default(),
        bells: Default::default(),
        staged_steps: Default::default(),
        sweep: Default::default(),
        oldest_ready: None,
        compaction: None,
        compact_until: None,
        freed_bytes: 0,
        trim_wanted: false,
        emptied: Default::default(),
        removable: Default::default(),
        checkpoint_at: now,
        backup: None,
        backups_begun: 0,
        free_bytes: 0,
        damaged: 0,
        damaged_segments: Default::default(),
        _lock: lock,
    };
    let mut recovery = Recovery { epoch, foreign: found.foreign, ..Recovery::default() };
    for lsn in found.damaged_headers {
        recovery.damaged.push((lsn, SEGMENT_HEADER_BYTES));
    }
    let mut unheard = Unheard::default();
    let floor = spool.recover_state(last, &mut recovery, &mut unheard)?;
    spool.damaged = recovery.damaged.len() as u64;
    spool.look_at_free_space();
    spool.freed_bytes = spool.used_bytes().saturating_sub(spool.live.values().sum());
    match mode {
        Mode::ReadWrite => {
            spool.journal.begin(epoch, floor)?;
            recovery.unheard = spool.remember_unheard(unheard, now)?;
            recovery.interrupted = spool.doubt_armed(now)?;
            if recovery.rebuilt_index {
                spool.claim_index(now)?;
            }
        }
        Mode::ReadOnly => spool.journal.poison_with("opened for reading only"),
    }
    Ok((spool, recovery))
}

impl Spool {
    /// Loads the index and replays what it does not know; answers the floor for older indexes.
    fn recover_state(
        &mut self,
        last: Option<u32>,
        recovery: &mut Recovery,
        unheard: &mut Unheard,
    ) -> Result<Lsn, SpoolError> {
        let applied = self.tail.index().applied()?.filter(|applied| self.covers(*applied));
        // An index whose lanes cannot be read is of another version, or damaged: the journal knows them all.
        if let Some(applied) = applied.filter(|_| self.load_counters().is_ok()) {
            let damaged = recovery.damaged.len();
            self.look_back(applied, unheard)?;
            let floor = self.replay_from(applied, last, recovery, unheard)?;
            if floor <= applied {
                return Ok(applied);
            }
            // Segments that this index still needs are gone.
            recovery.damaged.truncate(damaged);
        }
        recovery.rebuilt_index = last.is_some();
        recovery.records = 0;
        recovery.bytes = 0;
        recovery.torn_bytes = 0;
        self.tail.index().clear()?;
        self.tail = Tail::new(self.tail.index().clone());
        self.live.clear();
        (self.items, self.bytes, self.lane_count, self.next_lane) = ([0; STATES], [0; STATES], 0, 1);
        self.submissions = [0; STATES];
        *unheard = Unheard::default();
        let floor = self.replay_from(Lsn(0), last, recovery, unheard)?;
        self.settle_cursors()?;
        Ok(floor)
    }

    /// Moves the cursor of every lane over positions whose items are gone from the journal too.
    fn settle_cursors(&mut self) -> Result<(), SpoolError> {
        let mut after = None;
        loop {
            let page = self.tail.lanes(after, LANES_PAGE)?;
            for (id, _) in &page {
                self.settle_cursor(*id)?;
            }
            if self.tail.bytes() >= self.options.checkpoint_bytes {
                self.fill_index()?;
            }
            match page.last() {
                Some((id, _)) if page.len() == LANES_PAGE => after = Some(*id),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Keeps memory bounded while the whole journal is read.
    fn fill_index(&mut self) -> Result<(), SpoolError> {
        self.put_live();
        let job = self.tail.freeze(Lsn(0))?;
        job.fill()?;
        self.tail.thaw();
        Ok(())
    }

    /// From here on the index counts. Without this, a kill before the first checkpoint would build it all over.
    fn claim_index(&mut self, now: WallMs) -> Result<(), SpoolError> {
        let Some(job) = self.begin_checkpoint(now)? else { return Ok(()) };
        let result = job.run();
        self.end_checkpoint(&job, result)
    }

    /// Does the journal hold the place that an index claims to have been applied to?
    fn covers(&self, applied: Lsn) -> bool {
        self.journal.segments().get(&applied.segment()).is_some_and(|segment| {
            applied.offset() >= SEGMENT_HEADER_BYTES && applied.offset() <= segment.end
        })
    }

    fn load_counters(&mut self) -> Result<(), SpoolError> {
        for (key, value) in self.tail.scan(Tree::Segment, &[], None, usize::MAX)? {
            if let (Ok(number), Ok(live)) = (<[u8; 4]>::try_from(key), <[u8; 8]>::try_from(value)) {
                let number = u32::from_be_bytes(number);
                if self.journal.segments().contains_key(&number) {
                    self.live.insert(number, u64::from_be_bytes(live));
                }
            }
        }
        let mut after: Option<LaneId> = None;
        loop {
            let page = self.tail.lanes(after, LANES_PAGE)?;
            for (id, lane) in &page {
                self.next_lane = self.next_lane.max(id.0.saturating_add(1));
                self.lane_count += u64::from(lane.defined != 0 && !is_outbox(&lane.name));
                let outbox = u64::from(is_outbox(&lane.name));
                for n in 0..self.items.len() {
                    self.submissions[n] += outbox * lane.items[n];
                    self.items[n] += lane.items[n];
                    self.bytes[n] += lane.bytes[n];
                }
            }
            match page.last() {
                Some((id, _)) if page.len() == LANES_PAGE => after = Some(*id),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Applies every record from `from` on; answers the highest floor that batches speak of.
    fn replay_from(
        &mut self,
        from: Lsn,
        last: Option<u32>,
        recovery: &mut Recovery,
        unheard: &mut Unheard,
    ) -> Result<Lsn, SpoolError> {
        let mut floor = Lsn(0);
        let segments: Vec<(u32, Segment)> = self
            .journal
            .segments()
            .range(from.segment()..)
            .map(|(number, segment)| (*number, segment.clone()))
            .collect();
        for (number, segment) in segments {
            let start = if number == from.segment() { from.offset() } else { 0 };
            let mut scanner =
                Scanner::new(segment.file.clone(), number, self.journal.seed(), start, segment.end);
            let begun = scanner.at().offset();
            let mut end = begun;
            let mut batch_at = begun;
            loop {
                match scanner.next()? {
                    None => break,
                    Some(Found::Damaged { lsn, bytes }) => {
                        if Some(number) == last && !self.batch_follows(&segment, number, lsn, bytes)? {
                            break;
                        }
                        recovery.damaged.push((lsn, bytes));
                    }
                    Some(Found::Record { lsn, kind, payload }) => {
                        end = lsn.offset() + (payload.len() + record::OVERHEAD_BYTES) as u32;
                        recovery.records += 1;
                        let len = payload.len() as u32;
                        let decoded = Kind::from_u8(kind).map(|kind| record::decode(kind, payload));
                        if let Some(Ok(record)) = &decoded {
                            unheard.see(record);
                        }
                        match decoded {
                            Some(Ok(Record::Batch(batch))) => {
                                floor = floor.max(Lsn(batch.floor));
                                batch_at = lsn.offset();
                            }
                            Some(Ok(record)) => self.apply(lsn, &record)?,
                            Some(Err(_)) | None => recovery.damaged.push((lsn, len)),
                        }
                        if from == Lsn(0) && self.tail.bytes() >= self.options.checkpoint_bytes {
                            self.fill_index()?;
                        }
                    }
                }
            }
            recovery.bytes += u64::from(end - begun);
            if Some(number) == last {
                recovery.torn_bytes = torn_bytes(&segment.file, number, end, segment.end)?;
                self.journal.set_end(number, end, batch_at);
            }
        }
        Ok(floor)
    }

    /// Was a batch begun behind a bad stretch? Then the stretch had been stable, and is damage.
    fn batch_follows(
        &self,
        segment: &Segment,
        number: u32,
        lsn: Lsn,
        bytes: u32,
    ) -> Result<bool, SpoolError> {
        let from = lsn.offset() + bytes;
        let mut scanner = Scanner::new(segment.file.clone(), number, self.journal.seed(), from, segment.end);
        while let Some(found) = scanner.next()? {
            if matches!(found, Found::Record { kind, .. } if kind == Kind::Batch as u8) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Bytes behind the last whole record that look like the start of one that was never finished.
fn torn_bytes(file: &Arc<dyn DiskFile>, number: u32, end: u32, limit: u32) -> Result<u64, SpoolError> {
    let mut head = [0; record::HEADER_BYTES];
    if u64::from(end) + head.len() as u64 > u64::from(limit) {
        return Ok(u64::from(limit - end));
    }
    file.read_exact_at(&mut head, u64::from(end))
        .map_err(|error| SpoolError::io("read", &segment::file_name(number), &error))?;
    let header = record::Header::decode(&head, Lsn::at(number, end));
    Ok(header.map_or(0, |header| header.record_bytes().min(u64::from(limit - end))))
}
