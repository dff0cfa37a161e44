//! Rate limits by the generic cell rate algorithm, one limit per key.
//!
//! [`RateLimit`] is a thin layer over `governor`, whose clock here is monotonic time or the manual clock of
//! a test. [`Rate::charge`] is the same rule as a function of one stored time, for counters that several
//! gateways share.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::{Clock, UnixMillis};

/// A burst of `burst` events, then one per `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub burst: NonZeroU32,
    pub every: Duration,
}

impl Rate {
    /// Creates a rate; a burst of 0 counts as 1.
    pub fn new(burst: u32, every: Duration) -> Rate {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        Rate { burst, every }
    }

    /// Returns the time in which an exhausted key is replenished completely.
    pub fn window(self) -> Duration {
        self.every.saturating_mul(self.burst.get())
    }

    /// Returns the rate of `factor` such sources together.
    #[must_use]
    pub fn times(self, factor: u32) -> Rate {
        Rate::new(self.burst.get().saturating_mul(factor), self.every / factor.max(1))
    }

    /// Charges one event to a key that is replenished at `full_at`. Returns the new value of `full_at`.
    ///
    /// # Errors
    /// The time to wait if the key is exhausted. A `full_at` beyond the window of the rate, from a wrong
    /// clock, counts as an exhausted key.
    pub fn charge(self, full_at: UnixMillis, now: UnixMillis) -> Result<UnixMillis, Duration> {
        let latest = now.plus(self.window());
        let next = full_at.clamp(now, latest).plus(self.every);
        if next <= latest { Ok(next) } else { Err(next.since(latest)) }
    }

    fn quota(self) -> Quota {
        // A zero period means no limit; governor's minimum is a nanosecond.
        let every = self.every.max(Duration::from_nanos(1));
        let quota = Quota::with_period(every).unwrap_or_else(|| Quota::per_second(self.burst));
        quota.allow_burst(self.burst)
    }
}

/// Limits on failed logins. docs/login.md explains the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLimits {
    /// Failures on one account from one IPv4 address or IPv6 /64.
    pub pair: Rate,
    /// Failures on one account from all places that it does not know.
    pub account: Rate,
    /// Failures from one IPv4 address or IPv6 /64. Wider networks have multiples.
    pub network: Rate,
}

impl Default for LoginLimits {
    fn default() -> LoginLimits {
        LoginLimits {
            pair: Rate::new(10, Duration::from_secs(6)),
            account: Rate::new(100, Duration::from_secs(30)),
            network: Rate::new(30, Duration::from_secs(2)),
        }
    }
}

/// The same rate for each key on its own.
pub struct RateLimit<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, SteadyClock, NoOpMiddleware<Nanos>>,
    clock: SteadyClock,
}

impl<K: Hash + Eq + Clone> RateLimit<K> {
    pub fn new(rate: Rate, clock: &Clock) -> RateLimit<K> {
        let clock = SteadyClock::new(clock);
        let limiter = RateLimiter::hashmap_with_clock(rate.quota(), clock.clone());
        RateLimit { limiter, clock }
    }

    /// Counts an event, or returns the time until the next permitted one.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        let checked = self.limiter.check_key(key);
        checked
            .map_err(|not_until| not_until.wait_time_from(governor::clock::Clock::now(&self.clock)))
    }

    /// Removes the keys whose limit has been fully replenished for one interval.
    pub fn remove_idle(&self) {
        self.limiter.retain_recent();
    }

    /// Returns the number of keys. Idle keys count until [`RateLimit::remove_idle`].
    pub fn len(&self) -> usize {
        self.limiter.len()
    }

    pub fn is_empty(&self) -> bool {
        self.limiter.is_empty()
    }
}

/// Monotonic time, or the manual clock of a test: a corrected wall clock must not change the limits.
#[derive(Clone, Debug)]
pub enum SteadyClock {
    Monotonic(Arc<Instant>),
    Manual(Clock, UnixMillis),
}

impl SteadyClock {
    /// Starts at zero.
    pub fn new(clock: &Clock) -> SteadyClock {
        match clock {
            Clock::System => SteadyClock::Monotonic(Arc::new(Instant::now())),
            Clock::Manual(_) => SteadyClock::Manual(clock.clone(), clock.now()),
        }
    }
}

impl governor::clock::Clock for SteadyClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        match self {
            SteadyClock::Monotonic(start) => start.elapsed().into(),
            SteadyClock::Manual(clock, start) => clock.now().since(*start).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_one_event_of_the_burst_and_then_of_the_rate() {
        let rate = Rate::new(3, Duration::from_secs(2));
        let (mut full_at, mut now) = (UnixMillis(0), UnixMillis(1_000_000));
        for _ in 0..3 {
            full_at = rate.charge(full_at, now).expect("within the burst");
        }
        assert_eq!(rate.charge(full_at, now), Err(Duration::from_secs(2)));
        now = now.plus(Duration::from_secs(2));
        full_at = rate.charge(full_at, now).expect("one is replenished");
        assert_eq!(rate.charge(full_at, now), Err(Duration::from_secs(2)));
        // A clock that was an hour fast when the value was written.
        let future = now.plus(Duration::from_hours(1));
        assert_eq!(rate.charge(future, now), Err(Duration::from_secs(2)));
    }

    #[test]
    fn a_key_has_its_burst_and_then_its_rate() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let limit = RateLimit::new(Rate::new(3, Duration::from_secs(2)), &clock);
        let allowed = |key: u8| (0..10).filter(|_| limit.check(&key).is_ok()).count();
        assert_eq!((allowed(1), allowed(2)), (3, 3));
        assert_eq!(limit.check(&1), Err(Duration::from_secs(2)));
        clock.advance(Duration::from_secs(4));
        assert_eq!(allowed(1), 2);
        clock.advance(Duration::from_secs(5));
        limit.remove_idle();
        assert_eq!(limit.len(), 1, "the second key is replenished");
    }
}
