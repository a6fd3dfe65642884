//! Signatures and seals made by dkimpy, judged by us, by dkimpy and by npm mailauth.

use std::collections::HashMap;

use data_encoding::BASE64;
use serde_json::{Value, json};
use waystation::mail::verdict::{Verdicts, Word};

use super::world::World;
use crate::support::judges;

/// Its body ends in what canonical forms differ about.
const MESSAGE: &[u8] = b"From: Alice <alice@mail.example>\r\nTo: b@our.example\r\nSubject:  A \t B\r\n\r\nhello  \t world \r\n\r\n  \r\n.dot\r\n \r\n\r\n";

/// A signed message and its key record.
struct Signed {
    message: Vec<u8>,
    name: String,
    record: String,
}

fn sign(jobs: &[Value]) -> Option<Vec<Signed>> {
    let python = judges::python("dkim, nacl, authres")?;
    let jobs: Vec<Value> = jobs
        .iter()
        .map(|job| {
            let mut job = job.clone();
            let defaults = [("domain", "mail.example"), ("selector", "s"), ("key", "rsa:2048")];
            for (key, value) in defaults {
                job[key] = job.get(key).cloned().unwrap_or_else(|| value.into());
            }
            job["message"] = BASE64.encode(job["text"].as_str().map_or(MESSAGE, str::as_bytes)).into();
            job
        })
        .collect();
    let jobs = serde_json::to_vec(&jobs).expect("JSON");
    let signed = judges::run(python, &[&judges::script("sender.py")], &jobs).expect("signed");
    let signed: Vec<Value> = serde_json::from_slice(&signed).expect("JSON");
    let text = |one: &Value, key: &str| one[key].as_str().expect("text").to_owned();
    let read = |one: &Value| Signed {
        message: BASE64.decode(text(one, "message").as_bytes()).expect("base64"),
        name: text(one, "name"),
        record: text(one, "record"),
    };
    Some(signed.iter().map(read).collect())
}

/// `true` for pass, per signature, of each judge that is installed.
fn others(message: &[u8], name: &str, record: &str) -> Vec<(&'static str, Vec<bool>)> {
    let records = serde_json::to_string(&HashMap::from([(name, record)])).expect("JSON");
    let mut all = Vec::new();
    for (program, script) in
        [("/usr/bin/python3", "verify.py"), ("python3", "verify.py"), ("node", "verify.js")]
    {
        let Some(said) = judges::run(program, &[&judges::script(script), &records], message) else {
            continue;
        };
        let said = String::from_utf8(said).expect("text");
        all.push((
            script,
            said.lines().map(|line| line.split(' ').take(2).any(|word| word == "pass")).collect(),
        ));
    }
    all
}

async fn judge(world: &World, message: &[u8]) -> Verdicts {
    world.judge("192.0.2.1", "h.example", "x@elsewhere.example", message).await.verdicts
}

