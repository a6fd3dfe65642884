//! PURE: what makes two submissions the same mail.
//!
//! A gateway of tunnel 1 repeats a whole mail, to all its recipients, when one of them failed: the same text with
//! new `Message-ID`, `Date`, stream ids and MIME boundaries. The fingerprint leaves exactly those out.
//!
//! Promises: two renderings of one mail have one fingerprint; a mail that differs in sender, recipient, thread,
//! subject, visible recipients, structure or content has another. In doubt it differs: a twin that goes out
//! twice is a nuisance, a letter that is taken for a twin is lost.
//!
//! Memory: the boundaries that were announced, and one field of a part.

use sha2::{Digest as _, Sha256};

use super::draft::{Draft, Field, collapsed, fields};
use crate::mail::smtp::content::FIELD_BYTES_MAX;

/// Fields that tell one mail from another, in the order in which they are hashed.
const TELLING_FIELDS: [&str; 13] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "In-Reply-To",
    "References",
    "X-Protege-Recursion",
    "Auto-Submitted",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
];
/// Most boundaries of one message; delimiters of further ones count as content.
const BOUNDARIES_MAX: usize = 64;

/// The fingerprint of a submission.
#[must_use]
pub fn fingerprint(draft: &Draft, mail_from: &str, rcpt_to: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut say = |text: &[u8]| {
        // With the length in front no two different lists run into the same octets.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    say(b"waystation twin 1");
    say(mail_from.as_bytes());
    say(rcpt_to.as_bytes());
    for name in TELLING_FIELDS {
        for field in draft.all(name) {
            say(name.as_bytes());
            say(collapsed(&without_boundary(&field.value()).0).as_bytes());
        }
    }
    say(&draft.content);
    hash.finalize().into()
}

/// The hash of a body, line by line, without its boundaries.
#[derive(Debug, Default)]
pub(super) struct Content {
    hash: Sha256,
    boundaries: Vec<Vec<u8>>,
    /// The line, or the field of a part, that must be seen whole.
    held: Vec<u8>,
    line: Line,
    in_part_header: bool,
    field: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Start,
    Hashed,
    Held,
}

impl Content {
    /// The header has ended; it says which boundary comes.
    pub(super) fn begin(&mut self, header: &[u8]) {
        let announced = fields(header).filter(|field| field.is("Content-Type"));
        for boundary in announced.filter_map(|field| without_boundary(&field.value()).1) {
            self.learn(boundary);
        }
    }

    /// Octets of one line.
    pub(super) fn text(&mut self, run: &[u8]) {
        let Some(&first) = run.first() else { return };
        if self.line == Line::Start {
            let told = self.in_part_header || (first == b'-' && !self.boundaries.is_empty());
            self.line = if told { Line::Held } else { Line::Hashed };
        }
        if self.line == Line::Held {
            self.held.extend_from_slice(run);
        } else {
            self.hash.update(run);
        }
    }

    /// The line has ended.
    pub(super) fn end_line(&mut self) {
        let was = std::mem::take(&mut self.line);
        if was == Line::Held || self.in_part_header {
            let line = std::mem::take(&mut self.held);
            self.judge(&line);
        } else {
            self.hash.update(b"\r\n");
        }
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        self.end_field();
        self.hash.finalize().into()
    }

    fn judge(&mut self, line: &[u8]) {
        if let Some(closes) = self.delimiter(line) {
            self.end_field();
            self.in_part_header = !closes;
            // No text line can end in a lone LF, so that no text is mistaken for this mark.
            self.hash.update(if closes { &b"--close\n"[..] } else { &b"--open\n"[..] });
            return;
        }
        if !self.in_part_header {
            self.hash.update(line);
            self.hash.update(b"\r\n");
            return;
        }
        if !matches!(line.first(), Some(b' ' | b'\t')) || self.field.len() > FIELD_BYTES_MAX {
            self.end_field();
        }
        if line.is_empty() {
            self.in_part_header = false;
            self.hash.update(b"\r\n");
        } else {
            self.field.extend_from_slice(line);
            self.field.extend_from_slice(b"\r\n");
        }
    }

    /// `Some(true)` for the delimiter that closes a multipart (RFC 2046 section 5.1.1).
    fn delimiter(&self, line: &[u8]) -> Option<bool> {
        let rest = line.strip_prefix(b"--")?.trim_ascii_end();
        self.boundaries.iter().find_map(|boundary| match rest.strip_prefix(boundary.as_slice())? {
            b"" => Some(false),
            b"--" => Some(true),
            _ => None,
        })
    }

    fn end_field(&mut self) {
        let raw = std::mem::take(&mut self.field);
        let announced = memchr::memchr(b':', &raw)
            .map(|colon| Field { name: &raw[..colon], raw: &raw[colon + 1..] })
            .filter(|field| field.is("Content-Type"))
            .map(|field| without_boundary(&field.value()));
        match announced {
            Some((rest, Some(boundary))) => {
                self.hash.update(b"content-type:");
                self.hash.update(collapsed(&rest).as_bytes());
                self.hash.update(b"\r\n");
                self.learn(boundary);
            }
            Some((_, None)) | None => self.hash.update(&raw),
        }
    }

    fn learn(&mut self, boundary: String) {
        if self.boundaries.len() < BOUNDARIES_MAX {
            self.boundaries.push(boundary.into_bytes());
        }
    }
}

/// Splits the `boundary` parameter off a `Content-Type` value (RFC 2045 section 5.1).
fn without_boundary(value: &str) -> (String, Option<String>) {
    let (mut rest, mut boundary) = (Vec::new(), None);
    for part in parameters(value) {
        let named = part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"));
        match named {
            Some((_, text)) if boundary.is_none() => {
                let text = text.trim();
                let plain = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
                boundary = Some(plain.replace('\\', "")).filter(|plain| !plain.is_empty());
            }
            Some(_) | None => rest.push(part),
        }
    }
    (rest.join(";"), boundary)
}

/// Splits at semicolons outside quotes.
fn parameters(value: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                parts.push(&value[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::outbound::prepare::Canonical;

    fn print(message: &str, piece: usize) -> [u8; 32] {
        let (mut filter, mut out) = (Canonical::new(1 << 20, "mx"), Vec::new());
        for bytes in message.as_bytes().chunks(piece.max(1)) {
            filter.feed(bytes, &mut out).unwrap();
        }
        fingerprint(&filter.finish(&mut out).unwrap(), "me@our.example", "you@there.example")
    }

    /// One rendering of the mail of the tests: nested multiparts with an attachment.
    fn rendering(n: usize) -> String {
        let outer = format!("--_NmP-{n}f00d-Part_1");
        let inner = format!("=_alt-{n}");
        format!(
            "From: me@our.example\r\nTo: you@there.example,\r\n bad@there.example\r\nSubject: Hello\r\n\
             Message-ID: <{n}@our.example>\r\nDate: Fri, 20 Nov 2026 10:00:0{n} +0000\r\nX-Protege-Recursion: 2\r\n\
             In-Reply-To: <1@there.example>\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/mixed;\r\n boundary=\"{outer}\"\r\n\r\n\
             --{outer}\r\nContent-Type: multipart/alternative;\r\n boundary=\"{inner}\"; charset=utf-8\r\n\r\n\
             --{inner}\r\nContent-Type: text/plain\r\n\r\nHello\n-- \nsignature\r\n--{inner}\r\n\
             Content-Type: text/html\r\n\r\n<p>Hello</p>\r\n--{inner}--\r\n\r\n\
             --{outer}\r\nContent-Type: application/octet-stream; name=a.bin\r\n\
             Content-Transfer-Encoding: base64\r\n\r\nAAAABBBB\r\n--{outer}--\r\n"
        )
    }

    #[test]
    fn renderings_of_one_mail_are_twins_for_any_pieces() {
        let one = print(&rendering(1), 1000);
        for piece in [1, 3, 10_000] {
            assert_eq!(one, print(&rendering(2), piece));
        }
    }

    #[test]
    fn near_misses_are_other_mails() {
        let (one, text) = (print(&rendering(1), 1000), rendering(2));
        for (from, to) in [
            ("Subject: Hello", "Subject: Hullo"),
            ("bad@there.example", "bed@there.example"),
            ("Recursion: 2", "Recursion: 1"),
            ("<1@there.example>", "<2@there.example>"),
            ("AAAABBBB", "AAAABBBC"),
            ("name=a.bin", "name=b.bin"),
            ("Hello\n-- \n", "Hello\n--\n"),
            ("<p>Hello</p>\r\n", "<p>Hello</p>\r\n\r\n"),
            ("text/html", "text/plain"),
            ("multipart/alternative", "multipart/related"),
            ("charset=utf-8", "charset=ascii"),
        ] {
            assert!(text.contains(from), "{from}");
            assert_ne!(one, print(&text.replace(from, to), 1000), "{to}");
        }
        let moved =
            text.replace("--=_alt-2--\r\n\r\n", "\r\n").replace("Part_1--", "Part_1--\r\n--=_alt-2--");
        assert_ne!(one, print(&moved, 1000));
    }

    #[test]
    fn sender_and_recipient_belong_to_it() {
        let (mut filter, mut out) = (Canonical::new(1 << 20, "mx"), Vec::new());
        filter.feed(b"A: b\n\nx\n", &mut out).unwrap();
        let draft = filter.finish(&mut out).unwrap();
        let prints = [("a@x", "b@y"), ("a@xb", "@y"), ("b@y", "a@x"), ("a@x", "c@y"), ("", "b@y")]
            .map(|(from, to)| fingerprint(&draft, from, to));
        let distinct: std::collections::HashSet<_> = prints.iter().collect();
        assert_eq!(distinct.len(), prints.len());
    }

    #[test]
    fn boundaries_are_found_among_parameters() {
        for (value, rest, boundary) in [
            ("multipart/mixed; boundary=abc", "multipart/mixed", Some("abc")),
            ("multipart/mixed; BOUNDARY = \"a;b\" ; x=y", "multipart/mixed; x=y", Some("a;b")),
            ("text/plain; name=\"; boundary=x\"", "text/plain; name=\"; boundary=x\"", None),
            ("multipart/mixed; boundary=\"\"", "multipart/mixed", None),
        ] {
            let (got, found) = without_boundary(value);
            assert_eq!((got.trim(), found.as_deref()), (rest, boundary), "{value}");
        }
    }
}
