//! PURE: a chain and its key, from PEM, checked before anybody sees them.
//!
//! Promises: a [`Pair`] has at least one certificate, its first one belongs to the key, every certificate parses, and
//! each is followed by that of its issuer. Keys are wiped from memory that is ours when they are not needed any more.
//! Does not: judge by time, because a certificate that has just run out is better than none for mail.

use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use spool::ids::WallMs;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;
use zeroize::Zeroize as _;

/// Certificates of one chain; real ones have two to four.
pub const CHAIN_MAX: usize = 16;
/// Names of one certificate that are kept for logs; certificates for more exist.
const NAMES_MAX: usize = 100;

/// Why a chain and key cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// Something in the chain is no PEM.
    #[error(
        "the certificate file is no PEM: {0}; it must hold blocks that begin with -----BEGIN CERTIFICATE-----"
    )]
    ChainPem(String),
    /// No certificate at all.
    #[error(
        "there is no certificate in the file; it must hold the server's certificate, then the intermediate ones"
    )]
    Empty,
    /// More than [`CHAIN_MAX`].
    #[error(
        "there are more than {CHAIN_MAX} certificates in the file; name the chain of this server, not a bundle"
    )]
    LongChain,
    /// A certificate that does not parse.
    #[error("certificate {number} of the chain cannot be read: {problem}; ask its issuer for a new one")]
    Certificate {
        /// Its place, from 1.
        number: usize,
        /// The parser's words.
        problem: String,
    },
    /// The chain is not in order.
    #[error(
        "certificate {number} of the chain is not from the issuer of the one before it; put the server's certificate \
         first, then that of its issuer, and so on, without the root"
    )]
    Order {
        /// Its place, from 1.
        number: usize,
    },
    /// No private key in the key file.
    #[error(
        "there is no usable private key in the file: {0}; it must be unencrypted PKCS#8, PKCS#1 or SEC1 PEM"
    )]
    KeyPem(String),
    /// A private key that cannot sign here.
    #[error(
        "the private key cannot be used: {0}; use RSA with 2048 bits or more, ECDSA P-256 or P-384, or Ed25519"
    )]
    Key(String),
    /// The key is not that of the first certificate.
    #[error(
        "the private key does not belong to the first certificate of the chain; name the key the certificate was \
         made for, and put the server's certificate before those of authorities"
    )]
    Mismatch,
}

impl CertError {
    /// True when the key file is what must be looked at, and not the chain.
    #[must_use]
    pub fn is_about_key(&self) -> bool {
        match self {
            Self::KeyPem(_) | Self::Key(_) | Self::Mismatch => true,
            Self::ChainPem(_)
            | Self::Empty
            | Self::LongChain
            | Self::Certificate { .. }
            | Self::Order { .. } => false,
        }
    }
}

/// What is known of a certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Names and addresses in it, as written; at most 100.
    pub names: Vec<String>,
    /// Begin of validity.
    pub not_before: WallMs,
    /// End of validity.
    pub not_after: WallMs,
    /// The certificate itself, DER.
    certificate: CertificateDer<'static>,
}

impl Installed {
    /// Whether a client that asks for this host would be content with the name, wildcards included.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        ParsedCertificate::try_from(&self.certificate)
            .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok())
    }

    /// SHA-256 of its public key, as in a TLSA record `3 1 1` (RFC 6698 section 2.1); `None` for what does not parse.
    #[must_use]
    pub fn key_sha256(&self) -> Option<[u8; 32]> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).ok()?;
        Some(Sha256::digest(certificate.public_key().raw).into())
    }
}

/// A checked chain with its key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) installed: Installed,
}

impl Pair {
    /// Reads and checks.
    ///
    /// # Errors
    /// [`CertError`], which says what to do about it.
    pub fn read(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, CertError> {
        let chain = chain(chain_pem)?;
        let installed = describe(&chain)?;
        let mut key =
            PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| CertError::KeyPem(error.to_string()))?;
        let signing = any_supported_type(&key).map_err(|error| CertError::Key(words(&error)));
        key.zeroize();
        let key = signing?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| CertError::Mismatch)?;
        Ok(Self { key: Arc::new(certified), installed })
    }

    /// What is known of the certificate.
    #[must_use]
    pub fn installed(&self) -> &Installed {
        &self.installed
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        chain.push(certificate.map_err(|error| CertError::ChainPem(error.to_string()))?);
        if chain.len() > CHAIN_MAX {
            return Err(CertError::LongChain);
        }
    }
    if chain.is_empty() { Err(CertError::Empty) } else { Ok(chain) }
}

fn describe(chain: &[CertificateDer<'static>]) -> Result<Installed, CertError> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (at, der) in chain.iter().enumerate() {
        let wrong = |problem: String| CertError::Certificate { number: at + 1, problem };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
        parsed.push(certificate);
    }
    let leaf = parsed.first().ok_or(CertError::Empty)?;
    for (at, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() {
            return Err(CertError::Order { number: at + 2 });
        }
    }
    Ok(Installed {
        names: names(leaf),
        not_before: wall(leaf.validity().not_before),
        not_after: wall(leaf.validity().not_after),
        certificate: chain[0].clone(),
    })
}

/// Names and addresses of the subject's alternative names; the common name has no meaning (RFC 6125 §6.4.4).
fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => address(octets),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    };
    extension.value.general_names.iter().filter_map(name).take(NAMES_MAX).collect()
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(core::net::IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(octets).map(core::net::IpAddr::from).ok()).map(|ip| ip.to_string())
}

fn wall(time: ASN1Time) -> WallMs {
    WallMs(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}

/// rustls says "unexpected error: " before what the operator should read.
fn words(error: &rustls::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("unexpected error: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests;
