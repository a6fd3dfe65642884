//! The body on its way out: dots added (RFC 5321 §4.5.2), and nothing let through that could end it early.
//!
//! Promises: every line that begins with a dot gets one more, from the very first octet and across any splitting; CR
//! and LF leave only as CRLF and NUL never, because a server may take a stray one for a line end, and so another place
//! than ours for the end of the message (C23). A message that does not end in CRLF gets one.

use memchr::memchr3;

/// An octet that may not be in a message on the wire: CR or LF alone, or NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message has a bare CR, a bare LF or a NUL and cannot pass SMTP unchanged")]
pub struct Stray;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Text,
    Cr,
}

/// Checks a message and adds the dots, piece by piece.
#[derive(Clone, Debug)]
pub struct Stuffer {
    at: At,
    dots: bool,
}

impl Stuffer {
    /// For `DATA`.
    #[must_use]
    pub fn for_data() -> Self {
        Self { at: At::Start, dots: true }
    }

    /// For `BDAT` (RFC 3030): the same checks, no dots.
    #[must_use]
    pub fn for_chunks() -> Self {
        Self { at: At::Start, dots: false }
    }

    /// Appends `piece` to `out` as it goes on the wire.
    ///
    /// # Errors
    /// [`Stray`]; what was appended up to there does not complete the message.
    pub fn stuff(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Stray> {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            match self.at {
                At::Start => {
                    if first == b'.' && self.dots {
                        out.push(b'.');
                    }
                    self.at = At::Text;
                }
                At::Cr if first == b'\n' => {
                    out.push(b'\n');
                    rest = &rest[1..];
                    self.at = At::Start;
                }
                At::Cr => return Err(Stray),
                At::Text => {
                    let found = memchr3(b'\r', b'\n', 0, rest);
                    if found.is_some_and(|at| rest[at] != b'\r') {
                        return Err(Stray);
                    }
                    let taken = found.map_or(rest.len(), |at| at + 1);
                    out.extend_from_slice(&rest[..taken]);
                    rest = &rest[taken..];
                    if found.is_some() {
                        self.at = At::Cr;
                    }
                }
            }
        }
        Ok(())
    }

    /// The message is over: appends the line end that its last line lacks. The dot is not ours to write.
    ///
    /// # Errors
    /// [`Stray`] when it ends in CR.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Stray> {
        match self.at {
            At::Start => Ok(()),
            At::Text => {
                out.extend_from_slice(b"\r\n");
                self.at = At::Start;
                Ok(())
            }
            At::Cr => Err(Stray),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(body: &[u8], size: usize, mut stuffer: Stuffer) -> Result<Vec<u8>, Stray> {
        let mut out = Vec::new();
        for piece in body.chunks(size.max(1)) {
            stuffer.stuff(piece, &mut out)?;
        }
        stuffer.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn dots_are_added_at_every_split() {
        for (body, want) in [
            (&b".\r\n..x\r\na.\r\n."[..], &b"..\r\n...x\r\na.\r\n..\r\n"[..]), // D3, D4
            (b".\r\nMAIL FROM:<>\r\n", b"..\r\nMAIL FROM:<>\r\n"),             // the very first octet
            (b"a\r\n.\r\n", b"a\r\n..\r\n"),                                   // D5
            (b"", b""),
            (b"\r\n.", b"\r\n..\r\n"),
        ] {
            for size in 1..=body.len().max(1) {
                assert_eq!(stuffed(body, size, Stuffer::for_data()).as_deref(), Ok(want), "{body:?}");
            }
        }
        assert_eq!(stuffed(b".a\r\n.", 2, Stuffer::for_chunks()).as_deref(), Ok(&b".a\r\n.\r\n"[..]));
    }

    #[test]
    fn strays_never_leave() {
        for sequence in [
            "\n.\n",
            "\n.\r\n",
            "\r\n.\n",
            "\n.\r",
            "\r.\n",
            "\r.\r",
            "\r.\r\n",
            "\r\n.\rx",
            "\r\n\0.\r\n",
            "\r\n.\0\r\n",
            "\r\n.\r\r\n",
            "\r\r\n.\r\r\n",
            "\r\r\n.\r\n",
        ] {
            let body = format!("a{sequence}b"); // C23: all of C1-C13
            for size in 1..=body.len() {
                for stuffer in [Stuffer::for_data(), Stuffer::for_chunks()] {
                    assert_eq!(stuffed(body.as_bytes(), size, stuffer), Err(Stray), "{body:?}");
                }
            }
        }
        assert_eq!(stuffed(b"a\r", 1, Stuffer::for_data()), Err(Stray));
    }
}
