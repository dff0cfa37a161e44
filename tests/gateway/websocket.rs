//! WebSocket tunnels, event streams and large bodies: unbuffered, and ended with their session.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

/// Longest time between the end of a session and of its connections.
const CUT: Duration = Duration::from_secs(5);

const IDLE: Duration = Duration::from_secs(30 * 60);

/// An upstream that echoes every message and records the handshake heads.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
    task: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads = Arc::new(Mutex::default());
        let task = tokio::spawn(accept_all(listener, Arc::clone(&heads)));
        Echo { address, heads, task }
    }

    fn last(&self) -> HeaderMap {
        self.heads.lock().expect("no panic").last().cloned().expect("a handshake")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(listener: TcpListener, heads: Arc<Mutex<Vec<HeaderMap>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(echo(stream, Arc::clone(&heads)));
    }
}

#[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
async fn echo(stream: TcpStream, heads: Arc<Mutex<Vec<HeaderMap>>>) {
    let keep = |request: &server::Request, response: server::Response| {
        heads.lock().expect("no panic").push(request.headers().clone());
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, keep).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() || socket.send(message).await.is_err() {
            return;
        }
    }
}

pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn try_open(browser: &Browser) -> Result<Socket, Error> {
    try_open_with(browser, &[]).await
}

async fn try_open_with(
    browser: &Browser,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Error> {
    let mut request = format!("wss://{}/ws", browser.host).into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    if !browser.token().is_empty() {
        let cookie = format!("{SESSION}={}; theme=dark", browser.token());
        request.headers_mut().insert("cookie", cookie.parse().expect("a value"));
    }
    client_async(request, browser.connect().await).await.map(|(socket, _)| socket)
}

pub(crate) async fn open(browser: &Browser) -> Socket {
    open_with(browser, &[]).await
}

pub(crate) async fn open_with(browser: &Browser, headers: &[(&'static str, &str)]) -> Socket {
    let mut socket = try_open_with(browser, headers).await.expect("a tunnel");
    responses(&mut socket).await;
    socket
}

/// Asserts that a message is echoed.
pub(crate) async fn responses(socket: &mut Socket) {
    socket.send(Message::text("still there?")).await.expect("sent");
    let frame =
        timeout(CUT, socket.next()).await.expect("in time").expect("open").expect("a frame");
    assert_eq!(frame, Message::text("still there?"));
}

/// Asserts that the tunnel is closed in time with code 1008 (policy violation).
async fn is_cut(socket: &mut Socket, why: &str) {
    assert_eq!(close_code(socket).await, CloseCode::Policy, "{why}");
}

/// Waits for the close frame.
pub(crate) async fn close_code(socket: &mut Socket) -> CloseCode {
    let end = timeout(CUT, socket.next()).await;
    let end = end.unwrap_or_else(|_| panic!("still open after {CUT:?}"));
    let Some(Ok(Message::Close(Some(close)))) = end else { panic!("no close frame: {end:?}") };
    close.code
}

fn status(result: Result<Socket, Error>) -> u16 {
    match result {
        Ok(_) => 101,
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("no response: {error}"),
    }
}

async fn behind(upstream: SocketAddr) -> (Gateway, Browser) {
    let setup =
        Setup { routes: session_route(upstream), clock: manual_clock(), ..Setup::default() };
    let gateway = Gateway::start(setup);
    let browser = logged_in(&gateway, "alice").await;
    (gateway, browser)
}

pub(crate) async fn logged_in(gateway: &Gateway, user: &str) -> Browser {
    let mut browser = Browser::new(gateway);
    browser.log_in(user).await;
    browser
}

/// Sends the request of `doorward sessions revoke`, which returns after all tracked connections were checked.
async fn revoke(gateway: &Gateway, query: &str) {
    let mut files = std::fs::read_dir(gateway.directory.path()).expect("a directory");
    let socket = files.find_map(|file| {
        let path = file.expect("an entry").path();
        (path.extension()? == "sock").then_some(path)
    });
    let mut stream = UnixStream::connect(socket.expect("a socket")).await.expect("connected");
    let request =
        format!("POST /revoke?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

async fn send_key(browser: &mut Browser, page: &str, button: &str) {
    let csrf = browser.navigate(page).await.form_field("csrf");
    let response = browser.post_form(page, &[("csrf", &csrf), ("do", button)]).await;
    assert!(!response.status.is_client_error(), "{}", response.text());
}

// The handshake

#[tokio::test]
async fn websocket_echoes_and_its_handshake_carries_identity() {
    let echo = Echo::start().await;
    let (_gateway, browser) = behind(echo.address).await;
    let mut socket = open(&browser).await;
    let large = Message::binary(vec![7; 3 << 20]);
    socket.send(large.clone()).await.expect("sent");
    assert_eq!(socket.next().await.expect("open").expect("a frame"), large);
    let head = echo.last();
    let values: Vec<_> = head.get_all("x-forwarded-user").iter().collect();
    assert_eq!(values, ["alice"]);
    assert_eq!(head["cookie"], "theme=dark", "our cookie stays here, the app's goes on");
}

#[tokio::test]
async fn websocket_handshake_without_session_is_401() {
    let echo = Echo::start().await;
    let (gateway, browser) = behind(echo.address).await;
    assert_eq!(status(try_open(&Browser::new(&gateway)).await), 401);
    let forged = Browser::new(&gateway).with_token("dw1_forged");
    assert_eq!(status(try_open(&forged).await), 401);
    assert!(echo.heads.lock().expect("no panic").is_empty());
    assert_eq!(status(try_open(&browser).await), 101);
}

#[tokio::test]
async fn ordinary_response_to_a_handshake_is_forwarded() {
    let upstream = Upstream::start().await;
    let (_gateway, browser) = behind(upstream.address).await;
    assert_eq!(status(try_open(&browser).await), 200);
    assert_eq!(upstream.heads().len(), 1);
}

/// RFC 6455, section 4.1.
#[tokio::test]
async fn wrong_sec_websocket_accept_is_502() {
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for accept in ["", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"] {
        let upstream = Upstream::with_response(format!("{switching}{accept}\r\n")).await;
        let (_gateway, browser) = behind(upstream.address).await;
        assert_eq!(status(try_open(&browser).await), 502, "{accept:?}");
    }
}

/// RFC 6455, section 4.2.1.
#[tokio::test]
async fn malformed_handshake_is_400() {
    let upstream = Upstream::start().await;
    let (_gateway, browser) = behind(upstream.address).await;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let halves = [
        ("GET", "Connection: Upgrade\r\n", key, ""),
        ("GET", "Connection: Upgrade\r\n", key, "Sec-WebSocket-Version: 777\r\n"),
        ("GET", "Connection: Upgrade\r\n", "", version),
        ("GET", "Connection: Upgrade\r\n", "Sec-WebSocket-Key: short\r\n", version),
        ("GET", "", key, version),
        ("POST", "Connection: Upgrade\r\n", key, version),
    ];
    for (method, connection, key, version) in halves {
        let request = format!(
            "{method} /ws HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\n{connection}{key}{version}Cookie: {SESSION}={}\r\n\r\n",
            browser.token()
        );
        let response = browser.send_raw(request.as_bytes()).await;
        assert!(response.starts_with("HTTP/1.1 400"), "{request}{response}");
    }
    assert!(upstream.heads().is_empty());
}

// Tunnels end with their session

#[tokio::test]
async fn logout_and_revocation_cut_only_their_own_tunnels() {
    let echo = Echo::start().await;
    let (gateway, bystander) = behind(echo.address).await;
    let mut open_all_along = open(&bystander).await;
    for (page, button) in [
        ("/.doorward/logout", ""),
        ("/.doorward/sessions", "end-all"),
        ("the operator", "user=bob"),
    ] {
        let mut browser = logged_in(&gateway, "bob").await;
        let mut socket = open(&browser).await;
        match page.starts_with('/') {
            true => send_key(&mut browser, page, button).await,
            false => revoke(&gateway, button).await,
        }
        is_cut(&mut socket, page).await;
        assert_eq!(status(try_open(&browser).await), 401, "{page}");
        responses(&mut open_all_along).await;
    }
}

#[tokio::test]
async fn ending_other_sessions_keeps_the_own_tunnel() {
    let echo = Echo::start().await;
    let (gateway, mut here) = behind(echo.address).await;
    let there = logged_in(&gateway, "alice").await;
    let (mut own, mut other) = (open(&here).await, open(&there).await);
    send_key(&mut here, "/.doorward/sessions", "end-others").await;
    is_cut(&mut other, "end-others").await;
    responses(&mut own).await;
}

#[tokio::test]
async fn idle_timeout_cuts_a_tunnel() {
    let echo = Echo::start().await;
    let routes =
        session_route(echo.address) + "[route.session]\nactivity = { websocket = \"none\" }\n";
    let gateway = Gateway::start(Setup { routes, clock: manual_clock(), ..Setup::default() });
    let mut socket = open(&logged_in(&gateway, "alice").await).await;
    gateway.advance(IDLE - Duration::from_secs(1));
    revoke(&gateway, "user=bob").await;
    responses(&mut socket).await;
    gateway.advance(Duration::from_secs(1));
    is_cut(&mut socket, "idle").await;
}

#[tokio::test]
async fn token_rotation_keeps_a_tunnel_open() {
    let echo = Echo::start().await;
    let (gateway, mut browser) = behind(echo.address).await;
    let mut socket = open(&browser).await;
    let old = browser.token();
    for _ in 0..3 {
        gateway.advance(Duration::from_secs(601));
        assert_eq!(browser.fetch("/.doorward/sessions").await.status, StatusCode::OK);
        assert_eq!(browser.fetch("/.doorward/sessions").await.status, StatusCode::OK);
        revoke(&gateway, "user=bob").await;
        responses(&mut socket).await;
    }
    assert_ne!(browser.token(), old);
}

#[tokio::test]
async fn logout_at_another_gateway_cuts_a_tunnel() {
    let (echo, redis) = (Echo::start().await, RedisServer::start(RedisOptions::default()));
    let setup = |shared_directory| Setup {
        routes: session_route(echo.address),
        store: redis.settings().url,
        shared_directory,
        ..Setup::default()
    };
    let here = Gateway::start(setup(None));
    let there = Gateway::start(setup(Some(Arc::clone(&here.directory))));
    let browser = logged_in(&here, "alice").await;
    let mut socket = open(&browser).await;
    send_key(&mut browser.at_gateway(&there), "/.doorward/logout", "").await;
    is_cut(&mut socket, "logout elsewhere").await;
}

// Streams and large bodies

/// An upstream that reads one request head and passes on its connection.
async fn raw_handshake() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        sender.send(stream).await.expect("wanted");
    });
    (address, receiver)
}

fn get(browser: &Browser) -> http::request::Builder {
    Request::builder()
        .uri("/stream")
        .header("host", &browser.host)
        .header("cookie", format!("{SESSION}={}", browser.token()))
}

async fn begin(browser: &Browser) -> JoinHandle<http::Response<Incoming>> {
    let tls = TokioIo::new(browser.connect().await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(tls).await.expect("HTTP");
    tokio::spawn(connection);
    let request = get(browser).body(Empty::<Bytes>::new()).expect("a request");
    tokio::spawn(async move { sender.send_request(request).await.expect("a response") })
}

async fn chunk(body: &mut Incoming) -> Bytes {
    let frame = timeout(CUT, body.frame()).await.expect("in time").expect("open");
    frame.expect("a frame").into_data().expect("data")
}

#[tokio::test]
async fn event_stream_passes_events_and_ends_with_its_session() {
    let (address, mut connections) = raw_handshake().await;
    let (gateway, mut browser) = behind(address).await;
    let response = begin(&browser).await;
    let mut upstream = connections.recv().await.expect("a request");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n";
    upstream.write_all(head.as_bytes()).await.expect("sent");
    let mut body = response.await.expect("no panic").into_body();
    for number in 0..3 {
        let event = format!("data: {number}\n\n");
        upstream.write_all(event.as_bytes()).await.expect("sent");
        assert_eq!(chunk(&mut body).await, event);
    }
    revoke(&gateway, "user=bob").await;
    upstream.write_all(b"data: on\n\n").await.expect("sent");
    assert_eq!(chunk(&mut body).await, "data: on\n\n");
    send_key(&mut browser, "/.doorward/logout", "").await;
    let end = timeout(CUT, body.frame()).await.expect("cut in time");
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    let gone = timeout(CUT, upstream.read_u8()).await.expect("the upstream connection closes");
    assert!(gone.is_err());
}

#[tokio::test]
async fn upload_reaches_the_upstream_chunk_by_chunk() {
    let (address, mut connections) = raw_handshake().await;
    let (_gateway, browser) = behind(address).await;
    let tls = TokioIo::new(browser.connect().await);
    let (mut client, connection) = hyper::client::conn::http1::handshake(tls).await.expect("HTTP");
    tokio::spawn(connection);
    let (chunks, source) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(source, async |mut source| {
        let bytes = source.recv().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(bytes)), source))
    });
    let request = get(&browser).method("POST").body(StreamBody::new(Box::pin(frames)));
    let response = tokio::spawn(client.send_request(request.expect("a request")));
    chunks.send(Bytes::from_static(b"first")).await.expect("sent");
    let mut upstream = connections.recv().await.expect("a request");
    for (frame, next) in [("first", "second"), ("second", "third"), ("third", "")] {
        let framed = format!("{:x}\r\n{frame}\r\n", frame.len());
        let mut bytes = vec![0; framed.len()];
        timeout(CUT, upstream.read_exact(&mut bytes)).await.expect("in time").expect("a chunk");
        assert_eq!(String::from_utf8_lossy(&bytes).to_ascii_lowercase(), framed);
        if !next.is_empty() {
            chunks.send(Bytes::from_static(next.as_bytes())).await.expect("sent");
        }
    }
    drop(chunks);
    upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("sent");
    assert_eq!(
        response.await.expect("no panic").expect("a response").status(),
        StatusCode::NO_CONTENT
    );
}

