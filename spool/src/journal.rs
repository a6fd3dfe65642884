//! The append-only truth: segments of records, written in batches, made stable by one sync each.
//!
//! Promise: when `flush` returns `Ok`, every record appended before it is on stable storage. When a
//! write or a sync fails the journal is poisoned: it refuses everything from then on, because nobody knows what
//! the medium holds. Failing to *get space* for a new segment is no such failure: nothing was written, intake is
//! refused, and what must always fit (acks, states) still has the reserve at the end of the active segment.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::{Arc, RwLock};

use crate::batch::{Pending, write_batch};
use crate::disk::{Disk, DiskFile};
use crate::error::SpoolError;
use crate::ids::{BootEpoch, Lsn, WallMs};
use crate::reader::{Files, JournalReader};
use crate::record::{self, BatchRecord, Header, Kind, OVERHEAD_BYTES, PAYLOAD_BYTES_MAX};
use crate::segment::{self, JOURNAL_DIR, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::spare::SpareJob;

/// A segment that was full sooner than this, in milliseconds, is followed by one that is not zero-filled: so much
/// data comes that writing everything twice costs more than the file system's bookkeeping at the syncs.
const ZERO_FILL_WORTH_MS: u64 = 2000;
/// Segments given up that are kept to be used again, beside what is in use.
const SPARES_KEPT_MAX: usize = 4;
/// Free space beyond the segment itself that must be left before another one is begun.
const HEADROOM_BYTES: u64 = 1024 * 1024;
/// A record that begins something is about so large.
const PROBE_BYTES: u32 = 512;

/// Whether a record may use the reserve of the active segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// New work from outside: refused when space is short.
    Intake,
    /// What must be followed by a record of its end: refused while half of the reserve is still there for the ends.
    Begin,
    /// States, mailboxes, moves: what keeps the promises already made.
    Upkeep,
}

/// A record could not be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// No room in the active segment and no space for another. Nothing changed.
    NoSpace,
    /// The journal failed.
    Spool(SpoolError),
}

impl From<SpoolError> for AppendError {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

impl From<AppendError> for SpoolError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace => Self::Io {
                operation: "allocate",
                name: JOURNAL_DIR.to_owned(),
                message: "no space for another segment".to_owned(),
            },
            AppendError::Spool(error) => error,
        }
    }
}

/// One segment that this process knows.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where its records end; for the active one: where the next batch begins.
    pub(crate) end: u32,
}

/// What the journal did, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalCounters {
    /// Bytes of records written.
    pub bytes_written: u64,
    /// Syncs of the active segment.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
}

#[derive(Debug)]
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    segment_bytes: u32,
    seed: u32,
    epoch: BootEpoch,
    segments: BTreeMap<u32, Segment>,
    files: Files,
    active: u32,
    pending: Vec<Pending>,
    pending_bytes: u32,
    /// Where the last batch that recovery read begins.
    last_batch_at: u32,
    /// When the active segment was begun, by the clock of the commits.
    rotated_at: WallMs,
    /// The segment before was full in no time.
    busy: bool,
    floor: Lsn,
    now: WallMs,
    poisoned: Option<String>,
    next_spare: u32,
    spares: Vec<u32>,
    counters: JournalCounters,
}

impl Journal {
    /// The journal as recovery finds it: nothing can be appended before [`Journal::begin`].
    pub(crate) fn found(
        disk: Arc<dyn Disk>,
        segment_bytes: u32,
        seed: u32,
        segments: BTreeMap<u32, Segment>,
        spares: Vec<u32>,
    ) -> Self {
        let active = segments.keys().next_back().copied().unwrap_or(0);
        let files = segments.iter().map(|(number, segment)| (*number, segment.file.clone())).collect();
        Self {
            disk,
            segment_bytes,
            seed,
            epoch: BootEpoch(0),
            segments,
            files: Arc::new(RwLock::new(files)),
            active,
            pending: Vec::new(),
            pending_bytes: 0,
            last_batch_at: u32::MAX,
            rotated_at: WallMs(0),
            busy: false,
            floor: Lsn(0),
            now: WallMs(0),
            poisoned: None,
            next_spare: spares.iter().max().map_or(0, |n| n + 1),
            spares,
            counters: JournalCounters::default(),
        }
    }

