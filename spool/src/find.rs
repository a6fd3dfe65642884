//! What a spool directory holds: the format file, segments with their headers, spares, and names that are not ours.
//!
//! Nothing is believed before it is checked. A segment whose header is bad is thrown away only when the seed is
//! known and no record in it is valid: its creation was cut short. In doubt everything stays where it is.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::SpoolError;
use crate::ids::Lsn;
use crate::journal::Segment;
use crate::recover::Mode;
use crate::scan::Scanner;
use crate::segment::{
    self, FORMAT_VERSION, FileKind, HeaderError, JOURNAL_DIR, SEGMENT_HEADER_BYTES, SegmentHeader,
};

/// Says that this is a spool, of which version, and with which checksum seed.
pub(crate) const FORMAT_FILE: &str = "FORMAT";
/// Spares kept from an earlier process.
const SPARES_MAX: usize = 8;

/// What the directory holds.
pub(crate) struct FoundSegments {
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) spares: Vec<u32>,
    pub(crate) foreign: Vec<String>,
    pub(crate) damaged_headers: Vec<Lsn>,
    pub(crate) seed: Option<u32>,
    pub(crate) epoch: u32,
}

pub(crate) fn find_segments(
    disk: &Arc<dyn Disk>,
    format: &FormatFile,
    mode: Mode,
) -> Result<FoundSegments, SpoolError> {
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
pub(crate) enum FormatFile {
    /// There is none: a new spool, or one that never got further.
    Missing,
    /// The checksum seed of this spool.
    Seed(u32),
    /// It is not what we write; a spool all the same if there are segments with good headers.
    Damaged(String),
}

pub(crate) fn read_format(disk: &dyn Disk) -> Result<FormatFile, SpoolError> {
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

pub(crate) fn write_format(disk: &dyn Disk, seed: u32) -> Result<(), SpoolError> {
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
