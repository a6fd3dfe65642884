//! PURE: the relay's keys, and which of them signs when.
//!
//! Each key but the first has a time from which it signs. Before that it is *next*: announced, so that every gateway
//! has learned it when the first signature by it comes. From then on it is *current*, and the one before is *previous*
//! for as long as was said at the rotation: what it signed is still on its way.
//!
//! Promises: at any time exactly one key is current, whatever the clock does: one that is set back makes the current key
//! the next one again, and both are announced all the time. A receipt is signed by the key that was current when
//! the mail was accepted, for as long as that one is announced, so that a repeated offer has the same receipt.

use spool::ids::WallMs;

use crate::identity::key::SecretKey;
use crate::mail::relay_keys::key_base64;
use crate::tunnel::signed::{RELAY_KEYS_MAX, RelayKey, RelayKeyStatus, Signed};

/// One key.
#[derive(Debug)]
pub struct RingKey {
    /// Its name.
    pub id: String,
    /// The key.
    pub secret: SecretKey,
    /// From when on it signs; 0 of the first key.
    pub signs_from: WallMs,
    /// How long the key before it is announced; meaningless for the first key.
    pub previous_until: WallMs,
    /// The word of the key before it; the first key has none.
    pub endorsement: Option<Signed>,
}

impl RingKey {
    /// A key that follows nobody.
    #[must_use]
    pub fn first(id: String, secret: SecretKey) -> Self {
        Self { id, secret, signs_from: WallMs(0), previous_until: WallMs(0), endorsement: None }
    }
}

/// All keys, oldest first.
#[derive(Debug)]
pub struct Ring {
    keys: Vec<RingKey>,
    first: RingKey,
}

/// A key with what it does now.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The key.
    pub key: &'a RingKey,
    /// What it does.
    pub status: RelayKeyStatus,
    /// Of a previous key: how long it is announced still.
    pub until: Option<WallMs>,
}

impl Ring {
    /// `followers` in the order in which they follow `first`.
    #[must_use]
    pub fn new(first: RingKey, followers: Vec<RingKey>) -> Self {
        Self { keys: followers, first }
    }

    /// The `n`th key, from 0; the first one for whoever counts too far.
    fn key(&self, n: usize) -> &RingKey {
        n.checked_sub(1).and_then(|n| self.keys.get(n)).unwrap_or(&self.first)
    }

    /// Place of the key that signs at `now`.
    fn place(&self, now: WallMs) -> usize {
        self.keys.iter().rposition(|key| key.signs_from <= now).map_or(0, |n| n + 1)
    }

    /// How long the `n`th key is announced, once it does not sign any more: as its follower says, or an earlier one behind
    /// that, when the follower was made by a clock that was ahead.
    fn until(&self, n: usize) -> WallMs {
        let behind = self.keys.iter().skip(n).map(|follower| follower.previous_until);
        behind.min().unwrap_or(WallMs(u64::MAX))
    }

    /// The newest key, whatever it does.
    #[must_use]
    pub fn newest(&self) -> &RingKey {
        self.key(self.keys.len())
    }

