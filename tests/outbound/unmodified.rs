//! Unmodified gateways: twenty seconds of patience, repeats of the whole mail, and no word for "not known".

use std::path::Path;
use std::time::Duration;

use super::world::{Plan, World, address, key};
use crate::support::agent::{self, Mail, Outcome};
use crate::support::line::{Log, Manner};
use crate::support::sink::{Act, Script, Step};
use crate::support::until;

/// What the original waits for each result.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the original builds for one try: ids and boundaries are new each time, the content is not.
fn mime(from: &str, to: &str, subject: &str, number: usize) -> Vec<u8> {
    format!(
        "From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\nMessage-ID: <{number}-{subject}@our.test>\r\n\
         Date: Fri, 20 Nov 2026 10:00:0{number} +0000\r\nX-Test-Id: {subject}\r\nX-Protege-Recursion: 3\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=\"--_NmP-{number}\"\r\n\r\n\
         ----_NmP-{number}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
         plain\nwith bare line feeds\n\r\n----_NmP-{number}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n\
         <p>html</p>\n\r\n----_NmP-{number}--\r\n"
    )
    .into_bytes()
}

async fn world() -> World {
    let world = World::with(Plan {
        delivery: "retry_schedule_seconds = [1]\ngreylist_wait_seconds = 0\nexpire_after_seconds = 22\n\
                   final_dot_timeout_seconds = 1\ntimeouts_percent = 2\nresubmission_window_seconds = 60\n"
            .to_owned(),
        ..Plan::default()
    })
    .await;
    for domain in ["good.test", "bad.test", "late.test"] {
        world.dns.mail_domain(domain, "127.0.0.2");
    }
    world.sink.play(
        Script::usual()
            .on_rcpt("x@bad.test", Act::say("550 5.1.1 no such user"))
            .on_rcpt("x@late.test", Act::say("450 4.2.0 later")),
    );
    world
}

