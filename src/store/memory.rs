//! Sessions in this process' memory: the whole store of `memory:`, and what `embedded:` reads from.
//!
//! Invariant: all of one user lies in one shard, under one lock, so that every change of a user and of
//! his sessions is atomic. No lock is held across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::entry::{Entry, Facts, MOST_PER_USER, Memo, too_many};
use super::{Commit, LISTED_MOST, Listed, Loaded, Slot, Unavailable};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

const SHARDS: usize = 64;

/// The store of `memory:`. What it holds ends with the process.
#[derive(Debug)]
pub struct Memory {
    tables: Tables,
    clock: Clock,
}

impl Memory {
    pub(super) fn new(clock: Clock) -> Memory {
        Memory { tables: Tables::default(), clock }
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(super) fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let mut shard = self.tables.shard(key.tag);
        let user = shard.entry(key.tag).or_default();
        if user.held() >= MOST_PER_USER {
            return Err(too_many());
        }
        let sealed = Bytes::copy_from_slice(sealed);
        let entry = Entry::create(user.entry(key.id), &sealed, created, forget_at)?;
        user.facts = user.facts.with(created);
        user.put(key.id, entry);
        Ok(())
    }

    pub(super) fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Commit {
        let mut shard = self.tables.shard(key.tag);
        let Some(user) = shard.get_mut(&key.tag) else {
            return Commit::Lost;
        };
        let sealed = Bytes::copy_from_slice(sealed);
        let next = user.entry(key.id).and_then(|entry| entry.commit(expected, &sealed, forget_at));
        match next {
            Some(entry) => {
                user.put(key.id, entry);
                Commit::Swapped
            }
            None => Commit::Lost,
        }
    }

    pub(super) fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) {
        let mut shard = self.tables.shard(key.tag);
        let user = shard.entry(key.tag).or_default();
        let tombstone = Entry::end(user.entry(key.id), reason, at, forget_at);
        user.put(key.id, tombstone);
    }

    pub(super) fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> NotBefore {
        let mut shard = self.tables.shard(*tag);
        let user = shard.entry(*tag).or_default();
        user.facts = user.facts.revoke(now, except);
        user.facts.line
    }

    pub(super) fn swap_memo(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Commit {
        let mut shard = self.tables.shard(*tag);
        let user = shard.entry(*tag).or_default();
        let sealed = Bytes::copy_from_slice(sealed);
        match Memo::swap(user.memo.as_ref(), expected, &sealed, forget_at) {
            Some(memo) => {
                user.memo = Some(memo);
                Commit::Swapped
            }
            None => Commit::Lost,
        }
    }

    /// As [`super::Store::revoke_everyone`].
    pub(super) fn revoke_everyone(&self, now: UnixMillis) -> UnixMillis {
        self.tables.raise_everyone(now.max(self.tables.greatest()))
    }

    /// Drops the forgotten entries of one shard: call it every second or so.
    pub(super) fn sweep(&self) {
        let now = self.clock.now();
        let forgotten = self.tables.forgotten(now);
        for key in forgotten {
            self.tables.remove_forgotten(&key, now);
        }
    }
}

/// The maps.
#[derive(Debug)]
pub(super) struct Tables {
    shards: [Mutex<Shard>; SHARDS],
    everyone: AtomicU64,
    swept: AtomicUsize,
}

type Shard = HashMap<UserTag, User>;

#[derive(Debug, Default)]
struct User {
    facts: Facts,
    memo: Option<Memo>,
    sessions: HashMap<SessionId, Held>,
}

/// An entry with its last touch, which lies beside it and survives its renewal.
#[derive(Debug)]
struct Held {
    entry: Entry,
    touched: UnixMillis,
}

impl User {
    /// How many sessions count against the bound. Those that ended do not, or somebody who logs in and
    /// out all day could not log in any more; they are looked for only at the bound.
    fn held(&self) -> usize {
        if self.sessions.len() < MOST_PER_USER {
            return self.sessions.len();
        }
        let line = self.facts.line;
        let live = |(id, held): &(&SessionId, &Held)| {
            matches!(held.entry.slot, Slot::Live { .. }) && !line.ends(**id, held.entry.created)
        };
        self.sessions.iter().filter(live).count()
    }

