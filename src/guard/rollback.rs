//! Verifies loaded sessions against the cache, to detect a store that went back in time.
//!
//! An attacker with write access to the store can restore an old record or cutoff, or remove a
//! tombstone. A failover that loses writes has the same effect. Both are handled alike and log no
//! one out: the newest cached copy applies and is written again, ended sessions remain ended, and
//! cutoffs never move back. Each case is reported.
//!
//! The cache covers the sessions of this gateway's own requests since its start. Elsewhere the
//! owner's next request reveals an old record, because its token is newer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::secret::KeyRing;
use crate::secret::seal::OpenError;
use crate::session::record::RecordError;
use crate::session::{EndReason, Record, RevocationCutoff, SessionKey};
use crate::store::{Loaded, Slot, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::session_cache::{CacheEntry, CachedRecord};
use super::{DenyReason, Guard};

/// Maximum clock difference between gateways. A later activity time is not trusted.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(2);

/// A session after verification.
pub(super) struct VerifiedSession {
    /// Revision in the store, for the next compare-and-swap.
    pub(super) revision: u64,
    pub(super) record: Arc<Record>,
    pub(super) touched: UnixMillis,
    pub(super) user_cutoff: RevocationCutoff,
    /// The store has an older copy, so the record must be written.
    pub(super) needs_restore: bool,
}

impl Guard {
    /// Loads a session, again if the result may precede a write of another worker.
    pub(super) async fn load_latest(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let loaded = self.store.load(key).await?;
        self.reload_if_outdated(key, loaded).await
    }

    /// Loads again if the result may precede a write of another worker.
    pub(super) async fn reload_if_outdated(
        &self,
        key: &SessionKey,
        loaded: Loaded,
    ) -> Result<Loaded, Unavailable> {
        if self.shared.cache.is_newer_than(key, &loaded, self.now()) {
            return self.store.load(key).await;
        }
        Ok(loaded)
    }

    /// Verifies a loaded session. `requested_at` is a time before the load: an end requested since then
    /// prevents the confirmation.
    pub(super) fn verify(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        loaded: Loaded,
        requested_at: Instant,
    ) -> Result<VerifiedSession, DenyReason> {
        let Loaded { slot, touched, user_cutoff } = loaded;
        let user_cutoff = self.verified_cutoff(key, user_cutoff);
        let (revision, bytes) = match slot {
            Slot::Absent => return Err(self.missing(key)),
            Slot::Ended { reason, .. } => {
                self.cache_end(key, reason);
                return Err(DenyReason::Ended(reason));
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
    pub(super) fn verify_unchanged(
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

    fn open_record(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        bytes: &[u8],
    ) -> Result<Arc<Record>, DenyReason> {
        let record = Record::open(keys, key, bytes);
        record.map(Arc::new).map_err(|error| self.open_failed(key, error))
    }

    /// Maps a record that cannot be opened. A missing key is this gateway's fault, so the session
    /// is kept.
    fn open_failed(&self, key: &SessionKey, error: RecordError) -> DenyReason {
        match error {
            RecordError::Open(OpenError::UnknownKey) => {
                // The cached record is older than this one.
                self.shared.cache.remove(key);
                let text = "a record is sealed with a key that this gateway's keys file lacks; copy the newest keys file here";
                self.unavailable(Unavailable(text.to_owned()))
            }
            RecordError::Open(OpenError::Malformed | OpenError::Forged)
            | RecordError::Format
            | RecordError::User => {
                let context = EventContext { session: Some(key.id), ..EventContext::default() };
                self.shared.emit(SessionEvent::Undecryptable, context);
                DenyReason::Undecryptable
            }
        }
    }

    /// Handles a missing record. If the cache has one with time left, the store lost it.
    fn missing(&self, key: &SessionKey) -> DenyReason {
        let cached = self.shared.cache.get(key);
        match cached {
            None => DenyReason::UnknownSession,
            Some(CacheEntry::Ended { reason, until }) if self.now() < until => {
                self.restore_end(key, reason, until)
            }
            Some(CacheEntry::Ended { reason, .. }) => DenyReason::Ended(reason),
            Some(CacheEntry::Live(cached)) => {
                if self.now() < cached.record.absolute_end {
                    self.emit_once(SessionEvent::RolledBack, key, &cached);
                }
                DenyReason::UnknownSession
            }
        }
    }

    /// Writes the tombstone of an ended session again.
    fn restore_end(&self, key: &SessionKey, reason: EndReason, until: UnixMillis) -> DenyReason {
        let context = EventContext { session: Some(key.id), ..EventContext::default() };
        self.shared.emit(SessionEvent::RolledBack, context);
        let (guard, key) = (self.clone(), *key);
        tokio::spawn(async move {
            // After a failure the next request retries.
            let ended = guard.store.end(&key, reason, guard.now(), until).await;
            if ended.is_err() {
                guard.shared.metrics.store_error();
            }
        });
        DenyReason::Ended(reason)
    }

    /// Caches an end for as long as the session could have lived.
    pub(super) fn cache_end(&self, key: &SessionKey, reason: EndReason) {
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
mod tests {
    use super::super::global_revocation::tests::{guard, log_in};
    use super::*;
    use crate::clock::Clock;
    use crate::guard::RecoverableSession;
    use crate::store::Store;

    /// A response may wait here while the process is busy.
    #[tokio::test]
    async fn a_read_before_a_requested_end_is_not_served_stale() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let guard = guard(&Store::memory(clock.clone()), &clock);
        let shown = log_in(&guard).await;
        let lives =
            RecoverableSession::into_info(guard.find_recoverable(&shown).await.expect("available"));
        let key = lives.expect("it lives").key;
        let (requested_at, loaded) =
            (Instant::now(), guard.load_latest(&key).await.expect("available"));
        let cache = &guard.shared.cache;
        cache.suspend(&key);
        // Times are compared in whole milliseconds.
        std::thread::sleep(Duration::from_millis(5));
        let keys = guard.shared.keys.load_full();
        guard.verify(&keys, &key, loaded, requested_at).expect("it lives");
        let Some(CacheEntry::Live(cached)) = cache.get(&key) else { panic!("it lives") };
        assert_eq!(cache.confirmed_within(&cached, MAX_CLOCK_SKEW, clock.now()), None);
    }
}
