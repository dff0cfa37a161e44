//! The threads of the demo: an identity provider, and two apps without authentication. One shows the request headers, the other sends the time over a
//! WebSocket. Both listen on loopback ports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::SinkExt;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use super::provider::DemoProvider;
use super::responses::{AppResponse, page};

/// Listen addresses of the apps and of the identity provider.
pub(super) struct Apps {
    pub(super) headers: SocketAddr,
    pub(super) clock: SocketAddr,
    pub(super) provider: SocketAddr,
}

/// Starts them on one thread that ends with the process.
pub(super) fn start() -> anyhow::Result<Apps> {
    let headers = std::net::TcpListener::bind("127.0.0.1:0")?;
    let clock = std::net::TcpListener::bind("127.0.0.1:0")?;
    let login = std::net::TcpListener::bind("127.0.0.1:0")?;
    let apps = Apps {
        headers: headers.local_addr()?,
        clock: clock.local_addr()?,
        provider: login.local_addr()?,
    };
    let provider = DemoProvider::new(format!("http://{}", apps.provider))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo apps".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::join!(
                serve(headers, show_headers),
                serve(clock, clock_page),
                provider.serve(login)
            );
        });
    })?;
    Ok(apps)
}

async fn serve(listener: std::net::TcpListener, app: fn(Request<Incoming>) -> AppResponse) {
    listener.set_nonblocking(true).unwrap_or_default();
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(move |request| async move { Ok::<_, Infallible>(app(request)) });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection.with_upgrades());
    }
}

/// Returns a page with the request headers.
fn show_headers(request: Request<Incoming>) -> AppResponse {
    let rows: String = request
        .headers()
        .iter()
        .map(|(name, value)| {
            let value = escape(&String::from_utf8_lossy(value.as_bytes()));
            let mark =
                if name.as_str().starts_with("x-forwarded-") { " class=\"ours\"" } else { "" };
            format!("<tr{mark}><th>{name}</th><td>{value}</td></tr>")
        })
        .collect();
    let user =
        request.headers().get("x-forwarded-user").map_or(&b"nobody"[..], HeaderValue::as_bytes);
    let user = escape(&String::from_utf8_lossy(user));
    let path = escape(request.uri().path());
    page(HEADERS_PAGE.replace("{user}", &user).replace("{path}", &path).replace("{rows}", &rows))
}

/// Returns the clock page, or accepts its WebSocket.
fn clock_page(request: Request<Incoming>) -> AppResponse {
    let user =
        request.headers().get("x-forwarded-user").map_or(&b"nobody"[..], HeaderValue::as_bytes);
    let user = String::from_utf8_lossy(user).into_owned();
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return page(CLOCK_PAGE.replace("{user}", &escape(&user)));
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(tick(request, user));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Sends the time every second until the connection closes.
async fn tick(request: Request<Incoming>, user: String) {
    let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let time = jiff::Timestamp::now().strftime("%H:%M:%S UTC").to_string();
        if socket.send(Message::text(format!("{user}, it is {time}"))).await.is_err() {
            return;
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEADERS_PAGE: &str = include_str!("headers.html");
const CLOCK_PAGE: &str = include_str!("clock.html");
