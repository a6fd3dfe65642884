//! Who is connected, and which of a mailbox's sessions is to tell a result.
//!
//! Promises: a result has one teller at a time: the session that brought the submission while it lives, else the
//! newest that speaks the same way. When a session goes, the others look again. One small entry per mailbox that has
//! sessions, nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spool::ids::LaneId;
use uuid::Uuid;

use crate::tunnel::ws::Bell;

#[derive(Default)]
pub(super) struct Desks {
    mailboxes: Mutex<HashMap<LaneId, Vec<Seat>>>,
}

struct Seat {
    session: Uuid,
    /// It acks results.
    results: bool,
    bell: Bell,
}

/// A session's place, given back when dropped.
pub(super) struct Place {
    desks: Arc<Desks>,
    mailbox: LaneId,
    session: Uuid,
}

impl Desks {
    pub(super) fn enter(
        self: &Arc<Self>,
        mailbox: LaneId,
        session: Uuid,
        results: bool,
        bell: Bell,
    ) -> Place {
        self.lock().entry(mailbox).or_default().push(Seat { session, results, bell });
        Place { desks: Arc::clone(self), mailbox, session }
    }

    /// Who tells the result of what `owner` brought; `results`: whether that one acks.
    pub(super) fn teller(&self, mailbox: LaneId, owner: Uuid, results: bool) -> Option<Uuid> {
        let mailboxes = self.lock();
        let seats = mailboxes.get(&mailbox)?.iter().filter(|seat| seat.results == results);
        let mut last = None;
        for seat in seats {
            if seat.session == owner {
                return Some(owner);
            }
            last = Some(seat.session);
        }
        last
    }

    /// Wakes the mailbox's sessions: there may be results.
    pub(super) fn ring(&self, mailbox: LaneId) {
        // Bells are cheap and never call back.
        for seat in self.lock().get(&mailbox).into_iter().flatten() {
            (seat.bell)();
        }
    }

    /// Both maps of one statement each: whole when a holder panics.
    fn lock(&self) -> MutexGuard<'_, HashMap<LaneId, Vec<Seat>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut mailboxes = self.desks.lock();
            if let Some(seats) = mailboxes.get_mut(&self.mailbox) {
                seats.retain(|seat| seat.session != self.session);
                if seats.is_empty() {
                    mailboxes.remove(&self.mailbox);
                }
            }
        }
        self.desks.ring(self.mailbox);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_owner_tells_else_the_newest_of_its_kind() {
        let (desks, rung) = (Arc::new(Desks::default()), Arc::new(AtomicUsize::new(0)));
        let enter = |n: u128, results| {
            let rung = Arc::clone(&rung);
            let bell: Bell = Arc::new(move || {
                rung.fetch_add(1, Ordering::SeqCst);
            });
            desks.enter(LaneId(1), Uuid::from_u128(n), results, bell)
        };
        let (one, _two, _three) = (enter(1, true), enter(2, true), enter(3, false));
        let teller = |owner: u128, results| desks.teller(LaneId(1), Uuid::from_u128(owner), results);
        assert_eq!(teller(1, true), Some(Uuid::from_u128(1)));
        assert_eq!(teller(9, true), Some(Uuid::from_u128(2)));
        assert_eq!(teller(9, false), Some(Uuid::from_u128(3)));
        drop(one);
        assert_eq!(rung.load(Ordering::SeqCst), 2, "the others look again");
        assert_eq!(teller(1, true), Some(Uuid::from_u128(2)));
        assert_eq!(desks.teller(LaneId(2), Uuid::nil(), true), None);
    }
}
