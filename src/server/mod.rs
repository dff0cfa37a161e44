//! Listeners, TLS handshakes, connections and draining.
//!
//! Each worker has its own listeners on the same addresses (SO_REUSEPORT), so a connection stays on one core.
//! Workers share a socket that systemd opened. Every wait has a deadline and every connection a permit. Connections over a limit are rejected before TLS.
//!
//! | module | purpose |
//! | --- | --- |
//! | `listener` | sockets; `inherited` has those of the service manager |
//! | `snapshot`, `limits` | what a worker derives from the configuration |
//! | `proxy_protocol` | client address from the PROXY protocol header |
//! | `connection_limiter` | connection limits and eviction; `gcra` is its rate limit |
//! | `connection` | one connection from TLS handshake to close |
//! | `connection_activity` | its idle and header timeouts |
//! | `guarded_io` | its byte stream: slow readers, HTTP/2 control floods |
//! | `scheduling` | fairness between connections of a worker |
//! | `h2_executor`, `in_flight` | its requests |
//! | `unread_body` | the rest of a body after an early response |
//! | `refusal`, `h2_refusals` | heads that the HTTP library refuses |
//! | `redirect` | redirects from HTTP to HTTPS |

mod client_certificate;
pub mod connection;
mod connection_limiter;
mod gcra;
mod inherited;
mod limits;
pub mod listener;
mod scheduling;
mod snapshot;
mod socket_options;
mod unread_body;
// Public for fuzzing and for the regression tests of its findings only.
mod connection_activity;
mod guarded_io;
mod h2_executor;
mod h2_refusals;
mod in_flight;
#[doc(hidden)]
pub mod proxy_protocol;
pub mod redirect;
mod refusal;

pub use connection_limiter::{ConnectionLimiter, ConnectionLimits};
pub use inherited::{InheritedError, InheritedSockets};
pub use limits::ServerLimits;
pub use listener::{Sockets, bind};
pub use redirect::{Redirect, RedirectPort};
pub use snapshot::{CurrentSnapshot, WorkerSnapshot};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::proxy::ConnectionInfo;
use crate::telemetry::Limit;
use crate::tls::HandshakeAcceptor;

use connection_activity::ConnectionActivity;
use connection_limiter::ConnectionPermit;

/// Serves HTTPS on one listener until `stop` is cancelled. Open connections then drain by themselves.
pub async fn serve_https(
    listener: TcpListener,
    acceptor: HandshakeAcceptor,
    current: CurrentSnapshot,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    let incoming = LimitedListener { listener, current: Arc::clone(&current) };
    let handshake_gate = scheduling::handshake_gate();
    while let Some(accepted) = incoming.next(&stop).await {
        let task = connection::ClientConnection {
            current: Arc::clone(&current),
            limits: accepted.limits,
            stop: stop.clone(),
            connection: Arc::new(ConnectionInfo::new(accepted.peer)),
            activity: accepted.activity,
            permit: Arc::new(accepted.permit),
            handshake_gate: Arc::clone(&handshake_gate),
        };
        tracker.spawn(task.run(accepted.stream, acceptor.clone()));
    }
}

/// Serves redirects to HTTPS on one listener until `stop` is cancelled.
pub async fn serve_redirects(
    listener: TcpListener,
    current: CurrentSnapshot,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    let incoming = LimitedListener { listener, current: Arc::clone(&current) };
    while let Some(accepted) = incoming.next(&stop).await {
        let redirect = Arc::clone(&current.load().redirect);
        tracker.spawn(async move {
            let (mut stream, limits) = (accepted.stream, accepted.limits);
            if limits.read_proxy_header(&mut stream).await.is_none() {
                return;
            }
            tokio::select! {
                () = redirect.run(stream, &limits) => {}
                () = accepted.activity.evicted() => {}
            }
            drop(accepted.permit);
        });
    }
}

/// A listener that enforces the connection limits.
struct LimitedListener {
    listener: TcpListener,
    current: CurrentSnapshot,
}

/// An accepted connection with its permit.
struct AcceptedConnection {
    stream: TcpStream,
    peer: IpAddr,
    limits: Arc<ServerLimits>,
    activity: Arc<ConnectionActivity>,
    permit: ConnectionPermit,
}

impl LimitedListener {
    /// Returns the next connection within the limits, or `None` after `stop`.
    async fn next(&self, stop: &CancellationToken) -> Option<AcceptedConnection> {
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                accepted = listener::accept(&self.listener) => accepted,
            };
            if let Some(accepted) = self.admit(stream, peer.ip()) {
                return Some(accepted);
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: IpAddr) -> Option<AcceptedConnection> {
        let activity = Arc::new(ConnectionActivity::new());
        let snapshot = self.current.load();
        let limits = Arc::clone(&snapshot.limits);
        let is_client = !snapshot.proxy.trusted_proxies.trusts(peer);
        if limits.proxy_protocol && is_client {
            debug!(%peer, "rejected: PROXY header from an untrusted peer");
            return None;
        }
        match limits.limiter.acquire(peer, is_client, &activity) {
            Ok(permit) => Some(AcceptedConnection { stream, peer, limits, activity, permit }),
            Err(limit) => {
                reject(&limits, stream, peer, limit);
                None
            }
        }
    }
}

/// Resets the connection, which leaves no state in the process or the kernel.
fn reject(limits: &ServerLimits, stream: TcpStream, peer: IpAddr, limit: Limit) {
    limits.metrics.limit(limit, Some(peer));
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap_or_default();
}
