//! Bad input: each a clear refusal or the right result, and nothing half-accepted.

use std::time::Duration;

use super::world::{World, address, key, message};
use crate::support::line::{Log, Manner};
use crate::support::until;

const TO: &str = "u@far.test";

async fn world() -> World {
    let world = World::new().await;
    for domain in ["far.test", "xn--bcher-kva.test"] {
        world.dns.mail_domain(domain, "127.0.0.2");
    }
    world
}

/// Submits one message in both tunnels; its result's word and error, the same in both.
async fn result_of(
    world: &World,
    from: Option<&str>,
    to: &str,
    bytes: impl Fn(&str) -> Vec<u8>,
) -> (String, String) {
    let relay = world.start().await;
    let mut told = Vec::new();
    for (n, manner) in [(3, Manner::Two), (4, Manner::One)] {
        let (key, log) = (key(n), Log::default());
        let own = address(&key);
        let line = relay.line(&key, manner, &log).await;
        // Another name each time: the same one with other content would be a mistake of its own.
        let stream = format!("s-{:016x}", rand::random::<u64>());
        line.submit(&stream, from.unwrap_or(&own), to, &bytes(&own));
        until(&format!("{to} has a result in {manner:?}"), || log.status(&stream).is_some()).await;
        told.push((log.status(&stream).expect("told"), log.error(&stream).unwrap_or_default()));
        assert!(line.is_open(), "the line goes on");
    }
    relay.stop().await;
    assert_eq!(told[0].0, told[1].0, "{told:?}");
    println!("{to}: {told:?}");
    told.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_without_headers_is_refused_and_the_relay_lives() {
    let world = world().await;
    for bytes in [&b""[..], b"no empty line", b"\r\n\r\n", b"just text\r\n\r\nmore\r\n"] {
        let (status, error) = result_of(&world, None, TO, |_| bytes.to_vec()).await;
        assert!(status == "failed" && !error.is_empty(), "{:?}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(world.sink.received_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_the_address_and_the_log_does_not() {
    let world = world().await;
    let other = "mallory.malone@far.test";
    let (status, error) = result_of(&world, None, TO, |_| message(other, TO, "x")).await;
    assert!(status == "failed" && error.contains(other), "{error}");
    let events = world.events();
    let mut ended = events.iter().filter(|event| event["event"] == "relay.outbound.failed").peekable();
    assert!(ended.peek().is_some());
    for event in ended {
        let text = event["text"].as_str().expect("why");
        assert!(text.contains("@far.test") && !text.contains(other), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nul_is_refused_and_stray_line_ends_are_repaired_or_refused() {
    let world = world().await;
    let with = |from: &str, tail: &[u8]| [&message(from, TO, "x")[..], tail].concat();
    let (status, error) = result_of(&world, None, TO, |from| with(from, b"a\0b\r\n")).await;
    assert!(status == "failed" && !error.is_empty(), "{error}");
    let (status, _) = result_of(&world, None, TO, |from| with(from, b"a\rb\r\n")).await;
    // Whatever became of it: no exchanger ever sees a stray CR or LF.
    for received in world.sink.received() {
        for (at, byte) in received.bytes.iter().enumerate() {
            let next = received.bytes.get(at + 1);
            assert!(*byte != b'\r' || next == Some(&b'\n'), "{status}: a stray CR went out");
            assert!(*byte != b'\n' || received.bytes[at - 1] == b'\r', "{status}: a stray LF went out");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_recipients_in_to_have_a_result() {
    let world = world().await;
    let many: Vec<String> = (0..10_000).map(|n| format!("user{n}@far.test")).collect();
    let (status, error) = result_of(&world, None, TO, |from| {
        let to = many.join(",\r\n ");
        format!(
            "X-Test-Id: many\r\nFrom: {from}\r\nTo: {to}\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\
             Message-ID: <m@our.test>\r\n\r\nx\r\n"
        )
        .into_bytes()
    })
    .await;
    match &*status {
        "sent" => assert_eq!(world.sink.received()[0].rcpt_to, [format!("<{TO}>")]),
        _ => assert!(status == "failed" && !error.is_empty(), "{status} {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_are_refused_without_being_kept() {
    let world = world().await;
    let line = b"fifty megabytes of this line, which is long enough to be a line\r\n";
    let (status, error) = result_of(&world, None, TO, |from| {
        let mut bytes = message(from, TO, "huge");
        while bytes.len() < 50 * 1024 * 1024 {
            bytes.extend_from_slice(line);
        }
        bytes
    })
    .await;
    assert!(status == "failed" && error.contains("5.3.4"), "{status} {error}");
    assert_eq!(world.sink.received_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_stream_is_nothing() {
    let world = world().await;
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    for manner in [Manner::Two, Manner::One] {
        let line = relay.line(&key, manner, &log).await;
        line.start("half", &from, TO);
        line.chunk("half", b"From: <x@our.test>\r\n\r\nhalf of");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The id is free: nothing was half-accepted.
    let line = relay.line(&key, Manner::Two, &log).await;
    line.submit("half", &from, TO, &message(&from, TO, "half"));
    until("the whole one is sent", || log.status("half").as_deref() == Some("sent")).await;
    relay.stop().await;
    assert_eq!(world.submissions().len(), 1);
    assert_eq!(world.sink.copies("half", TO), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_out_of_order_end_in_a_result_or_in_nothing() {
    let world = world().await;
    let relay = world.start().await;
    let (key, log) = (key(1), Log::default());
    let from = address(&key);
    let line = relay.line(&key, Manner::Two, &log).await;
    // A chunk before its start, an end without one, an end twice.
    line.chunk("nobody", b"x");
    line.end("nobody");
    line.submit("twice", &from, TO, &message(&from, TO, "twice"));
    line.end("twice");
    line.chunk("twice", b"more");
    line.submit("next", &from, TO, &message(&from, TO, "next"));
    until("the next one is sent", || log.status("next").as_deref() == Some("sent")).await;
    until("the first one is sent", || log.status("twice").as_deref() == Some("sent")).await;
    assert!(line.is_open());
    assert_eq!((world.sink.copies("twice", TO), world.sink.copies("next", TO)), (1, 1));
    relay.stop().await;
    assert_eq!(world.submissions().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sender_must_be_ones_own() {
    let world = world().await;
    let other = address(&key(9));
    for from in [&*other, "me@far.test", "", "not an address"] {
        let (status, error) = result_of(&world, Some(from), TO, |own| message(own, TO, "envelope")).await;
        assert!(status == "failed" && !error.is_empty(), "{from}: {status}");
    }
    for header in [&*other, "boss@far.test"] {
        let (status, error) = result_of(&world, None, TO, |_| message(header, TO, "header")).await;
        assert!(status == "failed" && !error.is_empty(), "{header}: {status}");
    }
    let (status, _) = result_of(&world, None, TO, |own| {
        let two = format!("From: <{own}>\r\nFrom: <boss@far.test>\r\nTo: <{TO}>\r\n\r\nx\r\n");
        two.into_bytes()
    })
    .await;
    assert_eq!(status, "failed");
    assert_eq!(world.sink.received_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_that_are_no_mailboxes_of_the_internet_are_refused() {
    let world = world().await;
    let long = format!("{}@far.test", "a".repeat(65));
    for to in [
        "",
        "nodomain",
        "@far.test",
        "u@",
        "u@[127.0.0.2]",
        "u@[IPv6:::1]",
        "a@b@far.test",
        "u@far.test\r\nRCPT TO:<v@far.test>",
        &long,
        "u@-.test",
        "u@nowhere.test",
    ] {
        let (status, error) = result_of(&world, None, to, |own| message(own, TO, "bad")).await;
        assert!(status == "failed" && !error.is_empty(), "{to}: {status}");
    }
    assert_eq!(world.sink.received_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idn_domain_is_sent_in_its_ascii_form() {
    // I7: the domain has an A-label, so an exchanger without SMTPUTF8 can take it.
    let world = world().await;
    let (status, error) =
        result_of(&world, None, "u@bücher.test", |own| message(own, "u@xn--bcher-kva.test", "idn")).await;
    assert_eq!((&*status, &*error), ("sent", ""));
    assert_eq!(world.sink.received()[0].rcpt_to, ["<u@xn--bcher-kva.test>"]);
}