fn replaced(message: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(message.to_vec()).expect("text");
    assert!(text.contains(from), "{from} is not in {text}");
    text.replacen(from, to, 1).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_dkimpy_pass_in_every_form_and_changes_do_not() {
    let mut jobs = Vec::new();
    for key in ["rsa:2048", "ed25519"] {
        for header in ["relaxed", "simple"] {
            for body in ["relaxed", "simple"] {
                let selector = format!("{}{header}{body}", &key[..2]);
                jobs.push(json!({ "key": key, "header": header, "body": body, "selector": selector }));
            }
        }
    }
    let Some(signed) = sign(&jobs) else { return };
    let world = World::start().await;
    for (n, Signed { message, name, record }) in signed.iter().enumerate() {
        world.dns.txt(name, &[record]);
        let changed = [
            (message.clone(), Word::Pass),
            (replaced(message, "hello", "hallo"), Word::Fail),
            (replaced(message, "A \t B", "A C"), Word::Fail),
            ([&message[..], b"appended\r\n"].concat(), Word::Fail),
            (replaced(message, "From: Alice", "From: <ceo@bank.example>\r\nFrom: Alice"), Word::Fail), // M7
        ];
        for (message, word) in changed {
            let verdicts = judge(&world, &message).await;
            assert_eq!(verdicts.dkim.len(), 1);
            assert_eq!(verdicts.dkim[0].word, word, "{name}: {:?}", verdicts.dkim[0]); // M5, M9
            assert_eq!(verdicts.dkim[0].reason.is_empty(), word == Word::Pass);
            if n % 3 != 0 {
                continue; // scripts take long
            }
            for (judge, theirs) in others(&message, name, record) {
                // dkimpy oversigns From, mailauth leaves a second one to DMARC: who is stricter says fail.
                if !theirs.contains(&(word == Word::Pass)) {
                    println!("{judge} differs at {name}: {theirs:?}, ours {word:?}");
                }
                assert_eq!(theirs, [word == Word::Pass], "{judge}, {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_and_malformed_signatures_do_not_pass_and_say_why() {
    let jobs = [
        json!({ "selector": "good" }),
        json!({ "selector": "sha1", "algorithm": "rsa-sha1" }),
        json!({ "selector": "short", "key": "rsa:768" }),
        json!({ "selector": "enough", "key": "rsa:1024" }),
        json!({ "selector": "part", "length": true }),
        json!({ "selector": "sub", "identity": "x@sub.mail.example" }),
    ];
    let Some(signed) = sign(&jobs) else { return };
    let world = World::start().await;
    world.dns.txt("_dmarc.mail.example", &["v=DMARC1; p=reject"]);
    for one in &signed {
        world.dns.txt(&one.name, &[&one.record]);
    }
    let [good, sha1, short, enough, part, sub] = signed.as_slice() else { panic!("six") };
    let appended = |one: &Signed| [&one.message[..], b"appended\r\n"].concat();
    let far = u64::from(u32::MAX);
    let cases: Vec<(&str, Vec<u8>, Word, &str)> = vec![
        ("as it is", good.message.clone(), Word::Pass, ""),
        ("rsa-sha1", sha1.message.clone(), Word::Policy, "rsa-sha1 is too weak"),
        ("768 bits", short.message.clone(), Word::Policy, "key is shorter than 1024 bits"),
        ("1024 bits", enough.message.clone(), Word::Pass, ""),
        ("l=", part.message.clone(), Word::Policy, "a part of the body is not signed"),
        ("l= and more", appended(part), Word::Policy, "a part of the body is not signed"), // M6
        ("i= below d=", sub.message.clone(), Word::Pass, ""),
        ("v=2", replaced(&good.message, "v=1", "v=2"), Word::Neutral, "version is not 1"),
        (
            "h= without From",
            String::from_utf8(good.message.clone())
                .expect("text")
                .replace("h=from : to", "h=to")
                .replace("\r\n from; bh", "\r\n cc; bh")
                .replace(": from; bh", ": cc; bh")
                .replace("subject : from", "subject : cc")
                .into_bytes(),
            Word::Neutral,
            "From is not signed",
        ),
        (
            "expired",
            replaced(&good.message, "q=dns/txt;", "q=dns/txt; x=1000000000;"),
            Word::Neutral,
            "signature has expired",
        ),
        (
            "future",
            replaced(&good.message, " t=", &format!(" t={far}; y=")),
            Word::Neutral,
            "signed in the future",
        ),
        ("twice", replaced(&good.message, "v=1;", "v=1; d=x.example;"), Word::Neutral, "version is not 1"),
        ("garbage", replaced(&good.message, "v=1; a=rsa-sha256", "a=%%%"), Word::Neutral, ""),
    ];
    for (what, message, word, reason) in cases {
        let verdicts = judge(&world, &message).await;
        let dkim = &verdicts.dkim[0];
        assert_eq!(dkim.word, word, "{what}: {dkim:?}"); // M8
        assert!(reason.is_empty() || dkim.reason == reason || what == "twice", "{what}: {dkim:?}");
        let dmarc = if word == Word::Pass { Word::Pass } else { Word::Fail };
        assert_eq!(verdicts.dmarc.word, dmarc, "{what}: {:?}", verdicts.dmarc);
    }
    let keys = [
        ("v=DKIM1; p=".to_owned(), Word::Neutral, "key was revoked"),
        (good.record.replace("k=rsa", "k=rsa; s=tlsrpt"), Word::Neutral, "key is not for mail"),
        (good.record.replace("k=rsa", "k=rsa; h=sha1"), Word::Neutral, "key is not for sha256"),
        (format!("v=DKIM1; p={}", "A".repeat(16_000)), Word::Neutral, "key record is too long"), // M10
        (good.record.replace("k=rsa", "k=rsa; t=s"), Word::Pass, ""),
    ];
    for (record, word, reason) in keys {
        world.dns.txt(&good.name, &[&record]);
        let dkim = judge(&world, &good.message).await.dkim.remove(0);
        assert_eq!((dkim.word, dkim.reason.as_str()), (word, reason), "{}", &record[..40.min(record.len())]);
    }
    world.dns.txt(&sub.name, &[&sub.record.replace("k=rsa", "k=rsa; t=s")]);
    let dkim = judge(&world, &sub.message).await.dkim.remove(0);
    assert_eq!((dkim.word, dkim.reason.as_str()), (Word::Fail, "i= does not match d="));
    world.dns.remove(&good.name);
    let dkim = judge(&world, &good.message).await.dkim.remove(0);
    assert_eq!((dkim.word, dkim.reason.as_str()), (Word::Neutral, "no key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_good_signature_is_enough_and_only_the_first_ten_count() {
    let Some(signed) = sign(&[json!({ "selector": "good" })]) else { return };
    let world = World::start().await;
    world.dns.txt(&signed[0].name, &[&signed[0].record]);
    world.dns.txt("_dmarc.mail.example", &["v=DMARC1; p=reject; adkim=s"]);
    let bad = "DKIM-Signature: v=1; a=rsa-sha256; d=mail.example; s=none; h=from; bh=AAAA; b=AAAA\r\n";
    let both = [bad.as_bytes(), &signed[0].message].concat();
    let verdicts = judge(&world, &both).await;
    let words: Vec<Word> = verdicts.dkim.iter().map(|dkim| dkim.word).collect();
    assert_eq!((words, verdicts.dmarc.word), (vec![Word::Neutral, Word::Pass], Word::Pass)); // M5
    let names: String = (0..3000).map(|n| format!(":x{n}")).collect();
    let costly =
        format!("DKIM-Signature: v=1; a=rsa-sha256; d=a.example; s=b; h=from{names}; bh=AAAA; b=AAAA\r\n");
    for field in [bad.to_owned(), costly] {
        let many =
            [field.repeat(if field == bad { 1000 } else { 9 }).as_bytes(), &signed[0].message].concat();
        let before = world.dns.queries_total();
        let verdicts = judge(&world, &many).await;
        assert_eq!(verdicts.dkim.len(), 10); // M10
        assert!(world.dns.queries_total() - before < 60, "{}", world.dns.queries_total() - before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arc_chains_of_dkimpy_pass_and_broken_ones_fail() {
    let seal = |hops: u8| json!({ "domain": "lists.example", "selector": format!("s{hops}"), "hops": hops, "seal": "lists.example" });
    let Some(signed) = sign(&[seal(1), seal(3)]) else { return };
    let world = World::start().await;
    for one in &signed {
        world.dns.txt(&one.name, &[&one.record]);
    }
    let (one, three) = (&signed[0].message, &signed[1].message);
    assert_eq!(judge(&world, MESSAGE).await.arc, Word::None);
    assert_eq!(judge(&world, one).await.arc, Word::Pass); // M13
    assert_eq!(judge(&world, three).await.arc, Word::Pass);
    for (from, to) in [
        ("ARC-Authentication-Results: i=2; hop2", "ARC-Authentication-Results: i=2; hopX"),
        ("ARC-Seal: i=3; cv=pass", "ARC-Seal: i=3; cv=fail"),
        ("ARC-Seal: i=1; cv=none", "ARC-Seal: i=1; cv=pass"),
        ("hello", "hallo"),
        ("ARC-Message-Signature: i=2", "X-Gone: i=2"),
        ("ARC-Seal: i=2;", "ARC-Seal: i=4;"),
    ] {
        assert_eq!(judge(&world, &replaced(three, from, to)).await.arc, Word::Fail, "{from}");
    }
    let set = |n: usize| {
        format!(
            "ARC-Seal: i={n}; cv=pass; a=rsa-sha256; d=lists.example; s=s1; b=AAAA\r\n\
             ARC-Message-Signature: i={n}; a=rsa-sha256; d=lists.example; s=s1; h=from; bh=AAAA; b=AAAA\r\n\
             ARC-Authentication-Results: i={n}; lists.example; none\r\n"
        )
    };
    let many: String = (1..=51).map(set).collect();
    assert_eq!(judge(&world, &[many.as_bytes(), MESSAGE].concat()).await.arc, Word::Fail);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_field_is_understood_by_another_reader() {
    let Some(signed) = sign(&[json!({ "selector": "good" })]) else { return };
    let python = judges::python("authres").expect("it was there");
    let world = World::start().await;
    world.dns.txt(&signed[0].name, &[&signed[0].record]);
    world.dns.txt("_dmarc.mail.example", &["v=DMARC1; p=reject"]);
    world.dns.txt("elsewhere.example", &["v=spf1 -all"]);
    let judged = world.judge("192.0.2.1", "h.example", "x@elsewhere.example", &signed[0].message).await;
    let read = judges::run(python, &[&judges::script("results.py")], &judged.field).expect("read");
    let read: Value = serde_json::from_slice(&read).expect("JSON");
    assert_eq!(read["id"], "mx.our.example");
    let results = read["results"].as_array().expect("results");
    let pairs: Vec<String> = results
        .iter()
        .map(|one| {
            format!("{}={}", one["method"].as_str().expect("text"), one["result"].as_str().expect("text"))
        })
        .collect();
    assert_eq!(pairs, ["spf=fail", "dkim=pass", "dmarc=pass", "arc=none"]); // M2
    assert_eq!(results[0]["reason"], "client may not send for this domain");
    assert_eq!(results[0]["properties"]["smtp.mailfrom"], "elsewhere.example");
    assert_eq!(results[1]["properties"]["header.d"], "mail.example");
    assert_eq!(results[1]["properties"]["header.s"], "good");
    assert_eq!(results[2]["properties"]["header.from"], "mail.example");
}
