//! What attestations, custody receipts and successions of keys have in common: a JSON payload, signed by the relay.
//!
//! Promises: what [`open`] returns was signed by a trusted key, byte for byte: signatures are checked strictly, and
//! base64 has one spelling. Nothing is believed before that, and nothing longer than [`PAYLOAD_BYTES_MAX`] is looked at.
//! Readers skip fields they do not know, so that a statement may grow.

pub mod batch;

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use serde_json::{Map, Value};
use spool::ids::WallMs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::relay_keys::TrustedKeys;
use crate::identity::key::SecretKey;
pub use crate::tunnel::signed::Signed;

/// Longest payload that is read, bytes. The longest honest one has ten DKIM signatures with long names in it.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024;
/// Octets of an ordinary payload, and some.
const PAYLOAD_BYTES: usize = 1024;

/// What a verification came to, when not to `ok`. The first five words are those of the protocol, section 10.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There is none.
    MissingAttestation,
    /// Its key is not among the trusted ones.
    MissingTrustedKey,
    /// The payload is no base64, too long, no JSON object, or says nonsense.
    InvalidPayload,
    /// Not signed by the key it names.
    InvalidSignature,
    /// Made for another stream, sender or recipient.
    ContextMismatch,
    /// Its time is over.
    Expired,
    /// Made for another item, or another place in the lane.
    ItemMismatch,
    /// Made for other bytes.
    BodyMismatch,
    /// An item came without its receipt.
    MissingReceipt,
}

impl Reason {
    /// The word for logs and header fields.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingAttestation => "missing_attestation",
            Self::MissingTrustedKey => "missing_trusted_key",
            Self::InvalidPayload => "invalid_payload",
            Self::InvalidSignature => "invalid_signature",
            Self::ContextMismatch => "context_mismatch",
            Self::Expired => "expired",
            Self::ItemMismatch => "item_mismatch",
            Self::BodyMismatch => "body_mismatch",
            Self::MissingReceipt => "missing_receipt",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Signs `domain` followed by `payload`. The domain keeps a signature from being valid as another kind of statement.
#[must_use]
pub fn seal(domain: &[u8], payload: &[u8], key_id: &str, key: &SecretKey) -> Signed {
    Signed {
        key_id: key_id.to_owned(),
        payload_base64: BASE64.encode(payload),
        signature_base64: BASE64.encode(&key.sign(&[domain, payload].concat())),
        batch_path: None,
    }
}

/// Signs statements, each a domain and a payload, under one signature ([`batch`]); one alone is signed as [`seal`] does.
#[must_use]
pub fn seal_together(statements: &[(&[u8], &[u8])], key_id: &str, key: &SecretKey) -> Vec<Signed> {
    if let [(domain, payload)] = statements {
        return vec![seal(domain, payload, key_id, key)];
    }
    let leaves: Vec<_> = statements.iter().map(|(domain, payload)| batch::leaf(domain, payload)).collect();
    let (root, ways) = batch::tree(&leaves);
    let signature_base64 = BASE64.encode(&key.sign(&batch::text(&root)));
    let signed = statements.iter().zip(ways).map(|((_, payload), way)| Signed {
        key_id: key_id.to_owned(),
        payload_base64: BASE64.encode(payload),
        signature_base64: signature_base64.clone(),
        batch_path: Some(BASE64.encode(&way)),
    });
    signed.collect()
}

/// The octets that the signature must be over.
fn signed_text(domain: &[u8], payload: &[u8], batch_path: Option<&str>) -> Option<Vec<u8>> {
    let Some(path) = batch_path else { return Some([domain, payload].concat()) };
    // Four characters for three octets; a longer way is not even decoded.
    if path.len() > batch::STEPS_MAX * 44 + 4 {
        return None;
    }
    let way = BASE64.decode(path.as_bytes()).ok()?;
    batch::root(batch::leaf(domain, payload), &way).map(|root| batch::text(&root))
}

/// The payload's fields, in the order of checks of section 10.3: key, JSON, signature.
///
/// # Errors
/// [`Reason::MissingTrustedKey`], [`Reason::InvalidPayload`], [`Reason::InvalidSignature`].
pub fn open(domain: &[u8], signed: &Signed, keys: &TrustedKeys) -> Result<Map<String, Value>, Reason> {
    let key = keys.get(&signed.key_id).ok_or(Reason::MissingTrustedKey)?;
    // Four characters for three bytes; what is longer is not even decoded.
    if signed.payload_base64.len() > PAYLOAD_BYTES_MAX / 3 * 4 + 4 {
        return Err(Reason::InvalidPayload);
    }
    let payload = BASE64.decode(signed.payload_base64.as_bytes()).map_err(|_| Reason::InvalidPayload)?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Reason::InvalidPayload);
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(&payload) else {
        return Err(Reason::InvalidPayload);
    };
    let signature =
        BASE64.decode(signed.signature_base64.as_bytes()).map_err(|_| Reason::InvalidSignature)?;
    match signed_text(domain, &payload, signed.batch_path.as_deref()) {
        Some(text) if key.verifies(&text, &signature) => Ok(fields),
        Some(_) | None => Err(Reason::InvalidSignature),
    }
}

