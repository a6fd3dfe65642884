//! Gateways that take what they get and never ack.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use spool::types::State;
use waystation::clock;
use waystation::mail::envelope::Meta;

use super::key;
use super::relay::{Gateway, Relay, eventually};

/// As `LENT_MAX` of the lanes.
const LENT_MAX: u64 = 8192;
/// As `OWN_MIN` of the lanes.
const OWN_MIN: u64 = 4;
/// Gateways that never ack; together they would take more than [`LENT_MAX`].
const GREEDY: u8 = 120;
/// Items for each gateway.
const ITEMS: usize = 100;
/// The gateway that acks.
const HONEST: u8 = 200;

async fn leased(relay: &Relay) -> u64 {
    relay.spooler.query(|spool| spool.stats()).await.unwrap().unwrap().leased
}

#[tokio::test]
async fn gateways_that_never_ack_have_a_limit_together_and_another_gets_its_mail() {
    let relay = Relay::start().await;
    let mut lanes = Vec::new();
    for n in (1..=GREEDY).chain([HONEST]) {
        relay.register(&key(n)).await;
        let name = key(n).key_text().to_string();
        let mailbox = relay.spooler.query(move |spool| spool.mailbox(&name)).await.unwrap().unwrap().unwrap();
        lanes.push((mailbox.lane, key(n).key_text().address("mail.example").into_bytes()));
    }
    for n in 0..ITEMS {
        let mut body = relay.spooler.body();
        body.write(format!("message {n}\r\n").as_bytes()).await.unwrap();
        body.commit(Vec::new(), Meta::default().encode(), lanes.clone(), clock::wall()).await.unwrap();
    }
    let two = r#","features":["ack"]"#;
    let mut greedy = Vec::new();
    for n in 1..=GREEDY {
        greedy.push(Gateway::login_as(relay.address, &key(n), two, "").await);
    }
    eventually("they have all they may have", async || leased(&relay).await >= LENT_MAX).await;
    let held = async || leased(&relay).await <= LENT_MAX + u64::from(GREEDY + 1) * OWN_MIN;
    assert!(held().await);

    let mut gateway = Gateway::login_as(relay.address, &key(HONEST), two, "").await;
    for n in 0..ITEMS {
        let got = gateway.mail().await;
        assert_eq!(got.bytes, format!("message {n}\r\n").as_bytes());
        assert!(held().await);
        let item = got.start.item_id.unwrap();
        gateway.tell(&format!(r#"{{"type":"item_ack","itemId":"{item}","status":"stored"}}"#)).await;
    }
    gateway.idle_until(async || relay.count(&key(HONEST), State::Ready).await, 0).await;
    assert_eq!(relay.count(&key(HONEST), State::Acked).await, ITEMS as u64);

    let gone = greedy.split_off(usize::from(GREEDY / 2));
    drop(gone);
    eventually("what others had can be had again", async || leased(&relay).await < LENT_MAX).await;
    drop(greedy);
    eventually("all came back", async || leased(&relay).await == 0).await;
}
