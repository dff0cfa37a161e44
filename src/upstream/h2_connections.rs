//! HTTP/2 connections, each shared by as many exchanges as both sides allow.
//!
//! Invariants:
//! - An exchange has a stream before it begins and never queues inside hyper for one. If a
//!   connection has no stream left, another connection is opened.
//! - A connection's window covers the windows of all its streams: a client that does not read its
//!   response does not block other streams.
//! - Authenticated and anonymous requests use different connections. An upstream that leaves a
//!   request body unread blocks all uploads on that connection, and no window setting of the
//!   gateway changes that.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::UpstreamError;
use super::permit::StreamSlot;
use super::request_body::{OutgoingBody, RequestBody};
use super::settings::{HeadLimits, Priority};

/// Maximum number of concurrent streams per connection; upstreams usually allow 100 to 250.
const MAX_STREAMS: u32 = 100;
/// Window of one stream in bytes: the amount that an upstream may send ahead of a slow client.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

pub(super) type Sender<B> = http2::SendRequest<OutgoingBody<B>>;

/// An established connection.
pub(super) struct Http2Connection<B: RequestBody> {
    sender: Sender<B>,
    stream_limit: StreamLimit,
    /// Address of the upstream.
    pub(super) peer: Option<SocketAddr>,
}

/// Returns the number of concurrent streams that the upstream allows; zero once the connection has
/// closed.
type StreamLimit = Arc<dyn Fn() -> usize + Send + Sync>;

/// The HTTP/2 connections to one endpoint, oldest first. Younger ones get only the overflow and so
/// become idle as soon as possible.
pub(super) struct Http2Connections<B: RequestBody> {
    connections: Vec<PooledConnection<B>>,
}

struct PooledConnection<B: RequestBody> {
    connection: Http2Connection<B>,
    priority: Priority,
    /// Number of streams in use.
    active_streams: Arc<AtomicUsize>,
    last_used: Instant,
}

/// A stream of one connection; dropping it frees the slot.
pub(super) struct Http2Stream<B: RequestBody> {
    pub(super) sender: Sender<B>,
    pub(super) slot: Arc<StreamSlot>,
}

impl<B: RequestBody> Http2Connection<B> {
    /// Completes once the upstream has announced its stream limit. A request beyond that limit
    /// would be refused or would wait for others.
    pub(super) async fn open<T>(
        stream: T,
        limits: HeadLimits,
    ) -> Result<Http2Connection<B>, UpstreamError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Arc::new(Notify::new());
        let runner = NotifyingExecutor(Arc::downgrade(&activity));
        let (sender, connection) = http2::Builder::new(runner.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(0)
            .max_header_list_size(u32::try_from(limits.bytes).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| UpstreamError::from(&error))?;
        let connection = Arc::new(Mutex::new(connection));
        let weak = Arc::downgrade(&connection);
        let stream_limit: StreamLimit = Arc::new(move || {
            weak.upgrade().map_or(0, |connection| connection.lock().current_max_send_streams())
        });
        // The caller that awaits a response receives the connection's error. An idle connection has
        // no caller.
        runner.execute(poll_fn(move |cx| Pin::new(&mut *connection.lock()).poll(cx)));
        while stream_limit() == 0 && !sender.is_closed() {
            activity.notified().await;
        }
        Ok(Http2Connection { sender, stream_limit, peer: None })
    }

    /// Converts the connection into its only stream; it closes after that.
    pub(super) fn into_stream(self) -> Http2Stream<B> {
        let slot = Arc::new(StreamSlot::new(&Arc::default()));
        Http2Stream { sender: self.sender, slot }
    }
}

/// Spawns hyper's tasks and notifies the waiting opener after each poll.
#[derive(Clone)]
struct NotifyingExecutor(Weak<Notify>);

impl<F: Future + Send + 'static> Executor<F> for NotifyingExecutor {
    fn execute(&self, future: F) {
        let activity = self.0.clone();
        let notify = move || activity.upgrade().inspect(|activity| activity.notify_one());
        tokio::spawn(async move {
            notify_on_each_poll(future, &notify).await;
            // Notified again after the future and its contents are dropped.
            notify();
        });
    }
}

async fn notify_on_each_poll<R>(future: impl Future, notify: impl Fn() -> R) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        notify();
        polled.map(drop)
    })
    .await;
}

impl<B: RequestBody> Http2Connections<B> {
    pub(super) fn new() -> Http2Connections<B> {
        Http2Connections { connections: Vec::new() }
    }

    /// Opens a stream on an existing connection that has capacity.
    pub(super) fn open_stream(&mut self, priority: Priority) -> Option<Http2Stream<B>> {
        self.connections.retain(|entry| !entry.connection.sender.is_closed());
        let mut candidates = self.connections.iter_mut().filter(|entry| entry.priority == priority);
        candidates.find(|entry| entry.has_capacity()).map(PooledConnection::open_stream)
    }

    /// Adds a connection and opens its first stream, whatever the stream limit. If the connection
    /// has already closed, the exchange receives the error.
    pub(super) fn add(
        &mut self,
        connection: Http2Connection<B>,
        priority: Priority,
    ) -> Http2Stream<B> {
        let active_streams = Arc::default();
        let mut entry =
            PooledConnection { connection, priority, active_streams, last_used: Instant::now() };
        let stream = entry.open_stream();
        self.connections.push(entry);
        stream
    }

    /// Removes the connection of this stream from the pool.
    pub(super) fn remove(&mut self, slot: &StreamSlot) {
        self.connections.retain(|entry| !slot.is_counted_in(&entry.active_streams));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Removes the connections to these addresses; their current streams continue.
    pub(super) fn remove_peers(&mut self, is_removed: impl Fn(Option<SocketAddr>) -> bool) {
        self.connections.retain(|entry| !is_removed(entry.connection.peer));
    }

    /// Closes connections idle for at least `after`, except the oldest of each priority.
    pub(super) fn close_idle(&mut self, after: Duration) {
        let mut kept = KeptPriorities::default();
        self.connections.retain(|entry| {
            kept.is_first(entry.priority) || !entry.is_idle() || entry.last_used.elapsed() < after
        });
    }

    /// Whether any connection can be closed for being idle.
    pub(super) fn has_closable(&self) -> bool {
        let mut kept = KeptPriorities::default();
        !self.connections.iter().all(|entry| kept.is_first(entry.priority))
    }
}

/// The priorities of which one connection was already kept.
#[derive(Default)]
struct KeptPriorities {
    authenticated: bool,
    anonymous: bool,
}

impl KeptPriorities {
    fn is_first(&mut self, priority: Priority) -> bool {
        let seen = match priority {
            Priority::Authenticated => &mut self.authenticated,
            Priority::Anonymous => &mut self.anonymous,
        };
        !std::mem::replace(seen, true)
    }
}

impl<B: RequestBody> PooledConnection<B> {
    fn has_capacity(&self) -> bool {
        let max = (self.connection.stream_limit)().min(MAX_STREAMS as usize);
        self.active_streams.load(Ordering::Relaxed) < max
    }

    fn is_idle(&self) -> bool {
        self.active_streams.load(Ordering::Relaxed) == 0
    }

    fn open_stream(&mut self) -> Http2Stream<B> {
        self.last_used = Instant::now();
        let slot = Arc::new(StreamSlot::new(&self.active_streams));
        Http2Stream { sender: self.connection.sender.clone(), slot }
    }
}
