//! Verifies loaded sessions against the cache, to detect a rollback of the store.
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
use std::time::Instant;

use bytes::Bytes;
use tokio::time::timeout;

use crate::clock::UnixMillis;
use crate::secret::KeyRing;
use crate::secret::seal::OpenError;
use crate::session::record::RecordError;
use crate::session::{
    EndReason, Record, RevocationCutoff, SessionDeadlines, SessionFacts, SessionKey,
};
use crate::store::{
    CachedRecord, CommitOutcome, DualInstant, Loaded, MAX_CLOCK_SKEW, PendingLoad, SessionState,
    Slot, Store, Unavailable, VerifiedSession,
};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::settings::SessionSettings;
use super::shared::Shared;

/// The store of one worker, with verification of loaded sessions.
#[derive(Clone)]
pub(crate) struct VerifiedStore {
    pub(crate) raw: Store,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<SessionSettings>,
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

    /// Returns the current time by both clocks.
    pub(crate) fn instant(&self) -> DualInstant {
        DualInstant::new(Instant::now(), self.now())
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

    /// Loads a session. `at` is a time before the call.
    pub(crate) async fn load_at(
        &self,
        key: &SessionKey,
        at: DualInstant,
    ) -> Result<(PendingLoad, Loaded), Unavailable> {
        let load = self.shared.cache.start_load(key, at);
        Ok((load, self.raw.load(key).await?))
    }

    /// Returns a session that needs no waiting: from a local store if the cache has the same record, or from the
    /// cache if it is proven current. `at` is a time before the call.
    pub(crate) fn verified_now(
        &self,
        key: &SessionKey,
        at: DualInstant,
    ) -> Option<VerifiedSession> {
        let cache = &self.shared.cache;
        let load = || cache.start_load(key, at);
        match self.raw.load_local(key, load) {
            Some((load, loaded)) => cache.confirm_unchanged(key, &load, &loaded),
            None => cache.lookup(key, at),
        }
    }

    /// Loads a session, again if the result may precede a write of another worker.
    pub(crate) async fn load_latest(
        &self,
        key: &SessionKey,
    ) -> Result<(PendingLoad, Loaded), Unavailable> {
        let (load, loaded) = self.load_at(key, self.instant()).await?;
        self.reload_if_outdated(key, load, loaded).await
    }

    /// Loads again if the result may precede a write of another worker.
    pub(crate) async fn reload_if_outdated(
        &self,
        key: &SessionKey,
        load: PendingLoad,
        loaded: Loaded,
    ) -> Result<(PendingLoad, Loaded), Unavailable> {
        match self.shared.cache.is_newer_than(key, &loaded, self.now()) {
            true => self.load_at(key, self.instant()).await,
            false => Ok((load, loaded)),
        }
    }

    /// Verifies a loaded session: compares it with the newest state seen, and caches it.
    pub(crate) fn verify(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        load: &PendingLoad,
        loaded: Loaded,
    ) -> Result<VerifiedSession, LoadError> {
        let Loaded { slot, touched, user_cutoff } = loaded;
        let user_cutoff = self.verified_cutoff(key, load, user_cutoff);
        let (revision, sealed) = match slot {
            Slot::Absent => return Err(self.missing(key)),
            Slot::Ended { reason, .. } => {
                self.cache_end(key, reason);
                return Err(LoadError::Ended(reason));
            }
            Slot::Live { revision, sealed } => (revision, sealed),
        };
        let (cached, needs_restore) = self.newer_record(keys, key, revision, sealed)?;
        let (record, trusted) = (Arc::clone(&cached.record), self.clamp_touch(touched));
        if needs_restore {
            self.shared.cache.keep_newer(key, load, trusted);
            self.emit_once(SessionEvent::RolledBack, key, &record);
        } else {
            self.shared.cache.insert_loaded(key, load, cached, trusted);
        }
        if trusted < touched {
            self.emit_once(SessionEvent::ActivityInFuture, key, &record);
        }
        Ok(VerifiedSession { revision, record, touched: trusted, user_cutoff, needs_restore })
    }

    /// Returns the newer of the loaded and the cached record, and whether the store has the older
    /// one.
    fn newer_record(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        revision: u64,
        sealed: Bytes,
    ) -> Result<(CachedRecord, bool), LoadError> {
        let cached = match self.shared.cache.get(key) {
            SessionState::Ended { reason, until } => {
                return Err(self.restore_end(key, reason, until));
            }
            SessionState::Live(cached) if cached.is_same(revision, &sealed) => {
                return Ok((cached, false));
            }
            SessionState::Live(cached) => Some(cached),
            SessionState::Unknown => None,
        };
        let record = Record::open(keys, key, &sealed);
        let record = record.map(Arc::new).map_err(|error| self.open_failed(key, error))?;
        let is_newer = |cached: &CachedRecord| {
            revision < cached.revision || record.is_older_than(&cached.record)
        };
        if let Some(cached) = cached.filter(is_newer) {
            return Ok((cached, true));
        }
        self.shared.expiry_watch.watch(key, &record, UnixMillis(0), &self.settings.policy);
        Ok((CachedRecord { revision, sealed, record }, false))
    }

    /// Returns whether the session is revoked or expired at `now`.
    pub(super) fn is_record_expired(
        &self,
        key: &SessionKey,
        record: &Record,
        facts: &SessionFacts,
        now: UnixMillis,
    ) -> bool {
        let facts = SessionFacts { global_cutoff: self.shared.cache.global_cutoff(), ..*facts };
        let deadlines = SessionDeadlines::new(key.id, record, &facts, &self.settings.policy);
        deadlines.expiry(now).is_some() || self.shared.current_identity(record).is_err()
    }

    /// Loads a session that has not ended.
    pub(super) async fn load_live(
        &self,
        key: &SessionKey,
    ) -> Result<Option<VerifiedSession>, Unavailable> {
        let (load, loaded) = self.track_errors(self.load_latest(key).await)?;
        match self.verify(&self.shared.keys.load_full(), key, &load, loaded) {
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
        let (sealed, requested_at) = (new.seal(keys, key), self.instant());
        let commit = self.raw.commit(key, revision, &sealed, new.absolute_end).await?;
        if commit != CommitOutcome::Swapped {
            return Ok(false);
        }
        let (revision, record) = (revision.saturating_add(1), Arc::new(new.clone()));
        let written = CachedRecord { revision, sealed: sealed.into(), record };
        self.shared.cache.insert_written(key, written, requested_at);
        // Reauthentication creates another session, so these connections must end.
        if new.reauth_required {
            self.shared.connections.session_ended(key);
        }
        Ok(true)
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
        self.shared.cache.remove_proof(key);
        match self.shared.cache.get(key) {
            SessionState::Unknown => LoadError::Missing,
            SessionState::Ended { reason, until } if self.now() < until => {
                self.restore_end(key, reason, until)
            }
            SessionState::Ended { reason, .. } => LoadError::Ended(reason),
            SessionState::Live(cached) => {
                if self.now() < cached.record.absolute_end {
                    self.emit_once(SessionEvent::RolledBack, key, &cached.record);
                }
                LoadError::Missing
            }
        }
    }

    /// Writes the tombstone of an ended session again.
    fn restore_end(&self, key: &SessionKey, reason: EndReason, until: UnixMillis) -> LoadError {
        if self.shared.pending_ends.concerns(key) {
            return LoadError::Ended(reason);
        }
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
        let until = match self.shared.cache.live(key) {
            Some(cached) => cached.record.absolute_end,
            None => self.now().plus(self.settings.policy.absolute()),
        };
        self.shared.cache.insert_end(key, reason, until);
    }

    /// Returns the later of the stored and the cached cutoff. A rollback is reported for each
    /// request, because it concerns that request.
    fn verified_cutoff(
        &self,
        key: &SessionKey,
        load: &PendingLoad,
        cutoff: RevocationCutoff,
    ) -> RevocationCutoff {
        let latest = self.shared.cache.insert_loaded_cutoff(&key.tag, load, cutoff);
        if latest != cutoff && !self.shared.pending_ends.concerns(key) {
            let context = EventContext { session: Some(key.id), ..EventContext::default() };
            self.shared.emit(SessionEvent::RolledBack, context);
        }
        latest
    }

    /// Limits a future activity time to now. Otherwise it would prevent the idle timeout.
    fn clamp_touch(&self, touched: UnixMillis) -> UnixMillis {
        let now = self.now();
        if touched > now.plus(MAX_CLOCK_SKEW) { now } else { touched }
    }

    /// Emits an event once for each copy of a record.
    fn emit_once(&self, event: SessionEvent, key: &SessionKey, record: &Record) {
        if self.shared.cache.mark_reported(key) {
            let user = &record.identity.user;
            self.shared.emit(
                event,
                EventContext { user, session: Some(key.id), ..EventContext::default() },
            );
        }
    }
}

#[cfg(test)]
mod tests;
