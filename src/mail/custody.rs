//! Custody receipts: the relay's signed word for what it took, where in the lane, and when.
//!
//! A gateway keeps them. Together they are a chain: each one carries the lane's running hash (`spool/DESIGN.md`), so that
//! a relay which loses, swaps or changes an item contradicts its own signature.
//!
//! Promises: [`verify`] inverts [`Receipt::sign`] and returns nothing that was not signed by a trusted key.

use data_encoding::HEXLOWER;
use serde::Serialize;
use spool::ids::{ItemId, Seq, WallMs};

use super::relay_keys::TrustedKeys;
use super::signed::{self, Reason, Signed};
use crate::identity::key::SecretKey;

/// First bytes of what a receipt signs.
pub(super) const DOMAIN: &[u8] = b"waystation-custody-1\n";
/// Version of the payload.
const VERSION: u64 = 1;

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message from outside, for the gateway.
    Item,
    /// A message from the gateway, for the outside.
    Submission,
}

impl Kind {
    /// The word in the payload.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Item => "item",
            Self::Submission => "submission",
        }
    }
}

/// What a relay signs when it has made something durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it was.
    pub kind: Kind,
    /// The relay's hostname.
    pub relay: String,
    /// Name of the item or submission.
    pub id: ItemId,
    /// Key text of the mailbox.
    pub lane: String,
    /// Position in the lane of its kind.
    pub seq: Seq,
    /// SHA-256 of the body, without what the relay put in front.
    pub sha256: [u8; 32],
    /// Bytes of the body.
    pub size: u64,
    /// SHA-256 of what the relay put in front.
    pub head_sha256: [u8; 32],
    /// The lane's chain value after it ([`spool::accept::chain_step`]).
    pub chain: [u8; 32],
    /// When it was accepted.
    pub at: WallMs,
    /// Submissions: the id of the stream that brought it.
    pub stream_id: Option<String>,
}

/// As it is signed: the order of the fields is the order of the keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    v: u64,
    kind: &'a str,
    relay: &'a str,
    id: String,
    lane: &'a str,
    seq: u64,
    sha256: String,
    size: u64,
    head_sha256: String,
    chain: String,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
}

impl Receipt {
    /// The bytes that are signed, after `waystation-custody-1` and LF.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let payload = Payload {
            v: VERSION,
            kind: self.kind.as_str(),
            relay: &self.relay,
            id: self.id.to_string(),
            lane: &self.lane,
            seq: self.seq.0,
            sha256: HEXLOWER.encode(&self.sha256),
            size: self.size,
            head_sha256: HEXLOWER.encode(&self.head_sha256),
            chain: HEXLOWER.encode(&self.chain),
            at: signed::time_text(self.at),
            stream_id: self.stream_id.as_deref(),
        };
        signed::json(&payload)
    }

    /// Signs it.
    #[must_use]
    pub fn sign(&self, key_id: &str, key: &SecretKey) -> Signed {
        signed::seal(DOMAIN, &self.payload(), key_id, key)
    }
}

/// Reads a receipt that was signed by a trusted key.
///
/// # Errors
/// [`Reason`] of the first check that failed.
pub fn verify(receipt: &Signed, keys: &TrustedKeys) -> Result<Receipt, Reason> {
    let fields = signed::open(DOMAIN, receipt, keys)?;
    let read = || {
        let kind = match (signed::number(&fields, "v")?, signed::text(&fields, "kind")?) {
            (VERSION, "item") => Kind::Item,
            (VERSION, "submission") => Kind::Submission,
            _ => return None,
        };
        Some(Receipt {
            kind,
            relay: signed::text(&fields, "relay")?.to_owned(),
            id: signed::text(&fields, "id")?.parse().ok()?,
            lane: signed::text(&fields, "lane")?.to_owned(),
            seq: Seq(signed::number(&fields, "seq")?),
            sha256: signed::hash(&fields, "sha256")?,
            size: signed::number(&fields, "size")?,
            head_sha256: signed::hash(&fields, "headSha256")?,
            chain: signed::hash(&fields, "chain")?,
            at: signed::time(&fields, "at")?,
            stream_id: signed::text(&fields, "streamId").map(str::to_owned),
        })
    };
    read().ok_or(Reason::InvalidPayload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64;

    fn sample(kind: Kind) -> Receipt {
        Receipt {
            kind,
            relay: "mx.example".into(),
            id: ItemId::new(WallMs(1_773_014_400_001), [1; 10]),
            lane: "rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5oa".into(),
            seq: Seq(7),
            sha256: [1; 32],
            size: 1234,
            head_sha256: [2; 32],
            chain: [3; 32],
            at: WallMs(1_773_014_400_001),
            stream_id: (kind == Kind::Submission).then(|| "s\"1".into()),
        }
    }

    fn keys() -> (SecretKey, TrustedKeys) {
        let key = SecretKey::from_seed(&[7; 32]);
        let mut keys = TrustedKeys::default();
        keys.pin("k", key.key_text()).unwrap();
        (key, keys)
    }

    #[test]
    fn verify_inverts_sign() {
        let (key, keys) = keys();
        for kind in [Kind::Item, Kind::Submission] {
            assert_eq!(verify(&sample(kind).sign("k", &key), &keys), Ok(sample(kind)));
        }
    }

    #[test]
    fn payload_bytes_are_unchanged() {
        let hex = |byte: &str| byte.repeat(32);
        let expected = format!(
            "{{\"v\":1,\"kind\":\"submission\",\"relay\":\"mx.example\",\"id\":\"{}\",\
             \"lane\":\"rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5oa\",\"seq\":7,\"sha256\":\"{}\",\
             \"size\":1234,\"headSha256\":\"{}\",\"chain\":\"{}\",\"at\":\"2026-03-09T00:00:00.001Z\",\
             \"streamId\":\"s\\\"1\"}}",
            sample(Kind::Item).id,
            hex("01"),
            hex("02"),
            hex("03")
        );
        assert_eq!(String::from_utf8(sample(Kind::Submission).payload()).unwrap(), expected);
        let item = String::from_utf8(sample(Kind::Item).payload()).unwrap();
        assert!(item.ends_with("Z\"}"), "{item}");
    }

    #[test]
    fn signed_nonsense_is_no_receipt() {
        let (key, keys) = keys();
        let text = String::from_utf8(sample(Kind::Item).payload()).unwrap();
        for (from, to) in [
            ("\"v\":1", "\"v\":2"),
            ("item", "gift"),
            ("\"seq\":7", "\"seq\":-7"),
            ("0101", "010"),
            ("Z", ""),
        ] {
            let changed = text.replacen(from, to, 1);
            let signed = signed::seal(DOMAIN, changed.as_bytes(), "k", &key);
            assert_eq!(verify(&signed, &keys), Err(Reason::InvalidPayload), "{changed}");
        }
    }

    #[test]
    fn an_attestation_is_no_receipt() {
        let (key, keys) = keys();
        let signed = signed::seal(b"", &sample(Kind::Item).payload(), "k", &key);
        assert_eq!(verify(&signed, &keys), Err(Reason::InvalidSignature));
        assert_eq!(BASE64.decode(signed.signature_base64.as_bytes()).unwrap().len(), 64);
    }
}
