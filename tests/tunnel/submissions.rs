//! Gateways that submit, in either tunnel, over real sockets: what is stored, and what they are told.

use std::time::Duration;

use spool::ids::ItemId;
use spool::submission::{Settlement, Submission};
use spool::types::{Filter, MailboxChange, State};
use waystation::clock;
use waystation::identity::key::SecretKey;
use waystation::mail::envelope::OutboundMeta;
use waystation::mail::outbound::values::Note;

use super::key;
use super::relay::{Relay, eventually};
use crate::support::line::{Line, Log, Manner};
use crate::support::until;

const TO: &str = "bob@recipient.example";

fn own(key: &SecretKey) -> String {
    key.key_text().address("mail.example")
}

fn message(from: &str, text: &str) -> Vec<u8> {
    format!(
        "From: <{from}>\r\nTo: <{TO}>\r\nSubject: s\r\nMessage-ID: <{text}@mail.example>\r\n\r\n{text}\r\n"
    )
    .into_bytes()
}

async fn line(relay: &Relay, key: &SecretKey, manner: Manner, log: &Log) -> Line {
    Line::open(relay.address, key, manner, log).await.expect("logged in")
}

async fn submissions(relay: &Relay) -> Vec<Submission> {
    let listed = relay.spooler.query(|spool| {
        let (items, _) = spool.list(&Filter::default(), None, 1000).expect("listed");
        let out = items.iter().filter(|item| item.outbound.is_some());
        out.map(|item| spool.submission(item.id).expect("read").expect("there")).collect::<Vec<_>>()
    });
    listed.await.expect("spool")
}

async fn settle(relay: &Relay, id: ItemId, to: Settlement, text: &str) {
    let note = Note::line(text).to_reason();
    let settled = relay.spooler.call(move |spool| {
        let now = clock::wall();
        spool.arm(id, "", now)?;
        spool.settle(id, to, &note, now)
    });
    settled.await.expect("spool").expect("settled");
}

async fn told(relay: &Relay, id: ItemId) -> bool {
    let found = relay.spooler.query(move |spool| spool.submission(id)).await;
    found.expect("spool").expect("read").expect("there").told
}

#[tokio::test]
async fn a_submission_is_accepted_once_and_its_result_repeated_until_it_is_acked() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let first = line(&relay, &key, Manner::TwoWithoutAcks, &log).await;
    let bytes = message(&from, "one");
    first.submit("s1", &from, TO, &bytes);
    until("it is accepted", || log.accepted("s1").len() == 1).await;
    first.submit("s1", &from, TO, &bytes);
    until("it is accepted again", || log.accepted("s1").len() == 2).await;
    let all = submissions(&relay).await;
    assert_eq!(all.len(), 1, "Q20");
    let id = all[0].info.id;
    assert_eq!(log.accepted("s1"), [id.to_string(), id.to_string()]);
    assert_eq!((all[0].destination.as_str(), all[0].info.state), ("recipient.example", State::Ready));
    let meta = OutboundMeta::decode(&all[0].info.meta).expect("meta");
    assert_eq!((meta.mail_from, meta.stream, meta.subject), (from, "s1".to_owned(), "s".to_owned()));
    assert!(log.results().is_empty(), "no result before there is one");

    settle(&relay, id, Settlement::Indeterminate, "nobody knows").await;
    until("the result is told", || log.results().len() == 1).await;
    drop(first);
    // Q21: the next connection, and the one after a restart.
    let second = line(&relay, &key, Manner::TwoWithoutAcks, &log).await;
    until("the result is told again", || log.results().len() == 2).await;
    drop(second);
    let relay = relay.restart().await;
    let third = line(&relay, &key, Manner::Two, &log).await;
    until("and again", || log.results().len() == 3).await;
    let texts: Vec<String> = log.results().into_iter().map(|told| told.text).collect();
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert!(texts[0].contains(r#""status":"indeterminate","error":"nobody knows""#), "{}", texts[0]);
    eventually("it is told", async || told(&relay, id).await).await;
    drop(third);
    let _fourth = line(&relay, &key, Manner::Two, &log).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(log.results().len(), 3);
    // The gateway may still ask by its own name.
    _fourth.submit("s1", &own(&key), TO, &bytes);
    until("it is answered from what is kept", || log.results().len() == 4).await;
    assert_eq!(log.results()[3].text, texts[0]);
}

#[tokio::test]
async fn another_content_under_the_same_name_is_a_conflict_that_touches_nothing() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let line = line(&relay, &key, Manner::Two, &log).await;
    line.submit("s1", &from, TO, &message(&from, "one"));
    until("accepted", || !log.accepted("s1").is_empty()).await;
    line.submit("s1", &from, TO, &message(&from, "two"));
    until("refused", || log.error("s1").is_some_and(|error| error.starts_with("id_conflict"))).await; // Q20
    assert_eq!(log.results()[0].value["resultId"], serde_json::Value::Null);
    let all = submissions(&relay).await;
    assert_eq!((all.len(), all[0].info.state), (1, State::Ready));
}

