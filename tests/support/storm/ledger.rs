//! Who was promised what, and what arrived: three bytes for each message, whatever its size.
//!
//! A message is its number: body and envelope are made from it and the seed, once to send it and once to compare what arrived.
//! The rule: answered with 250 means there once, byte for byte; refused means not there; sent whole without an answer
//! means at most once.

use std::sync::{Mutex, MutexGuard};

use super::dice::Dice;

/// First field of every message.
pub(crate) const FIELD: &[u8] = b"X-Storm-Id: ";

/// How large messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// Half a kilobyte to a third of a megabyte.
    Wide,
    /// 200 bytes to 4 KiB, one in two hundred larger than a chunk.
    Small,
}

impl Sizes {
    fn roll(self, dice: &mut Dice) -> usize {
        let bytes = match (self, dice.below(200)) {
            (Self::Wide, 0..20) => 300_000,
            (Self::Wide, 20..80) | (Self::Small, 0) => 70_000,
            (Self::Wide, _) => 500,
            (Self::Small, _) => 200 + dice.below(3_900),
        };
        usize::try_from(bytes).expect("small")
    }
}

/// What is known of one message.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    answered: bool,
    /// Times it was sent whole and no answer came.
    unanswered: u8,
    arrived: u8,
}

#[derive(Debug, Default)]
struct State {
    /// Message `n` at `n - 1`.
    entries: Vec<Entry>,
    /// Made, not answered, in nobody's hands.
    waiting: Vec<u64>,
    counts: Counts,
    /// What arrived and must not have.
    wrong: Vec<String>,
}

/// Sums over all messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Answered with 250.
    pub(crate) answered: u64,
    /// Of those, not there yet.
    pub(crate) missing: u64,
    /// Messages that are there.
    pub(crate) arrived: u64,
    /// Times that a message was sent whole and no answer came.
    pub(crate) unanswered: u64,
    /// Arrived changed, or were never sent.
    pub(crate) corrupt: u64,
}

/// What does not agree, as numbers of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Answered with 250 and not there.
    pub(crate) lost: Vec<u64>,
    /// There more than once.
    pub(crate) double: Vec<u64>,
    /// There, and never sent whole.
    pub(crate) uninvited: Vec<u64>,
    /// In words: changed, or nobody's.
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    /// Each violation as a sentence.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let say = |numbers: &[u64], what: &str| {
            numbers.iter().map(|n| format!("storm-{n} {what}")).collect::<Vec<_>>()
        };
        let mut all = say(&self.lost, "got 250 and is lost");
        all.extend(say(&self.double, "is there more than once"));
        all.extend(say(&self.uninvited, "was refused and is there"));
        all.extend(self.wrong.iter().cloned());
        all
    }
}

/// The table. Senders, reader and judge share it.
#[derive(Debug)]
pub(crate) struct Ledger {
    seed: u64,
    sizes: Sizes,
    state: Mutex<State>,
}

