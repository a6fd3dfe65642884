//! PURE: the header of a message as text for a person.
//!
//! Promises: bounded in fields and characters, whatever a stranger wrote; control characters become blanks or are shown as such; nothing is
//! rendered, followed or fetched. Does not: look at the body.

use mail_parser::MessageParser;

/// Bytes of a message that are looked at for its header.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields that are shown.
const FIELDS_MAX: usize = 60;
/// Characters of a field that are shown.
const VALUE_CHARS_MAX: usize = 600;
/// Characters of a name that are shown.
const NAME_CHARS_MAX: usize = 60;

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the field `Subject`, decoded.
    pub(super) subject: Option<String>,
    /// Names and unfolded values, in order; the encoded words of some are decoded.
    pub(super) fields: Vec<(String, String)>,
    /// There is more than is shown.
    pub(super) cut: bool,
}

/// Whether these first bytes of a message have all of its header, or as much as is looked at.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() >= HEAD_BYTES_MAX || end_of_head(bytes).is_some()
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"\r\n") {
        return Some(0);
    }
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 2)
}

impl Head {
    /// Reads the header at the start of `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let end = end_of_head(bytes).unwrap_or(bytes.len()).min(HEAD_BYTES_MAX);
        let bytes = &bytes[..end.min(bytes.len())];
        let text = String::from_utf8_lossy(bytes);
        let mut fields: Vec<(String, String)> = Vec::new();
        let mut cut = bytes.len() >= HEAD_BYTES_MAX;
        for line in text.split('\n').map(|line| line.trim_end_matches('\r')) {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                if fields.len() == FIELDS_MAX {
                    cut = true;
                    break;
                }
                fields.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        for (name, value) in &mut fields {
            if value.contains("=?") {
                *value = decoded(value);
            }
            *name = shown(name, NAME_CHARS_MAX);
            *value = shown(value, VALUE_CHARS_MAX);
        }
        let subject = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("subject"));
        let subject = subject.map(|(_, value)| value.clone());
        Self { subject, fields, cut }
    }
}

/// Encoded words (RFC 2047) as text.
fn decoded(value: &str) -> String {
    let message = format!("Subject: {value}\r\n\r\n");
    let parsed = MessageParser::new().parse_headers(message.as_bytes());
    parsed.as_ref().and_then(|message| message.subject()).map_or_else(|| value.to_owned(), str::to_owned)
}

/// Characters that would hide or turn text around are no text.
fn shown(text: &str, chars_max: usize) -> String {
    let clean = text.chars().map(|c| match c {
        '\t' | '\n' | '\r' => ' ',
        c if c.is_control() => '\u{fffd}',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
            '\u{fffd}'
        }
        c => c,
    });
    let mut out: String = clean.take(chars_max).collect();
    if text.chars().count() > chars_max {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_unfolded_and_its_words_are_decoded() {
        let bytes = b"Received: from a\r\n\tby b\r\nSubject: =?utf-8?q?gr=C3=BCn?= und blau\r\nX: 1\r\n\r\nSubject: body\r\n";
        assert!(is_whole(bytes));
        let head = Head::read(bytes);
        assert_eq!(head.subject.as_deref(), Some("grün und blau"));
        assert_eq!(head.fields[0], ("Received".to_owned(), "from a by b".to_owned()));
        assert_eq!((head.fields.len(), head.cut), (3, false));
        assert_eq!(Head::read(b"\r\nbody: x\r\n").fields, []);
        assert!(!is_whole(b"Subject: x\r\n"));
    }

    #[test]
    fn a_hostile_header_stays_small_and_plain() {
        let mut bytes = b"Subject: a\x1b[2J\xe2\x80\xaeb<script>\r\n".to_vec();
        bytes.extend(b"X: ".iter().chain(&[b'y'; 5000]).chain(b"\r\n"));
        for _ in 0..1000 {
            bytes.extend_from_slice(b"A: b\r\n");
        }
        bytes.extend_from_slice(&vec![b'z'; HEAD_BYTES_MAX]);
        assert!(is_whole(&bytes));
        let head = Head::read(&bytes);
        assert_eq!(
            head.subject.as_deref(),
            Some("a\u{fffd}[2J\u{fffd}b<script>"),
            "escaping is for the page"
        );
        assert_eq!(head.fields[1].1.chars().count(), VALUE_CHARS_MAX + 1);
        assert_eq!((head.fields.len(), head.cut), (FIELDS_MAX, true));
    }
}
