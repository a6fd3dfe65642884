//! Pairs of every kind, whole and broken.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};

use super::*;

/// An authority.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(names: &[&str], key: &KeyPair, issuer: &CertifiedIssuer<'static, KeyPair>) -> String {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    CertificateParams::new(names).unwrap().signed_by(key, issuer).unwrap().pem()
}

#[test]
fn a_chain_with_its_key_is_read() {
    let issuer = authority("One");
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = leaf(&["mx.our.example", "*.mail.example", "192.0.2.1"], &key, &issuer) + &issuer.pem();
        let pair = Pair::read(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let installed = pair.installed();
        assert_eq!(installed.names, ["mx.our.example", "*.mail.example", "192.0.2.1"]);
        assert!(installed.not_before < installed.not_after);
        assert_eq!(pair.key.cert.len(), 2);
        assert!(installed.covers("mx.our.example") && installed.covers("a.mail.example"));
        assert!(!installed.covers("other.example") && !installed.covers("not a name"));
    }
}

#[test]
fn a_broken_pair_says_what_to_do() {
    let (one, two) = (authority("One"), authority("Two"));
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let chain = leaf(&["mx.our.example"], &key, &one);
    let pem = key.serialize_pem();
    let refused = |chain: &str, key: &str| Pair::read(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(refused("", &pem), CertError::Empty);
    assert_eq!(refused(&pem, &pem), CertError::Empty); // the two files were swapped
    assert!(matches!(refused("-----BEGIN CERTIFICATE-----\n!!!\n", &pem), CertError::ChainPem(_)));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(refused(garbage, &pem), CertError::Certificate { number: 1, .. }));
    assert!(matches!(refused(&format!("{chain}{garbage}"), &pem), CertError::Certificate { number: 2, .. }));
    assert_eq!(refused(&chain, &other.serialize_pem()), CertError::Mismatch);
    assert_eq!(refused(&(one.pem() + &chain), &pem), CertError::Order { number: 2 });
    assert_eq!(refused(&(chain.clone() + &two.pem()), &pem), CertError::Order { number: 2 });
    assert_eq!(refused(&chain.repeat(CHAIN_MAX + 1), &pem), CertError::LongChain);
    assert!(matches!(refused(&chain, ""), CertError::KeyPem(_)));
    assert!(matches!(refused(&chain, &chain), CertError::KeyPem(_)));
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(refused(&chain, no_key), CertError::Key(_)));
    assert!(refused(&chain, &other.serialize_pem()).is_about_key() && !refused("", &pem).is_about_key());
}