#[tokio::test]
async fn slow_reader_applies_backpressure_without_data_loss() {
    const SIZE: usize = 64 << 20;
    let (address, mut connections) = raw_handshake().await;
    let (_gateway, browser) = behind(address).await;
    let response = begin(&browser).await;
    let mut upstream = connections.recv().await.expect("a request");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
    upstream.write_all(head.as_bytes()).await.expect("sent");
    let mut body = response.await.expect("no panic").into_body();

    // The client does not read, so all accepted bytes are in buffers.
    let data: Vec<u8> = (0..SIZE).map(|at| (at / 4096 % 251) as u8).collect();
    let mut written = 0;
    while let Ok(wrote) = timeout(Duration::from_secs(2), upstream.write(&data[written..])).await {
        written += wrote.expect("open");
        assert!(written < SIZE / 2, "the gateway buffers unread data");
    }

    let rest = data[written..].to_vec();
    let writing = tokio::spawn(async move { upstream.write_all(&rest).await });
    let mut read = 0;
    while let Some(frame) = timeout(CUT, body.frame()).await.expect("in time") {
        let received = frame.expect("a frame").into_data().expect("data");
        assert!(received == data[read..read + received.len()], "bytes in order");
        read += received.len();
    }
    assert_eq!(read, SIZE);
    writing.await.expect("no panic").expect("all written");
}

