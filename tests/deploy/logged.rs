//! A process with its log in a file; it ends with the test, and the log of a failed one is shown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::until;

/// See the module.
pub(super) struct Logged {
    pub(super) child: Child,
    log: PathBuf,
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.said());
        }
    }
}

impl Logged {
    pub(super) fn start(command: &mut Command, log: PathBuf) -> Self {
        let out = std::fs::File::create(&log).expect("log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).spawn();
        Self { child: child.expect("it starts"), log }
    }

    /// `serve` of that program on `dir/data` and free ports, quick enough for tests, with these settings besides.
    pub(super) async fn relay(mut program: Command, dir: &Path, more: &[(&str, &str)]) -> Self {
        program.args(["serve", "--data-dir"]).arg(dir.join("data"));
        let settings = [
            ("HTTP__LISTEN", "127.0.0.1:0"),
            ("SMTP__LISTEN", "127.0.0.1:0"),
            ("LOG__FORMAT", "json"),
            ("SPOOL__MIN_FREE_BYTES", "0"),
            ("VERIFY__ENABLED", "false"), // there is no DNS
        ];
        for (name, value) in settings.iter().chain(more) {
            program.env(format!("WAYSTATION_{name}"), value);
        }
        let relay = Self::start(&mut program, dir.join("relay.log"));
        until("the relay has started", || relay.event("relay.started", "event", "relay.started").is_some())
            .await;
        relay
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The first event of that name in which the field has that value.
    pub(super) fn event(&self, name: &str, field: &str, value: &str) -> Option<Value> {
        let said = self.said();
        let mut events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.find(|event| event["event"] == name && event[field] == value)
    }

    /// Where a relay listens: `smtp` or `http`.
    pub(super) fn address(&self, what: &str) -> SocketAddr {
        let started = self.event("relay.started", "event", "relay.started").expect("started");
        let text = started[what].as_str().expect("an address");
        text.trim_matches(['[', ']']).parse().expect("an address")
    }
}
