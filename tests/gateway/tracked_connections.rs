//! Tracked connections of every kind end within a second of their session, for every reason and at every gateway,
//! with the close signal of their protocol. Token rotation ends none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

use crate::streaming::{
    OpenConnection, StreamingUpstream, open_all, open_response, open_websocket, request, send,
};
use test_support::browser::{Browser, SESSION};
use test_support::fault_proxy::{FaultMode, FaultProxy};
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};

/// The documented bound.
const REVOCATION_BOUND: Duration = Duration::from_secs(1);
/// Tolerance for a busy machine.
const MARGIN: Duration = Duration::from_millis(500);
const BOUND: Duration = REVOCATION_BOUND.saturating_add(MARGIN);

/// Longest wait where no bound is documented.
const TIMEOUT: Duration = Duration::from_secs(10);

const MINUTE: Duration = Duration::from_secs(60);

/// Returns true if the connection was cut with the signal of its protocol.
fn is_cut(kind: &str, how: &str) -> bool {
    match kind {
        "WebSocket" => how == "close 1008",
        "wait for news" => how == "401",
        // A client that reads while sending gets the rejection; others see a closed connection.
        "upload" | "h2 upload" => how == "401" || how == "broken",
        _ => how == "broken",
    }
}

/// Two gateways with one Redis and one clock; connections are opened at the second.
struct TwoGateways {
    streams: StreamingUpstream,
    redis: RedisServer,
    here: Gateway,
    there: Gateway,
    alice: Browser,
}

impl TwoGateways {
    async fn start() -> TwoGateways {
        let redis = RedisServer::start(RedisOptions::default());
        let url = redis.settings().url;
        TwoGateways::with(redis, url).await
    }

    /// Starts both gateways; the second uses Redis at `road`.
    async fn with(redis: RedisServer, road: String) -> TwoGateways {
        let (streams, clock) = (StreamingUpstream::start().await, manual_clock());
        let setup = |store, shared_directory| Setup {
            // The transfers alone would keep the session alive.
            routes: streams
                .routes("[route.session.activity]\ntransfers = false\nwebsocket = \"none\""),
            store,
            clock: clock.clone(),
            shared_directory,
            ..Setup::default()
        };
        let here = Gateway::start(setup(redis.settings().url, None));
        let there = Gateway::start(setup(road, Some(Arc::clone(&here.directory))));
        let mut alice = Browser::new(&here);
        alice.log_in("alice").await;
        TwoGateways { streams, redis, here, there, alice }
    }