// HTTP/2

/// An h2c upstream that responds with the path.
async fn h2c() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(async |request: Request<Incoming>| {
                let user =
                    request.headers()["x-forwarded-user"].to_str().expect("ASCII").to_owned();
                let greeting = format!("{} {user}", request.uri().path());
                Ok::<_, std::convert::Infallible>(http::Response::new(greeting))
            });
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn parallel_h2_streams_get_their_own_responses() {
    let address = h2c().await;
    let routes = session_route(address).replace("http://", "h2c://");
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let browser = logged_in(&gateway, "alice").await.over_h2();
    let tls = TokioIo::new(browser.connect().await);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for number in 0..100 {
        let mut sender = sender.clone();
        let request = Request::builder()
            .uri(format!("https://app.test/{number}"))
            .header("cookie", format!("{SESSION}={}", browser.token()))
            .body(Empty::<Bytes>::new())
            .expect("a request");
        streams.spawn(async move {
            let response = sender.send_request(request).await.expect("a response");
            let body = response.into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(body, format!("/{number} alice"));
        });
    }
    let done = timeout(Duration::from_secs(20), streams.join_all()).await.expect("in time");
    assert_eq!(done.len(), 100);
}

// Activity in tunnels

#[tokio::test]
async fn tunnel_frames_count_as_activity_only_if_configured() {
    for (rule, is_active) in [("none", false), ("irregular", true), ("client-frames", true)] {
        let echo = Echo::start().await;
        let rules = format!("[route.session]\nactivity = {{ websocket = \"{rule}\" }}\n");
        let routes = session_route(echo.address) + &rules;
        let gateway = Gateway::start(Setup { routes, clock: manual_clock(), ..Setup::default() });
        let browser = logged_in(&gateway, "alice").await;
        let mut socket = open(&browser).await;
        gateway.advance(IDLE - Duration::from_secs(60));
        responses(&mut socket).await;
        // Activity is written asynchronously: wait until the session page shows it, if expected.
        let mut other = browser.clone();
        let left = async |browser: &mut Browser| {
            let response = browser.fetch("/.doorward/session").await;
            response.json()["idle_seconds"]
                .as_u64()
                .unwrap_or_else(|| panic!("{}", response.text()))
        };
        if is_active {
            timeout(CUT, async { while left(&mut other).await <= 60 {} }).await.expect("noted");
        }
        gateway.advance(Duration::from_secs(120));
        let response = other.fetch("/.doorward/session").await;
        assert_eq!(response.status == StatusCode::OK, is_active, "{rule}: {}", response.text());
        if !is_active {
            is_cut(&mut socket, "idle").await;
        }
    }
}

