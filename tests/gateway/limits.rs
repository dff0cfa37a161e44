//! Limits and timeouts: each one is reached with short times while other clients are served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::{Upstream, raw_upstream};

/// Longest wait of a test; far longer than any limit here.
const TIMEOUT: Duration = Duration::from_secs(15);

fn public(upstream: SocketAddr) -> String {
    session_route(upstream).replace("\"session\"", "\"public\"")
}

fn start(routes: String, limits: &str) -> Gateway {
    let limits = format!("connection_rate = 1000000\n{limits}");
    Gateway::start(Setup { routes, limits, ..Setup::default() })
}

/// Returns a setup with a public route and these keys in `[limits]`.
async fn app(limits: &str) -> (Upstream, Gateway, Browser) {
    let upstream = Upstream::start().await;
    let gateway = start(public(upstream.address), limits);
    let browser = Browser::new(&gateway);
    (upstream, gateway, browser)
}

/// Reads until the gateway closes; panics if it does not.
async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    let reading = async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..read]);
        }
    };
    timeout(TIMEOUT, reading).await.expect("the gateway closes");
    all
}

async fn read_until(stream: &mut TlsStream<TcpStream>, mark: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&all).contains(mark) {
            all.push(stream.read_u8().await.expect("open"));
        }
    };
    timeout(TIMEOUT, reading).await.expect("in time");
    String::from_utf8_lossy(&all).into_owned()
}

