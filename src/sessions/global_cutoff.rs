//! The operator's revocation cutoff for all sessions.
//!
//! It has a key of its own in the store, so loading a session does not load it. Invariant: no
//! request is admitted with a cutoff that was never read, or was read longer ago than [`MAX_AGE`].
//! Otherwise a gateway after a start, a pause or a partial outage would readmit revoked sessions.
//! Without a fresh cutoff it responds with 503.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};

use crate::clock::UnixMillis;
use crate::session::RevocationCutoff;

/// Maximum age of the cutoff, and so the maximum delay of a global revocation.
const MAX_AGE: Duration = Duration::from_secs(3);

/// The cutoff, and the time of its last read.
pub(crate) struct GlobalCutoff {
    at: AtomicU64,
    /// Milliseconds since `start` plus one; zero if never read.
    read_elapsed: AtomicU64,
    /// Wall-clock time of the read: the monotonic clock stops while a machine sleeps.
    read_wall: AtomicU64,
    start: Instant,
    /// Serializes reads, so that concurrent requests share one.
    pub(super) refreshing: Mutex<()>,
    /// Wakes the refresh loop when another gateway may have advanced the cutoff.
    pub(super) invalidated: Notify,
}

impl GlobalCutoff {
    pub(super) fn new() -> GlobalCutoff {
        GlobalCutoff {
            at: AtomicU64::new(0),
            read_elapsed: AtomicU64::new(0),
            read_wall: AtomicU64::new(0),
            start: Instant::now(),
            refreshing: Mutex::new(()),
            invalidated: Notify::new(),
        }
    }

    /// Returns the cutoff as last read.
    pub(crate) fn get(&self) -> RevocationCutoff {
        RevocationCutoff { at: UnixMillis(self.at.load(Ordering::Acquire)), except: None }
    }

    /// Advances the cutoff. Returns whether it changed.
    pub(super) fn advance(&self, at: UnixMillis) -> bool {
        self.at.fetch_max(at.0, Ordering::AcqRel) < at.0
    }

    /// Requests a read, because another gateway may have advanced the cutoff.
    pub(super) fn invalidate(&self) {
        self.invalidated.notify_one();
    }

    pub(super) fn is_fresh(&self, at: Instant, now: UnixMillis) -> bool {
        let read = self.read_elapsed.load(Ordering::Acquire);
        let age = self.elapsed_millis(at).saturating_sub(read);
        let read_wall = UnixMillis(self.read_wall.load(Ordering::Acquire));
        read > 0 && Duration::from_millis(age) < MAX_AGE && now.since(read_wall) < MAX_AGE
    }

    pub(super) fn mark_read(&self, elapsed_millis: u64, now: UnixMillis) {
        self.read_wall.store(now.0, Ordering::Release);
        self.read_elapsed.store(elapsed_millis, Ordering::Release);
    }

    pub(super) fn elapsed_millis(&self, at: Instant) -> u64 {
        let elapsed_millis = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed_millis).unwrap_or(u64::MAX).saturating_add(1)
    }
}
