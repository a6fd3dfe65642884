//! From the spool to the sink: what is tried, what is kept of it, and the one result.

use std::time::Duration;

use spool::disk::sim::SimDisk;
use spool::types::{MailboxChange, State, Verb};
use waystation::clock;

use super::outlet::{HEAD, MAILBOX, Outlet};
use crate::support::dns::Trouble;
use crate::support::sink::{Act, BlackHole, Script, Step};
use crate::support::until;

/// Q8: taken once, octet for octet what was stored, with its story.
#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_delivered_once_and_its_attempt_is_told() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    let id = outlet.submit("one@d.test").await;
    let (state, note) = outlet.result(id).await;
    assert_eq!(state, State::Sent, "{note:?}");
    let attempt = note.attempts.last().expect("an attempt");
    assert_eq!((attempt.host.as_str(), attempt.stage.as_str()), ("mx.d.test", "dot"));
    assert_eq!((attempt.code, attempt.tls.as_str()), (Some(250), "none"));
    let received = outlet.sink.received();
    assert_eq!(received.len(), 1);
    assert_eq!(
        (received[0].mail_from.as_str(), &received[0].rcpt_to[..]),
        ("<a@our.test>", &["<one@d.test>".into()][..])
    );
    let text = String::from_utf8(received[0].bytes.clone()).expect("text");
    assert_eq!(text, format!("{HEAD}X-Test-Id: one\r\nFrom: <a@our.test>\r\n\r\n.dot\r\nend\r\n"));
    let states: Vec<_> = outlet.story(id).await.into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["ready", "armed", "sent"]);
    assert_eq!(outlet.submission(id).await.attempts, 1);
    let counted = || outlet.metrics.text().contains("waystation_outbound_results_total{result=\"sent\"} 1");
    until("the result is counted", counted).await;
}

/// U5: what a stolen key has queued does not go out once it is revoked, and goes on when it is allowed again.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_mailbox_sends_nothing_more() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    outlet.switch.pause("", clock::wall()).expect("paused");
    let id = outlet.submit("one@d.test").await;
    let change = async |outlet: &Outlet, change| {
        let changed = outlet.spooler.call(|spool| spool.change_mailbox(MAILBOX, change)).await;
        changed.expect("spool").expect("changed");
    };
    change(&outlet, MailboxChange::Revoke).await;
    outlet.switch.resume().expect("resumed");
    let waits = async || outlet.story(id).await.last().is_some_and(|(_, note)| note.text.contains("revoked"));
    let until = clock::monotonic() + Duration::from_secs(10);
    while !waits().await {
        assert!(clock::monotonic() < until, "{:?}", outlet.story(id).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((outlet.submission(id).await.info.state, outlet.sink.received().len()), (State::Ready, 0));
    change(&outlet, MailboxChange::Allow).await;
    let due = outlet.spooler.call(move |spool| spool.postpone(id, clock::wall(), "", clock::wall())).await;
    due.expect("spool").expect("due");
    assert_eq!(outlet.result(id).await.0, State::Sent);
}

/// Q1, O1: a host that refuses connections costs nothing but the look at the next one.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_is_tried_when_the_first_is_gone() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mx("d.test", &[(10, "gone.d.test"), (20, "mx.d.test")]);
    outlet.dns.host("gone.d.test", &["127.0.0.9"]);
    outlet.dns.host("mx.d.test", &["127.0.0.3"]);
    let id = outlet.submit("two@d.test").await;
    let (state, note) = outlet.result(id).await;
    assert_eq!(state, State::Sent);
    let tried: Vec<_> = note.attempts.iter().map(|a| (a.host.as_str(), a.stage.as_str())).collect();
    assert_eq!(tried, [("gone.d.test", "connect"), ("mx.d.test", "dot")]);
}

/// Q5-Q7, Q12, Q17: after the dot only a complete reply counts, and nobody else is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_indeterminate_and_never_sent_again() {
    for (n, act) in [
        Act::close(),
        Act::reset(),
        Act::Silence,
        Act::Last(b"25".to_vec()),
        Act::Last(b"250-queued\r\n".to_vec()),
        Act::say("354 what"),
        Act::say("hello"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut outlet = Outlet::start().await;
        outlet.dns.mx("d.test", &[(10, "a.d.test"), (20, "b.d.test")]);
        outlet.dns.host("a.d.test", &["127.0.0.2"]);
        outlet.dns.host("b.d.test", &["127.0.0.3"]);
        outlet.sink.play(Script::usual().on(Step::Dot, act.clone()));
        let id = outlet.submit(&format!("q{n}@d.test")).await;
        let (state, note) = outlet.result(id).await;
        assert_eq!(state, State::Indeterminate, "{act:?}: {note:?}");
        outlet.sink.play(Script::usual());
        // Not by a restart either.
        outlet.restart().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(outlet.sink.copies(&format!("q{n}"), &format!("q{n}@d.test")), 1, "{act:?}");
        assert_eq!(outlet.submission(id).await.info.state, State::Indeterminate);
    }
}

