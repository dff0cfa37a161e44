//! Redirects plain HTTP to HTTPS. Reads no cookie and contacts no upstream.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::message::Host;
use crate::route::RouteTable;

use super::limits::ServerLimits;
use super::unread_body;

/// Redirects clients of the plain HTTP listeners.
pub struct Redirect {
    pub routes: Arc<RouteTable>,
    pub port: RedirectPort,
}

/// The port of https URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectPort {
    /// `server.public_port`.
    pub public: Option<u16>,
    /// The port of the first HTTPS listener.
    pub https: u16,
    /// Whether a listener redirects from port 80.
    pub has_http_80: bool,
}

const HTTPS: u16 = 443;

impl RedirectPort {
    /// Returns the port for a client that used this port in its URL.
    ///
    /// A client on port 80 that arrives at another port comes through a port mapping, which publishes
    /// https on its own port too.
    fn for_client(self, port: Option<u16>) -> u16 {
        let is_mapped = matches!(port, None | Some(80)) && !self.has_http_80;
        self.public.unwrap_or(if is_mapped { HTTPS } else { self.https })
    }

    /// Browsers store a 308 without an end, so only a port that cannot change gets one.
    fn status(self, port: u16) -> StatusCode {
        match port == HTTPS && self.public.unwrap_or(self.https) == HTTPS {
            true => StatusCode::PERMANENT_REDIRECT,
            false => StatusCode::TEMPORARY_REDIRECT,
        }
    }
}

impl Redirect {
    /// Serves one connection.
    pub(super) async fn run(self: Arc<Self>, stream: TcpStream, limits: &ServerLimits) {
        let has_body = AtomicBool::new(false);
        let service = service_fn(|request| {
            has_body.store(!is_end_stream(&request), Ordering::Relaxed);
            std::future::ready(Ok::<_, Infallible>(self.respond(&request)))
        });
        let mut served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.configured.header_timeout)
            .max_headers(limits.configured.headers)
            .max_header_size(limits.configured.header_bytes)
            // Enough for the longest head; bodies are not read.
            .max_buf_size(limits.configured.header_bytes)
            .serve_connection(TokioIo::new(stream), service);
        let serving = async {
            match poll_fn(|cx| served.poll_without_shutdown(cx)).await {
                Ok(()) if has_body.load(Ordering::Relaxed) => {
                    unread_body::close(served.into_parts().io.into_inner()).await;
                }
                Ok(()) => {}
                Err(error) => debug!(%error, "redirect connection ended"),
            }
        };
        // Limits the whole connection, as one small request and response need no longer.
        timeout(2 * limits.configured.header_timeout, serving).await.unwrap_or_default();
    }

    /// Returns a redirect to the same host and path, or a 400 for an unknown host: the server must not
    /// become an open redirector.
    fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        let host = host
            .and_then(|host| Host::parse(host).ok())
            .filter(|host| self.routes.serves_host(host));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Some(host) = host else { return close_with(StatusCode::BAD_REQUEST) };
        let port = self.port.for_client(host.port());
        let Some(location) = location(&host, port, path) else {
            return close_with(StatusCode::BAD_REQUEST);
        };
        let mut response = close_with(self.port.status(port));
        response.headers_mut().insert(header::LOCATION, location);
        response
    }
}

fn is_end_stream<B: Body>(request: &Request<B>) -> bool {
    request.body().is_end_stream()
}

fn location(host: &Host, port: u16, path: &str) -> Option<HeaderValue> {
    let path = if path.starts_with('/') { path } else { "/" };
    let port = if port == HTTPS { String::new() } else { format!(":{port}") };
    HeaderValue::from_str(&format!("https://{}{port}{path}", host.name())).ok()
}

fn close_with(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_has_a_port_only_where_https_has_another() {
        let port = |public, https, has_http_80| RedirectPort { public, https, has_http_80 };
        let (permanent, temporary) =
            (StatusCode::PERMANENT_REDIRECT, StatusCode::TEMPORARY_REDIRECT);
        for (ports, client, expected) in [
            (port(None, 443, true), None, (443, permanent)),
            // Listeners behind a port mapping 80:8080, 443:8443.
            (port(None, 8443, false), None, (443, temporary)),
            (port(None, 8443, false), Some(80), (443, temporary)),
            (port(Some(443), 8443, false), None, (443, permanent)),
            (port(Some(443), 8443, false), Some(8080), (443, permanent)),
            (port(Some(9443), 8443, false), None, (9443, temporary)),
            // No mapping.
            (port(None, 8443, false), Some(8080), (8443, temporary)),
            (port(None, 8443, true), None, (8443, temporary)),
        ] {
            let to = ports.for_client(client);
            assert_eq!((to, ports.status(to)), expected, "{ports:?} {client:?}");
        }
    }
}
