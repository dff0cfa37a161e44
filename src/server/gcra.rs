//! Rate limit with a burst: the generic cell rate algorithm (GCRA).

use std::time::{Duration, Instant};

/// State of one rate limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gcra {
    /// Theoretical arrival time: the limit is fully replenished from this instant on.
    tat: Instant,
}

/// One event per `interval`, and a burst of `burst` divided by `interval`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    pub(super) interval: Duration,
    pub(super) burst: Duration,
}

impl Gcra {
    pub(super) fn new(now: Instant) -> Gcra {
        Gcra { tat: now }
    }

    /// Counts one event if the quota allows it. Rejected events are not counted.
    pub(super) fn try_acquire(&mut self, quota: Quota, now: Instant) -> bool {
        let tat = self.tat.max(now) + quota.interval;
        let allowed = tat.duration_since(now) <= quota.burst.max(quota.interval);
        if allowed {
            self.tat = tat;
        }
        allowed
    }

    /// Whether the state equals that of a new limit, so that it may be dropped.
    pub(super) fn is_replenished(&self, now: Instant) -> bool {
        self.tat <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let quota = Quota { interval: Duration::from_millis(100), burst: Duration::from_secs(1) };
        let start = Instant::now();
        let mut gcra = Gcra::new(start);
        assert_eq!((0..50).filter(|_| gcra.try_acquire(quota, start)).count(), 10);
        let later = start + Duration::from_millis(250);
        assert_eq!((0..50).filter(|_| gcra.try_acquire(quota, later)).count(), 2);
        assert!(!gcra.is_replenished(later));
        assert!(gcra.is_replenished(start + Duration::from_secs(2)));
    }

    #[test]
    fn a_burst_shorter_than_the_interval_allows_one() {
        let quota = Quota { interval: Duration::from_secs(1), burst: Duration::ZERO };
        let start = Instant::now();
        let mut gcra = Gcra::new(start);
        assert!(gcra.try_acquire(quota, start) && !gcra.try_acquire(quota, start));
    }
}
