//! The upstream behind the gateways. It records every request and echoes its ID and user.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::chaos::history::{Event, Recorder, Session};

/// Header with the request ID, by which a client recognises its response.
pub const REQUEST_ID_HEADER: &str = "x-chaos-request";

/// Path of an endless event stream.
pub const STREAM: &str = "/stream";
/// Path of a WebSocket with the same lines.
pub const SOCKET: &str = "/socket";
/// Path for uploads of lines `session gateway`.
pub const UPLOAD: &str = "/upload";
/// Interval between two lines.
pub const SEND_INTERVAL: Duration = Duration::from_millis(150);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A running upstream. Dropping it closes all connections.
pub struct RecordingUpstream {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl RecordingUpstream {
    pub async fn start(recorder: Recorder) -> RecordingUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        RecordingUpstream { address, task: tokio::spawn(accept(listener, recorder)) }
    }
}

impl Drop for RecordingUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, recorder: Recorder) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.spawn(serve(stream, recorder.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, recorder: Recorder) {
    let service = service_fn(move |request: Request<Incoming>| {
        let recorder = recorder.clone();
        async move {
            Ok::<_, Infallible>(match request.uri().path() {
                STREAM => event_stream(request.headers(), recorder),
                SOCKET => websocket(request, recorder),
                UPLOAD => upload(request, &recorder).await,
                _ => respond(request.headers(), &recorder),
            })
        }
    });
    // A killed gateway breaks connections at any point.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// Sends lines of time and user name.
fn event_stream(headers: &HeaderMap, recorder: Recorder) -> Response<Body> {
    let user = text(headers, "x-forwarded-user").to_owned();
    let lines = futures_util::stream::unfold((recorder, user), |(recorder, user)| async {
        tokio::time::sleep(SEND_INTERVAL).await;
        let line = Bytes::from(format!("{} {user}\n", recorder.now()));
        Some((Ok(Frame::data(line)), (recorder, user)))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", kind);
    response
}

/// Sends the lines of [`event_stream`] over a WebSocket.
fn websocket(mut request: Request<Incoming>, recorder: Recorder) -> Response<Body> {
    let user = text(request.headers(), "x-forwarded-user").to_owned();
    let key = request.headers().get("sec-websocket-key").map(HeaderValue::as_bytes);
    let accept = derive_accept_key(key.unwrap_or_default());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        loop {
            tokio::time::sleep(SEND_INTERVAL).await;
            let line = format!("{} {user}\n", recorder.now());
            if socket.send(Message::text(line)).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&accept).expect("base64");
    let fields = [("connection", "Upgrade"), ("upgrade", "websocket")];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().insert("sec-websocket-accept", accept);
    response
}

/// Records each line on arrival.
async fn upload(request: Request<Incoming>, recorder: &Recorder) -> Response<Body> {
    let user = text(request.headers(), "x-forwarded-user").to_owned();
    let mut body = request.into_body();
    let mut speaker = None;
    while let Some(frame) = body.frame().await {
        let at = recorder.now();
        let Ok(frame) = frame else {
            let cut = speaker.map(|(session, gateway)| Event::StreamCut { session, gateway, at });
            cut.into_iter().for_each(|cut| recorder.add(cut));
            break;
        };
        let data = frame.into_data().unwrap_or_default();
        for line in String::from_utf8_lossy(&data).lines() {
            speaker = parse_upload_line(line).or(speaker);
            if let Some((session, gateway)) = speaker {
                recorder.add(Event::StreamLine {
                    session,
                    gateway,
                    user: user.clone(),
                    written_at: at,
                });
            }
        }
    }
    Response::new(Full::default().boxed_unsync())
}

fn parse_upload_line(line: &str) -> Option<(Session, usize)> {
    let (session, gateway) = line.split_once(' ')?;
    Some((Session(session.parse().ok()?), gateway.trim().parse().ok()?))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn respond(headers: &HeaderMap, recorder: &Recorder) -> Response<Body> {
    let (mark, user) = (text(headers, REQUEST_ID_HEADER), text(headers, "x-forwarded-user"));
    if let Ok(request) = mark.parse() {
        recorder.add(Event::ReachedUpstream { request, user: user.to_owned(), at: recorder.now() });
    }
    Response::new(Full::from(format!("{mark} {user}")).boxed_unsync())
}
