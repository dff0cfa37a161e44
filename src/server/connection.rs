//! One client connection: handshake under a deadline, then HTTP/1.1 or HTTP/2 as ALPN chose.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config;
use crate::proxy::{Caller, Gateway, Pace};
use crate::telemetry::{Counted, Limit, Metrics};
use crate::tls::Acceptor;

use super::fair::{Turns, one_by_one};
use super::introduced;
use super::places::{Place, Places, Seated};
use super::pulse::{End, Patience, Pulse};
use super::streams::{StreamLimits, Streams};
use super::turn::{Answered, Turn};
use super::wire::{Speech, Wire};

/// What clients may take.
pub struct Limits {
    pub allowed: config::Limits,
    /// Whether connections begin with a proxy's word about the client.
    pub proxy_protocol: bool,
    /// Whether some route wants to know how clients shake hands.
    pub fingerprints: bool,
    /// Shared by all workers.
    pub places: Arc<Places>,
}

/// Requests at once on one connection (RFC 9113 6.5.2 recommends no fewer).
const STREAMS: u32 = 100;
/// What a client may send ahead of us, for one stream and for all of its connection: what an app has
/// not taken yet lies in our memory.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 1024 * 1024;
/// What lies ready for a client on one stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that the client's own mistakes made us reset (CVE-2025-8671). Streams beyond [`STREAMS`] that are
/// opened before our settings arrive count too: with twenty, such a client lost those that were answered.
const MISTAKES: usize = 100;
/// The least that HTTP/1.1 reads at a time.
const READ_BUFFER: usize = 64 * 1024;
/// How long a client may take to hear that its connection is over.
const GOODBYE: Duration = Duration::from_secs(5);

/// One accepted connection.
pub(super) struct Connection {
    pub(super) gateway: Arc<Gateway>,
    pub(super) limits: Arc<Limits>,
    pub(super) stop: CancellationToken,
    pub(super) caller: Arc<Caller>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) place: Arc<Place>,
    /// Of the handshakes of this worker.
    pub(super) turns: Turns,
}

impl Connection {
    /// Lives until the client goes, a deadline passes, its place is needed, or the server drains.
    pub(super) async fn run(mut self, mut stream: TcpStream, acceptor: Acceptor) {
        let _open = Counted::one_of(&self.metrics().connections);
        // Answers are written whole; waiting for more would only delay them.
        stream.set_nodelay(true).unwrap_or_default();
        if self.is_introduced(&mut stream).await
            && let Some(tls) = self.handshake(stream, acceptor).await
        {
            self.caller.asks_for(tls.get_ref().1.server_name());
            self.speak(tls).await;
        }
    }

    /// A proxy's client takes the proxy's place: it is the one who is counted and told apart.
    async fn is_introduced(&mut self, stream: &mut TcpStream) -> bool {
        let client = match introduced(&self.limits, stream).await {
            None => return false,
            Some(None) => return true,
            Some(Some(client)) => client,
        };
        let counted = !self.gateway.trusted.trusts(client);
        match self.limits.places.admit(client, counted, &self.pulse) {
            Ok(place) => self.place = Arc::new(place),
            Err(limit) => {
                self.metrics().limit(limit, Some(client));
                return false;
            }
        }
        self.caller = Arc::new(Caller::new(client));
        true
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        acceptor: Acceptor,
    ) -> Option<TlsStream<TcpStream>> {
        let peer = self.caller.peer;
        let shaking = one_by_one(&self.turns, self.accept(stream, acceptor));
        let accepted = tokio::select! {
            accepted = timeout(self.limits.allowed.handshake_timeout, shaking) => accepted,
            () = self.pulse.displaced() => return None,
        };
        match accepted {
            Ok(Ok(tls)) => Some(tls),
            Ok(Err(error)) => {
                debug!(%peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                self.metrics().limit(Limit::Handshake, Some(peer));
                None
            }
        }
    }

    /// A proxy's handshake says nothing of the client behind it.
    async fn accept(
        &self,
        stream: TcpStream,
        acceptor: Acceptor,
    ) -> io::Result<TlsStream<TcpStream>> {
        let peer = self.caller.peer;
        if !self.limits.fingerprints || self.gateway.trusted.trusts(peer) {
            return acceptor.accept(stream).await;
        }
        let (tls, hello) = acceptor.listen(stream).await?;
        debug!(%peer, ja4 = hello.ja4(), fingerprint = %hello.fingerprint(), "TLS handshake");
        self.caller.shook_hands(hello.fingerprint());
        Ok(tls)
    }

    async fn speak(self, tls: TlsStream<TcpStream>) {
        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(tls).await;
        } else {
            self.http1(tls).await;
        }
    }

