//! DKIM keys: files, generation, and the DNS records that belong to them.
//!
//! Promises: a key file that others than its owner may read is refused, because who has the key can sign as the domain
//! ([`secrets`]); RSA keys have at least 2048 bits (RFC 8301 section 3.2; the key library refuses shorter ones);
//! what was read of a file is wiped from memory when the key is made. The key itself lives in the signer.
//!
//! Failure policy: every failure names the file and what to do.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256};
use mail_auth::dkim::generate::DkimKeyPair;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use crate::secrets::{self, SecretError};

/// Bits of a new RSA key: what fits a DNS answer and every verifier takes (RFC 8301 section 3.2).
const RSA_BITS: usize = 2048;
/// `OBJECT IDENTIFIER rsaEncryption, NULL` (RFC 8017 appendix A.1).
const RSA_ALGORITHM: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// A PKCS#8 version 1 key of Ed25519 in front of its 32 octets (RFC 8410 section 7); every tool reads version 1.
const ED25519_PKCS8: &[u8] =
    &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
// Tags of DER (X.690).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// A key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read, or others can.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The contents are no key of this kind.
    #[error("{} is no private key for DKIM: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system gave no key.
    #[error("cannot make a key: {0}")]
    Generate(String),
}

/// Reads an RSA key, PKCS#8 or PKCS#1 PEM.
///
/// # Errors
/// [`KeyError`].
pub fn load_rsa(path: &Path) -> Result<RsaKey<Sha256>, KeyError> {
    let (label, der) = read(path)?;
    let key = match label.as_str() {
        "PRIVATE KEY" => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice())),
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der.as_slice())),
        other => return Err(content(path, format!("a PEM block `{other}`"))),
    };
    RsaKey::from_key_der(key).map_err(|e| content(path, format!("RSA of 2048 to 4096 bits is wanted ({e})")))
}

/// Reads an Ed25519 key, PKCS#8 PEM.
///
/// # Errors
/// [`KeyError`].
pub fn load_ed25519(path: &Path) -> Result<Ed25519Key, KeyError> {
    let (label, der) = read(path)?;
    if label != "PRIVATE KEY" {
        return Err(content(path, format!("a PEM block `{label}`")));
    }
    Ed25519Key::from_pkcs8_maybe_unchecked_der(&der)
        .map_err(|e| content(path, format!("Ed25519 in PKCS#8 is wanted ({e})")))
}

/// A new key: its file and its record.
pub struct NewKey {
    /// PKCS#8 PEM.
    pub pem: Zeroizing<String>,
    /// Value of its TXT record.
    pub record: String,
}

/// Draws a new RSA key. Takes seconds.
///
/// # Errors
/// [`KeyError::Generate`].
pub fn generate_rsa() -> Result<NewKey, KeyError> {
    let pair = DkimKeyPair::generate_rsa(RSA_BITS).map_err(|e| KeyError::Generate(e.to_string()))?;
    let (private, public) = pair.into_inner();
    let private = Zeroizing::new(private);
    let algorithm = der(SEQUENCE, &[RSA_ALGORITHM]);
    let wrapped = der(SEQUENCE, &[&der(INTEGER, &[&[0]]), &algorithm, &der(OCTET_STRING, &[&private])]);
    Ok(NewKey { pem: pem(&wrapped), record: rsa_record(&public) })
}

/// Draws a new Ed25519 key.
///
/// # Errors
/// [`KeyError::Generate`].
pub fn generate_ed25519() -> Result<NewKey, KeyError> {
    let seed = Zeroizing::new(rand::random::<[u8; 32]>());
    let der = Zeroizing::new([ED25519_PKCS8, seed.as_slice()].concat());
    let key =
        Ed25519Key::from_pkcs8_maybe_unchecked_der(&der).map_err(|e| KeyError::Generate(e.to_string()))?;
    Ok(NewKey { pem: pem(&der), record: ed25519_record(&key) })
}

