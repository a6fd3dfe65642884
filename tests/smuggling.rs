//! SMTP smuggling (C1-C18): no sequence but CR LF . CR LF ends a message, seen from four sides.
//!
//! Goal: a sequence that some server somewhere takes for the end of the data never ends it here, and never
//! goes into the spool. Method, for every sequence: *pause* (stop behind it: no reply may come), *burst*
//! (smuggled commands in the same write: at most one message), *split* (the same, octet by octet), *outcome*
//! (the right reply at the true end, and the session still in step).

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::relay::MailRelay;

/// How long the relay must stay silent in the pause oracle. A server that takes the sequence for an end
/// answers within microseconds here: there is no network in between.
const PAUSE: Duration = Duration::from_millis(150);
/// Longest wait for a reply that must come.
const PATIENCE: Duration = Duration::from_secs(10);
/// The transaction that must never happen.
const SMUGGLED: &str = "MAIL FROM:<evil@client.example>\r\nRCPT TO:<work@our.example>\r\nDATA\r\n\
                        Subject: smuggled\r\n\r\nx\r\n.\r\nQUIT\r\n";

/// Rule, octets, and what the message gets at its true end.
const SEQUENCES: [(&str, &str, &str); 21] = [
    ("C1", "\n.\n", "554 5.6.0"),
    ("C2", "\n.\r\n", "554 5.6.0"),
    ("C3", "\r\n.\n", "554 5.6.0"),
    ("C4", "\n.\r", "554 5.6.0"),
    ("C5", "\r.\n", "554 5.6.0"),
    ("C6", "\r.\r", "554 5.6.0"),
    ("C7", "\r.\r\n", "554 5.6.0"),
    ("C8", "\r\n.\r", "554 5.6.0"),
    ("C9", "\r\n\0.\r\n", "554 5.6.0"),
    ("C10", "\r\n.\0\r\n", "554 5.6.0"),
    ("C11", "\r\n.\r\r\n", "554 5.6.0"),
    ("C12", "\r\r\n.\r\r\n", "554 5.6.0"),
    ("C14", "\r\n..\r\n", "250 2.0.0"),
    ("C15 blank before", "\r\n .\r\n", "250 2.0.0"),
    ("C15 blank behind", "\r\n. \r\n", "250 2.0.0"),
    ("C16 NEL", "\u{85}.\u{85}", "250 2.0.0"),
    ("C16 LS", "\u{2028}.\u{2028}", "250 2.0.0"),
    ("C16 VT", "\x0b.\x0b", "250 2.0.0"),
    ("C16 FF", "\x0c.\x0c", "250 2.0.0"),
    ("C18 lone LF in the header", "\nX: y\r\n\r\n", "554 5.6.0"),
    ("C18 lone CR at the end", "\r\nlast\r", "554 5.6.0"),
];

struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and goes as far as 354.
    async fn in_data(relay: &MailRelay) -> Self {
        let stream = TcpStream::connect(relay.address).await.expect("connected");
        stream.set_nodelay(true).expect("nodelay");
        let mut client = Self { stream };
        client.expect("220").await;
        client.tell("EHLO client.example\r\n", "250").await;
        client.open_data().await;
        client
    }

    async fn open_data(&mut self) {
        self.tell("MAIL FROM:<a@client.example>\r\n", "250").await;
        self.tell("RCPT TO:<home@our.example>\r\n", "250").await;
        self.tell("DATA\r\n", "354").await;
    }

    async fn tell(&mut self, text: &str, expected: &str) {
        self.send(text).await;
        self.expect(expected).await;
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Octet by octet, a segment each.
    async fn drip(&mut self, text: &str) {
        for byte in text.bytes() {
            self.stream.write_all(&[byte]).await.expect("sent");
            tokio::task::yield_now().await;
        }
    }

    /// Reads one reply (they are asked for one at a time here) and gives it back.
    async fn expect(&mut self, start: &str) -> String {
        let mut reply = Vec::new();
        while !is_complete(&reply) {
            let mut byte = [0];
            let read = timeout(PATIENCE, self.stream.read_exact(&mut byte)).await;
            read.unwrap_or_else(|_| panic!("no reply, wanted {start}")).expect("connection");
            reply.push(byte[0]);
        }
        let reply = String::from_utf8(reply).expect("text");
        assert!(reply.starts_with(start), "wanted {start}, got {reply:?}");
        reply
    }

    async fn is_silent(&mut self) -> bool {
        let mut buffer = [0; 64];
        timeout(PAUSE, self.stream.read(&mut buffer)).await.is_err()
    }

    /// Everything until the relay closes.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("it closes").expect("connection");
        String::from_utf8(rest).expect("text")
    }
}

