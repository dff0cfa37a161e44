//! Connection pool of one endpoint.
//!
//! Invariants:
//! - An HTTP/1.1 connection is leased to one exchange. It returns to the pool only if the request
//!   was completely written, the response completely read, and no byte is left over. Otherwise it
//!   is closed: leftover bytes would be read as the response to another user's request.
//! - The most recently used idle connection is taken first, so that the others can expire.
//! - Permits belong to exchanges, not to connections. A connection is opened only if no suitable
//!   one is idle, and unsuitable idle ones are closed to make room. So there are never more
//!   connections than permits, except one HTTP/2 connection that is kept per priority.
//! - Anonymous requests never take all permits: slow uploads to a public page do not block
//!   authenticated users.
//! - A connection that is or may be authenticated never returns to the pool (see `pinned`).

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::message::endpoint::Transport;
use crate::message::{Endpoint, connection_auth};

use super::addresses::Addresses;
use super::coarse_timer::CoarseTimer;
use super::connect::{
    Connection, ConnectionPurpose, EndpointTarget, NewConnection, TlsConnectors, connect,
};
use super::endpoint_state::{EndpointState, Outstanding};
use super::error::UpstreamError;
use super::h2_connections::Http2Connections;
use super::http1_connection::Http1Connection;
use super::permit::{ExchangePermit, StreamGuard};
use super::pinned::ConnectionOwner;
use super::request_body::RequestBody;
use super::settings::{Priority, UpstreamSettings};

/// Shortest time between two searches for expired connections.
const MIN_SWEEP: Duration = Duration::from_secs(1);

/// Whether a pooled connection may be used.
#[derive(Clone, Copy)]
pub(super) enum LeaseMode {
    /// An open connection if available, otherwise a new one.
    Reuse,
    /// A connection that carried no exchange before. Another request may have opened a shared one
    /// in the meantime.
    New(ConnectionPurpose),
}

pub(super) struct Pool<B: RequestBody> {
    target: EndpointTarget,
    settings: UpstreamSettings,
    /// Shared with the other workers.
    endpoint_state: Arc<EndpointState>,
    permits: Arc<Semaphore>,
    /// The part of `permits` that [`Priority::Anonymous`] may use.
    anonymous_permits: Arc<Semaphore>,
    /// One for each idle pinned connection.
    pin_permits: Arc<Semaphore>,
    /// Held while a connection is opened that other requests will share.
    open_lock: tokio::sync::Mutex<()>,
    /// For the response timeouts of this endpoint.
    timer: CoarseTimer,
    /// Without contention: never held across an await, and every worker has its own pools.
    state: Mutex<PoolState<B>>,
}

struct PoolState<B: RequestBody> {
    /// Ordered by age, oldest first.
    idle: VecDeque<IdleEntry>,
    http2: Http2Connections<B>,
    /// Whether the endpoint's last new connection was HTTP/2.
    is_http2: bool,
    sweeping: bool,
    /// Whether connections may lead to addresses that the name of the endpoint has lost.
    has_gone: bool,
}

/// An idle HTTP/1.1 connection.
struct IdleEntry {
    connection: Box<Http1Connection>,
    since: Instant,
}

/// A connection leased to one exchange, with its permit.
///
/// Dropping it without [`Lease::release`] closes an HTTP/1.1 connection at once.
pub(super) struct Lease<B: RequestBody> {
    connection: Option<Connection<B>>,
    reused: bool,
    after_use: AfterUse,
    pool: Arc<Pool<B>>,
    permit: ExchangePermit,
    /// The permit once it is shared with a request body.
    shared_permit: Option<Arc<ExchangePermit>>,
}

/// Use of a connection after its exchange.
enum AfterUse {
    Pool,
    Close,
    Pin(ConnectionOwner),
}

