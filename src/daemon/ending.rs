//! The end of a relay, in the order in which nobody is hurt: mail first, deliveries, gateways last, then the ledger.
//!
//! An ordinary stop refuses new connections at once. A hand-over keeps the listening sockets open, so that who comes
//! meanwhile waits for the next process instead of being refused, and it keeps serving for as long as it can:
//!
//! 1. Deliveries: no new attempt; what is armed gets its verdict. Mail still comes in, gateways are served.
//! 2. SMTP: nobody new is greeted; what has begun is finished, within bounds. Gateways are served.
//! 3. Gateways: told when to come back; what is in flight may be acked for a moment.
//! 4. The last checkpoint; the directory is given up.
//!
//! Failure policy: every step has a bound, and what is left after it is dropped: recovered, or offered again, by rule.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use spool::error::SpoolError;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::listeners::{self, FileId};
use super::places::Place;
use super::{Daemon, EndError};
use crate::clock;
use crate::mail::intake::{Intake, Leave};
use crate::systemd::Socket;
use crate::tunnel::session;
use crate::tunnel::ws::Farewell;

/// How long messages under way may take to finish after a stop.
pub const DRAIN_SMTP: Duration = Duration::from_secs(20);
/// How long everything together may take after a stop, before what is left is dropped.
pub const DRAIN_ALL: Duration = Duration::from_secs(30);
/// How long an open transaction may go without its message after a stop.
const DRAIN_COMMANDS: Duration = Duration::from_secs(3);
/// What gateways are told to wait before they come back after a stop.
pub(super) const RECONNECT_AFTER: Duration = Duration::from_secs(2);

/// How long armed deliveries may take before a hand-over goes on without their verdict.
pub const HAND_OVER_DELIVERIES: Duration = Duration::from_secs(15);
/// How long messages under way may take in a hand-over: others wait for their greeting meanwhile.
pub const HAND_OVER_SMTP: Duration = Duration::from_secs(10);
/// How long a client that was greeted, or is about to be, may take to begin its message in a hand-over.
const HAND_OVER_COMMANDS: Duration = Duration::from_secs(2);
/// What gateways are told to wait in a hand-over.
const HAND_OVER_RECONNECT: Duration = Duration::from_millis(250);
/// How long what is in flight may be acked in a hand-over: other gateways have nobody meanwhile.
const HAND_OVER_SETTLE: Duration = Duration::from_millis(500);
/// How long sessions may take to end in a hand-over.
const HAND_OVER_SESSIONS: Duration = Duration::from_millis(800);

/// How a relay ended.
#[derive(Debug)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// It made room for the next process, which takes these; since that time nobody has been greeted.
    HandedOver {
        /// What listens, still.
        sockets: Vec<Socket>,
        /// When the last gateway was sent away, milliseconds since 1970 UTC.
        since_ms: u64,
    },
}

/// One token for each step.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps {
    pub(super) deliveries: CancellationToken,
    pub(super) smtp: CancellationToken,
    /// Gateways, HTTP, and everything that serves the others.
    pub(super) rest: CancellationToken,
}

/// What the steps wait for.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) steps: Steps,
    pub(super) intake: Intake,
    pub(super) smtp: JoinHandle<()>,
    pub(super) deliveries: JoinHandle<()>,
    pub(super) sockets: Vec<Socket>,
    pub(super) hand_over: HandOver,
    /// The file of the admin socket, when it is ours.
    pub(super) admin_file: Option<FileId>,
}

/// Makes a running relay hand over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HandOver {
    order: CancellationToken,
    /// Names and places of what would be handed over.
    pub(super) sockets: Arc<[(String, Place)]>,
    /// Our data directory.
    pub(super) data_dir: Arc<Path>,
}

impl HandOver {
    pub(super) fn new(sockets: &[Socket], data_dir: &Path) -> Self {
        Self {
            order: CancellationToken::new(),
            sockets: listeners::describe(sockets).into(),
            data_dir: data_dir.into(),
        }
    }

    /// [`Daemon::ended`] will give the sockets.
    pub fn begin(&self) {
        self.order.cancel();
    }
}

