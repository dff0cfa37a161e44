//! The tables of all sessions in process memory, shared by the `memory:` and the `embedded:` store.
//!
//! Invariant: all entries of one user are in one shard under one lock, so every change of a user
//! and their sessions is atomic. No lock is held across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::entry::{HistoryEntry, MAX_SESSIONS_PER_USER, SessionEntry, UserState};
use super::login_counters::LoginCounters;
use super::types::{Loaded, MAX_LISTED, SessionListing, Slot};
use crate::clock::UnixMillis;
use crate::session::{RevocationCutoff, SessionId, SessionKey, UserTag};

pub(super) const SHARDS: usize = 64;

/// The sharded maps.
#[derive(Debug)]
pub(super) struct Tables {
    shards: [Mutex<Shard>; SHARDS],
    global_cutoff: AtomicU64,
    next_sweep: AtomicUsize,
    pub(super) login_counters: LoginCounters,
}

pub(super) type Shard = HashMap<UserTag, StoredUser>;

#[derive(Debug, Default)]
pub(super) struct StoredUser {
    pub(super) state: UserState,
    pub(super) history: Option<HistoryEntry>,
    pub(super) sessions: HashMap<SessionId, TouchedEntry>,
}

/// An entry and its last touch, which survives commits.
#[derive(Debug)]
pub(super) struct TouchedEntry {
    pub(super) entry: SessionEntry,
    pub(super) touched: UnixMillis,
}

impl StoredUser {
    /// Counts the sessions that count against [`MAX_SESSIONS_PER_USER`]. Ended sessions do not:
    /// frequent logins and logouts must not lock a user out. Below the limit the result includes
    /// them, because counting is slow.
    pub(super) fn session_count(&self) -> usize {
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
    pub(super) fn revoked_between(
        &self,
        before: RevocationCutoff,
        after: RevocationCutoff,
    ) -> Vec<SessionId> {
        let entries = self.sessions.iter().map(|(id, stored)| (*id, &stored.entry));
        entries
            .filter(|(id, entry)| entry.is_revoked_between(*id, before, after))
            .map(|(id, _)| id)
            .collect()
    }

    pub(super) fn entry(&self, id: SessionId) -> Option<&SessionEntry> {
        self.sessions.get(&id).map(|stored| &stored.entry)
    }

    /// Reports whether the user has no session, no history and no cutoff left.
    fn is_expired(&self, now: UnixMillis) -> bool {
        self.sessions.is_empty() && self.history.is_none() && self.state.is_expired(now)
    }

    fn is_history_expired(&self, now: UnixMillis) -> bool {
        self.history.as_ref().is_some_and(|history| history.is_expired(now))
    }

    pub(super) fn put(&mut self, id: SessionId, entry: SessionEntry) {
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

    pub(super) fn shard(&self, tag: UserTag) -> MutexGuard<'_, Shard> {
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
