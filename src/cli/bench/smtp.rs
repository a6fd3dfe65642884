//! A load of SMTP: many sessions at a time, each message different, each answer waited for.
//!
//! One thread drives all sessions, so that the load takes as little of the machine as it can; every side meets the same.
//! Failure policy: the first answer that is not the expected one ends the measurement with that answer.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::figures::Latency;
use crate::clock;

/// Longest wait for one answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// Sessions that may wait for their greeting at a time: a server whose listening queue is short (OpenSMTPD: five) loses
/// others without a word.
const DIALS_MAX: usize = 4;
/// Envelope sender of every message.
pub(super) const SENDER: &str = "bench@from.test";
/// Messages in one connection when nobody says: some servers end longer ones.
const PER_CONNECTION: u64 = 500;
/// One line of a body, as smtp-source has them.
const LINE: &[u8; 80] = &{
    let mut line = [b'X'; 80];
    (line[78], line[79]) = (b'\r', b'\n');
    line
};
/// Sessions at a time, when nobody says how many.
const SESSIONS: usize = 64;
/// Of a hundred messages, so many have at most so many bytes: what a mailbox gets.
const MIX: [(u64, usize); 5] = [(50, 2_048), (80, 8_192), (95, 32_768), (99, 262_144), (100, 1_048_576)];

/// How large messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// All alike.
    Bytes(usize),
    /// A mix: half of them 2 KiB, one in a hundred 1 MiB.
    Mix,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "mix" => Ok(Self::Mix),
            _ => match text.parse() {
                Ok(bytes @ 256..=50_000_000) => Ok(Self::Bytes(bytes)),
                _ => Err("a number of bytes from 256 to 50000000, or `mix`".to_owned()),
            },
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Mix => f.write_str("2 KiB to 1 MiB, mixed"),
        }
    }
}

impl Size {
    /// Bytes of message `n`.
    pub(super) fn of(self, n: u64) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            // 37 and 100 have no common divisor: every hundred messages in a row are the same mix, shuffled.
            Self::Mix => {
                let place = n * 37 % 100;
                MIX.iter().find(|(below, _)| place < *below).map_or(2_048, |(_, bytes)| *bytes)
            }
        }
    }
}

/// What is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) target: SocketAddr,
    pub(super) recipients: Vec<String>,
    pub(super) sessions: usize,
    pub(super) messages: u64,
    pub(super) size: Size,
    /// Messages in one connection; 0: as many as [`PER_CONNECTION`].
    pub(super) per_connection: u64,
    /// `MAIL`, `RCPT` and `DATA` go in one write, where the server allows it.
    pub(super) pipelining: bool,
    /// Messages a second; `None`: as fast as answers come.
    pub(super) rate: Option<f64>,
    /// Number of the first message.
    pub(super) first: u64,
}

impl Load {
    /// Messages from 0 on, as fast as answers come, over [`SESSIONS`].
    pub(super) fn new(target: SocketAddr, recipients: Vec<String>, messages: u64, size: Size) -> Self {
        Self {
            target,
            recipients,
            sessions: SESSIONS,
            messages,
            size,
            per_connection: 0,
            pipelining: true,
            rate: None,
            first: 0,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) wall: Duration,
    /// From the last octet of the message to its 250.
    pub(super) dot: Latency,
}

struct Shared {
    load: Load,
    next: Cell<u64>,
    dials: tokio::sync::Semaphore,
    dot: RefCell<Latency>,
    started: Instant,
    /// Told the number of each message just before its last octet is written.
    dot_due: Box<dyn Fn(u64)>,
}

/// Sends all of it and waits for every answer. `dot_due` hears the number of each message just before its last octet is
/// written.
pub(super) async fn send(load: Load, dot_due: impl Fn(u64) + 'static) -> anyhow::Result<Sent> {
    let sessions = load.sessions;
    let shared = Rc::new(Shared {
        next: Cell::new(load.first),
        dials: tokio::sync::Semaphore::new(DIALS_MAX),
        load,
        dot: RefCell::new(Latency::new("dot")),
        started: clock::monotonic(),
        dot_due: Box::new(dot_due),
    });
    let local = tokio::task::LocalSet::new();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..sessions {
        running.spawn_local_on(session(Rc::clone(&shared)), &local);
    }
    local
        .run_until(async {
            while let Some(done) = running.join_next().await {
                done.context("a session broke")??;
            }
            anyhow::Ok(())
        })
        .await?;
    let wall = clock::monotonic().duration_since(shared.started);
    let dot = shared.dot.borrow().clone();
    Ok(Sent { wall, dot })
}

async fn session(shared: Rc<Shared>) -> anyhow::Result<()> {
    let load = &shared.load;
    let end = load.first + load.messages;
    while shared.next.get() < end {
        let mut line = {
            let _dial = shared.dials.acquire().await?;
            Line::connect(load.target).await?
        };
        let most = if load.per_connection == 0 { PER_CONNECTION } else { load.per_connection };
        for _ in 0..most {
            if shared.next.get() >= end {
                break;
            }
            let n = shared.next.replace(shared.next.get() + 1);
            if let Some(rate) = load.rate {
                let due = Duration::from_secs_f64(super::count(n - load.first) / rate);
                let ahead = due.saturating_sub(clock::monotonic().duration_since(shared.started));
                tokio::time::sleep(ahead).await;
            }
            let took = line.message(&shared, n).await.with_context(|| format!("message {n}"))?;
            shared.dot.borrow_mut().record(took);
        }
        line.quit().await?;
    }
    Ok(())
}

/// One connection.
struct Line {
    stream: BufReader<TcpStream>,
    /// All lines of the last reply.
    reply: String,
    /// The server says that commands may come together (RFC 2920).
    pipelining: bool,
    out: Vec<u8>,
}

impl Line {
    async fn connect(target: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
        stream.set_nodelay(true)?;
        let stream = BufReader::new(stream);
        let mut line = Self { stream, reply: String::new(), pipelining: false, out: Vec::new() };
        line.expect("220").await?;
        line.command("EHLO client.bench.test\r\n", "250").await?;
        line.pipelining = announces(&line.reply, "PIPELINING");
        Ok(line)
    }

