//! What we demand of a message, however it arrived.
//!
//! Policy: a message with a lone CR, a lone LF or a NUL is refused, never repaired, because two programs
//! that read it differently are what smuggling lives on; nor do we take over-long lines, endless headers,
//! a beginning that would continue the fields we put on top, or mail that goes round in circles. The verdict is given at the true end of the data.
//! `normalize` (for named networks of the operator's own) turns lone LF into CR LF and lone CR into a
//! blank; a NUL is refused there too.
//!
//! Promises: what is handed on has CR LF line ends only and is at most the limit long; after the first
//! flaw nothing more is handed on. CPU per octet is bounded, memory is a few hundred bytes.

use memchr::{memchr3, memmem};

use crate::mail::smtp::reply::Reply;

/// Longest text line without CRLF, octets (RFC 5322 §2.1.1).
pub const TEXT_LINE_BYTES_MAX: usize = 998;
/// Longest header section, octets.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;
/// Most header fields.
pub const HEADER_FIELDS_MAX: usize = 1000;
/// Longest header field with its folded lines, octets.
pub const FIELD_BYTES_MAX: usize = 64 * 1024;
/// Most `Received` fields (RFC 5321 §6.3 wants a threshold of at least 100).
pub const RECEIVED_MAX: usize = 100;
/// Most `Received` fields that name us.
pub const OWN_RECEIVED_MAX: usize = 2;
/// Octets of a field looked at for `by <our name>`.
const FIELD_LOOK_BYTES: usize = 512;

/// Why a message is refused at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Over the size limit.
    #[error("over the size limit")]
    TooLarge,
    /// A lone CR, a lone LF or a NUL.
    #[error("lone CR, lone LF or NUL")]
    Stray,
    /// A line over [`TEXT_LINE_BYTES_MAX`].
    #[error("text line too long")]
    LineTooLong,
    /// Header section, number of fields, or one field too large.
    #[error("header too large")]
    HeaderTooLarge,
    /// The first line begins with a blank: below our `Received` field it would be part of it.
    #[error("begins with a continuation line")]
    Continuation,
    /// Too many hops.
    #[error("mail loop")]
    Loop,
}

impl Flaw {
    /// What we say to it.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::TooLarge => Reply::too_large(),
            Self::Stray => Reply::stray_octet(),
            Self::LineTooLong => Reply::text_line_too_long(),
            Self::HeaderTooLarge => Reply::header_too_large(),
            Self::Continuation => Reply::continuation_first(),
            Self::Loop => Reply::mail_loop(),
        }
    }
}

/// Watches one message pass by.
#[derive(Debug)]
pub struct Content {
    bytes: u64,
    bytes_max: u64,
    normalize: bool,
    after_cr: bool,
    line_bytes: usize,
    flaw: Option<Flaw>,
    header: Header,
}

impl Content {
    /// `bytes_max`: size limit in octets with CRLF, without stuffing (RFC 1870 §4). `hostname`: our name in
    /// `Received` fields.
    #[must_use]
    pub fn new(bytes_max: u64, normalize: bool, hostname: &str) -> Self {
        let header = Header::new(hostname);
        Self { bytes: 0, bytes_max, normalize, after_cr: false, line_bytes: 0, flaw: None, header }
    }

    /// Octets seen so far, as handed on or as they would have been.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Looks at decoded octets and appends to `out` what may be stored.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut rest = input;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_cr) {
                if first == b'\n' {
                    self.end_line(out);
                    rest = &rest[1..];
                    continue;
                }
                self.lone_cr(out);
            }
            let Some(n) = memchr3(b'\r', b'\n', 0, rest) else {
                self.text(rest, out);
                return;
            };
            self.text(&rest[..n], out);
            match rest[n] {
                b'\r' => self.after_cr = true,
                b'\n' if self.normalize => self.end_line(out),
                _ => {
                    self.bytes += 1;
                    self.note(Flaw::Stray);
                }
            }
            rest = &rest[n + 1..];
        }
    }

    /// The message has ended.
    ///
    /// # Errors
    /// The gravest [`Flaw`]: over the limit before everything else, so that the answer does not depend on
    /// what an over-long message contains.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Flaw> {
        if std::mem::take(&mut self.after_cr) {
            self.lone_cr(out);
        }
        if self.line_bytes > TEXT_LINE_BYTES_MAX {
            self.note(Flaw::LineTooLong);
        }
        if !self.header.over {
            self.header.end_field();
            self.watch_header();
        }
        if self.bytes > self.bytes_max {
            return Err(Flaw::TooLarge);
        }
        self.flaw.map_or(Ok(()), Err)
    }

    fn text(&mut self, run: &[u8], out: &mut Vec<u8>) {
        if run.is_empty() {
            return;
        }
        if !self.header.over && self.flaw.is_none() {
            self.header.text(self.line_bytes == 0, run);
            self.watch_header();
        }
        self.line_bytes = self.line_bytes.saturating_add(run.len());
        self.emit(run, out);
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if self.line_bytes > TEXT_LINE_BYTES_MAX {
            self.note(Flaw::LineTooLong);
        }
        if !self.header.over && self.flaw.is_none() {
            self.header.end_line(self.line_bytes == 0);
            self.watch_header();
        }
        self.line_bytes = 0;
        self.emit(b"\r\n", out);
    }

    fn lone_cr(&mut self, out: &mut Vec<u8>) {
        if self.normalize {
            self.text(b" ", out);
        } else {
            self.bytes += 1;
            self.note(Flaw::Stray);
        }
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.bytes_max {
            self.note(Flaw::TooLarge);
        }
        if self.flaw.is_none() {
            out.extend_from_slice(bytes);
        }
    }

    fn watch_header(&mut self) {
        if let Some(flaw) = self.header.flaw() {
            self.note(flaw);
        }
    }

    /// Keeps the gravest; a stray says more than what follows from it.
    fn note(&mut self, flaw: Flaw) {
        let grave = |flaw: Flaw| match flaw {
            Flaw::TooLarge => 5,
            Flaw::Stray => 4,
            Flaw::Loop => 3,
            Flaw::Continuation => 2,
            Flaw::HeaderTooLarge => 1,
            Flaw::LineTooLong => 0,
        };
        if self.flaw.is_none_or(|known| grave(flaw) > grave(known)) {
            self.flaw = Some(flaw);
        }
    }
}