/// Returns how often a limit was hit.
fn limit_hits(gateway: &Gateway, limit: &str) -> u64 {
    let text = gateway.shared().metrics.render();
    let start = format!("doorward_limit_hits_total{{limit=\"{limit}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(start.as_str()));
    line.map_or(0, |count| count.parse().expect("a number"))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

// Heads

#[tokio::test]
async fn incomplete_head_times_out_before_an_idle_connection() {
    let (_upstream, gateway, browser) =
        app("header_timeout = \"400ms\"\nidle_timeout = \"2s\"").await;
    let mut silent = browser.connect().await;
    let mut slow = browser.connect().await;
    let mut idle = browser.connect().await;
    idle.write_all(GET.as_bytes()).await.expect("sent");
    read_until(&mut idle, "hello").await;
    let start = Instant::now();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nX: ").await.expect("sent");
    assert!(read_to_end(&mut silent).await.is_empty());
    assert!(read_to_end(&mut slow).await.is_empty());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // A silent connection can be a browser's preconnect.
    assert_eq!(limit_hits(&gateway, "header-timeout"), 1);
    // A head that starts now times out before the idle connection does.
    let mut control = browser.connect().await;
    control.write_all(b"GET /half").await.expect("sent");
    assert!(read_to_end(&mut control).await.is_empty());
    idle.write_all(GET.as_bytes()).await.expect("sent");
    read_until(&mut idle, "hello").await;
    idle.write_all(b"GET /half").await.expect("sent");
    assert!(read_to_end(&mut idle).await.is_empty());
    assert_eq!(limit_hits(&gateway, "header-timeout"), 3);
}

#[tokio::test]
async fn idle_connection_is_closed() {
    let (_upstream, gateway, browser) = app("idle_timeout = \"500ms\"").await;
    let mut idle = browser.connect().await;
    idle.write_all(GET.as_bytes()).await.expect("sent");
    read_until(&mut idle, "hello").await;
    assert!(read_to_end(&mut idle).await.is_empty());
    assert_eq!(limit_hits(&gateway, "header-timeout"), 0);
}

/// RFC 6585, section 5.
#[tokio::test]
async fn too_many_headers_are_431_on_both_protocols() {
    let (upstream, gateway, browser) = app("headers = 16").await;
    let many: Vec<(String, String)> =
        (0..16).map(|number| (format!("x-{number}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> =
        many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for mut browser in [browser.clone(), browser.clone().over_h2()] {
        let few = browser.send("GET", "/", &many[..10], "").await;
        assert_eq!(few.status, StatusCode::OK);
        // Host, or its HTTP/2 form with one more.
        let response =
            browser.send("GET", "/", &[&many[..], &[("x-more", "1")]].concat(), "").await;
        assert_eq!(response.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    assert_eq!(upstream.heads().len(), 2);
    until("both are counted", || limit_hits(&gateway, "headers") == 2).await;
}

#[tokio::test]
async fn oversized_head_is_rejected_on_both_protocols() {
    let (upstream, _gateway, mut browser) = app("header_bytes = \"8KiB\"").await;
    let long = "x".repeat(9 * 1024);
    let response = browser.send("GET", "/", &[("x-long", &long)], "").await;
    assert_eq!(response.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut wire = Frames::open(&browser).await;
    wire.head(1, END_STREAM | END_HEADERS, &[field("x-long", &long)]).await;
    assert_eq!(wire.status(1).await, 431);
    assert!(upstream.heads().is_empty());
}

// Bodies

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")
}

#[tokio::test]
async fn stalled_body_is_408_and_routes_can_extend_the_timeout() {
    let upstream = Upstream::start().await;
    let patient = public(upstream.address).replace("path = \"/\"", "path = \"/patient\"");
    let patient = format!("{patient}[route.limits]\nbody_timeout = \"1h\"\n");
    let gateway =
        start(format!("{}{patient}", public(upstream.address)), "body_timeout = \"400ms\"");
    let browser = Browser::new(&gateway);
    let mut stopped = browser.connect().await;
    let mut allowed = browser.connect().await;
    let half = post("Content-Length: 10\r\n") + "hello";
    stopped.write_all(half.as_bytes()).await.expect("sent");
    let patient_half = half.replace("POST /", "POST /patient");
    allowed.write_all(patient_half.as_bytes()).await.expect("sent");
    let response = String::from_utf8_lossy(&read_to_end(&mut stopped).await).into_owned();
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    assert_eq!(limit_hits(&gateway, "body-timeout"), 1);
    // A body that starts now times out before the one with the longer timeout does.
    let mut control = browser.connect().await;
    control.write_all(half.as_bytes()).await.expect("sent");
    assert!(read_to_end(&mut control).await.starts_with(b"HTTP/1.1 408 "));
    allowed.write_all(b"there").await.expect("sent");
    let response = read_until(&mut allowed, "hello").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[tokio::test]
async fn slow_dripping_body_is_408() {
    let (_upstream, gateway, browser) = app("body_timeout = \"500ms\"\nmin_rate = \"1KiB\"").await;
    let mut dripping = browser.connect().await;
    dripping.write_all(post("Content-Length: 1000\r\n").as_bytes()).await.expect("sent");
    let start = Instant::now();
    // A byte every 50 ms never reaches the idle timeout of the body.
    let (mut reading, mut writing) = tokio::io::split(dripping);
    let drip = tokio::spawn(async move {
        while writing.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let mut response = vec![0; 12];
    timeout(TIMEOUT, reading.read_exact(&mut response))
        .await
        .expect("in time")
        .expect("a response");
    assert_eq!(String::from_utf8_lossy(&response), "HTTP/1.1 408");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(limit_hits(&gateway, "body-timeout"), 1);
    drip.abort();
}

#[tokio::test]
async fn oversized_chunked_body_is_413() {
    let (_upstream, gateway, browser) = app("max_body = \"1KiB\"").await;
    for protocol in [browser.clone(), browser.clone().over_h2()] {
        let mut allowed = protocol.clone();
        let fits = allowed.send("POST", "/", &[], &"x".repeat(1024)).await;
        assert_eq!(fits.status, StatusCode::OK);
    }
    let mut chunked = browser.connect().await;
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    let request = post("Transfer-Encoding: chunked\r\n") + &chunk + &chunk + &chunk;
    chunked.write_all(request.as_bytes()).await.expect("sent");
    let response = String::from_utf8_lossy(&read_to_end(&mut chunked).await).into_owned();
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    assert_eq!(limit_hits(&gateway, "max-body"), 1);
}

#[tokio::test]
async fn stalled_upstream_response_is_aborted() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "upstream_idle_timeout = \"400ms\"");
    let mut client = Browser::new(&gateway).connect().await;
    client.write_all(GET.as_bytes()).await.expect("sent");
    let mut upstream = connections.recv().await.expect("a request");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await.expect("sent");
    let response = String::from_utf8_lossy(&read_to_end(&mut client).await).into_owned();
    assert!(response.ends_with("hello"), "{response}");
    assert_eq!(limit_hits(&gateway, "upstream-idle-timeout"), 1);
    assert!(
        timeout(TIMEOUT, upstream.read_u8())
            .await
            .expect("the upstream connection closes")
            .is_err()
    );
}

// Slow readers

/// Writes until the gateway closes.
fn endless(mut upstream: TcpStream) -> JoinHandle<()> {
    tokio::spawn(async move {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
        let mut open = upstream.write_all(head.as_bytes()).await.is_ok();
        while open {
            open = upstream.write_all(&[b'x'; 16 * 1024]).await.is_ok();
        }
    })
}

#[tokio::test]
async fn client_that_reads_nothing_releases_its_upstream() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "write_timeout = \"500ms\"");
    let mut client = Browser::new(&gateway).connect().await;
    client.write_all(GET.as_bytes()).await.expect("sent");
    let upstream = endless(connections.recv().await.expect("a request"));
    timeout(TIMEOUT, upstream).await.expect("given up").expect("no panic");
    assert_eq!(limit_hits(&gateway, "write-timeout"), 1);
}

#[tokio::test]
async fn h2_stream_without_window_is_reset_alone() {
    let (address, mut connections) = raw_upstream().await;
    let other = Upstream::start().await;
    let small = public(other.address).replace("path = \"/\"", "path = \"/small\"");
    let gateway = start(format!("{}{small}", public(address)), "write_timeout = \"500ms\"");
    let mut wire = Frames::open(&Browser::new(&gateway)).await;
    wire.get(1, "/").await;
    let upstream = endless(connections.recv().await.expect("a request"));
    // The window of 65,535 bytes is used up and not extended.
    let reset = wire.expect(|frame| frame.kind == RST_STREAM && frame.stream == 1).await;
    assert_eq!(reset.kind, RST_STREAM);
    timeout(TIMEOUT, upstream).await.expect("given up").expect("no panic");
    assert_eq!(limit_hits(&gateway, "write-timeout"), 1);
    wire.send(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes()).await;
    wire.get(3, "/small").await;
    assert_eq!(wire.status(3).await, 200);
}

// Connections

#[tokio::test]
async fn connection_limit_per_network_applies_before_tls() {
    let (_upstream, gateway, browser) = app("connections_per_network = 3").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(browser.connect().await);
    }
    is_rejected(&gateway).await;
    assert_eq!(limit_hits(&gateway, "connections-per-network"), 1);
    held.pop();
    let shared = gateway.shared();
    until("the permit is free again", || {
        shared.metrics.render().contains("doorward_client_connections 2")
    })
    .await;
    browser.connect().await;
}

#[tokio::test]
async fn connection_rate_per_network_is_limited() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: public(upstream.address),
        limits: "connection_rate = 2".to_owned(),
        ..Setup::default()
    });
    for _ in 0..30 {
        drop(TcpStream::connect(gateway.address).await);
    }
    until("some are turned away", || limit_hits(&gateway, "connection-rate") >= 10).await;
}

#[tokio::test]
async fn full_server_evicts_anonymous_connections_first() {
    let upstream = Upstream::start().await;
    let gateway = start(session_route(upstream.address), "connections = 4");
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let get = format!(
        "GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={}\r\n\r\n",
        browser.token()
    );
    let mut known = browser.connect().await;
    known.write_all(get.as_bytes()).await.expect("sent");
    read_until(&mut known, "hello").await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(browser.connect().await);
    }
    // The first anonymous connection was evicted for the last one.
    assert!(read_to_end(&mut strangers[0]).await.is_empty());
    assert!(limit_hits(&gateway, "connection-evicted") >= 16);
    known.write_all(get.as_bytes()).await.expect("sent");
    let response = read_until(&mut known, "hello").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

// Overload

#[tokio::test]
async fn overload_serves_sessions_and_rejects_anonymous_requests() {
    let (address, mut connections) = raw_upstream().await;
    let quick = Upstream::start().await;
    let routes = format!(
        "{}{}",
        session_route(quick.address),
        public(address).replace("path = \"/\"", "path = \"/slow\"")
    );
    // Two workers with four requests each; the last one is reserved for sessions.
    let gateway = start(routes, "requests = 8");
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let mut wire = Frames::open(&browser).await;
    let mut held = Vec::new();
    for stream in [1, 3, 5] {
        wire.get(stream, "/slow").await;
        held.push(connections.recv().await.expect("a request"));
    }
    wire.get(7, "/").await;
    assert_eq!(wire.status(7).await, 503);
    let body = wire.expect(|frame| frame.kind == DATA && frame.stream == 7).await.payload;
    let received: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(received["error"], "busy");
    let junk = field("cookie", &format!("{SESSION}={}x", browser.token()));
    wire.head(9, END_STREAM | END_HEADERS, &[junk]).await;
    assert_eq!(wire.status(9).await, 503);
    let cookie = field("cookie", &format!("{SESSION}={}", browser.token()));
    wire.head(11, END_STREAM | END_HEADERS, &[cookie]).await;
    assert_eq!(wire.status(11).await, 200);
    assert_eq!(limit_hits(&gateway, "requests"), 2);
    drop(held);
    for stream in [1, 3, 5] {
        assert_eq!(wire.status(stream).await, 502);
    }
    wire.get(13, "/").await;
    assert_eq!(wire.status(13).await, 401);
}

#[tokio::test]
async fn memory_pressure_rejects_new_clients_with_retry_after() {
    let (upstream, _gateway, browser) = app("memory = \"1MiB\"").await;
    let deadline = Instant::now() + TIMEOUT;
    // Requests are served until the overload is detected.
    let response = loop {
        match one_get(&browser).await {
            Some(response) if response.starts_with("HTTP/1.1 503 ") => break response,
            Some(_) | None => assert!(Instant::now() < deadline, "never noticed"),
        }
    };
    assert!(response.contains("retry-after: 2\r\n"), "{response}");
    assert!(!response.contains("set-cookie"), "{response}");
    let before = upstream.heads().len();
    assert!(!one_get(&browser).await.unwrap_or_default().contains("hello"));
    assert_eq!(upstream.heads().len(), before);
}

/// Returns the start of a response on a new connection, or nothing if the connection was evicted.
async fn one_get(browser: &Browser) -> Option<String> {
    let browser = browser.clone();
    let request = tokio::spawn(async move {
        let mut client = browser.connect().await;
        client.write_all(GET.as_bytes()).await.expect("sent");
        let mut response = vec![0; 4096];
        let read = timeout(TIMEOUT, client.read(&mut response)).await.expect("in time");
        response.truncate(read.expect("a response"));
        String::from_utf8_lossy(&response).into_owned()
    });
    request.await.ok()
}

// Tunnels

/// Returns both ends of a tunnel.
async fn tunnel(
    gateway: &Gateway,
    connections: &mut Receiver<TcpStream>,
) -> (TlsStream<TcpStream>, TcpStream) {
    let mut client = Browser::new(gateway).connect().await;
    let handshake = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(handshake.as_bytes()).await.expect("sent");
    let mut upstream = connections.recv().await.expect("a handshake");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    upstream.write_all(switching.as_bytes()).await.expect("sent");
    read_until(&mut client, "\r\n\r\n").await;
    (client, upstream)
}

#[tokio::test]
async fn half_closed_tunnel_ends_on_both_sides() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "");
    let (mut client, upstream) = tunnel(&gateway, &mut connections).await;
    drop(upstream);
    // The client receives the end of the stream, sends nothing and keeps its half open.
    assert!(read_to_end(&mut client).await.is_empty());
    until("the tunnel is gone", || {
        gateway.shared().metrics.render().contains("doorward_websocket_tunnels 0")
    })
    .await;
}

