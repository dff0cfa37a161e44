//! Reports to a connection whether it may continue.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::snapshot::CloseReason;
use super::stall_detector::{CheckedAt, StallDetector};
use crate::telemetry::Metrics;

/// Interval of checks for the end of a stall.
const RECHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Reports whether a connection may continue; a connection can have several handles.
pub struct CloseHandle {
    stall_detector: Arc<StallDetector>,
    state: Arc<CloseState>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Timer for the next check, while the session is unchecked since a stall.
    recheck: Option<Pin<Box<Sleep>>>,
}

pub(super) struct CloseState {
    cancelled: CancellationToken,
    reason: OnceLock<CloseReason>,
    checked_at: CheckedAt,
}

impl CloseHandle {
    pub(super) fn new(stall_detector: Arc<StallDetector>, state: Arc<CloseState>) -> CloseHandle {
        let cancelled = Box::pin(state.cancelled.clone().cancelled_owned());
        CloseHandle { stall_detector, state, cancelled, recheck: None }
    }

    /// Creates another handle of the same connection.
    pub(super) fn another(&self) -> CloseHandle {
        CloseHandle::new(Arc::clone(&self.stall_detector), Arc::clone(&self.state))
    }

    /// Returns whether data may be forwarded. Call it before a read, or between a read and the
    /// write. After a stall it is pending until the session was checked, because the user may have
    /// logged out. If the store stays silent, the connection is closed as unchecked.
    pub fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while self.needs_check() {
            if let Poll::Ready(reason) = self.poll_closed(cx) {
                return Poll::Ready(Err(reason));
            }
            let recheck = self.recheck.get_or_insert_with(|| Box::pin(sleep(RECHECK_INTERVAL)));
            std::task::ready!(recheck.as_mut().poll(cx));
            self.recheck = None;
        }
        Poll::Ready(match self.poll_closed(cx) {
            Poll::Ready(reason) => Err(reason),
            Poll::Pending => Ok(()),
        })
    }

    /// As [`CloseHandle::poll_allowed`].
    pub async fn allowed(&mut self) -> Result<(), CloseReason> {
        std::future::poll_fn(|cx| self.poll_allowed(cx)).await
    }

    /// Ready when the connection must close.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        std::task::ready!(self.cancelled.as_mut().poll(cx));
        Poll::Ready(self.state.reason.get().copied().unwrap_or(CloseReason::SessionEnded))
    }

    fn needs_check(&self) -> bool {
        self.stall_detector.needs_check(&self.state.checked_at, Instant::now())
    }
}

impl CloseState {
    pub(super) fn new(checked_at: CheckedAt) -> CloseState {
        CloseState { cancelled: CancellationToken::new(), reason: OnceLock::new(), checked_at }
    }

    /// Closes the connection, unless it is closed.
    pub(super) fn close(&self, reason: CloseReason, metrics: &Metrics) {
        if self.reason.set(reason).is_ok() {
            metrics.tracked_connection_closed(reason.as_str());
            self.cancelled.cancel();
        }
    }
}
