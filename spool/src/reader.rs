//! Reading single records back by their lsn, from any thread, also while segments come and go.
//!
//! A record names its own place, so a file that was recycled under a reader, or a chunk that compaction has
//! moved, is noticed as [`SpoolError::Corrupt`] and never served as something else.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::disk::DiskFile;
use crate::error::SpoolError;
use crate::ids::Lsn;
use crate::record::{self, HEADER_BYTES, Header, Kind, OVERHEAD_BYTES, PAYLOAD_BYTES_MAX};
use crate::segment;

/// The open files by segment number, shared by everybody who reads.
pub(crate) type Files = Arc<RwLock<BTreeMap<u32, Arc<dyn DiskFile>>>>;

/// Reads single records by their lsn, from any thread, also while segments come and go.
#[derive(Clone, Debug)]
pub struct JournalReader {
    pub(crate) files: Files,
    pub(crate) seed: u32,
}

impl JournalReader {
    /// The payload of the record at `lsn`, which must be of `kind`.
    ///
    /// * `guess`: expected payload length, so that one read is enough.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] when the segment is gone or the record does not check, [`SpoolError::Io`].
    pub fn read(&self, lsn: Lsn, kind: Kind, guess: usize) -> Result<Vec<u8>, SpoolError> {
        let corrupt = |problem: &str| SpoolError::Corrupt { lsn, problem: problem.to_owned() };
        let file = self.file(lsn).ok_or_else(|| corrupt("its segment is gone"))?;
        let name = segment::file_name(lsn.segment());
        let io = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                corrupt("the segment ends inside it")
            } else {
                SpoolError::io("read", &name, &error)
            }
        };
        let at = u64::from(lsn.offset());
        let mut bytes = vec![0; guess.min(PAYLOAD_BYTES_MAX) + OVERHEAD_BYTES];
        if file.read_exact_at(&mut bytes, at).is_err() {
            bytes.truncate(HEADER_BYTES);
            file.read_exact_at(&mut bytes, at).map_err(io)?;
        }
        let header = header(&bytes, lsn)?;
        let total = header.record_bytes() as usize;
        if bytes.len() < total {
            bytes.resize(total, 0);
            file.read_exact_at(&mut bytes, at).map_err(io)?;
        }
        bytes.truncate(total);
        self.checked(bytes, lsn, kind)
    }

    /// [`JournalReader::read`] of a payload of exactly `len` bytes, if it is in memory and nothing is wrong with it;
    /// `None` says nothing about the record. Does not wait for the medium.
    pub(crate) fn read_at_once(&self, lsn: Lsn, kind: Kind, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len.min(PAYLOAD_BYTES_MAX) + OVERHEAD_BYTES];
        let file = self.file(lsn)?;
        let here = file.read_at_once(&mut bytes, u64::from(lsn.offset()))
            && header(&bytes, lsn).is_ok_and(|header| header.record_bytes() as usize == bytes.len());
        here.then(|| self.checked(bytes, lsn, kind).ok()).flatten()
    }

    fn file(&self, lsn: Lsn) -> Option<Arc<dyn DiskFile>> {
        self.files.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&lsn.segment()).cloned()
    }

    /// The payload of a whole record, if its checksum and its kind are right.
    fn checked(&self, mut bytes: Vec<u8>, lsn: Lsn, kind: Kind) -> Result<Vec<u8>, SpoolError> {
        let corrupt = |problem: &str| SpoolError::Corrupt { lsn, problem: problem.to_owned() };
        let header = header(&bytes, lsn)?;
        let payload = HEADER_BYTES..bytes.len() - 4;
        let crc = record::seal(record::payload_crc(self.seed, &bytes[payload.clone()]), &header.encode());
        if bytes[payload.end..] != crc.to_le_bytes() {
            return Err(corrupt("its checksum is wrong"));
        }
        if header.kind != kind as u8 {
            return Err(corrupt("it is of another kind"));
        }
        bytes.truncate(payload.end);
        bytes.drain(..HEADER_BYTES);
        Ok(bytes)
    }

    /// Start value of the checksums, for whoever streams a body.
    #[must_use]
    pub fn seed(&self) -> u32 {
        self.seed
    }
}

fn header(bytes: &[u8], lsn: Lsn) -> Result<Header, SpoolError> {
    let corrupt = |problem: &str| SpoolError::Corrupt { lsn, problem: problem.to_owned() };
    let head: [u8; HEADER_BYTES] =
        bytes[..HEADER_BYTES].try_into().map_err(|_| corrupt("it has no header"))?;
    Header::decode(&head, lsn).ok_or_else(|| corrupt("its header is wrong"))
}
