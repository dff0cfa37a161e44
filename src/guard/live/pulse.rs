//! Whether this process ran all the time: one that was stopped, or starved of its core, has missed what
//! happened meanwhile.
//!
//! Invariant: what a session's connections passed on after a stop came after a look at that session which
//! began after the stop. That others were looked at, or that a look was tried in vain, is no look at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than two beats are apart on a machine that is only busy.
pub(super) const STILL: Duration = Duration::from_millis(1_500);

/// A beat in a while, by who looks after live connections.
pub(super) struct Pulse {
    start: Instant,
    /// The last beat, and the first one after the last stop, in milliseconds after the start.
    beat: AtomicU64,
    resumed: AtomicU64,
}

/// When the store was last asked about a session that it vouched for; its connections read it.
#[derive(Clone, Default)]
pub(super) struct Looked(Arc<AtomicU64>);

impl Pulse {
    pub(super) fn new(start: Instant) -> Pulse {
        Pulse { start, beat: AtomicU64::new(0), resumed: AtomicU64::new(0) }
    }

    #[cfg(test)]
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn beat(&self, now: Instant) {
        let now = self.running(now);
        if is_long(self.beat.load(Ordering::Acquire), now) {
            // Before the beat: who sees that one sees this.
            self.resumed.store(now, Ordering::Release);
        }
        self.beat.fetch_max(now, Ordering::AcqRel);
    }

    pub(super) fn looked(&self, looked: &Looked, asked: Instant) {
        looked.0.fetch_max(self.running(asked), Ordering::AcqRel);
    }

    /// Whether a session has yet to be looked at, since this process stood still.
    pub(super) fn has_missed(&self, looked: &Looked, now: Instant) -> bool {
        is_long(self.beat.load(Ordering::Acquire), self.running(now))
            || looked.0.load(Ordering::Acquire) < self.resumed.load(Ordering::Acquire)
    }

    fn running(&self, at: Instant) -> u64 {
        let running = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(running).unwrap_or(u64::MAX)
    }
}

fn is_long(beat: u64, now: u64) -> bool {
    Duration::from_millis(now.saturating_sub(beat)) > STILL
}
