//! Who may try a password how often.
//!
//! | brake | counts | default | against |
//! | --- | --- | --- | --- |
//! | network | every attempt of an IPv4 address or an IPv6 /64 | 30 at once, then 1 in 2 s | one machine that tries many names |
//! | pair | every attempt on one name from one network | 10 at once, then 1 in 6 s | one machine that guesses one password |
//! | name | failures in a row on one name, from anywhere | from the 100th on, one attempt per 1, 2, … 30 s | many machines that guess one password (NIST SP 800-63B-4, 3.2.2) |
//!
//! The third one only slows down, and not the networks from which the name logged in before: a lock
//! would let anybody lock others out by guessing badly on purpose.
//!
//! Unknown names are counted like known ones. A key is a bucket number under a hash that is secret to
//! this process, so each table has at most [`BUCKETS`] entries, and nobody can aim at another's
//! bucket. All of it lies in this process: it begins anew after a restart, and each gateway counts for
//! itself.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock as GovernorClock;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::{Clock, UnixMillis};

/// The most entries that a table can have.
pub const BUCKETS: u64 = 1 << 18;
/// Tables are swept of idle entries once in so many attempts.
const SWEEP_EVERY: u64 = 4_096;

/// How fast passwords may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub network: Rate,
    pub pair: Rate,
    /// Failures in a row on one name before attempts on it are slowed down.
    pub failures: u32,
    /// The longest pause between two attempts on such a name.
    pub pause_max: Duration,
}

/// `burst` at once, then one per `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub burst: NonZeroU32,
    pub every: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            network: Rate::new(30, Duration::from_secs(2)),
            pair: Rate::new(10, Duration::from_secs(6)),
            failures: 100,
            pause_max: Duration::from_secs(30),
        }
    }
}

impl Rate {
    /// A rate; a burst of 0 counts as 1.
    pub fn new(burst: u32, every: Duration) -> Rate {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        Rate { burst, every }
    }

    fn quota(self) -> Quota {
        // A period of zero is no brake; a nanosecond is the nearest thing that the limiter knows.
        let every = self.every.max(Duration::from_nanos(1));
        let quota = Quota::with_period(every).unwrap_or_else(|| Quota::per_second(self.burst));
        quota.allow_burst(self.burst)
    }
}

type Limiter = RateLimiter<
    u64,
    HashMapStateStore<u64>,
    SteadyClock,
    governor::middleware::NoOpMiddleware<Nanos>,
>;

/// The brakes of one gateway.
pub struct Throttle {
    limits: Limits,
    clock: SteadyClock,
    hasher: RandomState,
    network: Limiter,
    pair: Limiter,
    names: Mutex<HashMap<u64, Streak>>,
    /// Pairs of name and network that logged in, and when last.
    proven: Mutex<HashMap<u64, Nanos>>,
    attempts: AtomicU64,
}

/// What is known of the failures on one name.
#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    failures: u32,
    next: Nanos,
}

/// One admitted attempt; how it ended is told to the brakes through it.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    name: u64,
    pair: u64,
}

