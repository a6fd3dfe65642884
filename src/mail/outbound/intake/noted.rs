//! What the log and the counters are told of a stream that has become a submission, or was one before.

use spool::submission::{Settlement, Submitted};

use super::Submissions;
use super::submitter::Who;
use crate::mail::address::masked_words;
use crate::mail::outbound::values::Note;
use crate::observe::{DeliveryClass, SubmissionOutcome};

/// Counts it and writes it down; `refused`: it has failed at once.
pub(super) fn note(
    shared: &Submissions,
    who: &Who,
    stream: &str,
    submitted: Submitted,
    refused: bool,
    settled: Option<(Settlement, Note)>,
    size_bytes: u64,
) {
    let (id, outcome) = match submitted {
        Submitted::New(id) if refused => (id, SubmissionOutcome::Refused),
        Submitted::New(id) => (id, SubmissionOutcome::Accepted),
        Submitted::Known(id) => (id, SubmissionOutcome::Known),
        Submitted::Twin(id) => (id, SubmissionOutcome::Twin),
        Submitted::Conflict(id) => (id, SubmissionOutcome::Conflict),
    };
    shared.metrics.submitted(outcome);
    let (lane, session) = (&who.key, &who.session);
    let what = outcome.word();
    match submitted {
        Submitted::New(_) => {
            tracing::info!(
                event = "relay.outbound.accepted", submission.id = %id, %lane, session.id = %session,
                session_role = who.role.word(), stream_bytes = stream.len(), size_bytes,
                outcome = what, "a submission is stable"
            );
            if let Some((to, note)) = settled {
                let word = to.state().word();
                shared.metrics.outbound_settled(word, 0);
                if to == Settlement::Sent {
                    shared.metrics.outbound_attempted(word, DeliveryClass::Local);
                }
                let event = match to {
                    Settlement::Sent => "relay.outbound.sent",
                    Settlement::Failed => "relay.outbound.failed",
                    Settlement::Indeterminate => "relay.outbound.indeterminate",
                };
                tracing::info!(
                    event, submission.id = %id, %lane, session.id = %session,
                    enhanced_code = note.enhanced_code, text = masked_words(&note.text), "a submission ended at once"
                );
            }
        }
        Submitted::Known(_) | Submitted::Twin(_) | Submitted::Conflict(_) => tracing::info!(
            event = "relay.outbound.ignored", submission.id = %id, %lane, session.id = %session,
            reason = what, "a stream repeats a submission"
        ),
    }
}
