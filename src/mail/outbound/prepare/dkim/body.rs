//! PURE: SHA-256 of a body in relaxed canonical form (RFC 6376 section 3.4.4), as it passes by.

use sha2::{Digest as _, Sha256};

/// The hash of one body. Expects CR LF line ends only.
#[derive(Clone, Debug, Default)]
pub struct BodyHash {
    hash: Sha256,
    /// Line ends that count only when text follows.
    line_ends: u64,
    /// Blanks that count, as one, only when text follows on their line.
    blanks: bool,
    any_text: bool,
}

impl BodyHash {
    /// The next octets.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            match first {
                b' ' | b'\t' => self.blanks = true,
                b'\r' => {}
                b'\n' => {
                    self.line_ends += 1;
                    self.blanks = false;
                }
                _ => {
                    let end = memchr::memchr3(b' ', b'\t', b'\r', rest).unwrap_or(rest.len());
                    self.text(&rest[..end]);
                    rest = &rest[end..];
                    continue;
                }
            }
            rest = &rest[1..];
        }
    }

    fn text(&mut self, run: &[u8]) {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.hash.update(b"\r\n");
        }
        if std::mem::take(&mut self.blanks) {
            self.hash.update(b" ");
        }
        self.hash.update(run);
        self.any_text = true;
    }

    /// The hash; of nothing at all for a body of blank lines alone.
    #[must_use]
    pub fn finish(mut self) -> [u8; 32] {
        if self.any_text {
            self.hash.update(b"\r\n");
        }
        self.hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(body: &str, piece: usize) -> [u8; 32] {
        let mut hash = BodyHash::default();
        body.as_bytes().chunks(piece.max(1)).for_each(|bytes| hash.feed(bytes));
        hash.finish()
    }

    fn same(body: &str, canonical: &str) {
        let wanted: [u8; 32] = Sha256::digest(canonical).into();
        for piece in [1, 2, 3, 1000] {
            assert_eq!(hash(body, piece), wanted, "{body:?} by {piece}");
        }
    }

    #[test]
    fn relaxed_form_follows_the_standard() {
        same("", ""); // T9
        same("\r\n\r\n", "");
        same(" \t\r\n", "");
        same(" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"); // RFC 6376 section 3.4.5
        same("line\r\n \t\r\n", "line\r\n");
        same("a\r\n\r\n \r\nb", "a\r\n\r\n\r\nb\r\n");
        same("\r\n\r\na\r\n", "\r\n\r\na\r\n");
        same("\t\ta  b\t\r\n", " a b\r\n");
    }
}