    /// Begins a fresh segment after what recovery has read. What an unfinished batch of an earlier process left
    /// behind the end of the last segment can then never be mistaken for something written later.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub(crate) fn begin(&mut self, epoch: BootEpoch, floor: Lsn) -> Result<(), SpoolError> {
        self.epoch = epoch;
        self.floor = floor;
        let last = self.active;
        self.make_stable(last)?;
        self.begin_segment()?;
        if self.segments.get(&last).is_some_and(|segment| segment.end == SEGMENT_HEADER_BYTES) {
            return self.remove_segment(last, false); // a start that wrote nothing
        }
        Ok(())
    }

    /// Writes the last batch of an earlier process again, and syncs: recovery may have read it from the page
    /// cache alone. After a sync that failed the kernel calls such pages clean, so that only a write brings them
    /// to the medium. Batches before it were stable when it was begun. What lies behind it, the rest of a batch
    /// that never was stable, is cut off for good: the header of the next segment says where this one ends too,
    /// but that segment may be gone one day.
    fn make_stable(&self, number: u32) -> Result<(), SpoolError> {
        let Some(segment) = self.segments.get(&number) else { return Ok(()) };
        let name = segment::file_name(number);
        let mut batch = vec![0; segment.end.saturating_sub(self.last_batch_at) as usize];
        if !batch.is_empty() {
            let at = u64::from(self.last_batch_at);
            segment
                .file
                .read_exact_at(&mut batch, at)
                .map_err(|error| SpoolError::io("read", &name, &error))?;
            segment
                .file
                .write_all_at(&mut [IoSlice::new(&batch)], at)
                .map_err(|error| SpoolError::io("write", &name, &error))?;
        }
        segment
            .file
            .set_len(u64::from(segment.end))
            .map_err(|error| SpoolError::io("truncate", &name, &error))?;
        segment.file.sync().map_err(|error| SpoolError::io("sync", &name, &error))
    }

    /// Corrects where the records of the last segment end and its last batch begins, once recovery has read it.
    pub(crate) fn set_end(&mut self, number: u32, end: u32, batch_at: u32) {
        self.last_batch_at = batch_at;
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.end = end;
        }
    }

    /// Appends a record to the batch and answers where it will lie. Not stable before `flush`.
    ///
    /// * `crc`: checksum of the payload alone, if the caller has computed it already.
    pub(crate) fn append(
        &mut self,
        kind: Kind,
        payload: Vec<u8>,
        crc: Option<u32>,
        class: Class,
    ) -> Result<Lsn, AppendError> {
        self.healthy()?;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SpoolError::Corrupt {
                lsn: self.position(),
                problem: format!("refused to write {len} bytes in one record"),
            }
            .into());
        }
        if self.pending.is_empty() {
            self.make_room(self.batch_record_bytes() + len + OVERHEAD_BYTES as u32, class)?;
            self.push_batch_record()?;
        } else if !self.fits(len + OVERHEAD_BYTES as u32, class) {
            self.make_room(self.batch_record_bytes() + len + OVERHEAD_BYTES as u32, class)?;
            if self.pending.is_empty() {
                self.push_batch_record()?;
            }
        }
        Ok(self.push(kind, payload, crc))
    }

    fn push(&mut self, kind: Kind, payload: Vec<u8>, crc: Option<u32>) -> Lsn {
        let lsn = self.position();
        let header = Header { len: payload.len() as u32, kind: kind as u8, flags: 0, lsn };
        let bytes = header.encode();
        let crc = crc.unwrap_or_else(|| record::payload_crc(self.seed, &payload));
        self.pending_bytes += header.record_bytes() as u32;
        self.pending.push(Pending { header: bytes, payload, crc: record::seal(crc, &bytes).to_le_bytes() });
        lsn
    }

    fn push_batch_record(&mut self) -> Result<(), SpoolError> {
        let batch = BatchRecord { at_ms: self.now.0, floor: self.floor.0, epoch: self.epoch.0 };
        let payload = record::encode(Kind::Batch, &batch)
            .map_err(|error| SpoolError::Corrupt { lsn: self.position(), problem: error.to_string() })?;
        self.push(Kind::Batch, payload, None);
        Ok(())
    }

    fn batch_record_bytes(&self) -> u32 {
        (1 + 8 + 8 + 4 + OVERHEAD_BYTES) as u32
    }

    fn reserve_bytes(&self) -> u32 {
        (self.segment_bytes / 16).min(1024 * 1024)
    }

    fn fits(&self, bytes: u32, class: Class) -> bool {
        let limit = match class {
            Class::Intake => self.segment_bytes - self.reserve_bytes(),
            Class::Begin => self.segment_bytes - self.reserve_bytes() / 2,
            Class::Upkeep => self.segment_bytes,
        };
        u64::from(self.position().offset()) + u64::from(bytes) <= u64::from(limit)
    }

    /// Whether so many live bytes can be written again without what is kept for promises already made.
    pub(crate) fn takes_moves(&self, live_bytes: u64) -> bool {
        let bytes = u32::try_from(live_bytes + live_bytes / 8).unwrap_or(u32::MAX);
        self.fits(bytes, Class::Intake) || self.may_rotate()
    }

    /// Whether there seems to be space for another segment.
    fn may_rotate(&self) -> bool {
        let need = u64::from(self.segment_bytes) + HEADROOM_BYTES;
        !self.spares.is_empty() || !self.disk.free_bytes().is_ok_and(|free| free < need)
    }

    /// Would something be taken that must be followed by a record of its end?
    pub(crate) fn carries(&self) -> Result<(), AppendError> {
        self.healthy()?;
        if self.fits(PROBE_BYTES, Class::Begin) || self.may_rotate() {
            Ok(())
        } else {
            Err(AppendError::NoSpace)
        }
    }

    /// Sees to it that `bytes` more fit, by going to the next segment if need be.
    fn make_room(&mut self, bytes: u32, class: Class) -> Result<(), AppendError> {
        if self.fits(bytes, class) {
            return Ok(());
        }
        match self.rotate() {
            Err(AppendError::NoSpace) if self.fits(bytes, class) => Ok(()),
            other => other,
        }?;
        if self.position().offset() == SEGMENT_HEADER_BYTES || self.fits(bytes, Class::Upkeep) {
            return Ok(()); // a record larger than a (small) segment gets one of its own
        }
        Err(AppendError::NoSpace)
    }

    /// Writes and syncs what waits, seals the active segment and begins the next one.
    pub(crate) fn rotate(&mut self) -> Result<(), AppendError> {
        if !self.may_rotate() {
            return Err(AppendError::NoSpace);
        }
        self.flush()?;
        let sealed = self.active;
        self.busy = self.now.since(self.rotated_at) < ZERO_FILL_WORTH_MS;
        self.rotated_at = self.now;
        match self.begin_segment() {
            Ok(()) => {}
            Err(SpoolError::Io { operation: "allocate", .. }) => return Err(AppendError::NoSpace),
            Err(error) => return Err(self.poison(error).into()),
        }
        // From here on the header of the new segment says where the old one ends; giving its unused tail back
        // to the file system is a convenience.
        if let Some(segment) = self.segments.get(&sealed) {
            let _ = segment.file.set_len(u64::from(segment.end));
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        let number = self.active.checked_add(1).ok_or_else(|| SpoolError::Foreign {
            name: JOURNAL_DIR.to_owned(),
            problem: "segment numbers are used up".to_owned(),
        })?;
        let name = segment::file_name(number);
        let file = if let Some(spare) = self.spares.pop() {
            let from = segment::spare_name(spare);
            self.disk.rename(&from, &name).map_err(|error| SpoolError::io("rename", &from, &error))?;
            let file = self.disk.open(&name, true).map_err(|error| SpoolError::io("open", &name, &error))?;
            // A recycled segment was cut at its end. Space that cannot be had now is found missing at a write.
            if file.len().is_ok_and(|len| len < u64::from(self.segment_bytes)) {
                let _ = file.allocate(u64::from(self.segment_bytes));
            }
            file
        } else {
            let file = self.disk.create(&name).map_err(|error| SpoolError::io("allocate", &name, &error))?;
            if let Err(error) = file.allocate(u64::from(self.segment_bytes)) {
                let _ = self.disk.remove(&name);
                return Err(SpoolError::io("allocate", &name, &error));
            }
            file
        };
        let previous_end = self.segments.get(&self.active).map_or(0, |segment| segment.end);
        let header = SegmentHeader {
            number,
            epoch: self.epoch.0,
            seed: self.seed,
            previous: self.active,
            previous_end,
        };
        file.write_all_at(&mut [IoSlice::new(&header.encode())], 0)
            .map_err(|error| SpoolError::io("write", &name, &error))?;
        file.sync().map_err(|error| SpoolError::io("sync", &name, &error))?;
        self.disk.sync_dir(JOURNAL_DIR).map_err(|error| SpoolError::io("sync", JOURNAL_DIR, &error))?;
        self.segments.insert(number, Segment { file: file.clone(), end: SEGMENT_HEADER_BYTES });
        write_files(&self.files).insert(number, file);
        self.active = number;
        Ok(())
    }

    /// Writes and syncs everything appended; true when there was anything.
    ///
    /// # Errors
    /// [`SpoolError`]; the journal is poisoned then.
    pub(crate) fn flush(&mut self) -> Result<bool, SpoolError> {
        self.healthy()?;
        if self.pending.is_empty() {
            return Ok(false);
        }
        let Some(segment) = self.segments.get_mut(&self.active) else { return Err(SpoolError::Closed) };
        let file = segment.file.clone();
        let name = segment::file_name(self.active);
        let result = write_batch(file.as_ref(), segment.end, &self.pending)
            .map_err(|error| SpoolError::io("write", &name, &error))
            .and_then(|()| file.sync().map_err(|error| SpoolError::io("sync", &name, &error)));
        if let Err(error) = result {
            return Err(self.poison(error));
        }
        segment.end += self.pending_bytes;
        self.counters.bytes_written += u64::from(self.pending_bytes);
        self.counters.records += self.pending.len() as u64;
        self.counters.syncs += 1;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(true)
    }

    /// A batch with nothing but its own record: says that everything before it was stable.
    pub(crate) fn confirm(&mut self) -> Result<(), AppendError> {
        if self.pending.is_empty() {
            self.make_room(self.batch_record_bytes(), Class::Upkeep)?;
            self.push_batch_record()?;
        }
        self.flush()?;
        Ok(())
    }

    fn poison(&mut self, error: SpoolError) -> SpoolError {
        self.poisoned.get_or_insert_with(|| error.to_string());
        error
    }

    /// Refuses everything from now on, because something that must not fail did.
    pub(crate) fn poison_with(&mut self, reason: &str) {
        self.poisoned.get_or_insert_with(|| reason.to_owned());
    }

    /// # Errors
    /// [`SpoolError::Poisoned`] after the first failure.
    pub(crate) fn healthy(&self) -> Result<(), SpoolError> {
        match &self.poisoned {
            None => Ok(()),
            Some(reason) => Err(SpoolError::Poisoned { reason: reason.clone() }),
        }
    }

    /// Where the next record will lie.
    pub(crate) fn position(&self) -> Lsn {
        let end = self.segments.get(&self.active).map_or(SEGMENT_HEADER_BYTES, |segment| segment.end);
        Lsn::at(self.active, end + self.pending_bytes)
    }

    /// Everything below is stable.
    pub(crate) fn durable(&self) -> Lsn {
        let end = self.segments.get(&self.active).map_or(SEGMENT_HEADER_BYTES, |segment| segment.end);
        Lsn::at(self.active, end)
    }

    pub(crate) fn set_now(&mut self, now: WallMs) {
        self.now = now;
    }

    /// From the next batch on, an index applied to less than `floor` counts as useless.
    pub(crate) fn set_floor(&mut self, floor: Lsn) {
        self.floor = self.floor.max(floor);
    }

    pub(crate) fn seed(&self) -> u32 {
        self.seed
    }

    pub(crate) fn segments(&self) -> &BTreeMap<u32, Segment> {
        &self.segments
    }

    pub(crate) fn active(&self) -> u32 {
        self.active
    }

    pub(crate) fn counters(&self) -> JournalCounters {
        self.counters
    }

    /// Handle for readers of bodies.
    pub(crate) fn reader(&self) -> JournalReader {
        JournalReader { files: self.files.clone(), seed: self.seed }
    }

    /// Takes segment `number` out and gives its space back, or keeps the file as a spare if there are few.
    /// `recycle`: false when the space is wanted more than the speed.
    pub(crate) fn remove_segment(&mut self, number: u32, recycle: bool) -> Result<(), SpoolError> {
        if number == self.active || self.segments.remove(&number).is_none() {
            return Ok(());
        }
        write_files(&self.files).remove(&number);
        let name = segment::file_name(number);
        if recycle && self.spares.len() < SPARES_KEPT_MAX {
            let spare = self.next_spare;
            let to = segment::spare_name(spare);
            self.disk.rename(&name, &to).map_err(|error| SpoolError::io("rename", &name, &error))?;
            self.next_spare += 1;
            self.spares.push(spare);
        } else {
            self.disk.remove(&name).map_err(|error| SpoolError::io("remove", &name, &error))?;
        }
        self.disk.sync_dir(JOURNAL_DIR).map_err(|error| SpoolError::io("sync", JOURNAL_DIR, &error))
    }

    /// Removes all spares, and begins a small segment if the active one has room set aside that nobody uses.
    pub(crate) fn drop_spares(&mut self) -> Result<(), SpoolError> {
        while let Some(spare) = self.spares.pop() {
            let name = segment::spare_name(spare);
            self.disk.remove(&name).map_err(|error| SpoolError::io("remove", &name, &error))?;
        }
        Ok(())
    }

    /// Gives back the space set aside behind the active segment's records. Later batches make the file grow.
    pub(crate) fn trim_active(&mut self) -> Result<(), SpoolError> {
        if let Some(segment) = self.segments.get(&self.active) {
            let name = segment::file_name(self.active);
            segment
                .file
                .set_len(u64::from(segment.end))
                .map_err(|error| SpoolError::io("truncate", &name, &error))?;
        }
        Ok(())
    }

    /// A job that prepares a spare, to be run beside the writer, when there is none.
    pub(crate) fn spare_job(&mut self) -> Option<SpareJob> {
        if !self.spares.is_empty() || self.busy || self.poisoned.is_some() {
            return None;
        }
        let number = self.next_spare;
        self.next_spare += 1;
        Some(SpareJob { disk: self.disk.clone(), number, bytes: self.segment_bytes })
    }

    /// Takes over a spare that a [`SpareJob`] has finished.
    pub(crate) fn adopt_spare(&mut self, number: u32) {
        self.spares.push(number);
    }
}

fn write_files(
    files: &RwLock<BTreeMap<u32, Arc<dyn DiskFile>>>,
) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u32, Arc<dyn DiskFile>>> {
    files.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
