//! PURE: the report that comes back when mail did not arrive, or nobody knows (RFC 3464, RFC 6522, RFC 6533).
//!
//! Promises: canonical form as [`super::canonical`] makes it, every line far below 998 octets; three parts: words
//! for a person, fields for a program, and the header of the message, never its text (N3, N5); no report about a
//! message with a null sender (N4), and a report says that it is automatic, so that nothing answers it (N6).
//! What a remote server said is one line of printable text by then; here it is folded, and repeated as text only.
//!
//! The report of an unknown outcome has `Action: delayed`, the only action of RFC 3464 section 2.3.3 that claims
//! neither that the message arrived nor that it did not; its words say that nothing will be tried again.

use spool::ids::{ItemId, WallMs};

use super::draft::{fields, message_id};
use crate::mail::outbound::values::remote_text;
use crate::mail::trace::date;

/// Most octets of the original header that are returned; further fields are left out.
const ORIGINAL_BYTES_MAX: usize = 32 * 1024;
/// Where text is wrapped, characters.
const WRAP_CHARS: usize = 72;

/// What became of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not delivered, and will not be.
    Failed,
    /// The receiving server may have it or not; it will not be sent again.
    Indeterminate,
}

/// What a report tells.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Our name: `Reporting-MTA`.
    pub hostname: &'a str,
    /// Domain of `mailer-daemon`: one that the reader's server takes for ours.
    pub mail_domain: &'a str,
    /// Envelope sender of the submission: who gets the report. Empty for the null path.
    pub mail_from: &'a str,
    /// The recipient it did not reach.
    pub rcpt_to: &'a str,
    /// The submission; it makes the identifier of the report.
    pub submission: ItemId,
    /// When the submission was accepted.
    pub accepted_at: WallMs,
    /// When the outcome was known.
    pub at: WallMs,
    /// Which outcome.
    pub outcome: Outcome,
    /// RFC 3463 status, `5.1.1`; anything else becomes the general one of the outcome.
    pub status: &'a str,
    /// Host that decided; empty when it did not get as far.
    pub remote: &'a str,
    /// What that host said, or we.
    pub text: &'a str,
    /// The stored header, or as much of the stored message as contains it.
    pub original: &'a [u8],
}

/// The report as a message; `None` when the sender is null, because a bounce never bounces.
#[must_use]
pub fn report(report: Report<'_>) -> Option<Vec<u8>> {
    if report.mail_from.is_empty() {
        return None;
    }
    let Report { hostname, mail_domain, submission, .. } = report;
    // The id is not in the original, so that no line of it can be a delimiter.
    let boundary = format!("report-{submission}-{}", report.at.0);
    let original = returned(report.original);
    let (subject, action) = match report.outcome {
        Outcome::Failed => ("Mail could not be delivered", "failed"),
        Outcome::Indeterminate => ("It is unknown whether your mail was delivered", "delayed"),
    };
    let utf8 = !report.rcpt_to.is_ascii();
    let mut out = Lines::default();
    out.line(&format!("From: Mail Delivery System <mailer-daemon@{mail_domain}>"));
    out.line(&format!("To: <{}>", report.mail_from));
    out.line(&format!("Subject: {subject}"));
    out.line(&format!("Date: {}", date(report.at)));
    out.line(&format!("Message-ID: <{submission}.report@{hostname}>"));
    if let Some(id) = message_id(report.original) {
        out.line(&format!("In-Reply-To: {id}"));
        out.line(&format!("References: {id}"));
    }
    out.line("Auto-Submitted: auto-replied");
    out.line("MIME-Version: 1.0");
    out.line("Content-Type: multipart/report; report-type=delivery-status;");
    out.line(&format!("\tboundary=\"{boundary}\""));
    out.line("");

    out.part(&boundary, "text/plain; charset=utf-8", "8bit");
    words(&report, &mut out);

    let kind = if utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
    out.part(&boundary, kind, if utf8 { "8bit" } else { "7bit" });
    out.line(&format!("Reporting-MTA: dns; {hostname}"));
    out.line(&format!("X-Submission-Id: {submission}"));
    out.line(&format!("Arrival-Date: {}", date(report.accepted_at)));
    out.line("");
    out.line(&format!("Final-Recipient: {}; {}", if utf8 { "utf-8" } else { "rfc822" }, report.rcpt_to));
    out.line(&format!("Action: {action}"));
    out.line(&format!("Status: {}", status(&report)));
    let remote = ascii(report.remote);
    if !remote.is_empty() {
        out.line(&format!("Remote-MTA: dns; {remote}"));
    }
    let said = ascii(report.text);
    let smtp = said.as_bytes().first().is_some_and(u8::is_ascii_digit);
    out.folded(&format!("Diagnostic-Code: {}; {said}", if smtp { "smtp" } else { "x-waystation" }));
    out.line(&format!("Last-Attempt-Date: {}", date(report.at)));
    out.line("");

    let kind = if original.is_ascii() { "text/rfc822-headers" } else { "message/global-headers" };
    out.part(&boundary, kind, if original.is_ascii() { "7bit" } else { "8bit" });
    out.0.extend_from_slice(&original);
    out.line("");
    out.line(&format!("--{boundary}--"));
    Some(out.0)
}

