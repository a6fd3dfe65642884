//! The records of one commit, written with as few system calls as the slices allow, and without copying a body.

use std::io::IoSlice;

use crate::disk::DiskFile;
use crate::record::{HEADER_BYTES, OVERHEAD_BYTES};

/// Slices handed to one vectored write.
const SLICES_MAX: usize = 768;

/// One record that waits to be written.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) header: [u8; HEADER_BYTES],
    pub(crate) payload: Vec<u8>,
    pub(crate) crc: [u8; 4],
}

/// Writes `pending` one after the other from byte `at` on.
///
/// # Errors
/// Whatever the medium says; how much was written is then unknown.
pub(crate) fn write_batch(file: &dyn DiskFile, at: u32, pending: &[Pending]) -> std::io::Result<()> {
    let mut offset = u64::from(at);
    for group in pending.chunks(SLICES_MAX / 3) {
        let mut slices = Vec::with_capacity(group.len() * 3);
        let mut bytes = 0;
        for record in group {
            slices.push(IoSlice::new(&record.header));
            slices.push(IoSlice::new(&record.payload));
            slices.push(IoSlice::new(&record.crc));
            bytes += (record.payload.len() + OVERHEAD_BYTES) as u64;
        }
        file.write_all_at(&mut slices, offset)?;
        offset += bytes;
    }
    Ok(())
}
