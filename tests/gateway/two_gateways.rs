//! Two gateways with one Redis make the same decisions about a session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

/// Starts two gateways with the same clock, keys and users.
fn two(upstream: &Upstream, redis: &RedisServer) -> [Gateway; 2] {
    let setup = Setup {
        routes: session_route(upstream.address),
        store: redis.settings().url,
        clock: manual_clock(),
        ..Setup::default()
    };
    let clock = setup.clock.clone();
    let first = Gateway::start(setup);
    let second = Gateway::start(Setup {
        routes: session_route(upstream.address),
        store: redis.settings().url,
        clock,
        shared_directory: Some(Arc::clone(&first.directory)),
        ..Setup::default()
    });
    [first, second]
}

fn offered(lines: &[String]) -> impl Iterator<Item = String> {
    let ours = lines.iter().filter_map(|line| line.strip_prefix(SESSION)?.strip_prefix('='));
    ours.map(|rest| rest.split(';').next().unwrap_or_default().to_owned())
}

/// Invariant S2.
#[tokio::test]
async fn parallel_rotation_at_two_gateways_gives_one_successor() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let gateways = two(&upstream, &redis);
    let mut browser = Browser::new(&gateways[0]);
    browser.log_in("alice").await;
    gateways[0].advance(Duration::from_secs(601));

    let mut all = JoinSet::new();
    for number in 0..64 {
        let mut tab = browser.at_gateway(&gateways[number % 2]);
        all.spawn(async move { tab.fetch("/").await });
    }
    let mut successors = BTreeSet::new();
    while let Some(response) = all.join_next().await {
        let response = response.expect("no panic");
        assert_eq!(response.status, StatusCode::OK, "{}", response.text());
        successors.extend(offered(&response.set_cookies()));
    }
    assert_eq!(successors.len(), 1, "one successor for all requests");

    let old = browser.token();
    let successor = successors.pop_first().expect("one");
    let mut rotated = browser.at_gateway(&gateways[1]).with_token(&successor);
    assert_eq!(rotated.fetch("/").await.status, StatusCode::OK);
    let mut late = browser.at_gateway(&gateways[0]).with_token(&old);
    assert_eq!(late.fetch("/").await.status, StatusCode::OK, "within grace");

    gateways[0].advance(Duration::from_secs(100));
    assert_eq!(rotated.fetch("/").await.status, StatusCode::OK);
    gateways[0].advance(Duration::from_secs(31));
    let attacker = late.fetch("/").await;
    assert_eq!(attacker.json()["reason"], "theft");
    let victim = rotated.fetch("/").await;
    assert_eq!(
        (victim.status, victim.json()["reason"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("theft"))
    );
}

#[tokio::test]
async fn logout_at_one_gateway_applies_at_the_other() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let gateways = two(&upstream, &redis);
    let mut browser = Browser::new(&gateways[0]);
    browser.log_in("alice").await;
    let mut other = browser.at_gateway(&gateways[1]);
    assert_eq!(other.fetch("/").await.status, StatusCode::OK);
    let form = browser.navigate("/.doorward/logout").await;
    let logout =
        browser.post_form("/.doorward/logout", &[("csrf", &form.form_field("csrf"))]).await;
    assert_eq!(logout.status, StatusCode::OK);
    assert_eq!(browser.token(), "", "the cookie goes after the session");
    assert_eq!(other.fetch("/").await.json()["reason"], "logout");
}

#[tokio::test]
async fn unresponsive_store_is_503_and_ends_no_session() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let [gateway, _] = two(&upstream, &redis);
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let token = browser.token();

    redis.pause();
    let response = browser.fetch("/").await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers.contains_key("retry-after"));
    assert!(response.set_cookies().is_empty());
    let page = browser.navigate("/").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    let forged = Browser::new(&gateway).with_token("dw1_forged").fetch("/").await;
    assert_eq!(forged.status, StatusCode::UNAUTHORIZED, "a forged cookie causes no store request");

    redis.resume();
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while browser.fetch("/").await.status != StatusCode::OK {
        assert!(std::time::Instant::now() < deadline, "it recovers without a restart");
    }
    assert_eq!(browser.token(), token);
}
