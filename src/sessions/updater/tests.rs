use std::time::Duration;

use crate::clock::{Clock, UnixMillis};
use crate::sessions::test_support::{live_session, sessions};
use crate::store::Store;

#[tokio::test]
async fn activity_does_not_extend_a_session_awaiting_reauthentication() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let store = Store::memory(clock.clone());
    let sessions = sessions(&store, &clock);
    let key = live_session(&sessions).await.key;
    let updater = &sessions.updater;
    let touched = async || store.load(&key).await.expect("memory").touched;
    clock.advance(Duration::from_mins(1));
    assert_eq!(updater.touch(&key).await, Ok(()));
    assert_eq!(touched().await, clock.now());
    let verified = updater.store.load_live(&key).await.expect("available").expect("it lives");
    let keys = sessions.shared().keys.load_full();
    assert_eq!(updater.write_reauth_required(&keys, &key, &verified).await, Ok(true));
    let before = touched().await;
    clock.advance(Duration::from_mins(1));
    assert_eq!(updater.touch(&key).await, Ok(()));
    assert_eq!(touched().await, before);
}
