//! One shard of the cache: sessions and cutoffs of some users under one lock.
//!
//! Each key is absent, pending or filled. A fill marks its keys as pending *before* the load is
//! sent. Its response is cached only if that mark remains. A change removes the mark, so a response
//! from before the change is never cached, whichever of the two arrives first.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::clock::UnixMillis;
use crate::session::{RevocationCutoff, SessionKey, UserTag};
use crate::store::types::{Loaded, Slot};

/// Maximum age of a value in milliseconds. It limits the effect of a missed invalidation.
const MAX_AGE_MS: u64 = 60_000;

/// Approximate overhead of an entry in bytes, in addition to its sealed bytes.
const ENTRY_BYTES: u64 = 256;

/// A fill in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FillToken {
    pub(super) id: u64,
    pub(super) generation: u64,
    /// Start time in milliseconds.
    pub(super) started: u64,
}

#[derive(Clone, Debug)]
enum CacheState<V> {
    Pending { fill_id: u64 },
    Filled { generation: u64, started: u64, value: V },
}

/// A live record.
#[derive(Clone, Debug)]
struct CachedSession {
    revision: u64,
    sealed: Bytes,
    touched: UnixMillis,
}

pub(super) struct CacheShard {
    records: Cache<SessionKey, CacheState<CachedSession>, ByteWeighter>,
    cutoffs: Cache<UserTag, CacheState<RevocationCutoff>, ByteWeighter>,
    pub(super) hits: u64,
    pub(super) misses: u64,
}

/// Weighs entries by bytes, so that large records cannot exhaust memory.
#[derive(Clone, Debug)]
struct ByteWeighter;

impl Weighter<SessionKey, CacheState<CachedSession>> for ByteWeighter {
    fn weight(&self, _: &SessionKey, state: &CacheState<CachedSession>) -> u64 {
        let sealed = match state {
            CacheState::Pending { .. } => 0,
            CacheState::Filled { value, .. } => value.sealed.len(),
        };
        ENTRY_BYTES.saturating_add(u64::try_from(sealed).unwrap_or(u64::MAX))
    }
}

impl Weighter<UserTag, CacheState<RevocationCutoff>> for ByteWeighter {
    fn weight(&self, _: &UserTag, _: &CacheState<RevocationCutoff>) -> u64 {
        ENTRY_BYTES
    }
}

impl CacheShard {
    /// Creates a shard of about `bytes`, most of it for records.
    pub(super) fn new(bytes: u64) -> CacheShard {
        let cutoffs = bytes / 8;
        let entries = |bytes: u64| usize::try_from(bytes / ENTRY_BYTES / 2).unwrap_or(usize::MAX);
        CacheShard {
            records: Cache::with_weighter(entries(bytes), bytes - cutoffs, ByteWeighter),
            cutoffs: Cache::with_weighter(entries(cutoffs), cutoffs, ByteWeighter),
            hits: 0,
            misses: 0,
        }
    }

    /// Returns a session if both its record and its cutoff are cached.
    pub(super) fn get(&mut self, key: &SessionKey, generation: u64, now: u64) -> Option<Loaded> {
        let record = self.records.get(key).and_then(|state| state.get(generation, now));
        let cutoff = self.cutoffs.get(&key.tag).and_then(|state| state.get(generation, now));
        let (Some(record), Some(cutoff)) = (record, cutoff) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        let slot = Slot::Live { revision: record.revision, sealed: record.sealed.clone() };
        Some(Loaded { slot, touched: record.touched, user_cutoff: *cutoff })
    }

    /// Marks the keys of a load as pending. Valid values stay in place.
    pub(super) fn start_fill(&mut self, key: &SessionKey, token: FillToken) {
        let FillToken { id, generation, started } = token;
        if self.records.peek(key).and_then(|state| state.get(generation, started)).is_none() {
            self.records.insert(*key, CacheState::Pending { fill_id: id });
        }
        if self.cutoffs.peek(&key.tag).and_then(|state| state.get(generation, started)).is_none() {
            self.cutoffs.insert(key.tag, CacheState::Pending { fill_id: id });
        }
    }

    /// Caches the response where its mark remains.
    pub(super) fn complete_fill(&mut self, key: &SessionKey, token: FillToken, loaded: &Loaded) {
        self.complete_record(key, token, loaded);
        self.complete_cutoff(key.tag, token, loaded.user_cutoff);
    }

