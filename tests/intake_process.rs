//! The relay as a process of its own, seen by a sender: killed around its promise, and starved of descriptors.
//!
//! Goal: a `250` that was heard is true after any end of the process (Q34, Q35), and a relay that runs out of
//! file descriptors goes on when they come back (U8). Method: the real binary, told by environment where to
//! die or started with a low limit; afterwards the spool is opened here and read.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use spool::disk::real::RealDisk;
use spool::index::sled::SledIndex;
use spool::types::{Filter, ItemInfo};
use spool::{Options, Spool};
use waystation::clock;

use crate::support::process::waystation;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const BODY: &str = "Message-ID: <promise@client.example>\r\n\r\nkept or not given\r\n";

/// A relay process with its SMTP address; killed when dropped.
struct Relay {
    child: Child,
    smtp: SocketAddr,
}

impl Relay {
    /// `descriptors`: most file descriptors it may have; `crash_at`: where it dies.
    fn start(data_dir: &Path, descriptors: u32, crash_at: &str) -> Self {
        let binary = waystation();
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh"])
            .arg(descriptors.to_string())
            .arg(binary.get_program())
            .args(["serve", "--data-dir"])
            .arg(data_dir)
            .env("WAYSTATION_HTTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_SMTP__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_LIMITS__ENABLED", "false")
            .env("WAYSTATION_LOG__FORMAT", "json")
            .env("WAYSTATION_SPOOL__MIN_FREE_BYTES", "0")
            .env("WAYSTATION_VERIFY__ENABLED", "false") // there is no DNS
            .env("WAYSTATION_CRASH_AT", crash_at)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let started = log
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .find(|event| event["event"] == "relay.started")
            .expect("it starts");
        // Whoever writes into a full pipe stands still.
        std::thread::spawn(move || log.for_each(drop));
        let smtp = started["smtp"].as_str().expect("smtp").trim_matches(['[', ']']).parse().expect("address");
        Self { child, smtp }
    }

    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("it ends");
    }

    /// Waits until it has died of itself.
    fn died(mut self) {
        assert!(!self.child.wait().expect("it ends").success());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(smtp: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(smtp).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    BufReader::new(stream)
}

/// Reads one reply; `None` when the connection ended instead.
fn reply(stream: &mut BufReader<TcpStream>) -> Option<String> {
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) | Err(_) => return None,
            Ok(_) if line.as_bytes().get(3) == Some(&b'-') => {}
            Ok(_) => return Some(line),
        }
    }
}

/// Sends one message to the operator's lane; what the relay said after the dot.
fn send(smtp: SocketAddr) -> Option<String> {
    send_body(smtp, BODY)
}

fn send_body(smtp: SocketAddr, body: &str) -> Option<String> {
    let mut stream = connect(smtp);
    assert!(reply(&mut stream)?.starts_with("220"));
    for line in ["EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<postmaster>", "DATA"] {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).ok()?;
        let said = reply(&mut stream)?;
        assert!(said.starts_with('2') || said.starts_with("354"), "{line}: {said}");
    }
    stream.get_mut().write_all(format!("{body}.\r\n").as_bytes()).ok()?;
    reply(&mut stream)
}

/// What the spool holds: id and bytes, head and body. No process may have it open.
fn held(data_dir: &Path) -> Vec<(String, String)> {
    let root = waystation::daemon::ledger::spool_dir(data_dir);
    let index = Arc::new(SledIndex::open(&root.join("index")).expect("index"));
    let disk = Arc::new(RealDisk::new(root));
    let (spool, _) = Spool::open(disk, index, Options::default(), clock::wall()).expect("spool");
    let (items, _) = spool.list(&Filter::default(), None, 100).expect("list");
    let reader = spool.reader();
    let text = |item: &ItemInfo| {
        let body = (0..item.chunks.len()).flat_map(|n| reader.chunk(item, n).expect("chunk"));
        String::from_utf8(item.head.iter().copied().chain(body).collect()).expect("text")
    };
    items.iter().map(|item| (item.id.to_string(), text(item))).collect()
}

#[test]
fn a_250_that_was_heard_is_true_although_the_process_died_with_the_next_instruction() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = Relay::start(dir.path(), 256, "intake.after_reply"); // Q34
    let said = send(relay.smtp).expect("250");
    relay.died();
    // The next process knows it, so that a repeat becomes no second message, and goes on.
    let relay = Relay::start(dir.path(), 256, "");
    assert_eq!(send(relay.smtp).expect("250"), said);
    assert!(send_body(relay.smtp, "Subject: another\r\n\r\nword\r\n").expect("250").starts_with("250"));
    relay.kill();
    let items = held(dir.path());
    let [(id, bytes), _] = &items[..] else { panic!("not two items: {items:?}") };
    assert!(said.starts_with("250 2.0.0") && said.contains(id.as_str()), "{said}");
    assert!(bytes.starts_with("Received: from client.example") && bytes.ends_with(BODY), "{bytes}");
}

#[test]
fn what_a_device_sends_without_date_and_id_is_a_message_each_time_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let notice = "Subject: UPS on battery\r\n\r\n";
    for _ in 0..2 {
        let relay = Relay::start(dir.path(), 256, "");
        assert!(send_body(relay.smtp, notice).expect("250").starts_with("250")); // Q32
        relay.kill();
    }
    let items = held(dir.path());
    assert_eq!(items.len(), 2, "{items:?}");
}

#[test]
fn without_a_250_the_message_is_whole_or_absent() {
    for (point, kept) in [("intake.before_commit", 0), ("intake.after_commit", 1)] {
        let dir = tempfile::tempdir().expect("directory");
        let relay = Relay::start(dir.path(), 256, point); // Q35
        assert_eq!(send(relay.smtp), None, "{point}");
        relay.died();
        let items = held(dir.path());
        assert_eq!(items.len(), kept, "{point}");
        assert!(items.iter().all(|(_, bytes)| bytes.ends_with(BODY)), "{point}");
    }
}

#[test]
fn out_of_descriptors_the_relay_waits_and_goes_on() {
    let dir = tempfile::tempdir().expect("directory");
    let relay = Relay::start(dir.path(), 64, ""); // U8
    // More than it can accept; the rest waits in the kernel's queue.
    let crowd: Vec<_> = (0..100).map(|_| TcpStream::connect(relay.smtp).expect("connected")).collect();
    let mut greeted = 0;
    for stream in &crowd {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        let mut first = [0; 3];
        let mut stream = stream;
        if stream.read_exact(&mut first).is_err() {
            break; // here its descriptors ended
        }
        greeted += 1;
    }
    assert!((1..100).contains(&greeted), "the limit was never reached: {greeted}");
    drop(crowd);
    assert!(send(relay.smtp).expect("250").starts_with("250"));
    relay.kill();
    assert_eq!(held(dir.path()).len(), 1);
}
