//! The gateway's client side against upstreams that behave, and upstreams that do not.
//!
//! Upstreams are raw sockets wherever the bytes matter. Every wait is for an event, under one
//! deadline that fails the test.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use doorward::message::Endpoint;
use doorward::tls::trust;
use doorward::upstream::{Claim, Switch, UpstreamBody, UpstreamError, UpstreamSettings, Upstreams};
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

type TestBody = UnsyncBoxBody<Bytes, io::Error>;
type TestUpstreams = Upstreams<TestBody>;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// ---- an upstream -------------------------------------------------------------------------------

/// A listening socket with a script per connection; ends when dropped.
struct Upstream {
    endpoint: Endpoint,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Runs `script` with each connection and its number, from 1.
    async fn start<F, R>(script: F) -> Upstream
    where
        F: Fn(TcpStream, usize) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Upstream::speaking("http", "127.0.0.1", script).await
    }

    async fn speaking<F, R>(scheme: &str, host: &str, script: F) -> Upstream
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

    /// Answers every request on every connection with `answer`.
    async fn answering(answer: &'static [u8]) -> Upstream {
        Upstream::start(move |mut stream, _| async move {
            while head(&mut stream).await.is_some() {
                say(&mut stream, answer).await;
            }
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn only(&self) -> &[Endpoint] {
        std::slice::from_ref(&self.endpoint)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn endpoint(scheme: &str, host: &str, port: u16) -> Endpoint {
    Endpoint::parse(&format!("{scheme}://{host}:{port}")).expect("endpoint")
}

/// An address where nobody listens.
async fn dead() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    endpoint("http", "127.0.0.1", listener.local_addr().expect("address").port())
}

/// One request head, `None` when the connection ended first.
async fn head<S: AsyncReadExt + Unpin>(stream: &mut S) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

async fn say<S: AsyncWriteExt + Unpin>(stream: &mut S, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("written");
    stream.flush().await.expect("flushed");
}

/// Until the other side closed, politely or not.
async fn closed(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}

// ---- a gateway ---------------------------------------------------------------------------------

fn upstreams() -> TestUpstreams {
    upstreams_with(UpstreamSettings::default())
}

fn upstreams_with(settings: UpstreamSettings) -> TestUpstreams {
    Upstreams::new(settings, &trust(Authority::new().pem().as_bytes()).expect("trust"))
}

fn request(method: Method, body: TestBody) -> Request<TestBody> {
    let request = Request::builder().method(method).uri("/path?query").header("host", "app.test");
    request.body(body).expect("request")
}

fn get() -> Request<TestBody> {
    request(Method::GET, empty())
}

fn post(body: &'static str) -> Request<TestBody> {
    request(Method::POST, Full::from(body).map_err(|never| match never {}).boxed_unsync())
}

fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that the test feeds.
fn fed() -> (mpsc::Sender<io::Result<Bytes>>, TestBody) {
    let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|item| item.map(|bytes| bytes.map(Frame::data)))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

async fn text(response: Response<UpstreamBody<TestBody>>) -> String {
    let body = response.into_body().collect().await.expect("whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

async fn frame(body: &mut UpstreamBody<TestBody>) -> Option<Result<Frame<Bytes>, UpstreamError>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Every test under one deadline, longer than the clock is ever moved.
async fn within<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time")
}

// ---- reuse -------------------------------------------------------------------------------------

#[tokio::test]
async fn one_connection_carries_whole_exchanges_one_after_another() {
    let answers: [&[u8]; 4] = [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ];
    let upstream = Upstream::start(move |mut stream, _| async move {
        for answer in answers.iter().cycle() {
            let Some(_) = head(&mut stream).await else { return };
            say(&mut stream, answer).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for expected in ["ok", "", "ok", "", "ok"] {
            let response =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
            assert_eq!(text(response).await, expected);
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_length_it_names() {
    let upstream = Upstream::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..2 {
            let request = request(Method::HEAD, empty());
            let response =
                upstreams.send(Claim::Known, upstream.only(), request).await.expect("answer");
            assert_eq!(response.headers()["content-length"], "5");
            assert_eq!(text(response).await, "");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_request_goes_out_in_origin_form_with_the_host_that_was_set() {
    let (heads, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let heads = heads.clone();
        async move {
            let head = head(&mut stream).await.expect("head");
            say(&mut stream, OK).await;
            heads.send(head).await.expect("seen");
        }
    })
    .await;
    within(async {
        let mut request = get();
        *request.uri_mut() = "https://app.test/path?query".parse().expect("uri");
        upstreams().send(Claim::Known, upstream.only(), request).await.expect("answer");
        let head = seen.recv().await.expect("head");
        assert_eq!(head, "GET /path?query HTTP/1.1\r\nhost: app.test\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_an_unread_answer_is_closed() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            say(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
            closed(&mut stream).await;
            events.send("closed").await.expect("seen");
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let response = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        let mut body = response.into_body();
        frame(&mut body).await.expect("frame").expect("first half");
        let silence = tokio::time::timeout(Duration::from_millis(20), frame(&mut body)).await;
        assert!(silence.is_err(), "the upstream says no more");
        drop(body);
        assert_eq!(seen.recv().await, Some("closed"));
    })
    .await;
}

#[tokio::test]
async fn cve_2025_4366_a_connection_is_closed_when_the_answer_came_before_the_request_was_whole() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, number| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            say(&mut stream, OK).await;
            if number == 1 {
                closed(&mut stream).await;
                events.send("closed").await.expect("seen");
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let (_feeding, body) = fed();
        let early =
            upstreams.send(Claim::Known, upstream.only(), request(Method::POST, body)).await;
        assert_eq!(text(early.expect("early answer")).await, "ok");
        assert_eq!(seen.recv().await, Some("closed"));
        let next = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!((text(next).await.as_str(), upstream.accepted()), ("ok", 2));
    })
    .await;
}

#[tokio::test]
async fn a_second_answer_in_the_same_bytes_is_never_anybodys_answer() {
    let upstream = Upstream::start(|mut stream, number| async move {
        let stolen: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
        while head(&mut stream).await.is_some() {
            let more = if number == 1 { stolen } else { b"" };
            say(&mut stream, &[OK, more].concat()).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..3 {
            let response =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!(upstream.accepted(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_says_close_is_not_used_again() {
    let upstream =
        Upstream::answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
    within(async {
        let upstreams = upstreams();
        for number in 1..=3 {
            let response = upstreams
                .send(Claim::Known, upstream.only(), post("order=1"))
                .await
                .expect("answer");
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("ok", number));
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_on_which_bytes_arrive_while_it_is_idle_is_closed() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, number| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            say(&mut stream, OK).await;
            if number == 1 {
                events.send("answered").await.expect("seen");
                say(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen").await;
                closed(&mut stream).await;
                events.send("closed").await.expect("seen");
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let first = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!(text(first).await, "ok");
        assert_eq!(seen.recv().await, Some("answered"));
        assert_eq!(seen.recv().await, Some("closed"));
        let second = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!((text(second).await.as_str(), upstream.accepted()), ("ok", 2));
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_anybody_asking() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            say(&mut stream, OK).await;
            closed(&mut stream).await;
            events.send("closed").await.expect("seen");
        }
    })
    .await;
    within(async {
        let idle_timeout = Duration::from_millis(20);
        let upstreams = upstreams_with(UpstreamSettings { idle_timeout, ..Default::default() });
        let response = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!(text(response).await, "ok");
        assert_eq!(seen.recv().await, Some("closed"));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_idle_too_long_is_not_used_even_before_it_is_closed() {
    let upstream = Upstream::answering(OK).await;
    let ask = async |upstreams: &TestUpstreams| {
        let response = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!(text(response).await, "ok");
    };
    within(async {
        let idle_timeout = Duration::from_secs(10);
        let upstreams = upstreams_with(UpstreamSettings { idle_timeout, ..Default::default() });
        ask(&upstreams).await;
        pass(Duration::from_millis(5_000)).await;
        ask(&upstreams).await;
        assert_eq!(upstream.accepted(), 1);
        // The sweep at 10 s leaves it; the next one is far.
        pass(Duration::from_millis(5_500)).await;
        pass(Duration::from_millis(6_000)).await;
        ask(&upstreams).await;
        assert_eq!(upstream.accepted(), 2);
    })
    .await;
}

/// Moves the clock; while sockets are waited for it runs as usual.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_reader_that_stops_at_the_end_it_was_told_keeps_the_connection() {
    let answers: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nsum: 7\r\n\r\n",
    ];
    let upstream = Upstream::start(move |mut stream, _| async move {
        for answer in answers.iter().cycle() {
            let Some(_) = head(&mut stream).await else { return };
            say(&mut stream, answer).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..6 {
            let response =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
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
async fn an_exchange_can_be_a_task_of_its_own() {
    let upstream = Upstream::answering(OK).await;
    within(async {
        let (upstreams, endpoints) = (upstreams(), upstream.only().to_vec());
        let exchange = tokio::spawn(async move {
            text(upstreams.send(Claim::Known, &endpoints, get()).await.expect("answer")).await
        });
        assert_eq!(exchange.await.expect("task"), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_leaves_closes_the_connection_it_was_using() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            events.send("asked").await.expect("seen");
            closed(&mut stream).await;
            events.send("closed").await.expect("seen");
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        tokio::select! {
            _ = upstreams.send(Claim::Known, upstream.only(), get()) => panic!("nobody answered"),
            asked = seen.recv() => assert_eq!(asked, Some("asked")),
        }
        assert_eq!(seen.recv().await, Some("closed"));
    })
    .await;
}

// ---- answers, whoever reads them ---------------------------------------------------------------------

/// What is asked: our own reader hears the answer to the first, the HTTP library's client the others.
#[derive(Clone, Copy, Debug)]
enum Asking {
    Get,
    Head,
    Post,
    Upgrade,
}

/// Asks, and gives the error.
async fn refused(asking: Asking, upstream: &Upstream) -> Option<UpstreamError> {
    let upstreams = upstreams();
    let request = match asking {
        Asking::Get => get(),
        Asking::Head => request(Method::HEAD, empty()),
        Asking::Post => post("order=1"),
        Asking::Upgrade => {
            return upstreams.send_upgrade(Claim::Known, upstream.only(), upgrade()).await.err();
        }
    };
    upstreams.send(Claim::Known, upstream.only(), request).await.err()
}

/// Answers with these fields and sees to it that the connection is closed over it.
async fn must_refuse(asking: Asking, fields: &'static str) {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
            say(&mut stream, answer.as_bytes()).await;
            closed(&mut stream).await;
            events.send("closed").await.expect("seen");
        }
    })
    .await;
    within(async {
        let error = refused(asking, &upstream).await;
        let token = error.as_ref().map(UpstreamError::token);
        assert_eq!(token, Some("http_protocol_error"), "{asking:?} {fields}: {error:?}");
        assert_eq!(seen.recv().await, Some("closed"), "{asking:?} {fields}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_a_protocol_error_and_ends_the_connection() {
    for asking in [Asking::Get, Asking::Post, Asking::Upgrade] {
        for ambiguous in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 2\r\nContent-Length: 3",
            "Content-Length: +2",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Content-Length : 2",
            "Content-Length: 2\r\n X-Folded: 3",
        ] {
            must_refuse(asking, ambiguous).await;
        }
    }
}

#[tokio::test]
async fn an_answer_to_head_that_names_no_length_or_several_is_a_protocol_error() {
    for lengths in ["Content-Length: 2\r\nContent-Length: 3", "Content-Length: +2"] {
        must_refuse(Asking::Head, lengths).await;
    }
}

#[tokio::test]
async fn an_answer_in_single_bytes_is_whole_and_its_connection_is_kept() {
    let upstream = Upstream::start(|mut stream, _| async move {
        while head(&mut stream).await.is_some() {
            let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".as_slice();
            let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let body = b"1\r\no\r\n1\r\nk\r\n0\r\nSum: 7\r\n\r\n";
            for byte in [hints, answer, body].concat() {
                say(&mut stream, &[byte]).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..3 {
            let response =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
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
async fn an_answer_to_half_a_request_is_taken_and_its_connection_is_not_used_again() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, number| {
        let events = events.clone();
        async move {
            stream.read_exact(&mut [0; 64]).await.expect("the beginning");
            say(&mut stream, OK).await;
            events.send(number).await.expect("seen");
            closed(&mut stream).await;
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let mut long = get();
        // More than the buffers of both sockets take.
        let value = "a".repeat(32 << 20).parse().expect("a value");
        long.headers_mut().insert("x-long", value);
        let response = upstreams.send(Claim::Known, upstream.only(), long).await.expect("answer");
        assert_eq!((text(response).await.as_str(), seen.recv().await), ("ok", Some(1)));
        let mut next = get();
        next.headers_mut().insert("x-short", "a".repeat(64).parse().expect("a value"));
        let response = upstreams.send(Claim::Known, upstream.only(), next).await.expect("answer");
        assert_eq!((text(response).await.as_str(), seen.recv().await), ("ok", Some(2)));
    })
    .await;
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        say(&mut stream, b"HTTP/1.1 200 OK\r\n\r\nok").await;
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for number in 1..=2 {
            let response =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("ok", number));
        }
    })
    .await;
}

#[tokio::test]
async fn connections_of_both_kinds_are_counted_together() {
    let (events, mut seen) = mpsc::channel(2);
    let upstream = Upstream::start(move |mut stream, number| {
        let events = events.clone();
        async move {
            while head(&mut stream).await.is_some() {
                say(&mut stream, OK).await;
            }
            events.send(number).await.expect("seen");
        }
    })
    .await;
    within(async {
        let upstreams = one_at_a_time(Duration::from_secs(10));
        for (number, request) in [(1, get()), (2, post("order=1")), (3, get())] {
            let response =
                upstreams.send(Claim::Known, upstream.only(), request).await.expect("answer");
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("ok", number));
            if number > 1 {
                assert_eq!(seen.recv().await, Some(number - 1), "the other kind made room");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn rfc_9110_8_6_a_post_without_a_body_says_that_it_has_none() {
    let (events, mut seen) = mpsc::channel(8);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            while let Some(head) = head(&mut stream).await {
                events.send(head.to_ascii_lowercase()).await.expect("seen");
                say(&mut stream, OK).await;
            }
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::GET, Method::DELETE] {
            let expected = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
            let response = upstreams
                .send(Claim::Known, upstream.only(), request(method.clone(), empty()))
                .await;
            assert_eq!(text(response.expect("answer")).await, "ok");
            let head = seen.recv().await.expect("a head");
            assert_eq!(
                head.matches("content-length: 0\r\n").count(),
                usize::from(expected),
                "{head}"
            );
            assert!(
                head.split("\r\n").nth(1).is_some_and(|line| line.starts_with("host: ")),
                "{head}"
            );
        }
    })
    .await;
}

// ---- what is sent twice, and what never ----------------------------------------------------------

/// Answers once per connection, then reads one more request and hangs up on it. Counts requests.
async fn hanging_up(requests: Arc<AtomicUsize>) -> Upstream {
    Upstream::start(move |mut stream, _| {
        let requests = Arc::clone(&requests);
        async move {
            let mut answered = false;
            while head(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                if answered {
                    return;
                }
                say(&mut stream, OK).await;
                answered = true;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_get_is_sent_again_when_the_used_connection_broke_before_the_answer() {
    let requests = Arc::new(AtomicUsize::new(0));
    let upstream = hanging_up(Arc::clone(&requests)).await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..2 {
            let response =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!((upstream.accepted(), requests.load(Ordering::SeqCst)), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_post_is_sent_once_even_when_its_connection_broke() {
    for body in ["", "order=1"] {
        let requests = Arc::new(AtomicUsize::new(0));
        let upstream = hanging_up(Arc::clone(&requests)).await;
        within(async {
            let upstreams = upstreams();
            let first =
                upstreams.send(Claim::Known, upstream.only(), post(body)).await.expect("answer");
            assert_eq!(text(first).await, "ok");
            let error =
                upstreams.send(Claim::Known, upstream.only(), post(body)).await.expect_err("error");
            assert!(matches!(error, UpstreamError::ConnectionTerminated(_)), "{error:?}");
            assert_eq!((upstream.accepted(), requests.load(Ordering::SeqCst)), (1, 2));
        })
        .await;
    }
}

#[tokio::test]
async fn a_get_is_not_sent_again_when_its_answer_was_nonsense() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        say(&mut stream, OK).await;
        head(&mut stream).await;
        say(&mut stream, b"nonsense\r\n\r\n").await;
        closed(&mut stream).await;
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let first = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!(text(first).await, "ok");
        let error = upstreams.send(Claim::Known, upstream.only(), get()).await.expect_err("error");
        assert_eq!((error.token(), upstream.accepted()), ("http_protocol_error", 1));
    })
    .await;
}

#[tokio::test]
async fn a_get_is_not_sent_again_when_its_new_connection_broke() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
    })
    .await;
    within(async {
        let error =
            upstreams().send(Claim::Known, upstream.only(), get()).await.expect_err("error");
        assert!(matches!(error, UpstreamError::ConnectionTerminated(_)), "{error:?}");
        assert_eq!((error.status(), upstream.accepted()), (StatusCode::BAD_GATEWAY, 1));
    })
    .await;
}

#[tokio::test]
async fn a_post_on_a_connection_that_closed_while_idle_goes_out_on_a_new_one() {
    for body in ["", "order=1"] {
        let (close, waiting) = std::sync::mpsc::channel::<()>();
        let (done, is_closed) = std::sync::mpsc::channel::<()>();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
        let port = listener.local_addr().expect("address").port();
        let upstream = std::thread::spawn(move || {
            let first = answer_blocking(&listener, body.len());
            waiting.recv().expect("asked to close");
            drop(first);
            done.send(()).expect("told");
            drop(answer_blocking(&listener, body.len()));
        });
        within(async {
            let upstreams = upstreams();
            let endpoints = [endpoint("http", "127.0.0.1", port)];
            let first = upstreams.send(Claim::Known, &endpoints, post(body)).await.expect("answer");
            assert_eq!(text(first).await, "ok");
            close.send(()).expect("told");
            is_closed.recv().expect("closed");
            // The runtime looks at its sockets once, so the close and the request meet in one turn.
            tokio::task::yield_now().await;
            let second =
                upstreams.send(Claim::Known, &endpoints, post(body)).await.expect("answer");
            assert_eq!(text(second).await, "ok");
        })
        .await;
        upstream.join().expect("upstream");
    }
}

/// Accepts one connection and answers its first request, which has a body of so many bytes; the socket stays open with the value.
fn answer_blocking(listener: &std::net::TcpListener, body: usize) -> std::net::TcpStream {
    use std::io::{Read, Write};
    let (mut stream, _) = listener.accept().expect("connection");
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("read") == 1 {
        seen.push(byte[0]);
    }
    stream.read_exact(&mut vec![0; body]).expect("a body");
    stream.write_all(OK).expect("written");
    stream
}

// ---- what goes wrong -----------------------------------------------------------------------------

#[tokio::test]
async fn a_refused_connection_is_a_502_and_says_so() {
    within(async {
        let error =
            upstreams().send(Claim::Known, &[dead().await], get()).await.expect_err("error");
        assert_eq!(error, UpstreamError::ConnectionRefused);
        assert_eq!(
            (error.status(), error.token()),
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
        let error =
            upstreams_with(settings).send(Claim::Known, &nowhere, get()).await.expect_err("error");
        assert_eq!(error.token(), "dns_error", "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_a_504_and_loses_the_connection() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            say(&mut stream, b"HTTP/1.1 200 OK\r\n").await;
            closed(&mut stream).await;
            events.send("closed").await.expect("seen");
        }
    })
    .await;
    within(async {
        let response_timeout = Duration::from_millis(50);
        let upstreams = upstreams_with(UpstreamSettings { response_timeout, ..Default::default() });
        let error = upstreams.send(Claim::Known, upstream.only(), get()).await.expect_err("error");
        assert_eq!(error, UpstreamError::ResponseTimeout);
        assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(seen.recv().await, Some("closed"));
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_http_is_a_protocol_error() {
    let upstream = Upstream::answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    within(async {
        let error =
            upstreams().send(Claim::Known, upstream.only(), get()).await.expect_err("error");
        assert_eq!(error.token(), "http_protocol_error", "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_cut_short_is_an_error_of_its_body() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        say(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    })
    .await;
    within(async {
        let response = upstreams().send(Claim::Known, upstream.only(), get()).await.expect("head");
        let error = response.into_body().collect().await.expect_err("cut short");
        assert!(matches!(error, UpstreamError::ConnectionTerminated(_)), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn hyp_27_a_client_body_that_breaks_is_the_clients_fault() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            closed(&mut stream).await;
            events.send("closed").await.expect("seen");
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
        let (answer, ()) =
            tokio::join!(upstreams.send(Claim::Known, upstream.only(), request), breaking);
        let error = answer.expect_err("error");
        assert_eq!((&error, error.status()), (&UpstreamError::ClientBody, StatusCode::BAD_REQUEST));
        assert_eq!(seen.recv().await, Some("closed"));
    })
    .await;
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_refused() {
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let upstream = Upstream::answering(switching).await;
    within(async {
        let error =
            upstreams().send(Claim::Known, upstream.only(), get()).await.expect_err("error");
        assert_eq!(error.token(), "http_protocol_error", "{error:?}");
    })
    .await;
}

fn one_at_a_time(connect_timeout: Duration) -> TestUpstreams {
    let max_connections_per_endpoint = 1;
    let settings =
        UpstreamSettings { max_connections_per_endpoint, connect_timeout, ..Default::default() };
    upstreams_with(settings)
}

#[tokio::test]
async fn a_request_above_the_limit_waits_for_one_to_end_and_takes_its_connection() {
    let upstream = Upstream::answering(OK).await;
    within(async {
        let upstreams = one_at_a_time(Duration::from_secs(10));
        let held = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        let mut waiting = std::pin::pin!(upstreams.send(Claim::Known, upstream.only(), get()));
        let early = tokio::time::timeout(Duration::from_millis(20), waiting.as_mut()).await;
        assert!(early.is_err(), "above the limit");
        assert_eq!(text(held).await, "ok");
        assert_eq!(text(waiting.await.expect("its turn")).await, "ok");
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn slow_bodies_of_strangers_leave_a_quarter_of_an_apps_connections_to_those_with_a_session() {
    let upstream = Upstream::answering(OK).await;
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
            held.push(upstreams.send(Claim::Stranger, upstream.only(), get()).await.expect("room"));
        }
        let error =
            upstreams.send(Claim::Stranger, upstream.only(), get()).await.expect_err("full");
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        let known = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("room");
        assert_eq!(text(known).await, "ok");
        held.pop();
        upstreams.send(Claim::Stranger, upstream.only(), get()).await.expect("room again");
    })
    .await;
}

#[tokio::test]
async fn a_request_above_the_limit_whose_turn_does_not_come_is_a_503() {
    let upstream = Upstream::answering(OK).await;
    within(async {
        let upstreams = one_at_a_time(Duration::from_millis(20));
        let _held = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        let error = upstreams.send(Claim::Known, upstream.only(), get()).await.expect_err("error");
        assert_eq!(error, UpstreamError::ConnectionLimit);
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
    })
    .await;
}

// ---- streaming -----------------------------------------------------------------------------------

#[tokio::test]
async fn both_bodies_stream_without_waiting_for_each_others_end() {
    let upstream = Upstream::start(|mut stream, _| async move {
        head(&mut stream).await;
        say(&mut stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")
            .await;
        let mut chunk = [0; 9];
        stream.read_exact(&mut chunk).await.expect("chunk");
        assert_eq!(&chunk, b"4\r\npong\r\n");
        say(&mut stream, b"4\r\ndone\r\n0\r\n\r\n").await;
        closed(&mut stream).await;
    })
    .await;
    within(async {
        let (feeding, body) = fed();
        let upstreams = upstreams();
        let response =
            upstreams.send(Claim::Known, upstream.only(), request(Method::POST, body)).await;
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
async fn trailers_of_an_answer_are_passed_on_and_the_connection_is_kept() {
    let upstream = Upstream::answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: sum\r\n\r\n2\r\nok\r\n0\r\nsum: 7\r\n\r\n",
    )
    .await;
    within(async {
        let upstreams = upstreams();
        for _ in 0..2 {
            let mut request = get();
            request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
            let response =
                upstreams.send(Claim::Known, upstream.only(), request).await.expect("answer");
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
async fn a_101_becomes_a_tunnel_and_bytes_right_behind_it_are_not_lost() {
    let upstream = Upstream::start(|mut stream, _| async move {
        let head = head(&mut stream).await.expect("head");
        assert!(head.contains("upgrade: websocket"), "{head}");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello";
        say(&mut stream, switch).await;
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.expect("bytes");
        say(&mut stream, &echo).await;
        closed(&mut stream).await;
    })
    .await;
    within(async {
        let upstreams = upstreams();
        let switch =
            upstreams.send_upgrade(Claim::Known, upstream.only(), upgrade()).await.expect("answer");
        let Switch::Switched(response, pending) = switch else { panic!("no tunnel") };
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut tunnel = pending.open().await.expect("tunnel");
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
async fn a_tunnel_that_is_dropped_or_never_opened_closes_its_connection() {
    let (events, mut seen) = mpsc::channel(1);
    let upstream = Upstream::start(move |mut stream, _| {
        let events = events.clone();
        async move {
            head(&mut stream).await;
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
            say(&mut stream, switch).await;
            closed(&mut stream).await;
            events.send("closed").await.expect("seen");
        }
    })
    .await;
    within(async {
        let upstreams = upstreams();
        for open in [true, false] {
            let switch = upstreams
                .send_upgrade(Claim::Known, upstream.only(), upgrade())
                .await
                .expect("answer");
            let Switch::Switched(_, pending) = switch else { panic!("no tunnel") };
            if open {
                drop(pending.open().await.expect("tunnel"));
            } else {
                drop(pending);
            }
            assert_eq!(seen.recv().await, Some("closed"));
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_is_not_granted_is_an_ordinary_answer_and_its_connection_is_not_kept() {
    let upstream =
        Upstream::answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    within(async {
        let upstreams = upstreams();
        for number in 1..=2 {
            let switch = upstreams
                .send_upgrade(Claim::Known, upstream.only(), upgrade())
                .await
                .expect("answer");
            let Switch::Answered(response) = switch else { panic!("a tunnel") };
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!((text(response).await.as_str(), upstream.accepted()), ("no", number));
        }
        upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!(upstream.accepted(), 3);
    })
    .await;
}

#[tokio::test]
async fn an_h2c_upstream_cannot_be_asked_for_a_tunnel() {
    let upstream = http2(Arc::new(Barrier::new(1))).await;
    within(async {
        let error = upstreams().send_upgrade(Claim::Known, upstream.only(), upgrade()).await.err();
        assert_eq!(error, Some(UpstreamError::UpgradeUnsupported));
    })
    .await;
}

// ---- HTTP/2 and TLS ------------------------------------------------------------------------------

/// Answers each request when `barrier` lets it, with its authority and body.
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
    // A client that leaves is no failure of the test.
    let _ = http2.serve_connection(TokioIo::new(stream), service).await;
}

async fn http2(barrier: Arc<Barrier>) -> Upstream {
    Upstream::speaking("h2c", "127.0.0.1", move |stream, _| {
        serve_http2(stream, Arc::clone(&barrier))
    })
    .await
}

#[tokio::test]
async fn h2c_requests_run_at_the_same_time_over_one_connection() {
    const TOGETHER: usize = 10;
    let upstream = http2(Arc::new(Barrier::new(TOGETHER))).await;
    within(async {
        let upstreams = upstreams();
        let asking =
            (0..TOGETHER).map(|_| upstreams.send(Claim::Known, upstream.only(), post("order=1")));
        for response in futures_util::future::join_all(asking).await {
            assert_eq!(text(response.expect("answer")).await, "app.test 7");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_shared_http2_connection_that_ended_is_made_again() {
    let upstream = Upstream::speaking("h2c", "127.0.0.1", |stream, _| async move {
        let (finished, mut ended) = mpsc::channel::<()>(1);
        let service = hyper::service::service_fn(move |_: Request<Incoming>| {
            let finished = finished.clone();
            async move {
                finished.send(()).await.expect("told");
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
            let response =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
            assert_eq!(text(response).await, "ok");
        }
        assert!(upstream.accepted() > 1);
    })
    .await;
}

/// An h2c app that allows so many streams on a connection. A GET is answered with `length` bytes; of
/// anything else the body is kept unread, and the answer comes at once or never.
async fn frugal(streams: u32, length: usize, answers_uploads: bool) -> Upstream {
    Upstream::speaking("h2c", "127.0.0.1", move |stream, _| async move {
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
async fn over_http2_who_does_not_read_his_answer_holds_up_nobody() {
    const LONG: usize = 2 * 1024 * 1024;
    let upstream = frugal(200, LONG, true).await;
    within(async {
        let upstreams = upstreams();
        for claim in [Claim::Stranger, Claim::Known] {
            let unread = (0..60).map(|_| upstreams.send(claim, upstream.only(), get()));
            let _unread = futures_util::future::join_all(unread).await;
            for other in [Claim::Known, Claim::Stranger] {
                let read = upstreams.send(other, upstream.only(), get()).await.expect("answer");
                assert_eq!(text(read).await.len(), LONG, "{other:?} beside {claim:?}");
            }
        }
        assert_eq!(upstream.accepted(), 2, "one for each claim is enough");
    })
    .await;
}

#[tokio::test]
async fn over_http2_there_are_as_many_connections_as_the_apps_streams_ask_for() {
    let upstream = frugal(4, 2, false).await;
    within(async {
        let upstreams = upstreams();
        let (mut fed_by, mut asking) = (Vec::new(), Vec::new());
        for claim in [Claim::Stranger; 10].into_iter().chain([Claim::Known; 10]) {
            let (feeder, body) = fed();
            fed_by.push(feeder);
            asking.push(upstreams.send(claim, upstream.only(), request(Method::POST, body)));
        }
        let mut asking = std::pin::pin!(futures_util::future::join_all(asking));
        for claim in [Claim::Known, Claim::Stranger] {
            let answer = upstreams.send(claim, upstream.only(), get());
            let answer = tokio::select! {
                answer = answer => answer.expect("an answer while all others upload"),
                _ = asking.as_mut() => panic!("nobody answers uploads"),
            };
            assert_eq!(text(answer).await, "xx");
        }
        assert!((6..=7).contains(&upstream.accepted()), "{} connections", upstream.accepted());
    })
    .await;
}

#[tokio::test]
async fn over_http2_a_body_that_is_sent_on_after_its_answer_still_counts() {
    let upstream = frugal(1, 2, true).await;
    within(async {
        let upstreams = one_at_a_time(Duration::from_millis(50));
        let (feeder, body) = fed();
        let upload = request(Method::POST, body);
        let answer = upstreams.send(Claim::Known, upstream.only(), upload).await.expect("answer");
        assert_eq!(text(answer).await, "xx");
        let other = upstreams.send(Claim::Known, upstream.only(), get()).await;
        assert_eq!(other.expect_err("no place"), UpstreamError::ConnectionLimit);
        drop(feeder);
        loop {
            match upstreams.send(Claim::Known, upstream.only(), get()).await {
                Ok(answer) => break assert_eq!(text(answer).await, "xx"),
                Err(error) => assert_eq!(error, UpstreamError::ConnectionLimit),
            }
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn further_http2_connections_are_closed_when_they_have_nothing_to_do() {
    let (events, mut seen) = mpsc::channel(8);
    let upstream = Upstream::speaking("h2c", "127.0.0.1", move |stream, number| {
        let events = events.clone();
        async move {
            let service = hyper::service::service_fn(|_: Request<Incoming>| async {
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from("xx")))
            });
            let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http2.max_concurrent_streams(1);
            let _ = http2.serve_connection(TokioIo::new(stream), service).await;
            events.send(number).await.expect("seen");
        }
    })
    .await;
    within(async {
        let idle_timeout = Duration::from_millis(50);
        let upstreams = upstreams_with(UpstreamSettings { idle_timeout, ..Default::default() });
        let asking = (0..3).map(|_| upstreams.send(Claim::Known, upstream.only(), get()));
        let answers = futures_util::future::join_all(asking).await;
        for answer in answers {
            assert_eq!(text(answer.expect("answer")).await, "xx");
        }
        let mut closed = [seen.recv().await, seen.recv().await];
        closed.sort_unstable();
        assert_eq!(closed, [Some(2), Some(3)]);
        let again = upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
        assert_eq!(text(again).await, "xx");
        assert_eq!(upstream.accepted(), 3, "the first one is kept");
    })
    .await;
}

/// A certificate authority made for the test.
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
        Upstream::speaking("https", host, move |stream, _| {
            let accepting = server.accept(stream);
            async move {
                let Ok(mut stream) = accepting.await else { return };
                if protocol == "h2" {
                    return serve_http2(stream, Arc::new(Barrier::new(1))).await;
                }
                while head(&mut stream).await.is_some() {
                    say(&mut stream, OK).await;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn an_https_upstream_is_verified_and_alpn_chooses_the_protocol() {
    let authority = Authority::new();
    let tls = trust(authority.pem().as_bytes()).expect("trust");
    within(async {
        for (protocol, answer) in [("http/1.1", "ok"), ("h2", "app.test 0")] {
            let upstream = authority.upstream("localhost", protocol).await;
            let upstreams = TestUpstreams::new(UpstreamSettings::default(), &tls);
            for _ in 0..2 {
                let response =
                    upstreams.send(Claim::Known, upstream.only(), get()).await.expect("answer");
                assert_eq!(text(response).await, answer);
            }
            assert_eq!(upstream.accepted(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn an_https_upstream_with_another_name_or_an_unknown_authority_is_refused() {
    let authority = Authority::new();
    let known = trust(authority.pem().as_bytes()).expect("trust");
    let unknown = trust(Authority::new().pem().as_bytes()).expect("trust");
    within(async {
        for (host, tls) in [("127.0.0.1", &known), ("localhost", &unknown)] {
            let upstream = authority.upstream(host, "http/1.1").await;
            let upstreams = TestUpstreams::new(UpstreamSettings::default(), tls);
            let error =
                upstreams.send(Claim::Known, upstream.only(), get()).await.expect_err("error");
            assert!(matches!(error, UpstreamError::TlsCertificate(_)), "{error:?}");
            assert_eq!(error.token(), "tls_certificate_error");
        }
    })
    .await;
}

#[tokio::test]
async fn a_plain_upstream_behind_https_is_a_tls_error() {
    let plain = Upstream::speaking("https", "localhost", |mut stream, _| async move {
        say(&mut stream, OK).await;
        closed(&mut stream).await;
    })
    .await;
    within(async {
        let error = upstreams().send(Claim::Known, plain.only(), get()).await.expect_err("error");
        assert_eq!(error.token(), "tls_protocol_error", "{error:?}");
    })
    .await;
}

// ---- several endpoints ---------------------------------------------------------------------------

#[tokio::test]
async fn endpoints_take_turns_and_a_busy_one_is_spared() {
    let (one, two) = (Upstream::answering(OK).await, Upstream::answering(OK).await);
    let both = [one.endpoint.clone(), two.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        let held = [
            upstreams.send(Claim::Known, &both, get()).await.expect("answer"),
            upstreams.send(Claim::Known, &both, get()).await.expect("answer"),
        ];
        assert_eq!((one.accepted(), two.accepted()), (1, 1));
        let busy = upstreams.send(Claim::Known, one.only(), get()).await.expect("answer");
        let [first, second] = held;
        let spared = upstreams.send(Claim::Known, &both, get()).await.expect("answer");
        assert_eq!((one.accepted(), two.accepted()), (2, 2));
        for response in [first, second, busy, spared] {
            assert_eq!(text(response).await, "ok");
        }
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_without_losing_a_request() {
    let live = Upstream::answering(OK).await;
    let both = [dead().await, live.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        for _ in 0..4 {
            let response =
                upstreams.send(Claim::Known, &both, post("order=1")).await.expect("answer");
            drop(response);
        }
        let error = upstreams.send(Claim::Known, &[dead().await, dead().await], get()).await.err();
        assert_eq!(error, Some(UpstreamError::ConnectionRefused));
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_not_asked_again_while_another_works() {
    let live = Upstream::answering(OK).await;
    let broken = Upstream::speaking("https", "localhost", |stream, _| async move {
        drop(stream);
    })
    .await;
    let both = [broken.endpoint.clone(), live.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        for _ in 0..6 {
            let response = upstreams.send(Claim::Known, &both, get()).await.expect("answer");
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!((broken.accepted(), live.accepted()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_route_without_an_endpoint_is_a_503() {
    let error = upstreams().send(Claim::Known, &[], get()).await.expect_err("error");
    assert_eq!(
        (error.status(), error.token()),
        (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable")
    );
}
