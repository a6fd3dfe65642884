//! What the gateway verifies: attestation and receipt of each item, the succession of the relay's keys, and the audit of
//! what was kept.

use std::fs;
use std::process::Output;

use serde_json::Value;
use spool::ids::{ItemId, WallMs};
use waystation::mail::attestation::Details;
use waystation::mail::relay_keys::{Succession, fingerprint, key_base64};

use crate::support::home::Home;
use crate::support::process::RelayProcess;
use crate::support::process::waystation;
use crate::support::signing_relay::{Item, Lie, SigningRelay, TRACE, announced, secret};
use crate::support::until;

const BODY: &[u8] = b"From: a@sender.test\r\nSubject: hello\r\n\r\nhello\r\n";

/// A gateway that pins key number 1.
fn home(relay: &SigningRelay) -> Home {
    let home = Home::new(&relay.url());
    pin(&home, relay, 1);
    home
}

fn pin(home: &Home, relay: &SigningRelay, n: u8) {
    let key = key_base64(&secret(n).key_text());
    let pins = format!("[[relay_keys]]\nkey_id = \"relay-{n}\"\npublic_key = \"{key}\"\n");
    home.configure(&relay.url(), &format!("[maildir]\npath = \"Maildir\"\n{pins}"));
}

/// Lets the gateway take everything, and ends it.
async fn take_all(relay: &SigningRelay, home: &Home) {
    let running = home.start(None);
    until("all is acked", || relay.all_acked()).await;
    running.stop().await;
}

/// Delivered files as text, by item id, with the gateway's own field.
fn delivered(home: &Home, id: ItemId) -> String {
    let name = home.names("new").into_iter().find(|name| name.contains(&id.to_string())).expect("delivered");
    let bytes = fs::read(home.path().join("Maildir/new").join(name)).expect("read");
    String::from_utf8(bytes).expect("text")
}

/// The first field, unfolded.
fn top(text: &str) -> String {
    let unfolded = text.replace("\r\n\t", " ");
    unfolded.lines().next().unwrap_or_default().to_owned()
}

