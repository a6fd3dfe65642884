//! A signature covers everything (M14): one flipped bit, or any other context, and the statement is worth nothing.

use data_encoding::BASE64;
use proptest::prelude::*;
use spool::ids::{ItemId, Seq, WallMs};
use waystation::identity::key::SecretKey;
use waystation::mail::attestation::{self, Details, Statement, signals};
use waystation::mail::custody::{self, Kind, Receipt};
use waystation::mail::relay_keys::TrustedKeys;
use waystation::mail::signed::{self, Signed};
use waystation::mail::verdict::{Dkim, Dmarc, Spf, Verdicts, Word};

const NOW: WallMs = WallMs(1_800_000_000_000);

fn word() -> impl Strategy<Value = Word> {
    prop::sample::select(vec![
        Word::None,
        Word::Pass,
        Word::Fail,
        Word::SoftFail,
        Word::Neutral,
        Word::Policy,
        Word::TempError,
        Word::PermError,
    ])
}

fn verdicts() -> impl Strategy<Value = Verdicts> {
    let dkim = (word(), "[a-z.]{0,20}", "[a-z0-9]{0,8}", "[a-z0-9-]{0,12}").prop_map(
        |(word, domain, selector, algorithm)| Dkim {
            word,
            domain,
            selector,
            algorithm,
            reason: String::new(),
        },
    );
    let rest = (word(), any::<bool>(), "[a-z.]{0,20}", word(), "[a-z]{0,10}", word());
    (prop::collection::vec(dkim, 0..4), rest).prop_map(|(dkim, (spf, helo, domain, dmarc, policy, arc))| {
        Verdicts {
            spf: Spf { word: spf, domain: domain.clone(), helo, reason: String::new() },
            dkim,
            dmarc: Dmarc { word: dmarc, domain, policy, reason: String::new() },
            arc,
        }
    })
}

fn statement() -> impl Strategy<Value = Statement> {
    let texts = (".{0,40}", ".{0,40}", ".{0,40}", "[a-v0-9]{26}", ".{0,30}", ".{0,30}");
    (texts, verdicts(), any::<[u8; 32]>(), any::<u32>()).prop_map(
        |((stream_id, mail_from, rcpt_to, item_id, helo, tls), verdicts, sha256, size)| Statement {
            stream_id,
            mail_from,
            rcpt_to,
            issued_at: NOW,
            signals: signals(&verdicts),
            details: Some(Details {
                relay: "mx.example".into(),
                item_id,
                sha256,
                size: size.into(),
                client_ip: "192.0.2.1".into(),
                helo,
                tls,
                verdicts,
                expires_at: NOW.plus(86_400_000),
            }),
        },
    )
}

fn receipt() -> impl Strategy<Value = Receipt> {
    let numbers = any::<(u64, [u8; 10], [u8; 32], [u8; 32], [u8; 32], u32)>();
    (numbers, proptest::option::of(".{0,40}")).prop_map(
        |((seq, random, sha256, head_sha256, chain, size), stream_id)| Receipt {
            kind: if stream_id.is_some() { Kind::Submission } else { Kind::Item },
            relay: "mx.example".into(),
            id: ItemId::new(NOW, random),
            lane: "lane".into(),
            seq: Seq(seq),
            sha256,
            size: size.into(),
            head_sha256,
            chain,
            at: NOW,
            stream_id,
        },
    )
}

fn keys() -> (SecretKey, TrustedKeys) {
    let key = SecretKey::from_seed(&[7; 32]);
    let mut keys = TrustedKeys::default();
    keys.pin("k", key.key_text()).expect("a name");
    (key, keys)
}

fn join(first: &str, second: &str) -> String {
    format!("{first}{second}")
}

