//! What the next handshake sees.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;

fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn install(store: &Store, name: &str) -> Vec<u8> {
    let (chain, key) = pair(name);
    store.install(chain.as_bytes(), key.as_bytes()).unwrap();
    served(store)
}

fn served(store: &Store) -> Vec<u8> {
    let current = store.current.read().unwrap();
    current.as_ref().unwrap().key.cert[0].to_vec()
}

/// A handshake over a pipe: the certificate that was shown and the protocol, or why not.
async fn shake(
    acceptor: &TlsAcceptor,
    name: &str,
    alpn: &[&[u8]],
    trusted: &[&[u8]],
) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.to_vec().into()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (client, server) =
        tokio::join!(TlsConnector::from(Arc::new(config)).connect(name, near), acceptor.accept(far));
    server.map_err(|error| error.to_string())?;
    let client = client.map_err(|error| error.to_string())?;
    let connection = client.get_ref().1;
    Ok((connection.peer_certificates().unwrap()[0].to_vec(), connection.alpn_protocol().map(<[u8]>::to_vec)))
}

#[tokio::test]
async fn the_next_handshake_sees_the_new_certificate() {
    let store = Store::new();
    let acceptor = smtp_acceptor(&store).unwrap();
    assert!(!store.ready() && store.not_after().is_none());
    assert!(shake(&acceptor, "mx.our.example", &[], &[]).await.is_err());
    let first = install(&store, "mx.our.example");
    assert!(store.ready() && store.not_after().is_some());
    assert_eq!(shake(&acceptor, "mx.our.example", &[], &[&first]).await.unwrap().0, first);
    let second = install(&store, "mx.our.example"); // J8
    assert_ne!(first, second);
    assert_eq!(shake(&acceptor, "mx.our.example", &[], &[&first, &second]).await.unwrap().0, second);
    assert!(store.install(b"", b"").is_err());
    assert_eq!(served(&store), second);
}

#[tokio::test]
async fn protocols_do_not_cross() {
    let store = Store::new();
    let own = install(&store, "mx.our.example");
    let (smtp, https) = (smtp_acceptor(&store).unwrap(), https_acceptor(&store).unwrap());
    let name = "mx.our.example";
    assert_eq!(shake(&smtp, name, &[], &[&own]).await.unwrap().1, None);
    assert_eq!(shake(&smtp, name, &[b"smtp"], &[&own]).await.unwrap().1, Some(b"smtp".to_vec()));
    for alpn in [&[b"http/1.1".as_slice()][..], &[b"h2"], &[b"h2", b"http/1.1"], &[b"acme-tls/1"]] {
        assert!(shake(&smtp, name, alpn, &[&own]).await.is_err(), "{alpn:?}"); // J11
    }
    assert_eq!(
        shake(&https, name, &[b"h2", b"http/1.1"], &[&own]).await.unwrap().1,
        Some(b"http/1.1".to_vec())
    );
    assert!(shake(&https, name, &[b"h2"], &[&own]).await.is_err());
    assert!(shake(&https, name, &[b"smtp"], &[&own]).await.is_err());
}

#[tokio::test]
async fn a_challenge_is_shown_to_validations_of_its_name_only() {
    let store = Store::new();
    let own = install(&store, "mx.our.example");
    let (chain, key) = pair("MX.our.example");
    let challenge = Pair::read(chain.as_bytes(), key.as_bytes()).unwrap().key;
    let shown = challenge.cert[0].to_vec();
    let https = https_acceptor(&store).unwrap();
    let trusted = [own.as_slice(), shown.as_slice()];
    let validation: [&[u8]; 1] = [ALPN_ACME];
    assert!(shake(&https, "mx.our.example", &validation, &trusted).await.is_err());
    store.set_challenge("MX.our.example", challenge);
    let seen = shake(&https, "mx.our.example", &validation, &trusted).await.unwrap();
    assert_eq!(seen, (shown.clone(), Some(ALPN_ACME.to_vec()))); // RFC 8737 §3
    assert!(shake(&https, "other.example", &validation, &trusted).await.is_err());
    for alpn in [&[][..], &[b"http/1.1".as_slice()], &[ALPN_ACME, b"http/1.1"]] {
        assert_eq!(shake(&https, "mx.our.example", alpn, &trusted).await.unwrap().0, own, "{alpn:?}");
    }
    store.clear_challenge("mx.our.EXAMPLE");
    assert!(shake(&https, "mx.our.example", &validation, &trusted).await.is_err());
}
