//! PURE: the code of an invitation, as it is written on paper and on the wire.
//!
//! 24 characters of the key text's alphabet (120 random bits), shown in groups of four. Blanks, dashes and letter case
//! do not count when it is read. Whoever knows it may become the mailbox: it leaves memory when dropped, does not show
//! in debug output, and the spool keeps its hash only.

use core::fmt;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Random bytes of a code.
pub const RANDOM_BYTES: usize = 15;
/// Characters of a code without its dashes.
const CHARS: usize = 24;
/// Characters of one group.
const GROUP: usize = 4;
/// Longest text that is read, bytes.
const TEXT_BYTES_MAX: usize = 128;
/// What the hash begins with, so that it is no hash of anything else.
const HASH_PREFIX: &[u8] = b"waystation-invitation-1\0";

/// The code of an invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(Zeroizing<String>);

impl Code {
    /// The code made of these random bytes.
    #[must_use]
    pub fn from_random(random: &[u8; RANDOM_BYTES]) -> Self {
        let mut chars = Zeroizing::new(BASE32_NOPAD.encode(random));
        chars.make_ascii_lowercase();
        Self(chars)
    }

    /// Reads a code; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let mut chars = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
        chars.extend(text.chars().filter(|c| !matches!(c, '-' | ' ' | '\t')));
        chars.make_ascii_lowercase();
        let known = chars.len() == CHARS && chars.chars().all(|c| matches!(c, 'a'..='z' | '2'..='7'));
        known.then_some(Self(chars))
    }

    /// What the spool knows of it.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::new().chain_update(HASH_PREFIX).chain_update(self.0.as_bytes()).finalize().into()
    }

    /// As it is shown to a person: groups with dashes.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(CHARS + CHARS / GROUP));
        for (n, c) in self.0.chars().enumerate() {
            if n > 0 && n % GROUP == 0 {
                text.push('-');
            }
            text.push(c);
        }
        text
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no invitation code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_may_write_it_as_they_like() {
        let code = Code::from_random(&[7; RANDOM_BYTES]);
        let text = code.text();
        assert_eq!(text.len(), 29, "{}", *text);
        for spelled in
            [text.to_uppercase(), text.replace('-', " "), text.replace('-', ""), format!(" {}\t", *text)]
        {
            assert_eq!(Code::parse(&spelled), Some(code.clone()), "{spelled}");
        }
        for wrong in
            ["", "abcd", &text[1..], &format!("{}a", *text), &text.replace('-', "1"), &"-".repeat(200)]
        {
            assert_eq!(Code::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn it_does_not_show_and_its_hash_is_its_own() {
        let code = Code::from_random(&[7; RANDOM_BYTES]);
        assert_eq!(format!("{code:?}"), "Code(..)");
        assert_ne!(code.sha256(), Code::from_random(&[8; RANDOM_BYTES]).sha256());
        let json = serde_json::to_string(&code).unwrap();
        assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), code);
    }
}
