//! Verifies loaded sessions against the cache, to detect a store that went back in time.
//!
//! An attacker with write access to the store can restore an old record or cutoff, or remove a
//! tombstone. A failover that loses writes has the same effect. Both are handled alike and log no
//! one out: the newest cached copy applies and is written again, ended sessions remain ended, and
//! cutoffs never move back. Each case is reported.
//!
//! The cache covers the sessions of this gateway's own requests since its start. Elsewhere the
//! owner's next request reveals an old record, because its token is newer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::clock::UnixMillis;
use crate::secret::KeyRing;
use crate::secret::seal::OpenError;
use crate::session::record::RecordError;
use crate::session::{EndReason, Record, RevocationCutoff, SessionKey};
use crate::store::{CommitOutcome, Loaded, Slot, Store, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::session_cache::{CacheEntry, CachedRecord};
use super::shared::Shared;

/// Maximum clock difference between gateways. A later activity time is not trusted.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(2);

/// A session after verification.
pub(crate) struct VerifiedSession {
    /// Revision in the store, for the next compare-and-swap.
    pub(crate) revision: u64,
    pub(crate) record: Arc<Record>,
    pub(crate) touched: UnixMillis,
    pub(crate) user_cutoff: RevocationCutoff,
    /// The store has an older copy, so the record must be written.
    pub(crate) needs_restore: bool,
}

/// The store of one worker, with verification of loaded sessions.
#[derive(Clone)]
pub(crate) struct VerifiedStore {
    pub(crate) raw: Store,
    pub(crate) shared: Arc<Shared>,
}

/// Reason for a session that is not live.
pub(crate) enum LoadError {
    /// The store has no such session.
    Missing,
    Ended(EndReason),
    /// The record cannot be decrypted or decoded.
    Undecryptable,
    Unavailable(Unavailable),
}

impl VerifiedStore {
    pub(crate) fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }

    /// Limits a sequence of store commands to the store's deadline. Each command has a deadline of
    /// its own and may wait for others. After a timeout the commands may still have taken effect.
    pub(crate) async fn with_deadline<T, E: From<Unavailable>>(
        &self,
        operation: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> Result<T, E> {
        let Some(deadline) = self.raw.request_deadline() else { return operation.await };
        let result = Box::pin(timeout(deadline, operation)).await;
        result.unwrap_or_else(|_| {
            let millis = deadline.as_millis();
            let error =
                Unavailable(format!("the store did not complete the operation within {millis} ms"));
            self.shared.outage.record_failure(&error);
            Err(error.into())
        })
    }

    /// Records a failed command.
    pub(super) fn track_errors<T>(&self, result: Result<T, Unavailable>) -> Result<T, Unavailable> {
        result.inspect_err(|error| self.shared.outage.record_failure(error))
    }

    /// Loads a session, again if the result may precede a write of another worker.
    pub(crate) async fn load_latest(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let loaded = self.raw.load(key).await?;
        self.reload_if_outdated(key, loaded).await
    }

    /// Loads again if the result may precede a write of another worker.
    pub(crate) async fn reload_if_outdated(
        &self,
        key: &SessionKey,
        loaded: Loaded,
    ) -> Result<Loaded, Unavailable> {
        if self.shared.cache.is_newer_than(key, &loaded, self.now()) {
            return self.raw.load(key).await;
        }
        Ok(loaded)
    }

    /// Verifies a loaded session. `requested_at` is a time before the load: an end requested since
    /// then prevents the confirmation.
    pub(crate) fn verify(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        loaded: Loaded,
        requested_at: Instant,
    ) -> Result<VerifiedSession, LoadError> {
        let Loaded { slot, touched, user_cutoff } = loaded;
        let user_cutoff = self.verified_cutoff(key, user_cutoff);
        let (revision, bytes) = match slot {
            Slot::Absent => return Err(self.missing(key)),
            Slot::Ended { reason, .. } => {
                self.cache_end(key, reason);
                return Err(LoadError::Ended(reason));
            }
            Slot::Live { revision, sealed } => (revision, sealed),
        };
        let (cached, needs_restore) = match self.shared.cache.get(key) {
            Some(CacheEntry::Ended { reason, until }) => {
                return Err(self.restore_end(key, reason, until));
            }
            Some(CacheEntry::Live(cached)) if cached.is_same(revision, &bytes) => (cached, false),
            Some(CacheEntry::Live(cached)) => {
                let record = self.open_record(keys, key, &bytes)?;
                if revision < cached.revision || record.is_older_than(&cached.record) {
                    self.emit_once(SessionEvent::RolledBack, key, &cached);
                    (cached, true)
                } else {
                    (self.shared.cache.insert(key, revision, bytes, record), false)
                }
            }
            None => {
                let record = self.open_record(keys, key, &bytes)?;
                (self.shared.cache.insert(key, revision, bytes, record), false)
            }
        };
        let touched = self.clamp_touch(key, &cached, touched);
        self.shared.cache.confirm(&cached, requested_at, self.now(), touched);
        Ok(VerifiedSession {
            revision,
            record: Arc::clone(&cached.record),
            touched,
            user_cutoff,
            needs_restore,
        })
    }

    /// Verifies a session that is unchanged since the last load, as most are; `None` in any other
    /// case.
    pub(crate) fn verify_unchanged(
        &self,
        key: &SessionKey,
        loaded: &Loaded,
        requested_at: Instant,
        now: UnixMillis,
    ) -> Option<VerifiedSession> {
        let Loaded { slot: Slot::Live { revision, sealed }, touched, user_cutoff } = loaded else {
            return None;
        };
        let (revision, touched, user_cutoff) = (*revision, *touched, *user_cutoff);
        let cache = &self.shared.cache;
        let cached = cache.get_unchanged(key, revision, sealed)?;
        if cache.cutoff(&key.tag) != user_cutoff || touched > now.plus(MAX_CLOCK_SKEW) {
            return None;
        }
        cache.confirm(&cached, requested_at, now, touched);
        let record = Arc::clone(&cached.record);
        Some(VerifiedSession { revision, record, touched, user_cutoff, needs_restore: false })
    }

    /// Loads a session that has not ended.
    pub(super) async fn load_live(
        &self,
        key: &SessionKey,
    ) -> Result<Option<VerifiedSession>, Unavailable> {
        let requested_at = Instant::now();
        let loaded = self.track_errors(self.load_latest(key).await)?;
        match self.verify(&self.shared.keys.load_full(), key, loaded, requested_at) {
            Ok(verified) => Ok(Some(verified)),
            Err(LoadError::Unavailable(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Tries once to write a record; false if the swap was lost. The written record is cached for
    /// store outages.
    pub(crate) async fn write_record(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        revision: u64,
        new: &Record,
    ) -> Result<bool, Unavailable> {
        let (sealed, requested_at) = (new.seal(keys, key), Instant::now());
        let commit = self.raw.commit(key, revision, &sealed, new.absolute_end).await?;
        if commit != CommitOutcome::Swapped {
            return Ok(false);
        }
        let (cache, record) = (&self.shared.cache, Arc::new(new.clone()));
        let cached = cache.insert(key, revision.saturating_add(1), sealed.into(), record);
        cache.confirm(&cached, requested_at, self.now(), cached.touched());
        // Reauthentication creates another session, so these connections must end.
        if new.reauth_required {
            self.shared.connections.session_ended(key);
        }
        Ok(true)
    }

    fn open_record(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        bytes: &[u8],
    ) -> Result<Arc<Record>, LoadError> {
        let record = Record::open(keys, key, bytes);
        record.map(Arc::new).map_err(|error| self.open_failed(key, error))
    }

    /// Maps a record that cannot be opened. A missing key is this gateway's fault, so the session
    /// is kept.
    fn open_failed(&self, key: &SessionKey, error: RecordError) -> LoadError {
        match error {
            RecordError::Open(OpenError::UnknownKey) => {
                // The cached record is older than this one.
                self.shared.cache.remove(key);
                let text = "a record is sealed with a key that this gateway's keys file lacks; copy the newest keys file here";
                self.shared.metrics.store_error();
                LoadError::Unavailable(Unavailable(text.to_owned()))
            }
            RecordError::Newer(_) => {
                self.shared.cache.remove(key);
                self.shared.metrics.store_error();
                LoadError::Unavailable(Unavailable(error.to_string()))
            }
            RecordError::Open(OpenError::Malformed | OpenError::Forged)
            | RecordError::Format
            | RecordError::User => {
                let context = EventContext { session: Some(key.id), ..EventContext::default() };
                self.shared.emit(SessionEvent::Undecryptable, context);
                LoadError::Undecryptable
            }
        }
    }

    /// Handles a missing record. If the cache has one with time left, the store lost it.
    fn missing(&self, key: &SessionKey) -> LoadError {
        let cached = self.shared.cache.get(key);
        match cached {
            None => LoadError::Missing,
            Some(CacheEntry::Ended { reason, until }) if self.now() < until => {
                self.restore_end(key, reason, until)
            }
            Some(CacheEntry::Ended { reason, .. }) => LoadError::Ended(reason),
            Some(CacheEntry::Live(cached)) => {
                if self.now() < cached.record.absolute_end {
                    self.emit_once(SessionEvent::RolledBack, key, &cached);
                }
                LoadError::Missing
            }
        }
    }

    /// Writes the tombstone of an ended session again.
    fn restore_end(&self, key: &SessionKey, reason: EndReason, until: UnixMillis) -> LoadError {
        let context = EventContext { session: Some(key.id), ..EventContext::default() };
        self.shared.emit(SessionEvent::RolledBack, context);
        let (store, key) = (self.clone(), *key);
        tokio::spawn(async move {
            // After a failure the next request retries.
            let ended = store.raw.end(&key, reason, store.now(), until).await;
            if ended.is_err() {
                store.shared.metrics.store_error();
            }
        });
        LoadError::Ended(reason)
    }

    /// Caches an end for as long as the session could have lived.
    fn cache_end(&self, key: &SessionKey, reason: EndReason) {
        let until = match self.shared.cache.get(key) {
            Some(CacheEntry::Live(cached)) => cached.record.absolute_end,
            Some(CacheEntry::Ended { .. }) => return,
            None => self.now().plus(self.shared.policy.absolute()),
        };
        self.shared.cache.insert_end(key, reason, until);
    }

    /// Returns the later of the stored and the cached cutoff. A rollback is reported for each
    /// request, because it concerns that request.
    fn verified_cutoff(&self, key: &SessionKey, cutoff: RevocationCutoff) -> RevocationCutoff {
        let cached = self.shared.cache.cutoff(&key.tag);
        if cached.at > cutoff.at {
            let context = EventContext { session: Some(key.id), ..EventContext::default() };
            self.shared.emit(SessionEvent::RolledBack, context);
            return cached.later(cutoff);
        }
        if cutoff.at.0 > 0 {
            self.shared.cache.observe_cutoff(&key.tag, cutoff);
        }
        cutoff
    }

    /// Limits a future activity time to now. Otherwise it would prevent the idle timeout.
    fn clamp_touch(
        &self,
        key: &SessionKey,
        cached: &CachedRecord,
        touched: UnixMillis,
    ) -> UnixMillis {
        let now = self.now();
        if touched <= now.plus(MAX_CLOCK_SKEW) {
            return touched;
        }
        self.emit_once(SessionEvent::ActivityInFuture, key, cached);
        now
    }

    /// Emits an event once for each copy of a record.
    fn emit_once(&self, event: SessionEvent, key: &SessionKey, cached: &CachedRecord) {
        if cached.mark_reported() {
            let user = &cached.record.identity.user;
            self.shared.emit(
                event,
                EventContext { user, session: Some(key.id), ..EventContext::default() },
            );
        }
    }
}

#[cfg(test)]
mod tests;
