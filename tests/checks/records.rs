//! `dns check` and `/admin/dns` against a name server whose answers a scenario chooses.

use std::path::Path;

use hickory_resolver::proto::rr::RecordType;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use waystation::admin::client::Client;

use super::{lines, of, private, waystation};
use crate::support::dns::{Dns, Trouble};
use crate::support::process::RelayProcess;

const ADDRESS: &str = "9.9.9.25";

/// All is well with `our.example`, as far as a relay without TLS and keys needs.
async fn world() -> Dns {
    let dns = Dns::start().await;
    dns.mx("our.example", &[(10, "mx.our.example")]);
    dns.host("mx.our.example", &[ADDRESS]);
    dns.txt("mx.our.example", &["v=spf1 a -all"]);
    dns.txt("our.example", &["v=spf1 mx -all"]);
    dns.txt("_dmarc.our.example", &["v=DMARC1; p=quarantine"]);
    dns.ptr(ADDRESS, "mx.our.example");
    dns
}

fn config(dir: &Path, dns: &Dns, more: &str) -> String {
    let file = dir.join("relay.toml");
    let text = format!(
        "data_dir = \"{}\"\nhostname = \"mx.our.example\"\ndomains = [\"our.example\"]\n\
         [delivery]\ndns_servers = [\"{}\"]\n{more}",
        dir.join("data").display(),
        dns.address()
    );
    private(&file, &text);
    file.display().to_string()
}

