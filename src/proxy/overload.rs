//! Load shedding: under high load, requests with a session take precedence.
//!
//! Three inputs: requests in flight, memory of the process, and timer lag of the worker. At
//! [`LoadLevel::High`] a request needs a session cookie with a valid MAC, which a flood cannot forge and
//! which is verified without the store. At [`LoadLevel::Overloaded`] all new requests are shed, so that
//! those in flight complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::telemetry::Limit;

/// How often a worker measures its timer lag.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A worker with this lag in [`LAG_CHECKS`] consecutive checks is overloaded. A single one may be a suspended
/// machine.
const LAG_THRESHOLD: Duration = Duration::from_millis(500);
const LAG_CHECKS: u32 = 3;

/// Load of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoadLevel {
    Normal,
    /// Requests without a valid session cookie are shed.
    High,
    /// All new requests are shed.
    Overloaded,
}

/// Load level of the process memory, shared by all workers.
#[derive(Debug, Default)]
pub struct MemoryLoad(AtomicU8);

impl MemoryLoad {
    /// Sets the current level.
    pub fn set(&self, level: LoadLevel) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    /// Returns the level last set.
    pub fn get(&self) -> LoadLevel {
        match self.0.load(Ordering::Relaxed) {
            0 => LoadLevel::Normal,
            1 => LoadLevel::High,
            2.. => LoadLevel::Overloaded,
        }
    }
}

/// Load of one worker.
#[derive(Debug, Default)]
pub struct OverloadMonitor {
    in_flight: AtomicUsize,
    lagging: AtomicBool,
    memory: Arc<MemoryLoad>,
}

impl OverloadMonitor {
    /// Creates the monitor of a worker without requests.
    pub fn new(memory: Arc<MemoryLoad>) -> OverloadMonitor {
        OverloadMonitor { memory, ..OverloadMonitor::default() }
    }

    /// Counts a request as in flight.
    pub fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a request, when its response is sent or aborted.
    pub fn request_finished(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the load level with the limit that causes it; `None` under normal load.
    pub(super) fn level(&self, max_in_flight: usize) -> Option<(LoadLevel, Limit)> {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let requests = match in_flight {
            count if count > max_in_flight => LoadLevel::Overloaded,
            count if count > max_in_flight - max_in_flight / 4 => LoadLevel::High,
            _ => LoadLevel::Normal,
        };
        let lagging =
            if self.lagging.load(Ordering::Relaxed) { LoadLevel::High } else { LoadLevel::Normal };
        let signals = [
            (self.memory.get(), Limit::Memory),
            (requests, Limit::Requests),
            (lagging, Limit::WorkerLag),
        ];
        let highest = signals.into_iter().max_by_key(|(level, _)| *level)?;
        (highest.0 != LoadLevel::Normal).then_some(highest)
    }

    /// Measures the timer lag of the worker forever.
    pub async fn watch_lag(&self) {
        let mut consecutive = 0;
        loop {
            let due = Instant::now() + POLL_INTERVAL;
            sleep(POLL_INTERVAL).await;
            consecutive = if due.elapsed() > LAG_THRESHOLD { consecutive + 1 } else { 0 };
            self.lagging.store(consecutive >= LAG_CHECKS, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_high_from_three_quarters_of_the_limit() {
        let monitor = OverloadMonitor::default();
        let at = |started: usize| {
            while monitor.in_flight.load(Ordering::Relaxed) < started {
                monitor.request_started();
            }
            monitor.level(8)
        };
        assert_eq!(at(6), None);
        assert_eq!(at(7), Some((LoadLevel::High, Limit::Requests)));
        assert_eq!(at(8), Some((LoadLevel::High, Limit::Requests)));
        assert_eq!(at(9), Some((LoadLevel::Overloaded, Limit::Requests)));
        (0..3).for_each(|_| monitor.request_finished());
        assert_eq!(monitor.level(8), None);
    }

    #[test]
    fn the_highest_level_wins() {
        let monitor = OverloadMonitor::default();
        monitor.lagging.store(true, Ordering::Relaxed);
        assert_eq!(monitor.level(8), Some((LoadLevel::High, Limit::WorkerLag)));
        monitor.memory.set(LoadLevel::Overloaded);
        assert_eq!(monitor.level(8), Some((LoadLevel::Overloaded, Limit::Memory)));
    }
}
