//! The handshake with a client, and a look at how it begins.
//!
//! rustls reads the ClientHello and judges it; what it was made of is kept on the side until then. From
//! there on the connection is rustls' own, over the bare socket: nothing of the look is left on the way
//! of the data.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsAcceptor};

use super::hello::Hello;

/// The longest beginning of a handshake that is looked at, in bytes as they were sent. Browsers need less
/// than two thousand.
pub const LONGEST_HELLO: usize = 16 * 1024;

/// A fatal alert, `decode_error`, as a record of its own (RFC 8446 6).
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

/// Takes connections from clients. A clone shares its tickets.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl Acceptor {
    pub fn new(config: Arc<ServerConfig>) -> Acceptor {
        Acceptor { config }
    }

    /// The handshake. Whoever calls it bounds the time.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await
    }

    /// The same, and what the client began with.
    ///
    /// # Errors
    /// As the handshake's; and when it begins with more than [`LONGEST_HELLO`], which a client could else
    /// do to go unlooked at.
    pub async fn listen<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Hello)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let overheard = Overheard { stream, bytes: Vec::new() };
        let mut lazy = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), overheard);
        let StartHandshake { accepted, io, .. } = match (&mut lazy).await {
            Ok(begun) => begun,
            Err(error) => {
                // rustls has told the client why where it is rustls that refused.
                if let Some(io) = lazy.take_io().filter(Overheard::is_too_long) {
                    refuse(io.stream).await;
                }
                return Err(error);
            }
        };
        let Some(hello) = Hello::read(&io.bytes) else {
            refuse(io.stream).await;
            return Err(invalid("a ClientHello that cannot be looked at"));
        };
        let begun = StartHandshake::from_parts(accepted, io.stream);
        let tls = begun.into_stream(Arc::clone(&self.config)).await?;
        Ok((tls, hello))
    }
}

/// Says so to a client that is refused for the look alone.
async fn refuse(mut stream: impl AsyncWrite + Unpin) {
    // It may be gone already; then nobody needs to hear it.
    stream.write_all(&DECODE_ERROR).await.unwrap_or_default();
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A stream, and what was read from it.
struct Overheard<S> {
    stream: S,
    bytes: Vec<u8>,
}

impl<S> Overheard<S> {
    fn is_too_long(&self) -> bool {
        self.bytes.len() > LONGEST_HELLO
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        self.bytes.extend_from_slice(read);
        let too_long = || Err(invalid("a ClientHello is too long"));
        Poll::Ready(if self.is_too_long() { too_long() } else { Ok(()) })
    }
}

/// For rustls' alert.
impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
