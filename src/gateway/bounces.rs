//! What did not arrive, or may not have, comes back into the destination as a report (RFC 3464).
//!
//! Order that carries the promise: result on stable storage → report in the destination → told. A report bears the
//! submission's id, so in a Maildir a repeat (the process died between the last two steps) replaces the first or is
//! recognised by it; LMTP, command and webhook are at-least-once there and are given the id.
//!
//! Does not: report a success, or anything about a message with a null sender (it may be a bounce itself).
//!
//! Policy on failure: an unavailable destination is asked again with growing delays, for as long as the result is kept. A
//! destination that refuses a report has been told; `gateway status` still knows.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spool::error::SpoolError;
use spool::ids::{ItemId, WallMs};
use spool::types::ItemInfo;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::crashpoint;
use crate::gateway::destination::{Destination, Letter, Outcome, unavailable_delay};
use crate::gateway::outbox::{Outbox, State, Story};
use crate::gateway::staging::make_dir;
use crate::mail::address::masked_words;
use crate::mail::outbound::prepare::bounce;

/// Results looked at in one step.
const PAGE: usize = 64;

/// Writes reports of results, one after the other.
#[derive(Debug)]
pub(crate) struct Bounces {
    outbox: Outbox,
    destination: Arc<Destination>,
    /// Where a report is written before the destination has it.
    dir: PathBuf,
    own: String,
    hostname: String,
    /// What the destination was found to have at the start.
    stored: HashSet<String>,
}

/// Whether a result needs no more care.
#[derive(PartialEq, Eq)]
enum Told {
    Yes,
    NotYet(Option<Duration>),
}

impl Bounces {
    /// `own`: the gateway's address; `stored_ids`: what the destination can prove to have.
    pub(crate) fn new(
        outbox: Outbox,
        destination: Arc<Destination>,
        own: &str,
        hostname: &str,
        stored_ids: Vec<String>,
    ) -> Self {
        let dir = match destination.staging() {
            Some(dir) => dir.to_owned(),
            None => outbox.settings().dir.join("reports"),
        };
        Self {
            outbox,
            destination,
            dir,
            own: own.to_owned(),
            hostname: hostname.to_owned(),
            stored: stored_ids.into_iter().collect(),
        }
    }

