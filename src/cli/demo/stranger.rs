//! The demo's stranger: a mail server that knows nothing of relays and gateways, and just speaks SMTP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longest wait for one reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest reply line, bytes (RFC 5321 section 4.5.3.1.5 says 512).
const REPLY_BYTES_MAX: u64 = 4096;

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) subject: String,
    /// All of it, header and body, CRLF line ends.
    pub(super) body: Vec<u8>,
    /// What the relay's 250 said; empty before it was sent.
    pub(super) id: String,
}

impl Letter {
    pub(super) fn plain(subject: &str) -> Self {
        Self::with(subject, b"Dear home,\r\n\r\nthis is all.\r\n")
    }

    fn with(subject: &str, text: &[u8]) -> Self {
        let head = format!(
            "From: A Stranger <stranger@far.example>\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        );
        let body = [head.as_bytes(), text].concat();
        Self { subject: subject.to_owned(), body, id: String::new() }
    }

    /// Messages that a careless relay would change.
    pub(super) fn difficult() -> Vec<Self> {
        let big = b"All work and no play makes a relay a dull machine. 0123456789\r\n".repeat(32 * 1024);
        vec![
            Self::with("Lines that are only dots", b".\r\n..\r\n...\r\n.hidden\r\n"),
            Self::with("Eight bits", "Grüße aus der Ferne, 你好, \u{1f4ec}\r\n".as_bytes()),
            Self::with("Blanks at the ends of lines", b"one \r\ntwo\t\r\n \r\n\r\n\r\n"),
            Self::with("Two MiB in one piece", &big),
            Self::with("No end in sight", b"the last line\r\n\r\n.\r\n\r\n"),
        ]
    }
}

/// Sends to one address.
pub(super) struct Stranger {
    to: String,
}

impl Stranger {
    pub(super) fn new(to: &str) -> Self {
        Self { to: to.to_owned() }
    }

    /// Sends one message on a connection of its own, and keeps the id that the relay named.
    pub(super) async fn send(&self, relay: SocketAddr, mut letter: Letter) -> anyhow::Result<Letter> {
        let socket = TcpStream::connect(relay).await.context("cannot reach the relay")?;
        // The final dot follows the body without waiting for an answer in between.
        socket.set_nodelay(true)?;
        let mut line = Dialog { socket: BufReader::new(socket) };
        line.expect("220").await?;
        line.say("EHLO far.example", "250").await?;
        line.say("MAIL FROM:<stranger@far.example> BODY=8BITMIME", "250").await?;
        line.say(&format!("RCPT TO:<{}>", self.to), "250").await?;
        line.say("DATA", "354").await?;
        line.socket.get_mut().write_all(&stuffed(&letter.body)).await?;
        let reply = line.say(".", "250").await?;
        // What follows the 250 is no longer part of the promise.
        let _ = line.say("QUIT", "221").await;
        letter.id = reply.rsplit(' ').next().unwrap_or_default().trim().to_owned();
        Ok(letter)
    }
}

/// Dot transparency (RFC 5321 section 4.5.2).
fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 16);
    for line in body.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            bytes.push(b'.');
        }
        bytes.extend_from_slice(line);
    }
    bytes
}

struct Dialog {
    socket: BufReader<TcpStream>,
}

impl Dialog {
    async fn say(&mut self, command: &str, code: &str) -> anyhow::Result<String> {
        self.socket.get_mut().write_all(format!("{command}\r\n").as_bytes()).await?;
        self.expect(code).await
    }

    /// Reads one reply, of any number of lines, and returns its last one.
    async fn expect(&mut self, code: &str) -> anyhow::Result<String> {
        loop {
            let mut line = String::new();
            let mut limited = (&mut self.socket).take(REPLY_BYTES_MAX);
            tokio::time::timeout(REPLY_TIMEOUT, limited.read_line(&mut line))
                .await
                .context("the relay did not reply in time")??;
            if !line.starts_with(code) {
                bail!("the relay said {:?} where {code} was due", line.trim_end());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_at_line_starts_are_doubled() {
        assert_eq!(stuffed(b".\r\na.\r\n..b\r\n"), b"..\r\na.\r\n...b\r\n");
    }
}