/// What a host has said is known although the disk was full when it said so: it is written down as soon as there is room, not
/// at the next start, which could not know it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_a_full_disk_does_not_take_is_written_when_there_is_room() {
    let disk = SimDisk::new();
    let dot = Duration::from_secs(20);
    let mut outlet = Outlet::start_on(disk.clone(), |settings| settings.dialing.timeouts.dot = dot).await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    let late = Act::Delay(Duration::from_secs(1), Box::new(Act::Usual));
    outlet.sink.play(Script::usual().on(Step::Dot, late));
    let id = outlet.submit("one@d.test").await;
    outlet.wait_for(id, &[State::Armed]).await;
    disk.set_capacity(disk.used_bytes());
    let mut written = 0;
    let full = loop {
        let change = MailboxChange::Quota { items: Some(written), bytes: None };
        let changed = outlet.spooler.call(|spool| spool.change_mailbox(MAILBOX, change)).await;
        match changed.expect("healthy") {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("no space"), "{full}");
    until("the sink has it", || outlet.sink.copies("one", "one@d.test") == 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(outlet.submission(id).await.info.state, State::Armed, "it cannot be written yet");
    disk.set_capacity(u64::MAX / 2);
    let (state, note) = outlet.result(id).await;
    assert_eq!((state, outlet.sink.copies("one", "one@d.test")), (State::Sent, 1), "{note:?}");
}

/// Q1-Q3, Q10, P7, P16: what was surely not taken is tried again, until it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_taken_is_tried_again() {
    for (n, script) in [
        Script::usual().on_nth(Step::Banner, 1, Act::say_and_close("421 4.3.2 busy")),
        Script::usual().on_nth(Step::Banner, 1, Act::close()),
        Script::usual().on_nth(Step::Mail, 1, Act::say("451 4.3.0 later")),
        Script::usual().on_nth(Step::Rcpt, 1, Act::say("450 4.2.0 greylisted")),
        Script::usual().on_nth(Step::Data, 1, Act::close()),
        Script::usual().on_nth(Step::Body, 1, Act::reset()),
        Script::usual().on_nth(Step::Dot, 1, Act::say("452 4.3.1 full")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut outlet = Outlet::start().await;
        outlet.dns.mail_domain("d.test", "127.0.0.2");
        outlet.sink.play_in_turn(vec![script, Script::usual()]);
        let to = format!("r{n}@d.test");
        let id = outlet.submit(&to).await;
        let (state, note) = outlet.result(id).await;
        assert_eq!(state, State::Sent, "{n}: {note:?}");
        assert_eq!(outlet.submission(id).await.attempts, 2, "{n}: {:?}", outlet.story(id).await);
        assert_eq!(outlet.sink.copies(&format!("r{n}"), &to), 1, "{n}");
    }
}

/// P2, P6, P7, P9, Q11, O5, O6: a final no is told at once, in the words of who said it.
#[tokio::test(flavor = "multi_thread")]
async fn a_final_no_fails_at_once() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mx("null.test", &[(0, ".")]);
    for (n, (script, domain, code)) in [
        (Script::usual().on(Step::Banner, Act::say_and_close("554 5.7.1 go away")), "d0.test", Some(554)),
        (Script::usual().on(Step::Mail, Act::say("550 5.7.1 not you")), "d1.test", Some(550)),
        (Script::usual().on(Step::Rcpt, Act::say("550 5.1.1 nobody")), "d2.test", Some(550)),
        (Script::usual().on(Step::Data, Act::say("554 5.5.1 no")), "d3.test", Some(554)),
        (Script::usual().on(Step::Dot, Act::say("554 5.6.0 bad")), "d4.test", Some(554)),
        (Script::usual(), "null.test", None),
        (Script::usual(), "nxdomain.test", None),
    ]
    .into_iter()
    .enumerate()
    {
        // Each its own host, so that no connection is left from the one before.
        if code.is_some() {
            outlet.dns.mail_domain(domain, "127.0.0.2");
        }
        outlet.sink.play(script);
        let id = outlet.submit(&format!("f{n}@{domain}")).await;
        let (state, note) = outlet.result(id).await;
        assert_eq!(state, State::Failed, "{n}: {note:?}");
        let attempt = note.attempts.last().expect("an attempt");
        assert_eq!(attempt.code, code, "{n}: {note:?}");
        assert!(note.enhanced_code.starts_with("5."), "{n}: {note:?}");
        assert_eq!(outlet.sink.copies(&format!("f{n}"), &format!("f{n}@{domain}")), 0, "{n}");
    }
}

