//! The vectors of section 10, both ways, and what they do not say.

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::*;
use crate::mail::relay_keys::read_key;

const NOW: WallMs = WallMs(1_800_000_000_000);

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/mail-tunnel.json")).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn signed(value: &Value) -> Option<Signed> {
    (!value.is_null()).then(|| serde_json::from_value(value.clone()).unwrap())
}

fn vector_key() -> SecretKey {
    let vectors = vectors();
    let seed = HEXLOWER.decode(text(&vectors["attestation"], "signing_key_ed25519_seed_hex").as_bytes());
    let key = SecretKey::from_seed(&seed.unwrap().try_into().unwrap());
    let spki = BASE64.decode(text(&vectors["attestation"], "public_key_spki_pem_base64_body").as_bytes());
    assert_eq!(spki.unwrap()[12..], key.key_text().public_key());
    key
}

fn trusted(ids: &[&str], key: &SecretKey) -> TrustedKeys {
    let mut keys = TrustedKeys::default();
    for id in ids {
        keys.pin(id, key.key_text()).unwrap();
    }
    keys
}

pub(super) fn sample() -> Statement {
    let verdicts = Verdicts {
        spf: Spf { word: Word::SoftFail, domain: "sender.example".into(), helo: true, reason: String::new() },
        dkim: vec![
            Dkim {
                word: Word::Policy,
                domain: "sender.example".into(),
                selector: "s1".into(),
                algorithm: "rsa-sha256".into(),
                reason: String::new(),
            },
            Dkim { word: Word::Pass, domain: "list.example".into(), ..Dkim::default() },
        ],
        dmarc: Dmarc {
            word: Word::Pass,
            domain: "list.example".into(),
            policy: "reject".into(),
            ..Dmarc::default()
        },
        arc: Word::None,
    };
    Statement {
        stream_id: "i:b@our.example".into(),
        mail_from: "a@sender.example".into(),
        rcpt_to: "b@our.example".into(),
        issued_at: NOW,
        signals: signals(&verdicts),
        details: Some(Details {
            relay: "mx.example".into(),
            item_id: "i".into(),
            sha256: [1; 32],
            size: 1234,
            client_ip: "192.0.2.1".into(),
            helo: "mail.sender.example".into(),
            tls: "TLSv1.3 TLS_AES_256_GCM_SHA384".into(),
            verdicts,
            expires_at: NOW.plus(1000),
        }),
    }
}

fn check(signed: &Signed, keys: &TrustedKeys, now: WallMs) -> Result<Verified, Reason> {
    verify(Some(signed), "i:b@our.example", "a@sender.example", "b@our.example", keys, now)
}

#[test]
fn payloads_and_signatures_agree_with_the_reference_byte_for_byte() {
    let key = vector_key();
    for case in vectors()["attestation"]["signed"].as_array().unwrap() {
        let said = &case["payload"];
        let signal = |name| Signal::read(Some(text(&said["signals"], name)));
        let statement = Statement {
            stream_id: text(said, "streamId").into(),
            mail_from: text(said, "mailFrom").into(),
            rcpt_to: text(said, "rcptTo").into(),
            issued_at: signed::read_time(text(said, "issuedAt")).unwrap(),
            signals: Signals { spf: signal("spf"), dkim: signal("dkim"), dmarc: signal("dmarc") },
            details: None,
        };
        assert_eq!(String::from_utf8(payload(&statement)).unwrap(), text(case, "payload_json_utf8"));
        let envelope = sign(&statement, "relay-primary", &key);
        assert_eq!(Some(&envelope), signed(&case["envelope"]).as_ref());
        let context = format!("{}\n{}\n{}", statement.stream_id, statement.mail_from, statement.rcpt_to);
        assert_eq!(HEXLOWER.encode(&Sha256::digest(&context)), text(case, "context_sha256_hex"));
        let keys = trusted(&["relay-primary"], &key);
        let Statement { stream_id, mail_from, rcpt_to, .. } = &statement;
        let verified = verify(Some(&envelope), stream_id, mail_from, rcpt_to, &keys, NOW).unwrap();
        assert_eq!((verified.signals, verified.details), (statement.signals, None));
    }
}