    fn complete_record(&mut self, key: &SessionKey, token: FillToken, loaded: &Loaded) {
        let Some(state) = self.records.peek(key) else { return };
        // Only live sessions are cached, because a rejection always requires a load.
        let Slot::Live { revision, sealed } = &loaded.slot else {
            self.records.remove(key);
            return;
        };
        let touched = match state {
            CacheState::Pending { fill_id } if *fill_id == token.id => loaded.touched,
            CacheState::Pending { .. } => return,
            // The value predates this load, or another load was faster. Only the touch can differ.
            CacheState::Filled { value, .. } if value.matches(*revision, sealed) => {
                self.update_touch(key, loaded.touched);
                return;
            }
            CacheState::Filled { .. } => {
                self.records.remove(key);
                return;
            }
        };
        let value = CachedSession { revision: *revision, sealed: sealed.clone(), touched };
        self.records.insert(
            *key,
            CacheState::Filled { generation: token.generation, started: token.started, value },
        );
    }

    fn complete_cutoff(&mut self, tag: UserTag, token: FillToken, cutoff: RevocationCutoff) {
        match self.cutoffs.peek(&tag) {
            Some(CacheState::Pending { fill_id }) if *fill_id == token.id => {
                let value = CacheState::Filled {
                    generation: token.generation,
                    started: token.started,
                    value: cutoff,
                };
                self.cutoffs.insert(tag, value);
            }
            Some(CacheState::Filled { value, .. }) if *value != cutoff => {
                self.invalidate_cutoff(&tag)
            }
            Some(CacheState::Pending { .. } | CacheState::Filled { .. }) | None => {}
        }
    }

    /// Updates the touch after the store recorded it. It never moves back.
    pub(super) fn update_touch(&mut self, key: &SessionKey, at: UnixMillis) {
        if let Some(mut state) = self.records.peek_mut(key)
            && let CacheState::Filled { value, .. } = &mut *state
        {
            value.touched = value.touched.max(at);
        }
    }

    /// Removes a session and cancels fills of it.
    pub(super) fn invalidate(&mut self, key: &SessionKey) {
        self.records.remove(key);
    }

    /// Removes a user's cutoff. This hides all their sessions, because a session is returned only
    /// with a cutoff.
    pub(super) fn invalidate_cutoff(&mut self, tag: &UserTag) {
        self.cutoffs.remove(tag);
    }

    pub(super) fn entries(&self) -> usize {
        self.records.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.records.weight().saturating_add(self.cutoffs.weight())
    }
}

impl<V> CacheState<V> {
    fn get(&self, now_era: u64, now: u64) -> Option<&V> {
        match self {
            CacheState::Filled { generation, started, value }
                if *generation == now_era && now.saturating_sub(*started) < MAX_AGE_MS =>
            {
                Some(value)
            }
            CacheState::Filled { .. } | CacheState::Pending { .. } => None,
        }
    }
}