impl<B: RequestBody> Pool<B> {
    pub(super) fn new(
        endpoint: Endpoint,
        tls: TlsConnectors,
        settings: UpstreamSettings,
        endpoint_state: Arc<EndpointState>,
        addresses: Addresses,
    ) -> Arc<Pool<B>> {
        let is_http2 = endpoint.transport() != Transport::Http1;
        Arc::new(Pool {
            target: EndpointTarget {
                endpoint,
                tls,
                addresses,
                head_limits: settings.response_head,
            },
            permits: Arc::new(Semaphore::new(settings.max_connections_per_endpoint)),
            anonymous_permits: Arc::new(Semaphore::new(settings.anonymous_limit())),
            pin_permits: Arc::new(Semaphore::new(settings.pinned_limit())),
            settings,
            endpoint_state,
            open_lock: tokio::sync::Mutex::new(()),
            timer: CoarseTimer::default(),
            state: Mutex::new(PoolState {
                idle: VecDeque::new(),
                http2: Http2Connections::new(),
                is_http2,
                sweeping: false,
                has_gone: false,
            }),
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.target.endpoint
    }

    /// Leases a connection.
    pub(super) async fn lease(
        self: &Arc<Self>,
        priority: Priority,
        mode: LeaseMode,
    ) -> Result<Lease<B>, UpstreamError> {
        let permit = self.acquire_permit(priority).await?;
        let (connection, reused) = match mode {
            LeaseMode::Reuse => match self.take_open(priority) {
                Some(connection) => (connection, true),
                None => (self.open_connection(priority, ConnectionPurpose::Request).await?, false),
            },
            LeaseMode::New(purpose) => (self.open_connection(priority, purpose).await?, false),
        };
        Ok(self.new_lease(connection, reused, permit))
    }

    fn new_lease(
        self: &Arc<Self>,
        connection: Connection<B>,
        reused: bool,
        permit: ExchangePermit,
    ) -> Lease<B> {
        let pool = Arc::clone(self);
        let (connection, after_use) = (Some(connection), AfterUse::Pool);
        Lease { connection, reused, after_use, pool, permit, shared_permit: None }
    }

    /// Leases the connection that is pinned to the owner, if there is one.
    pub(super) async fn lease_pinned(
        self: &Arc<Self>,
        priority: Priority,
        owner: &ConnectionOwner,
    ) -> Result<Option<Lease<B>>, UpstreamError> {
        let Some(connection) = owner.take(&self.pin_permits) else { return Ok(None) };
        let permit = self.acquire_permit(priority).await?;
        Ok(Some(self.new_lease(Connection::Http1(connection), true, permit)))
    }

    pub(super) fn endpoint_state(&self) -> &Arc<EndpointState> {
        &self.endpoint_state
    }

    /// Number of exchanges of this worker in progress.
    fn outstanding(&self) -> usize {
        self.settings.max_connections_per_endpoint.saturating_sub(self.permits.available_permits())
    }

    async fn acquire_permit(&self, priority: Priority) -> Result<ExchangePermit, UpstreamError> {
        let anonymous_permits = match priority {
            Priority::Authenticated => None,
            Priority::Anonymous => Some(self.acquire(&self.anonymous_permits).await?),
        };
        let one = self.acquire(&self.permits).await?;
        Ok(ExchangePermit::new(anonymous_permits, one))
    }

    /// Waits at most for the connect timeout.
    async fn acquire(&self, all: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Ok(permit) = Arc::clone(all).try_acquire_owned() {
            return Ok(permit);
        }
        match timeout(self.settings.connect_timeout, Arc::clone(all).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::ConnectionLimit),
        }
    }

    fn take_open(&self, priority: Priority) -> Option<Connection<B>> {
        let mut state = self.state.lock();
        if let Some(stream) = state.http2.open_stream(priority) {
            return Some(Connection::Http2(stream));
        }
        state.take_newest(self.settings.idle_timeout).map(Connection::Http1)
    }

    async fn open_connection(
        self: &Arc<Self>,
        priority: Priority,
        purpose: ConnectionPurpose,
    ) -> Result<Connection<B>, UpstreamError> {
        self.close_surplus();
        let is_http2 = !purpose.is_exclusive() && self.state.lock().is_http2;
        match is_http2 {
            true => Box::pin(self.open_shared(priority, purpose)).await,
            false => self.connect(priority, purpose).await,
        }
    }

    /// Closes idle connections if there would be one too many.
    fn close_surplus(&self) {
        let max = self.settings.max_connections_per_endpoint;
        let outstanding = self.outstanding();
        let mut state = self.state.lock();
        state.truncate_idle(max.saturating_sub(outstanding));
        state.http2.close_idle(Duration::ZERO);
    }

    /// One request opens a connection; the others wait and share it.
    async fn open_shared(
        self: &Arc<Self>,
        priority: Priority,
        purpose: ConnectionPurpose,
    ) -> Result<Connection<B>, UpstreamError> {
        let limit = self.settings.connect_timeout;
        let open_guard = timeout(limit, self.open_lock.lock())
            .await
            .map_err(|_| UpstreamError::ConnectionTimeout)?;
        let stream = self.state.lock().http2.open_stream(priority);
        if let Some(stream) = stream {
            return Ok(Connection::Http2(stream));
        }
        // ALPN has selected HTTP/1.1 in the meantime: nothing is shared, so waiting is pointless.
        let _open_guard = self.state.lock().is_http2.then_some(open_guard);
        self.connect(priority, purpose).await
    }

    async fn connect(
        self: &Arc<Self>,
        priority: Priority,
        purpose: ConnectionPurpose,
    ) -> Result<Connection<B>, UpstreamError> {
        // Boxed because it is rare: otherwise the state of two handshakes would enlarge every
        // request's future.
        let attempt = self.endpoint_state.begin_connect();
        let connecting = Box::pin(connect(&self.target, purpose));
        let opened = timeout(self.settings.connect_timeout, connecting)
            .await
            .unwrap_or(Err(UpstreamError::ConnectionTimeout));
        attempt.record(opened.as_ref().err());
        let mut state = self.state.lock();
        state.record_protocol(&opened, purpose);
        match opened? {
            NewConnection::Exclusive(connection) => Ok(connection),
            NewConnection::Shared(connection) => {
                let stream = state.http2.add(connection, priority);
                self.start_sweep(&mut state);
                Ok(Connection::Http2(stream))
            }
        }
    }

    /// Adds a reusable connection to the pool.
    fn return_idle(self: &Arc<Self>, connection: Box<Http1Connection>) {
        let mut state = self.state.lock();
        if state.has_gone && self.target.addresses.is_gone(connection.peer()) {
            return;
        }
        state.idle.push_back(IdleEntry { connection, since: Instant::now() });
        state.truncate_idle(self.settings.max_idle_per_endpoint);
        self.start_sweep(&mut state);
    }

    /// Whether a connection can expire, or lead to an address that its name loses.
    fn needs_sweep(&self, state: &PoolState<B>) -> bool {
        state.has_expirable()
            || (!state.http2.is_empty() && Addresses::is_name(&self.target.endpoint))
    }

    fn start_sweep(self: &Arc<Self>, state: &mut PoolState<B>) {
        if !state.sweeping && self.needs_sweep(state) {
            state.sweeping = true;
            tokio::spawn(sweep_loop(Arc::downgrade(self), self.settings.idle_timeout));
        }
    }
}

/// Closes expired connections periodically, and those to addresses that are gone. Ends when nothing is idle, or with the pool.
async fn sweep_loop<B: RequestBody>(pool: Weak<Pool<B>>, every: Duration) {
    loop {
        sleep(every.max(MIN_SWEEP)).await;
        let Some(pool) = pool.upgrade() else { return };
        let EndpointTarget { endpoint, addresses, .. } = &pool.target;
        let limit = pool.settings.connect_timeout;
        // Without an answer in time, the addresses stay.
        timeout(limit, addresses.refresh(endpoint)).await.unwrap_or_default();
        let mut state = pool.state.lock();
        state.drop_older_than(every);
        state.http2.close_idle(every);
        state.has_gone = addresses.has_gone();
        if state.has_gone {
            state.drop_gone(addresses);
        }
        state.sweeping = pool.needs_sweep(&state);
        if !state.sweeping {
            return;
        }
    }
}

impl<B: RequestBody> PoolState<B> {
    fn has_expirable(&self) -> bool {
        !self.idle.is_empty() || self.http2.has_closable()
    }

