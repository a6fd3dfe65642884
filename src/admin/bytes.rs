//! Whether the bytes of an item can be handed out whole. Asked before the first of them goes: half an answer is none.

use spool::error::SpoolError;
use spool::life;
use spool::reader::JournalReader;
use spool::types::{ItemInfo, State};

use super::ask::AskError;
use super::words::rfc3339;

/// Reads the whole body once and compares its hash. Blocks for the disk.
///
/// # Errors
/// [`AskError::NotFound`] when the bytes are not kept any more, [`AskError::Conflict`] when they are damaged.
pub fn whole(reader: &JournalReader, info: &ItemInfo) -> Result<(), AskError> {
    if info.state == State::Purged {
        return Err(AskError::NotFound(format!(
            "the bytes of {id} are gone: an operator removed them at {at}; `waystation spool show {id}` has the rest",
            id = info.id,
            at = rfc3339(info.changed_at)
        )));
    }
    match reader.check_body(info) {
        Ok(()) => Ok(()),
        Err(_) if !life::keeps_body(info.state) => Err(gone(info)),
        Err(SpoolError::Corrupt { lsn, problem }) => Err(AskError::Conflict(format!(
            "the bytes of {} are damaged: in the journal at {lsn}, {problem}; `waystation spool verify` lists what else is",
            info.id
        ))),
        Err(error) => Err(error.into()),
    }
}

/// The bytes of an item that nobody needs any more are not there.
fn gone(info: &ItemInfo) -> AskError {
    AskError::NotFound(format!(
        "the bytes of {} are not kept: it is {}, and their place was needed; `waystation spool show {}` has the rest",
        info.id,
        info.state.word(),
        info.id
    ))
}
