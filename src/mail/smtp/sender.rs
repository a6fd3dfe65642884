//! The SMTP client of one connection, without the connection: octets in, octets and decisions out (RFC 5321).
//!
//! * [`answer`]: replies, read from octets; [`capabilities`]: what a server offers.
//! * [`envelope`]: command lines that cannot be anything else.
//! * `transaction`: one message, and what became of it for each recipient.
//! * [`outcome`], [`timeouts`]: values.
//!
//! The driver performs [`Output`]s in order and answers them. Promises: every (state, input) pair has an answer, and
//! an input out of place changes nothing; memory is bounded whatever the server sends; the octets that can complete a
//! message leave only as [`Output::Complete`], which comes only after [`Sender::armed`]; each message ends in one
//! [`Output::Done`] with exactly one outcome per recipient.
//!
//! Does not know: sockets, TLS, the clock. What a [`Output::Wait`] means in time is the driver's affair; when it has
//! passed, that is [`Sender::lost`].

pub mod answer;
pub mod capabilities;
pub mod envelope;
pub mod outcome;
pub mod timeouts;
mod transaction;

#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;

use answer::{Answer, AnswerParser};
use capabilities::Capabilities;
use envelope::Envelope;
use outcome::{Failure, FailureKind, Outcome, Stage};
use timeouts::Timeouts;
use transaction::{Next, Transaction};

/// Messages over one connection; after that a new one is fairer to the server (P11).
pub const MESSAGES_PER_CONNECTION_MAX: u64 = 100;

/// What the driver has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// From now on this is how long the next step may take: writes that follow, and the complete reply.
    Wait(Duration),
    /// Write this. It cannot complete a message that anybody would get.
    Write(Vec<u8>),
    /// The opening is done: [`Sender::capabilities`] are known.
    Greeted,
    /// Do the TLS handshake now, then [`Sender::secured`]. Octets that came in the clear after the reply were thrown
    /// away (P13): so many.
    StartTls {
        /// Octets thrown away.
        discarded_bytes: usize,
    },
    /// Give the next piece of the message to [`Sender::body`].
    NeedBody,
    /// Make durable that the message is about to be handed over for these recipients (true: accepted), then call
    /// [`Sender::armed`]; or [`Sender::withheld`].
    Arm(Vec<bool>),
    /// Write this: it completes the message (Q0).
    Complete(Vec<u8>),
    /// The opening failed.
    Failed(Failure),
    /// What became of the message, one per recipient, in the order of the envelope.
    Done(Vec<Outcome>),
    /// Close the connection without another octet.
    Close,
}

/// How a connection ends that the server did not end by a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// End of the stream.
    Closed,
    /// An error of the stream, in its words.
    Broken(String),
    /// The time of an [`Output::Wait`] has passed.
    TimedOut,
    /// The time for the whole message has passed before it was armed (P17).
    TooSlow,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::TimedOut => f.write_str("the server did not answer in time"),
            Self::TooSlow => f.write_str("the server was too slow for the whole message"),
        }
    }
}

/// The client's side of one connection.
#[derive(Debug)]
pub struct Sender {
    helo: String,
    timeouts: Timeouts,
    parser: AnswerParser,
    capabilities: Capabilities,
    outputs: VecDeque<Output>,
    state: State,
    secured: bool,
    messages: u64,
}

#[derive(Debug)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    Ready,
    Starttls,
    /// Between the reply to STARTTLS and the end of the handshake.
    Securing,
    Talking(Box<Transaction>),
    Quitting,
    Over,
}

impl Sender {
    /// A connection that was just made. `helo`: our name; octets that are in no name are left out.
    #[must_use]
    pub fn new(helo: &str, timeouts: Timeouts) -> Self {
        let mut outputs = VecDeque::new();
        outputs.push_back(Output::Wait(timeouts.greeting));
        Self {
            helo: helo.chars().filter(char::is_ascii_graphic).collect(),
            timeouts,
            parser: AnswerParser::default(),
            capabilities: Capabilities::default(),
            outputs,
            state: State::Greeting,
            secured: false,
            messages: 0,
        }
    }

