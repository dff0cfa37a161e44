//! Redis is away: who is served, who waits, and that nobody is logged out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use doorward::session::SessionId;
use http::StatusCode;

use crate::browser::{Answer, Browser};
use crate::gateway::{Gateway, Setup, manual_clock, route};
use crate::redis::{How, RedisServer};
use crate::streams::{Streams, hold_websocket};
use crate::upstream::Upstream;

const PATIENCE: Duration = Duration::from_secs(10);

/// The route at `/` bridges outages, `/strict` does not, `/public` needs nobody.
struct Site {
    upstream: Upstream,
    redis: RedisServer,
    gateway: Gateway,
}

impl Site {
    async fn start(store: &str) -> Site {
        let (upstream, redis) = (Upstream::start().await, RedisServer::start(How::default()));
        let setup = Site::setup(&upstream, &redis, store);
        Site { gateway: Gateway::start(setup), upstream, redis }
    }

    fn setup(upstream: &Upstream, redis: &RedisServer, store: &str) -> Setup {
        let at = |path: &str, more: &str| {
            route(upstream.address).replace("path = \"/\"", &format!("path = \"{path}\"\n{more}"))
        };
        let public = at("/public", "").replace("\"session\"", "\"public\"");
        let routes = [at("/", ""), at("/strict", "on_outage = \"deny\""), public].concat();
        // The cache would bridge three seconds by itself.
        let keys = format!("local_cache = \"off\"\non_outage = \"serve-known\"\n{store}");
        let store = format!("{}\"\n{keys}\n#", redis.settings().url);
        Setup { routes, store, clock: manual_clock(), ..Setup::default() }
    }

    async fn log_in(&self, user: &str) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        browser.log_in(user).await;
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
        browser
    }

    /// Redis answers again, and the gateway knows.
    async fn comes_back(&self, browser: &mut Browser) -> Answer {
        self.redis.resume();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = browser.fetch("/strict").await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
            assert!(Instant::now() < deadline, "it does not recover");
        }
    }
}

/// 503, with a time to come back, and the cookie untouched.
fn is_away(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(answer.set_cookies(), Vec::<String>::new());
}

fn is_known(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("doorward-store"), "away");
    assert_eq!(answer.set_cookies(), Vec::<String>::new());
}

/// The name by which the operator ends a session.
fn handle(browser: &Browser) -> String {
    let token = browser.token();
    let bytes = BASE64URL_NOPAD.decode(token.trim_start_matches("dw1_").as_bytes());
    let id = bytes.expect("a token")[10..26].try_into().expect("an id");
    SessionId(id).handle()
}

#[tokio::test]
async fn in_an_outage_known_sessions_read_where_the_route_says_so_and_all_else_waits() {
    let site = Site::start("").await;
    let mut alice = site.log_in("alice").await;
    let other = Gateway::start(Setup {
        shared_with: Some(Arc::clone(&site.gateway.directory)),
        clock: site.gateway.clock.clone(),
        ..Site::setup(&site.upstream, &site.redis, "")
    });
    let mut elsewhere = Browser::new(&other);
    elsewhere.log_in("bob").await;
    let mut bob = elsewhere.at(&site.gateway);
    let token = alice.token();

    site.redis.pause();
    is_known(&alice.fetch("/").await);
    is_known(&alice.send("HEAD", "/", &[], "").await);
    is_away(&alice.send("POST", "/", &[], "x").await);
    is_away(&alice.send("DELETE", "/", &[], "").await);
    is_away(&alice.fetch("/strict").await);
    is_away(&alice.visit("/.doorward/sessions").await);
    is_away(&bob.fetch("/").await);
    assert_eq!(alice.fetch("/public").await.status, StatusCode::OK);
    assert_eq!(Browser::new(&site.gateway).fetch("/").await.status, StatusCode::UNAUTHORIZED);
    site.gateway.advance(Duration::from_secs(2));
    is_away(&Browser::new(&site.gateway).visit("/.doorward/login").await);
    let metrics = site.gateway.metrics().await;
    assert!(metrics.contains("doorward_served_known_total 2"), "{metrics}");
    assert!(metrics.contains("doorward_store_away 1"), "{metrics}");

    assert_eq!(site.comes_back(&mut alice).await.status, StatusCode::OK);
    assert_eq!(alice.fetch("/").await.header("doorward-store"), "");
    assert_eq!(bob.fetch("/").await.status, StatusCode::OK);
    assert_eq!(alice.token(), token, "nobody was logged out");
    let deadline = Instant::now() + PATIENCE;
    while Browser::new(&site.gateway).visit("/.doorward/login").await.status != StatusCode::OK {
        assert!(Instant::now() < deadline, "nobody can log in");
    }
}

