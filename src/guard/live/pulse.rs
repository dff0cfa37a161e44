//! Whether this process ran all the time: one that was stopped, or starved of its core, has missed what
//! happened meanwhile.
//!
//! Invariant: what a session's connections passed on after a stop came after a look at that session which
//! began after the stop. That others were looked at, or that a look was tried in vain, is no look at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;

/// Longer than two beats are apart on a machine that is only busy.
pub(super) const STILL: Duration = Duration::from_millis(1_500);

/// For how long after a stop what lay unread meanwhile may still be read.
const BACKLOG: Duration = Duration::from_secs(2);

/// A beat in a while, by who looks after live connections.
pub(super) struct Pulse {
    start: Instant,
    /// The last beat, and the first one after the last stop, in milliseconds after the start.
    beat: AtomicU64,
    resumed: AtomicU64,
    /// What the clock showed at the last beat, and at the last one before the last stop. Zero before there
    /// was any.
    shown: AtomicU64,
    stopped: AtomicU64,
}

/// When the store was last asked about a session that it vouched for; its connections read it.
#[derive(Clone, Default)]
pub(super) struct Looked(Arc<AtomicU64>);

impl Pulse {
    pub(super) fn new(start: Instant) -> Pulse {
        let [beat, resumed, shown, stopped] = std::array::from_fn(|_| AtomicU64::new(0));
        Pulse { start, beat, resumed, shown, stopped }
    }

    #[cfg(test)]
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn beat(&self, now: Instant, shown: UnixMillis) {
        let now = self.running(now);
        if is_long(self.beat.load(Ordering::Acquire), now) {
            // Before the beat: who sees that one sees these.
            self.stopped.store(self.shown.load(Ordering::Acquire), Ordering::Release);
            self.resumed.store(now, Ordering::Release);
        }
        self.shown.store(shown.0, Ordering::Release);
        self.beat.fetch_max(now, Ordering::AcqRel);
    }

    /// Since when what is read now may have lain unread; nothing where this process ran all the time.
    pub(super) fn unread_since(&self, now: Instant) -> Option<UnixMillis> {
        let (now, beat) = (self.running(now), self.beat.load(Ordering::Acquire));
        let resumed = self.resumed.load(Ordering::Acquire);
        let since = if is_long(beat, now) {
            self.shown.load(Ordering::Acquire)
        } else if resumed > 0 && Duration::from_millis(now.saturating_sub(resumed)) < BACKLOG {
            self.stopped.load(Ordering::Acquire)
        } else {
            0
        };
        (since > 0).then_some(UnixMillis(since))
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
