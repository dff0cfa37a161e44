//! The app behind the gateways: writes down who asked for what, and answers with it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::history::{Event, Recorder};

/// By which a client marks its request, and finds the answer to be its own.
pub const MARK: &str = "x-chaos-request";

/// Where the app speaks for as long as somebody listens.
pub const STREAM: &str = "/stream";
const TICK: Duration = Duration::from_millis(150);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The app. Dropping it closes everything.
pub struct App {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl App {
    pub async fn start(recorder: Recorder) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        App { address, task: tokio::spawn(accept(listener, recorder)) }
    }
}

impl Drop for App {
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
        let answer = match request.uri().path() {
            STREAM => speak(request.headers(), recorder.clone()),
            _ => answer(request.headers(), &recorder),
        };
        async move { Ok::<_, Infallible>(answer) }
    });
    // A gateway that is killed leaves in the middle of things.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Lines that say when they were written, and for whom.
fn speak(headers: &HeaderMap, recorder: Recorder) -> Response<Body> {
    let user = text(headers, "x-forwarded-user").to_owned();
    let lines = futures_util::stream::unfold((recorder, user), |(recorder, user)| async {
        tokio::time::sleep(TICK).await;
        let line = Bytes::from(format!("{} {user}\n", recorder.now()));
        Some((Ok(Frame::data(line)), (recorder, user)))
    });
    let mut answer = Response::new(StreamBody::new(lines).boxed_unsync());
    let kind = HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert("content-type", kind);
    answer
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn answer(headers: &HeaderMap, recorder: &Recorder) -> Response<Body> {
    let (mark, user) = (text(headers, MARK), text(headers, "x-forwarded-user"));
    if let Ok(request) = mark.parse() {
        recorder.add(Event::Reached { request, user: user.to_owned(), at: recorder.now() });
    }
    Response::new(Full::from(format!("{mark} {user}")).boxed_unsync())
}
