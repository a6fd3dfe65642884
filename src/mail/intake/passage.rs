//! One message between the session and the spool: inspected while it passes, checked when it is complete.
//!
//! Promise: whatever becomes of the checks, the message goes on.

use spool::error::AcceptError;

use crate::mail::smtp::receiver::Acceptance;
use crate::mail::verdict::Budget;
use crate::mail::verdict::evaluate::{Judged, Verifier};
use crate::mail::verdict::inspector::{Inspected, Inspector};
use crate::mail::verdict::spf::Sender;
use crate::spooler::{BodyWriter, Spooler};

use std::net::IpAddr;
use std::sync::Arc;

/// A message under way.
#[derive(Debug)]
pub(super) struct Passage {
    writer: BodyWriter,
    inspector: Inspector,
    /// What the inspector lets go on; kept for its memory.
    cleaned: Vec<u8>,
}

impl Passage {
    /// `ours`: our name. `checked`: the message will be judged.
    pub(super) fn begin(spooler: &Spooler, ours: &str, checked: bool) -> Self {
        Self { writer: spooler.body(), inspector: Inspector::new(ours, checked), cleaned: Vec::new() }
    }

    /// The next octets; waits while too much waits for the disk.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), AcceptError> {
        self.cleaned.clear();
        self.inspector.push(bytes, &mut self.cleaned);
        self.writer.write(&self.cleaned).await
    }

    /// The message is complete.
    pub(super) async fn end(mut self) -> Result<(BodyWriter, Inspected), AcceptError> {
        self.cleaned.clear();
        let inspected = self.inspector.finish(&mut self.cleaned);
        self.writer.write(&self.cleaned).await?;
        if inspected.removed > 0 {
            tracing::info!(
                event = "relay.ingress.forged_results",
                removed = inspected.removed,
                "removed {} fields that claimed to be ours",
                inspected.removed,
            );
        }
        Ok((self.writer, inspected))
    }
}

/// Checks a message, if anybody does; `budget` is what the connection has left.
pub(super) async fn judge(
    verifier: Option<&Arc<Verifier>>,
    client: IpAddr,
    acceptance: &Acceptance,
    inspected: Inspected,
    budget: &mut Budget,
) -> Judged {
    let Some(verifier) = verifier else { return Judged::default() };
    let sender =
        Sender { client, helo: acceptance.helo.clone(), mail_from: acceptance.from.verbatim().to_owned() };
    let mut judged = verifier.judge(sender, inspected, std::mem::take(budget)).await;
    *budget = std::mem::take(&mut judged.budget);
    judged
}
