use std::net::IpAddr;

use bytes::Bytes;

use super::*;
use crate::session::{ClientContext, EndReason, Identity, Record, SessionId, Token};

const KEY: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([2; 16]) };
const OTHER: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([3; 16]) };
const LATER: RevocationCutoff = RevocationCutoff { at: UnixMillis(5), except: None };
const WALL: UnixMillis = UnixMillis(1_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn at(monotonic: u64) -> DualInstant {
    DualInstant { monotonic, wall: WALL }
}

/// A cache whose freshness is confirmed at 1,000 ms.
fn cache() -> SessionCache {
    let cache = SessionCache::new(true);
    cache.freshness.confirm(at(1_000));
    cache
}

fn record() -> Arc<Record> {
    let token = Token::new(1, KEY, 0, [3; 32]);
    let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
    Arc::new(Record::new(Identity::default(), &token, WALL, WALL.plus(HOUR), from))
}

fn copy(revision: u64) -> CachedRecord {
    CachedRecord { revision, sealed: Bytes::from(revision.to_string()), record: record() }
}

/// The response with a record, last touched at 10.
fn live(revision: u64) -> Loaded {
    let slot = Slot::Live { revision, sealed: copy(revision).sealed };
    Loaded { slot, touched: UnixMillis(10), user_cutoff: RevocationCutoff::default() }
}

/// Does what the verification of a response does.
fn complete(cache: &SessionCache, key: &SessionKey, load: &PendingLoad, loaded: &Loaded) {
    if cache.confirm_unchanged(key, load, loaded).is_some() {
        return;
    }
    cache.insert_loaded_cutoff(&key.tag, load, loaded.user_cutoff);
    match &loaded.slot {
        Slot::Live { revision, .. } => match cache.get(key) {
            SessionState::Live(before) if *revision < before.revision => {
                cache.keep_newer(key, load, loaded.touched);
            }
            SessionState::Live(_) | SessionState::Ended { .. } | SessionState::Unknown => {
                cache.insert_loaded(key, load, copy(*revision), loaded.touched);
            }
        },
        Slot::Ended { reason, .. } => cache.insert_end(key, *reason, WALL.plus(HOUR)),
        Slot::Absent => cache.remove_proof(key),
    }
}

fn load(cache: &SessionCache, key: &SessionKey, loaded: &Loaded) {
    complete(cache, key, &cache.start_load(key, at(1_000)), loaded);
}

/// The revision, touch and cutoff with which a request would be admitted.
fn found(cache: &SessionCache, key: &SessionKey) -> Option<(u64, UnixMillis, RevocationCutoff)> {
    let found = cache.lookup(key, at(1_500))?;
    Some((found.revision, found.touched, found.user_cutoff))
}

fn revision(cache: &SessionCache, key: &SessionKey) -> Option<u64> {
    found(cache, key).map(|(revision, _, _)| revision)
}

#[test]
fn a_loaded_session_is_found_until_it_changes() {
    let cache = cache();
    assert_eq!(found(&cache, &KEY), None);
    load(&cache, &KEY, &live(1));
    let expected = (1, UnixMillis(10), RevocationCutoff::default());
    assert_eq!(found(&cache, &KEY), Some(expected));
    cache.invalidate(StoreChange::Session(KEY));
    assert_eq!(found(&cache, &KEY), None);
    let stats = cache.stats().expect("it can be found");
    assert_eq!((stats.hits, stats.misses, stats.entries), (1, 2, 1));
}

/// Guard: the mark in `Proof::complete`.
#[test]
fn a_response_from_before_a_change_proves_nothing() {
    let cache = cache();
    for change in [
        StoreChange::Session(KEY),
        StoreChange::UserCutoff(KEY.tag),
        StoreChange::GlobalCutoff,
        StoreChange::Everything,
    ] {
        let pending = cache.start_load(&KEY, at(1_000));
        cache.invalidate(change);
        complete(&cache, &KEY, &pending, &live(1));
        assert_eq!(found(&cache, &KEY), None, "{change:?}");
        load(&cache, &KEY, &live(1));
        assert!(found(&cache, &KEY).is_some(), "{change:?}: the next load proves it");
        cache.invalidate(StoreChange::Everything);
    }
}

#[test]
fn a_changed_cutoff_removes_the_proof_of_all_sessions() {
    let cache = cache();
    load(&cache, &KEY, &live(1));
    load(&cache, &OTHER, &live(1));
    cache.invalidate(StoreChange::UserCutoff(KEY.tag));
    assert_eq!((found(&cache, &KEY), found(&cache, &OTHER)), (None, None));
    load(&cache, &KEY, &Loaded { user_cutoff: LATER, ..live(1) });
    let (_, _, cutoff) = found(&cache, &OTHER).expect("its record is unchanged");
    assert_eq!(cutoff, LATER, "with the new cutoff");
}

#[test]
fn an_older_response_never_replaces_a_newer_one() {
    let cache = cache();
    let first = cache.start_load(&KEY, at(1_000));
    cache.invalidate(StoreChange::Session(KEY));
    let second = cache.start_load(&KEY, at(1_000));
    complete(&cache, &KEY, &second, &live(2));
    complete(&cache, &KEY, &first, &live(1));
    assert_ne!(revision(&cache, &KEY), Some(1));
    load(&cache, &KEY, &live(2));
    assert_eq!(revision(&cache, &KEY), Some(2));
}

#[test]
fn two_workers_that_load_the_same_session_prove_it() {
    let cache = cache();
    let [first, second] = [1_000, 1_000].map(|time| cache.start_load(&KEY, at(time)));
    complete(&cache, &KEY, &first, &live(1));
    complete(&cache, &KEY, &second, &live(1));
    assert_eq!(revision(&cache, &KEY), Some(1));
}

#[test]
fn absent_and_ended_sessions_are_not_found() {
    let cache = cache();
    let ended = Slot::Ended { reason: EndReason::Logout, at: UnixMillis(3) };
    for slot in [Slot::Absent, ended] {
        load(&cache, &KEY, &live(1));
        load(&cache, &KEY, &Loaded { slot, ..live(1) });
        assert_eq!(found(&cache, &KEY), None);
    }
}

#[test]
fn a_response_that_differs_from_a_proven_value_removes_its_proof() {
    let cache = cache();
    load(&cache, &KEY, &live(1));
    load(&cache, &KEY, &live(2));
    assert_eq!(found(&cache, &KEY), None, "the change has not arrived yet");
    load(&cache, &KEY, &live(2));
    load(&cache, &KEY, &Loaded { user_cutoff: LATER, ..live(2) });
    assert_eq!(found(&cache, &KEY), None);
}

/// Otherwise a store that went back would be trusted after the first report.
#[test]
fn a_record_or_cutoff_older_than_the_newest_is_never_proven() {
    let cache = cache();
    load(&cache, &KEY, &Loaded { user_cutoff: LATER, ..live(2) });
    for older in [live(2), Loaded { user_cutoff: LATER, ..live(1) }] {
        cache.invalidate(StoreChange::Everything);
        for _ in 0..2 {
            load(&cache, &KEY, &older);
            assert_eq!(found(&cache, &KEY), None, "{older:?}");
        }
    }
    load(&cache, &KEY, &Loaded { user_cutoff: LATER, ..live(2) });
    assert_eq!(revision(&cache, &KEY), Some(2));
}

#[test]
fn a_touch_only_advances_and_never_creates_an_entry() {
    let cache = cache();
    cache.update_touch(&KEY, UnixMillis(99));
    load(&cache, &KEY, &live(1));
    cache.update_touch(&KEY, UnixMillis(20));
    cache.update_touch(&KEY, UnixMillis(15));
    let touched = |cache: &SessionCache| found(cache, &KEY).map(|(_, touched, _)| touched);
    assert_eq!(touched(&cache), Some(UnixMillis(20)));
    load(&cache, &KEY, &live(1));
    assert_eq!(touched(&cache), Some(UnixMillis(20)));
}

#[test]
fn a_proof_ends_with_its_generation_or_after_a_minute() {
    let cache = cache();
    load(&cache, &KEY, &live(1));
    cache.freshness.confirm(at(60_999));
    assert!(cache.lookup(&KEY, at(60_999)).is_some());
    assert!(cache.lookup(&KEY, at(61_000)).is_none());
    complete(&cache, &KEY, &cache.start_load(&KEY, at(61_000)), &live(1));
    assert!(cache.lookup(&KEY, at(61_001)).is_some());
    cache.flush(FlushCause::Connected);
    assert!(cache.lookup(&KEY, at(61_001)).is_none());
}

/// Guard: `is_fresh` in `lookup` and in `start_load`.
#[test]
fn nothing_is_found_or_proven_without_freshness() {
    let cache = cache();
    load(&cache, &KEY, &live(1));
    assert!(cache.lookup(&KEY, at(3_999)).is_some());
    assert!(cache.lookup(&KEY, at(4_000)).is_none());
    cache.freshness.reset();
    assert!(cache.lookup(&KEY, at(1_500)).is_none());
    let pending = cache.start_load(&OTHER, at(1_000));
    cache.freshness.confirm(at(1_000));
    complete(&cache, &OTHER, &pending, &live(1));
    assert_eq!(found(&cache, &OTHER), None, "its load began unconfirmed");
}

#[test]
fn a_store_that_pushes_no_changes_proves_nothing() {
    let cache = SessionCache::new(false);
    cache.freshness.confirm(at(1_000));
    load(&cache, &KEY, &live(1));
    assert_eq!(found(&cache, &KEY), None);
    assert!(cache.live(&KEY).is_some(), "it saves the decryption");
}

#[test]
fn the_cache_stays_within_its_byte_limit() {
    let cache = cache();
    for number in 0..40_000_u64 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        // The first byte of the tag selects the shard.
        let key = SessionKey { tag: UserTag(number.to_be_bytes()), id: SessionId(id) };
        load(&cache, &key, &live(1));
    }
    let stats = cache.stats().expect("it can be found");
    let limit = MAX_SESSION_BYTES / SHARDS as u64;
    assert!(stats.bytes <= limit, "{}", stats.bytes);
    assert!(stats.entries > 1_000, "{}", stats.entries);
}

