//! Request and response bodies. Streamed, except the start of a request body of unknown length; request trailers
//! are dropped.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::connections::{
    ClientBody, ClientBodyError, CloseHandle, CloseReason, ConnectionGuard, ConnectionRegistry,
    LimitExceeded as NoRoom, RouteOrigin, SessionSnapshot,
};
use crate::message::response_headers;
use crate::route::BodyLimits;
use crate::upstream::{self, UpstreamError};

use super::activity_reporter::ActivityReporter;
use super::body_bytes::BodyBytes;
use super::progress_timeout::{Deadline, ProgressTimeout, TimeoutKind};

/// Response body of an upstream that received a [`RequestBody`].
pub(super) type UpstreamBody = upstream::UpstreamBody<RequestBody>;

/// The body of a client's request. Trailers are dropped: an upstream may merge them into the head
/// (RFC 9110 6.5.1), where they would bypass the header checks.
pub struct RequestBody {
    inner: ClientBody,
    /// `None` for an empty body.
    limiter: Option<Box<BodyLimiter>>,
}

/// Limits of a request body that is being received.
struct BodyLimiter {
    remaining: Option<u64>,
    progress: ProgressTimeout,
    body_bytes: Arc<BodyBytes>,
    outcome: Arc<BodyOutcome>,
    /// Checked here too: an upload could go on while the client does not read the response.
    close: Option<CloseHandle>,
    /// `None` if the upload is no activity.
    activity: Option<ActivityReporter>,
    /// Data read before the request was forwarded.
    buffered: VecDeque<Bytes>,
    /// Whether the end was reached while buffering.
    is_buffered: bool,
}

/// How much of a body of unknown length is read before the request is forwarded.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferLimits {
    pub(super) bytes: usize,
    /// `None`: as long as the limits of the body allow.
    pub(super) time: Option<Duration>,
}

/// Why a request body was aborted.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the client's body was aborted: {0}")]
    Client(#[from] ClientBodyError),
    #[error("the client's body is longer than max_body")]
    TooLong,
    #[error("the client's body arrives too slowly")]
    TooSlow,
    #[error("{0}")]
    Closed(#[from] ConnectionClosed),
}

/// How a request body ended, after the HTTP client has taken the body itself.
#[derive(Debug, Default)]
pub(super) struct BodyOutcome {
    too_long: AtomicBool,
    too_slow: AtomicBool,
}

impl BodyOutcome {
    /// The response status if the client exceeded a limit.
    pub(super) fn error_status(&self) -> Option<StatusCode> {
        let too_long = self.too_long.load(Ordering::Relaxed);
        let too_slow = self.too_slow.load(Ordering::Relaxed);
        let slow = too_slow.then_some(StatusCode::REQUEST_TIMEOUT);
        too_long.then_some(StatusCode::PAYLOAD_TOO_LARGE).or(slow)
    }
}

impl RequestBody {
    /// Applies the limits of the route to `inner`.
    pub fn new(
        inner: ClientBody,
        limits: &BodyLimits,
        body_bytes: &Arc<BodyBytes>,
        close: Option<CloseHandle>,
    ) -> RequestBody {
        let limiter = (!inner.is_end_stream()).then(|| {
            Box::new(BodyLimiter {
                remaining: (limits.max_bytes > 0).then_some(limits.max_bytes),
                progress: ProgressTimeout::new(limits.timeout, limits.min_rate),
                body_bytes: Arc::clone(body_bytes),
                outcome: Arc::default(),
                close,
                activity: None,
                buffered: VecDeque::new(),
                is_buffered: false,
            })
        });
        RequestBody { inner, limiter }
    }

    /// Reports received data as activity. An empty body needs no reporter.
    pub(super) fn with_activity(
        mut self,
        reporter: impl FnOnce() -> Option<ActivityReporter>,
    ) -> RequestBody {
        if let Some(limiter) = &mut self.limiter {
            limiter.activity = reporter();
        }
        self
    }

    /// Reads the start of the body. If it ends within the limits, its length is known, and the request is
    /// forwarded with a `Content-Length`.
    pub(super) async fn buffer(&mut self, limits: BufferLimits) -> Result<(), RequestBodyError> {
        let time = limits.time.unwrap_or(Duration::MAX);
        match timeout(time, self.buffer_bytes(limits.bytes)).await {
            Ok(result) => result,
            // The rest is streamed.
            Err(_) => Ok(()),
        }
    }

    async fn buffer_bytes(&mut self, max: usize) -> Result<(), RequestBodyError> {
        let mut bytes = 0;
        while bytes <= max {
            let Some(frame) = poll_fn(|cx| self.poll_received(cx)).await else {
                if let Some(limiter) = &mut self.limiter {
                    limiter.is_buffered = true;
                }
                return Ok(());
            };
            let data = frame?.into_data().unwrap_or_default();
            bytes += data.len();
            if let Some(limiter) = &mut self.limiter {
                limiter.buffered.push_back(data);
            }
        }
        Ok(())
    }

    /// Handle to read later how the body ended; `None` for an empty body.
    pub(super) fn outcome(&self) -> Option<Arc<BodyOutcome>> {
        self.limiter.as_ref().map(|limiter| Arc::clone(&limiter.outcome))
    }
}

impl RequestBody {
    /// Reads the next piece from the client, within the limits.
    fn poll_received(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(limiter) = &mut self.limiter else { return Poll::Ready(None) };
        if let Some(close) = &mut limiter.close
            && let Err(reason) = std::task::ready!(close.poll_allowed(cx))
        {
            return Poll::Ready(Some(Err(ConnectionClosed(reason).into())));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => limiter.poll_expired(cx).map(|error| Some(Err(error))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    Poll::Ready(Some(limiter.record_data(&data).map(|()| Frame::data(data))))
                }
                // Trailers are the last frame and end the body here.
                Err(_) => Poll::Ready(None),
            },
        }
    }
}

