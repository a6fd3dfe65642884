//! Sessions: resumed, renewed, injected into, stalled.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waystation::mail::envelope::Meta;

use super::{HOST, Pki};
use crate::support::relay::MailRelay;

/// Sends, and returns the last reply line that begins so; panics at the end of the connection.
async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), line: &str, code: &str) -> String {
    stream.write_all(line.as_bytes()).await.expect("sent");
    let mut heard = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&heard).into_owned();
        let last = text.lines().last().unwrap_or_default();
        if text.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
            assert!(last.starts_with(code), "{line:?}: {text}");
            return text;
        }
        assert!(stream.read_buf(&mut heard).await.expect("heard") > 0, "{line:?}: ended after {text:?}");
    }
}

/// Up to the 220 to STARTTLS.
async fn told_to_start(relay: &MailRelay) -> TcpStream {
    let mut stream = TcpStream::connect(relay.address).await.expect("connects");
    say(&mut stream, "", "220 ").await;
    assert!(say(&mut stream, "EHLO liar.example\r\n", "250 ").await.contains("STARTTLS"));
    say(&mut stream, "STARTTLS\r\n", "220 2.0.0").await;
    stream
}

async fn encrypted(relay: &MailRelay, pki: &Pki) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca()).expect("PEM")).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = told_to_start(relay).await;
    let name = ServerName::try_from(HOST).expect("name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("handshake")
}

/// Everything up to the end; a reset is one, too.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_inside_tls_says_so() {
    let pki = Pki::new();
    let (relay, _) = pki.relay(|plan| plan.intake.session.require_tls = true).await;
    let mut clear = TcpStream::connect(relay.address).await.expect("connects");
    say(&mut clear, "", "220 ").await;
    say(&mut clear, "EHLO client.example\r\n", "250 ").await;
    say(&mut clear, "MAIL FROM:<a@client.example>\r\n", "530 5.7.0").await;
    let mut stream = encrypted(&relay, &pki).await;
    say(&mut stream, "RCPT TO:<home@our.example>\r\n", "503").await; // J1
    assert!(!say(&mut stream, "EHLO client.example\r\n", "250 ").await.contains("STARTTLS"));
    say(&mut stream, "STARTTLS\r\n", "503").await; // J5
    say(&mut stream, "MAIL FROM:<a@client.example>\r\nRCPT TO:<home@our.example>\r\n", "250").await;
    say(&mut stream, "DATA\r\n", "354").await;
    say(&mut stream, "Subject: x\r\n\r\nhello\r\n.\r\n", "250 2.0.0").await;
    // Gone without a farewell: the message is there once, and the relay is well.
    drop(stream);
    let item = relay.wait_for_items(1).await.remove(0);
    let meta = Meta::decode(&item.meta).expect("meta");
    assert_eq!((meta.tls.as_str(), meta.protocol.as_str()), ("TLSv1.3 TLS_AES_256_GCM_SHA384", "ESMTPS"));
    assert_eq!(meta.helo, "client.example");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_for_new_sessions() {
    let pki = Pki::new();
    let (relay, store) = pki.relay(|_| {}).await;
    let mut old = encrypted(&relay, &pki).await;
    pki.renew();
    pki.install(&store); // J8
    let new = encrypted(&relay, &pki).await;
    let shown =
        |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().expect("a chain")[0].to_vec();
    let chain = CertificateDer::from_pem_file(pki.chain()).expect("PEM");
    assert_eq!(shown(&new), chain.to_vec());
    assert_ne!(shown(&old), shown(&new));
    say(&mut old, "EHLO client.example\r\n", "250 ").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injected_plaintext_is_never_answered() {
    let pki = Pki::new(); // J3
    let (relay, _) = pki.relay(|_| {}).await;
    let mut stream = TcpStream::connect(relay.address).await.expect("connects");
    say(&mut stream, "", "220 ").await;
    say(&mut stream, "EHLO client.example\r\n", "250 ").await;
    stream.write_all(b"STARTTLS\r\nRSET\r\nNOOP\r\n").await.expect("sent");
    let heard = String::from_utf8(rest(&mut stream).await).expect("text");
    assert!(heard.starts_with("554 5.5.0 ") && heard.lines().count() == 1, "{heard}");
    // The same a moment later is no TLS record.
    let mut stream = told_to_start(&relay).await;
    stream.write_all(b"RSET\r\nNOOP\r\nEHLO x\r\n").await.expect("sent");
    let heard = rest(&mut stream).await; // J4
    assert!(!heard.windows(4).any(|four| four == b"250 " || four == b"250-"), "{heard:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_cut() {
    let pki = Pki::new(); // U2
    let short = Duration::from_millis(300);
    let (relay, _) = pki.relay(|plan| plan.intake.session.handshake_timeout = short).await;
    let mut silent = told_to_start(&relay).await;
    let mut trickling = told_to_start(&relay).await;
    let trickle = async {
        // Octets of a record that never ends.
        let _ = trickling.write_all(&[22, 3, 1, 2, 0]).await;
        while trickling.write_all(&[1]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let both = async { tokio::join!(rest(&mut silent), trickle) };
    let (heard, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("both are cut");
    assert!(heard.is_empty(), "{heard:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_resumed_in_tls_1_2() {
    let pki = Pki::new(); // J7
    let (relay, _) = pki.relay(|_| {}).await;
    let file = pki.ca().with_file_name("session");
    let file = file.to_str().expect("text");
    let smtp = ["-starttls", "smtp", "-tls1_2"];
    let first = pki.s_client(relay.address, &[&smtp[..], &["-sess_out", file]].concat(), b"QUIT\n").await;
    let Some((_, first)) = first else { return relay.stop().await };
    assert!(first.contains("New, TLSv1.2"), "{first}");
    let again = pki.s_client(relay.address, &[&smtp[..], &["-sess_in", file]].concat(), b"QUIT\n").await;
    let again = again.expect("installed").1;
    assert!(again.contains("Reused, TLSv1.2"), "{again}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_other_protocols_are_refused() {
    let pki = Pki::new(); // J11
    let (relay, _) = pki.relay(|_| {}).await;
    for alpn in ["http/1.1", "h2", "h2,http/1.1"] {
        let args = ["-starttls", "smtp", "-alpn", alpn];
        let Some((_, said)) = pki.s_client(relay.address, &args, b"GET / HTTP/1.1\n\n").await else { break };
        assert!(
            said.contains("alert no application protocol") && !said.contains("HTTP/1.1 "),
            "{alpn}: {said}"
        );
    }
    relay.stop().await;
}
