//! A stream on which no answer is endless.
//!
//! The client library believes every length that a server names, and keeps what comes until the answer is
//! whole, also when nobody waits for it any more. A key that somebody else filled, or a server that is none,
//! would take this process' memory, and with it everybody's connections. So what is read is measured before
//! the library sees it. Invariants:
//! - of one answer the library is given at most [`MOST_BYTES`], in at most [`MOST_PARTS`] parts
//! - an answer that *names* more is refused before its contents are read
//! - after that the connection is of no use: where the next answer begins is not known

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::measure::{Measure, Refusal};

/// A connection to Redis whose answers are measured.
pub(super) struct Bounded<S> {
    stream: S,
    measure: Measure,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Bounded<S> {
        Bounded { stream, measure: Measure::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        let measured = self.measure.read(read);
        if measured.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(measured.map_err(Refusal::into))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
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
    use super::super::measure::MOST_BYTES;
    use super::super::trouble::is_too_much;
    use super::*;
    use ::redis::RedisError;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_is_too_much_is_an_error_before_its_contents_are_read() {
        let answer = format!("+OK\r\n${}\r\nand its contents", MOST_BYTES + 1);
        let mut stream = Bounded::new(io::Cursor::new(answer.into_bytes()));
        let mut read = Vec::new();
        let error = stream.read_to_end(&mut read).await.expect_err("too much");
        assert_eq!(read, b"", "nothing of that read is handed on");
        assert!(is_too_much(&RedisError::from(error)));
        assert!(stream.read_u8().await.is_err(), "and nothing after it");
    }
}
