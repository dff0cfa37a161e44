//! Activity of one connection, and the timeouts that follow from it.
//!
//! Requests update it with relaxed atomics only. A single task sleeps until the next possible timeout and
//! then checks.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::gcra::{Gcra, Quota};

/// Stream resets by the client: a burst of 200, then 10 per second. Leaving a page full of images is a
/// burst; a rapid reset attack goes on (CVE-2023-44487).
const RESET_RATE: Quota =
    Quota { interval: Duration::from_millis(100), burst: Duration::from_secs(20) };

/// Counters and timestamps of one connection.
#[derive(Debug)]
pub(super) struct ConnectionActivity {
    opened_at: Instant,
    in_flight: AtomicU32,
    /// Requests since the connection opened.
    requests: AtomicU64,
    /// Milliseconds from `opened_at` to the end of the last request; zero before the first.
    idle_since: AtomicU64,
    /// Milliseconds from `opened_at` to the first byte of a head, plus one; zero if no head is being received.
    head_started_at: AtomicU64,
    /// Whether the last request left part of its body unread.
    unread_body: AtomicBool,
    /// Request bodies that are not complete.
    open_uploads: AtomicU32,
    /// Status of the response to an unreadable head; zero if there was none.
    refusal: AtomicU16,
    resets: Mutex<Gcra>,
    evicted: AtomicBool,
    reset_flood: AtomicBool,
    wake: Notify,
    /// Evicts the connection when its client certificate is no longer accepted.
    certificate_watch: OnceLock<AbortOnDropHandle<()>>,
}

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DisconnectReason {
    /// No request within the idle timeout. Closed gracefully.
    Idle,
    /// A request head did not complete in time.
    HeaderTimeout,
    Evicted,
    ResetFlood,
}

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionTimeouts {
    pub(super) header: Duration,
    pub(super) idle: Duration,
}

/// A request body that is not complete.
pub(super) struct OpenUpload(Arc<ConnectionActivity>);

