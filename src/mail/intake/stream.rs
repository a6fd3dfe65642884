//! The octets of one session: in the clear, or inside TLS.
//!
//! Inside TLS the end of a connection without the farewell of TLS counts as its end, no more and no less than in the
//! clear: many mail programs close so, and a message that is not complete is dropped in any case.

use std::io;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Both kinds.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake has taken it, or it came to nothing.
    Gone,
}

impl Stream {
    /// Reads what is there, or waits for it; 0: the client has ended. May be dropped while it waits.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => without_farewell(stream.read(buffer).await),
            Self::Gone => Ok(0),
        }
    }

    /// The same without waiting: `None` when nothing is there.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        match self {
            Self::Plain(stream) => match stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                read => Some(read),
            },
            Self::Tls(stream) => {
                // A record may be there that is no data (a new key): then nothing is there, too.
                let read = tokio::task::unconstrained(stream.read(buffer)).now_or_never();
                read.map(without_farewell)
            }
            Self::Gone => Some(Ok(0)),
        }
    }

    /// Hands all of it to the system.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says that nothing more follows.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::Gone => Ok(()),
        }
    }

    /// The plain stream, for a handshake; `None` when it is not plain (any more).
    pub(super) fn take_plain(&mut self) -> Option<TcpStream> {
        match std::mem::replace(self, Self::Gone) {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) | Self::Gone => None,
        }
    }
}

fn without_farewell(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}
