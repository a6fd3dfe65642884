//! The LMTP destination (RFC 2033): Dovecot, Cyrus, Postfix' `lmtp`, or anything else that says LHLO.
//!
//! One connection per message, one recipient per message, so exactly one reply after the dot. The message is
//! dot-stuffed and ended by `CRLF . CRLF`; a message that does not end in CRLF gets one, the only byte pair that
//! is ever added. A message with a bare CR or LF is refused: it cannot pass LMTP unchanged, and servers that take a bare LF
//! for a line end would see another end of data than we do (smuggling).
//!
//! Replies decide (RFC 5321 section 4.2.1): 2yz after the dot is stored, 5yz to MAIL, RCPT, DATA or the dot is refused,
//! 4yz later. No connection, no greeting, a refused LHLO, 421, a line lost or a timeout before the message is asked for:
//! unavailable. Lost after that: later, because it may be this message that the server cannot bear, and the others must not
//! wait for it; a server that is gone is unavailable to the next one. After the dot it may have the message, which is
//! the at-least-once window of this destination.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::gateway::destination::{Letter, Outcome, one_line};
use crate::mail::smtp::stuffing::Stuffer;

/// Longest reply line, bytes (RFC 5321 section 4.5.3.1.5 says 512; some servers say more).
const LINE_BYTES_MAX: usize = 2048;
/// Most lines in one reply.
const LINES_MAX: usize = 100;
/// How much of the message is read and stuffed at once.
const PIECE_BYTES: usize = 32 * 1024;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Unix domain socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// An LMTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lmtp {
    address: Address,
    hello: String,
    recipient: Option<String>,
    step_timeout: Duration,
}

/// What ended a conversation before a final answer.
#[derive(Debug)]
enum Broken {
    /// The server or the line, before it asked for the message.
    Line(String),
    /// The server or the line, within the message.
    Message(String),
    /// The server's reply.
    Reply(Reply),
    /// Our own file.
    File(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Line(error.to_string())
    }
}

/// One reply: code, and its text as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    code: u16,
    text: String,
    lines: Vec<String>,
}

impl Lmtp {
    /// A server at `address`, greeted as `hello`. `recipient`, if given, replaces the envelope recipient (a local mailbox
    /// name, where the server does not know key texts). `step_timeout` limits each wait for the server.
    #[must_use]
    pub fn new(address: Address, hello: String, recipient: Option<String>, step_timeout: Duration) -> Self {
        Self { address, hello, recipient, step_timeout }
    }

    /// Hands the message over in a connection of its own.
    pub async fn deliver(&self, letter: &Letter) -> Outcome {
        let recipient = self.recipient.as_deref().unwrap_or(&letter.rcpt_to);
        if !is_path(&letter.mail_from) || !is_path(recipient) || recipient.is_empty() {
            return Outcome::refused("the envelope cannot be written in LMTP");
        }
        match has_bare_line_end(&letter.path).await {
            Ok(false) => {}
            Ok(true) => {
                return Outcome::refused("the message has a bare CR or LF and cannot pass LMTP unchanged");
            }
            Err(error) => return Outcome::later(format!("cannot read the received message: {error}")),
        }
        let connected = match &self.address {
            Address::Unix(path) => timeout(self.step_timeout, UnixStream::connect(path))
                .await
                .map(|stream| stream.map(|stream| Box::new(stream) as Box<dyn Line>)),
            Address::Tcp(address) => timeout(self.step_timeout, TcpStream::connect(address))
                .await
                .map(|stream| stream.map(|stream| Box::new(stream) as Box<dyn Line>)),
        };
        match connected {
            Err(_) => Outcome::unavailable("connecting to the LMTP server took too long"),
            Ok(Err(error)) => Outcome::unavailable(format!("cannot connect to the LMTP server: {error}")),
            Ok(Ok(stream)) => self.converse(BufReader::new(stream), letter, recipient).await,
        }
    }

