//! The relay as a process that is attacked: its log in a file, its memory and descriptors as the system sees them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::process::run_text;
use crate::support::until;

/// Longest wait for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Descriptors of a relay that is not short of them.
const DESCRIPTORS: u32 = 4096;

/// A relay process; killed when dropped.
pub(super) struct Prey {
    child: Child,
    pub(super) smtp: SocketAddr,
    pub(super) http: SocketAddr,
    dir: tempfile::TempDir,
}

impl Prey {
    /// Starts it with more environment. Its domain is `our.example`; what it asks the DNS goes nowhere.
    pub(super) async fn start(env: &[(&str, &str)]) -> Self {
        Self::limited(DESCRIPTORS, env).await
    }

    /// The same with so few descriptors.
    pub(super) async fn limited(descriptors: u32, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        let mut command = Command::new("sh");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WAYSTATION_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh"])
            .arg(descriptors.to_string())
            .arg(env!("CARGO_BIN_EXE_waystation"))
            .args(["serve", "--data-dir"])
            .arg(dir.path().join("data"))
            .env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_DOMAINS", "our.example")
            .env("WAYSTATION_LOG__FORMAT", "json")
            .env("WAYSTATION_SPOOL__MIN_FREE_BYTES", "0")
            .env("WAYSTATION_DELIVERY__DNS_SERVERS", "127.0.0.1:9")
            .env("WAYSTATION_VERIFY__ENABLED", "false")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the binary starts");
        let mut started = None;
        until("the relay has started", || {
            started = events(dir.path()).into_iter().find(|event| event["event"] == "relay.started");
            started.is_some()
        })
        .await;
        let started = started.expect("waited for");
        let address = |name: &str| {
            let text = started[name].as_str().expect("an address").trim_matches(['[', ']']);
            text.parse().expect("an address")
        };
        let (smtp, http) = (address("smtp"), address("http"));
        Self { child, smtp, http, dir }
    }

    /// Every line of its log so far; a line that is no JSON object fails the test.
    pub(super) fn log(&self) -> Vec<Value> {
        events(self.dir.path())
    }

    pub(super) fn log_text(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("log")).expect("log")
    }

    /// Asks it by the command line; standard output.
    pub(super) fn ask(&self, arguments: &[&str]) -> String {
        let data: PathBuf = self.dir.path().join("data");
        let mut all = arguments.to_vec();
        let data = data.to_string_lossy().into_owned();
        all.extend(["--data-dir", &data]);
        let (code, out, err) = run_text(&all);
        assert!(code == 0 || code == 3, "{arguments:?}: {out}{err}"); // 3: nothing matched
        out
    }

    fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).expect("it lives");
        let line = text.lines().find(|line| line.starts_with(field)).expect("a field");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }

    /// Resident memory now, KiB.
    pub(super) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Most resident memory ever, KiB.
    pub(super) fn memory_peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Open descriptors.
    pub(super) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it lives").count()
    }

    /// The sum of all series whose line begins so.
    pub(super) async fn metric(&self, begin: &str) -> f64 {
        let text = fetch(self.http, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let values = text.lines().filter(|line| line.starts_with(begin));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Prey {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn events(dir: &Path) -> Vec<Value> {
    let text = std::fs::read(dir.join("log")).unwrap_or_default();
    let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1); // one may be half written
    let lines = text[..whole].split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("one event per line")).collect()
}

/// Sends octets to a listener and reads to its end, as text.
pub(super) async fn fetch(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Connects from an address of ours.
pub(super) async fn connect(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::from(from), 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An SMTP client at an address.
pub(super) struct Client(BufReader<TcpStream>);

impl Client {
    pub(super) async fn connect(from: [u8; 4], to: SocketAddr) -> Self {
        Self(BufReader::new(connect(from, to).await.expect("connected")))
    }

    /// Connected, greeted, and EHLO answered.
    pub(super) async fn greeted(from: [u8; 4], to: SocketAddr) -> Self {
        let mut client = Self::connect(from, to).await;
        assert!(client.reply().await.starts_with("220"));
        assert!(client.say("EHLO client.example").await.starts_with("250"));
        client
    }

    /// The last line of the next reply; `closed` when there is none.
    pub(super) async fn reply(&mut self) -> String {
        loop {
            let mut line = Vec::new();
            match timeout(PATIENCE, self.0.read_until(b'\n', &mut line)).await.expect("a reply in time") {
                Ok(0) | Err(_) => return "closed".to_owned(),
                Ok(_) if line.get(3) == Some(&b'-') => {}
                Ok(_) => return String::from_utf8_lossy(&line).trim_end().to_owned(),
            }
        }
    }

    /// One command and its reply.
    pub(super) async fn say(&mut self, line: impl AsRef<[u8]>) -> String {
        if self.send(&[line.as_ref(), b"\r\n"].concat()).await.is_err() {
            return "closed".to_owned();
        }
        self.reply().await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(PATIENCE, self.0.get_mut().write_all(bytes)).await.expect("taken in time")
    }

    /// Up to the 354 of a message to the postmaster.
    pub(super) async fn begin(&mut self) {
        for (line, code) in
            [("MAIL FROM:<a@client.example>", "250"), ("RCPT TO:<postmaster>", "250"), ("DATA", "354")]
        {
            let said = self.say(line).await;
            assert!(said.starts_with(code), "{line}: {said}");
        }
    }

    /// One whole message; what was said after it.
    pub(super) async fn message(&mut self, body: &[u8]) -> String {
        self.begin().await;
        if self.send(body).await.is_err() {
            return "closed".to_owned();
        }
        self.say("\r\n.").await
    }
}

/// An honest sender delivers one small message.
pub(super) async fn honest(from: [u8; 4], prey: &Prey) {
    let mut client = Client::greeted(from, prey.smtp).await;
    let said = client.message(b"Subject: honest\r\n\r\nhello").await;
    assert!(said.starts_with("250 2.0.0"), "{said}");
    assert!(client.say("QUIT").await.starts_with("221"));
}
