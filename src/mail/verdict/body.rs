//! PURE: SHA-256 of a body in either canonical form of DKIM, as it passes by (RFC 6376 section 3.4.3 to 3.4.5).
//!
//! Promises: the hash does not depend on how the octets are split; a few dozen octets of memory, however long the
//! body. Expects CR LF line ends only, which is what the receiver lets through.

use sha2::{Digest as _, Sha256};

/// How the body is brought into shape before it is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is, but for blank lines at the end.
    Simple,
    /// Blanks at line ends do not count, several elsewhere count as one.
    Relaxed,
}

/// The hash of one body.
#[derive(Clone, Debug)]
pub struct BodyHash {
    form: Form,
    /// Octets that are still to be hashed, when a signature covers a part of the body (`l=`).
    left: Option<u64>,
    hash: Sha256,
    /// Line ends that count only when text follows.
    line_ends: u64,
    /// Blanks that count, as one, only when text follows on their line.
    blanks: bool,
    any_text: bool,
}

impl BodyHash {
    /// `limit`: the signature's `l=`, octets of the canonical form.
    #[must_use]
    pub fn new(form: Form, limit: Option<u64>) -> Self {
        Self { form, left: limit, hash: Sha256::new(), line_ends: 0, blanks: false, any_text: false }
    }

    /// The next octets.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.left == Some(0) {
            return;
        }
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            let relaxed = self.form == Form::Relaxed;
            match first {
                b' ' | b'\t' if relaxed => self.blanks = true,
                b'\r' => {}
                b'\n' => {
                    self.line_ends += 1;
                    self.blanks = false;
                }
                _ => {
                    let end = if relaxed {
                        memchr::memchr3(b' ', b'\t', b'\r', rest)
                    } else {
                        memchr::memchr2(b'\r', b'\n', rest)
                    };
                    let end = end.unwrap_or(rest.len()).max(1);
                    self.text(&rest[..end]);
                    rest = &rest[end..];
                    continue;
                }
            }
            rest = &rest[1..];
        }
    }

    /// The hash, or `None` when the body is shorter than `l=` says (RFC 6376 section 3.5).
    #[must_use]
    pub fn finish(mut self) -> Option<[u8; 32]> {
        if self.any_text || self.form == Form::Simple {
            self.write(b"\r\n");
        }
        self.left.is_none_or(|left| left == 0).then(|| self.hash.finalize().into())
    }

    fn text(&mut self, run: &[u8]) {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.write(b"\r\n");
        }
        if std::mem::take(&mut self.blanks) {
            self.write(b" ");
        }
        self.write(run);
        self.any_text = true;
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(left) = &mut self.left else { return self.hash.update(bytes) };
        let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        *left -= taken as u64;
        self.hash.update(&bytes[..taken]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(form: Form, limit: Option<u64>, body: &[u8], piece: usize) -> Option<[u8; 32]> {
        let mut hash = BodyHash::new(form, limit);
        body.chunks(piece).for_each(|bytes| hash.feed(bytes));
        hash.finish()
    }

    fn same(form: Form, body: &[u8], canonical: &[u8]) {
        let expected: [u8; 32] = Sha256::digest(canonical).into();
        for piece in [1, 2, 3, 7, 4096] {
            assert_eq!(hash(form, None, body, piece), Some(expected), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn relaxed_bodies_lose_blanks_and_simple_ones_only_their_last_lines() {
        let body = b" C \r\nD \t E\r\n \t\r\n\r\n"; // RFC 6376 section 3.4.5
        same(Form::Relaxed, body, b" C\r\nD E\r\n");
        same(Form::Simple, body, b" C \r\nD \t E\r\n \t\r\n");
        same(Form::Relaxed, b"", b"");
        same(Form::Relaxed, b"\r\n \r\n", b"");
        same(Form::Simple, b"", b"\r\n");
        same(Form::Simple, b"\r\n\r\n", b"\r\n");
        same(Form::Simple, b"no line end", b"no line end\r\n");
        same(Form::Relaxed, b"a\r\n\r\n\r\nb\r\n", b"a\r\n\r\n\r\nb\r\n");
    }

    #[test]
    fn a_part_of_the_body_is_a_part_of_its_canonical_form() {
        let first = |n: u64, piece| hash(Form::Relaxed, Some(n), b"a  b\r\nmore\r\n", piece);
        for piece in [1, 5, 100] {
            assert_eq!(first(5, piece), Some(Sha256::digest(b"a b\r\n").into())); // M6
            assert_eq!(first(11, piece), Some(Sha256::digest(b"a b\r\nmore\r\n").into()));
            assert_eq!(first(12, piece), None);
        }
    }
}
