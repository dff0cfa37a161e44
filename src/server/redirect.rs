//! Port 80: a redirect to HTTPS and nothing else. No cookie is read, no upstream asked.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::message::Host;
use crate::route::RouteTable;

use super::Limits;

/// Where to send a client that came in the clear.
pub struct Redirect {
    pub routes: Arc<RouteTable>,
    /// The port of the first HTTPS listener.
    pub port: u16,
}

impl Redirect {
    /// Answers one connection.
    pub(super) async fn run(self: Arc<Self>, stream: TcpStream, limits: &Limits) {
        let service = service_fn(|request| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.allowed.header_timeout)
            .max_headers(limits.allowed.headers)
            .max_header_size(limits.allowed.header_bytes)
            // More is not asked for: no head is longer, and a body is not read.
            .max_buf_size(limits.allowed.header_bytes)
            .serve_connection(TokioIo::new(stream), service);
        // One head and a few bytes: whoever takes longer to read them than to send them waits for
        // something else.
        if let Ok(Err(error)) = timeout(2 * limits.allowed.header_timeout, served).await {
            debug!(%error, "redirect connection ended");
        }
    }

    /// 308 to the same host and path, or 400 for a host that no route serves: the gateway is no open
    /// redirector.
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        let host =
            host.and_then(|host| Host::parse(host).ok()).filter(|host| self.routes.knows(host));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Some(location) = host.and_then(|host| self.location(&host, path)) else {
            return closing(StatusCode::BAD_REQUEST);
        };
        let mut response = closing(StatusCode::PERMANENT_REDIRECT);
        response.headers_mut().insert(header::LOCATION, location);
        response
    }

    fn location(&self, host: &Host, path: &str) -> Option<HeaderValue> {
        let path = if path.starts_with('/') { path } else { "/" };
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        HeaderValue::from_str(&format!("https://{}{port}{path}", host.name())).ok()
    }
}

fn closing(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