/// O4, Q19: DNS that says nothing certain is asked again, until the time is up; then the last reason is told.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_tells_the_last_reason() {
    let mut outlet = Outlet::start_with(|settings| settings.expire_ms = 1_500).await;
    outlet.dns.trouble("d.test", None, Some(Trouble::ServFail));
    let id = outlet.submit("late@d.test").await;
    let (state, note) = outlet.result(id).await;
    assert_eq!(state, State::Failed);
    assert!(note.text.starts_with("expired; "), "{note:?}");
    assert!(note.text.contains("d.test"), "{note:?}");
    assert!(outlet.submission(id).await.attempts >= 2);
    assert_eq!(outlet.sink.connections(), 0);
}

/// O15: a thousand for a site that never answers delay nobody, and only one of them dials.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_site_with_a_long_queue_delays_nobody() {
    let mut outlet = Outlet::start_with(|settings| {
        settings.dialing.timeouts.connect = Duration::from_secs(20);
        settings.schedule.total_max = 8;
    })
    .await;
    let hole = BlackHole::start(&format!("127.0.0.8:{}", outlet.sink.port())).await;
    outlet.dns.mail_domain("dead.test", &hole.address().ip().to_string());
    for n in 0..1000 {
        outlet.submit(&format!("dead{n}@dead.test")).await;
    }
    let began = clock::monotonic();
    let mut ids = Vec::new();
    for n in 0..10 {
        let domain = format!("live{n}.test");
        outlet.dns.mail_domain(&domain, "127.0.0.2");
        for m in 0..5 {
            ids.push(outlet.submit(&format!("live{n}x{m}@{domain}")).await);
        }
    }
    for id in ids {
        assert_eq!(outlet.result(id).await.0, State::Sent);
    }
    let took = clock::monotonic().duration_since(began);
    assert_eq!(outlet.standing.left_alone_until("live1.test", clock::wall()), None);
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// P11: one connection carries many messages.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_reused() {
    let mut outlet = Outlet::start_with(|settings| settings.schedule.per_destination_max = 2).await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(outlet.submit(&format!("m{n}@d.test")).await);
    }
    for id in ids {
        assert_eq!(outlet.result(id).await.0, State::Sent);
    }
    let connections = outlet.sink.connections();
    assert!(connections <= 3, "{connections} connections for 40 messages");
    assert!(outlet.sink.open_max() <= 3);
}

/// P11: a connection that died while it waited costs the next message nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_while_idle_is_no_attempt() {
    for act in [Act::say_and_close("421 4.4.2 idle too long"), Act::close()] {
        let mut outlet = Outlet::start().await;
        outlet.dns.mail_domain("d.test", "127.0.0.2");
        outlet.sink.play(Script::usual().on_nth(Step::Mail, 2, act.clone()).on_nth(
            Step::Rset,
            1,
            act.clone(),
        ));
        for n in 0..3 {
            let id = outlet.submit(&format!("s{n}@d.test")).await;
            let (state, note) = outlet.result(id).await;
            assert_eq!((state, note.attempts.len()), (State::Sent, 1), "{act:?}: {note:?}");
            assert_eq!(outlet.submission(id).await.attempts, 1);
        }
    }
}

/// Q18: held mail waits; released mail goes at once. A pause stops everything and survives a restart.
#[tokio::test(flavor = "multi_thread")]
async fn holding_and_pausing_stop_what_has_not_left() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    outlet.switch.pause("maintenance", clock::wall()).expect("written");
    let (held, other) = (outlet.submit("held@d.test").await, outlet.submit("other@d.test").await);
    let hold = outlet.spooler.call(move |spool| spool.apply_verb(held, Verb::Hold, "", clock::wall()));
    hold.await.expect("commit").expect("held");
    outlet.restart().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(outlet.sink.connections(), 0, "paused");
    outlet.switch.resume().expect("removed");
    assert_eq!(outlet.result(other).await.0, State::Sent);
    assert_eq!(outlet.submission(held).await.info.state, State::Held);
    let release = outlet.spooler.call(move |spool| spool.apply_verb(held, Verb::Release, "", clock::wall()));
    release.await.expect("commit").expect("released");
    assert_eq!(outlet.result(held).await.0, State::Sent);
}

