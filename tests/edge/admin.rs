//! The admin API over HTTP: rule U11, seen with real requests at a real process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use waystation::identity::key::SecretKey;

use crate::support::process::{RelayProcess, run_text, waystation};

/// Makes a token with the relay's own command; its file and itself.
fn token(dir: &Path) -> (PathBuf, String) {
    let file = dir.join("admin.token");
    let (code, said, error) = run_text(&["keys", "token", "--file", file.to_str().expect("path")]);
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    assert!(said.contains("0600"), "{said}");
    let token = std::fs::read_to_string(&file).expect("token").trim().to_owned();
    assert_eq!(token.len(), 43);
    (file, token)
}

/// Status, head and body of the answer to one request with these fields.
fn ask(to: SocketAddr, line: &str, fields: &[&str]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(to).expect("connects");
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    write!(stream, "{line} HTTP/1.1\r\n{fields}connection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn with_the_token_it_answers_and_without_it_nothing_does() {
    let dir = tempfile::tempdir().expect("directory"); // U11
    let (file, token) = token(dir.path());
    let data = dir.path().join("data");
    let env = [
        ("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", file.to_str().expect("path")),
        ("WAYSTATION_HOSTNAME", "relay.example"),
        ("WAYSTATION_LIMITS__DENY_WINDOW_SECONDS", "300"),
    ];
    let relay = RelayProcess::start_with(&data, &env);
    let http = relay.http;
    let bearer = format!("authorization: Bearer {token}");
    let bearer = bearer.as_str();
    let host = "host: relay.example";

    let (status, head, body) = ask(http, "GET /admin/spool/stats", &[host, bearer]);
    assert_eq!(status, 200, "{head}");
    assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok(), "{body}");
    assert!(
        head.contains("cache-control: no-store") && head.contains("x-content-type-options: nosniff"),
        "{head}"
    );
    assert!(!head.contains("access-control"), "{head}");

    for (line, fields, expected) in [
        ("GET /admin/spool/stats", vec![host], 401),
        ("GET /admin", vec![host], 401),
        ("GET /admin/no/such", vec![host], 401),
        ("OPTIONS /admin/spool/stats", vec![host, "origin: https://evil.example"], 403),
        ("GET /admin/spool/stats", vec!["host: evil.example", bearer], 403),
        ("POST /admin/delivery/pause", vec![host, bearer, "origin: https://evil.example"], 403),
        ("POST /admin/delivery/pause", vec![host, bearer, "sec-fetch-site: cross-site"], 403),
        ("GET /%61dmin/spool/stats", vec![host, bearer], 404),
        ("GET //admin/spool/stats", vec![host, bearer], 404),
        ("GET /admin/spool/items/../../mailboxes", vec![host, bearer], 404),
        ("GET /admin/spool/items/..%2f..%2f..%2fetc%2fpasswd/raw", vec![host, bearer], 400),
        ("GET /admin/mailboxes/..%2f..%2fspool", vec![host, bearer], 404),
    ] {
        let (status, head, body) = ask(http, line, &fields);
        assert_eq!(status, expected, "{line} {fields:?}: {head}\n{body}");
        assert!(!body.contains(&token) && !head.contains("access-control"), "{head}");
        assert_eq!(status == 401, head.contains("www-authenticate: bearer"), "{head}");
    }

    let forwarded = "x-forwarded-for: 203.0.113.9";
    for _ in 0..5 {
        let wrong = ask(http, "GET /admin/spool/stats", &[host, forwarded, "authorization: Bearer guess"]);
        assert_eq!(wrong.0, 401);
    }
    let (status, head, _) = ask(http, "GET /admin/spool/stats", &[host, forwarded, bearer]);
    assert!(status == 429 && head.contains("retry-after: "), "{head}");
    assert_eq!(ask(http, "GET /admin/spool/stats", &[host, bearer]).0, 200, "others are not refused");
    let metrics = ask(http, "GET /metrics", &[host]).2;
    for line in [
        r#"waystation_admin_http_requests_total{outcome="unauthorized"} 8"#,
        r#"waystation_admin_http_requests_total{outcome="rate_limited"} 1"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(relay.terminate(), 0);
}

#[test]
fn without_a_token_file_there_is_no_such_path() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = RelayProcess::start(dir.path());
    assert_eq!(ask(relay.http, "GET /admin/spool/stats", &["host: localhost"]).0, 404);
}

#[test]
fn nothing_in_the_clear_on_a_public_address() {
    let dir = tempfile::tempdir().expect("directory");
    let (file, token) = token(dir.path());
    let env = [
        ("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", file.to_str().expect("path")),
        ("WAYSTATION_HTTP__LISTEN", "0.0.0.0:0"),
    ];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let to = SocketAddr::from(([127, 0, 0, 1], relay.http.port()));
    let bearer = format!("authorization: Bearer {token}");
    let (status, _, body) = ask(to, "GET /admin/spool/stats", &["host: localhost", &bearer]);
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("HTTPS"), "{body}");
}

#[test]
fn a_token_that_others_know_or_guess_ends_the_start() {
    let dir = tempfile::tempdir().expect("directory");
    let (file, _) = token(dir.path());
    let start = || {
        let output = waystation()
            .args(["serve", "--data-dir"])
            .arg(dir.path().join("data"))
            .env("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", &file)
            .env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0")
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("mode");
    let (code, said) = start();
    assert!(
        code == Some(2) && said.contains("chmod 600") && said.contains("admin.http_token_file"),
        "{said}"
    );
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("mode");
    std::fs::write(&file, "letmein\n").expect("written");
    let (code, said) = start();
    assert!(code == Some(2) && said.contains("waystation keys token >"), "{said}");
    assert!(!said.contains("letmein"), "{said}");
}

#[test]
fn the_log_has_the_route_of_a_change_and_not_the_address_in_its_path() {
    let dir = tempfile::tempdir().expect("directory");
    let (file, token) = token(dir.path());
    let data = dir.path().join("data");
    let env = [("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", file.to_str().expect("path"))];
    let relay = RelayProcess::start_with(&data, &env);
    let key = SecretKey::from_seed(&[7; 32]).key_text().to_string();
    let command = |args: &[&str]| {
        let (code, _, error) = run_text(&[args, &["--data-dir", data.to_str().expect("path")]].concat());
        assert_eq!(code, 0, "{error}");
    };
    command(&["mailbox", "add", &key]);
    command(&["mailbox", "alias", "anna.secret@mail.localhost", &key]);
    let bearer = format!("authorization: Bearer {token}");
    for (target, expected) in [
        ("/admin/mailboxes/anna.secret%40mail.localhost/revoke", 200),
        ("/admin/mailboxes/anna.secret@mail.localhost/allow", 200),
        // Somebody's slip: no route, no change, and no address in the log either.
        ("/admin/mailboxes/anna.secret%40mail.localhost/sell", 404),
    ] {
        let (status, _, body) = ask(relay.http, &format!("POST {target}"), &["host: localhost", &bearer]);
        assert_eq!(status, expected, "{target}: {body}");
    }
    let (code, lines) = relay.terminate_with_log();
    assert_eq!(code, 0);
    let logged = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let changes = logged.filter(|line| line["event"] == "relay.admin.http.changed");
    let routes: Vec<_> = changes.map(|line| line["route"].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(routes, ["/admin/mailboxes/{name}/revoke", "/admin/mailboxes/{name}/allow"], "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("anna.secret")), "{lines:#?}");
}
