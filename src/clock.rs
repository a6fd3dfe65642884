//! The only place that asks the system what time it is.
//!
//! Durable deadlines are wall milliseconds ([`WallMs`]); timers inside one process are [`Instant`]s, which
//! never go backwards.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use spool::ids::WallMs;

/// Wall clock now, milliseconds since 1970 UTC; 0 for a clock set before that.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> WallMs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Monotonic time now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}