    fn take_newest(&mut self, idle_timeout: Duration) -> Option<Box<Http1Connection>> {
        let newest = self.idle.pop_back()?;
        if newest.since.elapsed() < idle_timeout {
            return Some(newest.connection);
        }
        self.drop_older_than(idle_timeout);
        None
    }

    fn truncate_idle(&mut self, max: usize) {
        let surplus = self.idle.len().saturating_sub(max);
        self.idle.drain(..surplus);
    }

    fn drop_older_than(&mut self, limit: Duration) {
        while self.idle.front().is_some_and(|oldest| oldest.since.elapsed() >= limit) {
            self.idle.pop_front();
        }
    }

    fn drop_gone(&mut self, addresses: &Addresses) {
        self.idle.retain(|entry| !addresses.is_gone(entry.connection.peer()));
        self.http2.remove_peers(|peer| addresses.is_gone(peer));
    }

    fn record_protocol(
        &mut self,
        opened: &Result<NewConnection<B>, UpstreamError>,
        purpose: ConnectionPurpose,
    ) {
        match opened {
            Ok(NewConnection::Shared(_)) => self.is_http2 = true,
            Ok(NewConnection::Exclusive(_)) => self.is_http2 &= purpose.is_exclusive(),
            Err(_) => {}
        }
    }
}

impl<B: RequestBody> Lease<B> {
    pub(super) fn endpoint(&self) -> &Endpoint {
        self.pool.endpoint()
    }

