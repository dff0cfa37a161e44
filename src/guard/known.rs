//! What this gateway has seen of sessions, kept in bounds: so that an unchanged record is opened once,
//! a store that goes backwards is noticed, and a short outage can be bridged where the operator says so.
//!
//! Memory only, and never the judge: what is known here may refuse, and restore a newer record, but it
//! admits nobody while the store answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::sync::{Cache, EntryAction, EntryResult};

use crate::clock::UnixMillis;
use crate::session::{EndReason, NotBefore, Record, SessionKey, UserTag};
use crate::store::{Loaded, Slot};

/// Sessions kept in mind per process.
const SESSIONS: usize = 100_000;

/// Users' lines kept in mind per process; few users ever draw one.
const LINES: usize = 20_000;

/// Users' memos whose revision is kept in mind per process.
const MEMOS: usize = 50_000;

/// All that was seen.
pub(super) struct Known {
    sessions: Cache<SessionKey, Seen>,
    lines: Cache<UserTag, NotBefore>,
    /// The greatest revision of a user's memo, and until when a store keeps that.
    memos: Cache<UserTag, (u64, UnixMillis)>,
    /// So that a request need not look for a line where there never was one.
    any_line: AtomicBool,
    start: Instant,
}

/// What was seen of one session.
#[derive(Clone)]
pub(super) enum Seen {
    Live(Arc<Sealed>),
    /// For good. `until`: nobody needs to know it any longer.
    Ended {
        reason: EndReason,
        until: UnixMillis,
    },
}

/// A record as the store had it.
pub(super) struct Sealed {
    pub(super) revision: u64,
    pub(super) bytes: Bytes,
    pub(super) record: Arc<Record>,
    touched: AtomicU64,
    /// When the store last vouched for it: milliseconds since the start, and by the wall clock.
    vouched: AtomicU64,
    vouched_at: AtomicU64,
    /// When somebody last wanted it to end, and was not told that it did: not served unasked, unless the
    /// store was asked after that and vouched for it.
    withheld: AtomicU64,
    /// Its trouble was told.
    told: AtomicBool,
}

