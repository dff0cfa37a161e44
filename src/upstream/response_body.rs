//! Response bodies. Apart from the first bytes, a frame is polled only when the client can take it.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::message::Endpoint;

use super::error::UpstreamError;
use super::http1_connection::ResponseBodyState;
use super::pool::Lease;
use super::request_body::{Progress, RequestBody, attribute_error};

/// Bytes of a body that are read before its head is passed on.
const PREFETCH_MAX: usize = 16 * 1024;

/// A response body, including trailers.
///
/// The connection returns to its pool after the last frame. If the body is dropped earlier, the
/// connection is closed: the rest of this response would precede the next one.
///
/// Boxed: every layer between the connection and the client moves it.
pub struct UpstreamBody<B: RequestBody>(Box<BodyState<B>>);

struct BodyState<B: RequestBody> {
    source: BodySource,
    lease: Option<Lease<B>>,
    endpoint: Endpoint,
    /// Frames that were read together with the head.
    prefetched: VecDeque<Frame<Bytes>>,
    /// Whether the last frame was read.
    received_all: bool,
}

/// Source of the body's frames.
enum BodySource {
    Http2 {
        incoming: Incoming,
        progress: Option<Arc<Progress>>,
    },
    /// Decoded directly from the leased connection.
    Http1(ResponseBodyState),
}

impl<B: RequestBody> UpstreamBody<B> {
    pub(super) fn from_http2(
        incoming: Incoming,
        lease: Lease<B>,
        progress: Option<Arc<Progress>>,
    ) -> Self {
        UpstreamBody::with_source(BodySource::Http2 { incoming, progress }, lease)
    }

    pub(super) fn from_http1(state: ResponseBodyState, lease: Lease<B>) -> Self {
        UpstreamBody::with_source(BodySource::Http1(state), lease)
    }

    fn with_source(source: BodySource, lease: Lease<B>) -> Self {
        let endpoint = lease.endpoint().clone();
        let prefetched = VecDeque::new();
        let received_all = source.is_end();
        let lease = Some(lease);
        let state = BodyState { source, lease, endpoint, prefetched, received_all };
        let mut body = UpstreamBody(Box::new(state));
        if received_all {
            body.release_lease();
        }
        body
    }

    /// Returns the endpoint that sent the response.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Reads what the upstream has sent together with the head. A response that is already broken
    /// then becomes an error while another response can still be sent. Never waits for the
    /// upstream: an event stream may send its first event hours later.
    pub(super) async fn prefetch(&mut self) -> Result<(), UpstreamError> {
        if self.is_buffered() {
            return Ok(());
        }
        let mut bytes = 0;
        let mut was_pending = false;
        while bytes < PREFETCH_MAX && !self.0.received_all {
            match poll_fn(|cx| Poll::Ready(self.poll_received(cx))).await {
                Poll::Ready(Some(Ok(frame))) => {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    self.0.prefetched.push_back(frame);
                    was_pending = false;
                }
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) => break,
                Poll::Pending if was_pending => break,
                // The task that drives the connection, and the sockets, get one turn.
                Poll::Pending => {
                    was_pending = true;
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }

    /// Whether the whole body arrived together with the head, which is the common case.
    fn is_buffered(&mut self) -> bool {
        match (&self.0.source, self.0.lease.as_mut().and_then(Lease::http1)) {
            (BodySource::Http1(state), Some(connection)) => connection.has_buffered(state),
            (BodySource::Http1(_), None) => true,
            (BodySource::Http2 { .. }, _) => self.0.received_all,
        }
    }

    fn release_lease(&mut self) {
        let Some(mut lease) = self.0.lease.take() else { return };
        let is_reusable = match (&self.0.source, lease.http1()) {
            (BodySource::Http1(state), Some(connection)) => connection.is_reusable(state),
            (BodySource::Http1(_), None) => false,
            (BodySource::Http2 { .. }, _) => true,
        };
        if is_reusable {
            lease.release();
        }
    }

    /// Reads the next frame from the connection and releases it after the last one.
    fn poll_received(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let frame = ready!(self.poll_next(cx));
        self.0.received_all = match &frame {
            // A caller with a known length, or after trailers, does not poll again.
            Some(Ok(frame)) => frame.is_trailers() || self.0.source.is_end(),
            Some(Err(_)) => {
                self.0.lease = None;
                false
            }
            None => true,
        };
        if self.0.received_all {
            self.release_lease();
        }
        Poll::Ready(frame)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match &mut self.0.source {
            BodySource::Http2 { incoming, progress } => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                let attributed =
                    |error| attribute_error(progress.as_deref(), || UpstreamError::of_body(&error));
                Poll::Ready(frame.map(|frame| frame.map_err(attributed)))
            }
            BodySource::Http1(state) => match self.0.lease.as_mut().and_then(Lease::http1) {
                Some(connection) => {
                    let frame = ready!(connection.poll_frame(cx, state));
                    Poll::Ready(frame.map(|frame| frame.map_err(UpstreamError::in_body)))
                }
                None => Poll::Ready(None),
            },
        }
    }
}

impl BodySource {
    fn is_end(&self) -> bool {
        match self {
            BodySource::Http2 { incoming, .. } => incoming.is_end_stream(),
            BodySource::Http1(state) => state.decoder().is_complete(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            BodySource::Http2 { incoming, .. } => incoming.size_hint(),
            BodySource::Http1(state) => state.decoder().size_hint(),
        }
    }
}

impl<B: RequestBody> fmt::Debug for UpstreamBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").field("endpoint", &self.0.endpoint).finish_non_exhaustive()
    }
}

impl<B: RequestBody> Body for UpstreamBody<B> {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self.0.prefetched.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.poll_received(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.prefetched.is_empty() && self.0.received_all
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.received_all {
            return total_size(&self.0.prefetched, 0);
        }
        let left = self.0.source.size_hint();
        match left.exact() {
            Some(left) if !self.0.prefetched.is_empty() => total_size(&self.0.prefetched, left),
            Some(_) | None => left,
        }
    }
}

/// The size of a body with these frames and `left` further bytes. Unknown with trailers, because a
/// length forbids them.
fn total_size(frames: &VecDeque<Frame<Bytes>>, left: u64) -> SizeHint {
    let length = |frame: &Frame<Bytes>| u64::try_from(frame.data_ref()?.len()).ok();
    let total: Option<u64> = frames.iter().map(length).sum();
    let total = total.and_then(|bytes| bytes.checked_add(left));
    total.map_or_else(SizeHint::default, SizeHint::with_exact)
}
