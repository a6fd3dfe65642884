//! The gateway's socket: what `gateway status` and `gateway send` say to a running gateway.
//!
//! One request per connection, one line of JSON each way. Behind a `submit` the message follows in pieces: length (u32,
//! big-endian), bytes; a length of 0 ends it. Who says nothing is told the report.
//!
//! Promises: ids are told after the outbox's commit; a message whose end did not come is not taken; the socket is open
//! to its owner alone. Bounded: connections, lines, pieces, and a time for every wait.
//!
//! Failure policy: a peer that breaks the form is left; nothing else suffers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spool::ids::{ItemId, WallMs};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::gateway::Status;
use crate::gateway::handle::StatusBoard;
use crate::gateway::outbox::{Counts, DraftError, Entry, Outbox, Story};
use crate::gateway::submission::Own;

/// Connections served at one time.
const CONNECTIONS_MAX: usize = 32;
/// How long a peer may say nothing before it is told the report.
const WORD_PATIENCE: Duration = Duration::from_millis(500);
/// Longest wait for a piece of a message, or for the peer to take an answer.
const PIECE_PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait of a client for an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// Longest request line, bytes: a thousand recipients.
const REQUEST_BYTES_MAX: u64 = 512 * 1024;
/// Longest answer read, bytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// Largest piece of a message, bytes.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// Submissions in a report.
const RECENT: usize = 20;

/// What `gateway status` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The relay's URL.
    pub relay_url: String,
    /// Key text.
    pub key: String,
    /// Mail address.
    pub address: String,
    /// Kind of destination.
    pub destination: String,
    /// Where local programs may connect; empty: nowhere.
    #[serde(default)]
    pub submission: String,
    /// Number of the process, in its own namespace.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When the process started, milliseconds since 1970 UTC.
    pub started_ms: u64,
    /// The connection and the counts.
    #[serde(flatten)]
    pub status: Status,
    /// Submissions by state.
    #[serde(default)]
    pub outbox: Counts,
    /// The newest submissions, newest first.
    #[serde(default)]
    pub submissions: Vec<Entry>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How does it go? Answer: [`Report`].
    Status,
    /// What became of this submission? Answer: [`Told`].
    Submission {
        /// Its id.
        id: String,
    },
    /// Take this message. Answer: [`Taken`].
    Submit {
        /// Envelope sender.
        mail_from: String,
        /// Envelope recipients.
        rcpt_to: Vec<String>,
    },
}

/// Answer to [`Request::Submission`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// All that is known; `None` when the id is unknown.
    pub story: Option<Story>,
}

/// Answer to [`Request::Submit`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// One submission per recipient, on stable storage; empty when nothing was taken.
    pub ids: Vec<String>,
    /// Why nothing was taken.
    #[serde(default)]
    pub error: String,
    /// It may be taken later.
    #[serde(default)]
    pub temporary: bool,
}

impl Taken {
    fn refused(error: impl ToString, temporary: bool) -> Self {
        Self { ids: Vec::new(), error: error.to_string(), temporary }
    }
}

/// What a running gateway answers from.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Without what changes.
    pub(crate) report: Report,
    pub(crate) board: StatusBoard,
    pub(crate) outbox: Outbox,
    pub(crate) own: Own,
    pub(crate) message_bytes_max: u64,
    pub(crate) recipients_max: usize,
}

/// Makes the socket.
///
/// # Errors
/// What the system said.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    // The data directory's lock is ours, so a socket that is there is a dead one's.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private)?;
    Ok(listener)
}

/// Answers everybody who connects, for ever.
pub(crate) async fn serve(listener: UnixListener, desk: Desk) {
    let desk = Arc::new(desk);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.ok();
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            if let Err(error) = desk.attend(stream).await {
                tracing::debug!(event = "gateway.socket.left", %error, "a peer at the socket was left");
            }
            drop(place);
        });
    }
}

