//! Responses of the HTTP library to requests that it cannot read (400, 414, 431).
//!
//! The library sends them without a body and without a call of the request handler. This layer adds a text
//! that states what to change, and records the status for the access log.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_activity::ConnectionActivity;

/// Status lines of the library, with the text that is added to each.
const REFUSALS: [(u16, &str, &str); 3] = [
    (
        400,
        "HTTP/1.1 400 Bad Request\r\n",
        "The request is malformed. In a URL, write %22 for \", %3C for <, %3E for > and %20 for a space.\n",
    ),
    (414, "HTTP/1.1 414 URI Too Long\r\n", "The URL is too long.\n"),
    (
        431,
        "HTTP/1.1 431 Request Header Fields Too Large\r\n",
        "The request has too many or too large headers. Delete the cookies of this site.\n",
    ),
];

/// A byte stream of an HTTP/1.1 connection that replaces refusals.
pub(super) struct RefusalIo<S> {
    stream: S,
    activity: Arc<ConnectionActivity>,
    replacement: Option<Replacement>,
}

/// The response that is sent instead of the library's.
struct Replacement {
    bytes: Vec<u8>,
    written: usize,
}

impl<S> RefusalIo<S> {
    pub(super) fn new(stream: S, activity: Arc<ConnectionActivity>) -> RefusalIo<S> {
        RefusalIo { stream, activity, replacement: None }
    }

    /// The library writes while it reads a head only to refuse it.
    fn replace(&mut self, buf: &[u8]) {
        if self.replacement.is_some() || !self.activity.is_reading_head() {
            return;
        }
        let known = REFUSALS.iter().find(|(_, line, _)| buf.starts_with(line.as_bytes()));
        if let Some((status, line, text)) = known {
            self.activity.record_refusal(*status);
            let length = text.len();
            let bytes = format!(
                "{line}connection: close\r\ncache-control: no-store\r\n\
                 content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{text}"
            );
            self.replacement = Some(Replacement { bytes: bytes.into_bytes(), written: 0 });
        }
    }
}

impl<S: AsyncWrite + Unpin> RefusalIo<S> {
    /// Writes the replacement and then reports the library's bytes as written.
    fn poll_replacement(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        self.replace(buf);
        let replacement = self.replacement.as_mut()?;
        while let Some(left @ [_, ..]) = replacement.bytes.get(replacement.written..) {
            match Pin::new(&mut self.stream).poll_write(cx, left) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Ok(0))),
                Poll::Ready(Ok(written)) => replacement.written += written,
                failed @ (Poll::Ready(Err(_)) | Poll::Pending) => return Some(failed),
            }
        }
        Some(Poll::Ready(Ok(buf.len())))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RefusalIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RefusalIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.poll_replacement(cx, buf) {
            Some(written) => written,
            None => Pin::new(&mut self.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        match self.poll_replacement(cx, first) {
            Some(written) => written,
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        }
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
