//! The store of several gateways: Redis, and the state that this process keeps in addition.
//!
//! - the [validity cache](super::cache) avoids repeated loads
//! - the [revocation log](super::revocation_log) protects against a rollback of Redis
//! - the [invalidation](super::invalidation) receives changes from Redis
//!
//! Invariant: when a write returns, with any result, no cached value from before it remains. A
//! failed write may have been applied.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, broadcast};

use super::cache::{CacheStats, DualClock, Freshness, ValidityCache};
use super::redis::{Advice, RedisSessions, RedisSettings};
use super::revocation_log::{Revocation, RevocationLog};
use super::{
    CommitOutcome, Durability, Loaded, OpenError, SessionListing, StoreChange, Unavailable,
    invalidation,
};
use crate::clock::UnixMillis;
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

/// Capacity of the change channel. A receiver that lags must recheck everything.
const CHANGE_CHANNEL_CAPACITY: usize = 4_096;

/// Redis and the process-local state. Clones share a connection; each worker has its own.
#[derive(Clone)]
pub struct RedisStore {
    redis: RedisSessions,
    shared: Arc<SharedState>,
}

/// State that all workers of this process share.
pub(super) struct SharedState {
    pub(super) cache: Option<ValidityCache>,
    pub(super) revocation_log: RevocationLog,
    pub(super) freshness: Arc<Freshness>,
    pub(super) clock: Arc<DualClock>,
    /// Notified when Redis may have rolled back, so the revocation log must be restored.
    pub(super) rollback_suspected: Notify,
    changes: broadcast::Sender<StoreChange>,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.redis.fmt(f)
    }
}

impl RedisStore {
    pub(super) fn new(settings: &RedisSettings) -> Result<RedisStore, OpenError> {
        let (freshness, clock) = (Arc::new(Freshness::default()), Arc::new(DualClock::start()));
        let cache = settings
            .local_cache
            .then(|| ValidityCache::new(Arc::clone(&freshness), Arc::clone(&clock)));
        let shared = SharedState {
            cache,
            revocation_log: RevocationLog::default(),
            freshness: freshness,
            clock: clock,
            rollback_suspected: Notify::new(),
            changes: broadcast::Sender::new(CHANGE_CHANNEL_CAPACITY),
        };
        Ok(RedisStore { redis: RedisSessions::new(settings)?, shared: Arc::new(shared) })
    }

    pub(super) fn for_worker(&self) -> RedisStore {
        RedisStore { redis: self.redis.for_worker(), shared: Arc::clone(&self.shared) }
    }

    /// Returns a session from the cache.
    pub(super) fn cached(&self, key: &SessionKey) -> Option<Loaded> {
        self.shared.cache.as_ref()?.get(key)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<StoreChange> {
        self.shared.changes.subscribe()
    }

    pub(super) async fn run_invalidation(&self) {
        invalidation::run(self.redis.for_worker(), Arc::clone(&self.shared)).await;
    }

    pub(super) fn stats(&self) -> RedisStats {
        RedisStats {
            round_trips: self.redis.round_trips(),
            rejected: self.redis.rejected(),
            open_circuits: self.redis.open_circuits(),
            advice: Advice::ALL.map(|advice| self.redis.has_advice(advice)),
            cache: self.shared.cache.as_ref().map(ValidityCache::stats),
            staleness: self.shared.freshness.age(self.shared.clock.now()),
        }
    }

    pub(super) fn request_deadline(&self) -> Duration {
        self.redis.request_deadline()
    }

    pub(super) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let Some(cache) = &self.shared.cache else {
            return self.load_uncached(key).await;
        };
        let loading = cache.start_fill(key);
        let loaded = self.load_uncached(key).await?;
        cache.complete_fill(key, &loading, &loaded);
        Ok(loaded)
    }

    async fn load_uncached(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        Ok(self.shared.revocation_log.apply(key, self.redis.load(key).await?))
    }

