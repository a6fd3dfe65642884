//! What each command does to the session (RFC 5321 §4.1.1, §4.1.4).

use std::time::Instant;

use super::settings::OFFENCES_FACTOR;
use super::{Answer, Asked, Hello, Output, Phase, Question, Receiver, Recipient, Stage, Transaction};
use crate::mail::address::ForwardPath;
use crate::mail::smtp::command::{self, Command, Context, Framed, Mail};
use crate::mail::smtp::reply::Reply;

/// Recipients without effect that are answered in one transaction. Clients that do not know our cap are told of it a
/// thousand times; who goes on then only keeps us busy.
const SURPLUS_MAX: u32 = 1000;

impl Receiver {
    /// Answers one framed line. `more`: octets of the client lie behind it already.
    pub(super) fn command(&mut self, framed: Framed, more: bool, now: Instant) {
        self.phase = Phase::Command { line: Default::default(), since: now };
        let line = match framed {
            Framed::Line(line) => line,
            Framed::TooLong => return self.mistake(Reply::line_too_long(), Stage::Command),
            Framed::Stray => return self.mistake(Reply::stray_octet_in_command(), Stage::Command),
            Framed::Flood => return self.end(Reply::line_too_long()),
        };
        // Before EHLO parameters are read too: "bad sequence" then says more than "unknown parameter".
        let context = Context {
            extended: self.hello.as_ref().is_none_or(|hello| hello.extended),
            utf8: self.transaction.as_ref().is_some_and(|transaction| transaction.mail.utf8),
        };
        let command = match command::parse(&line, context) {
            Ok(command) => command,
            Err(error) if error.is_fatal() => return self.end(error.reply()),
            Err(error) => return self.mistake(error.reply(), Stage::Command),
        };
        if self.refusing && command != Command::Quit {
            return self.mistake(Reply::bad_sequence("No service here, only QUIT"), Stage::Session);
        }
        match command {
            Command::Helo(name) => self.hello(name, false, more),
            Command::Ehlo(name) => self.hello(name, true, more),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(path) => self.rcpt(path),
            Command::Data => self.data(more, now),
            Command::Bdat { bytes, last } => self.bdat(bytes, last, now),
            Command::Rset => {
                self.drop_transaction();
                self.idle(Reply::ok());
            }
            Command::Noop => self.idle(Reply::ok()),
            Command::Vrfy => self.idle(Reply::cannot_verify()),
            Command::Help => self.idle(Reply::help()),
            Command::Quit => self.end(Reply::bye()),
            Command::StartTls => self.start_tls(more, now),
            Command::Auth => self.mistake(Reply::bad_sequence("AUTH is not offered"), Stage::Command),
        }
    }

    /// Answers a mistake of the client; one too many ends the session.
    pub(super) fn mistake(&mut self, reply: Reply, stage: Stage) {
        self.errors += 1;
        if self.errors > self.settings.errors_max {
            self.end(Reply::session_over(&self.settings.hostname));
        } else {
            self.say(reply, stage);
        }
    }

    /// Answers a command that brings nobody further; one too many ends the session.
    fn idle(&mut self, reply: Reply) {
        self.idle_at(reply, Stage::Command);
    }

    pub(super) fn idle_at(&mut self, reply: Reply, stage: Stage) {
        self.idle_commands += 1;
        if self.idle_commands > self.settings.idle_commands_max {
            self.end(Reply::session_over(&self.settings.hostname));
        } else {
            self.say(reply, stage);
        }
    }

    fn hello(&mut self, name: String, extended: bool, more: bool) {
        if more {
            // EHLO must be the last of a group: what follows was sent without knowing what we offer.
            return self.end(Reply::pipelining_violation());
        }
        self.drop_transaction();
        self.hello = Some(Hello { name, extended });
        let hostname = &self.settings.hostname;
        let reply = if extended { Reply::ehlo(hostname, self.keywords()) } else { Reply::helo(hostname) };
        self.idle(reply);
    }

    /// EHLO keywords (RFC 5321 §4.1.1.1).
    fn keywords(&self) -> Vec<String> {
        let settings = &self.settings;
        let mut keywords = vec![
            "PIPELINING".to_owned(),
            format!("SIZE {}", settings.message_bytes_max),
            "8BITMIME".to_owned(),
            "SMTPUTF8".to_owned(),
            "CHUNKING".to_owned(),
            "ENHANCEDSTATUSCODES".to_owned(),
            format!("LIMITS RCPTMAX={} MAILMAX={}", settings.recipients_max, settings.messages_max),
        ];
        if self.tls.is_offered() {
            keywords.push("STARTTLS".to_owned());
        }
        keywords
    }

    fn mail(&mut self, mail: Mail) {
        if self.hello.is_none() {
            self.mistake(Reply::bad_sequence("EHLO first"), Stage::Command);
        } else if let Some(reply) = self.lacks_tls() {
            self.mistake(reply, Stage::Mail);
        } else if self.transaction.is_some() {
            self.mistake(Reply::bad_sequence("MAIL was given already"), Stage::Command);
        } else if self.messages >= self.settings.messages_max {
            self.end(Reply::session_over(&self.settings.hostname));
        } else if mail.size.is_some_and(|size| size > self.settings.message_bytes_max) {
            self.idle_at(Reply::too_large(), Stage::Mail);
        } else {
            let sender = mail.from.clone();
            self.phase = Phase::Asking(Asked::Mail(mail));
            self.outputs.push_back(Output::Ask(Question::Transaction(sender)));
        }
    }

