//! Which session holds a key now.
//!
//! Promises: at most one inbound session per key, the newest; the one it pushes out is handed back, to be
//! told. Sessions that only send are bounded per key. All sessions of a key can be reached, to end them. Two gateways that keep pushing each other
//! out are slowed down: from the third quick replacement on, the newcomer has to wait, longer each time.
//!
//! Does not close anything and knows no sockets: `H` is whatever reaches a session.
//!
//! Failure policy: none of its own; what does not fit is [`Entry::Full`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::key::KeyText;

/// Most sessions that only send, per key.
pub const SENDERS_PER_KEY_MAX: usize = 8;
/// Most sessions of all kinds.
pub const SESSIONS_MAX: usize = 250_000;
/// A session replaced sooner than this after it came was replaced quickly.
const QUICK: Duration = Duration::from_secs(30);
/// Quick replacements in a row that are nobody's fault: a flapping line does that.
const QUICK_FREE: u32 = 2;
/// First wait of a newcomer in a fight; doubles each time.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// Longest wait; well below [`QUICK`], so that a slowed fight is still seen as one, and below the
/// 30 seconds after which a reference gateway gives up its handshake.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// The sessions by key.
#[derive(Debug)]
pub struct Registry<H> {
    inbound: BTreeMap<KeyText, Seat<H>>,
    senders: BTreeMap<KeyText, Vec<(Uuid, H)>>,
    sessions: usize,
}

#[derive(Debug)]
struct Seat<H> {
    session: Uuid,
    handle: H,
    since: Instant,
    /// Quick replacements in a row up to this session's coming.
    quick: u32,
}

/// What became of a session that wants in.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<H> {
    /// It is in.
    Entered {
        /// The session it pushed out, and how to reach it.
        replaced: Option<(Uuid, H)>,
    },
    /// This key is being fought over: ask again after this long, then as one that has waited.
    Wait {
        /// How long.
        wait: Duration,
        /// Quick replacements in a row so far.
        quick: u32,
    },
    /// Too many sessions, of this key or altogether.
    Full,
}

impl<H> Default for Registry<H> {
    fn default() -> Self {
        Self { inbound: BTreeMap::new(), senders: BTreeMap::new(), sessions: 0 }
    }
}

impl<H> Registry<H> {
    /// An inbound session of `key` wants in; `waited` when it has served the wait it was told.
    pub fn enter(&mut self, key: KeyText, session: Uuid, handle: H, waited: bool, now: Instant) -> Entry<H> {
        let quick = match self.inbound.get(&key) {
            Some(seat) if now.duration_since(seat.since) < QUICK => seat.quick + 1,
            Some(_) => 0,
            None if self.sessions >= SESSIONS_MAX => return Entry::Full,
            None => 0,
        };
        if quick > QUICK_FREE && !waited {
            let doublings = (quick - QUICK_FREE - 1).min(16);
            return Entry::Wait { wait: (WAIT_FIRST * (1 << doublings)).min(WAIT_MAX), quick };
        }
        let replaced = self.inbound.insert(key, Seat { session, handle, since: now, quick });
        if replaced.is_none() {
            self.sessions += 1;
        }
        Entry::Entered { replaced: replaced.map(|seat| (seat.session, seat.handle)) }
    }

    /// A session of `key` that only sends wants in.
    pub fn enter_sender(&mut self, key: KeyText, session: Uuid, handle: H) -> Entry<H> {
        if self.senders.get(&key).is_some_and(|senders| senders.len() >= SENDERS_PER_KEY_MAX)
            || self.sessions >= SESSIONS_MAX
        {
            return Entry::Full;
        }
        self.senders.entry(key).or_default().push((session, handle));
        self.sessions += 1;
        Entry::Entered { replaced: None }
    }

    /// An inbound session has ended; nothing happens when it had been replaced before.
    pub fn leave(&mut self, key: &KeyText, session: Uuid) {
        if self.inbound.get(key).is_some_and(|seat| seat.session == session) {
            self.inbound.remove(key);
            self.sessions -= 1;
        }
    }

    /// A session that only sends has ended.
    pub fn leave_sender(&mut self, key: &KeyText, session: Uuid) {
        let Some(senders) = self.senders.get_mut(key) else { return };
        if let Some(at) = senders.iter().position(|(known, _)| *known == session) {
            senders.swap_remove(at);
            self.sessions -= 1;
        }
        if senders.is_empty() {
            self.senders.remove(key);
        }
    }

    /// Every session of `key`, of both kinds.
    pub fn of_key(&self, key: &KeyText) -> impl Iterator<Item = &H> {
        let senders = self.senders.get(key).into_iter().flatten().map(|(_, handle)| handle);
        self.inbound.get(key).map(|seat| &seat.handle).into_iter().chain(senders)
    }

    /// The inbound session of `key`, if there is one.
    pub fn inbound(&self, key: &KeyText) -> Option<(Uuid, &H)> {
        self.inbound.get(key).map(|seat| (seat.session, &seat.handle))
    }

    /// Every session's handle, of both kinds, in no order.
    pub fn all(&self) -> impl Iterator<Item = &H> {
        let senders = self.senders.values().flatten().map(|(_, handle)| handle);
        self.handles().chain(senders)
    }