/// Sends a message and waits for its echo, so that the gateway has seen both.
async fn exchange(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.expect("sent");
    let echoed = timeout(CUT, socket.next()).await.expect("in time").expect("open");
    assert_eq!(echoed.expect("a frame"), Message::text(text));
}

/// Exchanges messages for longer than the idle timeout, at the given intervals in seconds. Returns whether the
/// session has outlived it.
async fn survives_idle_periods(intervals: impl IntoIterator<Item = u64>) -> bool {
    let echo = Echo::start().await;
    let (gateway, mut browser) = behind(echo.address).await;
    let mut socket = open(&browser).await;
    let mut passed = Duration::ZERO;
    for seconds in intervals {
        let interval = Duration::from_secs(seconds);
        passed += interval;
        gateway.advance(interval);
        let response = browser.fetch("/.doorward/session").await;
        if response.status != StatusCode::OK {
            assert!(passed >= IDLE, "after {passed:?}: {}", response.text());
            is_cut(&mut socket, "idle").await;
            return false;
        }
        // The upstream echoes each frame of the client, which does not count.
        exchange(&mut socket, "keep-alive").await;
    }
    assert!(passed > IDLE + Duration::from_secs(300), "{passed:?}");
    true
}

#[tokio::test]
async fn frames_of_a_timer_do_not_prevent_the_idle_timeout() {
    assert!(!survives_idle_periods(std::iter::repeat_n(25, 100)).await);
}

#[tokio::test]
async fn frames_of_a_user_prevent_the_idle_timeout() {
    assert!(survives_idle_periods([300, 20, 700, 400, 90, 640, 200]).await);
}
