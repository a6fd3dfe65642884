//! PURE: the stream filter between a gateway's octets and the spool.
//!
//! Promises: what comes out has CR LF line ends only, ends with one, has an empty line after its header, no
//! line over 998 octets, no NUL, no `Bcc`; the same for every way the input is cut into pieces; and feeding the
//! output again changes nothing. After a refusal nothing more comes out, and the refusal stays.
//!
//! Decisions:
//! * A lone LF becomes CR LF, because gateways mix both (C24). A lone CR is refused, not guessed at: for one
//!   reader it ends a line, for another it does not, and that is what smuggling and forged headers live on (C23).
//! * Lines over 998 octets are refused, although many servers take more: others fold or cut them on the way,
//!   which breaks the signature and sometimes the content, and nobody would learn of it (E6).
//! * A header without a body is a message (RFC 5322 section 2.1); it gets its empty line. A first line that is
//!   no field is refused: it is no mail, or its header would be read as text.
//! * A continuation line of blanks alone is dropped: it says nothing, and some readers end the header there.
//!
//! Memory: the header, at most [`HEADER_BYTES_MAX`], and one line.

use memchr::memchr3;

use super::draft::Draft;
use super::fingerprint::Content;
use super::refusal::Refusal;
use crate::mail::smtp::content::{
    FIELD_BYTES_MAX, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, OWN_RECEIVED_MAX, RECEIVED_MAX, TEXT_LINE_BYTES_MAX,
};

/// Fields that are for the sender's eyes alone, lower case (RFC 5322 section 3.6.3).
const HIDDEN_FIELDS: [&[u8]; 2] = [b"bcc", b"resent-bcc"];

/// One message on its way into the spool.
#[derive(Debug)]
pub struct Canonical {
    bytes_max: u64,
    own_name: String,
    /// Octets of the message in canonical form, hidden fields included.
    seen_bytes: u64,
    /// Octets handed on.
    bytes: u64,
    line_number: u64,
    line_bytes: usize,
    after_cr: bool,
    stage: Stage,
    header: Vec<u8>,
    utf8_header: bool,
    eight_bit_body: bool,
    content: Content,
    refused: Option<Refusal>,
}

#[derive(Debug)]
enum Stage {
    /// `line`: what is there of the current line. `fields` counts those that are handed on.
    Header {
        line: Vec<u8>,
        field: Field,
        fields: usize,
    },
    Body,
}

/// The field that a continuation line would belong to.
#[derive(Clone, Copy, Debug)]
enum Field {
    None,
    Hidden,
    Kept { bytes: usize },
}

impl Canonical {
    /// `bytes_max`: size limit, octets with CR LF (RFC 1870 section 4). `own_name`: our name in `Received`
    /// fields, by which loops are found.
    #[must_use]
    pub fn new(bytes_max: u64, own_name: &str) -> Self {
        Self {
            bytes_max,
            own_name: own_name.to_owned(),
            seen_bytes: 0,
            bytes: 0,
            line_number: 1,
            line_bytes: 0,
            after_cr: false,
            stage: Stage::Header { line: Vec::new(), field: Field::None, fields: 0 },
            header: Vec::new(),
            utf8_header: false,
            eight_bit_body: false,
            content: Content::default(),
            refused: None,
        }
    }

