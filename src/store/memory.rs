//! Sessions in process memory: the complete `memory:` store, and the read side of `embedded:`.
//!
//! Invariant: all entries of one user are in one shard under one lock, so every change of a user
//! and their sessions is atomic. No lock is stored across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::entry::{
    HistoryEntry, MAX_SESSIONS_PER_USER, SessionEntry, UserState, too_many_sessions,
};
use super::login_counters::LoginCounters;
use super::types::{
    CommitOutcome, Durability, EndedSession, ExpiredSession, Loaded, MAX_LISTED, Revoked,
    SessionListing, Slot, Unavailable,
};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

const SHARDS: usize = 64;

/// The `memory:` store. Its content ends with the process.
#[derive(Debug)]
pub struct MemoryStore {
    tables: Tables,
    clock: Clock,
}

impl MemoryStore {
    pub(super) fn new(clock: Clock) -> MemoryStore {
        MemoryStore { tables: Tables::default(), clock }
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(super) fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let mut shard = self.tables.shard(key.tag);
        let user = shard.entry(key.tag).or_default();
        if user.session_count() >= MAX_SESSIONS_PER_USER {
            return Err(too_many_sessions());
        }
        let sealed = Bytes::copy_from_slice(sealed);
        let entry = SessionEntry::create(user.entry(key.id), &sealed, created, retain_until)?;
        user.state = user.state.with_created(created);
        user.put(key.id, entry);
        Ok(Durability::InMemory)
    }

    pub(super) fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let mut shard = self.tables.shard(key.tag);
        let Some(user) = shard.get_mut(&key.tag) else {
            return Ok(CommitOutcome::Conflict);
        };
        let sealed = Bytes::copy_from_slice(sealed);
        let next =
            user.entry(key.id).and_then(|entry| entry.commit(expected, &sealed, retain_until));
        match next {
            Some(entry) => {
                user.put(key.id, entry);
                Ok(CommitOutcome::Swapped)
            }
            None => Ok(CommitOutcome::Conflict),
        }
    }

    pub(super) fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        _: UnixMillis,
    ) -> Result<(), Unavailable> {
        self.tables.touch(key, at);
        Ok(())
    }

    pub(super) fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<EndedSession, Unavailable> {
        let mut shard = self.tables.shard(key.tag);
        let user = shard.entry(key.tag).or_default();
        let before = user.entry(key.id);
        let is_first = before.is_none_or(SessionEntry::is_live);
        let tombstone = SessionEntry::end(before, reason, at, retain_until);
        user.put(key.id, tombstone);
        Ok(EndedSession { durability: Durability::InMemory, is_first })
    }

    /// See [`super::Store::expire`].
    pub(super) fn expire(
        &self,
        session: &ExpiredSession,
        reason: EndReason,
        at: UnixMillis,
    ) -> Result<bool, Unavailable> {
        let now = self.clock.now();
        let mut shard = self.tables.shard(session.key.tag);
        let Some(user) = shard.get_mut(&session.key.tag) else { return Ok(false) };
        let Some(stored) = user.sessions.get(&session.key.id) else { return Ok(false) };
        let Some(ended) = stored.entry.expire(session, stored.touched, reason, at, now) else {
            return Ok(false);
        };
        user.put(session.key.id, ended);
        Ok(true)
    }

    pub(super) fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<Revoked<RevocationCutoff>, Unavailable> {
        let mut shard = self.tables.shard(*tag);
        let user = shard.entry(*tag).or_default();
        let next = user.state.revoke(now, except);
        let ended = user.revoked_between(user.state.cutoff, next.cutoff);
        user.state = next;
        Ok(Revoked { cutoff: next.cutoff, durability: Durability::InMemory, ended })
    }

    pub(super) fn swap_user_history(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let mut shard = self.tables.shard(*tag);
        let user = shard.entry(*tag).or_default();
        let sealed = Bytes::copy_from_slice(sealed);
        match HistoryEntry::swap(user.history.as_ref(), expected, &sealed, retain_until) {
            Some(history) => {
                user.history = Some(history);
                Ok(CommitOutcome::Swapped)
            }
            None => Ok(CommitOutcome::Conflict),
        }
    }

    /// See [`super::Store::revoke_all_users`].
    pub(super) fn revoke_all_users(
        &self,
        now: UnixMillis,
    ) -> Result<Revoked<UnixMillis>, Unavailable> {
        let cutoff = self.tables.advance_global_cutoff(now.max(self.tables.latest_created()));
        Ok(Revoked { cutoff, durability: Durability::InMemory, ended: Vec::new() })
    }

    pub(super) fn restore_global_cutoff(&self, cutoff: UnixMillis) -> Result<(), Unavailable> {
        self.tables.advance_global_cutoff(cutoff);
        Ok(())
    }

    /// Removes the expired entries of one shard. Call it about once a second.
    pub(super) fn sweep(&self) {
        let now = self.clock.now();
        let expired = self.tables.find_expired(now);
        for key in expired {
            self.tables.remove_expired(&key, now);
        }
    }
}

