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
use std::io::IoSlice;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::SpoolError;
use crate::ids::{BootEpoch, LaneId, Lsn, WallMs};
use crate::index::{Index, Tree};
use crate::journal::{Journal, Segment};
use crate::record::{self, Kind, Record};
use crate::scan::{Found, Scanner};
use crate::segment::{
    self, FORMAT_VERSION, FileKind, HeaderError, JOURNAL_DIR, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::spool::{Options, Recovery, Spool};
use crate::tail::Tail;

/// Says that this is a spool, of which version, and with which checksum seed.
const FORMAT_FILE: &str = "FORMAT";
/// Spares kept from an earlier process.
const SPARES_MAX: usize = 8;
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

pub(crate) fn open_as(
    disk: Arc<dyn Disk>,
    index: Arc<dyn Index>,
    options: Options,
    now: WallMs,
    mode: Mode,
) -> Result<(Spool, Recovery), SpoolError> {
    let lock = disk.lock().map_err(|error| {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            SpoolError::Locked
        } else {
            SpoolError::io("lock", "LOCK", &error)
        }
    })?;
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
        items: [0; 6],
        bytes: [0; 6],
        lane_count: 0,
        next_lane: 1,
        sessions: Default::default(),
        session_of: Default::default(),
        next_session: 1,
        nacks: Default::default(),
        rings: Default::default(),
        sweep: Default::default(),
        oldest_ready: None,
        compaction: None,
        compact_until: None,
        freed_bytes: 0,
        trim_wanted: false,
        emptied: Default::default(),
        removable: Default::default(),
        checkpoint_at: now,
        free_bytes: 0,
        damaged: 0,
        damaged_segments: Default::default(),
        _lock: lock,
    };
    let mut recovery = Recovery { epoch, foreign: found.foreign, ..Recovery::default() };
    for lsn in found.damaged_headers {
        recovery.damaged.push((lsn, SEGMENT_HEADER_BYTES));
    }
    let floor = spool.recover_state(last, &mut recovery)?;
    spool.damaged = recovery.damaged.len() as u64;
    spool.look_at_free_space();
    spool.freed_bytes = spool.used_bytes().saturating_sub(spool.live.values().sum());
    match mode {
        Mode::ReadWrite => spool.journal.begin(epoch, floor)?,
        Mode::ReadOnly => spool.journal.poison_with("opened for reading only"),
    }
    Ok((spool, recovery))
}