    /// Takes the next octets and appends to `out` what may be stored.
    ///
    /// # Errors
    /// [`Refusal`], the first in the order of the octets; the same again for every later call.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        if let Some(refusal) = &self.refused {
            return Err(refusal.clone());
        }
        self.walk(input, out).inspect_err(|refusal| self.refused = Some(refusal.clone()))
    }

    /// The message has ended: completes its last line, and says what it is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<Draft, Refusal> {
        if let Some(refusal) = self.refused {
            return Err(refusal);
        }
        if self.after_cr {
            return Err(Refusal::StrayCr { line: self.line_number });
        }
        if self.line_bytes > 0 {
            self.end_line(out)?;
        }
        if matches!(self.stage, Stage::Header { .. }) {
            self.end_line(out)?;
        }
        let draft = Draft {
            header: self.header,
            bytes: self.bytes,
            eight_bit_body: self.eight_bit_body,
            utf8_header: self.utf8_header,
            content: self.content.finish(),
        };
        let own = draft.received_by(&self.own_name);
        if draft.received() > RECEIVED_MAX || own > OWN_RECEIVED_MAX { Err(Refusal::Loop) } else { Ok(draft) }
    }

    fn walk(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let mut rest = input;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_cr) {
                if first != b'\n' {
                    return Err(Refusal::StrayCr { line: self.line_number });
                }
                self.end_line(out)?;
                rest = &rest[1..];
                continue;
            }
            let Some(n) = memchr3(b'\r', b'\n', 0, rest) else { return self.text(rest, out) };
            self.text(&rest[..n], out)?;
            match rest[n] {
                b'\r' => self.after_cr = true,
                b'\n' => self.end_line(out)?,
                _ => return Err(Refusal::Nul { line: self.line_number }),
            }
            rest = &rest[n + 1..];
        }
        Ok(())
    }

    /// Octets of one line, without its end.
    fn text(&mut self, run: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        // Whichever limit the octets reach first decides, so that the verdict does not depend on the pieces.
        let line_room = (TEXT_LINE_BYTES_MAX - self.line_bytes) as u64;
        let size_room = self.bytes_max.saturating_sub(self.seen_bytes);
        if run.len() as u64 > line_room.min(size_room) {
            return Err(match line_room <= size_room {
                true => Refusal::LineTooLong { line: self.line_number },
                false => Refusal::TooLarge { limit_bytes: self.bytes_max },
            });
        }
        self.seen_bytes += run.len() as u64;
        self.line_bytes += run.len();
        match &mut self.stage {
            Stage::Header { line, .. } => line.extend_from_slice(run),
            Stage::Body => {
                self.eight_bit_body |= !run.is_ascii();
                self.content.text(run);
                self.bytes += run.len() as u64;
                out.extend_from_slice(run);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        self.seen_bytes = self.seen_bytes.saturating_add(2);
        if self.seen_bytes > self.bytes_max {
            return Err(Refusal::TooLarge { limit_bytes: self.bytes_max });
        }
        match &mut self.stage {
            Stage::Header { line, .. } => {
                let line = std::mem::take(line);
                self.header_line(&line, out)?;
            }
            Stage::Body => {
                self.content.end_line();
                self.bytes += 2;
                out.extend_from_slice(b"\r\n");
            }
        }
        self.line_bytes = 0;
        self.line_number += 1;
        Ok(())
    }

    fn header_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let Stage::Header { field, fields, .. } = &mut self.stage else { return Ok(()) };
        let (at, size) = (self.line_number, line.len() + 2);
        match line.first() {
            None if *fields == 0 => return Err(Refusal::NoHeader),
            None => {
                self.content.begin(&self.header);
                self.stage = Stage::Body;
                self.bytes += 2;
                out.extend_from_slice(b"\r\n");
                return Ok(());
            }
            Some(b' ' | b'\t') => match field {
                Field::None => return Err(Refusal::NotAField { line: at }),
                Field::Hidden => return Ok(()),
                Field::Kept { .. } if line.iter().all(|b| matches!(b, b' ' | b'\t')) => return Ok(()),
                Field::Kept { bytes } => *bytes += size,
            },
            Some(_) => {
                let name = field_name(line).ok_or(Refusal::NotAField { line: at })?;
                if HIDDEN_FIELDS.iter().any(|hidden| name.eq_ignore_ascii_case(hidden)) {
                    *field = Field::Hidden;
                    return Ok(());
                }
                *field = Field::Kept { bytes: size };
                *fields += 1;
            }
        }
        let long = matches!(field, Field::Kept { bytes } if *bytes > FIELD_BYTES_MAX);
        if long || *fields > HEADER_FIELDS_MAX || self.header.len() + size > HEADER_BYTES_MAX {
            return Err(Refusal::HeaderTooLarge);
        }
        if !line.is_ascii() {
            // A line end never falls into a UTF-8 sequence, so that lines can be judged one by one.
            std::str::from_utf8(line).map_err(|_| Refusal::HeaderNotUtf8 { line: at })?;
            self.utf8_header = true;
        }
        for bytes in [line, b"\r\n"] {
            self.header.extend_from_slice(bytes);
            out.extend_from_slice(bytes);
        }
        self.bytes += size as u64;
        Ok(())
    }
}

