//! PURE: the life of an item, as a total function of state and event.
//!
//! `ready -> acked | expired | held | quarantined | purged`, `held -> ready | purged`,
//! `acked | expired -> ready` by replay, `quarantined -> purged`. A lease is not a state on disk: it is a
//! ready item lent to one session, and void with that session or at restart.
//!
//! A submission is an item of an outbox: `ready -> armed -> sent | failed | indeterminate`, back from `armed` to
//! `ready` when the next hop said that it did not take it, and `ready | held -> failed`. A result is written once:
//! nothing but a purge leads out of the last three.

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
    /// The octets that complete a submission are about to leave.
    Arm,
    /// A submission is to be tried again later.
    Defer,
    /// The next hop, or a lane here, took it.
    Send,
    /// Nobody took it, and nobody will be asked again.
    Fail,
    /// Nobody can know whether it was taken.
    Doubt,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 12] = [
        Self::Ack,
        Self::Hold,
        Self::Release,
        Self::Replay,
        Self::Expire,
        Self::Damage,
        Self::Purge,
        Self::Arm,
        Self::Defer,
        Self::Send,
        Self::Fail,
        Self::Doubt,
    ];

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
            Self::Arm => "arm",
            Self::Defer => "defer",
            Self::Send => "settle as sent",
            Self::Fail => "settle as failed",
            Self::Doubt => "settle as indeterminate",
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
        (
            S::Ready
            | S::Acked
            | S::Expired
            | S::Held
            | S::Quarantined
            | S::Sent
            | S::Failed
            | S::Indeterminate,
            E::Purge,
        ) => Some(S::Purged),
        (S::Ready, E::Arm) => Some(S::Armed),
        (S::Ready | S::Armed, E::Defer) => Some(S::Ready),
        (S::Armed, E::Send) => Some(S::Sent),
        (S::Armed, E::Doubt) => Some(S::Indeterminate),
        (S::Ready | S::Held | S::Armed, E::Fail) => Some(S::Failed),
        (S::Ready, E::Release | E::Replay | E::Send | E::Doubt)
        | (
            S::Acked | S::Expired,
            E::Ack | E::Hold | E::Release | E::Expire | E::Arm | E::Defer | E::Send | E::Fail | E::Doubt,
        )
        | (S::Held, E::Ack | E::Hold | E::Replay | E::Expire | E::Arm | E::Defer | E::Send | E::Doubt)
        | (
            S::Quarantined | S::Sent | S::Failed | S::Indeterminate,
            E::Ack
            | E::Hold
            | E::Release
            | E::Replay
            | E::Expire
            | E::Damage
            | E::Arm
            | E::Defer
            | E::Send
            | E::Fail
            | E::Doubt,
        )
        | (S::Armed, E::Ack | E::Hold | E::Release | E::Replay | E::Expire | E::Damage | E::Purge | E::Arm)
        | (S::Purged, _) => None,
    }
}

/// True for states in which somebody still waits for the item: they count against the quota and stop the cursor.
#[must_use]
pub fn waits(state: State) -> bool {
    match state {
        State::Ready | State::Held | State::Armed => true,
        State::Acked
        | State::Expired
        | State::Quarantined
        | State::Purged
        | State::Sent
        | State::Failed
        | State::Indeterminate => false,
    }
}

/// True while somebody may still want the body: it is given up when an item was purged, and when the next hop has a
/// submission.
#[must_use]
pub fn keeps_body(state: State) -> bool {
    match state {
        State::Purged | State::Sent => false,
        State::Ready
        | State::Acked
        | State::Expired
        | State::Held
        | State::Quarantined
        | State::Armed
        | State::Failed
        | State::Indeterminate => true,
    }
}

/// True when a submission has its one result.
#[must_use]
pub fn is_result(state: State) -> bool {
    match state {
        State::Sent | State::Failed | State::Indeterminate => true,
        State::Ready
        | State::Acked
        | State::Expired
        | State::Held
        | State::Quarantined
        | State::Purged
        | State::Armed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State as S;

    #[test]
    fn every_pair_of_state_and_event_has_the_answer_of_the_table() {
        // Columns in the order of Event::ALL: ack hold release replay expire damage purge, arm defer send fail doubt.
        let row =
            |words: &str| -> Vec<Option<State>> { words.split_whitespace().map(State::from_word).collect() };
        let table = [
            (S::Ready, "acked held - - expired quarantined purged armed ready - failed -"),
            (S::Acked, "- - - ready - quarantined purged - - - - -"),
            (S::Expired, "- - - ready - quarantined purged - - - - -"),
            (S::Held, "- - ready - - quarantined purged - - - failed -"),
            (S::Quarantined, "- - - - - - purged - - - - -"),
            (S::Purged, "- - - - - - - - - - - -"),
            (S::Armed, "- - - - - - - - ready sent failed indeterminate"),
            (S::Sent, "- - - - - - purged - - - - -"),
            (S::Failed, "- - - - - - purged - - - - -"),
            (S::Indeterminate, "- - - - - - purged - - - - -"),
        ];
        assert_eq!(table.map(|(state, _)| state), State::ALL);
        for (state, answers) in table {
            let answers = row(answers);
            assert_eq!(answers.len(), Event::ALL.len());
            for (event, answer) in Event::ALL.into_iter().zip(answers) {
                assert_eq!(step(state, event), answer, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn nothing_leads_out_of_a_result_but_a_purge() {
        for state in State::ALL.into_iter().filter(|state| is_result(*state)) {
            for event in Event::ALL {
                assert!(step(state, event).is_none_or(|to| to == S::Purged), "{state:?} {event:?}");
            }
        }
    }
}
