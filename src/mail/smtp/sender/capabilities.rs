//! What a server offers in its answer to `EHLO` (RFC 5321 §4.1.1.1).
//!
//! Promise: keywords are read in any case and with any blanks; what is not understood is left out, and a broken
//! parameter makes its keyword count as offered without one. Nothing here grows with what the server writes.

use super::answer::Answer;

/// Extensions of one server that matter to a client that relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `STARTTLS` (RFC 3207).
    pub starttls: bool,
    /// `PIPELINING` (RFC 2920).
    pub pipelining: bool,
    /// `8BITMIME` (RFC 6152); `SMTPUTF8` implies it (I1).
    pub eight_bit: bool,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `CHUNKING` (RFC 3030).
    pub chunking: bool,
    /// `ENHANCEDSTATUSCODES` (RFC 2034).
    pub enhanced_codes: bool,
    /// `SIZE` (RFC 1870): whether the parameter may be given.
    pub size: bool,
    /// The size it declares, octets; `None` when it declares none or 0.
    pub size_bytes_max: Option<u64>,
    /// `RCPTMAX` of `LIMITS` (RFC 9422): recipients per message.
    pub recipients_max: Option<u64>,
    /// `MAILMAX` of `LIMITS`: messages per connection.
    pub messages_max: Option<u64>,
}

impl Capabilities {
    /// Reads the answer; its first line is the server's name.
    #[must_use]
    pub fn read(answer: &Answer) -> Self {
        let mut offered = Self::default();
        for line in answer.lines.iter().skip(1) {
            offered.keyword(&String::from_utf8_lossy(line).to_ascii_uppercase());
        }
        offered
    }

    fn keyword(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        match words.next().unwrap_or_default() {
            "STARTTLS" => self.starttls = true,
            "PIPELINING" => self.pipelining = true,
            "8BITMIME" => self.eight_bit = true,
            "SMTPUTF8" => (self.smtputf8, self.eight_bit) = (true, true),
            "CHUNKING" => self.chunking = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_codes = true,
            "SIZE" => {
                self.size = true;
                self.size_bytes_max = words.next().and_then(positive);
            }
            "LIMITS" => {
                for limit in words {
                    match limit.split_once('=') {
                        Some(("RCPTMAX", value)) => self.recipients_max = positive(value),
                        Some(("MAILMAX", value)) => self.messages_max = positive(value),
                        Some(_) | None => {}
                    }
                }
            }
            _ => {}
        }
    }
}

fn positive(word: &str) -> Option<u64> {
    word.parse().ok().filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Capabilities {
        let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        Capabilities::read(&Answer { code: 250, lines })
    }

    #[test]
    fn keywords_are_read_in_any_dress() {
        let got = read(&[
            "mx.example STARTTLS",
            "  pipelining ",
            "8BitMime",
            "size   1000",
            "X-NOVEL\u{ff}",
            "",
            "Chunking",
            "LIMITS RCPTMAX=20 MAILMAX=x FOO",
        ]); // P5
        assert!(got.pipelining && got.eight_bit && got.size && got.chunking);
        assert!(!got.starttls, "the first line is a name");
        assert_eq!((got.size_bytes_max, got.recipients_max, got.messages_max), (Some(1000), Some(20), None));
    }

    #[test]
    fn a_size_of_nothing_is_no_limit() {
        for line in ["SIZE", "SIZE 0", "SIZE abc", "SIZE 99999999999999999999999"] {
            let got = read(&["mx", line]);
            assert!(got.size && got.size_bytes_max.is_none(), "{line}");
        }
        assert_eq!(read(&["mx STARTTLS"]), Capabilities::default());
    }
}
