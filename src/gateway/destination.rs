//! Where a message goes at home, and what the place said.
//!
//! A destination gets a whole message in a file and its envelope, and answers with one [`Outcome`]. What it
//! gets is one field of ours, `Waystation-Attestation` (`checked.rs`), then byte for byte what the relay sent (trace fields,
//! then the message as the sender gave it), without forged copies of that field: nothing else is added, no
//! `Return-Path`, no `Delivered-To`.
//!
//! Policy on failure, the same for all four kinds:
//! * what concerns this message alone and may pass is [`Outcome::Later`]: it goes back to the relay, which offers
//!   it again after the delay and parks it after five refusals, so it never blocks the messages behind it;
//! * what concerns the destination (connection refused, disk full, command missing) is [`Outcome::Unavailable`]: the
//!   message stays in our hands and is tried again until the destination is back. Sending it back would spend
//!   its five refusals on an outage, and park a whole lane;
//! * a final "no" is [`Outcome::Refused`]: the relay keeps the message on hold with the reason, for an operator.
//!
//! How often can one message arrive? The memory of delivered ids (`memory.rs`) is synced before the ack leaves,
//! so a message is delivered again only when the process or machine dies between the destination's yes and that
//! sync. In this window a Maildir still recognises the message, because the file name carries the item id (unless
//! a mail program has moved it out of `new/` and `cur/` in between). LMTP, command and webhook are at-least-once
//! there; command and webhook are given the item id, by which they can recognise a repeat.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gateway::command::Command;
use crate::gateway::lmtp::Lmtp;
use crate::gateway::maildir::Maildir;
use crate::gateway::webhook::Webhook;

/// Longest reason kept from a destination, bytes.
pub const REASON_BYTES_MAX: usize = 400;
/// Delay of the first repeat of an unavailable destination; doubles up to [`UNAVAILABLE_MAX`].
pub const UNAVAILABLE_BASE: Duration = Duration::from_secs(1);
/// Longest delay between two tries of an unavailable destination.
pub const UNAVAILABLE_MAX: Duration = Duration::from_secs(60);

/// One message on its way into a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The relay's name for the item: the same whenever it is offered again. For a relay of tunnel 1, which has
    /// no such names, a random one.
    pub item_id: String,
    /// Position in the lane; 0 from a relay of tunnel 1.
    pub seq: u64,
    /// Envelope sender; empty for the null reverse-path.
    pub mail_from: String,
    /// The one envelope recipient.
    pub rcpt_to: String,
    /// Bytes in the file.
    pub size_bytes: u64,
    /// File with the message. The destination may rename it away; it may not change it.
    pub path: PathBuf,
}

#[cfg(test)]
impl Letter {
    /// For tests: a letter of these bytes, written to `path`.
    pub(crate) fn sample(path: PathBuf, bytes: &[u8]) -> Self {
        std::fs::write(&path, bytes).unwrap();
        Self {
            item_id: "abc".to_owned(),
            seq: 3,
            mail_from: String::new(),
            rcpt_to: "home@example.org".to_owned(),
            size_bytes: bytes.len() as u64,
            path,
        }
    }
}

/// What a destination said to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has it; for a Maildir: on stable storage.
    Stored,
    /// Not this message, not now.
    Later {
        /// One line for logs and the relay's timeline.
        reason: String,
        /// What the destination itself asked for, if it did.
        retry_after: Option<Duration>,
    },
    /// The destination cannot take anything now; this message was not taken.
    Unavailable {
        /// One line for logs and status.
        reason: String,
        /// What the destination itself asked for, if it did.
        retry_after: Option<Duration>,
    },
    /// Never.
    Refused {
        /// One line for logs and the relay's timeline.
        reason: String,
    },
}

impl Outcome {
    /// [`Outcome::Later`] without a wish for the delay.
    #[must_use]
    pub fn later(reason: impl AsRef<str>) -> Self {
        Self::Later { reason: one_line(reason.as_ref()), retry_after: None }
    }

    /// [`Outcome::Unavailable`] without a wish for the delay.
    #[must_use]
    pub fn unavailable(reason: impl AsRef<str>) -> Self {
        Self::Unavailable { reason: one_line(reason.as_ref()), retry_after: None }
    }

    /// [`Outcome::Refused`].
    #[must_use]
    pub fn refused(reason: impl AsRef<str>) -> Self {
        Self::Refused { reason: one_line(reason.as_ref()) }
    }
}

