//! PURE: the machine of one attempt of one submission: what is tried next, and when it is over (Q0-Q19).
//!
//! The driver tells what happened ([`Event`]) and does what it is told ([`Step`]); what must outlive the process
//! is in the spool, and a new [`Submission`] is made from there for each attempt.
//!
//! Promise: before the armed record is stable every failure is safe: the next host is tried, then the schedule
//! decides. From then on only a complete reply decides; everything else is indeterminate, ends the attempt at
//! once and wins over all that other hosts said (Q17). A result is given once; later events change nothing.
//!
//! What it does not: write, wait or dial. Failure policy: an event that cannot be (a delivery that was never
//! armed) is answered with the result that sends nothing twice.

use std::collections::{BTreeSet, VecDeque};

use spool::ids::WallMs;

use super::schedule::Retry;
use super::values::{Attempt, Endpoint, Note};

/// Enhanced code of an expired submission (RFC 3463 section 3.5, X.4.7).
const EXPIRED_CODE: &str = "4.4.7";

/// How one try of one host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A complete 2yz after the last octet (Q8, Q9).
    Delivered,
    /// 5yz to MAIL, RCPT, DATA or to the message (P6, P7, P9, Q11), or a message this host can never take (P15, I8).
    Refused,
    /// 5yz in place of a greeting or to EHLO: this host wants nothing from us, another one may (P2).
    Unwelcome,
    /// Nothing can have been handed over: network, TLS, 4yz or nonsense before the last octet (Q1-Q3, P4, P9).
    Safe {
        /// 450 or 451 to RCPT: come back later, and not at once (P16).
        greylisted: bool,
    },
    /// A complete 4yz after the last octet (Q10): the host said that it did not take it.
    PutOff,
    /// After arming: no complete reply, or one that is neither 2yz, 4yz nor 5yz (Q4-Q7, Q12).
    Unknown,
    /// The record is no longer ready: held or cancelled in the meantime (Q18). Nothing left.
    Withdrawn,
    /// The armed record did not become stable (Q15). Nothing left.
    NotRecorded,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The attempt begins.
    Begin,
    /// Where to go.
    Routed {
        /// Best first.
        endpoints: Vec<Endpoint>,
        /// There are hosts that a later attempt may ask and this one does not: silent a short while ago, or without
        /// an address or a usable way for now.
        left_out: bool,
    },
    /// There is no way there.
    Unroutable {
        /// No later attempt can change that (O5, O6, O12, L7).
        permanent: bool,
        /// Why.
        attempt: Attempt,
    },
    /// Every host was found dead a short while ago; one of them is tried again then.
    AllDead {
        /// When.
        until: WallMs,
        /// The last reason.
        reason: String,
    },
    /// The armed record is stable.
    Armed,
    /// One host is done.
    Ended(Ending, Attempt),
    /// The time of the attempt is up (P17).
    TimeUp,
    /// The relay stops.
    Stopping,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask where to go.
    Route,
    /// Try this host.
    Try(Endpoint),
    /// Wait for what is under way.
    Wait,
    /// Write: again at `due`, one attempt more.
    Defer {
        /// When.
        due: WallMs,
        /// What is kept.
        note: Note,
    },
    /// Write: again at `due`, nothing was attempted.
    Postpone {
        /// When.
        due: WallMs,
        /// What is kept.
        note: Note,
    },
    /// Write the one result.
    Settle {
        /// Which.
        verdict: Verdict,
        /// What is kept and told.
        note: Note,
    },
    /// Write nothing; the record says it all, or nothing happened.
    Leave,
}

/// The one result of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A host took it.
    Sent,
    /// Nobody took it and nobody will.
    Failed,
    /// Somebody may have taken it.
    Indeterminate,
}

impl Verdict {
    /// The word of events, metrics and results.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// What an attempt is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Attempts before this one.
    pub attempts: u32,
    /// When it is too late.
    pub expires_at: WallMs,
    /// Why the last attempt did not help; empty before the first.
    pub last_reason: String,
    /// When to come back.
    pub retry: Retry,
    /// 0..=999 parts of a thousand: chance, for the spread of retries.
    pub jitter_permille: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Routing,
    Trying { rest: VecDeque<Endpoint>, armed: bool },
    Over,
}

/// One attempt of one submission. See the module.
#[derive(Clone, Debug)]
pub struct Submission {
    terms: Terms,
    state: State,
    tried: Vec<Attempt>,
    /// Hosts that were tried, and those of them that wanted nothing from us.
    hosts: BTreeSet<String>,
    unwelcome: BTreeSet<String>,
    /// There are hosts that this attempt does not ask.
    left_out: bool,
    greylisted: bool,
}

