//! `/ready` of a real relay: what makes it say no, what makes it warn, and how it comes back.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use hickory_resolver::proto::rr::RecordType;
use serde_json::{Value, json};

use super::get;
use crate::support::dns::{Dns, Trouble};
use crate::support::process::{RelayProcess, waystation};
use crate::support::{post, until};

fn ready(http: SocketAddr) -> (u16, Value) {
    let (status, _, body) = get(http, "/ready", "*/*");
    (status, serde_json::from_str(&body).expect("JSON"))
}

fn is_ready(http: SocketAddr) -> bool {
    ready(http) == (200, json!({ "status": "ready", "warnings": [] }))
}

fn says_no(http: SocketAddr, reason: &str) -> bool {
    ready(http) == (503, json!({ "status": "not_ready", "reasons": [reason], "warnings": [] }))
}

fn warns(http: SocketAddr, warning: &str) -> bool {
    ready(http) == (200, json!({ "status": "ready", "warnings": [warning] }))
}

/// One sample of `/metrics`.
fn sample(http: SocketAddr, name: &str) -> String {
    let (_, _, body) = get(http, "/metrics", "*/*");
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{body}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_stops_answering_is_a_reason_until_it_answers_again() {
    let dns = Dns::start().await;
    let servers = dns.address().to_string();
    let dir = tempfile::tempdir().expect("directory");
    let env = [
        ("WAYSTATION_VERIFY__ENABLED", "true"),
        ("WAYSTATION_DELIVERY__DNS_SERVERS", servers.as_str()),
        ("WAYSTATION_DELIVERY__DNS_PROBE_SECONDS", "1"),
    ];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let http = relay.http;
    let condition = r#"waystation_condition{condition="resolver_silent",effect="not_ready"}"#;
    until("it is ready", || is_ready(http)).await;
    until("it has asked", || dns.queries(".", RecordType::NS) > 1).await;
    assert!(is_ready(http));
    assert_eq!(sample(http, condition), "0");

    // It answers, and cannot: for mail that is the same.
    dns.trouble(".", Some(RecordType::NS), Some(Trouble::ServFail));
    until("silence is a reason", || says_no(http, "no name server answers")).await;
    assert_eq!(sample(http, condition), "1");
    assert_eq!(sample(http, "waystation_ready"), "0");
    let unanswered: u32 = sample(http, "waystation_dns_unanswered_probes").parse().expect("a number");
    assert!(unanswered >= 3, "one lost packet is no silence: {unanswered}");

    dns.trouble(".", Some(RecordType::NS), None);
    until("it is ready again", || is_ready(http)).await;
    drop(dns);
    until("nobody is there any more", || says_no(http, "no name server answers")).await;
    // Mail is still taken, unchecked.
    post::send(relay.smtp, "postmaster@mail.localhost", b"Subject: x\r\n\r\nhello\r\n").expect("accepted");
    assert_eq!(relay.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_nobody_needs_is_not_asked_and_not_missed() {
    let dns = Dns::start().await;
    let servers = dns.address().to_string();
    let dir = tempfile::tempdir().expect("directory");
    let env = [
        ("WAYSTATION_DELIVERY__DNS_SERVERS", servers.as_str()),
        ("WAYSTATION_DELIVERY__DNS_PROBE_SECONDS", "1"),
    ];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let asked_before = dns.queries(".", RecordType::NS);
    let (started, http) = (waystation::clock::monotonic(), relay.http);
    until("some seconds are over", || started.elapsed().as_secs() >= 4).await;
    assert_eq!(dns.queries(".", RecordType::NS), asked_before);
    assert!(is_ready(http));
    assert_eq!(relay.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_space_is_a_reason_and_senders_are_told_to_come_back() {
    let dir = tempfile::tempdir().expect("directory");
    let env = [("WAYSTATION_SPOOL__MIN_FREE_BYTES", "1000000000000000")];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let http = relay.http;
    until("space is a reason", || {
        let (status, said) = ready(http);
        status == 503 && said["reasons"] == json!(["storage is below its free-space floor"])
    })
    .await;
    let started = waystation::clock::monotonic();
    until("some seconds are over", || started.elapsed().as_secs() >= 3).await;
    assert_eq!(ready(http).1["warnings"], json!([]), "deliveries go on: what is stored may leave");
    assert_eq!(sample(http, r#"waystation_condition{condition="no_space",effect="not_ready"}"#), "1");
    assert_eq!(sample(http, "waystation_spool_min_free_bytes"), "1000000000000000");
    let refused = post::send(relay.smtp, "postmaster@mail.localhost", b"Subject: x\r\n\r\nhello\r\n");
    assert!(refused.as_ref().is_err_and(|reply| reply.starts_with("452")), "{refused:?}");
    assert_eq!(relay.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_deliveries_is_a_warning_that_keeps_the_operators_words_to_itself() {
    let dir = tempfile::tempdir().expect("directory");
    let data = dir.path().join("data");
    let relay = RelayProcess::start(&data);
    let http = relay.http;
    until("it is ready", || is_ready(http)).await;
    let cli = |args: &[&str]| {
        let done = waystation().arg("--data-dir").arg(&data).args(args).output().expect("runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    cli(&["delivery", "pause", "--reason", "moving house"]);
    until("it warns", || warns(http, "deliveries are paused")).await;
    assert_eq!(sample(http, "waystation_ready"), "1");
    cli(&["delivery", "resume"]);
    until("it does not warn any more", || is_ready(http)).await;
    assert_eq!(relay.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_runs_out_is_a_warning() {
    let dir = tempfile::tempdir().expect("directory");
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    // Long enough for the start, short enough for us.
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(8);
    let cert = params.self_signed(&key).expect("certificate");
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = dir.path().join(name);
        let options = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        options.expect("file").write_all(text.as_bytes()).expect("written");
        path.display().to_string()
    };
    let (cert, key) = (file("cert.pem", &cert.pem()), file("key.pem", &key.serialize_pem()));
    let env = [("WAYSTATION_TLS__CERT_FILE", cert.as_str()), ("WAYSTATION_TLS__KEY_FILE", key.as_str())];
    let relay = RelayProcess::start_with(&dir.path().join("data"), &env);
    let http = relay.http;
    until("it has run out", || warns(http, "the certificate has run out")).await;
    let condition = r#"waystation_condition{condition="certificate_expired",effect="warning"}"#;
    assert_eq!(sample(http, condition), "1");
    assert_eq!(relay.terminate(), 0);
}

/// A connection that was accepted while there were descriptors, and stays.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn ready(&mut self) -> (u16, Value) {
        self.0.get_mut().write_all(b"GET /ready HTTP/1.1\r\nhost: relay\r\n\r\n").expect("sent");
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a line");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            } else if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_without_descriptors_are_a_reason_until_there_are_some_again() {
    const DESCRIPTORS: usize = 80;
    let dir = tempfile::tempdir().expect("directory");
    let log = dir.path().join("log");
    let program = waystation();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" serve --data-dir \"$1\"")])
        .arg(program.get_program())
        .arg(dir.path().join("data"))
        .env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0")
        .env("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0")
        .env("WAYSTATION_LOG__FORMAT", "json")
        .env("WAYSTATION_LIMITS__ENABLED", "false")
        .env("WAYSTATION_VERIFY__ENABLED", "false")
        .env("WAYSTATION_SPOOL__MIN_FREE_BYTES", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).expect("log"));
    let mut child = command.spawn().expect("starts");
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).expect("log");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let named = |name: &str| events().into_iter().find(|event| event["event"] == name);
    until("it is started", || named("relay.started").is_some()).await;
    let started = named("relay.started").expect("started");
    let address = |name: &str| -> SocketAddr {
        started[name].as_str().expect("text").trim_matches(['[', ']']).parse().expect("an address")
    };
    let (http, smtp) = (address("http"), address("smtp"));
    let mut kept = Kept(BufReader::new(TcpStream::connect(http).expect("connects")));
    until("it is ready", || kept.ready().0 == 200).await;

    let crowd: Vec<_> =
        (0..DESCRIPTORS).map(|_| TcpStream::connect(smtp).expect("the backlog takes it")).collect();
    let down = json!(["the smtp listener cannot accept connections"]);
    until("the listener is down", || {
        let (status, said) = kept.ready();
        status == 503 && said["reasons"] == down
    })
    .await;
    // Operators are not told by `/ready` alone: their listener counts, too.
    let operator = UnixStream::connect(dir.path().join("data/admin.sock")).expect("the backlog takes it");
    until("the admin listener says so", || named("relay.admin.accept_failed").is_some()).await;
    drop(crowd);
    until("it is ready again", || kept.ready().0 == 200).await;
    let counted = sample(http, r#"waystation_listener_accept_failures_total{listener="admin"}"#);
    assert!(counted.parse::<u64>().is_ok_and(|failures| failures > 0), "{counted}");
    drop(operator);
    let failures = events().iter().filter(|event| event["event"] == "relay.ingress.accept_failed").count();
    assert!((1..20).contains(&failures), "a flood of failures is no flood of lines: {failures}");
    child.kill().expect("killed");
    child.wait().expect("ended");
}
