//! PURE: how long the checks of one message may wait for DNS.
//!
//! A resolver that does not answer must not cost every message the full wait: after [`SILENT_MAX`] messages in a row
//! without a single answer, patience with the first answer shrinks to a fraction. Now and then one message waits in full, so that a resolver
//! which is merely slow is found again; the first answer restores everything.

use core::time::Duration;

/// Messages in a row without any answer before patience shrinks.
pub const SILENT_MAX: u32 = 3;
/// What is left of it then.
const FRACTION: u32 = 20;
/// Shortest patience.
const LEAST: Duration = Duration::from_millis(50);
/// Every so many messages one waits in full.
const PROBE_EVERY: u32 = 16;

/// The state.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    full: Duration,
    /// Messages in a row without any answer.
    silent: u32,
    /// Messages since patience shrank.
    shrunk: u32,
}

impl Patience {
    /// Full patience.
    #[must_use]
    pub fn new(full: Duration) -> Self {
        Self { full, silent: 0, shrunk: 0 }
    }

    /// How long a message may wait when its questions are answered.
    #[must_use]
    pub fn full(&self) -> Duration {
        self.full
    }

    /// How long the next message may wait for the first answer.
    pub fn allowed(&mut self) -> Duration {
        if self.silent < SILENT_MAX {
            return self.full;
        }
        self.shrunk = self.shrunk.wrapping_add(1);
        if self.shrunk.is_multiple_of(PROBE_EVERY) {
            return self.full;
        }
        (self.full / FRACTION).max(LEAST).min(self.full)
    }

    /// The resolver said something, whatever it was.
    pub fn answered(&mut self) {
        (self.silent, self.shrunk) = (0, 0);
    }

    /// A message's time was over without a single answer. True when that was one too many.
    pub fn was_silent(&mut self) -> bool {
        self.silent = self.silent.saturating_add(1);
        self.silent == SILENT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Duration = Duration::from_secs(5);

    #[test]
    fn silence_shrinks_it_and_an_answer_restores_it() {
        let mut patience = Patience::new(FULL);
        for n in 1..=SILENT_MAX {
            assert_eq!(patience.allowed(), FULL);
            assert_eq!(patience.was_silent(), n == SILENT_MAX);
        }
        assert_eq!(patience.allowed(), Duration::from_millis(250));
        assert!(!patience.was_silent());
        patience.answered();
        assert_eq!(patience.allowed(), FULL);
        patience.was_silent();
        patience.answered();
        patience.was_silent();
        patience.was_silent();
        assert_eq!(patience.allowed(), FULL); // not in a row
    }

    #[test]
    fn now_and_then_one_message_waits_in_full() {
        let mut patience = Patience::new(FULL);
        for _ in 0..SILENT_MAX {
            patience.was_silent();
        }
        let full = (0..160).filter(|_| patience.allowed() == FULL).count();
        assert_eq!(full, 10);
        let mut short = Patience::new(Duration::from_millis(100));
        for _ in 0..SILENT_MAX {
            short.was_silent();
        }
        assert_eq!(short.allowed(), LEAST);
    }
}
