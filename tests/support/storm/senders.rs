//! Senders that retry like mail servers do: what was not answered is sent again, for as long as it takes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ledger::Ledger;

/// How long a sender waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a refusal, and while nobody listens.
const PAUSE: Duration = Duration::from_millis(5);

/// Where they send, and how much.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) port: u16,
    pub(crate) address: String,
    /// They pause while so many messages are on their way.
    pub(crate) missing_max: u64,
}

/// Senders at work, one connection each; they stop when told, or dropped.
pub(crate) struct Senders {
    stop: Arc<AtomicBool>,
    refusals: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    pub(crate) fn start(count: usize, task: &Task, ledger: &Arc<Ledger>) -> Self {
        let (stop, refusals) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let work = |_| {
            let sender = Sender {
                task: task.clone(),
                ledger: Arc::clone(ledger),
                stop: Arc::clone(&stop),
                refusals: Arc::clone(&refusals),
            };
            std::thread::spawn(move || sender.run())
        };
        let threads = (0..count).map(work).collect();
        Self { stop, refusals, threads }
    }

    /// Messages that were refused, so far.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Lets each finish what it has in hand.
    pub(crate) fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a sender"));
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

struct Sender {
    task: Task,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    refusals: Arc<AtomicU64>,
}

impl Sender {
    fn run(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let Ok(stream) = TcpStream::connect(("127.0.0.1", self.task.port)) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
            let _ = stream.set_write_timeout(Some(ANSWER_TIMEOUT));
            let mut line = BufReader::new(stream);
            if ask(&mut line, b"") == Some(b'2') && ask(&mut line, b"EHLO storm.example\r\n") == Some(b'2') {
                self.converse(&mut line);
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// One message after the other, until one is not taken.
    fn converse(&self, line: &mut BufReader<TcpStream>) {
        while !self.stop.load(Ordering::Acquire) {
            if self.ledger.counts().missing >= self.task.missing_max {
                std::thread::sleep(PAUSE);
                continue;
            }
            let number = self.ledger.take();
            match hand_over(line, &self.task.address, number, &self.ledger.body(number)) {
                Some(true) => self.ledger.answered(number),
                Some(false) => {
                    self.ledger.refused(number);
                    self.refusals.fetch_add(1, Ordering::Relaxed);
                    return std::thread::sleep(PAUSE);
                }
                None => return self.ledger.unanswered(number),
            }
        }
    }
}

/// `Some(true)`: 250. `Some(false)`: certainly not taken. `None`: the end was sent, and no answer came, or "later".
fn hand_over(line: &mut BufReader<TcpStream>, address: &str, number: u64, body: &[u8]) -> Option<bool> {
    // One write for the three (RFC 2920): each is answered in turn.
    let envelope = format!("MAIL FROM:<storm-{number}@storm.example>\r\nRCPT TO:<{address}>\r\nDATA\r\n");
    if ask(line, envelope.as_bytes()) != Some(b'2')
        || ask(line, b"") != Some(b'2')
        || ask(line, b"") != Some(b'3')
    {
        return Some(false);
    }
    // From here on a lost line may mean either: the last bytes could have been read.
    line.get_mut().write_all(&stuffed(body)).ok()?;
    match ask(line, b"")? {
        b'2' => Some(true),
        // A commit that took too long may come through after all (Q33): the repeat is the same message.
        b'4' => None,
        _ => Some(false),
    }
}

fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 16 + 3);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// Sends `bytes` and gives the first digit of the next reply.
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
