//! The crash storm: a relay and a gateway as real processes, senders that retry like mail servers do, and kills.
//!
//! Goal: every message that got 250 is in the Maildir once, byte for byte below the relay's own header, also when its
//! sender was left without an answer and sent it again; and nothing whose ack the relay wrote down is offered again.
//! Method: in each round relay and gateway start on the data of the rounds before, either of them possibly set to die at a
//! named point; senders send; after a random time the survivors are killed or asked to stop. At the end both run in
//! peace until everything has arrived.
//!
//! `WAYSTATION_CRASH_ROUNDS=500 WAYSTATION_CRASH_SEED=7 cargo nextest run crash_storm` runs more, with chosen dice.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::home::{GATEWAY_POINTS, Home, Running, waystation};
use crate::support::until;

/// Rounds when the environment does not say.
const ROUNDS: u64 = 20;
/// Senders at a time, one connection each.
const SENDERS: usize = 4;
/// How long a sender waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Points in the relay, in the order a message passes them.
const RELAY_POINTS: [&str; 6] = [
    "intake.before_commit",
    "intake.after_commit",
    "intake.after_reply",
    "lane.before_read",
    "lane.before_ack",
    "lane.after_ack",
];
/// `splitmix64`: one seed, one storm (as far as processes let themselves be ordered).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("small")]
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect(name))
}

/// A message that is still to be sent, or was.
#[derive(Debug)]
struct Mail {
    id: String,
    body: Vec<u8>,
    /// Times it was sent whole and no answer came.
    unanswered: usize,
}

impl Mail {
    fn new(number: u64, dice: &mut Dice) -> Self {
        let id = format!("storm-{number}");
        let mut body = format!("X-Storm-Id: {id}\r\nSubject: {number}\r\n\r\n").into_bytes();
        let size = match dice.below(10) {
            0 => 300_000,
            1..=3 => 70_000,
            _ => 500,
        };
        while body.len() < size {
            let word = dice.next();
            body.extend_from_slice(
                format!("{}line {word:x} of {id}\r\n", ["", ".", ".."][(word % 3) as usize]).as_bytes(),
            );
        }
        Self { id, body, unanswered: 0 }
    }

    fn stuffed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 1024);
        for line in self.body.split_inclusive(|byte| *byte == b'\n') {
            if line.first() == Some(&b'.') {
                out.push(b'.');
            }
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b".\r\n");
        out
    }
}

/// What the senders have, and what they know.
#[derive(Debug, Default)]
struct Senders {
    waiting: Vec<Mail>,
    answered: Vec<Mail>,
    made: u64,
}

/// Sends until told to stop; what was not answered goes back to be sent again.
fn send(senders: &Mutex<Senders>, smtp_port: u16, address: &str, stop: &AtomicBool, mut dice: Dice) {
    while !stop.load(Ordering::Acquire) {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", smtp_port)) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let _ = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
        let mut line = BufReader::new(stream);
        if ask(&mut line, b"").is_none() || ask(&mut line, b"EHLO storm.example\r\n").is_none() {
            continue;
        }
        while !stop.load(Ordering::Acquire) {
            let mut mail = {
                let mut senders = senders.lock().expect("senders");
                match senders.waiting.pop() {
                    Some(mail) => mail,
                    None => {
                        senders.made += 1;
                        Mail::new(senders.made, &mut dice)
                    }
                }
            };
            let outcome = hand_over(&mut line, address, &mail);
            let mut senders = senders.lock().expect("senders");
            match outcome {
                Some(true) => {
                    senders.answered.push(mail);
                    continue;
                }
                Some(false) => {}
                None => mail.unanswered += 1,
            }
            senders.waiting.push(mail);
            break;
        }
    }
}

/// `Some(true)`: 250. `Some(false)`: certainly not taken. `None`: the end was sent, and no answer came.
fn hand_over(line: &mut BufReader<TcpStream>, address: &str, mail: &Mail) -> Option<bool> {
    for (command, code) in [
        (format!("MAIL FROM:<{}@storm.example>\r\n", mail.id), b'2'),
        (format!("RCPT TO:<{address}>\r\n"), b'2'),
        ("DATA\r\n".to_owned(), b'3'),
    ] {
        if ask(line, command.as_bytes()) != Some(code) {
            return Some(false);
        }
    }
    // From here on a lost line may mean either: the last bytes could have been read.
    line.get_mut().write_all(&mail.stuffed()).ok()?;
    match ask(line, b"")? {
        b'2' => Some(true),
        _ => Some(false),
    }
}

