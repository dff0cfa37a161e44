//! A missing keys file while Redis may have sessions of its keys.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::app;
use doorward::clock::Clock;
use doorward::config::Config;
use http::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use test_support::browser::Browser;
use test_support::gateway::{
    Gateway, PASSWORD, Setup, configuration, prepare_directory, session_route,
};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const TIMEOUT: Duration = Duration::from_secs(20);

fn setup(upstream: &Upstream, redis: &RedisServer, directory: &Arc<TempDir>) -> Setup {
    Setup {
        routes: session_route(upstream.address),
        store: redis.settings().url,
        shared_directory: Some(Arc::clone(directory)),
        ..Setup::default()
    }
}

async fn wait_until(what: &str, mut is_done: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_done().await {
        assert!(start.elapsed() < TIMEOUT, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn readiness(gateway: &Gateway) -> String {
    let mut stream = tokio::net::TcpStream::connect(gateway.admin).await.expect("connected");
    let request = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    response
}

/// Logs alice in and stops the gateway. Returns the browser.
async fn after_a_login(setup: Setup) -> Browser {
    let gateway = Gateway::start(setup);
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    browser
}

#[tokio::test]
async fn lost_keys_prevent_the_start_while_redis_has_sessions() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let directory = prepare_directory();
    after_a_login(setup(&upstream, &redis, &directory)).await;
    let keys = directory.path().join("keys.toml");
    fs::remove_file(&keys).expect("removed");
    let text = configuration(&setup(&upstream, &redis, &directory), &directory);
    let (config, _) = Config::parse(&text, "test.toml", directory.path()).expect("valid");
    let refused = app::start(config.clone(), Clock::System, None).err().expect("refused");
    assert!(refused.to_string().contains("copy it from another gateway"), "{refused}");
    assert!(!keys.exists());
    assert_eq!(redis.command(&["FLUSHALL"]), "+OK");
    app::start(config, Clock::System, None).expect("no session is left").stop();
    assert!(keys.exists());
}

#[tokio::test]
async fn lost_keys_end_no_session_if_redis_is_down_at_the_start() {
    let upstream = Upstream::start().await;
    let mut redis = RedisServer::start(RedisOptions::default());
    let directory = prepare_directory();
    let keys = directory.path().join("keys.toml");
    let mut browser = after_a_login(setup(&upstream, &redis, &directory)).await;
    let token = browser.token();
    let saved = fs::read(&keys).expect("the keys");
    fs::remove_file(&keys).expect("removed");
    assert_eq!(redis.command(&["SAVE"]), "+OK");
    redis.kill();
    let gateway = Gateway::start(setup(&upstream, &redis, &directory));
    browser = browser.at_gateway(&gateway);
    redis.restart();
    let message = "not ready: the keys file is missing";
    wait_until("the message", async || readiness(&gateway).await.contains(message)).await;
    // This gateway is the only client of the server since its restart.
    let is_searched = || redis.command(&["INFO", "commandstats"]).contains("cmdstat_scan");
    wait_until("the search", async || is_searched()).await;
    for page in [browser.fetch("/").await, browser.navigate("/").await] {
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{}", page.text());
        assert_eq!(page.set_cookies(), Vec::<String>::new());
    }
    let mut other = Browser::new(&gateway);
    let login = other.try_log_in("bob", PASSWORD, "/").await;
    assert_eq!(login.status, StatusCode::SERVICE_UNAVAILABLE, "{}", login.text());
    assert!(!keys.exists() && browser.token() == token);
    fs::write(&keys, saved).expect("restored");
    wait_until("the reload", async || readiness(&gateway).await.contains(" 200 ")).await;
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    other.log_in("bob").await;
}

#[tokio::test]
async fn a_new_gateway_creates_its_keys_when_redis_appears() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let directory = prepare_directory();
    let keys = directory.path().join("keys.toml");
    // Accepts connections, and does not respond.
    redis.pause();
    let gateway = Gateway::start(setup(&upstream, &redis, &directory));
    assert!(!keys.exists());
    redis.resume();
    wait_until("the keys file", async || keys.exists()).await;
    wait_until("readiness", async || readiness(&gateway).await.contains(" 200 ")).await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
}