/// Counts the header section line by line; keeps the beginning of one field.
#[derive(Debug)]
struct Header {
    over: bool,
    by_us: Vec<u8>,
    field: Vec<u8>,
    continued: bool,
    /// The first line continues a field that is none of the message's.
    orphaned: bool,
    bytes: usize,
    fields: usize,
    field_bytes: usize,
    received: usize,
    own_received: usize,
}

impl Header {
    fn new(hostname: &str) -> Self {
        let by_us = format!("by {}", hostname.to_ascii_lowercase()).into_bytes();
        Self {
            over: false,
            by_us,
            field: Vec::new(),
            continued: false,
            orphaned: false,
            bytes: 0,
            fields: 0,
            field_bytes: 0,
            received: 0,
            own_received: 0,
        }
    }

    fn text(&mut self, starts_line: bool, run: &[u8]) {
        if starts_line {
            self.continued = matches!(run.first(), Some(b' ' | b'\t'));
            self.orphaned |= self.continued && self.bytes == 0;
            if !self.continued {
                self.end_field();
                self.fields += 1;
            }
        }
        self.bytes = self.bytes.saturating_add(run.len());
        self.field_bytes = self.field_bytes.saturating_add(run.len());
        let room = FIELD_LOOK_BYTES.saturating_sub(self.field.len()).min(run.len());
        self.field.extend_from_slice(&run[..room]);
    }

    fn end_line(&mut self, empty: bool) {
        self.bytes += 2;
        self.field_bytes += 2;
        // An empty line ends the header; so does a line that can be no field.
        if empty || (!self.continued && !self.field.contains(&b':')) {
            self.end_field();
            self.over = true;
        }
    }

    fn end_field(&mut self) {
        self.field.make_ascii_lowercase();
        if self.field.starts_with(b"received:") {
            self.received += 1;
            self.own_received += usize::from(is_stamped(&self.field, &self.by_us));
        }
        self.field.clear();
        self.field_bytes = 0;
    }

    fn flaw(&self) -> Option<Flaw> {
        if self.received > RECEIVED_MAX || self.own_received > OWN_RECEIVED_MAX {
            Some(Flaw::Loop)
        } else if self.orphaned {
            Some(Flaw::Continuation)
        } else if self.bytes > HEADER_BYTES_MAX
            || self.fields > HEADER_FIELDS_MAX
            || self.field_bytes > FIELD_BYTES_MAX
        {
            Some(Flaw::HeaderTooLarge)
        } else {
            None
        }
    }
}

