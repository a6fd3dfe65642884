//! Gateways that submit, in either tunnel, over real sockets: what is stored, and what they are told.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use spool::ids::ItemId;
use spool::submission::{Settlement, Submission};
use spool::types::{Filter, MailboxChange, State};
use waystation::clock;
use waystation::identity::key::SecretKey;
use waystation::mail::envelope::OutboundMeta;
use waystation::mail::outbound::intake;
use waystation::mail::outbound::values::Note;
use waystation::tunnel::frame::{Frame, StartBody};

use super::key;
use super::relay::{self, Relay, eventually};
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

/// A relay whose gateways of tunnel 1 wait for a short time only.
async fn impatient() -> Relay {
    let legacy_wait = Duration::from_millis(400);
    Relay::submitting(intake::Settings { legacy_wait, ..relay::submissions() }).await
}

#[tokio::test]
async fn a_failure_that_nobody_waits_for_any_more_comes_back_as_mail_once() {
    let relay = impatient().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let first = line(&relay, &key, Manner::One, &log).await;
    for stream in ["failed", "unknown", "sent"] {
        first.submit(stream, &from, TO, &message(&from, stream));
    }
    eventually("all are stored", async || submissions(&relay).await.len() == 3).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for one in submissions(&relay).await {
        let stream = OutboundMeta::decode(&one.info.meta).expect("meta").stream;
        let (to, text) = match stream.as_str() {
            "failed" => (Settlement::Failed, "550 5.1.1 no such user"),
            "unknown" => (Settlement::Indeterminate, "the line broke"),
            _ => (Settlement::Sent, "250 ok"),
        };
        settle(&relay, one.info.id, to, text).await;
    }
    until("two reports are there", || log.mails().len() == 2).await;
    eventually("all are told", async || submissions(&relay).await.iter().all(|one| one.told)).await;
    assert!(log.results().is_empty(), "no word for what nobody waits for");
    let text = |mail: &[u8]| String::from_utf8(mail.to_vec()).expect("text");
    let mails: Vec<String> = log.mails().iter().map(|mail| text(mail)).collect();
    let failed = mails.iter().find(|mail| mail.contains("Action: failed")).expect("a failure");
    assert!(failed.contains("Diagnostic-Code: smtp; 550 5.1.1 no such user"), "{failed}"); // N3
    assert!(
        failed.contains(&format!("To: <{from}>")) && failed.contains("In-Reply-To: <failed@mail.example>")
    );
    assert!(failed.contains("Auto-Submitted: auto-replied") && failed.contains("Subject: s\r\n"), "{failed}");
    let unknown = mails.iter().find(|mail| mail.contains("Action: delayed")).expect("an unknown outcome");
    assert!(unknown.contains("It may have arrived or not"), "{unknown}");
    // Not again: not on the next connection, not after a restart.
    drop(first);
    let relay = relay.restart().await;
    let _second = line(&relay, &key, Manner::One, &log).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(log.mails().len(), 2);
}