impl Desk {
    async fn attend(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(REQUEST_BYTES_MAX);
        let read = timeout(WORD_PATIENCE, limited.read_until(b'\n', &mut line)).await;
        let request = match read {
            Ok(Ok(0)) | Err(_) if line.is_empty() => Request::Status,
            Ok(Ok(_)) => serde_json::from_slice(&line).map_err(invalid)?,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let mut answer = match request {
            Request::Status => serde_json::to_vec(&self.report().await),
            Request::Submission { id } => serde_json::to_vec(&self.told(&id).await),
            Request::Submit { mail_from, rcpt_to } => {
                serde_json::to_vec(&self.take(&mut stream, &mail_from, &rcpt_to).await?)
            }
        }
        .map_err(invalid)?;
        answer.push(b'\n');
        timeout(PIECE_PATIENCE, stream.get_mut().write_all(&answer)).await?
    }

    async fn report(&self) -> Report {
        let outbox = self.outbox.counts().await.unwrap_or_default();
        let submissions = self.outbox.recent(RECENT).await.unwrap_or_default();
        Report { status: self.board.read(), outbox, submissions, ..self.report.clone() }
    }

    async fn told(&self, id: &str) -> Told {
        let Ok(id) = id.parse::<ItemId>() else { return Told::default() };
        Told { story: self.outbox.story(id).await.ok().flatten() }
    }

    /// Takes a message; an error when its end did not come, which takes nothing. What is refused is read to its end, so
    /// that the client hears why.
    async fn take(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        mail_from: &str,
        rcpt_to: &[String],
    ) -> io::Result<Taken> {
        let checked = self.own.check(mail_from, rcpt_to, self.recipients_max);
        let mut draft = match &checked {
            Ok(recipients) => Ok(self.outbox.draft(recipients.len())),
            Err(refusal) => Err(Taken::refused(refusal, false)),
        };
        let mut bytes = 0_u64;
        let mut piece = vec![0; PIECE_BYTES_MAX];
        loop {
            let length = timeout(PIECE_PATIENCE, stream.read_u32()).await?? as usize;
            let Some(room) = piece.get_mut(..length) else { return Err(io::ErrorKind::InvalidData.into()) };
            if room.is_empty() {
                break;
            }
            timeout(PIECE_PATIENCE, stream.read_exact(room)).await??;
            bytes += length as u64;
            let limit = self.message_bytes_max;
            if bytes > limit.saturating_mul(2) {
                return Err(io::ErrorKind::InvalidData.into());
            } else if bytes > limit && draft.is_ok() {
                draft = Err(Taken::refused(format!("the message is larger than {limit} bytes"), false));
            } else if let Ok(open) = &mut draft
                && let Err(error) = open.write(room).await
            {
                draft = Err(Taken::refused(error, true));
            }
        }
        let recipients = checked.unwrap_or_default();
        Ok(match draft {
            Err(refused) => refused,
            Ok(_) if bytes == 0 => Taken::refused("the message is empty", false),
            Ok(draft) => match draft.commit(mail_from, &recipients).await {
                Ok(ids) => Taken { ids: ids.iter().map(ItemId::to_string).collect(), ..Taken::default() },
                Err(error @ (DraftError::Full(_) | DraftError::Broken(_))) => Taken::refused(error, true),
                Err(error @ DraftError::Recipients) => Taken::refused(error, false),
            },
        })
    }
}

/// Asks a running gateway one thing.
async fn ask_for<T: serde::de::DeserializeOwned>(
    socket: &Path,
    request: &Request,
    message: Option<&[u8]>,
) -> io::Result<T> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(request).map_err(invalid)?;
    line.push(b'\n');
    let talk = async {
        // A gateway that leaves us may have said why.
        let spoken = speak(&mut stream, &line, message).await;
        let mut answer = Vec::new();
        (&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        if answer.is_empty() {
            spoken?;
        }
        serde_json::from_slice(&answer).map_err(invalid)
    };
    timeout(ANSWER_PATIENCE, talk).await?
}

async fn speak(stream: &mut UnixStream, line: &[u8], message: Option<&[u8]>) -> io::Result<()> {
    stream.write_all(line).await?;
    let Some(message) = message else { return Ok(()) };
    for piece in message.chunks(PIECE_BYTES_MAX) {
        stream.write_u32(u32::try_from(piece.len()).map_err(invalid)?).await?;
        stream.write_all(piece).await?;
    }
    stream.write_u32(0).await
}

/// How does a running gateway do?
///
/// # Errors
/// What the system said: not found or refused when none runs, invalid data when the answer makes no sense.
pub async fn ask(socket: &Path) -> io::Result<Report> {
    ask_for(socket, &Request::Status, None).await
}

/// What became of a submission? `None`: a running gateway does not know it.
///
/// # Errors
/// As [`ask`].
pub async fn ask_about(socket: &Path, id: &str) -> io::Result<Option<Story>> {
    let told: Told = ask_for(socket, &Request::Submission { id: id.to_owned() }, None).await?;
    Ok(told.story)
}

/// Gives a message to a running gateway.
///
/// # Errors
/// As [`ask`]; after anything but not found or refused nobody knows whether the message was taken.
pub async fn submit(socket: &Path, mail_from: &str, rcpt_to: &[String], message: &[u8]) -> io::Result<Taken> {
    let request = Request::Submit { mail_from: mail_from.to_owned(), rcpt_to: rcpt_to.to_vec() };
    ask_for(socket, &request, Some(message)).await
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Report {
    /// Lines for a person; `now` for the ages in them.
    #[must_use]
    pub fn to_text(&self, now: WallMs) -> String {
        let status = &self.status;
        let age = |ms: u64| format!("{} s", now.since(WallMs(ms)) / 1000);
        let connection = match (status.connected_since_ms, status.next_retry_ms) {
            (Some(since), _) => {
                format!("connected for {} (tunnel {})", age(since), status.tunnel.unwrap_or(0))
            }
            (None, Some(retry)) => {
                format!("not connected, next try in {} s", retry.saturating_sub(now.0).div_ceil(1000))
            }
            (None, None) => "connecting".to_owned(),
        };
        let error = match (&status.last_error, status.last_error_ms) {
            (Some(error), Some(at)) => format!("{} ({} ago)", printable(error), age(at)),
            _ => "none".to_owned(),
        };
        let Counts { queued, accepted, sent, failed, indeterminate } = self.outbox;
        let out = format!(
            "{queued} queued, {accepted} accepted, {sent} sent, {failed} failed, {indeterminate} indeterminate"
        );
        let mut rows = vec![
            ("relay", self.relay_url.clone()),
            ("connection", connection),
            ("key", self.key.clone()),
            ("address", self.address.clone()),
            ("destination", self.destination.clone()),
            ("stored", status.stored.to_string()),
            ("verified", format!("{} of them, {} not", status.verified, status.unverified)),
            ("refused", status.refused.to_string()),
            ("returned", status.returned.to_string()),
            ("repeats", status.repeats.to_string()),
            ("in hand", status.in_hand.to_string()),
            ("mail out", out),
        ];
        if status.relay_keys.is_empty() {
            rows.push(("relay key", "none pinned: nothing the relay says is verified".to_owned()));
        }
        rows.extend(status.relay_keys.iter().map(|key| ("relay key", printable(key))));
        if !self.submission.is_empty() {
            rows.push(("submission", self.submission.clone()));
        }
        rows.extend([("last error", error), ("running for", age(self.started_ms))]);
        let mut text: String = rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
        if !self.submissions.is_empty() {
            text.push('\n');
            text.push_str(&table(&self.submissions));
        }
        text
    }
}

/// Submissions as lines in columns.
fn table(entries: &[Entry]) -> String {
    let mut text = format!("{:<26} {:<14} {:>9}  {:<32} last word\n", "submission", "state", "age", "to");
    for entry in entries {
        let age = format!("{} s", entry.age_seconds);
        let state = state(entry);
        let line = format!(
            "{:<26} {state:<14} {age:>9}  {:<32} {}",
            entry.id,
            printable(&entry.rcpt_to),
            printable(&entry.text)
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn state(entry: &Entry) -> String {
    use crate::gateway::outbox::State;
    let open = entry.pending && entry.state == State::Indeterminate;
    format!("{}{}", entry.state.word(), if open { "?" } else { "" })
}

/// Text of somebody else without what moves a cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl Story {
    /// Lines for a person.
    #[must_use]
    pub fn to_text(&self) -> String {
        let entry = &self.entry;
        let mut rows = vec![
            ("submission", entry.id.clone()),
            ("state", state(entry)),
            ("from", printable(&entry.mail_from)),
            ("to", printable(&entry.rcpt_to)),
            ("bytes", entry.size_bytes.to_string()),
        ];
        if !entry.relay_id.is_empty() {
            rows.push(("at the relay", printable(&entry.relay_id)));
        }
        let mut text: String = rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
        text.push('\n');
        for event in &self.events {
            let words = printable(&event.text);
            let line = format!("{}  {:<13} {words}", time(event.at_ms), event.state.word());
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// RFC 3339, UTC, seconds.
fn time(ms: u64) -> String {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests;
