//! The body after `354`: finds its end and takes the stuffed dots off (RFC 5321 §4.5.2).
//!
//! Promises: nothing but CR LF `.` CR LF ends the data, where the line end before the first octet counts
//! as one; a dot is removed only after CR LF; the result is the same for any splitting of the input.
//! Everything else, strays included, goes on to [`super::content`], which refuses it. Reading always goes
//! on to the true end: to refuse earlier would let the rest of the body be read as commands.

use memchr::{memchr, memchr2};

/// Where in a line the decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// After CR LF, or before the first octet.
    Start,
    /// A dot at the start of a line.
    Dot,
    /// Dot, CR at the start of a line: LF ends the data.
    DotCr,
    /// Inside a line.
    Text,
    /// After a CR that may begin a line end.
    Cr,
    /// After a lone LF, lenient mode only.
    SoftStart,
    /// A dot after a lone LF, lenient mode only.
    SoftDot,
    /// The end was seen.
    End,
}

/// The dot decoder.
#[derive(Clone, Debug)]
pub struct DataReceiver {
    at: At,
    lenient: bool,
}

impl DataReceiver {
    /// `lenient`: unstuff after a lone LF too, for peers whose lines end so. Such a line never ends the data.
    #[must_use]
    pub fn new(lenient: bool) -> Self {
        Self { at: At::Start, lenient }
    }

    /// True once the end of the data was read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.at == At::End
    }

    /// Decodes up to the end of the data. Returns how many octets of `input` belonged to it; fewer than
    /// all means that the data has ended. Decoded octets go to `sink` in order.
    pub fn push(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> usize {
        let mut n = 0;
        while n < input.len() && self.at != At::End {
            let byte = input[n];
            let (next, used) = match (self.at, byte) {
                (At::Start, b'.') => (At::Dot, 1),
                (At::SoftStart, b'.') => (At::SoftDot, 1),
                (At::Start | At::SoftStart, _) => (At::Text, 0),
                (At::Dot, b'\r') => (At::DotCr, 1),
                (At::Dot, _) => (At::Text, 0), // the dot was stuffing
                (At::DotCr, b'\n') => (At::End, 1),
                (At::DotCr, _) => {
                    sink(b"\r");
                    (At::Cr, 0)
                }
                (At::SoftDot, b'\r' | b'\n') => {
                    sink(b"."); // a lone dot, but not the end: keep it
                    (At::Text, 0)
                }
                (At::SoftDot, _) => (At::Text, 0),
                (At::Cr, b'\n') => {
                    sink(b"\n");
                    (At::Start, 1)
                }
                (At::Cr, b'\r') => {
                    sink(b"\r");
                    (At::Cr, 1)
                }
                (At::Cr | At::Text, _) => self.text(&input[n..], &mut sink),
                (At::End, _) => (At::End, 0),
            };
            self.at = next;
            n += used;
        }
        n
    }

    /// A run of octets up to the next that matters.
    fn text(&self, rest: &[u8], sink: &mut impl FnMut(&[u8])) -> (At, usize) {
        let found = if self.lenient { memchr2(b'\r', b'\n', rest) } else { memchr(b'\r', rest) };
        let used = found.map_or(rest.len(), |n| n + 1);
        sink(&rest[..used]);
        let next = match found.map(|n| rest[n]) {
            Some(b'\r') => At::Cr,
            Some(_) => At::SoftStart,
            None => At::Text,
        };
        (next, used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8]) -> (Vec<u8>, Option<usize>) {
        let (mut out, mut receiver) = (Vec::new(), DataReceiver::new(false));
        let used = receiver.push(input, |bytes| out.extend_from_slice(bytes));
        (out, receiver.has_ended().then_some(used))
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_data() {
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
            "\r\n..\r\n",
            "\r\n .\r\n",
            "\r\n. \r\n",
            "\u{85}.\u{85}",
            "\u{2028}.\u{2028}",
            "\x0b.\x0b",
            "\x0c.\x0c",
        ] {
            let input = format!("hello{sequence}tail"); // C1-C12, C14-C16
            assert_eq!(decode(input.as_bytes()).1, None, "{input:?}");
        }
        assert_eq!(decode(b"a\r\r\n.\r\nMAIL"), (b"a\r\r\n".to_vec(), Some(7))); // C13
    }

    #[test]
    fn empty_data_ends_at_once() {
        assert_eq!(decode(b".\r\n"), (Vec::new(), Some(3))); // C17
    }

    #[test]
    fn one_leading_dot_is_removed() {
        let (out, _) = decode(b"..\r\n..a\r\n....\r\n..\r\n.\r\n"); // D1
        assert_eq!(out, b".\r\n.a\r\n...\r\n.\r\n");
        assert_eq!(decode(b"..Subject: x\r\n.\r\n").0, b".Subject: x\r\n");
        assert_eq!(decode(b".Subject: x\r\n.\r\n").0, b"Subject: x\r\n"); // D2
    }

    #[test]
    fn any_splitting_gives_the_same() {
        let alphabet = [b'\r', b'\n', b'.', b'a'];
        for code in 0..4_usize.pow(7) {
            let input: Vec<u8> = (0..7).map(|n| alphabet[code / 4_usize.pow(n) % 4]).collect();
            for lenient in [false, true] {
                let (mut whole, mut one) = (DataReceiver::new(lenient), DataReceiver::new(lenient));
                let (mut a, mut b) = (Vec::new(), Vec::new());
                let used = whole.push(&input, |bytes| a.extend_from_slice(bytes));
                let used_singly: usize =
                    input.iter().map(|&byte| one.push(&[byte], |bytes| b.extend_from_slice(bytes))).sum();
                assert_eq!((used, a, whole.at), (used_singly, b, one.at), "{input:?}");
            }
        }
    }

    #[test]
    fn a_lone_line_feed_never_ends_the_data_in_lenient_mode() {
        for input in ["a\n.\n", "a\n.\r\n", "a\r\n.\n", "a\n.\r\nb"] {
            let mut receiver = DataReceiver::new(true);
            receiver.push(input.as_bytes(), |_| {});
            assert!(!receiver.has_ended(), "{input:?}");
        }
        let mut out = Vec::new();
        DataReceiver::new(true).push(b"a\n..b\n.\nc", |bytes| out.extend_from_slice(bytes));
        assert_eq!(out, b"a\n.b\n.\nc");
    }
}
