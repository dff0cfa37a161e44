//! HTTP client for the upstreams behind the gateway.
//!
//! | file | contents |
//! | --- | --- |
//! | `mod` | [`Upstreams`]: picks an endpoint, leases a connection, sends the request |
//! | `exchange` | one request and its response, including the single retry |
//! | `http1_connection`, `upload` | HTTP/1.1 connection; a request with a body |
//! | `response_head`, `body_decoder` | parser for HTTP/1.1 responses |
//! | `upgrade` | [`UpgradeResponse`], [`Tunnel`]: WebSocket upgrades |
//! | `balance`, `health` | choice of an endpoint, and its health; pure |
//! | `endpoint_state` | health and exchanges of an endpoint, shared by all workers |
//! | `pool` | connection pool of one endpoint |
//! | `pinned` | connections with NTLM or Kerberos, reserved for one client |
//! | `connect` | TLS, protocol selection |
//! | `addresses`, `resolver` | DNS, TCP, choice between the addresses of a name |
//! | `h2_connections` | HTTP/2 connections and their streams |
//! | `liveness_probe` | check of an idle connection before reuse |
//! | `request` | [`UpstreamRequest`] |
//! | `request_body`, `response_body` | streamed bodies |
//! | `coarse_timer` | [`CoarseTimer`]: timeouts of waiting requests |
//! | `settings` | limits per endpoint, priority of a request |
//! | `permit` | permits of exchanges, slots of streams |
//! | `error` | [`UpstreamError`]: status and Proxy-Status error type of each failure |
//!
//! Invariants:
//! - An HTTP/1.1 connection carries one exchange at a time. It is reused only if both messages were
//!   complete and no byte was left over (see `pool`).
//! - A connection that an upstream may have authenticated serves one client only (see `pinned`).
//! - Bytes that arrive before the next request is written close the connection (see
//!   `liveness_probe`). Bytes that arrive later are its response, because HTTP/1.1 has no other
//!   correlation.
//! - A request that is not safe to repeat is sent at most once (see `exchange`).
//! - The gateway frames every message itself. The head of a caller has no connection headers, and
//!   bodies are framed anew.
//! - Every wait has a limit, except between the bytes of a body: an event stream may last for days.
//!
//! Interim responses (1xx) are read and dropped; they extend the response timeout. Only 101 is
//! examined.

mod addresses;
mod balance;
mod body_decoder;
mod coarse_timer;
mod connect;
mod endpoint_state;
mod error;
mod exchange;
mod health;
mod http1_connection;
mod permit;
mod pinned;
mod pool;
mod request;
mod request_body;
mod resolver;
mod response_body;
mod response_head;
mod settings;
// Public only for the fuzz targets and the corpus test.
#[doc(hidden)]
pub mod fuzz_support;
mod h2_connections;
mod liveness_probe;
mod upgrade;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::time::Instant;

use crate::message::{Endpoint, connection_auth};

pub use balance::Affinity;
pub use coarse_timer::{CoarseTimer, TICK};
pub use endpoint_state::{EndpointReport, EndpointState, EndpointStates};
pub use error::UpstreamError;
pub use health::{DownCause, Standing};
pub use pinned::{Caller, ConnectionOwner, PinnedConnections};
pub use request::UpstreamRequest;
pub use request_body::RequestBody;
pub use resolver::Resolver;
pub use response_body::UpstreamBody;
pub use settings::{HeadLimits, Priority, UpstreamSettings};
pub use upgrade::{PendingTunnel, Tunnel, UpgradeResponse};

use addresses::Addresses;
use balance::Candidate;
use connect::{ConnectionPurpose, TlsConnectors};
use exchange::{ExchangeOutcome, Http1Outcome, exchange, send_http1};
use pool::{Lease, LeaseMode, Pool};
use request_body::OutgoingBody;

/// One worker's connections to all upstreams. `B` is the type of the request bodies.
///
/// Designed for a single-threaded runtime. On a multi-threaded runtime it is equally safe, but
/// closes some connections that could be reused.
pub struct Upstreams<B: RequestBody> {
    settings: UpstreamSettings,
    tls: TlsConnectors,
    /// Grows only with endpoints that a configuration names.
    pools: Mutex<HashMap<Endpoint, Arc<Pool<B>>>>,
    /// Number of the next request to a route with several endpoints.
    tickets: AtomicUsize,
    states: EndpointStates,
    resolver: Resolver,
    timer: CoarseTimer,
}

impl<B: RequestBody> Upstreams<B> {
    /// `tls` sets the trusted certificates. This function sets the ALPN protocols.
    pub fn new(settings: UpstreamSettings, tls: &Arc<rustls::ClientConfig>) -> Upstreams<B> {
        Upstreams {
            settings,
            tls: TlsConnectors::new(tls),
            pools: Mutex::default(),
            tickets: AtomicUsize::new(0),
            states: EndpointStates::default(),
            resolver: Resolver::default(),
            timer: CoarseTimer::default(),
        }
    }

