//! One conversation: commands in, scripted answers out.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use memchr::memmem;
use tokio::net::TcpStream;

use super::wire::Wire;
use super::{Act, Book, Heard, Moment, Received, Script, Step, TlsFacts};

/// Longest command line that is read.
const LINE_MAX: usize = 64 * 1024;

/// The conversation is over.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

pub(super) struct Session {
    wire: Wire,
    script: Script,
    connection: usize,
    host: IpAddr,
    book: Arc<Book>,
    times: HashMap<Step, usize>,
    tls: Option<TlsFacts>,
    mail: Option<(String, Vec<String>)>,
    rcpt_to: Vec<String>,
    /// Message bytes of chunks so far.
    chunks: Vec<u8>,
    /// What is still to happen in this body.
    pending: Option<Act>,
    /// A 4yz or 5yz was said while the body came.
    refused: bool,
}

impl Session {
    pub(super) fn new(
        stream: TcpStream,
        script: Script,
        connection: usize,
        host: IpAddr,
        book: Arc<Book>,
    ) -> Self {
        Self {
            wire: Wire::new(stream),
            script,
            connection,
            host,
            book,
            times: HashMap::new(),
            tls: None,
            mail: None,
            rcpt_to: Vec::new(),
            chunks: Vec::new(),
            pending: None,
            refused: false,
        }
    }

    pub(super) async fn run(mut self) {
        // Whatever ends it, it is over: nobody asks why.
        let _over: Result<(), Over> = self.converse().await;
    }

