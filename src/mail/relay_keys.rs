//! The keys of a relay, as a gateway sees them: pinned, announced, succeeded.
//!
//! Promises: a key comes into [`TrustedKeys`] by [`TrustedKeys::pin`] (somebody decided so), or because a key that is in
//! there already endorsed it ([`TrustedKeys::accept`]). What a relay merely announces changes nothing. A key id means one
//! key for ever: another key under a known id is refused, endorsed or not.

use std::collections::BTreeMap;

use data_encoding::{BASE64, BASE64_NOPAD};
use serde::Serialize;
use sha2::{Digest, Sha256};
use spool::ids::WallMs;

use super::signed::{self, Reason, Signed};
use crate::identity::key::{KeyText, SecretKey};
use crate::tunnel::signed::{RELAY_KEYS_MAX, RelayKey};

/// First bytes of what a succession signs.
const SUCCESSION_DOMAIN: &[u8] = b"waystation-key-succession-1\n";
/// Most keys that are trusted at one time: decades of yearly rotation.
pub const TRUSTED_MAX: usize = 64;
/// Longest name of a key, bytes.
pub const KEY_ID_BYTES_MAX: usize = 128;

/// "This key succeeds me", signed by the older key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The relay's hostname.
    pub relay: String,
    /// Name of the newer key.
    pub key_id: String,
    /// The newer key.
    pub public_key: KeyText,
    /// When.
    pub issued_at: WallMs,
}

/// As it is signed: the order of the fields is the order of the keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SuccessionPayload<'a> {
    relay: &'a str,
    key_id: &'a str,
    public_key: String,
    issued_at: String,
}

impl Succession {
    /// Signed by the older key.
    #[must_use]
    pub fn sign(&self, older_id: &str, older: &SecretKey) -> Signed {
        let payload = SuccessionPayload {
            relay: &self.relay,
            key_id: &self.key_id,
            public_key: key_base64(&self.public_key),
            issued_at: signed::time_text(self.issued_at),
        };
        let payload = serde_json::to_vec(&payload).unwrap_or_default();
        signed::seal(SUCCESSION_DOMAIN, &payload, older_id, older)
    }

    /// Reads one that was signed by a trusted key.
    ///
    /// # Errors
    /// [`Reason`] of the first check that failed.
    pub fn verify(endorsement: &Signed, keys: &TrustedKeys) -> Result<Self, Reason> {
        let fields = signed::open(SUCCESSION_DOMAIN, endorsement, keys)?;
        let read = || {
            Some(Self {
                relay: signed::text(&fields, "relay")?.to_owned(),
                key_id: signed::text(&fields, "keyId")?.to_owned(),
                public_key: read_key(signed::text(&fields, "publicKey")?)?,
                issued_at: signed::time(&fields, "issuedAt")?,
            })
        };
        read().ok_or(Reason::InvalidPayload)
    }
}

/// What an announcement came to, one per key that was not trusted before under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A trusted key endorsed it; it is trusted now.
    Succeeded {
        /// Its name.
        key_id: String,
        /// The key.
        key: KeyText,
        /// Which key endorsed it.
        by: String,
    },
    /// No trusted key endorsed it; it is not trusted.
    Unknown {
        /// Its name.
        key_id: String,
        /// Fingerprint, or nothing when it is no usable key.
        fingerprint: String,
    },
    /// Its name belongs to another trusted key; it is not trusted.
    Conflict {
        /// The name.
        key_id: String,
        /// Fingerprint of the announced key.
        fingerprint: String,
    },
}

/// Why a key cannot be pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Another key has this name.
    #[error("key id {0} names another key already")]
    Conflict(String),
    /// The name is empty, too long, or has a character that has no place in a name.
    #[error(
        "a key id has 1 to {KEY_ID_BYTES_MAX} printable ASCII characters without blank, colon, quote or semicolon"
    )]
    Name,
    /// Too many.
    #[error("more than {TRUSTED_MAX} trusted keys")]
    TooMany,
}

/// The keys that count, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys(BTreeMap<String, KeyText>);