    /// Returns the timer for requests that wait for these upstreams.
    pub fn timer(&self) -> &CoarseTimer {
        &self.timer
    }

    /// Expects this name in the upstreams' certificates instead of their hosts.
    #[must_use]
    pub fn with_server_name(mut self, name: Option<ServerName<'static>>) -> Upstreams<B> {
        self.tls.server_name = name;
        self
    }

    /// Resolves host names with another resolver, for tests.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Resolver) -> Upstreams<B> {
        self.resolver = resolver;
        self
    }

    /// Shares the state of endpoints with other workers. `first_ticket` differs between them, so that they do
    /// not all begin with the same endpoint.
    #[must_use]
    pub fn with_shared_states(
        mut self,
        states: EndpointStates,
        first_ticket: usize,
    ) -> Upstreams<B> {
        self.states = states;
        self.tickets = AtomicUsize::new(first_ticket);
        self
    }

    /// Sends a request to one of a route's endpoints and returns once the response head has
    /// arrived.
    ///
    /// The request keeps its `Host`; its target may have any form. It must carry no hop-by-hop
    /// headers.
    pub async fn send(
        &self,
        caller: impl Into<Caller>,
        endpoints: &[Endpoint],
        request: impl Into<UpstreamRequest<B>>,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let (caller, request) = (caller.into(), request.into());
        if caller.owner.is_some() || connection_auth::is_in_lines(&request.headers) {
            return Box::pin(self.send_as_owner(caller, endpoints, request)).await;
        }
        self.send_pooled(caller.priority, caller.affinity, endpoints, request).await
    }

    async fn send_pooled(
        &self,
        priority: Priority,
        affinity: Option<Affinity>,
        endpoints: &[Endpoint],
        request: UpstreamRequest<B>,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let mode = LeaseMode::Reuse;
        let lease = self.lease(priority, affinity, endpoints, mode).await?;
        let mut state = lease.counted_state();
        let sent = match exchange(lease, request.map(OutgoingBody::new)).await {
            ExchangeOutcome::Retry(request) => {
                let mode = LeaseMode::New(ConnectionPurpose::Request);
                let lease = self.lease(priority, affinity, endpoints, mode).await?;
                state = lease.counted_state();
                Box::pin(exchange(lease, request)).await.into_result()
            }
            once @ (ExchangeOutcome::Response(_) | ExchangeOutcome::Failed(_)) => {
                once.into_result()
            }
        };
        if let Some(state) = state {
            state.record_exchange(sent.as_ref().err());
        }
        sent
    }

    /// Uses the connection that is pinned to the owner. Without one, a request that authenticates
    /// its connection gets a new connection, and any other request uses the pool.
    async fn send_as_owner(
        &self,
        Caller { priority, owner, affinity }: Caller,
        endpoints: &[Endpoint],
        request: UpstreamRequest<B>,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let new = LeaseMode::New(ConnectionPurpose::Authentication);
        let lease = match self.lease_pinned(priority, owner.as_ref(), endpoints).await? {
            Some(lease) => lease,
            None if connection_auth::is_in_lines(&request.headers) => {
                self.lease(priority, affinity, endpoints, new).await?
            }
            None => return self.send_pooled(priority, affinity, endpoints, request).await,
        };
        let lease = lease.reserve_for(owner.clone());
        match exchange(lease, request.map(OutgoingBody::new)).await {
            ExchangeOutcome::Retry(request) => {
                let lease = self.lease(priority, affinity, endpoints, new).await?;
                let lease = lease.reserve_for(owner);
                exchange(lease, request).await.into_result()
            }
            once @ (ExchangeOutcome::Response(_) | ExchangeOutcome::Failed(_)) => {
                once.into_result()
            }
        }
    }

    /// Sends an upgrade request on the HTTP/1.1 connection that is pinned to the owner, or on a new one. The
    /// request carries the `Connection` and `Upgrade` headers.
    pub async fn send_upgrade(
        &self,
        caller: impl Into<Caller>,
        endpoints: &[Endpoint],
        request: impl Into<UpstreamRequest<()>>,
    ) -> Result<UpgradeResponse<B>, UpstreamError> {
        let Caller { priority, owner, affinity } = caller.into();
        let request = request.into().map(|()| OutgoingBody::empty());
        let sent = match self.lease_pinned(priority, owner.as_ref(), endpoints).await? {
            Some(lease) => send_http1(lease.reserve_for(owner.clone()), request).await,
            None => Http1Outcome::Retry(request),
        };
        let sent = match sent {
            Http1Outcome::Retry(request) => {
                let new = LeaseMode::New(ConnectionPurpose::Tunnel);
                let lease = self.lease(priority, affinity, endpoints, new).await?;
                send_http1(lease.reserve_for(owner), request).await
            }
            once @ (Http1Outcome::Response(..) | Http1Outcome::Failed(_)) => once,
        };
        upgrade::accept(sent).await
    }

    /// Leases the owner's connection to one of the endpoints, if there is one.
    async fn lease_pinned(
        &self,
        priority: Priority,
        owner: Option<&ConnectionOwner>,
        endpoints: &[Endpoint],
    ) -> Result<Option<Lease<B>>, UpstreamError> {
        let Some(owner) = owner else { return Ok(None) };
        for endpoint in endpoints {
            if let Some(lease) = self.pool(endpoint).lease_pinned(priority, owner).await? {
                return Ok(Some(lease));
            }
        }
        Ok(None)
    }

    /// Removes the pools of endpoints that no route uses any more.
    pub fn retain(&self, mut named: impl FnMut(&Endpoint) -> bool) {
        self.pools.lock().retain(|endpoint, _| named(endpoint));
    }

    /// Leases a connection. No byte of the request has been sent by then.
    async fn lease(
        &self,
        priority: Priority,
        affinity: Option<Affinity>,
        endpoints: &[Endpoint],
        mode: LeaseMode,
    ) -> Result<Lease<B>, UpstreamError> {
        if let [only] = endpoints {
            return self.pool(only).lease(priority, mode).await;
        }
        Box::pin(self.lease_balanced(priority, affinity, endpoints, mode)).await
    }

    /// Leases a connection to one of several endpoints. If it is unreachable, tries another one.
    async fn lease_balanced(
        &self,
        priority: Priority,
        affinity: Option<Affinity>,
        endpoints: &[Endpoint],
        mode: LeaseMode,
    ) -> Result<Lease<B>, UpstreamError> {
        let mut failure = UpstreamError::NoEndpoint;
        let mut tried = Vec::new();
        while let Some(pool) = self.pick(endpoints, &tried, affinity) {
            let outstanding = pool.endpoint_state().begin_exchange();
            match pool.lease(priority, mode).await {
                Ok(lease) => return Ok(lease.count_as(outstanding)),
                Err(error) if error.is_connect_failure() => failure = error,
                Err(error) => return Err(error),
            }
            tried.push(pool.endpoint().clone());
        }
        Err(failure)
    }

    /// Returns the pool of the endpoint for a request; `None` if all were tried.
    fn pick(
        &self,
        endpoints: &[Endpoint],
        tried: &[Endpoint],
        affinity: Option<Affinity>,
    ) -> Option<Arc<Pool<B>>> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if tried.is_empty() && affinity.is_none() {
            let (first, second) = balance::pair(ticket, endpoints.len());
            let (first, second) =
                (self.pool(endpoints.get(first)?), self.pool(endpoints.get(second)?));
            let (one, other) = (first.endpoint_state(), second.endpoint_state());
            if one.is_plain() && other.is_plain() {
                return Some(if other.outstanding() < one.outstanding() { second } else { first });
            }
        }
        self.pick_healthy(ticket, endpoints, tried, affinity)
    }

    #[cold]
    fn pick_healthy(
        &self,
        ticket: usize,
        endpoints: &[Endpoint],
        tried: &[Endpoint],
        affinity: Option<Affinity>,
    ) -> Option<Arc<Pool<B>>> {
        let now = Instant::now();
        let mut candidates = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let (pool, is_tried) = (self.pool(endpoint), tried.contains(endpoint));
            let state = pool.endpoint_state();
            let (standing, outstanding) = (state.standing(now), state.outstanding());
            let is_due = matches!(standing, Standing::TrialDue(_)) && !is_tried;
            if is_due && state.claim_trial(now) {
                return Some(pool);
            }
            let identity = state.identity();
            candidates.push(Candidate { standing, outstanding, is_tried, identity });
        }
        let chosen = match affinity {
            Some(affinity) => balance::choose_for(affinity, &candidates)?,
            None => balance::choose(ticket, &candidates)?,
        };
        endpoints.get(chosen).map(|endpoint| self.pool(endpoint))
    }

    fn pool(&self, endpoint: &Endpoint) -> Arc<Pool<B>> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(endpoint) {
            return Arc::clone(pool);
        }
        let state = self.states.get(endpoint);
        let (tls, addresses) = (self.tls.clone(), Addresses::new(self.resolver.clone()));
        let pool = Pool::new(endpoint.clone(), tls, self.settings, state, addresses);
        pools.insert(endpoint.clone(), Arc::clone(&pool));
        pool
    }
}

impl<B: RequestBody> fmt::Debug for Upstreams<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("settings", &self.settings).finish_non_exhaustive()
    }
}
