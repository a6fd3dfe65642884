//! The dashboard of a real relay: who gets in, what its pages cost, and what a browser sees.

mod browser;
mod stock;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use waystation::clock;

use crate::support::process::{RelayProcess, run_text};

/// What the protocol answers to a request that it does not know.
const NOT_FOUND: &str = r#"{"error":"not_found"}"#;

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// A field's value; empty when there is none.
    fn field(&self, name: &str) -> &str {
        let is_it = |line: &&str| line.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name));
        self.head.lines().skip(1).find(is_it).map_or("", |line| line[name.len() + 1..].trim())
    }
}

/// The answer to one request with these fields.
fn ask(to: SocketAddr, line: &str, fields: &[&str], body: &str) -> Answer {
    let mut stream = TcpStream::connect(to).expect("connects");
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    write!(stream, "{line} HTTP/1.1\r\n{fields}{length}connection: close\r\n\r\n{body}").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

const FORM: &str = "content-type: application/x-www-form-urlencoded";

/// Logs in; answers the field with the cookie.
fn log_in(to: SocketAddr, host: &str, token: &str) -> String {
    let answer = ask(to, "POST /login", &[host, FORM], &format!("token={token}"));
    assert_eq!(answer.status, 303, "{}", answer.head);
    format!("cookie: {}", answer.field("set-cookie").split(';').next().expect("a pair"))
}

#[test]
fn a_first_relay_shows_itself_on_this_machine_to_whoever_can_read_its_directory() {
    let dir = tempfile::tempdir().expect("directory"); // D6
    let relay = RelayProcess::start(dir.path());
    let (http, host) = (relay.http, "host: localhost");
    let file = dir.path().join("dashboard.token");
    assert_eq!(file.metadata().expect("a token").permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).expect("a token").trim().to_owned();

    let first = ask(http, "GET /", &[host], "");
    assert_eq!((first.status, first.field("location")), (303, "/login"));
    let cookie = log_in(http, host, &token);
    let page = ask(http, "GET /", &[host, &cookie], "");
    assert_eq!(page.status, 200, "{}", page.head);
    assert!(
        page.body.contains("Ready for mail") && page.body.contains("No message has come yet."),
        "{}",
        page.body
    );
    assert!(page.field("content-security-policy").starts_with("default-src 'none'; style-src 'self'"));

    for (line, fields) in [
        ("HEAD /", vec![host, &cookie]),
        ("POST /", vec![host, &cookie]),
        ("PUT /items", vec![host, &cookie]),
        ("GET /index.html", vec![host, &cookie]),
        ("GET /admin/spool/stats", vec![host, &cookie]),
        ("GET /", vec!["host: relay.example", &cookie]),
        ("GET /", vec![host, &cookie, "x-forwarded-for: 192.0.2.7"]),
        ("GET /", vec![host, &cookie, "via: 1.1 proxy"]),
    ] {
        let answer = ask(http, line, &fields, "");
        let expected = if line.starts_with("HEAD") { "" } else { NOT_FOUND };
        assert_eq!((answer.status, answer.body.as_str()), (404, expected), "{line} {fields:?}");
    }
    assert_eq!(relay.terminate(), 0);

    let relay = RelayProcess::start(dir.path());
    assert_eq!(std::fs::read_to_string(&file).expect("a token").trim(), token, "the next start keeps it");
    let answer = ask(relay.http, "GET /", &[host, &cookie], "");
    assert_eq!(answer.status, 303, "sessions end with the process");
}

#[test]
fn on_a_public_address_without_a_token_there_is_no_dashboard() {
    let dir = tempfile::tempdir().expect("directory");
    let env = [("WAYSTATION_HTTP__LISTEN", "0.0.0.0:0")];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let to = SocketAddr::from(([127, 0, 0, 1], relay.http.port()));
    for line in ["GET /", "GET /login", "GET /items", "POST /login"] {
        let answer = ask(to, line, &["host: localhost"], "");
        assert_eq!((answer.status, answer.body.as_str()), (404, NOT_FOUND), "{line}");
    }
    assert!(!dir.path().join("data/dashboard.token").exists(), "and no token for one");
}

#[test]
fn guesses_at_the_dashboard_and_at_the_api_count_together() {
    let dir = tempfile::tempdir().expect("directory"); // D2
    let file = dir.path().join("admin.token");
    let file = file.to_str().expect("path");
    assert_eq!(run_text(&["keys", "token", "--file", file]).0, 0);
    let token = std::fs::read_to_string(file).expect("token").trim().to_owned();
    let env = [
        ("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", file),
        ("WAYSTATION_HOSTNAME", "relay.example"),
        ("WAYSTATION_LIMITS__DENY_WINDOW_SECONDS", "300"),
    ];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let (http, host, from) = (relay.http, "host: relay.example", "x-forwarded-for: 203.0.113.9");
    let cookie = log_in(http, host, &token);
    for n in 0..5 {
        let status = if n % 2 == 0 {
            ask(http, "POST /login", &[host, from, FORM], "token=guess").status
        } else {
            ask(http, "GET /admin/spool/stats", &[host, from, "authorization: Bearer guess"], "").status
        };
        assert_eq!(status, if n % 2 == 0 { 403 } else { 401 });
    }
    assert_eq!(ask(http, "POST /login", &[host, from, FORM], &format!("token={token}")).status, 429);
    assert_eq!(ask(http, "GET /", &[host, &cookie], "").status, 200, "who is in stays in");
    let metrics = ask(http, "GET /metrics", &[host], "").body;
    for line in [
        r#"waystation_dashboard_logins_total{outcome="accepted"} 1"#,
        r#"waystation_dashboard_logins_total{outcome="refused"} 3"#,
        r#"waystation_dashboard_logins_total{outcome="rate_limited"} 1"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[test]
fn the_newest_are_listed_first_by_the_command_line_with_and_without_a_relay() {
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    let stock = stock::Stock { lanes: 3, items: 200, age_ms: 3_600_000 };
    let ids = stock::fill(&data, &stock, clock::wall());
    let listed = |args: &[&str]| -> Vec<String> {
        let data = data.to_str().expect("path");
        let all = [&["spool", "ls", "--newest", "--json", "--data-dir", data], args].concat();
        let (code, said, error) = run_text(&all);
        assert_eq!(code, 0, "{error}");
        let id = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["id"].as_str().map(str::to_owned)
        };
        said.lines().filter_map(id).collect()
    };
    let newest: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(listed(&["--limit", "5"]), newest[..5]);
    let relay = RelayProcess::start(&data);
    assert_eq!(listed(&["--limit", "150"]), newest[..150]);
    assert_eq!(listed(&["--from", "sender17@"]), [ids[17].clone()]);
    assert_eq!(listed(&["--lane", &stock::lane(1)]).len(), 67);
    assert_eq!(relay.terminate(), 0);
}
