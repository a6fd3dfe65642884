//! Results as the gateway is told them, and what it has of them.
//!
//! Promise: what is told of one submission is the same text every time, because it is made of what the spool keeps
//! and of nothing else.

use spool::Spool;
use spool::error::{RequestError, SpoolError};
use spool::ids::{ItemId, LaneId, WallMs};
use spool::submission::Submission;
use spool::types::{ItemInfo, State};

use super::Settings;
use crate::mail::envelope::OutboundMeta;
use crate::mail::outbound::values::Note;
use crate::tunnel::session::{OutboundWord, ResultStatus};

/// Submissions looked at in one question to the ledger.
pub(super) const PAGE: usize = 64;

/// A submission that has its result.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) info: ItemInfo,
    pub(super) meta: OutboundMeta,
    pub(super) status: ResultStatus,
    pub(super) note: Note,
    pub(super) settled_at: WallMs,
}

impl Ended {
    pub(super) fn id(&self) -> ItemId {
        self.info.id
    }

    pub(super) fn rcpt_to(&self) -> String {
        String::from_utf8_lossy(&self.info.tag).into_owned()
    }

    /// What `stream` is told. `acked`: it is repeated under the submission's id until it is acked.
    pub(super) fn word(&self, stream: String, acked: bool) -> OutboundWord {
        let id = Some(self.meta.message_id.clone()).filter(|id| !id.is_empty());
        let error = (self.status != ResultStatus::Sent).then(|| error_text(&self.note));
        OutboundWord::Result {
            stream,
            status: self.status,
            message_id: id.filter(|_| self.status == ResultStatus::Sent),
            error,
            result: acked.then(|| self.id().to_string()),
        }
    }
}

/// The note's words, with its enhanced code in front when they do not have it.
pub(super) fn error_text(note: &Note) -> String {
    match note.enhanced_code.as_str() {
        "" => note.text.clone(),
        code if note.text.contains(code) => note.text.clone(),
        code => format!("{code} {}", note.text),
    }
}

/// How a state reads as a result.
fn status(state: State) -> Option<ResultStatus> {
    match state {
        State::Sent => Some(ResultStatus::Sent),
        State::Failed => Some(ResultStatus::Failed),
        State::Indeterminate => Some(ResultStatus::Indeterminate),
        State::Ready
        | State::Acked
        | State::Expired
        | State::Held
        | State::Quarantined
        | State::Purged
        | State::Armed => None,
    }
}

/// On the ledger's thread: the submission `id`, and how it ended if it has.
pub(super) fn look(spool: &Spool, id: ItemId) -> Result<(Option<ItemInfo>, Option<Ended>), SpoolError> {
    Ok((readable(spool, id)?.map(|submission| submission.info), ended(spool, id)?))
}

/// On the ledger's thread: the submission `id`, if it can be read.
fn readable(spool: &Spool, id: ItemId) -> Result<Option<Submission>, SpoolError> {
    match spool.submission(id) {
        // One damaged record must not keep the others from being told; `verify` lists it.
        Err(SpoolError::Corrupt { .. }) => Ok(None),
        found => found,
    }
}

/// On the ledger's thread: the submission `id`, if it has ended and can be read.
pub(super) fn ended(spool: &Spool, id: ItemId) -> Result<Option<Ended>, SpoolError> {
    let Some(submission) = readable(spool, id)? else { return Ok(None) };
    let info = submission.info;
    let (Some(status), Ok(meta)) = (status(info.state), OutboundMeta::decode(&info.meta)) else {
        return Ok(None);
    };
    // The first step into the state is the verdict; one after it says that the gateway was told.
    let timeline = spool.timeline(id)?;
    let verdict = timeline.iter().find(|step| step.state == info.state.word());
    let note = verdict.map(|step| Note::from_reason(&step.reason)).unwrap_or_default();
    let settled_at = verdict.map_or(info.changed_at, |step| WallMs(step.at_ms));
    Ok(Some(Ended { info, meta, status, note, settled_at }))
}

/// On the ledger's thread: a page of results that were not told, without those in `skip`; the id to go on after, if
/// there may be more.
pub(super) fn untold(
    spool: &Spool,
    mailbox: LaneId,
    after: Option<ItemId>,
    skip: &[ItemId],
) -> Result<(Vec<Ended>, Option<ItemId>), SpoolError> {
    let ids = spool.untold(mailbox, after, PAGE)?;
    let next = ids.last().copied().filter(|_| ids.len() == PAGE);
    let mut page = Vec::new();
    for id in ids.into_iter().filter(|id| !skip.contains(id)) {
        page.extend(ended(spool, id)?);
    }
    Ok((page, next))
}

/// On the ledger's thread: the gateway has these; answers which of them it had not before. `legacy`: it said so by a pong.
pub(super) fn tell(
    spool: &mut Spool,
    told: &[ItemId],
    legacy: Option<&Settings>,
    now: WallMs,
) -> Result<Vec<ItemId>, RequestError> {
    let mut newly = Vec::new();
    for id in told {
        // A pong that came perhaps too late proves that the word was read, and not that anybody still waited for it: the
        // report tells it again then, which does no harm.
        if let Some(settings) = legacy
            && let Some(ended) = ended(spool, *id)?
            && ended.status == ResultStatus::Failed
            && now >= settings.surely_awaited_until(&ended)
        {
            continue;
        }
        match spool.tell(*id, now) {
            Ok(is_new) => newly.extend(is_new.then_some(*id)),
            Err(RequestError::Spool(error)) => return Err(error.into()),
            Err(
                RequestError::UnknownItem(_)
                | RequestError::UnknownMailbox(_)
                | RequestError::NameTaken(_)
                | RequestError::WrongState { .. }
                | RequestError::NoSession,
            ) => {}
        }
    }
    Ok(newly)
}
