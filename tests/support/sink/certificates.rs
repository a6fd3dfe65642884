//! Certificates for sinks: good ones of an authority of our own, and every usual kind of bad one.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData as _, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256, Sha512};

/// An authority; a test decides who trusts it.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, ready for a server.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(super) server: Arc<ServerConfig>,
    /// The certificate of the server itself.
    pub(crate) certificate: CertificateDer<'static>,
    /// Its SubjectPublicKeyInfo, DER.
    pub(crate) public_key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "sink authority");
        let key = KeyPair::generate().expect("key");
        Self(CertifiedIssuer::self_signed(params, key).expect("certificate"))
    }

    /// Its certificate, as a file for those who trust it.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A good certificate for these names (`*.` at the start is a wildcard), sent with the authority's own.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_until(names, 2040)
    }

    /// The same, but it ran out in 2001.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Identity {
        self.issue_until(names, 2001)
    }

    fn issue_until(&self, names: &[&str], year: i32) -> Identity {
        let key = KeyPair::generate().expect("key");
        let certificate = params(names, year).signed_by(&key, &self.0).expect("certificate");
        Identity::new(vec![certificate.der().clone(), self.certificate()], &key)
    }
}

impl Identity {
    /// A certificate that vouches for itself.
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("key");
        let certificate = params(names, 2040).self_signed(&key).expect("certificate");
        Self::new(vec![certificate.der().clone()], &key)
    }

    /// The same certificate in a server that speaks TLS 1.2 only.
    pub(crate) fn tls12_only(key_of: &[&str]) -> Self {
        let key = KeyPair::generate().expect("key");
        let certificate = params(key_of, 2040).self_signed(&key).expect("certificate");
        Self::with_versions(vec![certificate.der().clone()], &key, &[&rustls::version::TLS12])
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        Self::with_versions(chain, key, rustls::DEFAULT_VERSIONS)
    }

    fn with_versions(
        chain: Vec<CertificateDer<'static>>,
        key: &KeyPair,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let certificate = chain[0].clone();
        let public_key = key.subject_public_key_info();
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .expect("certificate and key belong together");
        Self { server: Arc::new(server), certificate, public_key }
    }

    /// Data of a TLSA record for the server's certificate (RFC 6698 section 2.1).
    pub(crate) fn tlsa(&self, selector: u8, matching: u8) -> Vec<u8> {
        let of = if selector == 0 { self.certificate.as_ref() } else { &self.public_key };
        match matching {
            0 => of.to_vec(),
            1 => Sha256::digest(of).to_vec(),
            _ => Sha512::digest(of).to_vec(),
        }
    }
}

fn params(names: &[&str], until_year: i32) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(until_year, 1, 1);
    params
}
