//! Takes forged copies of our own field out of the head of a message, while it streams.
//!
//! Promises: nothing but fields of the name [`FIELD_NAME`] is taken out, in any letter case, folded or not, with blanks,
//! controls and octets beyond ASCII in it or behind it, because readers take such things off a name; from the empty line that ends the head on, every byte passes. At most the beginning of a line is held back.
//! A message that begins with a blank has no head; it gets the empty line that says so, or its first line would continue our
//! own field, which stands above it. [`Filter::removed`] tells whether the message is not the one that came.

use super::checked::FIELD_NAME;

/// Most bytes that are held back until a name is known: its letters, and what cannot be seen between and behind them. As
/// long as the longest field that the relay takes.
const HELD_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing has come.
    Nothing,
    /// The beginning of a line; what is held decides.
    Start,
    /// Inside a line that passes, or not.
    Line,
    /// Behind the head.
    Body,
}

/// One message's filter.
#[derive(Debug)]
pub struct Filter {
    at: At,
    held: Vec<u8>,
    /// Letters of our name that are held.
    matched: usize,
    /// The field under way is being taken out, and so are the lines that continue it.
    dropping: bool,
    removed: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self { at: At::Nothing, held: Vec::new(), matched: 0, dropping: false, removed: false }
    }
}

impl Filter {
    /// Whether anything was taken out.
    #[must_use]
    pub fn removed(&self) -> bool {
        self.removed
    }

