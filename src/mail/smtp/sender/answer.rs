//! What a server answers: one reply, read from octets that come in any pieces (RFC 5321 §4.2).
//!
//! Promises: the result is the same for any splitting of the input; a line, a reply and the number of its lines are
//! bounded, and beyond a bound the answer is an error, never a truncated success; only a line with a blank or nothing
//! after its code completes a reply. What was heard of an unfinished reply can be shown ([`AnswerParser::fragment`]).
//!
//! Tolerates what harms nobody: a bare LF as line end, a TAB for the blank, no text, blanks everywhere in the text,
//! another code of the same class on the last line.

use crate::mail::outbound::values::remote_text;

/// Longest line of a reply with its line end, octets; RFC 5321 §4.5.3.1.5 says 512, some servers write novels.
pub const LINE_BYTES_MAX: usize = 4096;
/// Longest reply, octets (P12).
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A complete reply of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The three digits, 200 to 599.
    pub code: u16,
    /// Texts of the lines after the code and its separator, as they came.
    pub lines: Vec<Vec<u8>>,
}

impl Answer {
    /// 2, 3, 4 or 5.
    #[must_use]
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    /// The enhanced status code (RFC 3463), when the first line begins with one of the right class.
    #[must_use]
    pub fn enhanced(&self) -> Option<String> {
        let first = self.lines.first()?;
        let status = enhanced_prefix(first, self.class())?;
        Some(String::from_utf8_lossy(status).into_owned())
    }

    /// The words without codes, fit for logs and records: one line, no controls, bounded (P20).
    #[must_use]
    pub fn text(&self) -> String {
        let mut words = Vec::new();
        for line in &self.lines {
            let skip = enhanced_prefix(line, self.class()).map_or(0, <[u8]>::len);
            if !words.is_empty() {
                words.push(b' ');
            }
            words.extend_from_slice(line[skip..].trim_ascii());
        }
        remote_text(&words)
    }
}

/// `5.1.1` at the beginning of a line, if it belongs to `class` and is followed by a blank or the end.
fn enhanced_prefix(line: &[u8], class: u16) -> Option<&[u8]> {
    let word = line.split(|b| *b == b' ' || *b == b'\t').next()?;
    let mut parts = word.split(|b| *b == b'.');
    let digits = |part: &[u8]| (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
    let mut next = || parts.next().filter(|part| digits(part));
    let (first, _, _) = (next()?, next()?, next()?);
    (parts.next().is_none() && first == class.to_string().as_bytes()).then_some(word)
}

/// What came is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A line beyond [`LINE_BYTES_MAX`].
    #[error("a reply line is too long")]
    LineTooLong,
    /// More than [`ANSWER_BYTES_MAX`] without an end.
    #[error("a reply is too long")]
    TooLong,
    /// A line without code, or with a code of another class than the lines before it.
    #[error("not an SMTP reply")]
    NotSmtp,
}

/// Reads replies, one after the other.
#[derive(Clone, Debug, Default)]
pub struct AnswerParser {
    line: Vec<u8>,
    lines: Vec<Vec<u8>>,
    code: Option<u16>,
    bytes: usize,
}

impl AnswerParser {
    /// Takes octets up to the end of the next reply. Returns how many it took, and the reply when it is complete.
    ///
    /// # Errors
    /// [`AnswerError`]; the connection is of no use after that, as nobody knows where the next reply begins. What was
    /// read stays available as [`AnswerParser::fragment`].
    pub fn push(&mut self, input: &[u8]) -> (usize, Result<Option<Answer>, AnswerError>) {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            let found = memchr::memchr(b'\n', rest);
            let taken = found.map_or(rest.len(), |at| at + 1);
            let room = LINE_BYTES_MAX - self.line.len();
            if taken > room {
                self.line.extend_from_slice(&rest[..room]);
                return (used + room, Err(AnswerError::LineTooLong));
            }
            self.line.extend_from_slice(&rest[..taken]);
            used += taken;
            self.bytes += taken;
            if self.bytes > ANSWER_BYTES_MAX {
                return (used, Err(AnswerError::TooLong));
            }
            if found.is_some() {
                match self.end_of_line() {
                    Ok(None) => {}
                    decided => return (used, decided),
                }
            }
        }
        (used, Ok(None))
    }

    /// True between replies.
    #[must_use]
    pub fn is_at_start(&self) -> bool {
        self.bytes == 0 && self.line.is_empty()
    }

    /// What was heard of a reply that is not complete, fit for a record (Q7).
    #[must_use]
    pub fn fragment(&self) -> String {
        let mut heard = Vec::new();
        for line in &self.lines {
            heard.extend_from_slice(self.code.unwrap_or_default().to_string().as_bytes());
            heard.push(b'-');
            heard.extend_from_slice(line);
            heard.push(b' ');
        }
        heard.extend_from_slice(&self.line);
        remote_text(&heard)
    }

    fn end_of_line(&mut self) -> Result<Option<Answer>, AnswerError> {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, is_last, text) = split_line(line).ok_or(AnswerError::NotSmtp)?;
        if self.code.is_some_and(|before| before / 100 != code / 100) {
            return Err(AnswerError::NotSmtp);
        }
        self.lines.push(text.to_vec());
        self.code = Some(code);
        self.line.clear();
        if !is_last {
            return Ok(None);
        }
        let lines = core::mem::take(&mut self.lines);
        *self = Self::default();
        Ok(Some(Answer { code, lines }))
    }
}

