//! The TLS handshake with a client, and a copy of its ClientHello.
//!
//! The bytes are recorded until rustls has accepted the ClientHello. Afterwards rustls reads the socket
//! directly, so the recording costs nothing per request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsAcceptor};

use super::hello::Hello;
use super::{Certificates, TlsError};

/// Maximum size of a ClientHello with its record headers, in bytes. Browsers send less than 2,000.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// A record with the fatal alert `decode_error` (RFC 8446, section 6).
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

/// Accepts TLS connections. A clone shares the session tickets.
#[derive(Clone)]
pub struct HandshakeAcceptor {
    /// For hosts without client certificates.
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl HandshakeAcceptor {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(certificates: Arc<Certificates>) -> Result<HandshakeAcceptor, TlsError> {
        Ok(HandshakeAcceptor { config: certificates.server_config()?, certificates })
    }

    /// Returns the certificates of the connections.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// Performs the handshake. The caller sets a deadline.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.certificates.has_client_auth() {
            return TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await;
        }
        let acceptor = rustls::server::Acceptor::default();
        let handshake = LazyConfigAcceptor::new(acceptor, stream).await?;
        let config = self.config_for(handshake.client_hello().server_name())?;
        handshake.into_stream(config).await
    }

    /// Returns the configuration for the server name of a ClientHello.
    fn config_for(&self, name: Option<&str>) -> io::Result<Arc<ServerConfig>> {
        let name = name.map(str::to_ascii_lowercase);
        let config = name.and_then(|name| self.certificates.client_auth_config(&name));
        config.unwrap_or_else(|| Ok(Arc::clone(&self.config))).map_err(io::Error::other)
    }

    /// Performs the handshake and returns the ClientHello. The caller sets a deadline.
    ///
    /// # Errors
    /// When the handshake fails, or the ClientHello is longer than [`MAX_CLIENT_HELLO`]. Otherwise a client
    /// could evade the fingerprint with a long one.
    pub async fn accept_with_client_hello<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Hello)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let recording = RecordingStream { stream, bytes: Vec::new() };
        let mut lazy = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), recording);
        let StartHandshake { accepted, io, .. } = match (&mut lazy).await {
            Ok(handshake) => handshake,
            Err(error) => {
                // rustls sends its own alert for its own errors.
                if let Some(io) = lazy.take_io().filter(RecordingStream::is_too_long) {
                    send_decode_error(io.stream).await;
                }
                return Err(error);
            }
        };
        let Some(hello) = Hello::read(&io.bytes) else {
            send_decode_error(io.stream).await;
            return Err(invalid_data("the ClientHello cannot be parsed"));
        };
        let handshake = StartHandshake::from_parts(accepted, io.stream);
        let config = self.config_for(handshake.client_hello().server_name())?;
        let tls = handshake.into_stream(config).await?;
        Ok((tls, hello))
    }
}

/// Sends an alert for a ClientHello that rustls accepted and [`Hello`] did not.
async fn send_decode_error(mut stream: impl AsyncWrite + Unpin) {
    // The client may already have disconnected.
    stream.write_all(&DECODE_ERROR).await.unwrap_or_default();
}

fn invalid_data(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// A stream and a copy of the bytes read from it.
struct RecordingStream<S> {
    stream: S,
    bytes: Vec<u8>,
}

impl<S> RecordingStream<S> {
    fn is_too_long(&self) -> bool {
        self.bytes.len() > MAX_CLIENT_HELLO
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RecordingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        self.bytes.extend_from_slice(read);
        let too_long = || Err(invalid_data("the ClientHello is too long"));
        Poll::Ready(if self.is_too_long() { too_long() } else { Ok(()) })
    }
}

/// rustls writes its alert through it.
impl<S: AsyncWrite + Unpin> AsyncWrite for RecordingStream<S> {
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