    /// What to do next; `None`: wait for the server.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What the server offered last.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether another message may go over this connection.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        let most = self.capabilities.messages_max.unwrap_or(u64::MAX).min(MESSAGES_PER_CONNECTION_MAX);
        matches!(self.state, State::Ready) && self.messages < most
    }

    /// The completing octets of a message are out and its verdict is not known.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        matches!(&self.state, State::Talking(transaction) if transaction.is_armed())
    }

    /// Nothing more will be written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Octets came.
    pub fn receive(&mut self, input: &[u8]) {
        let mut rest = input;
        while !rest.is_empty() {
            match self.state {
                State::Over | State::Securing => return,
                State::Ready => return self.close(), // out of turn: nobody knows what it would answer (P11)
                State::Greeting
                | State::Ehlo
                | State::Helo
                | State::Starttls
                | State::Talking(_)
                | State::Quitting => {}
            }
            let (used, result) = self.parser.push(rest);
            rest = &rest[used..];
            match result {
                Ok(None) => {}
                Ok(Some(answer)) => {
                    self.answered(&answer);
                    if matches!(self.state, State::Securing) {
                        self.outputs.push_back(Output::StartTls { discarded_bytes: rest.len() });
                    }
                }
                Err(error) => {
                    let heard = self.parser.fragment();
                    if let State::Talking(transaction) = &mut self.state {
                        let next = transaction.garbled(error, &heard);
                        return self.proceed(next);
                    }
                    let text = format!("{error}: {heard}");
                    return self.fail(FailureKind::Protocol, "4.5.0", text);
                }
            }
        }
    }

    /// The connection ended, or a wait did.
    pub fn lost(&mut self, loss: &Loss) {
        let heard = self.parser.fragment();
        match &mut self.state {
            State::Talking(transaction) => {
                let next = transaction.lost(loss, &heard);
                self.proceed(next);
            }
            State::Greeting | State::Ehlo | State::Helo | State::Starttls | State::Securing => {
                let kind = match loss {
                    Loss::Closed | Loss::Broken(_) => FailureKind::Lost,
                    Loss::TimedOut | Loss::TooSlow => FailureKind::TimedOut,
                };
                self.fail(kind, "4.4.2", loss.to_string());
            }
            State::Ready | State::Quitting => self.close(),
            State::Over => {}
        }
    }

    /// Asks for TLS. Changes nothing unless the server offered it on a connection in the clear.
    pub fn start_tls(&mut self) {
        if matches!(self.state, State::Ready) && self.capabilities.starttls && !self.secured {
            self.state = State::Starttls;
            self.say(self.timeouts.starttls, "STARTTLS");
        }
    }

    /// The handshake is done: what was offered in the clear is forgotten, and asked for again (P13, P14).
    pub fn secured(&mut self) {
        if matches!(self.state, State::Securing) {
            self.secured = true;
            self.parser = AnswerParser::default();
            self.capabilities = Capabilities::default();
            self.say_ehlo();
        }
    }

    /// Begins a message. On a connection that is gone or busy it ends at once, without having been attempted.
    pub fn begin(&mut self, envelope: &Envelope) {
        if !matches!(self.state, State::Ready) {
            let text = "the connection was gone before the message";
            let failure = Failure::own(Stage::Mail, FailureKind::Stale, "4.4.2", text);
            let none = envelope.rcpt_to.iter().map(|_| Outcome::Temporary(failure.clone())).collect();
            self.outputs.push_back(Output::Done(none));
            return;
        }
        let reused = self.messages > 0;
        self.messages += 1;
        let (transaction, next) =
            Transaction::begin(envelope, &self.capabilities, self.timeouts, reused, &mut self.outputs);
        self.state = State::Talking(Box::new(transaction));
        self.proceed(next);
    }

    /// The answer to [`Output::NeedBody`]: a piece of the message in canonical form (CRLF, no dots added), or `None`
    /// at its end.
    pub fn body(&mut self, piece: Option<&[u8]>) {
        if let State::Talking(transaction) = &mut self.state {
            let next = transaction.body(piece, &mut self.outputs);
            self.proceed(next);
        }
    }

    /// The message cannot be read to its end, or arming was refused: it is not handed over.
    pub fn withheld(&mut self, text: &str) {
        if let State::Talking(transaction) = &mut self.state {
            let next = transaction.withheld(text);
            self.proceed(next);
        }
    }

    /// The answer to [`Output::Arm`]: it is durable. What the server said meanwhile must have been given to
    /// [`Sender::receive`] before, as it may keep the message from being completed.
    pub fn armed(&mut self) {
        if let State::Talking(transaction) = &mut self.state {
            transaction.armed(self.parser.is_at_start(), &mut self.outputs);
        }
    }

    /// Says goodbye. Any answer, or none, ends in [`Output::Close`] (P18).
    pub fn quit(&mut self) {
        if matches!(self.state, State::Ready) {
            self.state = State::Quitting;
            self.say(self.timeouts.quit, "QUIT");
        } else if !self.is_armed() {
            self.close();
        }
    }

    fn answered(&mut self, answer: &Answer) {
        match &mut self.state {
            State::Talking(transaction) => {
                let next = transaction.answered(answer, &mut self.outputs);
                self.proceed(next);
            }
            State::Greeting if answer.class() == 2 => self.say_ehlo(),
            State::Ehlo if answer.class() == 2 => {
                self.capabilities = Capabilities::read(answer);
                self.greeted();
            }
            State::Ehlo if matches!(answer.code, 500 | 502 | 504) => {
                self.state = State::Helo; // P3
                self.say(self.timeouts.ehlo, &format!("HELO {}", self.helo));
            }
            State::Helo if answer.class() == 2 => {
                self.capabilities = Capabilities::default();
                self.greeted();
            }
            State::Starttls if answer.class() == 2 => self.state = State::Securing,
            State::Greeting | State::Ehlo | State::Helo | State::Starttls => {
                let failure = Failure::answered(self.stage(), answer); // P2, P4
                self.outputs.push_back(Output::Failed(failure));
                self.close();
            }
            State::Ready | State::Quitting => self.close(),
            State::Securing | State::Over => {}
        }
    }

    fn proceed(&mut self, next: Next) {
        let Next::Over { keep } = next else { return };
        if let State::Talking(transaction) = core::mem::replace(&mut self.state, State::Ready) {
            // What was still to be written or asked for is void.
            self.outputs.clear();
            self.outputs.push_back(Output::Done(transaction.into_outcomes()));
            if !keep {
                self.close();
            }
        }
    }

    fn fail(&mut self, kind: FailureKind, enhanced: &str, text: String) {
        if matches!(
            self.state,
            State::Greeting | State::Ehlo | State::Helo | State::Starttls | State::Securing
        ) {
            self.outputs.push_back(Output::Failed(Failure::own(self.stage(), kind, enhanced, text)));
        }
        self.close();
    }

    fn close(&mut self) {
        if !self.is_over() {
            self.state = State::Over;
            self.outputs.push_back(Output::Close);
        }
    }

    fn greeted(&mut self) {
        self.state = State::Ready;
        self.outputs.push_back(Output::Greeted);
    }

    fn say_ehlo(&mut self) {
        self.state = State::Ehlo;
        self.say(self.timeouts.ehlo, &format!("EHLO {}", self.helo));
    }

    fn say(&mut self, wait: Duration, line: &str) {
        self.outputs.push_back(Output::Wait(wait));
        self.outputs.push_back(Output::Write(format!("{line}\r\n").into_bytes()));
    }

    fn stage(&self) -> Stage {
        match self.state {
            State::Greeting => Stage::Greeting,
            State::Ehlo | State::Helo => Stage::Ehlo,
            State::Starttls | State::Securing => Stage::Starttls,
            State::Ready | State::Talking(_) | State::Quitting | State::Over => Stage::Mail,
        }
    }
}