async fn check(config: &str, args: &[&str]) -> (i32, String, String) {
    let mut command = waystation();
    command.args(["dns", "check", "--config", config, "--address", ADDRESS]).args(args);
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_check_ends_with_1_when_something_is_wrong_and_says_what_to_do() {
    let (dns, dir) = (world().await, tempfile::tempdir().expect("directory"));
    let config = config(dir.path(), &dns, "");
    let (code, out, err) = check(&config, &["--no-egress"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("ok    MX     our.example\n"), "{out}");
    assert!(out.contains("not signed: `waystation keys dkim`") || out.contains("is not signed"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");

    dns.mx("our.example", &[(0, ".")]);
    dns.ptr(ADDRESS, "host-9-9-9-25.isp.example");
    dns.host("host-9-9-9-25.isp.example", &[ADDRESS]);
    let (code, out, _) = check(&config, &["--no-egress", "--json"]).await;
    let verdicts = lines(&out);
    assert_eq!(code, 1);
    let mx = of(&verdicts, "type", "MX");
    assert_eq!(
        (mx["status"].as_str(), mx["want"].as_str(), mx["found"][0].as_str()),
        (Some("wrong"), Some("10 mx.our.example"), Some("0 ."))
    );
    assert!(mx["advice"].as_str().is_some_and(|advice| advice.contains("null MX")));
    assert_eq!(of(&verdicts, "type", "PTR")["status"], "risky");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_that_cannot_leave_is_the_providers_fault_and_said_so() {
    let (dns, dir) = (world().await, tempfile::tempdir().expect("directory"));
    let config = config(dir.path(), &dns, "");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let open = listener.local_addr().expect("address").to_string();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 far.example ESMTP\r\n").await;
        }
    });
    let closed =
        TcpListener::bind("127.0.0.1:0").await.expect("port").local_addr().expect("address").to_string();
    let (code, out, _) = check(&config, &["--egress", &open, "--json"]).await;
    let verdicts = lines(&out);
    let smtp = of(&verdicts, "type", "SMTP");
    assert_eq!(
        (code, smtp["status"].as_str(), smtp["found"][0].as_str()),
        (0, Some("ok"), Some("220 far.example ESMTP"))
    );
    let (code, out, _) = check(&config, &["--egress", &closed, "--json"]).await;
    assert_eq!((code, of(&lines(&out), "type", "SMTP")["status"].as_str()), (1, Some("wrong")));
    let (code, out, _) = check(&config, &["--egress", &closed, "--egress", &open, "--json"]).await;
    assert_eq!(
        (code, of(&lines(&out), "name", &closed)["status"].as_str()),
        (0, Some("info")),
        "one open door is enough"
    );
    // Without being told whom to try, the large ones are looked up; here nobody knows them.
    let (code, out, _) = check(&config, &["--json"]).await;
    assert_eq!(code, 0, "{out}");
    assert!(dns.queries("gmail.com", RecordType::MX) > 0);
    assert_eq!(check(&config, &["--egress", "nonsense"]).await.0, 2);
    assert_eq!(check(&config, &["--domain", "else.example"]).await.0, 2);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_fails_makes_records_unknown_and_not_wrong() {
    let (dns, dir) = (world().await, tempfile::tempdir().expect("directory"));
    let config = config(dir.path(), &dns, "");
    for name in ["our.example", "mx.our.example", "_dmarc.our.example", "25.9.9.9.in-addr.arpa"] {
        dns.trouble(name, None, Some(Trouble::ServFail));
    }
    let (code, out, _) = check(&config, &["--no-egress", "--json"]).await;
    assert_eq!(code, 0, "{out}");
    let whole = Dns::start().await;
    let dead = whole.address();
    drop(whole);
    let config = config.replace("relay.toml", "dead.toml");
    let text = std::fs::read_to_string(dir.path().join("relay.toml")).expect("configuration");
    private(
        Path::new(&config),
        &format!(
            "{}[dkim]\nenabled = true\nrsa_key_file = \"none\"\n",
            text.replace(&dns.address().to_string(), &dead.to_string())
        ),
    );
    assert_eq!(check(&config, &["--no-egress"]).await.0, 75, "nobody answered, so nothing is known");
    for kind in ["MX", "A", "PTR"] {
        assert_eq!(of(&lines(&out), "type", kind)["status"], "unknown", "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_asks_the_dns_once_in_five_minutes() {
    let (dns, dir) = (world().await, tempfile::tempdir().expect("directory"));
    let server = dns.address().to_string();
    let data = dir.path().to_owned();
    let relay = tokio::task::spawn_blocking(move || {
        let env = [
            ("WAYSTATION_HOSTNAME", "mx.our.example"),
            ("WAYSTATION_DOMAINS", "our.example"),
            ("WAYSTATION_DELIVERY__DNS_SERVERS", server.as_str()),
        ];
        RelayProcess::start_with(&data, &env)
    });
    let relay = relay.await.expect("it starts");
    let client = Client::find(&dir.path().join("admin.sock")).await.expect("allowed").expect("it runs");
    // Two at once are one look.
    let (one, two) = tokio::join!(client.get("/dns"), client.get("/dns?fresh=true"));
    let (one, two): (Value, Value) = (one.expect("answer"), two.expect("answer"));
    assert_eq!(one, two);
    assert_eq!(dns.queries("our.example", RecordType::MX), 1);
    let records = one["records"].as_array().expect("records").clone();
    assert_eq!(of(&records, "type", "MX")["status"], "ok");
    assert!(one["checked_at"].as_str().is_some_and(|at| at.ends_with('Z')) && one["ok"].is_boolean());
    for target in ["/dns", "/dns?fresh=true"] {
        assert_eq!(client.get(target).await.expect("answer"), one, "{target}");
    }
    assert_eq!(dns.queries("our.example", RecordType::MX), 1, "asked afresh, at most every 30 seconds");
    assert!(client.get("/dns?fresh=perhaps").await.is_err());
    let wanted = client.get("/dns/wanted").await.expect("answer");
    assert!(
        wanted["records"].as_array().is_some_and(|all| all.iter().any(|r| r["value"] == "v=spf1 mx -all"))
    );
    let ended = tokio::task::spawn_blocking(move || relay.terminate()).await.expect("it ends");
    assert_eq!(ended, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_show_says_what_it_does_not_know_on_standard_error() {
    let (dns, dir) = (Dns::start().await, tempfile::tempdir().expect("directory"));
    let config = config(dir.path(), &dns, "[dkim]\nenabled = true\nrsa_key_file = \"/nonexistent/key\"\n");
    let show = |args: &[&str]| {
        let output =
            waystation().args(["dns", "show", "--config", &config]).args(args).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = show(&["--address", ADDRESS]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("no DKIM record") && err.contains("/nonexistent/key"), "{err}");
    assert!(out.contains("mx.our.example. 3600 IN A 9.9.9.25\n"), "{out}");
    let (_, out, _) = show(&["--address", ADDRESS, "--format", "json"]);
    assert_eq!(of(&lines(&out), "type", "MX")["value"], "10 mx.our.example");
    let (_, out, _) = show(&["--address", ADDRESS, "--format", "table"]);
    assert!(out.contains("  TXT   our.example\n        v=spf1 mx -all\n"), "{out}");
    let local = waystation().args(["dns", "show", "--data-dir"]).arg(dir.path()).output().expect("it runs");
    assert_eq!(local.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&local.stderr).contains("set `hostname` and `domains`"));
    assert_eq!(dns.queries_total(), 0, "it asks nobody");
}
