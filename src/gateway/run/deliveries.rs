//! Messages on their way from the client into the destination, and what is decided about them.
//!
//! Policy: see [`super`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::STOP_PATIENCE;
use crate::clock;
use crate::gateway::destination::{Destination, Outcome, later_delay, unavailable_delay};
use crate::gateway::handle::StatusBoard;
use crate::gateway::{Message, staging};

/// Most items whose refusals are counted; beyond it counting starts anew.
const COUNTED_MAX: usize = 10_000;

/// Messages on their way into the destination.
pub(super) struct Deliveries {
    destination: Arc<Destination>,
    board: StatusBoard,
    refused_dir: PathBuf,
    stop: CancellationToken,
    running: JoinSet<(String, bool)>,
    /// How often items were answered `later`.
    tries: HashMap<String, u32>,
}

impl Deliveries {
    pub(super) fn new(
        destination: Arc<Destination>,
        board: StatusBoard,
        refused_dir: PathBuf,
        stop: CancellationToken,
    ) -> Self {
        Self { destination, board, refused_dir, stop, running: JoinSet::new(), tries: HashMap::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.running.len() < self.destination.parallel()
    }

    pub(super) fn begin(&mut self, message: Message) {
        let tries = self.tries.get(message.item_id()).copied().unwrap_or_default();
        self.running.spawn(deliver(
            Arc::clone(&self.destination),
            self.board.clone(),
            self.refused_dir.clone(),
            self.stop.clone(),
            message,
            tries,
        ));
    }

    /// Waits for the end of one delivery; for ever if none is under way.
    pub(super) async fn one_done(&mut self) {
        match self.running.join_next().await {
            Some(Ok((item_id, later))) => {
                if !later {
                    self.tries.remove(&item_id);
                } else {
                    if self.tries.len() >= COUNTED_MAX {
                        self.tries.clear();
                    }
                    *self.tries.entry(item_id).or_default() += 1;
                }
            }
            Some(Err(error)) => {
                tracing::error!(event = "gateway.delivery_failed", error = %error, "a delivery ended by a bug");
            }
            None => std::future::pending().await,
        }
    }

    pub(super) async fn finish(mut self) {
        let all = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_PATIENCE, all).await;
    }
}

/// Delivers one message and decides it; returns its id and whether it was answered `later`.
async fn deliver(
    destination: Arc<Destination>,
    board: StatusBoard,
    refused_dir: PathBuf,
    stop: CancellationToken,
    message: Message,
    later_tries: u32,
) -> (String, bool) {
    let item_id = message.item_id().to_owned();
    let began = clock::monotonic();
    let mut tries = 0;
    loop {
        let outcome = destination.deliver(message.letter()).await;
        let (reason, delay) = match outcome {
            Outcome::Stored => {
                let duration_ms = u64::try_from((clock::monotonic() - began).as_millis()).unwrap_or(u64::MAX);
                tracing::info!(
                    event = "gateway.item.stored",
                    item.id = item_id,
                    seq = message.seq(),
                    size_bytes = message.size_bytes(),
                    duration_ms,
                    "stored item {item_id}"
                );
                message.ack();
                return (item_id, false);
            }
            Outcome::Refused { reason } => {
                tracing::error!(
                    event = "gateway.item.refused",
                    item.id = item_id,
                    reason,
                    "destination refuses item {item_id}"
                );
                board.update(|status| status.note(format!("item {item_id}: {reason}"), clock::wall()));
                if !message.kept_by_relay() {
                    keep_refused(&refused_dir, &message);
                }
                message.reject(&reason);
                return (item_id, false);
            }
            Outcome::Later { reason, retry_after } if message.kept_by_relay() => {
                let delay = later_delay(later_tries, retry_after);
                tracing::warn!(
                    event = "gateway.item.returned",
                    item.id = item_id,
                    reason,
                    retry_seconds = delay.as_secs(),
                    "item {item_id} goes back to the relay for now"
                );
                board.update(|status| status.note(format!("item {item_id}: {reason}"), clock::wall()));
                message.nack(delay);
                return (item_id, true);
            }
            Outcome::Later { reason, retry_after } | Outcome::Unavailable { reason, retry_after } => {
                (reason, unavailable_delay(tries, retry_after))
            }
        };
        if tries == 0 {
            tracing::warn!(
                event = "gateway.destination.unavailable",
                reason,
                "destination cannot take mail: {reason}"
            );
        }
        board.update(|status| status.note(reason, clock::wall()));
        tries = tries.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => {
                message.leave();
                return (item_id, false);
            }
        }
    }
}

/// Last resort for a message that nobody else has.
fn keep_refused(dir: &Path, message: &Message) {
    let kept = staging::make_dir(dir)
        .and_then(|()| std::fs::copy(message.path(), dir.join(format!("{}.eml", message.item_id()))))
        .map(|_| ());
    if let Err(error) = kept {
        tracing::error!(event = "gateway.item.lost", item.id = message.item_id(), error = %error, "cannot keep a refused message");
    }
}
