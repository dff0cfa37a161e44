//! Limits on failed logins: which attempts count, for whom, and at which gateways.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

/// The test is the load balancer, so it can choose the client address.
const BALANCER: &str = "trusted_proxies = [\"127.0.0.1\"]";

fn setup(upstream: &Upstream) -> Setup {
    Setup {
        routes: session_route(upstream.address),
        server: BALANCER.to_owned(),
        clock: manual_clock(),
        ..Setup::default()
    }
}

async fn gateway() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(setup(&upstream));
    (upstream, gateway)
}

/// A new browser at this client address.
fn browser_at(gateway: &Gateway, address: &str) -> Browser {
    let mut browser = Browser::new(gateway);
    browser.headers = vec![("x-forwarded-for", address.to_owned())];
    browser
}

async fn log_in_from(gateway: &Gateway, address: &str, user: &str, password: &str) -> Response {
    browser_at(gateway, address).try_log_in(user, password, "/").await
}

/// Posts wrong passwords with one form and returns the statuses.
async fn fail(gateway: &Gateway, attempts: impl Iterator<Item = (String, String)>) -> Vec<u16> {
    let mut browser = browser_at(gateway, "192.0.2.250");
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    let mut statuses = Vec::new();
    for (address, user) in attempts {
        browser.headers = vec![("x-forwarded-for", address)];
        let fields = [("username", &*user), ("password", "wrong"), ("csrf", &csrf)];
        statuses.push(browser.post_form("/.doorward/login", &fields).await.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn forty_right_passwords_behind_one_address_all_log_in() {
    let (_upstream, gateway) = gateway().await;
    let gateway = Arc::new(gateway);
    // The queue for hashes holds 32 attempts per core, so not all of them arrive at once.
    for _ in 0..4 {
        let mut logins = JoinSet::new();
        for _ in 0..10 {
            let gateway = Arc::clone(&gateway);
            logins
                .spawn(async move { log_in_from(&gateway, "192.0.2.1", "alice", PASSWORD).await });
        }
        while let Some(response) = logins.join_next().await {
            let response = response.expect("no panic");
            assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
        }
    }
}

#[tokio::test]
async fn a_success_costs_nothing_and_clears_the_failures() {
    let (_upstream, gateway) = gateway().await;
    for _ in 0..8 {
        let wrong = (0..9).map(|_| ("192.0.2.1".to_owned(), "alice".to_owned()));
        assert_eq!(fail(&gateway, wrong).await, [401; 9]);
        let right = log_in_from(&gateway, "192.0.2.1", "alice", PASSWORD).await;
        assert_eq!(right.status, StatusCode::SEE_OTHER, "{}", right.text());
        // The limit of the network remains charged.
        gateway.advance(Duration::from_secs(18));
    }
}

#[tokio::test]
async fn unknown_names_are_throttled_like_known_ones() {
    let (_upstream, gateway) = gateway().await;
    let wrong = |name: &'static str, address: &'static str| {
        (0..12).map(move |_| (address.to_owned(), name.to_owned()))
    };
    let known = fail(&gateway, wrong("alice", "192.0.2.1")).await;
    for (name, address) in [("nobody", "192.0.2.2"), ("Alice ", "192.0.2.3")] {
        assert_eq!(fail(&gateway, wrong(name, address)).await, known, "{name}");
    }
    assert_eq!((&known[..10], &known[10..]), (&[401; 10][..], &[429; 2][..]));
}

#[tokio::test]
async fn one_ipv6_48_cannot_spray_names_from_its_64s() {
    let (_upstream, gateway) = gateway().await;
    let spray = |prefix: &'static str| {
        (0..300).map(move |n| (format!("{prefix}:{n:x}::1"), format!("user{n}")))
    };
    let statuses = fail(&gateway, spray("2001:db8:1")).await;
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused >= 150, "{refused} of 300 refused");
    let response = log_in_from(&gateway, "2001:db8:2::1", "alice", PASSWORD).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
}

#[tokio::test]
async fn one_ipv4_24_cannot_spray_names_from_its_addresses() {
    let (_upstream, gateway) = gateway().await;
    let spray = (0..300).map(|n| (format!("203.0.113.{}", n % 250), format!("user{n}")));
    let statuses = fail(&gateway, spray).await;
    assert!(statuses.iter().filter(|status| **status == 429).count() >= 150, "{statuses:?}");
    let response = log_in_from(&gateway, "203.0.114.1", "alice", PASSWORD).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
}

#[tokio::test]
async fn other_networks_cannot_lock_out_a_known_place() {
    for home in ["198.51.100.7", "2001:db8:7:1::9"] {
        let (_upstream, gateway) = gateway().await;
        let first = log_in_from(&gateway, home, "alice", PASSWORD).await;
        assert_eq!(first.status, StatusCode::SEE_OTHER);
        let many = (0..150).map(|n| (format!("10.{n}.0.1"), "alice".to_owned()));
        let statuses = fail(&gateway, many).await;
        assert_eq!(statuses.last(), Some(&429), "an account has a limit for all networks");
        // Other addresses near the known place exhaust the limits of its wider networks as well.
        let neighbours = (0..200).map(|n| match home.contains(':') {
            true => (format!("2001:db8:7:{:x}::1", n + 16), format!("user{n}")),
            false => (format!("198.51.100.{}", n % 100 + 100), format!("user{n}")),
        });
        assert_eq!(fail(&gateway, neighbours).await.last(), Some(&429));
        let response = log_in_from(&gateway, "10.200.0.1", "alice", PASSWORD).await;
        assert_eq!(response.status, StatusCode::TOO_MANY_REQUESTS, "not a known place");
        let at_home = log_in_from(&gateway, home, "alice", PASSWORD).await;
        assert_eq!(at_home.status, StatusCode::SEE_OTHER, "{}", at_home.text());
    }
}

/// Guesses from a known place are limited. Otherwise the exemption would bypass the limits.
#[tokio::test]
async fn a_known_place_has_ten_failures_like_any_other() {
    let (_upstream, gateway) = gateway().await;
    log_in_from(&gateway, "198.51.100.7", "alice", PASSWORD).await;
    let wrong = (0..11).map(|_| ("198.51.100.7".to_owned(), "alice".to_owned()));
    let statuses = fail(&gateway, wrong).await;
    assert_eq!((&statuses[..10], statuses[10]), (&[401; 10][..], 429));
}

#[tokio::test]
async fn failures_count_at_all_gateways_on_one_redis() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let at_redis = |directory| Setup {
        store: redis.settings().url,
        shared_directory: directory,
        clock: doorward::clock::Clock::System,
        ..setup(&upstream)
    };
    let first = Gateway::start(at_redis(None));
    let second = Gateway::start(at_redis(Some(Arc::clone(&first.directory))));
    let wrong = |count| (0..count).map(|_| ("192.0.2.1".to_owned(), "alice".to_owned()));
    assert_eq!(fail(&first, wrong(5)).await, [401; 5]);
    let statuses = fail(&second, wrong(7)).await;
    assert_eq!(statuses[..5], [401; 5], "five of ten are left");
    assert_eq!(statuses.last(), Some(&429));
    let known = log_in_from(&first, "192.0.2.2", "alice", PASSWORD).await;
    assert_eq!(known.status, StatusCode::SEE_OTHER, "{}", known.text());
}

