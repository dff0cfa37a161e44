//! Counts a request as in flight, from its head to the last byte of its response.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::{ExchangeRecord, Proxy, ResponseBody, ResponseBodyError};
use crate::telemetry::Limit;

use super::connection_activity::ConnectionActivity;

/// A request in flight. A drop before the response counts as a reset by the client.
pub(super) struct InFlightRequest {
    proxy: Arc<Proxy>,
    activity: Arc<ConnectionActivity>,
    responded: bool,
}

impl InFlightRequest {
    pub(super) fn start(proxy: &Arc<Proxy>, activity: &Arc<ConnectionActivity>) -> InFlightRequest {
        activity.request_started();
        proxy.authorizer.overload.request_started();
        InFlightRequest {
            proxy: Arc::clone(proxy),
            activity: Arc::clone(activity),
            responded: false,
        }
    }

    /// Records the response head. The request ends with the response body.
    pub(super) fn respond(mut self, body: ResponseBody, mut record: ExchangeRecord) -> TrackedBody {
        self.responded = true;
        if body.is_end_stream() {
            record.record_end();
        }
        TrackedBody { body, record, failure: None, request: self }
    }
}

impl InFlightRequest {
    /// Counts the limit that aborted a response.
    fn count_limit(&self, error: &ResponseBodyError) {
        let limit = match error {
            ResponseBodyError::UpstreamIdle => Limit::UpstreamIdleTimeout,
            ResponseBodyError::TimedOut => Limit::RequestTimeout,
            ResponseBodyError::Upstream(_)
            | ResponseBodyError::Closed(_)
            | ResponseBodyError::LimitExceeded(_) => return,
        };
        self.proxy.auth.shared().metrics.limit(limit, None);
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.activity.release();
        self.proxy.authorizer.overload.request_finished();
        if !self.responded {
            self.activity.reset_by_client();
        }
    }
}

/// A response body that ends its request when dropped.
pub(super) struct TrackedBody {
    body: ResponseBody,
    record: ExchangeRecord,
    /// An error that the next poll returns. hyper discards what it has not yet written when the body fails, so
    /// an error at the first poll would discard the head: the client would not see that a response had begun,
    /// and might send its request again.
    failure: Option<ResponseBodyError>,
    request: InFlightRequest,
}

impl TrackedBody {
    fn record_frame(&mut self, bytes: usize) {
        self.record.record_data(bytes);
        // A body of known length is not polled after its last frame.
        if self.body.is_end_stream() {
            self.record.record_end();
        }
    }

    fn record_failure(&mut self, error: ResponseBodyError) {
        self.request.count_limit(&error);
        self.record.record_failure(&error);
        self.failure = Some(error);
    }
}

/// What a response waits for, according to the last poll of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitState {
    NotPolled,
    /// The body had no data, or has ended.
    ForProxy,
    /// The body returned so many bytes, and the client must read them before the next poll.
    ForClient(usize),
}

tokio::task_local! {
    /// Set within [`super::h2_executor`] only.
    pub(super) static WAIT_STATE: Cell<WaitState>;
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        if let Some(error) = self.failure.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let (frame, state) = match frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.record_frame(bytes);
                (Poll::Ready(Some(Ok(frame))), WaitState::ForClient(bytes))
            }
            Poll::Ready(Some(Err(error))) => {
                self.record_failure(error);
                cx.waker().wake_by_ref();
                (Poll::Pending, WaitState::ForProxy)
            }
            Poll::Ready(None) => {
                self.record.record_end();
                (Poll::Ready(None), WaitState::ForProxy)
            }
            Poll::Pending => (Poll::Pending, WaitState::ForProxy),
        };
        // Unset on HTTP/1.1, where `GuardedIo` applies the write timeout.
        WAIT_STATE.try_with(|cell| cell.set(state)).unwrap_or_default();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
