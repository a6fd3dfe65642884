//! One message on one connection: which command comes next, and what each answer means for each recipient.
//!
//! Promises (rows P and Q of the checklist):
//! * The octets that can complete the message leave in one output of their own, [`Output::Complete`], and only after
//!   [`Transaction::armed`]; not at all when the server said anything after 354 that was not asked for.
//! * Before that, whatever happens is safe: temporary, or failed when a complete 5yz says so. After it only a complete
//!   2yz, 4yz or 5yz decides; silence, loss and everything else are indeterminate.
//! * Every recipient gets exactly one outcome, and a decided one is never decided again.
//!
//! With PIPELINING, RSET, MAIL, all RCPT and DATA leave in one write (RFC 2920). When the server then says 354 although
//! it took nobody, a lone dot ends the empty message; that is not armed, as there is nobody it could reach. With
//! CHUNKING the message leaves in counted chunks (RFC 3030), one answer each, and the last octet of the last chunk is
//! what completes it.

use std::collections::VecDeque;

use super::answer::{Answer, AnswerError};
use super::capabilities::Capabilities;
use super::envelope::{Envelope, script};
use super::outcome::{Acceptance, Failure, FailureKind, Outcome, Stage};
use super::timeouts::Timeouts;
use super::{Loss, Output};
use crate::mail::smtp::stuffing::Stuffer;

/// Octets that are gathered for one `BDAT`: few answers to wait for, little to keep in memory.
const CHUNK_BYTES: usize = 256 * 1024;

/// A message under way.
#[derive(Debug)]
pub(super) struct Transaction {
    timeouts: Timeouts,
    chunking: bool,
    recipients: Vec<Recipient>,
    /// Not yet sent; empty from the start when pipelining.
    plan: VecDeque<(Step, Vec<u8>)>,
    /// Sent, not yet answered.
    expected: VecDeque<Step>,
    at: At,
    /// An earlier message went over this connection.
    reused: bool,
}

#[derive(Debug)]
enum Recipient {
    Asking,
    Accepted,
    Decided(Outcome),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    Chunk,
    LoneDot,
}

#[derive(Debug)]
enum At {
    Commands,
    /// `held` gathers a chunk; `None` for DATA.
    Body {
        stuffer: Stuffer,
        held: Option<Vec<u8>>,
    },
    /// Everything but these octets is written.
    Arming(Vec<u8>),
    /// The server began to speak when it was not its turn; its reply is awaited.
    Interrupted,
    /// The completing octets are out.
    Armed,
}

/// What is to be done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The message goes on.
    Going,
    /// All outcomes are known. `keep`: the connection is in step and may take another message.
    Over { keep: bool },
}

impl Transaction {
    /// Begins. Writes nothing when no recipient is left to ask for.
    pub(super) fn begin(
        envelope: &Envelope,
        offered: &Capabilities,
        timeouts: Timeouts,
        reused: bool,
        out: &mut VecDeque<Output>,
    ) -> (Self, Next) {
        let (chunking, pipelining) = (offered.chunking, offered.pipelining);
        let (recipients, plan) = (Vec::new(), VecDeque::new());
        let expected = VecDeque::new();
        let mut new = Self { timeouts, chunking, recipients, plan, expected, at: At::Commands, reused };
        let script = match script(envelope, offered) {
            Ok(script) => script,
            Err(outcome) => {
                let all = envelope.rcpt_to.iter().map(|_| Recipient::Decided(outcome.clone()));
                new.recipients = all.collect();
                return (new, Next::Over { keep: true });
            }
        };
        if reused {
            new.plan.push_back((Step::Rset, b"RSET\r\n".to_vec())); // P11
        }
        new.plan.push_back((Step::Mail, script.mail.into_bytes()));
        for (n, line) in script.rcpt.into_iter().enumerate() {
            new.recipients.push(match line {
                Ok(line) => {
                    new.plan.push_back((Step::Rcpt(n), line.into_bytes()));
                    Recipient::Asking
                }
                Err(outcome) => Recipient::Decided(outcome),
            });
        }
        if !new.recipients.iter().any(|r| matches!(r, Recipient::Asking)) {
            return (new, Next::Over { keep: true });
        }
        if !chunking {
            new.plan.push_back((Step::Data, b"DATA\r\n".to_vec()));
        }
        if pipelining {
            let mut lines = Vec::new();
            for (step, line) in core::mem::take(&mut new.plan) {
                new.expected.push_back(step);
                lines.extend_from_slice(&line);
            }
            new.expect_next(out);
            out.push_back(Output::Write(lines));
        } else {
            new.send_next(out);
        }
        (new, Next::Going)
    }