/// Sends `bytes` and gives the first digit of the reply.
fn ask(line: &mut BufReader<TcpStream>, bytes: &[u8]) -> Option<u8> {
    line.get_mut().write_all(bytes).ok()?;
    loop {
        let mut reply = String::new();
        if line.read_line(&mut reply).ok()? == 0 || !reply.ends_with('\n') {
            return None;
        }
        if reply.as_bytes().get(3) != Some(&b'-') {
            return reply.bytes().next();
        }
    }
}

/// The relay as a process; killed when dropped.
struct Relay {
    child: Child,
}

impl Relay {
    fn start(dir: &Path, crash_at: Option<&str>) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("relay.log")).expect("log");
        let mut command = waystation();
        command.args(["serve", "--config"]).arg(dir.join("waystation.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("WAYSTATION_VERIFY__ENABLED", "false"); // there is no DNS
        if let Some(point) = crash_at {
            command.env("WAYSTATION_CRASH_AT", point);
        }
        Self { child: command.spawn().expect("started") }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waited").is_none()
    }

    /// SIGTERM, then SIGKILL if it takes too long (W15).
    fn stop(mut self) {
        if !self.is_running() {
            return;
        }
        let pid = self.child.id().to_string();
        let _ = std::process::Command::new("kill").args(["-s", "TERM", &pid]).status();
        for _ in 0..1000 {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Everything of one storm.
struct Storm {
    dir: tempfile::TempDir,
    smtp_port: u16,
    home: Home,
    address: String,
    senders: Arc<Mutex<Senders>>,
    dice: Dice,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (smtp_port, http_port) = (free_port(), free_port());
        fs::write(
            dir.path().join("waystation.toml"),
            format!(
                "data_dir = \"data\"\nhostname = \"localhost\"\ndomains = [\"mail.localhost\"]\n\
                 [http]\nlisten = \"127.0.0.1:{http_port}\"\n[smtp]\nlisten = [\"127.0.0.1:{smtp_port}\"]\n\
                 [limits]\nenabled = false\n[spool]\nmin_free_bytes = 1048576\n\
                 [log]\nformat = \"json\"\nlevel = \"info\"\n"
            ),
        )
        .expect("written");
        // Relative paths of the configuration are relative to where the process runs.
        let data = dir.path().join("data");
        let text = fs::read_to_string(dir.path().join("waystation.toml")).expect("read");
        fs::write(dir.path().join("waystation.toml"), text.replace("\"data\"", &format!("{data:?}")))
            .expect("written");
        let home = Home::new(&format!("ws://127.0.0.1:{http_port}/ws"));
        let key = waystation::identity::keyfile::load(&home.path().join("passport.key")).expect("a key");
        let address = key.key_text().address("mail.localhost");
        Self { dir, smtp_port, home, address, senders: Arc::default(), dice: Dice(seed) }
    }

    fn relay(&self, crash_at: Option<&str>) -> Relay {
        Relay::start(self.dir.path(), crash_at)
    }

    /// Both in peace until the gateway is connected.
    async fn connected(&self) -> (Relay, Running) {
        let (relay, gateway) = (self.relay(None), self.home.start(None));
        until("the gateway is connected", || {
            self.home.status().is_some_and(|status| !status["connected_since_ms"].is_null())
        })
        .await;
        (relay, gateway)
    }

    async fn round(&mut self) {
        let mut point = |points: &[&str]| {
            let named = format!("{}:{}", self.dice.one(points), 1 + self.dice.below(5));
            (self.dice.below(2) == 0).then_some(named)
        };
        let (relay_point, gateway_point) = (point(&RELAY_POINTS), point(&GATEWAY_POINTS));
        let mut relay = self.relay(relay_point.as_deref());
        let gateway = self.home.start(gateway_point.as_deref());
        let stop = Arc::new(AtomicBool::new(false));
        let sending: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (senders, address, stop) =
                    (Arc::clone(&self.senders), self.address.clone(), Arc::clone(&stop));
                let (port, dice) = (self.smtp_port, Dice(self.dice.next()));
                std::thread::spawn(move || send(&senders, port, &address, &stop, dice))
            })
            .collect();
        // One round in five dies while it starts.
        if self.dice.below(5) > 0 {
            until("the relay listens or has died", || {
                !relay.is_running() || TcpStream::connect(("127.0.0.1", self.smtp_port)).is_ok()
            })
            .await;
        }
        // Progress decides when it ends, and a limit for rounds in which nothing can progress.
        let want = self.answered() + usize::try_from(self.dice.below(40)).expect("small");
        let limit = Duration::from_millis(300 + self.dice.below(1200));
        let _ = tokio::time::timeout(limit, async {
            while self.answered() < want && relay.is_running() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        match self.dice.below(4) {
            0 => {
                drop(gateway);
                drop(relay);
            }
            1 => {
                drop(relay);
                drop(gateway);
            }
            2 => {
                relay.stop();
                drop(gateway);
            }
            _ => {
                drop(relay);
                gateway.ask_to_stop();
                drop(gateway);
            }
        }
        stop.store(true, Ordering::Release);
        for sender in sending {
            sender.join().expect("a sender");
        }
    }

    fn answered(&self) -> usize {
        self.senders.lock().expect("senders").answered.len()
    }

    /// The relay's log, one JSON object per line; lines torn by a kill are left out.
    fn events(&self) -> Vec<serde_json::Value> {
        let log = fs::read_to_string(self.dir.path().join("relay.log")).expect("log");
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Compares what arrived with what was answered.
    fn check(&self) -> (usize, usize) {
        let senders = self.senders.lock().expect("senders");
        let mut arrived: HashMap<String, usize> = HashMap::new();
        for (item, bytes) in self.home.maildir() {
            let (head, body) = parts(&bytes).unwrap_or_else(|| panic!("item {item} has no storm id"));
            let id = body.lines().next().and_then(|line| line.ok()).expect("a first line");
            let id = id.trim_start_matches("X-Storm-Id: ").to_owned();
            let mail = senders.answered.iter().chain(&senders.waiting).find(|mail| mail.id == id);
            let mail = mail.unwrap_or_else(|| panic!("{id} was never sent"));
            assert!(body == mail.body, "{id} arrived changed");
            assert!(head.starts_with(b"Received: "), "{id} has something else before it");
            *arrived.entry(id).or_default() += 1;
        }
        for mail in &senders.answered {
            let copies = arrived.get(&mail.id).copied().unwrap_or_default();
            assert!(copies >= 1, "{} got 250 and is lost", mail.id);
            assert!(copies == 1, "{} is there {copies} times", mail.id);
        }
        for mail in &senders.waiting {
            let copies = arrived.get(&mail.id).copied().unwrap_or_default();
            assert!(copies <= mail.unanswered.min(1), "{} was refused and is there", mail.id);
        }
        assert_eq!(self.home.names("tmp"), [""; 0]);
        let repeats: usize = senders.answered.iter().map(|mail| mail.unanswered).sum();
        (senders.answered.len(), repeats)
    }

    /// No item is offered after its ack was written down.
    fn check_log(&self) {
        let mut acked = HashSet::new();
        let mut offered = 0;
        for event in self.events() {
            let Some(item) = event["item.id"].as_str().map(str::to_owned) else { continue };
            match event["event"].as_str() {
                Some("relay.item.acked") => {
                    acked.insert(item);
                }
                Some("relay.item.offered") => {
                    assert!(!acked.contains(&item), "{item} was acked and is offered again");
                    offered += 1;
                }
                _ => {}
            }
        }
        assert!(offered > 0 && !acked.is_empty(), "the log lacks what this looks for: {offered} offered");
    }
}

/// The relay's head and the sender's message.
fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.windows(12).position(|window| window == b"X-Storm-Id: ")?;
    Some(bytes.split_at(at))
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_storm_loses_nothing_and_doubles_nothing() {
    let rounds = number("WAYSTATION_CRASH_ROUNDS", ROUNDS);
    let seed = number("WAYSTATION_CRASH_SEED", 1);
    println!("WAYSTATION_CRASH_ROUNDS={rounds} WAYSTATION_CRASH_SEED={seed}");
    let mut storm = Storm::new(seed);
    // The key has to be known before anybody can send to it.
    let (relay, gateway) = storm.connected().await;
    drop((relay, gateway));
    for _ in 0..rounds {
        storm.round().await;
    }
    let (relay, gateway) = storm.connected().await;
    let want: HashSet<String> =
        storm.senders.lock().expect("senders").answered.iter().map(|mail| mail.id.clone()).collect();
    until("everything answered with 250 has arrived, and nothing is in hand", || {
        let quiet = storm.home.status().is_some_and(|status| status["in_hand"] == 0);
        let here: HashSet<String> = storm
            .home
            .maildir()
            .values()
            .filter_map(|bytes| {
                let (_, body) = parts(bytes)?;
                let line = body.split(|byte| *byte == b'\r').next()?;
                Some(String::from_utf8_lossy(&line[12..]).into_owned())
            })
            .collect();
        quiet && want.is_subset(&here)
    })
    .await;
    gateway.stop().await;
    relay.stop();
    let (answered, repeats) = storm.check();
    storm.check_log();
    assert!(rounds == 0 || answered > 0, "no message was taken in the whole storm");
    println!(
        "{rounds} rounds: {answered} messages answered 250, each there once, after {repeats} tries without an answer"
    );
}
