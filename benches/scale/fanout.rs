//! Measures the cost of invalidations by broadcast tracking in Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use doorward::store::Store;

use crate::print_figure;
use crate::sessions::Sessions;
use test_support::redis_server::{RedisOptions, RedisServer};

const GATEWAYS: [u64; 4] = [0, 1, 10, 100];
const SESSIONS: u64 = 10_000;
/// Number of rotations per measurement, in rounds over all sessions.
const ROUNDS: u64 = 5;

pub async fn measure() {
    for gateways in GATEWAYS {
        let redis = RedisServer::start(RedisOptions::default());
        let store = Store::redis(&redis.settings()).expect("a store");
        let sessions = Sessions::new();
        let received = Arc::new(AtomicU64::new(0));
        let _listeners = listen(&redis, gateways, &received).await;
        let (fresh, shared) = (sessions.clone(), store.clone());
        Sessions::each(SESSIONS, move |number| {
            let (sessions, store) = (fresh.clone(), shared.clone());
            async move { sessions.create(&store, number).await }
        })
        .await;
        if gateways == 0 {
            loads(&redis, &store, &sessions).await;
        }
        let before = (cpu(&redis), received.load(Ordering::SeqCst));
        for revision in 1..=ROUNDS {
            let (sessions, store) = (sessions.clone(), store.clone());
            Sessions::each(SESSIONS, move |number| {
                let (sessions, store) = (sessions.clone(), store.clone());
                async move { sessions.rotate(&store, number, revision).await }
            })
            .await;
        }
        let writes = (SESSIONS * ROUNDS) as f64;
        let bytes = received.load(Ordering::SeqCst) - before.1;
        print_figure(&json!({
            "figure": "fan-out", "gateways": gateways,
            "redis": (cpu(&redis) - before.0) / writes * 1e6,
            "bytes": if gateways == 0 { 0.0 } else { bytes as f64 / writes / gateways as f64 },
        }));
    }
}

/// Measures one load: record, touch and cutoff in one command.
async fn loads(redis: &RedisServer, store: &Store, sessions: &Sessions) {
    let before = cpu(redis);
    for _ in 0..ROUNDS {
        let (sessions, store) = (sessions.clone(), store.clone());
        Sessions::each(SESSIONS, move |number| {
            let (key, store) = (sessions.key(number), store.clone());
            async move { drop(store.load(&key).await.expect("loaded")) }
        })
        .await;
    }
    let each = (cpu(redis) - before) / (SESSIONS * ROUNDS) as f64 * 1e6;
    print_figure(&json!({ "figure": "load", "redis": each }));
}

/// Opens connections that receive all invalidations, as gateways do.
async fn listen(redis: &RedisServer, gateways: u64, received: &Arc<AtomicU64>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for _ in 0..gateways {
        let address = redis.settings().url.trim_start_matches("redis://").to_owned();
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let hello = b"HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX dw:everyone PREFIX dw:nb: PREFIX dw:s:\r\n";
        stream.write_all(hello).await.expect("written");
        let received = Arc::clone(received);
        all.spawn(async move {
            let mut buffer = vec![0; 64 * 1_024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                received.fetch_add(read as u64, Ordering::SeqCst);
            }
        });
    }
    all
}

/// Returns the CPU seconds that Redis reports.
fn cpu(redis: &RedisServer) -> f64 {
    let text = redis.command(&["INFO", "cpu"]);
    let of = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).expect("a line of INFO")
    };
    of("used_cpu_sys:") + of("used_cpu_user:")
}
