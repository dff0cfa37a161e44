//! Client bytes through hyper's server, the gateway's checks and hyper's client: the upstream
//! receives only complete, valid requests, one per accepted request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use doorward::connections::ClientBodyError;
use doorward::message::{CookieNames, InboundHead, RequestContext, RequestId, SanitizedHead};
use doorward::proxy::{ConnectionInfo, InboundBody};
use doorward::route::BodyLimits;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::request_heads;

/// Bytes that upstreams received, one entry per connection.
type Received = Arc<Mutex<Vec<Vec<u8>>>>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// The first byte selects the protocol: `2` for HTTP/2 frames, otherwise HTTP/1.1.
pub fn request_pipeline(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let received = Received::default();
    let bytes_received = Arc::clone(&received);
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        match bytes.strip_prefix(b"2") {
            Some(frames) => over_h2(frames, bytes_received).await,
            None => over_h1(bytes, bytes_received).await,
        }
    }));
    drop(runtime);
    for bytes in received.lock().expect("no panic").iter() {
        assert_valid_requests(bytes);
    }
}

async fn over_h1(bytes: &[u8], received: Received) {
    let (client, server) = duplex(1 << 16);
    let service = service_fn(move |request| serve(request, Arc::clone(&received)));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let (_, _) = tokio::join!(exchange_all(client, bytes.to_vec()), connection);
}

async fn over_h2(frames: &[u8], received: Received) {
    let (client, server) = duplex(1 << 16);
    let service = service_fn(move |request| serve(request, Arc::clone(&received)));
    let builder = http2::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(server), service);
    let (_, _) = tokio::join!(exchange_all(client, [PREFACE, frames].concat()), connection);
}

/// Writes everything, then reads everything.
async fn exchange_all(mut client: DuplexStream, bytes: Vec<u8>) {
    // The server may close early.
    let _written = client.write_all(&bytes).await;
    let _closed = client.shutdown().await;
    let mut responses = Vec::new();
    let _answers = client.read_to_end(&mut responses).await;
}

/// Handles a request as on a public route.
async fn serve(
    request: Request<Incoming>,
    received: Received,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let client = IpAddr::from([192, 0, 2, 7]);
    let context = RequestContext { client, fingerprint: None, request: RequestId::from(1) };
    let status = match InboundHead::parse(parts, context) {
        Ok(head) => forward(head, body, received).await,
        Err(bad) => bad.status(),
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

async fn forward(head: InboundHead, body: Incoming, received: Received) -> StatusCode {
    let clean = SanitizedHead::new(head, &request_heads::RESERVED, &CookieNames::default());
    let connection = Arc::new(ConnectionInfo::new(IpAddr::from([192, 0, 2, 7])));
    let body = body.map_err(|error| ClientBodyError(error.into())).boxed_unsync();
    let body = InboundBody::new(body, &BodyLimits::default(), connection.body_byte_counter(), None);
    let request = request_heads::upstream_head(clean).into_request(body);
    let (near, far) = duplex(1 << 16);
    let (mut sender, connection) =
        client::conn::http1::handshake(TokioIo::new(near)).await.expect("no bytes yet");
    let upstream = tokio::task::spawn_local(listen(far, received));
    let connection = tokio::task::spawn_local(connection);
    let status = sender
        .send_request(request)
        .await
        .map_or(StatusCode::BAD_GATEWAY, |response| response.status());
    drop(sender);
    let (_, _) = tokio::join!(connection, upstream);
    status
}

/// Responds to the first complete request and records all bytes.
async fn listen(mut stream: DuplexStream, received: Received) {
    let (mut all, mut responded) = (Vec::new(), false);
    while let Ok(1..) = stream.read_buf(&mut all).await {
        if !responded && end_of(&all).is_some() {
            responded = stream.write_all(RESPONSE).await.is_ok();
        }
    }
    received.lock().expect("no panic").push(all);
}

/// The bytes are one request, complete or truncated, and nothing else.
fn assert_valid_requests(bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes);
    let Some(end) = position(bytes, b"\r\n\r\n") else { return };
    let head: Vec<&[u8]> = lines(&bytes[..end]);
    let [line, fields @ ..] = head.as_slice() else { panic!("no request line: {shown}") };
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [_, target, b"HTTP/1.1"] = words[..] else { panic!("{shown}") };
    assert!(target.starts_with(b"/") && !target.contains(&b'#'), "{shown}");
    let names: Vec<String> = fields.iter().map(|field| name_of(field)).collect();
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    assert_eq!(count("host"), 1, "{shown}");
    assert!(count("content-length") + count("transfer-encoding") <= 1, "{shown}");
    assert!(count("cookie") <= 1 && count("trailer") == 0 && count("te") <= 1, "{shown}");
    // Set by the gateway.
    assert_eq!(count("forwarded"), 1, "{shown}");
    for name in names.iter().filter(|name| *name != "forwarded") {
        assert!(
            !request_heads::TRUSTED.contains(&name.replace(['.', '~', '+'], "-").as_str()),
            "{shown}"
        );
        assert!(!name.contains('_'), "{shown}");
    }
    if let Some(end) = end_of(bytes) {
        assert_eq!(end, bytes.len(), "bytes after the request: {shown}");
    }
}

fn lines(head: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    let mut rest = head;
    while let Some(at) = position(rest, b"\r\n") {
        out.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    out.push(rest);
    let bare = |line: &&[u8]| line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    assert!(!out.iter().any(bare), "{}", String::from_utf8_lossy(head));
    out
}

fn name_of(field: &[u8]) -> String {
    let at = field.iter().position(|byte| *byte == b':').expect("a colon in every field");
    String::from_utf8_lossy(&field[..at]).to_ascii_lowercase()
}

/// Returns the end of the first request, parsed strictly; `None` if incomplete.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let head = position(bytes, b"\r\n\r\n")? + 4;
    let fields = lines(&bytes[..head - 4]);
    let value = |wanted: &str| {
        let field = fields[1..].iter().find(|field| name_of(field) == wanted)?;
        Some(field[wanted.len() + 1..].trim_ascii())
    };
    if let Some(length) = value("content-length") {
        let length: usize = std::str::from_utf8(length).ok()?.parse().expect("a plain number");
        return (bytes.len() >= head + length).then_some(head + length);
    }
    match value("transfer-encoding") {
        None => Some(head),
        Some(coding) => {
            assert_eq!(coding, b"chunked");
            chunks(&bytes[head..]).map(|length| head + length)
        }
    }
}

/// Returns the length of a chunked body without extensions and trailers, which the gateway never
/// sends.
fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let digits = position(&bytes[at..], b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + digits]).expect("digits");
        let size = usize::from_str_radix(text, 16).expect("a chunk's size and nothing else");
        at += digits + 2;
        let end = bytes.get(at + size..at + size + 2)?;
        assert_eq!(end, b"\r\n", "a chunk has its declared size and no trailers follow");
        at += size + 2;
        if size == 0 {
            return Some(at);
        }
    }
}

fn position(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}