impl Known {
    pub(super) fn new() -> Known {
        Known {
            sessions: Cache::new(SESSIONS),
            lines: Cache::new(LINES),
            memos: Cache::new(MEMOS),
            any_line: AtomicBool::new(false),
            start: Instant::now(),
        }
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<Seen> {
        self.sessions.get(key)
    }

    /// One that was seen alive.
    pub(super) fn find(
        &self,
        is_meant: impl Fn(&SessionKey) -> bool,
    ) -> Option<(SessionKey, Arc<Sealed>)> {
        self.sessions.iter().find_map(|(key, seen)| match seen {
            Seen::Live(seen) if is_meant(&key) => Some((key, seen)),
            Seen::Live(_) | Seen::Ended { .. } => None,
        })
    }

    /// The record, if it is the same bytes of the same revision.
    pub(super) fn same(
        &self,
        key: &SessionKey,
        revision: u64,
        bytes: &Bytes,
    ) -> Option<Arc<Sealed>> {
        match self.get(key)? {
            Seen::Live(seen) if seen.is(revision, bytes) => Some(seen),
            Seen::Live(_) | Seen::Ended { .. } => None,
        }
    }

    /// Keeps a record in mind, unless its session has ended meanwhile; it is vouched for when the store
    /// answered.
    pub(super) fn keep(
        &self,
        key: &SessionKey,
        revision: u64,
        bytes: Bytes,
        record: Arc<Record>,
    ) -> Arc<Sealed> {
        let touched = match self.get(key) {
            Some(Seen::Live(before)) => before.touched(),
            Some(Seen::Ended { .. }) | None => UnixMillis(0),
        };
        let seen = Arc::new(Sealed {
            revision,
            bytes,
            record,
            touched: AtomicU64::new(touched.0),
            vouched: AtomicU64::new(0),
            vouched_at: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            told: AtomicBool::new(false),
        });
        let kept = self.sessions.entry(key, None, |_, before| {
            // Written before the end and answered after it: the end has the last word.
            if let Seen::Live(before) = before {
                seen.withhold(before.withheld.load(Ordering::Relaxed));
                *before = Arc::clone(&seen);
            }
            EntryAction::Retain(())
        });
        if let EntryResult::Vacant(place) = kept {
            // An error says that somebody else's came between.
            place.insert(Seen::Live(Arc::clone(&seen))).unwrap_or_default();
        }
        seen
    }

    /// The store stands by the record, with this touch beside it. `at`: before it was asked.
    pub(super) fn vouch(&self, seen: &Sealed, at: Instant, now: UnixMillis, touched: UnixMillis) {
        seen.touched.fetch_max(touched.0, Ordering::Relaxed);
        seen.vouched.store(self.running(at), Ordering::Relaxed);
        seen.vouched_at.store(now.0, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, key: &SessionKey, reason: EndReason, until: UnixMillis) {
        self.sessions.insert(*key, Seen::Ended { reason, until });
    }

    pub(super) fn forget(&self, key: &SessionKey) {
        self.sessions.remove(key);
    }

    /// Whether more was seen than the store says: it went backwards, or its answer is older than a
    /// write of this gateway that came between.
    pub(super) fn is_ahead_of(&self, key: &SessionKey, loaded: &Loaded, now: UnixMillis) -> bool {
        if self.line(&key.tag).at > loaded.not_before.at {
            return true;
        }
        match (self.get(key), &loaded.slot) {
            (None, _) | (Some(_), Slot::Ended { .. }) => false,
            (Some(Seen::Ended { until, .. }), Slot::Absent) => now < until,
            (Some(Seen::Ended { .. }), Slot::Live { .. }) => true,
            (Some(Seen::Live(seen)), Slot::Absent) => now < seen.record.absolute_end,
            (Some(Seen::Live(seen)), Slot::Live { revision, .. }) => *revision < seen.revision,
        }
    }

    /// The last line seen of a user.
    pub(super) fn line(&self, tag: &UserTag) -> NotBefore {
        if !self.any_line.load(Ordering::Relaxed) {
            return NotBefore::default();
        }
        self.lines.get(tag).unwrap_or_default()
    }

    pub(super) fn saw_line(&self, tag: &UserTag, line: NotBefore) {
        if line.at > self.line(tag).at {
            self.lines.insert(*tag, line);
            self.any_line.store(true, Ordering::Relaxed);
        }
    }

    /// The greatest revision seen of a user's memo, zero where none was or its time is over.
    pub(super) fn memo(&self, tag: &UserTag, now: UnixMillis) -> u64 {
        let seen = self.memos.get(tag).filter(|(_, until)| now < *until);
        seen.map_or(0, |(revision, _)| revision)
    }

    pub(super) fn saw_memo(&self, tag: &UserTag, revision: u64, until: UnixMillis) {
        let before = self.memos.get(tag).map_or(0, |(revision, _)| revision);
        if revision >= before {
            self.memos.insert(*tag, (revision, until));
        }
    }

    /// Somebody wants these to end. Whether they did is known when the store answers.
    pub(super) fn withhold(&self, is_meant: impl Fn(&SessionKey) -> bool) {
        for (key, seen) in self.sessions.iter() {
            if let Seen::Live(seen) = seen
                && is_meant(&key)
            {
                seen.withhold(self.running(Instant::now()));
            }
        }
    }

    pub(super) fn withhold_one(&self, key: &SessionKey) {
        if let Some(Seen::Live(seen)) = self.get(key) {
            seen.withhold(self.running(Instant::now()));
        }
    }

    /// When the store last vouched for it, if that was not longer ago than `limit` by any clock.
    pub(super) fn vouched_within(
        &self,
        seen: &Sealed,
        limit: Duration,
        now: UnixMillis,
    ) -> Option<Instant> {
        let vouched = seen.vouched.load(Ordering::Relaxed);
        let age = Duration::from_millis(self.running(Instant::now()).saturating_sub(vouched));
        let by_wall = now.since(UnixMillis(seen.vouched_at.load(Ordering::Relaxed)));
        let is_withheld = vouched <= seen.withheld.load(Ordering::Relaxed);
        (vouched > 0 && age.max(by_wall) <= limit && !is_withheld)
            .then(|| self.start + Duration::from_millis(vouched))
    }

    fn running(&self, now: Instant) -> u64 {
        let running = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(running).unwrap_or(u64::MAX).max(1)
    }
}

impl Sealed {
    /// Whether it is this copy. A store in this process gives the very bytes it gave before.
    pub(super) fn is(&self, revision: u64, bytes: &Bytes) -> bool {
        let same = self.bytes.as_ptr() == bytes.as_ptr() && self.bytes.len() == bytes.len();
        self.revision == revision && (same || self.bytes == *bytes)
    }

    pub(super) fn touched(&self) -> UnixMillis {
        UnixMillis(self.touched.load(Ordering::Relaxed))
    }

    /// Whether its trouble has yet to be told.
    pub(super) fn tell(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    fn withhold(&self, at: u64) {
        self.withheld.fetch_max(at, Ordering::Relaxed);
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

    fn keep(known: &Known, revision: u64) -> Arc<Sealed> {
        let token = Token::new(1, KEY, 0, [3; 32]);
        let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
        let record = Record::begin(Identity::default(), &token, NOW, NOW.plus(HOUR), from);
        known.keep(&KEY, revision, Bytes::from_static(b"sealed"), Arc::new(record))
    }

    /// Guard: a renewal is answered while the session is ended beside it.
    #[test]
    fn a_record_that_comes_late_does_not_take_the_place_of_an_end() {
        let known = Known::new();
        keep(&known, 1);
        known.ended(&KEY, EndReason::Logout, NOW.plus(HOUR));
        keep(&known, 2);
        assert!(matches!(known.get(&KEY), Some(Seen::Ended { .. })));
    }

    #[test]
    fn a_record_takes_the_place_of_another_whatever_its_revision() {
        let known = Known::new();
        keep(&known, 7);
        // A store that went back counts on from there.
        keep(&known, 4);
        assert!(matches!(known.get(&KEY), Some(Seen::Live(seen)) if seen.revision == 4));
    }

    #[test]
    fn a_renewal_does_not_undo_that_somebody_wanted_an_end() {
        let known = Known::new();
        keep(&known, 1);
        let before = Instant::now();
        known.withhold_one(&KEY);
        let renewed = keep(&known, 2);
        known.vouch(&renewed, before, NOW, NOW);
        assert_eq!(known.vouched_within(&renewed, HOUR, NOW), None);
    }

    #[test]
    fn what_was_read_before_somebody_wanted_an_end_vouches_for_nothing() {
        let known = Known::new();
        let seen = keep(&known, 1);
        let before = Instant::now();
        known.withhold_one(&KEY);
        known.vouch(&seen, before, NOW, NOW);
        assert_eq!(known.vouched_within(&seen, HOUR, NOW), None);
        known.vouch(&seen, Instant::now() + Duration::from_millis(2), NOW, NOW);
        assert!(known.vouched_within(&seen, HOUR, NOW).is_some());
    }
}
