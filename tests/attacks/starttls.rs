//! Commands smuggled around STARTTLS by somebody on the path (J3; the class of CVE-2011-0411 and its children): what was
//! sent in the clear must never be read inside TLS, and `STARTTLS` inside a message is text.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use waystation::observe::{Metrics, TlsListener};
use waystation::tls::Store;
use waystation::tls::handshake::Handshakes;

use super::prey::Client;
use crate::support::relay::MailRelay;

const HERE: [u8; 4] = [127, 0, 0, 1];

async fn relay() -> MailRelay {
    let key = KeyPair::generate().expect("key");
    let certificate =
        CertificateParams::new(vec!["mx.our.example".to_owned()]).expect("parameters").self_signed(&key);
    let store = Store::new();
    let pem = (certificate.expect("certificate").pem(), key.serialize_pem());
    store.install(pem.0.as_bytes(), pem.1.as_bytes()).expect("installed");
    let tls = Handshakes::new(&store, TlsListener::Smtp, Arc::new(Metrics::new())).expect("TLS");
    MailRelay::start_with(|plan| plan.intake.tls = Some(tls)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_sent_behind_starttls_in_the_clear_is_ever_read() {
    let relay = relay().await;
    let behind = [
        "MAIL FROM:<a@client.example>\r\nRCPT TO:<home@our.example>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n",
        "EHLO evil.example\r\n",
        "RSET\r\n",
        "\r\n",
        "M", // the beginning of a command whose end comes inside TLS
        "\x16\x03\x01\x00\x05hello",
    ];
    for smuggled in behind {
        let mut client = Client::greeted(HERE, relay.address).await;
        client.send(format!("STARTTLS\r\n{smuggled}").as_bytes()).await.expect("sent");
        let said = client.reply().await;
        assert!(said.starts_with("554"), "{smuggled:?}: {said}"); // and no 220
        assert_eq!(client.reply().await, "closed", "{smuggled:?}");
    }
    assert_eq!(relay.items().await.len(), 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starttls_inside_a_message_is_text_and_its_chunks_hide_no_command() {
    let relay = relay().await;
    // In a body.
    let mut client = Client::greeted(HERE, relay.address).await;
    client.say("MAIL FROM:<a@client.example>").await;
    client.say("RCPT TO:<home@our.example>").await;
    assert!(client.say("DATA").await.starts_with("354"));
    let said = client.say("Subject: x\r\n\r\nSTARTTLS\r\nMAIL FROM:<b@b.example>\r\n.").await;
    assert!(said.starts_with("250 2.0.0"), "{said}");
    // In a chunk that ends in the middle of the word, and goes on as a command would.
    client.say("MAIL FROM:<a@client.example>").await;
    client.say("RCPT TO:<home@our.example>").await;
    client.send(b"BDAT 19\r\nSubject: x\r\n\r\nSTARTTLS\r\nBDAT 0 LAST\r\n").await.expect("sent");
    assert!(client.reply().await.starts_with("250")); // the chunk
    assert!(client.reply().await.starts_with("500")); // `TLS` is no command
    assert!(client.reply().await.starts_with("250 2.0.0")); // the message
    // In a chunk as a whole line: no octet of it is a command.
    client.say("MAIL FROM:<a@client.example>").await;
    client.say("RCPT TO:<home@our.example>").await;
    let said = client.say("BDAT 26 LAST\r\nSubject: x\r\n\r\nSTARTTLS\r\n\r\nNOOP").await;
    assert!(said.starts_with("250 2.0.0"), "{said}");
    assert!(client.reply().await.starts_with("250")); // NOOP, and nothing between
    assert_eq!(relay.items().await.len(), 3);
    relay.stop().await;
}
