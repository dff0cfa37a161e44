//! The connections to one endpoint.
//!
//! Invariants:
//! - An HTTP/1.1 connection is lent to one exchange, and comes back only when the request was
//!   wholly written, the answer wholly read, and no byte is left over. Anything else is closed:
//!   a leftover would be read as the answer to somebody else's request.
//! - The newest idle connection is used first, so the rest can grow old and close.
//! - Permits are held by exchanges, not by connections. A connection is opened only when none of the
//!   kind is idle, and idle ones of the other kind give way; so there are never more connections than
//!   permits, but for one of HTTP/2 that is kept for each claim.
//! - Strangers never have all of them: who sends bodies to a public page as slowly as he is let holds up
//!   nobody who has logged in.
//! - Of HTTP/1.1 there are two kinds: those that the exchange itself drives, for requests without a
//!   body, and those of the HTTP library.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

use super::body::RequestBody;
use super::connect::{Connection, Dialed, Http1, Need, Tls, dial};
use super::error::UpstreamError;
use super::plain::Plain;
use super::shared::{Seat, Shared};
use super::{Claim, UpstreamSettings};

/// How long an endpoint that could not be reached is asked last.
const AVOID: Duration = Duration::from_secs(5);

/// Which connection is asked for.
#[derive(Clone, Copy)]
pub(super) enum Want {
    /// One that is open already, or a new one.
    Open(Need),
    /// One that nobody used before. (A shared one may be opened by somebody else meanwhile.)
    New(Need),
}

pub(super) struct Pool<B: RequestBody> {
    endpoint: Endpoint,
    tls: Tls,
    settings: UpstreamSettings,
    permits: Arc<Semaphore>,
    /// What of them [`Claim::Stranger`] may have.
    strangers: Arc<Semaphore>,
    /// Held while a connection is opened that others will share.
    sharing: tokio::sync::Mutex<()>,
    state: Mutex<State<B>>,
}

struct State<B: RequestBody> {
    /// Oldest in front.
    idle: VecDeque<Idle<B>>,
    shared: Shared<B>,
    /// Whether the last connection turned out to be one that can be shared (HTTP/2).
    shares: bool,
    unreachable_since: Option<Instant>,
    sweeping: bool,
}

struct Idle<B: RequestBody> {
    connection: Kept<B>,
    since: Instant,
}

/// An HTTP/1.1 connection between two exchanges.
enum Kept<B: RequestBody> {
    Plain(Box<Plain>),
    Http1(Http1<B>),
}

/// A connection lent to one exchange, and the permit for it.
///
/// Dropped without [`Lease::finish`], it closes an HTTP/1.1 connection at once.
pub(super) struct Lease<B: RequestBody> {
    connection: Option<Connection<B>>,
    reused: bool,
    single_use: bool,
    pool: Arc<Pool<B>>,
    permit: Permit,
    /// The same, where a body has it too.
    shared: Option<Arc<Permit>>,
}

/// The right to one exchange; of a stranger, also one of theirs. None of both once it is shared.
#[derive(Default)]
pub(super) struct Permit {
    _strangers: Option<OwnedSemaphorePermit>,
    _one: Option<OwnedSemaphorePermit>,
}

/// What an exchange takes of a shared connection.
pub(super) struct Held {
    _seat: Arc<Seat>,
    _permit: Arc<Permit>,
}

impl<B: RequestBody> Pool<B> {
    pub(super) fn new(endpoint: Endpoint, tls: Tls, settings: UpstreamSettings) -> Arc<Pool<B>> {
        let shares = endpoint.transport() != Transport::Http1;
        Arc::new(Pool {
            endpoint,
            tls,
            permits: Arc::new(Semaphore::new(settings.max_connections_per_endpoint)),
            strangers: Arc::new(Semaphore::new(settings.strangers_per_endpoint())),
            settings,
            sharing: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                idle: VecDeque::new(),
                shared: Shared::new(),
                shares,
                unreachable_since: None,
                sweeping: false,
            }),
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Lends a connection of the kind that is wanted.
    pub(super) async fn lease(
        self: &Arc<Self>,
        claim: Claim,
        want: Want,
    ) -> Result<Lease<B>, UpstreamError> {
        let permit = self.permit(claim).await?;
        let (connection, reused) = match want {
            Want::Open(need) => match self.take(claim, need) {
                Some(connection) => (connection, true),
                None => (self.open(claim, need).await?, false),
            },
            Want::New(need) => (self.open(claim, need).await?, false),
        };
        Ok(self.lend(connection, reused, permit))
    }

    fn lend(self: &Arc<Self>, connection: Connection<B>, reused: bool, permit: Permit) -> Lease<B> {
        let pool = Arc::clone(self);
        let connection = Some(connection);
        Lease { connection, reused, single_use: false, pool, permit, shared: None }
    }

    /// Exchanges under way.
    pub(super) fn outstanding(&self) -> usize {
        self.settings.max_connections_per_endpoint.saturating_sub(self.permits.available_permits())
    }

    /// Since when it could not be reached; `None` when it can, or when that was long ago.
    pub(super) fn unreachable_since(&self) -> Option<Instant> {
        self.state().unreachable_since.filter(|since| since.elapsed() < AVOID)
    }

    async fn permit(&self, claim: Claim) -> Result<Permit, UpstreamError> {
        let strangers = match claim {
            Claim::Known => None,
            Claim::Stranger => Some(self.one_of(&self.strangers).await?),
        };
        let one = self.one_of(&self.permits).await?;
        Ok(Permit { _strangers: strangers, _one: Some(one) })
    }

    /// Waits no longer than a connection may take.
    async fn one_of(&self, all: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Ok(permit) = Arc::clone(all).try_acquire_owned() {
            return Ok(permit);
        }
        match timeout(self.settings.connect_timeout, Arc::clone(all).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::ConnectionLimit),
        }
    }