    fn entry(&self, id: SessionId) -> Option<&Entry> {
        self.sessions.get(&id).map(|held| &held.entry)
    }

    /// Whether nothing is left that anybody could ask for.
    fn forgotten(&self, now: UnixMillis) -> bool {
        self.sessions.is_empty() && self.memo.is_none() && self.facts.forgotten(now)
    }

    fn memo_forgotten(&self, now: UnixMillis) -> bool {
        self.memo.as_ref().is_some_and(|memo| memo.forgotten(now))
    }

    fn put(&mut self, id: SessionId, entry: Entry) {
        let touched = match (&entry.slot, self.sessions.get(&id)) {
            (Slot::Live { .. }, Some(held)) => held.touched,
            (Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent, _) => UnixMillis(0),
        };
        self.sessions.insert(id, Held { entry, touched });
    }
}

impl Default for Tables {
    fn default() -> Tables {
        Tables {
            shards: std::array::from_fn(|_| Mutex::default()),
            everyone: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
        }
    }
}

impl Tables {
    pub(super) fn load(&self, key: &SessionKey) -> Loaded {
        let shard = self.shard(key.tag);
        let user = shard.get(&key.tag);
        let held = user.and_then(|user| user.sessions.get(&key.id));
        Loaded {
            slot: held.map_or(Slot::Absent, |held| held.entry.slot.clone()),
            touched: held.map_or(UnixMillis(0), |held| held.touched),
            not_before: user.map_or(NotBefore::default(), |user| user.facts.line),
        }
    }

    /// Notes activity of a live session. Whether that changed anything.
    pub(super) fn touch(&self, key: &SessionKey, at: UnixMillis) -> bool {
        let mut shard = self.shard(key.tag);
        let user = shard.get_mut(&key.tag);
        let Some(held) = user.and_then(|user| user.sessions.get_mut(&key.id)) else {
            return false;
        };
        match held.entry.slot {
            Slot::Live { .. } if held.touched < at => {
                held.touched = at;
                true
            }
            Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent => false,
        }
    }

    pub(super) fn facts(&self, tag: UserTag) -> Facts {
        let shard = self.shard(tag);
        shard.get(&tag).map(|user| user.facts).unwrap_or_default()
    }

    pub(super) fn memo(&self, tag: UserTag) -> Option<Memo> {
        let shard = self.shard(tag);
        shard.get(&tag)?.memo.clone()
    }

    pub(super) fn put_memo(&self, tag: UserTag, memo: Memo) {
        self.shard(tag).entry(tag).or_default().memo = Some(memo);
    }

    pub(super) fn everyone(&self) -> UnixMillis {
        UnixMillis(self.everyone.load(Ordering::SeqCst))
    }

    /// When the latest session of anybody began, by the clock of its time.
    pub(super) fn greatest(&self) -> UnixMillis {
        let shards = self.shards.iter().map(lock);
        let latest =
            |shard: MutexGuard<'_, Shard>| shard.values().map(|user| user.facts.greatest).max();
        shards.filter_map(latest).max().unwrap_or_default()
    }

    /// Moves the line of all users, never back.
    pub(super) fn raise_everyone(&self, now: UnixMillis) -> UnixMillis {
        let before = self.everyone.fetch_max(now.0, Ordering::SeqCst);
        UnixMillis(before.max(now.0))
    }

    pub(super) fn sessions_of(&self, tag: UserTag) -> Vec<Listed> {
        let shard = self.shard(tag);
        let Some(user) = shard.get(&tag) else {
            return Vec::new();
        };
        let mut dated: Vec<_> = user
            .sessions
            .iter()
            .filter_map(|(id, held)| {
                let key = SessionKey { tag, id: *id };
                let listed = held.entry.listed(key, user.facts.line, held.touched)?;
                Some((held.entry.created, listed))
            })
            .collect();
        newest_first(&mut dated);
        dated.into_iter().map(|(_, listed)| listed).collect()
    }

