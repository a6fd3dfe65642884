//! What a certificate must be, and what it proves (RFC 7435, RFC 8461, RFC 7672).
//!
//! Promises: TLS 1.2 or newer, no ALPN (S10); a demand for proof is decided inside the handshake, so that nothing is
//! said over a connection that does not meet it. Without such a demand every certificate will do (S1), even one that
//! cannot be read, and what it would have proven is recorded.
//!
//! DANE: usage 3 looks at the certificate alone, not at its name or dates; usage 2 wants a chain to a matching
//! authority and one of the names (S6). Records of other usages are none.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha512};

use crate::mail::outbound::values::{TlsDemand, TlsLevel, TlsaRecord};

/// Which public authorities count; cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Default for Trust {
    fn default() -> Self {
        Self::with_extra(&[])
    }
}

impl Trust {
    /// The Mozilla roots built into the binary, and `extra` ones; those that are no certificates are left out.
    #[must_use]
    pub fn with_extra(extra: &[CertificateDer<'static>]) -> Self {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(extra.iter().cloned());
        Self { roots: Arc::new(roots), provider: Arc::new(rustls::crypto::ring::default_provider()) }
    }
}

/// Decides about one handshake.
#[derive(Debug)]
pub(super) struct Judge {
    demand: TlsDemand,
    host: String,
    trust: Trust,
    verdict: Mutex<Verdict>,
}

/// What the handshake proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How well the connection is protected.
    pub(super) level: TlsLevel,
    /// Why it is not better than unverified; empty if it is.
    pub(super) problem: String,
}

impl Judge {
    /// For a connection to `host` with this demand.
    pub(super) fn new(demand: &TlsDemand, host: &str, trust: &Trust) -> Arc<Self> {
        let verdict = Mutex::default();
        Arc::new(Self { demand: demand.clone(), host: host.to_owned(), trust: trust.clone(), verdict })
    }

    /// The configuration of a handshake that this judge decides about.
    pub(super) fn client_config(self: &Arc<Self>) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.trust.provider))
            .with_safe_default_protocol_versions()?;
        let verifier: Arc<dyn ServerCertVerifier> = self.clone();
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }

    /// What was proven; of use after the handshake.
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, level: TlsLevel, problem: String) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Verdict { level, problem };
    }

    /// Nothing depends on who the server is.
    fn is_lenient(&self) -> bool {
        matches!(self.demand, TlsDemand::Opportunistic { .. } | TlsDemand::Encrypted | TlsDemand::Cleartext)
    }

    /// A chain to one of `roots`, for one of `names`.
    fn chain(
        &self,
        chain: &Chain<'_>,
        roots: &RootCertStore,
        names: &[String],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let leaf = ParsedCertificate::try_from(chain.leaf)?;
        let algorithms = self.trust.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, chain.rest, now, algorithms)?;
        let mut wrong = rustls::Error::General("no name to check the certificate against".to_owned());
        for name in names {
            match ServerName::try_from(name.trim_end_matches('.')) {
                Ok(name) => match verify_server_name(&leaf, &name) {
                    Ok(()) => return Ok(()),
                    Err(error) => wrong = error,
                },
                Err(error) => wrong = rustls::Error::General(error.to_string()),
            }
        }
        Err(wrong)
    }

    fn dane(
        &self,
        chain: &Chain<'_>,
        records: &[TlsaRecord],
        names: &[String],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if records.iter().any(|record| record.usage == 3 && matches(record, chain.leaf)) {
            return Ok(());
        }
        let mut anchors = RootCertStore::empty();
        for record in records.iter().filter(|record| record.usage == 2) {
            let presented = chain.rest.iter().filter(|certificate| matches(record, certificate));
            anchors.add_parsable_certificates(presented.cloned().map(CertificateDer::into_owned));
            if (record.selector, record.matching) == (0, 0) {
                // The whole authority stands in the DNS and need not be presented (RFC 7671 section 5.2).
                anchors.add_parsable_certificates([CertificateDer::from(record.data.clone())]);
            }
        }
        if anchors.is_empty() {
            return Err(rustls::Error::General("no TLSA record matches the certificates".to_owned()));
        }
        self.chain(chain, &anchors, names, now)
    }
}

/// What the server presented.
struct Chain<'a> {
    leaf: &'a CertificateDer<'a>,
    rest: &'a [CertificateDer<'a>],
}

/// Whether a record's data is the certificate's, by its selector and matching type (RFC 6698 section 2.1).
fn matches(record: &TlsaRecord, certificate: &CertificateDer<'_>) -> bool {
    let selected = match record.selector {
        0 => certificate.to_vec(),
        1 => match ParsedCertificate::try_from(certificate) {
            Ok(parsed) => parsed.subject_public_key_info().to_vec(),
            Err(_) => return false,
        },
        _ => return false,
    };
    match record.matching {
        0 => record.data == selected,
        1 => record.data == Sha256::digest(&selected)[..],
        2 => record.data == Sha512::digest(&selected)[..],
        _ => false,
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = Chain { leaf: end_entity, rest: intermediates };
        match &self.demand {
            TlsDemand::Opportunistic { .. } | TlsDemand::Encrypted | TlsDemand::Cleartext => {
                let host = [self.host.clone()];
                match self.chain(&chain, &self.trust.roots, &host, now) {
                    Ok(()) => self.set(TlsLevel::WebPki, String::new()),
                    Err(error) => self.set(TlsLevel::Unverified, error.to_string()), // S1
                }
            }
            TlsDemand::WebPki { names } => {
                self.chain(&chain, &self.trust.roots, names, now)?;
                self.set(TlsLevel::WebPki, String::new());
            }
            TlsDemand::Dane { records, names } => {
                self.dane(&chain, records, names, now)?;
                self.set(TlsLevel::Dane, String::new());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        self.signature(verify_tls12_signature(message, cert, dss, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        self.signature(verify_tls13_signature(message, cert, dss, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Judge {
    /// A certificate that proves nothing need not be proven to be the server's: encryption is all we get from it.
    fn signature(
        &self,
        checked: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match checked {
            Err(error) if self.is_lenient() => {
                self.set(TlsLevel::Unverified, error.to_string());
                Ok(HandshakeSignatureValid::assertion())
            }
            checked => checked,
        }
    }
}