    fn take(&self, claim: Claim, need: Need) -> Option<Connection<B>> {
        let mut state = self.state();
        if let Some(stream) = state.shared.lend(claim) {
            return Some(Connection::Http2(stream));
        }
        state.newest(need, self.settings.idle_timeout)
    }

    async fn open(
        self: &Arc<Self>,
        claim: Claim,
        need: Need,
    ) -> Result<Connection<B>, UpstreamError> {
        self.make_room();
        let shares = need != Need::Tunnel && self.state().shares;
        match shares {
            true => Box::pin(self.open_shared(claim, need)).await,
            false => self.dial(claim, need).await,
        }
    }

    /// An idle connection of the kind that is not asked for gives way, should there be one too many.
    fn make_room(&self) {
        let most = self.settings.max_connections_per_endpoint;
        let under_way = self.outstanding();
        let mut state = self.state();
        state.keep_newest(most.saturating_sub(under_way));
        state.shared.close_unused(Duration::ZERO);
    }

    /// One opens, the others wait for it and share what it opened.
    async fn open_shared(
        self: &Arc<Self>,
        claim: Claim,
        need: Need,
    ) -> Result<Connection<B>, UpstreamError> {
        let limit = self.settings.connect_timeout;
        let alone = timeout(limit, self.sharing.lock())
            .await
            .map_err(|_| UpstreamError::ConnectionTimeout)?;
        let stream = self.state().shared.lend(claim);
        if let Some(stream) = stream {
            return Ok(Connection::Http2(stream));
        }
        // ALPN chose HTTP/1.1 meanwhile: nothing to share, no reason to queue.
        let _alone = self.state().shares.then_some(alone);
        self.dial(claim, need).await
    }

    async fn dial(
        self: &Arc<Self>,
        claim: Claim,
        need: Need,
    ) -> Result<Connection<B>, UpstreamError> {
        // Seldom: the space for two handshakes would otherwise lie in every request's future.
        let dialing = Box::pin(dial(&self.endpoint, &self.tls, need));
        let dialed = timeout(self.settings.connect_timeout, dialing)
            .await
            .unwrap_or(Err(UpstreamError::ConnectionTimeout));
        let mut state = self.state();
        state.learn(&dialed, need);
        match dialed? {
            Dialed::Alone(connection) => Ok(connection),
            Dialed::Shared(connection) => {
                let stream = state.shared.add(connection, claim);
                self.sweep(&mut state);
                Ok(Connection::Http2(stream))
            }
        }
    }

    /// Called with a connection that is clean.
    fn give_back(self: &Arc<Self>, connection: Kept<B>) {
        let mut state = self.state();
        state.idle.push_back(Idle { connection, since: Instant::now() });
        state.keep_newest(self.settings.max_idle_per_endpoint);
        self.sweep(&mut state);
    }

    fn sweep(self: &Arc<Self>, state: &mut State<B>) {
        if !state.sweeping && state.may_grow_old() {
            state.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.settings.idle_timeout));
        }
    }

    /// The lock is never held across an await and every worker has its own pools: no contention.
    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what grew old while nobody asked. Ends when nothing is idle, or with the pool.
async fn sweep<B: RequestBody>(pool: Weak<Pool<B>>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        state.drop_older_than(every);
        state.shared.close_unused(every);
        state.sweeping = state.may_grow_old();
        if !state.sweeping {
            return;
        }
    }
}

impl<B: RequestBody> State<B> {
    fn may_grow_old(&self) -> bool {
        !self.idle.is_empty() || self.shared.is_many()
    }

