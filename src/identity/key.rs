//! Keys of gateways: their one text form, and signing.
//!
//! Promises: one key has exactly one [`KeyText`]; what parses is a usable key (its point decodes, is
//! canonical and not of small order); a [`SecretKey`] is wiped when dropped and never printed.
//!
//! Does not read or write files ([`super::keyfile`] does) and draws no random numbers.
//!
//! Failure policy: a text that is nearly a key is refused with the reason, never repaired. Only
//! [`KeyText::from_peer`] normalises, and only what the wire protocol says: outer blanks and letter case.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Characters in every key text: 32 bytes as base32 without padding.
pub const KEY_TEXT_LEN: usize = 52;
/// Longest text from a peer that is looked at; a key text with a few blanks around it.
const PEER_TEXT_BYTES_MAX: usize = 128;

/// The canonical base32 text of a usable Ed25519 public key.
///
/// 52 characters of `a-z2-7`, the last one `a` or `q`. It is the gateway's name, its lane's name and the
/// local part of its address. Equal texts are equal keys, and the other way round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyText([u8; KEY_TEXT_LEN]);

/// Why a text names no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not 52 characters.
    #[error("key text has {0} characters, not 52")]
    Length(usize),
    /// A character outside `a-z2-7`.
    #[error("key text has a character outside a-z and 2-7 at position {0}")]
    Alphabet(usize),
    /// The last character carries bits beyond the key: one of the 15 other spellings of it.
    #[error("key text is not the canonical spelling of its key")]
    Spelling,
    /// The bytes are no point of the curve, or not the canonical bytes of it.
    #[error("key text does not name an Ed25519 key")]
    Point,
    /// A point of small order, for which signatures without the secret key exist.
    #[error("key text names a weak key")]
    Weak,
}

impl KeyText {
    /// The text of a raw public key (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`KeyTextError::Point`] or [`KeyTextError::Weak`].
    pub fn from_public_key(raw: &[u8; 32]) -> Result<Self, KeyTextError> {
        let key = VerifyingKey::from_bytes(raw).map_err(|_| KeyTextError::Point)?;
        if key.is_weak() {
            return Err(KeyTextError::Weak);
        }
        // `from_bytes` also takes y coordinates that were not reduced: second encodings of one point.
        if key.to_edwards().compress().as_bytes() != raw {
            return Err(KeyTextError::Point);
        }
        Ok(Self::spell(raw))
    }

    /// Reads a key text as a peer sent it: blanks around it and upper case are forgiven, nothing else.
    ///
    /// # Errors
    /// As [`KeyText::from_str`].
    pub fn from_peer(text: &str) -> Result<Self, KeyTextError> {
        if text.len() > PEER_TEXT_BYTES_MAX {
            return Err(KeyTextError::Length(text.len()));
        }
        text.trim().to_ascii_lowercase().parse()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The 32 raw bytes of the public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        let mut raw = [0; 32];
        let upper = self.0.to_ascii_uppercase();
        // Both lengths are right by construction; a zero key would verify nothing.
        if let Ok(bytes) = BASE32_NOPAD.decode(&upper)
            && bytes.len() == raw.len()
        {
            raw.copy_from_slice(&bytes);
        }
        raw
    }

    /// The public key as `-----BEGIN PUBLIC KEY-----` (SPKI, RFC 8410), with LF line ends.
    #[must_use]
    pub fn to_spki_pem(&self) -> String {
        // What parsed is a point, and the encoder has no other reason to fail.
        VerifyingKey::from_bytes(&self.public_key())
            .ok()
            .and_then(|key| key.to_public_key_pem(LineEnding::LF).ok())
            .unwrap_or_default()
    }

    /// The mail address of this key: its text at `domain`.
    #[must_use]
    pub fn address(&self, domain: &str) -> String {
        format!("{}@{domain}", self.as_str())
    }

    /// The persona id that the reference gateway derives: first 16 hex digits of the text's SHA-256.
    #[must_use]
    pub fn persona_id(&self) -> String {
        HEXLOWER.encode(&Sha256::digest(self.0)[..8])
    }

