//! The body of a client's request.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Receives a body that was dropped before its end. The client may still be sending it.
pub type OnUnread = Box<dyn FnOnce(Incoming) + Send>;

/// A request body as the client sends it.
///
/// If the response comes first, the rest of the body has no reader. The connection decides what
/// happens to it: a close with unread data resets the connection, and the client loses the response
/// (RFC 9112 9.6).
pub struct ClientBody {
    /// `None` for an empty body, and after the end.
    incoming: Option<Incoming>,
    on_unread: Option<OnUnread>,
}

impl ClientBody {
    /// `on_unread` is called at most once, on drop.
    pub fn new(incoming: Incoming, on_unread: impl FnOnce() -> OnUnread) -> ClientBody {
        if incoming.is_end_stream() {
            return ClientBody { incoming: None, on_unread: None };
        }
        ClientBody { incoming: Some(incoming), on_unread: Some(on_unread()) }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let is_last = match &frame {
            Some(Ok(frame)) => frame.is_trailers() || incoming.is_end_stream(),
            Some(Err(_)) | None => true,
        };
        if is_last {
            self.incoming = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if let (Some(rest), Some(on_unread)) = (self.incoming.take(), self.on_unread.take()) {
            on_unread(rest);
        }
    }
}

impl fmt::Debug for ClientBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBody").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}
