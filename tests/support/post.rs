//! A sender that blocks: enough SMTP for scenarios about other things.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Sends one message; `Ok` is the id that the 250 named, `Err` the reply that refused.
pub(crate) fn send(relay: SocketAddr, to: &str, message: &[u8]) -> Result<String, String> {
    let socket = TcpStream::connect(relay).expect("the relay listens");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    socket.set_nodelay(true).expect("nodelay");
    let mut dialog = Dialog(BufReader::new(socket));
    dialog.reply("220")?;
    dialog.say("EHLO far.example", "250")?;
    dialog.say("MAIL FROM:<stranger@far.example> BODY=8BITMIME", "250")?;
    dialog.say(&format!("RCPT TO:<{to}>"), "250")?;
    dialog.say("DATA", "354")?;
    let mut stuffed = Vec::new();
    for line in message.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    dialog.0.get_mut().write_all(&stuffed).expect("body");
    let queued = dialog.say(".", "250")?;
    dialog.say("QUIT", "221")?;
    Ok(queued.rsplit(' ').next().unwrap_or_default().to_owned())
}

struct Dialog(BufReader<TcpStream>);

impl Dialog {
    fn say(&mut self, command: &str, code: &str) -> Result<String, String> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).expect("command");
        self.reply(code)
    }

    fn reply(&mut self, code: &str) -> Result<String, String> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("reply");
            let line = line.trim_end().to_owned();
            if !line.starts_with(code) {
                return Err(line);
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }
}
