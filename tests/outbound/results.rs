//! One result for each submission: across kills, reconnects and repeats.

use std::collections::HashSet;
use std::time::Duration;

use super::world::{Plan, World, address, key, message};
use crate::support::line::{Log, Manner};
use crate::support::sink::{Act, Script, Step};
use crate::support::until;

const TO: &str = "u@far.test";

async fn world() -> World {
    let world = World::new().await;
    world.dns.mail_domain("far.test", "127.0.0.2");
    world
}

/// Submits `s1`, lets the relay die at `point`, starts it again, and returns what the gateway is told then.
async fn after_death_at(world: &World, point: &str) -> String {
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let mut relay = world.start_dying_at(Some(point)).await.expect("the relay starts");
    let line = relay.line(&key, Manner::TwoWithoutAcks, &log).await;
    line.submit("s1", &from, TO, &message(&from, TO, "s1"));
    until(&format!("the relay dies at {point}"), || relay.has_ended()).await;
    // What is stable may be told at once; it is told again then, in the same words (Q21).
    let before = log.results_of("s1");
    assert!(before.is_empty() || point == "delivery.after_settle", "told before {point}");
    let relay = world.start().await;
    let line = relay.line(&key, Manner::Two, &log).await;
    if log.accepted("s1").is_empty() {
        line.submit("s1", &from, TO, &message(&from, TO, "s1"));
    }
    until("the result is told", || log.results_of("s1").len() > before.len()).await;
    assert!(log.results_of("s1").iter().all(|told| told.text == log.results_of("s1")[0].text));
    let doubted = relay.number("waystation_outbound_results_total{result=\"indeterminate\"}");
    relay.stop().await;
    let records = world.submissions();
    assert_eq!(records.len(), 1, "{records:?}");
    let told = log.status("s1").expect("told");
    assert_eq!(doubted, if told == "indeterminate" { "1" } else { "0" }, "what the start found is counted");
    assert_eq!(records[0].result.as_ref(), Some(&told));
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_it_is_armed_it_is_sent_once() {
    // Q15: no octet that could complete the message leaves before the record is stable.
    let world = world().await;
    assert_eq!(after_death_at(&world, "delivery.before_arm").await, "sent");
    assert_eq!(world.sink.copies("s1", TO), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_armed_it_is_indeterminate_and_stays_away() {
    let world = world().await;
    assert_eq!(after_death_at(&world, "delivery.after_arm").await, "indeterminate");
    assert_eq!(world.sink.copies("s1", TO), 0);
    assert!(world.sink.received().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_250_and_the_record_of_it_it_is_indeterminate() {
    // Q13.
    let world = world().await;
    assert_eq!(after_death_at(&world, "delivery.before_settle").await, "indeterminate");
    assert_eq!(world.sink.copies("s1", TO), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_the_record_of_the_250_it_is_told_after_the_restart() {
    // Q14.
    let world = world().await;
    assert_eq!(after_death_at(&world, "delivery.after_settle").await, "sent");
    assert_eq!(world.sink.copies("s1", TO), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_id_again_gets_the_same_answer_and_another_content_gets_none_of_it() {
    // Q20.
    let world = world().await;
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::TwoWithoutAcks, &log).await;
    let bytes = message(&from, TO, "s1");
    line.submit("s1", &from, TO, &bytes);
    until("the result is told", || log.status("s1").is_some()).await;
    for _ in 0..3 {
        line.submit("s1", &from, TO, &bytes);
    }
    until("it is accepted as often as it came", || log.accepted("s1").len() >= 4).await;
    let ids: HashSet<String> = log.accepted("s1").into_iter().collect();
    assert_eq!(ids.len(), 1);
    // The same id with other octets is a mistake, and touches nothing of the first.
    let before = log.told().len();
    line.submit("s1", &from, TO, &message(&from, TO, "other"));
    until("the conflict is told", || {
        log.told().iter().skip(before).any(|told| told.text.contains("id_conflict"))
    })
    .await;
    let texts: HashSet<String> = log
        .results_of("s1")
        .into_iter()
        .filter(|told| !told.text.contains("id_conflict"))
        .map(|told| told.text)
        .collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!((world.sink.copies("s1", TO), world.sink.copies("other", TO)), (1, 0));
    relay.stop().await;
    assert_eq!(world.submissions().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_repeated_byte_for_byte_until_it_is_acked() {
    // Q21: five reconnects, one of them over a restart.
    let world = world().await;
    let mut relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    for number in 1..=5 {
        let line = relay.line(&key, Manner::TwoWithoutAcks, &log).await;
        if number == 1 {
            line.submit("s1", &from, TO, &message(&from, TO, "s1"));
        }
        until("it is told on this line", || log.results_of("s1").iter().any(|told| told.line == number))
            .await;
        drop(line);
        if number == 3 {
            relay.kill();
            relay = world.start().await;
        }
    }
    let texts: HashSet<String> = log.results_of("s1").into_iter().map(|told| told.text).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    // Acked, it is not told again.
    let line = relay.line(&key, Manner::Two, &log).await;
    until("it is told once more", || log.results_of("s1").iter().any(|told| told.line == 6)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(line);
    let line = relay.line(&key, Manner::Two, &log).await;
    // Whatever would be repeated comes before the result of something new.
    line.submit("s2", &from, TO, &message(&from, TO, "s2"));
    until("the next one is told", || log.status("s2").is_some()).await;
    assert!(log.results_of("s1").iter().all(|told| told.line < 7));
    assert_eq!(world.sink.copies("s1", TO), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_ending_after_the_dot_has_its_result() {
    // Q5-Q12 through the whole relay, in the clear and by BDAT.
    let cases: [(Act, &str, usize); 11] = [
        (Act::Usual, "sent", 1),
        (Act::say("251 2.1.5 forwarded"), "sent", 1),
        (Act::Last(b"250 2.0.0 ok\r\n".to_vec()), "sent", 1),
        (Act::say("554 5.7.1 no"), "failed", 0),
        (Act::close(), "indeterminate", 1),
        (Act::reset(), "indeterminate", 1),
        (Act::Last(b"25".to_vec()), "indeterminate", 1),
        (Act::Last(b"250-queued\r\n".to_vec()), "indeterminate", 1),
        (Act::say("354 again?"), "indeterminate", 1),
        (Act::say("what is this"), "indeterminate", 1),
        (Act::Silence, "indeterminate", 1),
    ];
    let world = World::with(Plan {
        delivery: "final_dot_timeout_seconds = 1\ntimeouts_percent = 2\nmax_concurrent_per_destination = 1\n"
            .to_owned(),
        ..Plan::default()
    })
    .await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let acts: Vec<Act> = cases.iter().map(|(act, ..)| act.clone()).collect();
    world.sink.play_with(move |connection, _| {
        // Each message has its own act, found by its name; every second connection offers CHUNKING.
        let acts = acts.clone();
        let script =
            if connection % 2 == 0 { Script::usual().and_offers("CHUNKING") } else { Script::usual() };
        script.judge(move |moment| {
            let n: usize = moment.line.strip_prefix("case-")?.parse().ok()?;
            (moment.step == Step::Dot).then(|| acts[n].clone())
        })
    });
    let relay = world.start().await;
    let line = relay.line(&key, Manner::Two, &log).await;
    for (n, _) in cases.iter().enumerate() {
        let (stream, domain) = (format!("case-{n}"), format!("d{n}.test"));
        world.dns.mail_domain(&domain, "127.0.0.2");
        let to = format!("u@{domain}");
        line.submit(&stream, &from, &to, &message(&from, &to, &stream));
    }
    for (n, (act, result, copies)) in cases.iter().enumerate() {
        let stream = format!("case-{n}");
        until(&format!("{act:?} has a result"), || log.status(&stream).is_some()).await;
        assert_eq!(log.status(&stream).as_deref(), Some(*result), "{act:?}: {:?}", log.error(&stream));
        assert_eq!(world.sink.copies(&stream, &format!("u@d{n}.test")), *copies, "{act:?}");
    }
}