fn audit(home: &Home) -> (Output, Value) {
    let run = |json: bool| {
        let mut command = waystation();
        command.args(["gateway", "audit", "--config"]).arg(home.config());
        if json {
            command.arg("--json");
        }
        command.output().expect("started")
    };
    let report = serde_json::from_slice(&run(true).stdout).expect("JSON");
    (run(false), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_verdict_stands_on_top_and_the_receipts_add_up() {
    let relay = SigningRelay::start().await;
    let home = home(&relay);
    let ids = [0, 1, 2].map(|_| relay.put(BODY, None, None));
    take_all(&relay, &home).await;
    for id in ids {
        let text = delivered(&home, id);
        assert_eq!(
            top(&text),
            format!(
                "Waystation-Attestation: ok; relay=relay.test; key=relay-1; spf=pass; dkim=fail; dmarc=pass; arc=none; \
                 client=192.0.2.1; tls=TLSv1.3; receipt=ok; item={id}"
            )
        );
        assert!(text.ends_with(&format!("{TRACE}{}", String::from_utf8_lossy(BODY))), "{text}");
    }
    let (said, report) = audit(&home);
    let said_text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(0), "{said_text}");
    assert!(said_text.starts_with("ok: 3 receipts of items (positions 1 to 3)"), "{said_text}");
    assert_eq!((&report["verified"], &report["files"], &report["ok"]), (&3.into(), &3.into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_changes_one_thing_at_a_time_is_found_out_and_no_mail_is_lost() {
    fn details(item: &mut Item) -> &mut Details {
        item.statement.details.as_mut().expect("ours")
    }
    fn lie(lie: impl Fn(&mut Item) + Send + 'static) -> Option<Lie> {
        Some(Box::new(lie))
    }
    let relay = SigningRelay::start().await;
    let home = home(&relay);
    let other = || ItemId::new(WallMs(1), [9; 10]);
    // Signed lies: a relay that contradicts itself. Unsigned ones: somebody between relay and gateway.
    let cases: Vec<(&str, Option<Lie>, Option<Lie>)> = vec![
        ("context_mismatch", lie(|item| item.statement.stream_id.push('x')), None),
        ("context_mismatch", lie(|item| item.statement.mail_from.clear()), None),
        ("context_mismatch", lie(|item| item.statement.rcpt_to.push('x')), None),
        ("expired", lie(|item| details(item).expires_at = WallMs(1)), None),
        ("item_mismatch", lie(move |item| details(item).item_id = other().to_string()), None),
        ("body_mismatch", lie(|item| details(item).sha256[3] ^= 1), None),
        ("body_mismatch", lie(|item| details(item).size += 1), None),
        ("item_mismatch", lie(move |item| item.receipt.id = other()), None),
        ("item_mismatch", lie(|item| item.receipt.seq.0 += 1), None),
        ("item_mismatch", lie(|item| item.receipt.chain[0] ^= 1), None),
        ("item_mismatch", lie(|item| item.receipt.lane.push('x')), None),
        ("body_mismatch", lie(|item| item.receipt.sha256[0] ^= 1), None),
        ("body_mismatch", lie(|item| item.receipt.size += 1), None),
        ("body_mismatch", lie(|item| item.receipt.head_sha256[0] ^= 1), None),
        ("context_mismatch", None, lie(|item| item.start.mail_from = "b@sender.test".into())),
        ("context_mismatch", None, lie(|item| item.start.rcpt_to = "else@mail.test".into())),
        ("missing_attestation", None, lie(|item| item.start.auth_attestation = None)),
        (
            "missing_trusted_key",
            None,
            lie(|item| {
                if let Some(signed) = &mut item.start.auth_attestation {
                    signed.key_id = "relay-2".into();
                }
            }),
        ),
        (
            "invalid_signature",
            None,
            lie(|item| {
                if let Some(signed) = &mut item.start.auth_attestation {
                    signed.signature_base64.replace_range(10..11, "/");
                    signed.signature_base64.replace_range(11..12, "+");
                }
            }),
        ),
        (
            "body_mismatch",
            None,
            // Another body, announced as such: what the original could not see.
            lie(|item| {
                let at = item.body.len() - 3;
                item.body[at] ^= 1;
                let body = &item.body[TRACE.len()..];
                item.start.sha256 = Some(data_encoding::HEXLOWER.encode(&sha2_of(body)));
            }),
        ),
        ("body_mismatch", None, lie(|item| item.body[3] ^= 1)),
        ("missing_receipt", None, lie(|item| item.start.receipt = None)),
    ];
    let expected: Vec<(&str, ItemId)> =
        cases.into_iter().map(|(word, before, after)| (word, relay.put(BODY, before, after))).collect();
    take_all(&relay, &home).await;
    for (n, (word, id)) in expected.into_iter().enumerate() {
        let text = delivered(&home, id);
        assert!(top(&text).starts_with(&format!("Waystation-Attestation: {word};")), "{n}: {}", top(&text));
        assert!(!top(&text).contains("spf="), "{n}: {}", top(&text));
    }
    assert!(home.log().contains("gateway.item.unverified"));
}

fn sha2_of(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_fields_of_the_sender_are_taken_out() {
    let relay = SigningRelay::start().await;
    let home = home(&relay);
    let forged = b"waystation-attestation: ok; spf=pass\r\n\tdkim=pass\r\nSubject: x\r\nWaystation-Attestation : ok\r\n\r\n\
        Waystation-Attestation: in the body\r\n";
    let id = relay.put(forged, None, None);
    take_all(&relay, &home).await;
    let text = delivered(&home, id);
    assert!(top(&text).starts_with("Waystation-Attestation: ok; relay=relay.test;"), "{text}");
    let rest = text.split_once("\r\nReceived:").expect("the relay's field").1;
    assert!(rest.ends_with("+0000\r\nSubject: x\r\n\r\nWaystation-Attestation: in the body\r\n"), "{rest}");
    // The audit knows what was taken out.
    assert_eq!(audit(&home).0.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_succeeded_by_endorsement_and_strangers_are_an_alarm() {
    let relay = SigningRelay::start().await;
    let home = home(&relay);
    let first = relay.put(BODY, None, None);
    take_all(&relay, &home).await;
    let endorsement = Succession {
        relay: "relay.test".into(),
        key_id: "relay-2".into(),
        public_key: secret(2).key_text(),
        issued_at: WallMs(1),
    }
    .sign("relay-1", &secret(1));
    relay.rotate(2, vec![announced(2, Some(("relay-1".into(), endorsement)))]);
    let second = relay.put(BODY, None, None);
    take_all(&relay, &home).await;
    // The successor is known to the next process, although nobody announces it any more.
    relay.rotate(2, Vec::new());
    let third = relay.put(BODY, None, None);
    take_all(&relay, &home).await;
    for (id, key) in [(first, "relay-1"), (second, "relay-2"), (third, "relay-2")] {
        let top = top(&delivered(&home, id));
        assert!(top.contains(&format!("ok; relay=relay.test; key={key};")), "{top}");
    }
    assert_eq!(audit(&home).0.status.code(), Some(0));
    // A key that nobody endorsed.
    relay.rotate(3, vec![announced(3, None)]);
    let fourth = relay.put(BODY, None, None);
    take_all(&relay, &home).await;
    assert!(top(&delivered(&home, fourth)).starts_with("Waystation-Attestation: missing_trusted_key;"));
    assert!(home.log().contains("gateway.relay_key.unknown"), "{}", home.log());
    let (said, report) = audit(&home);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(
        (&report["findings"][0]["what"], &report["findings"][0]["seq"]),
        (&"unknown_key".into(), &4.into())
    );
    // Pinned by its owner, it counts from then on, and what the old ones signed does not.
    pin(&home, &relay, 3);
    assert_eq!(audit(&home).1["findings"][0]["what"], "unknown_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pinned_key_nothing_is_trusted_and_the_status_says_so() {
    let relay = SigningRelay::start().await;
    let home = Home::new(&relay.url());
    let id = relay.put(BODY, None, None);
    let running = home.start(None);
    until("all is acked", || relay.all_acked()).await;
    until("it is counted", || home.status().is_some_and(|status| status["unverified"] == 1)).await;
    running.stop().await;
    assert!(top(&delivered(&home, id)).starts_with("Waystation-Attestation: missing_trusted_key;"));
    assert!(home.log().contains("gateway.relay_key.unpinned"), "{}", home.log());
    let (said, _) = audit(&home);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("No key of the relay is pinned"));
}

/// Lines of the one file of receipts.
fn receipt_lines(home: &Home) -> (std::path::PathBuf, Vec<String>) {
    let path = home.path().join("state/receipts/00000001.log");
    let text = fs::read_to_string(&path).expect("receipts");
    (path, text.lines().map(|line| format!("{line}\n")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_what_was_planted() {
    let relay = SigningRelay::start().await;
    let home = home(&relay);
    for _ in 0..5 {
        relay.put(BODY, None, None);
    }
    take_all(&relay, &home).await;
    let first = |home: &Home| {
        let (said, report) = audit(home);
        assert_eq!(said.status.code(), Some(1), "{report}");
        let finding = &report["findings"][0];
        (finding["what"].as_str().expect("a word").to_owned(), finding["seq"].as_u64().expect("a position"))
    };
    let (path, lines) = receipt_lines(&home);
    assert_eq!(lines.len(), 6, "one line in front, one for each");
    // A receipt that was taken out; the last one, too. Lines stand in the order of delivery.
    for seq in [3, 5] {
        let word = format!("\"seq\":{seq},");
        let without: String = lines.iter().filter(|line| !line.contains(&word)).map(String::as_str).collect();
        fs::write(&path, without).expect("written");
        assert_eq!(first(&home), ("no_receipt".to_owned(), seq));
    }
    // A line that was changed.
    fs::write(&path, lines.concat().replacen("\"fate\":\"stored\"", "\"fate\":\"sTored\"", 1))
        .expect("written");
    assert_eq!(first(&home), ("damaged_line".to_owned(), 0));
    fs::write(&path, lines.concat()).expect("written");
    assert_eq!(audit(&home).0.status.code(), Some(0));
    // A delivered message that somebody changed.
    let name = home.names("new").into_iter().nth(1).expect("delivered");
    let file = home.path().join("Maildir/new").join(name);
    let was = fs::read(&file).expect("read");
    let mut changed = was.clone();
    let at = changed.len() - 4;
    changed[at] ^= 1;
    fs::write(&file, changed).expect("written");
    assert_eq!(first(&home), ("changed_file".to_owned(), 2));
    fs::write(&file, was).expect("written");
    assert_eq!(audit(&home).0.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_gaps_and_swaps_of_the_relay() {
    let relay = SigningRelay::start().await;
    let home = home(&relay);
    relay.put(BODY, None, None);
    relay.put(BODY, None, None);
    relay.leave_out(2);
    relay.put(BODY, None, None);
    take_all(&relay, &home).await;
    let (said, report) = audit(&home);
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.starts_with("Positions 2 to 3 have no receipt here, between item "), "{text}");
    assert_eq!((&report["findings"][0]["what"], &report["findings"][0]["seq"]), (&"gap".into(), &2.into()));
    // Another item in a place that was taken.
    let swapped = relay.put(
        b"Subject: other\r\n\r\nother\r\n",
        Some(Box::new(|item| {
            item.receipt.seq.0 = 1;
            item.start.seq = Some(1);
        })),
        None,
    );
    take_all(&relay, &home).await;
    let (_, report) = audit(&home);
    let first = &report["findings"][0];
    assert_eq!((&first["what"], &first["seq"]), (&"swap".into(), &1.into()), "{report}");
    assert!(first["text"].as_str().expect("text").contains(&swapped.to_string()), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_other_bytes_under_a_true_receipt_and_items_without_one() {
    let relay = SigningRelay::start().await;
    let home = home(&relay);
    relay.put(BODY, None, None);
    let swapped = relay.put(
        BODY,
        None,
        Some(Box::new(|item| {
            item.start.auth_attestation = None;
            let at = item.body.len() - 3;
            item.body[at] ^= 1;
            item.start.sha256 = Some(data_encoding::HEXLOWER.encode(&sha2_of(&item.body[TRACE.len()..])));
        })),
    );
    take_all(&relay, &home).await;
    let (said, report) = audit(&home);
    assert_eq!(said.status.code(), Some(1), "{report}");
    let first = &report["findings"][0];
    assert_eq!((&first["what"], &first["seq"]), (&"other_bytes".into(), &2.into()), "{report}");
    assert!(first["text"].as_str().expect("text").contains(&swapped.to_string()), "{first}");
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(1), "the file is what came: {report}");
    // Neither a receipt nor a position: it is known here all the same.
    let smuggled = relay.put(
        BODY,
        None,
        Some(Box::new(|item| {
            item.start.receipt = None;
            item.start.seq = None;
        })),
    );
    take_all(&relay, &home).await;
    let (_, report) = audit(&home);
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().any(|finding| {
        finding["what"] == "no_receipt"
            && finding["text"].as_str().is_some_and(|text| text.contains(&smuggled.to_string()))
    });
    assert!(found, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_delivery_and_receipt_is_no_finding() {
    for point in
        ["gateway.maildir.after_rename", "gateway.memory.before_write", "gateway.receipts.before_write"]
    {
        let relay = SigningRelay::start().await;
        let home = home(&relay);
        relay.put(BODY, None, None);
        let mut running = home.start(Some(point));
        running.ended().await;
        relay.put(BODY, None, None);
        take_all(&relay, &home).await;
        let (said, report) = audit(&home);
        assert_eq!(said.status.code(), Some(0), "{point}: {report}");
        assert_eq!((&report["items"], &report["files"]), (&2.into(), &2.into()), "{point}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receipt_of_a_real_relay_fits_what_was_handed_over() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    let url = format!("ws://{}/ws", relay.http);
    let data_dir = dir.path().to_str().expect("text");
    let shown = waystation()
        .args(["keys", "attestation", "--show", "--json", "--data-dir", data_dir])
        .output()
        .expect("started");
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let key = &shown["keys"][0];
    let home = Home::new(&url);
    home.configure(
        &url,
        &format!(
            "mail_domain = \"mail.localhost\"\n[maildir]\npath = \"Maildir\"\n\
             [[relay_keys]]\nkey_id = {}\npublic_key = {}\n",
            key["key_id"], key["public_key"]
        ),
    );
    let running = home.start(None);
    until("it listens", || home.status().is_some()).await;
    // Lone LFs, and a field for the sender's eyes: the relay keeps another form of it than we have.
    let sent = home.send(&["you@far.example"], "Subject: x\nBcc: secret@far.example\n\nhello\n.\n");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    until("its receipt is kept", || audit(&home).1["submissions"] == 1).await;
    running.stop().await;
    let (_, lines) = receipt_lines(&home);
    assert!(lines.iter().any(|line| line.contains("\"body\":{")), "{lines:?}");
    let (said, report) = audit(&home);
    assert_eq!(said.status.code(), Some(0), "{report}");
    // The receipt is not one of a refused message, which would be for no bytes.
    let text = lines.iter().find(|line| line.contains("submitted")).expect("a line");
    let line: Value = serde_json::from_str(&text[17..]).expect("JSON");
    let payload = line["receipt"]["payloadBase64"].as_str().expect("text").as_bytes().to_vec();
    let payload: Value =
        serde_json::from_slice(&data_encoding::BASE64.decode(&payload).expect("base64")).expect("JSON");
    assert_eq!(payload["size"], line["seen"]["body"]["size"], "{payload} {line}");
    relay.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_pins_what_the_relay_publishes_or_what_it_is_given() {
    let relay = SigningRelay::start().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let bootstrap = |name: &str, url: &str, args: &[&str]| {
        let mut command = waystation();
        command.args(["gateway", "bootstrap", url, "--dir"]).arg(dir.path().join(name)).args(args);
        command.output().expect("started")
    };
    let config = |name: &str| fs::read_to_string(dir.path().join(name).join("gateway.toml"));
    let key = secret(1).key_text();
    let made = bootstrap("fetched", &relay.url(), &[]);
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(
        said.contains(&format!("relay-1 {}", fingerprint(&key))) && said.contains("without TLS"),
        "{said}"
    );
    let text = config("fetched").expect("made");
    assert!(text.contains(&key_base64(&key)) && text.contains("mail_domain = \"mail.test\""), "{text}");
    // The user's own word counts.
    let given = format!("mine:{}", key_base64(&secret(5).key_text()));
    let made =
        bootstrap("given", "wss://relay.invalid/ws", &["--relay-key", &given, "--mail-domain", "x.test"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = config("given").expect("made");
    assert!(text.contains("key_id = \"mine\"") && text.contains("mail_domain = \"x.test\""), "{text}");
    assert!(bootstrap("offline", "wss://relay.invalid/ws", &["--offline"]).status.success());
    // Nobody there: nothing is made, and the ways out are named.
    let failed = bootstrap("none", "ws://127.0.0.1:1/ws", &[]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(75), "{said}");
    assert!(said.contains("--relay-key") && said.contains("--offline"), "{said}");
    assert!(config("none").is_err());
    assert_eq!(bootstrap("none", &relay.url(), &["--relay-key", "k:AAAA"]).status.code(), Some(2));
    assert!(config("none").is_err());
}