/// The sharded maps.
#[derive(Debug)]
pub(super) struct Tables {
    shards: [Mutex<Shard>; SHARDS],
    global_cutoff: AtomicU64,
    next_sweep: AtomicUsize,
    pub(super) login_counters: LoginCounters,
}

type Shard = HashMap<UserTag, StoredUser>;

#[derive(Debug, Default)]
struct StoredUser {
    state: UserState,
    history: Option<HistoryEntry>,
    sessions: HashMap<SessionId, TouchedEntry>,
}

/// An entry and its last touch, which survives commits.
#[derive(Debug)]
struct TouchedEntry {
    entry: SessionEntry,
    touched: UnixMillis,
}

impl StoredUser {
    /// Counts the sessions that count against [`MAX_SESSIONS_PER_USER`]. Ended sessions do not:
    /// frequent logins and logouts must not lock a user out. Below the limit the result includes
    /// them, because counting is slow.
    fn session_count(&self) -> usize {
        if self.sessions.len() < MAX_SESSIONS_PER_USER {
            return self.sessions.len();
        }
        let cutoff = self.state.cutoff;
        let live = |(id, stored): &(&SessionId, &TouchedEntry)| {
            matches!(stored.entry.slot, Slot::Live { .. })
                && !cutoff.revokes(**id, stored.entry.created)
        };
        self.sessions.iter().filter(live).count()
    }

    /// Returns the live sessions that the cutoff `after` revokes and `before` does not.
    fn revoked_between(&self, before: RevocationCutoff, after: RevocationCutoff) -> Vec<SessionId> {
        let entries = self.sessions.iter().map(|(id, stored)| (*id, &stored.entry));
        entries
            .filter(|(id, entry)| entry.is_revoked_between(*id, before, after))
            .map(|(id, _)| id)
            .collect()
    }

    fn entry(&self, id: SessionId) -> Option<&SessionEntry> {
        self.sessions.get(&id).map(|stored| &stored.entry)
    }

    /// Reports whether the user has no session, no history and no cutoff left.
    fn is_expired(&self, now: UnixMillis) -> bool {
        self.sessions.is_empty() && self.history.is_none() && self.state.is_expired(now)
    }

    fn is_history_expired(&self, now: UnixMillis) -> bool {
        self.history.as_ref().is_some_and(|history| history.is_expired(now))
    }

    fn put(&mut self, id: SessionId, entry: SessionEntry) {
        let touched = match (&entry.slot, self.sessions.get(&id)) {
            (Slot::Live { .. }, Some(stored)) => stored.touched,
            (Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent, _) => UnixMillis(0),
        };
        self.sessions.insert(id, TouchedEntry { entry, touched });
    }
}

impl Default for Tables {
    fn default() -> Tables {
        Tables {
            shards: std::array::from_fn(|_| Mutex::default()),
            global_cutoff: AtomicU64::new(0),
            next_sweep: AtomicUsize::new(0),
            login_counters: LoginCounters::default(),
        }
    }
}

