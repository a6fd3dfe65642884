//! Driver: a connection whose client has to take what it asked for.
//!
//! hyper limits the time of a request head and nothing else, and that only while a head is awaited: whoever asks and never reads
//! would keep a descriptor, a place and an answer for ever.
//!
//! Promises: while octets wait for the client, [`Pace::bytes`] of them leave in every [`Pace::time`], or writing ends with
//! `TimedOut`. Silence of ours is no fault of the client: event streams and long polls have nothing that waits. A connection that
//! was upgraded is let go ([`Reins`]): pings bound it from then on. Does not: know TLS or HTTP; it lies below both.
//! Failure policy: an error of the write, as of any connection that breaks.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How long octets may wait for a client before it is looked at how many it took.
pub const UPTAKE_TIME: Duration = Duration::from_secs(30);
/// How many it must have taken by then. The system tells of them in steps of 32 KiB at most, so nobody is cut who takes a little
/// more than a kilobyte in a second.
pub const UPTAKE_BYTES_MIN: usize = 8 * 1024;
/// Most octets that the system keeps for a client beyond what is on its way, bytes. As much as it likes can be megabytes; it would
/// tell of the uptake only when a third of them has gone, and a slow client would look as one that takes nothing.
const UNSENT_MAX: u32 = 64 * 1024;
/// For [`UNSENT_MAX`]: as the system has it for everybody.
const UNSENT_AS_USUAL: u32 = 0;

/// How fast a client has to take what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// As many octets ...
    pub bytes: usize,
    /// ... in so long a time.
    pub time: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes: UPTAKE_BYTES_MIN, time: UPTAKE_TIME }
    }
}

/// Lets go of a stream that belongs to another protocol from now on.
#[derive(Clone, Debug, Default)]
pub(super) struct Reins(Arc<AtomicBool>);

impl Reins {
    pub(super) fn let_go(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Uptake {
    stream: TcpStream,
    pace: Pace,
    reins: Reins,
    held: bool,
    /// `None`: nothing waits for the client.
    wait: Option<Wait>,
}

/// Octets wait, and so many went meanwhile.
#[derive(Debug)]
struct Wait {
    bytes: usize,
    over: Pin<Box<Sleep>>,
}

impl Wait {
    fn of(pace: Pace) -> Self {
        Self { bytes: 0, over: Box::pin(sleep(pace.time)) }
    }
}

impl Uptake {
    /// Watches over `stream` until somebody lets go.
    pub(super) fn of(stream: TcpStream, pace: Pace) -> (Self, Reins) {
        // Refused: slow clients are judged by larger steps.
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_MAX);
        let reins = Reins::default();
        (Self { stream, pace, reins: reins.clone(), held: true, wait: None }, reins)
    }

    fn is_held(&mut self) -> bool {
        if self.held && self.reins.0.load(Ordering::Relaxed) {
            (self.held, self.wait) = (false, None);
            // Refused: the tunnel wakes up more often.
            let _ = SockRef::from(&self.stream).set_tcp_notsent_lowat(UNSENT_AS_USUAL);
        }
        self.held
    }

    /// Keeps count of what a write came to.
    ///
    /// * `wanted` – octets that were to be written.
    fn note(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        if !self.is_held() {
            return written;
        }
        match &written {
            Poll::Ready(Ok(bytes)) if *bytes < wanted => {
                if let Some(wait) = &mut self.wait {
                    wait.bytes = wait.bytes.saturating_add(*bytes);
                }
            }
            Poll::Ready(_) => self.wait = None,
            Poll::Pending => self.hurry(cx)?,
        }
        written
    }

    fn hurry(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let pace = self.pace;
        let wait = self.wait.get_or_insert_with(|| Wait::of(pace));
        // Asked again after it was set anew: who has not asked is not woken.
        while wait.over.as_mut().poll(cx).is_ready() {
            if wait.bytes < pace.bytes {
                let words = "the client does not take what it asked for";
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
            *wait = Wait::of(pace);
        }
        Ok(())
    }
}

impl AsyncRead for Uptake {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Uptake {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(cx, written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(cx, written, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A socket keeps nothing back: neither of these ever waits.

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
