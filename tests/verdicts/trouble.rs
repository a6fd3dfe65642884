//! Name servers that fail, and messages made to be expensive.

use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use waystation::mail::outbound::route::dns::Eyes;
use waystation::mail::verdict::patience::SILENT_MAX;
use waystation::mail::verdict::spf::Sender;
use waystation::mail::verdict::{Budget, NAMES_PER_CONNECTION_MAX, Word};

use super::world::{World, inspect, resolver};
use crate::support::dns::Trouble;

const MESSAGE: &[u8] = b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.test; s=s; h=from; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\nFrom: <x@a.test>\r\n\r\n";

#[tokio::test]
async fn what_dns_does_not_say_is_temporary_and_never_a_failure() {
    for trouble in [Trouble::ServFail, Trouble::Refused, Trouble::Timeout, Trouble::Garbage] {
        let world = World::patient(Duration::from_secs(2), Duration::from_millis(200)).await;
        for name in ["a.test", "s._domainkey.a.test", "_dmarc.a.test"] {
            world.dns.trouble(name, None, Some(trouble));
        }
        let verdicts = world.judge("192.0.2.1", "h.test", "x@a.test", MESSAGE).await.verdicts;
        let words = (verdicts.spf.word, verdicts.dkim[0].word, verdicts.dmarc.word);
        assert_eq!(words, (Word::TempError, Word::TempError, Word::TempError), "{trouble:?}: {verdicts:?}"); // M4
        assert!(!verdicts.spf.reason.is_empty() && !verdicts.dmarc.reason.is_empty());
    }
    // The policy is known, the key is not: the signature may have been good.
    let world = World::start().await;
    world.dns.txt("_dmarc.a.test", &["v=DMARC1; p=reject"]);
    world.dns.trouble("s._domainkey.a.test", None, Some(Trouble::ServFail));
    let judged = world.judge("192.0.2.1", "h.test", "x@a.test", MESSAGE).await;
    assert_eq!(judged.verdicts.dmarc.word, Word::TempError);
    assert!(!judged.refuse);
}

#[tokio::test]
async fn a_dead_resolver_costs_less_and_less() {
    let full = Duration::from_millis(1500);
    let world = World::patient(full, Duration::from_secs(30)).await;
    for name in ["a.test", "s._domainkey.a.test", "_dmarc.a.test", "_dmarc.test"] {
        world.dns.trouble(name, None, Some(Trouble::Timeout));
    }
    for _ in 0..SILENT_MAX + 5 {
        let verdicts = world.judge("192.0.2.1", "h.test", "x@a.test", MESSAGE).await.verdicts;
        assert_eq!(verdicts.spf.word, Word::TempError); // M15
    }
    assert!(world.number("waystation_verify_timeouts_total") > 7.0);
    // Eight full waits would be twelve seconds.
    assert!(world.number("waystation_verify_seconds_sum") < 8.0);
    for name in ["a.test", "s._domainkey.a.test", "_dmarc.a.test", "_dmarc.test"] {
        world.dns.trouble(name, None, None);
    }
    world.dns.txt("a.test", &["v=spf1 ip4:192.0.2.1 -all"]);
    let verdicts = world.judge("192.0.2.1", "h.test", "x@a.test", MESSAGE).await.verdicts;
    assert_eq!(verdicts.spf.word, Word::Pass);
}

#[tokio::test]
async fn one_connection_cannot_make_us_ask_for_everything() {
    let world = World::start().await;
    world.dns.ttl(300); // what is known is not asked for again
    let mut budget = Budget::default();
    let (mut known, mut over) = (0, 0);
    for n in 0..NAMES_PER_CONNECTION_MAX {
        let domain = format!("d{n}.test");
        let message = format!("From: <x@{domain}>\r\n\r\nbody\r\n");
        let (_, inspected) = inspect(message.as_bytes(), 100);
        let sender =
            Sender { client: [192, 0, 2, 1].into(), helo: "h.test".into(), mail_from: format!("x@{domain}") };
        let judged = world.verifier.judge(sender, inspected, budget).await;
        budget = judged.budget;
        let word = judged.verdicts.spf.word;
        assert!(matches!(word, Word::None | Word::TempError), "{word:?}");
        if word == Word::None {
            known += 1;
        } else {
            over += 1;
        }
    }
    assert!(known > 300 && over > 300, "{known} known, {over} over"); // U10
    assert!(world.dns.queries_total() < NAMES_PER_CONNECTION_MAX + 200, "{}", world.dns.queries_total());
}