#[tokio::test]
async fn a_failure_that_was_perhaps_read_too_late_is_told_and_reported() {
    for (relay, is_late) in [(impatient().await, true), (Relay::start().await, false)] {
        let (key, log) = (key(1), Log::default());
        let from = own(&key);
        let line = line(&relay, &key, Manner::One, &log).await;
        // The gateway may wait for the second stream from its login on: until that is read the line has had no pause.
        line.start("first", &from, TO);
        for _ in 0..6 {
            line.chunk("first", b"X-Filler: x\r\n");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        line.submit("second", &from, "nobody@mail.example", &message(&from, "second"));
        until("it has failed", || log.status("second").as_deref() == Some("failed")).await;
        let id = submissions(&relay).await[0].info.id;
        eventually("nobody has to be told any more", async || told(&relay, id).await).await;
        until("the report is there", || log.mails().len() >= usize::from(is_late)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(log.mails().len(), usize::from(is_late), "read in time, it needs no report");
        assert_eq!(log.results_of("second").len(), 1, "by words it is told once");
    }
}

#[tokio::test]
async fn half_a_stream_of_a_lost_line_has_failed_on_the_next_one() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let first = line(&relay, &key, Manner::One, &log).await;
    first.start("half", &from, TO);
    first.chunk("half", &message(&from, "half"));
    first.submit("whole", &from, TO, &message(&from, "whole"));
    eventually("the whole one is stored", async || submissions(&relay).await.len() == 1).await;
    drop(first);
    let second = line(&relay, &key, Manner::One, &log).await;
    until("the other one has failed", || log.status("half").as_deref() == Some("failed")).await;
    assert!(log.error("half").expect("why").starts_with("4.4.2"), "{:?}", log.error("half"));
    // Nobody knows whether that word arrived: each line says it once, and nothing of what is whole.
    drop(second);
    let _third = line(&relay, &key, Manner::One, &log).await;
    until("it is told again", || log.results_of("half").len() == 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(log.results().len(), 2, "{:?}", log.results());
    assert_eq!(submissions(&relay).await.len(), 1);
}

#[tokio::test]
async fn a_stop_waits_for_streams_of_tunnel_1_and_what_is_not_whole_then_has_failed() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let line = line(&relay, &key, Manner::One, &log).await;
    line.start("half", &from, TO);
    line.start("slow", &from, TO);
    line.submit("whole", &from, TO, &message(&from, "whole"));
    eventually("the whole one is stored", async || submissions(&relay).await.len() == 1).await;
    relay.stop.cancel();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(line.is_open() && log.closed().is_empty(), "two streams are open");
    line.chunk("slow", &message(&from, "slow"));
    line.end("slow");
    eventually("the slow one is stored", async || submissions(&relay).await.len() == 2).await;
    until("the session has ended", || !log.closed().is_empty()).await;
    assert_eq!(log.closed(), [(1012, "relay_restarts".to_owned())]);
    let error = log.error("half").expect("it has failed");
    assert!(error.starts_with("4.3.2") && error.contains("relay restarts"), "{error}");
    assert_eq!(log.results().len(), 1, "the others have their results later: {:?}", log.results());
}

#[tokio::test]
async fn a_failure_of_the_time_before_a_restart_comes_back_as_mail() {
    let relay = impatient().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let first = line(&relay, &key, Manner::One, &log).await;
    first.submit("a", &from, TO, &message(&from, "a"));
    eventually("it is stored", async || submissions(&relay).await.len() == 1).await;
    drop(first);
    let id = submissions(&relay).await[0].info.id;
    settle(&relay, id, Settlement::Failed, "550 no").await;
    let relay = relay.restart().await;
    eventually("it is told", async || told(&relay, id).await).await;
    let _second = line(&relay, &key, Manner::One, &log).await;
    until("the report is there", || log.mails().len() == 1).await;
}

#[tokio::test]
async fn a_result_of_tunnel_1_goes_to_a_newer_connection_while_the_gateway_waits() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let first = line(&relay, &key, Manner::One, &log).await;
    first.submit("a", &from, TO, &message(&from, "a"));
    eventually("it is stored", async || submissions(&relay).await.len() == 1).await;
    drop(first);
    let id = submissions(&relay).await[0].info.id;
    settle(&relay, id, Settlement::Sent, "250 ok").await;
    let _second = line(&relay, &key, Manner::One, &log).await;
    until("it is told there", || log.status("a").as_deref() == Some("sent")).await;
    eventually("and that is known", async || told(&relay, id).await).await;
}

#[tokio::test]
async fn over_the_limit_is_a_failure_with_its_reason_in_either_tunnel() {
    let names = intake::Settings { messages_per_hour: 3, recipients_per_day: 2, ..relay::submissions() };
    let relay = Relay::submitting(names).await;
    for (n, manner) in [(1, Manner::Two), (2, Manner::One)] {
        let (key, log) = (key(n), Log::default());
        let from = own(&key);
        let line = line(&relay, &key, manner, &log).await;
        for at in 0..5 {
            line.submit(&format!("{at}"), &from, TO, &message(&from, &format!("m{at}")));
        }
        for (stream, words) in [("2", "recipients"), ("3", "messages"), ("4", "messages")] {
            until(&format!("{stream} has failed"), || log.status(stream).as_deref() == Some("failed")).await;
            let error = log.error(stream).expect("why");
            assert!(error.starts_with("4.7.1") && error.contains(words), "{error}");
        }
        assert_eq!(log.status("0"), None);
        // The same again costs nothing and changes nothing.
        line.submit("0", &from, TO, &message(&from, "m0"));
        line.submit("3", &from, TO, &message(&from, "m3"));
        until("the failure is told again", || log.results_of("3").len() >= 2).await;
        assert_eq!(log.status("0"), None);
    }
}

#[tokio::test]
async fn what_finds_no_room_costs_no_quota() {
    let names = intake::Settings { messages_per_hour: 2, ..relay::submissions() };
    let relay = Relay::submitting(names).await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let line = line(&relay, &key, Manner::Two, &log).await;
    let send = |stream: &str| line.submit(stream, &from, TO, &message(&from, stream));
    send("a");
    until("the first is accepted", || log.accepted("a").len() == 1).await;
    let room = async |items| {
        let outbox = format!(">{}", key.key_text());
        let change = MailboxChange::Quota { items, bytes: None };
        let changed = relay.spooler.call(move |spool| spool.change_mailbox(&outbox, change)).await;
        changed.expect("spool").expect("changed");
    };
    room(Some(1)).await;
    (0..4).for_each(|_| send("b"));
    send("a"); // known, so it is answered behind the others
    until("the others were seen", || log.accepted("a").len() == 2).await;
    assert!(log.accepted("b").is_empty() && log.results().is_empty());
    room(None).await;
    send("b");
    until("it is accepted", || log.accepted("b").len() == 1).await;
    assert!(log.results().is_empty(), "{:?}", log.results());
}

