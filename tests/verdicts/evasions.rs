//! A forger who cannot pass, and tries to make the checks come to nothing instead.

use std::time::Duration;

use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use futures_util::future::join;
use hickory_resolver::proto::rr::RecordType;
use sha2::{Digest as _, Sha256};
use waystation::mail::verdict::evaluate::Judged;
use waystation::mail::verdict::patience::SILENT_MAX;
use waystation::mail::verdict::{Verdicts, Word};

use super::world::World;
use crate::support::dns::Trouble;
use crate::support::until;

/// Fits an empty body.
const SIGNATURE: &str = "v=1; a=ed25519-sha256; c=relaxed/relaxed; s=s; h=from; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA";

/// A world in which `bank.test` wants forgeries refused and `evil.test` is the forger's.
async fn world() -> World {
    prepared(World::start().await)
}

/// The same, where a silent name server takes all the time there is.
async fn hurried() -> World {
    prepared(World::patient(Duration::from_secs(2), Duration::from_secs(30)).await)
}

fn prepared(world: World) -> World {
    world.dns.txt("_dmarc.bank.test", &["v=DMARC1; p=reject"]);
    world.dns.txt("evil.test", &["v=spf1 ip4:192.0.2.1 -all"]);
    let key = BASE64.encode(key().verifying_key().as_bytes());
    world.dns.txt("s._domainkey.evil.test", &[&format!("k=ed25519; p={key}")]);
    world
}

/// The forger's.
fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A signature with the forger's key over an empty body and these fields (names in lower case, no blanks around), whoever
/// `tags` say it is of.
fn signed(tags: &str, fields: &[(&str, &str)]) -> String {
    let bh = BASE64.encode(&Sha256::digest(b""));
    let list = format!("v=1; a=ed25519-sha256; c=relaxed/relaxed; bh={bh}; {tags}; b=");
    let fields: String = fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
    let digest = Sha256::digest(format!("{fields}dkim-signature:{list}"));
    format!("DKIM-Signature: {list}{}\r\n", BASE64.encode(&key().sign(&digest).to_bytes()))
}

async fn forged(world: &World, header: &str) -> Judged {
    let message = format!("{header}Subject: x\r\n\r\n");
    world.judge("192.0.2.1", "evil.test", "x@evil.test", message.as_bytes()).await
}

fn failed(judged: &Judged, what: &str) {
    let Verdicts { spf, dmarc, .. } = &judged.verdicts;
    assert_eq!((spf.word, dmarc.word), (Word::Pass, Word::Fail), "{what}: {:?}", judged.verdicts);
    assert_eq!(dmarc.domain.trim_start_matches("xn--99999999999."), "bank.test", "{what}");
    assert!(judged.refuse, "{what}");
}

#[tokio::test]
async fn a_key_of_the_forgers_that_nobody_can_name_excuses_nothing() {
    for trouble in [Trouble::ServFail, Trouble::Refused, Trouble::Timeout] {
        let world = hurried().await;
        world.dns.trouble("s._domainkey.evil.test", None, Some(trouble));
        world.dns.trouble("_dmarc.evil.test", None, Some(trouble));
        let header = format!("DKIM-Signature: {SIGNATURE}; d=evil.test\r\nFrom: <ceo@bank.test>\r\n");
        let judged = forged(&world, &header).await;
        assert_eq!(judged.verdicts.dkim[0].word, Word::TempError); // M4
        failed(&judged, "unaligned");
        // One that might be the bank's is another matter.
        world.dns.trouble("s._domainkey.mail.bank.test", None, Some(trouble));
        let header = format!("DKIM-Signature: {SIGNATURE}; d=mail.bank.test\r\nFrom: <ceo@bank.test>\r\n");
        let judged = forged(&world, &header).await;
        assert_eq!((judged.verdicts.dmarc.word, judged.refuse), (Word::TempError, false), "aligned");
    }
}

#[tokio::test]
async fn a_policy_of_the_forgers_that_never_comes_excuses_nothing() {
    let world = hurried().await;
    world.dns.trouble("evil.test", Some(RecordType::TXT), Some(Trouble::Timeout));
    let words = |judged: &Judged| (judged.verdicts.spf.word, judged.verdicts.dmarc.word, judged.refuse);
    let judged = forged(&world, "From: <ceo@bank.test>\r\n").await;
    assert_eq!(words(&judged), (Word::TempError, Word::Fail, true), "{:?}", judged.verdicts); // M12
    // That of the bank itself might have vouched for it.
    world.dns.trouble("bank.test", Some(RecordType::TXT), Some(Trouble::Timeout));
    let message = b"From: <ceo@bank.test>\r\n\r\n";
    let judged = world.judge("192.0.2.1", "evil.test", "ceo@bank.test", message).await;
    assert_eq!(words(&judged), (Word::TempError, Word::TempError, false), "{:?}", judged.verdicts); // M4
}

