//! A timeout for peers that make too little progress.
//!
//! Two limits apply. A single wait lasts at most `idle_timeout`. All waits together last at most
//! `idle_timeout` plus the time that the bytes moved so far take at `min_rate`. The second limit catches a
//! peer that sends one byte before each timeout, and leaves slow but steady links alone. Only time spent
//! waiting counts.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::auth::Permit;

/// Absolute end of an exchange, regardless of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) kind: TimeoutKind,
}

/// The setting that a [`Deadline`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutKind {
    /// `request_timeout`.
    Request,
    /// `max_connection_age`.
    ConnectionAge,
}

impl Deadline {
    /// `None` for a limit of zero.
    fn after(limit: Duration, kind: TimeoutKind) -> Option<Deadline> {
        (!limit.is_zero()).then(|| Deadline { at: Instant::now() + limit, kind })
    }

    /// Returns the earlier deadline.
    fn earliest(one: Option<Deadline>, other: Option<Deadline>) -> Option<Deadline> {
        one.into_iter().chain(other).min_by_key(|deadline| deadline.at)
    }
}

/// Deadlines of one exchange, response body included. `None` is no deadline.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    request: Option<Deadline>,
    pub(super) connection_age: Option<Deadline>,
}

impl Deadlines {
    /// Deadlines of an exchange that starts now.
    pub(super) fn new(permit: &Permit) -> Deadlines {
        let route = permit.route();
        // The registry limits the age of connections with a session.
        let age = route.max_connection_age.filter(|_| permit.snapshot().is_none());
        Deadlines {
            request: Deadline::after(route.limits.request_timeout, TimeoutKind::Request),
            connection_age: age.and_then(|age| Deadline::after(age, TimeoutKind::ConnectionAge)),
        }
    }

    pub(super) fn earliest(self) -> Option<Deadline> {
        Deadline::earliest(self.request, self.connection_age)
    }
}

/// Timeout of one direction of an exchange. A timer exists only during a wait.
#[derive(Debug)]
pub struct ProgressTimeout {
    idle_timeout: Duration,
    min_rate: u64,
    bytes_moved: u64,
    waited: Duration,
    stall: Option<Stall>,
}

#[derive(Debug)]
struct Stall {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl ProgressTimeout {
    /// An `idle_timeout` of zero disables both limits. A `min_rate` in bytes per second of zero disables the
    /// second one.
    pub fn new(idle_timeout: Duration, min_rate: u64) -> ProgressTimeout {
        ProgressTimeout {
            idle_timeout,
            min_rate,
            bytes_moved: 0,
            waited: Duration::ZERO,
            stall: None,
        }
    }

    /// Records `bytes` of progress and ends the current wait.
    pub fn record_progress(&mut self, bytes: usize) {
        self.bytes_moved =
            self.bytes_moved.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if let Some(stall) = self.stall.take() {
            self.waited += stall.since.elapsed();
        }
    }

    /// Polled during a wait; ready when a limit is exceeded.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.idle_timeout.is_zero() {
            return Poll::Pending;
        }
        let allowed_wait = self.allowed_wait();
        let stall = self.stall.get_or_insert_with(|| {
            let since = Instant::now();
            Stall { since, timer: Box::pin(sleep_until(since + allowed_wait)) }
        });
        stall.timer.as_mut().poll(cx)
    }

    /// Longest duration of the next wait.
    fn allowed_wait(&self) -> Duration {
        let Some(earned_secs) = self.bytes_moved.checked_div(self.min_rate) else {
            return self.idle_timeout;
        };
        let allowed = self.idle_timeout.saturating_add(Duration::from_secs(earned_secs));
        allowed.saturating_sub(self.waited).min(self.idle_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{sleep, timeout};

    const IDLE: Duration = Duration::from_secs(30);

    /// Waits for `wait` as a reader does. Returns whether the timeout expired.
    async fn expires_within(progress: &mut ProgressTimeout, wait: Duration) -> bool {
        timeout(wait, poll_fn(|cx| progress.poll_expired(cx))).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_wait_is_limited_by_the_idle_timeout() {
        let mut progress = ProgressTimeout::new(IDLE, 0);
        for _ in 0..10 {
            assert!(!expires_within(&mut progress, IDLE - Duration::from_millis(10)).await);
            progress.record_progress(1);
        }
        let start = Instant::now();
        assert!(expires_within(&mut progress, 2 * IDLE).await);
        assert!(start.elapsed() <= IDLE + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn slowloris_one_byte_before_each_timeout_expires() {
        let mut progress = ProgressTimeout::new(IDLE, 500);
        let start = Instant::now();
        while !expires_within(&mut progress, Duration::from_secs(20)).await {
            progress.record_progress(1);
            assert!(start.elapsed() < 2 * IDLE, "not expired");
        }
        assert!(start.elapsed() >= IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_but_steady_link_does_not_expire() {
        let mut progress = ProgressTimeout::new(IDLE, 500);
        for _ in 0..1_000 {
            assert!(!expires_within(&mut progress, Duration::from_secs(2)).await);
            progress.record_progress(1_200);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_outside_of_waits_does_not_count() {
        let mut progress = ProgressTimeout::new(IDLE, 500);
        for _ in 0..100 {
            assert!(!expires_within(&mut progress, Duration::from_millis(100)).await);
            progress.record_progress(100);
            sleep(IDLE).await;
        }
    }
}