#[tokio::test]
async fn tunnel_whose_client_reads_nothing_ends() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "write_timeout = \"500ms\"");
    let (_client, mut upstream) = tunnel(&gateway, &mut connections).await;
    let writing = async { while upstream.write_all(&[0x82; 16 * 1024]).await.is_ok() {} };
    timeout(TIMEOUT, writing).await.expect("given up");
    assert_eq!(limit_hits(&gateway, "write-timeout"), 1);
}

#[tokio::test]
async fn shutdown_ends_event_streams_at_once() {
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for is_public in [true, false] {
        let upstream = Upstream::with_response(events).await;
        let address = upstream.address;
        let routes = if is_public { public(address) } else { session_route(address) };
        let gateway = Gateway::start(Setup { routes, ..Setup::default() });
        let mut browser = Browser::new(&gateway);
        let mut cookie = String::new();
        if !is_public {
            browser.log_in("alice").await;
            cookie = format!("Cookie: {SESSION}={}\r\n", browser.token());
        }
        let mut stream = browser.connect().await;
        let head = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{cookie}\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut received = String::new();
        while !received.contains("hello") {
            let mut buffer = [0; 1024];
            let read = timeout(TIMEOUT, stream.read(&mut buffer)).await.expect("in time");
            received.push_str(&String::from_utf8_lossy(&buffer[..read.expect("open")]));
        }
        let started = Instant::now();
        let stopping = tokio::task::spawn_blocking(move || gateway.stop());
        let rest = read_to_end(&mut stream).await;
        assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
        stopping.await.expect("stopped");
        assert!(started.elapsed() < Duration::from_millis(1_900), "before the end of the drain");
    }
}

