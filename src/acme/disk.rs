//! What the ACME client keeps: one directory per server, with the account and the certificate.
//!
//! Promises: every file has mode 0600 and is whole, old or new, after a crash; key and chain are one file, so that they never
//! belong to different orders. Failure policy: typed, names the file; a certificate that does not read counts as none.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use instant_acme::AccountCredentials;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secrets::{self, SecretError};
use crate::tls::{CertError, Pair};

/// Characters of a server's name in the name of its directory.
const HOST_CHARS_MAX: usize = 64;

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
}