    async fn converse(&self, mut line: BufReader<Box<dyn Line>>, letter: &Letter, to: &str) -> Outcome {
        match self.hand_over(&mut line, letter, to).await {
            Err(Broken::Line(problem)) => Outcome::unavailable(format!("LMTP: {problem}")),
            Err(Broken::Message(problem)) => Outcome::later(format!("LMTP: within the message: {problem}")),
            Err(Broken::File(error)) => Outcome::later(format!("cannot read the received message: {error}")),
            Err(Broken::Reply(reply)) => reply.outcome(),
            Ok(()) => match self.reply(&mut line).await {
                Ok(reply) => {
                    // Politeness only: the answer is known.
                    let _ = timeout(Duration::from_secs(1), line.get_mut().write_all(b"QUIT\r\n")).await;
                    reply.outcome()
                }
                Err(_) => Outcome::later("LMTP: connection lost after the end of the message"),
            },
        }
    }

    /// Everything up to and including the dot.
    async fn hand_over(
        &self,
        line: &mut BufReader<Box<dyn Line>>,
        letter: &Letter,
        to: &str,
    ) -> Result<(), Broken> {
        let greeting = self.reply(line).await?;
        if greeting.code != 220 {
            return Err(Broken::Line(format!("greeted with {} {}", greeting.code, greeting.text)));
        }
        let hello = self.command(line, &format!("LHLO {}", self.hello)).await?;
        if hello.code != 250 {
            return Err(Broken::Line(format!("LHLO answered with {} {}", hello.code, hello.text)));
        }
        let mut mail = format!("MAIL FROM:<{}>", letter.mail_from);
        if hello.offers("SIZE") {
            mail.push_str(&format!(" SIZE={}", letter.size_bytes));
        }
        if hello.offers("8BITMIME") {
            mail.push_str(" BODY=8BITMIME");
        }
        if !(letter.mail_from.is_ascii() && to.is_ascii()) {
            if !hello.offers("SMTPUTF8") {
                let text = "server without SMTPUTF8, address outside ASCII".to_owned();
                return Err(Broken::Reply(Reply { code: 553, text, lines: Vec::new() }));
            }
            mail.push_str(" SMTPUTF8");
        }
        self.expect(line, &mail, 2).await?;
        self.expect(line, &format!("RCPT TO:<{to}>"), 2).await?;
        self.expect(line, "DATA", 3).await?;
        self.body(line, letter).await
    }

    async fn body(&self, line: &mut BufReader<Box<dyn Line>>, letter: &Letter) -> Result<(), Broken> {
        let mut file = File::open(&letter.path).await.map_err(Broken::File)?;
        let mut stuffer = Stuffer::for_data();
        let mut piece = vec![0; PIECE_BYTES];
        let mut out = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8);
        loop {
            let n = file.read(&mut piece).await.map_err(Broken::File)?;
            out.clear();
            // Looked for before; a file that has them now was changed meanwhile.
            let stray = |stray| Broken::File(io::Error::new(io::ErrorKind::InvalidData, stray));
            if n == 0 {
                stuffer.finish(&mut out).map_err(stray)?;
                out.extend_from_slice(b".\r\n");
            } else {
                stuffer.stuff(&piece[..n], &mut out).map_err(stray)?;
            }
            timeout(self.step_timeout, line.get_mut().write_all(&out))
                .await
                .map_err(|_| Broken::Message("the server stopped reading".to_owned()))?
                .map_err(|error| Broken::Message(error.to_string()))?;
            if n == 0 {
                return Ok(());
            }
        }
    }

    async fn expect(
        &self,
        line: &mut BufReader<Box<dyn Line>>,
        command: &str,
        class: u16,
    ) -> Result<(), Broken> {
        let reply = self.command(line, command).await?;
        if reply.code / 100 == class { Ok(()) } else { Err(Broken::Reply(reply)) }
    }

    async fn command(&self, line: &mut BufReader<Box<dyn Line>>, command: &str) -> Result<Reply, Broken> {
        line.get_mut().write_all(format!("{command}\r\n").as_bytes()).await?;
        self.reply(line).await
    }

    async fn reply(&self, line: &mut (impl AsyncBufRead + Unpin)) -> Result<Reply, Broken> {
        timeout(self.step_timeout, read_reply(line))
            .await
            .map_err(|_| Broken::Line("the server does not answer".to_owned()))?
    }
}

