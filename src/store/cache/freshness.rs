//! Freshness: the time since Redis last confirmed that no change is outstanding.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Maximum age of a freshness confirmation: the bound on an unseen revocation.
pub(in crate::store) const MAX_STALENESS: Duration = Duration::from_secs(3);

/// Source of [`DualInstant`]s.
#[derive(Debug)]
pub(in crate::store) struct DualClock {
    start: Instant,
}

/// A point in time on two clocks, in milliseconds. The monotonic clock may stop while the machine
/// sleeps; the wall clock may be set back. The greater difference counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct DualInstant {
    pub(in crate::store) monotonic: u64,
    pub(in crate::store) wall: u64,
}

impl DualClock {
    pub(in crate::store) fn start() -> DualClock {
        DualClock { start: Instant::now() }
    }

    pub(in crate::store) fn now(&self) -> DualInstant {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Starts at one, because zero marks an unconfirmed state.
        DualInstant {
            monotonic: millis(self.start.elapsed()).saturating_add(1),
            wall: millis(wall),
        }
    }
}

impl DualInstant {
    /// Returns the time from `earlier` to `self`.
    pub(in crate::store) fn since(self, earlier: DualInstant) -> Duration {
        let monotonic = self.monotonic.saturating_sub(earlier.monotonic);
        Duration::from_millis(monotonic.max(self.wall.saturating_sub(earlier.wall)))
    }
}

/// The last confirmation. One task writes it, all workers read it.
#[derive(Debug, Default)]
pub(in crate::store) struct Freshness {
    monotonic: AtomicU64,
    wall: AtomicU64,
}

impl Freshness {
    /// Confirms that all changes made before `at` have arrived.
    pub(in crate::store) fn confirm(&self, at: DualInstant) {
        // A reader between the two stores sees one older value, and so a greater age.
        self.wall.store(at.wall, Ordering::Release);
        self.monotonic.store(at.monotonic, Ordering::Release);
    }

    /// Drops the confirmation.
    pub(in crate::store) fn reset(&self) {
        self.monotonic.store(0, Ordering::Release);
    }

    /// Returns the age of the confirmation, or `None` if there is none.
    pub(in crate::store) fn age(&self, now: DualInstant) -> Option<Duration> {
        let monotonic = self.monotonic.load(Ordering::Acquire);
        let wall = self.wall.load(Ordering::Acquire);
        (monotonic > 0).then(|| now.since(DualInstant { monotonic, wall }))
    }

    pub(in crate::store) fn is_fresh(&self, now: DualInstant) -> bool {
        self.age(now).is_some_and(|age| age < MAX_STALENESS)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: DualInstant = DualInstant { monotonic: 10_000, wall: 50_000 };

    fn later(monotonic: u64, wall: u64) -> DualInstant {
        DualInstant { monotonic: AT.monotonic + monotonic, wall: AT.wall + wall }
    }

    #[test]
    fn a_confirmation_expires_after_3_s_on_either_clock() {
        let freshness = Freshness::default();
        assert!(!freshness.is_fresh(AT), "unconfirmed");
        freshness.confirm(AT);
        assert!(freshness.is_fresh(later(2_999, 2_999)));
        assert!(!freshness.is_fresh(later(3_000, 0)), "the wall clock was set back or stopped");
        assert!(!freshness.is_fresh(later(0, 3_000)), "the machine slept");
        assert!(freshness.is_fresh(DualInstant { monotonic: AT.monotonic + 5, wall: 0 }));
    }

    #[test]
    fn a_reset_drops_the_confirmation() {
        let freshness = Freshness::default();
        freshness.confirm(AT);
        freshness.reset();
        assert!(!freshness.is_fresh(AT));
        assert_eq!(freshness.age(AT), None);
    }

    #[test]
    fn the_first_instant_is_a_valid_confirmation() {
        let (clock, freshness) = (DualClock::start(), Freshness::default());
        let now = clock.now();
        freshness.confirm(now);
        assert!(freshness.is_fresh(now));
    }
}
