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
    let (load, loaded) = store.load_latest(&key).await.expect("available");
    let cache = &store.shared.cache;
    cache.suspend(&key);
    let keys = store.shared.keys.load_full();
    assert!(store.verify(&keys, &key, &load, loaded).is_ok());
    assert!(cache.live(&key).is_some());
    assert!(cache.stale(&key, MAX_CLOCK_SKEW, store.instant()).is_none());
}

/// Otherwise an upgrade of one gateway would log out users at the others.
#[tokio::test]
async fn a_record_of_a_newer_version_is_unavailable() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let sessions = sessions(&Store::memory(clock.clone()), &clock);
    let key = live_session(&sessions).await.key;
    let store = sessions.verified_store();
    let (load, mut loaded) = store.load_latest(&key).await.expect("available");
    let Slot::Live { revision, sealed } = loaded.slot else { panic!("it lives") };
    let newer = [&[6], &sealed[1..]].concat();
    loaded.slot = Slot::Live { revision: revision + 1, sealed: newer.into() };
    let keys = store.shared.keys.load_full();
    let Err(error) = store.verify(&keys, &key, &load, loaded) else { panic!("opened") };
    assert!(matches!(error, LoadError::Unavailable(_)));
}