    /// Counts the exchange until its permit is dropped.
    pub(super) fn count_as(mut self, outstanding: Outstanding) -> Lease<B> {
        self.permit.count_as(outstanding);
        self
    }

    /// Returns the state of the endpoint if the exchange is counted.
    pub(super) fn counted_state(&self) -> Option<Arc<EndpointState>> {
        self.permit.outstanding().map(|outstanding| Arc::clone(outstanding.state()))
    }

    pub(super) fn settings(&self) -> &UpstreamSettings {
        &self.pool.settings
    }

    pub(super) fn timer(&self) -> CoarseTimer {
        self.pool.timer.clone()
    }

    pub(super) fn connection(&mut self) -> Option<&mut Connection<B>> {
        self.connection.as_mut()
    }

    /// Whether the connection carried an exchange before; the upstream may have closed it since.
    pub(super) fn reused(&self) -> bool {
        self.reused
    }

    /// Shares the permit with a request body that may outlive the response. On a shared connection,
    /// the stream lasts until both are finished.
    pub(super) fn share_permit(&mut self) -> Option<StreamGuard> {
        let Some(Connection::Http2(stream)) = &self.connection else { return None };
        let permit = Arc::new(std::mem::take(&mut self.permit));
        self.shared_permit = Some(Arc::clone(&permit));
        Some(StreamGuard::new(Arc::clone(&stream.slot), permit))
    }

    /// Prevents reuse, except by the owner of the connection.
    pub(super) fn discard_after_use(mut self) -> Lease<B> {
        if let AfterUse::Pool = self.after_use {
            self.after_use = AfterUse::Close;
        }
        self
    }

    /// Restricts later use of the connection to its owner. Without one, it closes after use.
    pub(super) fn reserve_for(mut self, owner: Option<ConnectionOwner>) -> Lease<B> {
        self.after_use = owner.map_or(AfterUse::Close, AfterUse::Pin);
        self
    }

    /// Removes a connection from the pool whose response shows that it is authenticated. Pins a new
    /// connection only if the upstream authenticates connections.
    pub(super) fn restrict(&mut self, response: &HeaderMap) {
        let is_authenticated = connection_auth::is_in_response(response);
        match self.after_use {
            AfterUse::Pool if is_authenticated => {
                self.after_use = AfterUse::Close;
                self.remove_shared();
            }
            AfterUse::Pin(_) if !is_authenticated && !self.reused => {
                self.after_use = AfterUse::Close;
            }
            AfterUse::Pool | AfterUse::Pin(_) | AfterUse::Close => {}
        }
    }

    /// Ends the exchange. The caller has checked that an HTTP/1.1 connection is reusable.
    pub(super) fn release(mut self) {
        let Some(Connection::Http1(mut connection)) = self.connection.take() else { return };
        connection.shrink();
        match &self.after_use {
            AfterUse::Pool => self.pool.return_idle(connection),
            AfterUse::Pin(owner) => owner.keep(connection, &self.pool.pin_permits),
            AfterUse::Close => {}
        }
    }

    /// Returns the connection if it is HTTP/1.1.
    pub(super) fn http1(&mut self) -> Option<&mut Http1Connection> {
        match &mut self.connection {
            Some(Connection::Http1(connection)) => Some(connection),
            Some(Connection::Http2(_)) | None => None,
        }
    }

    /// Ends an exchange without a response. An HTTP/1.1 connection closes. A shared one remains for
    /// its current streams but accepts no new ones, because it may be dead.
    pub(super) fn fail(self) {
        self.remove_shared();
    }

    /// Removes a shared connection from the pool; its current streams continue.
    fn remove_shared(&self) {
        if let Some(Connection::Http2(stream)) = &self.connection {
            self.pool.state.lock().http2.remove(&stream.slot);
        }
    }
}
