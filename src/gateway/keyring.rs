//! The relay keys a gateway believes: those its configuration pins, and their successors.
//!
//! Nothing is trusted on first use: as with a WireGuard peer, a key counts because somebody put it into the
//! configuration (`gateway bootstrap` does, after fetching it). From there succession goes by itself: a key that a trusted
//! key endorsed is kept in [`FILE_NAME`], with the endorsement, and verified again at each start from the pinned keys on.
//! So that file can be lost or changed without anybody being believed who should not.
//!
//! Failure policy: a file that cannot be read or written costs an alarm; the relay announces its keys at each login.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::identity::key::KeyText;
use crate::mail::relay_keys::{
    Change, PinError, TRUSTED_MAX, TrustedKeys, fingerprint, key_base64, read_key,
};
use crate::tunnel::signed::{RELAY_KEYS_MAX, RelayKey};

/// Where successors are kept, inside the data directory.
pub const FILE_NAME: &str = "relay-keys.json";
/// Longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A pinned key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its name.
    pub key_id: String,
    /// The key.
    pub key: KeyText,
}

impl Pin {
    /// Reads `KEYID:BASE64`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (key_id, base64) = text.split_once(':')?;
        let pin = Self { key_id: key_id.to_owned(), key: read_key(base64)? };
        TrustedKeys::default().pin(&pin.key_id, pin.key).ok().map(|()| pin)
    }

    /// The lines that pin it in a configuration.
    #[must_use]
    pub fn toml(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let (key_id, key) = (quoted(&self.key_id), quoted(&key_base64(&self.key)));
        format!("[[relay_keys]]\nkey_id = {key_id}\npublic_key = {key}   # {}\n", fingerprint(&self.key))
    }
}

/// Cheap handle; clones share the keys.
#[derive(Clone, Debug)]
pub struct Keyring {
    path: PathBuf,
    shared: Arc<RwLock<Keys>>,
}

#[derive(Debug, Default)]
struct Keys {
    trusted: TrustedKeys,
    pinned: usize,
    /// With their endorsements, in order of acceptance.
    successors: Vec<RelayKey>,
}

