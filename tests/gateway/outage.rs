//! Store outages: stale reads, 503 responses, and no lost sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use doorward::session::SessionId;
use http::StatusCode;

use crate::streaming::{StreamingUpstream, open_websocket};
use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, past_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A gateway whose route `/` allows stale reads; `/strict` does not, and `/public` needs no session.
struct OutageTest {
    upstream: Upstream,
    redis: RedisServer,
    gateway: Gateway,
}

impl OutageTest {
    async fn start(store: &str) -> OutageTest {
        let (upstream, redis) =
            (Upstream::start().await, RedisServer::start(RedisOptions::default()));
        let setup = OutageTest::setup(&upstream, &redis, store);
        OutageTest { gateway: Gateway::start(setup), upstream, redis }
    }

    fn setup(upstream: &Upstream, redis: &RedisServer, store: &str) -> Setup {
        let at = |path: &str, more: &str| {
            session_route(upstream.address)
                .replace("path = \"/\"", &format!("path = \"{path}\"\n{more}"))
        };
        let public = at("/public", "").replace("\"session\"", "\"public\"");
        let routes = [at("/", ""), at("/strict", "on_outage = \"deny\""), public].concat();
        // The cache alone would cover three seconds.
        let keys = format!("local_cache = \"off\"\non_outage = \"serve-known\"\n{store}");
        let store = format!("{}\"\n{keys}\n#", redis.settings().url);
        Setup { routes, store, clock: past_clock(), ..Setup::default() }
    }

    async fn log_in(&self, user: &str) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        browser.log_in(user).await;
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
        browser
    }

    /// Resumes Redis and waits until the gateway uses it.
    async fn restore_store(&self, browser: &mut Browser) -> Response {
        self.redis.resume();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let response = browser.fetch("/strict").await;
            if response.status != StatusCode::SERVICE_UNAVAILABLE {
                return response;
            }
            assert!(Instant::now() < deadline, "it does not recover");
        }
    }
}

/// Asserts a 503 with `Retry-After` and without cookie changes.
fn assert_unavailable(response: &Response) {
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.text());
    assert!(!response.header("retry-after").is_empty());
    assert_eq!(response.set_cookies(), Vec::<String>::new());
}

fn assert_stale_read(response: &Response) {
    assert_eq!(response.status, StatusCode::OK, "{}", response.text());
    assert_eq!(response.header("doorward-store"), "away");
    assert_eq!(response.set_cookies(), Vec::<String>::new());
}

/// Returns the session handle for admin commands.
fn handle(browser: &Browser) -> String {
    let token = browser.token();
    let bytes = BASE64URL_NOPAD.decode(token.trim_start_matches("dw1_").as_bytes());
    let id = bytes.expect("a token")[10..26].try_into().expect("an id");
    SessionId(id).handle()
}

#[tokio::test]
async fn stale_reads_need_a_route_setting_in_an_outage() {
    let site = OutageTest::start("").await;
    let mut alice = site.log_in("alice").await;
    let other = Gateway::start(Setup {
        shared_directory: Some(Arc::clone(&site.gateway.directory)),
        clock: site.gateway.clock.clone(),
        ..OutageTest::setup(&site.upstream, &site.redis, "")
    });
    let mut other_browser = Browser::new(&other);
    other_browser.log_in("bob").await;
    let mut bob = other_browser.at_gateway(&site.gateway);
    let token = alice.token();

    site.redis.pause();
    assert_stale_read(&alice.fetch("/").await);
    assert_stale_read(&alice.send("HEAD", "/", &[], "").await);
    assert_unavailable(&alice.send("POST", "/", &[], "x").await);
    assert_unavailable(&alice.send("DELETE", "/", &[], "").await);
    assert_unavailable(&alice.fetch("/strict").await);
    assert_unavailable(&alice.navigate("/.doorward/sessions").await);
    assert_unavailable(&bob.fetch("/").await);
    assert_eq!(alice.fetch("/public").await.status, StatusCode::OK);
    assert_eq!(Browser::new(&site.gateway).fetch("/").await.status, StatusCode::UNAUTHORIZED);
    site.gateway.advance(Duration::from_secs(2));
    assert_unavailable(&Browser::new(&site.gateway).navigate("/.doorward/login").await);
    let metrics = site.gateway.metrics().await;
    assert!(metrics.contains("doorward_stale_sessions_served_total 2"), "{metrics}");
    assert!(metrics.contains("doorward_store_unavailable 1"), "{metrics}");

    assert_eq!(site.restore_store(&mut alice).await.status, StatusCode::OK);
    assert_eq!(alice.fetch("/").await.header("doorward-store"), "");
    assert_eq!(bob.fetch("/").await.status, StatusCode::OK);
    assert_eq!(alice.token(), token, "no session ended");
    let deadline = Instant::now() + TIMEOUT;
    while Browser::new(&site.gateway).navigate("/.doorward/login").await.status != StatusCode::OK {
        assert!(Instant::now() < deadline, "no login succeeds");
    }
}

