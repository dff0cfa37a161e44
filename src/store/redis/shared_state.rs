//! The state that a process keeps in addition to Redis.
//!
//! - the [session cache](crate::store::cache) avoids repeated loads
//! - the [revocation log](crate::store::revocation_log) protects against a rollback of Redis
//! - the [invalidation](crate::store::invalidation) receives changes from Redis

use std::sync::Arc;

use tokio::sync::{Notify, broadcast};

use crate::store::cache::SessionCache;
use crate::store::revocation_log::RevocationLog;
use crate::store::types::StoreChange;

/// Capacity of the change channel. A receiver that lags must recheck everything.
const CHANGE_CHANNEL_CAPACITY: usize = 4_096;

/// State that all workers of this process share.
pub(in crate::store) struct SharedState {
    pub(in crate::store) cache: Arc<SessionCache>,
    pub(in crate::store) revocation_log: RevocationLog,
    /// Notified when Redis may have rolled back, so the revocation log must be restored.
    pub(in crate::store) rollback_suspected: Notify,
    changes: broadcast::Sender<StoreChange>,
}

impl SharedState {
    pub(super) fn new(has_cache: bool) -> SharedState {
        SharedState {
            cache: Arc::new(SessionCache::new(has_cache)),
            revocation_log: RevocationLog::default(),
            rollback_suspected: Notify::new(),
            changes: broadcast::Sender::new(CHANGE_CHANNEL_CAPACITY),
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<StoreChange> {
        self.changes.subscribe()
    }

    /// Removes the proofs that the change concerns and notifies subscribers.
    pub(in crate::store) fn invalidate(&self, change: StoreChange) {
        self.cache.invalidate(change);
        self.notify(change);
    }

    /// Notifies subscribers, if there are any.
    pub(in crate::store) fn notify(&self, change: StoreChange) {
        self.changes.send(change).unwrap_or_default();
    }
}

/// Guard of a local write in progress. On drop, also when the request was cancelled, it removes the
/// proof: the push from Redis arrives after the response.
pub(super) struct InvalidateOnDrop<'a> {
    shared: &'a SharedState,
    change: Option<StoreChange>,
}

impl<'a> InvalidateOnDrop<'a> {
    pub(super) fn new(shared: &'a SharedState, change: StoreChange) -> InvalidateOnDrop<'a> {
        InvalidateOnDrop { shared, change: Some(change) }
    }

    /// Keeps the proof.
    pub(super) fn disarm(mut self) {
        self.change = None;
    }
}

impl Drop for InvalidateOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(change) = self.change {
            self.shared.cache.invalidate(change);
        }
    }
}
