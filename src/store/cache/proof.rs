//! How long ago the store last proved that no change is on its way unseen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Older than this, a proof proves nothing: the bound on how long a revocation can go unseen.
pub(in crate::store) const TRUSTED_FOR: Duration = Duration::from_secs(3);

/// Makes [`Moment`]s.
#[derive(Debug)]
pub(in crate::store) struct Stopwatch {
    start: Instant,
}

/// A point in time by two clocks, in milliseconds. The monotonic one may stand still while the machine
/// sleeps or is moved, the wall clock may be set back: the greater difference counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Moment {
    pub(in crate::store) run: u64,
    pub(in crate::store) wall: u64,
}

impl Stopwatch {
    pub(in crate::store) fn start() -> Stopwatch {
        Stopwatch { start: Instant::now() }
    }

    pub(in crate::store) fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // From one: zero says that there was no proof.
        Moment { run: millis(self.start.elapsed()).saturating_add(1), wall: millis(wall) }
    }
}

impl Moment {
    /// The time from `earlier` to here.
    pub(in crate::store) fn since(self, earlier: Moment) -> Duration {
        let run = self.run.saturating_sub(earlier.run);
        Duration::from_millis(run.max(self.wall.saturating_sub(earlier.wall)))
    }
}

/// The last proof of one primary. Written by one task; read by all workers.
#[derive(Debug, Default)]
pub(in crate::store) struct Proof {
    run: AtomicU64,
    wall: AtomicU64,
}

impl Proof {
    /// All changes made before `at` have arrived.
    pub(in crate::store) fn set(&self, at: Moment) {
        // A reader between the two takes the older one of either, and so a greater age.
        self.wall.store(at.wall, Ordering::Release);
        self.run.store(at.run, Ordering::Release);
    }

    /// Nothing is proven any more.
    pub(in crate::store) fn withdraw(&self) {
        self.run.store(0, Ordering::Release);
    }

    /// How old the proof is; `None` when there is none.
    pub(in crate::store) fn age(&self, now: Moment) -> Option<Duration> {
        let run = self.run.load(Ordering::Acquire);
        let wall = self.wall.load(Ordering::Acquire);
        (run > 0).then(|| now.since(Moment { run, wall }))
    }

    pub(in crate::store) fn holds(&self, now: Moment) -> bool {
        self.age(now).is_some_and(|age| age < TRUSTED_FOR)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Moment = Moment { run: 10_000, wall: 50_000 };

    fn later(run: u64, wall: u64) -> Moment {
        Moment { run: AT.run + run, wall: AT.wall + wall }
    }

    #[test]
    fn a_proof_holds_for_less_than_three_seconds_by_either_clock() {
        let proof = Proof::default();
        assert!(!proof.holds(AT), "there was none");
        proof.set(AT);
        assert!(proof.holds(later(2_999, 2_999)));
        assert!(!proof.holds(later(3_000, 0)), "the wall clock was set back, or stands");
        assert!(!proof.holds(later(0, 3_000)), "the machine slept");
        assert!(proof.holds(Moment { run: AT.run + 5, wall: 0 }));
    }

    #[test]
    fn a_proof_that_is_withdrawn_holds_no_longer() {
        let proof = Proof::default();
        proof.set(AT);
        proof.withdraw();
        assert!(!proof.holds(AT));
        assert_eq!(proof.age(AT), None);
    }

    #[test]
    fn the_first_moment_is_not_taken_for_no_proof() {
        let (watch, proof) = (Stopwatch::start(), Proof::default());
        let now = watch.now();
        proof.set(now);
        assert!(proof.holds(now));
    }
}