    async fn converse(&mut self) -> Result<(), Over> {
        self.answer(Step::Banner, "", b"220 sink.example ESMTP\r\n").await?;
        loop {
            let line = self.line().await?;
            self.hear(&line);
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    self.reset();
                    let usual = self.capabilities();
                    self.answer(Step::Ehlo, &line, usual.as_bytes()).await?;
                }
                "HELO" => {
                    self.reset();
                    self.answer(Step::Helo, &line, b"250 sink.example\r\n").await?;
                }
                "STARTTLS" => self.starttls(&line).await?,
                "MAIL" => {
                    if self.answer(Step::Mail, &line, b"250 2.1.0 ok\r\n").await? == b'2' {
                        let (path, parameters) = path(&line);
                        self.mail = Some((path, parameters));
                    }
                }
                "RCPT" => {
                    let usual: &[u8] =
                        if self.mail.is_some() { b"250 2.1.5 ok\r\n" } else { b"503 5.5.1 MAIL first\r\n" };
                    if self.answer(Step::Rcpt, &line, usual).await? == b'2' {
                        self.rcpt_to.push(path(&line).0);
                    }
                }
                "DATA" => self.data(&line).await?,
                "BDAT" => self.bdat(&line).await?,
                "RSET" => {
                    self.reset();
                    self.answer(Step::Rset, &line, b"250 2.0.0 ok\r\n").await?;
                }
                "QUIT" => {
                    self.answer(Step::Quit, &line, b"221 2.0.0 bye\r\n").await?;
                    self.wire.close().await;
                    return Err(Over);
                }
                "NOOP" => {
                    self.answer(Step::Other, &line, b"250 2.0.0 ok\r\n").await?;
                }
                _ => {
                    self.answer(Step::Other, &line, b"500 5.5.1 what?\r\n").await?;
                }
            }
        }
    }

    fn capabilities(&self) -> String {
        let mut lines = vec!["sink.example".to_owned()];
        let in_tls = self.tls.as_ref().and(self.script.offers_in_tls.as_ref());
        lines.extend_from_slice(in_tls.unwrap_or(&self.script.offers));
        if self.tls.is_none() && self.script.identity.is_some() {
            lines.push("STARTTLS".to_owned());
        }
        let last = lines.len() - 1;
        let line =
            |(n, text): (usize, &String)| format!("250{}{text}\r\n", if n == last { ' ' } else { '-' });
        lines.iter().enumerate().map(line).collect()
    }

    fn reset(&mut self) {
        self.mail = None;
        self.rcpt_to.clear();
        self.chunks.clear();
        self.refused = false;
    }

    async fn starttls(&mut self, line: &str) -> Result<(), Over> {
        let Some(identity) = self.script.identity.clone() else {
            self.answer(Step::StartTls, line, b"502 5.5.1 not here\r\n").await?;
            return Ok(());
        };
        if self.answer(Step::StartTls, line, b"220 2.0.0 go\r\n").await? != b'2' {
            return Ok(());
        }
        self.answer(Step::Handshake, line, b"").await?;
        self.tls = Some(self.wire.secure(identity.server).await?);
        self.hear("<tls>");
        self.reset();
        Ok(())
    }

    async fn data(&mut self, line: &str) -> Result<(), Over> {
        let usual: &[u8] =
            if self.rcpt_to.is_empty() { b"503 5.5.1 no recipients\r\n" } else { b"354 go on\r\n" };
        if self.answer(Step::Data, line, usual).await? != b'3' {
            return Ok(());
        }
        let mut body = b"\r\n".to_vec();
        self.pending = Some(self.act(Step::Body, ""));
        loop {
            self.in_body(body.len() - 2).await?;
            let from = body.len().saturating_sub(4);
            let wanted = match &self.pending {
                Some(Act::After(at, _)) => at.saturating_sub(body.len() - 2).max(1),
                _ => usize::MAX,
            };
            if self.wire.ahead.is_empty() {
                self.wire.read(wanted).await?;
            }
            let n = wanted.min(self.wire.ahead.len());
            body.extend(self.wire.ahead.drain(..n));
            if let Some(at) = memmem::find(&body[from..], b"\r\n.\r\n") {
                let end = from + at;
                self.wire.ahead.splice(..0, body[end + 5..].iter().copied());
                body.truncate(end + 2);
                return self.complete(unstuffed(&body), false).await;
            }
        }
    }

    async fn bdat(&mut self, line: &str) -> Result<(), Over> {
        let mut words = line.split(' ').skip(1);
        let Some(mut left) = words.next().and_then(|size| size.parse::<usize>().ok()) else {
            self.answer(Step::Bdat, line, b"501 5.5.4 size\r\n").await?;
            return Ok(());
        };
        let is_last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        if self.chunks.is_empty() {
            self.pending = Some(self.act(Step::Body, ""));
        }
        while left > 0 {
            self.in_body(self.chunks.len()).await?;
            let wanted = match &self.pending {
                Some(Act::After(at, _)) => at.saturating_sub(self.chunks.len()).max(1).min(left),
                _ => left,
            };
            if self.wire.ahead.is_empty() {
                self.wire.read(wanted).await?;
            }
            let n = wanted.min(self.wire.ahead.len());
            self.chunks.extend(self.wire.ahead.drain(..n));
            left -= n;
        }
        if self.rcpt_to.is_empty() {
            self.answer(Step::Bdat, line, b"503 5.5.1 no recipients\r\n").await?;
            return Ok(());
        }
        if is_last {
            let bytes = std::mem::take(&mut self.chunks);
            return self.complete(bytes, true).await;
        }
        self.answer(Step::Bdat, line, b"250 2.0.0 chunk\r\n").await?;
        Ok(())
    }

    /// Does what the script wants at the start or in the middle of a body.
    async fn in_body(&mut self, have: usize) -> Result<(), Over> {
        let act = match self.pending.take() {
            None | Some(Act::Usual) => return Ok(()),
            Some(Act::After(at, act)) if have < at => {
                self.pending = Some(Act::After(at, act));
                return Ok(());
            }
            Some(Act::After(_, act)) => *act,
            Some(act) => act,
        };
        let (said, _) = self.perform(act, b"").await?;
        self.refused |= matches!(said.first(), Some(b'4' | b'5'));
        Ok(())
    }

    /// The message is here: it is written down before anything is answered.
    async fn complete(&mut self, bytes: Vec<u8>, chunked: bool) -> Result<(), Over> {
        let test_id = test_id(&bytes);
        let (mail_from, mail_parameters) = self.mail.take().unwrap_or_default();
        let act = self.act(Step::Dot, &test_id);
        // From the moment that a refusal can be on its way, it is one; a half one is none.
        let refused = std::mem::take(&mut self.refused) || refuses(&act);
        let serial = {
            let mut state = self.book.state();
            state.serial += 1;
            let received = Received {
                serial: state.serial,
                connection: self.connection,
                host: self.host,
                mail_from,
                mail_parameters,
                rcpt_to: std::mem::take(&mut self.rcpt_to),
                bytes,
                test_id,
                chunked,
                tls: self.tls.clone(),
                reply: Vec::new(),
                refused,
            };
            state.received.push(received);
            state.serial
        };
        let (said, _) = self.perform(act, b"250 2.0.0 ok: kept\r\n").await?;
        let mut state = self.book.state();
        if let Some(received) = state.received.iter_mut().rfind(|received| received.serial == serial) {
            received.reply = said;
        }
        Ok(())
    }

    fn act(&mut self, step: Step, line: &str) -> Act {
        let nth = self.times.entry(step).or_default();
        *nth += 1;
        self.script.act(Moment { step, nth: *nth, line })
    }

    /// Answers; returns the first octet of the last line of what was said.
    async fn answer(&mut self, step: Step, line: &str, usual: &[u8]) -> Result<u8, Over> {
        let act = self.act(step, line);
        Ok(self.perform(act, usual).await?.1)
    }

    async fn perform(&mut self, act: Act, usual: &[u8]) -> Result<(Vec<u8>, u8), Over> {
        let mut act = act;
        while let Act::Delay(pause, next) = act {
            tokio::time::sleep(pause).await;
            act = *next;
        }
        let said = match act {
            Act::Usual => {
                self.wire.write(usual).await?;
                usual.to_vec()
            }
            Act::Reply(bytes) => {
                self.wire.write(&bytes).await?;
                bytes
            }
            Act::Trickle(bytes, pause) => {
                self.wire.trickle(&bytes, pause).await?;
                bytes
            }
            Act::Last(bytes) => {
                self.wire.write(&bytes).await?;
                self.wire.close().await;
                return Err(Over);
            }
            Act::Cut => {
                self.wire.cut().await;
                return Err(Over);
            }
            Act::Reset(bytes) => {
                self.wire.write(&bytes).await?;
                self.wire.reset();
                return Err(Over);
            }
            Act::Silence => {
                self.wire.listen_only().await;
                return Err(Over);
            }
            Act::StopReading => std::future::pending().await,
            Act::Delay(..) | Act::After(..) => return Ok((Vec::new(), 0)),
        };
        let last = said.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let digit = last.first().copied().unwrap_or_default();
        Ok((said, digit))
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.wire.ahead) {
                let line: Vec<u8> = self.wire.ahead.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            if self.wire.ahead.len() > LINE_MAX {
                return Err(Over);
            }
            self.wire.read(usize::MAX).await?;
        }
    }

    fn hear(&self, line: &str) {
        let (connection, host, line) = (self.connection, self.host, line.to_owned());
        let pipelined = !self.wire.ahead.is_empty();
        self.book.state().heard.push(Heard { connection, host, line, pipelined });
    }
}

