//! The gateway's HTTP client against well-behaved and misbehaving upstreams.
//!
//! Upstreams are raw sockets if the exact bytes matter. Every wait is for an event, and one
//! deadline per test makes it fail.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use doorward::message::Endpoint;
use doorward::tls::client_config_for_ca;
use doorward::upstream::{
    Caller, PinnedConnections, Priority, UpgradeResponse, UpstreamBody, UpstreamError,
    UpstreamSettings, Upstreams,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, mpsc};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) type TestBody = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type TestUpstreams = Upstreams<TestBody>;

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// ---- an upstream -------------------------------------------------------------------------------

/// A listener that runs a script per connection; stops when dropped.
pub(crate) struct Upstream {
    pub(crate) endpoint: Endpoint,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Runs `script` with each connection and its number, from 1.
    pub(crate) async fn start<F, R>(script: F) -> Upstream
    where
        F: Fn(TcpStream, usize) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Upstream::start_at("http", "127.0.0.1", script).await
    }

    pub(crate) async fn start_at<F, R>(scheme: &str, host: &str, script: F) -> Upstream
    where
        F: Fn(TcpStream, usize) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let port = listener.local_addr().expect("address").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(script(stream, counter.fetch_add(1, Ordering::SeqCst) + 1));
            }
        });
        Upstream { endpoint: endpoint(scheme, host, port), accepted, accepting }
    }

    /// Answers every request on every connection with `response`.
    pub(crate) async fn responding(response: &'static [u8]) -> Upstream {
        Upstream::start(move |mut stream, _| async move {
            while head(&mut stream).await.is_some() {
                send(&mut stream, response).await;
            }
        })
        .await
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn only(&self) -> &[Endpoint] {
        std::slice::from_ref(&self.endpoint)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub(crate) fn endpoint(scheme: &str, host: &str, port: u16) -> Endpoint {
    Endpoint::parse(&format!("{scheme}://{host}:{port}")).expect("endpoint")
}

/// An address without a listener.
pub(crate) async fn unreachable() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    endpoint("http", "127.0.0.1", listener.local_addr().expect("address").port())
}

/// Reads one request head; `None` if the connection ended first.
pub(crate) async fn head<S: AsyncReadExt + Unpin>(stream: &mut S) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

pub(crate) async fn send<S: AsyncWriteExt + Unpin>(stream: &mut S, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("written");
    stream.flush().await.expect("flushed");
}

/// Waits until the other side has closed the connection.
pub(crate) async fn until_closed(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}

// ---- a gateway ---------------------------------------------------------------------------------

pub(crate) fn upstreams() -> TestUpstreams {
    upstreams_with(UpstreamSettings::default())
}

pub(crate) fn upstreams_with(settings: UpstreamSettings) -> TestUpstreams {
    Upstreams::new(
        settings,
        &client_config_for_ca(Authority::new().pem().as_bytes()).expect("trust"),
    )
}

fn request(method: Method, body: TestBody) -> Request<TestBody> {
    let request = Request::builder().method(method).uri("/path?query").header("host", "app.test");
    request.body(body).expect("request")
}

pub(crate) fn get() -> Request<TestBody> {
    request(Method::GET, empty())
}

pub(crate) fn post(body: &'static str) -> Request<TestBody> {
    request(Method::POST, Full::from(body).map_err(|never| match never {}).boxed_unsync())
}

fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A request body that the test feeds.
fn fed() -> (mpsc::Sender<io::Result<Bytes>>, TestBody) {
    let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|item| item.map(|bytes| bytes.map(Frame::data)))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

pub(crate) async fn text(response: Response<UpstreamBody<TestBody>>) -> String {
    let body = response.into_body().collect().await.expect("whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

async fn frame(body: &mut UpstreamBody<TestBody>) -> Option<Result<Frame<Bytes>, UpstreamError>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Runs a test under one deadline, longer than any advance of the clock.
pub(crate) async fn within<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time")
}

// ---- reuse -------------------------------------------------------------------------------------

#[tokio::test]
async fn one_connection_carries_consecutive_exchanges() {
    let responses: [&[u8]; 4] = [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ];
    let upstream = Upstream::start(move |mut stream, _| async move {
        for response in responses.iter().cycle() {
            let Some(_) = head(&mut stream).await else { return };
            send(&mut stream, response).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for expected in ["ok", "", "ok", "", "ok"] {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect("a response");
            assert_eq!(text(response).await, expected);
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_response_to_head_has_no_body_whatever_its_length() {
    let upstream = Upstream::responding(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..2 {
            let request = request(Method::HEAD, empty());
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), request)
                .await
                .expect("a response");
            assert_eq!(response.headers()["content-length"], "5");
            assert_eq!(text(response).await, "");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_request_is_sent_in_origin_form_with_its_host() {
    let (heads, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let heads = heads.clone();
        async move {
            let head = head(&mut stream).await.expect("head");
            send(&mut stream, OK).await;
            heads.send(head).await.expect("received");
        }
    })
    .await;
    within(async {
        let mut request = get();
        *request.uri_mut() = "https://app.test/path?query".parse().expect("uri");
        upstreams()
            .send(Priority::Authenticated, upstream.only(), request)
            .await
            .expect("a response");
        let head = received.recv().await.expect("head");
        assert_eq!(head, "GET /path?query HTTP/1.1\r\nHost: app.test\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_an_unread_response_is_closed() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
            until_closed(&mut stream).await;
            events.send("closed").await.expect("received");
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let response = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        let mut body = response.into_body();
        frame(&mut body).await.expect("frame").expect("first half");
        let silence = tokio::time::timeout(Duration::from_millis(20), frame(&mut body)).await;
        assert!(silence.is_err(), "the upstream sends nothing more");
        drop(body);
        assert_eq!(received.recv().await, Some("closed"));
    })
    .await;
}

/// CVE-2025-4366.
#[tokio::test]
async fn an_early_response_closes_the_connection() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, number| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            send(&mut stream, OK).await;
            if number == 1 {
                until_closed(&mut stream).await;
                events.send("closed").await.expect("received");
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let (_feeding, body) = fed();
        let early = upstreams
            .send(Priority::Authenticated, upstream.only(), request(Method::POST, body))
            .await;
        assert_eq!(text(early.expect("early response")).await, "ok");
        assert_eq!(received.recv().await, Some("closed"));
        let next = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        assert_eq!((text(next).await.as_str(), upstream.accepted()), ("ok", 2));
    })
    .await;
}

#[tokio::test]
async fn a_second_response_in_the_same_bytes_is_discarded() {
    let upstream = Upstream::start(|mut stream, number| async move {
        let stolen: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
        while head(&mut stream).await.is_some() {
            let more = if number == 1 { stolen } else { b"" };
            send(&mut stream, &[OK, more].concat()).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..3 {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect("a response");
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!(upstream.accepted(), 2);
    })
    .await;
}

#[tokio::test]
async fn connection_close_prevents_reuse() {
    let upstream = Upstream::responding(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    within(async {
        let upstreams = upstreams();
        for number in 1..=3 {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), post("order=1"))
                .await
                .expect("a response");
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("ok", number));
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_that_receives_bytes_is_closed() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, number| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            send(&mut stream, OK).await;
            if number == 1 {
                events.send("answered").await.expect("received");
                send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen").await;
                until_closed(&mut stream).await;
                events.send("closed").await.expect("received");
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let first = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        assert_eq!(text(first).await, "ok");
        assert_eq!(received.recv().await, Some("answered"));
        assert_eq!(received.recv().await, Some("closed"));
        let second = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        assert_eq!((text(second).await.as_str(), upstream.accepted()), ("ok", 2));
    })
    .await;
}

#[tokio::test]
async fn an_expired_idle_connection_is_closed_by_the_sweep() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            send(&mut stream, OK).await;
            until_closed(&mut stream).await;
            events.send("closed").await.expect("received");
        }
    })
    .await;
    within(async {
        let idle_timeout = Duration::from_millis(20);
        let upstreams = upstreams_with(UpstreamSettings { idle_timeout, ..Default::default() });
        let response = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        assert_eq!(text(response).await, "ok");
        assert_eq!(received.recv().await, Some("closed"));
    })
    .await;
}

#[tokio::test]
async fn an_expired_idle_connection_is_never_reused() {
    let upstream = Upstream::responding(OK).await;
    let exchange = async |upstreams: &TestUpstreams| {
        let response = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        assert_eq!(text(response).await, "ok");
    };
    within(async {
        let idle_timeout = Duration::from_secs(10);
        let upstreams = upstreams_with(UpstreamSettings { idle_timeout, ..Default::default() });
        exchange(&upstreams).await;
        advance(Duration::from_millis(5_000)).await;
        exchange(&upstreams).await;
        assert_eq!(upstream.accepted(), 1);
        // The sweep at 10 s keeps it; the next sweep is far off.
        advance(Duration::from_millis(5_500)).await;
        advance(Duration::from_millis(6_000)).await;
        exchange(&upstreams).await;
        assert_eq!(upstream.accepted(), 2);
    })
    .await;
}

/// Advances the clock; it runs normally while sockets are awaited.
pub(crate) async fn advance(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_reader_that_stops_at_the_known_end_keeps_the_connection() {
    let responses: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nsum: 7\r\n\r\n",
    ];
    let upstream = Upstream::start(move |mut stream, _| async move {
        for response in responses.iter().cycle() {
            let Some(_) = head(&mut stream).await else { return };
            send(&mut stream, response).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..6 {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect("a response");
            let mut body = response.into_body();
            let mut ended = body.is_end_stream();
            while !ended {
                let frame = frame(&mut body).await.expect("more").expect("frame");
                ended = frame.is_trailers() || body.is_end_stream();
            }
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_exchange_can_run_in_its_own_task() {
    let upstream = Upstream::responding(OK).await;
    within(async {
        let (upstreams, endpoints) = (upstreams(), upstream.only().to_vec());
        let exchange = tokio::spawn(async move {
            text(
                upstreams
                    .send(Priority::Authenticated, &endpoints, get())
                    .await
                    .expect("a response"),
            )
            .await
        });
        assert_eq!(exchange.await.expect("task"), "ok");
    })
    .await;
}

#[tokio::test]
async fn dropping_the_exchange_closes_its_connection() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            events.send("asked").await.expect("received");
            until_closed(&mut stream).await;
            events.send("closed").await.expect("received");
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        tokio::select! {
            _ = upstreams.send(Priority::Authenticated, upstream.only(), get()) => panic!("unexpected response"),
            asked = received.recv() => assert_eq!(asked, Some("asked")),
        }
        assert_eq!(received.recv().await, Some("closed"));
    })
    .await;
}

// ---- ambiguous responses -----------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Kind {
    Get,
    Head,
    Post,
    Upgrade,
}

/// Sends the request and returns the error.
async fn error_of(kind: Kind, upstream: &Upstream) -> Option<UpstreamError> {
    let upstreams = upstreams();
    let request = match kind {
        Kind::Get => get(),
        Kind::Head => request(Method::HEAD, empty()),
        Kind::Post => post("order=1"),
        Kind::Upgrade => {
            return upstreams
                .send_upgrade(Priority::Authenticated, upstream.only(), upgrade())
                .await
                .err();
        }
    };
    upstreams.send(Priority::Authenticated, upstream.only(), request).await.err()
}

/// Responds with these headers and checks that the connection is closed.
async fn assert_rejected(kind: Kind, fields: &'static str) {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
            send(&mut stream, response.as_bytes()).await;
            until_closed(&mut stream).await;
            events.send("closed").await.expect("received");
        }
    })
    .await;
    within(async {
        let error = error_of(kind, &upstream).await;
        let token = error.as_ref().map(UpstreamError::proxy_status);
        assert_eq!(token, Some("http_protocol_error"), "{kind:?} {fields}: {error:?}");
        assert_eq!(received.recv().await, Some("closed"), "{kind:?} {fields}");
    })
    .await;
}

#[tokio::test]
async fn an_ambiguous_response_is_a_protocol_error() {
    for kind in [Kind::Get, Kind::Post, Kind::Upgrade] {
        for ambiguous in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 2\r\nContent-Length: 3",
            "Content-Length: +2",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Content-Length: 2\r\n X-Folded: 3",
            "Content-Length : 2",
            "Transfer-Encoding : chunked",
        ] {
            assert_rejected(kind, ambiguous).await;
        }
    }
}

#[tokio::test]
async fn an_invalid_length_in_a_response_to_head_is_rejected() {
    for lengths in ["Content-Length: 2\r\nContent-Length: 3", "Content-Length: +2"] {
        assert_rejected(Kind::Head, lengths).await;
    }
}

#[tokio::test]
async fn a_response_in_single_bytes_keeps_its_connection() {
    let upstream = Upstream::start(|mut stream, _| async move {
        while head(&mut stream).await.is_some() {
            let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".as_slice();
            let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let body = b"1\r\no\r\n1\r\nk\r\n0\r\nSum: 7\r\n\r\n";
            for byte in [hints, response, body].concat() {
                send(&mut stream, &[byte]).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..3 {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect("a response");
            assert!(response.headers().get("link").is_none());
            let body = response.into_body().collect().await.expect("whole body");
            assert_eq!(body.trailers().expect("trailers")["sum"], "7");
            assert_eq!(body.to_bytes(), "ok");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_response_to_a_partial_request_prevents_reuse() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, number| {
        let events = events.clone();
        async move {
            stream.read_exact(&mut [0; 64]).await.expect("the beginning");
            send(&mut stream, OK).await;
            events.send(number).await.expect("received");
            until_closed(&mut stream).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let mut long = get();
        // More than the buffers of both sockets hold.
        let value = "a".repeat(32 << 20).parse().expect("a value");
        long.headers_mut().insert("x-long", value);
        let response = upstreams
            .send(Priority::Authenticated, upstream.only(), long)
            .await
            .expect("a response");
        assert_eq!((text(response).await.as_str(), received.recv().await), ("ok", Some(1)));
        let mut next = get();
        next.headers_mut().insert("x-short", "a".repeat(64).parse().expect("a value"));
        let response = upstreams
            .send(Priority::Authenticated, upstream.only(), next)
            .await
            .expect("a response");
        assert_eq!((text(response).await.as_str(), received.recv().await), ("ok", Some(2)));
    })
    .await;
}

#[tokio::test]
async fn a_response_without_length_ends_with_its_connection() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        send(&mut stream, b"HTTP/1.1 200 OK\r\n\r\nok").await;
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for number in 1..=2 {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect("a response");
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("ok", number));
        }
    })
    .await;
}

#[tokio::test]
async fn requests_with_and_without_a_body_share_a_connection() {
    let upstream = Upstream::start(|mut stream, _| async move {
        while head(&mut stream).await.is_some_and(|head| {
            assert!(head.starts_with("GET") || head.contains("Content-Length: 7"), "{head}");
            true
        }) {
            stream.read_exact(&mut [0; 7]).await.expect("a body");
            send(&mut stream, OK).await;
        }
    })
    .await;
    within(async {
        let upstreams = single_connection(Duration::from_secs(10));
        for request in [post("order=1"), post("order=2")] {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), request)
                .await
                .expect("a response");
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("ok", 1));
        }
    })
    .await;
}

