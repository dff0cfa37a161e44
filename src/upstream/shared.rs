//! HTTP/2 connections, each shared by as many exchanges as both sides allow.
//!
//! What holds here:
//! - An exchange has a stream of its own before it begins: none waits inside the library for others'
//!   streams to end. Where a connection has none left, another one is opened.
//! - A connection's window has room for all of its streams': who does not read his answer holds up
//!   nobody else's.
//! - Strangers and those with a session have different connections. An app that leaves a body unread
//!   makes everybody wait who sends one on the same connection, and no window of ours changes that.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Claim;
use super::body::{Outgoing, RequestBody};
use super::error::UpstreamError;

/// The most exchanges at once on one connection; apps usually allow 100 to 250.
const STREAMS: u32 = 100;
/// What an app may send ahead of one client, in bytes; it lies in our memory.
const STREAM_WINDOW: u32 = 128 * 1024;
const WINDOW: u32 = STREAMS * STREAM_WINDOW;

pub(super) type Sender<B> = http2::SendRequest<Outgoing<B>>;

/// A connection that stands.
pub(super) struct Http2<B: RequestBody> {
    sender: Sender<B>,
    allowed: Allowed,
}

/// How many streams the app allows at once, as it said last; none once the connection is over.
type Allowed = Arc<dyn Fn() -> usize + Send + Sync>;

/// The connections to one endpoint, the oldest first: younger ones get what is left over, and so
/// have nothing to do as soon as possible.
pub(super) struct Shared<B: RequestBody> {
    connections: Vec<Member<B>>,
}

struct Member<B: RequestBody> {
    connection: Http2<B>,
    claim: Claim,
    /// Streams of it that are lent.
    lent: Arc<AtomicUsize>,
    used: Instant,
}

/// A stream of one connection. Dropped, it is for somebody else.
pub(super) struct Stream<B: RequestBody> {
    pub(super) sender: Sender<B>,
    pub(super) seat: Arc<Seat>,
}

/// The place that a stream takes.
pub(super) struct Seat(Arc<AtomicUsize>);

impl<B: RequestBody> Http2<B> {
    /// Ready once the app has said how many streams it allows: a request beyond that number would be
    /// refused, or wait for others.
    pub(super) async fn open<T>(stream: T) -> Result<Http2<B>, UpstreamError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let moved = Arc::new(Notify::new());
        let runner = Runner(Arc::downgrade(&moved));
        let (sender, connection) = http2::Builder::new(runner.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .initial_max_send_streams(0)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| UpstreamError::from(&error))?;
        let connection = Arc::new(Mutex::new(connection));
        let weak = Arc::downgrade(&connection);
        let allowed: Allowed = Arc::new(move || {
            weak.upgrade().map_or(0, |connection| lock(&connection).current_max_send_streams())
        });
        // Whoever waits for an answer gets the connection's error; without one it has nobody to tell.
        runner.execute(poll_fn(move |cx| Pin::new(&mut *lock(&connection)).poll(cx)));
        while allowed() == 0 && !sender.is_closed() {
            moved.notified().await;
        }
        Ok(Http2 { sender, allowed })
    }
}

/// Held for no longer than a look or a turn, on the one thread of a worker.
fn lock<T>(connection: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what the library wants run, and tells whoever still listens each time that something moved.
#[derive(Clone)]
struct Runner(Weak<Notify>);

impl<F: Future + Send + 'static> Executor<F> for Runner {
    fn execute(&self, future: F) {
        let moved = self.0.clone();
        let tell = move || moved.upgrade().inspect(|moved| moved.notify_one());
        tokio::spawn(async move {
            run(future, &tell).await;
            // Now that all it held is dropped.
            tell();
        });
    }
}

async fn run<R>(future: impl Future, tell: impl Fn() -> R) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        tell();
        polled.map(drop)
    })
    .await;
}

impl<B: RequestBody> Shared<B> {
    pub(super) fn new() -> Shared<B> {
        Shared { connections: Vec::new() }
    }

    /// A stream of a connection that stands, if one has any left.
    pub(super) fn lend(&mut self, claim: Claim) -> Option<Stream<B>> {
        self.connections.retain(|member| !member.connection.sender.is_closed());
        let mut of_theirs = self.connections.iter_mut().filter(|member| member.claim == claim);
        of_theirs.find(|member| member.has_room()).map(Member::lend)
    }

    /// The first stream of a new connection, whatever its app allows: it may be over already, and the
    /// exchange is who hears why.
    pub(super) fn add(&mut self, connection: Http2<B>, claim: Claim) -> Stream<B> {
        let lent = Arc::default();
        let mut member = Member { connection, claim, lent, used: Instant::now() };
        let stream = member.lend();
        self.connections.push(member);
        stream
    }

    /// Nobody new gets the connection of this stream.
    pub(super) fn forget(&mut self, seat: &Seat) {
        self.connections.retain(|member| !Arc::ptr_eq(&member.lent, &seat.0));
    }

    /// Closes those that had nothing to do for so long; the oldest of each kind stays, as long as its
    /// app lets it.
    pub(super) fn close_unused(&mut self, after: Duration) {
        let mut kept = Kept::default();
        self.connections.retain(|member| {
            kept.is_first(member.claim) || !member.rests() || member.used.elapsed() < after
        });
    }

    /// Whether some may be closed one day.
    pub(super) fn is_many(&self) -> bool {
        let mut kept = Kept::default();
        !self.connections.iter().all(|member| kept.is_first(member.claim))
    }
}

/// Of which kinds one was seen.
#[derive(Default)]
struct Kept {
    known: bool,
    stranger: bool,
}

impl Kept {
    fn is_first(&mut self, claim: Claim) -> bool {
        let seen = match claim {
            Claim::Known => &mut self.known,
            Claim::Stranger => &mut self.stranger,
        };
        !std::mem::replace(seen, true)
    }
}

impl<B: RequestBody> Member<B> {
    fn has_room(&self) -> bool {
        let most = (self.connection.allowed)().min(STREAMS as usize);
        self.lent.load(Ordering::Relaxed) < most
    }

    fn rests(&self) -> bool {
        self.lent.load(Ordering::Relaxed) == 0
    }

    fn lend(&mut self) -> Stream<B> {
        self.used = Instant::now();
        self.lent.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat(Arc::clone(&self.lent)));
        Stream { sender: self.connection.sender.clone(), seat }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