    async fn http1(self, tls: TlsStream<TcpStream>) {
        let wire = self.wire(tls, Speech::Http1);
        let service = service_fn(|request| self.answer(request));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // Ours begins with a head's first byte; this one would with the wait for it.
            .header_read_timeout(None::<Duration>)
            .max_headers(self.limits.allowed.headers)
            .max_header_size(self.limits.allowed.header_bytes)
            .max_buf_size(READ_BUFFER.max(self.limits.allowed.header_bytes));
        let served = builder.serve_connection(TokioIo::new(wire), service).with_upgrades();
        self.live(pin!(served), http1::UpgradeableConnection::graceful_shutdown).await;
    }

    async fn http2(self, tls: TlsStream<TcpStream>) {
        let allowed = &self.limits.allowed;
        let wire = self.wire(tls, Speech::Http2);
        let service = service_fn(|request| {
            let answer = self.answer(request);
            async move {
                // Frames that came along may reset the stream already: then nothing is done for it
                // (CVE-2023-44487, CVE-2025-8671), no look-up and no connection to an app.
                tokio::task::yield_now().await;
                answer.await
            }
        });
        let mut builder = http2::Builder::new(Streams(Arc::new(StreamLimits {
            metrics: self.metrics().clone(),
            peer: self.caller.peer,
            write_timeout: allowed.write_timeout,
            min_rate: allowed.bodies.min_rate,
        })));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_local_error_reset_streams(MISTAKES)
            .max_header_list_size(u32::try_from(allowed.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(allowed.idle_timeout)
            .keep_alive_timeout(allowed.header_timeout);
        let served = builder.serve_connection(TokioIo::new(wire), service);
        self.live(pin!(served), http2::Connection::graceful_shutdown).await;
    }

    /// Drives a connection; `bow` is how its protocol says goodbye.
    async fn live<C: Future<Output = Result<(), hyper::Error>>>(
        &self,
        mut served: Pin<&mut C>,
        bow: fn(Pin<&mut C>),
    ) {
        let patience = Patience {
            header: self.limits.allowed.header_timeout,
            idle: self.limits.allowed.idle_timeout,
        };
        let end = tokio::select! {
            // Almost always it is the first that has something to do.
            biased;
            result = served.as_mut() => return self.ended(result),
            end = self.pulse.watch(patience) => end,
            () = self.stop.cancelled() => {
                bow(served.as_mut());
                return self.ended(served.await);
            }
        };
        match end {
            End::Idle => {
                bow(served.as_mut());
                // One that says nothing more has no claim to be waited for.
                timeout(GOODBYE, served).await.unwrap_or(Ok(())).unwrap_or_default();
            }
            End::HeaderLate => self.metrics().limit(Limit::Header, Some(self.caller.peer)),
            End::Displaced => self.metrics().limit(Limit::Displaced, Some(self.caller.peer)),
            End::Resets => self.metrics().limit(Limit::Resets, Some(self.caller.peer)),
        }
    }

    /// Boxed: a request's future is some 9 KB, and the library moves what it is given up to ten times before
    /// it first asks it (HTTP/2), or keeps room for it with each idle connection (HTTP/1.1).
    fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> Pin<Box<impl Future<Output = Result<Response<Answered>, Infallible>> + Send + use<>>> {
        let turn = Turn::begin(&self.gateway, &self.pulse);
        let (gateway, caller) = (Arc::clone(&self.gateway), Arc::clone(&self.caller));
        let place = Arc::clone(&self.place);
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(Seated::of(&place, &self.pulse));
        }
        // Before there is a future, or all of it is made elsewhere and copied here.
        let room = Box::new_uninit();
        let answer = Box::write(room, async move {
            let response = gateway.handle(request, &caller).await;
            if caller.is_known() {
                place.keep();
            }
            Ok(response.map(|body| turn.answered(body)))
        });
        Box::into_pin(answer)
    }

    fn wire(&self, tls: TlsStream<TcpStream>, speech: Speech) -> Wire<TlsStream<TcpStream>> {
        let allowed = &self.limits.allowed;
        let pace = Pace::new(allowed.write_timeout, allowed.bodies.min_rate);
        let (pulse, caller) = (Arc::clone(&self.pulse), Arc::clone(&self.caller));
        Wire::new(tls, speech, pulse, caller, self.metrics().clone(), pace)
    }

    fn metrics(&self) -> &Metrics {
        &self.gateway.guard.shared().metrics
    }

    fn ended(&self, result: Result<(), hyper::Error>) {
        if let Err(error) = result {
            if error.is_parse_too_large() {
                self.metrics().limit(Limit::Headers, Some(self.caller.peer));
            }
            debug!(peer = %self.caller.peer, %error, "connection ended");
        }
    }
}