#[tokio::test]
async fn shutdown_sends_1012_to_tunnels_and_waits_for_them() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "");
    let (mut client, upstream) = tunnel(&gateway, &mut connections).await;
    let start = Instant::now();
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    assert_eq!(read_to_end(&mut client).await, [0x88, 0x02, 0x03, 0xf4]);
    drop(client);
    stopping.await.expect("stopped");
    assert!(start.elapsed() < Duration::from_secs(2), "the drain was cut short of its two seconds");
    drop(upstream);
}

/// Asserts that a new connection from this network is rejected.
async fn is_rejected(gateway: &Gateway) {
    // The reset can arrive before the first read.
    if let Ok(mut refused) = TcpStream::connect(gateway.address).await {
        let read = timeout(TIMEOUT, refused.read_u8()).await.expect("at once");
        assert!(read.is_err());
    }
}

#[tokio::test]
async fn tunnels_count_against_their_networks_connections() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "connections_per_network = 2");
    let (first, _app) = tunnel(&gateway, &mut connections).await;
    let (_second, _other) = tunnel(&gateway, &mut connections).await;
    is_rejected(&gateway).await;
    assert_eq!(limit_hits(&gateway, "connections-per-network"), 1);
    drop(first);
    let browser = Browser::new(&gateway);
    let deadline = Instant::now() + TIMEOUT;
    let request = loop {
        let browser = browser.clone();
        if let Ok(client) = tokio::spawn(async move { browser.connect().await }).await {
            break client;
        }
        assert!(Instant::now() < deadline, "the permit is not released");
    };
    drop(request);
}

#[tokio::test]
async fn full_server_closes_anonymous_tunnels_with_1013() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "connections = 2");
    let (mut first, _app) = tunnel(&gateway, &mut connections).await;
    let (mut second, mut other) = tunnel(&gateway, &mut connections).await;
    let mut third = Browser::new(&gateway).connect().await;
    assert_eq!(read_to_end(&mut first).await, [0x88, 0x02, 0x03, 0xf5]);
    assert_eq!(limit_hits(&gateway, "connection-evicted"), 1);
    third.write_all(GET.as_bytes()).await.expect("sent");
    connections.recv().await.expect("the new one is served");
    other.write_all(b"\x81\x02hi").await.expect("sent");
    let mut received = [0; 4];
    timeout(TIMEOUT, second.read_exact(&mut received)).await.expect("in time").expect("still open");
    assert_eq!(&received, b"\x81\x02hi");
}

#[tokio::test]
async fn idle_tunnel_gets_1001_and_active_tunnel_stays_open() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "websocket_idle_timeout = \"600ms\"");
    let (mut silent, _app) = tunnel(&gateway, &mut connections).await;
    let (mut lively, mut app) = tunnel(&gateway, &mut connections).await;
    let talking = tokio::spawn(async move {
        while app.write_all(b"\x8a\x00").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(read_to_end(&mut silent).await, [0x88, 0x02, 0x03, 0xe9]);
    assert_eq!(limit_hits(&gateway, "websocket-idle-timeout"), 1);
    let mut received = [0; 2 * 20];
    timeout(TIMEOUT, lively.read_exact(&mut received)).await.expect("in time").expect("still open");
    talking.abort();
}

#[tokio::test]
async fn max_connection_age_applies_on_public_routes() {
    let (address, mut connections) = raw_upstream().await;
    let aged = format!("{}max_connection_age = \"1s\"\n", public(address));
    let gateway = start(aged, "");
    let started = Instant::now();
    let (mut tunnelled, _app) = tunnel(&gateway, &mut connections).await;
    let mut streaming = Browser::new(&gateway).connect().await;
    streaming.write_all(GET.as_bytes()).await.expect("sent");
    let events = connections.recv().await.expect("a request");
    let talking = drip(events, "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked");
    let mut waiting = Browser::new(&gateway).connect().await;
    waiting.write_all(GET.as_bytes()).await.expect("sent");
    let _silent = connections.recv().await.expect("a request");
    assert_eq!(read_to_end(&mut tunnelled).await, [0x88, 0x02, 0x03, 0xe9]);
    let stream = String::from_utf8_lossy(&read_to_end(&mut streaming).await).into_owned();
    assert!(stream.contains("\r\n1\r\n.") && !stream.ends_with("0\r\n\r\n"), "{stream}");
    let refused = read_until(&mut waiting, "\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 504 "), "{refused}");
    assert!(started.elapsed() >= Duration::from_secs(1));
    talking.abort();
}