/// Below the floor what is stored still leaves, so that a spool that is full of outgoing mail empties.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_below_its_floor_goes_on_delivering() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    outlet.switch.pause("until the disk is full", clock::wall()).expect("written");
    let id = outlet.submit("space@d.test").await;
    outlet.restart_with_floor(u64::MAX / 2).await;
    let look = outlet.spooler.query(|spool| spool.accepts()).await.expect("answers");
    assert!(look.is_err(), "below the floor");
    outlet.switch.resume().expect("removed");
    assert_eq!(outlet.result(id).await.0, State::Sent);
    assert!(!outlet.switch.is_on());
}

/// U7: a disk that has no room for results pauses deliveries by itself, and they go on when there is some again.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_without_room_for_results_pauses_deliveries_until_it_has_some() {
    let disk = SimDisk::new();
    let mut outlet = Outlet::start_on(disk.clone(), |_| ()).await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    outlet.switch.pause("until the disk is full", clock::wall()).expect("written");
    let id = outlet.submit("space@d.test").await;
    disk.set_capacity(disk.used_bytes());
    let mut items = 1_000;
    while outlet.spooler.query(|spool| spool.carries()).await.expect("answers").is_ok() {
        items += 1;
        let change = MailboxChange::Quota { items: Some(items), bytes: None };
        let changed = outlet.spooler.call(|spool| spool.change_mailbox(MAILBOX, change)).await;
        changed.expect("healthy").expect("there is room for this");
    }
    until("deliveries pause", || outlet.switch.is_tripped()).await;
    outlet.switch.resume().expect("removed");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(outlet.sink.connections(), 0, "still without room: {:?}", outlet.switch.reason());
    disk.set_capacity(u64::MAX / 2);
    assert_eq!(outlet.result(id).await.0, State::Sent);
    assert!(!outlet.switch.is_on());
}

/// Waits until `is` holds; too long a wait fails the test.
async fn in_time(what: &str, is: impl AsyncFn() -> bool) {
    let look = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), look).await.is_ok(), "waited in vain for {what}");
}

/// O15: hosts that do not answer are remembered for other domains too, and who waits for them can be told why.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_is_not_dialled_by_every_domain() {
    let mut outlet = Outlet::start_with(|settings| {
        settings.schedule.retry.waits_ms = std::sync::Arc::from([3_000]);
    })
    .await;
    outlet.dns.host("gone.test", &["127.0.0.9"]);
    for n in 0..3 {
        outlet.dns.mx(&format!("d{n}.test"), &[(10, "gone.test")]);
    }
    let first = outlet.submit("a@d0.test").await;
    in_time("the first attempt", async || outlet.submission(first).await.attempts > 0).await;
    for n in 1..3 {
        let id = outlet.submit(&format!("b@d{n}.test")).await;
        in_time("a step that says why it waits", async || outlet.story(id).await.len() > 1).await;
        assert_eq!(outlet.submission(id).await.attempts, 0, "it was not dialled");
        let (state, note) = outlet.story(id).await.pop().expect("steps");
        assert_eq!((state.as_str(), note.attempts.len()), ("ready", 0));
        assert!(note.text.contains("answered a short while ago"), "{note:?}");
    }
    assert!(outlet.standing.left_alone_until("d0.test", clock::wall()).is_some());
    // It comes back: everything goes, at the latest when the wait is over.
    outlet.dns.host("gone.test", &["127.0.0.2"]);
    assert_eq!(outlet.result(first).await.0, State::Sent);
}

/// P2: a host that wants nothing from us decides nothing while another one is not asked, because it was silent a short
/// while ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_everybody_fails_nothing_while_another_is_left_alone() {
    let mut outlet = Outlet::start_with(|settings| {
        settings.schedule.retry.waits_ms = std::sync::Arc::from([120_000]);
    })
    .await;
    outlet.sink.play(Script::usual().on(Step::Banner, Act::say_and_close("554 5.7.1 go away")));
    outlet.dns.host("gone.test", &["127.0.0.9"]);
    outlet.dns.host("rude.test", &["127.0.0.2"]);
    for domain in ["d0.test", "d1.test"] {
        outlet.dns.mx(domain, &[(10, "gone.test"), (20, "rude.test")]);
    }
    for (n, tried) in [("a@d0.test", 2), ("b@d1.test", 1)] {
        let id = outlet.submit(n).await;
        in_time("an attempt", async || outlet.submission(id).await.attempts > 0).await;
        let (state, note) = outlet.story(id).await.pop().expect("steps");
        assert_eq!((state.as_str(), note.attempts.len()), ("ready", tried), "{note:?}");
    }
}

