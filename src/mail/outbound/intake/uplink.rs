//! How long a gateway may have been waiting already for the result of a stream whose first frame is read now.
//!
//! A gateway of tunnel 1 begins to wait before the first frame of a stream leaves, and no frame says when that was: it
//! may have stood in line behind everything that was sent before it, and we may have read slowly. But while a gateway
//! has something to send its line does not stand still, as long as we read. So a stream cannot have begun earlier than
//! the time since which the line has had no pause.
//!
//! Promises: pure, and two instants for a session; time in which we did not read is no pause. A wait that is guessed
//! too long costs a second notice of a failure, one that is guessed too short would cost the only one.

use std::time::{Duration, Instant};

/// A line that has been still for so long has brought all that there was. TCP says again what was lost after 0.2, 0.4,
/// 0.8 and 1.6 seconds: four of these in a row may be lost as well.
const PAUSE: Duration = Duration::from_secs(5);

/// One session's way from the gateway to us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uplink {
    busy_since: Instant,
    /// Since when nothing has come, the time left out in which we did not read.
    still_since: Instant,
}

impl Uplink {
    /// Of a session that begins: nobody sends before.
    pub(super) fn new(now: Instant) -> Self {
        Self { busy_since: now, still_since: now }
    }

    /// A frame of a stream has come; how long one that begins with it may have been on its way.
    pub(super) fn comes(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.still_since) >= PAUSE {
            self.busy_since = now;
        }
        now.saturating_duration_since(self.busy_since)
    }

    /// That frame is dealt with, and the next one is read.
    pub(super) fn goes_on(&mut self, now: Instant) {
        self.still_since = now;
    }

    /// Something else kept us from reading.
    pub(super) fn was_kept(&mut self, took: Duration) {
        self.still_since += took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stream_is_as_old_as_the_last_pause_is_away() {
        let start = crate::clock::monotonic();
        let mut uplink = Uplink::new(start);
        // A frame each second; then five seconds of nothing.
        for n in 1..=30 {
            let now = start + SECOND * n;
            assert_eq!(uplink.comes(now), SECOND * n, "since the session began");
            uplink.goes_on(now);
        }
        assert_eq!(uplink.comes(start + SECOND * 35), Duration::ZERO);
        uplink.goes_on(start + SECOND * 35);
        assert_eq!(uplink.comes(start + SECOND * 39), SECOND * 4);
    }

    #[test]
    fn time_in_which_we_do_not_read_is_no_pause() {
        let start = crate::clock::monotonic();
        let mut uplink = Uplink::new(start);
        uplink.comes(start + SECOND);
        // The disk took its time over a frame.
        uplink.goes_on(start + SECOND * 20);
        assert_eq!(uplink.comes(start + SECOND * 22), SECOND * 22);
        uplink.goes_on(start + SECOND * 22);
        // And over the results, in which time the next frame may have come.
        uplink.was_kept(SECOND * 10);
        assert_eq!(uplink.comes(start + SECOND * 33), SECOND * 33);
        uplink.goes_on(start + SECOND * 33);
        uplink.was_kept(SECOND * 10);
        assert_eq!(uplink.comes(start + SECOND * 48), Duration::ZERO, "five seconds without us in between");
    }
}