// Whole requests

/// Sends a response of one byte every 50 ms until the gateway closes.
fn drip(mut upstream: TcpStream, fields: &'static str) -> JoinHandle<()> {
    tokio::spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        let mut open = upstream.write_all(head.as_bytes()).await.is_ok();
        while open {
            open = upstream.write_all(b"1\r\n.\r\n").await.is_ok();
            sleep(Duration::from_millis(50)).await;
        }
    })
}

#[tokio::test]
async fn request_timeout_aborts_requests_but_not_event_streams() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "request_timeout = \"700ms\"");
    let browser = Browser::new(&gateway);
    let mut started = Vec::new();
    for fields in ["Content-Type: text/event-stream; charset=utf-8\r\n", ""] {
        let fields: &str =
            Box::leak(format!("{fields}Transfer-Encoding: chunked").into_boxed_str());
        let mut client = browser.connect().await;
        client.write_all(GET.as_bytes()).await.expect("sent");
        let upstream = connections.recv().await.expect("a request");
        started.push((client, drip(upstream, fields)));
    }
    let mut unanswered = browser.connect().await;
    unanswered.write_all(GET.as_bytes()).await.expect("sent");
    let _silent = connections.recv().await.expect("a request");
    let refused = read_until(&mut unanswered, "\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 504 "), "{refused}");
    assert!(refused.contains("proxy-status: doorward; error=http_response_timeout"), "{refused}");
    let (mut dripped, app) = started.pop().expect("the response");
    let response = String::from_utf8_lossy(&read_to_end(&mut dripped).await).into_owned();
    assert!(response.contains("\r\n1\r\n.") && !response.ends_with("0\r\n\r\n"), "{response}");
    timeout(TIMEOUT, app).await.expect("the upstream connection closes").expect("no panic");
    assert_eq!(limit_hits(&gateway, "request-timeout"), 2);
    let (mut events, talking) = started.pop().expect("the events");
    let mut more = [0; 6 * 40];
    timeout(TIMEOUT, events.read_exact(&mut more)).await.expect("in time").expect("it goes on");
    talking.abort();
}

#[tokio::test]
async fn upload_over_request_timeout_ends_on_both_protocols() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "request_timeout = \"600ms\"");
    let browser = Browser::new(&gateway);
    let mut slow = browser.connect().await;
    slow.write_all(post("Content-Length: 1000000\r\n").as_bytes()).await.expect("sent");
    let mut app = connections.recv().await.expect("a request");
    let (mut reader, mut writer) = tokio::io::split(slow);
    let writing = tokio::spawn(async move {
        while writer.write_all(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut response = Vec::new();
    // A reset also counts as an end.
    let _ = timeout(TIMEOUT, reader.read_to_end(&mut response)).await.expect("the gateway closes");
    assert!(response.starts_with(b"HTTP/1.1 504 "), "{}", String::from_utf8_lossy(&response));
    let mut rest = Vec::new();
    let _ = timeout(TIMEOUT, app.read_to_end(&mut rest)).await.expect("the app hears of it");
    writing.abort();
    assert_eq!(limit_hits(&gateway, "request-timeout"), 1);
    let mut wire = Frames::open(&browser).await;
    wire.get(1, "/").await;
    let app = connections.recv().await.expect("a request");
    let talking = drip(app, "Transfer-Encoding: chunked");
    wire.expect(|frame| frame.kind == RST_STREAM && frame.stream == 1).await;
    timeout(TIMEOUT, talking).await.expect("the app hears of it").expect("no panic");
}

// Failed handshakes and connections

/// Sends the start of a ClientHello byte by byte until the gateway closes.
async fn client_hello_byte_by_byte(gateway: &Gateway) {
    let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain([7; 500]) {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        match timeout(Duration::from_millis(20), stream.read_u8()).await {
            Ok(Ok(_)) => panic!("a response without a request"),
            Ok(Err(_)) => return,
            Err(_) => {}
        }
    }
    panic!("it still listens");
}

/// CVE-2026-26999.
#[tokio::test]
async fn byte_by_byte_tls_handshake_times_out() {
    let upstream = Upstream::start().await;
    // With and without parsing the ClientHello.
    for routes in [public(upstream.address), session_route(upstream.address)] {
        let gateway = start(routes, "handshake_timeout = \"700ms\"");
        let started = Instant::now();
        client_hello_byte_by_byte(&gateway).await;
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(650) && took < Duration::from_secs(5), "{took:?}");
        until("it is counted", || limit_hits(&gateway, "handshake-timeout") == 1).await;
    }
}

#[tokio::test]
async fn full_upstream_backlog_is_504_connection_timeout() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    // Without accept calls, the kernel completes as many handshakes as the backlog holds and drops the rest.
    let listener = socket.listen(1).expect("listens");
    let address = listener.local_addr().expect("an address");
    let mut queue = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        queue.push(connected.expect("in the queue"));
        assert!(queue.len() < 100, "the queue has no end");
    }
    let gateway = start(public(address), "");
    let mut client = Browser::new(&gateway).connect().await;
    client.write_all(GET.as_bytes()).await.expect("sent");
    let response = read_until(&mut client, "\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 504 "), "{response}");
    assert!(response.contains("proxy-status: doorward; error=connection_timeout"), "{response}");
}

