//! One lock's share of the cache: what is known of some users' sessions and lines.
//!
//! Per key: absent, pending, or a value. A load marks its keys as pending *before* it asks, and its
//! answer is kept only where that very mark still stands. A change that arrives in between removes the
//! mark: so an answer from before the change is never kept, whichever of the two comes first.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::clock::UnixMillis;
use crate::session::{NotBefore, SessionKey, UserTag};
use crate::store::{Loaded, Slot};

/// Milliseconds that a value is believed at most, even if no change of it is told: what a fault of ours
/// or of Redis could cost at worst.
const BELIEVED_FOR: u64 = 60_000;

/// What an entry costs beside its sealed bytes, about: key, state, and the cache's own.
const ENTRY_BYTES: u64 = 256;

/// A load under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) nonce: u64,
    pub(super) era: u64,
    /// When it began, in milliseconds.
    pub(super) at: u64,
}

#[derive(Clone, Debug)]
enum State<V> {
    Pending { nonce: u64 },
    Value { era: u64, at: u64, value: V },
}

/// A live record.
#[derive(Clone, Debug)]
struct Known {
    revision: u64,
    sealed: Bytes,
    touched: UnixMillis,
}

pub(super) struct Shard {
    records: Cache<SessionKey, State<Known>, Bytewise>,
    lines: Cache<UserTag, State<NotBefore>, Bytewise>,
    pub(super) hits: u64,
    pub(super) misses: u64,
}

/// Weighs by bytes, so that large records cannot fill the memory.
#[derive(Clone, Debug)]
struct Bytewise;

impl Weighter<SessionKey, State<Known>> for Bytewise {
    fn weight(&self, _: &SessionKey, state: &State<Known>) -> u64 {
        let sealed = match state {
            State::Pending { .. } => 0,
            State::Value { value, .. } => value.sealed.len(),
        };
        ENTRY_BYTES.saturating_add(u64::try_from(sealed).unwrap_or(u64::MAX))
    }
}

impl Weighter<UserTag, State<NotBefore>> for Bytewise {
    fn weight(&self, _: &UserTag, _: &State<NotBefore>) -> u64 {
        ENTRY_BYTES
    }
}

impl Shard {
    /// A shard of about `bytes`, most of it for records.
    pub(super) fn new(bytes: u64) -> Shard {
        let lines = bytes / 8;
        let entries = |bytes: u64| usize::try_from(bytes / ENTRY_BYTES / 2).unwrap_or(usize::MAX);
        Shard {
            records: Cache::with_weighter(entries(bytes), bytes - lines, Bytewise),
            lines: Cache::with_weighter(entries(lines), lines, Bytewise),
            hits: 0,
            misses: 0,
        }
    }

    /// What is known of a session, all of it or nothing.
    pub(super) fn known(&mut self, key: &SessionKey, era: u64, now: u64) -> Option<Loaded> {
        let known = self.records.get(key).and_then(|state| state.value(era, now));
        let line = self.lines.get(&key.tag).and_then(|state| state.value(era, now));
        let (Some(known), Some(line)) = (known, line) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        let slot = Slot::Live { revision: known.revision, sealed: known.sealed.clone() };
        Some(Loaded { slot, touched: known.touched, not_before: *line })
    }

    /// Marks what a load is about to ask for. A value that still stands keeps its place.
    pub(super) fn begin(&mut self, key: &SessionKey, ticket: Ticket) {
        let Ticket { nonce, era, at } = ticket;
        if self.records.peek(key).and_then(|state| state.value(era, at)).is_none() {
            self.records.insert(*key, State::Pending { nonce });
        }
        if self.lines.peek(&key.tag).and_then(|state| state.value(era, at)).is_none() {
            self.lines.insert(key.tag, State::Pending { nonce });
        }
    }

    /// Keeps what the load answered, where its mark still stands.
    pub(super) fn finish(&mut self, key: &SessionKey, ticket: Ticket, loaded: &Loaded) {
        self.finish_record(key, ticket, loaded);
        self.finish_line(key.tag, ticket, loaded.not_before);
    }

