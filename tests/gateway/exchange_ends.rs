//! Every way in which an exchange can end: what the client, the access log and the metrics report, for both
//! protocols on both sides. The table is in `docs/decisions/045-ends-of-an-exchange.md`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::{Upstream, raw_upstream};

/// Longest wait for an expected event.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The part of a response body that precedes a break.
const PART: &str = "four";

fn public(upstream: SocketAddr) -> String {
    session_route(upstream).replace("\"session\"", "\"public\"")
}

fn start(routes: String) -> Gateway {
    Gateway::start(Setup { routes, access_log: true, ..Setup::default() })
}

// Responses that break

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    /// RST, or RST_STREAM with HTTP/2.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    WithHead,
    /// Once the client has the response head.
    AfterHead,
}

/// An upstream whose responses break.
#[derive(Clone)]
struct BreakingUpstream {
    framing: Framing,
    end: End,
    time: Time,
    /// Signalled by the client.
    head_received: Arc<Notify>,
    requests: Arc<AtomicUsize>,
}

impl BreakingUpstream {
    fn all(head_received: &Arc<Notify>) -> Vec<BreakingUpstream> {
        let mut all = Vec::new();
        for framing in [Framing::Length, Framing::Chunked, Framing::Http2] {
            for (end, time) in [
                (End::Closed, Time::WithHead),
                (End::Closed, Time::AfterHead),
                (End::Reset, Time::AfterHead),
                (End::Reset, Time::WithHead),
            ] {
                let (head_received, requests) = (Arc::clone(head_received), Arc::default());
                all.push(BreakingUpstream { framing, end, time, head_received, requests });
            }
        }
        all
    }

    /// Over TCP, a reset may overtake the head or the first bytes of the body.
    fn may_lose_its_head(&self) -> bool {
        self.framing != Framing::Http2 && (self.end, self.time) == (End::Reset, Time::WithHead)
    }

    fn path(&self) -> String {
        format!("/{:?}-{:?}-{:?}", self.framing, self.end, self.time)
    }

    /// Starts the upstream and returns its route.
    async fn route(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let upstream = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(upstream.clone().serve(stream));
            }
        });
        let scheme = if self.framing == Framing::Http2 { "h2c" } else { "http" };
        public(address)
            .replace("path = \"/\"", &format!("path = \"{}\"", self.path()))
            .replace("http:", &format!("{scheme}:"))
    }

    async fn serve(self, mut stream: TcpStream) {
        let head = match self.framing {
            Framing::Http2 => return self.serve_http2(stream).await,
            Framing::Length => format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{PART}"),
            Framing::Chunked => {
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{PART}\r\n")
            }
        };
        if read_request(&mut stream).await {
            self.break_off(&mut stream, head.into_bytes(), Vec::new()).await;
        }
    }

    /// Speaks as much HTTP/2 as one request needs.
    async fn serve_http2(self, mut stream: TcpStream) {
        stream.write_all(&frame(4, 0, 0, &[])).await.expect("SETTINGS");
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.expect("the preface");
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            stream.read_exact(&mut vec![0; length]).await.expect("a payload");
            let (kind, flags, id) = (head[3], head[4], u32::from(head[8]));
            if matches!(kind, 0 | 1) && flags & 1 == 1 {
                // HPACK index 8: `:status 200`.
                let mut sent = frame(1, 4, id, &[0x88]);
                sent.extend(frame(0, 0, id, PART.as_bytes()));
                let internal_error = 2_u32.to_be_bytes();
                self.break_off(&mut stream, sent, frame(3, 0, id, &internal_error)).await;
                if self.end == End::Closed {
                    return;
                }
            }
        }
    }

    /// `reset` resets the response on this protocol; if empty, the connection is reset.
    async fn break_off(&self, stream: &mut TcpStream, mut sent: Vec<u8>, reset: Vec<u8>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let is_early = self.time == Time::WithHead;
        if is_early && self.end == End::Reset {
            sent.extend(&reset);
        }
        // Keeps the bytes until the FIN, which then goes into the same segment.
        SockRef::from(&*stream).set_tcp_cork(is_early && self.end == End::Closed).expect("set");
        stream.write_all(&sent).await.expect("sent");
        if !is_early {
            self.head_received.notified().await;
        }
        match (self.end, reset.is_empty()) {
            (End::Closed, _) => {}
            (End::Reset, true) => {
                SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).expect("set");
            }
            (End::Reset, false) => {
                if !is_early {
                    stream.write_all(&reset).await.expect("sent");
                }
            }
        }
    }
}

