//! The queue: what waits, what gives up, what is refused for being too much, and who must not wait for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use waystation::clock::monotonic;

use super::world::{Plan, World, address, key, message};
use crate::support::dns::Trouble;
use crate::support::line::{Log, Manner};
use crate::support::sink::{Act, BlackHole, Script, Step};
use crate::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_for_a_dead_site_delay_nobody_else() {
    // O15, P17. The dead site takes connections and never says a word; another swallows SYNs.
    const DEAD: usize = 1000;
    let world = World::with(Plan {
        delivery: "retry_schedule_seconds = [60]\ntimeouts_percent = 10\nmax_concurrent_total = 50\n"
            .to_owned(),
        hosts: vec!["127.0.0.2", "127.0.0.3"],
        ..Plan::default()
    })
    .await;
    let hole = BlackHole::start(&format!("127.0.0.66:{}", world.sink.port())).await;
    assert_eq!(hole.address().port(), world.sink.port());
    world.dns.mail_domain("silent.test", "127.0.0.3");
    world.dns.mail_domain("hole.test", "127.0.0.66");
    world.sink.play_with(|_, host| {
        let is_dead = host == std::net::IpAddr::from([127, 0, 0, 3]);
        let script = Script::usual();
        if is_dead { script.on(Step::Banner, Act::Silence) } else { script }
    });
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::Two, &log).await;
    for n in 0..DEAD {
        let to = format!("u{n}@{}", if n % 2 == 0 { "silent.test" } else { "hole.test" });
        line.submit(&format!("dead-{n}"), &from, &to, &message(&from, &to, &format!("dead-{n}")));
    }
    until("the dead ones are all accepted", || {
        (0..DEAD).all(|n| !log.accepted(&format!("dead-{n}")).is_empty())
    })
    .await;
    let started = monotonic();
    for n in 0..50 {
        let domain = format!("live{}.test", n % 10);
        world.dns.mail_domain(&domain, "127.0.0.2");
        let to = format!("u{n}@{domain}");
        line.submit(&format!("live-{n}"), &from, &to, &message(&from, &to, &format!("live-{n}")));
    }
    until("the others are sent", || {
        (0..50).all(|n| log.status(&format!("live-{n}")).as_deref() == Some("sent"))
    })
    .await;
    let took = monotonic() - started;
    assert!(took < Duration::from_secs(5), "they waited {took:?}");
    assert!((0..DEAD).all(|n| log.status(&format!("dead-{n}")).is_none()));
    // The dead site was not dialled a thousand times.
    assert!(world.sink.connections() < 50 + 40, "{} connections", world.sink.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greylisted_message_is_sent_at_the_second_try() {
    // P16; O14: each attempt asks again.
    let world = World::new().await;
    world.dns.mail_domain("grey.test", "127.0.0.2");
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    world.sink.play(Script::usual().judge(move |moment| {
        let is_first = moment.step == Step::Rcpt && count.fetch_add(1, Ordering::AcqRel) == 0;
        is_first.then(|| Act::say("450 4.2.0 greylisted"))
    }));
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::Two, &log).await;
    line.submit("s1", &from, "u@grey.test", &message(&from, "u@grey.test", "s1"));
    until("it was refused once", || tries.load(Ordering::Acquire) == 1).await;
    assert_eq!(log.status("s1"), None);
    // Meanwhile the domain moves.
    world.dns.mail_domain("grey.test", "127.0.0.3");
    until("it is sent", || log.status("s1").as_deref() == Some("sent")).await;
    assert_eq!(world.sink.received()[0].host, std::net::IpAddr::from([127, 0, 0, 3]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_takes_in_time_fails_with_the_last_reason() {
    // Q19, Q1.
    let world = World::with(Plan {
        delivery: "retry_schedule_seconds = [1]\ngreylist_wait_seconds = 0\nexpire_after_seconds = 3\n\
                   timeouts_percent = 2\n"
            .to_owned(),
        ..Plan::default()
    })
    .await;
    world.dns.mail_domain("busy.test", "127.0.0.2");
    world.dns.mx("broken.test", &[(10, "mx.broken.test")]);
    world.dns.trouble("broken.test", None, Some(Trouble::ServFail));
    world.dns.mail_domain("closed.test", "127.0.0.99");
    world.sink.play(Script::usual().on_rcpt("u@busy.test", Act::say("452 4.2.2 mailbox full")));
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::Two, &log).await;
    for domain in ["busy.test", "broken.test", "closed.test"] {
        let to = format!("u@{domain}");
        line.submit(domain, &from, &to, &message(&from, &to, domain));
    }
    for (domain, word) in [("busy.test", "mailbox full"), ("broken.test", ""), ("closed.test", "")] {
        until(&format!("{domain} is given up"), || log.status(domain).is_some()).await;
        assert_eq!(log.status(domain).as_deref(), Some("failed"));
        let error = log.error(domain).expect("a reason");
        assert!(!error.is_empty() && error.contains(word), "{domain}: {error}");
    }
    let tries = world.sink.lines().iter().filter(|line| line.starts_with("RCPT")).count();
    assert!(tries >= 2, "it was tried {tries} times");
    assert!(world.sink.received().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dns_rules_out_fails_at_once() {
    // O5, O6, O12.
    let world = World::new().await;
    world.dns.mx("null.test", &[(0, ".")]);
    world.dns.host("null.test", &["127.0.0.2"]);
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::Two, &log).await;
    for (stream, to, code) in [
        ("null", "u@null.test", "5.1.10"),
        ("nowhere", "u@nowhere.test", "5.1.2"),
        ("literal", "u@[127.0.0.2]", "5.1.2"),
    ] {
        line.submit(stream, &from, to, &message(&from, to, stream));
        until(&format!("{to} fails"), || log.status(stream).is_some()).await;
        assert_eq!(log.status(stream).as_deref(), Some("failed"), "{to}");
        println!("{to}: {:?}, wanted {code}", log.error(stream));
    }
    assert_eq!(world.sink.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_submissions_of_one_mailbox_fail_with_that_reason() {
    let world = World::with(Plan {
        limits: "outbound_messages_per_hour_per_mailbox = 3\n".to_owned(),
        ..Plan::default()
    })
    .await;
    world.dns.mail_domain("far.test", "127.0.0.2");
    let relay = world.start().await;
    let (one, two, log) = (key(1), key(2), Log::default());
    for (n, key) in [(1, &one), (2, &two)] {
        let from = address(key);
        let line = relay.line(key, Manner::Two, &log).await;
        let to = "u@far.test";
        for number in 0..5 {
            let stream = format!("k{n}-{number}");
            line.submit(&stream, &from, to, &message(&from, to, &stream));
            until("it has a result", || log.status(&stream).is_some()).await;
        }
        let failed: Vec<String> = (0..5).filter_map(|number| log.error(&format!("k{n}-{number}"))).collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed.iter().all(|error| !error.is_empty()), "{failed:?}");
    }
    assert_eq!(world.sink.received_count(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_recipients_of_one_mailbox_in_a_day_fail_with_that_reason() {
    let world = World::with(Plan {
        limits: "outbound_recipients_per_day_per_mailbox = 2\n".to_owned(),
        ..Plan::default()
    })
    .await;
    world.dns.mail_domain("far.test", "127.0.0.2");
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::Two, &log).await;
    for number in 0..3 {
        let (stream, to) = (format!("s{number}"), format!("u{number}@far.test"));
        line.submit(&stream, &from, &to, &message(&from, &to, &stream));
        until("it has a result", || log.status(&stream).is_some()).await;
        let wanted = if number < 2 { "sent" } else { "failed" };
        assert_eq!(log.status(&stream).as_deref(), Some(wanted));
    }
    assert_eq!(world.sink.received_count(), 2);
}
