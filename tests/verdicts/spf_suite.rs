//! The test suite of RFC 7208, every case of it, as the distribution of pyspf has it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::proto::rr::{Name, RecordType};
use serde_json::Value;

use super::world::World;
use crate::support::dns::{Dns, Trouble};
use crate::support::judges;

/// Longest wait for one packet: cases with a silent server must not take long.
const PACKET: Duration = Duration::from_millis(400);

/// Cases in which we give another result than the suite: `case result why`. Anything else that differs fails the test.
const DIFFERENT: &str = "tests/verdicts/spf_differences.txt";

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn kind(word: &str) -> RecordType {
    word.parse().expect("a record type")
}

fn publish(dns: &Dns, zone: &Value) {
    for (name, records) in zone["records"].as_object().expect("records") {
        let list = |kind: &str| records[kind].as_array().cloned().unwrap_or_default();
        let texts = |kind: &str| list(kind).iter().map(|value| text(value).to_owned()).collect::<Vec<_>>();
        let (txt, ptr) = (texts("TXT"), texts("PTR"));
        let addresses = [texts("A"), texts("AAAA")].concat();
        let of = |strings: &[String]| strings.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        if !txt.is_empty() {
            dns.txt(name, &txt.iter().map(String::as_str).collect::<Vec<_>>());
        }
        if !addresses.is_empty() {
            dns.host(name, &of(&addresses).lines().collect::<Vec<_>>());
        }
        if !ptr.is_empty() {
            dns.pointers(name, &of(&ptr).lines().collect::<Vec<_>>());
        }
        let mx = list("MX");
        let mx: Vec<(u16, &str)> = mx
            .iter()
            .map(|pair| (u16::try_from(pair[0].as_u64().expect("number")).expect("fits"), text(&pair[1])))
            .map(|(preference, host)| (preference, if host.is_empty() { "." } else { host }))
            .filter(|(_, host)| Name::from_ascii(host).is_ok())
            .collect();
        if !mx.is_empty() {
            dns.mx(name, &mx);
        }
        if let [target] = texts("CNAME").as_slice() {
            dns.cname(name, target);
        }
    }
    for (name, kinds) in zone["silent"].as_object().expect("silent") {
        for word in kinds.as_array().expect("types") {
            dns.trouble(name, Some(kind(text(word))), Some(Trouble::Timeout));
        }
    }
    for name in zone["broken"].as_array().expect("broken") {
        dns.trouble(text(name), None, Some(Trouble::Timeout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_the_suite_gives_its_result() {
    let (Some(python), Some(suite)) = (judges::python("yaml"), judges::peer("pyspf/test/rfc7208-tests.yml"))
    else {
        eprintln!("SKIPPED: the RFC 7208 suite needs python3-yaml and target/peers/pyspf");
        return;
    };
    let json =
        judges::run(python, &[&judges::script("spf_suite.py"), &suite], b"").expect("the suite is read");
    let suite: Value = serde_json::from_slice(&json).expect("JSON");
    let zones = suite.as_array().expect("zones");
    let judged = join_all(zones.iter().map(|zone| async move {
        let world = World::patient(Duration::from_secs(30), PACKET).await;
        publish(&world.dns, zone);
        let mut got = Vec::new();
        for case in zone["cases"].as_array().expect("cases") {
            let client = text(&case["host"]);
            let judged = world.judge(client, text(&case["helo"]), text(&case["mail_from"]), b"\r\n").await;
            got.push((case.clone(), judged.verdicts.spf.word.as_str()));
        }
        (text(&zone["description"]).to_owned(), got)
    }));
    let (mut cases, mut different) = (0, BTreeMap::new());
    for (zone, got) in judged.await {
        for (case, word) in got {
            cases += 1;
            let expected: Vec<&str> = case["results"].as_array().expect("results").iter().map(text).collect();
            if !expected.contains(&word) {
                println!("{zone:30} {:32} expected {expected:?}, got {word}", text(&case["name"]));
                different.insert(text(&case["name"]).to_owned(), word);
            }
        }
    }
    assert_eq!(cases, 203);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(DIFFERENT);
    let file = std::fs::read_to_string(file).expect("the list");
    let lines = file.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let known: BTreeMap<String, &str> = lines
        .map(|line| {
            let mut words = line.splitn(3, char::is_whitespace);
            let (case, result) = (words.next().expect("case"), words.next().expect("result"));
            assert!(words.next().is_some_and(|why| !why.is_empty()), "{case} without a reason");
            (case.to_owned(), result)
        })
        .collect();
    assert_eq!(different, known); // M3, M4
}
