//! What became of a message for one recipient, and what a failure was (rows P and Q of the checklist).
//!
//! Promise: [`Outcome::Temporary`] and [`Outcome::Failed`] are said only when the server cannot have the message for
//! this recipient; [`Outcome::Delivered`] only after a complete 2yz to the end of the message. What lies between is
//! [`Outcome::Indeterminate`], and a message with that outcome must never be sent again.

use super::answer::Answer;

/// How far a conversation got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// No TCP connection.
    Connect,
    /// Waiting for the first reply.
    Greeting,
    /// `EHLO` or `HELO`.
    Ehlo,
    /// `STARTTLS` and its handshake.
    Starttls,
    /// `MAIL`, or `RSET` before it.
    Mail,
    /// `RCPT`.
    Rcpt,
    /// `DATA` before its 354.
    Data,
    /// The message, before what completes it.
    Body,
    /// What completes the message was handed to the system.
    Dot,
}

impl Stage {
    /// The word for records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::Starttls => "starttls",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::Dot => "dot",
        }
    }
}

/// What kind of failure it was; the caller needs it for what to do with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No connection: refused, unreachable, timed out.
    Connect,
    /// A complete reply said so; `code` is set.
    Refused,
    /// The connection was closed or reset.
    Lost,
    /// The peer was silent for too long, or too slow for the whole transaction.
    TimedOut,
    /// What the peer said is not SMTP, or not in place.
    Protocol,
    /// STARTTLS was offered and did not work, and mail may go in the clear: dial again without it (S2).
    StarttlsBroken,
    /// The connection cannot be protected as demanded: not offered, refused, or not proven (S3, S6, S12).
    TlsUnmet,
    /// The server lacks an extension that the message needs, or declares a limit that it exceeds.
    Unsupported,
    /// A connection that was kept open was gone when the next message came: dial again, this was no attempt (P11).
    Stale,
    /// Our own side: an envelope that cannot be written, an unreadable message, arming refused.
    Local,
}

/// What was said or what happened, for one recipient or for the whole connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far it got.
    pub stage: Stage,
    /// Which kind.
    pub kind: FailureKind,
    /// Code of the reply that decided, if one did.
    pub code: Option<u16>,
    /// Its enhanced status code (RFC 3463), or ours when no reply decided.
    pub enhanced: Option<String>,
    /// Its words, or ours; one line, bounded.
    pub text: String,
    /// How the connection was protected, `web_pki TLSv1.3`; empty before that was known.
    pub tls: String,
}

impl Failure {
    /// Decided by a reply.
    #[must_use]
    pub fn answered(stage: Stage, answer: &Answer) -> Self {
        Self {
            stage,
            kind: FailureKind::Refused,
            code: Some(answer.code),
            enhanced: answer.enhanced(),
            text: answer.text(),
            tls: String::new(),
        }
    }

    /// Decided by us.
    #[must_use]
    pub fn own(stage: Stage, kind: FailureKind, enhanced: &str, text: impl Into<String>) -> Self {
        let enhanced = Some(enhanced.to_owned());
        Self { stage, kind, code: None, enhanced, text: text.into(), tls: String::new() }
    }
}

/// A complete 2yz to the end of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// Its code; 250 from anybody who reads RFC 5321 (Q9).
    pub code: u16,
    /// Its enhanced status code.
    pub enhanced: Option<String>,
    /// Its words: often the id under which the server queued the message.
    pub text: String,
    /// How the connection was protected.
    pub tls: String,
}

/// What became of a message for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has it.
    Delivered(Acceptance),
    /// The server does not have it and may be asked again.
    Temporary(Failure),
    /// The server does not have it and never will.
    Failed(Failure),
    /// The server may have it or not. Never send again.
    Indeterminate(Failure),
}

impl Outcome {
    /// A reply with its usual meaning: 5yz fails, everything else that is no success may be tried again.
    #[must_use]
    pub fn refused(stage: Stage, answer: &Answer) -> Self {
        let failure = Failure::answered(stage, answer);
        if answer.class() == 5 { Self::Failed(failure) } else { Self::Temporary(failure) }
    }

    /// The failure, when it is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Delivered(_) => None,
            Self::Temporary(failure) | Self::Failed(failure) | Self::Indeterminate(failure) => Some(failure),
        }
    }

    /// Says how the connection was protected.
    pub fn set_tls(&mut self, text: &str) {
        match self {
            Self::Delivered(acceptance) => text.clone_into(&mut acceptance.tls),
            Self::Temporary(failure) | Self::Failed(failure) | Self::Indeterminate(failure) => {
                text.clone_into(&mut failure.tls);
            }
        }
    }
}
