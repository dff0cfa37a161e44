//! Rate limits on login attempts.
//!
//! | limit | counts | default | against |
//! | --- | --- | --- | --- |
//! | network | all attempts from an IPv4 address or an IPv6 /64 | burst of 30, then 1 per 2 s | one machine that tries many names |
//! | pair | all attempts on one name from one network | burst of 10, then 1 per 6 s | one machine that guesses one password |
//! | name | consecutive failures on one name from anywhere | from the 100th, one attempt per 1, 2, … 30 s | many machines that guess one password (NIST SP 800-63B-4, 3.2.2) |
//!
//! The third limit only delays, and exempts networks from which the name logged in before. A
//! lockout would let attackers lock out users by failing on purpose.
//!
//! Unknown names are counted like existing ones. Keys are hashed with a per-process secret into
//! [`BUCKETS`] buckets, so each table is bounded and an attacker cannot target another key's
//! bucket. All state is local to the process: it is lost on restart and not shared between
//! gateways.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::nanos::Nanos;
use parking_lot::Mutex;

use crate::clock::Clock;
pub use crate::rate_limit::Rate;
use crate::rate_limit::{RateLimit, SteadyClock};
use crate::session::context::subscriber_network;

/// Maximum number of entries per table.
pub const BUCKETS: u64 = 1 << 18;
/// Number of attempts between two sweeps of idle entries.
const SWEEP_INTERVAL: u64 = 4_096;

/// Rate limits for login attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLimits {
    pub network: Rate,
    pub pair: Rate,
    /// Number of consecutive failures on one name before attempts on it are delayed.
    pub failures: u32,
    /// Maximum delay between two attempts on such a name.
    pub pause_max: Duration,
}

impl Default for LoginLimits {
    fn default() -> LoginLimits {
        LoginLimits {
            network: Rate::new(30, Duration::from_secs(2)),
            pair: Rate::new(10, Duration::from_secs(6)),
            failures: 100,
            pause_max: Duration::from_secs(30),
        }
    }
}

/// Rate limits of one gateway.
pub struct Throttle {
    limits: LoginLimits,
    clock: SteadyClock,
    hasher: RandomState,
    network: RateLimit<u64>,
    pair: RateLimit<u64>,
    names: Mutex<HashMap<u64, FailureStreak>>,
    /// Pairs of name and network with a successful login, and the time of the last one.
    trusted_pairs: Mutex<HashMap<u64, Nanos>>,
    attempts: AtomicU64,
}

/// Consecutive failures on one name.
#[derive(Debug, Clone, Copy, Default)]
struct FailureStreak {
    failures: u32,
    next_allowed: Nanos,
}

/// Key of an admitted attempt, used to record its result.
#[derive(Debug, Clone, Copy)]
pub struct AttemptKey {
    name: u64,
    pair: u64,
}