    /// Opens every kind of connection of alice at the second gateway.
    async fn open_all_kinds(&self, tag: &str) -> Vec<OpenConnection> {
        let before = metric(&self.there, "doorward_tracked_connections").await;
        let held = open_all(&self.alice.at_gateway(&self.there), &self.streams, tag).await;
        // Pending requests are registered only after a short delay.
        let deadline = Instant::now() + TIMEOUT;
        while metric(&self.there, "doorward_tracked_connections").await < before + held.len() as u64
        {
            assert!(Instant::now() < deadline, "not all of them are registered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        held
    }

    /// Asserts that all connections end soon after `since`, at the upstream too.
    async fn assert_all_closed(&self, held: Vec<OpenConnection>, since: Instant, why: &str) {
        let mut slowest = Duration::ZERO;
        for held in held {
            let (kind, path) = (held.kind, held.path.clone());
            let (at, how) = held.wait_until_closed().await;
            let took = at.saturating_duration_since(since);
            assert!(is_cut(kind, &how), "{why}, {kind}: {how}");
            assert!(took < BOUND, "{why}, {kind}: after {took:?}");
            slowest = slowest.max(took);
            if kind != "WebSocket" {
                self.streams.wait_until_seen(&format!("gone {path}")).await;
            }
        }
        println!("{why}: the slowest of all kinds ended after {slowest:?}");
    }
}

fn assert_all_open(held: &[OpenConnection], why: &str) {
    let closed: Vec<_> = held.iter().filter(|held| !held.is_open()).map(|held| held.kind).collect();
    assert_eq!(closed, Vec::<&str>::new(), "{why}");
}

/// Sends a request to the admin socket and returns the response body.
async fn operator(gateway: &Gateway, line: &str) -> String {
    let socket = gateway.socket();
    let mut stream = UnixStream::connect(socket).await.expect("connected");
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    response.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

async fn log_out(browser: &mut Browser) {
    let csrf = browser.navigate("/.doorward/logout").await.form_field("csrf");
    let response = browser.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!(response.status, StatusCode::OK);
}

/// Returns the value of a metric.
async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let text = gateway.metrics().await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Polls until the gauge has this value.
async fn reaches(gateway: &Gateway, name: &str, number: u64) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let now = metric(gateway, name).await;
        if now == number {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {now}, not {number}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn logout_cuts_all_connection_kinds_at_the_other_gateway() {
    let mut two = TwoGateways::start().await;
    let held = two.open_all_kinds("logout").await;
    reaches(&two.there, "doorward_tracked_connections", 9).await;
    log_out(&mut two.alice).await;
    two.assert_all_closed(held, Instant::now(), "logout").await;
    reaches(&two.there, "doorward_tracked_connections", 0).await;
    let cut = "doorward_tracked_connections_closed_total{reason=\"session-ended\"}";
    assert_eq!(metric(&two.there, cut).await, 9);
}

#[tokio::test]
async fn revocation_cuts_all_kinds_at_the_other_gateway() {
    let mut two = TwoGateways::start().await;
    let mut bob = Browser::new(&two.here);
    bob.log_in("bob").await;
    for what in ["session", "user", "all"] {
        // After the cutoff of the previous round.
        two.here.advance(MINUTE);
        two.alice = Browser::new(&two.here);
        two.alice.log_in("alice").await;
        let bystander = open_websocket(&bob.at_gateway(&two.there), "/ws/bob".to_owned()).await;
        let held = two.open_all_kinds(what).await;
        let list = operator(&two.here, "GET /sessions?user=alice").await;
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let session = list[0]["session"].as_str().expect("a session");
        let query = match what {
            "session" => format!("session={session}"),
            "user" => "user=alice".to_owned(),
            _ => "all=1".to_owned(),
        };
        operator(&two.here, &format!("POST /revoke?{query}")).await;
        two.assert_all_closed(held, Instant::now(), what).await;
        assert_eq!(bystander.is_open(), what != "all", "{what} is whose end");
    }
}

#[tokio::test]
async fn theft_verdict_cuts_all_kinds_at_the_other_gateway() {
    let mut two = TwoGateways::start().await;
    let stolen = two.alice.token();
    two.here.advance(10 * MINUTE);
    two.alice.fetch("/x/small").await;
    two.alice.fetch("/x/small").await;
    assert_ne!(two.alice.token(), stolen);
    two.here.advance(2 * MINUTE);
    two.alice.fetch("/x/small").await;
    let held = two.open_all_kinds("theft").await;
    let mut attacker = Browser::new(&two.here).with_token(&stolen);
    assert_eq!(attacker.fetch("/x/small").await.json()["reason"], "theft");
    two.assert_all_closed(held, Instant::now(), "theft").await;
}

#[tokio::test]
async fn idle_timeout_cuts_all_connection_kinds_on_time() {
    let two = TwoGateways::start().await;
    let held = two.open_all_kinds("idle").await;
    two.here.advance(30 * MINUTE - Duration::from_secs(1));
    // By then, every connection was checked with the new time.
    wait_for_reads(&two.redis, CHECKED_BY_BOTH).await;
    assert_all_open(&held, "a second is left");
    two.here.advance(Duration::from_secs(1));
    two.assert_all_closed(held, Instant::now(), "idle").await;
}

#[tokio::test]
async fn remote_activity_keeps_connections_until_absolute_timeout() {
    let mut two = TwoGateways::start().await;
    let held = two.open_all_kinds("absolute").await;
    let first = two.alice.token();
    for _ in 0..(12 * 60 / 20 - 1) {
        two.here.advance(20 * MINUTE);
        assert_eq!(two.alice.fetch("/x/small").await.status, StatusCode::OK);
    }
    assert_ne!(two.alice.token(), first, "rotated on the way");
    wait_for_reads(&two.redis, CHECKED_BY_BOTH).await;
    assert_all_open(&held, "20 minutes are left");
    two.here.advance(20 * MINUTE);
    two.assert_all_closed(held, Instant::now(), "absolute").await;
}

/// Reads of a session and its cutoffs, after which both gateways have checked their connections at least once.
pub(crate) const CHECKED_BY_BOTH: u64 = 6;

/// Waits until Redis has received this many more reads. Gateways read each session with tracked connections twice
/// per second.
pub(crate) async fn wait_for_reads(redis: &RedisServer, more: u64) {
    let reads = || {
        let stats = redis.command(&["INFO", "commandstats"]);
        let calls = stats.split_once("cmdstat_mget:calls=").map(|(_, rest)| rest.split(',').next());
        calls.flatten().and_then(|calls| calls.parse::<u64>().ok()).expect("a number")
    };
    let (enough, deadline) = (reads() + more, Instant::now() + TIMEOUT);
    while reads() < enough {
        assert!(Instant::now() < deadline, "Redis receives no reads");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn late_store_response_does_not_idle_out_an_active_session() {
    let redis = RedisServer::start(RedisOptions::default());
    let road = FaultProxy::start(([127, 0, 0, 1], redis.port()).into(), 1).await;
    let mut two = TwoGateways::with(redis, format!("redis://{}", road.address)).await;
    let held = two.open_all_kinds("late").await;
    road.set(FaultMode::HoldReplies);
    wait_for_reads(&two.redis, 1).await;
    // The delayed reply reports a session without activity for 40 minutes.
    for _ in 0..2 {
        two.here.advance(20 * MINUTE);
        assert_eq!(two.alice.fetch("/x/small").await.status, StatusCode::OK);
    }
    road.set(FaultMode::Pass);
    wait_for_reads(&two.redis, 3).await;
    assert_all_open(&held, "never 30 minutes without a request");
    two.here.advance(30 * MINUTE);
    two.assert_all_closed(held, Instant::now(), "idle").await;
}

#[tokio::test]
async fn route_with_stricter_timeouts_cuts_only_its_connections() {
    let (streams, clock) = (StreamingUpstream::start().await, manual_clock());
    let strict = "[route.session]\nabsolute_timeout = \"10m\"\n";
    let routes = streams.routes("").replacen(
        "[[route]]\nhost = \"app.test\"\npath = \"/ws\"",
        &format!("{strict}[[route]]\nhost = \"app.test\"\npath = \"/ws\""),
        1,
    );
    let gateway = Gateway::start(Setup { routes, clock, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let strictly = open_response(&alice.clone().over_h2(), "h2", "/h2/x/events".to_owned()).await;
    streams.wait_until_seen("/h2/x/events").await;
    let usually = open_websocket(&alice, "/ws/x".to_owned()).await;
    gateway.advance(10 * MINUTE);
    assert_eq!(strictly.wait_until_closed().await.1, "broken");
    assert!(usually.is_open());
}

#[tokio::test]
async fn response_in_progress_at_logout_never_starts_streaming() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let upstream = listener.local_addr().expect("an address");
    let gateway = Gateway::start(Setup { routes: session_route(upstream), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut client = alice.connect().await;
    let head =
        format!("GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={}\r\n\r\n", alice.token());
    client.write_all(head.as_bytes()).await.expect("sent");
    let (mut upstream, _) = listener.accept().await.expect("a connection");
    upstream.read_u8().await.expect("a head");
    log_out(&mut alice).await;
    let secret = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n";
    upstream.write_all(secret).await.expect("sent");
    let mut seen = Vec::new();
    // A reset also counts as an end.
    let end = timeout(BOUND, client.read_to_end(&mut seen)).await;
    assert!(end.is_ok(), "still open");
    assert!(!String::from_utf8_lossy(&seen).contains("secret"), "data arrived after the logout");
}

#[tokio::test]
async fn slow_short_response_ends_with_its_session() {
    for drips in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = listener.local_addr().expect("an address");
        let gateway = Gateway::start(Setup { routes: session_route(upstream), ..Setup::default() });
        let mut alice = Browser::new(&gateway);
        alice.log_in("alice").await;
        let mut client = alice.connect().await;
        let token = alice.token();
        let head = format!("GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={token}\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("sent");
        let (mut upstream, _) = listener.accept().await.expect("a connection");
        upstream.read_u8().await.expect("a head");
        let started = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nx";
        upstream.write_all(started).await.expect("sent");
        let app = tokio::spawn(async move {
            while drips && upstream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            upstream
        });
        client.read_u8().await.expect("a response");
        reaches(&gateway, "doorward_tracked_connections", 1).await;
        gateway.revoke("user=alice").await;
        let mut seen = Vec::new();
        // A reset also counts as an end.
        let end = timeout(BOUND, client.read_to_end(&mut seen)).await;
        assert!(end.is_ok() && seen.len() < 5000, "still served, dripping: {drips}");
        reaches(&gateway, "doorward_tracked_connections", 0).await;
        app.abort();
    }
}

#[tokio::test]
async fn upload_ends_with_its_session_when_client_reads_nothing() {
    let streams = StreamingUpstream::start().await;
    let gateway = Gateway::start(Setup { routes: streams.routes(""), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let (mut reader, mut writer) = tokio::io::split(alice.connect().await);
    let head = format!(
        "POST /flood HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nCookie: {SESSION}={}\r\n\r\n",
        alice.token()
    );
    writer.write_all(head.as_bytes()).await.expect("sent");
    let writing = tokio::spawn(async move {
        while writer.write_all(b"4\r\nmore\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    reader.read_u8().await.expect("a response");
    // The response fills all buffers, because the client does not read.
    streams.wait_until_seen("stalled /flood").await;
    log_out(&mut alice).await;
    timeout(BOUND, streams.wait_until_seen("gone /flood")).await.expect("the upload goes on");
    writing.abort();
}

#[tokio::test]
async fn grpc_trailers_pass_from_h2c_upstream_to_h2_client() {
    let streams = StreamingUpstream::start().await;
    let gateway = Gateway::start(Setup { routes: streams.routes(""), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let alice = alice.over_h2();
    let call = request(&alice, "/h2/x/short", Empty::new().boxed_unsync());
    let response = send(&alice, call).await.await.expect("no panic").expect("a response");
    let whole = response.into_body().collect().await.expect("whole");
    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), "all of it");
}

#[tokio::test]
async fn max_connection_age_cuts_connections_and_allows_reconnect() {
    let streams = StreamingUpstream::start().await;
    let routes = streams.routes("max_connection_age = \"1s\"");
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let started = Instant::now();
    let held = open_all(&alice, &streams, "age").await;
    for held in held {
        let kind = held.kind;
        let (at, how) = held.wait_until_closed().await;
        let took = at.saturating_duration_since(started);
        assert!(took >= Duration::from_secs(1), "{kind}: after {took:?}");
        assert!(kind != "WebSocket" || how == "close 1001", "{kind}: {how}");
        assert_ne!(how, "whole", "{kind}");
    }
    assert_eq!(alice.fetch("/x/small").await.status, StatusCode::OK, "the session goes on");
}

#[tokio::test]
async fn connection_limits_are_429_per_session_and_503_per_gateway() {
    let streams = StreamingUpstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: streams.routes(""),
        extra: "[live]\nmax_connections = 3\nmax_per_session = 2\n".to_owned(),
        ..Setup::default()
    });
    let (mut alice, mut bob) = (Browser::new(&gateway), Browser::new(&gateway));
    alice.log_in("alice").await;
    bob.log_in("bob").await;
    let _first = open_websocket(&alice, "/ws/1".to_owned()).await;
    let second = open_response(&alice, "event stream", "/2/events".to_owned()).await;
    // The upstream has the request before the gateway has the response.
    reaches(&gateway, "doorward_tracked_connections", 2).await;
    let refused = alice.send("POST", "/3/upload", &[], "body").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.json()["error"], "too-many-connections");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(alice.fetch("/x/small").await.status, StatusCode::OK, "short responses are served");
    let _third = open_websocket(&bob, "/ws/4".to_owned()).await;
    reaches(&gateway, "doorward_tracked_connections", 3).await;
    let refused = bob.send("POST", "/5/upload", &[], "body").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(second.is_open());
    let refused = "doorward_tracked_connections_rejected_total{limit=\"total\"}";
    assert_eq!(metric(&gateway, refused).await, 1);
}
