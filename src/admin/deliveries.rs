//! What the operator's door knows of deliveries while they run: the pause, and who is tried or left alone.
//!
//! [`Deliveries`] is implemented by the daemon's wiring; [`Now`] is a look at it, as plain values for answers.

use spool::ids::{ItemId, WallMs};

/// Most destinations that a look names.
pub const DEAD_MAX: usize = 1000;

/// Runs deliveries, and can stop them.
pub trait Deliveries: Send + Sync + 'static {
    /// What they are doing now.
    fn look(&self) -> Now;
    /// Stops handing anything over until [`Deliveries::resume`], also over a restart. Blocks.
    ///
    /// # Errors
    /// It could not be made to last; nothing changed.
    fn pause(&self, reason: &str, now: WallMs) -> std::io::Result<()>;
    /// Goes on. False when no operator had paused. Blocks.
    ///
    /// # Errors
    /// The pause could not be taken away; nothing changed.
    fn resume(&self) -> std::io::Result<bool>;
}

/// What deliveries are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Why nothing is handed over, if nothing is.
    pub paused: Option<String>,
    /// Since when an operator has paused them, if one has.
    pub paused_since: Option<WallMs>,
    /// Submissions that are attempted now.
    pub under_way: Vec<ItemId>,
    /// Destinations with mail that is due, or was a short while ago.
    pub destinations: u64,
    /// Destinations that are left alone because they did not answer, and until when; at most [`DEAD_MAX`].
    pub dead: Vec<(String, WallMs)>,
}

impl Now {
    /// Until when a destination is left alone, if it is.
    #[must_use]
    pub fn left_alone_until(&self, destination: &str, now: WallMs) -> Option<WallMs> {
        self.dead.iter().find(|(name, until)| name == destination && *until > now).map(|(_, until)| *until)
    }
}
