//! What the relay signs, as gateways get it: over real sockets, and before a judge that we did not write.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use futures_util::SinkExt as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use spool::accept::chain_step;
use spool::ids::{ItemId, Seq};
use spool::types::State;
use tokio_tungstenite::tungstenite::Message;
use waystation::clock;
use waystation::identity::key::{KeyText, SecretKey};
use waystation::mail::attestation::{self, Signal, Signals};
use waystation::mail::custody::{self, Kind};
use waystation::mail::envelope::Meta;
use waystation::mail::outbound::intake;
use waystation::mail::relay_keys::{TrustedKeys, read_key};
use waystation::mail::verdict::{Dkim, Dmarc, Spf, Verdicts, Word};
use waystation::observe::SignedKind;
use waystation::tunnel::frame::{Frame, StartBody};
use waystation::tunnel::signed::{RelayKeyStatus, Signed};

use super::key;
use super::relay::{self, Arrived, Gateway, OVERLAP_MS, Relay, eventually};
use crate::support::line::{Line, Log, Manner};
use crate::support::until;

/// What a gateway of tunnel 2 offers.
const TWO: &str = r#","features":["ack","results"]"#;
const TO: &str = "bob@recipient.example";

async fn two(relay: &Relay, key: &SecretKey) -> Gateway {
    Gateway::login_as(relay.address, key, TWO, "").await
}

/// Accepts a message with everything that can be known about its sender.
async fn put_checked(relay: &Relay, key: &SecretKey, bytes: &[u8]) -> ItemId {
    let name = key.key_text().to_string();
    let lane = relay.spooler.query(move |spool| spool.mailbox(&name)).await.unwrap().unwrap().unwrap().lane;
    let domain = || "sender.example".to_owned();
    let meta = Meta {
        mail_from: "\"a b\"@sender.example".into(),
        client_ip: "192.0.2.9".into(),
        helo: "mx.sender.example".into(),
        tls: "TLSv1.3 TLS_AES_256_GCM_SHA384".into(),
        verdicts: Verdicts {
            spf: Spf { word: Word::SoftFail, domain: domain(), ..Spf::default() },
            dkim: vec![Dkim { word: Word::Pass, domain: domain(), selector: "s".into(), ..Dkim::default() }],
            dmarc: Dmarc { word: Word::None, ..Dmarc::default() },
            arc: Word::None,
        },
        ..Meta::default()
    };
    let mut body = relay.spooler.body();
    body.write(bytes).await.unwrap();
    let tag = b"Home@mail.example".to_vec();
    let head = b"Received: here\r\n".to_vec();
    body.commit(head, meta.encode(), vec![(lane, tag)], clock::wall()).await.unwrap().ids[0]
}

