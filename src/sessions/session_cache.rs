//! Bounded in-memory cache of session state.
//!
//! It avoids decrypting an unchanged record again, detects a store that went back in time, and
//! bridges short outages if the route allows. While the store responds, the cache may refuse or
//! restore a record but never admits a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::sync::{Cache, EntryAction, EntryResult};

use crate::clock::UnixMillis;
use crate::session::{EndReason, Record, RevocationCutoff, SessionKey, UserTag};
use crate::store::{Loaded, Slot};

/// Maximum number of cached sessions.
const MAX_SESSIONS: usize = 100_000;

/// Maximum number of cached user cutoffs; few users have one.
const MAX_CUTOFFS: usize = 20_000;

/// Maximum number of cached user history revisions.
const MAX_HISTORIES: usize = 50_000;

/// The cache of a process.
pub(crate) struct SessionCache {
    sessions: Cache<SessionKey, CacheEntry>,
    cutoffs: Cache<UserTag, RevocationCutoff>,
    /// Latest revision of a user's history, and the time when the store deletes it.
    history_revisions: Cache<UserTag, (u64, UnixMillis)>,
    /// Avoids a lookup per request while no user has a cutoff.
    has_cutoffs: AtomicBool,
    start: Instant,
}

/// Cached state of one session.
#[derive(Clone)]
pub(crate) enum CacheEntry {
    Live(Arc<CachedRecord>),
    /// Final until `until`, when the session would have expired.
    Ended {
        reason: EndReason,
        until: UnixMillis,
    },
}

/// A record, as read from the store.
pub(crate) struct CachedRecord {
    pub(crate) revision: u64,
    pub(crate) bytes: Bytes,
    pub(crate) record: Arc<Record>,
    touched: AtomicU64,
    /// Last confirmation by the store, in milliseconds since the start and by the wall clock.
    confirmed: AtomicU64,
    confirmed_wall: AtomicU64,
    /// Last request to end the session that was not confirmed. The record is not served stale
    /// unless the store confirms it later than that.
    suspended: AtomicU64,
    /// A fault of this copy was reported.
    reported: AtomicBool,
}

impl SessionCache {
    pub(crate) fn new() -> SessionCache {
        SessionCache {
            sessions: Cache::new(MAX_SESSIONS),
            cutoffs: Cache::new(MAX_CUTOFFS),
            history_revisions: Cache::new(MAX_HISTORIES),
            has_cutoffs: AtomicBool::new(false),
            start: Instant::now(),
        }
    }

    pub(crate) fn get(&self, key: &SessionKey) -> Option<CacheEntry> {
        self.sessions.get(key)
    }

    /// Returns a live session that matches.
    pub(crate) fn find(
        &self,
        matches: impl Fn(&SessionKey) -> bool,
    ) -> Option<(SessionKey, Arc<CachedRecord>)> {
        self.sessions.iter().find_map(|(key, cached)| match cached {
            CacheEntry::Live(cached) if matches(&key) => Some((key, cached)),
            CacheEntry::Live(_) | CacheEntry::Ended { .. } => None,
        })
    }

    /// Returns the record if revision and bytes are unchanged.
    pub(crate) fn get_unchanged(
        &self,
        key: &SessionKey,
        revision: u64,
        bytes: &Bytes,
    ) -> Option<Arc<CachedRecord>> {
        match self.get(key)? {
            CacheEntry::Live(cached) if cached.is_same(revision, bytes) => Some(cached),
            CacheEntry::Live(_) | CacheEntry::Ended { .. } => None,
        }
    }

