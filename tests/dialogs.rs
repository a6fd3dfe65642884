//! Scripted conversations, one misbehaviour each: `tests/dialogs/*.smtp`.
//!
//! Each file runs against a relay of its own, all of them at the same time. The language, line by line:
//!
//! | line | meaning |
//! |---|---|
//! | `# text` | comment |
//! | `@ key value` | setting of the relay, before anything else: see `settings` |
//! | `< 250 2.1.0` | the next complete reply begins so; every reply line is checked for form on the way |
//! | `<* text` | some line of the reply just read contains this |
//! | `<! text` | no line of the reply just read contains this |
//! | `< closed` | the relay closes the connection |
//! | `> line` | send the line and CRLF |
//! | `! "raw\r\n"` | send these octets: escapes as in Rust, and `\xNN`; `"x" * 900` repeats |
//! | `~ 200ms` | nothing may arrive for that long |
//! | `+ connect` | leave the connection alone and open another |
//! | `+ hangup` | close our end |
//! | `= items 1` | so many items lie in the spool |
//! | `= body "raw"` | the newest item's body, octet for octet |
//! | `= head text` | the newest item's head contains this |
//! | `= from text` / `= to text` | its envelope, verbatim |

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use waystation::mail::envelope::Meta;

use crate::support::relay::{MailRelay, Plan};

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// Relays that run at a time.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scripted_conversation_goes_as_written() {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs"))
            .expect("dialogs")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "smtp"))
            .collect();
    files.sort();
    assert!(files.len() > 40, "dialogs are missing: {}", files.len());
    let only = std::env::var("DIALOG").ok();
    files.retain(|path| only.as_ref().is_none_or(|only| path.to_string_lossy().contains(only.as_str())));
    let mut failures = String::new();
    for batch in files.chunks(AT_ONCE) {
        let runs: Vec<_> = batch.iter().cloned().map(|path| tokio::spawn(run(path))).collect();
        for run in runs {
            if let Err(problem) = run.await.expect("no panic in a dialog") {
                let _ = writeln!(failures, "{problem}");
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Runs one file; the error names file, line and what happened instead.
async fn run(path: PathBuf) -> Result<(), String> {
    let script = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let relay = MailRelay::start_with(|plan| settings(plan, &script)).await;
    let mut talk = Talk::connect(&relay).await;
    let mut outcome = Ok(());
    for (n, line) in script.lines().enumerate() {
        if let Err(problem) = talk.perform(line).await {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            outcome = Err(format!("{name}:{}: `{line}`: {problem}", n + 1));
            break;
        }
    }
    drop(talk);
    relay.stop().await;
    outcome
}

fn settings(plan: &mut Plan, script: &str) {
    for line in script.lines() {
        let Some((key, value)) = line.strip_prefix("@ ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let number = || value.parse::<u64>().expect("a number");
        let millis = || Duration::from_millis(number());
        let small = || u32::try_from(number()).expect("a small number");
        match key {
            "message_bytes_max" => plan.intake.session.message_bytes_max = number(),
            "recipients_max" => plan.intake.session.recipients_max = small() as usize,
            "messages_max" => plan.intake.session.messages_max = small(),
            "greet_delay_ms" => plan.intake.session.greet_delay = millis(),
            "command_timeout_ms" => plan.intake.session.command_timeout = millis(),
            "body_timeout_ms" => plan.intake.session.body_timeout = millis(),
            "domains" if value == "none" => plan.intake.session.domains.clear(),
            "postmaster" => plan.intake.postmaster = value.to_owned(),
            "suppress_twins" => plan.intake.suppress_twins = value == "true",
            "normalize" => plan.intake.normalize_networks = vec![value.parse().expect("a network")],
            "min_free_bytes" => plan.spool.min_free_bytes = number(),
            "connections_max" => plan.limits.connections_max = small() as usize,
            "messages_per_minute" => {
                plan.limits.enabled = true;
                plan.limits.messages_per_minute = small();
            }
            "connections_per_minute" => {
                plan.limits.enabled = true;
                plan.limits.connections_per_minute = small();
            }
            other => panic!("no such setting: {other}"),
        }
    }
}

struct Talk<'a> {
    relay: &'a MailRelay,
    stream: TcpStream,
    others: Vec<TcpStream>,
    pending: Vec<u8>,
    reply: String,
    /// Later replies must carry enhanced codes (RFC 2034); banner and EHLO must not.
    extended: bool,
}

impl<'a> Talk<'a> {
    async fn connect(relay: &'a MailRelay) -> Self {
        let stream = TcpStream::connect(relay.address).await.expect("connected");
        stream.set_nodelay(true).expect("nodelay");
        Self { relay, stream, others: Vec::new(), pending: Vec::new(), reply: String::new(), extended: false }
    }

    async fn perform(&mut self, line: &str) -> Result<(), String> {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "" | "#" | "@" => Ok(()),
            "<" if rest == "closed" => self.expect_close().await,
            "<" => {
                self.reply = self.read_reply().await?;
                let last = self.reply.lines().next_back().unwrap_or("");
                if last.starts_with(rest) { Ok(()) } else { Err(format!("got {:?}", self.reply)) }
            }
            "<*" if self.reply.contains(rest) => Ok(()),
            "<!" if !self.reply.contains(rest) => Ok(()),
            "<*" | "<!" => Err(format!("got {:?}", self.reply)),
            ">" => self.send(format!("{rest}\r\n").as_bytes()).await,
            "!" => self.send(&raw(rest)).await,
            "~" => self.expect_nothing(rest).await,
            "+" if rest == "connect" => {
                let new = Self::connect(self.relay).await;
                let old = std::mem::replace(self, new);
                self.others.extend(old.others);
                self.others.push(old.stream);
                Ok(())
            }
            "+" if rest == "hangup" => {
                let new = Self::connect(self.relay).await;
                drop(std::mem::replace(self, new));
                Ok(())
            }
            "=" => self.check(rest).await,
            other => Err(format!("no such mark: {other:?}")),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.starts_with(b"EHLO ") {
            self.extended = true;
        }
        match timeout(PATIENCE, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot send: {error}")),
            Err(_) => Err("cannot send: timeout".to_owned()),
        }
    }

    async fn read_line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| "reply is not text".to_owned());
            }
            let mut buffer = [0; 4096];
            match timeout(PATIENCE, self.stream.read(&mut buffer)).await {
                Ok(Ok(0)) => return Err("closed".to_owned()),
                Ok(Ok(n)) => self.pending.extend_from_slice(&buffer[..n]),
                Ok(Err(error)) => return Err(format!("closed: {error}")),
                Err(_) => return Err("no reply".to_owned()),
            }
        }
    }

    /// Reads one reply and checks its form: B18, B19, E11.
    async fn read_reply(&mut self) -> Result<String, String> {
        let mut reply = String::new();
        loop {
            let line = self.read_line().await?;
            let code = line.get(..3).filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
            let code = code.ok_or_else(|| format!("not a reply: {line:?}"))?;
            if line.len() + 2 > 512 || !line.is_ascii() || line.bytes().any(|b| b.is_ascii_control()) {
                return Err(format!("malformed reply line {line:?}"));
            }
            if !reply.is_empty() && !reply.starts_with(code) {
                return Err(format!("code changes within a reply: {reply:?} {line:?}"));
            }
            let word = line.get(4..).unwrap_or("").split(' ').next().unwrap_or("");
            let enhanced = word.split('.').count() == 3 && word.split('.').all(|n| n.parse::<u16>().is_ok());
            if enhanced && word.as_bytes()[0] != line.as_bytes()[0] {
                return Err(format!("class and code differ: {line:?}"));
            }
            let exempt = matches!(code, "220" | "354") || line.contains("mx.our.example") && code == "250";
            if self.extended
                && !enhanced
                && !exempt
                && line.as_bytes().get(3) == Some(&b' ')
                && reply.is_empty()
            {
                return Err(format!("no enhanced code: {line:?}"));
            }
            let last = line.as_bytes().get(3) == Some(&b' ');
            reply.push_str(&line);
            reply.push('\n');
            if last {
                return Ok(reply);
            }
        }
    }

    async fn expect_close(&mut self) -> Result<(), String> {
        match self.read_line().await {
            Err(problem) if problem.starts_with("closed") => Ok(()),
            Err(problem) => Err(problem),
            Ok(line) => Err(format!("got {line:?}")),
        }
    }

    async fn expect_nothing(&mut self, time: &str) -> Result<(), String> {
        let time = time.strip_suffix("ms").and_then(|ms| ms.parse().ok()).ok_or("time as in `200ms`")?;
        if !self.pending.is_empty() {
            return Err(format!("already got {:?}", String::from_utf8_lossy(&self.pending)));
        }
        let mut buffer = [0; 512];
        match timeout(Duration::from_millis(time), self.stream.read(&mut buffer)).await {
            Err(_) => Ok(()),
            Ok(Ok(n)) => Err(format!("got {:?}", String::from_utf8_lossy(&buffer[..n]))),
            Ok(Err(error)) => Err(error.to_string()),
        }
    }

    async fn check(&self, what: &str) -> Result<(), String> {
        let (what, expected) = what.split_once(' ').unwrap_or((what, ""));
        let items = self.relay.items().await;
        if what == "items" {
            let enough = items.len().to_string() == expected;
            return if enough { Ok(()) } else { Err(format!("there are {}", items.len())) };
        }
        let newest =
            items.iter().max_by_key(|item| (item.accepted_at, item.id)).ok_or("the spool is empty")?;
        let meta = Meta::decode(&newest.meta).map_err(|error| error.to_string())?;
        let (found, fits) = match what {
            "body" => {
                let (found, wanted) = (self.relay.body(newest).await, raw(expected));
                let fits = found == wanted;
                (String::from_utf8_lossy(&found).into_owned(), fits)
            }
            "head" => {
                let found = String::from_utf8_lossy(&newest.head).into_owned();
                let fits = found.contains(expected);
                (found, fits)
            }
            "from" => (meta.mail_from.clone(), meta.mail_from == expected),
            "to" => {
                let found = String::from_utf8_lossy(&newest.tag).into_owned();
                let fits = found == expected;
                (found, fits)
            }
            other => return Err(format!("no such check: {other:?}")),
        };
        if fits { Ok(()) } else { Err(format!("got {found:?}")) }
    }
}

/// `"text\r\n\x00" * 3` as octets.
fn raw(text: &str) -> Vec<u8> {
    let (quoted, times) = match text.rsplit_once(" * ") {
        Some((quoted, times)) => (quoted, times.parse().expect("a number of times")),
        None => (text, 1),
    };
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("octets in quotes");
    let (mut out, mut bytes) = (Vec::new(), inner.bytes());
    while let Some(byte) = bytes.next() {
        let octet = match (byte, byte == b'\\') {
            (_, true) => match bytes.next().expect("something after the backslash") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let mut digit =
                        || char::from(bytes.next().expect("two digits")).to_digit(16).expect("hex");
                    u8::try_from(digit() * 16 + digit()).expect("an octet")
                }
                other => other,
            },
            (other, false) => other,
        };
        out.push(octet);
    }
    out.repeat(times)
}
