//! Races with an upstream: data that arrives between two polls of the runtime, and HTTP/2
//! connections that end while a request is in progress.

use std::io::{self, Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use doorward::message::Endpoint;
use doorward::tls::client_config_for_ca;
use doorward::upstream::{Priority, UpstreamBody, UpstreamError, UpstreamSettings, Upstreams};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type TestBody = UnsyncBoxBody<Bytes, io::Error>;
type TestUpstreams = Upstreams<TestBody>;

fn upstreams() -> TestUpstreams {
    upstreams_with(UpstreamSettings::default())
}

fn upstreams_with(settings: UpstreamSettings) -> TestUpstreams {
    let mut params = CertificateParams::new(vec![]).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("key");
    let ca = CertifiedIssuer::self_signed(params, key).expect("authority").pem();
    Upstreams::new(settings, &client_config_for_ca(ca.as_bytes()).expect("trust"))
}

fn request(method: Method, target: &str, body: &'static str) -> Request<TestBody> {
    let body = match body {
        "" => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        body => Full::from(body).map_err(|never| match never {}).boxed_unsync(),
    };
    let request = Request::builder().method(method).uri(target).header("host", "app.test");
    request.body(body).expect("request")
}

async fn text(response: Response<UpstreamBody<TestBody>>) -> String {
    let body = response.into_body().collect().await.expect("whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

async fn within<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), test).await.expect("in time")
}

fn only(scheme: &str, port: u16) -> [Endpoint; 1] {
    [Endpoint::parse(&format!("{scheme}://127.0.0.1:{port}")).expect("endpoint")]
}

// ---- between two polls -----------------------------------------------------------------------

/// Reads a head and `body` more bytes, and answers with `word`.
fn respond(stream: &mut StdStream, body: usize, body_text: &str) {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("read") == 1 {
        seen.push(byte[0]);
    }
    stream.read_exact(&mut vec![0; body]).expect("body");
    stream.write_all(ok(body_text).as_bytes()).expect("written");
}

fn ok(body_text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body_text}", body_text.len())
}

/// The upstream runs `action` on its first connection while the runtime's only thread is blocked.
/// The runtime cannot have observed it before the next request.
async fn after_unseen(
    action: impl FnOnce(StdStream) -> Option<StdStream> + Send + 'static,
    method: Method,
    body: &'static str,
) -> Result<String, UpstreamError> {
    let listener = StdListener::bind("127.0.0.1:0").expect("listener");
    let endpoints = only("http", listener.local_addr().expect("address").port());
    let (go, going) = mpsc::channel::<()>();
    let (done, is_done) = mpsc::channel::<()>();
    // Not joined: if the rule is broken, it waits forever for a second connection.
    std::thread::spawn(move || {
        let (mut first, _) = listener.accept().expect("connection");
        first.set_nodelay(true).expect("nodelay");
        respond(&mut first, body.len(), "first");
        going.recv().expect("an open channel");
        let _kept = action(first);
        done.send(()).expect("an open channel");
        let (mut second, _) = listener.accept().expect("second connection");
        respond(&mut second, body.len(), "second");
    });
    let upstreams = upstreams();
    let first = upstreams
        .send(Priority::Authenticated, &endpoints, request(method.clone(), "/", body))
        .await;
    assert_eq!(text(first.expect("a response")).await, "first");
    go.send(()).expect("an open channel");
    is_done.recv().expect("done");
    // Loopback delivers before write and close return, so no wait is needed.
    Ok(text(upstreams.send(Priority::Authenticated, &endpoints, request(method, "/", body)).await?)
        .await)
}

#[tokio::test]
async fn an_unseen_early_response_is_discarded() {
    let poison = |mut stream: StdStream| {
        stream.write_all(ok("poison").as_bytes()).expect("written");
        Some(stream)
    };
    for (method, body) in [(Method::GET, ""), (Method::POST, "order=1")] {
        let response = within(after_unseen(poison, method, body)).await;
        assert_eq!(response.expect("a response"), "second");
    }
}

#[tokio::test]
async fn a_post_avoids_a_connection_that_closed_unseen() {
    let close = |stream: StdStream| {
        drop(stream);
        None
    };
    for body in ["", "order=1"] {
        let response = within(after_unseen(close, Method::POST, body)).await;
        assert_eq!(response.expect("a response"), "second");
    }
}

// ---- HTTP/2 ------------------------------------------------------------------------------------

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

async fn write_frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await.expect("written");
}