/// Keys that the relay announces at the login, as `(id, key, status)`.
fn announced(gateway: &Gateway) -> Vec<(String, KeyText, String)> {
    let keys = gateway.auth_ok["relayKeys"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    keys.iter()
        .map(|key| {
            let public = read_key(&text(&key["publicKey"])).unwrap();
            (text(&key["keyId"]), public, text(&key["status"]))
        })
        .collect()
}

fn trusted(relay: &Relay) -> TrustedKeys {
    let mut keys = TrustedKeys::default();
    for key in relay.signer.announcement(clock::wall()) {
        keys.pin(&key.key_id, read_key(&key.public_key).unwrap()).unwrap();
    }
    keys
}

fn payload(signed: &Signed) -> Vec<u8> {
    BASE64.decode(signed.payload_base64.as_bytes()).unwrap()
}

/// OpenSSL's word on a signature over `prefix` and the payload.
fn openssl_verifies(dir: &Path, prefix: &[u8], signed: &Signed, key: &KeyText) -> bool {
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let message = file("message", &[prefix, &payload(signed)].concat());
    let signature = file("signature", &BASE64.decode(signed.signature_base64.as_bytes()).unwrap());
    let public = file("public.pem", key.to_spki_pem().as_bytes());
    let ran = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"])
        .arg(public)
        .arg("-in")
        .arg(message)
        .arg("-sigfile")
        .arg(signature)
        .output();
    match ran {
        Ok(output) => output.status.success(),
        Err(error) => {
            eprintln!("SKIPPED: openssl does not run: {error}");
            true
        }
    }
}

#[tokio::test]
async fn an_unmodified_gateway_gets_an_attestation_of_exactly_its_frame() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let id = put_checked(&relay, &key(1), b"Subject: hi\r\n\r\nbody\r\n").await;
    let mut gateway = Gateway::login(&relay, &key(1)).await;
    assert_eq!(gateway.auth_ok.get("relayKeys"), None, "tunnel 1 is told nothing new");
    let got = gateway.mail().await;
    let fields = serde_json::to_value(&got.start).unwrap();
    let mut names: Vec<_> = fields.as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["authAttestation", "mailFrom", "rcptTo"]);
    let signed = got.start.auth_attestation.unwrap();
    let public = relay.signer.ring().newest().secret.key_text();
    let dir = tempfile::tempdir().unwrap();
    assert!(openssl_verifies(dir.path(), b"", &signed, &public));
    assert!(!openssl_verifies(dir.path(), b" ", &signed, &public));
    // Section 10.2: these first, in this order.
    let text = String::from_utf8(payload(&signed)).unwrap();
    // The alias is a name of the relay alone, so what is signed is the name that the gateway is told and compares.
    let begin = format!(
        r#"{{"streamId":"{}","mailFrom":"\"a b\"@sender.example","rcptTo":"{}","issuedAt":""#,
        got.stream,
        key(1).key_text()
    );
    assert!(text.starts_with(&begin), "{text}");
    assert!(text.contains(r#""signals":{"spf":"fail","dkim":"pass","dmarc":"unknown"},"relay":"#), "{text}");
    let (from, to) = (&got.start.mail_from, &got.start.rcpt_to);
    let now = clock::wall();
    let verified = attestation::verify(Some(&signed), &got.stream, from, to, &trusted(&relay), now).unwrap();
    assert_eq!(verified.signals.dkim, Signal::Pass);
    // M14: what the relay saw is all in it.
    let body = &got.bytes[b"Received: here\r\n".len()..];
    assert_eq!(verified.covers(&id.to_string(), &Sha256::digest(body).into(), body.len() as u64), Ok(()));
    let details = verified.details.unwrap();
    assert_eq!((details.client_ip.as_str(), details.helo.as_str()), ("192.0.2.9", "mx.sender.example"));
    assert_eq!(details.tls, "TLSv1.3 TLS_AES_256_GCM_SHA384");
    assert_eq!(details.verdicts.dkim[0].domain, "sender.example");
    assert_eq!(relay.metrics.custody.count(SignedKind::Attestation), 1);
    assert_eq!(relay.metrics.custody.count(SignedKind::Receipt), 0, "nobody would read it");
}

#[tokio::test]
async fn a_gateway_of_tunnel_2_gets_receipts_that_chain_and_stay_the_same() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    let first = relay.put(&key(1), b"one").await;
    let second = put_checked(&relay, &key(1), b"two").await;
    let mut receipts = Vec::new();
    let mut relay = relay;
    for round in 0..3 {
        let mut gateway = two(&relay, &key(1)).await;
        let [(id, public, status)] = announced(&gateway).try_into().unwrap();
        assert_eq!((id.as_str(), status.as_str()), ("relay-primary", "current"));
        let mut round_receipts = Vec::new();
        for (n, (item, body)) in [(first, b"one"), (second, b"two")].into_iter().enumerate() {
            let got = gateway.mail().await;
            assert!(got.start.auth_attestation.is_some());
            let receipt = got.start.receipt.unwrap();
            let said = custody::verify(&receipt, &trusted(&relay)).unwrap();
            assert_eq!((said.kind, said.id, said.seq), (Kind::Item, item, Seq(n as u64 + 1)));
            assert_eq!(
                (said.relay.as_str(), said.lane.as_str()),
                ("relay.example", key(1).key_text().as_str())
            );
            let head: [u8; 32] = Sha256::digest(b"Received: here\r\n").into();
            assert_eq!((said.head_sha256, said.size), (head, 3));
            assert_eq!(said.sha256, <[u8; 32]>::from(Sha256::digest(body)));
            assert_eq!(got.start.chain.as_deref(), Some(HEXLOWER.encode(&said.chain).as_str()));
            let dir = tempfile::tempdir().unwrap();
            assert!(openssl_verifies(dir.path(), b"waystation-custody-1\n", &receipt, &public));
            round_receipts.push((receipt, said));
        }
        let (one, two) = (&round_receipts[0].1, &round_receipts[1].1);
        let chained = chain_step(&one.chain, two.seq, two.id, &two.head_sha256, &two.sha256);
        assert_eq!(two.chain, chained);
        receipts.push(round_receipts);
        drop(gateway);
        eventually("the session ends", async || relay.tunnel.sessions() == 0).await;
        if round == 1 {
            relay = relay.restart().await;
        }
    }
    assert_eq!(receipts[0], receipts[1], "offered again");
    assert_eq!(receipts[0], receipts[2], "after a restart");
}

