//! The validity cache: sessions from Redis that this gateway may use without another load.
//!
//! A hot session costs no round trip. Revocation is still prompt, because Redis pushes every change
//! ([`super::invalidation`]). Invariants:
//! - the cache returns nothing when the last freshness confirmation is three seconds old or older,
//!   whatever stopped: the connection, Redis, this process or the machine
//! - a response from before a change is never cached, whichever of the two arrives first
//!   ([`shard`])
//! - a lost connection, an emptied store or a topology change flushes everything at once
//! - a user's sessions and cutoff are under one lock
//!
//! A cached session may only *admit*. Rejecting, ending or writing requires a load.

mod combined_freshness;
mod freshness;
mod shard;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

pub(super) use self::combined_freshness::{CombinedFreshness, PrimaryFreshness};
pub(super) use self::freshness::{DualClock, DualInstant, Freshness};
use self::shard::{CacheShard, FillToken};

use super::types::{Loaded, StoreChange};
use crate::clock::UnixMillis;
use crate::session::{SessionKey, UserTag};

const SHARDS: usize = 64;
/// Approximate size limit of the whole cache in bytes.
const MAX_CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// The cache, shared by all workers of this process.
pub(super) struct ValidityCache {
    shards: Vec<Mutex<CacheShard>>,
    /// Incremented by a flush. Values of an older generation are ignored.
    generation: AtomicU64,
    next_fill_id: AtomicU64,
    freshness: Arc<Freshness>,
    clock: Arc<DualClock>,
    flush_counts: [AtomicU64; FlushCause::ALL.len()],
}

/// A load in progress, to be passed back with its response.
pub(super) struct PendingFill(Option<FillToken>);

/// Cause of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushCause {
    /// A new connection: earlier changes were missed.
    Connected,
    /// The connection broke or timed out.
    ConnectionLost,
    /// The store was emptied, or a push could not be parsed.
    StoreEmptied,
    /// The global cutoff moved.
    GlobalCutoff,
}

impl FlushCause {
    /// All causes.
    pub const ALL: [FlushCause; 4] = [
        FlushCause::Connected,
        FlushCause::ConnectionLost,
        FlushCause::StoreEmptied,
        FlushCause::GlobalCutoff,
    ];

    /// Returns the label for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            FlushCause::Connected => "connected",
            FlushCause::ConnectionLost => "lost",
            FlushCause::StoreEmptied => "emptied",
            FlushCause::GlobalCutoff => "everyone",
        }
    }
}

/// Counters and gauges since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    pub entries: usize,
    pub bytes: u64,
    /// Flushes by cause, in the order of [`FlushCause::ALL`].
    pub flushes: [u64; FlushCause::ALL.len()],
}

impl ValidityCache {
    pub(super) fn new(freshness: Arc<Freshness>, clock: Arc<DualClock>) -> ValidityCache {
        let bytes = MAX_CACHE_BYTES / SHARDS as u64;
        ValidityCache {
            shards: std::iter::repeat_with(|| Mutex::new(CacheShard::new(bytes)))
                .take(SHARDS)
                .collect(),
            generation: AtomicU64::new(0),
            next_fill_id: AtomicU64::new(0),
            freshness,
            clock,
            flush_counts: Default::default(),
        }
    }

    /// Returns a cached session, if it is fresh.
    pub(super) fn get(&self, key: &SessionKey) -> Option<Loaded> {
        let now = self.clock.now();
        let mut shard = self.shard(&key.tag)?;
        if !self.freshness.is_fresh(now) {
            shard.misses += 1;
            return None;
        }
        shard.get(key, self.generation.load(Ordering::Acquire), now.monotonic)
    }

    /// Starts a fill. Call it before the load is sent.
    pub(super) fn start_fill(&self, key: &SessionKey) -> PendingFill {
        let now = self.clock.now();
        if !self.freshness.is_fresh(now) {
            return PendingFill(None);
        }
        let id = self.next_fill_id.fetch_add(1, Ordering::Relaxed);
        let token = FillToken {
            id,
            generation: self.generation.load(Ordering::Acquire),
            started: now.monotonic,
        };
        self.with_shard(&key.tag, |shard| shard.start_fill(key, token));
        PendingFill(Some(token))
    }

    /// Completes a fill with the response.
    pub(super) fn complete_fill(&self, key: &SessionKey, pending: &PendingFill, loaded: &Loaded) {
        // A value of an older generation is stored but never returned.
        if let Some(token) = pending.0 {
            self.with_shard(&key.tag, |shard| shard.complete_fill(key, token, loaded));
        }
    }

    /// Updates the touch after the store recorded it.
    pub(super) fn update_touch(&self, key: &SessionKey, at: UnixMillis) {
        self.with_shard(&key.tag, |shard| shard.update_touch(key, at));
    }

    /// Removes what a change affects.
    pub(super) fn invalidate(&self, change: StoreChange) {
        match change {
            StoreChange::Session(key) => self.with_shard(&key.tag, |shard| shard.invalidate(&key)),
            StoreChange::UserCutoff(tag) => {
                self.with_shard(&tag, |shard| shard.invalidate_cutoff(&tag))
            }
            // All sessions must be loaded again. The cutoff itself is kept elsewhere.
            StoreChange::GlobalCutoff => self.flush(FlushCause::GlobalCutoff),
            StoreChange::Everything => self.flush(FlushCause::StoreEmptied),
        }
    }

    /// Flushes everything, including fills in progress.
    pub(super) fn flush(&self, cause: FlushCause) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let index = FlushCause::ALL.iter().position(|other| *other == cause);
        if let Some(count) = index.and_then(|index| self.flush_counts.get(index)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        let mut figures = CacheStats {
            flushes: std::array::from_fn(|at| {
                self.flush_counts.get(at).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            ..CacheStats::default()
        };
        for shard in self.shards.iter().map(Mutex::lock) {
            figures.hits += shard.hits;
            figures.misses += shard.misses;
            figures.entries += shard.entries();
            figures.bytes += shard.bytes();
        }
        figures
    }

    fn with_shard(&self, tag: &UserTag, action: impl FnOnce(&mut CacheShard)) {
        if let Some(mut shard) = self.shard(tag) {
            action(&mut shard);
        }
    }

    fn shard(&self, tag: &UserTag) -> Option<MutexGuard<'_, CacheShard>> {
        self.shards.get(usize::from(tag.0[0]) % SHARDS).map(Mutex::lock)
    }
}
