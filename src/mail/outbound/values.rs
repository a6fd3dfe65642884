//! PURE: what the parts of mail out say to each other: endpoints, demands on TLS, outcomes, and the notes that
//! the spool keeps with every step of a submission.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Longest text of a remote server that is kept, characters; control characters are replaced (P20).
pub const REMOTE_TEXT_CHARS_MAX: usize = 300;
/// Most tries of hosts that one note keeps: the last ones.
pub const ATTEMPTS_PER_NOTE_MAX: usize = 8;

/// What a connection must look like before mail goes over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsDemand {
    /// STARTTLS when it is offered, with any certificate (RFC 7435, S1). `cleartext`: whether going on without TLS
    /// is allowed when it is not offered or does not work (S2, S12).
    Opportunistic {
        /// Mail may go in the clear.
        cleartext: bool,
    },
    /// TLS with a certificate that a public authority vouches for, for one of these names (MTA-STS enforce, `require`).
    WebPki {
        /// Names the certificate may carry: the MX host, usually.
        names: Vec<String>,
    },
    /// TLS with a certificate that one of these records matches (RFC 7672).
    Dane {
        /// Usable TLSA records: usage 2 or 3.
        records: Vec<TlsaRecord>,
        /// Reference identifiers for usage 2: the MX host and the name it was found under.
        names: Vec<String>,
    },
    /// TLS with any certificate, never in the clear (RFC 7672 section 2.2: TLSA records that are all unusable).
    Encrypted,
    /// No STARTTLS although it may be offered: it broke at this host before, and nothing asks for it (S2).
    Cleartext,
}

/// One TLSA record (RFC 6698 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsaRecord {
    /// 2 (DANE-TA) or 3 (DANE-EE).
    pub usage: u8,
    /// 0: the certificate, 1: its public key.
    pub selector: u8,
    /// 0: as it is, 1: SHA-256, 2: SHA-512.
    pub matching: u8,
    /// What must match.
    pub data: Vec<u8>,
}

/// One place to try: a host's name, one of its addresses, and what TLS must be like there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the host, A-label form: SNI and the subject of logs.
    pub host: String,
    /// Where to connect.
    pub address: SocketAddr,
    /// What TLS must be like.
    pub tls: TlsDemand,
}

/// How well a connection was protected; grows with the protection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsLevel {
    /// In the clear.
    #[default]
    None,
    /// Encrypted, the certificate proves nothing.
    Unverified,
    /// Encrypted, and a public authority vouches for the MX host's name.
    WebPki,
    /// Encrypted, and DNSSEC vouches for the certificate.
    Dane,
}

/// How one try of one host went, in the names that the CLI's JSON uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Host name; the recipient domain when it did not get as far as a host.
    pub host: String,
    /// Address and port; empty when it did not get as far.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// `none`, `unverified TLSv1.3`, `web_pki TLSv1.3`, `dane TLSv1.2`; empty before EHLO.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tls: String,
    /// Where it ended: `dns`, `connect`, `greeting`, `ehlo`, `starttls`, `mail`, `rcpt`, `data`, `body`, `dot`.
    pub stage: String,
    /// Code of the reply that decided, if a reply did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Its enhanced status code (RFC 3463), or ours when no reply decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub enhanced_code: String,
    /// Its text, or ours; one line, at most [`REMOTE_TEXT_CHARS_MAX`] characters.
    pub text: String,
    /// When it began, milliseconds since 1970 UTC.
    pub started_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// What the spool keeps with one step of a submission, as JSON in the transition's reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// One line for a person; with a result it is what the gateway is told.
    pub text: String,
    /// RFC 3463 status that goes with it, `5.1.1`; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub enhanced_code: String,
    /// The hosts that were tried for it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
}

impl Note {
    /// A note of one line.
    #[must_use]
    pub fn line(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// As the spool keeps it; older tries go when there are too many.
    #[must_use]
    pub fn to_reason(&self) -> String {
        let skip = self.attempts.len().saturating_sub(ATTEMPTS_PER_NOTE_MAX);
        let kept = Self { attempts: self.attempts[skip..].to_vec(), ..self.clone() };
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// From a transition's reason; what is no note (an operator's word) becomes its text.
    #[must_use]
    pub fn from_reason(reason: &str) -> Self {
        serde_json::from_str(reason).unwrap_or_else(|_| Self::line(reason))
    }
}

/// A remote server's words, fit for a log, a record and a header: one line, no controls, not too long (P20).
#[must_use]
pub fn remote_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean = |c: char| if c.is_control() || c == '\u{2028}' || c == '\u{2029}' { ' ' } else { c };
    text.trim().chars().map(clean).take(REMOTE_TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_the_spool_and_plain_words_become_text() {
        let attempt = Attempt { host: "mx.example".into(), stage: "rcpt".into(), ..Attempt::default() };
        let note = Note { attempts: vec![attempt; 10], ..Note::line("550 no such user") };
        let again = Note::from_reason(&note.to_reason());
        assert_eq!(again.text, note.text);
        assert_eq!(again.attempts.len(), ATTEMPTS_PER_NOTE_MAX);
        assert_eq!(Note::from_reason("held by hand"), Note::line("held by hand"));
    }

    #[test]
    fn remote_words_cannot_break_a_line() {
        assert_eq!(remote_text(b" a\r\nb\x1b[31m\xff "), "a  b [31m\u{fffd}");
        assert_eq!(remote_text(&[b'x'; 1000]).len(), REMOTE_TEXT_CHARS_MAX);
    }
}