/// One of the places a gateway can deliver to.
#[derive(Debug)]
pub enum Destination {
    /// A Maildir on a local file system.
    Maildir(Maildir),
    /// An LMTP server (RFC 2033) on a unix socket or TCP.
    Lmtp(Lmtp),
    /// A command that reads the message on stdin.
    Command(Command),
    /// An HTTP server that gets the message by POST.
    Webhook(Webhook),
}

impl Destination {
    /// Gives the message to the destination and waits for its answer.
    pub async fn deliver(&self, letter: &Letter) -> Outcome {
        match self {
            Self::Maildir(maildir) => maildir.deliver(letter).await,
            Self::Lmtp(lmtp) => lmtp.deliver(letter).await,
            Self::Command(command) => command.deliver(letter).await,
            Self::Webhook(webhook) => webhook.deliver(letter).await,
        }
    }

    /// How many messages may be delivered at once. More than one only where the order of arrival means nothing.
    #[must_use]
    pub fn parallel(&self) -> usize {
        match self {
            // Syncs of several files share journal commits; order is in the file names.
            Self::Maildir(_) => 16,
            Self::Lmtp(_) | Self::Command(_) | Self::Webhook(_) => 1,
        }
    }

    /// Directory in which messages should be received, if the destination wants them on its own file system.
    #[must_use]
    pub fn staging(&self) -> Option<&Path> {
        match self {
            Self::Maildir(maildir) => Some(maildir.tmp()),
            Self::Lmtp(_) | Self::Command(_) | Self::Webhook(_) => None,
        }
    }

    /// Ids of items that the destination can prove to have, newest last; empty where it cannot be asked.
    pub async fn stored_ids(&self) -> Vec<String> {
        match self {
            Self::Maildir(maildir) => maildir.stored_ids().await,
            Self::Lmtp(_) | Self::Command(_) | Self::Webhook(_) => Vec::new(),
        }
    }

    /// The word for status and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Maildir(_) => "maildir",
            Self::Lmtp(_) => "lmtp",
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// How long to wait before try number `tries + 1` of an unavailable destination.
#[must_use]
pub fn unavailable_delay(tries: u32, wish: Option<Duration>) -> Duration {
    let own = UNAVAILABLE_BASE.saturating_mul(1 << tries.min(16)).min(UNAVAILABLE_MAX);
    // A wish is honoured upwards only, within an hour: a destination cannot stop us for ever by accident.
    wish.map_or(own, |wish| wish.clamp(own, Duration::from_secs(3600)))
}

/// Delay asked of the relay before it offers a message again that was answered [`Outcome::Later`] `tries` times before.
///
/// The relay parks an item at its fifth refusal, so the five tries are spread over hours.
#[must_use]
pub fn later_delay(tries: u32, wish: Option<Duration>) -> Duration {
    let own = Duration::from_secs(match tries {
        0 => 30,
        1 => 120,
        2 => 600,
        3 => 3600,
        _ => 4 * 3600,
    });
    wish.map_or(own, |wish| wish.clamp(Duration::from_secs(1), Duration::from_secs(86_400)))
}

/// Text of a destination as one printable line of at most [`REASON_BYTES_MAX`] bytes.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty()) {
        let space = usize::from(!line.is_empty());
        let room = REASON_BYTES_MAX.saturating_sub(line.len() + space);
        if word.len() > room {
            if line.is_empty() {
                line.extend(word.chars().take(REASON_BYTES_MAX / 4));
            }
            break;
        }
        if space == 1 {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_become_one_bounded_line() {
        assert_eq!(one_line(" a\r\nb\0c  d\n"), "a b c d");
        assert!(one_line(&"word ".repeat(1000)).len() <= REASON_BYTES_MAX);
        assert!(one_line(&"ä".repeat(1000)).len() <= REASON_BYTES_MAX);
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn an_unavailable_destination_is_asked_less_and_less_often() {
        let delays: Vec<u64> = (0..8).map(|tries| unavailable_delay(tries, None).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(unavailable_delay(0, Some(Duration::from_secs(90))).as_secs(), 90);
        assert_eq!(unavailable_delay(3, Some(Duration::ZERO)).as_secs(), 8);
        assert_eq!(unavailable_delay(0, Some(Duration::MAX)).as_secs(), 3600);
        assert_eq!(unavailable_delay(u32::MAX, None).as_secs(), 60);
    }

    #[test]
    fn five_refusals_spread_over_hours() {
        let total: u64 = (0..4).map(|tries| later_delay(tries, None).as_secs()).sum();
        assert!(total > 3600);
        assert_eq!(later_delay(0, Some(Duration::from_secs(7))).as_secs(), 7);
    }
}
