//! A request that goes away in the middle of a look-up must not leave its answer for the next one:
//! that is how one user came to see another's data (CVE-2023-28858, CVE-2023-28859).

#[path = "support/redis.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest of it")]
mod redis_server;

use std::time::Duration;

use doorward::clock::UnixMillis;
use doorward::session::{SessionId, SessionKey, UserTag};
use doorward::store::{Slot, Store};
use redis_server::{How, RedisServer};
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
