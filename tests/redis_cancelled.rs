//! A request that goes away in the middle of a look-up must not leave its answer for the next one:
//! that is how one user came to see another's data (CVE-2023-28858, CVE-2023-28859). Nor may it take along
//! what it found out of the server.

#[path = "support/redis.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest of it")]
mod redis_server;

use std::time::{Duration, Instant};

use doorward::clock::UnixMillis;
use doorward::session::{SessionId, SessionKey, UserTag};
use doorward::store::{RedisSettings, Slot, Store};
use redis_server::{How, RedisServer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const LATER: UnixMillis = UnixMillis(1_800_050_000_000);
const SESSIONS: u8 = 40;

fn key(number: u8) -> SessionKey {
    SessionKey { tag: UserTag([number; 8]), id: SessionId([number; 16]) }
}

/// Asserts that what stands under a key is what was written there.
async fn is_its_own(store: &Store, number: u8) {
    let loaded = store.load(&key(number)).await.expect("the server answers");
    let Slot::Live { sealed, .. } = loaded.slot else { panic!("{:?}", loaded.slot) };
    assert_eq!(sealed[..], [number; 64], "the answer to another question");
}

#[tokio::test]
async fn cve_2023_28858_a_look_up_that_was_cancelled_leaves_its_answer_to_nobody() {
    let server = RedisServer::start(How::default());
    let mut settings = server.settings();
    settings.response_timeout = Duration::from_secs(20);
    let store = Store::redis(&settings).expect("good settings");
    for number in 0..SESSIONS {
        store.create(&key(number), &[number; 64], NOW, LATER).await.expect("written");
    }
    for round in 0..20 {
        // All are on their way when the server stops answering, and half of the callers leave.
        server.pause();
        let mut leaving = JoinSet::new();
        let mut staying = JoinSet::new();
        for number in 0..SESSIONS {
            let store = store.clone();
            let tasks = if (number + round) % 2 == 0 { &mut leaving } else { &mut staying };
            tasks.spawn(async move { is_its_own(&store, number).await });
        }
        for _ in 0..u64::from(round) {
            tokio::task::yield_now().await;
        }
        leaving.abort_all();
        server.resume();
        while let Some(done) = staying.join_next().await {
            done.expect("each stays with its own answer");
        }
        is_its_own(&store, round).await;
    }
}

/// A host that takes connections and says nothing, as one that is off behind a router that does.
async fn silent() -> (TcpListener, Store) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let store = Store::redis(&RedisSettings { url, ..RedisSettings::default() });
    (listener, store.expect("good settings"))
}

async fn refuses_at_once(store: &Store) {
    let asked = Instant::now();
    let error = store.load(&key(1)).await.expect_err("nobody answers");
    assert!(error.0.contains("left alone"), "{error}");
    assert!(asked.elapsed() < Duration::from_millis(250), "{:?}", asked.elapsed());
}

/// They wait for one dial. Were they to dial one after the other, the others' time would be over first.
#[tokio::test]
async fn a_server_that_cannot_be_reached_is_left_alone_after_a_few_requests() {
    let (_listener, store) = silent().await;
    let (asked, mut all) = (Instant::now(), JoinSet::new());
    for number in 0..20 {
        let store = store.clone();
        all.spawn(async move { store.load(&key(number)).await.expect_err("nobody answers") });
    }
    all.join_all().await;
    refuses_at_once(&store).await;
    assert!(asked.elapsed() < Duration::from_millis(1_450), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_left_alone_also_when_nobody_waited_for_that() {
    let (_listener, store) = silent().await;
    for number in 0..10 {
        let gone = tokio::time::timeout(Duration::from_millis(20), store.load(&key(number))).await;
        assert!(gone.is_err(), "they all went away");
    }
    let asked = Instant::now();
    while store.figures().expect("a shared store").left_alone == 0 {
        assert!(asked.elapsed() < Duration::from_secs(5), "nobody ever heard of it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    refuses_at_once(&store).await;
}