/// A rotation may complete while the session is ended.
#[test]
fn a_late_record_does_not_replace_an_end() {
    let cache = cache();
    load(&cache, &KEY, &live(1));
    cache.insert_end(&KEY, EndReason::Logout, WALL.plus(HOUR));
    cache.insert_written(&KEY, copy(2), at(1_000));
    load(&cache, &KEY, &live(2));
    assert!(matches!(cache.get(&KEY), SessionState::Ended { .. }));
    assert_eq!(found(&cache, &KEY), None);
}

#[test]
fn a_written_record_replaces_another_whatever_its_revision() {
    let cache = cache();
    load(&cache, &KEY, &live(7));
    // A store that went back continues from its old revision.
    cache.insert_written(&KEY, copy(4), at(1_000));
    assert!(matches!(cache.get(&KEY), SessionState::Live(cached) if cached.revision == 4));
    assert_eq!(found(&cache, &KEY), None, "a write is no proof");
}

#[test]
fn only_a_load_after_a_suspension_serves_stale() {
    let cache = cache();
    let (now, later) = (DualInstant::now(), |millis| {
        let now = DualInstant::now();
        DualInstant { monotonic: now.monotonic + millis, ..now }
    });
    complete(&cache, &KEY, &PendingLoad { at: now, id: None }, &live(1));
    assert!(cache.stale(&KEY, HOUR, now).is_some());
    cache.suspend(&KEY);
    assert!(cache.stale(&KEY, HOUR, now).is_none());
    cache.insert_written(&KEY, copy(2), now);
    assert!(cache.stale(&KEY, HOUR, now).is_none(), "the write began before");
    complete(&cache, &KEY, &PendingLoad { at: later(2), id: None }, &live(2));
    assert!(cache.stale(&KEY, HOUR, later(2)).is_some());
    assert!(cache.stale(&KEY, Duration::from_millis(1), later(60_000)).is_none());
}
