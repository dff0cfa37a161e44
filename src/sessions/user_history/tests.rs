use std::time::Duration;

use super::*;
use crate::clock::{Clock, UnixMillis};
use crate::session::UserTag;
use crate::sessions::test_support::sessions;
use crate::store::Store;

#[tokio::test]
async fn an_undecryptable_user_history_can_be_deleted() {
    let now = UnixMillis(1_800_000_000_000);
    let clock = Clock::manual(now);
    let store = Store::memory(clock.clone());
    let sessions = sessions(&store, &clock);
    let keys = sessions.shared().keys.load_full();
    let tag = UserTag(keys.user_tag("alice"));
    let until = now.plus(Duration::from_hours(24));
    let stored = store.swap_value(tag.into(), None, b"alice was in Paris", until).await;
    assert_eq!(stored, Ok(CommitOutcome::Swapped));
    assert_eq!(sessions.histories.delete(UserRef { tag, user: "alice" }).await, Ok(()));
    let left = store.value(tag.into()).await.expect("memory").expect("a history");
    let history = UserHistory::open(&keys, &tag, &left).expect("decryptable");
    assert_eq!((history.networks().count(), history.user_agents().count()), (0, 0));
    assert_eq!(
        sessions.histories.delete(sessions.shared().user_ref("nobody")).await,
        Ok(()),
        "nothing to delete"
    );
}
