//! The times at which sessions may expire.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock::UnixMillis;
use crate::session::{Record, SessionDeadlines, SessionFacts, SessionKey, SessionPolicy};

/// Time between a timeout and its report. Gateways with slightly different clocks agree by then.
pub(super) const REPORT_DELAY: Duration = Duration::from_secs(60);

/// Maximum number of watched sessions; each takes about 150 bytes.
const MAX_WATCHED: usize = 200_000;

/// Maximum number of sessions that one run checks. Further ones wait for the next second.
const MAX_CHECKS: usize = 200;

/// Time between two searches for sessions that this gateway has not seen.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The sessions to check, by the time from which they may have expired.
#[derive(Debug, Default)]
pub(crate) struct ExpiryWatch {
    schedule: Mutex<Schedule>,
    last_search: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Schedule {
    by_time: BTreeSet<(UnixMillis, SessionKey)>,
    by_key: HashMap<SessionKey, UnixMillis>,
}

impl Schedule {
    /// Adds a session that is not watched yet.
    fn add(&mut self, key: SessionKey, due: UnixMillis) {
        if self.by_key.len() < MAX_WATCHED && !self.by_key.contains_key(&key) {
            self.by_key.insert(key, due);
            self.by_time.insert((due, key));
        }
    }

    fn take_due(&mut self, now: UnixMillis) -> Option<SessionKey> {
        let (due, key) = *self.by_time.first()?;
        if due > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }
}

impl ExpiryWatch {
    /// Watches a session until `due`, unless it is watched already.
    pub(super) fn add(&self, key: SessionKey, due: UnixMillis) {
        self.lock().add(key, due);
    }

    /// Watches a session that was just created or loaded.
    pub(super) fn watch(
        &self,
        key: &SessionKey,
        record: &Record,
        touched: UnixMillis,
        policy: &SessionPolicy,
    ) {
        let facts = SessionFacts { touched, ..SessionFacts::default() };
        self.add(*key, next_check(&SessionDeadlines::new(key.id, record, &facts, policy)));
    }

    /// Returns the sessions to check now, and watches them no more.
    pub(super) fn take_due(&self, now: UnixMillis) -> Vec<SessionKey> {
        let mut schedule = self.lock();
        std::iter::from_fn(|| schedule.take_due(now)).take(MAX_CHECKS).collect()
    }

    /// Whether a search is due. The next one is due an hour later.
    pub(super) fn begins_search(&self) -> bool {
        let mut last = self.last_search.lock();
        let is_due = last.is_none_or(|last| last.elapsed() >= SEARCH_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock()
    }
}

/// Returns the time of the next check of a live session.
pub(super) fn next_check(deadlines: &SessionDeadlines) -> UnixMillis {
    deadlines.idle.min(deadlines.absolute).plus(REPORT_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{SessionId, UserTag};

    fn key(number: u8) -> SessionKey {
        SessionKey { tag: UserTag([1; 8]), id: SessionId([number; 16]) }
    }

    #[test]
    fn a_watched_session_is_due_once_and_at_its_first_time() {
        let watch = ExpiryWatch::default();
        watch.add(key(1), UnixMillis(5));
        watch.add(key(1), UnixMillis(1));
        watch.add(key(2), UnixMillis(6));
        assert_eq!(watch.take_due(UnixMillis(4)), []);
        assert_eq!(watch.take_due(UnixMillis(6)), [key(1), key(2)]);
        assert_eq!(watch.take_due(UnixMillis(9)), []);
        watch.add(key(1), UnixMillis(9));
        assert_eq!(watch.take_due(UnixMillis(9)), [key(1)], "it can be watched again");
    }

    #[test]
    fn the_number_of_watched_sessions_is_bounded() {
        let watch = ExpiryWatch::default();
        let mut id = [0; 16];
        for number in 0..=MAX_WATCHED as u64 + 5 {
            id[..8].copy_from_slice(&number.to_be_bytes());
            watch.add(SessionKey { tag: UserTag([1; 8]), id: SessionId(id) }, UnixMillis(1));
        }
        assert_eq!(watch.lock().by_key.len(), MAX_WATCHED);
        assert_eq!(watch.take_due(UnixMillis(2)).len(), MAX_CHECKS);
    }
}
