//! Counts a request as in flight, from its head to the last byte of its response.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::{Proxy, ResponseBody, ResponseBodyError};
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
    pub(super) fn respond(mut self, body: ResponseBody) -> TrackedBody {
        self.responded = true;
        TrackedBody { body, request: self }
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
    request: InFlightRequest,
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
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let state = match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                WaitState::ForClient(frame.data_ref().map_or(0, Bytes::len))
            }
            Poll::Ready(Some(Err(error))) => {
                self.request.count_limit(error);
                WaitState::ForProxy
            }
            Poll::Ready(_) | Poll::Pending => WaitState::ForProxy,
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