#[tokio::test]
async fn stale_read_never_executes_a_named_method() {
    let site = OutageTest::start("").await;
    let mut alice = site.log_in("alice").await;
    site.redis.pause();
    assert_stale_read(&alice.fetch("/?a=1").await);
    let before = site.upstream.heads().len();
    assert_unavailable(&alice.fetch("/?_method=DELETE").await);
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        assert_unavailable(&alice.send("GET", "/", &[(name, "DELETE")], "").await);
    }
    assert_eq!(site.upstream.heads().len(), before);
}

#[tokio::test]
async fn stale_reads_end_at_the_outage_limit() {
    let site = OutageTest::start("serve_known_for = \"2m\"").await;
    let mut alice = site.log_in("alice").await;
    site.redis.pause();
    site.gateway.advance(Duration::from_secs(2 * 60));
    assert_stale_read(&alice.fetch("/").await);
    site.gateway.advance(Duration::from_secs(1));
    assert_unavailable(&alice.fetch("/").await);
    assert_eq!(
        site.restore_store(&mut alice).await.status,
        StatusCode::OK,
        "the session stays active"
    );
}

#[tokio::test]
async fn stale_reads_respect_timeouts_without_ending_sessions() {
    let site = OutageTest::start("serve_known_for = \"1h\"").await;
    let mut alice = site.log_in("alice").await;
    site.redis.pause();
    site.gateway.advance(Duration::from_secs(30 * 60 - 1));
    assert_stale_read(&alice.fetch("/").await);
    site.gateway.advance(Duration::from_secs(1));
    // Another gateway can have recorded activity, so this one cannot decide on the idle timeout.
    assert_unavailable(&alice.fetch("/").await);
    let response = site.restore_store(&mut alice).await;
    assert_eq!(response.json()["reason"], "idle", "a stale read is no activity");
}

#[tokio::test]
async fn session_with_a_failed_revocation_gets_no_stale_reads() {
    let site = OutageTest::start("").await;
    let mut alice = site.log_in("alice").await;
    let [mut phone, mut tablet] = [site.log_in("alice").await, site.log_in("alice").await];
    let csrf = alice.navigate("/.doorward/logout").await.form_field("csrf");
    let mut bob = site.log_in("bob").await;
    site.redis.pause();
    let user = site.gateway.revoke("user=bob").await;
    assert!(user.starts_with("HTTP/1.1 503"), "{user}");
    assert_unavailable(&bob.fetch("/").await);
    assert_stale_read(&alice.fetch("/").await);
    assert_unavailable(&alice.post_form("/.doorward/logout", &[("csrf", &csrf)]).await);
    assert_unavailable(&alice.fetch("/").await);
    assert_stale_read(&phone.fetch("/").await);
    let one = site.gateway.revoke(&format!("session={}", handle(&tablet))).await;
    assert!(one.starts_with("HTTP/1.1 503"), "{one}");
    assert_unavailable(&tablet.fetch("/").await);
    let all = site.gateway.revoke("all=1").await;
    assert!(all.starts_with("HTTP/1.1 503"), "{all}");
    assert_unavailable(&phone.fetch("/").await);
    assert_eq!(site.restore_store(&mut bob).await.status, StatusCode::UNAUTHORIZED, "kept");
}

