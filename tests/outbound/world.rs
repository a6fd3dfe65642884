//! A small Internet for one relay: the real binary, a name server, mail exchangers that do as they are told.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use waystation::clock::monotonic;
use waystation::identity::key::SecretKey;

use crate::support::dns::Dns;
use crate::support::line::{Line, Log, Manner};
use crate::support::process::waystation;
use crate::support::sink::Sink;

/// Longest wait for the relay to start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// The relay's own mail domain.
pub(super) const OUR: &str = "our.test";

/// What a scenario may change about the relay; the defaults suit impatient tests.
pub(super) struct Plan {
    /// Lines of the configuration's `[delivery]`, without those that [`World`] sets itself.
    pub(super) delivery: String,
    /// Lines of `[limits]`.
    pub(super) limits: String,
    /// More of the file, with its table headers.
    pub(super) more: String,
    /// Addresses of the sink.
    pub(super) hosts: Vec<&'static str>,
    /// The sink's receive window is a few kilobytes.
    pub(super) narrow: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            delivery:
                "retry_schedule_seconds = [1]\ngreylist_wait_seconds = 1\nfinal_dot_timeout_seconds = 3\n\
                       timeouts_percent = 2\n"
                    .to_owned(),
            limits: "enabled = false\n".to_owned(),
            more: String::new(),
            hosts: vec!["127.0.0.2", "127.0.0.3"],
            narrow: false,
        }
    }
}

/// Everything around the relay; it stays while the relay comes and goes.
pub(super) struct World {
    pub(super) dns: Dns,
    pub(super) sink: Sink,
    dir: tempfile::TempDir,
}