impl Tables {
    pub(super) fn load(&self, key: &SessionKey) -> Loaded {
        let shard = self.shard(key.tag);
        let user = shard.get(&key.tag);
        let stored = user.and_then(|user| user.sessions.get(&key.id));
        Loaded {
            slot: stored.map_or(Slot::Absent, |stored| stored.entry.slot.clone()),
            touched: stored.map_or(UnixMillis(0), |stored| stored.touched),
            user_cutoff: user.map_or(RevocationCutoff::default(), |user| user.state.cutoff),
        }
    }

    /// Records activity of a live session. Returns whether the touch moved forward.
    pub(super) fn touch(&self, key: &SessionKey, at: UnixMillis) -> bool {
        let mut shard = self.shard(key.tag);
        let user = shard.get_mut(&key.tag);
        let Some(stored) = user.and_then(|user| user.sessions.get_mut(&key.id)) else {
            return false;
        };
        match stored.entry.slot {
            Slot::Live { .. } if stored.touched < at => {
                stored.touched = at;
                true
            }
            Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent => false,
        }
    }

    pub(super) fn user_state(&self, tag: UserTag) -> UserState {
        let shard = self.shard(tag);
        shard.get(&tag).map(|user| user.state).unwrap_or_default()
    }

    pub(super) fn stored_history(&self, tag: UserTag) -> Option<HistoryEntry> {
        let shard = self.shard(tag);
        shard.get(&tag)?.history.clone()
    }

    pub(super) fn user_history(&self, tag: &UserTag) -> Option<Bytes> {
        self.stored_history(*tag).map(|history| history.sealed)
    }

    pub(super) fn user_cutoff(&self, tag: &UserTag) -> RevocationCutoff {
        self.user_state(*tag).cutoff
    }

    pub(super) fn put_history(&self, tag: UserTag, history: HistoryEntry) {
        self.shard(tag).entry(tag).or_default().history = Some(history);
    }

    pub(super) fn global_cutoff(&self) -> UnixMillis {
        UnixMillis(self.global_cutoff.load(Ordering::SeqCst))
    }

