//! A small seeded random number generator. The seed fixes the choices, not the interleaving of threads.

use std::time::Duration;

/// A random number generator with reproducible output.
#[derive(Clone, Debug)]
pub struct SeededRng(u64);

impl SeededRng {
    /// Creates the generator of one actor for a seed.
    pub fn new(seed: u64, actor: u64) -> SeededRng {
        let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ actor.wrapping_mul(0xd1b5_4a32_d192_ed03);
        let mut chance = SeededRng(mixed | 1);
        for _ in 0..8 {
            chance.next();
        }
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Derives an independent generator.
    pub fn fork(&self, number: u64) -> SeededRng {
        SeededRng::new(self.0, number)
    }

    /// Returns a number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Returns true with a probability of `likely` percent.
    pub fn percent(&mut self, likely: u64) -> bool {
        self.below(100) < likely
    }

    /// Returns a duration in `[from, to)`.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX);
        from + Duration::from_micros(self.below(span))
    }

    /// Returns an element of a non-empty slice.
    pub fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(all.len() as u64)).unwrap_or(0);
        &all[at]
    }

    /// Shuffles a slice in place.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            let other = usize::try_from(self.below(at as u64 + 1)).unwrap_or(0);
            all.swap(at, other);
        }
    }
}
