//! Sockets: accepting, the TLS handshake, one connection's life, draining.
//!
//! Each worker has its own listeners on the same addresses (SO_REUSEPORT), so that a connection and
//! everything it needs stay on one core. Every wait has a deadline, every connection a permit.

pub mod connection;
pub mod listener;
pub mod redirect;

pub use connection::Limits;
pub use listener::{Sockets, bind};
pub use redirect::Redirect;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;

/// Serves HTTPS on one listener until `stop`; connections end by themselves after that.
pub async fn serve_https(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    gateway: Arc<Gateway>,
    limits: Arc<Limits>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    while let Some((stream, peer, permit)) = next(&listener, &limits.connections, &stop).await {
        let connection = connection::Connection {
            gateway: Arc::clone(&gateway),
            limits: Arc::clone(&limits),
            stop: stop.clone(),
            peer: peer.ip(),
        };
        let acceptor = acceptor.clone();
        tracker.spawn(async move {
            connection.run(stream, acceptor).await;
            drop(permit);
        });
    }
}

/// Serves redirects to HTTPS on one listener until `stop`.
pub async fn serve_redirects(
    listener: TcpListener,
    redirect: Arc<Redirect>,
    limits: Arc<Limits>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    while let Some((stream, _, permit)) = next(&listener, &limits.connections, &stop).await {
        let (redirect, limits) = (Arc::clone(&redirect), Arc::clone(&limits));
        tracker.spawn(async move {
            redirect.run(stream, &limits).await;
            drop(permit);
        });
    }
}

/// The next connection with its place among the allowed ones; none once `stop` came. While all places
/// are taken, new clients wait in the kernel's queue.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(tokio::net::TcpStream, std::net::SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let accept = async {
        let permit = Arc::clone(places).acquire_owned().await.ok()?;
        let (stream, peer) = listener::accept(listener).await;
        Some((stream, peer, permit))
    };
    tokio::select! {
        () = stop.cancelled() => None,
        accepted = accept => accepted,
    }
}
