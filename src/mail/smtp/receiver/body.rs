//! How a message comes in: DATA (RFC 5321 §4.1.1.4), BDAT (RFC 3030), and what follows its end.

use std::time::Instant;

use super::{Acceptance, BodyClock, Message, Output, Phase, Receiver, Source, Stage, Ticket};
use crate::mail::smtp::bdat::BdatReceiver;
use crate::mail::smtp::content::Content;
use crate::mail::smtp::data::DataReceiver;
use crate::mail::smtp::reply::Reply;

impl BodyClock {
    fn starting(now: Instant) -> Self {
        Self { since: now, last: now, bytes: 0 }
    }

    fn advance(&mut self, bytes: usize, now: Instant) {
        self.last = now;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

impl Receiver {
    /// `DATA`. `more`: octets lie behind it, though they had to wait for our 354.
    pub(super) fn data(&mut self, more: bool, now: Instant) {
        let refusal = match &mut self.transaction {
            None => Some(Reply::bad_sequence("MAIL first")),
            Some(transaction) if transaction.broken || transaction.message.is_some() => {
                // DATA and BDAT do not mix (RFC 3030 §3): what was sent in chunks is lost.
                transaction.broken = true;
                if transaction.message.take().is_some() {
                    self.outputs.push_back(Output::Abandon);
                }
                Some(Reply::bad_sequence("DATA after BDAT, RSET first"))
            }
            Some(transaction) if transaction.recipients.is_empty() && transaction.rcpt_seen => {
                Some(Reply::no_valid_recipients())
            }
            Some(transaction) if transaction.recipients.is_empty() => Some(Reply::bad_sequence("RCPT first")),
            Some(_) => None,
        };
        if let Some(reply) = refusal {
            return self.mistake(reply, Stage::Data);
        }
        if more {
            return self.end(Reply::pipelining_violation());
        }
        self.begin_message(now);
        self.say(Reply::start_data(), Stage::Data);
        let source = Source::Dots(DataReceiver::new(self.normalize));
        self.phase = Phase::Body { source, clock: BodyClock::starting(now) };
    }

    /// `BDAT`: the announced octets are read in any case, or the stream is out of step.
    pub(super) fn bdat(&mut self, bytes: u64, last: bool, now: Instant) {
        let limit = self.settings.message_bytes_max;
        let refusal = match &mut self.transaction {
            None => Some(Reply::bad_sequence("MAIL first")),
            Some(transaction) if transaction.broken => Some(Reply::bad_sequence("RSET first")),
            Some(transaction) if transaction.recipients.is_empty() => Some(Reply::bad_sequence("RCPT first")),
            Some(transaction) => {
                let before = transaction.message.as_ref().map_or(0, |message| message.content.bytes());
                (before.saturating_add(bytes) > limit).then(|| {
                    transaction.broken = true;
                    Reply::too_large()
                })
            }
        };
        let (chunk, fresh) = (BdatReceiver::new(bytes), BodyClock::starting(now));
        self.phase = match refusal {
            Some(reply) => {
                let broken = self.transaction.as_ref().is_some_and(|transaction| transaction.broken);
                if broken && last && reply == Reply::too_large() {
                    self.drop_transaction(); // the whole message was refused: it is over
                } else if broken {
                    self.abandon_message();
                }
                Phase::Skip { chunk, reply, clock: fresh }
            }
            None => {
                if self.transaction.as_ref().is_some_and(|transaction| transaction.message.is_none()) {
                    self.begin_message(now);
                }
                let message = self.transaction.as_ref().and_then(|transaction| transaction.message.as_ref());
                // All chunks of a message share its time, or each octet of its own buys a new start.
                let clock = message.map_or(fresh, |message| BodyClock {
                    since: message.since,
                    last: now,
                    bytes: message.content.bytes(),
                });
                Phase::Body { source: Source::Chunk { chunk, bytes, last }, clock }
            }
        };
        if bytes == 0 {
            self.body(&[], now);
        }
    }

    /// Takes octets that belong to a body. Returns how many.
    pub(super) fn body(&mut self, input: &[u8], now: Instant) -> usize {
        let mut ready = Vec::with_capacity(input.len());
        let (used, end) = match &mut self.phase {
            Phase::Skip { chunk, reply, clock } => {
                let used = chunk.push(input, |_| {});
                clock.advance(used, now);
                if chunk.has_ended() {
                    let reply = reply.clone();
                    self.mistake(reply, Stage::Data);
                    self.ready(now);
                }
                return used;
            }
            Phase::Body { source, clock } => {
                let Some(message) = self.transaction.as_mut().and_then(|t| t.message.as_mut()) else {
                    self.close(); // cannot be: a body phase has a message
                    return input.len();
                };
                let sink = |bytes: &[u8]| message.content.push(bytes, &mut ready);
                let (used, end) = match source {
                    Source::Dots(data) => {
                        let used = data.push(input, sink);
                        (used, data.has_ended().then_some((0, true)))
                    }
                    Source::Chunk { chunk, bytes, last } => {
                        let used = chunk.push(input, sink);
                        (used, chunk.has_ended().then_some((*bytes, *last)))
                    }
                };
                clock.advance(used, now);
                if message.failed.is_some() {
                    ready.clear();
                }
                (used, end)
            }
            Phase::Greeting { .. }
            | Phase::Command { .. }
            | Phase::Asking(_)
            | Phase::Held { .. }
            | Phase::Handshake { .. }
            | Phase::Storing { .. }
            | Phase::Closed => return 0,
        };
        if !ready.is_empty() {
            self.outputs.push_back(Output::Body(ready));
        }
        match end {
            Some((_, true)) => self.end_message(now),
            Some((bytes, false)) => self.end_chunk(bytes, now),
            None => {}
        }
        used
    }

    fn begin_message(&mut self, now: Instant) {
        let settings = &self.settings;
        let content = Content::new(settings.message_bytes_max, self.normalize, &settings.hostname);
        if let Some(transaction) = &mut self.transaction {
            transaction.message = Some(Message { content, since: now, failed: None });
            let recipients = transaction.recipients.len();
            self.outputs.push_back(Output::Begin { recipients });
        }
    }

    fn abandon_message(&mut self) {
        if self.transaction.as_mut().and_then(|transaction| transaction.message.take()).is_some() {
            self.outputs.push_back(Output::Abandon);
        }
    }

    /// A chunk that was not the last is in.
    fn end_chunk(&mut self, bytes: u64, now: Instant) {
        let message = self.transaction.as_mut().and_then(|transaction| transaction.message.as_mut());
        if let Some(reply) = message.and_then(|message| message.failed.take()) {
            self.abandon_message();
            if let Some(transaction) = &mut self.transaction {
                transaction.broken = true;
            }
            self.say(reply, Stage::Data);
        } else if bytes == 0 {
            self.idle_at(Reply::chunk_ok(bytes), Stage::Data); // brings nobody further
        } else {
            self.say(Reply::chunk_ok(bytes), Stage::Data);
        }
        self.ready(now);
    }

    /// The message is complete: refuse it, or have it stored.
    fn end_message(&mut self, now: Instant) {
        let Some(transaction) = self.transaction.take() else { return self.ready(now) };
        let Some(mut message) = transaction.message else { return self.ready(now) };
        let mut rest = Vec::new();
        let verdict = message.content.finish(&mut rest);
        let refusal = match verdict {
            Err(flaw) => Some(flaw.reply()),
            Ok(()) => message.failed,
        };
        if let Some(reply) = refusal {
            self.outputs.push_back(Output::Abandon);
            self.say(reply, Stage::Data);
            return self.ready(now);
        }
        if !rest.is_empty() {
            self.outputs.push_back(Output::Body(rest));
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let (helo, extended) =
            self.hello.as_ref().map_or((String::new(), false), |hello| (hello.name.clone(), hello.extended));
        let protocol = match (extended, transaction.mail.utf8, self.tls.is_on()) {
            (true, true, true) => "UTF8SMTPS",
            (true, true, false) => "UTF8SMTP",
            (true, false, true) => "ESMTPS",
            (true, false, false) => "ESMTP",
            (false, _, _) => "SMTP", // there is no word for HELO inside TLS; the comment tells of it
        };
        self.phase = Phase::Storing { ticket, failed: None };
        self.outputs.push_back(Output::Persist(Box::new(Acceptance {
            ticket,
            from: transaction.mail.from,
            recipients: transaction.recipients,
            helo,
            protocol,
            tls: self.tls.text(),
            utf8: transaction.mail.utf8,
            body: transaction.mail.body,
            bytes: message.content.bytes(),
        })));
    }
}
