//! What is stored of a submission does not depend on packets, and is final.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use waystation::mail::outbound::prepare::{Canonical, Draft, Refusal};

/// Few cases by default; seeds of failures are kept apart from the ledger's.
fn config() -> Config {
    let persistence = FileFailurePersistence::Direct("proptests/regressions/outbound.txt");
    Config { failure_persistence: Some(Box::new(persistence)), ..crate::cases(512) }
}

/// Size limit here; small, so that it is reached.
const MESSAGE_BYTES_MAX: u64 = 1500;

/// Pieces that messages go wrong at.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let texts: [&[u8]; 26] = [
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b".",
        b":",
        b"a",
        b"\xc3\xbc",
        b"\xff",
        b"Bcc: s3cret",
        b"bCc",
        b"Resent-Bcc:",
        b"From: a@b",
        b"To: x",
        b"\n\n",
        b"\r\n\r\n",
        b"--b",
        b"--b--",
        b"Content-Type: multipart/mixed; boundary=b",
        b"Received: by mx.our.example x",
        b"Subject: s",
        b"x: y\n",
    ];
    prop_oneof![
        20 => prop::sample::select(texts.map(<[u8]>::to_vec).to_vec()),
        1 => (990_usize..1005).prop_map(|n| vec![b'x'; n]),
    ]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    // Most begin like mail, so that most get past their first line.
    (prop::bool::weighted(0.8), vec(piece(), 0..30)).prop_map(|(headed, pieces)| {
        [if headed { b"A: b\n".to_vec() } else { Vec::new() }, pieces.concat()].concat()
    })
}

fn canonical(pieces: &[&[u8]]) -> Result<(Vec<u8>, Draft), Refusal> {
    let (mut filter, mut out) = (Canonical::new(MESSAGE_BYTES_MAX, "mx.our.example"), Vec::new());
    for piece in pieces {
        filter.feed(piece, &mut out)?;
    }
    let draft = filter.finish(&mut out)?;
    Ok((out, draft))
}

/// Header lines with their continuation lines joined.
fn header(message: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(message).into_owned();
    let header =
        text.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ").replace("\r\n\t", " ");
    header.split("\r\n").map(str::to_lowercase).collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_split_gives_the_same(message in message(), cuts in vec(1_usize..40, 1..20)) {
        let (mut pieces, mut rest) = (Vec::new(), message.as_slice());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(canonical(&[&message]), canonical(&pieces));
    }

    #[test]
    fn what_comes_out_is_canonical_and_final(message in message()) {
        if let Ok((out, draft)) = canonical(&[&message]) {
            prop_assert_eq!(draft.bytes(), out.len() as u64);
            prop_assert!(out.ends_with(b"\r\n") && !out.contains(&0));
            for (n, line) in out.split(|b| *b == b'\n').enumerate() {
                let ends = line.strip_suffix(b"\r");
                prop_assert!(ends.is_some() || (line.is_empty() && n > 0)); // C23
                let text = ends.unwrap_or_default();
                prop_assert!(text.len() <= 998 && !text.contains(&b'\r')); // E6
            }
            prop_assert!(!header(&out).iter().any(|line| line.starts_with("bcc:") || line.starts_with("resent-bcc:")));
            prop_assert!(out.starts_with(draft.header()));
            prop_assert!(out[draft.header().len()..].starts_with(b"\r\n"));
            prop_assert_eq!(canonical(&[&out]), Ok((out.clone(), draft)));
        }
    }
}
