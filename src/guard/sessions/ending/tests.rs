use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixMillis};
use crate::guard::everyone::tests::{guard, log_in};
use crate::guard::{Guard, LivesOn, Opened};
use crate::session::EndReason;
use crate::store::{LISTED_MOST, Store};

/// Begins to end something, and hangs up while the disk writes.
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

async fn opened(guard: &Guard) -> Opened {
    let shown = log_in(guard).await;
    LivesOn::session(guard.lives_on(&shown).await.expect("available")).expect("it lives")
}

#[tokio::test]
async fn an_end_is_told_also_when_whoever_asked_for_it_hung_up() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::embedded(directory.path(), clock.clone()).expect("a store");
    let guard = guard(&store, &clock);
    let session = opened(&guard).await;
    hang_up(guard.end_session(&session, EndReason::Logout));
    counts(&guard, 1).await;
    hang_up(guard.end_all("alice", None));
    counts(&guard, 2).await;
    hang_up(guard.end_everybody());
    counts(&guard, 3).await;
}

#[tokio::test]
async fn an_operator_ends_one_session_by_its_handle_however_many_its_user_has() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let guard = guard(&Store::memory(clock.clone()), &clock);
    let oldest = opened(&guard).await.key;
    for _ in 0..LISTED_MOST {
        clock.advance(Duration::from_millis(1));
        log_in(&guard).await;
    }
    let handle = oldest.id.handle();
    let listed = guard.sessions_of("alice").await.expect("available");
    assert!(listed.iter().all(|session| session.key != oldest), "a list has its limit");
    let session = guard.session_of(&handle).await.expect("available").expect("it lives");
    assert_eq!((session.key, session.record.identity.user.as_str()), (oldest, "alice"));
    guard.end_session(&session, EndReason::Revoked).await.expect("ended");
    for handle in [handle.as_str(), "", "0123456789abcdef"] {
        assert!(guard.session_of(handle).await.expect("available").is_none(), "{handle}");
    }
}
