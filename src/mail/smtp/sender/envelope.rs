//! What is asked of a server for one message, as command lines that cannot be anything else.
//!
//! Promises: an address that could end its command line, or its brackets, is refused before anything is sent; what is
//! sent is spelled as it was given, quoting included (RFC 5321 §4.1.2). A parameter is used only when it was offered.
//!
//! Policy where a server lacks an extension:
//! * no `SMTPUTF8`: a domain outside ASCII is written in A-label form; a local part or a header that needs it fails with
//!   5.6.7 (I8), as no relay may rewrite them.
//! * no `8BITMIME`: 8-bit content fails with 5.6.3 (I10). Raw 8-bit must not be sent to such a server, and converting
//!   would break the signatures that the message already carries.
//! * a declared `SIZE` below the message: fails with 5.3.4 (P15).

use super::capabilities::Capabilities;
use super::outcome::{Failure, FailureKind, Outcome, Stage};
use crate::mail::address::Mailbox;

/// A message as the server must be told about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Reverse-path without brackets; empty for the null path.
    pub mail_from: String,
    /// Forward-paths without brackets.
    pub rcpt_to: Vec<String>,
    /// Octets of the message without dot-stuffing.
    pub size_bytes: u64,
    /// It has octets above 127.
    pub eight_bit: bool,
    /// Its header needs `SMTPUTF8` (RFC 6532); whether the addresses do is found here.
    pub smtputf8: bool,
}

/// Command lines for one message, CRLF included.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// `MAIL FROM`.
    pub(super) mail: String,
    /// `RCPT TO`, or why this recipient is not asked for; in the order of the envelope.
    pub(super) rcpt: Vec<Result<String, Outcome>>,
}

/// Writes the commands for `envelope`, or says why the message cannot go to this server for anybody.
pub(super) fn script(envelope: &Envelope, offered: &Capabilities) -> Result<Script, Outcome> {
    let from = match envelope.mail_from.as_str() {
        "" => None,
        text => {
            let from = path(text);
            Some(from.ok_or_else(|| local("5.1.7", "the sender's address cannot be written in SMTP"))?)
        }
    };
    let recipients: Vec<_> = envelope.rcpt_to.iter().map(|text| path(text)).collect();
    if offered.size_bytes_max.is_some_and(|most| envelope.size_bytes > most) {
        let most = offered.size_bytes_max.unwrap_or_default();
        let text = format!("the message has {} octets, the server takes {most}", envelope.size_bytes);
        return Err(unsupported("5.3.4", text));
    }
    let ours = from.iter().any(needs_utf8) || envelope.smtputf8;
    if ours && !offered.smtputf8 {
        return Err(unsupported("5.6.7", "the message needs SMTPUTF8, which the server does not offer"));
    }
    if envelope.eight_bit && !offered.eight_bit {
        return Err(unsupported(
            "5.6.3",
            "the message has 8-bit content, and the server does not offer 8BITMIME",
        ));
    }
    let utf8 = offered.smtputf8 && (ours || recipients.iter().flatten().any(needs_utf8));
    let mut mail = format!("MAIL FROM:<{}>", from.map(|from| spelled(&from, utf8)).unwrap_or_default());
    if offered.size {
        mail.push_str(&format!(" SIZE={}", envelope.size_bytes));
    }
    if envelope.eight_bit {
        mail.push_str(" BODY=8BITMIME");
    }
    if utf8 {
        mail.push_str(" SMTPUTF8");
    }
    mail.push_str("\r\n");
    let most = offered.recipients_max.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut asked = 0;
    let mut ask = |recipient: Option<Mailbox>| {
        let Some(recipient) = recipient else {
            return Err(local("5.1.3", "the recipient's address cannot be written in SMTP"));
        };
        if needs_utf8(&recipient) && !utf8 {
            return Err(unsupported("5.6.7", "the address needs SMTPUTF8, which the server does not offer"));
        }
        if asked == most {
            let text = format!("the server takes {most} recipients per message");
            return Err(Outcome::Temporary(Failure::own(
                Stage::Rcpt,
                FailureKind::Unsupported,
                "4.5.3",
                text,
            )));
        }
        asked += 1;
        Ok(format!("RCPT TO:<{}>\r\n", spelled(&recipient, utf8)))
    };
    let rcpt = recipients.into_iter().map(&mut ask).collect();
    Ok(Script { mail, rcpt })
}

/// An address that stays inside its brackets.
fn path(text: &str) -> Option<Mailbox> {
    let hostile = |c: char| c.is_control() || matches!(c, '<' | '>' | '\u{2028}' | '\u{2029}');
    if text.chars().any(hostile) { None } else { Mailbox::parse(text, true).ok() }
}

fn needs_utf8(mailbox: &Mailbox) -> bool {
    !mailbox.local().is_ascii()
}

fn spelled(mailbox: &Mailbox, utf8: bool) -> String {
    let verbatim = mailbox.verbatim();
    match verbatim.rsplit_once('@') {
        Some((local, domain)) if !utf8 && !domain.is_ascii() => format!("{local}@{}", mailbox.domain()),
        Some(_) | None => verbatim.to_owned(),
    }
}

