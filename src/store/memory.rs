//! Sessions in process memory only.

use bytes::Bytes;

use super::entry::{HistoryEntry, MAX_SESSIONS_PER_USER, SessionEntry, too_many_sessions};
use super::tables::Tables;
use super::types::{CommitOutcome, Durability, EndedSession, ExpiredSession, Revoked, Unavailable};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::entry::{CUTOFF_RETENTION, RETENTION_SLACK};
    use crate::store::tables::SHARDS;
    use crate::store::types::Slot;

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
        assert!(store.tables.shard(TAG).is_empty());
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
        assert!(store.tables.shard(TAG).is_empty());
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
