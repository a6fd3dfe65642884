//! The server side of one SMTP session (RFC 5321), without socket, clock or spool.
//!
//! Feed it octets ([`Receiver::receive`]), answers ([`Receiver::answer`], [`Receiver::persisted`]) and time
//! ([`Receiver::tick`]); after each call drain [`Receiver::poll`] and perform the outputs in order.
//!
//! Promises:
//! * The only road to `250` after a message passes through [`Receiver::persisted`].
//! * Replies come in the order of the commands, each complete; how octets are split changes nothing, except
//!   that octets which overtake a reply they had to wait for end the session (RFC 2920 §3.1).
//! * A message is all or nothing for all its recipients. After any refusal of a body the stream is still in
//!   step: a body is always read to its true end.
//! * Memory: one command line, the recipients of one transaction, and what one call handed in.
//!
//! Does not: know which mailboxes exist (it asks), hold bodies (they pass through), or log.
//!
//! Policy on misbehaviour: mistakes are answered and counted; past a cap, or where the stream can no longer
//! be trusted, the session ends with 421 or 554.

mod body;
mod commands;
mod settings;
mod starttls;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use spool::ids::{ItemId, LaneId};

use crate::mail::address::{ForwardPath, ReversePath};
use crate::mail::envelope::BodyType;
use crate::mail::smtp::bdat::BdatReceiver;
use crate::mail::smtp::command::{LineReader, Mail};
use crate::mail::smtp::content::Content;
use crate::mail::smtp::data::DataReceiver;
use crate::mail::smtp::foreign;
use crate::mail::smtp::reply::Reply;

pub use settings::{Grace, Load, Settings, TARPIT_DELAY_MAX};
use starttls::Tls;

/// Names one request to store a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// Where in the session something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The session as a whole: greeting, caps, timeouts, shutdown.
    Session,
    /// A command out of order, unknown or malformed.
    Command,
    /// `MAIL`.
    Mail,
    /// `RCPT`.
    Rcpt,
    /// `DATA`, `BDAT` and the message itself.
    Data,
}

/// One recipient that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// As given.
    pub path: ForwardPath,
    /// Where it goes.
    pub lane: LaneId,
    /// Name of the mailbox that owns the lane; for the log.
    pub lane_name: String,
}

/// A message whose body was handed out completely and waits to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// To be given back with the outcome.
    pub ticket: Ticket,
    /// Reverse-path.
    pub from: ReversePath,
    /// At least one; no two the same.
    pub recipients: Vec<Recipient>,
    /// Argument of EHLO or HELO.
    pub helo: String,
    /// Word of the `with` clause (RFC 3848, RFC 6531 §4.3).
    pub protocol: &'static str,
    /// Version and cipher of TLS; empty without it.
    pub tls: String,
    /// `SMTPUTF8` was asked for.
    pub utf8: bool,
    /// `BODY=`.
    pub body: BodyType,
    /// Octets of the body.
    pub bytes: u64,
}

/// What only the outside knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// May a transaction with this sender begin (rate, space, whose address it is)?
    Transaction(ReversePath),
    /// Where does this recipient go? Its domain is ours, or it is the bare postmaster; or we take mail for everybody.
    Recipient(ForwardPath),
    /// One more unknown recipient: how many is that lately from the client's corner of the network?
    Offence,
}

/// Answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The transaction may begin.
    Begin,
    /// The recipient has a place.
    Lane {
        /// Its lane.
        lane: LaneId,
        /// Name of the mailbox that owns it.
        name: String,
    },
    /// Too many messages from there; not now.
    Busy,
    /// This connection has had its share; another one has its own.
    Spent,
    /// No such mailbox.
    Unknown,
    /// Its owner was revoked.
    Revoked,
    /// It holds as much as it may.
    OverQuota,
    /// A submitter may not send as this address.
    NotOwned {
        /// The address that is the submitter's.
        own: String,
    },
    /// Storage is below its floor.
    NoSpace,
    /// So many unknown recipients lately, this one included.
    Offences {
        /// By the client itself.
        own: u32,
        /// By its neighbours and itself, as the share of one.
        around: u32,
    },
    /// Refuse, for a reason that only the outside knows, in these words.
    Refused(Reply),
    /// The spool cannot say.
    Failed,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Write {
        /// The reply.
        reply: Reply,
        /// What it answers.
        stage: Stage,
        /// Whom it is about, masked; for the log.
        about: Option<String>,
    },
    /// Find out, then call [`Receiver::answer`]. No input is taken before.
    Ask(Question),
    /// A body begins.
    Begin {
        /// How many recipients it has.
        recipients: usize,
    },
    /// Octets of it. Perform before feeding more input: that is the backpressure.
    Body(Vec<u8>),
    /// The body begun is worthless; nothing of it may stay.
    Abandon,
    /// Make the body durable for all recipients or none, then call [`Receiver::persisted`] or
    /// [`Receiver::store_failed`]. No input is taken before.
    Persist(Box<Acceptance>),
    /// Send what is unsent, forget what was read, shake hands, then call [`Receiver::tls_established`] or
    /// [`Receiver::tls_failed`]. No input is taken before.
    StartTls,
    /// Send what is unsent and close.
    Close,
}