/// The cache serves sessions for up to three seconds, even while a revocation is failing.
#[tokio::test]
async fn cached_admission_ends_after_a_failed_revocation() {
    for end in ["user=alice", "all=1"] {
        admit_from_cache_during_failed_revocation(end).await;
    }
}

async fn admit_from_cache_during_failed_revocation(end: &str) {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let setup = OutageTest::setup(&upstream, &redis, "");
    let store = setup.store.replace("local_cache = \"off\"", "");
    let gateway = Gateway::start(Setup { store, ..setup });
    let site = OutageTest { gateway, upstream, redis };
    let mut alice = site.log_in("alice").await;
    let known = r#"doorward_session_cache_lookups_total{result="hit"}"#;
    let hits = async || {
        let metrics = site.gateway.metrics().await;
        let hits = metrics.lines().find_map(|line| line.strip_prefix(known)?.trim().parse().ok());
        hits.unwrap_or(0_u64)
    };
    let (before, deadline) = (hits().await, Instant::now() + TIMEOUT);
    while hits().await == before {
        assert!(Instant::now() < deadline, "nothing is ever known");
        assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    }
    site.redis.pause();
    let mut concurrent = alice.clone();
    let (ended, let_in) = tokio::join!(site.gateway.revoke(end), concurrent.fetch("/"));
    assert!(ended.starts_with("HTTP/1.1 503"), "{end}: {ended}");
    assert_eq!((let_in.status, let_in.header("doorward-store")), (StatusCode::OK, ""));
    assert_unavailable(&alice.fetch("/").await);
    assert_eq!(site.restore_store(&mut alice).await.status, StatusCode::UNAUTHORIZED, "kept");
}

#[tokio::test]
async fn failed_revocation_is_enforced_here_and_written_later() {
    for end in ["session", "user=alice", "all=1"] {
        let site = OutageTest::start("").await;
        let other = Gateway::start(Setup {
            shared_directory: Some(Arc::clone(&site.gateway.directory)),
            clock: site.gateway.clock.clone(),
            ..OutageTest::setup(&site.upstream, &site.redis, "")
        });
        let mut alice = site.log_in("alice").await;
        let mut other_browser = alice.at_gateway(&other);
        let (setting, broken, well) = READ_ONLY[0];
        assert_eq!(site.redis.command(&["CONFIG", "SET", setting, broken]), "+OK");
        let query = end.replace("session", &format!("session={}", handle(&alice)));
        let response = site.gateway.revoke(&query).await;
        assert!(response.starts_with("HTTP/1.1 503"), "{response}");
        assert!(response.contains("tries again every second"), "{response}");
        assert_ne!(alice.fetch("/").await.status, StatusCode::OK, "{end}");
        assert_eq!(
            other_browser.fetch("/").await.status,
            StatusCode::OK,
            "the other gateway serves it: {end}"
        );
        assert_eq!(site.redis.command(&["CONFIG", "SET", setting, well]), "+OK");
        let deadline = Instant::now() + TIMEOUT;
        while other_browser.fetch("/").await.status != StatusCode::UNAUTHORIZED {
            assert!(Instant::now() < deadline, "never written: {end}");
        }
        assert_eq!(alice.fetch("/").await.status, StatusCode::UNAUTHORIZED, "{end}");
        assert!(!site.gateway.metrics().await.contains("session.rolled-back"), "{end}");
        // Redis' own clock is hours away from the clock of this test.
        if end != "all=1" {
            let mut again = site.log_in("alice").await;
            assert_eq!(again.fetch("/").await.status, StatusCode::OK, "a later login: {end}");
        }
    }
}

#[tokio::test]
async fn superseded_token_gets_no_stale_read_but_a_successor_does() {
    let site = OutageTest::start("").await;
    let mut alice = site.log_in("alice").await;
    let mut attacker = alice.clone();
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
    assert_stale_read(&alice.fetch("/").await);
    assert_unavailable(&attacker.fetch("/").await);
    assert_eq!(site.restore_store(&mut alice).await.status, StatusCode::OK);
}

#[tokio::test]
async fn stale_reads_are_off_by_default() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let store = format!("{}\"\nlocal_cache = \"off\"\n#", redis.settings().url);
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        store,
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    redis.pause();
    assert_unavailable(&alice.fetch("/").await);
    redis.resume();
}

