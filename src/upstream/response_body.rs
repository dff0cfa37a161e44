//! Response bodies. They are not buffered: a frame is polled only when the client can take it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::error::UpstreamError;
use super::http1_connection::ResponseBodyState;
use super::pool::Lease;
use super::request_body::{Progress, RequestBody, attribute_error};

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