    fn finish_record(&mut self, key: &SessionKey, ticket: Ticket, loaded: &Loaded) {
        let Some(state) = self.records.peek(key) else { return };
        // Only a live session is worth keeping: what refuses is never decided on a kept answer.
        let Slot::Live { revision, sealed } = &loaded.slot else {
            self.records.remove(key);
            return;
        };
        let touched = match state {
            State::Pending { nonce } if *nonce == ticket.nonce => loaded.touched,
            State::Pending { .. } => return,
            // It stood before this load began, or another one was faster. Only a touch can have moved.
            State::Value { value, .. } if value.is(*revision, sealed) => {
                self.touched(key, loaded.touched);
                return;
            }
            State::Value { .. } => {
                self.records.remove(key);
                return;
            }
        };
        let value = Known { revision: *revision, sealed: sealed.clone(), touched };
        self.records.insert(*key, State::Value { era: ticket.era, at: ticket.at, value });
    }

    fn finish_line(&mut self, tag: UserTag, ticket: Ticket, line: NotBefore) {
        match self.lines.peek(&tag) {
            Some(State::Pending { nonce }) if *nonce == ticket.nonce => {
                let value = State::Value { era: ticket.era, at: ticket.at, value: line };
                self.lines.insert(tag, value);
            }
            Some(State::Value { value, .. }) if *value != line => self.forget_line(&tag),
            Some(State::Pending { .. } | State::Value { .. }) | None => {}
        }
    }

    /// Activity that the store has noted. Never moves back.
    pub(super) fn touched(&mut self, key: &SessionKey, at: UnixMillis) {
        if let Some(mut state) = self.records.peek_mut(key)
            && let State::Value { value, .. } = &mut *state
        {
            value.touched = value.touched.max(at);
        }
    }

    /// Forgets a session, and the loads of it that are under way.
    pub(super) fn forget(&mut self, key: &SessionKey) {
        self.records.remove(key);
    }

    /// Forgets a user's line, and with it all of his sessions: nothing is known of one without the other.
    pub(super) fn forget_line(&mut self, tag: &UserTag) {
        self.lines.remove(tag);
    }

    pub(super) fn entries(&self) -> usize {
        self.records.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.records.weight().saturating_add(self.lines.weight())
    }
}

impl<V> State<V> {
    fn value(&self, now_era: u64, now: u64) -> Option<&V> {
        match self {
            State::Value { era, at, value }
                if *era == now_era && now.saturating_sub(*at) < BELIEVED_FOR =>
            {
                Some(value)
            }
            State::Value { .. } | State::Pending { .. } => None,
        }
    }
}