/// Reads a request with a body of ten bytes if it is a POST. Returns false at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        let body = if text.starts_with("POST") { 10 } else { 0 };
        if text.find("\r\n\r\n").is_some_and(|head| text.len() >= head + 4 + body) {
            return true;
        }
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return false;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a client receives.
#[derive(Debug)]
struct Received {
    status: u16,
    proxy_status: String,
    body: Vec<u8>,
    is_whole: bool,
}

fn request(browser: &Browser, method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    let uri = if browser.h2 { format!("https://{}{path}", browser.host) } else { path.to_owned() };
    let mut request = Request::builder().method(method).uri(uri);
    if !browser.h2 {
        request = request.header("host", &browser.host);
    }
    request.body(Full::from(body.to_owned())).expect("a request")
}

/// Sends a request, signals the response head and reads the body. `None`: the connection ended without a response.
async fn exchange(
    browser: &Browser,
    request: Request<Full<Bytes>>,
    on_head: impl FnOnce(),
) -> Option<Received> {
    let tls = TokioIo::new(browser.connect().await);
    let response = if browser.h2 {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await;
        let (mut sender, connection) = handshake.expect("HTTP/2");
        tokio::spawn(connection);
        timeout(TIMEOUT, sender.send_request(request)).await
    } else {
        let handshake = hyper::client::conn::http1::handshake(tls).await;
        let (mut sender, connection) = handshake.expect("HTTP/1.1");
        tokio::spawn(connection);
        timeout(TIMEOUT, sender.send_request(request)).await
    };
    let response = response.expect("an end in time").ok()?;
    on_head();
    let proxy_status = response.headers().get("proxy-status");
    let proxy_status = proxy_status.map_or("", |value| value.to_str().expect("ASCII")).to_owned();
    let (status, mut incoming) = (response.status().as_u16(), response.into_body());
    let mut body = Vec::new();
    let is_whole = loop {
        match timeout(TIMEOUT, incoming.frame()).await.expect("an end in time") {
            Some(Ok(frame)) => body.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    Some(Received { status, proxy_status, body, is_whole })
}

/// RFC 9209, section 2.3.9. A client that gets no byte sends a POST again.
#[tokio::test]
async fn broken_response_is_a_502_or_visibly_cut() {
    let head_received = Arc::new(Notify::new());
    let upstreams = BreakingUpstream::all(&head_received);
    let mut routes = String::new();
    for upstream in &upstreams {
        routes += &upstream.route().await;
    }
    let gateway = start(routes);
    let mut cut = 0;
    for upstream in &upstreams {
        for (number, (h2, method)) in
            [(false, "GET"), (false, "POST"), (true, "GET"), (true, "POST")].into_iter().enumerate()
        {
            let mut browser = Browser::new(&gateway);
            browser.h2 = h2;
            let path = format!("{}/{number}", upstream.path());
            let cell = format!("{path}: {method}, HTTP/2: {h2}");
            let body = if method == "POST" { "1234567890" } else { "" };
            let request = request(&browser, method, &path, body);
            let on_head = || {
                if upstream.time == Time::AfterHead {
                    head_received.notify_one();
                }
            };
            let received = exchange(&browser, request, on_head).await;
            let received = received.unwrap_or_else(|| panic!("no response: {cell}"));
            let entry = gateway.access_log_entry(&path).await;
            assert_eq!(entry["level"], "WARN", "{cell}: {entry}");
            assert_eq!(entry["status"], received.status, "{cell}");
            assert_eq!(entry["protocol"], if h2 { "HTTP/2" } else { "HTTP/1.1" }, "{cell}");
            assert_eq!(entry["route"], format!("app.test{}", upstream.path()), "{cell}");
            assert!(
                entry["upstream"].as_str().is_some_and(|it| it.contains("127.0.0.1")),
                "{cell}"
            );
            match upstream.time {
                Time::WithHead if upstream.may_lose_its_head() => {
                    let is_cut = (received.status, received.is_whole) == (200, false);
                    let is_error = (received.status, received.is_whole) == (502, true);
                    assert!(is_cut || is_error, "{cell}: {received:?}");
                    assert_eq!(entry.get("cut").is_some(), is_cut, "{cell}: {entry}");
                    cut += usize::from(is_cut);
                }
                Time::WithHead => {
                    assert_eq!(received.status, 502, "{cell}");
                    let expected = "doorward; error=http_response_incomplete";
                    assert_eq!(received.proxy_status, expected, "{cell}");
                    assert!(received.is_whole, "{cell}");
                    assert_eq!(entry.get("cut"), None, "{cell}");
                }
                Time::AfterHead => {
                    assert_eq!(received.status, 200, "{cell}");
                    assert_eq!(received.body, PART.as_bytes(), "{cell}");
                    assert!(!received.is_whole, "{cell}");
                    assert_eq!(entry["cut"], "http_response_incomplete", "{cell}");
                    assert_eq!(entry["bytes"], PART.len(), "{cell}");
                    cut += 1;
                }
            }
            let requests = upstream.requests.load(Ordering::Relaxed);
            assert_eq!(requests, number + 1, "sent once: {cell}");
        }
    }
    let metrics = gateway.metrics().await;
    let counted =
        format!("doorward_exchanges_cut_total{{cause=\"http_response_incomplete\"}} {cut}");
    assert!(metrics.contains(&counted), "{metrics}");
}

// Responses before the end of the upload

/// Upstream that responds with 413 to the head and then closes with unread data, which resets the connection.
async fn impatient_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let response = b"HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nlarge";
                stream.write_all(response).await.expect("sent");
            });
        }
    });
    address
}