    /// Keys that there ever were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len() + 1
    }

    /// There is always a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether there is a key of this name.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.first.id == id || self.keys.iter().any(|key| key.id == id)
    }

    /// The key that signs at `now`.
    #[must_use]
    pub fn current(&self, now: WallMs) -> &RingKey {
        self.key(self.place(now))
    }

    /// The key that signs, at `now`, for what was accepted at `at`.
    #[must_use]
    pub fn current_for(&self, at: WallMs, now: WallMs) -> &RingKey {
        let current = self.place(now);
        let then = self.place(at).min(current);
        if then == current || self.until(then) > now { self.key(then) } else { self.key(current) }
    }

    /// The key that will sign at `by`, if one is on its way.
    #[must_use]
    pub fn next_by(&self, now: WallMs, by: WallMs) -> Option<&RingKey> {
        self.keys.iter().skip(self.place(now)).find(|key| key.signs_from <= by)
    }

    /// The keys that are announced at `now`: the current one first, then the next, then those before it, newest first.
    #[must_use]
    pub fn standings(&self, now: WallMs) -> Vec<Standing<'_>> {
        let current = self.place(now);
        let mut out = vec![Standing { key: self.key(current), status: RelayKeyStatus::Current, until: None }];
        let next = self.keys.iter().skip(current);
        out.extend(next.map(|key| Standing { key, status: RelayKeyStatus::Next, until: None }));
        let before = (0..current).rev().filter(|n| self.until(*n) > now);
        out.extend(before.map(|n| Standing {
            key: self.key(n),
            status: RelayKeyStatus::Previous,
            until: Some(self.until(n)),
        }));
        out.truncate(RELAY_KEYS_MAX);
        out
    }

    /// The announcement at `now`.
    #[must_use]
    pub fn announcement(&self, now: WallMs) -> Vec<RelayKey> {
        let announced = |standing: Standing<'_>| RelayKey {
            key_id: standing.key.id.clone(),
            public_key: key_base64(&standing.key.secret.key_text()),
            status: standing.status,
            endorsed_by: standing.key.endorsement.as_ref().map(|signed| signed.key_id.clone()),
            endorsement: standing.key.endorsement.clone(),
        };
        self.standings(now).into_iter().map(announced).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RelayKeyStatus::{Current, Next, Previous};

    /// The second key signs from 1000 and the first is announced until 2000; the third from 1500 and until 2500.
    fn ring(keys: usize) -> Ring {
        let secret = |n: u8| SecretKey::from_seed(&[n; 32]);
        let follower = |n: u8, signs_from, until| RingKey {
            id: format!("r-{n}"),
            secret: secret(n),
            signs_from: WallMs(signs_from),
            previous_until: WallMs(until),
            endorsement: None,
        };
        let mut followers = vec![follower(2, 1000, 2000), follower(3, 1500, 2500)];
        followers.truncate(keys - 1);
        Ring::new(RingKey::first("r".into(), secret(1)), followers)
    }

    fn standings(ring: &Ring, now: u64) -> Vec<(&str, RelayKeyStatus)> {
        ring.standings(WallMs(now)).iter().map(|s| (s.key.id.as_str(), s.status)).collect()
    }

    #[test]
    fn the_only_key_signs_always() {
        for now in [0, 1, u64::MAX] {
            assert_eq!(standings(&ring(1), now), [("r", Current)]);
            assert_eq!(ring(1).current_for(WallMs(0), WallMs(now)).id, "r");
        }
        assert!(ring(1).next_by(WallMs(5), WallMs(u64::MAX)).is_none());
    }

    #[test]
    fn a_key_signs_from_its_time_on_and_its_predecessor_is_announced_until_its_end() {
        let two = ring(2);
        for now in [0, 999] {
            assert_eq!(standings(&two, now), [("r", Current), ("r-2", Next)]);
            assert_eq!(two.next_by(WallMs(now), WallMs(1000)).unwrap().id, "r-2");
            assert!(two.next_by(WallMs(now), WallMs(999)).is_none());
        }
        for now in [1000, 1999] {
            assert_eq!(standings(&two, now), [("r-2", Current), ("r", Previous)]);
            assert!(two.next_by(WallMs(now), WallMs(u64::MAX)).is_none());
        }
        for now in [2000, u64::MAX] {
            assert_eq!(standings(&two, now), [("r-2", Current)]);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_brings_the_states_back() {
        let two = ring(2);
        assert_eq!(standings(&two, 3000), [("r-2", Current)]);
        assert_eq!(standings(&two, 1500), [("r-2", Current), ("r", Previous)]);
        assert_eq!(standings(&two, 500), [("r", Current), ("r-2", Next)]);
        // Accepted by a clock that was ahead: no key signs before its time.
        assert_eq!(two.current_for(WallMs(3000), WallMs(500)).id, "r");
    }

    #[test]
    fn a_receipt_keeps_its_key_while_that_is_announced() {
        let two = ring(2);
        for (at, now, id) in [
            (999, 999, "r"),
            (999, 1000, "r"),
            (999, 1999, "r"),
            (999, 2000, "r-2"),
            (1000, 1000, "r-2"),
            (1000, 5000, "r-2"),
        ] {
            assert_eq!(two.current_for(WallMs(at), WallMs(now)).id, id, "{at} {now}");
        }
    }

    #[test]
    fn rotations_that_overlap_announce_all_three() {
        let three = ring(3);
        assert_eq!(standings(&three, 1200), [("r-2", Current), ("r-3", Next), ("r", Previous)]);
        assert_eq!(standings(&three, 1600), [("r-3", Current), ("r-2", Previous), ("r", Previous)]);
        assert_eq!(standings(&three, 2200), [("r-3", Current), ("r-2", Previous)]);
        assert_eq!(standings(&three, 2500), [("r-3", Current)]);
        assert_eq!(three.current_for(WallMs(500), WallMs(1600)).id, "r");
        assert_eq!(three.current_for(WallMs(500), WallMs(2200)).id, "r-3");
    }
}
