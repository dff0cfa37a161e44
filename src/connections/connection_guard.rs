//! The connection's side of the registry.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::stall_detector::CheckedAt;
use super::{CloseReason, ConnectionRegistry, Inner};
use crate::session::SessionKey;

/// Interval of checks for the end of a stall.
const RECHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A registered connection. Dropping it removes it from the registry.
pub struct ConnectionGuard {
    pub(super) live: ConnectionRegistry,
    pub(super) key: SessionKey,
    pub(super) id: u64,
    pub(super) end: CloseHandle,
}

/// Reports whether a connection may continue; a connection can have several handles.
pub struct CloseHandle {
    live: ConnectionRegistry,
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

impl ConnectionGuard {
    /// As [`CloseHandle::poll_allowed`].
    pub fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        self.end.poll_allowed(cx)
    }

    /// As [`CloseHandle::allowed`].
    pub async fn allowed(&mut self) -> Result<(), CloseReason> {
        self.end.allowed().await
    }

    /// Waits until the connection must close.
    pub async fn closed(&mut self) -> CloseReason {
        std::future::poll_fn(|cx| self.end.poll_closed(cx)).await
    }

    /// Creates another handle of the same connection.
    pub fn close_handle(&self) -> CloseHandle {
        CloseHandle::new(&self.live, Arc::clone(&self.end.state))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.live.release(&self.key, self.id);
    }
}

impl CloseHandle {
    pub(super) fn new(live: &ConnectionRegistry, state: Arc<CloseState>) -> CloseHandle {
        let cancelled = Box::pin(state.cancelled.clone().cancelled_owned());
        CloseHandle { live: live.clone(), state, cancelled, recheck: None }
    }

    /// Returns whether data may be forwarded. Call it before a read, or between a read and the
    /// write. After a stall it is pending until the session was checked, because the user may have
    /// logged out. If the store stays silent, the connection is closed as unchecked.
    pub fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while self.state.needs_check(&self.live) {
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
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        std::task::ready!(self.cancelled.as_mut().poll(cx));
        Poll::Ready(self.state.reason.get().copied().unwrap_or(CloseReason::SessionEnded))
    }
}

impl CloseState {
    pub(super) fn new(checked_at: CheckedAt) -> CloseState {
        CloseState { cancelled: CancellationToken::new(), reason: OnceLock::new(), checked_at }
    }

    fn needs_check(&self, live: &ConnectionRegistry) -> bool {
        live.inner.stall_detector.needs_check(&self.checked_at, Instant::now())
    }
}

impl Inner {
    pub(super) fn close(&self, state: &CloseState, reason: CloseReason) {
        if state.reason.set(reason).is_ok() {
            self.metrics.tracked_connection_closed(reason.as_str());
            state.cancelled.cancel();
        }
    }
}
