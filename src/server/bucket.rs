//! A rate with a burst: the generic cell rate algorithm, in one instant.

use std::time::{Duration, Instant};

/// How much of what is allowed has been used. Empty at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// When all that was taken will have been earned again.
    even: Instant,
}

/// One in each `every`, and what `burst` holds of them at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) every: Duration,
    pub(super) burst: Duration,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Bucket {
        Bucket { even: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let even = self.even.max(now) + rate.every;
        let fits = even.duration_since(now) <= rate.burst.max(rate.every);
        if fits {
            self.even = even;
        }
        fits
    }

    /// Whether everything that was taken has been earned again: it says no more than a new one.
    pub(super) fn is_even(&self, now: Instant) -> bool {
        self.even <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_rate() {
        let rate = Rate { every: Duration::from_millis(100), burst: Duration::from_secs(1) };
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!((0..50).filter(|_| bucket.take(rate, start)).count(), 10);
        let later = start + Duration::from_millis(250);
        assert_eq!((0..50).filter(|_| bucket.take(rate, later)).count(), 2);
        assert!(!bucket.is_even(later));
        assert!(bucket.is_even(start + Duration::from_secs(2)));
    }

    #[test]
    fn a_burst_shorter_than_one_still_lets_one_go() {
        let rate = Rate { every: Duration::from_secs(1), burst: Duration::ZERO };
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert!(bucket.take(rate, start) && !bucket.take(rate, start));
    }
}
