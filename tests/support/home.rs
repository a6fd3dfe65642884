//! A gateway as a process: the real binary, its directory, its Maildir.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use super::process::{Launch, waystation};

/// Crash points in the gateway at which order carries a promise, in the order a message passes them.
pub(crate) const GATEWAY_POINTS: [&str; 8] = [
    "gateway.item.received",
    "gateway.maildir.before_file_sync",
    "gateway.maildir.before_rename",
    "gateway.maildir.after_rename",
    "gateway.memory.before_write",
    "gateway.memory.after_sync",
    "gateway.before_ack",
    "gateway.after_ack",
];

/// A gateway's directory with key and configuration.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// A running gateway; killed when dropped.
pub(crate) struct Running {
    child: Child,
}

impl Home {
    /// A gateway for `relay_url` that delivers into its Maildir.
    pub(crate) fn new(relay_url: &str) -> Self {
        Self::with(relay_url, "[maildir]\npath = \"Maildir\"\n")
    }

    /// A gateway with these lines at the end of its configuration.
    pub(crate) fn with(relay_url: &str, rest: &str) -> Self {
        Self::within(&std::env::temp_dir(), relay_url, rest)
    }

    /// The same in a new directory below `parent`.
    pub(crate) fn within(parent: &Path, relay_url: &str, rest: &str) -> Self {
        let dir = tempfile::tempdir_in(parent).expect("temporary directory");
        let home = Self { dir };
        let made = waystation()
            .args(["gateway", "bootstrap", relay_url, "--offline", "--dir"])
            .arg(home.path())
            .output()
            .expect("started");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        home.configure(relay_url, rest);
        home
    }

    /// Writes another configuration beside the same key.
    pub(crate) fn configure(&self, relay_url: &str, rest: &str) {
        self.configure_saying(relay_url, "debug", rest);
    }

    /// The same; it logs from `level` on.
    pub(crate) fn configure_saying(&self, relay_url: &str, level: &str, rest: &str) {
        // Short delays: scenarios are about order, not about patience.
        let text = format!(
            "relay_url = \"{relay_url}\"\nreconnect_base_delay_ms = 10\nreconnect_max_delay_ms = 50\n\
             log_level = \"{level}\"\n{rest}"
        );
        fs::write(self.config(), text).expect("written");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The directory stays when this is dropped.
    pub(crate) fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("gateway.toml")
    }

    /// Starts it; `crash_at` names a point at which it ends (`name:count`).
    pub(crate) fn start(&self, crash_at: Option<&str>) -> Running {
        self.start_as(&Launch::dying_at(crash_at))
    }

    /// Starts it with something around it.
    pub(crate) fn start_as(&self, launch: &Launch) -> Running {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).expect("log");
        let mut command = launch.command();
        command.args(["gateway", "run", "--config"]).arg(self.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Running { child: command.spawn().expect("started") }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Runs `gateway status --json`.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        let told = waystation()
            .args(["gateway", "status", "--json", "--config"])
            .arg(self.config())
            .output()
            .expect("started");
        told.status.success().then(|| serde_json::from_slice(&told.stdout).expect("JSON"))
    }

    /// Runs `gateway send --json` with this on standard input.
    pub(crate) fn send(&self, args: &[&str], input: &str) -> Output {
        let mut sending = waystation()
            .args(["gateway", "send", "--json", "--config"])
            .arg(self.config())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        // One that refuses its arguments does not read.
        let _ = sending.stdin.take().expect("piped").write_all(input.as_bytes());
        sending.wait_with_output().expect("waited")
    }

    /// Runs `gateway status --json ID`.
    pub(crate) fn submission(&self, id: &str) -> Option<serde_json::Value> {
        let told = waystation()
            .args(["gateway", "status", id, "--json", "--config"])
            .arg(self.config())
            .output()
            .expect("started");
        told.status.success().then(|| serde_json::from_slice(&told.stdout).expect("JSON"))
    }

    /// Messages in `new/` and `cur/` without the gateway's own field: contents by item id. Panics when one id is there
    /// twice.
    pub(crate) fn maildir(&self) -> HashMap<String, Vec<u8>> {
        let mut found = HashMap::new();
        for folder in ["new", "cur"] {
            for name in self.names(folder) {
                let bytes = fs::read(self.path().join("Maildir").join(folder).join(&name)).expect("read");
                let id = name.split("-W").nth(1).and_then(|rest| rest.split('.').next()).expect("an item id");
                let bytes = untop(&bytes).to_vec();
                assert!(found.insert(id.to_owned(), bytes).is_none(), "item {id} is there twice");
            }
        }
        found
    }

    /// Names in one folder of the Maildir, sorted.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path().join("Maildir").join(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the gateway logged:\n{}", self.log());
        }
    }
}

impl Running {
    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(sent.success());
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waited")
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        super::until("the gateway has ended", || {
            status = self.has_ended();
            status.is_some()
        })
        .await;
        status.expect("ended")
    }

    /// SIGTERM, if it is still there to hear it.
    pub(crate) fn ask_to_stop(&self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &pid]).stderr(Stdio::null()).status();
    }

    /// SIGTERM, and waits for an orderly end.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM");
        assert!(self.ended().await.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A delivered message without the field that the gateway puts on top of each item; a report on our own mail has none.
pub(crate) fn untop(bytes: &[u8]) -> &[u8] {
    if !bytes.starts_with(b"Waystation-Attestation: ") {
        return bytes;
    }
    let ends = bytes.windows(3).position(|three| three.starts_with(b"\r\n") && !b"\t ".contains(&three[2]));
    // An empty message ends with the field.
    ends.map_or(&[], |at| &bytes[at + 2..])
}
