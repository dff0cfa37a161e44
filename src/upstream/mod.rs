//! The client's side towards the apps behind the gateway.
//!
//! | file | what |
//! | --- | --- |
//! | `mod` | [`Upstreams`]: an endpoint is chosen, a connection lent, the request sent |
//! | `exchange` | one request and its answer, the one retry, the forms of HTTP/1.1 and HTTP/2 |
//! | `plain` | an HTTP/1.1 connection for requests without a body, driven by the exchange itself |
//! | `answer`, `content` | an HTTP/1.1 answer's head and body, as bytes |
//! | `upgrade` | [`Switch`], [`Tunnel`]: WebSocket |
//! | `pool` | the connections to one endpoint |
//! | `connect` | name, TCP, TLS, protocol |
//! | `shared` | HTTP/2 connections, and the streams that are lent of them |
//! | `socket` | an idle connection is looked at before it is used again |
//! | `body` | both bodies, streamed; the connection goes back at the answer's end |
//! | `error` | [`UpstreamError`]: status and Proxy-Status token of everything that goes wrong |
//!
//! What holds here:
//! - One connection carries one exchange at a time (HTTP/1.1) and is used again only when both
//!   messages were whole and nothing was left over (see `pool`).
//!   Bytes that come before the next request is written close the connection, seen by the runtime or
//!   not (see `socket`). Bytes that come after it are its answer, for HTTP/1.1 has no other way to
//!   tell.
//! - Nothing is sent twice that must happen once (see `exchange`).
//! - Framing is ours: the caller's head carries no connection fields, and bodies are framed anew.
//! - Every wait has a limit, except for the bytes of a body: an event stream may last for days.
//!
//! Interim answers (1xx) of an upstream are read and dropped, 101 alone is looked at.

mod answer;
mod body;
mod connect;
mod content;
mod error;
mod exchange;
mod plain;
mod pool;
// For fuzzing and the replay of what it found; nothing else outside builds on it.
#[doc(hidden)]
pub mod replay;
mod shared;
mod socket;
mod upgrade;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};

use crate::message::Endpoint;

pub use body::{RequestBody, UpstreamBody};
pub use error::UpstreamError;
pub use upgrade::{PendingTunnel, Switch, Tunnel};

use body::Outgoing;
use connect::{Need, Tls};
use exchange::{Outcome, exchange};
use pool::{Lease, Pool, Want};

/// Limits towards one endpoint, in one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Name, TCP and TLS together; also how long a request waits for others to end when
    /// `max_connections_per_endpoint` are under way.
    pub connect_timeout: Duration,
    /// From the request's last byte that moved to the answer's head.
    pub response_timeout: Duration,
    /// How long an idle connection is kept. Shorter than the upstream's own limit, so that we close
    /// first: Node's is 5 s.
    pub idle_timeout: Duration,
    pub max_idle_per_endpoint: usize,
    /// Exchanges and tunnels under way. With HTTP/1.1 each has a connection of its own, with HTTP/2
    /// they are streams, as many on one connection as the app allows.
    pub max_connections_per_endpoint: usize,
}

impl Default for UpstreamSettings {
    fn default() -> UpstreamSettings {
        UpstreamSettings {
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(4),
            max_idle_per_endpoint: 64,
            max_connections_per_endpoint: 1024,
        }
    }
}

impl UpstreamSettings {
    fn strangers_per_endpoint(&self) -> usize {
        self.max_connections_per_endpoint.saturating_sub(self.max_connections_per_endpoint / 4)
    }
}

/// Whom a request is for, where an app's connections run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Somebody who has logged in.
    Known,
    /// Anybody: a quarter of the connections is not for him.
    Stranger,
}

/// One worker's connections to all upstreams. `B` is the type of the bodies it forwards.
///
/// Made for a runtime of one thread; there connections are reused whenever they can be. On several
/// threads it is as safe, but closes some connections that it could have kept.
pub struct Upstreams<B: RequestBody> {
    settings: UpstreamSettings,
    tls: Tls,
    pools: Mutex<HashMap<Endpoint, Arc<Pool<B>>>>,
    turn: AtomicUsize,
}