impl TrustedKeys {
    /// Trusts `key` under `key_id`, because somebody decided so.
    ///
    /// # Errors
    /// [`PinError`]; nothing has changed then.
    pub fn pin(&mut self, key_id: &str, key: KeyText) -> Result<(), PinError> {
        match self.0.get(key_id) {
            Some(known) if *known == key => return Ok(()),
            Some(_) => return Err(PinError::Conflict(key_id.to_owned())),
            None => {}
        }
        if !is_key_id(key_id) {
            return Err(PinError::Name);
        }
        if self.0.len() >= TRUSTED_MAX {
            return Err(PinError::TooMany);
        }
        self.0.insert(key_id.to_owned(), key);
        Ok(())
    }

    /// The key of this name.
    #[must_use]
    pub fn get(&self, key_id: &str) -> Option<&KeyText> {
        self.0.get(key_id)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KeyText)> {
        self.0.iter().map(|(id, key)| (id.as_str(), key))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Follows the endorsements of an announcement from trusted keys, in whatever order it lists them. Returns what is
    /// new or refused; known keys are not mentioned.
    pub fn accept(&mut self, announcement: &[RelayKey]) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut open: Vec<&RelayKey> = announcement.iter().take(RELAY_KEYS_MAX).collect();
        loop {
            let before = open.len();
            open.retain(|announced| match self.consider(announced) {
                Some(change) => {
                    changes.extend(change);
                    false
                }
                None => true,
            });
            if open.len() == before {
                break;
            }
        }
        changes.extend(open.into_iter().map(|announced| Change::Unknown {
            key_id: announced.key_id.clone(),
            fingerprint: read_key(&announced.public_key).map(|key| fingerprint(&key)).unwrap_or_default(),
        }));
        changes
    }

    /// `None`: not decided yet, another key of the announcement may decide it.
    fn consider(&mut self, announced: &RelayKey) -> Option<Option<Change>> {
        let key_id = announced.key_id.clone();
        let key = read_key(&announced.public_key)?;
        match self.get(&key_id) {
            Some(known) if *known == key => return Some(None),
            Some(_) => return Some(Some(Change::Conflict { key_id, fingerprint: fingerprint(&key) })),
            None => {}
        }
        let endorsement = announced.endorsement.as_ref()?;
        let succession = Succession::verify(endorsement, self).ok()?;
        if succession.key_id != key_id || succession.public_key != key {
            return None;
        }
        self.pin(&key_id, key).ok()?;
        Some(Some(Change::Succeeded { key_id, key, by: endorsement.key_id.clone() }))
    }
}

/// Names go into log lines, header fields and `KEYID:BASE64`.
fn is_key_id(text: &str) -> bool {
    (1..=KEY_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b':' | b'"' | b'\\' | b';'))
}

/// Standard base64 of the 32 raw bytes.
#[must_use]
pub fn key_base64(key: &KeyText) -> String {
    BASE64.encode(&key.public_key())
}

/// Reads what [`key_base64`] writes; nothing else, and no weak key.
#[must_use]
pub fn read_key(base64: &str) -> Option<KeyText> {
    let raw: [u8; 32] = BASE64.decode(base64.as_bytes()).ok()?.try_into().ok()?;
    KeyText::from_public_key(&raw).ok()
}