    /// Returns the greatest `created` of all sessions of all users.
    pub(super) fn latest_created(&self) -> UnixMillis {
        let shards = self.shards.iter().map(Mutex::lock);
        let latest = |shard: MutexGuard<'_, Shard>| {
            shard.values().map(|user| user.state.latest_created).max()
        };
        shards.filter_map(latest).max().unwrap_or_default()
    }

    /// Moves the global cutoff forward, never back. Returns the result.
    pub(super) fn advance_global_cutoff(&self, now: UnixMillis) -> UnixMillis {
        let before = self.global_cutoff.fetch_max(now.0, Ordering::SeqCst);
        UnixMillis(before.max(now.0))
    }

    pub(super) fn list_user(&self, tag: &UserTag) -> Vec<SessionListing> {
        let shard = self.shard(*tag);
        let Some(user) = shard.get(tag) else {
            return Vec::new();
        };
        let mut dated: Vec<_> = user
            .sessions
            .iter()
            .filter_map(|(id, stored)| {
                let key = SessionKey { tag: *tag, id: *id };
                let listed = stored.entry.to_listing(key, user.state.cutoff, stored.touched)?;
                Some((stored.entry.created, listed))
            })
            .collect();
        sort_newest_first(&mut dated);
        dated.into_iter().map(|(_, listed)| listed).collect()
    }

    /// Lists live sessions of all users, at most `limit`.
    pub(super) fn list_all(&self, limit: usize) -> Vec<SessionListing> {
        let mut out = Vec::new();
        for shard in &self.shards {
            let tags: Vec<UserTag> = shard.lock().keys().copied().collect();
            for tag in tags {
                let room = limit.saturating_sub(out.len());
                if room == 0 {
                    return out;
                }
                out.extend(self.list_user(&tag).into_iter().take(room));
            }
        }
        out
    }

    pub(super) fn find_session(&self, is_it: impl Fn(&SessionKey) -> bool) -> Option<SessionKey> {
        self.shards.iter().find_map(|shard| {
            let shard = shard.lock();
            shard.iter().find_map(|(tag, user)| {
                let mut keys = user.sessions.keys().map(|id| SessionKey { tag: *tag, id: *id });
                keys.find(|key| is_it(key))
            })
        })
    }

    pub(super) fn entry(&self, key: &SessionKey) -> Option<SessionEntry> {
        let shard = self.shard(key.tag);
        shard.get(&key.tag)?.entry(key.id).cloned()
    }

    /// Returns the live sessions that the cutoff `after` revokes and `before` does not.
    pub(super) fn revoked_between(
        &self,
        tag: UserTag,
        before: RevocationCutoff,
        after: RevocationCutoff,
    ) -> Vec<SessionId> {
        let shard = self.shard(tag);
        shard.get(&tag).map(|user| user.revoked_between(before, after)).unwrap_or_default()
    }

    /// Counts the sessions of a user against the limit.
    pub(super) fn session_count(&self, tag: UserTag) -> usize {
        let shard = self.shard(tag);
        shard.get(&tag).map_or(0, StoredUser::session_count)
    }

    pub(super) fn put(&self, key: &SessionKey, entry: SessionEntry) {
        let mut shard = self.shard(key.tag);
        shard.entry(key.tag).or_default().put(key.id, entry);
    }

    pub(super) fn put_user_state(&self, tag: UserTag, state: UserState) {
        self.shard(tag).entry(tag).or_default().state = state;
    }

    pub(super) fn touched(&self, key: &SessionKey) -> UnixMillis {
        self.load(key).touched
    }

    /// Returns the expired entries of the next shard. One shard per call keeps each lock short.
    pub(super) fn find_expired(&self, now: UnixMillis) -> Vec<Expired> {
        let turn = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let Some(shard) = self.shards.get(turn).map(Mutex::lock) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (tag, user) in shard.iter() {
            let sessions = user.sessions.iter();
            out.extend(
                sessions
                    .filter(|(_, stored)| stored.entry.is_expired(now))
                    .map(|(id, _)| Expired::Session(SessionKey { tag: *tag, id: *id })),
            );
            if user.is_history_expired(now) {
                out.push(Expired::History(*tag));
            }
            if user.is_expired(now) {
                out.push(Expired::User(*tag));
            }
        }
        out
    }

    /// Removes an entry that is still expired: it may have changed since [`Tables::find_expired`].
    pub(super) fn remove_expired(&self, what: &Expired, now: UnixMillis) {
        match what {
            Expired::Session(key) => {
                let mut shard = self.shard(key.tag);
                if let Some(user) = shard.get_mut(&key.tag)
                    && user.entry(key.id).is_some_and(|entry| entry.is_expired(now))
                {
                    user.sessions.remove(&key.id);
                }
            }
            Expired::History(tag) => {
                let mut shard = self.shard(*tag);
                if let Some(user) = shard.get_mut(tag)
                    && user.is_history_expired(now)
                {
                    user.history = None;
                }
            }
            Expired::User(tag) => {
                let mut shard = self.shard(*tag);
                if shard.get(tag).is_some_and(|user| user.is_expired(now)) {
                    shard.remove(tag);
                }
            }
        }
    }

    fn shard(&self, tag: UserTag) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(tag.0[0]) % SHARDS].lock()
    }
}

/// An expired entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expired {
    Session(SessionKey),
    History(UserTag),
    User(UserTag),
}

