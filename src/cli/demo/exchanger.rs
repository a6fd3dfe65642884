//! The demo's far mail server: takes mail for some, refuses it for others, and once hangs up without a word.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest line, bytes.
const LINE_BYTES_MAX: u64 = 8192;
/// Most lines of one message.
const LINES_MAX: usize = 10_000;

/// Takes everything.
pub(super) const FRIEND: &str = "friend@far.example";
/// Is unknown there.
pub(super) const NOBODY: &str = "nobody@far.example";
/// The server takes the message, and hangs up instead of saying so.
pub(super) const SILENT: &str = "silent@far.example";

/// A running server.
pub(super) struct Exchanger {
    pub(super) address: SocketAddr,
    copies: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Exchanger {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
        let (address, copies) = (listener.local_addr()?, Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&copies);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // How a conversation ends is the relay's business; here only what was received whole counts.
                tokio::spawn(converse(socket, Arc::clone(&kept)));
            }
        });
        Ok(Self { address, copies, task })
    }

    /// Messages for `rcpt_to` that were received whole.
    pub(super) fn copies(&self, rcpt_to: &str) -> usize {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.iter().filter(|known| *known == rcpt_to).count()
    }
}

impl Drop for Exchanger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(socket: TcpStream, copies: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    let mut rcpt_to = String::new();
    socket.get_mut().write_all(b"220 far.example ESMTP\r\n").await?;
    while let Some(line) = line(&mut socket).await? {
        let reply = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
            "EHLO" => "250 far.example",
            "RCPT" if line.contains(NOBODY) => "550 5.1.1 no such user here",
            "RCPT" => {
                let path = line.split(['<', '>']).nth(1).unwrap_or_default();
                path.clone_into(&mut rcpt_to);
                "250 2.1.5 ok"
            }
            "DATA" => {
                socket.get_mut().write_all(b"354 go on\r\n").await?;
                if !message(&mut socket).await? {
                    return Ok(());
                }
                copies.lock().unwrap_or_else(PoisonError::into_inner).push(rcpt_to.clone());
                if rcpt_to == SILENT {
                    return Ok(());
                }
                "250 2.0.0 taken"
            }
            "QUIT" => "221 2.0.0 bye",
            _ => "250 2.0.0 ok",
        };
        socket.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// Reads up to the lone dot; false when the line broke before it.
async fn message(socket: &mut BufReader<TcpStream>) -> std::io::Result<bool> {
    for _ in 0..LINES_MAX {
        match line(socket).await? {
            Some(line) if line == "." => return Ok(true),
            Some(_) => {}
            None => return Ok(false),
        }
    }
    Ok(false)
}

async fn line(socket: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = socket.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}