    /// Whether `signature` (64 bytes, RFC 8032) was made by this key over exactly `message`.
    ///
    /// Strict: small-order keys and commitments and unreduced scalars are refused, so that one key has one
    /// signature per message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        VerifyingKey::from_bytes(&self.public_key())
            .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }

    fn spell(raw: &[u8; 32]) -> Self {
        let mut text = [b'a'; KEY_TEXT_LEN];
        BASE32_NOPAD.encode_mut(raw, &mut text);
        text.make_ascii_lowercase();
        Self(text)
    }
}

impl FromStr for KeyText {
    type Err = KeyTextError;

    /// Reads the canonical text only: lower case, no blanks, no spare bits.
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        if let Some(at) = text.bytes().position(|b| !matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            return Err(KeyTextError::Alphabet(at));
        }
        if text.len() != KEY_TEXT_LEN {
            return Err(KeyTextError::Length(text.len()));
        }
        let raw = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| KeyTextError::Spelling)?
            .try_into()
            .map_err(|_| KeyTextError::Length(text.len()))?;
        Self::from_public_key(&raw)
    }
}

impl fmt::Display for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for KeyText {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// A gateway's secret key. Wiped when dropped; its `Debug` shows the public key only.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// A text is no secret key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretKeyError {
    /// Not a PKCS#8 PEM text of an Ed25519 key (RFC 8410).
    #[error("not an Ed25519 private key in PKCS#8 PEM form: {0}")]
    Pem(String),
    /// The public key inside belongs to another secret key.
    #[error("the private key and the public key beside it do not belong together")]
    Mismatch,
}