/// Q18: what is held while its message is on the way ends unsent, because it cannot be armed any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_during_the_attempt_keeps_the_message_from_being_completed() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    outlet
        .sink
        .play(Script::usual().on(Step::Rcpt, Act::Delay(Duration::from_millis(600), Box::new(Act::Usual))));
    let id = outlet.submit("race@d.test").await;
    while outlet.sink.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let hold = outlet.spooler.call(move |spool| spool.apply_verb(id, Verb::Hold, "", clock::wall()));
    hold.await.expect("commit").expect("held");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(outlet.submission(id).await.info.state, State::Held);
    assert_eq!(outlet.sink.received_count(), 0);
}

/// A stop drops what is not armed and waits for the verdict of what is.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_what_is_armed_and_drops_the_rest() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("armed.test", "127.0.0.2");
    outlet.dns.mail_domain("slow.test", "127.0.0.3");
    let slow = Act::Delay(Duration::from_millis(400), Box::new(Act::Usual));
    let never = Act::Silence;
    outlet.sink.play_with(move |_, host| {
        let is_armed = host == std::net::IpAddr::from([127, 0, 0, 2]);
        let (step, act) = if is_armed { (Step::Dot, slow.clone()) } else { (Step::Mail, never.clone()) };
        Script::usual().on(step, act)
    });
    let (armed, unarmed) = (outlet.submit("armed@armed.test").await, outlet.submit("slow@slow.test").await);
    outlet.wait_for(armed, &[State::Armed]).await;
    while outlet.sink.connections() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    outlet.sink.play(Script::usual());
    outlet.restart().await;
    assert_eq!(outlet.submission(armed).await.info.state, State::Sent);
    assert_eq!(outlet.result(unarmed).await.0, State::Sent);
    assert_eq!(outlet.sink.copies("slow", "slow@slow.test"), 1);
}

/// T1: the signature is made at the attempt, over exactly what goes on the wire, and SIZE counts it.
#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_is_signed_as_it_arrived() {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
    use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};

    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    let record = outlet.sign();
    outlet.dns.txt("s1-ed25519._domainkey.our.test", &[&record]);
    outlet.restart().await;
    // Larger than what is kept in memory between hashing and sending.
    let lines = b"from here on a line, and another one \r\n".repeat(10_000);
    let body = [b"X-Test-Id: dk\r\nFrom: <a@our.test>\r\nSubject: x\r\n\r\n".to_vec(), lines].concat();
    for (n, body) in [body.as_slice(), b"From: <a@our.test>\r\n\r\n.short\r\n"].into_iter().enumerate() {
        let id = outlet.submit_bytes(&format!("dk{n}@d.test"), "d.test", body).await;
        assert_eq!(outlet.result(id).await.0, State::Sent);
        let received = outlet.sink.received().pop().expect("a message");
        assert!(received.bytes.starts_with(b"DKIM-Signature: "));
        assert!(received.bytes.ends_with(body));
        let size = format!("SIZE={}", received.bytes.len());
        assert!(received.mail_parameters.contains(&size), "{:?}", received.mail_parameters);

        let mut connection = ConnectionConfig::udp();
        connection.port = outlet.dns.address().port();
        let server = NameServerConfig::new(outlet.dns.address().ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        let authenticator = MessageAuthenticator::new(config, ResolverOpts::default()).expect("resolver");
        let message = AuthenticatedMessage::parse(&received.bytes).expect("a message");
        let verdicts = authenticator.verify_dkim(&message).await;
        assert_eq!(verdicts.len(), 1);
        assert_eq!(*verdicts[0].result(), DkimResult::Pass);
    }
}

/// A message of many chunks arrives whole (and is not held in memory whole).
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_arrive_whole() {
    let mut outlet = Outlet::start().await;
    outlet.dns.mail_domain("d.test", "127.0.0.2");
    let line = [b"x".repeat(70), b"\r\n".to_vec()].concat();
    let body = [b"X-Test-Id: big\r\n\r\n".to_vec(), line.repeat(20_000)].concat();
    let id = outlet.submit_bytes("big@d.test", "d.test", &body).await;
    assert_eq!(outlet.result(id).await.0, State::Sent);
    let received = outlet.sink.received();
    assert_eq!(received[0].bytes.len(), HEAD.len() + body.len());
    assert_eq!(&received[0].bytes[HEAD.len()..], &body[..]);
}
