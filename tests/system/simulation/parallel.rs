//! Runs simulations on all cores. Each user has a separate timeline, so the distribution over cores changes nothing.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Runtime;

use super::auth_under_test::{AuthUnderTest, Policy};
use super::location_log::LocationChangeLog;
use super::person::Person;
use super::schedule;
use super::tally::UserTally;
use super::user_simulation::UserSimulation;

/// The seed of all users.
pub const SEED: u64 = 1;

/// Simulates honest users for thirty days.
pub fn simulate_users(rules: &Policy, users: Range<u64>) -> UserTally {
    const DAYS: u64 = 30;
    let tallies = run_parallel(rules, users, |runtime, auth, number| {
        let person = Person::new(SEED, number);
        auth.start_person(number, DAYS);
        let mut simulation =
            UserSimulation::new(auth, person.rng.fork(3), schedule::schedule(&person, DAYS));
        runtime.block_on(simulation.run());
        simulation.tally
    });
    let mut sum = UserTally::default();
    tallies.iter().for_each(|tally| sum.add(tally));
    sum
}

/// Runs `work` for each number with an authentication of this policy and returns the results in order.
pub fn run_parallel<T: Send>(
    rules: &Policy,
    numbers: Range<u64>,
    work: impl Fn(&Runtime, &mut AuthUnderTest, u64) -> T + Sync,
) -> Vec<T> {
    let (next, done) = (AtomicU64::new(numbers.start), Mutex::new(Vec::new()));
    let worker = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut auth = AuthUnderTest::new(rules, LocationChangeLog::capture());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return;
            }
            let result = work(&runtime, &mut auth, number);
            done.lock().expect("no poison").push((number, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
    let mut done = done.into_inner().expect("no poison");
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
