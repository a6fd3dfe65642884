//! Signatures before an independent verifier (mail-auth), and the settings that make a signer.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, LazyLock};

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

use super::*;

/// Keys for all tests: drawing an RSA key takes seconds.
static KEYS: LazyLock<(keys::NewKey, keys::NewKey)> =
    LazyLock::new(|| (keys::generate_rsa().unwrap(), keys::generate_ed25519().unwrap()));

const NOW: WallMs = WallMs(1_790_000_000_123);

fn loaded() -> (RsaKey<Sha256>, Ed25519Key) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    crate::identity::keyfile::write_new(&path("rsa"), KEYS.0.pem.as_bytes()).unwrap();
    crate::identity::keyfile::write_new(&path("ed"), KEYS.1.pem.as_bytes()).unwrap();
    (keys::load_rsa(&path("rsa")).unwrap(), keys::load_ed25519(&path("ed")).unwrap())
}

fn signer(settings: Settings) -> Signer {
    let (rsa, ed) = loaded();
    Signer::new(settings, Some(rsa), Some(ed)).unwrap()
}

/// Key records that need no network.
#[derive(Default)]
struct Records(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
}

/// What mail-auth says to the signatures of a message, top to bottom: `pass`, or the reason.
async fn verdicts(message: &[u8], settings: &Settings) -> Vec<String> {
    let mut records = Records::default();
    let keys = [(&settings.selector, &KEYS.0.record), (&settings.ed25519_selector, &KEYS.1.record)];
    for (selector, record) in keys {
        let key = DomainKey::parse(record.as_bytes()).unwrap();
        let name = format!("{}.", record_name(selector, &settings.domain));
        records.0.insert(name.into(), Txt::DomainKey(Arc::new(key)));
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
    let authenticator = MessageAuthenticator::new(config, ResolverOpts::default()).unwrap();
    let message = AuthenticatedMessage::parse(message).unwrap();
    let parameters = Parameters::new(&message).with_txt_cache(&records);
    let said = authenticator.verify_dkim(parameters).await;
    said.iter()
        .map(|one| {
            if one.result() == &DkimResult::Pass { "pass".to_owned() } else { format!("{:?}", one.result()) }
        })
        .collect()
}

fn signed(settings: &Settings, message: &str) -> Vec<u8> {
    let fields = signer(settings.clone()).sign(message.as_bytes(), NOW).unwrap();
    [fields, message.as_bytes().to_vec()].concat()
}

const MESSAGE: &str = "Received: by mx\r\nFrom: Me <me@mail.example>\r\nTo: you@there.example,\r\n\tand@there.example\r\n\
                       Subject: Hello   world \r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\nHello  there \r\n\r\n.dot\r\n";

#[tokio::test]
async fn both_signatures_verify_rsa_first() {
    let settings = Settings::new("mail.example", "default");
    let message = signed(&settings, MESSAGE); // T1, T3
    let text = String::from_utf8(message.clone()).unwrap();
    let (rsa, ed) = (text.find("a=rsa-sha256").unwrap(), text.find("a=ed25519-sha256").unwrap());
    assert!(rsa < ed);
    assert_eq!(verdicts(&message, &settings).await, ["pass", "pass"]);
    assert!(text.contains("t=1790000000;") && !text.contains(" l="), "{text}"); // T5
}

#[tokio::test]
async fn what_bodies_end_in_changes_nothing() {
    let settings = Settings::new("mail.example", "default");
    let head = "From: me@mail.example\r\nSubject: x\r\n\r\n";
    for body in
        ["", "\r\n", "\r\n\r\n", "text\r\n", "text\r\n\r\n\r\n", "text \t\r\n", "\r\n\r\ntext\r\n", "ü\r\n"]
    {
        let message = signed(&settings, &format!("{head}{body}")); // T9
        assert_eq!(verdicts(&message, &settings).await, ["pass", "pass"], "{body:?}");
    }
    // A last line of blanks is where mail-auth 0.13 goes wrong: the signature must be that of the body without it.
    let signatures =
        |body: &str| signer(settings.clone()).sign(format!("{head}{body}").as_bytes(), NOW).unwrap();
    assert_eq!(signatures("line\r\n \t\r\n"), signatures("line\r\n"));
}

#[tokio::test]
async fn a_field_that_is_added_later_breaks_the_signatures() {
    let settings = Settings::new("mail.example", "default");
    let message = String::from_utf8(signed(&settings, MESSAGE)).unwrap();
    for field in ["From: boss@bank.example", "Subject: other", "To: x@y.example", "Date: now"] {
        let changed = format!("{field}\r\n{message}"); // T2
        assert!(!verdicts(changed.as_bytes(), &settings).await.contains(&"pass".to_owned()), "{field}");
    }
    for (from, to) in [("Hello  there", "Hello there!"), ("Hello   world", "Hullo world"), ("and@", "end@")] {
        let changed = message.replace(from, to);
        assert!(!verdicts(changed.as_bytes(), &settings).await.contains(&"pass".to_owned()), "{to}");
    }
    let harmless = format!("X-Later: yes\r\n{}", message.replace("Hello   world ", "Hello world"));
    assert_eq!(verdicts(harmless.as_bytes(), &settings).await, ["pass", "pass"]);
}

#[tokio::test]
async fn lines_stay_short_whatever_the_names() {
    for n in [1, 20, 40, 55] {
        let label = "a".repeat(n);
        let selector = format!("{label}.{label}");
        let settings = Settings::new(&format!("{label}.example"), &selector); // T7
        let text = MESSAGE.replace("mail.example", &format!("{label}.example"));
        let message = signed(&settings, &text);
        let head = String::from_utf8(message[..message.len() - text.len()].to_vec()).unwrap();
        let longest = head.split("\r\n").map(str::len).max().unwrap();
        assert!(longest <= FOLD_BYTES.max(selector.len() + 16), "{longest}");
        assert!(
            head.split_terminator("\r\n").all(|line| line.starts_with("DKIM-S") || line.starts_with('\t'))
        );
        assert_eq!(verdicts(&message, &settings).await, ["pass", "pass"]);
    }
}

#[test]
fn pieces_do_not_matter() {
    let signer = signer(Settings::new("mail.example", "default"));
    let whole = signer.sign(MESSAGE.as_bytes(), NOW).unwrap();
    for piece in [1, 2, 3, 50] {
        let mut signing = signer.begin();
        MESSAGE.as_bytes().chunks(piece).for_each(|bytes| signing.feed(bytes));
        assert_eq!(signing.finish(NOW).unwrap(), whole);
    }
}

#[test]
fn only_aligned_authors_are_signed_for() {
    let signer = signer(Settings::new("Mail.example", "default"));
    let sign = |from: &str| signer.sign(format!("From: {from}\r\n\r\nx\r\n").as_bytes(), NOW).map(|_| ());
    for from in ["me@mail.example", "Me <me@MAIL.example>", "me@deep.er.mail.example"] {
        assert_eq!(sign(from), Ok(()), "{from}"); // T4
    }
    for from in ["me@example", "me@othermail.example", "me@mail.example.net", "me@mail.example, x@y.example"]
    {
        assert!(matches!(sign(from), Err(NotSigned::Foreign { .. })), "{from}");
    }
    assert_eq!(sign("nobody"), Err(NotSigned::NoAuthor));
    let twice = "From: me@mail.example\r\nFrom: me@mail.example\r\n\r\n";
    assert_eq!(signer.sign(twice.as_bytes(), NOW), Err(NotSigned::NoAuthor));
    let large = format!("From: me@mail.example\r\n{}\r\n", "A: b\r\n".repeat(50_000));
    assert_eq!(signer.sign(large.as_bytes(), NOW), Err(NotSigned::HeaderTooLarge));
}

#[test]
fn settings_that_sign_nothing_are_refused() {
    let good = Settings::new("mail.example", "default");
    assert_eq!(Signer::new(good.clone(), None, None).unwrap_err(), SignerError::NoKey);
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        Signer::new(settings, None, Some(loaded().1)).unwrap_err()
    };
    assert!(matches!(with(&|s| s.domain = "a b".into()), SignerError::Domain(_)));
    assert!(matches!(with(&|s| s.selector = "a;b".into()), SignerError::Selector(_)));
    assert!(matches!(with(&|s| s.selector = "a.".repeat(120) + "a"), SignerError::Selector(_)));
    assert_eq!(with(&|s| s.sign_headers = vec!["To".into()]), SignerError::Headers);
    assert_eq!(with(&|s| s.oversign_headers = vec!["a:b".into()]), SignerError::Headers);
}