    /// Every inbound session's handle, in no order.
    pub fn handles(&self) -> impl Iterator<Item = &H> {
        self.inbound.values().map(|seat| &seat.handle)
    }

    /// Sessions of the keys behind `after`, by key, and of each key the inbound one first. No key's sessions are cut
    /// apart: a page of `limit` ends before the key that would not fit, and says behind which key to go on.
    pub fn page(&self, after: Option<&KeyText>, limit: usize) -> (Vec<(KeyText, &H)>, Option<KeyText>) {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut inbound = self.inbound.range::<KeyText, _>(from).map(|(key, _)| key).peekable();
        let mut senders = self.senders.range::<KeyText, _>(from).map(|(key, _)| key).peekable();
        let mut page: Vec<(KeyText, &H)> = Vec::new();
        loop {
            let key = match (inbound.peek(), senders.peek()) {
                (Some(a), Some(b)) => **a.min(b),
                (Some(key), None) | (None, Some(key)) => **key,
                (None, None) => return (page, None),
            };
            if !page.is_empty() && page.len() + self.of_key(&key).count() > limit {
                let last = page.last().map(|(last, _)| *last);
                return (page, last);
            }
            page.extend(self.of_key(&key).map(|handle| (key, handle)));
            inbound.next_if_eq(&&key);
            senders.next_if_eq(&&key);
        }
    }

    /// How many sessions there are, of both kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key::SecretKey;

    fn key(n: u8) -> KeyText {
        SecretKey::from_seed(&[n; 32]).key_text()
    }

    fn session(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn start() -> Instant {
        crate::clock::monotonic()
    }

    #[test]
    fn the_newest_inbound_session_wins() {
        // X5
        let (mut registry, now) = (Registry::default(), start());
        assert_eq!(registry.enter(key(1), session(1), 'a', false, now), Entry::Entered { replaced: None });
        let second = registry.enter(key(1), session(2), 'b', false, now);
        assert_eq!(second, Entry::Entered { replaced: Some((session(1), 'a')) });
        registry.leave(&key(1), session(1));
        assert_eq!(registry.inbound(&key(1)), Some((session(2), &'b')), "the old one's end changes nothing");
        registry.leave(&key(1), session(2));
        assert!(registry.is_empty());
    }

    #[test]
    fn senders_neither_replace_nor_are_replaced_and_are_bounded() {
        let (mut registry, now) = (Registry::default(), start());
        registry.enter(key(1), session(1), 'a', false, now);
        for n in 0..SENDERS_PER_KEY_MAX as u128 {
            assert_eq!(registry.enter_sender(key(1), session(n), 's'), Entry::Entered { replaced: None });
        }
        assert_eq!(registry.enter_sender(key(1), session(50), 's'), Entry::Full);
        assert_eq!(registry.enter_sender(key(2), session(51), 's'), Entry::Entered { replaced: None });
        registry.leave_sender(&key(1), session(0));
        registry.leave_sender(&key(1), session(0));
        assert_eq!(registry.enter_sender(key(1), session(52), 't'), Entry::Entered { replaced: None });
        assert_eq!(registry.of_key(&key(1)).collect::<String>().len(), SENDERS_PER_KEY_MAX + 1);
        assert_eq!(registry.inbound(&key(1)), Some((session(1), &'a')));
    }

    #[test]
    fn pages_go_by_key_and_leave_no_session_out() {
        let (mut registry, now) = (Registry::default(), start());
        for n in 1..=4 {
            registry.enter(key(n), session(n.into()), (n, 'i'), false, now);
            registry.enter_sender(key(n + 1), session(100 + u128::from(n)), (n + 1, 's'));
        }
        let (all, end) = registry.page(None, 1000);
        assert_eq!((all.len(), end), (8, None));
        assert!(all.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        for limit in 1..9 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let (page, next) = registry.page(after.as_ref(), limit);
                assert!(!page.is_empty() && (page.len() <= limit || limit < 2), "{limit}: {}", page.len());
                seen.extend(page);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, all, "pages of {limit}");
        }
    }

    #[test]
    fn a_fight_is_slowed_down_and_stays_slow() {
        let (mut registry, mut now) = (Registry::default(), start());
        let mut waits = Vec::new();
        for n in 0..12 {
            now += Duration::from_millis(250);
            match registry.enter(key(1), session(n), n, false, now) {
                Entry::Entered { .. } => waits.push(0),
                Entry::Wait { wait, .. } => {
                    waits.push(wait.as_secs());
                    now += wait;
                    let entry = registry.enter(key(1), session(n), n, true, now);
                    assert!(matches!(entry, Entry::Entered { replaced: Some(_) }));
                }
                Entry::Full => panic!(),
            }
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 15, 15, 15, 15, 15]);
    }

    #[test]
    fn a_gateway_that_comes_back_now_and_then_never_waits() {
        let (mut registry, mut now) = (Registry::default(), start());
        for n in 0..50 {
            now += QUICK;
            assert!(matches!(registry.enter(key(1), session(n), n, false, now), Entry::Entered { .. }));
        }
    }
}
