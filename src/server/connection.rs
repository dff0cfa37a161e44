//! One client connection: TLS handshake, then HTTP/1.1 or HTTP/2 by ALPN.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::UPGRADE;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::io::InspectWriter;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::connections::{ClientStream, ClientUpgrade};
use crate::proxy::{ConnectionInfo, ProgressTimeout};
use crate::telemetry::{GaugeGuard, Limit, Metrics};
use crate::tls::HandshakeAcceptor;

use super::client_certificate;
use super::connection_activity::{
    ConnectionActivity, ConnectionTimeouts, DisconnectReason, OpenUpload,
};
use super::connection_limiter::{ConnectionPermit, UpgradePermit};
use super::guarded_io::{GuardedIo, Protocol};
use super::h2_executor::{H2Executor, StreamLimits};
use super::h2_refusals::RefusalScanner;
use super::in_flight::{InFlightRequest, TrackedBody};
use super::limits::ServerLimits;
use super::refusal::RefusalIo;
use super::scheduling::{HandshakeGate, run_exclusive};
use super::snapshot::CurrentSnapshot;
use super::unread_body::{self, BoxError, OnUnread, discard};

/// Concurrent streams of one connection (RFC 9113 6.5.2 recommends at least 100).
const MAX_STREAMS: u32 = 100;
/// HTTP/2 flow control windows in bytes, per stream and per connection. Data that the upstream has not read
/// yet occupies our memory.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Bytes buffered for the client per stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams reset because of client errors before the connection closes (CVE-2025-8671). Streams beyond
/// [`MAX_STREAMS`] opened before our SETTINGS frame arrives count too, so 20 broke well-behaved clients.
const MAX_LOCAL_RESETS: usize = 100;
/// Minimum size in bytes of the HTTP/1.1 read buffer.
const READ_BUFFER: usize = 64 * 1024;
/// Maximum number of headers that hyper accepts if none is set.
const HYPER_MAX_HEADERS: usize = 100;
/// Time limit for a graceful close of an idle connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the first request of a connection that was accepted just before the drain.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// One accepted connection.
pub(super) struct ClientConnection {
    pub(super) current: CurrentSnapshot,
    pub(super) limits: Arc<ServerLimits>,
    pub(super) stop: CancellationToken,
    pub(super) connection: Arc<ConnectionInfo>,
    pub(super) activity: Arc<ConnectionActivity>,
    pub(super) permit: Arc<ConnectionPermit>,
    /// Serializes the handshakes of this worker.
    pub(super) handshake_gate: HandshakeGate,
}

impl ClientConnection {
    /// Serves until the client closes, a deadline passes, the connection is evicted, or the server drains.
    pub(super) async fn run(mut self, mut stream: TcpStream, acceptor: HandshakeAcceptor) {
        let _open = GaugeGuard::new(&self.metrics().client_connections);
        // Responses are written in one piece; Nagle's algorithm would only delay them.
        stream.set_nodelay(true).unwrap_or_default();
        if self.accept_proxy_header(&mut stream).await
            && let Some(tls) = self.handshake(stream, acceptor.clone()).await
        {
            let session = tls.get_ref().1;
            self.connection.set_server_name(session.server_name());
            if let (Some(name), Some(chain)) = (session.server_name(), session.peer_certificates())
            {
                let name = name.to_ascii_lowercase();
                client_certificate::follow(
                    acceptor.certificates(),
                    name,
                    chain,
                    &self.connection,
                    &self.activity,
                );
            }
            self.serve(tls).await;
        }
    }

    /// Replaces the permit and address of the proxy by those of its client. Returns false to close.
    async fn accept_proxy_header(&mut self, stream: &mut TcpStream) -> bool {
        let client = match self.limits.read_proxy_header(stream).await {
            None => return false,
            Some(None) => return true,
            Some(Some(client)) => client,
        };
        let counted = !self.is_trusted_proxy(client);
        match self.limits.limiter.acquire(client, counted, &self.activity) {
            Ok(permit) => self.permit = Arc::new(permit),
            Err(limit) => {
                self.metrics().limit(limit, Some(client));
                return false;
            }
        }
        self.connection = Arc::new(ConnectionInfo::new(client));
        true
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        acceptor: HandshakeAcceptor,
    ) -> Option<TlsStream<TcpStream>> {
        let peer = self.connection.peer;
        let handshake = run_exclusive(&self.handshake_gate, self.accept_tls(stream, acceptor));
        let accepted = tokio::select! {
            accepted = timeout(self.limits.configured.handshake_timeout, handshake) => accepted,
            () = self.activity.evicted() => return None,
        };
        match accepted {
            Ok(Ok(tls)) => Some(tls),
            Ok(Err(error)) => {
                debug!(%peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                self.metrics().limit(Limit::HandshakeTimeout, Some(peer));
                None
            }
        }
    }

    /// Takes the TLS fingerprint if a route needs it. The handshake of a trusted proxy is not the client's.
    async fn accept_tls(
        &self,
        stream: TcpStream,
        acceptor: HandshakeAcceptor,
    ) -> io::Result<TlsStream<TcpStream>> {
        let peer = self.connection.peer;
        if !self.limits.fingerprints || self.is_trusted_proxy(peer) {
            return acceptor.accept(stream).await;
        }
        let (tls, hello) = acceptor.accept_with_client_hello(stream).await?;
        debug!(%peer, ja4 = hello.ja4(), fingerprint = %hello.fingerprint(), "TLS handshake");
        self.connection.set_fingerprint(hello.fingerprint());
        Ok(tls)
    }

    async fn serve(self, tls: TlsStream<TcpStream>) {
        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(tls).await;
        } else {
            self.http1(tls).await;
        }
    }

