//! A small seeded generator. The seed fixes what is chosen, not how the machine interleaves it.

use std::time::Duration;

/// Choices that a seed repeats.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The generator of one actor of one seed.
    pub fn new(seed: u64, actor: u64) -> Chance {
        let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ actor.wrapping_mul(0xd1b5_4a32_d192_ed03);
        let mut chance = Chance(mixed | 1);
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

    /// Another generator, of somebody beside this one's owner.
    pub fn aside(&self, number: u64) -> Chance {
        Chance::new(self.0, number)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Whether something of this likelihood happens.
    pub fn percent(&mut self, likely: u64) -> bool {
        self.below(100) < likely
    }

    /// A time in `[from, to)`.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX);
        from + Duration::from_micros(self.below(span))
    }

    /// One of a slice that is not empty.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(all.len() as u64)).unwrap_or(0);
        &all[at]
    }

    /// An order of its own.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            let other = usize::try_from(self.below(at as u64 + 1)).unwrap_or(0);
            all.swap(at, other);
        }
    }
}
