//! A stream that limits the size of replies.
//!
//! The client library trusts every length that a server sends, and buffers a reply until it is
//! complete, even after its caller is gone. A foreign value under a key, or a server that is not
//! Redis, could exhaust the memory of this process. The stream therefore measures all input before
//! the library sees it. Invariants:
//! - the library gets at most [`MAX_REPLY_BYTES`] and [`MAX_REPLY_ELEMENTS`] of one reply
//! - a reply that *announces* more fails before its payload is read
//! - after a failure the connection is unusable, because the start of the next reply is unknown

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::reply_limit::{ReplyLimitError, ReplyMeter};

/// A connection to Redis with limited replies.
pub(super) struct BoundedStream<S> {
    stream: S,
    meter: ReplyMeter,
}

impl<S> BoundedStream<S> {
    pub(super) fn new(stream: S) -> BoundedStream<S> {
        BoundedStream { stream, meter: ReplyMeter::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        let measured = self.meter.read(read);
        if measured.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(measured.map_err(ReplyLimitError::into))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::errors::is_over_limit;
    use super::super::reply_limit::MAX_REPLY_BYTES;
    use super::*;
    use ::redis::RedisError;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn an_oversized_reply_fails_before_its_payload_is_read() {
        let reply = format!("+OK\r\n${}\r\nand its contents", MAX_REPLY_BYTES + 1);
        let mut stream = BoundedStream::new(io::Cursor::new(reply.into_bytes()));
        let mut read = Vec::new();
        let error = stream.read_to_end(&mut read).await.expect_err("too large");
        assert_eq!(read, b"", "no byte of that read is passed on");
        assert!(is_over_limit(&RedisError::from(error)));
        assert!(stream.read_u8().await.is_err(), "and nothing after it");
    }
}