/// The path of `MAIL` or `RCPT` with its angle brackets, and the parameters.
fn path(line: &str) -> (String, Vec<String>) {
    let start = line.find('<').unwrap_or(line.len());
    let end = line.rfind('>').map_or(line.len(), |at| at + 1).max(start);
    let parameters = line[end..].split_whitespace().map(str::to_owned).collect();
    (line[start..end].to_owned(), parameters)
}

/// From the CRLF before the body to the CRLF before the dot, to the message's octets.
fn unstuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out.split_off(2)
}

/// Whether this act after the dot says completely that the message was not taken.
fn refuses(act: &Act) -> bool {
    match act {
        Act::Delay(_, act) => refuses(act),
        Act::Reply(bytes) | Act::Last(bytes) | Act::Reset(bytes) | Act::Trickle(bytes, _) => {
            let last = bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            bytes.ends_with(b"\n")
                && matches!(last, [b'4' | b'5', d, e, ..] if d.is_ascii_digit() && e.is_ascii_digit())
        }
        Act::Usual | Act::Cut | Act::Silence | Act::StopReading | Act::After(..) => false,
    }
}

fn test_id(bytes: &[u8]) -> String {
    let header = memmem::find(bytes, b"\r\n\r\n").map_or(bytes, |end| &bytes[..end]);
    let text = String::from_utf8_lossy(header);
    let value = text.lines().find_map(|line| line.strip_prefix("X-Test-Id:"));
    value.unwrap_or_default().trim().to_owned()
}
