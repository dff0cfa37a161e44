//! Responses of the HTTP library to requests that it cannot read (400, 414, 431).
//!
//! The library sends them without a body and without a call of the request handler. This layer replaces them. If
//! the head is too large, the request handler responds to its start. Otherwise the response is a text that states
//! what to change, and the status is recorded for the access log.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
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

const TOO_LARGE: u16 = 431;

/// Most bytes of a head that are kept. Browsers send the host and the accepted types before the cookies.
const KEPT_BYTES: usize = 8 * 1024;

/// A byte stream of an HTTP/1.1 connection that replaces refusals. `R` responds to the start of a large head.
pub(super) struct RefusalIo<S, R> {
    stream: S,
    activity: Arc<ConnectionActivity>,
    respond: R,
    /// The start of a head that arrives in several reads, as every large one does.
    head: Option<Vec<u8>>,
    replacement: Option<Replacement>,
}

/// The response that is sent instead of the library's.
struct Replacement {
    bytes: Vec<u8>,
    written: usize,
}

impl<S, R: Fn(&[u8]) -> Option<Response<Bytes>>> RefusalIo<S, R> {
    pub(super) fn new(stream: S, activity: Arc<ConnectionActivity>, respond: R) -> RefusalIo<S, R> {
        RefusalIo { stream, activity, respond, head: None, replacement: None }
    }

    /// Keeps the start of an incomplete head.
    fn record_read(&mut self, read: &[u8], is_first: bool) {
        match &mut self.head {
            _ if is_first && read.ends_with(b"\r\n\r\n") => self.head = None,
            _ if is_first => self.head = Some(start(read, KEPT_BYTES).to_vec()),
            Some(head) => head.extend_from_slice(start(read, KEPT_BYTES - head.len())),
            None => {}
        }
    }

    /// The library writes while it reads a head only to refuse it.
    fn replace(&mut self, buf: &[u8]) {
        if self.replacement.is_some() || !self.activity.is_reading_head() {
            return;
        }
        let known = REFUSALS.iter().find(|(_, line, _)| buf.starts_with(line.as_bytes()));
        if let Some((status, line, text)) = known {
            let head = self.head.take().filter(|_| *status == TOO_LARGE);
            let bytes = match head.and_then(|head| (self.respond)(&head)) {
                Some(response) => serialize(line, &response),
                None => {
                    self.activity.record_refusal(*status);
                    text_response(line, text)
                }
            };
            self.replacement = Some(Replacement { bytes, written: 0 });
        }
    }
}

fn start(bytes: &[u8], max: usize) -> &[u8] {
    bytes.get(..max).unwrap_or(bytes)
}

fn text_response(line: &str, text: &str) -> Vec<u8> {
    let length = text.len();
    format!(
        "{line}connection: close\r\ncache-control: no-store\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{text}"
    )
    .into_bytes()
}

fn serialize(line: &str, response: &Response<Bytes>) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(response.body());
    bytes
}

impl<S, R> RefusalIo<S, R>
where
    S: AsyncWrite + Unpin,
    R: Fn(&[u8]) -> Option<Response<Bytes>>,
{
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

impl<S, R> AsyncRead for RefusalIo<S, R>
where
    S: AsyncRead + Unpin,
    R: Fn(&[u8]) -> Option<Response<Bytes>> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_first = !self.activity.is_reading_head();
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.activity.is_reading_head() {
            let read = buf.filled().get(before..).unwrap_or_default();
            self.record_read(read, is_first);
        } else if self.head.is_some() {
            self.head = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S, R> AsyncWrite for RefusalIo<S, R>
where
    S: AsyncWrite + Unpin,
    R: Fn(&[u8]) -> Option<Response<Bytes>> + Unpin,
{
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