impl Known {
    fn is(&self, revision: u64, sealed: &Bytes) -> bool {
        self.revision == revision && self.sealed == *sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{EndReason, SessionId};

    const KEY: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([2; 16]) };
    const OTHER: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([3; 16]) };
    const LATER: NotBefore = NotBefore { at: UnixMillis(5), except: None };

    fn ticket(nonce: u64) -> Ticket {
        Ticket { nonce, era: 1, at: 1_000 }
    }

    fn live(revision: u64) -> Loaded {
        let sealed = Bytes::from(revision.to_string());
        Loaded {
            slot: Slot::Live { revision, sealed },
            touched: UnixMillis(10),
            not_before: NotBefore::default(),
        }
    }

    fn shard() -> Shard {
        Shard::new(100_000)
    }

    fn known(shard: &mut Shard, key: &SessionKey) -> Option<Loaded> {
        shard.known(key, 1, 1_500)
    }

    fn load(shard: &mut Shard, key: &SessionKey, nonce: u64, loaded: &Loaded) {
        shard.begin(key, ticket(nonce));
        shard.finish(key, ticket(nonce), loaded);
    }

    #[test]
    fn what_was_loaded_is_known_until_it_changes() {
        let mut shard = shard();
        assert_eq!(known(&mut shard, &KEY), None);
        load(&mut shard, &KEY, 1, &live(1));
        assert_eq!(known(&mut shard, &KEY), Some(live(1)));
        shard.forget(&KEY);
        assert_eq!(known(&mut shard, &KEY), None);
        assert_eq!((shard.hits, shard.misses), (1, 2));
    }

    #[test]
    fn a_change_between_the_question_and_its_answer_keeps_the_answer_out() {
        let mut shard = shard();
        shard.begin(&KEY, ticket(1));
        shard.forget(&KEY);
        shard.finish(&KEY, ticket(1), &live(1));
        assert_eq!(known(&mut shard, &KEY), None);
        shard.begin(&KEY, ticket(2));
        shard.forget_line(&KEY.tag);
        shard.finish(&KEY, ticket(2), &live(1));
        assert_eq!(known(&mut shard, &KEY), None, "the line was from before the change");
    }

    #[test]
    fn a_line_that_changes_hides_every_session_of_its_user() {
        let mut shard = shard();
        load(&mut shard, &KEY, 1, &live(1));
        load(&mut shard, &OTHER, 2, &live(1));
        shard.forget_line(&KEY.tag);
        assert_eq!(known(&mut shard, &KEY), None);
        assert_eq!(known(&mut shard, &OTHER), None);
        load(&mut shard, &KEY, 3, &Loaded { not_before: LATER, ..live(1) });
        let other = known(&mut shard, &OTHER).expect("its record did not change");
        assert_eq!(other.not_before, LATER, "and the line is today's");
    }

    #[test]
    fn of_two_loads_at_once_the_older_answer_never_replaces_the_newer() {
        let mut shard = shard();
        shard.begin(&KEY, ticket(1));
        shard.forget(&KEY);
        shard.begin(&KEY, ticket(2));
        shard.finish(&KEY, ticket(2), &live(2));
        shard.finish(&KEY, ticket(1), &live(1));
        assert_ne!(known(&mut shard, &KEY), Some(live(1)));
        load(&mut shard, &KEY, 3, &live(2));
        assert_eq!(known(&mut shard, &KEY), Some(live(2)));
    }

    #[test]
    fn two_workers_that_load_the_same_thing_leave_it_known() {
        let mut shard = shard();
        shard.begin(&KEY, ticket(1));
        shard.begin(&KEY, ticket(2));
        shard.finish(&KEY, ticket(1), &live(1));
        shard.finish(&KEY, ticket(2), &live(1));
        assert_eq!(known(&mut shard, &KEY), Some(live(1)));
    }

    #[test]
    fn what_is_gone_or_ended_is_not_kept() {
        let mut shard = shard();
        let ended = Slot::Ended { reason: EndReason::Logout, at: UnixMillis(3) };
        for slot in [Slot::Absent, ended] {
            load(&mut shard, &KEY, 1, &live(1));
            load(&mut shard, &KEY, 2, &Loaded { slot, ..live(1) });
            assert_eq!(known(&mut shard, &KEY), None);
        }
    }

    #[test]
    fn an_answer_that_differs_from_what_is_known_leaves_neither() {
        let mut shard = shard();
        load(&mut shard, &KEY, 1, &live(1));
        load(&mut shard, &KEY, 2, &live(2));
        assert_eq!(known(&mut shard, &KEY), None, "the change was not told yet");
        load(&mut shard, &KEY, 3, &live(2));
        load(&mut shard, &KEY, 4, &Loaded { not_before: LATER, ..live(2) });
        assert_eq!(known(&mut shard, &KEY), None);
    }

    #[test]
    fn a_touch_moves_only_forward_and_makes_nothing_known() {
        let mut shard = shard();
        shard.touched(&KEY, UnixMillis(99));
        load(&mut shard, &KEY, 1, &live(1));
        shard.touched(&KEY, UnixMillis(20));
        shard.touched(&KEY, UnixMillis(15));
        assert_eq!(known(&mut shard, &KEY).map(|known| known.touched), Some(UnixMillis(20)));
        load(&mut shard, &KEY, 2, &live(1));
        assert_eq!(known(&mut shard, &KEY).map(|known| known.touched), Some(UnixMillis(20)));
    }

    #[test]
    fn nothing_is_known_past_its_era_or_its_minute() {
        let mut shard = shard();
        load(&mut shard, &KEY, 1, &live(1));
        assert_eq!(shard.known(&KEY, 2, 1_500), None);
        assert!(shard.known(&KEY, 1, 60_999).is_some());
        assert_eq!(shard.known(&KEY, 1, 61_000), None);
        let renewed = Ticket { nonce: 2, era: 1, at: 61_000 };
        shard.begin(&KEY, renewed);
        shard.finish(&KEY, renewed, &live(1));
        assert!(shard.known(&KEY, 1, 61_001).is_some());
    }

    #[test]
    fn a_flood_of_sessions_stays_within_its_bytes() {
        let mut shard = shard();
        for number in 0..10_000_u64 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let key = SessionKey { tag: UserTag(number.to_be_bytes()), id: SessionId(id) };
            load(&mut shard, &key, number, &live(1));
        }
        assert!(shard.bytes() <= 100_000, "{}", shard.bytes());
        assert!(shard.entries() > 100, "{}", shard.entries());
    }
}