impl Throttle {
    /// Brakes at rest.
    pub fn new(limits: Limits, clock: &Clock) -> Throttle {
        let clock = SteadyClock::new(clock);
        let limiter = |rate: Rate| Limiter::hashmap_with_clock(rate.quota(), clock.clone());
        Throttle {
            limits,
            network: limiter(limits.network),
            pair: limiter(limits.pair),
            clock,
            hasher: RandomState::new(),
            names: Mutex::default(),
            proven: Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    /// Lets one attempt on the folded name through, or says how long to wait.
    pub fn admit(&self, folded: &str, from: IpAddr) -> Result<Ticket, Duration> {
        self.sweep_now_and_then();
        let network = network_of(from);
        let ticket = Ticket { name: self.bucket(folded), pair: self.bucket((folded, network)) };
        self.take(&self.network, self.bucket(network))?;
        self.take(&self.pair, ticket.pair)?;
        self.pause(ticket)?;
        Ok(ticket)
    }

    /// The password was wrong, or the name is not one that may log in.
    pub fn failed(&self, ticket: Ticket) {
        let mut names = lock(&self.names);
        let streak = names.entry(ticket.name).or_default();
        streak.failures = streak.failures.saturating_add(1);
    }

    /// The password was right: the name's failures are forgotten, and its network is known.
    pub fn succeeded(&self, ticket: Ticket) {
        lock(&self.names).remove(&ticket.name);
        lock(&self.proven).insert(ticket.pair, self.clock.now());
    }

    fn take(&self, limiter: &Limiter, bucket: u64) -> Result<(), Duration> {
        let taken = limiter.check_key(&bucket);
        taken.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    fn pause(&self, ticket: Ticket) -> Result<(), Duration> {
        if lock(&self.proven).contains_key(&ticket.pair) {
            return Ok(());
        }
        let mut names = lock(&self.names);
        let Some(streak) = names.get_mut(&ticket.name) else {
            return Ok(());
        };
        let now = self.clock.now();
        if now < streak.next {
            return Err(Duration::from(streak.next) - Duration::from(now));
        }
        let over = streak.failures.saturating_add(1).saturating_sub(self.limits.failures);
        let pause = Duration::from_secs(over.into()).min(self.limits.pause_max);
        streak.next = now + Nanos::from(pause);
        Ok(())
    }

    fn bucket(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key) % BUCKETS
    }

    fn sweep_now_and_then(&self) {
        if self.attempts.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.network.retain_recent();
            self.pair.retain_recent();
        }
    }
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Throttle({:?})", self.limits)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one subscriber can change at will is one: the last 64 bits of an IPv6 address, and the IPv6
/// spelling of an IPv4 address.
fn network_of(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// Time that never steps back, unless a test moves it: a corrected wall clock must not open or close
/// the brakes.
#[derive(Clone, Debug)]
enum SteadyClock {
    Monotonic(Arc<Instant>),
    Manual(Clock, UnixMillis),
}

impl SteadyClock {
    fn new(clock: &Clock) -> SteadyClock {
        match clock {
            Clock::System => SteadyClock::Monotonic(Arc::new(Instant::now())),
            Clock::Manual(_) => SteadyClock::Manual(clock.clone(), clock.now()),
        }
    }
}

impl GovernorClock for SteadyClock {
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

    const HERE: [u8; 4] = [192, 0, 2, 1];

    fn throttle() -> (Throttle, Clock) {
        let clock = Clock::manual(UnixMillis(1_000_000));
        (Throttle::new(Limits::default(), &clock), clock)
    }

    fn network(number: u32) -> IpAddr {
        IpAddr::from(number.wrapping_add(0x0a00_0000).to_be_bytes())
    }

    #[test]
    fn one_network_gets_ten_tries_on_a_name_then_one_in_six_seconds() {
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
    fn one_network_gets_thirty_tries_on_many_names_then_one_in_two_seconds() {
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

    #[test]
    fn an_ipv6_network_is_a_slash_64_and_a_mapped_address_is_its_ipv4_one() {
        let address = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:0:0:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), IpAddr::from(HERE));
    }

    fn fail_from_many_networks(throttle: &Throttle, failures: u32) {
        for number in 0..failures {
            let ticket = throttle.admit("alice", network(number)).expect("not yet slowed");
            throttle.failed(ticket);
        }
    }

    #[test]
    fn from_the_hundredth_failure_on_a_name_waits_up_to_thirty_seconds() {
        let (throttle, clock) = throttle();
        fail_from_many_networks(&throttle, 100);
        let mut pauses = Vec::new();
        for number in 1_000..1_040 {
            let ticket = throttle.admit("alice", network(number)).expect("the pause is over");
            throttle.failed(ticket);
            let pause = throttle.admit("alice", network(number + 5_000)).expect_err("the pause");
            pauses.push(pause.as_secs());
            clock.advance(pause);
        }
        assert_eq!(pauses[..3], [1, 2, 3]);
        assert_eq!(pauses.last(), Some(&30));
        throttle.admit("bob", network(9_999)).expect("another name is free");
    }

    #[test]
    fn a_network_that_logged_in_before_is_not_slowed_by_others_failures() {
        let (throttle, _) = throttle();
        let home = throttle.admit("alice", HERE.into()).expect("free");
        throttle.succeeded(home);
        fail_from_many_networks(&throttle, 100);
        throttle.admit("alice", network(1_000)).expect("begins the pause");
        assert!(throttle.admit("alice", network(1_001)).is_err());
        throttle.admit("alice", HERE.into()).expect("the owner's own network");
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let (throttle, _) = throttle();
        fail_from_many_networks(&throttle, 99);
        let ticket = throttle.admit("alice", network(500)).expect("free");
        throttle.succeeded(ticket);
        for number in 600..700 {
            let ticket = throttle.admit("alice", network(number)).expect("counted anew");
            throttle.failed(ticket);
        }
    }

    #[test]
    fn a_key_is_one_of_a_bounded_number_of_buckets() {
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
