//! The octets of one connection: what is still to be written, and what comes meanwhile.
//!
//! Promises: reading goes before writing, always, so that a server that refuses in the middle of a message is heard
//! before the connection breaks under it (P10); a wait that is given up loses nothing, as progress is kept here and
//! not in the future that waits. After a write has failed, what the server said before is still read.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Octets read at once.
const READ_BYTES: usize = 8 * 1024;

/// In the clear, or not.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Gone,
}

/// A byte stream.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What happened on the connection.
#[derive(Debug)]
pub(super) enum Heard {
    /// So many octets came: [`Link::octets`].
    Octets(usize),
    /// Everything that was queued is with the system.
    Flushed,
    /// End of the stream.
    Closed,
    /// It broke.
    Broken(io::Error),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    wire: Wire,
    out: BytesMut,
    is_flushed: bool,
    write_error: Option<io::Error>,
    read: Box<[u8; READ_BYTES]>,
}

impl Link {
    /// A connection in the clear.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            wire: Wire::Plain(tcp),
            out: BytesMut::new(),
            is_flushed: true,
            write_error: None,
            read: Box::new([0; READ_BYTES]),
        }
    }

    /// Gives the TCP stream away for a handshake; `None` when it is not in the clear.
    pub(super) fn take_tcp(&mut self) -> Option<TcpStream> {
        match core::mem::replace(&mut self.wire, Wire::Gone) {
            Wire::Plain(tcp) => Some(tcp),
            Wire::Tls(_) | Wire::Gone => None,
        }
    }

    /// Goes on over TLS.
    pub(super) fn secure(&mut self, tls: TlsStream<TcpStream>) {
        self.wire = Wire::Tls(Box::new(tls));
    }

    /// Lets go of the connection.
    pub(super) fn close(&mut self) {
        self.wire = Wire::Gone;
        self.out.clear();
        self.is_flushed = true;
    }

    /// Adds octets to what is to be written.
    pub(super) fn queue(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
        self.is_flushed = false;
    }

    /// Nothing is left to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// What came last.
    pub(super) fn octets(&self, count: usize) -> &[u8] {
        self.read.get(..count).unwrap_or_default()
    }

    /// Reads, or writes what is queued; waits for the first of both.
    pub(super) async fn step(&mut self) -> Heard {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    /// What can be read without waiting.
    pub(super) async fn overhear(&mut self) -> Option<Heard> {
        poll_fn(|cx| match self.poll_read(cx) {
            Poll::Ready(heard) => Poll::Ready(Some(heard)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let Some(stream) = self.wire.stream() else { return Poll::Ready(Heard::Closed) };
        let mut read = ReadBuf::new(&mut self.read[..]);
        let heard = match Pin::new(stream).poll_read(cx, &mut read) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !read.filled().is_empty() => Heard::Octets(read.filled().len()),
            Poll::Ready(Ok(())) => self.write_error.take().map_or(Heard::Closed, Heard::Broken),
            Poll::Ready(Err(error)) => Heard::Broken(self.write_error.take().unwrap_or(error)),
        };
        Poll::Ready(heard)
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        if let Poll::Ready(heard) = self.poll_read(cx) {
            return Poll::Ready(heard);
        }
        if self.is_flushed || self.write_error.is_some() {
            return Poll::Pending;
        }
        match self.poll_flush(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.is_flushed = true;
                Poll::Ready(Heard::Flushed)
            }
            Poll::Ready(Err(error)) => {
                self.write_error = Some(error);
                self.out.clear();
                self.poll_read(cx)
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.wire.stream() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        while !self.out.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &self.out) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.out.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Pin::new(stream).poll_flush(cx)
    }
}

impl Wire {
    fn stream(&mut self) -> Option<&mut dyn Stream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.as_mut()),
            Self::Gone => None,
        }
    }
}
