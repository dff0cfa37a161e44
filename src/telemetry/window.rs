//! So many of something in so much time.

use std::time::{Duration, Instant};

/// A stretch of time, and how many there were in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    begun: Instant,
    count: u32,
}

impl Window {
    pub(super) fn at(now: Instant) -> Window {
        Window { begun: now, count: 0 }
    }

    /// Whether another one is within `most` in `every`.
    pub(super) fn takes(&mut self, most: u32, every: Duration, now: Instant) -> bool {
        if self.is_over(every, now) {
            *self = Window::at(now);
        }
        let takes = self.count < most;
        self.count += u32::from(takes);
        takes
    }

    pub(super) fn is_over(&self, every: Duration, now: Instant) -> bool {
        now.duration_since(self.begun) >= every
    }
}
