//! What several gateways on one Redis know without asking, and how soon they hear of an end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::browser::Browser;
use crate::gateway::{Gateway, Setup, route};
use crate::redis::{How, RedisServer};
use crate::upstream::Upstream;

/// Longest wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gateways on one Redis with the same keys and users; each follows the changes.
async fn several<const N: usize>(upstream: &Upstream, store: &str, more: &str) -> [Gateway; N] {
    let mut shared_with = None;
    let gateways = std::array::from_fn(|_| {
        let gateway = Gateway::start(Setup {
            routes: route(upstream.address),
            store: format!("{store}\"\n{more}\n#\""),
            shared_with: shared_with.clone(),
            ..Setup::default()
        });
        shared_with = Some(Arc::clone(&gateway.directory));
        gateway
    });
    for gateway in &gateways {
        until(async || number(gateway, "doorward_store_changes_age_seconds").await >= 0.0).await;
    }
    gateways
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "it does not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One number of a gateway's metrics.
async fn number(gateway: &Gateway, name: &str) -> f64 {
    let mut stream = TcpStream::connect(gateway.admin).await.expect("a connection");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().expect("a number")
}

/// How often Redis was asked for sessions, by its own count.
fn reads(redis: &RedisServer) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
    calls.map_or(0, |rest| rest.split(',').next().and_then(|n| n.parse().ok()).expect("a count"))
}

#[tokio::test]
async fn a_hot_session_costs_redis_no_round_trip() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(How::default()));
    let [gateway] = several(&upstream, &redis.settings().url, "").await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    // The word of the login may come after that, and then the next one asks again.
    until(async || {
        let before = reads(&redis);
        browser.fetch("/").await.status == StatusCode::OK && reads(&redis) == before
    })
    .await;

    let (began, before) = (Instant::now(), reads(&redis));
    let trips = number(&gateway, "doorward_store_round_trips_total").await;
    let known = number(&gateway, "doorward_session_cache_total{found=\"known\"}").await;
    for _ in 0..50 {
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    }
    assert_eq!(reads(&redis), before, "50 requests, and Redis was not asked");
    let known = number(&gateway, "doorward_session_cache_total{found=\"known\"}").await - known;
    assert!((known - 50.0).abs() < 0.1, "{known}");
    // Housekeeping asks for the line of all users once a second.
    let trips = number(&gateway, "doorward_store_round_trips_total").await - trips;
    assert!(trips <= began.elapsed().as_secs_f64() + 2.0, "{trips}");
}

#[tokio::test]
async fn without_the_cache_every_request_asks_redis() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(How::default()));
    let off = "local_cache = \"off\"";
    let [gateway] = several(&upstream, &redis.settings().url, off).await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let before = reads(&redis);
    for _ in 0..20 {
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    }
    assert_eq!(reads(&redis) - before, 20);
}

#[tokio::test]
async fn a_logout_at_one_gateway_reaches_what_the_other_knows_within_a_second() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(How::default()));
    let gateways: [Gateway; 2] = several(&upstream, &redis.settings().url, "").await;
    let mut browser = Browser::new(&gateways[0]);
    browser.log_in("alice").await;
    let mut other = browser.at(&gateways[1]);
    for _ in 0..3 {
        assert_eq!(other.fetch("/").await.status, StatusCode::OK);
    }
    let form = browser.visit("/.doorward/logout").await;
    browser.post_form("/.doorward/logout", &[("csrf", &form.field("csrf"))]).await;
    let began = Instant::now();
    until(async || other.fetch("/").await.status == StatusCode::UNAUTHORIZED).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(other.fetch("/").await.json()["reason"], "logout");
}
