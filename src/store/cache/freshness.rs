//! Freshness: the time since the store last confirmed a state, by two clocks.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixMillis};

/// Maximum age of a confirmation: the bound on an unseen revocation.
pub(in crate::store) const MAX_STALENESS: Duration = Duration::from_secs(3);

/// Start of the monotonic milliseconds: the first use in this process.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point in time on two clocks, in milliseconds. The monotonic clock may stop while the machine
/// sleeps; the wall clock may be set back. The greater difference counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DualInstant {
    /// Milliseconds since the start of the process, plus one: zero marks an unconfirmed state.
    pub(in crate::store) monotonic: u64,
    pub(in crate::store) wall: UnixMillis,
}

impl DualInstant {
    /// Combines the readings of both clocks.
    pub fn new(instant: Instant, wall: UnixMillis) -> DualInstant {
        let monotonic = instant.saturating_duration_since(*START).as_millis();
        DualInstant { monotonic: u64::try_from(monotonic).unwrap_or(u64::MAX).max(1), wall }
    }

    /// Reads the system's clocks.
    pub fn now() -> DualInstant {
        DualInstant::new(Instant::now(), Clock::System.now())
    }

    /// Returns the reading of the monotonic clock.
    pub(crate) fn instant(self) -> Instant {
        *START + Duration::from_millis(self.monotonic)
    }

    /// Returns the time from `earlier` to `self`.
    pub(in crate::store) fn since(self, earlier: DualInstant) -> Duration {
        let monotonic = self.monotonic.saturating_sub(earlier.monotonic);
        Duration::from_millis(monotonic).max(self.wall.since(earlier.wall))
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
        self.wall.store(at.wall.0, Ordering::Release);
        self.monotonic.store(at.monotonic, Ordering::Release);
    }

    /// Drops the confirmation.
    pub(in crate::store) fn reset(&self) {
        self.monotonic.store(0, Ordering::Release);
    }

    /// Returns the age of the confirmation, or `None` if there is none.
    pub(in crate::store) fn age(&self, now: DualInstant) -> Option<Duration> {
        let monotonic = self.monotonic.load(Ordering::Acquire);
        let wall = UnixMillis(self.wall.load(Ordering::Acquire));
        (monotonic > 0).then(|| now.since(DualInstant { monotonic, wall }))
    }

    pub(in crate::store) fn is_fresh(&self, now: DualInstant) -> bool {
        self.age(now).is_some_and(|age| age < MAX_STALENESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: DualInstant = DualInstant { monotonic: 10_000, wall: UnixMillis(50_000) };

    fn later(monotonic: u64, wall: u64) -> DualInstant {
        let wall = UnixMillis(AT.wall.0 + wall);
        DualInstant { monotonic: AT.monotonic + monotonic, wall }
    }

    #[test]
    fn a_confirmation_expires_after_3_s_on_either_clock() {
        let freshness = Freshness::default();
        assert!(!freshness.is_fresh(AT), "unconfirmed");
        freshness.confirm(AT);
        assert!(freshness.is_fresh(later(2_999, 2_999)));
        assert!(!freshness.is_fresh(later(3_000, 0)), "the wall clock was set back or stopped");
        assert!(!freshness.is_fresh(later(0, 3_000)), "the machine slept");
        let set_back = DualInstant { monotonic: AT.monotonic + 5, wall: UnixMillis(0) };
        assert!(freshness.is_fresh(set_back));
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
        let (start, freshness) = (Instant::now(), Freshness::default());
        let first = DualInstant::new(start, UnixMillis(0));
        freshness.confirm(first);
        assert!(freshness.is_fresh(first));
        assert!(first.instant() <= Instant::now() + Duration::from_millis(1));
    }
}