/// Upstream over HTTP/2 that responds with 413 to the head, then resets the stream without an error (RFC 9113,
/// section 8.1).
async fn impatient_h2_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(&frame(4, 0, 0, &[])).await.expect("SETTINGS");
                stream.read_exact(&mut [0; 24]).await.expect("the preface");
                let mut head = [0; 9];
                while stream.read_exact(&mut head).await.is_ok() {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    stream.read_exact(&mut vec![0; length]).await.expect("a payload");
                    if head[3] == 1 {
                        let id = u32::from(head[8]);
                        // HPACK: a literal with the name of index 8, `:status`.
                        let mut sent = frame(1, 4, id, &[8, 3, b'4', b'1', b'3']);
                        sent.extend(frame(0, 1, id, b"large"));
                        sent.extend(frame(3, 0, id, &[0; 4]));
                        stream.write_all(&sent).await.expect("sent");
                    }
                }
            });
        }
    });
    address
}

/// A body that no pair of socket buffers holds. Linux may use 32 MiB to receive and 4 MiB to send.
const LARGE: usize = 64_000_000;

/// Upstream that responds to the head with a large body, while it reads the upload.
async fn talkative_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reading, mut writing) = tokio::io::split(stream);
                reading.read_u8().await.expect("a head");
                let mut discarded = tokio::io::sink();
                let uploading = tokio::io::copy(&mut reading, &mut discarded);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                let response = [head.as_bytes(), &vec![b'x'; LARGE]].concat();
                let _ = tokio::join!(uploading, writing.write_all(&response));
            });
        }
    });
    address
}

/// The body of a response that the client does not read yet is not polled.
#[tokio::test]
async fn large_early_response_does_not_stop_the_upload() {
    let gateway = start(public(talkative_upstream().await));
    let browser = Browser::new(&gateway);
    for framing in [&format!("Content-Length: {LARGE}"), "Transfer-Encoding: chunked"] {
        let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n");
        let mut body = vec![b'x'; LARGE];
        if framing.starts_with('T') {
            body = [format!("{LARGE:X}\r\n").as_bytes(), &*body, b"\r\n0\r\n\r\n"].concat();
        }
        let mut stream = browser.connect().await;
        let exchange = async {
            stream.write_all(head.as_bytes()).await.expect("sent");
            stream.write_all(&body).await.expect("sent");
            let head = read_head(&mut stream).await.expect("a head");
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{framing}: {head}");
            stream.read_exact(&mut vec![0; LARGE]).await.expect("the whole response");
        };
        timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| panic!("{framing}: no progress"));
    }
}

