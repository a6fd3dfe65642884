//! Receipts for submissions.
//!
//! Promise: a submission's receipt is the same whether it is new or was there before: what it is made of is in both cases
//! what the ledger keeps. Nobody but a gateway that acks results reads one, so nobody else is given one.

use spool::ids::{ItemId, Seq, WallMs};
use spool::types::ItemInfo;

use super::Submissions;
use super::submitter::Who;
use crate::mail::custody::{Kind, Receipt};
use crate::mail::envelope::Envelope;
use crate::tunnel::signed::Signed;

/// A submission that was stored this moment.
pub(super) struct Taken<'a> {
    pub(super) id: ItemId,
    /// Its place in the outbox, and the chain's value there.
    pub(super) place: (Seq, [u8; 32]),
    /// Of the body, without the head.
    pub(super) sha256: [u8; 32],
    pub(super) size_bytes: u64,
    pub(super) head_sha256: [u8; 32],
    pub(super) at: WallMs,
    /// The gateway's name for it.
    pub(super) stream: &'a str,
}

/// The receipt for a new one, without asking the ledger once more.
pub(super) fn fresh(shared: &Submissions, who: &Who, taken: &Taken<'_>) -> Option<Signed> {
    let signer = shared.signer.as_ref().filter(|_| who.results)?;
    let (seq, chain) = taken.place;
    let receipt = Receipt {
        kind: Kind::Submission,
        relay: signer.relay().to_owned(),
        id: taken.id,
        lane: who.key.to_string(),
        seq,
        sha256: taken.sha256,
        size: taken.size_bytes,
        head_sha256: taken.head_sha256,
        chain,
        at: taken.at,
        stream_id: Some(taken.stream.to_owned()),
    };
    Some(signer.sign_receipt(&receipt, taken.at))
}

/// The receipt for one that is there already.
pub(super) fn again(shared: &Submissions, who: &Who, info: &ItemInfo, now: WallMs) -> Option<Signed> {
    let signer = shared.signer.as_ref().filter(|_| who.results)?;
    let envelope = Envelope::decode(&info.meta).ok()?;
    Some(signer.receipt(info, &envelope, now))
}
