//! Certificates this process serves, and TLS as its listeners speak it.
//!
//! Promises: TLS 1.2 and 1.3 only, with the suites of rustls (forward secrecy and AEAD, nothing else), no early data,
//! no renegotiation; a certificate that is replaced is seen by the next handshake, while sessions that live go on;
//! a broken pair never replaces a good one.
//! Does not: obtain certificates (`acme` does), know SMTP or HTTP, or check whom a client claims to be.
//! Failure policy: what is wrong with a pair is a typed [`CertError`] for the operator; what goes wrong in a
//! handshake ends that connection.

pub mod certificate;
pub mod files;
pub mod handshake;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use spool::ids::WallMs;
use tokio_rustls::TlsAcceptor;

pub use certificate::{CertError, Installed, Pair};

/// Protocol name of a tls-alpn-01 validation (RFC 8737 §4).
pub const ALPN_ACME: &[u8] = b"acme-tls/1";
/// What HTTPS speaks.
const ALPN_HTTP: &[u8] = b"http/1.1";
/// What clients of SMTP that use ALPN at all call it; the names are those of Exim, none is registered.
const ALPN_SMTP: [&[u8]; 2] = [b"smtp", b"esmtp"];
/// Sessions of SMTP clients that may be resumed by their id; a busy sender comes back within minutes.
const SMTP_SESSIONS_KEPT: usize = 1024;
/// Sessions of HTTPS clients that may be resumed by their id; those with a ticket need no place.
const HTTPS_SESSIONS_KEPT: usize = 256;
/// Names that are validated at a time; one certificate has that many at most.
const CHALLENGES_MAX: usize = 100;

/// Certificates this process serves; shared, replaced while running.
pub struct Store {
    current: RwLock<Option<Current>>,
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

struct Current {
    key: Arc<CertifiedKey>,
    installed: Installed,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("installed", &self.installed()).finish_non_exhaustive()
    }
}

impl Store {
    /// A store without a certificate: handshakes fail, STARTTLS is not offered.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { current: RwLock::default(), challenges: RwLock::default() })
    }

    /// Serves this chain and key from the next handshake on; sessions under way keep what they have.
    ///
    /// * `chain_pem` – the server's own certificate first, then those that lead to an authority.
    /// * `key_pem` – its private key: PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    /// [`CertError`]; what was served before is still served.
    pub fn install(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<Installed, CertError> {
        Ok(self.serve(Pair::read(chain_pem, key_pem)?))
    }

    /// Serves a pair that was read before.
    pub fn serve(&self, pair: Pair) -> Installed {
        let Pair { key, installed } = pair;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Current { key, installed: installed.clone() });
        installed
    }

    /// Serves this certificate to whoever asks for `name` with the protocol `acme-tls/1` alone (RFC 8737 §3).
    /// More names than a certificate has are not kept.
    pub fn set_challenge(&self, name: &str, certificate: Arc<CertifiedKey>) {
        let mut challenges = self.challenges.write().unwrap_or_else(PoisonError::into_inner);
        let name = name.to_ascii_lowercase();
        if challenges.len() < CHALLENGES_MAX || challenges.contains_key(&name) {
            challenges.insert(name, certificate);
        }
    }

    /// The validation of `name` is over.
    pub fn clear_challenge(&self, name: &str) {
        let mut challenges = self.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.remove(&name.to_ascii_lowercase());
    }

    /// True when there is a certificate.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What is known of the certificate that is served.
    #[must_use]
    pub fn installed(&self) -> Option<Installed> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|current| current.installed.clone())
    }

    /// End of validity of the certificate that is served.
    #[must_use]
    pub fn not_after(&self) -> Option<WallMs> {
        self.installed().map(|installed| installed.not_after)
    }

    fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner);
        challenges.get(&name.to_ascii_lowercase()).cloned()
    }
}

impl ResolvesServerCert for Store {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let validation = hello.alpn().is_some_and(|mut names| {
            names.next() == Some(ALPN_ACME) && names.next().is_none() // that one and no other
        });
        if validation {
            return hello.server_name().and_then(|name| self.challenge(name));
        }
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|current| Arc::clone(&current.key))
    }
}

/// TLS for SMTP. A client that names protocols and SMTP is none of them is refused (J11).
///
/// Sessions can be resumed by id in TLS 1.2. There are no tickets: the client of Exchange Online gives up a TLS 1.3
/// session when a ticket arrives at the wrong moment, and then does not deliver.
///
/// # Errors
/// The system has no randomness, or rustls was built without what is needed.
pub fn smtp_acceptor(store: &Arc<Store>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = config(store)?;
    config.alpn_protocols = ALPN_SMTP.iter().map(|name| name.to_vec()).collect();
    config.session_storage = ServerSessionMemoryCache::new(SMTP_SESSIONS_KEPT);
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config).into())
}

/// TLS for HTTPS: `http/1.1`, and `acme-tls/1` for validations, after whose handshake nothing is said.
///
/// # Errors
/// The system has no randomness, or rustls was built without what is needed.
pub fn https_acceptor(store: &Arc<Store>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = config(store)?;
    config.alpn_protocols = vec![ALPN_HTTP.to_vec(), ALPN_ACME.to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(HTTPS_SESSIONS_KEPT);
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config).into())
}

fn config(store: &Arc<Store>) -> Result<ServerConfig, rustls::Error> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let resolver: Arc<dyn ResolvesServerCert> = store.clone();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Where the cryptography comes from.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests;
