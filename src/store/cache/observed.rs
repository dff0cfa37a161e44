//! The newest states that this gateway has seen. They outlive their proofs, to detect a store that
//! went back in time and to bridge its outages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::{CachedRecord, DualInstant, SessionCache, SessionState, VerifiedSession};
use crate::clock::UnixMillis;
use crate::session::{EndReason, Record, RevocationCutoff, SessionKey, UserTag};
use crate::store::types::{Loaded, Slot};

impl SessionCache {
    /// Returns the newest state of a session.
    pub(crate) fn get(&self, key: &SessionKey) -> SessionState {
        let shard = self.shard(&key.tag);
        shard.sessions.get(key).map_or(SessionState::Unknown, |session| session.state.clone())
    }

    /// Returns the newest state of a live session.
    pub(crate) fn live(&self, key: &SessionKey) -> Option<VerifiedSession> {
        let shard = self.shard(&key.tag);
        shard.sessions.get(key)?.verified(shard.cutoff(&key.tag))
    }

    /// Returns a live session with the time of its last activity.
    pub(crate) fn find(
        &self,
        matches: impl Fn(&SessionKey) -> bool,
    ) -> Option<(SessionKey, Arc<Record>, UnixMillis)> {
        self.shards.iter().map(Mutex::lock).find_map(|shard| {
            let mut sessions = shard.sessions.iter().filter(|(key, _)| matches(key));
            sessions.find_map(|(key, session)| {
                Some((*key, Arc::clone(&session.record()?.record), session.touched))
            })
        })
    }

    /// Returns a session that the store confirmed within `limit` by both clocks, and the time of
    /// the confirmation.
    pub(crate) fn stale(
        &self,
        key: &SessionKey,
        limit: Duration,
        at: DualInstant,
    ) -> Option<(VerifiedSession, DualInstant)> {
        let shard = self.shard(&key.tag);
        let session = shard.sessions.get(key)?;
        let confirmed = session.confirmed().filter(|confirmed| at.since(*confirmed) <= limit)?;
        Some((session.verified(shard.cutoff(&key.tag))?, confirmed))
    }

    /// Returns whether the cache is newer than the loaded session: the store went back, or a write
    /// of this gateway came between.
    pub(crate) fn is_newer_than(&self, key: &SessionKey, loaded: &Loaded, now: UnixMillis) -> bool {
        let shard = self.shard(&key.tag);
        if shard.cutoff(&key.tag).at > loaded.user_cutoff.at {
            return true;
        }
        let Some(session) = shard.sessions.get(key) else { return false };
        match (&session.state, &loaded.slot) {
            (SessionState::Unknown, _) | (_, Slot::Ended { .. }) => false,
            (SessionState::Ended { until, .. }, Slot::Absent) => now < *until,
            (SessionState::Ended { .. }, Slot::Live { .. }) => true,
            (SessionState::Live(cached), Slot::Absent) => now < cached.record.absolute_end,
            (SessionState::Live(cached), Slot::Live { revision, .. }) => {
                *revision < cached.revision
            }
        }
    }

    /// Caches a record that this gateway wrote, unless the session ended in the meantime. `at` is a
    /// time before the write.
    pub(crate) fn insert_written(&self, key: &SessionKey, cached: CachedRecord, at: DualInstant) {
        if let Some(mut session) = self.shard(&key.tag).session(key) {
            session.replace(SessionState::Live(cached));
            session.confirmed = Some(at);
        }
    }

    /// Caches an end, which no later record replaces. `until` is the time when the session would have
    /// expired.
    pub fn insert_end(&self, key: &SessionKey, reason: EndReason, until: UnixMillis) {
        if let Some(mut session) = self.shard(&key.tag).session(key) {
            session.replace(SessionState::Ended { reason, until });
        }
    }

    /// Removes what is known of a session, because its newest record cannot be read.
    pub(crate) fn remove(&self, key: &SessionKey) {
        self.shard(&key.tag).sessions.remove(key);
    }

    /// Marks a fault of the cached copy as reported. Returns true the first time.
    pub(crate) fn mark_reported(&self, key: &SessionKey) -> bool {
        let mut shard = self.shard(&key.tag);
        let Some(mut session) = shard.sessions.peek_mut(key) else { return true };
        !std::mem::replace(&mut session.is_reported, true)
    }

    /// Stops serving a session stale, because its end was requested.
    pub(crate) fn suspend(&self, key: &SessionKey) {
        if let Some(mut session) = self.shard(&key.tag).sessions.peek_mut(key) {
            session.suspended = Some(DualInstant::now());
        }
    }

    /// Stops serving the matching sessions stale.
    pub(crate) fn suspend_matching(&self, matches: impl Fn(&SessionKey) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let keys: Vec<SessionKey> =
                shard.sessions.iter().map(|(key, _)| *key).filter(|key| matches(key)).collect();
            for key in keys {
                if let Some(mut session) = shard.sessions.peek_mut(&key) {
                    session.suspended = Some(DualInstant::now());
                }
            }
        }
    }

    /// Caches a cutoff that this gateway wrote.
    pub(crate) fn insert_cutoff(&self, tag: &UserTag, cutoff: RevocationCutoff) {
        if let Some(mut user) = self.shard(tag).user(tag) {
            user.advance(cutoff);
        }
    }

    /// Returns the latest revision of a user's history; zero if none is cached or it has expired.
    pub(crate) fn history_revision(&self, tag: &UserTag, now: UnixMillis) -> u64 {
        let shard = self.shard(tag);
        let history = shard.users.get(tag).map(|user| user.history);
        history.filter(|(_, until)| now < *until).map_or(0, |(revision, _)| revision)
    }

    pub(crate) fn observe_history(&self, tag: &UserTag, revision: u64, until: UnixMillis) {
        if let Some(mut user) = self.shard(tag).user(tag) {
            user.history = user.history.max((revision, until));
        }
    }

    /// Returns the operator's cutoff for all sessions, as last read.
    pub(crate) fn global_cutoff(&self) -> RevocationCutoff {
        let at = UnixMillis(self.global_cutoff.load(Ordering::Acquire));
        RevocationCutoff { at, except: None }
    }

    /// Returns the global cutoff if it is fresh. A request is never admitted with an older one:
    /// otherwise a gateway after a start, a pause or a partial outage would readmit revoked
    /// sessions.
    pub(crate) fn fresh_global_cutoff(&self, at: DualInstant) -> Option<RevocationCutoff> {
        self.global_cutoff_read.is_fresh(at).then(|| self.global_cutoff())
    }

    /// Advances the global cutoff. Returns whether it changed.
    pub(crate) fn advance_global_cutoff(&self, at: UnixMillis) -> bool {
        self.global_cutoff.fetch_max(at.0, Ordering::AcqRel) < at.0
    }

    /// Confirms the global cutoff. `at` is a time before its read.
    pub(crate) fn confirm_global_cutoff(&self, at: DualInstant) {
        self.global_cutoff_read.confirm(at);
    }
}