/// The session machine.
#[derive(Debug)]
pub struct Receiver {
    settings: Arc<Settings>,
    normalize: bool,
    phase: Phase,
    outputs: VecDeque<Output>,
    tls: Tls,
    hello: Option<Hello>,
    transaction: Option<Transaction>,
    refusing: bool,
    draining: Option<Grace>,
    load: Load,
    /// Start of the session, or its latest message that was taken.
    fruitful_at: Instant,
    tickets: u64,
    messages: u32,
    errors: u32,
    idle_commands: u32,
    unknown_recipients: u32,
}

#[derive(Debug)]
enum Phase {
    /// The banner leaves at that time; whoever speaks before is no mail server.
    Greeting { at: Instant },
    /// A command is awaited since then.
    Command { line: LineReader, since: Instant },
    /// The outside is asked.
    Asking(Asked),
    /// In the tarpit: the answer leaves at that time, and nothing is read before.
    Held { until: Instant, reply: Reply, about: Option<String> },
    /// A body arrives.
    Body { source: Source, clock: BodyClock },
    /// Octets of a chunk that may not be; the reply follows them.
    Skip { chunk: BdatReceiver, reply: Reply, clock: BodyClock },
    /// The outside shakes hands.
    Handshake { since: Instant },
    /// The message is being made durable. `failed`: the spool did not take its last part, and why.
    Storing { ticket: Ticket, failed: Option<Reply> },
    /// Nothing more.
    Closed,
}

#[derive(Debug)]
enum Asked {
    Mail(Mail),
    Rcpt(ForwardPath),
    /// How bad the client is; then the reply is given.
    Offence {
        reply: Reply,
        about: Option<String>,
    },
}

#[derive(Debug)]
enum Source {
    Dots(DataReceiver),
    Chunk { chunk: BdatReceiver, bytes: u64, last: bool },
}

/// How fast a body comes in.
#[derive(Clone, Copy, Debug)]
struct BodyClock {
    since: Instant,
    last: Instant,
    bytes: u64,
}

#[derive(Debug)]
struct Hello {
    name: String,
    extended: bool,
}

#[derive(Debug)]
struct Transaction {
    mail: Mail,
    recipients: Vec<Recipient>,
    /// RCPT was tried, perhaps in vain.
    rcpt_seen: bool,
    /// A body has begun.
    message: Option<Message>,
    /// A chunk went wrong; only RSET (or EHLO, QUIT) helps.
    broken: bool,
    /// Recipients that changed nothing: given twice, too many, or refused for now.
    surplus: u32,
}

#[derive(Debug)]
struct Message {
    content: Content,
    /// When it began, in whatever number of chunks it comes.
    since: Instant,
    /// The spool did not take a part: what to say at the end.
    failed: Option<Reply>,
}

