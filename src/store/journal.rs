//! What this gateway ended in the last quarter of an hour.
//!
//! A store can go backwards: a failover loses its last writes, a restart reads an old snapshot, somebody
//! empties it or restores a backup. Sessions that were ended then live again. Each gateway therefore
//! remembers the ends that the store acknowledged to it, holds them against whatever it loads, and writes
//! them again when the store seems to know less than before ([`super::follow`]).
//!
//! Invariant: what is remembered was acknowledged, and each of it can be written again without harm.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Loaded, Slot};
use crate::clock::UnixMillis;
use crate::session::{EndReason, NotBefore, SessionKey, UserTag};

/// How long an end is remembered: longer than a failover takes, and than anybody waits to see one.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_mins(15);

/// Most ends remembered of each kind; beyond it the oldest goes.
const MOST: usize = 20_000;

/// One end, as it can be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Session { key: SessionKey, reason: EndReason, at: UnixMillis, forget_at: UnixMillis },
    User { tag: UserTag, line: NotBefore },
    Everyone { line: UnixMillis },
}

/// The ends of the last quarter of an hour.
#[derive(Debug, Default)]
pub(super) struct Journal {
    inner: Mutex<Inner>,
    /// So that a load need not take the lock when there is nothing, which is nearly always.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: Remembered<SessionKey, (EndReason, UnixMillis, UnixMillis)>,
    users: Remembered<UserTag, NotBefore>,
    everyone: Remembered<(), UnixMillis>,
}

impl Journal {
    /// Remembers an end that the store has acknowledged.
    pub(super) fn note(&self, ended: Ended, now: Instant) {
        let mut inner = self.lock();
        match ended {
            Ended::Session { key, reason, at, forget_at } => {
                inner.sessions.note(key, (reason, at, forget_at), now);
            }
            Ended::User { tag, line } => {
                let line = inner.users.get(&tag).map_or(line, |before| before.later(line));
                inner.users.note(tag, line, now);
            }
            Ended::Everyone { line } => {
                let line = inner.everyone.get(&()).map_or(line, |before| line.max(*before));
                inner.everyone.note((), line, now);
            }
        }
        self.count.store(inner.len(), Ordering::Release);
    }

    /// What the store says of a session, and what is remembered of it.
    pub(super) fn over(&self, key: &SessionKey, loaded: Loaded) -> Loaded {
        if self.is_empty() {
            return loaded;
        }
        let inner = self.lock();
        let not_before = inner.line(&key.tag, loaded.not_before);
        let slot = match (loaded.slot, inner.sessions.get(key)) {
            (Slot::Live { .. }, Some((reason, at, _))) => Slot::Ended { reason: *reason, at: *at },
            (slot, _) => slot,
        };
        Loaded { slot, not_before, ..loaded }
    }

    /// The later of the store's line and the remembered one.
    pub(super) fn line(&self, tag: &UserTag, line: NotBefore) -> NotBefore {
        if self.is_empty() { line } else { self.lock().line(tag, line) }
    }

    /// The later of the store's line of all users and the remembered one.
    pub(super) fn everyone(&self, line: UnixMillis) -> UnixMillis {
        if self.is_empty() {
            return line;
        }
        self.lock().everyone.get(&()).map_or(line, |remembered| line.max(*remembered))
    }

    /// All that is remembered.
    pub(super) fn entries(&self) -> Vec<Ended> {
        let inner = self.lock();
        let sessions = inner.sessions.iter().map(|(key, (reason, at, forget_at))| Ended::Session {
            key: *key,
            reason: *reason,
            at: *at,
            forget_at: *forget_at,
        });
        let users = inner.users.iter().map(|(tag, line)| Ended::User { tag: *tag, line: *line });
        let everyone = inner.everyone.iter().map(|((), line)| Ended::Everyone { line: *line });
        everyone.chain(users).chain(sessions).collect()
    }

    /// Whether this is remembered still, as it is here.
    pub(super) fn holds(&self, ended: &Ended) -> bool {
        let inner = self.lock();
        match ended {
            Ended::Session { key, .. } => inner.sessions.get(key).is_some(),
            Ended::User { tag, line } => inner.users.get(tag) == Some(line),
            Ended::Everyone { line } => inner.everyone.get(&()) == Some(line),
        }
    }

