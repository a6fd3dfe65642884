//! The webhook destination: one HTTP POST per message, the message itself as the body (`message/rfc822`).
//!
//! The envelope is in fields: `X-Waystation-Item` (the item id; use it to recognise a repeat), `X-Waystation-Seq`,
//! `X-Waystation-Mail-From` and `X-Waystation-Rcpt-To` (percent-encoded where they are not plain ASCII). A bearer token
//! goes into `Authorization`. Redirects are not followed: a receiver that moved is a configuration to change.
//!
//! | answer | outcome |
//! |---|---|
//! | 2xx | stored: the receiver must have the message safely before it says so |
//! | 408, 425, 500 and other 5xx, no answer in time | later |
//! | 429, 502, 503, 504, connection refused, TLS failure | unavailable (`Retry-After` in seconds is honoured) |
//! | 401, 403, 407, 3xx | unavailable: our configuration is wrong, not the message |
//! | other 4xx | refused; the relay holds the message with the status as the reason |
//!
//! The message is streamed from its file; it is never in memory as a whole.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use crate::gateway::destination::{Letter, Outcome};
use crate::gateway::dial::{self, Endpoint, Trust};

/// How much of the message is read at once.
const PIECE_BYTES: usize = 32 * 1024;

/// An HTTP server that takes messages.
#[derive(Clone, Debug)]
pub struct Webhook {
    endpoint: Endpoint,
    trust: Trust,
    bearer_token: Option<Token>,
    timeout: Duration,
}