/// The relay's process; killed when dropped.
pub(super) struct Relay {
    child: Child,
    pub(super) http: SocketAddr,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(Plan::default()).await
    }

    pub(super) async fn with(plan: Plan) -> Self {
        let dns = Dns::start().await;
        let sink = if plan.narrow {
            Sink::start_narrow(&plan.hosts).await
        } else {
            Sink::start_on(&plan.hosts).await
        };
        let dir = tempfile::tempdir().expect("temporary directory");
        let this = Self { dns, sink, dir };
        this.configure(&plan);
        this
    }

    /// Writes another configuration, for the next start.
    pub(super) fn configure(&self, plan: &Plan) {
        self.configure_for(plan, self.sink.port());
    }

    /// The same with mail exchangers on another port.
    pub(super) fn configure_for(&self, plan: &Plan, port: u16) {
        let text = format!(
            "hostname = \"relay.{OUR}\"\ndomains = [\"{OUR}\"]\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = [\"127.0.0.1:0\"]\n\
             [spool]\nmin_free_bytes = 0\n[log]\nformat = \"json\"\nlevel = \"info\"\n\
             [delivery]\ndns_servers = [\"{dns}\"]\nport = {port}\nallow_private_targets = true\n{delivery}\
             [limits]\n{limits}{more}",
            dns = self.dns.address(),
            delivery = plan.delivery,
            limits = plan.limits,
            more = plan.more,
        );
        fs::write(self.path().join("waystation.toml"), text).expect("written");
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the relay on what was left by the one before.
    pub(super) async fn start(&self) -> Relay {
        self.start_dying_at(None).await.expect("the relay starts")
    }

    /// The same with more environment.
    pub(super) async fn start_with(&self, env: &[(&str, &Path)]) -> Relay {
        self.launch(env, false).await.expect("the relay starts")
    }

    /// The same; it dies at a named point (`name:count`). `None` when it died before it was up.
    pub(super) async fn start_dying_at(&self, point: Option<&str>) -> Option<Relay> {
        let env = point.map(|point| ("WAYSTATION_CRASH_AT", Path::new(point)));
        self.launch(env.as_slice(), point.is_some()).await
    }

    async fn launch(&self, env: &[(&str, &Path)], may_die: bool) -> Option<Relay> {
        let log = self.path().join("log");
        let seen = fs::metadata(&log).map_or(0, |of| of.len());
        let to = fs::OpenOptions::new().create(true).append(true).open(&log).expect("log");
        let mut command = waystation();
        command
            .args(["serve", "--config"])
            .arg(self.path().join("waystation.toml"))
            .arg("--data-dir")
            .arg(self.path().join("data"))
            .env("WAYSTATION_VERIFY__ENABLED", "false") // of no interest here, and it would ask the same name server
            .stdout(Stdio::null())
            .stderr(to);
        command.envs(env.iter().copied());
        let mut child = command.spawn().expect("the binary starts");
        let until = monotonic() + START_PATIENCE;
        loop {
            let started = self.events_from(seen).into_iter().find(|event| event["event"] == "relay.started");
            if let Some(started) = started {
                let address = |name: &str| {
                    let text = started[name].as_str().expect("an address").trim_matches(['[', ']']);
                    text.parse().expect("an address")
                };
                return Some(Relay { child, http: address("http") });
            }
            if child.try_wait().expect("waited").is_some() {
                let log = fs::read_to_string(&log).expect("log");
                assert!(may_die, "the relay ended at its start:\n{log}");
                return None;
            }
            assert!(monotonic() < until, "the relay never started");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All of the log so far.
    pub(super) fn events(&self) -> Vec<Value> {
        self.events_from(0)
    }

    /// The relay's log from an offset, one JSON object per line; lines torn by a kill are left out.
    fn events_from(&self, offset: u64) -> Vec<Value> {
        let log = fs::read(self.path().join("log")).unwrap_or_default();
        let from = usize::try_from(offset).expect("small").min(log.len());
        log[from..]
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    /// All submissions, as an operator sees them; the relay must have ended, so that the files themselves are read.
    pub(super) fn submissions(&self) -> Vec<Record> {
        let listed = self.cli(&["spool", "ls", "--direction", "out", "--limit", "1000000"]);
        let record = |value: &Value| Record {
            id: value["id"].as_str().expect("an id").to_owned(),
            rcpt_to: value["rcpt_to"].as_str().expect("a recipient").to_owned(),
            result: value["result"].as_str().map(str::to_owned),
        };
        listed.iter().map(record).collect()
    }

    /// `spool show ID --json`.
    pub(super) fn show(&self, id: &str) -> Value {
        self.cli(&["spool", "show", id]).remove(0)
    }

    /// Runs the CLI on this relay's data, with `--json`; one value per line.
    fn cli(&self, args: &[&str]) -> Vec<Value> {
        let mut command = waystation();
        command.arg("--config").arg(self.path().join("waystation.toml"));
        command.arg("--data-dir").arg(self.path().join("data")).args(args).arg("--json");
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // 3: nothing matched.
        let is_done = matches!(output.status.code(), Some(0 | 3));
        assert!(is_done, "{args:?} failed:\n{said}{}", String::from_utf8_lossy(&output.stderr));
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// A submission as the spool has it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) rcpt_to: String,
    /// `sent`, `failed`, `indeterminate`; `None` while it is open.
    pub(super) result: Option<String>,
}

impl Relay {
    /// A line of the gateway with this key; the relay is up, so it must work.
    pub(super) async fn line(&self, key: &SecretKey, manner: Manner, log: &Log) -> Line {
        Line::open(self.http, key, manner, log).await.expect("logged in")
    }

    /// A number of `/metrics`, by its name with its labels.
    pub(super) fn number(&self, name: &str) -> String {
        let request = "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n";
        let mut stream = TcpStream::connect(self.http).expect("connects");
        stream.write_all(request.as_bytes()).expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let found = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {name} in\n{answer}")).to_owned()
    }

    /// `kill -9`.
    pub(super) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }

    /// SIGTERM, and waits for an orderly end.
    pub(super) async fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        crate::support::until("the relay has ended", || self.has_ended()).await;
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waited").is_some()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gateway's key by number.
pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// The address that belongs to a key.
pub(super) fn address(key: &SecretKey) -> String {
    key.key_text().address(OUR)
}

/// A message of that gateway, to be counted at the sink under `test_id`.
pub(super) fn message(from: &str, to: &str, test_id: &str) -> Vec<u8> {
    format!(
        "X-Test-Id: {test_id}\r\nFrom: <{from}>\r\nTo: <{to}>\r\nSubject: {test_id}\r\n\
         Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{test_id}@{OUR}>\r\n\r\nbody of {test_id}\r\n.\r\nend\r\n"
    )
    .into_bytes()
}
