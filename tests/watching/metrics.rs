//! `/metrics` of a real relay that has carried mail.

use super::{check, get, promtool};
use crate::layering::root;
use crate::support::post;
use crate::support::process::RelayProcess;

const CLASSIC: &str = "text/plain; version=0.0.4";
/// What Prometheus 2.42 sends.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// A relay that has accepted a message for postmaster and refused one.
fn busy_relay() -> (tempfile::TempDir, RelayProcess) {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(&dir.path().join("data"));
    let message = b"From: <stranger@far.example>\r\nSubject: counted\r\n\r\nhello\r\n";
    post::send(relay.smtp, "postmaster@mail.localhost", message).expect("accepted");
    post::send(relay.smtp, "nobody@mail.localhost", message).expect_err("refused");
    (dir, relay)
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let Some(promtool) = promtool() else { return };
    let (_dir, relay) = busy_relay();
    let (status, head, body) = get(relay.http, "/metrics", CLASSIC);
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    check(&promtool, root(), &["check", "metrics"], &body);
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn all_three_formats_tell_the_same_numbers() {
    let (_dir, relay) = busy_relay();
    let accepted = "\nwaystation_inbound_accepted_total 1\n";
    let refused = "\nwaystation_inbound_refused_total{code=\"550\",stage=\"rcpt\"} 1\n";
    for (accept, kind) in [
        (CLASSIC, "content-type: text/plain; version=0.0.4"),
        ("*/*", "content-type: text/plain; version=0.0.4"),
        (PROMETHEUS, "content-type: application/openmetrics-text; version=1.0.0"),
    ] {
        let (status, head, body) = get(relay.http, "/metrics", accept);
        assert_eq!(status, 200);
        assert!(head.contains(kind) && head.contains("vary: accept"), "{head}");
        assert!(body.contains(accepted) && body.contains(refused), "{body}");
        assert_eq!(body.ends_with("# EOF\n"), accept == PROMETHEUS);
    }
    let (_, head, body) = get(relay.http, "/metrics", "application/json");
    assert!(head.contains("content-type: application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(json["waystation_inbound_accepted"]["samples"][0]["value"], 1);
    assert_eq!(json["waystation_inbound_tls"]["type"], "counter");
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn the_reference_names_what_a_relay_publishes_and_nothing_else() {
    let (_dir, relay) = busy_relay();
    let (_, _, body) = get(relay.http, "/metrics", CLASSIC);
    let published: Vec<_> =
        body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let reference = std::fs::read_to_string(root().join("docs/metrics.md")).expect("docs/metrics.md");
    let named: Vec<_> =
        reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(published.len() > 60, "{published:?}");
    let unnamed: Vec<_> = published.iter().filter(|name| !named.contains(name)).collect();
    assert!(unnamed.is_empty(), "docs/metrics.md does not name {unnamed:?}");
    // Zones are the operator's: without one there is nothing to count.
    let silent: Vec<_> = named.iter().filter(|name| !published.contains(name)).collect();
    assert_eq!(silent, [&"waystation_abuse_dnsbl_hits_total"]);
    assert_eq!(relay.terminate(), 0);
}
