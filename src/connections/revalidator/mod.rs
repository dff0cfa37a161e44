//! Schedules checks of sessions with tracked connections, which close those whose session expired,
//! ended at another gateway, or lost its account.
//!
//! A store outage closes no connection before `live.unchecked_for`. Until then it logs no user out;
//! after that it admits no unchecked data.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::UnixMillis;
use crate::session::SessionKey;

use super::registry::ConnectionRegistry;

/// Interval of sweeps, and so the precision of timeouts.
const SWEEP_INTERVAL: Duration = Duration::from_millis(200);

/// Interval of checks, for stores without change notifications.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of concurrent checks; more would only lengthen the queue of Redis.
const MAX_CONCURRENT_CHECKS: usize = 64;

/// Runs up to [`MAX_CONCURRENT_CHECKS`] checks. Stale sessions come first, even before the rest of
/// a sweep. A hanging check runs until the store's deadline, which reports the failure, and no
/// session has two checks in a sweep. `before_sweep` closes connections that need no check.
pub(crate) async fn run_checks<Check: Future<Output = SessionKey>>(
    registry: &ConnectionRegistry,
    now: impl Fn() -> UnixMillis,
    before_sweep: impl Fn(),
    check: impl Fn(SessionKey) -> Check,
) {
    let mut queue = CheckQueue::default();
    let mut checks = FuturesUnordered::new();
    let mut tick = interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                before_sweep();
                let clock = Instant::now();
                let before = clock.checked_sub(CHECK_INTERVAL).unwrap_or(clock);
                queue.round = registry.due_for_check(now(), before).into();
            }
            Some(key) = checks.next() => { queue.in_progress.remove(&key); }
            () = registry.stale_queued() => {}
        }
        // Before the checks start, so that their commands count as sent after a stall.
        registry.heartbeat(Instant::now(), now());
        while checks.len() < MAX_CONCURRENT_CHECKS
            && let Some(key) = queue.next(registry)
        {
            queue.in_progress.insert(key);
            checks.push(check(key));
        }
    }
}

#[derive(Default)]
struct CheckQueue {
    /// Sessions of the last sweep without a check.
    round: VecDeque<SessionKey>,
    /// Sessions with a check in progress.
    in_progress: HashSet<SessionKey>,
}

impl CheckQueue {
    fn next(&mut self, registry: &ConnectionRegistry) -> Option<SessionKey> {
        // Also during a check: its response may precede the change.
        registry.next_stale().or_else(|| {
            std::iter::from_fn(|| self.round.pop_front())
                .find(|key| !self.in_progress.contains(key))
        })
    }
}

#[cfg(test)]
mod tests;
