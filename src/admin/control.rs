//! Orders to the process itself: read the configuration again, hand over to a new process.
//!
//! The routes do not know how that is done; whoever owns the process takes the orders out of a bounded queue and answers.
//! Failure policy: a relay inside another program takes no orders, and says so.

use serde_json::{Value, json};
use spool::ids::WallMs;
use tokio::sync::{mpsc, oneshot};

use super::ask::AskError;
use crate::clock;
use crate::mail::signed::time_text;

/// Orders that wait, at most.
const ORDERS_MAX: usize = 8;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration again.
    Reload,
    /// Say what that would change, and change nothing.
    Compare,
    /// Replace the process, and keep the sockets.
    Restart,
}

/// One order, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub order: Order,
    /// To whom.
    pub answer: oneshot::Sender<Result<Value, AskError>>,
}

/// Gives orders. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    orders: mpsc::Sender<Asked>,
    started_at: WallMs,
    handovers: u64,
}

impl Control {
    /// A queue of orders; `handovers`: how often this process has replaced itself.
    #[must_use]
    pub fn new(handovers: u64) -> (Self, mpsc::Receiver<Asked>) {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        (Self { orders, started_at: clock::wall(), handovers }, queue)
    }

    /// Gives an order and waits for its answer.
    ///
    /// # Errors
    /// [`AskError`]; nothing has changed then.
    pub(super) async fn give(&self, order: Order) -> Result<Value, AskError> {
        let gone = || AskError::Conflict("the relay is stopping".to_owned());
        let (answer, wait) = oneshot::channel();
        self.orders.try_send(Asked { order, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Conflict("too many orders wait".to_owned()),
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        wait.await.map_err(|_| gone())?
    }

    /// Which process this is.
    pub(super) fn process(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": time_text(self.started_at),
            "started_ms": self.started_at.0,
            "handovers": self.handovers,
        })
    }
}

/// A relay that takes no orders.
pub(super) fn nobody() -> AskError {
    AskError::Conflict("this relay runs inside another program, which takes no orders for it".to_owned())
}
