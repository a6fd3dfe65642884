//! Streams that were cut off with their line, until somebody can tell their gateway.
//!
//! A gateway of tunnel 1 takes silence for success, and a result that comes on a later connection counts within its wait
//! (mail-tunnel protocol, section 7.4). So the next session of the mailbox says that they failed.
//!
//! Promises: at most [`KEPT_MAX`] of a mailbox, each until nobody waits for it any more; each session is told each once,
//! because nobody knows whether the word to the one before arrived, and a second one does no harm. Kept in memory: a
//! relay that stops tells its sessions itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use spool::ids::LaneId;

/// Most streams of one mailbox: as many as four sessions can have open.
const KEPT_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Cut(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Streams noted so far.
    noted: u64,
    mailboxes: HashMap<LaneId, Vec<Lost>>,
}

#[derive(Debug)]
struct Lost {
    /// Its place among all that were noted.
    number: u64,
    stream: String,
    /// Until when its gateway may wait.
    until: Instant,
}

impl Cut {
    /// The line that carried these is gone, and nothing of them is kept.
    pub(super) fn note(&self, mailbox: LaneId, streams: Vec<String>, until: Instant) {
        if streams.is_empty() {
            return;
        }
        let mut kept = self.lock();
        let Kept { noted, mailboxes } = &mut *kept;
        let lost = mailboxes.entry(mailbox).or_default();
        for stream in streams {
            *noted += 1;
            lost.push(Lost { number: *noted, stream, until });
        }
        // Of the oldest it is the least likely that anybody waits.
        lost.drain(..lost.len().saturating_sub(KEPT_MAX));
    }

    /// What a session of `mailbox` is to say now that has said all up to `after`; up to where it has said all then.
    pub(super) fn news(&self, mailbox: LaneId, after: u64, now: Instant) -> (Vec<String>, u64) {
        let kept = self.lock();
        let lost = kept.mailboxes.get(&mailbox).into_iter().flatten();
        let news = lost.filter(|lost| lost.number > after && now < lost.until);
        (news.map(|lost| lost.stream.clone()).collect(), kept.noted)
    }

    /// The stream comes again under the same name: it may be kept now.
    pub(super) fn comes_again(&self, mailbox: LaneId, stream: &str) {
        if let Some(lost) = self.lock().mailboxes.get_mut(&mailbox) {
            lost.retain(|lost| lost.stream != stream);
        }
    }

    /// Forgets what nobody waits for.
    pub(super) fn tidy(&self, now: Instant) {
        let mut kept = self.lock();
        kept.mailboxes.retain(|_, lost| {
            lost.retain(|lost| now < lost.until);
            !lost.is_empty()
        });
        kept.mailboxes.shrink_to_fit();
    }

    /// Whatever a holder did before it panicked can stay.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_session_is_told_once_while_somebody_waits_and_they_are_bounded() {
        let (cut, now) = (Cut::default(), crate::clock::monotonic());
        let later = |seconds| now + Duration::from_secs(seconds);
        cut.note(LaneId(1), vec!["a".into()], later(10));
        cut.note(LaneId(1), vec!["b".into(), "c".into()], later(20));
        cut.note(LaneId(2), vec!["d".into()], later(20));
        cut.note(LaneId(3), Vec::new(), later(20));
        let (news, told) = cut.news(LaneId(1), 0, later(10));
        assert_eq!(news, ["b", "c"]);
        cut.note(LaneId(1), vec!["e".into()], later(20));
        let (news, told) = cut.news(LaneId(1), told, later(10));
        assert_eq!((news, cut.news(LaneId(1), told, later(10)).0), (vec!["e".to_owned()], Vec::new()));
        cut.comes_again(LaneId(1), "c");
        assert_eq!(cut.news(LaneId(1), 0, later(10)).0, ["b", "e"], "another session hears them, too");
        cut.tidy(later(19));
        assert_eq!(cut.lock().mailboxes.len(), 2);
        cut.tidy(later(20));
        assert_eq!(cut.lock().mailboxes.len(), 0);
        for n in 0..KEPT_MAX {
            cut.note(LaneId(1), vec![format!("{n}-0"), format!("{n}-1")], later(20));
        }
        let (news, _) = cut.news(LaneId(1), 0, now);
        assert_eq!((news.len(), news.last()), (KEPT_MAX, Some(&format!("{}-1", KEPT_MAX - 1))));
    }
}
