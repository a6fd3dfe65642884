//! What the ACME client keeps: one directory per server, with the account, the certificate, and when it was asked in vain.
//!
//! Promises: every file has mode 0600 and is whole, old or new, after a crash; key and chain are one file, so that they never
//! belong to different orders. Failure policy: typed, names the file; what does not read counts as none.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use instant_acme::AccountCredentials;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use spool::ids::WallMs;
use zeroize::{Zeroize as _, Zeroizing};

use crate::secrets::{self, SecretError};
use crate::tls::{CertError, Pair};

/// Characters of a server's name in the name of its directory.
const HOST_CHARS_MAX: usize = 64;
/// Most times of orders in vain that are kept, the newest; after ten the pause is as long as it gets.
pub(super) const TRIES_KEPT: usize = 16;

/// The place of one ACME server's files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    dir: PathBuf,
}

impl Place {
    /// The place below `dir` for the server with that directory URL: another server is another account, and its certificates
    /// are others.
    pub(super) fn of(dir: &Path, directory_url: &str) -> Self {
        let host =
            directory_url.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
        let host: String = host.chars().take(HOST_CHARS_MAX).map(plain).collect();
        let digest = HEXLOWER.encode(&Sha256::digest(directory_url));
        Self { dir: dir.join(format!("{host}-{}", digest.get(..8).unwrap_or_default())) }
    }

    pub(super) fn make(&self) -> Result<(), SecretError> {
        secrets::private_dir(&self.dir)
    }

    fn account_file(&self) -> PathBuf {
        self.dir.join("account.json")
    }

    /// Key and chain.
    pub(super) fn certificate_file(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    /// Times of orders in vain.
    pub(super) fn tries_file(&self) -> PathBuf {
        self.dir.join("tries.json")
    }

    /// When orders in vain were begun, the oldest first.
    pub(super) fn tries(&self) -> Vec<WallMs> {
        let text = secrets::read(&self.tries_file()).ok();
        let times: Vec<u64> = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let surplus = times.len().saturating_sub(TRIES_KEPT);
        times.into_iter().skip(surplus).map(WallMs).collect()
    }

    pub(super) fn keep_tries(&self, tries: &[WallMs]) -> Result<(), SecretError> {
        let times: Vec<u64> = tries.iter().map(|at| at.0).collect();
        // Cannot fail: numbers only.
        secrets::replace(&self.tries_file(), &serde_json::to_vec(&times).unwrap_or_default())
    }

    /// The account made before, if there is one that can be read.
    pub(super) fn account(&self) -> Result<Option<AccountCredentials>, SecretError> {
        let file = self.account_file();
        if !file.exists() {
            return Ok(None);
        }
        let text = secrets::read(&file)?;
        Ok(serde_json::from_slice(&text).ok())
    }

    pub(super) fn keep_account(&self, account: &AccountCredentials) -> Result<(), SecretError> {
        // Cannot fail: strings only.
        let text = Zeroizing::new(serde_json::to_vec(account).unwrap_or_default());
        secrets::replace(&self.account_file(), &text)
    }

    /// The server does not know the account any more. It stays beside, for whoever wants to know.
    pub(super) fn drop_account(&self) {
        let file = self.account_file();
        let _ = std::fs::rename(&file, file.with_extension("json.unknown"));
    }

    /// The certificate got before; `None`: there is none.
    pub(super) fn certificate(&self) -> Result<Option<Result<Pair, CertError>>, SecretError> {
        let file = self.certificate_file();
        if !file.exists() {
            return Ok(None);
        }
        let text = secrets::read(&file)?;
        Ok(Some(Pair::read(&text, &text)))
    }

    /// The key of the certificate got before, if it is such as we make; `None`: a new one is needed.
    pub(super) fn key(&self) -> Option<KeyPair> {
        let text = secrets::read(&self.certificate_file()).ok()?;
        let mut der = PrivateKeyDer::from_pem_slice(&text).ok()?;
        let key = KeyPair::try_from(&der).ok();
        der.zeroize();
        key.filter(|key| key.is_compatible(&PKCS_ECDSA_P256_SHA256))
    }

    pub(super) fn keep_certificate(&self, key_pem: &str, chain_pem: &str) -> Result<(), SecretError> {
        let mut text = Zeroizing::new(String::with_capacity(key_pem.len() + chain_pem.len() + 1));
        text.push_str(key_pem);
        if !key_pem.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(chain_pem);
        secrets::replace(&self.certificate_file(), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_own_place() {
        let place = |url: &str| Place::of(Path::new("acme"), url).dir;
        let (a, b) = (place("https://ca.example/directory"), place("https://ca.example/other"));
        assert_ne!(a, b);
        assert!(a.to_str().unwrap().starts_with("acme/ca.example-"), "{a:?}");
        assert_eq!(place("https://../../x").parent(), Some(Path::new("acme")));
        assert!(place("https://[::1]:14000/dir").to_str().unwrap().starts_with("acme/___1__14000-"));
    }

    #[test]
    fn a_certificate_comes_back_with_its_key_and_garbage_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), "https://ca.example/directory");
        place.make().unwrap();
        assert!(place.certificate().unwrap().is_none() && place.account().unwrap().is_none());
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["mx.our.example".to_owned()]).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        place.keep_certificate(&key.serialize_pem(), &chain).unwrap();
        let pair = place.certificate().unwrap().unwrap().unwrap();
        assert!(pair.installed().covers("mx.our.example"));
        place.keep_certificate("", "nothing").unwrap();
        assert!(place.certificate().unwrap().unwrap().is_err());
    }

    #[test]
    fn a_key_is_used_again_if_it_is_one_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), "https://ca.example/directory");
        place.make().unwrap();
        assert!(place.key().is_none());
        let keep = |key: &KeyPair| {
            let params = rcgen::CertificateParams::new(vec!["mx.our.example".to_owned()]).unwrap();
            place.keep_certificate(&key.serialize_pem(), &params.self_signed(key).unwrap().pem()).unwrap();
        };
        let ours = KeyPair::generate().unwrap();
        keep(&ours);
        assert_eq!(place.key().unwrap().public_key_raw(), ours.public_key_raw());
        keep(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
        assert!(place.key().is_none(), "few clients know that kind");
        place.keep_certificate("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "").unwrap();
        assert!(place.key().is_none());
    }

    #[test]
    fn times_of_tries_come_back_few_and_garbage_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), "https://ca.example/directory");
        place.make().unwrap();
        assert_eq!(place.tries(), []);
        place.keep_tries(&[WallMs(7), WallMs(9)]).unwrap();
        assert_eq!(place.tries(), [WallMs(7), WallMs(9)]);
        let many: Vec<_> = (0..100).map(WallMs).collect();
        place.keep_tries(&many).unwrap();
        assert_eq!(place.tries(), many[100 - TRIES_KEPT..]);
        for garbage in ["", "[1, -2]", "{}", "[1"] {
            secrets::replace(&place.tries_file(), garbage.as_bytes()).unwrap();
            assert_eq!(place.tries(), [], "{garbage}");
        }
        place.keep_tries(&[]).unwrap();
        assert_eq!(place.tries(), []);
    }
}