/// The name of the field that `line` begins; strict (RFC 5322 section 3.6.8), because `Fr om:` and `From :` are
/// one thing to one reader and another to the next.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', line)?;
    let name = &line[..colon];
    (!name.is_empty() && name.iter().all(|b| matches!(b, 33..=126))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(input: &[u8], piece: usize) -> Result<(Vec<u8>, Draft), Refusal> {
        let (mut filter, mut out) = (Canonical::new(1 << 20, "mx.our.example"), Vec::new());
        for bytes in input.chunks(piece.max(1)) {
            filter.feed(bytes, &mut out)?;
        }
        let draft = filter.finish(&mut out)?;
        assert_eq!(draft.bytes(), out.len() as u64);
        Ok((out, draft))
    }

    /// The outcome, which must not depend on the pieces, and must not change when it is fed again.
    fn outcome(input: &[u8]) -> Result<Vec<u8>, Refusal> {
        let whole = canonical(input, input.len());
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(whole, canonical(input, piece));
        }
        let (out, draft) = whole?;
        assert_eq!(canonical(&out, out.len()), Ok((out.clone(), draft)));
        Ok(out)
    }

    fn text(input: &str) -> Result<String, Refusal> {
        outcome(input.as_bytes()).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn line_feeds_become_line_ends() {
        assert_eq!(text("A: b\nC: d\r\n\nx\r\ny\n").unwrap(), "A: b\r\nC: d\r\n\r\nx\r\ny\r\n"); // C24
        assert_eq!(text("A: b\n\n.\nno end").unwrap(), "A: b\r\n\r\n.\r\nno end\r\n"); // D4
    }

    #[test]
    fn what_ends_data_elsewhere_is_text_or_refused() {
        for sequence in ["\n.\n", "\n.\r\n", "\r\n.\n"] {
            let out = text(&format!("A: b\r\n\r\nhello{sequence}tail\r\n")).unwrap(); // C23
            assert_eq!(out, "A: b\r\n\r\nhello\r\n.\r\ntail\r\n");
        }
        for sequence in ["\n.\r", "\r.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\n.\r\r\n", "\r\r\n.\r\r\n"] {
            let refused = text(&format!("A: b\r\n\r\nhello{sequence}tail\r\n"));
            assert!(matches!(refused, Err(Refusal::StrayCr { .. })), "{sequence:?}: {refused:?}");
        }
        assert_eq!(text("A: b\r\n\r\nhi\r\n\0.\r\n"), Err(Refusal::Nul { line: 4 }));
        assert_eq!(text("A: b\r\n\r\nhi\r"), Err(Refusal::StrayCr { line: 3 }));
    }

    #[test]
    fn hidden_recipients_are_removed_however_they_are_written() {
        let input = "Bcc: a@x\nTo: b@x\nbCC:\n c@x,\n\td@x\nSubject: Bcc: stays\nBCC:e@x\nResent-Bcc: f@x\nX-Bcc: g\n\nBcc: text\n";
        let kept = "To: b@x\r\nSubject: Bcc: stays\r\nX-Bcc: g\r\n\r\nBcc: text\r\n";
        assert_eq!(text(input).unwrap(), kept);
        assert_eq!(text("Bcc: a@x\r\n\r\nbody"), Err(Refusal::NoHeader));
    }

    #[test]
    fn a_header_alone_is_a_message_and_anything_else_without_one_is_not() {
        for input in ["A: b", "A: b\n", "A: b\r\n\r\n"] {
            assert_eq!(text(input).unwrap(), "A: b\r\n\r\n");
        }
        for input in ["", "\r\n", "\n\nbody\n"] {
            assert_eq!(text(input), Err(Refusal::NoHeader), "{input:?}");
        }
        for input in
            ["hello\n", " A: b\n\n", "From me@x Mon Jan 1\nA: b\n\n", ": b\n", "Fr om: a@x\n", "From : a@x\n"]
        {
            assert_eq!(text(input), Err(Refusal::NotAField { line: 1 }), "{input:?}");
        }
        assert_eq!(text("A: b\nhello\n\nbody\n"), Err(Refusal::NotAField { line: 2 }));
    }

    #[test]
    fn continuation_lines_of_blanks_go() {
        assert_eq!(text("A: b\n \t\n c\nD: e\n  \n\nx").unwrap(), "A: b\r\n c\r\nD: e\r\n\r\nx\r\n");
    }

    #[test]
    fn lines_of_998_octets_pass_and_999_do_not() {
        let line = |n: usize| format!("A: b\r\n\r\n{}\r\n", "x".repeat(n));
        assert!(text(&line(998)).is_ok()); // E6
        assert_eq!(text(&line(999)), Err(Refusal::LineTooLong { line: 3 }));
        assert_eq!(text(&format!("A: {}", "x".repeat(999))), Err(Refusal::LineTooLong { line: 1 }));
    }

    #[test]
    fn size_counts_line_ends_and_hidden_fields() {
        let size = |input: &[u8]| {
            let (mut filter, mut out) = (Canonical::new(20, "mx"), Vec::new());
            filter.feed(input, &mut out)?;
            filter.finish(&mut out).map(|draft| draft.bytes())
        };
        assert_eq!(size(b"A: b\n\n1234567890\n"), Ok(20));
        assert_eq!(size(b"A: b\n\n12345678901\n"), Err(Refusal::TooLarge { limit_bytes: 20 }));
        assert_eq!(size(b"A: b\nBcc: cccccccccccccccc\n\n"), Err(Refusal::TooLarge { limit_bytes: 20 }));
    }

    #[test]
    fn headers_are_bounded() {
        let fields = |n: usize| format!("{}\r\nbody\r\n", "a: b\r\n".repeat(n));
        assert!(text(&fields(1000)).is_ok()); // E9
        assert_eq!(text(&fields(1001)), Err(Refusal::HeaderTooLarge));
        let to = |n: usize| format!("To: a@x{}\r\n\r\n", ",\r\n somebody@recipient.example".repeat(n));
        assert!(text(&to(2000)).is_ok());
        assert_eq!(text(&to(10_000)), Err(Refusal::HeaderTooLarge));
        let wide = |n: usize| format!("{}\r\n", format!("a: {}\r\n", "x".repeat(900)).repeat(n));
        assert!(text(&wide(280)).is_ok());
        assert_eq!(text(&wide(300)), Err(Refusal::HeaderTooLarge));
    }

    #[test]
    fn hops_are_counted() {
        let hops = |n: usize, by: &str| {
            let field = format!("Received: from x\r\n\tby {by}\r\n\twith ESMTP id 1;\r\n\tdate\r\n");
            text(&format!("{}\r\n{}", field.repeat(n), "Received: y\r\n".repeat(200))).map(|_| ())
        };
        assert_eq!(hops(100, "mx.other.example"), Ok(())); // L5
        assert_eq!(hops(101, "mx.other.example"), Err(Refusal::Loop));
        assert_eq!(hops(2, "MX.our.example"), Ok(())); // L6
        assert_eq!(hops(3, "MX.our.example"), Err(Refusal::Loop));
    }

    #[test]
    fn eight_bits_are_noticed_and_header_must_be_utf8() {
        let (_, draft) = canonical("A: ü\n\nplain\n".as_bytes(), 1).unwrap();
        assert!(draft.needs_utf8() && !draft.has_eight_bit_body());
        let (_, draft) = canonical(b"A: b\n\nd\xfcr\n", 1).unwrap();
        assert!(!draft.needs_utf8() && draft.has_eight_bit_body()); // I10
        assert_eq!(outcome(b"A: b\nC: d\xfcr\n\n"), Err(Refusal::HeaderNotUtf8 { line: 2 }));
    }

    #[test]
    fn a_refusal_stays() {
        let (mut filter, mut out) = (Canonical::new(1 << 20, "mx"), Vec::new());
        let refusal = filter.feed(b"A: b\n\nx\0", &mut out).unwrap_err();
        let before = out.len();
        assert_eq!(filter.feed(b"more\n", &mut out), Err(refusal.clone()));
        assert_eq!((filter.finish(&mut out), before), (Err(refusal), out.len()));
    }
}