fn local(enhanced: &str, text: &str) -> Outcome {
    Outcome::Failed(Failure::own(Stage::Mail, FailureKind::Local, enhanced, text))
}

fn unsupported(enhanced: &str, text: impl Into<String>) -> Outcome {
    Outcome::Failed(Failure::own(Stage::Mail, FailureKind::Unsupported, enhanced, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(from: &str, to: &[&str]) -> Envelope {
        let rcpt_to = to.iter().map(|text| (*text).to_owned()).collect();
        Envelope { mail_from: from.to_owned(), rcpt_to, size_bytes: 7, ..Envelope::default() }
    }

    fn enhanced(outcome: &Outcome) -> &str {
        outcome.failure().and_then(|failure| failure.enhanced.as_deref()).unwrap_or("none")
    }

    #[test]
    fn hostile_addresses_are_refused_before_anything_is_sent() {
        for text in [
            "a@b.example>\r\nRCPT TO:<root@x.example",
            "a\r@b.example",
            "a\n@b.example",
            "a\0@b.example",
            "\"a>b\"@c.example",
            "\"<\"@c.example",
            "a@b.example> SIZE=1",
            "a b@c.example",
            "",
            "a",
            "@b.example",
            "a@b.example\u{2028}x",
        ] {
            let script = script(&envelope("", &["u@x.example", text]), &Capabilities::default()).unwrap();
            assert_eq!(script.rcpt[0].as_deref(), Ok("RCPT TO:<u@x.example>\r\n"));
            assert_eq!(enhanced(script.rcpt[1].as_ref().unwrap_err()), "5.1.3", "{text:?}");
        }
        let failed =
            script(&envelope("a@b\r\nDATA", &["u@x.example"]), &Capabilities::default()).unwrap_err();
        assert_eq!(enhanced(&failed), "5.1.7");
    }

    #[test]
    fn addresses_are_spelled_as_given_and_parameters_follow_the_offer() {
        let plain = Capabilities::default();
        let got =
            script(&envelope("\"a b\"@c.example", &["AbC@X.example", "\"q@r\"@s.example"]), &plain).unwrap();
        assert_eq!(got.mail, "MAIL FROM:<\"a b\"@c.example>\r\n");
        assert_eq!(got.rcpt[1].as_deref(), Ok("RCPT TO:<\"q@r\"@s.example>\r\n"));
        assert_eq!(script(&envelope("", &["u@x.example"]), &plain).unwrap().mail, "MAIL FROM:<>\r\n");
        let all = Capabilities { size: true, eight_bit: true, smtputf8: true, ..plain };
        let mut full = envelope("a@b.example", &["j\u{f6}@b\u{fc}cher.example"]);
        full.eight_bit = true;
        let got = script(&full, &all).unwrap();
        assert_eq!(got.mail, "MAIL FROM:<a@b.example> SIZE=7 BODY=8BITMIME SMTPUTF8\r\n");
        assert_eq!(got.rcpt[0].as_deref(), Ok("RCPT TO:<j\u{f6}@b\u{fc}cher.example>\r\n"));
    }

    #[test]
    fn what_a_server_lacks_fails_only_what_needs_it() {
        let plain = Capabilities::default();
        let eight = Envelope { eight_bit: true, ..envelope("", &["u@x.example"]) };
        assert_eq!(enhanced(&script(&eight, &plain).unwrap_err()), "5.6.3"); // I10
        let header = Envelope { smtputf8: true, ..envelope("", &["u@x.example"]) };
        assert_eq!(enhanced(&script(&header, &plain).unwrap_err()), "5.6.7"); // I8
        assert_eq!(
            enhanced(&script(&envelope("\u{f6}@b.example", &["u@x.example"]), &plain).unwrap_err()),
            "5.6.7"
        );
        let mixed = envelope("a@b\u{fc}cher.example", &["u@b\u{fc}cher.example", "\u{f6}@x.example"]);
        let got = script(&mixed, &plain).unwrap();
        assert_eq!(got.mail, "MAIL FROM:<a@xn--bcher-kva.example>\r\n");
        assert_eq!(got.rcpt[0].as_deref(), Ok("RCPT TO:<u@xn--bcher-kva.example>\r\n"));
        assert_eq!(enhanced(got.rcpt[1].as_ref().unwrap_err()), "5.6.7");
        let small = Capabilities { size: true, size_bytes_max: Some(6), ..plain };
        assert_eq!(enhanced(&script(&envelope("", &["u@x.example"]), &small).unwrap_err()), "5.3.4"); // P15
        let few = Capabilities { recipients_max: Some(1), ..Capabilities::default() };
        let got = script(&envelope("", &["u@x.example", "v@x.example"]), &few).unwrap();
        assert!(got.rcpt[0].is_ok() && matches!(got.rcpt[1], Err(Outcome::Temporary(_)))); // E12
    }
}