#[tokio::test]
async fn a_receipt_keeps_its_key_while_that_is_announced_and_attestations_follow_the_clock() {
    let relay = Relay::start().await;
    relay.register(&key(1)).await;
    relay.put(&key(1), b"one").await;
    // A rotation that was made two and a half overlaps ago, and one that was made just now.
    let now = clock::wall();
    let ago = spool::ids::WallMs(now.0 - OVERLAP_MS * 3 / 2);
    relay.signer.rotate(ago).unwrap();
    relay.signer.rotate(now).unwrap();
    let statuses: Vec<_> =
        relay.signer.announcement(now).into_iter().map(|key| (key.key_id, key.status)).collect();
    let expected = [
        ("relay-primary-2".to_owned(), RelayKeyStatus::Current),
        ("relay-primary-3".to_owned(), RelayKeyStatus::Next),
        ("relay-primary".to_owned(), RelayKeyStatus::Previous),
    ];
    assert_eq!(statuses, expected);
    let mut gateway = two(&relay, &key(1)).await;
    let got = gateway.mail().await;
    assert_eq!(got.start.auth_attestation.unwrap().key_id, "relay-primary-2");
    assert_eq!(got.start.receipt.unwrap().key_id, "relay-primary-2");
    // A gateway that pinned the first key alone gets to the newest one by endorsements.
    let mut pinned = TrustedKeys::default();
    let first = relay.signer.ring().standings(now)[2].key.secret.key_text();
    pinned.pin("relay-primary", first).unwrap();
    let announcement = serde_json::from_value::<Vec<_>>(gateway.auth_ok["relayKeys"].clone()).unwrap();
    pinned.accept(&announcement);
    assert_eq!(pinned.len(), 3);
}

#[tokio::test]
async fn a_submission_gets_a_receipt_and_its_repeat_the_same_one() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = key.key_text().address("mail.example");
    let bytes = format!("From: <{from}>\r\nTo: <{TO}>\r\nSubject: s\r\n\r\nx\r\n").into_bytes();
    let receipts = |log: &Log| -> Vec<Value> {
        log.told()
            .iter()
            .filter(|told| told.value["type"] == "outbound_accepted")
            .map(|told| told.value["receipt"].clone())
            .collect()
    };
    let line = Line::open(relay.address, &key, Manner::TwoWithoutAcks, &log).await.expect("logged in");
    for n in 1..=2 {
        line.submit("s1", &from, TO, &bytes);
        until("it is accepted", || receipts(&log).len() == n).await;
    }
    // Refused at once, and so read back from the ledger: it has its receipt, too.
    line.submit("s2", &from, "nobody@mail.example", &bytes);
    until("it is accepted", || receipts(&log).len() == 3).await;
    drop(line);
    let relay = relay.restart().await;
    let line = Line::open(relay.address, &key, Manner::TwoWithoutAcks, &log).await.expect("logged in");
    line.submit("s1", &from, TO, &bytes);
    until("it is accepted after the restart", || receipts(&log).len() == 4).await;
    let all = receipts(&log);
    assert_eq!(all[0], all[1], "new and known");
    assert_eq!(all[0], all[3], "before and after the restart");
    let said: Vec<_> = [&all[0], &all[2]]
        .into_iter()
        .map(|receipt| {
            custody::verify(&serde_json::from_value(receipt.clone()).unwrap(), &trusted(&relay)).unwrap()
        })
        .collect();
    assert_eq!((said[0].kind, said[0].seq, said[1].seq), (Kind::Submission, Seq(1), Seq(2)));
    assert_eq!(said[0].stream_id.as_deref(), Some("s1"));
    assert_eq!(said[0].lane, key.key_text().to_string());
    let two = &said[1];
    assert_eq!(two.chain, chain_step(&said[0].chain, two.seq, two.id, &two.head_sha256, &two.sha256));
}