#[tokio::test]
async fn a_sender_that_is_the_name_of_a_policy_does_not_take_it_away() {
    let world = world().await;
    world.dns.txt("evil.test", &["v=spf1 include:_dmarc.bank.test ip4:192.0.2.1 -all"]);
    let message = b"From: <ceo@bank.test>\r\n\r\n";
    for (helo, from) in [
        ("h.test", "x@_dmarc.bank.test"),
        ("h.test", "x@_DMARC.bank.test"),
        ("_dmarc.bank.test", ""),
        ("h.test", "x@evil.test"),
    ] {
        // The second time the answers are remembered, and come in another order.
        for _ in 0..2 {
            let judged = world.judge("192.0.2.1", helo, from, message).await;
            let dmarc = &judged.verdicts.dmarc;
            assert_eq!((dmarc.word, judged.refuse), (Word::Fail, true), "{helo} {from}: {dmarc:?}"); // M12
        }
    }
}

#[tokio::test]
async fn a_greeting_or_a_sender_that_is_no_name_makes_no_trouble_of_dns() {
    let world = world().await;
    let message = b"From: <ceo@bank.test>\r\n\r\n";
    let words = |judged: &Judged| (judged.verdicts.spf.word, judged.verdicts.dmarc.word, judged.refuse);
    for policy in ["exists:%{h}.spf.bank.test", "a:%{h}.spf.bank.test", "mx:%{h}.spf.bank.test"] {
        world.dns.txt("bank.test", &[&format!("v=spf1 {policy} -all")]);
        for helo in ["a..b", "jumping jupiter", &"a".repeat(64)] {
            let judged = world.judge("192.0.2.1", helo, "ceo@bank.test", message).await;
            assert_eq!(words(&judged), (Word::PermError, Word::Fail, true), "{policy} {helo}"); // M12
        }
        let judged = world.judge("192.0.2.1", "h.test", "ceo@bank.test", message).await;
        assert_eq!(words(&judged), (Word::Fail, Word::Fail, true), "{policy}");
        world.dns.trouble("h.test.spf.bank.test", None, Some(Trouble::ServFail));
        let judged = world.judge("192.0.2.1", "h.test", "ceo@bank.test", message).await;
        assert_eq!(words(&judged), (Word::TempError, Word::TempError, false), "{policy}"); // M4
        world.dns.trouble("h.test.spf.bank.test", None, None);
    }
    world.dns.txt("bank.test", &["v=spf1 exists:%{l}.spf.bank.test -all"]);
    let judged = world.judge("192.0.2.1", "h.test", "a..b@bank.test", message).await;
    assert_eq!(words(&judged), (Word::PermError, Word::Fail, true));
}

#[tokio::test]
async fn a_signature_is_never_said_to_be_of_another_domain_than_the_one_it_verified_for() {
    let world = world().await;
    for (tags, word) in [
        ("d=evil.test; s=s; h=from", Word::Pass),
        ("d=bank.test; s=s; h=from; D=evil.test", Word::Neutral),
        ("D=bank.test; s=s; h=from; d=evil.test", Word::Neutral),
        ("d=evil.test; s=none; h=from; S=s", Word::Neutral),
        // The library begins a new tag in the middle of a number that is none.
        ("d=bank.test; s=x; h=from; T=x d=evil.test; X=x s=s", Word::Pass),
    ] {
        let signature = signed(tags, &[("from", "<ceo@bank.test>")]);
        let judged = forged(&world, &format!("{signature}From: <ceo@bank.test>\r\n")).await;
        let dkim = &judged.verdicts.dkim[0];
        assert_eq!(dkim.word, word, "{tags}: {dkim:?}"); // M5
        if word == Word::Pass {
            assert_eq!((dkim.domain.as_str(), dkim.selector.as_str()), ("evil.test", "s"), "{tags}");
            assert!(!String::from_utf8_lossy(&judged.field).contains("header.d=bank.test"), "{tags}");
        }
        failed(&judged, tags);
    }
}

#[tokio::test]
async fn blanks_before_a_colon_hide_no_field_from_a_signature() {
    let world = world().await;
    let from = "From: <x@evil.test>\r\n";
    let fields = [("from", "<x@evil.test>"), ("subject", "x")];
    let signature = signed("d=evil.test; s=s; h=from:subject:subject", &fields);
    for (before, word) in [
        ("", Word::Pass),
        ("X-Other : y\r\n", Word::Pass),
        ("Subject: y\r\n", Word::Fail),
        ("Subject : y\r\n", Word::Neutral),
        ("subject\t: y\r\n", Word::Neutral),
        ("Subject\x0c: y\r\n", Word::Neutral),
    ] {
        let judged = forged(&world, &format!("{before}{signature}{from}")).await;
        let dkim = &judged.verdicts.dkim[0];
        assert_eq!(dkim.word, word, "{before:?}: {dkim:?}"); // M7
    }
}

