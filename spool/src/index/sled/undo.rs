//! Old values of the apply that is under way, in a file beside the engine's.
//!
//! Promise: what the engine may hold of an apply that a kill cut off can be taken back, because the old values were
//! written before. After a power cut too, once [`UndoFile::sync`] has returned; before that the kernel may have written
//! any part of either file, and contents that then do not add up are built anew from the journal.
//!
//! A file and no tree of the engine: each value is written once and let go of at once, where the engine writes a page of
//! them three times and forgets key by key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::ledger::{Undo, frame, frames};

/// Its name in the directory of a generation.
const NAME: &str = "undo";

#[derive(Debug)]
pub(super) struct UndoFile {
    file: File,
}

impl UndoFile {
    /// The file of the engine at `dir`; made if it is missing.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(dir.join(NAME))?;
        Ok(Self { file })
    }

    /// Adds encoded old values of the apply `round`. What they belong to may be changed afterwards.
    pub(super) fn write(&self, round: u64, undos: &[u8]) -> io::Result<()> {
        (&self.file).write_all(&frame(round, undos))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Old values of the apply `round`, in the order of the changes. A frame that is not whole is the last one written,
    /// and nothing it speaks of was changed yet.
    pub(super) fn read(&self, round: u64) -> io::Result<Vec<Undo>> {
        let mut bytes = Vec::new();
        let mut file = &self.file;
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(frames(round, &bytes))
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}
