//! The two bodies of an exchange: the client's on its way out, the upstream's on its way back.
//!
//! Neither is buffered: a frame is asked for when the other side can take it.

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
use super::plain::Unread;
use super::pool::{Held, Lease};

/// What a body of a client must be to be forwarded.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static> RequestBody for B {}

type BoxError = Box<dyn Error + Send + Sync>;

/// An answer's body. The connection goes back to its pool when the last frame has been read, and
/// is closed when this is dropped before: half an answer must never be in front of the next one.
///
/// Trailers are passed on.
pub struct UpstreamBody<B: RequestBody> {
    source: Source,
    lease: Option<Lease<B>>,
}

/// Who finds the body in the connection's bytes.
#[derive(Debug)]
enum Source {
    Library {
        incoming: Incoming,
        progress: Option<Arc<Progress>>,
    },
    /// The reader itself, on the connection that is lent to it.
    Plain(Unread),
}

impl<B: RequestBody> UpstreamBody<B> {
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease<B>,
        progress: Option<Arc<Progress>>,
    ) -> Self {
        UpstreamBody::from(Source::Library { incoming, progress }, lease)
    }

    pub(super) fn plain(unread: Unread, lease: Lease<B>) -> Self {
        UpstreamBody::from(Source::Plain(unread), lease)
    }

    fn from(source: Source, lease: Lease<B>) -> Self {
        let mut body = UpstreamBody { source, lease: Some(lease) };
        if body.source.is_end() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let is_clean = match (&self.source, lease.plain()) {
            (Source::Plain(unread), Some(plain)) => plain.is_clean(unread),
            (Source::Plain(_), None) => false,
            (Source::Library { .. }, _) => true,
        };
        if is_clean {
            lease.finish();
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match &mut self.source {
            Source::Library { incoming, progress } => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                let blamed = |error| blame(&error, progress.as_deref());
                Poll::Ready(frame.map(|frame| frame.map_err(blamed)))
            }
            Source::Plain(unread) => match self.lease.as_mut().and_then(Lease::plain) {
                Some(plain) => plain.poll_frame(cx, unread),
                None => Poll::Ready(None),
            },
        }
    }
}

impl Source {
    fn is_end(&self) -> bool {
        match self {
            Source::Library { incoming, .. } => incoming.is_end_stream(),
            Source::Plain(unread) => unread.content().is_done(),
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
            // A reader that knows the length, or saw trailers, does not poll again.
            Some(Ok(frame)) if frame.is_trailers() || self.source.is_end() => self.finish(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.lease = None,
            None => self.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Library { incoming, .. } => incoming.size_hint(),
            Source::Plain(unread) => unread.content().size_hint(),
        }
    }
}

/// The client's own body when that broke, the upstream otherwise.
pub(super) fn blame(error: &hyper::Error, progress: Option<&Progress>) -> UpstreamError {
    if progress.is_some_and(Progress::failed) {
        UpstreamError::ClientBody
    } else {
        UpstreamError::from(error)
    }
}

/// A client's body as the HTTP client sees it; it notes how it fares.
pub(super) struct Outgoing<B> {
    body: Option<(B, Arc<Progress>)>,
    /// Kept until the last of it is sent.
    held: Option<Held>,
}

impl<B: RequestBody> Outgoing<B> {
    /// An empty body costs no allocation.
    pub(super) fn new(body: B) -> Self {
        let body = (!body.is_end_stream()).then(|| (body, Arc::default()));
        Outgoing { body, held: None }
    }

    pub(super) fn empty() -> Self {
        Outgoing { body: None, held: None }
    }

    pub(super) fn hold(&mut self, held: Option<Held>) {
        self.held = held;
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.body.as_ref().map(|(_, progress)| Arc::clone(progress))
    }
}

impl<B: RequestBody> Body for Outgoing<B> {
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
            Some(Ok(_)) | None => progress.note_moved(),
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

/// How the client's body fares while the HTTP client owns it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    moved: AtomicBool,
    failed: AtomicBool,
}

impl Progress {
    pub(super) fn note_moved(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    /// Whether anything moved since the last call.
    pub(super) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}