#[tokio::test]
async fn in_an_outage_nobody_is_served_beyond_the_limit() {
    let site = Site::start("serve_known_for = \"2m\"").await;
    let mut alice = site.log_in("alice").await;
    site.redis.pause();
    site.gateway.advance(Duration::from_secs(2 * 60));
    is_known(&alice.fetch("/").await);
    site.gateway.advance(Duration::from_secs(1));
    is_away(&alice.fetch("/").await);
    assert_eq!(site.comes_back(&mut alice).await.status, StatusCode::OK, "it lives on");
}

#[tokio::test]
async fn in_an_outage_nobody_is_served_beyond_his_timeouts_and_nobody_ends_for_them() {
    let site = Site::start("serve_known_for = \"1h\"").await;
    let mut alice = site.log_in("alice").await;
    site.redis.pause();
    site.gateway.advance(Duration::from_secs(30 * 60 - 1));
    is_known(&alice.fetch("/").await);
    site.gateway.advance(Duration::from_secs(1));
    // Another gateway may have seen him meanwhile: whether he idled is not known here.
    is_away(&alice.fetch("/").await);
    let answer = site.comes_back(&mut alice).await;
    assert_eq!(answer.json()["reason"], "idle", "serving him was no activity");
}

#[tokio::test]
async fn in_an_outage_a_session_that_somebody_wanted_to_end_is_not_served() {
    let site = Site::start("").await;
    let mut alice = site.log_in("alice").await;
    let [mut phone, mut tablet] = [site.log_in("alice").await, site.log_in("alice").await];
    let csrf = alice.visit("/.doorward/logout").await.field("csrf");
    let mut bob = site.log_in("bob").await;
    site.redis.pause();
    let user = site.gateway.revoke("user=bob").await;
    assert!(user.starts_with("HTTP/1.1 503"), "{user}");
    is_away(&bob.fetch("/").await);
    is_known(&alice.fetch("/").await);
    is_away(&alice.post_form("/.doorward/logout", &[("csrf", &csrf)]).await);
    is_away(&alice.fetch("/").await);
    is_known(&phone.fetch("/").await);
    let one = site.gateway.revoke(&format!("session={}", handle(&tablet))).await;
    assert!(one.starts_with("HTTP/1.1 503"), "{one}");
    is_away(&tablet.fetch("/").await);
    let all = site.gateway.revoke("all=1").await;
    assert!(all.starts_with("HTTP/1.1 503"), "{all}");
    is_away(&phone.fetch("/").await);
    // Nobody was told that it was done, and it was not.
    assert_eq!(site.comes_back(&mut bob).await.status, StatusCode::OK);
}

/// What the cache knows is believed for up to three seconds, also while a revocation waits in vain.
#[tokio::test]
async fn in_an_outage_who_was_let_in_by_the_cache_while_his_end_failed_is_not_served_after_it() {
    for end in ["user=alice", "all=1"] {
        let_in_by_the_cache_while_it_fails(end).await;
    }
}