impl<B: RequestBody> Upstreams<B> {
    /// `tls` decides whom to trust; the protocols offered are set here.
    pub fn new(settings: UpstreamSettings, tls: &Arc<rustls::ClientConfig>) -> Upstreams<B> {
        let turn = AtomicUsize::new(0);
        Upstreams { settings, tls: Tls::new(tls), pools: Mutex::default(), turn }
    }

    /// Sends a request to one of a route's endpoints, and gives the answer as soon as its head is
    /// there.
    ///
    /// The request's `Host` is kept; its target may be in any form. It must carry no hop-by-hop
    /// fields.
    pub async fn send(
        &self,
        claim: Claim,
        endpoints: &[Endpoint],
        request: Request<B>,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let need = if request.body().is_end_stream() { Need::Head } else { Need::Body };
        let lease = self.lease(claim, endpoints, Want::Open(need)).await?;
        match exchange(lease, request.map(Outgoing::new)).await {
            Outcome::Again(request) => {
                let lease = self.lease(claim, endpoints, Want::New(need)).await?;
                Box::pin(exchange(lease, request)).await.last()
            }
            once @ (Outcome::Answered(_) | Outcome::Failed(_)) => once.last(),
        }
    }

    /// Asks for another protocol, on an HTTP/1.1 connection of its own. The request carries the
    /// `Connection` and `Upgrade` fields; it is sent once.
    pub async fn send_upgrade(
        &self,
        claim: Claim,
        endpoints: &[Endpoint],
        request: Request<()>,
    ) -> Result<Switch<B>, UpstreamError> {
        let lease = self.lease(claim, endpoints, Want::New(Need::Tunnel)).await?;
        upgrade::switch(lease, request).await
    }

    /// Forgets the idle connections of endpoints that no route names any more.
    pub fn retain(&self, mut named: impl FnMut(&Endpoint) -> bool) {
        self.pools().retain(|endpoint, _| named(endpoint));
    }

    /// One that cannot be reached is passed over for the next; nothing has been sent by then.
    async fn lease(
        &self,
        claim: Claim,
        endpoints: &[Endpoint],
        want: Want,
    ) -> Result<Lease<B>, UpstreamError> {
        let mut failure = UpstreamError::NoEndpoint;
        for _ in endpoints {
            match self.choose(endpoints)?.lease(claim, want).await {
                Err(error) if error.is_before_connection() => failure = error,
                lent => return lent,
            }
        }
        Err(failure)
    }

    /// The reachable one with the fewest exchanges under way, in turn where they are equal. When
    /// none is known to be reachable, the one that failed longest ago.
    fn choose(&self, endpoints: &[Endpoint]) -> Result<Arc<Pool<B>>, UpstreamError> {
        if let [only] = endpoints {
            return Ok(self.pool(only));
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1);
        let (before, after) = endpoints.split_at(start);
        let pools = after.iter().chain(before).map(|endpoint| self.pool(endpoint));
        pools
            .min_by_key(|pool| (pool.unreachable_since(), pool.outstanding()))
            .ok_or(UpstreamError::NoEndpoint)
    }

    fn pool(&self, endpoint: &Endpoint) -> Arc<Pool<B>> {
        let mut pools = self.pools();
        if let Some(pool) = pools.get(endpoint) {
            return Arc::clone(pool);
        }
        let pool = Pool::new(endpoint.clone(), self.tls.clone(), self.settings);
        pools.insert(endpoint.clone(), Arc::clone(&pool));
        pool
    }

    /// Grows only with endpoints that a configuration names.
    fn pools(&self) -> std::sync::MutexGuard<'_, HashMap<Endpoint, Arc<Pool<B>>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: RequestBody> fmt::Debug for Upstreams<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("settings", &self.settings).finish_non_exhaustive()
    }
}
