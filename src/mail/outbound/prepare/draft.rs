//! PURE: what is known of a submitted message that passed: its header, and facts about its body.
//!
//! Promise: [`Draft::header`] is octet for octet the header in the spool. Values are unfolded for reading only.

use std::borrow::Cow;

use crate::mail::smtp::content::is_stamped;

/// Longest identifier of a message that is repeated elsewhere, octets.
const MESSAGE_ID_BYTES_MAX: usize = 250;

/// A message in canonical form, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub(super) header: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) eight_bit_body: bool,
    pub(super) utf8_header: bool,
    pub(super) content: [u8; 32],
}

/// One field of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as written.
    pub name: &'a [u8],
    /// What follows the colon, with its folds and the final CR LF.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// Whether the name is `name`, in any case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value on one line, without blanks around it (RFC 5322 section 2.2.3).
    #[must_use]
    pub fn value(&self) -> String {
        let text = String::from_utf8_lossy(self.raw);
        text.split("\r\n").collect::<Vec<_>>().concat().trim().to_owned()
    }
}

/// The fields of a canonical header, top to bottom.
pub fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if rest.is_empty() || rest.starts_with(b"\r\n") {
            return None;
        }
        let end = field_end(rest);
        let (field, after) = rest.split_at(end);
        rest = after;
        let colon = memchr::memchr(b':', field)?;
        Some(Field { name: &field[..colon], raw: &field[colon + 1..] })
    })
}

/// Length of the first field with its continuation lines.
fn field_end(header: &[u8]) -> usize {
    let mut ends = memchr::memchr_iter(b'\n', header).map(|n| n + 1);
    ends.find(|&end| !matches!(header.get(end), Some(b' ' | b'\t'))).unwrap_or(header.len())
}

impl Draft {
    /// The header without the empty line after it.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Size in canonical form, octets.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The body has octets beyond ASCII: the next hop must offer 8BITMIME (I10).
    #[must_use]
    pub fn has_eight_bit_body(&self) -> bool {
        self.eight_bit_body
    }

    /// The header is UTF-8 beyond ASCII: the next hop must offer SMTPUTF8 (I8).
    #[must_use]
    pub fn needs_utf8(&self) -> bool {
        self.utf8_header
    }

    /// The fields called `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Field<'a>> {
        fields(&self.header).filter(move |field| field.is(name))
    }

    /// Value of the first field called `name`, on one line.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<String> {
        self.all(name).next().map(|field| field.value())
    }

    /// How many fields are called `name`.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.all(name).count()
    }

    /// Hops so far.
    #[must_use]
    pub fn received(&self) -> usize {
        self.count("Received")
    }

    /// Hops that `hostname` stamped.
    #[must_use]
    pub fn received_by(&self, hostname: &str) -> usize {
        let by = format!("by {}", hostname.to_ascii_lowercase());
        self.all("Received")
            .filter(|field| is_stamped(&field.raw.to_ascii_lowercase(), by.as_bytes()))
            .count()
    }

    /// A message that a program wrote in answer to another, or about one (RFC 3834 section 5, RFC 3464): nothing
    /// may answer it by itself (L8).
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        let word = |name: &str| {
            let value = self.value(name).unwrap_or_default().to_ascii_lowercase();
            value.split([';', ' ', '\t', '(']).next().unwrap_or_default().to_owned()
        };
        !matches!(word("Auto-Submitted").as_str(), "" | "no") || word("Content-Type") == "multipart/report"
    }

    /// The identifier with its angle brackets, when there is one that can be repeated.
    #[must_use]
    pub fn message_id(&self) -> Option<String> {
        message_id(&self.header)
    }
}

/// `Message-ID` of a header with its angle brackets; `None` when it is absent, over-long, or no identifier.
#[must_use]
pub fn message_id(header: &[u8]) -> Option<String> {
    let value = fields(header).find(|field| field.is("Message-ID"))?.value();
    let inner = value.strip_prefix('<')?.strip_suffix('>')?;
    let plain = |b: u8| matches!(b, 33..=126) && b != b'<' && b != b'>';
    let known = !inner.is_empty() && value.len() <= MESSAGE_ID_BYTES_MAX && inner.bytes().all(plain);
    known.then_some(value)
}

/// A value in which runs of blanks count as one.
#[must_use]
pub(super) fn collapsed(value: &str) -> Cow<'_, str> {
    let blank = |c: char| c == ' ' || c == '\t';
    Cow::Owned(value.split(blank).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(header: &str) -> Draft {
        Draft {
            header: header.as_bytes().to_vec(),
            bytes: 0,
            eight_bit_body: false,
            utf8_header: false,
            content: [0; 32],
        }
    }

    #[test]
    fn fields_are_unfolded_and_found_in_any_case() {
        let draft = draft("SUBJECT: a\r\n\tb\r\n  c\r\nTo:x\r\nsubject: d\r\n");
        assert_eq!(draft.value("Subject").as_deref(), Some("a\tb  c"));
        assert_eq!((draft.count("subject"), draft.count("to"), draft.count("cc")), (2, 1, 0));
        let raw: Vec<_> = fields(&draft.header).map(|field| field.raw).collect();
        assert_eq!(raw, [&b" a\r\n\tb\r\n  c\r\n"[..], b"x\r\n", b" d\r\n"]);
    }

    #[test]
    fn automatic_mail_is_known() {
        for (header, automatic) in [
            ("Auto-Submitted: auto-replied; owner-email=\"x\"\r\n", true), // L8
            ("auto-submitted: Auto-Generated\r\n", true),
            ("Auto-Submitted: no\r\n", false),
            ("Auto-Submitted: No (really)\r\n", false),
            ("Content-Type: multipart/report;\r\n report-type=delivery-status\r\n", true),
            ("Content-Type: text/plain\r\n", false),
        ] {
            assert_eq!(draft(header).is_automatic(), automatic, "{header}");
        }
    }

    #[test]
    fn only_plain_identifiers_are_repeated() {
        let id = |value: &str| draft(&format!("Message-Id: {value}\r\n")).message_id();
        assert_eq!(id("\r\n <a@b>").as_deref(), Some("<a@b>"));
        for value in ["", "a@b", "<a@b", "<<a@b>>", "<a b@c>", "<ä@b>", "<>"] {
            assert_eq!(id(value), None, "{value}");
        }
        assert_eq!(id(&format!("<{}@b>", "a".repeat(300))), None);
    }
}
