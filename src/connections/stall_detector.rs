//! Detects stalls: a process that was stopped or starved has missed changes.
//!
//! Invariant: after a stall, a connection forwards nothing before its own session was checked
//! successfully, by a command sent after the stall.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;

/// Longer than the interval of heartbeats on a busy machine.
pub(super) const STALL_THRESHOLD: Duration = Duration::from_millis(1_500);

/// How long after a stall input from during the stall may still be unread.
const BACKLOG_WINDOW: Duration = Duration::from_secs(2);

/// Heartbeats of the revalidator.
pub(super) struct StallDetector {
    start: Instant,
    /// Last heartbeat, and the first one after the last stall, in milliseconds since the start.
    last_heartbeat: AtomicU64,
    resumed: AtomicU64,
    /// Wall-clock time of the last heartbeat, and of the last one before the last stall; zero if
    /// none.
    wall: AtomicU64,
    wall_before_stall: AtomicU64,
}

/// Time of the last successful check of a session, shared with its connections.
#[derive(Clone, Default)]
pub(super) struct CheckedAt(Arc<AtomicU64>);

impl StallDetector {
    pub(super) fn new(start: Instant) -> StallDetector {
        let [last_heartbeat, resumed, wall, wall_before_stall] =
            std::array::from_fn(|_| AtomicU64::new(0));
        StallDetector { start, last_heartbeat, resumed, wall, wall_before_stall }
    }

    #[cfg(test)]
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn heartbeat(&self, now: Instant, wall: UnixMillis) {
        let now = self.running(now);
        if is_stall(self.last_heartbeat.load(Ordering::Acquire), now) {
            // Stored before the heartbeat, so that readers of the heartbeat also read these.
            self.wall_before_stall.store(self.wall.load(Ordering::Acquire), Ordering::Release);
            self.resumed.store(now, Ordering::Release);
        }
        self.wall.store(wall.0, Ordering::Release);
        self.last_heartbeat.fetch_max(now, Ordering::AcqRel);
    }

    /// Returns when the process stalled, if input from during the stall may still be unread.
    pub(super) fn stalled_since(&self, now: Instant) -> Option<UnixMillis> {
        let (now, last_heartbeat) =
            (self.running(now), self.last_heartbeat.load(Ordering::Acquire));
        let resumed = self.resumed.load(Ordering::Acquire);
        let since = if is_stall(last_heartbeat, now) {
            self.wall.load(Ordering::Acquire)
        } else if resumed > 0 && Duration::from_millis(now.saturating_sub(resumed)) < BACKLOG_WINDOW
        {
            self.wall_before_stall.load(Ordering::Acquire)
        } else {
            0
        };
        (since > 0).then_some(UnixMillis(since))
    }

    pub(super) fn mark_checked(&self, checked_at: &CheckedAt, requested_at: Instant) {
        checked_at.0.fetch_max(self.running(requested_at), Ordering::AcqRel);
    }

    /// Returns whether a session is unchecked since the last stall.
    pub(super) fn needs_check(&self, checked_at: &CheckedAt, now: Instant) -> bool {
        is_stall(self.last_heartbeat.load(Ordering::Acquire), self.running(now))
            || checked_at.0.load(Ordering::Acquire) < self.resumed.load(Ordering::Acquire)
    }

    fn running(&self, at: Instant) -> u64 {
        let running = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(running).unwrap_or(u64::MAX)
    }
}

fn is_stall(last_heartbeat: u64, now: u64) -> bool {
    Duration::from_millis(now.saturating_sub(last_heartbeat)) > STALL_THRESHOLD
}