/// A byte stream to the server.
trait Line: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

impl Reply {
    fn outcome(&self) -> Outcome {
        let said = format!("LMTP: {} {}", self.code, self.text);
        match self.code {
            421 => Outcome::unavailable(said),
            200..300 => Outcome::Stored,
            400..500 => Outcome::later(said),
            500..600 => Outcome::refused(said),
            _ => Outcome::later(said),
        }
    }

    fn offers(&self, keyword: &str) -> bool {
        let first = |line: &String| line.split(' ').next().map(str::to_owned).unwrap_or_default();
        self.lines.iter().skip(1).any(|line| first(line).eq_ignore_ascii_case(keyword))
    }
}

/// Reads one reply, bounded in line length and number of lines.
async fn read_reply(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Reply, Broken> {
    let garbage = |what: &str| Broken::Line(format!("the server sent {what}"));
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64;
        (&mut *stream).take(limit).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(garbage("an end of file"));
        }
        if line.last() != Some(&b'\n') {
            return Err(garbage("a line without end"));
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let code = text.get(..3).filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
        let Some(code) = code.and_then(|code| code.parse::<u16>().ok()) else {
            return Err(garbage("a line without reply code"));
        };
        let more = text.as_bytes().get(3) == Some(&b'-');
        lines.push(text.get(4..).unwrap_or_default().to_owned());
        if !more {
            return Ok(Reply { code, text: one_line(&lines.join(" ")), lines });
        }
        if lines.len() == LINES_MAX {
            return Err(garbage("a reply of too many lines"));
        }
    }
}

/// An address that can stand between angle brackets.
fn is_path(address: &str) -> bool {
    address.len() <= 1000 && !address.chars().any(|c| c.is_control() || c == ' ' || c == '<' || c == '>')
    // Quoted local parts may hold blanks and brackets; nothing we know of delivers to such a name.
}

