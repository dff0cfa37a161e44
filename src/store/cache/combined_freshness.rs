//! Combined freshness of several primaries: as old as the oldest confirmation.

use std::sync::Arc;

use parking_lot::Mutex;

use super::freshness::{DualInstant, Freshness};

/// The last confirmation of each primary, and the combined [`Freshness`].
#[derive(Debug)]
pub(in crate::store) struct CombinedFreshness {
    confirmed: Mutex<Vec<Option<DualInstant>>>,
    combined: Arc<Freshness>,
}

/// The freshness of one primary.
#[derive(Clone, Debug)]
pub(in crate::store) struct PrimaryFreshness {
    pub(in crate::store) primaries: Arc<CombinedFreshness>,
    pub(in crate::store) index: usize,
}

impl CombinedFreshness {
    pub(in crate::store) fn new(primaries: usize, combined: Arc<Freshness>) -> CombinedFreshness {
        combined.reset();
        CombinedFreshness { confirmed: Mutex::new(vec![None; primaries]), combined }
    }

    fn update(&self, index: usize, confirmation: Option<DualInstant>) {
        let mut confirmed = self.confirmed.lock();
        if let Some(slot) = confirmed.get_mut(index) {
            *slot = confirmation;
        }
        // Under the lock: an older result must not overwrite a newer one.
        match oldest(&confirmed) {
            Some(moment) => self.combined.confirm(moment),
            None => self.combined.reset(),
        }
    }
}

impl PrimaryFreshness {
    /// Confirms that all changes of this primary made before `at` have arrived.
    pub(in crate::store) fn confirm(&self, at: DualInstant) {
        self.primaries.update(self.index, Some(at));
    }

    pub(in crate::store) fn reset(&self) {
        self.primaries.update(self.index, None);
    }
}

/// Returns the oldest confirmation by either clock, or `None` if one is missing.
fn oldest(confirmed: &[Option<DualInstant>]) -> Option<DualInstant> {
    let older = |one: DualInstant, two: DualInstant| DualInstant {
        monotonic: one.monotonic.min(two.monotonic),
        wall: one.wall.min(two.wall),
    };
    let all: Option<Vec<DualInstant>> = confirmed.iter().copied().collect();
    all?.into_iter().reduce(older)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::clock::UnixMillis;

    fn at(monotonic: u64) -> DualInstant {
        DualInstant { monotonic, wall: UnixMillis(1_000_000 + monotonic) }
    }

    #[test]
    fn the_combined_freshness_is_that_of_the_slowest_primary() {
        let combined = Arc::new(Freshness::default());
        let primaries = Arc::new(CombinedFreshness::new(2, Arc::clone(&combined)));
        let [one, two] =
            [0, 1].map(|index| PrimaryFreshness { primaries: Arc::clone(&primaries), index });
        one.confirm(at(9_000));
        assert_eq!(combined.age(at(9_000)), None, "one of two is unconfirmed");
        two.confirm(at(6_500));
        assert_eq!(combined.age(at(9_000)), Some(Duration::from_millis(2_500)));
        one.confirm(at(9_600));
        assert!(!combined.is_fresh(at(9_600)), "the other one is stale");
        two.confirm(at(9_500));
        assert!(combined.is_fresh(at(9_600)));
        one.reset();
        assert_eq!(combined.age(at(9_600)), None);
    }

    #[test]
    fn without_primaries_nothing_is_confirmed() {
        let combined = Arc::new(Freshness::default());
        combined.confirm(at(5));
        drop(CombinedFreshness::new(0, Arc::clone(&combined)));
        assert_eq!(combined.age(at(5)), None);
    }
}
