//! Chromium in front of a relay with a hundred thousand messages, one gateway, mail in and mail out.
//!
//! The steps are in `walk.mjs`: every page, search, changes with their confirmation, wrong tokens, the keyboard, a phone, the dark,
//! without script, and axe-core on each page. Pictures of it go to `target/dashboard/`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waystation::clock;

use super::stock::{Stock, fill, lane};
use super::{ask, log_in};
use crate::layering::root;
use crate::support::dns::Dns;
use crate::support::home::Home;
use crate::support::post;
use crate::support::process::{run_text, waystation};
use crate::support::sink::{Act, Script, Sink};
use crate::support::until;

/// Where Debian puts it.
const CHROMIUM: &str = "/usr/bin/chromium";
/// Messages in the spool before the relay starts.
const ITEMS: usize = 100_000;
const LANES: usize = 200;
const DAY_MS: u64 = 86_400_000;

/// What is missing for a browser, if anything is.
fn missing() -> Option<String> {
    let modules = root().join("target/peers/node_modules");
    let runs = |program: &str| {
        let found =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    if !Path::new(CHROMIUM).is_file() {
        return Some(format!("{CHROMIUM} is not installed"));
    }
    if !runs("node") {
        return Some("node is not installed".to_owned());
    }
    let absent = ["playwright-core", "axe-core"].into_iter().find(|name| !modules.join(name).is_dir());
    absent.map(|name| format!("npm {name} is not installed in target/peers"))
}

/// A relay whose log goes to a file: it says more than a pipe holds.
struct Relay {
    log: PathBuf,
    child: Child,
    http: SocketAddr,
    smtp: SocketAddr,
}

impl Relay {
    async fn start(dir: &Path, env: &[(&str, &str)]) -> Self {
        let log = dir.join("log");
        let child = waystation()
            .args(["serve", "--data-dir"])
            .arg(dir.join("data"))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("log"))
            .spawn()
            .expect("the binary starts");
        let mut started = Value::Null;
        until("the relay has started", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            started = lines.into_iter().find(|event| event["event"] == "relay.started").unwrap_or_default();
            !started.is_null()
        })
        .await;
        let address = |name: &str| {
            let text = started[name].as_str().expect("an address").trim_matches(['[', ']']);
            text.parse().expect("an address")
        };
        Self { http: address("http"), smtp: address("smtp"), log, child }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let last = log.lines().rev().take(30).collect::<Vec<_>>();
            eprintln!("what the relay said last, backwards:\n{}", last.join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The relay and everything around it.
struct Scene {
    relay: Relay,
    dir: tempfile::TempDir,
    token: String,
    home: Home,
    /// Ids for the steps.
    ids: Value,
    _dns: Dns,
    _sink: Sink,
    _running: crate::support::home::Running,
}

const HOST: &str = "host: localhost";

impl Scene {
    async fn set() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let data = dir.path().join("data");
        let stock = Stock { lanes: LANES, items: ITEMS, age_ms: 5 * DAY_MS };
        let until = waystation::clock::wall();
        let ids = fill(&data, &stock, spool::ids::WallMs(until.0 - 3_600_000));
        let (dns, sink) = (Dns::start().await, Sink::start_on(&["127.0.0.2"]).await);
        for domain in ["taken.test", "refused.test", "later.test"] {
            dns.mail_domain(domain, "127.0.0.2");
        }
        sink.play(
            Script::usual()
                .on_rcpt("nobody@refused.test", Act::say("550 5.1.1 <b>no</b> such mailbox here"))
                .on_rcpt("busy@later.test", Act::say("450 4.2.1 mailbox busy, come again")),
        );
        let token_file = dir.path().join("admin.token");
        let token_text = token_file.to_str().expect("path");
        assert_eq!(run_text(&["keys", "token", "--file", token_text]).0, 0);
        let token = fs::read_to_string(&token_file).expect("token").trim().to_owned();
        let (name_server, port) = (dns.address().to_string(), sink.port().to_string());
        let relay = Relay::start(
            dir.path(),
            &[
                ("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0"),
                ("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0"),
                ("WAYSTATION_LOG__FORMAT", "json"),
                ("WAYSTATION_SPOOL__MIN_FREE_BYTES", "0"),
                ("WAYSTATION_VERIFY__ENABLED", "false"),
                ("WAYSTATION_ADMIN__HTTP_TOKEN_FILE", token_text),
                ("WAYSTATION_HOSTNAME", "mx.our.test"),
                ("WAYSTATION_DOMAINS", "our.test"),
                ("WAYSTATION_LIMITS__ENABLED", "true"),
                ("WAYSTATION_LIMITS__DENY_WINDOW_SECONDS", "300"),
                ("WAYSTATION_DELIVERY__DNS_SERVERS", &name_server),
                ("WAYSTATION_DELIVERY__PORT", &port),
                ("WAYSTATION_DELIVERY__ALLOW_PRIVATE_TARGETS", "true"),
                ("WAYSTATION_DELIVERY__RETRY_SCHEDULE_SECONDS", "1,600"),
                ("WAYSTATION_DELIVERY__GREYLIST_WAIT_SECONDS", "1"),
            ],
        )
        .await;
        let maildir =
            "relay_name = \"mx.our.test\"\nmail_domain = \"our.test\"\n[maildir]\npath = \"Maildir\"\n";
        let home = Home::with(&format!("ws://{}/ws", relay.http), maildir);
        let running = home.start(None);
        let mut scene = Self {
            relay,
            dir,
            token,
            home,
            ids: json!({ "stock": ids }),
            _dns: dns,
            _sink: sink,
            _running: running,
        };
        scene.happen().await;
        scene
    }

    fn cli(&self, args: &[&str]) -> Vec<Value> {
        let output = waystation()
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(args)
            .arg("--json")
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Mail in and mail out, some of it in trouble.
    async fn happen(&mut self) {
        let mut key = String::new();
        until("the gateway is there", || {
            let mailboxes = self.cli(&["mailbox", "ls"]);
            let there = mailboxes.iter().find(|mailbox| mailbox["connected"] == true);
            key = there.and_then(|mailbox| mailbox["lane"].as_str()).unwrap_or("").to_owned();
            !key.is_empty()
        })
        .await;
        let address = format!("{key}@our.test");
        let subject = "Subject: Minutes of the meeting <b>on Monday</b>";
        let text = format!(
            "From: \"Ada\" <ada@far.test>\r\nTo: <{address}>\r\n{subject}\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\nHello.\r\n"
        );
        let delivered = post::send(self.relay.smtp, &address, text.as_bytes()).expect("taken");
        until("it is delivered", || self.cli(&["spool", "ls", "--id", &delivered])[0]["state"] == "acked")
            .await;
        for (to, state) in
            [("you@taken.test", "sent"), ("nobody@refused.test", "failed"), ("busy@later.test", "ready")]
        {
            let sent = self.home.send(&[to], "Subject: An offer\n\nFive barrels.\n");
            assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
            let mut found = Value::Null;
            until(&format!("mail to {to} is {state}"), || {
                found = self
                    .cli(&["spool", "ls", "--newest", "--direction", "out", "--to", to])
                    .into_iter()
                    .next()
                    .unwrap_or_default();
                let tried = found["attempts_made"].as_u64().unwrap_or(0);
                found["state"] == state && tried >= if state == "ready" { 2 } else { 1 }
            })
            .await;
            self.ids[state] = found["id"].clone();
        }
        self.ids["delivered"] = delivered.into();
        self.ids["gateway"] = key.into();
        self.ids["lane"] = lane(3).into();
    }
}

/// How long the answer to a request takes.
fn timed(relay: &Relay, path: &str, cookie: &str) -> (Duration, usize) {
    let begun: Instant = clock::monotonic();
    let answer = ask(relay.http, &format!("GET {path}"), &[HOST, cookie], "");
    assert_eq!(answer.status, 200, "{path}: {}", answer.head);
    (clock::monotonic().duration_since(begun), answer.body.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_finds_his_way_with_a_hundred_thousand_messages_behind_it() {
    if let Some(why) = missing() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let scene = Scene::set().await;
    let cookie = log_in(scene.relay.http, HOST, &scene.token);
    for path in ["/", "/items", "/lanes", "/items?q=sender77777%40", "/items?q=sender4%40"] {
        let (took, bytes) = timed(&scene.relay, path, &cookie);
        println!("{path}: {} ms, {} KiB, with {ITEMS} messages", took.as_millis(), bytes / 1024);
    }
    let pictures: PathBuf = root().join("target/dashboard");
    fs::create_dir_all(&pictures).expect("directory");
    let plan = json!({
        "url": format!("http://localhost:{}", scene.relay.http.port()),
        "smtp": { "host": scene.relay.smtp.ip().to_string(), "port": scene.relay.smtp.port() },
        "token": scene.token,
        "ids": { "delivered": scene.ids["delivered"], "sent": scene.ids["sent"], "failed": scene.ids["failed"],
                 "waiting": scene.ids["ready"], "gateway": scene.ids["gateway"], "lane": scene.ids["lane"],
                 "old": scene.ids["stock"][77_777] },
        "absent": lane(LANES),
        "chromium": CHROMIUM,
        "modules": root().join("target/peers/node_modules"),
        "pictures": pictures,
    });
    let file = scene.dir.path().join("plan.json");
    fs::write(&file, plan.to_string()).expect("written");
    let walk = Command::new("node")
        .arg(root().join("tests/dashboard/walk.mjs"))
        .arg(&file)
        .output()
        .expect("node runs");
    let said = String::from_utf8_lossy(&walk.stdout);
    println!("{said}");
    assert!(walk.status.success(), "{said}\n{}", String::from_utf8_lossy(&walk.stderr));
    assert!(said.contains("walk: done"), "{said}");
    drop(cookie);
}
