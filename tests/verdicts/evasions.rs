//! A forger who cannot pass, and tries to make the checks come to nothing instead.

use std::time::Duration;

use futures_util::future::join;
use hickory_resolver::proto::rr::RecordType;
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
    let world = World::start().await;
    world.dns.txt("_dmarc.bank.test", &["v=DMARC1; p=reject"]);
    world.dns.txt("evil.test", &["v=spf1 ip4:192.0.2.1 -all"]);
    world.dns.txt("s._domainkey.evil.test", &["k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]);
    world
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
    for trouble in [Trouble::ServFail, Trouble::Refused] {
        let world = world().await;
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
