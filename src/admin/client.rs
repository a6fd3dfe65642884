//! Driver: the command line's end of the admin socket.
//!
//! One connection per request: a person's commands are few, and the daemon keeps nothing for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::jobs::LINES;

/// The media type of most answers.
const JSON: &str = "application/json";
/// Largest JSON answer that is read, bytes: a full page of items with long addresses fits many times.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long the daemon may take for the head of an answer; `verify` reads the whole journal first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why the daemon gave no answer, or which refusal it gave.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon refused; its words.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// One sentence.
        message: String,
    },
    /// The socket is there but may not be opened.
    #[error("cannot open the admin socket {socket}: {error}")]
    Socket {
        /// Its path.
        socket: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// The daemon went away, or does not speak our language.
    #[error("the relay gave no answer on its admin socket: {0}")]
    Broken(String),
}

/// The door to a running daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client, when a daemon listens on `socket`; `None` when none does.
    ///
    /// # Errors
    /// [`ClientError::Socket`] when there is one that we may not open.
    pub async fn find(socket: &Path) -> Result<Option<Self>, ClientError> {
        match UnixStream::connect(socket).await {
            Ok(_) => Ok(Some(Self { socket: socket.to_owned() })),
            Err(error) if is_nobody(&error) => Ok(None),
            Err(error) => Err(ClientError::Socket { socket: socket.to_owned(), error }),
        }
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks; `target` is path and query below `/admin`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, target: &str) -> Result<Value, ClientError> {
        json(self.request(Method::GET, target, Bytes::new(), JSON).await?).await
    }

    /// Changes; `body` is the request's JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post(&self, target: &str, body: &Value) -> Result<Value, ClientError> {
        json(self.request(Method::POST, target, Bytes::from(body.to_string()), JSON).await?).await
    }

    /// Asks for work that takes long; `progress` is told how far it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post_lines(
        &self,
        target: &str,
        body: &Value,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Value, ClientError> {
        let response = self.request(Method::POST, target, Bytes::from(body.to_string()), LINES).await?;
        let kind = response.headers().get(hyper::header::CONTENT_TYPE);
        if kind.is_none_or(|kind| kind != LINES) {
            return json(response).await;
        }
        let (mut body, mut waiting) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| broken(&e))?;
            waiting.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = waiting.iter().position(|b| *b == b'\n') {
                let line: Value = serde_json::from_slice(&waiting[..end]).map_err(|e| broken(&e))?;
                waiting.drain(..=end);
                if let (Some(done), Some(of)) = (line["done"].as_u64(), line["of"].as_u64()) {
                    progress(done, of);
                } else if !line["report"].is_null() {
                    return Ok(line["report"].clone());
                } else {
                    return Err(refused(line["status"].as_u64().and_then(|n| n.try_into().ok()), &line));
                }
            }
            if waiting.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::Broken("one line is too long".to_owned()));
            }
        }
        Err(ClientError::Broken("it ended before the report".to_owned()))
    }

    /// Reads a body of any size, piece by piece.
    ///
    /// # Errors
    /// [`ClientError`]; or what `take` returns.
    pub async fn stream<E: From<ClientError>>(
        &self,
        target: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let response = self.request(Method::GET, target, Bytes::new(), JSON).await?;
        if !response.status().is_success() {
            return json(response).await.map(|_| ()).map_err(E::from);
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| broken(&e))?;
            if let Some(data) = frame.data_ref() {
                take(data)?;
            }
        }
        Ok(())
    }

    async fn request(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        accept: &str,
    ) -> Result<Response<Incoming>, ClientError> {
        let socket = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::Socket { socket: self.socket.clone(), error })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(|e| broken(&e))?;
        // Ends by itself with the response; nobody waits for it.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/admin{target}"))
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, JSON)
            .header(hyper::header::ACCEPT, accept)
            .body(Full::new(body))
            .map_err(|e| broken(&e))?;
        tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| ClientError::Broken("it took too long".to_owned()))?
            .map_err(|e| broken(&e))
    }
}

async fn json(response: Response<Incoming>) -> Result<Value, ClientError> {
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| ClientError::Broken(e.to_string()))?
        .to_bytes();
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| broken(&e))?;
    if status == StatusCode::OK {
        return Ok(value);
    }
    Err(refused(Some(status.as_u16()), &value))
}

fn refused(status: Option<u16>, answer: &Value) -> ClientError {
    let message = answer["message"].as_str().unwrap_or("the relay refused").to_owned();
    ClientError::Refused { status: status.unwrap_or(500), message }
}

fn broken(error: &impl ToString) -> ClientError {
    ClientError::Broken(error.to_string())
}

/// No file, or a socket left behind by a daemon that was killed.
fn is_nobody(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

/// `key=value&...` with everything but letters, digits and `-._~` escaped; pairs without value are left out.
#[must_use]
pub fn query(pairs: &[(&str, Option<String>)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        let Some(value) = value else { continue };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.push_str(&escape(value));
    }
    text
}

/// One piece of a path or query, escaped.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_escape_what_would_end_them() {
        let text =
            query(&[("lane", Some("a+b@c.example".into())), ("to", None), ("from", Some("x&y".into()))]);
        assert_eq!(text, "?lane=a%2Bb%40c.example&from=x%26y");
    }
}
