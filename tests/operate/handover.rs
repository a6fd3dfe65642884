//! Hand-over: another process takes over, and nobody is refused, nothing is lost and nothing is made twice.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use waystation::clock::monotonic;
use waystation::identity::keyfile;

use super::daemon::{OUR, Place, Sender, gateway_key, get};
use super::load::Senders;
use super::sockets::{listener, with};
use crate::support::home::Home;
use crate::support::line::{Line, Log, Manner};
use crate::support::sink::{Act, Script, Sink, Step};
use crate::support::until;

/// Hand-overs under load.
const ROUNDS: usize = 4;
/// Messages between two of them, at least.
const BETWEEN: usize = 40;
/// A session that lives so long was worth the relay's word (`Backoff`).
const SESSION: Duration = Duration::from_millis(1100);

fn time_of(event: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(event["timestamp"].as_str().expect("a time"), &Rfc3339).expect("a time")
}

/// For each hand-over: from the end of the last session before it to the first login after it.
fn gaps(place: &Place) -> Vec<i128> {
    let (closed, logged_in) = (place.events("relay.ws.closed"), place.events("relay.ws.auth.accepted"));
    let ends = closed.iter().map(time_of);
    ends.filter_map(|end| {
        let next = logged_in.iter().map(time_of).find(|login| *login > end)?;
        Some((next - end).whole_milliseconds())
    })
    .collect()
}

