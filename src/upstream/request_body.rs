//! Request bodies. They are not buffered: a frame is polled only when the upstream can take it.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::UpstreamError;
use super::permit::StreamGuard;

/// Requirements on a request body.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static> RequestBody for B {}

type BoxError = Box<dyn Error + Send + Sync>;

/// Attributes the error to the client's body if that failed, otherwise to the upstream.
pub(super) fn attribute_error(
    progress: Option<&Progress>,
    upstream_error: impl FnOnce() -> UpstreamError,
) -> UpstreamError {
    if progress.is_some_and(Progress::failed) {
        UpstreamError::ClientBody
    } else {
        upstream_error()
    }
}

/// How the end of a request body is marked (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// The number of bytes that are left.
    Length(u64),
    Chunked,
}

/// A request body that records its progress.
pub(super) struct OutgoingBody<B> {
    body: Option<(B, Arc<Progress>)>,
    /// Held until the whole body is sent.
    stream_guard: Option<StreamGuard>,
}

impl<B: RequestBody> OutgoingBody<B> {
    /// Wraps `body`; an empty one costs no allocation.
    pub(super) fn new(body: B) -> Self {
        let body = (!body.is_end_stream()).then(|| (body, Arc::default()));
        OutgoingBody { body, stream_guard: None }
    }

    pub(super) fn empty() -> Self {
        OutgoingBody { body: None, stream_guard: None }
    }

    pub(super) fn set_stream_guard(&mut self, stream_guard: Option<StreamGuard>) {
        self.stream_guard = stream_guard;
    }

    /// `None` without a body.
    pub(super) fn framing(&self) -> Option<BodyFraming> {
        let (body, _) = self.body.as_ref()?;
        Some(body.size_hint().exact().map_or(BodyFraming::Chunked, BodyFraming::Length))
    }

    /// Takes the body; without one, the request can be sent again.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, OutgoingBody::empty())
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.body.as_ref().map(|(_, progress)| Arc::clone(progress))
    }
}

impl<B: RequestBody> Body for OutgoingBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some((body, progress)) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) | None => progress.record_progress(),
            Some(Err(_)) => progress.failed.store(true, Ordering::Relaxed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some((body, _)) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// Progress of a request body after another part has taken it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    progressed: AtomicBool,
    failed: AtomicBool,
}

impl Progress {
    pub(super) fn record_progress(&self) {
        self.progressed.store(true, Ordering::Relaxed);
    }

    /// Whether the body made progress since the last call.
    pub(super) fn take_progress(&self) -> bool {
        self.progressed.swap(false, Ordering::Relaxed)
    }

    fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}