/// For people to compare: `SHA256:` and 43 characters, over the 32 raw bytes.
#[must_use]
pub fn fingerprint(key: &KeyText) -> String {
    format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(key.public_key())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::signed::RelayKeyStatus;

    fn secret(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn announced(n: u8, by: Option<u8>) -> RelayKey {
        let key_id = format!("k{n}");
        let public_key = secret(n).key_text();
        let endorsement = by.map(|by| {
            let relay = "mx.example".to_owned();
            Succession { relay, key_id: key_id.clone(), public_key, issued_at: WallMs(1) }
                .sign(&format!("k{by}"), &secret(by))
        });
        RelayKey {
            key_id,
            public_key: key_base64(&public_key),
            status: RelayKeyStatus::Current,
            endorsed_by: by.map(|by| format!("k{by}")),
            endorsement,
        }
    }

    fn pinned(n: u8) -> TrustedKeys {
        let mut keys = TrustedKeys::default();
        keys.pin(&format!("k{n}"), secret(n).key_text()).unwrap();
        keys
    }

    fn succeeded(n: u8, by: u8) -> Change {
        Change::Succeeded { key_id: format!("k{n}"), key: secret(n).key_text(), by: format!("k{by}") }
    }

    #[test]
    fn endorsements_are_followed_in_any_order() {
        let mut keys = pinned(1);
        let list = [announced(3, Some(2)), announced(2, Some(1)), announced(1, None)];
        assert_eq!(keys.accept(&list), [succeeded(2, 1), succeeded(3, 2)]);
        assert_eq!(keys.len(), 3);
        assert_eq!(keys.accept(&list), []);
    }

    #[test]
    fn without_an_endorsement_of_a_trusted_key_nothing_is_trusted() {
        let unknown = |n: u8| Change::Unknown {
            key_id: format!("k{n}"),
            fingerprint: fingerprint(&secret(n).key_text()),
        };
        for stranger in [announced(2, None), announced(2, Some(3)), announced(2, Some(2))] {
            let mut keys = pinned(1);
            assert_eq!(keys.accept(&[stranger]), [unknown(2)]);
            assert_eq!(keys, pinned(1));
        }
        // Signed by the right key, but for another name, or another key.
        let mut renamed = announced(2, Some(1));
        renamed.key_id = "k9".into();
        let mut swapped = announced(2, Some(1));
        swapped.public_key = announced(4, None).public_key;
        // Claims to be signed by k1, and is signed by k3.
        let mut forged = announced(2, Some(3));
        if let Some(signed) = &mut forged.endorsement {
            signed.key_id = "k1".into();
        }
        for stranger in [renamed, swapped, forged] {
            let mut keys = pinned(1);
            assert!(matches!(keys.accept(&[stranger])[..], [Change::Unknown { .. }]));
            assert_eq!(keys, pinned(1));
        }
    }

    #[test]
    fn a_known_name_keeps_its_key() {
        let mut keys = pinned(1);
        let mut other = announced(2, Some(1));
        other.key_id = "k1".into();
        assert!(matches!(keys.accept(&[other])[..], [Change::Conflict { .. }]));
        assert_eq!(keys, pinned(1));
        assert_eq!(keys.pin("k1", secret(2).key_text()), Err(PinError::Conflict("k1".into())));
    }

    #[test]
    fn names_and_numbers_are_bounded() {
        let mut keys = TrustedKeys::default();
        for name in ["", "a b", "a;b", "a:b", "ä", "a\r\nb", &"x".repeat(KEY_ID_BYTES_MAX + 1)] {
            assert_eq!(keys.pin(name, secret(1).key_text()), Err(PinError::Name), "{name}");
        }
        for n in 0..TRUSTED_MAX {
            keys.pin(&n.to_string(), secret(1).key_text()).unwrap();
        }
        assert_eq!(keys.pin("more", secret(1).key_text()), Err(PinError::TooMany));
        let list: Vec<_> = (0..50).map(|n| announced(n, None)).collect();
        assert_eq!(pinned(200).accept(&list).len(), RELAY_KEYS_MAX);
    }

    #[test]
    fn announcements_have_the_wire_names() {
        let json = serde_json::to_value(announced(2, Some(1))).unwrap();
        assert_eq!(json["keyId"], "k2");
        assert_eq!(json["status"], "current");
        assert_eq!(json["endorsedBy"], "k1");
        assert_eq!(json["endorsement"]["keyId"], "k1");
        assert_eq!(serde_json::from_value::<RelayKey>(json).unwrap(), announced(2, Some(1)));
        let json = serde_json::to_string(&announced(2, None)).unwrap();
        assert!(!json.contains("endors"), "{json}");
    }

    #[test]
    fn keys_have_one_spelling_and_weak_ones_are_none() {
        let key = secret(1).key_text();
        assert_eq!(read_key(&key_base64(&key)), Some(key));
        assert_eq!(read_key(key_base64(&key).trim_end_matches('=')), None);
        assert_eq!(read_key(&BASE64.encode(&[0; 32])), None);
        assert_eq!(fingerprint(&key).len(), 50);
    }
}
