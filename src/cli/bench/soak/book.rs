//! What became of every message of a soak: nothing else knows whether the relay kept its word.
//!
//! A message may come again in a later session when its ack was under way as the session before ended; that is counted.
//! Everything else is a fault: it came twice in one session, under a second id, long after its ack, to another gateway,
//! with other bytes, or never.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::super::figures::Latency;

/// An ack that was sent so long before its session ended has been written down.
const ACK_SETTLES: Duration = Duration::from_secs(5);
/// What came so long ago does not come again by right: no gateway is away for so long.
const FORGET: Duration = Duration::from_secs(300);
/// Faults that are told in words.
const TOLD_MAX: usize = 20;

/// One message that has come.
#[derive(Debug)]
struct Came {
    item: Option<String>,
    gateway: usize,
    session: usize,
    at: Instant,
}

/// Where a gateway is.
#[derive(Debug, Default)]
struct Gateway {
    here: bool,
    /// When its sessions ended, the first one first.
    ends: Vec<Instant>,
}

/// The book. Message `n` is for gateway `n` modulo their number.
#[derive(Debug)]
pub(super) struct Book {
    gateways: Vec<Gateway>,
    /// Sent and not yet come; with the moment of the dot while its gateway stays.
    waiting: HashMap<u64, Option<Instant>>,
    came: HashMap<u64, Came>,
    sent: u64,
    /// How many have come.
    pub(super) arrived: u64,
    /// How many of them came again after a session that ended early.
    pub(super) again: u64,
    /// From the dot to the ack, for gateways that were there, since it was last taken.
    end_to_end: Latency,
    /// All faults, and the first of them in words.
    pub(super) faults: u64,
    pub(super) told: Vec<String>,
}

impl Book {
    pub(super) fn new(gateways: u32) -> Self {
        Self {
            gateways: (0..gateways).map(|_| Gateway::default()).collect(),
            waiting: HashMap::new(),
            came: HashMap::new(),
            sent: 0,
            arrived: 0,
            again: 0,
            end_to_end: Latency::new("end_to_end"),
            faults: 0,
            told: Vec::new(),
        }
    }

    fn of(&self, n: u64) -> usize {
        usize::try_from(n).unwrap_or(usize::MAX) % self.gateways.len()
    }

    /// The last octet of message `n` is about to go.
    pub(super) fn dot(&mut self, n: u64, now: Instant) {
        let here = self.gateways[self.of(n)].here;
        self.waiting.insert(n, here.then_some(now));
        self.sent += 1;
    }

    /// A gateway has logged in.
    pub(super) fn came_home(&mut self, gateway: usize) {
        self.gateways[gateway].here = true;
    }

    /// Its session has ended: what was under way to it is no measure of the relay.
    pub(super) fn left(&mut self, gateway: usize, now: Instant) {
        self.gateways[gateway].here = false;
        self.gateways[gateway].ends.push(now);
        let all = u64::try_from(self.gateways.len()).unwrap_or(u64::MAX);
        let of = u64::try_from(gateway).unwrap_or(u64::MAX);
        for (_, dot) in self.waiting.iter_mut().filter(|(n, _)| *n % all == of) {
            *dot = None;
        }
    }

    /// A message came whole to a gateway, which acks it. `whole`: with the bytes that were sent.
    pub(super) fn arrived(
        &mut self,
        gateway: usize,
        number: Option<u64>,
        item: Option<&str>,
        whole: bool,
        now: Instant,
    ) {
        let Some(n) = number else { return self.fault(format!("gateway {gateway} got what nobody sent")) };
        if self.of(n) != gateway {
            return self.fault(format!("message {n} came to gateway {gateway}"));
        }
        if !whole {
            self.fault(format!("message {n} came with other bytes"));
        }
        let session = self.gateways[gateway].ends.len();
        let came = Came { item: item.map(str::to_owned), gateway, session, at: now };
        match (self.waiting.remove(&n), self.came.remove(&n)) {
            (Some(dot), _) => {
                self.arrived += 1;
                if let Some(dot) = dot {
                    self.end_to_end.record(now.saturating_duration_since(dot));
                }
            }
            (None, Some(before)) => match self.again(&before, &came) {
                Ok(()) => self.again += 1,
                Err(how) => self.fault(format!("message {n} came again {how}")),
            },
            (None, None) => self.fault(format!("message {n} came long after its ack, or was never sent")),
        }
        self.came.insert(n, came);
    }

