//! The end of a request whose response precedes the end of its body: a 401, 403, 404 or 413, or any response of an
//! upstream that did not read the body.
//!
//! A socket that is closed with unread data resets the connection, and the client loses the response. So the rest
//! of the body is read and discarded for a limited time and size:
//!
//! | protocol | end |
//! | --- | --- |
//! | HTTP/1.1 | the connection is half-closed, then read until the client closes (RFC 9112 9.6) |
//! | HTTP/2 | the stream is read until the client ends it; a client may take a RST_STREAM for a failure |

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::connections::{ClientBody, ClientBodyError};
use crate::proxy::ConnectionInfo;

/// Longest time in total, and without a byte of the client.
const MAX_TIME: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Most bytes that are discarded.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Size in bytes of one read.
const READ_SIZE: usize = 16 * 1024;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Receives a body that was dropped before its end. The client may still be sending it.
pub(super) type OnUnread<B> = Box<dyn FnOnce(B) + Send>;

/// Returns the body with an action for the case that it is dropped before its end. An empty body costs no
/// allocation.
pub(super) fn watch<B>(body: B, on_unread: impl FnOnce() -> OnUnread<B>) -> ClientBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    if body.is_end_stream() {
        return Empty::new().map_err(|never| match never {}).boxed_unsync();
    }
    WatchedBody { body: Some(body), on_unread: Some(on_unread()) }
        .map_err(|error| ClientBodyError(error.into()))
        .boxed_unsync()
}

/// A body that is watched for an early drop.
struct WatchedBody<B> {
    /// `None` after the end.
    body: Option<B>,
    on_unread: Option<OnUnread<B>>,
}

impl<B: Body + Unpin> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let is_last = match &frame {
            Some(Ok(frame)) => frame.is_trailers() || body.is_end_stream(),
            Some(Err(_)) | None => true,
        };
        if is_last {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}

impl<B> Drop for WatchedBody<B> {
    fn drop(&mut self) {
        if let (Some(rest), Some(on_unread)) = (self.body.take(), self.on_unread.take()) {
            on_unread(rest);
        }
    }
}

/// Discards the rest of a body on HTTP/2. The stream is reset when the future ends.
pub(super) async fn discard<B>(mut rest: B, connection: Arc<ConnectionInfo>)
where
    B: Body<Data = Bytes> + Unpin,
{
    let reading = async {
        let mut bytes = 0;
        while let Ok(Some(Ok(frame))) = timeout(MAX_PAUSE, rest.frame()).await
            && bytes < MAX_BYTES
        {
            let length = frame.data_ref().map_or(0, Bytes::len);
            connection.add_body_bytes(length);
            bytes += length;
        }
    };
    // An exceeded limit ends the stream like its regular end.
    timeout(MAX_TIME, reading).await.unwrap_or_default();
}

/// Half-closes an HTTP/1.1 connection, and discards what the client still sends.
pub(super) async fn close(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut lingering = LingeringClose::new();
        poll_fn(|cx| lingering.poll(cx, Pin::new(&mut stream))).await;
    }
}

/// Discards what a client sends on a half-closed HTTP/1.1 connection.
pub(super) struct LingeringClose {
    end: Instant,
    remaining: usize,
    timer: Pin<Box<Sleep>>,
}

impl LingeringClose {
    pub(super) fn new() -> LingeringClose {
        let now = Instant::now();
        let timer = Box::pin(sleep_until(now + MAX_PAUSE));
        LingeringClose { end: now + MAX_TIME, remaining: MAX_BYTES, timer }
    }

    /// Ready once the client has closed, or a limit is reached.
    pub(super) fn poll<S: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut S>,
    ) -> Poll<()> {
        let mut buffer = [0; READ_SIZE];
        loop {
            let mut buffer = ReadBuf::new(&mut buffer);
            match stream.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && self.remaining > 0 => {
                    self.remaining = self.remaining.saturating_sub(buffer.filled().len());
                    self.timer.as_mut().reset(self.end.min(Instant::now() + MAX_PAUSE));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
    }
}