impl SecretKey {
    /// The key of a 32-byte seed (RFC 8032 §5.1.5). The caller's copy of the seed stays its own to wipe.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads `-----BEGIN PRIVATE KEY-----` (RFC 8410, with or without the public key inside).
    ///
    /// # Errors
    /// [`SecretKeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, SecretKeyError> {
        let pair = KeypairBytes::from_pkcs8_pem(pem.trim_start())
            .map_err(|error| SecretKeyError::Pem(error.to_string()))?;
        let key = SigningKey::from_bytes(&pair.secret_key);
        match pair.public_key {
            Some(public) if public.to_bytes() != key.verifying_key().to_bytes() => {
                Err(SecretKeyError::Mismatch)
            }
            Some(_) | None => Ok(Self(key)),
        }
    }

    /// The PKCS#8 PEM text: 119 bytes, LF line ends, without the public key.
    ///
    /// # Errors
    /// [`SecretKeyError::Pem`] when the encoder fails, which it has no reason to.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, SecretKeyError> {
        KeypairBytes { secret_key: self.0.to_bytes(), public_key: None }
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| SecretKeyError::Pem(error.to_string()))
    }

    /// The text of its public key.
    #[must_use]
    pub fn key_text(&self) -> KeyText {
        KeyText::spell(&self.0.verifying_key().to_bytes())
    }

    /// Signs exactly `message`: pure Ed25519, no context. The caller has checked what it signs.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.key_text())
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};

    use super::*;

    fn vectors() -> serde_json::Value {
        serde_json::from_str(include_str!("../../tests/vectors/mail-tunnel.json")).unwrap()
    }

    fn text<'a>(value: &'a serde_json::Value, name: &str) -> &'a str {
        value[name].as_str().unwrap()
    }

    fn seed(identity: &serde_json::Value) -> [u8; 32] {
        HEXLOWER.decode(text(identity, "ed25519_seed_hex").as_bytes()).unwrap().try_into().unwrap()
    }

    #[test]
    fn identities_agree_with_the_reference() {
        for identity in vectors()["identities"].as_array().unwrap() {
            let secret = SecretKey::from_seed(&seed(identity));
            let key = secret.key_text();
            assert_eq!(key.as_str(), text(identity, "public_key_base32"));
            assert_eq!(key.as_str(), text(identity, "email_local_part"));
            assert_eq!(HEXLOWER.encode(&key.public_key()), text(identity, "raw_public_key_hex"));
            assert_eq!(key.persona_id(), text(identity, "persona_id"));
            assert_eq!(key.as_str().parse(), Ok(key));

            let message = text(identity, "challenge_text").as_bytes();
            let signature = secret.sign(message);
            assert_eq!(BASE64.encode(&signature), text(identity, "challenge_signature_base64"));
            assert!(key.verifies(message, &signature));

            let pem = secret.to_pem().unwrap();
            assert_eq!(pem.len() as u64, identity["passport_key_file_length_bytes"].as_u64().unwrap());
            let body = text(identity, "passport_key_pem_base64_body");
            assert_eq!(*pem, format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"));
            assert_eq!(SecretKey::from_pem(&pem).unwrap().key_text(), key);
        }
    }

    #[test]
    fn base32_agrees_with_the_reference_but_only_one_spelling_is_a_key() {
        for case in vectors()["base32"]["decode_as_public_key"].as_array().unwrap() {
            let input = text(case, "input");
            let parsed = KeyText::from_peer(input);
            let canonical = matches!(input.trim().chars().last(), Some('a' | 'q' | 'A'));
            match (case["accepted_as_public_key"].as_bool().unwrap(), canonical) {
                (true, true) => {
                    // One accepted spelling decodes to bytes that are no curve point at all.
                    let raw = HEXLOWER.decode(text(case, "decoded_hex").as_bytes()).unwrap();
                    match parsed {
                        Ok(key) => assert_eq!(key.public_key(), *raw),
                        Err(error) => assert_eq!(error, KeyTextError::Point, "{input}"),
                    }
                }
                (true, false) => assert_eq!(parsed, Err(KeyTextError::Spelling), "{input}"),
                (false, _) => {
                    assert!(matches!(parsed, Err(KeyTextError::Length(_) | KeyTextError::Alphabet(_))));
                }
            }
        }
        for case in vectors()["base32"]["encode"].as_array().unwrap() {
            let raw = HEXLOWER.decode(text(case, "input_hex").as_bytes()).unwrap();
            assert_eq!(BASE32_NOPAD.encode(&raw).to_ascii_lowercase(), text(case, "base32"));
        }
    }

    #[test]
    fn fifteen_other_spellings_are_refused() {
        let key = SecretKey::from_seed(&[1; 32]).key_text();
        let stem = &key.as_str()[..KEY_TEXT_LEN - 1];
        let mut taken = 0;
        for last in "abcdefghijklmnop".chars() {
            match format!("{stem}{last}").parse::<KeyText>() {
                Ok(same) => {
                    assert_eq!(same, key);
                    taken += 1;
                }
                Err(error) => assert_eq!(error, KeyTextError::Spelling),
            }
        }
        assert_eq!(taken, 1);
        assert!(key.as_str().to_ascii_uppercase().parse::<KeyText>().is_err());
        assert_eq!(KeyText::from_peer(&format!(" {} ", key.as_str().to_ascii_uppercase())), Ok(key));
    }

    #[test]
    fn small_order_and_unreduced_keys_are_refused() {
        // X2: y = 1 (identity), y = 0 and y = -1 have small order; y = p + 1 is a second spelling of y = 1.
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(KeyText::from_public_key(&identity), Err(KeyTextError::Weak));
        assert_eq!(KeyText::from_public_key(&[0; 32]), Err(KeyTextError::Weak));
        let mut unreduced = [0xff; 32];
        unreduced[31] = 0x7f;
        let mut refused = 0;
        for low in 0xed..=0xff {
            unreduced[0] = low;
            assert!(KeyText::from_public_key(&unreduced).is_err());
            refused += 1;
        }
        assert_eq!(refused, 19);
    }

    #[test]
    fn malleable_and_foreign_signatures_do_not_verify() {
        let secret = SecretKey::from_seed(&[1; 32]);
        let key = secret.key_text();
        let good = secret.sign(b"text");
        assert!(!key.verifies(b"other", &good));
        assert!(!key.verifies(b"text", &good[..63]));
        assert!(!SecretKey::from_seed(&[2; 32]).key_text().verifies(b"text", &good));
        // s + L: the same equation modulo the group order, refused because s must be reduced.
        let order = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10_u8,
        ];
        let mut shifted = good;
        let mut carry = 0_u16;
        for (byte, add) in shifted[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert!(!key.verifies(b"text", &shifted));
    }

    #[test]
    fn debug_of_a_secret_key_shows_no_secret() {
        let secret = SecretKey::from_seed(&[1; 32]);
        assert_eq!(format!("{secret:?}"), format!("SecretKey({})", secret.key_text()));
    }

    #[test]
    fn broken_pem_is_an_error() {
        for pem in [
            "",
            "-----BEGIN PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(matches!(SecretKey::from_pem(pem), Err(SecretKeyError::Pem(_))));
        }
    }
}