/// The part for a person.
fn words(report: &Report<'_>, out: &mut Lines) {
    let (submission, said) = (report.submission, remote_text(report.text.as_bytes()));
    let begin = match report.outcome {
        Outcome::Failed => "Your message could not be delivered to",
        Outcome::Indeterminate => {
            "Your message was handed to a server that did not say whether it took it. \
             It may have arrived or not. To avoid a second copy it will not be sent again by itself. It was for"
        }
    };
    out.wrapped(begin);
    out.line("");
    out.line(&format!("  {}", report.rcpt_to));
    out.line("");
    if !said.is_empty() {
        let who = if report.remote.is_empty() {
            "The reason:".to_owned()
        } else {
            format!("{} said:", ascii(report.remote))
        };
        out.wrapped(&who);
        out.line("");
        out.wrapped(&said);
        out.line("");
    }
    out.wrapped(&format!("It was accepted on {} as submission {submission}.", date(report.accepted_at)));
    out.line("");
}

/// Class, subject and detail (RFC 3463), of the class that fits the action.
fn status<'a>(report: &Report<'a>) -> &'a str {
    let (class, general) = match report.outcome {
        Outcome::Failed => ("5", "5.0.0"),
        Outcome::Indeterminate => ("4", "4.4.2"),
    };
    let parts: Vec<&str> = report.status.split('.').collect();
    let number = |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    match parts.len() == 3 && parts[0] == class && parts.iter().all(number) {
        true => report.status,
        false => general,
    }
}

/// The fields of the original header, whole ones, as many as there is room for.
fn returned(original: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields(original) {
        if out.len() + field.name.len() + 1 + field.raw.len() > ORIGINAL_BYTES_MAX {
            break;
        }
        out.extend_from_slice(field.name);
        out.push(b':');
        out.extend_from_slice(field.raw);
    }
    out
}

/// One line of printable ASCII.
fn ascii(text: &str) -> String {
    remote_text(text.as_bytes()).chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// Text with CR LF line ends.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn line(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
        self.0.extend_from_slice(b"\r\n");
    }

    fn part(&mut self, boundary: &str, kind: &str, encoding: &str) {
        self.line(&format!("--{boundary}"));
        self.line(&format!("Content-Type: {kind}"));
        self.line(&format!("Content-Transfer-Encoding: {encoding}"));
        self.line("");
    }

    /// Text for a person.
    fn wrapped(&mut self, text: &str) {
        wrap(text).iter().for_each(|line| self.line(line));
    }

    /// A field of the report.
    fn folded(&mut self, text: &str) {
        self.line(&wrap(text).join("\r\n\t"));
    }
}

