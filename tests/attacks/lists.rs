//! Early talkers, harvests, block lists and senders nobody can answer, against the real process and a name server.

use hickory_resolver::proto::rr::RecordType;
use waystation::identity::key::SecretKey;

use super::prey::{Client, Prey, honest};
use crate::support::dns::{Dns, Trouble};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_talks_before_the_greeting_is_refused_and_proxies_do_not_wait() {
    let prey = Prey::start(&[("WAYSTATION_SMTP__GREET_DELAY_MS", "3000")]).await;
    let mut client = Client::connect([127, 0, 0, 2], prey.smtp).await;
    assert!(client.say("EHLO client.example").await.starts_with("554 5.5.1")); // A3
    assert_eq!(client.reply().await, "closed");
    let mut client = Client::connect([127, 0, 0, 1], prey.smtp).await; // in http.trusted_proxies by default
    assert!(client.say("EHLO client.example").await.starts_with("220"));
    assert_eq!(prey.metric("waystation_abuse_refused_total{limit=\"early_talker\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_harvest_is_held_up_then_ended_then_denied() {
    let env =
        [("WAYSTATION_SMTP__GREET_DELAY_MS", "0"), ("WAYSTATION_LIMITS__UNKNOWN_RECIPIENT_DELAY_MS", "1")];
    let prey = Prey::start(&env).await;
    let mut client = Client::greeted([127, 4, 4, 4], prey.smtp).await;
    client.say("MAIL FROM:<a@client.example>").await;
    let mut said = String::new();
    for n in 0..21 {
        said = client.say(format!("RCPT TO:<u{n}@our.example>")).await;
        assert!(said.starts_with("550 5.1.1") || n == 20, "{said}");
    }
    assert!(said.starts_with("421 4.7.1"), "{said}"); // K9
    assert_eq!(client.reply().await, "closed");
    let mut client = Client::connect([127, 4, 4, 4], prey.smtp).await;
    assert!(client.reply().await.starts_with("421"));
    honest([127, 4, 4, 5], &prey).await; // a neighbour is not denied
    assert_eq!(prey.metric("waystation_abuse_tarpitted_total").await, 18.0);
    assert_eq!(prey.metric("waystation_abuse_tarpit_sessions").await, 0.0);
    assert_eq!(prey.metric("waystation_abuse_denied_places").await, 1.0);
    // Another address of the prefix finds the count of the whole prefix (20 of it make 5 of its own).
    let mut client = Client::greeted([127, 4, 4, 6], prey.smtp).await;
    client.say("MAIL FROM:<a@client.example>").await;
    assert!(client.say("RCPT TO:<nobody@our.example>").await.starts_with("550 5.1.1"));
    assert_eq!(prey.metric("waystation_abuse_tarpitted_total").await, 19.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_clients_reach_the_postmaster_only() {
    let dns = Dns::start().await;
    let server = dns.address().to_string();
    dns.host("2.0.0.127.bl.test", &["127.0.0.2"]);
    dns.txt("2.0.0.127.bl.test", &["see https://bl.test/127.0.0.2"]);
    dns.host("3.0.0.127.bl.test", &["127.255.255.254"]); // "you may not ask"
    dns.host("4.0.0.127.bl.test", &["192.0.2.1"]); // a parked domain
    dns.trouble("5.0.0.127.bl.test", None, Some(Trouble::ServFail));
    dns.trouble("6.0.0.127.bl.test", None, Some(Trouble::Timeout));
    dns.host("6.0.0.127.second.test", &["127.0.0.9"]);
    let env = [
        ("WAYSTATION_SMTP__DNSBL_ZONES", "bl.test,second.test"),
        ("WAYSTATION_DELIVERY__DNS_SERVERS", server.as_str()),
        ("WAYSTATION_VERIFY__TIMEOUT_MS", "2000"),
    ];
    let prey = Prey::start(&env).await;
    let key = SecretKey::from_seed(&[9; 32]).key_text();
    prey.ask(&["mailbox", "add", key.as_str()]);
    let rcpt = format!("RCPT TO:<{key}@our.example>");
    for (last, listed) in [
        (1, None),
        (2, Some("bl.test")),
        (3, None),
        (4, None),
        (5, None),
        (6, Some("second.test")),
        (7, None),
    ] {
        let mut client = Client::greeted([127, 0, 0, last], prey.smtp).await;
        client.say("MAIL FROM:<a@client.example>").await;
        let said = client.say(&rcpt).await;
        match listed {
            Some(zone) => assert!(said.starts_with("550 5.7.1") && said.contains(zone), "{last}: {said}"),
            None => assert!(said.starts_with("250"), "{last}: {said}"),
        }
        assert!(last != 2 || said.contains("see https://bl.test/127.0.0.2"), "{said}");
        assert!(client.say("RCPT TO:<postmaster>").await.starts_with("250")); // RFC 5321 §4.5.1
    }
    assert_eq!(prey.metric("waystation_abuse_dnsbl_hits_total{zone=\"bl.test\"}").await, 1.0);
    assert_eq!(prey.metric("waystation_abuse_dnsbl_hits_total{zone=\"second.test\"}").await, 1.0);
    assert_eq!(dns.queries("1.0.0.127.bl.test", RecordType::A), 0, "we do not ask about ourselves");
    assert!(prey.log().iter().any(|event| {
        event["event"] == "relay.ingress.rejected" && event["reason"].to_string().contains("second.test")
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_whose_domain_takes_no_mail_is_refused() {
    let dns = Dns::start().await;
    let server = dns.address().to_string();
    dns.mx("nomail.test", &[(0, ".")]);
    dns.mx("odd.test", &[(0, "."), (10, "mx.odd.test")]); // not a null MX (RFC 7505 §3)
    dns.mail_domain("mail.test", "192.0.2.1");
    dns.trouble("broken.test", None, Some(Trouble::ServFail));
    let env = [
        ("WAYSTATION_DELIVERY__DNS_SERVERS", server.as_str()),
        ("WAYSTATION_VERIFY__ENABLED", "true"),
        ("WAYSTATION_VERIFY__TIMEOUT_MS", "2000"),
    ];
    let prey = Prey::start(&env).await;
    for (from, code) in [
        ("<a@nomail.test>", "550 5.7.27"),
        ("<a@NoMail.test>", "550 5.7.27"),
        ("<a@odd.test>", "250"),
        ("<a@mail.test>", "250"),
        ("<a@broken.test>", "250"),
        ("<a@missing.test>", "250"),
        ("<>", "250"),
    ] {
        let mut client = Client::greeted([127, 0, 0, 1], prey.smtp).await;
        let said = client.say(format!("MAIL FROM:{from}")).await;
        assert!(said.starts_with(code), "{from}: {said}");
    }
    // U10: one connection makes us ask about few domains.
    let mut client = Client::greeted([127, 0, 0, 1], prey.smtp).await;
    let before = dns.queries_total();
    for n in 0..25 {
        client.say(format!("MAIL FROM:<a@d{n}.test>")).await;
        client.say("RSET").await;
    }
    let asked = dns.queries_total() - before;
    println!("sender domains: 25 named, {asked} questions");
    assert!(asked <= 20 * 2, "{asked}");
    assert_eq!(prey.metric("waystation_abuse_refused_total{limit=\"null_mx\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tarpit_answers_at_once_and_keeps_nobody_out() {
    // One place in the tarpit (a fourth of all); the wait in it would outlast this test.
    let env = [
        ("WAYSTATION_SMTP__GREET_DELAY_MS", "0"),
        ("WAYSTATION_SMTP__MAX_CONNECTIONS", "4"),
        ("WAYSTATION_LIMITS__UNKNOWN_RECIPIENT_DELAY_MS", "60000"),
    ];
    let prey = Prey::start(&env).await;
    let mut held = Client::greeted([127, 4, 1, 1], prey.smtp).await;
    held.say("MAIL FROM:<a@client.example>").await;
    held.say("RCPT TO:<u1@our.example>").await;
    held.say("RCPT TO:<u2@our.example>").await;
    held.send(b"RCPT TO:<u3@our.example>\r\n").await.expect("sent");
    let started = waystation::clock::monotonic();
    while prey.metric("waystation_abuse_tarpit_sessions").await < 1.0 {
        assert!(started.elapsed() < super::prey::PATIENCE, "nobody is in the tarpit");
    }
    let mut other = Client::greeted([127, 4, 2, 1], prey.smtp).await;
    other.say("MAIL FROM:<a@client.example>").await;
    for n in 1..6 {
        assert!(other.say(format!("RCPT TO:<u{n}@our.example>")).await.starts_with("550 5.1.1"));
    }
    assert_eq!(prey.metric("waystation_abuse_tarpitted_total").await, 1.0);
    drop(other);
    honest([127, 4, 3, 1], &prey).await;
}