    /// The completing octets are out.
    pub(super) fn is_armed(&self) -> bool {
        matches!(self.at, At::Armed)
    }

    /// A complete reply came.
    pub(super) fn answered(&mut self, answer: &Answer, out: &mut VecDeque<Output>) -> Next {
        match (&self.at, self.expected.pop_front()) {
            (At::Armed, _) => self.verdict(answer),
            (_, Some(step)) => self.step(step, answer, out),
            (At::Commands | At::Body { .. } | At::Arming(_) | At::Interrupted, None) => {
                self.interrupted(answer)
            }
        }
    }

    /// The connection is gone, or was waited for in vain. `heard`: the fragment of a reply, if there is one.
    pub(super) fn lost(&mut self, loss: &Loss, heard: &str) -> Next {
        let kind = match loss {
            Loss::TimedOut | Loss::TooSlow => FailureKind::TimedOut,
            Loss::Closed | Loss::Broken(_) if self.is_stale() => FailureKind::Stale,
            Loss::Closed | Loss::Broken(_) => FailureKind::Lost,
        };
        self.broken(kind, &loss.to_string(), heard)
    }

    /// What came is no reply.
    pub(super) fn garbled(&mut self, error: AnswerError, heard: &str) -> Next {
        self.broken(FailureKind::Protocol, &error.to_string(), heard)
    }

    /// The next piece of the message, or its end.
    pub(super) fn body(&mut self, piece: Option<&[u8]>, out: &mut VecDeque<Output>) -> Next {
        let At::Body { stuffer, held } = &mut self.at else { return Next::Going };
        if !self.expected.is_empty() {
            return Next::Going;
        }
        let mut octets = held.take().unwrap_or_default();
        let checked = match piece {
            Some(piece) => stuffer.stuff(piece, &mut octets),
            None => stuffer.finish(&mut octets),
        };
        if let Err(stray) = checked {
            let failure = Failure::own(Stage::Body, FailureKind::Local, "5.6.0", stray.to_string());
            return self.give_up(&Outcome::Failed(failure)); // C23
        }
        match (piece.is_some(), self.chunking) {
            (true, false) => {
                self.write(octets, out);
                out.push_back(Output::NeedBody);
            }
            (false, false) => {
                self.write(octets, out);
                self.arm(b".\r\n".to_vec(), out);
            }
            (true, true) if octets.len() >= CHUNK_BYTES => {
                self.hold(Vec::new());
                self.expected.push_back(Step::Chunk);
                let mut chunk = format!("BDAT {}\r\n", octets.len()).into_bytes();
                chunk.append(&mut octets);
                self.write(chunk, out);
                out.push_back(Output::Wait(self.timeouts.data));
            }
            (true, true) => {
                self.hold(octets);
                out.push_back(Output::NeedBody);
            }
            (false, true) => {
                let mut chunk = format!("BDAT {} LAST\r\n", octets.len()).into_bytes();
                let complete = match octets.pop() {
                    Some(last) => {
                        chunk.append(&mut octets);
                        self.write(chunk, out);
                        vec![last]
                    }
                    None => chunk, // an empty last chunk is complete with its command
                };
                self.arm(complete, out);
            }
        }
        Next::Going
    }

    /// The message cannot be read, or must not be handed over.
    pub(super) fn withheld(&mut self, text: &str) -> Next {
        if self.is_armed() {
            return Next::Going;
        }
        let failure = Failure::own(self.stage(), FailureKind::Local, "4.3.0", text);
        self.give_up(&Outcome::Temporary(failure))
    }

    /// Arming is durable. `silent`: nothing was heard since 354, not even a fragment.
    pub(super) fn armed(&mut self, silent: bool, out: &mut VecDeque<Output>) {
        let At::Arming(octets) = &mut self.at else { return };
        let octets = core::mem::take(octets);
        if silent {
            self.at = At::Armed;
            out.push_back(Output::Wait(self.timeouts.dot));
            out.push_back(Output::Complete(octets));
        } else {
            self.at = At::Interrupted; // P10
            out.push_back(Output::Wait(self.timeouts.data));
        }
    }

