//! Whom to serve when there is not enough for all: those with a session before strangers.
//!
//! Three signs are looked at: requests under way, the memory of the process, and a worker that comes
//! late to its own clock. Under strain a request is served when its cookie is one that we made, which
//! a MAC shows without a look at the store; a flood cannot make such cookies. At the limit nobody new
//! is served, so that those under way get their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::telemetry::Limit;

/// How often a worker looks at its own clock.
const LOOK: Duration = Duration::from_millis(50);
/// A worker that is this late so many times in a row does not keep up; once may be a machine that slept.
const LATE: Duration = Duration::from_millis(500);
const TIMES: u32 = 3;

/// How hard the process is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strain {
    None,
    /// Strangers are turned away.
    High,
    /// Everybody new is.
    Full,
}

/// The memory of the process, as all workers see it.
#[derive(Debug, Default)]
pub struct MemoryStrain(AtomicU8);

impl MemoryStrain {
    /// Says how it stands now.
    pub fn set(&self, strain: Strain) {
        self.0.store(strain as u8, Ordering::Relaxed);
    }

    /// How it stood when last looked at.
    pub fn get(&self) -> Strain {
        match self.0.load(Ordering::Relaxed) {
            0 => Strain::None,
            1 => Strain::High,
            2.. => Strain::Full,
        }
    }
}

/// One worker's load.
#[derive(Debug)]
pub struct Pressure {
    under_way: AtomicUsize,
    most: usize,
    late: AtomicBool,
    memory: Arc<MemoryStrain>,
}

impl Pressure {
    /// `most` requests of this worker at once.
    pub fn new(most: usize, memory: Arc<MemoryStrain>) -> Pressure {
        Pressure { under_way: AtomicUsize::new(0), most, late: AtomicBool::new(false), memory }
    }

    /// A request begins.
    pub fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is over, its answer sent or given up.
    pub fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// The strain, and the limit that is its reason.
    pub(super) fn strain(&self) -> Option<(Strain, Limit)> {
        let under_way = self.under_way.load(Ordering::Relaxed);
        let requests = match under_way {
            many if many > self.most => Strain::Full,
            many if many > self.most - self.most / 4 => Strain::High,
            _ => Strain::None,
        };
        let late = if self.late.load(Ordering::Relaxed) { Strain::High } else { Strain::None };
        let all =
            [(self.memory.get(), Limit::Memory), (requests, Limit::Requests), (late, Limit::Lag)];
        let worst = all.into_iter().max_by_key(|(strain, _)| *strain)?;
        (worst.0 != Strain::None).then_some(worst)
    }

    /// Looks at the worker's clock for as long as it runs.
    pub async fn watch(&self) {
        let mut times = 0;
        loop {
            let due = Instant::now() + LOOK;
            sleep(LOOK).await;
            times = if due.elapsed() > LATE { times + 1 } else { 0 };
            self.late.store(times >= TIMES, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_three_quarters_on_strangers_wait_and_at_the_limit_everybody() {
        let pressure = Pressure::new(8, Arc::default());
        let at = |begun: usize| {
            while pressure.under_way.load(Ordering::Relaxed) < begun {
                pressure.begin();
            }
            pressure.strain()
        };
        assert_eq!(at(6), None);
        assert_eq!(at(7), Some((Strain::High, Limit::Requests)));
        assert_eq!(at(8), Some((Strain::High, Limit::Requests)));
        assert_eq!(at(9), Some((Strain::Full, Limit::Requests)));
        (0..3).for_each(|_| pressure.end());
        assert_eq!(pressure.strain(), None);
    }

    #[test]
    fn the_worst_sign_counts() {
        let pressure = Pressure::new(8, Arc::default());
        pressure.late.store(true, Ordering::Relaxed);
        assert_eq!(pressure.strain(), Some((Strain::High, Limit::Lag)));
        pressure.memory.set(Strain::Full);
        assert_eq!(pressure.strain(), Some((Strain::Full, Limit::Memory)));
    }
}
