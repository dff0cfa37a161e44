//! An upstream with endless responses, and clients that keep every kind of connection open and report its end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use test_support::browser::{Browser, SESSION};

/// Longest wait for an expected event.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Interval between two chunks.
const SEND_INTERVAL: Duration = Duration::from_millis(20);

/// Time without progress after which a response counts as stalled.
const STALLED_AFTER: Duration = Duration::from_millis(250);

type Stream = UnsyncBoxBody<Bytes, Infallible>;

/// Observed events: `PATH` for the start of a body and `gone PATH` for the end of an exchange.
type Observed = watch::Sender<BTreeSet<String>>;

/// The upstream. `/ws` echoes, `/poll` never responds, `/short` ends with trailers, `/small` has a length, and all
/// other paths send and receive without end.
pub struct StreamingUpstream {
    pub http1: SocketAddr,
    pub http2: SocketAddr,
    pub websocket: SocketAddr,
    seen: Observed,
    tasks: Vec<JoinHandle<()>>,
}

impl StreamingUpstream {
    pub async fn start() -> StreamingUpstream {
        let seen = Observed::default();
        let listeners = [listener().await, listener().await, listener().await];
        let [http1, http2, websocket] =
            listeners.each_ref().map(|listener| listener.local_addr().expect("an address"));
        let [one, two, three] = listeners;
        let tasks = vec![
            tokio::spawn(serve(one, seen.clone(), false)),
            tokio::spawn(serve(two, seen.clone(), true)),
            tokio::spawn(echo_all(three)),
        ];
        StreamingUpstream { http1, http2, websocket, seen, tasks }
    }

    /// Returns routes of host `app.test` to the three listeners.
    pub fn routes(&self, more: &str) -> String {
        let route = |path: &str, scheme: &str, address: SocketAddr| {
            format!(
                "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"{scheme}://{address}\"\naccess = \"session\"\n{more}\n"
            )
        };
        [
            route("/", "http", self.http1),
            route("/h2", "h2c", self.http2),
            route("/ws", "http", self.websocket),
        ]
        .concat()
    }

    /// Waits for an observed event: the start of an exchange, its end with `gone PATH`, or a full buffer with
    /// `stalled PATH`.
    pub async fn wait_until_seen(&self, what: &str) {
        let mut seen = self.seen.subscribe();
        let saw = seen.wait_for(|seen| seen.contains(what));
        let saw = timeout(TIMEOUT, saw).await;
        assert!(saw.is_ok_and(|saw| saw.is_ok()), "the upstream never saw {what}");
    }
}

impl Drop for StreamingUpstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

async fn serve(listener: TcpListener, seen: Observed, http2: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let seen = seen.clone();
        let service = hyper::service::service_fn(move |request| respond(request, seen.clone()));
        let io = TokioIo::new(stream);
        tokio::spawn(async move {
            // Connections are expected to end with errors.
            let _ = match http2 {
                true => {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(io, service).await
                }
                false => {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(io, service).await
                }
            };
        });
    }
}

/// Records the end of an exchange when dropped.
struct EndRecorder {
    seen: Observed,
    path: String,
}

impl EndRecorder {
    fn record(&self, event: &str) {
        let what = format!("{event} {}", self.path);
        self.seen.send_modify(|seen| _ = seen.insert(what));
    }
}

impl Drop for EndRecorder {
    fn drop(&mut self) {
        self.record("gone");
    }
}

