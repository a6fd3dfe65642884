//! What is told of a gateway's words: log lines and metrics.
//!
//! Promise: an ack is told when it is stable, and not before.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use spool::ids::{ItemId, WallMs};

use super::GatewayLane;
use crate::crashpoint;
use crate::mail::address::masked_words;
use crate::spooler::Stable;
use crate::tunnel::session::{Change, Flight};

impl GatewayLane {
    /// Gives back what was acked, and tells of it when it is stable: now, or as what is left to do.
    pub(super) fn note_acks(
        self: &Arc<Self>,
        changes: &[Change],
        stable: Option<Stable>,
        now: WallMs,
    ) -> Option<BoxFuture<'static, ()>> {
        let acked: Vec<(Flight, u64)> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Ack(flight) => Some(*flight),
                Change::Nack { .. }
                | Change::Postpone { .. }
                | Change::Reject { .. }
                | Change::Damaged { .. }
                | Change::Replay(_) => None,
            })
            .map(|flight| {
                let one = self.with_carried(|carried| carried.remove(&flight.item));
                (flight, one.map_or(0, |one| now.since(one.info.accepted_at)))
            })
            .collect();
        let Some(stable) = stable else {
            self.tell_acked(&acked);
            return None;
        };
        let lane = Arc::clone(self);
        Some(Box::pin(async move {
            // A commit that fails poisons the spool, and the next request hears of it.
            if stable.wait().await.is_ok() {
                lane.tell_acked(&acked);
            }
        }))
    }

    fn tell_acked(&self, acked: &[(Flight, u64)]) {
        if !acked.is_empty() {
            crashpoint::reach("lane.after_ack");
        }
        let session = self.id;
        for (Flight { item, size_bytes, .. }, wait_ms) in acked {
            self.metrics.acked(self.tunnel(), *wait_ms);
            tracing::info!(
                event = "relay.item.acked", item.id = %item, lane = %self.key, session.id = %session,
                size_bytes, duration_ms = wait_ms, "gateway has item `{item}`"
            );
        }
    }

    /// Logs and counts what a gateway did not take.
    pub(super) fn note_refusal(&self, change: &Change) {
        let session = self.id;
        match change {
            Change::Ack(_) | Change::Replay(_) => {}
            Change::Nack { item, retry_after_ms } => {
                self.with_carried(|carried| carried.remove(item));
                self.metrics.items_nacked.inc();
                tracing::info!(
                    event = "relay.item.nacked", item.id = %item, lane = %self.key, session.id = %session,
                    retry_after_ms, "item `{item}` goes later"
                );
            }
            // Why it could not be read has been told.
            Change::Postpone { item, retry_after_ms } => {
                self.with_carried(|carried| carried.remove(item));
                tracing::info!(
                    event = "relay.item.postponed", item.id = %item, lane = %self.key, session.id = %session,
                    retry_after_ms, "item `{item}` could not be read and goes later"
                );
            }
            Change::Reject { item, reason } => {
                self.with_carried(|carried| carried.remove(item));
                self.metrics.items_rejected.inc();
                // What the server behind the gateway said, often with the recipient in it.
                let reason = masked_words(reason);
                tracing::warn!(
                    event = "relay.item.held", item.id = %item, lane = %self.key, session.id = %session, reason,
                    "gateway refuses item `{item}`; it is held"
                );
            }
            Change::Damaged { item, problem } => {
                self.with_carried(|carried| carried.remove(item));
                tracing::error!(
                    event = "relay.item.quarantined", item.id = %item, lane = %self.key, session.id = %session,
                    problem, "a damaged item is set aside"
                );
            }
        }
    }

    /// Logs and counts an item that its gateway could not take once too often.
    pub(super) fn note_parked(&self, item: ItemId, reason: &str) {
        self.with_carried(|carried| carried.remove(&item));
        self.metrics.items_nacked.inc();
        self.metrics.items_parked.inc();
        tracing::warn!(
            event = "relay.item.held", item.id = %item, lane = %self.key, session.id = %self.id, reason,
            "item `{item}` is held: {reason}"
        );
    }
}