impl BodyLimiter {
    fn record_data(&mut self, data: &Bytes) -> Result<(), RequestBodyError> {
        self.progress.record_progress(data.len());
        if !data.is_empty() {
            self.body_bytes.add(data.len());
            if let Some(activity) = &self.activity {
                activity.touch();
            }
        }
        let Some(remaining) = &mut self.remaining else { return Ok(()) };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        *remaining = remaining.checked_sub(length).ok_or_else(|| {
            self.outcome.too_long.store(true, Ordering::Relaxed);
            RequestBodyError::TooLong
        })?;
        Ok(())
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<RequestBodyError> {
        self.progress.poll_expired(cx).map(|()| {
            self.outcome.too_slow.store(true, Ordering::Relaxed);
            RequestBodyError::TooSlow
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(limiter) = &mut self.limiter else { return Poll::Ready(None) };
        match limiter.buffered.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if limiter.is_buffered => Poll::Ready(None),
            None => self.poll_received(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.limiter {
            Some(limiter) if limiter.is_buffered => limiter.buffered.is_empty(),
            Some(limiter) => limiter.buffered.is_empty() && self.inner.is_end_stream(),
            None => self.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.limiter {
            Some(limiter) if limiter.is_buffered => {
                let bytes: usize = limiter.buffered.iter().map(Bytes::len).sum();
                SizeHint::with_exact(u64::try_from(bytes).unwrap_or(u64::MAX))
            }
            // With a known length nothing is buffered.
            Some(_) | None => self.inner.size_hint(),
        }
    }
}

/// A response body.
pub enum ResponseBody {
    /// Generated by this proxy.
    Local(Full<Bytes>),
    /// From an upstream.
    Upstream(TimedBody),
    /// From an upstream, and closed when its session ends.
    Tracked(TimedBody, Tracking),
}

/// Registration of a response as a tracked connection.
pub enum Tracking {
    Now(TrackedTransfer),
    /// Registered after a delay. Most short responses complete before that and never touch the registry.
    Delayed(Box<DelayedTracking>),
}

/// A registered response.
pub struct TrackedTransfer {
    guard: ConnectionGuard,
    /// `None` if the download is no activity.
    activity: Option<ActivityReporter>,
}

/// The arguments of a delayed registration.
pub struct DelayedTracking {
    pub(super) registry: ConnectionRegistry,
    pub(super) session: SessionSnapshot,
    pub(super) origin: RouteOrigin,
    pub(super) activity: Option<ActivityReporter>,
    pub(super) due: Instant,
    /// Created on the first wait.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

/// An upstream's body with its idle timeout and its deadline.
pub struct TimedBody {
    body: UpstreamBody,
    idle_timeout: Duration,
    /// Created on the first wait.
    progress: Option<Box<ProgressTimeout>>,
    deadline: Option<Box<BodyDeadline>>,
    /// The stop of the gateway, for a body without an end of its own.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// A deadline with its timer.
struct BodyDeadline {
    timer: Pin<Box<Sleep>>,
    kind: TimeoutKind,
}

/// Why a response body was aborted.
#[derive(Debug, thiserror::Error)]
pub enum ResponseBodyError {
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    #[error("the upstream stalled in the middle of its response")]
    UpstreamIdle,
    #[error("the response did not complete within request_timeout")]
    TimedOut,
    #[error("{0}")]
    Closed(#[from] ConnectionClosed),
    #[error("the response became a tracked connection, and {0}")]
    LimitExceeded(#[from] NoRoom),
}

impl ResponseBodyError {
    /// Name of the cause in the access log and in the metrics: an error type of RFC 9209, or a close reason.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            ResponseBodyError::Upstream(error) => error.proxy_status(),
            ResponseBodyError::UpstreamIdle | ResponseBodyError::TimedOut => {
                "http_response_timeout"
            }
            ResponseBodyError::Closed(ConnectionClosed(reason)) => reason.as_str(),
            ResponseBodyError::LimitExceeded(_) => "connection_limit_reached",
        }
    }

    /// Whether the upstream is the cause, which an operator must look at.
    pub(super) fn is_upstream_failure(&self) -> bool {
        match self {
            ResponseBodyError::Upstream(error) => *error != UpstreamError::ClientBody,
            ResponseBodyError::UpstreamIdle => true,
            ResponseBodyError::TimedOut
            | ResponseBodyError::Closed(_)
            | ResponseBodyError::LimitExceeded(_) => false,
        }
    }
}

/// A tracked connection was closed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("closed: {}", .0.as_str())]
pub struct ConnectionClosed(pub CloseReason);

impl TimedBody {
    pub(super) fn new(
        body: UpstreamBody,
        idle_timeout: Duration,
        deadline: Option<Deadline>,
    ) -> TimedBody {
        let deadline = deadline.map(|deadline| {
            Box::new(BodyDeadline {
                timer: Box::pin(sleep_until(deadline.at)),
                kind: deadline.kind,
            })
        });
        TimedBody { body, idle_timeout, progress: None, deadline, stop: None }
    }

    /// Ends the body at the stop of the gateway, so that an event stream does not hold up the drain.
    pub(super) fn until(mut self, stop: Option<CancellationToken>) -> TimedBody {
        self.stop = stop.map(|stop| Box::pin(stop.cancelled_owned()));
        self
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<ResponseBodyError> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        deadline.timer.as_mut().poll(cx).map(|()| match deadline.kind {
            TimeoutKind::Request => ResponseBodyError::TimedOut,
            TimeoutKind::ConnectionAge => ConnectionClosed(CloseReason::MaxAge).into(),
        })
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        if let Poll::Ready(error) = self.poll_expired(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => self.poll_idle(cx),
            Poll::Ready(frame) => {
                if let Some(progress) = &mut self.progress {
                    progress.record_progress(0);
                }
                let frame = frame.map(|frame| frame.map(sanitize_trailers));
                Poll::Ready(frame.map(|frame| frame.map_err(ResponseBodyError::from)))
            }
        }
    }

    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let progress = self
            .progress
            .get_or_insert_with(|| Box::new(ProgressTimeout::new(self.idle_timeout, 0)));
        progress.poll_expired(cx).map(|()| Some(Err(ResponseBodyError::UpstreamIdle)))
    }
}

impl Tracking {
    pub(super) fn now(guard: ConnectionGuard, activity: Option<ActivityReporter>) -> Tracking {
        Tracking::Now(TrackedTransfer { guard, activity })
    }

    /// Ready once data may be passed on, or with the reason why not.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseBodyError>> {
        if let Tracking::Delayed(delayed) = self
            && delayed.due <= Instant::now()
        {
            *self = Tracking::now(delayed.register()?, delayed.activity.take());
        }
        match self {
            Tracking::Now(tracked) => {
                tracked.guard.poll_allowed(cx).map_err(|reason| ConnectionClosed(reason).into())
            }
            Tracking::Delayed(_) => Poll::Ready(Ok(())),
        }
    }

    /// Records that the client has taken data. A shorter response than the delay counts as its request does.
    fn record_data(&self) {
        if let Tracking::Now(TrackedTransfer { activity: Some(activity), .. }) = self {
            activity.touch();
        }
    }

    /// Polled while no data arrives. Ready when `poll_allowed` must run again.
    fn poll_recheck(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Tracking::Now(_) => Poll::Pending,
            Tracking::Delayed(delayed) => {
                let due = delayed.due;
                delayed.timer.get_or_insert_with(|| Box::pin(sleep_until(due))).as_mut().poll(cx)
            }
        }
    }
}

impl DelayedTracking {
    fn register(&self) -> Result<ConnectionGuard, NoRoom> {
        self.registry.register(&self.session, (&self.origin).into())
    }
}

impl ResponseBody {
    pub(super) fn from_upstream(timed: TimedBody, tracking: Option<Tracking>) -> ResponseBody {
        match tracking {
            Some(tracking) => ResponseBody::Tracked(timed, tracking),
            None => ResponseBody::Upstream(timed),
        }
    }

    /// Stops closing this response when its session ends.
    pub(super) fn untracked(self) -> ResponseBody {
        match self {
            ResponseBody::Tracked(body, _) => ResponseBody::Upstream(body),
            own @ (ResponseBody::Local(_) | ResponseBody::Upstream(_)) => own,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        match self.get_mut() {
            ResponseBody::Local(body) => match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(Err(never)) => match never {},
                None => Poll::Ready(None),
            },
            ResponseBody::Upstream(body) => body.poll_frame(cx),
            ResponseBody::Tracked(body, tracking) => loop {
                if let Err(error) = std::task::ready!(tracking.poll_allowed(cx)) {
                    return Poll::Ready(Some(Err(error)));
                }
                match body.poll_frame(cx) {
                    Poll::Pending => std::task::ready!(tracking.poll_recheck(cx)),
                    frame @ Poll::Ready(_) => {
                        tracking.record_data();
                        return frame;
                    }
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Local(body) => body.is_end_stream(),
            ResponseBody::Upstream(body) | ResponseBody::Tracked(body, _) => {
                body.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Local(body) => body.size_hint(),
            ResponseBody::Upstream(body) | ResponseBody::Tracked(body, _) => body.body.size_hint(),
        }
    }
}

/// Response trailers pass because gRPC sends the call status in them.
fn sanitize_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        response_headers::sanitize_trailers(trailers);
    }
    frame
}