impl Spool {
    /// Loads the index and replays what it does not know; answers the floor for older indexes.
    fn recover_state(&mut self, last: Option<u32>, recovery: &mut Recovery) -> Result<Lsn, SpoolError> {
        let applied = self.tail.index().applied()?.filter(|applied| self.covers(*applied));
        if let Some(applied) = applied {
            self.load_counters()?;
            let damaged = recovery.damaged.len();
            let floor = self.replay_from(applied, last, recovery)?;
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
        (self.items, self.bytes, self.lane_count, self.next_lane) = ([0; 6], [0; 6], 0, 1);
        let floor = self.replay_from(Lsn(0), last, recovery)?;
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
            match page.last() {
                Some((id, _)) if page.len() == LANES_PAGE => after = Some(*id),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Keeps memory bounded while the whole journal is read.
    fn checkpoint_while_rebuilding(&mut self, applied: Lsn) -> Result<(), SpoolError> {
        self.put_live();
        let job = self.tail.freeze(applied)?;
        job.run()?;
        self.tail.thaw();
        Ok(())
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
                self.lane_count += u64::from(lane.defined != 0);
                for n in 0..self.items.len() {
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
                        match Kind::from_u8(kind).map(|kind| record::decode(kind, payload)) {
                            Some(Ok(Record::Batch(batch))) => {
                                floor = floor.max(Lsn(batch.floor));
                                batch_at = lsn.offset();
                            }
                            Some(Ok(record)) => self.apply(lsn, &record)?,
                            Some(Err(_)) | None => recovery.damaged.push((lsn, len)),
                        }
                        if from == Lsn(0) && self.tail.bytes() >= self.options.checkpoint_bytes {
                            self.checkpoint_while_rebuilding(Lsn::at(number, end))?;
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

struct FoundSegments {
    segments: BTreeMap<u32, Segment>,
    spares: Vec<u32>,
    foreign: Vec<String>,
    damaged_headers: Vec<Lsn>,
    seed: Option<u32>,
    epoch: u32,
}

fn find_segments(disk: &Arc<dyn Disk>, format: &FormatFile, mode: Mode) -> Result<FoundSegments, SpoolError> {
    let mut found = FoundSegments {
        segments: BTreeMap::new(),
        spares: Vec::new(),
        foreign: Vec::new(),
        damaged_headers: Vec::new(),
        seed: None,
        epoch: 0,
    };
    let entries = match disk.list(JOURNAL_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(SpoolError::io("list", JOURNAL_DIR, &error)),
    };
    let mut headers: BTreeMap<u32, SegmentHeader> = BTreeMap::new();
    let mut headless: Vec<u32> = Vec::new();
    for entry in entries {
        match segment::file_kind(&entry.name) {
            FileKind::Foreign => found.foreign.push(entry.name),
            FileKind::Spare(n) if found.spares.len() < SPARES_MAX => found.spares.push(n),
            FileKind::Spare(_) => found.foreign.push(entry.name),
            FileKind::Segment(number) => {
                let name = segment::file_name(number);
                let write = mode == Mode::ReadWrite;
                let file = disk.open(&name, write).map_err(|error| SpoolError::io("open", &name, &error))?;
                match read_header(&file, number) {
                    Ok(header) => {
                        found.seed = found.seed.or(Some(header.seed));
                        found.epoch = found.epoch.max(header.epoch);
                        headers.insert(number, header);
                    }
                    Err(HeaderError::Newer(version)) => {
                        return Err(SpoolError::NewerFormat { found: version, supported: FORMAT_VERSION });
                    }
                    Err(HeaderError::Invalid) => headless.push(number),
                }
                let end = u32::try_from(entry.len).unwrap_or(u32::MAX);
                found.segments.insert(number, Segment { file, end });
            }
        }
    }
    // Headers carry a checksum, the format file is text: where they differ, the headers are right.
    if let (None, FormatFile::Seed(seed)) = (found.seed, format) {
        found.seed = Some(*seed);
    }
    for number in headless {
        drop_or_keep_headless(disk.as_ref(), &mut found, number, mode)?;
    }
    let numbers: Vec<u32> = found.segments.keys().copied().collect();
    for pair in numbers.windows(2) {
        if let (Some(segment), Some(next)) = (found.segments.get_mut(&pair[0]), headers.get(&pair[1]))
            && next.previous == pair[0]
            && next.previous_end >= SEGMENT_HEADER_BYTES
        {
            segment.end = segment.end.min(next.previous_end);
        }
    }
    Ok(found)
}

/// A segment without a header was never begun (its creation was cut short), unless it holds a record.
fn drop_or_keep_headless(
    disk: &dyn Disk,
    found: &mut FoundSegments,
    number: u32,
    mode: Mode,
) -> Result<(), SpoolError> {
    let Some(segment) = found.segments.get(&number) else { return Ok(()) };
    // Without the seed nobody can tell, so nothing is thrown away.
    let Some(seed) = found.seed else {
        return Err(SpoolError::Foreign {
            name: segment::file_name(number),
            problem: format!("its header is damaged, and {FORMAT_FILE} and all other headers are gone"),
        });
    };
    let mut scanner = Scanner::new(segment.file.clone(), number, seed, 0, segment.end);
    if scanner.next()?.is_some() {
        found.damaged_headers.push(Lsn::at(number, 0));
        return Ok(());
    }
    found.segments.remove(&number);
    if mode == Mode::ReadWrite {
        let name = segment::file_name(number);
        disk.remove(&name).map_err(|error| SpoolError::io("remove", &name, &error))?;
    }
    Ok(())
}

fn read_header(file: &Arc<dyn DiskFile>, number: u32) -> Result<SegmentHeader, HeaderError> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|_| HeaderError::Invalid)?;
    SegmentHeader::decode(&bytes, number)
}

/// What the format file says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FormatFile {
    /// There is none: a new spool, or one that never got further.
    Missing,
    /// The checksum seed of this spool.
    Seed(u32),
    /// It is not what we write; a spool all the same if there are segments with good headers.
    Damaged(String),
}

fn read_format(disk: &dyn Disk) -> Result<FormatFile, SpoolError> {
    let damaged = |problem: &str| Ok(FormatFile::Damaged(problem.to_owned()));
    let file = match disk.open(FORMAT_FILE, false) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(FormatFile::Missing),
        Err(error) => return Err(SpoolError::io("open", FORMAT_FILE, &error)),
    };
    let len = file.len().map_err(|error| SpoolError::io("read", FORMAT_FILE, &error))?;
    if len > 4096 {
        return damaged("it is too long");
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|error| SpoolError::io("read", FORMAT_FILE, &error))?;
    let Ok(text) = String::from_utf8(bytes) else { return damaged("it is not text") };
    let mut words = text.split_whitespace();
    if words.next() != Some("waystation-spool") {
        return damaged("it does not begin with waystation-spool");
    }
    let Some(version) = words.next().and_then(|word| word.parse::<u32>().ok()) else {
        return damaged("it has no version");
    };
    if version > FORMAT_VERSION {
        return Err(SpoolError::NewerFormat { found: version, supported: FORMAT_VERSION });
    }
    let seed = words.next().and_then(|word| word.strip_prefix("seed="));
    match seed.and_then(|word| u32::from_str_radix(word, 16).ok()) {
        Some(seed) => Ok(FormatFile::Seed(seed)),
        None => damaged("it has no seed"),
    }
}

fn write_format(disk: &dyn Disk, seed: u32) -> Result<(), SpoolError> {
    const NEW: &str = "FORMAT.new";
    let io = |operation, error: std::io::Error| SpoolError::io(operation, FORMAT_FILE, &error);
    match disk.remove(NEW) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("remove", error)),
    }
    let file = disk.create(NEW).map_err(|error| io("create", error))?;
    let text = format!("waystation-spool {FORMAT_VERSION} seed={seed:08x}\n");
    file.write_all_at(&mut [IoSlice::new(text.as_bytes())], 0).map_err(|error| io("write", error))?;
    file.sync().map_err(|error| io("sync", error))?;
    disk.rename(NEW, FORMAT_FILE).map_err(|error| io("rename", error))?;
    disk.sync_dir("").map_err(|error| io("sync", error))
}