    /// Sends message `n`; the time from its last octet to its 250.
    async fn message(&mut self, shared: &Shared, n: u64) -> anyhow::Result<Duration> {
        let load = &shared.load;
        let at = usize::try_from(n)? % load.recipients.len();
        let (mail, rcpt) =
            (format!("MAIL FROM:<{SENDER}>\r\n"), format!("RCPT TO:<{}>\r\n", load.recipients[at]));
        if load.pipelining && self.pipelining {
            self.stream.get_mut().write_all(format!("{mail}{rcpt}DATA\r\n").as_bytes()).await?;
            for code in ["250", "250", "354"] {
                self.expect(code).await?;
            }
        } else {
            self.command(&mail, "250").await?;
            self.command(&rcpt, "250").await?;
            self.command("DATA\r\n", "354").await?;
        }
        self.out.clear();
        content(&mut self.out, SENDER, n, load.size.of(n));
        self.out.extend_from_slice(b".\r\n");
        (shared.dot_due)(n);
        self.stream.get_mut().write_all(&self.out).await?;
        let sent = clock::monotonic();
        self.expect("250").await?;
        Ok(clock::monotonic().duration_since(sent))
    }

    async fn quit(mut self) -> anyhow::Result<()> {
        self.command("QUIT\r\n", "221").await
    }

    async fn command(&mut self, text: &str, code: &str) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes()).await?;
        self.expect(code).await
    }

    /// Reads one reply of any number of lines.
    async fn expect(&mut self, code: &str) -> anyhow::Result<()> {
        self.reply.clear();
        loop {
            let at = self.reply.len();
            let read = tokio::time::timeout(ANSWER_PATIENCE, self.stream.read_line(&mut self.reply));
            let read =
                read.await.with_context(|| format!("no {code} in {} s", ANSWER_PATIENCE.as_secs()))??;
            anyhow::ensure!(read > 0, "the connection ended instead of {code}");
            let line = &self.reply[at..];
            anyhow::ensure!(line.starts_with(code), "{code} was expected, {:?} came", line.trim());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

/// Whether a server's answer to `EHLO` has that extension: RFC 5321 §4.1.1.1, whatever the case.
fn announces(reply: &str, extension: &str) -> bool {
    let words = reply.lines().filter_map(|line| line.get(4..)?.split_whitespace().next());
    words.into_iter().any(|word| word.eq_ignore_ascii_case(extension))
}

/// Message `n`, about `size` bytes, whole lines; none begins with a dot.
pub(super) fn content(out: &mut Vec<u8>, from: &str, n: u64, size: usize) {
    let head = format!(
        "From: <{from}>\r\nTo: <u@bench.test>\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\
         Message-Id: <{n:012}@bench.test>\r\nSubject: {n:012}\r\n\r\n"
    );
    out.extend_from_slice(head.as_bytes());
    while out.len() < size {
        out.extend_from_slice(LINE);
    }
}

/// Whether a message ends with all of what [`send`] sent as message `n`.
pub(super) fn is_whole(message: &[u8], n: u64, size: Size) -> bool {
    let mut sent = Vec::new();
    content(&mut sent, SENDER, n, size.of(n));
    message.ends_with(&sent)
}

/// The number in a message that [`send`] made; `None`: it is none of those.
pub(super) fn number(message: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(message, b"\r\nSubject: ")? + 11;
    std::str::from_utf8(message.get(at..at + 12)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_number_and_its_size() {
        for (n, size) in [(0, 256), (7, 4096), (123_456_789_012, 1 << 20)] {
            let mut message = Vec::new();
            content(&mut message, SENDER, n, size);
            assert_eq!(number(&message), Some(n));
            assert!(is_whole(&[b"Received: x\r\n", &message[..]].concat(), n, Size::Bytes(size)));
            message[size / 2] ^= 1;
            assert!(!is_whole(&message, n, Size::Bytes(size)));
            message[size / 2] ^= 1;
            assert!((size..size + LINE.len()).contains(&message.len()), "{} of {size}", message.len());
            assert!(message.ends_with(b"\r\n"));
        }
        assert_eq!(number(b"Subject: 1\r\n"), None);
    }

    #[test]
    fn commands_come_together_only_where_the_server_says_so() {
        let reply = "250-relay.test\r\n250-SIZE 1000\r\n250 Pipelining\r\n";
        assert!(announces(reply, "PIPELINING"));
        assert!(!announces("250-PIPELINED.test\r\n250 HELP\r\n", "PIPELINING"));
    }

    #[test]
    fn a_hundred_messages_in_a_row_are_the_mix() {
        let large = (300..400).filter(|n| Size::Mix.of(*n) == 1_048_576).count();
        let small = (300..400).filter(|n| Size::Mix.of(*n) == 2_048).count();
        assert_eq!((large, small), (1, 50));
        assert_eq!("mix".parse(), Ok(Size::Mix));
        assert_eq!("4096".parse(), Ok(Size::Bytes(4096)));
        assert!("12".parse::<Size>().is_err());
    }
}