    fn newest(&mut self, need: Need, idle_timeout: Duration) -> Option<Connection<B>> {
        while let Some(at) = self.idle.iter().rposition(|idle| idle.connection.serves(need)) {
            let newest = self.idle.remove(at)?;
            if newest.since.elapsed() >= idle_timeout {
                self.drop_older_than(idle_timeout);
                return None;
            }
            match newest.connection {
                Kept::Plain(plain) => return Some(Connection::Plain(plain)),
                Kept::Http1(connection) if connection.sender.is_ready() => {
                    connection.look.again();
                    return Some(Connection::Http1(connection));
                }
                Kept::Http1(_) => {}
            }
        }
        None
    }

    fn keep_newest(&mut self, most: usize) {
        let surplus = self.idle.len().saturating_sub(most);
        self.idle.drain(..surplus);
    }

    fn drop_older_than(&mut self, limit: Duration) {
        while self.idle.front().is_some_and(|oldest| oldest.since.elapsed() >= limit) {
            self.idle.pop_front();
        }
    }

    fn learn(&mut self, dialed: &Result<Dialed<B>, UpstreamError>, need: Need) {
        match dialed {
            Ok(Dialed::Shared(_)) => self.shares = true,
            Ok(Dialed::Alone(_)) => self.shares &= need == Need::Tunnel,
            Err(_) => {}
        }
        self.unreachable_since = match dialed {
            Ok(_) => None,
            Err(error) => error.is_before_connection().then(Instant::now),
        };
    }
}

impl<B: RequestBody> Kept<B> {
    fn serves(&self, need: Need) -> bool {
        match (self, need) {
            (Kept::Plain(_), Need::Head) | (Kept::Http1(_), Need::Body) => true,
            (Kept::Plain(_), Need::Body | Need::Tunnel)
            | (Kept::Http1(_), Need::Head | Need::Tunnel) => false,
        }
    }
}

impl<B: RequestBody> Lease<B> {
    pub(super) fn endpoint(&self) -> &Endpoint {
        self.pool.endpoint()
    }

    pub(super) fn settings(&self) -> &UpstreamSettings {
        &self.pool.settings
    }

    pub(super) fn connection(&mut self) -> Option<&mut Connection<B>> {
        self.connection.as_mut()
    }

    /// Whether others used the connection before: it may have been closed meanwhile.
    pub(super) fn reused(&self) -> bool {
        self.reused
    }

    /// For a body that may be sent on when its answer is whole and this is gone: on a connection with
    /// others its stream lasts as long as either.
    pub(super) fn share(&mut self) -> Option<Held> {
        let Some(Connection::Http2(stream)) = &self.connection else { return None };
        let permit = Arc::new(std::mem::take(&mut self.permit));
        self.shared = Some(Arc::clone(&permit));
        Some(Held { _seat: Arc::clone(&stream.seat), _permit: permit })
    }

    /// Keeps the connection out of the pool: it was made to become a tunnel.
    pub(super) fn never_again(mut self) -> Lease<B> {
        self.single_use = true;
        self
    }

    /// The exchange ended well: the connection goes back, when it is clean.
    ///
    /// The driver asks for the next request only when both messages are whole and nothing was left
    /// over, in the same turn in which it handed out the end of the answer. On the one-thread
    /// runtimes that workers are, that has happened when we see that end.
    pub(super) fn finish(mut self) {
        match self.connection.take() {
            Some(Connection::Http1(connection)) if self.is_clean(&connection) => {
                self.pool.give_back(Kept::Http1(connection));
            }
            Some(Connection::Http1(connection)) => connection.driver.abort(),
            // Whoever read its answer says whether it is clean.
            Some(Connection::Plain(mut plain)) => {
                plain.rest();
                self.pool.give_back(Kept::Plain(plain));
            }
            Some(Connection::Http2(_)) | None => {}
        }
    }

    /// The connection that this request alone drives.
    pub(super) fn plain(&mut self) -> Option<&mut Plain> {
        match &mut self.connection {
            Some(Connection::Plain(plain)) => Some(plain),
            Some(Connection::Http1(_) | Connection::Http2(_)) | None => None,
        }
    }

    /// No answer came. The one request's connection closes; a shared one stays with those who use
    /// it, but nobody new gets it: it may lead nowhere.
    pub(super) fn give_up(mut self) {
        if let Some(Connection::Http2(stream)) = &self.connection {
            self.pool.state().shared.forget(&stream.seat);
        }
        self.close();
    }

    fn is_clean(&self, connection: &Http1<B>) -> bool {
        !self.single_use && connection.sender.is_ready()
    }

    fn close(&mut self) {
        match self.connection.take() {
            Some(Connection::Http1(connection)) => connection.driver.abort(),
            // Closed by being dropped, or shared.
            Some(Connection::Plain(_) | Connection::Http2(_)) | None => {}
        }
    }
}

impl<B: RequestBody> Drop for Lease<B> {
    fn drop(&mut self) {
        self.close();
    }
}
