//! Socket that can be probed for unexpected data before reuse.
//!
//! tokio learns about arrived data only when it polls its sockets, some dozens of task turns apart.
//! In between, a connection looks idle although its upstream has closed it or has sent a second
//! response. A POST on it would fail for no reason, or the next request would receive a response
//! meant for another user. So the socket is read directly once more before a connection is reused.
//!
//! Data that arrives after the request was written is indistinguishable from its response: HTTP/1.1
//! has no message IDs.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of the probe's buffer in bytes; a larger one would only cost time to clear.
const PROBE_BYTES: usize = 64;

/// A stream whose next read bypasses tokio's readiness if a probe is requested.
pub(super) struct ProbedSocket<S> {
    stream: S,
    is_probe_requested: bool,
}

impl<S: AsFd> ProbedSocket<S> {
    pub(super) fn new(stream: S) -> ProbedSocket<S> {
        ProbedSocket { stream, is_probe_requested: false }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Requests a probe with the next read.
    pub(super) fn request_probe(&mut self) {
        self.is_probe_requested = true;
    }

    /// Reads regardless of tokio's readiness state. tokio already waits for the socket; a read that
    /// bypasses it only causes one empty read later.
    fn read_from_kernel(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = SockRef::from(&self.stream);
        // Usually there is no data, and any data ends the connection.
        let max = buf.remaining().min(PROBE_BYTES);
        match (&*socket).read(buf.initialize_unfilled_to(max)) {
            Ok(count) => {
                buf.advance(count);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_probe_requested = false;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for ProbedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() && self.is_probe_requested { self.read_from_kernel(buf) } else { read }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ProbedSocket<S> {
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