#[tokio::test]
async fn outage_keeps_connections_for_a_bounded_time() {
    let (streams, redis) =
        (StreamingUpstream::start().await, RedisServer::start(RedisOptions::default()));
    let gateway = |unchecked_for: &str| {
        Gateway::start(Setup {
            routes: streams.routes(""),
            store: redis.settings().url,
            extra: format!("[live]\nunchecked_for = \"{unchecked_for}\"\n"),
            clock: past_clock(),
            ..Setup::default()
        })
    };
    let (short, long) = (gateway("3s"), gateway("1h"));
    let (mut alice, mut bob) = (Browser::new(&short), Browser::new(&long));
    alice.log_in("alice").await;
    bob.log_in("bob").await;
    let bounded = open_websocket(&alice, "/ws/bounded".to_owned()).await;
    let absolute = open_websocket(&bob, "/ws/absolute".to_owned()).await;
    let since = Instant::now();
    redis.pause();
    long.advance(Duration::from_secs(12 * 60 * 60));
    assert_eq!(absolute.wait_until_closed().await.1, "close 1008");
    let (at, how) = bounded.wait_until_closed().await;
    assert_eq!(how, "close 1013", "try again later");
    let took = at - since;
    assert!(took > Duration::from_secs(2), "an outage is no end: {took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    redis.resume();
}

/// Settings with which Redis accepts reads and rejects writes, and their values in normal operation.
const READ_ONLY: [(&str, &str, &str); 2] =
    [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")];

async fn ready_status(gateway: &Gateway) -> u16 {
    let url = format!("http://{}/ready", gateway.admin);
    let mut stream = tokio::net::TcpStream::connect(gateway.admin).await.expect(&url);
    let request = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut response).await.expect("read");
    response[9..12].parse().expect("a status")
}

#[tokio::test]
async fn rotation_is_put_off_while_the_store_rejects_writes() {
    for (setting, broken, well) in READ_ONLY {
        let site = OutageTest::start("").await;
        let mut alice = site.log_in("alice").await;
        let token = alice.token();
        assert_eq!(site.redis.command(&["CONFIG", "SET", setting, broken]), "+OK");
        site.gateway.advance(Duration::from_secs(11 * 60));
        for path in ["/", "/strict"] {
            let response = alice.fetch(path).await;
            assert_eq!(
                (response.status, alice.token()),
                (StatusCode::OK, token.clone()),
                "{setting}"
            );
        }
        assert_eq!(alice.send("POST", "/", &[], "x").await.status, StatusCode::OK, "{setting}");
        assert_eq!(ready_status(&site.gateway).await, 503, "{setting}");
        let metrics = site.gateway.metrics().await;
        assert!(metrics.contains("doorward_store_unavailable 1"), "{metrics}");
        assert_eq!(site.redis.command(&["CONFIG", "SET", setting, well]), "+OK");
        assert_eq!(ready_status(&site.gateway).await, 200, "{setting}");
        alice.fetch("/").await;
        assert_ne!(alice.token(), token, "it rotates afterwards");
    }
}

#[tokio::test]
async fn successor_is_accepted_while_the_store_rejects_writes() {
    let site = OutageTest::start("").await;
    let mut alice = site.log_in("alice").await;
    let old = alice.clone();
    site.gateway.advance(Duration::from_secs(11 * 60));
    alice.fetch("/").await;
    assert_ne!(alice.token(), old.token(), "an offer is in the jar");
    let (setting, broken, well) = READ_ONLY[0];
    assert_eq!(site.redis.command(&["CONFIG", "SET", setting, broken]), "+OK");
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    assert_eq!(old.clone().fetch("/").await.status, StatusCode::OK, "nothing was confirmed");
    assert_eq!(site.redis.command(&["CONFIG", "SET", setting, well]), "+OK");
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    site.gateway.advance(Duration::from_secs(120));
    let replayed = old.clone().fetch("/").await.status;
    assert_eq!(replayed, StatusCode::UNAUTHORIZED, "confirmed afterwards");
}
