//! Looking at all submissions at once: how many wait for which destination, and whether the queues agree with the
//! states. Everything is paged; nothing here walks a whole spool in one call.

use crate::entry::{self, Entry};
use crate::error::SpoolError;
use crate::ids::{LaneId, Seq, WallMs};
use crate::index::Tree;
use crate::life;
use crate::spool::Spool;
use crate::types::State;

/// Keys that one call of [`Spool::queues`] or [`Spool::verify_queues`] looks at.
pub const QUEUE_PAGE: usize = 4096;

/// What waits for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationQueue {
    /// Its name.
    pub destination: String,
    /// Submissions that wait for an attempt.
    pub queued: u64,
    /// When the first of them is due.
    pub due: WallMs,
}

/// Where a walk through the queues goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCursor(Tree, Vec<u8>);

/// The trees of submissions, in the order of a walk.
const TREES: [Tree; 4] = [Tree::Queue, Tree::Due, Tree::Armed, Tree::Untold];

impl QueueCursor {
    fn behind(tree: Tree, key: &[u8]) -> Self {
        Self(tree, [key, b"\0"].concat())
    }
}

impl Spool {
    /// Destinations with submissions that wait for an attempt, by name, and where to go on; `None`: that was all.
    /// The last one of a page may go on in the next.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn queues(
        &self,
        from: Option<QueueCursor>,
    ) -> Result<(Vec<DestinationQueue>, Option<QueueCursor>), SpoolError> {
        let start = from.map(|cursor| cursor.1).unwrap_or_default();
        let page = self.tail.scan(Tree::Due, &start, None, QUEUE_PAGE)?;
        let mut out: Vec<DestinationQueue> = Vec::new();
        for (key, _) in &page {
            let Some((name, due, ..)) = entry::due_of_key(key) else { continue };
            match out.last_mut().filter(|last| last.destination.as_bytes() == name) {
                Some(last) => last.queued += 1,
                None => {
                    let destination = String::from_utf8_lossy(name).into_owned();
                    out.push(DestinationQueue { destination, queued: 1, due });
                }
            }
        }
        let next = page.last().filter(|_| page.len() == QUEUE_PAGE);
        Ok((out, next.map(|(key, _)| QueueCursor::behind(Tree::Due, key))))
    }

    /// Results in an outbox, or in all of them, that no gateway has confirmed, counted up to `limit`.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn untold_count(&self, outbox: Option<LaneId>, limit: usize) -> Result<usize, SpoolError> {
        let from = outbox.map(|lane| entry::place_key(lane, Seq(0))).unwrap_or_default();
        let to = outbox.map(|lane| entry::lane_key(LaneId(lane.0.saturating_add(1))));
        Ok(self.tail.scan(Tree::Untold, &from, to.as_deref(), limit)?.len())
    }

    /// Looks at a page of the queues and answers, in words, what leads to no submission or to one of another state;
    /// and where to go on. `None` for `from` begins.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn verify_queues(
        &self,
        from: Option<QueueCursor>,
    ) -> Result<(Vec<String>, Option<QueueCursor>), SpoolError> {
        let QueueCursor(tree, start) = from.unwrap_or(QueueCursor(TREES[0], Vec::new()));
        let page = self.tail.scan(tree, &start, None, QUEUE_PAGE)?;
        let mut problems = Vec::new();
        for (key, _) in &page {
            let is_due = tree == Tree::Due;
            let place = if is_due {
                entry::due_of_key(key).map(|(_, _, lane, seq)| (lane, seq))
            } else {
                entry::block_of_key(key).map(|(lane, seq)| (lane, Seq(seq)))
            };
            let Some((lane, seq)) = place else {
                problems.push(format!("queue {}: a key that is none", tree.name()));
                continue;
            };
            let entry = self.tail.entry(lane, seq)?;
            let fits = entry.as_ref().is_some_and(|entry| belongs(tree, entry));
            // A submission has one time and one destination, so any other key in `due` is a second one.
            let single = !is_due || self.due_key_of(lane, seq)?.as_deref() == Some(&key[..]);
            if !fits || !single {
                let state = entry.map_or("unknown", |entry| entry.state.word());
                problems.push(format!("queue {}: lane {} seq {seq} is {state}", tree.name(), lane.0));
            }
        }
        let next = match page.last().filter(|_| page.len() == QUEUE_PAGE) {
            Some((key, _)) => Some(QueueCursor::behind(tree, key)),
            None => {
                let at = TREES.iter().position(|known| *known == tree);
                at.and_then(|at| TREES.get(at + 1)).map(|tree| QueueCursor(*tree, Vec::new()))
            }
        };
        Ok((problems, next))
    }

    /// Compares the entries of one block of an outbox with the queues: every submission is in those its state asks
    /// for. Answers what is not, in words, and where to go on.
    ///
    /// # Errors
    /// [`SpoolError::Index`].
    pub fn verify_outbox(&self, outbox: LaneId, from: Seq) -> Result<(Vec<String>, Option<Seq>), SpoolError> {
        let Some(lane) = self.tail.lane(outbox)? else { return Ok((Vec::new(), None)) };
        let start = from.max(Seq(lane.first_seq.max(1)));
        if start.0 >= lane.next_seq {
            return Ok((Vec::new(), None));
        }
        let mut problems = Vec::new();
        let number = entry::block_of(start);
        for (seq, entry) in entry::entries(number, &self.tail.block(outbox, number)?) {
            if seq < start || entry.outbound.is_none() {
                continue;
            }
            let place = entry::place_key(outbox, seq);
            for tree in TREES {
                let due = if tree == Tree::Due { self.due_key_of(outbox, seq)? } else { None };
                let key = if tree == Tree::Due { due.as_deref() } else { Some(place.as_slice()) };
                let there = match key {
                    Some(key) => self.tail.get(tree, key)?.is_some(),
                    None => false,
                };
                if there != belongs(tree, &entry) {
                    let lacks = if there { "is in" } else { "is not in" };
                    problems.push(format!(
                        "seq {seq} is {} and {lacks} queue {}",
                        entry.state.word(),
                        tree.name()
                    ));
                }
            }
        }
        Ok((problems, Some(Self::next_block_start(start))))
    }

    fn due_key_of(&self, lane: LaneId, seq: Seq) -> Result<Option<Vec<u8>>, SpoolError> {
        let queued = self.queued(lane, seq)?;
        Ok(queued.map(|q| entry::due_key(q.destination.as_bytes(), q.due, lane, seq)))
    }
}

/// Does an entry like this belong into that tree?
fn belongs(tree: Tree, entry: &Entry) -> bool {
    let Some(outbound) = entry.outbound else { return false };
    match tree {
        Tree::Queue => life::waits(entry.state),
        Tree::Due => entry.state == State::Ready,
        Tree::Armed => entry.state == State::Armed,
        Tree::Untold => life::is_result(entry.state) && !outbound.told,
        Tree::Lane
        | Tree::Block
        | Tree::Item
        | Tree::Name
        | Tree::Shared
        | Tree::Twin
        | Tree::Segment
        | Tree::Invitation => false,
    }
}