    pub(super) fn mail_answered(&mut self, mail: Mail, answer: Answer) {
        let reply = match answer {
            Answer::Begin => {
                self.messages += 1;
                self.idle_commands = 0;
                self.transaction = Some(Transaction {
                    mail,
                    recipients: Vec::new(),
                    rcpt_seen: false,
                    message: None,
                    broken: false,
                    surplus: 0,
                });
                return self.say(Reply::sender_ok(), Stage::Mail);
            }
            Answer::Spent => return self.end(Reply::session_over(&self.settings.hostname)),
            Answer::Busy => Reply::too_many_messages(),
            Answer::NoSpace => Reply::storage_full(),
            Answer::NotOwned { own } => Reply::sender_not_owned(&own),
            Answer::Refused(reply) => reply,
            Answer::Lane { .. }
            | Answer::Unknown
            | Answer::Revoked
            | Answer::OverQuota
            | Answer::Offences { .. }
            | Answer::Failed => Reply::try_later(),
        };
        self.idle_at(reply, Stage::Mail);
    }

    fn rcpt(&mut self, path: ForwardPath) {
        let Some(transaction) = &mut self.transaction else {
            return self.mistake(Reply::bad_sequence("MAIL first"), Stage::Command);
        };
        if transaction.broken || transaction.message.is_some() {
            return self.mistake(Reply::bad_sequence("Too late for RCPT, RSET first"), Stage::Command);
        }
        transaction.rcpt_seen = true;
        if transaction.recipients.iter().any(|known| known.path.key() == path.key()) {
            return self.surplus(Reply::recipient_ok(), None);
        }
        if transaction.recipients.len() >= self.settings.recipients_max {
            return self.surplus(Reply::too_many_recipients(), None);
        }
        if let ForwardPath::Mailbox(mailbox) = &path
            && !self.settings.any_domain
        {
            let ours = self.settings.domains.iter().any(|domain| domain == mailbox.domain());
            if mailbox.is_literal() {
                return self.recipient_refused(Reply::foreign_literal(), &path);
            } else if !ours {
                return self.recipient_refused(Reply::relay_denied(), &path);
            }
        }
        self.phase = Phase::Asking(Asked::Rcpt(path.clone()));
        self.outputs.push_back(Output::Ask(Question::Recipient(path)));
    }

    pub(super) fn rcpt_answered(&mut self, path: ForwardPath, answer: Answer) {
        match answer {
            Answer::Lane { lane, name } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.recipients.push(Recipient { path, lane, lane_name: name });
                }
                self.say(Reply::recipient_ok(), Stage::Rcpt);
            }
            Answer::Unknown => self.recipient_refused(Reply::unknown_mailbox(), &path),
            Answer::Revoked => self.recipient_refused(Reply::mailbox_disabled(), &path),
            Answer::OverQuota => self.surplus(Reply::mailbox_full(), Some(&path)),
            Answer::NoSpace => self.surplus(Reply::storage_full(), Some(&path)),
            Answer::Busy => self.surplus(Reply::too_many_messages(), Some(&path)),
            Answer::Refused(reply) => self.surplus(reply, Some(&path)),
            Answer::Begin
            | Answer::NotOwned { .. }
            | Answer::Offences { .. }
            | Answer::Spent
            | Answer::Failed => self.surplus(Reply::try_later(), Some(&path)),
        }
    }

    /// A recipient that changes nothing; very many of them end the session.
    fn surplus(&mut self, reply: Reply, path: Option<&ForwardPath>) {
        let count = self.transaction.as_mut().map_or(0, |transaction| {
            transaction.surplus += 1;
            transaction.surplus
        });
        if count > SURPLUS_MAX {
            self.end(Reply::session_over(&self.settings.hostname));
        } else {
            let about = path.map(ToString::to_string);
            self.outputs.push_back(Output::Write { reply, stage: Stage::Rcpt, about });
        }
    }

    /// A recipient that will never be taken here; many of them are a harvest of addresses.
    fn recipient_refused(&mut self, reply: Reply, path: &ForwardPath) {
        self.unknown_recipients += 1;
        if self.unknown_recipients > self.settings.unknown_recipients_max {
            self.end(Reply::too_many_unknown(&self.settings.hostname));
        } else if self.settings.unknown_recipient_delay.is_zero() {
            self.refused_about(reply, path);
        } else {
            self.phase = Phase::Asking(Asked::Offence { reply, about: Some(path.to_string()) });
            self.outputs.push_back(Output::Ask(Question::Offence));
        }
    }

    /// Gives the answer about an unknown recipient, late to those who asked for many (K9).
    pub(super) fn offence_counted(
        &mut self,
        reply: Reply,
        about: Option<String>,
        answer: &Answer,
        now: Instant,
    ) {
        let (own, around) =
            if let Answer::Offences { own, around } = answer { (*own, *around) } else { (0, 0) };
        // This ends in a denial; what the neighbours did only makes the client wait.
        if own > self.settings.unknown_recipients_max.saturating_mul(OFFENCES_FACTOR) {
            return self.end(Reply::too_many_unknown(&self.settings.hostname));
        }
        let delay = self.settings.tarpit(own.max(around).max(self.unknown_recipients));
        if delay.is_zero() {
            self.outputs.push_back(Output::Write { reply, stage: Stage::Rcpt, about });
        } else {
            self.phase = Phase::Held { until: now + delay, reply, about };
        }
    }

    fn refused_about(&mut self, reply: Reply, path: &ForwardPath) {
        let about = Some(path.to_string());
        self.outputs.push_back(Output::Write { reply, stage: Stage::Rcpt, about });
    }
}