    /// One outcome per recipient of the envelope, in its order.
    pub(super) fn into_outcomes(self) -> Vec<Outcome> {
        let never =
            || Failure::own(Stage::Mail, FailureKind::Local, "4.3.0", "the message was not attempted");
        let decided = |recipient| match recipient {
            Recipient::Decided(outcome) => outcome,
            Recipient::Asking | Recipient::Accepted => Outcome::Temporary(never()),
        };
        self.recipients.into_iter().map(decided).collect()
    }

    /// The answer to one command.
    fn step(&mut self, step: Step, answer: &Answer, out: &mut VecDeque<Output>) -> Next {
        let stage = step.stage();
        let positive = answer.class() == 2;
        if answer.code == 421 {
            let mut failure = Failure::answered(stage, answer);
            if self.reused && matches!(step, Step::Rset | Step::Mail) {
                failure.kind = FailureKind::Stale; // P11
            }
            return self.give_up(&Outcome::Temporary(failure));
        }
        match step {
            Step::Rset if !positive => {
                let failure = Failure { kind: FailureKind::Stale, ..Failure::answered(stage, answer) };
                return self.give_up(&Outcome::Temporary(failure));
            }
            Step::Mail if !positive => self.settle(&Outcome::refused(stage, answer)), // P6
            Step::Rcpt(n) => self.recipient(n, answer),
            Step::Data => return self.data(answer, out),
            Step::Chunk if !positive => return self.give_up(&Outcome::refused(stage, answer)),
            Step::Chunk => {
                out.push_back(Output::NeedBody);
                return Next::Going;
            }
            // A server that took an empty message for nobody is better left alone.
            Step::LoneDot => return Next::Over { keep: answer.class() >= 4 }, // F2
            Step::Rset | Step::Mail => {}
        }
        if !self.expected.is_empty() {
            self.expect_next(out);
            return Next::Going;
        }
        if !self.recipients.iter().any(|r| matches!(r, Recipient::Asking | Recipient::Accepted)) {
            return Next::Over { keep: true }; // P8
        }
        if self.plan.is_empty() {
            self.begin_body(out);
        } else {
            self.send_next(out);
        }
        Next::Going
    }

    fn recipient(&mut self, n: usize, answer: &Answer) {
        let Some(recipient) = self.recipients.get_mut(n) else { return };
        if !matches!(recipient, Recipient::Asking) {
            return; // MAIL was refused
        }
        *recipient = match (answer.class(), answer.code) {
            (2, _) => Recipient::Accepted,
            // "Too many recipients" of old servers, not "mailbox full" (RFC 5321 §4.5.3.1.10): P7, E8.
            (_, 552) => Recipient::Decided(Outcome::Temporary(Failure::answered(Stage::Rcpt, answer))),
            (..) => Recipient::Decided(Outcome::refused(Stage::Rcpt, answer)),
        };
    }

    fn data(&mut self, answer: &Answer, out: &mut VecDeque<Output>) -> Next {
        let anybody = self.recipients.iter().any(|r| matches!(r, Recipient::Accepted));
        match (answer.class(), anybody) {
            (3, true) => {
                self.begin_body(out);
                Next::Going
            }
            (3, false) => {
                self.expected.push_back(Step::LoneDot);
                self.expect_next(out);
                out.push_back(Output::Write(b".\r\n".to_vec()));
                Next::Going
            }
            (4 | 5, _) => {
                self.settle(&Outcome::refused(Stage::Data, answer)); // P9
                Next::Over { keep: true }
            }
            (_, _) => self.interrupted(answer),
        }
    }

    /// A reply that nobody asked for, before the message was complete: a refusal counts, anything else is confusion.
    fn interrupted(&mut self, answer: &Answer) -> Next {
        let stage = self.stage();
        if answer.class() >= 4 {
            return self.give_up(&Outcome::refused(stage, answer)); // P10
        }
        let kind = FailureKind::Protocol;
        self.give_up(&Outcome::Temporary(Failure { kind, ..Failure::answered(stage, answer) }))
    }

