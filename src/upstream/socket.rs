//! A TCP socket that can be told to look again.
//!
//! The runtime learns what arrived only when it polls its sockets, some dozens of task turns apart.
//! In between, a connection looks idle and clean although its upstream has closed it (a POST on it
//! would fail for nothing) or has sent a second answer (the next request on it would take that for
//! its own, and show one user what was meant for another). So the kernel itself is asked, with one
//! read more, before a connection is used again.
//!
//! What arrives after the request was written cannot be told from its answer, by nobody: HTTP/1.1
//! numbers nothing.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that a look takes up; more of them would only have to be cleared first.
const GLANCE: usize = 64;

/// A stream whose next read asks the kernel when its [`Look`] says so.
pub(super) struct Socket {
    stream: TcpStream,
    look: Look,
}

/// Tells a [`Socket`], which the HTTP client owns, to look again.
#[derive(Clone, Default)]
pub(super) struct Look(Arc<AtomicBool>);

impl Look {
    /// Call it before a request is handed to the connection: its driver reads before it writes.
    pub(super) fn again(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn done(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Socket {
        Socket { stream, look: Look::default() }
    }

    pub(super) fn look(&self) -> Look {
        self.look.clone()
    }

    /// Reads past the runtime's idea of what is ready. The runtime waits for the socket already, and
    /// a read it does not know of only makes its next one find nothing.
    fn read_now(&self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = SockRef::from(&self.stream);
        // Usually nothing is there, and anything at all ends the connection.
        let most = buf.remaining().min(GLANCE);
        match (&*socket).read(buf.initialize_unfilled_to(most)) {
            Ok(count) => {
                buf.advance(count);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.look.done();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() && self.look.is_due() { self.read_now(buf) } else { read }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
