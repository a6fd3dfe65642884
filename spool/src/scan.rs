//! Reads the records of one segment in order, and finds its way again after a damaged one.
//!
//! Memory is bounded by one window and one record. Damage is a value, not an error: a bad stretch is reported
//! with its length, and the scan goes on at the next record that carries its own lsn and a right checksum.

use std::sync::Arc;

use crate::disk::DiskFile;
use crate::error::SpoolError;
use crate::ids::Lsn;
use crate::record::{self, HEADER_BYTES, Header, OVERHEAD_BYTES, PAYLOAD_BYTES_MAX};
use crate::segment::{self, SEGMENT_HEADER_BYTES};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1024 * 1024;

/// What a scan meets.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A whole record.
    Record {
        /// Where.
        lsn: Lsn,
        /// Kind number, not yet checked.
        kind: u8,
        /// Its payload; only the first bytes if `clipped`.
        payload: &'a [u8],
    },
    /// Bytes that are no record, up to where the next one begins (or the end of the segment).
    Damaged {
        /// Where they begin.
        lsn: Lsn,
        /// How many.
        bytes: u32,
    },
}

/// What space ahead of use looks like.
static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

/// A position in one segment.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: Arc<dyn DiskFile>,
    number: u32,
    seed: u32,
    at: u32,
    end: u32,
    window: Vec<u8>,
    window_at: u32,
}

impl Scanner {
    /// Scans segment `number` from byte `from` to byte `end`.
    pub(crate) fn new(file: Arc<dyn DiskFile>, number: u32, seed: u32, from: u32, end: u32) -> Self {
        let from = from.max(SEGMENT_HEADER_BYTES);
        Self { file, number, seed, at: from, end, window: Vec::new(), window_at: 0 }
    }

    /// Where the scan stands.
    pub(crate) fn at(&self) -> Lsn {
        Lsn::at(self.number, self.at)
    }

    /// The next record or bad stretch; `None` at the end: at `end`, or where only zeros or stale bytes of a
    /// recycled file follow.
    ///
    /// # Errors
    /// [`SpoolError::Io`] when the medium fails.
    pub(crate) fn next(&mut self) -> Result<Option<Found<'_>>, SpoolError> {
        if let Some(len) = self.whole_record(self.at)? {
            return Ok(Some(self.record(len)));
        }
        match self.resync()? {
            None => Ok(None),
            Some(next) => {
                let (lsn, bytes) = (self.at(), next - self.at);
                self.at = next;
                Ok(Some(Found::Damaged { lsn, bytes }))
            }
        }
    }

    fn record(&mut self, len: usize) -> Found<'_> {
        let start = (self.at - self.window_at) as usize;
        let lsn = self.at();
        self.at += (len + OVERHEAD_BYTES) as u32;
        let payload = &self.window[start + HEADER_BYTES..start + HEADER_BYTES + len];
        Found::Record { lsn, kind: self.window[start + 4], payload }
    }

    /// Payload length of the valid record at `at`, with its bytes in the window.
    fn whole_record(&mut self, at: u32) -> Result<Option<usize>, SpoolError> {
        let Some(head) = self.fill(at, HEADER_BYTES)? else { return Ok(None) };
        let Ok(bytes) = <[u8; HEADER_BYTES]>::try_from(&self.window[head..head + HEADER_BYTES]) else {
            return Ok(None);
        };
        let Some(header) = Header::decode(&bytes, Lsn::at(self.number, at)) else { return Ok(None) };
        let len = header.len as usize;
        let Some(start) = self.fill(at, len + OVERHEAD_BYTES)? else { return Ok(None) };
        let payload = &self.window[start + HEADER_BYTES..start + HEADER_BYTES + len];
        let crc = &self.window[start + HEADER_BYTES + len..start + OVERHEAD_BYTES + len];
        let expected = record::seal(record::payload_crc(self.seed, payload), &bytes);
        Ok((crc == expected.to_le_bytes()).then_some(len))
    }

    /// Where the next valid record after a bad place begins.
    fn resync(&mut self) -> Result<Option<u32>, SpoolError> {
        let mut at = self.at;
        while at.saturating_add(OVERHEAD_BYTES as u32) <= self.end {
            at += 1;
            let Some(start) = self.fill(at, HEADER_BYTES)? else { return Ok(None) };
            // Look for the high half of our lsn first: cheap, and absent from zeros of segments above 0.
            let high = self.number.to_le_bytes();
            let hay = &self.window[start..];
            let limit = hay.len().saturating_sub(HEADER_BYTES);
            // Space ahead of use is zeros, up to a whole segment of them: passed over at the speed of memory.
            if self.number != 0 && hay.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()]) {
                at += limit as u32;
                continue;
            }
            match hay[10..].windows(4).take(limit + 1).position(|four| four == high) {
                None => at += limit as u32,
                Some(skip) => {
                    at += skip as u32;
                    if self.whole_record(at)?.is_some() {
                        return Ok(Some(at));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Has at least `need` bytes from `at` in the window; answers their place in it, or `None` past the end.
    fn fill(&mut self, at: u32, need: usize) -> Result<Option<usize>, SpoolError> {
        let until = at as usize + need;
        if until > self.end as usize || need > PAYLOAD_BYTES_MAX + OVERHEAD_BYTES {
            return Ok(None);
        }
        let window_end = self.window_at as usize + self.window.len();
        if at < self.window_at || until > window_end {
            let len = need.max(WINDOW_BYTES).min(self.end as usize - at as usize);
            self.window.resize(len, 0);
            self.file
                .read_exact_at(&mut self.window, u64::from(at))
                .map_err(|error| SpoolError::io("read", &segment::file_name(self.number), &error))?;
            self.window_at = at;
        }
        Ok(Some((at - self.window_at) as usize))
    }
}