    pub(super) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let _own = self.invalidate_on_drop(StoreChange::Session(*key));
        self.redis.create(key, sealed, created, retain_until).await
    }

    pub(super) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let _own = self.invalidate_on_drop(StoreChange::Session(*key));
        self.redis.commit(key, expected, sealed, retain_until).await
    }

    /// Updates the cached touch. After a failure the entry is removed instead: a cached touch must
    /// not be later than the stored one.
    pub(super) async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<(), Unavailable> {
        let guard = self.invalidate_on_drop(StoreChange::Session(*key));
        self.redis.touch(key, at, retain_until).await?;
        guard.disarm();
        if let Some(cache) = &self.shared.cache {
            cache.update_touch(key, at);
        }
        Ok(())
    }

    pub(super) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let _own = self.invalidate_on_drop(StoreChange::Session(*key));
        let durability = self.redis.end(key, reason, at, retain_until).await?;
        self.record_revocation(Revocation::Session { key: *key, reason, at, retain_until });
        Ok(durability)
    }

    pub(super) async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<(RevocationCutoff, Durability), Unavailable> {
        let _own = self.invalidate_on_drop(StoreChange::UserCutoff(*tag));
        let (cutoff, durability) = self.redis.revoke_user(tag, now, except).await?;
        self.record_revocation(Revocation::UserCutoff { tag: *tag, cutoff });
        Ok((cutoff, durability))
    }

    pub(super) async fn user_cutoff(&self, tag: &UserTag) -> Result<RevocationCutoff, Unavailable> {
        Ok(self.shared.revocation_log.user_cutoff(tag, self.redis.user_cutoff(tag).await?))
    }

    pub(super) async fn user_history(&self, tag: &UserTag) -> Result<Option<Bytes>, Unavailable> {
        self.redis.user_history(tag).await
    }

    pub(super) async fn swap_user_history(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        self.redis.swap_user_history(tag, expected, sealed, retain_until).await
    }

    pub(super) async fn revoke_all_users(
        &self,
        now: UnixMillis,
    ) -> Result<(UnixMillis, Durability), Unavailable> {
        let _own = self.invalidate_on_drop(StoreChange::GlobalCutoff);
        let (cutoff, durability) = self.redis.revoke_all_users(now).await?;
        self.record_revocation(Revocation::GlobalCutoff { cutoff });
        Ok((cutoff, durability))
    }

    pub(super) async fn restore_global_cutoff(
        &self,
        cutoff: UnixMillis,
    ) -> Result<(), Unavailable> {
        let _own = self.invalidate_on_drop(StoreChange::GlobalCutoff);
        self.redis.restore_global_cutoff(cutoff).await
    }

    pub(super) async fn global_cutoff(&self) -> Result<UnixMillis, Unavailable> {
        Ok(self.shared.revocation_log.global_cutoff(self.redis.global_cutoff().await?))
    }

    pub(super) async fn list_user(
        &self,
        tag: &UserTag,
    ) -> Result<Vec<SessionListing>, Unavailable> {
        self.redis.list_user(tag).await
    }

    pub(super) async fn list_all(&self, limit: usize) -> Result<Vec<SessionListing>, Unavailable> {
        self.redis.list_all(limit).await
    }

    pub(super) async fn find_session(
        &self,
        is_it: impl Fn(&SessionId) -> bool + Send + Sync,
    ) -> Result<Option<SessionKey>, Unavailable> {
        self.redis.find_session(is_it).await
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.redis.ping().await
    }

    pub(super) fn round_trips(&self) -> u64 {
        self.redis.round_trips()
    }

    fn record_revocation(&self, ended: Revocation) {
        self.shared.revocation_log.record(ended, Instant::now());
    }

    fn invalidate_on_drop(&self, change: StoreChange) -> InvalidateOnDrop<'_> {
        InvalidateOnDrop { shared: &self.shared, change: Some(change) }
    }
}

/// Counters and gauges of the Redis store, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisStats {
    pub round_trips: u64,
    /// Commands rejected because too many were in flight.
    pub rejected: u64,
    /// Nodes whose circuit breaker is open.
    pub open_circuits: usize,
    /// Active advice for the operator, in the order of [`Advice::ALL`].
    pub advice: [bool; Advice::ALL.len()],
    /// Cache statistics; `None` when the cache is disabled.
    pub cache: Option<CacheStats>,
    /// Time since all changes were last confirmed to have arrived; `None` if unconfirmed.
    pub staleness: Option<Duration>,
}

impl SharedState {
    /// Removes the changed entry from the cache and notifies subscribers.
    pub(super) fn invalidate(&self, change: StoreChange) {
        if let Some(cache) = &self.cache {
            cache.invalidate(change);
        }
        self.notify(change);
    }

    /// Notifies subscribers, if there are any.
    pub(super) fn notify(&self, change: StoreChange) {
        self.changes.send(change).unwrap_or_default();
    }
}

/// Guard of a local write in progress. On drop, also when the request was cancelled, it removes the
/// cached value: the push from Redis arrives after the response.
struct InvalidateOnDrop<'a> {
    shared: &'a SharedState,
    change: Option<StoreChange>,
}

impl InvalidateOnDrop<'_> {
    /// Keeps the cached value.
    fn disarm(mut self) {
        self.change = None;
    }
}

impl Drop for InvalidateOnDrop<'_> {
    fn drop(&mut self) {
        if let (Some(cache), Some(change)) = (&self.shared.cache, self.change) {
            cache.invalidate(change);
        }
    }
}