/// Whether a `Received` field in lower case has the clause `by_us` (`by mx.our.example`, lower case). A name
/// without a dot (`localhost`) is everybody's; it proves no loop through us.
#[must_use]
pub(crate) fn is_stamped(field: &[u8], by_us: &[u8]) -> bool {
    by_us.contains(&b'.')
        && memmem::find_iter(field, by_us).any(|at| {
            let before = at.checked_sub(1).and_then(|n| field.get(n));
            let after = field.get(at + by_us.len());
            let ends = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(');
            before.is_none_or(ends) && after.is_none_or(ends)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], chunk: usize, normalize: bool) -> Result<Vec<u8>, Flaw> {
        let (mut content, mut out) = (Content::new(1 << 20, normalize, "mx.our.example"), Vec::new());
        for piece in input.chunks(chunk.max(1)) {
            content.push(piece, &mut out);
        }
        content.finish(&mut out).map(|()| out)
    }

    fn verdict(input: &[u8]) -> Result<(), Flaw> {
        let whole = check(input, input.len(), false);
        assert_eq!(whole, check(input, 1, false));
        assert_eq!(whole, check(input, 7, false));
        whole.map(|out| assert_eq!(out, input))
    }

    #[test]
    fn lone_cr_lone_lf_and_nul_are_refused_wherever_they_are() {
        assert_eq!(verdict(b"Subject: o\r\n\r\nhello\r\n"), Ok(()));
        for input in ["a\nb\r\n", "a\rb\r\n", "a\0b\r\n", "\n", "a\r", "a: b\n\r\n", "a\r\r\n", "a\r\n\n"] {
            assert_eq!(verdict(input.as_bytes()), Err(Flaw::Stray), "{input:?}"); // C18
        }
        assert_eq!(verdict(b"no final line end"), Ok(())); // G8
        assert_eq!(verdict(b""), Ok(()));
    }

    #[test]
    fn normalize_makes_line_ends_of_line_feeds() {
        assert_eq!(check(b"a: b\n\nx\ry\r\nz\r", 1, true), Ok(b"a: b\r\n\r\nx y\r\nz ".to_vec()));
        assert_eq!(check(b"a\0", 2, true), Err(Flaw::Stray));
    }

    #[test]
    fn lines_of_998_octets_pass_and_999_do_not() {
        let line = |n: usize| [b"s: x\r\n\r\n".to_vec(), vec![b'x'; n], b"\r\n".to_vec()].concat();
        assert_eq!(verdict(&line(998)), Ok(())); // E6
        assert_eq!(verdict(&line(999)), Err(Flaw::LineTooLong));
        assert_eq!(verdict(&vec![b'x'; 999]), Err(Flaw::LineTooLong));
    }

    #[test]
    fn size_is_exact_and_outranks_every_other_flaw() {
        let size = |input: &[u8]| {
            let (mut content, mut out) = (Content::new(10, false, "mx"), Vec::new());
            content.push(input, &mut out);
            content.finish(&mut out)
        };
        assert_eq!(size(b"12345678\r\n"), Ok(())); // H5, H8
        assert_eq!(size(b"123456789\r\n"), Err(Flaw::TooLarge)); // H4
        assert_eq!(size(b"\n.\r\n0123456789"), Err(Flaw::TooLarge)); // C19
    }

    #[test]
    fn headers_are_bounded() {
        let fields = |n: usize| [b"a: b\r\n".repeat(n), b"\r\nbody\r\n".to_vec()].concat();
        assert_eq!(verdict(&fields(1000)), Ok(())); // E9
        assert_eq!(verdict(&fields(1001)), Err(Flaw::HeaderTooLarge));
        let folded = |n: usize| [b"a: b\r\n".to_vec(), b" cccccccc\r\n".repeat(n), b"\r\n".to_vec()].concat();
        assert_eq!(verdict(&folded(5900)), Ok(()));
        assert_eq!(verdict(&folded(6000)), Err(Flaw::HeaderTooLarge));
        let wide =
            |n: usize| [[b"a: ".to_vec(), vec![b'x'; 900], b"\r\n".to_vec()].concat().repeat(n)].concat();
        assert_eq!(verdict(&wide(280)), Ok(()));
        assert_eq!(verdict(&wide(300)), Err(Flaw::HeaderTooLarge));
        assert_eq!(verdict(&b"just text\r\n".repeat(2000)), Ok(()));
    }

    #[test]
    fn a_message_may_not_begin_inside_a_field() {
        for start in [" by mx.our.example with ESMTP", "\tfor <x@our.example>", " ", "\t"] {
            assert_eq!(verdict(format!("{start}\r\na: b\r\n\r\nx\r\n").as_bytes()), Err(Flaw::Continuation)); // L1
            assert_eq!(verdict(start.as_bytes()), Err(Flaw::Continuation));
        }
        assert_eq!(verdict(b"\r\n indented text\r\n"), Ok(()));
        assert_eq!(verdict(b"a: b\r\n c\r\n\r\n d\r\n"), Ok(()));
        assert_eq!(check(b"\ra: b\r\n", 1, true), Err(Flaw::Continuation), "a blank made of a lone CR");
    }

    #[test]
    fn hops_are_counted_in_the_header_only() {
        let hops = |n: usize, by: &str| {
            let field = format!("Received: from x\r\n\tby {by} with ESMTP id 1;\r\n\tdate\r\n");
            [field.repeat(n), "\r\nReceived: y\r\n".repeat(200)].concat()
        };
        assert_eq!(verdict(hops(100, "mx.other.example").as_bytes()), Ok(())); // L5
        assert_eq!(verdict(hops(101, "mx.other.example").as_bytes()), Err(Flaw::Loop));
        assert_eq!(verdict(hops(2, "MX.our.example").as_bytes()), Ok(())); // L6
        assert_eq!(verdict(hops(3, "MX.our.example").as_bytes()), Err(Flaw::Loop));
        assert_eq!(verdict(hops(3, "mx.our.example.net").as_bytes()), Ok(()));
    }
}