    /// Whether a message may come a second time.
    fn again(&self, before: &Came, now: &Came) -> Result<(), &'static str> {
        if before.item != now.item {
            return Err("under a second id");
        }
        match self.gateways[before.gateway].ends.get(before.session) {
            None => Err("in the same session"),
            Some(end) if end.saturating_duration_since(before.at) > ACK_SETTLES => {
                Err("although its ack was long under way")
            }
            Some(_) => Ok(()),
        }
    }

    /// Something that must not be.
    pub(super) fn fault(&mut self, words: String) {
        self.faults += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(words);
        }
    }

    /// Messages that have not come yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Latencies since the last time; and what came long ago is forgotten.
    pub(super) fn turn_page(&mut self, now: Instant) -> Latency {
        self.came.retain(|_, came| now.saturating_duration_since(came.at) < FORGET);
        std::mem::replace(&mut self.end_to_end, Latency::new("end_to_end"))
    }

    /// The end: what has not come is lost.
    pub(super) fn close(&mut self) {
        let mut lost: Vec<u64> = self.waiting.keys().copied().collect();
        lost.sort_unstable();
        for n in lost {
            self.fault(format!("message {n} never came"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// A book with one message sent to gateway 1 of 2, which is there.
    fn book(start: Instant) -> Book {
        let mut book = Book::new(2);
        book.came_home(1);
        book.dot(7, start);
        book
    }

    #[test]
    fn a_message_that_comes_once_is_no_fault_and_its_way_was_measured() {
        let start = clock::monotonic();
        let mut book = book(start);
        book.arrived(1, Some(7), Some("a"), true, after(start, 1));
        book.close();
        assert_eq!((book.faults, book.arrived, book.again, book.waiting()), (0, 1, 0, 0));
        assert_eq!(book.turn_page(after(start, 1)).len(), 1);
        assert_eq!(book.turn_page(after(start, 1)).len(), 0);
    }

    #[test]
    fn it_may_come_again_when_its_session_ended_just_after() {
        let start = clock::monotonic();
        let mut book = book(start);
        book.arrived(1, Some(7), Some("a"), true, after(start, 1));
        book.left(1, after(start, 2));
        book.came_home(1);
        book.arrived(1, Some(7), Some("a"), true, after(start, 9));
        assert_eq!((book.faults, book.again, book.arrived), (0, 1, 1));
    }

    /// What happens, and the words of the fault that it is.
    type Fault<'a> = (&'a dyn Fn(&mut Book), &'a str);

    #[test]
    fn every_fault_is_seen() {
        let start = clock::monotonic();
        let told = |play: &dyn Fn(&mut Book)| {
            let mut book = book(start);
            play(&mut book);
            book.close();
            (book.faults, book.told.join("; "))
        };
        let once = |book: &mut Book| book.arrived(1, Some(7), Some("a"), true, start);
        let faults: [Fault<'_>; 8] = [
            (&|_| (), "never came"),
            (
                &|book| {
                    once(book);
                    once(book)
                },
                "in the same session",
            ),
            (
                &|book| {
                    once(book);
                    book.arrived(1, None, None, true, start)
                },
                "nobody sent",
            ),
            (
                &|book| {
                    once(book);
                    book.arrived(0, Some(7), Some("a"), true, start)
                },
                "came to gateway 0",
            ),
            (&|book| book.arrived(1, Some(7), Some("a"), false, start), "other bytes"),
            (
                &|book| {
                    once(book);
                    book.left(1, start);
                    book.arrived(1, Some(7), Some("b"), true, start);
                },
                "a second id",
            ),
            (
                &|book| {
                    once(book);
                    book.left(1, after(start, 6));
                    once(book);
                },
                "long under way",
            ),
            (
                &|book| {
                    once(book);
                    book.turn_page(after(start, 301));
                    once(book);
                },
                "long after its ack",
            ),
        ];
        for (play, words) in faults {
            let (faults, said) = told(play);
            assert_eq!(faults, 1, "{words}: {said}");
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn what_was_under_way_to_a_gateway_that_left_is_not_measured() {
        let start = clock::monotonic();
        let mut book = book(start);
        book.left(1, start);
        book.dot(9, start);
        book.came_home(1);
        book.arrived(1, Some(7), None, true, after(start, 50));
        book.arrived(1, Some(9), None, true, after(start, 50));
        assert_eq!((book.faults, book.arrived, book.turn_page(start).len()), (0, 2, 0));
    }
}