impl OpenUpload {
    pub(super) fn new(activity: &Arc<ConnectionActivity>) -> OpenUpload {
        activity.open_uploads.fetch_add(1, Ordering::Relaxed);
        OpenUpload(Arc::clone(activity))
    }
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        self.0.open_uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionActivity {
    pub(super) fn new() -> ConnectionActivity {
        let now = Instant::now();
        ConnectionActivity {
            opened_at: now,
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            head_started_at: AtomicU64::new(0),
            unread_body: AtomicBool::new(false),
            open_uploads: AtomicU32::new(0),
            refusal: AtomicU16::new(0),
            resets: Mutex::new(Gcra::new(now)),
            evicted: AtomicBool::new(false),
            reset_flood: AtomicBool::new(false),
            wake: Notify::new(),
            certificate_watch: OnceLock::new(),
        }
    }

    /// Records received bytes. On an idle connection they start a request head.
    pub(super) fn head_started(&self) {
        if self.is_idle() && self.head_started_at.load(Ordering::Relaxed) == 0 {
            self.head_started_at.store(self.elapsed_millis() + 1, Ordering::Relaxed);
        }
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn is_reading_head(&self) -> bool {
        self.head_started_at.load(Ordering::Relaxed) != 0
    }

    /// Records the response to an unreadable head.
    pub(super) fn record_refusal(&self, status: u16) {
        self.refusal.store(status, Ordering::Relaxed);
    }

    /// Returns the status of the response to an unreadable head.
    pub(super) fn refusal(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.refusal.load(Ordering::Relaxed)).ok()
    }

    /// Records a complete request head.
    pub(super) fn request_started(&self) {
        self.head_started_at.store(0, Ordering::Relaxed);
        self.unread_body.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the rest of a request body has no reader.
    pub(super) fn leave_unread_body(&self) {
        self.unread_body.store(true, Ordering::Relaxed);
    }

    /// Whether the client may be sending something that will not be read: the rest of a body, or a head that was
    /// rejected.
    pub(super) fn is_unread(&self) -> bool {
        self.unread_body.load(Ordering::Relaxed)
            || self.head_started_at.load(Ordering::Relaxed) != 0
    }

    /// Whether a request body is not complete.
    pub(super) fn has_open_upload(&self) -> bool {
        self.open_uploads.load(Ordering::Relaxed) > 0
    }

    /// Marks the connection as busy with a blocked write or a tunnel, until `release`.
    pub(super) fn hold(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a request, a blocked write or a tunnel.
    pub(super) fn release(&self) {
        self.idle_since.store(self.elapsed_millis(), Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records a request that the client reset before its response.
    pub(super) fn reset_by_client(&self) {
        let mut resets = self.resets.lock();
        if !resets.try_acquire(RESET_RATE, Instant::now()) {
            self.reset_flood.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Closes the connection in favour of another one.
    pub(super) fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Keeps a task that evicts the connection, for the life of the connection and its tunnel.
    pub(super) fn keep_watch(&self, task: JoinHandle<()>) {
        self.certificate_watch.get_or_init(|| AbortOnDropHandle::new(task));
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Number of requests since the connection opened.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn age(&self) -> Duration {
        self.opened_at.elapsed()
    }

    /// Waits until the connection must close.
    pub(super) async fn until_disconnect(&self, timeouts: ConnectionTimeouts) -> DisconnectReason {
        loop {
            match self.check(timeouts, self.age()) {
                Ok(remaining) => tokio::select! {
                    () = sleep(remaining) => {}
                    () = self.wake.notified() => {}
                },
                Err(reason) => return reason,
            }
        }
    }

    /// Waits until the connection is evicted.
    pub(super) async fn evicted(&self) {
        while !self.is_evicted() {
            self.wake.notified().await;
        }
    }

    /// Returns the time until the next possible timeout.
    ///
    /// # Errors
    /// The reason to close the connection now.
    fn check(
        &self,
        timeouts: ConnectionTimeouts,
        now: Duration,
    ) -> Result<Duration, DisconnectReason> {
        if self.is_evicted() {
            return Err(DisconnectReason::Evicted);
        }
        if self.reset_flood.load(Ordering::Relaxed) {
            return Err(DisconnectReason::ResetFlood);
        }
        if !self.is_idle() {
            return Ok(timeouts.header.min(timeouts.idle));
        }
        let (deadline, reason) = self.next_timeout(timeouts);
        // Timestamps have millisecond precision.
        deadline.checked_sub(now).filter(|left| *left > Duration::from_millis(1)).ok_or(reason)
    }

    fn next_timeout(&self, timeouts: ConnectionTimeouts) -> (Duration, DisconnectReason) {
        if let Some(since) = self.head_started_at.load(Ordering::Relaxed).checked_sub(1) {
            return (
                Duration::from_millis(since) + timeouts.header,
                DisconnectReason::HeaderTimeout,
            );
        }
        // Browsers open spare connections. They get the header timeout.
        if self.requests() == 0 {
            return (timeouts.header, DisconnectReason::Idle);
        }
        let since = Duration::from_millis(self.idle_since.load(Ordering::Relaxed));
        (since + timeouts.idle, DisconnectReason::Idle)
    }

    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: ConnectionTimeouts =
        ConnectionTimeouts { header: Duration::from_secs(10), idle: Duration::from_secs(60) };

    fn at(activity: &ConnectionActivity, seconds: u64) -> Result<Duration, DisconnectReason> {
        activity.check(TIMEOUTS, Duration::from_secs(seconds))
    }

    #[test]
    fn the_header_timeout_starts_with_the_first_byte() {
        let activity = ConnectionActivity::new();
        assert!(at(&activity, 9).is_ok());
        assert_eq!(at(&activity, 11), Err(DisconnectReason::Idle));
        activity.head_started();
        assert_eq!(at(&activity, 11), Err(DisconnectReason::HeaderTimeout));
        activity.request_started();
        activity.release();
        assert!(at(&activity, 11).is_ok());
        activity.head_started();
        assert_eq!(at(&activity, 11), Err(DisconnectReason::HeaderTimeout));
        activity.request_started();
        assert!(at(&activity, 1_000).is_ok(), "a request has no limit here");
    }

    #[test]
    fn the_idle_timeout_starts_after_the_last_request() {
        let activity = ConnectionActivity::new();
        activity.request_started();
        activity.request_started();
        activity.release();
        assert!(at(&activity, 3_600).is_ok(), "one is still in flight");
        activity.release();
        assert!(at(&activity, 59).is_ok());
        assert_eq!(at(&activity, 61), Err(DisconnectReason::Idle));
    }

    #[test]
    fn a_blocked_write_is_not_idle() {
        let activity = ConnectionActivity::new();
        activity.request_started();
        activity.hold();
        activity.release();
        assert!(at(&activity, 3_600).is_ok());
        activity.release();
        assert_eq!(at(&activity, 61), Err(DisconnectReason::Idle));
        assert_eq!(activity.requests(), 1);
    }

    /// CVE-2023-44487.
    #[test]
    fn a_burst_of_resets_passes_and_a_flood_closes() {
        let activity = ConnectionActivity::new();
        activity.request_started();
        (0..200).for_each(|_| activity.reset_by_client());
        assert!(at(&activity, 1).is_ok());
        (0..50).for_each(|_| activity.reset_by_client());
        assert_eq!(at(&activity, 1), Err(DisconnectReason::ResetFlood));
    }

    #[tokio::test]
    async fn eviction_ends_the_wait_at_once() {
        let activity = ConnectionActivity::new();
        activity.evict();
        assert_eq!(activity.until_disconnect(TIMEOUTS).await, DisconnectReason::Evicted);
    }
}
