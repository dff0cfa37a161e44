//! One client connection: handshake under a deadline, then HTTP/1.1 or HTTP/2 as ALPN chose.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::gateway::Gateway;

/// What one client may take.
pub struct Limits {
    /// Places for connections, shared by all workers.
    pub connections: Arc<Semaphore>,
    pub handshake_timeout: Duration,
    /// To the end of a request's head; also how long a kept-alive HTTP/1.1 connection may idle.
    pub header_timeout: Duration,
    /// Between HTTP/2 pings that have to be answered.
    pub ping_interval: Duration,
}

/// Largest head that is read, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;
const STREAMS: u32 = 100;

/// One accepted connection.
pub(super) struct Connection {
    pub(super) gateway: Arc<Gateway>,
    pub(super) limits: Arc<Limits>,
    pub(super) stop: CancellationToken,
    pub(super) peer: IpAddr,
}

impl Connection {
    /// Lives until the client goes, a deadline passes, or the server drains.
    pub(super) async fn run(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let connections = self.gateway.guard.shared().metrics.connections.clone();
        connections.inc();
        // Answers are written whole; waiting for more would only delay them.
        stream.set_nodelay(true).unwrap_or_default();
        match timeout(self.limits.handshake_timeout, acceptor.accept(stream)).await {
            Ok(Ok(tls)) => self.speak(tls).await,
            Ok(Err(error)) => debug!(peer = %self.peer, %error, "TLS handshake failed"),
            Err(_) => debug!(peer = %self.peer, "TLS handshake took too long"),
        }
        connections.dec();
    }

    async fn speak(self, tls: TlsStream<TcpStream>) {
        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(tls).await;
        } else {
            self.http1(tls).await;
        }
    }

    async fn http1(self, tls: TlsStream<TcpStream>) {
        let (gateway, peer) = (self.gateway, self.peer);
        let service = service_fn(move |request| {
            let gateway = Arc::clone(&gateway);
            async move { Ok::<_, Infallible>(gateway.handle(request, peer).await) }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(HEAD_LIMIT);
        let mut connection =
            pin!(builder.serve_connection(TokioIo::new(tls), service).with_upgrades());
        tokio::select! {
            result = connection.as_mut() => return ended(peer, result),
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        ended(peer, connection.await);
    }

    async fn http2(self, tls: TlsStream<TcpStream>) {
        let (gateway, peer) = (self.gateway, self.peer);
        let service = service_fn(move |request| {
            let gateway = Arc::clone(&gateway);
            async move { Ok::<_, Infallible>(gateway.handle(request, peer).await) }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(32 * 1024)
            .keep_alive_interval(self.limits.ping_interval)
            .keep_alive_timeout(self.limits.header_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(tls), service));
        tokio::select! {
            result = connection.as_mut() => return ended(peer, result),
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        ended(peer, connection.await);
    }
}

fn ended(peer: IpAddr, result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        debug!(%peer, %error, "connection ended");
    }
}
