//! Many people over all cores. Each has days of their own, so that who runs where changes nothing.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Runtime;

use super::days;
use super::door::{Door, Rules};
use super::life::Life;
use super::moves::Moves;
use super::person::Person;
use super::tally::Tally;

/// Another seed is another town.
pub const SEED: u64 = 1;

/// Thirty days of honest people.
pub fn live(rules: &Rules, people: Range<u64>) -> Tally {
    const DAYS: u64 = 30;
    let tallies = each(rules, people, |runtime, door, number| {
        let person = Person::new(SEED, number);
        door.for_person(number, DAYS);
        let mut life = Life::new(door, person.dice.aside(3), days::diary(&person, DAYS));
        runtime.block_on(life.run());
        life.tally
    });
    let mut sum = Tally::default();
    tallies.iter().for_each(|tally| sum.add(tally));
    sum
}

/// Does something for each number, at doors with these rules; in the order of the numbers.
pub fn each<T: Send>(
    rules: &Rules,
    numbers: Range<u64>,
    work: impl Fn(&Runtime, &mut Door, u64) -> T + Sync,
) -> Vec<T> {
    let (next, done) = (AtomicU64::new(numbers.start), Mutex::new(Vec::new()));
    let worker = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut door = Door::new(rules, Moves::listen());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return;
            }
            let result = work(&runtime, &mut door, number);
            done.lock().expect("no poison").push((number, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
    let mut done = done.into_inner().expect("no poison");
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
