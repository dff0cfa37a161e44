use std::time::{Duration, Instant};

use super::{Auth, AuthRequest, DenyReason};
use crate::clock::{Clock, UnixMillis};
use crate::message::CookieLookup;
use crate::session::{EndReason, Refusal, RotationTiming, RoutePolicy};
use crate::sessions::test_support::{client, log_in, sessions};
use crate::sessions::{EndCause, NewToken};
use crate::store::{RedisSettings, Store};

const MINUTE: Duration = Duration::from_secs(60);

fn auth(store: &Store, clock: &Clock) -> Auth {
    Auth::new(sessions(store, clock))
}

fn with_keys_of(other: &Auth, auth: Auth) -> Auth {
    auth.shared().keys.store(other.shared().keys.load_full());
    auth
}

async fn verdict(auth: &Auth, cookie: &CookieLookup) -> Result<(), DenyReason> {
    authenticate(auth, cookie).await.map(|_| ())
}

/// Returns the rotated token.
async fn authenticate(auth: &Auth, cookie: &CookieLookup) -> Result<Option<NewToken>, DenyReason> {
    let request = AuthRequest {
        cookie,
        context: &client(),
        policy: &RoutePolicy::default(),
        timing: RotationTiming::WhenDue,
        is_activity: true,
        serve_stale_for: None,
    };
    auth.authenticate(&request).await.map(|session| session.token)
}

#[tokio::test]
async fn a_started_gateway_reads_the_global_cutoff_before_it_admits() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let store = Store::memory(clock.clone());
    let before = auth(&store, &clock);
    let token = log_in(before.sessions()).await;
    clock.advance(Duration::from_secs(1));
    before
        .sessions()
        .revoker
        .revoke_all_sessions(EndCause::operator(None), 0)
        .await
        .expect("ended");
    let started = with_keys_of(&before, auth(&store, &clock));
    assert_eq!(verdict(&started, &token).await, Err(DenyReason::Refused(Refusal::Revoked)));
}

#[tokio::test]
async fn a_global_cutoff_older_than_three_seconds_is_read_again() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let store = Store::memory(clock.clone());
    let auth = auth(&store, &clock);
    let token = log_in(auth.sessions()).await;
    assert_eq!(verdict(&auth, &token).await, Ok(()));
    store.revoke_all_users(clock.now()).await.expect("revoked");
    assert_eq!(verdict(&auth, &token).await, Ok(()), "not yet read again");
    clock.advance(Duration::from_secs(3));
    let denied = verdict(&auth, &token).await;
    assert!(
        denied == Err(DenyReason::Refused(Refusal::Revoked))
            || denied == Err(DenyReason::Ended(EndReason::Revoked)),
        "{denied:?}"
    );
}

#[tokio::test]
async fn a_login_starts_after_a_cutoff_unknown_to_this_gateway() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let store = Store::memory(clock.clone());
    let auth = auth(&store, &clock);
    log_in(auth.sessions()).await;
    // Set by a gateway whose clock is ahead.
    store.revoke_all_users(UnixMillis(1_060_000)).await.expect("revoked");
    let token = log_in(auth.sessions()).await;
    assert_eq!(verdict(&auth, &token).await, Ok(()), "a login that ends at once");
}

#[tokio::test]
async fn an_unreadable_global_cutoff_neither_admits_nor_logs_out() {
    let clock = Clock::manual(UnixMillis(1_000_000));
    let before = auth(&Store::memory(clock.clone()), &clock);
    let token = log_in(before.sessions()).await;
    // Nothing listens on port 1.
    let url = "redis://127.0.0.1:1".to_owned();
    let away = Store::redis(&RedisSettings { url, ..RedisSettings::default() });
    let started = with_keys_of(&before, auth(&away.expect("settings"), &clock));
    let denied = verdict(&started, &token).await;
    assert!(matches!(denied, Err(DenyReason::Unavailable(_))), "{denied:?}");
}

/// Each request waits for the one before it, which waits for the store.
#[tokio::test]
async fn concurrent_requests_each_have_one_deadline() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", silent.local_addr().expect("an address"));
    let response_timeout = Duration::from_millis(100);
    let settings = RedisSettings { url, response_timeout, ..RedisSettings::default() };
    let clock = Clock::manual(UnixMillis(1_000_000));
    let before = auth(&Store::memory(clock.clone()), &clock);
    let token = log_in(before.sessions()).await;
    let store = Store::redis(&settings).expect("settings");
    let deadline = store.request_deadline().expect("a network lies between");
    let auth = with_keys_of(&before, auth(&store, &clock));
    let created = Instant::now();
    let all = (0..4).map(|_| verdict(&auth, &token));
    for denied in futures_util::future::join_all(all).await {
        assert!(matches!(denied, Err(DenyReason::Unavailable(_))), "{denied:?}");
    }
    let took = created.elapsed();
    assert!(took < deadline + Duration::from_secs(1), "{took:?} of {deadline:?}");
}

/// Returns a gateway, a token that was rotated at minute 10 and used until minute 12, and its
/// predecessor. If `stopped` is set, the gateway stalled then and has just resumed.
async fn rotated_session(stopped: Option<Duration>) -> (Auth, CookieLookup, CookieLookup) {
    let started = UnixMillis(1_000_000);
    let clock = Clock::manual(started);
    let auth = auth(&Store::memory(clock.clone()), &clock);
    let old = log_in(auth.sessions()).await;
    clock.advance(10 * MINUTE);
    let offered = authenticate(&auth, &old).await.expect("it lives").expect("an offer");
    let new = CookieLookup::One(offered.text.as_bytes().to_vec());
    authenticate(&auth, &new).await.expect("promoted");
    clock.advance(2 * MINUTE);
    authenticate(&auth, &new).await.expect("in use");
    if let Some(stopped) = stopped {
        let connections = &auth.shared().connections;
        connections.heartbeat(Instant::now(), started.plus(stopped));
        connections.heartbeat(Instant::now() + 2 * MINUTE, clock.now());
    }
    (auth, old, new)
}

#[tokio::test]
async fn a_request_received_while_stalled_is_no_replay() {
    let (auth, old, new) = rotated_session(Some(10 * MINUTE + MINUTE / 2)).await;
    let denied = authenticate(&auth, &old).await.map(|_| ());
    assert!(matches!(denied, Err(DenyReason::Unavailable(_))), "{denied:?}");
    authenticate(&auth, &new).await.expect("it lives on");
}

#[tokio::test]
async fn a_token_superseded_before_the_stall_is_a_replay() {
    for stopped in [None, Some(11 * MINUTE + MINUTE / 2)] {
        let (auth, old, new) = rotated_session(stopped).await;
        let denied = authenticate(&auth, &old).await.map(|_| ());
        assert_eq!(denied, Err(DenyReason::Refused(Refusal::Theft)), "{stopped:?}");
        let ended = authenticate(&auth, &new).await.map(|_| ());
        assert_eq!(ended, Err(DenyReason::Ended(EndReason::Theft)), "{stopped:?}");
    }
}
