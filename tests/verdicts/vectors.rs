//! The cases `auth_evaluation` of the mail-tunnel vectors, which another implementation was run on.

use data_encoding::BASE64;
use serde_json::Value;
use waystation::mail::verdict::Word;

use super::world::{World, crlf};
use crate::support::dns::Trouble;

/// The one case where we differ: strict alignment is not enforced by the library that made the vectors. 10.1 says that a
/// new implementation should enforce it.
const STRICTER: &str = "dmarc strict spf alignment fails on subdomain";

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/mail-tunnel.json")).expect("JSON")
}

/// The signal of one result, by the table of the vectors.
fn signal(word: Word) -> String {
    let table = &vectors()["auth_status_to_signal"];
    table[word.as_str()].as_str().unwrap_or("unknown").to_owned()
}

#[tokio::test]
async fn every_case_gives_the_signals_of_the_vectors() {
    let vectors = vectors();
    let evaluation = &vectors["auth_evaluation"];
    let world = World::start().await;
    for (name, records) in evaluation["dns_zone"].as_object().expect("zone") {
        let texts = records["TXT"].as_array().expect("texts").iter();
        let texts: Vec<&str> = texts.map(|text| text.as_str().expect("text")).collect();
        world.dns.txt(name, &texts);
    }
    world.dns.trouble("servfail.example", None, Some(Trouble::ServFail)); // M4
    let cases = evaluation["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 20);
    for case in cases {
        let text = |key: &str| case[key].as_str().expect("text");
        if text("client_ip").is_empty() {
            continue; // a relay knows who its client is
        }
        let message = crlf(&BASE64.decode(text("message_base64").as_bytes()).expect("base64"));
        let judged = world.judge(text("client_ip"), text("helo"), text("mail_from"), &message).await;
        let verdicts = &judged.verdicts;
        let attested: Vec<Word> = verdicts.dkim.iter().map(|dkim| dkim.attested()).collect();
        let dkim = match attested.as_slice() {
            words if words.contains(&Word::Pass) => "pass".to_owned(),
            words => {
                words.iter().map(|word| signal(*word)).find(|s| s == "fail").unwrap_or("unknown".to_owned())
            }
        };
        let got = [signal(verdicts.spf.word), dkim, signal(verdicts.dmarc.word)];
        let mut expected = ["spf", "dkim", "dmarc"].map(|key| case["signals"][key].as_str().expect("text"));
        if text("name") == STRICTER {
            assert_eq!(expected[2], "pass");
            expected[2] = "fail";
        }
        assert_eq!(got, expected, "{}: {verdicts:?}", text("name"));
    }
    assert!(world.number("waystation_verify_results_total{method=\"spf\",result=\"pass\"}") > 1.0);
    assert!(world.number("waystation_verify_seconds_count") > 18.0);
}
