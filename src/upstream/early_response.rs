//! Byte stream to an HTTP/1.1 upstream that may respond before it has read the whole request.
//!
//! Such an upstream may close its connection with unread data. Writes then fail, while the response waits in the
//! receive buffer: a 413, for example. hyper would report the failed write and discard the response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that discards what the upstream no longer reads. Reads report the end of the connection.
pub(super) struct EarlyResponseStream<T> {
    stream: T,
    is_write_closed: bool,
}

impl<T> EarlyResponseStream<T> {
    pub(super) fn new(stream: T) -> EarlyResponseStream<T> {
        EarlyResponseStream { stream, is_write_closed: false }
    }

    /// Turns a write that failed because the upstream closed into a success with the value `discarded`.
    fn accept<R>(&mut self, result: io::Result<R>, discarded: R) -> io::Result<R> {
        match result {
            Err(error) if is_closed(&error) => {
                self.is_write_closed = true;
                Ok(discarded)
            }
            other => other,
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind())
}

impl<T: AsyncRead + Unpin> AsyncRead for EarlyResponseStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for EarlyResponseStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_write_closed {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.accept(written, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        if self.is_write_closed {
            return Poll::Ready(Ok(length));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts));
        Poll::Ready(self.accept(written, length))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_write_closed {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.accept(flushed, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