impl Daemon {
    /// What makes it hand over.
    #[must_use]
    pub fn hand_over(&self) -> HandOver {
        self.parts.hand_over.clone()
    }

    /// Waits for `stop`, for a hand-over or for trouble, then ends everything in order.
    ///
    /// # Errors
    /// [`EndError`] when it was trouble.
    pub async fn ended(mut self) -> Result<Ended, EndError> {
        let hands_over = tokio::select! {
            () = self.stop.cancelled() => false,
            () = self.parts.hand_over.order.cancelled() => true,
            () = self.poisoned.cancelled() => {
                self.stop.cancel();
                false
            }
        };
        self.pulse.stopping();
        self.tasks.close();
        let sockets = std::mem::take(&mut self.parts.sockets);
        if !hands_over {
            tracing::info!(event = "relay.stopping", "stopping: sessions finish what is under way");
            // Refused at once, so that senders try elsewhere.
            drop(sockets);
            self.drain().await;
            self.close().await?;
            tracing::info!(event = "relay.stopped", "relay stopped");
            return Ok(Ended::Stopped);
        }
        tracing::info!(event = "relay.handover.draining", "handing over: what is under way is finished");
        let since_ms = self.make_room().await;
        self.close().await?;
        Ok(Ended::HandedOver { sockets, since_ms })
    }

    /// The steps of a stop.
    async fn drain(&mut self) {
        let all = clock::monotonic() + DRAIN_ALL;
        let Parts { steps, intake, smtp, deliveries, .. } = &mut self.parts;
        intake.set_leave(Leave { whole: DRAIN_SMTP, commands: DRAIN_COMMANDS, newcomers: false });
        steps.smtp.cancel();
        steps.deliveries.cancel();
        let _ = timeout(DRAIN_SMTP, join(smtp, deliveries)).await;
        let farewell = Farewell { reconnect_after: RECONNECT_AFTER, settle: session::DRAIN_TIME_MAX };
        self.tunnel.set_farewell(farewell);
        self.parts.steps.rest.cancel();
        self.finish(all.saturating_duration_since(clock::monotonic())).await;
    }

    /// The steps of a hand-over; answers when the last gateway was sent away.
    async fn make_room(&mut self) -> u64 {
        let Parts { steps, intake, smtp, deliveries, .. } = &mut self.parts;
        steps.deliveries.cancel();
        if timeout(HAND_OVER_DELIVERIES, deliveries).await.is_err() {
            tracing::warn!(
                event = "relay.drain_timeout",
                "a delivery has no verdict yet; the next process decides by rule"
            );
        }
        let leave = Leave { whole: HAND_OVER_SMTP, commands: HAND_OVER_COMMANDS, newcomers: true };
        intake.set_leave(leave);
        steps.smtp.cancel();
        let _ = smtp.await; // bounded by `leave`
        let farewell = Farewell { reconnect_after: HAND_OVER_RECONNECT, settle: HAND_OVER_SETTLE };
        self.tunnel.set_farewell(farewell);
        let since = clock::wall();
        self.parts.steps.rest.cancel();
        self.finish(HAND_OVER_SESSIONS).await;
        since.0
    }

    /// Waits for all tasks, and says so when some are left.
    async fn finish(&self, most: Duration) {
        if timeout(most, self.tasks.wait()).await.is_err() {
            let left = self.tasks.len();
            tracing::warn!(event = "relay.drain_timeout", left, "some sessions were cut off");
        }
    }

    /// The last checkpoint; the directory belongs to nobody then.
    async fn close(self) -> Result<(), EndError> {
        let poisoned = self.poisoned.is_cancelled();
        let engine = self.ledger.engine;
        let closed =
            tokio::task::spawn_blocking(move || engine.stop()).await.unwrap_or(Err(SpoolError::Closed));
        let ours = self.parts.admin_file.filter(|_| self.stop.is_cancelled());
        // Somebody else may have put his there since.
        if ours.is_some() && FileId::of(&self.admin_socket) == ours {
            // The next start would replace it; a tidy directory tells an operator that nothing runs.
            let _ = std::fs::remove_file(&self.admin_socket);
        }
        if poisoned { Err(EndError::Poisoned) } else { closed.map_err(EndError::Close) }
    }
}
