use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixMillis};
use crate::guard::global_revocation::tests::{guard, log_in};
use crate::guard::{Guard, RecoverableSession, SessionInfo};
use crate::session::EndReason;
use crate::store::{MAX_LISTED, Store};

/// Starts an operation, then drops it while the disk writes.
fn hang_up<T>(ending: impl Future<Output = T>) {
    let _ = pin!(ending).poll(&mut Context::from_waker(Waker::noop()));
}

async fn counts(guard: &Guard, times: usize) {
    let line = format!("doorward_session_events_total{{event=\"session.ended\"}} {times}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !guard.shared.metrics.render().contains(&line) {
        assert!(Instant::now() < deadline, "{}", guard.shared.metrics.render());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn opened(guard: &Guard) -> SessionInfo {
    let shown = log_in(guard).await;
    RecoverableSession::into_info(guard.find_recoverable(&shown).await.expect("available"))
        .expect("it lives")
}

#[tokio::test]
async fn an_end_is_audited_even_if_its_caller_hung_up() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::embedded(directory.path(), clock.clone()).expect("a store");
    let guard = guard(&store, &clock);
    let session = opened(&guard).await;
    hang_up(guard.end_session(&session, EndReason::Logout));
    counts(&guard, 1).await;
    hang_up(guard.revoke_user_sessions("alice", None));
    counts(&guard, 2).await;
    hang_up(guard.revoke_all_sessions());
    counts(&guard, 3).await;
}

#[tokio::test]
async fn a_session_can_be_ended_by_handle_beyond_the_list_limit() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let guard = guard(&Store::memory(clock.clone()), &clock);
    let oldest = opened(&guard).await.key;
    for _ in 0..MAX_LISTED {
        clock.advance(Duration::from_millis(1));
        log_in(&guard).await;
    }
    let handle = oldest.id.handle();
    let listed = guard.list_user_sessions("alice").await.expect("available");
    assert!(listed.iter().all(|session| session.key != oldest), "a list has its limit");
    let session = guard.find_session(&handle).await.expect("available").expect("it lives");
    assert_eq!((session.key, session.record.identity.user.as_str()), (oldest, "alice"));
    guard.end_session(&session, EndReason::Revoked).await.expect("ended");
    for handle in [handle.as_str(), "", "0123456789abcdef"] {
        assert!(guard.find_session(handle).await.expect("available").is_none(), "{handle}");
    }
}
