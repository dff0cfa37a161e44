//! HTTP client for the upstreams behind the gateway.
//!
//! | file | contents |
//! | --- | --- |
//! | `mod` | [`Upstreams`]: picks an endpoint, leases a connection, sends the request |
//! | `exchange` | one request and its response, including the single retry |
//! | `http1_connection`, `upload` | HTTP/1.1 connection; a request with a body |
//! | `response_head`, `body_decoder` | parser for HTTP/1.1 responses |
//! | `upgrade` | [`UpgradeResponse`], [`Tunnel`]: WebSocket upgrades |
//! | `pool` | connection pool of one endpoint |
//! | `pinned` | connections with NTLM or Kerberos, reserved for one client |
//! | `connect` | TLS, protocol selection |
//! | `addresses` | DNS, TCP, choice between the addresses of a name |
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
mod body_decoder;
mod coarse_timer;
mod connect;
mod error;
mod exchange;
mod http1_connection;
mod permit;
mod pinned;
mod pool;
mod request;
mod request_body;
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

use crate::message::{Endpoint, connection_auth};

pub use coarse_timer::{CoarseTimer, TICK};
pub use error::UpstreamError;
pub use pinned::{Caller, ConnectionOwner, PinnedConnections};
pub use request::UpstreamRequest;
pub use request_body::RequestBody;
pub use response_body::UpstreamBody;
pub use settings::{HeadLimits, Priority, UpstreamSettings};
pub use upgrade::{PendingTunnel, Tunnel, UpgradeResponse};

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
    round_robin: AtomicUsize,
    timer: CoarseTimer,
}

impl<B: RequestBody> Upstreams<B> {
    /// `tls` sets the trusted certificates. This function sets the ALPN protocols.
    pub fn new(settings: UpstreamSettings, tls: &Arc<rustls::ClientConfig>) -> Upstreams<B> {
        let round_robin = AtomicUsize::new(0);
        Upstreams {
            settings,
            tls: TlsConnectors::new(tls),
            pools: Mutex::default(),
            round_robin,
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
        self.send_pooled(caller.priority, endpoints, request).await
    }

    async fn send_pooled(
        &self,
        priority: Priority,
        endpoints: &[Endpoint],
        request: UpstreamRequest<B>,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let lease = self.lease(priority, endpoints, LeaseMode::Reuse).await?;
        match exchange(lease, request.map(OutgoingBody::new)).await {
            ExchangeOutcome::Retry(request) => {
                let lease = self
                    .lease(priority, endpoints, LeaseMode::New(ConnectionPurpose::Request))
                    .await?;
                Box::pin(exchange(lease, request)).await.into_result()
            }
            once @ (ExchangeOutcome::Response(_) | ExchangeOutcome::Failed(_)) => {
                once.into_result()
            }
        }
    }

    /// Uses the connection that is pinned to the owner. Without one, a request that authenticates
    /// its connection gets a new connection, and any other request uses the pool.
    async fn send_as_owner(
        &self,
        Caller { priority, owner }: Caller,
        endpoints: &[Endpoint],
        request: UpstreamRequest<B>,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let new = LeaseMode::New(ConnectionPurpose::Authentication);
        let lease = match self.lease_pinned(priority, owner.as_ref(), endpoints).await? {
            Some(lease) => lease,
            None if connection_auth::is_in_lines(&request.headers) => {
                self.lease(priority, endpoints, new).await?
            }
            None => return self.send_pooled(priority, endpoints, request).await,
        };
        let lease = lease.reserve_for(owner.clone());
        match exchange(lease, request.map(OutgoingBody::new)).await {
            ExchangeOutcome::Retry(request) => {
                let lease = self.lease(priority, endpoints, new).await?.reserve_for(owner);
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
        let Caller { priority, owner } = caller.into();
        let request = request.into().map(|()| OutgoingBody::empty());
        let sent = match self.lease_pinned(priority, owner.as_ref(), endpoints).await? {
            Some(lease) => send_http1(lease.reserve_for(owner.clone()), request).await,
            None => Http1Outcome::Retry(request),
        };
        let sent = match sent {
            Http1Outcome::Retry(request) => {
                let new = LeaseMode::New(ConnectionPurpose::Tunnel);
                let lease = self.lease(priority, endpoints, new).await?;
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

    /// Leases a connection, trying the next endpoint if one is unreachable. No byte of the request
    /// has been sent by then.
    async fn lease(
        &self,
        priority: Priority,
        endpoints: &[Endpoint],
        mode: LeaseMode,
    ) -> Result<Lease<B>, UpstreamError> {
        let mut failure = UpstreamError::NoEndpoint;
        for _ in endpoints {
            match self.pick_pool(endpoints)?.lease(priority, mode).await {
                Err(error) if error.is_connect_failure() => failure = error,
                lent => return lent,
            }
        }
        Err(failure)
    }

    /// Returns the reachable endpoint with the fewest exchanges in progress; ties are broken
    /// round-robin. If none is known to be reachable, returns the one that failed longest ago.
    fn pick_pool(&self, endpoints: &[Endpoint]) -> Result<Arc<Pool<B>>, UpstreamError> {
        if let [only] = endpoints {
            return Ok(self.pool(only));
        }
        let start = self.round_robin.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1);
        let (before, after) = endpoints.split_at(start);
        let pools = after.iter().chain(before).map(|endpoint| self.pool(endpoint));
        pools
            .min_by_key(|pool| (pool.unreachable_since(), pool.outstanding()))
            .ok_or(UpstreamError::NoEndpoint)
    }

    fn pool(&self, endpoint: &Endpoint) -> Arc<Pool<B>> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(endpoint) {
            return Arc::clone(pool);
        }
        let pool = Pool::new(endpoint.clone(), self.tls.clone(), self.settings);
        pools.insert(endpoint.clone(), Arc::clone(&pool));
        pool
    }
}

impl<B: RequestBody> fmt::Debug for Upstreams<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("settings", &self.settings).finish_non_exhaustive()
    }
}