#[tokio::test]
async fn a_damaged_record_keeps_neither_the_session_nor_the_other_results_back() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let first = line(&relay, &key, Manner::TwoWithoutAcks, &log).await;
    let damaged = "damaged@recipient.example";
    first.submit("bad", &from, damaged, &message(&from, "bad"));
    first.submit("good", &from, TO, &message(&from, "good"));
    until("both are accepted", || log.accepted("good").len() == 1).await;
    let ids: Vec<ItemId> = submissions(&relay).await.iter().map(|one| one.info.id).collect();
    drop(first);
    relay.damage(damaged);
    for id in ids {
        settle(&relay, id, Settlement::Sent, "250 ok").await;
    }
    let second = line(&relay, &key, Manner::Two, &log).await;
    until("the other one is told", || log.status("good").as_deref() == Some("sent")).await;
    second.submit("next", &from, TO, &message(&from, "next"));
    until("the line goes on", || log.accepted("next").len() == 1).await;
}

#[tokio::test]
async fn a_stream_that_is_not_what_it_announced_is_for_later() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let line = line(&relay, &key, Manner::Two, &log).await;
    let bytes = message(&from, "x");
    let start = |sha256: &str| StartBody {
        mail_from: from.clone(),
        rcpt_to: TO.to_owned(),
        sha256: Some(sha256.to_owned()),
        ..StartBody::default()
    };
    line.frame(&Frame::Start { stream: "s".into(), start: start(&"0".repeat(64)) });
    line.chunk("s", &bytes);
    line.end("s");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(submissions(&relay).await.is_empty() && log.results().is_empty());
    let right = data_encoding::HEXUPPER.encode(&Sha256::digest(&bytes));
    line.frame(&Frame::Start { stream: "s".into(), start: start(&right) });
    line.chunk("s", b"an earlier try");
    line.frame(&Frame::Start { stream: "s".into(), start: start(&right) });
    line.chunk("s", &bytes);
    line.end("s");
    until("a new start forgot what came before", || log.accepted("s").len() == 1).await;
}

#[tokio::test]
async fn half_a_stream_leaves_nothing_and_frames_out_of_place_are_ignored() {
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let bytes = message(&from, "x");
    let first = line(&relay, &key, Manner::Two, &log).await;
    first.chunk("early", b"before its start");
    first.end("early");
    first.start("half", &from, TO);
    first.chunk("half", &bytes);
    first.submit("whole", &from, TO, &bytes);
    until("the whole one is accepted", || log.accepted("whole").len() == 1).await;
    first.end("whole");
    drop(first);
    let second = line(&relay, &key, Manner::Two, &log).await;
    second.end("half");
    second.submit("next", &from, TO, &bytes);
    until("the line goes on", || log.accepted("next").len() == 1).await;
    assert_eq!(submissions(&relay).await.len(), 2);
    assert!(log.results().is_empty());
}

/// Protocol vectors, `outbound.recipient_domain` and `delivery_result`. We are stricter in one case: blanks inside an
/// address are no address.
#[tokio::test]
async fn recipients_and_results_read_as_the_reference_has_them() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/mail-tunnel.json")).expect("JSON");
    let relay = Relay::start().await;
    let (key, log) = (key(1), Log::default());
    let from = own(&key);
    let line = line(&relay, &key, Manner::One, &log).await;
    let cases = vectors["outbound"]["recipient_domain"].as_array().expect("cases");
    for (n, case) in cases.iter().enumerate() {
        let rcpt = case["rcpt"].as_str().expect("rcpt");
        let bytes = message(&from, &format!("m{n}"));
        line.submit(&format!("{n}"), &from, rcpt, &bytes);
        if case["error"].is_null() && !rcpt.contains(' ') {
            let domain = case["domain"].as_str().expect("domain");
            eventually(rcpt, async || {
                submissions(&relay)
                    .await
                    .iter()
                    .any(|one| one.info.tag == rcpt.as_bytes() && one.destination == domain)
            })
            .await;
        } else {
            until(rcpt, || log.status(&format!("{n}")).as_deref() == Some("failed")).await;
        }
    }
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().expect("object").keys().cloned().collect()
    };
    let failed = &log.results()[0].value;
    assert_eq!(keys(failed), keys(&vectors["delivery_result"]["failed"]));
    let id =
        submissions(&relay).await.iter().find(|one| one.info.state == State::Ready).expect("open").info.id;
    settle(&relay, id, Settlement::Sent, "250 ok").await;
    until("one is sent", || log.results().iter().any(|told| told.value["status"] == "sent")).await;
    let sent = log.results().into_iter().find(|told| told.value["status"] == "sent").expect("told");
    assert_eq!(keys(&sent.value), keys(&vectors["delivery_result"]["sent"]));
}
