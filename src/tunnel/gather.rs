//! A stream whose small writes leave together.
//!
//! What is written is held until [`GATHER_BYTES`] have come or somebody flushes. The memory for it is taken at the first
//! write and given back when all of it has left, so that a connection which has nothing to say holds none: that is why
//! it is not tokio's `BufWriter`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held before they are passed on without being asked to; one write more may be held.
pub(super) const GATHER_BYTES: usize = 32 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Gather<S> {
    inner: S,
    held: Vec<u8>,
    /// How many of the held bytes have left.
    left: usize,
}

impl<S> Gather<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, held: Vec::new(), left: 0 }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Ready when nothing is held.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left < self.held.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held[self.left..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.left += written;
        }
        self.left = 0;
        self.held.clear();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() >= GATHER_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.held = Vec::new();
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn small_writes_leave_at_a_flush_and_the_memory_goes() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut gather = Gather::new(ours);
        gather.write_all(b"one").await.expect("held");
        gather.write_all(b"two").await.expect("held");
        let mut read = [0; 6];
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), theirs.read(&mut read)).await;
        assert!(early.is_err(), "it left before the flush");
        gather.flush().await.expect("flushed");
        theirs.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"onetwo");
        assert_eq!(gather.held.capacity(), 0);
    }

    #[tokio::test]
    async fn a_blocked_peer_holds_the_writer_up_and_nothing_is_lost() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut gather = Gather::new(ours);
        let sent: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            for piece in sent.chunks(777) {
                gather.write_all(piece).await?;
                assert!(gather.held.len() < GATHER_BYTES + 777);
            }
            gather.shutdown().await
        });
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.expect("read");
        writer.await.expect("no panic").expect("written");
        assert!(read == expected, "{} of {} bytes", read.len(), expected.len());
    }
}