/// The statement with one bit of payload or signature flipped.
fn flipped(signed: &Signed, at: prop::sample::Index, bit: u8) -> Signed {
    let mut payload = BASE64.decode(signed.payload_base64.as_bytes()).expect("base64");
    let mut signature = BASE64.decode(signed.signature_base64.as_bytes()).expect("base64");
    let at = at.index(payload.len() + signature.len());
    match at.checked_sub(payload.len()) {
        None => payload[at] ^= 1 << bit,
        Some(at) => signature[at] ^= 1 << bit,
    }
    Signed {
        key_id: signed.key_id.clone(),
        payload_base64: BASE64.encode(&payload),
        signature_base64: BASE64.encode(&signature),
        batch_path: signed.batch_path.clone(),
    }
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn statements_signed_together_are_believed_each_and_no_changed_one(
        count in 1..70_usize, at in any::<prop::sample::Index>(), bit in 0..8u8, other in any::<prop::sample::Index>(),
    ) {
        let (key, keys) = keys();
        let payloads: Vec<String> = (0..count).map(|n| format!("{{\"n\":{n}}}")).collect();
        let statements: Vec<(&[u8], &[u8])> =
            payloads.iter().map(|payload| (&b"domain\n"[..], payload.as_bytes())).collect();
        let together = signed::seal_together(&statements, "k", &key);
        prop_assert_eq!(together.len(), count);
        for (n, one) in together.iter().enumerate() {
            let fields = signed::open(b"domain\n", one, &keys);
            prop_assert_eq!(fields.map(|fields| fields["n"].as_u64()), Ok(Some(n as u64)));
        }
        let one = other.get(&together);
        if let Some(path) = &one.batch_path {
            let mut way = BASE64.decode(path.as_bytes()).expect("base64");
            *at.get_mut(&mut way) ^= 1 << bit;
            let changed = Signed { batch_path: Some(BASE64.encode(&way)), ..one.clone() };
            prop_assert!(signed::open(b"domain\n", &changed, &keys).is_err());
        }
    }
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn attestations_cover_every_bit_and_their_context(
        said in statement(), at in any::<prop::sample::Index>(), bit in 0..8_u8, other in ".{1,5}",
    ) {
        let (key, keys) = keys();
        let signed = attestation::sign(&said, "k", &key);
        let verify = |signed: &Signed, stream: &str, from: &str, to: &str| {
            attestation::verify(Some(signed), stream, from, to, &keys, NOW)
        };
        let (stream, from, to) = (&said.stream_id, &said.mail_from, &said.rcpt_to);
        let verified = verify(&signed, stream, from, to).expect("as signed");
        prop_assert_eq!(&verified.details, &said.details);
        prop_assert!(verify(&flipped(&signed, at, bit), stream, from, to).is_err());
        prop_assert!(verify(&signed, &join(stream, &other), from, to).is_err());
        prop_assert!(verify(&signed, stream, &join(&other, from), to).is_err());
        prop_assert!(verify(&signed, stream, from, &join(to, &other)).is_err());
        let details = said.details.expect("ours");
        prop_assert!(verified.covers(&details.item_id, &details.sha256, details.size).is_ok());
        let mut sha256 = details.sha256;
        sha256[at.index(32)] ^= 1 << bit;
        prop_assert!(verified.covers(&details.item_id, &sha256, details.size).is_err());
        prop_assert!(verified.covers(&details.item_id, &details.sha256, details.size ^ 1).is_err());
        prop_assert!(verified.covers(&other, &details.sha256, details.size).is_err());
    }

    #[test]
    fn receipts_cover_every_bit(given in receipt(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (key, keys) = keys();
        let signed = given.sign("k", &key);
        prop_assert_eq!(custody::verify(&signed, &keys), Ok(given));
        prop_assert!(custody::verify(&flipped(&signed, at, bit), &keys).is_err());
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        payload in ".{0,200}", signature in ".{0,100}", json in "[\\{\\}\\[\\]\":,a-z0-9]{0,60}",
        path in prop::option::of("[A-Za-z0-9+/=]{0,100}"),
    ) {
        let (key, keys) = keys();
        let wild = Signed { key_id: "k".into(), payload_base64: payload, signature_base64: signature, batch_path: path };
        prop_assert!(attestation::verify(Some(&wild), "", "", "", &keys, NOW).is_err());
        prop_assert!(custody::verify(&wild, &keys).is_err());
        // Signed nonsense is nonsense, too.
        let signed = waystation::mail::signed::seal(b"", json.as_bytes(), "k", &key);
        prop_assert!(attestation::verify(Some(&signed), "a", "b", "c", &keys, NOW).is_err());
    }
}