    /// Reports what has ended, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tries = 0;
        loop {
            let pass = tokio::select! {
                biased;
                pass = self.pass(&stop) => pass,
                () = stop.cancelled() => return,
            };
            let wait = match pass {
                Ok(Told::Yes) => {
                    tries = 0;
                    None
                }
                Ok(Told::NotYet(wish)) => Some(unavailable_delay(tries, wish)),
                Err(error) => {
                    tracing::error!(event = "gateway.bounce.failed", %error, "results cannot be looked at");
                    Some(unavailable_delay(tries, None))
                }
            };
            tries = if wait.is_some() { tries.saturating_add(1) } else { tries };
            let again = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.outbox.result_rung() => {}
                () = again => {}
            }
        }
    }

    /// Looks at every result that nobody was told.
    async fn pass(&self, stop: &CancellationToken) -> Result<Told, SpoolError> {
        let mut all = Told::Yes;
        let mut after = None;
        loop {
            let page = self.outbox.untold(after, PAGE).await?;
            for &id in &page {
                if stop.is_cancelled() {
                    return Ok(all);
                }
                match self.report(id).await? {
                    Told::Yes => self.outbox.told(id).await?,
                    later @ Told::NotYet(_) => all = later,
                }
            }
            after = page.last().copied();
            if page.len() < PAGE {
                return Ok(all);
            }
        }
    }

    async fn report(&self, id: ItemId) -> Result<Told, SpoolError> {
        if self.stored.contains(&id.to_string()) {
            return Ok(Told::Yes);
        }
        let (info, story) = match self.outbox.record(id).await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Told::Yes),
            Err(SpoolError::Corrupt { problem, .. }) => {
                tracing::error!(event = "gateway.bounce.damaged", submission.id = %id, problem,
                    "what is kept of {id} is damaged, so there is no report on it");
                return Ok(Told::Yes);
            }
            Err(error) => return Err(error),
        };
        let outcome = match story.entry.state {
            State::Failed => bounce::Outcome::Failed,
            State::Indeterminate => bounce::Outcome::Indeterminate,
            State::Sent | State::Queued | State::Accepted => return Ok(Told::Yes),
        };
        let original = match self.outbox.piece(&info, 0).await {
            Ok(original) => original,
            // A report without the header is better than none.
            Err(SpoolError::Corrupt { .. }) => bytes::Bytes::new(),
            Err(error) => return Err(error),
        };
        let Some(report) = self.compose(&info, &story, outcome, &original) else { return Ok(Told::Yes) };
        let path = self.dir.join(format!("report-{id}"));
        if let Err(error) = self.write(&path, &report).await {
            tracing::warn!(event = "gateway.bounce.not_written", submission.id = %id, %error, "cannot write a report");
            return Ok(Told::NotYet(None));
        }
        let letter = Letter {
            item_id: id.to_string(),
            seq: 0,
            mail_from: String::new(),
            rcpt_to: story.entry.mail_from,
            size_bytes: report.len() as u64,
            path: path.clone(),
        };
        crashpoint::reach("gateway.bounce.before_delivery");
        let outcome = self.destination.deliver(&letter).await;
        let _ = tokio::fs::remove_file(&path).await;
        crashpoint::reach("gateway.bounce.delivered");
        Ok(match outcome {
            Outcome::Stored => {
                tracing::info!(event = "gateway.bounce.stored", submission.id = %id, "a report on {id} came back");
                Told::Yes
            }
            Outcome::Refused { reason } => {
                tracing::error!(event = "gateway.bounce.refused", submission.id = %id,
                    reason = masked_words(&reason), "the destination refuses a report");
                Told::Yes
            }
            Outcome::Later { reason, retry_after } | Outcome::Unavailable { reason, retry_after } => {
                tracing::warn!(event = "gateway.bounce.waits", submission.id = %id,
                    reason = masked_words(&reason), "a report waits");
                Told::NotYet(retry_after)
            }
        })
    }

    fn compose(
        &self,
        info: &ItemInfo,
        story: &Story,
        outcome: bounce::Outcome,
        original: &[u8],
    ) -> Option<Vec<u8>> {
        let (entry, text) = (&story.entry, &story.entry.text);
        bounce::report(bounce::Report {
            hostname: &self.hostname,
            mail_domain: self.own.rsplit_once('@').map_or(self.hostname.as_str(), |(_, domain)| domain),
            mail_from: &entry.mail_from,
            rcpt_to: &entry.rcpt_to,
            submission: info.id,
            accepted_at: info.accepted_at,
            at: story.events.last().map_or(info.changed_at, |event| WallMs(event.at_ms)),
            outcome,
            status: status_in(text),
            remote: "",
            text,
            original,
        })
    }

    async fn write(&self, path: &PathBuf, report: &[u8]) -> io::Result<()> {
        make_dir(&self.dir)?;
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .await?;
        file.write_all(report).await?;
        file.flush().await
    }
}

/// The enhanced status code (RFC 3463) in a server's words, if there is one.
fn status_in(text: &str) -> &str {
    let is_code = |word: &&str| {
        let mut parts = word.split('.');
        let mut number = |len: usize| {
            parts
                .next()
                .is_some_and(|p| (1..=len).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
        };
        number(1)
            && number(3)
            && number(3)
            && parts.next().is_none()
            && matches!(word.as_bytes()[0], b'4' | b'5')
    };
    text.split([' ', '#', '(', ')', ':', ';', ',']).find(is_code).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_reply_is_found() {
        for (text, status) in [
            ("550 5.1.1 no such user", "5.1.1"),
            ("mx.example said: 552 #5.2.2 full", "5.2.2"),
            ("451 4.7.1: later", "4.7.1"),
            ("connect to 192.0.2.1: refused", ""),
            ("2.0.0 ok 5.1 5.1.1111", ""),
            ("", ""),
        ] {
            assert_eq!(status_in(text), status, "{text}");
        }
    }
}
