//! Whether the gateway is alive, for the service manager: its outbox answers, and how it stands with the relay.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::gateway::handle::StatusBoard;
use crate::gateway::outbox::Outbox;
use crate::systemd::Life;

/// Time between two looks at the outbox.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An outbox that does not answer for so long has not answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Heart {
    board: StatusBoard,
    answered: Mutex<Instant>,
}

impl Heart {
    pub(super) fn new(board: StatusBoard) -> Arc<Self> {
        Arc::new(Self { board, answered: Mutex::new(clock::monotonic()) })
    }

    /// Looks until `stop`.
    pub(super) async fn run(self: Arc<Self>, outbox: Outbox, stop: CancellationToken) {
        let look = async {
            loop {
                if let Ok(true) = tokio::time::timeout(PATIENCE, outbox.answers()).await {
                    *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = clock::monotonic();
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = look => {}
        }
    }
}

impl Life for Heart {
    fn answers_within(&self, time: Duration) -> bool {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        clock::monotonic().saturating_duration_since(answered) <= time.max(LOOK_EVERY * 3)
    }

    fn sentence(&self) -> String {
        let status = self.board.read();
        let stored = status.stored;
        match (status.tunnel, status.last_error) {
            (Some(_), _) => {
                format!("connected to the relay, {stored} messages stored, {} in hand", status.in_hand)
            }
            (None, Some(error)) => format!("not connected, tries again: {error}"),
            (None, None) => "connecting to the relay".to_owned(),
        }
    }
}