    /// The reply to the end of the message: the only one that can say that it was taken.
    fn verdict(&mut self, answer: &Answer) -> Next {
        let outcome = match answer.class() {
            2 => Outcome::Delivered(Acceptance {
                code: answer.code,
                enhanced: answer.enhanced(),
                text: answer.text(),
                tls: String::new(),
            }), // Q8, Q9
            4 | 5 => Outcome::refused(Stage::Dot, answer), // Q10, Q11
            _ => {
                let kind = FailureKind::Protocol;
                Outcome::Indeterminate(Failure { kind, ..Failure::answered(Stage::Dot, answer) }) // Q12
            }
        };
        self.settle(&outcome);
        Next::Over { keep: answer.code != 421 && answer.class() != 3 }
    }

    fn broken(&mut self, kind: FailureKind, what: &str, heard: &str) -> Next {
        let stage = self.stage();
        let mut text = what.to_owned();
        if !heard.is_empty() {
            text.push_str("; heard only: ");
            text.push_str(heard);
        }
        if self.is_armed() {
            let text = format!("{text}; the server may have taken the message or not");
            self.give_up(&Outcome::Indeterminate(Failure::own(stage, kind, "4.4.2", text))) // Q4-Q7, Q12
        } else {
            self.give_up(&Outcome::Temporary(Failure::own(stage, kind, "4.4.2", text))) // Q1-Q3
        }
    }

    /// Nothing of this message was answered yet on a connection that was kept.
    fn is_stale(&self) -> bool {
        self.reused && matches!(self.expected.front(), Some(Step::Rset | Step::Mail))
    }

    fn give_up(&mut self, outcome: &Outcome) -> Next {
        self.settle(outcome);
        Next::Over { keep: false }
    }

    /// Decides for everybody who is not decided.
    fn settle(&mut self, outcome: &Outcome) {
        for recipient in &mut self.recipients {
            if !matches!(recipient, Recipient::Decided(_)) {
                *recipient = Recipient::Decided(outcome.clone());
            }
        }
    }

    fn begin_body(&mut self, out: &mut VecDeque<Output>) {
        let stuffer = if self.chunking { Stuffer::for_chunks() } else { Stuffer::for_data() };
        self.at = At::Body { stuffer, held: self.chunking.then(Vec::new) };
        out.push_back(Output::NeedBody);
    }

    fn hold(&mut self, octets: Vec<u8>) {
        if let At::Body { held, .. } = &mut self.at {
            *held = Some(octets);
        }
    }

    fn arm(&mut self, complete: Vec<u8>, out: &mut VecDeque<Output>) {
        self.at = At::Arming(complete);
        out.push_back(Output::Arm(
            self.recipients.iter().map(|r| matches!(r, Recipient::Accepted)).collect(),
        ));
    }

    fn write(&self, octets: Vec<u8>, out: &mut VecDeque<Output>) {
        if !octets.is_empty() {
            out.push_back(Output::Wait(self.timeouts.block));
            out.push_back(Output::Write(octets));
        }
    }

    fn send_next(&mut self, out: &mut VecDeque<Output>) {
        if let Some((step, line)) = self.plan.pop_front() {
            self.expected.push_back(step);
            self.expect_next(out);
            out.push_back(Output::Write(line));
        }
    }

    fn expect_next(&self, out: &mut VecDeque<Output>) {
        let patience = match self.expected.front() {
            Some(Step::Rset) => self.timeouts.ehlo,
            Some(Step::Mail) => self.timeouts.mail,
            Some(Step::Rcpt(_)) => self.timeouts.rcpt,
            Some(Step::Data | Step::Chunk | Step::LoneDot) | None => self.timeouts.data,
        };
        out.push_back(Output::Wait(patience));
    }

    fn stage(&self) -> Stage {
        match (&self.at, self.expected.front()) {
            (At::Armed, _) => Stage::Dot,
            (At::Commands, Some(step)) => step.stage(),
            (At::Commands, None) => Stage::Data,
            (At::Body { .. } | At::Arming(_) | At::Interrupted, _) => Stage::Body,
        }
    }
}

impl Step {
    fn stage(self) -> Stage {
        match self {
            Self::Rset | Self::Mail => Stage::Mail,
            Self::Rcpt(_) => Stage::Rcpt,
            Self::Data | Self::LoneDot => Stage::Data,
            Self::Chunk => Stage::Body,
        }
    }
}