/// A secret that does not show itself.
#[derive(Clone)]
struct Token(Zeroizing<String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Webhook {
    /// Posts to `endpoint`; `bearer_token`, if not empty, goes into `Authorization`; `timeout` is for one whole request.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        trust: Trust,
        bearer_token: Option<Zeroizing<String>>,
        timeout: Duration,
    ) -> Self {
        let bearer_token = bearer_token.filter(|token| !token.is_empty()).map(Token);
        Self { endpoint, trust, bearer_token, timeout }
    }

    /// Posts the message once; see the module's table.
    pub async fn deliver(&self, letter: &Letter) -> Outcome {
        match tokio::time::timeout(self.timeout, self.post(letter)).await {
            Ok(Ok(response)) => judge(&response),
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::later(format!("webhook gave no answer in {} s", self.timeout.as_secs())),
        }
    }

    async fn post(&self, letter: &Letter) -> Result<Response<Incoming>, Outcome> {
        let file = File::open(&letter.path)
            .await
            .map_err(|error| Outcome::later(format!("cannot read the received message: {error}")))?;
        let body = StreamBody::new(pieces(file));
        let mut request = Request::post(self.endpoint.target.as_str())
            .header(header::HOST, self.endpoint.authority.as_str())
            .header(header::USER_AGENT, concat!("waystation/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "message/rfc822")
            .header(header::CONTENT_LENGTH, letter.size_bytes)
            .header(header::CONNECTION, "close")
            .header("x-waystation-item", field_value(&letter.item_id))
            .header("x-waystation-seq", letter.seq)
            .header("x-waystation-mail-from", field_value(&letter.mail_from))
            .header("x-waystation-rcpt-to", field_value(&letter.rcpt_to));
        if let Some(Token(token)) = &self.bearer_token {
            let field = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut field = HeaderValue::try_from(field.as_str()).map_err(|_| {
                Outcome::unavailable("the token in webhook.bearer_token_file fits no header field")
            })?;
            field.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, field);
        }
        let request = request.body(body).map_err(|error| Outcome::unavailable(error.to_string()))?;
        let stream = dial::open(&self.endpoint, &self.trust)
            .await
            .map_err(|error| Outcome::unavailable(error.to_string()))?;
        let failed = |error: hyper::Error| Outcome::later(format!("webhook: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // The connection lives as long as this request: dropped by a timeout, it takes the request with it.
        let answer = sender.send_request(request);
        tokio::pin!(connection);
        tokio::pin!(answer);
        let mut line_open = true;
        loop {
            tokio::select! {
                response = &mut answer => return response.map_err(failed),
                _ = &mut connection, if line_open => line_open = false,
            }
        }
    }
}

/// The file as a stream of pieces.
fn pieces(file: File) -> impl futures_util::Stream<Item = std::io::Result<Frame<Bytes>>> {
    futures_util::stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(n) => {
                piece.truncate(n);
                Some((Ok(Frame::data(Bytes::from(piece))), Some(file)))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

fn judge<B>(response: &Response<B>) -> Outcome {
    let status = response.status();
    let said = format!("webhook answered {status}");
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    match status {
        _ if status.is_success() => Outcome::Stored,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => Outcome::Unavailable { reason: said, retry_after },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => Outcome::Later { reason: said, retry_after },
        _ if status.is_client_error() => Outcome::Refused { reason: said },
        _ if status.is_redirection() => Outcome::Unavailable { reason: said, retry_after: None },
        _ => Outcome::Later { reason: said, retry_after },
    }
}

/// A value for an HTTP field: printable ASCII as it is, everything else (and `%`) percent-encoded.
fn field_value(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn letter(dir: &tempfile::TempDir) -> Letter {
        let sample = Letter::sample(dir.path().join("message"), b"Subject: x\r\n\r\nhello\r\n");
        Letter { mail_from: "a b%@example.org".to_owned(), ..sample }
    }

    /// Serves one request with `answer`; gives the outcome and the request's bytes.
    async fn post(answer: &str) -> (Outcome, String) {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in?x=1", listener.local_addr().unwrap());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"hello\r\n") {
                let mut piece = [0; 1024];
                let n = stream.read(&mut piece).await.unwrap();
                assert!(n > 0, "request ended early");
                got.extend_from_slice(&piece[..n]);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(got).unwrap()
        };
        let token = Some("secret".to_owned());
        let endpoint = Endpoint::http(&url).unwrap();
        let hook = Webhook::new(
            endpoint,
            Trust::new(None).unwrap(),
            token.map(Zeroizing::new),
            Duration::from_secs(20),
        );
        assert!(!format!("{hook:?}").contains("secret"));
        let letter = letter(&dir);
        tokio::join!(hook.deliver(&letter), serving)
    }

    #[tokio::test]
    async fn message_is_posted_as_it_is_with_its_envelope() {
        let (outcome, request) = post("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome, Outcome::Stored);
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /in?x=1 http/1.1\r\n"), "{head}");
        for line in [
            "content-type: message/rfc822",
            "content-length: 21",
            "x-waystation-item: abc",
            "x-waystation-seq: 3",
            "x-waystation-mail-from: a%20b%25@example.org",
            "x-waystation-rcpt-to: home@example.org",
            "authorization: bearer secret",
        ] {
            assert!(head.lines().any(|have| have == line), "{line} not in {head}");
        }
        assert_eq!(body, "Subject: x\r\n\r\nhello\r\n");
    }

    #[tokio::test]
    async fn statuses_decide_the_outcome() {
        let status = |code: u16| judge(&Response::builder().status(code).body(()).unwrap());
        assert_eq!(status(200), Outcome::Stored);
        for code in [400, 404, 410, 413, 422] {
            assert!(matches!(status(code), Outcome::Refused { .. }), "{code}");
        }
        for code in [301, 308, 401, 403, 429, 502, 503, 504] {
            assert!(matches!(status(code), Outcome::Unavailable { .. }), "{code}");
        }
        for code in [408, 425, 500, 501, 507, 599] {
            assert!(matches!(status(code), Outcome::Later { .. }), "{code}");
        }
        let (outcome, _) = post("HTTP/1.1 503 x\r\nRetry-After: 70\r\nContent-Length: 0\r\n\r\n").await;
        assert!(
            matches!(outcome, Outcome::Unavailable { retry_after: Some(wish), .. } if wish.as_secs() == 70)
        );
    }

    #[tokio::test]
    async fn broken_answers_mean_later_and_absence_unavailable() {
        assert!(matches!(post("garbage\r\n\r\n").await.0, Outcome::Later { .. }));
        assert!(matches!(post("").await.0, Outcome::Later { .. }));
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let endpoint = Endpoint::http(&url).unwrap();
        let hook = Webhook::new(endpoint, Trust::new(None).unwrap(), None, Duration::from_secs(20));
        assert!(matches!(hook.deliver(&letter(&dir)).await, Outcome::Unavailable { .. }));
    }

    #[tokio::test]
    async fn silence_means_later() {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::http(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let hook = Webhook::new(endpoint, Trust::new(None).unwrap(), None, Duration::from_millis(50));
        assert!(matches!(hook.deliver(&letter(&dir)).await, Outcome::Later { .. }));
    }
}
