//! One line at the start of a log_throttle, and one each ten seconds while it goes on.

use std::time::{Duration, Instant};

/// Between two lines about the same trouble.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct LogThrottle {
    untold: u64,
    told: Option<Instant>,
}

impl LogThrottle {
    pub(super) fn note(&mut self, count: u64) {
        self.untold = self.untold.saturating_add(count);
    }

    /// How many no line spoke of yet, if any.
    pub(super) fn rest(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.untold)).filter(|count| *count > 0)
    }

    /// How many a line should speak of, if one is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.told.is_none_or(|told| now.duration_since(told) >= PAUSE);
        let count = if is_due { self.rest() } else { None };
        if count.is_some() {
            self.told = Some(now);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_makes_one_line_at_its_start_and_one_each_ten_seconds() {
        let (mut log_throttle, start) = (LogThrottle::default(), Instant::now());
        let mut lines = Vec::new();
        for millis in 0..15_000 {
            log_throttle.note(1);
            lines.extend(log_throttle.due(start + Duration::from_millis(millis)));
        }
        assert_eq!(lines, [1, 10_000]);
        assert_eq!(log_throttle.due(start + Duration::from_secs(30)), Some(4_999));
        assert_eq!(log_throttle.due(start + Duration::from_secs(60)), None);
    }
}
