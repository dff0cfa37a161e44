//! A rate limit by fixed windows of time.

use std::time::{Duration, Instant};

/// The current window and its count.
#[derive(Clone, Copy, Debug)]
pub(super) struct FixedWindow {
    started: Instant,
    count: u32,
}

impl FixedWindow {
    pub(super) fn new(now: Instant) -> FixedWindow {
        FixedWindow { started: now, count: 0 }
    }

    /// Counts an event; returns whether it is within `limit` for each `period`.
    pub(super) fn allows(&mut self, limit: u32, period: Duration, now: Instant) -> bool {
        if self.has_ended(period, now) {
            *self = FixedWindow::new(now);
        }
        let allows = self.count < limit;
        self.count += u32::from(allows);
        allows
    }

    pub(super) fn has_ended(&self, period: Duration, now: Instant) -> bool {
        now.duration_since(self.started) >= period
    }
}
