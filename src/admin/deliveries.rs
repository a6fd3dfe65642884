//! What the operator's door knows of deliveries while they run: the pause, what is tried, and who is left alone.
//!
//! The pause is a file in the data directory, so it can be read, set and taken away without a running relay too.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use spool::ids::{ItemId, WallMs};

use super::ask::AskError;
use super::words::rfc3339;
use crate::mail::outbound::delivery::standing::Standing;
use crate::mail::outbound::delivery::switch::Switch;

/// Most destinations that an answer names.
const ALONE_MAX: usize = 1000;

/// What deliveries are doing, as plain values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Why nothing is handed over, if nothing is.
    pub paused: Option<String>,
    /// Since when an operator has paused them, if one has.
    pub paused_since: Option<WallMs>,
    /// Submissions that are attempted now.
    pub under_way: BTreeSet<ItemId>,
    /// Destinations that did not answer, and when each is tried again; a bounded number of them.
    pub left_alone: Vec<(String, WallMs)>,
    /// How many there are.
    pub left_alone_count: usize,
    /// When this was so.
    pub at: WallMs,
}

impl Now {
    /// A look at what runs; without `standing` only the pause is known.
    #[must_use]
    pub fn look(switch: &Switch, standing: Option<&Standing>, now: WallMs) -> Self {
        let (left_alone, left_alone_count) =
            standing.map(|standing| standing.all_left_alone(now, ALONE_MAX)).unwrap_or_default();
        Self {
            paused: switch.reason(),
            paused_since: switch.operator().map(|pause| WallMs(pause.since_ms)),
            under_way: standing.map(Standing::under_way).unwrap_or_default(),
            left_alone,
            left_alone_count,
            at: now,
        }
    }

    /// `{"paused", "reason", "paused_since", "attempts_under_way", "left_alone": [{"destination", "until",
    /// "seconds"}], "left_alone_count"}`; the last three are `null` when no relay runs that could know.
    #[must_use]
    pub fn object(&self, running: bool) -> Value {
        let alone = self.left_alone.iter().map(|(destination, until)| {
            let seconds = until.since(self.at) / 1000;
            json!({ "destination": destination, "until": rfc3339(*until), "seconds": seconds })
        });
        json!({
            "running": running,
            "paused": self.paused.is_some(),
            "reason": self.paused,
            "paused_since": self.paused_since.map(rfc3339),
            "attempts_under_way": running.then_some(self.under_way.len()),
            "left_alone": running.then(|| alone.collect::<Vec<_>>()),
            "left_alone_count": running.then_some(self.left_alone_count),
        })
    }
}

/// What an operator wants of deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchAsk {
    /// Hand nothing over until it is taken back, also over a restart.
    Pause {
        /// Why.
        reason: String,
    },
    /// Go on.
    Resume,
}

/// Throws the switch. Blocks for the disk.
///
/// # Errors
/// [`AskError::Conflict`] when nothing was paused, or the file of the pause cannot be written or removed.
pub fn throw(switch: &Switch, ask: &SwitchAsk, now: WallMs) -> Result<(), AskError> {
    let failed = |error: std::io::Error| AskError::Conflict(format!("the pause cannot be changed: {error}"));
    match ask {
        SwitchAsk::Pause { reason } => switch.pause(reason, now).map_err(failed),
        SwitchAsk::Resume => match (switch.resume().map_err(failed)?, switch.reason()) {
            (true, _) => Ok(()),
            (false, Some(reason)) => Err(AskError::Conflict(format!(
                "no operator paused deliveries; the relay did itself, and goes on by itself: {reason}"
            ))),
            (false, None) => Err(AskError::Conflict("deliveries are not paused".to_owned())),
        },
    }
}
