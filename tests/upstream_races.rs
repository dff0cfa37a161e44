//! Upstreams at their worst moments: what arrives between two looks of the runtime at its sockets,
//! and HTTP/2 connections that end while a request is on its way.

use std::io::{self, Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use doorward::message::Endpoint;
use doorward::tls::trust;
use doorward::upstream::{Claim, UpstreamBody, UpstreamError, UpstreamSettings, Upstreams};
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
    Upstreams::new(settings, &trust(ca.as_bytes()).expect("trust"))
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

// ---- between two looks -----------------------------------------------------------------------

/// Reads a head and `body` more bytes, and answers with `word`.
fn answer(stream: &mut StdStream, body: usize, word: &str) {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("read") == 1 {
        seen.push(byte[0]);
    }
    stream.read_exact(&mut vec![0; body]).expect("body");
    stream.write_all(ok(word).as_bytes()).expect("written");
}

fn ok(word: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len())
}

/// The upstream does `mischief` to its first connection while the only thread of the runtime is
/// blocked, so the runtime cannot have seen it when the next request comes.
async fn after_mischief(
    mischief: impl FnOnce(StdStream) -> Option<StdStream> + Send + 'static,
    method: Method,
    body: &'static str,
) -> Result<String, UpstreamError> {
    let listener = StdListener::bind("127.0.0.1:0").expect("listener");
    let endpoints = only("http", listener.local_addr().expect("address").port());
    let (go, going) = mpsc::channel::<()>();
    let (done, is_done) = mpsc::channel::<()>();
    // Not joined: where the rule is broken it waits for a second connection for ever.
    std::thread::spawn(move || {
        let (mut first, _) = listener.accept().expect("connection");
        first.set_nodelay(true).expect("nodelay");
        answer(&mut first, body.len(), "first");
        going.recv().expect("told");
        let _kept = mischief(first);
        done.send(()).expect("told");
        let (mut second, _) = listener.accept().expect("second connection");
        answer(&mut second, body.len(), "second");
    });
    let upstreams = upstreams();
    let first = upstreams.send(Claim::Known, &endpoints, request(method.clone(), "/", body)).await;
    assert_eq!(text(first.expect("answer")).await, "first");
    go.send(()).expect("told");
    is_done.recv().expect("done");
    // Loopback delivers before write and close return; nothing has to be waited for.
    Ok(text(upstreams.send(Claim::Known, &endpoints, request(method, "/", body)).await?).await)
}

#[tokio::test]
async fn an_answer_that_came_before_its_request_is_nobodys_even_when_the_runtime_has_not_seen_it() {
    let poison = |mut stream: StdStream| {
        stream.write_all(ok("poison").as_bytes()).expect("written");
        Some(stream)
    };
    for (method, body) in [(Method::GET, ""), (Method::POST, "order=1")] {
        let answer = within(after_mischief(poison, method, body)).await;
        assert_eq!(answer.expect("answer"), "second");
    }
}

#[tokio::test]
async fn a_post_goes_out_on_a_new_connection_when_the_old_one_closed_unseen() {
    let close = |stream: StdStream| {
        drop(stream);
        None
    };
    for body in ["", "order=1"] {
        let answer = within(after_mischief(close, Method::POST, body)).await;
        assert_eq!(answer.expect("answer"), "second");
    }
}

// ---- HTTP/2 ------------------------------------------------------------------------------------

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

async fn put(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await.expect("written");
}

/// The next frame: kind, flags, stream, payload.
async fn take(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Preface and settings done; gives the stream of each request as its head arrives.
async fn next_request(stream: &mut TcpStream, pings: bool) -> Option<u32> {
    loop {
        match take(stream).await? {
            (HEADERS, _, id, _) => return Some(id),
            (SETTINGS, 0, _, _) => put(stream, SETTINGS, ACK, 0, &[]).await,
            (PING, 0, _, payload) if pings => put(stream, PING, ACK, 0, &payload).await,
            _ => {}
        }
    }
}

async fn greet(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 24]).await.expect("preface");
    put(stream, SETTINGS, 0, 0, &[]).await;
}

/// `:status: 200`, and the end.
async fn ok_http2(stream: &mut TcpStream, id: u32) {
    put(stream, HEADERS, 0x5, id, &[0x88]).await;
}

/// Answers everything, but for the second request on the first connection: that meets its `end`.
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
                greet(&mut stream).await;
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
        .send(Claim::Known, &endpoints, request(Method::GET, "/", ""))
        .await
        .expect("answer");
    assert_eq!(text(first).await, "");
    text(upstreams.send(Claim::Known, &endpoints, request(method, "/", body)).await?).await;
    Ok(())
}

async fn refuse(mut stream: TcpStream, id: u32) -> Option<TcpStream> {
    put(&mut stream, RST_STREAM, 0, id, &7_u32.to_be_bytes()).await;
    Some(stream)
}

/// Stops at stream 1: the one that is being asked about was not looked at (RFC 9113 6.8).
async fn leave(mut stream: TcpStream, _id: u32) -> Option<TcpStream> {
    put(&mut stream, GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
    Some(stream)
}

async fn hang_up(stream: TcpStream, _id: u32) -> Option<TcpStream> {
    drop(stream);
    None
}

async fn reset(mut stream: TcpStream, id: u32) -> Option<TcpStream> {
    put(&mut stream, RST_STREAM, 0, id, &2_u32.to_be_bytes()).await;
    Some(stream)
}

#[tokio::test]
async fn rfc_9113_8_7_a_get_refused_unprocessed_by_http2_is_sent_again() {
    let (port, _) = ending(refuse).await;
    within(second_of_two(port, Method::GET, "")).await.expect("answer");
}

#[tokio::test]
async fn rfc_9113_6_8_a_get_beyond_the_last_stream_of_a_goaway_is_sent_again() {
    let (port, _) = ending(leave).await;
    within(second_of_two(port, Method::GET, "")).await.expect("answer");
}

#[tokio::test]
async fn rfc_9113_8_7_a_post_without_body_refused_unprocessed_is_sent_again() {
    let (port, _) = ending(refuse).await;
    within(second_of_two(port, Method::POST, "")).await.expect("answer");
}

#[tokio::test]
async fn a_get_is_sent_again_when_the_shared_http2_connection_broke_before_the_answer() {
    let (port, _) = ending(hang_up).await;
    within(second_of_two(port, Method::GET, "")).await.expect("answer");
}

#[tokio::test]
async fn a_post_is_sent_once_when_the_shared_http2_connection_broke() {
    let (port, requests) = ending(hang_up).await;
    let error = within(second_of_two(port, Method::POST, "order=1")).await.expect_err("error");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
    assert_eq!(error.token(), "connection_terminated", "{error:?}");
}

#[tokio::test]
async fn a_get_whose_stream_was_reset_for_another_reason_is_not_sent_again() {
    let (port, requests) = ending(reset).await;
    within(second_of_two(port, Method::GET, "")).await.expect_err("error");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}