impl Keyring {
    /// The pinned keys, and what was kept of their successors in `data_dir`.
    ///
    /// # Errors
    /// [`PinError`] when the pins contradict one another.
    pub fn open(data_dir: &Path, pins: &[Pin]) -> Result<Self, PinError> {
        let path = data_dir.join(FILE_NAME);
        let mut keys = Keys::default();
        for pin in pins {
            keys.trusted.pin(&pin.key_id, pin.key)?;
        }
        keys.pinned = pins.len();
        match read(&path) {
            Ok(kept) => {
                for one in kept.into_iter().take(TRUSTED_MAX) {
                    let changes = keys.trusted.accept(std::slice::from_ref(&one));
                    if changes.iter().any(|change| matches!(change, Change::Succeeded { .. })) {
                        keys.successors.push(one);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(
                event = "gateway.relay_keys.unreadable", %error, "{}: {error}; successors are learnt anew", path.display()
            ),
        }
        Ok(Self { path, shared: Arc::new(RwLock::new(keys)) })
    }

    /// The keys as they are now.
    #[must_use]
    pub fn trusted(&self) -> TrustedKeys {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).trusted.clone()
    }

    /// Names and fingerprints, for a person.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        self.trusted().iter().map(|(id, key)| format!("{id} {}", fingerprint(key))).collect()
    }

    /// What the relay announced at a login. Successors are kept, strangers are an alarm.
    pub fn announced(&self, announcement: &[RelayKey]) {
        let announcement = &announcement[..announcement.len().min(RELAY_KEYS_MAX)];
        let mut keys = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        if keys.pinned == 0 {
            if let Some(one) = announcement.first().and_then(pin_of) {
                tracing::warn!(
                    event = "gateway.relay_key.unpinned",
                    key.id = one.key_id,
                    fingerprint = fingerprint(&one.key),
                    "no key of the relay is pinned, so nothing it says is verified; compare the fingerprint with \
                     `waystation keys attestation --show` on the relay, then put into the configuration: {}",
                    one.toml().replace('\n', " ")
                );
            }
            return;
        }
        let changes = keys.trusted.accept(announcement);
        let mut learnt = false;
        for change in changes {
            match change {
                Change::Succeeded { key_id, key, by } => {
                    tracing::info!(
                        event = "gateway.relay_key.succeeded",
                        key.id = key_id,
                        by,
                        fingerprint = fingerprint(&key),
                        "the relay's key {by} endorsed {key_id}; it is trusted from now on"
                    );
                    keys.successors.extend(announcement.iter().find(|one| one.key_id == key_id).cloned());
                    learnt = true;
                }
                Change::Unknown { key_id, fingerprint } => tracing::error!(
                    event = "gateway.relay_key.unknown",
                    key.id = key_id,
                    fingerprint,
                    "the relay announces the key {key_id}, which no trusted key has endorsed: it is not trusted, and what \
                     it signs is delivered as unverified. Ask the relay's operator whether the keys were replaced"
                ),
                Change::Conflict { key_id, fingerprint } => tracing::error!(
                    event = "gateway.relay_key.unknown",
                    key.id = key_id,
                    fingerprint,
                    "the relay announces another key under the known name {key_id}: it is not trusted. Ask the relay's \
                     operator whether the keys were replaced"
                ),
            }
        }
        if learnt && let Err(error) = write(&self.path, &keys.successors) {
            tracing::error!(
                event = "gateway.relay_keys.unwritable", %error, "{}: {error}; the key is learnt again at the next login",
                self.path.display()
            );
        }
    }
}

fn pin_of(announced: &RelayKey) -> Option<Pin> {
    Pin::read(&format!("{}:{}", announced.key_id, announced.public_key))
}

fn read(path: &Path) -> io::Result<Vec<RelayKey>> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, FILE_BYTES_MAX), &mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn write(path: &Path, keys: &[RelayKey]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(keys)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key::SecretKey;
    use crate::mail::relay_keys::Succession;
    use crate::tunnel::signed::RelayKeyStatus;
    use spool::ids::WallMs;

    fn secret(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn pin(n: u8) -> Pin {
        Pin { key_id: format!("k{n}"), key: secret(n).key_text() }
    }

    fn announced(n: u8, by: u8) -> RelayKey {
        let Pin { key_id, key } = pin(n);
        let succession =
            Succession { relay: "mx".into(), key_id: key_id.clone(), public_key: key, issued_at: WallMs(1) };
        RelayKey {
            key_id,
            public_key: key_base64(&key),
            status: RelayKeyStatus::Current,
            endorsed_by: Some(format!("k{by}")),
            endorsement: Some(succession.sign(&format!("k{by}"), &secret(by))),
        }
    }

    fn names(keyring: &Keyring) -> Vec<String> {
        keyring.trusted().iter().map(|(id, _)| id.to_owned()).collect()
    }

    #[test]
    fn successors_are_kept_and_stand_on_the_pinned_keys() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(dir.path(), &[pin(1)]).unwrap();
        keyring.announced(&[announced(3, 2), announced(2, 1)]);
        keyring.announced(&[announced(4, 9)]);
        assert_eq!(names(&keyring), ["k1", "k2", "k3"]);
        assert_eq!(names(&Keyring::open(dir.path(), &[pin(1)]).unwrap()), ["k1", "k2", "k3"]);
        // Another pin, and what stood on the old one is gone.
        assert_eq!(names(&Keyring::open(dir.path(), &[pin(5)]).unwrap()), ["k5"]);
        fs::write(dir.path().join(FILE_NAME), "nonsense").unwrap();
        assert_eq!(names(&Keyring::open(dir.path(), &[pin(1)]).unwrap()), ["k1"]);
    }

    #[test]
    fn nothing_is_trusted_on_first_use() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(dir.path(), &[]).unwrap();
        keyring.announced(&[announced(2, 1)]);
        assert!(keyring.trusted().is_empty() && !dir.path().join(FILE_NAME).exists());
    }

    #[test]
    fn pins_have_a_text_form() {
        let Pin { key_id, key } = pin(1);
        assert_eq!(Pin::read(&format!("{key_id}:{}", key_base64(&key))), Some(pin(1)));
        for text in ["", "k1", "k1:", ":AAAA", "k1:AAAA", &format!("k 1:{}", key_base64(&key))] {
            assert_eq!(Pin::read(text), None, "{text}");
        }
        let table: toml::Table = pin(1).toml().parse().unwrap();
        assert_eq!(table["relay_keys"][0]["key_id"].as_str(), Some("k1"));
        assert!(Keyring::open(Path::new("/"), &[pin(1), Pin { key: pin(2).key, ..pin(1) }]).is_err());
    }
}