#[tokio::test]
async fn what_cannot_go_out_is_failed_once_with_its_reason() {
    let relay = Relay::start().await;
    let (key, other) = (key(1), key(2));
    relay.register(&other).await;
    let (from, others) = (own(&key), own(&other));
    let good = message(&from, "x");
    let nobody = SecretKey::from_seed(&[77; 32]).key_text().address("mail.example");
    let cases: Vec<(&str, String, Vec<u8>, &str)> = vec![
        (&from, TO.into(), b"".to_vec(), "no header"),
        (&from, TO.into(), b"no header at all".to_vec(), "5.6.0"),
        (&from, TO.into(), [&good[..], b"a\0b"].concat(), "5.6.0"),
        (&from, TO.into(), [&good[..], b"a\rb"].concat(), "5.6.0"),
        (&from, TO.into(), vec![b'x'; 100_000], "5.6.0"),
        (&others, TO.into(), good.clone(), "5.7.1"),
        (&from, TO.into(), message(&others, "x"), "5.7.1"),
        ("", TO.into(), good.clone(), "5.7.1"),
        (&from, "bob".into(), good.clone(), "5.1.3"),
        (&from, "bob@".into(), good.clone(), "5.1.3"),
        (&from, "bob@[192.0.2.1]".into(), good.clone(), "5.1.2"),
        (&from, format!("{}@x.example", "b".repeat(2000)), good.clone(), "5.1.3"),
        (&from, nobody, good.clone(), "5.1.1"),
    ];
    for (n, manner) in [Manner::Two, Manner::One].into_iter().enumerate() {
        let log = Log::default();
        let line = line(&relay, &key, manner, &log).await;
        for (at, (mail_from, to, bytes, _)) in cases.iter().enumerate() {
            line.submit(&format!("{n}-{at}"), mail_from, to, bytes);
        }
        for (at, (.., words)) in cases.iter().enumerate() {
            let stream = format!("{n}-{at}");
            until(&format!("{stream} has failed"), || log.status(&stream).as_deref() == Some("failed")).await;
            let error = log.error(&stream).expect("why");
            assert!(error.contains(words), "{stream}: {error}");
        }
        eventually("everything is told", async || {
            submissions(&relay).await.iter().all(|one| one.info.state == State::Failed && one.told)
        })
        .await;
    }
}

#[tokio::test]
async fn mail_to_a_mailbox_here_is_an_item_of_its_lane_and_sent_at_once() {
    let relay = Relay::start().await;
    let (one, two) = (key(1), key(2));
    relay.register(&two).await;
    relay.change(&two, MailboxChange::AddAlias("two@mail.example".into())).await;
    let (from, log, theirs) = (own(&one), Log::default(), Log::default());
    let sender = line(&relay, &one, Manner::Two, &log).await;
    let _reader = line(&relay, &two, Manner::One, &theirs).await;
    sender.submit("s1", &from, "Two@Mail.Example", &message(&from, "hello"));
    until("it is sent", || log.status("s1").as_deref() == Some("sent")).await;
    until("it is there", || theirs.mails().len() == 1).await;
    let mail = String::from_utf8(theirs.mails().remove(0)).expect("text");
    assert!(mail.starts_with("Received: by relay.example with TUNNEL"), "{mail}");
    assert!(mail.ends_with("\r\n\r\nhello\r\n"), "{mail}");
    let all = submissions(&relay).await;
    assert_eq!((all.len(), all[0].info.state), (1, State::Sent));
    // Full is a failure with a reason, and nothing is delivered.
    relay.change(&two, MailboxChange::Quota { items: Some(0), bytes: None }).await;
    sender.submit("s2", &from, "two@mail.example", &message(&from, "again"));
    until("it has failed", || log.error("s2").is_some_and(|error| error.starts_with("5.2.2"))).await;
}

#[tokio::test]
async fn a_repeat_of_tunnel_1_gets_the_first_result_and_makes_no_second_submission() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let line = line(&relay, &key, Manner::One, &log).await;
    // Other ids each time, as an unmodified gateway makes them.
    let repeat = |n: usize| {
        format!(
            "From: {from}\r\nTo: {TO}\r\nSubject: s\r\nMessage-ID: <{n}@x>\r\nDate: {n}\r\n\r\nthe same words\n"
        )
    };
    line.submit("a", &from, TO, repeat(1).as_bytes());
    eventually("it is stored", async || submissions(&relay).await.len() == 1).await;
    line.submit("b", &from, TO, repeat(2).as_bytes());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(log.results().is_empty(), "both wait");
    let id = submissions(&relay).await[0].info.id;
    settle(&relay, id, Settlement::Sent, "250 ok").await;
    until("the first is told", || log.status("a").as_deref() == Some("sent")).await;
    until("the repeat too", || log.status("b").as_deref() == Some("sent")).await;
    line.submit("c", &from, TO, repeat(3).as_bytes());
    until("and a later one", || log.status("c").as_deref() == Some("sent")).await;
    assert_eq!(submissions(&relay).await.len(), 1);
    eventually("it is told", async || told(&relay, id).await).await;
    line.submit("d", &from, "carol@recipient.example", repeat(4).as_bytes());
    eventually("another recipient is another mail", async || submissions(&relay).await.len() == 2).await;
}

#[tokio::test]
async fn tunnel_1_hears_nothing_of_what_nobody_knows() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let line = line(&relay, &key, Manner::One, &log).await;
    line.submit("a", &from, TO, &message(&from, "x"));
    eventually("it is stored", async || submissions(&relay).await.len() == 1).await;
    let id = submissions(&relay).await[0].info.id;
    settle(&relay, id, Settlement::Indeterminate, "lost").await;
    line.submit("b", &from, TO, &message(&from, "x"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(log.results().is_empty());
    assert_eq!(submissions(&relay).await.len(), 1);
    assert!(!told(&relay, id).await, "it comes as mail when nobody waits any more");
}