// Panics

/// A tracing layer that panics on the log entry of a wrong password, in the middle of a request.
struct PanicLayer;

const PANIC_USER: &str = "zoë";

impl tracing::Subscriber for PanicLayer {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "session"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut words = String::new();
        event.record(&mut |_: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            words.push_str(&format!("{value:?} "));
        });
        let is_lit = words.contains(PANIC_USER) && words.contains("login-failed");
        assert!(!is_lit, "as the test wants");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// GHSA-4hjq-9h5c-252j.
#[tokio::test]
async fn panic_in_a_request_ends_only_its_connection() {
    tracing::subscriber::set_global_default(PanicLayer).expect("the only one");
    let upstream = Upstream::start().await;
    let gateway = start(session_route(upstream.address), "");
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let cookie = format!("{SESSION}={}", alice.token());
    let get = format!("GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {cookie}\r\n\r\n");
    // Most likely one at each worker.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(alice.connect().await);
    }
    for h2 in [false, true, false, true] {
        let attacker = Browser::new(&gateway);
        let mut attacker = if h2 { attacker.over_h2() } else { attacker };
        let request =
            tokio::spawn(async move { attacker.try_log_in(PANIC_USER, "wrong horse", "/").await });
        assert!(request.await.is_err(), "it has a response");
    }
    for client in &mut held {
        client.write_all(get.as_bytes()).await.expect("sent");
        let response = read_until(client, "hello").await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    }
    for _ in 0..8 {
        assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    }
    Browser::new(&gateway).log_in("bob").await;
    drop(held);
    let shared = gateway.shared();
    until("all places are given back", || {
        shared.metrics.render().contains("doorward_client_connections 0")
    })
    .await;
}

// Plain HTTP listener

#[tokio::test]
async fn redirect_listener_has_the_same_head_limit() {
    let (_upstream, gateway, _browser) = app("header_bytes = \"16KiB\"").await;
    let send = async |length: usize| {
        let mut stream = TcpStream::connect(gateway.http).await.expect("connected");
        let head =
            format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Long: {}\r\n\r\n", "x".repeat(length));
        // The gateway can close before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut response = [0; 12];
        let read = timeout(TIMEOUT, stream.read_exact(&mut response)).await.expect("in time");
        read.map(|_| String::from_utf8_lossy(&response).into_owned())
    };
    assert_eq!(send(12 * 1024).await.expect("a response"), "HTTP/1.1 307");
    let long = send(64 * 1024).await;
    assert!(
        long.as_ref().is_err() || long.as_ref().is_ok_and(|status| status == "HTTP/1.1 431"),
        "{long:?}"
    );
}

// HTTP/2, frame by frame

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// An HTTP/2 client that can send any frames.
struct Frames {
    stream: TlsStream<TcpStream>,
    seen: Vec<Frame>,
}

#[derive(Clone, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// `:method`, `:scheme`, `:path` and `:authority`.
fn request(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x87];
    block.extend(literal(&[0x04], path));
    block.extend(literal(&[0x01], "app.test"));
    block
}

const METHOD_GET: u8 = 0x82;
const METHOD_POST: u8 = 0x83;

/// A header that no HPACK table contains.
fn field(name: &str, value: &str) -> Vec<u8> {
    literal(&literal(&[0x00], name), value)
}

/// RFC 7541 5.2, with a length of up to two bytes more.
fn literal(before: &[u8], text: &str) -> Vec<u8> {
    let mut out = before.to_vec();
    match text.len() {
        short @ 0..127 => out.push(short as u8),
        long => {
            let mut left = long - 127;
            out.push(127);
            while left >= 128 {
                out.push((left % 128 + 128) as u8);
                left /= 128;
            }
            out.push(left as u8);
        }
    }
    out.extend(text.as_bytes());
    out
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).expect("short").to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