/// Lines of at most [`WRAP_CHARS`] characters, cut at blanks where there are any.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let piece: String = rest.drain(..rest.len().min(WRAP_CHARS)).collect();
            let Some(line) = lines.last_mut() else { break };
            if line.is_empty() {
                line.push_str(&piece);
            } else if line.chars().count() + 1 + piece.chars().count() <= WRAP_CHARS {
                line.push(' ');
                line.push_str(&piece);
            } else {
                lines.push(piece);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders as _};

    use super::*;
    use crate::mail::outbound::prepare::Canonical;

    fn example<'a>() -> Report<'a> {
        Report {
            hostname: "mx.our.example",
            mail_domain: "our.example",
            mail_from: "me@our.example",
            rcpt_to: "nobody@there.example",
            submission: ItemId([7; 16]),
            accepted_at: WallMs(1_790_000_000_123),
            at: WallMs(1_790_000_100_000),
            outcome: Outcome::Failed,
            status: "5.1.1",
            remote: "mx.there.example",
            text: "550 5.1.1 no such user\r\nInjected: yes\u{1b}[31m",
            original:
                b"From: me@our.example\r\nMessage-ID: <a@our.example>\r\nSubject: x\r\n\r\nsecret text\r\n",
        }
    }

    /// The report as text; it must be canonical already.
    fn text(report_of: Report<'_>) -> String {
        let bytes = report(report_of).unwrap();
        let (mut filter, mut out) = (Canonical::new(1 << 20, "mx"), Vec::new());
        filter.feed(&bytes, &mut out).unwrap();
        assert!(filter.finish(&mut out).unwrap().is_automatic()); // N6
        assert_eq!(out, bytes);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.split("\r\n").all(|line| line.len() <= 300));
        text
    }

    #[test]
    fn a_report_has_three_parts_that_an_independent_parser_reads() {
        let text = text(example()); // N3
        let message = MessageParser::default().parse(text.as_bytes()).unwrap();
        let root = message.content_type().unwrap();
        assert_eq!((root.ctype(), root.subtype()), ("multipart", Some("report")));
        assert_eq!(root.attribute("report-type"), Some("delivery-status"));
        let kinds: Vec<_> =
            message.parts[1..].iter().map(|p| p.content_type().unwrap().subtype().unwrap()).collect();
        assert_eq!(kinds, ["plain", "delivery-status", "rfc822-headers"]);
        assert_eq!(message.to().unwrap().first().unwrap().address(), Some("me@our.example"));
        assert_eq!(message.from().unwrap().first().unwrap().address(), Some("mailer-daemon@our.example"));
        assert_eq!(message.message_id(), Some(format!("{}.report@mx.our.example", ItemId([7; 16])).as_str()));
        assert_eq!(message.in_reply_to().as_text(), Some("a@our.example"));
        for line in [
            "Reporting-MTA: dns; mx.our.example",
            "Final-Recipient: rfc822; nobody@there.example",
            "Action: failed",
            "Status: 5.1.1",
            "Remote-MTA: dns; mx.there.example",
            "Subject: x",
        ] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}");
        }
    }

    #[test]
    fn remote_words_break_nothing_and_the_text_stays_home() {
        let text = text(example());
        assert!(text.contains("Diagnostic-Code: smtp; 550 5.1.1 no such user Injected: yes"), "{text}"); // P20
        assert!(
            !text.contains("\nInjected") && !text.contains('\u{1b}') && !text.contains("secret"),
            "{text}"
        );
        let long = "x".repeat(5000);
        self::text(Report { text: &long, ..example() });
    }

    #[test]
    fn the_null_sender_gets_none() {
        assert_eq!(report(Report { mail_from: "", ..example() }), None); // N4
    }

    #[test]
    fn an_unknown_outcome_claims_nothing() {
        let text = text(Report { outcome: Outcome::Indeterminate, status: "", ..example() });
        assert!(
            text.contains("Action: delayed\r\nStatus: 4.4.2\r\n") && text.contains("may have arrived or not")
        );
        assert!(!text.contains("failed"), "{text}");
    }

    #[test]
    fn status_is_always_one_and_of_the_right_class() {
        for (given, said) in
            [("5.1.1", "5.1.1"), ("4.4.1", "5.0.0"), ("", "5.0.0"), ("5.1", "5.0.0"), ("5.a.b", "5.0.0")]
        {
            let text = text(Report { status: given, ..example() });
            assert!(text.contains(&format!("\r\nStatus: {said}\r\n")), "{given}");
        }
    }

    #[test]
    fn large_and_foreign_originals_fit() {
        let original = format!("Subject: ü\r\n{}\r\n", "X-Long: 0123456789\r\n".repeat(10_000)); // N5
        let text =
            text(Report { original: original.as_bytes(), rcpt_to: "jörg@there.example", ..example() });
        assert!(text.len() < ORIGINAL_BYTES_MAX + 4096);
        assert!(text.contains("message/global-headers") && text.contains("Final-Recipient: utf-8; jörg@")); // I12
        let odd = text_of_id("Message-ID: <<a@b>>\r\n");
        assert!(!odd.contains("In-Reply-To")); // N6
    }

    fn text_of_id(original: &str) -> String {
        text(Report { original: original.as_bytes(), ..example() })
    }
}