/// Code, whether it is the last line of its reply, text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !(b'2'..=b'5').contains(&digits[0]) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ' | b'\t', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<Option<Answer>, AnswerError> {
        AnswerParser::default().push(input).1
    }

    fn answer(code: u16, lines: &[&str]) -> Answer {
        Answer { code, lines: lines.iter().map(|line| line.as_bytes().to_vec()).collect() }
    }

    #[test]
    fn replies_of_every_shape_are_read_at_every_split() {
        for (input, want) in [
            ("250 ok\r\n", answer(250, &["ok"])),
            ("250\r\n", answer(250, &[""])),
            ("250 \r\n", answer(250, &[""])),
            ("250\tok\r\n", answer(250, &["ok"])),
            ("250 ok\n", answer(250, &["ok"])), // P12
            ("250-a\n250-b\r\n250 c\n", answer(250, &["a", "b", "c"])),
            ("250-\r\n250\r\n", answer(250, &["", ""])),
            ("250-a\r\n251 b\r\n", answer(251, &["a", "b"])),
            ("421  4.3.2   bye \r\n", answer(421, &[" 4.3.2   bye "])),
        ] {
            for cut in 0..=input.len() {
                let mut parser = AnswerParser::default();
                let (first, second) = input.as_bytes().split_at(cut);
                let got = match parser.push(first) {
                    (used, Ok(Some(answer))) => {
                        assert_eq!(used, first.len());
                        Some(answer)
                    }
                    (_, Ok(None)) => parser.push(second).1.unwrap(),
                    (_, Err(error)) => panic!("{input:?}: {error}"),
                };
                assert_eq!(got.as_ref(), Some(&want), "{input:?} cut at {cut}");
                assert!(parser.is_at_start());
            }
        }
    }

    #[test]
    fn the_next_reply_is_left_alone() {
        let mut parser = AnswerParser::default();
        let (used, first) = parser.push(b"250 a\r\n550 b\r\n");
        assert_eq!((used, first.unwrap().unwrap().code), (7, 250));
        assert_eq!(parser.push(b"550 b\r\n").1.unwrap().unwrap().code, 550);
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for input in [
            "hello\r\n",
            "\r\n",
            "25\r\n",
            "250x\r\n",
            "150 x\r\n",
            "650 x\r\n",
            " 250 x\r\n",
            "25\u{e4}\r\n",
            "250-a\r\n550 b\r\n",
            "250-a\r\n\r\n",
        ] {
            assert_eq!(read(input.as_bytes()), Err(AnswerError::NotSmtp), "{input:?}");
        }
    }

    #[test]
    fn replies_are_bounded() {
        assert_eq!(read(&vec![b'2'; 5_000_000]), Err(AnswerError::LineTooLong)); // P12
        let endless = b"250-more\r\n".repeat(500_000);
        let mut parser = AnswerParser::default();
        assert_eq!(parser.push(&endless).1, Err(AnswerError::TooLong));
        assert!(parser.line.capacity() + parser.lines.len() * 40 < 10 * ANSWER_BYTES_MAX);
        let mut ehlo = "250-x.example\r\n".to_owned();
        for n in 0..200 {
            ehlo.push_str(&format!("250-X-UNKNOWN-KEYWORD-{n} with some words\r\n")); // P5
        }
        ehlo.push_str("250 SIZE 5\r\n");
        assert_eq!(read(ehlo.as_bytes()).unwrap().unwrap().lines.len(), 202);
    }

    #[test]
    fn fragments_are_kept() {
        for (input, want) in
            [("25", "25"), ("250-queued\r\n", "250-queued"), ("250-a\r\n250 b\r", "250-a 250 b")]
        {
            let mut parser = AnswerParser::default();
            assert_eq!(parser.push(input.as_bytes()).1, Ok(None));
            assert_eq!(parser.fragment(), want); // Q7
        }
    }

    #[test]
    fn enhanced_codes_are_told_from_words() {
        let of = |code, line: &str| (answer(code, &[line]).enhanced(), answer(code, &[line]).text());
        assert_eq!(of(550, "5.1.1 no such user"), (Some("5.1.1".into()), "no such user".into()));
        assert_eq!(of(550, "4.1.1 no"), (None, "4.1.1 no".into()));
        assert_eq!(of(250, "192.0.2.1 ok"), (None, "192.0.2.1 ok".into()));
        assert_eq!(of(250, "2.0.0"), (Some("2.0.0".into()), String::new()));
        assert_eq!(answer(550, &["5.7.1 one", "5.7.1 t\x1bwo"]).text(), "one t wo");
    }
}