impl Submission {
    /// An attempt that has not begun.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            state: State::Waiting,
            tried: Vec::new(),
            hosts: BTreeSet::new(),
            unwelcome: BTreeSet::new(),
            left_out: false,
            greylisted: false,
        }
    }

    /// The octets that complete the message may have left, and no verdict is known.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        matches!(self.state, State::Trying { armed: true, .. })
    }

    /// The attempt is over; nothing changes any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes what happened and says what to do.
    ///
    /// * `now` – wall clock; compared with the time of expiry only.
    pub fn handle(&mut self, event: Event, now: WallMs) -> Step {
        match (std::mem::replace(&mut self.state, State::Over), event) {
            // Write-once: the late are ignored.
            (State::Over, _) => Step::Leave,
            (State::Waiting, Event::Begin) if self.is_expired(now) => self.expire(),
            (State::Waiting, Event::Begin) => {
                self.state = State::Routing;
                Step::Route
            }
            (State::Routing, Event::Routed { endpoints, left_out }) => {
                self.left_out = left_out;
                self.next(endpoints.into(), now)
            }
            (State::Routing, Event::Unroutable { permanent: true, attempt }) => self.fail(attempt),
            (State::Routing, Event::Unroutable { permanent: false, attempt }) => {
                self.tried.push(attempt);
                self.defer(now)
            }
            (State::Routing, Event::AllDead { until, reason }) => self.postpone(until, &reason, now),
            (State::Trying { rest, .. }, Event::Armed) => {
                self.state = State::Trying { rest, armed: true };
                Step::Wait
            }
            (State::Trying { rest, armed }, Event::Ended(ending, attempt)) => {
                self.ended(rest, armed, ending, attempt, now)
            }
            // Only the host's verdict or its silence decides now; the wait for the dot is bounded (Q19).
            (state @ State::Trying { armed: true, .. }, Event::TimeUp | Event::Stopping) => {
                self.state = state;
                Step::Wait
            }
            (State::Waiting | State::Routing | State::Trying { .. }, Event::TimeUp) => self.defer(now),
            (State::Waiting | State::Routing | State::Trying { .. }, Event::Stopping) => Step::Leave,
            // What the driver cannot mean: go on as before.
            (
                state,
                Event::Begin
                | Event::Routed { .. }
                | Event::Unroutable { .. }
                | Event::AllDead { .. }
                | Event::Armed
                | Event::Ended(..),
            ) => {
                self.state = state;
                Step::Wait
            }
        }
    }

    fn ended(
        &mut self,
        rest: VecDeque<Endpoint>,
        armed: bool,
        ending: Ending,
        attempt: Attempt,
        now: WallMs,
    ) -> Step {
        self.hosts.insert(attempt.host.clone());
        match (ending, armed) {
            (Ending::Delivered, _) => self.settle(Verdict::Sent, attempt),
            (Ending::Unknown, _) => self.settle(Verdict::Indeterminate, attempt),
            (Ending::Refused, _) => self.fail(attempt),
            (Ending::PutOff, _) => {
                self.tried.push(attempt);
                self.defer(now)
            }
            // After arming these would say "nothing was handed over", which nobody can know any more.
            (Ending::Unwelcome | Ending::Safe { .. } | Ending::Withdrawn | Ending::NotRecorded, true) => {
                self.settle(Verdict::Indeterminate, attempt)
            }
            (Ending::Unwelcome, false) => {
                self.unwelcome.insert(attempt.host.clone());
                self.tried.push(attempt);
                self.next(rest, now)
            }
            (Ending::Safe { greylisted }, false) => {
                self.greylisted |= greylisted;
                self.tried.push(attempt);
                self.next(rest, now)
            }
            (Ending::Withdrawn | Ending::NotRecorded, false) => Step::Leave,
        }
    }

    /// The next host, or the end of the attempt.
    fn next(&mut self, mut rest: VecDeque<Endpoint>, now: WallMs) -> Step {
        if let Some(endpoint) = rest.pop_front() {
            self.state = State::Trying { rest, armed: false };
            return Step::Try(endpoint);
        }
        // P2: final only when no host at all wants us; one that could not be reached or was not asked may.
        if !self.left_out && !self.hosts.is_empty() && self.hosts == self.unwelcome {
            let note = self.note();
            return Step::Settle { verdict: Verdict::Failed, note };
        }
        self.defer(now)
    }

    fn is_expired(&self, now: WallMs) -> bool {
        now >= self.terms.expires_at
    }

    fn defer(&mut self, now: WallMs) -> Step {
        if self.is_expired(now) {
            return self.expire();
        }
        let wait = self.terms.retry.wait_ms(self.terms.attempts, self.greylisted, self.terms.jitter_permille);
        let due = WallMs(now.0.saturating_add(wait)).min(self.terms.expires_at);
        Step::Defer { due, note: self.note() }
    }

    fn postpone(&mut self, until: WallMs, reason: &str, now: WallMs) -> Step {
        if self.is_expired(now) {
            return self.expire();
        }
        Step::Postpone { due: until.min(self.terms.expires_at), note: Note::line(reason) }
    }

    /// Q19: nobody took it in time.
    fn expire(&mut self) -> Step {
        let note = self.note();
        let last = if note.text.is_empty() { &self.terms.last_reason } else { &note.text };
        let text = if last.is_empty() { "expired".to_owned() } else { format!("expired; {last}") };
        let note = Note { text, enhanced_code: EXPIRED_CODE.to_owned(), ..note };
        Step::Settle { verdict: Verdict::Failed, note }
    }

    fn fail(&mut self, attempt: Attempt) -> Step {
        self.settle(Verdict::Failed, attempt)
    }

    fn settle(&mut self, verdict: Verdict, attempt: Attempt) -> Step {
        self.tried.push(attempt);
        Step::Settle { verdict, note: self.note() }
    }

    /// What is kept of the attempt: the last host's words, and all that was tried.
    fn note(&self) -> Note {
        let last = self.tried.last();
        Note {
            text: last.map(sentence).unwrap_or_default(),
            enhanced_code: last.map(|a| a.enhanced_code.clone()).unwrap_or_default(),
            attempts: self.tried.clone(),
        }
    }
}

/// One line for a person: who said what.
fn sentence(attempt: &Attempt) -> String {
    let Attempt { host, code, text, .. } = attempt;
    match code {
        Some(code) => format!("{host} answered {code} {text}"),
        None if host.is_empty() => text.clone(),
        None => format!("{host}: {text}"),
    }
}

#[cfg(test)]
mod tests;