    /// Inserts a record, unless the session ended in the meantime. It is unconfirmed until
    /// [`SessionCache::confirm`].
    pub(crate) fn insert(
        &self,
        key: &SessionKey,
        revision: u64,
        bytes: Bytes,
        record: Arc<Record>,
    ) -> Arc<CachedRecord> {
        let touched = match self.get(key) {
            Some(CacheEntry::Live(before)) => before.touched(),
            Some(CacheEntry::Ended { .. }) | None => UnixMillis(0),
        };
        let cached = Arc::new(CachedRecord {
            revision,
            bytes,
            record,
            touched: AtomicU64::new(touched.0),
            confirmed: AtomicU64::new(0),
            confirmed_wall: AtomicU64::new(0),
            suspended: AtomicU64::new(0),
            reported: AtomicBool::new(false),
        });
        let inserted = self.sessions.entry(key, None, |_, before| {
            // An end takes precedence over a record written before it.
            if let CacheEntry::Live(before) = before {
                cached.suspend(before.suspended.load(Ordering::Relaxed));
                *before = Arc::clone(&cached);
            }
            EntryAction::Retain(())
        });
        if let EntryResult::Vacant(slot) = inserted {
            // An error means that another thread inserted an entry first.
            slot.insert(CacheEntry::Live(Arc::clone(&cached))).unwrap_or_default();
        }
        cached
    }