#[tokio::test]
async fn hand_overs_under_load_refuse_nobody_lose_nothing_and_make_nothing_twice() {
    // Goal: an upgrade is not noticed. Method: senders that never try again, a gateway with mail both ways, and hand-overs
    // in the middle of it; then everything is counted at home and at the other end.
    let (place, sink) = (Place::new(), Sink::start().await);
    place.configure(&format!(
        "[limits]\nenabled = false\n\n[delivery]\nsmarthost = \"{}\"\nallow_private_targets = true\nretry_schedule_seconds = [1]\n",
        sink.address()
    ));
    let running = place.start().await;
    let home = Home::with(
        &format!("ws://{}/ws", place.http()),
        &format!("mail_domain = \"{OUR}\"\nrelay_name = \"relay.{OUR}\"\n[maildir]\npath = \"Maildir\"\n"),
    );
    let key = keyfile::load(&home.path().join("passport.key")).expect("key").key_text();
    let gateway = home.start(None);
    place.event("relay.ws.auth.accepted", 1).await;
    let began = place.metric("process_start_time_seconds ");
    assert!(began.is_some(), "{}", get(place.http(), "/metrics"));
    let senders = Senders::start(4, place.smtp(), &key.address(OUR));
    let mut sent = Vec::new();
    for round in 1..=ROUNDS {
        let (at, from) = (senders.tally.count.load(Ordering::Relaxed), monotonic());
        until("more mail has come, and the session has lived", || {
            senders.tally.count.load(Ordering::Relaxed) >= at + BETWEEN && monotonic() > from + SESSION
        })
        .await;
        let told = home.send(&["far@far.example"], &format!("Subject: out {round}\n\nX\n"));
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        sent.push(told["id"].as_str().expect("an id").to_owned());
        running.signal("USR2");
        place.event("relay.handover.done", round).await;
        place.event("relay.ws.auth.accepted", round + 1).await;
    }
    let at = senders.tally.count.load(Ordering::Relaxed);
    until("mail goes on", || senders.tally.count.load(Ordering::Relaxed) >= at + BETWEEN).await;
    let tally = senders.stop();
    let lost = tally.lost.lock().expect("no panic").clone();
    assert!(lost.is_empty(), "{lost:#?}");

    // At home: every message that was accepted, once.
    let accepted = tally.accepted.lock().expect("no panic").clone();
    until("everything is at home", || home.maildir().len() >= accepted.len()).await;
    let mut at_home: BTreeMap<String, usize> = BTreeMap::new();
    for bytes in home.maildir().values() {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mark = text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a mark").to_owned();
        *at_home.entry(mark).or_default() += 1;
    }
    assert!(at_home.values().all(|count| *count == 1), "twice: {at_home:?}");
    assert_eq!(at_home.into_keys().collect::<Vec<_>>(), accepted.into_iter().collect::<Vec<_>>());

    // At the other end: every submission, once, and one result for each.
    until("all results are home", || {
        sent.iter().all(|id| home.submission(id).is_some_and(|story| story["state"] == "sent"))
    })
    .await;
    assert_eq!(sink.received_count(), ROUNDS);
    assert_eq!(place.events("relay.outbound.sent").len(), ROUNDS);
    assert_eq!(place.metric("waystation_handovers_total{outcome=\"done\"} "), Some(ROUNDS.to_string()));
    // Who counts restarts by it (`WaystationRestarting`) sees none.
    assert_eq!(place.metric("process_start_time_seconds "), began);
    let gaps = gaps(&place);
    assert_eq!(gaps.len(), ROUNDS);
    println!(
        "without a gateway: at most {} ms ({gaps:?}); until a greeting: at most {} ms; {} messages",
        gaps.iter().max().expect("some"),
        tally.greeting_ms_max.load(Ordering::Relaxed),
        tally.count.load(Ordering::Relaxed),
    );
    gateway.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn gateways_are_served_while_a_sender_finishes_and_idle_ones_are_sent_away() {
    // Goal: the order of the steps. Method: a sender in the middle of its message holds the hand-over up, and everybody
    // else is looked at meanwhile.
    let place = Place::new();
    let running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    let gateway = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    let home = key.key_text().address(OUR);
    let (mut busy, _) = Sender::greeted(place.smtp());
    assert!(busy.rcpt(&home).starts_with("250 "));
    assert!(busy.say("DATA").starts_with("354 "));
    busy.write("Subject: half\r\n");
    let (mut idle, _) = Sender::greeted(place.smtp());
    assert!(idle.send(&home, "Subject: whole\r\n\r\n").starts_with("250 2.0.0"));
    until("the gateway has it", || log.mails().len() == 1).await;

    running.signal("USR2");
    assert!(idle.reply().starts_with("421 4.3.2"), "between two messages");
    // Whoever comes now waits, and is not refused; gateways are served, and told nothing yet.
    let mut later = Sender::connect(place.smtp());
    let to_myself = format!("From: <{home}>\r\nSubject: to myself\r\n\r\nx\r\n");
    gateway.submit("meanwhile", &home, &home, to_myself.as_bytes());
    until("the submission came back as mail", || log.mails().len() == 2).await;
    assert!(gateway.is_open() && place.events("relay.handover.done").is_empty());
    assert!(get(place.http(), "/ready").contains("relay is stopping"));

    assert!(busy.say("\r\nhalf\r\n.").starts_with("250 2.0.0"), "what has begun is finished");
    place.event("relay.handover.done", 1).await;
    assert!(later.reply().starts_with("220 "), "greeted by the next process");
    let drains: Vec<Value> =
        log.told().into_iter().map(|told| told.value).filter(|v| v["type"] == "drain").collect();
    assert_eq!(drains.len(), 1);
    let hint = drains[0]["reconnectAfterMs"].as_u64().expect("a hint");
    assert!((250..=375).contains(&hint), "{hint}");
    until("the session was closed", || !log.closed().is_empty()).await;
    assert_eq!(log.closed(), [(1012, "relay_restarts".to_owned())]);
    let again = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    until("the rest came", || log.mails().len() == 3).await;
    drop(again);
    running.stop().await;
}

#[tokio::test]
async fn a_stop_keeps_the_order_and_refuses_newcomers() {
    let place = Place::new();
    let mut running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    let gateway = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    let home = key.key_text().address(OUR);
    let (mut busy, _) = Sender::greeted(place.smtp());
    assert!(busy.rcpt(&home).starts_with("250 "));
    assert!(busy.say("DATA").starts_with("354 "));
    let (mut open, _) = Sender::greeted(place.smtp());
    assert!(open.rcpt(&home).starts_with("250 "));
    running.signal("TERM");
    until("newcomers are refused", || std::net::TcpStream::connect(place.smtp()).is_err()).await;
    // A transaction that was open may become a message; the gateway gets it, in the same session.
    assert!(open.say("DATA").starts_with("354 "));
    assert!(open.say("Subject: open\r\n\r\n.").starts_with("250 2.0.0"));
    until("the gateway has it", || log.mails().len() == 1).await;
    assert!(gateway.is_open() && log.told().iter().all(|told| told.value["type"] != "drain"));
    assert!(busy.say("Subject: busy\r\n\r\n.").starts_with("250 2.0.0"));
    until("the session was closed", || !log.closed().is_empty()).await;
    let drain = log.told().into_iter().find(|told| told.value["type"] == "drain").expect("a drain");
    let hint = drain.value["reconnectAfterMs"].as_u64().expect("a hint");
    assert!((2000..=3000).contains(&hint), "{hint}");
    until("the relay has ended", || running.has_ended().is_some()).await;
    assert!(!place.data().join("admin.sock").exists(), "a tidy directory");
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_hand_over_is_a_stop() {
    let place = Place::new();
    let mut running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    drop(Line::open(place.http(), &key, Manner::Two, &log).await.expect("registered"));
    let (mut busy, _) = Sender::greeted(place.smtp());
    assert!(busy.rcpt(&key.key_text().address(OUR)).starts_with("250 "));
    assert!(busy.say("DATA").starts_with("354 "));
    running.signal("USR2");
    place.event("relay.handover.draining", 1).await;
    running.signal("TERM");
    // Neither order is lost: the message is finished, and then nobody comes after.
    assert!(busy.say("Subject: busy\r\n\r\n.").starts_with("250 2.0.0"));
    let mut status = None;
    until("the relay has ended", || {
        status = running.has_ended();
        status.is_some()
    })
    .await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    assert_eq!(place.events("relay.started").len(), 1);
}

#[tokio::test]
async fn an_armed_delivery_gets_its_verdict_before_the_hand_over() {
    let (place, sink) = (Place::new(), Sink::start().await);
    place.configure(&format!(
        "[delivery]\nsmarthost = \"{}\"\nallow_private_targets = true\n",
        sink.address()
    ));
    let slow = Act::Delay(Duration::from_millis(1500), Box::new(Act::Usual));
    sink.play(Script::usual().on(Step::Dot, slow));
    let running = place.start().await;
    let (key, log) = (gateway_key(1), Log::default());
    let gateway = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    let from = key.key_text().address(OUR);
    gateway.submit("one", &from, "b@far.example", format!("From: <{from}>\r\n\r\nx\r\n").as_bytes());
    until("it was handed over to its last octet", || sink.received_count() == 1).await;
    running.signal("USR2");
    until("the result is told", || log.status("one").is_some()).await;
    assert_eq!(log.status("one").as_deref(), Some("sent"), "neither indeterminate nor sent again");
    place.event("relay.handover.done", 1).await;
    assert_eq!(sink.received_count(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_program_that_cannot_take_over_changes_nothing() {
    let place = Place::new();
    let program = place.program();
    let running = place.start_as(Command::new(&program), |_| ()).await;
    let (key, log) = (gateway_key(1), Log::default());
    let gateway = Line::open(place.http(), &key, Manner::Two, &log).await.expect("logged in");
    let mut refusals = 0;
    let mut refused = async |why: &str| {
        running.signal("USR2");
        refusals += 1;
        let event = place.event("relay.handover.refused", refusals).await;
        let reason = event["reason"].as_str().expect("a reason");
        assert!(reason.contains(why), "{reason}");
        assert!(gateway.is_open());
        Sender::greeted(place.smtp());
    };
    // Broken, in several ways.
    fs::write(place.path().join("broken"), "#!/bin/sh\necho 'cannot load library' >&2\nexit 127\n")
        .expect("written");
    place.replace_program(&place.path().join("broken"));
    refused("cannot load library").await;
    fs::remove_file(&program).expect("removed");
    refused("No such file").await;
    fs::write(&program, "").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).expect("permissions");
    refused("cannot be run").await;
    // Older than hand-overs: it knows its version, and not what it is asked.
    fs::write(
        place.path().join("older"),
        "#!/bin/sh\ntest \"$1\" = --version && echo waystation 0.0.1 && exit 0\necho 'unexpected argument' >&2\nexit 2\n",
    )
    .expect("written");
    place.replace_program(&place.path().join("older"));
    refused("unexpected argument").await;

    // A good program, and a configuration or a spool that it would refuse.
    place.replace_program(Path::new(env!("CARGO_BIN_EXE_waystation")));
    let good = fs::read_to_string(place.config()).expect("read");
    place.configure("[smtp]\nmax_recipient = 1\n");
    refused("smtp.max_recipient").await;
    fs::write(place.config(), &good).expect("written");
    let format = place.data().join("spool/FORMAT");
    let text = fs::read_to_string(&format).expect("read");
    fs::write(&format, text.replacen("spool ", "spool 9", 1)).expect("written");
    refused("newer").await;
    // Who asks by the command line is told the same, with exit code 1.
    let output = place.run(&["restart"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("newer") && said.contains("goes on as it was"), "{said}");
    fs::write(&format, text).expect("written");
    assert_eq!(place.metric("waystation_handovers_total{outcome=\"refused\"} ").as_deref(), Some("7"));

    // With all of that mended it takes over, although the file it was started from is long gone.
    running.signal("USR2");
    place.event("relay.handover.done", 1).await;
    Sender::greeted(place.smtp());
    // And once more, from the process that took over.
    place.replace_program(Path::new(env!("CARGO_BIN_EXE_waystation")));
    let said = String::from_utf8(place.run(&["restart"]).stdout).expect("text");
    assert!(said.contains(concat!("version ", env!("CARGO_PKG_VERSION"), " took over")), "{said}");
    // The command is answered by the process that took over, and may hear so before that has logged it.
    place.event("relay.handover.done", 2).await;
    assert_eq!(place.events("relay.handover.done").len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_program_with_other_keys_takes_over() {
    // Goal: an upgrade that renames a key works. Method: a program that takes a file which the running one refuses.
    let place = Place::new();
    let program = place.program();
    let running = place.start_as(Command::new(&program), |_| ()).await;
    let (beside, next) = (place.path().join("next"), place.path().join("next.toml"));
    fs::copy(place.config(), &next).expect("copied");
    // `serve --config FILE`, and `--probe` perhaps.
    let script = format!(
        "#!/bin/sh\ntest \"$1\" = --version && echo waystation 9.9.9 && exit 0\nshift 3\nexec '{}' serve --config '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_waystation"),
        next.display()
    );
    fs::write(&beside, script).expect("written");
    place.replace_program(&beside);
    place.configure("[smtp]\nrenamed_key = 1\n");
    running.signal("USR2");
    place.event("relay.handover.done", 1).await;
    assert_eq!(place.events("relay.handover.not_rehearsed").len(), 1);
    Sender::greeted(place.smtp());
    running.stop().await;
}

#[tokio::test]
async fn changed_addresses_take_effect_and_the_old_ones_are_given_up() {
    let place = Place::new();
    let running = place.start().await;
    let (old_mail, old_web) = (place.smtp(), place.http());
    let other = std::net::TcpListener::bind("127.0.0.2:0").expect("bound").local_addr().expect("bound");
    place.configure(&format!("[smtp]\nlisten = [\"{other}\"]\n"));
    running.signal("USR2");
    place.event("relay.handover.done", 1).await;
    assert_eq!((place.smtp(), place.http()), (other, old_web));
    Sender::greeted(other);
    assert!(std::net::TcpStream::connect(old_mail).is_err(), "given up");
    assert_eq!(place.events("relay.socket.closed").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn what_the_next_process_would_trip_over_is_found_while_this_one_serves() {
    // Goal: no hand-over leaves nobody. Method: everything that only a start finds out, one after the other.
    let place = Place::new();
    let running = place.start().await;
    let good = fs::read_to_string(place.config()).expect("read");
    let mut refusals = 0;
    let mut refused = async |why: &str| {
        running.signal("USR2");
        refusals += 1;
        let event = place.event("relay.handover.refused", refusals).await;
        let reason = event["reason"].as_str().expect("a reason");
        assert!(reason.contains(why), "{reason}");
        Sender::greeted(place.smtp());
    };
    let token = place.data().join("dashboard.token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).expect("permissions");
    refused("dashboard.token").await;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("permissions");

    let (_theirs, taken) = listener();
    place.configure(&format!("[smtp]\nlisten = [\"{taken}\"]\n"));
    refused("`smtp.listen` in the configuration names another address").await;
    place.configure(&format!("[http]\nlisten = \"{taken}\"\n"));
    refused("`http.listen` in the configuration names another address").await;

    let file = place.path().join("file");
    fs::write(&file, "").expect("written");
    place.configure_at(&format!("hostname = \"relay.our.test\"\ndata_dir = \"{}\"\n", file.display()), "");
    refused("not a directory").await;

    let socket = |name: &str| format!("[admin]\nsocket = \"{}\"\n", place.path().join(name).display());
    place.configure(&socket("none/admin.sock"));
    refused("none/admin.sock").await;
    place.configure(&socket(&"x".repeat(120)));
    refused("longer than").await;
    let _theirs = UnixListener::bind(place.path().join("their.sock")).expect("bound");
    place.configure(&socket("their.sock"));
    refused("another process listens there").await;

    // With all of that mended it takes over.
    fs::write(place.config(), &good).expect("written");
    running.signal("USR2");
    place.event("relay.handover.done", 1).await;
    Sender::greeted(place.smtp());
    running.stop().await;
}

#[tokio::test]
async fn a_socket_that_the_next_process_could_not_serve_is_not_handed_over() {
    let place = Place::new();
    let (mail, mail_at) = listener();
    let running = place.start_as(with(vec![mail], "smtp"), |_| ()).await;
    place.configure("[smtp]\nenabled = false\n");
    running.signal("USR2");
    let event = place.event("relay.handover.refused", 1).await;
    let reason = event["reason"].as_str().expect("a reason");
    assert!(reason.contains("smtp.enabled is false"), "{reason}");
    Sender::greeted(mail_at);
    running.stop().await;
}

#[tokio::test]
async fn an_address_that_only_we_are_in_the_way_of_can_be_had() {
    let place = Place::new();
    let running = place.start().await;
    let port = place.smtp().port();
    let wide = SocketAddr::from(([0, 0, 0, 0], port));
    place.configure(&format!("[smtp]\nlisten = [\"{wide}\"]\n"));
    running.signal("USR2");
    place.event("relay.handover.done", 1).await;
    assert_eq!(place.smtp(), wide);
    Sender::greeted(SocketAddr::from(([127, 0, 0, 1], port)));
    assert!(TcpListener::bind(wide).is_err(), "it is ours alone");
    running.stop().await;
}

#[tokio::test]
async fn a_signature_may_begin_with_a_hand_over_and_another_data_directory_may_not() {
    let place = Place::new();
    place.configure("[attestation]\nenabled = false\n");
    let running = place.start().await;
    assert!(!place.data().join("attestation.key").exists());
    place.configure("");
    running.signal("USR2");
    place.event("relay.handover.done", 1).await;
    assert!(place.data().join("attestation.key").exists(), "made by the next process");
    let other = place.path().join("other/data");
    place.configure_at(&format!("hostname = \"relay.our.test\"\ndata_dir = \"{}\"\n", other.display()), "");
    running.signal("USR2");
    let event = place.event("relay.handover.refused", 1).await;
    let reason = event["reason"].as_str().expect("a reason");
    assert!(reason.contains("stop the relay and move the directory"), "{reason}");
    assert!(!place.path().join("other").exists());
    Sender::greeted(place.smtp());
    running.stop().await;
}