impl Ledger {
    pub(crate) fn new(seed: u64, sizes: Sizes) -> Self {
        Self { seed, sizes, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// The bytes of message `number`.
    pub(crate) fn body(&self, number: u64) -> Vec<u8> {
        let mut dice = Dice::about(self.seed, "mail", usize::try_from(number).expect("small"));
        let size = self.sizes.roll(&mut dice);
        let mut body = FIELD.to_vec();
        body.extend_from_slice(
            format!("storm-{number}\r\nMessage-ID: <{number}@storm.example>\r\n\r\n").as_bytes(),
        );
        while body.len() < size {
            let word = dice.next();
            let dots = ["", ".", ".."][(word % 3) as usize];
            body.extend_from_slice(format!("{dots}line {word:x} of storm-{number}\r\n").as_bytes());
        }
        body
    }

    /// A message to send: one that came back, or a new one.
    pub(crate) fn take(&self) -> u64 {
        let mut state = self.state();
        state.waiting.pop().unwrap_or_else(|| {
            state.entries.push(Entry::default());
            state.entries.len() as u64
        })
    }

    /// It got 250.
    pub(crate) fn answered(&self, number: u64) {
        let mut state = self.state();
        let entry = state.entry(number).expect("it was taken");
        entry.answered = true;
        let is_here = entry.arrived > 0;
        state.counts.answered += 1;
        state.counts.missing += u64::from(!is_here);
    }

    /// It was certainly not taken.
    pub(crate) fn refused(&self, number: u64) {
        self.state().waiting.push(number);
    }

    /// It was sent whole, and no answer came: it is to be sent again.
    pub(crate) fn unanswered(&self, number: u64) {
        let mut state = self.state();
        let entry = state.entry(number).expect("it was taken");
        entry.unanswered = entry.unanswered.saturating_add(1);
        state.counts.unanswered += 1;
        state.waiting.push(number);
    }

    /// This message is at home, under the relay's own header.
    pub(crate) fn arrived(&self, bytes: &[u8]) {
        let at = bytes.windows(FIELD.len()).position(|window| window == FIELD);
        let number = at.and_then(|at| {
            let line = bytes[at..].split(|byte| *byte == b'\r').next()?;
            std::str::from_utf8(line).ok()?.strip_prefix("X-Storm-Id: storm-")?.parse::<u64>().ok()
        });
        let (Some(at), Some(number)) = (at, number) else {
            return self.note(format!("a message that nobody sent: {:?}", shown(bytes)));
        };
        let same = bytes[at..] == self.body(number);
        let mut state = self.state();
        let Some(entry) = state.entry(number) else {
            drop(state);
            return self.note(format!("storm-{number} was never sent: {:?}", shown(bytes)));
        };
        entry.arrived = entry.arrived.saturating_add(1);
        let (first, promised) = (entry.arrived == 1, entry.answered);
        state.counts.arrived += u64::from(first);
        state.counts.missing -= u64::from(first && promised);
        drop(state);
        if !same {
            self.note(format!("storm-{number} arrived changed"));
        } else if !bytes.starts_with(b"Received: ") {
            self.note(format!("storm-{number} has something else before it: {:?}", shown(bytes)));
        }
    }

    fn note(&self, what: String) {
        let mut state = self.state();
        state.counts.corrupt += 1;
        state.wrong.push(what);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// What does not agree now; meant for the end, when nothing is under way.
    pub(crate) fn verdict(&self) -> Verdict {
        let state = self.state();
        let mut verdict = Verdict { wrong: state.wrong.clone(), ..Verdict::default() };
        for (at, entry) in state.entries.iter().enumerate() {
            let number = at as u64 + 1;
            match entry {
                Entry { answered: true, arrived: 0, .. } => verdict.lost.push(number),
                Entry { arrived: 2.., .. } => verdict.double.push(number),
                Entry { answered: false, unanswered: 0, arrived: 1 } => verdict.uninvited.push(number),
                Entry { .. } => {}
            }
        }
        verdict
    }
}

impl State {
    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.entries.get_mut(at)
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

#[test]
fn the_ledger_sees_every_lie() {
    let ledger = Ledger::new(7, Sizes::Small);
    let arrive = |number: u64| ledger.arrived(&[b"Received: x\r\n", &ledger.body(number)[..]].concat());
    for number in 1..=6 {
        assert_eq!(ledger.take(), number);
    }
    (1..=3).for_each(|number| ledger.answered(number));
    ledger.unanswered(4);
    ledger.refused(5);
    ledger.refused(6);
    (1..=4).for_each(arrive);
    assert_eq!(ledger.verdict().sentences(), [""; 0]);
    assert_eq!(ledger.counts().missing, 0);
    assert_eq!(ledger.take(), 6);
    ledger.answered(6);
    assert_eq!(ledger.counts().missing, 1);
    arrive(3);
    arrive(5);
    let mut changed = ledger.body(1);
    changed[60] ^= 1;
    ledger.arrived(&changed);
    ledger.arrived(b"Received: x\r\n\r\nnot ours\r\n");
    let verdict = ledger.verdict();
    assert_eq!((verdict.lost, verdict.double, verdict.uninvited), (vec![6], vec![1, 3], vec![5]));
    assert_eq!(verdict.wrong.len(), 2);
}