    /// Records that the store confirmed the record. `at` is a time before the command.
    pub(crate) fn confirm(
        &self,
        cached: &CachedRecord,
        at: Instant,
        now: UnixMillis,
        touched: UnixMillis,
    ) {
        cached.touched.fetch_max(touched.0, Ordering::Relaxed);
        cached.confirmed.store(self.elapsed_millis(at), Ordering::Relaxed);
        cached.confirmed_wall.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn insert_end(&self, key: &SessionKey, reason: EndReason, until: UnixMillis) {
        self.sessions.insert(*key, CacheEntry::Ended { reason, until });
    }

    pub(crate) fn remove(&self, key: &SessionKey) {
        self.sessions.remove(key);
    }

    /// Returns whether the cache is newer than the loaded session: the store went back, or a write
    /// of this gateway came between.
    pub(crate) fn is_newer_than(&self, key: &SessionKey, loaded: &Loaded, now: UnixMillis) -> bool {
        if self.cutoff(&key.tag).at > loaded.user_cutoff.at {
            return true;
        }
        match (self.get(key), &loaded.slot) {
            (None, _) | (Some(_), Slot::Ended { .. }) => false,
            (Some(CacheEntry::Ended { until, .. }), Slot::Absent) => now < until,
            (Some(CacheEntry::Ended { .. }), Slot::Live { .. }) => true,
            (Some(CacheEntry::Live(cached)), Slot::Absent) => now < cached.record.absolute_end,
            (Some(CacheEntry::Live(cached)), Slot::Live { revision, .. }) => {
                *revision < cached.revision
            }
        }
    }

    /// Returns the latest cutoff of a user.
    pub(crate) fn cutoff(&self, tag: &UserTag) -> RevocationCutoff {
        if !self.has_cutoffs.load(Ordering::Relaxed) {
            return RevocationCutoff::default();
        }
        self.cutoffs.get(tag).unwrap_or_default()
    }

    pub(crate) fn observe_cutoff(&self, tag: &UserTag, cutoff: RevocationCutoff) {
        if cutoff.at > self.cutoff(tag).at {
            self.cutoffs.insert(*tag, cutoff);
            self.has_cutoffs.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the latest revision of a user's history; zero if none is cached or it has expired.
    pub(crate) fn history_revision(&self, tag: &UserTag, now: UnixMillis) -> u64 {
        let cached = self.history_revisions.get(tag).filter(|(_, until)| now < *until);
        cached.map_or(0, |(revision, _)| revision)
    }

    pub(crate) fn observe_history(&self, tag: &UserTag, revision: u64, until: UnixMillis) {
        let before = self.history_revisions.get(tag).map_or(0, |(revision, _)| revision);
        if revision >= before {
            self.history_revisions.insert(*tag, (revision, until));
        }
    }

    /// Stops serving the matching sessions stale, because their end was requested.
    pub(crate) fn suspend_matching(&self, matches: impl Fn(&SessionKey) -> bool) {
        for (key, cached) in self.sessions.iter() {
            if let CacheEntry::Live(cached) = cached
                && matches(&key)
            {
                cached.suspend(self.elapsed_millis(Instant::now()));
            }
        }
    }

    pub(crate) fn suspend(&self, key: &SessionKey) {
        if let Some(CacheEntry::Live(cached)) = self.get(key) {
            cached.suspend(self.elapsed_millis(Instant::now()));
        }
    }

    /// Returns the time of the last confirmation if it is within `limit` by both clocks.
    pub(crate) fn confirmed_within(
        &self,
        cached: &CachedRecord,
        limit: Duration,
        now: UnixMillis,
    ) -> Option<Instant> {
        let confirmed = cached.confirmed.load(Ordering::Relaxed);
        let age =
            Duration::from_millis(self.elapsed_millis(Instant::now()).saturating_sub(confirmed));
        let by_wall = now.since(UnixMillis(cached.confirmed_wall.load(Ordering::Relaxed)));
        let is_suspended = confirmed <= cached.suspended.load(Ordering::Relaxed);
        (confirmed > 0 && age.max(by_wall) <= limit && !is_suspended)
            .then(|| self.start + Duration::from_millis(confirmed))
    }

    fn elapsed_millis(&self, now: Instant) -> u64 {
        let elapsed_millis = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed_millis).unwrap_or(u64::MAX).max(1)
    }
}

impl CachedRecord {
    /// Returns whether it is the same copy. An in-process store returns the same buffer, so its
    /// address is compared first.
    pub(crate) fn is_same(&self, revision: u64, bytes: &Bytes) -> bool {
        let same = self.bytes.as_ptr() == bytes.as_ptr() && self.bytes.len() == bytes.len();
        self.revision == revision && (same || self.bytes == *bytes)
    }

    pub(crate) fn touched(&self) -> UnixMillis {
        UnixMillis(self.touched.load(Ordering::Relaxed))
    }

    /// Marks the fault as reported. Returns true the first time.
    pub(crate) fn mark_reported(&self) -> bool {
        !self.reported.swap(true, Ordering::Relaxed)
    }

    fn suspend(&self, at: u64) {
        self.suspended.fetch_max(at, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::session::{ClientContext, Identity, SessionId, Token};

    const KEY: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([2; 16]) };
    const NOW: UnixMillis = UnixMillis(1_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    fn insert(cache: &SessionCache, revision: u64) -> Arc<CachedRecord> {
        let token = Token::new(1, KEY, 0, [3; 32]);
        let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
        let record = Record::new(Identity::default(), &token, NOW, NOW.plus(HOUR), from);
        cache.insert(&KEY, revision, Bytes::from_static(b"sealed"), Arc::new(record))
    }

    /// A rotation may complete while the session is ended.
    #[test]
    fn a_late_record_does_not_replace_an_end() {
        let cache = SessionCache::new();
        insert(&cache, 1);
        cache.insert_end(&KEY, EndReason::Logout, NOW.plus(HOUR));
        insert(&cache, 2);
        assert!(matches!(cache.get(&KEY), Some(CacheEntry::Ended { .. })));
    }

    #[test]
    fn a_record_replaces_another_whatever_its_revision() {
        let cache = SessionCache::new();
        insert(&cache, 7);
        // A store that went back continues from its old revision.
        insert(&cache, 4);
        assert!(matches!(cache.get(&KEY), Some(CacheEntry::Live(cached)) if cached.revision == 4));
    }

    #[test]
    fn a_rotation_does_not_undo_a_suspension() {
        let cache = SessionCache::new();
        insert(&cache, 1);
        let before = Instant::now();
        cache.suspend(&KEY);
        let renewed = insert(&cache, 2);
        cache.confirm(&renewed, before, NOW, NOW);
        assert_eq!(cache.confirmed_within(&renewed, HOUR, NOW), None);
    }

    #[test]
    fn a_response_older_than_a_suspension_does_not_confirm() {
        let cache = SessionCache::new();
        let cached = insert(&cache, 1);
        let before = Instant::now();
        cache.suspend(&KEY);
        cache.confirm(&cached, before, NOW, NOW);
        assert_eq!(cache.confirmed_within(&cached, HOUR, NOW), None);
        cache.confirm(&cached, Instant::now() + Duration::from_millis(2), NOW, NOW);
        assert!(cache.confirmed_within(&cached, HOUR, NOW).is_some());
    }
}
