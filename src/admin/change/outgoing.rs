//! What an operator does to submissions, and what is refused with the reason.
//!
//! Runs on the ledger's thread, so nothing happens between the look at the state and the change: a submission that
//! was armed meanwhile is refused, one that was not can never be armed any more.

use spool::Spool;
use spool::error::RequestError;
use spool::ids::{ItemId, WallMs};
use spool::submission::Settlement;
use spool::types::{ItemInfo, State};

use super::ItemVerb;
use crate::admin::ask::AskError;
use crate::mail::outbound::values::Note;

/// Enhanced code of a cancelled submission (RFC 3463 section 3.8, X.7.0): a rule, here an operator's, forbids it.
const CANCELLED_CODE: &str = "5.7.0";

/// Whether `verb` may be done now, with words that say what to do instead.
pub(super) fn allowed(info: &ItemInfo, told: bool, verb: ItemVerb) -> Result<(), AskError> {
    let id = info.id;
    let no = |text: String| Err(AskError::Conflict(text));
    match (info.state, verb) {
        (State::Armed, _) => no(format!(
            "submission {id} is armed: the octets that complete it may have left, so it can be neither held, cancelled, \
             retried nor purged; the next hop's answer decides, and `waystation spool explain {id}` says which"
        )),
        (State::Sent | State::Failed | State::Indeterminate, ItemVerb::Purge) if !told => no(format!(
            "submission {id} is {}, and its gateway has not been told yet; it can be purged afterwards",
            info.state.word()
        )),
        (State::Sent | State::Failed | State::Indeterminate, ItemVerb::Purge) => Ok(()),
        (State::Sent | State::Failed | State::Indeterminate, _) => {
            let again = if info.state == State::Sent || info.chunks.is_empty() {
                ""
            } else {
                "; `waystation spool resend` makes a new submission of the same message"
            };
            no(format!(
                "submission {id} has its one result, {}, which nothing changes{again}",
                info.state.word()
            ))
        }
        (State::Ready | State::Held, ItemVerb::Purge) => {
            no(format!("submission {id} has no result yet; `waystation spool cancel {id}` gives it one"))
        }
        (State::Held, ItemVerb::Retry) => {
            no(format!("submission {id} is held; `waystation spool release {id}` makes it due at once"))
        }
        (State::Ready, ItemVerb::Release) => {
            no(format!("submission {id} is not held; `waystation spool retry {id}` makes it due at once"))
        }
        (State::Held, ItemVerb::Hold) => no(format!("submission {id} is held already")),
        (State::Ready | State::Held, _) => Ok(()),
        (State::Acked | State::Expired | State::Quarantined | State::Purged, _) => {
            no(format!("submission {id} is {}", info.state.word()))
        }
    }
}

/// Settles it as failed; the gateway is told so.
pub(super) fn cancel(spool: &mut Spool, id: ItemId, reason: &str, now: WallMs) -> Result<(), RequestError> {
    let text = match reason {
        "" => "cancelled by the operator".to_owned(),
        reason => format!("cancelled by the operator: {reason}"),
    };
    let note = Note { enhanced_code: CANCELLED_CODE.to_owned(), ..Note::line(text) };
    spool.settle(id, Settlement::Failed, &note.to_reason(), now)
}

/// Makes it due at once.
pub(super) fn retry(spool: &mut Spool, id: ItemId, reason: &str, now: WallMs) -> Result<(), RequestError> {
    let text = match reason {
        "" => "an operator wants it tried now".to_owned(),
        reason => format!("an operator wants it tried now: {reason}"),
    };
    spool.postpone(id, now, &Note::line(text).to_reason(), now)
}
