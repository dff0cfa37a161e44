//! Request and response bodies of an exchange.
//!
//! Neither is buffered: a frame is polled only when the other side can take it.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::error::UpstreamError;
use super::http1_connection::ResponseBodyState;
use super::pool::{Lease, StreamGuard};

/// Requirements on a request body.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static> RequestBody for B {}

type BoxError = Box<dyn Error + Send + Sync>;

/// A response body, including trailers.
///
/// The connection returns to its pool after the last frame. If the body is dropped earlier, the
/// connection is closed: the rest of this response would precede the next one.
pub struct UpstreamBody<B: RequestBody> {
    source: BodySource,
    lease: Option<Lease<B>>,
}

/// Source of the body's frames.
#[derive(Debug)]
enum BodySource {
    Hyper {
        incoming: Incoming,
        progress: Option<Arc<Progress>>,
    },
    /// Decoded directly from the leased connection.
    Http1(ResponseBodyState),
}

impl<B: RequestBody> UpstreamBody<B> {
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease<B>,
        progress: Option<Arc<Progress>>,
    ) -> Self {
        UpstreamBody::with_source(BodySource::Hyper { incoming, progress }, lease)
    }

    pub(super) fn from_http1(state: ResponseBodyState, lease: Lease<B>) -> Self {
        UpstreamBody::with_source(BodySource::Http1(state), lease)
    }

    fn with_source(source: BodySource, lease: Lease<B>) -> Self {
        let mut body = UpstreamBody { source, lease: Some(lease) };
        if body.source.is_end() {
            body.release_lease();
        }
        body
    }

    fn release_lease(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let is_reusable = match (&self.source, lease.http1()) {
            (BodySource::Http1(state), Some(connection)) => connection.is_reusable(state),
            (BodySource::Http1(_), None) => false,
            (BodySource::Hyper { .. }, _) => true,
        };
        if is_reusable {
            lease.release();
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match &mut self.source {
            BodySource::Hyper { incoming, progress } => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                let attributed = |error| attribute_error(&error, progress.as_deref());
                Poll::Ready(frame.map(|frame| frame.map_err(attributed)))
            }
            BodySource::Http1(state) => match self.lease.as_mut().and_then(Lease::http1) {
                Some(connection) => connection.poll_frame(cx, state),
                None => Poll::Ready(None),
            },
        }
    }
}

impl BodySource {
    fn is_end(&self) -> bool {
        match self {
            BodySource::Hyper { incoming, .. } => incoming.is_end_stream(),
            BodySource::Http1(state) => state.decoder().is_complete(),
        }
    }
}

impl<B: RequestBody> fmt::Debug for UpstreamBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<B: RequestBody> Body for UpstreamBody<B> {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let frame = ready!(self.poll_next(cx));
        match &frame {
            // A caller with a known length, or after trailers, does not poll again.
            Some(Ok(frame)) if frame.is_trailers() || self.source.is_end() => self.release_lease(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.lease = None,
            None => self.release_lease(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Hyper { incoming, .. } => incoming.size_hint(),
            BodySource::Http1(state) => state.decoder().size_hint(),
        }
    }
}

/// Attributes the error to the client's body if that failed, otherwise to the upstream.
pub(super) fn attribute_error(error: &hyper::Error, progress: Option<&Progress>) -> UpstreamError {
    if progress.is_some_and(Progress::failed) {
        UpstreamError::ClientBody
    } else {
        UpstreamError::from(error)
    }
}

/// A request body as hyper polls it; records its progress.
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

/// Progress of a request body that hyper owns.
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