impl Frames {
    async fn open(browser: &Browser) -> Frames {
        let mut stream = browser.clone().over_h2().connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        let mut frames = Frames { stream, seen: Vec::new() };
        // No dynamic table, so heads can be decoded independently.
        frames.send(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]).await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.stream.write_all(&frame(kind, flags, stream, payload)).await.expect("sent");
    }

    async fn get(&mut self, stream: u32, path: &str) {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &request(METHOD_GET, path)).await;
    }

    async fn head(&mut self, stream: u32, flags: u8, fields: &[Vec<u8>]) {
        let block = [request(METHOD_GET, "/"), fields.concat()].concat();
        self.send(HEADERS, flags, stream, &block).await;
    }

    async fn next(&mut self) -> std::io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Returns the first matching frame, received or to come.
    async fn expect(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        if let Some(frame) = self.seen.iter().find(|frame| wanted(frame)) {
            return frame.clone();
        }
        let reading = async {
            loop {
                let frame = self.next().await.expect("open");
                self.seen.push(frame.clone());
                if wanted(&frame) {
                    return frame;
                }
            }
        };
        timeout(TIMEOUT, reading).await.expect("in time")
    }

    /// Returns the status of a response. Its first byte is an index of the static table or a literal.
    async fn status(&mut self, stream: u32) -> u16 {
        let head =
            self.expect(|frame| frame.kind == HEADERS && frame.stream == stream).await.payload;
        // The first block starts with a table size update.
        match head.strip_prefix(&[0x20]).unwrap_or(&head) {
            [indexed @ 0x88..=0x8e, ..] => {
                [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]
            }
            // `:status` with a value of three digits, plain or Huffman-coded.
            [_, 0x03, digits @ ..] => {
                std::str::from_utf8(&digits[..3]).expect("digits").parse().expect("a status")
            }
            [_, 0x82 | 0x83, code @ ..] => huffman_digits(code),
            other => panic!("{other:x?}"),
        }
    }

    /// Sends frames until the gateway closes; panics if it accepts all. Returns their number.
    async fn flood(mut self, most: usize, mut bytes: impl FnMut(usize) -> Vec<u8>) -> usize {
        let (mut reading, mut writing) = tokio::io::split(self.stream);
        self.seen.clear();
        let draining = tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(1..) = reading.read(&mut buffer).await {}
        });
        let sending = async {
            for number in 0..most {
                if writing.write_all(&bytes(number)).await.is_err() {
                    return number;
                }
            }
            // Written frames can still be in flight; only the close counts.
            timeout(TIMEOUT, draining).await.expect("the gateway closes").expect("no panic");
            most
        };
        timeout(4 * TIMEOUT, sending).await.expect("in time")
    }
}

/// Encodes three digits in the Huffman code of RFC 7541, appendix B.
fn huffman_digits(code: &[u8]) -> u16 {
    let bits: String = code.iter().take(3).map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let (digit, length) = match &bits[at..at + 5] {
            "00000" => (0, 5),
            "00001" => (1, 5),
            "00010" => (2, 5),
            _ => (u16::from_str_radix(&bits[at..at + 6], 2).expect("bits") - 0b01_1001 + 3, 6),
        };
        at += length;
        value = value * 10 + digit;
    }
    value
}

/// Returns a gateway, a client that was served, and a connection for the attack.
async fn target(limits: &str) -> (Upstream, Gateway, Browser, Frames) {
    let (upstream, gateway, browser) = app(limits).await;
    let frames = Frames::open(&browser).await;
    (upstream, gateway, browser, frames)
}

async fn still_serves(browser: &Browser) {
    for mut client in [browser.clone(), browser.clone().over_h2()] {
        assert_eq!(client.fetch("/").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn h2_connection_with_only_pings_is_closed() {
    let (_upstream, _gateway, browser) = app("idle_timeout = \"1s\"").await;
    let mut wire = Frames::open(&browser).await;
    wire.get(1, "/").await;
    assert_eq!(wire.status(1).await, 200);
    let living = async {
        loop {
            tokio::select! {
                frame = wire.next() => match frame {
                    Ok(Frame { kind: PING, flags: 0, payload, .. }) => {
                        wire.send(PING, ACK, 0, &payload).await;
                    }
                    Ok(Frame { kind: GOAWAY, .. }) | Err(_) => return,
                    Ok(_) => {}
                },
                () = sleep(Duration::from_millis(100)) => {
                    wire.send(PING, 0, 0, &[0; 8]).await;
                }
            }
        }
    };
    timeout(TIMEOUT, living).await.expect("closed");
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let (upstream, gateway, browser, frames) = target("").await;
    let sent = frames
        .flood(20_000, |number| {
            let stream = u32::try_from(number).expect("few") * 2 + 1;
            let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &request(METHOD_GET, "/"));
            [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        })
        .await;
    assert!(sent < 20_000, "the flood is not stopped");
    assert!(upstream.heads().len() < 2_000, "{}", upstream.heads().len());
    still_serves(&browser).await;
    drop(gateway);
}

/// CVE-2023-44487.
#[tokio::test]
async fn slow_rapid_reset_reaches_its_limit() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address), "");
    let mut wire = Frames::open(&Browser::new(&gateway)).await;
    let is_reached = || limit_hits(&gateway, "stream-resets") == 1;
    // If the upstream closed, the gateway would respond, and a completed request is not counted as a reset.
    let mut under_way = Vec::new();
    for number in 0..1_000_u32 {
        wire.get(number * 2 + 1, "/").await;
        tokio::select! {
            upstream = connections.recv() => under_way.push(upstream.expect("a request")),
            () = until("the limit of reset requests", is_reached) => return,
        }
        let reset = frame(RST_STREAM, 0, number * 2 + 1, &8_u32.to_be_bytes());
        if wire.stream.write_all(&reset).await.is_err() {
            break;
        }
    }
    until("the limit of reset requests", is_reached).await;
}

/// CVE-2025-8671.
#[tokio::test]
async fn made_you_reset_ends_the_connection() {
    let (_upstream, _gateway, browser, mut frames) = target("").await;
    // A window beyond the maximum is a protocol error that requires a reset.
    let made = |stream: u32| {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &request(METHOD_GET, "/"));
        let window = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        [head, window].concat()
    };
    frames.stream.write_all(&made(1)).await.expect("sent");
    // A single error resets the stream, not the connection.
    let reset = frames.expect(|frame| matches!(frame.kind, RST_STREAM | GOAWAY)).await;
    assert_eq!((reset.kind, reset.stream), (RST_STREAM, 1));
    let flood = |number| made(u32::try_from(number).expect("few") * 2 + 3);
    let sent = frames.flood(20_000, flood).await;
    assert!(sent < 20_000, "the flood is not stopped");
    still_serves(&browser).await;
}

