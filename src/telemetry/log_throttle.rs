//! Throttling of repeated log entries: the first at once, then at most one in ten seconds with a count.

use std::time::{Duration, Instant};

/// Minimum time between two log entries.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts occurrences of one kind for its next log entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogThrottle {
    unreported: u64,
    last_entry: Option<Instant>,
}

impl LogThrottle {
    pub fn record(&mut self, count: u64) {
        self.unreported = self.unreported.saturating_add(count);
    }

    /// Returns and resets the count if a log entry is due.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.last_entry.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        let count = if is_due { self.take() } else { None };
        if count.is_some() {
            self.last_entry = Some(now);
        }
        count
    }

    /// Returns and resets the count, for the last log entry.
    pub fn take(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.unreported)).filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_logged_at_its_start_and_every_ten_seconds() {
        let (mut throttle, start) = (LogThrottle::default(), Instant::now());
        let mut counts = Vec::new();
        for millis in 0..25_000 {
            throttle.record(1);
            counts.extend(throttle.due(start + Duration::from_millis(millis)));
        }
        assert_eq!(counts, [1, 10_000, 10_000]);
        assert_eq!(throttle.due(start + Duration::from_secs(31)), Some(4_999));
        assert_eq!(throttle.due(start + Duration::from_secs(60)), None);
    }
}
