//! Takes forged copies of our own field out of the head of a message, while it streams.
//!
//! Promises: nothing but fields of the name [`FIELD_NAME`] (any letter case, blanks before the colon, folded or not) is
//! taken out; from the empty line that ends the head on, every byte passes. At most one line's beginning is held back.
//! [`Filter::removed`] tells whether the message is not the one that came.

use super::checked::FIELD_NAME;

/// Most bytes of a line that are held back until its name is known: the name, and blanks before the colon.
const HELD_BYTES_MAX: usize = FIELD_NAME.len() + 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
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
    /// The field under way is being taken out, and so are the lines that continue it.
    dropping: bool,
    removed: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self { at: At::Start, held: Vec::new(), dropping: false, removed: false }
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
        while !bytes.is_empty() {
            match self.at {
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
                    self.held.push(bytes[0]);
                    bytes = &bytes[1..];
                    self.decide(out);
                }
            }
        }
    }

    /// The message is over; what is held passes.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.at = At::Body;
    }

    /// Looks at the beginning of a line.
    fn decide(&mut self, out: &mut Vec<u8>) {
        let held = self.held.as_slice();
        let name = FIELD_NAME.as_bytes();
        let begun = held.len().min(name.len());
        match held {
            b"\n" | b"\r\n" => self.at = At::Body,
            b"\r" => return,
            [b' ' | b'\t', ..] => self.at = At::Line,
            _ if !held[..begun].eq_ignore_ascii_case(&name[..begun]) => self.pass(),
            _ if held.len() <= name.len() => return,
            [.., b':'] => {
                (self.dropping, self.removed, self.at) = (true, true, At::Line);
                return self.held.clear();
            }
            [.., b' ' | b'\t'] if held.len() < HELD_BYTES_MAX => return,
            _ => self.pass(),
        }
        let ended = self.held.ends_with(b"\n");
        if self.at != At::Line || !self.dropping {
            out.append(&mut self.held);
        }
        self.held.clear();
        if self.at == At::Line && ended {
            self.at = At::Start;
        }
    }

    fn pass(&mut self) {
        (self.dropping, self.at) = (false, At::Line);
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
            b" Waystation-Attestation: x\r\n\xff\0\r\n",
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