    /// The next bytes; what passes is added to `out`.
    pub fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some((&byte, after)) = bytes.split_first() {
            match self.at {
                At::Nothing if matches!(byte, b' ' | b'\t') => {
                    out.extend_from_slice(b"\r\n");
                    self.at = At::Body;
                }
                At::Nothing => self.at = At::Start,
                At::Body => return out.extend_from_slice(bytes),
                At::Line => {
                    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
                    let (line, rest) = bytes.split_at(end);
                    if !self.dropping {
                        out.extend_from_slice(line);
                    }
                    if line.ends_with(b"\n") {
                        self.at = At::Start;
                    }
                    bytes = rest;
                }
                At::Start => {
                    self.held.push(byte);
                    bytes = after;
                    self.decide(byte, out);
                }
            }
        }
    }

    /// The message is over; what is held passes.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.at = At::Body;
    }

    /// Looks at the beginning of a line, of which `byte` is the latest.
    fn decide(&mut self, byte: u8, out: &mut Vec<u8>) {
        let whole = self.matched == FIELD_NAME.len();
        let expected = FIELD_NAME.as_bytes().get(self.matched);
        match self.held.as_slice() {
            b"\n" | b"\r\n" => {
                out.append(&mut self.held);
                self.at = At::Body;
            }
            b"\r" | [.., b'\n', b' ' | b'\t'] => {} // the latter: a name that is folded
            [b' ' | b'\t'] => self.settle(self.dropping, out),
            [.., b'\n', _] => {
                // There was no colon: a line of its own. Another one begins.
                self.held.pop();
                out.append(&mut self.held);
                self.held.push(byte);
                (self.matched, self.dropping) = (0, false);
                self.decide(byte, out);
            }
            _ if whole && byte == b':' => self.settle(true, out),
            held if !byte.is_ascii_graphic() && held.len() < HELD_BYTES_MAX => {}
            _ if !byte.is_ascii_graphic() => self.settle(whole, out),
            _ if expected.is_some_and(|letter| letter.eq_ignore_ascii_case(&byte)) => self.matched += 1,
            _ => self.settle(false, out),
        }
    }

    /// It is known what becomes of the field: it is dropped, or passes.
    fn settle(&mut self, dropped: bool, out: &mut Vec<u8>) {
        let ended = self.held.ends_with(b"\n");
        if dropped {
            self.held.clear();
        } else {
            out.append(&mut self.held);
        }
        (self.dropping, self.removed, self.matched) = (dropped, self.removed || dropped, 0);
        self.at = if ended { At::Start } else { At::Line };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(message: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let (mut filter, mut out) = (Filter::default(), Vec::new());
        for bytes in message.chunks(piece) {
            filter.take(bytes, &mut out);
        }
        filter.finish(&mut out);
        (out, filter.removed())
    }

    #[test]
    fn a_name_in_disguise_is_our_name() {
        let name = "Waystation-Attestation";
        for forged in [
            format!("{name}\u{a0}: ok\r\n"),
            format!("{name}\x0b\x1f: ok\r\n"),
            format!("\x0b{name}: ok\r\n"),
            "Way\u{feff}station-Attestation: ok\r\n".to_owned(),
            format!("{name}\r\n : ok\r\n\tmore\r\n"),
            format!("{name}{}: ok\r\n", " ".repeat(3000)),
        ] {
            let message = format!("Subject: a\r\n{forged}To: b\r\n{name}\r\nWay\r\n\r\nbody\r\n");
            let wanted = format!("Subject: a\r\nTo: b\r\n{name}\r\nWay\r\n\r\nbody\r\n");
            for piece in [1, 2, 7, message.len()] {
                let (out, removed) = filtered(message.as_bytes(), piece);
                assert_eq!(String::from_utf8(out).unwrap(), wanted, "{forged:?}");
                assert!(removed);
            }
        }
    }

    #[test]
    fn a_first_line_does_not_continue_our_field() {
        for first in [" spf=pass", "\tspf=pass"] {
            let message = format!("{first}\r\nWaystation-Attestation: x\r\n\r\nbody");
            for piece in [1, 3, 100] {
                let expected = format!("\r\n{message}").into_bytes();
                assert_eq!(filtered(message.as_bytes(), piece), (expected, false));
            }
        }
        assert_eq!(filtered(b"", 1), (Vec::new(), false));
    }

    #[test]
    fn forged_fields_go_and_the_rest_stays_however_it_is_cut() {
        let message = b"Received: x\r\n\ty\r\nWAYSTATION-attestation: ok; spf=pass\r\n\tdkim=pass\r\n a\r\nSubject: b\r\n \
            Waystation-Attestation: c\r\nWaystation-Attestation \t: d\nWaystation-Attestations: e\r\n\
            Waystation-Attest\r\n\r\nWaystation-Attestation: in the body\r\n";
        let wanted = b"Received: x\r\n\ty\r\nSubject: b\r\n \
            Waystation-Attestation: c\r\nWaystation-Attestations: e\r\n\
            Waystation-Attest\r\n\r\nWaystation-Attestation: in the body\r\n";
        for piece in 1..message.len() {
            let (out, removed) = filtered(message, piece);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                String::from_utf8(wanted.to_vec()).unwrap(),
                "{piece}"
            );
            assert!(removed);
        }
    }

    #[test]
    fn other_messages_pass_byte_for_byte() {
        let long = [b"Waystation-Attestation".as_slice(), &[b' '; 5000], b"x: y\r\n"].concat();
        let messages: [&[u8]; 9] = [
            b"",
            b"\n",
            b"\r",
            b"\r\nWaystation-Attestation: x\r\n",
            b"\nWaystation-Attestation: x\n",
            b"Waystation-Attestation",
            b"Subject: x\rWaystation-Attestation: one line with a stray CR\r\n\r\n",
            b"x\r\n Waystation-Attestation: x\r\n\xff\0\r\n",
            &long,
        ];
        for message in messages {
            for piece in [1, 2, 7, 10_000] {
                assert_eq!(filtered(message, piece), (message.to_vec(), false));
            }
        }
    }

    #[test]
    fn a_message_that_is_nothing_else_is_empty() {
        assert_eq!(filtered(b"waystation-attestation:x\r\n y", 3), (Vec::new(), true));
    }
}