    /// Forgets what is older than a quarter of an hour; call it every second or so.
    pub(super) fn sweep(&self, now: Instant) {
        if !self.is_empty() {
            let mut inner = self.lock();
            inner.sessions.sweep(now);
            inner.users.sweep(now);
            inner.everyone.sweep(now);
            self.count.store(inner.len(), Ordering::Release);
        }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn len(&self) -> usize {
        self.sessions.values.len() + self.users.values.len() + self.everyone.values.len()
    }

    fn line(&self, tag: &UserTag, line: NotBefore) -> NotBefore {
        self.users.get(tag).map_or(line, |remembered| line.later(*remembered))
    }
}

/// Values in the order of their last noting, at most [`MOST`]: one that is noted again moves to the end, and
/// takes nobody else's place however often it is.
#[derive(Debug)]
struct Remembered<K, V> {
    values: HashMap<K, (V, u64)>,
    order: BTreeMap<u64, (K, Instant)>,
    noted: u64,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Remembered<K, V> {
        Remembered { values: HashMap::new(), order: BTreeMap::new(), noted: 0 }
    }
}

impl<K: Copy + Eq + Hash, V> Remembered<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(value, _)| value)
    }

    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.values.iter().map(|(key, (value, _))| (key, value))
    }

    fn note(&mut self, key: K, value: V, now: Instant) {
        self.noted = self.noted.saturating_add(1);
        if let Some((_, before)) = self.values.insert(key, (value, self.noted)) {
            self.order.remove(&before);
        }
        self.order.insert(self.noted, (key, now));
        if self.order.len() > MOST {
            self.drop_oldest();
        }
    }

    fn sweep(&mut self, now: Instant) {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= REMEMBERED_FOR;
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

    fn ended(number: u64) -> Ended {
        let (at, forget_at) = (UnixMillis(5), UnixMillis(50));
        Ended::Session { key: key(number), reason: EndReason::Revoked, at, forget_at }
    }

    fn live() -> Loaded {
        let slot = Slot::Live { revision: 1, sealed: Bytes::from_static(b"sealed") };
        Loaded { slot, touched: UnixMillis(1), not_before: NotBefore::default() }
    }

    #[test]
    fn what_ended_here_is_over_whatever_the_store_says() {
        let (journal, now) = (Journal::default(), Instant::now());
        assert_eq!(journal.over(&key(1), live()), live());
        journal.note(ended(1), now);
        let slot = journal.over(&key(1), live()).slot;
        assert_eq!(slot, Slot::Ended { reason: EndReason::Revoked, at: UnixMillis(5) });
        assert_eq!(journal.over(&key(2), live()), live(), "another session lives");
        let line = NotBefore { at: UnixMillis(7), except: Some(key(2).id) };
        journal.note(Ended::User { tag: TAG, line }, now);
        assert_eq!(journal.over(&key(2), live()).not_before, line);
        assert_eq!(journal.line(&TAG, NotBefore::default()), line);
        journal.note(Ended::Everyone { line: UnixMillis(9) }, now);
        assert_eq!(journal.everyone(UnixMillis(0)), UnixMillis(9));
        assert_eq!(journal.everyone(UnixMillis(10)), UnixMillis(10));
    }

    #[test]
    fn a_line_never_moves_back_and_a_tombstone_of_the_store_stays() {
        let (journal, now) = (Journal::default(), Instant::now());
        let line = |at| NotBefore { at: UnixMillis(at), except: None };
        journal.note(Ended::User { tag: TAG, line: line(9) }, now);
        journal.note(Ended::User { tag: TAG, line: line(4) }, now);
        assert_eq!(journal.line(&TAG, line(2)), line(9));
        assert_eq!(journal.line(&TAG, line(12)), line(12));
        journal.note(ended(1), now);
        let first = Slot::Ended { reason: EndReason::Logout, at: UnixMillis(1) };
        let loaded = Loaded { slot: first.clone(), ..live() };
        assert_eq!(journal.over(&key(1), loaded).slot, first, "the first reason stays");
    }

    #[test]
    fn an_end_is_remembered_for_a_quarter_of_an_hour_from_its_last_noting() {
        let (journal, start) = (Journal::default(), Instant::now());
        let minutes = |minutes| start + Duration::from_mins(minutes);
        journal.note(ended(1), start);
        journal.note(ended(2), start);
        journal.note(ended(1), minutes(10));
        journal.sweep(minutes(14));
        assert_eq!(journal.entries().len(), 2);
        journal.sweep(minutes(15));
        assert_eq!(journal.entries(), [ended(1)]);
        journal.sweep(minutes(25));
        assert_eq!(journal.entries(), []);
        assert!(journal.is_empty());
    }

    #[test]
    fn one_who_logs_out_everywhere_again_and_again_takes_nobody_elses_place() {
        let (journal, now) = (Journal::default(), Instant::now());
        let line = |at| NotBefore { at: UnixMillis(at), except: None };
        let other = UserTag([2; 8]);
        journal.note(Ended::User { tag: other, line: line(5) }, now);
        for number in 0..30_000 {
            let at = now + Duration::from_millis(number);
            journal.note(Ended::User { tag: TAG, line: line(number) }, at);
        }
        assert_eq!(journal.line(&other, NotBefore::default()), line(5));
        assert_eq!(journal.line(&TAG, NotBefore::default()), line(29_999));
        assert_eq!(journal.entries().len(), 2);
        journal.sweep(now + REMEMBERED_FOR);
        assert_eq!(journal.entries().len(), 1, "the other one's time is over");
    }

    #[test]
    fn a_flood_of_ends_does_not_fill_the_memory_and_the_newest_stay() {
        let (journal, now) = (Journal::default(), Instant::now());
        for number in 0..30_000 {
            journal.note(ended(number), now + Duration::from_millis(number));
        }
        assert_eq!(journal.entries().len(), MOST);
        assert_eq!(journal.over(&key(9_999), live()), live());
        assert_ne!(journal.over(&key(29_999), live()), live());
    }
}
