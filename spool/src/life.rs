//! PURE: the life of an item, as a total function of state and event.
//!
//! `ready -> acked | expired | held | quarantined | purged`, `held -> ready | purged`,
//! `acked | expired -> ready` by replay, `quarantined -> purged`. A lease is not a state on disk: it is a
//! ready item lent to one session, and void with that session or at restart.

use crate::types::State;

/// What may happen to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway said it stored it.
    Ack,
    /// An operator, or too many nacks, or the gateway's refusal keep it back.
    Hold,
    /// An operator lets it go again.
    Release,
    /// It is to be offered again.
    Replay,
    /// Nobody fetched it in time.
    Expire,
    /// Its bytes turned out to be damaged.
    Damage,
    /// An operator removes it.
    Purge,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 7] =
        [Self::Ack, Self::Hold, Self::Release, Self::Replay, Self::Expire, Self::Damage, Self::Purge];

    /// The verb for messages.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Replay => "replay",
            Self::Expire => "expire",
            Self::Damage => "quarantine",
            Self::Purge => "purge",
        }
    }
}

/// The state after `event`, or `None` when `state` does not allow it and nothing changes.
#[must_use]
pub fn step(state: State, event: Event) -> Option<State> {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Ready, E::Ack) => Some(S::Acked),
        (S::Ready, E::Hold) => Some(S::Held),
        (S::Ready, E::Expire) => Some(S::Expired),
        (S::Ready | S::Acked | S::Expired | S::Held, E::Damage) => Some(S::Quarantined),
        (S::Held, E::Release) | (S::Acked | S::Expired, E::Replay) => Some(S::Ready),
        (S::Ready | S::Acked | S::Expired | S::Held | S::Quarantined, E::Purge) => Some(S::Purged),
        (S::Ready, E::Release | E::Replay)
        | (S::Acked | S::Expired, E::Ack | E::Hold | E::Release | E::Expire)
        | (S::Held, E::Ack | E::Hold | E::Replay | E::Expire)
        | (S::Quarantined, E::Ack | E::Hold | E::Release | E::Replay | E::Expire | E::Damage)
        | (S::Purged, _) => None,
    }
}

/// True for states in which somebody still waits for the item: they count against the quota and stop the cursor.
#[must_use]
pub fn waits(state: State) -> bool {
    match state {
        State::Ready | State::Held => true,
        State::Acked | State::Expired | State::Quarantined | State::Purged => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State as S;

    #[test]
    fn every_pair_of_state_and_event_has_the_answer_of_the_table() {
        // Columns in the order of Event::ALL: ack hold release replay expire damage purge.
        let table: [(State, [Option<State>; 7]); 6] = [
            (
                S::Ready,
                [
                    Some(S::Acked),
                    Some(S::Held),
                    None,
                    None,
                    Some(S::Expired),
                    Some(S::Quarantined),
                    Some(S::Purged),
                ],
            ),
            (S::Acked, [None, None, None, Some(S::Ready), None, Some(S::Quarantined), Some(S::Purged)]),
            (S::Expired, [None, None, None, Some(S::Ready), None, Some(S::Quarantined), Some(S::Purged)]),
            (S::Held, [None, None, Some(S::Ready), None, None, Some(S::Quarantined), Some(S::Purged)]),
            (S::Quarantined, [None, None, None, None, None, None, Some(S::Purged)]),
            (S::Purged, [None; 7]),
        ];
        for (state, answers) in table {
            for (event, answer) in Event::ALL.into_iter().zip(answers) {
                assert_eq!(step(state, event), answer, "{state:?} {event:?}");
            }
        }
    }
}
