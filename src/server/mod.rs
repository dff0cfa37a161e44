//! Sockets: accepting, the TLS handshake, one connection's life, draining.
//!
//! Each worker has its own listeners on the same addresses (SO_REUSEPORT), so that a connection and
//! everything it needs stay on one core. Every wait has a deadline, every connection a place, and a
//! connection that is turned away is turned away before TLS.
//!
//! | file | what |
//! | --- | --- |
//! | `listener` | sockets |
//! | `proxy_protocol` | who the client is, by the word of a proxy that passes bytes on |
//! | `places` | who gets room, who gives it up |
//! | `connection` | one connection from handshake to end |
//! | `pulse` | its life signs: idle, late, displaced |
//! | `wire` | its bytes: slow readers, chatter |
//! | `fair` | others' turn |
//! | `streams`, `turn` | its requests |
//! | `redirect` | port 80 |

mod bucket;
pub mod connection;
mod fair;
pub mod listener;
mod places;
// For fuzzing and the replay of what it found; nothing else outside builds on it.
#[doc(hidden)]
pub mod proxy_protocol;
mod pulse;
pub mod redirect;
mod streams;
mod turn;
mod wire;

pub use connection::Limits;
pub use listener::{Sockets, bind};
pub use places::{Places, Room};
pub use redirect::Redirect;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::proxy::{Caller, Gateway};
use crate::telemetry::{Limit, Metrics};
use crate::tls::Acceptor;

use places::Place;
use pulse::Pulse;

/// Serves HTTPS on one listener until `stop`; connections end by themselves after that.
pub async fn serve_https(
    listener: TcpListener,
    acceptor: Acceptor,
    gateway: Arc<Gateway>,
    limits: Arc<Limits>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    let door = Door { listener, gateway: Arc::clone(&gateway), limits: Arc::clone(&limits) };
    let turns = fair::turns();
    while let Some(guest) = door.next(&stop).await {
        let connection = connection::Connection {
            gateway: Arc::clone(&gateway),
            limits: Arc::clone(&limits),
            stop: stop.clone(),
            caller: Arc::new(Caller::new(guest.peer)),
            pulse: guest.pulse,
            place: Arc::new(guest.place),
            turns: Arc::clone(&turns),
        };
        tracker.spawn(connection.run(guest.stream, acceptor.clone()));
    }
}

/// Serves redirects to HTTPS on one listener until `stop`.
pub async fn serve_redirects(
    listener: TcpListener,
    redirect: Arc<Redirect>,
    gateway: Arc<Gateway>,
    limits: Arc<Limits>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    let door = Door { listener, gateway, limits: Arc::clone(&limits) };
    while let Some(guest) = door.next(&stop).await {
        let (redirect, limits) = (Arc::clone(&redirect), Arc::clone(&limits));
        tracker.spawn(async move {
            let mut stream = guest.stream;
            if introduced(&limits, &mut stream).await.is_none() {
                return;
            }
            tokio::select! {
                () = redirect.run(stream, &limits) => {}
                () = guest.pulse.displaced() => {}
            }
            drop(guest.place);
        });
    }
}

/// Who the client is: `None` for the peer itself. Empty where nobody was introduced who had to be.
async fn introduced(limits: &Limits, stream: &mut TcpStream) -> Option<Option<IpAddr>> {
    if !limits.proxy_protocol {
        return Some(None);
    }
    match timeout(limits.allowed.handshake_timeout, proxy_protocol::read(stream)).await {
        Ok(Ok(client)) => Some(client),
        Ok(Err(error)) => {
            debug!(%error, "no PROXY header");
            None
        }
        Err(_) => {
            debug!("a PROXY header took too long");
            None
        }
    }
}

/// One listener and who may come in through it.
struct Door {
    listener: TcpListener,
    gateway: Arc<Gateway>,
    limits: Arc<Limits>,
}

/// A connection that has a place.
struct Guest {
    stream: TcpStream,
    peer: IpAddr,
    pulse: Arc<Pulse>,
    place: Place,
}

impl Door {
    /// The next connection that there is room for; none once `stop` came.
    async fn next(&self, stop: &CancellationToken) -> Option<Guest> {
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                accepted = listener::accept(&self.listener) => accepted,
            };
            if let Some(guest) = self.admit(stream, peer.ip()) {
                return Some(guest);
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: IpAddr) -> Option<Guest> {
        let pulse = Arc::new(Pulse::new());
        let is_client = !self.gateway.trusted.trusts(peer);
        if self.limits.proxy_protocol && is_client {
            debug!(%peer, "not a trusted proxy: its word about a client counts for nothing");
            return None;
        }
        match self.limits.places.admit(peer, is_client, &pulse) {
            Ok(place) => Some(Guest { stream, peer, pulse, place }),
            Err(limit) => {
                self.turn_away(stream, peer, limit);
                None
            }
        }
    }

    /// A reset leaves nothing behind, neither here nor in the kernel.
    fn turn_away(&self, stream: TcpStream, peer: IpAddr, limit: Limit) {
        self.metrics().limit(limit, Some(peer));
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap_or_default();
    }

    fn metrics(&self) -> &Metrics {
        &self.gateway.guard.shared().metrics
    }
}
