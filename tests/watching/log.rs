//! The log as an operator reads it at night: every line has a name to search for, and an id tells a whole life.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use waystation::identity::key::SecretKey;

use crate::layering::{collect, root};
use crate::support::dns::Dns;
use crate::support::home::Home;
use crate::support::line::{Line, Log, Manner};
use crate::support::process::{RelayProcess, run_text};
use crate::support::sink::{Act, Script, Sink, Step};
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

fn of_event(lines: &[String], name: &str) -> Vec<Value> {
    let events = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    events.filter(|event| event["event"] == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_others_are_logged_without_addresses_and_kept_with_them() {
    let (dns, sink) = (Dns::start().await, Sink::start_on(&["127.0.0.2"]).await);
    dns.mail_domain("far.test", "127.0.0.2");
    sink.play(Script::usual().on(Step::Rcpt, Act::say("550 5.1.1 <bob.secret@far.test>: no such user")));
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    let (servers, port) = (dns.address().to_string(), sink.port().to_string());
    let env = [
        ("WAYSTATION_DELIVERY__DNS_SERVERS", servers.as_str()),
        ("WAYSTATION_DELIVERY__PORT", port.as_str()),
        ("WAYSTATION_DELIVERY__ALLOW_PRIVATE_TARGETS", "true"),
    ];
    let relay = RelayProcess::start_with(&data, &env);
    let (key, log) = (SecretKey::from_seed(&[1; 32]), Log::default());
    let own = key.key_text().address("mail.localhost");
    let line = Line::open(relay.http, &key, Manner::Refusing, &log).await.expect("logged in");

    // Out: a server names the recipient in its refusal.
    let message = format!(
        "From: <{own}>\r\nTo: <carol@far.test>\r\nSubject: followed\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\
         Message-ID: <s1@mail.localhost>\r\n\r\nhello\r\n"
    );
    line.submit("s1", &own, "carol@far.test", message.as_bytes());
    until("the result is told", || log.status("s1").is_some()).await;
    assert_eq!(log.status("s1").as_deref(), Some("failed"));
    let told = log.error("s1").expect("words");
    assert!(told.contains("<bob.secret@far.test>"), "a gateway gets them as they were said: {told}");
    // In: the gateway refuses, in the words of a server behind it.
    let message = b"From: <stranger@far.example>\r\nSubject: followed\r\n\r\nhello\r\n";
    let id = post::send(relay.smtp, &own, message).expect("accepted");
    until("the gateway got it", || log.mails().len() == 1).await;
    let (code, lines) = relay.terminate_with_log();
    assert_eq!(code, 0);

    for (event, field, words) in [
        ("relay.outbound.attempted", "text", "<b...@far.test>: no such user"),
        ("relay.outbound.failed", "text", "<b...@far.test>: no such user"),
        ("relay.item.held", "reason", "<e...@home.test> has moved"),
    ] {
        let found = of_event(&lines, event);
        assert_eq!(found.len(), 1, "{event}: {found:#?}");
        assert!(found[0][field].as_str().expect("words").contains(words), "{}", found[0]);
    }
    let logged = lines.join("\n");
    for personal in ["bob.secret", "eve.secret", "carol@", "stranger@", "followed"] {
        assert!(!logged.contains(personal), "{personal} is in {logged}");
    }
    // The records have all of it.
    let data = data.to_str().expect("text");
    let submission = log.accepted("s1").swap_remove(0);
    for (id, words) in [(submission, "<bob.secret@far.test>"), (id, "<eve.secret@home.test>")] {
        let (code, shown, said) = run_text(&["spool", "show", &id, "--json", "--data-dir", data]);
        assert!(code == 0 && shown.contains(words), "{shown}{said}");
    }
}

/// Lines about denials in the log of a relay with these limits, after `crowd` was there.
fn after_a_crowd(limits: &[(&str, &str)], crowd: impl FnOnce(&RelayProcess)) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start_with(&dir.path().join("data"), limits);
    crowd(&relay);
    let (code, lines) = relay.terminate_with_log();
    assert_eq!(code, 0);
    of_event(&lines, "relay.abuse.denied")
}

#[test]
fn a_denial_is_told_when_a_window_opens_and_only_then() {
    let crowd = |relay: &RelayProcess| {
        let greetings: Vec<String> = (0..6)
            .map(|_| {
                let mut line = String::new();
                let socket = TcpStream::connect(relay.smtp).expect("connected");
                BufReader::new(socket).read_line(&mut line).expect("greeted");
                line[..3].to_owned()
            })
            .collect();
        assert_eq!(greetings, ["220", "220", "421", "421", "421", "421"]);
    };
    let denied = after_a_crowd(&[("WAYSTATION_LIMITS__SMTP_CONNECTIONS_PER_MINUTE_PER_IP", "2")], crowd);
    assert_eq!(denied.len(), 1, "{denied:?}");
    assert_eq!(denied[0]["client.ip"], "127.0.0.1");

    let harvest = |relay: &RelayProcess| {
        let mut socket = BufReader::new(TcpStream::connect(relay.smtp).expect("connected"));
        let commands = ["EHLO far.example\r\n".to_owned(), "MAIL FROM:<a@far.example>\r\n".to_owned()];
        let guesses = (0..30).map(|n| format!("RCPT TO:<guess{n}@mail.localhost>\r\n"));
        let mut last = String::new();
        let mut hear = |socket: &mut BufReader<TcpStream>| {
            loop {
                last.clear();
                let read = socket.read_line(&mut last).expect("heard");
                if read == 0 || last.get(3..4) == Some(" ") {
                    return last.get(..3).unwrap_or("").to_owned();
                }
            }
        };
        assert_eq!(hear(&mut socket), "220");
        let mut replies = Vec::new();
        for command in commands.into_iter().chain(guesses) {
            socket.get_mut().write_all(command.as_bytes()).expect("said");
            replies.push(hear(&mut socket));
            if replies.last().is_some_and(|code| code == "421") {
                return;
            }
        }
        panic!("a harvest was not ended: {replies:?}");
    };
    let at_once = ("WAYSTATION_LIMITS__UNKNOWN_RECIPIENT_DELAY_MS", "0");
    let denied = after_a_crowd(&[at_once], harvest);
    assert_eq!(denied.len(), 1, "{denied:?}");
    let denied = after_a_crowd(&[at_once, ("WAYSTATION_LIMITS__ENABLED", "false")], harvest);
    assert!(denied.is_empty(), "nobody is denied while limits are off: {denied:?}");
}