async fn has_bare_line_end(path: &std::path::Path) -> io::Result<bool> {
    let mut file = File::open(path).await?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut after_cr = false;
    loop {
        let n = file.read(&mut piece).await?;
        if n == 0 {
            return Ok(after_cr);
        }
        for byte in &piece[..n] {
            if (*byte == b'\n') != after_cr {
                return Ok(true);
            }
            after_cr = *byte == b'\r';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(dir: &tempfile::TempDir, body: &[u8]) -> Letter {
        Letter::sample(dir.path().join("message"), body)
    }

    /// Serves one connection from a list of replies, one after each command (the message counts as one).
    async fn deliver(body: &[u8], replies: &'static [&'static str]) -> (Outcome, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lmtp");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut got = Vec::new();
            let mut in_data = false;
            for reply in replies {
                if stream.get_mut().write_all(reply.as_bytes()).await.is_err() {
                    return got;
                }
                in_data |= reply.starts_with("354");
                loop {
                    let start = got.len();
                    match stream.read_until(b'\n', &mut got).await {
                        Ok(1..) if in_data && &got[start..] != b".\r\n" => {}
                        Ok(_) | Err(_) => break,
                    }
                }
            }
            got
        };
        let recipient = Some("user".to_owned());
        let lmtp = Lmtp::new(Address::Unix(path), "home".to_owned(), recipient, Duration::from_secs(20));
        let letter = letter(&dir, body);
        tokio::join!(lmtp.deliver(&letter), serving)
    }

    const HELLO: &str = "250-lmtp\r\n250-8BITMIME\r\n250 SIZE 1000\r\n";

    #[tokio::test]
    async fn message_is_stuffed_and_ended_and_stored() {
        let replies = &["220 hi\r\n", HELLO, "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 2.0.0 kept\r\n"];
        let (outcome, got) = deliver(b".a\r\n..b\r\n\r\nend", replies).await;
        assert_eq!(outcome, Outcome::Stored);
        let got = String::from_utf8(got).unwrap();
        assert_eq!(
            got,
            "LHLO home\r\nMAIL FROM:<> SIZE=14 BODY=8BITMIME\r\nRCPT TO:<user>\r\nDATA\r\n\
             ..a\r\n...b\r\n\r\nend\r\n.\r\nQUIT\r\n"
        );
    }

    #[tokio::test]
    async fn replies_decide_the_outcome() {
        let (outcome, _) = deliver(b"x\r\n", &["220 hi\r\n", HELLO, "250 ok\r\n", "550 5.1.1 no\r\n"]).await;
        assert_eq!(outcome, Outcome::refused("LMTP: 550 5.1.1 no"));
        let (outcome, _) =
            deliver(b"x\r\n", &["220 hi\r\n", HELLO, "250 ok\r\n", "452-full\r\n452 4.2.2 box\r\n"]).await;
        assert_eq!(outcome, Outcome::later("LMTP: 452 full 4.2.2 box"));
        let (outcome, _) = deliver(b"x\r\n", &["421 closing\r\n"]).await;
        assert!(matches!(outcome, Outcome::Unavailable { .. }));
        let (outcome, _) = deliver(b"x\r\n", &["220 hi\r\n", HELLO, "421 closing\r\n"]).await;
        assert!(matches!(outcome, Outcome::Unavailable { .. }));
    }

    #[tokio::test]
    async fn a_line_lost_after_the_dot_means_later() {
        let (outcome, _) =
            deliver(b"x\r\n", &["220 hi\r\n", HELLO, "250 ok\r\n", "250 ok\r\n", "354 go\r\n"]).await;
        assert!(matches!(outcome, Outcome::Later { .. }), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_line_lost_within_the_message_means_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lmtp");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            for reply in ["220 hi\r\n", HELLO, "250 ok\r\n", "250 ok\r\n"] {
                stream.get_mut().write_all(reply.as_bytes()).await.unwrap();
                stream.read_until(b'\n', &mut Vec::new()).await.unwrap();
            }
            stream.get_mut().write_all(b"354 go\r\n").await.unwrap();
            stream.read_until(b'\n', &mut Vec::new()).await.unwrap();
            // It goes while most of the message is not sent.
        };
        let lmtp = Lmtp::new(Address::Unix(path), "home".to_owned(), None, Duration::from_secs(20));
        // More than a socket holds.
        let letter = letter(&dir, &b"x\r\n".repeat(4 * 1024 * 1024));
        let (outcome, ()) = tokio::join!(lmtp.deliver(&letter), serving);
        assert!(matches!(outcome, Outcome::Later { .. }), "{outcome:?}");
    }

    #[tokio::test]
    async fn garbage_and_absence_make_it_unavailable() {
        for garbage in ["hello\r\n".to_owned(), "2".repeat(LINE_BYTES_MAX + 1), "\u{e4}\u{e4}\r\n".to_owned()]
        {
            let replies: &'static [&'static str] = Vec::leak(vec![&*garbage.clone().leak()]);
            let (outcome, _) = deliver(b"x\r\n", replies).await;
            assert!(matches!(outcome, Outcome::Unavailable { .. }), "{garbage}: {outcome:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let nowhere = Address::Unix(dir.path().join("none"));
        let lmtp = Lmtp::new(nowhere, "h".to_owned(), None, Duration::from_secs(5));
        assert!(matches!(lmtp.deliver(&letter(&dir, b"x")).await, Outcome::Unavailable { .. }));
    }

    #[tokio::test]
    async fn bare_line_ends_and_hostile_addresses_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = Address::Unix(dir.path().join("none"));
        let lmtp = Lmtp::new(nowhere, "h".to_owned(), None, Duration::from_secs(5));
        for body in [&b"a\nb\r\n"[..], b"a\rb\r\n", b"a\r", b"\n.\r\n"] {
            assert!(matches!(lmtp.deliver(&letter(&dir, body)).await, Outcome::Refused { .. }));
        }
        let mut hostile = letter(&dir, b"x\r\n");
        hostile.mail_from = "a@b>\r\nRCPT TO:<root".to_owned();
        assert!(matches!(lmtp.deliver(&hostile).await, Outcome::Refused { .. }));
    }
}