#[tokio::test]
async fn reverse_zones_of_a_forger_excuse_him_nothing() {
    let world = World::patient(Duration::from_secs(6), Duration::from_secs(30)).await;
    world.dns.ttl(300);
    world.dns.txt("bank.test", &["v=spf1 ptr -all"]);
    world.dns.txt("_dmarc.bank.test", &["v=DMARC1; p=reject"]);
    let many: Vec<String> = (0..1500).map(|n| format!("h{n}.evil.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let addresses: Vec<String> = (0..1500).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    world.dns.host("big.evil.test", &addresses);
    world.dns.trouble("silent.evil.test", None, Some(Trouble::Timeout));
    world.dns.trouble("3.2.0.192.in-addr.arpa", None, Some(Trouble::Timeout));
    world.dns.pointers("1.2.0.192.in-addr.arpa", &many);
    world.dns.pointers("2.2.0.192.in-addr.arpa", &["big.evil.test", "silent.evil.test", "mx.bank.test"]);
    world.dns.pointers("4.2.0.192.in-addr.arpa", &["silent.evil.test", "mx.bank.test"]);
    world.dns.host("mx.bank.test", &["192.0.2.4"]);
    for (client, words) in [
        ("192.0.2.1", (Word::Fail, Word::Fail)),
        ("192.0.2.2", (Word::Fail, Word::Fail)),
        ("192.0.2.3", (Word::Fail, Word::Fail)),
        ("192.0.2.4", (Word::Pass, Word::Pass)),
    ] {
        let message = b"From: <ceo@bank.test>\r\n\r\n";
        let judged = world.judge(client, "h.test", "ceo@bank.test", message).await;
        let found = (judged.verdicts.spf.word, judged.verdicts.dmarc.word);
        assert_eq!(found, words, "{client}: {:?}", judged.verdicts); // M4
        assert_eq!(judged.refuse, words.1 == Word::Fail, "{client}");
    }
}

/// A world that may be remembered, with names that have more than a thousand addresses.
async fn large() -> World {
    let world = World::start().await;
    world.dns.ttl(300);
    let many: Vec<String> = (0..1500).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for name in ["big1.test", "big2.test"] {
        world.dns.host(name, &many);
    }
    world.dns.host("small.test", &["10.1.0.1", "10.1.0.2"]);
    world
}

#[tokio::test]
async fn answers_of_a_stranger_are_read_up_to_a_bound_and_the_large_are_not_remembered() {
    let world = large().await;
    world.dns.txt("a.test", &["v=spf1 a:small.test a:big1.test a:big2.test -all"]);
    world.dns.txt("b.test", &["v=spf1 exists:big2.test -all"]);
    let asked = |name: &str| world.dns.queries(name, RecordType::A);
    let spf = async |from: &str| world.judge("192.0.2.1", "h.test", from, MESSAGE).await.verdicts.spf.word;
    assert_eq!(spf("x@a.test").await, Word::TempError);
    let (small, big) = (asked("small.test"), asked("big1.test"));
    assert!(small > 0 && big > 0);
    assert_eq!(asked("big2.test"), 0, "the bound was reached before"); // U4
    assert_eq!(spf("x@a.test").await, Word::TempError);
    assert_eq!(asked("small.test"), small, "what is small is remembered");
    assert!(asked("big1.test") > big, "what is large was remembered");
    // Whether a name exists is asked without anybody seeing how much came back.
    assert_eq!(spf("x@b.test").await, Word::Pass);
    let big = asked("big2.test");
    assert_eq!(spf("x@b.test").await, Word::Pass);
    assert!(asked("big2.test") > big, "what is large was remembered");
    // The policy of whoever is said to have written it does not suffer.
    world.dns.txt("_dmarc.bank.test", &["v=DMARC1; p=reject"]);
    let judged = world.judge("192.0.2.1", "h.test", "x@a.test", b"From: <ceo@bank.test>\r\n\r\n").await;
    assert_eq!((judged.verdicts.dmarc.word, judged.refuse), (Word::Fail, true)); // M12
}

#[tokio::test]
async fn policies_of_a_stranger_that_are_too_large_are_trouble_and_others_are_not() {
    let world = World::start().await;
    let filler = "x".repeat(50_000);
    for n in 0..8 {
        world.dns.txt(&format!("i{n}.test"), &["v=spf1 ?all", &filler]);
    }
    let includes = |count: usize| (0..count).map(|n| format!(" include:i{n}.test")).collect::<String>();
    world.dns.txt("few.test", &[&format!("v=spf1{} ip4:192.0.2.1 -all", includes(2))]);
    world.dns.txt("many.test", &[&format!("v=spf1{} ip4:192.0.2.1 -all", includes(8))]);
    for (from, word) in [("x@few.test", Word::Pass), ("x@many.test", Word::TempError)] {
        let verdicts = world.judge("192.0.2.1", "h.test", from, MESSAGE).await.verdicts;
        assert_eq!(verdicts.spf.word, word, "{from}"); // U4
    }
}

#[tokio::test]
async fn a_large_answer_is_forgotten_by_those_who_deliver_too() {
    let world = large().await;
    let dns = resolver(&world.dns, Duration::from_secs(5));
    for eyes in [Eyes::Plain, Eyes::Validating] {
        for (name, remembered) in [("small.test", true), ("big1.test", false)] {
            let found = dns.v4(eyes, name).await;
            assert!(found.found().is_some(), "{eyes:?} {name}: {found:?}");
            let asked = world.dns.queries(name, RecordType::A);
            dns.v4(eyes, name).await;
            assert_eq!(world.dns.queries(name, RecordType::A) == asked, remembered, "{eyes:?} {name}");
        }
    }
}

#[tokio::test]
async fn bombs_are_judged_in_bounded_time() {
    let world = World::start().await;
    let comment = format!("From: {}x@a.test{}\r\n", "(".repeat(20_000), ")".repeat(20_000));
    let groups = format!("From: {}\r\n", "g:<x@a.test>,;".repeat(4000));
    let names: String = (0..8000).map(|n| format!(":{n}")).collect();
    let signed =
        format!("DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; h=from{names}; bh=AA; b=AA\r\n").repeat(4);
    let sealed: String = (1..60)
        .map(|n| {
            format!(
                "ARC-Message-Signature: i={n}; a=rsa-sha256; d=a.test; s=s; h=from{}; bh=AA; b=AA\r\n",
                &names[..3000]
            )
        })
        .collect();
    let tags = format!("DKIM-Signature: {}\r\n", "a=b;".repeat(15_000));
    let multipart = format!(
        "From: <x@a.test>\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{}",
        "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n".repeat(50_000)
    );
    for header in [comment, groups, signed, sealed, tags, multipart] {
        // The test's own time limit is the assertion (U4).
        let judged = world.judge("192.0.2.1", "h.test", "x@a.test", header.as_bytes()).await;
        assert!(judged.verdicts.dkim.len() <= 10);
        assert!(judged.field.len() < 16_384);
    }
}
