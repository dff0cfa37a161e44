//! Cancelled requests. Their replies must not go to another request, which would show one user
//! another user's data (CVE-2023-28858, CVE-2023-28859). Their failures must still count for the
//! circuit breaker.

use std::time::{Duration, Instant};

use doorward::clock::UnixMillis;
use doorward::session::{SessionId, SessionKey, UserTag};
use doorward::store::{RedisSettings, Slot, Store};
use test_support::redis_server::{RedisOptions, RedisServer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const LATER: UnixMillis = UnixMillis(1_800_050_000_000);
const SESSIONS: u8 = 40;

fn key(number: u8) -> SessionKey {
    SessionKey { tag: UserTag([number; 8]), id: SessionId([number; 16]) }
}

/// Asserts that a load returns its own session.
async fn assert_own_record(store: &Store, number: u8) {
    let loaded = store.load(&key(number)).await.expect("the server responds");
    let Slot::Live { sealed, .. } = loaded.slot else { panic!("{:?}", loaded.slot) };
    assert_eq!(sealed[..], [number; 64], "the reply of another load");
}

/// CVE-2023-28858, CVE-2023-28859.
#[tokio::test]
async fn the_reply_of_a_cancelled_load_goes_to_no_other_load() {
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = server.settings();
    settings.response_timeout = Duration::from_secs(20);
    let store = Store::redis(&settings).expect("good settings");
    for number in 0..SESSIONS {
        store.create(&key(number), &[number; 64], NOW, LATER).await.expect("written");
    }
    for round in 0..20 {
        // All loads are in flight when the server stops, and half of the callers cancel.
        server.pause();
        let mut leaving = JoinSet::new();
        let mut staying = JoinSet::new();
        for number in 0..SESSIONS {
            let store = store.clone();
            let tasks = if (number + round) % 2 == 0 { &mut leaving } else { &mut staying };
            tasks.spawn(async move { assert_own_record(&store, number).await });
        }
        for _ in 0..u64::from(round) {
            tokio::task::yield_now().await;
        }
        leaving.abort_all();
        server.resume();
        while let Some(done) = staying.join_next().await {
            done.expect("no panic");
        }
        assert_own_record(&store, round).await;
    }
}

/// A server that accepts connections and never replies.
async fn silent() -> (TcpListener, Store) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let store = Store::redis(&RedisSettings { url, ..RedisSettings::default() });
    (listener, store.expect("good settings"))
}

async fn fails_at_once(store: &Store) {
    let started = Instant::now();
    let error = store.load(&key(1)).await.expect_err("no reply");
    assert!(error.0.contains("circuit open"), "{error}");
    assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
}

/// All loads share one connection attempt. Sequential attempts would exceed the deadline of the
/// later ones.
#[tokio::test]
async fn an_unreachable_server_opens_the_circuit_after_a_few_requests() {
    let (_listener, store) = silent().await;
    let (started, mut all) = (Instant::now(), JoinSet::new());
    for number in 0..20 {
        let store = store.clone();
        all.spawn(async move { store.load(&key(number)).await.expect_err("no reply") });
    }
    all.join_all().await;
    fails_at_once(&store).await;
    assert!(started.elapsed() < Duration::from_millis(1_450), "{:?}", started.elapsed());
}

#[tokio::test]
async fn cancelled_requests_to_an_unreachable_server_open_the_circuit() {
    let (_listener, store) = silent().await;
    for number in 0..10 {
        let gone = tokio::time::timeout(Duration::from_millis(20), store.load(&key(number))).await;
        assert!(gone.is_err(), "all are cancelled");
    }
    let started = Instant::now();
    while store.stats().expect("a shared store").open_circuits == 0 {
        assert!(started.elapsed() < Duration::from_secs(5), "the circuit never opens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fails_at_once(&store).await;
}