/// An upstream that counts its connections.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {
                    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(response).await.unwrap_or_default();
                }
            });
        }
    });
    (address, accepted)
}

/// CVE-2025-8671, CVE-2023-44487.
#[tokio::test]
async fn immediately_reset_streams_never_reach_the_upstream() {
    let (address, accepted) = counting().await;
    let gateway = start(public(address), "");
    let mut frames = Frames::open(&Browser::new(&gateway)).await;
    let opened =
        |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &request(METHOD_GET, "/"));
    let made = |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
    let taken_back = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let streams = (0..60_u32).map(|number| number * 2 + 1);
    let pairs = streams.map(|stream| {
        let undone = if stream % 12 == 1 { taken_back(stream) } else { made(stream) };
        [opened(stream), undone].concat()
    });
    // All frames in one write, followed by a regular request.
    let mut bytes: Vec<u8> = pairs.flatten().collect();
    bytes.extend(opened(121));
    frames.stream.write_all(&bytes).await.expect("sent");
    let response = frames.expect(|frame| (frame.kind, frame.stream) == (HEADERS, 121)).await;
    assert_eq!(response.stream, 121);
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

/// CVE-2024-27316.
#[tokio::test]
async fn endless_headers_frames_end_the_connection() {
    let (upstream, _gateway, browser, mut frames) = target("").await;
    frames.send(HEADERS, 0, 1, &request(METHOD_GET, "/")).await;
    let continuation = frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100)));
    let sent = frames.flood(100_000, |_| continuation.clone()).await;
    assert!(sent < 100_000, "the flood is not stopped");
    assert!(upstream.heads().is_empty());
    still_serves(&browser).await;
}

/// RUSTSEC-2026-0258.
#[tokio::test]
async fn empty_data_frames_end_the_connection() {
    let (_upstream, gateway, browser, mut frames) = target("").await;
    frames.send(HEADERS, END_HEADERS, 1, &request(METHOD_POST, "/")).await;
    let empty = frame(DATA, 0, 1, &[]).repeat(100);
    let sent = frames.flood(10_000, |_| empty.clone()).await;
    assert!(sent < 10_000, "the flood is not stopped");
    still_serves(&browser).await;
    drop(gateway);
}

/// CVE-2019-9512.
#[tokio::test]
async fn ping_flood_ends_the_connection() {
    let (_upstream, gateway, browser, frames) = target("").await;
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(100);
    let sent = frames.flood(10_000, |_| pings.clone()).await;
    assert!(sent < 10_000, "the flood is not stopped");
    assert_eq!(limit_hits(&gateway, "control-bytes"), 1);
    still_serves(&browser).await;
}

/// CVE-2019-9515.
#[tokio::test]
async fn settings_flood_ends_the_connection() {
    let (_upstream, gateway, browser, frames) = target("").await;
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(100);
    let sent = frames.flood(10_000, |_| settings.clone()).await;
    assert!(sent < 10_000, "the flood is not stopped");
    still_serves(&browser).await;
    drop(gateway);
}

#[tokio::test]
async fn flood_of_unknown_frames_ends_the_connection() {
    let (_upstream, gateway, browser, frames) = target("").await;
    let unknown = frame(0xbb, 0, 0, &[0; 100]).repeat(10);
    let sent = frames.flood(10_000, |_| unknown.clone()).await;
    assert!(sent < 10_000, "the flood is not stopped");
    assert_eq!(limit_hits(&gateway, "control-bytes"), 1);
    still_serves(&browser).await;
}

#[tokio::test]
async fn h2_cut_resets_one_stream_and_keeps_the_connection() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(session_route(address), "");
    let (mut alice, mut bob) = (Browser::new(&gateway), Browser::new(&gateway));
    alice.log_in("alice").await;
    bob.log_in("bob").await;
    let mut wire = Frames::open(&alice).await;
    let mut talking = Vec::new();
    for (stream, who) in [(1, &alice), (3, &bob)] {
        let cookie = field("cookie", &format!("{SESSION}={}", who.token()));
        wire.head(stream, END_STREAM | END_HEADERS, &[cookie]).await;
        let app = connections.recv().await.expect("a request");
        talking.push(drip(app, "Transfer-Encoding: chunked"));
        assert_eq!(wire.status(stream).await, 200);
    }
    gateway.revoke("user=alice").await;
    wire.expect(|frame| frame.kind == RST_STREAM && frame.stream == 1).await;
    for _ in 0..20 {
        let frame = timeout(TIMEOUT, wire.next()).await.expect("in time").expect("open");
        assert!(![RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?}");
        assert!(frame.stream != 1, "after its reset: {frame:?}");
    }
    let cookie = field("cookie", &format!("{SESSION}={}", bob.token()));
    wire.head(5, END_STREAM | END_HEADERS, &[cookie]).await;
    let mut app = connections.recv().await.expect("a request");
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("sent");
    assert_eq!(wire.status(5).await, 200);
    talking.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn long_h2_upload_is_not_a_flood() {
    let (upstream, gateway, browser) = app("").await;
    let mut browser = browser.over_h2();
    let response = browser.send("POST", "/", &[], &"x".repeat(8 << 20)).await;
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(upstream.bodies()[0].len(), 8 << 20);
    assert_eq!(limit_hits(&gateway, "control-bytes"), 0);
}