async fn respond(
    request: Request<Incoming>,
    seen: Observed,
) -> Result<Response<Stream>, Infallible> {
    let path = request.uri().path().to_owned();
    let gone = EndRecorder { seen: seen.clone(), path: path.clone() };
    let note = move || seen.send_modify(|seen| _ = seen.insert(path.clone()));
    let path = gone.path.clone();
    let mut body = request.into_body();
    if path.ends_with("small") {
        return Ok(Response::new(Full::from("small").boxed_unsync()));
    }
    if path.ends_with("poll") {
        note();
        std::future::pending::<()>().await;
    }
    if path.ends_with("upload") {
        while let Some(Ok(_)) = body.frame().await {
            note();
        }
        drop(gone);
        return Ok(Response::new(Empty::new().boxed_unsync()));
    }
    if path.ends_with("short") {
        let trailers =
            HeaderMap::from_iter([("grpc-status", "0")].map(|(name, value)| {
                (name.parse().expect("a name"), value.parse().expect("a value"))
            }));
        let frames = [Frame::data(Bytes::from_static(b"all of it")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
        return Ok(Response::new(body.boxed_unsync()));
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let (chunk, interval) = match path.ends_with("flood") {
        true => (Bytes::from_static(&[b'x'; 64 * 1024]), Duration::ZERO),
        false => (Bytes::from_static(b"data: on\n\n"), SEND_INTERVAL),
    };
    // The request body is read concurrently.
    tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
    tokio::spawn(async move {
        loop {
            match timeout(STALLED_AFTER, sender.send(chunk.clone())).await {
                Ok(Ok(())) => note(),
                Ok(Err(_)) => break,
                Err(_) => gone.record("stalled"),
            }
            tokio::time::sleep(interval).await;
        }
        drop(gone);
    });
    let mut response = Response::new(endless_body(receiver));
    if path.ends_with("download") {
        let length = (1_u64 << 30).to_string();
        response.headers_mut().insert("content-length", length.parse().expect("a value"));
    }
    Ok(response)
}

fn endless_body(receiver: mpsc::Receiver<Bytes>) -> Stream {
    let frames = futures_util::stream::unfold(receiver, async |mut receiver| {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    StreamBody::new(Box::pin(frames)).boxed_unsync()
}

async fn echo_all(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() || socket.send(message).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A connection that a client keeps open.
pub struct OpenConnection {
    pub kind: &'static str,
    pub path: String,
    end: JoinHandle<(Instant, String)>,
}

impl OpenConnection {
    /// Waits for the end; returns its time and kind: `close CODE`, a status, `broken` or `whole`.
    pub async fn wait_until_closed(self) -> (Instant, String) {
        let end = timeout(TIMEOUT, self.end).await;
        let end = end.unwrap_or_else(|_| panic!("{} is still open after {TIMEOUT:?}", self.kind));
        end.expect("no panic")
    }

    pub fn is_open(&self) -> bool {
        !self.end.is_finished()
    }
}

/// Opens one connection of every kind for the session of `browser` and waits until data flows on all of them.
pub async fn open_all(
    browser: &Browser,
    streams: &StreamingUpstream,
    tag: &str,
) -> Vec<OpenConnection> {
    let held = vec![
        open_websocket(browser, format!("/ws/{tag}")).await,
        open_response(browser, "event stream", format!("/{tag}/events")).await,
        open_response(browser, "download", format!("/{tag}/download")).await,
        open_response(browser, "wait for news", format!("/{tag}/poll")).await,
        open_upload(browser, "upload", format!("/{tag}/upload")).await,
        open_response(&browser.clone().over_h2(), "h2 stream", format!("/h2/{tag}/events")).await,
        open_response(&browser.clone().over_h2(), "h2 download", format!("/{tag}/2/download"))
            .await,
        open_upload(&browser.clone().over_h2(), "h2 upload", format!("/h2/{tag}/upload")).await,
        open_upload(&browser.clone().over_h2(), "gRPC", format!("/h2/{tag}/call")).await,
    ];
    for held in held.iter().filter(|held| held.kind != "WebSocket") {
        streams.wait_until_seen(&held.path).await;
    }
    held
}

/// Opens a WebSocket that sends messages continuously.
pub async fn open_websocket(browser: &Browser, path: String) -> OpenConnection {
    let uri = format!("wss://{}{path}", browser.host);
    let mut request = uri.into_client_request().expect("a request");
    let cookie = format!("{SESSION}={}", browser.token());
    request.headers_mut().insert("cookie", cookie.parse().expect("a value"));
    let (mut socket, _) = client_async(request, browser.connect().await).await.expect("a tunnel");
    socket.send(Message::text("on")).await.expect("sent");
    socket.next().await.expect("open").expect("a message");
    let end = tokio::spawn(async move {
        loop {
            match timeout(SEND_INTERVAL, socket.next()).await {
                Err(_) => drop(socket.send(Message::text("on")).await),
                Ok(Some(Ok(Message::Close(frame)))) => {
                    let code = frame.map_or(0, |frame| u16::from(frame.code));
                    return (Instant::now(), format!("close {code}"));
                }
                Ok(Some(Ok(_))) => {}
                Ok(other) => return (Instant::now(), format!("broken: {other:?}")),
            }
        }
    });
    OpenConnection { kind: "WebSocket", path, end }
}

/// Sends a GET with an endless or missing response.
pub async fn open_response(browser: &Browser, kind: &'static str, path: String) -> OpenConnection {
    open(browser, kind, path, Empty::new().boxed_unsync()).await
}

/// Sends a POST with an endless body.
pub async fn open_upload(browser: &Browser, kind: &'static str, path: String) -> OpenConnection {
    let frames = futures_util::stream::unfold((), async |()| {
        tokio::time::sleep(SEND_INTERVAL).await;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"more"))), ()))
    });
    open(browser, kind, path, StreamBody::new(Box::pin(frames)).boxed_unsync()).await
}

async fn open(browser: &Browser, kind: &'static str, path: String, body: Stream) -> OpenConnection {
    let request = request(browser, &path, body);
    let response = send(browser, request).await;
    let end = tokio::spawn(async move {
        let end = match response.await.expect("no panic") {
            Err(_) => "broken".to_owned(),
            Ok(response) if response.status() != StatusCode::OK => {
                response.status().as_str().to_owned()
            }
            Ok(response) => read_to_end(response.into_body()).await,
        };
        (Instant::now(), end)
    });
    OpenConnection { kind, path, end }
}

async fn read_to_end(mut body: Incoming) -> String {
    loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return "broken".to_owned(),
            None => return "whole".to_owned(),
        }
    }
}

/// Builds a request with the session cookie for the browser's protocol version.
pub fn request(browser: &Browser, path: &str, body: Stream) -> Request<Stream> {
    let uri = match browser.h2 {
        true => format!("https://{}{path}", browser.host),
        false => path.to_owned(),
    };
    let mut request = Request::builder().uri(uri).method("POST");
    if body.is_end_stream() {
        request = request.method("GET");
    }
    if !browser.h2 {
        request = request.header("host", &browser.host);
    }
    let cookie = format!("{SESSION}={}", browser.token());
    request.header("cookie", cookie).header("te", "trailers").body(body).expect("a request")
}

type ResponseResult = Result<Response<Incoming>, hyper::Error>;

/// Sends a request on a new connection.
pub async fn send(browser: &Browser, request: Request<Stream>) -> JoinHandle<ResponseResult> {
    let tls = TokioIo::new(browser.connect().await);
    if browser.h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await.expect("HTTP/2");
        tokio::spawn(connection);
        return tokio::spawn(async move { sender.send_request(request).await });
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(tls).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    tokio::spawn(async move { sender.send_request(request).await })
}
