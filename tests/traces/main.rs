//! Traces of a real relay at a real collector. A target of its own, because it needs cargo feature `otel`.
//!
//! Goal: one message that comes in, is fetched, and one that goes out are found by their ids in the spans that a collector
//! gets. Method: the real binary, a gateway, and a collector that reads just enough of the protocol.

mod collector;
mod support;

use collector::{Collector, Span};
use support::home::Home;
use support::process::RelayProcess;
use support::{post, until};

const MESSAGE: &[u8] = b"From: <stranger@far.example>\r\nSubject: traced\r\n\r\nhello\r\n";

/// Spans of that name which have this attribute, or an event that has it.
fn with<'a>(spans: &'a [Span], name: &str, key: &str, value: &str) -> Vec<&'a Span> {
    let has = |pairs: &[(String, String)]| pairs.iter().any(|(k, v)| k == key && v == value);
    spans
        .iter()
        .filter(|span| span.name == name)
        .filter(|span| has(&span.attributes) || span.events.iter().any(|event| has(event)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_finds_one_message_by_its_id_on_its_whole_way() {
    let collector = Collector::start();
    let dir = tempfile::tempdir().expect("directory");
    let endpoint = format!("http://{}", collector.address());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    let smarthost = nobody.to_string(); // closed again: every attempt is put off
    let env = [
        ("WAYSTATION_LOG__OTLP_ENDPOINT", endpoint.as_str()),
        ("WAYSTATION_DELIVERY__SMARTHOST", smarthost.as_str()),
        ("WAYSTATION_DELIVERY__ALLOW_PRIVATE_TARGETS", "true"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
    ];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let rest = "mail_domain = \"mail.localhost\"\n[maildir]\npath = \"Maildir\"\n";
    let home = Home::with(&format!("ws://{}/ws", relay.http), rest);
    let gateway = home.start(None);
    until("the gateway runs", || home.status().is_some()).await;
    let address = home.status().expect("status")["address"].as_str().expect("an address").to_owned();

    let mut id = String::new();
    until("the relay knows the gateway", || {
        post::send(relay.smtp, &address, MESSAGE).map(|queued| id = queued).is_ok()
    })
    .await;
    until("it has come home", || home.maildir().contains_key(&id)).await;
    assert!(home.send(&["you@far.example"], "Subject: out\n\nhello\n").status.success());
    until("it was attempted", || {
        !with(&collector.spans(), "delivery.attempt", "outcome", "deferred").is_empty()
    })
    .await;
    gateway.stop().await;
    // What is still in memory is sent at the end.
    assert_eq!(relay.terminate(), 0);

    let spans = collector.spans();
    let came = with(&spans, "smtp.session", "item.id", &id);
    assert_eq!(came.len(), 1, "{spans:#?}");
    assert!(came[0].attributes.iter().any(|(k, v)| k == "session.id" && v.starts_with("smtp-")), "{came:?}");
    let accepted =
        [("event".to_owned(), "relay.ingress.accepted".to_owned()), ("item.id".to_owned(), id.clone())];
    assert!(came[0].events.iter().any(|event| accepted.iter().all(|pair| event.contains(pair))), "{came:?}");
    let fetched = with(&spans, "tunnel.session", "item.id", &id);
    assert_eq!(fetched.len(), 1, "{spans:#?}");
    for name in ["relay.item.offered", "relay.item.acked"] {
        assert_eq!(with(&spans, "tunnel.session", "event", name).len(), 1, "{name}: {fetched:?}");
    }
    let all = format!("{spans:?}");
    assert!(!all.contains("stranger@far.example") && !all.contains("hello"), "no address, no body: {all}");
    let resource = collector.resource();
    for pair in
        [("service.name", "waystation"), ("host.name", "localhost"), ("deployment.environment", "test")]
    {
        let pair = (pair.0.to_owned(), pair.1.to_owned());
        assert!(resource.contains(&pair), "{pair:?} in {resource:?}");
    }
}

#[test]
fn a_collector_that_is_away_costs_no_mail_and_two_lines() {
    let dir = tempfile::tempdir().expect("directory");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    let endpoint = format!("http://{nobody}");
    let env = [("WAYSTATION_LOG__OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    for _ in 0..20 {
        post::send(relay.smtp, "postmaster@mail.localhost", MESSAGE).expect("accepted");
    }
    let (code, lines) = relay.terminate_with_log();
    let told = lines.iter().filter(|line| line.contains("relay.traces.")).count();
    assert_eq!(code, 0);
    assert!((1..=2).contains(&told), "{lines:#?}");
}

#[test]
fn a_share_of_nothing_sends_nothing() {
    let collector = Collector::start();
    let dir = tempfile::tempdir().expect("directory");
    let endpoint = format!("http://{}", collector.address());
    let env = [
        ("WAYSTATION_LOG__OTLP_ENDPOINT", endpoint.as_str()),
        ("WAYSTATION_LOG__OTLP_SAMPLE_PERCENT", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    post::send(relay.smtp, "postmaster@mail.localhost", MESSAGE).expect("accepted");
    assert_eq!(relay.terminate(), 0);
    assert_eq!(collector.spans().len(), 0);
}
