//! The log as an operator reads it at night: every line has a name to search for, and an id tells a whole life.

use std::fs;

use serde_json::Value;

use crate::layering::{collect, root};
use crate::support::home::Home;
use crate::support::process::RelayProcess;
use crate::support::{post, until};

/// Macros whose lines operators see.
const LINES: [&str; 3] = ["tracing::info!(", "tracing::warn!(", "tracing::error!("];

/// The arguments of a macro, up to its own closing parenthesis.
fn arguments(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1_u32, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

#[test]
fn every_line_of_the_log_has_a_name_that_says_who_speaks() {
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    let (mut found, mut nameless) = (0, Vec::new());
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(file).expect("source");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        let path = file.strip_prefix(root()).expect("inside");
        let speaker = if path.starts_with("src/gateway") { "gateway." } else { "relay." };
        for (at, line) in LINES.iter().flat_map(|line| code.match_indices(line)) {
            found += 1;
            let arguments = arguments(&code[at + line.len()..]);
            // A name may be chosen by the kind of a result, in a variable `event`.
            let named =
                arguments.contains(&format!("event = \"{speaker}")) || arguments.trim().starts_with("event,");
            if !named {
                nameless.push(format!(
                    "{}: {}",
                    path.display(),
                    arguments.trim().lines().next().unwrap_or("")
                ));
            }
        }
    }
    assert!(found > 100, "lines were not found");
    assert!(nameless.is_empty(), "lines that nobody can search for:\n  {}", nameless.join("\n  "));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_tells_the_whole_life_of_a_message_in_one_line_each() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(&dir.path().join("data"));
    let rest = "mail_domain = \"mail.localhost\"\n[maildir]\npath = \"Maildir\"\n";
    let home = Home::with(&format!("ws://{}/ws", relay.http), rest);
    let gateway = home.start(None);
    until("the gateway runs", || home.status().is_some()).await;
    let address = home.status().expect("status")["address"].as_str().expect("an address").to_owned();
    let message = b"From: <stranger@far.example>\r\nSubject: followed\r\n\r\nhello\r\n";
    let mut id = String::new();
    until("the relay knows the gateway", || {
        post::send(relay.smtp, &address, message).map(|queued| id = queued).is_ok()
    })
    .await;
    until("it has come home", || home.maildir().contains_key(&id)).await;
    gateway.stop().await;
    let (code, lines) = relay.terminate_with_log();
    assert_eq!(code, 0);

    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_item: Vec<_> = events.iter().filter(|event| event["item.id"] == id.as_str()).collect();
    let mut names: Vec<_> = of_item.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    // Two tasks tell of the same commit.
    names[..2].sort_unstable();
    assert_eq!(names, ["relay.ingress.accepted", "relay.item.offered", "relay.item.acked"], "{of_item:#?}");
    let lane = address.split('@').next().expect("a key");
    for event in of_item {
        assert_eq!((&event["lane"], &event["level"]), (&lane.into(), &"INFO".into()), "{event}");
        assert!(event["message"].as_str().expect("text").contains(&id), "a line reads alone: {event}");
    }
    for event in &events {
        assert!(event["event"].as_str().is_some_and(|name| name.starts_with("relay.")), "{event}");
        // Numbers are numbers, and carry their unit.
        for (field, value) in event.as_object().expect("an object") {
            let is_measured = ["_ms", "_bytes", "_seconds"].iter().any(|unit| field.ends_with(unit));
            assert!(!is_measured || value.is_number() || value.is_null(), "{field} in {event}");
        }
    }
    let log = lines.join("\n");
    assert!(
        !log.contains("stranger@far.example") && !log.contains("followed"),
        "no address, no subject: {log}"
    );
}
