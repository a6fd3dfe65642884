//! PURE: why a submitted message does not go out.
//!
//! Promises: every refusal is final for this message, has one sentence that its author can act on, and an
//! enhanced status code of class 5 (RFC 3463). The sentence is one line without control characters, because it
//! travels in a result, a note and a bounce.

use crate::mail::smtp::content::{HEADER_BYTES_MAX, HEADER_FIELDS_MAX, OWN_RECEIVED_MAX, RECEIVED_MAX};

/// A submission that cannot become mail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Over the size limit.
    #[error("the message is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit, octets with CR LF.
        limit_bytes: u64,
    },
    /// CR without LF: two readers would see two different messages.
    #[error("line {line} has a carriage return without a line feed; end lines with CRLF or LF")]
    StrayCr {
        /// Line of the message, from 1.
        line: u64,
    },
    /// A zero octet.
    #[error("line {line} has a NUL octet; encode binary data as base64")]
    Nul {
        /// Line of the message, from 1.
        line: u64,
    },
    /// More than 998 octets in one line (RFC 5322 section 2.1.1).
    #[error("line {line} is longer than 998 octets; encode the part as quoted-printable or base64")]
    LineTooLong {
        /// Line of the message, from 1.
        line: u64,
    },
    /// Nothing before the first empty line, or nothing at all.
    #[error("the message has no header")]
    NoHeader,
    /// A line of the header is neither `Name: value` nor the continuation of one.
    #[error("line {line} is no header field; the header ends with an empty line")]
    NotAField {
        /// Line of the message, from 1.
        line: u64,
    },
    /// Octets in the header that are neither ASCII nor UTF-8 (RFC 6532 section 3.2).
    #[error("line {line} of the header is neither ASCII nor UTF-8")]
    HeaderNotUtf8 {
        /// Line of the message, from 1.
        line: u64,
    },
    /// Header, number of fields, or one field over its limit.
    #[error("the header is too large: at most {HEADER_BYTES_MAX} bytes and {HEADER_FIELDS_MAX} fields")]
    HeaderTooLarge,
    /// Too many `Received` fields, or too many that name us (L5, L6).
    #[error(
        "the message goes round in circles: more than {RECEIVED_MAX} hops, or more than {OWN_RECEIVED_MAX} through here"
    )]
    Loop,
    /// No `From`, several, or one that two readers could read differently.
    #[error("the message needs exactly one From field with plain addresses: {problem}")]
    From {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The same for `Sender`.
    #[error("the Sender field must be one plain address")]
    Sender,
    /// An address that the authenticated key does not own (K12).
    #[error("{place} <{address}> is not an address of this gateway")]
    NotOwned {
        /// `From`, `Sender`, `sender`.
        place: &'static str,
        /// The address as given.
        address: String,
    },
    /// `<>` on a message that is no automatic answer.
    #[error("an empty sender is for automatic answers only (Auto-Submitted, or a delivery report)")]
    NullSender,
    /// The envelope sender is no address.
    #[error("the sender is not an address: {problem}")]
    SenderSyntax {
        /// The rule that is broken.
        problem: crate::mail::address::AddressError,
    },
    /// The recipient is no address.
    #[error("the recipient is not an address: {problem}")]
    RecipientSyntax {
        /// The rule that is broken.
        problem: crate::mail::address::AddressError,
    },
    /// The recipient has no domain to deliver to.
    #[error("the recipient has no domain")]
    NoDomain,
    /// `user@[192.0.2.1]` (O12).
    #[error("mail to an address in brackets is not sent; use a domain name")]
    AddressLiteral,
}

impl Refusal {
    /// Enhanced status code (RFC 3463, RFC 7372), class 5.
    #[must_use]
    pub fn enhanced_code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "5.3.4",
            Self::StrayCr { .. }
            | Self::Nul { .. }
            | Self::LineTooLong { .. }
            | Self::NoHeader
            | Self::NotAField { .. }
            | Self::HeaderNotUtf8 { .. }
            | Self::HeaderTooLarge => "5.6.0",
            Self::Loop => "5.4.6",
            Self::From { .. } | Self::Sender | Self::NotOwned { .. } | Self::NullSender => "5.7.1",
            Self::SenderSyntax { .. } => "5.1.7",
            Self::RecipientSyntax { .. } | Self::NoDomain => "5.1.3",
            Self::AddressLiteral => "5.1.2",
        }
    }
}