/// Reads the next frame: kind, flags, stream, payload.
async fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Returns the stream of the next request.
async fn next_request(stream: &mut TcpStream, pings: bool) -> Option<u32> {
    loop {
        match read_frame(stream).await? {
            (HEADERS, _, id, _) => return Some(id),
            (SETTINGS, 0, _, _) => write_frame(stream, SETTINGS, ACK, 0, &[]).await,
            (PING, 0, _, payload) if pings => write_frame(stream, PING, ACK, 0, &payload).await,
            _ => {}
        }
    }
}

async fn handshake(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 24]).await.expect("preface");
    write_frame(stream, SETTINGS, 0, 0, &[]).await;
}

/// Sends `:status: 200` and the end of the stream.
async fn ok_http2(stream: &mut TcpStream, id: u32) {
    write_frame(stream, HEADERS, 0x5, id, &[0x88]).await;
}

/// Answers every request except the second on the first connection, which gets `end`.
async fn ending<R>(
    end: impl Fn(TcpStream, u32) -> R + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>)
where
    R: Future<Output = Option<TcpStream>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    let (requests, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(end));
    let counter = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            number += 1;
            let (first, end, counter) = (number == 1, Arc::clone(&end), Arc::clone(&counter));
            tokio::spawn(async move {
                handshake(&mut stream).await;
                let mut turn = 0;
                while let Some(id) = next_request(&mut stream, true).await {
                    counter.fetch_add(1, Ordering::SeqCst);
                    turn += 1;
                    if first && turn == 2 {
                        match end(stream, id).await {
                            Some(back) => stream = back,
                            None => return,
                        }
                    } else {
                        ok_http2(&mut stream, id).await;
                    }
                }
            });
        }
    });
    (port, requests)
}

async fn second_of_two(port: u16, method: Method, body: &'static str) -> Result<(), UpstreamError> {
    let (upstreams, endpoints) = (upstreams(), only("h2c", port));
    let first = upstreams
        .send(Priority::Authenticated, &endpoints, request(Method::GET, "/", ""))
        .await
        .expect("a response");
    assert_eq!(text(first).await, "");
    text(upstreams.send(Priority::Authenticated, &endpoints, request(method, "/", body)).await?)
        .await;
    Ok(())
}

async fn refuse(mut stream: TcpStream, id: u32) -> Option<TcpStream> {
    write_frame(&mut stream, RST_STREAM, 0, id, &7_u32.to_be_bytes()).await;
    Some(stream)
}

/// GOAWAY with last stream 1: the current request was not processed (RFC 9113 6.8).
async fn go_away(mut stream: TcpStream, _id: u32) -> Option<TcpStream> {
    write_frame(&mut stream, GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
    Some(stream)
}

async fn disconnect(stream: TcpStream, _id: u32) -> Option<TcpStream> {
    drop(stream);
    None
}

async fn reset(mut stream: TcpStream, id: u32) -> Option<TcpStream> {
    write_frame(&mut stream, RST_STREAM, 0, id, &2_u32.to_be_bytes()).await;
    Some(stream)
}

/// RFC 9113 8.7.
#[tokio::test]
async fn a_get_refused_unprocessed_by_http2_is_retried() {
    let (port, _) = ending(refuse).await;
    within(second_of_two(port, Method::GET, "")).await.expect("a response");
}

/// RFC 9113 6.8.
#[tokio::test]
async fn a_get_beyond_the_last_stream_of_a_goaway_is_retried() {
    let (port, _) = ending(go_away).await;
    within(second_of_two(port, Method::GET, "")).await.expect("a response");
}

/// RFC 9113 8.7.
#[tokio::test]
async fn a_bodyless_post_refused_unprocessed_is_retried() {
    let (port, _) = ending(refuse).await;
    within(second_of_two(port, Method::POST, "")).await.expect("a response");
}

#[tokio::test]
async fn a_get_is_retried_when_a_shared_http2_connection_breaks() {
    let (port, _) = ending(disconnect).await;
    within(second_of_two(port, Method::GET, "")).await.expect("a response");
}

#[tokio::test]
async fn a_post_is_not_retried_when_a_shared_connection_breaks() {
    let (port, requests) = ending(disconnect).await;
    let error = within(second_of_two(port, Method::POST, "order=1")).await.expect_err("error");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
    assert_eq!(error.proxy_status(), "connection_terminated", "{error:?}");
}

#[tokio::test]
async fn a_get_reset_for_another_reason_is_not_retried() {
    let (port, requests) = ending(reset).await;
    within(second_of_two(port, Method::GET, "")).await.expect_err("error");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}
