//! PURE: a message on standard input, as programs give it to `sendmail`, made fit for the outbox.
//!
//! Promises: what comes out is in the canonical form of mail out (CR LF, no `Bcc`), has a `From`, and has passed the
//! checks that the relay makes, so that a mistake is told at once and not by a report hours later.
//!
//! Does not: add `Date` or `Message-ID` (the relay does), or guess a domain for a bare name.

use std::borrow::Cow;

use data_encoding::BASE64;
use mail_parser::{Address, MessageParser};

use crate::gateway::submission::Own;
use crate::mail::address::ReversePath;
use crate::mail::outbound::prepare::{Canonical, Draft, Refusal, check_sender};

/// Bytes of a full name that are used, so that one encoded word (RFC 2047) holds it.
const NAME_BYTES_MAX: usize = 45;
/// Name under which the loop guard would find messages of ours; nothing stamps here.
const OWN_NAME: &str = "localhost.invalid";

/// The input up to the line that ends it: a lone dot, if `dot_ends`; and without the envelope line of a mailbox file.
#[must_use]
pub fn message(input: &[u8], dot_ends: bool) -> &[u8] {
    let mut message = input;
    if message.starts_with(b"From ") {
        let end = memchr::memchr(b'\n', message).map_or(message.len(), |n| n + 1);
        message = &message[end..];
    }
    if !dot_ends {
        return message;
    }
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', message).chain([message.len()]) {
        let line = &message[start..end];
        if matches!(line, b"." | b".\r") {
            return &message[..start];
        }
        start = (end + 1).min(message.len());
    }
    message
}

/// The addresses in `To`, `Cc` and `Bcc`, in this order.
#[must_use]
pub fn recipients(message: &[u8]) -> Vec<String> {
    let Some(parsed) = MessageParser::default().parse(header(message)) else { return Vec::new() };
    let addresses = |field: Option<&Address<'_>>| -> Vec<String> {
        let Some(field) = field else { return Vec::new() };
        field.iter().filter_map(|one| one.address.as_deref().map(str::to_owned)).collect()
    };
    [addresses(parsed.to()), addresses(parsed.cc()), addresses(parsed.bcc())].concat()
}

/// The message in canonical form, with a `From`, checked.
///
/// # Errors
/// [`Refusal`] with advice.
pub fn compose(
    message: &[u8],
    mail_from: &str,
    full_name: &str,
    own: &Own,
    bytes_max: u64,
) -> Result<Vec<u8>, Refusal> {
    let from = from_field(full_name, if mail_from.is_empty() { own.address() } else { mail_from });
    let (bytes, draft) = match canonical(message, bytes_max) {
        Ok((_, draft)) if draft.count("From") == 0 => {
            canonical(&[from.as_bytes(), message].concat(), bytes_max)?
        }
        // Text without a header, as scripts write it.
        Err(Refusal::NoHeader | Refusal::NotAField { line: 1 }) => {
            canonical(&[from.as_bytes(), b"\r\n", message].concat(), bytes_max)?
        }
        other => other?,
    };
    check_sender(&draft, mail_from, &|mailbox| own.owns(&ReversePath::Mailbox(mailbox.clone())))?;
    Ok(bytes)
}

fn canonical(message: &[u8], bytes_max: u64) -> Result<(Vec<u8>, Draft), Refusal> {
    let mut filter = Canonical::new(bytes_max, OWN_NAME);
    let mut out = Vec::with_capacity(message.len());
    filter.feed(message, &mut out)?;
    let draft = filter.finish(&mut out)?;
    Ok((out, draft))
}

fn from_field(full_name: &str, address: &str) -> String {
    let name = full_name.trim();
    let end = name.floor_char_boundary(NAME_BYTES_MAX.min(name.len()));
    let name = &name[..end];
    let plain = |c: char| c.is_ascii_alphanumeric() || " .'-".contains(c);
    let name = if name.is_empty() {
        Cow::Borrowed("")
    } else if name.chars().all(plain) {
        Cow::Owned(format!("\"{name}\" "))
    } else {
        Cow::Owned(format!("=?UTF-8?B?{}?= ", BASE64.encode(name.as_bytes())))
    };
    format!("From: {name}<{address}>\r\n")
}

/// The header, with the empty line behind it if there is one.
fn header(message: &[u8]) -> &[u8] {
    let mut line_is_empty = true;
    for (n, &byte) in message.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty => return &message[..=n],
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "me@mail.example.org";

    fn own() -> Own {
        Own::new(ME, &[])
    }

    fn compose_as(from: &str, name: &str, text: &str) -> Result<String, Refusal> {
        compose(text.as_bytes(), from, name, &own(), 10_000).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_lone_dot_ends_the_input_where_it_does() {
        for (input, kept) in [
            ("a\n.\nb\n", "a\n"),
            ("a\r\n.\r\nb", "a\r\n"),
            ("a\n.", "a\n"),
            ("a\n..\n.b\n", "a\n..\n.b\n"),
            ("", ""),
            (".\n", ""),
        ] {
            assert_eq!(message(input.as_bytes(), true), kept.as_bytes(), "{input:?}");
            assert_eq!(message(input.as_bytes(), false), input.as_bytes());
        }
        assert_eq!(message(b"From me Mon\nTo: a@b\n", false), b"To: a@b\n");
    }

    #[test]
    fn recipients_come_from_the_header_and_not_from_the_text() {
        let text = "To: A <a@b.example>,\n c@d.example\nCC: \"x, y\" <e@f.example>\nbcc: group: g@h.example;\n\nTo: no@no\n";
        assert_eq!(recipients(text.as_bytes()), ["a@b.example", "c@d.example", "e@f.example", "g@h.example"]);
        assert_eq!(recipients(b"hello"), [""; 0]);
    }

    #[test]
    fn what_programs_write_becomes_a_message() {
        let full = compose_as(ME, "", "From: me@mail.example.org\nBcc: secret@x.example\nTo: a@b\n\nhello\n")
            .unwrap();
        assert_eq!(full, "From: me@mail.example.org\r\nTo: a@b\r\n\r\nhello\r\n");
        let added = compose_as(ME, "Me, Myself", "Subject: x\n\nhello").unwrap();
        assert_eq!(
            added,
            "From: =?UTF-8?B?TWUsIE15c2VsZg==?= <me@mail.example.org>\r\nSubject: x\r\n\r\nhello\r\n"
        );
        for text in ["just text\n", "\njust text\n"] {
            let added = compose_as(ME, "Cron Daemon", text).unwrap();
            assert!(added.starts_with("From: \"Cron Daemon\" <me@mail.example.org>\r\n\r\n"), "{added}");
            assert!(added.ends_with("just text\r\n"));
        }
    }

    #[test]
    fn what_the_relay_would_refuse_is_refused_here() {
        let foreign = compose_as(ME, "", "From: you@x.example\n\nx\n").unwrap_err();
        assert!(matches!(foreign, Refusal::NotOwned { place: "From", .. }), "{foreign}");
        assert_eq!(compose_as("", "", "Subject: x\n\nx\n"), Err(Refusal::NullSender));
        assert!(compose_as("", "", "Subject: x\nAuto-Submitted: auto-replied\n\nx\n").is_ok());
        assert!(compose_as(ME, "", &"x".repeat(20_000)).is_err());
    }
}