impl Receiver {
    /// A session with a client that has just connected.
    ///
    /// Without any domain of ours there is no service: 554 in place of the banner, then only QUIT (RFC 5321
    /// §3.1). `normalize`: the client is in a network whose stray line ends are repaired instead of refused.
    #[must_use]
    pub fn new(settings: Arc<Settings>, normalize: bool, now: Instant) -> Self {
        let at = now + settings.greet_delay;
        let mut receiver = Self {
            refusing: settings.domains.is_empty() && !settings.any_domain,
            settings,
            normalize,
            phase: Phase::Greeting { at },
            outputs: VecDeque::new(),
            tls: Tls::default(),
            hello: None,
            transaction: None,
            draining: None,
            load: Load::default(),
            fruitful_at: now,
            tickets: 0,
            messages: 0,
            errors: 0,
            idle_commands: 0,
            unknown_recipients: 0,
        };
        receiver.tick(now);
        receiver
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// True while input is of use: nothing is asked, held or stored.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Greeting { .. } | Phase::Command { .. } | Phase::Body { .. } | Phase::Skip { .. } => true,
            Phase::Asking(_)
            | Phase::Held { .. }
            | Phase::Handshake { .. }
            | Phase::Storing { .. }
            | Phase::Closed => false,
        }
    }

    /// True while the client waits in the tarpit. When there is no room for it there: [`Receiver::release`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held { .. })
    }

    /// True after [`Output::Close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// When [`Receiver::tick`] has something to do, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Greeting { at } => Some(*at),
            Phase::Held { until, .. } => Some(*until),
            Phase::Command { .. } if self.draining.is_some() => self.end_at(),
            Phase::Command { since, .. } => {
                let command = *since + self.settings.command_patience(self.load);
                Some(self.end_at().map_or(command, |end| command.min(end)))
            }
            Phase::Handshake { since } => Some(*since + self.settings.handshake_patience(self.load)),
            Phase::Body { clock, .. } | Phase::Skip { clock, .. } => {
                Some(self.settings.body_deadline(clock.since, clock.last, clock.bytes, self.load))
            }
            Phase::Asking(_) | Phase::Storing { .. } | Phase::Closed => None,
        }
    }

    /// The part of the deadline that nothing the client sends puts off. Whoever never stops sending leaves no time to
    /// look at the clock, so [`Receiver::receive`] looks at this one. Silence is not judged there: it may be ours.
    fn end_at(&self) -> Option<Instant> {
        let body = |since, bytes| Some(self.settings.body_end(since, bytes, self.load));
        match &self.phase {
            Phase::Command { .. } => {
                if let Some(grace) = self.draining {
                    return Some(grace.until);
                }
                match self.transaction.as_ref().and_then(|transaction| transaction.message.as_ref()) {
                    // Between its chunks a message has the time that it has after DATA.
                    Some(message) => body(message.since, message.content.bytes()),
                    None => Some(self.fruitful_at + self.settings.fruitless_patience(self.load)),
                }
            }
            Phase::Body { clock, .. } | Phase::Skip { clock, .. } => body(clock.since, clock.bytes),
            Phase::Greeting { .. }
            | Phase::Held { .. }
            | Phase::Asking(_)
            | Phase::Handshake { .. }
            | Phase::Storing { .. }
            | Phase::Closed => None,
        }
    }

    /// Takes octets of the client, as many as can be used now; the rest must be offered again after the
    /// outputs were performed. Returns how many were taken.
    pub fn receive(&mut self, input: &[u8], now: Instant) -> usize {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            if self.end_at().is_some_and(|at| now >= at) {
                self.tick(now);
            }
            match &mut self.phase {
                Phase::Greeting { .. } => {
                    self.end(Reply::talks_too_soon());
                }
                Phase::Command { line, .. } => {
                    if !line.is_inside_line() && foreign::is_binary(rest[0]) {
                        self.end(Reply::not_smtp());
                        continue;
                    }
                    let (used, framed) = line.push(rest);
                    taken += used;
                    if let Some(framed) = framed {
                        self.command(framed, taken < input.len(), now);
                    }
                }
                Phase::Body { .. } | Phase::Skip { .. } => taken += self.body(rest, now),
                Phase::Handshake { .. } => self.close(), // text where TLS must be
                Phase::Asking(_) | Phase::Held { .. } | Phase::Storing { .. } => return taken,
                Phase::Closed => return input.len(),
            }
        }
        taken
    }

    /// The outside answers the last [`Output::Ask`]; any other answer is ignored.
    pub fn answer(&mut self, answer: Answer, now: Instant) {
        if !matches!(self.phase, Phase::Asking(_)) {
            return;
        }
        let next = Phase::Command { line: LineReader::default(), since: now };
        if let Phase::Asking(asked) = std::mem::replace(&mut self.phase, next) {
            match asked {
                Asked::Mail(mail) => self.mail_answered(mail, answer),
                Asked::Rcpt(path) => self.rcpt_answered(path, answer),
                Asked::Offence { reply, about } => self.offence_counted(reply, about, &answer, now),
            }
        }
        if matches!(self.phase, Phase::Command { .. }) {
            self.ready(now); // nothing more to ask or to wait for
        }
    }

    /// Lets the client out of the tarpit with its answer.
    pub fn release(&mut self, now: Instant) {
        let next = Phase::Command { line: LineReader::default(), since: now };
        if self.is_held()
            && let Phase::Held { reply, about, .. } = std::mem::replace(&mut self.phase, next)
        {
            self.outputs.push_back(Output::Write { reply, stage: Stage::Rcpt, about });
            self.ready(now);
        }
    }

    /// The message of this ticket is on stable storage under `id`.
    pub fn persisted(&mut self, ticket: Ticket, id: ItemId, now: Instant) {
        self.fruitful_at = now;
        self.stored(ticket, Reply::accepted(id), now);
    }

    /// The message of this ticket was not stored, and nothing of it is or becomes visible.
    pub fn store_failed(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        let said = if let Phase::Storing { failed, .. } = &mut self.phase { failed.take() } else { None };
        self.stored(ticket, said.unwrap_or_else(|| not_kept(&answer)), now);
    }

    /// The outcome of [`Output::Persist`]: the message is refused for good.
    pub fn refused(&mut self, ticket: Ticket, reply: Reply, now: Instant) {
        self.stored(ticket, reply, now);
    }

    /// The spool refused a part of the body under way: read on to its end, then say so. When it was the last part,
    /// [`Receiver::store_failed`] follows at once and says this.
    pub fn body_failed(&mut self, answer: &Answer) {
        if let Phase::Storing { failed, .. } = &mut self.phase {
            failed.get_or_insert_with(|| not_kept(answer));
        } else if let Some(message) = self.transaction.as_mut().and_then(|t| t.message.as_mut()) {
            message.failed.get_or_insert_with(|| not_kept(answer));
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        if self
            .draining
            .is_some_and(|grace| now >= grace.until && matches!(self.phase, Phase::Command { .. }))
        {
            let reply = Reply::shutting_down(&self.settings.hostname);
            self.end(reply);
        } else if self.is_held() {
            self.release(now);
        } else if let Phase::Greeting { .. } = self.phase {
            let hostname = &self.settings.hostname;
            let banner =
                if self.refusing { Reply::no_service_here(hostname) } else { Reply::banner(hostname) };
            self.say(banner, Stage::Session);
            self.phase = Phase::Command { line: LineReader::default(), since: now };
        } else if let Phase::Handshake { .. } = self.phase {
            self.close();
        } else if matches!(&self.phase, Phase::Command { since, .. }
            if now < *since + self.settings.command_patience(self.load))
        {
            let reply = Reply::session_over(&self.settings.hostname); // talks, and brings nothing
            self.end(reply);
        } else {
            let reply = Reply::timeout(&self.settings.hostname);
            self.end(reply);
        }
    }

    /// Places were taken or given back: patience gets shorter or longer.
    pub fn set_load(&mut self, load: Load) {
        self.load = load;
    }

    /// The process is going down. A message under way is finished and answered, a transaction that is open may go on for
    /// a while ([`Grace`]), and every other session ends between commands.
    pub fn drain(&mut self, grace: Grace) {
        self.draining = Some(grace);
        let goes_on = match self.phase {
            Phase::Greeting { .. } | Phase::Command { .. } => self.may_go_on(grace),
            Phase::Held { .. } | Phase::Closed => false,
            Phase::Asking(_)
            | Phase::Body { .. }
            | Phase::Skip { .. }
            | Phase::Handshake { .. }
            | Phase::Storing { .. } => true,
        };
        if !goes_on && !self.is_closed() {
            let reply = Reply::shutting_down(&self.settings.hostname);
            self.end(reply);
        }
    }

    /// Whether a session that is going down has something to finish.
    fn may_go_on(&self, grace: Grace) -> bool {
        self.transaction.is_some() || (grace.newcomers && self.messages == 0)
    }

    /// The client is gone, or the driver gives up: what was begun is dropped without a word.
    pub fn hang_up(&mut self) {
        self.close();
    }

    fn stored(&mut self, ticket: Ticket, reply: Reply, now: Instant) {
        if matches!(&self.phase, Phase::Storing { ticket: waiting, .. } if *waiting == ticket) {
            self.transaction = None;
            self.say(reply, Stage::Data);
            self.ready(now);
        }
    }

    fn say(&mut self, reply: Reply, stage: Stage) {
        self.outputs.push_back(Output::Write { reply, stage, about: None });
    }

    /// The next command may come, unless the session has ended.
    fn ready(&mut self, now: Instant) {
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Command { line: LineReader::default(), since: now };
        if let Some(grace) = self.draining {
            self.drain(grace);
        }
    }

    /// Says why, and ends the session.
    fn end(&mut self, reply: Reply) {
        self.say(reply, Stage::Session);
        self.close();
    }

    fn close(&mut self) {
        if !self.is_closed() {
            self.drop_transaction();
            self.phase = Phase::Closed;
            self.outputs.push_back(Output::Close);
        }
    }

    /// Forgets the transaction. A message being stored is no part of it any more: it is answered.
    fn drop_transaction(&mut self) {
        if self.transaction.take().is_some_and(|transaction| transaction.message.is_some()) {
            self.outputs.push_back(Output::Abandon);
        }
    }
}

/// Why a message, or a part of it, was not kept.
fn not_kept(answer: &Answer) -> Reply {
    match answer {
        Answer::NoSpace => Reply::storage_full(),
        Answer::OverQuota => Reply::mailbox_full(),
        Answer::Begin
        | Answer::Lane { .. }
        | Answer::Busy
        | Answer::Spent
        | Answer::Unknown
        | Answer::Revoked
        | Answer::NotOwned { .. }
        | Answer::Offences { .. }
        | Answer::Refused(_)
        | Answer::Failed => Reply::try_later(),
    }
}