/// The octets of a payload. What is written here cannot fail: texts, numbers and lists of them.
pub(super) fn json(payload: &impl Serialize) -> Vec<u8> {
    let mut octets = Vec::with_capacity(PAYLOAD_BYTES);
    serde_json::to_writer(&mut octets, payload).map(|()| octets).unwrap_or_default()
}

/// `2026-03-09T00:00:00.000Z`, the only form written.
#[must_use]
pub fn time_text(at: WallMs) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_default()
}

/// Reads any RFC 3339 time since 1970.
#[must_use]
pub fn read_time(text: &str) -> Option<WallMs> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().map(WallMs)
}

/// A text field.
pub(super) fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

/// A SHA-256 in lower-case hex.
pub(super) fn hash(fields: &Map<String, Value>, name: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(text(fields, name)?.as_bytes()).ok()?.try_into().ok()
}

/// A whole number.
pub(super) fn number(fields: &Map<String, Value>, name: &str) -> Option<u64> {
    fields.get(name).and_then(Value::as_u64)
}

/// A time.
pub(super) fn time(fields: &Map<String, Value>, name: &str) -> Option<WallMs> {
    read_time(text(fields, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (SecretKey, TrustedKeys) {
        let key = SecretKey::from_seed(&[7; 32]);
        let mut keys = TrustedKeys::default();
        keys.pin("k", key.key_text()).unwrap();
        (key, keys)
    }

    #[test]
    fn a_signature_counts_for_its_domain_only() {
        let (key, keys) = pair();
        let signed = seal(b"one\n", b"{\"a\":1}", "k", &key);
        assert!(open(b"one\n", &signed, &keys).is_ok());
        assert_eq!(open(b"two\n", &signed, &keys), Err(Reason::InvalidSignature));
        assert_eq!(open(b"one\n", &signed, &TrustedKeys::default()), Err(Reason::MissingTrustedKey));
    }

    #[test]
    fn statements_signed_together_are_good_each_for_itself() {
        let (key, keys) = pair();
        let payloads = ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"];
        let statements: Vec<(&[u8], &[u8])> =
            payloads.iter().map(|text| (&b"one\n"[..], text.as_bytes())).collect();
        let together = seal_together(&statements, "k", &key);
        for (n, signed) in together.iter().enumerate() {
            let fields = open(b"one\n", signed, &keys).unwrap();
            assert_eq!(number(&fields, "a"), Some(n as u64 + 1));
            assert_eq!(open(b"two\n", signed, &keys), Err(Reason::InvalidSignature));
            let bare = Signed { batch_path: None, ..signed.clone() };
            assert_eq!(open(b"one\n", &bare, &keys), Err(Reason::InvalidSignature));
            let other = Signed { payload_base64: BASE64.encode(b"{\"a\":9}"), ..signed.clone() };
            assert_eq!(open(b"one\n", &other, &keys), Err(Reason::InvalidSignature));
        }
        let swapped = Signed { batch_path: together[1].batch_path.clone(), ..together[0].clone() };
        assert_eq!(open(b"one\n", &swapped, &keys), Err(Reason::InvalidSignature));
        for path in ["", "A", "AAAA", &"A".repeat(2000)] {
            let broken = Signed { batch_path: Some(path.to_owned()), ..together[0].clone() };
            assert_eq!(open(b"one\n", &broken, &keys), Err(Reason::InvalidSignature), "{path}");
        }
        assert_eq!(
            seal_together(&statements[..1], "k", &key),
            [seal(b"one\n", payloads[0].as_bytes(), "k", &key)]
        );
    }

    #[test]
    fn base64_has_one_spelling() {
        let (key, keys) = pair();
        let signed = seal(b"", b"{\"a\":12}", "k", &key);
        assert_eq!(signed.payload_base64, "eyJhIjoxMn0=");
        for payload in ["eyJhIjoxMn0", "eyJhIjoxMn1=", "eyJhIjoxMn0=\n", " eyJhIjoxMn0="] {
            let signed = Signed { payload_base64: payload.into(), ..signed.clone() };
            assert_eq!(open(b"", &signed, &keys), Err(Reason::InvalidPayload), "{payload}");
        }
        let signature = signed.signature_base64.trim_end_matches('=').to_owned();
        let signed = Signed { signature_base64: signature, ..signed };
        assert_eq!(open(b"", &signed, &keys), Err(Reason::InvalidSignature));
    }

    #[test]
    fn long_payloads_are_not_read() {
        let (key, keys) = pair();
        let payload = |n: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(n - 8));
        let seal = |n| seal(b"", payload(n).as_bytes(), "k", &key);
        assert!(open(b"", &seal(PAYLOAD_BYTES_MAX), &keys).is_ok());
        assert_eq!(open(b"", &seal(PAYLOAD_BYTES_MAX + 1), &keys), Err(Reason::InvalidPayload));
        assert_eq!(open(b"", &seal(PAYLOAD_BYTES_MAX * 2), &keys), Err(Reason::InvalidPayload));
    }

    #[test]
    fn times_read_back_to_the_millisecond() {
        let at = WallMs(1_773_014_400_001);
        assert_eq!(time_text(at), "2026-03-09T00:00:00.001Z");
        assert_eq!(read_time(&time_text(at)), Some(at));
        assert_eq!(read_time("2026-03-09T01:00:00.001+01:00"), Some(at));
        assert_eq!((read_time("1969-12-31T00:00:00Z"), read_time("x")), (None, None));
    }
}
