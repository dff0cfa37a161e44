//! Counters of failed logins.
//!
//! A counter is one time: when it is replenished completely ([`Rate::charge`]). The counters of a group
//! share a Redis Cluster slot, so one script charges all of them or none. Names are keyed hashes.
//!
//! `memory:` and `embedded:` keep the counters in process memory, in a bounded number of buckets. They
//! belong to one gateway and start empty after a restart.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::UnixMillis;
use crate::rate_limit::Rate;

/// Maximum number of buckets. Two names in one bucket share a limit.
const BUCKETS: u64 = 1 << 18;

/// Number of attempts between two removals of replenished counters.
const SWEEP_INTERVAL: u32 = 4_096;

/// A group of counters that are charged together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterGroup {
    /// Hash tag of the group: keyed hash of a user or a network.
    pub tag: String,
    pub counters: Vec<Counter>,
}

/// One counter of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Name within the group.
    pub name: String,
    pub rate: Rate,
}

/// A place from which a user has logged in: a name within the user's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPlace {
    pub tag: String,
    pub name: String,
}

/// Counters and known places in process memory.
#[derive(Debug, Default)]
pub struct LoginCounters {
    hasher: RandomState,
    state: Mutex<CounterState>,
}

#[derive(Debug, Default)]
struct CounterState {
    /// Time at which the counter is replenished completely.
    full_at: HashMap<u64, UnixMillis>,
    /// Time until which a place is known.
    known_until: HashMap<u64, UnixMillis>,
    attempts: u32,
}

impl LoginCounters {
    /// Charges one attempt to every counter.
    ///
    /// # Errors
    /// The longest time to wait, if one of them is exhausted; none is charged then.
    pub fn charge(&self, group: &CounterGroup, now: UnixMillis) -> Result<(), Duration> {
        let mut state = self.state();
        state.sweep_periodically(now);
        let charged = self.chargeable(&state, group, now)?;
        state.full_at.extend(charged);
        Ok(())
    }

    /// Checks whether an attempt could be charged.
    ///
    /// # Errors
    /// As [`LoginCounters::charge`].
    pub fn check(&self, group: &CounterGroup, now: UnixMillis) -> Result<(), Duration> {
        self.chargeable(&self.state(), group, now).map(|_| ())
    }

    /// Exhausts the first counter for `wait`, as another gateway has.
    pub fn hold(&self, group: &CounterGroup, wait: Duration, now: UnixMillis) {
        let Some(counter) = group.counters.first() else { return };
        let bucket = self.bucket(&group.tag, &counter.name);
        let full_at = now.plus(wait + counter.rate.window() - counter.rate.every);
        self.state().full_at.insert(bucket, full_at);
    }

    fn chargeable(
        &self,
        state: &CounterState,
        group: &CounterGroup,
        now: UnixMillis,
    ) -> Result<Vec<(u64, UnixMillis)>, Duration> {
        let mut charged = Vec::with_capacity(group.counters.len());
        let mut wait = Duration::ZERO;
        for counter in &group.counters {
            let bucket = self.bucket(&group.tag, &counter.name);
            let full_at = state.full_at.get(&bucket).copied().unwrap_or_default();
            match counter.rate.charge(full_at, now) {
                Ok(next) => charged.push((bucket, next)),
                Err(longer) => wait = wait.max(longer),
            }
        }
        if wait > Duration::ZERO { Err(wait) } else { Ok(charged) }
    }

    /// Takes back one charge of every counter.
    pub fn refund(&self, group: &CounterGroup) {
        let mut state = self.state();
        for counter in &group.counters {
            if let Some(full_at) = state.full_at.get_mut(&self.bucket(&group.tag, &counter.name)) {
                *full_at = full_at.minus(counter.rate.every);
            }
        }
    }

    /// Removes the counters and remembers the place.
    pub fn clear(&self, group: &CounterGroup, place: &KnownPlace, known_until: UnixMillis) {
        let mut state = self.state();
        for counter in &group.counters {
            state.full_at.remove(&self.bucket(&group.tag, &counter.name));
        }
        state.known_until.insert(self.bucket(&place.tag, &place.name), known_until);
    }

    /// Returns whether the place is known.
    pub fn is_known(&self, place: &KnownPlace, now: UnixMillis) -> bool {
        let bucket = self.bucket(&place.tag, &place.name);
        self.state().known_until.get(&bucket).is_some_and(|until| now < *until)
    }

    fn bucket(&self, tag: &str, name: &str) -> u64 {
        self.hasher.hash_one((tag, name)) % BUCKETS
    }

    fn state(&self) -> MutexGuard<'_, CounterState> {
        self.state.lock()
    }
}

impl CounterState {
    fn sweep_periodically(&mut self, now: UnixMillis) {
        self.attempts = self.attempts.wrapping_add(1);
        if self.attempts.is_multiple_of(SWEEP_INTERVAL) {
            self.full_at.retain(|_, full_at| now < *full_at);
            self.known_until.retain(|_, until| now < *until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn group(tag: &str, bursts: &[u32]) -> CounterGroup {
        let counter = |(index, burst): (usize, &u32)| Counter {
            name: index.to_string(),
            rate: Rate::new(*burst, Duration::from_secs(6)),
        };
        CounterGroup {
            tag: tag.to_owned(),
            counters: bursts.iter().enumerate().map(counter).collect(),
        }
    }

    #[test]
    fn a_group_is_charged_completely_or_not_at_all() {
        let counters = LoginCounters::default();
        let (both, wide) = (group("a", &[1, 3]), group("a", &[9, 3]));
        assert_eq!(counters.charge(&both, NOW), Ok(()));
        for _ in 0..5 {
            assert_eq!(counters.charge(&both, NOW), Err(Duration::from_secs(6)));
        }
        // The second counter has two of three left.
        assert_eq!([(); 3].map(|()| counters.charge(&wide, NOW).is_ok()), [true, true, false]);
    }

    #[test]
    fn a_refund_takes_back_one_charge() {
        let counters = LoginCounters::default();
        let one = group("a", &[1]);
        counters.charge(&one, NOW).expect("within the burst");
        counters.refund(&one);
        counters.charge(&one, NOW).expect("taken back");
        counters.charge(&one, NOW).expect_err("charged");
    }

    #[test]
    fn replenished_counters_are_removed() {
        let counters = LoginCounters::default();
        for number in 0..SWEEP_INTERVAL - 1 {
            counters.charge(&group(&number.to_string(), &[1]), NOW).unwrap_or_default();
        }
        counters.charge(&group("last", &[1]), NOW.plus(Duration::from_hours(1))).expect("free");
        assert_eq!(counters.state().full_at.len(), 1);
    }
}
