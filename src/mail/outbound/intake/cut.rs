//! Streams that were cut off with their line, until somebody can tell their gateway.
//!
//! A gateway of tunnel 1 takes silence for success, and a result that comes on a later connection counts within its wait
//! (mail-tunnel protocol, section 7.4). So the next session of the mailbox says that they failed.
//!
//! Promises: at most [`KEPT_MAX`] of a mailbox, each until nobody waits for it any more; each is told once. Kept in
//! memory: a relay that stops tells its sessions itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use spool::ids::LaneId;

/// Most streams of one mailbox: as many as four sessions can have open.
const KEPT_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Cut {
    /// Name of each stream, and until when its gateway may wait.
    mailboxes: Mutex<HashMap<LaneId, Vec<(String, Instant)>>>,
}

impl Cut {
    /// The line that carried these is gone, and they were not whole.
    pub(super) fn note(&self, mailbox: LaneId, streams: Vec<String>, until: Instant) {
        if streams.is_empty() {
            return;
        }
        let mut mailboxes = self.lock();
        let kept = mailboxes.entry(mailbox).or_default();
        kept.extend(streams.into_iter().map(|stream| (stream, until)));
        // Of the oldest it is the least likely that anybody waits.
        kept.drain(..kept.len().saturating_sub(KEPT_MAX));
    }

    /// What a session of `mailbox` is to say now.
    pub(super) fn take(&self, mailbox: LaneId, now: Instant) -> Vec<String> {
        let kept = self.lock().remove(&mailbox).unwrap_or_default();
        kept.into_iter().filter(|(_, until)| now < *until).map(|(stream, _)| stream).collect()
    }

    /// Forgets what nobody waits for.
    pub(super) fn tidy(&self, now: Instant) {
        let mut mailboxes = self.lock();
        mailboxes.retain(|_, kept| kept.iter().any(|(_, until)| now < *until));
        mailboxes.shrink_to_fit();
    }

    /// Changed by one statement each: whole when a holder panics.
    fn lock(&self) -> MutexGuard<'_, HashMap<LaneId, Vec<(String, Instant)>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_is_told_once_while_somebody_waits_and_they_are_bounded() {
        let (cut, now) = (Cut::default(), crate::clock::monotonic());
        let later = |seconds| now + Duration::from_secs(seconds);
        cut.note(LaneId(1), vec!["a".into()], later(10));
        cut.note(LaneId(1), vec!["b".into(), "c".into()], later(20));
        cut.note(LaneId(2), vec!["d".into()], later(20));
        cut.note(LaneId(3), Vec::new(), later(20));
        assert_eq!(cut.take(LaneId(1), later(10)), ["b", "c"]);
        assert_eq!(cut.take(LaneId(1), later(10)), [""; 0]);
        cut.tidy(later(19));
        assert_eq!(cut.lock().len(), 1);
        cut.tidy(later(20));
        assert_eq!(cut.lock().len(), 0);
        for n in 0..KEPT_MAX {
            cut.note(LaneId(1), vec![format!("{n}-0"), format!("{n}-1")], later(20));
        }
        let told = cut.take(LaneId(1), now);
        assert_eq!((told.len(), told.last()), (KEPT_MAX, Some(&format!("{}-1", KEPT_MAX - 1))));
    }
}