/// A gateway with one path for each kind of early response.
async fn early_responses() -> (Gateway, Upstream, Vec<(&'static str, u16)>) {
    let upstream = Upstream::start().await;
    let refusing = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused = refusing.local_addr().expect("an address");
    drop(refusing);
    let at =
        |route: String, path: &str| route.replace("path = \"/\"", &format!("path = \"{path}\""));
    let routes = [
        at(session_route(upstream.address), "/session"),
        at(public(refused), "/refused"),
        at(public(impatient_upstream().await), "/impatient"),
        at(public(impatient_h2_upstream().await), "/h2-impatient").replace("http:", "h2c:"),
        at(public(upstream.address), "/small") + "[route.limits]\nmax_body = \"100KiB\"\n",
    ]
    .concat();
    let cases = vec![
        ("/session", 401),
        ("/none", 404),
        ("/refused", 502),
        ("/small", 413),
        ("/.doorward/login", 413),
        ("/impatient", 413),
        ("/h2-impatient", 413),
    ];
    (start(routes), upstream, cases)
}

/// Sends the whole request before it reads the response, as Python's and Java's clients do.
async fn send_then_read(browser: &Browser, head: &str, body: &[u8]) -> std::io::Result<String> {
    let mut stream = browser.connect().await;
    let exchange = async {
        stream.write_all(head.as_bytes()).await?;
        for part in body.chunks(16 * 1024) {
            stream.write_all(part).await?;
        }
        read_head(&mut stream).await
    };
    timeout(TIMEOUT, exchange).await.expect("an end in time")
}

async fn read_head(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// RFC 9112, section 9.6.
#[tokio::test]
async fn early_response_reaches_a_client_that_still_sends() {
    let (gateway, _upstream, cases) = early_responses().await;
    let browser = Browser::new(&gateway);
    for size in [300_000, LARGE] {
        for (path, status) in &cases {
            for framing in ["Content-Length: SIZE", "Transfer-Encoding: chunked"] {
                let is_chunked = framing.starts_with('T');
                let framing = framing.replace("SIZE", &size.to_string());
                let head = format!("POST {path} HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n");
                let body = match is_chunked {
                    true => format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size)).into_bytes(),
                    false => vec![b'x'; size],
                };
                for _ in 0..3 {
                    let response = send_then_read(&browser, &head, &body).await;
                    let response =
                        response.unwrap_or_else(|error| panic!("{path} {framing}: {error}"));
                    let expected = format!("HTTP/1.1 {status} ");
                    assert!(response.starts_with(&expected), "{path} {framing}: {response}");
                }
            }
        }
    }
}

