//! Senders that never try again: whatever goes wrong once is counted.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use waystation::clock::monotonic;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the senders saw.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Marks of messages that were answered 250.
    pub(super) accepted: Mutex<BTreeSet<String>>,
    /// How many those are.
    pub(super) count: AtomicUsize,
    /// What went wrong, in words: a refused connection, a reset, a 421 in place of the greeting, no 250.
    pub(super) lost: Mutex<Vec<String>>,
    /// Longest time from the connection to the greeting, milliseconds.
    pub(super) greeting_ms_max: AtomicUsize,
}

/// Senders at work; they stop when told.
pub(super) struct Senders {
    pub(super) tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    /// `count` of them, each with one connection for each message, one after the other.
    pub(super) fn start(count: usize, to: SocketAddr, rcpt_to: &str) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let work = |n| {
            let (tally, stop, rcpt_to) = (Arc::clone(&tally), Arc::clone(&stop), rcpt_to.to_owned());
            std::thread::spawn(move || {
                let mut serial = 0;
                while !stop.load(Ordering::Relaxed) {
                    serial += 1;
                    let mark = format!("mark-{n}-{serial}");
                    match send(to, &rcpt_to, &mark, &tally) {
                        Ok(()) => {
                            assert!(tally.accepted.lock().expect("no panic").insert(mark));
                            tally.count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) => tally.lost.lock().expect("no panic").push(format!("{mark}: {why}")),
                    }
                }
            })
        };
        let threads = (0..count).map(work).collect();
        Self { tally, stop, threads }
    }

    pub(super) fn stop(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a sender");
        }
        self.tally
    }
}

fn send(to: SocketAddr, rcpt_to: &str, mark: &str, tally: &Tally) -> Result<(), String> {
    let words = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let began = monotonic();
    let stream = TcpStream::connect(to).map_err(words("connect"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(words("connect"))?;
    stream.set_nodelay(true).map_err(words("connect"))?;
    let mut stream = BufReader::new(stream);
    expect(&mut stream, "220")?;
    let waited = usize::try_from(monotonic().duration_since(began).as_millis()).unwrap_or(usize::MAX);
    tally.greeting_ms_max.fetch_max(waited, Ordering::Relaxed);
    for (line, code) in [
        ("EHLO far.example".to_owned(), "250"),
        ("MAIL FROM:<a@far.example>".to_owned(), "250"),
        (format!("RCPT TO:<{rcpt_to}>"), "250"),
        ("DATA".to_owned(), "354"),
        (format!("Subject: {mark}\r\n\r\nbody of {mark}\r\n."), "250"),
    ] {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).map_err(words("write"))?;
        expect(&mut stream, code)?;
    }
    // 221, or 421 when the relay says goodbye at the same moment: the message is its own by now.
    let _ = stream.get_mut().write_all(b"QUIT\r\n");
    let _ = stream.read_line(&mut String::new());
    Ok(())
}

fn expect(stream: &mut BufReader<TcpStream>, code: &str) -> Result<(), String> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).map_err(|error| format!("reading {code}: {error}"))?;
        if !line.starts_with(code) {
            return Err(format!("{code} was due, and there was {line:?}"));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}