    async fn http1(self, tls: TlsStream<TcpStream>) {
        let guarded_io = self.guarded_io(tls, Protocol::Http1);
        let service = service_fn(|request| self.handle_request(request, Protocol::Http1));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // Replaced by our own timeout, which starts with the first byte of a head, not with the wait for it.
            .header_read_timeout(None::<Duration>)
            .max_header_size(self.limits.configured.header_bytes)
            .max_buf_size(READ_BUFFER.max(self.limits.configured.header_bytes));
        // With a number, hyper clears its header table for each request. Its default needs no such work.
        if self.limits.configured.headers != HYPER_MAX_HEADERS {
            builder.max_headers(self.limits.configured.headers);
        }
        let (current, connection) = (Arc::clone(&self.current), Arc::clone(&self.connection));
        let respond = move |head: &[u8]| current.load().proxy.refuse_large_head(&connection, head);
        let io = RefusalIo::new(guarded_io, Arc::clone(&self.activity), respond);
        let served = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
        self.drive(pin!(served), http1::UpgradeableConnection::graceful_shutdown).await;
    }

    async fn http2(self, tls: TlsStream<TcpStream>) {
        let limits = &self.limits.configured;
        let guarded_io = self.guarded_io(tls, Protocol::Http2);
        let service = service_fn(|request| {
            let response = self.handle_request(request, Protocol::Http2);
            async move {
                // A reset may be in the same read. Yielding first avoids all work for such a stream
                // (CVE-2023-44487, CVE-2025-8671).
                tokio::task::yield_now().await;
                response.await
            }
        });
        let mut builder = http2::Builder::new(H2Executor(Arc::new(StreamLimits {
            metrics: self.metrics().clone(),
            peer: self.connection.peer,
            write_timeout: limits.write_timeout,
            min_rate: limits.bodies.min_rate,
        })));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            // The request handler enforces the limit itself, and its response says why.
            .max_header_list_size(u32::try_from(2 * limits.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.idle_timeout)
            .keep_alive_timeout(limits.header_timeout);
        let io = InspectWriter::new(guarded_io, self.refusal_log());
        let served = builder.serve_connection(TokioIo::new(io), service);
        self.drive(pin!(served), http2::Connection::graceful_shutdown).await;
    }

    /// Logs the refusals of the HTTP/2 library, given the bytes that it sends.
    fn refusal_log(&self) -> impl FnMut(&[u8]) + Send + use<> {
        let (current, metrics) = (Arc::clone(&self.current), self.metrics().clone());
        let (peer, activity) = (self.connection.peer, Arc::clone(&self.activity));
        let mut scanner = RefusalScanner::default();
        move |sent| {
            scanner.scan(sent, |status| {
                let is_large = status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                if is_large {
                    metrics.limit(Limit::Headers, Some(peer));
                } else if activity.has_open_upload() {
                    // The reset may concern the body, whose request has its own entry.
                    return;
                }
                let detail =
                    if is_large { "the head is too large" } else { "the head is malformed" };
                current.load().proxy.log_unreadable(peer, Version::HTTP_2, status, detail);
            });
        }
    }

    /// Drives a connection to its end.
    async fn drive<C: Future<Output = Result<(), hyper::Error>>>(
        &self,
        mut served: Pin<&mut C>,
        graceful_shutdown: fn(Pin<&mut C>),
    ) {
        // A connection is polled several times per request. Within the set, its other events are polled only when
        // they have woken the task.
        let mut events = FuturesUnordered::from_iter([self.until_interrupted()]);
        let interruption = tokio::select! {
            // Biased because the first branch is nearly always the ready one.
            biased;
            result = served.as_mut() => return self.log_end(result),
            interruption = events.next() => interruption,
        };
        let Some(Some(reason)) = interruption else {
            if let Some(result) = self.serve_first_request(served.as_mut()).await {
                return self.log_end(result);
            }
            graceful_shutdown(served.as_mut());
            return self.log_end(served.await);
        };
        match reason {
            DisconnectReason::Idle => {
                graceful_shutdown(served.as_mut());
                // An idle client may never complete the close, so the wait is limited.
                timeout(CLOSE_TIMEOUT, served).await.unwrap_or(Ok(())).unwrap_or_default();
            }
            DisconnectReason::HeaderTimeout => {
                self.metrics().limit(Limit::HeaderTimeout, Some(self.connection.peer))
            }
            DisconnectReason::Evicted => {
                self.metrics().limit(Limit::ConnectionEvicted, Some(self.connection.peer))
            }
            DisconnectReason::ResetFlood => {
                self.metrics().limit(Limit::StreamResets, Some(self.connection.peer))
            }
        }
    }

    /// Serves until the first request of the connection has started, at most for [`FIRST_REQUEST_TIMEOUT`]. A client
    /// that connected just before the drain is about to send it. Returns the result if the connection ends.
    async fn serve_first_request<C: Future<Output = Result<(), hyper::Error>>>(
        &self,
        mut served: Pin<&mut C>,
    ) -> Option<C::Output> {
        let started = poll_fn(|context| match served.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if self.activity.requests() > 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        timeout(FIRST_REQUEST_TIMEOUT, started).await.unwrap_or(None)
    }

    /// Waits until the connection must close, or until the stop of the server (`None`).
    async fn until_interrupted(&self) -> Option<DisconnectReason> {
        let timeouts = ConnectionTimeouts {
            header: self.limits.configured.header_timeout,
            idle: self.limits.configured.idle_timeout,
        };
        tokio::select! {
            reason = self.activity.until_disconnect(timeouts) => Some(reason),
            () = self.stop.cancelled() => None,
        }
    }

    /// Boxed because the future takes about 9 KB. hyper moves it up to ten times before the first poll (HTTP/2)
    /// or reserves its size in each idle connection (HTTP/1.1).
    fn handle_request<B>(
        &self,
        mut request: Request<B>,
        protocol: Protocol,
    ) -> Pin<Box<impl Future<Output = Result<Response<TrackedBody>, Infallible>> + Send + use<B>>>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let proxy = Arc::clone(&self.current.load().proxy);
        let in_flight = InFlightRequest::start(&proxy, &self.activity);
        let (connection, permit) = (Arc::clone(&self.connection), Arc::clone(&self.permit));
        let upgrade = self.upgrade(&mut request);
        let request = request.map(|body| unread_body::watch(body, || self.on_unread(protocol)));
        // Allocated first, so that the future is built in place instead of copied.
        let slot = Box::new_uninit();
        let future = Box::write(slot, async move {
            let (response, record) = proxy.handle(request, upgrade, &connection).await;
            if connection.is_authenticated() {
                permit.protect();
            }
            Ok(response.map(|body| in_flight.respond(body, record)))
        });
        Box::into_pin(future)
    }

    /// Takes the client connection of an upgrade request.
    fn upgrade<B>(&self, request: &mut Request<B>) -> Option<Box<ClientUpgrade>> {
        if !request.headers().contains_key(UPGRADE) {
            return None;
        }
        let upgrade = request.extensions_mut().remove::<OnUpgrade>()?;
        let stream = async move {
            let upgraded = upgrade.await.ok()?;
            Some(Box::new(TokioIo::new(upgraded)) as Box<dyn ClientStream>)
        };
        let permit = Box::new(UpgradePermit::new(&self.permit, &self.activity));
        Some(Box::new(ClientUpgrade { stream: Box::pin(stream), permit }))
    }

    /// What happens to the rest of a request body that the response did not wait for.
    fn on_unread<B>(&self, protocol: Protocol) -> OnUnread<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let (activity, connection) = (Arc::clone(&self.activity), Arc::clone(&self.connection));
        match protocol {
            // hyper then closes the connection, and `GuardedIo` discards the rest.
            Protocol::Http1 => Box::new(move |_| activity.leave_unread_body()),
            Protocol::Http2 => {
                // The client may send that much before the first byte is read and counted.
                connection.add_body_bytes(STREAM_WINDOW as usize);
                let upload = OpenUpload::new(&activity);
                Box::new(move |rest| {
                    // Absent only while the runtime shuts down.
                    if let Ok(runtime) = Handle::try_current() {
                        runtime.spawn(async move {
                            discard(rest, connection).await;
                            drop(upload);
                        });
                    }
                })
            }
        }
    }

    fn guarded_io(
        &self,
        tls: TlsStream<TcpStream>,
        protocol: Protocol,
    ) -> GuardedIo<TlsStream<TcpStream>> {
        let limits = &self.limits.configured;
        let progress = ProgressTimeout::new(limits.write_timeout, limits.bodies.min_rate);
        let (activity, connection) = (Arc::clone(&self.activity), Arc::clone(&self.connection));
        GuardedIo::new(tls, protocol, activity, connection, self.metrics().clone(), progress)
    }

    fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        self.current.load().proxy.trusted_proxies.trusts(peer)
    }

    fn metrics(&self) -> &Metrics {
        &self.limits.metrics
    }

    fn log_end(&self, result: Result<(), hyper::Error>) {
        if let Err(error) = result {
            if error.is_parse_too_large() {
                self.metrics().limit(Limit::Headers, Some(self.connection.peer));
            }
            if let Some(status) = self.activity.refusal() {
                self.current.load().proxy.log_unreadable(
                    self.connection.peer,
                    Version::HTTP_11,
                    status,
                    &error.to_string(),
                );
            }
            debug!(peer = %self.connection.peer, %error, "connection ended");
        }
    }
}
