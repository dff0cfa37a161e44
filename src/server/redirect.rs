//! Redirects plain HTTP to HTTPS. Reads no cookie and contacts no upstream.

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

use super::ServerLimits;

/// Redirects clients of the plain HTTP listeners.
pub struct Redirect {
    pub routes: Arc<RouteTable>,
    /// The port of the first HTTPS listener.
    pub port: u16,
}

impl Redirect {
    /// Serves one connection.
    pub(super) async fn run(self: Arc<Self>, stream: TcpStream, limits: &ServerLimits) {
        let service = service_fn(|request| {
            let response = self.respond(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.configured.header_timeout)
            .max_headers(limits.configured.headers)
            .max_header_size(limits.configured.header_bytes)
            // Enough for the longest head; bodies are not read.
            .max_buf_size(limits.configured.header_bytes)
            .serve_connection(TokioIo::new(stream), service);
        // Limits the whole connection, as one small request and response need no longer.
        if let Ok(Err(error)) = timeout(2 * limits.configured.header_timeout, served).await {
            debug!(%error, "redirect connection ended");
        }
    }

    /// Returns a 308 to the same host and path, or a 400 for an unknown host: the server must not become an
    /// open redirector.
    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        let host = host
            .and_then(|host| Host::parse(host).ok())
            .filter(|host| self.routes.serves_host(host));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Some(location) = host.and_then(|host| self.location(&host, path)) else {
            return close_with(StatusCode::BAD_REQUEST);
        };
        let mut response = close_with(StatusCode::PERMANENT_REDIRECT);
        response.headers_mut().insert(header::LOCATION, location);
        response
    }

    fn location(&self, host: &Host, path: &str) -> Option<HeaderValue> {
        let path = if path.starts_with('/') { path } else { "/" };
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        HeaderValue::from_str(&format!("https://{}{port}{path}", host.name())).ok()
    }
}

fn close_with(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