/// TXT record of an RSA key (RFC 6376 section 3.6.1); `public` is PKCS#1 as [`RsaKey::public_key`] gives it.
#[must_use]
pub fn rsa_record(public: &[u8]) -> String {
    let info = der(SEQUENCE, &[&der(SEQUENCE, &[RSA_ALGORITHM]), &der(BIT_STRING, &[&[0], public])]);
    format!("v=DKIM1; k=rsa; p={}", BASE64.encode(&info))
}

/// TXT record of an Ed25519 key (RFC 8463 section 4).
#[must_use]
pub fn ed25519_record(key: &Ed25519Key) -> String {
    format!("v=DKIM1; k=ed25519; p={}", BASE64.encode(&key.public_key()))
}

/// The first PEM block of a private file: its label and what is in it.
fn read(path: &Path) -> Result<(String, Zeroizing<Vec<u8>>), KeyError> {
    let text = secrets::read_text(path)?;
    let problem = || content(path, "it is no PEM file".to_owned());
    let after = text.split_once("-----BEGIN ").ok_or_else(problem)?.1;
    let (label, after) = after.split_once("-----").ok_or_else(problem)?;
    let (inner, _) = after.split_once("-----END ").ok_or_else(problem)?;
    let base64: Zeroizing<Vec<u8>> =
        Zeroizing::new(inner.bytes().filter(|b| !b.is_ascii_whitespace()).collect());
    let der = BASE64.decode(&base64).map_err(|_| problem())?;
    Ok((label.to_owned(), Zeroizing::new(der)))
}

fn content(path: &Path, problem: String) -> KeyError {
    KeyError::Content { path: path.to_owned(), problem }
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    let mut base64 = BASE64.encode(der);
    let lines: Vec<&str> =
        (0..base64.len()).step_by(64).filter_map(|n| base64.get(n..base64.len().min(n + 64))).collect();
    let text = Zeroizing::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    ));
    base64.zeroize();
    text
}

/// One DER value of definite length.
fn der(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Zeroizing::new(vec![tag]);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        out.push(0x80 | bytes.len() as u8);
        out.extend(bytes);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::identity::keyfile::write_new;

    #[test]
    fn new_keys_load_again_and_their_records_are_those_of_the_loaded_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (rsa, ed) = (generate_rsa().unwrap(), generate_ed25519().unwrap());
        for (name, key) in [("rsa", &rsa), ("ed", &ed)] {
            write_new(&dir.path().join(name), key.pem.as_bytes()).unwrap();
        }
        let loaded = load_rsa(&dir.path().join("rsa")).unwrap();
        assert_eq!(rsa_record(&loaded.public_key()), rsa.record); // T3
        assert_eq!(rsa.record.len(), "v=DKIM1; k=rsa; p=".len() + 392);
        assert_eq!(ed25519_record(&load_ed25519(&dir.path().join("ed")).unwrap()), ed.record);
        assert!(matches!(load_rsa(&dir.path().join("ed")), Err(KeyError::Content { .. })));
        assert!(matches!(load_ed25519(&dir.path().join("rsa")), Err(KeyError::Content { .. })));
    }

    #[test]
    fn an_exposed_key_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ed");
        write_new(&path, generate_ed25519().unwrap().pem.as_bytes()).unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o440, false), (0o644, false), (0o620, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let exposed = matches!(load_ed25519(&path), Err(KeyError::Secret(SecretError::Exposed { .. }))); // T8
            assert_eq!(exposed, !fine, "{mode:o}");
        }
    }

    #[test]
    fn short_keys_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let short = DkimKeyPair::generate_rsa(1024).unwrap();
        let base64 = BASE64.encode(short.private_key());
        let short = format!("-----BEGIN RSA PRIVATE KEY-----\n{base64}\n-----END RSA PRIVATE KEY-----\n");
        for (name, text) in [("short", short.as_str()), ("text", "not a key"), ("empty", "")] {
            let path = dir.path().join(name);
            write_new(&path, text.as_bytes()).unwrap();
            let refused = load_rsa(&path).map(|_| ()).unwrap_err(); // M8, RFC 8301
            assert!(matches!(refused, KeyError::Content { .. }), "{name}: {refused}");
            assert!(refused.to_string().contains(name));
        }
        assert!(matches!(load_rsa(&dir.path().join("none")), Err(KeyError::Secret(SecretError::Io { .. }))));
    }
}