#[tokio::test]
async fn a_from_field_in_an_odd_spelling_is_judged_or_makes_the_header_malformed() {
    let world = world().await;
    for name in ["From ", "from\t", "\tFROM \t"] {
        failed(&forged(&world, &format!("{name}: <ceo@bank.test>\r\n")).await, name);
    }
    for header in [
        "From\x0c: <ceo@bank.test>\r\n",
        "From\u{a0}: <ceo@bank.test>\r\n",
        "From\r\n : <ceo@bank.test>\r\n",
        "no field\r\nFrom: <ceo@bank.test>\r\n",
        "From: <x@evil.test>\r\nFrom : <ceo@bank.test>\r\n",
        "From\x0b: <ceo@bank.test>\r\nFrom: <x@evil.test>\r\n",
    ] {
        let dmarc = forged(&world, header).await.verdicts.dmarc;
        let said = (dmarc.word, dmarc.reason.as_str());
        assert_eq!(said, (Word::PermError, "header is malformed"), "{header:?}"); // M7
    }
}

#[tokio::test]
async fn a_field_name_with_odd_blanks_does_not_break_the_checks() {
    let world = world().await;
    for name in ["DKIM-Signature\x0c", "DKIM-Signature \x0c ", "\x0cDKIM-Signature", "DKIM-Signature\t "] {
        let header = format!("From: <ceo@bank.test>\r\n{name}: {SIGNATURE}; d=evil.test\r\n");
        failed(&forged(&world, &header).await, &name.escape_default().to_string()); // M15
    }
}

#[tokio::test]
async fn other_spellings_of_a_name_have_its_policy() {
    let world = world().await;
    for domain in
        ["BANK.Test", "bank.test.", "bank.test\u{3002}", "\u{ff42}ank.test", "xn--99999999999.bank.test"]
    {
        failed(&forged(&world, &format!("From: CEO <ceo@{domain}>\r\n")).await, domain); // M11
    }
}

#[tokio::test]
async fn a_domain_as_long_as_a_field_is_none_and_stays_out_of_what_is_written() {
    let world = world().await;
    let line = format!(" {}\r\n", "a".repeat(996));
    let judged = forged(&world, &format!("From: <x@\r\n{} a>\r\n", line.repeat(50))).await;
    let dmarc = &judged.verdicts.dmarc;
    assert_eq!((dmarc.domain.as_str(), dmarc.reason.as_str()), ("", "no domain in From")); // M7
    assert!(judged.field.len() < 2_000, "{}", judged.field.len());
    let longest = vec!["a".repeat(60); 4].join(".") + ".bank.test"; // 253
    let judged = forged(&world, &format!("From: <x@{longest}>\r\n")).await;
    assert_eq!((judged.verdicts.dmarc.word, judged.verdicts.dmarc.domain), (Word::Fail, longest)); // M11
}

#[tokio::test]
async fn addresses_that_nothing_separates_are_several() {
    let world = world().await;
    for from in ["<ceo@bank.test> <x@evil.test>", "ceo@bank.test x@evil.test", "<ceo@bank.test><x@evil.test>"]
    {
        let judged = forged(&world, &format!("From: {from}\r\n")).await;
        let dmarc = &judged.verdicts.dmarc;
        assert_eq!((dmarc.word, dmarc.reason.as_str()), (Word::None, "several addresses in From"), "{from}"); // M7
    }
}

#[tokio::test]
async fn dead_domains_of_a_forger_leave_others_their_time() {
    let world = World::patient(Duration::from_secs(2), Duration::from_secs(30)).await;
    for name in ["dead.test", "_dmarc.slow.test"] {
        world.dns.trouble(name, None, Some(Trouble::Timeout));
    }
    for _ in 0..SILENT_MAX {
        let dead = world.judge("192.0.2.1", "dead.test", "x@dead.test", b"Subject: x\r\n\r\n").await;
        assert_eq!(dead.verdicts.spf.word, Word::TempError);
    }
    world.dns.txt("slow.test", &["v=spf1 ip4:192.0.2.1 -all"]);
    world.dns.txt("_dmarc.slow.test", &["v=DMARC1; p=reject"]);
    let judge = world.judge("192.0.2.1", "slow.test", "x@slow.test", b"From: <x@slow.test>\r\n\r\n");
    let answer = async {
        until("the policy is asked for", || world.dns.queries("_dmarc.slow.test", RecordType::TXT) > 0).await;
        world.dns.trouble("_dmarc.slow.test", None, None);
    };
    let (judged, ()) = join(judge, answer).await;
    assert_eq!((judged.verdicts.spf.word, judged.verdicts.dmarc.word), (Word::Pass, Word::Pass)); // M15
}