/// Sorts a listing by creation time, newest first, and truncates it to [`MAX_LISTED`].
pub(super) fn sort_newest_first(dated: &mut Vec<(UnixMillis, SessionListing)>) {
    dated.sort_by_key(|(created, listed)| (std::cmp::Reverse(*created), listed.key.id));
    dated.truncate(MAX_LISTED);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::entry::{CUTOFF_RETENTION, RETENTION_SLACK};

    const TAG: UserTag = UserTag([3; 8]);

    fn key(id: u16) -> SessionKey {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        SessionKey { tag: TAG, id: SessionId(bytes) }
    }

    fn sweep_all(store: &MemoryStore) {
        for _ in 0..SHARDS {
            store.sweep();
        }
    }

    #[test]
    fn a_sweep_removes_only_expired_entries() {
        let clock = Clock::manual(UnixMillis(1_000));
        let store = MemoryStore::new(clock.clone());
        let (short, long) = (UnixMillis(2_000), UnixMillis(2_000_000_000));
        store.create(&key(1), b"a", UnixMillis(1_000), short).expect("room");
        store.create(&key(2), b"b", UnixMillis(1_000), long).expect("room");
        store.end(&key(3), EndReason::Logout, UnixMillis(1_000), short).expect("memory");
        clock.advance(RETENTION_SLACK);
        sweep_all(&store);
        assert_eq!(store.tables.session_count(TAG), 3, "not removed before its retention ends");
        clock.advance(Duration::from_secs(2));
        sweep_all(&store);
        assert_eq!(store.tables.session_count(TAG), 1);
        assert_ne!(store.tables.load(&key(2)).slot, Slot::Absent);
    }

    #[test]
    fn an_expired_history_is_removed_together_with_its_user() {
        let clock = Clock::manual(UnixMillis(1_000));
        let store = MemoryStore::new(clock.clone());
        assert_eq!(
            store.swap_user_history(&TAG, b"", b"history", UnixMillis(2_000)),
            Ok(CommitOutcome::Swapped)
        );
        clock.advance(RETENTION_SLACK);
        sweep_all(&store);
        assert!(
            store.tables.stored_history(TAG).is_some(),
            "not removed before its retention ends"
        );
        clock.advance(Duration::from_secs(2));
        sweep_all(&store);
        assert_eq!(store.tables.stored_history(TAG), None);
        sweep_all(&store);
        assert!(store.tables.shards[3].lock().is_empty());
    }

    #[test]
    fn ended_sessions_do_not_count_against_the_user_limit() {
        let clock = Clock::manual(UnixMillis(1_000));
        let (store, later) = (MemoryStore::new(clock), UnixMillis(2_000_000_000));
        for number in 0..10_000 {
            let key = key(number);
            store.create(&key, b"a", UnixMillis(1_000), later).expect("room");
            if number < 9_999 {
                store.end(&key, EndReason::Logout, UnixMillis(1_000), later).expect("memory");
            }
        }
        store.create(&key(10_000), b"a", UnixMillis(2_000), later).expect("room");
        assert_eq!(store.tables.session_count(TAG), 2);
        store.revoke_user(&TAG, UnixMillis(2_000), None).expect("memory");
        assert_eq!(store.tables.session_count(TAG), 0, "older than the cutoff");
    }

    #[test]
    fn a_cutoff_is_kept_longer_than_any_session_it_revokes() {
        let clock = Clock::manual(UnixMillis(1_000));
        let store = MemoryStore::new(clock.clone());
        store.revoke_user(&TAG, UnixMillis(1_000), None).expect("memory");
        clock.advance(CUTOFF_RETENTION);
        sweep_all(&store);
        assert_eq!(store.tables.user_state(TAG).cutoff.at, UnixMillis(1_000));
        clock.advance(Duration::from_secs(1));
        sweep_all(&store);
        assert!(store.tables.shards[3].lock().is_empty());
    }

    #[test]
    fn a_user_at_the_session_limit_cannot_create_another() {
        let store = MemoryStore::new(Clock::manual(UnixMillis(0)));
        let later = UnixMillis(u64::MAX);
        for id in 0..10_000 {
            store.create(&key(id), b"a", UnixMillis(1), later).expect("room");
        }
        assert!(store.create(&key(10_000), b"a", UnixMillis(1), later).is_err());
    }
}