/// A last line has come: three digits, a blank, text, CR LF.
fn is_complete(reply: &[u8]) -> bool {
    reply.ends_with(b"\r\n")
        && reply.split(|&b| b == b'\n').rev().nth(1).is_some_and(|line| line.get(3) == Some(&b' '))
}

fn body(sequence: &str) -> String {
    format!("Subject: o\r\n\r\nhello{sequence}")
}

async fn pause_and_outcome(relay: &MailRelay, (rule, sequence, outcome): (&str, &str, &str)) {
    let mut client = Client::in_data(relay).await;
    client.send(&body(sequence)).await;
    assert!(client.is_silent().await, "{rule}: the sequence was answered");
    client.tell("tail\r\n.\r\n", outcome).await;
    // The session is in step, and the next transaction is untouched by the last.
    client.open_data().await;
    client.tell("Subject: next\r\n\r\n.\r\n", "250").await;
    client.tell("QUIT\r\n", "221").await;
}

async fn burst(relay: &MailRelay, (rule, sequence, outcome): (&str, &str, &str), split: bool) {
    let mut client = Client::in_data(relay).await;
    let text = format!("{}{SMUGGLED}", body(sequence));
    if split {
        client.drip(&text).await;
    } else {
        client.send(&text).await;
    }
    // The smuggled dot is the true end of the one message; QUIT follows it.
    let replies = client.rest().await;
    let codes: Vec<&str> = replies.lines().map(|line| &line[..9]).collect();
    assert_eq!(codes, [outcome, "221 2.0.0"], "{rule}: {replies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_but_crlf_dot_crlf_ends_a_message() {
    let relay = MailRelay::start().await;
    // All at once: the pauses overlap.
    let runs = SEQUENCES.map(|case| {
        let relay = &relay;
        async move {
            pause_and_outcome(relay, case).await;
            burst(relay, case, false).await;
            burst(relay, case, true).await;
        }
    });
    futures_util::future::join_all(runs).await;
    let harmless = SEQUENCES.iter().filter(|(_, _, outcome)| outcome.starts_with("250")).count();
    let items = relay.items().await;
    // Per sequence one "next"; per harmless one the message itself, paused, burst and split. The last two
    // are equal octet for octet, but nobody lost a reply: both stay.
    assert_eq!(items.len(), SEQUENCES.len() + 3 * harmless);
    for item in &items {
        assert_ne!(item.tag, b"work@our.example", "a smuggled recipient got mail");
        let body = relay.body(item).await;
        let strays = body.windows(2).filter(|w| (w[0] == b'\r') != (w[1] == b'\n')).count();
        assert_eq!((strays, body.contains(&0)), (0, false), "a stray octet reached the spool");
    }
    relay.stop().await;
}

/// C13: a stray CR, then a true end. The end counts, the message is refused, and what follows is commands.
#[tokio::test]
async fn a_true_end_after_a_stray_cr_ends_the_message_and_refuses_it() {
    let relay = MailRelay::start().await;
    let mut client = Client::in_data(&relay).await;
    client.tell(&body("\r\r\n.\r\n"), "554 5.6.0").await;
    client.tell("NOOP\r\n", "250 2.0.0").await;
    assert!(relay.items().await.is_empty());
    drop(client);
    relay.stop().await;
}
