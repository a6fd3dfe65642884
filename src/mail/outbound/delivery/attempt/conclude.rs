//! The end of an attempt: written down, then told.
//!
//! Promise: nothing is told that is not stable. Policy: an end that a full disk does not take is written again until
//! there is room, or the relay stops: nobody but this attempt knows what came of it. A spool that has failed for
//! good ends the attempt without a word, because what is stable decides at the next start.

use std::time::Duration;

use spool::error::SpoolError;
use spool::ids::WallMs;

use super::super::super::ledger::Written;
use super::super::super::submission::Step;
use super::super::super::values::Note;
use super::{Attempting, Report, elapsed_ms};
use crate::mail::address::masked_words;
use crate::{clock, crashpoint};

/// First wait before an attempt's end that could not be written is written again; doubles.
const WRITE_AGAIN_MIN: Duration = Duration::from_secs(1);
/// Longest such wait.
const WRITE_AGAIN_MAX: Duration = Duration::from_secs(30);

impl Attempting<'_> {
    /// Writes down what came of the attempt, and tells it.
    pub(super) async fn conclude(&self, step: Step) -> Report {
        let now = clock::wall();
        let written = self.write(&step, now).await;
        let is_stable = matches!(written, Ok(Written::Stable));
        let next = match step {
            Step::Defer { due, note } => {
                if is_stable {
                    self.tell("deferred", Some(due), &note, now);
                }
                Some(due)
            }
            Step::Postpone { due, .. } => Some(due),
            Step::Settle { verdict, note } => {
                if is_stable {
                    self.tell(verdict.word(), None, &note, now);
                }
                None
            }
            Step::Leave | Step::Route | Step::Try(_) | Step::Wait => None,
        };
        self.report(written, next)
    }

    /// Makes the end of the attempt stable. A disk that is full has room again one day, and nobody but this attempt knows
    /// what came of it: it is tried until it can be written, or the relay stops.
    async fn write(&self, step: &Step, now: WallMs) -> Result<Written, SpoolError> {
        let (id, ledger, stop) = (self.id, &self.shared.ledger, &self.shared.stop);
        let mut wait = WRITE_AGAIN_MIN;
        loop {
            let written = match step {
                Step::Defer { due, note } => ledger.defer(id, *due, note, now).await,
                Step::Postpone { due, note } => ledger.postpone(id, *due, note, now).await,
                Step::Settle { verdict, note } => {
                    crashpoint::reach("delivery.before_settle");
                    let written = ledger.settle(id, *verdict, note, now).await;
                    crashpoint::reach("delivery.after_settle");
                    written
                }
                // Withdrawn, stopped or paused: whoever did it rings, or the next look finds it.
                Step::Leave | Step::Route | Step::Try(_) | Step::Wait => Ok(Written::Withdrawn),
            };
            match written {
                Err(error @ SpoolError::Io { .. }) if !stop.is_cancelled() => {
                    tracing::warn!(event = "relay.spool.unavailable", submission.id = %id, %error,
                        retry_seconds = wait.as_secs(), "an attempt's end cannot be written now; it is tried again");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = stop.cancelled() => {}
                    }
                    wait = wait.saturating_mul(2).min(WRITE_AGAIN_MAX);
                }
                written => return written,
            }
        }
    }

    fn report(&self, written: Result<Written, SpoolError>, next: Option<WallMs>) -> Report {
        match written {
            Ok(Written::Stable) => Report { health: self.health, next },
            // Somebody else's word stands.
            Ok(Written::Withdrawn) => Report { health: self.health, next: None },
            Err(error) => {
                tracing::error!(event = "relay.spool.unavailable", submission.id = %self.id, %error,
                    "an attempt's end could not be written; the next start decides");
                Report { health: self.health, next: None }
            }
        }
    }

    /// One event for the attempt, one for the result.
    fn tell(&self, word: &'static str, next: Option<WallMs>, note: &Note, now: WallMs) {
        let metrics = &self.shared.metrics;
        let last = note.attempts.last();
        let duration_ms = elapsed_ms(self.began);
        if last.is_some() {
            metrics.outbound_attempted(word, self.plan.settings.class);
            metrics.outbound_attempt_took(duration_ms);
        }
        let (host, tls) = last.map_or(("", ""), |a| (a.host.as_str(), a.tls.as_str()));
        let code = last.and_then(|attempt| attempt.code);
        // Servers like to name the recipient.
        let text = masked_words(&note.text);
        let span = tracing::Span::current();
        span.record("outcome", word).record("host", host).record("tls", tls).record("smtp.code", code);
        tracing::info!(
            event = "relay.outbound.attempted", submission.id = %self.id, lane = self.lane, destination = self.destination,
            attempt = self.number, outcome = word, host, tls, smtp.code = code, duration_ms,
            next_ms = next.map(|due| due.since(now)), text,
            "attempt {} of {}: {word}", self.number, self.id
        );
        if next.is_some() {
            return;
        }
        let latency_ms = now.since(self.accepted_at);
        metrics.outbound_settled(word, latency_ms);
        let (id, lane) = (self.id, self.lane.as_str());
        match word {
            "sent" => tracing::info!(event = "relay.outbound.sent", submission.id = %id, lane,
                destination = self.destination, host, tls, latency_ms, text, "submission {id} is sent"),
            "failed" => tracing::info!(event = "relay.outbound.failed", submission.id = %id, lane,
                destination = self.destination, host, latency_ms, text, "submission {id} has failed: {text}"),
            _ => tracing::warn!(event = "relay.outbound.indeterminate", submission.id = %id, lane,
                destination = self.destination, host, latency_ms, text,
                "submission {id} may have been taken or not: {text}"),
        }
    }
}