async fn let_in_by_the_cache_while_it_fails(end: &str) {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(How::default()));
    let setup = Site::setup(&upstream, &redis, "");
    let store = setup.store.replace("local_cache = \"off\"", "");
    let gateway = Gateway::start(Setup { store, ..setup });
    let site = Site { gateway, upstream, redis };
    let mut alice = site.log_in("alice").await;
    let known = r#"doorward_session_cache_total{found="known"}"#;
    let hits = async || {
        let metrics = site.gateway.metrics().await;
        let hits = metrics.lines().find_map(|line| line.strip_prefix(known)?.trim().parse().ok());
        hits.unwrap_or(0_u64)
    };
    let (before, deadline) = (hits().await, Instant::now() + PATIENCE);
    while hits().await == before {
        assert!(Instant::now() < deadline, "nothing is ever known");
        assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    }
    site.redis.pause();
    let mut meanwhile = alice.clone();
    let (ended, let_in) = tokio::join!(site.gateway.revoke(end), meanwhile.fetch("/"));
    assert!(ended.starts_with("HTTP/1.1 503"), "{end}: {ended}");
    assert_eq!((let_in.status, let_in.header("doorward-store")), (StatusCode::OK, ""));
    is_away(&alice.fetch("/").await);
    assert_eq!(site.comes_back(&mut alice).await.status, StatusCode::OK);
}

#[tokio::test]
async fn in_an_outage_an_old_token_gets_in_nowhere_and_ends_nothing_and_an_offered_one_reads() {
    let site = Site::start("").await;
    let mut alice = site.log_in("alice").await;
    let mut thief = alice.clone();
    site.gateway.advance(Duration::from_secs(601));
    alice.fetch("/").await;
    alice.fetch("/").await;
    site.gateway.advance(Duration::from_secs(120));
    alice.fetch("/").await;
    site.gateway.advance(Duration::from_secs(500));
    let before = alice.token();
    alice.fetch("/").await;
    assert_ne!(alice.token(), before, "an offer is in the jar");
    site.redis.pause();
    is_known(&alice.fetch("/").await);
    is_away(&thief.fetch("/").await);
    assert_eq!(site.comes_back(&mut alice).await.status, StatusCode::OK);
}

#[tokio::test]
async fn by_default_nobody_is_served_in_an_outage() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(How::default()));
    let store = format!("{}\"\nlocal_cache = \"off\"\n#", redis.settings().url);
    let gateway =
        Gateway::start(Setup { routes: route(upstream.address), store, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    redis.pause();
    is_away(&alice.fetch("/").await);
    redis.resume();
}

#[tokio::test]
async fn in_an_outage_live_connections_go_on_for_a_bounded_time_and_never_beyond_the_absolute_end()
{
    let (streams, redis) = (Streams::start().await, RedisServer::start(How::default()));
    let gateway = |unchecked_for: &str| {
        Gateway::start(Setup {
            routes: streams.routes(""),
            store: redis.settings().url,
            more: format!("[live]\nunchecked_for = \"{unchecked_for}\"\n"),
            clock: manual_clock(),
            ..Setup::default()
        })
    };
    let (short, long) = (gateway("3s"), gateway("1h"));
    let (mut alice, mut bob) = (Browser::new(&short), Browser::new(&long));
    alice.log_in("alice").await;
    bob.log_in("bob").await;
    let bounded = hold_websocket(&alice, "/ws/bounded".to_owned()).await;
    let absolute = hold_websocket(&bob, "/ws/absolute".to_owned()).await;
    let since = Instant::now();
    redis.pause();
    long.advance(Duration::from_secs(12 * 60 * 60));
    assert_eq!(absolute.ended().await.1, "close 1008");
    let (at, how) = bounded.ended().await;
    assert_eq!(how, "close 1013", "try again later");
    let took = at - since;
    assert!(took > Duration::from_secs(2), "an outage is no end: {took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    redis.resume();
}