/// RFC 9110 8.6.
#[tokio::test]
async fn a_post_without_a_body_has_content_length_zero() {
    let (events, mut received) = mpsc::channel(8);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            while let Some(head) = head(&mut stream).await {
                events.send(head).await.expect("received");
                send(&mut stream, OK).await;
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::GET, Method::DELETE] {
            let expected = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), request(method.clone(), empty()))
                .await;
            assert_eq!(text(response.expect("a response")).await, "ok");
            let head = received.recv().await.expect("a head");
            assert_eq!(
                head.matches("Content-Length: 0\r\n").count(),
                usize::from(expected),
                "{head}"
            );
            assert!(
                head.split("\r\n").nth(1).is_some_and(|line| line.starts_with("Host: ")),
                "{head}"
            );
        }
    })
    .await;
}

// ---- retries -------------------------------------------------------------------------------------

/// Answers once per connection, then reads one more request and closes the connection. Counts
/// requests.
async fn closing_on_second(requests: Arc<AtomicUsize>) -> Upstream {
    Upstream::start(move |mut stream, _| {
        let requests = Arc::clone(&requests);
        async move {
            let mut answered = false;
            while head(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                if answered {
                    return;
                }
                send(&mut stream, OK).await;
                answered = true;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_get_is_retried_when_a_reused_connection_breaks() {
    let requests = Arc::new(AtomicUsize::new(0));
    let upstream = closing_on_second(Arc::clone(&requests)).await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..2 {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect("a response");
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!((upstream.accepted(), requests.load(Ordering::SeqCst)), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_post_is_never_retried_when_its_connection_breaks() {
    for body in ["", "order=1"] {
        let requests = Arc::new(AtomicUsize::new(0));
        let upstream = closing_on_second(Arc::clone(&requests)).await;
        within(async {
            let upstreams = upstreams();
            let first = upstreams
                .send(Priority::Authenticated, upstream.only(), post(body))
                .await
                .expect("a response");
            assert_eq!(text(first).await, "ok");
            let error = upstreams
                .send(Priority::Authenticated, upstream.only(), post(body))
                .await
                .expect_err("error");
            assert!(matches!(error, UpstreamError::ConnectionTerminated(_)), "{error:?}");
            assert_eq!((upstream.accepted(), requests.load(Ordering::SeqCst)), (1, 2));
        })
        .await;
    }
}

#[tokio::test]
async fn a_get_is_not_retried_after_an_invalid_response() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        send(&mut stream, OK).await;
        head(&mut stream).await;
        send(&mut stream, b"nonsense\r\n\r\n").await;
        until_closed(&mut stream).await;
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let first = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        assert_eq!(text(first).await, "ok");
        let error = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect_err("error");
        assert_eq!((error.proxy_status(), upstream.accepted()), ("http_protocol_error", 1));
    })
    .await;
}

#[tokio::test]
async fn a_get_is_not_retried_when_a_new_connection_breaks() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
    })
    .await;
    within(async {
        let error = upstreams()
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect_err("error");
        assert!(matches!(error, UpstreamError::ConnectionTerminated(_)), "{error:?}");
        assert_eq!((error.status(), upstream.accepted()), (StatusCode::BAD_GATEWAY, 1));
    })
    .await;
}

#[tokio::test]
async fn a_post_avoids_a_connection_that_closed_while_idle() {
    for body in ["", "order=1"] {
        let (close, waiting) = std::sync::mpsc::channel::<()>();
        let (done, is_closed) = std::sync::mpsc::channel::<()>();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
        let port = listener.local_addr().expect("address").port();
        let upstream = std::thread::spawn(move || {
            let first = answer_blocking(&listener, body.len());
            waiting.recv().expect("asked to close");
            drop(first);
            done.send(()).expect("sent");
            drop(answer_blocking(&listener, body.len()));
        });
        within(async {
            let upstreams = upstreams();
            let endpoints = [endpoint("http", "127.0.0.1", port)];
            let first = upstreams
                .send(Priority::Authenticated, &endpoints, post(body))
                .await
                .expect("a response");
            assert_eq!(text(first).await, "ok");
            close.send(()).expect("sent");
            is_closed.recv().expect("closed");
            // tokio polls its sockets once, so it observes the close only after the request is
            // sent.
            tokio::task::yield_now().await;
            let second = upstreams
                .send(Priority::Authenticated, &endpoints, post(body))
                .await
                .expect("a response");
            assert_eq!(text(second).await, "ok");
        })
        .await;
        upstream.join().expect("upstream");
    }
}

/// Accepts one connection and answers its first request, which has a body of `body` bytes. Returns
/// the open socket.
fn answer_blocking(listener: &std::net::TcpListener, body: usize) -> std::net::TcpStream {
    use std::io::{Read, Write};
    let (mut stream, _) = listener.accept().expect("connection");
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("read") == 1 {
        received.push(byte[0]);
    }
    stream.read_exact(&mut vec![0; body]).expect("a body");
    stream.write_all(OK).expect("written");
    stream
}

// ---- failures ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_refused_connection_is_a_502() {
    within(async {
        let error = upstreams()
            .send(Priority::Authenticated, &[unreachable().await], get())
            .await
            .expect_err("error");
        assert_eq!(error, UpstreamError::ConnectionRefused);
        assert_eq!(
            (error.status(), error.proxy_status()),
            (StatusCode::BAD_GATEWAY, "connection_refused")
        );
    })
    .await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_dns_error() {
    within(async {
        let nowhere = [endpoint("http", "no-such-host.invalid", 80)];
        let settings =
            UpstreamSettings { connect_timeout: Duration::from_secs(15), ..Default::default() };
        let error = upstreams_with(settings)
            .send(Priority::Authenticated, &nowhere, get())
            .await
            .expect_err("error");
        assert_eq!(error.proxy_status(), "dns_error", "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_response_timeout_is_a_504_and_closes_the_connection() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            send(&mut stream, b"HTTP/1.1 200 OK\r\n").await;
            until_closed(&mut stream).await;
            events.send("closed").await.expect("received");
        }
    })
    .await;
    within(async {
        let response_timeout = Duration::from_millis(50);
        let upstreams = upstreams_with(UpstreamSettings { response_timeout, ..Default::default() });
        let error = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect_err("error");
        assert_eq!(error, UpstreamError::ResponseTimeout);
        assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(received.recv().await, Some("closed"));
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_http_is_a_protocol_error() {
    let upstream = Upstream::responding(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    within(async {
        let error = upstreams()
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect_err("error");
        assert_eq!(error.proxy_status(), "http_protocol_error", "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_truncated_response_is_an_error_of_its_body() {
    let head_received = Arc::new(tokio::sync::Notify::new());
    let received = Arc::clone(&head_received);
    let upstream = Upstream::start(move |mut stream, _| {
        let received = Arc::clone(&received);
        async move {
            head(&mut stream).await;
            send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
            received.notified().await;
        }
    })
    .await;
    within(async {
        let response =
            upstreams().send(Priority::Authenticated, upstream.only(), get()).await.expect("head");
        head_received.notify_one();
        let error = response.into_body().collect().await.expect_err("cut short");
        assert!(matches!(error, UpstreamError::ResponseIncomplete(_)), "{error:?}");
    })
    .await;
}

/// RFC 9110, section 15.2: a WebDAV server sends a 102 every 20 seconds while it copies.
#[tokio::test]
async fn interim_responses_extend_the_response_timeout() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            send(&mut stream, b"HTTP/1.1 102 Processing\r\n\r\n").await;
        }
        send(&mut stream, b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone").await;
        until_closed(&mut stream).await;
    })
    .await;
    let response_timeout = Duration::from_millis(300);
    let settings = UpstreamSettings { response_timeout, ..Default::default() };
    within(async {
        for request in [get(), post("order=1")] {
            let upstreams = upstreams_with(settings);
            let response = upstreams.send(Priority::Authenticated, upstream.only(), request).await;
            assert_eq!(text(response.expect("a response")).await, "done");
        }
    })
    .await;
}

#[tokio::test]
async fn endless_interim_responses_end_in_an_error() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
    })
    .await;
    within(async {
        let response = upstreams().send(Priority::Authenticated, upstream.only(), get()).await;
        assert!(matches!(response.err(), Some(UpstreamError::Protocol(_))));
    })
    .await;
}

/// RFC 9112, section 9.5: the upstream closes with unread data, which resets the connection.
#[tokio::test]
async fn an_early_response_survives_the_reset_of_its_connection() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        send(&mut stream, b"HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nlarge").await;
    })
    .await;
    let upstreams = upstreams();
    within(async {
        for _ in 0..20 {
            let body = Full::from(vec![b'x'; 4_000_000]).map_err(|never| match never {});
            let request = request(Method::POST, body.boxed_unsync());
            let response = upstreams.send(Priority::Authenticated, upstream.only(), request).await;
            assert_eq!(text(response.expect("a response")).await, "large");
        }
    })
    .await;
}