#[tokio::test]
async fn limits_hold_during_an_outage() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let gateway = Gateway::start(Setup { store: redis.settings().url, ..setup(&upstream) });
    let mut browser = browser_at(&gateway, "192.0.2.1");
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    redis.pause();
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let fields = [("username", "alice"), ("password", "wrong"), ("csrf", &*csrf)];
        statuses.push(browser.post_form("/.doorward/login", &fields).await.status.as_u16());
    }
    assert!(!statuses.contains(&303), "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429), "this gateway counts alone: {statuses:?}");
    let right = [("username", "bob"), ("password", PASSWORD), ("csrf", &*csrf)];
    let unavailable = browser.post_form("/.doorward/login", &right).await;
    assert_eq!(unavailable.status, StatusCode::SERVICE_UNAVAILABLE, "{}", unavailable.text());
    redis.resume();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let response = browser.post_form("/.doorward/login", &right).await;
        if response.status == StatusCode::SEE_OTHER {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "still locked out: {}", response.status);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn login_limits_are_settable() {
    let upstream = Upstream::start().await;
    let extra = "[login]\npair_failures = 3\npair_interval = \"1m\"\n".to_owned();
    let gateway = Gateway::start(Setup { extra, ..setup(&upstream) });
    let wrong = (0..4).map(|_| ("192.0.2.1".to_owned(), "alice".to_owned()));
    assert_eq!(fail(&gateway, wrong).await, [401, 401, 401, 429]);
    let refused = log_in_from(&gateway, "192.0.2.1", "alice", PASSWORD).await;
    assert_eq!(refused.header("retry-after"), "60");
}