#[test]
fn verification_cases_agree_with_the_reference() {
    let vectors = vectors();
    let cases = vectors["attestation"]["verification_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let ids: Vec<_> =
            case["trusted_key_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        let keys = trusted(&ids, &vector_key());
        let expected = &case["expected_context"];
        let context = ["streamId", "mailFrom", "rcptTo"].map(|name| text(expected, name));
        let got =
            verify(signed(&case["attestation"]).as_ref(), context[0], context[1], context[2], &keys, NOW);
        let word = got.as_ref().map_or_else(|reason| reason.as_str(), |_| "ok");
        assert_eq!(word, text(case, "result_reason"), "{}", case["name"]);
        assert_eq!(got.is_ok(), case["result_valid"].as_bool().unwrap(), "{}", case["name"]);
    }
}

#[test]
fn signals_agree_with_the_reference() {
    for (word, signal) in vectors()["auth_status_to_signal"].as_object().unwrap() {
        let of = read_word(word).map_or(Signal::Unknown, Signal::of);
        // Words our checks do not have: another spelling, another letter case.
        if !matches!(word.as_str(), "PASS" | "temperr") {
            assert_eq!(of.as_str(), signal.as_str().unwrap(), "{word}");
        }
    }
}

#[test]
fn any_passing_signature_is_a_pass_and_else_any_failing_one_a_failure() {
    let dkim = |words: &[Word]| {
        let dkim = words.iter().map(|word| Dkim { word: *word, ..Dkim::default() }).collect();
        signals(&Verdicts { dkim, ..Verdicts::default() }).dkim
    };
    assert_eq!(dkim(&[]), Signal::Unknown);
    assert_eq!(dkim(&[Word::Neutral, Word::Fail]), Signal::Fail);
    assert_eq!(dkim(&[Word::Fail, Word::Pass]), Signal::Pass);
    assert_eq!(dkim(&[Word::Neutral, Word::None]), Signal::Unknown);
}

#[test]
fn our_fields_follow_those_of_the_first_protocol() {
    let expected = format!(
        "{{\"streamId\":\"i:b@our.example\",\"mailFrom\":\"a@sender.example\",\"rcptTo\":\"b@our.example\",\
         \"issuedAt\":\"2027-01-15T08:00:00.000Z\",\
         \"signals\":{{\"spf\":\"fail\",\"dkim\":\"pass\",\"dmarc\":\"pass\"}},\
         \"relay\":\"mx.example\",\"itemId\":\"i\",\"sha256\":\"{}\",\"size\":1234,\"clientIp\":\"192.0.2.1\",\
         \"helo\":\"mail.sender.example\",\"tls\":\"TLSv1.3 TLS_AES_256_GCM_SHA384\",\"verdicts\":{{\
         \"spf\":{{\"result\":\"softfail\",\"domain\":\"sender.example\",\"scope\":\"helo\"}},\
         \"dkim\":[{{\"result\":\"policy\",\"domain\":\"sender.example\",\"selector\":\"s1\",\
         \"algorithm\":\"rsa-sha256\"}},\
         {{\"result\":\"pass\",\"domain\":\"list.example\",\"selector\":\"\",\"algorithm\":\"\"}}],\
         \"dmarc\":{{\"result\":\"pass\",\"domain\":\"list.example\",\"policy\":\"reject\"}},\
         \"arc\":{{\"result\":\"none\"}}}},\"expiresAt\":\"2027-01-15T08:00:01.000Z\"}}",
        "01".repeat(32)
    );
    assert_eq!(String::from_utf8(payload(&sample())).unwrap(), expected);
}

#[test]
fn what_was_signed_is_what_is_read() {
    let key = vector_key();
    let keys = trusted(&["k"], &key);
    let verified = check(&sign(&sample(), "k", &key), &keys, NOW).unwrap();
    assert_eq!(verified.details, sample().details);
    assert_eq!(verified.signals, sample().signals);
    assert_eq!(verified.covers("i", &[1; 32], 1234), Ok(()));
    assert_eq!(verified.covers("j", &[1; 32], 1234), Err(Reason::ItemMismatch));
    assert_eq!(verified.covers("i", &[2; 32], 1234), Err(Reason::BodyMismatch));
    assert_eq!(verified.covers("i", &[1; 32], 1235), Err(Reason::BodyMismatch));
}

#[test]
fn a_statement_counts_until_it_expires() {
    let key = vector_key();
    let keys = trusted(&["k"], &key);
    let signed = sign(&sample(), "k", &key);
    let last = NOW.plus(1000 + CLOCK_SKEW_MS);
    assert!(check(&signed, &keys, last).is_ok());
    assert_eq!(check(&signed, &keys, last.plus(1)), Err(Reason::Expired));
    let text = String::from_utf8(payload(&sample())).unwrap().replace("2027-01-15T08:00:01.000Z", "never");
    let nonsense = signed::seal(DOMAIN, text.as_bytes(), "k", &key);
    assert_eq!(check(&nonsense, &keys, NOW), Err(Reason::InvalidPayload));
}

#[test]
fn with_our_fields_no_newline_moves_the_border() {
    let key = vector_key();
    let keys = trusted(&["k"], &key);
    let statement =
        Statement { stream_id: "a".into(), mail_from: "b\nc".into(), rcpt_to: "d".into(), ..sample() };
    let signed = sign(&statement, "k", &key);
    assert!(verify(Some(&signed), "a", "b\nc", "d", &keys, NOW).is_ok());
    assert_eq!(verify(Some(&signed), "a\nb", "c", "d", &keys, NOW), Err(Reason::ContextMismatch));
    let bare = sign(&Statement { details: None, ..statement }, "k", &key);
    assert!(verify(Some(&bare), "a\nb", "c", "d", &keys, NOW).is_ok());
}

#[test]
fn another_key_under_the_same_name_is_no_signature() {
    let keys = trusted(&["k"], &SecretKey::from_seed(&[9; 32]));
    let signed = sign(&sample(), "k", &vector_key());
    assert_eq!(check(&signed, &keys, NOW), Err(Reason::InvalidSignature));
    assert!(read_key("").is_none());
}
