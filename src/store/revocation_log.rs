//! Revocations of this gateway in the last 15 minutes.
//!
//! A store can roll back: a failover loses the last writes, a restart loads an old snapshot, an
//! operator empties it or restores a backup. Sessions that were revoked then become live again.
//! Each gateway therefore records the revocations that the store acknowledged and applies them to
//! every load. It restores them when a rollback is suspected ([`super::invalidation`]).
//!
//! Invariant: every recorded revocation was acknowledged and can be written again without harm.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::types::{Loaded, Slot};
use crate::clock::UnixMillis;
use crate::session::{EndReason, RevocationCutoff, SessionKey, UserTag};

/// Retention of a revocation. It exceeds the duration of a failover and its detection.
pub(super) const RETENTION: Duration = Duration::from_mins(15);

/// Maximum entries of each kind. Beyond it the oldest entry is evicted.
const MAX_ENTRIES: usize = 20_000;

/// One revocation with everything needed to write it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revocation {
    Session { key: SessionKey, reason: EndReason, at: UnixMillis, retain_until: UnixMillis },
    UserCutoff { tag: UserTag, cutoff: RevocationCutoff },
    GlobalCutoff { cutoff: UnixMillis },
}

/// The revocations of the last [`RETENTION`].
#[derive(Debug, Default)]
pub(super) struct RevocationLog {
    inner: Mutex<LogState>,
    /// Number of entries. A load reads it without the lock, because the log is usually empty.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct LogState {
    sessions: RecentMap<SessionKey, (EndReason, UnixMillis, UnixMillis)>,
    users: RecentMap<UserTag, RevocationCutoff>,
    global_cutoff: RecentMap<(), UnixMillis>,
}

impl RevocationLog {
    /// Records a revocation that the store acknowledged.
    pub(super) fn record(&self, revocation: Revocation, now: Instant) {
        let mut inner = self.inner.lock();
        match revocation {
            Revocation::Session { key, reason, at, retain_until } => {
                inner.sessions.record(key, (reason, at, retain_until), now);
            }
            Revocation::UserCutoff { tag, cutoff } => {
                let cutoff = inner.users.get(&tag).map_or(cutoff, |before| before.later(cutoff));
                inner.users.record(tag, cutoff, now);
            }
            Revocation::GlobalCutoff { cutoff } => {
                let cutoff =
                    inner.global_cutoff.get(&()).map_or(cutoff, |before| cutoff.max(*before));
                inner.global_cutoff.record((), cutoff, now);
            }
        }
        self.count.store(inner.len(), Ordering::Release);
    }

    /// Returns the loaded session with the recorded revocations applied.
    pub(super) fn apply(&self, key: &SessionKey, loaded: Loaded) -> Loaded {
        if self.is_empty() {
            return loaded;
        }
        let inner = self.inner.lock();
        let user_cutoff = inner.user_cutoff(&key.tag, loaded.user_cutoff);
        let slot = match (loaded.slot, inner.sessions.get(key)) {
            (Slot::Live { .. }, Some((reason, at, _))) => Slot::Ended { reason: *reason, at: *at },
            (slot, _) => slot,
        };
        Loaded { slot, user_cutoff, ..loaded }
    }

    /// Returns the later of the store's cutoff and the recorded one.
    pub(super) fn user_cutoff(&self, tag: &UserTag, cutoff: RevocationCutoff) -> RevocationCutoff {
        if self.is_empty() { cutoff } else { self.inner.lock().user_cutoff(tag, cutoff) }
    }

    /// Returns the later of the store's global cutoff and the recorded one.
    pub(super) fn global_cutoff(&self, cutoff: UnixMillis) -> UnixMillis {
        if self.is_empty() {
            return cutoff;
        }
        self.inner.lock().global_cutoff.get(&()).map_or(cutoff, |recorded| cutoff.max(*recorded))
    }

