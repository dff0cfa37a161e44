//! Request bodies, within the limits of the route. Streamed, except the start of a body of unknown length.

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
use tokio::time::timeout;

use crate::connections::{ClientBody, ClientBodyError, CloseHandle};
use crate::route::BodyLimits;

use super::ConnectionClosed;
use crate::proxy::activity_reporter::ActivityReporter;
use crate::proxy::body_bytes::BodyBytes;
use crate::proxy::progress_timeout::ProgressTimeout;

/// The body of a client's request. Trailers are dropped: an upstream may merge them into the head
/// (RFC 9110 6.5.1), where they would bypass the header checks.
pub struct InboundBody {
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
pub(in crate::proxy) struct BufferLimits {
    pub(in crate::proxy) bytes: usize,
    /// `None`: as long as the limits of the body allow.
    pub(in crate::proxy) time: Option<Duration>,
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
pub(in crate::proxy) struct BodyOutcome {
    too_long: AtomicBool,
    too_slow: AtomicBool,
}

impl BodyOutcome {
    /// The response status if the client exceeded a limit.
    pub(in crate::proxy) fn error_status(&self) -> Option<StatusCode> {
        let too_long = self.too_long.load(Ordering::Relaxed);
        let too_slow = self.too_slow.load(Ordering::Relaxed);
        let slow = too_slow.then_some(StatusCode::REQUEST_TIMEOUT);
        too_long.then_some(StatusCode::PAYLOAD_TOO_LARGE).or(slow)
    }
}

impl InboundBody {
    /// Applies the limits of the route to `inner`.
    pub fn new(
        inner: ClientBody,
        limits: &BodyLimits,
        body_bytes: &Arc<BodyBytes>,
        close: Option<CloseHandle>,
    ) -> InboundBody {
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
        InboundBody { inner, limiter }
    }

    /// Reports received data as activity. An empty body needs no reporter.
    pub(in crate::proxy) fn with_activity(
        mut self,
        reporter: impl FnOnce() -> Option<ActivityReporter>,
    ) -> InboundBody {
        if let Some(limiter) = &mut self.limiter {
            limiter.activity = reporter();
        }
        self
    }

    /// Reads the start of the body. If it ends within the limits, its length is known, and the request is
    /// forwarded with a `Content-Length`.
    pub(in crate::proxy) async fn buffer(
        &mut self,
        limits: BufferLimits,
    ) -> Result<(), RequestBodyError> {
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
    pub(in crate::proxy) fn outcome(&self) -> Option<Arc<BodyOutcome>> {
        self.limiter.as_ref().map(|limiter| Arc::clone(&limiter.outcome))
    }
}

impl InboundBody {
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

impl Body for InboundBody {
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
