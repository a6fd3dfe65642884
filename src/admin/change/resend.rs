//! Sending the message of a submission again, as a new one, because an operator says that a duplicate does no harm.
//!
//! Promises: the first submission keeps its one result; a second `resend` of it finds the first one's answer and makes
//! nothing new; both records name each other, in the commit that makes the new one.
//!
//! The new one is not the gateway's: its stream is a name of ours, and it is told as gateways of tunnel 1 are that are
//! gone. A success needs no words, a failure comes back as a report in the mailbox.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use spool::Spool;
use spool::error::AcceptError;
use spool::ids::{ItemId, WallMs};
use spool::submission::{NewSubmission, Submission, Submitted};
use spool::types::State;

use super::{ask, refused};
use crate::admin::ask::{AskError, Terms};
use crate::mail::envelope::OutboundMeta;
use crate::mail::outbound::values::Note;
use crate::spooler::{SealedBody, Spooler};

/// Makes a new submission with the message of `id`.
///
/// * `sure` – the operator said that a duplicate does no harm; without it nothing is done.
///
/// # Errors
/// [`AskError::Bad`] without `sure`, [`AskError::Conflict`] when it has no result, was sent, was sent again before, or
/// when its message was not kept.
pub(super) async fn resend(
    spooler: &Spooler,
    id: ItemId,
    sure: bool,
    reason: String,
    terms: &Terms,
    now: WallMs,
) -> Result<Value, AskError> {
    let old = spooler
        .query(move |spool| -> Result<_, AskError> {
            ask::known(spool, id)?;
            Ok(spool.submission(id)?)
        })
        .await??
        .ok_or_else(|| {
            AskError::Bad(format!("item {id} is on its way to a gateway; `resend` is for submissions"))
        })?;
    allowed(&old, sure)?;
    let meta = OutboundMeta::decode(&old.info.meta).map_err(|error| {
        AskError::Conflict(format!("submission {id}: {error}, so it cannot be sent again"))
    })?;
    let meta = OutboundMeta {
        stream: format!("resend-of-{id}"),
        session: [0; 16],
        results: false,
        started_at_ms: 0,
        ..meta
    };
    let mut body = spooler.body();
    for n in 0..old.info.chunks.len() {
        body.write(&spooler.read_chunk(&old.info, n).await?).await.map_err(not_taken)?;
    }
    let (new, key_until) = (body.id(), now.plus(terms.retain_results_ms));
    let sealed = body.seal();
    let made = spooler
        .call(move |spool| stage(spool, &old, meta.encode(), sealed, key_until, &reason, now))
        .await??;
    match made {
        Submitted::New(_) => Ok(
            json!({ "id": new.to_string(), "direction": "out", "state": "ready", "again": id.to_string() }),
        ),
        Submitted::Known(known) | Submitted::Conflict(known) | Submitted::Twin(known) => {
            Err(AskError::Conflict(format!(
                "submission {id} was sent again before, as {known}; `waystation spool explain {known}` says how that went"
            )))
        }
    }
}

fn allowed(old: &Submission, sure: bool) -> Result<(), AskError> {
    let id = old.info.id;
    match old.info.state {
        // A message that was taken has a header at least; of one that was refused nothing is kept to send.
        State::Indeterminate | State::Failed if old.info.chunks.is_empty() => {
            Err(AskError::Conflict(format!(
                "submission {id} was refused when it came, and its message was not kept; the sender has to send it again"
            )))
        }
        State::Indeterminate if !sure => Err(AskError::Bad(format!(
            "submission {id} is indeterminate: the recipient may have it already, and sending it again may make a \
             second copy that nobody can take back. Say --i-know-it-may-duplicate when that does no harm"
        ))),
        State::Failed if !sure => Err(AskError::Bad(format!(
            "submission {id} failed and its gateway was told, or will be; who wrote it may have sent it again already. \
             Say --i-know-it-may-duplicate when a second copy does no harm"
        ))),
        State::Indeterminate | State::Failed => Ok(()),
        State::Sent => Err(AskError::Conflict(format!(
            "submission {id} was sent: the next hop has it. Its message is not sent again from here"
        ))),
        State::Ready | State::Held | State::Armed => Err(AskError::Conflict(format!(
            "submission {id} has no result yet; `waystation spool explain {id}` says what it waits for"
        ))),
        State::Acked | State::Expired | State::Quarantined | State::Purged => {
            Err(AskError::Conflict(format!("submission {id} is {}", old.info.state.word())))
        }
    }
}

/// On the ledger's thread: the new submission, and a note in both records.
fn stage(
    spool: &mut Spool,
    old: &Submission,
    meta: Vec<u8>,
    body: SealedBody,
    key_until: WallMs,
    reason: &str,
    now: WallMs,
) -> Result<Submitted, AskError> {
    let key = Sha256::new_with_prefix("waystation resend 1\0").chain_update(old.info.id.0).finalize().into();
    let message = body.message(spool, old.info.head.clone(), meta).map_err(not_taken)?;
    let new = NewSubmission {
        message,
        mailbox: old.mailbox,
        tag: old.info.tag.clone(),
        key,
        key_until,
        twin: None,
        destination: old.destination.clone(),
        due: now,
        settled: None,
    };
    let made = spool.submit(new, now).map_err(not_taken)?;
    if let Submitted::New(new) = made {
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let again = Note::line(format!("an operator sends {} again{why}", old.info.id));
        spool.postpone(new, now, &again.to_reason(), now).map_err(refused)?;
        let remark = Note::line(format!("an operator sent it again as {new}{why}"));
        spool.remark(old.info.id, &remark.to_reason(), now).map_err(refused)?;
    }
    Ok(made)
}

fn not_taken(error: AcceptError) -> AskError {
    match error {
        AcceptError::Spool(error) => AskError::Spool(error),
        AcceptError::UnknownLane
        | AcceptError::Revoked
        | AcceptError::OverQuota
        | AcceptError::NoSpace
        | AcceptError::NoBody => AskError::Conflict(format!("nothing was sent again: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use spool::ids::{LaneId, Seq};
    use spool::types::{ChunkRef, ItemInfo};

    use super::*;

    fn submission(state: State, chunks: Vec<ChunkRef>) -> Submission {
        let info = ItemInfo {
            id: ItemId::new(WallMs(1000), [1; 10]),
            lane: LaneId(2),
            lane_name: "home".to_owned(),
            seq: Seq(4),
            state,
            leased: false,
            size_bytes: 2048,
            accepted_at: WallMs(1000),
            changed_at: WallMs(1000),
            sha256: [0; 32],
            chain: [0; 32],
            meta: Vec::new(),
            tag: b"bob@far.example".to_vec(),
            head: b"Subject: kept\r\n".to_vec(),
            chunks,
            outbound: None,
        };
        Submission {
            info,
            mailbox: LaneId(1),
            mailbox_name: "home".to_owned(),
            destination: "far.example".to_owned(),
            due: WallMs(1000),
            attempts: 0,
            told: true,
        }
    }

    #[test]
    fn a_message_that_was_not_kept_is_not_sent_again_as_an_empty_one() {
        let refused = submission(State::Failed, Vec::new());
        for sure in [false, true] {
            let answer = allowed(&refused, sure);
            assert!(
                matches!(&answer, Err(AskError::Conflict(why)) if why.contains("was not kept")),
                "{answer:?}"
            );
        }
        let failed = submission(State::Failed, vec![ChunkRef { lsn: 8, len: 2048 }]);
        assert!(matches!(allowed(&failed, false), Err(AskError::Bad(_))));
        assert!(allowed(&failed, true).is_ok());
    }
}
