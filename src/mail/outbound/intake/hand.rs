//! What one session of a gateway has in hand.
//!
//! Promise: bounded, and empty when the session is idle, but for the name of a stream that failed last.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use spool::ids::{ItemId, WallMs};

use super::RESULTS_IN_FLIGHT_MAX;
use super::stream::Stream;
use super::uplink::Uplink;

/// Most repeats of one session that wait for the result of what they repeat.
const REPEATS_MAX: usize = 64;
/// With so many failures remembered as heard too late no more is told; what the gateway does not hear then is reported.
const LATE_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Hand {
    /// Begun and not ended; `None` while the piece under way has it.
    pub(super) streams: HashMap<String, Option<Stream>>,
    /// Ended, and nothing of it is kept; until the session goes on, which shows that it was alive to hear that.
    ending: Option<String>,
    /// Up to where it has told of what was cut off.
    pub(super) cut_told: u64,
    /// Told in this session and not acked; at most [`RESULTS_IN_FLIGHT_MAX`].
    pub(super) said: HashSet<ItemId>,
    /// Heard, but perhaps by nobody who still waited: reported, and not told again until then. What was in flight when it
    /// was full comes on top.
    late: Vec<(ItemId, WallMs)>,
    /// Waiting for the result of what they repeat; at most [`REPEATS_MAX`].
    pub(super) repeats: Vec<Repeat>,
    /// The way that its streams come.
    pub(super) uplink: Uplink,
}

#[derive(Clone, Debug)]
pub(super) struct Repeat {
    pub(super) first: ItemId,
    pub(super) stream: String,
    pub(super) until: WallMs,
}

impl Hand {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            streams: HashMap::new(),
            ending: None,
            cut_told: 0,
            said: HashSet::new(),
            late: Vec::new(),
            repeats: Vec::new(),
            uplink: Uplink::new(now),
        }
    }

    /// A stream for the piece under way, which puts it back.
    pub(super) fn lend(&mut self, name: &str) -> Option<Stream> {
        self.streams.get_mut(name)?.take()
    }

    /// A stream for its end. Until the spool is asked to keep it, nothing of it is kept.
    pub(super) fn end(&mut self, name: &str) -> Option<Stream> {
        let stream = self.streams.remove(name).flatten()?;
        self.ending = Some(name.to_owned());
        Some(stream)
    }

    /// Nothing of this stream is kept, and nothing will be.
    pub(super) fn fails(&mut self, name: &str) {
        self.streams.remove(name);
        self.ending = Some(name.to_owned());
    }

    /// The stream that ended last has been told, or is kept, or nobody knows whether it is.
    pub(super) fn has_ended(&mut self) {
        self.ending = None;
    }

    /// The streams that have not ended, and the one that failed last if perhaps nobody heard it; they are not in hand any
    /// more.
    pub(super) fn cut(&mut self) -> Vec<String> {
        std::mem::take(&mut self.streams).into_keys().chain(self.ending.take()).collect()
    }

    /// Whether a result may be told now; it is in flight then.
    pub(super) fn may_say(&mut self, id: ItemId) -> bool {
        let is_full = self.said.len() >= RESULTS_IN_FLIGHT_MAX || self.late.len() >= LATE_MAX;
        if is_full && !self.said.contains(&id) {
            return false;
        }
        self.said.insert(id);
        true
    }

    /// These were heard perhaps too late; at `until` nobody waits for them any more.
    pub(super) fn heard_late(&mut self, ids: impl Iterator<Item = ItemId>, until: WallMs) {
        self.late.extend(ids.map(|id| (id, until)));
    }

    /// Results that need no telling now, and how many more may be told.
    pub(super) fn skip(&mut self, now: WallMs) -> (Vec<ItemId>, usize) {
        self.late.retain(|(_, until)| now < *until);
        let late = self.late.iter().map(|(id, _)| *id);
        let skip = self.said.iter().copied().chain(late).collect();
        let room = RESULTS_IN_FLIGHT_MAX.saturating_sub(self.said.len());
        (skip, if self.late.len() < LATE_MAX { room } else { 0 })
    }

    /// A repeat of what has no result yet; one too many hears nothing, and is reported as what it repeats.
    pub(super) fn waits(&mut self, repeat: Repeat) {
        if self.repeats.len() < REPEATS_MAX {
            self.repeats.push(repeat);
        }
    }

    /// An idle session keeps no memory of busy times.
    pub(super) fn rest(&mut self) {
        if self.streams.is_empty() && self.streams.capacity() > 0 {
            self.streams = HashMap::new();
        }
        if self.said.is_empty() && self.said.capacity() > 0 {
            self.said = HashSet::new();
        }
        if self.late.is_empty() && self.late.capacity() > 0 {
            self.late = Vec::new();
        }
        if self.repeats.is_empty() && self.repeats.capacity() > 0 {
            self.repeats = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_late_is_left_alone_until_nobody_waits_and_is_bounded() {
        let mut hand = Hand::new(crate::clock::monotonic());
        let id = |n: u16| {
            let mut random = [0; 10];
            random[..2].copy_from_slice(&n.to_be_bytes());
            ItemId::new(WallMs(1), random)
        };
        assert!(hand.may_say(id(1)));
        hand.heard_late([id(2)].into_iter(), WallMs(100));
        let (skip, room) = hand.skip(WallMs(99));
        assert_eq!((skip, room), (vec![id(1), id(2)], RESULTS_IN_FLIGHT_MAX - 1));
        assert_eq!(hand.skip(WallMs(100)).0, [id(1)]);
        // Full, it forgets none before its time, and lets nothing be told that would come back.
        let full: Vec<ItemId> = (1_000..).take(LATE_MAX).map(id).collect();
        hand.heard_late(full.iter().copied(), WallMs(200));
        let (skip, room) = hand.skip(WallMs(199));
        assert!(full.iter().all(|id| skip.contains(id)) && room == 0 && !hand.may_say(id(3)));
        assert!(hand.may_say(id(1)), "it is in flight already");
        hand.said.clear();
        assert_eq!(hand.skip(WallMs(200)), (Vec::new(), RESULTS_IN_FLIGHT_MAX));
        hand.rest();
        assert_eq!((hand.late.capacity(), hand.said.capacity()), (0, 0));
    }

    #[test]
    fn a_stream_that_failed_is_cut_off_unless_the_session_went_on() {
        let mut hand = Hand::new(crate::clock::monotonic());
        hand.streams.insert("half".to_owned(), None);
        hand.fails("whole");
        let mut cut = hand.cut();
        cut.sort();
        assert_eq!((cut, hand.cut()), (vec!["half".to_owned(), "whole".to_owned()], Vec::new()));
        hand.fails("told");
        hand.has_ended();
        assert!(hand.cut().is_empty());
    }
}
