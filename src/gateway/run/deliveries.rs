//! Messages on their way from the client into the destination, and what is decided about them.
//!
//! Policy: see [`super`]. A delivery that a stop has broken off says nothing about its message: it is left to the relay
//! undecided, because five refusals would park it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::gateway::destination::{Destination, Outcome, later_delay, unavailable_delay};
use crate::gateway::handle::StatusBoard;
use crate::gateway::{Message, staging};
use crate::mail::address::masked_words;

/// Most items whose refusals are counted; beyond it counting starts anew.
const COUNTED_MAX: usize = 10_000;

/// Messages on their way into the destination.
pub(super) struct Deliveries {
    destination: Arc<Destination>,
    board: StatusBoard,
    refused_dir: PathBuf,
    stop: CancellationToken,
    /// Cancelled when the patience after a stop is over.
    give_up: CancellationToken,
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
        Self {
            destination,
            board,
            refused_dir,
            stop,
            give_up: CancellationToken::new(),
            running: JoinSet::new(),
            tries: HashMap::new(),
        }
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
            Stops { stop: self.stop.clone(), give_up: self.give_up.clone() },
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

    /// Waits `patience` for the deliveries under way; those that take longer leave their message undecided.
    pub(super) async fn finish(mut self, patience: Duration) {
        let mut all = pin!(async { while self.running.join_next().await.is_some() {} });
        if tokio::time::timeout(patience, &mut all).await.is_err() {
            self.give_up.cancel();
            all.await;
        }
    }
}

/// Two steps of an end.
struct Stops {
    /// Nothing is tried again.
    stop: CancellationToken,
    /// What is under way is broken off.
    give_up: CancellationToken,
}

/// Delivers one message and decides it; returns its id and whether it was answered `later`.
async fn deliver(
    destination: Arc<Destination>,
    board: StatusBoard,
    refused_dir: PathBuf,
    stops: Stops,
    message: Message,
    later_tries: u32,
) -> (String, bool) {
    let item_id = message.item_id().to_owned();
    let began = clock::monotonic();
    let mut tries = 0;
    loop {
        let outcome = tokio::select! {
            biased; // what was decided at the last moment counts
            outcome = destination.deliver(message.letter()) => outcome,
            () = stops.give_up.cancelled() => {
                message.leave();
                return (item_id, false);
            }
        };
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
                    reason = masked_words(&reason),
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
                    reason = masked_words(&reason),
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
            let reason = masked_words(&reason);
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
            () = stops.stop.cancelled() => {
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::gateway::checked::Checked;
    use crate::gateway::client::Offer;
    use crate::gateway::destination::Letter;
    use crate::gateway::lmtp::{Address, Lmtp};
    use crate::mail::relay_keys::TrustedKeys;

    #[tokio::test]
    async fn a_delivery_that_outlasts_the_stop_leaves_its_message_undecided() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lmtp");
        // Takes connections and never greets.
        let _server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let lmtp = Lmtp::new(Address::Unix(path), "home".to_owned(), None, Duration::from_secs(3600));
        let stop = CancellationToken::new();
        let mut deliveries = Deliveries::new(
            Arc::new(Destination::Lmtp(lmtp)),
            StatusBoard::default(),
            dir.path().join("refused"),
            stop.clone(),
        );
        let offer = Offer {
            item_id: "abc".to_owned(),
            seq: 3,
            mail_from: String::new(),
            rcpt_to: String::new(),
            size_bytes: None,
            attestation: None,
            receipt: None,
            chain: None,
            announced: None,
        };
        let checked = Checked::of_offer("s", &offer, "lane", &TrustedKeys::default(), clock::wall());
        let (decide, mut decisions) = mpsc::channel(1);
        let letter = Letter::sample(dir.path().join("message"), b"x\r\n");
        deliveries.begin(Message::new(letter, true, checked, None, decide));
        stop.cancel();
        deliveries.finish(Duration::from_millis(100)).await;
        // The channel ends with the message, and nothing was decided: "later" would count as a refusal.
        assert!(decisions.recv().await.is_none());
    }
}
