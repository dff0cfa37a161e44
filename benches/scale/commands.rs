//! Measures the Redis commands per request.
//!
//! Simulates half an hour with a manual clock. Users send occasional requests through one gateway or through two in
//! turn; rotations, touches and reloads happen when they are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::print_figure;
use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

/// Number of users; limited by logins per address.
const USERS: usize = 24;
const MINUTES: u64 = 30;
/// Seconds between two requests of a user.
const EVERY: [u64; 2] = [2, 20];

pub async fn measure() {
    for (cache, sticky) in [("off", false), ("on", false), ("on", true)] {
        for every in EVERY {
            let figures = one(cache, sticky, every).await;
            print_figure(&figures);
        }
    }
}

async fn one(cache: &str, sticky: bool, every: u64) -> serde_json::Value {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let gateways = two(&upstream, &redis, cache);
    let watch = Watch::start(&redis).await;
    let idle_rate = idle(&watch).await;
    let mut users = Vec::new();
    for number in 0..USERS {
        let mut browser = Browser::new(&gateways[0]);
        browser.log_in(["alice", "bob", "zoë"][number % 3]).await;
        users.push(browser);
    }
    let (before, started) = (watch.commands(), tokio::time::Instant::now());
    let mut requests = 0;
    for second in 0..MINUTES * 60 {
        gateways[0].advance(Duration::from_secs(1));
        for (number, user) in users.iter_mut().enumerate() {
            if (second + number as u64).is_multiple_of(every) {
                let visits = if sticky { 0 } else { usize::try_from(second / every).unwrap_or(0) };
                let turn = visits + number;
                user.address = gateways[turn % 2].address;
                assert_eq!(user.fetch("/").await.status, 200);
                requests += 1;
            }
        }
    }
    // Background work of the gateways runs by the wall clock.
    let by_themselves = idle_rate * started.elapsed().as_secs_f64();
    let sent = (watch.commands() - before) as f64 - by_themselves;
    json!({
        "figure": "commands", "cache": cache, "sticky": sticky, "every": every, "users": USERS, "minutes": MINUTES,
        "requests": requests, "each": sent / f64::from(requests),
        "idle": idle_rate / gateways.len() as f64,
    })
}

fn two(upstream: &Upstream, redis: &RedisServer, cache: &str) -> [Gateway; 2] {
    let clock = manual_clock();
    // The next row of the table.
    let store = format!("{}\"\nlocal_cache = \"{cache}", redis.settings().url);
    let setup = |shared_directory| Setup {
        routes: session_route(upstream.address),
        store: store.clone(),
        clock: clock.clone(),
        shared_directory,
        ..Setup::default()
    };
    let first = Gateway::start(setup(None));
    let second = Gateway::start(setup(Some(Arc::clone(&first.directory))));
    [first, second]
}

/// Commands per second of two idle gateways.
async fn idle(watch: &Watch) -> f64 {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = watch.commands();
    tokio::time::sleep(Duration::from_secs(8)).await;
    (watch.commands() - before) as f64 / 8.0
}

/// Returns the number of client commands, without commands inside scripts.
struct Watch {
    seen: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Watch {
    async fn start(redis: &RedisServer) -> Watch {
        let address = redis.settings().url.trim_start_matches("redis://").to_owned();
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"MONITOR\r\n").await.expect("written");
        let seen = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if !line.contains(" lua] ") {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Watch { seen, task }
    }

    fn commands(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