#[tokio::test]
async fn redirect_reaches_a_client_that_still_sends() {
    let (gateway, _upstream, _) = early_responses().await;
    for _ in 0..5 {
        let mut stream = TcpStream::connect(gateway.http).await.expect("connected");
        let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {LARGE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(&vec![b'x'; LARGE]).await.expect("sent");
        let mut response = [0; 12];
        let read = timeout(TIMEOUT, stream.read_exact(&mut response)).await.expect("in time");
        read.expect("a response");
        assert_eq!(&response, b"HTTP/1.1 307");
    }
}

/// Some clients report a failure if the stream is reset while they send.
#[tokio::test]
async fn early_h2_response_does_not_reset_the_upload() {
    let (gateway, _upstream, cases) = early_responses().await;
    let browser = Browser::new(&gateway).over_h2();
    for (path, status) in cases {
        let (mut sender, connection) =
            h2::client::handshake(browser.connect().await).await.expect("HTTP/2");
        tokio::spawn(connection);
        let head = Request::builder()
            .method("POST")
            .uri(format!("https://app.test{path}"))
            .header("content-length", "300000")
            .body(())
            .expect("a request");
        let (response, mut upload) = sender.send_request(head, false).expect("sent");
        upload.send_data(Bytes::from(vec![b'x'; 16_000]), false).expect("sent");
        let response = timeout(TIMEOUT, response).await.expect("in time").expect("a response");
        assert_eq!(response.status().as_u16(), status, "{path}");
        let mut body = response.into_body();
        while let Some(data) = timeout(TIMEOUT, body.data()).await.expect("in time") {
            let data = data.unwrap_or_else(|error| panic!("{path}: {error}"));
            body.flow_control().release_capacity(data.len()).expect("released");
        }
        // The rest of the upload is taken, or else the stream is reset within this time.
        upload.send_data(Bytes::from(vec![b'x'; 284_000]), true).expect("sent");
        let reset =
            timeout(Duration::from_millis(300), std::future::poll_fn(|cx| upload.poll_reset(cx)))
                .await;
        assert!(!matches!(reset, Ok(Ok(_))), "{path}: {reset:?}");
    }
}

// Clients that hang up

/// A request whose client leaves: HTTP/1.1 closes or resets its connection, HTTP/2 resets the stream or closes the
/// connection.
async fn open_then_leave(
    browser: &Browser,
    method: &str,
    path: &str,
    resets: bool,
    leave: impl Future<Output = ()>,
) {
    if !browser.h2 {
        let mut stream = browser.connect().await;
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\nbody");
        stream.write_all(head.as_bytes()).await.expect("sent");
        leave.await;
        if resets {
            let socket = SockRef::from(stream.get_ref().0);
            socket.set_linger(Some(Duration::ZERO)).expect("set");
        }
        return;
    }
    let (mut sender, connection) =
        h2::client::handshake(browser.connect().await).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let head = Request::builder().method(method).uri(format!("https://app.test{path}"));
    let (response, mut upload) =
        sender.send_request(head.body(()).expect("head"), false).expect("sent");
    upload.send_data(Bytes::from_static(b"body"), true).expect("sent");
    leave.await;
    if resets {
        upload.send_reset(h2::Reason::CANCEL);
        sleep(Duration::from_millis(200)).await;
    }
    connection.abort();
    drop(response);
}

/// HTTP/2, and whether the client resets.
const CLIENT_ENDS: [(bool, bool); 4] = [(false, false), (false, true), (true, true), (true, false)];

#[tokio::test]
async fn client_gone_before_the_response_is_logged_as_499() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address));
    for (number, (h2, resets)) in CLIENT_ENDS.iter().enumerate() {
        for method in ["GET", "POST"] {
            let mut browser = Browser::new(&gateway);
            browser.h2 = *h2;
            let path = format!("/{number}/{method}");
            let mut held = None;
            let reached = async { held = connections.recv().await };
            open_then_leave(&browser, method, &path, *resets, reached).await;
            let entry = gateway.access_log_entry(&path).await;
            assert_eq!(entry["status"], 499, "{entry}");
            assert_eq!(entry["cut"], "client_gone", "{entry}");
            assert_eq!(entry["verdict"], "public", "{entry}");
            assert_eq!(entry["level"], "INFO", "{entry}");
        }
    }
    let metrics = gateway.metrics().await;
    for counted in [
        "doorward_requests_total{verdict=\"public\",status=\"499\"} 8",
        "doorward_exchanges_cut_total{cause=\"client_gone\"} 8",
    ] {
        assert!(metrics.contains(counted), "{metrics}");
    }
}

#[tokio::test]
async fn client_gone_during_the_response_is_marked_in_the_log() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address));
    for (number, (h2, resets)) in CLIENT_ENDS.iter().enumerate() {
        let mut browser = Browser::new(&gateway);
        browser.h2 = *h2;
        let path = format!("/{number}");
        let mut sending = None;
        let started = async {
            let mut stream = connections.recv().await.expect("a request");
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
            stream.write_all(head).await.expect("sent");
            stream.write_all(&[b'x'; 100_000]).await.expect("sent");
            // The client has some of it, and the gateway waits for more.
            sleep(Duration::from_millis(100)).await;
            sending = Some(tokio::spawn(async move {
                while stream.write_all(&[b'x'; 10_000]).await.is_ok() {
                    sleep(Duration::from_millis(5)).await;
                }
            }));
        };
        open_then_leave(&browser, "GET", &path, *resets, started).await;
        let entry = gateway.access_log_entry(&path).await;
        assert_eq!(
            (&entry["status"], &entry["cut"]),
            (&200.into(), &"client_gone".into()),
            "{entry}"
        );
        assert!(entry["bytes"].as_u64().is_some_and(|bytes| bytes >= 60_000), "{entry}");
        let sending = sending.expect("started");
        timeout(TIMEOUT, sending).await.expect("the upstream connection closes").expect("no panic");
    }
}

