//! Measures the memory of sessions in Redis.

use serde_json::json;

use doorward::store::Store;

use crate::print_figure;
use crate::sessions::Sessions;
use test_support::redis_server::{RedisOptions, RedisServer};

/// Fills an empty Redis with `count` sessions, then touches each.
pub async fn measure(count: u64) {
    let redis = RedisServer::start(RedisOptions::default());
    let store = Store::redis(&redis.settings()).expect("a store");
    let sessions = Sessions::new();
    let empty = info(&redis, "memory", "used_memory");
    let (filled, touched) = (sessions.clone(), sessions.clone());
    let (store_1, store_2) = (store.clone(), store.clone());
    Sessions::each(count, move |number| {
        let (sessions, store) = (filled.clone(), store_1.clone());
        async move { sessions.create(&store, number).await }
    })
    .await;
    let full = info(&redis, "memory", "used_memory");
    Sessions::each(count, move |number| {
        let (sessions, store) = (touched.clone(), store_2.clone());
        async move { sessions.touch(&store, number).await }
    })
    .await;
    let active = info(&redis, "memory", "used_memory");
    let each = |bytes: u64| bytes as f64 / count as f64;
    print_figure(&json!({
        "figure": "redis memory", "sessions": count,
        "sealed": sessions.sealed(0).len(),
        "begun": each(full - empty), "active": each(active - empty),
        "resident": each(info(&redis, "memory", "used_memory_rss")),
    }));
}

/// Returns a number from `INFO`.
fn info(redis: &RedisServer, section: &str, name: &str) -> u64 {
    let text = redis.command(&["INFO", section]);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a line of INFO").trim().parse().expect("a number")
}