/// Whether an unmodified gateway that enforces its policy lets these pass: vectors `gateway.gateway_auth_policy`.
fn passes_enforced(signals: Signals) -> bool {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/mail-tunnel.json")).unwrap();
    let [spf, dkim, dmarc] = [signals.spf, signals.dkim, signals.dmarc].map(Signal::as_str);
    let rows = vectors["gateway"]["gateway_auth_policy"]["rows"].as_array().unwrap();
    let row =
        rows.iter().find(|row| row[0] == "enforce" && row[1] == spf && row[2] == dkim && row[3] == dmarc);
    row.unwrap()[4].as_bool().unwrap()
}

/// The signals of a mail as an unmodified gateway reads them.
fn attested(relay: &Relay, got: &Arrived) -> Signals {
    let (signed, from, to) = (&got.start.auth_attestation, &got.start.mail_from, &got.start.rcpt_to);
    let keys = trusted(relay);
    attestation::verify(signed.as_ref(), &got.stream, from, to, &keys, clock::wall()).unwrap().signals
}

#[tokio::test]
async fn what_the_relay_itself_answers_for_passes_a_gateway_that_enforces_its_policy() {
    assert!(!passes_enforced(Signals::default()));
    // Nobody waits for results, so that what was refused comes back as a report at once.
    let settings = intake::Settings { legacy_wait: Duration::ZERO, ..relay::submissions() };
    let relay = Relay::submitting(settings).await;
    relay.register(&key(2)).await;
    let from = key(1).key_text().address("mail.example");
    let there = key(2).key_text().address("mail.example");
    let mut sender = Gateway::login(&relay, &key(1)).await;
    for (stream, to) in [("to a mailbox here", there.as_str()), ("to nobody", "nobody@mail.example")] {
        let start = StartBody { mail_from: from.clone(), rcpt_to: to.to_owned(), ..StartBody::default() };
        let bytes = format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: s\r\n\r\n{stream}\r\n");
        for frame in [
            Frame::Start { stream: stream.to_owned(), start },
            Frame::Chunk { stream: stream.to_owned(), bytes: bytes.into() },
            Frame::End { stream: stream.to_owned() },
        ] {
            sender.socket.send(Message::Binary(frame.encode().unwrap())).await.unwrap();
        }
    }
    let mut gateway = Gateway::login(&relay, &key(2)).await;
    let mail = gateway.mail().await;
    assert_eq!((&mail.start.mail_from, &mail.start.rcpt_to), (&from, &there));
    assert!(passes_enforced(attested(&relay, &mail)));
    let report = sender.mail().await;
    assert!(String::from_utf8_lossy(&report.bytes).contains("Action: failed"));
    assert_eq!((report.start.mail_from.as_str(), &report.start.rcpt_to), ("", &from));
    assert!(passes_enforced(attested(&relay, &report)));
    // What came from outside is told as it was found.
    relay.put(&key(2), b"Subject: hi\r\n\r\nx\r\n").await;
    let mail = gateway.mail().await;
    assert!(!passes_enforced(attested(&relay, &mail)));
}

#[tokio::test]
async fn mail_between_mailboxes_here_is_attested_without_a_client() {
    let relay = Relay::start().await;
    relay.register(&key(2)).await;
    let (one, log) = (key(1), Log::default());
    let from = one.key_text().address("mail.example");
    let to = key(2).key_text().address("mail.example");
    let bytes = format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: s\r\n\r\nx\r\n").into_bytes();
    let line = Line::open(relay.address, &one, Manner::Two, &log).await.expect("logged in");
    line.submit("s1", &from, &to, &bytes);
    let mut gateway = two(&relay, &key(2)).await;
    let got = gateway.mail().await;
    let signed = got.start.auth_attestation.unwrap();
    let now = clock::wall();
    let verified =
        attestation::verify(Some(&signed), &got.stream, &from, &to, &trusted(&relay), now).unwrap();
    assert_eq!(verified.signals, Signals { dmarc: Signal::Pass, ..Signals::default() });
    // Tunnel 2 is told that nothing was looked up.
    let details = verified.details.unwrap();
    assert_eq!((details.client_ip.as_str(), details.verdicts), ("", Verdicts::default()));
    let receipt = custody::verify(&got.start.receipt.unwrap(), &trusted(&relay)).unwrap();
    assert_eq!((receipt.kind, receipt.stream_id), (Kind::Item, None));
    assert_eq!(relay.count(&key(2), State::Ready).await, 1);
}
