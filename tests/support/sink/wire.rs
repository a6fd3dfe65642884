//! The line under a conversation: octets in and out, in the clear or through TLS, and the ways to end it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::TlsFacts;

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Only while a handshake runs, and after one that failed.
    Gone,
}

/// A connection with what was read ahead.
pub(super) struct Wire {
    stream: Stream,
    pub(super) ahead: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Replies in pieces shall be seen in pieces.
        let _ = stream.set_nodelay(true);
        Self { stream: Stream::Plain(stream), ahead: Vec::new() }
    }

    /// Reads at most `limit` octets behind what is there; an error at the end of the stream.
    pub(super) async fn read(&mut self, limit: usize) -> io::Result<()> {
        let mut space = vec![0; limit.min(64 * 1024)];
        let n = match &mut self.stream {
            Stream::Plain(stream) => stream.read(&mut space).await?,
            Stream::Tls(stream) => stream.read(&mut space).await?,
            Stream::Gone => 0,
        };
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.ahead.extend_from_slice(&space[..n]);
        Ok(())
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Octets one by one.
    pub(super) async fn trickle(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        for byte in bytes {
            tokio::time::sleep(pause).await;
            self.write(&[*byte]).await?;
        }
        Ok(())
    }

    /// TLS close_notify and FIN, then reads until the other side ends too, so that FIN does not become RST.
    pub(super) async fn close(&mut self) {
        let _ = match &mut self.stream {
            Stream::Plain(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
            Stream::Gone => Ok(()),
        };
        self.drain().await;
    }

    /// FIN without a TLS goodbye.
    pub(super) async fn cut(&mut self) {
        let _ = match &mut self.stream {
            Stream::Plain(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.get_mut().0.shutdown().await,
            Stream::Gone => Ok(()),
        };
        self.drain().await;
    }

    async fn drain(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            while self.read(usize::MAX).await.is_ok() {
                self.ahead.clear();
            }
        })
        .await;
    }

    /// RST.
    pub(super) fn reset(&mut self) {
        let _ = match &self.stream {
            Stream::Plain(stream) => stream.set_zero_linger(),
            Stream::Tls(stream) => stream.get_ref().0.set_zero_linger(),
            Stream::Gone => Ok(()),
        };
        self.stream = Stream::Gone;
    }

    /// Reads and forgets until the other side ends.
    pub(super) async fn listen_only(&mut self) {
        while self.read(usize::MAX).await.is_ok() {
            self.ahead.clear();
        }
    }

    /// Does the handshake. What was read ahead belongs to the clear and is forgotten.
    pub(super) async fn secure(&mut self, server: Arc<ServerConfig>) -> io::Result<TlsFacts> {
        self.ahead.clear();
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        let (sni, alpn) = (hello.server_name().map(str::to_owned), hello.alpn().is_some());
        let stream = start.into_stream(server).await?;
        let version = stream.get_ref().1.protocol_version();
        let version = version.map(|version| format!("{version:?}")).unwrap_or_default();
        self.stream = Stream::Tls(Box::new(stream));
        Ok(TlsFacts { version, sni, alpn })
    }
}
