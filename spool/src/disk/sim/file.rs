//! Reading, writing and syncing one simulated file, with the failures that are planned.

use std::fmt;
use std::io::{self, IoSlice};

use super::{Node, SimDisk, SplitMix64, hold};
use crate::disk::DiskFile;

/// One open file of the simulated disk; goes on working after its name is gone.
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) name: String,
    pub(super) writable: bool,
    pub(super) node: Node,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.name)
    }
}

impl SimFile {
    fn require_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for SimFile {
    fn write_all_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let (mut state, verdict) =
            self.disk.change(|| format!("write {} {offset}+{}", self.name, bytes.len()));
        self.require_writable()?;
        let old = hold(&self.node).len();
        let verdict = verdict.and_then(|()| state.grow(old, offset.saturating_add(bytes.len() as u64)));
        let whole = bytes.len() as u64;
        if verdict.is_err() {
            state.failed.insert(self.name.clone());
        }
        let written = if verdict.is_ok() && !state.silent {
            whole
        } else if state.stands_still() {
            0
        } else {
            // How much got there before the failure: anything, but the same for the same run.
            let room = old.saturating_add(state.free()).saturating_sub(offset);
            SplitMix64::new(state.ops).below(whole + 1).min(room)
        };
        state.written += written;
        hold(&self.node).write(&bytes[..written as usize], offset);
        verdict
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (_state, verdict) = self.disk.op(|| format!("read {} {offset}+{}", self.name, buf.len()));
        verdict?;
        if hold(&self.node).read(buf, offset) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let (state, verdict) = self.disk.change(|| format!("allocate {} {len}", self.name));
        verdict?;
        self.require_writable()?;
        let old = hold(&self.node).len();
        state.grow(old, len)?;
        hold(&self.node).set_len(old.max(len));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (state, verdict) = self.disk.change(|| format!("set_len {} {len}", self.name));
        verdict?;
        self.require_writable()?;
        let old = hold(&self.node).len();
        state.grow(old, len)?;
        hold(&self.node).set_len(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let (_state, verdict) = self.disk.op(|| format!("len {}", self.name));
        verdict?;
        Ok(hold(&self.node).len())
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, verdict) = self.disk.change(|| format!("sync {}", self.name));
        if let Err(error) = verdict {
            state.failed.insert(self.name.clone());
            // When the process stands still, the kernel goes on by itself: nothing is given up.
            if state.freeze_at.is_none_or(|freeze| state.ops <= freeze) {
                hold(&self.node).fail_sync();
            }
            return Err(error);
        }
        if !state.syncs_ignored && !state.silent {
            state.syncs += 1;
            hold(&self.node).sync();
        }
        Ok(())
    }
}