impl CachedSession {
    fn matches(&self, revision: u64, sealed: &Bytes) -> bool {
        self.revision == revision && self.sealed == *sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{EndReason, SessionId};

    const KEY: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([2; 16]) };
    const OTHER: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([3; 16]) };
    const LATER: RevocationCutoff = RevocationCutoff { at: UnixMillis(5), except: None };

    fn token(id: u64) -> FillToken {
        FillToken { id, generation: 1, started: 1_000 }
    }

    fn live(revision: u64) -> Loaded {
        let sealed = Bytes::from(revision.to_string());
        Loaded {
            slot: Slot::Live { revision, sealed },
            touched: UnixMillis(10),
            user_cutoff: RevocationCutoff::default(),
        }
    }

    fn shard() -> CacheShard {
        CacheShard::new(100_000)
    }

    fn cached(shard: &mut CacheShard, key: &SessionKey) -> Option<Loaded> {
        shard.get(key, 1, 1_500)
    }

    fn load(shard: &mut CacheShard, key: &SessionKey, fill_id: u64, loaded: &Loaded) {
        shard.start_fill(key, token(fill_id));
        shard.complete_fill(key, token(fill_id), loaded);
    }

    #[test]
    fn a_loaded_session_is_cached_until_it_changes() {
        let mut shard = shard();
        assert_eq!(cached(&mut shard, &KEY), None);
        load(&mut shard, &KEY, 1, &live(1));
        assert_eq!(cached(&mut shard, &KEY), Some(live(1)));
        shard.invalidate(&KEY);
        assert_eq!(cached(&mut shard, &KEY), None);
        assert_eq!((shard.hits, shard.misses), (1, 2));
    }

    #[test]
    fn a_change_during_a_load_keeps_its_response_out_of_the_cache() {
        let mut shard = shard();
        shard.start_fill(&KEY, token(1));
        shard.invalidate(&KEY);
        shard.complete_fill(&KEY, token(1), &live(1));
        assert_eq!(cached(&mut shard, &KEY), None);
        shard.start_fill(&KEY, token(2));
        shard.invalidate_cutoff(&KEY.tag);
        shard.complete_fill(&KEY, token(2), &live(1));
        assert_eq!(cached(&mut shard, &KEY), None, "the cutoff predates the change");
    }

    #[test]
    fn a_changed_cutoff_hides_all_sessions_of_the_user() {
        let mut shard = shard();
        load(&mut shard, &KEY, 1, &live(1));
        load(&mut shard, &OTHER, 2, &live(1));
        shard.invalidate_cutoff(&KEY.tag);
        assert_eq!(cached(&mut shard, &KEY), None);
        assert_eq!(cached(&mut shard, &OTHER), None);
        load(&mut shard, &KEY, 3, &Loaded { user_cutoff: LATER, ..live(1) });
        let other = cached(&mut shard, &OTHER).expect("its record is unchanged");
        assert_eq!(other.user_cutoff, LATER, "with the new cutoff");
    }

    #[test]
    fn an_older_response_never_replaces_a_newer_one() {
        let mut shard = shard();
        shard.start_fill(&KEY, token(1));
        shard.invalidate(&KEY);
        shard.start_fill(&KEY, token(2));
        shard.complete_fill(&KEY, token(2), &live(2));
        shard.complete_fill(&KEY, token(1), &live(1));
        assert_ne!(cached(&mut shard, &KEY), Some(live(1)));
        load(&mut shard, &KEY, 3, &live(2));
        assert_eq!(cached(&mut shard, &KEY), Some(live(2)));
    }

    #[test]
    fn two_workers_that_load_the_same_session_leave_it_cached() {
        let mut shard = shard();
        shard.start_fill(&KEY, token(1));
        shard.start_fill(&KEY, token(2));
        shard.complete_fill(&KEY, token(1), &live(1));
        shard.complete_fill(&KEY, token(2), &live(1));
        assert_eq!(cached(&mut shard, &KEY), Some(live(1)));
    }

    #[test]
    fn absent_and_ended_sessions_are_not_cached() {
        let mut shard = shard();
        let ended = Slot::Ended { reason: EndReason::Logout, at: UnixMillis(3) };
        for slot in [Slot::Absent, ended] {
            load(&mut shard, &KEY, 1, &live(1));
            load(&mut shard, &KEY, 2, &Loaded { slot, ..live(1) });
            assert_eq!(cached(&mut shard, &KEY), None);
        }
    }

    #[test]
    fn a_response_that_differs_from_the_cache_removes_the_entry() {
        let mut shard = shard();
        load(&mut shard, &KEY, 1, &live(1));
        load(&mut shard, &KEY, 2, &live(2));
        assert_eq!(cached(&mut shard, &KEY), None, "the change has not arrived yet");
        load(&mut shard, &KEY, 3, &live(2));
        load(&mut shard, &KEY, 4, &Loaded { user_cutoff: LATER, ..live(2) });
        assert_eq!(cached(&mut shard, &KEY), None);
    }

    #[test]
    fn a_touch_only_advances_and_never_creates_an_entry() {
        let mut shard = shard();
        shard.update_touch(&KEY, UnixMillis(99));
        load(&mut shard, &KEY, 1, &live(1));
        shard.update_touch(&KEY, UnixMillis(20));
        shard.update_touch(&KEY, UnixMillis(15));
        assert_eq!(cached(&mut shard, &KEY).map(|cached| cached.touched), Some(UnixMillis(20)));
        load(&mut shard, &KEY, 2, &live(1));
        assert_eq!(cached(&mut shard, &KEY).map(|cached| cached.touched), Some(UnixMillis(20)));
    }

    #[test]
    fn a_value_expires_with_its_generation_or_after_a_minute() {
        let mut shard = shard();
        load(&mut shard, &KEY, 1, &live(1));
        assert_eq!(shard.get(&KEY, 2, 1_500), None);
        assert!(shard.get(&KEY, 1, 60_999).is_some());
        assert_eq!(shard.get(&KEY, 1, 61_000), None);
        let second = FillToken { id: 2, generation: 1, started: 61_000 };
        shard.start_fill(&KEY, second);
        shard.complete_fill(&KEY, second, &live(1));
        assert!(shard.get(&KEY, 1, 61_001).is_some());
    }

    #[test]
    fn the_shard_stays_within_its_byte_limit() {
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
