//! Driver: work that takes long, done on a thread of its own beside the requests.
//!
//! Promises: at most one of each [`Kind`] at a time; whoever asks for lines (`Accept: application/x-ndjson`) gets
//! `{"done", "of"}` objects while it lasts and then `{"report"}` or `{"error", "status", "message"}`; everybody else gets
//! the report alone. Work that nobody waits for any more, or that the relay's end overtakes, is broken off at its next
//! word of progress.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::{Value, json};
use spool::error::SpoolError;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::api::{problem, status};
use super::ask::AskError;

/// The media type of lines.
pub const LINES: &str = "application/x-ndjson";
/// Lines that may wait for their reader.
const LINES_MAX: usize = 16;
/// Shortest time between two words of progress.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Told bytes done and bytes to do; answers false when the work is to be broken off.
pub type Tell<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// What takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything is read and checked.
    Verify,
    /// The data directory is copied.
    Backup,
}

/// See the module.
#[derive(Debug)]
pub struct Jobs {
    /// The relay's data directory.
    pub data_dir: PathBuf,
    stop: CancellationToken,
    verify: Arc<Semaphore>,
    backup: Arc<Semaphore>,
}

enum Line {
    Progress(u64, u64),
    End(Result<Value, AskError>),
}

impl Jobs {
    /// * `stop` – the relay ends.
    #[must_use]
    pub fn new(data_dir: PathBuf, stop: CancellationToken) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { data_dir, stop, verify: one(), backup: one() }
    }

    /// Does `work` and answers as `headers` want it.
    pub(super) async fn answer(
        &self,
        kind: Kind,
        headers: &HeaderMap,
        work: impl FnOnce(Tell<'_>) -> Result<Value, AskError> + Send + 'static,
    ) -> Response {
        let (gate, name) = match kind {
            Kind::Verify => (&self.verify, "verify"),
            Kind::Backup => (&self.backup, "backup"),
        };
        let Ok(one) = Arc::clone(gate).try_acquire_owned() else {
            return problem(&AskError::Conflict(format!("another {name} is running")));
        };
        let (lines, mut told) = mpsc::channel(LINES_MAX);
        let stop = self.stop.clone();
        tokio::task::spawn_blocking(move || {
            let mut last: Option<Instant> = None;
            let outcome = work(&mut |done, of| {
                let now = crate::clock::monotonic();
                if last.is_none_or(|last| now.duration_since(last) >= TELL_EVERY) {
                    last = Some(now);
                    // A reader who is slow misses some.
                    let _ = lines.try_send(Line::Progress(done, of));
                }
                !lines.is_closed() && !stop.is_cancelled()
            });
            drop(one);
            let _ = lines.blocking_send(Line::End(outcome));
        });
        if wants_lines(headers) {
            let body = stream::unfold(Some(told), |told| async move {
                let mut told = told?;
                let (line, told) = match told.recv().await {
                    Some(Line::Progress(done, of)) => (json!({ "done": done, "of": of }), Some(told)),
                    Some(Line::End(outcome)) => (last_line(outcome), None),
                    None => (last_line(Err(AskError::Spool(SpoolError::Closed))), None),
                };
                Some((Ok::<_, std::convert::Infallible>(Bytes::from(format!("{line}\n"))), told))
            });
            return ([(header::CONTENT_TYPE, LINES)], Body::from_stream(body)).into_response();
        }
        loop {
            match told.recv().await {
                Some(Line::Progress(..)) => {}
                Some(Line::End(Ok(report))) => return Json(report).into_response(),
                Some(Line::End(Err(error))) => return problem(&error),
                None => return problem(&AskError::Spool(SpoolError::Closed)),
            }
        }
    }
}

fn wants_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|one| one.split(';').next().is_some_and(|kind| kind.trim() == LINES))
}

fn last_line(outcome: Result<Value, AskError>) -> Value {
    match outcome {
        Ok(report) => json!({ "report": report }),
        Err(error) => {
            let (status, word) = status(&error);
            json!({ "error": word, "status": status.as_u16(), "message": error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> (Jobs, CancellationToken) {
        let stop = CancellationToken::new();
        (Jobs::new(PathBuf::new(), stop.clone()), stop)
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn progress_comes_as_lines_only_to_whom_asks_for_it() {
        let (jobs, _) = jobs();
        let work = |tell: Tell<'_>| {
            assert!(tell(1, 2));
            Ok(json!({ "ok": true }))
        };
        let plain = jobs.answer(Kind::Verify, &HeaderMap::new(), work).await;
        assert_eq!(text(plain).await, r#"{"ok":true}"#);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "text/html;q=0.1, application/x-ndjson; q=1".parse().expect("value"));
        let lines = jobs.answer(Kind::Verify, &headers, work).await;
        assert_eq!(text(lines).await, "{\"done\":1,\"of\":2}\n{\"report\":{\"ok\":true}}\n");
        let refused = |_: Tell<'_>| Err(AskError::Conflict("no".to_owned()));
        let lines = jobs.answer(Kind::Backup, &headers, refused).await;
        assert_eq!(text(lines).await, "{\"error\":\"conflict\",\"message\":\"no\",\"status\":409}\n");
    }

    #[tokio::test]
    async fn one_of_a_kind_at_a_time_and_work_nobody_waits_for_ends() {
        let (jobs, stop) = jobs();
        let (begun, wait) = std::sync::mpsc::sync_channel(1);
        let (ended, end) = tokio::sync::oneshot::channel();
        let work = move |tell: Tell<'_>| {
            while tell(0, 1) {
                let _ = begun.try_send(());
                std::thread::yield_now();
            }
            let _ = ended.send(());
            Err(AskError::Spool(SpoolError::Closed))
        };
        let headers = HeaderMap::new();
        let asking = jobs.answer(Kind::Verify, &headers, work);
        tokio::pin!(asking);
        while wait.try_recv().is_err() {
            assert!(futures_util::poll!(&mut asking).is_pending());
            tokio::task::yield_now().await;
        }
        let second = jobs.answer(Kind::Verify, &headers, |_| Ok(Value::Null)).await;
        assert_eq!(second.status(), axum::http::StatusCode::CONFLICT);
        let other = jobs.answer(Kind::Backup, &headers, |_| Ok(Value::Null)).await;
        assert!(other.status().is_success());
        stop.cancel();
        assert_eq!(asking.await.status(), axum::http::StatusCode::SERVICE_UNAVAILABLE);
        end.await.expect("it ended");
    }
}