#[tokio::test]
async fn complete_exchanges_are_logged_with_bytes_and_upstream() {
    let upstream = Upstream::start().await;
    let gateway = start(public(upstream.address));
    for h2 in [false, true] {
        let mut browser = Browser::new(&gateway);
        browser.h2 = h2;
        for (method, bytes) in [("GET", 5), ("POST", 5)] {
            let path = format!("/{h2}/{method}");
            let body = if method == "POST" { "body" } else { "" };
            assert_eq!(browser.send(method, &path, &[], body).await.status, StatusCode::OK);
            let entry = gateway.access_log_entry(&path).await;
            assert_eq!(
                (&entry["status"], &entry["bytes"]),
                (&200.into(), &bytes.into()),
                "{entry}"
            );
            assert_eq!(entry.get("cut"), None, "{entry}");
            assert_eq!(entry["upstream"], format!("http://{}", upstream.address), "{entry}");
            assert_eq!(entry["host"], "app.test", "{entry}");
        }
        let path = format!("/.doorward/{h2}");
        assert_eq!(browser.send("HEAD", &path, &[], "").await.status, StatusCode::NOT_FOUND);
        let entry = gateway.access_log_entry(&path).await;
        assert_eq!((entry.get("cut"), entry.get("upstream")), (None, None), "{entry}");
    }
}

#[tokio::test]
async fn forbidden_requests_are_logged_with_their_user() {
    let upstream = Upstream::start().await;
    let routes = session_route(upstream.address).replace("\"session\"", "{ groups = [\"staff\"] }");
    let gateway = start(routes);
    let mut bob = Browser::new(&gateway);
    bob.log_in("bob").await;
    assert_eq!(bob.fetch("/secret").await.status, StatusCode::FORBIDDEN);
    let entry = gateway.access_log_entry("/secret").await;
    assert_eq!((&entry["user"], &entry["verdict"]), (&"bob".into(), &"forbidden".into()));
}

// HTTP/1.0

/// Sends requests on one connection and returns all bytes of the responses.
async fn on_one_connection(browser: &Browser, requests: &[String]) -> String {
    let mut stream = browser.connect().await;
    let mut all = Vec::new();
    for request in requests {
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut buffer = [0; 64 * 1024];
        let reading = timeout(Duration::from_millis(500), async {
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                all.extend_from_slice(&buffer[..read]);
            }
        });
        let _ = reading.await;
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// RFC 9112, section 2.3.
#[tokio::test]
async fn http_1_0_apps_do_not_lower_the_client_protocol() {
    for body in ["", "small", &"x".repeat(100_000)] {
        let (address, mut connections) = raw_upstream().await;
        let gateway = start(public(address));
        let response = format!("HTTP/1.0 200 OK\r\nServer: SimpleHTTP\r\n\r\n{body}");
        tokio::spawn(async move {
            while let Some(mut stream) = connections.recv().await {
                stream.write_all(response.as_bytes()).await.expect("sent");
            }
        });
        let requests =
            ["/1", "/2"].map(|path| format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        let received = on_one_connection(&Browser::new(&gateway), &requests).await;
        assert_eq!(received.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{}", body.len());
        // A length, if the end arrives together with the head.
        let framings = ["transfer-encoding: chunked", "content-length: "];
        let framed: usize = framings.iter().map(|framing| received.matches(framing).count()).sum();
        assert_eq!(framed, 2, "{}: {received}", body.len());
        let answer = Browser::new(&gateway).over_h2().fetch("/3").await;
        assert_eq!(answer.text(), body);
    }
}

#[tokio::test]
async fn http_1_0_clients_keep_their_connection_if_the_length_is_known() {
    let (address, mut connections) = raw_upstream().await;
    let gateway = start(public(address));
    tokio::spawn(async move {
        while let Some(mut stream) = connections.recv().await {
            let body = "x".repeat(50_000);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("sent");
            sleep(Duration::from_millis(50)).await;
            let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            stream.write_all(chunk.as_bytes()).await.expect("sent");
        }
    });
    let request = "GET /1 HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n".to_owned();
    // Of unknown length: the end of the connection is the end of the body.
    let received = on_one_connection(&Browser::new(&gateway), &[request]).await;
    assert!(received.starts_with("HTTP/1.0 200 OK\r\n"), "{received}");
    assert!(!received.contains("chunked") && !received.contains("keep-alive"), "{received}");
    let (_, body) = received.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body, "x".repeat(50_000));
    let local = "GET /.doorward/none HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n";
    let twice = [local.to_owned(), local.to_owned()];
    let received = on_one_connection(&Browser::new(&gateway), &twice).await;
    assert_eq!(received.matches("HTTP/1.0 404 ").count(), 2, "{received}");
    assert!(received.contains("connection: keep-alive"), "{received}");
}