    /// Live sessions of all users, at most `limit`.
    pub(super) fn all(&self, limit: usize) -> Vec<Listed> {
        let mut out = Vec::new();
        for shard in &self.shards {
            let tags: Vec<UserTag> = lock(shard).keys().copied().collect();
            for tag in tags {
                let room = limit.saturating_sub(out.len());
                if room == 0 {
                    return out;
                }
                out.extend(self.sessions_of(tag).into_iter().take(room));
            }
        }
        out
    }

    pub(super) fn find(&self, is_it: impl Fn(&SessionId) -> bool) -> Option<SessionKey> {
        self.shards.iter().find_map(|shard| {
            let shard = lock(shard);
            shard.iter().find_map(|(tag, user)| {
                let id = user.sessions.keys().copied().find(|id| is_it(id))?;
                Some(SessionKey { tag: *tag, id })
            })
        })
    }

    pub(super) fn entry(&self, key: &SessionKey) -> Option<Entry> {
        let shard = self.shard(key.tag);
        shard.get(&key.tag)?.entry(key.id).cloned()
    }

    /// How many sessions of a user count against the bound.
    pub(super) fn held(&self, tag: UserTag) -> usize {
        let shard = self.shard(tag);
        shard.get(&tag).map_or(0, User::held)
    }

    pub(super) fn put(&self, key: &SessionKey, entry: Entry) {
        let mut shard = self.shard(key.tag);
        shard.entry(key.tag).or_default().put(key.id, entry);
    }

    pub(super) fn put_facts(&self, tag: UserTag, facts: Facts) {
        self.shard(tag).entry(tag).or_default().facts = facts;
    }

    pub(super) fn touched(&self, key: &SessionKey) -> UnixMillis {
        self.load(key).touched
    }

    /// The next shard's entries that nobody can still ask for, and users without sessions as the
    /// key's tag alone. One shard a call keeps every lock short.
    pub(super) fn forgotten(&self, now: UnixMillis) -> Vec<Forgotten> {
        let turn = self.swept.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let Some(shard) = self.shards.get(turn).map(lock) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (tag, user) in shard.iter() {
            let sessions = user.sessions.iter();
            out.extend(
                sessions
                    .filter(|(_, held)| held.entry.forgotten(now))
                    .map(|(id, _)| Forgotten::Session(SessionKey { tag: *tag, id: *id })),
            );
            if user.memo_forgotten(now) {
                out.push(Forgotten::Memo(*tag));
            }
            if user.forgotten(now) {
                out.push(Forgotten::User(*tag));
            }
        }
        out
    }

    /// Drops what is still forgotten: between the finding and this it may have changed.
    pub(super) fn remove_forgotten(&self, what: &Forgotten, now: UnixMillis) {
        match what {
            Forgotten::Session(key) => {
                let mut shard = self.shard(key.tag);
                if let Some(user) = shard.get_mut(&key.tag)
                    && user.entry(key.id).is_some_and(|entry| entry.forgotten(now))
                {
                    user.sessions.remove(&key.id);
                }
            }
            Forgotten::Memo(tag) => {
                let mut shard = self.shard(*tag);
                if let Some(user) = shard.get_mut(tag)
                    && user.memo_forgotten(now)
                {
                    user.memo = None;
                }
            }
            Forgotten::User(tag) => {
                let mut shard = self.shard(*tag);
                if shard.get(tag).is_some_and(|user| user.forgotten(now)) {
                    shard.remove(tag);
                }
            }
        }
    }

    fn shard(&self, tag: UserTag) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(tag.0[0]) % SHARDS])
    }
}

/// Something to drop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Forgotten {
    Session(SessionKey),
    Memo(UserTag),
    User(UserTag),
}

