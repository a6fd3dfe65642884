//! What an operator reads of a session: one log event for each notice of the machine, or the reason of its end.
//!
//! Decides nothing; only a drain's wait is noted for the next connection.

use super::Carrier;
use crate::clock;
use crate::gateway::checked::{Checked, FIELD_NAME};
use crate::gateway::client::{Notice, Offer};

impl Carrier {
    /// One event for each item that came in; loud when the relay's keys are known and it does not verify.
    pub(super) fn tell_item(&self, offer: &Offer, checked: &Checked, altered: bool) {
        let (id, seq, word) = (offer.item_id.as_str(), offer.seq, checked.word());
        if altered {
            tracing::warn!(
                event = "gateway.item.forged_field",
                item.id = id,
                "{id} came with a {FIELD_NAME} field of its own, which was taken out"
            );
        }
        if word == "ok" || self.kit.keyring.trusted().is_empty() {
            tracing::debug!(event = "gateway.item.received", item.id = id, seq, attestation = word);
        } else {
            let receipt = checked.receipt.as_ref().err().map_or("ok", |reason| reason.as_str());
            tracing::warn!(
                event = "gateway.item.unverified",
                item.id = id,
                seq,
                attestation = word,
                receipt,
                "{id} is delivered as not verified: {word}"
            );
        }
    }

    /// Logs a notice; gives its text when it explains the end of a session.
    pub(super) fn notice(&mut self, notice: Notice) -> Option<String> {
        match notice {
            Notice::AuthRefused(code) => return Some(format!("the relay refused the login: {code}")),
            Notice::ProofRefused(refusal) => return Some(refusal.to_string()),
            Notice::TunnelOneRefused => {
                return Some(
                    "the relay speaks tunnel 1 only, which cannot ack; set allow_tunnel_1 to use it anyway"
                        .to_owned(),
                );
            }
            Notice::Violation(what) => return Some(format!("the relay broke the protocol: {what}")),
            Notice::Gap { expected, got } => {
                tracing::info!(
                    event = "gateway.lane.gap",
                    expected,
                    got,
                    "positions {expected} to {} were not offered: held, expired or removed at the relay",
                    got - 1
                );
            }
            Notice::ChainBroken { seq } => {
                tracing::error!(
                    event = "gateway.lane.chain_broken",
                    seq,
                    "the relay's history of this lane was changed before {seq}"
                );
                self.kit.board.update(|status| {
                    status.note(
                        format!("the lane's hash chain is broken before position {seq}"),
                        clock::wall(),
                    );
                });
            }
            Notice::Damaged { item_id, problem } => {
                tracing::warn!(
                    event = "gateway.item.damaged",
                    item.id = item_id,
                    problem,
                    "arrived damaged, sent back"
                );
            }
            Notice::Aborted { reason } => {
                tracing::warn!(event = "gateway.item.aborted", reason, "the relay gave up a message");
            }
            Notice::Drain { reconnect_after } => {
                tracing::info!(event = "gateway.drain", "the relay asks to come back later");
                self.drain_wait = Some(reconnect_after);
            }
            Notice::ReplayAccepted { items } => {
                tracing::info!(
                    event = "gateway.replay.accepted",
                    items,
                    "the relay offers {items} items again"
                );
            }
            Notice::Garbage(problem) => {
                tracing::warn!(event = "gateway.garbage", problem, "a message that makes no sense");
            }
        }
        None
    }
}