/// HYP-27.
#[tokio::test]
async fn a_failed_request_body_is_attributed_to_the_client() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            until_closed(&mut stream).await;
            events.send("closed").await.expect("received");
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let (feeding, body) = fed();
        feeding.send(Ok(Bytes::from_static(b"half"))).await.expect("fed");
        let breaking = async {
            feeding.send(Err(io::ErrorKind::InvalidData.into())).await.expect("fed");
        };
        let request = request(Method::POST, body);
        let (response, ()) = tokio::join!(
            upstreams.send(Priority::Authenticated, upstream.only(), request),
            breaking
        );
        let error = response.expect_err("error");
        assert_eq!((&error, error.status()), (&UpstreamError::ClientBody, StatusCode::BAD_REQUEST));
        assert_eq!(received.recv().await, Some("closed"));
    })
    .await;
}

#[tokio::test]
async fn an_unsolicited_101_is_rejected() {
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let upstream = Upstream::responding(switching).await;
    within(async {
        let error = upstreams()
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect_err("error");
        assert_eq!(error.proxy_status(), "http_protocol_error", "{error:?}");
    })
    .await;
}

fn single_connection(connect_timeout: Duration) -> TestUpstreams {
    let max_connections_per_endpoint = 1;
    let settings =
        UpstreamSettings { max_connections_per_endpoint, connect_timeout, ..Default::default() };
    upstreams_with(settings)
}