async fn send(world: &World, log: &Log, subject: &str, rcpt_to: &[&str]) -> Outcome {
    let relay = world.start().await;
    let key = key(2);
    let from = address(&key);
    let line = relay.line(&key, Manner::One, log).await;
    let message = |number| mime(&from, rcpt_to[0], subject, number);
    let mail = Mail { mail_from: &from, rcpt_to, message: &message, patience: PATIENCE };
    let outcome = agent::send(&line, log, subject, &mail).await;
    if outcome == Outcome::Queued {
        // What comes late comes as mail.
        until("a bounce comes, or it is sent", || {
            !log.mails().is_empty() || rcpt_to.iter().all(|to| world.sink.copies(subject, to) == 1)
        })
        .await;
    }
    relay.stop().await;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_to_good_addresses_is_sent_once_and_tunnel_1_hears_only_words_it_knows() {
    let (world, log) = (world().await, Log::default());
    assert_eq!(send(&world, &log, "fine", &["a@good.test", "b@good.test"]).await, Outcome::Sent);
    assert_eq!((world.sink.copies("fine", "a@good.test"), world.sink.copies("fine", "b@good.test")), (1, 1));
    for told in log.told() {
        assert_eq!(told.value["type"], "relay_delivery_result", "{}", told.text);
        assert!(told.value["status"] == "sent" || told.value["status"] == "failed", "{}", told.text);
    }
    // Bare line feeds became line ends.
    let received = world.sink.received();
    assert!(received.iter().all(|message| !bare_line_feed(&message.bytes)));
}

fn bare_line_feed(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_recipient_does_not_double_the_copies_of_the_good_ones() {
    // The gateway repeats the whole mail twice, with new ids: the fingerprint answers for the good ones.
    let (world, log) = (world().await, Log::default());
    let outcome = send(&world, &log, "mixed", &["a@good.test", "x@bad.test", "b@good.test"]).await;
    let Outcome::Failed(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.contains("no such user"), "{error}");
    for to in ["a@good.test", "b@good.test"] {
        assert_eq!(world.sink.copies("mixed", to), 1, "{to}");
    }
    assert_eq!(log.results().len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mail_with_the_same_words_to_the_same_recipient_after_a_success_is_the_question_of_the_window()
 {
    // Two mails that differ in their text are two mails.
    let (world, log) = (world().await, Log::default());
    assert_eq!(send(&world, &log, "first", &["a@good.test"]).await, Outcome::Sent);
    assert_eq!(send(&world, &log, "second", &["a@good.test"]).await, Outcome::Sent);
    assert_eq!(
        (world.sink.copies("first", "a@good.test"), world.sink.copies("second", "a@good.test")),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_after_the_patience_comes_as_a_bounce() {
    let (world, log) = (world().await, Log::default());
    assert_eq!(send(&world, &log, "late", &["x@late.test"]).await, Outcome::Queued);
    let mails = log.mails();
    assert_eq!(mails.len(), 1);
    let bounce = String::from_utf8_lossy(&mails[0]).into_owned();
    for part in
        ["multipart/report", "delivery-status", "Final-Recipient: rfc822; x@late.test", "Action: failed"]
    {
        assert!(bounce.to_ascii_lowercase().contains(&part.to_ascii_lowercase()), "{part}:\n{bounce}");
    }
    assert!(log.results().is_empty(), "{:?}", log.results());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_for_which_there_is_no_room_has_failed_and_is_nowhere() {
    let (world, log) = (world().await, Log::default());
    let key = key(2);
    let from = address(&key);
    // Its mailbox is there before the disk is full.
    let relay = world.start().await;
    drop(relay.line(&key, Manner::One, &log).await);
    relay.stop().await;
    let floor = Path::new("1000000000000000000");
    let relay = world.start_with(&[("WAYSTATION_SPOOL__MIN_FREE_BYTES", floor)]).await;
    let line = relay.line(&key, Manner::One, &log).await;
    let message = |number| mime(&from, "a@good.test", "full", number);
    let mail = Mail { mail_from: &from, rcpt_to: &["a@good.test"], message: &message, patience: PATIENCE };
    let outcome = agent::send(&line, &log, "full", &mail).await;
    let Outcome::Failed(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.starts_with("4.3.1"), "{error}");
    assert_eq!(log.results().len(), 3, "the agent learns it after three tries");
    relay.stop().await;
    assert!(world.submissions().is_empty());
    assert_eq!(world.sink.copies("full", "a@good.test"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_of_what_was_delivered_here_is_sent_also_when_there_is_no_room() {
    let (world, log) = (world().await, Log::default());
    let (from, to) = (address(&key(2)), address(&key(3)));
    let roomy: &[(&str, &Path)] = &[];
    let full: &[(&str, &Path)] = &[("WAYSTATION_SPOOL__MIN_FREE_BYTES", Path::new("1000000000000000000"))];
    for (number, env) in [(1, roomy), (2, full)] {
        let relay = world.start_with(env).await;
        drop(relay.line(&key(3), Manner::One, &Log::default()).await);
        let line = relay.line(&key(2), Manner::One, &log).await;
        let stream = format!("s{number}");
        line.submit(&stream, &from, &to, &mime(&from, &to, "here", number));
        until("it has a result", || log.status(&stream).is_some()).await;
        assert_eq!(log.status(&stream).as_deref(), Some("sent"), "{:?}", log.error(&stream));
        relay.stop().await;
    }
    assert_eq!(world.submissions().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_is_silence_and_not_failure() {
    // A `failed` would make the gateway send it again.
    let world = world().await;
    world.sink.play(Script::usual().on(Step::Dot, Act::close()));
    let log = Log::default();
    let relay = world.start().await;
    let key = key(2);
    let from = address(&key);
    let line = relay.line(&key, Manner::One, &log).await;
    let message = |number| mime(&from, "a@good.test", "unknown", number);
    let patience = Duration::from_secs(3);
    let mail = Mail { mail_from: &from, rcpt_to: &["a@good.test"], message: &message, patience };
    assert_eq!(agent::send(&line, &log, "unknown", &mail).await, Outcome::Queued);
    assert_eq!(world.sink.copies("unknown", "a@good.test"), 1);
    relay.stop().await;
    assert!(log.results().is_empty());
    assert_eq!(world.submissions()[0].result.as_deref(), Some("indeterminate"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_comes_on_a_newer_connection_while_the_gateway_waits() {
    let world = world().await;
    world
        .sink
        .play(Script::usual().on(Step::Dot, Act::Delay(Duration::from_millis(500), Box::new(Act::Usual))));
    let log = Log::default();
    let relay = world.start().await;
    let key = key(2);
    let from = address(&key);
    let line = relay.line(&key, Manner::One, &log).await;
    line.submit("s1", &from, "a@good.test", &mime(&from, "a@good.test", "newer", 1));
    until("the exchanger has it", || world.sink.received_count() == 1).await;
    drop(line);
    let _line = relay.line(&key, Manner::One, &log).await;
    until("the result is told", || log.status("s1").is_some()).await;
    assert_eq!(log.results_of("s1")[0].line, 2);
    assert_eq!(log.status("s1").as_deref(), Some("sent"));
}
