use super::*;
use crate::clock::Clock;
use crate::sessions::test_support::{live_session, sessions};

/// A response may wait here while the process is busy.
#[tokio::test]
async fn a_read_before_a_requested_end_is_not_served_stale() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let sessions = sessions(&Store::memory(clock.clone()), &clock);
    let key = live_session(&sessions).await.key;
    let store = sessions.verified_store();
    let (requested_at, loaded) =
        (Instant::now(), store.load_latest(&key).await.expect("available"));
    let cache = &store.shared.cache;
    cache.suspend(&key);
    // Times are compared in whole milliseconds.
    std::thread::sleep(Duration::from_millis(5));
    let keys = store.shared.keys.load_full();
    assert!(store.verify(&keys, &key, loaded, requested_at).is_ok());
    let Some(CacheEntry::Live(cached)) = cache.get(&key) else { panic!("it lives") };
    assert_eq!(cache.confirmed_within(&cached, MAX_CLOCK_SKEW, clock.now()), None);
}