/// Orders a listing and cuts it.
pub(super) fn newest_first(dated: &mut Vec<(UnixMillis, Listed)>) {
    dated.sort_by_key(|(created, listed)| (std::cmp::Reverse(*created), listed.key.id));
    dated.truncate(LISTED_MOST);
}

/// A panic under the lock cannot leave a map half changed: every change is one insert or one remove.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::entry::{FORGET_SLACK, LINE_KEPT};

    const TAG: UserTag = UserTag([3; 8]);

    fn key(id: u16) -> SessionKey {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        SessionKey { tag: TAG, id: SessionId(bytes) }
    }

    fn sweep_all(store: &Memory) {
        for _ in 0..SHARDS {
            store.sweep();
        }
    }

    #[test]
    fn a_sweep_drops_the_forgotten_and_nothing_else() {
        let clock = Clock::manual(UnixMillis(1_000));
        let store = Memory::new(clock.clone());
        let (short, long) = (UnixMillis(2_000), UnixMillis(2_000_000_000));
        store.create(&key(1), b"a", UnixMillis(1_000), short).expect("room");
        store.create(&key(2), b"b", UnixMillis(1_000), long).expect("room");
        store.end(&key(3), EndReason::Logout, UnixMillis(1_000), short);
        clock.advance(FORGET_SLACK);
        sweep_all(&store);
        assert_eq!(store.tables.held(TAG), 3, "nothing goes before its time");
        clock.advance(Duration::from_secs(2));
        sweep_all(&store);
        assert_eq!(store.tables.held(TAG), 1);
        assert_ne!(store.tables.load(&key(2)).slot, Slot::Absent);
    }

    #[test]
    fn a_memo_goes_after_its_time_and_its_user_with_it() {
        let clock = Clock::manual(UnixMillis(1_000));
        let store = Memory::new(clock.clone());
        assert_eq!(store.swap_memo(&TAG, b"", b"memo", UnixMillis(2_000)), Commit::Swapped);
        clock.advance(FORGET_SLACK);
        sweep_all(&store);
        assert!(store.tables.memo(TAG).is_some(), "nothing goes before its time");
        clock.advance(Duration::from_secs(2));
        sweep_all(&store);
        assert_eq!(store.tables.memo(TAG), None);
        sweep_all(&store);
        assert!(lock(&store.tables.shards[3]).is_empty());
    }

    #[test]
    fn who_logs_in_and_out_all_day_can_log_in_again() {
        let clock = Clock::manual(UnixMillis(1_000));
        let (store, later) = (Memory::new(clock), UnixMillis(2_000_000_000));
        for number in 0..10_000 {
            let key = key(number);
            store.create(&key, b"a", UnixMillis(1_000), later).expect("room");
            if number < 9_999 {
                store.end(&key, EndReason::Logout, UnixMillis(1_000), later);
            }
        }
        store.create(&key(10_000), b"a", UnixMillis(2_000), later).expect("room");
        assert_eq!(store.tables.held(TAG), 2);
        store.revoke_user(&TAG, UnixMillis(2_000), None);
        assert_eq!(store.tables.held(TAG), 0, "below the line");
    }

    #[test]
    fn a_line_outlives_every_session_that_it_ends_and_then_goes() {
        let clock = Clock::manual(UnixMillis(1_000));
        let store = Memory::new(clock.clone());
        store.revoke_user(&TAG, UnixMillis(1_000), None);
        clock.advance(LINE_KEPT);
        sweep_all(&store);
        assert_eq!(store.tables.facts(TAG).line.at, UnixMillis(1_000));
        clock.advance(Duration::from_secs(1));
        sweep_all(&store);
        assert!(lock(&store.tables.shards[3]).is_empty());
    }

    #[test]
    fn one_user_cannot_fill_the_store() {
        let store = Memory::new(Clock::manual(UnixMillis(0)));
        let later = UnixMillis(u64::MAX);
        for id in 0..10_000 {
            store.create(&key(id), b"a", UnixMillis(1), later).expect("room");
        }
        assert!(store.create(&key(10_000), b"a", UnixMillis(1), later).is_err());
    }
}
