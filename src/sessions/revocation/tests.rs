use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixMillis};
use crate::session::EndReason;
use crate::sessions::test_support::{live_session, log_in, sessions};
use crate::sessions::{EndCause, Sessions};
use crate::store::{MAX_LISTED, Store};

/// Starts an operation, then drops it while the disk writes.
fn hang_up<T>(ending: impl Future<Output = T>) {
    let _ = pin!(ending).poll(&mut Context::from_waker(Waker::noop()));
}

async fn wait_for_count(sessions: &Sessions, event: &str, times: usize) {
    let line = format!("doorward_session_events_total{{event=\"{event}\"}} {times}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !sessions.shared().metrics.render().contains(&line) {
        assert!(Instant::now() < deadline, "{}", sessions.shared().metrics.render());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_end_is_audited_even_if_its_caller_hung_up() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::embedded(directory.path(), clock.clone()).expect("a store");
    let sessions = sessions(&store, &clock);
    let session = live_session(&sessions).await;
    hang_up(sessions.revoker.end_session(&session, EndCause::gateway(EndReason::Logout)));
    wait_for_count(&sessions, "session.ended", 1).await;
    hang_up(sessions.revoker.revoke_user_sessions(
        sessions.shared().user_ref("alice"),
        None,
        EndCause::operator(None),
    ));
    wait_for_count(&sessions, "user.sessions-revoked", 1).await;
    hang_up(sessions.revoker.revoke_all_sessions(EndCause::operator(None), 10));
    wait_for_count(&sessions, "user.sessions-revoked", 2).await;
}

#[tokio::test]
async fn a_session_can_be_ended_by_handle_beyond_the_list_limit() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let sessions = sessions(&Store::memory(clock.clone()), &clock);
    let oldest = live_session(&sessions).await.key;
    for _ in 0..MAX_LISTED {
        clock.advance(Duration::from_millis(1));
        log_in(&sessions).await;
    }
    let handle = oldest.id.handle();
    let listed =
        sessions.list_user_sessions(&sessions.shared().user_tag("alice")).await.expect("available");
    assert!(listed.iter().all(|session| session.key != oldest), "a list has its limit");
    let session = sessions.find_session(&handle).await.expect("available").expect("it lives");
    assert_eq!((session.key, session.record.identity.user.as_str()), (oldest, "alice"));
    sessions.revoker.end_session(&session, EndCause::operator(None)).await.expect("ended");
    for handle in [handle.as_str(), "", "0123456789abcdef"] {
        assert!(sessions.find_session(handle).await.expect("available").is_none(), "{handle}");
    }
}