#[tokio::test]
async fn a_request_above_the_limit_waits_for_a_connection() {
    let upstream = Upstream::responding(OK).await;
    within(async {
        let upstreams = single_connection(Duration::from_secs(10));
        let held = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        let mut waiting =
            std::pin::pin!(upstreams.send(Priority::Authenticated, upstream.only(), get()));
        let early = tokio::time::timeout(Duration::from_millis(20), waiting.as_mut()).await;
        assert!(early.is_err(), "above the limit");
        assert_eq!(text(held).await, "ok");
        assert_eq!(text(waiting.await.expect("its turn")).await, "ok");
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn slow_anonymous_bodies_leave_a_quarter_of_the_connections() {
    let upstream = Upstream::responding(OK).await;
    within(async {
        let connect_timeout = Duration::from_millis(20);
        let max_connections_per_endpoint = 4;
        let upstreams = upstreams_with(UpstreamSettings {
            max_connections_per_endpoint,
            connect_timeout,
            ..Default::default()
        });
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(
                upstreams.send(Priority::Anonymous, upstream.only(), get()).await.expect("room"),
            );
        }
        let error =
            upstreams.send(Priority::Anonymous, upstream.only(), get()).await.expect_err("full");
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        let known =
            upstreams.send(Priority::Authenticated, upstream.only(), get()).await.expect("room");
        assert_eq!(text(known).await, "ok");
        held.pop();
        upstreams.send(Priority::Anonymous, upstream.only(), get()).await.expect("room again");
    })
    .await;
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_a_permit_is_a_503() {
    let upstream = Upstream::responding(OK).await;
    within(async {
        let upstreams = single_connection(Duration::from_millis(20));
        let _held = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        let error = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect_err("error");
        assert_eq!(error, UpstreamError::ConnectionLimit);
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
    })
    .await;
}

// ---- streaming -----------------------------------------------------------------------------------

#[tokio::test]
async fn request_and_response_bodies_stream_independently() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        send(&mut stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")
            .await;
        let mut chunk = [0; 9];
        stream.read_exact(&mut chunk).await.expect("chunk");
        assert_eq!(&chunk, b"4\r\npong\r\n");
        send(&mut stream, b"4\r\ndone\r\n0\r\n\r\n").await;
        until_closed(&mut stream).await;
    })
    .await;
    within(async {
        let (feeding, body) = fed();
        let upstreams = upstreams();
        let response = upstreams
            .send(Priority::Authenticated, upstream.only(), request(Method::POST, body))
            .await;
        let mut body = response.expect("head").into_body();
        let first = frame(&mut body).await.expect("frame").expect("data").into_data();
        assert_eq!(first.expect("data"), "ping");
        feeding.send(Ok(Bytes::from_static(b"pong"))).await.expect("fed");
        let second = frame(&mut body).await.expect("frame").expect("data").into_data();
        assert_eq!(second.expect("data"), "done");
    })
    .await;
}

#[tokio::test]
async fn response_trailers_are_forwarded_and_the_connection_kept() {
    let upstream = Upstream::responding(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: sum\r\n\r\n2\r\nok\r\n0\r\nsum: 7\r\n\r\n",
    )
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..2 {
            let mut request = get();
            request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), request)
                .await
                .expect("a response");
            let body = response.into_body().collect().await.expect("body");
            let sum = body.trailers().and_then(|trailers: &HeaderMap| trailers.get("sum"));
            assert_eq!(sum.expect("trailer"), "7");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

// ---- tunnels -------------------------------------------------------------------------------------

fn upgrade() -> Request<()> {
    let request = Request::builder().uri("/socket").header("host", "app.test");
    let request = request.header("connection", "upgrade").header("upgrade", "websocket");
    request.body(()).expect("request")
}

#[tokio::test]
async fn a_101_opens_a_tunnel_without_losing_early_bytes() {
    let upstream = Upstream::start(|mut stream, _| async move {
        let head = head(&mut stream).await.expect("head");
        assert!(head.contains("Upgrade: websocket"), "{head}");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello";
        send(&mut stream, switch).await;
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.expect("bytes");
        send(&mut stream, &echo).await;
        until_closed(&mut stream).await;
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let switch = upstreams
            .send_upgrade(Priority::Authenticated, upstream.only(), upgrade())
            .await
            .expect("a response");
        let UpgradeResponse::Switched(response, pending) = switch else { panic!("no tunnel") };
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut tunnel = pending.open();
        let mut hello = [0; 5];
        tunnel.read_exact(&mut hello).await.expect("hello");
        tunnel.write_all(b"ping").await.expect("written");
        let mut echo = [0; 4];
        tunnel.read_exact(&mut echo).await.expect("echo");
        assert_eq!((&hello, &echo), (b"hello", b"ping"));
    })
    .await;
}

#[tokio::test]
async fn a_dropped_or_unopened_tunnel_closes_its_connection() {
    let (events, mut received) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
            send(&mut stream, switch).await;
            until_closed(&mut stream).await;
            events.send("closed").await.expect("received");
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for open in [true, false] {
            let switch = upstreams
                .send_upgrade(Priority::Authenticated, upstream.only(), upgrade())
                .await
                .expect("a response");
            let UpgradeResponse::Switched(_, pending) = switch else { panic!("no tunnel") };
            if open {
                drop(pending.open());
            } else {
                drop(pending);
            }
            assert_eq!(received.recv().await, Some("closed"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_declined_upgrade_is_a_response_without_reuse() {
    let upstream =
        Upstream::responding(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    within(async {
        let upstreams = upstreams();
        for number in 1..=2 {
            let switch = upstreams
                .send_upgrade(Priority::Authenticated, upstream.only(), upgrade())
                .await
                .expect("a response");
            let UpgradeResponse::Declined(response) = switch else { panic!("a tunnel") };
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("no", number));
        }
        upstreams.send(Priority::Authenticated, upstream.only(), get()).await.expect("a response");
        assert_eq!(upstream.accepted(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_pinned_connection_that_closed_while_idle_is_replaced() {
    const CHALLENGE: &[u8] =
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    const SWITCH: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    for (later, expected) in [(OK, 200), (SWITCH, 101)] {
        let (events, mut received) = mpsc::channel(1);
        let upstream = Upstream::start(move |mut stream, number| {
            let events = events.clone();
            async move {
                head(&mut stream).await;
                send(&mut stream, if number == 1 { CHALLENGE } else { later }).await;
                if number == 1 {
                    drop(stream);
                    events.send("closed").await.expect("received");
                } else {
                    until_closed(&mut stream).await;
                }
            }
        })
        .await;
        within(async {
            let (upstreams, pins) = (upstreams(), PinnedConnections::default());
            let caller =
                || Caller { owner: Some(pins.owner(None)), ..Priority::Authenticated.into() };
            let mut first = get();
            first.headers_mut().insert("authorization", "NTLM hello".parse().expect("a value"));
            let challenge = upstreams.send(caller(), upstream.only(), first).await;
            assert_eq!(challenge.expect("a challenge").status(), StatusCode::UNAUTHORIZED);
            assert_eq!(received.recv().await, Some("closed"));
            let status = if expected == 101 {
                match upstreams.send_upgrade(caller(), upstream.only(), upgrade()).await {
                    Ok(UpgradeResponse::Switched(response, _)) => response.status(),
                    Ok(UpgradeResponse::Declined(response)) => response.status(),
                    Err(error) => panic!("{error}"),
                }
            } else {
                let sent = upstreams.send(caller(), upstream.only(), post("order=1")).await;
                sent.expect("a response").status()
            };
            assert_eq!((status.as_u16(), upstream.accepted()), (expected, 2));
        })
        .await;
    }
}

#[tokio::test]
async fn an_h2c_upstream_cannot_open_a_tunnel() {
    let upstream = http2(Arc::new(Barrier::new(1))).await;
    within(async {
        let error = upstreams()
            .send_upgrade(Priority::Authenticated, upstream.only(), upgrade())
            .await
            .err();
        assert_eq!(error, Some(UpstreamError::UpgradeUnsupported));
    })
    .await;
}

// ---- HTTP/2 and TLS ------------------------------------------------------------------------------

/// Answers each request with its authority and body length, after `barrier`.
async fn serve_http2<S>(stream: S, barrier: Arc<Barrier>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let barrier = Arc::clone(&barrier);
        async move {
            barrier.wait().await;
            let authority = request.uri().authority().map(ToString::to_string);
            let body = request.into_body().collect().await?.to_bytes();
            let text = format!("{} {}", authority.unwrap_or_default(), body.len());
            Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(text)))
        }
    });
    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // A disconnected client is not a test failure.
    let _ = http2.serve_connection(TokioIo::new(stream), service).await;
}

pub(crate) async fn http2(barrier: Arc<Barrier>) -> Upstream {
    Upstream::start_at("h2c", "127.0.0.1", move |stream, _| {
        serve_http2(stream, Arc::clone(&barrier))
    })
    .await
}

#[tokio::test]
async fn h2c_requests_share_one_connection_concurrently() {
    const TOGETHER: usize = 10;
    let upstream = http2(Arc::new(Barrier::new(TOGETHER))).await;
    within(async {
        let upstreams = upstreams();
        let kind = (0..TOGETHER)
            .map(|_| upstreams.send(Priority::Authenticated, upstream.only(), post("order=1")));
        for response in futures_util::future::join_all(kind).await {
            assert_eq!(text(response.expect("a response")).await, "app.test 7");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_closed_http2_connection_is_replaced() {
    let upstream = Upstream::start_at("h2c", "127.0.0.1", |stream, _| async move {
        let (finished, mut ended) = mpsc::channel::<()>(1);
        let service = hyper::service::service_fn(move |_: Request<Incoming>| {
            let finished = finished.clone();
            async move {
                finished.send(()).await.expect("sent");
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from("ok")))
            }
        });
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut serving = std::pin::pin!(http2.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = serving.as_mut() => return,
            _ = ended.recv() => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..4 {
            let response = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect("a response");
            assert_eq!(text(response).await, "ok");
        }
        assert!(upstream.accepted() > 1);
    })
    .await;
}

/// An h2c upstream that allows `streams` streams per connection. It answers a GET with `length`
/// bytes. It never reads other bodies, and answers them at once or never.
async fn limited_http2(streams: u32, length: usize, answers_uploads: bool) -> Upstream {
    Upstream::start_at("h2c", "127.0.0.1", move |stream, _| async move {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
            let is_get = request.method() == Method::GET;
            if !is_get && !answers_uploads {
                std::future::pending::<()>().await;
            }
            if !is_get {
                let mut body = request.into_body();
                tokio::spawn(async move { while body.frame().await.is_some() {} });
            }
            Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(vec![b'x'; length])))
        });
        let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http2.max_concurrent_streams(streams).max_send_buf_size(16 * 1024);
        let _ = http2.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

#[tokio::test]
async fn an_unread_http2_response_does_not_block_others() {
    const LONG: usize = 2 * 1024 * 1024;
    let upstream = limited_http2(200, LONG, true).await;
    within(async {
        let upstreams = upstreams();
        for priority in [Priority::Anonymous, Priority::Authenticated] {
            let unread = (0..60).map(|_| upstreams.send(priority, upstream.only(), get()));
            let _unread = futures_util::future::join_all(unread).await;
            for other in [Priority::Authenticated, Priority::Anonymous] {
                let read = upstreams.send(other, upstream.only(), get()).await.expect("a response");
                assert_eq!(text(read).await.len(), LONG, "{other:?} beside {priority:?}");
            }
        }
        assert_eq!(upstream.accepted(), 2, "one for each priority is enough");
    })
    .await;
}

#[tokio::test]
async fn http2_opens_as_many_connections_as_streams_require() {
    let upstream = limited_http2(4, 2, false).await;
    within(async {
        let upstreams = upstreams();
        let (mut fed_by, mut kind) = (Vec::new(), Vec::new());
        for priority in [Priority::Anonymous; 10].into_iter().chain([Priority::Authenticated; 10]) {
            let (feeder, body) = fed();
            fed_by.push(feeder);
            kind.push(upstreams.send(priority, upstream.only(), request(Method::POST, body)));
        }
        let mut kind = std::pin::pin!(futures_util::future::join_all(kind));
        for priority in [Priority::Authenticated, Priority::Anonymous] {
            let response = upstreams.send(priority, upstream.only(), get());
            let response = tokio::select! {
                response = response => response.expect("a response while all others upload"),
                _ = kind.as_mut() => panic!("uploads are never answered"),
            };
            assert_eq!(text(response).await, "xx");
        }
        assert!((6..=7).contains(&upstream.accepted()), "{} connections", upstream.accepted());
    })
    .await;
}

#[tokio::test]
async fn an_http2_body_that_outlives_its_response_keeps_its_permit() {
    let upstream = limited_http2(1, 2, true).await;
    within(async {
        let upstreams = single_connection(Duration::from_millis(50));
        let (feeder, body) = fed();
        let upload = request(Method::POST, body);
        let response = upstreams
            .send(Priority::Authenticated, upstream.only(), upload)
            .await
            .expect("a response");
        assert_eq!(text(response).await, "xx");
        let other = upstreams.send(Priority::Authenticated, upstream.only(), get()).await;
        assert_eq!(other.expect_err("no place"), UpstreamError::ConnectionLimit);
        drop(feeder);
        loop {
            match upstreams.send(Priority::Authenticated, upstream.only(), get()).await {
                Ok(response) => break assert_eq!(text(response).await, "xx"),
                Err(error) => assert_eq!(error, UpstreamError::ConnectionLimit),
            }
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn surplus_idle_http2_connections_are_closed() {
    const LENGTH: usize = 100_000;
    let (events, mut received) = mpsc::channel(8);
    let upstream = Upstream::start_at("h2c", "127.0.0.1", move |stream, number| {
        let events = events.clone();
        async move {
            let service = hyper::service::service_fn(|_: Request<Incoming>| async {
                // Longer than the part that is read together with the head.
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from("x".repeat(LENGTH))))
            });
            let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http2.max_concurrent_streams(1);
            let _ = http2.serve_connection(TokioIo::new(stream), service).await;
            events.send(number).await.expect("received");
        }
    })
    .await;
    within(async {
        let idle_timeout = Duration::from_millis(50);
        let upstreams = upstreams_with(UpstreamSettings { idle_timeout, ..Default::default() });
        let kind = (0..3).map(|_| upstreams.send(Priority::Authenticated, upstream.only(), get()));
        let responses = futures_util::future::join_all(kind).await;
        for response in responses {
            assert_eq!(text(response.expect("a response")).await.len(), LENGTH);
        }
        let mut closed = [received.recv().await, received.recv().await];
        closed.sort_unstable();
        assert_eq!(closed, [Some(2), Some(3)]);
        let again = upstreams
            .send(Priority::Authenticated, upstream.only(), get())
            .await
            .expect("a response");
        assert_eq!(text(again).await.len(), LENGTH);
        assert_eq!(upstream.accepted(), 3, "the first one is kept");
    })
    .await;
}

/// A certificate authority for the test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("authority"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A TLS server for `localhost` that speaks `protocol`.
    fn server(&self, protocol: &[u8]) -> tokio_rustls::TlsAcceptor {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &self.0).expect("certificate");
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("certificate");
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config).into()
    }

    async fn upstream(&self, host: &str, protocol: &'static str) -> Upstream {
        let server = self.server(protocol.as_bytes());
        Upstream::start_at("https", host, move |stream, _| {
            let accepting = server.accept(stream);
            async move {
                let Ok(mut stream) = accepting.await else { return };
                if protocol == "h2" {
                    return serve_http2(stream, Arc::new(Barrier::new(1))).await;
                }
                while head(&mut stream).await.is_some() {
                    send(&mut stream, OK).await;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn an_https_upstream_is_verified_and_alpn_selects_http2() {
    let authority = Authority::new();
    let tls = client_config_for_ca(authority.pem().as_bytes()).expect("trust");
    within(async {
        for (protocol, answer) in [("http/1.1", "ok"), ("h2", "app.test 0")] {
            let upstream = authority.upstream("localhost", protocol).await;
            let upstreams = TestUpstreams::new(UpstreamSettings::default(), &tls);
            for _ in 0..2 {
                let response = upstreams
                    .send(Priority::Authenticated, upstream.only(), get())
                    .await
                    .expect("a response");
                assert_eq!(text(response).await, answer);
            }
            assert_eq!(upstream.accepted(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_certificate_name_or_authority_is_rejected() {
    let authority = Authority::new();
    let known = client_config_for_ca(authority.pem().as_bytes()).expect("trust");
    let unknown = client_config_for_ca(Authority::new().pem().as_bytes()).expect("trust");
    within(async {
        for (host, tls) in [("127.0.0.1", &known), ("localhost", &unknown)] {
            let upstream = authority.upstream(host, "http/1.1").await;
            let upstreams = TestUpstreams::new(UpstreamSettings::default(), tls);
            let error = upstreams
                .send(Priority::Authenticated, upstream.only(), get())
                .await
                .expect_err("error");
            assert!(matches!(error, UpstreamError::TlsCertificate(_)), "{error:?}");
            assert_eq!(error.proxy_status(), "tls_certificate_error");
        }
    })
    .await;
}

#[tokio::test]
async fn a_cleartext_upstream_behind_https_is_a_tls_error() {
    let plain = Upstream::start_at("https", "localhost", |mut stream, _| async move {
        send(&mut stream, OK).await;
        until_closed(&mut stream).await;
    })
    .await;
    within(async {
        let error = upstreams()
            .send(Priority::Authenticated, plain.only(), get())
            .await
            .expect_err("error");
        assert_eq!(error.proxy_status(), "tls_protocol_error", "{error:?}");
    })
    .await;
}