impl Throttle {
    /// Creates the limits without any recorded attempt.
    pub fn new(limits: LoginLimits, clock: &Clock) -> Throttle {
        let limiter = |rate: Rate| RateLimit::new(rate, clock);
        Throttle {
            limits,
            network: limiter(limits.network),
            pair: limiter(limits.pair),
            clock: SteadyClock::new(clock),
            hasher: RandomState::new(),
            names: Mutex::default(),
            trusted_pairs: Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    /// Admits one attempt on the normalized name, or returns the time to wait.
    pub fn admit(&self, folded: &str, from: IpAddr) -> Result<AttemptKey, Duration> {
        self.sweep_periodically();
        let network = subscriber_network(from);
        let key = AttemptKey { name: self.bucket(folded), pair: self.bucket((folded, network)) };
        self.network.check(&self.bucket(network))?;
        self.pair.check(&key.pair)?;
        self.check_pause(key)?;
        Ok(key)
    }

    /// Records a failed attempt.
    pub fn record_failure(&self, key: AttemptKey) {
        let mut names = self.names.lock();
        let streak = names.entry(key.name).or_default();
        streak.failures = streak.failures.saturating_add(1);
    }

    /// Records a successful attempt: clears the name's failures and trusts its network.
    pub fn record_success(&self, key: AttemptKey) {
        self.names.lock().remove(&key.name);
        self.trusted_pairs.lock().insert(key.pair, self.clock.now());
    }

    fn check_pause(&self, key: AttemptKey) -> Result<(), Duration> {
        if self.trusted_pairs.lock().contains_key(&key.pair) {
            return Ok(());
        }
        let mut names = self.names.lock();
        let Some(streak) = names.get_mut(&key.name) else {
            return Ok(());
        };
        let now = self.clock.now();
        if now < streak.next_allowed {
            return Err(Duration::from(streak.next_allowed) - Duration::from(now));
        }
        let over = streak.failures.saturating_add(1).saturating_sub(self.limits.failures);
        let pause = Duration::from_secs(over.into()).min(self.limits.pause_max);
        streak.next_allowed = now + Nanos::from(pause);
        Ok(())
    }

    fn bucket(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key) % BUCKETS
    }

    fn sweep_periodically(&self) {
        if self.attempts.fetch_add(1, Ordering::Relaxed) % SWEEP_INTERVAL == SWEEP_INTERVAL - 1 {
            self.network.remove_idle();
            self.pair.remove_idle();
        }
    }
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Throttle({:?})", self.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;

    const HERE: [u8; 4] = [192, 0, 2, 1];

    fn throttle() -> (Throttle, Clock) {
        let clock = Clock::manual(UnixMillis(1_000_000));
        (Throttle::new(LoginLimits::default(), &clock), clock)
    }

    fn network(number: u32) -> IpAddr {
        IpAddr::from(number.wrapping_add(0x0a00_0000).to_be_bytes())
    }

    #[test]
    fn one_network_has_ten_attempts_per_name_then_one_per_6_s() {
        let (throttle, clock) = throttle();
        for _ in 0..10 {
            throttle.admit("alice", HERE.into()).expect("within the burst");
        }
        let wait = throttle.admit("alice", HERE.into()).expect_err("the eleventh");
        assert_eq!(wait, Duration::from_secs(6));
        clock.advance(Duration::from_millis(5_999));
        assert!(throttle.admit("alice", HERE.into()).is_err());
        clock.advance(Duration::from_millis(1));
        throttle.admit("alice", HERE.into()).expect("six seconds later");
        assert!(throttle.admit("alice", HERE.into()).is_err());
    }

    #[test]
    fn one_network_has_thirty_attempts_then_one_per_2_s() {
        let (throttle, clock) = throttle();
        for number in 0..30 {
            throttle.admit(&format!("user{number}"), HERE.into()).expect("within the burst");
        }
        let wait = throttle.admit("other", HERE.into()).expect_err("the next");
        assert_eq!(wait, Duration::from_secs(2));
        clock.advance(Duration::from_secs(2));
        throttle.admit("other", HERE.into()).expect("two seconds later");
        throttle.admit("alice", network(1)).expect("another network is free");
    }

    fn fail_from_many_networks(throttle: &Throttle, failures: u32) {
        for number in 0..failures {
            let key = throttle.admit("alice", network(number)).expect("not yet slowed");
            throttle.record_failure(key);
        }
    }

    #[test]
    fn after_100_failures_a_name_waits_up_to_30_s() {
        let (throttle, clock) = throttle();
        fail_from_many_networks(&throttle, 100);
        let mut pauses = Vec::new();
        for number in 1_000..1_040 {
            let key = throttle.admit("alice", network(number)).expect("the pause is over");
            throttle.record_failure(key);
            let pause = throttle.admit("alice", network(number + 5_000)).expect_err("the pause");
            pauses.push(pause.as_secs());
            clock.advance(pause);
        }
        assert_eq!(pauses[..3], [1, 2, 3]);
        assert_eq!(pauses.last(), Some(&30));
        throttle.admit("bob", network(9_999)).expect("another name is free");
    }

    #[test]
    fn a_trusted_network_is_not_delayed_by_others_failures() {
        let (throttle, _) = throttle();
        let home = throttle.admit("alice", HERE.into()).expect("free");
        throttle.record_success(home);
        fail_from_many_networks(&throttle, 100);
        throttle.admit("alice", network(1_000)).expect("begins the pause");
        assert!(throttle.admit("alice", network(1_001)).is_err());
        throttle.admit("alice", HERE.into()).expect("the owner's own network");
    }

    #[test]
    fn a_success_clears_the_failures() {
        let (throttle, _) = throttle();
        fail_from_many_networks(&throttle, 99);
        let key = throttle.admit("alice", network(500)).expect("free");
        throttle.record_success(key);
        for number in 600..700 {
            let key = throttle.admit("alice", network(number)).expect("counted anew");
            throttle.record_failure(key);
        }
    }

    #[test]
    fn keys_map_to_a_bounded_number_of_buckets() {
        let (throttle, _) = throttle();
        let buckets = (0..20_000_u32).map(|number| throttle.bucket((number, "x")));
        let distinct: std::collections::HashSet<u64> = buckets.collect();
        assert!(distinct.iter().all(|bucket| *bucket < BUCKETS));
        assert!(distinct.len() > 18_000, "{} of 20,000 apart", distinct.len());
    }

    #[test]
    fn idle_entries_are_swept() {
        let (throttle, clock) = throttle();
        for number in 0..4_000 {
            throttle.admit(&format!("u{number}"), network(number)).expect("free");
        }
        clock.advance(Duration::from_secs(3_600));
        for number in 0..200 {
            throttle.admit(&format!("v{number}"), network(100_000 + number)).expect("free");
        }
        assert!(throttle.network.len() <= 400, "{}", throttle.network.len());
        assert!(throttle.pair.len() <= 400, "{}", throttle.pair.len());
    }
}
