//! The real relay with a configuration file that changes and a log that can be searched; it keeps its process id when it
//! hands over.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use waystation::identity::key::SecretKey;

use crate::support::process::waystation;
use crate::support::until;

/// The relay's mail domain.
pub(super) const OUR: &str = "our.test";
/// Longest wait of a client for a reply.
const REPLY_PATIENCE: Duration = Duration::from_secs(60);

/// A relay's directory: configuration, data, log.
pub(super) struct Place {
    dir: tempfile::TempDir,
}

/// Its process; killed when dropped.
pub(super) struct Running {
    child: Child,
}

impl Place {
    pub(super) fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("temporary directory") };
        place.configure("");
        place
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn config(&self) -> PathBuf {
        self.path().join("waystation.toml")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Writes the configuration: sockets on free ports, and `more` with its own table headers.
    pub(super) fn configure(&self, more: &str) {
        self.configure_at("hostname = \"relay.our.test\"\n", more);
    }

    /// The same with other keys on top.
    pub(super) fn configure_at(&self, top: &str, more: &str) {
        let mut table: toml::Table = format!(
            "data_dir = \"{}\"\ndomains = [\"{OUR}\"]\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [smtp]\nlisten = [\"127.0.0.1:0\"]\ngreet_delay_ms = 0\n[spool]\nmin_free_bytes = 0\n\
             [verify]\nenabled = false\n[log]\nformat = \"json\"\n",
            self.data().display()
        )
        .parse()
        .expect("TOML");
        let given: toml::Table = format!("{top}{more}").parse().expect("TOML");
        for (name, value) in given {
            match (table.get_mut(&name), value) {
                (Some(toml::Value::Table(base)), toml::Value::Table(keys)) => base.extend(keys),
                (_, value) => {
                    table.insert(name, value);
                }
            }
        }
        fs::write(self.config(), table.to_string()).expect("written");
    }

    /// Starts it and waits until it is up.
    pub(super) async fn start(&self) -> Running {
        self.start_as(waystation(), |_| ()).await
    }

    /// The same from another program file, or with more environment.
    pub(super) async fn start_as(&self, program: Command, change: impl FnOnce(&mut Command)) -> Running {
        let before = self.events("relay.started").len();
        let running = self.launch(program, change);
        until("the relay has started", || self.events("relay.started").len() > before).await;
        running
    }

    /// Starts it and waits for nothing.
    pub(super) fn launch(&self, mut program: Command, change: impl FnOnce(&mut Command)) -> Running {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("log");
        program.args(["serve", "--config"]).arg(self.config());
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        change(&mut program);
        Running { child: program.spawn().expect("the binary starts") }
    }

    fn log(&self) -> PathBuf {
        self.path().join("log")
    }

    /// Everything it has logged.
    pub(super) fn text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// All events of that name so far.
    pub(super) fn events(&self, name: &str) -> Vec<Value> {
        let text = self.text();
        let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        all.filter(|event| event["event"] == name).collect()
    }

    /// Waits for the `nth` event of that name, from 1.
    pub(super) async fn event(&self, name: &str, nth: usize) -> Value {
        until(&format!("{name} is logged"), || self.events(name).len() >= nth).await;
        self.events(name).swap_remove(nth - 1)
    }

    fn address(&self, what: &str) -> SocketAddr {
        let started = self.events("relay.started").pop().expect("started");
        let text = started[what].as_str().expect("an address").trim_matches(['[', ']']);
        text.split(", ").next().expect("one").parse().expect("an address")
    }

    pub(super) fn smtp(&self) -> SocketAddr {
        self.address("smtp")
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.address("http")
    }

    /// Runs another command on this relay.
    pub(super) fn run(&self, args: &[&str]) -> Output {
        waystation().arg("--config").arg(self.config()).args(args).output().expect("the binary runs")
    }

    /// The same; its answer as JSON.
    pub(super) fn ask(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&said).expect("JSON")
    }

    /// One number of `/metrics`.
    pub(super) fn metric(&self, line: &str) -> Option<String> {
        let text = get(self.http(), "/metrics");
        let found = text.lines().find_map(|found| found.strip_prefix(line)).map(str::trim)?;
        Some(found.to_owned())
    }

    /// A copy of the binary that can be replaced.
    pub(super) fn program(&self) -> PathBuf {
        let path = self.path().join("waystation");
        self.replace_program(Path::new(env!("CARGO_BIN_EXE_waystation")));
        path
    }

    /// Puts another file in its place, as a package does: beside it, then renamed.
    pub(super) fn replace_program(&self, with: &Path) {
        let (beside, path) = (self.path().join("waystation.new"), self.path().join("waystation"));
        fs::copy(with, &beside).expect("copied");
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::rename(beside, path).expect("renamed");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the relay logged:\n{}", self.text());
        }
    }
}

impl Running {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().expect("kill");
        assert!(sent.success());
    }

    pub(super) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waited")
    }

    /// SIGTERM, and waits for an orderly end.
    pub(super) async fn stop(mut self) {
        self.signal("TERM");
        let mut status = None;
        until("the relay has ended", || {
            status = self.has_ended();
            status.is_some()
        })
        .await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One answer over HTTP, head and body.
pub(super) fn get(to: SocketAddr, path: &str) -> String {
    ask(to, path, "")
}

/// The same with more fields, each with its CRLF.
pub(super) fn ask(to: SocketAddr, path: &str, fields: &str) -> String {
    use std::io::Read as _;
    let mut stream = TcpStream::connect(to).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{fields}connection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    answer
}

/// A gateway's key by number.
pub(super) fn gateway_key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// A sender that says one thing after the other.
pub(super) struct Sender(BufReader<TcpStream>);

impl Sender {
    /// Connects, without waiting for the greeting.
    pub(super) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("not refused");
        stream.set_read_timeout(Some(REPLY_PATIENCE)).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        Self(BufReader::new(stream))
    }

    /// Connects, and reads the greeting and the answer to EHLO.
    pub(super) fn greeted(to: SocketAddr) -> (Self, String) {
        let mut sender = Self::connect(to);
        assert!(sender.reply().starts_with("220 "), "greeted");
        let ehlo = sender.say("EHLO far.example");
        (sender, ehlo)
    }

    /// All lines of the next reply; what came before the end when the connection ends.
    pub(super) fn reply(&mut self) -> String {
        let mut all = String::new();
        loop {
            let from = all.len();
            let read = self.0.read_line(&mut all);
            let line = &all[from..];
            if !matches!(read, Ok(1..)) || line.as_bytes().get(3) != Some(&b'-') {
                return all;
            }
        }
    }

    /// Says a line and reads the reply.
    pub(super) fn say(&mut self, line: &str) -> String {
        self.write(&format!("{line}\r\n"));
        self.reply()
    }

    /// Says something, whether or not anybody listens.
    pub(super) fn write(&mut self, text: &str) {
        let _ = self.0.get_mut().write_all(text.as_bytes());
    }

    /// Opens a transaction and asks for one recipient; the reply to that.
    pub(super) fn rcpt(&mut self, to: &str) -> String {
        assert!(self.say("MAIL FROM:<a@far.example>").starts_with("250 "), "sender");
        self.say(&format!("RCPT TO:<{to}>"))
    }

    /// Sends a whole message; the last reply.
    pub(super) fn send(&mut self, to: &str, text: &str) -> String {
        let rcpt = self.rcpt(to);
        if !rcpt.starts_with("250 ") {
            return rcpt;
        }
        assert!(self.say("DATA").starts_with("354 "), "go on");
        self.say(&format!("{text}\r\n."))
    }
}