    /// Returns all recorded revocations.
    pub(super) fn entries(&self) -> Vec<Revocation> {
        let inner = self.inner.lock();
        let sessions = inner.sessions.iter().map(|(key, (reason, at, retain_until))| {
            Revocation::Session { key: *key, reason: *reason, at: *at, retain_until: *retain_until }
        });
        let users = inner
            .users
            .iter()
            .map(|(tag, cutoff)| Revocation::UserCutoff { tag: *tag, cutoff: *cutoff });
        let global_cutoff = inner
            .global_cutoff
            .iter()
            .map(|((), cutoff)| Revocation::GlobalCutoff { cutoff: *cutoff });
        global_cutoff.chain(users).chain(sessions).collect()
    }

    /// Reports whether exactly this revocation is recorded.
    pub(super) fn contains(&self, revocation: &Revocation) -> bool {
        let inner = self.inner.lock();
        match revocation {
            Revocation::Session { key, .. } => inner.sessions.get(key).is_some(),
            Revocation::UserCutoff { tag, cutoff } => inner.users.get(tag) == Some(cutoff),
            Revocation::GlobalCutoff { cutoff } => inner.global_cutoff.get(&()) == Some(cutoff),
        }
    }

    /// Removes entries older than [`RETENTION`]. Call it about once a second.
    pub(super) fn sweep(&self, now: Instant) {
        if !self.is_empty() {
            let mut inner = self.inner.lock();
            inner.sessions.sweep(now);
            inner.users.sweep(now);
            inner.global_cutoff.sweep(now);
            self.count.store(inner.len(), Ordering::Release);
        }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

impl LogState {
    fn len(&self) -> usize {
        self.sessions.values.len() + self.users.values.len() + self.global_cutoff.values.len()
    }

    fn user_cutoff(&self, tag: &UserTag, cutoff: RevocationCutoff) -> RevocationCutoff {
        self.users.get(tag).map_or(cutoff, |recorded| cutoff.later(*recorded))
    }
}

/// A map ordered by last insertion, with at most [`MAX_ENTRIES`] entries. A repeated insertion
/// moves the entry to the end and evicts no other.
#[derive(Debug)]
struct RecentMap<K, V> {
    values: HashMap<K, (V, u64)>,
    order: BTreeMap<u64, (K, Instant)>,
    next_order: u64,
}

impl<K, V> Default for RecentMap<K, V> {
    fn default() -> RecentMap<K, V> {
        RecentMap { values: HashMap::new(), order: BTreeMap::new(), next_order: 0 }
    }
}

impl<K: Copy + Eq + Hash, V> RecentMap<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(value, _)| value)
    }

    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.values.iter().map(|(key, (value, _))| (key, value))
    }

    fn record(&mut self, key: K, value: V, now: Instant) {
        self.next_order = self.next_order.saturating_add(1);
        if let Some((_, before)) = self.values.insert(key, (value, self.next_order)) {
            self.order.remove(&before);
        }
        self.order.insert(self.next_order, (key, now));
        if self.order.len() > MAX_ENTRIES {
            self.drop_oldest();
        }
    }

    fn sweep(&mut self, now: Instant) {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= RETENTION;
        while self.order.first_key_value().is_some_and(|(_, (_, at))| old(at)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, (key, _))) = self.order.pop_first() {
            self.values.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session::SessionId;

    const TAG: UserTag = UserTag([1; 8]);

    fn key(number: u64) -> SessionKey {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        SessionKey { tag: TAG, id: SessionId(id) }
    }

    fn revocation(number: u64) -> Revocation {
        let (at, retain_until) = (UnixMillis(5), UnixMillis(50));
        Revocation::Session { key: key(number), reason: EndReason::Revoked, at, retain_until }
    }

    fn live() -> Loaded {
        let slot = Slot::Live { revision: 1, sealed: Bytes::from_static(b"sealed") };
        Loaded { slot, touched: UnixMillis(1), user_cutoff: RevocationCutoff::default() }
    }

    #[test]
    fn a_recorded_revocation_overrides_the_stored_state() {
        let (log, now) = (RevocationLog::default(), Instant::now());
        assert_eq!(log.apply(&key(1), live()), live());
        log.record(revocation(1), now);
        let slot = log.apply(&key(1), live()).slot;
        assert_eq!(slot, Slot::Ended { reason: EndReason::Revoked, at: UnixMillis(5) });
        assert_eq!(log.apply(&key(2), live()), live(), "other sessions stay live");
        let cutoff = RevocationCutoff { at: UnixMillis(7), except: Some(key(2).id) };
        log.record(Revocation::UserCutoff { tag: TAG, cutoff }, now);
        assert_eq!(log.apply(&key(2), live()).user_cutoff, cutoff);
        assert_eq!(log.user_cutoff(&TAG, RevocationCutoff::default()), cutoff);
        log.record(Revocation::GlobalCutoff { cutoff: UnixMillis(9) }, now);
        assert_eq!(log.global_cutoff(UnixMillis(0)), UnixMillis(9));
        assert_eq!(log.global_cutoff(UnixMillis(10)), UnixMillis(10));
    }

    #[test]
    fn a_cutoff_only_advances_and_a_stored_tombstone_stays() {
        let (log, now) = (RevocationLog::default(), Instant::now());
        let cutoff = |at| RevocationCutoff { at: UnixMillis(at), except: None };
        log.record(Revocation::UserCutoff { tag: TAG, cutoff: cutoff(9) }, now);
        log.record(Revocation::UserCutoff { tag: TAG, cutoff: cutoff(4) }, now);
        assert_eq!(log.user_cutoff(&TAG, cutoff(2)), cutoff(9));
        assert_eq!(log.user_cutoff(&TAG, cutoff(12)), cutoff(12));
        log.record(revocation(1), now);
        let first = Slot::Ended { reason: EndReason::Logout, at: UnixMillis(1) };
        let loaded = Loaded { slot: first.clone(), ..live() };
        assert_eq!(log.apply(&key(1), loaded).slot, first, "the first reason stays");
    }

    #[test]
    fn a_revocation_expires_15_minutes_after_its_last_record() {
        let (log, start) = (RevocationLog::default(), Instant::now());
        let minutes = |minutes| start + Duration::from_mins(minutes);
        log.record(revocation(1), start);
        log.record(revocation(2), start);
        log.record(revocation(1), minutes(10));
        log.sweep(minutes(14));
        assert_eq!(log.entries().len(), 2);
        log.sweep(minutes(15));
        assert_eq!(log.entries(), [revocation(1)]);
        log.sweep(minutes(25));
        assert_eq!(log.entries(), []);
        assert!(log.is_empty());
    }

    #[test]
    fn repeated_revocations_of_one_user_evict_no_other_entry() {
        let (log, now) = (RevocationLog::default(), Instant::now());
        let cutoff = |at| RevocationCutoff { at: UnixMillis(at), except: None };
        let other = UserTag([2; 8]);
        log.record(Revocation::UserCutoff { tag: other, cutoff: cutoff(5) }, now);
        for number in 0..30_000 {
            let at = now + Duration::from_millis(number);
            log.record(Revocation::UserCutoff { tag: TAG, cutoff: cutoff(number) }, at);
        }
        assert_eq!(log.user_cutoff(&other, RevocationCutoff::default()), cutoff(5));
        assert_eq!(log.user_cutoff(&TAG, RevocationCutoff::default()), cutoff(29_999));
        assert_eq!(log.entries().len(), 2);
        log.sweep(now + RETENTION);
        assert_eq!(log.entries().len(), 1, "the other entry expired");
    }

    #[test]
    fn beyond_the_limit_the_oldest_revocations_are_evicted() {
        let (log, now) = (RevocationLog::default(), Instant::now());
        for number in 0..30_000 {
            log.record(revocation(number), now + Duration::from_millis(number));
        }
        assert_eq!(log.entries().len(), MAX_ENTRIES);
        assert_eq!(log.apply(&key(9_999), live()), live());
        assert_ne!(log.apply(&key(29_999), live()), live());
    }
}
