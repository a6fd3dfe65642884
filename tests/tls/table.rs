//! Protocols and ciphers: what is accepted, and what is refused by us, not by the program that asks.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Pki;

/// Arguments of `openssl s_client`, and whether the handshake succeeds. J7
const TABLE: [(&[&str], bool); 15] = [
    (&["-tls1_3"], true),
    (&["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"], true),
    (&["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"], true),
    (&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], true),
    (&["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], false),
    (&["-tls1_2"], true),
    (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], true),
    (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], true),
    (&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], true),
    (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], false), // CBC
    (&["-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384"], false), // no forward secrecy
    (&["-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"], false),
    (&["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"], false),
    (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], false),
    (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], false),
];

/// Suites that openssl does not know any more: NULL, EXPORT40, RC4, DES, 3DES.
const DEAD_SUITES: [u16; 8] = [0x0001, 0x0003, 0x0004, 0x0005, 0x0008, 0x0009, 0x000a, 0xc007];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_protocols_and_weak_ciphers_are_refused() {
    let pki = Pki::new();
    let (relay, _) = pki.relay(|_| {}).await;
    for (args, accepted) in TABLE {
        let args = [&["-starttls", "smtp"], args].concat();
        let Some((_, said)) = pki.s_client(relay.address, &args, b"QUIT\n").await else { break };
        let verified = said.contains("Verify return code: 0 (ok)") && !said.contains("Cipher is (NONE)");
        assert_eq!(verified, accepted, "{args:?}\n{said}");
        assert!(accepted || said.contains("alert"), "the relay did not refuse {args:?}\n{said}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_ciphers_and_dead_protocols_get_an_alert() {
    let pki = Pki::new();
    let (relay, _) = pki.relay(|_| {}).await;
    for (version, suites) in [
        ([3, 3], &DEAD_SUITES[..]),
        ([3, 2], &[0xc02b, 0xc02c][..]), // good suites, TLS 1.1
        ([3, 0], &[0xc02b, 0x002f][..]), // SSL 3
    ] {
        let mut stream = TcpStream::connect(relay.address).await.expect("connects");
        for (line, end) in
            [("", "waystation\r\n"), ("EHLO x\r\n", "STARTTLS\r\n"), ("STARTTLS\r\n", "TLS\r\n")]
        {
            stream.write_all(line.as_bytes()).await.expect("sent");
            let mut heard = Vec::new();
            while !heard.ends_with(end.as_bytes()) {
                assert!(stream.read_buf(&mut heard).await.expect("heard") > 0, "{heard:?}");
            }
        }
        stream.write_all(&hello(version, suites)).await.expect("sent");
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert_eq!(heard.first(), Some(&21), "no alert to {version:?}: {heard:?}");
        assert_eq!(heard.get(5), Some(&2), "not fatal: {heard:?}");
    }
    relay.stop().await;
}

/// A ClientHello without extensions but the curves and signatures that any server would take.
fn hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| [(bytes.len() as u16).to_be_bytes().to_vec(), bytes].concat();
    let suites = sized(suites.iter().flat_map(|suite| suite.to_be_bytes()).collect());
    let groups = [vec![0, 10], sized(sized(vec![0, 23]))].concat();
    let signatures = [vec![0, 13], sized(sized(vec![4, 3, 8, 4]))].concat();
    let points = [vec![0, 11], sized(vec![1, 0])].concat();
    let extensions = sized([groups, signatures, points].concat());
    let body = [version.to_vec(), vec![7; 32], vec![0], suites, vec![1, 0], extensions].concat();
    let length = (body.len() as u32).to_be_bytes();
    let handshake = [vec![1], length[1..].to_vec(), body].concat();
    [vec![22, 3, 1], sized(handshake)].concat()
}
